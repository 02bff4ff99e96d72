//! ioctl(2) on terminals and their masters (ioctl_tty(2)).

use super::termios::{TERMIOS, TERMIOS2};
use super::{Lower, Tty, Window};
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::types::Events;
use crate::platform::Stream;
use crate::signal::Signal;
use crate::task::{Current, cap};

/// asm-generic/ioctls.h.
mod command {
    pub const TCGETS: u32 = 0x5401;
    pub const TCSETS: u32 = 0x5402;
    pub const TCSETSW: u32 = 0x5403;
    pub const TCSETSF: u32 = 0x5404;
    pub const TCSBRK: u32 = 0x5409;
    pub const TCXONC: u32 = 0x540a;
    pub const TCFLSH: u32 = 0x540b;
    pub const TIOCEXCL: u32 = 0x540c;
    pub const TIOCNXCL: u32 = 0x540d;
    pub const TIOCSCTTY: u32 = 0x540e;
    pub const TIOCGPGRP: u32 = 0x540f;
    pub const TIOCSPGRP: u32 = 0x5410;
    pub const TIOCOUTQ: u32 = 0x5411;
    pub const TIOCGWINSZ: u32 = 0x5413;
    pub const TIOCSWINSZ: u32 = 0x5414;
    pub const TIOCNOTTY: u32 = 0x5422;
    pub const TIOCGETD: u32 = 0x5424;
    pub const TCSBRKP: u32 = 0x5425;
    pub const TIOCGSID: u32 = 0x5429;
    pub const TCGETS2: u32 = 0x802c_542a;
    pub const TCSETS2: u32 = 0x402c_542b;
    pub const TCSETSW2: u32 = 0x402c_542c;
    pub const TCSETSF2: u32 = 0x402c_542d;
    pub const TIOCGEXCL: u32 = 0x8004_5440;
}
use command::*;

/// Arguments of TCFLSH and TCXONC (termios.h).
const TCIFLUSH: u64 = 0;
const TCOFLUSH: u64 = 1;
const TCIOFLUSH: u64 = 2;
const TCOOFF: u64 = 0;
const TCOON: u64 = 1;
const TCIOFF: u64 = 2;
const TCION: u64 = 3;

impl Tty {
    /// ioctl(2) on either side. `ENOTTY` for what this terminal does not have.
    pub(super) fn ioctl(
        &self,
        cx: &mut Current,
        command: u32,
        arg: u64,
        master: bool,
    ) -> SysResult {
        if !master && self.state.lock().hung_up {
            return Err(if command == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO }.into());
        }
        let changes = matches!(
            command,
            TCSETS
                | TCSETSW
                | TCSETSF
                | TCSETS2
                | TCSETSW2
                | TCSETSF2
                | TCSBRK
                | TCSBRKP
                | TCXONC
                | TCFLSH
        );
        if changes && !master {
            self.check_foreground(cx, Signal::SIGTTOU)?;
        }
        match command {
            TCGETS | TCGETS2 => {
                let bytes = self.state.lock().discipline.termios().to_bytes();
                let len = if command == TCGETS { TERMIOS } else { TERMIOS2 };
                cx.mm.copy_out(arg, bytes.get(..len).unwrap_or(&bytes))?;
            }
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 => {
                self.set_termios(cx, command, arg)?;
            }
            // A break on a line that is none; arg 1 is tcdrain(3), and output is on its way already.
            TCSBRK | TCSBRKP => {}
            TCXONC => match arg {
                TCOOFF | TCOON => self.set_stopped(arg == TCOOFF),
                // Asks the other side, which is no line that could be asked.
                TCIOFF | TCION => {}
                _ => return Err(Errno::EINVAL.into()),
            },
            TCFLSH => {
                if arg > TCIOFLUSH {
                    return Err(Errno::EINVAL.into());
                }
                let mut state = self.state.lock();
                if arg != TCOFLUSH {
                    state.discipline.flush();
                }
                if arg != TCIFLUSH {
                    state.out.clear();
                }
                state.packets.flushed(arg != TCOFLUSH, arg != TCIFLUSH);
                drop(state);
                self.master_queue.wake(Events::READABLE.bits());
                self.made_room();
            }
            TIOCEXCL | TIOCNXCL => self.state.lock().exclusive = command == TIOCEXCL,
            TIOCGEXCL => {
                let exclusive = u32::from(self.state.lock().exclusive);
                cx.mm.copy_out(arg, &exclusive.to_le_bytes())?;
            }
            TIOCOUTQ => {
                let waiting = u32::try_from(self.state.lock().out.len()).unwrap_or(u32::MAX);
                cx.mm.copy_out(arg, &waiting.to_le_bytes())?;
            }
            TIOCGETD => cx.mm.copy_out(arg, &0u32.to_le_bytes())?,
            TIOCGWINSZ => {
                let Window([rows, columns, x, y]) = self.window();
                let bytes: [u16; 4] = [rows, columns, x, y];
                cx.mm.copy_out(arg, zerocopy::IntoBytes::as_bytes(&bytes))?;
            }
            TIOCSWINSZ => {
                let mut bytes = [0u16; 4];
                cx.mm.copy_in(arg, zerocopy::IntoBytes::as_mut_bytes(&mut bytes))?;
                self.set_window(Window(bytes));
            }
            TIOCSCTTY => self.take_control(cx, arg)?,
            TIOCNOTTY => self.give_up(cx)?,
            TIOCGPGRP => {
                if !master {
                    self.must_control(cx)?;
                }
                let group = cx.task.process.pidns.nr(self.state.lock().foreground);
                cx.mm.copy_out(arg, &group.to_le_bytes())?;
            }
            TIOCSPGRP => self.set_foreground(cx, arg)?,
            TIOCGSID => {
                if !master {
                    self.must_control(cx)?;
                }
                let session = self.state.lock().session.as_ref().map(|(_, session)| *session);
                let session = cx.task.process.pidns.nr(session.ok_or(Errno::ENOTTY)?);
                cx.mm.copy_out(arg, &session.to_le_bytes())?;
            }
            _ => return Err(Errno::ENOTTY.into()),
        }
        Ok(0)
    }

    fn window(&self) -> Window {
        self.state.lock().window
    }

    fn set_termios(&self, cx: &Current, command: u32, arg: u64) -> Result<(), SysError> {
        let mut bytes = [0; TERMIOS2];
        let two = matches!(command, TCSETS2 | TCSETSW2 | TCSETSF2);
        let len = if two { TERMIOS2 } else { TERMIOS };
        let bytes = bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
        cx.mm.copy_in(arg, bytes)?;
        let mut state = self.state.lock();
        let old = *state.discipline.termios();
        let new = old.with_bytes(bytes)?;
        if matches!(command, TCSETSF | TCSETSF2) {
            state.discipline.flush();
            state.packets.flushed(true, false);
        }
        let stopped = state.discipline.stopped();
        state.discipline.set_termios(new);
        let now = state.discipline.stopped();
        state.packets.stopped(stopped, now);
        state.packets.modes(&old, &new);
        state.send_echo(&[]);
        drop(state);
        self.flush();
        self.made_room();
        // What can be read, and whether one may write, depends on the modes.
        self.queue.wake_all();
        Ok(())
    }

    fn set_stopped(&self, stopped: bool) {
        let mut state = self.state.lock();
        let before = state.discipline.stopped();
        state.discipline.set_stopped(stopped);
        state.packets.stopped(before, stopped);
        state.send_echo(&[]);
        drop(state);
        self.flush();
        self.queue.wake_all();
    }

    /// There is room for input again.
    fn made_room(&self) {
        match self.lower {
            Lower::Host(_) => self.pump(),
            Lower::Master => self.master_queue.wake_all(),
        }
    }

    /// `ENOTTY` unless it is the caller's controlling terminal.
    fn must_control(&self, cx: &Current) -> Result<(), Errno> {
        if self.controls(&cx.task.process) { Ok(()) } else { Err(Errno::ENOTTY) }
    }

    fn take_control(&self, cx: &Current, arg: u64) -> Result<(), Errno> {
        let process = &cx.task.process;
        let leads = process.session() == process.pid;
        let owner = {
            let state = self.state.lock();
            state.session.as_ref().and_then(|(pids, session)| Some((pids.upgrade()?, *session)))
        };
        let has = process.terminal.lock().is_some();
        if leads
            && owner.as_ref().is_some_and(|(pids, session)| {
                alloc::sync::Arc::ptr_eq(pids, &process.pids) && *session == process.pid
            })
        {
            return Ok(());
        }
        if !leads || has {
            return Err(Errno::EPERM);
        }
        if let Some((pids, session)) = owner {
            let privileged = cx.creds.capable(cap::SYS_ADMIN);
            if arg != 1 || !privileged {
                return Err(Errno::EPERM);
            }
            self.leave_session(&pids, session);
        }
        self.control(process);
        Ok(())
    }

    fn give_up(&self, cx: &Current) -> Result<(), Errno> {
        self.must_control(cx)?;
        let process = &cx.task.process;
        if process.session() == process.pid {
            crate::task::Terminal::session_ended(self, process.pid);
        }
        let old = process.terminal.lock().take();
        drop(old);
        Ok(())
    }

    fn set_foreground(&self, cx: &Current, arg: u64) -> Result<(), SysError> {
        match self.check_foreground(cx, Signal::SIGTTOU) {
            Err(SysError::Errno(Errno::EIO)) => return Err(Errno::ENOTTY.into()),
            result => result?,
        }
        self.must_control(cx)?;
        let process = &cx.task.process;
        let own = self.state.lock().session.as_ref().map(|(_, session)| *session);
        if own != Some(process.session()) {
            return Err(Errno::ENOTTY.into());
        }
        let group = cx.mm.copy_in_u32(arg)?;
        if i32::try_from(group).is_err() {
            return Err(Errno::EINVAL.into());
        }
        let group = process.pidns.id_of(group).ok_or(Errno::ESRCH)?;
        let table = process.pids.lock();
        let first = table.group(group).first().map(|p| p.session());
        drop(table);
        match first {
            None => return Err(Errno::ESRCH.into()),
            Some(session) if session != process.session() => return Err(Errno::EPERM.into()),
            Some(_) => {}
        }
        self.state.lock().foreground = group;
        Ok(())
    }
}

impl Tty {
    /// The host's terminal behind it has this size: it begins with it.
    pub(super) fn size_from(&self, stream: &dyn Stream) {
        if let Ok((rows, columns)) = stream.window_size() {
            self.state.lock().window = Window([rows, columns, 0, 0]);
        }
    }
}
