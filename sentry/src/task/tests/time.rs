use super::*;

#[test]
fn sleeping_takes_its_time_and_checks_it() {
    run(|u| {
        let time = MEM + 0x500;
        u.store(time, 0);
        u.store(time + 8, 2_000_000);
        let before = platform().monotonic();
        u.ok(nr::NANOSLEEP, &[time, 0]);
        assert!(platform().monotonic() >= before + 2_000_000);
        u.store(time + 8, 1_000_000_000);
        assert_eq!(u.syscall(nr::NANOSLEEP, &[time, 0]), -22);
        assert_eq!(u.syscall(nr::CLOCK_NANOSLEEP, &[3, 0, time, 0]), -22);
        // Absolute and long past.
        u.store(time + 8, 1);
        u.ok(nr::CLOCK_NANOSLEEP, &[0, 1, time, 0]);
    });
}

#[test]
fn a_sleep_that_is_interrupted_says_what_is_left() {
    run(|u| {
        u.on(10, 0x1000_0000, 0, |_, _| {});
        let (time, rest) = (MEM + 0x500, MEM + 0x510);
        u.store(time, 1000);
        u.store(time + 8, 0);
        let child = u.fork(|u| {
            let pause = MEM + 0x520;
            u.store(pause, 0);
            u.store(pause + 8, 1_000_000);
            // Again and again: the first may come before the sleep has begun.
            loop {
                u.ok(nr::KILL, &[1, 10]);
                u.ok(nr::NANOSLEEP, &[pause, 0]);
            }
        });
        // SA_RESTART does not restart it: a handler ran.
        assert_eq!(u.syscall(nr::NANOSLEEP, &[time, rest]), -4);
        assert!(u.load(rest) >= 900 && u.load(rest) <= 1000);
        u.ok(nr::KILL, &[child, 9]);
        assert_eq!(u.wait(child as i64, 0), (child as i64, 9));
    });
}

#[test]
fn a_stop_in_the_middle_of_a_sleep_does_not_end_it() {
    run(|u| {
        let child = u.fork(|u| {
            let time = MEM + 0x500;
            u.store(time, 0);
            u.store(time + 8, 30_000_000);
            let before = platform().monotonic();
            u.ok(nr::NANOSLEEP, &[time, 0]);
            assert!(platform().monotonic() >= before + 30_000_000);
            u.exit_group(0);
        });
        u.ok(nr::KILL, &[child, 19]);
        assert_eq!(u.wait(child as i64, 2).0, child as i64);
        u.ok(nr::KILL, &[child, 18]);
        assert_eq!(u.wait(child as i64, 0), (child as i64, 0));
    });
}

#[test]
fn an_interval_timer_signals_again_and_again() {
    run(|u| {
        u.on(14, 0, 0, |u, _| {
            u.atomic(MEM, AtomicOp::Add(1));
        });
        let time = MEM + 0x500;
        for (n, word) in [0, 1000, 0, 1000].into_iter().enumerate() {
            u.store(time + 8 * n as u64, word);
        }
        u.ok(nr::SETITIMER, &[0, time, 0]);
        while u.atomic(MEM, AtomicOp::Load) < 3 {
            u.syscall(nr::PAUSE, &[]);
        }
        for n in 0..4 {
            u.store(time + 8 * n, 0);
        }
        u.ok(nr::SETITIMER, &[0, time, time + 0x40]);
        assert_eq!(u.load(time + 0x48), 1000);
        // alarm(2) shares it.
        assert_eq!(u.ok(nr::ALARM, &[100]), 0);
        assert_eq!(u.ok(nr::ALARM, &[0]), 100);
    });
}

#[test]
fn a_posix_timer_carries_its_value_and_counts_overruns() {
    run(|u| {
        u.block(bit(40));
        let (event, id, time) = (MEM + 0x500, MEM + 0x540, MEM + 0x560);
        u.store(event, 0xabcd);
        u.store(event + 8, 40);
        u.ok(nr::TIMER_CREATE, &[1, event, id]);
        let timer = u.load(id) & 0xffff_ffff;
        for (n, word) in [0, 1_000_000, 0, 1_000_000].into_iter().enumerate() {
            u.store(time + 8 * n as u64, word);
        }
        u.ok(nr::TIMER_SETTIME, &[timer, 0, time, 0]);
        // Lets it overrun while the signal waits.
        u.store(event + 32, 0);
        u.store(event + 40, 10_000_000);
        u.ok(nr::NANOSLEEP, &[event + 32, 0]);
        let (set, info) = (MEM + 0x600, MEM + 0x680);
        u.store(set, bit(40));
        assert_eq!(u.ok(nr::RT_SIGTIMEDWAIT, &[set, info, 0, 8]), 40);
        assert_eq!(u.load(info + 24), 0xabcd);
        let overrun = u.load(info + 16) >> 32;
        assert!(overrun >= 1, "{overrun}");
        assert_eq!(u.ok(nr::TIMER_GETOVERRUN, &[timer]), overrun);
        assert_eq!(u.syscall(nr::TIMER_GETOVERRUN, &[timer + 1]), -22);
    });
}
