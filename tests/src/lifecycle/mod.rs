//! Life cycle of containers and bad input, as a person or a container manager at the command line meets them.
//!
//! runc is the reference: every test also passes with it in the runtime's place, but for those that are Ringwall's own, which
//! say so and are skipped. Each test ends with the check that nothing is left: no process, no mount, no state.

mod bad_input;
mod calls;
mod cgroups;
mod concurrent;
mod control;
mod deaths;
mod details;
mod exec;
mod faults;
mod fields;
mod full;
mod hooks;
mod kills;
mod limits;
mod machine;
mod mounts;
mod pods;
mod seccomp;
mod states;
mod streams;
mod systemd;
mod terminals;
mod values;
mod wall;

pub use calls::for_vm as answers_for_vm;
pub use systemd::is_with as systemd_is_with;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bundle::{self, Bundle};
use crate::case::{Place, Verdict};
use crate::process::{self, End, Finished, Keep};
use crate::runtime::Scratch;

/// Why a test failed, or does not apply.
enum Stop {
    Failed(String),
    Skipped(String),
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(format!("the test itself: {error}"))
    }
}

type Outcome = Result<(), Stop>;

type Test = (&'static str, fn(&Context) -> Outcome);

/// Fails the test unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::lifecycle::Stop::Failed(format!($($text)+)));
        }
    };
}
use ensure;

/// The tests' names.
pub fn names() -> Vec<String> {
    tests().map(|(name, _)| name.to_owned()).collect()
}

fn tests() -> impl Iterator<Item = Test> {
    [
        states::TESTS,
        streams::TESTS,
        control::TESTS,
        exec::TESTS,
        faults::TESTS,
        kills::TESTS,
        concurrent::TESTS,
        full::TESTS,
        fields::TESTS,
        hooks::TESTS,
        terminals::TESTS,
        values::TESTS,
        bad_input::TESTS,
        deaths::TESTS,
        details::TESTS,
        limits::TESTS,
        cgroups::TESTS,
        mounts::TESTS,
        pods::TESTS,
        seccomp::TESTS,
        calls::TESTS,
        machine::TESTS,
        systemd::TESTS,
        wall::TESTS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Runs one.
pub fn run(name: &str, place: &Place) -> io::Result<Verdict> {
    let Some((_, test)) = tests().find(|(known, _)| *known == name) else {
        return Err(io::Error::other(format!("no test named {name}")));
    };
    let keep = Keep::present();
    let mounts = mounts();
    let context = Context { place: place.clone(), scratch: Scratch::new("life")? };
    let outcome = test(&context);
    let mut left = process::end_strays(&keep);
    if let Ok(entries) = fs::read_dir(context.scratch.path().join("state")) {
        // A folder per container; runc leaves none, and a runtime's own lock files begin with a dot.
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        left.extend(
            names.filter(|name| !name.starts_with('.')).map(|name| format!("state of {name}")),
        );
    }
    let more: Vec<String> =
        self::mounts().into_iter().filter(|mount| !mounts.contains(mount)).collect();
    left.extend(more);
    left.extend(cgroups());
    Ok(match outcome {
        Err(Stop::Skipped(why)) => Verdict::Skipped(why),
        Err(Stop::Failed(why)) => Verdict::Failed(format!("{why}\n{}", context.log_tail())),
        Ok(()) if !left.is_empty() => Verdict::Failed(format!("left behind: {}", left.join(", "))),
        Ok(()) => Verdict::Passed,
    })
}

/// How long anything may take there.
fn limit(place: &Place) -> Duration {
    Duration::from_secs(20 * u64::from(place.slow))
}

/// Mount points of this process's namespace.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| format!("mount on {point}"))
        .collect()
}

/// Groups of this test's containers, by their names: others may run at the same time.
fn cgroups() -> Vec<String> {
    let own = process::own_names();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let points = table.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4));
    let mut folders: Vec<PathBuf> = points.map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        // One that goes meanwhile is not there.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(own) {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
                folders.push(entry.path());
            }
        }
    }
    found
}

/// What a test has at hand: the runtime, and a folder of its own.
struct Context {
    place: Place,
    scratch: Scratch,
}

impl Context {
    fn is_runc(&self) -> bool {
        self.place.runtime.is_runc()
    }

    /// Skips the test where it is about something that runc does not have.
    fn only_ringwall(&self) -> Outcome {
        if self.is_runc() {
            Err(Stop::Skipped("runc has nothing like it".to_owned()))
        } else {
            Ok(())
        }
    }

    /// How long anything may take.
    fn limit(&self) -> Duration {
        limit(&self.place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn text_path(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Runs a command of the runtime to its end and ends whatever it leaves.
    fn run(&self, args: &[&str]) -> Result<Finished, Stop> {
        Ok(self.place.runtime.run(self.scratch.path(), args, b"", self.limit())?)
    }

    /// Starts a command of the runtime whose container may outlive it; its outputs go to files.
    fn start(&self, args: &[&str]) -> Result<Started, Stop> {
        let mut command = self.place.runtime.command(self.scratch.path(), args);
        self.start_command(&mut command)
    }

    fn start_command(&self, command: &mut Command) -> Result<Started, Stop> {
        let number = fs::read_dir(self.scratch.path())?.count();
        let (out, err) = (self.path(&format!("out-{number}")), self.path(&format!("err-{number}")));
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        Ok(Started { child: command.spawn()?, out, err })
    }

    /// Runs a command of the runtime, leaving the container that it has started.
    fn detached(&self, args: &[&str]) -> Result<Finished, Stop> {
        self.start(args)?.end(self.limit())
    }

    /// Runs a command that must succeed, leaving what it has started.
    fn must(&self, args: &[&str]) -> Result<Finished, Stop> {
        let done = self.detached(args)?;
        ensure!(done.ok(), "{args:?}: {}: {}{}", done.end, done.out(), done.err());
        Ok(done)
    }

    /// A bundle on the busybox root that runs a shell script.
    fn bundle(&self, name: &str, script: &str) -> Result<Bundle, Stop> {
        self.bundle_with(name, &bundle::config(&["sh", "-c", script], &[]))
    }

    fn bundle_with(&self, name: &str, config: &Value) -> Result<Bundle, Stop> {
        Ok(Bundle::new(&self.path(name), &self.place.roots.join("busybox"), config)?)
    }

    /// What `state` prints of a container.
    fn state(&self, id: &str) -> Result<Value, Stop> {
        let done = self.must(&["state", id])?;
        Ok(serde_json::from_slice(&done.stdout)?)
    }

    fn status(&self, id: &str) -> Result<String, Stop> {
        let state = self.state(id)?;
        Ok(state.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Waits until a container has this status.
    fn await_status(&self, id: &str, status: &str) -> Outcome {
        self.eventually(&format!("{id} is {status}"), || Ok(self.status(id)? == status))
    }

    /// Waits until something holds.
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> Result<bool, Stop>) -> Outcome {
        let deadline = Instant::now() + self.limit();
        while !holds()? {
            ensure!(Instant::now() < deadline, "never came true: {what}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// A running command whose outputs go to files.
struct Started {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Started {
    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has written so far.
    fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits for its end, which must be a good one; what it has started goes on writing to its files.
    fn waited(mut self, limit: Duration) -> Result<Started, Stop> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(begun.elapsed() < limit, "it does not end");
            thread::sleep(Duration::from_millis(2));
        };
        let err = fs::read_to_string(&self.err)?;
        ensure!(status.success(), "{status}: {err}");
        Ok(self)
    }

    /// Waits for its end.
    fn end(mut self, limit: Duration) -> Result<Finished, Stop> {
        let begun = Instant::now();
        let end = loop {
            if let Some(status) = self.child.try_wait()? {
                use std::os::unix::process::ExitStatusExt;
                break match (status.code(), status.signal()) {
                    (Some(code), _) => End::Exit(code),
                    (None, signal) => End::Signal(signal.unwrap_or_default()),
                };
            }
            if begun.elapsed() > limit {
                process::kill_tree(self.pid());
                self.child.wait()?;
                break End::TimedOut;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let (stdout, stderr) = (fs::read(&self.out)?, fs::read(&self.err)?);
        Ok(Finished { end, stdout, stderr, elapsed: begun.elapsed(), left_behind: Vec::new() })
    }
}

/// The pid in a pid file.
fn read_pid(path: &Path) -> Result<i32, Stop> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| Stop::Failed(format!("{}: {text:?} is no pid", path.display())))
}
