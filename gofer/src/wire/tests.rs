//! Properties of the wire format, over seeded random messages and bytes.

extern crate std;

use alloc::vec;
use alloc::vec::Vec;

use super::messages::{READ_DATA, emit_read_in_place, entries, entries_attr};
use super::*;

/// xorshift64*: small, and the same on every run.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn bytes(&mut self, max: u64) -> &'static [u8] {
        let length = self.below(max + 1);
        let bytes: Vec<u8> = (0..length).map(|_| self.next() as u8).collect();
        bytes.leak()
    }
}

std::thread_local! {
    static PLAUSIBLE: std::cell::Cell<Option<[&'static [u8]; 5]>> =
        const { std::cell::Cell::new(None) };
}

/// Whether samples of this thread take small numbers as fids and these names as strings.
pub(crate) fn plausible(yes: bool, names: &[&'static [u8]; 5]) {
    PLAUSIBLE.set(yes.then_some(*names));
}

/// A random value of a field's type.
pub(super) trait Sample {
    fn sample(rng: &mut Rng) -> Self;
}

macro_rules! sample_integers {
    ($($ty:ty)*) => {$(
        impl Sample for $ty {
            fn sample(rng: &mut Rng) -> Self {
                rng.next() as $ty
            }
        }
    )*};
}
sample_integers!(u8 u16 u32 u64 i64);

impl Sample for Fid {
    fn sample(rng: &mut Rng) -> Self {
        match PLAUSIBLE.get() {
            Some(_) => Fid(rng.below(6) as u32),
            None => Fid(Sample::sample(rng)),
        }
    }
}

impl Sample for &'static [u8] {
    fn sample(rng: &mut Rng) -> Self {
        match PLAUSIBLE.get() {
            Some(names) => names[rng.below(5) as usize],
            None => rng.bytes(300),
        }
    }
}

impl Sample for Data<'static> {
    fn sample(rng: &mut Rng) -> Self {
        Data(rng.bytes(2000))
    }
}

impl Sample for Step<'static> {
    fn sample(rng: &mut Rng) -> Self {
        Step { newfid: Sample::sample(rng), name: Sample::sample(rng) }
    }
}

impl<T: Sample + codec::Element<'static>> Sample for Vec<T> {
    fn sample(rng: &mut Rng) -> Self {
        let length = rng.below(T::MAX as u64 + 1);
        (0..length).map(|_| Sample::sample(rng)).collect()
    }
}

#[test]
fn emitted_requests_parse_to_themselves() {
    let mut rng = Rng::new(1);
    let mut buffer = vec![0u8; MSIZE_MAX];
    for &kind in Request::KINDS {
        for _ in 0..40 {
            let message = Request::sample(kind, &mut rng).unwrap();
            let tag = rng.next() as u16;
            let size = message.emit(tag, &mut buffer).unwrap();
            let frame = Frame::new_checked(&buffer[..size]).unwrap();
            assert_eq!((frame.kind(), frame.tag()), (kind, tag));
            assert_eq!(Request::parse(frame).unwrap(), message);
        }
    }
}

#[test]
fn emitted_replies_parse_to_themselves() {
    let mut rng = Rng::new(2);
    let mut buffer = vec![0u8; MSIZE_MAX];
    for &kind in Reply::KINDS {
        for _ in 0..40 {
            let message = Reply::sample(kind, &mut rng).unwrap();
            let size = message.emit(7, &mut buffer).unwrap();
            let frame = Frame::new_checked(&buffer[..size]).unwrap();
            assert_eq!(Reply::parse(frame).unwrap(), message);
        }
    }
}

#[test]
fn every_shorter_or_longer_message_is_refused() {
    let mut rng = Rng::new(3);
    let mut buffer = vec![0u8; MSIZE_MAX];
    for &kind in Request::KINDS {
        let message = Request::sample(kind, &mut rng).unwrap();
        let size = message.emit(7, &mut buffer).unwrap();
        let check = |length: usize| {
            let mut bytes = buffer[..length].to_vec();
            bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
            // Frames are refused or parse to something; none may parse to the message itself.
            let parsed = Frame::new_checked(&bytes).and_then(Request::parse);
            assert!(parsed.is_err(), "{kind} cut from {size} to {length}: {parsed:?}");
        };
        for length in (HEADER..size).step_by(if size > 600 { 97 } else { 1 }) {
            check(length);
        }
        check(size + 1);
    }
}

#[test]
fn a_buffer_too_small_is_an_error() {
    let mut rng = Rng::new(4);
    for &kind in Request::KINDS {
        let message = Request::sample(kind, &mut rng).unwrap();
        let size = message.emit(1, &mut vec![0u8; MSIZE_MAX]).unwrap();
        assert_eq!(message.emit(1, &mut vec![0u8; size]).unwrap(), size);
        assert_eq!(message.emit(1, &mut vec![0u8; size - 1]), Err(WireError::NoSpace));
    }
}

#[test]
fn arbitrary_bytes_never_panic_and_reparse() {
    let mut rng = Rng::new(5);
    let mut buffer = vec![0u8; MSIZE_MAX];
    for round in 0..60_000u32 {
        let length = HEADER + rng.below(if round % 8 == 0 { 4000 } else { 120 }) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.next() as u8).collect();
        // Small counts and lengths get further into the parsers than random ones.
        if round % 2 == 0 {
            bytes.iter_mut().for_each(|byte| *byte &= 3);
        }
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        let kinds = if round % 3 == 0 { Reply::KINDS } else { Request::KINDS };
        bytes[4] = kinds[rng.below(kinds.len() as u64) as usize];
        let frame = Frame::new_checked(&bytes).unwrap();
        if let Ok(message) = Request::parse(frame) {
            let size = message.emit(frame.tag(), &mut buffer).unwrap();
            assert_eq!(&buffer[..size], &bytes[..]);
        }
        if let Ok(message) = Reply::parse(frame) {
            let size = message.emit(frame.tag(), &mut buffer).unwrap();
            assert_eq!(&buffer[..size], &bytes[..]);
            if let Reply::ReaddirX { data, .. } | Reply::Readdir { data } = message {
                assert!(entries(data).count() <= data.0.len());
                assert!(entries_attr(data).count() <= data.0.len());
            }
        }
    }
}

#[test]
fn frames_check_their_size() {
    assert_eq!(Frame::new_checked(&[7, 0, 0, 0, 1, 0]).unwrap_err(), WireError::Truncated);
    assert_eq!(Frame::new_checked(&[8, 0, 0, 0, 1, 0, 0]).unwrap_err(), WireError::BadSize);
    assert_eq!(Frame::new_checked(&[7, 0, 0, 0, 1, 2, 3]).unwrap().tag(), 0x0302);
    assert_eq!(Frame::claimed_size(&[7, 0, 0]), None);
    assert_eq!(Frame::claimed_size(&[7, 1, 0, 0, 9]), Some(263));
}

#[test]
fn a_read_emitted_in_place_is_the_read_emitted_whole() {
    let mut whole = [0u8; 64];
    let size = Reply::Read { data: Data(b"content") }.emit(5, &mut whole).unwrap();
    let mut in_place = [0u8; 64];
    in_place[READ_DATA..READ_DATA + 7].copy_from_slice(b"content");
    assert_eq!(emit_read_in_place(5, 7, &mut in_place), Ok(size));
    assert_eq!(whole, in_place);
    assert_eq!(emit_read_in_place(5, 54, &mut in_place), Err(WireError::NoSpace));
}

#[test]
fn lists_are_bounded() {
    let names = vec![b"a".as_slice(); MAX_STEPS + 1];
    let mut buffer = [0u8; 512];
    let walk = Request::Walk { fid: Fid(1), newfid: Fid(2), names };
    assert_eq!(walk.emit(1, &mut buffer), Err(WireError::TooLong));
    // A claim of many elements in few bytes allocates no more than the bound and is refused.
    let mut bytes = vec![17, 0, 0, 0, 110, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff];
    let frame = Frame::new_checked(&bytes).unwrap();
    assert_eq!(Request::parse(frame), Err(WireError::TooLong));
    bytes[15] = 3;
    bytes[16] = 0;
    let frame = Frame::new_checked(&bytes).unwrap();
    assert_eq!(Request::parse(frame), Err(WireError::Truncated));
}

/// The layout of a plain message, byte by byte, as Linux's client sends it.
#[test]
fn plain_messages_have_their_published_layout() {
    let mut buffer = [0u8; 64];
    let version = Request::Version { msize: 8192, version: VERSION_L };
    let size = version.emit(NOTAG, &mut buffer).unwrap();
    assert_eq!(&buffer[..size], b"\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\09P2000.L");
    let walk = Request::Walk { fid: Fid(0), newfid: Fid(1), names: vec![b"etc", b"fstab"] };
    let size = walk.emit(0, &mut buffer).unwrap();
    assert_eq!(&buffer[..size], b"\x1d\0\0\0\x6e\0\0\0\0\0\0\x01\0\0\0\x02\0\x03\0etc\x05\0fstab");
}
