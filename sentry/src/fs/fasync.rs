//! Signals of files (fcntl(2): O_ASYNC, F_SETOWN, F_SETSIG): what is ready tells a task, a process or a group, which
//! need not wait for it. SIGURG for sockets goes the same way.
//!
//! A file that has an owner stands in its own wait queue, as one who is told last, after the queue's lock is
//! dropped: sending takes the locks of processes.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::types::Events;
use crate::errno::Errno;
use crate::signal::{Origin, SigInfo, Signal, code, send_process, send_task};
use crate::sync::{SpinLock, WaitQueue, WaitToken, Wake};
use crate::task::{Creds, Pid, PidNamespace, Pids, Process, Task};

/// What a kind of file tells its owner.
#[derive(Clone, Copy)]
pub struct Tells {
    /// Of what it is ready for.
    pub events: Events,
    /// Also where its queue is woken for whatever reason: both ends of a pipe.
    pub any: bool,
    /// Who is its owner where nobody was named: this process group, or 0: the caller (terminals).
    pub group: Option<Pid>,
}

/// F_OWNER_TID, F_OWNER_PID and F_OWNER_PGRP (asm-generic/fcntl.h).
pub const OWNER_TID: u32 = 0;
/// See [`OWNER_TID`].
pub const OWNER_PID: u32 = 1;
/// See [`OWNER_TID`].
pub const OWNER_PGRP: u32 = 2;

/// Whom an id means, held so that nobody else is met who has it later.
#[derive(Clone, Default)]
enum Target {
    #[default]
    Nobody,
    Task(Weak<Task>),
    Process(Weak<Process>),
    Group(Weak<Pids>, Pid),
}

/// Who is to get a file's signals.
#[derive(Clone, Default)]
pub struct SignalOwner {
    kind: u32,
    target: Target,
    /// Who said so: real and effective user.
    uid: u32,
    euid: u32,
}

impl SignalOwner {
    /// The one of this kind and id; 0: nobody.
    pub fn new(kind: u32, id: Pid, pids: &Arc<Pids>, creds: &Creds) -> SignalOwner {
        let target = match (kind, id) {
            (_, 0) => Target::Nobody,
            (OWNER_PGRP, id) => Target::Group(Arc::downgrade(pids), id),
            (OWNER_PID, id) => {
                pids.process(id).map_or(Target::Nobody, |p| Target::Process(Arc::downgrade(&p)))
            }
            (_, id) => pids.task(id).map_or(Target::Nobody, |t| Target::Task(Arc::downgrade(&t))),
        };
        SignalOwner { kind, target, uid: creds.uid, euid: creds.euid }
    }

    /// F_OWNER_TID and so on.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// Its number in a pid namespace; 0 where there is nobody, or nobody any more.
    pub fn nr(&self, pidns: &PidNamespace) -> Pid {
        let id = match &self.target {
            Target::Nobody => 0,
            Target::Task(task) => task.upgrade().map_or(0, |t| t.tid()),
            // One that was waited for has no number any more.
            Target::Process(process) => {
                let there = |p: &Arc<Process>| p.pids.process(p.pid).is_some();
                process.upgrade().filter(there).map_or(0, |p| p.pid)
            }
            Target::Group(pids, id) => {
                let there = pids.upgrade().is_some_and(|p| !p.lock().group(*id).is_empty());
                if there { *id } else { 0 }
            }
        };
        if id == 0 { 0 } else { pidns.nr(id) }
    }

    fn is_nobody(&self) -> bool {
        matches!(self.target, Target::Nobody)
    }

    /// Whether the owner may be signalled by who named it (sigio_perm()).
    fn may_signal(&self, task: &Task) -> bool {
        let theirs = task.creds();
        self.euid == 0
            || [theirs.uid, theirs.suid].iter().any(|id| [self.uid, self.euid].contains(id))
    }

    /// Sends `info`, and where a queue has no room for it `instead`.
    fn send(&self, info: SigInfo, instead: Option<SigInfo>) {
        let process = |process: &Arc<Process>| {
            let leader = process.signals.lock().tasks.first().cloned();
            if !leader.is_some_and(|leader| self.may_signal(&leader)) {
                return;
            }
            if let (Err(Errno::EAGAIN), Some(instead)) =
                (send_process(process, info, Origin::Inside), instead)
            {
                // That one may be lost, and so is never refused.
                let _sent = send_process(process, instead, Origin::Inside);
            }
        };
        match &self.target {
            Target::Nobody => {}
            Target::Task(task) => {
                if let Some(task) = task.upgrade().filter(|task| self.may_signal(task))
                    && let (Err(Errno::EAGAIN), Some(instead)) =
                        (send_task(&task, info, Origin::Inside), instead)
                {
                    let _sent = send_task(&task, instead, Origin::Inside);
                }
            }
            Target::Process(owner) => {
                if let Some(owner) = owner.upgrade() {
                    process(&owner);
                }
            }
            Target::Group(pids, id) => {
                if let Some(pids) = pids.upgrade() {
                    pids.lock().group(*id).iter().for_each(process);
                }
            }
        }
    }
}

/// A file's owner and signal, and its place in the file's queue.
#[derive(Default)]
pub struct Fasync {
    owner: SpinLock<SignalOwner>,
    /// F_SETSIG; 0: SIGIO, without information.
    signal: AtomicI32,
    /// O_ASYNC.
    on: AtomicBool,
    /// The descriptor that O_ASYNC was set by.
    fd: AtomicI32,
    /// What it tells of; see [`Tells`].
    events: AtomicU32,
    any: AtomicBool,
    token: SpinLock<Option<WaitToken>>,
}

impl Fasync {
    /// F_GETOWN's.
    pub fn owner(&self) -> SignalOwner {
        self.owner.lock().clone()
    }

    /// F_SETOWN.
    pub fn set_owner(&self, owner: SignalOwner) {
        let old = core::mem::replace(&mut *self.owner.lock(), owner);
        drop(old);
    }

    /// Where nobody is the owner yet, this one is.
    pub fn set_default_owner(&self, owner: SignalOwner) {
        let mut now = self.owner.lock();
        if now.is_nobody() {
            *now = owner;
        }
    }

    /// F_GETSIG.
    pub fn signal(&self) -> i32 {
        self.signal.load(Ordering::Relaxed)
    }

    /// F_SETSIG.
    pub fn set_signal(&self, signal: i32) {
        self.signal.store(signal, Ordering::Relaxed);
    }

    /// O_ASYNC, by this descriptor.
    pub fn set_on(&self, on: bool, fd: i32) {
        self.fd.store(fd, Ordering::Relaxed);
        self.on.store(on, Ordering::Release);
    }

    /// Has the file's queue tell it, from now on.
    pub fn enter(self: &Arc<Fasync>, queue: &WaitQueue, tells: &Tells) {
        let mut token = self.token.lock();
        if token.is_none() {
            self.any.store(tells.any, Ordering::Relaxed);
            self.events.store(tells.events.bits(), Ordering::Relaxed);
            // Urgent data is told of without O_ASYNC.
            let events = tells.events | Events::PRI;
            *token = Some(queue.enter_last(events.bits(), self.clone()));
        }
    }

    /// The file is gone.
    pub fn leave(&self, queue: &WaitQueue) {
        if let Some(token) = self.token.lock().take() {
            queue.leave(token);
        }
    }

    /// One reason, with its bits of poll(2), by a descriptor (send_sigio_to_task()).
    pub(super) fn tell(&self, reason: i32, band: u32, fd: i32) {
        let plain = SigInfo::kernel(Signal::SIGIO);
        let signal = self.signal();
        let Ok(chosen) = Signal::new(signal) else {
            return self.owner().send(plain, None);
        };
        /// SI_SIGIO (asm-generic/siginfo.h), for signals whose own codes mean something else.
        const SI_SIGIO: i32 = -5;
        let own_codes = [
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGTRAP,
            Signal::SIGCHLD,
            Signal::SIGSYS,
        ];
        let code = if own_codes.contains(&chosen) { SI_SIGIO } else { reason };
        let mut info = SigInfo { code, ..SigInfo::kernel(chosen) };
        info.set(0, band.into());
        info.set(1, u64::from(fd as u32));
        self.owner().send(info, Some(plain));
    }
}

impl Wake for Fasync {
    fn wake(&self, events: u32) -> bool {
        let happened = Events::from_bits_truncate(events);
        let all = events == u32::MAX;
        if !all && happened.contains(Events::PRI) {
            // send_sigurg(): without O_ASYNC too.
            self.owner().send(SigInfo::kernel(Signal::SIGURG), None);
        }
        if !self.on.load(Ordering::Acquire) || (all && !self.any.load(Ordering::Relaxed)) {
            return false;
        }
        let wanted = Events::from_bits_truncate(self.events.load(Ordering::Relaxed));
        // The bands are band_table[] of fs/fcntl.c.
        let bands = [
            (Events::IN, code::POLL_IN, Events::IN | Events::RDNORM),
            (Events::OUT, code::POLL_OUT, Events::OUT | Events::WRNORM | Events::WRBAND),
            (Events::PRI, code::POLL_PRI, Events::PRI | Events::RDBAND),
            (Events::HUP, code::POLL_HUP, Events::HUP | Events::ERR),
        ];
        for (event, reason, band) in bands {
            if happened.contains(event) && wanted.contains(event) {
                self.tell(reason, band.bits(), self.fd.load(Ordering::Relaxed));
            }
        }
        false
    }
}
