//! SIGKILL at every step of `create`, `run`, `start`, `exec` and `delete`, and of each process while they are at work: nothing is left, what
//! `state` says is so, and the command can be given again.
//!
//! A step is a system call of the command that somebody else can see anything of: it is traced, and killed on the way into
//! the first of them, in the next life into the second, and so on until it comes to its end.

use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::deaths::processes;
use super::{Context, Outcome, Started, Stop, Test, ensure};
use crate::process::End;

pub(super) const TESTS: &[Test] = &[
    ("faults/killed-making", killed_making),
    ("faults/killed-start", killed_start),
    ("faults/killed-exec", killed_exec),
    ("faults/killed-delete", killed_delete),
    ("faults/killed-parts", killed_parts),
];

/// Calls that others can see anything of, or that wait for others.
const STEPS: &[libc::c_long] = &[
    libc::SYS_connect,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_rename,
    libc::SYS_renameat2,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_flock,
    libc::SYS_clone,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_exit_group,
];
/// More than any command makes: one that goes on for ever fails.
const MOST: usize = 200;

/// Runs a command of the runtime until it is about to take this step, and kills it there; whether it came so far.
fn killed_at(c: &Context, args: &[&str], step: usize) -> Result<bool, Stop> {
    let command = c.place.runtime.command(c.scratch.path(), args);
    // It waits until it is traced.
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let started = c.start_command(&mut shell)?;
    let pid = Pid::from_raw(started.pid());
    waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options | Options::PTRACE_O_EXITKILL)?;
    kill(pid, Signal::SIGCONT)?;
    // Whether it is in the program, and there in a call.
    let (mut program, mut inside) = (false, false);
    let (mut taken, mut last, mut row) = (0, 0, 0);
    loop {
        let signal = match waitpid(pid, None)? {
            WaitStatus::PtraceSyscall(_) if program => {
                inside = !inside;
                let call = ptrace::getregs(pid)?.orig_rax as libc::c_long;
                if inside && STEPS.contains(&call) {
                    // Of many in a row, one for each hierarchy of cgroups, three will do.
                    row = if call == last { row + 1 } else { 0 };
                    last = call;
                    if row > 2 {
                        ptrace::syscall(pid, None)?;
                        continue;
                    }
                    if taken == step {
                        kill(pid, Signal::SIGKILL)?;
                        waitpid(pid, None)?;
                        return Ok(true);
                    }
                    taken += 1;
                }
                None
            }
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => {
                (program, inside) = (true, true);
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(false),
            _ => None,
        };
        ptrace::syscall(pid, signal)?;
    }
}

/// Every step, or on a slow machine some of them.
fn steps(c: &Context) -> impl Iterator<Item = usize> {
    (0..MOST).step_by(if c.place.slow > 1 { 4 } else { 1 })
}

/// All of these delays, in milliseconds, or on a slow machine some of them.
pub(super) fn some(c: &Context, delays: &[u64]) -> impl Iterator<Item = u64> {
    delays.iter().copied().step_by(if c.place.slow > 1 { 3 } else { 1 })
}

/// Removes the container with force, twice: nothing of it is left, and its id is free.
pub(super) fn removed(c: &Context, when: &str) -> Outcome {
    for _ in 0..2 {
        let done = c.detached(&["delete", "--force", "x"])?;
        ensure!(done.ok(), "{when}: delete: {}: {}", done.end, done.err());
    }
    nothing_left(c, when)
}

/// Nothing of a container is left.
pub(super) fn nothing_left(c: &Context, when: &str) -> Outcome {
    c.eventually(&format!("every process ends: {when}"), || {
        super::faults::reap();
        Ok(processes().is_empty())
    })?;
    ensure!(!c.path("state/x").exists(), "{when}: its state is there");
    let groups = super::cgroups();
    ensure!(groups.is_empty(), "{when}: {groups:?}");
    Ok(())
}

fn create(c: &Context) -> Result<Started, Stop> {
    let started = c.start(&["create", "--bundle", &c.text_path("b"), "x"])?;
    started.waited(c.limit())
}

/// A container is being made, by `create`, which has a stand-in of its own do it, or by `run`, which is the stand-in.
fn killed_making(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "true")?;
    for command in ["create", "run"] {
        for step in steps(c) {
            let came = killed_at(c, &[command, "--bundle", &c.text_path("b"), "x"], step)?;
            removed(c, &format!("{command}, killed at step {step}"))?;
            if !came {
                ensure!(step > 3, "{command} takes {step} steps");
                break;
            }
        }
    }
    c.must(&["run", "--bundle", &c.text_path("b"), "x"]).map(drop)
}

/// A container is created or runs, as `state` says, and can be started if it does not.
fn killed_start(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "echo up; sleep 1000")?;
    for step in steps(c) {
        let when = format!("start killed at step {step}");
        let created = create(c)?;
        let killed = killed_at(c, &["start", "x"], step)?;
        c.eventually(&format!("{when}: it runs"), || {
            Ok(match c.status("x")?.as_str() {
                "running" => true,
                "created" => {
                    let done = c.detached(&["start", "x"])?;
                    // What the killed one has asked for may be done only now.
                    ensure!(
                        done.ok() || c.status("x")? == "running",
                        "{when}: again: {}",
                        done.err()
                    );
                    true
                }
                other => return Err(Stop::Failed(format!("{when}: it is {other}"))),
            })
        })?;
        ensure!(c.status("x")? == "running", "{when}: it is {}", c.status("x")?);
        c.eventually(&format!("{when}: its program runs"), || Ok(created.out() == "up\n"))?;
        let again = c.detached(&["start", "x"])?;
        ensure!(again.end == End::Exit(1), "{when}: started twice: {}", again.end);
        removed(c, &when)?;
        if !killed {
            return Ok(());
        }
    }
    Err(Stop::Failed("it takes steps without end".to_owned()))
}

/// The process ends with the command that stands for it, and the container is as it was.
fn killed_exec(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "echo up; sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    // Below a line of titles: the shell has become what it runs.
    let inside = || Ok::<_, Stop>(c.must(&["ps", "x"])?.out());
    c.eventually("its program runs", || Ok(inside()?.contains("sleep 1000")))?;
    c.must(&["exec", "x", "true"])?;
    // What is there at rest: neither what has not begun yet nor what is about to end.
    let looks = (0..25).map(|_| {
        thread::sleep(Duration::from_millis(20));
        super::faults::reap();
        processes().len()
    });
    let own = looks.min().unwrap_or_default();
    let alone = || -> Result<bool, Stop> {
        super::faults::reap();
        Ok(inside()?.lines().count() == 2 && processes().len() <= own)
    };
    for mode in
        [&["exec", "x", "sh", "-c", "exit 3"][..], &["exec", "--detach", "x", "sleep", "1000"]]
    {
        for step in steps(c) {
            let when = format!("{mode:?} killed at step {step}");
            let killed = killed_at(c, mode, step)?;
            if killed && !mode.contains(&"--detach") {
                c.eventually(&format!("{when}: its process ends"), alone)?;
            }
            ensure!(c.status("x")? == "running", "{when}: it is {}", c.status("x")?);
            let again = c.detached(&["exec", "x", "sh", "-c", "exit 3"])?;
            ensure!(again.end == End::Exit(3), "{when}: again: {}: {}", again.end, again.err());
            if !killed {
                break;
            }
        }
    }
    removed(c, "exec")
}

/// It is there or it is not, as `state` says; a second one removes what the first has left.
fn killed_delete(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    for args in [&["delete", "--force", "x"][..], &["delete", "x"]] {
        for step in steps(c) {
            let when = format!("{args:?} killed at step {step}");
            create(c)?;
            if args.contains(&"--force") {
                c.must(&["start", "x"])?;
            }
            let killed = killed_at(c, args, step)?;
            let state = c.detached(&["state", "x"])?;
            if !state.ok() {
                ensure!(state.err().contains("does not exist"), "{when}: state: {}", state.err());
            } else if processes().is_empty() {
                let state = c.detached(&["state", "x"])?;
                ensure!(
                    !state.ok() || state.out().contains("\"stopped\""),
                    "{when}: nothing runs: {}",
                    state.out()
                );
            }
            removed(c, &when)?;
            if !killed {
                break;
            }
        }
    }
    Ok(())
}

/// Stand-in, sandbox and gofer, while commands are at work at their container: those end, with one line if they fail.
fn killed_parts(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    for command in [&["start", "x"][..], &["exec", "x", "true"], &["delete", "--force", "x"]] {
        for victim in ["--bundle", "ringwall-sentry", "ringwall-gofer"] {
            for delay in some(c, &[1, 0, 4]) {
                let when = format!("{victim} killed {delay} ms after {command:?}");
                create(c)?;
                let all = processes();
                let Some((pid, _)) = all.iter().find(|(_, name)| name.contains(victim)) else {
                    return Err(Stop::Failed(format!("no {victim}: {all:?}")));
                };
                if command.contains(&"exec") {
                    c.must(&["start", "x"])?;
                }
                let started = c.start(command)?;
                thread::sleep(Duration::from_millis(delay * u64::from(c.place.slow)));
                // It may have ended with its container.
                let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                let done = started.end(c.limit())?;
                ensure!(done.end != End::TimedOut, "{when}: it hangs");
                ensure!(done.ok() || done.err().lines().count() <= 1, "{when}: {}", done.err());
                c.eventually(&format!("{when}: it is known to have ended"), || {
                    let state = c.detached(&["state", "x"])?;
                    Ok(!state.ok() || state.out().contains("\"stopped\""))
                })?;
                removed(c, &when)?;
            }
        }
    }
    Ok(())
}
