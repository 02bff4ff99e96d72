//! Copies to and from user memory of the loaded space, and atomics on it.
//!
//! Each instruction here that may fault is in the fixup table; a fault makes the function return early. The
//! functions know nothing of spaces: [`crate::paging::Tables`] sees to it that the right one is loaded.

use core::arch::global_asm;

use crate::arch;

/// A copy stopped at a page that is not mapped as needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Bytes copied before.
    pub done: usize,
    /// The address.
    pub addr: u64,
}

unsafe extern "sysv64" {
    /// Copies `len` bytes; returns how many are left after a fault.
    fn ring0_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    /// `op` (see [`Word`]) on the word at `addr` with `a` and `b`: the word before in the low half, bit 32 set
    /// after a fault.
    fn ring0_word(addr: *mut u32, a: u32, b: u32, op: u32) -> u64;
}

global_asm!(
    r#"
    .p2align 4
    .globl ring0_copy
ring0_copy:
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    stac
ring0_copy_words:
    rep movsq
    mov ecx, edx
ring0_copy_bytes:
    rep movsb
ring0_copy_fixup:
    clac
    mov rax, rcx
    ret
    // A word may lie across the end of what is mapped: byte by byte from here on, to the one that faults.
ring0_copy_words_fixup:
    lea rcx, [rdx + rcx * 8]
    jmp ring0_copy_bytes

    .p2align 4
    .globl ring0_word
ring0_word:
    stac
    test ecx, ecx
    jnz 2f
ring0_word_load:
    mov eax, [rdi]
    clac
    ret
2:  mov eax, esi
ring0_word_cmpxchg:
    lock cmpxchg [rdi], edx
    clac
    mov eax, eax
    ret
ring0_word_fixup:
    clac
    mov eax, 1
    shl rax, 32
    ret

    .section .rodata
    .p2align 3
    .globl ring0_fixups
ring0_fixups:
    .quad ring0_copy_words, ring0_copy_words_fixup
    .quad ring0_copy_bytes, ring0_copy_fixup
    .quad ring0_word_load, ring0_word_fixup
    .quad ring0_word_cmpxchg, ring0_word_fixup
    .quad 0, 0
    .text
    "#
);

/// The end of what an application can have mapped, and one page more: x86-64's lower half.
pub(crate) const USER_END: u64 = 1 << 47;

/// Whether a range is in the lower half.
fn in_user_half(addr: u64, len: usize) -> bool {
    addr.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Copies in from the loaded space.
///
/// # Safety
/// SMAP is on, and no user page is mapped but with the application's rights.
pub(crate) unsafe fn copy_in(addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
    if !in_user_half(addr, buf.len()) {
        return Err(Fault { done: 0, addr });
    }
    // SAFETY: the source is in the lower half, where a fault is caught; the target is `buf`.
    let left = unsafe { ring0_copy(buf.as_mut_ptr(), addr as *const u8, buf.len()) };
    finish(addr, buf.len(), left)
}

/// Copies out to the loaded space.
///
/// # Safety
/// As for [`copy_in`].
pub(crate) unsafe fn copy_out(addr: u64, data: &[u8]) -> Result<(), Fault> {
    // SAFETY: the caller's promise; the source is `data`.
    unsafe { copy_out_from(addr, data.as_ptr(), data.len()) }
}

/// The same from memory that others may write meanwhile.
///
/// # Safety
/// As for [`copy_in`], and the source can be read.
pub(crate) unsafe fn copy_out_from(addr: u64, from: *const u8, len: usize) -> Result<(), Fault> {
    if !in_user_half(addr, len) {
        return Err(Fault { done: 0, addr });
    }
    // SAFETY: the target is in the lower half, which holds nothing of the kernel's, and a fault is caught.
    let left = unsafe { ring0_copy(addr as *mut u8, from, len) };
    finish(addr, len, left)
}

fn finish(addr: u64, len: usize, left: usize) -> Result<(), Fault> {
    if left == 0 {
        return Ok(());
    }
    let done = len.saturating_sub(left);
    // `rep movsb` stops at the first byte that faults; CR2 is that byte, or in its page.
    let at = addr.wrapping_add(done as u64);
    let cr2 = arch::cr2();
    Err(Fault { done, addr: if cr2 >> 12 == at >> 12 { cr2 } else { at } })
}

/// What [`word`] does.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    Load,
    CompareExchange(u32, u32),
}

/// An atomic operation on an aligned word of the loaded space: the word before, or `None` after a fault.
///
/// # Safety
/// As for [`copy_in`].
pub(crate) unsafe fn word(addr: u64, op: Word) -> Option<u32> {
    if !in_user_half(addr, 4) || addr & 3 != 0 {
        return None;
    }
    let (n, a, b) = match op {
        Word::Load => (0, 0, 0),
        Word::CompareExchange(a, b) => (1, a, b),
    };
    // SAFETY: the word is in the lower half, and a fault is caught.
    let answer = unsafe { ring0_word(addr as *mut u32, a, b, n) };
    (answer >> 32 == 0).then_some(answer as u32)
}
