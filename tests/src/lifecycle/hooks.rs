//! Hooks: when and where each kind runs, what it is told, and what becomes of the container when one fails.

use std::fs;

use serde_json::{Map, Value, json};

use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle;

pub(super) const TESTS: &[Test] = &[
    ("hooks/order", order),
    ("hooks/network", network),
    ("hooks/mounts", mounts),
    ("hooks/failures", failures),
    ("hooks/failed-start", failed_start),
    ("hooks/timeouts", timeouts),
    ("hooks/refused", refused),
];

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that runs a script; of the host or, where it belongs there, in the container.
fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script, "script"], "env": ["PATH=/usr/bin:/bin", "OWN=own"] })
}

/// Where hooks of a kind write.
fn log(c: &Context, kind: &str) -> String {
    if kind == "startContainer" { "/log".to_owned() } else { c.text_path("hooks") }
}

/// A bundle with hooks, whose container runs a script.
fn bundle_with(c: &Context, hooks: Value, script: &str) -> Result<bundle::Bundle, Stop> {
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    config["hooks"] = hooks;
    config["annotations"] = json!({ "org.example.key": "value" });
    c.bundle_with("b", &config)
}

/// What hooks have written since the last look: those of the host, and in the container.
fn logged(c: &Context) -> Result<String, Stop> {
    let mut all = String::new();
    for path in [c.path("hooks"), c.path("b/rootfs/log")] {
        match fs::read_to_string(&path) {
            Ok(text) => {
                all.push_str(&text);
                fs::remove_file(path)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(all)
}

/// Each kind once in create, start and delete, in order, with the state, its arguments and its environment.
fn order(c: &Context) -> Outcome {
    let mut hooks = Map::new();
    for kind in KINDS {
        let log = log(c, kind);
        let first = format!(
            "echo {kind} $(cat) $0 $OWN $(env | grep -c ^HOME=) in $(basename $(pwd)) >>{log}"
        );
        let second = format!("echo {kind} again >>{log}");
        hooks.insert(kind.to_owned(), json!([hook(&first), hook(&second)]));
    }
    let _bundle = bundle_with(c, hooks.into(), "sleep 1000")?;
    c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
    let state = c.state("x")?;
    let (version, pid) = (&state["ociVersion"], &state["pid"]);
    let bundle = c.text_path("b");
    let told = |status: &str, pid: Option<&Value>| {
        let pid = pid.map_or(String::new(), |pid| format!("\"pid\":{pid},"));
        format!(
            "{{\"ociVersion\":{version},\"id\":\"x\",\"status\":\"{status}\",{pid}\"bundle\":\"{bundle}\",\
             \"annotations\":{{\"org.example.key\":\"value\"}}}} script own 0"
        )
    };
    let one = json!(1);
    let (creating, created) = (told("creating", Some(pid)), told("created", Some(pid)));
    let (inner, waiting) = (told("creating", Some(&one)), told("created", Some(&one)));
    let expected = format!(
        "prestart {creating} in b\nprestart again\ncreateRuntime {creating} in b\ncreateRuntime again\n\
         createContainer {inner} in rootfs\ncreateContainer again\npoststart {created} in b\npoststart again\n"
    );
    let expected = expected.replace("\"org", "org").replace('"', "");
    let unquoted = |text: String| text.replace('"', "");
    let is = unquoted(logged(c)?);
    ensure!(is == expected, "after create:\n{is}\nshould be:\n{expected}");
    c.must(&["start", "x"])?;
    c.await_status("x", "running")?;
    c.eventually("the container's hooks have run", || {
        Ok(fs::read_to_string(c.path("b/rootfs/log")).is_ok_and(|text| text.ends_with("again\n")))
    })?;
    let is = unquoted(logged(c)?);
    let expected = unquoted(format!("startContainer {waiting} in /\nstartContainer again\n"));
    ensure!(is == expected, "after start:\n{is}\nshould be:\n{expected}");
    c.must(&["kill", "x", "KILL"])?;
    c.await_status("x", "stopped")?;
    ensure!(logged(c)?.is_empty(), "hooks when it ends by itself");
    c.must(&["delete", "x"])?;
    let is = unquoted(logged(c)?);
    let stopped = unquoted(told("stopped", None));
    ensure!(is.starts_with(&format!("poststop {stopped} in ")), "{is}\nshould be {stopped}");
    ensure!(is.ends_with("poststop again\n") && is.lines().count() == 2, "{is}");
    Ok(())
}

/// Hooks of the host are in its network namespace, and find the container's, a new one, at the pid that they are told.
fn network(c: &Context) -> Outcome {
    let log = c.text_path("hooks");
    let script = format!(
        "pid=$(sed 's/.*pid.:\\([0-9]*\\).*/\\1/'); {{ readlink /proc/self/ns/net; readlink /proc/$pid/ns/net; }} >>{log}"
    );
    let hooks = json!({ "createRuntime": [hook(&script)], "poststart": [hook(&script)],
        "poststop": [hook(&format!("readlink /proc/self/ns/net >>{log}"))] });
    let _bundle = bundle_with(c, hooks, "true")?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    let out = logged(c)?;
    let own = fs::read_link("/proc/self/ns/net")?.display().to_string();
    let lines: Vec<&str> = out.lines().collect();
    let [a, inside, b, again, end] = lines.as_slice() else {
        return Err(Stop::Failed(format!("not five lines:\n{out}")));
    };
    ensure!([a, b, end].iter().all(|line| **line == own), "{out}, and the host's is {own}");
    ensure!(inside == again && *inside != own, "{out}, and the host's is {own}");
    Ok(())
}

/// What hooks of the container mount below its root is there, and only for it.
fn mounts(c: &Context) -> Outcome {
    let script = "mkdir -p mounted && mount -t tmpfs none mounted && echo hook >mounted/file && cat /proc/self/mounts | grep -c rootfs";
    let _bundle =
        bundle_with(c, json!({ "createContainer": [hook(script)] }), "cat /mounted/file")?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.ok() && done.out() == "hook\n", "{}: {}{}", done.end, done.out(), done.err());
    ensure!(!c.path("b/rootfs/mounted/file").exists(), "the host sees it");
    Ok(())
}

/// A failing hook is the end of its kind and of the container, but of `poststop`.
fn failures(c: &Context) -> Outcome {
    for kind in KINDS {
        let log = log(c, kind);
        let failing = format!("echo {kind} >>{log}; echo words; echo reasons >&2; exit 3");
        let mut hooks = json!({
            "poststop": [hook(&format!("echo poststop >>{}", c.text_path("hooks")))],
        });
        hooks[kind] = json!([hook(&failing), hook(&format!("echo second >>{log}"))]);
        let _bundle = bundle_with(c, hooks, "echo ran")?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        let (out, err, logged) = (done.out(), done.err(), logged(c)?);
        if kind == "poststop" {
            ensure!(
                done.ok() && out == "ran\n" && logged == "poststop\n",
                "{kind}: {out}{err}{logged}"
            );
            continue;
        }
        ensure!(done.end.shell_status() == Some(1), "{kind}: {}: {err}", done.end);
        ensure!(out.is_empty() && err.contains("error running hook #0"), "{kind}: {out}{err}");
        ensure!(err.contains("exit status") && err.contains("reasons"), "{kind}: {err}");
        let (first, second) =
            if kind == "startContainer" { ("poststop", kind) } else { (kind, "poststop") };
        ensure!(logged == format!("{first}\n{second}\n"), "{kind}: {logged:?}");
    }
    Ok(())
}

/// Where a hook of `startContainer` fails, the container has ended before its program began. That `start` says so is the
/// specification's ("the runtime MUST generate an error"); runc's has ended by then, and the container's standard error is
/// where it is told.
fn failed_start(c: &Context) -> Outcome {
    let hooks = json!({ "startContainer": [hook("echo reasons >&2; exit 3")],
        "poststop": [hook(&format!("echo poststop >>{}", c.text_path("hooks")))] });
    let _bundle = bundle_with(c, hooks, "echo ran")?;
    let created = c.start(&["create", "--bundle", &c.text_path("b"), "x"])?.waited(c.limit())?;
    let done = c.detached(&["start", "x"])?;
    if c.is_runc() {
        ensure!(done.ok(), "{}: {}", done.end, done.err());
    } else {
        ensure!(done.end.shell_status() == Some(1), "{}: {}", done.end, done.err());
        ensure!(done.err().contains("error running hook #0"), "{}", done.err());
        ensure!(done.err().contains("reasons"), "{}", done.err());
    }
    c.await_status("x", "stopped")?;
    ensure!(created.out().is_empty(), "it ran: {}", created.out());
    let again = c.detached(&["start", "x"])?;
    ensure!(again.end.shell_status() == Some(1), "again: {}", again.end);
    c.must(&["delete", "x"])?;
    let logged = logged(c)?;
    ensure!(logged == "poststop\n", "{logged:?}");
    Ok(())
}

fn timeouts(c: &Context) -> Outcome {
    for kind in ["createRuntime", "startContainer"] {
        let mut slow = hook("exec sleep 1000");
        slow["timeout"] = json!(1);
        let mut hooks = json!({});
        hooks[kind] = json!([slow]);
        let _bundle = bundle_with(c, hooks, "echo ran")?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        ensure!(done.end.shell_status() == Some(1), "{kind}: {}: {}", done.end, done.err());
        ensure!(done.err().contains("timeout of 1"), "{kind}: {}", done.err());
    }
    Ok(())
}

/// Mistakes are found before anything is made; a program that is not there, when it is run.
fn refused(c: &Context) -> Outcome {
    c.only_ringwall()?;
    for (kind, hook, expected) in [
        (
            "prestart",
            json!({ "path": "bin/sh" }),
            "hooks.prestart[0].path: must be an absolute path",
        ),
        (
            "poststop",
            json!({ "path": "/bin/sh", "timeout": 0 }),
            "hooks.poststop[0].timeout: must be greater",
        ),
        ("createRuntime", json!({ "path": "/no/where" }), "hook #0: /no/where No such file"),
        ("createContainer", json!({ "path": "/no/where" }), "hook #0: /no/where No such file"),
        ("startContainer", json!({ "path": "/no/where" }), "no such file or directory"),
    ] {
        let mut hooks = json!({});
        hooks[kind] = json!([hook]);
        let _bundle = bundle_with(c, hooks, "echo ran")?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        let err = done.err();
        ensure!(!done.ok() && err.contains(expected), "{}: {err}", done.end);
    }
    Ok(())
}
