//! The OOM killer: when a container's memory is spent, one of its processes makes room; and one of any container's where
//! what is spent is the memory of all that share the sandbox.
//!
//! A frame that cannot be had comes up as an error to where no lock is held: the resolution of a page fault of
//! the application's or of a copy to it, or the end of a system call. There [`OomHandler::make_room`] picks a process
//! as Linux's mm/oom_kill.c does, ends it, and waits until its memory is back; then all goes on.

use alloc::sync::{Arc, Weak};
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Current, Process, ThreadWaker};
use crate::errno::Errno;
use crate::kernel::Container;
use crate::mm::{Mm, OomHandler};
use crate::platform::{FrameCounts, Level, platform};
use crate::signal::{End, Signal};
use crate::sync::SpinLock;

/// Frames that are room enough to go on with. A fork that found none has given back what it had taken by then (some 100:
/// what the platform charges for it, and pages copied ahead): with less than that there was not enough. A call that
/// finds too little all the same wants twice as much, and so on.
const ENOUGH: u64 = 256;
/// How often that doubles at most: to 1 TiB.
const DOUBLED: u32 = 20;
/// How long a victim may take to end before another is picked, nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// Of a container, and of all: who is being killed for its memory.
#[derive(Default)]
pub struct OomKiller {
    victim: SpinLock<Option<Weak<Process>>>,
    /// How often one was killed.
    pub kills: AtomicU64,
}

impl OomKiller {
    /// Who is being killed, and has not ended yet.
    fn victim(&self) -> Option<Arc<Process>> {
        living(&self.victim.lock())
    }

    /// Who is being killed: this one, unless another CPU has picked one meanwhile.
    fn or_victim(&self, chosen: Arc<Process>) -> Arc<Process> {
        let mut slot = self.victim.lock();
        living(&slot).unwrap_or_else(|| {
            *slot = Some(Arc::downgrade(&chosen));
            chosen
        })
    }
}

fn living(slot: &Option<Weak<Process>>) -> Option<Arc<Process>> {
    slot.as_ref().and_then(Weak::upgrade).filter(|process| !process.is_zombie())
}

/// Points of a process, in frames: its size and how gladly it is killed. `None`: never.
///
/// oom_badness() of mm/oom_kill.c: resident pages plus a thousandth of all memory for each point of
/// oom_score_adj.
fn badness(process: &Process, mm: &Mm) -> Option<i64> {
    let adj = process.oom_score_adj.load(Ordering::Relaxed);
    if adj <= -1000 {
        return None;
    }
    let all = memory_of_all(process);
    let resident = i64::try_from(mm.usage().resident).unwrap_or(i64::MAX);
    let thousandth = i64::try_from(all / 1000).unwrap_or(i64::MAX);
    Some(resident.saturating_add(thousandth.saturating_mul(adj.into())))
}

/// /proc/PID/oom_score: as proc_oom_score() of fs/proc/base.c, 0 to 2000.
pub fn score(process: &Process) -> u64 {
    let Some(mm) = memory_of(process) else { return 0 };
    let Some(points) = badness(process, &mm) else { return 0 };
    let all = i64::try_from(memory_of_all(process)).unwrap_or(i64::MAX).max(1);
    let score = (points.saturating_mul(1000) / all).saturating_add(1000).saturating_mul(2) / 3;
    score.max(0).cast_unsigned()
}

fn memory_of(process: &Process) -> Option<Arc<Mm>> {
    process.first_task().and_then(|task| task.shared.lock().mm.clone())
}

/// The most memory that a process's container can have, in frames.
fn memory_of_all(process: &Process) -> u64 {
    platform().frame_counts(process.container.account()).most
}

/// Of these processes the one that has most to give. One that ends already is waited for instead of killing another.
fn choose(processes: impl IntoIterator<Item = Arc<Process>>) -> Option<Arc<Process>> {
    let mut worst: Option<(i64, Arc<Process>)> = None;
    for process in processes {
        if process.is_zombie() {
            continue;
        }
        let Some(mm) = memory_of(&process) else { continue };
        if process.is_ending() {
            return Some(process);
        }
        let Some(points) = badness(&process, &mm) else { continue };
        if worst.as_ref().is_none_or(|(most, _)| points > *most) {
            worst = Some((points, process));
        }
    }
    worst.map(|(_, process)| process)
}

/// Ends a process and whoever shares its memory: without them it would not come back.
fn kill(victim: &Arc<Process>) {
    let container = &victim.container;
    let mm = memory_of(victim);
    let shares = |process: &Process| match (&mm, memory_of(process)) {
        (Some(mm), Some(other)) => Arc::ptr_eq(mm, &other),
        _ => false,
    };
    // Whoever comes second to the same victim finds that it ends.
    let status = i32::from(Signal::SIGKILL.number());
    let first = {
        let mut signals = victim.signals.lock();
        let first = !matches!(signals.end, End::Exiting(_));
        // The end itself and no signal: an init dies by it too.
        signals.begin_exit(status);
        first
    };
    if first {
        let mut name = alloc::string::String::new();
        let comm = victim.first_task().map(|task| *task.name.lock()).unwrap_or_default();
        let _ = write!(name, "{}", comm.as_bytes().escape_ascii());
        let usage = mm.as_ref().map(|mm| mm.usage()).unwrap_or_default();
        platform().log(
            Level::Warning,
            format_args!(
                "container {}: out of memory: killed process {} ({name}) total-vm:{}kB rss:{}kB oom_score_adj:{}",
                container.id,
                victim.pid,
                usage.size.saturating_mul(4),
                usage.resident.saturating_mul(4),
                victim.oom_score_adj.load(Ordering::Relaxed)
            ),
        );
        container.count_oom_kill();
    }
    for process in container.processes() {
        if shares(&process) {
            process.signals.lock().begin_exit(status);
        }
    }
}

/// Of a task: the last of its calls that found no memory.
#[derive(Clone, Copy, Default, Debug)]
pub struct Short {
    /// How often frames had been refused to anybody by then.
    refused: u64,
    /// Which of the task's calls it was, counted.
    call: u64,
    /// How often it was made again before that.
    tries: u32,
}

impl OomHandler for Container {
    fn make_room(&self) -> Result<(), Errno> {
        self.make_room_of(ENOUGH)
    }
}

impl Container {
    /// Waits until so many frames are free, or one who was ended for them has none any more.
    fn make_room_of(&self, enough: u64) -> Result<(), Errno> {
        let FrameCounts { free, free_for_all, .. } = platform().frame_counts(self.account());
        if free >= enough {
            return Ok(());
        }
        // Its own limit is what it has come to, or else that of all.
        let killer = if free < free_for_all { &self.oom } else { &self.kernel.oom };
        let victim = match killer.victim() {
            Some(victim) => victim,
            None => {
                let chosen = if free < free_for_all {
                    choose(self.processes())
                } else {
                    choose(self.kernel.containers().iter().flat_map(|c| c.processes()))
                        // A container that is being made is not there yet.
                        .or_else(|| choose(self.processes()))
                };
                killer.or_victim(chosen.ok_or(Errno::ENOMEM)?)
            }
        };
        kill(&victim);
        self.await_room(killer, &victim, enough)
    }
}

impl Process {
    /// Who makes room for its memory.
    pub(super) fn oom_handler(&self) -> Weak<dyn OomHandler> {
        let weak: Weak<Container> = Arc::downgrade(&self.container);
        weak
    }
}

impl Container {
    /// Waits for a victim's memory. `ENOMEM` where the caller is about to end itself.
    fn await_room(
        &self,
        killer: &OomKiller,
        victim: &Arc<Process>,
        enough: u64,
    ) -> Result<(), Errno> {
        let free = || platform().frame_counts(self.account()).free;
        let thread = platform().current();
        let caller = self
            .pids
            .lock()
            .tasks()
            .find(|task| task.thread.load(Ordering::SeqCst) == thread.0)
            .cloned();
        let deadline = platform().monotonic().saturating_add(PATIENCE);
        let token = victim.ended.enter(u32::MAX, false, Arc::new(ThreadWaker(thread)));
        let result = loop {
            if caller.as_ref().is_some_and(|task| task.process.is_ending()) {
                break Err(Errno::ENOMEM);
            }
            if victim.is_zombie() || free() >= enough {
                break Ok(());
            }
            if platform().monotonic() >= deadline {
                // It does not end: another must.
                killer.victim.lock().take();
                break Ok(());
            }
            platform().park(Some(deadline));
        };
        victim.ended.leave(token);
        result
    }
}

/// Whether a system call failed with `ENOMEM` for want of frames, so that it is to be made again now that
/// there is room.
///
/// It did where some were refused since the last such call of the task. That there are enough of them by now says
/// nothing: they may be those that the call itself has given back, or another's who has ended meanwhile.
pub fn retry_call(cx: &mut Current) -> bool {
    let refused = platform().frame_counts(cx.task.process.container.account()).refused;
    let call = cx.task.syscalls.load(Ordering::Relaxed);
    let last = core::mem::replace(&mut cx.short, Short { refused, call, tries: 0 });
    if refused == last.refused {
        return false;
    }
    if call == last.call.wrapping_add(1) {
        cx.short.tries = last.tries.saturating_add(1);
    }
    let enough = ENOUGH << cx.short.tries.min(DOUBLED);
    cx.task.process.container.make_room_of(enough).is_ok()
}
