//! /proc/locks, and the locks of a descriptor in its fdinfo.
//!
//! There is no list of locked files: who holds a lock has the file open, so the descriptors of all processes lead there.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::About;
use crate::errno::Errno;
use crate::fs::lock::{Flock, Lock, Owner};
use crate::fs::types::{MAX_OFFSET, major, minor};
use crate::fs::{FdTable, File, Inode};

/// A lock of either sort.
enum Any {
    Bytes(Lock),
    Whole(Flock),
}

fn all(inode: &dyn Inode) -> Vec<Any> {
    let Some(locks) = inode.state().locks_if_any() else { return Vec::new() };
    let bytes = locks.list().into_iter().map(Any::Bytes);
    bytes.chain(locks.flocks().into_iter().map(Any::Whole)).collect()
}

/// One line (lock_get_status() of fs/locks.c).
fn show(about: &About<'_>, inode: &dyn Inode, number: usize, lock: &Any, out: &mut String) {
    let (kind, write, pid) = match lock {
        Any::Bytes(Lock { owner: Owner::Files(_, pid), write, .. }) => {
            ("POSIX ", *write, Some(*pid))
        }
        Any::Bytes(Lock { write, .. }) => ("OFDLCK", *write, None),
        Any::Whole(Flock { exclusive, pid, .. }) => ("FLOCK ", *exclusive, Some(*pid)),
    };
    let pid = pid.map_or(-1, |pid| i64::from(about.pidns.nr(pid)));
    let attr = inode.attr().unwrap_or_default();
    let (major, minor, kind_of) =
        (major(attr.dev), minor(attr.dev), if write { "WRITE" } else { "READ" });
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{number}: {kind} ADVISORY  {kind_of} {pid} {major:02x}:{minor:02x}:{} ",
        attr.ino
    );
    let _ = match lock {
        Any::Bytes(Lock { start, end, .. }) if *end < MAX_OFFSET => writeln!(out, "{start} {end}"),
        Any::Bytes(Lock { start, .. }) => writeln!(out, "{start} EOF"),
        Any::Whole(_) => writeln!(out, "0 EOF"),
    };
}

/// /proc/locks.
pub(super) fn locks(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    // By identity: the same file is often open more than once.
    let mut inodes: BTreeMap<usize, Arc<dyn Inode>> = BTreeMap::new();
    for process in about.container.pids.processes() {
        let tasks = process.tasks();
        for files in tasks.iter().filter_map(|task| task.shared.lock().files.clone()) {
            for (_, file) in files.list() {
                if file.inode().state().locks_if_any().is_some() {
                    let inode = file.inode().clone();
                    inodes.insert(Arc::as_ptr(&inode).addr(), inode);
                }
            }
        }
    }
    let each = inodes.values().flat_map(|inode| all(&**inode).into_iter().map(move |l| (inode, l)));
    for (number, (inode, lock)) in (1..).zip(each) {
        show(about, &**inode, number, &lock, out);
    }
    Ok(())
}

/// Those that a descriptor's file, or the table it is in, holds.
pub(super) fn of_descriptor(about: &About<'_>, table: &FdTable, file: &File, out: &mut String) {
    let held = |lock: &Any| match lock {
        Any::Bytes(Lock { owner: Owner::Files(id, _), file: by, .. }) => {
            *id == table.id && *by == file.id
        }
        Any::Bytes(Lock { owner: Owner::File(id), .. }) | Any::Whole(Flock { file: id, .. }) => {
            *id == file.id
        }
    };
    let inode = file.inode();
    for (number, lock) in (1..).zip(all(&**inode).iter().filter(|lock| held(lock))) {
        out.push_str("lock:\t");
        show(about, &**inode, number, lock, out);
    }
}
