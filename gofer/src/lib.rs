//! The confined 9P file server of a container, and its wire format.
#![cfg_attr(not(feature = "server"), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;
