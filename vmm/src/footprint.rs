//! What a process that has little left to do gives back.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use nix::libc;

/// Unmaps the pages of this program's code, of which most was needed only once. What is executed next
/// is mapped again by a fault each, from the page cache.
pub fn shed_code() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let own = File::open("/proc/self/exe").and_then(|exe| exe.metadata());
    let Ok(inode) = own.map(|own| own.ino().to_string()) else { return };
    for line in maps.lines() {
        let Some((start, len)) = code_range(line, &inode) else { continue };
        // SAFETY: the range is mapped from the file, readable and executable but never written, so
        // each page comes back with the same content.
        let _kept = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
    }
}

/// The range of a line of /proc/self/maps, if it is code of the file with this inode.
fn code_range(line: &str, inode: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    if rights != "r-xp" || words.nth(2)? != inode {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) =
        (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_shed() {
        let code = "003ac000-007d7000 r-xp 001ab000 fe:00 10002444      /usr/bin/ringwall";
        assert_eq!(code_range(code, "10002444"), Some((0x3ac000, 0x42b000)));
        assert_eq!(code_range(code, "1000244"), None);
        assert_eq!(code_range(&code.replace("r-xp", "r--p"), "10002444"), None);
        assert_eq!(
            code_range("7fff68da1000-7fff68dc2000 rw-p 00000000 00:00 0 [stack]", "0"),
            None
        );
        assert_eq!(code_range("", ""), None);
    }

    #[test]
    fn the_program_goes_on() {
        shed_code();
        assert_eq!(code_range("1000-3000 r-xp 0 0 7", "7"), Some((0x1000, 0x2000)));
    }
}
