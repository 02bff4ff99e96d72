//! Resource limits (setrlimit(2)).

use crate::errno::Errno;
use crate::sync::SpinLock;

/// Numbers of limits (asm-generic/resource.h).
#[allow(missing_docs)]
mod numbers {
    pub const RLIMIT_CPU: usize = 0;
    pub const RLIMIT_FSIZE: usize = 1;
    pub const RLIMIT_DATA: usize = 2;
    pub const RLIMIT_STACK: usize = 3;
    pub const RLIMIT_CORE: usize = 4;
    pub const RLIMIT_NPROC: usize = 6;
    pub const RLIMIT_NOFILE: usize = 7;
    pub const RLIMIT_MEMLOCK: usize = 8;
    pub const RLIMIT_AS: usize = 9;
    pub const RLIMIT_SIGPENDING: usize = 11;
    pub const RLIMIT_MSGQUEUE: usize = 12;
    pub const RLIMIT_NICE: usize = 13;
    pub const RLIMIT_RTPRIO: usize = 14;
    pub const RLIM_NLIMITS: usize = 16;
}
pub use numbers::*;

/// RLIM_INFINITY.
pub const INFINITY: u64 = u64::MAX;
/// The most that RLIMIT_NOFILE can be (fs.nr_open's default).
pub const NR_OPEN: u64 = 1 << 20;

/// A soft and a hard limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rlimit {
    /// What is enforced.
    pub soft: u64,
    /// How far the soft one can be raised.
    pub hard: u64,
}

/// The limits of a process.
pub struct Rlimits(SpinLock<[Rlimit; RLIM_NLIMITS]>);

impl Default for Rlimits {
    /// Those of Linux's init (INIT_RLIMITS), with its usual numbers of processes and signals.
    fn default() -> Self {
        let none = Rlimit { soft: INFINITY, hard: INFINITY };
        let mut all = [none; RLIM_NLIMITS];
        let mut set = |n: usize, soft, hard| {
            if let Some(limit) = all.get_mut(n) {
                *limit = Rlimit { soft, hard };
            }
        };
        set(RLIMIT_STACK, 8 << 20, INFINITY);
        set(RLIMIT_CORE, 0, INFINITY);
        set(RLIMIT_NOFILE, 1024, 4096);
        set(RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
        set(RLIMIT_SIGPENDING, 31_000, 31_000);
        set(RLIMIT_MSGQUEUE, 819_200, 819_200);
        set(RLIMIT_NICE, 0, 0);
        set(RLIMIT_RTPRIO, 0, 0);
        Rlimits(SpinLock::new(all))
    }
}

impl Rlimits {
    /// The limit with this number.
    pub fn get(&self, number: usize) -> Result<Rlimit, Errno> {
        self.0.lock().get(number).copied().ok_or(Errno::EINVAL)
    }

    /// What is enforced.
    pub fn soft(&self, number: usize) -> u64 {
        self.get(number).map_or(INFINITY, |limit| limit.soft)
    }

    /// Sets one; only `privileged` callers raise a hard limit. The old one.
    pub fn set(&self, number: usize, new: Rlimit, privileged: bool) -> Result<Rlimit, Errno> {
        let mut all = self.0.lock();
        let limit = all.get_mut(number).ok_or(Errno::EINVAL)?;
        if new.soft > new.hard {
            return Err(Errno::EINVAL);
        }
        if number == RLIMIT_NOFILE && new.hard > NR_OPEN {
            return Err(Errno::EPERM);
        }
        if new.hard > limit.hard && !privileged {
            return Err(Errno::EPERM);
        }
        Ok(core::mem::replace(limit, new))
    }

    /// Sets one to `new` unless somebody has changed it from `old` meanwhile.
    pub fn replace(&self, number: usize, old: Rlimit, new: Rlimit) {
        if let Some(limit) = self.0.lock().get_mut(number).filter(|limit| **limit == old) {
            *limit = new;
        }
    }

    /// A copy, for a child.
    pub fn duplicate(&self) -> Rlimits {
        Rlimits(SpinLock::new(*self.0.lock()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_privileged_raise_a_hard_limit() {
        let limits = Rlimits::default();
        let more = Rlimit { soft: 10, hard: 8192 };
        assert_eq!(limits.set(RLIMIT_NOFILE, more, false), Err(Errno::EPERM));
        assert!(limits.set(RLIMIT_NOFILE, more, true).is_ok());
        assert_eq!(limits.soft(RLIMIT_NOFILE), 10);
        let bad = Rlimit { soft: 2, hard: 1 };
        assert_eq!(limits.set(RLIMIT_CPU, bad, true), Err(Errno::EINVAL));
        assert_eq!(limits.get(RLIM_NLIMITS), Err(Errno::EINVAL));
    }
}
