//! A whole userland: Debian as it is installed, on Ringwall and on Linux, and only the differences count.
//!
//! A long suite beside the quick one: `tests/run userland [--platform P] [FILTER…]`. Its entries are lists of what must run:
//! CPython's own regression tests ([`python`]), stress-ng's stressors ([`stress`]), and tools ([`tools`]). Each entry runs
//! natively and in a container on the same root, which [`root`] makes with debootstrap. What fails and is known to, with its
//! cause, stands in `tests/userland/expected` ([`expected`]) and from there in the README; an entry that fails otherwise, or
//! passes against what is written there, fails the run. [`run`] shards, resumes and keeps dated results.

pub mod expected;
pub mod python;
pub mod root;
pub mod run;
pub mod stress;
pub mod tools;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::json;

use crate::bundle::{self, Bundle};
use crate::case::{Place, Verdict};
use crate::differential;
use crate::process::Finished;
use crate::runtime::{Runtime, Scratch};

/// The name that begins every entry's.
pub const PREFIX: &str = "userland/";

/// Variables that every entry runs with.
const ENV: &[(&str, &str)] = &[("LC_ALL", "C.UTF-8")];

/// How one part of an entry came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it should.
    Passed,
    /// It was not tried, for a reason of its own.
    Skipped(String),
    /// Not as it should.
    Failed(String),
}

/// The parts of an entry by name: single tests of a module, properties of a stressor.
pub type Parts = BTreeMap<String, Part>;

/// One entry of the lists.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// A module of CPython's regression tests.
    Python(&'static python::Module),
    /// A stressor of stress-ng.
    Stress(&'static str),
    /// A script that tries a tool, compared as every container test is.
    Tool(&'static differential::Case),
}

/// All entries by name.
pub fn entries() -> Vec<(String, Entry)> {
    let python = python::MODULES.iter().map(|m| (format!("python/{}", m.name), Entry::Python(m)));
    let stress = stress::STRESSORS.iter().map(|s| (format!("stress/{s}"), Entry::Stress(s)));
    let tools = tools::CASES.iter().map(|c| (format!("tools/{}", c.name), Entry::Tool(c)));
    python.chain(stress).chain(tools).map(|(name, e)| (format!("{PREFIX}{name}"), e)).collect()
}

impl Entry {
    /// How long one of its two runs may take on an unburdened host.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(match self {
            Entry::Python(module) => module.seconds.into(),
            Entry::Stress(_) => stress::LIMIT,
            Entry::Tool(case) => case.seconds.into(),
        })
    }
}

/// Runs an entry by its name; the text of a verdict says what differs and what was expected to.
pub fn run(name: &str, place: &Place) -> io::Result<Verdict> {
    let found = entries().into_iter().find(|(known, _)| known == name);
    let (_, entry) = found.ok_or_else(|| io::Error::other(format!("no entry is named {name}")))?;
    let short = name.strip_prefix(PREFIX).unwrap_or(name);
    let platform = place.runtime.platform.as_deref().unwrap_or("runc");
    let known = expected::of(short, platform);
    if let Some(line) = known.iter().find(|line| !line.run && line.part == "*") {
        return Ok(Verdict::Skipped(format!("expected: {}", line.cause)));
    }
    let limit = entry.limit() * place.slow;
    match entry {
        Entry::Tool(case) => {
            let done = differential::run(
                case,
                &place.reference,
                &place.runtime,
                &place.roots,
                place.slow,
            )?;
            let part = match done {
                Ok(()) => Part::Passed,
                Err(why) => Part::Failed(why),
            };
            let should = Parts::from([("output".to_owned(), Part::Passed)]);
            Ok(judge(&should, &Parts::from([("output".to_owned(), part)]), &known, ""))
        }
        Entry::Python(module) => {
            let argv = python::command(module, &known, limit);
            let parts = |runtime: &Runtime, role: &str| -> io::Result<(Parts, Finished)> {
                let done = run_one(&argv, runtime, place, role, limit)?;
                Ok((python::parts(&done), done))
            };
            let (should, _) = parts(&place.reference, "reference")?;
            let (is, done) = parts(&place.runtime, "runtime")?;
            Ok(judge(&should, &is, &known, &done.out()))
        }
        Entry::Stress(stressor) => {
            let argv = stress::command(stressor, place.slow);
            let should = run_one(&argv, &place.reference, place, "reference", limit)?;
            let is = run_one(&argv, &place.runtime, place, "runtime", limit)?;
            let output = is.out() + &is.err();
            Ok(judge(
                &stress::parts(stressor, &should),
                &stress::parts(stressor, &is),
                &known,
                &output,
            ))
        }
    }
}

fn run_one(
    argv: &[String],
    runtime: &Runtime,
    place: &Place,
    role: &str,
    limit: Duration,
) -> io::Result<Finished> {
    let scratch = Scratch::new(role)?;
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut config = bundle::config(&words, ENV);
    // Some stressors open more than a thousand files, or fill more than a small /tmp.
    config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096 }]);
    let mounts = config["mounts"].as_array_mut().into_iter().flatten();
    for mount in mounts.filter(|mount| mount["destination"] == "/tmp") {
        mount["options"] = json!(["nosuid", "nodev", "mode=1777", "size=1g"]);
    }
    let lower = place.roots.join(differential::Root::Userland.name());
    let bundle = Bundle::new(&scratch.path().join("bundle"), &lower, &config)?;
    let id = format!("userland-{}-{role}", std::process::id());
    let args = ["run", "--bundle", &bundle.folder().display().to_string(), &id];
    runtime.run(scratch.path(), &args, b"", limit)
}

/// Compares an entry's parts with those of the native run: only a part that passed there, or was skipped, can fail here.
fn judge(should: &Parts, is: &Parts, known: &[expected::Line], output: &str) -> Verdict {
    let mut bad = Vec::new();
    let mut noted = Vec::new();
    let mut passed = 0;
    for (name, part) in should {
        if matches!(part, Part::Failed(_)) {
            continue;
        }
        let why = match (part, is.get(name)) {
            (_, Some(Part::Passed)) | (Part::Skipped(_), Some(Part::Skipped(_))) => None,
            (_, Some(Part::Failed(why))) => Some(why.trim_end().to_owned()),
            (_, Some(Part::Skipped(why))) => Some(format!("skipped: {why}")),
            (_, None) => Some("it did not run".to_owned()),
        };
        let expected = known.iter().find(|line| line.names(name));
        match (why, expected) {
            (None, Some(line)) if line.always => {
                bad.push(format!("{name}: passes, though it is expected to fail ({})", line.cause));
            }
            (None, _) => passed += 1,
            (Some(why), Some(line)) => noted.push(format!("{name}: {} [{why}]", line.cause)),
            (Some(why), None) => bad.push(format!("{name}: {why}")),
        }
    }
    // What ran only here: a failure that hides behind a missing native result.
    for (name, part) in is {
        if let (None, Part::Failed(why)) = (should.get(name), part) {
            bad.push(format!("{name}: {why} (and natively it did not run)"));
        }
    }
    if should.values().all(|part| matches!(part, Part::Failed(_))) {
        bad.push("natively nothing passed".to_owned());
    }
    let mut text = format!("{passed} of {} as natively\n", should.len());
    for (word, lines) in [("differs", &bad), ("expected", &noted)] {
        for line in lines {
            text.push_str(&format!("{word}: {line}\n"));
        }
    }
    if bad.is_empty() {
        return Verdict::Noted(text);
    }
    let log = output.split("<testsuites").next().unwrap_or_default();
    let tail: Vec<&str> = log.lines().collect();
    for line in &tail[tail.len().saturating_sub(60)..] {
        text.push_str(&format!("  | {line}\n"));
    }
    Verdict::Failed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(&str, Part)]) -> Parts {
        list.iter().map(|(name, part)| ((*name).to_owned(), part.clone())).collect()
    }

    #[test]
    fn only_differences_count() {
        let broken = Part::Failed("x".into());
        let should = parts(&[("a", Part::Passed), ("b", broken.clone())]);
        let good = judge(&should, &parts(&[("a", Part::Passed), ("b", broken.clone())]), &[], "");
        assert!(matches!(good, Verdict::Noted(_)));
        for bad in [parts(&[("a", broken)]), parts(&[]), parts(&[("a", Part::Skipped("s".into()))])]
        {
            assert!(matches!(judge(&should, &bad, &[], ""), Verdict::Failed(_)), "{bad:?}");
        }
    }

    #[test]
    fn an_expected_failure_must_fail() {
        let known = expected::parse("python/x\ta*\tboth\tnot there").unwrap();
        let should = parts(&[("a1", Part::Passed)]);
        let fails = parts(&[("a1", Part::Failed("x".into()))]);
        assert!(matches!(judge(&should, &fails, &known, ""), Verdict::Noted(_)));
        assert!(matches!(judge(&should, &should, &known, ""), Verdict::Failed(_)));
    }
}
