//! One platform per test process, and small programs for it.

#![allow(dead_code)] // each test binary uses its part

use std::sync::{Arc, OnceLock, mpsc};

use ptrace_fallback::{Config, ControlHost, PtracePlatform, control_pair};
use sentry::platform::{
    AddressSpace, Backing, Frame, Mapping, PAGE_SIZE, Platform, Prot, Registers, UserThread,
};

/// Where programs are put.
pub const CODE: u64 = 0x1000_0000;
/// The end of their stack, of four pages.
pub const STACK: u64 = 0x2000_4000;
/// A page for data, mapped by tests that want one.
pub const DATA: u64 = 0x3000_0000;

pub const RX: Prot = Prot::READ.union(Prot::EXEC);
pub const RW: Prot = Prot::READ.union(Prot::WRITE);

static PLATFORM: OnceLock<(&'static PtracePlatform, ControlHost)> = OnceLock::new();

/// The platform. A thread that never ends makes it, as stubs end with their maker.
pub fn platform() -> &'static PtracePlatform {
    let (platform, _) = PLATFORM.get_or_init(|| {
        let (tell, hear) = mpsc::channel();
        std::thread::spawn(move || {
            let prepared = PtracePlatform::prepare().expect("ptrace works here");
            let (host, control) = control_pair().unwrap();
            let config = Config {
                control,
                gofers: vec![],
                streams: vec![],
                memory: 1 << 30,
                cpus: 0,
                log: Box::new(|level, line| eprintln!("{level:?}: {line}")),
            };
            tell.send((prepared.start(config).unwrap(), host)).unwrap();
            loop {
                std::thread::park();
            }
        });
        hear.recv().unwrap()
    });
    platform
}

/// Defines a function that gives the bytes of a program in assembly.
#[macro_export]
macro_rules! program {
    ($name:ident, $($line:expr),* $(,)?) => {
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: computes two addresses and jumps over the bytes between them.
            unsafe {
                std::arch::asm!(
                    "lea {start}, [rip + 20f]",
                    "lea {end}, [rip + 21f]",
                    "jmp 21f",
                    "20:",
                    $($line),*,
                    "21:",
                    start = out(reg) start,
                    end = out(reg) end,
                    options(nostack),
                );
            }
            // SAFETY: the bytes between the labels are this program's text.
            unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
        }
    };
}

/// A program in an address space of its own.
pub struct Program {
    pub space: Arc<dyn AddressSpace>,
    pub regs: Registers,
    frames: Vec<(Frame, u32)>,
}

impl Program {
    pub fn new(code: &[u8]) -> Program {
        let p = platform();
        let space = p.new_space().unwrap();
        let mut program = Program {
            space,
            regs: Registers { rip: CODE, rsp: STACK, eflags: 0x202, ..Registers::default() },
            frames: vec![],
        };
        let first = program.add(CODE, code.len().div_ceil(PAGE_SIZE) as u32, RX);
        p.write_frame(first, 0, code);
        program.add(STACK - 4 * PAGE_SIZE as u64, 4, RW);
        program
    }

    /// Maps fresh frames.
    pub fn add(&mut self, start: u64, pages: u32, prot: Prot) -> Frame {
        let first = platform().alloc_frames(pages).unwrap();
        self.frames.push((first, pages));
        map(&self.space, start, pages, first, prot);
        first
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.space.unmap(platform().user_range());
        for (first, pages) in self.frames.drain(..) {
            platform().free_frames(first, pages);
        }
    }
}

pub fn map(space: &Arc<dyn AddressSpace>, start: u64, pages: u32, first: Frame, prot: Prot) {
    space.map(&[Mapping { start, pages, backing: Backing::Frames(first), prot }]).unwrap();
}

pub fn user() -> Box<dyn UserThread> {
    platform().new_user_thread().unwrap()
}
