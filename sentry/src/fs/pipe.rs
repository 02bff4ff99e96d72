//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A pipe is a ring of bytes in the sentry's memory that grows with use up to its capacity, behind one
//! lock, and one wait queue for both sides: readers wait there for `IN`, writers for `OUT`. A transfer
//! allocates nothing once the ring has grown.

mod splice;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use super::anon::AnonInode;
use super::context::Cx;
use super::fasync::Tells;
use super::file::File;
use super::inode::{FileOps, Inode, Written};
use super::io::{IoDst, IoSrc};
use super::types::{Events, FileType, OpenFlags};
use crate::errno::Errno;
use crate::sync::{Mutex, WaitQueue};

/// Writes of up to this many bytes are not mixed with others' (PIPE_BUF, linux/limits.h).
pub const PIPE_BUF: usize = 4096;
/// What a pipe holds at first (pipe(7)).
const CAPACITY: usize = 65536;
/// The most that F_SETPIPE_SZ gives without privilege (/proc/sys/fs/pipe-max-size).
pub const MAX_CAPACITY: usize = 1 << 20;
/// The ring's first size.
const FIRST: usize = 4096;

/// Bytes between writers and readers.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
}

struct State {
    /// A power of two long.
    ring: Vec<u8>,
    /// Where the oldest byte is.
    head: usize,
    len: usize,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// Opens for reading and writing so far: a FIFO's open waits for the next one of the other kind.
    read_opens: u64,
    write_opens: u64,
}

impl Default for Pipe {
    fn default() -> Self {
        Pipe {
            state: Mutex::new(State {
                ring: Vec::new(),
                head: 0,
                len: 0,
                capacity: CAPACITY,
                readers: 0,
                writers: 0,
                read_opens: 0,
                write_opens: 0,
            }),
            queue: WaitQueue::new(),
        }
    }
}

impl State {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len)
    }

    /// The two stretches of the ring that hold `len` bytes from `from` on.
    fn stretches(&self, from: usize, len: usize) -> (core::ops::Range<usize>, usize) {
        let size = self.ring.len();
        let from = from & size.wrapping_sub(1);
        let first = len.min(size.saturating_sub(from));
        (from..from.saturating_add(first), len.saturating_sub(first))
    }

    /// Makes the ring hold `want` bytes in all. `ENOMEM` where there is no memory for it.
    fn grow(&mut self, want: usize) -> Result<(), Errno> {
        if want <= self.ring.len() {
            return Ok(());
        }
        let size = want.max(FIRST).next_power_of_two();
        let mut ring = Vec::new();
        ring.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        let (first, second) = self.stretches(self.head, self.len);
        ring.extend_from_slice(self.ring.get(first).unwrap_or(&[]));
        ring.extend_from_slice(self.ring.get(..second).unwrap_or(&[]));
        ring.resize(size, 0);
        self.ring = ring;
        self.head = 0;
        Ok(())
    }

    fn read(&mut self, dst: &mut IoDst<'_>) -> Result<usize, Errno> {
        let want = self.len.min(dst.remaining());
        let (first, second) = self.stretches(self.head, want);
        let mut done = 0;
        for part in [first, 0..second] {
            let data = self.ring.get(part).unwrap_or(&[]);
            match dst.put(data) {
                Ok(n) => {
                    done += n;
                    if n < data.len() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        self.len = self.len.saturating_sub(done);
        self.head = match self.len {
            0 => 0,
            _ => self.head.wrapping_add(done) & self.ring.len().wrapping_sub(1),
        };
        Ok(done)
    }

    fn write(&mut self, src: &mut IoSrc<'_>, want: usize) -> Result<usize, Errno> {
        self.grow(self.len.saturating_add(want))?;
        let (first, second) = self.stretches(self.head.wrapping_add(self.len), want);
        let mut done = 0;
        for part in [first, 0..second] {
            let Some(room) = self.ring.get_mut(part).filter(|r| !r.is_empty()) else { break };
            let len = room.len();
            match src.take(room) {
                Ok(n) => {
                    done += n;
                    if n < len {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        self.len = self.len.saturating_add(done);
        Ok(done)
    }
}

impl Pipe {
    fn opened(self: &Arc<Self>, flags: OpenFlags, fifo: bool) -> PipeEnd {
        let (reads, writes) = (flags.reads(), flags.writes());
        let mut state = self.state.lock();
        // An end that is there already counts as one that has come since: its going away is a hang-up.
        let before = |opens: u64, open: usize| opens.wrapping_sub((open > 0).into());
        let seen =
            (before(state.read_opens, state.readers), before(state.write_opens, state.writers));
        if reads {
            state.readers = state.readers.saturating_add(1);
            state.read_opens = state.read_opens.wrapping_add(1);
        }
        if writes {
            state.writers = state.writers.saturating_add(1);
            state.write_opens = state.write_opens.wrapping_add(1);
        }
        drop(state);
        if fifo {
            self.queue.wake_all();
        }
        PipeEnd { pipe: self.clone(), reads, writes, fifo, seen }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.state.lock().len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// F_GETPIPE_SZ.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// F_SETPIPE_SZ: the new capacity. `EBUSY` where more than that is in it, `EPERM` beyond what
    /// is allowed without privilege.
    pub fn set_capacity(&self, want: usize, privileged: bool) -> Result<usize, Errno> {
        let size = want.max(PIPE_BUF).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        if size > MAX_CAPACITY && !privileged {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        if state.len > size {
            return Err(Errno::EBUSY);
        }
        state.capacity = size;
        drop(state);
        self.queue.wake(Events::WRITABLE.bits());
        Ok(size)
    }
}

/// An open end of a pipe, or both in one.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    fifo: bool,
    /// Opens of readers and writers before this one, without the last where such an end was open.
    seen: (u64, u64),
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl FileOps for PipeEnd {
    /// Of a FIFO Linux says that it cannot.
    fn can_hurry(&self, _writes: bool) -> bool {
        !self.fifo
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.len == 0 {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.room() < PIPE_BUF;
        let n = state.read(dst)?;
        let wake = was_full && state.room() >= PIPE_BUF;
        drop(state);
        if wake {
            self.pipe.queue.wake(Events::WRITABLE.bits());
        } else {
            // Who does not wait hears of every read.
            self.pipe.queue.tell(Events::WRITABLE.bits());
        }
        Ok(n)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let want = src.remaining();
        if want == 0 {
            return Ok(Written { count: 0, end: 0 });
        }
        let room = state.room();
        if room == 0 || want <= PIPE_BUF && room < want {
            return Err(Errno::EAGAIN);
        }
        let count = state.write(src, want.min(room))?;
        drop(state);
        if count > 0 {
            // Also where it was not empty: an edge-triggered epoll wants to know.
            self.pipe.queue.wake(Events::READABLE.bits());
        }
        Ok(Written { count, end: 0 })
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, _file: &File) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.reads {
            events.set(Events::READABLE, state.len > 0);
            // A FIFO that has had no writer yet has not been hung up.
            let hung_up = state.writers == 0 && (!self.fifo || state.write_opens != self.seen.1);
            events.set(Events::HUP, hung_up);
        }
        if self.writes {
            events.set(Events::WRITABLE, state.room() >= PIPE_BUF);
            events.set(Events::ERR, state.readers == 0);
        }
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn tells(&self) -> Option<Tells> {
        let mut events = Events::empty();
        events.set(Events::IN, self.reads);
        events.set(Events::OUT, self.writes);
        Some(Tells { events, any: true, group: None })
    }

    fn opened(&self, file: &File) -> Result<bool, Errno> {
        if !self.fifo || self.reads == self.writes {
            return Ok(true);
        }
        let state = self.pipe.state.lock();
        // Another end that is there, or has been there meanwhile, will do.
        if self.reads {
            let met = state.writers > 0 || state.write_opens != self.seen.1;
            return Ok(met || file.nonblocking());
        }
        let met = state.readers > 0 || state.read_opens != self.seen.0;
        if !met && file.nonblocking() { Err(Errno::ENXIO) } else { Ok(met) }
    }

    fn available(&self, _file: &File) -> Result<usize, Errno> {
        Ok(self.pipe.len())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        if self.reads {
            state.readers = state.readers.saturating_sub(1);
        }
        if self.writes {
            state.writers = state.writers.saturating_sub(1);
        }
        if state.readers == 0 && state.writers == 0 {
            // What nobody has read goes with the last end, of a FIFO too.
            state.ring = Vec::new();
            (state.head, state.len) = (0, 0);
        }
        drop(state);
        self.pipe.queue.wake_all();
    }
}

/// pipe2(2): the reading and the writing end.
pub fn pipe(cx: &Cx<'_>, flags: OpenFlags) -> Result<(Arc<File>, Arc<File>), Errno> {
    let pipe = Arc::new(Pipe::default());
    let inode: Arc<dyn Inode> =
        Arc::new(AnonInode::new(FileType::Fifo, "pipe", 0o600, cx.creds.fsuid, cx.creds.fsgid));
    // Opened again through /proc/PID/fd, it is this very pipe.
    inode.state().set_fifo(&pipe);
    let flags = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let end = |flags: OpenFlags| -> Result<Arc<File>, Errno> {
        File::new(Box::new(pipe.opened(flags, false)), inode.clone(), None, flags)
    };
    Ok((end(flags)?, end(flags | OpenFlags::WRONLY)?))
}

/// Opens a FIFO's pipe, which its inode keeps; or that of pipe(2), through /proc/PID/fd, where no open
/// waits for another end.
pub fn open_fifo(inode: &Arc<dyn Inode>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
    let named = !inode.as_any().is::<AnonInode>();
    Ok(Box::new(inode.state().fifo().opened(flags, named)))
}
