//! Words that may vanish: an atomic operation on a page whose file was cut short raises SIGBUS, and
//! becomes `None` here.
//!
//! All accesses are in one function of a few instructions, and the handler recognizes it by its
//! address. Any other SIGBUS goes to whoever handled it before.

use std::io;
use std::ptr;
use std::sync::OnceLock;

use sentry::platform::AtomicOp;

// rdi: the word; esi: 0 to load, else compare with edx and store ecx.
// Result in rax: the word before; in the high half, 1 where the page is not there.
core::arch::global_asm!(
    r#"
    .pushsection .text.ringwall_word, "ax", @progbits
    .p2align 4
    .global ringwall_word, ringwall_word_end, ringwall_word_gone
ringwall_word:
    mov eax, edx
    test esi, esi
    jz 2f
    lock cmpxchg [rdi], ecx
    mov eax, eax
    ret
2:  mov eax, [rdi]
    ret
ringwall_word_end:
ringwall_word_gone:
    mov eax, 1
    shl rax, 32
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn ringwall_word(word: *mut u32, store: u32, old: u32, new: u32) -> u64;
    safe static ringwall_word_end: u8;
    safe static ringwall_word_gone: u8;
}

/// An atomic operation; the word before it, or `None` where its page cannot be had.
///
/// # Safety
/// `word` is aligned and in a shared mapping that is writable unless `op` is a load; [`install`] has
/// been called, or the page is certain to be there.
pub(crate) unsafe fn atomic(word: *mut u32, op: AtomicOp) -> Option<u32> {
    let gone = |result: u64| (result >> 32 == 0).then_some(result as u32);
    // SAFETY: the caller's promise.
    let mut old = gone(unsafe { ringwall_word(word, 0, 0, 0) })?;
    if op == AtomicOp::Load {
        return Some(old);
    }
    loop {
        let new = op.apply(old);
        // SAFETY: the caller's promise.
        let found = gone(unsafe { ringwall_word(word, 1, old, new) })?;
        if found == old {
            return Some(old);
        }
        old = found;
    }
}

static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once.
pub(crate) fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: all zeros is a sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid; reading the old one changes nothing.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let _first_wins = BEFORE.set(before);
    // SAFETY: the handler only makes async-signal-safe calls.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_bus_error(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let start = ringwall_word as *const () as usize as i64;
    let end = ptr::addr_of!(ringwall_word_end).addr() as i64;
    if (start..end).contains(rip) {
        *rip = ptr::addr_of!(ringwall_word_gone).addr() as i64;
        return;
    }
    let Some(before) = BEFORE.get() else {
        return;
    };
    if before.sa_flags & libc::SA_SIGINFO != 0 && before.sa_sigaction > libc::SIG_IGN {
        // SAFETY: it was installed as a handler of this type.
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(before.sa_sigaction) };
        return handler(signal, info, ptr::from_mut(context).cast());
    }
    // Put it back, and the access raises it again.
    // SAFETY: sigaction is async-signal-safe, and the argument came from it.
    unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn a_word_can_be_worked_on_and_may_vanish() {
        install().unwrap();
        let file = sys::memfd(c"test", 8192).unwrap();
        let base = sys::map_shared(file.as_fd(), 8192).unwrap();
        let word = base.cast::<u32>();
        // SAFETY: an aligned word in a shared, writable mapping; the handler is there.
        unsafe {
            assert_eq!(atomic(word, AtomicOp::Add(5)), Some(0));
            assert_eq!(atomic(word, AtomicOp::CompareExchange(5, 9)), Some(5));
            assert_eq!(atomic(word, AtomicOp::CompareExchange(5, 1)), Some(9));
            assert_eq!(atomic(word, AtomicOp::Swap(u32::MAX)), Some(9));
            assert_eq!(atomic(word, AtomicOp::Load), Some(u32::MAX));
            libc::ftruncate(file.as_raw_fd(), 4096);
            let gone = base.add(4096).cast::<u32>();
            assert_eq!(atomic(gone, AtomicOp::Load), None);
            assert_eq!(atomic(gone, AtomicOp::Or(1)), None);
            libc::munmap(base.cast(), 8192);
        }
    }
}
