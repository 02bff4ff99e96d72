//! `ringwall bench`.

use std::path::Path;

use super::Error;
use crate::bench::{Options, run as measure};
use crate::check;
use crate::cli::{Bench, PlatformChoice};
use crate::state::Root;

/// Measures natively and on the platform that was asked for, or on each that works.
pub fn run(args: &Bench, platform: PlatformChoice) -> Result<(), Error> {
    let platforms = match platform {
        PlatformChoice::Kvm => vec!["kvm".into()],
        PlatformChoice::Ptrace => vec!["ptrace".into()],
        PlatformChoice::Auto => {
            let report = check::report();
            let works = [("kvm", report.kvm.sane()), ("ptrace", report.ptrace.problem.is_none())];
            works.into_iter().filter(|(_, works)| *works).map(|(name, _)| name.into()).collect()
        }
    };
    let options = Options {
        json: args.json,
        only: args.only.clone(),
        runs: args.runs,
        platforms,
        rootfs: args.rootfs.clone(),
    };
    let counters = |root: &Path, id: &str| {
        super::lifecycle::counters(&Root::at(root), id).map_err(|e| e.to_string())
    };
    measure(&options, &counters).map_err(Error::Bench)
}
