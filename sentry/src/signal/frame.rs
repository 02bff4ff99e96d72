//! Signal frames: what a handler finds on its stack, and the way back from it.
//!
//! The layout is Linux's `struct rt_sigframe` of x86-64 (arch/x86/include/asm/sigframe.h,
//! uapi/asm/sigcontext.h, ucontext.h), above it the vector state as an XSAVE image with the software
//! bytes that tell a program how long it is. A program may edit all of it before it returns, so what
//! comes back is checked as anything else from an application.

use alloc::vec::Vec;

use super::{SIGINFO_SIZE, SigAction, SigInfo, SigSet, deliver, sa};
use crate::errno::Errno;
use crate::platform::Registers;
use crate::task::Current;

/// Below the stack pointer of x86-64 code that may be in use (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;
/// Bytes of the x87 and SSE part of an XSAVE image, and of its header (SDM volume 1, 13.4).
const FXSAVE: usize = 512;
const XSAVE_MIN: usize = FXSAVE + 64;
/// Where `struct _fpx_sw_bytes` lies in the image.
const SW_BYTES: usize = 464;
/// Marks of an extended frame.
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// uc_flags.
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// Offsets in the frame: pretcode, then the ucontext, then the siginfo.
const UCONTEXT: usize = 8;
const UC_STACK: usize = UCONTEXT + 16;
const MCONTEXT: usize = UCONTEXT + 40;
const FPSTATE: usize = MCONTEXT + 184;
const UC_SIGMASK: usize = MCONTEXT + 256;
const SIGINFO: usize = UC_SIGMASK + 8;
/// Bytes of the frame.
pub const FRAME: usize = SIGINFO + SIGINFO_SIZE;
/// MINSIGSTKSZ less what Linux checks sigaltstack(2) against.
pub const MINSIGSTKSZ: u64 = 2048;
/// The largest XSAVE image that an application can hand in.
const MAX_IMAGE: u32 = 16384;

/// User code and data selectors, as Linux shows them.
const USER_CS: u16 = 0x33;
const USER_DS: u16 = 0x2b;

/// Flags that a handler starts without: direction, resume, trap.
const DF: u64 = 1 << 10;
const RF: u64 = 1 << 16;
const TF: u64 = 1 << 8;
/// Flags that sigreturn takes from the frame (FIX_EFLAGS).
const RETURNED_FLAGS: u64 =
    1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | TF | DF | 1 << 11 | RF | 1 << 18;

/// sigaltstack(2) flags.
pub const SS_ONSTACK: u32 = 1;
/// No alternate stack.
pub const SS_DISABLE: u32 = 2;
/// The stack is forgotten while a handler runs on it.
pub const SS_AUTODISARM: u32 = 1 << 31;

/// The alternate stack (sigaltstack(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AltStack {
    /// ss_sp.
    pub base: u64,
    /// ss_flags as they were set.
    pub flags: u32,
    /// ss_size.
    pub size: u64,
}

impl AltStack {
    /// Whether `sp` is on it.
    pub fn holds(&self, sp: u64) -> bool {
        // With SS_AUTODISARM the kernel cannot know, and says no.
        self.flags & SS_AUTODISARM == 0 && self.spans(sp)
    }

    fn spans(&self, sp: u64) -> bool {
        sp > self.base && sp.wrapping_sub(self.base) <= self.size
    }

    /// As `stack_t`, with the flags as seen from `sp`.
    pub fn to_bytes(&self, sp: u64) -> [u8; 24] {
        let state = if self.size == 0 {
            SS_DISABLE
        } else if self.holds(sp) {
            SS_ONSTACK
        } else {
            0
        };
        let mut out = Out::default();
        out.u64(self.base);
        out.u64(u64::from(state | self.flags & SS_AUTODISARM));
        out.u64(self.size);
        let mut bytes = [0; 24];
        for (to, from) in bytes.iter_mut().zip(out.0) {
            *to = from;
        }
        bytes
    }

    /// Sets it from a `stack_t`, as sigaltstack(2) does.
    pub fn set(&mut self, bytes: &[u8; 24], sp: u64) -> Result<(), Errno> {
        let base = word(bytes, 0);
        let flags = word(bytes, 8) as u32;
        let size = word(bytes, 16);
        if self.holds(sp) {
            return Err(Errno::EPERM);
        }
        // What changes nothing is not looked at.
        if (base, size) == (self.base, self.size) && flags == self.flags {
            return Ok(());
        }
        match flags & !SS_AUTODISARM {
            SS_DISABLE => *self = AltStack { base: 0, flags, size: 0 },
            0 | SS_ONSTACK if size < MINSIGSTKSZ => return Err(Errno::ENOMEM),
            0 | SS_ONSTACK => *self = AltStack { base, flags, size },
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// Little-endian bytes, as they are put together.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(from) = at.checked_add(8).and_then(|end| bytes.get(at..end)) {
        word.copy_from_slice(from);
    }
    u64::from_le_bytes(word)
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(from) = at.checked_add(4).and_then(|end| bytes.get(at..end)) {
        word.copy_from_slice(from);
    }
    u32::from_le_bytes(word)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        to.copy_from_slice(value);
    }
}

/// Builds the frame of a handler and points the registers at it. `mask` is what the handler's return
/// restores. `EFAULT` where the stack cannot hold it; then nothing has changed.
pub fn push(
    cx: &mut Current,
    info: &SigInfo,
    action: &SigAction,
    mask: SigSet,
) -> Result<(), Errno> {
    if action.flags & sa::SA_RESTORER == 0 {
        // The kernel of x86-64 has no code to return to.
        return Err(Errno::EFAULT);
    }
    let mut image = core::mem::take(&mut cx.xstate_buffer);
    cx.user.xstate(&mut image);
    let result = push_with(cx, info, action, mask, &mut image);
    cx.xstate_buffer = image;
    let frame = result?;

    if cx.altstack.flags & SS_AUTODISARM != 0 && action.flags & sa::SA_ONSTACK != 0 {
        cx.altstack = AltStack::default();
    }
    let regs = &mut cx.regs;
    regs.rdi = u64::from(info.signal.number());
    regs.rsi = frame.wrapping_add(SIGINFO as u64);
    regs.rdx = frame.wrapping_add(UCONTEXT as u64);
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = frame;
    regs.eflags &= !(DF | RF | TF);
    regs.orig_rax = u64::MAX;
    cx.user.reset_xstate();
    Ok(())
}

fn push_with(
    cx: &Current,
    info: &SigInfo,
    action: &SigAction,
    mask: SigSet,
    image: &mut Vec<u8>,
) -> Result<u64, Errno> {
    let regs = &cx.regs;
    let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
    let alt = &cx.altstack;
    let mut entering = false;
    if action.flags & sa::SA_ONSTACK != 0 && alt.size != 0 && !alt.holds(regs.rsp) {
        sp = alt.base.wrapping_add(alt.size);
        entering = true;
    }
    let on_alt = entering || alt.holds(regs.rsp);

    let mut fpstate = 0;
    if image.len() >= XSAVE_MIN {
        let size = image.len() as u32;
        let features = word(image, FXSAVE) | 3;
        put(image, FXSAVE, &features.to_le_bytes());
        put(image, SW_BYTES, &FP_XSTATE_MAGIC1.to_le_bytes());
        put(image, SW_BYTES + 4, &size.wrapping_add(4).to_le_bytes());
        put(image, SW_BYTES + 8, &cx.xfeatures().to_le_bytes());
        put(image, SW_BYTES + 16, &size.to_le_bytes());
        put(image, SW_BYTES + 20, &[0; 28]);
        image.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
        sp = sp.wrapping_sub(image.len() as u64) & !63;
        fpstate = sp;
    }
    let frame = (sp.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
    // An overflow of the alternate stack is found here, before anything below it is overwritten.
    if on_alt && !(frame > alt.base && frame.wrapping_sub(alt.base) <= alt.size) {
        return Err(Errno::EFAULT);
    }

    let mut out = Out(Vec::with_capacity(FRAME));
    out.u64(action.restorer);
    out.u64(UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
    out.u64(0); // uc_link
    out.0.extend_from_slice(&alt.to_bytes(regs.rsp));
    for value in [
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        regs.rax,
        regs.rcx,
        regs.rsp,
        regs.rip,
        regs.eflags,
    ] {
        out.u64(value);
    }
    for selector in [USER_CS, 0, 0, USER_DS] {
        out.u16(selector);
    }
    out.u64(cx.trap.error);
    out.u64(cx.trap.number);
    out.u64(mask.0); // oldmask
    out.u64(cx.trap.cr2);
    out.u64(fpstate);
    out.0.resize(UC_SIGMASK, 0);
    out.u64(mask.0);
    if action.flags & sa::SA_SIGINFO != 0 {
        out.0.extend_from_slice(&info.to_bytes());
    }
    if fpstate != 0 {
        cx.mm.copy_out(fpstate, image)?;
    }
    cx.mm.copy_out(frame, &out.0)?;
    Ok(frame)
}

/// rt_sigreturn(2): takes the frame at the stack pointer back. Where it is bad the task gets SIGSEGV.
pub fn pop(cx: &mut Current) {
    if restore(cx).is_err() {
        deliver::bad_frame(cx);
    }
}

fn restore(cx: &mut Current) -> Result<(), Errno> {
    // The handler's return has taken pretcode off the stack.
    let frame = cx.regs.rsp.wrapping_sub(8);
    let mut bytes = [0; SIGINFO];
    cx.mm.copy_in(frame, &mut bytes)?;
    cx.set_blocked(SigSet(word(&bytes, UC_SIGMASK)));

    let at = |n: usize| word(&bytes, MCONTEXT + 8 * n);
    let fpstate = word(&bytes, FPSTATE);
    let old = cx.regs;
    cx.regs = Registers {
        r8: at(0),
        r9: at(1),
        r10: at(2),
        r11: at(3),
        r12: at(4),
        r13: at(5),
        r14: at(6),
        r15: at(7),
        rdi: at(8),
        rsi: at(9),
        rbp: at(10),
        rbx: at(11),
        rdx: at(12),
        rax: at(13),
        rcx: at(14),
        rsp: at(15),
        rip: at(16),
        eflags: old.eflags & !RETURNED_FLAGS | at(17) & RETURNED_FLAGS,
        // No call is under way that could be restarted.
        orig_rax: u64::MAX,
        ..old
    };
    restore_xstate(cx, fpstate)?;
    let mut stack = [0; 24];
    stack.copy_from_slice(bytes.get(UC_STACK..UC_STACK + 24).unwrap_or(&[0; 24]));
    // Linux ignores what is wrong with the stack here, too.
    let _ignored = cx.altstack.set(&stack, cx.regs.rsp);
    Ok(())
}

fn restore_xstate(cx: &mut Current, fpstate: u64) -> Result<(), Errno> {
    if fpstate == 0 {
        cx.user.reset_xstate();
        return Ok(());
    }
    let mut image = core::mem::take(&mut cx.xstate_buffer);
    let result = read_image(cx, fpstate, &mut image).and_then(|()| cx.user.set_xstate(&image));
    cx.xstate_buffer = image;
    result
}

/// Reads the vector state: the whole image where its marks are right, else its x87 and SSE part.
fn read_image(cx: &Current, fpstate: u64, image: &mut Vec<u8>) -> Result<(), Errno> {
    image.clear();
    image.resize(XSAVE_MIN, 0);
    cx.mm.copy_in(fpstate, image.get_mut(..FXSAVE).unwrap_or(&mut []))?;
    let size = word32(image, SW_BYTES + 16);
    let extended = word32(image, SW_BYTES + 4);
    let features = word(image, SW_BYTES + 8);
    let marked = word32(image, SW_BYTES) == FP_XSTATE_MAGIC1
        && (XSAVE_MIN as u32..=MAX_IMAGE).contains(&size)
        && size <= extended;
    let magic2 = fpstate.wrapping_add(u64::from(size));
    if marked && cx.mm.copy_in_u32(magic2).is_ok_and(|m| m == FP_XSTATE_MAGIC2) {
        image.resize(size as usize, 0);
        cx.mm.copy_in(fpstate, image)?;
        // Features that the frame does not claim to hold start anew.
        let bits = word(image, FXSAVE) & features & cx.xfeatures();
        put(image, FXSAVE, &bits.to_le_bytes());
        // The rest of the header must be zero for a standard image.
        put(image, FXSAVE + 8, &[0; 56]);
    } else {
        put(image, FXSAVE, &3u64.to_le_bytes());
    }
    // The software bytes are no part of what the CPU loads.
    put(image, SW_BYTES, &[0; 48]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_linux_size() {
        // sizeof(struct rt_sigframe) on x86-64.
        assert_eq!(FRAME, 440);
        assert_eq!(SIGINFO, 312);
    }

    #[test]
    fn an_alternate_stack_in_use_cannot_be_changed() {
        let mut alt = AltStack::default();
        let mut raw = [0; 24];
        put(&mut raw, 0, &0x1000u64.to_le_bytes());
        put(&mut raw, 16, &0x2000u64.to_le_bytes());
        alt.set(&raw, 0x9000).unwrap();
        assert_eq!(alt.set(&raw, 0x2000), Err(Errno::EPERM));
        assert_eq!(word(&alt.to_bytes(0x2000), 8), 1);
        assert_eq!(word(&alt.to_bytes(0x9000), 8), 0);
        put(&mut raw, 16, &100u64.to_le_bytes());
        assert_eq!(alt.set(&raw, 0x9000), Err(Errno::ENOMEM));
        put(&mut raw, 8, &7u64.to_le_bytes());
        assert_eq!(alt.set(&raw, 0x9000), Err(Errno::EINVAL));
    }
}
