//! System V IPC (sysvipc(7)): an IPC namespace with its semaphore sets, shared memory segments and message
//! queues. What the three have in common is here and in [`table`].

pub mod msg;
pub mod sem;
pub mod shm;
pub mod table;

use alloc::sync::Arc;

use crate::errno::Errno;
use crate::fs::Super;
use crate::fs::mqueue::MqFs;
use crate::task::{Creds, NamespaceId, UserNamespace, cap};
use crate::time::Clock;

pub use sem::Semaphores;
pub use table::{Object, Table};

/// An IPC namespace (ipc_namespaces(7)).
#[derive(Default)]
pub struct Ipc {
    /// Its number.
    pub id: NamespaceId,
    /// Whose capabilities count for it.
    pub owner: UserNamespace,
    /// Its semaphores.
    pub semaphores: Semaphores,
    /// Its shared memory.
    pub segments: shm::Segments,
    /// Its message queues.
    pub queues: msg::Queues,
    /// Its POSIX message queues, made when they are first asked for.
    mqueue: spin::Once<(Arc<MqFs>, Arc<Super>)>,
}

impl Ipc {
    /// A new one of this user namespace's.
    pub fn owned(owner: UserNamespace) -> Ipc {
        let mut ipc = Ipc { owner, ..Ipc::default() };
        ipc.semaphores.owner = ipc.owner.clone();
        ipc.segments.owner = ipc.owner.clone();
        ipc.queues.owner = ipc.owner.clone();
        ipc
    }

    /// Its POSIX message queues, as a file system, and this as it is in use.
    pub fn mqueue(&self) -> &(Arc<MqFs>, Arc<Super>) {
        self.mqueue.call_once(|| {
            let fs = Arc::new(MqFs::default());
            (fs.clone(), Super::owned(fs, &self.owner))
        })
    }
}

/// The time of day in seconds, as objects keep it.
fn seconds() -> u64 {
    Clock::Realtime.now() / 1_000_000_000
}

/// A key that finds nothing.
pub const IPC_PRIVATE: i32 = 0;

/// Flags of the `get` calls and of semop(2) (linux/ipc.h).
#[allow(missing_docs)] // the names are Linux's
pub mod flag {
    pub const CREAT: u32 = 0o1000;
    pub const EXCL: u32 = 0o2000;
    pub const NOWAIT: u32 = 0o4000;
}

/// Who may do what with an object (struct kern_ipc_perm).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are Linux's
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    /// Whose capabilities count for the object's namespace.
    pub owner: UserNamespace,
}

impl Perm {
    /// Of a new object in a namespace of `owner`'s.
    pub fn new(key: i32, creds: &Creds, mode: u32, owner: &UserNamespace) -> Perm {
        let (uid, gid) = (creds.euid, creds.egid);
        let owner = owner.clone();
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: mode & 0o777, owner }
    }

    /// `EACCES` unless everything that `want` asks for, in any of its three digits, is granted
    /// (ipcperms() in ipc/util.c).
    pub fn check(&self, creds: &Creds, want: u32) -> Result<(), Errno> {
        let want = (want >> 6 | want >> 3 | want) & 7;
        let granted = if self.is_owner(creds) {
            self.mode >> 6
        } else if [self.gid, self.cgid].iter().any(|gid| creds.in_group(*gid)) {
            self.mode >> 3
        } else {
            self.mode
        };
        if want & !granted != 0 && !creds.ns_capable(&self.owner, cap::IPC_OWNER) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// With the numbers of a user namespace for its users and groups.
    pub fn seen_from(&self, ns: &UserNamespace) -> Perm {
        let (uid, gid) = (ns.uid(self.uid), ns.gid(self.gid));
        Perm { uid, gid, cuid: ns.uid(self.cuid), cgid: ns.gid(self.cgid), ..self.clone() }
    }

    fn is_owner(&self, creds: &Creds) -> bool {
        creds.euid == self.uid || creds.euid == self.cuid
    }

    /// `EPERM` for who may neither remove the object nor give it away.
    pub fn check_owner(&self, creds: &Creds) -> Result<(), Errno> {
        if self.is_owner(creds) || creds.ns_capable(&self.owner, cap::SYS_ADMIN) {
            return Ok(());
        }
        Err(Errno::EPERM)
    }
}
