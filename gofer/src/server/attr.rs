//! Attributes: statx, setattr, statfs, symbolic links' targets.

use rustix::fd::AsFd;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::Session;
use super::errors::{Result, from_wire};
use super::fids::{Entry, Inode};
use super::host;
use crate::wire::*;

/// P9_GETATTR_BASIC: everything up to blocks.
const GETATTR_BASIC: u64 = 0x7ff;
/// P9_GETATTR_BTIME.
const GETATTR_BTIME: u64 = 0x800;
/// The permission bits of a mode.
pub(super) const PERMISSIONS: u32 = 0o7777;
/// "Leave it as it is", for owners and groups (chown(2)).
pub(super) const UNCHANGED: u32 = u32::MAX;

impl Session {
    pub(super) fn statfs<'r>(&self, fid: Fid) -> Result<Reply<'r>> {
        let stat = rustix::fs::fstatfs(&self.fids.get(fid)?.inode.fd)?;
        // The kernel's fields are signed in places but never negative; what does not fit saturates.
        let wide = |value: i64| u64::try_from(value).unwrap_or(0);
        let narrow = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Reply::Statfs {
            stat: StatFs {
                kind: narrow(wide(stat.f_type) as i64),
                bsize: narrow(stat.f_bsize),
                blocks: stat.f_blocks,
                bfree: stat.f_bfree,
                bavail: stat.f_bavail,
                files: stat.f_files,
                ffree: stat.f_ffree,
                fsid: 0,
                namelen: narrow(stat.f_namelen),
            },
        })
    }

    pub(super) fn statx<'r>(&self, fid: Fid, _mask: u32) -> Result<Reply<'r>> {
        // Everything at once: asking the host for less saves nothing that can be measured.
        Ok(Reply::Statx { attr: host::node(&self.fids.get(fid)?.inode.fd)?.attr })
    }

    pub(super) fn getattr<'r>(&self, fid: Fid, mask: u64) -> Result<Reply<'r>> {
        let Node { qid, attr } = host::node(&self.fids.get(fid)?.inode.fd)?;
        // 9P2000.L has times as unsigned: before the epoch they wrap, as Linux's client expects.
        let seconds = |time: Time| time.sec as u64;
        Ok(Reply::Getattr {
            attr: PlainAttr {
                valid: mask & (GETATTR_BASIC | GETATTR_BTIME),
                qid,
                mode: attr.mode,
                uid: attr.uid,
                gid: attr.gid,
                nlink: attr.nlink.into(),
                rdev: rustix::fs::makedev(attr.rdev.major, attr.rdev.minor),
                size: attr.size,
                blksize: attr.blksize.into(),
                blocks: attr.blocks,
                atime_sec: seconds(attr.atime),
                atime_nsec: attr.atime.nsec.into(),
                mtime_sec: seconds(attr.mtime),
                mtime_nsec: attr.mtime.nsec.into(),
                ctime_sec: seconds(attr.ctime),
                ctime_nsec: attr.ctime.nsec.into(),
                btime_sec: seconds(attr.btime),
                btime_nsec: attr.btime.nsec.into(),
                generation: 0,
                data_version: 0,
            },
        })
    }

    pub(super) fn setattr(&mut self, fid: Fid, set: &SetAttr) -> Result<()> {
        let entry = self.fids.get(fid)?;
        let inode = entry.changeable()?;
        let valid = SetValid::from_bits(set.valid).ok_or(Errno::INVAL)?;
        if valid.intersects(SetValid::UID | SetValid::GID) {
            let pick = |flag, id| if valid.contains(flag) { id } else { UNCHANGED };
            chown(inode, pick(SetValid::UID, set.uid), pick(SetValid::GID, set.gid))?;
        }
        if valid.contains(SetValid::SIZE) {
            self.truncate(entry, set.size)?;
        }
        // Both of these take set-ID bits away that the client may mean to keep.
        if valid.contains(SetValid::MODE) {
            self.chmod(inode, set.mode)?;
        }
        if valid.intersects(SetValid::ATIME | SetValid::MTIME) {
            let pick = |flag, given, sec: u64, nsec: u64| match () {
                () if !valid.contains(flag) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
                () if !valid.contains(given) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
                // utimensat(2); larger values of nsec would be the special ones.
                () if nsec > 999_999_999 => Err(Errno::INVAL),
                () => Ok(Timespec { tv_sec: sec as i64, tv_nsec: nsec as i64 }),
            };
            let times = Timestamps {
                last_access: pick(
                    SetValid::ATIME,
                    SetValid::ATIME_SET,
                    set.atime_sec,
                    set.atime_nsec,
                )?,
                last_modification: pick(
                    SetValid::MTIME,
                    SetValid::MTIME_SET,
                    set.mtime_sec,
                    set.mtime_nsec,
                )?,
            };
            let path = self.host.path(inode.fd.as_fd());
            rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Sets permissions through the descriptor's path: `fchmod` refuses `O_PATH` descriptors.
    pub(super) fn chmod(&self, inode: &Inode, mode: u32) -> Result<()> {
        if inode.kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let path = self.host.path(inode.fd.as_fd());
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode & PERMISSIONS), AtFlags::empty())
    }

    fn truncate(&self, entry: &Entry, size: u64) -> Result<()> {
        match entry.inode.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        match &entry.open {
            Some(open) if open.write => rustix::fs::ftruncate(&open.fd, size),
            _ => rustix::fs::ftruncate(self.host.reopen(&entry.inode, OFlags::WRONLY)?, size),
        }
    }

    pub(super) fn readlink(&self, tag: u16, fid: Fid, buffer: &mut [u8]) -> Result<usize> {
        let inode = &self.fids.get(fid)?.inode;
        if inode.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = rustix::fs::readlinkat(&inode.fd, c"", Vec::new())?;
        Reply::Readlink { target: target.to_bytes() }.emit(tag, buffer).map_err(from_wire)
    }
}

/// Sets owner and group, each unless it is [`UNCHANGED`].
pub(super) fn chown(inode: &Inode, uid: u32, gid: u32) -> Result<()> {
    let uid = (uid != UNCHANGED).then(|| Uid::from_raw(uid));
    let gid = (gid != UNCHANGED).then(|| Gid::from_raw(gid));
    rustix::fs::chownat(&inode.fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}
