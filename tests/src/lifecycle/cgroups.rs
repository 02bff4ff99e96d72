//! A container's cgroups on the host: which there are, what is in them, what limits they hold, and that they go.
//!
//! Each test passes with runc too; Ringwall's limits on the host are wider by what a sandbox itself needs, and with it
//! sandbox, gofer and stubs are in the groups beside the process whose pid `state` gives.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Context, Outcome, Stop, Test, ensure, read_pid};
use crate::{bundle, process};

pub(super) const TESTS: &[Test] = &[
    ("cgroups/default-path", default_path),
    ("cgroups/paths", paths),
    ("cgroups/members", members),
    ("cgroups/limits", limits),
    ("cgroups/refused", refused),
    ("cgroups/foreground", foreground),
    ("cgroups/update", update),
    ("cgroups/inside", inside),
    ("cgroups/quota", quota),
    ("cgroups/events", events),
    ("cgroups/memory-of-tasks", memory_of_tasks),
    ("cgroups/oom-events", oom_events),
    ("cgroups/oom-events-of-the-first", oom_events_of_the_first),
    ("cgroups/killed-stand-in", killed_stand_in),
    ("cgroups/without-systemd", without_systemd),
];

pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// Whether the host has version 2 alone.
pub(super) fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// A name that no other run of the tests has.
pub(super) fn unique(name: &str) -> String {
    format!("{}{name}", process::own_names())
}

/// A process's group in each hierarchy that is mounted where runc looks: its controllers, and its folder.
pub(super) fn groups(pid: i32) -> Result<Vec<(String, PathBuf)>, Stop> {
    let mut found = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/cgroup"))?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
        let below = match names.strip_prefix("name=").unwrap_or(names) {
            "" if unified() => "",
            "" => "unified",
            names => names,
        };
        let folder = Path::new(ROOT).join(below).join(path.trim_start_matches('/'));
        if folder.join("cgroup.procs").exists() {
            found.push((names.to_owned(), folder));
        }
    }
    Ok(found)
}

/// The group of a controller.
pub(super) fn group_of(pid: i32, controller: &str) -> Result<PathBuf, Stop> {
    let fits =
        |names: &str| (unified() && names.is_empty()) || names.split(',').any(|n| n == controller);
    let found = groups(pid)?.into_iter().find(|(names, _)| fits(names));
    found.map(|(_, folder)| folder).ok_or_else(|| Stop::Failed(format!("no group of {controller}")))
}

pub(super) fn procs(folder: &Path) -> Result<BTreeSet<i32>, Stop> {
    let text = fs::read_to_string(folder.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The bundle, of the container's name, of one with these resources that sleeps, in a group of this path.
pub(super) fn sleeper(
    c: &Context,
    id: &str,
    path: Option<&str>,
    resources: &Value,
) -> Result<bundle::Bundle, Stop> {
    let mut config = bundle::config(&["sh", "-c", "sleep 1000 & exec sleep 1000"], &[]);
    for (name, value) in resources.as_object().into_iter().flatten() {
        config["linux"]["resources"][name] = value.clone();
    }
    match path {
        Some(path) => config["linux"]["cgroupsPath"] = json!(path),
        None => drop(config["linux"].as_object_mut().and_then(|linux| linux.remove("cgroupsPath"))),
    }
    c.bundle_with(id, &config)
}

/// A container with these resources that sleeps, in a group of this path; the pid that `state` gives.
pub(super) fn sleeping(
    c: &Context,
    id: &str,
    path: Option<&str>,
    resources: &Value,
) -> Result<(bundle::Bundle, i32), Stop> {
    let bundle = sleeper(c, id, path, resources)?;
    c.must(&[
        "run",
        "--detach",
        "--bundle",
        &c.text_path(id),
        "--pid-file",
        &c.text_path("pid"),
        id,
    ])?;
    Ok((bundle, read_pid(&c.path("pid"))?))
}

/// Without a path a container's groups have its id, below the caller's own: beside it in version 2.
fn default_path(c: &Context) -> Outcome {
    let id = unique("id");
    let own = groups(std::process::id() as i32)?;
    let (_b, pid) = sleeping(c, &id, None, &json!({}))?;
    let its = groups(pid)?;
    ensure!(!its.is_empty() && its.len() == own.len(), "{own:?}, and the container's {its:?}");
    for ((names, own), (_, its)) in own.iter().zip(&its) {
        let above = match (unified(), own.parent()) {
            (true, Some(parent)) if own != Path::new(ROOT) => parent,
            _ => own,
        };
        ensure!(*its == above.join(&id), "{names}: {} below {}", its.display(), own.display());
    }
    c.must(&["delete", "--force", &id])?;
    for (_, folder) in its {
        ensure!(!folder.exists(), "{} is left", folder.display());
    }
    Ok(())
}

/// An absolute path is below the mount point, a relative one below the caller's, and neither leads above it.
fn paths(c: &Context) -> Outcome {
    let parent = unique("parent");
    let cases = [format!("/{parent}/a"), format!("{parent}/b"), format!("/../{parent}/./x/../c")];
    for (path, last) in cases.iter().zip(["a", "b", "c"]) {
        let (_b, pid) = sleeping(c, &unique(last), Some(path), &json!({}))?;
        let its = groups(pid)?;
        for (names, folder) in &its {
            let end = Path::new(&parent).join(last);
            ensure!(folder.ends_with(&end), "{path}: {names}: {}", folder.display());
        }
        c.must(&["delete", "--force", &unique(last)])?;
        for (_, folder) in its {
            ensure!(!folder.exists(), "{} is left", folder.display());
            // What is above stays, as with runc.
            if let Some(parent) = folder.parent() {
                fs::remove_dir(parent)?;
            }
        }
    }
    Ok(())
}

/// Every process that a container has on the host is in every group, those of a process that is started later too.
fn members(c: &Context) -> Outcome {
    let (_b, pid) = sleeping(c, &unique("m"), Some(&unique("members")), &json!({}))?;
    let args =
        ["exec", "--detach", "--pid-file", &c.text_path("exec"), &unique("m"), "sleep", "1000"];
    c.must(&args)?;
    let exec = read_pid(&c.path("exec"))?;
    let folders = groups(pid)?;
    for (names, folder) in &folders {
        c.eventually("the new one is there too", || Ok(procs(folder)?.contains(&exec)))?;
        let all = within(c, folder, pid)?;
        let there = procs(folder)?;
        ensure!(there.len() >= 3, "{names}: {there:?}");
        let own = procs(&group_of(std::process::id() as i32, names)?)?;
        ensure!(own.is_disjoint(&all), "{names}: the caller's has {own:?}");
    }
    c.must(&["kill", &unique("m"), "KILL"])?;
    // It is this process's to reap: runc's container does not end before.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(exec), None)?;
    c.await_status(&unique("m"), "stopped")?;
    c.must(&["delete", &unique("m")])?;
    for (_, folder) in folders {
        ensure!(!folder.exists(), "{} is left", folder.display());
    }
    Ok(())
}

/// A process and all that descend from it, which are in a group: one that begins between two looks is there at the next.
pub(super) fn within(c: &Context, folder: &Path, pid: i32) -> Result<BTreeSet<i32>, Stop> {
    let mut all = BTreeSet::new();
    c.eventually(&format!("{} has all of {pid}'s processes", folder.display()), || {
        all = family(pid)?;
        Ok(all.len() >= 2 && procs(folder)?.is_superset(&all))
    })?;
    Ok(all)
}

/// A process and all that descend from it.
pub(super) fn family(pid: i32) -> Result<BTreeSet<i32>, Stop> {
    let mut all = BTreeSet::from([pid]);
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        // One that has ended meanwhile has none.
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|word| word.parse().ok());
            next.extend(children.filter(|child| all.insert(*child)));
        }
    }
    Ok(all)
}

/// What a sandbox needs beside its container, as README says.
pub(super) fn memory_on_host(c: &Context, limit: u64) -> u64 {
    if c.is_runc() { limit } else { limit + (64 << 20) + limit / 32 }
}

/// The same for tasks.
pub(super) fn pids_on_host(c: &Context, limit: u64) -> u64 {
    match c.place.runtime.platform.as_deref() {
        None => limit,
        Some("ptrace") => 2 * limit + 64,
        Some(_) => limit + 64 + std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
    }
}

/// Checks files of a container's groups: controller, the file in version 1, that in version 2, and what is in it.
pub(super) fn holds(pid: i32, files: &[(&str, &str, &str, String, String)]) -> Outcome {
    for (controller, v1, v2, in_v1, in_v2) in files {
        let (file, expected) = if unified() { (v2, in_v2) } else { (v1, in_v1) };
        if file.is_empty() {
            continue;
        }
        let path = group_of(pid, controller)?.join(file);
        let found = fs::read_to_string(&path);
        let found = found.map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))?;
        ensure!(found.trim() == expected, "{}: {found:?} for {expected:?}", path.display());
    }
    Ok(())
}

/// Limits are where runc has them.
fn limits(c: &Context) -> Outcome {
    const MEMORY: u64 = 96 << 20;
    let resources = json!({
        "memory": { "limit": MEMORY, "reservation": 32 << 20 },
        "cpu": { "shares": 512, "quota": 50000, "period": 200_000, "cpus": "1", "mems": "0" },
        "pids": { "limit": 30 },
    });
    let (_b, pid) = sleeping(c, &unique("l"), Some(&unique("limits")), &resources)?;
    let memory = memory_on_host(c, MEMORY).to_string();
    let pids = pids_on_host(c, 30).to_string();
    let same =
        |controller, v1, v2, value: &str| (controller, v1, v2, value.to_owned(), value.to_owned());
    holds(
        pid,
        &[
            same("memory", "memory.limit_in_bytes", "memory.max", &memory),
            same("memory", "memory.soft_limit_in_bytes", "memory.low", "33554432"),
            ("cpu", "cpu.shares", "cpu.weight", "512".into(), "20".into()),
            ("cpu", "cpu.cfs_quota_us", "cpu.max", "50000".into(), "50000 200000".into()),
            same("cpu", "cpu.cfs_period_us", "", "200000"),
            same("cpuset", "cpuset.cpus", "cpuset.cpus", "1"),
            same("cpuset", "cpuset.mems", "cpuset.mems", "0"),
            same("pids", "pids.max", "pids.max", &pids),
        ],
    )?;
    if !unified() {
        let path = group_of(pid, "devices")?.join("devices.list");
        let list = fs::read_to_string(path)?;
        ensure!(list.contains("c 1:3 rwm") && !list.contains("a *:*"), "devices: {list}");
    }
    // The processors are all that there are inside.
    let done = c.must(&["exec", &unique("l"), "nproc"])?;
    ensure!(done.out() == "1\n", "nproc: {}", done.out());
    c.must(&["delete", "--force", &unique("l")]).map(drop)
}

/// What the host does not take is an error that names it, and nothing is left of the container.
fn refused(c: &Context) -> Outcome {
    let path = unique("refused");
    for (resources, word) in [
        (json!({ "cpu": { "cpus": "4000" } }), "cpuset.cpus"),
        (json!({ "cpu": { "mems": "x" } }), "cpuset.mems"),
        (
            json!({ "cpu": { "period": 1 } }),
            if unified() { "cpu.max" } else { "cpu.cfs_period_us" },
        ),
        (json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 0 }] }), "hugetlb"),
        (json!({ "unified": { "no/name": "1" } }), "unified"),
    ] {
        let mut config = bundle::config(&["true"], &[]);
        for (name, value) in resources.as_object().into_iter().flatten() {
            config["linux"]["resources"][name] = value.clone();
        }
        config["linux"]["cgroupsPath"] = json!(path);
        let _bundle = c.bundle_with("b", &config)?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), &path])?;
        let log = fs::read_to_string(c.path("log")).unwrap_or_default();
        ensure!(!done.ok(), "{resources} is taken");
        ensure!(log.contains(word) || done.err().contains(word), "{resources}: {log}");
        for (_, own) in groups(std::process::id() as i32)? {
            let above = if unified() { own.parent().unwrap_or(&own) } else { &own };
            for folder in [above.join(&path), own.join(&path)] {
                ensure!(!folder.exists(), "{resources}: {} is left", folder.display());
            }
        }
        fs::remove_file(c.path("log"))?;
    }
    Ok(())
}

/// A container in the foreground leaves nothing, and its caller where it was.
fn foreground(c: &Context) -> Outcome {
    let path = unique("foreground");
    let mut config = bundle::config(&["sleep", "1000"], &[]);
    config["linux"]["cgroupsPath"] = json!(path);
    let _bundle = c.bundle_with("b", &config)?;
    let file = c.text_path("pid");
    let running = c.start(&["run", "--bundle", &c.text_path("b"), "--pid-file", &file, &path])?;
    c.eventually("it is there", || Ok(c.path("pid").exists()))?;
    c.await_status(&path, "running")?;
    let pid = read_pid(&c.path("pid"))?;
    let its = groups(pid)?;
    ensure!(its.iter().all(|(_, folder)| folder.ends_with(&path)), "{its:?}");
    c.must(&["kill", &path, "KILL"])?;
    running.end(c.limit())?;
    for (_, folder) in its {
        ensure!(!folder.exists(), "{} is left", folder.display());
    }
    Ok(())
}

/// `delete` removes what a container's processes could not.
fn killed_stand_in(c: &Context) -> Outcome {
    let path = unique("killed");
    let (_b, pid) = sleeping(c, &path, Some(&path), &json!({}))?;
    let its = groups(pid)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    c.await_status(&path, "stopped")?;
    c.must(&["delete", &path])?;
    for (_, folder) in its {
        ensure!(!folder.exists(), "{} is left", folder.display());
    }
    Ok(())
}

/// Where systemd does not run, nobody can make a scope, and the error says what to do.
fn without_systemd(c: &Context) -> Outcome {
    if Path::new("/run/systemd/system").exists() {
        return Err(Stop::Skipped("systemd runs here".into()));
    }
    let mut config = bundle::config(&["true"], &[]);
    config["linux"]["cgroupsPath"] = json!("system.slice:runc:x");
    let _b = c.bundle_with("b", &config)?;
    let done = c.run(&["--systemd-cgroup", "run", "--bundle", &c.text_path("b"), "x"])?;
    let log = c.log_tail();
    ensure!(!done.ok() && log.contains("systemd"), "{}: {log}", done.end);
    ensure!(c.is_runc() || log.contains("native.cgroupdriver=cgroupfs"), "{log}");
    Ok(())
}

/// `update` changes the limits on the host and those inside.
fn update(c: &Context) -> Outcome {
    let id = unique("u");
    let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 30 } });
    let (_b, pid) = sleeping(c, &id, Some(&unique("update")), &resources)?;
    let same = |controller, v1, v2, value: String| (controller, v1, v2, value.clone(), value);
    let check = |memory: u64, pids: u64| {
        let memory = memory_on_host(c, memory).to_string();
        let pids = pids_on_host(c, pids).to_string();
        holds(
            pid,
            &[
                same("memory", "memory.limit_in_bytes", "memory.max", memory),
                same("pids", "pids.max", "pids.max", pids),
            ],
        )
    };
    let update = |args: &[&str]| c.must(&[&["update"], args, &[id.as_str()]].concat());
    // More than the limit was.
    let big = "dd if=/dev/zero of=/dev/null bs=80M count=1 2>/dev/null; echo $?";
    let dd = |expected: &str| -> Outcome {
        let done = c.must(&["exec", &id, "sh", "-c", big])?;
        ensure!(done.out() == expected, "{}", done.out());
        Ok(())
    };
    dd("137\n")?;
    update(&["--memory", "134217728", "--pids-limit", "50"])?;
    check(128 << 20, 50)?;
    dd("0\n")?;
    update(&["--cpu-quota", "30000", "--cpu-period", "60000", "--cpu-share", "2048"])?;
    update(&["--memory-reservation", "20971520", "--cpuset-cpus", "1"])?;
    holds(
        pid,
        &[
            ("cpu", "cpu.cfs_quota_us", "cpu.max", "30000".into(), "30000 60000".into()),
            ("cpu", "cpu.shares", "cpu.weight", "2048".into(), "79".into()),
            same("memory", "memory.soft_limit_in_bytes", "memory.low", "20971520".into()),
            same("cpuset", "cpuset.cpus", "cpuset.cpus", "1".into()),
        ],
    )?;
    check(128 << 20, 50)?;
    // Back, from a file.
    let file = c.path("resources");
    fs::write(&file, r#"{"memory":{"limit":67108864},"pids":{"limit":-1}}"#)?;
    update(&["--resources", &file.display().to_string()])?;
    let memory = memory_on_host(c, 64 << 20).to_string();
    holds(
        pid,
        &[
            same("memory", "memory.limit_in_bytes", "memory.max", memory),
            same("pids", "pids.max", "pids.max", "max".into()),
        ],
    )?;
    dd("137\n")?;
    if !c.is_runc() {
        // Version 2 has runc end processes for it.
        let done = c.detached(&["update", "--memory", "100000", &id])?;
        let log = c.log_tail();
        ensure!(!done.ok() && log.contains("unable to set memory limit to 100000"), "{log}");
        dd("137\n")?;
        let done = c.must(&["exec", &id, "sh", "-c", "free -k | awk '/Mem/ { print $2 }'"])?;
        ensure!(done.out() == "65536\n", "free: {}", done.out());
    }
    c.must(&["delete", "--force", &id]).map(drop)
}

/// What a container's own mount shows: runc's file names, and the limits that hold, as they are inside.
fn inside(c: &Context) -> Outcome {
    let id = unique("i");
    let mut config = bundle::config(&["sleep", "1000"], &[]);
    let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] });
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.push(mount);
    }
    let spaces = config["linux"]["namespaces"].as_array_mut();
    spaces.into_iter().for_each(|all| all.push(json!({ "type": "cgroup" })));
    config["linux"]["resources"] = json!({
        "memory": { "limit": 67_108_864, "reservation": 33_554_432 },
        "pids": { "limit": 40 },
        "cpu": { "shares": 512, "quota": 50000, "period": 200_000 },
    });
    let _b = c.bundle_with("b", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), &id])?;
    let (script, expected) = if unified() {
        (
            "cd /sys/fs/cgroup; for f in memory.max memory.low pids.max cpu.max cpu.weight cgroup.type
             do echo $f $(cat $f); done; grep -c '^0::/$' /proc/self/cgroup
             grep -o '^oom_kill .*' memory.events; grep -cx 1 cgroup.procs; awk '$1 > 0' memory.current | wc -l
             for c in cpuset cpu memory pids; do grep -ow $c cgroup.controllers; done
             grep -c '^usage_usec [1-9]' cpu.stat; stat -fc %T .; touch x 2>&1 | grep -o 'Read-only.*'",
            "memory.max 67108864\nmemory.low 33554432\npids.max 40\ncpu.max 50000 200000\ncpu.weight 20\n\
             cgroup.type domain\n1\noom_kill 0\n1\n1\ncpuset\ncpu\nmemory\npids\n1\nUNKNOWN\n\
             Read-only file system\n",
        )
    } else {
        (
            "cd /sys/fs/cgroup; for f in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes \
             memory/memory.memsw.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us \
             cpu/cpu.shares freezer/freezer.state; do echo $f $(cat $f); done
             grep -cE '^[0-9]+:(memory|pids|cpu|cpuset):/$' /proc/self/cgroup
             grep -o '^oom_kill .*' memory/memory.oom_control; awk '$1 > 0' memory/memory.usage_in_bytes | wc -l
             awk '$1 == \"memory\" { print ($2 > 0), $4 }' /proc/cgroups
             awk '$1 > 0' cpuacct/cpuacct.usage | wc -l; grep -cx 1 pids/cgroup.procs
             grep -c ' /sys/fs/cgroup/memory cgroup ro,.*,memory ' /proc/mounts
             touch memory/x 2>&1 | grep -o 'Read-only.*'",
            "memory/memory.limit_in_bytes 67108864\nmemory/memory.soft_limit_in_bytes 33554432\n\
             memory/memory.memsw.limit_in_bytes 9223372036854771712\npids/pids.max 40\ncpu/cpu.cfs_quota_us 50000\n\
             cpu/cpu.cfs_period_us 200000\ncpu/cpu.shares 512\nfreezer/freezer.state THAWED\n4\noom_kill 0\n1\n\
             1 1\n1\n1\n1\nRead-only file system\n",
        )
    };
    let done = c.must(&["exec", &id, "sh", "-c", script])?;
    ensure!(done.out() == expected, "{}{}", done.out(), done.err());
    if !c.is_runc() {
        // A quota is no number of processors; memory is what there is.
        let done = c.must(&[
            "exec",
            &id,
            "sh",
            "-c",
            "nproc; awk '/MemTotal/ { print $2 }' /proc/meminfo",
        ])?;
        let all = std::thread::available_parallelism()?;
        ensure!(done.out() == format!("{all}\n65536\n"), "{}", done.out());
    }
    c.must(&["delete", "--force", &id]).map(drop)
}

/// Shell: two processes that never wait.
pub(super) const BUSY: &str = "while :; do :; done & while :; do :; done";

/// What `events` says of a container's processor time.
pub(super) fn processor(c: &Context, id: &str) -> Result<Value, Stop> {
    let done = c.must(&["events", "--stats", id])?;
    let event: Value = serde_json::from_slice(&done.stdout)?;
    Ok(event["data"]["cpu"].clone())
}

/// The time that it has used, nanoseconds, and how often it was held back.
pub(super) fn used_and_held(c: &Context, id: &str) -> Result<(u64, u64), Stop> {
    let cpu = processor(c, id)?;
    // runc leaves out what is 0.
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Ok((number(&cpu["usage"]["total"]), number(&cpu["throttling"]["throttledPeriods"])))
}

/// Checks that a container which may use a fifth of a processor uses no more, but for what begins and ends within the time
/// that is looked at; that it is held back at all is for the caller to say.
pub(super) fn uses_a_fifth(c: &Context, id: &str) -> Outcome {
    let begun = Instant::now();
    let (before, _) = used_and_held(c, id)?;
    thread::sleep(Duration::from_secs(3));
    let (after, _) = used_and_held(c, id)?;
    let (used, took) = (after - before, begun.elapsed().as_nanos() as u64);
    ensure!(used < took / 10 * 3 + 150_000_000, "{id} has used {used} ns in {took}");
    Ok(())
}

/// A quota of processor time holds back whoever never waits, is told inside, changes while it runs, and goes.
fn quota(c: &Context) -> Outcome {
    let id = unique("q");
    let mut config = bundle::config(&["sh", "-c", BUSY], &[]);
    config["linux"]["resources"]["cpu"] = json!({ "quota": 20_000, "period": 100_000 });
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }));
    }
    let _b = c.bundle_with("b", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), &id])?;
    let held = || Ok::<u64, Stop>(used_and_held(c, &id)?.1);
    c.eventually("it is held back", || Ok(held()? > 1))?;
    uses_a_fifth(c, &id)?;
    let script = "cd /sys/fs/cgroup; test -e cpu.stat || cd cpu
        grep -cE '^nr_(periods|throttled) [0-9]|^throttled_(time|usec) [0-9]' cpu.stat
        grep -c '^nr_periods [1-9]' cpu.stat; cat cpu.max 2>/dev/null || cat cpu.cfs_quota_us";
    let limit = if unified() { "20000 100000" } else { "20000" };
    let done = c.must(&["exec", &id, "sh", "-c", script])?;
    ensure!(done.out() == format!("3\n1\n{limit}\n"), "{}{}", done.out(), done.err());
    // Less than that, and more than there is.
    c.must(&["update", "--cpu-quota", "5000", "--cpu-period", "50000", &id])?;
    let before = held()?;
    c.eventually("it is held back still", || Ok(held()? > before + 1))?;
    c.must(&["update", "--cpu-quota", "-1", &id])?;
    let before = held()?;
    thread::sleep(Duration::from_millis(500));
    ensure!(held()? == before, "it is held back without a quota");
    c.must(&["delete", "--force", &id]).map(drop)
}

/// `events` tells what the host counts in the group of a container, as runc does.
fn events(c: &Context) -> Outcome {
    let id = unique("e");
    let resources = json!({ "cpu": { "cpus": "1", "mems": "0" } });
    let (_b, _) = sleeping(c, &id, Some(&unique("events")), &resources)?;
    let done = c.must(&["events", "--stats", &id])?;
    let event: Value = serde_json::from_slice(&done.stdout)?;
    let data = &event["data"];
    for name in ["cpuset", "blkio", "hugetlb"] {
        ensure!(data[name].is_object(), "{name}: {event}");
    }
    if !unified() {
        ensure!(
            data["cpuset"]["cpus"] == json!([1]) && data["cpuset"]["mems"] == json!([0]),
            "{event}"
        );
        ensure!(data["cpuset"]["cpu_exclusive"] == 0, "{event}");
        let kinds = ["percpu", "percpu_kernel", "percpu_user"];
        let times = kinds.map(|kind| data["cpu"]["usage"][kind].as_array().map_or(0, Vec::len));
        ensure!(times[0] > 1 && times == [times[0]; 3], "{event}");
    }
    c.must(&["delete", "--force", &id]).map(drop)
}

/// What ends inside for its memory is counted by the container's group on the host, where engines look, and the group's limits
/// are as they were.
fn oom_events(c: &Context) -> Outcome {
    counts_oom(c, None)
}

/// Also where the container's processes are the first that the host is to kill, which all of them say there.
fn oom_events_of_the_first(c: &Context) -> Outcome {
    counts_oom(c, Some(1000))
}

fn counts_oom(c: &Context, score: Option<i32>) -> Outcome {
    let id = unique("o");
    let script = "trap 'exit 7' TERM; (exec dd if=/dev/zero of=/dev/null bs=200M count=1) 2>/dev/null; echo $?
                  while :; do sleep 0.1; done";
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "swap": 64 << 20 });
    if let Some(score) = score {
        config["process"]["oomScoreAdj"] = json!(score);
    }
    let _b = c.bundle_with("b", &config)?;
    let running =
        c.start(&["run", "--bundle", &c.text_path("b"), "--pid-file", &c.text_path("pid"), &id])?;
    c.eventually("one was killed", || Ok(running.out() == "137\n"))?;
    let pid = read_pid(&c.path("pid"))?;
    let group = group_of(pid, "memory")?;
    let file = if unified() { "memory.events" } else { "memory.oom_control" };
    c.eventually("the host has counted it", || {
        let text = fs::read_to_string(group.join(file))?;
        Ok(text.lines().any(|line| line == "oom_kill 1"))
    })?;
    let limit = memory_on_host(c, 64 << 20).to_string();
    let swap = if unified() { "0".to_owned() } else { limit.clone() };
    let limits = [
        ("memory", "memory.limit_in_bytes", "memory.max", limit.clone(), limit),
        ("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", swap.clone(), swap),
    ];
    c.eventually("the limits are as they were", || Ok(holds(pid, &limits).is_ok()))?;
    holds(pid, &limits)?;
    if let Some(score) = score {
        let members = fs::read_to_string(group.join("cgroup.procs"))?;
        ensure!(members.lines().any(|member| member == pid.to_string()), "{members}");
        c.eventually("the score is as it was", || {
            let scores = members.lines().map(|member| {
                fs::read_to_string(format!("/proc/{member}/oom_score_adj")).unwrap_or_default()
            });
            // Whoever has ended meanwhile has none.
            Ok(scores.into_iter().all(|s| s.is_empty() || s.trim() == score.to_string()))
        })?;
    }
    c.must(&["kill", &id, "TERM"])?;
    let done = running.end(c.limit())?;
    ensure!(done.end.shell_status() == Some(7), "{}: {}", done.end, done.err());
    Ok(())
}

/// Tasks cost memory: on KVM their stacks in the sentry, under ptrace what no frame holds. It counts inside, so that the
/// host's limit is never the first to act, and whoever makes more of them than there is room for goes on.
fn memory_of_tasks(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let id = unique("t");
    let one = "(echo 500 >/proc/self/oom_score_adj; exec sleep 1000) &";
    let script = format!(
        "i=0; while [ $i -lt 200 ]; do {one} i=$((i+1)); done 2>/dev/null; echo alive; exec sleep 1000"
    );
    let mut config = bundle::config(&["sh", "-c", &script], &[]);
    config["linux"]["resources"]["memory"] = json!({ "limit": 24 << 20 });
    let _b = c.bundle_with("b", &config)?;
    let running =
        c.start(&["run", "--bundle", &c.text_path("b"), "--pid-file", &c.text_path("pid"), &id])?;
    c.eventually("it has made them", || Ok(running.out().contains("alive")))?;
    let group = group_of(read_pid(&c.path("pid"))?, "memory")?;
    let file = if unified() { "memory.current" } else { "memory.max_usage_in_bytes" };
    let most: u64 = fs::read_to_string(group.join(file))?.trim().parse().unwrap_or(u64::MAX);
    let limit = memory_on_host(c, 24 << 20);
    ensure!(most < limit, "{most} of {limit} bytes");
    c.must(&["kill", &id, "KILL"])?;
    let done = running.end(c.limit())?;
    ensure!(done.end.shell_status() == Some(137), "{}: {}", done.end, done.err());
    Ok(())
}
