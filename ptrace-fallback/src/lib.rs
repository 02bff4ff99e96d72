//! The sentry as an ordinary host process, and the application in processes that it traces.
//!
//! The principle: **the application never makes a system call of its own.** Each of its threads is a
//! *stub thread* that runs under `PTRACE_SYSEMU`, so the host's kernel stops it at every system call
//! and skips the call; the sentry serves it instead. What stands between the application and the host
//! is therefore one flag of the kernel's, and behind it the stub's own seccomp filter.
//!
//! - [`Prepared`] makes the *pristine stub*, from which all others descend, and proves that ptrace
//!   works here; [`Prepared::start`] turns the process into a platform.
//! - An address space is a *stub process*. Its first thread is untraced and runs our code alone: it
//!   is the process's *agent*, which maps and unmaps what the sentry asks for.
//! - An application's thread is another thread of it, traced by the sentry thread that drives it.
//!
//! Nothing here is policy: what is mapped where, and who runs, is the sentry's.

mod control;
mod cpuid;
mod error;
mod files;
mod fixup;
mod gofer;
mod keeper;
mod map;
mod memory;
mod place;
mod restart;
mod space;
mod streams;
mod stub;
mod sys;
mod thread;
mod user;
mod worker;
mod xstate;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use control::{ControlHost, ControlRelay, ControlSentry, control_pair};
pub use error::Error;
use sentry::errno::Errno;
use sentry::platform::{
    Account, AddressSpace, AtomicOp, Barriers, Channel, ChannelId, CpuTime, FaultAround, FileId,
    Frame, FrameCounts, Level, Platform, Stream, StreamId, ThreadId, UserThread,
};

use gofer::GoferChannel;
use keeper::Keeper;
use memory::Memory;
use place::Placement;
use space::Machine;
use streams::HostStream;
use stub::Stubs;
use thread::Threads;
use user::User;
use worker::Workers;

/// Bytes of stack of the service thread.
const KEEPER_STACK: usize = 128 * 1024;

/// Takes one line of the log.
pub type LogSink = Box<dyn Fn(Level, fmt::Arguments<'_>) + Send + Sync>;

/// What a platform is started with.
pub struct Config {
    /// The sentry's end of the control channel; the host half keeps the other.
    pub control: ControlSentry,
    /// Sockets to gofers (SOCK_SEQPACKET), by index.
    pub gofers: Vec<OwnedFd>,
    /// Streams of containers, by index.
    pub streams: Vec<OwnedFd>,
    /// The most memory that applications and the sentry's page cache can have, bytes.
    pub memory: u64,
    /// CPUs that applications see; 0: as many as this process may use.
    pub cpus: u32,
    /// Where log lines go.
    pub log: LogSink,
}

/// A process that is ready to become a platform: the pristine stub exists.
pub struct Prepared {
    stubs: Arc<Stubs>,
}

impl Prepared {
    /// Turns this process into the platform, for the rest of its life: starts the service thread,
    /// handles SIGBUS, ignores SIGPIPE, and raises the soft limit of descriptors.
    pub fn start(self, config: Config) -> Result<&'static PtracePlatform, Error> {
        let host = |what| move |e| Error::Host(what, e);
        fixup::install().map_err(host("SIGBUS handler"))?;
        streams::ignore_sigpipe().map_err(host("SIGPIPE"))?;
        sys::no_signals_of_stops().map_err(host("SIGCHLD"))?;
        let donations = raise_descriptor_limit().map_err(host("RLIMIT_NOFILE"))?;
        let keeper: &'static Keeper =
            Box::leak(Box::new(Keeper::new().map_err(host("epoll for the service thread"))?));
        let memory = Memory::new(config.memory)?;
        let machine: &'static Machine =
            Box::leak(Box::new(Machine::new(memory, self.stubs, donations)));
        let placement: &'static Placement = Box::leak(Box::new(Placement::new(config.cpus)));
        let platform: &'static PtracePlatform = Box::leak(Box::new(PtracePlatform {
            machine,
            threads: Box::leak(Box::default()),
            workers: Box::leak(Box::default()),
            placement,
            keeper,
            // The host writes its own number of the CPU there.
            restart_area_size: if placement.numbers_as_host() { sys::rseq_size() } else { 0 },
            barriers: restart::barriers(),
            control: Mutex::new(Some(config.control)),
            gofers: Mutex::new(config.gofers.into_iter().map(Some).collect()),
            streams: Mutex::default(),
            log: config.log,
        }));
        for fd in config.streams {
            platform.add_stream(fd);
        }
        machine.stubs.watch(Box::new(move |stub| {
            if let Err(e) = keeper.watch_stub(stub) {
                // Its death would leave a waiter waiting.
                stub.kill();
                let line = format_args!("cannot watch a stub process: {e}");
                (platform.log)(Level::Warning, line);
            }
        }));
        std::thread::Builder::new()
            .name("keeper".into())
            .stack_size(KEEPER_STACK)
            .spawn(move || keeper.run(platform))
            .map_err(host("service thread"))?;
        Ok(platform)
    }
}

/// The filter of every stub, which holds whatever gets past ptrace.
pub fn stub_filter() -> Vec<libc::sock_filter> {
    stub::code::filter()
}

/// As much of a name as the host keeps, and a zero.
fn thread_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}

/// Raises this process's soft limit of descriptors to the hard one, and gives how many of them donated files may take:
/// three quarters. The rest is for links, streams and whatever else must not fail because a cache is full.
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(usize::try_from(limit.rlim_cur / 4).unwrap_or(usize::MAX).saturating_mul(3)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The machine, on ptrace. Install it with [`sentry::platform::install`], then call [`sentry::run`].
pub struct PtracePlatform {
    machine: &'static Machine,
    threads: &'static Threads,
    workers: &'static Workers,
    placement: &'static Placement,
    keeper: &'static Keeper,
    restart_area_size: u32,
    barriers: Barriers,
    control: Mutex<Option<ControlSentry>>,
    gofers: Mutex<Vec<Option<OwnedFd>>>,
    streams: Mutex<Vec<Given>>,
    log: LogSink,
}

/// A stream that was given: held until the sentry takes it, and the sentry's from then on.
struct Given {
    untaken: Option<Arc<HostStream>>,
    stream: Weak<HostStream>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PtracePlatform {
    /// Makes the pristine stub and proves with one traced system call that ptrace works here.
    ///
    /// To be called by a thread that lives as long as the process (the stubs die with it), after
    /// the process has entered its user and pid namespaces and taken its user id (a tracer needs
    /// its tracee's), and before it installs a seccomp filter. The table of file descriptors is
    /// shared with the stubs from here on: never unshare it. Capabilities may be dropped later.
    pub fn prepare() -> Result<Prepared, Error> {
        let stubs = Stubs::new()?;
        stub::try_ptrace(&stubs)?;
        Ok(Prepared { stubs })
    }

    /// Adds a stream while the platform runs.
    pub fn add_stream(&self, fd: OwnedFd) -> StreamId {
        let mut streams = lock(&self.streams);
        let index = streams.len() as u32;
        let stream = Arc::new(HostStream::new(fd, index, self.keeper));
        streams.push(Given { stream: Arc::downgrade(&stream), untaken: Some(stream) });
        StreamId(index)
    }

    /// Lets a stream go that the sentry has not taken.
    pub fn remove_stream(&self, id: StreamId) {
        let stream = lock(&self.streams).get_mut(id.0 as usize).and_then(|s| s.untaken.take());
        drop(stream);
    }

    /// Adds a gofer's socket while the platform runs.
    pub fn add_gofer(&self, fd: OwnedFd) -> ChannelId {
        let mut gofers = lock(&self.gofers);
        gofers.push(Some(fd));
        ChannelId::Gofer(gofers.len().saturating_sub(1) as u32)
    }

    fn stream_at(&self, index: u32) -> Option<Arc<HostStream>> {
        lock(&self.streams).get(index as usize)?.stream.upgrade()
    }
}

impl Platform for PtracePlatform {
    fn alloc_frames(&self, count: u32) -> Option<Frame> {
        self.machine.memory.alloc(count)
    }

    fn free_frames(&self, first: Frame, count: u32) {
        self.machine.memory.free(first, count);
        self.keeper.ask_release();
    }

    fn frame_counts(&self, account: Account) -> FrameCounts {
        self.machine.memory.counts(account)
    }

    fn limit_frames(&self, count: Option<u32>) -> Result<(), u32> {
        self.machine.memory.book().restrict(count)
    }

    fn open_account(&self) -> Option<Account> {
        self.machine.memory.book().open()
    }

    fn limit_account(&self, account: Account, count: Option<u32>) -> Result<(), u32> {
        self.machine.memory.book().restrict_account(account, count)
    }

    fn close_account(&self, account: Account) {
        self.machine.memory.book().close(account);
    }

    fn account(&self) -> Account {
        memory::account()
    }

    fn charge_to(&self, account: Account) {
        memory::charge_to(account);
    }

    fn read_frame(&self, frame: Frame, offset: usize, buf: &mut [u8]) {
        self.machine.memory.read(frame, offset, buf);
    }

    fn write_frame(&self, frame: Frame, offset: usize, data: &[u8]) {
        self.machine.memory.write(frame, offset, data);
    }

    fn zero_frame(&self, frame: Frame, offset: usize, len: usize) {
        self.machine.memory.zero(frame, offset, len);
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        self.machine.memory.copy(from, to);
    }

    fn frame_atomic(&self, frame: Frame, offset: usize, op: AtomicOp) -> u32 {
        self.machine.memory.atomic(frame, offset, op)
    }

    fn file_read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        // The host's disk may take its time.
        thread::pay();
        self.machine.files.read(file, offset, buf)
    }

    fn file_write(&self, file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        thread::pay();
        self.machine.files.write(file, offset, data)
    }

    fn file_atomic(&self, file: FileId, offset: u64, op: AtomicOp) -> Result<u32, Errno> {
        self.machine.files.atomic(file, offset, op)
    }

    fn file_size(&self, file: FileId) -> Result<u64, Errno> {
        self.machine.files.size(file)
    }

    fn file_close(&self, file: FileId) {
        self.machine.files.close(file);
    }

    fn user_range(&self) -> Range<u64> {
        stub::USER
    }

    fn new_space(&self) -> Result<Arc<dyn AddressSpace>, Errno> {
        Ok(self.machine.new_space()?)
    }

    fn fault_around(&self) -> FaultAround {
        // A stretch of a host's file costs one call however long it is: the host's kernel fills it in
        // as it is touched, and no stop of a tracee with that.
        FaultAround { fresh: 16, copied: 4, file: 16, donated: 4096 }
    }

    fn new_user_thread(&self) -> Result<Box<dyn UserThread>, Errno> {
        let slot = self.threads.current();
        // A thread that never waits is never looked at again.
        if self.placement.begin(slot) {
            self.keeper.ask_balance();
        }
        Ok(Box::new(User::new(slot, self.placement, self.machine)))
    }

    fn spawn(&self, name: &str, entry: Box<dyn FnOnce() + Send>) -> Result<ThreadId, Errno> {
        // Whoever multiplies threads does it in the container's memory.
        let charge = self.machine.memory.charge(memory::TASK)?;
        let threads = self.threads;
        let slot = threads.take().ok_or(Errno::EAGAIN)?;
        let id = slot.id();
        let name = thread_name(name);
        let spawned = self.workers.run(Box::new(move || {
            sys::set_thread_name(&name);
            slot.adopt();
            memory::charge_to(Account::FIRST);
            entry();
            drop(charge);
            thread::owe_no_more();
            threads.give(slot);
        }));
        match spawned {
            Ok(()) => Ok(id),
            Err(_) => {
                threads.give(slot);
                Err(Errno::EAGAIN)
            }
        }
    }

    fn current(&self) -> ThreadId {
        self.threads.current().id()
    }

    fn park(&self, deadline: Option<u64>) {
        let slot = self.threads.current();
        if slot.has_token() {
            return slot.park(deadline);
        }
        thread::pay();
        self.placement.pause(slot);
        slot.park(deadline);
        if self.placement.resume(slot) {
            self.keeper.ask_balance();
        }
    }

    fn unpark(&self, thread: ThreadId) {
        if let Some(slot) = self.threads.find(thread) {
            slot.unpark();
        }
    }

    fn yield_now(&self) {
        thread::pay();
        std::thread::yield_now();
    }

    fn relax(&self) {
        // Whoever holds the lock may wait for this very CPU: it has woken us under the lock, say, or
        // was preempted. Spinning on would take until the host's scheduler ends our slice.
        thread::pay();
        std::thread::yield_now();
    }

    fn kick(&self, thread: ThreadId) {
        if let Some(slot) = self.threads.find(thread) {
            slot.kick();
        }
    }

    fn place(&self, thread: ThreadId, cpus: &[u64]) {
        if let Some(slot) = self.threads.find(thread) {
            self.placement.restrict(slot, cpus);
        }
    }

    fn cpus(&self) -> u32 {
        self.placement.count()
    }

    fn restart_area_size(&self) -> u32 {
        self.restart_area_size
    }

    fn barriers(&self) -> Barriers {
        // A sequence may be aborted on one CPU only, by its number.
        match self.restart_area_size {
            0 => self.barriers - Barriers::RESTART,
            _ => self.barriers,
        }
    }

    fn cpu_time(&self, thread: ThreadId) -> CpuTime {
        let slot = self.threads.find(thread);
        slot.map(|slot| slot.cpu_time()).unwrap_or_default()
    }

    fn monotonic(&self) -> u64 {
        sys::monotonic()
    }

    fn realtime(&self) -> u64 {
        sys::clock(libc::CLOCK_REALTIME)
    }

    fn random(&self, buf: &mut [u8]) {
        sys::random(buf);
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        cpuid::read(leaf, subleaf)
    }

    fn channel(&self, id: ChannelId) -> Result<Arc<dyn Channel>, Errno> {
        match id {
            ChannelId::Control => {
                let control = lock(&self.control).take().ok_or(Errno::EBUSY)?;
                Ok(Arc::new(control))
            }
            ChannelId::Gofer(index) => {
                let mut gofers = lock(&self.gofers);
                let gofer = gofers.get_mut(index as usize).ok_or(Errno::EBADF)?;
                let socket = gofer.take().ok_or(Errno::EBUSY)?;
                Ok(Arc::new(GoferChannel::new(socket, &self.machine.files)))
            }
        }
    }

    fn stream(&self, id: StreamId) -> Result<Arc<dyn Stream>, Errno> {
        let stream = self.stream_at(id.0).ok_or(Errno::EBADF)?;
        // The caller's from now on.
        self.remove_stream(id);
        Ok(stream)
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        (self.log)(level, line);
    }
}
