//! Descriptors that the host half holds: a container's standard input and output.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU16, Ordering};

use super::anon::AnonInode;
use super::fdtable::FdTable;
use super::file::File;
use super::inode::{FileOps, Whence, Written};
use super::io::{IoDst, IoSrc};
use super::types::{Events, FileType, MAX_OFFSET, OpenFlags, makedev};
use crate::errno::Errno;
use crate::platform::{Listener, Ready, Stream, StreamId, StreamKind, platform};
use crate::sync::WaitQueue;

/// Most bytes asked of the host at once.
const CHUNK: usize = 64 << 10;

/// A host stream as an open file.
pub struct HostStream {
    stream: Arc<dyn Stream>,
    shared: Arc<Shared>,
}

/// What the host half tells of readiness.
struct Shared {
    queue: WaitQueue,
    /// What the host has been asked to tell and has not told yet.
    asked: AtomicU16,
}

impl Listener for Shared {
    fn ready(&self, ready: Ready) {
        // Failure answers every question; whatever was asked is asked again.
        self.asked.store(0, Ordering::SeqCst);
        self.queue.wake((events(ready) | Events::ALWAYS).bits());
    }
}

fn events(ready: Ready) -> Events {
    let mut events = Events::empty();
    events.set(Events::READABLE, ready.contains(Ready::IN));
    events.set(Events::WRITABLE, ready.contains(Ready::OUT));
    events.set(Events::ERR, ready.contains(Ready::ERR));
    events.set(Events::HUP, ready.contains(Ready::HUP));
    events
}

impl HostStream {
    /// Opens a stream with this access mode, unless it goes both ways.
    pub fn open(id: StreamId, mode: OpenFlags) -> Result<Arc<File>, Errno> {
        let stream = platform().stream(id)?;
        let (kind, rdev, flags) = match stream.kind() {
            StreamKind::Pipe => (FileType::Fifo, 0, None),
            StreamKind::Regular => (FileType::Regular, 0, None),
            StreamKind::Terminal => (FileType::CharDevice, makedev(136, 0), Some(OpenFlags::RDWR)),
            StreamKind::Socket => (FileType::Socket, 0, Some(OpenFlags::RDWR)),
            StreamKind::CharDevice => (FileType::CharDevice, makedev(1, 3), Some(OpenFlags::RDWR)),
        };
        let flags = flags.unwrap_or(mode);
        let label = match kind {
            FileType::Fifo => "pipe",
            FileType::Socket => "socket",
            _ => "anon_inode:[host]",
        };
        let perm = if kind == FileType::CharDevice { 0o620 } else { 0o600 };
        let inode = AnonInode::new(kind, label, perm, 0, 0).with_rdev(rdev);
        let shared = Arc::new(Shared { queue: WaitQueue::new(), asked: AtomicU16::new(0) });
        let again = HostStream { stream: stream.clone(), shared: shared.clone() };
        // /dev/stdout and /proc/PID/fd lead back to the stream.
        let inode = inode.with_open(Box::new(move |_| {
            Ok(Box::new(HostStream { stream: again.stream.clone(), shared: again.shared.clone() }))
        }));
        File::new(Box::new(HostStream { stream, shared }), Arc::new(inode), None, flags)
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<dyn Stream> {
        &self.stream
    }

    /// Has the queue told once these become true.
    fn ask(&self, missing: Ready) {
        let before = self.shared.asked.fetch_or(missing.bits(), Ordering::SeqCst);
        let new = missing.difference(Ready::from_bits_truncate(before));
        if !new.is_empty() {
            self.stream.notify(new, self.shared.clone());
        }
    }
}

impl FileOps for HostStream {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut first = true;
        dst.fill_with(dst.remaining().min(CHUNK), |_, buf| {
            // Bytes that have been taken from the host must arrive: one piece at a time.
            if !core::mem::take(&mut first) {
                return Ok(0);
            }
            self.stream.read(buf)
        })
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        let count = src.drain_with(CHUNK, |_, data| self.stream.write(data))?;
        Ok(Written { count, end: 0 })
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, file: &File) -> Events {
        let ready = self.stream.ready();
        let mut missing = Ready::empty();
        missing.set(Ready::IN, file.flags().reads());
        missing.set(Ready::OUT, file.flags().writes());
        let missing = missing.difference(ready);
        if !missing.is_empty() && !ready.intersects(Ready::ERR | Ready::HUP) {
            self.ask(missing);
        }
        events(ready)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn seek(&self, _file: &File, _now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let whence = match whence {
            Whence::Set => 0,
            Whence::Current => 1,
            Whence::End => 2,
            Whence::Data => 3,
            Whence::Hole => 4,
        };
        Ok(self.stream.seek(offset, whence)?.min(MAX_OFFSET))
    }

    fn fsync(&self, file: &File, _data_only: bool) -> Result<(), Errno> {
        // The host has everything already; what has no disk says so, as on Linux.
        match file.inode().kind() {
            FileType::Regular => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The descriptor table of a process whose standard streams are all this file.
pub fn all_three(file: &Arc<File>) -> Result<Arc<FdTable>, Errno> {
    let table = FdTable::new();
    for fd in 0..3 {
        table.insert_at(fd, file.clone(), false, u64::MAX)?;
    }
    Ok(table)
}

/// The descriptor table of a process with these standard streams.
pub fn stdio(streams: &[Option<StreamId>; 3]) -> Result<Arc<FdTable>, Errno> {
    let table = FdTable::new();
    for (position, id) in streams.iter().enumerate() {
        let Some(id) = id else { continue };
        // Standard input is read, the others are written.
        let mode = if position == 0 { OpenFlags::empty() } else { OpenFlags::WRONLY };
        let file = HostStream::open(*id, mode)?;
        let fd = i32::try_from(position).map_err(|_| Errno::EBADF)?;
        table.insert_at(fd, file, false, u64::MAX)?;
    }
    Ok(table)
}

/// Adds the streams that it has from descriptor 3 on.
pub fn preserved(table: &FdTable, streams: &[(StreamId, u32)]) -> Result<(), Errno> {
    for (fd, (id, mode)) in (3..).zip(streams) {
        let mode = OpenFlags::from_bits_truncate(*mode & O_ACCMODE);
        table.insert_at(fd, HostStream::open(*id, mode)?, false, u64::MAX)?;
    }
    Ok(())
}

/// The bits of an access mode (open(2)).
const O_ACCMODE: u32 = 3;
