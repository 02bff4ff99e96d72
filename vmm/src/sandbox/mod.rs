//! The process that the sentry lives in.
//!
//! It is born into namespaces of its own. It exchanges its root for an empty one while whoever
//! started it still reads the configuration; told what to become, it gives up its user and its
//! capabilities, starts the platform, puts up its filters ([`crate::wall::sandbox`]), and only then takes
//! the container in and serves: the sentry on its threads, and the [`supervisor`] on the first one.

mod execs;
#[cfg(feature = "fake-sentry")]
mod fake;
mod machine;
mod supervisor;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use crate::confine;
use crate::host::Linux;
use crate::link::{self, Link};
use crate::log;
use crate::protocol::{FromSandbox, SandboxFd, Setup, ToSandbox};
use crate::spawn;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("link to the stand-in: {0}")]
    Link(#[from] link::Error),
    #[error("standard error: {0}")]
    Host(nix::errno::Errno),
    #[error("the first message is no setup")]
    NoSetup,
    #[error("the setup lacks a descriptor: {0}")]
    Missing(&'static str),
    #[error("{0}")]
    Confine(#[from] confine::Error),
    #[error("{0}")]
    Machine(#[from] machine::Error),
    #[error("{0}")]
    Supervisor(#[from] supervisor::Error),
}

/// What the process does.
pub fn main() -> ExitCode {
    let Some(link) = spawn::inherited_link() else {
        crate::error!("`sandbox` is for ringwall itself");
        return ExitCode::FAILURE;
    };
    spawn::take_name(spawn::SANDBOX);
    one_arena();
    let link: Link<FromSandbox, ToSandbox> = Link::new(link);
    match run(&link) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody wants to know any more.
        Err(Error::Link(link::Error::Closed)) => ExitCode::FAILURE,
        Err(e) => {
            crate::debug!("{e}");
            // The stand-in reports it, if it is still there.
            let _gone = link.send(&FromSandbox::Failed(e.to_string()), &[]);
            ExitCode::FAILURE
        }
    }
}

fn run(link: &Link<FromSandbox, ToSandbox>) -> Result<(), Error> {
    let bare = std::env::args().nth(3).is_some_and(|arg| arg == spawn::BARE);
    if !bare {
        confine::empty_root(&Linux)?;
    }
    let (ToSandbox::Setup(setup), fds) = link.receive()? else {
        return Err(Error::NoSetup);
    };
    let Setup { log, ids, platform, memory, container, fds: roles } = *setup;
    let given = Given::sort(&roles, fds)?;
    let left = container.process.terminal && given.log.is_some();
    log::init(log, given.log, given.debug_log);
    crate::debug!("setup received");
    if left {
        spawn::leave_standard_error().map_err(Error::Host)?;
    }
    match bare {
        true => confine::without_namespaces(&Linux)?,
        false => confine::drop_privileges(&Linux, ids)?,
    }
    crate::debug!("privileges dropped");
    let prepared = machine::prepare(platform, given.device)?;
    confine::bound(&Linux, memory)?;
    crate::debug!("{} ready", platform.name());
    let (machine, control) = prepared.start(given.gofers, given.streams, memory)?;
    crate::debug!("sentry started");
    supervisor::run(machine, control, given.control, link, container, platform)?;
    Ok(())
}

/// The descriptors of a setup.
struct Given {
    log: Option<OwnedFd>,
    debug_log: Option<OwnedFd>,
    control: OwnedFd,
    device: Option<OwnedFd>,
    gofers: Vec<OwnedFd>,
    streams: Vec<OwnedFd>,
}

impl Given {
    fn sort(roles: &[SandboxFd], fds: Vec<OwnedFd>) -> Result<Given, Error> {
        if roles.len() != fds.len() {
            return Err(Error::Missing("some"));
        }
        let (mut log, mut debug_log, mut control, mut device) = (None, None, None, None);
        let (mut gofers, mut streams) = (Vec::new(), Vec::new());
        for (role, fd) in roles.iter().zip(fds) {
            match role {
                SandboxFd::Log => log = Some(fd),
                SandboxFd::DebugLog => debug_log = Some(fd),
                SandboxFd::Control => control = Some(fd),
                SandboxFd::Gofer => gofers.push(fd),
                SandboxFd::Stream => streams.push(fd),
                SandboxFd::Kvm => device = Some(fd),
            }
        }
        let control = control.ok_or(Error::Missing("control socket"))?;
        Ok(Given { log, debug_log, control, device, gofers, streams })
    }
}

/// glibc gives each thread a heap of its own, which costs an idle sandbox memory for nothing.
fn one_arena() {
    // SAFETY: mallopt only sets a parameter of the allocator; no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
