//! Descriptor tables.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::file::File;
use crate::errno::Errno;
use crate::sync::SpinLock;

/// Most descriptors of a table, whatever RLIMIT_NOFILE says (/proc/sys/fs/nr_open).
pub const NR_OPEN: u32 = 1 << 20;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

#[derive(Clone, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No free slot is below.
    free: usize,
}

/// A process's descriptor table.
pub struct FdTable {
    /// Unique; owns POSIX locks.
    pub id: u64,
    slots: SpinLock<Slots>,
}

impl Default for FdTable {
    fn default() -> Self {
        FdTable {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            slots: SpinLock::new(Slots::default()),
        }
    }
}

impl Slots {
    fn get(&self, fd: i32) -> Option<&Slot> {
        self.slots.get(usize::try_from(fd).ok()?)?.as_ref()
    }

    fn get_mut(&mut self, fd: i32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(fd).ok()?)?.as_mut()
    }

    /// Puts into a slot; what was there.
    fn put(&mut self, at: usize, slot: Slot) -> Option<Slot> {
        if at >= self.slots.len() {
            self.slots.resize(at.saturating_add(1), None);
        }
        if at == self.free {
            self.free = at.saturating_add(1);
        }
        self.slots.get_mut(at).and_then(|s| s.replace(slot))
    }

    fn take(&mut self, at: usize) -> Option<Arc<File>> {
        let slot = self.slots.get_mut(at)?.take()?;
        self.free = self.free.min(at);
        Some(slot.file)
    }
}

impl FdTable {
    /// An empty one.
    pub fn new() -> Arc<FdTable> {
        Arc::default()
    }

    /// A copy, for a child without CLONE_FILES.
    pub fn fork(&self) -> Arc<FdTable> {
        let copy = FdTable::default();
        *copy.slots.lock() = self.slots.lock().clone();
        Arc::new(copy)
    }

    /// The open file behind `fd`, for doing something with its content: not one of O_PATH.
    pub fn get(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let slots = self.slots.lock();
        match slots.get(fd) {
            Some(slot) if !slot.file.is_path() => Ok(slot.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// The open file behind `fd`, also one of O_PATH.
    pub fn get_any(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.slots.lock().get(fd).map(|s| s.file.clone()).ok_or(Errno::EBADF)
    }

    /// Puts `file` at the lowest free descriptor. `limit` is RLIMIT_NOFILE; `EMFILE` at it.
    pub fn insert(&self, file: Arc<File>, cloexec: bool, limit: u64) -> Result<i32, Errno> {
        self.insert_from(0, file, cloexec, limit)
    }

    /// Puts `file` at the lowest free descriptor from `min` on (F_DUPFD).
    pub fn insert_from(
        &self,
        min: u32,
        file: Arc<File>,
        cloexec: bool,
        limit: u64,
    ) -> Result<i32, Errno> {
        let limit = limit.min(u64::from(NR_OPEN)) as usize;
        let mut slots = self.slots.lock();
        let from = slots.free.max(min as usize);
        let tail = slots.slots.get(from..).unwrap_or(&[]);
        let at = match tail.iter().position(Option::is_none) {
            Some(n) => from.saturating_add(n),
            None => from.max(slots.slots.len()),
        };
        if at >= limit {
            drop(slots);
            return Err(Errno::EMFILE);
        }
        if from == slots.free {
            slots.free = at;
        }
        slots.put(at, Slot { file, cloexec });
        i32::try_from(at).map_err(|_| Errno::EMFILE)
    }

    /// Puts `file` at `fd` (dup2, dup3); what was there. `EBADF` beyond the limit.
    pub fn insert_at(
        &self,
        fd: i32,
        file: Arc<File>,
        cloexec: bool,
        limit: u64,
    ) -> Result<Option<Arc<File>>, Errno> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if at as u64 >= limit.min(u64::from(NR_OPEN)) {
            return Err(Errno::EBADF);
        }
        Ok(self.slots.lock().put(at, Slot { file, cloexec }).map(|s| s.file))
    }

    /// Takes `fd` out. The caller calls [`File::closed`] on it.
    pub fn remove(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.lock().take(at).ok_or(Errno::EBADF)
    }

    /// Whether it is closed by exec (FD_CLOEXEC).
    pub fn cloexec(&self, fd: i32) -> Result<bool, Errno> {
        self.slots.lock().get(fd).map(|s| s.cloexec).ok_or(Errno::EBADF)
    }

    /// Sets that.
    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        self.slots.lock().get_mut(fd).map(|s| s.cloexec = cloexec).ok_or(Errno::EBADF)
    }

    /// Sets that for a range, the last one included (close_range(2) with CLOSE_RANGE_CLOEXEC).
    pub fn set_cloexec_range(&self, first: u32, last: u32) {
        let mut slots = self.slots.lock();
        let end = slots.slots.len().min((last as usize).saturating_add(1));
        for slot in slots.slots.get_mut(first as usize..end).into_iter().flatten().flatten() {
            slot.cloexec = true;
        }
    }

    /// Closes a range, the last one included.
    pub fn close_range(&self, first: u32, last: u32) {
        self.close_some(first, last, |_| true);
    }

    /// Closes what exec closes. The table belongs to one process only by then.
    pub fn close_on_exec(&self) {
        self.close_some(0, u32::MAX, |slot| slot.cloexec);
    }

    /// Closes everything: the last task that uses the table ends.
    pub fn close_all(&self) {
        self.close_range(0, u32::MAX);
    }

    fn close_some(&self, first: u32, last: u32, which: impl Fn(&Slot) -> bool) {
        let mut at = first as usize;
        loop {
            let file = {
                let mut slots = self.slots.lock();
                let end = slots.slots.len().min((last as usize).saturating_add(1));
                let found = slots
                    .slots
                    .get(at..end)
                    .and_then(|s| s.iter().position(|slot| slot.as_ref().is_some_and(&which)));
                let Some(found) = found else { return };
                at = at.saturating_add(found);
                slots.take(at)
            };
            if let Some(file) = file {
                // Nobody is there to be told of an error, as on Linux.
                let _ = file.closed(self.id);
            }
        }
    }

    /// The open descriptors, ascending, with their files.
    pub fn list(&self) -> Vec<(i32, Arc<File>)> {
        let slots = self.slots.lock();
        let all = slots.slots.iter().enumerate();
        all.filter_map(|(fd, s)| Some((i32::try_from(fd).ok()?, s.as_ref()?.file.clone())))
            .collect()
    }

    /// The lowest open descriptor from `from` on.
    pub fn next_open(&self, from: u32) -> Option<i32> {
        let slots = self.slots.lock();
        let n = slots.slots.get(from as usize..)?.iter().position(Option::is_some)?;
        i32::try_from(n.saturating_add(from as usize)).ok()
    }

    /// Slots in use or once used (FDSize of /proc/PID/status).
    pub fn size(&self) -> usize {
        self.slots.lock().slots.len().next_multiple_of(64).max(64)
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_all();
    }
}
