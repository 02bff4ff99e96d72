//! Processes of a container that are killed from outside: what must end with them, and what `state` and `delete` say then.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Context, Outcome, Stop, Test, ensure, read_pid};
use crate::process::{self, End};

pub(super) const TESTS: &[Test] = &[
    ("deaths/stand-in", stand_in),
    ("deaths/sandbox", sandbox),
    ("deaths/gofer", gofer),
    ("deaths/foreground-command", foreground_command),
    ("deaths/foreground-sandbox", foreground_sandbox),
    ("deaths/foreground-gofer", foreground_gofer),
    ("deaths/created", created),
    ("deaths/everything", everything),
    ("confinement/processes", confined_processes),
];

/// A detached container that sleeps; returns the pid that its pid file gives.
pub(super) fn running(c: &Context) -> Result<i32, Stop> {
    let args =
        ["run", "--detach", "--bundle", &c.text_path("b"), "--pid-file", &c.text_path("pid"), "x"];
    c.must(&args)?;
    read_pid(&c.path("pid"))
}

/// Sandbox and gofer live in namespaces of their own, without rights that they do not need, each thread filtered; the
/// sandbox in an empty root.
fn confined_processes(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    running(c)?;
    // What the kernel gives each role (capability numbers of capabilities(7)): the sandbox nothing, the gofer what serving
    // files as their owners takes.
    const FILES: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31;
    for (role, capabilities) in [("sandbox", 0), ("gofer", FILES)] {
        let found = processes().into_iter().find(|(_, name)| name.contains(&format!(" {role}")));
        let Some((pid, name)) = found else {
            return Err(Stop::Failed(format!("no {role}: {:?}", processes())));
        };
        for kind in ["mnt", "pid", "ipc", "uts", "net"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            let (own, its) = (of("self")?, of(&pid.to_string())?);
            ensure!(own != its, "{name}: it is in this {kind} namespace");
        }
        let descriptors = soft_limit(pid)?;
        let enough = descriptors_to_be_had()?;
        ensure!(descriptors >= enough, "{name}: {descriptors} descriptors of {enough}");
        if role == "sandbox" {
            let count = fs::read_dir(format!("/proc/{pid}/root"))?.count();
            ensure!(count == 0, "{name}: its root has {count} entries");
        }
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let of = |key: &str| {
                let line = status.lines().find(|line| line.starts_with(key));
                line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
            };
            ensure!(of("Seccomp:") == "2", "{name}: no filter:\n{status}");
            ensure!(of("NoNewPrivs:") == "1", "{name}: it may gain privileges");
            for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
                let has = u64::from_str_radix(&of(set), 16).unwrap_or(u64::MAX);
                ensure!(has & !capabilities == 0, "{name}: {set} {has:#x}");
            }
        }
    }
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// How many descriptors a process may have now.
fn soft_limit(pid: i32) -> Result<u64, Stop> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let words = line.map(str::split_whitespace).and_then(|mut words| words.nth(3));
    Ok(words.and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// What a cache of files is given of descriptors: plenty, as far as this test's process may give that.
fn descriptors_to_be_had() -> Result<u64, Stop> {
    /// CAP_SYS_RESOURCE (linux/capability.h)
    const SYS_RESOURCE: u64 = 1 << 24;
    const PLENTY: u64 = 20_000;
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let raises = u64::from_str_radix(line.trim(), 16).unwrap_or(0) & SYS_RESOURCE != 0;
    Ok(if raises { PLENTY } else { hard.min(PLENTY) })
}

/// This container's processes: all descendants, because the test is their subreaper.
pub(super) fn processes() -> Vec<(i32, String)> {
    let pids = process::descendants(std::process::id() as i32);
    pids.into_iter()
        .filter(|pid| !matches!(process::state_of(*pid), None | Some('Z')))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (pid, format!("{} {}", name.trim(), process::command_line(pid)))
        })
        .collect()
}

/// Kills the container's process whose name has this word.
fn kill_named(word: &str) -> Outcome {
    let all = processes();
    let found: Vec<&(i32, String)> = all.iter().filter(|(_, name)| name.contains(word)).collect();
    // Its helpers and stubs are its children, and after it in the list.
    let Some((pid, _)) = found.first() else {
        return Err(Stop::Failed(format!("no process is named {word}: {all:?}")));
    };
    kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    Ok(())
}

/// After a death all of the container is gone, `state` says stopped, and `delete` cleans up.
fn all_ends(c: &Context) -> Outcome {
    c.eventually("every process ends", || Ok(processes().is_empty()))?;
    ensure!(c.status("x")? == "stopped", "it is {}", c.status("x")?);
    c.must(&["delete", "x"])?;
    Ok(())
}

fn stand_in(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000 & sleep 1000")?;
    let pid = running(c)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    all_ends(c)
}

fn sandbox(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    running(c)?;
    kill_named("ringwall-sentry")?;
    all_ends(c)
}

fn gofer(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    running(c)?;
    kill_named("ringwall-gofer")?;
    all_ends(c)
}

/// runc in the foreground leaves its container; ours is the stand-in, and takes the container with it.
fn foreground_command(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "echo up; sleep 1000")?;
    let command = c.start(&["run", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("it is up", || Ok(command.out() == "up\n"))?;
    kill(Pid::from_raw(command.pid()), Signal::SIGKILL)?;
    command.end(c.limit())?;
    all_ends(c)
}

/// The command in the foreground says in one line whose process was killed, and takes everything with it.
fn foreground(c: &Context, name: &str, words: &str) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "echo up; sleep 1000 & sleep 1000")?;
    let command = c.start(&["run", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("it is up", || Ok(command.out() == "up\n"))?;
    kill_named(name)?;
    let done = command.end(c.limit())?;
    ensure!(done.end == End::Exit(137), "{}: {}", done.end, done.err());
    ensure!(
        done.err().lines().count() == 1
            && done.err().contains(words)
            && done.err().contains("killed by SIGKILL"),
        "{}",
        done.err()
    );
    ensure!(c.log_tail().contains(words), "the log says {:?}", c.log_tail());
    c.eventually("every process ends", || Ok(processes().is_empty()))?;
    let gone = c.detached(&["state", "x"])?;
    ensure!(gone.end == End::Exit(1), "its state is still there: {}", gone.out());
    Ok(())
}

fn foreground_sandbox(c: &Context) -> Outcome {
    foreground(c, "ringwall-sentry", "sandbox of container x")
}

fn foreground_gofer(c: &Context) -> Outcome {
    foreground(c, "ringwall-gofer", "file server of container x")
}

/// A container that was never started, whose stand-in is killed.
fn created(c: &Context) -> Outcome {
    let _b = c.bundle("b", "echo never")?;
    let pid_file = c.text_path("pid");
    let started =
        c.start(&["create", "--bundle", &c.text_path("b"), "--pid-file", &pid_file, "x"])?;
    let out = started.out.clone();
    ensure!(started.end(c.limit())?.ok(), "create failed");
    kill(Pid::from_raw(read_pid(&c.path("pid"))?), Signal::SIGKILL)?;
    c.await_status("x", "stopped")?;
    let late = c.detached(&["start", "x"])?;
    ensure!(late.end == End::Exit(1), "starting a dead one: {}", late.end);
    all_ends(c)?;
    ensure!(fs::read_to_string(&out)?.is_empty(), "it ran");
    Ok(())
}

/// Nobody is left who could write the state down.
fn everything(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000")?;
    let pid = running(c)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    for (pid, _) in processes() {
        // Those that have ended by themselves meanwhile are as good as killed.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    c.eventually("every process ends", || Ok(processes().is_empty()))?;
    let state = c.state("x")?;
    ensure!(state["status"] == "stopped" && state["pid"] == 0, "state: {state}");
    let list = c.must(&["list"])?.out();
    ensure!(list.contains("stopped"), "{list}");
    let again = c.detached(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(again.end == End::Exit(1), "its id was free: {}", again.end);
    let late = c.detached(&["kill", "x", "KILL"])?;
    ensure!(late.end == End::Exit(1), "killing a dead one: {}", late.end);
    c.must(&["delete", "x"])?;
    let done = c.detached(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.ok(), "its id is not free again: {}", done.err());
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}
