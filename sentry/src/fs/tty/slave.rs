//! The terminal as an open file: reads and writes of who uses it, in the foreground or not.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use super::termios::{Local, Termios, cc as chars};
use super::{Lower, OUT, Tty};
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::fasync::Tells;
use crate::fs::file::{Blocker, File};
use crate::fs::inode::{FileOps, Written};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::types::Events;
use crate::platform::platform;
use crate::signal::Signal;
use crate::sync::WaitQueue;
use crate::task::Current;

/// An open terminal.
pub struct Slave(pub(super) Arc<Tty>);

impl Slave {
    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.0
    }
}

/// What a read that wants `wanted` bytes waits for: VMIN, or any byte at all.
fn least(termios: &Termios, nonblocking: bool) -> usize {
    let (min, time) = (usize::from(termios.cc(chars::MIN)), termios.cc(chars::TIME));
    match (min, time) {
        _ if nonblocking => 1,
        (0, 0) => 0,
        // With a timer between bytes, what has come is given at once.
        (_, 1..) => 1,
        (min, 0) => min,
    }
}

impl FileOps for Slave {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let tty = &self.0;
        let wanted = dst.remaining();
        let mut rest = {
            let state = tty.state.lock();
            if state.hung_up && state.discipline.len() == 0 {
                return Ok(0);
            }
            let least = least(state.discipline.termios(), file.nonblocking());
            match state.discipline.available(wanted, least) {
                Some(n) => n,
                None if state.hung_up => state.discipline.len(),
                None => return Err(Errno::EAGAIN),
            }
        };
        if rest == 0 {
            // The end of a file that was typed, or a read that never waits.
            let taken = tty.state.lock().discipline.read(&mut []);
            return Ok(taken);
        }
        let done = dst.fill_with(rest, |_, buf| {
            let len = buf.len().min(rest);
            let n = tty.state.lock().discipline.read(buf.get_mut(..len).unwrap_or(&mut []));
            rest = rest.saturating_sub(n);
            Ok(n)
        });
        // There is room again.
        match tty.lower {
            Lower::Host(_) => tty.pump(),
            Lower::Master => tty.master_queue.wake(Events::WRITABLE.bits()),
        }
        done
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        let tty = &self.0;
        let mut out = Vec::new();
        let count = src.drain_with(src.remaining(), |_, data| {
            let mut state = tty.state.lock();
            if state.hung_up {
                return Err(Errno::EIO);
            }
            let room = OUT.saturating_sub(state.out.len());
            if room == 0 || state.discipline.stopped() {
                return Err(Errno::EAGAIN);
            }
            let data = data.get(..data.len().min(room)).unwrap_or(&[]);
            out.clear();
            state.discipline.output(data, &mut out);
            state.out.extend(&out);
            drop(state);
            tty.flush();
            Ok(data.len())
        })?;
        Ok(Written { count, end: 0 })
    }

    fn admit(
        &self,
        file: &File,
        waiter: &dyn Blocker,
        wanted: Option<usize>,
    ) -> Result<Option<u64>, SysError> {
        let writing = wanted.is_none();
        let termios = *self.0.state.lock().discipline.termios();
        if let Some(cx) = waiter.current() {
            if !writing {
                self.0.check_foreground(cx, Signal::SIGTTIN)?;
            } else if termios.local.contains(Local::TOSTOP) {
                self.0.check_foreground(cx, Signal::SIGTTOU)?;
            }
        }
        let (min, time) = (termios.cc(chars::MIN), termios.cc(chars::TIME));
        if writing || termios.canonical() || time == 0 || file.nonblocking() {
            return Ok(None);
        }
        // VTIME counts tenths of a second.
        let time = u64::from(time) * 100_000_000;
        if min > 0 {
            self.0.gather(waiter, usize::from(min).min(wanted.unwrap_or(0)), time)?;
            return Ok(None);
        }
        Ok(Some(platform().monotonic().saturating_add(time)))
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, _file: &File) -> Events {
        let state = self.0.state.lock();
        if state.hung_up {
            return Events::READABLE | Events::WRITABLE | Events::HUP | Events::ERR;
        }
        let termios = state.discipline.termios();
        let least = match (termios.cc(chars::MIN), termios.cc(chars::TIME)) {
            (min, 0) => usize::from(min).max(1),
            _ => 1,
        };
        let mut events = Events::empty();
        events.set(Events::READABLE, state.discipline.available(usize::MAX, least).is_some());
        events.set(Events::WRITABLE, state.out.len() < OUT && !state.discipline.stopped());
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn tells(&self) -> Option<Tells> {
        self.0.tells()
    }

    fn available(&self, _file: &File) -> Result<usize, Errno> {
        Ok(self.0.state.lock().discipline.len())
    }

    fn ioctl(&self, cx: &mut Current, _file: &File, command: u32, arg: u64) -> SysResult {
        self.0.ioctl(cx, command, arg, false)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.opens = state.opens.saturating_sub(1);
        if state.opens == 0 {
            state.left = true;
            let over = matches!(&self.0.lower, Lower::Host(host) if !host.lasting);
            state.closing = over;
            drop(state);
            self.0.master_queue.wake_all();
            if over {
                self.0.flush();
            }
        }
    }
}
