//! Who has logged in, as pam_loginuid(8) says at the start of a session and every child is told (/proc/PID/loginuid).
//! There is no audit(7) that would use it.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Creds, cap};
use crate::errno::Errno;

/// Nobody has logged in (AUDIT_UID_UNSET, AUDIT_SID_UNSET).
pub const UNSET: u32 = u32::MAX;

static SESSIONS: AtomicU32 = AtomicU32::new(0);

/// A task's login: written by the task alone.
pub struct Login {
    uid: AtomicU32,
    session: AtomicU32,
}

impl Default for Login {
    fn default() -> Self {
        Login { uid: AtomicU32::new(UNSET), session: AtomicU32::new(UNSET) }
    }
}

impl Login {
    /// The user, as the kernel counts, or [`UNSET`].
    pub fn uid(&self) -> u32 {
        self.uid.load(Ordering::Relaxed)
    }

    /// The session's number, or [`UNSET`].
    pub fn session(&self) -> u32 {
        self.session.load(Ordering::Relaxed)
    }

    /// A user, or [`UNSET`], logs in, whose task has `creds` (audit_set_loginuid()). `EPERM` where somebody has already, and the
    /// caller may not change that.
    pub fn set(&self, uid: u32, creds: &Creds) -> Result<(), Errno> {
        if self.uid() != UNSET && !creds.capable(cap::AUDIT_CONTROL) {
            return Err(Errno::EPERM);
        }
        let session = match uid {
            UNSET => UNSET,
            _ => SESSIONS.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
        };
        self.uid.store(uid, Ordering::Relaxed);
        self.session.store(session, Ordering::Relaxed);
        Ok(())
    }

    /// A child's.
    pub fn duplicate(&self) -> Login {
        Login { uid: AtomicU32::new(self.uid()), session: AtomicU32::new(self.session()) }
    }
}
