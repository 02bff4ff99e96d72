//! The platform's promises, kept by programs of a few instructions.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use common::{CODE, DATA, Program, RW, RX, STACK, map, platform, user};
use sentry::errno::Errno;
use sentry::platform::{
    Access, AtomicOp, Backing, CopyFault, Exception, Fault, Mapping, PAGE_SIZE, Platform, Prot,
    Trap, vector,
};

/// -ENOSYS, which rax holds at a system call.
const ENOSYS: u64 = -38i64 as u64;

program!(count_calls, "2:", "mov eax, 39", "syscall", "add rbx, rax", "jmp 2b");
program!(spin, "2:", "inc rbx", "jmp 2b");
program!(load, "mov rax, [rdi]", "mov eax, 1", "syscall");
program!(store, "mov [rdi], rsi", "mov eax, 1", "syscall");
program!(old_call, "mov eax, 20", "int 0x80", "ud2");
program!(
    crafted_old_call,
    "lea rcx, [rip + 2f]",
    "pushfq",
    "pop r11",
    "mov eax, 20",
    "int 0x80",
    "2:",
    "ud2"
);

#[test]
fn system_calls_come_out_and_results_go_in() {
    let mut program = Program::new(count_calls());
    let mut cpu = user();
    for i in 0..1000 {
        assert_eq!(cpu.switch(&mut program.regs, &program.space), Trap::Syscall);
        assert_eq!((program.regs.orig_rax, program.regs.rax), (39, ENOSYS));
        assert_eq!(program.regs.rbx, (0..i).sum::<u64>());
        program.regs.rax = i;
    }
}

#[test]
fn calls_of_other_abis_are_told_apart() {
    for code in [old_call(), crafted_old_call()] {
        let mut program = Program::new(code);
        let mut cpu = user();
        let trap = cpu.switch(&mut program.regs, &program.space);
        assert_eq!(trap, Trap::ForeignSyscall);
        assert_eq!(program.regs.orig_rax, u64::MAX);
        assert_eq!(
            cpu.switch(&mut program.regs, &program.space),
            Trap::Exception(Exception { vector: vector::INVALID_OPCODE, error: 0 })
        );
    }
}

#[test]
fn faults_say_where_and_what_and_go_away_when_resolved() {
    let mut program = Program::new(store());
    let mut cpu = user();
    program.regs.rdi = DATA + 8;
    program.regs.rsi = 77;
    let fault = |access, present| Trap::Fault(Fault { addr: DATA + 8, access, present });
    let trap = cpu.switch(&mut program.regs, &program.space);
    assert_eq!(trap, fault(Access::ReadOrWrite, false));
    let frame = program.add(DATA, 1, Prot::READ);
    let trap = cpu.switch(&mut program.regs, &program.space);
    assert_eq!(trap, fault(Access::Write, true));
    program.space.protect(DATA..DATA + 4096, RW);
    assert_eq!(cpu.switch(&mut program.regs, &program.space), Trap::Syscall);
    let mut word = [0; 8];
    platform().read_frame(frame, 8, &mut word);
    assert_eq!(u64::from_le_bytes(word), 77);

    // Fetches: from data, from nowhere, from a page without any right.
    program.regs.rip = DATA + 8;
    let trap = cpu.switch(&mut program.regs, &program.space);
    assert_eq!(trap, fault(Access::Exec, true));
    program.space.unmap(DATA..DATA + 4096);
    let trap = cpu.switch(&mut program.regs, &program.space);
    assert_eq!(trap, fault(Access::Exec, false));
}

program!(divide, "xor ecx, ecx", "div ecx");
program!(breakpoint, "int3");
program!(undefined, "ud2");
program!(privileged, "hlt");
program!(step, "pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "nop");
program!(
    simd,
    "push 0x1d00",
    "ldmxcsr [rsp]",
    "xorps xmm0, xmm0",
    "mov eax, 1",
    "cvtsi2ss xmm1, eax",
    "divss xmm1, xmm0"
);
program!(x87, "push 0x37b", "fldcw [rsp]", "fld1", "fldz", "fdivp", "fwait");
program!(unaligned, "pushfq", "or dword ptr [rsp], 0x40000", "popfq", "mov eax, [rsp + 1]");
program!(far_stack, "mov rax, 0x8000000000000000", "mov rsp, rax", "push rax");
program!(far_load, "mov rax, 0x8000000000000000", "mov rax, [rax]");

#[test]
fn exceptions_have_their_vectors() {
    for (code, vector) in [
        (divide(), vector::DIVIDE_ERROR),
        (breakpoint(), vector::BREAKPOINT),
        (undefined(), vector::INVALID_OPCODE),
        (privileged(), vector::GENERAL_PROTECTION),
        (step(), vector::DEBUG),
        (simd(), vector::SIMD),
        (x87(), vector::X87),
        (unaligned(), vector::ALIGNMENT_CHECK),
        (far_stack(), vector::STACK_SEGMENT),
        (far_load(), vector::GENERAL_PROTECTION),
    ] {
        let mut program = Program::new(code);
        let trap = user().switch(&mut program.regs, &program.space);
        // What the debug exception is for, as in DR6: a single step.
        let error = if vector == vector::DEBUG { 1 << 14 } else { 0 };
        assert_eq!(trap, Trap::Exception(Exception { vector, error }));
        assert_eq!(program.regs.orig_rax, u64::MAX);
    }
}

program!(vsyscall, "mov rax, 0xffffffffff600000", "call rax", "ud2");

#[test]
fn the_vsyscall_page_is_not_the_hosts() {
    let mut program = Program::new(vsyscall());
    let trap = user().switch(&mut program.regs, &program.space);
    let addr = 0xffff_ffff_ff60_0000;
    match trap {
        Trap::Fault(fault) => assert_eq!((fault.addr, fault.access), (addr, Access::Exec)),
        other => panic!("{other:?}"),
    }
    assert_eq!((program.regs.rip, program.regs.rsp), (addr, STACK - 8));
}

#[test]
fn a_kick_is_never_lost_before_or_after_the_switch() {
    let mut program = Program::new(spin());
    let (tell, hear) = mpsc::channel();
    let rounds: u64 = 100_000;
    let taken = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&taken);
    let me = platform().current();
    let id = platform()
        .spawn(
            "kicked",
            Box::new(move || {
                let mut cpu = user();
                while seen.load(Ordering::SeqCst) < rounds {
                    // The program never stops by itself: a lost kick would hang here.
                    let trap = cpu.switch(&mut program.regs, &program.space);
                    assert_eq!(trap, Trap::Kicked);
                    seen.fetch_add(1, Ordering::SeqCst);
                    platform().unpark(me);
                }
                drop(cpu);
                tell.send(()).unwrap();
            }),
        )
        .unwrap();
    for n in 0..rounds {
        platform().kick(id);
        while taken.load(Ordering::SeqCst) <= n {
            platform().park(None);
        }
    }
    hear.recv().unwrap();
}

#[test]
fn kicks_from_several_threads_do_not_reach_the_application() {
    let mut program = Program::new(count_calls());
    let stop = Arc::new(AtomicBool::new(false));
    let me = platform().current();
    let kickers: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    platform().kick(me);
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    let mut cpu = user();
    let (mut calls, mut sum, mut kicked) = (0u64, 0, 0u64);
    while calls < 5000 {
        match cpu.switch(&mut program.regs, &program.space) {
            Trap::Syscall => {
                assert_eq!((program.regs.orig_rax, program.regs.rbx), (39, sum));
                program.regs.rax = calls;
                sum += calls;
                calls += 1;
            }
            Trap::Kicked => {
                assert_eq!(program.regs.orig_rax, u64::MAX);
                kicked += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::SeqCst);
    for kicker in kickers {
        kicker.join().unwrap();
    }
    assert!(kicked > 0);
}

#[test]
fn two_threads_share_a_space() {
    program!(add, "2:", "lock inc qword ptr [rdi]", "dec rsi", "jnz 2b", "mov eax, 1", "syscall");
    let mut program = Program::new(add());
    let frame = program.add(DATA, 1, RW);
    let (tell, hear) = mpsc::channel();
    for _ in 0..2 {
        let (tell, space, mut regs) = (tell.clone(), Arc::clone(&program.space), program.regs);
        regs.rdi = DATA;
        regs.rsi = 100_000;
        let entry = move || {
            assert_eq!(user().switch(&mut regs, &space), Trap::Syscall);
            tell.send(()).unwrap();
        };
        platform().spawn("adder", Box::new(entry)).unwrap();
    }
    hear.recv().unwrap();
    hear.recv().unwrap();
    let mut word = [0; 8];
    platform().read_frame(frame, 0, &mut word);
    assert_eq!(u64::from_le_bytes(word), 200_000);
}

#[test]
fn a_change_of_protection_reaches_a_running_thread() {
    program!(write_on, "2:", "inc qword ptr [rdi]", "jmp 2b");
    let mut program = Program::new(write_on());
    let frame = program.add(DATA, 1, RW);
    program.regs.rdi = DATA;
    let (tell, hear) = mpsc::channel();
    let (space, mut regs) = (Arc::clone(&program.space), program.regs);
    let entry = move || {
        let mut cpu = user();
        for _ in 0..100 {
            tell.send(cpu.switch(&mut regs, &space)).unwrap();
            space.protect(DATA..DATA + 4096, RW);
        }
    };
    let word = || {
        let mut word = [0; 8];
        platform().read_frame(frame, 0, &mut word);
        u64::from_le_bytes(word)
    };
    platform().spawn("writer", Box::new(entry)).unwrap();
    for _ in 0..100 {
        let before = word();
        while word() == before {
            std::thread::yield_now();
        }
        program.space.protect(DATA..DATA + 4096, Prot::READ);
        let frozen = word();
        let trap = hear.recv().unwrap();
        assert_eq!(trap, Trap::Fault(Fault { addr: DATA, access: Access::Write, present: true }));
        // It runs on as soon as its own thread lets it write again, and not before.
        assert!(word() >= frozen);
    }
}

#[test]
fn a_fork_shares_frames_until_one_writes() {
    let mut parent = Program::new(store());
    let frame = parent.add(DATA, 1, RW);
    platform().write_frame(frame, 0, b"parent");
    // As a kernel forks: both read-only, the child over the same frames.
    let code = platform().alloc_frames(1).unwrap();
    platform().write_frame(code, 0, store());
    let child = platform().new_space().unwrap();
    parent.space.protect(DATA..DATA + 4096, Prot::READ);
    map(&child, CODE, 1, code, RX);
    map(&child, DATA, 1, frame, Prot::READ);
    let mut regs = parent.regs;
    regs.rdi = DATA;
    regs.rsi = u64::from_le_bytes(*b"child\0\0\0");
    let mut cpu = user();
    let write = Fault { addr: DATA, access: Access::Write, present: true };
    assert_eq!(cpu.switch(&mut regs, &child), Trap::Fault(write));
    let copy = platform().alloc_frames(1).unwrap();
    platform().copy_frame(frame, copy);
    map(&child, DATA, 1, copy, RW);
    assert_eq!(cpu.switch(&mut regs, &child), Trap::Syscall);
    let mut seen = [0; 6];
    parent.space.copy_in(DATA, &mut seen).unwrap();
    assert_eq!(&seen, b"parent");
    child.copy_in(DATA, &mut seen).unwrap();
    assert_eq!(&seen[..5], b"child");
    // The parent takes its frame back, in the same thread: another space at the next switch.
    parent.space.protect(DATA..DATA + 4096, RW);
    parent.regs.rdi = DATA;
    assert_eq!(cpu.switch(&mut parent.regs, &parent.space), Trap::Syscall);
    drop(child);
    for frame in [code, copy] {
        platform().free_frames(frame, 1);
    }
}

#[test]
fn vector_state_is_kept_moved_and_reset() {
    program!(
        vectors,
        "vmovdqu ymm5, [rdi]",
        "mov eax, 1",
        "syscall",
        "2:",
        "vmovdqu [rdi], ymm5",
        "jmp 2b"
    );
    let mut program = Program::new(vectors());
    program.add(DATA, 1, RW);
    program.regs.rdi = DATA;
    program.space.copy_out(DATA, &[0xa5; 32]).unwrap();
    let mut cpu = user();
    assert_eq!(cpu.switch(&mut program.regs, &program.space), Trap::Syscall);
    program.space.copy_out(DATA, &[0; 32]).unwrap();
    let looks = |expected: u8, space: &Arc<dyn sentry::platform::AddressSpace>| {
        let mut seen = [0; 32];
        space.copy_in(DATA, &mut seen).unwrap();
        assert_eq!(seen, [expected; 32]);
    };
    let kicked = |cpu: &mut Box<dyn sentry::platform::UserThread>, program: &mut Program| {
        let (id, go) = (platform().current(), Arc::new(AtomicBool::new(true)));
        let going = Arc::clone(&go);
        let kicker = std::thread::spawn(move || {
            // Give it time to run in between; how much does not matter.
            for _ in 0..200 {
                std::thread::yield_now();
            }
            while going.load(Ordering::SeqCst) {
                platform().kick(id);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        for _ in 0..5 {
            let trap = cpu.switch(&mut program.regs, &program.space);
            assert_eq!(trap, Trap::Kicked);
        }
        go.store(false, Ordering::SeqCst);
        kicker.join().unwrap();
    };
    kicked(&mut cpu, &mut program);
    looks(0xa5, &program.space);

    let mut image = Vec::new();
    cpu.xstate(&mut image);
    let mut other = Program::new(vectors());
    other.add(DATA, 1, RW);
    other.regs = program.regs;
    // Another space: the state goes along.
    kicked(&mut cpu, &mut other);
    looks(0xa5, &other.space);
    cpu.reset_xstate();
    kicked(&mut cpu, &mut other);
    looks(0, &other.space);
    cpu.set_xstate(&image).unwrap();
    kicked(&mut cpu, &mut other);
    looks(0xa5, &other.space);
    image[570] = 1;
    assert_eq!(cpu.set_xstate(&image), Err(Errno::EINVAL));
    // A stub that is used again has nothing of it.
    drop((cpu, program, other));
    let mut next = Program::new(vectors());
    next.add(DATA, 1, RW);
    next.regs.rdi = DATA;
    // From the second instruction of the loop on.
    next.regs.rip = CODE + (vectors().len() - 6) as u64;
    let mut cpu = user();
    kicked(&mut cpu, &mut next);
    looks(0, &next.space);
}

#[test]
fn copies_stop_at_what_is_not_mapped_as_needed() {
    let mut program = Program::new(spin());
    program.add(DATA, 2, RW);
    program.add(DATA + 8192, 1, Prot::READ);
    let space = &program.space;
    space.copy_out(DATA + 4000, &[7; 200]).unwrap();
    let mut buf = [0; 200];
    space.copy_in(DATA + 4000, &mut buf).unwrap();
    assert_eq!(buf, [7; 200]);
    let fault = |done, addr| Err(CopyFault { done, addr });
    let end = DATA + 8192;
    assert_eq!(space.copy_out(end - 50, &[1; 200]), fault(50, end));
    let end = DATA + 3 * 4096;
    assert_eq!(space.copy_in(end - 60, &mut buf), fault(60, end));
    assert_eq!(space.copy_in(0, &mut buf), fault(0, 0));
    let top = u64::MAX - 10;
    assert_eq!(space.copy_in(top, &mut buf), fault(0, top));
    assert_eq!(space.atomic(DATA, AtomicOp::Add(2)), Ok(0));
    assert_eq!(space.atomic(DATA, AtomicOp::Load), Ok(2));
    assert_eq!(space.atomic(DATA + 8192, AtomicOp::Load), Ok(0));
    let refused = space.atomic(DATA + 8192, AtomicOp::Swap(1));
    assert!(refused.is_err());
    space.protect(DATA..DATA + 4096, Prot::empty());
    assert_eq!(space.copy_in(DATA, &mut buf), fault(0, DATA));
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let p = platform();
    let space = p.new_space().unwrap();
    let frame = p.alloc_frames(1).unwrap();
    let range = p.user_range();
    let one = |start, pages, backing| space.map(&[Mapping { start, pages, backing, prot: RW }]);
    let frames = Backing::Frames(frame);
    assert_eq!(one(range.start, 1, frames), Ok(()));
    assert_eq!(one(range.end - 4096, 1, frames), Ok(()));
    for (start, pages) in [
        (range.end, 1),
        (range.start - 4096, 1),
        (range.end - 4096, 2),
        (DATA + 1, 1),
        (DATA, 0),
        (u64::MAX - 4095, 1),
    ] {
        assert_eq!(one(start, pages, frames), Err(Errno::EINVAL), "{start:x}");
    }
    let missing = Backing::File(sentry::platform::FileId(12345), 0);
    assert_eq!(one(DATA, 1, missing), Err(Errno::EBADF));
    space.unmap(0..u64::MAX);
    p.free_frames(frame, 1);
}

#[test]
fn memory_is_zero_and_runs_are_neighbours() {
    let p = platform();
    let run = p.alloc_frames(8).unwrap();
    let mut buf = vec![1; 8 * PAGE_SIZE];
    p.read_frame(run, 0, &mut buf);
    assert!(buf.iter().all(|b| *b == 0));
    p.write_frame(run, 4090, &[9; 12]);
    p.zero_frame(run.offset(1), 0, 2);
    p.read_frame(run, 4088, &mut buf[..16]);
    assert_eq!(buf[..16], [0, 0, 9, 9, 9, 9, 9, 9, 0, 0, 9, 9, 9, 9, 0, 0]);
    p.free_frames(run, 8);
    let again = p.alloc_frames(8).unwrap();
    p.read_frame(again, 0, &mut buf);
    assert!(buf.iter().all(|b| *b == 0));
    p.free_frames(again, 8);
}

#[test]
fn more_pieces_than_the_host_allows_are_dropped_and_come_again() {
    let mut program = Program::new(load());
    let frame = program.add(DATA, 2, RW);
    let mut batch = Vec::new();
    for i in 0..70_000u64 {
        // Never mergeable: alternating frames with holes between.
        batch.push(Mapping {
            start: 0x4000_0000 + i * 8192,
            pages: 1,
            backing: Backing::Frames(frame.offset((i % 2) as u32)),
            prot: RW,
        });
    }
    let mut cpu = user();
    for part in batch.chunks(5000) {
        program.space.map(part).unwrap();
        program.regs.rip = CODE;
        program.regs.rdi = part[4999].start;
        loop {
            match cpu.switch(&mut program.regs, &program.space) {
                Trap::Syscall => break,
                Trap::Fault(fault) if fault.addr == CODE => {
                    // It was dropped with everything else.
                    let code = program.add(CODE, 1, RX);
                    platform().write_frame(code, 0, load());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_thousand_spaces_come_and_go() {
    let mut cpu = user();
    for _ in 0..1000 {
        let mut program = Program::new(count_calls());
        assert_eq!(cpu.switch(&mut program.regs, &program.space), Trap::Syscall);
    }
    let held: Vec<_> = (0..100).map(|_| Program::new(count_calls())).collect();
    for mut program in held {
        assert_eq!(cpu.switch(&mut program.regs, &program.space), Trap::Syscall);
    }
}

#[test]
fn threads_park_and_time_is_counted() {
    let p = platform();
    let (tell, hear) = mpsc::channel();
    let me = p.current();
    let id = p
        .spawn(
            "counted",
            Box::new(move || {
                let mut program = Program::new(count_calls());
                let mut cpu = user();
                for _ in 0..2000 {
                    cpu.switch(&mut program.regs, &program.space);
                }
                tell.send((platform().current(), platform().cpu_time(platform().current())))
                    .unwrap();
                platform().unpark(me);
            }),
        )
        .unwrap();
    let (current, time) = hear.recv().unwrap();
    p.park(None);
    assert_eq!(current, id);
    assert!(time.user_ns > 0 && time.system_ns > 0, "{time:?}");
    let start = p.monotonic();
    while p.monotonic() < start + 2_000_000 {
        p.park(Some(start + 2_000_000));
    }
    assert!(p.cpus() >= 1 && p.realtime() > 1_600_000_000_000_000_000);
}
