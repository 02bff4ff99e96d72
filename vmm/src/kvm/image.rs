//! Loading the embedded image: a static ELF for ring 0.
//!
//! The image comes from our own build, so what is wrong with it is a defect and not an attack; it is
//! checked all the same, because it decides page rights.

use std::io::Cursor;

use guest::contract::{IMAGE_BASE, PAGE, RAM_BASE};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{self, KernelLoader};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::memory::Ram;

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
const PF_X: u32 = 1;
const PF_W: u32 = 2;

/// Loads the image at its physical addresses.
pub fn load(ram: &Ram, image: &[u8]) -> Result<Loaded, ImageError> {
    if image.is_empty() {
        return Err(ImageError::Missing);
    }
    let segments = segments(image, ram.size())?;
    let loaded = Elf::load(ram.memory(), None, &mut Cursor::new(image), None)?;
    let entry = loaded.kernel_load.0;
    let inside = |s: &&Segment| s.exec && (s.virt..s.virt + s.len).contains(&entry);
    if segments.iter().find(inside).is_none() {
        return Err(ImageError::Segment(entry));
    }
    let end = segments.iter().map(|s| s.phys + s.len).max().unwrap_or(RAM_BASE);
    Ok(Loaded { entry, segments, end })
}

fn segments(image: &[u8], ram_size: u64) -> Result<Vec<Segment>, ImageError> {
    let (header, _) = Header::ref_from_prefix(image).map_err(|_| ImageError::Truncated)?;
    let table = usize::try_from(header.phoff)
        .ok()
        .and_then(|at| image.get(at..))
        .ok_or(ImageError::Truncated)?;
    let (table, _) =
        <[ProgramHeader]>::ref_from_prefix_with_elems(table, usize::from(header.phnum))
            .map_err(|_| ImageError::Truncated)?;
    table
        .iter()
        .filter(|p| p.kind == PT_LOAD && p.memsz > 0)
        .map(|p| {
            let wrong = ImageError::Segment(p.vaddr);
            let len = p.memsz.checked_next_multiple_of(PAGE);
            let (Some(len), Some(at)) = (len, p.vaddr.checked_sub(IMAGE_BASE)) else {
                return Err(wrong);
            };
            let inside = at.checked_add(len).is_some_and(|end| end <= ram_size);
            if !inside || !at.is_multiple_of(PAGE) || p.paddr != RAM_BASE + at {
                return Err(wrong);
            }
            Ok(Segment {
                virt: p.vaddr,
                phys: p.paddr,
                len,
                write: p.flags & PF_W != 0,
                exec: p.flags & PF_X != 0,
            })
        })
        .collect()
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
    fn an_image_loads_where_the_contract_says_and_nowhere_else() {
        let ram = Ram::new(2 << 20).unwrap();
        let loaded = load(&ram, &tiny(&[0xf4; 5000], |_| {})).unwrap();
        assert_eq!((loaded.entry, loaded.end), (IMAGE_BASE, RAM_BASE + 8192));
        assert_eq!(ram.get::<u8>(RAM_BASE + 4999), Ok(0xf4));
        for change in [
            (|a| a[0] = 0) as fn(&mut [u64; 3]),
            |a| a[0] += 1,
            |a| a[1] -= PAGE,
            |a| a[2] += PAGE * 2,
            |a| (a[0], a[1]) = (IMAGE_BASE + (4 << 20), RAM_BASE + (4 << 20)),
        ] {
            assert!(load(&ram, &tiny(&[0xf4; 5000], change)).is_err());
        }
        assert!(matches!(load(&ram, &[]), Err(ImageError::Missing)));
        let whole = tiny(&[0xf4; 50], |_| {});
        for len in 1..whole.len() {
            assert!(load(&ram, &whole[..len]).is_err());
        }
    }
}
