//! A platform without a machine, for unit tests on the host: frames are plain memory, threads are
//! host threads, an address space is a table of pages.
//!
//! [`install`] it first in every test; all tests of a process share it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::*;

/// Frames that there are, so that running out can be tested without harm to the host.
const FRAMES: u32 = 1 << 18;

type Page = Box<[u8; PAGE_SIZE]>;

#[derive(Default)]
struct Frames {
    pages: HashMap<u32, Page>,
    next: u32,
    /// By account: whose each frame is, how many it may have, and how often there were none for it.
    owners: HashMap<u32, u16>,
    limits: Vec<u64>,
    refused: HashMap<u16, u64>,
}

impl Frames {
    fn used(&self, account: Account) -> u64 {
        self.owners.values().filter(|owner| **owner == account.0).count() as u64
    }

    fn counts(&self, account: Account) -> FrameCounts {
        let used = self.used(account);
        let own = account.0.checked_sub(1).and_then(|at| self.limits.get(usize::from(at)));
        let most = own.copied().unwrap_or(u64::MAX).min(FRAMES.into());
        let all = self.pages.len() as u64;
        let free_for_all = u64::from(FRAMES) - all;
        FrameCounts {
            used,
            most,
            peak: used,
            free: most.saturating_sub(used).min(free_for_all),
            refused: self.refused.get(&account.0).copied().unwrap_or(0),
            used_by_all: all,
            free_for_all,
        }
    }
}

/// A donated file: a vector, or a true file of the host.
enum DonatedFile {
    Memory(Vec<u8>),
    Host(std::fs::File),
}

impl DonatedFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        use std::os::unix::fs::FileExt;
        match self {
            DonatedFile::Memory(content) => {
                let rest = content.get(offset as usize..).unwrap_or(&[]);
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            DonatedFile::Host(file) => file.read_at(buf, offset).map_err(host_errno),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        use std::os::unix::fs::FileExt;
        match self {
            DonatedFile::Memory(content) => {
                let end = offset as usize + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(data);
                Ok(data.len())
            }
            DonatedFile::Host(file) => file.write_at(data, offset).map_err(host_errno),
        }
    }
}

fn host_errno(e: std::io::Error) -> Errno {
    Errno::from_code(e.raw_os_error().unwrap_or(5))
}

/// One host thread, as the platform knows it.
#[derive(Default)]
struct Parker {
    token: Mutex<bool>,
    bell: Condvar,
}

/// The fake machine.
pub struct Fake {
    frames: Mutex<Frames>,
    files: Mutex<HashMap<u32, DonatedFile>>,
    parkers: Mutex<HashMap<u64, Arc<Parker>>>,
    kicks: Mutex<std::collections::HashSet<u64>>,
    channels: Mutex<HashMap<ChannelId, Arc<dyn Channel>>>,
    streams: Mutex<HashMap<StreamId, Arc<dyn Stream>>>,
    next: AtomicU64,
    start: Instant,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Installs the fake machine, once per process, and gives access to it.
pub fn install() -> &'static Fake {
    static FAKE: OnceLock<&'static Fake> = OnceLock::new();
    FAKE.get_or_init(|| {
        let fake: &'static Fake = Box::leak(Box::new(Fake {
            frames: Mutex::default(),
            files: Mutex::default(),
            parkers: Mutex::default(),
            kicks: Mutex::default(),
            channels: Mutex::default(),
            streams: Mutex::default(),
            next: AtomicU64::new(1),
            start: Instant::now(),
        }));
        super::install(fake);
        fake
    })
}

impl Fake {
    /// Adds a donated file with this content.
    pub fn add_file(&self, content: &[u8]) -> FileId {
        let id = self.next.fetch_add(1, Ordering::Relaxed) as u32;
        lock(&self.files).insert(id, DonatedFile::Memory(content.to_vec()));
        FileId(id)
    }

    /// Adds a file of the host as a donated one.
    pub fn add_host_file(&self, file: std::fs::File) -> FileId {
        let id = self.next.fetch_add(1, Ordering::Relaxed) as u32;
        lock(&self.files).insert(id, DonatedFile::Host(file));
        FileId(id)
    }

    /// Sets what [`Platform::channel`] gives for `id`.
    pub fn add_channel(&self, id: ChannelId, channel: Arc<dyn Channel>) {
        lock(&self.channels).insert(id, channel);
    }

    /// Sets what [`Platform::stream`] gives for `id`.
    pub fn add_stream(&self, id: StreamId, stream: Arc<dyn Stream>) {
        lock(&self.streams).insert(id, stream);
    }

    /// Whether the thread was kicked since the last time this was asked.
    pub fn take_kick(&self, thread: ThreadId) -> bool {
        lock(&self.kicks).remove(&thread.0)
    }

    fn parker(&self, thread: u64) -> Arc<Parker> {
        lock(&self.parkers).entry(thread).or_default().clone()
    }

    fn frame_bytes<R>(&self, frame: Frame, f: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> R {
        let mut frames = lock(&self.frames);
        let page = frames.pages.get_mut(&frame.0).expect("a frame in use");
        f(page)
    }

    /// Calls `f` for each piece of the run that lies in one frame: frame, offset, piece of the range.
    fn pieces(
        frame: Frame,
        offset: usize,
        len: usize,
        mut f: impl FnMut(Frame, usize, Range<usize>),
    ) {
        let mut at = 0;
        while at < len {
            let byte = offset + at;
            let n = (PAGE_SIZE - byte % PAGE_SIZE).min(len - at);
            f(frame.offset((byte / PAGE_SIZE) as u32), byte % PAGE_SIZE, at..at + n);
            at += n;
        }
    }
}

std::thread_local! {
    static ME: Cell<u64> = const { Cell::new(0) };
    static ACCOUNT: Cell<Account> = const { Cell::new(Account::FIRST) };
}

impl Platform for Fake {
    fn alloc_frames(&self, count: u32) -> Option<Frame> {
        let mut frames = lock(&self.frames);
        let first = frames.next;
        let account = ACCOUNT.get();
        let room = account == Account::FIRST || frames.counts(account).free >= count.into();
        let Some(end) = first.checked_add(count).filter(|end| *end <= FRAMES && room) else {
            *frames.refused.entry(account.0).or_default() += 1;
            return None;
        };
        frames.next = end;
        for n in first..end {
            frames.pages.insert(n, Box::new([0; PAGE_SIZE]));
            frames.owners.insert(n, account.0);
        }
        Some(Frame(first))
    }

    fn free_frames(&self, first: Frame, count: u32) {
        let mut frames = lock(&self.frames);
        for n in 0..count {
            assert!(frames.pages.remove(&(first.0 + n)).is_some(), "frame freed twice");
            frames.owners.remove(&(first.0 + n));
        }
    }

    fn frame_counts(&self, account: Account) -> FrameCounts {
        lock(&self.frames).counts(account)
    }

    fn limit_frames(&self, _count: Option<u32>) -> Result<(), u32> {
        Ok(())
    }

    fn open_account(&self) -> Option<Account> {
        let mut frames = lock(&self.frames);
        frames.limits.push(u64::MAX);
        u16::try_from(frames.limits.len()).ok().map(Account)
    }

    fn limit_account(&self, account: Account, count: Option<u32>) -> Result<(), u32> {
        let mut frames = lock(&self.frames);
        let used = frames.used(account);
        let most = count.map_or(u64::MAX, u64::from);
        if used > most {
            return Err(used as u32);
        }
        if let Some(at) = account.0.checked_sub(1) {
            frames.limits[usize::from(at)] = most;
        }
        Ok(())
    }

    fn close_account(&self, _account: Account) {}

    fn account(&self) -> Account {
        ACCOUNT.get()
    }

    fn charge_to(&self, account: Account) {
        ACCOUNT.set(account);
    }

    fn read_frame(&self, frame: Frame, offset: usize, buf: &mut [u8]) {
        Fake::pieces(frame, offset, buf.len(), |f, at, part| {
            let n = part.len();
            self.frame_bytes(f, |page| buf[part].copy_from_slice(&page[at..at + n]));
        });
    }

    fn write_frame(&self, frame: Frame, offset: usize, data: &[u8]) {
        Fake::pieces(frame, offset, data.len(), |f, at, part| {
            let n = part.len();
            self.frame_bytes(f, |page| page[at..at + n].copy_from_slice(&data[part]));
        });
    }

    fn zero_frame(&self, frame: Frame, offset: usize, len: usize) {
        Fake::pieces(frame, offset, len, |f, at, part| {
            self.frame_bytes(f, |page| page[at..at + part.len()].fill(0));
        });
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        let copy = self.frame_bytes(from, |page| *page);
        self.frame_bytes(to, |page| *page = copy);
    }

    fn frame_atomic(&self, frame: Frame, offset: usize, op: AtomicOp) -> u32 {
        self.frame_bytes(frame, |page| {
            let word: &mut [u8; 4] = (&mut page[offset..offset + 4]).try_into().expect("4 bytes");
            let old = u32::from_le_bytes(*word);
            *word = op.apply(old).to_le_bytes();
            old
        })
    }

    fn file_read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        lock(&self.files).get(&file.0).ok_or(Errno::EBADF)?.read(offset, buf)
    }

    fn file_write(&self, file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        lock(&self.files).get_mut(&file.0).ok_or(Errno::EBADF)?.write(offset, data)
    }

    fn file_atomic(&self, file: FileId, offset: u64, op: AtomicOp) -> Result<u32, Errno> {
        let mut files = lock(&self.files);
        let content = files.get_mut(&file.0).ok_or(Errno::EBADF)?;
        let mut word = [0; 4];
        if content.read(offset, &mut word)? != 4 {
            return Err(Errno::EIO);
        }
        let old = u32::from_le_bytes(word);
        content.write(offset, &op.apply(old).to_le_bytes())?;
        Ok(old)
    }

    fn file_size(&self, file: FileId) -> Result<u64, Errno> {
        match lock(&self.files).get(&file.0).ok_or(Errno::EBADF)? {
            DonatedFile::Memory(content) => Ok(content.len() as u64),
            DonatedFile::Host(file) => file.metadata().map(|m| m.len()).map_err(host_errno),
        }
    }

    fn file_close(&self, file: FileId) {
        lock(&self.files).remove(&file.0);
    }

    fn user_range(&self) -> Range<u64> {
        0x1_0000..0x7fff_ffff_0000
    }

    fn new_space(&self) -> Result<Arc<dyn AddressSpace>, Errno> {
        Ok(Arc::new(Space {
            id: SpaceId(self.next.fetch_add(1, Ordering::Relaxed)),
            pages: Mutex::default(),
        }))
    }

    fn new_user_thread(&self) -> Result<Box<dyn UserThread>, Errno> {
        Ok(Box::new(super::script::ScriptThread::new()))
    }

    fn spawn(&self, name: &str, entry: Box<dyn FnOnce() + Send>) -> Result<ThreadId, Errno> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                ME.set(id);
                entry();
            })
            .map_err(|_| Errno::EAGAIN)?;
        Ok(ThreadId(id))
    }

    fn current(&self) -> ThreadId {
        if ME.get() == 0 {
            ME.set(self.next.fetch_add(1, Ordering::Relaxed));
        }
        ThreadId(ME.get())
    }

    fn park(&self, deadline: Option<u64>) {
        let parker = self.parker(self.current().0);
        let mut token = lock(&parker.token);
        while !*token {
            let left = match deadline {
                None => Duration::from_secs(3600),
                Some(d) => match d.checked_sub(self.monotonic()) {
                    None | Some(0) => break,
                    Some(left) => Duration::from_nanos(left),
                },
            };
            token = match parker.bell.wait_timeout(token, left) {
                Ok((token, _)) => token,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        *token = false;
    }

    fn unpark(&self, thread: ThreadId) {
        let parker = self.parker(thread.0);
        *lock(&parker.token) = true;
        parker.bell.notify_all();
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn kick(&self, thread: ThreadId) {
        lock(&self.kicks).insert(thread.0);
    }

    fn place(&self, _thread: ThreadId, _cpus: &[u64]) {}

    fn cpus(&self) -> u32 {
        2
    }

    fn cpu_time(&self, _thread: ThreadId) -> CpuTime {
        CpuTime::default()
    }

    fn monotonic(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn realtime(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64)
    }

    fn random(&self, buf: &mut [u8]) {
        // Not random: tests are to repeat.
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = (i as u8).wrapping_mul(157).wrapping_add(11);
        }
    }

    fn cpuid(&self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }

    fn channel(&self, id: ChannelId) -> Result<Arc<dyn Channel>, Errno> {
        lock(&self.channels).remove(&id).ok_or(Errno::ENOENT)
    }

    fn stream(&self, id: StreamId) -> Result<Arc<dyn Stream>, Errno> {
        lock(&self.streams).get(&id).cloned().ok_or(Errno::EBADF)
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        std::eprintln!("{level:?}: {line}");
    }
}

/// An address space as a table of pages.
struct Space {
    id: SpaceId,
    pages: Mutex<BTreeMap<u64, (Backing, Prot)>>,
}

impl Space {
    /// The backing of the page that holds `addr`, if it is mapped with `need`.
    fn find(&self, addr: u64, need: Prot) -> Option<Backing> {
        let pages = lock(&self.pages);
        let (backing, prot) = pages.get(&(addr / PAGE_SIZE as u64))?;
        prot.contains(need).then_some(*backing)
    }

    fn each(
        &self,
        addr: u64,
        len: usize,
        need: Prot,
        mut f: impl FnMut(Backing, usize, Range<usize>) -> Result<(), Errno>,
    ) -> Result<(), CopyFault> {
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let offset = (at % PAGE_SIZE as u64) as usize;
            let n = (PAGE_SIZE - offset).min(len - done);
            let ok = self.find(at, need).is_some_and(|b| f(b, offset, done..done + n).is_ok());
            if !ok {
                return Err(CopyFault { done, addr: at });
            }
            done += n;
        }
        Ok(())
    }
}

impl AddressSpace for Space {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn map(&self, batch: &[Mapping]) -> Result<(), Errno> {
        let mut pages = lock(&self.pages);
        for m in batch {
            for i in 0..m.pages {
                let backing = match m.backing {
                    Backing::Frames(first) => Backing::Frames(first.offset(i)),
                    Backing::File(file, page) => Backing::File(file, page + u64::from(i)),
                };
                pages.insert(m.start / PAGE_SIZE as u64 + u64::from(i), (backing, m.prot));
            }
        }
        Ok(())
    }

    fn unmap(&self, range: Range<u64>) {
        let size = PAGE_SIZE as u64;
        lock(&self.pages).retain(|page, _| !range.contains(&(page * size)));
    }

    fn protect(&self, range: Range<u64>, prot: Prot) {
        let size = PAGE_SIZE as u64;
        for (_, (_, p)) in lock(&self.pages).range_mut(range.start / size..range.end / size) {
            *p = prot;
        }
    }

    fn copy_in(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        let fake = install();
        self.each(addr, buf.len(), Prot::READ, |backing, at, part| match backing {
            Backing::Frames(f) => {
                fake.read_frame(f, at, &mut buf[part]);
                Ok(())
            }
            Backing::File(file, page) => {
                let want = part.len();
                let n = fake.file_read(
                    file,
                    page * PAGE_SIZE as u64 + at as u64,
                    &mut buf[part.clone()],
                )?;
                buf[part.start + n..part.start + want].fill(0);
                Ok(())
            }
        })
    }

    fn copy_out(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        let fake = install();
        self.each(addr, data.len(), Prot::WRITE, |backing, at, part| match backing {
            Backing::Frames(f) => {
                fake.write_frame(f, at, &data[part]);
                Ok(())
            }
            Backing::File(file, page) => {
                fake.file_write(file, page * PAGE_SIZE as u64 + at as u64, &data[part]).map(|_| ())
            }
        })
    }

    fn atomic(&self, addr: u64, op: AtomicOp) -> Result<u32, CopyFault> {
        let fake = install();
        let fault = CopyFault { done: 0, addr };
        let need = if op == AtomicOp::Load { Prot::READ } else { Prot::WRITE };
        let offset = addr % PAGE_SIZE as u64;
        match self.find(addr, need) {
            Some(Backing::Frames(f)) => Ok(fake.frame_atomic(f, offset as usize, op)),
            Some(Backing::File(file, page)) => {
                fake.file_atomic(file, page * PAGE_SIZE as u64 + offset, op).map_err(|_| fault)
            }
            None => Err(fault),
        }
    }
}
