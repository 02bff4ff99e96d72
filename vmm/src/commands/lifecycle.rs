//! `start`, `kill`, `delete` and `wait`: commands at a container that is there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sentry::control::{Call, Failure, Reply};

use crate::cgroup::{self, Group};
use crate::cli::{Delete, Global, Id, Kill};
use crate::hooks;
use crate::link::{self, Link};
use crate::pod;
use crate::protocol::{FromSandbox, Report, ToSandbox};
use crate::signals;
use crate::state::{self, Folder, Process, Root, State, Status};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder.
    #[error("{0}")]
    State(#[from] state::Error),
    /// runc's words.
    #[error("cannot start an already running container")]
    AlreadyRunning,
    /// runc's words.
    #[error("cannot start a container that has stopped")]
    HasStopped,
    /// runc's words.
    #[error("cannot start a container in the paused state")]
    Paused,
    /// runc's words.
    #[error("container not paused")]
    NotPaused,
    /// The container is being created by another command.
    #[error("container is not created yet")]
    NotCreated,
    /// runc's words.
    #[error("container not running")]
    NotRunning,
    /// runc's words.
    #[error("cannot delete container {0} that is not stopped: {1}")]
    NotStopped(String, &'static str),
    /// runc's words.
    #[error("unknown signal {0:?}")]
    Signal(String),
    /// The sandbox does not answer.
    #[error("sandbox of container {0}: {1}")]
    Link(String, link::Error),
    /// The sentry says no.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The container's cgroup.
    #[error("{0}")]
    Cgroup(#[from] cgroup::Error),
    /// A hook.
    #[error("{0}")]
    Hook(#[from] hooks::Error),
    /// A system call.
    #[error("{0}: {1}")]
    Host(&'static str, Errno),
}

/// Seconds that a sandbox has to answer a command.
const PATIENCE: i64 = 10;
/// Milliseconds that a killed container has to end in order, before its processes are killed.
const LAST_CALL: u16 = 2000;

/// `start`.
pub fn start(global: &Global, args: &Id) -> Result<(), Error> {
    let folder = Root::of(global).open(&args.id, true)?;
    let mut state = known(&folder)?;
    match state.status() {
        Status::Created => {}
        Status::Running => return Err(Error::AlreadyRunning),
        Status::Paused => return Err(Error::Paused),
        Status::Stopped => return Err(Error::HasStopped),
        Status::Creating => return Err(Error::NotCreated),
    }
    if let Err(e) = hooks::run_inside(&state, &folder) {
        send_signal(&folder, &args.id, 9, true)?;
        return Err(e.into());
    }
    change(&folder, &mut state, Call::Start { id: args.id.clone() }, Status::Running)
}

/// What is known of a container: from its sandbox, where a command did not come to writing down what it has done.
pub(super) fn known(folder: &Folder) -> Result<State, state::Error> {
    let mut state = folder.read()?;
    if !state.changing || state.status() == Status::Stopped {
        return Ok(state);
    }
    match call(folder, &state.id, Call::Status { id: state.id.clone() }) {
        Ok(Reply::Status { started, frozen }) => {
            state.unstarted = frozen && !started;
            state.status = match (started, frozen) {
                (_, true) => Status::Paused,
                (true, false) => Status::Running,
                (false, false) => Status::Created,
            };
        }
        Ok(_) => {}
        // It has ended, or does so.
        Err(e) => crate::debug!("{e}"),
    }
    Ok(state)
}

/// Has the sandbox change where a container stands, and writes that down.
fn change(folder: &Folder, state: &mut State, request: Call, becomes: Status) -> Result<(), Error> {
    let before = state.status;
    state.changing = true;
    folder.write(state)?;
    match call(folder, &state.id, request) {
        Ok(_) => {
            state.status = becomes;
            state.unstarted = becomes == Status::Paused && before == Status::Created;
        }
        Err(Error::Refused(failure)) => {
            state.changing = false;
            folder.write(state)?;
            return Err(Error::Refused(failure));
        }
        // Whether it was done is not known.
        Err(e) => return Err(e),
    }
    state.changing = false;
    if let Err(e) = folder.write(state) {
        // It is done all the same, as the sandbox tells whoever asks.
        crate::warning!("{e}");
    }
    Ok(())
}

/// `kill`.
pub fn kill(global: &Global, args: &Kill) -> Result<(), Error> {
    let signal = signals::parse(&args.signal).ok_or_else(|| Error::Signal(args.signal.clone()))?;
    let folder = Root::of(global).open(&args.id, false)?;
    let state = folder.read()?;
    match state.status() {
        Status::Created | Status::Running | Status::Paused => {}
        Status::Creating => return Err(Error::NotCreated),
        // runc does not mind where every process is meant.
        Status::Stopped if args.all => return Ok(()),
        Status::Stopped => return Err(Error::NotRunning),
    }
    send_signal(&folder, &args.id, signal, args.all)
}

/// `pause`.
pub fn pause(global: &Global, args: &Id) -> Result<(), Error> {
    freeze(global, &args.id, true)
}

/// `resume`.
pub fn resume(global: &Global, args: &Id) -> Result<(), Error> {
    freeze(global, &args.id, false)
}

/// Has the sentry hold the container's tasks, or let them go on: it holds what is in the container, whoever else is in the
/// sandbox, and answers requests about it.
fn freeze(global: &Global, id: &str, frozen: bool) -> Result<(), Error> {
    let folder = Root::of(global).open(id, true)?;
    let mut state = known(&folder)?;
    match (frozen, state.status()) {
        (true, Status::Created | Status::Running) | (false, Status::Paused) => {}
        (true, _) => return Err(Error::NotRunning),
        (false, _) => return Err(Error::NotPaused),
    }
    let becomes = match frozen {
        true => Status::Paused,
        // One that was paused before its start waits for that again.
        false if state.unstarted => Status::Created,
        false => Status::Running,
    };
    change(&folder, &mut state, Call::Freeze { id: id.to_owned(), frozen }, becomes)
}

/// `delete`.
pub fn delete(global: &Global, args: &Delete) -> Result<(), Error> {
    let root = Root::of(global);
    let mut folder = match root.open(&args.id, false) {
        Err(state::Error::NotFound) if args.force => return Ok(()),
        other => other?,
    };
    let mut state = known(&folder);
    if let Err(state::Error::NotFound) = state {
        // Its creation was killed before it had a state, or is under way: the lock tells.
        match folder.lock() {
            Err(state::Error::NotFound) => return Ok(()),
            other => other?,
        }
        state = folder.read();
        folder.unlock();
    }
    let state = match state {
        Ok(state) => state,
        Err(state::Error::NotFound) => return remove(folder, None, args.force).map(drop),
        Err(e) if args.force => {
            crate::warning!("{e}");
            return remove(folder, None, true).map(drop);
        }
        Err(e) => return Err(e.into()),
    };
    match state.status() {
        Status::Stopped => {}
        // As runc: what has not run a single instruction goes without force.
        Status::Created | Status::Creating => end(&folder, &state)?,
        Status::Running | Status::Paused if args.force => end(&folder, &state)?,
        Status::Running | Status::Paused => {
            return Err(Error::NotStopped(args.id.clone(), state.status().name()));
        }
    }
    // A stand-in that was killed took both with it, unless they were wedged.
    let shared = pod::in_company(&root, &state);
    let sandbox = state.sandbox.filter(|_| !shared);
    for process in [sandbox, state.gofer].into_iter().flatten() {
        kill_process(process);
    }
    // The sandbox is in those of the container that it was made for, as long as it has others.
    let left = shared && state.pod.is_none();
    if !remove(folder, state.cgroup.as_ref().filter(|_| !left), args.force)? {
        return Ok(());
    }
    if left || state.pod.is_some() {
        pod::sweep(&root, &state, left);
    }
    if let Some(hooks) = &state.hooks {
        let told = hooks::told(&state, Status::Stopped.name(), 0);
        if let Err(e) = hooks::run("poststop", &hooks.poststop, &told, hooks::Place::default()) {
            crate::warning!("{e}");
        }
    }
    Ok(())
}

/// Whether it was still there. Its cgroups go first: where they cannot, the command can be given again.
fn remove(mut folder: Folder, group: Option<&Group>, force: bool) -> Result<bool, Error> {
    match folder.lock() {
        Ok(()) => {
            match group.map_or(Ok(()), Group::remove) {
                Err(e) if force => crate::warning!("{e}"),
                other => other?,
            }
            folder.remove()?;
            Ok(true)
        }
        // Another command, or a stand-in in the foreground, was quicker.
        Err(state::Error::NotFound) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// `wait`: prints how the container ended, once it has.
pub fn wait(global: &Global, args: &Id) -> Result<(), Error> {
    let mut folder = Root::of(global).open(&args.id, false)?;
    let mut state = folder.read()?;
    if state.status() != Status::Stopped {
        wait_for(state.stand_in, PollTimeout::NONE)?;
    }
    // The stand-in writes the state before it ends; without a lock it may just be gone.
    match folder.lock().and_then(|()| folder.read()) {
        Ok(latest) => state = latest,
        Err(state::Error::NotFound) => {}
        Err(e) => return Err(e.into()),
    }
    // Nobody is left who could say more of one whose stand-in was killed.
    let status = state.exit_status.unwrap_or(137);
    super::print(&format!("{status}\n"));
    Ok(())
}

/// Ends a container, in order if it can.
fn end(folder: &Folder, state: &State) -> Result<(), Error> {
    match send_signal(folder, &state.id, 9, true) {
        Ok(()) => {}
        Err(e) => crate::debug!("{e}"),
    }
    if !wait_for(state.stand_in, PollTimeout::from(LAST_CALL))? {
        crate::warning!("container {} does not end; its processes are killed", state.id);
        kill_process(state.stand_in);
        wait_for(state.stand_in, PollTimeout::NONE)?;
    }
    Ok(())
}

fn send_signal(folder: &Folder, id: &str, signal: u8, all: bool) -> Result<(), Error> {
    let call_ = Call::Signal { id: id.to_owned(), pid: None, signal, all };
    match call(folder, id, call_) {
        Ok(_) => Ok(()),
        // It ended in between.
        Err(Error::Link(_, link::Error::Closed)) => Err(Error::NotRunning),
        Err(e) => Err(e),
    }
}

/// Asks the container's sandbox.
pub(super) fn call(folder: &Folder, id: &str, call: Call) -> Result<Reply, Error> {
    let failed = |e| Error::Link(id.to_owned(), e);
    let link = connect(folder).map_err(|e| match e {
        // Its sandbox has just ended, and its stand-in not said so yet.
        link::Error::Socket(Errno::ECONNREFUSED | Errno::ENOENT) => Error::NotRunning,
        e => failed(e),
    })?;
    let answer = |message| match message {
        FromSandbox::Answer(answer) => Some(answer),
        _ => None,
    };
    ask(&link, &ToSandbox::Call(Box::new(call)), answer).map_err(failed)?.map_err(Error::Refused)
}

/// Says something over a link, and waits for the answer, which is what `wanted` takes of all that comes.
fn ask<T>(
    link: &Link<ToSandbox, FromSandbox>,
    message: &ToSandbox,
    wanted: impl Fn(FromSandbox) -> Option<T>,
) -> Result<T, link::Error> {
    link.send(message, &[])?;
    loop {
        if let Some(answer) = wanted(link.receive()?.0) {
            return Ok(answer);
        }
    }
}

fn connect(folder: &Folder) -> Result<Link<ToSandbox, FromSandbox>, link::Error> {
    let link = Link::connect(&folder.socket())?;
    link.set_timeout(PATIENCE)?;
    Ok(link)
}

/// What the host half of a container's sandbox has under way.
pub fn report(folder: &Folder, id: &str) -> Result<Report, Error> {
    let report = |message| match message {
        FromSandbox::Report(report) => Some(report),
        _ => None,
    };
    connect(folder)
        .and_then(|link| ask(&link, &ToSandbox::Report, report))
        .map_err(|e| Error::Link(id.to_owned(), e))
}

/// What KVM has counted for the sandbox of a container, by name; empty where there is no VM.
pub fn counters(root: &Root, id: &str) -> Result<BTreeMap<String, u64>, Error> {
    let folder = root.open(id, false)?;
    let counters = |message| match message {
        FromSandbox::Counters(counters) => Some(counters),
        _ => None,
    };
    connect(&folder)
        .and_then(|link| ask(&link, &ToSandbox::Counters, counters))
        .map_err(|e| Error::Link(id.to_owned(), e))
}

/// Waits for a process's end; whether it came in time.
fn wait_for(process: Process, timeout: PollTimeout) -> Result<bool, Error> {
    let Some(fd) = open_process(process)? else { return Ok(true) };
    loop {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::Host("poll", e)),
        }
    }
}

/// A descriptor that cannot come to mean another process; `None` where it has ended.
fn open_process(process: Process) -> Result<Option<OwnedFd>, Error> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.pid, 0) };
    let fd = match Errno::result(fd) {
        // SAFETY: the kernel has just put this descriptor into our table for us alone.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd as i32) },
        Err(Errno::ESRCH) => return Ok(None),
        Err(e) => return Err(Error::Host("pidfd_open", e)),
    };
    // The pid was the process's while this descriptor was made, or it is somebody else's.
    Ok(process.alive().then_some(fd))
}

fn kill_process(process: Process) {
    if let Ok(Some(fd)) = open_process(process) {
        use std::os::fd::AsRawFd;
        let info = std::ptr::null_mut::<libc::siginfo_t>();
        // SAFETY: no information is handed over; the descriptor is a process's.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), libc::SIGKILL, info, 0)
        };
        if let Err(e) = Errno::result(result)
            && e != Errno::ESRCH
        {
            crate::warning!("cannot kill process {}: {e}", process.pid);
        }
    }
}
