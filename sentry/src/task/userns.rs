//! User namespaces (user_namespaces(7)): by which numbers users and groups go, and where capabilities hold.
//!
//! Inside the sentry a user and a group have one id each, that of the initial user namespace (Linux's kuid_t and
//! kgid_t). A namespace below that one has maps between its own ids and those, set once. So everything in the
//! sentry keeps and compares ids of the initial namespace; [`UserNamespace::uid`] and [`UserNamespace::gid`] make of
//! one what an application gets, and [`UserNamespace::kuid`] and [`UserNamespace::kgid`] make one of what comes from
//! an application. In the initial namespace all of them are the identity.
//!
//! A capability holds in the namespace of whoever has it and in those below ([`Creds::ns_capable`]). What belongs to
//! nobody but the container asks for one in the initial namespace ([`Creds::capable`]).

mod map;

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

pub use map::{Extent, IdMap};

use super::{Creds, NamespaceId, cap, has_cap};
use crate::errno::Errno;
use crate::sync::Mutex;

/// How deep a namespace may lie that makes one below it (create_user_ns()).
const MAX_LEVEL: u32 = 32;
/// The id that stands for those that have none in a namespace (/proc/sys/kernel/overflowuid).
pub const OVERFLOW_ID: u32 = 65534;

/// Most namespaces below the initial one (/proc/sys/user/max_user_namespaces).
pub static MAX_USER_NAMESPACES: AtomicUsize = AtomicUsize::new(4096);
/// Namespaces below the initial one that there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A user namespace. The initial one, which is the default, costs nothing to keep.
#[derive(Clone, Default)]
pub struct UserNamespace(Option<Arc<Nested>>);

/// One below another.
struct Nested {
    id: NamespaceId,
    /// How many are above it.
    level: u32,
    parent: UserNamespace,
    /// Who made it, by effective ids.
    owner: u32,
    group: u32,
    /// Whoever made it had CAP_SETFCAP, and so may map the parent's id 0.
    maker_could_setfcap: bool,
    uids: spin::Once<IdMap>,
    gids: spin::Once<IdMap>,
    projects: spin::Once<IdMap>,
    /// Held while a map is set, or whether setgroups(2) is allowed: that, here. Linux's userns_state_mutex.
    setgroups: Mutex<bool>,
}

/// One of the three maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdKind {
    /// uid_map.
    User,
    /// gid_map.
    Group,
    /// projid_map.
    Project,
}

impl UserNamespace {
    /// The initial one.
    pub const INITIAL: UserNamespace = UserNamespace(None);

    /// One below that of `creds`, made by them: `ENOSPC` where it would lie too deep or there are too many, `EPERM`
    /// where the maker has no ids in its own.
    pub fn nest(creds: &Creds) -> Result<UserNamespace, Errno> {
        let parent = &creds.userns;
        if parent.level() > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        if !parent.has_uid(creds.euid) || !parent.has_gid(creds.egid) {
            return Err(Errno::EPERM);
        }
        let most = MAX_USER_NAMESPACES.load(Ordering::Relaxed);
        let more = |now: usize| now.checked_add(1).filter(|sum| *sum <= most);
        if COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(Errno::ENOSPC);
        }
        Ok(UserNamespace(Some(Arc::new(Nested {
            id: NamespaceId::default(),
            level: parent.level().saturating_add(1),
            parent: parent.clone(),
            owner: creds.euid,
            group: creds.egid,
            maker_could_setfcap: has_cap(creds.capabilities.effective, cap::SETFCAP),
            uids: spin::Once::new(),
            gids: spin::Once::new(),
            projects: spin::Once::new(),
            setgroups: Mutex::new(parent.allows_setgroups()),
        }))))
    }

    /// Whether it is the initial one.
    #[inline]
    pub fn is_initial(&self) -> bool {
        self.0.is_none()
    }

    /// The inode number of its file.
    pub fn id(&self) -> NamespaceId {
        self.0.as_ref().map_or(NamespaceId::USER, |ns| ns.id)
    }

    /// How many are above it.
    pub fn level(&self) -> u32 {
        self.0.as_ref().map_or(0, |ns| ns.level)
    }

    /// The one in which it was made; none for the initial one.
    pub fn parent(&self) -> Option<&UserNamespace> {
        self.0.as_ref().map(|ns| &ns.parent)
    }

    /// The user who made it.
    pub fn owner(&self) -> u32 {
        self.0.as_ref().map_or(0, |ns| ns.owner)
    }

    /// The group of who made it.
    pub fn group(&self) -> u32 {
        self.0.as_ref().map_or(0, |ns| ns.group)
    }

    /// Whether who made it had CAP_SETFCAP.
    pub fn maker_could_setfcap(&self) -> bool {
        self.0.as_ref().is_some_and(|ns| ns.maker_could_setfcap)
    }

    /// Whether `other` is this one or below it (in_userns()).
    #[inline(never)]
    pub fn contains(&self, other: &UserNamespace) -> bool {
        let mut at = other;
        loop {
            if at == self {
                return true;
            }
            match at.parent() {
                Some(parent) if at.level() > self.level() => at = parent,
                _ => return false,
            }
        }
    }

    /// A map; `None` for the initial namespace, where ids are what they are. One that is not set maps nothing.
    pub fn map(&self, kind: IdKind) -> Option<&IdMap> {
        let ns = self.0.as_ref()?;
        let map = match kind {
            IdKind::User => &ns.uids,
            IdKind::Group => &ns.gids,
            IdKind::Project => &ns.projects,
        };
        Some(map.get().unwrap_or(IdMap::EMPTY))
    }

    fn id_of(&self, kind: IdKind, id: u32) -> Option<u32> {
        match self.map(kind) {
            None => (id != u32::MAX).then_some(id),
            Some(map) => map.down(id),
        }
    }

    /// The initial namespace's id for an id here (make_kuid() and its like); `None`: there is none.
    #[inline(never)]
    pub fn down(&self, kind: IdKind, id: u32) -> Option<u32> {
        self.id_of(kind, id)
    }

    /// The id here for an id of the initial namespace (from_kuid() and its like).
    #[inline(never)]
    pub fn up(&self, kind: IdKind, id: u32) -> Option<u32> {
        match self.map(kind) {
            None => (id != u32::MAX).then_some(id),
            Some(map) => map.up(id),
        }
    }

    /// The user that has this number here (make_kuid()).
    #[inline]
    pub fn kuid(&self, uid: u32) -> Option<u32> {
        self.down(IdKind::User, uid)
    }

    /// The group that has this number here (make_kgid()).
    #[inline]
    pub fn kgid(&self, gid: u32) -> Option<u32> {
        self.down(IdKind::Group, gid)
    }

    /// A user's number here, or [`OVERFLOW_ID`] (from_kuid_munged()).
    #[inline]
    pub fn uid(&self, kuid: u32) -> u32 {
        if self.is_initial() { kuid } else { self.up(IdKind::User, kuid).unwrap_or(OVERFLOW_ID) }
    }

    /// A group's number here, or [`OVERFLOW_ID`] (from_kgid_munged()).
    #[inline]
    pub fn gid(&self, kgid: u32) -> u32 {
        if self.is_initial() { kgid } else { self.up(IdKind::Group, kgid).unwrap_or(OVERFLOW_ID) }
    }

    /// Whether a user has a number here.
    pub fn has_uid(&self, kuid: u32) -> bool {
        self.up(IdKind::User, kuid).is_some()
    }

    /// Whether a group has a number here.
    pub fn has_gid(&self, kgid: u32) -> bool {
        self.up(IdKind::Group, kgid).is_some()
    }

    /// Whether /proc/PID/setgroups says `allow`.
    pub fn allows_setgroups(&self) -> bool {
        self.0.as_ref().is_none_or(|ns| *ns.setgroups.lock())
    }

    /// Whether setgroups(2) may be called here at all: it is allowed, and groups have numbers.
    pub fn may_setgroups(&self) -> bool {
        let Some(ns) = &self.0 else { return true };
        ns.gids.is_completed() && *ns.setgroups.lock()
    }

    /// Writes /proc/PID/setgroups. `EPERM` where `allow` comes after `deny`, or `deny` after the map of groups.
    pub fn set_setgroups(&self, allow: bool) -> Result<(), Errno> {
        let Some(ns) = &self.0 else { return if allow { Ok(()) } else { Err(Errno::EPERM) } };
        let mut allowed = ns.setgroups.lock();
        if allow {
            return if *allowed { Ok(()) } else { Err(Errno::EPERM) };
        }
        if ns.gids.is_completed() {
            return Err(Errno::EPERM);
        }
        *allowed = false;
        Ok(())
    }

    /// Sets a map, whose lower ids are the parent's, if it `may` be: that is asked with whether setgroups(2) is
    /// allowed. `EPERM` where it is set already, may not be, or the parent does not map all of its ids.
    pub fn set_map(
        &self,
        kind: IdKind,
        extents: impl FnOnce() -> Result<alloc::vec::Vec<Extent>, Errno>,
        may: impl FnOnce(&[Extent], bool) -> bool,
    ) -> Result<(), Errno> {
        let ns = self.0.as_ref().ok_or(Errno::EPERM)?;
        let setgroups = ns.setgroups.lock();
        let map = match kind {
            IdKind::User => &ns.uids,
            IdKind::Group => &ns.gids,
            IdKind::Project => &ns.projects,
        };
        if map.is_completed() {
            return Err(Errno::EPERM);
        }
        let mut extents = extents()?;
        if !may(&extents, *setgroups) {
            return Err(Errno::EPERM);
        }
        for extent in &mut extents {
            if let Some(above) = ns.parent.map(kind) {
                extent.lower = above.down_range(extent.lower, extent.count).ok_or(Errno::EPERM)?;
            }
        }
        map.call_once(|| IdMap::new(extents));
        Ok(())
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartialEq for UserNamespace {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for UserNamespace {}

impl fmt::Debug for UserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:[{}]", self.id().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Capabilities;
    use alloc::vec;

    fn user(uid: u32) -> Creds {
        crate::platform::fake::install();
        Creds { uid, euid: uid, suid: uid, fsuid: uid, gid: uid, egid: uid, ..Creds::default() }
    }

    fn extent(first: u32, lower: u32, count: u32) -> Extent {
        Extent { first, lower, count }
    }

    #[test]
    fn capabilities_hold_in_a_namespace_and_below_it() {
        let outside = user(1000);
        let ns = UserNamespace::nest(&outside).unwrap();
        let inside = outside.in_new_user_namespace(ns.clone());
        assert_eq!(inside.capabilities.effective, cap::ALL);
        assert!(inside.own_capable(cap::SYS_ADMIN) && inside.ns_capable(&ns, cap::SYS_ADMIN));
        assert!(!inside.capable(cap::SYS_ADMIN));
        // The owner in the parent has all of them without having one.
        assert!(outside.ns_capable(&ns, cap::SYS_ADMIN));
        assert!(!user(1001).ns_capable(&ns, cap::SYS_ADMIN));
        let below = UserNamespace::nest(&inside);
        assert_eq!(below, Err(Errno::EPERM), "the maker has no number here");
        ns.set_map(IdKind::User, || Ok(vec![extent(0, 1000, 1)]), |_, _| true).unwrap();
        ns.set_map(IdKind::Group, || Ok(vec![extent(0, 1000, 1)]), |_, _| true).unwrap();
        let below = UserNamespace::nest(&inside).unwrap();
        assert!(inside.ns_capable(&below, cap::KILL));
        assert!(!inside.in_new_user_namespace(below.clone()).ns_capable(&ns, cap::KILL));
        assert!(ns.contains(&below) && !below.contains(&ns));
        assert!(UserNamespace::INITIAL.contains(&below) && ns.contains(&ns));
        // Capabilities of the initial namespace reach everywhere, and only those.
        let kills = Capabilities { effective: 1 << cap::KILL, ..Capabilities::default() };
        let killer = Creds { capabilities: kills, ..user(7) };
        assert!(killer.ns_capable(&below, cap::KILL) && !killer.ns_capable(&below, cap::CHOWN));
    }

    #[test]
    fn ids_of_a_nested_namespace_are_mapped_down_to_the_initial_one() {
        let outside = user(0);
        let ns = UserNamespace::nest(&outside).unwrap();
        assert_eq!((ns.uid(0), ns.kuid(0)), (OVERFLOW_ID, None));
        let set = |ns: &UserNamespace, extents: alloc::vec::Vec<Extent>| {
            ns.set_map(IdKind::Group, || Ok(extents.clone()), |_, _| true)?;
            ns.set_map(IdKind::User, || Ok(extents), |_, _| true)
        };
        set(&ns, vec![extent(0, 100_000, 1000), extent(5000, 0, 1)]).unwrap();
        assert_eq!(set(&ns, vec![extent(0, 0, 1)]), Err(Errno::EPERM), "a map is set once");
        assert_eq!((ns.kuid(999), ns.kuid(1000)), (Some(100_999), None));
        assert_eq!((ns.uid(0), ns.uid(100_001), ns.uid(1)), (5000, 1, OVERFLOW_ID));
        let inside = outside.in_new_user_namespace(ns.clone());
        let below = UserNamespace::nest(&inside).unwrap();
        assert_eq!(
            set(&below, vec![extent(0, 990, 20)]),
            Err(Errno::EPERM),
            "half of it is not mapped"
        );
        set(&below, vec![extent(0, 10, 20)]).unwrap();
        assert_eq!((below.kuid(3), below.uid(100_013)), (Some(100_013), 3));
        assert!(below.has_gid(100_010) && !below.has_gid(0));
    }

    #[test]
    fn setgroups_is_denied_before_the_map_of_groups_or_never() {
        let ns = UserNamespace::nest(&user(0)).unwrap();
        assert!(ns.allows_setgroups() && !ns.may_setgroups());
        assert_eq!(ns.set_setgroups(true), Ok(()));
        assert_eq!(ns.set_setgroups(false), Ok(()));
        assert_eq!(ns.set_setgroups(true), Err(Errno::EPERM));
        let other = UserNamespace::nest(&user(0)).unwrap();
        other.set_map(IdKind::Group, || Ok(vec![extent(0, 0, 1)]), |_, _| true).unwrap();
        assert_eq!(other.set_setgroups(false), Err(Errno::EPERM));
        assert!(other.may_setgroups());
    }

    #[test]
    fn they_nest_to_a_depth() {
        let mut creds = user(0);
        for _ in 0..=MAX_LEVEL {
            let ns = UserNamespace::nest(&creds).unwrap();
            for kind in [IdKind::User, IdKind::Group] {
                ns.set_map(kind, || Ok(vec![extent(0, 0, 1)]), |_, _| true).unwrap();
            }
            creds = creds.in_new_user_namespace(ns);
        }
        assert_eq!(UserNamespace::nest(&creds), Err(Errno::ENOSPC));
    }
}
