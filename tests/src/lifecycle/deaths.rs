//! Processes of a container that are killed from outside: what must end with them, and what `state` and `delete` say then.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Context, Outcome, Stop, Test, ensure, read_pid};
use crate::process;

pub(super) const TESTS: &[Test] = &[
    ("deaths/stand-in", stand_in),
    ("deaths/sandbox", sandbox),
    ("deaths/gofer", gofer),
    ("deaths/foreground-command", foreground_command),
];

/// A detached container that sleeps; returns the pid that its pid file gives.
fn running(c: &Context) -> Result<i32, Stop> {
    let args =
        ["run", "--detach", "--bundle", &c.text_path("b"), "--pid-file", &c.text_path("pid"), "x"];
    c.must(&args)?;
    read_pid(&c.path("pid"))
}

/// This container's processes: all descendants, because the test is their subreaper.
fn processes() -> Vec<(i32, String)> {
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
