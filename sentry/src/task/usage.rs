//! Resources used (getrusage(2), times(2)).

use crate::platform::CpuTime;

/// Resources that have been used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuTime,
    /// The most memory that was resident, KiB.
    pub max_rss: u64,
    /// Page faults.
    pub faults: u64,
    /// Times that a task waited.
    pub waits: u64,
}

impl Usage {
    /// Both together.
    pub fn add(&mut self, other: &Usage) {
        self.cpu.add(other.cpu);
        self.max_rss = self.max_rss.max(other.max_rss);
        self.faults = self.faults.saturating_add(other.faults);
        self.waits = self.waits.saturating_add(other.waits);
    }

    /// As `struct rusage` (144 bytes).
    pub fn to_bytes(&self) -> [u8; 144] {
        let mut words = [0u64; 18];
        let mut set = |n: usize, value: u64| {
            if let Some(word) = words.get_mut(n) {
                *word = value;
            }
        };
        set(0, self.cpu.user_ns / 1_000_000_000);
        set(1, self.cpu.user_ns % 1_000_000_000 / 1000);
        set(2, self.cpu.system_ns / 1_000_000_000);
        set(3, self.cpu.system_ns % 1_000_000_000 / 1000);
        set(4, self.max_rss);
        set(8, self.faults);
        set(16, self.waits);
        let mut bytes = [0; 144];
        for (to, from) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        bytes
    }

    /// User and system time in clock ticks (USER_HZ, 1/100 s).
    pub fn ticks(&self) -> (u64, u64) {
        (self.cpu.user_ns / 10_000_000, self.cpu.system_ns / 10_000_000)
    }
}
