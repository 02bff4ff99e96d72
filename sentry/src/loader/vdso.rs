//! The vDSO: a small shared object that the kernel maps into every program (vdso(7)).
//!
//! It is built here, byte by byte, at the first exec: ELF header, one loadable segment, a dynamic
//! section with a symbol table, and functions that make the system call of their name.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

use super::elf::{EM_X86_64, ET_DYN, Ehdr, PF_R, PF_X, PT_DYNAMIC, PT_LOAD, Phdr};
use crate::errno::Errno;
use crate::mm::{FilePage, FrameRef, MapRequest, Mappable, Mm, Place, VmaFile, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot, platform};

/// Functions by symbol, and the system call that each makes (vdso(7), "x86-64 functions").
const FUNCTIONS: [(&str, u32); 4] =
    [("clock_gettime", 228), ("getcpu", 309), ("gettimeofday", 96), ("time", 201)];

/// The version that glibc looks the symbols up with.
const VERSION: &str = "LINUX_2.6";

/// SysV hash of a symbol name (gABI, "Hash Table").
fn elf_hash(name: &str) -> u32 {
    name.bytes().fold(0u32, |h, b| {
        let h = (h << 4).wrapping_add(b.into());
        (h ^ ((h & 0xf000_0000) >> 24)) & 0x0fff_ffff
    })
}

/// A section under construction: bytes at the end of the image, suitably aligned; its offset.
fn place(image: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    image.resize(image.len().next_multiple_of(16), 0);
    let at = image.len() as u64;
    image.extend(bytes);
    at
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Builds the object; it fits one page.
fn build() -> Vec<u8> {
    let headers = size_of::<Ehdr>() + 2 * size_of::<Phdr>();
    let mut image = vec![0; headers];

    // mov eax, NUMBER; syscall; ret
    let mut code_at = Vec::new();
    for (_, number) in FUNCTIONS {
        let mut code = vec![0xb8];
        code.extend(number.to_le_bytes());
        code.extend([0x0f, 0x05, 0xc3]);
        code_at.push(place(&mut image, &code));
    }

    // Each function has its name with and without the prefix.
    let mut strings = vec![0u8];
    let mut add = |s: &str| {
        let at = strings.len() as u32;
        strings.extend(s.bytes());
        strings.push(0);
        at
    };
    let soname = add("linux-vdso.so.1");
    let version = add(VERSION);
    // st_name, st_info (GLOBAL or WEAK, FUNC), st_other, st_shndx (any defined one), st_value, st_size
    let mut symbols: Vec<u8> = vec![0; 24];
    let mut names = Vec::new();
    for ((name, _), at) in FUNCTIONS.iter().zip(&code_at) {
        for (symbol, info) in [(alloc::format!("__vdso_{name}"), 0x12u8), ((*name).into(), 0x22)] {
            symbols.extend(add(&symbol).to_le_bytes());
            symbols.extend([info, 0, 1, 0]);
            symbols.extend(words([*at, 8]));
            names.push(symbol);
        }
    }
    let string_size = strings.len() as u64;
    let strtab = place(&mut image, &strings);
    let symtab = place(&mut image, &symbols);

    // One bucket; a chain through all symbols. nbucket, nchain, bucket[1], chain[nchain]
    let count = names.len() as u32 + 1;
    let mut hash = vec![1, count, 1, 0];
    hash.extend((2..count).chain([0]));
    let hash: Vec<u8> = hash.into_iter().flat_map(u32::to_le_bytes).collect();
    let hash = place(&mut image, &hash);

    // Every symbol has version 2; version 1 is the object itself (Verdef, LSB 10.7.2).
    let versym: Vec<u8> =
        core::iter::once(0u16).chain((1..count).map(|_| 2)).flat_map(u16::to_le_bytes).collect();
    let versym = place(&mut image, &versym);
    let mut verdef = Vec::new();
    for (flags, index, name, text, next) in
        [(1u16, 1u16, soname, "linux-vdso.so.1", 28u32), (0, 2, version, VERSION, 0)]
    {
        for half in [1u16, flags, index, 1] {
            verdef.extend(half.to_le_bytes());
        }
        for word in [elf_hash(text), 20, next, name, 0] {
            verdef.extend(word.to_le_bytes());
        }
    }
    let verdef = place(&mut image, &verdef);

    // DT_HASH 4, DT_STRTAB 5, DT_SYMTAB 6, DT_STRSZ 10, DT_SYMENT 11, DT_SONAME 14, DT_VERSYM,
    // DT_VERDEF, DT_VERDEFNUM, DT_NULL
    let dynamic = words([
        4,
        hash,
        5,
        strtab,
        6,
        symtab,
        10,
        string_size,
        11,
        24,
        14,
        soname.into(),
        0x6fff_fff0,
        versym,
        0x6fff_fffc,
        verdef,
        0x6fff_fffd,
        2,
        0,
        0,
    ]);
    let dynamic_size = dynamic.len() as u64;
    let dynamic = place(&mut image, &dynamic);

    let ehdr = Ehdr {
        ident: [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        kind: ET_DYN,
        machine: EM_X86_64,
        version: 1,
        entry: 0,
        phoff: size_of::<Ehdr>() as u64,
        shoff: 0,
        flags: 0,
        ehsize: size_of::<Ehdr>() as u16,
        phentsize: size_of::<Phdr>() as u16,
        phnum: 2,
        shentsize: 0,
        shnum: 0,
        shstrndx: 0,
    };
    let segment = |kind, flags, at, size, align| Phdr {
        kind,
        flags,
        offset: at,
        vaddr: at,
        paddr: at,
        filesz: size,
        memsz: size,
        align,
    };
    let size = image.len() as u64;
    let mut head = ehdr.as_bytes().to_vec();
    head.extend(segment(PT_LOAD, PF_R | PF_X, 0, size, PAGE_SIZE as u64).as_bytes());
    head.extend(segment(PT_DYNAMIC, PF_R, dynamic, dynamic_size, 8).as_bytes());
    if let Some(start) = image.get_mut(..head.len()) {
        start.copy_from_slice(&head);
    }
    image
}

/// The one page of the vDSO.
struct Vdso(FrameRef);

/// Inode number of the vDSO on the device of the kernel's own memory; it shows nowhere.
const IDENTITY: (u64, u64) = (1, 1);

impl Mappable for Vdso {
    fn page(&self, index: u64, _write: bool) -> Result<FilePage, Errno> {
        if index == 0 { Ok(FilePage::Cached(self.0.clone())) } else { Err(Errno::EFAULT) }
    }

    fn around(&self, _index: u64, _most: u32) -> u32 {
        1
    }

    fn attach(&self, _mm: &Arc<Mm>) {}
    fn detach(&self, _mm: &Mm) {}

    fn identity(&self) -> (u64, u64) {
        IDENTITY
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(()) // it is read-only
    }
}

static VDSO: spin::Once<Result<Arc<Vdso>, Errno>> = spin::Once::new();

/// Maps the vDSO; its address.
pub fn map(mm: &Arc<Mm>) -> Result<u64, Errno> {
    let vdso = VDSO
        .call_once(|| {
            let frame = FrameRef::alloc()?;
            platform().write_frame(frame.frame(), 0, &build());
            Ok(Arc::new(Vdso(frame)))
        })
        .clone()?;
    mm.mmap(MapRequest {
        place: Place::Hint(0),
        len: PAGE_SIZE as u64,
        prot: Prot::READ | Prot::EXEC,
        flags: VmaFlags::VDSO,
        file: Some(VmaFile { pages: vdso, first: 0, name: Arc::from(&b"[vdso]"[..]) }),
        populate: false,
    })
}

#[cfg(test)]
pub(super) fn image() -> Vec<u8> {
    build()
}
