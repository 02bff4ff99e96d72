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
#[derive(Clone, Copy, Debug)]
pub struct UserDispatch {
    /// The code whose calls pass.
    offset: u64,
    len: u64,
    /// Where the byte is; 0: there is none, and no call passes.
    selector: u64,
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
        let wanted = match mode {
            OFF if offset == 0 && len == 0 && selector == 0 => None,
            ON if offset == 0 || offset.checked_add(len).is_some_and(|end| end > offset) => {
                if selector >= self.mm.user_range().end {
                    return Err(Errno::EFAULT.into());
                }
                Some(UserDispatch { offset, len, selector })
            }
            _ => return Err(Errno::EINVAL.into()),
        };
        self.user_dispatch = wanted;
        let _state = self.task.process.signals.lock();
        self.task.dispatches.store(wanted.is_some(), Ordering::SeqCst);
        if wanted.is_some() {
            self.task.watched.store(true, Ordering::SeqCst);
        }
        seccomp::allow(&self.task);
        Ok(0)
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
