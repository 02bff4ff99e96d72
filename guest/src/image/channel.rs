//! Message channels to the host half: two rings of bytes each, with the framing of the contract.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use guest::contract::{ChannelControl, MORE, NO_FILE, PAGE, PieceHeader, Request, op};
use ring0::paging;
use ring0::thread::{self, Id};
use sentry::errno::Errno;
use sentry::platform::{Channel, ChannelId, FileId};
use zerocopy::{FromZeros, IntoBytes};

use crate::{host, memory};

/// Bytes of each ring.
const RING: u32 = 64 << 10;
const HEADER: u32 = size_of::<PieceHeader>() as u32;
/// The longest piece: half a ring, so that both sides can work at once.
const PIECE: u32 = RING / 2 - HEADER;

/// All that are open.
static OPEN: spin::Mutex<Vec<Arc<Ring>>> = spin::Mutex::new(Vec::new());

/// One channel.
pub struct Ring {
    id: ChannelId,
    control: u64,
    max: usize,
    /// The thread that waits for a message; 0: none.
    receiver: AtomicU64,
    /// Who sends: one at a time, others wait here.
    senders: spin::Mutex<Senders>,
}

struct Senders {
    busy: bool,
    queue: VecDeque<Id>,
    /// The sender that waits for room.
    waits: Option<Id>,
}

/// Opens a channel.
pub fn open(id: ChannelId) -> Result<Arc<dyn Channel>, Errno> {
    let handle = match id {
        ChannelId::Control => 0,
        ChannelId::Gofer(n) => n.checked_add(1).ok_or(Errno::ENODEV)?,
    };
    if OPEN.lock().iter().any(|ring| ring.id == id) {
        return Err(Errno::EBUSY);
    }
    let pages = 1 + 2 * u64::from(RING) / PAGE;
    let frame = memory::alloc(pages as u32).ok_or(Errno::ENOMEM)?;
    let control = memory::address(frame);
    let result = host::request(Request {
        op: op::CHANNEL_OPEN,
        handle,
        gpa: control,
        len: RING.into(),
        ..Request::default()
    });
    if result < 0 {
        memory::free(frame, pages as u32);
        return Err(Errno::from_code(result.unsigned_abs() as i32));
    }
    let ring = Arc::new(Ring {
        id,
        control,
        max: result as usize,
        receiver: AtomicU64::new(0),
        senders: spin::Mutex::new(Senders { busy: false, queue: VecDeque::new(), waits: None }),
    });
    OPEN.lock().push(ring.clone());
    Ok(ring)
}

/// The host half has interrupted: whoever can go on now does.
pub fn wake() {
    for ring in OPEN.lock().iter() {
        let receiver = ring.receiver.load(Ordering::SeqCst);
        if receiver != 0 && (ring.has_message() || ring.closed()) {
            thread::unpark(Id(receiver));
        }
        if let Some(id) = ring.senders.lock().waits {
            thread::unpark(id);
        }
    }
}

impl Ring {
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the control page is this channel's, is never freed, and both sides use its words atomically.
        unsafe { paging::physical_word(self.control + offset as u64) }
    }

    fn closed(&self) -> bool {
        self.word(offset_of!(ChannelControl, closed)).load(Ordering::Acquire) != 0
    }

    fn has_message(&self) -> bool {
        self.word(offset_of!(ChannelControl, in_tail)).load(Ordering::Acquire)
            != self.word(offset_of!(ChannelControl, in_head)).load(Ordering::Relaxed)
    }

    /// Copies into the outgoing ring at index `at`.
    fn put(&self, at: u32, data: &[u8]) {
        let start = at % RING;
        let first = data.len().min((RING - start) as usize);
        let base = self.control + PAGE;
        let (head, tail) = data.split_at(first);
        // SAFETY: inside this channel's ring, in the part that the host half does not read yet.
        unsafe {
            paging::write_physical(base + u64::from(start), head);
            paging::write_physical(base, tail);
        }
    }

    /// Copies out of the incoming ring at index `at`.
    fn get(&self, at: u32, buf: &mut [u8]) {
        let start = at % RING;
        let first = buf.len().min((RING - start) as usize);
        let base = self.control + PAGE + u64::from(RING);
        let (head, tail) = buf.split_at_mut(first);
        // SAFETY: inside this channel's ring.
        unsafe {
            paging::read_physical(base + u64::from(start), head);
            paging::read_physical(base, tail);
        }
    }

    /// Waits until the outgoing ring has `needed` bytes free.
    fn wait_for_room(&self, needed: u32) -> Result<(), Errno> {
        let tail = self.word(offset_of!(ChannelControl, out_tail)).load(Ordering::Relaxed);
        let head = self.word(offset_of!(ChannelControl, out_head));
        let waiter = self.word(offset_of!(ChannelControl, out_waiter));
        let has_room = || RING - tail.wrapping_sub(head.load(Ordering::Acquire)) >= needed;
        while !has_room() {
            if self.closed() {
                return Err(Errno::EPIPE);
            }
            self.senders.lock().waits = Some(thread::current().id());
            waiter.store(ring0::percpu::this_cpu().number + 1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if !has_room() && !self.closed() {
                thread::park(None);
            }
            self.senders.lock().waits = None;
        }
        Ok(())
    }

    fn send_pieces(&self, message: &[u8]) -> Result<(), Errno> {
        let tail = self.word(offset_of!(ChannelControl, out_tail));
        let mut rest = message;
        loop {
            let (piece, more) = rest.split_at(rest.len().min(PIECE as usize));
            let len = piece.len() as u32;
            let size = HEADER + len.next_multiple_of(8);
            self.wait_for_room(size)?;
            if self.closed() {
                return Err(Errno::EPIPE);
            }
            let at = tail.load(Ordering::Relaxed);
            let flags = if more.is_empty() { 0 } else { MORE };
            let header = PieceHeader { len, flags, file: NO_FILE, reserved: 0 };
            self.put(at, header.as_bytes());
            self.put(at.wrapping_add(HEADER), piece);
            tail.store(at.wrapping_add(size), Ordering::Release);
            host::ring_doorbell();
            rest = more;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes one piece, if there is one: whether more follow, and the file.
    fn take_piece(&self, buf: &mut Vec<u8>) -> Option<(bool, u32)> {
        if !self.has_message() {
            return None;
        }
        let head = self.word(offset_of!(ChannelControl, in_head));
        let at = head.load(Ordering::Relaxed);
        let mut header = PieceHeader::new_zeroed();
        self.get(at, header.as_mut_bytes());
        let start = buf.len();
        buf.resize(start + header.len as usize, 0);
        self.get(at.wrapping_add(HEADER), &mut buf[start..]);
        let size = HEADER + header.len.next_multiple_of(8);
        head.store(at.wrapping_add(size), Ordering::SeqCst);
        if self.word(offset_of!(ChannelControl, in_full)).load(Ordering::SeqCst) != 0 {
            host::ring_doorbell();
        }
        Some((header.flags & MORE != 0, header.file))
    }

    /// Waits for a piece until the deadline.
    fn wait_for_piece(&self, deadline: Option<u64>) -> Result<(), Errno> {
        let waiter = self.word(offset_of!(ChannelControl, in_waiter));
        let me = thread::current().id();
        loop {
            self.receiver.store(me.0, Ordering::SeqCst);
            waiter.store(ring0::percpu::this_cpu().number + 1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let (ready, closed) = (self.has_message(), self.closed());
            let late = deadline.is_some_and(|d| ring0::clock::monotonic() >= d);
            if ready || closed || late {
                waiter.store(0, Ordering::Relaxed);
                self.receiver.store(0, Ordering::SeqCst);
                return match () {
                    () if ready => Ok(()),
                    () if closed && !self.has_message() => Err(Errno::EPIPE),
                    () if closed => Ok(()),
                    () => Err(Errno::ETIMEDOUT),
                };
            }
            thread::park(deadline);
        }
    }
}

impl Channel for Ring {
    fn max_message(&self) -> usize {
        self.max
    }

    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        if message.len() > self.max {
            return Err(Errno::EMSGSIZE);
        }
        let me = thread::current().id();
        loop {
            let mut senders = self.senders.lock();
            if !senders.busy {
                senders.busy = true;
                senders.queue.retain(|&id| id != me);
                break;
            }
            if !senders.queue.contains(&me) {
                senders.queue.push_back(me);
            }
            drop(senders);
            thread::park(None);
        }
        let result = self.send_pieces(message);
        let next = {
            let mut senders = self.senders.lock();
            senders.busy = false;
            senders.queue.front().copied()
        };
        if let Some(next) = next {
            thread::unpark(next);
        }
        result
    }

    fn recv(&self, buf: &mut Vec<u8>, deadline: Option<u64>) -> Result<Option<FileId>, Errno> {
        buf.clear();
        let mut file = NO_FILE;
        let mut first = true;
        loop {
            let (more, with) = match self.take_piece(buf) {
                Some(piece) => piece,
                None => {
                    // Once begun, a message is taken whole.
                    self.wait_for_piece(if first { deadline } else { None })?;
                    continue;
                }
            };
            if first {
                file = with;
                first = false;
            }
            if !more {
                return Ok((file != NO_FILE).then_some(FileId(file)));
            }
        }
    }
}
