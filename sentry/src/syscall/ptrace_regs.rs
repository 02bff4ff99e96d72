//! Registers of a stopped task in the layouts of ptrace(2): `struct user` (sys/user.h), and the sets of
//! core dumps (linux/elf.h).

use alloc::vec::Vec;

use super::word;
use crate::errno::Errno;
use crate::platform::{Registers, platform};
use crate::task::trace::Stopped;

/// Bytes of `struct user_regs_struct`.
pub const GENERAL: usize = 27 * 8;
/// Bytes of `struct user_fpregs_struct`, which is FXSAVE's image.
pub const FLOAT: usize = 512;
/// Bytes of the kernel's `struct user` (asm/user_64.h), which has two fields more than the C library's.
const USER: u64 = 928;
/// Where its debug registers are: 0 to 7.
const DEBUG: u64 = 848;
/// Flags that a debugger can set (FLAG_MASK of arch/x86/kernel/ptrace.c).
const FLAGS: u64 = 0x0005_4dd5;
/// Places in `struct user_regs_struct`.
const CS: usize = 17;
const EFLAGS: usize = 18;
const SS: usize = 20;
const FS_BASE: usize = 21;
const GS_BASE: usize = 22;
const DS: usize = 23;
/// The XSAVE header behind the legacy part: which components there are, and what else must be zero.
const HEADER: usize = 512;
const HEADER_END: usize = 576;
/// MXCSR, and the bits of it that exist.
const MXCSR: usize = 24;
const MXCSR_MASK: u32 = 0xffff;
/// Bytes of FXSAVE's image that are for software; the first word of them says which components exist.
const SOFTWARE: usize = 464;

fn words(r: &Registers) -> [u64; 27] {
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx,
        r.rsi, r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds,
        r.es, r.fs, r.gs,
    ]
}

/// Puts one word where a debugger wants it. `EIO` for what cannot be (putreg() of Linux).
fn put(r: &mut Registers, n: usize, value: u64) -> Result<(), Errno> {
    let end = platform().user_range().end;
    let slot = match n {
        CS | SS => {
            // Selectors are the platform's own; a null one or one of the kernel's is an error.
            return if value & 3 == 3 { Ok(()) } else { Err(Errno::EIO) };
        }
        n if n >= DS => {
            return if value == 0 || value & 3 == 3 { Ok(()) } else { Err(Errno::EIO) };
        }
        EFLAGS => {
            r.eflags = r.eflags & !FLAGS | value & FLAGS;
            return Ok(());
        }
        FS_BASE | GS_BASE if value >= end => return Err(Errno::EIO),
        0 => &mut r.r15,
        1 => &mut r.r14,
        2 => &mut r.r13,
        3 => &mut r.r12,
        4 => &mut r.rbp,
        5 => &mut r.rbx,
        6 => &mut r.r11,
        7 => &mut r.r10,
        8 => &mut r.r9,
        9 => &mut r.r8,
        10 => &mut r.rax,
        11 => &mut r.rcx,
        12 => &mut r.rdx,
        13 => &mut r.rsi,
        14 => &mut r.rdi,
        15 => &mut r.orig_rax,
        16 => &mut r.rip,
        19 => &mut r.rsp,
        FS_BASE => &mut r.fs_base,
        GS_BASE => &mut r.gs_base,
        _ => return Err(Errno::EIO),
    };
    *slot = value;
    Ok(())
}

/// PTRACE_PEEKUSER.
pub fn peek_user(stopped: &Stopped, addr: u64) -> Result<u64, Errno> {
    if !addr.is_multiple_of(8) || addr >= USER {
        return Err(Errno::EIO);
    }
    if let Some(n) = debug_register(addr) {
        return Ok(stopped.debug.get(n));
    }
    let n = usize::try_from(addr / 8).unwrap_or(usize::MAX);
    Ok(words(&stopped.regs).get(n).copied().unwrap_or(0))
}

/// Which debug register is at a place of `struct user`.
fn debug_register(addr: u64) -> Option<u64> {
    addr.checked_sub(DEBUG).map(|at| at / 8).filter(|n| *n < 8)
}

/// PTRACE_POKEUSER.
pub fn poke_user(stopped: &mut Stopped, addr: u64, value: u64) -> Result<(), Errno> {
    if !addr.is_multiple_of(8) || addr >= USER {
        return Err(Errno::EIO);
    }
    if let Some(n) = debug_register(addr) {
        return stopped.debug.set(n, value);
    }
    let n = usize::try_from(addr / 8).unwrap_or(usize::MAX);
    if n >= GENERAL / 8 {
        return Err(Errno::EIO);
    }
    put(&mut stopped.regs, n, value)
}

/// PTRACE_GETREGS.
pub fn general(stopped: &Stopped) -> [u8; GENERAL] {
    let mut bytes = [0; GENERAL];
    for (to, from) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words(&stopped.regs)) {
        *to = from.to_le_bytes();
    }
    bytes
}

/// PTRACE_SETREGS. What comes before a bad word is set, as on Linux.
pub fn set_general(stopped: &mut Stopped, bytes: &[u8]) -> Result<(), Errno> {
    for n in 0..bytes.len().min(GENERAL) / 8 {
        put(&mut stopped.regs, n, word(bytes, n))?;
    }
    Ok(())
}

/// PTRACE_GETFPREGS.
pub fn float(stopped: &Stopped) -> [u8; FLOAT] {
    let mut image = [0; FLOAT];
    for (to, from) in image.iter_mut().zip(&stopped.xstate) {
        *to = *from;
    }
    // What is for software is nobody's.
    image.iter_mut().skip(SOFTWARE).for_each(|b| *b = 0);
    image
}

/// PTRACE_SETFPREGS. `EINVAL` where a bit of MXCSR is set that does not exist.
pub fn set_float(stopped: &mut Stopped, image: &[u8]) -> Result<(), Errno> {
    check_mxcsr(image)?;
    for (to, from) in stopped.xstate.iter_mut().zip(image.iter().take(SOFTWARE)) {
        *to = *from;
    }
    // Both parts of the image are there now.
    if let Some(first) = stopped.xstate.get_mut(HEADER) {
        *first |= 3;
    }
    stopped.xstate_changed = true;
    Ok(())
}

fn check_mxcsr(image: &[u8]) -> Result<(), Errno> {
    let mxcsr = (word(image, MXCSR / 8)) as u32;
    if mxcsr & !MXCSR_MASK == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A set of registers of PTRACE_GETREGSET and PTRACE_SETREGSET.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Set {
    /// NT_PRSTATUS.
    General,
    /// NT_PRFPREG.
    Float,
    /// NT_X86_XSTATE.
    Xstate,
}

impl Set {
    /// By its number in linux/elf.h.
    pub fn new(kind: u32) -> Option<Set> {
        match kind {
            1 => Some(Set::General),
            2 => Some(Set::Float),
            0x202 => Some(Set::Xstate),
            _ => None,
        }
    }

    /// All of it. `features` are the components that exist, which a debugger looks for in the part of
    /// the image that is for software.
    pub fn get(self, stopped: &Stopped, features: u64) -> Vec<u8> {
        match self {
            Set::General => general(stopped).to_vec(),
            Set::Float => float(stopped).to_vec(),
            Set::Xstate => {
                let mut image = stopped.xstate.clone();
                let software = features.to_le_bytes().into_iter().chain(core::iter::repeat(0));
                for (to, from) in image.iter_mut().take(FLOAT).skip(SOFTWARE).zip(software) {
                    *to = from;
                }
                image
            }
        }
    }

    /// Sets it; `whole` is false where the caller gave less, and the rest is as it was.
    pub fn set(
        self,
        stopped: &mut Stopped,
        bytes: &[u8],
        whole: bool,
        features: u64,
    ) -> Result<(), Errno> {
        match self {
            Set::General => set_general(stopped, bytes),
            Set::Float => set_float(stopped, bytes),
            // Parts of it say nothing.
            Set::Xstate if !whole => Err(Errno::EFAULT),
            Set::Xstate => {
                let header = bytes.get(HEADER..HEADER_END).unwrap_or(&[]);
                let reserved = header.get(8..).is_some_and(|rest| rest.iter().any(|b| *b != 0));
                if word(header, 0) & !features != 0 || reserved {
                    return Err(Errno::EINVAL);
                }
                check_mxcsr(bytes)?;
                for (n, (to, from)) in stopped.xstate.iter_mut().zip(bytes).enumerate() {
                    *to = if (SOFTWARE..FLOAT).contains(&n) { 0 } else { *from };
                }
                stopped.xstate_changed = true;
                Ok(())
            }
        }
    }
}
