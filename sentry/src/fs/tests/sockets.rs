use std::vec;

use super::*;
use crate::task::tests::run;

const SOCKET: u64 = 41;
const CONNECT: u64 = 42;
const ACCEPT: u64 = 43;
const SENDTO: u64 = 44;
const RECVFROM: u64 = 45;
const SENDMSG: u64 = 46;
const BIND: u64 = 49;
const LISTEN: u64 = 50;
const SOCKETPAIR: u64 = 53;
const STREAM: u64 = 1;
const DGRAM: u64 = 2;
const NONBLOCK: u64 = 0o4000;
const DONTWAIT: u64 = 0x40;

fn pair(u: &mut User, kind: u64) -> (u64, u64) {
    u.ok(SOCKETPAIR, &[1, kind, 0, OUT]);
    let both = u.load(OUT);
    (both & 0xffff_ffff, both >> 32)
}

/// Puts an address into memory: its length.
fn address(u: &mut User, name: &[u8]) -> u64 {
    let mut bytes = vec![1, 0];
    bytes.extend(name);
    u.write(PATH, &bytes);
    bytes.len() as u64
}

/// Sends a byte and a descriptor.
fn pass(u: &mut User, to: u64, fd: u64) -> i64 {
    let (control, header, vector) = (OUT + 0x100, OUT + 0x200, OUT + 0x300);
    for (at, word) in [(0, 20), (8, 1 | 1 << 32), (16, fd)] {
        u.store(control + at, word);
    }
    u.store(vector, BUF);
    u.store(vector + 8, 1);
    for (n, word) in [0, 0, vector, 1, control, 24, 0].into_iter().enumerate() {
        u.store(header + 8 * n as u64, word);
    }
    u.syscall(SENDMSG, &[to, header, 0])
}

#[test]
fn a_connection_by_name_carries_bytes_both_ways_and_ends() {
    for name in [&b"/sock\0"[..], &b"\0abstract"[..]] {
        run(move |u| {
            let s = u.ok(SOCKET, &[1, STREAM, 0]);
            let len = address(u, name);
            u.ok(BIND, &[s, PATH, len]);
            u.ok(LISTEN, &[s, 1]);
            let child = u.fork(move |u| {
                let c = u.ok(SOCKET, &[1, STREAM, 0]);
                let len = address(u, name);
                u.ok(CONNECT, &[c, PATH, len]);
                assert_eq!(u.read_fd(c, 9).unwrap(), b"question");
                assert_eq!(u.write_fd(c, b"answer"), 6);
                u.exit_group(0);
            });
            let c = u.ok(ACCEPT, &[s, 0, 0]);
            assert_eq!(u.write_fd(c, b"question"), 8);
            assert_eq!(u.read_fd(c, 9).unwrap(), b"answer");
            assert_eq!(u.read_fd(c, 9).unwrap(), b"");
            assert_eq!(u.wait(child as i64, 0).1, 0);
        });
    }
}

#[test]
fn a_sender_waits_for_room_and_gets_it_all_across() {
    run(|u| {
        let (a, b) = pair(u, STREAM);
        let child = u.fork(move |u| {
            u.ok(nr::CLOSE, &[b]);
            for _ in 0..40 {
                assert_eq!(u.write_fd(a, &vec![5; 20_000]), 20_000);
            }
            u.exit_group(0);
        });
        u.ok(nr::CLOSE, &[a]);
        let mut sum = 0;
        loop {
            match u.read_fd(b, 7000).unwrap().len() {
                0 => break,
                n => sum += n,
            }
        }
        assert_eq!(sum, 800_000);
        assert_eq!(u.wait(child as i64, 0).1, 0);
    });
}

#[test]
fn datagrams_keep_their_bounds_and_a_full_inbox_blocks() {
    run(|u| {
        let r = u.ok(SOCKET, &[1, DGRAM, 0]);
        let len = address(u, b"\0r");
        u.ok(BIND, &[r, PATH, len]);
        let s = u.ok(SOCKET, &[1, DGRAM, 0]);
        u.ok(CONNECT, &[s, PATH, len]);
        for n in 0..11 {
            assert_eq!(u.write_fd(s, &vec![1; n]), n as i64);
        }
        assert_eq!(u.syscall(SENDTO, &[s, BUF, 1, DONTWAIT, 0, 0]), -11);
        let child = u.fork(move |u| {
            assert_eq!(u.write_fd(s, &[1; 50]), 50);
            u.exit_group(0);
        });
        for n in 0..11 {
            assert_eq!(u.read_fd(r, 100).unwrap().len(), n);
        }
        assert_eq!(u.read_fd(r, 100).unwrap().len(), 50);
        assert_eq!(u.wait(child as i64, 0).1, 0);
        assert_eq!(u.syscall(RECVFROM, &[r, BUF, 1, DONTWAIT, 0, 0]), -11);
    });
}

#[test]
fn a_long_chain_of_sockets_under_way_goes_without_recursion() {
    run(|u| {
        let (mut a, mut b) = pair(u, DGRAM);
        for _ in 0..20_000 {
            let (c, d) = pair(u, DGRAM);
            assert_eq!(pass(u, c, b), 1);
            u.ok(nr::CLOSE, &[a]);
            u.ok(nr::CLOSE, &[b]);
            (a, b) = (c, d);
        }
        u.ok(nr::CLOSE, &[a]);
        u.ok(nr::CLOSE, &[b]);
    });
}

#[test]
fn other_families_and_kinds_are_refused() {
    run(|u| {
        assert_eq!(u.syscall(SOCKET, &[2, STREAM, 0]), -97);
        assert_eq!(u.syscall(SOCKET, &[16, 3, 0]), -97);
        assert_eq!(u.syscall(SOCKET, &[1, 4, 0]), -94);
        assert_eq!(u.syscall(SOCKET, &[1, STREAM, 3]), -93);
        assert_eq!(u.syscall(SOCKET, &[1, STREAM | 0x100, 0]), -22);
        let (r, _) = u.pipe(NONBLOCK);
        assert_eq!(u.syscall(LISTEN, &[r, 1]), -88);
    });
}
