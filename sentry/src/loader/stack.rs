//! The first stack of a program: strings, argument vectors and the auxiliary vector
//! (System V ABI for AMD64, 3.4.1; getauxval(3)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::Ids;
use crate::errno::Errno;
use crate::mm::{MapRequest, Mm, Place, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot, platform};

const PAGE: u64 = PAGE_SIZE as u64;

/// Longest single argument (MAX_ARG_STRLEN, linux/binfmts.h).
pub const MAX_ARG_STRLEN: usize = 32 * PAGE_SIZE;

/// Bytes mapped for a new stack (stack_expand in fs/exec.c: 128 KiB).
const FIRST_STACK: u64 = 128 << 10;

/// Where the stack and the search for room begin.
pub struct Bases {
    /// End of the stack.
    pub stack_top: u64,
    /// Top of the search for room for mmap.
    pub mmap: u64,
}

impl Bases {
    /// Chooses them as arch/x86/mm/mmap.c does: room for the stack to grow to its limit, between
    /// 128 MiB and five sixths of the address space, and 28 bits of pages of randomness; or none without `chance`.
    pub fn choose(user: Range<u64>, stack_limit: u64, chance: Option<(u64, u64)>) -> Bases {
        /// Bits of pages for the stack (STACK_RND_MASK), and 4 bits of 16 bytes below its top.
        const STACK: u64 = 0x3f_ffff;
        /// Pages below it that nothing is mapped into.
        const GUARD: u64 = 256;
        let (stack, mmap) = chance.unwrap_or_default();
        let stack_top = user.end.saturating_sub((stack & STACK).saturating_mul(PAGE));
        let room = if chance.is_some() { STACK + GUARD } else { GUARD } * PAGE;
        let gap = stack_limit.saturating_add(room).clamp(128 << 20, user.end / 6 * 5);
        let mmap =
            user.end.saturating_sub(gap).saturating_sub((mmap & 0xfff_ffff).saturating_mul(PAGE));
        Bases { stack_top, mmap: mmap & !(PAGE - 1) }
    }
}

/// What goes on the stack.
pub struct Contents<'a> {
    pub argv: &'a [Vec<u8>],
    pub envp: &'a [Vec<u8>],
    pub filename: &'a [u8],
    pub ids: Ids,
    pub phdr: u64,
    pub phnum: u64,
    pub entry: u64,
    pub base: u64,
    pub vdso: u64,
}

/// Auxiliary vector tags (linux/auxvec.h, asm/auxvec.h).
mod at {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const RSEQ_FEATURE_SIZE: u64 = 27;
    pub const RSEQ_ALIGN: u64 = 28;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// The smallest signal stack for a frame with this much vector state (get_sigframe_size in
/// arch/x86/kernel/signal.c): the frame without it, its alignment, and the state.
fn min_signal_stack() -> u64 {
    // CPUID leaf 0xd gives the size of the enabled XSAVE state in ebx; 512 and 64 where there is none.
    let [_, size, ..] = platform().cpuid(0xd, 0);
    u64::from(size.max(576)) + 1024 + 64 + 128
}

impl Contents<'_> {
    /// Maps a stack that ends at `top` and fills it; the stack pointer.
    pub fn build(
        &self,
        mm: &Arc<Mm>,
        top: u64,
        executable: bool,
        limit: u64,
    ) -> Result<u64, Errno> {
        let strings = self.string_bytes()?;
        // A quarter of the limit, at least 128 KiB, at most 6 MiB (fs/exec.c, bprm_stack_limits).
        let vectors = (self.argv.len() + self.envp.len()) as u64 * 8;
        let room = (limit / 4).clamp(128 << 10, 6 << 20);
        if strings.saturating_add(vectors) > room {
            return Err(Errno::E2BIG);
        }
        let size = (strings + vectors + 4096).next_multiple_of(PAGE) + FIRST_STACK;
        let mut prot = Prot::READ | Prot::WRITE;
        prot.set(Prot::EXEC, executable);
        mm.mmap(MapRequest {
            place: Place::Fixed(top - size),
            len: size,
            prot,
            flags: VmaFlags::GROWS_DOWN | VmaFlags::STACK,
            file: None,
            populate: false,
        })?;

        // From the top down: a null word, the file name, environment, arguments.
        let mut image = Vec::new();
        let start = top - 8 - strings;
        let mut at = start;
        let mut pointers = Vec::new();
        for s in self.argv.iter().chain(self.envp) {
            pointers.push(at);
            push_string(&mut image, &mut at, s);
        }
        let execfn = at;
        push_string(&mut image, &mut at, self.filename);
        image.extend([0; 8]);
        mm.copy_out(start, &image)?;
        let (argv, envp) = pointers.split_at(self.argv.len().min(pointers.len()));

        let mut random = [0; 16];
        platform().random(&mut random);
        let name = b"x86_64\0";
        let platform_at = (start - name.len() as u64) & !15;
        mm.copy_out(platform_at, name)?;
        let random_at = platform_at - 16;
        mm.copy_out(random_at, &random)?;

        let [_, _, _, hwcap] = platform().cpuid(1, 0);
        let ids = self.ids;
        let mut auxv = alloc::vec![
            (at::HWCAP, hwcap.into()),
            (at::PAGESZ, PAGE),
            (at::CLKTCK, 100),
            (at::PHDR, self.phdr),
            (at::PHENT, 56),
            (at::PHNUM, self.phnum),
            (at::BASE, self.base),
            (at::FLAGS, 0),
            (at::ENTRY, self.entry),
            (at::UID, ids.uid.into()),
            (at::EUID, ids.euid.into()),
            (at::GID, ids.gid.into()),
            (at::EGID, ids.egid.into()),
            (at::SECURE, ids.secure.into()),
            (at::RANDOM, random_at),
            (at::HWCAP2, 0),
            (at::EXECFN, execfn),
            (at::PLATFORM, platform_at),
            (at::MINSIGSTKSZ, min_signal_stack()),
        ];
        let rseq = platform().restart_area_size();
        if rseq != 0 {
            // The alignment is a power of two that holds the fields.
            let align = rseq.next_power_of_two();
            auxv.extend([(at::RSEQ_FEATURE_SIZE, rseq.into()), (at::RSEQ_ALIGN, align.into())]);
        }
        if self.vdso != 0 {
            auxv.insert(0, (at::SYSINFO_EHDR, self.vdso));
        }
        auxv.push((at::NULL, 0));
        let auxv: Vec<u8> =
            auxv.into_iter().flat_map(|(k, v)| [k, v]).flat_map(u64::to_le_bytes).collect();

        let mut words: Vec<u8> = Vec::new();
        words.extend((argv.len() as u64).to_le_bytes());
        for list in [argv, envp] {
            words.extend(list.iter().copied().chain([0]).flat_map(u64::to_le_bytes));
        }
        words.extend(&auxv);
        let sp = (random_at - words.len() as u64) & !15;
        mm.copy_out(sp, &words)?;

        let env_start = envp.first().copied().unwrap_or(execfn);
        mm.set_layout(|l| {
            l.start_stack = sp;
            (l.arg_start, l.arg_end) = (start, env_start);
            (l.env_start, l.env_end) = (env_start, execfn);
            l.vdso = self.vdso;
        });
        mm.set_auxv(auxv);
        Ok(sp)
    }

    fn string_bytes(&self) -> Result<u64, Errno> {
        let mut sum: u64 = 0;
        for s in self.argv.iter().chain(self.envp).map(Vec::as_slice).chain([self.filename]) {
            if s.len() >= MAX_ARG_STRLEN {
                return Err(Errno::E2BIG);
            }
            sum = sum.saturating_add(s.len() as u64 + 1);
        }
        Ok(sum)
    }
}

fn push_string(image: &mut Vec<u8>, at: &mut u64, s: &[u8]) {
    image.extend(s);
    image.push(0);
    *at += s.len() as u64 + 1;
}
