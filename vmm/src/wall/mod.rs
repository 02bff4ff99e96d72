//! The wall: what a sandbox's processes may ask of the host's kernel, and what is told of it.
//!
//! - [`files`]: what the kernel keeps a gofer from;
//! - [`filter`]: filters of system calls, and reading compiled ones;
//! - [`sandbox`]: the filters of the sandbox's threads;
//! - [`descriptors`]: what each process has open;
//! - [`level`]: how high the wall is for this caller, [`report`]: what is told of all that.

pub mod descriptors;
pub mod files;
pub mod filter;
pub mod level;
pub mod report;
pub mod sandbox;
