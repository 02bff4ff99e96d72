//! What needs more than one crate of Ringwall to be tested, and the harness that runs it.
//!
//! The principle: Linux is the oracle, and one command runs everything. A container test runs its program under the
//! reference runtime first and under Ringwall then, and compares. The same test binary does so on the host (ptrace
//! platform) and in a VM that has a true KVM (KVM platform): a test is a [`protocol::Job`], and only where it runs differs.

pub mod apt;
pub mod bundle;
pub mod case;
pub mod cases;
pub mod cpio;
pub mod differential;
pub mod docker;
pub mod hostile;
pub mod lifecycle;
pub mod lint;
pub mod native;
pub mod process;
pub mod protocol;
pub mod roots;
pub mod runner;
pub mod runtime;
pub mod userland;
pub mod vm;

use std::path::{Path, PathBuf};

/// The root of the workspace, as it was built.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Where downloads and root file systems are kept between runs: `target/test-cache`, or `RINGWALL_TEST_CACHE`.
pub fn cache() -> PathBuf {
    std::env::var_os("RINGWALL_TEST_CACHE")
        .map_or_else(|| workspace().join("target/test-cache"), PathBuf::from)
}
