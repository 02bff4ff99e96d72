//! The line discipline beside that of Linux: the same modes, the same bytes, the same results.

use std::string::ToString;
use std::vec::Vec;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::discipline::{Discipline, Effects};
use super::termios::{Input, Local, Output, Termios};

/// A pseudo-terminal of the host, in the same modes as ours.
struct Host {
    master: std::os::fd::OwnedFd,
    slave: std::os::fd::OwnedFd,
}

impl Host {
    fn new() -> Host {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let slave = rustix::fs::open(&*name, flags, Mode::empty()).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Host { master, slave }
    }

    fn set(&self, termios: &Termios) {
        let mut modes = rustix::termios::tcgetattr(&self.slave).unwrap();
        modes.input_modes = rustix::termios::InputModes::from_bits_retain(termios.input.bits());
        modes.output_modes = rustix::termios::OutputModes::from_bits_retain(termios.output.bits());
        modes.local_modes = rustix::termios::LocalModes::from_bits_retain(termios.local.bits());
        rustix::termios::tcsetattr(&self.slave, rustix::termios::OptionalActions::Now, &modes)
            .unwrap();
    }

    /// What comes out of an end: what is expected, however long that takes, and what comes right after it. Linux
    /// moves bytes on a thread of its own.
    fn drain(fd: &std::os::fd::OwnedFd, expect: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = [0u8; 4096];
        let mut idle = 0;
        while idle < if all.len() < expect { 1000 } else { 2 } {
            match rustix::io::read(fd, &mut buf) {
                Ok(0) => {
                    // The end of a file that was typed.
                    break;
                }
                Ok(n) => {
                    all.extend_from_slice(&buf[..n]);
                    idle = 0;
                }
                Err(rustix::io::Errno::AGAIN) => {
                    idle += 1;
                    let wait = if all.len() < expect { 10 } else { 2 };
                    std::thread::sleep(std::time::Duration::from_millis(wait));
                }
                Err(e) => panic!("{e}"),
            }
        }
        all
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

/// Bytes that mean something, and some that do not. STOP is left out: Linux's timing of what waits
/// for START is its own.
const BYTES: &[u8] =
    b"ab cde_9.\t\t\r\n\x7f\x7f\x7f\x15\x17\x16\x12\x01\x1b\xc3\xa9\xe2\x82\xac\xffAZ\x08";

#[test]
fn as_linux_does() {
    let mut rng = Rng(2026);
    for round in 0..40 {
        let host = Host::new();
        let mut ours = Discipline::default();
        let mut termios = Termios::default();
        let mut bit = |p: u64| rng.next().is_multiple_of(p);
        termios.input.set(Input::ICRNL, !bit(4));
        termios.input.set(Input::IGNCR, bit(8));
        termios.input.set(Input::INLCR, bit(8));
        termios.input.set(Input::ISTRIP, bit(10));
        termios.input.set(Input::IUCLC, bit(10));
        termios.input.set(Input::IUTF8, bit(2));
        termios.output.set(Output::OPOST, !bit(6));
        termios.output.set(Output::ONLCR, !bit(4));
        termios.output.set(Output::OCRNL, bit(8));
        termios.output.set(Output::ONOCR, bit(8));
        termios.output.set(Output::ONLRET, bit(8));
        termios.output.set(Output::OLCUC, bit(10));
        termios.output.set(Output::XTABS, bit(5));
        termios.local.set(Local::ICANON, !bit(3));
        termios.local.set(Local::ECHO, !bit(4));
        termios.local.set(Local::ECHOE, !bit(5));
        termios.local.set(Local::ECHOK, !bit(5));
        termios.local.set(Local::ECHOKE, !bit(5));
        termios.local.set(Local::ECHOCTL, !bit(4));
        termios.local.set(Local::ECHONL, bit(5));
        termios.local.set(Local::IEXTEN, !bit(6));
        host.set(&termios);
        ours.set_termios(termios);
        for _ in 0..4 {
            let mut bytes: Vec<u8> =
                (0..rng.next() % 30).map(|_| BYTES[rng.next() as usize % BYTES.len()]).collect();
            if termios.canonical() {
                bytes.push(b'\n');
            }
            let mut effects = Effects::default();
            ours.input(&bytes, &mut effects);
            let mut out = effects.echo;
            let echo = out.len();
            let program: Vec<u8> =
                (0..rng.next() % 8).map(|_| BYTES[rng.next() as usize % BYTES.len()]).collect();
            ours.output(&program, &mut out);

            rustix::io::write(&host.master, &bytes).unwrap();
            // Its echo first, or it and the program's output might change places.
            let mut theirs = Host::drain(&host.master, echo);
            rustix::io::write(&host.slave, &program).unwrap();
            theirs.extend(Host::drain(&host.master, out.len().saturating_sub(theirs.len())));
            let shown = |b: &[u8]| b.escape_ascii().to_string();
            assert_eq!(
                shown(&out),
                shown(&theirs),
                "round {round}: {} then {} with {termios:?}",
                shown(&bytes),
                shown(&program)
            );

            let mut read = Vec::new();
            let mut buf = [0; 4096];
            while ours.available(4096, 1).is_some() {
                let n = ours.read(&mut buf);
                read.extend_from_slice(&buf[..n]);
            }
            let theirs = Host::drain(&host.slave, read.len());
            assert_eq!(
                shown(&read),
                shown(&theirs),
                "round {round}: {} with {termios:?}",
                shown(&bytes)
            );
        }
    }
}

fn typed(d: &mut Discipline, bytes: &[u8]) -> Effects {
    let mut effects = Effects::default();
    d.input(bytes, &mut effects);
    effects
}

fn read(d: &mut Discipline) -> Option<Vec<u8>> {
    let n = d.available(4096, 1)?;
    let mut buf = std::vec![0; n];
    assert_eq!(d.read(&mut buf), n);
    Some(buf)
}

#[test]
fn lines_come_one_by_one_and_an_end_of_file_ends_one() {
    let mut d = Discipline::default();
    typed(&mut d, b"one\ntwo\nthr");
    assert_eq!(read(&mut d).unwrap(), b"one\n");
    let mut part = [0; 2];
    assert_eq!((d.read(&mut part), &part), (2, b"tw"));
    assert_eq!(read(&mut d).unwrap(), b"o\n");
    assert_eq!(read(&mut d), None);
    typed(&mut d, b"ee\x04\x04");
    assert_eq!(read(&mut d).unwrap(), b"three");
    assert_eq!(read(&mut d).unwrap(), b"", "the end of the file");
    assert_eq!(read(&mut d), None);
}

#[test]
fn signals_flush_and_stop_stops() {
    use crate::signal::Signal;
    let mut d = Discipline::default();
    let effects = typed(&mut d, b"lost\n\x03\x1a");
    assert_eq!(effects.signals, [(Signal::SIGINT, true), (Signal::SIGTSTP, true)]);
    assert_eq!(effects.echo, b"^Z");
    assert_eq!(read(&mut d), None);
    typed(&mut d, b"\x13");
    assert!(d.stopped());
    typed(&mut d, b"\x11");
    assert!(!d.stopped());
}

#[test]
fn a_line_without_end_keeps_its_last_place() {
    let mut d = Discipline::default();
    for _ in 0..5000 {
        assert!(d.room() > 0);
        typed(&mut d, b"x");
    }
    typed(&mut d, b"\n");
    let line = read(&mut d).unwrap();
    assert_eq!((line.len(), line.last()), (4096, Some(&b'\n')));
    assert_eq!(d.room(), 4095);
}

#[test]
fn without_lines_a_full_buffer_takes_no_more() {
    let mut d = Discipline::default();
    let mut raw = *d.termios();
    raw.local.remove(Local::ICANON);
    d.set_termios(raw);
    typed(&mut d, &[b'x'; 4095]);
    assert_eq!(d.room(), 0);
    // What is there becomes a line when lines come back.
    d.set_termios(Termios::default());
    assert_eq!(read(&mut d).unwrap().len(), 4095);
}
