//! What a process that has little left to do gives back.

use std::ops::Range;

use nix::libc;

unsafe extern "C" {
    /// The program's first byte in memory, as the linker has it.
    safe static __executable_start: u8;
    /// The first byte behind its constants and its code.
    safe static etext: u8;
}

const PAGE: usize = 4096;

/// Unmaps the pages of this program's constants and code, of which most was needed only once, and of memory that is free.
/// What is needed next is mapped again by a fault each, from the page cache.
pub fn shed() {
    shed_all_but(&[]);
}

/// The same, but the pages of some constants stay.
pub fn shed_all_but(kept: &'static [u8]) {
    let start = (&raw const __executable_start).addr().next_multiple_of(PAGE);
    let end = (&raw const etext).addr() & !(PAGE - 1);
    let kept = kept.as_ptr_range();
    let (first, last) = (kept.start.addr() & !(PAGE - 1), kept.end.addr().next_multiple_of(PAGE));
    if (start..end).contains(&first) {
        unmap(start..first);
        unmap(last..end);
    } else {
        unmap(start..end);
    }
    // SAFETY: concerns memory that nothing is in.
    unsafe { libc::malloc_trim(0) };
}

/// Unmaps the pages of a range of the program's constants and code.
fn unmap(range: Range<usize>) {
    let len = range.end.saturating_sub(range.start);
    // SAFETY: what lies between is mapped from the program's file and never written, so that each page comes back with
    // the same content.
    let _kept =
        unsafe { libc::madvise(range.start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Pages of its own, as the image's are, and more than come with a neighbour's fault.
    #[repr(align(4096))]
    struct Pages([u8; 64 * PAGE]);

    #[test]
    fn what_is_kept_stays_mapped() {
        static KEPT: Pages = Pages([7; 64 * PAGE]);
        static OTHER: Pages = Pages([8; 64 * PAGE]);
        let touch =
            |pages: &Pages| pages.0.iter().step_by(PAGE).map(|b| u32::from(*b)).sum::<u32>();
        let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
        let mapped = |pages: &Pages| {
            let mut entries = [0; 64 * 8];
            let first = pages.0.as_ptr().addr() / PAGE;
            pagemap.read_exact_at(&mut entries, first as u64 * 8).unwrap();
            // The highest bit of an entry: the page is there.
            entries.iter().skip(7).step_by(8).filter(|byte| **byte & 0x80 != 0).count()
        };
        assert_eq!(std::hint::black_box(touch(&KEPT) + touch(&OTHER)), 64 * 15);
        assert_eq!((mapped(&KEPT), mapped(&OTHER)), (64, 64));
        shed_all_but(&KEPT.0);
        assert_eq!(mapped(&KEPT), 64);
        assert!(mapped(&OTHER) < 64);
    }

    #[test]
    fn the_program_goes_on() {
        static CONSTANT: [u8; 5] = *b"there";
        let heap = vec![7; 100_000];
        drop(vec![1; 1 << 20]);
        shed();
        assert_eq!(std::hint::black_box(&CONSTANT), b"there");
        assert!(heap.iter().all(|byte| *byte == 7));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let of = |address: usize| {
            let range = |line: &&str| {
                let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                (number(start)..number(end)).contains(&address)
            };
            maps.lines().find(range).unwrap().split(' ').nth(1).unwrap()
        };
        assert_eq!(of(shed as fn() as usize), "r-xp");
        let (first, last) = (&raw const __executable_start, &raw const etext);
        assert_eq!(of(first.addr()), "r--p");
        assert!((first.addr()..last.addr()).contains(&(shed as fn() as usize)));
        assert!(!(first.addr()..last.addr()).contains(&(&raw const heap).addr()));
    }
}
