//! Shared subtrees (mount_namespaces(7), Documentation/filesystems/sharedsubtree.rst): peer groups and their slaves.
//!
//! A group has members, which tell each other of mounts on them, and slaves, which hear of the group's and tell
//! it nothing. A slave may be a member of another group: so groups form trees, and an event runs down from the
//! group where it happened.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::tree::{self, Copying};
use super::{CHANGING, Mount, Mounts, NamespaceState};
use crate::errno::Errno;
use crate::fs::dentry::Dentry;
use crate::fs::path::Path;
use crate::sync::SpinLock;
use crate::task::UserNamespace;

/// What mount(2) makes of a mount with MS_SHARED and the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    /// MS_SHARED.
    Shared,
    /// MS_PRIVATE.
    Private,
    /// MS_SLAVE.
    Slave,
    /// MS_UNBINDABLE.
    Unbindable,
}

impl Propagation {
    /// The one kind that MS_ flags of mount(2) ask for, beside MS_REC and MS_SILENT.
    pub fn from_ms(flags: u64) -> Option<Propagation> {
        const MS_SILENT: u64 = 1 << 15;
        match flags & !(MS_REC | MS_SILENT) {
            MS_SHARED => Some(Propagation::Shared),
            MS_PRIVATE => Some(Propagation::Private),
            MS_SLAVE => Some(Propagation::Slave),
            MS_UNBINDABLE => Some(Propagation::Unbindable),
            _ => None,
        }
    }

    /// Whether MS_ flags of mount(2) ask for a change of it.
    pub fn is_asked(flags: u64) -> bool {
        flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0
    }
}

/// MS_REC of mount(2) (linux/mount.h): all mounts below too.
pub const MS_REC: u64 = 1 << 14;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// Whom a mount tells of mounts on it, and from whom it hears.
#[derive(Clone, Default)]
pub struct Sharing {
    /// Its peers, itself among them: it is shared.
    pub peers: Option<Arc<PeerGroup>>,
    /// The group whose slave it is.
    pub master: Option<Arc<PeerGroup>>,
    /// No copies are made of it (MS_UNBINDABLE).
    pub unbindable: bool,
}

/// Mounts that tell each other.
pub struct PeerGroup {
    /// As in /proc/PID/mountinfo.
    pub id: u64,
    members: SpinLock<Mounts>,
    slaves: SpinLock<Mounts>,
    /// An event that is on its way has been here.
    visited: AtomicBool,
}

impl PeerGroup {
    fn new() -> Arc<PeerGroup> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Arc::new(PeerGroup {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            members: SpinLock::new(Mounts::new()),
            slaves: SpinLock::new(Mounts::new()),
            visited: AtomicBool::new(false),
        })
    }

    fn list(mounts: &SpinLock<Mounts>) -> Vec<Weak<Mount>> {
        mounts.lock().values().cloned().collect()
    }

    /// Whether a member is in `namespace` and at or below `root`; and whose slaves the members are.
    fn seen_under(
        &self,
        namespace: Option<&Arc<NamespaceState>>,
        root: &Path,
    ) -> (bool, Option<Arc<PeerGroup>>) {
        let mut master = None;
        for member in Self::list(&self.members).iter().filter_map(Weak::upgrade) {
            master = member.sharing().master;
            let there = member.namespace();
            if there.as_ref().zip(namespace).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
                && tree::is_reachable(&Path::root_of(&member), root)
            {
                return (true, master);
            }
        }
        (false, master)
    }
}

impl Mount {
    /// Whom it tells, and from whom it hears.
    pub fn sharing(&self) -> Sharing {
        self.sharing.lock().clone()
    }

    /// Whether it is in a peer group.
    pub fn is_shared(&self) -> bool {
        self.sharing.lock().peers.is_some()
    }

    /// The nearest group above its master that has a member below `root` (`propagate_from` in mountinfo).
    pub fn dominating(&self, root: &Path) -> Option<u64> {
        let namespace = self.namespace();
        let mut group = self.sharing().master;
        while let Some(above) = group {
            let (seen, master) = above.seen_under(namespace.as_ref(), root);
            if seen {
                return Some(above.id);
            }
            group = master;
        }
        None
    }

    pub(super) fn set_sharing(self: &Arc<Self>, new: Sharing) {
        let old = mem::replace(&mut *self.sharing.lock(), new.clone());
        let key = (0, self.id);
        if let Some(group) = &old.peers {
            group.members.lock().remove(&key);
        }
        if let Some(group) = &old.master {
            group.slaves.lock().remove(&key);
        }
        if let Some(group) = &new.peers {
            group.members.lock().insert(key, Arc::downgrade(self));
        }
        if let Some(group) = &new.master {
            group.slaves.lock().insert(key, Arc::downgrade(self));
        }
    }

    /// Makes it a peer, of none but itself where it has no group.
    pub(super) fn share(self: &Arc<Self>) {
        let old = self.sharing();
        let peers = old.peers.or_else(|| Some(PeerGroup::new()));
        self.set_sharing(Sharing { peers, master: old.master, unbindable: false });
    }

    /// Takes back a [`share`](Self::share) that nothing came of.
    pub(super) fn unshare(self: &Arc<Self>) {
        self.set_sharing(Sharing { peers: None, ..self.sharing() });
    }

    /// Takes it out of its group, which becomes its master; where it was the last, those who heard of it hear
    /// of its master.
    fn enslave(self: &Arc<Self>) {
        let old = self.sharing();
        let Some(group) = old.peers else { return };
        let above = old.master.clone();
        self.set_sharing(Sharing { peers: None, ..old });
        if !group.members.lock().is_empty() {
            self.set_sharing(Sharing { master: Some(group), ..self.sharing() });
            return;
        }
        for slave in PeerGroup::list(&group.slaves).iter().filter_map(Weak::upgrade) {
            slave.set_sharing(Sharing { master: above.clone(), ..slave.sharing() });
        }
    }

    pub(super) fn set_propagation(self: &Arc<Self>, kind: Propagation) {
        if kind == Propagation::Shared {
            self.share();
            return;
        }
        self.enslave();
        if kind != Propagation::Slave {
            let unbindable = kind == Propagation::Unbindable;
            self.set_sharing(Sharing { unbindable, ..Sharing::default() });
        }
    }

    /// Changes whom it, and with `deep` all on it, tell and hear.
    pub fn change_propagation(self: &Arc<Self>, kind: Propagation, deep: bool) {
        let _changing = CHANGING.lock();
        let all = if deep { tree::below(self) } else { Vec::from([self.clone()]) };
        for mount in all {
            mount.set_propagation(kind);
        }
        self.changed();
    }

    /// move_mount(MOVE_MOUNT_SET_GROUP): `self`, which is private, becomes what `from` is, as if it were a bind of
    /// it. `may` says whether the caller may change what is in a namespace of somebody's.
    pub fn join(
        self: &Arc<Self>,
        from: &Arc<Mount>,
        may: impl Fn(&UserNamespace) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        for mount in [from, self] {
            may(&mount.namespace().ok_or(Errno::EINVAL)?.owner)?;
        }
        let (new, old) = (from.sharing(), self.sharing());
        if old.peers.is_some()
            || old.master.is_some()
            || (new.peers.is_none() && new.master.is_none())
        {
            return Err(Errno::EINVAL);
        }
        let shown = Path { mount: from.clone(), dentry: self.root.clone() };
        if !Arc::ptr_eq(&self.sb, &from.sb)
            || !from.root.is_above(&self.root)
            || tree::hides_something(&shown)
        {
            return Err(Errno::EINVAL);
        }
        self.set_sharing(Sharing { unbindable: old.unbindable && new.peers.is_none(), ..new });
        self.changed();
        Ok(())
    }

    /// Whether a mount on `dentry` elsewhere comes here too.
    fn receives(&self, dentry: &Arc<Dentry>) -> bool {
        self.namespace().is_some_and(|n| !n.anonymous) && self.root.is_above(dentry)
    }
}

/// The mounts to which what happens on `from` spreads. [`CHANGING`] is held. Weak, so that they count as little
/// in use as they are.
pub(super) fn receivers(from: &Arc<Mount>) -> Vec<Weak<Mount>> {
    let mut all = Vec::new();
    let Some(first) = from.sharing().peers else { return all };
    let is_from = |m: &Weak<Mount>| core::ptr::eq(m.as_ptr(), Arc::as_ptr(from));
    let mut groups = Vec::from([first]);
    let mut at = 0;
    while let Some(group) = groups.get(at).cloned() {
        at = at.saturating_add(1);
        all.extend(PeerGroup::list(&group.members).into_iter().filter(|m| !is_from(m)));
        for slave in PeerGroup::list(&group.slaves) {
            match slave.upgrade().and_then(|m| m.sharing().peers) {
                None => all.push(slave),
                Some(below) if !below.visited.swap(true, Ordering::Relaxed) => groups.push(below),
                Some(_) => {}
            }
        }
    }
    for group in groups {
        group.visited.store(false, Ordering::Relaxed);
    }
    all
}

/// A copy of a tree, and where it goes.
pub(super) type Spread = (Arc<Mount>, Path);

/// Copies of the shared tree `source` for all to which a mount at `at` spreads, in no place yet; room is kept for
/// them. Copies for peers are peers of the source; those for slaves are its slaves, and peers of each other as
/// their places are. [`CHANGING`] is held.
pub(super) fn spread(source: &Arc<Mount>, at: &Path, out: &mut Vec<Spread>) -> Result<(), Errno> {
    let Some(first) = at.mount.sharing().peers else { return Ok(()) };
    first.visited.store(true, Ordering::Relaxed);
    let mut groups = Vec::from([(first, source.clone())]);
    let result = spread_to(&mut groups, at, out);
    for (group, _) in groups {
        group.visited.store(false, Ordering::Relaxed);
    }
    result
}

/// `groups` with what stands for the source in each.
fn spread_to(
    groups: &mut Vec<(Arc<PeerGroup>, Arc<Mount>)>,
    at: &Path,
    out: &mut Vec<Spread>,
) -> Result<(), Errno> {
    let mut copy = |from: &Arc<Mount>, to: &Arc<Mount>, how: Copying| {
        if Arc::ptr_eq(to, &at.mount) || !to.receives(&at.dentry) {
            return Ok(None);
        }
        let place = Path { mount: to.clone(), dentry: at.dentry.clone() };
        let copy = tree::copied(from, how, to)?;
        out.push((copy.clone(), place));
        Ok::<_, Errno>(Some(copy))
    };
    let members = |group: &PeerGroup| {
        let list = PeerGroup::list(&group.members);
        list.into_iter().filter_map(|m| m.upgrade())
    };
    if let Some((group, source)) = groups.first() {
        for peer in members(group) {
            copy(source, &peer, Copying::PEER)?;
        }
    }
    let mut next = 0;
    while let Some((group, source)) = groups.get(next).cloned() {
        next = next.saturating_add(1);
        for slave in PeerGroup::list(&group.slaves).iter().filter_map(Weak::upgrade) {
            let Some(below) = slave.sharing().peers else {
                copy(&source, &slave, Copying::SLAVE)?;
                continue;
            };
            if below.visited.swap(true, Ordering::Relaxed) {
                continue;
            }
            groups.push((below.clone(), source.clone()));
            let mut first = None;
            for member in members(&below) {
                match &first {
                    None => first = copy(&source, &member, Copying::SHARED_SLAVE)?,
                    Some(first) => {
                        copy(first, &member, Copying::PEER)?;
                    }
                }
            }
            if let (Some(first), Some((_, stands))) = (first, groups.last_mut()) {
                *stands = first;
            }
        }
    }
    Ok(())
}
