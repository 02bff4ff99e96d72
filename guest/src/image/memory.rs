//! The sandbox's memory: frames, and the image's heap.
//!
//! RAM above `first_free` is frames from below and the heap's own region at the top, a part that is set aside
//! once: memory nobody has touched costs nothing, and a heap that never asks the frame allocator for memory can be
//! used by it.
//!
//! Frames that ring 0 has for page tables and stacks are marked ([`alloc_page`]): whoever names one of them as a frame
//! of the sentry's, to map, to copy or to give back, has a defect that would put the whole machine into an
//! application's hands, and ends the sandbox instead.

use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use guest::contract::{BootPage, PAGE, RAM_BASE, Request, op};
use ring0::paging;
use sentry::platform::frame_alloc::{Dirty, FrameAllocator, Run};
use sentry::platform::{Account, Frame, FrameCounts};
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;
use talc::sync::TalcLock;

use crate::host;

/// The heap's part of RAM: one in this many bytes.
const HEAP_PART: u64 = 4;
/// The heap grows by at least this much.
const HEAP_STEP: u64 = 256 << 10;
/// How often freed frames that nobody wanted again go back to the host, nanoseconds. One that was freed just after
/// a round is looked at in the next and goes in the one after.
const RELEASE_EVERY: u64 = 900_000_000;
/// After so many rounds in which nobody wanted them, frames of blocks that are in use in part go back too.
const SPLIT_AFTER: u32 = 10;
/// Frames in use from which on it does. A container that uses less, as most that wait do, costs what it touches.
const BLOCKS_FROM: u32 = (8 << 20) / PAGE as u32;
/// Frames of one release request.
const RELEASE_BATCH: u32 = 16 << 10;

static FRAMES: spin::Mutex<Option<FrameAllocator>> = spin::Mutex::new(None);
/// Bytes of RAM that frames have, for checks without the lock.
static LIMIT: AtomicU64 = AtomicU64::new(0);
/// The least number of dirty free frames since the last release round: what nobody needed.
static LEAST_DIRTY: AtomicU32 = AtomicU32::new(0);
/// One bit for each frame that is ring 0's own.
static RESERVED: spin::Once<Reserved> = spin::Once::new();
/// Whether there is an account but the first. Until then no thread is asked for its own: at boot there are none.
static ACCOUNTS: AtomicBool = AtomicBool::new(false);
/// The thread that releases, once there is one; 0: it is awake.
static RELEASER: AtomicU64 = AtomicU64::new(0);

/// The physical address of a frame.
#[inline]
pub fn address(frame: Frame) -> u64 {
    RAM_BASE + u64::from(frame.0) * PAGE
}

/// The frame at a physical address in RAM.
pub fn frame_at(address: u64) -> Frame {
    Frame((address.wrapping_sub(RAM_BASE) / PAGE) as u32)
}

/// Makes heap and frames.
pub fn init(boot: &BootPage) {
    let heap = (boot.ram_size / HEAP_PART) & !(PAGE - 1);
    let heap_start = RAM_BASE + boot.ram_size - heap;
    let offset = guest::contract::DIRECT_MAP;
    HEAP.lock().source.free = (heap_start + offset, RAM_BASE + boot.ram_size + offset);
    let mut frames = FrameAllocator::new(frame_at(heap_start).0);
    // What boot uses stays in use.
    let boot_frames = frame_at(boot.first_free).0;
    if boot_frames > 0 && frames.alloc(Account::FIRST, boot_frames).is_none() {
        host::early("RAM is too small\n");
        ring0::arch::halt();
    }
    let bytes = u64::from(frames.limit()).div_ceil(64) * 8;
    let Some(bits) = frames.alloc(Account::FIRST, bytes.div_ceil(PAGE) as u32) else {
        host::early("RAM is too small\n");
        ring0::arch::halt();
    };
    // SAFETY: zeroed memory in the direct map that is never freed, and as many words as it holds; it is named nowhere
    // else.
    let bits = unsafe {
        let at = (offset + address(bits.first)) as *const AtomicU64;
        core::slice::from_raw_parts(at, (bytes / 8) as usize)
    };
    let first_free = bits.as_ptr().addr() as u64 - offset + bytes.next_multiple_of(PAGE);
    RESERVED.call_once(|| Reserved { bits, boot: frame_at(first_free).0 });
    *FRAMES.lock() = Some(frames);
    LIMIT.store(heap_start - RAM_BASE, Ordering::Relaxed);
}

/// Which frames are ring 0's.
struct Reserved {
    bits: &'static [AtomicU64],
    /// Frames below it are boot's: image, boot page, first tables, and these bits.
    boot: u32,
}

impl Reserved {
    fn word(&self, frame: u32) -> Option<(&AtomicU64, u64)> {
        Some((self.bits.get(frame as usize / 64)?, 1 << (frame % 64)))
    }

    fn has(&self, frame: u32) -> bool {
        frame < self.boot
            || self.word(frame).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }
}

/// The first frame of a run that is ring 0's.
pub fn reserved(first: u32, count: u32) -> Option<u32> {
    let reserved = RESERVED.get()?;
    (first..first.saturating_add(count)).find(|&frame| reserved.has(frame))
}

/// Ends the sandbox where a run of the sentry's has a frame of ring 0's.
fn refuse_reserved(first: u32, count: u32, what: &str) {
    if let Some(frame) = reserved(first, count) {
        panic!("frame {frame} is ring 0's own: {what} of {count} from {first}");
    }
}

/// The physical address of a zeroed page for ring 0 itself.
pub fn alloc_page() -> Option<u64> {
    // Page tables are locked.
    let frame = alloc_now(1)?.0;
    if let Some((word, bit)) = RESERVED.get().and_then(|r| r.word(frame.0)) {
        word.fetch_or(bit, Ordering::Relaxed);
    }
    Some(address(frame))
}

/// Takes back what [`alloc_page`] gave.
pub fn free_page(page: u64) {
    let frame = frame_at(page);
    if let Some((word, bit)) = RESERVED.get().and_then(|r| r.word(frame.0)) {
        let before = word.fetch_and(!bit, Ordering::Relaxed);
        assert!(before & bit != 0, "{frame:?}, which is not ring 0's, comes back from it");
    }
    free(frame, 1);
}

/// A run of zeroed frames.
///
/// Each first touch of a page costs an exit: where a run is the first of a block, the host puts memory behind all of it,
/// as one huge page where it can. What nobody wants of it goes back as what was freed does.
pub fn alloc(count: u32) -> Option<Frame> {
    let (first, block) = alloc_now(count)?;
    if !block.is_empty() {
        let request = Request {
            op: op::POPULATE,
            gpa: address(Frame(block.start)),
            len: block.len() as u64 * PAGE,
            ..Request::default()
        };
        if host::request_now(request) >= 0 {
            if let Some(frames) = FRAMES.lock().as_mut() {
                frames.populated(block);
            }
            wake_releaser();
        }
    }
    Some(first)
}

/// A run of zeroed frames, and a range around it that is worth being populated.
fn alloc_now(count: u32) -> Option<(Frame, Range<u32>)> {
    let (Run { first, dirty }, block) = {
        let mut frames = FRAMES.lock();
        let frames = frames.as_mut()?;
        let run = frames.alloc(account(), count)?;
        LEAST_DIRTY.fetch_min(frames.dirty(), Ordering::Relaxed);
        let all = run.first.0..run.first.0.saturating_add(count);
        let block = match run.dirty {
            Dirty::Nothing if frames.used() >= BLOCKS_FROM => frames.untouched_blocks(all),
            _ => 0..0,
        };
        (run, block)
    };
    match dirty {
        Dirty::Nothing => {}
        Dirty::Everything => zero(first, 0, count as usize * PAGE as usize),
        Dirty::Some(ranges) => {
            for range in ranges {
                zero(Frame(range.start), 0, range.len() * PAGE as usize);
            }
        }
    }
    Some((first, block))
}

/// Gives a run back.
pub fn free(first: Frame, count: u32) {
    refuse_reserved(first.0, count, "return");
    let result = match FRAMES.lock().as_mut() {
        Some(frames) => frames.free(first, count),
        None => Ok(()),
    };
    if let Err(frame) = result {
        panic!("{frame:?}: frames {first:?} + {count} freed");
    }
    wake_releaser();
}

/// There is something to give back.
fn wake_releaser() {
    if RELEASER.load(Ordering::Relaxed) != 0 {
        let thread = RELEASER.swap(0, Ordering::SeqCst);
        if thread != 0 {
            ring0::thread::unpark(ring0::thread::Id(thread));
        }
    }
}

/// What an account has.
pub fn counts(account: Account) -> FrameCounts {
    FRAMES.lock().as_ref().map_or(FrameCounts::default(), |frames| frames.counts(account))
}

/// Lets no more be in use; an error is how many are.
pub fn restrict(count: Option<u32>) -> Result<(), u32> {
    FRAMES.lock().as_mut().map_or(Ok(()), |frames| frames.restrict(count))
}

/// A new account.
pub fn open_account() -> Option<Account> {
    let account = FRAMES.lock().as_mut()?.open()?;
    ACCOUNTS.store(true, Ordering::Relaxed);
    Some(account)
}

/// Lets an account have no more; an error is how many it has.
pub fn restrict_account(account: Account, count: Option<u32>) -> Result<(), u32> {
    FRAMES.lock().as_mut().map_or(Ok(()), |frames| frames.restrict_account(account, count))
}

/// Closes an account.
pub fn close_account(account: Account) {
    if let Some(frames) = FRAMES.lock().as_mut() {
        frames.close(account);
    }
}

/// The calling thread's account.
pub fn account() -> Account {
    match ACCOUNTS.load(Ordering::Relaxed) {
        true => Account(ring0::thread::label() as u16),
        false => Account::FIRST,
    }
}

/// Whether a range of a run is inside the frames' part of RAM.
fn check(frame: Frame, offset: usize, len: usize) -> u64 {
    let limit = RAM_BASE + LIMIT.load(Ordering::Relaxed);
    let start = address(frame).saturating_add(offset as u64);
    assert!(
        start.checked_add(len as u64).is_some_and(|end| end <= limit),
        "{frame:?} + {offset:#x}, {len:#x} bytes: no such frames"
    );
    let first = frame_at(start).0;
    refuse_reserved(first, (offset % PAGE as usize + len).div_ceil(PAGE as usize) as u32, "use");
    start
}

/// The physical address of a run, all of which exists.
pub fn checked_run(frame: Frame, pages: u32) -> u64 {
    check(frame, 0, pages as usize * PAGE as usize)
}

/// Zeroes bytes of a run.
pub fn zero(frame: Frame, offset: usize, len: usize) {
    let at = check(frame, offset, len);
    // SAFETY: inside the frames' part of RAM, which no Rust reference points into.
    unsafe { paging::zero_physical(at, len) };
}

/// Copies out of a run.
pub fn read(frame: Frame, offset: usize, buf: &mut [u8]) {
    let at = check(frame, offset, buf.len());
    // SAFETY: as in `zero`.
    unsafe { paging::read_physical(at, buf) };
}

/// Copies into a run.
pub fn write(frame: Frame, offset: usize, data: &[u8]) {
    let at = check(frame, offset, data.len());
    // SAFETY: as in `zero`.
    unsafe { paging::write_physical(at, data) };
}

/// Copies a frame.
pub fn copy(from: Frame, to: Frame) {
    let (from, to) = (check(from, 0, PAGE as usize), check(to, 0, PAGE as usize));
    // SAFETY: as in `zero`, for both.
    unsafe { paging::copy_physical_page(from, to) };
}

/// `next(old)` is stored where it is `Some`; the word before.
pub fn update(frame: Frame, offset: usize, next: impl Fn(u32) -> Option<u32>) -> u32 {
    let at = check(frame, offset, 4);
    // SAFETY: as in `zero`; the word is cut to its alignment.
    update_physical(unsafe { paging::physical_word(at) }, next)
}

/// The same on any word.
pub fn update_physical(word: &AtomicU32, next: impl Fn(u32) -> Option<u32>) -> u32 {
    let (Ok(old) | Err(old)) = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    old
}

/// Starts the thread that gives freed memory back to the host.
pub fn start_release() {
    if ring0::thread::spawn(alloc::boxed::Box::new(release_loop), u64::MAX).is_err() {
        host::log(
            sentry::platform::Level::Warning,
            format_args!("freed memory stays with the sandbox"),
        );
    }
}

fn release_loop() {
    // The least of some rounds, and how many they are.
    let mut longer = (u32::MAX, 0);
    loop {
        let dirty = FRAMES.lock().as_ref().map_or(0, FrameAllocator::dirty);
        if dirty == 0 {
            longer = (u32::MAX, 0);
            RELEASER.store(ring0::thread::current().id().0, Ordering::SeqCst);
            let dirty = FRAMES.lock().as_ref().map_or(0, FrameAllocator::dirty);
            if dirty == 0 {
                ring0::thread::park(None);
                continue;
            }
            RELEASER.store(0, Ordering::SeqCst);
        }
        LEAST_DIRTY.store(dirty, Ordering::SeqCst);
        let until = ring0::clock::monotonic() + RELEASE_EVERY;
        while ring0::clock::monotonic() < until {
            ring0::thread::park(Some(until));
        }
        let least = LEAST_DIRTY.load(Ordering::SeqCst);
        release(least, false);
        longer = (least.min(longer.0), longer.1 + 1);
        if longer.1 >= SPLIT_AFTER {
            release(longer.0, true);
            longer = (u32::MAX, 0);
        }
    }
}

/// Gives up to `most` dirty frames back to the host, with `split` also such as cost it a huge page.
fn release(most: u32, split: bool) {
    let mut left = most;
    while left > 0 {
        let batch = match FRAMES.lock().as_mut() {
            Some(frames) => frames.take_batch_to_release(left.min(RELEASE_BATCH), split),
            None => return,
        };
        if batch.is_empty() {
            return;
        }
        for run in batch {
            left = left.saturating_sub(run.len() as u32);
            let request = Request {
                op: op::RELEASE,
                gpa: address(Frame(run.start)),
                len: run.len() as u64 * PAGE,
                ..Request::default()
            };
            if host::request(request) < 0 {
                // The host could not: the frames are free all the same, and zeroed here.
                zero(Frame(run.start), 0, run.len() * PAGE as usize);
            }
            if let Some(frames) = FRAMES.lock().as_mut()
                && let Err(frame) = frames.released(run)
            {
                panic!("released {frame:?}");
            }
        }
    }
}

/// Where the heap's memory comes from.
#[derive(Debug)]
pub struct Region {
    /// Addresses that the heap does not have yet.
    free: (u64, u64),
    /// The end of what it has, as talc names it.
    end: Option<core::ptr::NonNull<u8>>,
}

// SAFETY: the pointer is only compared and given back to talc, under its lock.
unsafe impl Send for Region {}

// SAFETY: `acquire` uses the allocator through `talc` alone, and allocates nothing.
unsafe impl Source for Region {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let (start, limit) = talc.source.free;
        let wanted = (layout.size() as u64)
            .saturating_add(layout.align() as u64)
            .saturating_add(PAGE)
            .max(HEAP_STEP)
            .next_multiple_of(PAGE);
        let end = start.checked_add(wanted).filter(|&end| end <= limit).ok_or(())?;
        // SAFETY: the region is set aside for the heap, mapped, and neighbours what the heap has already.
        let new_end = unsafe {
            match talc.source.end {
                Some(old) => Some(talc.extend(old, end as *mut u8)),
                None => talc.claim(start as *mut u8, (end - start) as usize),
            }
        };
        talc.source.end = Some(new_end.ok_or(())?);
        talc.source.free.0 = end;
        Ok(())
    }
}

/// A lock for talc.
pub struct RawSpin(core::sync::atomic::AtomicBool);

// SAFETY: only one caller gets past `swap` until `unlock`.
unsafe impl talc::lock_api::RawMutex for RawSpin {
    #[allow(clippy::declare_interior_mutable_const)] // what the trait asks for
    const INIT: RawSpin = RawSpin(core::sync::atomic::AtomicBool::new(false));
    type GuardMarker = talc::lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            core::hint::spin_loop();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

#[global_allocator]
static HEAP: TalcLock<RawSpin, Region, talc::DefaultBinning> =
    TalcLock::new(Region { free: (0, 0), end: None });
