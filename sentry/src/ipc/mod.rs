//! System V IPC (sysvipc(7)): an IPC namespace with its semaphore sets. Shared memory and message
//! queues are not there.

pub mod sem;

use crate::errno::Errno;
use crate::task::{Creds, cap};

pub use sem::Semaphores;

/// An IPC namespace (ipc_namespaces(7)).
#[derive(Default)]
pub struct Ipc {
    /// Its semaphores.
    pub semaphores: Semaphores,
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
}

impl Perm {
    /// Of a new object.
    pub fn new(key: i32, creds: &Creds, mode: u32) -> Perm {
        let (uid, gid) = (creds.euid, creds.egid);
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: mode & 0o777 }
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
        if want & !granted != 0 && !creds.capable(cap::IPC_OWNER) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    fn is_owner(&self, creds: &Creds) -> bool {
        creds.euid == self.uid || creds.euid == self.cuid
    }

    /// `EPERM` for who may neither remove the object nor give it away.
    pub fn check_owner(&self, creds: &Creds) -> Result<(), Errno> {
        if self.is_owner(creds) || creds.capable(cap::SYS_ADMIN) {
            return Ok(());
        }
        Err(Errno::EPERM)
    }
}
