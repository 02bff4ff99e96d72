//! Containers with a terminal, as a shim makes them: the master comes over a console socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle;
use crate::process::End;

pub(super) const TESTS: &[Test] = &[
    ("lifecycle/terminal-lines", lines),
    ("lifecycle/terminal-job-control", job_control),
    ("lifecycle/terminal-size", size),
    ("lifecycle/terminal-hang-up", hang_up),
];

/// A terminal of a container, whose master is here.
pub(super) struct Session<'a> {
    context: &'a Context,
    pub(super) master: File,
    /// What it has written and nobody has looked at yet.
    seen: String,
}

impl<'a> Session<'a> {
    /// Creates and starts the container `x`, whose init is this script.
    fn start(context: &'a Context, script: &str) -> Result<Session<'a>, Stop> {
        let mut config = bundle::config(&["sh", "-c", script], &[("TERM", "xterm")]);
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({ "height": 30, "width": 90 });
        let _bundle = context.bundle_with("b", &config)?;
        let socket = context.text_path("console");
        let listener = UnixListener::bind(&socket)?;
        context.must(&[
            "create",
            "--bundle",
            &context.text_path("b"),
            "--console-socket",
            &socket,
            "x",
        ])?;
        let master = receive_master(&listener)?;
        context.must(&["start", "x"])?;
        Ok(Session::on(context, master))
    }

    /// On a terminal whose master this is.
    pub(super) fn on(context: &'a Context, master: File) -> Session<'a> {
        Session { context, master, seen: String::new() }
    }

    pub(super) fn type_in(&mut self, text: &str) -> Outcome {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Reads until `text` has come, and gives what came before it.
    pub(super) fn expect(&mut self, text: &str) -> Result<String, Stop> {
        let deadline = Instant::now() + self.context.limit();
        loop {
            if let Some((before, after)) = self.seen.split_once(text) {
                let before = before.to_owned();
                self.seen = after.to_owned();
                return Ok(before);
            }
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let step = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            poll(&mut fds, Some(&step)).map_err(std::io::Error::from)?;
            let mut buf = [0; 4096];
            let ready = !fds[0].revents().is_empty();
            let got = if ready { self.master.read(&mut buf).unwrap_or(0) } else { 0 };
            self.seen.push_str(&String::from_utf8_lossy(&buf[..got]));
            ensure!(
                Instant::now() < deadline,
                "{text:?} never came out of the terminal: {:?}",
                self.seen
            );
            if ready && got == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Waits for the container's end, and deletes it.
    fn end(self) -> Outcome {
        self.context.await_status("x", "stopped")?;
        self.context.must(&["delete", "x"]).map(drop)
    }
}

/// The master that comes over a console socket.
pub(super) fn receive_master(listener: &UnixListener) -> Result<File, Stop> {
    let (stream, _) = listener.accept()?;
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 256];
    let mut into = [std::io::IoSliceMut::new(&mut text)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(&stream, &mut into, &mut control, flags).map_err(std::io::Error::from)?;
    let master = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match master {
        Some(master) => Ok(File::from(master)),
        None => Err(Stop::Failed("no descriptor came over the console socket".to_owned())),
    }
}

fn lines(c: &Context) -> Outcome {
    let mut s = Session::start(
        c,
        "tty; tty </dev/console; ls -l /dev/pts/0 >/dev/null && read a && echo \"[$a]\"; \
         stty -echo; echo ready; read b; echo \"[$b]\"; stty raw; echo ready; head -c 3 | od -c; cat; echo eof",
    )?;
    s.expect("/dev/pts/0\r\n")?;
    s.type_in("abc\x7fd\x15xyz\x7f\n")?;
    let echo = s.expect("[xy]\r\n")?;
    ensure!(echo.contains("abc\u{8} \u{8}d"), "the echo was {echo:?}");
    s.expect("ready\r\n")?;
    s.type_in("secret\n")?;
    let echo = s.expect("[secret]\r\n")?;
    ensure!(!echo.contains("secret"), "echoed without echo: {echo:?}");
    s.expect("ready\n")?;
    s.type_in("\x03\x04\r")?;
    s.expect("003 004  \\r")?;
    c.must(&["kill", "x", "KILL"])?;
    s.end()
}

fn job_control(c: &Context) -> Outcome {
    let mut s = Session::start(
        c,
        "trap 'echo interrupted' INT; echo one; sleep 100; echo two; \
         set -m; sleep 200 & jobs; fg; echo three $?; exit 5",
    )?;
    s.expect("one\r\n")?;
    // The shell's child must be there to be interrupted.
    std::thread::sleep(Duration::from_millis(300 * u64::from(c.place.slow)));
    s.type_in("\x03")?;
    s.expect("^C")?;
    s.expect("interrupted\r\n")?;
    s.expect("two\r\n")?;
    s.expect("sleep 200")?;
    std::thread::sleep(Duration::from_millis(300 * u64::from(c.place.slow)));
    s.type_in("\x03")?;
    s.expect("three 130\r\n")?;
    s.end()
}

fn size(c: &Context) -> Outcome {
    let mut s = Session::start(
        c,
        "trap 'stty size' WINCH; stty size; while :; do read line; echo \"[$line]\"; done",
    )?;
    s.expect("30 90\r\n")?;
    let size = Winsize { ws_row: 41, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&s.master, size).map_err(std::io::Error::from)?;
    // The shell runs its trap when read returns.
    std::thread::sleep(Duration::from_millis(300 * u64::from(c.place.slow)));
    s.type_in("x\n")?;
    s.expect("41 101\r\n")?;
    c.must(&["kill", "x", "KILL"])?;
    s.end()
}

fn hang_up(c: &Context) -> Outcome {
    let mut s = Session::start(c, "trap 'exit 9' HUP; echo up; while :; do sleep 1; done")?;
    s.expect("up\r\n")?;
    drop(s.master);
    c.await_status("x", "stopped")?;
    let waited = c.detached(&["wait", "x"]);
    if !c.is_runc() {
        let waited = waited?;
        ensure!(
            waited.ok() && waited.out().trim() == "9",
            "{}: {}{}",
            waited.end,
            waited.out(),
            waited.err()
        );
    }
    let deleted = c.detached(&["delete", "x"])?;
    ensure!(deleted.end == End::Exit(0), "delete: {}", deleted.err());
    Ok(())
}
