//! ELF executables of x86-64 (System V ABI, gABI chapter 5; the rules are those of fs/binfmt_elf.c).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Image;
use crate::errno::Errno;
use crate::mm::{MapRequest, Mm, Place, VmaFile, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot};

const PAGE: u64 = PAGE_SIZE as u64;

/// ELF header, `Elf64_Ehdr`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ehdr {
    pub ident: [u8; 16],
    pub kind: u16,
    pub machine: u16,
    pub version: u32,
    pub entry: u64,
    pub phoff: u64,
    pub shoff: u64,
    pub flags: u32,
    pub ehsize: u16,
    pub phentsize: u16,
    pub phnum: u16,
    pub shentsize: u16,
    pub shnum: u16,
    pub shstrndx: u16,
}

/// Program header, `Elf64_Phdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Phdr {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

pub const ET_EXEC: u16 = 2;
pub const ET_DYN: u16 = 3;
pub const EM_X86_64: u16 = 62;
pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
pub const PT_INTERP: u32 = 3;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
pub const PF_X: u32 = 1;
pub const PF_W: u32 = 2;
pub const PF_R: u32 = 4;

/// Longest path of an interpreter (PATH_MAX, limits.h).
const PATH_MAX: u64 = 4096;

/// Where position-independent programs go without randomization (ELF_ET_DYN_BASE: two thirds of the
/// address space).
const DYN_BASE: u64 = 0x5555_5555_4000;

/// The headers of a file that is an executable for this machine.
#[derive(Debug)]
pub struct Header {
    kind: u16,
    entry: u64,
    phoff: u64,
    segments: Vec<Phdr>,
}

/// What a file is loaded as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The program; `alone`: without an interpreter.
    Main { alone: bool },
    /// Its interpreter.
    Interpreter,
}

/// Where a file was loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Added to the addresses in the file.
    pub bias: u64,
    pub entry: u64,
    /// Address of the program headers, 0: not loaded.
    pub phdr: u64,
    /// End of the highest segment, page-aligned.
    pub end: u64,
    pub code: (u64, u64),
    pub data: (u64, u64),
}

impl Header {
    /// Reads and checks the headers. `ENOEXEC` where it is no executable of this machine.
    pub fn read<I: Image>(file: &I, head: &[u8]) -> Result<Header, Errno> {
        let (ehdr, _) = Ehdr::read_from_prefix(head).map_err(|_| Errno::ENOEXEC)?;
        let [0x7f, b'E', b'L', b'F', class, data, ..] = ehdr.ident else {
            return Err(Errno::ENOEXEC);
        };
        // 64-bit, little-endian: what this machine runs.
        if class != 2
            || data != 1
            || ehdr.machine != EM_X86_64
            || !matches!(ehdr.kind, ET_EXEC | ET_DYN)
        {
            return Err(Errno::ENOEXEC);
        }
        let size = size_of::<Phdr>();
        if usize::from(ehdr.phentsize) != size
            || ehdr.phnum == 0
            || usize::from(ehdr.phnum) > 65536 / size
        {
            return Err(Errno::ENOEXEC);
        }
        let mut table = vec![0; usize::from(ehdr.phnum) * size];
        if file.read_at(ehdr.phoff, &mut table)? != table.len() {
            return Err(Errno::ENOEXEC);
        }
        let segments: Vec<Phdr> =
            table.chunks_exact(size).filter_map(|b| Phdr::read_from_bytes(b).ok()).collect();
        if !segments.iter().any(|s| s.kind == PT_LOAD) {
            return Err(Errno::ENOEXEC);
        }
        Ok(Header { kind: ehdr.kind, entry: ehdr.entry, phoff: ehdr.phoff, segments })
    }

    /// How many program headers there are.
    pub fn count(&self) -> u64 {
        self.segments.len() as u64
    }

    /// Whether the program wants its stack executable. Without PT_GNU_STACK it does not, on x86-64.
    pub fn stack_is_executable(&self) -> bool {
        self.segments.iter().find(|s| s.kind == PT_GNU_STACK).is_some_and(|s| s.flags & PF_X != 0)
    }

    /// The path of the interpreter that the program names.
    pub fn interpreter<I: Image>(&self, file: &I) -> Result<Option<Vec<u8>>, Errno> {
        let Some(segment) = self.segments.iter().find(|s| s.kind == PT_INTERP) else {
            return Ok(None);
        };
        if !(2..=PATH_MAX).contains(&segment.filesz) {
            return Err(Errno::ENOEXEC);
        }
        let mut path = vec![0; segment.filesz as usize];
        if file.read_at(segment.offset, &mut path)? != path.len() || path.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
        path.truncate(end);
        Ok(Some(path))
    }

    /// Maps the file's segments.
    pub fn map<I: Image>(
        &self,
        mm: &Arc<Mm>,
        file: &I,
        role: Role,
        entropy: u64,
    ) -> Result<Loaded, Errno> {
        let loads: Vec<&Phdr> = self.segments.iter().filter(|s| s.kind == PT_LOAD).collect();
        let user = mm.user_range();
        let mut low = u64::MAX;
        let mut high = 0;
        for s in &loads {
            let end = s.vaddr.checked_add(s.memsz).ok_or(Errno::EINVAL)?;
            if s.filesz > s.memsz || end > user.end || s.vaddr % PAGE != s.offset % PAGE {
                return Err(Errno::EINVAL);
            }
            s.offset.checked_add(s.filesz).ok_or(Errno::EINVAL)?;
            low = low.min(s.vaddr & !(PAGE - 1));
            high = high.max(end);
        }
        let size = high.checked_sub(low).ok_or(Errno::EINVAL)?.next_multiple_of(PAGE);
        let bias = match (self.kind, role) {
            (ET_EXEC, _) => 0,
            (_, Role::Main { alone: false }) => {
                let align = loads
                    .iter()
                    .map(|s| s.align)
                    .filter(|a| a.is_power_of_two())
                    .max()
                    .unwrap_or(PAGE);
                // 28 bits of pages, as arch_mmap_rnd gives.
                let base = DYN_BASE.saturating_add((entropy & 0xfff_ffff).saturating_mul(PAGE));
                (base & !(align.clamp(PAGE, 1 << 30) - 1)).wrapping_sub(low)
            }
            _ => self.reserve(mm, size)?.wrapping_sub(low),
        };
        let pages = file.pages()?;
        let name = file.path();
        let mut out = Loaded {
            bias,
            entry: self.entry.wrapping_add(bias),
            phdr: 0,
            end: 0,
            code: (u64::MAX, 0),
            data: (0, 0),
        };
        let mut mapped_once = false;
        for s in &loads {
            let start = s.vaddr.wrapping_add(bias);
            let file_end = start.checked_add(s.filesz).ok_or(Errno::EINVAL)?;
            let end = start.checked_add(s.memsz).ok_or(Errno::EINVAL)?;
            let prot = prot(s.flags);
            let first = start & !(PAGE - 1);
            let file_pages_end =
                if s.filesz == 0 { first } else { file_end.next_multiple_of(PAGE) };
            // The first segment must not fall on anything; later ones may overlap earlier ones, as on
            // Linux, which maps the whole span with the first.
            let place =
                |again, at| if again { Place::Fixed(at) } else { Place::FixedNoReplace(at) };
            if s.filesz != 0 {
                let backing =
                    VmaFile { pages: pages.clone(), first: s.offset / PAGE, name: name.clone() };
                mm.mmap(MapRequest {
                    place: place(mapped_once, first),
                    len: file_pages_end - first,
                    prot,
                    flags: VmaFlags::empty(),
                    file: Some(backing),
                    populate: false,
                })?;
                mapped_once = true;
            }
            if s.memsz > s.filesz {
                if s.filesz != 0 && prot.contains(Prot::WRITE) {
                    mm.zero_out(
                        file_end,
                        file_pages_end.min(end.next_multiple_of(PAGE)) - file_end,
                    )?;
                }
                let bss_end = end.next_multiple_of(PAGE);
                if bss_end > file_pages_end {
                    mm.mmap(MapRequest {
                        place: place(mapped_once, file_pages_end),
                        len: bss_end - file_pages_end,
                        prot,
                        flags: VmaFlags::empty(),
                        file: None,
                        populate: false,
                    })?;
                    mapped_once = true;
                }
            }
            if s.offset <= self.phoff && self.phoff < s.offset + s.filesz {
                out.phdr = (self.phoff - s.offset).wrapping_add(start);
            }
            out.end = out.end.max(end.next_multiple_of(PAGE));
            if prot.contains(Prot::EXEC) {
                out.code.1 = out.code.1.max(file_end);
            }
            out.code.0 = out.code.0.min(start);
            if start >= out.data.0 {
                out.data = (start, out.data.1.max(file_end));
            }
        }
        if !user.contains(&out.entry) {
            return Err(Errno::EINVAL);
        }
        Ok(out)
    }

    /// Finds room for `size` bytes and leaves it free again.
    fn reserve(&self, mm: &Arc<Mm>, size: u64) -> Result<u64, Errno> {
        let at = mm.mmap(MapRequest {
            place: Place::Hint(0),
            len: size,
            prot: Prot::empty(),
            flags: VmaFlags::empty(),
            file: None,
            populate: false,
        })?;
        mm.munmap(at, size)?;
        Ok(at)
    }
}

fn prot(flags: u32) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, flags & PF_R != 0);
    prot.set(Prot::WRITE, flags & PF_W != 0);
    prot.set(Prot::EXEC, flags & PF_X != 0);
    prot
}
