//! Extended attributes, by messages of the dialect or by 9P2000.L's special fids.
//!
//! All go through the descriptor's path: the calls that take descriptors refuse `O_PATH` ones.

use std::ffi::CString;

use rustix::fd::AsFd;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Session;
use super::errors::{Result, from_wire};
use super::fids::{Entry, Xattr};
use crate::wire::*;

/// The longest name of an attribute (XATTR_NAME_MAX of limits.h).
const XATTR_NAME_MAX: usize = 255;
/// The longest value, and the longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_SIZE_MAX: usize = 65536;

impl Session {
    pub(super) fn get_xattr(
        &mut self,
        tag: u16,
        fid: Fid,
        name: &[u8],
        size: u32,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let value = self.xattr_value(fid, name)?;
        let (size, data) = fit(&value, size)?;
        Reply::GetXattr { size, data }.emit(tag, buffer).map_err(from_wire)
    }

    pub(super) fn list_xattr(
        &mut self,
        tag: u16,
        fid: Fid,
        size: u32,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let names = self.xattr_names(fid)?;
        let (size, data) = fit(&names, size)?;
        Reply::ListXattr { size, data }.emit(tag, buffer).map_err(from_wire)
    }

    pub(super) fn set_xattr(
        &mut self,
        fid: Fid,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let name = xattr_name(name)?;
        let inode = self.fids.get(fid)?.changeable()?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(self.host.path(inode.fd.as_fd()), &name, value, flags)
    }

    pub(super) fn remove_xattr(&mut self, fid: Fid, name: &[u8]) -> Result<()> {
        let name = xattr_name(name)?;
        let inode = self.fids.get(fid)?.changeable()?;
        rustix::fs::removexattr(self.host.path(inode.fd.as_fd()), &name)
    }

    /// Xattrwalk: the value, or the list for an empty name, becomes what `newfid` reads.
    pub(super) fn xattr_walk<'r>(
        &mut self,
        fid: Fid,
        newfid: Fid,
        name: &[u8],
    ) -> Result<Reply<'r>> {
        self.fids.check_new(newfid)?;
        let value =
            if name.is_empty() { self.xattr_names(fid)? } else { self.xattr_value(fid, name)? };
        self.fids.check_xattr_bytes(value.len())?;
        let size = value.len() as u64;
        let inode = self.fids.get(fid)?.inode.clone();
        self.fids.insert(newfid, inode, None)?;
        self.fids.update(newfid, |entry| {
            entry.xattr = Some(Xattr::Reading(value));
            Ok(())
        })?;
        Ok(Reply::Xattrwalk { size })
    }

    /// Xattrcreate: `fid` takes the value by writes.
    pub(super) fn xattr_create(
        &mut self,
        fid: Fid,
        name: &[u8],
        size: u64,
        flags: u32,
    ) -> Result<()> {
        xattr_name(name)?;
        XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= XATTR_SIZE_MAX);
        let size = size.ok_or(Errno::TOOBIG)?;
        self.fids.check_xattr_bytes(size)?;
        self.fids.update(fid, |entry| {
            entry.changeable()?;
            if entry.open.is_some() || entry.xattr.is_some() {
                return Err(Errno::BUSY);
            }
            let value = Vec::with_capacity(size);
            entry.xattr = Some(Xattr::Writing { name: name.into(), value, size, flags });
            Ok(())
        })
    }

    /// A write to a fid of [`Session::xattr_create`].
    pub(super) fn write_xattr(&mut self, fid: Fid, offset: u64, data: &[u8]) -> Result<u32> {
        self.fids.update(fid, |entry| {
            let Some(Xattr::Writing { value, size, .. }) = &mut entry.xattr else {
                return Err(Errno::BADF);
            };
            let end = value.len().checked_add(data.len()).ok_or(Errno::RANGE)?;
            if offset != value.len() as u64 || end > *size {
                return Err(Errno::RANGE);
            }
            value.extend_from_slice(data);
            u32::try_from(data.len()).map_err(|_| Errno::RANGE)
        })
    }

    /// Sets the attribute that a clunked fid was writing.
    pub(super) fn finish_xattr(&mut self, entry: Entry) -> Result<()> {
        let Some(Xattr::Writing { name, value, size, flags }) = &entry.xattr else {
            return Ok(());
        };
        if value.len() != *size {
            return Err(Errno::INVAL);
        }
        let path = self.host.path(entry.inode.fd.as_fd());
        let name = xattr_name(name)?;
        if *size == 0 && *flags == 0 {
            // Linux's client removes an attribute by setting it to nothing (v9fs).
            return match rustix::fs::removexattr(path, &name) {
                Err(Errno::NODATA) => Ok(()),
                other => other,
            };
        }
        let flags = XattrFlags::from_bits(*flags).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(path, &name, value, flags)
    }

    fn xattr_value(&self, fid: Fid, name: &[u8]) -> Result<Vec<u8>> {
        let name = xattr_name(name)?;
        let path = self.host.path(self.fids.get(fid)?.inode.fd.as_fd());
        let mut value = Vec::with_capacity(XATTR_SIZE_MAX);
        rustix::fs::getxattr(&path, &name, rustix::buffer::spare_capacity(&mut value))?;
        Ok(value)
    }

    fn xattr_names(&self, fid: Fid) -> Result<Vec<u8>> {
        let path = self.host.path(self.fids.get(fid)?.inode.fd.as_fd());
        let mut names = Vec::with_capacity(XATTR_SIZE_MAX);
        rustix::fs::listxattr(&path, rustix::buffer::spare_capacity(&mut names))?;
        Ok(names)
    }
}

/// A checked attribute name.
fn xattr_name(name: &[u8]) -> Result<CString> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Errno::RANGE);
    }
    CString::new(name).map_err(|_| Errno::INVAL)
}

/// What getxattr(2) returns for a buffer of `size` bytes: all, the length alone for 0, or ERANGE.
fn fit(value: &[u8], size: u32) -> Result<(u32, Data<'_>)> {
    let length = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    match size {
        0 => Ok((length, Data(&[]))),
        size if size < length => Err(Errno::RANGE),
        _ => Ok((length, Data(value))),
    }
}
