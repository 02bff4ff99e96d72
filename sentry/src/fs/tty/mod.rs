//! Terminals (tty(4), ioctl_tty(2)): pseudo-terminals of devpts, and a container's console.
//!
//! A [`Tty`] is the side that programs use: modes, the line discipline, job control. Below it is
//! either a pseudo-terminal's master, which is a file in the same sentry, or a stream of the host: the
//! host's own terminal is raw and passes every byte on. Input from the host is taken in when the host
//! says that there is some, whoever reads or not, so that Ctrl-C reaches a program that does not read.

mod control;
mod devpts;
mod discipline;
mod master;
mod packet;
mod slave;
mod termios;
#[cfg(test)]
mod tests;

pub use devpts::Devpts;
pub use slave::Slave;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::fasync::Tells;
use super::file::Blocker;
use super::inode::FileOps;
use super::types::{Attr, Events, OpenFlags, makedev};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::platform::{Listener, Ready, Stream, platform};
use crate::signal::{Origin, SigInfo, Signal, send_group, send_process};
use crate::sync::{SpinLock, WaitQueue};
use crate::task::{Blocked, Current, Pid, Pids, Terminal, ThreadWaker, cap};
use discipline::{Discipline, Effects};
use packet::Packets;

/// Bytes of output that wait for the other side, beyond which writers wait.
const OUT: usize = 8192;
/// Bytes moved at once.
const CHUNK: usize = 512;
/// Major number of the slaves (Documentation/admin-guide/devices.txt).
const SLAVE_MAJOR: u32 = 136;

/// A terminal.
pub struct Tty {
    index: u32,
    this: Weak<Tty>,
    lower: Lower,
    state: SpinLock<State>,
    attr: SpinLock<Attr>,
    /// Wakes those who use the terminal.
    queue: WaitQueue,
    /// Wakes those who use the master.
    master_queue: WaitQueue,
}

/// What a terminal's bytes come from and go to.
enum Lower {
    Master,
    Host(Host),
}

/// A terminal of the host.
struct Host {
    stream: Arc<dyn Stream>,
    /// Where the terminal has its name.
    fs: Weak<Devpts>,
    /// Whether it stays when nobody has it open: init's, which may be opened again as /dev/console.
    lasting: bool,
}

/// `struct winsize`: rows, columns, and both in pixels.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Window([u16; 4]);

#[derive(Default)]
struct State {
    discipline: Discipline,
    /// Output on its way to the other side.
    out: VecDeque<u8>,
    /// Echo that waits for stopped output to go on.
    held: Vec<u8>,
    window: Window,
    /// Whose controlling terminal it is.
    session: Option<(Weak<Pids>, Pid)>,
    /// The foreground process group; 0: none.
    foreground: Pid,
    /// Open files of the terminal's own side.
    opens: usize,
    /// Whether that side has been opened and closed for the last time.
    left: bool,
    /// The other side is gone.
    hung_up: bool,
    /// Nobody has it open, and it is hung up as soon as what was written is with the host.
    closing: bool,
    /// Cannot be opened before unlockpt(3).
    locked: bool,
    /// TIOCEXCL.
    exclusive: bool,
    /// What the master is told besides output, where it has asked for packets (TIOCPKT).
    packets: Packets,
    /// Somebody takes in input from the host, and is to look once more.
    pumping: bool,
    pump_again: bool,
}

impl State {
    /// Puts echo on its way, unless output is stopped.
    fn send_echo(&mut self, echo: &[u8]) {
        // Echo that nobody takes in is lost, as on Linux.
        let room = (2 * OUT).saturating_sub(self.out.len().saturating_add(self.held.len()));
        let echo = echo.get(..echo.len().min(room)).unwrap_or(&[]);
        if self.discipline.stopped() {
            self.held.extend_from_slice(echo);
        } else {
            self.out.extend(self.held.drain(..));
            self.out.extend(echo);
        }
    }
}

impl Tty {
    fn new(index: u32, attr: Attr, lower: Lower) -> Arc<Tty> {
        Arc::new_cyclic(|this| Tty {
            index,
            this: this.clone(),
            lower,
            state: SpinLock::default(),
            attr: SpinLock::new(attr),
            queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    /// Its number: that of its name in devpts.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its size has changed: the foreground process group is told.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.set_window(Window([rows, columns, 0, 0]));
    }

    fn set_window(&self, window: Window) {
        let mut state = self.state.lock();
        if state.window == window {
            return;
        }
        state.window = window;
        drop(state);
        self.signal_foreground(Signal::SIGWINCH);
    }

    /// Waits for so many bytes, but after the first no longer than `time` nanoseconds for another one (VTIME with VMIN).
    fn gather(&self, waiter: &dyn Blocker, least: usize, time: u64) -> Result<(), SysError> {
        let look = || {
            let state = self.state.lock();
            let over = state.hung_up || state.discipline.termios().canonical();
            (state.discipline.len(), over)
        };
        let wanted = Events::READABLE | Events::ALWAYS;
        loop {
            let (before, over) = look();
            if over || before >= least {
                return Ok(());
            }
            let deadline = (before > 0).then(|| platform().monotonic().saturating_add(time));
            let mut more = || {
                let (now, over) = look();
                over || now != before
            };
            match waiter.wait(&self.queue, wanted, deadline, &mut more) {
                Ok(()) => {}
                Err(Blocked::Interrupted) if before == 0 => {
                    return Err(SysError::Interrupted(Restart::Sys));
                }
                // What has come is given.
                Err(Blocked::TimedOut | Blocked::Interrupted) => return Ok(()),
            }
        }
    }

    /// What O_ASYNC makes either side tell: of input, at first the group in the foreground (tty_fasync()).
    fn tells(&self) -> Option<Tells> {
        let group = Some(self.state.lock().foreground);
        Some(Tells { events: Events::IN, any: false, group })
    }

    fn signal_foreground(&self, signal: Signal) {
        let state = self.state.lock();
        let group = state.foreground;
        let pids = state.session.as_ref().and_then(|(pids, _)| pids.upgrade());
        drop(state);
        if let Some(pids) = pids
            && group != 0
        {
            send_group(&pids, group, SigInfo::kernel(signal), Origin::Inside);
        }
    }

    /// Takes in what the other side has typed, and lets those know whom it concerns. How many bytes.
    fn input(&self, bytes: &[u8]) -> usize {
        let mut effects = Effects::default();
        let mut state = self.state.lock();
        let mut taken: usize = 0;
        for c in bytes {
            if state.discipline.room() == 0 {
                break;
            }
            let before = state.discipline.stopped();
            state.discipline.input(core::slice::from_ref(c), &mut effects);
            let after = state.discipline.stopped();
            state.packets.stopped(before, after);
            taken = taken.saturating_add(1);
        }
        if effects.signals.iter().any(|(_, flush)| *flush) {
            state.out.clear();
            state.held.clear();
            state.packets.flushed(true, true);
        }
        state.send_echo(&effects.echo);
        let readable = state.discipline.available(usize::MAX, 1).is_some();
        drop(state);
        for (signal, _) in effects.signals {
            self.signal_foreground(signal);
        }
        self.queue.wake_waiters((Events::READABLE | Events::WRITABLE).bits(), usize::MAX);
        if readable {
            self.queue.tell(Events::READABLE.bits());
        }
        self.flush();
        taken
    }

    /// Sends output on to the other side.
    fn flush(&self) {
        let Lower::Host(Host { stream, .. }) = &self.lower else {
            self.master_queue.wake(Events::READABLE.bits());
            return;
        };
        let mut waits = false;
        let mut sent = false;
        let mut state = self.state.lock();
        while !state.out.is_empty() {
            let (data, _) = state.out.as_slices();
            match stream.write(data) {
                Ok(n) => {
                    let n = n.min(data.len());
                    state.out.drain(..n);
                    sent = true;
                    if n == 0 {
                        break;
                    }
                }
                Err(Errno::EAGAIN) => {
                    waits = true;
                    break;
                }
                Err(_) => {
                    // The host's terminal is gone; its hang-up comes by way of reading.
                    state.out.clear();
                    break;
                }
            }
        }
        let over = state.closing && state.out.is_empty();
        drop(state);
        if waits {
            stream.notify(Ready::OUT, self.listener());
        }
        if sent {
            self.queue.wake(Events::WRITABLE.bits());
        }
        if over {
            self.hang_up();
        }
    }

    /// Who hears of the host's terminal, as long as there is this one.
    fn listener(&self) -> Arc<dyn Listener> {
        Arc::new(Hears(self.this.clone()))
    }

    /// Waits until what was written to it is with the host, at most until `deadline`.
    pub fn drain(&self, deadline: u64) {
        let waker = Arc::new(ThreadWaker(platform().current()));
        let token = self.queue.enter(Events::WRITABLE.bits(), false, waker);
        loop {
            self.flush();
            let done = self.state.lock().out.is_empty();
            if done || platform().monotonic() >= deadline {
                break;
            }
            platform().park(Some(deadline));
        }
        self.queue.leave(token);
    }

    /// Takes in what the host's terminal has, and asks to be told of more. One thread at a time, or
    /// bytes might change places; who comes meanwhile has the other look again.
    fn pump(&self) {
        let Lower::Host(Host { stream, .. }) = &self.lower else { return };
        {
            let mut state = self.state.lock();
            if core::mem::replace(&mut state.pumping, true) {
                state.pump_again = true;
                return;
            }
        }
        loop {
            let ask = self.take_in(&**stream);
            let mut state = self.state.lock();
            if core::mem::take(&mut state.pump_again) {
                continue;
            }
            state.pumping = false;
            drop(state);
            if ask {
                stream.notify(Ready::IN, self.listener());
            }
            return;
        }
    }

    /// Takes in what is there and finds room; whether to ask for more. Where there is no room, whoever
    /// reads makes some and comes back here.
    fn take_in(&self, stream: &dyn Stream) -> bool {
        let mut buf = [0u8; CHUNK];
        loop {
            let room = {
                let state = self.state.lock();
                if state.hung_up {
                    return false;
                }
                state.discipline.room().min(CHUNK)
            };
            if room == 0 {
                return false;
            }
            match stream.read(buf.get_mut(..room).unwrap_or(&mut [])) {
                Ok(n) if n > 0 => {
                    self.input(buf.get(..n).unwrap_or(&[]));
                }
                Err(Errno::EAGAIN) => return true,
                Ok(_) | Err(_) => {
                    self.hang_up();
                    return false;
                }
            }
        }
    }

    /// The other side is gone. A terminal of the host's loses its name.
    pub fn hang_up(&self) {
        let mut state = self.state.lock();
        if core::mem::replace(&mut state.hung_up, true) {
            return;
        }
        state.out.clear();
        let session = state.session.take();
        state.foreground = 0;
        drop(state);
        if let Some((pids, session)) = session
            && let Some(pids) = pids.upgrade()
        {
            if let Some(leader) = pids.process(session) {
                for signal in [Signal::SIGHUP, Signal::SIGCONT] {
                    // What does not fit is the receiver's loss.
                    let _full = send_process(&leader, SigInfo::kernel(signal), Origin::Inside);
                }
            }
            self.leave_session(&pids, session);
        }
        self.queue.wake_all();
        self.master_queue.wake_all();
        if let Lower::Host(Host { fs, .. }) = &self.lower
            && let (Some(fs), Some(own)) = (fs.upgrade(), self.this.upgrade())
        {
            fs.remove(&own);
        }
    }

    /// The processes of a session lose their controlling terminal, where it is this one.
    fn leave_session(&self, pids: &Pids, session: Pid) {
        for process in pids.processes().iter().filter(|p| p.session() == session) {
            let old = process.terminal.lock().take_if(|own| self.is(own));
            drop(old);
        }
    }

    /// Whether it is the controlling terminal of the process.
    fn controls(&self, process: &crate::task::Process) -> bool {
        process.terminal.lock().as_ref().is_some_and(|own| self.is(own))
    }

    /// Whether this is it: two instances of devpts have terminals of the same number.
    fn is(&self, other: &Arc<dyn Terminal>) -> bool {
        core::ptr::addr_eq(Arc::as_ptr(other), self)
    }

    /// Makes it the controlling terminal of the process, which leads its session.
    pub fn control(&self, process: &crate::task::Process) {
        let Some(own) = self.this.upgrade() else { return };
        let mut state = self.state.lock();
        state.session = Some((Arc::downgrade(&process.pids), process.session()));
        state.foreground = process.group();
        drop(state);
        let old = process.terminal.lock().replace(own);
        drop(old);
    }

    /// Opens it as a terminal. `EIO` where it is locked or the other side is gone, `EBUSY` where
    /// somebody wants it alone.
    fn open_slave(&self, privileged: bool) -> Result<Slave, Errno> {
        let own = self.this.upgrade().ok_or(Errno::EIO)?;
        let mut state = self.state.lock();
        if state.locked || state.hung_up {
            return Err(Errno::EIO);
        }
        if state.exclusive && !privileged {
            return Err(Errno::EBUSY);
        }
        state.opens = state.opens.saturating_add(1);
        (state.left, state.closing) = (false, false);
        drop(state);
        Ok(Slave(own))
    }

    /// Whether the process may use its terminal as it is about to: one in the background is stopped
    /// by `signal`, unless it does not care.
    fn check_foreground(&self, cx: &Current, signal: Signal) -> Result<(), SysError> {
        let process = &cx.task.process;
        let foreground = self.state.lock().foreground;
        if !self.controls(process) || foreground == 0 || foreground == process.group() {
            return Ok(());
        }
        let ignored = process.signals.lock().actions.lock().ignores(signal);
        if ignored || cx.task.blocked().contains(signal) {
            return if signal == Signal::SIGTTIN { Err(Errno::EIO.into()) } else { Ok(()) };
        }
        if process.group_is_orphaned() {
            return Err(Errno::EIO.into());
        }
        send_group(&process.pids, process.group(), SigInfo::kernel(signal), Origin::Inside);
        Err(SysError::Interrupted(crate::error::Restart::Sys))
    }
}

/// A listener that does not keep the terminal, which has the stream that has the listener.
struct Hears(Weak<Tty>);

impl Listener for Hears {
    fn ready(&self, ready: Ready) {
        let Some(tty) = self.0.upgrade() else { return };
        if ready.contains(Ready::OUT) {
            tty.flush();
        }
        if ready.intersects(Ready::IN | Ready::HUP | Ready::ERR) {
            tty.pump();
        }
    }
}

impl Terminal for Tty {
    fn session_ended(&self, session: Pid) {
        let mut state = self.state.lock();
        let (pids, foreground) = match &state.session {
            Some((pids, own)) if *own == session => (pids.upgrade(), state.foreground),
            _ => return,
        };
        (state.session, state.foreground) = (None, 0);
        drop(state);
        let Some(pids) = pids else { return };
        if foreground != 0 {
            for signal in [Signal::SIGHUP, Signal::SIGCONT] {
                send_group(&pids, foreground, SigInfo::kernel(signal), Origin::Inside);
            }
        }
        self.leave_session(&pids, session);
    }

    fn foreground(&self) -> Pid {
        self.state.lock().foreground
    }

    fn device(&self) -> u64 {
        makedev(SLAVE_MAJOR, self.index)
    }

    fn open(&self, privileged: bool) -> Result<Box<dyn FileOps>, Errno> {
        Ok(Box::new(self.open_slave(privileged)?))
    }
}

/// What /dev/tty is: the caller's controlling terminal. `ENXIO` where it has none.
pub fn open_own(cx: &super::Cx<'_>, _flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
    let process = &cx.task.ok_or(Errno::ENXIO)?.process;
    let terminal = process.terminal.lock().clone().ok_or(Errno::ENXIO)?;
    terminal.open(cx.creds.capable(cap::SYS_ADMIN))
}
