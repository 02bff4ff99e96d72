//! Tools: scripts of `tests/userland`, each run natively and in a container, with the same output on both.

use crate::differential::{Case, Root};

macro_rules! bash {
    ($name:literal) => {
        Case::new(
            Root::Userland,
            $name,
            &["bash", "-c", include_str!(concat!("../../userland/", $name, ".sh"))],
        )
        .env(super::ENV)
    };
}

/// The scripts.
pub const CASES: &[Case] = &[
    bash!("shells").seconds(60),
    bash!("archives").seconds(120),
    bash!("calculators").seconds(120),
    bash!("compile").seconds(120),
    bash!("git").seconds(240),
    bash!("keys").seconds(120),
    bash!("packages").seconds(120),
    bash!("listings").seconds(60),
    bash!("terminals").seconds(240),
    bash!("debuggers").seconds(120),
];
