use std::vec;

use super::*;
use crate::task::tests::{bit, nr as task_nr, run};

const NONBLOCK: u64 = 0o4000;

#[test]
fn a_pipe_carries_bytes_between_processes_and_ends_with_the_last_writer() {
    run(|u| {
        let (r, w) = u.pipe(0);
        let child = u.fork(move |u| {
            u.ok(nr::CLOSE, &[r]);
            for n in 0..200u64 {
                let data = vec![n as u8; 1000];
                assert_eq!(u.write_fd(w, &data), 1000);
            }
            u.exit_group(0);
        });
        u.ok(nr::CLOSE, &[w]);
        let mut all = Vec::new();
        loop {
            let data = u.read_fd(r, 3000).unwrap();
            if data.is_empty() {
                break;
            }
            all.extend(data);
        }
        assert_eq!(all.len(), 200_000);
        assert!(all.iter().enumerate().all(|(i, b)| *b == (i / 1000) as u8));
        assert_eq!(u.wait(child as i64, 0).1, 0);
    });
}

#[test]
fn a_full_pipe_takes_what_fits_and_nothing_small_in_part() {
    run(|u| {
        let (r, w) = u.pipe(NONBLOCK);
        assert_eq!(u.read_fd(r, 10), Err(-11));
        assert_eq!(u.write_fd(w, &vec![1; 65536 - 100]), 65536 - 100);
        assert_eq!(u.write_fd(w, &[2; 200]), -11);
        assert_eq!(u.write_fd(w, &[2; 100]), 100);
        assert_eq!(u.write_fd(w, &[3; 1]), -11);
        assert_eq!(u.read_fd(r, 4096).unwrap().len(), 4096);
        // More than PIPE_BUF goes as far as there is room.
        assert_eq!(u.write_fd(w, &vec![4; 10_000]), 4096);
    });
}

#[test]
fn a_blocked_reader_is_interrupted_and_restarts() {
    run(|u| {
        let (r, w) = u.pipe(0);
        // Without SA_RESTART.
        u.on(10, 0, 0, |_, _| {});
        u.ok(task_nr::GETPID, &[]);
        let parent = u.ok(task_nr::GETPID, &[]);
        u.block(bit(10));
        let child = u.fork(move |u| {
            u.ok(task_nr::KILL, &[parent, 10]);
            u.exit_group(0);
        });
        u.wait(child as i64, 0);
        u.block(0);
        let child = u.fork(move |u| {
            // The reader may not wait yet; then the handler runs before it does, so again.
            for _ in 0..50 {
                u.ok(task_nr::KILL, &[parent, 10]);
                crate::platform::platform().yield_now();
            }
            u.exit_group(0);
        });
        let first = u.read_fd(r, 10);
        assert!(first == Err(-4) || first.is_ok());
        u.wait(child as i64, 0);
        // With it, a handler changes nothing.
        u.on(10, 0x1000_0000, 0, |_, _| {});
        let child = u.fork(move |u| {
            for _ in 0..20 {
                u.ok(task_nr::KILL, &[parent, 10]);
                crate::platform::platform().yield_now();
            }
            assert_eq!(u.write_fd(w, b"data"), 4);
            u.exit_group(0);
        });
        assert_eq!(u.read_fd(r, 10).unwrap(), b"data");
        while u.wait(child as i64, 0).0 == -4 {}
    });
}

#[test]
fn writing_where_nobody_reads_raises_sigpipe() {
    run(|u| {
        let (r, w) = u.pipe(0);
        u.ok(nr::CLOSE, &[r]);
        u.set_action(13, 1);
        assert_eq!(u.write_fd(w, b"x"), -32);
        let child = u.fork(move |u| {
            u.set_action(13, 0);
            u.write_fd(w, b"x");
            u.exit_group(0);
        });
        assert_eq!(u.wait(child as i64, 0).1, 13);
    });
}

#[test]
fn a_fifo_waits_for_its_other_end() {
    run(|u| {
        let path = u.path("/fifo");
        u.ok(nr::MKNODAT, &[-100i64 as u64, path, 0o010644, 0]);
        assert_eq!(u.open("/fifo", 1 | NONBLOCK), -6);
        let early = u.open("/fifo", NONBLOCK);
        assert!(early >= 0);
        assert_eq!(u.read_fd(early as u64, 10).unwrap(), b"");
        u.ok(nr::CLOSE, &[early as u64]);
        let child = u.fork(|u| {
            let w = u.open("/fifo", 1);
            assert!(w >= 0);
            assert_eq!(u.write_fd(w as u64, b"through"), 7);
            u.exit_group(0);
        });
        let r = u.open("/fifo", 0);
        assert_eq!(u.read_fd(r as u64, 100).unwrap(), b"through");
        assert_eq!(u.read_fd(r as u64, 100).unwrap(), b"");
        assert_eq!(u.wait(child as i64, 0).1, 0);
    });
}

#[test]
fn a_writer_that_was_there_first_hangs_up_too() {
    run(|u| {
        let path = u.path("/fifo");
        u.ok(nr::MKNODAT, &[-100i64 as u64, path, 0o010644, 0]);
        let first = u.open("/fifo", 2) as u64;
        let r = u.open("/fifo", NONBLOCK) as u64;
        let events = |u: &mut User| {
            u.store(BUF, r | 1 << 32);
            assert!(u.syscall(nr::POLL, &[BUF, 1, 0]) >= 0);
            u.load(BUF) >> 48
        };
        assert_eq!(events(u), 0);
        u.ok(nr::CLOSE, &[first]);
        assert_eq!(events(u), 0x10, "POLLHUP");
        // One that finds no writer waits for the first.
        let late = u.open("/fifo", NONBLOCK) as u64;
        u.store(BUF, late | 1 << 32);
        assert_eq!(u.syscall(nr::POLL, &[BUF, 1, 0]), 0);
    });
}

#[test]
fn record_locks_belong_to_processes_and_go_with_any_close() {
    run(|u| {
        let fd = u.open("/f", 0o102) as u64;
        let lock = |u: &mut User, kind: u64, start: u64, len: u64| {
            u.store(BUF, kind);
            u.store(BUF + 8, start);
            u.store(BUF + 16, len);
            u.store(BUF + 24, 0);
        };
        lock(u, 1, 10, 10);
        u.ok(nr::FCNTL, &[fd, 6, BUF]);
        let (seen, tell) = u.pipe(0);
        let child = u.fork(move |u| {
            let lock = |u: &mut User, kind: u64, start: u64, len: u64| {
                u.store(BUF, kind);
                u.store(BUF + 8, start);
                u.store(BUF + 16, len);
            };
            lock(u, 0, 0, 10);
            u.ok(nr::FCNTL, &[fd, 6, BUF]);
            lock(u, 0, 0, 11);
            assert_eq!(u.syscall(nr::FCNTL, &[fd, 6, BUF]), -11);
            lock(u, 1, 0, 0);
            u.ok(nr::FCNTL, &[fd, 5, BUF]);
            assert_eq!(u.load(BUF) as u16, 1);
            assert_eq!((u.load(BUF + 8), u.load(BUF + 16), u.load(BUF + 24) as u32), (10, 10, 1));
            u.write_fd(tell, b"seen");
            // Waits until the parent has closed it.
            lock(u, 1, 0, 0);
            u.ok(nr::FCNTL, &[fd, 7, BUF]);
            u.exit_group(0);
        });
        u.read_fd(seen, 4).unwrap();
        let other = u.open("/f", 0);
        u.ok(nr::CLOSE, &[other as u64]);
        assert_eq!(u.wait(child as i64, 0).1, 0);
    });
}
