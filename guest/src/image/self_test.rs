//! The platform's self-test: programs in machine code, run through the sentry's trait, with what they must and
//! must not be able to do. Every line of its log is one finding; the sandbox's status tells the sum.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ring0::features::Features;
use sentry::platform::{
    Access, AddressSpace, AtomicOp, Backing, CopyFault, Exception, Fault, Frame, Level, Mapping,
    Prot, Registers, ThreadId, Trap, UserThread, platform, vector,
};

use crate::{host, memory, platform as machine};

core::arch::global_asm!(
    r#"
    .macro PROGRAM name
    .section .rodata
    .globl self_test_\name
self_test_\name:
    .endm
    .macro END name
    .globl self_test_\name\()_end
self_test_\name\()_end:
    .text
    .endm

    // rbx: how many calls.
    PROGRAM getpid
1:  mov eax, 39
    syscall
    dec rbx
    jnz 1b
    mov eax, 60
    syscall
    END getpid

    // rsi: address to write to; then a call.
    PROGRAM store
    mov dword ptr [rsi], 0x1234
    mov eax, 1
    syscall
    END store

    // rsi: a word that counts up for ever.
    PROGRAM count
1:  inc dword ptr [rsi]
    jmp 1b
    END count

    PROGRAM spin
1:  pause
    jmp 1b
    END spin

    // rsi: a word; waits for it to be edi, makes it edi + 1, rbx times, edi going up by two. Two of these
    // go on only if both run.
    PROGRAM turns
1:  mov eax, edi
    lea edx, [edi + 1]
    lock cmpxchg [rsi], edx
    jz 2f
    pause
    jmp 1b
2:  add edi, 2
    dec rbx
    jnz 1b
    mov eax, 1
    syscall
    END turns

    // rdi: a value in all lanes of ymm0 and ymm15; rbx: rounds of calls, r12: spins between. rax at the end: 7
    // if all stayed whole, else 8.
    PROGRAM avx
    vmovq xmm0, rdi
    vpunpcklqdq xmm0, xmm0, xmm0
    vinsertf128 ymm0, ymm0, xmm0, 1
    vmovaps ymm15, ymm0
1:  mov eax, 39
    syscall
    mov rcx, r12
2:  dec rcx
    jnz 2b
    vxorps ymm2, ymm0, ymm15
    vptest ymm2, ymm2
    jnz 3f
    vextractf128 xmm3, ymm15, 1
    vpextrq rax, xmm3, 1
    cmp rax, rdi
    jne 3f
    dec rbx
    jnz 1b
    mov eax, 7
    syscall
3:  mov eax, 8
    syscall
    END avx

    PROGRAM int80
    mov eax, 20
    int 0x80
    END int80

    PROGRAM trap
    int3
    ud2
    END trap

    // Everything an application can bring along: all exceptions unmasked and rounding up in MXCSR, DF, AC and NT
    // set, and a stack pointer that points nowhere. Calls with it, faults with it, and checks that it has kept it.
    PROGRAM hostile
    mov dword ptr [rsi], 0x4040
    ldmxcsr [rsi]
    mov rsp, rsi
    add rsp, 64
    push 0x44602
    popfq
    mov rsp, 0xdead000000000000
    mov eax, 39
    syscall
    mov rbx, [rdx]
    mov r8, rsp
    mov rsp, rsi
    add rsp, 64
    pushfq
    pop r9
    stmxcsr [rsi + 4]
    mov r10d, [rsi + 4]
    push 2
    popfq
    mov eax, 1
    syscall
    END hostile

    // Loads and reads the bases: r8 and r9 as it finds them, then sets its own where it may.
    PROGRAM bases
    rdfsbase r8
    rdgsbase r9
    mov rax, 0x123450
    wrfsbase rax
    mov rax, 0x543210
    wrgsbase rax
    mov eax, 1
    syscall
    rdfsbase r8
    rdgsbase r9
    mov eax, 1
    syscall
    END bases

    // Touches the kernel.
    PROGRAM peek
    mov rax, [rsi]
    END peek
    "#
);

macro_rules! programs {
    ($($name:ident = $start:ident .. $end:ident;)*) => {
        unsafe extern "C" { $(static $start: u8; static $end: u8;)* }
        $(fn $name() -> &'static [u8] {
            let (start, end) = (&raw const $start, &raw const $end);
            // SAFETY: the assembly above puts the program between the two symbols.
            unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
        })*
    };
}

programs! {
    getpid = self_test_getpid..self_test_getpid_end;
    store = self_test_store..self_test_store_end;
    count = self_test_count..self_test_count_end;
    spin = self_test_spin..self_test_spin_end;
    turns = self_test_turns..self_test_turns_end;
    avx = self_test_avx..self_test_avx_end;
    int80 = self_test_int80..self_test_int80_end;
    trap = self_test_trap..self_test_trap_end;
    hostile = self_test_hostile..self_test_hostile_end;
    bases = self_test_bases..self_test_bases_end;
    peek = self_test_peek..self_test_peek_end;
}

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;
const HOLE: u64 = 0x60_0000;
const PAGE: u64 = 4096;
const RX: Prot = Prot::READ.union(Prot::EXEC);
const RW: Prot = Prot::READ.union(Prot::WRITE);

type Finding = Result<(), Box<dyn fmt::Display>>;

/// A test by its name.
type Test = (&'static str, fn() -> Finding);

macro_rules! check {
    ($ok:expr, $($text:tt)*) => {
        if !$ok {
            return Err(Box::new(alloc::format!($($text)*)));
        }
    };
}

/// Runs it, and ends the sandbox.
pub fn run() {
    machine::install();
    let tests: [Test; 16] = [
        ("memory functions", memory_functions),
        ("calls", calls),
        ("faults", faults),
        ("traps", traps),
        ("hostile state", hostile_state),
        ("registers given by the sentry", given_registers),
        ("bases", base_registers),
        ("copies", copies),
        ("frames", frames),
        ("ring 0's frames", reserved_frames),
        ("two CPUs", two_cpus),
        ("kicks", kicks),
        ("shootdown", shootdown),
        ("vector state", vector_state),
        ("preemption", preemption),
        ("parking", parking),
    ];
    let mut failed = 0;
    for (name, test) in tests {
        match test() {
            Ok(()) => host::log(Level::Info, format_args!("pass: {name}")),
            Err(why) => {
                failed += 1;
                host::log(Level::Error, format_args!("FAIL: {name}: {why}"));
            }
        }
    }
    host::log(Level::Info, format_args!("{} passed, {failed} failed", tests.len() - failed));
    host::exit(u8::from(failed != 0));
}

/// A program in a space of its own, with a page of data.
struct Program {
    space: Arc<dyn AddressSpace>,
    data: Frame,
    regs: Registers,
}

impl Program {
    fn new(code: &[u8]) -> Result<Program, Box<dyn fmt::Display>> {
        let p = platform();
        let space = p.new_space().map_err(boxed)?;
        let frame = p.alloc_frames(2).ok_or_else(|| boxed("no frames"))?;
        p.write_frame(frame, 0, code);
        let data = frame.offset(1);
        let batch = [
            Mapping { start: CODE, pages: 1, backing: Backing::Frames(frame), prot: RX },
            Mapping { start: DATA, pages: 1, backing: Backing::Frames(data), prot: RW },
        ];
        space.map(&batch).map_err(boxed)?;
        let regs = Registers { rip: CODE, rsp: DATA + PAGE, rsi: DATA, ..Registers::default() };
        Ok(Program { space, data, regs })
    }

    fn word(&self) -> u32 {
        platform().frame_atomic(self.data, 0, AtomicOp::Load)
    }
}

fn boxed(e: impl fmt::Display + 'static) -> Box<dyn fmt::Display> {
    Box::new(e)
}

fn thread() -> Result<Box<dyn UserThread>, Box<dyn fmt::Display>> {
    platform().new_user_thread().map_err(boxed)
}

/// Runs something on a thread of its own, on one CPU where given.
fn start(
    cpu: Option<u32>,
    main: impl FnOnce() + Send + 'static,
) -> Result<ThreadId, Box<dyn fmt::Display>> {
    platform()
        .spawn(
            "test",
            Box::new(move || {
                if let Some(cpu) = cpu {
                    platform().place(platform().current(), &[1 << cpu]);
                }
                main();
            }),
        )
        .map_err(boxed)
}

/// Waits for something that another thread will do.
fn wait_for(what: &str, done: impl Fn() -> bool) -> Finding {
    let end = platform().monotonic() + 60_000_000_000;
    while !done() {
        check!(platform().monotonic() < end, "waited a minute for {what}");
        platform().park(Some(platform().monotonic() + 200_000));
    }
    Ok(())
}

/// The best of some batches, nanoseconds an operation: what others do on the machine only makes it longer.
fn best(
    batches: u32,
    operations: u64,
    mut batch: impl FnMut() -> Finding,
) -> Result<u64, Box<dyn fmt::Display>> {
    let mut best = u64::MAX;
    for _ in 0..batches {
        let begin = platform().monotonic();
        batch()?;
        best = best.min((platform().monotonic() - begin) / operations);
    }
    Ok(best)
}

fn calls() -> Finding {
    const CALLS: u64 = 10_000;
    let mut p = Program::new(getpid())?;
    let mut t = thread()?;
    let ns = best(20, CALLS, || {
        (p.regs.rip, p.regs.rbx) = (CODE, CALLS);
        let mut n = 0u64;
        loop {
            match t.switch(&mut p.regs, &p.space) {
                Trap::Syscall if p.regs.orig_rax == 39 => {
                    check!(p.regs.rax as i64 == -38, "rax is {:#x} at a call", p.regs.rax);
                    p.regs.rax = 1;
                    n += 1;
                }
                Trap::Syscall if p.regs.orig_rax == 60 => break,
                Trap::Kicked => {}
                other => check!(false, "{other:?} at {:#x}", p.regs.rip),
            }
        }
        check!(n == CALLS, "{n} calls");
        Ok(())
    })?;
    host::log(Level::Info, format_args!("null call through the trait: {ns} ns"));
    Ok(())
}

fn faults() -> Finding {
    let mut p = Program::new(store())?;
    let mut t = thread()?;
    p.regs.rsi = HOLE + 8;
    let trap = t.switch(&mut p.regs, &p.space);
    let expected = Fault { addr: HOLE + 8, access: Access::Write, present: false };
    check!(trap == Trap::Fault(expected), "{trap:?}");
    check!(p.regs.rip == CODE && p.regs.orig_rax == u64::MAX, "{:?}", p.regs);
    let frame = platform().alloc_frames(1).ok_or_else(|| boxed("no frames"))?;
    let mut map =
        Mapping { start: HOLE, pages: 1, backing: Backing::Frames(frame), prot: Prot::READ };
    p.space.map(&[map]).map_err(boxed)?;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Fault(Fault { present: true, ..expected }), "read-only: {trap:?}");
    p.space.protect(HOLE..HOLE + PAGE, Prot::empty());
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Fault(Fault { present: true, ..expected }), "no access: {trap:?}");
    map.prot = RW;
    p.space.protect(HOLE..HOLE + PAGE, RW);
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Syscall, "mapped: {trap:?}");
    check!(platform().frame_atomic(frame, 8, AtomicOp::Load) == 0x1234, "the store is not there");
    // Fetches.
    p.regs.rip = DATA;
    let trap = t.switch(&mut p.regs, &p.space);
    let expected = Fault { addr: DATA, access: Access::Exec, present: true };
    check!(trap == Trap::Fault(expected), "fetch: {trap:?}");
    p.space.unmap(HOLE..HOLE + PAGE);
    platform().free_frames(frame, 1);

    // How fast: a fresh page each time, mapped and unmapped.
    const FAULTS: u64 = 1_000;
    let frame = platform().alloc_frames(1).ok_or_else(|| boxed("no frames"))?;
    map.backing = Backing::Frames(frame);
    let ns = best(20, FAULTS, || {
        for _ in 0..FAULTS {
            p.regs.rip = CODE;
            let trap = t.switch(&mut p.regs, &p.space);
            check!(matches!(trap, Trap::Fault(_)), "{trap:?}");
            p.space.map(&[map]).map_err(boxed)?;
            let trap = t.switch(&mut p.regs, &p.space);
            check!(trap == Trap::Syscall, "{trap:?}");
            p.space.unmap(HOLE..HOLE + PAGE);
        }
        Ok(())
    })?;
    host::log(Level::Info, format_args!("fault, map, call, unmap: {ns} ns"));
    platform().free_frames(frame, 1);
    Ok(())
}

fn traps() -> Finding {
    let mut t = thread()?;
    let mut p = Program::new(int80())?;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::ForeignSyscall && p.regs.rax == 20, "int 0x80: {trap:?}");
    let mut p = Program::new(trap_program())?;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == exception(vector::BREAKPOINT, 0) && p.regs.rip == CODE + 1, "{trap:?}");
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == exception(vector::INVALID_OPCODE, 0), "{trap:?}");
    // A single step.
    let mut p = Program::new(store())?;
    p.regs.eflags |= 0x100;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == exception(vector::DEBUG, 1 << 14) && p.regs.rip == CODE + 6, "{trap:?}");
    // The kernel's half, mapped and not.
    for addr in [guest::contract::IMAGE_BASE, guest::contract::DIRECT_MAP, 1 << 63] {
        let mut p = Program::new(peek())?;
        p.regs.rsi = addr;
        let trap = t.switch(&mut p.regs, &p.space);
        let refused = match trap {
            Trap::Fault(f) => f.addr == addr && !f.present && f.access == Access::Read,
            Trap::Exception(e) => e.vector == vector::GENERAL_PROTECTION,
            _ => false,
        };
        check!(refused && p.regs.rax == 0, "reading {addr:#x}: {trap:?}");
    }
    Ok(())
}

fn trap_program() -> &'static [u8] {
    trap()
}

fn exception(vector: u8, error: u32) -> Trap {
    Trap::Exception(Exception { vector, error })
}

fn hostile_state() -> Finding {
    const FLAGS: u64 = 0x4_4602;
    let mut p = Program::new(hostile())?;
    let mut t = thread()?;
    p.regs.rdx = HOLE;
    for round in 0..3 {
        let trap = t.switch(&mut p.regs, &p.space);
        check!(p.regs.eflags & FLAGS == FLAGS || round == 2, "flags {:#x}", p.regs.eflags);
        match round {
            0 => {
                check!(trap == Trap::Syscall && p.regs.orig_rax == 39, "{trap:?}");
                check!(p.regs.rsp == 0xdead_0000_0000_0000, "rsp {:#x}", p.regs.rsp);
                // The kernel's own flags and MXCSR are what they should be.
                check!(flags_now() & 0x4_4700 == 0, "kernel flags {:#x}", flags_now());
                check!(mxcsr_now() == 0x1f80, "kernel MXCSR {:#x}", mxcsr_now());
            }
            1 => {
                let Trap::Fault(f) = trap else {
                    return Err(boxed(alloc::format!("{trap:?}")));
                };
                check!(f.addr == HOLE && p.regs.rsp == 0xdead_0000_0000_0000, "{f:?}");
                check!(flags_now() & 0x4_4700 == 0, "kernel flags {:#x}", flags_now());
                check!(mxcsr_now() == 0x1f80, "kernel MXCSR {:#x}", mxcsr_now());
                let frame = platform().alloc_frames(1).ok_or_else(|| boxed("no frames"))?;
                let map =
                    Mapping { start: HOLE, pages: 1, backing: Backing::Frames(frame), prot: RW };
                p.space.map(&[map]).map_err(boxed)?;
            }
            _ => {
                check!(trap == Trap::Syscall && p.regs.orig_rax == 1, "{trap:?}");
                check!(p.regs.r9 & FLAGS == FLAGS, "flags {:#x}", p.regs.r9);
                check!(p.regs.r10 == 0x4040, "MXCSR {:#x}", p.regs.r10);
                check!(p.regs.r8 == 0xdead_0000_0000_0000, "rsp {:#x}", p.regs.r8);
            }
        }
    }
    // Interrupts with it, many of them.
    let mut p = Program::new(spin())?;
    p.regs.eflags = FLAGS;
    p.regs.rsp = 0xffff_8000_0000_0000;
    let me = platform().current();
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicBool::new(false));
    let (theirs, their_end) = (stop.clone(), ended.clone());
    let wanted = Arc::new(AtomicU32::new(0));
    let their_wish = wanted.clone();
    start(Some(1), move || {
        let mut kicked = 0;
        while !theirs.load(Ordering::SeqCst) {
            // One kick for each round, so that the other CPU gets on.
            if their_wish.load(Ordering::SeqCst) > kicked {
                kicked += 1;
                platform().kick(me);
            }
            core::hint::spin_loop();
        }
        their_end.store(true, Ordering::SeqCst);
    })?;
    platform().place(me, &[1]);
    for _ in 0..2_000 {
        wanted.fetch_add(1, Ordering::SeqCst);
        let trap = t.switch(&mut p.regs, &p.space);
        check!(trap == Trap::Kicked, "{trap:?}");
        check!(p.regs.eflags & FLAGS == FLAGS, "flags {:#x}", p.regs.eflags);
        check!(flags_now() & 0x4_4700 == 0, "kernel flags {:#x}", flags_now());
    }
    stop.store(true, Ordering::SeqCst);
    platform().place(me, &[u64::MAX]);
    // The last kick may still be on its way; take it here.
    platform().kick(me);
    check!(t.switch(&mut p.regs, &p.space) == Trap::Kicked, "no kick");
    wait_for("the kicking thread to end", || ended.load(Ordering::SeqCst))?;
    platform().kick(me);
    check!(t.switch(&mut p.regs, &p.space) == Trap::Kicked, "no kick");
    Ok(())
}

fn flags_now() -> u64 {
    let flags;
    // SAFETY: reads RFLAGS.
    unsafe { core::arch::asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

fn mxcsr_now() -> u32 {
    let mut mxcsr = 0u32;
    // SAFETY: writes four bytes.
    unsafe { core::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr) };
    mxcsr
}

fn given_registers() -> Finding {
    let mut t = thread()?;
    // What a forged signal frame or a debugger could ask for.
    let mut p = Program::new(store())?;
    p.regs.rip = 1 << 47;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == exception(vector::GENERAL_PROTECTION, 0), "not canonical: {trap:?}");
    for rip in [0xffff_8000_0000_0000, guest::contract::IMAGE_BASE, u64::MAX] {
        p.regs.rip = rip;
        // As after a call, so that SYSRET would be taken.
        (p.regs.rcx, p.regs.r11) = (rip, p.regs.eflags);
        let trap = t.switch(&mut p.regs, &p.space);
        check!(trap == exception(vector::GENERAL_PROTECTION, 0), "{rip:#x}: {trap:?}");
    }
    // Flags that are not the application's: IF off, IOPL 3, VM, and reserved bits.
    let mut p = Program::new(store())?;
    p.regs.eflags = !0x200 & !0x100;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Syscall, "{trap:?}");
    check!(p.regs.eflags & 0x3_3000 & !0x1_0000 == 0, "flags {:#x}", p.regs.eflags);
    check!(p.regs.eflags & 0x200 != 0, "flags {:#x}", p.regs.eflags);
    // Bases that are not canonical, selectors that are not there.
    let mut p = Program::new(store())?;
    p.regs.fs_base = 0x1234_5678_9abc_def0;
    p.regs.gs_base = u64::MAX << 47 >> 1;
    (p.regs.cs, p.regs.ss, p.regs.ds, p.regs.gs) = (0x10, 0x18, 0xffff, 0x7777);
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Syscall && p.regs.cs == 0x33 && p.regs.ss == 0x2b, "{trap:?}");
    // All registers survive IRET and SYSRET.
    for by_iret in [false, true] {
        let mut p = Program::new(store())?;
        let fill = |n: u64| 0x0101_0101_0101_0101 * n;
        let r = &mut p.regs;
        (r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx) =
            (fill(1), fill(2), fill(3), fill(4), fill(5), fill(6));
        (r.r10, r.r9, r.r8, r.rdx, r.rdi) = (fill(7), fill(8), fill(9), fill(10), fill(11));
        r.eflags = 0x202;
        (r.rcx, r.r11) = if by_iret { (fill(12), fill(13)) } else { (CODE, 0x202) };
        let before = p.regs;
        let trap = t.switch(&mut p.regs, &p.space);
        check!(trap == Trap::Syscall, "{trap:?}");
        let after = Registers {
            rax: before.rax,
            rcx: before.rcx,
            r11: before.r11,
            rip: before.rip,
            orig_rax: before.orig_rax,
            cs: before.cs,
            ss: before.ss,
            ..p.regs
        };
        check!(after == before, "{before:x?}\n{after:x?}");
    }
    Ok(())
}

fn base_registers() -> Finding {
    if !ring0::choice().features.contains(Features::FSGSBASE) {
        return Ok(());
    }
    let mut p = Program::new(bases())?;
    let mut t = thread()?;
    (p.regs.fs_base, p.regs.gs_base) = (0x7000_0000_1000, 0x7000_0000_2000);
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Syscall, "{trap:?}");
    check!((p.regs.r8, p.regs.r9) == (0x7000_0000_1000, 0x7000_0000_2000), "{:x?}", p.regs);
    check!((p.regs.fs_base, p.regs.gs_base) == (0x12_3450, 0x54_3210), "{:x?}", p.regs);
    p.regs.fs_base = 0x7000_0000_3000;
    let trap = t.switch(&mut p.regs, &p.space);
    check!(trap == Trap::Syscall, "{trap:?}");
    check!((p.regs.r8, p.regs.r9) == (0x7000_0000_3000, 0x54_3210), "{:x?}", p.regs);
    Ok(())
}

/// What compiled code calls by name, against loops over bytes, for lengths around every turn that they take.
fn memory_functions() -> Finding {
    const ROOM: usize = 700;
    let pattern: Vec<u8> = (0..ROOM as u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let byte = |all: &[u8], n: usize| core::hint::black_box(all[n]);
    for len in (0..70).chain([127, 255, 256, 257, 263, 264, 265, 511, 600]) {
        for (to, from) in [(0, 0), (0, 3), (3, 0), (8, 16), (16, 8), (1, 64), (64, 1), (5, 90)] {
            let mut moved = pattern.clone();
            moved.copy_within(from..from + len, to);
            for n in 0..ROOM {
                let inside = (to..to + len).contains(&n);
                let want = byte(&pattern, if inside { n - to + from } else { n });
                check!(byte(&moved, n) == want, "memmove of {len} from {from} to {to}: byte {n}");
            }
            let mut set = pattern.clone();
            set[to..to + len].fill(0xa5);
            for n in 0..ROOM {
                let want = if (to..to + len).contains(&n) { 0xa5 } else { byte(&pattern, n) };
                check!(byte(&set, n) == want, "memset of {len} at {to}: byte {n}");
            }
            let mut copy = vec![0u8; ROOM];
            copy[to..to + len].copy_from_slice(&pattern[from..from + len]);
            check!(copy[to..to + len] == pattern[from..from + len], "memcmp of {len} equal");
            if len > 0 {
                let at = to + len / 2;
                let old = copy[at];
                for new in [old.wrapping_add(1), old.wrapping_sub(1), old ^ 0x80] {
                    copy[at] = new;
                    let order = copy[to..to + len].cmp(&pattern[from..from + len]);
                    check!(
                        order == new.cmp(&old),
                        "memcmp of {len}, {old} against {new}: {order:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn copies() -> Finding {
    let mut p = Program::new(store())?;
    let mut t = thread()?;
    // Once with the space not loaded, once loaded.
    for loaded in [false, true] {
        if loaded {
            let trap = t.switch(&mut p.regs, &p.space);
            check!(trap == Trap::Syscall, "{trap:?}");
        }
        let space = &p.space;
        let data: Vec<u8> = (0..4096u32).map(|n| n as u8).collect();
        check!(space.copy_out(DATA, &data) == Ok(()), "copy out");
        let mut back = vec![0; 4096];
        check!(space.copy_in(DATA, &mut back) == Ok(()) && back == data, "copy in");
        let end = CopyFault { done: 96, addr: DATA + PAGE };
        let result = space.copy_out(DATA + PAGE - 96, &data);
        check!(result == Err(end), "copy out over the end: {result:x?}");
        let result = space.copy_in(DATA + PAGE - 96, &mut back);
        check!(result == Err(end), "copy in over the end: {result:x?}");
        // Words of the copy lie across the end of the page.
        for left in 1..9u64 {
            let from = DATA + PAGE - left;
            let end = CopyFault { done: left as usize, addr: DATA + PAGE };
            check!(space.copy_out(from, &data[..64]) == Err(end), "{left} bytes out to the end");
            check!(space.copy_in(from, &mut back[..64]) == Err(end), "{left} bytes in to the end");
            let same = back[..left as usize] == data[..left as usize];
            check!(same, "{left} bytes to the end: others came back");
        }
        let result = space.copy_out(CODE, &data[..8]);
        check!(result == Err(CopyFault { done: 0, addr: CODE }), "read-only: {result:x?}");
        check!(space.copy_in(CODE, &mut back[..8]) == Ok(()), "copy in of code");
        for addr in [0, HOLE, u64::MAX - 3, 1 << 47, guest::contract::DIRECT_MAP + (5 << 30)] {
            let result = space.copy_in(addr, &mut back[..8]);
            check!(result == Err(CopyFault { done: 0, addr }), "{addr:#x}: {result:x?}");
            check!(space.copy_out(addr, &data[..8]).is_err(), "{addr:#x}: written");
            check!(space.atomic(addr & !3, AtomicOp::Add(1)).is_err(), "{addr:#x}: added to");
        }
        check!(space.atomic(DATA, AtomicOp::Swap(5)).is_ok(), "swap");
        check!(space.atomic(DATA, AtomicOp::Add(2)) == Ok(5), "add");
        check!(space.atomic(DATA, AtomicOp::CompareExchange(9, 1)) == Ok(7), "no exchange");
        check!(space.atomic(DATA, AtomicOp::CompareExchange(7, 1)) == Ok(7), "exchange");
        check!(space.atomic(DATA, AtomicOp::Load) == Ok(1) && p.word() == 1, "load");
        check!(space.atomic(CODE, AtomicOp::Load).is_ok(), "load of code");
        check!(space.atomic(CODE, AtomicOp::Or(1)).is_err(), "or on code");
    }
    Ok(())
}

fn frames() -> Finding {
    let p = platform();
    let counts = p.frame_counts(p.account());
    check!(counts.used < counts.most, "{} of {} in use", counts.used, counts.most);
    for round in 0..3 {
        let run = p.alloc_frames(300).ok_or_else(|| boxed("no frames"))?;
        let mut buf = [1; 5000];
        for at in [0, 100_000, 300 * 4096 - 5000] {
            p.read_frame(run, at, &mut buf);
            check!(buf.iter().all(|&b| b == 0), "round {round}: not zero at {at}");
            p.write_frame(run, at, &[0xaa; 5000]);
        }
        p.copy_frame(run, run.offset(7));
        p.read_frame(run, 7 * 4096, &mut buf[..1]);
        check!(buf[0] == 0xaa, "copy_frame");
        p.free_frames(run, 300);
        if round == 1 {
            // Long enough for it to have gone back to the host.
            p.park(Some(p.monotonic() + 2_000_000_000));
        }
    }
    check!(p.alloc_frames(u32::MAX).is_none(), "too much memory");
    let mut random = [0; 32];
    p.random(&mut random);
    check!(random.iter().any(|&b| b != 0), "not random");
    Ok(())
}

/// Boot's frames and page tables are marked while they are that, and others are not.
fn reserved_frames() -> Finding {
    check!(memory::reserved(0, 1) == Some(0), "the image's first frame is not ring 0's");
    let p = platform();
    let run = p.alloc_frames(3).ok_or_else(|| boxed("no frames"))?;
    check!(memory::reserved(run.0, 3).is_none(), "a frame of the sentry's is ring 0's");
    let page = memory::alloc_page().ok_or_else(|| boxed("no page"))?;
    let frame = memory::frame_at(page).0;
    check!(memory::reserved(frame, 1) == Some(frame), "a page of ring 0's is not its own");
    check!(memory::reserved(frame - 1, 2).is_some(), "a run that has it in it");
    memory::free_page(page);
    check!(memory::reserved(frame, 1).is_none(), "it stays so when it is freed");
    p.free_frames(run, 3);
    Ok(())
}

fn two_cpus() -> Finding {
    if platform().cpus() < 2 {
        return Ok(());
    }
    const TURNS: u64 = 2_000;
    let p = Program::new(turns())?;
    let done = Arc::new(AtomicU32::new(0));
    for side in 0..2 {
        let (space, done) = (p.space.clone(), done.clone());
        let mut regs = p.regs;
        (regs.rdi, regs.rbx) = (side, TURNS);
        start(Some(side as u32), move || {
            let Ok(mut t) = platform().new_user_thread() else {
                return;
            };
            loop {
                match t.switch(&mut regs, &space) {
                    Trap::Kicked => {}
                    Trap::Syscall => break,
                    _ => return,
                }
            }
            done.fetch_add(1, Ordering::SeqCst);
        })?;
    }
    wait_for("two threads that take turns", || done.load(Ordering::SeqCst) == 2)?;
    check!(u64::from(p.word()) == 2 * TURNS, "{} turns", p.word());
    Ok(())
}

fn kicks() -> Finding {
    const KICKS: u64 = 2_000;
    let p = Program::new(spin())?;
    let (returns, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (their_returns, their_stop) = (returns.clone(), stop.clone());
    let last = platform().cpus().min(2) - 1;
    let (space, mut regs) = (p.space.clone(), p.regs);
    let target = start(Some(last), move || {
        let Ok(mut t) = platform().new_user_thread() else {
            return;
        };
        let mut n = 0u32;
        while !their_stop.load(Ordering::SeqCst) {
            if t.switch(&mut regs, &space) != Trap::Kicked {
                return;
            }
            their_returns.fetch_add(1, Ordering::SeqCst);
            // Now and then the next kick comes before the next switch.
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for _ in 0..n >> 24 {
                core::hint::spin_loop();
            }
        }
    })?;
    platform().place(platform().current(), &[1]);
    let begin = platform().monotonic();
    for n in 0..KICKS {
        platform().kick(target);
        let end = platform().monotonic() + 20_000_000_000;
        while returns.load(Ordering::SeqCst) <= n {
            if last == 0 {
                platform().yield_now();
            }
            check!(platform().monotonic() < end, "kick {n} of {KICKS} was lost");
        }
    }
    let ns = (platform().monotonic() - begin) / KICKS;
    host::log(Level::Info, format_args!("a kick and its return: {ns} ns"));
    stop.store(true, Ordering::SeqCst);
    platform().kick(target);
    platform().place(platform().current(), &[u64::MAX]);
    Ok(())
}

fn shootdown() -> Finding {
    if platform().cpus() < 2 {
        return Ok(());
    }
    let p = Program::new(count())?;
    let faulted = Arc::new(AtomicU32::new(0));
    let (theirs, space, mut regs) = (faulted.clone(), p.space.clone(), p.regs);
    let stop = Arc::new(AtomicBool::new(false));
    let their_stop = stop.clone();
    let target = start(Some(1), move || {
        let Ok(mut t) = platform().new_user_thread() else {
            return;
        };
        while !their_stop.load(Ordering::SeqCst) {
            if let Trap::Fault(_) = t.switch(&mut regs, &space) {
                theirs.fetch_add(1, Ordering::SeqCst);
            }
        }
    })?;
    platform().place(platform().current(), &[1]);
    for round in 0..500 {
        let begin = p.word();
        wait_for("the other CPU to count", || p.word() != begin)?;
        match round % 3 {
            0 => p.space.protect(DATA..DATA + PAGE, Prot::READ),
            1 => p.space.unmap(DATA..DATA + PAGE),
            _ => {
                let spare = platform().alloc_frames(1).ok_or_else(|| boxed("no frames"))?;
                let backing = Backing::Frames(spare);
                p.space
                    .map(&[Mapping { start: DATA, pages: 1, backing, prot: RW }])
                    .map_err(boxed)?;
            }
        }
        let seen = p.word();
        for _ in 0..20_000 {
            core::hint::spin_loop();
        }
        check!(p.word() == seen, "round {round}: the other CPU went on writing");
        let backing = Backing::Frames(p.data);
        p.space.map(&[Mapping { start: DATA, pages: 1, backing, prot: RW }]).map_err(boxed)?;
    }
    check!(faulted.load(Ordering::SeqCst) > 0, "the other CPU never faulted");
    stop.store(true, Ordering::SeqCst);
    platform().kick(target);
    platform().place(platform().current(), &[u64::MAX]);
    Ok(())
}

fn vector_state() -> Finding {
    if ring0::choice().xcr0 & 4 == 0 {
        return Ok(());
    }
    // Four threads on one CPU, with values of their own, switched and preempted.
    let (good, bad) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    for n in 0..4u64 {
        let mut p = Program::new(avx())?;
        let (good, bad) = (good.clone(), bad.clone());
        p.regs.rdi = 0x1111_2222_3333_4444 + n;
        (p.regs.rbx, p.regs.r12) = (300, 20_000);
        start(Some((n % 2).min(u64::from(platform().cpus()) - 1) as u32), move || {
            let Ok(mut t) = platform().new_user_thread() else {
                return;
            };
            let mut image = Vec::new();
            loop {
                match t.switch(&mut p.regs, &p.space) {
                    Trap::Kicked => {}
                    Trap::Syscall if p.regs.orig_rax == 39 => {
                        // Now and then through an image, as a signal would.
                        if p.regs.rbx % 16 == n {
                            t.xstate(&mut image);
                            t.reset_xstate();
                            if t.set_xstate(&image).is_err() {
                                break;
                            }
                        }
                        platform().yield_now();
                    }
                    Trap::Syscall if p.regs.orig_rax == 7 => {
                        good.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    _ => break,
                }
            }
            bad.fetch_add(1, Ordering::SeqCst);
        })?;
    }
    wait_for("four threads with vector state", || {
        good.load(Ordering::SeqCst) + bad.load(Ordering::SeqCst) == 4
    })?;
    check!(bad.load(Ordering::SeqCst) == 0, "{bad:?} threads lost their registers");
    // Images that XRSTOR would not take.
    let mut t = thread()?;
    let mut image = Vec::new();
    t.xstate(&mut image);
    check!(image.len() >= 576, "{} bytes", image.len());
    check!(t.set_xstate(&image[..500]).is_err(), "a short image");
    for (at, value) in [(24 + 2, 0xff), (512 + 1, 0x80), (520, 1), (540, 1)] {
        let mut wrong = image.clone();
        wrong[at] = value;
        check!(t.set_xstate(&wrong).is_err(), "byte {at} = {value:#x}");
    }
    check!(t.set_xstate(&image).is_ok(), "its own image");
    Ok(())
}

fn preemption() -> Finding {
    // Two that never stop, on one CPU: both get on.
    let (a, b) = (Program::new(count())?, Program::new(count())?);
    let stop = Arc::new(AtomicBool::new(false));
    let mut targets = Vec::new();
    for p in [&a, &b] {
        let (space, mut regs, stop) = (p.space.clone(), p.regs, stop.clone());
        targets.push(start(Some(0), move || {
            let Ok(mut t) = platform().new_user_thread() else {
                return;
            };
            while !stop.load(Ordering::SeqCst) {
                if t.switch(&mut regs, &space) != Trap::Kicked {
                    return;
                }
            }
        })?);
    }
    for round in 0..5 {
        let before = (a.word(), b.word());
        wait_for("two busy threads on one CPU", || a.word() != before.0 && b.word() != before.1)
            .map_err(|e| boxed(alloc::format!("round {round}: {e}")))?;
    }
    let used = platform().cpu_time(targets[0]);
    check!(used.user_ns + used.system_ns > 0, "no time used");
    stop.store(true, Ordering::SeqCst);
    targets.iter().for_each(|&t| platform().kick(t));
    Ok(())
}

fn parking() -> Finding {
    let p = platform();
    // An unpark that comes first counts once.
    p.unpark(p.current());
    p.park(None);
    let begin = p.monotonic();
    p.park(Some(begin + 3_000_000));
    while p.monotonic() < begin + 3_000_000 {
        p.park(Some(begin + 3_000_000));
    }
    // Ping-pong, on one CPU and over two.
    for cpu in [0, p.cpus().min(2) - 1] {
        const ROUNDS: u32 = 500;
        const BATCHES: u32 = 20;
        let word = Arc::new(AtomicU32::new(0));
        let (theirs, me) = (word.clone(), p.current());
        let other = start(Some(cpu), move || {
            for n in 0..BATCHES * ROUNDS {
                while theirs.load(Ordering::SeqCst) != 2 * n + 1 {
                    platform().park(None);
                }
                theirs.store(2 * n + 2, Ordering::SeqCst);
                platform().unpark(me);
            }
        })?;
        p.place(me, &[1]);
        let mut n = 0;
        let ns = best(BATCHES, ROUNDS.into(), || {
            for _ in 0..ROUNDS {
                word.store(2 * n + 1, Ordering::SeqCst);
                p.unpark(other);
                while word.load(Ordering::SeqCst) != 2 * n + 2 {
                    p.park(None);
                }
                n += 1;
            }
            Ok(())
        })?;
        host::log(
            Level::Info,
            format_args!("unpark and park, both ways, CPU 0 and {cpu}: {ns} ns"),
        );
        p.place(me, &[u64::MAX]);
    }
    Ok(())
}
