//! `exec`: another process in a container that is there.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::setsid;
use sentry::control::{ExitStatus, Failure, ProcessSpec};

use super::lifecycle::known;
use super::run::{self, Report, stand_in_of_its_own, write_pid};
use crate::cli::{Exec, Global};
use crate::config;
use crate::console::{self, Console};
use crate::inside::{self, Inside};
use crate::link::Link;
use crate::preserved;
use crate::signals;
use crate::standin::{self, Outcome};
use crate::state::{self, Folder, Root, State, Status};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder.
    #[error("{0}")]
    State(#[from] state::Error),
    /// runc's words.
    #[error("cannot exec in a stopped container")]
    Stopped,
    /// runc's words.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    /// The container is being created by another command.
    #[error("container is not created yet")]
    NotCreated,
    /// runc's words.
    #[error("process args cannot be empty")]
    NoArgs,
    /// The container's configuration, or the file that `--process` names.
    #[error("{0}")]
    Config(#[from] config::Error),
    /// What `--user` gives.
    #[error("--user {0}: not UID[:GID], in numbers")]
    User(String),
    /// runc's words.
    #[error("additional-gids must be a positive number {0}")]
    Group(i64),
    /// What `--preserve-fds` names.
    #[error("{0}")]
    Preserved(#[from] preserved::Error),
    /// The terminal.
    #[error("{0}")]
    Console(#[from] console::Error),
    /// What it has in common with `run`.
    #[error("{0}")]
    Run(#[from] run::Error),
    /// The container does not start it.
    #[error("unable to start container process: {0}")]
    Inside(#[from] inside::Error),
    /// A system call.
    #[error("{0}: {1}")]
    Host(&'static str, Errno),
}

/// runc's exit status, whatever went wrong.
const STATUS: u8 = 255;

impl Error {
    /// The exit status: a shell's for a program that is not there or cannot be run, else runc's.
    pub fn status(&self) -> u8 {
        match self {
            Error::Inside(inside::Error::Refused(Failure { kind, .. })) => {
                kind.shell().unwrap_or(STATUS)
            }
            // What the stand-in of a detached one has found.
            Error::Run(run::Error::Reported { status, .. }) => *status,
            _ => STATUS,
        }
    }
}

/// `exec`; the process's exit status.
pub fn exec(global: &Global, args: &Exec, preserved: Vec<OwnedFd>) -> Result<u8, Error> {
    let folder = Root::of(global).open(&args.id, false)?;
    let state = known(&folder)?;
    match state.status() {
        // As runc: a container whose init waits is there already.
        Status::Created | Status::Running => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => return Err(Error::Paused),
        Status::Creating => return Err(Error::NotCreated),
        Status::Stopped => return Err(Error::Stopped),
    }
    for (option, given) in [
        ("--process-label", args.process_label.is_some()),
        ("--apparmor", args.apparmor.is_some()),
        ("--cgroup", !args.cgroup.is_empty()),
    ] {
        if given {
            crate::warning!("{option} is not honoured");
        }
    }
    let process = process(args, &state.bundle)?;
    let terminal = process.terminal;
    if terminal && args.detach && args.console_socket.is_none() {
        return Err(run::Error::TerminalWithoutSocket.into());
    }
    if args.console_socket.is_some() && !(terminal && args.detach) {
        return Err(run::Error::SocketWithoutTerminal.into());
    }
    if args.detach {
        stand_in_of_its_own(|link| detached(&folder, &state, args, process, preserved, &link))?;
        return Ok(0);
    }
    let inside = start(&folder, args, process, preserved)?;
    if let Some(path) = &args.pid_file {
        write_pid(path)?;
    }
    Ok(inside.wait().status())
}

/// The container's own process with what the command line says instead; or all of it from a file.
fn process(args: &Exec, bundle: &Path) -> Result<ProcessSpec, Error> {
    if let Some(path) = &args.process {
        return Ok(config::process_file(path)?);
    }
    let [_, ..] = args.command.as_slice() else { return Err(Error::NoArgs) };
    let mut process = config::process_of(bundle)?;
    process.set_args(Some(args.command.clone()));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let env = process.env().iter().flatten().chain(&args.env).cloned().collect();
    process.set_env(Some(env));
    process.set_terminal(Some(args.tty));
    if let Some(text) = &args.user {
        let (uid, gid) = ids(text).ok_or_else(|| Error::User(text.clone()))?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !args.additional_gids.is_empty() {
        let mut all = process.user().additional_gids().clone().unwrap_or_default();
        for gid in &args.additional_gids {
            all.push(u32::try_from(*gid).map_err(|_| Error::Group(*gid))?);
        }
        process.user_mut().set_additional_gids(Some(all));
    }
    if let Some(value) = args.no_new_privs {
        process.set_no_new_privileges(Some(value));
    }
    let mut process = config::translate_process(&process, bundle)?;
    for name in &args.cap {
        match config::capability(name) {
            Some(bit) => {
                let sets = &mut process.capabilities;
                for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                    *set |= bit;
                }
            }
            // runc's words.
            None => crate::warning!("ignoring unknown or unavailable capabilities: [{name}]"),
        }
    }
    Ok(process)
}

/// UID[:GID].
fn ids(text: &str) -> Option<(u32, Option<u32>)> {
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    match text.split_once(':') {
        None => Some((id(text)?, None)),
        Some((uid, gid)) => Some((id(uid)?, Some(id(gid)?))),
    }
}

/// Has the container start the process; this one stands for it from then on.
fn start(
    folder: &Folder,
    args: &Exec,
    process: ProcessSpec,
    preserved: Vec<OwnedFd>,
) -> Result<Inside, Error> {
    if let Err(e) = folder.note_exec() {
        // It is for callers that hear of many ends at once, and no reason to start nothing.
        crate::warning!("{e}");
    }
    let link =
        Link::connect(&folder.socket()).map_err(|e| inside::Error::Link(args.id.clone(), e))?;
    let console = match (&args.console_socket, process.terminal) {
        (_, false) => None,
        (None, true) => Some(Console::own()?),
        (Some(socket), true) => {
            let console = Console::pair(socket, process.window)?;
            console.control()?;
            Some(console)
        }
    };
    let signals = standin::take_signals().map_err(|e| Error::Host("cannot block signals", e))?;
    Ok(Inside::start(&args.id, link, process, console, preserved, signals)?)
}

/// The life of a detached stand-in; its exit status.
fn detached(
    folder: &Folder,
    state: &State,
    args: &Exec,
    process: ProcessSpec,
    preserved: Vec<OwnedFd>,
    link: &Link<Report, ()>,
) -> u8 {
    let begin = || -> Result<Inside, Error> {
        setsid().map_err(|e| Error::Host("setsid", e))?;
        let terminal = process.terminal;
        let inside = start(folder, args, process, preserved)?;
        run::leave_streams(terminal)?;
        if let Some(path) = &args.pid_file {
            write_pid(path)?;
        }
        Ok(inside)
    };
    let inside = match begin() {
        Ok(inside) => inside,
        Err(e) => {
            let report = Report::Failed { message: e.to_string(), status: e.status() };
            // Whoever waited for it has gone.
            let _gone = link.send(&report, &[]);
            return 1;
        }
    };
    if link.send(&Report::Ready, &[]).is_err() {
        // The command was interrupted: what it was to start is not wanted.
        return 1;
    }
    // Nobody waits for this, which takes the host's kernel some milliseconds. In the foreground the command stays where
    // its caller has it, as runc's does: what it stands for is in the sandbox.
    if let Some(group) = &state.cgroup
        && let Err(e) = group.open().and_then(|open| open.join(&[nix::unistd::getpid().as_raw()]))
    {
        crate::debug!("{e}");
    }
    match inside.wait() {
        Outcome::Exited(ExitStatus::Signaled(signal)) => signals::die_of(signal),
        outcome => outcome.status(),
    }
}

#[cfg(test)]
mod tests {
    use super::ids;

    #[test]
    fn users_are_numbers() {
        assert_eq!(ids("1000"), Some((1000, None)));
        assert_eq!(ids("0:7"), Some((0, Some(7))));
        for wrong in ["", "a", "1:", ":1", "1:a", "-1", "4294967295", "1:2:3"] {
            assert_eq!(ids(wrong), None, "{wrong}");
        }
    }
}
