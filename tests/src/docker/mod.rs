//! Containers as Docker drives them: the engine of Debian's packages, started by hand for one test, and its own client.
//!
//! Each test is a shell script ([`THEMES`]) that makes steps; it runs with runc and with Ringwall as `docker run`'s
//! runtime, and every step must print the same and end with the same status. Steps that are known to differ are listed with
//! their causes in [`known`]: one that differs and is not there fails the test, and one that is there and does not differ is
//! told. Podman has scripts of its own, and the test VM those that it has time for. The engine has no network, a folder of
//! its own for everything, and ends with the test.

mod engine;
pub mod known;
pub mod podman;
pub mod time;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::case::{Place, Verdict};
use crate::process::{self, Keep};
use crate::runtime::Scratch;
use engine::Engine;
pub use engine::PACKAGES;
use podman::Podman;

/// What the tests' names begin with.
pub const PREFIX: &str = "docker/";

/// Some of everything in one, for where there is no time for all: on KVM.
pub const ESSENCE: &str = "docker/essence";

/// Those that the test VM has time for.
pub const IN_VM: &[&str] = &[ESSENCE, "docker/compose"];

/// What the prelude's `works` says of a step that fails.
const FAILED: &str = "must succeed\n";

const PRELUDE: &str = include_str!("prelude.sh");

/// The scripts.
const THEMES: &[(&str, &str)] = &[
    ("docker/status", include_str!("status.sh")),
    ("docker/run", include_str!("run.sh")),
    ("docker/exec", include_str!("exec.sh")),
    ("docker/life", include_str!("life.sh")),
    ("docker/files", include_str!("files.sh")),
    ("docker/limits", include_str!("limits.sh")),
    ("docker/compose", include_str!("compose.sh")),
    ("docker/build", include_str!("build.sh")),
    ("docker/terminal", include_str!("terminal.sh")),
    ("docker/restore", include_str!("restore.sh")),
    ("docker/ctr", include_str!("ctr.sh")),
    (ESSENCE, include_str!("essence.sh")),
    (podman::NAMES[0], include_str!("podman.sh")),
    (podman::NAMES[1], include_str!("pods.sh")),
];

/// The tests' names.
pub fn names() -> impl Iterator<Item = String> {
    THEMES.iter().map(|(name, _)| *name).chain([time::NAME]).map(str::to_owned)
}

/// Runs one.
pub fn run(name: &str, place: &Place) -> io::Result<Verdict> {
    if place.runtime.is_runc() {
        return Ok(Verdict::Skipped("runc is what Ringwall is compared with here".to_owned()));
    }
    if name == time::NAME {
        let scratch = Scratch::new("dk")?;
        return time::measure(scratch.path(), place).map(Verdict::Noted);
    }
    let Some((_, script)) = THEMES.iter().find(|(known, _)| *known == name) else {
        return Err(io::Error::other(format!("no test named {name}")));
    };
    let keep = Keep::present();
    let scratch = Scratch::new("dk")?;
    let (compared, tail) = match name {
        _ if podman::NAMES.contains(&name) => with_podman(name, script, scratch.path(), place)?,
        _ => with_docker(name, script, scratch.path(), place)?,
    };
    let left = process::end_strays(&keep);
    let compared = compared?;
    Ok(if !compared.wrong.is_empty() {
        Verdict::Failed(format!("{}\n{tail}", compared.wrong))
    } else if !left.is_empty() {
        Verdict::Failed(format!("left behind: {}", left.join(", ")))
    } else if !compared.noted.is_empty() {
        Verdict::Noted(compared.noted)
    } else {
        Verdict::Passed
    })
}

/// Runs a script with Docker, with both runtimes; also returns the end of the engine's log.
fn with_docker(
    name: &str,
    script: &str,
    folder: &Path,
    place: &Place,
) -> io::Result<(io::Result<Compared>, String)> {
    let mut engine = Engine::start(place, folder)?;
    let both = |engine: &mut Engine| {
        let reference = run_script(script, engine, place, "runc")?;
        engine.make_default(place)?;
        Ok([reference, run_script(script, engine, place, "ringwall")?])
    };
    let outputs = both(&mut engine);
    let tail = format!("the engine's log ends:\n{}", engine.log_tail());
    engine.stop()?;
    Ok((outputs.map(|[reference, found]| compare(name, &reference, &found)), tail))
}

/// Runs a script with Podman, with both runtimes.
fn with_podman(
    name: &str,
    script: &str,
    folder: &Path,
    place: &Place,
) -> io::Result<(io::Result<Compared>, String)> {
    let podman = Podman::new(place, folder)?;
    let run = |runtime| {
        let mut command = podman.command();
        command.arg("sh");
        finish_script(command, script, folder, place, runtime, &mut || Ok(()))
    };
    let outputs = run("runc").and_then(|reference| Ok([reference, run("ringwall")?]));
    podman.stop()?;
    Ok((outputs.map(|[reference, found]| compare(name, &reference, &found)), String::new()))
}

/// What came out of a comparison.
#[derive(Default)]
struct Compared {
    /// What is wrong, if anything.
    wrong: String,
    /// What is as it should be, though it is not expected to.
    noted: String,
}

/// Compares what the script printed.
fn compare(name: &str, reference: &str, found: &str) -> Compared {
    let (reference, found) = (steps(reference), steps(found));
    let Compared { mut wrong, mut noted } = Compared::default();
    let mut differing = BTreeSet::new();
    for (step, expected) in &reference {
        if expected.ends_with(FAILED) {
            wrong.push_str(&format!("{step}: fails with runc, and so says nothing:\n{expected}"));
        }
        let got = found.iter().find(|(name, _)| name == step).map(|(_, text)| text.as_str());
        if got != Some(expected.as_str()) {
            differing.insert(step.as_str());
            if known::cause(name, step).is_none() {
                let got = got.unwrap_or("nothing\n");
                wrong.push_str(&format!("{step}: runc:\n{expected}{step}: ringwall:\n{got}"));
            }
        }
    }
    for (theme, step, cause) in known::DIFFERENCES {
        if *theme == name && !differing.contains(step) {
            noted.push_str(&format!("{step}: is as with runc, though listed: {cause}\n"));
        }
    }
    for (step, text) in &found {
        if !reference.iter().any(|(name, _)| name == step) {
            wrong.push_str(&format!("{step}: of ringwall alone: {text}"));
        }
    }
    if reference.is_empty() {
        wrong.push_str("the script made no step\n");
    }
    Compared { wrong, noted }
}

fn run_script(
    script: &str,
    engine: &mut Engine,
    place: &Place,
    runtime: &str,
) -> io::Result<String> {
    let mut command = Command::new("sh");
    engine.environment(&mut command);
    let folder = engine.folder().to_owned();
    let wish = folder.join("restart");
    finish_script(command, script, &folder, place, runtime, &mut || {
        // What the script asks for: the signal that ends the engine before it starts again.
        if let Ok(signal) = fs::read_to_string(&wish)
            && signal.ends_with('\n')
        {
            engine.restart(place, signal.trim())?;
            fs::remove_file(&wish)?;
        }
        Ok(())
    })
}

/// Runs the script to its end with a shell, and does something every now and then meanwhile; returns its output.
fn finish_script(
    mut shell: Command,
    script: &str,
    folder: &Path,
    place: &Place,
    runtime: &str,
    meanwhile: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<String> {
    shell.args(["-c", &format!("{PRELUDE}\n{script}")]).env("RT", runtime);
    let file = folder.join(format!("script-{runtime}"));
    let (out, err) = (fs::File::create(&file)?, fs::File::create(file.with_extension("err"))?);
    // Containers of the script may outlive it for a moment, and are the engine's to end: nothing is to be killed here.
    let mut child = shell.stdin(std::process::Stdio::null()).stdout(out).stderr(err).spawn()?;
    let limit = Duration::from_secs(100) * place.slow;
    let begun = std::time::Instant::now();
    while child.try_wait()?.is_none() {
        meanwhile()?;
        if begun.elapsed() > limit {
            process::kill_tree(child.id() as i32);
            child.wait()?;
            let so_far = fs::read_to_string(&file)?;
            let errors = fs::read_to_string(file.with_extension("err"))?;
            let text = format!("{runtime}: not done in time:\n{so_far}{errors}");
            return Err(io::Error::other(text));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::read_to_string(&file)
}

/// The steps of a script's output by name, each with what must be the same.
fn steps(output: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in output.lines() {
        match line.strip_prefix("## ") {
            Some(name) => steps.push((name.to_owned(), String::new())),
            // The client says so, or not, of a container that does not begin (docker/cli's waitExitOrRemoved).
            None if line.ends_with("msg=\"error waiting for container: context canceled\"") => {}
            // runc says so, or not, of a group whose processes have not ended yet.
            None if line.contains("msg=\"Failed to remove cgroup (will retry)\"") => {}
            None => {
                if let Some((_, text)) = steps.last_mut() {
                    text.push_str(&normal(line));
                    text.push('\n');
                }
            }
        }
    }
    steps
}

/// A line without what differs for no reason of the runtime's: ids, and whose words an error begins with.
fn normal(line: &str) -> String {
    let mut text = line.to_owned();
    // When containerd's client said it.
    if let Some(rest) = text.strip_prefix("time=\"")
        && let Some((_, rest)) = rest.split_once("\" ")
    {
        text = rest.to_owned();
    }
    for words in ["runc create failed: ", "unable to start container process: "] {
        text = text.replace(words, "");
    }
    // Podman begins with the runtime's name.
    for name in ["runc", "ringwall"] {
        text = text.replace(&format!("Error: {name}: "), "Error: ");
    }
    // runc names the call that failed before the file.
    if let Some((before, after)) = text.split_once(": stat ")
        && let Some((_, why)) = after.split_once(": ")
    {
        text = format!("{before}: {why}");
    }
    let mut normal = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, hex) = rest.split_at(at);
        let len = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let (digits, after) = hex.split_at(len);
        normal.push_str(before);
        normal.push_str(if len == 64 || len == 12 { "ID" } else { digits });
        rest = after;
    }
    normal.push_str(rest);
    normal
}

#[cfg(test)]
mod tests {
    use super::{normal, steps};

    #[test]
    fn steps_are_told_apart() {
        let steps = steps("lost\n## a\nx\n-> 0\n## b\n-> 1\n");
        assert_eq!(steps, [("a".into(), "x\n-> 0\n".into()), ("b".into(), "-> 1\n".into())]);
    }

    #[test]
    fn ids_and_prefixes_are_nothing() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(normal(&format!("x {id} beef")), "x ID beef");
        let runc = "failed: runc create failed: unable to start container process: exec: \"/n\": stat /n: no such file";
        assert_eq!(normal(runc), "failed: exec: \"/n\": no such file");
    }
}
