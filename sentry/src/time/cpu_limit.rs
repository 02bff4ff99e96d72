//! RLIMIT_CPU: who computes for longer than that is told, and is ended (check_process_timers()).

use alloc::sync::{Arc, Weak};

use super::SECOND;
use super::clock::{soonest, sum};
use super::queue::{self, Expire, Queued};
use crate::platform::platform;
use crate::signal::{Origin, SigInfo, Signal, send_process};
use crate::sync::SpinLock;
use crate::task::Process;
use crate::task::limit::{INFINITY, RLIMIT_CPU, Rlimit};

/// How often, at most, the time of a process is looked at, nanoseconds. The limit is in seconds.
const CHECK: u64 = 20_000_000;

/// Looks at a process's time when its limit may have been reached.
pub struct CpuLimit {
    process: Weak<Process>,
    queued: SpinLock<Option<Queued>>,
}

impl CpuLimit {
    /// A process has been made with a limit, or has another one now.
    pub fn watch(process: &Arc<Process>) {
        if process.limits.soft(RLIMIT_CPU) == INFINITY {
            return;
        }
        let mut slot = process.timers.cpu_limit.lock();
        let watch = slot.get_or_insert_with(|| {
            let process = Arc::downgrade(process);
            Arc::new(CpuLimit { process, queued: SpinLock::new(None) })
        });
        watch.enqueue(process);
    }

    /// Queues it for when the limit will, at the earliest, be reached.
    fn enqueue(self: &Arc<Self>, process: &Process) {
        let Ok(Rlimit { soft, hard }) = process.limits.get(RLIMIT_CPU) else { return };
        let left = soft.min(hard).saturating_mul(SECOND).saturating_sub(sum(process.usage().cpu));
        let wait = soonest(left).max(CHECK);
        let weak: Weak<dyn Expire> = Arc::downgrade(self) as Weak<dyn Expire>;
        let mut queued = self.queued.lock();
        self.forget(&mut queued);
        // Where the machine gives no thread to wait, the limit is looked at when the next one is set.
        *queued = queue::add(platform().monotonic().saturating_add(wait), weak).ok();
    }

    fn forget(&self, queued: &mut Option<Queued>) {
        if let Some(queued) = queued.take() {
            queue::remove(queued);
        }
    }

    /// The process ends.
    pub(super) fn disarm(&self) {
        self.forget(&mut self.queued.lock());
    }
}

impl Expire for CpuLimit {
    fn expire(self: Arc<Self>) {
        *self.queued.lock() = None;
        let Some(process) = self.process.upgrade() else { return };
        let Ok(limit) = process.limits.get(RLIMIT_CPU) else { return };
        let used = sum(process.usage().cpu);
        let reached = |seconds: u64| seconds != INFINITY && used >= seconds.saturating_mul(SECOND);
        let tell = |signal| {
            let _full = send_process(&process, SigInfo::kernel(signal), Origin::Outside);
        };
        if reached(limit.hard) {
            return tell(Signal::SIGKILL);
        }
        if reached(limit.soft) {
            tell(Signal::SIGXCPU);
            // It is told once a second from now on.
            let next = Rlimit { soft: limit.soft.saturating_add(1), hard: limit.hard };
            process.limits.replace(RLIMIT_CPU, limit, next);
        }
        if process.limits.soft(RLIMIT_CPU) != INFINITY {
            self.enqueue(&process);
        }
    }
}
