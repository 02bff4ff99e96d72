//! Other processes in a container that is there (`exec`).

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

use super::deaths::running;
use super::terminals::{Session, receive_master};
use super::{Context, Outcome, Test, ensure, read_pid};
use crate::bundle::{self, Bundle};
use crate::process::{self, End};

pub(super) const TESTS: &[Test] = &[
    ("lifecycle/exec-exit-status", exit_status),
    ("lifecycle/exec-options", options),
    ("lifecycle/exec-process-file", process_file),
    ("lifecycle/exec-refusals", refusals),
    ("lifecycle/exec-states", states),
    ("lifecycle/exec-streams", streams),
    ("lifecycle/exec-outlived-streams", outlived_streams),
    ("lifecycle/exec-signals", signals),
    ("lifecycle/exec-detached", detached),
    ("lifecycle/exec-killed-with-its-stand-in", killed_with_its_stand_in),
    ("lifecycle/exec-ends-with-the-container", ends_with_the_container),
    ("lifecycle/exec-is-waited-for-first", waited_for_first),
    ("lifecycle/exec-many", many),
    ("lifecycle/exec-terminal", terminal),
    ("lifecycle/exec-console-socket", console_socket),
    ("lifecycle/exec-terminal-hang-up", terminal_hang_up),
];

/// Starts the container `x`, which waits until it is killed.
fn waiting(c: &Context) -> Result<Bundle, super::Stop> {
    let bundle = c.bundle("b", "while :; do sleep 1000; done")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    Ok(bundle)
}

/// How a process has ended that a detached command has left to this one; as whoever calls a runtime so, it
/// has to wait for it.
fn end_of(c: &Context, pid: i32) -> Result<WaitStatus, super::Stop> {
    let mut end = WaitStatus::StillAlive;
    c.eventually(&format!("process {pid} has ended"), || {
        end = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG))?;
        Ok(end != WaitStatus::StillAlive)
    })?;
    Ok(end)
}

/// Ends and deletes it.
fn remove(c: &Context) -> Outcome {
    c.must(&["delete", "--force", "x"]).map(drop)
}

fn exit_status(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    for (script, status) in [
        ("exit 0", 0),
        ("exit 37", 37),
        ("exit 255", 255),
        // Not an init: it dies of it.
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        // It is no child of anybody's inside, and leads a session and a group.
        (
            "[ $PPID = 0 ] && read pid a b parent group session rest </proc/$$/stat && [ $parent = 0 ] && [ $group = $$ ] && [ $session = $$ ]",
            0,
        ),
        // But it sees the others, as root of the same files.
        (
            "[ $$ -gt 1 ] && kill -0 1 && [ -e /proc/1/status ] && echo exec >/f && [ \"$(hostname)\" = container ]",
            0,
        ),
        // Its orphans are init's.
        (
            "sh -c 'sleep 50 >/dev/null 2>&1 & exit 0'; ps -o ppid,args | grep -q '^ *1 .*sleep 50'",
            0,
        ),
    ] {
        let done = c.detached(&["exec", "x", "sh", "-c", script])?;
        ensure!(
            done.end == End::Exit(status),
            "{script}: {}, should exit with {status}: {}",
            done.end,
            done.err()
        );
    }
    ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
    remove(c)
}

fn options(c: &Context) -> Outcome {
    let mut config =
        bundle::config(&["sh", "-c", "while :; do sleep 1000; done"], &[("OWN", "config")]);
    config["process"]["cwd"] = json!("/var");
    config["process"]["user"]["additionalGids"] = json!([7]);
    let _b = c.bundle_with("b", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "pwd; echo $OWN; id -u; id -g; id -G", "/var\nconfig\n0\n0\n0 7\n"),
        (&["--cwd", "/tmp"], "pwd", "/tmp\n"),
        (&["-e", "A=b c", "-e", "OWN=mine"], "echo $A; echo $OWN", "b c\nmine\n"),
        (&["--env", "HOME="], "echo $HOME", "/root\n"),
        (&["-u", "1000"], "id -u; id -g; id -G", "1000\n0\n0 7\n"),
        (&["--user", "1000:1001"], "id -u; id -g; id -G", "1000\n1001\n1001 7\n"),
        (&["-g", "8", "-g", "9"], "id -G", "0 7 8 9\n"),
        (&[], "grep -c 'CapEff:.*00000000a80425fb' /proc/self/status", "1\n"),
        (
            &["--cap", "CAP_SYS_ADMIN"],
            "grep -E 'Cap(Eff|Bnd|Inh)' /proc/self/status | cut -f 2",
            "0000000000000000\n00000000a82425fb\n00000000a82425fb\n",
        ),
        (
            &["-u", "1000"],
            "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f 2",
            "0000000000000000\n00000000a80425fb\n",
        ),
        (&[], "grep NoNewPrivs /proc/self/status | cut -f 2", "1\n"),
        (&["--no-new-privs=false"], "grep NoNewPrivs /proc/self/status | cut -f 2", "0\n"),
        (&[], "umask; ulimit -n; tty", "0022\n1024\nnot a tty\n"),
    ];
    for (options, script, expected) in cases {
        let mut args = vec!["exec"];
        args.extend_from_slice(options);
        args.extend(["x", "sh", "-c", script]);
        let done = c.detached(&args)?;
        // runc adds HOME where it is not there, and takes an empty one for none.
        ensure!(
            done.out() == *expected,
            "{args:?}: {}: {:?}, should be {expected:?}: {}",
            done.end,
            done.out(),
            done.err()
        );
    }
    remove(c)
}

fn process_file(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let process = json!({
        "args": ["sh", "-c", "pwd; echo $A; echo $TERM; id -u; id -g; grep CapEff /proc/self/status | cut -f 2"],
        "env": ["PATH=/bin:/usr/bin", "A=b"],
        "cwd": "/tmp",
        "user": { "uid": 0, "gid": 4 },
        "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] },
    });
    fs::write(c.path("process.json"), process.to_string())?;
    let file = c.text_path("process.json");
    // The options about the process mean nothing then, nor does a command.
    for args in [
        &["exec", "--process", &file, "x"][..],
        &["exec", "-p", &file, "--cwd", "/var", "-e", "A=c", "x", "true"],
    ] {
        let done = c.detached(args)?;
        let expected = "/tmp\nb\n\n0\n4\n0000000000000020\n";
        ensure!(
            done.ok() && done.out() == expected,
            "{args:?}: {}: {:?}: {}",
            done.end,
            done.out(),
            done.err()
        );
    }
    for text in [
        "{",
        "[]",
        "{\"args\":[],\"cwd\":\"/\"}",
        "{\"args\":[\"ls\"]}",
        "{\"args\":[\"ls\"],\"cwd\":\"x\"}",
    ] {
        fs::write(c.path("process.json"), text)?;
        let done = c.detached(&["exec", "--process", &file, "x"])?;
        ensure!(done.end == End::Exit(255), "{text}: {}: {}", done.end, done.err());
    }
    remove(c)
}

fn refusals(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let socket = c.text_path("nobody");
    let file = c.text_path("nothing");
    // A shell's, which tell what went wrong; runc has one for everything.
    let (missing, not_run) = if c.is_runc() { (255, 255) } else { (127, 126) };
    let cases: &[(&[&str], i32, &str)] = &[
        (&["exec", "x", "nosuch"], missing, "executable file not found in $PATH"),
        (&["exec", "x", "/nosuch"], missing, "no such file or directory"),
        (&["exec", "x", "/etc"], not_run, "permission denied"),
        (&["exec", "x", "/etc/passwd"], not_run, "permission denied"),
        (&["exec", "x"], 255, "process args cannot be empty"),
        (&["exec", "nobody", "true"], 255, "container does not exist"),
        (&["exec", "--cwd", "/nosuch", "x", "true"], 255, "/nosuch"),
        (&["exec", "--cwd", "rel", "x", "true"], 255, "must be an absolute path"),
        (&["exec", "--user", "root", "x", "true"], 255, "root"),
        (&["exec", "--additional-gids", "-1", "x", "true"], 255, "must be a positive number -1"),
        (&["exec", "--console-socket", &socket, "x", "true"], 255, "cannot use"),
        (&["exec", "-d", "-t", "x", "true"], 255, "cannot allocate tty"),
        (&["exec", "-d", "-t", "--console-socket", &socket, "x", "true"], 255, "no such file"),
        (&["exec", "--process", &file, "x"], 255, "no such file"),
        (&["exec", "--nosuch", "x", "true"], 1, "nosuch"),
        (&["exec"], 1, ""),
    ];
    let mut before = 0;
    for (args, status, text) in cases {
        let done = c.detached(args)?;
        let log = fs::read_to_string(c.path("log")).unwrap_or_default();
        let new = log.get(before..).unwrap_or_default();
        before = log.len();
        let said = format!("{new}{}{}", done.out(), done.err()).to_lowercase();
        ensure!(
            done.end == End::Exit(*status) && said.contains(&text.to_lowercase()),
            "{args:?}: {}, should exit with {status} and say {text:?}: {said}",
            done.end
        );
    }
    if !c.is_runc() {
        // runc would take the terminal of whoever runs the tests.
        let done = c.detached(&["exec", "-t", "x", "true"])?;
        ensure!(
            done.end == End::Exit(255) && c.log_tail().contains("no standard stream is a terminal"),
            "exec -t: {}: {}",
            done.end,
            c.log_tail()
        );
    }
    // None of it has harmed the container.
    c.must(&["exec", "x", "true"])?;
    remove(c)
}

fn states(c: &Context) -> Outcome {
    let _b = c.bundle("b", "[ -e /made ] && exit 4")?;
    c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
    // The init waits, and everything else is there.
    let done =
        c.detached(&["exec", "x", "sh", "-c", "touch /made; ps -o pid | grep -c '^ *1$'"])?;
    ensure!(done.ok() && done.out() == "1\n", "in a created one: {}: {}", done.end, done.err());
    ensure!(c.status("x")? == "created", "it is {}", c.status("x")?);
    c.must(&["start", "x"])?;
    c.await_status("x", "stopped")?;
    let done = c.detached(&["exec", "x", "true"])?;
    ensure!(done.end == End::Exit(255), "in a stopped one: {}: {}", done.end, done.err());
    let said = c.log_tail();
    ensure!(said.contains("cannot exec in a stopped container"), "it said {said}");
    c.must(&["delete", "x"])?;
    Ok(())
}

fn streams(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let script =
        "cat; echo to-stderr >&2; head -c 2000000 /dev/zero | tr '\\0' z; echo end >/dev/stderr";
    let input = vec![b'i'; 300_000];
    let args = ["exec", "x", "sh", "-c", script];
    let done = c.place.runtime.run(c.scratch.path(), &args, &input, c.limit())?;
    ensure!(done.ok() && done.err() == "to-stderr\nend\n", "{}: {:?}", done.end, done.err());
    ensure!(done.stdout.len() == 2_300_000, "{} bytes came out", done.stdout.len());
    ensure!(
        done.stdout.iter().filter(|b| **b == b'z').count() == 2_000_000,
        "the bytes are not what was written"
    );
    remove(c)
}

/// Streams stay for whom the process leaves them to, and close with the last one.
fn outlived_streams(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let fifo = c.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    let script = "(sleep 0.3; echo late; sleep 0.3) & echo now";
    // Opened both ways so that this does not wait; the writer that counts is the container's.
    let both = File::options().read(true).write(true).open(&fifo)?;
    let mut command = c.place.runtime.command(c.scratch.path(), &["exec", "x", "sh", "-c", script]);
    let reader = File::open(&fifo)?;
    command
        .stdin(Stdio::null())
        .stdout(File::options().write(true).open(&fifo)?)
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    drop((both, command));
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _gone = send.send(std::io::read_to_string(reader));
    });
    let Ok(text) = receive.recv_timeout(c.limit()) else {
        return Err(super::Stop::Failed("the pipe is never closed".to_owned()));
    };
    let text = text?;
    ensure!(text == "now\nlate\n", "it wrote {text:?}");
    remove(c)
}

fn signals(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let script = "trap 'echo usr2' USR2; trap 'echo term; exit 12' TERM; echo up; while :; do sleep 0.1; done";
    let running = c.start(&["exec", "x", "sh", "-c", script])?;
    c.eventually("it is up", || Ok(running.out().contains("up")))?;
    kill(Pid::from_raw(running.pid()), Signal::SIGUSR2)?;
    c.eventually("SIGUSR2 arrives", || Ok(running.out().contains("usr2")))?;
    kill(Pid::from_raw(running.pid()), Signal::SIGTERM)?;
    let done = running.end(c.limit())?;
    ensure!(
        done.end == End::Exit(12) && done.out() == "up\nusr2\nterm\n",
        "{}: {}",
        done.end,
        done.out()
    );
    // What is sent to the container is init's alone.
    let running = c.start(&["exec", "x", "sh", "-c", script])?;
    c.eventually("it is up", || Ok(running.out().contains("up")))?;
    c.must(&["kill", "x", "USR2"])?;
    c.must(&["exec", "x", "true"])?;
    ensure!(running.out() == "up\n", "it got a signal of init's: {}", running.out());
    kill(Pid::from_raw(running.pid()), Signal::SIGTERM)?;
    ensure!(running.end(c.limit())?.end == End::Exit(12), "it has not ended of SIGTERM");
    remove(c)
}

fn detached(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let script = "trap 'echo got; exit 5' HUP; echo up; while :; do sleep 0.1; done";
    let pid_file = c.text_path("pid");
    let started = c.start(&["exec", "-d", "--pid-file", &pid_file, "x", "sh", "-c", script])?;
    let out = started.out.clone();
    let done = started.end(c.limit())?;
    ensure!(done.ok(), "exec -d: {}: {}", done.end, done.err());
    c.eventually("it is up", || Ok(fs::read_to_string(&out)?.contains("up")))?;
    let pid = read_pid(&c.path("pid"))?;
    ensure!(process::state_of(pid).is_some(), "the pid {pid} is nobody's");
    kill(Pid::from_raw(pid), Signal::SIGHUP)?;
    let end = end_of(c, pid)?;
    ensure!(end == WaitStatus::Exited(Pid::from_raw(pid), 5), "it ended so: {end:?}");
    ensure!(fs::read_to_string(&out)? == "up\ngot\n", "it wrote {:?}", fs::read_to_string(&out)?);
    let failed = c.detached(&["exec", "-d", "--pid-file", &pid_file, "x", "nosuch"])?;
    let missing = if c.is_runc() { 255 } else { 127 };
    ensure!(failed.end == End::Exit(missing), "exec -d of nothing: {}", failed.end);
    ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
    remove(c)
}

fn killed_with_its_stand_in(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let pid_file = c.text_path("pid");
    c.must(&["exec", "-d", "--pid-file", &pid_file, "x", "sleep", "4321"])?;
    let there =
        || Ok(c.detached(&["exec", "x", "sh", "-c", "ps -o args | grep -q '^sleep 4321'"])?.ok());
    c.eventually("it runs", there)?;
    let pid = read_pid(&c.path("pid"))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    end_of(c, pid)?;
    c.eventually("it is gone", || Ok(!there()?))?;
    remove(c)
}

fn ends_with_the_container(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let foreground = c.start(&[
        "exec",
        "x",
        "sh",
        "-c",
        "trap '' TERM HUP; echo up; while :; do sleep 1; done",
    ])?;
    let pid_file = c.text_path("pid");
    c.must(&["exec", "-d", "--pid-file", &pid_file, "x", "sleep", "1000"])?;
    let pid = read_pid(&c.path("pid"))?;
    c.eventually("it is up", || Ok(foreground.out().contains("up")))?;
    c.must(&["kill", "x", "KILL"])?;
    let done = foreground.end(c.limit())?;
    ensure!(done.end == End::Exit(137), "{}: {}", done.end, done.err());
    let end = end_of(c, pid)?;
    ensure!(
        matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "the other ended so: {end:?}"
    );
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    Ok(())
}

/// Whoever waits for both hears of the end of an exec before that of its container.
fn waited_for_first(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000")?;
    let init = running(c)?;
    let pid_file = c.text_path("exec");
    c.must(&["exec", "-d", "--pid-file", &pid_file, "x", "sleep", "1000"])?;
    let pid = read_pid(&c.path("exec"))?;
    c.must(&["kill", "x", "KILL"])?;
    let ended = |pid, how| {
        let how = how | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(pid)), how)
    };
    ended(pid, WaitPidFlag::empty())?;
    // Long enough for whoever does not wait.
    thread::sleep(Duration::from_millis(300));
    let early = ended(init, WaitPidFlag::WNOHANG)?;
    ensure!(early == WaitStatus::StillAlive, "its container has ended before: {early:?}");
    end_of(c, pid)?;
    let end = end_of(c, init)?;
    ensure!(matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "it ended so: {end:?}");
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    Ok(())
}

/// One after the other and several at once: none is taken for another.
fn many(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let numbers = ["3", "4", "5", "6", "7"];
    for _ in 0..3 {
        let mut all = Vec::new();
        for n in numbers {
            all.push((n, c.start(&["exec", "x", "sh", "-c", &format!("echo {n}; exit {n}")])?));
        }
        for (n, started) in all {
            let done = started.end(c.limit())?;
            ensure!(
                done.end == End::Exit(n.parse().unwrap_or(-1)) && done.out().trim() == n,
                "{n}: {}: {:?}: {}",
                done.end,
                done.out(),
                done.err()
            );
        }
    }
    let left = c.detached(&["exec", "x", "sh", "-c", "ps -o args | grep -c '[e]cho'"])?;
    ensure!(left.out() == "0\n", "processes are left: {}", left.out());
    remove(c)
}

/// A new terminal of this machine: its master, and the other side.
fn pseudo_terminal() -> Result<(File, File), super::Stop> {
    let io = |e: rustix::io::Errno| std::io::Error::from(e);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map_err(io)?;
    grantpt(&master).map_err(io)?;
    unlockpt(&master).map_err(io)?;
    let name = ptsname(&master, Vec::new()).map_err(io)?;
    let path = name.to_string_lossy().into_owned();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let slave = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(io)?;
    Ok((File::from(master), File::from(slave)))
}

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn terminal(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let (master, slave) = pseudo_terminal()?;
    let io = |e: rustix::io::Errno| std::io::Error::from(e);
    tcsetwinsize(&master, window(33, 77)).map_err(io)?;
    let script = "tty; trap 'stty size' WINCH; trap : INT; sh -c 'echo up; read x; echo [$x]'; stty size; \
                  set -m; sleep 100; echo one $?; sleep 100; echo two $?; fg; echo three $?; \
                  until [ \"$line\" = y ]; do read line; done; echo \"[$line]\"; exit 6";
    let args = ["exec", "-t", "x", "sh", "-c", script];
    let mut command = c.place.runtime.command(c.scratch.path(), &args);
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
    let mut child = command.spawn()?;
    drop(command);
    let mut s = Session::on(c, master);
    s.expect("/dev/pts/0\r\n")?;
    s.expect("up\r\n")?;
    let raw = tcgetattr(&slave).map_err(io)?;
    ensure!(!raw.local_modes.contains(LocalModes::ICANON), "the caller's terminal is not raw");
    s.type_in("a\x7fb\n")?;
    s.expect("[b]\r\n")?;
    s.expect("33 77\r\n")?;
    let pause =
        || std::thread::sleep(std::time::Duration::from_millis(300 * u64::from(c.place.slow)));
    // Each sleeping child must be there to be interrupted.
    pause();
    s.type_in("\x03")?;
    s.expect("one 130\r\n")?;
    pause();
    s.type_in("\x1a")?;
    s.expect("two 148\r\n")?;
    s.expect("sleep 100")?;
    pause();
    s.type_in("\x03")?;
    s.expect("three 130\r\n")?;
    tcsetwinsize(&s.master, window(20, 50)).map_err(io)?;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGWINCH)?;
    pause();
    s.type_in("x\n")?;
    s.expect("20 50\r\n")?;
    s.type_in("y\n")?;
    s.expect("[y]\r\n")?;
    let status = child.wait()?;
    ensure!(status.code() == Some(6), "{status}");
    let restored = tcgetattr(&slave).map_err(io)?;
    ensure!(
        restored.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO),
        "the modes are not restored"
    );
    // Its name has gone with it.
    c.must(&["exec", "x", "sh", "-c", "[ ! -e /dev/pts/0 ]"])?;
    remove(c)
}

fn console_socket(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let socket = c.text_path("console");
    let listener = UnixListener::bind(&socket)?;
    let pid_file = c.text_path("pid");
    let script = "tty; trap 'stty size' WINCH; echo up; until [ \"$line\" = end ]; do read line; echo \"[$line]\"; done; seq 1 3000; exit 3";
    let exec = ["exec", "-d", "-t", "--console-socket", &socket, "--pid-file", &pid_file];
    c.must(&[&exec[..], &["x", "sh", "-c", script]].concat())?;
    let pid = read_pid(&c.path("pid"))?;
    let mut s = Session::on(c, receive_master(&listener)?);
    s.expect("/dev/pts/0\r\n")?;
    s.expect("up\r\n")?;
    tcsetwinsize(&s.master, window(41, 101)).map_err(std::io::Error::from)?;
    std::thread::sleep(std::time::Duration::from_millis(300 * u64::from(c.place.slow)));
    s.type_in("x\n")?;
    s.expect("41 101\r\n")?;
    // A second one is another terminal.
    c.must(&[&exec[..], &["x", "sh", "-c", "tty; sleep 1000"]].concat())?;
    let mut other = Session::on(c, receive_master(&listener)?);
    other.expect("/dev/pts/1\r\n")?;
    // What is written last, and more than a terminal takes at once, comes out.
    s.type_in("end\n")?;
    s.expect("2999\r\n3000\r\n")?;
    let end = end_of(c, pid)?;
    ensure!(end == WaitStatus::Exited(Pid::from_raw(pid), 3), "it ended so: {end:?}");
    c.must(&["kill", "x", "KILL"])?;
    end_of(c, read_pid(&c.path("pid"))?)?;
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    Ok(())
}

fn terminal_hang_up(c: &Context) -> Outcome {
    let _b = waiting(c)?;
    let socket = c.text_path("console");
    let listener = UnixListener::bind(&socket)?;
    let pid_file = c.text_path("pid");
    let script = "trap 'echo >/hung-up; exit 9' HUP; echo up; while :; do sleep 0.1; done";
    c.must(&[
        "exec",
        "-d",
        "-t",
        "--console-socket",
        &socket,
        "--pid-file",
        &pid_file,
        "x",
        "sh",
        "-c",
        script,
    ])?;
    let mut s = Session::on(c, receive_master(&listener)?);
    s.expect("up\r\n")?;
    let pid = read_pid(&c.path("pid"))?;
    drop(s);
    let end = end_of(c, pid)?;
    ensure!(end == WaitStatus::Exited(Pid::from_raw(pid), 9), "it ended so: {end:?}");
    c.must(&["exec", "x", "sh", "-c", "[ -e /hung-up ] && [ ! -e /dev/pts/0 ]"])?;
    remove(c)
}
