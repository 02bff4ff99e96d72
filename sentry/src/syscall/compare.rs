//! What a task may know and take of another one's resources: kcmp, pidfd_getfd.

use alloc::sync::Arc;
use core::cmp::Ordering;
use core::sync::atomic::Ordering::Relaxed;

use super::file_args::fd_limit;
use super::{Args, word};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::epoll::Epoll;
use crate::fs::{FdTable, File};
use crate::platform::platform;
use crate::task::{AccessMode, Current, Task, may_access, pidfd};

/// What kcmp(2) compares (linux/kcmp.h).
mod kind {
    pub const FILE: i32 = 0;
    pub const VM: i32 = 1;
    pub const FILES: i32 = 2;
    pub const FS: i32 = 3;
    pub const SIGHAND: i32 = 4;
    pub const IO: i32 = 5;
    pub const SYSVSEM: i32 = 6;
    pub const EPOLL_TFD: i32 = 7;
}

/// `EPERM` unless the caller may look into a task.
fn check_access(cx: &Current, task: &Task) -> Result<(), Errno> {
    let may = may_access(Some(&cx.task), &cx.creds, task, AccessMode::RealCreds);
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

fn table(task: &Task) -> Result<Arc<FdTable>, Errno> {
    task.shared.lock().files.clone().ok_or(Errno::EBADF)
}

/// A descriptor of a task, O_PATH ones too.
fn file_of(task: &Task, fd: u64) -> Result<Arc<File>, Errno> {
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    table(task)?.get_any(fd)
}

/// pidfd_getfd(2).
pub fn pidfd_getfd(cx: &mut Current, args: Args) -> SysResult {
    if args.uint(2) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (process, _) = pidfd::process_of(cx, args.int(0))?;
    // One that has ended, or is about to, has no descriptors.
    let leader = process.pids.task(process.pid).ok_or(Errno::ESRCH)?;
    check_access(cx, &leader)?;
    let file = file_of(&leader, u64::from(args.uint(1)))?;
    Ok(cx.files.insert(file, true, fd_limit(cx))? as u64)
}

/// Orders what only has addresses, so that the order says nothing of them.
fn by_address<T: ?Sized>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> Ordering {
    static SECRET: spin::Once<u64> = spin::Once::new();
    let secret = *SECRET.call_once(|| {
        let mut bytes = [0; 8];
        platform().random(&mut bytes);
        // Odd, so that no two addresses become one.
        u64::from_le_bytes(bytes) | 1
    });
    let mixed = |arc: Option<&Arc<T>>| {
        arc.map_or(0, |arc| (Arc::as_ptr(arc).addr() as u64).wrapping_mul(secret))
    };
    mixed(a).cmp(&mixed(b))
}

/// The file that an epoll instance of `task` watches; `slot` has the instance, the descriptor that the file
/// was known by, and which of several that had this number.
fn watched(cx: &Current, task: &Task, slot: u64) -> Result<Arc<File>, Errno> {
    let raw = cx.mm.copy_in_array(slot, 12, 1, 12)?;
    let (instance, fd) = (word(&raw, 0) as u32, (word(&raw, 0) >> 32) as u32);
    let nth = raw.get(8..).and_then(|b| b.first_chunk::<4>()).ok_or(Errno::EFAULT)?;
    let file = file_of(task, instance.into())?;
    let epoll = file.ops_as::<Epoll>().ok_or(Errno::EINVAL)?;
    epoll.watched(fd as i32, u32::from_le_bytes(*nth) as usize).ok_or(Errno::ENOENT)
}

/// kcmp(2): 0 where both have the same, 1 and 2 for less and greater in an order that means nothing else.
pub fn kcmp(cx: &mut Current, args: Args) -> SysResult {
    let find = |n: usize| {
        let process = &cx.task.process;
        let nr = u32::try_from(args.int(n)).map_err(|_| Errno::ESRCH)?;
        let tid = process.pidns.id_of(nr).ok_or(Errno::ESRCH)?;
        process.pids.task(tid).ok_or(Errno::ESRCH)
    };
    let (a, b) = (find(0)?, find(1)?);
    check_access(cx, &a)?;
    check_access(cx, &b)?;
    let (first, second) = (args.get(3), args.get(4));
    let order = match args.int(2) {
        kind::FILE => {
            let (a, b) = (file_of(&a, first)?, file_of(&b, second)?);
            a.id.cmp(&b.id)
        }
        kind::VM => {
            let of = |task: &Task| task.shared.lock().mm.clone();
            let (a, b) = (of(&a), of(&b));
            by_address(a.as_ref(), b.as_ref())
        }
        kind::FILES => {
            let of = |task: &Task| task.shared.lock().files.clone();
            let (a, b) = (of(&a), of(&b));
            by_address(a.as_ref(), b.as_ref())
        }
        kind::FS => {
            let of = |task: &Task| task.shared.lock().fs.clone();
            let (a, b) = (of(&a), of(&b));
            by_address(a.as_ref(), b.as_ref())
        }
        kind::SIGHAND => {
            let actions = |task: &Task| task.process.signals.lock().actions.clone();
            by_address(Some(&actions(&a)), Some(&actions(&b)))
        }
        kind::IO => {
            let of = |task: &Task| task.sched.lock().ioprio.clone();
            let (a, b) = (of(&a), of(&b));
            by_address(a.as_ref(), b.as_ref())
        }
        kind::SYSVSEM => {
            // A list is there only where SEM_UNDO was used, or where threads share one.
            let list = |task: &Task| {
                let process = &task.process;
                process.has_semaphore_undo.load(Relaxed).then_some(process.pid)
            };
            list(&a).cmp(&list(&b))
        }
        kind::EPOLL_TFD => {
            let file = file_of(&a, first)?;
            file.id.cmp(&watched(cx, &b, second)?.id)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(match order {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    })
}
