use super::*;
use crate::task::tests::run;

const TIMERFD_CREATE: u64 = 283;
const TIMERFD_SETTIME: u64 = 286;
const TIMERFD_GETTIME: u64 = 287;
const CLOCK_GETTIME: u64 = 228;
const NONBLOCK: u64 = 0o4000;
const MS: u64 = 1_000_000;

/// Sets a timer to nanoseconds: value and interval.
fn set(u: &mut User, fd: u64, flags: u64, value: u64, interval: u64) -> i64 {
    for (n, ns) in [interval, value].into_iter().enumerate() {
        u.store(OUT + 16 * n as u64, ns / 1_000_000_000);
        u.store(OUT + 16 * n as u64 + 8, ns % 1_000_000_000);
    }
    u.syscall(TIMERFD_SETTIME, &[fd, flags, OUT, OUT + 64])
}

fn get(u: &mut User, fd: u64) -> (u64, u64) {
    u.ok(TIMERFD_GETTIME, &[fd, OUT]);
    let ns = |u: &mut User, at| u.load(at) * 1_000_000_000 + u.load(at + 8);
    let interval = ns(u, OUT);
    (ns(u, OUT + 16), interval)
}

fn expired(u: &mut User, fd: u64) -> Result<u64, i64> {
    u.read_fd(fd, 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

#[test]
fn a_timerfd_expires_once_or_again_and_again() {
    run(|u| {
        let t = u.ok(TIMERFD_CREATE, &[1, 0]);
        assert_eq!(get(u, t), (0, 0));
        assert_eq!(set(u, t, 0, 5 * MS, 0), 0);
        let (left, interval) = get(u, t);
        assert!(left > 0 && left <= 5 * MS && interval == 0);
        assert_eq!(u.read_fd(t, 7), Err(-22));
        assert_eq!(expired(u, t), Ok(1));
        assert_eq!(get(u, t), (0, 0));
        assert_eq!(set(u, t, 0, MS, 2 * MS), 0);
        u.store(BUF, 0);
        u.store(BUF + 8, 15 * MS);
        u.ok(35, &[BUF, 0]);
        assert!(expired(u, t).unwrap() >= 7);
        assert!(expired(u, t).unwrap() >= 1);
        // What was set before comes back, and disarming forgets what has expired.
        assert_eq!(set(u, t, 0, 0, 0), 0);
        assert_eq!(u.load(OUT + 64 + 8), 2 * MS);
        u.ok(nr::FCNTL, &[t, 4, NONBLOCK]);
        assert_eq!(expired(u, t), Err(-11));
    });
}

#[test]
fn a_timerfd_takes_times_of_its_clock() {
    run(|u| {
        for clock in [0, 1, 7, 8, 9] {
            let t = u.ok(TIMERFD_CREATE, &[clock, NONBLOCK]);
            u.ok(CLOCK_GETTIME, &[clock, BUF]);
            let now = u.load(BUF) * 1_000_000_000 + u.load(BUF + 8);
            // Past times expire at once; TFD_TIMER_CANCEL_ON_SET changes nothing: nobody sets clocks.
            assert_eq!(set(u, t, 1, 1, 0), 0);
            assert_eq!(expired(u, t), Ok(1), "clock {clock}");
            assert_eq!(set(u, t, 3, now + 3_600_000_000_000, 0), 0);
            assert_eq!(expired(u, t), Err(-11));
            let (left, _) = get(u, t);
            assert!(left > 3_500_000_000_000 && left <= 3_600_000_000_000, "clock {clock}: {left}");
            u.ok(nr::CLOSE, &[t]);
        }
        for clock in [2, 3, 4, 5, 6, 99] {
            assert_eq!(u.syscall(TIMERFD_CREATE, &[clock, 0]), -22, "clock {clock}");
        }
        assert_eq!(u.syscall(TIMERFD_CREATE, &[1, 1]), -22);
        let t = u.ok(TIMERFD_CREATE, &[1, 0]);
        assert_eq!(set(u, t, 4, 1, 0), -22);
        u.store(OUT + 24, 1_000_000_000);
        assert_eq!(u.syscall(TIMERFD_SETTIME, &[t, 0, OUT, 0]), -22);
        let (r, _) = u.pipe(0);
        assert_eq!(u.syscall(TIMERFD_GETTIME, &[r, OUT]), -22);
    });
}

#[test]
fn poll_and_epoll_wait_for_a_timerfd() {
    run(|u| {
        let t = u.ok(TIMERFD_CREATE, &[1, NONBLOCK]);
        assert_eq!(set(u, t, 0, 5 * MS, 0), 0);
        u.store(OUT, t | 1 << 32);
        assert_eq!(u.syscall(nr::POLL, &[OUT, 1, 0]), 0);
        assert_eq!(u.syscall(nr::POLL, &[OUT, 1, u64::MAX]), 1);
        assert_eq!(u.load(OUT) >> 48, 1);
        assert_eq!(expired(u, t), Ok(1));
        let ep = u.ok(nr::EPOLL_CREATE1, &[0]);
        // Edge-triggered, with 7 as data.
        u.write(BUF, &[1, 0, 0, 0x80, 7, 0, 0, 0, 0, 0, 0, 0]);
        u.ok(nr::EPOLL_CTL, &[ep, 1, t, BUF]);
        assert_eq!(set(u, t, 0, 2 * MS, 0), 0);
        assert_eq!(u.syscall(nr::EPOLL_WAIT, &[ep, OUT, 1, u64::MAX]), 1);
        assert_eq!(u.syscall(nr::EPOLL_WAIT, &[ep, OUT, 1, 0]), 0);
        assert_eq!(set(u, t, 0, 2 * MS, 0), 0);
        assert_eq!(u.syscall(nr::EPOLL_WAIT, &[ep, OUT, 1, u64::MAX]), 1);
    });
}
