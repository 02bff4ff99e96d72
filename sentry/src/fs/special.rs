//! Opening what a file system only names: device nodes, FIFOs and sockets.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::context::Cx;
use super::inode::{FileOps, Inode};
use super::types::{FileType, OpenFlags};
use crate::errno::Errno;

/// Opens the object that a node stands for.
pub fn open(
    _cx: &Cx<'_>,
    inode: &Arc<dyn Inode>,
    _flags: OpenFlags,
) -> Result<Box<dyn FileOps>, Errno> {
    match inode.kind() {
        FileType::CharDevice | FileType::BlockDevice => Err(Errno::ENXIO),
        _ => Err(Errno::ENXIO),
    }
}
