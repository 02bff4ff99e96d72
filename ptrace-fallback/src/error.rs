//! Why a platform cannot be had.

use std::io;

/// Why this host, or this process, cannot be a ptrace platform.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host forbids ptrace.
    #[error(
        "ptrace is not permitted here ({0}): check kernel.yama.ptrace_scope (must be below 2), the \
         outer container's seccomp profile, or grant CAP_SYS_PTRACE"
    )]
    NotPermitted(#[source] io::Error),
    /// The host's ptrace lacks something that the platform needs.
    #[error("the host's ptrace lacks {0}; Linux 5.3 or later on x86-64 is needed")]
    Lacking(&'static str),
    /// The first stub could not be made.
    #[error("cannot make the first stub process: {0}: {1}")]
    Stub(&'static str, #[source] io::Error),
    /// The sandbox's memory could not be made.
    #[error("cannot set up the sandbox's memory: {0}: {1}")]
    Memory(&'static str, #[source] io::Error),
    /// Another resource of the host could not be had.
    #[error("{0}: {1}")]
    Host(&'static str, #[source] io::Error),
}
