//! Descriptor tables for attacks that fault on purpose: every exception goes on behind the instruction that made it, every
//! interrupt is forgotten.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// How long the instructions are that fault, bytes.
static LENGTH: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
hostile_skip_code:
    add rsp, 8
hostile_skip:
    push rax
    mov rax, [rip + {length}]
    add [rsp + 8], rax
    pop rax
    iretq
hostile_forget:
    iretq
    "#,
    length = sym LENGTH,
);

unsafe extern "C" {
    fn hostile_skip_code();
    fn hostile_skip();
    fn hostile_forget();
}

/// Exceptions that push an error code (AMD APM volume 2, 8.2).
const WITH_CODE: [usize; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Skips instructions of this length that fault from now on.
pub fn skip(length: u64) {
    static GDT: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];
    LENGTH.store(length, Ordering::Relaxed);
    // SAFETY: one CPU calls this, and the tables stay for ever.
    unsafe {
        let gates = &raw mut IDT;
        for (vector, gate) in (*gates).iter_mut().enumerate() {
            let handler = match vector {
                32.. => hostile_forget as *const () as u64,
                _ if WITH_CODE.contains(&vector) => hostile_skip_code as *const () as u64,
                _ => hostile_skip as *const () as u64,
            };
            // Present, a 64-bit interrupt gate, selector 8.
            let low = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
            *gate = [low, handler >> 32];
        }
        let gdt = Pointer { limit: 23, base: (&raw const GDT) as u64 };
        let idt = Pointer { limit: 4095, base: (&raw const IDT) as u64 };
        asm!("lgdt [{}]", "lidt [{}]", in(reg) &raw const gdt, in(reg) &raw const idt, options(nostack));
    }
}
