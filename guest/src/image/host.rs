//! The host half: synchronous calls, the rings of requests and completions, the log, wall time.

use alloc::collections::VecDeque;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use guest::contract::{
    BootPage, CALL_PORT, CALL_TEXT, COMPLETION_ENTRIES, Call, CallPage, ClockPage, Completion,
    CpuidEntry, DEBUG_PORT, DIRECT_MAP, DOORBELL_PORT, PAGE, RING_ENTRIES, Request, SharedControl,
    event,
};
use ring0::arch;
use ring0::paging;
use ring0::thread::{self, Id};
use sentry::platform::Level;
use zerocopy::{FromBytes, IntoBytes};

use crate::{channel, stream, window};

/// Where everything of the contract is, from the boot page.
struct Places {
    control: u64,
    clock: u64,
    calls: u64,
    submissions: u64,
    completions: u64,
    cpuid: &'static [CpuidEntry],
    log_level: u32,
}

static PLACES: spin::Once<Places> = spin::Once::new();

/// Takes what the boot page says.
pub fn init(boot: &BootPage) {
    PLACES.call_once(|| {
        let table = (DIRECT_MAP + boot.cpuid) as *const CpuidEntry;
        // SAFETY: the contract puts that many entries there, and nobody writes them any more.
        let cpuid = unsafe { core::slice::from_raw_parts(table, boot.cpuid_count as usize) };
        Places {
            control: boot.control,
            clock: boot.clock,
            calls: boot.calls,
            submissions: boot.submissions,
            completions: boot.completions,
            cpuid,
            log_level: boot.log_level,
        }
    });
}

fn places() -> &'static Places {
    match PLACES.get() {
        Some(places) => places,
        None => exit_now(255),
    }
}

/// CPUID, from the table: the instruction would be a VM exit.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let row =
        places().cpuid.iter().find(|e| e.leaf == leaf && (e.indexed == 0 || e.subleaf == subleaf));
    row.map_or([0; 4], |e| e.regs)
}

/// A word that both sides use. `gpa` is inside a page of the contract.
fn word(gpa: u64) -> &'static AtomicU32 {
    // SAFETY: the contract's pages stay for good, and both sides use these words atomically.
    unsafe { paging::physical_word(gpa) }
}

fn control(offset: usize) -> &'static AtomicU32 {
    word(places().control + offset as u64)
}

/// Copies a structure of the contract out of memory that the host half writes.
pub fn read_at<T: FromBytes + IntoBytes>(gpa: u64) -> T {
    let mut value = T::new_zeroed();
    // SAFETY: the caller names a place of the contract, where no Rust reference points.
    unsafe { paging::read_physical(gpa, value.as_mut_bytes()) };
    value
}

// --- early output and the end ---

/// Writes bytes when nothing else works yet, or any more.
pub fn early(text: &str) {
    for byte in text.bytes() {
        // SAFETY: the contract's port for that.
        unsafe { arch::outb(DEBUG_PORT, byte) };
    }
}

/// The call page of this CPU; before ring 0 is up, of the boot CPU.
fn call_page() -> *mut CallPage {
    let cpu = if ring0::percpu::online() == 0 { 0 } else { ring0::percpu::this_cpu().number };
    (DIRECT_MAP + places().calls + u64::from(cpu) * PAGE) as *mut CallPage
}

/// Makes a call; `fill` puts text into the page and says how much.
fn call(call: Call, args: [u64; 5], fill: impl FnOnce(&mut [u8; CALL_TEXT]) -> usize) -> i64 {
    let page = call_page();
    // SAFETY: the page is this CPU's own, interrupts are off, and the host half looks at it only during the `out`,
    // which the compiler takes for an access to all memory.
    unsafe {
        let page = &mut *page;
        page.call = call as u32;
        page.args = args;
        page.result = 0;
        page.text_len = fill(&mut page.text).min(CALL_TEXT) as u32;
        arch::outl(CALL_PORT, 0);
        (&raw const page.result).read_volatile()
    }
}

/// Writes one line to the log.
pub fn log(level: Level, line: fmt::Arguments<'_>) {
    if level as u32 > places().log_level {
        return;
    }
    call(Call::Log, [level as u64, 0, 0, 0, 0], |text| {
        let mut cursor = Cursor { text, len: 0 };
        // A line that is too long is cut.
        let _cut = cursor.write_fmt(line);
        cursor.len
    });
}

struct Cursor<'a> {
    text: &'a mut [u8; CALL_TEXT],
    len: usize,
}

impl Write for Cursor<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let free = self.text.get_mut(self.len..).unwrap_or_default();
        let n = s.len().min(free.len());
        free[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        if n == s.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Reports a panic.
pub fn report_panic(report: &[u8]) {
    call(Call::Panic, [0; 5], |text| {
        let n = report.len().min(CALL_TEXT);
        text[..n].copy_from_slice(&report[..n]);
        n
    });
}

/// Ends the sandbox.
pub fn exit(status: u8) {
    exit_now(status.into())
}

/// Ends the sandbox.
pub fn exit_now(status: u64) -> ! {
    if PLACES.get().is_some() {
        call(Call::Exit, [status, 0, 0, 0, 0], |_| 0);
    }
    arch::halt()
}

/// Starts a CPU.
pub fn start_cpu(cpu: u32, rip: u64, rsp: u64, rdi: u64, cr3: u64) -> bool {
    call(Call::StartCpu, [cpu.into(), rip, rsp, rdi, cr3], |_| 0) >= 0
}

// --- time ---

fn clock() -> ClockPage {
    let places = places();
    loop {
        let before = word(places.clock).load(Ordering::Acquire);
        let page: ClockPage = read_at(places.clock);
        fence(Ordering::Acquire);
        if before & 1 == 0 && before == word(places.clock).load(Ordering::Relaxed) {
            return page;
        }
        core::hint::spin_loop();
    }
}

/// Tells ring 0 what the TSC stands for, where it is to be the clock.
pub fn set_tsc_base(khz: u64) {
    let page = clock();
    ring0::clock::set_tsc_base(page.tsc, page.tsc_monotonic, khz);
}

/// CLOCK_REALTIME, nanoseconds.
pub fn realtime() -> u64 {
    ring0::clock::monotonic().wrapping_add_signed(clock().realtime_offset)
}

// --- requests ---

const SLOTS: usize = RING_ENTRIES as usize;

/// Who waits for a completion.
#[derive(Clone, Copy)]
enum Waiter {
    /// Nobody: the slot is free.
    Free,
    /// A thread.
    Thread(Id),
    /// The stream with this number, for readiness.
    Stream(u32),
    /// It has come.
    Done(i64),
}

struct Slots {
    waiters: [Waiter; SLOTS],
    used: usize,
    /// Threads that wait for a free slot.
    queue: VecDeque<Id>,
}

static REQUESTS: spin::Mutex<Slots> =
    spin::Mutex::new(Slots { waiters: [Waiter::Free; SLOTS], used: 0, queue: VecDeque::new() });
/// Held while the completion ring is read.
static DRAIN: spin::Mutex<()> = spin::Mutex::new(());

/// Puts a request into the ring; its slot. Waits for one.
fn submit(mut request: Request, waiter: Waiter) -> usize {
    let slot = loop {
        let mut slots = REQUESTS.lock();
        let free = slots.waiters.iter().position(|w| matches!(w, Waiter::Free));
        if let Some(slot) = free {
            slots.waiters[slot] = waiter;
            slots.used += 1;
            request.tag = slot as u64;
            request.cpu = ring0::percpu::this_cpu().number;
            let tail = control(core::mem::offset_of!(SharedControl, submit_tail));
            let at = tail.load(Ordering::Relaxed);
            let place =
                places().submissions + u64::from(at % RING_ENTRIES) * size_of::<Request>() as u64;
            // SAFETY: a place of the ring that the host half has taken the request from: at most as many are on
            // their way as there are slots, and it takes in order.
            unsafe { paging::write_physical(place, request.as_bytes()) };
            tail.store(at.wrapping_add(1), Ordering::Release);
            break slot;
        }
        slots.queue.push_back(thread::current().id());
        drop(slots);
        thread::park(None);
    };
    ring_doorbell();
    slot
}

/// Tells the host half that something was published, where it sleeps.
pub fn ring_doorbell() {
    fence(Ordering::SeqCst);
    if control(core::mem::offset_of!(SharedControl, host_idle)).load(Ordering::SeqCst) != 0 {
        // SAFETY: the contract's doorbell.
        unsafe { arch::outl(DOORBELL_PORT, 0) };
    }
}

/// Makes a request and waits for its result.
pub fn request(request: Request) -> i64 {
    let slot = submit(request, Waiter::Thread(thread::current().id()));
    loop {
        {
            let mut slots = REQUESTS.lock();
            if let Waiter::Done(result) = slots.waiters[slot] {
                release_slot(&mut slots, slot);
                return result;
            }
        }
        thread::park(None);
    }
}

/// Asks to be told, by [`stream::ready`], when a stream is ready.
pub fn request_notify(request: Request, stream: u32) {
    submit(request, Waiter::Stream(stream));
}

/// Makes a request on this CPU's own host thread: for what is short and is wanted at once.
pub fn request_now(request: Request) -> i64 {
    call(Call::Request, [0; 5], |text| {
        let bytes = request.as_bytes();
        text[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    })
}

fn release_slot(slots: &mut Slots, slot: usize) {
    slots.waiters[slot] = Waiter::Free;
    slots.used -= 1;
    if let Some(next) = slots.queue.pop_front() {
        thread::unpark(next);
    }
}

/// The host half has news.
pub fn interrupt() {
    drain();
    channel::wake();
}

fn drain() {
    let _drain = DRAIN.lock();
    let head = control(core::mem::offset_of!(SharedControl, complete_head));
    let tail = control(core::mem::offset_of!(SharedControl, complete_tail));
    loop {
        let at = head.load(Ordering::Relaxed);
        if at == tail.load(Ordering::Acquire) {
            return;
        }
        let place = places().completions
            + u64::from(at % COMPLETION_ENTRIES) * size_of::<Completion>() as u64;
        let completion: Completion = read_at(place);
        head.store(at.wrapping_add(1), Ordering::Release);
        complete(completion);
    }
}

fn complete(completion: Completion) {
    if completion.tag == event::FILE_SHRUNK {
        window::shrunk(completion.arg0, completion.arg1);
        return;
    }
    let slot = completion.tag as usize;
    let mut slots = REQUESTS.lock();
    match slots.waiters.get(slot).copied() {
        Some(Waiter::Thread(id)) => {
            slots.waiters[slot] = Waiter::Done(completion.result);
            drop(slots);
            thread::unpark(id);
        }
        Some(Waiter::Stream(number)) => {
            release_slot(&mut slots, slot);
            drop(slots);
            stream::ready(number, completion.result);
        }
        _ => panic!("a completion that nobody waits for: tag {:#x}", completion.tag),
    }
}
