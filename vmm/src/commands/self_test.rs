//! `check --self-test`: the KVM platform's own tests, which the image carries.

use std::io;
use std::time::Duration;

use guest::contract::{Force, mode};
use ptrace_fallback::control_pair;
use sentry::platform::Level;

use crate::kvm::{self, End, Machine};
use crate::log;

/// Why it did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no channel for it.
    #[error("the control channel: {0}")]
    Channel(#[from] io::Error),
    /// No machine.
    #[error("kvm: {0}")]
    Machine(#[from] kvm::Error),
    /// Its end was none that the test has.
    #[error("{0}")]
    End(#[from] End),
    /// A feature that there is no way to leave out.
    #[error("--without {0}: not one of {known}", known = names())]
    Feature(String),
}

/// What `--without` takes: the features that the image can do without, and how it is told.
const FEATURES: [(&str, Force); 11] = [
    ("pcid", Force::NO_PCID),
    ("invpcid", Force::NO_INVPCID),
    ("x2apic", Force::NO_X2APIC),
    ("tsc-deadline", Force::NO_TSC_DEADLINE),
    ("xsaveopt", Force::NO_XSAVEOPT),
    ("xsave", Force::NO_XSAVE),
    ("fsgsbase", Force::NO_FSGSBASE),
    ("smap", Force::NO_SMAP),
    ("kvmclock", Force::TSC_CLOCK),
    ("pv-eoi", Force::NO_PV_EOI),
    ("steal-time", Force::NO_STEAL_TIME),
];

/// RAM of the test's machine, bytes.
const MEMORY: u64 = 256 << 20;
/// A machine that takes longer hangs. It takes some 2 s in the test VM.
const LIMIT: Duration = Duration::from_secs(120);

fn names() -> String {
    FEATURES.map(|(name, _)| name).join(", ")
}

/// Runs it; whether all passed. Each finding is a line on standard error.
pub fn run(without: &[String], panic: bool) -> Result<bool, Error> {
    let mut force = Force::empty();
    for name in without {
        let known = FEATURES.iter().find(|(known, _)| known == name);
        force |= known.ok_or_else(|| Error::Feature(name.clone()))?.1;
    }
    let (_host, control) = control_pair()?;
    let level = if log::debugging() { Level::Debug } else { Level::Info };
    let config = kvm::Config {
        memory: MEMORY,
        // The tests of more than one CPU need one, also where this process may use one only.
        cpus: 2,
        control,
        gofers: Vec::new(),
        streams: Vec::new(),
        log: Box::new(|_, line| eprintln!("{line}")),
        level,
        mode: if panic { mode::PANIC } else { mode::SELF_TEST },
        force: force.bits(),
        image: kvm::image::EMBEDDED,
        confine: true,
    };
    match Machine::new(config)?.run_for(LIMIT)? {
        End::Exit { status: 0, panic: None } => Ok(true),
        End::Exit { status: 1, panic: None } => Ok(false),
        end => Err(end.into()),
    }
}
