//! What containers are told to do, and the states that they go through.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Context, Outcome, Stop, Test, ensure, read_pid};
use crate::bundle;
use crate::process::{self, End};

pub(super) const TESTS: &[Test] = &[
    ("lifecycle/exit-status", exit_status),
    ("lifecycle/create-start-delete", create_start_delete),
    ("lifecycle/detached", detached),
    ("lifecycle/kill", kill_by_name),
    ("lifecycle/delete-running", delete_running),
    ("lifecycle/delete-created", delete_created),
    ("lifecycle/keep", keep),
    ("lifecycle/list", list),
    ("lifecycle/wait", wait),
    ("lifecycle/signals-are-forwarded", signals_are_forwarded),
    ("lifecycle/pid-takes-signals", pid_takes_signals),
    ("lifecycle/config-is-honoured", config_is_honoured),
    ("lifecycle/home", home),
    ("lifecycle/signals-before-start", signals_before_start),
    ("lifecycle/not-honoured", not_honoured),
    ("lifecycle/unprivileged", unprivileged),
    ("lifecycle/read-only-root", read_only_root),
    ("lifecycle/bind-mount", bind_mount),
    ("lifecycle/spec", spec),
    ("lifecycle/spec-runs", spec_runs),
    ("lifecycle/many-at-once", many_at_once),
    ("lifecycle/log-formats", log_formats),
    ("lifecycle/root-is-seen-by-the-host", root_is_seen),
    ("lifecycle/do", do_command),
    ("lifecycle/do-changes-nothing", do_changes_nothing),
    ("lifecycle/check", check),
];

fn exit_status(c: &Context) -> Outcome {
    for (script, status) in
        [("exit 0", 0), ("exit 37", 37), ("exit 255", 255), ("kill -9 $$; sleep 5", 0)]
    {
        let b = c.bundle("b", script)?;
        // The init of a container ignores what it does not handle, even SIGKILL, from inside.
        let script_takes_long = script.contains("sleep");
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        ensure!(
            done.end == End::Exit(status),
            "{script}: {}, should exit with {status}: {}",
            done.end,
            done.err()
        );
        ensure!(
            !script_takes_long || done.elapsed.as_secs_f64() >= 5.0,
            "{script}: it was killed from inside"
        );
        ensure!(done.left_behind.is_empty(), "left behind: {:?}", done.left_behind);
        drop(b);
    }
    Ok(())
}

fn create_start_delete(c: &Context) -> Outcome {
    let _b = c.bundle("b", "echo started; sleep 1; exit 3")?;
    let created = c.start(&[
        "create",
        "--bundle",
        &c.text_path("b"),
        "--pid-file",
        &c.text_path("pid"),
        "x",
    ])?;
    let out = created.out.clone();
    let done = created.end(c.limit())?;
    ensure!(done.ok(), "create: {}: {}", done.end, done.err());
    let state = c.state("x")?;
    let pid = read_pid(&c.path("pid"))?;
    ensure!(
        state["status"] == "created" && state["id"] == "x" && state["pid"] == pid,
        "state: {state}"
    );
    ensure!(
        state["bundle"] == c.text_path("b") && state["ociVersion"].is_string(),
        "state: {state}"
    );
    ensure!(process::state_of(pid).is_some(), "the pid {pid} is nobody's");
    ensure!(fs::read_to_string(&out)?.is_empty(), "it ran before it was started");
    c.must(&["start", "x"])?;
    c.eventually("it prints", || Ok(fs::read_to_string(&out)? == "started\n"))?;
    ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
    let again = c.detached(&["start", "x"])?;
    ensure!(again.end == End::Exit(1), "starting twice: {}", again.end);
    c.await_status("x", "stopped")?;
    ensure!(c.state("x")?["pid"] == 0, "state: {}", c.state("x")?);
    let again = c.detached(&["start", "x"])?;
    ensure!(again.end == End::Exit(1), "starting a stopped one: {}", again.end);
    c.must(&["delete", "x"])?;
    let gone = c.detached(&["state", "x"])?;
    ensure!(
        gone.end == End::Exit(1) && gone.err().contains("does not exist"),
        "{}: {}",
        gone.end,
        gone.err()
    );
    Ok(())
}

fn detached(c: &Context) -> Outcome {
    let _b = c.bundle("b", "echo up; sleep 1000")?;
    let started = c.start(&[
        "run",
        "--detach",
        "--bundle",
        &c.text_path("b"),
        "--pid-file",
        &c.text_path("pid"),
        "x",
    ])?;
    let out = started.out.clone();
    let done = started.end(c.limit())?;
    ensure!(done.ok(), "run --detach: {}: {}", done.end, done.err());
    let pid = read_pid(&c.path("pid"))?;
    ensure!(c.state("x")?["pid"] == pid && c.status("x")? == "running", "state: {}", c.state("x")?);
    c.eventually("it prints", || Ok(fs::read_to_string(&out)? == "up\n"))?;
    c.must(&["kill", "x", "KILL"])?;
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    Ok(())
}

fn kill_by_name(c: &Context) -> Outcome {
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    let _b = c.bundle("b", script)?;
    let started = c.start(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let out = started.out.clone();
    let seen = |text: &str| Ok(fs::read_to_string(&out)?.contains(text));
    ensure!(started.end(c.limit())?.ok(), "run --detach failed");
    c.eventually("it is up", || seen("up"))?;
    let wrong = c.detached(&["kill", "x", "NOSUCH"])?;
    ensure!(wrong.end == End::Exit(1), "an unknown signal: {}", wrong.end);
    for name in ["USR1", "SIGUSR1", "10"] {
        let before = fs::read_to_string(&out)?.matches("usr1").count();
        c.must(&["kill", "x", name])?;
        c.eventually(name, || Ok(fs::read_to_string(&out)?.matches("usr1").count() == before + 1))?;
    }
    // The default is SIGTERM.
    c.must(&["kill", "x"])?;
    c.eventually("it ends", || seen("term"))?;
    c.await_status("x", "stopped")?;
    let late = c.detached(&["kill", "x", "TERM"])?;
    ensure!(late.end == End::Exit(1), "killing a stopped one: {}", late.end);
    c.must(&["delete", "x"])?;
    Ok(())
}

fn delete_running(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let refused = c.detached(&["delete", "x"])?;
    ensure!(refused.end == End::Exit(1), "delete of a running one: {}", refused.end);
    ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
    c.must(&["delete", "--force", "x"])?;
    let gone = c.detached(&["delete", "x"])?;
    ensure!(gone.end == End::Exit(1), "delete of none: {}", gone.end);
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

fn delete_created(c: &Context) -> Outcome {
    let _b = c.bundle("b", "echo never")?;
    c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
    c.must(&["delete", "--force", "x"])?;
    c.must(&["create", "--bundle", &c.text_path("b"), "y"])?;
    c.must(&["kill", "y", "KILL"])?;
    c.await_status("y", "stopped")?;
    c.must(&["delete", "y"])?;
    Ok(())
}

fn keep(c: &Context) -> Outcome {
    let _b = c.bundle("b", "exit 5")?;
    let done = c.detached(&["run", "--keep", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.end == End::Exit(5), "{}: {}", done.end, done.err());
    ensure!(c.status("x")? == "stopped", "it is {}", c.status("x")?);
    c.must(&["delete", "x"])?;
    Ok(())
}

fn list(c: &Context) -> Outcome {
    let none = c.must(&["list"])?.out();
    ensure!(
        none.split_whitespace().eq(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]),
        "{none}"
    );
    let _b = c.bundle("b", "sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "one"])?;
    c.must(&["create", "--bundle", &c.text_path("b"), "two"])?;
    let table = c.must(&["list"])?.out();
    ensure!(
        table.lines().count() == 3 && table.contains("running") && table.contains("created"),
        "{table}"
    );
    ensure!(c.must(&["list", "-q"])?.out() == "one\ntwo\n", "{}", c.must(&["list", "-q"])?.out());
    let json: Value = serde_json::from_str(&c.must(&["list", "--format", "json"])?.out())?;
    let ids: Vec<&str> =
        json.as_array().into_iter().flatten().filter_map(|entry| entry["id"].as_str()).collect();
    ensure!(
        ids == ["one", "two"] && json[0]["status"] == "running" && json[0]["owner"] == "root",
        "{json}"
    );
    let wrong = c.detached(&["list", "--format", "xml"])?;
    ensure!(wrong.end == End::Exit(1), "an unknown format: {}", wrong.end);
    c.must(&["delete", "--force", "one"])?;
    c.must(&["delete", "--force", "two"])?;
    Ok(())
}

fn wait(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 0.5; exit 9")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let waited = c.must(&["wait", "x"])?;
    ensure!(waited.out().trim() == "9", "it printed {:?}", waited.out());
    let again = c.must(&["wait", "x"])?;
    ensure!(again.out().trim() == "9", "then it printed {:?}", again.out());
    c.must(&["delete", "x"])?;
    Ok(())
}

fn signals_are_forwarded(c: &Context) -> Outcome {
    let script = "trap 'echo usr2' USR2; trap 'echo term; exit 12' TERM; echo up; while :; do sleep 0.1; done";
    let _b = c.bundle("b", script)?;
    let running = c.start(&["run", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("it is up", || Ok(running.out().contains("up")))?;
    kill(Pid::from_raw(running.pid()), Signal::SIGUSR2)?;
    c.eventually("SIGUSR2 arrives", || Ok(running.out().contains("usr2")))?;
    kill(Pid::from_raw(running.pid()), Signal::SIGTERM)?;
    let done = running.end(c.limit())?;
    ensure!(
        done.end == End::Exit(12) && done.out() == "up\nusr2\nterm\n",
        "{}: {}",
        done.end,
        done.out()
    );
    Ok(())
}

fn pid_takes_signals(c: &Context) -> Outcome {
    let _b = c.bundle("b", "trap 'echo got; exit 0' HUP; echo up; while :; do sleep 0.1; done")?;
    let started = c.start(&[
        "run",
        "--detach",
        "--bundle",
        &c.text_path("b"),
        "--pid-file",
        &c.text_path("pid"),
        "x",
    ])?;
    let out = started.out.clone();
    ensure!(started.end(c.limit())?.ok(), "run --detach failed");
    c.eventually("it is up", || Ok(fs::read_to_string(&out)?.contains("up")))?;
    kill(Pid::from_raw(read_pid(&c.path("pid"))?), Signal::SIGHUP)?;
    c.await_status("x", "stopped")?;
    ensure!(fs::read_to_string(&out)? == "up\ngot\n", "it wrote {:?}", fs::read_to_string(&out)?);
    c.must(&["delete", "x"])?;
    Ok(())
}

fn config_is_honoured(c: &Context) -> Outcome {
    let mut config = bundle::config(
        &["sh", "-c", "pwd; id -u; id -g; hostname; echo $X; umask; ulimit -n"],
        &[("X", "y z")],
    );
    config["process"]["user"] =
        json!({ "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5] });
    config["process"]["cwd"] = json!("/var/tmp");
    config["hostname"] = json!("other");
    config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 99, "soft": 77 }]);
    let _b = c.bundle_with("b", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    let expected = "/var/tmp\n1000\n1001\nother\ny z\n0027\n77\n";
    ensure!(done.ok() && done.out() == expected, "{}: {}{}", done.end, done.out(), done.err());
    Ok(())
}

/// HOME comes from the container's /etc/passwd where the configuration does not say it.
fn home(c: &Context) -> Outcome {
    for (uid, env, expected) in
        [(0, None, "/root"), (4321, None, "/"), (0, Some(""), "/root"), (0, Some("/h"), "/h")]
    {
        let mut config = bundle::config(&["sh", "-c", "echo $HOME; env | grep -c ^HOME="], &[]);
        let mut list = vec![json!("PATH=/bin")];
        list.extend(env.map(|home| json!(format!("HOME={home}"))));
        config["process"]["env"] = Value::Array(list);
        config["process"]["user"] = json!({ "uid": uid, "gid": 0 });
        let _b = c.bundle_with("b", &config)?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        ensure!(
            done.ok() && done.out() == format!("{expected}\n1\n"),
            "user {uid}, {env:?}: {}: {}{}",
            done.end,
            done.out(),
            done.err()
        );
    }
    Ok(())
}

/// A created container has no program that could handle a signal: some end it, the others do nothing.
fn signals_before_start(c: &Context) -> Outcome {
    let _b = c.bundle("b", "echo ran")?;
    let created = c.start(&["create", "--bundle", &c.text_path("b"), "x"])?;
    let out = created.out.clone();
    ensure!(created.end(c.limit())?.ok(), "create failed");
    for signal in ["WINCH", "CONT", "URG"] {
        c.must(&["kill", "x", signal])?;
    }
    ensure!(c.status("x")? == "created", "it is {}", c.status("x")?);
    c.must(&["start", "x"])?;
    c.eventually("it prints", || Ok(fs::read_to_string(&out)? == "ran\n"))?;
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    c.must(&["create", "--bundle", &c.text_path("b"), "x"])?;
    c.must(&["kill", "x"])?;
    c.await_status("x", "stopped")?;
    let late = c.detached(&["start", "x"])?;
    ensure!(late.end == End::Exit(1), "starting one that was killed: {}", late.end);
    c.must(&["delete", "x"])?;
    Ok(())
}

/// What is not honoured is named in the log, and the container runs.
fn not_honoured(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let mut config = bundle::config(&["true"], &[]);
    config["process"]["apparmorProfile"] = json!("some");
    config["hooks"] = json!({ "later": [{ "path": "/bin/true" }] });
    config["linux"]["intelRdt"] = json!({ "closID": "group" });
    let _b = c.bundle_with("b", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    let log = fs::read_to_string(c.path("log"))?;
    for field in ["process.apparmorProfile", "hooks.later", "linux.intelRdt"] {
        let named =
            log.lines().filter(|line| line.contains(field) && line.contains("level=warning"));
        ensure!(named.count() == 1, "{field} is not named once in {log:?}");
    }
    Ok(())
}

/// A user without any privilege: state below XDG_RUNTIME_DIR or `--root`, root inside.
fn unprivileged(c: &Context) -> Outcome {
    c.only_ringwall()?;
    if c.place.runtime.platform.as_deref() != Some("ptrace") {
        return Err(Stop::Skipped("/dev/kvm may be for root alone".to_owned()));
    }
    let program = c.path("ringwall");
    fs::copy(c.place.runtime.argv.first().map_or("", String::as_str), &program)?;
    let script = "id -u; hostname; touch /tmp/x && stat -c %u /tmp/x; kill -0 1 && exit 5";
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    // Where a cgroup is named, there must be one, which is not this user's to make.
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("cgroupsPath");
    }
    let _b = c.bundle_with("b", &config)?;
    for folder in ["run", "elsewhere"] {
        fs::create_dir(c.path(folder))?;
        std::os::unix::fs::chown(c.path(folder), Some(NOBODY), Some(NOBODY))?;
    }
    fs::set_permissions(c.scratch.path(), fs::Permissions::from_mode(0o755))?;
    let nobody = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.uid(NOBODY).gid(NOBODY).env_clear().env("XDG_RUNTIME_DIR", c.path("run"));
        c.start_command(command.arg("--platform=ptrace").args(args))?.end(c.limit())
    };
    let bundle = c.text_path("b");
    let elsewhere = c.text_path("elsewhere");
    for root in [None, Some(elsewhere.as_str())] {
        let mut args: Vec<&str> = root.map_or(Vec::new(), |root| vec!["--root", root]);
        args.extend(["run", "--bundle", &bundle, "x"]);
        let done = nobody(&args)?;
        ensure!(
            done.end == End::Exit(5) && done.out() == "0\ncontainer\n0\n",
            "{root:?}: {}: {}{}",
            done.end,
            done.out(),
            done.err()
        );
    }
    let done = nobody(&["create", "--bundle", &bundle, "x"])?;
    ensure!(done.ok(), "create: {}: {}", done.end, done.err());
    let folder = c.path("run").join("ringwall/x");
    ensure!(folder.is_dir(), "its state is not in {}", folder.display());
    let table = nobody(&["list"])?.out();
    ensure!(table.contains("created") && table.contains("nobody"), "{table}");
    for command in ["start", "wait", "delete"] {
        let done = nobody(&[command, "x"])?;
        ensure!(done.ok(), "{command}: {}: {}", done.end, done.err());
        ensure!(command != "wait" || done.out() == "5\n", "it ended with {}", done.out());
    }
    ensure!(!folder.exists(), "its state is left behind");
    Ok(())
}

/// Debian's, and most systems', user nobody.
const NOBODY: u32 = 65534;

fn read_only_root(c: &Context) -> Outcome {
    let script = "touch /x; echo $?; mkdir /etc/y; echo $?; echo z >/tmp/z && cat /tmp/z; rm /etc/passwd; echo $?";
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    config["root"]["readonly"] = json!(true);
    let b = c.bundle_with("b", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.out() == "1\n1\nz\n1\n", "{}: {}{}", done.end, done.out(), done.err());
    ensure!(done.err().matches("Read-only file system").count() == 3, "{}", done.err());
    ensure!(
        b.rootfs().join("etc/passwd").exists() && !b.rootfs().join("x").exists(),
        "the root was changed"
    );
    Ok(())
}

fn bind_mount(c: &Context) -> Outcome {
    let outside = c.path("outside");
    fs::create_dir(&outside)?;
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777))?;
    fs::write(outside.join("in"), "from the host\n")?;
    let script =
        "cat /m/in; echo from inside >/m/out; mkdir /m/d; cat /ro/in; touch /ro/x; echo $?";
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    let mounts = config["mounts"].as_array_mut().into_iter();
    for list in mounts {
        for (destination, mode) in [("/m", "rw"), ("/ro", "ro")] {
            list.push(json!({ "destination": destination, "type": "bind", "source": outside, "options": ["rbind", mode] }));
        }
    }
    let _b = c.bundle_with("b", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(
        done.out() == "from the host\nfrom the host\n1\n",
        "{}: {}{}",
        done.end,
        done.out(),
        done.err()
    );
    ensure!(
        fs::read_to_string(outside.join("out"))? == "from inside\n",
        "the host does not see the file"
    );
    ensure!(outside.join("d").is_dir(), "the host does not see the folder");
    Ok(())
}

fn spec(c: &Context) -> Outcome {
    let folder = c.path("s");
    fs::create_dir(&folder)?;
    c.must(&["spec", "--bundle", &c.text_path("s")])?;
    let written: Value = serde_json::from_str(&fs::read_to_string(folder.join("config.json"))?)?;
    for pointer in [
        "/ociVersion",
        "/process/args",
        "/process/env",
        "/process/cwd",
        "/root/path",
        "/hostname",
        "/mounts",
    ] {
        ensure!(written.pointer(pointer).is_some(), "{pointer} is missing");
    }
    ensure!(
        written["process"]["args"] == json!(["sh"]) && written["process"]["terminal"] == true,
        "{}",
        written["process"]
    );
    let again = c.detached(&["spec", "--bundle", &c.text_path("s")])?;
    ensure!(
        again.end == End::Exit(1) && again.err().contains("config.json"),
        "{}: {}",
        again.end,
        again.err()
    );
    Ok(())
}

/// The default configuration runs, with no terminal.
fn spec_runs(c: &Context) -> Outcome {
    let b = c.bundle("b", "true")?;
    fs::remove_file(b.folder().join("config.json"))?;
    c.must(&["spec", "--bundle", &c.text_path("b")])?;
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(b.folder().join("config.json"))?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", "echo default; touch /x || echo read-only"]);
    b.write_config(&config.to_string())?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(
        done.ok() && done.out() == "default\nread-only\n",
        "{}: {}{}",
        done.end,
        done.out(),
        done.err()
    );
    Ok(())
}

fn many_at_once(c: &Context) -> Outcome {
    let mut started = Vec::new();
    let mut bundles = Vec::new();
    for n in 0..6 {
        bundles.push(c.bundle(&format!("b{n}"), &format!("sleep 0.{n}; echo {n}; exit {n}"))?);
        started.push(c.start(&[
            "run",
            "--bundle",
            &c.text_path(&format!("b{n}")),
            &format!("x{n}"),
        ])?);
    }
    for (n, one) in started.into_iter().enumerate() {
        let done = one.end(c.limit())?;
        let right = done.end == End::Exit(n as i32) && done.out() == format!("{n}\n");
        ensure!(right, "{n}: {}: {}{}", done.end, done.out(), done.err());
    }
    Ok(())
}

fn log_formats(c: &Context) -> Outcome {
    for (format, is) in [
        (
            "json",
            (|line| {
                serde_json::from_str::<Value>(line).is_ok_and(|v| {
                    v["level"] == "error" && v["msg"].is_string() && v["time"].is_string()
                })
            }) as fn(&str) -> bool,
        ),
        ("text", |line| {
            line.contains("level=error") && line.contains("msg=") && line.contains("time=")
        }),
    ] {
        let log = c.text_path(format);
        let mut command = c.place.runtime.bare(&[], None);
        command.args(["--root", &c.text_path("state"), "--log", &log, "--log-format", format]);
        command.args(["run", "--bundle", "/no/such/bundle", "x"]);
        let done = c.start_command(&mut command)?.end(c.limit())?;
        ensure!(done.end == End::Exit(1), "{}", done.end);
        ensure!(!done.err().is_empty(), "nothing on standard error");
        let text = fs::read_to_string(&log)?;
        ensure!(text.lines().any(is), "the {format} log is {text:?}");
    }
    let wrong = c.detached(&["--log-format", "xml", "list"])?;
    ensure!(wrong.end == End::Exit(1), "an unknown format: {}", wrong.end);
    Ok(())
}

/// What a container has written to its root is there for the host when its end is reported.
fn root_is_seen(c: &Context) -> Outcome {
    let b = c.bundle("b", "echo data >/f; mkdir /d; ln -s f /l; chmod 600 /f; chown 7:8 /f; rm /etc/hosts; mv /etc/group /etc/g2")?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    let root = b.rootfs();
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(root.join("f"))?;
    ensure!(fs::read_to_string(root.join("f"))? == "data\n", "the data is not there");
    ensure!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()) == (0o600, 7, 8),
        "{:o} {} {}",
        meta.mode(),
        meta.uid(),
        meta.gid()
    );
    ensure!(root.join("d").is_dir() && root.join("l").is_symlink(), "names are missing");
    ensure!(
        !root.join("etc/hosts").exists() && root.join("etc/g2").exists(),
        "names were not removed"
    );
    Ok(())
}

/// `do` runs a command of this machine on its own root, and changes nothing.
fn do_command(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let there = c.path("there");
    let script =
        format!("echo here $PWD; echo x >{}; cat {}; exit 21", there.display(), there.display());
    let mut command = c.place.runtime.command(c.scratch.path(), &["do", "--", "sh", "-c", &script]);
    command.current_dir(c.scratch.path());
    let done = c.start_command(&mut command)?.end(c.limit())?;
    let expected = format!("here {}\nx\n", c.scratch.path().display());
    ensure!(
        done.end == End::Exit(21) && done.out() == expected,
        "{}: {}{}",
        done.end,
        done.out(),
        done.err()
    );
    ensure!(!there.exists(), "it changed the host");
    Ok(())
}

/// Changes of all kinds to the host's files, which must look done inside and not be done outside.
fn do_changes_nothing(c: &Context) -> Outcome {
    const SCRIPT: &str = "echo more >>f; cat f; chmod 600 f; stat -c %a f
        mv d/g d/h; cat d/h; mv d e; ls e; rm l; ln f hard; stat -c %h f; rm f; cat hard
        echo new >n; mv n hard; cat hard; mkdir d; ls -A d; truncate -s 1 e/h; wc -c <e/h
        ln -s nowhere z; readlink z; touch -d @86400 hard; stat -c %Y hard; chown 5:6 hard
        stat -c '%u %g' hard; find . | sort; cd e; rm -r ../e; ls; exit 23";
    const OUT: &str = "one\nmore\n600\ntwo\nh\n2\none\nmore\nnew\n1\nnowhere\n86400\n5 6\n\
        .\n./d\n./e\n./e/h\n./hard\n./z\n";
    let folder = c.path("w");
    fs::create_dir_all(folder.join("d"))?;
    fs::write(folder.join("f"), "one\n")?;
    fs::write(folder.join("d/g"), "two\n")?;
    std::os::unix::fs::symlink("f", folder.join("l"))?;
    let mut command = c.place.runtime.command(c.scratch.path(), &["do", "--", "sh", "-c", SCRIPT]);
    command.current_dir(&folder);
    let done = c.start_command(&mut command)?.end(c.limit())?;
    ensure!(
        done.end == End::Exit(23) && done.out() == OUT,
        "{}: {}{}",
        done.end,
        done.out(),
        done.err()
    );
    let mut names: Vec<_> =
        fs::read_dir(&folder)?.map(|e| Ok(e?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    ensure!(names == ["d", "f", "l"], "the host has {names:?}");
    ensure!(fs::read_to_string(folder.join("f"))? == "one\n", "f was written");
    ensure!(fs::read_to_string(folder.join("d/g"))? == "two\n", "d/g was written");
    let meta = fs::metadata(folder.join("f"))?;
    ensure!(meta.mode() & 0o777 != 0o600 && meta.nlink() == 1, "f was changed: {meta:?}");
    Ok(())
}

fn check(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let done = c.detached(&["check"])?;
    ensure!(matches!(done.end, End::Exit(_)), "{}", done.end);
    for word in ["ptrace", "kvm"] {
        ensure!(
            done.out().to_lowercase().contains(word),
            "it does not speak of {word}: {}",
            done.out()
        );
    }
    Ok(())
}
