//! The window: donated host files as guest-physical memory.
//!
//! A chunk of a file gets a place in the window when it is first mapped or read, and keeps it until the file is
//! closed or the place is wanted for another: the host half changes what is mapped behind the window, no
//! memory slot changes. A place is pinned while somebody copies through it or makes translations to it; taking
//! it away removes the translations from every address space first.
//!
//! When all places are taken, reads go past the window, but for one in [`BRING_EVERY`]: whoever goes once through
//! more files than there are places would otherwise change what is mapped for every file, and what others read
//! again and again comes in all the same.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use guest::contract::{BootPage, MAX_BUFFER, PAGE, Request, WINDOW_CHUNK, op};
use ring0::paging;
use sentry::errno::Errno;
use sentry::platform::{AtomicOp, FileId};

use crate::stream::{Bounce, check};
use crate::{host, memory, platform};

/// Pages of a chunk.
pub const CHUNK_PAGES: u64 = WINDOW_CHUNK / PAGE;

/// Of reads of what is not in a full window, so many go by for one that brings it in.
const BRING_EVERY: u32 = 8;

struct Place {
    /// File and chunk of it; `None`: free.
    holds: Option<(FileId, u64)>,
    pins: u32,
    writable: bool,
    /// Whether there may be translations to it.
    mapped: bool,
}

struct Window {
    base: u64,
    /// Places that there can be.
    limit: usize,
    /// Those ever used.
    places: Vec<Place>,
    free: Vec<usize>,
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
    places: Vec::new(),
    free: Vec::new(),
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
        if let Some(place) = WINDOW.lock().places.get_mut(self.place) {
            place.pins -= 1;
        }
    }
}

/// Pins the chunk with this number, to be copied from or to.
fn pin(file: FileId, chunk: u64) -> Result<Pin, Errno> {
    WINDOW.lock().pin(file, chunk)
}

/// Pins it for translations to be made to it, which whoever takes its place away looks for in every address space.
pub fn pin_to_map(file: FileId, chunk: u64) -> Result<Pin, Errno> {
    let mut window = WINDOW.lock();
    let pin = window.pin(file, chunk)?;
    window.places[pin.place].mapped = true;
    Ok(pin)
}

impl Window {
    fn pin(&mut self, file: FileId, chunk: u64) -> Result<Pin, Errno> {
        let place = match self.index.get(&(file, chunk)) {
            Some(&place) => place,
            None => self.bring(file, chunk)?,
        };
        let address = self.address(place);
        let slot = &mut self.places[place];
        slot.pins += 1;
        Ok(Pin { place, address, writable: slot.writable })
    }

    /// As [`pin`](Self::pin), for a copy out of the file; `None`: to be read past the window.
    fn pin_to_read(&mut self, file: FileId, chunk: u64) -> Result<Option<Pin>, Errno> {
        let full = self.free.is_empty() && self.places.len() >= self.limit;
        if full && !self.index.contains_key(&(file, chunk)) {
            self.passed = (self.passed + 1) % BRING_EVERY;
            if self.passed != 0 {
                return Ok(None);
            }
        }
        self.pin(file, chunk).map(Some)
    }

    fn address(&self, place: usize) -> u64 {
        self.base + place as u64 * WINDOW_CHUNK
    }

    /// Maps a chunk at a free place.
    fn bring(&mut self, file: FileId, chunk: u64) -> Result<usize, Errno> {
        let place = self.find_place()?;
        let result = host::request_now(Request {
            op: op::WINDOW_MAP,
            handle: file.0,
            gpa: place as u64 * WINDOW_CHUNK,
            len: WINDOW_CHUNK,
            offset: chunk.checked_mul(WINDOW_CHUNK).ok_or(Errno::EFBIG)?,
            ..Request::default()
        });
        let writable = match check(result) {
            Ok(writable) => writable != 0,
            Err(e) => {
                self.free.push(place);
                return Err(e);
            }
        };
        self.places[place] = Place { holds: Some((file, chunk)), pins: 0, writable, mapped: false };
        self.index.insert((file, chunk), place);
        Ok(place)
    }

    fn find_place(&mut self) -> Result<usize, Errno> {
        if let Some(place) = self.free.pop() {
            return Ok(place);
        }
        if self.places.len() < self.limit {
            self.places.push(Place { holds: None, pins: 0, writable: false, mapped: false });
            return Ok(self.places.len() - 1);
        }
        // Everything is in use: take the next one that nobody is at.
        for _ in 0..self.places.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.places.len();
            if self.places[place].pins == 0 {
                self.evict(place);
                return Ok(place);
            }
        }
        Err(Errno::ENOMEM)
    }

    fn evict(&mut self, place: usize) {
        if let Some(key) = self.places[place].holds.take() {
            self.index.remove(&key);
        }
        self.unmap(place, 0);
    }

    /// Takes away the translations to a place from this byte of it on.
    fn unmap(&self, place: usize, from: u64) {
        if self.places[place].mapped {
            let start = self.address(place);
            platform::unmap_everywhere(start + from..start + WINDOW_CHUNK);
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
        let pin = WINDOW.lock().pin_to_read(file, at / WINDOW_CHUNK)?;
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
    if size_for(file, offset.saturating_add(4))? < offset.saturating_add(4)
        || !offset.is_multiple_of(4)
    {
        return Err(Errno::EFAULT);
    }
    let pin = pin(file, offset / WINDOW_CHUNK)?;
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
            window.free.push(place);
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
