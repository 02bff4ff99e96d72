//! Namespaces of a task (namespaces(7)): data, and files that stand for them (/proc/PID/ns, setns(2)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::timens::in_range;
use super::{
    CloneFlags, Creds, Current, PidNamespace, Pids, Task, TimeNamespace, UserNamespace, cap, pidfd,
};
use crate::errno::Errno;
use crate::fs::{MountNamespace, nsfs};
use crate::ipc::Ipc;
use crate::net::NetNamespace;
use crate::sync::SpinLock;

/// What a task sees. Replaced as a whole by the task alone.
#[derive(Clone)]
pub struct Namespaces {
    /// Host and NIS name.
    pub uts: Arc<Uts>,
    /// System V IPC.
    pub ipc: Arc<Ipc>,
    /// What sockets share.
    pub net: Arc<NetNamespace>,
    /// Where children are born; a task's own is its process's.
    pub pid_for_children: Arc<PidNamespace>,
    /// Clocks.
    pub time: Arc<TimeNamespace>,
    /// Whose clocks children have.
    pub time_for_children: Arc<TimeNamespace>,
    /// What /proc/PID/cgroup says: of a hierarchy that is one group, the same in all of them.
    pub cgroup: Arc<Cgroup>,
}

/// A UTS namespace (uts_namespaces(7)).
#[derive(Default)]
pub struct Uts {
    /// Its number.
    pub id: NamespaceId,
    /// Whose capabilities count for it.
    pub owner: UserNamespace,
    /// The names.
    pub names: SpinLock<UtsNames>,
}

/// A cgroup namespace (cgroup_namespaces(7)).
#[derive(Default)]
pub struct Cgroup {
    /// Its number.
    pub id: NamespaceId,
    /// Whose capabilities count for it.
    pub owner: UserNamespace,
}

/// The two names that can be set.
#[derive(Clone, Default, Debug)]
pub struct UtsNames {
    /// sethostname(2), at most 64 bytes.
    pub host: Vec<u8>,
    /// setdomainname(2), at most 64 bytes.
    pub domain: Vec<u8>,
}

/// The inode number of a namespace's file; no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceId(pub u64);

impl NamespaceId {
    /// Of the container's own namespaces of these kinds, which are the host's with runc: PROC_USER_INIT_INO and its like
    /// (linux/proc_ns.h).
    const CGROUP: NamespaceId = NamespaceId(0xefff_fffb);
    /// The container's first user namespace.
    pub const USER: NamespaceId = NamespaceId(0xefff_fffd);
    pub(super) const TIME: NamespaceId = NamespaceId(0xefff_fffa);
}

impl Default for NamespaceId {
    /// The next one. Linux's begin here too (PROC_DYNAMIC_FIRST).
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0xf000_0000);
        NamespaceId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Namespaces {
    /// New ones with these names and ids, `owner`'s.
    pub fn new(host: &str, domain: &str, pids: &Arc<Pids>, owner: &UserNamespace) -> Namespaces {
        let names = UtsNames { host: host.into(), domain: domain.into() };
        let uts = Uts { names: SpinLock::new(names), owner: owner.clone(), ..Uts::default() };
        let time = TimeNamespace::outermost(owner);
        Namespaces {
            uts: Arc::new(uts),
            ipc: Arc::new(Ipc::owned(owner.clone())),
            net: Arc::new(NetNamespace { owner: owner.clone(), ..NetNamespace::default() }),
            pid_for_children: PidNamespace::outermost(pids.clone(), owner),
            time_for_children: time.clone(),
            time,
            cgroup: Arc::new(Cgroup { id: NamespaceId::CGROUP, owner: owner.clone() }),
        }
    }

    /// The same whose clocks are nanoseconds ahead of the container's, which no task is to see otherwise. `ERANGE` where
    /// they would be below nothing, or near their end.
    pub fn ahead(self, monotonic: i64, boottime: i64) -> Result<Namespaces, Errno> {
        let time = self.time.another(&self.time.owner);
        time.set(Some(in_range(monotonic)?), Some(in_range(boottime)?))?;
        time.freeze();
        Ok(Namespaces { time_for_children: time.clone(), time, ..self })
    }

    /// What a task has that unshares these kinds, of which a task can have its own ([`UNSHARED`]) beside the
    /// mount namespace. The new ones are `owner`'s.
    pub fn unshare(&self, flags: CloneFlags, owner: &UserNamespace) -> Namespaces {
        let mut new = self.clone();
        let owner = owner.clone();
        if flags.contains(CloneFlags::NEWUTS) {
            let names = self.uts.names.lock().clone();
            let names = SpinLock::new(names);
            new.uts = Arc::new(Uts { names, owner: owner.clone(), ..Uts::default() });
        }
        if flags.contains(CloneFlags::NEWIPC) {
            new.ipc = Arc::new(Ipc::owned(owner.clone()));
        }
        if flags.contains(CloneFlags::NEWNET) {
            new.net = Arc::new(NetNamespace { owner: owner.clone(), ..NetNamespace::default() });
        }
        if flags.contains(CloneFlags::NEWTIME) {
            new.time_for_children = self.time_for_children.another(&owner);
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            new.cgroup = Arc::new(Cgroup { owner, ..Cgroup::default() });
        }
        new
    }
}

/// Kinds of which there can be several, those of mounts and of pids aside.
pub const UNSHARED: CloneFlags = CloneFlags::NEWUTS
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWTIME)
    .union(CloneFlags::NEWCGROUP);

/// A namespace, as a file stands for it.
#[derive(Clone)]
pub enum Namespace {
    /// Mounts.
    Mount(Arc<MountNamespace>),
    /// Names of the host.
    Uts(Arc<Uts>),
    /// System V IPC.
    Ipc(Arc<Ipc>),
    /// Sockets.
    Net(Arc<NetNamespace>),
    /// Control groups.
    Cgroup(Arc<Cgroup>),
    /// Processes.
    Pid(Arc<PidNamespace>),
    /// Users, groups and capabilities.
    User(UserNamespace),
    /// Clocks.
    Time(Arc<TimeNamespace>),
}

impl Namespace {
    /// Kinds by their names in /proc/PID/ns. `None`: of another name.
    pub fn of(task: &Task, name: &str) -> Option<Namespace> {
        let shared = task.shared.lock();
        Some(match name {
            "mnt" => Namespace::Mount(shared.fs.as_ref()?.namespace()),
            "uts" => Namespace::Uts(shared.namespaces.uts.clone()),
            "ipc" => Namespace::Ipc(shared.namespaces.ipc.clone()),
            "net" => Namespace::Net(shared.namespaces.net.clone()),
            "cgroup" => Namespace::Cgroup(shared.namespaces.cgroup.clone()),
            "pid" => Namespace::Pid(task.process.pidns.clone()),
            // It is there to be seen once it has an init.
            "pid_for_children" => {
                let pidns = &shared.namespaces.pid_for_children;
                Namespace::Pid(Some(pidns).filter(|ns| ns.has_begun())?.clone())
            }
            "user" => Namespace::User(shared.creds.userns.clone()),
            "time" => Namespace::Time(shared.namespaces.time.clone()),
            "time_for_children" => Namespace::Time(shared.namespaces.time_for_children.clone()),
            _ => return None,
        })
    }

    /// Its number.
    pub fn id(&self) -> NamespaceId {
        match self {
            Namespace::Mount(mount) => mount.id,
            Namespace::Uts(uts) => uts.id,
            Namespace::Ipc(ipc) => ipc.id,
            Namespace::Net(net) => net.id,
            Namespace::Cgroup(cgroup) => cgroup.id,
            Namespace::Pid(pidns) => pidns.id,
            Namespace::User(ns) => ns.id(),
            Namespace::Time(time) => time.id,
        }
    }

    /// Its name in links, and its flag.
    pub fn kind(&self) -> (&'static str, CloneFlags) {
        match self {
            Namespace::Mount(_) => ("mnt", CloneFlags::NEWNS),
            Namespace::Uts(_) => ("uts", CloneFlags::NEWUTS),
            Namespace::Ipc(_) => ("ipc", CloneFlags::NEWIPC),
            Namespace::Net(_) => ("net", CloneFlags::NEWNET),
            Namespace::Cgroup(_) => ("cgroup", CloneFlags::NEWCGROUP),
            Namespace::Pid(_) => ("pid", CloneFlags::NEWPID),
            Namespace::User(_) => ("user", CloneFlags::NEWUSER),
            Namespace::Time(_) => ("time", CloneFlags::NEWTIME),
        }
    }

    /// Whose capabilities count for it; of a user namespace, its parent, and none for the initial one.
    pub fn owner(&self) -> Option<&UserNamespace> {
        Some(match self {
            Namespace::Mount(mount) => &mount.owner,
            Namespace::Uts(uts) => &uts.owner,
            Namespace::Ipc(ipc) => &ipc.owner,
            Namespace::Net(net) => &net.owner,
            Namespace::Cgroup(cgroup) => &cgroup.owner,
            Namespace::Pid(pidns) => &pidns.owner,
            Namespace::User(ns) => return ns.parent(),
            Namespace::Time(time) => &time.owner,
        })
    }
}

impl Current {
    /// Goes over to other namespaces; what semaphores are owed is done in the old one.
    pub fn set_namespaces(&mut self, new: Namespaces) {
        if !Arc::ptr_eq(&self.namespaces.ipc, &new.ipc) {
            self.namespaces.ipc.semaphores.process_ended(self.task.process.pid);
        }
        let new = Arc::new(new);
        self.namespaces = new.clone();
        let old = core::mem::replace(&mut self.task.shared.lock().namespaces, new);
        drop(old);
    }

    /// setns(2): into the namespace of a file, or into those of a process that `kinds` names.
    pub fn set_ns(&mut self, fd: i32, kinds: CloneFlags) -> Result<(), Errno> {
        let file = self.files.get(fd)?;
        let mut all = Vec::new();
        if let Some(namespace) = nsfs::namespace_of(&file) {
            if !kinds.is_empty() && namespace.kind().1 != kinds {
                return Err(Errno::EINVAL);
            }
            all.push(namespace.clone());
        } else {
            let (process, _) = pidfd::process_of(self, fd).map_err(|_| Errno::EINVAL)?;
            let known = UNSHARED
                | CloneFlags::NEWNS
                | CloneFlags::NEWCGROUP
                | CloneFlags::NEWPID
                | CloneFlags::NEWUSER
                | CloneFlags::NEWTIME;
            if kinds.is_empty() || !known.contains(kinds) {
                return Err(Errno::EINVAL);
            }
            let task = process.first_task().ok_or(Errno::ESRCH)?;
            crate::fs::may_inspect(&self.cx(), &task)?;
            for name in ["user", "mnt", "uts", "ipc", "pid", "cgroup", "net", "time"] {
                all.extend(Namespace::of(&task, name).filter(|ns| kinds.contains(ns.kind().1)));
            }
        }
        // All are checked before any is taken, by who the caller is going to be.
        let mut creds = None;
        for namespace in &all {
            self.may_enter(namespace, creds.as_ref().unwrap_or(&self.creds))?;
            if let Namespace::User(ns) = namespace {
                creds = Some(self.creds.in_new_user_namespace(ns.clone()));
            }
        }
        let mut new = (*self.namespaces).clone();
        for namespace in all {
            match namespace {
                Namespace::Mount(mount) => self.fs.enter_namespace(mount),
                Namespace::Uts(uts) => new.uts = uts,
                Namespace::Ipc(ipc) => new.ipc = ipc,
                Namespace::Net(net) => new.net = net,
                Namespace::User(_) => {}
                Namespace::Cgroup(cgroup) => new.cgroup = cgroup,
                Namespace::Time(time) => {
                    time.freeze();
                    new.time_for_children = time.clone();
                    new.time = time;
                }
                Namespace::Pid(pidns) => new.pid_for_children = pidns,
            }
        }
        self.set_namespaces(new);
        if let Some(creds) = creds {
            self.commit_creds(creds);
        }
        Ok(())
    }

    /// Whether the caller may enter, if it has become `creds`.
    fn may_enter(&self, namespace: &Namespace, creds: &Creds) -> Result<(), Errno> {
        // The task's own reference and that of this.
        let shares_root = || Arc::strong_count(&self.fs) > 2;
        let alone = self.task.process.tasks().len() == 1;
        match namespace {
            // Nobody gains capabilities by entering where he is, and threads of a process are in one namespace.
            Namespace::User(ns) if *ns == self.creds.userns || !alone || shares_root() => {
                return Err(Errno::EINVAL);
            }
            Namespace::User(ns) => {
                let may = creds.ns_capable(ns, cap::SYS_ADMIN);
                return if may { Ok(()) } else { Err(Errno::EPERM) };
            }
            // Threads of a process have one time.
            Namespace::Time(_) if !alone => return Err(Errno::EUSERS),
            // The way leads down only.
            Namespace::Pid(pidns) if !self.task.process.pidns.contains(pidns) => {
                return Err(Errno::EINVAL);
            }
            // Others that share the root would go along.
            Namespace::Mount(_) if shares_root() => return Err(Errno::EINVAL),
            Namespace::Mount(_) if !creds.own_capable(cap::SYS_CHROOT) => {
                return Err(Errno::EPERM);
            }
            _ => {}
        }
        let owner = namespace.owner().ok_or(Errno::EINVAL)?;
        let may = creds.ns_capable(owner, cap::SYS_ADMIN) && creds.own_capable(cap::SYS_ADMIN);
        if may { Ok(()) } else { Err(Errno::EPERM) }
    }
}
