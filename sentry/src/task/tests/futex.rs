use super::*;

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const PRIVATE: u64 = 128;

#[test]
fn a_waiter_is_woken_and_a_changed_word_is_not_waited_for() {
    run(|u| {
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT, 1, 0]), -11);
        assert_eq!(u.syscall(nr::FUTEX, &[MEM + 1, WAIT, 0, 0]), -22);
        assert_eq!(u.syscall(nr::FUTEX, &[0x1000, WAIT, 0, 0]), -14);
        u.thread(MEM + 0x8000, |u| {
            while u.syscall(nr::FUTEX, &[MEM, WAIT | PRIVATE, 0, 0]) == 0
                && u.atomic(MEM, AtomicOp::Load) == 0
            {}
            u.store(MEM + 8, 1);
            u.syscall(nr::EXIT, &[0]);
        });
        u.store(MEM, 1);
        u.ok(nr::FUTEX, &[MEM, WAKE | PRIVATE, 1]);
        u.until(MEM + 8, 1);
    });
}

#[test]
fn a_timeout_ends_the_wait_by_either_clock() {
    run(|u| {
        let time = MEM + 0x500;
        u.store(time, 0);
        u.store(time + 8, 1_000_000);
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT, 0, time]), -110);
        // Absolute, long past.
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT_BITSET, 0, time, 0, 1]), -110);
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT_BITSET | 256, 0, time, 0, 1]), -110);
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT_BITSET, 0, time, 0, 0]), -22);
    });
}

#[test]
fn waiters_are_requeued_and_only_as_many_as_asked_are_woken() {
    run(|u| {
        for n in 0..4 {
            u.thread(MEM + 0x8000 + n * 0x1000, move |u| {
                assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT, 0, 0]), 0);
                u.atomic(MEM + 16, AtomicOp::Add(1));
                u.syscall(nr::EXIT, &[0]);
            });
        }
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, CMP_REQUEUE, 1, 1, MEM + 8, 5]), -11);
        let (mut woken, mut moved) = (0, 0);
        while woken + moved < 4 {
            let most = u64::from(woken == 0);
            let n = u.ok(nr::FUTEX, &[MEM, CMP_REQUEUE, most, 10, MEM + 8, 0]);
            if n > 0 && woken == 0 {
                woken = 1;
                moved += n - 1;
            } else {
                moved += n;
            }
        }
        u.until(MEM + 16, 1);
        assert_eq!(u.ok(nr::FUTEX, &[MEM, WAKE, 10]), 0);
        assert_eq!(u.ok(nr::FUTEX, &[MEM + 8, REQUEUE, 1, 0, MEM]), 1);
        assert_eq!(u.ok(nr::FUTEX, &[MEM + 8, WAKE, 10]), 2);
        u.until(MEM + 16, 4);
    });
}

#[test]
fn bitsets_choose_whom_to_wake() {
    run(|u| {
        u.thread(MEM + 0x8000, |u| {
            assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT_BITSET, 0, 0, 0, 2]), 0);
            u.store(MEM + 8, 1);
            u.syscall(nr::EXIT, &[0]);
        });
        for _ in 0..10 {
            assert_eq!(u.ok(nr::FUTEX, &[MEM, WAKE_BITSET, 1, 0, 0, 1]), 0);
        }
        while u.ok(nr::FUTEX, &[MEM, WAKE_BITSET, 1, 0, 0, 3]) == 0 {
            u.pause();
        }
        u.until(MEM + 8, 1);
    });
}

#[test]
fn a_signal_interrupts_a_wait_and_it_goes_on_after() {
    run(|u| {
        u.on(10, 0x1000_0000, 0, |u, _| u.store(MEM + 24, 1));
        let tid = u.thread(MEM + 0x8000, |u| {
            u.store(MEM + 16, 1);
            // SA_RESTART: it waits again.
            assert_eq!(u.syscall(nr::FUTEX, &[MEM, WAIT, 0, 0]), 0);
            u.store(MEM + 8, 1);
            u.syscall(nr::EXIT, &[0]);
        });
        u.until(MEM + 16, 1);
        u.ok(nr::TGKILL, &[1, tid, 10]);
        u.until(MEM + 24, 1);
        while u.ok(nr::FUTEX, &[MEM, WAKE, 1]) == 0 {
            u.pause();
        }
        u.until(MEM + 8, 1);
    });
}

#[test]
fn a_pi_lock_is_handed_over_and_its_word_tells_the_owner() {
    run(|u| {
        u.ok(nr::FUTEX, &[MEM, LOCK_PI, 0, 0]);
        assert_eq!(u.load(MEM) as u32, 1);
        assert_eq!(u.syscall(nr::FUTEX, &[MEM, LOCK_PI, 0, 0]), -35);
        let tid = u.thread(MEM + 0x8000, |u| {
            assert_eq!(u.syscall(nr::FUTEX, &[MEM, UNLOCK_PI, 0, 0]), -1);
            u.ok(nr::FUTEX, &[MEM, LOCK_PI, 0, 0]);
            let tid = u.ok(nr::GETTID, &[]);
            assert_eq!(u.load(MEM) & 0x3fff_ffff, tid);
            u.ok(nr::FUTEX, &[MEM, UNLOCK_PI, 0, 0]);
            u.store(MEM + 8, 1);
            u.syscall(nr::EXIT, &[0]);
        });
        u.until(MEM, 0x8000_0001);
        u.ok(nr::FUTEX, &[MEM, UNLOCK_PI, 0, 0]);
        u.until(MEM + 8, 1);
        u.until(MEM, 0);
        assert!(tid > 1);
    });
}

#[test]
fn a_robust_lock_of_a_dead_owner_says_so() {
    run(|u| {
        // struct robust_list_head at +0x100, one lock at +0x200 whose word is 8 bytes on.
        u.thread(MEM + 0x8000, |u| {
            let (head, lock) = (MEM + 0x100, MEM + 0x200);
            let tid = u.ok(nr::GETTID, &[]);
            u.store(head, lock);
            u.store(head + 8, 8);
            u.store(head + 16, 0);
            u.store(lock, head);
            u.store(lock + 8, tid | 0x8000_0000);
            u.ok(nr::SET_ROBUST_LIST, &[head, 24]);
            u.syscall(nr::EXIT, &[0]);
        });
        u.until(MEM + 0x208, 0xc000_0000);
    });
}
