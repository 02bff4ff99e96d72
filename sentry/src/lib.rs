//! The Linux kernel surface of Ringwall.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
