//! Descriptors that name processes (pidfd_open(2)).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Write as _;

use super::{Current, PidNamespace, Process, limit};
use crate::errno::Errno;
use crate::fs::anon::AnonInode;
use crate::fs::{Events, File, FileOps, FileType, OpenFlags};
use crate::sync::WaitQueue;

struct PidFd(Arc<Process>);

impl FileOps for PidFd {
    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, _file: &File) -> Events {
        if self.0.is_zombie() { Events::READABLE } else { Events::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.ended)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What fdinfo says of a descriptor that names a process, in a procfs that shows `pidns`; `None` of others.
pub fn fdinfo(file: &File, pidns: &PidNamespace) -> Option<String> {
    let process = &file.ops_as::<PidFd>()?.0;
    if process.pids.process(process.pid).is_none() {
        return Some("Pid:\t-1\nNSpid:\t-1\n".into());
    }
    let nr = pidns.nr(process.pid);
    let mut text = format!("Pid:\t{nr}\nNSpid:\t{nr}");
    if nr != 0 {
        for below in pidns.numbers_down_to(&process.pidns, process.pid).iter().skip(1) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\t{below}");
        }
    }
    text.push('\n');
    Some(text)
}

/// Opens a descriptor for a process; it is closed by exec.
pub fn open(cx: &Current, process: &Arc<Process>, nonblocking: bool) -> Result<i32, Errno> {
    let inode = AnonInode::new(FileType::Anonymous, "anon_inode:[pidfd]", 0o600, 0, 0);
    let mut flags = OpenFlags::RDWR;
    flags.set(OpenFlags::NONBLOCK, nonblocking);
    let file = File::new(Box::new(PidFd(process.clone())), Arc::new(inode), None, flags)?;
    cx.files.insert(file, true, cx.task.process.limits.soft(limit::RLIMIT_NOFILE))
}

/// The process that a descriptor names, and the descriptor's flags. `EBADF` where it names none.
pub fn process_of(cx: &Current, fd: i32) -> Result<(Arc<Process>, OpenFlags), Errno> {
    let file = cx.files.get(fd)?;
    let process = file.ops_as::<PidFd>().ok_or(Errno::EBADF)?.0.clone();
    Ok((process, file.flags()))
}
