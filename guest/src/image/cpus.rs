//! The CPUs, and what ring 0 asks of the image.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ring0::fatal::Report;

use crate::{host, memory, panic};

/// CPUs that there may be.
static TOTAL: AtomicU32 = AtomicU32::new(1);
/// One bit for each that has been asked for.
static STARTED: AtomicU64 = AtomicU64::new(1);

/// Learns how many CPUs there may be.
pub fn init(total: u32) {
    TOTAL.store(total.clamp(1, guest::contract::MAX_VCPUS as u32), Ordering::Relaxed);
}

/// CPUs that applications see.
pub fn total() -> u32 {
    TOTAL.load(Ordering::Relaxed)
}

/// Starts the next CPU that does not run yet; `false` where there is none.
fn start_next() -> bool {
    let all = u64::MAX >> (64 - total());
    let Ok(before) = STARTED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |s| {
        let free = !s & all;
        (free != 0).then(|| s | free & free.wrapping_neg())
    }) else {
        return false;
    };
    let number = (!before & all).trailing_zeros();
    if !ring0::start_cpu(number) {
        host::log(sentry::platform::Level::Warning, format_args!("CPU {number} does not start"));
    }
    true
}

/// Starts all of them.
pub fn start_all() {
    while start_next() {}
}

/// What ring 0 asks of the image.
pub struct Host;

impl ring0::Hooks for Host {
    fn alloc_page(&self) -> Option<u64> {
        memory::alloc_page()
    }

    fn free_page(&self, page: u64) {
        memory::free_page(page);
    }

    fn host_interrupt(&self) {
        host::interrupt();
    }

    fn start_cpu(&self, cpu: u32, rip: u64, rsp: u64, rdi: u64, cr3: u64) -> bool {
        host::start_cpu(cpu, rip, rsp, rdi, cr3)
    }

    fn want_cpu(&self) {
        // Only once those asked for before have come up.
        if STARTED.load(Ordering::Relaxed) == ring0::percpu::online() {
            start_next();
        }
    }

    fn fatal(&self, report: &Report<'_>) -> ! {
        panic::fault(report)
    }

    fn give_up(&self) -> ! {
        host::early("the image cannot go on\n");
        host::exit_now(255)
    }
}
