//! Who may look into whom (ptrace(2), "Ptrace access mode checking"): one rule for debuggers,
//! process_vm_readv(2) and the private files of /proc. No security module adds to it.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{Creds, Task, UserNamespace, cap};

/// Which of the caller's identities counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// That for files (PTRACE_MODE_FSCREDS): /proc.
    FsCreds,
    /// The real one (PTRACE_MODE_REALCREDS): system calls.
    RealCreds,
}

/// Whether `caller`, a task of these credentials, may look into `target`; `None`: the caller is no task.
/// As `__ptrace_may_access()` of kernel/ptrace.c, and cap_ptrace_access_check() after it.
pub fn may_access(
    caller: Option<&Arc<Task>>,
    creds: &Creds,
    target: &Task,
    mode: AccessMode,
) -> bool {
    if caller.is_some_and(|me| core::ptr::eq(&*me.process, &*target.process)) {
        return true;
    }
    let theirs = target.creds();
    let traces = |ns: &UserNamespace| creds.ns_capable(ns, cap::SYS_PTRACE);
    let (uid, gid, caps) = match mode {
        AccessMode::FsCreds => (creds.fsuid, creds.fsgid, creds.capabilities.effective),
        AccessMode::RealCreds => (creds.uid, creds.gid, creds.capabilities.permitted),
    };
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == gid);
    if !same && !traces(&theirs.userns) {
        return false;
    }
    let process = &target.process;
    // What memory must not be told counts where it was loaded, wherever its task has gone since.
    let memory_owner = process.memory_owner.lock().clone();
    if !process.dumpable.load(Ordering::Relaxed) && !traces(&memory_owner) {
        return false;
    }
    let no_more = creds.userns == theirs.userns && theirs.capabilities.permitted & !caps == 0;
    no_more || traces(&theirs.userns)
}
