//! Checks of what is built and of what it is built from, beyond the compiler's and clippy's.

pub mod census;
pub mod image;
pub mod licences;
pub mod readme;
