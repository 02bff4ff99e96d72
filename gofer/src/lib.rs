//! The confined 9P file server of a container, and its wire format.
//!
//! [`wire`] is the protocol: pure functions over byte slices, `no_std`, shared with the sentry's client.
//! `server` (feature of the same name) is the process that serves a container's files: it owns
//! descriptors, confines itself and answers one client.
#![cfg_attr(not(feature = "server"), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
extern crate alloc;

pub mod wire;

#[cfg(feature = "server")]
pub mod server;
