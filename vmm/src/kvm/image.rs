//! Loading the embedded image: a static ELF for ring 0.
//!
//! Segments that nobody writes need no copy: their guest-physical memory is the binary's own pages,
//! which all sandboxes share through the page cache. linux-loader copies the others.
//!
//! The image comes from our own build, so what is wrong with it is a defect and not an attack; it is
//! checked all the same, because it decides page rights.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use guest::contract::{IMAGE_BASE, PAGE, RAM_BASE};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::memory::Ram;

/// The image that is built into this binary; empty where it was built without one.
pub static EMBEDDED: &[u8] = &ALIGNED.bytes;

/// Bytes that begin on a page, so that the pages of the image are pages of the file.
#[repr(C, align(4096))]
struct Aligned<T: ?Sized> {
    bytes: T,
}

static ALIGNED: &Aligned<[u8]> = &Aligned { bytes: *include_bytes!(env!("RINGWALL_IMAGE")) };

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// no image is built into this binary
    #[error("no guest image is built into this binary")]
    Missing,
    /// it is not an ELF of the right kind
    #[error("the guest image does not load: {0}")]
    Load(#[from] loader::Error),
    /// a header is cut off
    #[error("a header of the guest image is cut off")]
    Truncated,
    /// a segment is not where the contract wants it
    #[error("a segment of the guest image at {0:#x} is not where the contract wants it")]
    Segment(u64),
}

/// A loaded segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Virtual address, page-aligned.
    pub virt: u64,
    /// Guest-physical address.
    pub phys: u64,
    /// Bytes, a multiple of the page size.
    pub len: u64,
    /// Whether it may be written.
    pub write: bool,
    /// Whether it may be executed.
    pub exec: bool,
    /// Where its pages are in this process, if they need no copy.
    pub shared: Option<u64>,
}

/// An image in RAM.
#[derive(Debug)]
pub struct Loaded {
    /// The first instruction.
    pub entry: u64,
    /// Its segments.
    pub segments: Vec<Segment>,
    /// First address behind it, page-aligned.
    pub end: u64,
}

/// ELF64 header (System V ABI, chapter 4).
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    phoff: u64,
    shoff: u64,
    flags: u32,
    ehsize: u16,
    phentsize: u16,
    phnum: u16,
    shentsize: u16,
    shnum: u16,
    shstrndx: u16,
}

/// ELF64 program header.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

const PT_LOAD: u32 = 1;
const PT_NULL: u8 = 0;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

/// Loads the image at its physical addresses.
pub fn load(ram: &Ram, image: &'static [u8]) -> Result<Loaded, ImageError> {
    if image.is_empty() {
        return Err(ImageError::Missing);
    }
    let (segments, copied) = segments(image, ram.size())?;
    let loaded = Elf::load(ram.memory(), None, &mut Patched::new(copied, image), None)?;
    let entry = loaded.kernel_load.0;
    let inside = |s: &Segment| s.exec && (s.virt..s.virt + s.len).contains(&entry);
    if !segments.iter().any(inside) {
        return Err(ImageError::Segment(entry));
    }
    let end = segments.iter().map(|s| s.phys + s.len).max().unwrap_or(RAM_BASE);
    Ok(Loaded { entry, segments, end })
}

/// The image with other program headers: those of shared segments are left out.
struct Patched<'a> {
    headers: Vec<u8>,
    at: Cursor<&'a [u8]>,
}

impl<'a> Patched<'a> {
    fn new(headers: Vec<u8>, image: &'a [u8]) -> Patched<'a> {
        Patched { headers, at: Cursor::new(image) }
    }
}

impl Read for Patched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(self.at.position()).unwrap_or(usize::MAX);
        match self.headers.get(at..) {
            Some(mut headers) if !headers.is_empty() => {
                let n = headers.read(buf)?;
                self.at.seek_relative(n as i64)?;
                Ok(n)
            }
            _ => self.at.read(buf),
        }
    }
}

impl Seek for Patched<'_> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.at.seek(pos)
    }
}

impl ReadVolatile for Patched<'_> {
    // Segments alone are read so, and they lie behind the headers.
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        self.at.read_volatile(buf)
    }
}

/// The segments, and the headers for linux-loader.
fn segments(image: &[u8], ram_size: u64) -> Result<(Vec<Segment>, Vec<u8>), ImageError> {
    let (header, _) = Header::ref_from_prefix(image).map_err(|_| ImageError::Truncated)?;
    let table = usize::try_from(header.phoff)
        .ok()
        .and_then(|at| image.get(at..))
        .ok_or(ImageError::Truncated)?;
    let (table, _) =
        <[ProgramHeader]>::ref_from_prefix_with_elems(table, usize::from(header.phnum))
            .map_err(|_| ImageError::Truncated)?;
    let mut segments = Vec::new();
    // Everything up to the end of the table; it is small, and lies in front of all segments.
    let table_at = header.phoff as usize;
    let mut headers =
        image.get(..table_at + size_of_val(table)).ok_or(ImageError::Truncated)?.to_vec();
    for (n, p) in table.iter().enumerate().filter(|(_, p)| p.kind == PT_LOAD && p.memsz > 0) {
        let wrong = ImageError::Segment(p.vaddr);
        let len = p.memsz.checked_next_multiple_of(PAGE);
        let (Some(len), Some(at)) = (len, p.vaddr.checked_sub(IMAGE_BASE)) else {
            return Err(wrong);
        };
        let inside = at.checked_add(len).is_some_and(|end| end <= ram_size);
        if !inside || !at.is_multiple_of(PAGE) || p.paddr != RAM_BASE + at {
            return Err(wrong);
        }
        let write = p.flags & PF_W != 0;
        let shared = if write { None } else { sharable(image, p, len) };
        if shared.is_some() {
            // p_type, the first field.
            let kind = table_at + n * size_of::<ProgramHeader>();
            headers.get_mut(kind..kind + 4).ok_or(ImageError::Truncated)?.fill(PT_NULL);
        }
        segments.push(Segment {
            virt: p.vaddr,
            phys: p.paddr,
            len,
            write,
            exec: p.flags & PF_X != 0,
            shared,
        });
    }
    Ok((segments, headers))
}

/// Where a segment's pages are in this process, if they are whole pages of the file.
fn sharable(image: &[u8], p: &ProgramHeader, len: u64) -> Option<u64> {
    let from = usize::try_from(p.offset).ok()?;
    let pages = image.get(from..)?.get(..usize::try_from(len).ok()?)?;
    let address = pages.as_ptr().addr() as u64;
    (p.filesz == p.memsz && address.is_multiple_of(PAGE)).then_some(address)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An image of one executable page.
    pub fn tiny(code: &[u8], change: impl FnOnce(&mut [u64; 3])) -> Vec<u8> {
        let mut at = [IMAGE_BASE, RAM_BASE, IMAGE_BASE];
        change(&mut at);
        let mut ident = [0; 16];
        ident[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        let header = Header {
            ident,
            kind: 2,
            machine: 62,
            version: 1,
            entry: at[2],
            phoff: 64,
            shoff: 0,
            flags: 0,
            ehsize: 64,
            phentsize: 56,
            phnum: 1,
            shentsize: 0,
            shnum: 0,
            shstrndx: 0,
        };
        let program = ProgramHeader {
            kind: PT_LOAD,
            flags: 7,
            offset: 120,
            vaddr: at[0],
            paddr: at[1],
            filesz: code.len() as u64,
            memsz: code.len() as u64,
            align: PAGE,
        };
        [header.as_bytes(), program.as_bytes(), code].concat()
    }

    #[test]
    fn segments_that_nobody_writes_are_shared() {
        // Two segments, both on pages of the file; the second is writable.
        let mut image = vec![0u8; 3 * PAGE as usize];
        let tiny = tiny(&[], |_| {});
        image[..64].copy_from_slice(&tiny[..64]);
        image[56] = 2;
        for (n, flags) in [(0u64, 5u32), (1, 6)] {
            let program = ProgramHeader {
                kind: PT_LOAD,
                flags,
                offset: (n + 1) * PAGE,
                vaddr: IMAGE_BASE + n * PAGE,
                paddr: RAM_BASE + n * PAGE,
                filesz: PAGE,
                memsz: PAGE,
                align: PAGE,
            };
            let at = 64 + n as usize * 56;
            image[at..at + 56].copy_from_slice(program.as_bytes());
            image[(n as usize + 1) * PAGE as usize..].fill(n as u8 + 1);
        }
        let ram = Ram::new(2 << 20).unwrap();
        let mut room = vec![0u8; 4 * PAGE as usize];
        let start = room.as_ptr().align_offset(PAGE as usize);
        room[start..start + image.len()].copy_from_slice(&image);
        let image = &room.leak()[start..start + image.len()];
        let loaded = load(&ram, image).unwrap();
        let address = image.as_ptr().addr() as u64 + PAGE;
        assert_eq!(loaded.segments[0].shared, Some(address));
        assert_eq!(loaded.segments[1].shared, None);
        assert_eq!(ram.get::<u8>(RAM_BASE + 9), Ok(0), "not copied");
        assert_eq!(ram.get::<u8>(RAM_BASE + PAGE + 9), Ok(2), "copied");
    }

    #[test]
    fn an_image_loads_where_the_contract_says_and_nowhere_else() {
        let ram = Ram::new(2 << 20).unwrap();
        let loaded = load(&ram, tiny(&[0xf4; 5000], |_| {}).leak()).unwrap();
        assert_eq!((loaded.entry, loaded.end), (IMAGE_BASE, RAM_BASE + 8192));
        assert_eq!(ram.get::<u8>(RAM_BASE + 4999), Ok(0xf4));
        for change in [
            (|a| a[0] = 0) as fn(&mut [u64; 3]),
            |a| a[0] += 1,
            |a| a[1] -= PAGE,
            |a| a[2] += PAGE * 2,
            |a| (a[0], a[1]) = (IMAGE_BASE + (4 << 20), RAM_BASE + (4 << 20)),
        ] {
            assert!(load(&ram, tiny(&[0xf4; 5000], change).leak()).is_err());
        }
        assert!(matches!(load(&ram, &[]), Err(ImageError::Missing)));
        let whole: &'static [u8] = tiny(&[0xf4; 50], |_| {}).leak();
        for len in 1..whole.len() {
            assert!(load(&ram, &whole[..len]).is_err());
        }
    }
}
