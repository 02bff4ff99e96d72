//! The ids of a container: which are in use, by whom, and in which groups and sessions.
//!
//! They are the numbers of the container's own pid namespace; those below it number them anew
//! ([`super::PidNamespace`]). Containers of a pod may share one: then the ids are of all of them, and each has a count of
//! its own tasks ([`TaskCount`]). The lock is also the process tree's: who is whose child, which zombies there are,
//! and who belongs to which group change under it alone.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashMap;

use super::{Pid, PidNamespace, Process, Task};
use crate::errno::Errno;
use crate::sync::{SpinGuard, SpinLock, WaitQueue};

/// The highest id is one less (kernel.pid_max's default on 64-bit machines with few CPUs is 32768;
/// systemd raises it to this, PID_MAX_LIMIT).
pub const PID_MAX: Pid = 1 << 22;
/// After the ids have wrapped around, the first ones are left to daemons (RESERVED_PIDS).
const RESERVED: Pid = 300;

/// The ids of a container, or of several.
pub struct Pids {
    table: SpinLock<PidTable>,
    /// Woken when a process is gone for good.
    pub emptied: WaitQueue,
}

impl Default for Pids {
    fn default() -> Self {
        Pids { table: SpinLock::new(PidTable::default()), emptied: WaitQueue::new() }
    }
}

/// How many tasks a container has, zombies too, and may have.
pub struct TaskCount {
    count: AtomicU32,
    limit: AtomicU32,
}

impl Default for TaskCount {
    fn default() -> Self {
        TaskCount { count: AtomicU32::new(0), limit: AtomicU32::new(PID_MAX) }
    }
}

impl TaskCount {
    /// Sets the most tasks that there may be (the container's pids limit).
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The most tasks that there may be.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Tasks now, zombies too.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// One more. `EAGAIN` at the limit.
    fn one_more(&self) -> Result<(), Errno> {
        let limit = self.limit();
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                n.checked_add(1).filter(|n| *n <= limit)
            })
            .map(drop)
            .map_err(|_| Errno::EAGAIN)
    }

    /// A task is gone for good.
    pub(super) fn one_gone(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the lock guards, with the links of its processes.
#[derive(Default)]
pub struct PidTable {
    slots: HashMap<Pid, Slot>,
    last: Pid,
    /// Its init ends: nothing new begins in it.
    closed: bool,
}

/// Who uses an id.
#[derive(Default)]
struct Slot {
    task: Option<Arc<Task>>,
    process: Option<Arc<Process>>,
    group: Vec<Arc<Process>>,
    /// Processes in the session with this id.
    session: u32,
    /// Taken, but not in use yet.
    reserved: bool,
    /// The innermost namespace that has a number for it; none where only the container's has.
    namespace: Option<Arc<PidNamespace>>,
}

impl Slot {
    fn is_free(&self) -> bool {
        !self.reserved
            && self.task.is_none()
            && self.process.is_none()
            && self.group.is_empty()
            && self.session == 0
    }
}

impl Pids {
    /// Locks the table and the process tree.
    pub fn lock(&self) -> SpinGuard<'_, PidTable> {
        self.table.lock()
    }

    /// The last id given.
    pub fn last(&self) -> Pid {
        self.lock().last
    }

    /// Takes an id for a new task, one of those that are counted there. `EAGAIN` at the limit.
    pub fn allocate(&self, tasks: &TaskCount) -> Result<Pid, Errno> {
        tasks.one_more()?;
        let mut table = self.lock();
        if let Some(pid) = next_free(table.last, |pid| table.slots.contains_key(&pid)) {
            table.last = pid;
            table.slots.insert(pid, Slot { reserved: true, ..Slot::default() });
            return Ok(pid);
        }
        tasks.one_gone();
        Err(Errno::EAGAIN)
    }

    /// Takes this very id (clone3(2) with set_tid). `EEXIST` where it is in use.
    pub fn allocate_exactly(&self, pid: Pid, tasks: &TaskCount) -> Result<Pid, Errno> {
        if pid == 0 || pid >= PID_MAX {
            return Err(Errno::EINVAL);
        }
        let mut table = self.lock();
        if table.slots.contains_key(&pid) {
            return Err(Errno::EEXIST);
        }
        tasks.one_more()?;
        table.slots.insert(pid, Slot { reserved: true, ..Slot::default() });
        Ok(pid)
    }

    /// Gives back an id whose task never came to be.
    pub fn give_up(&self, pid: Pid, tasks: &TaskCount) {
        let mut table = self.lock();
        if let Some(slot) = table.slots.get_mut(&pid) {
            slot.reserved = false;
        }
        table.tidy(pid);
        tasks.one_gone();
    }

    /// The living task with this id.
    pub fn task(&self, tid: Pid) -> Option<Arc<Task>> {
        self.lock().task(tid).cloned()
    }

    /// The process with this id, a zombie too.
    pub fn process(&self, pid: Pid) -> Option<Arc<Process>> {
        self.lock().process(pid).cloned()
    }

    /// All processes, zombies too, by id.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        let mut all: Vec<_> = self.lock().processes().cloned().collect();
        all.sort_unstable_by_key(|p| p.pid);
        all
    }
}

/// The free id after `last`, that comes in turn.
pub(super) fn next_free(last: Pid, taken: impl Fn(Pid) -> bool) -> Option<Pid> {
    let mut pid = last;
    for _ in 0..PID_MAX {
        pid = pid.wrapping_add(1);
        if pid >= PID_MAX {
            pid = RESERVED;
        }
        if !taken(pid) {
            return Some(pid);
        }
    }
    None
}

impl PidTable {
    /// The living task with this id.
    pub fn task(&self, tid: Pid) -> Option<&Arc<Task>> {
        self.slots.get(&tid)?.task.as_ref()
    }

    /// The process with this id, a zombie too.
    pub fn process(&self, pid: Pid) -> Option<&Arc<Process>> {
        self.slots.get(&pid)?.process.as_ref()
    }

    /// All processes, in no order.
    pub fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.slots.values().filter_map(|slot| slot.process.as_ref())
    }

    /// All living tasks, in no order.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.slots.values().filter_map(|slot| slot.task.as_ref())
    }

    /// The processes of a group.
    pub fn group(&self, group: Pid) -> &[Arc<Process>] {
        self.slots.get(&group).map_or(&[], |slot| &slot.group)
    }

    /// Lets nobody in any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether its init ends or has ended.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether anything has this id.
    pub fn is_taken(&self, id: Pid) -> bool {
        self.slots.contains_key(&id)
    }

    /// Whether a session or group has this id.
    pub fn is_session(&self, id: Pid) -> bool {
        self.slots.get(&id).is_some_and(|slot| slot.session > 0)
    }

    /// A reserved id has numbers in this namespace and those above it.
    pub(super) fn set_namespace(&mut self, id: Pid, ns: &Arc<PidNamespace>) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.namespace = Some(ns.clone());
        }
    }

    pub(super) fn insert_task(&mut self, tid: Pid, task: &Arc<Task>) {
        let slot = self.slots.entry(tid).or_default();
        slot.reserved = false;
        slot.task = Some(task.clone());
    }

    pub(super) fn insert_process(&mut self, process: &Arc<Process>) {
        let slot = self.slots.entry(process.pid).or_default();
        slot.reserved = false;
        slot.process = Some(process.clone());
        self.join(process, process.group(), process.session());
    }

    pub(super) fn remove_task(&mut self, tid: Pid) {
        if let Some(slot) = self.slots.get_mut(&tid) {
            slot.task = None;
        }
        self.tidy(tid);
    }

    /// A task has ended, but its id stays taken until [`release`](Self::release).
    pub(super) fn retire(&mut self, tid: Pid) {
        if let Some(slot) = self.slots.get_mut(&tid) {
            slot.task = None;
            slot.reserved = true;
        }
    }

    /// The id of a retired task is free.
    pub(super) fn release(&mut self, tid: Pid) {
        if let Some(slot) = self.slots.get_mut(&tid) {
            slot.reserved = false;
        }
        self.tidy(tid);
    }

    pub(super) fn remove_process(&mut self, process: &Arc<Process>) {
        self.leave(process);
        if let Some(slot) = self.slots.get_mut(&process.pid) {
            slot.process = None;
            slot.task = None;
        }
        self.tidy(process.pid);
    }

    /// Moves a process to another group and session.
    pub fn move_to(&mut self, process: &Arc<Process>, group: Pid, session: Pid) {
        self.leave(process);
        process.set_group(group, session);
        self.join(process, group, session);
    }

    fn join(&mut self, process: &Arc<Process>, group: Pid, session: Pid) {
        self.slots.entry(group).or_default().group.push(process.clone());
        let slot = self.slots.entry(session).or_default();
        slot.session = slot.session.saturating_add(1);
    }

    fn leave(&mut self, process: &Arc<Process>) {
        let (group, session) = (process.group(), process.session());
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.group.retain(|p| !Arc::ptr_eq(p, process));
        }
        if let Some(slot) = self.slots.get_mut(&session) {
            slot.session = slot.session.saturating_sub(1);
        }
        self.tidy(group);
        self.tidy(session);
    }

    fn tidy(&mut self, id: Pid) {
        if self.slots.get(&id).is_some_and(Slot::is_free)
            && let Some(Slot { namespace: Some(ns), .. }) = self.slots.remove(&id)
        {
            ns.forget(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_and_come_back() {
        crate::platform::fake::install();
        let (ns, tasks) = (Pids::default(), TaskCount::default());
        tasks.set_limit(2);
        assert_eq!(ns.allocate(&tasks), Ok(1));
        assert_eq!(ns.allocate(&tasks), Ok(2));
        assert_eq!(ns.allocate(&tasks), Err(Errno::EAGAIN));
        assert_eq!(ns.allocate_exactly(7, &tasks), Err(Errno::EAGAIN));
        ns.give_up(1, &tasks);
        assert_eq!(ns.allocate(&tasks), Ok(3));
        ns.lock().last = PID_MAX - 1;
        ns.give_up(2, &tasks);
        assert_eq!(ns.allocate(&tasks), Ok(RESERVED));
    }

    #[test]
    fn whoever_shares_ids_has_a_limit_of_its_own() {
        crate::platform::fake::install();
        let (ns, one, two) = (Pids::default(), TaskCount::default(), TaskCount::default());
        one.set_limit(1);
        assert_eq!(ns.allocate(&one), Ok(1));
        assert_eq!(ns.allocate(&one), Err(Errno::EAGAIN));
        assert_eq!(ns.allocate(&two), Ok(2));
        assert_eq!(ns.allocate_exactly(1, &two), Err(Errno::EEXIST));
        assert_eq!((one.count(), two.count()), (1, 1));
    }
}
