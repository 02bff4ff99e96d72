//! Opening what a file system only names: device nodes, FIFOs and sockets.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::context::Cx;
use super::inode::{FileOps, Inode};
use super::types::{FileType, OpenFlags};
use crate::errno::Errno;

/// Opens the object that a node stands for.
pub fn open(
    cx: &Cx<'_>,
    inode: &Arc<dyn Inode>,
    flags: OpenFlags,
) -> Result<Box<dyn FileOps>, Errno> {
    match inode.kind() {
        FileType::CharDevice => super::dev::open(cx, inode.attr()?.rdev, flags),
        FileType::Fifo => super::pipe::open_fifo(inode, flags),
        _ => Err(Errno::ENXIO),
    }
}
