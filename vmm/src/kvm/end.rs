//! How a sandbox ends, and what the guest can have done wrong.

use super::memory::OutsideRam;

/// The end of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The image has called its end.
    #[error("the sandbox has ended with status {status}")]
    Exit {
        /// Its status.
        status: u8,
        /// Its panic report, where there was one.
        panic: Option<String>,
    },
    /// The guest broke a rule of the contract.
    #[error("the guest broke the contract: {0}")]
    Lie(#[from] Lie),
    /// A vCPU stopped.
    #[error("vCPU {cpu} stopped: {reason}")]
    Vcpu {
        /// Which.
        cpu: u32,
        /// The exit, and where.
        reason: String,
    },
    /// The host refused something that the sandbox cannot go on without.
    #[error("{what}: {error}")]
    Host {
        /// What.
        what: &'static str,
        /// The answer.
        error: std::io::Error,
    },
}

/// A rule that the guest broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Memory that is not there.
    #[error(transparent)]
    Memory(#[from] OutsideRam),
    /// Ring indices that cannot be.
    #[error("{ring}: {used} of {size} are in use")]
    Index {
        /// Which ring.
        ring: &'static str,
        /// How many are in use by the indices.
        used: u32,
        /// How many there are.
        size: u32,
    },
    /// A message in a channel.
    #[error("channel {channel}: {what}")]
    Message {
        /// Its number.
        channel: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A request.
    #[error("request {op}: {what}")]
    Request {
        /// Its operation.
        op: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A synchronous call.
    #[error("call {call}: {what}")]
    Call {
        /// Its number.
        call: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A vCPU that is not there.
    #[error("there is no vCPU {0}")]
    Cpu(u32),
}
