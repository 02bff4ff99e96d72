//! What a new tmpfs has of the directory that it covers, where a container's configuration says so (`tmpcopyup`).

use alloc::vec;

use super::context::Cx;
use super::inode::Link;
use super::overlayfs::{copy_data, list, open_real};
use super::path::Path;
use super::types::{FileType, OpenFlags, SetAttr, mode};
use super::walk::WalkFlags;
use crate::errno::Errno;

/// Copies all that is in a directory, and mounted below it, into another one.
///
/// As runc does, which has it of mrunalp/fileutils: data, owners and modes are copied, but what the umask takes of a
/// directory's mode; times are those of now, extended attributes are not copied, and each of a file's names becomes a file. Where
/// a file has only zeros there are holes, which runc fills. It fails at a FIFO, a socket and a character device, which here are copied as the rest is.
pub(super) fn fill(cx: &Cx<'_>, from: &Path, to: &Path) -> Result<(), Errno> {
    let mut pending = vec![(from.clone(), to.clone())];
    while let Some((from, to)) = pending.pop() {
        for entry in list(cx, from.inode()?)? {
            let source = cx.walk(Some(&from), &entry.name, WalkFlags::empty())?;
            let copy = copy(cx, &source, &to, &entry.name)?;
            if source.inode()?.kind() == FileType::Directory {
                pending.push((source, copy));
            }
        }
    }
    Ok(())
}

/// Copies one, but not what is in it.
fn copy(cx: &Cx<'_>, from: &Path, to: &Path, name: &[u8]) -> Result<Path, Errno> {
    let source = from.inode()?;
    let attr = source.attr()?;
    match source.kind() {
        FileType::Directory => cx.mkdir(Some(to), name, attr.mode & mode::PERM)?,
        FileType::Symlink => match source.readlink(cx)? {
            Link::Text(text) => cx.symlink(&text, Some(to), name)?,
            Link::Jump(_) => return Err(Errno::EINVAL),
        },
        kind => cx.mknod(Some(to), name, kind, 0o600, attr.rdev)?,
    }
    let copy = cx.walk(Some(to), name, WalkFlags::empty())?;
    let made = copy.inode()?;
    if source.kind() == FileType::Regular && attr.size > 0 {
        let flags = OpenFlags::LARGEFILE | OpenFlags::NOATIME;
        let data = open_real(cx, source, flags)?;
        let file = open_real(cx, made, OpenFlags::RDWR | OpenFlags::LARGEFILE)?;
        copy_data(&data, &file, attr.size)?;
        // Where the end of it is a hole.
        file.ops().truncate(&file, cx, attr.size)?;
    }
    let owner = SetAttr { uid: Some(attr.uid), gid: Some(attr.gid), ..SetAttr::default() };
    made.set_attr(cx, &owner)?;
    if !matches!(source.kind(), FileType::Directory | FileType::Symlink) {
        let mode = Some(attr.mode & mode::PERM);
        made.set_attr(cx, &SetAttr { mode, ..SetAttr::default() })?;
    }
    Ok(copy)
}
