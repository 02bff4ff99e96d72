//! System calls that the application serves itself (prctl(PR_SET_SYSCALL_USER_DISPATCH)): those that are made outside of one
//! stretch of its code raise SIGSYS, unless a byte of its memory says that they pass.

use core::sync::atomic::Ordering;

use super::Current;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::seccomp;
use crate::signal::{Signal, code};

/// PR_SYS_DISPATCH_OFF and _ON.
const OFF: u64 = 0;
const ON: u64 = 1;
/// What the byte says (SYSCALL_DISPATCH_FILTER_ALLOW and _BLOCK).
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// What a task has asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserDispatch {
    /// The code whose calls pass.
    offset: u64,
    len: u64,
    /// Where the byte is; 0: there is none, and no call passes.
    selector: u64,
}

impl UserDispatch {
    /// What such arguments ask for, of a task whose memory ends at `end`.
    fn wanted(
        [mode, offset, len, selector]: [u64; 4],
        end: u64,
    ) -> Result<Option<UserDispatch>, Errno> {
        match mode {
            OFF if offset == 0 && len == 0 && selector == 0 => Ok(None),
            ON if offset == 0 || offset.checked_add(len).is_some_and(|end| end > offset) => {
                if selector >= end {
                    return Err(Errno::EFAULT);
                }
                Ok(Some(UserDispatch { offset, len, selector }))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// What a tracer sees (`struct ptrace_sud_config`): the mode, where the byte is, the code's place and length.
    pub fn config(this: Option<UserDispatch>) -> [u64; 4] {
        this.map_or([OFF, 0, 0, 0], |d| [ON, d.selector, d.offset, d.len])
    }

    /// The same from a tracer.
    pub fn from_config(
        [mode, selector, offset, len]: [u64; 4],
        end: u64,
    ) -> Result<Option<UserDispatch>, Errno> {
        UserDispatch::wanted([mode, offset, len, selector], end)
    }
}

impl Current {
    /// PR_SET_SYSCALL_USER_DISPATCH.
    pub fn set_user_dispatch(
        &mut self,
        mode: u64,
        offset: u64,
        len: u64,
        selector: u64,
    ) -> SysResult {
        let end = self.mm.user_range().end;
        self.put_user_dispatch(UserDispatch::wanted([mode, offset, len, selector], end)?);
        Ok(0)
    }

    /// Has the task's own code serve those calls, or none.
    pub fn put_user_dispatch(&mut self, wanted: Option<UserDispatch>) {
        self.user_dispatch = wanted;
        let _state = self.task.process.signals.lock();
        self.task.dispatches.store(wanted.is_some(), Ordering::SeqCst);
        if wanted.is_some() {
            self.task.watched.store(true, Ordering::SeqCst);
        }
        seccomp::allow(&self.task);
    }

    /// Whether the call that has just been made goes to the application: it has its signal then, and nobody else sees it.
    pub fn dispatches_to_user(&mut self) -> bool {
        let Some(UserDispatch { offset, len, selector }) = self.user_dispatch else { return false };
        if self.regs.rip.wrapping_sub(offset) < len {
            return false;
        }
        if selector != 0 {
            let mut byte = [0];
            let read = self.mm.copy_in(selector, &mut byte);
            match (read, byte) {
                (Err(_), _) => {
                    self.exit_group(Signal::SIGSEGV.number().into());
                    return true;
                }
                (Ok(()), [ALLOW]) => return false,
                (Ok(()), [BLOCK]) => {}
                (Ok(()), _) => {
                    self.exit_group(Signal::SIGSYS.number().into());
                    return true;
                }
            }
        }
        seccomp::raise(self, code::SYS_USER_DISPATCH, 0);
        true
    }
}
