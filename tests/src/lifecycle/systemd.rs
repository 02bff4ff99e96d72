//! Containers whose cgroups systemd makes (`--systemd-cgroup`), in a VM that systemd has booted: which unit there is, where
//! it is, what it is told, what that makes of the container's processes, and that it goes.
//!
//! Each test passes with runc too.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::cgroups::{self, ROOT, procs, sleeper, unique, within};
use super::{Context, Outcome, Stop, Test, ensure, read_pid};
use crate::bundle;
use crate::process::Finished;

/// Which of these are run with this runtime or platform: all where what they are about differs, else those that show what
/// runc does.
pub fn is_with(test: &str, by: &str) -> bool {
    match by {
        "kvm" => ["scope", "limits", "update", "foreground"].contains(&test),
        "runc" => ["scope", "limits", "slice", "annotations", "refused"].contains(&test),
        _ => true,
    }
}

pub(super) const TESTS: &[Test] = &[
    ("systemd/scope", scope),
    ("systemd/limits", limits),
    ("systemd/update", update),
    ("systemd/slice", slice),
    ("systemd/foreground", foreground),
    ("systemd/life", life),
    ("systemd/killed-stand-in", killed_stand_in),
    ("systemd/annotations", annotations),
    ("systemd/refused", refused),
    ("systemd/user", user),
    ("systemd/taken", taken),
];

/// What systemd says of a unit.
fn show(unit: &str, names: &str) -> Result<BTreeMap<String, String>, Stop> {
    let done = Command::new("systemctl").args(["show", "--property", names, unit]).output()?;
    ensure!(done.status.success(), "systemctl: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Checks what systemd says of a unit.
fn has(unit: &str, expected: &[(&str, &str)]) -> Outcome {
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let found = show(unit, &names.join(","))?;
    for (name, value) in expected {
        let is = found.get(*name).map_or("", String::as_str);
        ensure!(is == *value, "{unit}: {name} is {is:?}, not {value:?}");
    }
    Ok(())
}

/// Checks a file of a unit's group.
fn holds(folder: &Path, files: &[(&str, &str)]) -> Outcome {
    for (file, expected) in files {
        let text = fs::read_to_string(folder.join(file))?;
        ensure!(
            text.trim() == *expected,
            "{}/{file}: {text:?}, not {expected:?}",
            folder.display()
        );
    }
    Ok(())
}

/// That nothing is left of a unit: systemd may take a moment to forget one.
fn gone(c: &Context, unit: &str, folder: &Path) -> Outcome {
    ensure!(!folder.exists(), "{} is left", folder.display());
    let forgotten =
        || Ok(show(unit, "LoadState")?.get("LoadState").is_some_and(|s| s == "not-found"));
    c.eventually(&format!("{unit} is forgotten"), forgotten)
}

/// Starts the container of a bundle; the pid that `state` gives.
fn start(c: &Context, id: &str) -> Result<i32, Stop> {
    let (bundle, file) = (c.text_path(id), c.text_path("pid"));
    let args =
        ["--systemd-cgroup", "run", "--detach", "--bundle", &bundle, "--pid-file", &file, id];
    c.must(&args)?;
    read_pid(&c.path("pid"))
}

fn folder(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// Without a path, as Podman has it: a scope in system.slice with all processes in it, of which systemd knows.
fn scope(c: &Context) -> Outcome {
    let id = unique("s");
    let _b = sleeper(c, &id, None, &json!({}))?;
    let pid = start(c, &id)?;
    let unit = format!("runc-{id}.scope");
    let group = format!("/system.slice/{unit}");
    has(
        &unit,
        &[
            ("ActiveState", "active"),
            ("SubState", "running"),
            ("Transient", "yes"),
            ("Slice", "system.slice"),
            ("ControlGroup", &group),
            ("Delegate", "yes"),
            ("DefaultDependencies", "no"),
            ("MemoryAccounting", "yes"),
            ("CPUAccounting", "yes"),
            ("IOAccounting", "yes"),
            ("TasksAccounting", "yes"),
        ],
    )?;
    let folder = folder(&group[1..]);
    within(c, &folder, pid)?;
    // Inside and out, those of a process that is started later too.
    let file = c.text_path("exec");
    c.must(&["exec", "--detach", "--pid-file", &file, &id, "sleep", "1000"])?;
    let exec = read_pid(&c.path("exec"))?;
    c.eventually("the new one is there too", || Ok(procs(&folder)?.contains(&exec)))?;
    c.must(&["kill", &id, "KILL"])?;
    // It is this process's to reap: runc's container does not end before.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(exec), None)?;
    c.await_status(&id, "stopped")?;
    c.must(&["delete", &id])?;
    gone(c, &unit, &folder)
}

/// Limits are systemd's and the group's, so that both say the same, also when systemd sets them anew.
fn limits(c: &Context) -> Outcome {
    const MEMORY: u64 = 96 << 20;
    let id = unique("l");
    let resources = json!({
        "memory": { "limit": MEMORY, "reservation": 32 << 20, "swap": MEMORY + (16 << 20) },
        "cpu": { "shares": 512, "quota": 50000, "period": 200_000, "cpus": "1", "mems": "0" },
        "pids": { "limit": 30 },
    });
    let _b = sleeper(c, &id, Some(&format!("system.slice:docker:{id}")), &resources)?;
    start(c, &id)?;
    let unit = format!("docker-{id}.scope");
    let memory = cgroups::memory_on_host(c, MEMORY).to_string();
    let pids = cgroups::pids_on_host(c, 30).to_string();
    has(
        &unit,
        &[
            ("MemoryMax", &memory),
            ("MemoryLow", "33554432"),
            ("MemorySwapMax", "16777216"),
            ("TasksMax", &pids),
            ("CPUWeight", "20"),
            ("CPUQuotaPerSecUSec", "250ms"),
            ("CPUQuotaPeriodUSec", "200ms"),
            ("AllowedCPUs", "1"),
            ("AllowedMemoryNodes", "0"),
            ("DevicePolicy", "strict"),
        ],
    )?;
    let folder = folder(&format!("system.slice/{unit}"));
    let files = [
        ("memory.max", memory.as_str()),
        ("memory.low", "33554432"),
        ("pids.max", &pids),
        ("cpu.weight", "20"),
        ("cpu.max", "50000 200000"),
        ("cpuset.cpus", "1"),
        ("cpuset.mems", "0"),
    ];
    holds(&folder, &files)?;
    let done = Command::new("systemctl").arg("daemon-reload").output()?;
    ensure!(done.status.success(), "daemon-reload: {}", String::from_utf8_lossy(&done.stderr));
    holds(&folder, &files)?;
    // What is in the group opens the devices that a container has, and no other.
    let procs = folder.join("cgroup.procs");
    for (device, opens) in [("/dev/null", true), ("/dev/vda", false)] {
        let script = format!("echo $$ > {} && : < {device}", procs.display());
        let done = Command::new("bash").args(["-c", &script]).output()?;
        let err = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success() == opens, "{device}: {err}");
        ensure!(opens || err.contains("Operation not permitted"), "{device}: {err}");
    }
    let done = c.must(&["exec", &id, "nproc"])?;
    ensure!(done.out() == "1\n", "nproc: {}", done.out());
    c.must(&["delete", "--force", &id])?;
    gone(c, &unit, &folder)
}

/// `update` tells systemd too, without being told of systemd itself.
fn update(c: &Context) -> Outcome {
    let id = unique("u");
    let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 30 } });
    let _b = sleeper(c, &id, Some(&format!(":docker:{id}")), &resources)?;
    start(c, &id)?;
    let unit = format!("docker-{id}.scope");
    let folder = folder(&format!("system.slice/{unit}"));
    c.must(&["update", "--memory", "134217728", "--pids-limit", "50", &id])?;
    c.must(&["update", "--cpu-quota", "30000", "--cpu-period", "60000", &id])?;
    c.must(&["update", "--cpu-share", "2048", "--cpuset-cpus", "1", &id])?;
    let memory = cgroups::memory_on_host(c, 128 << 20).to_string();
    let pids = cgroups::pids_on_host(c, 50).to_string();
    let told = [
        ("MemoryMax", memory.as_str()),
        ("TasksMax", &pids),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUQuotaPeriodUSec", "60ms"),
        ("CPUWeight", "79"),
        ("AllowedCPUs", "1"),
    ];
    has(&unit, &told)?;
    holds(
        &folder,
        &[
            ("memory.max", &memory),
            ("pids.max", &pids),
            ("cpu.max", "30000 60000"),
            ("cpu.weight", "79"),
            ("cpuset.cpus", "1"),
        ],
    )?;
    let file = c.path("resources");
    fs::write(&file, r#"{"pids":{"limit":-1},"cpu":{"quota":-1}}"#)?;
    c.must(&["update", "--resources", &file.display().to_string(), &id])?;
    has(&unit, &[("TasksMax", "infinity"), ("CPUQuotaPerSecUSec", "infinity")])?;
    c.must(&["delete", "--force", &id])?;
    gone(c, &unit, &folder)
}

/// A slice is within those that its name begins with, as systemd has them; two containers share it.
fn slice(c: &Context) -> Outcome {
    let (a, b) = (unique("a"), unique("b"));
    let top = format!("rw{}", std::process::id());
    let path = |id: &str| format!("{top}-inner.slice:docker:{id}");
    let _a = sleeper(c, &a, Some(&path(&a)), &json!({}))?;
    let _b = sleeper(c, &b, Some(&path(&b)), &json!({}))?;
    let above = format!("{top}.slice/{top}-inner.slice");
    for id in [&a, &b] {
        let pid = start(c, id)?;
        let unit = format!("docker-{id}.scope");
        has(&unit, &[("Slice", &format!("{top}-inner.slice")), ("ActiveState", "active")])?;
        ensure!(
            procs(&folder(&format!("{above}/{unit}")))?.contains(&pid),
            "{pid} is not in {unit}"
        );
    }
    c.must(&["delete", "--force", &a])?;
    let unit = format!("docker-{a}.scope");
    gone(c, &unit, &folder(&format!("{above}/{unit}")))?;
    has(&format!("docker-{b}.scope"), &[("ActiveState", "active")])?;
    ensure!(c.status(&b)? == "running", "the other is {}", c.status(&b)?);
    c.must(&["delete", "--force", &b])?;
    let unit = format!("docker-{b}.scope");
    gone(c, &unit, &folder(&format!("{above}/{unit}")))
}

/// A container in the foreground leaves nothing, and its caller where it was.
fn foreground(c: &Context) -> Outcome {
    let id = unique("f");
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let _b = sleeper(c, &id, None, &json!({}))?;
    let (bundle, file) = (c.text_path(&id), c.text_path("pid"));
    let running =
        c.start(&["--systemd-cgroup", "run", "--bundle", &bundle, "--pid-file", &file, &id])?;
    c.eventually("it is there", || Ok(c.path("pid").exists()))?;
    c.await_status(&id, "running")?;
    let unit = format!("runc-{id}.scope");
    let folder = folder(&format!("system.slice/{unit}"));
    ensure!(procs(&folder)?.contains(&read_pid(&c.path("pid"))?), "it is not in {unit}");
    c.must(&["kill", &id, "KILL"])?;
    running.end(c.limit())?;
    gone(c, &unit, &folder)?;
    let now = fs::read_to_string("/proc/self/cgroup")?;
    ensure!(now == own, "the caller is in {now:?}, was in {own:?}");
    Ok(())
}

/// What needs the group later finds it.
fn life(c: &Context) -> Outcome {
    let id = unique("p");
    let resources = json!({ "pids": { "limit": 40 }, "memory": { "limit": 64 << 20 } });
    let _b = sleeper(c, &id, None, &resources)?;
    let args = ["--systemd-cgroup", "create", "--bundle", &c.text_path(&id), &id];
    c.must(&args)?;
    let unit = format!("runc-{id}.scope");
    has(&unit, &[("ActiveState", "active")])?;
    c.must(&["start", &id])?;
    c.must(&["pause", &id])?;
    ensure!(c.status(&id)? == "paused", "it is {}", c.status(&id)?);
    c.must(&["resume", &id])?;
    let done = c.must(&["events", "--stats", &id])?;
    let stats: Value = serde_json::from_slice(&done.stdout)?;
    let limit = stats.pointer("/data/pids/limit").and_then(Value::as_u64);
    ensure!(limit == Some(40), "events: {stats}");
    let done = c.must(&["ps", "--format", "json", &id])?;
    let pids: Vec<i64> = serde_json::from_slice(&done.stdout)?;
    // runc's has those of the host, of which Ringwall's container has one.
    ensure!(pids.len() == if c.is_runc() { 2 } else { 1 }, "ps: {pids:?}");
    c.must(&["delete", "--force", &id])?;
    gone(c, &unit, &folder(&format!("system.slice/{unit}")))
}

/// `delete` finds what a container's processes could not take away.
fn killed_stand_in(c: &Context) -> Outcome {
    let id = unique("k");
    let _b = sleeper(c, &id, None, &json!({}))?;
    let pid = start(c, &id)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    c.await_status(&id, "stopped")?;
    c.must(&["delete", &id])?;
    let unit = format!("runc-{id}.scope");
    gone(c, &unit, &folder(&format!("system.slice/{unit}")))
}

/// Properties of the unit come from annotations.
fn annotations(c: &Context) -> Outcome {
    let id = unique("n");
    let mut config = bundle::config(&["sleep", "1000"], &[]);
    config["linux"]["cgroupsPath"] = json!("");
    config["annotations"] = json!({
        "org.systemd.property.TimeoutStopUSec": "uint64 123456789",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    });
    let _b = c.bundle_with(&id, &config)?;
    start(c, &id)?;
    let unit = format!("runc-{id}.scope");
    has(&unit, &[("TimeoutStopUSec", "2min 3.456789s"), ("CollectMode", "inactive-or-failed")])?;
    c.must(&["delete", "--force", &id])?;
    gone(c, &unit, &folder(&format!("system.slice/{unit}")))
}

/// What cannot be is an error, and neither a unit nor a group is left of it.
fn refused(c: &Context) -> Outcome {
    let id = unique("r");
    let command = |args: &[&str]| json!({ "process": { "args": args } });
    let path = |path: &str| json!({ "linux": { "cgroupsPath": path } });
    let resources = |resources: Value| json!({ "linux": { "resources": resources } });
    let annotation = |name: &str, value: &str| json!({ "annotations": { format!("org.systemd.property.{name}"): value } });
    for (change, word) in [
        (path("/a/b"), "slice:prefix:name"),
        (path("a:b:c"), "slice name: a"),
        (path("a--b.slice:b:c"), "a--b.slice"),
        (annotation("CollectMode", "what"), "CollectMode"),
        (annotation("Nonsense", "true"), "Nonsense"),
        (resources(json!({ "cpu": { "cpus": "x" } })), "\"x\""),
        (resources(json!({ "cpu": { "cpus": "4000" } })), "cpuset.cpus"),
        (command(&["/no/such/program"]), "/no/such/program"),
    ] {
        let mut config = bundle::config(&["true"], &[]);
        config["linux"]["cgroupsPath"] = json!("");
        merge(&mut config, &change);
        let _bundle = c.bundle_with("b", &config)?;
        let done = c.run(&["--systemd-cgroup", "run", "--bundle", &c.text_path("b"), &id])?;
        let log = fs::read_to_string(c.path("log")).unwrap_or_default() + &done.err();
        ensure!(!done.ok(), "{change} is taken");
        ensure!(log.replace('\\', "").contains(word), "{change}: {log}");
        let unit = format!("runc-{id}.scope");
        gone(c, &unit, &folder(&format!("system.slice/{unit}")))?;
        fs::remove_file(c.path("log"))?;
    }
    Ok(())
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

/// A user's container is a scope of the user's own systemd, which is reached over the bus of the session.
fn user(c: &Context) -> Outcome {
    const USER: u32 = 1000;
    let runtime = Path::new("/run/user/1000");
    let own = "system.slice/users-own.service";
    let [program] = c.place.runtime.argv.as_slice() else {
        return Err(Stop::Failed(format!("no program: {:?}", c.place.runtime.argv)));
    };
    let done = Command::new("systemctl").args(["start", "users-own.service"]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    c.eventually("the user's bus is there", || Ok(runtime.join("bus").exists()))?;
    fs::set_permissions(c.scratch.path(), fs::Permissions::from_mode(0o755))?;
    let id = unique("user");
    let resources = json!({ "pids": { "limit": 30 }, "memory": { "limit": 64 << 20 } });
    let _b = sleeper(c, &id, None, &resources)?;
    let as_user = |program: &str, args: &[&str]| -> Result<Finished, Stop> {
        let mut command = Command::new(program);
        command.uid(USER).gid(USER).env_clear().env("XDG_RUNTIME_DIR", runtime).env("HOME", "/");
        let done = c.start_command(command.args(args))?.end(c.limit())?;
        ensure!(done.ok(), "{program} {args:?}: {}: {}", done.end, done.err());
        Ok(done)
    };
    let bundle = c.text_path(&id);
    let global = ["--platform=ptrace", "--systemd-cgroup"];
    as_user(program, &[&global[..], &["run", "--detach", "--bundle", &bundle, &id]].concat())?;
    let unit = format!("runc-{id}.scope");
    let group = format!("{own}/user.slice/{unit}");
    let names = "ControlGroup,Slice,ActiveState,TasksMax";
    let done = as_user("systemctl", &["--user", "show", "--property", names, &unit])?;
    let pids = cgroups::pids_on_host(c, 30).to_string();
    for line in [
        format!("ControlGroup=/{group}"),
        "Slice=user.slice".into(),
        "ActiveState=active".into(),
        format!("TasksMax={pids}"),
    ] {
        ensure!(done.out().lines().any(|other| other == line), "no {line}: {}", done.out());
    }
    let folder = folder(&group);
    let within = procs(&folder)?;
    ensure!(within.len() >= 3, "{within:?}");
    let memory = cgroups::memory_on_host(c, 64 << 20).to_string();
    holds(&folder, &[("pids.max", &pids), ("memory.max", &memory)])?;
    as_user(program, &["update", "--pids-limit", "40", &id])?;
    holds(&folder, &[("pids.max", &cgroups::pids_on_host(c, 40).to_string())])?;
    as_user(program, &["delete", "--force", &id])?;
    c.eventually("the scope is gone", || Ok(!folder.exists()))?;
    // One in the foreground, whose stand-in cannot go back to where it was: its scope goes with it.
    let mut config = bundle::config(&["true"], &[]);
    config["linux"]["cgroupsPath"] = json!("");
    let _b = c.bundle_with("b", &config)?;
    as_user(program, &[&global[..], &["run", "--bundle", &c.text_path("b"), &id]].concat())?;
    c.eventually("the scope is gone", || Ok(!folder.exists()))
}

/// A unit that is another container's is not taken, and stays.
fn taken(c: &Context) -> Outcome {
    let (a, b) = (unique("one"), unique("two"));
    let path = format!(":docker:{a}");
    let _a = sleeper(c, &a, Some(&path), &json!({}))?;
    let _b = sleeper(c, &b, Some(&path), &json!({}))?;
    start(c, &a)?;
    let done =
        c.detached(&["--systemd-cgroup", "run", "--detach", "--bundle", &c.text_path(&b), &b])?;
    let unit = format!("docker-{a}.scope");
    ensure!(!done.ok() && c.log_tail().contains(&unit), "{}: {}", done.end, c.log_tail());
    has(&unit, &[("ActiveState", "active")])?;
    ensure!(c.status(&a)? == "running", "the first is {}", c.status(&a)?);
    c.must(&["delete", "--force", &a])?;
    gone(c, &unit, &folder(&format!("system.slice/{unit}")))
}
