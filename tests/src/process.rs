//! Child processes with a time limit, of which nothing survives.
//!
//! The principle: whoever starts a process answers for all its descendants. The harness makes itself a child subreaper
//! (`prctl(2)`), so that a daemonized grandchild becomes its own child instead of init's, and [`run`] ends every process
//! that a command has left behind, naming it in the result.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How long the pipes of an ended command may stay open before their readers are abandoned.
const DRAIN: Duration = Duration::from_secs(2);

/// Which of a command's two outputs a chunk came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited with this status.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was killed at its time limit.
    TimedOut,
    /// It could not be observed to the end: the machine it ran on went away.
    Lost,
}

impl End {
    /// The end as a shell reports it, where there is one: `128 + n` for a signal.
    pub fn shell_status(self) -> Option<i32> {
        match self {
            End::Exit(status) => Some(status),
            End::Signal(signal) => Some(128 + signal),
            End::TimedOut | End::Lost => None,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(status) => write!(f, "exit status {status}"),
            End::Signal(signal) => write!(f, "killed by signal {signal}"),
            End::TimedOut => write!(f, "killed at its time limit"),
            End::Lost => write!(f, "lost with its machine"),
        }
    }
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
    /// The processes it left behind (pid and command line), which have been killed.
    pub left_behind: Vec<String>,
}

impl Finished {
    /// Standard output as text, invalid UTF-8 replaced.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text, invalid UTF-8 replaced.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether it exited with status 0.
    pub fn ok(&self) -> bool {
        self.end == End::Exit(0)
    }
}

/// A thing that children may still be needed by when a command ends, and so must not be killed as left over.
#[derive(Clone, Debug, Default)]
pub struct Keep(BTreeSet<i32>);

impl Keep {
    /// Every present descendant of this process: what is there before a command starts is not the command's.
    pub fn present() -> Keep {
        Keep(descendants(std::process::id() as i32).into_iter().collect())
    }
}

/// Makes this process the parent of its orphaned descendants.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Runs a command with `stdin` on its standard input, for at most `limit`, and ends whatever it leaves behind.
///
/// The caller must be a subreaper ([`become_subreaper`]), else daemonized descendants escape. Errors are those of starting it.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> io::Result<Finished> {
    run_streaming(command, stdin, limit, &mut |_, _| ())
}

/// As [`run`], and shows its output as it comes. That it did not succeed is an error, which `what` begins.
pub fn show(what: &str, command: &mut Command, limit: Duration) -> io::Result<()> {
    let done = run_streaming(command, b"", limit, &mut |_, bytes| {
        let _ = io::stdout().write_all(bytes);
    })?;
    if done.ok() { Ok(()) } else { Err(io::Error::other(format!("{what}: {}", done.end))) }
}

/// As [`run`], and hands each chunk of output to `on_output` as it comes.
pub fn run_streaming(
    command: &mut Command,
    stdin: &[u8],
    limit: Duration,
    on_output: &mut dyn FnMut(Stream, &[u8]),
) -> io::Result<Finished> {
    enum Event {
        Output(Stream, Vec<u8>),
        Closed,
        Ended(io::Result<ExitStatus>),
    }

    let keep = Keep::present();
    let started = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = child.id() as i32;
    let (tx, rx) = mpsc::channel();

    let pipes: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
        (Stream::Stdout, child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>)),
        (Stream::Stderr, child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>)),
    ];
    for (stream, pipe) in pipes {
        let Some(mut pipe) = pipe else { continue };
        let tx = tx.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                if tx.send(Event::Output(stream, chunk[..n].to_vec())).is_err() {
                    return;
                }
            }
            let _ = tx.send(Event::Closed);
        });
    }
    if let Some(mut pipe) = child.stdin.take() {
        let bytes = stdin.to_vec();
        // A command need not read its input: EPIPE is its business.
        thread::spawn(move || pipe.write_all(&bytes));
    }
    thread::spawn({
        let tx = tx.clone();
        move || tx.send(Event::Ended(child.wait()))
    });
    drop(tx);

    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    let mut timed_out = false;
    let mut status = None;
    let mut open = 2;
    let mut left_behind = Vec::new();
    let mut deadline = started + limit;
    let mut elapsed = Duration::ZERO;
    while status.is_none() || open > 0 {
        match rx.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Output(stream, chunk)) => {
                on_output(stream, &chunk);
                match stream {
                    Stream::Stdout => stdout.extend_from_slice(&chunk),
                    Stream::Stderr => stderr.extend_from_slice(&chunk),
                }
            }
            Ok(Event::Closed) => open -= 1,
            Ok(Event::Ended(ended)) => {
                status = Some(ended?);
                elapsed = started.elapsed();
                // What remains now holds the pipes open at worst; with it gone they close.
                left_behind.extend(end_strays(&keep));
                deadline = Instant::now() + DRAIN;
            }
            Err(RecvTimeoutError::Timeout) if status.is_none() => {
                timed_out = true;
                kill_tree(pid);
                deadline = Instant::now() + DRAIN;
                if timed_out && started.elapsed() > limit + 4 * DRAIN {
                    return Err(io::Error::other("a killed command does not end"));
                }
            }
            // An escaped holder of a pipe, or all senders gone: what has been read is what there is.
            Err(_) => break,
        }
    }
    if timed_out {
        left_behind.clear();
    }
    let end = match status {
        _ if timed_out => End::TimedOut,
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => End::Exit(code),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::Lost,
        },
        None => End::Lost,
    };
    Ok(Finished { end, stdout, stderr, elapsed, left_behind })
}

/// Kills the process and all its descendants, leaves first reached again until none is left, and does not wait for the root.
pub fn kill_tree(root: i32) {
    // The root first: if it is a subreaper its children go to us, and if it forks it cannot refill the tree.
    for _ in 0..50 {
        let below = descendants(root);
        for pid in below.iter().rev() {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if below.is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let _ = kill(Pid::from_raw(root), Signal::SIGKILL);
}

/// Ends and reaps every descendant of this process that is not in `keep`; names those that were still running.
pub fn end_strays(keep: &Keep) -> Vec<String> {
    let own = std::process::id() as i32;
    let mut named = Vec::new();
    let mut seen = BTreeSet::new();
    // A process that has just been told to end (by a pipe's closing, by its parent's death) may take a moment to do so;
    // only what is there after that counts as left behind.
    for round in 0..500 {
        let strays: Vec<i32> =
            descendants(own).into_iter().filter(|pid| !keep.0.contains(pid)).collect();
        if strays.is_empty() {
            break;
        }
        for pid in strays {
            let reaped =
                waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
            if matches!(reaped, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))) {
                continue;
            }
            if round >= 50 {
                if seen.insert(pid) && !matches!(state_of(pid), None | Some('Z')) {
                    named.push(format!("{pid} ({})", command_line(pid)));
                }
                if !matches!(kill(Pid::from_raw(pid), Signal::SIGKILL), Ok(()) | Err(Errno::ESRCH))
                {
                    named.push(format!("{pid} cannot be killed"));
                }
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    named
}

/// All descendants of a process, parents before children.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    if let Ok(entries) = fs::read_dir("/proc") {
        for entry in entries.flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
                && let Some(parent) = stat_field(pid, 1).and_then(|field| field.parse::<i32>().ok())
            {
                parents.push((pid, parent));
            }
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![root];
    while let Some(parent) = queue.pop() {
        for (pid, _) in parents.iter().filter(|(_, p)| *p == parent) {
            found.push(*pid);
            queue.push(*pid);
        }
    }
    found
}

/// The command line of a process, or its name in brackets.
pub fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " ");
    if line.is_empty() {
        format!("[{}]", fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim())
    } else {
        line
    }
}

/// A process's state letter (`proc(5)`), if the process exists.
pub fn state_of(pid: i32) -> Option<char> {
    stat_field(pid, 0).and_then(|field| field.chars().next())
}

/// What names that this process makes begin with (`rw-PID-BEGIN-`), so that they are nobody else's: ids of processes come again
/// within one run of the tests, but not together with the tick of the boot in which a process began.
pub fn own_names() -> &'static str {
    static NAMES: OnceLock<String> = OnceLock::new();
    NAMES.get_or_init(|| {
        let pid = std::process::id();
        // Field 22 of proc(5), `starttime`.
        let began = i32::try_from(pid).ok().and_then(|pid| stat_field(pid, 19));
        format!("rw-{pid}-{}-", began.unwrap_or_default())
    })
}

/// A field of `/proc/PID/stat`, counted from the state (field 3 of `proc(5)`) as 0; the name before it may contain anything.
fn stat_field(pid: i32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(index).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn names_are_of_this_process_and_its_beginning() {
        let names = own_names();
        let numbers: Vec<u64> = names.split('-').filter_map(|part| part.parse().ok()).collect();
        assert_eq!(numbers.first(), Some(&u64::from(std::process::id())), "{names}");
        assert!(numbers.len() == 2 && numbers[1] > 0, "{names}");
    }

    // One test: being a subreaper and having strays are properties of the whole process.
    #[test]
    fn commands_and_what_they_leave() {
        become_subreaper().unwrap();
        let done =
            run(&mut sh("cat; echo no >&2; exit 3"), b"yes", Duration::from_secs(20)).unwrap();
        assert_eq!(
            (done.end, done.out().as_str(), done.err().as_str()),
            (End::Exit(3), "yes", "no\n")
        );
        assert!(done.left_behind.is_empty());

        let done = run(&mut sh("kill -9 $$"), b"", Duration::from_secs(20)).unwrap();
        assert_eq!(done.end, End::Signal(9));

        let done =
            run(&mut sh("echo begun; sleep 1000 & sleep 1000"), b"", Duration::from_millis(300))
                .unwrap();
        assert_eq!((done.end, done.out().as_str()), (End::TimedOut, "begun\n"));

        let done =
            run(&mut sh("(setsid sleep 1000 &) ; exit 0"), b"", Duration::from_secs(20)).unwrap();
        assert_eq!(done.end, End::Exit(0));
        assert!(
            matches!(done.left_behind.as_slice(), [one] if one.contains("sleep 1000")),
            "{:?}",
            done.left_behind
        );
        assert!(descendants(std::process::id() as i32).is_empty());
    }
}
