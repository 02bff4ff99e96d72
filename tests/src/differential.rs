//! Differential container tests: the same bundle natively and under the runtime, and both must have written the same and ended
//! alike.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::bundle::{self, Bundle};
use crate::process::{End, Finished};
use crate::runtime::{Runtime, Scratch};

/// Which root a container runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Static busybox.
    Busybox,
    /// Debian's bash, coreutils and python.
    Debian,
    /// The C programs.
    Programs,
    /// The whole of Debian; there only for the suite [`crate::userland`].
    Userland,
}

impl Root {
    /// The root's folder below the roots.
    pub fn name(self) -> &'static str {
        match self {
            Root::Busybox => "busybox",
            Root::Debian => "debian",
            Root::Programs => "programs",
            Root::Userland => "debian-userland",
        }
    }
}

/// What in the output may differ, and is made equal before comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignore {
    /// Runs of digits (pids, sizes, times), and the blanks that align them.
    Numbers,
    /// The order of lines.
    Order,
    /// Everything on standard output but the number of lines' first words that are not numbers: for listings of a machine.
    AllButFirstWords,
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, below the suite's.
    pub name: &'static str,
    /// The container's root.
    pub root: Root,
    /// The container's command.
    pub argv: &'static [&'static str],
    /// What it finds on standard input.
    pub stdin: &'static str,
    /// Variables beside PATH, HOME and TERM.
    pub env: &'static [(&'static str, &'static str)],
    /// What may differ.
    pub ignore: &'static [Ignore],
    /// Capabilities beside those that containers have.
    pub capabilities: &'static [&'static str],
    /// Whether its programs may gain privileges by exec.
    pub gains: bool,
    /// How long each of the two runs may take on an unburdened host; several times that in the VM.
    pub seconds: u32,
}

impl Case {
    /// A test of a command on a root, with nothing special.
    pub const fn new(root: Root, name: &'static str, argv: &'static [&'static str]) -> Case {
        Case {
            name,
            root,
            argv,
            stdin: "",
            env: &[],
            ignore: &[],
            capabilities: &[],
            gains: false,
            seconds: 20,
        }
    }

    /// With this on standard input.
    pub const fn stdin(mut self, stdin: &'static str) -> Case {
        self.stdin = stdin;
        self
    }

    /// With these variables.
    pub const fn env(mut self, env: &'static [(&'static str, &'static str)]) -> Case {
        self.env = env;
        self
    }

    /// Ignoring these differences.
    pub const fn ignore(mut self, ignore: &'static [Ignore]) -> Case {
        self.ignore = ignore;
        self
    }

    /// With these capabilities too.
    pub const fn capabilities(mut self, capabilities: &'static [&'static str]) -> Case {
        self.capabilities = capabilities;
        self
    }

    /// Without no_new_privs.
    pub const fn gains(mut self) -> Case {
        self.gains = true;
        self
    }

    /// With this limit.
    pub const fn seconds(mut self, seconds: u32) -> Case {
        self.seconds = seconds;
        self
    }
}

/// Runs a case; the text of a failure says what differed.
pub fn run(
    case: &Case,
    reference: &Runtime,
    runtime: &Runtime,
    roots: &Path,
    slow: u32,
) -> io::Result<Result<(), String>> {
    let limit = Duration::from_secs(u64::from(case.seconds) * u64::from(slow));
    let expected = run_one(case, reference, roots, "reference", limit)?;
    let actual = run_one(case, runtime, roots, "runtime", limit)?;
    if std::env::var_os("HARNESS_SHOW").is_some() {
        println!("natively: {}\n{}\n{}", expected.0.end, expected.0.out(), expected.0.err());
    }
    Ok(compare(case, &expected, &actual))
}

fn run_one(
    case: &Case,
    runtime: &Runtime,
    roots: &Path,
    role: &str,
    limit: Duration,
) -> io::Result<(Finished, String)> {
    let scratch = Scratch::new(role)?;
    let mut config = bundle::config(case.argv, case.env);
    for set in ["bounding", "effective", "permitted"] {
        if let Some(list) = config["process"]["capabilities"][set].as_array_mut() {
            list.extend(case.capabilities.iter().map(|name| (*name).into()));
        }
    }
    if case.gains {
        config["process"]["noNewPrivileges"] = false.into();
    }
    let bundle =
        Bundle::new(&scratch.path().join("bundle"), &roots.join(case.root.name()), &config)?;
    let id = format!("case-{}-{role}", std::process::id());
    let args = ["run", "--bundle", &bundle.folder().display().to_string(), &id];
    let done = runtime.run(scratch.path(), &args, case.stdin.as_bytes(), limit)?;
    let log = std::fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
    Ok((done, log))
}

fn compare(
    case: &Case,
    (expected, _): &(Finished, String),
    (actual, log): &(Finished, String),
) -> Result<(), String> {
    let mut report = String::new();
    if matches!(expected.end, End::TimedOut | End::Lost) {
        return Err(format!(
            "the reference itself: {}; it wrote:\n{}{}\n",
            expected.end,
            expected.out(),
            expected.err()
        ));
    }
    if expected.end != actual.end {
        let _ = writeln!(report, "ended with {}, should with {}", actual.end, expected.end);
    }
    for (what, should, is) in [
        ("standard output", expected.out(), actual.out()),
        ("standard error", expected.err(), actual.err()),
    ] {
        let (should, is) = (normalized(&should, case.ignore), normalized(&is, case.ignore));
        if should != is {
            let _ = write!(
                report,
                "{what} differs (- as it should be, + as it is):\n{}",
                difference(&should, &is)
            );
        }
    }
    if !actual.left_behind.is_empty() {
        let _ = writeln!(report, "left behind: {}", actual.left_behind.join(", "));
    }
    if report.is_empty() {
        return Ok(());
    }
    if !log.is_empty() {
        let _ = write!(report, "the runtime's log ends:\n{}", last_lines(log, 20));
    }
    Err(report)
}

fn normalized(text: &str, ignore: &[Ignore]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for what in ignore {
        match what {
            Ignore::Numbers => lines = lines.iter().map(|line| without_numbers(line)).collect(),
            Ignore::Order => lines.sort(),
            Ignore::AllButFirstWords => {
                lines = lines
                    .iter()
                    .filter_map(|line| line.split_whitespace().next())
                    .map(without_numbers)
                    .collect();
            }
        }
    }
    let mut joined = lines.join("\n");
    if text.ends_with('\n') {
        joined.push('\n');
    }
    joined
}

fn without_numbers(line: &str) -> String {
    let mut out = String::new();
    for c in line.chars() {
        let c = if c.is_ascii_digit() {
            '#'
        } else if c.is_whitespace() {
            ' '
        } else {
            c
        };
        if !(matches!(c, '#' | ' ') && out.ends_with(c)) {
            out.push(c);
        }
    }
    out.trim().to_owned()
}

/// The lines that differ, after the common start and before the common end, at most some of each.
fn difference(should: &str, is: &str) -> String {
    let (should, is): (Vec<&str>, Vec<&str>) =
        (should.split('\n').collect(), is.split('\n').collect());
    let start = should.iter().zip(&is).take_while(|(a, b)| a == b).count();
    let (should, is) = (&should[start..], &is[start..]);
    let end = should.iter().rev().zip(is.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut out = format!("  (from line {})\n", start + 1);
    for (sign, lines) in [('-', &should[..should.len() - end]), ('+', &is[..is.len() - end])] {
        for line in lines.iter().take(15) {
            let _ = writeln!(
                out,
                "  {sign} {}",
                line.chars().take(300).collect::<String>().escape_debug()
            );
        }
        if lines.len() > 15 {
            let _ = writeln!(out, "  {sign} … {} more lines", lines.len() - 15);
        }
    }
    out
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(end: End, stdout: &str) -> (Finished, String) {
        let done = Finished {
            end,
            stdout: stdout.into(),
            stderr: Vec::new(),
            elapsed: Duration::ZERO,
            left_behind: Vec::new(),
        };
        (done, String::new())
    }

    #[test]
    fn equal_runs_pass_and_others_say_why() {
        let case = Case::new(Root::Busybox, "x", &["true"]);
        let good = finished(End::Exit(0), "a\nb\n");
        assert!(compare(&case, &good, &good).is_ok());
        let report = compare(&case, &good, &finished(End::Signal(11), "a\nc\n")).unwrap_err();
        assert!(
            report.contains("killed by signal 11")
                && report.contains("- b")
                && report.contains("+ c"),
            "{report}"
        );
    }

    #[test]
    fn numbers_and_order_can_be_ignored() {
        assert_eq!(
            normalized("  12  sh\n", &[Ignore::Numbers]),
            normalized(" 3 sh\n", &[Ignore::Numbers])
        );
        assert_eq!(normalized("b\na\n", &[Ignore::Order]), "a\nb\n");
        assert_ne!(normalized("a", &[]), normalized("a\n", &[]));
    }
}
