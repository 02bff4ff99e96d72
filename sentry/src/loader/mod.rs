//! From an executable file to an address space that is ready to run: scripts, ELF, stack, vDSO.
//!
//! [`prepare`] follows `#!` lines to the file that is really run, so that the caller can decide on
//! set-id bits by it; [`Prepared::load`] builds the new [`Mm`]. Nothing of the caller changes before
//! both have succeeded, so every error can still be the result of execve(2).
//!
//! The loader sees files through [`Image`] only, and every byte of them as hostile.

mod elf;
mod script;
mod stack;
mod vdso;

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::mm::{Mappable, Mm, MmLimits};
use crate::platform::{PAGE_SIZE, Registers, platform};

/// An executable file, open.
pub trait Image: Clone {
    /// Reads at a byte offset; short only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Its pages. `EACCES` where it cannot be mapped.
    fn pages(&self) -> Result<Arc<dyn Mappable>, Errno>;
    /// Its path, for /proc/PID/maps.
    fn path(&self) -> Arc<[u8]>;
}

/// What is run after `#!` lines were followed.
pub struct Prepared<I> {
    /// The file.
    pub file: I,
    /// Its arguments.
    pub argv: Vec<Vec<u8>>,
    /// What execve(2) was given: AT_EXECFN, and the source of comm.
    pub filename: Vec<u8>,
    head: Vec<u8>,
}

/// Identity, as the auxiliary vector tells it.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // the names are credentials(7)'s
pub struct Ids {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// AT_SECURE: the program gained rights by exec.
    pub secure: bool,
}

/// A program ready to run.
pub struct Program {
    /// Its memory.
    pub mm: Arc<Mm>,
    /// Its first registers.
    pub regs: Registers,
}

/// Bytes of a file that are looked at to tell what it is (BINPRM_BUF_SIZE, linux/binfmts.h).
const HEAD: usize = 256;

/// How often a script's interpreter may be a script (fs/exec.c).
const MAX_SCRIPTS: usize = 5;

/// Finds the file to run. `open` opens an interpreter by path, with the caller's rights.
pub fn prepare<I: Image>(
    file: I,
    filename: &[u8],
    argv: Vec<Vec<u8>>,
    mut open: impl FnMut(&[u8]) -> Result<I, Errno>,
) -> Result<Prepared<I>, Errno> {
    let mut now = Prepared { file, argv, filename: filename.to_vec(), head: Vec::new() };
    for _ in 0..=MAX_SCRIPTS {
        now.head = read_head(&now.file)?;
        if !now.head.starts_with(b"#!") {
            return Ok(now);
        }
        let line = script::parse(&now.head)?;
        let mut argv = Vec::with_capacity(now.argv.len() + 2);
        argv.push(line.interpreter.to_vec());
        argv.extend(line.argument.map(<[u8]>::to_vec));
        argv.push(now.filename.clone());
        argv.extend(now.argv.drain(..).skip(1));
        let file = open(line.interpreter)?;
        // AT_EXECFN and comm stay those of the script on Linux; only the arguments change.
        let filename = line.interpreter.to_vec();
        now = Prepared { file, argv, filename, head: Vec::new() };
    }
    Err(Errno::ELOOP)
}

fn read_head<I: Image>(file: &I) -> Result<Vec<u8>, Errno> {
    let mut head = alloc::vec![0; HEAD];
    let n = file.read_at(0, &mut head)?;
    head.truncate(n);
    Ok(head)
}

impl<I: Image> Prepared<I> {
    /// Builds the address space; where things are in it is up to chance if `randomize`.
    pub fn load(
        &self,
        envp: &[Vec<u8>],
        ids: Ids,
        limits: MmLimits,
        randomize: bool,
        mut open: impl FnMut(&[u8]) -> Result<I, Errno>,
    ) -> Result<Program, Errno> {
        let header = elf::Header::read(&self.file, &self.head)?;
        let interpreter = match header.interpreter(&self.file)? {
            None => None,
            Some(path) => {
                let file = open(&path)?;
                let head = read_head(&file)?;
                // Not an ELF file: ELIBBAD, as fs/binfmt_elf.c says.
                let header = elf::Header::read(&file, &head).map_err(|_| Errno::ELIBBAD)?;
                Some((file, header))
            }
        };
        let mm = Mm::new()?;
        mm.set_limits(limits);
        let mut random = [0; 32];
        if randomize {
            platform().random(&mut random);
        }
        let entropy = |at: usize| {
            random.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or([0; 8])))
        };
        let bases = {
            let chance = randomize.then(|| (entropy(0), entropy(8)));
            stack::Bases::choose(mm.user_range(), limits.stack, chance)
        };
        mm.set_layout(|l| l.mmap_base = bases.mmap);
        let main = header.map(
            &mm,
            &self.file,
            elf::Role::Main { alone: interpreter.is_none() },
            entropy(16),
        )?;
        let (entry, base) = match &interpreter {
            None => (main.entry, 0),
            Some((file, header)) => {
                let loaded = header.map(&mm, file, elf::Role::Interpreter, 0)?;
                (loaded.entry, loaded.bias)
            }
        };
        let brk_gap = (entropy(24) & 0x1fff).wrapping_mul(PAGE_SIZE as u64);
        let brk = main.end.saturating_add(brk_gap);
        mm.set_layout(|l| {
            (l.start_code, l.end_code) = main.code;
            (l.start_data, l.end_data) = main.data;
            (l.start_brk, l.brk) = (brk, brk);
        });
        let vdso = vdso::map(&mm)?;
        let program = stack::Contents {
            argv: &self.argv,
            envp,
            filename: &self.filename,
            ids,
            phdr: main.phdr,
            phnum: header.count(),
            entry: main.entry,
            base,
            vdso,
        };
        let sp = program.build(&mm, bases.stack_top, header.stack_is_executable(), limits.stack)?;
        let regs = Registers {
            rip: entry,
            rsp: sp,
            orig_rax: u64::MAX,
            // IF; bit 1 is always set.
            eflags: 0x202,
            ..Registers::default()
        };
        Ok(Program { mm, regs })
    }
}

#[cfg(test)]
mod tests;
