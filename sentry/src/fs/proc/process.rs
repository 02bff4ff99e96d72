//! The files of /proc/PID and /proc/PID/task/TID.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use super::idmap::{self, Which};
use super::{About, Entry, What, dir, link, text};
use crate::errno::Errno;
use crate::fs::{FsContext, Link, cgroup, nsfs};
use crate::mm::{Mm, Usage};
use crate::platform::PAGE_SIZE;
use crate::signal::{Disposition, SigSet, Signal};
use crate::task::limit::INFINITY;
use crate::task::userns::IdKind;
use crate::task::{Comm, Namespace, Task, TaskState, cap, login, oom, trace};

/// Most bytes of a command line or environment that are shown.
const MAX_STRINGS: u64 = 1 << 20;

const fn private(name: &'static str, what: What) -> Entry {
    Entry { name, perm: 0o400, what }
}

/// What a task has, and so a process too.
pub(super) const ENTRIES: &[Entry] = &[
    dir("attr", ATTRIBUTES),
    private("auxv", What::Bytes(auxv)),
    text("cgroup", |about, out| {
        cgroup::of_process(about.container, out);
        Ok(())
    }),
    Entry { name: "cmdline", perm: 0o444, what: What::Bytes(cmdline) },
    Entry { name: "comm", perm: 0o644, what: What::Writable(comm, set_comm) },
    Entry {
        name: "coredump_filter",
        perm: 0o644,
        what: What::Writable(coredump_filter, set_coredump_filter),
    },
    link("cwd", |about| place(about, |fs| fs.cwd())),
    private("environ", What::Bytes(environ)),
    link("exe", exe),
    Entry { name: "fd", perm: 0o500, what: What::Fds },
    Entry { name: "fdinfo", perm: 0o555, what: What::FdInfos },
    idmap::entry("gid_map", Which::Map(IdKind::Group)),
    text("io", io),
    text("limits", limits),
    Entry { name: "loginuid", perm: 0o644, what: What::Writable(loginuid, set_loginuid) },
    text("maps", super::smaps::maps),
    Entry { name: "mem", perm: 0o600, what: What::Mem },
    Entry { name: "mountinfo", perm: 0o444, what: What::Mounts(super::mounts::mountinfo) },
    Entry { name: "mounts", perm: 0o444, what: What::Mounts(super::mounts::mounts) },
    dir("net", NET),
    dir("ns", NAMESPACES),
    text("oom_score", |about, out| {
        let _ = writeln!(out, "{}", oom::score(about.process()?));
        Ok(())
    }),
    Entry { name: "oom_score_adj", perm: 0o644, what: What::Writable(oom_adj, set_oom_adj) },
    private("personality", What::Text(personality)),
    idmap::entry("projid_map", Which::Map(IdKind::Project)),
    link("root", |about| place(about, |fs| fs.root())),
    text("schedstat", schedstat),
    text("sessionid", |about, out| {
        let _ = write!(out, "{}", about.task()?.login.session());
        Ok(())
    }),
    idmap::entry("setgroups", Which::Setgroups),
    text("smaps", super::smaps::smaps),
    text("smaps_rollup", super::smaps::rollup),
    text("stat", stat),
    text("statm", statm),
    text("status", status),
    idmap::entry("uid_map", Which::Map(IdKind::User)),
    text("wchan", |_, out| {
        out.push('0');
        Ok(())
    }),
];

/// What only a process has.
pub(super) const PROCESS_ONLY: &[Entry] = &[
    private("mountstats", What::Mounts(super::mounts::mountstats)),
    Entry { name: "task", perm: 0o555, what: What::Tasks },
    super::timens::ENTRY,
];

/// What security modules say, of which there is none.
const ATTRIBUTES: &[Entry] = &[
    attribute("current"),
    attribute("exec"),
    attribute("fscreate"),
    attribute("keycreate"),
    private_attribute("prev"),
    attribute("sockcreate"),
];

const fn attribute(name: &'static str) -> Entry {
    let none: fn(&About<'_>, &mut String) -> Result<(), Errno> = |_, _| Err(Errno::EINVAL);
    Entry { name, perm: 0o666, what: What::Writable(none, |_, _| Err(Errno::EINVAL)) }
}

const fn private_attribute(name: &'static str) -> Entry {
    Entry { perm: 0o444, ..attribute(name) }
}

/// What there is of networks.
const NET: &[Entry] = &[text("unix", |about, out| {
    let net = about.task()?.shared.lock().namespaces.net.clone();
    net.sockets.show(out);
    Ok(())
})];

const NAMESPACES: &[Entry] = &[
    link("cgroup", |about| namespace(about, "cgroup")),
    link("ipc", |about| namespace(about, "ipc")),
    link("mnt", |about| namespace(about, "mnt")),
    link("net", |about| namespace(about, "net")),
    link("pid", |about| namespace(about, "pid")),
    link("pid_for_children", |about| namespace(about, "pid_for_children")),
    link("time", |about| namespace(about, "time")),
    link("time_for_children", |about| namespace(about, "time_for_children")),
    link("user", |about| namespace(about, "user")),
    link("uts", |about| namespace(about, "uts")),
];

fn namespace(about: &About<'_>, name: &str) -> Result<Link, Errno> {
    let namespace = Namespace::of(&*about.inspect()?, name).ok_or(Errno::ENOENT)?;
    Ok(Link::Jump(nsfs::path(namespace)?))
}

fn mm_of(task: &Task) -> Option<Arc<Mm>> {
    task.shared.lock().mm.clone()
}

fn fs_of(about: &About<'_>) -> Result<Arc<FsContext>, Errno> {
    about.inspect()?.shared.lock().fs.clone().ok_or(Errno::ENOENT)
}

fn place(about: &About<'_>, f: impl FnOnce(&FsContext) -> crate::fs::Path) -> Result<Link, Errno> {
    Ok(Link::Jump(f(&*fs_of(about)?)))
}

fn exe(about: &About<'_>) -> Result<Link, Errno> {
    about.inspect()?;
    let exe = about.process()?.exe.lock().clone().ok_or(Errno::ENOENT)?;
    Ok(Link::Jump(exe.jump()?))
}

fn auxv(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    Ok(mm_of(&*about.inspect()?).map_or_else(Vec::new, |mm| mm.auxv()))
}

/// Strings of the process, as far as they are in memory that is nobody else's.
fn memory(mm: &Mm, start: u64, end: u64) -> Vec<u8> {
    let len = end.saturating_sub(start).min(MAX_STRINGS);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let there = mm.peek_anonymous(start, &mut bytes);
    bytes.truncate(there);
    bytes
}

fn cmdline(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    let Some(mm) = about.subject()?.task().and_then(|t| mm_of(&t)) else { return Ok(Vec::new()) };
    let layout = mm.layout();
    let (start, end) = (layout.arg_start, layout.arg_end);
    if start >= end {
        return Ok(Vec::new());
    }
    // setproctitle: without a zero at the end of the arguments they are one text, which may go on in the environment behind
    // them (get_mm_cmdline() of fs/proc/base.c).
    let last = memory(&mm, end.saturating_sub(1), end);
    if last.first().is_none_or(|last| *last == 0) {
        return Ok(memory(&mm, start, end));
    }
    let behind = layout.env_start == end && layout.env_end >= end;
    let end = if behind { layout.env_end } else { end };
    let mut title = memory(&mm, start, start.saturating_add(PAGE_SIZE as u64));
    if let Some(zero) = title.iter().position(|b| *b == 0) {
        title.truncate(zero.saturating_add(1));
    }
    title.truncate(usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX));
    Ok(title)
}

fn environ(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    let Some(mm) = mm_of(&*about.inspect()?) else { return Ok(Vec::new()) };
    let layout = mm.layout();
    let len = layout.env_end.saturating_sub(layout.env_start).min(MAX_STRINGS);
    // All of it or nothing (environ_read()).
    let all = Some(memory(&mm, layout.env_start, layout.env_end));
    Ok(all.filter(|all| all.len() as u64 == len).unwrap_or_default())
}

/// The name of the task, or what is left of it.
fn name_of(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    Ok(match about.subject()?.task() {
        Some(task) => task.name.lock().as_bytes().to_vec(),
        None => about.process()?.last_name.lock().as_bytes().to_vec(),
    })
}

fn comm(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let _ = writeln!(out, "{}", String::from_utf8_lossy(&name_of(about)?));
    Ok(())
}

fn set_comm(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    let mine =
        about.cx.task.is_some_and(|t| about.process().is_ok_and(|p| Arc::ptr_eq(&t.process, p)));
    if !mine {
        return Err(Errno::EINVAL);
    }
    let name = data.strip_suffix(b"\n").unwrap_or(data);
    *about.task()?.name.lock() = Comm::new(name);
    Ok(())
}

fn io(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    about.inspect()?;
    for name in
        ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"]
    {
        let _ = writeln!(out, "{name}: 0");
    }
    Ok(())
}

fn oom_adj(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let _ = writeln!(out, "{}", about.process()?.oom_score_adj.load(Ordering::Relaxed));
    Ok(())
}

fn set_oom_adj(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let value: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let now = &about.process()?.oom_score_adj;
    if value < now.load(Ordering::Relaxed) && !about.cx.creds.capable(cap::SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    now.store(value, Ordering::Relaxed);
    Ok(())
}

fn loginuid(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let uid = about.task()?.login.uid();
    let _ = write!(out, "{}", about.cx.creds.userns.up(IdKind::User, uid).unwrap_or(login::UNSET));
    Ok(())
}

/// Only a task itself says who has logged in there (proc_loginuid_write()).
fn set_loginuid(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    let task = about.cx.task.ok_or(Errno::EPERM)?;
    if !Arc::ptr_eq(task, &about.task()?) {
        return Err(Errno::EPERM);
    }
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let uid: u32 = match text.strip_suffix('\n').unwrap_or(text).parse::<u64>() {
        Ok(uid) => u32::try_from(uid).map_err(|_| Errno::ERANGE)?,
        Err(_) => return Err(Errno::EINVAL),
    };
    let uid = match uid {
        login::UNSET => uid,
        _ => about.cx.creds.userns.kuid(uid).ok_or(Errno::EINVAL)?,
    };
    task.login.set(uid, &task.shared.lock().creds)
}

fn coredump_filter(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let _ = writeln!(out, "{:08x}", about.process()?.coredump_filter.load(Ordering::Relaxed));
    Ok(())
}

fn set_coredump_filter(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    /// Kinds of memory (MMF_DUMP_FILTER_BITS).
    const KINDS: u32 = 0x1ff;
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim();
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8),
        None => text.parse(),
    };
    let value = value.map_err(|_| Errno::EINVAL)?;
    about.process()?.coredump_filter.store(value & KINDS, Ordering::Relaxed);
    Ok(())
}

fn personality(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let _ = writeln!(out, "{:08x}", about.process()?.personality.load(Ordering::Relaxed));
    Ok(())
}

fn schedstat(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let task = about.task()?;
    let cpu = task.cpu_time();
    let used = cpu.user_ns.saturating_add(cpu.system_ns);
    let _ = writeln!(out, "{used} 0 {}", task.waits.load(Ordering::Relaxed));
    Ok(())
}

/// Names and units of limits by number (fs/proc/base.c).
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let process = about.process()?;
    let _ =
        writeln!(out, "{:<25} {:<20} {:<20} {:<10}", "Limit", "Soft Limit", "Hard Limit", "Units");
    let shown = |n: u64| if n == INFINITY { "unlimited".into() } else { format!("{n}") };
    for (number, (name, unit)) in LIMITS.iter().enumerate() {
        let limit = process.limits.get(number)?;
        let (soft, hard) = (shown(limit.soft), shown(limit.hard));
        let _ = writeln!(out, "{name:<25} {soft:<20} {hard:<20} {unit:<10}");
    }
    Ok(())
}

/// The letter and the word for what a task does.
fn state(about: &About<'_>) -> Result<(char, &'static str), Errno> {
    Ok(match about.subject()?.task().map(|t| t.state()) {
        Some(TaskState::Running) => ('R', "running"),
        Some(TaskState::Sleeping) => ('S', "sleeping"),
        Some(TaskState::Stopped) => ('T', "stopped"),
        Some(TaskState::Traced) => ('t', "tracing stop"),
        Some(TaskState::DiskSleep) => ('D', "disk sleep"),
        Some(TaskState::Dead) => ('X', "dead"),
        None => ('Z', "zombie"),
    })
}

/// Signals that are ignored, and those that have handlers.
fn dispositions(about: &About<'_>) -> Result<(SigSet, SigSet), Errno> {
    let actions = about.process()?.signals.lock().actions.clone();
    let actions = actions.lock();
    let (mut ignored, mut caught) = (0u64, 0u64);
    for number in 1..=64 {
        let bit = 1u64 << (number - 1);
        match actions.get(Signal::new(number)?).disposition() {
            Disposition::Default => {}
            Disposition::Ignore => ignored |= bit,
            Disposition::Handler => caught |= bit,
        }
    }
    Ok((SigSet(ignored), SigSet(caught)))
}

fn usage_of(about: &About<'_>) -> (Usage, Option<Arc<Mm>>) {
    let mm = about.subject().ok().and_then(|s| s.task()).and_then(|t| mm_of(&t));
    (mm.as_ref().map_or_else(Usage::default, |mm| mm.usage()), mm)
}

/// /proc/PID/stat (proc(5)), field by field.
fn stat(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let process = about.process()?;
    let subject = about.subject()?;
    let task = subject.task();
    let nr = |id| about.pidns.nr(id);
    let id = nr(subject.task.as_ref().map_or(process.pid, |t| t.tid()));
    let name = name_of(about)?;
    let (terminal, foreground) = match &*process.terminal.lock() {
        Some(t) => (t.device() as i64, i64::from(nr(t.foreground()))),
        None => (0, -1),
    };
    // A thread's own times, or the whole process's.
    let mut used = process.usage();
    if let Some(task) = &subject.task {
        used = task.usage();
    }
    let children = *process.used_by_children.lock();
    let (sizes, mm) = usage_of(about);
    let layout = mm.map(|mm| mm.layout()).unwrap_or_default();
    let (nice, policy, priority, affinity_cpu) = match &task {
        Some(task) => {
            let sched = task.sched.lock();
            (sched.nice, sched.policy, sched.priority, 0)
        }
        None => (0, 0, 0, 0),
    };
    let shown_priority = match policy {
        0 | 3 | 5 => 20i64.saturating_add(nice.into()),
        _ => -1i64.saturating_sub(priority.into()),
    };
    let (pending, blocked) = match &task {
        Some(task) => {
            let (own, shared, blocked) = task.signal_sets();
            (own.0 | shared.0, blocked.0)
        }
        None => (0, 0),
    };
    let (ignored, caught) = dispositions(about)?;
    let threads = process.tasks().len();
    let start = process.start_time.saturating_add_signed(about.ahead()) / 10_000_000;
    let status = process.links.lock().zombie.map_or(0, |z| z.status);
    let (utime, stime) = used.ticks();
    let (cutime, cstime) = children.ticks();
    let inside = about.inspect().is_ok();
    let addr = |n: u64| if inside { n } else { 0 };
    let _ = write!(
        out,
        "{id} ({}) {} {} {} {} {terminal} {foreground} 0 ",
        String::from_utf8_lossy(&name),
        state(about)?.0,
        nr(process.parent_pid()),
        nr(process.group()),
        nr(process.session()),
    );
    let _ = write!(
        out,
        "{} {} 0 0 {utime} {stime} {cutime} {cstime} {shown_priority} {nice} {threads} 0 {start} ",
        used.faults, children.faults,
    );
    let _ = write!(
        out,
        "{} {} {} {} {} {} 0 0 {} {} {} {} 0 0 0 ",
        sizes.size.saturating_mul(PAGE_SIZE as u64),
        sizes.resident,
        u64::MAX,
        addr(layout.start_code),
        addr(layout.end_code),
        addr(layout.start_stack),
        pending & 0x7fff_ffff,
        blocked & 0x7fff_ffff,
        ignored.0 & 0x7fff_ffff,
        caught.0 & 0x7fff_ffff,
    );
    let _ = writeln!(
        out,
        "{} {affinity_cpu} {priority} {policy} 0 0 0 {} {} {} {} {} {} {} {}",
        process.exit_signal.load(Ordering::Relaxed),
        addr(layout.start_data),
        addr(layout.end_data),
        addr(layout.start_brk),
        addr(layout.arg_start),
        addr(layout.arg_end),
        addr(layout.env_start),
        addr(layout.env_end),
        if inside { status } else { 0 },
    );
    Ok(())
}

fn statm(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let (u, _) = usage_of(about);
    let data = u.data.saturating_add(u.stack);
    let _ = writeln!(out, "{} {} {} {} 0 {data} 0", u.size, u.resident, u.shared, u.text);
    Ok(())
}

fn status(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let process = about.process()?;
    let subject = about.subject()?;
    let task = subject.task();
    let nr = |id| about.pidns.nr(id);
    let id = nr(subject.task.as_ref().map_or(process.pid, |t| t.tid()));
    let (letter, word) = state(about)?;
    let name = String::from_utf8_lossy(&name_of(about)?).replace('\\', "\\\\").replace('\n', "\\n");
    let fs = task.as_ref().and_then(|t| t.shared.lock().fs.clone());
    let _ = writeln!(out, "Name:\t{name}");
    if let Some(fs) = fs {
        let _ = writeln!(out, "Umask:\t{:04o}", fs.umask());
    }
    let _ = writeln!(
        out,
        "State:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\nPid:\t{id}",
        nr(process.pid)
    );
    let tracer = task.as_ref().and_then(|t| trace::tracer_of(t)).map_or(0, |t| nr(t.tid()));
    let _ = writeln!(out, "PPid:\t{}\nTracerPid:\t{tracer}", nr(process.parent_pid()));
    let creds = task.as_ref().map(|t| t.creds()).unwrap_or_default();
    let c = &creds;
    let reader = &about.cx.creds.userns;
    let [uid, euid, suid, fsuid] = [c.uid, c.euid, c.suid, c.fsuid].map(|id| reader.uid(id));
    let [gid, egid, sgid, fsgid] = [c.gid, c.egid, c.sgid, c.fsgid].map(|id| reader.gid(id));
    let _ = writeln!(out, "Uid:\t{uid}\t{euid}\t{suid}\t{fsuid}");
    let _ = writeln!(out, "Gid:\t{gid}\t{egid}\t{sgid}\t{fsgid}");
    let files = task.as_ref().and_then(|t| t.shared.lock().files.clone());
    let _ = writeln!(out, "FDSize:\t{}", files.map_or(0, |f| f.size()));
    out.push_str("Groups:\t");
    for (n, group) in c.groups.iter().enumerate() {
        let _ = write!(out, "{}{}", if n == 0 { "" } else { " " }, reader.gid(*group));
    }
    out.push_str(" \n");
    let tid = subject.task.as_ref().map_or(process.pid, |t| t.tid());
    let ids = [process.pid, tid, process.group(), process.session()];
    for (name, id) in ["NStgid", "NSpid", "NSpgid", "NSsid"].iter().zip(ids) {
        let _ = write!(out, "{name}:");
        for nr in about.pidns.numbers_down_to(&process.pidns, id) {
            let _ = write!(out, "\t{nr}");
        }
        out.push('\n');
    }
    out.push_str("Kthread:\t0\n");
    if let (u, Some(_)) = usage_of(about) {
        let kib = |pages: u64| pages.saturating_mul(PAGE_SIZE as u64 / 1024);
        for (name, pages) in [
            ("VmPeak", u.size),
            ("VmSize", u.size),
            ("VmLck", u.locked),
            ("VmPin", 0),
            ("VmHWM", u.peak),
            ("VmRSS", u.resident),
            ("RssAnon", u.resident.saturating_sub(u.shared)),
            ("RssFile", u.shared),
            ("RssShmem", 0),
            ("VmData", u.data),
            ("VmStk", u.stack),
            ("VmExe", u.text),
            ("VmLib", 0),
            ("VmPTE", 0),
            ("VmSwap", 0),
        ] {
            let _ = writeln!(out, "{name}:\t{:>8} kB", kib(pages));
        }
    }
    let _ = writeln!(out, "Threads:\t{}", process.tasks().len());
    let limit = process.limits.soft(crate::task::limit::RLIMIT_SIGPENDING);
    let (own, shared, blocked) = match &task {
        Some(task) => task.signal_sets(),
        None => (SigSet(0), SigSet(0), SigSet(0)),
    };
    let (ignored, caught) = dispositions(about)?;
    let queued = u64::from(own.0.count_ones()).saturating_add(shared.0.count_ones().into());
    let _ = writeln!(out, "SigQ:\t{queued}/{limit}");
    for (name, set) in [
        ("SigPnd", own.0),
        ("ShdPnd", shared.0),
        ("SigBlk", blocked.0),
        ("SigIgn", ignored.0),
        ("SigCgt", caught.0),
        ("CapInh", c.capabilities.inheritable),
        ("CapPrm", c.capabilities.permitted),
        ("CapEff", c.capabilities.effective),
        ("CapBnd", c.capabilities.bounding),
        ("CapAmb", c.capabilities.ambient),
    ] {
        let _ = writeln!(out, "{name}:\t{set:016x}");
    }
    let cpus = crate::platform::platform().cpus();
    let seccomp = task.as_ref().map(|t| t.seccomp.lock().clone()).unwrap_or_default();
    let _ = writeln!(
        out,
        "NoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}",
        u8::from(c.no_new_privs),
        seccomp.mode(),
        seccomp.filters().len()
    );
    out.push_str("Speculation_Store_Bypass:\tthread vulnerable\n");
    let mask = 1u64.checked_shl(cpus).map_or(u64::MAX, |bit| bit.wrapping_sub(1));
    let _ =
        writeln!(out, "Cpus_allowed:\t{mask:x}\nCpus_allowed_list:\t0-{}", cpus.saturating_sub(1));
    out.push_str("Mems_allowed:\t1\nMems_allowed_list:\t0\n");
    let waits = task.as_ref().map_or(0, |t| t.waits.load(Ordering::Relaxed));
    let _ = writeln!(out, "voluntary_ctxt_switches:\t{waits}\nnonvoluntary_ctxt_switches:\t0");
    Ok(())
}
