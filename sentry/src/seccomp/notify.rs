//! SECCOMP_RET_USER_NOTIF: calls that a filter leaves to somebody with a descriptor for it (seccomp_unotify(2)).
//!
//! A call waits in its filter's [`Listener`] until it is answered, its task is interrupted, or nobody can answer any
//! more. The filter and the descriptor both hold the listener; each tells it when it goes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::fs::{Events, File, FileOps, OpenFlags, anon};
use crate::platform::{PAGE_SIZE, platform};
use crate::sync::{SpinLock, WaitQueue};
use crate::syscall::word;
use crate::task::{Blocked, Current, Task, limit};

// ioctl(2) commands of the descriptor (linux/seccomp.h).
const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
const NOTIF_ID_VALID: u32 = 0x4008_2102;
/// The same as it was numbered at first.
const NOTIF_ID_VALID_OLD: u32 = 0x8008_2102;
const NOTIF_SET_FLAGS: u32 = 0x4008_2104;
/// Its size may grow; this one without it.
const NOTIF_ADDFD: u32 = 0x4000_2103;
const SIZE_MASK: u32 = 0x3fff_0000;

/// SECCOMP_USER_NOTIF_FLAG_CONTINUE.
const CONTINUE: u32 = 1;
/// SECCOMP_ADDFD_FLAG_SETFD and SECCOMP_ADDFD_FLAG_SEND.
const SETFD: u32 = 1;
const SEND: u32 = 2;
/// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, a hint.
const SYNC_WAKE_UP: u64 = 1;

/// Bytes of a `struct seccomp_data`, of `seccomp_notif`, of `seccomp_notif_resp`, and of the first `seccomp_notif_addfd`.
const DATA: usize = 64;
const NOTIF: usize = 80;
const RESP: usize = 24;
const ADDFD: usize = 24;

/// What a call was answered.
#[derive(Clone, Copy)]
struct Answer {
    value: u64,
    go_on: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// Nobody has seen it.
    New,
    /// Somebody thinks about it.
    Sent,
    Answered(Answer),
}

/// A call that waits.
struct Notice {
    id: u64,
    task: Arc<Task>,
    data: [u8; DATA],
    state: State,
}

#[derive(Default)]
struct Inner {
    next: u64,
    notices: Vec<Notice>,
    /// Nobody can answer any more.
    deaf: bool,
    /// No task has the filter any more.
    unused: bool,
}

/// Where the calls of a filter wait.
pub struct Listener {
    inner: SpinLock<Inner>,
    /// Whoever waits for calls, and polls.
    queue: WaitQueue,
    /// Tasks whose calls wait.
    answers: WaitQueue,
    /// A call that was seen is interrupted by the task's end only (WAIT_KILLABLE_RECV).
    killable: AtomicBool,
}

impl core::fmt::Debug for Listener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// A new one.
    pub fn new(killable: bool) -> Arc<Listener> {
        let mut id = [0; 8];
        platform().random(&mut id);
        Arc::new(Listener {
            inner: SpinLock::new(Inner { next: u64::from_le_bytes(id), ..Inner::default() }),
            queue: WaitQueue::new(),
            answers: WaitQueue::new(),
            killable: AtomicBool::new(killable),
        })
    }

    /// The descriptor for it.
    pub fn file(self: &Arc<Listener>, cx: &Current) -> Result<Arc<File>, Errno> {
        anon::file(
            &cx.cx(),
            "anon_inode:seccomp notify",
            Box::new(NotifyFile(self.clone())),
            OpenFlags::RDWR,
        )
    }

    /// No task has the filter any more.
    pub fn unused(&self) {
        self.inner.lock().unused = true;
        self.queue.wake_all();
    }

    fn answer(&self, id: u64) -> Option<Answer> {
        let inner = self.inner.lock();
        match inner.notices.iter().find(|n| n.id == id)?.state {
            State::Answered(answer) => Some(answer),
            State::New | State::Sent => None,
        }
    }

    fn is_sent(&self, id: u64) -> bool {
        let inner = self.inner.lock();
        inner.notices.iter().any(|n| n.id == id && matches!(n.state, State::Sent))
    }

    /// Has somebody decide about the caller's call; whether it is to be made.
    pub fn ask(&self, cx: &mut Current, data: [u8; DATA]) -> bool {
        let id = {
            let mut inner = self.inner.lock();
            if inner.deaf {
                cx.regs.rax = Errno::ENOSYS.to_rax();
                return false;
            }
            inner.next = inner.next.wrapping_add(1);
            let id = inner.next;
            inner.notices.push(Notice { id, task: cx.task.clone(), data, state: State::New });
            id
        };
        self.queue.wake(Events::READABLE.bits());
        let answer = self.wait(cx, id);
        let gone = {
            let mut inner = self.inner.lock();
            let at = inner.notices.iter().position(|n| n.id == id);
            at.map(|at| inner.notices.remove(at))
        };
        drop(gone);
        match answer {
            Ok(Answer { go_on: true, .. }) => true,
            Ok(Answer { value, .. }) => {
                cx.regs.rax = value;
                false
            }
            Err(_) => {
                cx.regs.rax = Errno::EINTR.to_rax();
                cx.restart = Some(Restart::Sys);
                cx.task.attention.store(true, Ordering::SeqCst);
                false
            }
        }
    }

    fn wait(&self, cx: &Current, id: u64) -> Result<Answer, Blocked> {
        let killable = self.killable.load(Ordering::Relaxed);
        let token = self.answers.enter(u32::MAX, false, cx.waker.clone());
        let result = loop {
            let patient = killable && self.is_sent(id);
            let result = match patient {
                true => cx.park_killable(None, || self.answer(id)),
                false => cx.park_until(None, || self.answer(id)),
            };
            // It was seen meanwhile, and from then on a signal does not count.
            if result.is_err() && !patient && killable && self.is_sent(id) && !cx.must_die() {
                continue;
            }
            break result;
        };
        self.answers.leave(token);
        result
    }

    /// A call that nobody has seen, which from now on somebody has: its `struct seccomp_notif` for the caller.
    fn take(&self, cx: &Current) -> Option<(u64, Vec<u8>)> {
        let mut inner = self.inner.lock();
        let notice = inner.notices.iter_mut().find(|n| matches!(n.state, State::New))?;
        notice.state = State::Sent;
        let pid = cx.task.process.pidns.nr(notice.task.tid());
        let mut bytes = Vec::with_capacity(NOTIF);
        bytes.extend_from_slice(&notice.id.to_le_bytes());
        bytes.extend_from_slice(&u64::from(pid).to_le_bytes());
        bytes.extend_from_slice(&notice.data);
        Some((notice.id, bytes))
    }

    fn receive(&self, cx: &Current, addr: u64) -> SysResult {
        // What may mean something one day must be zero now.
        if cx.mm.copy_in_array(addr, NOTIF, 1, NOTIF)?.iter().any(|b| *b != 0) {
            return Err(Errno::EINVAL.into());
        }
        let wanted = Events::READABLE | Events::ALWAYS;
        let look = || match self.take(cx) {
            Some(taken) => Some(Some(taken)),
            None => self.inner.lock().unused.then_some(None),
        };
        let taken = cx.wait_for(&self.queue, wanted.bits(), None, look);
        let taken = taken.map_err(|_| SysError::Interrupted(Restart::Sys))?;
        let (id, bytes) = taken.ok_or(Errno::ENOENT)?;
        self.queue.wake(Events::WRITABLE.bits());
        self.answers.wake_all();
        if let Err(e) = cx.mm.copy_out(addr, &bytes) {
            let mut inner = self.inner.lock();
            if let Some(notice) = inner.notices.iter_mut().find(|n| n.id == id)
                && matches!(notice.state, State::Sent)
            {
                notice.state = State::New;
            }
            drop(inner);
            self.queue.wake(Events::READABLE.bits());
            return Err(e.into());
        }
        Ok(0)
    }

    /// Answers a call that was seen. `ENOENT` where there is none such, `EINPROGRESS` where it was not.
    fn reply(&self, id: u64, answer: Answer) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let notice = inner.notices.iter_mut().find(|n| n.id == id).ok_or(Errno::ENOENT)?;
        if !matches!(notice.state, State::Sent) {
            return Err(Errno::EINPROGRESS);
        }
        notice.state = State::Answered(answer);
        drop(inner);
        self.answers.wake_all();
        Ok(())
    }

    fn send(&self, cx: &Current, addr: u64) -> SysResult {
        let raw = cx.mm.copy_in_array(addr, RESP, 1, RESP)?;
        let (id, value) = (word(&raw, 0), word(&raw, 1));
        let (error, flags) = (word(&raw, 2) as i32, (word(&raw, 2) >> 32) as u32);
        if flags & !CONTINUE != 0 || flags != 0 && (error != 0 || value != 0) {
            return Err(Errno::EINVAL.into());
        }
        let value = if error != 0 { i64::from(error).cast_unsigned() } else { value };
        self.reply(id, Answer { value, go_on: flags != 0 })?;
        Ok(0)
    }

    /// Gives the task of a call a copy of a descriptor; its number there.
    fn add_fd(&self, cx: &Current, addr: u64, size: usize) -> SysResult {
        if !(ADDFD..PAGE_SIZE).contains(&size) {
            return Err(Errno::EINVAL.into());
        }
        let raw = cx.mm.copy_in_array(addr, size, 1, size)?;
        if raw.get(ADDFD..).is_some_and(|rest| rest.iter().any(|b| *b != 0)) {
            return Err(Errno::E2BIG.into());
        }
        let (id, flags, source) =
            (word(&raw, 0), word(&raw, 1) as u32, (word(&raw, 1) >> 32) as i32);
        let (target, target_flags) = (word(&raw, 2) as u32, (word(&raw, 2) >> 32) as u32);
        let cloexec = target_flags & OpenFlags::CLOEXEC.bits() != 0;
        if target_flags & !OpenFlags::CLOEXEC.bits() != 0
            || flags & !(SETFD | SEND) != 0
            || target != 0 && flags & SETFD == 0
        {
            return Err(Errno::EINVAL.into());
        }
        let file = cx.files.get(source)?;
        let task = {
            let inner = self.inner.lock();
            let notice = inner.notices.iter().find(|n| n.id == id).ok_or(Errno::ENOENT)?;
            if !matches!(notice.state, State::Sent) {
                return Err(Errno::EINPROGRESS.into());
            }
            notice.task.clone()
        };
        let files = task.shared.lock().files.clone().ok_or(Errno::ESRCH)?;
        let most = task.process.limits.soft(limit::RLIMIT_NOFILE);
        let fd = if flags & SETFD != 0 {
            let fd = i32::try_from(target).map_err(|_| Errno::EBADF)?;
            if let Some(replaced) = files.insert_at(fd, file, cloexec, most)? {
                // As in dup2(2), nobody is told of an error of this close.
                let _ = replaced.closed(files.id);
            }
            fd
        } else {
            files.insert(file, cloexec, most)?
        };
        if flags & SEND != 0 {
            self.reply(id, Answer { value: fd as u64, go_on: false })?;
        }
        Ok(fd as u64)
    }
}

/// A listener's descriptor.
struct NotifyFile(Arc<Listener>);

impl FileOps for NotifyFile {
    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, _file: &File) -> Events {
        let inner = self.0.inner.lock();
        let mut events = Events::empty();
        let any = |wanted: fn(&State) -> bool| inner.notices.iter().any(|n| wanted(&n.state));
        events.set(Events::READABLE, any(|s| matches!(s, State::New)));
        events.set(Events::WRITABLE, any(|s| matches!(s, State::Sent)));
        events.set(Events::HUP, inner.unused);
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn ioctl(&self, cx: &mut Current, _file: &File, command: u32, arg: u64) -> SysResult {
        match command {
            NOTIF_RECV => self.0.receive(cx, arg),
            NOTIF_SEND => self.0.send(cx, arg),
            NOTIF_ID_VALID | NOTIF_ID_VALID_OLD => {
                let id = cx.mm.copy_in_u64(arg)?;
                if self.0.is_sent(id) { Ok(0) } else { Err(Errno::ENOENT.into()) }
            }
            // Nobody is woken in another way for it.
            NOTIF_SET_FLAGS if arg & !SYNC_WAKE_UP == 0 => Ok(0),
            _ if command & !SIZE_MASK == NOTIF_ADDFD => {
                self.0.add_fd(cx, arg, (command >> 16 & 0x3fff) as usize)
            }
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for NotifyFile {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.deaf = true;
        let refused = Answer { value: Errno::ENOSYS.to_rax(), go_on: false };
        for notice in &mut inner.notices {
            if matches!(notice.state, State::New | State::Sent) {
                notice.state = State::Answered(refused);
            }
        }
        drop(inner);
        self.0.answers.wake_all();
    }
}
