//! POSIX message queues: mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::file_args::{fd_limit, path};
use super::shm::put_words;
use super::{Args, word};
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::mqueue::{MqFile, PRIORITIES, Queue, Registration, Shape, check_name};
use crate::fs::{Access, Dentry, File, Inode, Mount, MountFlags, New, OpenFlags, Path, perm};
use crate::signal::Signal;
use crate::task::Current;
use crate::time::{Clock, TimeSpec};

/// Bytes of a `struct mq_attr`: flags, most messages, size of a message, messages, and four unused words.
const ATTR: usize = 64;

/// sigev_notify (sigevent(7)), and bytes of what SIGEV_THREAD's netlink socket is told.
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
const COOKIE: usize = 32;

fn read_attr(cx: &Current, addr: u64) -> Result<Option<Vec<u8>>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    cx.mm.copy_in_array(addr, ATTR, 1, ATTR).map(Some)
}

/// mq_open(2).
pub fn mq_open(cx: &mut Current, args: Args) -> SysResult {
    let attr = read_attr(cx, args.get(3))?;
    let shape = attr.map(|a| Shape { messages: word(&a, 1) as i64, size: word(&a, 2) as i64 });
    let flags = args.uint(1);
    let name = path(cx, args.get(0))?;
    check_name(&name)?;
    let namespaces = cx.namespaces.clone();
    let (fs, sb) = namespaces.ipc.mqueue();
    let directory = fs.directory();
    let context = cx.cx();
    let open = OpenFlags::from_bits_truncate(flags);
    let exclusive = open.contains(OpenFlags::CREAT | OpenFlags::EXCL);
    let mut found = directory.find(&name);
    let mut made = None;
    if found.is_none() && open.contains(OpenFlags::CREAT) {
        perm::may_create(&context, sb, &**directory)?;
        let mode = args.uint(2) & 0o7777 & !cx.fs.umask();
        let new = New { mode, uid: cx.creds.fsuid, gid: cx.creds.fsgid };
        match directory.make(&context, &name, new, shape) {
            // Somebody was faster: theirs it is.
            Err(Errno::EEXIST) if !exclusive => found = directory.find(&name),
            result => made = Some(result?),
        }
    }
    let queue = match made.ok_or(found) {
        // Whoever made it may open it, whatever its mode says.
        Ok(queue) => queue,
        Err(None) => return Err(Errno::ENOENT.into()),
        Err(Some(_)) if exclusive => return Err(Errno::EEXIST.into()),
        Err(Some(queue)) => {
            let want = match flags & 3 {
                0 => Access::READ,
                1 => Access::WRITE,
                2 => Access::READ | Access::WRITE,
                _ => return Err(Errno::EINVAL.into()),
            };
            perm::check(&cx.creds, queue.perm()?, want)?;
            queue
        }
    };
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let dentry = Dentry::new(sb, Some(root.clone()), &name, Some(queue.clone()));
    let mount = Mount::new(sb, root, MountFlags::RELATIME, "mqueue".into());
    let kept = open & (OpenFlags::WRONLY | OpenFlags::RDWR | OpenFlags::NONBLOCK);
    let ops = Box::new(MqFile(queue.clone(), Some(cx.task.process.pidns.clone())));
    let file = File::new(ops, queue, Some(Path { mount, dentry }), kept)?;
    Ok(cx.files.insert(file, true, fd_limit(cx))? as u64)
}

/// mq_unlink(2).
pub fn mq_unlink(cx: &mut Current, args: Args) -> SysResult {
    let name = path(cx, args.get(0))?;
    check_name(&name)?;
    let namespaces = cx.namespaces.clone();
    let directory = namespaces.ipc.mqueue().0.directory();
    let queue = directory.find(&name).ok_or(Errno::ENOENT)?;
    perm::may_delete(&cx.cx(), &**directory, &*queue)?;
    directory.remove(&name)?;
    Ok(0)
}

/// An open queue that may be used for this. `EBADF` for anything else.
fn queue(
    cx: &Current,
    fd: i32,
    may: fn(OpenFlags) -> bool,
) -> Result<(Arc<File>, Arc<Queue>), Errno> {
    let file = cx.files.get(fd)?;
    let queue = file.ops_as::<MqFile>().ok_or(Errno::EBADF)?.0.clone();
    if may(file.flags()) { Ok((file, queue)) } else { Err(Errno::EBADF) }
}

/// A timeout by the wall clock, as a deadline of the monotonic one.
fn deadline(cx: &Current, addr: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    Ok(Some(Clock::Realtime.to_monotonic(TimeSpec::read(&cx.mm, addr)?.to_ns()?)))
}

/// mq_timedsend(2).
pub fn mq_timedsend(cx: &mut Current, args: Args) -> SysResult {
    let (len, priority) = (args.size(2), args.uint(3));
    let deadline = deadline(cx, args.get(4))?;
    if priority >= PRIORITIES {
        return Err(Errno::EINVAL.into());
    }
    let (file, queue) = queue(cx, args.int(0), OpenFlags::writes)?;
    let most = usize::try_from(queue.numbers().msgsize).map_err(|_| Errno::EMSGSIZE)?;
    if len > most {
        return Err(Errno::EMSGSIZE.into());
    }
    let data = cx.mm.copy_in_array(args.get(1), len, 1, most)?;
    queue.send(cx, data, priority, file.nonblocking(), deadline)?;
    Ok(0)
}

/// mq_timedreceive(2).
pub fn mq_timedreceive(cx: &mut Current, args: Args) -> SysResult {
    let deadline = deadline(cx, args.get(4))?;
    let (file, queue) = queue(cx, args.int(0), OpenFlags::reads)?;
    if (args.size(2) as u64) < queue.numbers().msgsize as u64 {
        return Err(Errno::EMSGSIZE.into());
    }
    let (data, priority) = queue.receive(cx, file.nonblocking(), deadline)?;
    if args.get(3) != 0 {
        cx.mm.copy_out(args.get(3), &priority.to_le_bytes())?;
    }
    cx.mm.copy_out(args.get(1), &data)?;
    Ok(data.len() as u64)
}

/// mq_notify(2).
pub fn mq_notify(cx: &mut Current, args: Args) -> SysResult {
    // struct sigevent: value, signo, notify.
    let event = match args.get(1) {
        0 => None,
        addr => Some(cx.mm.copy_in_array(addr, ATTR, 1, ATTR)?),
    };
    let mut wanted = None;
    if let Some(event) = &event {
        let (value, number, notify) =
            (word(event, 0), word(event, 1) as i32, (word(event, 1) >> 32) as i32);
        wanted = Some((
            value,
            match notify {
                SIGEV_NONE => None,
                SIGEV_SIGNAL if number == 0 => None,
                SIGEV_SIGNAL => Some(Signal::new(number)?),
                SIGEV_THREAD => {
                    // The number is a netlink socket's, and such sockets are not there.
                    cx.mm.copy_in_array(value, COOKIE, 1, COOKIE)?;
                    let file = cx.files.get(number)?;
                    let is_socket = file.ops_as::<crate::net::SocketFile>().is_some();
                    return Err(if is_socket { Errno::EINVAL } else { Errno::ENOTSOCK }.into());
                }
                _ => return Err(Errno::EINVAL.into()),
            },
        ));
    }
    let (_file, queue) = queue(cx, args.int(0), |_| true)?;
    let files = cx.files.id;
    let Some((value, signal)) = wanted else {
        queue.unregister(files);
        return Ok(0);
    };
    let process = &cx.task.process;
    let (pid, process) = (process.pid, Arc::downgrade(process));
    queue.register(Registration { process, pid, files, signal, value })?;
    Ok(0)
}

/// mq_getsetattr(2).
pub fn mq_getsetattr(cx: &mut Current, args: Args) -> SysResult {
    let nonblock = u64::from(OpenFlags::NONBLOCK.bits());
    let new = read_attr(cx, args.get(1))?.map(|attr| word(&attr, 0));
    if new.is_some_and(|flags| flags & !nonblock != 0) {
        return Err(Errno::EINVAL.into());
    }
    let (file, queue) = queue(cx, args.int(0), |_| true)?;
    let old = u64::from((file.flags() & OpenFlags::NONBLOCK).bits());
    let numbers = queue.numbers();
    if let Some(flags) = new {
        let mut now = file.flags();
        now.set(OpenFlags::NONBLOCK, flags & nonblock != 0);
        file.set_flags(now).map_err(SysError::from)?;
    }
    if args.get(2) != 0 {
        let [most, size, there] =
            [numbers.maxmsg, numbers.msgsize, numbers.curmsgs].map(|n| n as u64);
        put_words(cx, args.get(2), &[old, most, size, there, 0, 0, 0, 0])?;
    }
    Ok(0)
}
