//! Asynchronous I/O (io_submit(2)): contexts, their rings of events, and polls that are under way.
//!
//! A context belongs to an address space, and its ring lies there too: events are put at its tail here, and taken from its
//! head by io_getevents(2) or by the application, as libaio may. The memory is the application's to write, so of what
//! stands there nothing but the head is ever read, and that within bounds.
//!
//! Reads, writes and syncs are done where they are submitted, as Linux does those that no disk has to be waited for. Polls
//! wait: each is an entry in its file's wait queue.
//!
//! Locks: a file's, then a context's state, then an eventfd's.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::epoll::Epoll;
use super::eventfd::EventFd;
use super::file::File;
use super::types::Events;
use crate::errno::Errno;
use crate::mm::{FilePage, FrameRef, MapRequest, Mappable, Mm, Place, VmaFile, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot, platform};
use crate::sync::{Mutex, SpinLock, WaitQueue, WaitToken, Wake};
use crate::task::Task;

/// Most operations that all contexts together may have been made for (/proc/sys/fs/aio-max-nr).
pub static MAX: AtomicUsize = AtomicUsize::new(0x10000);
/// How many they have been made for (/proc/sys/fs/aio-nr).
pub static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Bytes of `struct io_event`, and of the ring's header (`struct aio_ring`, fs/aio.c).
pub const EVENT: usize = 32;
const HEADER: usize = 32;
/// Offsets in the header.
const HEAD: usize = 8;
const TAIL: usize = 12;
const MAGIC: u32 = 0xa10a_10a1;
/// Most events of a ring.
const MOST: u64 = 0x1000_0000 / EVENT as u64;

/// What an operation was submitted as, which its event tells.
#[derive(Clone)]
pub struct Request {
    /// `aio_data`.
    pub data: u64,
    /// Where its `struct iocb` was.
    pub iocb: u64,
    /// An eventfd that hears of its end.
    pub told: Option<Arc<File>>,
}

/// The memory that an application has mapped.
struct Ring {
    frames: Vec<FrameRef>,
    number: u64,
}

/// Linux's are files of a file system of the kernel's own; the device is that of shared memory, the numbers are others.
const DEVICE: u64 = 1;
static NEXT: AtomicU64 = AtomicU64::new(1 << 33);

impl Ring {
    fn new(len: usize) -> Result<Arc<Ring>, Errno> {
        let pages = len.div_ceil(PAGE_SIZE);
        let frames = (0..pages).map(|_| FrameRef::alloc()).collect::<Result<_, _>>()?;
        Ok(Arc::new(Ring { frames, number: NEXT.fetch_add(1, Ordering::Relaxed) }))
    }

    /// Nothing that is read or written lies on two pages.
    fn write(&self, at: usize, data: &[u8]) {
        if let Some(frame) = self.frames.get(at / PAGE_SIZE) {
            platform().write_frame(frame.frame(), at % PAGE_SIZE, data);
        }
    }

    fn read(&self, at: usize, data: &mut [u8]) {
        if let Some(frame) = self.frames.get(at / PAGE_SIZE) {
            platform().read_frame(frame.frame(), at % PAGE_SIZE, data);
        }
    }

    fn put_word(&self, at: usize, word: u32) {
        self.write(at, &word.to_le_bytes());
    }
}

impl Mappable for Ring {
    fn page(&self, index: u64, _write: bool) -> Result<FilePage, Errno> {
        let frame = usize::try_from(index).ok().and_then(|index| self.frames.get(index));
        frame.map(|frame| FilePage::Cached(frame.clone())).ok_or(Errno::EFAULT)
    }

    fn around(&self, index: u64, most: u32) -> u32 {
        let left = (self.frames.len() as u64).saturating_sub(index);
        u32::try_from(left).unwrap_or(most).min(most).max(1)
    }

    // Its pages never go away under a mapping.
    fn attach(&self, _mm: &Arc<Mm>) {}
    fn detach(&self, _mm: &Mm) {}

    fn tracks_writes(&self) -> bool {
        false
    }

    fn identity(&self) -> (u64, u64) {
        (DEVICE, self.number)
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(()) // nothing stands behind it
    }
}

/// A context.
pub struct Context {
    ring: Arc<Ring>,
    /// Places for events; one stays empty.
    places: u32,
    /// What it counts for in [`COUNT`].
    counted: AtomicUsize,
    state: SpinLock<State>,
    /// One takes events at a time.
    reading: Mutex<()>,
    queue: Arc<WaitQueue>,
    dead: AtomicBool,
}

#[derive(Default)]
struct State {
    tail: u32,
    /// Operations that have a place, and no event yet.
    under_way: u32,
    polls: Vec<Arc<Poll>>,
    /// Polls that have ended, but are in their file's queue still: who told them so could not take them out.
    ended: Vec<Arc<Poll>>,
}

impl Context {
    /// io_setup(2): a context for so many operations, whose ring is mapped; the address.
    pub fn set_up(mm: &Arc<Mm>, requests: u32) -> Result<u64, Errno> {
        // Linux gives every processor some, and twice as many because they take several at a time.
        let wanted = u64::from(requests.max(platform().cpus().saturating_mul(4))).saturating_mul(2);
        if wanted > MOST {
            return Err(Errno::EINVAL);
        }
        let count = requests as usize;
        let most = MAX.load(Ordering::Relaxed);
        let more = |now: usize| now.checked_add(count).filter(|sum| *sum <= most);
        if COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(Errno::EAGAIN);
        }
        let made = Context::mapped(mm, wanted, count);
        if made.is_err() {
            COUNT.fetch_sub(count, Ordering::Relaxed);
        }
        made
    }

    fn mapped(mm: &Arc<Mm>, wanted: u64, counted: usize) -> Result<u64, Errno> {
        let places = usize::try_from(wanted).unwrap_or(0).saturating_add(2);
        let len = places.saturating_mul(EVENT).saturating_add(HEADER);
        let ring = Ring::new(len)?;
        let places = ring.frames.len().saturating_mul(PAGE_SIZE).saturating_sub(HEADER) / EVENT;
        let places = u32::try_from(places).map_err(|_| Errno::EINVAL)?;
        let file =
            VmaFile { pages: ring.clone(), first: 0, name: Arc::from(&b"/[aio] (deleted)"[..]) };
        let request = MapRequest {
            place: Place::Hint(0),
            len: len as u64,
            prot: Prot::READ | Prot::WRITE,
            flags: VmaFlags::SHARED,
            file: Some(file),
            populate: false,
        };
        let addr = mm.mmap(request)?;
        let context = Arc::new(Context {
            ring,
            places,
            counted: AtomicUsize::new(counted),
            state: SpinLock::default(),
            reading: Mutex::new(()),
            queue: Arc::default(),
            dead: AtomicBool::new(false),
        });
        let mut table = mm.aio.0.lock();
        let free = table.iter().position(Option::is_none);
        let id = free.unwrap_or(table.len());
        // id, nr, head, tail, magic, features, features without which it cannot be read, length of this.
        let header = [id as u32, places, 0, 0, MAGIC, 1, 0, HEADER as u32];
        for (n, word) in header.into_iter().enumerate() {
            context.ring.put_word(n.saturating_mul(4), word);
        }
        match table.get_mut(id) {
            Some(slot) => *slot = Some(context),
            None => table.push(Some(context)),
        }
        Ok(addr)
    }

    /// io_destroy(2): its polls end without an event, and whoever waits for some is told.
    fn end(&self) {
        self.dead.store(true, Ordering::Release);
        COUNT.fetch_sub(self.counted.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        let (polls, ended) = {
            let mut state = self.state.lock();
            (core::mem::take(&mut state.polls), core::mem::take(&mut state.ended))
        };
        for poll in polls.iter().chain(&ended) {
            poll.over.store(true, Ordering::Release);
            poll.leave();
        }
        self.queue.wake_all();
    }

    /// Whether it has been destroyed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Where to wait for events.
    pub fn waiters(&self) -> &WaitQueue {
        &self.queue
    }

    /// Most operations of one io_submit(2).
    pub fn places(&self) -> u32 {
        self.places
    }

    /// Where the application, or a reader here, has got to.
    fn head(&self) -> u32 {
        let mut word = [0; 4];
        self.ring.read(HEAD, &mut word);
        u32::from_le_bytes(word).checked_rem(self.places).unwrap_or(0)
    }

    fn next(&self, place: u32) -> u32 {
        place.saturating_add(1).checked_rem(self.places).unwrap_or(0)
    }

    fn place(place: u32) -> usize {
        (place as usize).saturating_mul(EVENT).saturating_add(HEADER)
    }

    /// A place for one operation more. `EAGAIN`: there is none.
    pub fn reserve(&self) -> Result<(), Errno> {
        self.settle();
        let mut state = self.state.lock();
        let head = self.head();
        let waiting = match state.tail.checked_sub(head) {
            Some(waiting) => waiting,
            None => state.tail.saturating_add(self.places).saturating_sub(head),
        };
        let used = waiting.saturating_add(state.under_way);
        if used.saturating_add(1) >= self.places {
            return Err(Errno::EAGAIN);
        }
        state.under_way = state.under_way.saturating_add(1);
        Ok(())
    }

    /// The place is not needed.
    pub fn give_back(&self) {
        let mut state = self.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
    }

    /// An operation has ended.
    pub fn complete(&self, request: &Request, result: i64) {
        let mut state = self.state.lock();
        self.put(&mut state, request, result);
        drop(state);
        self.tell(request);
    }

    fn put(&self, state: &mut State, request: &Request, result: i64) {
        let mut event = [0; EVENT];
        let words = [request.data, request.iocb, result as u64, 0];
        for (to, word) in event.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.ring.write(Context::place(state.tail), &event);
        state.tail = self.next(state.tail);
        self.ring.put_word(TAIL, state.tail);
        state.under_way = state.under_way.saturating_sub(1);
    }

    fn tell(&self, request: &Request) {
        if let Some(event) = request.told.as_ref().and_then(|file| file.ops_as::<EventFd>()) {
            event.signal(1);
        }
        self.queue.wake_all();
    }

    /// Whether there are events.
    pub fn has_events(&self) -> bool {
        self.settle();
        self.head() != self.state.lock().tail
    }

    /// Takes up to `most` events for `take`, which gets each with its number; how many. They stay where it fails.
    pub fn take(
        &self,
        most: usize,
        mut take: impl FnMut(usize, &[u8; EVENT]) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        self.settle();
        let _one = self.reading.lock();
        let tail = self.state.lock().tail;
        let mut at = self.head();
        let mut taken = 0;
        while at != tail && taken < most {
            let mut event = [0; EVENT];
            self.ring.read(Context::place(at), &mut event);
            take(taken, &event)?;
            taken = taken.saturating_add(1);
            at = self.next(at);
        }
        if taken > 0 {
            self.ring.put_word(HEAD, at);
        }
        Ok(taken)
    }

    /// Takes polls that have ended out of their files' queues, and looks at those that nobody tells of.
    fn settle(&self) {
        let (ended, lazy) = {
            let mut state = self.state.lock();
            if state.ended.is_empty() && state.polls.is_empty() {
                return;
            }
            let lazy: Vec<Arc<Poll>> = state.polls.iter().filter(|p| p.lazy).cloned().collect();
            (core::mem::take(&mut state.ended), lazy)
        };
        for poll in ended {
            poll.leave();
        }
        for poll in lazy {
            poll.look(self);
        }
    }

    /// IOCB_CMD_POLL: waits for `wanted` of `file`. `EINVAL` where it never waits and is not ready.
    pub fn poll(
        self: &Arc<Self>,
        task: &Arc<Task>,
        file: Arc<File>,
        wanted: Events,
        request: Request,
    ) -> Result<(), Errno> {
        let wanted = wanted | Events::ERR | Events::HUP;
        let Some(queue) = file.ops().queue() else {
            let ready = file.poll_as(task) & wanted;
            if ready.is_empty() {
                return Err(Errno::EINVAL);
            }
            self.complete(&request, ready.bits().into());
            return Ok(());
        };
        let poll = Arc::new(Poll {
            lazy: file.ops_as::<Epoll>().is_some(),
            file: file.clone(),
            task: Arc::downgrade(task),
            wanted,
            request,
            over: AtomicBool::new(false),
            token: SpinLock::new(None),
        });
        self.state.lock().polls.push(poll.clone());
        file.ops().waited_for(task);
        let token = if poll.lazy {
            queue.enter(wanted.bits(), false, Arc::new(LazyBell(self.queue.clone())))
        } else {
            let bell = Bell { context: Arc::downgrade(self), poll: poll.clone() };
            queue.enter_apart(wanted.bits(), Arc::new(bell))
        };
        *poll.token.lock() = Some(token);
        poll.look(self);
        Ok(())
    }

    /// io_cancel(2): a poll that was submitted as `iocb` ends, and its event says so. `EINVAL`: none is under way.
    pub fn cancel(&self, iocb: u64) -> Result<(), Errno> {
        self.settle();
        let found = self.state.lock().polls.iter().find(|p| p.request.iocb == iocb).cloned();
        let poll = found.ok_or(Errno::EINVAL)?;
        if poll.finish(self, 0) { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.end();
    }
}

/// A poll that is under way.
struct Poll {
    file: Arc<File>,
    /// Who submitted it, for files that are not ready for everybody at once.
    task: Weak<Task>,
    wanted: Events,
    request: Request,
    over: AtomicBool,
    token: SpinLock<Option<WaitToken>>,
    /// Whoever tells an epoll instance holds another file's queue: what is told is only that somebody should look.
    lazy: bool,
}

impl Poll {
    /// Ends it, if the file is ready.
    fn look(self: &Arc<Self>, context: &Context) {
        let ready = match self.task.upgrade() {
            Some(task) => self.file.poll_as(&task),
            None => self.file.poll(),
        };
        let ready = ready & self.wanted;
        if !ready.is_empty() {
            self.finish(context, ready.bits().into());
        }
    }

    /// Ends it with this result; whether it had not ended before.
    fn finish(self: &Arc<Self>, context: &Context, result: i64) -> bool {
        if self.over.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut state = context.state.lock();
        state.polls.retain(|poll| !Arc::ptr_eq(poll, self));
        state.ended.push(self.clone());
        context.put(&mut state, &self.request, result);
        drop(state);
        context.tell(&self.request);
        true
    }

    fn leave(&self) {
        let token = self.token.lock().take();
        if let (Some(queue), Some(token)) = (self.file.ops().queue(), token) {
            queue.leave(token);
        }
    }
}

/// A poll as its file's queue knows it.
struct Bell {
    context: Weak<Context>,
    poll: Arc<Poll>,
}

impl Wake for Bell {
    fn wake(&self, _events: u32) -> bool {
        if !self.poll.over.load(Ordering::Acquire)
            && let Some(context) = self.context.upgrade()
        {
            self.poll.look(&context);
        }
        false
    }
}

struct LazyBell(Arc<WaitQueue>);

impl Wake for LazyBell {
    fn wake(&self, _events: u32) -> bool {
        self.0.wake_all();
        false
    }
}

/// The contexts of an address space.
#[derive(Default)]
pub struct Contexts(SpinLock<Vec<Option<Arc<Context>>>>);

impl Contexts {
    /// The one whose ring begins at `addr`. `EINVAL`: there is none.
    pub fn get(&self, mm: &Mm, addr: u64) -> Result<Arc<Context>, Errno> {
        let (pages, offset) = mm.mapped(addr).ok_or(Errno::EINVAL)?;
        if offset != 0 {
            return Err(Errno::EINVAL);
        }
        let table = self.0.lock();
        let found = table.iter().flatten().find(|context| is_ring(context, &pages));
        found.cloned().ok_or(Errno::EINVAL)
    }

    /// io_destroy(2).
    pub fn destroy(&self, mm: &Mm, addr: u64) -> Result<(), Errno> {
        let context = self.get(mm, addr)?;
        {
            let mut table = self.0.lock();
            let found = table
                .iter_mut()
                .find(|slot| slot.as_ref().is_some_and(|other| Arc::ptr_eq(other, &context)));
            // Another task may have been faster.
            let slot = found.ok_or(Errno::EINVAL)?.take();
            drop(table);
            drop(slot);
        }
        context.end();
        mm.munmap(addr, (context.ring.frames.len() as u64).saturating_mul(PAGE_SIZE as u64))
    }
}

fn is_ring(context: &Context, pages: &Arc<dyn Mappable>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(&context.ring), Arc::as_ptr(pages))
}
