//! /proc/sys: the sysctls that programs read, and the few that may be set.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{About, Entry, What, admin, dir, text};
use crate::errno::Errno;
use crate::fs::mount::MOUNT_MAX;
use crate::fs::{aio, pipe};
use crate::platform::{own_frames, platform};
use crate::syscall::{RELEASE, VERSION};
use crate::task::userns::MAX_USER_NAMESPACES;
use crate::task::{PID_MAX, Uts};

/// A value that does not change.
macro_rules! constant {
    ($name:literal, $value:expr) => {
        text($name, |_, out| {
            let _ = writeln!(out, "{}", $value);
            Ok(())
        })
    };
}

/// A uuid of version 4 from these bytes.
fn uuid(mut bytes: [u8; 16], out: &mut String) {
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out.push('\n');
}

fn boot_id(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    static ID: spin::Once<[u8; 16]> = spin::Once::new();
    uuid(
        *ID.call_once(|| {
            let mut bytes = [0; 16];
            platform().random(&mut bytes);
            bytes
        }),
        out,
    );
    Ok(())
}

fn fresh_uuid(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let mut bytes = [0; 16];
    platform().random(&mut bytes);
    uuid(bytes, out);
    Ok(())
}

fn uts<T>(about: &About<'_>, f: impl FnOnce(&Uts) -> T) -> Result<T, Errno> {
    let task = about.cx.task.ok_or(Errno::ESRCH)?;
    let namespaces = task.shared.lock().namespaces.clone();
    Ok(f(&namespaces.uts))
}

fn name(bytes: &[u8], out: &mut String) {
    let _ = writeln!(out, "{}", String::from_utf8_lossy(bytes));
}

fn hostname(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    name(&uts(about, |uts| uts.names.lock().host.clone())?, out);
    Ok(())
}

fn domainname(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let domain = uts(about, |uts| uts.names.lock().domain.clone())?;
    name(if domain.is_empty() { b"(none)" } else { &domain }, out);
    Ok(())
}

/// What was written, up to the end of the line, as a name of at most 64 bytes.
fn new_name(about: &About<'_>, data: &[u8]) -> Result<Vec<u8>, Errno> {
    admin(about.cx)?;
    let line = data.split(|b| *b == b'\n' || *b == 0).next().unwrap_or(&[]);
    Ok(line.get(..64).unwrap_or(line).to_vec())
}

fn set_hostname(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    let name = new_name(about, data)?;
    uts(about, |uts| uts.names.lock().host = name)
}

fn set_domainname(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    let name = new_name(about, data)?;
    uts(about, |uts| uts.names.lock().domain = name)
}

fn most(limit: &AtomicUsize, out: &mut String) -> Result<(), Errno> {
    let _ = writeln!(out, "{}", limit.load(Ordering::Relaxed));
    Ok(())
}

fn set_most(
    about: &About<'_>,
    data: &[u8],
    least: usize,
    limit: &AtomicUsize,
) -> Result<(), Errno> {
    admin(about.cx)?;
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let most: usize = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if most < least || most > i32::MAX as usize {
        return Err(Errno::EINVAL);
    }
    limit.store(most, Ordering::Relaxed);
    Ok(())
}

fn mount_max(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    most(&MOUNT_MAX, out)
}

fn set_mount_max(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    set_most(about, data, 1, &MOUNT_MAX)
}

fn aio_max(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    most(&aio::MAX, out)
}

fn set_aio_max(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    set_most(about, data, 0, &aio::MAX)
}

fn user_max(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    most(&MAX_USER_NAMESPACES, out)
}

fn set_user_max(about: &About<'_>, data: &[u8]) -> Result<(), Errno> {
    set_most(about, data, 0, &MAX_USER_NAMESPACES)
}

fn memory_pages() -> u64 {
    own_frames().most
}

const RANDOM: &[Entry] = &[
    text("boot_id", boot_id),
    constant!("entropy_avail", 256),
    constant!("poolsize", 256),
    text("uuid", fresh_uuid),
];

const KERNEL: &[Entry] = &[
    constant!("cap_last_cap", 40),
    constant!("core_pattern", "core"),
    constant!("core_uses_pid", 0),
    Entry { name: "domainname", perm: 0o644, what: What::Writable(domainname, set_domainname) },
    Entry { name: "hostname", perm: 0o644, what: What::Writable(hostname, set_hostname) },
    constant!("keys_max", 200),
    constant!("msgmax", crate::ipc::msg::MAX),
    constant!("msgmnb", crate::ipc::msg::QUEUE_BYTES),
    constant!("msgmni", crate::ipc::msg::QUEUES),
    constant!("ngroups_max", 65536),
    text("osrelease", |_, out| {
        name(RELEASE.as_bytes(), out);
        Ok(())
    }),
    constant!("ostype", "Linux"),
    constant!("overflowgid", 65534),
    constant!("overflowuid", 65534),
    constant!("perf_event_paranoid", 4),
    constant!("pid_max", PID_MAX),
    constant!("printk", "4\t4\t1\t7"),
    dir("random", RANDOM),
    constant!("randomize_va_space", 2),
    constant!("sched_rt_runtime_us", 950_000),
    constant!("sem", "32000\t1024000000\t500\t32000"),
    constant!("shmall", crate::ipc::shm::MAX),
    constant!("shmmax", crate::ipc::shm::MAX),
    constant!("shmmni", crate::ipc::shm::SEGMENTS),
    text("threads-max", |_, out| {
        let _ = writeln!(out, "{}", (memory_pages() / 8).clamp(20, u64::from(PID_MAX)));
        Ok(())
    }),
    constant!("unprivileged_userns_clone", 1),
    text("version", |_, out| {
        name(VERSION.as_bytes(), out);
        Ok(())
    }),
];

const USER: &[Entry] = &[Entry {
    name: "max_user_namespaces",
    perm: 0o644,
    what: What::Writable(user_max, set_user_max),
}];

const VM: &[Entry] = &[
    constant!("max_map_count", crate::mm::MAX_MAP_COUNT),
    constant!("mmap_min_addr", 65536),
    constant!("nr_hugepages", 0),
    constant!("overcommit_memory", 0),
    constant!("overcommit_ratio", 50),
    constant!("swappiness", 60),
];

const FS: &[Entry] = &[
    Entry { name: "aio-max-nr", perm: 0o644, what: What::Writable(aio_max, set_aio_max) },
    text("aio-nr", |_, out| most(&aio::COUNT, out)),
    text("file-max", |_, out| {
        let _ = writeln!(out, "{}", (memory_pages() / 10).max(8192));
        Ok(())
    }),
    dir(
        "inotify",
        &[
            constant!("max_queued_events", 16384),
            constant!("max_user_instances", 128),
            constant!("max_user_watches", 65536),
        ],
    ),
    Entry { name: "mount-max", perm: 0o644, what: What::Writable(mount_max, set_mount_max) },
    dir("mqueue", super::mqueue::ENTRIES),
    constant!("nr_open", crate::fs::fdtable::NR_OPEN),
    constant!("pipe-max-size", pipe::MAX_CAPACITY),
    constant!("protected_hardlinks", 1),
    constant!("protected_symlinks", 0),
];

const NET: &[Entry] = &[
    dir(
        "core",
        &[
            constant!("rmem_default", 212_992),
            constant!("rmem_max", 212_992),
            constant!("somaxconn", 4096),
            constant!("wmem_default", 212_992),
            constant!("wmem_max", 212_992),
        ],
    ),
    dir(
        "ipv4",
        &[
            constant!("ip_forward", 0),
            constant!("ip_local_port_range", "32768\t60999"),
            constant!("tcp_fin_timeout", 60),
            constant!("tcp_keepalive_time", 7200),
            constant!("tcp_rmem", "4096\t131072\t6291456"),
            constant!("tcp_wmem", "4096\t16384\t4194304"),
        ],
    ),
    dir("unix", &[constant!("max_dgram_qlen", 10)]),
];

pub(super) const ENTRIES: &[Entry] =
    &[dir("fs", FS), dir("kernel", KERNEL), dir("net", NET), dir("user", USER), dir("vm", VM)];
