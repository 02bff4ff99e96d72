//! The one seam between the sentry and the machine under it.
//!
//! The sentry is written against [`Platform`] and knows nothing of KVM or ptrace. The trait offers
//! mechanism only: frames, address spaces, a switch to the application, threads that park, clocks,
//! and channels to the host half. Policy (what is mapped where, who runs, who may) is the sentry's.
//!
//! Principles that every implementation keeps:
//!
//! - **Handles, not references.** Memory that an application can write is reached by handle
//!   ([`Frame`], [`FileId`]) and by copy; no Rust reference to it exists in the sentry.
//! - **The sentry keeps the truth.** What an [`AddressSpace`] maps is a cache of the sentry's VMAs and
//!   may be dropped at any time; a missing mapping shows up as a [`Trap::Fault`] or a [`CopyFault`].
//! - **Parking is the only way to wait.** Every lock and wait queue of the sentry is built on
//!   [`Platform::park`] and [`Platform::unpark`].
//! - **A kick is never lost.** See [`Platform::kick`].
//!
//! There are three implementations: the bootable image (`guest`), `ptrace-fallback`, and [`fake`]
//! for unit tests on the host.

mod context;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod frame_alloc;
#[cfg(any(test, feature = "fake"))]
pub mod script;

pub use context::{Access, Exception, Fault, Registers, Trap, vector};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::errno::Errno;

/// Bytes in a page and in a frame (x86-64, Intel SDM volume 3, 4.5).
pub const PAGE_SIZE: usize = 4096;

/// A 4 KiB page of the sandbox's memory, by number. The number says nothing about host addresses.
///
/// Neighbouring numbers are neighbours in memory, so a run of frames can be mapped as one piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame(pub u32);

impl Frame {
    /// The frame `n` places further on.
    pub fn offset(self, n: u32) -> Frame {
        Frame(self.0.saturating_add(n))
    }
}

/// A regular host file that the gofer has donated, by its index in the host half's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// A stream that the container was given (standard input and output, a console), by its index in
/// the host half's table.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct StreamId(pub u32);

/// A message channel to the host half or through it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub enum ChannelId {
    /// Life-cycle requests and events, [`crate::control`].
    Control,
    /// 9P to the gofer with this index in the host half's table.
    Gofer(u32),
}

/// A kernel thread of the platform. Never reused, so a stale one is harmless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ThreadId(pub u64);

/// An address space, by a number that is unique for the life of the sandbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpaceId(pub u64);

bitflags::bitflags! {
    /// What an application may do with a page. Empty: mapped, but not accessible.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u8 {
        /// Loads.
        const READ = 1;
        /// Stores. Implies `READ` on x86.
        const WRITE = 2;
        /// Instruction fetches.
        const EXEC = 4;
    }
}

/// What stands behind a range of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// A run of frames, beginning with this one.
    Frames(Frame),
    /// A donated file from this page (not byte) on, shared with the host's page cache.
    File(FileId, u64),
}

/// One range to map.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// First address, page-aligned.
    pub start: u64,
    /// Length in pages; at least 1.
    pub pages: u32,
    /// What is mapped.
    pub backing: Backing,
    /// What the application may do with it.
    pub prot: Prot,
}

/// A copy to or from an application's memory stopped at a page that is not mapped as needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyFault {
    /// Bytes copied before the fault.
    pub done: usize,
    /// The address that faulted.
    pub addr: u64,
}

/// An atomic operation on an aligned 32-bit word, as futexes need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtomicOp {
    /// Load.
    Load,
    /// Store `1` where the word equals `0`.
    CompareExchange(u32, u32),
    /// Store.
    Swap(u32),
    /// Add, wrapping.
    Add(u32),
    /// Or.
    Or(u32),
    /// And.
    And(u32),
    /// Exclusive or.
    Xor(u32),
}

impl AtomicOp {
    /// The word after the operation on a word that holds `old`.
    pub fn apply(self, old: u32) -> u32 {
        match self {
            AtomicOp::Load => old,
            AtomicOp::CompareExchange(expected, new) if old == expected => new,
            AtomicOp::CompareExchange(..) => old,
            AtomicOp::Swap(v) => v,
            AtomicOp::Add(v) => old.wrapping_add(v),
            AtomicOp::Or(v) => old | v,
            AtomicOp::And(v) => old & v,
            AtomicOp::Xor(v) => old ^ v,
        }
    }
}

/// Processor time that a thread has used.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CpuTime {
    /// In the application, nanoseconds.
    pub user_ns: u64,
    /// In the sentry on the application's behalf, nanoseconds.
    pub system_ns: u64,
}

impl CpuTime {
    /// Both together.
    pub fn add(&mut self, other: CpuTime) {
        self.user_ns = self.user_ns.saturating_add(other.user_ns);
        self.system_ns = self.system_ns.saturating_add(other.system_ns);
    }
}

/// How many pages a fault maps at most, itself included: what a trap costs on this platform against
/// what a page does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultAround {
    /// New zero pages.
    pub fresh: u32,
    /// Pages copied on write.
    pub copied: u32,
    /// Pages of a file.
    pub file: u32,
    /// Pages of a donated file.
    pub donated: u32,
}

bitflags::bitflags! {
    /// Barriers that membarrier(2) promises, as far as a machine can keep them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Barriers: u8 {
        /// [`Barrier::Everywhere`].
        const EVERYWHERE = 1;
        /// [`Barrier::Memory`].
        const MEMORY = 2;
        /// [`Barrier::Core`].
        const CORE = 4;
        /// [`Barrier::Restart`].
        const RESTART = 8;
    }
}

/// A barrier that other threads' CPUs execute for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barrier {
    /// A full memory barrier by every application thread of every address space that runs.
    Everywhere,
    /// A full memory barrier by every thread that runs in this address space.
    Memory,
    /// The same, and whatever their CPUs have fetched of the instruction stream is fetched anew.
    Core,
    /// The same as `Memory`, and their restartable sequences are aborted; on this CPU only, where there is one.
    /// Threads whose sequences the sentry aborts ([`UserThread::restartable`]) it has kicked before.
    Restart(Option<u32>),
}

/// A thread's restartable-sequences area (rseq(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartArea {
    /// Where its `struct rseq` is.
    pub addr: u64,
    /// How long the application says that is.
    pub len: u32,
    /// What stands before the address of every abort handler.
    pub signature: u32,
}

/// What a CPU's debug registers hold while an application thread runs on it (Intel SDM volume 3, 18.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Breakpoints {
    /// DR0 to DR3, of those that `control` enables: addresses in user space, aligned as its lengths say.
    pub addresses: [u64; 4],
    /// DR7, nothing in it but what enables and describes those; 0: none.
    pub control: u64,
}

/// Who sees to a thread's restartable sequences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restarts {
    /// The sentry, at each [`Trap::Rescheduled`].
    Sentry,
    /// The host: its scheduler preempts the thread, and aborts. [`Trap::Rescheduled`] comes where that fails for
    /// want of a page.
    Host,
}

/// How urgent a log line is; the numbers are syslog(3)'s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The sandbox ends.
    Error = 3,
    /// Something is not as asked.
    Warning = 4,
    /// One line per event that a user would want to know of.
    Info = 6,
    /// For developers.
    Debug = 7,
}

/// Who uses memory: a container. The first account is there from the beginning, and what nobody else is charged is its.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Account(pub u16);

impl Account {
    /// The first one.
    pub const FIRST: Account = Account(0);
}

/// What an account has, in frames. What is used without being in a frame counts as so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameCounts {
    /// In use.
    pub used: u64,
    /// The most that it can have: its own limit, or that of all.
    pub most: u64,
    /// The most that it had at once.
    pub peak: u64,
    /// What it could still have: by its own limit, and by that of all.
    pub free: u64,
    /// How often something was wanted for it, by the sentry or by the platform, and not to be had.
    pub refused: u64,
    /// What all accounts have.
    pub used_by_all: u64,
    /// What all could still have together.
    pub free_for_all: u64,
}

/// The machine, as the sentry sees it. There is one per sandbox; see [`platform`].
///
/// No method panics on values that come from an application. Handles that the sentry did not get
/// from this platform are a defect of the sentry, and end the sandbox.
pub trait Platform: Send + Sync + 'static {
    // --- frames ---

    /// A run of `count` neighbouring frames, all zero, charged to the calling thread's account; `None` where there is no
    /// memory for it.
    fn alloc_frames(&self, count: u32) -> Option<Frame>;
    /// Gives a run back. Nothing maps it any more, or is about to: an implementation reuses it
    /// only when no CPU can still hold a stale translation. The host sees it free within 2 s.
    fn free_frames(&self, first: Frame, count: u32);
    /// What an account has of the frames.
    fn frame_counts(&self, account: Account) -> FrameCounts;
    /// Lets all accounts together have no more than `count`, beside what was before this was first called; `None`: as many
    /// as there are. From then on, only what came later counts. An error is how many are in use, where that is more.
    fn limit_frames(&self, count: Option<u32>) -> Result<(), u32>;
    /// A new account, without a limit of its own; `None` where there are too many.
    fn open_account(&self) -> Option<Account>;
    /// Lets an account that was opened have no more than `count`; `None`: as many as there are. An error is how many it
    /// has, where that is more.
    fn limit_account(&self, account: Account, count: Option<u32>) -> Result<(), u32>;
    /// Closes an account. What is charged to it stays so until it is given back.
    fn close_account(&self, account: Account);
    /// The account of the calling thread.
    fn account(&self) -> Account;
    /// Has whatever the calling thread takes from now on, and the platform for it, charged to this account: frames, and
    /// what tasks and address spaces cost without being in one. A new thread charges to the first.
    fn charge_to(&self, account: Account);
    /// Copies out of the run that begins with `frame`, from byte `offset` of it.
    fn read_frame(&self, frame: Frame, offset: usize, buf: &mut [u8]);
    /// Copies into the run that begins with `frame`, from byte `offset` of it.
    fn write_frame(&self, frame: Frame, offset: usize, data: &[u8]);
    /// Zeroes `len` bytes of the run that begins with `frame`, from byte `offset` of it.
    fn zero_frame(&self, frame: Frame, offset: usize, len: usize);
    /// Copies one whole frame.
    fn copy_frame(&self, from: Frame, to: Frame);
    /// An atomic operation on the aligned word at byte `offset`; the word before it.
    fn frame_atomic(&self, frame: Frame, offset: usize, op: AtomicOp) -> u32;

    // --- donated files ---

    /// Reads from a donated file; short at its end. `EIO` where the host cannot.
    fn file_read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Writes to a donated file.
    fn file_write(&self, file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno>;
    /// An atomic operation on the aligned word at `offset` of a donated file that is mapped shared.
    fn file_atomic(&self, file: FileId, offset: u64, op: AtomicOp) -> Result<u32, Errno>;
    /// The size in bytes now.
    fn file_size(&self, file: FileId) -> Result<u64, Errno>;
    /// Lets go of it; no address space maps it any more.
    fn file_close(&self, file: FileId);

    // --- address spaces and the application ---

    /// The addresses that an application can have mapped, page-aligned.
    fn user_range(&self) -> Range<u64>;
    /// A new, empty address space.
    fn new_space(&self) -> Result<Arc<dyn AddressSpace>, Errno>;
    /// How much is worth mapping at once around a fault.
    fn fault_around(&self) -> FaultAround {
        FaultAround { fresh: 16, copied: 4, file: 16, donated: 16 }
    }
    /// What the calling thread needs to run an application; it stays on this thread.
    fn new_user_thread(&self) -> Result<Box<dyn UserThread>, Errno>;

    // --- threads ---

    /// Starts a thread. `name` is for logs.
    fn spawn(&self, name: &str, entry: Box<dyn FnOnce() + Send>) -> Result<ThreadId, Errno>;
    /// The calling thread.
    fn current(&self) -> ThreadId;
    /// Waits until [`unpark`](Self::unpark) is called for this thread, or the monotonic clock
    /// reaches `deadline` (nanoseconds). An unpark that came first makes this return at once, once.
    /// May return early for no reason.
    fn park(&self, deadline: Option<u64>);
    /// Ends the thread's park, or its next one.
    fn unpark(&self, thread: ThreadId);
    /// Lets others run.
    fn yield_now(&self);
    /// Called over and over while the caller waits for a spinlock that another thread holds. Must
    /// not switch to a thread that could want a lock of the caller's on this CPU only.
    fn relax(&self) {
        core::hint::spin_loop();
    }
    /// Makes the thread's running [`UserThread::switch`], or else its next one, return
    /// [`Trap::Kicked`] soon. Never lost; several before one return count as one.
    fn kick(&self, thread: ThreadId);
    /// Restricts a thread to CPUs: bit `n` of word `n / 64` is CPU `n`.
    fn place(&self, thread: ThreadId, cpus: &[u64]);
    /// CPUs that applications see.
    fn cpus(&self) -> u32;
    /// Bytes of `struct rseq` that [`UserThread::restartable`] keeps up to date; 0 where it cannot be.
    fn restart_area_size(&self) -> u32 {
        0
    }
    /// The barriers that [`AddressSpace::barrier`] can do.
    fn barriers(&self) -> Barriers {
        Barriers::empty()
    }
    /// Tells the return addresses on a parked thread's stack, innermost first; nothing where that cannot be seen, or the
    /// thread runs. `each` must not wait.
    fn backtrace(&self, _thread: ThreadId, _each: &mut dyn FnMut(u64)) {}
    /// Time used by a thread; the last known for one that has ended.
    fn cpu_time(&self, thread: ThreadId) -> CpuTime;

    // --- clocks, entropy, CPU ---

    /// CLOCK_MONOTONIC, nanoseconds.
    fn monotonic(&self) -> u64;
    /// CLOCK_REALTIME, nanoseconds since 1970.
    fn realtime(&self) -> u64;
    /// Fills `buf` with bytes fit for keys.
    fn random(&self, buf: &mut [u8]);
    /// CPUID as applications see it: eax, ebx, ecx, edx.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];

    // --- the host half ---

    /// Opens a channel; each can be opened once.
    fn channel(&self, id: ChannelId) -> Result<Arc<dyn Channel>, Errno>;
    /// The stream with this index; `EBADF` where there is none.
    fn stream(&self, id: StreamId) -> Result<Arc<dyn Stream>, Errno>;
    /// Writes one line to the log.
    fn log(&self, level: Level, line: fmt::Arguments<'_>);
}

/// An application's memory map, as far as the machine knows it.
///
/// All methods may be called from any thread, at any time, also while applications run in it: when
/// `unmap`, `protect` or a `map` over something else returns, no CPU uses the old translation in
/// user mode any more.
pub trait AddressSpace: Send + Sync {
    /// Its number.
    fn id(&self) -> SpaceId;
    /// Maps ranges, in order, over whatever is there. `ENOMEM` where there is no room for tables;
    /// then any part may have been mapped.
    fn map(&self, batch: &[Mapping]) -> Result<(), Errno>;
    /// Unmaps what is mapped in `range`.
    fn unmap(&self, range: Range<u64>);
    /// Changes the protection of what is mapped in `range`.
    fn protect(&self, range: Range<u64>, prot: Prot);
    /// Reads the application's memory, with its rights.
    fn copy_in(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault>;
    /// Writes the application's memory, with its rights.
    fn copy_out(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault>;
    /// Moves up to `len` bytes of a host file from `offset` straight into the application's memory, with its rights;
    /// how many. It may be fewer at any time, down to none: at the end of the file, at a page that is not mapped, after
    /// an error, on a platform without a shorter way. Then the rest goes by [`Platform::file_read`] and
    /// [`copy_out`](Self::copy_out), which say why.
    fn copy_out_file(&self, _addr: u64, _len: usize, _file: FileId, _offset: u64) -> usize {
        0
    }
    /// An atomic operation on an aligned word, with the application's rights (`Load` needs reading
    /// only); the word before it.
    fn atomic(&self, addr: u64, op: AtomicOp) -> Result<u32, CopyFault>;
    /// Has running threads execute a barrier. What they did before it, and the caller before this call, everybody
    /// sees after it. `ENOSYS` for one that is not among [`Platform::barriers`].
    fn barrier(&self, _barrier: Barrier) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
}

/// One application thread's CPU. Used on the thread that made it, and dropped there.
pub trait UserThread {
    /// Runs the application with these registers in this address space until something happens.
    /// A new `space` may be given at any call.
    fn switch(&mut self, regs: &mut Registers, space: &Arc<dyn AddressSpace>) -> Trap;
    /// The vector and floating-point state as one standard-format XSAVE image (Intel SDM volume 1,
    /// 13.4), replacing what is in `image`.
    fn xstate(&mut self, image: &mut Vec<u8>);
    /// Sets that state. `EINVAL` where the image is not one that XRSTOR would take.
    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Errno>;
    /// Sets that state to what a new program finds.
    fn reset_xstate(&mut self);
    /// The CPU that it ran on last.
    fn cpu(&self) -> u32;
    /// Has the CPU stop at these from now on, by [`vector::DEBUG`]. `ENOSPC` where it cannot.
    fn set_breakpoints(&mut self, _breakpoints: &Breakpoints) -> Result<(), Errno> {
        Err(Errno::ENOSPC)
    }
    /// Has the CPU raise [`vector::GENERAL_PROTECTION`] where the application reads the time stamp counter, from now on,
    /// or let it again. `EINVAL` where it cannot.
    fn set_tsc_faults(&mut self, _faults: bool) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// The thread has a restartable-sequences area from now on, in the address space that it is switched to next, or
    /// has none any more: to be said before that memory goes. Never with another area in its place. The first switch
    /// with a new one gives [`Trap::Rescheduled`] where the sentry is to see to it. `ENOSYS` where
    /// [`Platform::restart_area_size`] is 0.
    fn restartable(&mut self, _area: Option<RestartArea>) -> Result<Restarts, Errno> {
        Err(Errno::ENOSYS)
    }
}

/// A channel of whole messages.
pub trait Channel: Send + Sync {
    /// The longest message in bytes.
    fn max_message(&self) -> usize;
    /// Sends one message; waits for room. `EPIPE` where the other side is gone.
    fn send(&self, message: &[u8]) -> Result<(), Errno>;
    /// Waits for one message and puts it into `buf`, replacing what is there; with it may come a
    /// donated file. `ETIMEDOUT` at the deadline (monotonic, nanoseconds), `EPIPE` where the other
    /// side is gone. One thread at a time.
    fn recv(&self, buf: &mut Vec<u8>, deadline: Option<u64>) -> Result<Option<FileId>, Errno>;
}

bitflags::bitflags! {
    /// What a stream is ready for; the numbers are poll(2)'s.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Ready: u16 {
        /// Reading will not wait.
        const IN = 0x001;
        /// Writing will not wait.
        const OUT = 0x004;
        /// It has failed.
        const ERR = 0x008;
        /// The other side is gone.
        const HUP = 0x010;
    }
}

/// What the host descriptor behind a stream is; decides what fstat and seek say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// A pipe or FIFO.
    Pipe,
    /// A regular file, whose offset is shared with whoever else holds it.
    Regular,
    /// A terminal.
    Terminal,
    /// A socket.
    Socket,
    /// /dev/null and other character devices.
    CharDevice,
}

/// A host descriptor that the host half holds for the container. Never waits.
pub trait Stream: Send + Sync {
    /// What it is.
    fn kind(&self) -> StreamKind;
    /// Reads; 0 at the end; `EAGAIN` where it would wait.
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Writes; `EAGAIN` where it would wait; `EPIPE` where nobody reads.
    fn write(&self, data: &[u8]) -> Result<usize, Errno>;
    /// What it is ready for now.
    fn ready(&self) -> Ready;
    /// Has `listener` told after `interest` becomes true, once per call of this.
    fn notify(&self, interest: Ready, listener: Arc<dyn Listener>);
    /// The terminal's size, rows and columns; `ENOTTY` where it is none.
    fn window_size(&self) -> Result<(u16, u16), Errno>;
    /// Where a regular file stands: lseek(2) on the shared offset. `ESPIPE` for others.
    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno>;
}

/// Wants to know that a stream may be ready. Called on any thread; must not wait.
pub trait Listener: Send + Sync {
    /// The stream may be ready for this.
    fn ready(&self, ready: Ready);
}

/// What the calling thread's account has of the frames: memory as an application sees it.
pub fn own_frames() -> FrameCounts {
    platform().frame_counts(platform().account())
}

static PLATFORM: spin::Once<&'static dyn Platform> = spin::Once::new();

/// Installs the machine; the first one stays.
pub fn install(platform: &'static dyn Platform) {
    PLATFORM.call_once(|| platform);
}

/// The machine under this sentry.
///
/// It is the one global of the sentry: a sandbox has one machine, but many containers.
///
/// # Panics
/// Before [`install`]: nothing of the sentry runs then.
#[allow(clippy::expect_used)] // unreachable after boot, which installs it first
#[inline]
pub fn platform() -> &'static dyn Platform {
    *PLATFORM.get().expect("the platform is installed at boot")
}
