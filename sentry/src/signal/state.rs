//! The part of a process that signals, stops and its end are decided by.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Actions, Pending, SigSet, Signal};
use crate::fs::signalfd::Bell;
use crate::sync::SpinLock;
use crate::task::Task;
use crate::task::trace::{Stopped, Tracing};

/// The one state machine for the end of a thread group: exit, exit_group, a fatal signal and exec
/// all go through it, under the process's signal lock.
///
/// `Alive` -> `Exec` -> `Alive`; from either to `Exiting`, which stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing.
    Alive,
    /// A task is in execve(2), and all others are to go. The task, by [`Task::key`].
    Exec(u64),
    /// All are to go; how the process ends, as wait(2) encodes it.
    Exiting(i32),
}

/// A stop of the whole group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupStop {
    /// The signal that stops the group, also while tasks are still on their way to the stop.
    pub signal: Option<Signal>,
    /// Tasks that have yet to stop.
    pub running: u32,
    /// The parent is to be told that the group went on (true: from a full stop).
    pub continued: Option<bool>,
}

impl GroupStop {
    /// Whether all have stopped.
    pub fn is_stopped(&self) -> bool {
        self.signal.is_some() && self.running == 0
    }
}

/// What `Process::signals` guards.
pub struct SignalState {
    /// Signals for whichever task takes them.
    pub pending: Pending,
    /// What is done with signals.
    pub actions: Arc<SpinLock<Actions>>,
    /// Whether the group is to end.
    pub end: End,
    /// Whether it is to stop.
    pub stop: GroupStop,
    /// Living tasks; the first is the leader while that lives.
    pub tasks: Vec<Arc<Task>>,
    /// Signalfds that tasks of the group wait for.
    pub bells: Vec<Weak<Bell>>,
    /// Init of a pid namespace: signals with the default action do nothing.
    pub unkillable: bool,
}

impl SignalState {
    /// A new group without tasks.
    pub fn new(actions: Arc<SpinLock<Actions>>) -> SignalState {
        SignalState {
            pending: Pending::default(),
            actions,
            end: End::Alive,
            stop: GroupStop::default(),
            tasks: Vec::new(),
            bells: Vec::new(),
            unkillable: false,
        }
    }

    /// Ends the group, unless it ends already. How it ends.
    pub fn begin_exit(&mut self, status: i32) -> i32 {
        if let End::Exiting(status) = self.end {
            return status;
        }
        self.end = End::Exiting(status);
        self.stop = GroupStop::default();
        for task in &self.tasks {
            task.notice();
        }
        status
    }

    /// Begins to stop the group by this signal.
    pub fn begin_stop(&mut self, signal: Signal) {
        if self.stop.signal.is_none() {
            self.stop.signal = Some(signal);
            self.stop.continued = None;
        }
        self.notify_tracers();
        for task in &self.tasks {
            let mut own = task.signals.lock();
            if !own.stopping && !own.stopped {
                own.stopping = true;
                self.stop.running = self.stop.running.saturating_add(1);
                drop(own);
                task.notice();
            }
        }
    }

    /// A stop begins, or SIGCONT comes: tracers of seized tasks are told by another stop.
    pub fn notify_tracers(&self) {
        for task in &self.tasks {
            let mut own = task.signals.lock();
            if let Some(trace) = own.trace.as_mut().filter(|t| t.seized) {
                trace.notify = true;
                drop(own);
                task.notice();
            }
        }
    }

    /// SIGCONT or SIGKILL: the stop, or the way to it, is over.
    pub fn end_stop(&mut self) {
        if self.stop.signal.is_none() {
            return;
        }
        let full = self.stop.is_stopped();
        self.stop = GroupStop { continued: Some(full), ..GroupStop::default() };
        for task in &self.tasks {
            {
                let mut own = task.signals.lock();
                own.stopping = false;
                own.stopped = false;
            }
            task.notice();
        }
    }

    /// A task reaches the stop, or leaves the group on the way to it. Whether the group is stopped now.
    pub fn one_stopped(&mut self) -> bool {
        self.stop.running = self.stop.running.saturating_sub(1);
        self.stop.is_stopped()
    }

    /// Removes signals from all queues of the group.
    pub fn flush(&mut self, gone: SigSet) {
        self.pending.remove(gone);
        for task in &self.tasks {
            task.signals.lock().pending.remove(gone);
        }
    }

    /// What `task` would have to look at: signals that it does not block, the end, a stop.
    pub fn wants(&self, task: &Task) -> bool {
        let own = task.signals.lock();
        let blocked = task.blocked();
        let ending = match self.end {
            End::Alive => false,
            End::Exec(by) => by != task.key,
            End::Exiting(_) => true,
        };
        ending
            || own.stopping
            || own.trace.as_ref().is_some_and(|t| t.wants())
            || self.stop.continued.is_some()
            || !own.pending.set().with(self.pending.set()).without(blocked).is_empty()
    }
}

/// What is pending for one task; guarded under its process's signal lock too.
#[derive(Default, Debug)]
pub struct TaskSignals {
    /// Signals for this task alone.
    pub pending: Pending,
    /// It is to take part in a group stop.
    pub stopping: bool,
    /// It is stopped.
    pub stopped: bool,
    /// Signals that rt_sigtimedwait(2) waits for: they wake it though they are blocked.
    pub awaited: SigSet,
    /// Somebody traces it.
    pub trace: Option<Box<Tracing>>,
    /// It is in a ptrace-stop.
    pub trap: Option<Box<Stopped>>,
}

impl Task {
    /// Signals that it blocks.
    pub fn blocked(&self) -> SigSet {
        SigSet(self.blocked.load(Ordering::Relaxed))
    }
}
