//! A connection to a gofer: many tasks ask, each gets its answer.
//!
//! Nobody is kept to read replies. Of the threads that wait for one, one reads for all (the leader):
//! it hands others their replies, and when its own comes it passes the lead on. A thread that asks
//! alone therefore wakes nobody, and nobody wakes it but the channel.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use gofer::wire::{
    Changed, Fid, Frame, HEADER, MAX_FIDS, MSIZE_MAX, MSIZE_MIN, NOTAG, Reply, Request,
    VERSION_DIALECT,
};
use hashbrown::HashMap;

use crate::control::FileServerInfo;
use crate::errno::Errno;
use crate::platform::{Channel, FileId, ThreadId, platform};
use crate::sync::SpinLock;

/// Requests on their way at once. More than that wait for their turn.
const TAGS: usize = 128;
/// Requests of at most this size are put together on the stack.
const SMALL: usize = 512;
/// Reply buffers kept for reuse.
const SPARES: usize = 4;
/// Forgotten fids that are told to the gofer in one message: until then it holds a descriptor for
/// each.
const CLUNK_BATCH: usize = 64;

/// How long a message of the gofer's own may lie unread while its client is busy with what it
/// remembers, nanoseconds.
#[cfg(not(test))]
const POLL_EVERY: u64 = 50_000_000;
#[cfg(test)]
const POLL_EVERY: u64 = 0;

/// A reply, with the file that was donated with it.
pub struct Answer {
    bytes: Vec<u8>,
    /// The donated file.
    pub file: Option<FileId>,
}

impl Answer {
    /// The reply; an error where the gofer says so. `EIO` where it makes no sense.
    pub fn reply(&self) -> Result<Reply<'_>, Errno> {
        match Frame::new_checked(&self.bytes).and_then(Reply::parse) {
            Ok(Reply::Error { errno }) => {
                Err(Errno::from_code(i32::try_from(errno).unwrap_or(i32::MAX)))
            }
            Ok(reply) => Ok(reply),
            Err(_) => Err(Errno::EIO),
        }
    }
}

impl Answer {
    /// Whether this is the answer to a walk that found no room for its first fid.
    pub fn walked_out_of_room(&self) -> bool {
        let enfile = Errno::ENFILE.code().unsigned_abs();
        matches!(self.reply(), Ok(Reply::WalkX { nodes, errno, .. }) if nodes.is_empty() && errno == enfile)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Whoever wants the file has taken it out.
        if let Some(file) = self.file.take() {
            platform().file_close(file);
        }
    }
}

/// One request on its way.
enum Slot {
    /// This thread waits for the reply.
    Waiting(ThreadId),
    /// Nobody wants the reply.
    Unwanted,
    /// The reply has come.
    Done(Answer),
    /// There will be none.
    Dead,
}

struct State {
    /// By tag.
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    /// Threads that wait for a tag.
    queue: VecDeque<ThreadId>,
    /// Whether somebody reads.
    led: bool,
    /// Whether the gofer is gone.
    dead: bool,
    spares: Vec<Vec<u8>>,
}

/// A connection.
pub struct Connection {
    channel: Arc<dyn Channel>,
    msize: usize,
    state: SpinLock<State>,
    next_fid: AtomicU32,
    /// Fids that nobody uses any more and the gofer does not know of yet; and fids to use again.
    fids: SpinLock<Fids>,
    /// Who wants to know of changes that others make, by the fid that is watched.
    listeners: SpinLock<HashMap<Fid, Weak<dyn Listener>>>,
    /// When the gofer's own messages were last looked for (monotonic).
    polled: AtomicU64,
}

impl Connection {
    /// What is under way.
    pub fn info(&self) -> FileServerInfo {
        let unused = self.fids.lock().clunk.len();
        let state = self.state.lock();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let waits = |slot: &&Option<Slot>| matches!(slot, Some(Slot::Waiting(_) | Slot::Unwanted));
        FileServerInfo {
            requests: count(state.slots.iter().filter(waits).count()),
            waiting: count(state.queue.len()),
            unused_fids: count(unused),
            gone: state.dead,
        }
    }
}

/// Wants to know of changes that others make to a directory.
pub trait Listener: Send + Sync {
    /// Something has changed. Called on any thread; must not ask the gofer.
    fn changed(&self, changed: Changed);
}

#[derive(Default)]
struct Fids {
    clunk: Vec<Fid>,
    /// Whether `clunk` should be sent.
    due: bool,
    free: Vec<Fid>,
}

impl Connection {
    /// Negotiates the dialect on a fresh channel. `EPROTO` where the other side does not know it.
    pub fn new(channel: Arc<dyn Channel>) -> Result<Arc<Connection>, Errno> {
        let msize = channel.max_message().min(MSIZE_MAX);
        let connection = Connection {
            channel,
            msize,
            state: SpinLock::new(State {
                slots: (0..TAGS).map(|_| None).collect(),
                free: (0..TAGS as u16).rev().collect(),
                queue: VecDeque::new(),
                led: false,
                dead: false,
                spares: Vec::new(),
            }),
            next_fid: AtomicU32::new(0),
            fids: SpinLock::default(),
            listeners: SpinLock::new(HashMap::new()),
            polled: AtomicU64::new(0),
        };
        let asked = u32::try_from(msize).map_err(|_| Errno::EINVAL)?;
        let answer =
            connection.call(&Request::Version { msize: asked, version: VERSION_DIALECT })?;
        match answer.reply()? {
            Reply::Version { msize, version: VERSION_DIALECT }
                if msize == asked && msize as usize >= MSIZE_MIN => {}
            _ => return Err(Errno::EPROTO),
        }
        drop(answer);
        Ok(Arc::new(connection))
    }

    /// The most bytes of file content in one message.
    pub fn io_max(&self) -> usize {
        // What a write has besides: fid, offset, count.
        self.msize.saturating_sub(HEADER + 16).min(gofer::wire::IO_MAX)
    }

    /// A fid that is not in use.
    pub fn new_fid(&self) -> Fid {
        if let Some(fid) = self.fids.lock().free.pop() {
            return fid;
        }
        // 2^32 - 1 descriptors is more than a gofer can hold; a fid that came round is refused.
        Fid(self.next_fid.fetch_add(1, Ordering::Relaxed))
    }

    /// The fid was not made after all.
    pub fn unused(&self, fid: Fid) {
        self.fids.lock().free.push(fid);
    }

    /// Nobody uses the fid any more. Never waits for the gofer's answer; `now` where the file should
    /// not outlive this, because its last name is gone.
    pub fn forget(&self, fid: Fid, now: bool) {
        let due = {
            let mut fids = self.fids.lock();
            fids.clunk.push(fid);
            fids.due |= now || fids.clunk.len() >= CLUNK_BATCH;
            fids.due
        };
        if due {
            self.clunk();
        }
    }

    /// Has the gofer forget at once what nobody uses any more: it has run out of room.
    pub fn make_room(&self) {
        self.clunk();
    }

    /// Tells the gofer of the fids that nobody uses any more, unless no tag is free: then the next
    /// request does.
    fn clunk(&self) {
        let tag = {
            let mut state = self.state.lock();
            // The last ones are for those who wait for answers: these replies are read by them.
            if state.dead || state.free.len() <= TAGS / 2 {
                return;
            }
            let Some(tag) = state.free.pop() else { return };
            if let Some(slot) = state.slots.get_mut(usize::from(tag)) {
                *slot = Some(Slot::Unwanted);
            }
            tag
        };
        let batch = {
            let mut fids = self.fids.lock();
            let at = fids.clunk.len().saturating_sub(MAX_FIDS);
            fids.due = at > 0;
            fids.clunk.split_off(at)
        };
        let request = Request::ClunkMany { fids: batch };
        if self.send(tag, &request).is_err() {
            return self.give_back(tag);
        }
        // The gofer does this before it reads the next message: the numbers can be used again.
        if let Request::ClunkMany { fids } = request {
            self.fids.lock().free.extend(fids);
        }
    }

    /// Asks, and waits for the answer. Signals do not interrupt the wait.
    pub fn call(&self, request: &Request<'_>) -> Result<Answer, Errno> {
        if self.fids.lock().due {
            self.clunk();
        }
        let tag = self.tag()?;
        if let Err(e) = self.send(tag, request) {
            self.give_back(tag);
            return Err(e);
        }
        let mut parked = false;
        loop {
            let buffer = {
                let mut state = self.state.lock();
                match state.slots.get_mut(usize::from(tag)).and_then(Option::take) {
                    Some(Slot::Done(answer)) => {
                        drop(state);
                        self.give_back(tag);
                        self.rouse(parked);
                        return Ok(answer);
                    }
                    Some(Slot::Dead) | None => {
                        drop(state);
                        self.give_back(tag);
                        self.rouse(parked);
                        return Err(Errno::EIO);
                    }
                    waiting => {
                        if let Some(slot) = state.slots.get_mut(usize::from(tag)) {
                            *slot = waiting;
                        }
                    }
                }
                if state.led {
                    None
                } else {
                    state.led = true;
                    Some(state.spares.pop().unwrap_or_default())
                }
            };
            match buffer {
                Some(buffer) => self.lead(Some(tag), None, buffer),
                None => {
                    parked = true;
                    platform().park(None);
                }
            }
        }
    }

    /// Parking here may have used up an unpark that was meant for a wait around this call.
    fn rouse(&self, parked: bool) {
        if parked {
            platform().unpark(platform().current());
        }
    }

    /// Reads what the gofer has said of its own accord, if nobody has for a while. Does not wait.
    pub fn poll(&self, now: u64) {
        let last = self.polled.load(Ordering::Relaxed);
        if now < last.saturating_add(POLL_EVERY)
            || self.listeners.lock().is_empty()
            || self
                .polled
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let buffer = {
            let mut state = self.state.lock();
            // Whoever leads reads them.
            if state.led || state.dead {
                return;
            }
            state.led = true;
            state.spares.pop().unwrap_or_default()
        };
        self.lead(None, Some(now), buffer);
    }

    /// Has `listener` told of changes that others make to the directory `fid`.
    pub fn listen(&self, fid: Fid, listener: Weak<dyn Listener>) {
        self.listeners.lock().insert(fid, listener);
    }

    /// No longer.
    pub fn unlisten(&self, fid: Fid) {
        let gone = self.listeners.lock().remove(&fid);
        drop(gone);
    }

    /// The gofer says that something has changed.
    fn tell(&self, fid: Fid, changed: Changed) {
        let told: Vec<Weak<dyn Listener>> = {
            let listeners = self.listeners.lock();
            if changed.contains(Changed::ALL) {
                listeners.values().cloned().collect()
            } else {
                listeners.get(&fid).cloned().into_iter().collect()
            }
        };
        told.iter().filter_map(Weak::upgrade).for_each(|listener| listener.changed(changed));
    }

    /// Reads replies until the one of `tag` has come, or until `deadline`, then leaves the lead to
    /// another.
    fn lead(&self, tag: Option<u16>, deadline: Option<u64>, mut buffer: Vec<u8>) {
        loop {
            let file = match self.channel.recv(&mut buffer, deadline) {
                Ok(file) => file,
                Err(Errno::ETIMEDOUT) => return self.follow(buffer),
                Err(_) => return self.die(),
            };
            let Ok(frame) = Frame::new_checked(&buffer) else {
                return self.die();
            };
            let got = frame.tag();
            if got == NOTAG {
                match Reply::parse(frame) {
                    Ok(Reply::Invalidate { fid, changed, .. }) => {
                        self.tell(fid, Changed::from_bits_truncate(changed));
                    }
                    _ => return self.die(),
                }
                continue;
            }
            let answer = Answer { bytes: buffer, file };
            let mut state = self.state.lock();
            buffer = state.spares.pop().unwrap_or_default();
            match state.slots.get_mut(usize::from(got)).and_then(Option::as_mut) {
                Some(slot @ Slot::Waiting(_)) => {
                    let was = core::mem::replace(slot, Slot::Done(answer));
                    drop(state);
                    if Some(got) == tag {
                        return self.follow(buffer);
                    }
                    if let Slot::Waiting(thread) = was {
                        platform().unpark(thread);
                    }
                }
                Some(Slot::Unwanted) => {
                    drop(state);
                    self.give_back(got);
                    drop(answer);
                }
                // A reply to nothing: the gofer has lost its way.
                _ => {
                    drop(state);
                    drop(answer);
                    return self.die();
                }
            }
        }
    }

    /// Leaves the lead to another who waits, if there is one.
    fn follow(&self, buffer: Vec<u8>) {
        let next = {
            let mut state = self.state.lock();
            state.led = false;
            if state.spares.len() < SPARES {
                state.spares.push(buffer);
            }
            state.slots.iter().flatten().find_map(|slot| match slot {
                Slot::Waiting(thread) => Some(*thread),
                _ => None,
            })
        };
        if let Some(next) = next {
            platform().unpark(next);
        }
    }

    /// The gofer is gone: nobody waits any longer.
    fn die(&self) {
        let mut wake = Vec::new();
        {
            let mut state = self.state.lock();
            state.led = false;
            state.dead = true;
            for slot in state.slots.iter_mut().flatten() {
                if let Slot::Waiting(thread) = slot {
                    wake.push(*thread);
                    *slot = Slot::Dead;
                }
            }
            wake.extend(state.queue.drain(..));
        }
        for thread in wake {
            platform().unpark(thread);
        }
    }

    /// A free tag, waiting for one if need be.
    fn tag(&self) -> Result<u16, Errno> {
        let me = platform().current();
        let mut parked = false;
        loop {
            {
                let mut state = self.state.lock();
                if state.dead {
                    return Err(Errno::EIO);
                }
                if let Some(tag) = state.free.pop() {
                    if let Some(place) = state.slots.get_mut(usize::from(tag)) {
                        *place = Some(Slot::Waiting(me));
                    }
                    state.queue.retain(|thread| *thread != me);
                    drop(state);
                    self.rouse(parked);
                    return Ok(tag);
                }
                if !state.queue.contains(&me) {
                    state.queue.push_back(me);
                }
            }
            parked = true;
            platform().park(None);
        }
    }

    /// The tag is free again.
    fn give_back(&self, tag: u16) {
        let next = {
            let mut state = self.state.lock();
            if let Some(slot) = state.slots.get_mut(usize::from(tag)) {
                *slot = None;
            }
            state.free.push(tag);
            state.queue.front().copied()
        };
        if let Some(thread) = next {
            platform().unpark(thread);
        }
    }

    fn send(&self, tag: u16, request: &Request<'_>) -> Result<(), Errno> {
        let mut small = [0u8; SMALL];
        if let Ok(size) = request.emit(tag, &mut small) {
            return self.channel.send(small.get(..size).unwrap_or_default()).map_err(gone);
        }
        let mut large = vec![0u8; self.msize];
        let size = request.emit(tag, &mut large).map_err(|_| Errno::ENAMETOOLONG)?;
        self.channel.send(large.get(..size).unwrap_or_default()).map_err(gone)
    }
}

/// What a broken channel is to an application.
fn gone(_: Errno) -> Errno {
    Errno::EIO
}
