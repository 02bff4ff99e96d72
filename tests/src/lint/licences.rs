//! Licences of everything that is built in, from `cargo metadata`.
//!
//! Advisories are not checked here: their database is not to be had without a network, and cargo-deny takes longer to build
//! than all of the project. Whoever releases runs `cargo audit` or `cargo deny check advisories`.

use std::process::Command;

use serde_json::Value;

use crate::apt;

/// The licences that a dependency may be under: permissive ones, which Apache-2.0 code may be combined with.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Where every dependency comes from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks all packages of the workspace's lock file for Linux; returns what is wrong and how many there are.
pub fn check() -> Result<(Vec<String>, usize), Box<dyn std::error::Error>> {
    let mut command = Command::new("cargo");
    command.current_dir(crate::workspace());
    command.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    let metadata: Value = serde_json::from_str(&apt::output(&mut command)?)?;
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .ok_or("cargo metadata names no packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let text = |key| package.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = format!("{} {}", text("name"), text("version"));
        match package.get("source").and_then(Value::as_str) {
            // Ours.
            None => continue,
            Some(REGISTRY) => (),
            Some(other) => findings.push(format!("{name} comes from {other}")),
        }
        let licence = text("license");
        if !permitted(licence) {
            findings.push(format!("{name} has the licence {licence:?}, which is not on the list"));
        }
    }
    Ok((findings, packages.len()))
}

/// Whether an SPDX expression can be satisfied with what is allowed. (The old `MIT/Apache-2.0` means `OR`.)
fn permitted(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest) && rest.is_empty()
}

/// `a OR b`; leaves what follows it in `words`.
fn either(words: &mut &[&str]) -> bool {
    let mut met = both(words);
    while let Some(("OR", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) {
        *words = rest;
        // Not short-circuited: the right side must be read in any case.
        let right = both(words);
        met = met || right;
    }
    met
}

/// `a AND b`.
fn both(words: &mut &[&str]) -> bool {
    let mut met = one(words);
    while let Some(("AND", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) {
        *words = rest;
        let right = one(words);
        met = met && right;
    }
    met
}

/// A licence, perhaps with an exception, or an expression in brackets.
fn one(words: &mut &[&str]) -> bool {
    match **words {
        ["(", ..] => {
            *words = &words[1..];
            let met = either(words);
            let closed = words.first() == Some(&")");
            *words = words.get(1..).unwrap_or_default();
            met && closed
        }
        [licence, "WITH", exception, ..] => {
            *words = &words[3..];
            ALLOWED.contains(&licence)
                || ALLOWED.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, ..] => {
            *words = &words[1..];
            ALLOWED.contains(&licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::permitted;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        ] {
            assert!(permitted(good), "{good}");
        }
        for bad in
            ["", "GPL-3.0", "MIT AND GPL-2.0", "(MIT OR ISC) AND AGPL-3.0", "(MIT", "MIT ISC"]
        {
            assert!(!permitted(bad), "{bad}");
        }
    }
}
