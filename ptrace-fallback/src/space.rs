//! Address spaces: a stub process, and what it has mapped.
//!
//! **Changes wait for the next entry.** Nobody can tell a change of mappings that has been made from
//! one that is made before the application runs on. So while no thread runs in a space, changes only
//! queue up, and the thread that next enters has the agent make them all in one round. With a thread
//! inside, they are made at once. Two flags decide, each side sets its own before it reads the
//! other's: [`Space::running`] and [`Space::pending`].
//!
//! Lock order: `queue`, then `map`.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use sentry::errno::Errno;
use sentry::platform::{
    AddressSpace, AtomicOp, Backing, Barrier, CopyFault, FileId, Mapping, PAGE_SIZE, Prot, SpaceId,
};

use crate::files::Files;
use crate::map::{Map, Piece, page_of};
use crate::memory::{self, Charge, Memory};
use crate::restart;
use crate::stub::{Request, Stub, Stubs, USER};
use crate::thread;

/// Pieces that a space may have. The host allows 65,530 (vm.max_map_count); what a batch adds, our
/// own two and the kernel's own are within the difference.
const MOST_PIECES: usize = 60_000;
/// Changes that may queue up.
const MOST_QUEUED: usize = 256;
/// Runs of up to so many pages are filled in when mapped: whoever maps a short run wants it now. In
/// a longer one that can only be read (a fork shares such), the host maps 16 at each fault itself.
const POPULATE_READ: u64 = 16;
const POPULATE_WRITE: u64 = 256;

/// What stands behind all spaces.
pub(crate) struct Machine {
    pub(crate) memory: Memory,
    pub(crate) files: Files,
    pub(crate) stubs: Arc<Stubs>,
    /// What leads from the sentry's handles to our spaces.
    spaces: Mutex<HashMap<SpaceId, Weak<Space>>>,
    next_space: AtomicU64,
}

impl Machine {
    /// `donations` is the most donated files.
    pub(crate) fn new(memory: Memory, stubs: Arc<Stubs>, donations: usize) -> Machine {
        Machine {
            memory,
            files: Files::new(donations),
            stubs,
            spaces: Mutex::default(),
            next_space: AtomicU64::new(1),
        }
    }

    /// A new, empty space.
    pub(crate) fn new_space(&'static self) -> Result<Arc<Space>, Errno> {
        let charge = self.memory.charge(memory::SPACE)?;
        let space = Arc::new(Space {
            _charge: charge,
            id: SpaceId(self.next_space.fetch_add(1, Ordering::Relaxed)),
            machine: self,
            stub: self.stubs.get()?,
            map: RwLock::default(),
            queue: Mutex::default(),
            pending: AtomicBool::new(false),
            running: AtomicU32::new(0),
            registered: AtomicU32::new(0),
        });
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        spaces.insert(space.id, Arc::downgrade(&space));
        Ok(space)
    }

    /// The space with this number.
    pub(crate) fn space(&self, id: SpaceId) -> Option<Arc<Space>> {
        let spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        spaces.get(&id).and_then(Weak::upgrade)
    }
}

/// One address space.
pub(crate) struct Space {
    /// For its stub.
    _charge: Charge,
    id: SpaceId,
    machine: &'static Machine,
    stub: Arc<Stub>,
    map: RwLock<Map>,
    queue: Mutex<Vec<Request>>,
    /// Whether the queue has something.
    pending: AtomicBool,
    /// Threads that are, or may be, in user mode in it.
    running: AtomicU32,
    /// The membarrier(2) commands that the stub is registered for, by their registration's number.
    registered: AtomicU32,
}

impl Space {
    /// Its process.
    pub(crate) fn stub(&self) -> &Stub {
        &self.stub
    }

    /// To be called before a thread enters user mode; `Err` where the stub is dead.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(e) = self.flush(&mut queue)
                && self.stub.is_dead()
            {
                self.leave();
                return Err(e);
            }
        }
        Ok(())
    }

    /// To be called when it has left.
    pub(crate) fn leave(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the page at `addr` is mapped, and how.
    pub(crate) fn prot_at(&self, addr: u64) -> Option<Prot> {
        self.read_map().find(page_of(addr)).map(|piece| piece.prot)
    }

    fn read_map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_map(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the queued changes now if they cannot wait.
    fn commit(&self, queue: &mut Vec<Request>, now: bool) -> Result<(), Errno> {
        if queue.is_empty() {
            return Ok(());
        }
        self.pending.store(true, Ordering::SeqCst);
        if now || queue.len() >= MOST_QUEUED || self.running.load(Ordering::SeqCst) != 0 {
            return self.flush(queue);
        }
        Ok(())
    }

    /// Makes the queued changes. Where one fails, nothing is mapped any more: the mapping is a cache.
    fn flush(&self, queue: &mut Vec<Request>) -> Result<(), Errno> {
        let made = self.stub.call(queue);
        queue.clear();
        self.pending.store(false, Ordering::SeqCst);
        if made.is_err() {
            self.write_map().clear();
            if self.stub.call(&[unmap_all()]).is_err() {
                self.stub.kill();
            }
        }
        made
    }

    /// Checks a mapping; the request for it.
    fn request(&self, mapping: &Mapping) -> Result<Request, Errno> {
        let pages = u64::from(mapping.pages);
        let len = pages.saturating_mul(PAGE_SIZE as u64);
        let end = mapping.start.checked_add(len).ok_or(Errno::EINVAL)?;
        let aligned = mapping.start.is_multiple_of(PAGE_SIZE as u64);
        if pages == 0 || !aligned || mapping.start < USER.start || end > USER.end {
            return Err(Errno::EINVAL);
        }
        let (fd, offset, populate) = match mapping.backing {
            Backing::Frames(first) => {
                if !self.machine.memory.contains(first, mapping.pages) {
                    return Err(Errno::EINVAL);
                }
                let offset = u64::from(first.0).saturating_mul(PAGE_SIZE as u64);
                let most = match writable(mapping.prot) {
                    true => POPULATE_WRITE,
                    false => POPULATE_READ,
                };
                let populate = pages <= most && !mapping.prot.is_empty();
                (self.machine.memory.fd(), offset, populate)
            }
            Backing::File(file, page) => {
                let offset = page.checked_mul(PAGE_SIZE as u64).ok_or(Errno::EINVAL)?;
                (self.machine.files.get(file)?.as_raw_fd(), offset, false)
            }
        };
        let flags =
            libc::MAP_SHARED | libc::MAP_FIXED | if populate { libc::MAP_POPULATE } else { 0 };
        Ok(Request::new(
            libc::SYS_mmap,
            [mapping.start, len, host_prot(mapping.prot), flags as u64, fd as u64, offset],
        ))
    }

    /// Goes through the pieces of a stretch of memory that have the rights that `allowed` looks for.
    /// `each` does its part and says how far it got.
    fn walk(
        &self,
        addr: u64,
        len: usize,
        allowed: impl Fn(Prot) -> bool,
        mut each: impl FnMut(Backing, usize, Range<usize>) -> usize,
    ) -> Result<(), CopyFault> {
        let map = self.read_map();
        let mut done = 0usize;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let fault = CopyFault { done, addr: at };
            let piece = map.find(page_of(at)).filter(|p| allowed(p.prot));
            let piece = piece.ok_or(fault)?;
            let offset = (at % PAGE_SIZE as u64) as usize;
            let room = piece.pages.saturating_mul(PAGE_SIZE as u64) as usize;
            let part = room.saturating_sub(offset).min(len.saturating_sub(done));
            let end = done.saturating_add(part);
            let got = each(piece.backing, offset, done..end).min(part);
            if got < part {
                let done = done.saturating_add(got);
                let addr = addr.wrapping_add(done as u64);
                return Err(CopyFault { done, addr });
            }
            done = end;
        }
        Ok(())
    }
}

impl AddressSpace for Space {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn barrier(&self, barrier: Barrier) -> Result<(), Errno> {
        restart::barrier(&self.stub, &self.registered, barrier)
    }

    fn map(&self, batch: &[Mapping]) -> Result<(), Errno> {
        let requests: Vec<Request> =
            batch.iter().map(|mapping| self.request(mapping)).collect::<Result<_, _>>()?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = self.write_map();
        if map.len().saturating_add(batch.len()) > MOST_PIECES {
            map.clear();
            queue.clear();
            queue.push(unmap_all());
        }
        let mut now = false;
        for (mapping, request) in batch.iter().zip(requests) {
            let piece =
                Piece { pages: mapping.pages.into(), backing: mapping.backing, prot: mapping.prot };
            map.insert(page_of(mapping.start), piece);
            enqueue(&mut queue, request);
            // The host may refuse a file (no right to write, no room to execute), and that is
            // worth an answer. Frames it cannot refuse.
            now |= matches!(mapping.backing, Backing::File(..));
        }
        drop(map);
        self.commit(&mut queue, now)
    }

    fn unmap(&self, range: Range<u64>) {
        let Some(range) = pages_of(range) else {
            return;
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.write_map().remove(range.clone()) {
            let request = Request::new(libc::SYS_munmap, arguments(range, 0));
            enqueue(&mut queue, request);
            // Where it fails nothing is mapped any more, which is more than was asked for.
            let _wiped = self.commit(&mut queue, false);
        }
    }

    fn protect(&self, range: Range<u64>, prot: Prot) {
        let Some(range) = pages_of(range) else {
            return;
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        self.write_map().protect(range, prot, &mut changed);
        for stretch in changed {
            let arguments = arguments(stretch, host_prot(prot));
            enqueue(&mut queue, Request::new(libc::SYS_mprotect, arguments));
        }
        // Where it fails nothing is mapped any more, which grants less than was asked for.
        let _wiped = self.commit(&mut queue, false);
    }

    fn copy_in(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        let machine = self.machine;
        self.walk(addr, buf.len(), readable, |backing, offset, part| {
            let Some(buf) = buf.get_mut(part) else {
                return 0;
            };
            match backing {
                Backing::Frames(first) => {
                    machine.memory.read(first, offset, buf);
                    buf.len()
                }
                Backing::File(file, page) => {
                    let start = file_offset(page, offset);
                    let got = machine.files.read(file, start, buf).unwrap_or(0);
                    let end = start.saturating_add(got as u64);
                    match buf.get_mut(got..) {
                        Some(rest) if !rest.is_empty() => {
                            let size = machine.files.size(file).unwrap_or(0);
                            // Short before the end: the host could not read it.
                            let tail = if size > end { 0 } else { zero_tail(size, end, rest) };
                            got.saturating_add(tail)
                        }
                        _ => got,
                    }
                }
            }
        })
    }

    fn copy_out(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        let machine = self.machine;
        self.walk(addr, data.len(), writable, |backing, offset, part| {
            let Some(data) = data.get(part) else {
                return 0;
            };
            match backing {
                Backing::Frames(first) => {
                    machine.memory.write(first, offset, data);
                    data.len()
                }
                Backing::File(file, page) => {
                    // A write past the end would make the file longer; a store is lost there in
                    // the last page, and faults behind it.
                    let start = file_offset(page, offset);
                    let size = machine.files.size(file).unwrap_or(0);
                    let inside = size.saturating_sub(start).min(data.len() as u64) as usize;
                    let inside = data.get(..inside).unwrap_or_default();
                    match machine.files.write(file, start, inside) {
                        Ok(n) if n == inside.len() => {
                            page_end(size).saturating_sub(start).min(data.len() as u64) as usize
                        }
                        Ok(n) => n,
                        Err(_) => 0,
                    }
                }
            }
        })
    }

    fn copy_out_file(&self, addr: u64, len: usize, file: FileId, offset: u64) -> usize {
        // The host's disk may take its time.
        thread::pay();
        let machine = self.machine;
        let Ok(file) = machine.files.get(file) else {
            return 0;
        };
        let moved = self.walk(addr, len, writable, |backing, at, part| match backing {
            Backing::Frames(first) => {
                let from = offset.saturating_add(part.start as u64);
                machine.memory.read_file(first, at, part.len(), &file, from)
            }
            // From file to file there is no shorter way.
            Backing::File(..) => 0,
        });
        moved.map_or_else(|fault| fault.done, |()| len)
    }

    fn atomic(&self, addr: u64, op: AtomicOp) -> Result<u32, CopyFault> {
        let fault = CopyFault { done: 0, addr };
        let allowed = match op {
            AtomicOp::Load => readable,
            _ => writable,
        };
        if !addr.is_multiple_of(4) {
            return Err(fault);
        }
        let map = self.read_map();
        let piece = map.find(page_of(addr)).filter(|p| allowed(p.prot));
        let offset = addr % PAGE_SIZE as u64;
        match piece.ok_or(fault)?.backing {
            Backing::Frames(first) => Ok(self.machine.memory.atomic(first, offset as usize, op)),
            Backing::File(file, page) => {
                let offset = file_offset(page, offset as usize);
                self.machine.files.atomic(file, offset, op).map_err(|_| fault)
            }
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let spaces = &self.machine.spaces;
        spaces.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.machine.stubs.put(Arc::clone(&self.stub));
    }
}

fn readable(prot: Prot) -> bool {
    // On x86 whatever can be written or executed can be read.
    !prot.is_empty()
}

fn writable(prot: Prot) -> bool {
    prot.contains(Prot::WRITE)
}

fn file_offset(page: u64, offset: usize) -> u64 {
    page.saturating_mul(PAGE_SIZE as u64).saturating_add(offset as u64)
}

/// The end of the last page of a file of this size.
fn page_end(size: u64) -> u64 {
    size.checked_next_multiple_of(PAGE_SIZE as u64).unwrap_or(size)
}

/// What a load finds between the end of a file and the end of its last page: zeros. How many.
fn zero_tail(size: u64, start: u64, buf: &mut [u8]) -> usize {
    let room = page_end(size).saturating_sub(start).min(buf.len() as u64);
    let tail = buf.get_mut(..room as usize).unwrap_or_default();
    tail.fill(0);
    tail.len()
}

fn host_prot(prot: Prot) -> u64 {
    let bit = |flag, host: i32| if prot.contains(flag) { host as u64 } else { 0 };
    bit(Prot::READ, libc::PROT_READ)
        | bit(Prot::WRITE, libc::PROT_READ | libc::PROT_WRITE)
        | bit(Prot::EXEC, libc::PROT_EXEC)
}

fn unmap_all() -> Request {
    Request::new(libc::SYS_munmap, [0, USER.end, 0, 0, 0, 0])
}

/// The pages of a range of addresses that can be mapped; `None` where there are none.
fn pages_of(range: Range<u64>) -> Option<Range<u64>> {
    let start = page_of(range.start.max(USER.start));
    let end = page_of(range.end.min(USER.end).saturating_add(PAGE_SIZE as u64 - 1));
    (start < end).then_some(start..end)
}

fn arguments(pages: Range<u64>, third: u64) -> [u64; 6] {
    let size = PAGE_SIZE as u64;
    let len = pages.end.saturating_sub(pages.start).saturating_mul(size);
    [pages.start.saturating_mul(size), len, third, 0, 0, 0]
}

/// Adds a request, as part of the last one where it continues that.
fn enqueue(queue: &mut Vec<Request>, request: Request) {
    let [start, len, prot, flags, fd, offset] = request.args;
    if let Some(last) = queue.last_mut()
        && last.nr == request.nr
    {
        let [last_start, last_len, last_prot, last_flags, last_fd, last_offset] = last.args;
        let follows = last_start.saturating_add(last_len) == start && last_prot == prot;
        let same = last_flags == flags && last_fd == fd;
        let continues = request.nr != libc::SYS_mmap
            || (same && last_offset.saturating_add(last_len) == offset);
        if follows && continues {
            last.args[1] = last_len.saturating_add(len);
            return;
        }
    }
    queue.push(request);
}
