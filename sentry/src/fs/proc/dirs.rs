//! /proc/PID/fd and fdinfo.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::About;
use crate::errno::Errno;
use crate::fs::{FdTable, File, OpenFlags};

fn table(about: &About<'_>) -> Result<Arc<FdTable>, Errno> {
    let task = about.inspect()?;
    let files = task.shared.lock().files.clone();
    files.ok_or(Errno::ENOENT)
}

/// The open descriptors.
pub(super) fn descriptors(about: &About<'_>) -> Result<Vec<i32>, Errno> {
    Ok(table(about)?.list().into_iter().map(|(fd, _)| fd).collect())
}

/// The file behind a descriptor. `ENOENT` where there is none.
pub(super) fn open_file(about: &About<'_>, fd: i32) -> Result<Arc<File>, Errno> {
    table(about)?.get_any(fd).map_err(|_| Errno::ENOENT)
}

/// What fdinfo says of a descriptor (proc(5)).
pub(super) fn fdinfo(about: &About<'_>, fd: i32, out: &mut String) -> Result<(), Errno> {
    let table = table(about)?;
    let file = table.get_any(fd).map_err(|_| Errno::ENOENT)?;
    let mut flags = file.flags() - OpenFlags::EXEC;
    flags.set(OpenFlags::CLOEXEC, table.cloexec(fd).unwrap_or(false));
    let mount = file.path().map_or(0, |p| p.mount.id);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "pos:\t{}", if file.is_stream() { 0 } else { file.offset() });
    let _ = writeln!(out, "flags:\t0{:o}", flags.bits());
    let _ = writeln!(out, "mnt_id:\t{mount}");
    let _ = writeln!(out, "ino:\t{}", file.inode().ino());
    super::locks::of_descriptor(about, &table, &file, out);
    let told = crate::task::pidfd::fdinfo(&file, about.pidns);
    out.push_str(&told.unwrap_or_else(|| file.ops().fdinfo(&file)));
    Ok(())
}
