//! The platform, as far as the sandbox's own process sees it.

use std::cell::RefCell;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use guest::contract::mode;
use kvm_ioctls::Kvm;
use nix::sys::stat::SFlag;
use ptrace_fallback::{Config, ControlHost, Prepared, PtracePlatform, control_pair};
use sentry::platform::{ChannelId, Level, StreamId};

use crate::host::stat;
use crate::kvm;
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
    /// The KVM machine said so.
    #[error("kvm: {0}")]
    Kvm(#[from] kvm::Error),
    /// The descriptor of /dev/kvm did not come.
    #[error("kvm: no device was given")]
    NoDevice,
}

/// A platform whose privileged part is done.
pub enum Ready {
    /// The pristine stub exists.
    Ptrace(Prepared),
    /// Its device is open.
    Kvm(Kvm),
    /// See [`fake`](super::fake).
    #[cfg(feature = "fake-sentry")]
    Fake,
}

/// A platform that runs the sentry.
#[derive(Clone)]
pub enum Machine {
    /// The sentry is threads of this process.
    Ptrace(&'static PtracePlatform),
    /// The sentry is a guest; the machine serves it on the event loop.
    Kvm(Rc<RefCell<kvm::Machine>>),
    /// See [`fake`](super::fake).
    #[cfg(feature = "fake-sentry")]
    Fake,
}

/// Does what must come before the filter.
pub fn prepare(platform: Platform, device: Option<OwnedFd>) -> Result<Ready, Error> {
    #[cfg(feature = "fake-sentry")]
    if std::env::args().any(|arg| arg.starts_with("fake-")) {
        return Ok(Ready::Fake);
    }
    match platform {
        Platform::Ptrace => Ok(Ready::Ptrace(PtracePlatform::prepare()?)),
        Platform::Kvm => {
            let device = device.ok_or(Error::NoDevice)?;
            // SAFETY: the descriptor is /dev/kvm's, and given up to the new owner.
            Ok(Ready::Kvm(unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }))
        }
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
        // As many CPUs as the process may use.
        let cpus = 0;
        match self {
            Ready::Ptrace(prepared) => {
                let log = Box::new(log);
                let config = Config { control, gofers, streams, memory, cpus, log };
                let platform = prepared.start(config)?;
                sentry::platform::install(platform);
                sentry_thread(sentry::run)?;
                Ok((Machine::Ptrace(platform), host))
            }
            Ready::Kvm(device) => {
                let level = if crate::log::debugging() { Level::Debug } else { Level::Info };
                let config = kvm::Config {
                    memory,
                    cpus,
                    control,
                    gofers,
                    streams,
                    log: Box::new(log),
                    level,
                    mode: mode::SENTRY,
                    force: 0,
                    image: kvm::image::EMBEDDED,
                    confine: true,
                };
                let mut machine = kvm::Machine::on(device, config)?;
                machine.start()?;
                Ok((Machine::Kvm(Rc::new(RefCell::new(machine))), host))
            }
            #[cfg(feature = "fake-sentry")]
            Ready::Fake => {
                sentry_thread(move || super::fake::run(&control, &gofers, &streams))?;
                Ok((Machine::Fake, host))
            }
        }
    }
}

impl Machine {
    /// Adds a descriptor for a process to the running platform. An error for what is no stream.
    pub fn add_stream(&self, fd: OwnedFd) -> std::io::Result<StreamId> {
        let kind = SFlag::from_bits_truncate(stat(&fd)?.st_mode) & SFlag::S_IFMT;
        let streams =
            [SFlag::S_IFIFO, SFlag::S_IFCHR, SFlag::S_IFREG, SFlag::S_IFSOCK, SFlag::S_IFBLK];
        if !streams.contains(&kind) {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        match self {
            Machine::Ptrace(platform) => Ok(platform.add_stream(fd)),
            Machine::Kvm(machine) => machine.borrow().handle().add_stream(fd),
            #[cfg(feature = "fake-sentry")]
            Machine::Fake => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Adds the file server of a container to the running platform.
    pub fn add_gofer(&self, fd: OwnedFd) -> ChannelId {
        match self {
            Machine::Ptrace(platform) => platform.add_gofer(fd),
            Machine::Kvm(machine) => machine.borrow().handle().add_gofer(fd),
            #[cfg(feature = "fake-sentry")]
            Machine::Fake => ChannelId::Control,
        }
    }

    /// Lets a stream go that no process has taken.
    pub fn remove_stream(&self, id: StreamId) {
        match self {
            Machine::Ptrace(platform) => platform.remove_stream(id),
            Machine::Kvm(machine) => machine.borrow().handle().remove_stream(id),
            #[cfg(feature = "fake-sentry")]
            Machine::Fake => {}
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
