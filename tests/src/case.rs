//! Running one test in a process of its own, on the host or in the VM: `harness case NAME`.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::runtime::Runtime;
use crate::{cases, differential, docker, process, userland};

/// Exit status of a test that cannot run here, with the reason on standard output.
pub const SKIPPED: i32 = 77;

/// What a test needs to know of where it runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The runtime under test.
    pub runtime: Runtime,
    /// The reference.
    pub reference: Runtime,
    /// The folder of the roots.
    pub roots: PathBuf,
    /// How many times slower than an ordinary machine this one is.
    pub slow: u32,
}

/// How a test came out.
#[derive(Debug)]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// As it should be; the text says what was expected to differ, and did.
    Noted(String),
    /// Not; the text says why.
    Failed(String),
    /// It says nothing about this machine or runtime; the text says why.
    Skipped(String),
}

/// The names of all tests that run containers.
pub fn names() -> Vec<String> {
    let cases = cases::all().into_iter().map(|(name, _)| name);
    cases.chain(crate::lifecycle::names()).chain(docker::names()).collect()
}

/// Runs a test by its name. Mounts are made in a mount namespace of its own, and end with the process.
pub fn run(name: &str, place: &Place) -> io::Result<Verdict> {
    process::become_subreaper()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>)?;
    if let Some((_, case)) = cases::all().into_iter().find(|(known, _)| known == name) {
        let outcome =
            differential::run(&case, &place.reference, &place.runtime, &place.roots, place.slow)?;
        return Ok(outcome.map_or_else(Verdict::Failed, |()| Verdict::Passed));
    }
    if name.starts_with(userland::PREFIX) {
        return userland::run(name, place);
    }
    if name.starts_with(docker::PREFIX) {
        return docker::run(name, place);
    }
    crate::lifecycle::run(name, place)
}
