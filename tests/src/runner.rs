//! The run: suites in order, each within its time budget, one line a test, and a last line that counts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::apt::Apt;
use crate::case::{Place, SKIPPED};
use crate::process::{self, End, Stream};
use crate::protocol::{Ended, Job};
use crate::runtime::Runtime;
use crate::vm::image::{self, Parts};
use crate::vm::machine::{Config, Vm};
use crate::{case, docker, hostile, lifecycle, lint, roots, vm};

type Error = Box<dyn std::error::Error>;

/// How many times slower than this machine the VM is taken to be, in time limits. Code runs some 7 times slower there, but what
/// runs takes a tenth of its limit; a test that hangs takes all of it, and the suite has a budget.
const VM_SLOWNESS: u32 = 4;
/// A single container test's limit on the host, beyond which its process is ended (its own limits are shorter).
const CASE_LIMIT: Duration = Duration::from_secs(150);
/// The lints' names.
const LINTS: [&str; 4] = ["lint/unsafe", "lint/licences", "lint/readme", "lint/image"];
/// What the names of tests begin with that need systemd.
const SYSTEMD: &str = "systemd/";
/// How long building the runtime may take.
const BUILD_BUDGET: Duration = Duration::from_secs(1200);

/// A group of tests with a common budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// `cargo test` of the workspace.
    Unit,
    /// What the compiler does not check.
    Lint,
    /// Container tests on the ptrace platform, on this machine.
    Ptrace,
    /// Container tests on the KVM platform: on this machine if its KVM is sane, else in the VM.
    Kvm,
    /// Containers whose cgroups systemd makes, with each runtime and platform, in a VM that systemd has booted.
    Systemd,
}

impl Suite {
    const ALL: [Suite; 5] = [Suite::Unit, Suite::Lint, Suite::Ptrace, Suite::Kvm, Suite::Systemd];

    /// Its name, which begins its tests' names.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Unit => "unit",
            Suite::Lint => "lint",
            Suite::Ptrace => "ptrace",
            Suite::Kvm => "kvm",
            Suite::Systemd => "systemd",
        }
    }

    fn budget(self) -> Duration {
        Duration::from_secs(match self {
            Suite::Unit => 900,
            Suite::Lint => 1300,
            Suite::Ptrace => 600,
            Suite::Kvm => 1500,
            Suite::Systemd => 300,
        })
    }
}

/// What the command line asks for.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only tests whose names (suite/file/test) contain one of these.
    pub select: Vec<String>,
    /// Names the tests and runs none.
    #[arg(long)]
    pub list: bool,
    /// Only the container tests of one platform.
    #[arg(long, value_parser = ["ptrace", "kvm"])]
    pub platform: Option<String>,
    /// A runtime in Ringwall's place: a command of words separated by blanks, or "runc" for the reference itself.
    #[arg(long)]
    pub runtime: Option<String>,
    /// The cargo profile in which Ringwall is built.
    #[arg(long, default_value = "release", value_parser = ["release", "dev"])]
    pub profile: String,
    /// Stops at the first failure; the tests not run are not counted.
    #[arg(long)]
    pub fail_fast: bool,
    /// Runs the container tests so many times over, each suite with as many budgets, for what fails once in a hundred.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
}

#[derive(Default)]
struct Tally {
    passed: u32,
    skipped: u32,
    failed: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.skipped += other.skipped;
        self.failed.extend(other.failed);
    }
}

/// Where container tests run.
pub(crate) enum Machine {
    Host,
    Vm(Box<Vm>),
}

/// How the harness and what it needs are reached on a machine.
pub(crate) struct Paths {
    harness: String,
    runtime: String,
    reference: String,
    roots: String,
}

impl Paths {
    /// The job that runs one container test, whose name begins with the suite's.
    pub(crate) fn job(&self, name: &str, suite: Suite, slow: u32, limit: Duration) -> Job {
        let short = name.split_once('/').map_or(name, |(_, short)| short);
        let (platform, short, runtime) = match (suite, short.split_once('/')) {
            (Suite::Systemd, Some((platform, short))) => {
                let runtime = if platform == "runc" { vm::RUNC } else { &self.runtime };
                (platform, format!("{SYSTEMD}{short}"), runtime)
            }
            _ => (suite.name(), short.to_owned(), self.runtime.as_str()),
        };
        let words = [
            self.harness.as_str(),
            "case",
            &short,
            "--platform",
            platform,
            "--runtime",
            runtime,
            "--reference",
            &self.reference,
            "--roots",
            &self.roots,
            "--slow",
            &slow.to_string(),
        ];
        Job {
            name: name.to_owned(),
            argv: words.map(str::to_owned).to_vec(),
            env: Vec::new(),
            stdin: Vec::new(),
            limit,
        }
    }
}

/// Runs what was asked for; returns whether all of it passed.
pub fn run(options: &Options) -> Result<bool, Error> {
    let started = Instant::now();
    let selected = select(options);
    if options.list {
        for name in selected.values().flatten() {
            println!("{name}");
        }
        return Ok(true);
    }
    let mut tally = Tally::default();
    let count: usize = selected.values().map(Vec::len).sum();
    if count == 0 {
        return Err("no test has such a name (--list names them)".into());
    }
    for (suite, names) in &selected {
        println!(
            "suite {}: {} entries, budget {} s",
            suite.name(),
            names.len(),
            suite.budget().as_secs()
        );
    }

    let mut prepared = None;
    for (suite, names) in &selected {
        let suite_started = Instant::now();
        println!("\n== {}", suite.name());
        let outcome = match suite {
            Suite::Unit => unit_tests(suite.budget()),
            Suite::Lint => Ok(lints(names, &options.profile)),
            Suite::Ptrace | Suite::Kvm | Suite::Systemd => (|| {
                let prepared = match &mut prepared {
                    Some(prepared) => prepared,
                    none => none.insert(Prepared::new(options)?),
                };
                containers(*suite, names, prepared, options)
            })(),
        };
        let outcome = outcome.unwrap_or_else(|error| {
            // Whatever could not run has failed, loudly.
            println!("FAIL {}: {error}", suite.name());
            Tally {
                failed: vec![format!("{} (could not run: {error})", suite.name())],
                ..Tally::default()
            }
        });
        println!(
            "== {}: {} passed, {} failed, {} skipped in {:.0} s of {} s",
            suite.name(),
            outcome.passed,
            outcome.failed.len(),
            outcome.skipped,
            suite_started.elapsed().as_secs_f64(),
            suite.budget().as_secs()
        );
        let stop = options.fail_fast && !outcome.failed.is_empty();
        tally.add(outcome);
        if stop {
            break;
        }
    }

    println!("\nall of it took {:.0} s", started.elapsed().as_secs_f64());
    for name in &tally.failed {
        println!("failed: {name}");
    }
    let skipped =
        if tally.skipped > 0 { format!(", {} skipped", tally.skipped) } else { String::new() };
    println!("{} passed, {} failed{skipped}", tally.passed, tally.failed.len());
    Ok(tally.failed.is_empty())
}

fn select(options: &Options) -> BTreeMap<Suite, Vec<String>> {
    let wanted = |name: &str| {
        options.select.is_empty() || options.select.iter().any(|part| name.contains(part.as_str()))
    };
    let mut selected = BTreeMap::new();
    for suite in Suite::ALL {
        if options.platform.as_deref().is_some_and(|platform| platform != suite.name()) {
            continue;
        }
        let names = match suite {
            Suite::Unit => vec!["unit/cargo-test".to_owned()],
            Suite::Lint => LINTS.map(str::to_owned).to_vec(),
            Suite::Ptrace | Suite::Kvm => {
                // Tests of the machine are of KVM's alone; all of Docker's would take an hour of the VM's time, and run there when
                // they are asked for.
                let asked = options.select.iter().any(|part| part.starts_with("kvm/docker/"));
                let timed = options.select.iter().any(|part| part.ends_with(docker::time::NAME));
                let here = |name: &String| match suite {
                    _ if name == docker::time::NAME => timed,
                    _ if name.starts_with(SYSTEMD) => false,
                    Suite::Kvm if name == docker::podman::PODS => false,
                    Suite::Kvm if name.starts_with(docker::PREFIX) => {
                        asked || docker::IN_VM.contains(&name.as_str())
                    }
                    Suite::Kvm => true,
                    _ => !name.starts_with("machine/") && name != docker::ESSENCE,
                };
                case::names()
                    .into_iter()
                    .filter(here)
                    .map(|name| format!("{}/{name}", suite.name()))
                    .collect()
            }
            Suite::Systemd => {
                let all = case::names();
                let tests = all.iter().filter_map(|name| name.strip_prefix(SYSTEMD));
                let each = |test| {
                    let by = ["runc", "ptrace", "kvm"].into_iter();
                    let by = by.filter(move |by| lifecycle::systemd_is_with(test, by));
                    by.map(move |by| format!("{SYSTEMD}{by}/{test}"))
                };
                tests.flat_map(each).collect()
            }
        };
        let names: Vec<String> = names.into_iter().filter(|name| wanted(name)).collect();
        if !names.is_empty() {
            selected.insert(suite, names);
        }
    }
    selected
}

/// What all container suites share.
pub(crate) struct Prepared {
    cache: PathBuf,
    apt: Apt,
    /// The folder of the roots.
    pub(crate) roots: PathBuf,
    /// Where the image of the roots for the VM is kept.
    pub(crate) disks: PathBuf,
    /// runc on this machine.
    runc: String,
    /// Ringwall as it was built, unless another runtime stands in its place.
    pub(crate) ringwall: Option<PathBuf>,
    /// The hostile image and what boots it, where a test wants them.
    hostile: Option<hostile::Built>,
}

impl Prepared {
    pub(crate) fn new(options: &Options) -> Result<Prepared, Error> {
        let ringwall = match options.runtime {
            Some(_) => None,
            None => Some(build(&options.profile)?),
        };
        let cache = crate::cache();
        fs::create_dir_all(&cache)?;
        let mut apt = Apt::new(&cache.join("apt"))?;
        let programs = crate::workspace().join("tests/programs");
        let roots = roots::make(&cache, &mut apt, &programs)?;
        let runc = image::fetch_runc(&cache, &mut apt)?.join(" ");
        Ok(Prepared { disks: cache.clone(), cache, apt, roots, runc, ringwall, hostile: None })
    }

    /// Where containers run on this machine, of the reference alone.
    fn here(&self) -> Result<Place, Error> {
        let harness = std::env::current_exe()?;
        let reference = Runtime::parse(&format!("{} native", harness.display()), None);
        Ok(Place { runtime: reference.clone(), reference, roots: self.roots.clone(), slow: 1 })
    }
}

/// Builds Ringwall; returns the binary.
fn build(profile: &str) -> Result<PathBuf, Error> {
    println!("building ringwall ({profile})");
    let mut command = Command::new("cargo");
    command.current_dir(crate::workspace()).args([
        "build",
        "--quiet",
        "--package",
        "vmm",
        "--profile",
        profile,
    ]);
    process::show("building ringwall", &mut command, BUILD_BUDGET)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).ok_or("no target folder")?;
    Ok(target.join(folder).join("ringwall"))
}

/// Whether this machine's own KVM can be used: Ringwall's probe decides.
fn host_kvm_is_sane(ringwall: &Path) -> bool {
    let mut command = Command::new(ringwall);
    command.args(["check", "--json"]);
    let Ok(done) = process::run(&mut command, b"", Duration::from_secs(20)) else { return false };
    let verdict: Option<serde_json::Value> = serde_json::from_slice(&done.stdout).ok();
    let usable = verdict
        .as_ref()
        .and_then(|v| v.pointer("/kvm/usable"))
        .and_then(serde_json::Value::as_bool);
    done.ok() && usable.unwrap_or(false)
}

fn containers(
    suite: Suite,
    names: &[String],
    prepared: &mut Prepared,
    options: &Options,
) -> Result<Tally, Error> {
    let deadline = Instant::now() + suite.budget().saturating_mul(options.repeat);
    let scratch = crate::runtime::Scratch::new("harness")?;
    if names.iter().any(|name| name.ends_with(hostile::TEST)) {
        prepared.hostile = Some(hostile::build()?);
    }
    let (mut machine, paths, slow) = place(suite, prepared, options, scratch.path())?;

    let mut tally = Tally::default();
    for name in std::iter::repeat_n(names, options.repeat as usize).flatten() {
        if Instant::now() >= deadline {
            println!("FAIL {name}: not run, the suite's budget is spent");
            tally.failed.push(format!("{name} (not run: budget spent)"));
            continue;
        }
        let limit =
            (CASE_LIMIT * slow.min(4)).min(deadline.saturating_duration_since(Instant::now()));
        let mut job = paths.job(name, suite, slow, limit);
        if matches!(machine, Machine::Vm(_)) && name.ends_with("/calls/answers") {
            // The VM's Linux is older than the one whose answers count, which may be this machine's.
            job.env.extend(lifecycle::answers_for_vm(&prepared.here()?)?);
        }
        if let (true, Some(built)) = (name.ends_with(hostile::TEST), &prepared.hostile) {
            job.env.push(built.place(matches!(machine, Machine::Vm(_))));
        }
        let mut output = Vec::new();
        let ended = machine.run(&job, &mut |_, bytes| output.extend_from_slice(bytes))?;
        let text = String::from_utf8_lossy(&output);
        report(name, &ended, &text, &mut tally);
        if options.fail_fast && !tally.failed.is_empty() {
            break;
        }
    }
    Ok(tally)
}

/// Where a suite's containers run: the machine, ready, with what is found there and how slow it is.
pub(crate) fn place(
    suite: Suite,
    prepared: &mut Prepared,
    options: &Options,
    folder: &Path,
) -> Result<(Machine, Paths, u32), Error> {
    let on_host = match (suite, &prepared.ringwall) {
        (Suite::Kvm, Some(ringwall)) => host_kvm_is_sane(ringwall),
        (Suite::Kvm, None) | (Suite::Systemd, _) => false,
        _ => true,
    };
    let harness = std::env::current_exe()?;
    let runtime = |runc: &str, ringwall: &str| match options.runtime.as_deref() {
        Some("runc") => runc.to_owned(),
        Some(other) => other.to_owned(),
        None => ringwall.to_owned(),
    };
    let (mut machine, paths, slow) = if on_host {
        let ringwall =
            prepared.ringwall.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        let paths = Paths {
            harness: harness.display().to_string(),
            runtime: runtime(&prepared.runc, &ringwall),
            reference: format!("{} native", harness.display()),
            roots: prepared.roots.display().to_string(),
        };
        (Machine::Host, paths, 1)
    } else {
        let vm = make_vm(prepared, suite == Suite::Systemd, &harness, folder)?;
        let paths = Paths {
            harness: vm::HARNESS.to_owned(),
            runtime: runtime(vm::RUNC, vm::RINGWALL),
            reference: format!("{} native", vm::HARNESS),
            roots: vm::ROOTS.to_owned(),
        };
        (Machine::Vm(Box::new(vm)), paths, VM_SLOWNESS)
    };
    if let Machine::Vm(vm) = &mut machine {
        let booting = Instant::now();
        let greeting = vm.start()?.unwrap_or_default();
        println!("the test VM is up after {:.1} s: {greeting}", booting.elapsed().as_secs_f64());
    }
    Ok((machine, paths, slow))
}

fn make_vm(
    prepared: &mut Prepared,
    systemd: bool,
    harness: &Path,
    folder: &Path,
) -> Result<Vm, Error> {
    let systemd = match systemd {
        true => Some(vm::systemd::disk(&prepared.cache, &mut prepared.apt)?),
        false => None,
    };
    let parts = Parts::fetch(&prepared.cache, &mut prepared.apt)?;
    let disk = roots::disk(&prepared.disks, &prepared.roots)?;
    let initramfs = folder.join("initramfs");
    let mut extra: Vec<(String, PathBuf)> =
        prepared.ringwall.iter().map(|path| (vm::RINGWALL.to_owned(), path.clone())).collect();
    extra.extend(prepared.hostile.iter().flat_map(hostile::Built::files));
    parts.initramfs(&initramfs, harness, &extra)?;
    Ok(Vm::new(Config {
        parts,
        initramfs,
        disk: Some(disk),
        systemd,
        folder: folder.to_owned(),
        memory: 4096,
        cpus: 2,
        more: Vec::new(),
    }))
}

impl Machine {
    pub(crate) fn run(
        &mut self,
        job: &Job,
        on_output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Ended, Error> {
        match self {
            Machine::Vm(vm) => Ok(vm.run(job, on_output)?),
            Machine::Host => {
                let (program, args) = job.argv.split_first().ok_or("an empty command")?;
                let mut command = Command::new(program);
                command.args(args).envs(job.env.iter().cloned());
                let done = process::run_streaming(&mut command, &job.stdin, job.limit, on_output)?;
                Ok(Ended { end: done.end, elapsed: done.elapsed, left_behind: done.left_behind })
            }
        }
    }
}

fn report(name: &str, ended: &Ended, text: &str, tally: &mut Tally) {
    let mut text = text.to_owned();
    if !ended.left_behind.is_empty() {
        text.push_str(&format!("left behind: {}\n", ended.left_behind.join(", ")));
    }
    let word = match ended.end {
        End::Exit(0) if ended.left_behind.is_empty() => {
            tally.passed += 1;
            "ok  "
        }
        End::Exit(SKIPPED) => {
            tally.skipped += 1;
            "skip"
        }
        end => {
            if end != End::Exit(1) {
                text.push_str(&format!("the test's own process: {end}\n"));
            }
            tally.failed.push(name.to_owned());
            "FAIL"
        }
    };
    println!("{word} {name} ({:.2} s)", ended.elapsed.as_secs_f64());
    if word != "ok  " || std::env::var_os("HARNESS_SHOW").is_some() {
        for line in text.lines() {
            println!("     {line}");
        }
    }
    let _ = io::stdout().flush();
}

/// Runs the lints; their budget is that of the build which the image lint may need.
fn lints(names: &[String], profile: &str) -> Tally {
    let mut tally = Tally::default();
    for name in names {
        let started = Instant::now();
        let outcome = match name.as_str() {
            "lint/image" => lint_image(profile),
            "lint/licences" => lint::licences::check()
                .map(|(findings, count)| (format!("{count} packages\n"), findings)),
            "lint/readme" => lint::readme::check()
                .map(|(findings, count)| (format!("{count} system calls\n"), findings))
                .map_err(Error::from),
            "lint/unsafe" => lint::census::take().map_err(Error::from),
            other => Err(format!("no lint named {other}").into()),
        };
        let (text, findings) =
            outcome.unwrap_or_else(|error| (String::new(), vec![error.to_string()]));
        let word = if findings.is_empty() { "ok  " } else { "FAIL" };
        println!("{word} {name} ({:.2} s)", started.elapsed().as_secs_f64());
        for line in text.lines().chain(findings.iter().map(String::as_str)) {
            println!("     {line}");
        }
        if findings.is_empty() { tally.passed += 1 } else { tally.failed.push(name.clone()) }
    }
    tally
}

fn lint_image(profile: &str) -> Result<(String, Vec<String>), Error> {
    build(profile)?;
    let image = crate::workspace().join("target/image/x86_64-unknown-linux-gnu/image/image");
    let elf = fs::read(&image).map_err(|e| format!("{}: {e}", image.display()))?;
    let (findings, count) = lint::image::check(&elf)?;
    Ok((format!("{count} instructions\n"), findings))
}

/// Runs `cargo test` and counts its tests; a failure to build is one failed test.
fn unit_tests(budget: Duration) -> Result<Tally, Error> {
    let started = Instant::now();
    let mut command = Command::new("cargo");
    command.current_dir(crate::workspace()).args([
        "test",
        "--quiet",
        "--workspace",
        "--no-fail-fast",
        "--",
        "--format=pretty",
    ]);
    // The image is not needed, and would be built for nothing.
    command.env("RINGWALL_NO_IMAGE", "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = child.id() as i32;
    let (tx, rx) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        thread::spawn(move || forward_lines(out, &tx));
    }
    let mut tally = Tally::default();
    let mut slow = String::new();
    loop {
        match rx.recv_timeout(budget.saturating_sub(started.elapsed())) {
            Ok(line) => {
                if line.contains("has been running for over") {
                    slow = format!("; {line}");
                }
                count_unit_line(&line, &mut tally);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                process::kill_tree(pid);
                child.wait()?;
                tally.failed.push(format!("unit (killed: the suite's budget is spent{slow})"));
                return Ok(tally);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed.is_empty() {
        let how =
            status.code().map_or_else(|| format!("{:?}", status.signal()), |code| code.to_string());
        tally.failed.push(format!(
            "unit (cargo test: status {how}, with no failed test: it did not build?)"
        ));
    }
    Ok(tally)
}

fn forward_lines(out: impl Read, tx: &mpsc::Sender<String>) {
    for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
        if tx.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

fn count_unit_line(line: &str, tally: &mut Tally) {
    let Some((name, verdict)) =
        line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
    else {
        // A failed test's own output and messages; the tallies of each binary would be mistaken for the run's.
        if !line.is_empty() && !line.starts_with("running ") && !line.starts_with("test result: ok")
        {
            println!("     {line}");
        }
        return;
    };
    match verdict {
        "ok" => {
            tally.passed += 1;
            println!("ok   unit/{name}");
        }
        _ if verdict.starts_with("ignored") => {
            tally.skipped += 1;
            println!("skip unit/{name}");
        }
        _ => {
            tally.failed.push(format!("unit/{name}"));
            println!("FAIL unit/{name}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_lines_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test c ... FAILED",
            "test d ... ignored, slow",
            "test result: ok. 9 passed",
        ] {
            count_unit_line(line, &mut tally);
        }
        assert_eq!(
            (tally.passed, tally.skipped, tally.failed.as_slice()),
            (1, 1, ["unit/c".to_owned()].as_slice())
        );
    }
}
