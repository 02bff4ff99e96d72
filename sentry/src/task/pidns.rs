//! Pid namespaces (pid_namespaces(7)): the numbers by which processes go for those who see them.
//!
//! Inside the sentry a task, a group and a session have one id, that of the container's [`Pids`], which is also
//! the number that the container's own pid namespace gives them. A namespace below that one is no more than two
//! maps between ids and its numbers, kept by what has an id: the numbers are there as long as the id is taken.
//! So everything in the sentry keeps, compares and finds ids; a number is made of an id where it goes to an
//! application ([`PidNamespace::nr`]), and an id of a number where it comes from one
//! ([`PidNamespace::id_of`]). In the container's own namespace both are the identity and cost one comparison.

use alloc::sync::Arc;

use hashbrown::HashMap;

use super::{NamespaceId, Pid, Pids, Process, Task, TaskCount, UserNamespace};
use crate::errno::Errno;
use crate::sync::SpinLock;

/// How deep they nest below the container's (MAX_PID_NS_LEVEL).
const MAX_LEVEL: u32 = 32;

/// A pid namespace.
pub struct PidNamespace {
    /// The inode number of its file.
    pub id: NamespaceId,
    /// Whose capabilities count for it.
    pub owner: UserNamespace,
    /// 0: the container's own.
    level: u32,
    /// The one in which it was made.
    parent: Option<Arc<PidNamespace>>,
    /// Where the ids are.
    pids: Arc<Pids>,
    /// Taken after the lock of `pids`, or without it. Empty at level 0.
    numbers: SpinLock<Numbers>,
}

#[derive(Default)]
struct Numbers {
    of_id: HashMap<Pid, Pid>,
    id_of: HashMap<Pid, Pid>,
    last: Pid,
    /// Its init has come.
    begun: bool,
    /// Its init ends or has ended: nothing new begins in it.
    closed: bool,
}

/// A process's numbers in the namespaces that see it, for whoever remembers it beyond its end.
#[derive(Clone)]
pub struct PidNumbers {
    id: Pid,
    /// The namespace it is in, where that is not the container's, and its numbers there and above.
    nested: Option<(Arc<PidNamespace>, Arc<[Pid]>)>,
}

impl PidNumbers {
    /// The number in a namespace, 0 where that does not see it.
    pub fn nr(&self, pidns: &PidNamespace) -> Pid {
        if pidns.level == 0 {
            return self.id;
        }
        let Some((inner, numbers)) = &self.nested else { return 0 };
        let mut up =
            core::iter::successors(Some(&**inner), |ns| ns.parent.as_deref()).zip(numbers.iter());
        up.find(|(ns, _)| core::ptr::eq(*ns, pidns)).map_or(0, |(_, nr)| *nr)
    }
}

impl PidNamespace {
    /// The numbers of an id that is in this namespace.
    pub fn remember(self: &Arc<Self>, id: Pid) -> PidNumbers {
        if self.level == 0 {
            return PidNumbers { id, nested: None };
        }
        let up = core::iter::successors(Some(&**self), |ns| ns.parent.as_deref());
        let numbers: Arc<[Pid]> = up.map(|ns| ns.nr(id)).collect();
        PidNumbers { id, nested: Some((self.clone(), numbers)) }
    }

    /// The container's own, `owner`'s.
    pub fn outermost(pids: Arc<Pids>, owner: &UserNamespace) -> Arc<PidNamespace> {
        let (id, numbers) = (NamespaceId::default(), SpinLock::default());
        let owner = owner.clone();
        Arc::new(PidNamespace { id, owner, level: 0, parent: None, pids, numbers })
    }

    /// One below this one, of `owner`'s. `ENOSPC` where there are too many above it, `EINVAL`
    /// where this one's owner is not above that.
    pub fn nest(self: &Arc<Self>, owner: &UserNamespace) -> Result<Arc<PidNamespace>, Errno> {
        if !self.owner.contains(owner) {
            return Err(Errno::EINVAL);
        }
        let level = self.level.saturating_add(1);
        if level > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        Ok(Arc::new(PidNamespace {
            id: NamespaceId::default(),
            owner: owner.clone(),
            level,
            parent: Some(self.clone()),
            pids: self.pids.clone(),
            numbers: SpinLock::default(),
        }))
    }

    /// The one in which it was made; none for the container's.
    pub fn parent(&self) -> Option<&Arc<PidNamespace>> {
        self.parent.as_ref()
    }

    /// The number of an id here, 0 where it has none.
    #[inline]
    pub fn nr(&self, id: Pid) -> Pid {
        if self.level == 0 { id } else { self.numbers.lock().of_id.get(&id).copied().unwrap_or(0) }
    }

    /// The id that has this number here.
    #[inline]
    pub fn id_of(&self, nr: Pid) -> Option<Pid> {
        if self.level == 0 { Some(nr) } else { self.numbers.lock().id_of.get(&nr).copied() }
    }

    /// The id that has this number here, if a task, process, group or session has it.
    pub fn find(&self, nr: Pid) -> Option<Pid> {
        self.id_of(nr).filter(|id| self.pids.lock().is_taken(*id))
    }

    /// The living task with this number.
    pub fn task(&self, nr: Pid) -> Option<Arc<Task>> {
        self.pids.task(self.id_of(nr)?)
    }

    /// The process with this number, a zombie too.
    pub fn process(&self, nr: Pid) -> Option<Arc<Process>> {
        self.pids.process(self.id_of(nr)?)
    }

    /// Its processes and those of the namespaces below it, zombies too, by their numbers here.
    pub fn processes(&self) -> alloc::vec::Vec<(Pid, Arc<Process>)> {
        let all = self.pids.processes().into_iter();
        let mut seen: alloc::vec::Vec<_> =
            all.map(|p| (self.nr(p.pid), p)).filter(|(nr, _)| *nr != 0).collect();
        seen.sort_unstable_by_key(|(nr, _)| *nr);
        seen
    }

    /// The numbers of an id here and in the namespaces on the way down to `inner`.
    pub fn numbers_down_to(&self, inner: &PidNamespace, id: Pid) -> alloc::vec::Vec<Pid> {
        let up = core::iter::successors(Some(inner), |ns| ns.parent.as_deref());
        let mut all: alloc::vec::Vec<_> =
            up.take_while(|ns| ns.level >= self.level).map(|ns| ns.nr(id)).collect();
        all.reverse();
        all
    }

    /// Whether `other` is this one or below it.
    pub fn contains(self: &Arc<Self>, other: &Arc<PidNamespace>) -> bool {
        let mut at = Some(other);
        while let Some(ns) = at.filter(|ns| ns.level >= self.level) {
            if Arc::ptr_eq(ns, self) {
                return true;
            }
            at = ns.parent.as_ref();
        }
        false
    }

    /// Whether somebody has been its init.
    pub fn has_begun(&self) -> bool {
        self.level == 0 || self.numbers.lock().begun
    }

    /// Whether its init ends or has ended.
    pub fn is_closed(&self) -> bool {
        self.level != 0 && self.numbers.lock().closed
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.numbers.lock().closed = true;
    }

    /// The last number given, for /proc/loadavg.
    pub fn last(&self) -> Pid {
        if self.level == 0 { self.pids.last() } else { self.numbers.lock().last }
    }

    /// This one and those above it up to, but without, the container's.
    fn nested(&self) -> impl Iterator<Item = &PidNamespace> {
        core::iter::successors(Some(self), |ns| ns.parent.as_deref()).filter(|ns| ns.level != 0)
    }

    /// Takes an id for a new task, one of `tasks`, with a number in this namespace and each above it; `wanted` says which
    /// (clone3(2)'s set_tid), from this one outwards. `EAGAIN` at the limit, `EEXIST` where a number is in use,
    /// `EINVAL` where it cannot be, `ENOMEM` where the namespace's init has ended.
    pub fn allocate(self: &Arc<Self>, tasks: &TaskCount, wanted: &[Pid]) -> Result<Pid, Errno> {
        if wanted.len() > self.level as usize + 1 {
            return Err(Errno::EINVAL);
        }
        let id = match wanted.get(self.level as usize) {
            Some(id) => self.pids.allocate_exactly(*id, tasks)?,
            None => self.pids.allocate(tasks)?,
        };
        if self.level == 0 {
            return Ok(id);
        }
        self.pids.lock().set_namespace(id, self);
        let mut wanted = wanted.iter();
        let numbered = self.nested().try_for_each(|ns| ns.take(id, wanted.next().copied()));
        let open = numbered.and(if self.is_closed() { Err(Errno::ENOMEM) } else { Ok(()) });
        if let Err(e) = open {
            self.pids.give_up(id, tasks);
            return Err(e);
        }
        Ok(id)
    }

    fn take(&self, id: Pid, wanted: Option<Pid>) -> Result<(), Errno> {
        let mut numbers = self.numbers.lock();
        let nr = match wanted {
            Some(nr) if nr == 0 || nr >= super::PID_MAX || nr != 1 && !numbers.begun => {
                return Err(Errno::EINVAL);
            }
            Some(nr) if numbers.id_of.contains_key(&nr) => return Err(Errno::EEXIST),
            Some(nr) => nr,
            None => {
                let taken = |nr| numbers.id_of.contains_key(&nr);
                super::pids::next_free(numbers.last, taken).ok_or(Errno::EAGAIN)?
            }
        };
        if wanted.is_none() {
            numbers.last = nr;
        }
        numbers.of_id.insert(id, nr);
        numbers.id_of.insert(nr, id);
        Ok(())
    }

    /// A task is there under the number that it took; `ENOMEM` where the namespace has closed meanwhile.
    /// Under the lock of the ids, as is the closing.
    pub(super) fn admit(&self) -> Result<(), Errno> {
        if self.level == 0 {
            return Ok(());
        }
        let mut numbers = self.numbers.lock();
        if numbers.closed {
            return Err(Errno::ENOMEM);
        }
        numbers.begun = true;
        Ok(())
    }

    /// An id is free again.
    pub(super) fn forget(&self, id: Pid) {
        for ns in self.nested() {
            let mut numbers = ns.numbers.lock();
            if let Some(nr) = numbers.of_id.remove(&id) {
                numbers.id_of.remove(&nr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Arc<PidNamespace>, Arc<PidNamespace>) {
        crate::platform::fake::install();
        let outer = PidNamespace::outermost(Arc::default(), &UserNamespace::INITIAL);
        let inner = outer.nest(&UserNamespace::INITIAL).unwrap();
        (outer, inner)
    }

    #[test]
    fn an_id_has_a_number_on_each_level() {
        let (outer, inner) = two();
        let tasks = TaskCount::default();
        assert_eq!(outer.allocate(&tasks, &[]), Ok(1));
        let innermost = inner.nest(&UserNamespace::INITIAL).unwrap();
        let id = innermost.allocate(&tasks, &[]).unwrap();
        assert_eq!([outer.nr(id), inner.nr(id), innermost.nr(id)], [2, 1, 1]);
        let other = inner.allocate(&tasks, &[]).unwrap();
        assert_eq!([outer.nr(other), inner.nr(other), innermost.nr(other)], [3, 2, 0]);
        assert_eq!(inner.id_of(2), Some(other));
        outer.pids.give_up(other, &tasks);
        assert_eq!((inner.id_of(2), inner.nr(other)), (None, 0));
        assert!(
            outer.contains(&innermost) && inner.contains(&inner) && !innermost.contains(&inner)
        );
    }

    #[test]
    fn numbers_can_be_asked_for_once_there_is_an_init() {
        let (_, inner) = two();
        let tasks = TaskCount::default();
        assert_eq!(inner.allocate(&tasks, &[7]), Err(Errno::EINVAL));
        assert_eq!(inner.allocate(&tasks, &[1, 9]), Ok(9));
        inner.admit().unwrap();
        assert_eq!(inner.allocate(&tasks, &[1]), Err(Errno::EEXIST));
        assert_eq!(inner.allocate(&tasks, &[7, 9]), Err(Errno::EEXIST));
        assert_eq!(inner.allocate(&tasks, &[7, 8, 9]), Err(Errno::EINVAL));
        let id = inner.allocate(&tasks, &[7]).unwrap();
        assert_eq!((inner.nr(id), tasks.count()), (7, 2));
        inner.close();
        assert_eq!(inner.allocate(&tasks, &[]), Err(Errno::ENOMEM));
        assert_eq!(tasks.count(), 2);
    }

    #[test]
    fn they_nest_to_a_depth() {
        let (_, mut inner) = two();
        for _ in 1..MAX_LEVEL {
            inner = inner.nest(&UserNamespace::INITIAL).unwrap();
        }
        assert_eq!(inner.nest(&UserNamespace::INITIAL).err(), Some(Errno::ENOSPC));
    }
}
