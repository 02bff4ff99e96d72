//! The window: donated host files as guest-physical memory.
//!
//! A chunk of a file gets a place in the window when it is first mapped or read, and keeps it until the file is
//! closed or the place is wanted for another: the host half changes what is mapped behind the window, no
//! memory slot changes. A place is pinned while somebody copies through it or makes translations to it; taking
//! it away removes the translations from every address space first.
//!
//! Places are as large as a chunk, or small ones, of which many share a chunk of the window: most files of a userland
//! fit in one, and with a chunk each they would fill the window, and have the host keep page tables for all of it. A
//! file that outgrows its small place gets a large one.
//!
//! When all places are taken, reads go past the window, but for one in [`BRING_EVERY`]: whoever goes once through
//! more files than there are places would otherwise change what is mapped for every file, and what others read
//! again and again comes in all the same.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use guest::contract::{BootPage, MAX_BUFFER, PAGE, Request, WINDOW_CHUNK, WINDOW_SLOT, op};
use ring0::paging;
use sentry::errno::Errno;
use sentry::platform::{AtomicOp, FileId};

use crate::stream::{Bounce, check};
use crate::{host, memory, platform};

/// Pages of a chunk.
pub const CHUNK_PAGES: u64 = WINDOW_CHUNK / PAGE;

/// Of reads of what is not in a full window, so many go by for one that brings it in.
const BRING_EVERY: u32 = 8;

/// Chunks of the window that small places are made of at most, and never more than half of them. Each place is a mapping
/// of the host process, which may have 65,530 (vm.max_map_count); these are as many as the files of a userland.
const SMALL_CHUNKS: usize = 768;

struct Place {
    /// Guest-physical address of its first page.
    address: u64,
    /// Bytes: [`WINDOW_CHUNK`], or [`WINDOW_SLOT`].
    len: u64,
    /// File and chunk of it; `None`: free, or outgrown and not yet left by everybody.
    holds: Option<(FileId, u64)>,
    pins: u32,
    writable: bool,
    /// Whether there may be translations to it.
    mapped: bool,
    /// It becomes free with its last pin.
    outgrown: bool,
}

struct Window {
    base: u64,
    /// Chunks of the window that there are.
    limit: usize,
    /// Those of which places have been made: large, small.
    used: [usize; 2],
    /// All that were made.
    places: Vec<Place>,
    /// Free ones: large, small.
    free: [Vec<usize>; 2],
    /// Where each chunk is.
    index: BTreeMap<(FileId, u64), usize>,
    /// Where the search for a victim goes on.
    hand: usize,
    /// Sizes, as far as known.
    sizes: BTreeMap<FileId, u64>,
    /// Reads of what was not in the window while it was full, modulo [`BRING_EVERY`].
    passed: u32,
}

static WINDOW: spin::Mutex<Window> = spin::Mutex::new(Window {
    base: 0,
    limit: 0,
    used: [0, 0],
    places: Vec::new(),
    free: [Vec::new(), Vec::new()],
    index: BTreeMap::new(),
    hand: 0,
    sizes: BTreeMap::new(),
    passed: 0,
});

/// Takes what the boot page says.
pub fn init(boot: &BootPage) {
    let mut window = WINDOW.lock();
    window.base = boot.window_base;
    window.limit = (boot.window_size / WINDOW_CHUNK) as usize;
}

/// A chunk in its place, which stays there while this lives.
pub struct Pin {
    place: usize,
    /// Guest-physical address of the chunk's first page.
    pub address: u64,
    /// Whether the host half lets it be written.
    pub writable: bool,
}

impl Drop for Pin {
    fn drop(&mut self) {
        WINDOW.lock().unpin(self.place);
    }
}

/// Pins bytes of a file, all in one chunk, for translations to be made to them, which whoever takes their place away
/// looks for in every address space.
pub fn pin_to_map(file: FileId, start: u64, len: u64) -> Result<Pin, Errno> {
    let end = start.saturating_add(len);
    // Where only its beginning is wanted, what comes later will be. Of the last page one byte is enough.
    let size = size_for(file, end.saturating_sub(PAGE - 1))?;
    let mut window = WINDOW.lock();
    let pin = window.pin(file, start, end.max(size))?;
    window.places[pin.place].mapped = true;
    Ok(pin)
}

/// The chunk that the byte `start` is in, and how many bytes from its start on are seen of a file that is seen up to
/// `end`.
fn seen(start: u64, end: u64) -> (u64, u64) {
    let chunk = start / WINDOW_CHUNK;
    (chunk, end.saturating_sub(chunk * WINDOW_CHUNK).min(WINDOW_CHUNK))
}

/// Where lists by kind have places for so many bytes: 0 for large ones, 1 for small ones.
fn kind(need: u64) -> usize {
    usize::from(need <= WINDOW_SLOT)
}

impl Window {
    /// Pins the chunk that the byte `start` is in, of a file that is seen up to `end`.
    fn pin(&mut self, file: FileId, start: u64, end: u64) -> Result<Pin, Errno> {
        let (chunk, need) = seen(start, end);
        let place = match self.found(file, chunk, need) {
            Some(place) => place,
            None => self.bring(file, chunk, need)?,
        };
        let slot = &mut self.places[place];
        slot.pins += 1;
        Ok(Pin { place, address: slot.address, writable: slot.writable })
    }

    /// As [`pin`](Self::pin), for a copy out of the file; `None`: to be read past the window.
    fn pin_to_read(&mut self, file: FileId, start: u64, end: u64) -> Result<Option<Pin>, Errno> {
        if !self.finds_room(file, start, end) {
            self.passed = (self.passed + 1) % BRING_EVERY;
            if self.passed != 0 {
                return Ok(None);
            }
        }
        self.pin(file, start, end).map(Some)
    }

    /// Whether a chunk is in the window, or can be without another one leaving it.
    fn finds_room(&self, file: FileId, start: u64, end: u64) -> bool {
        let (chunk, need) = seen(start, end);
        !self.is_full(need) || self.index.contains_key(&(file, chunk))
    }

    /// Where a chunk is. A place that it has outgrown is given up.
    fn found(&mut self, file: FileId, chunk: u64, need: u64) -> Option<usize> {
        let place = *self.index.get(&(file, chunk))?;
        if self.places[place].len >= need {
            return Some(place);
        }
        self.index.remove(&(file, chunk));
        self.places[place].holds = None;
        self.places[place].outgrown = true;
        if self.places[place].pins == 0 {
            self.give_up(place);
        }
        None
    }

    /// Frees a place that its chunk has outgrown, and whose last pin is gone.
    fn give_up(&mut self, place: usize) {
        self.unmap(place, 0);
        self.places[place].outgrown = false;
        self.set_free(place);
    }

    fn unpin(&mut self, place: usize) {
        let Some(slot) = self.places.get_mut(place) else { return };
        slot.pins -= 1;
        if slot.pins == 0 && slot.outgrown {
            self.give_up(place);
        }
    }

    fn set_free(&mut self, place: usize) {
        self.free[kind(self.places[place].len)].push(place);
    }

    /// Whether a chunk of which so many bytes are seen finds a place only where another one has its own.
    fn is_full(&self, need: u64) -> bool {
        let most = [self.limit, SMALL_CHUNKS.min(self.limit / 2)];
        let all = self.used.iter().sum::<usize>() >= self.limit;
        self.free[kind(need)].is_empty() && (all || self.used[kind(need)] >= most[kind(need)])
    }

    /// Maps a chunk at a free place.
    fn bring(&mut self, file: FileId, chunk: u64, need: u64) -> Result<usize, Errno> {
        let place = self.find_place(need)?;
        let (address, len) = (self.places[place].address, self.places[place].len);
        let result = host::request_now(Request {
            op: op::WINDOW_MAP,
            handle: file.0,
            gpa: address - self.base,
            len,
            offset: chunk.checked_mul(WINDOW_CHUNK).ok_or(Errno::EFBIG)?,
            ..Request::default()
        });
        let writable = match check(result) {
            Ok(writable) => writable != 0,
            Err(e) => {
                self.set_free(place);
                return Err(e);
            }
        };
        let slot = &mut self.places[place];
        (slot.holds, slot.pins) = (Some((file, chunk)), 0);
        (slot.writable, slot.mapped) = (writable, false);
        self.index.insert((file, chunk), place);
        Ok(place)
    }

    fn find_place(&mut self, need: u64) -> Result<usize, Errno> {
        let len = [WINDOW_CHUNK, WINDOW_SLOT][kind(need)];
        if !self.is_full(need) {
            if self.free[kind(need)].is_empty() {
                self.make_places(len);
            }
            return self.free[kind(need)].pop().ok_or(Errno::ENOMEM);
        }
        // Everything is in use: take the next one that is large enough, and that nobody is at. A small one where there
        // is one: a large place holds what many small ones do.
        self.evict_next(|place| place.len == len)
            .or_else(|| self.evict_next(|place| place.len >= need))
            .ok_or(Errno::ENOMEM)
    }

    /// Makes places of so many bytes of the next chunk of the window.
    fn make_places(&mut self, len: u64) {
        let chunk = self.base + self.used.iter().sum::<usize>() as u64 * WINDOW_CHUNK;
        self.used[kind(len)] += 1;
        // The last ones first, so that the first ones are taken first.
        for n in (0..WINDOW_CHUNK / len).rev() {
            self.places.push(Place {
                address: chunk + n * len,
                len,
                holds: None,
                pins: 0,
                writable: false,
                mapped: false,
                outgrown: false,
            });
            self.set_free(self.places.len() - 1);
        }
    }

    /// Takes the next place of a kind that nobody is at.
    fn evict_next(&mut self, fits: impl Fn(&Place) -> bool) -> Option<usize> {
        for _ in 0..self.places.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.places.len();
            let slot = &self.places[place];
            if slot.pins == 0 && slot.holds.is_some() && fits(slot) {
                self.evict(place);
                return Some(place);
            }
        }
        None
    }

    fn evict(&mut self, place: usize) {
        if let Some(key) = self.places[place].holds.take() {
            self.index.remove(&key);
        }
        self.unmap(place, 0);
    }

    /// Takes away the translations to a place from this byte of it on.
    fn unmap(&self, place: usize, from: u64) {
        let Place { address, len, mapped, .. } = self.places[place];
        if mapped && from < len {
            platform::unmap_everywhere(address + from..address + len);
        }
    }
}

/// The size in bytes now.
pub fn size(file: FileId) -> Result<u64, Errno> {
    let request = Request { op: op::FILE_SIZE, handle: file.0, ..Request::default() };
    let size = check(host::request_now(request))?;
    WINDOW.lock().sizes.insert(file, size);
    Ok(size)
}

/// The size, from memory where a read up to `end` needs no fresh one.
fn size_for(file: FileId, end: u64) -> Result<u64, Errno> {
    let known = WINDOW.lock().sizes.get(&file).copied();
    match known {
        Some(size) if end <= size => Ok(size),
        _ => size(file),
    }
}

/// Reads through the window; short at the end of the file.
pub fn read(file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let end = offset.saturating_add(buf.len() as u64);
    let size = size_for(file, end)?;
    let len = size.min(end).saturating_sub(offset) as usize;
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = at % WINDOW_CHUNK;
        let n = (len - done).min((WINDOW_CHUNK - within) as usize);
        let pin = WINDOW.lock().pin_to_read(file, at, size)?;
        let Some(pin) = pin else {
            match read_past(file, at, &mut buf[done..done + n]) {
                // It has become shorter.
                Ok(0) => break,
                Ok(got) => done += got,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
            continue;
        };
        // SAFETY: the chunk stays in its place while it is pinned; it is memory of a host file, which no Rust
        // reference points at. A page that has vanished from the file reads as zero.
        unsafe { paging::read_physical(pin.address + within, &mut buf[done..done + n]) };
        done += n;
    }
    Ok(done)
}

/// Reads through the window by pieces of physical memory, which `put` takes: the address, how many bytes were there before
/// and are there now; it says how many it took. How many it took of all: fewer at the end of the file, where `put` took
/// fewer, and where the window is not the way.
///
/// What is at the address is memory of a host file, which no Rust reference points at, while `put` runs.
pub fn read_pieces(
    file: FileId,
    offset: u64,
    len: usize,
    mut put: impl FnMut(u64, usize, usize) -> usize,
) -> usize {
    let end = offset.saturating_add(len as u64);
    // Where it ends now is for whoever reads on to ask.
    let Some(size) = WINDOW.lock().sizes.get(&file).copied() else { return 0 };
    let len = size.min(end).saturating_sub(offset) as usize;
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = at % WINDOW_CHUNK;
        let n = (len - done).min((WINDOW_CHUNK - within) as usize);
        let pin = {
            let mut window = WINDOW.lock();
            if !window.finds_room(file, at, size) {
                break;
            }
            match window.pin(file, at, size) {
                Ok(pin) => pin,
                Err(_) => break,
            }
        };
        let took = put(pin.address + within, done, n);
        done += took;
        if took < n {
            break;
        }
    }
    done
}

/// Has the host half read into a buffer; short at the end of the file, and where the buffer is.
fn read_past(file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let bounce = Bounce::new(buf.len().min(MAX_BUFFER as usize))?;
    let want = buf.len().min(bounce.len());
    let request = Request {
        op: op::FILE_READ,
        handle: file.0,
        gpa: bounce.address(),
        len: want as u64,
        offset,
        ..Request::default()
    };
    let got = (check(host::request_now(request))? as usize).min(want);
    bounce.read(&mut buf[..got]);
    Ok(got)
}

/// Writes through the host half, which makes the file grow.
pub fn write(file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    let bounce = Bounce::new(data.len().min(MAX_BUFFER as usize))?;
    let mut done = 0;
    for chunk in data.chunks(bounce.len()) {
        bounce.write(chunk);
        let request = Request {
            op: op::FILE_WRITE,
            handle: file.0,
            gpa: bounce.address(),
            len: chunk.len() as u64,
            offset: offset.saturating_add(done as u64),
            ..Request::default()
        };
        match check(host::request_now(request)) {
            Ok(n) => done += (n as usize).min(chunk.len()),
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    let end = offset.saturating_add(done as u64);
    if let Some(size) = WINDOW.lock().sizes.get_mut(&file) {
        *size = (*size).max(end);
    }
    Ok(done)
}

/// An atomic operation on a word of a file.
pub fn atomic(file: FileId, offset: u64, op: AtomicOp) -> Result<u32, Errno> {
    let size = size_for(file, offset.saturating_add(4))?;
    if size < offset.saturating_add(4) || !offset.is_multiple_of(4) {
        return Err(Errno::EFAULT);
    }
    let pin = WINDOW.lock().pin(file, offset, size)?;
    if !pin.writable && !matches!(op, AtomicOp::Load) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: as in `read`; the word is aligned.
    let word = unsafe { paging::physical_word(pin.address + offset % WINDOW_CHUNK) };
    Ok(memory::update_physical(word, platform::change(op)))
}

/// Lets go of a file.
pub fn close(file: FileId) {
    {
        let mut window = WINDOW.lock();
        window.sizes.remove(&file);
        let mine: Vec<_> =
            window.index.range((file, 0)..=(file, u64::MAX)).map(|(&k, &p)| (k, p)).collect();
        for (key, place) in mine {
            window.index.remove(&key);
            window.places[place].holds = None;
            window.set_free(place);
        }
    }
    let request = Request { op: op::FILE_CLOSE, handle: file.0, ..Request::default() };
    // A file that the host half does not know is closed already.
    let _closed = host::request(request);
}

/// The host half says that a file has lost what lay from byte `from` on: nobody may go on using the pages
/// there, and the next touch asks the sentry.
pub fn shrunk(file: u64, from: u64) {
    let Ok(file) = u32::try_from(file).map(FileId) else {
        return;
    };
    let mut window = WINDOW.lock();
    if let Some(size) = window.sizes.get_mut(&file) {
        *size = (*size).min(from);
    }
    let first = from / WINDOW_CHUNK;
    let dead: Vec<_> = window
        .index
        .range((file, first)..=(file, u64::MAX))
        .map(|(&(_, chunk), &place)| (chunk, place))
        .collect();
    for (chunk, place) in dead {
        window.unmap(place, if chunk == first { from % WINDOW_CHUNK } else { 0 });
    }
}
