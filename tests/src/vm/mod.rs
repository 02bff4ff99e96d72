//! The test VM: a machine in software that has a true KVM.
//!
//! A host without a usable /dev/kvm still runs the KVM tests: QEMU's software CPU implements SVM with nested paging, and
//! Debian's kernel drives it. [`image`] makes what the VM boots from, [`machine`] starts it and hands it jobs, and [`agent`]
//! is what runs inside it: this same binary, statically linked, as the VM's init. [`systemd`] has another init in its place.
//! What a job does is not known here.

pub mod agent;
pub mod image;
pub mod machine;
pub mod systemd;

/// The name of the virtio-serial port between harness and agent.
pub const PORT: &str = "org.ringwall.harness";
/// Where the roots' file system is mounted in the VM.
pub const ROOTS: &str = "/roots";
/// Where the harness finds itself in the VM.
pub const HARNESS: &str = "/bin/harness";
/// Where the runtime under test is in the VM.
pub const RINGWALL: &str = "/bin/ringwall";
/// Where the reference runtime is in the VM.
pub const RUNC: &str = "/bin/runc";
