//! Message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).
//!
//! A queue has one lock and one wait queue for both sides; whoever waits tries again as a whole when
//! something has changed.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::table::{Object, Table};
use super::{Perm, flag, seconds};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::sync::{Mutex, WaitQueue};
use crate::task::{Blocked, Creds, Current, Pid, UserNamespace, cap};

/// Bytes of a message (MSGMAX).
pub const MAX: usize = 8192;
/// Bytes in a queue at first, and the most without privilege (MSGMNB).
pub const QUEUE_BYTES: u64 = 16_384;
/// Queues in a namespace (MSGMNI).
pub const QUEUES: usize = 32_000;
/// Bytes in all queues of a namespace, with what each message costs beside its text: queues can be many,
/// and what they hold is the sentry's own memory.
const ALL: usize = 64 << 20;
const OVERHEAD: usize = 64;

/// Flags of msgrcv(2) (linux/msg.h).
pub const NOERROR: u32 = 0o10000;
/// Any type but this one.
pub const EXCEPT: u32 = 0o20000;
/// The message at this place, which stays.
pub const COPY: u32 = 0o40000;

/// The queues of a namespace.
#[derive(Default)]
pub struct Queues {
    /// Whose capabilities count for the namespace.
    pub(super) owner: UserNamespace,
    table: Mutex<Table<MsgQueue>>,
    /// What all messages take.
    used: Arc<AtomicUsize>,
}

/// One queue.
pub struct MsgQueue {
    /// Its id.
    pub id: i32,
    state: Mutex<State>,
    queue: WaitQueue,
    used: Arc<AtomicUsize>,
}

struct State {
    perm: Perm,
    messages: VecDeque<Message>,
    bytes: u64,
    most: u64,
    sender: Pid,
    receiver: Pid,
    sent: u64,
    received: u64,
    changed: u64,
    removed: bool,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// At least 1.
    pub kind: i64,
    /// Its text.
    pub data: Vec<u8>,
}

/// What IPC_STAT tells of a queue. Times are seconds, 0: never.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the names are those of struct msqid64_ds
pub struct Stat {
    pub id: i32,
    pub perm: Perm,
    pub stime: u64,
    pub rtime: u64,
    pub ctime: u64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: Pid,
    pub lrpid: Pid,
}

/// Which message a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Any,
    Equal(i64),
    Except(i64),
    /// The lowest type up to this.
    UpTo(i64),
    /// The one at this place.
    Nth(i64),
}

impl Want {
    /// convert_mode() in ipc/msg.c.
    fn new(kind: i64, flags: u32) -> Want {
        match kind {
            kind if flags & COPY != 0 => Want::Nth(kind),
            0 => Want::Any,
            ..0 => Want::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
            kind if flags & EXCEPT != 0 => Want::Except(kind),
            kind => Want::Equal(kind),
        }
    }

    /// Its place in a queue.
    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Want::Any => (!messages.is_empty()).then_some(0),
            Want::Equal(kind) => messages.iter().position(|m| m.kind == kind),
            Want::Except(kind) => messages.iter().position(|m| m.kind != kind),
            Want::UpTo(most) => {
                let fits = messages.iter().enumerate().filter(|(_, m)| m.kind <= most);
                fits.min_by_key(|(at, m)| (m.kind, *at)).map(|(at, _)| at)
            }
            Want::Nth(n) => usize::try_from(n).ok().filter(|n| *n < messages.len()),
        }
    }
}

impl Object for MsgQueue {
    fn id(&self) -> i32 {
        self.id
    }
    fn perm(&self) -> Perm {
        self.state.lock().perm.clone()
    }
}

impl Queues {
    /// msgget(2).
    pub fn get(&self, creds: &Creds, key: i32, flags: u32) -> Result<i32, Errno> {
        let mut table = self.table.lock();
        if let Some(id) = table.get(creds, key, flags, |_| Ok(()))? {
            return Ok(id);
        }
        table.add(QUEUES, |id| MsgQueue {
            id,
            state: Mutex::new(State {
                perm: Perm::new(key, creds, flags, &self.owner),
                messages: VecDeque::new(),
                bytes: 0,
                most: QUEUE_BYTES,
                sender: 0,
                receiver: 0,
                sent: 0,
                received: 0,
                changed: seconds(),
                removed: false,
            }),
            queue: WaitQueue::new(),
            used: self.used.clone(),
        })
    }

    /// The queue with this id.
    pub fn find(&self, id: i32) -> Result<Arc<MsgQueue>, Errno> {
        self.table.lock().find(id)
    }

    /// The queue at this place.
    pub fn at(&self, place: u32) -> Result<Arc<MsgQueue>, Errno> {
        self.table.lock().at(place)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<MsgQueue>> {
        self.table.lock().all()
    }

    /// Queues, messages, bytes in them, and the highest place in use.
    pub fn usage(&self) -> (usize, u64, u64, u32) {
        let (all, highest) = {
            let table = self.table.lock();
            (table.all(), table.highest())
        };
        let (mut messages, mut bytes) = (0u64, 0u64);
        for queue in &all {
            let state = queue.state.lock();
            messages = messages.saturating_add(state.messages.len() as u64);
            bytes = bytes.saturating_add(state.bytes);
        }
        (all.len(), messages, bytes, highest)
    }

    /// IPC_RMID: whoever waits gets `EIDRM`.
    pub fn remove(&self, creds: &Creds, id: i32) -> Result<(), Errno> {
        let mut table = self.table.lock();
        let queue = table.find(id)?;
        {
            let mut state = queue.state.lock();
            state.perm.check_owner(creds)?;
            state.removed = true;
            let gone = core::mem::take(&mut state.messages);
            gone.iter().for_each(|m| queue.refund(m.data.len()));
            state.bytes = 0;
        }
        table.remove(id)?;
        drop(table);
        queue.queue.wake_all();
        Ok(())
    }
}

/// A wait that was cut short: begun again only where no handler ran (signal(7)).
fn cut_short(blocked: Blocked) -> SysError {
    match blocked {
        Blocked::Interrupted => SysError::Interrupted(Restart::NoHandler),
        Blocked::TimedOut => Errno::EAGAIN.into(),
    }
}

impl MsgQueue {
    fn charge(&self, len: usize) -> Result<(), Errno> {
        let more = len.saturating_add(OVERHEAD);
        let add = |used: usize| used.checked_add(more).filter(|sum| *sum <= ALL);
        let result = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        result.map(|_| ()).map_err(|_| Errno::ENOMEM)
    }

    fn refund(&self, len: usize) {
        self.used.fetch_sub(len.saturating_add(OVERHEAD), Ordering::Relaxed);
    }

    /// msgsnd(2).
    pub fn send(&self, cx: &Current, message: Message, flags: u32) -> Result<(), SysError> {
        let len = message.data.len();
        self.charge(len)?;
        let mut message = Some(message);
        let result = cx.wait_for(&self.queue, u32::MAX, None, || {
            let mut state = self.state.lock();
            if state.removed {
                return Some(Err(Errno::EIDRM));
            }
            if let Err(e) = state.perm.check(&cx.creds, 0o222) {
                return Some(Err(e));
            }
            if !state.fits(len) {
                return (flags & flag::NOWAIT != 0).then_some(Err(Errno::EAGAIN));
            }
            state.messages.extend(message.take());
            state.bytes = state.bytes.saturating_add(len as u64);
            state.sender = cx.task.process.pid;
            state.sent = seconds();
            Some(Ok(()))
        });
        match result {
            Ok(Ok(())) => {
                self.queue.wake_all();
                Ok(())
            }
            Ok(Err(e)) => {
                self.refund(len);
                Err(e.into())
            }
            Err(blocked) => {
                self.refund(len);
                Err(cut_short(blocked))
            }
        }
    }

    /// msgrcv(2) of at most `room` bytes; longer messages come whole, for the caller to cut.
    pub fn receive(
        &self,
        cx: &Current,
        room: usize,
        kind: i64,
        flags: u32,
    ) -> Result<Message, SysError> {
        let want = Want::new(kind, flags);
        let result = cx.wait_for(&self.queue, u32::MAX, None, || {
            let mut state = self.state.lock();
            if state.removed {
                return Some(Err(Errno::EIDRM));
            }
            if let Err(e) = state.perm.check(&cx.creds, 0o444) {
                return Some(Err(e));
            }
            match state.take(want, room, flags) {
                None if flags & flag::NOWAIT != 0 => Some(Err(Errno::ENOMSG)),
                Some(Ok(message)) => {
                    if flags & COPY == 0 {
                        state.receiver = cx.task.process.pid;
                        state.received = seconds();
                    }
                    Some(Ok(message))
                }
                result => result,
            }
        });
        match result {
            Ok(Ok(message)) => {
                if flags & COPY == 0 {
                    self.refund(message.data.len());
                    self.queue.wake_all();
                }
                Ok(message)
            }
            Ok(Err(e)) => Err(e.into()),
            Err(blocked) => Err(cut_short(blocked)),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.state.lock();
        if state.removed { Err(Errno::EIDRM) } else { f(&mut state) }
    }

    /// IPC_STAT; `checked`: only for who may read the queue.
    pub fn stat(&self, creds: &Creds, checked: bool) -> Result<Stat, Errno> {
        self.with(|state| {
            if checked {
                state.perm.check(creds, 0o444)?;
            }
            Ok(Stat {
                id: self.id,
                perm: state.perm.clone(),
                stime: state.sent,
                rtime: state.received,
                ctime: state.changed,
                cbytes: state.bytes,
                qnum: state.messages.len() as u64,
                qbytes: state.most,
                lspid: state.sender,
                lrpid: state.receiver,
            })
        })
    }

    /// IPC_SET.
    pub fn set(
        &self,
        creds: &Creds,
        (uid, gid, mode): (u32, u32, u32),
        qbytes: u64,
    ) -> Result<(), Errno> {
        self.with(|state| {
            state.perm.check_owner(creds)?;
            if qbytes > QUEUE_BYTES && !creds.capable(cap::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            (state.perm.uid, state.perm.gid) = (uid, gid);
            state.perm.mode = mode & 0o777;
            state.most = qbytes;
            state.changed = seconds();
            Ok(())
        })?;
        // Permissions or room may have changed for those who wait.
        self.queue.wake_all();
        Ok(())
    }
}

impl Drop for MsgQueue {
    fn drop(&mut self) {
        let gone = core::mem::take(&mut self.state.get_mut().messages);
        gone.iter().for_each(|m| self.refund(m.data.len()));
    }
}

impl State {
    fn fits(&self, len: usize) -> bool {
        self.bytes.saturating_add(len as u64) <= self.most
            && (self.messages.len() as u64) < self.most
    }

    /// Takes the message that is wanted, or a copy with [`COPY`]; `None` where there is none.
    fn take(&mut self, want: Want, room: usize, flags: u32) -> Option<Result<Message, Errno>> {
        let at = want.find(&self.messages)?;
        let message = self.messages.get(at)?;
        let long = message.data.len() > room;
        if long && flags & NOERROR == 0 {
            return Some(Err(Errno::E2BIG));
        }
        if flags & COPY != 0 {
            // A copy is made for the receiver's room, and cannot be cut.
            return Some(if long { Err(Errno::EINVAL) } else { Ok(message.clone()) });
        }
        let message = self.messages.remove(at)?;
        self.bytes = self.bytes.saturating_sub(message.data.len() as u64);
        Some(Ok(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(kinds: &[i64]) -> State {
        let message = |kind: &i64| Message { kind: *kind, data: alloc::vec![0; *kind as usize] };
        State {
            perm: Perm::new(1, &Creds::default(), 0o600, &UserNamespace::INITIAL),
            messages: kinds.iter().map(message).collect(),
            bytes: kinds.iter().sum::<i64>() as u64,
            most: 20,
            sender: 0,
            receiver: 0,
            sent: 0,
            received: 0,
            changed: 0,
            removed: false,
        }
    }

    fn take(state: &mut State, kind: i64, flags: u32) -> Option<Result<i64, Errno>> {
        Some(state.take(Want::new(kind, flags), 100, flags)?.map(|m| m.kind))
    }

    #[test]
    fn types_choose_the_message() {
        let mut q = queue(&[3, 1, 4, 1, 2]);
        assert_eq!(take(&mut q, 9, 0), None);
        assert_eq!(take(&mut q, 4, 0), Some(Ok(4)));
        assert_eq!(take(&mut q, -2, 0), Some(Ok(1)));
        assert_eq!(take(&mut q, 3, EXCEPT), Some(Ok(1)));
        assert_eq!(take(&mut q, i64::MIN, 0), Some(Ok(2)));
        assert_eq!(take(&mut q, 0, 0), Some(Ok(3)));
        assert_eq!((take(&mut q, 0, 0), q.bytes), (None, 0));
    }

    #[test]
    fn copies_stay_and_lengths_count() {
        let mut q = queue(&[3, 5]);
        assert_eq!(take(&mut q, 1, COPY), Some(Ok(5)));
        assert_eq!(take(&mut q, 2, COPY), None);
        assert_eq!(take(&mut q, -1, COPY), None);
        assert_eq!(q.take(Want::Any, 2, 0), Some(Err(Errno::E2BIG)));
        assert_eq!(q.take(Want::Nth(0), 2, COPY | NOERROR), Some(Err(Errno::EINVAL)));
        assert!(q.fits(12) && !q.fits(13));
        assert_eq!(q.take(Want::Any, 2, NOERROR).unwrap().unwrap().data.len(), 3);
        assert_eq!(q.bytes, 5);
    }
}
