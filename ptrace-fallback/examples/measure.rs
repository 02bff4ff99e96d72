//! What the platform costs, beside what it cannot do without: prints a line per operation.
//!
//! Run it with `cargo run --release -p ptrace-fallback --example measure`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Instant;

use common::{CODE, Program, RW, map, platform, user};
use sentry::platform::{Backing, Mapping, Platform, Prot, Trap};

program!(null_call, "2:", "mov eax, 39", "syscall", "jmp 2b");
program!(touch, "2:", "mov [rdi], rdi", "add rdi, 4096", "jmp 2b");

const ROUNDS: u32 = 10_000;

/// The best of a hundred samples: what others do to this machine only ever adds.
fn time(what: &str, rounds: u32, mut f: impl FnMut()) -> f64 {
    // With an argument, only what has it in its name.
    if std::env::args().nth(1).is_some_and(|part| !what.contains(&part)) {
        return f64::NAN;
    }
    let (samples, each) = (rounds.min(100), rounds.div_ceil(100));
    let mut best = f64::MAX;
    for _ in 0..samples {
        let start = Instant::now();
        for _ in 0..each {
            f();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(each));
    }
    println!("{what:50} {best:9.2} us");
    best
}

fn main() {
    let bare = bare_loop();
    let p = platform();
    let mut program = Program::new(null_call());
    let mut cpu = user();
    let null = time("null system call", ROUNDS, || {
        assert_eq!(cpu.switch(&mut program.regs, &program.space), Trap::Syscall);
        program.regs.rax = 1;
    });
    println!("{:50} {:9.2}", "  in bare loops", null / bare);

    let frame = p.alloc_frames(64).unwrap();
    time("map and unmap a page, one entry", ROUNDS, || {
        map(&program.space, 0x5000_0000, 1, frame, RW);
        cpu.switch(&mut program.regs, &program.space);
        program.space.unmap(0x5000_0000..0x5000_1000);
    });
    let batch: Vec<Mapping> = (0..32)
        .map(|n| Mapping {
            start: 0x5000_0000 + u64::from(n) * 8192,
            pages: 1,
            backing: Backing::Frames(frame.offset(n)),
            prot: RW,
        })
        .collect();
    time("map 32 pieces, one entry, unmap them", ROUNDS / 10, || {
        program.space.map(&batch).unwrap();
        cpu.switch(&mut program.regs, &program.space);
        program.space.unmap(0x5000_0000..0x5010_0000);
    });

    for run in [1u32, 16, 64] {
        let pages = 4096u32;
        let per_page = time(&format!("fault in {pages} pages, {run} a fault"), 10, || {
            let mut program = Program::new(touch());
            program.regs.rdi = 0x5000_0000;
            let end = 0x5000_0000 + u64::from(pages) * 4096;
            loop {
                match cpu.switch(&mut program.regs, &program.space) {
                    Trap::Fault(fault) if fault.addr == end => break,
                    Trap::Fault(fault) => {
                        program.add(fault.addr, run, RW);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }) / f64::from(pages);
        println!("{:50} {per_page:9.2} us", "  per page");
    }
    time("the same natively, per 4096 pages", 10, native_touch);

    time("new space, and drop", ROUNDS / 10, || {
        drop(p.new_space().unwrap());
    });
    time("new space, map, run to first call, drop", ROUNDS / 10, || {
        let mut program = Program::new(null_call());
        cpu.switch(&mut program.regs, &program.space);
    });
    let me = p.current();
    time("the same in a new thread, waited for", ROUNDS / 10, || {
        let entry = move || {
            let mut program = Program::new(null_call());
            let mut cpu = user();
            cpu.switch(&mut program.regs, &program.space);
            drop((cpu, program));
            platform().unpark(me);
        };
        p.spawn("child", Box::new(entry)).unwrap();
        p.park(None);
    });

    // As fork does: 300 pages in 10 pieces, protected, shared, and taken back.
    let mut parent = Program::new(null_call());
    let pages: Vec<Mapping> = (0..10)
        .map(|n| Mapping {
            start: 0x5000_0000 + n * 0x100_0000,
            pages: 30,
            backing: Backing::Frames(p.alloc_frames(30).unwrap()),
            prot: RW,
        })
        .collect();
    let code = p.alloc_frames(1).unwrap();
    p.write_frame(code, 0, null_call());
    parent.space.map(&pages).unwrap();
    time("fork of 300 pages, first call, exit, wait", ROUNDS / 10, || {
        let child = p.new_space().unwrap();
        for piece in &pages {
            let end = piece.start + u64::from(piece.pages) * 4096;
            parent.space.protect(piece.start..end, Prot::READ);
        }
        let copies: Vec<Mapping> =
            pages.iter().map(|piece| Mapping { prot: Prot::READ, ..*piece }).collect();
        child.map(&copies).unwrap();
        map(&child, CODE, 1, code, common::RX);
        let mut regs = parent.regs;
        let entry = move || {
            let mut cpu = user();
            assert_eq!(cpu.switch(&mut regs, &child), Trap::Syscall);
            drop((cpu, child));
            platform().unpark(me);
        };
        p.spawn("child", Box::new(entry)).unwrap();
        p.park(None);
        for piece in &pages {
            let end = piece.start + u64::from(piece.pages) * 4096;
            parent.space.protect(piece.start..end, RW);
        }
        cpu.switch(&mut parent.regs, &parent.space);
    });
    time("fork, exit, wait, natively, of this process", ROUNDS / 20, native_fork);

    ping_pong();
    // SAFETY: ends this process, with threads that would not end by themselves.
    unsafe { libc::_exit(0) };
}

/// Two tasks that wake each other and make one system call a turn.
fn ping_pong() {
    let p = platform();
    let me = p.current();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let turn = Arc::new(std::sync::atomic::AtomicU32::new(0));
    use std::sync::atomic::Ordering::SeqCst;
    let (stopped, taken) = (Arc::clone(&stop), Arc::clone(&turn));
    let entry = move || {
        let mut program = Program::new(null_call());
        let mut cpu = user();
        while !stopped.load(SeqCst) {
            while taken.load(SeqCst) == 0 && !stopped.load(SeqCst) {
                platform().park(None);
            }
            cpu.switch(&mut program.regs, &program.space);
            taken.store(0, SeqCst);
            platform().unpark(me);
        }
    };
    let other = p.spawn("other", Box::new(entry)).unwrap();
    let mut program = Program::new(null_call());
    let mut cpu = user();
    time("round trip between two tasks, a call each", ROUNDS, || {
        cpu.switch(&mut program.regs, &program.space);
        turn.store(1, SeqCst);
        p.unpark(other);
        while turn.load(SeqCst) == 1 {
            p.park(None);
        }
    });
    stop.store(true, SeqCst);
    p.unpark(other);
}

/// One PTRACE_SYSEMU round with registers read and written, pinned to one CPU.
fn bare_loop() -> f64 {
    // SAFETY: a child that only makes system calls, and ptrace requests on it with buffers of this
    // function.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        let mut before: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&before), &mut before);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
        let pid = libc::fork();
        if pid == 0 {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            loop {
                libc::syscall(libc::SYS_getpid);
            }
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, libc::__WALL);
        let mut regs: libc::user_regs_struct = std::mem::zeroed();
        let us = time("bare loop", ROUNDS, || {
            libc::ptrace(libc::PTRACE_SYSEMU, pid, 0, 0);
            libc::waitpid(pid, &mut status, libc::__WALL);
            libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut regs);
            regs.rax = 1;
            libc::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw mut regs);
        });
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, &mut status, libc::__WALL);
        libc::sched_setaffinity(0, size_of_val(&before), &before);
        us
    }
}

fn native_touch() {
    let len = 4096 * 4096;
    // SAFETY: a new anonymous mapping, written within its length, and unmapped.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        libc::madvise(at, len, libc::MADV_NOHUGEPAGE);
        for page in 0..4096 {
            at.cast::<u8>().add(page * 4096).write_volatile(1);
        }
        libc::munmap(at, len);
    }
}

fn native_fork() {
    // SAFETY: the child exits at once.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(0);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}
