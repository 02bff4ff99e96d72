//! The sentry as an ordinary host process, and the application in processes that it traces.
//!
//! The principle: **the application never makes a system call of its own.** Each of its threads is a
//! *stub thread* that runs under `PTRACE_SYSEMU`, so the host's kernel stops it at every system call
//! and skips the call; the sentry serves it instead. What stands between the application and the host
//! is therefore one flag of the kernel's, and behind it the stub's own seccomp filter.
//!
//! - [`Prepared`] makes the *pristine stub*, from which all others descend, and proves that ptrace
//!   works here; [`Prepared::start`] turns the process into a platform.
//! - An address space is a *stub process*. Its first thread is untraced and runs our code alone: it
//!   is the process's *agent*, which maps and unmaps what the sentry asks for.
//! - An application's thread is another thread of it, traced by the sentry thread that drives it.
//!
//! Nothing here is policy: what is mapped where, and who runs, is the sentry's.

mod control;
mod error;
mod sys;

use std::fmt;
use std::os::fd::OwnedFd;

pub use control::{ControlHost, ControlRelay, ControlSentry, control_pair};
pub use error::Error;
use sentry::platform::{ChannelId, Level, StreamId};

/// Takes one line of the log.
pub type LogSink = Box<dyn Fn(Level, fmt::Arguments<'_>) + Send + Sync>;

/// What a platform is started with.
pub struct Config {
    /// The sentry's end of the control channel; the host half keeps the other.
    pub control: ControlSentry,
    /// Sockets to gofers (SOCK_SEQPACKET), by index.
    pub gofers: Vec<OwnedFd>,
    /// Streams of containers, by index.
    pub streams: Vec<OwnedFd>,
    /// The most memory that applications and the sentry's page cache can have, bytes.
    pub memory: u64,
    /// CPUs that applications see; 0: as many as this process may use.
    pub cpus: u32,
    /// Where log lines go.
    pub log: LogSink,
}

/// A process that is ready to become a platform: the pristine stub exists.
pub struct Prepared {
    _private: (),
}

impl Prepared {
    /// Turns this process into the platform, for the rest of its life.
    pub fn start(self, _config: Config) -> Result<&'static PtracePlatform, Error> {
        Err(Error::Unfinished)
    }
}

/// The machine, on ptrace. Install it with [`sentry::platform::install`], then call [`sentry::run`].
pub struct PtracePlatform {
    _private: (),
}

impl PtracePlatform {
    /// Makes the pristine stub and proves with one traced system call that ptrace works here.
    ///
    /// To be called by a thread that lives as long as the process (the stubs die with it), after
    /// the process has entered its user namespace and taken its user id (a tracer needs its
    /// tracee's), and before it installs a seccomp filter. The table of file descriptors is shared
    /// with the stubs from here on: never unshare it. Capabilities may be dropped later.
    pub fn prepare() -> Result<Prepared, Error> {
        Err(Error::Unfinished)
    }

    /// Adds a stream while the platform runs.
    pub fn add_stream(&self, _fd: OwnedFd) -> StreamId {
        StreamId(u32::MAX)
    }

    /// Adds a gofer's socket while the platform runs.
    pub fn add_gofer(&self, _fd: OwnedFd) -> ChannelId {
        ChannelId::Gofer(u32::MAX)
    }
}
