use super::*;
use crate::platform::vector;

const SA_SIGINFO: u64 = 4;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;

fn getpid(u: &mut User) -> u64 {
    u.ok(nr::GETPID, &[])
}

#[test]
fn a_handler_runs_and_the_program_goes_on_with_its_registers() {
    let log = Log::default();
    let seen = log.clone();
    run(move |u| {
        let log = log.clone();
        u.on(10, SA_SIGINFO, 0, move |u, d| {
            log.add(d.signal as i64);
            // si_pid and si_uid.
            log.add((u.load(d.info + 16) & 0xffff_ffff) as i64);
            // Registers are the handler's own.
            u.regs.rbx = 99;
        });
        u.regs.rbx = 42;
        let me = getpid(u);
        assert_eq!(u.ok(nr::KILL, &[me, 10]), 0);
        assert_eq!(u.regs.rbx, 42);
    });
    assert_eq!(seen.all(), [10, 1]);
}

#[test]
fn an_edited_frame_is_honoured() {
    run(|u| {
        u.on(10, SA_SIGINFO, 0, |u, d| {
            // uc_mcontext: rbx is the 12th register, after flags, link and stack.
            u.store(d.context + 40 + 8 * 11, 1234);
            // And the mask that comes back.
            u.store(d.context + 296, bit(12));
        });
        let me = getpid(u);
        u.ok(nr::KILL, &[me, 10]);
        assert_eq!(u.regs.rbx, 1234);
        assert_eq!(u.block(0), bit(12));
    });
}

#[test]
fn blocked_signals_wait_and_come_in_order() {
    let log = Log::default();
    let seen = log.clone();
    run(move |u| {
        for signal in [10, 12, 40] {
            let log = log.clone();
            // Everything is blocked in the handlers, so that they follow one another.
            u.on(signal, 0, u64::MAX, move |_, d| log.add(d.signal as i64));
        }
        u.block(u64::MAX);
        let me = getpid(u);
        for signal in [40, 12, 10, 40, 10] {
            u.ok(nr::KILL, &[me, signal]);
        }
        let at = MEM + 0x500;
        u.ok(nr::RT_SIGPENDING, &[at, 8]);
        assert_eq!(u.load(at), bit(10) | bit(12) | bit(40));
        u.block(0);
    });
    // Frames are stacked in order of number: the last one pushed runs first.
    assert_eq!(seen.all().len(), 4);
    assert_eq!(seen.all().iter().filter(|s| **s == 40).count(), 2);
}

#[test]
fn an_interrupted_call_restarts_only_as_asked() {
    run(|u| {
        let me = getpid(u);
        for (flags, result) in [(0, -4), (SA_RESTART, 7 << 8)] {
            u.on(10, flags, 0, |_, _| {});
            u.block(bit(10));
            let child = u.fork(move |u| {
                u.ok(nr::KILL, &[me, 10]);
                for _ in 0..20 {
                    u.pause();
                }
                u.exit_group(7);
            });
            // The signal is let in by the same call that waits: no race.
            u.block(0);
            let (pid, status) = u.wait(child as i64, 0);
            if pid == -4 {
                assert_eq!(result, -4);
                assert_eq!(u.wait(child as i64, 0).0, child as i64);
            } else {
                assert_eq!((pid, status), (child as i64, 7 << 8));
            }
        }
    });
}

#[test]
fn sigsuspend_restores_the_mask_after_the_handler() {
    let log = Log::default();
    let seen = log.clone();
    run(move |u| {
        let log = log.clone();
        u.on(10, 0, 0, move |_, d| log.add(d.signal as i64));
        u.block(bit(10) | bit(12));
        let me = getpid(u);
        u.ok(nr::KILL, &[me, 10]);
        let at = MEM + 0x500;
        u.store(at, bit(12));
        assert_eq!(u.syscall(nr::RT_SIGSUSPEND, &[at, 8]), -4);
        assert_eq!(u.block(0), bit(10) | bit(12));
    });
    assert_eq!(seen.all(), [10]);
}

#[test]
fn a_handler_on_the_alternate_stack_survives_a_bad_stack() {
    let log = Log::default();
    let seen = log.clone();
    run(move |u| {
        let log = log.clone();
        let alt = MEM + 0x2_0000;
        u.store(MEM + 0x500, alt);
        u.store(MEM + 0x508, 0);
        u.store(MEM + 0x510, 0x2000);
        u.ok(nr::SIGALTSTACK, &[MEM + 0x500, 0]);
        u.on(11, SA_SIGINFO | SA_ONSTACK, 0, move |u, d| {
            assert!(u.regs.rsp > alt && u.regs.rsp < alt + 0x2000);
            log.add((u.load(d.info + 8) & 0xffff_ffff) as i64);
            log.add(u.load(d.info + 16) as i64);
            // trapno, err, cr2 of the sigcontext.
            let context = d.context + 40;
            log.add(u.load(context + 160) as i64);
            log.add(u.load(context + 152) as i64);
            log.add(u.load(context + 176) as i64);
            // Goes on where memory is.
            u.store(context + 8 * 15, MEM + MEM_LEN - 64);
            u.store(MEM + 0x600, 1);
            let page = 0x5000_0000u64;
            // mmap it, so that the access succeeds.
            u.ok(9, &[page, 4096, 3, 0x32, u64::MAX, 0]);
        });
        u.regs.rsp = 0x1000;
        u.store(0x5000_0000, 5);
        assert_eq!(u.load(0x5000_0000), 5);
        assert_eq!(u.load(MEM + 0x600), 1);
    });
    // SEGV_MAPERR at the address; #PF, user write.
    assert_eq!(seen.all(), [1, 0x5000_0000, 14, 6, 0x5000_0000]);
}

#[test]
fn no_room_for_a_frame_is_sigsegv() {
    run(|u| {
        let child = u.fork(|u| {
            u.on(10, 0, 0, |_, _| {});
            u.regs.rsp = 0x1000;
            let me = u.ok(nr::GETPID, &[]);
            u.syscall(nr::KILL, &[me, 10]);
        });
        assert_eq!(u.wait(child as i64, 0), (child as i64, 11));
    });
}

#[test]
fn exceptions_are_the_signals_that_linux_gives() {
    run(|u| {
        for (vector, signal) in [
            (vector::DIVIDE_ERROR, 8),
            (vector::INVALID_OPCODE, 4),
            (vector::BREAKPOINT, 5),
            (vector::GENERAL_PROTECTION, 11),
            (vector::STACK_SEGMENT, 7),
            (vector::ALIGNMENT_CHECK, 7),
        ] {
            let child = u.fork(move |u| u.exception(vector, 0));
            assert_eq!(u.wait(child as i64, 0), (child as i64, signal), "vector {vector}");
            // Blocked or ignored, it is deadly all the same.
            let child = u.fork(move |u| {
                u.block(u64::MAX);
                u.set_action(signal as u64, 1);
                u.exception(vector, 0);
            });
            assert_eq!(u.wait(child as i64, 0), (child as i64, signal), "vector {vector}");
        }
    });
}

#[test]
fn resethand_and_nodefer_do_what_they_say() {
    let log = Log::default();
    let seen = log.clone();
    run(move |u| {
        let me = getpid(u);
        let inner = log.clone();
        u.on(10, SA_RESETHAND, 0, move |_, d| inner.add(d.signal as i64));
        u.ok(nr::KILL, &[me, 10]);
        // The default action of an init is nothing.
        u.ok(nr::KILL, &[me, 10]);
        let inner = log.clone();
        u.on(12, SA_NODEFER, 0, move |u, d| {
            inner.add(d.signal as i64);
            if inner.all().len() < 3 {
                u.ok(nr::KILL, &[1, 12]);
                inner.add(-1);
            }
        });
        u.ok(nr::KILL, &[me, 12]);
    });
    assert_eq!(seen.all(), [10, 12, 12, -1]);
}

#[test]
fn timedwait_takes_what_is_blocked() {
    run(|u| {
        u.block(bit(10) | bit(40));
        let me = getpid(u);
        let (set, info, time) = (MEM + 0x500, MEM + 0x580, MEM + 0x510);
        u.store(set, bit(10) | bit(40));
        u.store(time, 0);
        u.store(time + 8, 0);
        assert_eq!(u.syscall(nr::RT_SIGTIMEDWAIT, &[set, info, time, 8]), -11);
        // A queued value comes through.
        u.store(info, 40);
        u.store(info + 8, 0xffff_ffff);
        u.store(info + 24, 0x1234);
        u.ok(nr::RT_SIGQUEUEINFO, &[me, 40, info]);
        u.store(info + 24, 0);
        assert_eq!(u.ok(nr::RT_SIGTIMEDWAIT, &[set, info, time, 8]), 40);
        assert_eq!(u.load(info + 24), 0x1234);
        // From another process, while it waits.
        u.fork(move |u| {
            for _ in 0..20 {
                u.pause();
            }
            u.ok(nr::KILL, &[me, 10]);
        });
        assert_eq!(u.ok(nr::RT_SIGTIMEDWAIT, &[set, info, 0, 8]), 10);
        u.wait(-1, 0);
    });
}

#[test]
fn a_signal_goes_to_a_thread_that_does_not_block_it() {
    let log = Log::default();
    let seen = log.clone();
    run(move |u| {
        let log = log.clone();
        u.on(10, 0, 0, move |u, _| {
            log.add(u.ok(nr::GETTID, &[]) as i64);
            u.store(MEM, 2);
        });
        let old = u.block(bit(10));
        assert_eq!(old, 0);
        let tid = u.thread(MEM + 0x8000, |u| {
            u.block(0);
            u.store(MEM, 1);
            u.syscall(nr::PAUSE, &[]);
            u.syscall(nr::EXIT, &[0]);
        });
        u.until(MEM, 1);
        let me = getpid(u);
        u.ok(nr::KILL, &[me, 10]);
        u.until(MEM, 2);
        u.store(MEM + 8, tid);
    });
    assert_eq!(seen.all(), [2]);
}

#[test]
fn tgkill_reaches_one_thread_only() {
    run(|u| {
        u.on(10, 0, 0, |u, _| {
            let tid = u.ok(nr::GETTID, &[]);
            u.store(MEM, tid);
        });
        let tid = u.thread(MEM + 0x8000, |u| {
            u.syscall(nr::PAUSE, &[]);
            u.syscall(nr::EXIT, &[0]);
        });
        assert_eq!(u.syscall(nr::TGKILL, &[2, tid, 10]), -3);
        u.ok(nr::TGKILL, &[1, tid, 10]);
        u.until(MEM, tid as u32);
    });
}

#[test]
fn job_control_spares_orphaned_groups() {
    run(|u| {
        // Init's own group has no parent outside of it: SIGTSTP does nothing there.
        let child = u.fork(|u| {
            let me = u.ok(nr::GETPID, &[]);
            u.ok(nr::KILL, &[me, 20]);
            u.exit_group(0);
        });
        assert_eq!(u.wait(child as i64, 2), (child as i64, 0));
    });
}
