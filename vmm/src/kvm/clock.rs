//! The clock page.
//!
//! The image's monotonic clock is kvmclock, which KVM keeps; this page adds what turns it into wall
//! time, and a TSC triple for images that are told to use the TSC. It is refreshed when the loop
//! wakes and a second has passed, so that an idle sandbox costs nothing; an image that wants wall time
//! and finds the page older than that rings the doorbell.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use guest::contract::ClockPage;
use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME};
use kvm_ioctls::VmFd;

use super::memory::{OutsideRam, Ram};

/// At most one refresh in this time, nanoseconds.
const PERIOD: u64 = 1_000_000_000;

/// The writer of the page.
#[derive(Debug)]
pub struct Clock {
    at: u64,
    sequence: u32,
    refreshed: Option<u64>,
}

impl Clock {
    /// For the page at this address.
    pub fn new(at: u64) -> Clock {
        Clock { at, sequence: 0, refreshed: None }
    }

    /// Refreshes the page if that is due.
    pub fn refresh(&mut self, vm: &VmFd, ram: &Ram) -> Result<(), OutsideRam> {
        let now = monotonic();
        if self.refreshed.is_some_and(|last| now.saturating_sub(last) < PERIOD) {
            return Ok(());
        }
        // Without an answer the page stays as it is: the next wake-up asks again.
        let Ok(clock) = vm.get_clock() else { return Ok(()) };
        let wall = if clock.flags & KVM_CLOCK_REALTIME != 0 {
            clock.realtime
        } else {
            host_clock(libc::CLOCK_REALTIME)
        };
        let tsc = if clock.flags & KVM_CLOCK_HOST_TSC != 0 { clock.host_tsc } else { rdtsc() };
        self.refreshed = Some(now);
        self.write(ram, wall.wrapping_sub(clock.clock).cast_signed(), tsc, clock.clock)
    }

    fn write(
        &mut self,
        ram: &Ram,
        realtime_offset: i64,
        tsc: u64,
        tsc_monotonic: u64,
    ) -> Result<(), OutsideRam> {
        let sequence = self.at + offset_of!(ClockPage, sequence) as u64;
        self.sequence = self.sequence.wrapping_add(1);
        ram.store(sequence, self.sequence)?;
        fence(Ordering::SeqCst);
        ram.put(self.at + offset_of!(ClockPage, realtime_offset) as u64, &realtime_offset)?;
        ram.put(self.at + offset_of!(ClockPage, tsc) as u64, &tsc)?;
        ram.put(self.at + offset_of!(ClockPage, tsc_monotonic) as u64, &tsc_monotonic)?;
        fence(Ordering::SeqCst);
        self.sequence = self.sequence.wrapping_add(1);
        ram.store(sequence, self.sequence)
    }
}

/// The host's monotonic clock, nanoseconds.
pub fn monotonic() -> u64 {
    host_clock(libc::CLOCK_MONOTONIC)
}

fn host_clock(id: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid, and the clock always exists.
    unsafe { libc::clock_gettime(id, &mut t) };
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

fn rdtsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and Linux allows it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use guest::contract::RAM_BASE;

    use super::*;

    #[test]
    fn the_sequence_is_even_when_the_page_is_whole() {
        let ram = Ram::new(1 << 20).unwrap();
        let mut clock = Clock::new(RAM_BASE);
        for n in 1..4u64 {
            clock.write(&ram, -5, n, 7).unwrap();
            let page: ClockPage = ram.get(RAM_BASE).unwrap();
            assert_eq!(u64::from(page.sequence), 2 * n);
            assert_eq!((page.realtime_offset, page.tsc, page.tsc_monotonic), (-5, n, 7));
        }
    }
}
