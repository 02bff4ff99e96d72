//! Pending signals.

use alloc::collections::VecDeque;

use super::{SigInfo, SigSet, Signal};
use crate::errno::Errno;

/// Signals that wait for delivery. Standard signals are there once; real-time ones queue.
#[derive(Default, Debug)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Which are there.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Entries in the queue.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The one at this place of the queue, which stays there.
    pub fn nth(&self, n: usize) -> Option<SigInfo> {
        self.queue.get(n).copied()
    }

    /// Adds one. With `limit` entries there, what may be lost loses its information, and the rest
    /// is refused with `EAGAIN`. Returns whether it is new (a standard signal may be there already).
    pub fn push(&mut self, info: SigInfo, limit: usize) -> Result<bool, Errno> {
        if !info.signal.is_realtime() && self.set.contains(info.signal) {
            return Ok(false);
        }
        if info.signal.is_realtime() && self.queue.len() >= limit {
            if !info.may_be_lost() {
                return Err(Errno::EAGAIN);
            }
            // The bit alone says that it is there; dequeuing makes up the rest.
            self.set = self.set.with(info.signal.bit());
            return Ok(true);
        }
        self.queue.push_back(info);
        self.set = self.set.with(info.signal.bit());
        Ok(true)
    }

    /// Takes the next one out of `wanted`: those that an instruction raised first, then by number.
    pub fn take(&mut self, wanted: SigSet) -> Option<SigInfo> {
        let there = self.set.and(wanted);
        let signal = there.and(SigSet::SYNCHRONOUS).first().or_else(|| there.first())?;
        Some(self.take_one(signal))
    }

    /// Removes all of these.
    pub fn remove(&mut self, gone: SigSet) {
        if self.set.and(gone).is_empty() {
            return;
        }
        self.queue.retain(|info| !gone.contains(info.signal));
        self.set = self.set.without(gone);
    }

    fn take_one(&mut self, signal: Signal) -> SigInfo {
        let at = self.queue.iter().position(|info| info.signal == signal);
        let info = at.and_then(|at| self.queue.remove(at));
        let more = signal.is_realtime()
            && info.is_some()
            && self.queue.iter().any(|info| info.signal == signal);
        if !more {
            self.set = self.set.without(signal.bit());
        }
        info.unwrap_or_else(|| SigInfo::user(signal, super::code::SI_USER, 0, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    fn rt(n: i32, value: u64) -> SigInfo {
        let mut info = SigInfo::user(Signal::new(n).unwrap(), code::SI_QUEUE, 1, 0);
        info.set(1, value);
        info
    }

    #[test]
    fn standard_signals_collapse_and_realtime_ones_queue_in_order() {
        let mut p = Pending::default();
        assert!(p.push(rt(10, 1), 8).unwrap());
        assert!(!p.push(rt(10, 2), 8).unwrap());
        for v in 0..3 {
            assert!(p.push(rt(40, v), 8).unwrap());
        }
        p.push(rt(35, 9), 8).unwrap();
        let all = SigSet(u64::MAX);
        assert_eq!(p.take(all).unwrap().get(1), 1);
        assert_eq!(p.take(all).unwrap().signal.number(), 35);
        for v in 0..3 {
            assert_eq!(p.take(all).unwrap().get(1), v);
        }
        assert!(p.take(all).is_none());
    }

    #[test]
    fn a_full_queue_refuses_what_must_not_be_lost() {
        let mut p = Pending::default();
        p.push(rt(40, 1), 1).unwrap();
        assert_eq!(p.push(rt(40, 2), 1), Err(Errno::EAGAIN));
        let kill = SigInfo::user(Signal::new(41).unwrap(), code::SI_USER, 1, 0);
        assert!(p.push(kill, 1).unwrap());
        assert!(p.set().contains(kill.signal));
        assert_eq!(p.take(kill.signal.bit()).unwrap().signal, kill.signal);
        assert!(!p.set().contains(kill.signal));
    }

    #[test]
    fn faults_come_before_lower_numbers() {
        let mut p = Pending::default();
        p.push(rt(1, 0), 8).unwrap();
        p.push(SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, 4), 8).unwrap();
        assert_eq!(p.take(SigSet(u64::MAX)).unwrap().signal, Signal::SIGSEGV);
    }
}
