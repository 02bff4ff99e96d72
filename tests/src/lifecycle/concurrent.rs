//! Commands at the same time: two at one container come one after the other or fail cleanly, and many containers at once
//! are as many lives.

use std::fs;
use std::thread;
use std::time::Duration;

use super::kills::{nothing_left, removed, some};
use super::{Context, Outcome, Started, Stop, Test, ensure};
use crate::process::{self, End, Finished};

pub(super) const TESTS: &[Test] = &[
    ("concurrent/creates", creates),
    ("concurrent/starts", starts),
    ("concurrent/deletes", deletes),
    ("concurrent/create-and-delete", create_and_delete),
    ("concurrent/with-delete", with_delete),
    ("concurrent/fifty", fifty),
];

/// Two commands, the second some milliseconds after the first; both end, and what fails says why in one line.
fn both(c: &Context, one: &[&str], other: &[&str], delay: u64) -> Result<[Finished; 2], Stop> {
    let first = c.start(one)?;
    thread::sleep(Duration::from_millis(delay * u64::from(c.place.slow)));
    let second = c.start(other)?;
    let done = [first.end(c.limit())?, second.end(c.limit())?];
    for (done, args) in done.iter().zip([one, other]) {
        let err = done.err();
        ensure!(done.end != End::TimedOut, "{args:?} hangs beside the other: {one:?}, {other:?}");
        ensure!(
            done.ok()
                || err.lines().count() == 1
                // A process that was killed, for which the command stands.
                || args[0] == "exec" && done.end == End::Exit(137) && err.is_empty(),
            "{args:?} of {one:?}, {other:?} after {delay} ms: {}: {err:?}",
            done.end
        );
    }
    Ok(done)
}

/// One of two creates wins, and its container is whole.
fn creates(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    let bundle = c.text_path("b");
    let create = ["create", "--bundle", &bundle, "x"];
    for delay in some(c, &[0, 0, 1, 3, 8, 20]) {
        let done = both(c, &create, &create, delay)?;
        let won = done.iter().filter(|done| done.ok()).count();
        ensure!(won == 1, "after {delay} ms {won} have won");
        let lost = done.iter().find(|done| !done.ok()).map(Finished::err).unwrap_or_default();
        ensure!(lost.contains("already exists"), "{lost}");
        c.must(&["start", "x"])?;
        ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
        removed(c, "two creates")?;
    }
    Ok(())
}

/// One of two starts wins.
fn starts(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    for delay in some(c, &[0, 0, 1, 2]) {
        c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
        let done = both(c, &["start", "x"], &["start", "x"], delay)?;
        let won = done.iter().filter(|done| done.ok()).count();
        ensure!(won == 1, "after {delay} ms {won} have won: {}{}", done[0].err(), done[1].err());
        ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
        removed(c, "two starts")?;
    }
    Ok(())
}

/// Two deletes remove it; the second may find nothing.
fn deletes(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    for (args, started) in [(&["delete", "x"][..], false), (&["delete", "--force", "x"], true)] {
        for delay in some(c, &[0, 0, 1, 3, 8]) {
            c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
            if started {
                c.must(&["start", "x"])?;
            }
            for done in both(c, args, args, delay)? {
                ensure!(
                    done.ok() || done.err().contains("does not exist"),
                    "{args:?}: {}",
                    done.err()
                );
            }
            nothing_left(c, "two deletes")?;
        }
    }
    Ok(())
}

/// A container that is removed while it is made is gone, or was not there yet and is whole.
fn create_and_delete(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    let bundle = c.text_path("b");
    for args in [&["delete", "x"][..], &["delete", "--force", "x"]] {
        for delay in some(c, &[0, 1, 2, 3, 5, 8, 12, 20]) {
            let [created, _] = both(c, &["create", "--bundle", &bundle, "x"], args, delay)?;
            let state = c.detached(&["state", "x"])?;
            if state.ok() {
                ensure!(created.ok(), "after {delay} ms: {}", created.err());
                ensure!(state.out().contains("\"created\""), "after {delay} ms: {}", state.out());
                c.must(&["start", "x"])?;
            } else {
                nothing_left(c, "delete beside create")?;
            }
            removed(c, "delete beside create")?;
        }
    }
    Ok(())
}

/// Whatever is asked of a container while it is removed.
fn with_delete(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    let delete = ["delete", "--force", "x"];
    for other in [
        &["state", "x"][..],
        &["kill", "x", "KILL"],
        &["exec", "x", "true"],
        &["exec", "--detach", "x", "sleep", "1000"],
        &["pause", "x"],
        &["list"],
    ] {
        for delay in some(c, &[0, 2]) {
            for [one, two] in [[other, &delete], [&delete, other]] {
                c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
                let done = both(c, one, two, delay)?;
                let removed = &done[usize::from(two == delete)];
                ensure!(removed.ok(), "beside {other:?}: {}", removed.err());
                nothing_left(c, &format!("delete beside {other:?}"))?;
            }
        }
    }
    Ok(())
}

/// Fifty containers at once, each of which runs, is told to end, and ends.
fn fifty(c: &Context) -> Outcome {
    let count = if c.place.slow > 1 { 8 } else { 50 };
    let _b = c.bundle("b", "trap 'exit 7' TERM; echo up; sleep 1000 & wait")?;
    let (bundle, ids) = (c.text_path("b"), (0..count).map(|n| format!("x{n}")));
    let ids: Vec<String> = ids.collect();
    // Each has a group of its own, by its id.
    let config = fs::read_to_string(c.path("b/config.json"))?;
    let mut config: serde_json::Value = serde_json::from_str(&config)?;
    let mut bundles = Vec::new();
    for id in &ids {
        config["linux"]["cgroupsPath"] = format!("{}{id}", process::own_names()).into();
        let folder = c.path(&format!("of-{id}"));
        fs::create_dir(&folder)?;
        config["root"]["path"] = format!("{bundle}/rootfs").into();
        fs::write(folder.join("config.json"), config.to_string())?;
        bundles.push(folder.display().to_string());
    }
    let running: Vec<Started> = ids
        .iter()
        .zip(&bundles)
        .map(|(id, bundle)| c.start(&["run", "--bundle", bundle, id]))
        .collect::<Result<_, _>>()?;
    for (started, id) in running.iter().zip(&ids) {
        c.eventually(&format!("{id} is up"), || Ok(started.out() == "up\n"))?;
    }
    let list = c.must(&["list"])?.out();
    ensure!(list.matches(" running ").count() == ids.len(), "{list}");
    for id in &ids {
        c.must(&["kill", id, "TERM"])?;
    }
    for (started, id) in running.into_iter().zip(&ids) {
        let done = started.end(c.limit())?;
        ensure!(done.end == End::Exit(7), "{id}: {}: {}", done.end, done.err());
    }
    ensure!(c.must(&["list", "--quiet"])?.out().is_empty(), "some are left");
    Ok(())
}
