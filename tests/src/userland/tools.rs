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
pub const CASES: &[Case] = &[bash!("archives").seconds(120)];
