//! The Linux kernel surface of Ringwall: tasks, memory, files, signals and time.
//!
//! Start with [`platform`], the one seam to the machine below.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod control;
pub mod errno;
pub mod error;
pub mod fs;
pub mod futex;
pub mod ipc;
pub mod kernel;
pub mod loader;
pub mod mm;
pub mod net;
pub mod platform;
pub mod seccomp;
pub mod signal;
pub mod strace;
pub mod sync;
pub mod syscall;
pub mod task;
pub mod time;

/// Runs the sentry on an installed platform: announces itself on the control channel, serves requests,
/// and returns when the host half has closed it.
pub fn run() {
    kernel::serve();
}
