//! prctl(PR_SET_MM): where /proc says that the parts of a program lie, its auxiliary vector, and its file.

use alloc::vec;
use alloc::vec::Vec;

use super::word;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::perm::{self, cap};
use crate::fs::{Access, FileType, MountFlags};
use crate::mm::Layout;
use crate::task::{Current, cap as caps, limit};

/// Operations (linux/prctl.h); the first eleven are fields of [`Layout`], in the order of `struct prctl_mm_map`.
mod op {
    pub const START_CODE: u64 = 1;
    pub const START_STACK: u64 = 5;
    pub const BRK: u64 = 7;
    pub const ENV_END: u64 = 11;
    pub const AUXV: u64 = 12;
    pub const EXE_FILE: u64 = 13;
    pub const MAP: u64 = 14;
    pub const MAP_SIZE: u64 = 15;
}

/// vm.mmap_min_addr.
const MIN_ADDR: u64 = 65536;
/// Bytes of the auxiliary vector that are kept (AT_VECTOR_SIZE).
const AUXV: usize = 48 * 8;
/// Bytes of `struct prctl_mm_map`.
const MAP: usize = 104;

/// The fields as they are set, by the operations' numbers.
fn fields(layout: &mut Layout) -> [&mut u64; 11] {
    [
        &mut layout.start_code,
        &mut layout.end_code,
        &mut layout.start_data,
        &mut layout.end_data,
        &mut layout.start_stack,
        &mut layout.start_brk,
        &mut layout.brk,
        &mut layout.arg_start,
        &mut layout.arg_end,
        &mut layout.env_start,
        &mut layout.env_end,
    ]
}

/// PR_SET_MM.
pub fn set(cx: &mut Current, what: u64, addr: u64, size: u64, rest: u64) -> SysResult {
    let sized = matches!(what, op::AUXV | op::MAP | op::MAP_SIZE);
    if rest != 0 || size != 0 && !sized {
        return Err(Errno::EINVAL.into());
    }
    match what {
        op::MAP_SIZE => cx.mm.copy_out(addr, &(MAP as u32).to_le_bytes())?,
        op::MAP => set_all(cx, addr, size)?,
        _ if !cx.creds.capable(cap::SYS_RESOURCE) => return Err(Errno::EPERM.into()),
        op::EXE_FILE => set_file(cx, addr as u32 as i32)?,
        op::AUXV => {
            let given = auxv(cx, addr, size)?;
            // What was not given stays.
            let mut all = cx.mm.auxv();
            all.resize(all.len().max(given.len()), 0);
            for (to, from) in all.iter_mut().zip(&given) {
                *to = *from;
            }
            cx.mm.set_auxv(all);
        }
        _ => set_one(cx, what, addr)?,
    }
    Ok(0)
}

fn set_one(cx: &Current, what: u64, addr: u64) -> Result<(), Errno> {
    if addr < MIN_ADDR || addr >= cx.mm.user_range().end {
        return Err(Errno::EINVAL);
    }
    if !(op::START_CODE..=op::ENV_END).contains(&what) {
        return Err(Errno::EINVAL);
    }
    let mut layout = cx.mm.layout();
    let at = usize::try_from(what.saturating_sub(1)).map_err(|_| Errno::EINVAL)?;
    if let Some(field) = fields(&mut layout).into_iter().nth(at) {
        *field = addr;
    }
    check(cx, &layout)?;
    // Of those that lie on a stack there must be something to be seen.
    let on_stack = what == op::START_STACK || what > op::BRK;
    if on_stack && !cx.mm.ends_above(addr) {
        return Err(Errno::EFAULT);
    }
    cx.mm.set_layout(|to| *to = layout);
    Ok(())
}

/// Whether a program may look so (validate_prctl_map_addr()).
fn check(cx: &Current, layout: &Layout) -> Result<(), Errno> {
    let end = cx.mm.user_range().end;
    let mut copy = *layout;
    if fields(&mut copy).into_iter().any(|field| *field < MIN_ADDR || *field >= end) {
        return Err(Errno::EINVAL);
    }
    if layout.start_code >= layout.end_code
        || layout.start_data > layout.end_data
        || layout.start_brk > layout.brk
        || layout.arg_start > layout.arg_end
        || layout.env_start > layout.env_end
    {
        return Err(Errno::EINVAL);
    }
    let heap = layout.brk.saturating_sub(layout.start_brk);
    let data = layout.end_data.saturating_sub(layout.start_data);
    match heap.saturating_add(data) > cx.task.process.limits.soft(limit::RLIMIT_DATA) {
        true => Err(Errno::EINVAL),
        false => Ok(()),
    }
}

/// An auxiliary vector of the caller's, ended.
fn auxv(cx: &Current, addr: u64, size: u64) -> Result<Vec<u8>, Errno> {
    let size = usize::try_from(size).ok().filter(|size| *size <= AUXV).ok_or(Errno::EINVAL)?;
    let mut all = vec![0; AUXV];
    cx.mm.copy_in(addr, all.get_mut(..size).unwrap_or_default())?;
    if let Some(last) = all.get_mut(AUXV.saturating_sub(16)..) {
        last.fill(0);
    }
    all.truncate(size);
    Ok(all)
}

/// PR_SET_MM_MAP: everything at once, which needs no privilege but for the file.
fn set_all(cx: &Current, addr: u64, size: u64) -> Result<(), Errno> {
    if size != MAP as u64 {
        return Err(Errno::EINVAL);
    }
    let mut raw = [0; MAP];
    cx.mm.copy_in(addr, &mut raw)?;
    let mut layout = cx.mm.layout();
    // There the two of the heap come before the stack.
    for (n, field) in [0, 1, 2, 3, 6, 4, 5, 7, 8, 9, 10].into_iter().zip(fields(&mut layout)) {
        *field = word(&raw, n);
    }
    check(cx, &layout)?;
    let (at, last) = (word(&raw, 11), word(&raw, 12));
    let (size, fd) = (last & u64::from(u32::MAX), (last >> 32) as u32 as i32);
    let mut given = None;
    if size != 0 {
        if at == 0 {
            return Err(Errno::EINVAL);
        }
        let mut all = auxv(cx, at, size)?;
        all.resize(AUXV, 0);
        given = Some(all);
    }
    if fd != -1 {
        let may = |cap| cx.creds.own_capable(cap);
        if !may(cap::SYS_ADMIN) && !may(caps::LAST) {
            return Err(Errno::EPERM);
        }
        set_file(cx, fd)?;
    }
    cx.mm.set_layout(|to| *to = layout);
    if let Some(auxv) = given {
        cx.mm.set_auxv(auxv);
    }
    Ok(())
}

/// What /proc/PID/exe leads to. `EBUSY` while something of the old one is mapped.
fn set_file(cx: &Current, fd: i32) -> Result<(), Errno> {
    let file = cx.files.get(fd)?;
    let path = file.path().ok_or(Errno::EACCES)?;
    if file.inode().kind() != FileType::Regular || path.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    perm::permission(&cx.cx(), &**file.inode(), Access::EXEC)?;
    let process = &cx.task.process;
    let old = process.exe.lock().clone();
    if let Some(pages) = old.and_then(|old| old.mappable())
        && cx.mm.maps(&*pages)
    {
        return Err(Errno::EBUSY);
    }
    let old = process.exe.lock().replace(file);
    drop(old);
    Ok(())
}
