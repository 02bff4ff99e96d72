//! Shared memory segments: shmget(2), shmat(2), shmdt(2), shmctl(2).
//!
//! A segment is memory without a file. What an address space maps is an [`Attachment`], one for each
//! shmat(2), which the child of a fork has too; it counts the address spaces that have it, and with the last
//! of all a segment goes that was removed before.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::table::{Object, Table};
use super::{Ipc, Perm, seconds};
use crate::errno::Errno;
use crate::mm::{FilePage, Mappable, Mm, SharedMemory};
use crate::platform::{PAGE_SIZE, own_frames};
use crate::sync::{Mutex, SpinLock};
use crate::task::{Creds, Pid, UserNamespace, cap};

/// Segments in a namespace (SHMMNI).
pub const SEGMENTS: usize = 4096;
/// Bytes of a segment, and pages of all (SHMMAX and SHMALL: ULONG_MAX less 16 MiB).
pub const MAX: u64 = u64::MAX - (1 << 24);
/// Bits of a segment's mode: it goes with its last attachment (SHM_DEST); SHM_LOCK was asked for.
const DEST: u32 = 0o1000;
const LOCKED: u32 = 0o2000;
/// SHM_HUGETLB of shmget(2).
const HUGETLB: u32 = 0o4000;

/// The segments of a namespace.
#[derive(Default)]
pub struct Segments {
    /// Whose capabilities count for the namespace.
    pub(super) owner: UserNamespace,
    table: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    segments: Table<Segment>,
    /// Pages that they would have, all touched.
    pages: u64,
}

/// One segment.
pub struct Segment {
    /// Its id.
    pub id: i32,
    /// Bytes that were asked for.
    pub size: u64,
    memory: Arc<SharedMemory>,
    state: SpinLock<State>,
}

#[derive(Clone)]
struct State {
    perm: Perm,
    attached: u64,
    creator: Pid,
    last: Pid,
    attach_time: u64,
    detach_time: u64,
    change_time: u64,
}

/// What IPC_STAT tells of a segment. Times are seconds, 0: never.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the names are those of struct shmid64_ds
pub struct Stat {
    pub id: i32,
    pub perm: Perm,
    pub segsz: u64,
    pub atime: u64,
    pub dtime: u64,
    pub ctime: u64,
    pub cpid: Pid,
    pub lpid: Pid,
    pub nattch: u64,
    /// Resident pages.
    pub rss: u64,
}

/// What SHM_INFO and IPC_INFO tell: segments, pages in all, resident pages, and the highest place in use.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Totals {
    pub segments: usize,
    pub pages: u64,
    pub resident: u64,
    pub highest: u32,
}

impl Object for Segment {
    fn id(&self) -> i32 {
        self.id
    }
    fn perm(&self) -> Perm {
        self.state.lock().perm.clone()
    }
}

fn pages_of(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE as u64)
}

impl Segments {
    /// shmget(2).
    pub fn get(
        &self,
        creds: &Creds,
        pid: Pid,
        key: i32,
        size: u64,
        flags: u32,
    ) -> Result<i32, Errno> {
        let mut table = self.table.lock();
        let suits = |s: &Segment| if size > s.size { Err(Errno::EINVAL) } else { Ok(()) };
        if let Some(id) = table.segments.get(creds, key, flags, suits)? {
            return Ok(id);
        }
        if size == 0 || size > MAX {
            return Err(Errno::EINVAL);
        }
        let all = table.pages.saturating_add(pages_of(size));
        if all > MAX {
            return Err(Errno::ENOSPC);
        }
        // No size of huge pages but these is any machine's (SHM_HUGE_SHIFT); no file is as large.
        let huge = flags & HUGETLB != 0 && !matches!(flags >> 26 & 0x3f, 0 | 21 | 30);
        if huge || size > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        // More than there is can be promised to nobody; no huge page is there at all.
        if flags & HUGETLB != 0 || pages_of(size) > own_frames().most {
            return Err(Errno::ENOMEM);
        }
        let id = table.segments.add(SEGMENTS, |id| Segment {
            id,
            size,
            memory: SharedMemory::new(pages_of(size)),
            state: SpinLock::new(State {
                perm: Perm::new(key, creds, flags, &self.owner),
                attached: 0,
                creator: pid,
                last: 0,
                attach_time: 0,
                detach_time: 0,
                change_time: seconds(),
            }),
        })?;
        table.pages = all;
        Ok(id)
    }

    /// The segment with this id.
    pub fn find(&self, id: i32) -> Result<Arc<Segment>, Errno> {
        self.table.lock().segments.find(id)
    }

    /// The segment at this place.
    pub fn at(&self, place: u32) -> Result<Arc<Segment>, Errno> {
        self.table.lock().segments.at(place)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        self.table.lock().segments.all()
    }

    /// Counts.
    pub fn totals(&self) -> Totals {
        let table = self.table.lock();
        let resident = table.segments.all().iter().map(|s| s.memory.resident()).sum();
        let highest = table.segments.highest();
        Totals { segments: table.segments.len(), pages: table.pages, resident, highest }
    }

    /// IPC_RMID: at once, or with the last attachment.
    pub fn remove(&self, creds: &Creds, id: i32) -> Result<(), Errno> {
        let mut table = self.table.lock();
        let segment = table.segments.find(id)?;
        {
            let mut state = segment.state.lock();
            state.perm.check_owner(creds)?;
            state.perm.mode |= DEST;
            // Nobody finds it by its key any more.
            state.perm.key = super::IPC_PRIVATE;
        }
        table.drop_if_unused(&segment);
        Ok(())
    }

    fn detached(&self, segment: &Arc<Segment>) {
        self.table.lock().drop_if_unused(segment);
    }
}

impl Inner {
    /// Removes a segment that is to go and that nobody has attached.
    fn drop_if_unused(&mut self, segment: &Arc<Segment>) {
        let state = segment.state.lock();
        let gone = state.perm.mode & DEST != 0 && state.attached == 0;
        drop(state);
        if gone && self.segments.remove(segment.id).is_ok() {
            self.pages = self.pages.saturating_sub(pages_of(segment.size));
        }
    }
}

impl Segment {
    /// IPC_STAT; `checked`: only for who may read it.
    pub fn stat(&self, creds: &Creds, checked: bool) -> Result<Stat, Errno> {
        let state = self.state.lock().clone();
        if checked {
            state.perm.check(creds, 0o444)?;
        }
        Ok(Stat {
            id: self.id,
            perm: state.perm,
            segsz: self.size,
            atime: state.attach_time,
            dtime: state.detach_time,
            ctime: state.change_time,
            cpid: state.creator,
            lpid: state.last,
            nattch: state.attached,
            rss: self.memory.resident(),
        })
    }

    /// IPC_SET.
    pub fn set_perm(&self, creds: &Creds, uid: u32, gid: u32, mode: u32) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.perm.check_owner(creds)?;
        (state.perm.uid, state.perm.gid) = (uid, gid);
        state.perm.mode = state.perm.mode & !0o777 | mode & 0o777;
        state.change_time = seconds();
        Ok(())
    }

    /// SHM_LOCK and SHM_UNLOCK: nothing is ever swapped here, but it shows in the mode. `memlock` is the
    /// caller's limit in bytes.
    pub fn set_locked(&self, creds: &Creds, locked: bool, memlock: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if !creds.ns_capable(&state.perm.owner, cap::IPC_LOCK) {
            let owner = creds.euid == state.perm.uid || creds.euid == state.perm.cuid;
            if !owner || locked && memlock == 0 {
                return Err(Errno::EPERM);
            }
            if locked && self.size > memlock {
                return Err(Errno::ENOMEM);
            }
        }
        match locked {
            true => state.perm.mode |= LOCKED,
            false => state.perm.mode &= !LOCKED,
        }
        Ok(())
    }
}

/// A segment as shmat(2) maps it.
pub struct Attachment {
    ipc: Arc<Ipc>,
    segment: Arc<Segment>,
    /// The address spaces that have it, by address.
    spaces: SpinLock<Vec<usize>>,
}

impl Attachment {
    /// A new one. `EACCES` unless the caller may do what `want` (permission bits) asks for.
    pub fn new(
        ipc: &Arc<Ipc>,
        creds: &Creds,
        id: i32,
        want: u32,
    ) -> Result<Arc<Attachment>, Errno> {
        let segment = ipc.segments.find(id)?;
        segment.state.lock().perm.check(creds, want)?;
        Ok(Arc::new(Attachment { ipc: ipc.clone(), segment, spaces: SpinLock::new(Vec::new()) }))
    }

    /// Bytes of the segment.
    pub fn size(&self) -> u64 {
        self.segment.size
    }

    /// As /proc/PID/maps names it.
    pub fn name(&self) -> Arc<[u8]> {
        let key = self.segment.state.lock().perm.key;
        Arc::from(alloc::format!("/SYSV{:08x} (deleted)", key as u32).into_bytes())
    }
}

fn address(mm: &Mm) -> usize {
    core::ptr::from_ref(mm).addr()
}

impl Mappable for Attachment {
    fn page(&self, index: u64, write: bool) -> Result<FilePage, Errno> {
        self.segment.memory.page(index, write)
    }

    fn around(&self, index: u64, most: u32) -> u32 {
        self.segment.memory.around(index, most)
    }

    fn attach(&self, mm: &Arc<Mm>) {
        {
            let mut spaces = self.spaces.lock();
            if spaces.contains(&address(mm)) {
                return;
            }
            spaces.push(address(mm));
        }
        let mut state = self.segment.state.lock();
        state.attached = state.attached.saturating_add(1);
        state.attach_time = seconds();
        state.last = mm.owner.load(Ordering::Relaxed);
    }

    fn detach(&self, mm: &Mm) {
        {
            let mut spaces = self.spaces.lock();
            let Some(at) = spaces.iter().position(|space| *space == address(mm)) else { return };
            spaces.swap_remove(at);
        }
        let unused = {
            let mut state = self.segment.state.lock();
            state.attached = state.attached.saturating_sub(1);
            state.detach_time = seconds();
            state.last = mm.owner.load(Ordering::Relaxed);
            state.attached == 0 && state.perm.mode & DEST != 0
        };
        if unused {
            self.ipc.segments.detached(&self.segment);
        }
    }

    fn punch(&self, first: u64, pages: u64) -> Result<(), Errno> {
        self.segment.memory.punch(first, pages)
    }

    fn tracks_writes(&self) -> bool {
        false
    }

    fn identity(&self) -> (u64, u64) {
        let (device, _) = self.segment.memory.identity();
        // Segments have their ids as inode numbers, as on Linux; other shared memory has numbers above.
        (device, self.segment.id as u64)
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(()) // nothing stands behind it
    }

    fn is_segment(&self) -> bool {
        true
    }
}
