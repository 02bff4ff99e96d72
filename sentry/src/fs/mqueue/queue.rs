//! One queue: its messages, who waits for them, and who wants to be told.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;

use super::{Shape, Shared};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::anon::apply;
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode};
use crate::fs::io::IoDst;
use crate::fs::lock::InodeState;
use crate::fs::types::{Attr, Events, FileType, OpenFlags, SetAttr};
use crate::signal::{Origin, SigInfo, Signal, code, send_process};
use crate::sync::{Mutex, SpinLock, WaitQueue};
use crate::task::{Blocked, Current, Pid, PidNamespace, Process};

/// Somebody who is told when a message comes to the empty queue (mq_notify(3)).
pub struct Registration {
    /// Who.
    pub process: Weak<Process>,
    /// Its id.
    pub pid: Pid,
    /// Its descriptor table: with a descriptor of the queue that is closed there, this goes.
    pub files: u64,
    /// The signal; `None`: it only keeps others from registering (SIGEV_NONE).
    pub signal: Option<Signal>,
    /// What comes with it.
    pub value: u64,
}

/// A message queue.
pub struct Queue {
    this: Weak<Queue>,
    shared: Arc<Shared>,
    attr: SpinLock<Attr>,
    inode: InodeState,
    shape: Shape,
    charged: (u32, u64),
    messages: Mutex<Messages>,
    queue: WaitQueue,
}

#[derive(Default)]
struct Messages {
    /// By priority, the highest first, then by age.
    ordered: BTreeMap<(u32, u64), Vec<u8>>,
    sequence: u64,
    bytes: u64,
    /// Receivers that wait: for them there is no notification.
    waiting: usize,
    registration: Option<Registration>,
}

impl Messages {
    fn put(&mut self, data: Vec<u8>, priority: u32) {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.sequence = self.sequence.wrapping_add(1);
        self.ordered.insert((u32::MAX.wrapping_sub(priority), self.sequence), data);
    }

    fn take(&mut self) -> Option<(Vec<u8>, u32)> {
        let ((upside, _), data) = self.ordered.pop_first()?;
        self.bytes = self.bytes.saturating_sub(data.len() as u64);
        Some((data, u32::MAX.wrapping_sub(upside)))
    }
}

/// What mq_getattr(3) tells of a queue itself.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names are those of struct mq_attr
pub struct Numbers {
    pub maxmsg: i64,
    pub msgsize: i64,
    pub curmsgs: i64,
}

impl Queue {
    pub(super) fn new(
        shared: &Arc<Shared>,
        attr: Attr,
        shape: Shape,
        charged: (u32, u64),
    ) -> Arc<Queue> {
        Arc::new_cyclic(|this| Queue {
            this: this.clone(),
            shared: shared.clone(),
            attr: SpinLock::new(attr),
            inode: InodeState::new(),
            shape,
            charged,
            messages: Mutex::new(Messages::default()),
            queue: WaitQueue::new(),
        })
    }

    pub(super) fn unlinked(&self) {
        self.attr.lock().nlink = 0;
    }

    /// Its numbers.
    pub fn numbers(&self) -> Numbers {
        let curmsgs = self.messages.lock().ordered.len() as i64;
        Numbers { maxmsg: self.shape.messages, msgsize: self.shape.size, curmsgs }
    }

    fn is_full(&self, messages: &Messages) -> bool {
        messages.ordered.len() as i64 >= self.shape.messages
    }

    /// mq_timedsend(2), until `deadline` of the monotonic clock.
    pub fn send(
        &self,
        cx: &Current,
        data: Vec<u8>,
        priority: u32,
        nonblock: bool,
        deadline: Option<u64>,
    ) -> Result<(), SysError> {
        let len = data.len();
        self.shared.reserve(len)?;
        let mut data = Some(data);
        let mut told = None;
        let sent = cx.wait_for(&self.queue, Events::WRITABLE.bits(), deadline, || {
            let mut messages = self.messages.lock();
            if self.is_full(&messages) {
                return nonblock.then_some(Err(Errno::EAGAIN));
            }
            let was_empty = messages.ordered.is_empty();
            if let Some(data) = data.take() {
                messages.put(data, priority);
            }
            if was_empty && messages.waiting == 0 {
                told = messages.registration.take();
            }
            Some(Ok(()))
        });
        let result = match sent {
            Ok(result) => result.map_err(SysError::from),
            Err(blocked) => Err(cut_short(blocked)),
        };
        if result.is_err() {
            self.shared.release(len);
            return result;
        }
        self.queue.wake(Events::READABLE.bits());
        if let Some(told) = told {
            told.tell(cx);
        }
        Ok(())
    }

    /// mq_timedreceive(2): the message and its priority.
    pub fn receive(
        &self,
        cx: &Current,
        nonblock: bool,
        deadline: Option<u64>,
    ) -> Result<(Vec<u8>, u32), SysError> {
        let mut counted = false;
        let got = cx.wait_for(&self.queue, Events::READABLE.bits(), deadline, || {
            let mut messages = self.messages.lock();
            if core::mem::take(&mut counted) {
                messages.waiting = messages.waiting.saturating_sub(1);
            }
            match messages.take() {
                Some(message) => Some(Ok(message)),
                None if nonblock => Some(Err(Errno::EAGAIN)),
                None => {
                    messages.waiting = messages.waiting.saturating_add(1);
                    counted = true;
                    None
                }
            }
        });
        if counted {
            let mut messages = self.messages.lock();
            messages.waiting = messages.waiting.saturating_sub(1);
        }
        match got {
            Ok(Ok((data, priority))) => {
                self.shared.release(data.len());
                self.queue.wake(Events::WRITABLE.bits());
                Ok((data, priority))
            }
            Ok(Err(e)) => Err(e.into()),
            Err(blocked) => Err(cut_short(blocked)),
        }
    }

    /// Registers who wants to be told. `EBUSY` where somebody is registered.
    pub fn register(&self, registration: Registration) -> Result<(), Errno> {
        let mut messages = self.messages.lock();
        if messages.registration.is_some() {
            return Err(Errno::EBUSY);
        }
        messages.registration = Some(registration);
        Ok(())
    }

    /// Takes the registration of whoever has this descriptor table back.
    pub fn unregister(&self, files: u64) {
        let mut messages = self.messages.lock();
        let mine = messages.registration.take_if(|r| r.files == files);
        drop(messages);
        drop(mine);
    }
}

/// A wait that was cut short.
fn cut_short(blocked: Blocked) -> SysError {
    blocked.or_restart(Errno::ETIMEDOUT)
}

impl Registration {
    fn tell(self, cx: &Current) {
        let (Some(process), Some(signal)) = (self.process.upgrade(), self.signal) else { return };
        let (pid, uid) = (process.pidns.nr(cx.task.process.pid), process.shown_uid(cx.creds.uid));
        let mut info = SigInfo::user(signal, code::SI_MESGQ, pid, uid);
        info.set(1, self.value);
        // A full queue of signals is the receiver's loss, as on Linux.
        let _full = send_process(&process, info, Origin::Inside);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for data in self.messages.get_mut().ordered.values() {
            self.shared.release(data.len());
        }
        self.shared.gone(self.charged);
    }
}

impl Inode for Queue {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        let mut attr = self.attr.lock();
        attr.size = set.size.unwrap_or(attr.size);
        apply(&mut attr, set);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.inode
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open(&self, cx: &Cx<'_>, _flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        let pidns = cx.task.map(|task| task.process.pidns.clone());
        Ok(Box::new(MqFile(self.this.upgrade().ok_or(Errno::ENOENT)?, pidns)))
    }
}

/// An open queue, and the pid namespace of who has opened it.
pub struct MqFile(pub Arc<Queue>, pub Option<Arc<PidNamespace>>);

impl FileOps for MqFile {
    /// What is in the queue, and who wants to be told.
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let text = {
            /// sigev_notify of who is registered.
            const NONE: u32 = 1;
            let messages = self.0.messages.lock();
            let (notify, signal, pid) = match &messages.registration {
                Some(Registration { signal: Some(signal), pid, .. }) => (0, signal.number(), *pid),
                Some(Registration { pid, .. }) => (NONE, 0, *pid),
                None => (0, 0, 0),
            };
            let pid = self.1.as_ref().map_or(pid, |pidns| pidns.nr(pid));
            let bytes = messages.bytes;
            format!("QSIZE:{bytes:<10} NOTIFY:{notify:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n")
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        dst.put(text.as_bytes().get(from..).unwrap_or(&[]))
    }

    fn poll(&self, _file: &File) -> Events {
        let messages = self.0.messages.lock();
        let mut events = Events::empty();
        events.set(Events::READABLE, !messages.ordered.is_empty());
        events.set(Events::WRITABLE, !self.0.is_full(&messages));
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn closed_in(&self, files: u64) {
        self.0.unregister(files);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_comes_first_and_equals_in_order() {
        let mut messages = Messages::default();
        for (text, priority) in [("a", 1), ("b", 32_767), ("c", 1), ("d", 0), ("e", 32_767)] {
            messages.put(text.into(), priority);
        }
        assert_eq!(messages.bytes, 5);
        let order: Vec<(Vec<u8>, u32)> = core::iter::from_fn(|| messages.take()).collect();
        let expected = [("b", 32_767), ("e", 32_767), ("a", 1), ("c", 1), ("d", 0)];
        assert!(
            order.iter().map(|(d, p)| (&d[..], *p)).eq(expected.map(|(d, p)| (d.as_bytes(), p)))
        );
        assert_eq!(messages.bytes, 0);
    }
}
