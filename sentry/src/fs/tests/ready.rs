use super::*;
use crate::task::tests::{bit, nr as task_nr, run};

const NONBLOCK: u64 = 0o4000;

fn poll(u: &mut User, fds: &[(u64, u16)], millis: i64) -> (i64, Vec<u16>) {
    for (n, (fd, events)) in fds.iter().enumerate() {
        let word = (*fd as u32 as u64) | u64::from(*events) << 32;
        u.store(OUT + 8 * n as u64, word);
    }
    let count = u.syscall(nr::POLL, &[OUT, fds.len() as u64, millis as u64]);
    let found = (0..fds.len()).map(|n| (u.load(OUT + 8 * n as u64) >> 48) as u16).collect();
    (count, found)
}

#[test]
fn poll_tells_what_is_ready_and_waits_for_it() {
    run(|u| {
        let (r, w) = u.pipe(0);
        assert_eq!(poll(u, &[(r, 1), (w, 4)], 0), (1, [0, 4].into()));
        assert_eq!(poll(u, &[(r, 1)], 5), (0, [0].into()));
        assert_eq!(poll(u, &[(99, 1), (u64::MAX, 1)], -1), (1, [0x20, 0].into()));
        let child = u.fork(move |u| {
            u.ok(nr::CLOSE, &[r]);
            u.write_fd(w, b"x");
            u.exit_group(0);
        });
        u.ok(nr::CLOSE, &[w]);
        assert_eq!(poll(u, &[(r, 1)], -1).1[0] & 1, 1);
        u.wait(child as i64, 0);
        assert_eq!(u.read_fd(r, 10).unwrap(), b"x");
        assert_eq!(poll(u, &[(r, 1)], -1), (1, [0x10].into()));
    });
}

#[test]
fn select_fills_its_sets_and_keeps_what_is_left_of_the_timeout() {
    run(|u| {
        let (r, w) = u.pipe(0);
        u.store(BUF, 1 << r | 1 << w);
        u.store(BUF + 8, 1 << r | 1 << w);
        u.store(OUT, 5);
        u.store(OUT + 8, 0);
        assert_eq!(u.ok(nr::SELECT, &[w + 1, BUF, BUF + 8, 0, OUT]), 1);
        assert_eq!((u.load(BUF), u.load(BUF + 8)), (0, 1 << w));
        assert!(u.load(OUT) <= 5);
        u.store(BUF, 1 << 63);
        assert_eq!(u.syscall(nr::SELECT, &[64, BUF, 0, 0, OUT]), -9);
    });
}

#[test]
fn ppoll_lets_a_blocked_signal_through() {
    run(|u| {
        let (r, _w) = u.pipe(0);
        u.on(10, 0x1000_0000, 0, |_, _| {});
        u.block(bit(10));
        let me = u.ok(task_nr::GETPID, &[]);
        u.ok(task_nr::KILL, &[me, 10]);
        u.store(OUT, r | 1 << 32);
        u.store(OUT + 8, 0);
        assert_eq!(u.syscall(nr::PPOLL, &[OUT, 1, 0, OUT + 8, 8]), -4);
        assert_eq!(u.block(0), bit(10));
    });
}

fn ctl(u: &mut User, ep: u64, op: u64, fd: u64, events: u32, data: u64) -> i64 {
    let mut raw = events.to_le_bytes().to_vec();
    raw.extend(data.to_le_bytes());
    u.write(BUF, &raw);
    u.syscall(nr::EPOLL_CTL, &[ep, op, fd, BUF])
}

fn wait(u: &mut User, ep: u64, millis: i64) -> Vec<(u32, u64)> {
    let n = u.ok(nr::EPOLL_WAIT, &[ep, OUT, 8, millis as u64]);
    (0..n)
        .map(|i| {
            let raw = u.read(OUT + 12 * i, 12);
            let events = u32::from_le_bytes(raw[..4].try_into().unwrap());
            (events, u64::from_le_bytes(raw[4..].try_into().unwrap()))
        })
        .collect()
}

const EDGE: u32 = 1 << 31;
const ONESHOT: u32 = 1 << 30;

#[test]
fn epoll_reports_levels_edges_and_one_shots() {
    run(|u| {
        let ep = u.ok(nr::EPOLL_CREATE1, &[0]);
        let (r, w) = u.pipe(NONBLOCK);
        let file = u.open("/plain", 0o102) as u64;
        assert_eq!(ctl(u, ep, 1, file, 1, 0), -1);
        assert_eq!(ctl(u, ep, 1, ep, 1, 0), -22);
        assert_eq!(ctl(u, ep, 1, r, 1, 7), 0);
        assert_eq!(ctl(u, ep, 1, r, 1, 7), -17);
        assert_eq!(wait(u, ep, 0), []);
        u.write_fd(w, b"ab");
        assert_eq!(wait(u, ep, -1), [(1, 7)]);
        assert_eq!(wait(u, ep, -1), [(1, 7)]);
        assert_eq!(ctl(u, ep, 3, r, 1 | EDGE, 8), 0);
        assert_eq!(wait(u, ep, -1), [(1, 8)]);
        assert_eq!(wait(u, ep, 0), []);
        u.write_fd(w, b"c");
        assert_eq!(wait(u, ep, -1), [(1, 8)]);
        assert_eq!(ctl(u, ep, 3, r, 1 | ONESHOT, 9), 0);
        assert_eq!(wait(u, ep, -1), [(1, 9)]);
        u.write_fd(w, b"d");
        assert_eq!(wait(u, ep, 0), []);
        assert_eq!(ctl(u, ep, 3, r, 1, 9), 0);
        assert_eq!(wait(u, ep, 0), [(1, 9)]);
        assert_eq!(ctl(u, ep, 2, r, 0, 0), 0);
        assert_eq!(ctl(u, ep, 2, r, 0, 0), -2);
        assert_eq!(wait(u, ep, 0), []);
    });
}

#[test]
fn epoll_forgets_closed_files_and_nests() {
    run(|u| {
        let (inner, outer) = (u.ok(nr::EPOLL_CREATE1, &[0]), u.ok(nr::EPOLL_CREATE1, &[0]));
        let event = u.ok(nr::EVENTFD2, &[0, NONBLOCK]);
        assert_eq!(ctl(u, inner, 1, event, 1, 1), 0);
        assert_eq!(ctl(u, outer, 1, inner, 1, 2), 0);
        assert_eq!(ctl(u, inner, 1, outer, 1, 3), -40);
        let child = u.fork(move |u| {
            u.write_fd(event, &1u64.to_le_bytes());
            u.exit_group(0);
        });
        assert_eq!(wait(u, outer, -1), [(1, 2)]);
        assert_eq!(wait(u, inner, -1), [(1, 1)]);
        u.wait(child as i64, 0);
        assert_eq!(u.read_fd(event, 8).unwrap(), 1u64.to_le_bytes());
        assert_eq!(wait(u, outer, 0), []);
        u.write_fd(event, &1u64.to_le_bytes());
        u.ok(nr::CLOSE, &[event]);
        assert_eq!(wait(u, inner, 0), []);
    });
}

#[test]
fn an_eventfd_counts() {
    run(|u| {
        let e = u.ok(nr::EVENTFD2, &[3, NONBLOCK]);
        assert_eq!(u.read_fd(e, 7), Err(-22));
        assert_eq!(u.read_fd(e, 8).unwrap(), 3u64.to_le_bytes());
        assert_eq!(u.read_fd(e, 8), Err(-11));
        assert_eq!(u.write_fd(e, &u64::MAX.to_le_bytes()), -22);
        assert_eq!(u.write_fd(e, &(u64::MAX - 1).to_le_bytes()), 8);
        assert_eq!(u.write_fd(e, &1u64.to_le_bytes()), -11);
        let s = u.ok(nr::EVENTFD2, &[2, NONBLOCK | 1]);
        assert_eq!(u.read_fd(s, 8).unwrap(), 1u64.to_le_bytes());
        assert_eq!(u.read_fd(s, 8).unwrap(), 1u64.to_le_bytes());
        assert_eq!(u.read_fd(s, 8), Err(-11));
    });
}
