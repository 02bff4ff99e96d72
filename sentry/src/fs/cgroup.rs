//! cgroup file systems: the one group of a container, as the container sees it, with the limits that hold and what is used.
//!
//! The root is the container's own group, as in a cgroup namespace; there are no groups below it, and none can be made.
//! Memory, tasks and processor time are limited by the sentry, so these are its own numbers; shares of processor time are
//! the host's to enforce, and the files say what has been set. Processors are numbered as they are inside.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::sysfs::{Fixed, Show, Tree};
use crate::control::{Limits, MountSource, MountSpec, Throttling, Usage};
use crate::errno::Errno;
use crate::kernel::Container;
use crate::platform::platform;
use crate::task::bandwidth::PERIOD;

/// Magic numbers (linux/magic.h).
const CGROUP_MAGIC: u64 = 0x27_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;
const TMPFS_MAGIC: u64 = 0x102_1994;

/// A file's name, and what writes its text.
type File = (&'static str, Show);

/// A controller: its name, its files in version 1, and those in version 2.
struct Controller(&'static str, &'static [File], &'static [File]);

/// In the order of /proc/cgroups. Version 2 has no cpuacct: what it counts is in cpu.stat.
const CONTROLLERS: [Controller; 8] = [
    Controller(
        "cpuset",
        &[
            ("cpuset.cpus", cpus),
            ("cpuset.effective_cpus", cpus),
            ("cpuset.mems", mems),
            ("cpuset.effective_mems", mems),
        ],
        &[
            ("cpuset.cpus", cpus),
            ("cpuset.cpus.effective", cpus),
            ("cpuset.mems", mems),
            ("cpuset.mems.effective", mems),
        ],
    ),
    Controller(
        "cpu",
        &[
            ("cpu.cfs_period_us", |c, out| line(out, period(&c.limits()))),
            ("cpu.cfs_quota_us", |c, out| match c.limits().quota {
                Some(quota) => line(out, quota),
                None => out.push_str("-1\n"),
            }),
            ("cpu.shares", |c, out| line(out, c.limits().shares.unwrap_or(1024))),
            ("cpu.stat", |c, out| {
                let Throttling { periods, throttled, time_ns } = c.bandwidth.counts();
                let _ = write!(out, "nr_periods {periods}\nnr_throttled {throttled}\n");
                let _ = write!(out, "throttled_time {time_ns}\nnr_bursts 0\nburst_time 0\n");
            }),
        ],
        &[
            ("cpu.max", |c, out| {
                let limits = c.limits();
                let quota = limits.quota.map_or("max".into(), |quota| format!("{quota}"));
                let _ = writeln!(out, "{quota} {}", period(&limits));
            }),
            ("cpu.stat", |c, out| {
                let usage = c.usage();
                let (user, system) = (usage.user_ns / 1000, usage.system_ns / 1000);
                let all = user.saturating_add(system);
                let _ = write!(out, "usage_usec {all}\nuser_usec {user}\nsystem_usec {system}\n");
                let Throttling { periods, throttled, time_ns } = usage.throttling;
                let _ = write!(out, "nr_periods {periods}\nnr_throttled {throttled}\n");
                let _ = writeln!(out, "throttled_usec {}", time_ns / 1000);
                let _ = write!(out, "nr_bursts 0\nburst_usec 0\n");
            }),
            ("cpu.weight", |c, out| {
                // As runc converts them: 2 to 262144 to 1 to 10000.
                let shares = c.limits().shares.unwrap_or(0).saturating_sub(2).min(262_142);
                let weight = shares.saturating_mul(9999) / 262_142;
                line(out, if shares == 0 { 100 } else { weight.saturating_add(1) });
            }),
        ],
    ),
    Controller(
        "cpuacct",
        &[
            ("cpuacct.stat", |c, out| {
                let usage = c.usage();
                let ticks = |ns: u64| ns / 10_000_000;
                let (user, system) = (ticks(usage.user_ns), ticks(usage.system_ns));
                let _ = write!(out, "user {user}\nsystem {system}\n");
            }),
            ("cpuacct.usage", |c, out| {
                let usage = c.usage();
                line(out, usage.user_ns.saturating_add(usage.system_ns));
            }),
            ("cpuacct.usage_sys", |c, out| line(out, c.usage().system_ns)),
            ("cpuacct.usage_user", |c, out| line(out, c.usage().user_ns)),
        ],
        &[],
    ),
    Controller("blkio", &[], &[]),
    Controller(
        "memory",
        &[
            ("memory.failcnt", |c, out| line(out, c.usage().oom_kills)),
            ("memory.limit_in_bytes", |c, out| line(out, bytes(c.limits().memory))),
            ("memory.max_usage_in_bytes", |c, out| line(out, c.usage().memory_peak)),
            ("memory.memsw.limit_in_bytes", |c, out| line(out, bytes(c.limits().swap))),
            ("memory.memsw.usage_in_bytes", |c, out| line(out, c.usage().memory)),
            ("memory.oom_control", |c, out| {
                let kills = c.usage().oom_kills;
                let _ = write!(out, "oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            }),
            ("memory.soft_limit_in_bytes", |c, out| line(out, bytes(c.limits().reservation))),
            ("memory.stat", |c, out| {
                let (rss, cache) = parts(c);
                let limits = c.limits();
                let (limit, swap) = (bytes(limits.memory), bytes(limits.swap));
                let _ = write!(out, "cache {cache}\nrss {rss}\n");
                let _ = writeln!(out, "hierarchical_memory_limit {limit}");
                let _ = writeln!(out, "hierarchical_memsw_limit {swap}");
                let _ = write!(out, "total_cache {cache}\ntotal_rss {rss}\n");
            }),
            ("memory.usage_in_bytes", |c, out| line(out, c.usage().memory)),
            ("memory.use_hierarchy", |_, out| line(out, 1)),
        ],
        &[
            ("memory.current", |c, out| line(out, c.usage().memory)),
            ("memory.events", memory_events),
            ("memory.events.local", memory_events),
            ("memory.high", |_, out| out.push_str("max\n")),
            ("memory.low", |c, out| line(out, c.limits().reservation.unwrap_or(0))),
            ("memory.max", |c, out| most(out, c.limits().memory)),
            ("memory.min", |_, out| line(out, 0)),
            ("memory.oom.group", |_, out| line(out, 0)),
            ("memory.peak", |c, out| line(out, c.usage().memory_peak)),
            ("memory.stat", |c, out| {
                let (anon, file) = parts(c);
                let _ = write!(out, "anon {anon}\nfile {file}\n");
            }),
            ("memory.swap.current", |_, out| line(out, 0)),
            ("memory.swap.max", |c, out| {
                let limits = c.limits();
                most(out, limits.swap.map(|both| both.saturating_sub(limits.memory.unwrap_or(0))));
            }),
        ],
    ),
    Controller("devices", &[], &[]),
    Controller("freezer", &[("freezer.state", |c, out| out.push_str(state(c)))], &[]),
    Controller(
        "pids",
        &[("pids.current", pids_current), ("pids.max", pids_max)],
        &[("pids.current", pids_current), ("pids.max", pids_max)],
    ),
];

/// What every group has, in version 1 and in version 2.
const CORE: [&[File]; 2] = [
    &[
        ("cgroup.clone_children", |_, out| line(out, 0)),
        ("cgroup.procs", procs),
        ("notify_on_release", |_, out| line(out, 0)),
        ("tasks", threads),
    ],
    &[
        ("cgroup.controllers", |c, out| {
            let names: Vec<&str> =
                if c.limits().version == 1 { Vec::new() } else { v2().collect() };
            let _ = writeln!(out, "{}", names.join(" "));
        }),
        ("cgroup.events", |c, out| {
            let frozen = u32::from(c.freezer.is_frozen());
            let _ = write!(out, "populated 1\nfrozen {frozen}\n");
        }),
        ("cgroup.freeze", |c, out| line(out, u64::from(c.freezer.is_frozen()))),
        ("cgroup.max.depth", |_, out| out.push_str("max\n")),
        ("cgroup.max.descendants", |_, out| out.push_str("max\n")),
        ("cgroup.procs", procs),
        ("cgroup.stat", |_, out| out.push_str("nr_descendants 0\nnr_dying_descendants 0\n")),
        ("cgroup.subtree_control", |_, out| out.push('\n')),
        ("cgroup.threads", threads),
        ("cgroup.type", |_, out| out.push_str("domain\n")),
    ],
];

/// Names of the controllers of version 2.
fn v2() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().filter(|Controller(.., files)| !files.is_empty()).map(|c| c.0)
}

/// Names of the controllers of version 1.
fn v1() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|c| c.0)
}

fn tree<'a>(container: &Weak<Container>, files: impl Iterator<Item = &'a File>) -> Tree {
    let file = |(name, show): &File| ((*name).into(), Tree::Of(container.clone(), *show));
    Tree::Dir(files.map(file).collect())
}

/// Version 2. On a host that has version 1 its controllers are there.
pub fn unified(container: &Weak<Container>) -> Arc<Fixed> {
    let own = container.upgrade().is_none_or(|container| container.limits().version != 1);
    let [_, core] = CORE;
    let controllers = CONTROLLERS.iter().filter(|_| own).flat_map(|c| c.2);
    Fixed::new("cgroup2", CGROUP2_MAGIC, tree(container, core.iter().chain(controllers)), "")
}

/// Version 1: the hierarchy of the controllers that `data` names; of none, the folder that they are mounted in.
pub fn hierarchy(container: &Weak<Container>, data: &[u8]) -> Result<Arc<Fixed>, Errno> {
    let data = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    if data.is_empty() {
        let folder = |name: &str| (name.into(), Tree::Dir(Vec::new()));
        let folders = v1().chain(["systemd"]).map(folder).collect();
        return Ok(Fixed::new("tmpfs", TMPFS_MAGIC, Tree::Dir(folders), ",mode=755"));
    }
    let [core, _] = CORE;
    let mut files: Vec<&File> = core.iter().collect();
    for word in data.split(',').filter(|word| *word != "name=systemd") {
        let found = CONTROLLERS.iter().find(|controller| controller.0 == word);
        files.extend(found.ok_or(Errno::EINVAL)?.1);
    }
    let tree = tree(container, files.into_iter());
    Ok(Fixed::new("cgroup", CGROUP_MAGIC, tree, &format!(",{data}")))
}

/// What a container's mount stands for, as runc has it for type `cgroup`: where the host has version 1, one of each
/// hierarchy in a folder; else version 2.
pub fn mounts(spec: &MountSpec, version: u32) -> Vec<MountSpec> {
    let MountSource::Internal { fstype, data, source } = &spec.source else {
        return alloc::vec![spec.clone()];
    };
    if fstype != "cgroup" || !data.is_empty() {
        return alloc::vec![spec.clone()];
    }
    let internal = |spec: &MountSpec, fstype: &str, data: &str| MountSpec {
        source: MountSource::Internal {
            fstype: fstype.into(),
            data: data.into(),
            source: source.clone(),
        },
        ..spec.clone()
    };
    if version != 1 {
        return alloc::vec![internal(spec, "cgroup2", "")];
    }
    let mut all = alloc::vec![spec.clone()];
    for (folder, data) in v1().map(|name| (name, name)).chain([("systemd", "name=systemd")]) {
        let destination = format!("{}/{folder}", spec.destination.trim_end_matches('/'));
        all.push(MountSpec { destination, ..internal(spec, "cgroup", data) });
    }
    all
}

/// /proc/PID/cgroup: the root of each hierarchy, as a cgroup namespace has it.
pub fn of_process(container: &Container, out: &mut String) {
    if container.limits().version != 1 {
        out.push_str("0::/\n");
        return;
    }
    for (number, name) in v1().chain(["name=systemd"]).enumerate().collect::<Vec<_>>().iter().rev()
    {
        let _ = writeln!(out, "{}:{name}:/", number.saturating_add(1));
    }
}

/// /proc/cgroups.
pub fn controllers(container: &Container, out: &mut String) {
    out.push_str("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    let first = container.limits().version == 1;
    for (number, controller) in CONTROLLERS.iter().enumerate() {
        let hierarchy = if first { number.saturating_add(1) } else { 0 };
        let _ = writeln!(out, "{}\t{hierarchy}\t1\t1", controller.0);
    }
}

fn line(out: &mut String, number: u64) {
    let _ = writeln!(out, "{number}");
}

fn most(out: &mut String, limit: Option<u64>) {
    match limit {
        Some(limit) => line(out, limit),
        None => out.push_str("max\n"),
    }
}

/// A limit of version 1, where none is the most that a counter of pages holds (PAGE_COUNTER_MAX).
fn bytes(limit: Option<u64>) -> u64 {
    limit.unwrap_or(0x7fff_ffff_ffff_f000)
}

fn period(limits: &Limits) -> u64 {
    limits.period.unwrap_or(PERIOD)
}

fn cpus(_: &Container, out: &mut String) {
    match platform().cpus() {
        0 | 1 => out.push_str("0\n"),
        n => drop(writeln!(out, "0-{}", n.saturating_sub(1))),
    }
}

fn mems(_: &Container, out: &mut String) {
    out.push_str("0\n");
}

fn state(container: &Container) -> &'static str {
    if container.freezer.is_frozen() { "FROZEN\n" } else { "THAWED\n" }
}

fn pids_current(container: &Container, out: &mut String) {
    line(out, container.tasks.count().into());
}

fn pids_max(container: &Container, out: &mut String) {
    most(out, container.limits().pids.map(u64::from));
}

fn memory_events(container: &Container, out: &mut String) {
    let kills = container.usage().oom_kills;
    let _ = write!(out, "low 0\nhigh 0\nmax {kills}\noom {kills}\noom_kill {kills}\n");
}

/// Memory of processes, and all the rest: page cache, and files in memory.
fn parts(container: &Container) -> (u64, u64) {
    let Usage { memory, .. } = container.usage();
    let mut resident = 0u64;
    for process in container.processes() {
        let mm = process.first_task().and_then(|task| task.shared.lock().mm.clone());
        let usage = mm.map(|mm| mm.usage()).unwrap_or_default();
        resident = resident.saturating_add(usage.resident.saturating_sub(usage.shared));
    }
    // What forks share is counted for each.
    let anon = resident.saturating_mul(crate::platform::PAGE_SIZE as u64).min(memory);
    (anon, memory.saturating_sub(anon))
}

fn procs(container: &Container, out: &mut String) {
    for process in container.processes() {
        line(out, process.pid.into());
    }
}

fn threads(container: &Container, out: &mut String) {
    let mut ids: Vec<_> = container.living_tasks().iter().map(|task| task.tid()).collect();
    ids.sort_unstable();
    ids.into_iter().for_each(|id| line(out, id.into()));
}
