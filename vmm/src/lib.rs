//! The host half of Ringwall and its command line.
//!
//! The `ringwall` binary is all of a sandbox's processes: the command that a user types, and, as
//! re-executions of itself, the confined sandbox and file servers that the command starts.
//!
//! - [`cli`], [`commands`]: the command line, and what each command does;
//! - [`bench`]: what things cost;
//! - [`cgroup`]: a container's cgroups on the host;
//! - [`check`]: what this machine can do, and which platform `auto` takes;
//! - `dbus`: what systemd is asked by;
//! - [`kvm`]: the KVM machine that runs the sentry as a ring-0 guest;
//! - [`wall`]: what its processes may ask of the host's kernel.

pub mod bench;
pub mod cgroup;
pub mod check;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod confine;
pub mod console;
mod dbus;
mod footprint;
pub mod gofer_process;
pub mod hooks;
pub mod host;
pub mod inside;
pub mod kvm;
pub mod launch;
pub mod link;
pub mod log;
pub mod mountpoints;
pub mod network;
pub mod node_maker;
pub mod pod;
pub mod preserved;
pub mod protocol;
pub mod reason;
pub mod sandbox;
pub mod signals;
pub mod spawn;
pub mod standin;
pub mod state;
pub mod view;
pub mod wall;

use std::process::ExitCode;

/// What the binary does.
pub fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == bench::program::EXIT) {
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    match bench::hidden(&args) {
        None => commands::main(),
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(message)) => {
            eprintln!("ringwall: bench: {message}");
            ExitCode::FAILURE
        }
    }
}
