//! The bootable image, and the versioned contract between the image and the host half.
//!
//! This library is the contract alone ([`contract`]); it is `no_std` and has no code but checks, so
//! that both sides use the same constants and layouts. The image itself is the binary target
//! `image` of this crate.
#![no_std]
#![forbid(unsafe_code)]

pub mod contract;
