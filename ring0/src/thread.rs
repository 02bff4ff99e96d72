//! Kernel threads and who runs them.
//!
//! A thread is a kernel stack and a slot in a table. Slots are never freed but used again, with another
//! generation, so that looking one up needs no lock and a stale id does no harm.
//!
//! Each CPU has a queue of ready threads. A thread that wakes goes to the CPU where it ran last if that is
//! idle, else to an idle one, else to its last; a CPU with nothing to do takes from others before it halts.
//! Kernel code is never preempted; a thread in user mode is, when its slice is over and another waits.
//!
//! Lock order: a CPU's timers, then a queue, then everything of the allocators.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use crate::apic;
use crate::arch;
use crate::boot;
use crate::clock;
use crate::entry;
use crate::fatal;
use crate::fpu;
use crate::paging::{self, Tables};
use crate::percpu::{self, PerCpu, state, this_cpu};
use crate::stack::Stack;

/// How long a thread runs while another waits, in nanoseconds, at least; at most twice that. Each slice that is timed
/// costs two VM exits, to arm the timer and to take its interrupt.
const SLICE: u64 = 10_000_000;

/// States of a thread's wake-up.
mod wake {
    /// Runs, or is ready to.
    pub const NONE: u8 = 0;
    /// Its next park returns at once.
    pub const PENDING: u8 = 1;
    /// Parked.
    pub const PARKED: u8 = 2;
}

/// A thread, by slot (low half) and generation (high half).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Id(pub u64);

type Main = Box<dyn FnOnce() + Send>;

/// A thread's slot.
pub struct Thread {
    number: u32,
    generation: AtomicU32,
    wake: AtomicU8,
    /// Whether [`kick`] wants it out of the application.
    pub(crate) kicked: AtomicBool,
    /// Whether the application wants to know when it has lost its CPU.
    pub(crate) tells: Cell<bool>,
    /// It has, since it was last told.
    pub(crate) lost_cpu: Cell<bool>,
    /// Whether a CPU still has its context in its registers.
    on_cpu: AtomicBool,
    /// The CPU where it is, or was last.
    cpu: AtomicU32,
    affinity: AtomicU64,
    /// Time in the application and altogether, up to when it last left a CPU.
    user_ns: AtomicU64,
    total_ns: AtomicU64,
    /// The most that was told of it altogether.
    told_ns: AtomicU64,
    /// How often it has entered the application, and how often when it last left a CPU.
    pub(crate) runs: AtomicU64,
    counted: AtomicU64,
    /// What it takes the kernel to serve one of its traps, as far as measured, nanoseconds.
    pub(crate) service_ns: AtomicU64,
    /// When the trap came that is being measured; 0: none is.
    pub(crate) measured: Cell<u64>,
    /// From here on, what only the CPU that has the thread touches.
    rsp: Cell<u64>,
    stack: RefCell<Option<Stack>>,
    main: Cell<Option<Main>>,
    /// [`label`].
    label: Cell<u32>,
    dead: Cell<bool>,
    /// Its vector state, while it has an application.
    pub(crate) fpu: Cell<*mut fpu::State>,
    /// The space that it last ran an application in; compared, never followed.
    pub(crate) last_space: Cell<*const Tables>,
}

// SAFETY: the cells are touched by the CPU that runs the thread, or by the one that prepares or reaps it, and
// `on_cpu` hands it from one to the next with release and acquire.
unsafe impl Sync for Thread {}
// SAFETY: as above.
unsafe impl Send for Thread {}

/// Slots come in pieces that stay where they are.
const PIECE: usize = 64;
const PIECES: usize = 1024;
static TABLE: [AtomicPtr<[Thread; PIECE]>; PIECES] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; PIECES];
static FREE: spin::Mutex<VecDeque<&'static Thread>> = spin::Mutex::new(VecDeque::new());
static USED: AtomicU32 = AtomicU32::new(0);

impl Thread {
    fn new(number: u32) -> Thread {
        Thread {
            number,
            generation: AtomicU32::new(1),
            wake: AtomicU8::new(wake::NONE),
            kicked: AtomicBool::new(false),
            tells: Cell::new(false),
            lost_cpu: Cell::new(false),
            on_cpu: AtomicBool::new(false),
            cpu: AtomicU32::new(0),
            affinity: AtomicU64::new(u64::MAX),
            user_ns: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
            told_ns: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            service_ns: AtomicU64::new(0),
            measured: Cell::new(0),
            rsp: Cell::new(0),
            stack: RefCell::new(None),
            main: Cell::new(None),
            label: Cell::new(0),
            dead: Cell::new(false),
            fpu: Cell::new(core::ptr::null_mut()),
            last_space: Cell::new(core::ptr::null()),
        }
    }

    /// The thread that a CPU came up as; it is in no table.
    pub(crate) fn for_idle(cpu: u32) -> &'static Thread {
        let thread = Thread::new(u32::MAX);
        thread.on_cpu.store(true, Ordering::Relaxed);
        thread.cpu.store(cpu, Ordering::Relaxed);
        Box::leak(Box::new(thread))
    }

    /// Its id.
    pub fn id(&self) -> Id {
        let generation = self.generation.load(Ordering::Relaxed);
        Id(u64::from(generation) << 32 | u64::from(self.number))
    }

    /// The CPU where it is, or was last.
    pub fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::Relaxed)
    }

    /// The CPUs where it may run.
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Ordering::Relaxed)
    }

    /// Of the time since it was put on its CPU, the application's part. Reading the clock at every trap would
    /// cost more than serving some of them: instead the traps are counted, and a few of them measured.
    fn user_part(&self, ran: u64) -> u64 {
        let runs = self.runs.load(Ordering::Relaxed);
        match runs.saturating_sub(self.counted.load(Ordering::Relaxed)) {
            0 => 0,
            n => ran.saturating_sub(n.saturating_mul(self.service_ns.load(Ordering::Relaxed))),
        }
    }

    /// It leaves its CPU, where it was for so long.
    fn leave(&self, ran: u64) {
        self.user_ns.fetch_add(self.user_part(ran), Ordering::Relaxed);
        self.total_ns.fetch_add(ran, Ordering::Relaxed);
        self.counted.store(self.runs.load(Ordering::Relaxed), Ordering::Relaxed);
        if self.tells.get() {
            self.lost_cpu.set(true);
            self.kicked.store(true, Ordering::Relaxed);
        }
        // What comes between is not the trap's own.
        self.measured.set(0);
    }

    /// Whether the application is to be told, by [`crate::user::Exit::Rescheduled`], when it has lost its CPU. To be
    /// called by the thread itself; it is told once at the beginning.
    pub fn tell_lost_cpu(&self, tells: bool) {
        self.tells.set(tells);
        self.lost_cpu.set(tells);
        if tells {
            self.kicked.store(true, Ordering::Relaxed);
        }
    }

    /// A trap has been taken: measures this one's service, or does not.
    #[inline]
    pub(crate) fn trapped(&self, runs: u64) {
        if runs & 63 == 0 || runs < 8 {
            self.measure();
        }
    }

    #[cold]
    fn measure(&self) {
        self.measured.set(clock::monotonic());
    }

    /// It goes back to the application.
    #[inline]
    pub(crate) fn enters(&self) -> u64 {
        if self.measured.get() != 0 {
            self.served();
        }
        let runs = self.runs.load(Ordering::Relaxed).wrapping_add(1);
        // Its own CPU alone writes it.
        self.runs.store(runs, Ordering::Relaxed);
        runs
    }

    #[cold]
    fn served(&self) {
        let took = clock::monotonic().saturating_sub(self.measured.replace(0));
        let before = self.service_ns.load(Ordering::Relaxed);
        let new =
            if before == 0 { took } else { (before.saturating_mul(7).saturating_add(took)) / 8 };
        self.service_ns.store(new, Ordering::Relaxed);
    }

    fn may_run_on(&self, cpu: u32) -> bool {
        self.affinity.load(Ordering::Relaxed) >> cpu & 1 != 0
    }
}

fn slot(number: u32) -> Option<&'static Thread> {
    let (piece, at) = (number as usize / PIECE, number as usize % PIECE);
    let piece = TABLE.get(piece)?.load(Ordering::Acquire);
    // SAFETY: pieces are leaked.
    unsafe { piece.as_ref() }?.get(at)
}

fn lookup(id: Id) -> Option<&'static Thread> {
    slot(id.0 as u32).filter(|t| t.id() == id)
}

/// A slot that nobody uses.
fn take_slot() -> Option<&'static Thread> {
    let mut free = FREE.lock();
    if let Some(thread) = free.pop_front() {
        return Some(thread);
    }
    let number = USED.load(Ordering::Relaxed);
    let piece = TABLE.get(number as usize / PIECE)?;
    let threads: Box<[Thread; PIECE]> =
        Box::new(core::array::from_fn(|n| Thread::new(number + n as u32)));
    let threads: &'static [Thread; PIECE] = Box::leak(threads);
    piece.store(core::ptr::from_ref(threads).cast_mut(), Ordering::Release);
    USED.store(number + PIECE as u32, Ordering::Relaxed);
    free.extend(threads.iter());
    free.pop_front()
}

/// Threads that are ready to run on one CPU, and those that wait there for a time.
pub struct RunQueue {
    ready: spin::Mutex<VecDeque<&'static Thread>>,
    len: AtomicU32,
    /// Deadline and thread.
    timers: spin::Mutex<BTreeSet<(u64, Id)>>,
}

impl RunQueue {
    pub(crate) fn new() -> RunQueue {
        RunQueue {
            ready: spin::Mutex::new(VecDeque::with_capacity(64)),
            len: AtomicU32::new(0),
            timers: spin::Mutex::new(BTreeSet::new()),
        }
    }

    /// Threads that wait.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&self, thread: &'static Thread) {
        let mut ready = self.ready.lock();
        ready.push_back(thread);
        self.len.store(ready.len() as u32, Ordering::Relaxed);
    }

    /// The first that may run on `cpu`; a thief takes none that still has its context elsewhere.
    fn pop(&self, cpu: u32, thief: bool) -> Option<&'static Thread> {
        if self.is_empty() {
            return None;
        }
        let mut ready = if thief { self.ready.try_lock()? } else { self.ready.lock() };
        let at = ready
            .iter()
            .position(|t| !thief || (t.may_run_on(cpu) && !t.on_cpu.load(Ordering::Relaxed)))?;
        let thread = ready.remove(at);
        self.len.store(ready.len() as u32, Ordering::Relaxed);
        thread
    }
}

/// The thread that runs.
#[inline]
pub fn current() -> &'static Thread {
    this_cpu().current.get()
}

/// A number that the calling thread has been given; 0 to begin with.
pub fn label() -> u32 {
    current().label.get()
}

/// Gives the calling thread a number.
pub fn set_label(label: u32) {
    current().label.set(label);
}

/// What a thread could not be started for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Short {
    /// Memory for its stack.
    Memory,
    /// A slot.
    Slots,
}

/// Starts a thread that may run on the CPUs of `affinity`.
pub fn spawn(main: Main, affinity: u64) -> Result<Id, Short> {
    let mut stack = Stack::new().ok_or(Short::Memory)?;
    let thread = take_slot().ok_or(Short::Slots)?;
    let here = 1 << this_cpu().number;
    if stack.is_stale(here) {
        stack.forget(here);
    }
    let top = stack.top();
    // What `ring0_switch_stack` pops: six registers, then where to go; then a null return address for backtraces. At
    // `first` the stack pointer is as after a call: 8 below a multiple of 16.
    let frame: [u64; 8] = [0, 0, 0, 0, 0, 0, first as *const () as u64, 0];
    let rsp = top - size_of_val(&frame) as u64;
    // SAFETY: the stack is this thread's, mapped, and nobody else uses it.
    unsafe { (rsp as *mut [u64; 8]).write(frame) };
    thread.rsp.set(rsp);
    thread.stack.replace(Some(stack));
    thread.main.set(Some(main));
    thread.label.set(0);
    thread.dead.set(false);
    thread.fpu.set(core::ptr::null_mut());
    thread.last_space.set(core::ptr::null());
    thread.affinity.store(affinity, Ordering::Relaxed);
    thread.user_ns.store(0, Ordering::Relaxed);
    thread.total_ns.store(0, Ordering::Relaxed);
    thread.told_ns.store(0, Ordering::Relaxed);
    thread.runs.store(0, Ordering::Relaxed);
    thread.counted.store(0, Ordering::Relaxed);
    thread.service_ns.store(0, Ordering::Relaxed);
    thread.measured.set(0);
    thread.kicked.store(false, Ordering::Relaxed);
    thread.tells.set(false);
    thread.lost_cpu.set(false);
    thread.wake.store(wake::NONE, Ordering::Relaxed);
    thread.cpu.store(this_cpu().number, Ordering::Relaxed);
    let id = thread.id();
    enqueue(thread);
    Ok(id)
}

/// Where a thread begins.
extern "sysv64" fn first() -> ! {
    finish_switch();
    if let Some(main) = current().main.take() {
        main();
    }
    exit()
}

fn exit() -> ! {
    current().dead.set(true);
    schedule();
    // A dead thread is never put on a CPU again.
    boot::hooks().host.give_up()
}

/// Puts a thread that is ready where it will run.
fn enqueue(thread: &'static Thread) {
    let me = this_cpu();
    let online = percpu::online();
    let allowed = match thread.affinity.load(Ordering::Relaxed) & online {
        0 => online,
        some => some,
    };
    let last = thread.cpu.load(Ordering::Relaxed);
    let is_idle = |n: u32| {
        if n == me.number {
            core::ptr::eq(me.current.get(), me.idle_thread.get()) && me.shared.queue.is_empty()
        } else {
            percpu::remote(n).is_some_and(|c| c.idle.load(Ordering::SeqCst))
        }
    };
    let last_allowed = allowed >> last.min(63) & 1 != 0;
    let target = if last_allowed && (is_idle(last) || thread.on_cpu.load(Ordering::Relaxed)) {
        last
    } else if let Some(idle) = percpu::each(allowed).find(|&n| is_idle(n)) {
        idle
    } else if last_allowed {
        last
    } else if allowed >> me.number & 1 != 0 {
        me.number
    } else {
        allowed.trailing_zeros()
    };
    let Some(shared) = percpu::remote(target) else {
        return;
    };
    shared.queue.push(thread);
    fence(Ordering::SeqCst);
    if target != me.number {
        if shared.idle.load(Ordering::SeqCst) {
            apic::interrupt(target);
        } else if shared.state.load(Ordering::SeqCst) == state::USER {
            shared.resched.store(true, Ordering::SeqCst);
            apic::interrupt(target);
        }
    }
    if !is_idle(target)
        && online.count_ones() < thread.affinity.load(Ordering::Relaxed).count_ones()
    {
        boot::hooks().host.want_cpu();
    }
}

/// Waits until [`unpark`] is called for this thread, or the monotonic clock reaches `deadline`. Returns at once,
/// once, where that came first. May return early.
pub fn park(deadline: Option<u64>) {
    let thread = current();
    if thread
        .wake
        .compare_exchange(wake::NONE, wake::PARKED, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        thread.wake.store(wake::NONE, Ordering::SeqCst);
        return;
    }
    let Some(deadline) = deadline.filter(|&d| d != u64::MAX) else {
        return schedule();
    };
    let cpu = this_cpu();
    let key = (deadline, thread.id());
    cpu.shared.queue.timers.lock().insert(key);
    apic::arm(deadline);
    let queue = &cpu.shared.queue;
    schedule();
    queue.timers.lock().remove(&key);
}

/// Ends the thread's park, or its next one.
pub fn unpark(id: Id) {
    let Some(thread) = lookup(id) else {
        return;
    };
    let before = thread.wake.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |w| {
        Some(if w == wake::PARKED { wake::NONE } else { wake::PENDING })
    });
    if before == Ok(wake::PARKED) {
        enqueue(thread);
    }
}

/// Makes the thread's running application, or its next, stop.
pub fn kick(id: Id) {
    let Some(thread) = lookup(id) else {
        return;
    };
    thread.kicked.store(true, Ordering::SeqCst);
    let cpu = thread.cpu.load(Ordering::SeqCst);
    if cpu != this_cpu().number
        && thread.on_cpu.load(Ordering::SeqCst)
        && let Some(shared) = percpu::remote(cpu)
        && shared.state.load(Ordering::SeqCst) == state::USER
    {
        apic::interrupt(cpu);
    }
}

/// Restricts a thread to CPUs.
pub fn place(id: Id, cpus: u64) {
    let Some(thread) = lookup(id) else {
        return;
    };
    thread.affinity.store(cpus, Ordering::SeqCst);
    let cpu = thread.cpu.load(Ordering::SeqCst);
    if cpus & percpu::online() == 0 || thread.may_run_on(cpu) {
        return;
    }
    if core::ptr::eq(thread, current()) {
        yield_now();
    } else if thread.on_cpu.load(Ordering::SeqCst)
        && let Some(shared) = percpu::remote(cpu)
    {
        shared.resched.store(true, Ordering::SeqCst);
        apic::nudge(cpu);
    }
}

/// Nanoseconds in the application and in the kernel.
pub fn cpu_time(id: Id) -> (u64, u64) {
    let Some(thread) = lookup(id) else {
        return (0, 0);
    };
    let (mut user, mut total) =
        (thread.user_ns.load(Ordering::Relaxed), thread.total_ns.load(Ordering::Relaxed));
    if thread.on_cpu.load(Ordering::Acquire)
        && let Some(shared) = percpu::remote(thread.cpu())
    {
        let ran = clock::on_cpu(shared).saturating_sub(shared.since.load(Ordering::Relaxed));
        total = total.saturating_add(ran);
        user = user.saturating_add(thread.user_part(ran));
    }
    // What the host has just taken away from its CPU is known later: meanwhile it may have been told more.
    let total = thread.told_ns.fetch_max(total, Ordering::Relaxed).max(total);
    let user = user.min(total);
    (user, total.saturating_sub(user))
}

/// The return addresses on the stack of a thread that is not on a CPU, innermost first; nothing for one that is.
pub fn backtrace(id: Id, each: &mut dyn FnMut(u64)) {
    let Some(thread) = lookup(id) else {
        return;
    };
    // Whoever wants to run it waits until this is given back: its context stays on its stack, and it cannot end.
    if thread.on_cpu.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return;
    }
    if thread.id() == id {
        let here = 1 << this_cpu().number;
        forget_stack(thread, here);
        // As `ring0_switch_stack` has left it: five registers, the frame pointer, and where it goes on.
        let saved = (thread.rsp.get() as *const u64).wrapping_add(5);
        // SAFETY: the stack is mapped as long as the thread is there, and nobody runs on it.
        let [frame, next] = unsafe { saved.cast::<[u64; 2]>().read() };
        each(next);
        fatal::backtrace(frame, each);
    }
    thread.on_cpu.store(false, Ordering::Release);
}

/// Lets others run, and takes interrupts.
pub fn yield_now() {
    arch::take_interrupts();
    run_timers();
    let cpu = this_cpu();
    let thread = current();
    if cpu.shared.queue.is_empty() && thread.may_run_on(cpu.number) {
        return;
    }
    requeue(thread);
    schedule();
}

/// Puts the running thread back at the end of a queue.
fn requeue(thread: &'static Thread) {
    let cpu = this_cpu();
    let allowed = thread.affinity.load(Ordering::Relaxed) & percpu::online();
    if allowed == 0 || thread.may_run_on(cpu.number) {
        cpu.shared.queue.push(thread);
    } else {
        enqueue(thread);
    }
}

/// Wakes whoever waits for a time that has come, and arms the timer for the next.
pub(crate) fn run_timers() {
    let cpu = this_cpu();
    let mut due: Vec<Id> = Vec::new();
    let next = {
        let mut timers = cpu.shared.queue.timers.lock();
        if timers.is_empty() {
            None
        } else {
            let now = clock::monotonic();
            while let Some(&(at, id)) = timers.first()
                && at <= now
            {
                timers.pop_first();
                due.push(id);
            }
            timers.first().map(|&(at, _)| at)
        }
    };
    due.into_iter().for_each(unpark);
    if let Some(next) = next {
        apic::arm(next);
    }
}

/// In user mode an interrupt came, or the thread is about to go there and something was noted: whether the slice is
/// over, or the thread should be elsewhere.
pub(crate) fn preempt_if_due() {
    let cpu = this_cpu();
    run_timers();
    cpu.shared.resched.store(false, Ordering::SeqCst);
    let thread = current();
    if !thread.may_run_on(cpu.number)
        && thread.affinity.load(Ordering::Relaxed) & percpu::online() != 0
    {
        requeue(thread);
        return schedule();
    }
    let end = cpu.slice_end.get();
    if end != u64::MAX {
        let now = clock::monotonic();
        if now < end {
            // The timer was armed for an earlier slice. Not for just the rest of this one: threads that take turns
            // faster than slices end would have it fire, and find nothing to do, that much more often.
            apic::arm(now.saturating_add(SLICE));
        } else if cpu.shared.queue.is_empty() {
            cpu.slice_end.set(u64::MAX);
        } else {
            requeue(thread);
            schedule();
        }
    }
}

/// About to enter user mode while others wait for this CPU: limits the slice.
#[cold]
pub(crate) fn begin_slice(cpu: &PerCpu) {
    if cpu.slice_end.get() == u64::MAX {
        let end = clock::monotonic().saturating_add(SLICE);
        cpu.slice_end.set(end);
        apic::arm(end);
    }
}

/// Gives the CPU to the next thread; comes back when this one has it again.
fn schedule() {
    let cpu = this_cpu();
    let next = cpu
        .shared
        .queue
        .pop(cpu.number, false)
        .or_else(|| steal(cpu))
        .unwrap_or(cpu.idle_thread.get());
    switch_to(next);
}

fn switch_to(next: &'static Thread) {
    let cpu = this_cpu();
    let previous = cpu.current.get();
    if core::ptr::eq(previous, next) {
        return;
    }
    // Its context may still be in the registers of the CPU that it left a moment ago.
    while next.on_cpu.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let fpu = previous.fpu.get();
    if !fpu.is_null() {
        // SAFETY: it belongs to the thread that runs, whose `User` keeps it in place.
        unsafe { (*fpu).save() };
    }
    let now = clock::on_cpu(&cpu.shared);
    previous.leave(now.saturating_sub(cpu.shared.since.swap(now, Ordering::Relaxed)));
    cpu.slice_end.set(u64::MAX);
    cpu.previous.set(Some(previous));
    cpu.current.set(next);
    next.cpu.store(cpu.number, Ordering::SeqCst);
    let here = 1 << cpu.number;
    forget_stack(next, here);
    // SAFETY: `next` was left here by this same call, or prepared by `spawn`; nobody else runs it.
    unsafe { entry::ring0_switch_stack(previous.rsp.as_ptr(), next.rsp.get()) };
    finish_switch();
}

/// Before this CPU uses a thread's stack for the first time, whose addresses it may know from an earlier one.
#[inline]
fn forget_stack(thread: &Thread, cpu: u64) {
    if let Some(stack) = thread.stack.borrow_mut().as_mut()
        && stack.is_stale(cpu)
    {
        stack.forget(cpu);
    }
}

/// On the new thread's stack: the old one is complete, and can be run elsewhere, or reaped.
fn finish_switch() {
    let Some(previous) = this_cpu().previous.take() else {
        return;
    };
    if previous.dead.get() {
        drop(previous.stack.take());
        previous.generation.fetch_add(1, Ordering::Relaxed);
        previous.on_cpu.store(false, Ordering::Release);
        FREE.lock().push_back(previous);
    } else {
        previous.on_cpu.store(false, Ordering::Release);
    }
}

fn steal(cpu: &PerCpu) -> Option<&'static Thread> {
    percpu::each(percpu::online() & !(1 << cpu.number))
        .filter_map(percpu::remote)
        .find_map(|other| other.queue.pop(cpu.number, true))
}

/// What a CPU does when it has nothing to do; the thread that it came up as ends here.
pub fn idle() -> ! {
    let cpu = this_cpu();
    cpu.shared.since.store(clock::on_cpu(&cpu.shared), Ordering::Relaxed);
    loop {
        run_timers();
        let next = cpu.shared.queue.pop(cpu.number, false).or_else(|| steal(cpu));
        if let Some(next) = next {
            switch_to(next);
            continue;
        }
        cpu.shared.idle.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if cpu.shared.queue.is_empty() {
            paging_idle();
            arch::wait_for_interrupt();
        }
        cpu.shared.idle.store(false, Ordering::SeqCst);
    }
}

/// Before a CPU halts: an address space that nobody else has left is let go.
fn paging_idle() {
    if paging::loaded_alone() {
        paging::unload();
    }
}

/// Takes the kick, where there is one.
#[inline]
pub(crate) fn take_kick(thread: &Thread) -> bool {
    thread.kicked.load(Ordering::SeqCst) && thread.kicked.swap(false, Ordering::SeqCst)
}
