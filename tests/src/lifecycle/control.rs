//! What is done to a container that runs, and asked of it: pause and resume, ps, events, update.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::{Context, Outcome, Stop, Test, ensure};
use crate::process::End;

pub(super) const TESTS: &[Test] = &[
    ("lifecycle/pause", pause),
    ("lifecycle/pause-signals", pause_signals),
    ("lifecycle/pause-refusals", pause_refusals),
    ("lifecycle/pause-before-start", pause_before_start),
    ("lifecycle/ps", ps),
    ("lifecycle/debug", debug),
    ("lifecycle/events", events),
    ("lifecycle/update", update),
    ("lifecycle/install", install),
];

/// How long a paused container is watched that is to do nothing.
const WATCHED: Duration = Duration::from_millis(300);

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Every kind of process stands still: one that computes, one that writes, one that sleeps, one that waits; and all go on.
fn pause(c: &Context) -> Outcome {
    let script = "while :; do :; done & (while :; do echo x >>/written; done) &
        (while :; do sleep 0.01; echo x >>/slept; done) & mkfifo /f; cat /f >/got & exec 9>/f; wait";
    let b = c.bundle("b", script)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let files = ["written", "slept"].map(|name| b.rootfs().join(name));
    for round in 0..3 {
        let before = files.each_ref().map(|file| size(file));
        c.eventually("it writes", || {
            Ok(files.iter().zip(before).all(|(file, before)| size(file) > before))
        })?;
        c.must(&["pause", "x"])?;
        ensure!(c.status("x")? == "paused", "it is {}", c.status("x")?);
        // What was written is there already, and nothing more comes.
        let paused = files.each_ref().map(|file| size(file));
        thread::sleep(WATCHED);
        let later = files.each_ref().map(|file| size(file));
        ensure!(paused == later, "round {round}: it still writes: {paused:?}, then {later:?}");
        c.must(&["resume", "x"])?;
        ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
    }
    let before = files.each_ref().map(|file| size(file));
    c.eventually("it writes again", || {
        Ok(files.iter().zip(before).all(|(file, before)| size(file) > before))
    })?;
    c.must(&["delete", "--force", "x"]).map(drop)
}

/// Of tasks that wait it is told for what, and on KVM by which functions; of the host half what is under way. A container
/// that is held, or was not started, can be asked too, and one that has ended says so.
fn debug(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "mkfifo /f; cat /f & (while :; do :; done) & exec sleep 4321")?;
    c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
    let text = c.must(&["debug", "x"])?.out();
    ensure!(text.contains("container x: created"), "{text}");
    c.must(&["start", "x"])?;
    let kvm = c.place.runtime.platform.as_deref() != Some("ptrace");
    let wanted = [
        "in openat(",
        "in clock_nanosleep(",
        "waits at sentry/src/",
        "\"sleep\": S",
        "host half: 0 requests",
        "file server: 0 requests",
    ];
    // The functions that a sleeper is in.
    let more = [
        "sentry::syscall::time::",
        "sentry::task::run::",
        "channel control: 0 bytes from the guest",
    ];
    let mut text = String::new();
    c.eventually("each waits", || {
        text = c.must(&["debug", "x"])?.out();
        let more = more.iter().filter(|_| kvm);
        Ok(wanted.iter().chain(more).all(|part| text.contains(part)))
    })
    .map_err(|_| Stop::Failed(format!("debug says:\n{text}")))?;
    c.must(&["pause", "x"])?;
    let held = c.must(&["debug", "x"])?.out();
    ensure!(held.contains("container x: paused"), "{held}");
    c.must(&["resume", "x"])?;
    // Whoever is looked at goes on, however often.
    for _ in 0..20 {
        c.must(&["debug", "x"])?;
    }
    let done = c.must(&["exec", "x", "sh", "-c", "echo it >/f; echo runs"])?;
    ensure!(done.out().contains("runs"), "{}", done.out());
    c.must(&["kill", "x", "KILL"])?;
    c.eventually("it has stopped", || Ok(c.status("x")? == "stopped"))?;
    let done = c.run(&["debug", "x"])?;
    ensure!(done.end == End::Exit(1) && done.err().contains("not running"), "{}", done.err());
    c.must(&["delete", "x"]).map(drop)
}

/// A signal waits until the container goes on, SIGKILL does not.
fn pause_signals(c: &Context) -> Outcome {
    let script = "trap 'echo term >>/said' TERM; echo up >>/said; while :; do sleep 0.05; done";
    let b = c.bundle("b", script)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let said = || fs::read_to_string(b.rootfs().join("said")).unwrap_or_default();
    c.eventually("it is up", || Ok(said() == "up\n"))?;
    c.must(&["pause", "x"])?;
    c.must(&["kill", "x", "TERM"])?;
    thread::sleep(WATCHED);
    ensure!(said() == "up\n", "the signal was handled in a paused container");
    c.must(&["resume", "x"])?;
    c.eventually("the signal is handled", || Ok(said() == "up\nterm\n"))?;
    c.must(&["pause", "x"])?;
    c.must(&["kill", "x", "KILL"])?;
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    // And so does the removal of one that is paused.
    let _b = c.bundle("c", "while :; do :; done")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("c"), "y"])?;
    c.must(&["pause", "y"])?;
    c.must(&["delete", "--force", "y"]).map(drop)
}

fn refused(c: &Context, args: &[&str], why: &str) -> Outcome {
    let done = c.detached(args)?;
    let said = format!("{}{}", done.err(), c.log_tail());
    ensure!(!done.ok() && said.contains(why), "{args:?}: {}: {said}", done.end);
    Ok(())
}

fn pause_refusals(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000")?;
    refused(c, &["pause", "x"], "container does not exist")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    refused(c, &["resume", "x"], "container not paused")?;
    c.must(&["pause", "x"])?;
    refused(c, &["exec", "x", "true"], "paused")?;
    refused(c, &["start", "x"], "paused")?;
    refused(c, &["delete", "x"], "paused")?;
    ensure!(c.status("x")? == "paused", "it is {}", c.status("x")?);
    c.must(&["resume", "x"])?;
    c.must(&["exec", "x", "true"])?;
    c.must(&["delete", "--force", "x"]).map(drop)
}

/// One that was paused before its start is as it was after it is resumed.
fn pause_before_start(c: &Context) -> Outcome {
    let b = c.bundle("b", "echo ran >/ran; sleep 1000")?;
    c.only_ringwall()?;
    c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
    c.must(&["pause", "x"])?;
    ensure!(c.status("x")? == "paused", "it is {}", c.status("x")?);
    refused(c, &["start", "x"], "paused")?;
    c.must(&["resume", "x"])?;
    ensure!(c.status("x")? == "created", "it is {}", c.status("x")?);
    ensure!(!b.rootfs().join("ran").exists(), "it runs");
    c.must(&["start", "x"])?;
    c.eventually("it runs", || Ok(b.rootfs().join("ran").exists()))?;
    c.must(&["delete", "--force", "x"]).map(drop)
}

fn ps(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1234 & exec sleep 4321")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("both sleep", || {
        let done = c.must(&["ps", "x"])?;
        let text = done.out();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        ensure!(
            lines.first().is_some_and(|l| l.starts_with(&["UID", "PID", "PPID", "C", "STIME"])),
            "ps: {text}"
        );
        Ok(["1234", "4321"].iter().all(|n| lines.iter().any(|l| l.ends_with(&["sleep", n]))))
    })?;
    if !c.is_runc() {
        // The numbers are the container's own.
        let text = c.must(&["ps", "x"])?.out();
        let line = text.lines().find(|l| l.ends_with("sleep 1234")).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.get(2) == Some(&"1"), "its parent is init: {text}");
    }
    // Docker and containerd ask for pids of the host.
    let done = c.must(&["ps", "--format", "json", "x"])?;
    let pids: Vec<i64> = serde_json::from_slice(&done.stdout)?;
    let own = c.state("x")?.get("pid").and_then(Value::as_i64).unwrap_or_default();
    ensure!(pids.contains(&own), "{pids:?}, without {own}");
    c.must(&["kill", "x", "KILL"])?;
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"]).map(drop)
}

fn stats(c: &Context) -> Result<Value, Stop> {
    let done = c.must(&["events", "--stats", "x"])?;
    let event: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(event["type"] == "stats" && event["id"] == "x", "an event: {event}");
    Ok(event["data"].clone())
}

fn events(c: &Context) -> Outcome {
    let script = "sleep 1000 & read go; dd if=/dev/zero of=/tmp/f bs=1M count=20 2>/dev/null
        i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done >/done; read more";
    let b = c.bundle("b", &format!("mkfifo /go; exec 3<>/go </go; {script}"))?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let number = |value: &Value, at: &str| value.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    c.eventually("its two processes are there", || Ok(number(&stats(c)?, "/pids/current") == 2))?;
    let before = stats(c)?;
    c.must(&["exec", "x", "sh", "-c", "echo >/go"])?;
    c.eventually("it has worked", || Ok(b.rootfs().join("done").exists()))?;
    let after = stats(c)?;
    let grown = |at: &str| number(&after, at).saturating_sub(number(&before, at));
    ensure!(grown("/memory/usage/usage") >= 20 << 20, "memory: {before}, then {after}");
    ensure!(grown("/cpu/usage/total") >= 1_000_000, "processor time: {before}, then {after}");
    // Line after line, until the container ends.
    let events = c.start(&["events", "--interval", "100ms", "x"])?;
    c.eventually("two lines", || Ok(events.out().lines().count() >= 2))?;
    c.must(&["kill", "x", "KILL"])?;
    c.await_status("x", "stopped")?;
    refused(c, &["events", "--stats", "x"], "container with id x is not running")?;
    // runc's end with the container's cgroup.
    c.must(&["delete", "x"])?;
    let done = events.end(c.limit())?;
    ensure!(done.end == End::Exit(0), "events: {}: {}", done.end, done.err());
    for line in done.out().lines() {
        let event: Value = serde_json::from_str(line)?;
        ensure!(event["type"] == "stats", "an event: {line}");
    }
    Ok(())
}

fn update(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let forks = |count: u32| -> Result<bool, Stop> {
        let script =
            format!("for i in $(seq {count}); do sleep 0.2 & done 2>/dev/null; wait 2>/dev/null");
        Ok(c.detached(&["exec", "x", "sh", "-c", &script])?.ok())
    };
    ensure!(forks(20)?, "no limit, and no forks");
    c.must(&["update", "--pids-limit", "10", "x"])?;
    ensure!(!forks(20)?, "the limit does not hold");
    let file = c.path("resources");
    fs::write(
        &file,
        r#"{"pids":{"limit":100},"memory":{"limit":0},"cpu":{"shares":0,"cpus":""}}"#,
    )?;
    c.must(&["update", "--resources", &file.display().to_string(), "x"])?;
    ensure!(forks(20)?, "the new limit does not hold");
    fs::write(&file, "{\"pids\":")?;
    refused(c, &["update", "-r", &file.display().to_string(), "x"], "")?;
    refused(c, &["update", "--memory", "much", "x"], "invalid value for memory")?;
    c.must(&["delete", "--force", "x"]).map(drop)
}

/// Docker's configuration keeps what it says.
fn install(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let file = c.path("docker/daemon.json");
    let text = file.display().to_string();
    let config = || -> Result<Value, Stop> { Ok(serde_json::from_slice(&fs::read(&file)?)?) };
    c.must(&["install", "--config", &text])?;
    let own = config()?["runtimes"]["ringwall"]["path"].as_str().unwrap_or_default().to_owned();
    ensure!(Path::new(&own).is_absolute() && own.ends_with("ringwall"), "installed as {own:?}");
    let other = r#"{"debug":true,"runtimes":{"kept":{"path":"/kept"}},"default-runtime":"kept"}"#;
    let before: Value = serde_json::from_str(other)?;
    fs::write(&file, other)?;
    c.must(&["install", "--config", &text, "--name", "rw", "--default", "--", "--strace"])?;
    let after = config()?;
    ensure!(
        after["debug"] == true
            && after["runtimes"]["kept"] == before["runtimes"]["kept"]
            && after["runtimes"]["rw"]["runtimeArgs"][0] == "--strace"
            && after["default-runtime"] == "rw",
        "{after}"
    );
    c.must(&["uninstall", "--config", &text, "--name", "rw"])?;
    let mut expected = before;
    if let Some(config) = expected.as_object_mut() {
        config.remove("default-runtime");
    }
    ensure!(config()? == expected, "{}", config()?);
    // What is no configuration is not touched.
    fs::write(&file, "{ broken")?;
    refused(c, &["install", "--config", &text], "left as it is")?;
    ensure!(fs::read_to_string(&file)? == "{ broken", "it was written to");
    let leftovers = fs::read_dir(c.path("docker"))?.count();
    ensure!(leftovers == 1, "{leftovers} files");
    Ok(())
}
