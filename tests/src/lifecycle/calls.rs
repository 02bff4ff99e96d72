//! The sentry's table of system calls, from which the README's is made, against the calls that a program meets.

use std::collections::BTreeSet;

use sentry::syscall::{CALLS, Support};

use super::{Context, Outcome, Stop, Test, ensure, limit};
use crate::bundle::{self, Bundle};
use crate::case::Place;
use crate::runtime::{Runtime, Scratch};

pub(super) const TESTS: &[Test] = &[
    ("calls/table", table),
    ("calls/answers", answers),
    ("calls/wild", wild),
    ("calls/descriptors", descriptors),
];

/// `tests/programs/calls.c` makes every call. One that the table has, whole or in part, must be there, and every other number
/// must give ENOSYS.
fn table(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let config = bundle::config(&["/programs/static/calls"], &[]);
    let _bundle = Bundle::new(&c.path("b"), &c.place.roots.join("programs"), &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    let (out, err) = (done.out(), done.err());
    ensure!(done.ok(), "{}: {out}{err}", done.end);
    let wrong = differences(&out, |number| {
        CALLS
            .iter()
            .find(|call| u32::from(call.number) == number)
            .map(|call| (call.name, call.support))
    })
    .map_err(Stop::Failed)?;
    ensure!(wrong.is_empty(), "the table of system calls is wrong:\n{}", wrong.join("\n"));
    Ok(())
}

/// The Linux whose answers to wild arguments are those compared with: older ones check some in another order.
const ORACLE: (u32, u32) = (6, 18);
/// Where the answers are where this machine's Linux is another: those of the machine that it is a part of.
const ANSWERS: &str = "HARNESS_ANSWERS";

/// Each call with one wild argument at a time answers as Linux does.
fn answers(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let is = hostile(&c.place, &c.place.runtime, &c.scratch, "runtime")?;
    let should = match std::env::var(ANSWERS) {
        Ok(answers) => answers,
        Err(_) if kernel() >= ORACLE => {
            hostile(&c.place, &c.place.reference, &c.scratch, "reference")?
        }
        Err(_) => {
            let why =
                format!("it ran to its end; only Linux {}.{} is compared with", ORACLE.0, ORACLE.1);
            return Err(Stop::Skipped(why));
        }
    };
    let (is, should): (Vec<&str>, Vec<&str>) = (is.lines().collect(), should.lines().collect());
    ensure!(is.len() == should.len() && is.len() > 200, "{} lines for {}", is.len(), should.len());
    let wrong: Vec<String> = is
        .iter()
        .zip(&should)
        .filter(|(is, should)| is != should)
        .map(|(is, should)| format!("- {should}\n+ {is}"))
        .collect();
    ensure!(wrong.is_empty(), "(- as it should be, + as it is)\n{}", wrong.join("\n"));
    Ok(())
}

/// What `tests/programs/hostile.c` prints in a container.
fn hostile(
    place: &Place,
    runtime: &Runtime,
    scratch: &Scratch,
    name: &str,
) -> Result<String, Stop> {
    let config = bundle::config(&["/programs/static/hostile"], &[]);
    let folder = scratch.path().join(name);
    let _bundle = Bundle::new(&folder, &place.roots.join("programs"), &config)?;
    let folder = folder.display().to_string();
    let args = ["run", "--bundle", &folder, name];
    let done = runtime.run(scratch.path(), &args, b"", limit(place))?;
    ensure!(done.ok(), "{name}: {}: {}", done.end, done.err());
    Ok(done.out())
}

/// What a test of answers in a VM is to be told: the variable, and the answers of this machine's Linux; nothing where it
/// is not the one to compare with.
pub fn for_vm(place: &Place) -> Result<Option<(String, String)>, String> {
    if kernel() < ORACLE {
        return Ok(None);
    }
    let scratch = Scratch::new("answers").map_err(|e| e.to_string())?;
    match hostile(place, &place.reference, &scratch, "reference") {
        Ok(answers) => Ok(Some((ANSWERS.to_owned(), answers))),
        Err(Stop::Failed(why) | Stop::Skipped(why)) => Err(why),
    }
}

/// Version and patch level of this machine's Linux.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `tests/programs/hostile.c` makes every call with wild words in all its arguments: the sandbox goes on, and what waits is
/// ended by a signal. `HARNESS_SEED` chooses other words, `HARNESS_ROUNDS` more of them.
fn wild(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let number = |name, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let (seed, rounds) = (number("HARNESS_SEED", "1"), number("HARNESS_ROUNDS", "12"));
    let config = bundle::config(&["/programs/static/hostile", "random", &seed, &rounds], &[]);
    let _bundle = Bundle::new(&c.path("b"), &c.place.roots.join("programs"), &config)?;
    let args = ["run", "--bundle", &c.text_path("b"), "x"];
    let limit = c.limit() * rounds.parse::<u32>().map_or(1, |rounds| 1 + rounds / 12);
    let done = c.place.runtime.run(c.scratch.path(), &args, b"", limit)?;
    let (out, err) = (done.out(), done.err());
    ensure!(done.ok() && out == "467 calls\n", "seed {seed}: {}: {out}{err}", done.end);
    Ok(())
}

/// A hundred thousand descriptors, which not every host lets the reference have: the answers are those that Linux gives at a
/// smaller limit.
fn descriptors(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let mut config = bundle::config(&["/programs/static/excess", "descriptors"], &[]);
    for limit in ["hard", "soft"] {
        config["process"]["rlimits"][0][limit] = 100_000.into();
    }
    let _bundle = Bundle::new(&c.path("b"), &c.place.roots.join("programs"), &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    let expect = "the last is the limit's: yes, then EMFILE
99999
pipe((int[2]){0}) = -1 EMFILE
dup2(0, limit.rlim_cur) = -1 EBADF
fcntl(0, F_DUPFD, limit.rlim_cur) = -1 EINVAL
socket(AF_UNIX, SOCK_STREAM, 0) = -1 EMFILE
a child has them too: exit 0
close_range(3, ~0U, 0) = 0
fcntl(last, F_GETFD) = -1 EBADF
";
    ensure!(done.ok() && done.out() == expect, "{}: {}{}", done.end, done.out(), done.err());
    Ok(())
}

/// Where the table and what the program printed are not of one mind.
fn differences(
    printed: &str,
    line: impl Fn(u32) -> Option<(&'static str, Support)>,
) -> Result<Vec<String>, String> {
    let mut absent = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut last = None;
    for text in printed.lines() {
        let (what, number) =
            text.split_once(' ').ok_or_else(|| format!("the program wrote {text:?}"))?;
        let number: u32 = number.parse().map_err(|_| format!("the program wrote {text:?}"))?;
        match what {
            "ENOSYS" => drop(absent.insert(number)),
            "hangs" => wrong.push(format!("call {number} never comes back")),
            "probed" => last = Some(number),
            _ => return Err(format!("the program wrote {text:?}")),
        }
    }
    let last = last.ok_or("the program did not come to its end")?;
    for number in 0..last {
        match line(number) {
            Some((name, Support::Full | Support::Partial(_))) if absent.contains(&number) => {
                wrong.push(format!("{name} ({number}) is in the table, and gives ENOSYS"));
            }
            Some((name, Support::Missing)) if !absent.contains(&number) => {
                wrong.push(format!("{name} ({number}) is missing in the table, and is there"));
            }
            None if !absent.contains(&number) => {
                wrong.push(format!("call {number} is there, and has no line in the table"));
            }
            _ => {}
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32) -> Option<(&'static str, Support)> {
        match number {
            0 => Some(("read", Support::Full)),
            1 => Some(("write", Support::Partial("half"))),
            2 => Some(("open", Support::Missing)),
            _ => None,
        }
    }

    #[test]
    fn a_true_table_has_no_differences() {
        assert_eq!(differences("ENOSYS 2\nENOSYS 3\nprobed 4\nENOSYS 9\n", line), Ok(vec![]));
    }

    #[test]
    fn every_untruth_is_found() {
        assert_eq!(differences("ENOSYS 0\nENOSYS 1\nhangs 3\nprobed 4\n", line).unwrap().len(), 5);
    }

    #[test]
    fn a_program_that_says_nothing_is_not_believed() {
        assert!(differences("", line).is_err());
        assert!(differences("ENOSYS 2\n", line).is_err());
        assert!(differences("Segmentation fault\nprobed 512\n", line).is_err());
    }
}
