//! The host half of Ringwall.
//!
//! - [`check`]: what this machine can do, and which platform `auto` takes.
//! - [`kvm`]: the KVM machine that runs the sentry as a ring-0 guest.

pub mod check;
pub mod kvm;
