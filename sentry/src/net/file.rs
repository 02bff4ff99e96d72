//! Sockets as open files.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;

use super::Socket;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::anon::AnonInode;
use crate::fs::fasync::Tells;
use crate::fs::{Cx, Events, File, FileOps, FileType, Inode, IoDst, IoSrc, OpenFlags, Written};
use crate::sync::WaitQueue;
use crate::task::Current;

/// SIOCOUTQ and SIOCATMARK (linux/sockios.h).
const SIOCOUTQ: u32 = 0x5411;
const SIOCATMARK: u32 = 0x8905;

/// An open file that is a socket.
pub struct SocketFile {
    socket: Box<dyn Socket>,
}

impl SocketFile {
    /// The socket.
    pub fn socket(&self) -> &dyn Socket {
        &*self.socket
    }
}

/// Makes an open file of a socket; of `flags` O_NONBLOCK counts.
pub fn open(cx: &Cx<'_>, socket: Box<dyn Socket>, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    let (uid, gid) = super::owner(cx);
    let inode = AnonInode::new(FileType::Socket, "socket", 0o777, uid, gid);
    socket.opened(inode.ino());
    let flags = OpenFlags::RDWR | flags & OpenFlags::NONBLOCK;
    File::new(Box::new(SocketFile { socket }), Arc::new(inode), None, flags)
}

impl FileOps for SocketFile {
    fn can_hurry(&self, _writes: bool) -> bool {
        true
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        self.socket.try_read(dst)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        Ok(Written { count: self.socket.try_write(src)?, end: 0 })
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn writes_all(&self) -> bool {
        self.socket.kind() == super::Kind::Stream
    }

    fn poll(&self, _file: &File) -> Events {
        self.socket.poll()
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(self.socket.queue())
    }

    fn tells(&self) -> Option<Tells> {
        let events = Events::IN | Events::OUT | Events::PRI | Events::HUP;
        Some(Tells { events, any: false, group: None })
    }

    fn available(&self, _file: &File) -> Result<usize, Errno> {
        self.socket.available()
    }

    fn ioctl(&self, cx: &mut Current, _file: &File, command: u32, arg: u64) -> SysResult {
        match command {
            SIOCOUTQ => {
                let bytes = i32::try_from(self.socket.unsent()?).unwrap_or(i32::MAX);
                cx.mm.copy_out(arg, &bytes.to_le_bytes())?;
                Ok(0)
            }
            SIOCATMARK => {
                let mark = u32::from(self.socket.at_mark()?);
                cx.mm.copy_out(arg, &mark.to_le_bytes())?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY.into()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.close();
    }
}
