//! maps, smaps and smaps_rollup.

use alloc::string::String;
use core::fmt::Write as _;

use super::About;
use crate::errno::Errno;
use crate::fs::types::{major, minor};
use crate::mm::{Vma, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot};

/// The line of an area, as maps and smaps have it.
fn head(vma: &Vma, out: &mut String) {
    let bit = |prot, c| if vma.prot.contains(prot) { c } else { '-' };
    let shared = if vma.is_private() { 'p' } else { 's' };
    let (dev, ino) = vma.file.as_ref().map_or((0, 0), |f| f.pages.identity());
    let offset = vma.file.as_ref().map_or(0, |f| f.first.wrapping_mul(PAGE_SIZE as u64));
    let before = out.len();
    let _ = write!(
        out,
        "{:08x}-{:08x} {}{}{}{shared} {offset:08x} {:02x}:{:02x} {ino} ",
        vma.start,
        vma.end,
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXEC, 'x'),
        major(dev),
        minor(dev),
    );
    let name = match &vma.file {
        Some(file) if file.name.is_empty() => "/dev/zero (deleted)".into(),
        Some(file) => String::from_utf8_lossy(&file.name).replace('\n', "\\012"),
        None if vma.flags.contains(VmaFlags::HEAP) => "[heap]".into(),
        None if vma.flags.contains(VmaFlags::STACK) => "[stack]".into(),
        None if vma.flags.contains(VmaFlags::VDSO) => "[vdso]".into(),
        None => match &vma.name {
            Some(name) => alloc::format!("[anon:{}]", String::from_utf8_lossy(name)),
            None => String::new(),
        },
    };
    let name = if vma.flags.contains(VmaFlags::VDSO) { "[vdso]".into() } else { name };
    if !name.is_empty() {
        // Names begin at column 73 (show_vma_header_prefix, fs/proc/task_mmu.c).
        while out.len().saturating_sub(before) < 73 {
            out.push(' ');
        }
        out.push_str(&name);
    }
    out.push('\n');
}

/// /proc/PID/maps.
pub(super) fn maps(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let Some(mm) = about.inspect()?.shared.lock().mm.clone() else { return Ok(()) };
    for vma in mm.vmas() {
        head(&vma, out);
    }
    Ok(())
}

/// Sizes in KiB.
#[derive(Clone, Copy, Default)]
struct Sizes {
    size: u64,
    resident: u64,
    private: u64,
    anonymous: u64,
}

fn put(sizes: Sizes, out: &mut String) {
    let shared = sizes.resident.saturating_sub(sizes.private);
    for (name, kib) in [
        ("Rss", sizes.resident),
        ("Pss", sizes.resident),
        ("Shared_Clean", shared),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", sizes.private),
        ("Referenced", sizes.resident),
        ("Anonymous", sizes.anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ] {
        let _ = writeln!(out, "{:<16}{kib:>8} kB", alloc::format!("{name}:"));
    }
}

fn sizes(mm: &crate::mm::Mm, vma: &Vma) -> Sizes {
    let page = PAGE_SIZE as u64 / 1024;
    let (all, private) = mm.resident_in(vma.start..vma.end);
    let anonymous = if vma.file.is_none() { all } else { private };
    Sizes {
        size: vma.len() / 1024,
        resident: all.saturating_mul(page),
        private: private.saturating_mul(page),
        anonymous: anonymous.saturating_mul(page),
    }
}

/// /proc/PID/smaps.
pub(super) fn smaps(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let Some(mm) = about.inspect()?.shared.lock().mm.clone() else { return Ok(()) };
    for vma in mm.vmas() {
        head(&vma, out);
        let sizes = sizes(&mm, &vma);
        let _ = writeln!(out, "{:<16}{:>8} kB", "Size:", sizes.size);
        let _ = writeln!(out, "KernelPageSize:        4 kB\nMMUPageSize:           4 kB");
        put(sizes, out);
        out.push_str("THPeligible:           0\nVmFlags:");
        for (set, name) in [
            (vma.prot.contains(Prot::READ), " rd"),
            (vma.prot.contains(Prot::WRITE), " wr"),
            (vma.prot.contains(Prot::EXEC), " ex"),
            (!vma.is_private(), " sh"),
            (true, " mr mw me"),
            (vma.flags.contains(VmaFlags::GROWS_DOWN), " gd"),
            (vma.flags.contains(VmaFlags::LOCKED), " lo"),
            (vma.flags.contains(VmaFlags::DONT_FORK), " dc"),
            (vma.flags.contains(VmaFlags::NO_RESERVE), " nr"),
            (vma.flags.contains(VmaFlags::DONT_DUMP), " dd"),
        ] {
            if set {
                out.push_str(name);
            }
        }
        out.push_str(" \n");
    }
    Ok(())
}

/// /proc/PID/smaps_rollup.
pub(super) fn rollup(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let Some(mm) = about.inspect()?.shared.lock().mm.clone() else { return Ok(()) };
    let mut sum = Sizes::default();
    let (mut first, mut last) = (u64::MAX, 0);
    for vma in mm.vmas() {
        let s = sizes(&mm, &vma);
        sum.resident = sum.resident.saturating_add(s.resident);
        sum.private = sum.private.saturating_add(s.private);
        sum.anonymous = sum.anonymous.saturating_add(s.anonymous);
        first = first.min(vma.start);
        last = last.max(vma.end);
    }
    let _ = writeln!(
        out,
        "{:08x}-{last:08x} ---p 00000000 00:00 0 {:>35}[rollup]",
        first.min(last),
        ""
    );
    put(sum, out);
    Ok(())
}
