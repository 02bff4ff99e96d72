//! Loading on the fake platform.

use alloc::vec;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::mm::{FilePage, VmaFlags};
use crate::platform::fake;

/// A file in memory, as a donated one.
#[derive(Clone)]
struct File(Arc<Pages>);

struct Pages {
    id: crate::platform::FileId,
    bytes: Vec<u8>,
}

impl Image for File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        platform().file_read(self.0.id, offset, buf)
    }
    fn pages(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(self.0.clone())
    }
    fn path(&self) -> Arc<[u8]> {
        Arc::from(&b"/prog"[..])
    }
}

impl Mappable for Pages {
    fn page(&self, index: u64, _write: bool) -> Result<FilePage, Errno> {
        let there = index < self.bytes.len().div_ceil(PAGE_SIZE) as u64;
        if there { Ok(FilePage::Donated(self.id)) } else { Err(Errno::EFAULT) }
    }
    fn around(&self, _index: u64, _most: u32) -> u32 {
        1
    }
    fn attach(&self, _mm: &Arc<Mm>) {}
    fn detach(&self, _mm: &Mm) {}
    fn identity(&self) -> (u64, u64) {
        (7, self.id.0.into())
    }
    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(())
    }
}

fn file(bytes: &[u8]) -> File {
    let id = fake::install().add_file(bytes);
    File(Arc::new(Pages { id, bytes: bytes.to_vec() }))
}

fn ehdr(kind: u16, segments: u16) -> elf::Ehdr {
    elf::Ehdr {
        ident: [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        kind,
        machine: elf::EM_X86_64,
        version: 1,
        entry: 0x40_0100,
        phoff: 64,
        shoff: 0,
        flags: 0,
        ehsize: 64,
        phentsize: 56,
        phnum: segments,
        shentsize: 0,
        shnum: 0,
        shstrndx: 0,
    }
}

fn load_segment(vaddr: u64, offset: u64, filesz: u64, memsz: u64, flags: u32) -> elf::Phdr {
    let align = 4096;
    elf::Phdr { kind: elf::PT_LOAD, flags, offset, vaddr, paddr: vaddr, filesz, memsz, align }
}

fn elf_file(ehdr: elf::Ehdr, segments: &[elf::Phdr]) -> Vec<u8> {
    let mut bytes = ehdr.as_bytes().to_vec();
    segments.iter().for_each(|s| bytes.extend(s.as_bytes()));
    bytes.resize(0x2000, 0xcc);
    bytes
}

fn static_elf() -> Vec<u8> {
    let text = load_segment(0x40_0000, 0, 0x1000, 0x1000, elf::PF_R | elf::PF_X);
    let data = load_segment(0x40_1000, 0x1000, 0x800, 0x3000, elf::PF_R | elf::PF_W);
    elf_file(ehdr(elf::ET_EXEC, 2), &[text, data])
}

fn none(_: &[u8]) -> Result<File, Errno> {
    Err(Errno::ENOENT)
}

fn run(bytes: &[u8]) -> Result<Program, Errno> {
    let args = vec![b"prog".to_vec(), b"arg".to_vec()];
    prepare(file(bytes), b"/prog", args, none)?.load(
        &[b"A=1".to_vec()],
        Ids::default(),
        MmLimits::default(),
        true,
        none,
    )
}

#[test]
fn a_static_program_finds_its_segments_and_its_arguments() {
    let program = run(&static_elf()).unwrap();
    let mm = &program.mm;
    assert_eq!(program.regs.rip, 0x40_0100);
    let sp = program.regs.rsp;
    assert_eq!(sp % 16, 0);
    let word = |n: u64| mm.copy_in_u64(sp + n * 8).unwrap();
    let text = |at: u64| mm.copy_in_string(at, 100).unwrap();
    assert_eq!(word(0), 2);
    assert_eq!((text(word(1)), text(word(2)), word(3)), (b"prog".to_vec(), b"arg".to_vec(), 0));
    assert_eq!((text(word(4)), word(5)), (b"A=1".to_vec(), 0));
    // Data, then bss in the same page, then bss in pages of its own.
    assert_eq!(mm.copy_in_u64(0x40_1000), Ok(0xcccc_cccc_cccc_cccc));
    assert_eq!(mm.copy_in_u64(0x40_1800), Ok(0));
    assert_eq!(mm.copy_in_u64(0x40_3000), Ok(0));
    assert_eq!(mm.copy_out(0x40_0000, b"x"), Err(Errno::EFAULT));
    let auxv = mm.auxv();
    let entry = auxv.chunks(16).find(|e| e[0] == 9).unwrap();
    assert_eq!(entry[8..10], [0x00, 0x01]);
    let brk = mm.layout().brk;
    assert!(brk >= 0x40_4000 && brk.is_multiple_of(4096));
}

#[test]
fn what_is_no_executable_of_this_machine_is_refused() {
    let good = static_elf();
    let with = |change: &dyn Fn(&mut elf::Ehdr)| {
        let mut e = elf::Ehdr::read_from_prefix(&good).unwrap().0;
        change(&mut e);
        let mut bytes = good.clone();
        bytes[..64].copy_from_slice(e.as_bytes());
        run(&bytes).err()
    };
    assert_eq!(with(&|e| e.machine = 183), Some(Errno::ENOEXEC));
    assert_eq!(with(&|e| e.ident[4] = 1), Some(Errno::ENOEXEC));
    assert_eq!(with(&|e| e.kind = 1), Some(Errno::ENOEXEC));
    assert_eq!(with(&|e| e.phnum = 0), Some(Errno::ENOEXEC));
    assert_eq!(with(&|e| e.phnum = 0xffff), Some(Errno::ENOEXEC));
    assert_eq!(with(&|e| e.phoff = u64::MAX), Some(Errno::ENOEXEC));
    assert_eq!(with(&|e| e.entry = u64::MAX), Some(Errno::EINVAL));
    assert_eq!(run(&good[..40]).err(), Some(Errno::ENOEXEC));
    assert_eq!(run(b"").err(), Some(Errno::ENOEXEC));
}

#[test]
fn absurd_segments_are_refused() {
    for (vaddr, offset, filesz, memsz) in [
        (u64::MAX - 0xfff, 0, 0x1000, 0x1000),
        (0x40_0000, 0, 0x2000, 0x1000),
        (0x40_0000, 0, 0x1000, u64::MAX),
        (0x40_0010, 0, 0x1000, 0x1000),
        (0x40_0000, !0xfff, 0x1000, 0x1000),
        (0x7fff_ffff_f000, 0, 0x1000, 0x10_0000),
        (0, 0, 0x1000, 0x1000),
    ] {
        let segment = load_segment(vaddr, offset, filesz, memsz, elf::PF_R | elf::PF_X);
        assert!(run(&elf_file(ehdr(elf::ET_EXEC, 1), &[segment])).is_err(), "{segment:x?}");
    }
}

#[test]
fn any_change_of_a_byte_of_the_headers_is_survived() {
    let good = static_elf();
    for at in 0..176 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let _either_way = run(&bytes);
        }
    }
}

#[test]
fn scripts_lead_to_their_interpreter() {
    let sh = file(&static_elf());
    let script = file(b"#! /bin/sh -e x\n");
    let open = |path: &[u8]| {
        assert_eq!(path, b"/bin/sh");
        Ok(sh.clone())
    };
    let args = vec![b"me".to_vec(), b"1".to_vec()];
    let found = prepare(script, b"./me", args, open).unwrap();
    let want: Vec<Vec<u8>> =
        [&b"/bin/sh"[..], b"-e x", b"./me", b"1"].iter().map(|s| s.to_vec()).collect();
    assert_eq!(found.argv, want);
    let script = file(b"#!/self\n");
    let itself = script.clone();
    let endless = prepare(script, b"/self", vec![], |_| Ok(itself.clone()));
    assert_eq!(endless.err(), Some(Errno::ELOOP));
}

#[test]
fn the_vdso_is_a_shared_object_of_one_page() {
    let image = vdso::image();
    assert!(image.len() <= PAGE_SIZE);
    let id = fake::install().add_file(&image);
    let header =
        elf::Header::read(&File(Arc::new(Pages { id, bytes: image.clone() })), &image[..256])
            .unwrap();
    assert_eq!(header.count(), 2);
    let program = run(&static_elf()).unwrap();
    let vdso = program.mm.layout().vdso;
    let vmas = program.mm.vmas();
    let vma = vmas.iter().find(|v| v.start == vdso).unwrap();
    assert!(vma.flags.contains(VmaFlags::VDSO));
    let mut magic = [0; 4];
    program.mm.copy_in(vdso, &mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
}

#[test]
fn too_many_arguments_are_refused() {
    let args = vec![vec![b'x'; 1000]; 10_000];
    let prepared = prepare(file(&static_elf()), b"/prog", args, none).unwrap();
    let got = prepared.load(&[], Ids::default(), MmLimits::default(), true, none);
    assert_eq!(got.err(), Some(Errno::E2BIG));
    let args = vec![vec![b'x'; stack::MAX_ARG_STRLEN]];
    let prepared = prepare(file(&static_elf()), b"/prog", args, none).unwrap();
    let got = prepared.load(&[], Ids::default(), MmLimits::default(), true, none);
    assert_eq!(got.err(), Some(Errno::E2BIG));
}

/// A generator that is the same at every run; its seeds are its constants.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// Changes bytes and words of the headers, to anything or to what is a limit somewhere.
fn mutate(bytes: &mut [u8], random: &mut Random) {
    const EDGES: [u64; 12] = [
        0,
        1,
        7,
        0x1000,
        0x40_0000,
        1 << 31,
        1 << 47,
        (1 << 47) - 1,
        1 << 63,
        !0xfff,
        u64::MAX - 1,
        u64::MAX,
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(64 + 3 * 56 - 8);
        match random.below(3) {
            0 => bytes[at] = random.below(256) as u8,
            1 => {
                let edge = EDGES[random.below(EDGES.len())];
                bytes[at & !7..][..8].copy_from_slice(&edge.to_le_bytes());
            }
            _ => {
                let edge = EDGES[random.below(EDGES.len())] as u32;
                bytes[at & !3..][..4].copy_from_slice(&edge.to_le_bytes());
            }
        }
    }
}

#[test]
fn no_file_makes_the_loader_panic() {
    let path = b"/interp\0";
    let text = load_segment(0x1000, 0, 0x1000, 0x1000, elf::PF_R | elf::PF_X);
    let data = load_segment(0x3000, 0x1000, 0x800, 0x3000, elf::PF_R | elf::PF_W);
    let interpreter =
        elf::Phdr { kind: elf::PT_INTERP, offset: 0x800, filesz: path.len() as u64, ..text };
    let mut dynamic = elf_file(ehdr(elf::ET_DYN, 3), &[interpreter, text, data]);
    dynamic[0x800..][..path.len()].copy_from_slice(path);
    let shared = elf_file(ehdr(elf::ET_DYN, 2), &[text, data]);
    let mut random = Random(1);
    let mut loaded = 0;
    for round in 0..3000 {
        let mut bytes = if round % 2 == 0 { static_elf() } else { dynamic.clone() };
        let mut other = shared.clone();
        match random.below(3) {
            0 => mutate(&mut other, &mut random),
            1 => mutate(&mut bytes, &mut random),
            _ => bytes.truncate(random.below(0x400)),
        }
        let open = |_: &[u8]| Ok(file(&other));
        let args = vec![b"prog".to_vec()];
        let prepared = prepare(file(&bytes), b"/prog", args, open);
        let load = |p: Prepared<File>| p.load(&[], Ids::default(), MmLimits::default(), true, open);
        if let Ok(program) = prepared.and_then(load) {
            // What it is to begin with can be read, or faults.
            let _ = program.mm.copy_in_u64(program.regs.rip);
            let _ = program.mm.copy_in_u64(program.regs.rsp);
            loaded += 1;
        }
    }
    // Most changes matter; some do not.
    assert!((100..2900).contains(&loaded), "{loaded}");
}
