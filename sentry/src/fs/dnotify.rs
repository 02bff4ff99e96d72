//! Directory notification (fcntl(2), F_NOTIFY): a signal for what happens in a directory.
//!
//! What happens is what [`inotify`](super::inotify) is told; its lists of an inode's watches hold these too. A
//! [`Notice`] belongs to an open directory and the descriptor table that it was asked for by, and goes when either is
//! done with the other.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::fasync::{Fasync, OWNER_PID, SignalOwner};
use super::file::File;
use super::inotify::{self, mask};
use super::types::FileType;
use crate::errno::Errno;
use crate::signal::code;
use crate::sync::SpinLock;
use crate::task::Current;

/// A name in a directory became another in the same one. No event of inotify's, and beside all of them.
pub const RENAME: u32 = 0x1000;

/// The caller goes on being told, after the first time (linux/fcntl.h).
const MULTISHOT: u32 = 0x8000_0000;
/// What can be asked for, and what it is for inotify (convert_arg() of fs/notify/dnotify).
const KINDS: [(u32, u32); 6] = [
    (0x01, mask::ACCESS),
    (0x02, mask::MODIFY),
    (0x04, mask::CREATE | mask::MOVED_TO),
    (0x08, mask::DELETE | mask::MOVED_FROM),
    (0x10, RENAME),
    (0x20, mask::ATTRIB),
];
/// What the signal says of the file: EPOLLIN, EPOLLRDNORM and EPOLLMSG (band_table[] of fs/fcntl.c).
const BAND: u32 = 0x441;

/// Whom to tell of what.
struct Notice {
    /// The open directory, and the descriptor table.
    file: u64,
    table: u64,
    /// The descriptor that it was last asked for by.
    fd: i32,
    wanted: u32,
    again: bool,
    owner: Arc<Fasync>,
}

/// Those of a directory.
#[derive(Default)]
pub struct Notices(SpinLock<Vec<Notice>>);

/// fcntl(F_NOTIFY). `ENOTDIR` where `file` is none and there is something to be told of.
pub fn notify(cx: &Current, file: &File, fd: i32, what: u32) -> Result<(), Errno> {
    if what & !MULTISHOT == 0 {
        forget(file, Some(cx.files.id));
        return Ok(());
    }
    if file.inode().kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let kinds = KINDS.iter().filter(|(asked, _)| what & asked != 0);
    let wanted = kinds.fold(0, |all, (_, kind)| all | kind);
    let again = what & MULTISHOT != 0;
    let process = &cx.task.process;
    let owner = file.make_fasync();
    owner.set_default_owner(SignalOwner::new(OWNER_PID, process.pid, &process.pids, &cx.creds));
    let mut notices = file.inode().state().watches().notices().0.lock();
    let (file, table) = (file.id, cx.files.id);
    if let Some(there) = notices.iter_mut().find(|n| n.file == file && n.table == table) {
        there.fd = fd;
        there.wanted |= wanted;
        there.again |= again;
    } else {
        inotify::one_more();
        notices.push(Notice { file, table, fd, wanted, again, owner: owner.clone() });
    }
    Ok(())
}

/// A directory is done with, or a descriptor table with it.
pub fn forget(file: &File, table: Option<u64>) {
    if let Some(watches) = file.inode().state().watches_if_any() {
        watches.notices().keep(|n| n.file != file.id || table.is_some_and(|id| id != n.table));
    }
}

impl Notices {
    fn keep(&self, keeps: impl Fn(&Notice) -> bool) {
        let mut notices = self.0.lock();
        let gone: Vec<Notice> = notices.extract_if(.., |n| !keeps(n)).collect();
        drop(notices);
        gone.iter().for_each(|_| inotify::one_less());
    }

    /// `what` has happened in the directory, or to it.
    pub fn tell(&self, what: u32) {
        let mut told: Vec<(Arc<Fasync>, i32)> = Vec::new();
        for notice in self.0.lock().iter_mut().filter(|n| n.wanted & what != 0) {
            told.push((notice.owner.clone(), notice.fd));
            if !notice.again {
                notice.wanted = 0;
            }
        }
        if told.is_empty() {
            return;
        }
        self.keep(|n| n.wanted != 0);
        // Without the lock: sending takes those of processes.
        for (owner, fd) in told {
            owner.tell(code::POLL_MSG, BAND, fd);
        }
    }
}
