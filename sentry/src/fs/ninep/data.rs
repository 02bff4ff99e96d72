//! The content of regular files: donated by the gofer, or through messages.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use gofer::wire::{self, Fid, Granted, OpenFlags, Reply, Request, Wish};

use super::inode::NinepInode;
use super::remote::Remote;
use crate::errno::Errno;
use crate::mm::Mm;
use crate::platform::{FileId, platform};
use crate::sync::{Mutex, SpinLock};

/// An open file of the gofer's.
pub(super) struct Handle {
    remote: Arc<Remote>,
    means: Means,
}

enum Means {
    /// The platform has a descriptor.
    Donated(FileId),
    /// By messages with this fid.
    Messages(Fid),
}

impl Handle {
    /// The donated file.
    pub(super) fn donated(&self) -> Option<FileId> {
        match self.means {
            Means::Donated(file) => Some(file),
            Means::Messages(_) => None,
        }
    }

    /// Reads; short at the end of the file, or where it is more than one message holds.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        match self.means {
            Means::Donated(file) => platform().file_read(file, offset, buf),
            Means::Messages(fid) => {
                let count = buf.len().min(self.remote.conn.io_max()) as u32;
                let answer = self.remote.call(&Request::Read { fid, offset, count })?;
                let Reply::Read { data } = answer.reply()? else { return Err(Errno::EIO) };
                let room = buf.get_mut(..data.0.len()).ok_or(Errno::EIO)?;
                room.copy_from_slice(data.0);
                Ok(data.0.len())
            }
        }
    }

    /// Writes; may take less than all.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        match self.means {
            Means::Donated(file) => platform().file_write(file, offset, data),
            Means::Messages(fid) => {
                let data = data.get(..self.remote.conn.io_max()).unwrap_or(data);
                let request = Request::Write { fid, offset, data: wire::Data(data) };
                match self.remote.call(&request)?.reply()? {
                    Reply::Write { count } => Ok((count as usize).min(data.len())),
                    _ => Err(Errno::EIO),
                }
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.means {
            Means::Donated(file) => {
                platform().file_close(file);
                self.remote.donations.fetch_sub(1, Ordering::Relaxed);
            }
            Means::Messages(fid) => self.remote.conn.forget(fid, true),
        }
    }
}

/// Open files of an inode, for whoever reads, writes or maps it.
#[derive(Default)]
struct Handles {
    both: Option<Arc<Handle>>,
    read: Option<Arc<Handle>>,
    write: Option<Arc<Handle>>,
}

/// What an inode keeps for its content.
#[derive(Default)]
pub(super) struct Data {
    /// Held by writes, truncation and whatever else moves the end of the file.
    pub(super) io: Mutex<()>,
    /// Held while a file is opened at the gofer, so that it is opened once.
    opening: Mutex<()>,
    handles: SpinLock<Handles>,
    /// Has been opened for writing.
    for_writing: AtomicBool,
    /// Address spaces that map it.
    mappers: SpinLock<Vec<Weak<Mm>>>,
    /// Written to since the last sync.
    written: AtomicBool,
}

impl Data {
    /// Whether it has ever been opened for writing.
    pub(super) fn was_opened_for_writing(&self) -> bool {
        self.for_writing.load(Ordering::Relaxed)
    }

    /// A handle to read with, if there is one.
    fn to_read(&self) -> Option<Arc<Handle>> {
        let handles = self.handles.lock();
        handles.both.as_ref().or(handles.read.as_ref()).cloned()
    }

    /// A handle to write with, if there is one.
    fn to_write(&self) -> Option<Arc<Handle>> {
        let handles = self.handles.lock();
        handles.both.as_ref().or(handles.write.as_ref()).cloned()
    }

    /// The donated files that it has.
    fn donated(&self) -> Vec<FileId> {
        let handles = self.handles.lock();
        let all = [&handles.both, &handles.read, &handles.write];
        all.into_iter().flatten().filter_map(|handle| handle.donated()).collect()
    }

    /// Lets go of open files that nobody uses now; whether it did.
    pub(super) fn give_up(&self) -> bool {
        // Who maps it uses the file by its number.
        if self.is_mapped() {
            return false;
        }
        let gone = {
            let mut handles = self.handles.lock();
            let used =
                |h: &Option<Arc<Handle>>| h.as_ref().is_some_and(|h| Arc::strong_count(h) > 1);
            if used(&handles.both) || used(&handles.read) || used(&handles.write) {
                return false;
            }
            core::mem::take(&mut *handles)
        };
        drop(gone);
        true
    }

    /// Takes a handle for reading and writing into use in place of all others, which it gives.
    fn replace(&self, both: Arc<Handle>) -> Handles {
        let new = Handles { both: Some(both), read: None, write: None };
        core::mem::replace(&mut *self.handles.lock(), new)
    }

    /// Whether an address space maps it.
    pub(super) fn is_mapped(&self) -> bool {
        !self.mappers.lock().is_empty()
    }

    /// Whether it may be written through a mapping, which nobody is told of.
    pub(super) fn is_mapped_writable(&self) -> bool {
        self.is_mapped() && self.handles.lock().both.is_some()
    }

    /// `mm` maps it.
    pub(super) fn attach(&self, mm: &Arc<Mm>) {
        let mut mappers = self.mappers.lock();
        if !mappers.iter().any(|weak| core::ptr::eq(weak.as_ptr(), Arc::as_ptr(mm))) {
            mappers.push(Arc::downgrade(mm));
        }
    }

    /// `mm` does not map it any more.
    pub(super) fn detach(&self, mm: &Mm) {
        let gone: Vec<Weak<Mm>> = {
            let mut mappers = self.mappers.lock();
            let (gone, stay) = core::mem::take(&mut *mappers)
                .into_iter()
                .partition(|weak| core::ptr::eq(weak.as_ptr(), mm));
            *mappers = stay;
            gone
        };
        drop(gone);
    }

    /// Takes the pages from `first` on away from whoever maps them.
    fn unmap(&self, inode: &NinepInode, first: u64, even_private: bool) {
        let mappers: Vec<Arc<Mm>> = {
            let mappers = self.mappers.lock();
            mappers.iter().filter_map(Weak::upgrade).collect()
        };
        for mm in mappers {
            mm.forget_file(inode, first, u64::MAX, even_private);
        }
    }
}

impl NinepInode {
    /// A handle to read with; opens the file where there is none.
    ///
    /// A file that has been opened for writing is opened for both: a shared mapping of it can be
    /// written later, and then must not need another handle.
    pub(super) fn reader(self: &Arc<Self>) -> Result<Arc<Handle>, Errno> {
        if let Some(handle) = self.data.to_read() {
            return Ok(handle);
        }
        let _opening = self.data.opening.lock();
        if let Some(handle) = self.data.to_read() {
            return Ok(handle);
        }
        if self.data.for_writing.load(Ordering::Relaxed)
            && let Ok(handle) = self.open_handle(OpenFlags::RDWR)
        {
            self.data.handles.lock().both = Some(handle.clone());
            return Ok(handle);
        }
        let handle = self.open_handle(OpenFlags::empty())?;
        self.data.handles.lock().read = Some(handle.clone());
        Ok(handle)
    }

    /// A handle to write with; opens the file where there is none. Not for page faults: it may take
    /// pages away from mappings.
    pub(super) fn writer(self: &Arc<Self>) -> Result<Arc<Handle>, Errno> {
        self.data.for_writing.store(true, Ordering::Relaxed);
        if let Some(handle) = self.data.to_write() {
            return Ok(handle);
        }
        let opening = self.data.opening.lock();
        if let Some(handle) = self.data.to_write() {
            return Ok(handle);
        }
        match self.open_handle(OpenFlags::RDWR) {
            Ok(handle) => {
                let old = self.data.replace(handle.clone());
                // A page fault may wait for this lock with its address space locked.
                drop(opening);
                self.retire(old);
                Ok(handle)
            }
            // Not even a gofer with privilege may read everything (NFS, FUSE).
            Err(Errno::EACCES) => {
                let handle = self.open_handle(OpenFlags::WRONLY)?;
                self.data.handles.lock().write = Some(handle.clone());
                Ok(handle)
            }
            Err(e) => Err(e),
        }
    }

    /// A handle for a page that is going to be written through a shared mapping.
    pub(super) fn page_writer(self: &Arc<Self>) -> Result<Arc<Handle>, Errno> {
        self.reader()?;
        // Whoever made the mapping had opened the file for writing.
        self.data.handles.lock().both.clone().ok_or(Errno::EIO)
    }

    /// Takes the handle that came with the creation of this file into use.
    pub(super) fn adopt(self: &Arc<Self>, both: Arc<Handle>) {
        self.data.for_writing.store(true, Ordering::Relaxed);
        let old = self.data.replace(both);
        self.retire(old);
    }

    /// Lets go of handles that have been replaced. On a layered host file system (overlayfs) one
    /// that was opened for reading before the first write shows the old layer.
    fn retire(&self, old: Handles) {
        // Mappings name the old file by its number: they go first.
        if old.read.is_some() || old.both.is_some() {
            self.data.unmap(self, 0, false);
        }
        drop(old);
    }

    /// Opens the file at the gofer, with donation.
    fn open_handle(self: &Arc<Self>, flags: OpenFlags) -> Result<Arc<Handle>, Errno> {
        let conn = &self.remote.conn;
        let donate = Wish::DONATE | Wish::NOT_KEPT;
        let mut wishes = [donate, donate, Wish::empty()].into_iter();
        while let Some(wish) = wishes.next() {
            let newfid = conn.new_fid();
            let request =
                Request::OpenX { fid: self.fid, newfid, flags: flags.bits(), wish: wish.bits() };
            let mut answer = self.remote.call(&request).inspect_err(|_| conn.unused(newfid))?;
            let file = answer.file.take();
            let (granted, attr) = match answer.reply() {
                Ok(Reply::OpenX { granted, attr }) => (granted, attr),
                other => {
                    conn.unused(newfid);
                    return Err(other.err().unwrap_or(Errno::EIO));
                }
            };
            self.learn(&attr);
            if let Some(handle) = self.handle(newfid, granted, file) {
                return Ok(handle);
            }
            // The host half has no room for it. Where others can go it has; if not, content goes through messages.
            if wishes.len() == 2 && !self.remote.give_up_donations() {
                wishes.next();
            }
        }
        Err(Errno::EIO)
    }

    /// The handle that an open or creation gave; `None` where a descriptor was sent and did not
    /// arrive, because the host half could not take it.
    pub(super) fn handle(
        self: &Arc<Self>,
        fid: Fid,
        granted: u8,
        file: Option<FileId>,
    ) -> Option<Arc<Handle>> {
        let donated = Granted::from_bits_truncate(granted).contains(Granted::DONATED);
        let means = match (donated, file) {
            (true, Some(file)) => {
                self.remote.donations.fetch_add(1, Ordering::Relaxed);
                // The fid was not made (an open) or is the inode's own (a creation).
                if fid != self.fid {
                    self.remote.conn.unused(fid);
                }
                Means::Donated(file)
            }
            (true, None) => {
                if fid != self.fid {
                    self.remote.conn.unused(fid);
                }
                return None;
            }
            (false, _) => Means::Messages(fid),
        };
        let handle = Arc::new(Handle { remote: self.remote.clone(), means });
        if handle.donated().is_some() {
            self.remote.donated(self);
        }
        Some(handle)
    }

    /// Something has been written.
    pub(super) fn wrote(self: &Arc<Self>) {
        if !self.data.written.swap(true, Ordering::AcqRel) {
            self.remote.written.push(Arc::downgrade(self));
        }
    }

    /// It is about to be synced.
    pub(super) fn synced(&self) -> Fid {
        self.data.written.store(false, Ordering::Release);
        self.fid
    }

    /// The file now ends before this byte: there reads end, and whoever maps what was behind it gets SIGBUS.
    pub(super) fn cut(&self, size: u64) {
        for file in self.data.donated() {
            // A platform that remembers sizes, to save a question a read, has the new one after this; of a file that it
            // cannot look at it knows none.
            let _now = platform().file_size(file);
        }
        if self.data.is_mapped() {
            self.data.unmap(self, size.div_ceil(crate::platform::PAGE_SIZE as u64), true);
        }
    }
}
