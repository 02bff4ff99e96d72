//! Byte-range locks. Among the client's own processes the client decides; what is taken here is
//! seen by others on the host. Each owner's locks belong to an open file description of its own
//! (OFD locks, fcntl(2)), so that owners exclude each other as processes do.

use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::Session;
use super::errors::Result;
use super::fids::Inode;
use super::host::Descriptors;
use crate::wire::{Fid, lock};

impl Session {
    /// Sets or clears a lock, never blocking.
    pub(super) fn lock(
        &mut self,
        fid: Fid,
        owner: u64,
        kind: u8,
        start: u64,
        length: u64,
    ) -> Result<u8> {
        let range = range(kind, start, length)?;
        self.fids.check_room(1)?;
        let host = &self.host;
        self.fids.update(fid, |entry| {
            if kind == lock::UNLOCK && start == 0 && length == 0 {
                // Everything: closing the description does it.
                entry.locks.remove(&owner);
                return Ok(lock::SUCCESS);
            }
            let fd = match entry.locks.entry(owner) {
                std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
                std::collections::hash_map::Entry::Vacant(_) if kind == lock::UNLOCK => {
                    return Ok(lock::SUCCESS);
                }
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(description(host, &entry.inode)?)
                }
            };
            match fcntl(&*fd, FcntlArg::F_OFD_SETLK(&range)) {
                Ok(_) => Ok(lock::SUCCESS),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(lock::BLOCKED),
                Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
            }
        })
    }

    /// The first lock that conflicts with one that `owner` would take.
    pub(super) fn get_lock(
        &mut self,
        fid: Fid,
        owner: u64,
        kind: u8,
        start: u64,
        length: u64,
    ) -> Result<(u8, u64, u64)> {
        let mut range = range(kind, start, length)?;
        let entry = self.fids.get(fid)?;
        let mut probe = |fd: &OwnedFd| {
            fcntl(fd, FcntlArg::F_OFD_GETLK(&mut range))
                .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        };
        match entry.locks.get(&owner) {
            Some(held) => probe(held)?,
            None => probe(&description(&self.host, &entry.inode)?)?,
        };
        let kind = match i32::from(range.l_type) {
            libc::F_RDLCK => lock::READ,
            libc::F_WRLCK => lock::WRITE,
            _ => return Ok((lock::UNLOCK, start, length)),
        };
        let unsigned = |value: i64| u64::try_from(value).map_err(|_| Errno::OVERFLOW);
        Ok((kind, unsigned(range.l_start)?, unsigned(range.l_len)?))
    }
}

/// A new description of the file, to hold an owner's locks.
fn description(host: &Descriptors, inode: &Inode) -> Result<OwnedFd> {
    if inode.kind != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    if inode.read_only {
        return host.reopen(inode, OFlags::RDONLY);
    }
    // Write locks need a description that can write; a file that cannot be written still gets
    // read locks.
    match host.reopen(inode, OFlags::RDWR) {
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) => host.reopen(inode, OFlags::RDONLY),
        other => other,
    }
}

/// The lock in the form of fcntl(2).
fn range(kind: u8, start: u64, length: u64) -> Result<libc::flock> {
    let kind = match kind {
        lock::READ => libc::F_RDLCK,
        lock::WRITE => libc::F_WRLCK,
        lock::UNLOCK => libc::F_UNLCK,
        _ => return Err(Errno::INVAL),
    };
    let signed = |value: u64| i64::try_from(value).map_err(|_| Errno::OVERFLOW);
    Ok(libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: signed(start)?,
        l_len: signed(length)?,
        l_pid: 0,
    })
}
