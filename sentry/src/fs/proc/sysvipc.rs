//! /proc/sysvipc: the System V objects of the reader's IPC namespace (ipcs(1) reads them).

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write as _;

use super::{About, Entry, text};
use crate::errno::Errno;
use crate::ipc::Ipc;
use crate::platform::PAGE_SIZE;

pub(super) const ENTRIES: &[Entry] = &[text("msg", msg), text("sem", sem), text("shm", shm)];

fn ipc(about: &About<'_>) -> Result<(Arc<Ipc>, Arc<crate::task::Creds>), Errno> {
    let task = about.cx.task.ok_or(Errno::ESRCH)?;
    let shared = task.shared.lock();
    Ok((shared.namespaces.ipc.clone(), shared.creds.clone()))
}

// Writing to a String cannot fail.

fn msg(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    out.push_str(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
         stime      rtime      ctime\n",
    );
    let (ipc, creds) = ipc(about)?;
    for queue in ipc.queues.all() {
        // Who reads this sees all, readable or not.
        let Ok(s) = queue.stat(&creds, false) else { continue };
        let p = &s.perm.seen_from(&creds.userns);
        let _ = writeln!(
            out,
            "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            p.key,
            s.id,
            p.mode,
            s.cbytes,
            s.qnum,
            about.pidns.nr(s.lspid),
            about.pidns.nr(s.lrpid),
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.stime,
            s.rtime,
            s.ctime
        );
    }
    Ok(())
}

fn sem(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    out.push_str(
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
    );
    let (ipc, creds) = ipc(about)?;
    for set in ipc.semaphores.all() {
        let Ok(s) = set.stat(&creds, false) else { continue };
        let p = &s.perm.seen_from(&creds.userns);
        let _ = writeln!(
            out,
            "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            p.key, set.id, p.mode, s.nsems, p.uid, p.gid, p.cuid, p.cgid, s.otime, s.ctime
        );
    }
    Ok(())
}

fn shm(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    out.push_str(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
         atime      dtime      ctime                   rss                  swap\n",
    );
    let (ipc, creds) = ipc(about)?;
    for segment in ipc.segments.all() {
        let Ok(s) = segment.stat(&creds, false) else { continue };
        let p = &s.perm.seen_from(&creds.userns);
        let rss = s.rss.saturating_mul(PAGE_SIZE as u64);
        let _ = writeln!(
            out,
            "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            p.key,
            s.id,
            p.mode,
            s.segsz,
            about.pidns.nr(s.cpid),
            about.pidns.nr(s.lpid),
            s.nattch,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.atime,
            s.dtime,
            s.ctime,
            rss,
            0
        );
    }
    Ok(())
}
