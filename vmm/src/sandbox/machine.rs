//! The platform, as far as the sandbox's own process sees it.

use std::os::fd::OwnedFd;

use ptrace_fallback::{Config, ControlHost, Prepared, PtracePlatform, control_pair};
use sentry::platform::Level;

use crate::protocol::Platform;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ptrace platform said so.
    #[error("ptrace: {0}")]
    Ptrace(#[from] ptrace_fallback::Error),
    /// A thread or a channel could not be made.
    #[error("cannot start the sentry: {0}")]
    Host(#[from] std::io::Error),
    /// KVM is not joined to the sandbox yet.
    #[error("kvm: not in this version")]
    Kvm,
}

/// A platform whose privileged part is done.
pub enum Ready {
    /// The pristine stub exists.
    Ptrace(Prepared),
    /// See [`fake`](super::fake).
    #[cfg(feature = "fake-sentry")]
    Fake,
}

/// A platform that runs the sentry.
pub enum Machine {
    /// The sentry is threads of this process.
    Ptrace(#[allow(dead_code)] &'static PtracePlatform), // execs will add streams to it
    /// See [`fake`](super::fake).
    #[cfg(feature = "fake-sentry")]
    Fake,
}

/// Does what must come before the filter.
pub fn prepare(platform: Platform) -> Result<Ready, Error> {
    #[cfg(feature = "fake-sentry")]
    if std::env::args().any(|arg| arg.starts_with("fake-")) {
        return Ok(Ready::Fake);
    }
    match platform {
        Platform::Ptrace => Ok(Ready::Ptrace(PtracePlatform::prepare()?)),
        Platform::Kvm => Err(Error::Kvm),
    }
}

/// Enough for the sentry's first thread, which serves the control channel; pages that it does not
/// touch cost nothing.
const STACK: usize = 256 << 10;

impl Ready {
    /// Starts the sentry, and gives the host half's end of its control channel.
    pub fn start(
        self,
        gofers: Vec<OwnedFd>,
        streams: Vec<OwnedFd>,
        memory: u64,
    ) -> Result<(Machine, ControlHost), Error> {
        let (host, control) = control_pair()?;
        match self {
            Ready::Ptrace(prepared) => {
                // As many CPUs as the process may use.
                let cpus = 0;
                let log = Box::new(log);
                let config = Config { control, gofers, streams, memory, cpus, log };
                let platform = prepared.start(config)?;
                //INSTALL
                sentry_thread(sentry::run)?;
                Ok((Machine::Ptrace(platform), host))
            }
            #[cfg(feature = "fake-sentry")]
            Ready::Fake => {
                sentry_thread(move || super::fake::run(&control, &gofers, &streams))?;
                Ok((Machine::Fake, host))
            }
        }
    }
}

fn sentry_thread(run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("sentry".into()).stack_size(STACK).spawn(run).map(drop)
}

/// Lines of the sentry.
fn log(level: Level, line: std::fmt::Arguments<'_>) {
    use crate::log::{Level as Own, write};
    let level = match level {
        Level::Error => Own::Error,
        Level::Warning => Own::Warning,
        Level::Info => Own::Info,
        Level::Debug => Own::Debug,
    };
    write(level, line);
}
