//! Time namespaces (time_namespaces(7)): by how much clocks that count from the boot are ahead.
//!
//! Nothing but the clocks themselves ([`crate::time::Clock`]) knows of them: a clock is made for a task, and says
//! and takes times of that task's namespace.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::{Current, NamespaceId, UserNamespace};
use crate::errno::Errno;
use crate::platform::platform;
use crate::time::SECOND;

/// A time namespace.
pub struct TimeNamespace {
    /// The inode number of its file.
    pub id: NamespaceId,
    /// Whose capabilities count for it.
    pub owner: UserNamespace,
    /// Nanoseconds that CLOCK_MONOTONIC is ahead of the container's.
    monotonic: AtomicI64,
    /// Nanoseconds that CLOCK_BOOTTIME is ahead.
    boottime: AtomicI64,
    /// A task has been in it: clocks that it has seen do not jump.
    frozen: AtomicBool,
}

impl TimeNamespace {
    /// The container's own, `owner`'s.
    pub fn outermost(owner: &UserNamespace) -> Arc<TimeNamespace> {
        let ahead = AtomicI64::new(0);
        let frozen = AtomicBool::new(true);
        Arc::new(TimeNamespace {
            id: NamespaceId::TIME,
            owner: owner.clone(),
            monotonic: ahead,
            boottime: AtomicI64::new(0),
            frozen,
        })
    }

    /// Another of `owner`'s, which begins with the same clocks.
    pub fn another(&self, owner: &UserNamespace) -> Arc<TimeNamespace> {
        Arc::new(TimeNamespace {
            id: NamespaceId::default(),
            owner: owner.clone(),
            monotonic: AtomicI64::new(self.ahead()),
            boottime: AtomicI64::new(self.boottime_ahead()),
            frozen: AtomicBool::new(false),
        })
    }

    /// Nanoseconds that CLOCK_MONOTONIC and its kin are ahead of the container's.
    #[inline]
    pub fn ahead(&self) -> i64 {
        self.monotonic.load(Ordering::Relaxed)
    }

    /// Nanoseconds that CLOCK_BOOTTIME and its kin are ahead.
    #[inline]
    pub fn boottime_ahead(&self) -> i64 {
        self.boottime.load(Ordering::Relaxed)
    }

    /// A time of CLOCK_MONOTONIC here, as the container's clock says it.
    pub fn to_host(&self, time: u64) -> u64 {
        time.saturating_sub_signed(self.ahead())
    }

    /// Sets how much clocks are ahead, `None`: as before. `EACCES` where a task has been in it.
    pub fn set(&self, monotonic: Option<i64>, boottime: Option<i64>) -> Result<(), Errno> {
        if self.frozen.load(Ordering::Acquire) {
            return Err(Errno::EACCES);
        }
        for (place, ahead) in [(&self.monotonic, monotonic), (&self.boottime, boottime)] {
            if let Some(ahead) = ahead {
                place.store(ahead, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// A task comes in.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }
}

/// Seconds that a clock can count (KTIME_SEC_MAX).
const MAX_SECONDS: i64 = i64::MAX / SECOND as i64;

/// Nanoseconds that a clock may be ahead. `ERANGE` where it would be below nothing, or near its end.
pub fn in_range(ahead: i64) -> Result<i64, Errno> {
    let now = i64::try_from(platform().monotonic()).unwrap_or(i64::MAX);
    let then = now.checked_add(ahead).ok_or(Errno::ERANGE)?;
    match then < 0 || then / SECOND as i64 > MAX_SECONDS / 2 {
        true => Err(Errno::ERANGE),
        false => Ok(ahead),
    }
}

impl Current {
    /// At exec a task goes to where its children are born, which it could not while it shared its memory.
    pub(super) fn enter_time_namespace(&mut self) {
        if !Arc::ptr_eq(&self.namespaces.time, &self.namespaces.time_for_children) {
            let mut new = (*self.namespaces).clone();
            new.time = new.time_for_children.clone();
            new.time.freeze();
            self.set_namespaces(new);
        }
    }
}
