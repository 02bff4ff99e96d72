//! mmap, munmap, mprotect, mremap, brk, madvise, msync, mincore, mlock and their kind.

use alloc::sync::Arc;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::OpenFlags;
use crate::mm::{Advice, MapRequest, Place, VmaFile, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot};
use crate::task::Current;

const PAGE: u64 = PAGE_SIZE as u64;

bitflags::bitflags! {
    /// Flags of mmap(2) (asm-generic/mman.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct MapFlags: u32 {
        const SHARED = 0x01;
        const PRIVATE = 0x02;
        const SHARED_VALIDATE = 0x03;
        const FIXED = 0x10;
        const ANONYMOUS = 0x20;
        const MAP_32BIT = 0x40;
        const GROWSDOWN = 0x0100;
        const DENYWRITE = 0x0800;
        const EXECUTABLE = 0x1000;
        const LOCKED = 0x2000;
        const NORESERVE = 0x4000;
        const POPULATE = 0x8000;
        const NONBLOCK = 0x1_0000;
        const STACK = 0x2_0000;
        const HUGETLB = 0x4_0000;
        const SYNC = 0x8_0000;
        const FIXED_NOREPLACE = 0x10_0000;
    }
}

/// Protection bits of mmap(2) and mprotect(2) (asm-generic/mman-common.h).
const PROT_GROWSDOWN: u64 = 0x0100_0000;
const PROT_GROWSUP: u64 = 0x0200_0000;
/// MAP_UNINITIALIZED is ignored with an MMU, as all unknown flags of old are.
const PROT_SEM: u64 = 8;

/// CAP_IPC_LOCK (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;

/// The sentry's protection for the ABI's.
fn prot(bits: u64) -> Prot {
    Prot::from_bits_truncate((bits & 7) as u8)
}

/// mmap(2).
pub fn mmap(cx: &mut Current, args: Args) -> SysResult {
    let [addr, len, bits, raw_flags, fd, offset] = args.0;
    let flags = MapFlags::from_bits_truncate(raw_flags as u32);
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL.into());
    }
    if flags.contains(MapFlags::HUGETLB) {
        // The size of the pages, as a power of two; 0 is the usual one (MAP_HUGE_SHIFT).
        if !matches!(raw_flags as u32 >> 26, 0 | 21 | 30) {
            return Err(Errno::EINVAL.into());
        }
        if !flags.contains(MapFlags::ANONYMOUS) {
            // No file here is of hugetlbfs.
            cx.files.get(fd as i32)?;
            return Err(Errno::EINVAL.into());
        }
        // No huge page is ever reserved here: what Linux says with an empty pool.
        return Err(Errno::ENOMEM.into());
    }
    let kind = flags & MapFlags::SHARED_VALIDATE;
    if kind.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    let mut vma = VmaFlags::empty();
    vma.set(VmaFlags::SHARED, kind.contains(MapFlags::SHARED));
    vma.set(VmaFlags::GROWS_DOWN, flags.contains(MapFlags::GROWSDOWN));
    vma.set(VmaFlags::NO_RESERVE, flags.contains(MapFlags::NORESERVE));
    vma.set(VmaFlags::LOCKED, flags.contains(MapFlags::LOCKED));
    if flags.contains(MapFlags::LOCKED) && cx.mm.locked().1 == 0 && !cx.creds.capable(CAP_IPC_LOCK)
    {
        return Err(Errno::EPERM.into());
    }
    let place = if flags.contains(MapFlags::FIXED_NOREPLACE) {
        Place::FixedNoReplace(addr)
    } else if flags.contains(MapFlags::FIXED) {
        Place::Fixed(addr)
    } else {
        Place::Hint(addr)
    };
    let mut file = None;
    if !flags.contains(MapFlags::ANONYMOUS) {
        let open = cx.files.get(fd as i32)?;
        let access = open.flags();
        if kind == MapFlags::SHARED_VALIDATE && flags.contains(MapFlags::SYNC) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if !access.reads() {
            return Err(Errno::EACCES.into());
        }
        if vma.contains(VmaFlags::SHARED) {
            let writable = access.writes() && !access.contains(OpenFlags::APPEND);
            if prot(bits).contains(Prot::WRITE) && !writable {
                return Err(Errno::EACCES.into());
            }
            vma.set(VmaFlags::NEVER_WRITE, !writable);
        }
        if let Some(path) = open.path()
            && path.mount.flags().contains(crate::fs::MountFlags::NOEXEC)
            && prot(bits).contains(Prot::EXEC)
        {
            return Err(Errno::EPERM.into());
        }
        if vma.contains(VmaFlags::GROWS_DOWN) {
            return Err(Errno::EINVAL.into());
        }
        let pages = open.mappable().ok_or(Errno::ENODEV)?;
        // What fits no address space is ENOMEM, below.
        if len <= cx.mm.user_range().end && offset.saturating_add(len) > i64::MAX as u64 {
            return Err(Errno::EOVERFLOW.into());
        }
        let name = Arc::from(open.show(&cx.fs.root()));
        file = Some(VmaFile { pages, first: offset / PAGE, name });
    } else if flags.contains(MapFlags::GROWSDOWN) && vma.contains(VmaFlags::SHARED) {
        return Err(Errno::EINVAL.into());
    }
    let populate = flags.contains(MapFlags::POPULATE) && !flags.contains(MapFlags::NONBLOCK);
    let request = MapRequest { place, len, prot: prot(bits), flags: vma, file, populate };
    Ok(cx.mm.mmap(request)?)
}

/// munmap(2).
pub fn munmap(cx: &mut Current, args: Args) -> SysResult {
    cx.mm.munmap(args.get(0), args.get(1))?;
    Ok(0)
}

/// mprotect(2).
pub fn mprotect(cx: &mut Current, args: Args) -> SysResult {
    let bits = args.get(2);
    let grows = bits & (PROT_GROWSDOWN | PROT_GROWSUP);
    if bits & !(7 | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP) != 0
        || grows == PROT_GROWSDOWN | PROT_GROWSUP
        // No area grows up on x86.
        || grows == PROT_GROWSUP
    {
        return Err(Errno::EINVAL.into());
    }
    cx.mm.mprotect(args.get(0), args.get(1), prot(bits), grows == PROT_GROWSDOWN)?;
    Ok(0)
}

/// mremap(2).
pub fn mremap(cx: &mut Current, args: Args) -> SysResult {
    const MAYMOVE: u64 = 1;
    const FIXED: u64 = 2;
    const DONTUNMAP: u64 = 4;
    let [old, old_len, new_len, flags, new, _] = args.0;
    if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let fixed = (flags & FIXED != 0).then_some(new);
    let keep = flags & DONTUNMAP != 0;
    Ok(cx.mm.mremap(old, old_len, new_len, flags & MAYMOVE != 0, fixed, keep)?)
}

/// brk(2).
pub fn brk(cx: &mut Current, args: Args) -> SysResult {
    Ok(cx.mm.brk(args.get(0)))
}

/// madvise(2).
pub fn madvise(cx: &mut Current, args: Args) -> SysResult {
    let advice = match args.int(2) {
        // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, COLD,
        // PAGEOUT, COLLAPSE: about speed only
        0..=3 | 12..=15 | 20 | 21 | 25 => Advice::Hint,
        4 => Advice::DontNeed,
        8 => Advice::Free,
        9 => Advice::Remove,
        10 => Advice::Set(VmaFlags::DONT_FORK),
        11 => Advice::Clear(VmaFlags::DONT_FORK),
        16 => Advice::Set(VmaFlags::DONT_DUMP),
        17 => Advice::Clear(VmaFlags::DONT_DUMP),
        18 => Advice::Set(VmaFlags::WIPE_ON_FORK),
        19 => Advice::Clear(VmaFlags::WIPE_ON_FORK),
        22 => Advice::Populate(false),
        23 => Advice::Populate(true),
        _ => return Err(Errno::EINVAL.into()),
    };
    cx.mm.madvise(args.get(0), args.get(1), advice)?;
    Ok(0)
}

/// remap_file_pages(2): another part of the file that an area maps, as mmap(2) over it (mm/mmap.c does so, too).
pub fn remap_file_pages(cx: &mut Current, args: Args) -> SysResult {
    let [start, size, prot, first, _, _] = args.0;
    let (start, size) = (start & !(PAGE - 1), size & !(PAGE - 1));
    let end = start.checked_add(size).filter(|end| *end > start).ok_or(Errno::EINVAL)?;
    if prot != 0 || first.checked_add(size / PAGE).is_none() {
        return Err(Errno::EINVAL.into());
    }
    let areas = cx.mm.vmas();
    let mut inside = areas.iter().filter(|vma| vma.start < end && vma.end > start);
    let head = inside.next().filter(|vma| vma.start <= start && !vma.is_private());
    let head = head.ok_or(Errno::EINVAL)?;
    let file = head.file.as_ref().ok_or(Errno::EINVAL)?;
    // What follows has to be of the same file and kind.
    let mut at = head.end;
    for vma in inside {
        let same = vma.file.as_ref().is_some_and(|f| Arc::ptr_eq(&f.pages, &file.pages));
        if vma.start != at || !same || vma.flags != head.flags {
            return Err(Errno::EINVAL.into());
        }
        at = vma.end;
    }
    if at < end {
        return Err(Errno::EINVAL.into());
    }
    let request = MapRequest {
        place: Place::Fixed(start),
        len: size,
        prot: head.prot,
        flags: head.flags,
        file: Some(VmaFile { first, ..file.clone() }),
        populate: true,
    };
    cx.mm.mmap(request)?;
    Ok(0)
}

/// msync(2).
pub fn msync(cx: &mut Current, args: Args) -> SysResult {
    const ASYNC: u32 = 1;
    const INVALIDATE: u32 = 2;
    const SYNC: u32 = 4;
    let flags = args.uint(2);
    if flags & !(ASYNC | INVALIDATE | SYNC) != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::EINVAL.into());
    }
    cx.mm.msync(args.get(0), args.get(1), flags & SYNC != 0, flags & INVALIDATE != 0)?;
    Ok(0)
}

/// mincore(2).
pub fn mincore(cx: &mut Current, args: Args) -> SysResult {
    let map = cx.mm.mincore(args.get(0), args.get(1))?;
    cx.mm.copy_out(args.get(2), &map)?;
    Ok(0)
}

/// mlock(2).
pub fn mlock(cx: &mut Current, args: Args) -> SysResult {
    lock(cx, args, true, false)
}

/// mlock2(2).
pub fn mlock2(cx: &mut Current, args: Args) -> SysResult {
    const ONFAULT: u32 = 1;
    let flags = args.uint(2);
    if flags & !ONFAULT != 0 {
        return Err(Errno::EINVAL.into());
    }
    lock(cx, args, true, flags & ONFAULT != 0)
}

/// munlock(2).
pub fn munlock(cx: &mut Current, args: Args) -> SysResult {
    lock(cx, args, false, false)
}

fn lock(cx: &mut Current, args: Args, lock: bool, on_fault: bool) -> SysResult {
    let capable = cx.creds.capable(CAP_IPC_LOCK);
    cx.mm.mlock(args.get(0), args.get(1), lock, on_fault, capable)?;
    Ok(0)
}

/// mlockall(2).
pub fn mlockall(cx: &mut Current, args: Args) -> SysResult {
    const CURRENT: u32 = 1;
    const FUTURE: u32 = 2;
    const ONFAULT: u32 = 4;
    let flags = args.uint(0);
    if flags == 0 || flags == ONFAULT || flags & !(CURRENT | FUTURE | ONFAULT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !cx.creds.capable(CAP_IPC_LOCK) {
        let (_, limit) = cx.mm.locked();
        if limit == 0 {
            return Err(Errno::EPERM.into());
        }
        let all = cx.mm.usage().size.saturating_mul(PAGE);
        if flags & CURRENT != 0 && all > limit {
            return Err(Errno::ENOMEM.into());
        }
    }
    let current = (flags & CURRENT != 0).then_some(true);
    cx.mm.mlockall(current, flags & FUTURE != 0, flags & ONFAULT == 0)?;
    Ok(0)
}

/// munlockall(2).
pub fn munlockall(cx: &mut Current, _args: Args) -> SysResult {
    cx.mm.mlockall(Some(false), false, false)?;
    Ok(0)
}
