//! The long run: entries one after the other, in shards, resumed where it stopped, with dated results kept.
//!
//! Below `target/userland/results/PLATFORM/` each entry has a file with the date, the binary it ran with, its verdict and
//! what it said. An entry that has passed with the present binary is not run again. `summary` beside them is the table of
//! the last run; older ones are kept as `summary-DATE`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Entry, PREFIX, entries, root};
use crate::case::SKIPPED;
use crate::process::End;
use crate::runner::{self, Prepared, Suite, place};
use crate::runtime::Scratch;

type Error = Box<dyn std::error::Error>;

/// How long making the containers of an entry may take beside its own runs.
const GRACE: Duration = Duration::from_secs(60);

/// Entries that take the test VM, whose CPU is some seven times slower, from ten minutes to hours: on KVM they are run
/// when they are named, or with `--all`.
const LONG: &[&str] = &[
    "userland/python/test_signal",
    "userland/python/test_subprocess",
    "userland/python/test_threading",
    "userland/python/test_io",
    "userland/python/test_zipfile",
    "userland/python/test_tarfile",
    "userland/python/test_concurrent_futures",
    "userland/python/test_multiprocessing_fork",
    "userland/python/test_multiprocessing_spawn",
    "userland/python/test_asyncio.test_tasks",
    "userland/python/test_asyncio.test_subprocess",
    "userland/tools/keys",
];

/// What the command line asks for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only entries whose names (userland/list/entry) contain one of these.
    select: Vec<String>,
    /// Names the entries and runs none.
    #[arg(long)]
    list: bool,
    /// The platform; KVM runs in the test VM where this machine has none that is sane.
    #[arg(long, default_value = "ptrace", value_parser = ["ptrace", "kvm"])]
    platform: String,
    /// Only every Nth entry, beginning with the Ith, as I/N.
    #[arg(long, value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// Runs also what has passed with the present binary.
    #[arg(long)]
    again: bool,
    /// On KVM, runs also the entries that take very long in the test VM, without their being named.
    #[arg(long)]
    all: bool,
    /// The cargo profile in which Ringwall is built.
    #[arg(long, default_value = "release", value_parser = ["release", "dev"])]
    profile: String,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let pair = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    pair.filter(|(i, n)| *i >= 1 && i <= n).ok_or_else(|| "not I/N".to_owned())
}

/// Runs what was asked for; returns whether all of it passed.
pub fn run(options: &Options) -> Result<bool, Error> {
    let (first, step) = options.shard.unwrap_or((1, 1));
    let whole = options.all || options.platform != "kvm";
    let wanted = |name: &str| match options.select.as_slice() {
        [] => whole || !LONG.contains(&name),
        parts => parts.iter().any(|part| name.contains(part.as_str())),
    };
    let chosen: Vec<(String, Entry)> = entries()
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .skip(first - 1)
        .step_by(step)
        .collect();
    if chosen.is_empty() {
        return Err("no entry has such a name (--list names them)".into());
    }
    if options.list {
        chosen.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(true);
    }
    let shared = runner::Options {
        select: Vec::new(),
        list: false,
        platform: Some(options.platform.clone()),
        runtime: None,
        profile: options.profile.clone(),
        fail_fast: false,
        repeat: 1,
    };
    let mut prepared = Prepared::new(&shared)?;
    let cache = crate::cache();
    prepared.roots = root::make(&cache)?;
    prepared.disks = cache.join("userland");
    let results = crate::workspace().join("target/userland/results").join(&options.platform);
    fs::create_dir_all(&results)?;
    let binary = digest(prepared.ringwall.as_deref())?;
    let suite = if options.platform == "kvm" { Suite::Kvm } else { Suite::Ptrace };
    let scratch = Scratch::new("userland")?;
    let mut placed = None;
    for (name, entry) in &chosen {
        let file = results.join(name.trim_start_matches(PREFIX).replace('/', "."));
        if !options.again && passed(&file, &binary) {
            println!("done {name} (with this binary, see {})", file.display());
            continue;
        }
        let (machine, paths, slow) = match &mut placed {
            Some(placed) => placed,
            none => none.insert(place(suite, &mut prepared, &shared, scratch.path())?),
        };
        let limit = (entry.limit() * 2 + GRACE) * *slow;
        let job = paths.job(&format!("{}/{name}", options.platform), suite, *slow, limit);
        let started = Instant::now();
        let mut output = Vec::new();
        let ended = machine.run(&job, &mut |_, bytes| output.extend_from_slice(bytes))?;
        let mut text = String::from_utf8_lossy(&output).into_owned();
        let good = ended.end == End::Exit(0) && ended.left_behind.is_empty();
        let skipped = ended.end == End::Exit(SKIPPED);
        if !good && !skipped && ended.end != End::Exit(1) {
            text.push_str(&format!("the entry's own process: {}\n", ended.end));
        }
        if !ended.left_behind.is_empty() {
            text.push_str(&format!("left behind: {}\n", ended.left_behind.join(", ")));
        }
        let word = match (good, skipped) {
            (true, _) => "ok",
            (_, true) => "skip",
            _ => "FAIL",
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("{word:4} {name} ({seconds:.1} s)");
        text.lines().for_each(|line| println!("     {line}"));
        fs::write(file, format!("{word} {} {binary} {seconds:.1} s\n{text}", date()))?;
    }
    summarize(&results)
}

/// Whether an entry has passed with this binary.
fn passed(file: &Path, binary: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let first: Vec<&str> = text.lines().next().unwrap_or_default().split(' ').collect();
    first.first() == Some(&"ok") && first.contains(&binary)
}

/// Writes and prints the table of all entries as they last ran on the platform; returns whether all passed.
fn summarize(results: &Path) -> Result<bool, Error> {
    let mut table = String::new();
    let mut counts = [0; 4];
    let mut failed = Vec::new();
    for (name, _) in entries() {
        let file = results.join(name.trim_start_matches(PREFIX).replace('/', "."));
        let text = fs::read_to_string(file).unwrap_or_default();
        let first = text.lines().next().unwrap_or("not run");
        let which = match first.split(' ').next() {
            Some("ok") => 0,
            Some("FAIL") => 1,
            Some("skip") => 2,
            _ => 3,
        };
        counts[which] += 1;
        if which == 1 {
            failed.push(name.clone());
        }
        table.push_str(&format!("{name}: {first}\n"));
        let lines =
            text.lines().filter(|l| l.starts_with("differs: ") || l.starts_with("expected: "));
        lines.for_each(|line| table.push_str(&format!("  {line}\n")));
    }
    fs::write(results.join("summary"), &table)?;
    fs::write(results.join(format!("summary-{}", date())), &table)?;
    println!("\n{}: the table of all entries", results.join("summary").display());
    failed.iter().for_each(|name| println!("failed: {name}"));
    println!("{} were not run yet", counts[3]);
    println!("{} passed, {} failed, {} skipped", counts[0], counts[1], counts[2]);
    Ok(failed.is_empty())
}

fn digest(binary: Option<&Path>) -> Result<String, Error> {
    let mut hasher = DefaultHasher::new();
    let path: PathBuf = binary.ok_or("no binary")?.to_owned();
    fs::read(path)?.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// The time, in UTC, as `YYYY-MM-DDTHH:MM:SSZ`.
fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A day since 1970 in the Gregorian calendar, by eras of 400 years that begin on 1 March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let index = (5 * of_year + 2) / 153;
    let month = if index < 10 { index + 3 } else { index - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * index + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_entries_are_entries() {
        for name in LONG {
            assert!(entries().iter().any(|(known, _)| known == name), "{name}");
        }
    }

    #[test]
    fn days_have_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_783), (2026, 11, 26));
    }

    #[test]
    fn shards_are_read() {
        assert_eq!(shard("2/4"), Ok((2, 4)));
        assert!(shard("5/4").is_err() && shard("0/4").is_err() && shard("x").is_err());
    }
}
