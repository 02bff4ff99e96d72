//! What lies in an inbox, and open files that are under way.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::Sock;
use super::address::Address;
use crate::errno::Errno;
use crate::fs::File;
use crate::net::Ucred;
use crate::sync::SpinLock;

/// What a message costs its sender's buffer beside its bytes, so that empty ones are not free.
pub(super) const OVERHEAD: usize = 256;
/// Small pieces of a stream are put together up to this size.
const MERGED: usize = 4096;

/// Something that was sent and not read yet.
pub(super) struct Message {
    pub(super) data: Vec<u8>,
    /// Bytes read already, of a stream.
    pub(super) start: usize,
    /// The sender, as far as that was to be said.
    pub(super) creds: Option<Ucred>,
    pub(super) files: InFlight,
    /// Sent with MSG_OOB: never put together with others. Read by itself it stays, empty, as a mark.
    pub(super) apart: bool,
    /// Looked at with MSG_PEEK.
    pub(super) peeked: bool,
    /// The last byte that was sent so, and not read yet.
    pub(super) urgent: bool,
    /// The sender's name.
    pub(super) from: Option<Arc<Address>>,
    sender: Weak<Sock>,
    charge: usize,
}

impl Message {
    /// Charges `sender` for a message.
    pub(super) fn new(
        sender: &Sock,
        data: Vec<u8>,
        creds: Option<Ucred>,
        files: InFlight,
    ) -> Message {
        let charge = data.len().saturating_add(OVERHEAD);
        sender.charge(charge);
        let from = sender.address();
        Message {
            data,
            start: 0,
            creds,
            files,
            apart: false,
            peeked: false,
            urgent: false,
            from,
            sender: sender.this.clone(),
            charge,
        }
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.data.len().saturating_sub(self.start)
    }

    /// What is left.
    pub(super) fn rest(&self) -> &[u8] {
        self.data.get(self.start..).unwrap_or(&[])
    }

    /// `n` bytes have been read.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n);
        let n = n.min(self.charge);
        self.charge = self.charge.saturating_sub(n);
        if let Some(sender) = self.sender.upgrade() {
            sender.refund(n);
        }
    }

    /// Appends another one of the same sender, where both are small and carry nothing but bytes. Gives
    /// it back where they cannot be one.
    pub(super) fn merge(&mut self, mut other: Message) -> Option<Message> {
        // An urgent byte stays apart, also once it has been read or another is the last.
        let plain = !self.apart
            && !other.apart
            && self.files.is_empty()
            && other.files.is_empty()
            && self.creds == other.creds;
        let one = Weak::ptr_eq(&self.sender, &other.sender);
        if !plain || !one || self.data.len().saturating_add(other.data.len()) > MERGED {
            return Some(other);
        }
        self.data.extend_from_slice(&other.data);
        // Its bytes stay charged, by this message now; what it cost to be one of its own does not.
        let bytes = other.data.len().min(other.charge);
        self.charge = self.charge.saturating_add(bytes);
        other.charge = other.charge.saturating_sub(bytes);
        None
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.upgrade() {
            sender.refund(self.charge);
        }
    }
}

/// Open files under way, in all containers' sockets.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

/// Open files in a message, counted.
#[derive(Default)]
pub struct InFlight(Vec<Arc<File>>);

impl InFlight {
    /// Takes files on their way. `ETOOMANYREFS` where more than `limit` are under way already.
    pub(super) fn new(files: Vec<Arc<File>>, limit: u64) -> Result<InFlight, Errno> {
        let more = files.len() as u64;
        if more > 0 && IN_FLIGHT.fetch_add(more, Ordering::AcqRel) > limit {
            IN_FLIGHT.fetch_sub(more, Ordering::AcqRel);
            return Err(Errno::ETOOMANYREFS);
        }
        Ok(InFlight(files))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Those of a range, for their receiver.
    pub fn get(&self, range: Range<usize>) -> &[Arc<File>] {
        self.0.get(range).unwrap_or(&[])
    }

    /// The same files once more (MSG_PEEK).
    pub(super) fn again(&self) -> InFlight {
        IN_FLIGHT.fetch_add(self.0.len() as u64, Ordering::AcqRel);
        InFlight(self.0.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            IN_FLIGHT.fetch_sub(self.0.len() as u64, Ordering::AcqRel);
            bury(mem::take(&mut self.0));
        }
    }
}

/// Files whose message is gone, and whether somebody is at work on them.
static GRAVES: SpinLock<(bool, Vec<Arc<File>>)> = SpinLock::new((false, Vec::new()));

/// Drops files. One may be the last descriptor of a socket whose inbox holds further files, and so on as
/// deep as an application likes: so they are dropped one after the other, never one inside the other.
fn bury(files: Vec<Arc<File>>) {
    {
        let mut graves = GRAVES.lock();
        graves.1.extend(files);
        if mem::replace(&mut graves.0, true) {
            return;
        }
    }
    loop {
        let next = {
            let mut graves = GRAVES.lock();
            let next = graves.1.pop();
            graves.0 = next.is_some();
            next
        };
        match next {
            Some(file) => drop(file),
            None => return,
        }
    }
}
