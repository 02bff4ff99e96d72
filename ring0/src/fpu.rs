//! Vector and floating-point state of application threads.
//!
//! xmm0-15 and MXCSR are saved and loaded by the trampoline at every entry and exit, straight into their
//! places in the thread's XSAVE image. The rest (x87, upper halves, AVX-512) stays in the registers while
//! the kernel runs, because its code does not touch them, and is saved when another thread takes the CPU.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;

use crate::boot;
use crate::features::Features;
use crate::percpu::this_cpu;

/// Place of xmm0 in an XSAVE image (SDM volume 1, 13.4.1).
pub(crate) const XMM_OFFSET: usize = 160;
/// Place of MXCSR.
pub(crate) const MXCSR_OFFSET: usize = 24;
const MXCSR_MASK_OFFSET: usize = 28;
/// Place of the header: XSTATE_BV, XCOMP_BV, reserved.
const HEADER: usize = 512;
const HEADER_END: usize = 576;
/// State component of xmm0-15.
const SSE: u64 = 2;
const INITIAL_FCW: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// One thread's image, in the standard format.
pub struct State {
    image: Box<[Line]>,
    /// The CPU whose registers it was last loaded into.
    cpu: Option<u32>,
}

/// The image is not one that `XRSTOR` would take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadImage;

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// What a new program finds.
    pub fn new() -> State {
        let size = boot::choice().xsave_size.max(HEADER_END);
        let mut state =
            State { image: vec![Line([0; 64]); size.div_ceil(64)].into_boxed_slice(), cpu: None };
        state.reset();
        state
    }

    /// Its address, which the trampoline and the XSAVE family use, and its name in `fpu_owner`.
    pub(crate) fn address(&self) -> u64 {
        self.image.as_ptr() as u64
    }

    /// Makes it what a new program finds.
    pub fn reset(&mut self) {
        self.forget_registers();
        let bytes = self.bytes_mut();
        bytes.fill(0);
        bytes[0..2].copy_from_slice(&INITIAL_FCW.to_le_bytes());
        bytes[MXCSR_OFFSET..MXCSR_OFFSET + 4].copy_from_slice(&INITIAL_MXCSR.to_le_bytes());
        bytes[MXCSR_MASK_OFFSET..MXCSR_MASK_OFFSET + 4]
            .copy_from_slice(&boot::mxcsr_mask().to_le_bytes());
        bytes[HEADER..HEADER + 8].copy_from_slice(&SSE.to_le_bytes());
    }

    /// The standard-format image.
    pub fn read(&mut self, out: &mut Vec<u8>) {
        self.save();
        out.clear();
        let size = boot::choice().xsave_size.max(HEADER_END);
        out.extend_from_slice(&self.bytes_mut()[..size]);
        if boot::choice().xcr0 == 0 {
            // FXSAVE knows no header: x87 and SSE are always there.
            out[HEADER..HEADER + 8].copy_from_slice(&3u64.to_le_bytes());
        }
    }

    /// Takes an image, checked as `XRSTOR` would.
    pub fn write(&mut self, new: &[u8]) -> Result<(), BadImage> {
        let (header, choice) = (new.get(HEADER..HEADER_END).ok_or(BadImage)?, boot::choice());
        let word = |bytes: &[u8], at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let present = u64::from_le_bytes(header[..8].try_into().map_err(|_| BadImage)?);
        let supported = if choice.xcr0 == 0 { 3 } else { choice.xcr0 };
        let mxcsr = word(new, MXCSR_OFFSET).ok_or(BadImage)?;
        if present & !supported != 0
            || header[8..].iter().any(|&b| b != 0)
            || mxcsr & !boot::mxcsr_mask() != 0
        {
            return Err(BadImage);
        }
        // An image that is shorter than ours is good where it holds all that it says is present.
        let size = choice.xsave_size.max(HEADER_END);
        let needed = if present & !3 == 0 { HEADER_END } else { size };
        if new.len() < needed {
            return Err(BadImage);
        }
        self.reset();
        let bytes = self.bytes_mut();
        let len = new.len().min(size);
        if present & 1 != 0 {
            bytes[..MXCSR_OFFSET].copy_from_slice(&new[..MXCSR_OFFSET]);
            bytes[32..XMM_OFFSET].copy_from_slice(&new[32..XMM_OFFSET]);
        }
        if present & SSE != 0 {
            bytes[XMM_OFFSET..416].copy_from_slice(&new[XMM_OFFSET..416]);
        }
        bytes[MXCSR_OFFSET..MXCSR_OFFSET + 4].copy_from_slice(&mxcsr.to_le_bytes());
        bytes[HEADER_END..len].copy_from_slice(&new[HEADER_END..len]);
        bytes[HEADER..HEADER + 8].copy_from_slice(&(present | SSE).to_le_bytes());
        Ok(())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: lines are 64 plain bytes each, contiguous, and borrowed with `self`.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.image.as_mut_ptr().cast::<u8>(),
                self.image.len() * 64,
            )
        }
    }

    #[inline]
    fn in_registers(&self) -> bool {
        let cpu = this_cpu();
        cpu.fpu_owner.get() == self.address() as usize && self.cpu == Some(cpu.number)
    }

    fn forget_registers(&mut self) {
        self.cpu = None;
    }

    /// Puts what of it is in this CPU's registers into the image, where it stays in the registers too.
    pub(crate) fn save(&mut self) {
        if !self.in_registers() {
            return;
        }
        let choice = boot::choice();
        let area = self.image.as_mut_ptr();
        // SAFETY: the area is aligned and as large as XCR0 needs. SSE is left out, and so xmm0-15, which the
        // trampoline put there, stay; MXCSR, which goes with AVX too, is put back.
        unsafe {
            let mxcsr_at = area.cast::<u8>().add(MXCSR_OFFSET).cast::<u32>();
            let mxcsr = mxcsr_at.read();
            if choice.features.contains(Features::XSAVE) {
                let mask = choice.xcr0 & !SSE;
                let (lo, hi) = (mask as u32, (mask >> 32) as u32);
                if choice.features.contains(Features::XSAVEOPT) {
                    asm!("xsaveopt64 [{}]", in(reg) area, in("eax") lo, in("edx") hi, options(nostack));
                } else {
                    asm!("xsave64 [{}]", in(reg) area, in("eax") lo, in("edx") hi, options(nostack));
                }
                mxcsr_at.write(mxcsr);
            } else {
                let mut whole = [Line([0; 64]); 8];
                asm!("fxsave64 [{}]", in(reg) whole.as_mut_ptr(), options(nostack));
                let (from, to) = (whole.as_ptr().cast::<u8>(), area.cast::<u8>());
                to.copy_from_nonoverlapping(from, MXCSR_OFFSET);
                to.add(32).copy_from_nonoverlapping(from.add(32), XMM_OFFSET - 32);
            }
        }
    }

    /// Loads it into this CPU's registers, where it is not there yet; but not xmm0-15.
    #[inline]
    pub(crate) fn load(&mut self) {
        if !self.in_registers() {
            self.load_now();
        }
    }

    #[cold]
    fn load_now(&mut self) {
        let choice = boot::choice();
        let area = self.image.as_ptr();
        // SAFETY: the image is what XSAVE made, or was checked as XRSTOR would check it.
        unsafe {
            if choice.features.contains(Features::XSAVE) {
                let mask = choice.xcr0 & !SSE;
                asm!("xrstor64 [{}]", in(reg) area, in("eax") mask as u32,
                    in("edx") (mask >> 32) as u32, options(nostack));
            } else {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
            }
            // What an earlier thread left there says nothing to this one.
            asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) 0, options(nostack, preserves_flags));
        }
        let cpu = this_cpu();
        cpu.fpu_owner.set(self.address() as usize);
        self.cpu = Some(cpu.number);
    }
}

/// The MXCSR bits that this CPU has (SDM volume 1, 11.6.6).
pub(crate) fn probe_mxcsr_mask() -> u32 {
    let mut area = [Line([0; 64]); 8];
    // SAFETY: FXSAVE needs 512 bytes, aligned to 16.
    unsafe { asm!("fxsave64 [{}]", in(reg) area.as_mut_ptr(), options(nostack)) };
    let at = &area[0].0[MXCSR_MASK_OFFSET..MXCSR_MASK_OFFSET + 4];
    match u32::from_le_bytes([at[0], at[1], at[2], at[3]]) {
        0 => 0xffbf,
        mask => mask,
    }
}
