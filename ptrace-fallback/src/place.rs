//! On which CPU a task runs.
//!
//! A stop of a tracee wakes its tracer, and the tracer's answer wakes the tracee. Within one CPU that
//! is a context switch; across CPUs it is an interrupt, and on a virtual machine often an exit. So a
//! driving thread and its tracee are bound to one CPU, together.
//!
//! The host's balancing cannot move a bound pair, so we do. Tasks that take turns (a pipe, a wait for
//! a child) are best left on one CPU, and tasks that compute side by side must not be: what tells
//! them apart is that the latter are active at the same time for long. While a CPU has several active
//! tasks and another has none, the keeper looks every few milliseconds, and moves one of two that
//! have been active all the while.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sys;
use crate::thread::{Slot, Threads};

/// How long two tasks share a CPU while another is idle, nanoseconds.
pub(crate) const PATIENCE: u64 = 3_000_000;

/// The CPUs and their load.
pub(crate) struct Placement {
    /// The host's numbers of what applications see as CPU 0, 1, ...
    cpus: Vec<u32>,
    /// Active tasks, by the host's numbers.
    load: Vec<AtomicI32>,
}

impl Placement {
    /// Over the first `most` CPUs that this process may use (0: all).
    pub(crate) fn new(most: u32) -> Placement {
        let mut cpus = sys::allowed_cpus();
        if most != 0 {
            cpus.truncate(most as usize);
        }
        let len = cpus.iter().max().map_or(1, |n| *n as usize + 1);
        Placement { cpus, load: (0..len).map(|_| AtomicI32::new(0)).collect() }
    }

    /// CPUs that there are.
    pub(crate) fn count(&self) -> u32 {
        self.cpus.len() as u32
    }

    /// Whether applications call every CPU what the host does.
    pub(crate) fn numbers_as_host(&self) -> bool {
        self.cpus.iter().enumerate().all(|(n, cpu)| n == *cpu as usize)
    }

    /// What applications call a CPU of the host's.
    pub(crate) fn number(&self, cpu: u32) -> u32 {
        self.cpus.iter().position(|c| *c == cpu).unwrap_or(0) as u32
    }

    fn load(&self, cpu: u32) -> i32 {
        let load = self.load.get(cpu as usize);
        load.map_or(i32::MAX, |load| load.load(Ordering::Relaxed))
    }

    fn change(&self, cpu: u32, by: i32) {
        if let Some(load) = self.load.get(cpu as usize) {
            load.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// The CPUs that a thread may use, by the host's numbers.
    fn permitted(&self, slot: &Slot) -> impl Iterator<Item = u32> {
        let mask = slot.mask.lock().unwrap_or_else(PoisonError::into_inner);
        let mask = mask.clone();
        self.cpus
            .iter()
            .enumerate()
            .filter(move |(n, _)| {
                mask.is_empty() || mask.get(n / 64).is_some_and(|w| w >> (n % 64) & 1 != 0)
            })
            .map(|(_, cpu)| *cpu)
    }

    /// A thread begins to drive an application: it stays where it is, if it may. As [`resume`](Self::resume).
    pub(crate) fn begin(&self, slot: &'static Slot) -> bool {
        if slot.cpu().is_none() {
            let here = sys::current_cpu();
            let cpu = self.permitted(slot).min_by_key(|cpu| (*cpu != here, self.load(*cpu)));
            slot.bind(cpu.unwrap_or(here));
        }
        self.resume(slot)
    }

    /// It does so no more, or is about to wait.
    pub(crate) fn pause(&self, slot: &Slot) {
        if let Some(cpu) = slot.counted.swap(0, Ordering::Relaxed).checked_sub(1) {
            self.change(cpu, -1);
        }
    }

    /// It has waited; whether it shares its CPU with others while another is idle.
    pub(crate) fn resume(&self, slot: &Slot) -> bool {
        let Some(cpu) = slot.cpu() else {
            return false;
        };
        slot.active_since.store(sys::monotonic(), Ordering::Relaxed);
        slot.counted.store(cpu.saturating_add(1), Ordering::Relaxed);
        self.change(cpu, 1);
        self.load(cpu) > 1 && self.cpus.iter().any(|other| self.load(*other) <= 0)
    }

    /// Restricts a thread.
    pub(crate) fn restrict(&self, slot: &Slot, mask: &[u64]) {
        *slot.mask.lock().unwrap_or_else(PoisonError::into_inner) = mask.to_vec();
        let Some(cpu) = slot.cpu() else {
            return;
        };
        if self.permitted(slot).any(|c| c == cpu) {
            return;
        }
        // A mask without any of our CPUs restricts nothing.
        if let Some(to) = self.permitted(slot).min_by_key(|cpu| self.load(*cpu)) {
            self.shift(slot, cpu, to);
        }
    }

    fn shift(&self, slot: &Slot, from: u32, to: u32) {
        slot.bind(to);
        let counted = slot.counted.compare_exchange(
            from.saturating_add(1),
            to.saturating_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if counted.is_ok() {
            self.change(from, -1);
            self.change(to, 1);
        }
    }

    /// Moves tasks from shared CPUs to idle ones; whether to look again soon.
    pub(crate) fn balance(&self, threads: &'static Threads) -> bool {
        let now = sys::monotonic();
        let mut again = false;
        for idle in &self.cpus {
            if self.load(*idle) > 0 {
                continue;
            }
            let Some(busy) = self.cpus.iter().copied().find(|cpu| self.load(*cpu) > 1) else {
                return false;
            };
            again = true;
            let counted = |slot: &&Slot| slot.counted.load(Ordering::Relaxed) == busy + 1;
            let long = |slot: &&Slot| {
                let since = slot.active_since.load(Ordering::Relaxed);
                now.saturating_sub(since) >= PATIENCE
            };
            let mut candidates = threads.all().filter(counted).filter(long);
            let (Some(first), Some(second)) = (candidates.next(), candidates.next()) else {
                continue;
            };
            for slot in [second, first].into_iter().chain(candidates) {
                if self.permitted(slot).any(|cpu| cpu == *idle) {
                    self.shift(slot, busy, *idle);
                    break;
                }
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement() -> Placement {
        Placement { cpus: vec![4, 6], load: (0..7).map(|_| AtomicI32::new(0)).collect() }
    }

    fn slot(threads: &'static Threads, cpu: u32) -> &'static Slot {
        let slot = threads.take().unwrap();
        slot.bind(cpu);
        slot
    }

    #[test]
    fn two_that_compute_are_parted_and_two_that_take_turns_are_not() {
        let threads: &'static Threads = Box::leak(Box::default());
        let p = placement();
        let (a, b) = (slot(threads, 4), slot(threads, 4));
        assert!(!p.resume(a));
        assert!(p.resume(b));
        assert!(p.balance(threads), "too early to part them");
        assert_eq!((a.cpu(), b.cpu()), (Some(4), Some(4)));
        p.pause(a);
        assert!(!p.balance(threads));
        p.resume(a);
        for slot in [a, b] {
            slot.active_since.store(1, Ordering::Relaxed);
        }
        p.balance(threads);
        assert_eq!((a.cpu(), b.cpu()), (Some(4), Some(6)));
        assert_eq!((p.load(4), p.load(6)), (1, 1));
        assert!(!p.balance(threads));
        p.pause(b);
        assert_eq!((p.load(4), p.load(6)), (1, 0));
        assert_eq!(p.number(6), 1);
        assert!(!p.numbers_as_host());
    }

    #[test]
    fn a_restriction_moves_a_thread_and_holds() {
        let threads: &'static Threads = Box::leak(Box::default());
        let p = placement();
        let (a, b) = (slot(threads, 4), slot(threads, 4));
        p.resume(a);
        p.resume(b);
        p.restrict(a, &[0b10]);
        assert_eq!(a.cpu(), Some(6));
        p.restrict(a, &[0b01]);
        assert_eq!(a.cpu(), Some(4));
        p.restrict(b, &[0b01]);
        for slot in [a, b] {
            slot.active_since.store(1, Ordering::Relaxed);
        }
        p.balance(threads);
        assert_eq!((a.cpu(), b.cpu()), (Some(4), Some(4)));
        p.restrict(a, &[1 << 5]);
        assert_eq!(a.cpu(), Some(4), "a mask without any of our CPUs");
    }
}
