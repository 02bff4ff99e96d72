//! Semaphore sets: semget(2), semop(2), semctl(2).
//!
//! A set has one lock and one queue. Whoever changes a value wakes all who wait for the set; each
//! tries its operations again as a whole, so an operation happens entirely or not at all.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{Object, Perm, Table, flag, seconds};
use crate::errno::Errno;
use crate::sync::{Mutex, WaitQueue};
use crate::task::{Blocked, Creds, Current, Pid, UserNamespace};

/// Sets in a namespace (SEMMNI).
pub const SETS: usize = 32_000;
/// Semaphores in a set (SEMMSL).
pub const PER_SET: usize = 32_000;
/// Semaphores in a namespace (SEMMNS). Linux's default is a thousand times as many, more than anybody
/// should be able to allocate.
pub const ALL: usize = 1_024_000;
/// Operations in one call (SEMOPM).
pub const OPERATIONS: usize = 500;
/// The highest value (SEMVMX), and the most that an end takes back (SEMAEM).
pub const MAX_VALUE: i32 = 32_767;
/// Adjustments that a set keeps for the ends of processes.
const ADJUSTMENTS: usize = 32_000;
/// The sets of a namespace.
#[derive(Default)]
pub struct Semaphores {
    /// Whose capabilities count for the namespace.
    pub(super) owner: UserNamespace,
    table: Mutex<Inner>,
    /// Sets, so that the end of a process looks at nothing where there are none.
    count: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    sets: Table<SemSet>,
    semaphores: usize,
}

/// One set.
pub struct SemSet {
    /// Its id.
    pub id: i32,
    /// Semaphores in it.
    pub len: usize,
    state: Mutex<State>,
    queue: WaitQueue,
}

struct State {
    perm: Perm,
    values: Vec<Value>,
    /// When it was last operated upon, and last changed, seconds.
    operated: u64,
    changed: u64,
    removed: bool,
    /// What a process's end adds to a semaphore.
    adjustments: BTreeMap<(Pid, u16), i32>,
    /// Who waits for which semaphore: to become zero, or to grow.
    waiting: Vec<(u16, bool)>,
}

#[derive(Clone, Copy, Default)]
struct Value {
    value: i32,
    /// The last process that operated on it.
    pid: Pid,
}

/// One operation (struct sembuf).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are Linux's
pub struct Operation {
    pub num: u16,
    pub op: i16,
    pub flags: u16,
}

/// SEM_UNDO.
pub const UNDO: u16 = 0x1000;

/// What IPC_STAT tells of a set.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the names are Linux's
pub struct Stat {
    pub perm: Perm,
    pub otime: u64,
    pub ctime: u64,
    pub nsems: usize,
}

impl Object for SemSet {
    fn id(&self) -> i32 {
        self.id
    }
    fn perm(&self) -> Perm {
        self.state.lock().perm.clone()
    }
}

impl Semaphores {
    /// semget(2).
    pub fn get(&self, creds: &Creds, key: i32, len: i32, flags: u32) -> Result<i32, Errno> {
        let len = usize::try_from(len).ok().filter(|n| *n <= PER_SET).ok_or(Errno::EINVAL)?;
        let mut table = self.table.lock();
        let suits = |set: &SemSet| if len > set.len { Err(Errno::EINVAL) } else { Ok(()) };
        if let Some(id) = table.sets.get(creds, key, flags, suits)? {
            return Ok(id);
        }
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let all = table.semaphores.saturating_add(len);
        if all > ALL {
            return Err(Errno::ENOSPC);
        }
        let state = State {
            perm: Perm::new(key, creds, flags, &self.owner),
            values: vec![Value::default(); len],
            operated: 0,
            changed: seconds(),
            removed: false,
            adjustments: BTreeMap::new(),
            waiting: Vec::new(),
        };
        let set = |id| SemSet { id, len, state: Mutex::new(state), queue: WaitQueue::new() };
        let id = table.sets.add(SETS, set)?;
        table.semaphores = all;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    /// The set with this id. `EINVAL` where there is none, or none any more.
    pub fn find(&self, id: i32) -> Result<Arc<SemSet>, Errno> {
        self.table.lock().sets.find(id)
    }

    /// The set at this place.
    pub fn at(&self, place: u32) -> Result<Arc<SemSet>, Errno> {
        self.table.lock().sets.at(place)
    }

    /// Sets, semaphores, and the highest place in use (0 where none is).
    pub fn usage(&self) -> (usize, usize, u32) {
        let table = self.table.lock();
        (table.sets.len(), table.semaphores, table.sets.highest())
    }

    /// All sets.
    pub fn all(&self) -> Vec<Arc<SemSet>> {
        self.table.lock().sets.all()
    }

    /// IPC_RMID: whoever waits gets `EIDRM`.
    pub fn remove(&self, creds: &Creds, id: i32) -> Result<(), Errno> {
        let mut table = self.table.lock();
        let set = table.sets.find(id)?;
        {
            let mut state = set.state.lock();
            state.perm.check_owner(creds)?;
            state.removed = true;
        }
        table.sets.remove(id)?;
        table.semaphores = table.semaphores.saturating_sub(set.len);
        self.count.fetch_sub(1, Ordering::Relaxed);
        drop(table);
        set.queue.wake_all();
        Ok(())
    }

    /// A process has ended: what it did with SEM_UNDO is taken back.
    pub fn process_ended(&self, pid: Pid) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for set in self.all() {
            set.undo(pid);
        }
    }
}

impl SemSet {
    /// Calls `f` with the state, unless the set has been removed.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.state.lock();
        if state.removed { Err(Errno::EIDRM) } else { f(&mut state) }
    }

    /// semtimedop(2) until `deadline` of the monotonic clock. Operations are at most [`OPERATIONS`].
    pub fn operate(
        &self,
        cx: &Current,
        operations: &[Operation],
        deadline: Option<u64>,
    ) -> Result<(), Errno> {
        if operations.iter().any(|op| usize::from(op.num) >= self.len) {
            return Err(Errno::EFBIG);
        }
        let alters = operations.iter().any(|op| op.op != 0);
        let want = if alters { 0o222 } else { 0o444 };
        let pid = cx.task.process.pid;
        self.with(|state| state.perm.check(&cx.creds, want))?;
        // The semaphore that this caller is counted for as waiting.
        let mut counted: Option<(u16, bool)> = None;
        let result = cx.wait_for(&self.queue, u32::MAX, deadline, || {
            let mut state = self.state.lock();
            if let Some(entry) = counted.take()
                && let Some(at) = state.waiting.iter().position(|other| *other == entry)
            {
                state.waiting.swap_remove(at);
            }
            if state.removed {
                return Some(Err(Errno::EIDRM));
            }
            match state.attempt(operations, pid) {
                Ok(()) => Some(Ok(())),
                Err(Obstacle::Wrong(e)) => Some(Err(e)),
                Err(Obstacle::At(op)) if u32::from(op.flags) & flag::NOWAIT != 0 => {
                    Some(Err(Errno::EAGAIN))
                }
                Err(Obstacle::At(op)) => {
                    let entry = (op.num, op.op == 0);
                    state.waiting.push(entry);
                    counted = Some(entry);
                    None
                }
            }
        });
        if let Some(entry) = counted {
            let mut state = self.state.lock();
            if let Some(at) = state.waiting.iter().position(|other| *other == entry) {
                state.waiting.swap_remove(at);
            }
        }
        match result {
            Ok(Ok(())) => {
                if alters {
                    self.queue.wake_all();
                }
                Ok(())
            }
            Ok(Err(e)) => Err(e),
            // Never restarted (signal(7)).
            Err(Blocked::Interrupted) => Err(Errno::EINTR),
            Err(Blocked::TimedOut) => Err(Errno::EAGAIN),
        }
    }

    fn undo(&self, pid: Pid) {
        let mut state = self.state.lock();
        let mine: Vec<(u16, i32)> = state
            .adjustments
            .range((pid, 0)..=(pid, u16::MAX))
            .map(|((_, num), by)| (*num, *by))
            .collect();
        if mine.is_empty() {
            return;
        }
        for (num, by) in mine {
            state.adjustments.remove(&(pid, num));
            if let Some(value) = state.values.get_mut(usize::from(num)) {
                value.value = value.value.saturating_add(by).clamp(0, MAX_VALUE);
                value.pid = pid;
            }
        }
        state.operated = seconds();
        drop(state);
        self.queue.wake_all();
    }

    /// IPC_STAT; `checked`: only for who may read the set.
    pub fn stat(&self, creds: &Creds, checked: bool) -> Result<Stat, Errno> {
        self.with(|state| {
            if checked {
                state.perm.check(creds, 0o444)?;
            }
            Ok(Stat {
                perm: state.perm.clone(),
                otime: state.operated,
                ctime: state.changed,
                nsems: self.len,
            })
        })
    }

    /// IPC_SET.
    pub fn set_perm(&self, creds: &Creds, uid: u32, gid: u32, mode: u32) -> Result<(), Errno> {
        self.with(|state| {
            state.perm.check_owner(creds)?;
            (state.perm.uid, state.perm.gid) = (uid, gid);
            state.perm.mode = mode & 0o777;
            state.changed = seconds();
            Ok(())
        })
    }

    /// GETVAL and GETPID of one semaphore: value and last process.
    pub fn value(&self, creds: &Creds, num: i32) -> Result<(i32, Pid), Errno> {
        let at = self.index(num)?;
        self.with(|state| {
            state.perm.check(creds, 0o444)?;
            state.values.get(at).map(|v| (v.value, v.pid)).ok_or(Errno::EINVAL)
        })
    }

    /// GETNCNT and GETZCNT: how many wait for one semaphore to grow, and to become zero.
    pub fn waiting(&self, creds: &Creds, num: i32, zero: bool) -> Result<usize, Errno> {
        let at = self.index(num)?;
        self.with(|state| {
            state.perm.check(creds, 0o444)?;
            let here = |entry: &&(u16, bool)| usize::from(entry.0) == at && entry.1 == zero;
            Ok(state.waiting.iter().filter(here).count())
        })
    }

    /// GETALL.
    pub fn values(&self, creds: &Creds) -> Result<Vec<i32>, Errno> {
        self.with(|state| {
            state.perm.check(creds, 0o444)?;
            Ok(state.values.iter().map(|v| v.value).collect())
        })
    }

    /// SETVAL and SETALL: new values from semaphore `first` on.
    pub fn set_values(
        &self,
        creds: &Creds,
        pid: Pid,
        first: i32,
        values: &[i32],
    ) -> Result<(), Errno> {
        let at = self.index(first)?;
        if values.iter().any(|value| !(0..=MAX_VALUE).contains(value)) {
            return Err(Errno::ERANGE);
        }
        self.with(|state| {
            state.perm.check(creds, 0o222)?;
            let places = state.values.iter_mut().skip(at);
            for (place, value) in places.zip(values) {
                *place = Value { value: *value, pid };
            }
            let changed = at..at.saturating_add(values.len());
            state.adjustments.retain(|(_, num), _| !changed.contains(&usize::from(*num)));
            state.changed = seconds();
            Ok(())
        })?;
        self.queue.wake_all();
        Ok(())
    }

    fn index(&self, num: i32) -> Result<usize, Errno> {
        usize::try_from(num).ok().filter(|n| *n < self.len).ok_or(Errno::EINVAL)
    }
}

/// Why operations were not done.
enum Obstacle {
    /// This one would have to wait.
    At(Operation),
    Wrong(Errno),
}

impl State {
    /// Does all operations, in order, or none.
    fn attempt(&mut self, operations: &[Operation], pid: Pid) -> Result<(), Obstacle> {
        let mut before: Vec<(usize, i32)> = Vec::with_capacity(operations.len());
        let mut undone: BTreeMap<u16, i32> = BTreeMap::new();
        let mut result = Ok(());
        for op in operations {
            let at = usize::from(op.num);
            let Some(place) = self.values.get_mut(at) else { continue };
            let new = place.value.saturating_add(op.op.into());
            if new < 0 || (op.op == 0 && place.value != 0) {
                result = Err(Obstacle::At(*op));
                break;
            }
            if new > MAX_VALUE {
                result = Err(Obstacle::Wrong(Errno::ERANGE));
                break;
            }
            if op.flags & UNDO != 0 {
                let old = self.adjustments.get(&(pid, op.num)).copied().unwrap_or(0);
                let by = undone.entry(op.num).or_insert(old);
                *by = by.saturating_sub(op.op.into());
                if !(-MAX_VALUE - 1..=MAX_VALUE).contains(by) {
                    result = Err(Obstacle::Wrong(Errno::ERANGE));
                    break;
                }
            }
            before.push((at, place.value));
            place.value = new;
        }
        if result.is_ok()
            && self.adjustments.len().saturating_add(undone.len()) > ADJUSTMENTS
            && !undone.is_empty()
        {
            result = Err(Obstacle::Wrong(Errno::ENOMEM));
        }
        if result.is_err() {
            for (at, value) in before.into_iter().rev() {
                if let Some(place) = self.values.get_mut(at) {
                    place.value = value;
                }
            }
            return result;
        }
        for (at, _) in before {
            if let Some(place) = self.values.get_mut(at) {
                place.pid = pid;
            }
        }
        for (num, by) in undone {
            match by {
                0 => drop(self.adjustments.remove(&(pid, num))),
                by => drop(self.adjustments.insert((pid, num), by)),
            }
        }
        self.operated = seconds();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(values: &[i32]) -> State {
        State {
            perm: Perm::new(1, &Creds::default(), 0o600, &UserNamespace::INITIAL),
            values: values.iter().map(|value| Value { value: *value, pid: 0 }).collect(),
            operated: 0,
            changed: 0,
            removed: false,
            adjustments: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn op(num: u16, op: i16, flags: u16) -> Operation {
        Operation { num, op, flags }
    }

    fn values(state: &State) -> Vec<i32> {
        state.values.iter().map(|v| v.value).collect()
    }

    #[test]
    fn operations_happen_entirely_or_not_at_all() {
        crate::platform::fake::install();
        let mut s = state(&[1, 0]);
        let blocked = s.attempt(&[op(0, -1, UNDO), op(1, -1, 0)], 5);
        assert!(matches!(blocked, Err(Obstacle::At(o)) if o == op(1, -1, 0)));
        assert_eq!(values(&s), [1, 0]);
        assert!(s.adjustments.is_empty());
        let wrong = s.attempt(&[op(1, 3, 0), op(0, i16::MAX, 0)], 5);
        assert!(matches!(wrong, Err(Obstacle::Wrong(Errno::ERANGE))));
        assert_eq!(values(&s), [1, 0]);
        assert!(s.attempt(&[op(0, -1, UNDO), op(0, 0, 0), op(1, 2, 0)], 5).is_ok());
        assert_eq!(values(&s), [0, 2]);
        assert_eq!(s.adjustments.get(&(5, 0)), Some(&1));
        assert!(s.attempt(&[op(0, 1, UNDO)], 5).is_ok());
        assert!(s.adjustments.is_empty());
    }

    #[test]
    fn permissions_are_the_owners_the_groups_or_everybodys() {
        let perm = Perm {
            key: 1,
            uid: 5,
            gid: 6,
            cuid: 5,
            cgid: 6,
            mode: 0o640,
            owner: UserNamespace::INITIAL,
        };
        let who = |euid, egid| Creds { euid, egid, fsgid: egid, ..Creds::default() };
        assert_eq!(perm.check(&who(5, 9), 0o222), Ok(()));
        assert_eq!(perm.check(&who(7, 6), 0o444), Ok(()));
        assert_eq!(perm.check(&who(7, 6), 0o222), Err(Errno::EACCES));
        assert_eq!(perm.check(&who(7, 9), 0o444), Err(Errno::EACCES));
        assert_eq!(perm.check_owner(&who(7, 6)), Err(Errno::EPERM));
    }
}
