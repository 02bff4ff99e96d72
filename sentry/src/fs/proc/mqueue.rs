//! /proc/sys/fs/mqueue: the limits of the reader's POSIX message queues (mq_overview(7)).

use alloc::string::String;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{About, Entry, What};
use crate::errno::Errno;
use crate::fs::mqueue::Limits;
use crate::task::cap;

/// A limit, and the least and the most that it can be set to (ipc/mq_sysctl.c).
macro_rules! entry {
    ($name:literal, $field:ident, $least:literal, $most:expr) => {
        Entry {
            name: $name,
            perm: 0o644,
            what: What::Writable(
                |about, out| show(about, out, |limits| &limits.$field),
                |about, data| set(about, data, ($least, $most), |limits| &limits.$field),
            ),
        }
    };
}

pub(super) const ENTRIES: &[Entry] = &[
    entry!("msg_default", default_messages, 1, 65_536),
    entry!("msg_max", messages, 1, 65_536),
    entry!("msgsize_default", default_size, 128, 16 << 20),
    entry!("msgsize_max", size, 128, 16 << 20),
    entry!("queues_max", queues, 0, i32::MAX as u32),
];

fn with<T>(about: &About<'_>, f: impl FnOnce(&Limits) -> T) -> Result<T, Errno> {
    let task = about.cx.task.ok_or(Errno::ESRCH)?;
    let namespaces = task.shared.lock().namespaces.clone();
    Ok(f(&namespaces.ipc.mqueue().0.shared().limits))
}

fn show(about: &About<'_>, out: &mut String, of: fn(&Limits) -> &AtomicU32) -> Result<(), Errno> {
    let value = with(about, |limits| of(limits).load(Ordering::Relaxed))?;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{value}");
    Ok(())
}

fn set(
    about: &About<'_>,
    data: &[u8],
    (least, most): (u32, u32),
    of: fn(&Limits) -> &AtomicU32,
) -> Result<(), Errno> {
    // Whose file it is may write it; beyond that these are limits of resources.
    if !about.cx.creds.capable(cap::SYS_ADMIN) && about.cx.creds.fsuid != 0 {
        return Err(Errno::EPERM);
    }
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let value: u32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if !(least..=most).contains(&value) {
        return Err(Errno::EINVAL);
    }
    with(about, |limits| of(limits).store(value, Ordering::Relaxed))
}
