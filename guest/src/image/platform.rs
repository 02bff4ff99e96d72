//! The sentry's machine, on ring 0.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use ring0::paging::{NoMemory, Rights, Tables};
use ring0::thread::{self, Id, Short};
use ring0::user::{Exit, User};
use sentry::errno::Errno;
use sentry::platform::{
    Access, Account, AddressSpace, AtomicOp, Backing, Barrier, Barriers, Breakpoints, Channel,
    ChannelId, CopyFault, CpuTime, Exception, Fault, FileId, Frame, FrameCounts, Level, Mapping,
    PAGE_SIZE, Platform, Prot, Registers, RestartArea, Restarts, SpaceId, Stream, StreamId,
    ThreadId, Trap, UserThread,
};

use crate::{channel, cpus, host, memory, random, stream, window};

/// The end of what applications can have mapped: a page short of the lower half, as on Linux (TASK_SIZE_MAX), so
/// that the address after a `SYSCALL` is always canonical.
const USER_END: u64 = (1 << 47) - PAGE_SIZE as u64;

/// The machine.
pub struct Machine;

static MACHINE: Machine = Machine;
static SPACES: spin::Mutex<BTreeMap<u64, Weak<Tables>>> = spin::Mutex::new(BTreeMap::new());
static NEXT_SPACE: AtomicU64 = AtomicU64::new(1);

/// Makes it the sentry's.
pub fn install() {
    sentry::platform::install(&MACHINE);
}

fn all_spaces() -> Vec<Arc<Tables>> {
    SPACES.lock().values().filter_map(Weak::upgrade).collect()
}

/// Removes translations to a physical range from every address space.
pub fn unmap_everywhere(physical: Range<u64>) {
    for space in all_spaces() {
        let mut edit = space.edit();
        edit.unmap_physical(physical.clone());
        edit.finish();
    }
}

/// What an operation stores.
pub fn change(op: AtomicOp) -> impl Fn(u32) -> Option<u32> {
    move |old| match op {
        AtomicOp::Load => None,
        AtomicOp::CompareExchange(expected, _) if expected != old => None,
        op => Some(op.apply(old)),
    }
}

impl Platform for Machine {
    fn alloc_frames(&self, count: u32) -> Option<Frame> {
        memory::alloc(count)
    }

    fn free_frames(&self, first: Frame, count: u32) {
        memory::free(first, count);
    }

    fn frame_counts(&self, account: Account) -> FrameCounts {
        memory::counts(account)
    }

    fn limit_frames(&self, count: Option<u32>) -> Result<(), u32> {
        memory::restrict(count)
    }

    fn open_account(&self) -> Option<Account> {
        memory::open_account()
    }

    fn limit_account(&self, account: Account, count: Option<u32>) -> Result<(), u32> {
        memory::restrict_account(account, count)
    }

    fn close_account(&self, account: Account) {
        memory::close_account(account);
    }

    fn account(&self) -> Account {
        memory::account()
    }

    fn charge_to(&self, account: Account) {
        thread::set_label(account.0.into());
    }

    fn read_frame(&self, frame: Frame, offset: usize, buf: &mut [u8]) {
        memory::read(frame, offset, buf);
    }

    fn write_frame(&self, frame: Frame, offset: usize, data: &[u8]) {
        memory::write(frame, offset, data);
    }

    fn zero_frame(&self, frame: Frame, offset: usize, len: usize) {
        memory::zero(frame, offset, len);
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        memory::copy(from, to);
    }

    fn frame_atomic(&self, frame: Frame, offset: usize, op: AtomicOp) -> u32 {
        memory::update(frame, offset, change(op))
    }

    fn file_read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        window::read(file, offset, buf)
    }

    fn file_write(&self, file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        window::write(file, offset, data)
    }

    fn file_atomic(&self, file: FileId, offset: u64, op: AtomicOp) -> Result<u32, Errno> {
        window::atomic(file, offset, op)
    }

    fn file_size(&self, file: FileId) -> Result<u64, Errno> {
        window::size(file)
    }

    fn file_close(&self, file: FileId) {
        window::close(file);
    }

    fn user_range(&self) -> Range<u64> {
        0..USER_END
    }

    fn new_space(&self) -> Result<Arc<dyn AddressSpace>, Errno> {
        let tables = Arc::new(Tables::new().map_err(no_memory)?);
        let id = NEXT_SPACE.fetch_add(1, Ordering::Relaxed);
        SPACES.lock().insert(id, Arc::downgrade(&tables));
        Ok(Arc::new(Space { id, tables }))
    }

    fn new_user_thread(&self) -> Result<Box<dyn UserThread>, Errno> {
        Ok(Box::new(Application { user: User::new(), space: None }))
    }

    fn spawn(&self, _name: &str, entry: Box<dyn FnOnce() + Send>) -> Result<ThreadId, Errno> {
        // As on Linux, a thread may run where its maker may: on a busy CPU it wakes no other.
        let affinity = thread::current().affinity();
        thread::spawn(entry, affinity).map(|id| ThreadId(id.0)).map_err(|short| match short {
            Short::Memory => Errno::ENOMEM,
            Short::Slots => Errno::EAGAIN,
        })
    }

    fn current(&self) -> ThreadId {
        ThreadId(thread::current().id().0)
    }

    fn park(&self, deadline: Option<u64>) {
        thread::park(deadline);
    }

    fn unpark(&self, thread: ThreadId) {
        thread::unpark(Id(thread.0));
    }

    fn yield_now(&self) {
        thread::yield_now();
    }

    fn kick(&self, thread: ThreadId) {
        thread::kick(Id(thread.0));
    }

    fn place(&self, thread: ThreadId, cpus: &[u64]) {
        thread::place(Id(thread.0), cpus.first().copied().unwrap_or(0));
    }

    fn cpus(&self) -> u32 {
        cpus::total()
    }

    fn restart_area_size(&self) -> u32 {
        // struct rseq up to mm_cid (include/uapi/linux/rseq.h).
        28
    }

    fn barriers(&self) -> Barriers {
        Barriers::all()
    }

    fn backtrace(&self, thread: ThreadId, each: &mut dyn FnMut(u64)) {
        thread::backtrace(Id(thread.0), each);
    }

    fn cpu_time(&self, thread: ThreadId) -> CpuTime {
        let (user_ns, system_ns) = thread::cpu_time(Id(thread.0));
        CpuTime { user_ns, system_ns }
    }

    fn monotonic(&self) -> u64 {
        ring0::clock::monotonic()
    }

    fn realtime(&self) -> u64 {
        host::realtime()
    }

    fn random(&self, buf: &mut [u8]) {
        random::fill(buf);
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        host::cpuid(leaf, subleaf)
    }

    fn channel(&self, id: ChannelId) -> Result<Arc<dyn Channel>, Errno> {
        channel::open(id)
    }

    fn stream(&self, id: StreamId) -> Result<Arc<dyn Stream>, Errno> {
        stream::open(id)
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        host::log(level, line);
    }
}

/// An address space: its tables, by a number.
struct Space {
    id: u64,
    tables: Arc<Tables>,
}

fn no_memory(NoMemory: NoMemory) -> Errno {
    Errno::ENOMEM
}

fn rights(prot: Prot) -> Rights {
    Rights {
        read: prot.contains(Prot::READ),
        write: prot.contains(Prot::WRITE),
        execute: prot.contains(Prot::EXEC),
    }
}

fn fault(f: ring0::CopyFault) -> CopyFault {
    CopyFault { done: f.done, addr: f.addr }
}

impl Space {
    fn map_one(&self, edit: &mut ring0::paging::Edit<'_>, mapping: &Mapping) -> Result<(), Errno> {
        let rights = rights(mapping.prot);
        match mapping.backing {
            Backing::Frames(frame) => {
                let physical = memory::checked_run(frame, mapping.pages);
                edit.map(mapping.start, mapping.pages, physical, rights).map_err(no_memory)
            }
            // Handled before the lock was taken, see `map`.
            Backing::File(..) => Err(Errno::EINVAL),
        }
    }

    fn map_file(&self, mapping: &Mapping, file: FileId, first: u64) -> Result<(), Errno> {
        let rights = rights(mapping.prot);
        let (mut at, mut page, mut left) = (mapping.start, first, u64::from(mapping.pages));
        while left > 0 {
            let within = page % window::CHUNK_PAGES;
            let count = left.min(window::CHUNK_PAGES - within);
            // Pinned before the tables are locked: bringing a chunk may have to change every space.
            let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE as u64);
            let pin = window::pin_to_map(file, bytes(page), bytes(count))?;
            if rights.write && !pin.writable {
                return Err(Errno::EACCES);
            }
            let mut edit = self.tables.edit();
            let physical = pin.address + within * PAGE_SIZE as u64;
            let result = edit.map(at, count as u32, physical, rights).map_err(no_memory);
            edit.finish();
            result?;
            at = at.saturating_add(count * PAGE_SIZE as u64);
            page = page.saturating_add(count);
            left -= count;
        }
        Ok(())
    }
}

impl AddressSpace for Space {
    fn id(&self) -> SpaceId {
        SpaceId(self.id)
    }

    fn map(&self, batch: &[Mapping]) -> Result<(), Errno> {
        let is_file = |m: &Mapping| matches!(m.backing, Backing::File(..));
        for group in batch.chunk_by(|a, b| !is_file(a) && !is_file(b)) {
            if let [mapping] = group
                && let Backing::File(file, first) = mapping.backing
            {
                self.map_file(mapping, file, first)?;
                continue;
            }
            let mut edit = self.tables.edit();
            let result = group.iter().try_for_each(|m| self.map_one(&mut edit, m));
            edit.finish();
            result?;
        }
        Ok(())
    }

    fn unmap(&self, range: Range<u64>) {
        let mut edit = self.tables.edit();
        edit.unmap(range);
        edit.finish();
    }

    fn protect(&self, range: Range<u64>, prot: Prot) {
        let mut edit = self.tables.edit();
        edit.protect(range, rights(prot));
        edit.finish();
    }

    fn copy_in(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        self.tables.copy_in(addr, buf).map_err(fault)
    }

    fn copy_out(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        self.tables.copy_out(addr, data).map_err(fault)
    }

    fn copy_out_file(&self, addr: u64, len: usize, file: FileId, offset: u64) -> usize {
        window::read_pieces(file, offset, len, |physical, done, n| {
            // SAFETY: as `read_pieces` says.
            unsafe { self.tables.copy_out_physical(addr.wrapping_add(done as u64), physical, n) }
        })
    }

    fn atomic(&self, addr: u64, op: AtomicOp) -> Result<u32, CopyFault> {
        self.tables.update_word(addr, change(op)).map_err(fault)
    }

    fn barrier(&self, barrier: Barrier) -> Result<(), Errno> {
        match barrier {
            Barrier::Everywhere => all_spaces().iter().for_each(|space| space.barrier()),
            // It serializes too, and who has been kicked before stops at it.
            Barrier::Memory | Barrier::Core | Barrier::Restart(_) => self.tables.barrier(),
        }
        Ok(())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        SPACES.lock().remove(&self.id);
    }
}

/// An application thread.
struct Application {
    user: User,
    /// The space that it ran in last, and its tables.
    space: Option<(Arc<dyn AddressSpace>, Arc<Tables>)>,
}

impl Application {
    /// Makes a space the thread's; whether it is one of ours.
    #[cold]
    fn take(&mut self, space: &Arc<dyn AddressSpace>) -> bool {
        let tables = SPACES.lock().get(&space.id().0).and_then(Weak::upgrade);
        self.space = tables.map(|tables| (space.clone(), tables));
        self.space.is_some()
    }
}

/// The sentry's registers as ring 0's.
fn as_ring0(regs: &mut Registers) -> &mut ring0::Registers {
    const {
        assert!(size_of::<Registers>() == size_of::<ring0::Registers>());
        assert!(align_of::<Registers>() == align_of::<ring0::Registers>());
        assert!(
            core::mem::offset_of!(Registers, ss) == core::mem::offset_of!(ring0::Registers, ss)
        );
        assert!(
            core::mem::offset_of!(Registers, rdi) == core::mem::offset_of!(ring0::Registers, rdi)
        );
    }
    // SAFETY: both are `repr(C)` with the fields of Linux's `struct user_regs_struct`, all u64, in its order.
    unsafe { &mut *core::ptr::from_mut(regs).cast() }
}

impl UserThread for Application {
    fn switch(&mut self, regs: &mut Registers, space: &Arc<dyn AddressSpace>) -> Trap {
        if !matches!(&self.space, Some((last, _)) if Arc::ptr_eq(last, space)) && !self.take(space)
        {
            return Trap::Lost;
        }
        let Some((_, tables)) = &self.space else { return Trap::Lost };
        match self.user.run(as_ring0(regs), tables) {
            Exit::Syscall => Trap::Syscall,
            Exit::Int80 => Trap::ForeignSyscall,
            Exit::Kicked => Trap::Kicked,
            Exit::Rescheduled => Trap::Rescheduled,
            Exit::Exception { vector, error } => Trap::Exception(Exception { vector, error }),
            Exit::PageFault { addr, error } => self.page_fault(addr, error),
        }
    }

    fn xstate(&mut self, image: &mut Vec<u8>) {
        self.user.fpu().read(image);
    }

    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Errno> {
        self.user.fpu().write(image).map_err(|_| Errno::EINVAL)
    }

    fn reset_xstate(&mut self) {
        self.user.fpu().reset();
    }

    fn cpu(&self) -> u32 {
        thread::current().cpu()
    }

    fn set_breakpoints(&mut self, breakpoints: &Breakpoints) -> Result<(), Errno> {
        match self.user.set_breakpoints(breakpoints.addresses, breakpoints.control) {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }

    fn set_tsc_faults(&mut self, faults: bool) -> Result<(), Errno> {
        self.user.set_tsc_faults(faults);
        Ok(())
    }

    fn restartable(&mut self, area: Option<RestartArea>) -> Result<Restarts, Errno> {
        thread::current().tell_lost_cpu(area.is_some());
        Ok(Restarts::Sentry)
    }
}

impl Application {
    /// The CPU's error code (SDM volume 3, 4.7) as the sentry's words.
    fn page_fault(&self, addr: u64, error: u64) -> Trap {
        let access = match error {
            e if e & 1 << 4 != 0 => Access::Exec,
            e if e & 1 << 1 != 0 => Access::Write,
            _ => Access::Read,
        };
        // A page that is mapped without any right is not present for the CPU.
        let mapped =
            || self.space.as_ref().is_some_and(|(_, tables)| tables.lookup(addr).is_some());
        let present = addr < USER_END && (error & 1 != 0 || mapped());
        Trap::Fault(Fault { addr, access, present })
    }
}
