//! What a process that has little left to do gives back.

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
    let start = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr() & !(PAGE - 1);
    let start = start.next_multiple_of(PAGE);
    // SAFETY: what lies between is mapped from the program's file and never written, so that each page comes back with
    // the same content.
    let _kept = unsafe {
        let len = end.saturating_sub(start);
        libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED)
    };
    // SAFETY: concerns memory that nothing is in.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

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
