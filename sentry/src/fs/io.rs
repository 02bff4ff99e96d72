//! Where file data goes to and comes from: an application's memory or the sentry's own.
//!
//! File operations see [`IoDst`] and [`IoSrc`] only, so that system calls, exec, sendfile and tests use
//! the same ones. Copies stop at a fault: what was moved before counts, and only a first byte that
//! faults is EFAULT, as on Linux.

use super::types::OpenFlags;
use crate::errno::Errno;
use crate::mm::Mm;
use crate::platform::{FileId, Frame, PAGE_SIZE, platform};

/// An application's memory, as far as file operations need it. Each returns how many bytes it moved;
/// fewer than asked means that the next one faults.
pub trait UserMemory {
    /// Copies from the application.
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize;
    /// Copies to the application.
    fn write(&self, addr: u64, data: &[u8]) -> usize;
    /// Moves up to `len` bytes of a host file from `offset` to the application, as far as the platform can without the
    /// sentry's own memory ([`AddressSpace::copy_out_file`](crate::platform::AddressSpace::copy_out_file)).
    fn write_file(&self, addr: u64, len: usize, file: FileId, offset: u64) -> usize;
}

impl UserMemory for Mm {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        match self.copy_in_partial(addr, buf) {
            Ok(()) => buf.len(),
            Err((done, _)) => done,
        }
    }

    fn write(&self, addr: u64, data: &[u8]) -> usize {
        match self.copy_out_partial(addr, data) {
            Ok(()) => data.len(),
            Err((done, _)) => done,
        }
    }

    fn write_file(&self, addr: u64, len: usize, file: FileId, offset: u64) -> usize {
        self.copy_out_file(addr, len, file, offset)
    }
}

/// A piece of an application's memory (`struct iovec`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoVec {
    /// Where it begins.
    pub addr: u64,
    /// Its length in bytes.
    pub len: usize,
}

/// Bytes moved through the stack at a time where data lies neither here nor in the application.
const BOUNCE: usize = 2048;

/// Pieces of user memory with a cursor.
struct UserCursor<'a> {
    mem: &'a dyn UserMemory,
    current: IoVec,
    rest: &'a [IoVec],
    remaining: usize,
}

impl<'a> UserCursor<'a> {
    fn new(mem: &'a dyn UserMemory, segments: &'a [IoVec]) -> Self {
        let remaining = segments.iter().fold(0usize, |sum, s| sum.saturating_add(s.len));
        let (current, rest) = match segments.split_first() {
            Some((first, rest)) => (*first, rest),
            None => (IoVec::default(), segments),
        };
        UserCursor { mem, current, rest, remaining }
    }

    /// The next piece with something in it, at most `most` bytes of it.
    fn piece(&mut self, most: usize) -> IoVec {
        while self.current.len == 0 {
            match self.rest.split_first() {
                Some((first, rest)) => {
                    self.current = *first;
                    self.rest = rest;
                }
                None => return IoVec::default(),
            }
        }
        let len = self.current.len.min(most).min(self.remaining);
        IoVec { addr: self.current.addr, len }
    }

    fn advance(&mut self, n: usize) {
        self.current.addr = self.current.addr.wrapping_add(n as u64);
        self.current.len = self.current.len.saturating_sub(n);
        self.remaining = self.remaining.saturating_sub(n);
    }

    /// Moves up to `len` bytes piece by piece: `copy(memory, address, offset, length)`.
    fn each(
        &mut self,
        len: usize,
        mut copy: impl FnMut(&dyn UserMemory, u64, usize, usize) -> usize,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len {
            let piece = self.piece(len.saturating_sub(done));
            if piece.len == 0 {
                break;
            }
            let n = copy(self.mem, piece.addr, done, piece.len).min(piece.len);
            self.advance(n);
            done = done.saturating_add(n);
            if n < piece.len {
                if done == 0 {
                    return Err(Errno::EFAULT);
                }
                break;
            }
        }
        Ok(done)
    }
}

/// Where a read puts its data.
pub struct IoDst<'a>(Dst<'a>);

enum Dst<'a> {
    Kernel { buf: &'a mut [u8], done: usize, limit: usize },
    User(UserCursor<'a>),
}

impl<'a> IoDst<'a> {
    /// A buffer of the sentry's.
    pub fn kernel(buf: &'a mut [u8]) -> Self {
        let limit = buf.len();
        IoDst(Dst::Kernel { buf, done: 0, limit })
    }

    /// Pieces of an application's memory, in order.
    pub fn user(mem: &'a dyn UserMemory, segments: &'a [IoVec]) -> Self {
        IoDst(Dst::User(UserCursor::new(mem, segments)))
    }

    /// Bytes that there is still room for.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            Dst::Kernel { done, limit, .. } => limit.saturating_sub(*done),
            Dst::User(cursor) => cursor.remaining,
        }
    }

    /// Makes room for at most `n` more bytes.
    pub fn truncate(&mut self, n: usize) {
        match &mut self.0 {
            Dst::Kernel { done, limit, .. } => *limit = (*limit).min(done.saturating_add(n)),
            Dst::User(cursor) => cursor.remaining = cursor.remaining.min(n),
        }
    }

    /// Puts as much of `data` as fits; how much. `EFAULT` where not even one byte could be put.
    pub fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        match &mut self.0 {
            Dst::Kernel { buf, done, limit } => {
                let n = data.len().min(limit.saturating_sub(*done));
                copy_at(buf, *done, data.get(..n).unwrap_or(&[]));
                *done = done.saturating_add(n);
                Ok(n)
            }
            Dst::User(cursor) => cursor.each(data.len(), |mem, addr, at, len| {
                mem.write(addr, data.get(at..at.saturating_add(len)).unwrap_or(&[]))
            }),
        }
    }

    /// Puts bytes of a host file from `offset`, as far as the platform can move them straight to where they go; how
    /// many. The rest, down to all, is for [`put`](Self::put).
    pub fn put_file(&mut self, file: FileId, offset: u64) -> usize {
        match &mut self.0 {
            Dst::Kernel { .. } => 0,
            Dst::User(cursor) => {
                let len = cursor.remaining;
                let moved = cursor.each(len, |mem, addr, at, len| {
                    mem.write_file(addr, len, file, offset.saturating_add(at as u64))
                });
                // Why not even one byte could be moved is said when it is put the other way.
                moved.unwrap_or(0)
            }
        }
    }

    /// Puts `len` zero bytes, or as many as fit.
    pub fn put_zeros(&mut self, len: usize) -> Result<usize, Errno> {
        static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        self.fill_from(len, |_, piece| ZEROS.get(..piece).unwrap_or(&ZEROS))
    }

    fn fill_from<'d>(
        &mut self,
        len: usize,
        data: impl Fn(usize, usize) -> &'d [u8],
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len && self.remaining() > 0 {
            let data = data(done, (len - done).min(PAGE_SIZE));
            match self.put(data) {
                Ok(n) => {
                    done = done.saturating_add(n);
                    if n < data.len() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Puts bytes of a frame, as many as fit.
    pub fn put_frame(&mut self, frame: Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        if let Dst::Kernel { buf, done, limit } = &mut self.0 {
            let n = len.min(limit.saturating_sub(*done));
            if let Some(room) = buf.get_mut(*done..done.saturating_add(n)) {
                platform().read_frame(frame, offset, room);
            }
            *done = done.saturating_add(n);
            return Ok(n);
        }
        self.fill_with(len, |at, buf| {
            platform().read_frame(frame, offset.saturating_add(at), buf);
            Ok(buf.len())
        })
    }

    /// Puts up to `len` bytes that `source(at, buffer)` gives; it says how many, fewer than the buffer
    /// holds at the end. How many bytes arrived.
    pub fn fill_with(
        &mut self,
        len: usize,
        mut source: impl FnMut(usize, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let mut done: usize = 0;
        if let Dst::Kernel { buf, done: filled, limit } = &mut self.0 {
            let n = len.min(limit.saturating_sub(*filled));
            while done < n {
                let Some(room) = buf.get_mut(*filled..filled.saturating_add(n - done)) else {
                    break;
                };
                match source(done, room) {
                    Ok(0) => break,
                    Ok(got) => {
                        let got = got.min(room.len());
                        done = done.saturating_add(got);
                        *filled = filled.saturating_add(got);
                    }
                    Err(_) if done > 0 => break,
                    Err(e) => return Err(e),
                }
            }
            return Ok(done);
        }
        let mut bounce = [0u8; BOUNCE];
        let len = len.min(self.remaining());
        while done < len {
            let want = (len - done).min(BOUNCE);
            let Some(room) = bounce.get_mut(..want) else { break };
            let got = match source(done, room) {
                Ok(got) => got.min(want),
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            let put = match self.put(room.get(..got).unwrap_or(&[])) {
                Ok(put) => put,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            done = done.saturating_add(put);
            if got < want || put < got {
                break;
            }
        }
        Ok(done)
    }
}

/// Where a write takes its data from.
pub struct IoSrc<'a>(Src<'a>, Option<bool>);

enum Src<'a> {
    Kernel { buf: &'a [u8] },
    User(UserCursor<'a>),
}

impl<'a> IoSrc<'a> {
    /// Bytes of the sentry's.
    pub fn kernel(buf: &'a [u8]) -> Self {
        IoSrc(Src::Kernel { buf }, None)
    }

    /// Pieces of an application's memory, in order.
    pub fn user(mem: &'a dyn UserMemory, segments: &'a [IoVec]) -> Self {
        IoSrc(Src::User(UserCursor::new(mem, segments)), None)
    }

    /// This write goes to the end of its file, or just not, whatever the file's flags say.
    pub fn append(&mut self, append: bool) {
        self.1 = Some(append);
    }

    /// Whether the write goes to the end of a file that has these flags.
    pub fn appends(&self, flags: OpenFlags) -> bool {
        self.1.unwrap_or_else(|| flags.contains(OpenFlags::APPEND))
    }

    /// Bytes that are still to come.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            Src::Kernel { buf } => buf.len(),
            Src::User(cursor) => cursor.remaining,
        }
    }

    /// Gives at most `n` more bytes.
    pub fn truncate(&mut self, n: usize) {
        match &mut self.0 {
            Src::Kernel { buf } => *buf = buf.get(..n).unwrap_or(buf),
            Src::User(cursor) => cursor.remaining = cursor.remaining.min(n),
        }
    }

    /// Takes bytes until `buf` is full or nothing is left; how many. `EFAULT` where not even one byte
    /// could be taken.
    pub fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.0 {
            Src::Kernel { buf: data } => {
                let n = buf.len().min(data.len());
                copy_at(buf, 0, data.get(..n).unwrap_or(&[]));
                *data = data.get(n..).unwrap_or(&[]);
                Ok(n)
            }
            Src::User(cursor) => cursor.each(buf.len(), |mem, addr, at, len| {
                match buf.get_mut(at..at.saturating_add(len)) {
                    Some(room) => mem.read(addr, room),
                    None => 0,
                }
            }),
        }
    }

    /// As [`take`](Self::take), but the bytes stay.
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let src = match &self.0 {
            Src::Kernel { buf } => Src::Kernel { buf },
            Src::User(cursor) => Src::User(UserCursor { ..*cursor }),
        };
        let mut copy = IoSrc(src, self.1);
        copy.take(buf)
    }

    /// Takes up to `len` bytes into a frame; how many.
    pub fn take_frame(&mut self, frame: Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        self.drain_with(len, |at, data| {
            platform().write_frame(frame, offset.saturating_add(at), data);
            Ok(data.len())
        })
    }

    /// Passes over bytes without looking at them.
    fn skip(&mut self, n: usize) {
        match &mut self.0 {
            Src::Kernel { buf } => *buf = buf.get(n..).unwrap_or(&[]),
            Src::User(cursor) => {
                let mut left = n;
                while left > 0 {
                    let piece = cursor.piece(left);
                    if piece.len == 0 {
                        break;
                    }
                    cursor.advance(piece.len);
                    left = left.saturating_sub(piece.len);
                }
            }
        }
    }

    /// Hands up to `len` bytes to `sink(at, data)`, which says how many it took. How many it took in all; what it did
    /// not take stays, also where it fails: an error before the first byte is this one's, after that it only ends it.
    pub fn drain_with(
        &mut self,
        len: usize,
        mut sink: impl FnMut(usize, &[u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if let Src::Kernel { buf } = &mut self.0 {
            let n = len.min(buf.len());
            let took = sink(0, buf.get(..n).unwrap_or(&[]))?.min(n);
            self.skip(took);
            return Ok(took);
        }
        let mut bounce = [0u8; BOUNCE];
        let mut done: usize = 0;
        while done < len && self.remaining() > 0 {
            let want = (len - done).min(BOUNCE);
            let Some(room) = bounce.get_mut(..want) else { break };
            let got = match self.peek(room) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            let took = match sink(done, room.get(..got).unwrap_or(&[])) {
                Ok(took) => took.min(got),
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            self.skip(took);
            done = done.saturating_add(took);
            if got < want || took < got {
                break;
            }
        }
        Ok(done)
    }
}

/// `to[at..] = from`, as far as there is room.
fn copy_at(to: &mut [u8], at: usize, from: &[u8]) {
    if let Some(room) = to.get_mut(at..at.saturating_add(from.len())) {
        room.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::cell::RefCell;

    use super::*;

    /// Memory from address 0 on, of which what lies beyond faults.
    struct Plain(RefCell<Vec<u8>>);

    impl UserMemory for Plain {
        fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
            let memory = self.0.borrow();
            let from = memory.get(addr as usize..).unwrap_or(&[]);
            let n = from.len().min(buf.len());
            copy_at(buf, 0, &from[..n]);
            n
        }

        fn write(&self, addr: u64, data: &[u8]) -> usize {
            let mut memory = self.0.borrow_mut();
            let room = memory.get_mut(addr as usize..).unwrap_or_default();
            let n = room.len().min(data.len());
            room[..n].copy_from_slice(&data[..n]);
            n
        }

        fn write_file(&self, _addr: u64, _len: usize, _file: FileId, _offset: u64) -> usize {
            0
        }
    }

    #[test]
    fn what_a_sink_does_not_take_stays() {
        let bytes: Vec<u8> = (0..20_000u32).map(|n| (n * 7 / 5) as u8).collect();
        let memory = Plain(RefCell::new(bytes.clone()));
        let parts = [
            IoVec { addr: 0, len: 5000 },
            IoVec { addr: 77, len: 0 },
            IoVec { addr: 5000, len: 1 },
            IoVec { addr: 5001, len: 14_999 },
        ];
        // Sinks that refuse every now and then, and take a part of what they are given.
        let mut refused = 0;
        for (every, most) in [(2, 2048), (3, 100), (2, 1), (5, 2047)] {
            let mut src = IoSrc::user(&memory, &parts);
            let (mut out, mut asked) = (Vec::new(), 0);
            while src.remaining() > 0 {
                let before = out.len();
                let done = src.drain_with(6000, |_, data| {
                    asked += 1;
                    if asked % every == 0 {
                        return Err(Errno::EAGAIN);
                    }
                    let n = data.len().min(most);
                    out.extend_from_slice(&data[..n]);
                    Ok(n)
                });
                match done {
                    Ok(n) => assert_eq!(before + n, out.len()),
                    Err(e) => {
                        assert_eq!((e, before), (Errno::EAGAIN, out.len()));
                        refused += 1;
                    }
                }
                assert_eq!(src.remaining(), bytes.len() - out.len());
            }
            assert!(out == bytes);
        }
        assert!(refused > 0);
    }

    #[test]
    fn a_fault_ends_what_goes_out_but_for_its_first_byte() {
        let memory = Plain(RefCell::new(alloc::vec![1; 3000]));
        let parts = [IoVec { addr: 0, len: 5000 }];
        let mut src = IoSrc::user(&memory, &parts);
        assert_eq!(src.drain_with(5000, |_, data| Ok(data.len())), Ok(3000));
        assert_eq!(src.drain_with(5000, |_, data| Ok(data.len())), Err(Errno::EFAULT));
    }
}
