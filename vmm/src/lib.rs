//! The host half of Ringwall and its command line.
//!
//! The `ringwall` binary is all of a sandbox's processes: the command that a user types, and, as
//! re-executions of itself, the confined sandbox and file servers that the command starts.
//!
//! - [`cli`], [`commands`]: the command line, and what each command does;
//! - [`check`]: what this machine can do, and which platform `auto` takes;
//! - [`kvm`]: the KVM machine that runs the sentry as a ring-0 guest.

pub mod check;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod confine;
pub mod host;
pub mod kvm;
pub mod link;
pub mod log;
pub mod protocol;
pub mod spawn;
pub mod state;

use std::process::ExitCode;

/// What the binary does.
pub fn main() -> ExitCode {
    commands::main()
}
