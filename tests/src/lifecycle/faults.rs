//! SIGKILL at any moment of a container's making, and many lives one after the other: nothing is left.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Context, Outcome, Test, ensure};
use crate::process;

pub(super) const TESTS: &[Test] =
    &[("faults/killed-create", killed_create), ("faults/cycles", cycles)];

/// Reaps what has ended, of which nobody waits for anything.
pub(super) fn reap() {
    let ended = |end| end != WaitStatus::StillAlive;
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(ended) {}
}

/// This test's descendants that live.
fn alive() -> Vec<i32> {
    let own = std::process::id() as i32;
    process::descendants(own)
        .into_iter()
        .filter(|pid| !matches!(process::state_of(*pid), None | Some('Z')))
        .collect()
}

/// Any process of a `create`, killed at some time or other: `delete --force` leaves nothing, twice, and the id is free.
fn killed_create(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    let bundle = c.text_path("b");
    for victim in 0..5 {
        for delay in [0, 3, 6, 12, 25, 50] {
            let when = format!("process {victim} after {delay} ms");
            let started = c.start(&["create", "--bundle", &bundle, "x"])?;
            thread::sleep(Duration::from_millis(delay * u64::from(c.place.slow)));
            // Command, stand-in, sandbox, gofer and node maker, as far as they are there yet.
            if let Some(pid) = alive().get(victim) {
                let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            started.end(c.limit())?;
            for _ in 0..2 {
                let done = c.detached(&["delete", "--force", "x"])?;
                ensure!(done.ok(), "{when}: delete: {}: {}", done.end, done.err());
            }
            c.eventually(&format!("every process ends: {when}"), || {
                reap();
                Ok(alive().is_empty())
            })?;
            ensure!(!c.path("state/x").exists(), "{when}: its state is there");
        }
    }
    let done = c.run(&["run", "--bundle", &bundle, "--detach", "x"])?;
    ensure!(done.ok(), "its id is not free: {}", done.err());
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// What there is of this process: descriptors, mounts and folders of cgroups.
fn counts() -> (usize, usize, usize) {
    let list = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
    let groups = ["pids", "memory", "devices"].map(|kind| list(&format!("/sys/fs/cgroup/{kind}")));
    (list("/proc/self/fd"), mounts, groups.iter().sum::<usize>() + list("/sys/fs/cgroup"))
}

/// Whole lives one after the other leave everything where it was; `HARNESS_ROUNDS` says how many.
fn cycles(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "exit 3")?;
    let bundle = c.text_path("b");
    let rounds = std::env::var("HARNESS_ROUNDS").ok().and_then(|text| text.parse().ok());
    let cycles = rounds.unwrap_or(100 / c.place.slow.min(10));
    let before = counts();
    for n in 0..cycles {
        let id = format!("x{n}");
        c.must(&["create", "--bundle", &bundle, &id])?;
        c.must(&["start", &id])?;
        let status = c.must(&["wait", &id])?.out();
        ensure!(status == "3\n", "{id}: {status:?}");
        c.must(&["delete", &id])?;
        for entry in fs::read_dir(c.scratch.path())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("out-") || name.starts_with("err-") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    reap();
    c.eventually("every process ends", || Ok(alive().is_empty()))?;
    let after = counts();
    ensure!(after == before, "descriptors, mounts and cgroups were {before:?} and are {after:?}");
    ensure!(fs::read_dir(c.path("state"))?.count() == 0, "states are left");
    Ok(())
}
