//! The files of /proc that are about the system.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

use super::{About, Entry, dir, link, text};
use crate::errno::Errno;
use crate::fs::setup::INTERNAL;
use crate::fs::{Link, cgroup};
use crate::platform::{FrameCounts, PAGE_SIZE, own_frames, platform};
use crate::sync::SpinLock;
use crate::syscall::{RELEASE, VERSION};
use crate::task::{Pid, Pids, TaskState};

pub(super) const ENTRIES: &[Entry] = &[
    text("cgroups", |about, out| {
        cgroup::controllers(about.container, out);
        Ok(())
    }),
    text("cmdline", |_, out| {
        out.push('\n');
        Ok(())
    }),
    text("cpuinfo", super::cpu::cpuinfo),
    text("devices", devices),
    text("diskstats", nothing),
    text("filesystems", filesystems),
    text("loadavg", loadavg),
    text("locks", super::locks::locks),
    text("meminfo", meminfo),
    text("misc", nothing),
    text("modules", nothing),
    link("mounts", |_| Ok(Link::Text(b"self/mounts".to_vec()))),
    link("net", |_| Ok(Link::Text(b"self/net".to_vec()))),
    text("partitions", |_, out| {
        out.push_str("major minor  #blocks  name\n\n");
        Ok(())
    }),
    text("stat", stat),
    text("swaps", |_, out| {
        out.push_str("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
        Ok(())
    }),
    dir("sys", super::sys::ENTRIES),
    dir("sysvipc", super::sysvipc::ENTRIES),
    text("uptime", uptime),
    text("version", |_, out| {
        let _ = writeln!(out, "Linux version {RELEASE} (ringwall) {VERSION}");
        Ok(())
    }),
    text("vmstat", vmstat),
];

/// Links to processes, which are there too where nothing but processes is.
pub(super) const LINKS: &[Entry] = &[link("self", myself), link("thread-self", my_thread)];

fn nothing(_: &About<'_>, _: &mut String) -> Result<(), Errno> {
    Ok(())
}

/// The number of an id. `ENOENT` where it has none here.
fn visible(about: &About<'_>, id: Pid) -> Result<Pid, Errno> {
    Some(about.pidns.nr(id)).filter(|nr| *nr != 0).ok_or(Errno::ENOENT)
}

fn myself(about: &About<'_>) -> Result<Link, Errno> {
    let task = about.cx.task.ok_or(Errno::ENOENT)?;
    Ok(Link::Text(format!("{}", visible(about, task.process.pid)?).into_bytes()))
}

fn my_thread(about: &About<'_>) -> Result<Link, Errno> {
    let task = about.cx.task.ok_or(Errno::ENOENT)?;
    let (pid, tid) = (visible(about, task.process.pid)?, visible(about, task.tid())?);
    Ok(Link::Text(format!("{pid}/task/{tid}").into_bytes()))
}

fn devices(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    out.push_str(
        "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\n\
         Block devices:\n",
    );
    Ok(())
}

fn filesystems(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    for name in INTERNAL.into_iter().chain(["9p"]) {
        let _ = writeln!(out, "nodev\t{name}");
    }
    Ok(())
}

/// Averages in 11 bits of fraction (include/linux/sched/loadavg.h).
const FIXED: u64 = 1 << 11;
/// 1/exp(5s/1min), 1/exp(5s/5min), 1/exp(5s/15min).
const DECAY: [u64; 3] = [1884, 2014, 2037];
/// How often Linux counts, nanoseconds.
const EVERY: u64 = 5_000_000_000;

/// The averages when they were last asked for, and when that was. Nothing ticks while nobody asks:
/// what was running then counts for the time since.
static LOADS: SpinLock<([u64; 3], u64)> = SpinLock::new(([0; 3], 0));

/// Tasks that run and all tasks.
fn task_counts(pids: &Pids) -> (u64, u64) {
    let table = pids.lock();
    let tasks: alloc::vec::Vec<_> = table.tasks().cloned().collect();
    drop(table);
    let running = tasks.iter().filter(|t| t.state() == TaskState::Running).count();
    (running as u64, tasks.len() as u64)
}

/// The load averages, in 11 bits of fraction, when a task asks for them while so many run.
fn averages(running: u64) -> [u64; 3] {
    let now = platform().monotonic();
    // The reader runs only because it reads.
    let others = running.saturating_sub(1);
    let mut state = LOADS.lock();
    // After an hour without a look, what was before counts for nothing.
    let steps = (now.saturating_sub(state.1) / EVERY).min(720);
    if steps > 0 {
        state.1 = now;
    }
    let mut loads = state.0;
    for (load, decay) in loads.iter_mut().zip(DECAY) {
        for _ in 0..steps {
            let new = others.saturating_mul(FIXED).saturating_mul(FIXED.saturating_sub(decay));
            *load = load.saturating_mul(decay).saturating_add(new) / FIXED;
        }
    }
    state.0 = loads;
    loads
}

/// The same for sysinfo(2), in 16 bits of fraction.
pub fn loads(pids: &Pids) -> [u64; 3] {
    averages(task_counts(pids).0).map(|load| load << 5)
}

fn loadavg(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let (running, all) = task_counts(&about.container.pids);
    for load in averages(running) {
        let _ = write!(out, "{}.{:02} ", load / FIXED, load % FIXED * 100 / FIXED);
    }
    let _ = writeln!(out, "{running}/{all} {}", about.pidns.last());
    Ok(())
}

/// KiB of memory, and of them free.
fn memory() -> (u64, u64) {
    let page = PAGE_SIZE as u64 / 1024;
    let memory = own_frames();
    (memory.most.saturating_mul(page), memory.free.saturating_mul(page))
}

/// The one node's memory, for sysfs.
pub fn node_meminfo() -> String {
    let (total, free) = memory();
    let used = total.saturating_sub(free);
    let mut text = String::new();
    for (name, kib) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemUsed", used),
        ("Active", used),
        ("Inactive", 0),
        ("FilePages", 0),
        ("AnonPages", used),
    ] {
        let _ = writeln!(text, "Node 0 {:<16}{kib:>8} kB", format!("{name}:"));
    }
    text
}

fn meminfo(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let (total, free) = memory();
    let used = total.saturating_sub(free);
    for (name, kib) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("PageTables", 0),
        ("CommitLimit", total / 2),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("HugePages_Total", u64::MAX),
        ("HugePages_Free", u64::MAX),
        ("Hugepagesize", 2048),
    ] {
        // Counts have no unit.
        let _ = match kib {
            u64::MAX => writeln!(out, "{:<16}{:>8}", format!("{name}:"), 0),
            kib => writeln!(out, "{:<16}{kib:>8} kB", format!("{name}:")),
        };
    }
    Ok(())
}

/// Processor time of all processes in ticks (user, system), since boot.
fn busy(about: &About<'_>) -> (u64, u64) {
    let (mut user, mut system) = (0u64, 0u64);
    for process in about.container.pids.processes() {
        let mut usage = process.usage();
        usage.add(&process.used_by_children.lock());
        let (u, s) = usage.ticks();
        user = user.saturating_add(u);
        system = system.saturating_add(s);
    }
    (user, system)
}

fn uptime(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let (user, system) = busy(about);
    let all = platform().monotonic() / 10_000_000;
    let up = platform().monotonic().saturating_add_signed(about.ahead()) / 10_000_000;
    let all = all.saturating_mul(platform().cpus().into());
    let idle = all.saturating_sub(user.saturating_add(system));
    let _ = writeln!(out, "{}.{:02} {}.{:02}", up / 100, up % 100, idle / 100, idle % 100);
    Ok(())
}

fn stat(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let cpus = u64::from(platform().cpus()).max(1);
    let up = platform().monotonic() / 10_000_000;
    let (user, system) = busy(about);
    let idle = up.saturating_mul(cpus).saturating_sub(user.saturating_add(system));
    let _ = writeln!(out, "cpu  {user} 0 {system} {idle} 0 0 0 0 0 0");
    for cpu in 0..cpus {
        let (u, s, i) = (user / cpus, system / cpus, idle / cpus);
        let _ = writeln!(out, "cpu{cpu} {u} 0 {s} {i} 0 0 0 0 0 0");
    }
    let up = platform().monotonic().saturating_add_signed(about.ahead());
    let boot = platform().realtime().saturating_sub(up) / 1_000_000_000;
    let (running, _) = task_counts(&about.container.pids);
    let last = about.container.pids.processes().last().map_or(0, |p| p.pid);
    let _ = writeln!(
        out,
        "intr 0\nctxt 0\nbtime {boot}\nprocesses {last}\nprocs_running {running}\nprocs_blocked 0\n\
         softirq 0 0 0 0 0 0 0 0 0 0 0"
    );
    Ok(())
}

fn vmstat(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let FrameCounts { used, free, .. } = own_frames();
    let _ = writeln!(
        out,
        "nr_free_pages {free}\nnr_inactive_anon 0\nnr_active_anon {used}\nnr_inactive_file 0\n\
         nr_active_file 0\nnr_dirty 0\nnr_writeback 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0"
    );
    Ok(())
}
