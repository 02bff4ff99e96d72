//! Guest memory: two slots, registered once, whose backing changes under them.
//!
//! *RAM* is anonymous memory, mapped once: what the guest has not touched costs nothing, and what it
//! gives back goes. It is anonymous because hosts give huge pages to such memory and not to shared files: one
//! fault of the guest's then brings 2 MiB, where it asks for so much at once. The *window* is a range of reserved addresses in which donated files
//! are mapped on request. KVM follows every change of the mapping, so that the slots, whose change
//! would wait for all vCPUs, stay as they are.
//!
//! Only addresses inside RAM are ever dereferenced here: a page of the window may vanish with its
//! file. No Rust reference into guest memory is made; everything is a copy or an atomic access.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use guest::contract::{PAGE, RAM_BASE, WINDOW_CHUNK, WINDOW_SLOT};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::files::OpenFile;

/// An address or length from the guest that is not where it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory [{gpa:#x}, +{len:#x}) is outside RAM")]
pub struct OutsideRam {
    /// The address.
    pub gpa: u64,
    /// The length.
    pub len: u64,
}

/// RAM.
#[derive(Debug)]
pub struct Ram {
    memory: GuestMemoryMmap,
    region: Arc<MmapRegion>,
    size: u64,
    /// Under the region, and unmapped after it.
    anonymous: Option<Anonymous>,
}

/// A huge page.
const HUGE: u64 = 2 << 20;

/// Anonymous memory from a multiple of [`HUGE`] on, as guest-physical memory begins at one.
#[derive(Debug)]
struct Anonymous {
    /// With what is there for its beginning to be moved.
    start: *mut u8,
    len: usize,
}

// SAFETY: the pointer is only an address to unmap.
unsafe impl Send for Anonymous {}
// SAFETY: as above.
unsafe impl Sync for Anonymous {}

impl Anonymous {
    /// Of `size` bytes, none of them there yet; where they begin.
    fn new(size: usize) -> io::Result<(Anonymous, *mut u8)> {
        let len = size.checked_add(HUGE as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping.
        let start = unsafe { map(std::ptr::null_mut(), len, prot, UNRESERVED, None, 0)? };
        let at = start.wrapping_add(start.align_offset(HUGE as usize));
        // SAFETY: advice about the new mapping. Huge pages come where they are asked for, or an idle guest would weigh
        // more; a kernel without them has no such advice.
        let _unknown = unsafe { libc::madvise(start.cast(), len, libc::MADV_NOHUGEPAGE) };
        Ok((Anonymous { start, len }, at))
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody uses the region any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

impl Ram {
    /// Makes `size` bytes of RAM; nothing of it exists before it is touched.
    pub fn new(size: u64) -> io::Result<Ram> {
        let len = usize::try_from(size).map_err(io::Error::other)?;
        match Anonymous::new(len) {
            Ok((mapping, at)) => {
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: the mapping is `len` bytes at least from there on, and lives as long as the region.
                let region = unsafe { MmapRegion::build_raw(at, len, prot, UNRESERVED) };
                Ram::of(region.map_err(io::Error::other)?, size, Some(mapping))
            }
            // A host that never gives out more memory than it has (vm.overcommit_memory) counts all of it now.
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => Ram::sparse(len),
            Err(e) => Err(e),
        }
    }

    /// RAM in a sparse file, of which the host counts what is touched only.
    fn sparse(len: usize) -> io::Result<Ram> {
        // SAFETY: a C string; the descriptor that comes back is ours.
        let file = unsafe {
            let fd = libc::memfd_create(c"ringwall-ram".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        file.set_len(len as u64)?;
        let region = MmapRegion::build(
            Some(FileOffset::new(file, 0)),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        );
        Ram::of(region.map_err(io::Error::other)?, len as u64, None)
    }

    fn of(region: MmapRegion, size: u64, mapping: Option<Anonymous>) -> io::Result<Ram> {
        let region = Arc::new(region);
        let memory = GuestRegionMmap::with_arc(Arc::clone(&region), GuestAddress(RAM_BASE))
            .ok_or_else(|| io::Error::other("RAM reaches past the last address"))
            .and_then(|r| GuestMemoryMmap::from_regions(vec![r]).map_err(io::Error::other))?;
        Ok(Ram { memory, region, size, anonymous: mapping })
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// For linux-loader.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Where RAM begins in this process.
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64
    }

    /// Whether the range lies in RAM.
    pub fn check(&self, gpa: u64, len: u64) -> Result<(), OutsideRam> {
        let inside = gpa
            .checked_sub(RAM_BASE)
            .and_then(|at| at.checked_add(len))
            .is_some_and(|end| end <= self.size);
        if inside { Ok(()) } else { Err(OutsideRam { gpa, len }) }
    }

    /// The host's address of a range in RAM, for system calls that copy to or from it.
    pub fn pointer(&self, gpa: u64, len: u64) -> Result<*mut u8, OutsideRam> {
        self.check(gpa, len)?;
        // In bounds by the check, and so the offset fits.
        Ok(self.region.as_ptr().wrapping_add((gpa - RAM_BASE) as usize))
    }

    /// Copies out of RAM.
    pub fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), OutsideRam> {
        let outside = OutsideRam { gpa, len: buf.len() as u64 };
        self.memory.read_slice(buf, GuestAddress(gpa)).map_err(|_| outside)
    }

    /// Copies into RAM.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Result<(), OutsideRam> {
        let outside = OutsideRam { gpa, len: data.len() as u64 };
        self.memory.write_slice(data, GuestAddress(gpa)).map_err(|_| outside)
    }

    /// Copies a structure out of RAM.
    pub fn get<T: FromBytes + IntoBytes + FromZeros>(&self, gpa: u64) -> Result<T, OutsideRam> {
        let mut value = T::new_zeroed();
        self.read(gpa, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure into RAM.
    pub fn put<T: IntoBytes + Immutable>(&self, gpa: u64, value: &T) -> Result<(), OutsideRam> {
        self.write(gpa, value.as_bytes())
    }

    /// Loads a word that both sides poll; it is aligned.
    pub fn load(&self, gpa: u64) -> Result<u32, OutsideRam> {
        self.memory
            .load(GuestAddress(gpa), Ordering::Acquire)
            .map_err(|_| OutsideRam { gpa, len: 4 })
    }

    /// Stores a word that both sides poll; it is aligned.
    pub fn store(&self, gpa: u64, value: u32) -> Result<(), OutsideRam> {
        self.memory
            .store(value, GuestAddress(gpa), Ordering::Release)
            .map_err(|_| OutsideRam { gpa, len: 4 })
    }

    /// Swaps a word that both sides poll; it is aligned.
    pub fn swap(&self, gpa: u64, value: u32) -> Result<u32, OutsideRam> {
        let outside = OutsideRam { gpa, len: 4 };
        self.check(gpa, 4)?;
        self.region
            .get_atomic_ref::<AtomicU32>((gpa - RAM_BASE) as usize)
            .map(|word| word.swap(value, Ordering::AcqRel))
            .map_err(|_| outside)
    }

    /// Gives the pages of a range back to the host; they read as zero afterwards.
    pub fn release(&self, gpa: u64, len: u64) -> io::Result<()> {
        if self.anonymous.is_none() {
            return self.advise(gpa, len, libc::MADV_REMOVE);
        }
        self.advise(gpa, len, libc::MADV_DONTNEED)?;
        // Or the host could find what is left of a huge page worth one again.
        let start = (gpa - gpa % HUGE).max(RAM_BASE);
        let end = (gpa + len).next_multiple_of(HUGE).min(RAM_BASE + self.size);
        let _unknown = self.advise(start, end - start, libc::MADV_NOHUGEPAGE);
        Ok(())
    }

    /// Has the host put memory behind a range, in huge pages as far as it has any.
    pub fn populate(&self, gpa: u64, len: u64) -> io::Result<()> {
        self.check(gpa, len).map_err(io::Error::other)?;
        let (start, end) = (gpa.next_multiple_of(HUGE), (gpa + len) / HUGE * HUGE);
        if self.anonymous.is_some() && start < end {
            let _unknown = self.advise(start, end - start, libc::MADV_HUGEPAGE);
        }
        self.advise(gpa, len, libc::MADV_POPULATE_WRITE)
    }

    fn advise(&self, gpa: u64, len: u64, advice: libc::c_int) -> io::Result<()> {
        let start = self.pointer(gpa, len).map_err(io::Error::other)?;
        // SAFETY: inside the mapping; nothing in this process holds a reference to what it holds.
        match unsafe { libc::madvise(start.cast(), len as usize, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A piece of a file in the window.
#[derive(Debug)]
struct Piece {
    len: u64,
    handle: u32,
    file: Arc<OpenFile>,
    offset: u64,
    /// Bytes from its start that a file stands behind; zero pages follow.
    backed: u64,
}

/// The window. Offsets and lengths that come in here have been checked against the contract's rules
/// ([`Window::check`]).
#[derive(Debug)]
pub struct Window {
    address: *mut u8,
    size: u64,
    pieces: BTreeMap<u64, Piece>,
}

// SAFETY: the pointer is only an address of a mapping that lives as long as the window, and nothing
// in it is dereferenced.
unsafe impl Send for Window {}

/// A file has shrunk under its mapping: zero pages stand behind it from this byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The file.
    pub handle: u32,
    /// The byte, page-aligned.
    pub from: u64,
}

impl Window {
    /// Reserves a window of `size` bytes.
    pub fn new(size: u64) -> io::Result<Window> {
        let len = usize::try_from(size).map_err(io::Error::other)?;
        let address = if size == 0 {
            std::ptr::null_mut()
        } else {
            // SAFETY: a new mapping.
            unsafe { map(std::ptr::null_mut(), len, libc::PROT_NONE, UNRESERVED, None, 0)? }
        };
        Ok(Window { address, size, pieces: BTreeMap::new() })
    }

    /// Where the window begins in this process.
    pub fn host_address(&self) -> u64 {
        self.address as u64
    }

    /// Whether a range keeps the contract's rules for WINDOW_MAP and WINDOW_UNMAP.
    pub fn check(&self, offset: u64, len: u64) -> bool {
        offset.is_multiple_of(WINDOW_SLOT)
            && len.is_multiple_of(PAGE)
            && len > 0
            && len <= WINDOW_CHUNK - offset % WINDOW_CHUNK
            && offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// Maps a file; pieces that were there before go, as a whole where they reach further.
    pub fn map(
        &mut self,
        at: u64,
        len: u64,
        handle: u32,
        file: Arc<OpenFile>,
        offset: u64,
    ) -> io::Result<()> {
        let end = at + len;
        let before: Vec<(u64, u64)> = self
            .pieces
            .range(at - at % WINDOW_CHUNK..end)
            .map(|(&start, piece)| (start, piece.len))
            .filter(|(start, len)| start + len > at)
            .collect();
        for (start, len) in before {
            if start < at || start + len > end {
                self.unmap(start, len)?;
            }
            self.pieces.remove(&start);
        }
        let mut prot = libc::PROT_READ;
        if file.writable {
            prot |= libc::PROT_WRITE;
        }
        let file_offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: inside the reserved range, in which nothing is dereferenced.
        unsafe {
            map(
                self.at(at),
                len as usize,
                prot,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
                Some(&file.file),
                file_offset,
            )?;
        }
        self.pieces.insert(at, Piece { len, handle, file, offset, backed: len });
        Ok(())
    }

    /// Makes a range inaccessible.
    pub fn unmap(&mut self, at: u64, len: u64) -> io::Result<()> {
        // SAFETY: inside the reserved range, in which nothing is dereferenced.
        unsafe {
            map(self.at(at), len as usize, libc::PROT_NONE, UNRESERVED | libc::MAP_FIXED, None, 0)?;
        }
        // Where only its beginning goes, the piece is kept for its rest.
        if self.pieces.get(&at).is_some_and(|piece| piece.len <= len) {
            self.pieces.remove(&at);
        }
        Ok(())
    }

    /// Unmaps all pieces of a file.
    pub fn forget(&mut self, handle: u32) -> io::Result<()> {
        let pieces: Vec<(u64, u64)> = self
            .pieces
            .iter()
            .filter(|(_, p)| p.handle == handle)
            .map(|(&at, p)| (at, p.len))
            .collect();
        pieces.into_iter().try_for_each(|(at, len)| self.unmap(at, len))
    }

    /// Looks which files have shrunk under their mappings, and puts zero pages behind what is gone.
    pub fn recheck(&mut self) -> io::Result<Vec<Shrunk>> {
        let mut shrunk = Vec::new();
        let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
        let base = self.address;
        for (&at, piece) in &mut self.pieces {
            let size = match sizes.get(&piece.handle) {
                Some(&size) => size,
                None => {
                    let size = crate::host::stat(&piece.file.file)?.st_size.cast_unsigned();
                    sizes.insert(piece.handle, size);
                    size
                }
            };
            let backed: u64 =
                size.saturating_sub(piece.offset).min(piece.len).next_multiple_of(PAGE);
            if backed >= piece.backed {
                continue;
            }
            let gone: Range<u64> = backed..piece.len;
            let mut prot = libc::PROT_READ;
            if piece.file.writable {
                prot |= libc::PROT_WRITE;
            }
            // SAFETY: inside the reserved range, in which nothing is dereferenced.
            unsafe {
                map(
                    base.wrapping_add((at + gone.start) as usize),
                    (gone.end - gone.start) as usize,
                    prot,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                    None,
                    0,
                )?;
            }
            piece.backed = backed;
            shrunk.push(Shrunk { handle: piece.handle, from: piece.offset + backed });
        }
        Ok(shrunk)
    }

    fn at(&self, offset: u64) -> *mut u8 {
        self.address.wrapping_add(offset as usize)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.size > 0 {
            // SAFETY: the mapping is ours, and a window outlives its machine's vCPUs.
            unsafe { libc::munmap(self.address.cast(), self.size as usize) };
        }
    }
}

const UNRESERVED: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// mmap(2).
///
/// # Safety
/// With MAP_FIXED, nothing may rely on what was mapped there.
unsafe fn map(
    at: *mut u8,
    len: usize,
    prot: libc::c_int,
    flags: libc::c_int,
    file: Option<&File>,
    offset: i64,
) -> io::Result<*mut u8> {
    let fd = file.map_or(-1, |f| f.as_raw_fd());
    // SAFETY: as the caller promises.
    let p = unsafe { libc::mmap(at.cast(), len, prot, flags, fd, offset) };
    if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_ram_is_reached() {
        let ram = Ram::new(2 << 20).unwrap();
        ram.put(RAM_BASE + 8, &7u64).unwrap();
        assert_eq!(ram.get::<u64>(RAM_BASE + 8), Ok(7));
        for (gpa, len) in [
            (0, 8),
            (RAM_BASE - 4, 8),
            (RAM_BASE + (2 << 20) - 4, 8),
            (u64::MAX - 3, 8),
            (RAM_BASE, u64::MAX),
        ] {
            assert!(ram.check(gpa, len).is_err());
            assert!(ram.pointer(gpa, len).is_err());
        }
        let mut buf = [0; 8];
        assert!(ram.read(RAM_BASE + (2 << 20) - 4, &mut buf).is_err());
        assert!(ram.write(u64::MAX - 2, &buf).is_err());
        assert!(ram.load(RAM_BASE + (2 << 20)).is_err());
        assert!(ram.swap(RAM_BASE - 4, 1).is_err());
        // Misaligned words are refused too.
        assert!(ram.swap(RAM_BASE + 1, 1).is_err());
    }

    #[test]
    fn released_memory_is_zero_and_back_with_the_host() {
        for ram in [Ram::new(2 << 20).unwrap(), Ram::sparse(2 << 20).unwrap()] {
            assert_eq!(ram.host_address() % 4096, 0);
            ram.populate(RAM_BASE, 8192).unwrap();
            ram.populate(RAM_BASE, 2 << 20).unwrap();
            ram.put(RAM_BASE, &2u64).unwrap();
            ram.put(RAM_BASE + 4096, &1u64).unwrap();
            ram.release(RAM_BASE + 4096, 4096).unwrap();
            assert_eq!(ram.get::<u64>(RAM_BASE + 4096), Ok(0));
            assert_eq!(ram.get::<u64>(RAM_BASE), Ok(2));
            assert!(ram.release(RAM_BASE + (1 << 20), 2 << 20).is_err());
            assert!(ram.populate(RAM_BASE + (1 << 20), 2 << 20).is_err());
        }
    }

    #[test]
    fn huge_pages_can_stand_behind_ram() {
        assert_eq!(Ram::new(4 << 20).unwrap().host_address() % HUGE, RAM_BASE % HUGE);
    }

    #[test]
    fn pieces_that_are_mapped_over_are_forgotten() {
        let path = std::env::temp_dir().join(format!("rw-pieces-{}", std::process::id()));
        let file = File::create_new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(WINDOW_CHUNK).unwrap();
        let file = Arc::new(OpenFile { file, writable: true });
        let mut window = Window::new(1 << 30).unwrap();
        let mut map = |at, len| window.map(at, len, 1, Arc::clone(&file), 0).unwrap();
        // A large one, neighbours of which the first is within it, and one over both of their ends.
        map(WINDOW_CHUNK, WINDOW_CHUNK);
        map(WINDOW_CHUNK + WINDOW_SLOT, WINDOW_SLOT);
        map(WINDOW_CHUNK + 2 * WINDOW_SLOT, WINDOW_SLOT);
        map(0, WINDOW_CHUNK);
        let starts = |window: &Window| window.pieces.keys().copied().collect::<Vec<_>>();
        assert_eq!(
            starts(&window),
            [0, WINDOW_CHUNK + WINDOW_SLOT, WINDOW_CHUNK + 2 * WINDOW_SLOT]
        );
        let mut map = |at, len| window.map(at, len, 1, Arc::clone(&file), 0).unwrap();
        map(WINDOW_CHUNK + WINDOW_SLOT, WINDOW_SLOT + PAGE);
        assert_eq!(starts(&window), [0, WINDOW_CHUNK + WINDOW_SLOT]);
        window.forget(1).unwrap();
        assert_eq!(starts(&window), [0u64; 0]);
    }

    #[test]
    fn a_shrunk_file_gets_zero_pages_once() {
        let path = std::env::temp_dir().join(format!("rw-window-{}", std::process::id()));
        let file = File::create_new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(5 * PAGE).unwrap();
        let shared = Arc::new(OpenFile { file: file.try_clone().unwrap(), writable: false });
        let mut window = Window::new(1 << 30).unwrap();
        assert!(window.check(WINDOW_CHUNK, 5 * PAGE));
        assert!(window.check(WINDOW_SLOT, WINDOW_CHUNK - WINDOW_SLOT));
        for (at, len) in [
            (1, PAGE),
            (PAGE, PAGE),
            (0, 1),
            (0, 0),
            (0, WINDOW_CHUNK + PAGE),
            (WINDOW_SLOT, WINDOW_CHUNK),
            (1 << 30, PAGE),
        ] {
            assert!(!window.check(at, len));
        }
        // Reading is all that was allowed.
        let readable = Arc::new(OpenFile {
            file: File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap(),
            writable: false,
        });
        window.map(WINDOW_CHUNK, 5 * PAGE, 3, readable, 0).unwrap();
        window.map(0, 5 * PAGE, 4, shared, PAGE).unwrap();
        assert_eq!(window.recheck().unwrap(), [Shrunk { handle: 4, from: 5 * PAGE }]);
        file.set_len(PAGE + 1).unwrap();
        assert_eq!(
            window.recheck().unwrap(),
            [Shrunk { handle: 4, from: 2 * PAGE }, Shrunk { handle: 3, from: 2 * PAGE }]
        );
        assert_eq!(window.recheck().unwrap(), []);
        window.forget(3).unwrap();
        file.set_len(0).unwrap();
        assert_eq!(window.recheck().unwrap(), [Shrunk { handle: 4, from: PAGE }]);
    }
}
