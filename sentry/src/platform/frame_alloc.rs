//! Which frames are free: the book that every platform keeps over its sandbox's memory.
//!
//! Principles: neighbours first (runs of frames map as one piece), low numbers first (the footprint
//! stays compact), and a free frame remembers whether the host still has memory behind it. One that has is
//! *dirty*: it is zeroed when it is given out again, or goes back to the host in a batch, after which
//! it is zero by itself. One that is known to be zero all the same, because the host put memory behind it ahead of
//! use, is not zeroed.
//!
//! Each frame is charged to an [`Account`], one for each container. What the first one has is not written down by frame:
//! it is all that is no other's. So a sandbox of one container pays nothing for accounts.
//!
//! Nothing here touches memory or waits; the platform does both, outside the lock it keeps this under.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Account, Frame, FrameCounts};

/// Frames per chunk of the bitmaps: 128 MiB.
const CHUNK: u32 = 32 * 1024;
/// Words per bitmap of a chunk.
const WORDS: usize = (CHUNK / 64) as usize;
/// Frames of a block, which is what a huge page is behind: 2 MiB. A chunk has one for each bit of a word.
pub const BLOCK: u32 = CHUNK / 64;

/// Frames in use and free ones, as two bitmaps that grow in chunks as memory is used.
pub struct FrameAllocator {
    chunks: Vec<Option<Box<Chunk>>>,
    /// Frames that there are.
    all: u32,
    /// Those below are given out.
    limit: u32,
    used: u32,
    /// Of those in use, so many were before anything was counted for a container.
    base: Option<u32>,
    /// The most that the first account had at once, the base included.
    peak: u32,
    /// How often there were none for it.
    refused: u64,
    /// All accounts but the first.
    accounts: Vec<Book>,
    /// Of what is in use, so much is theirs.
    others: u32,
    /// Whose each frame is, in pieces as long as chunks; 0, and where there is none: the first account's.
    owners: Vec<Option<Box<[u16]>>>,
    dirty: u32,
    /// No frame below is free.
    lowest: u32,
}

struct Chunk {
    /// In use, or on its way back to the host.
    used: [u64; WORDS],
    /// Free, but with host memory.
    dirty: [u64; WORDS],
    /// Of those, known to be zero.
    zero: [u64; WORDS],
    /// Blocks that the host has put memory behind as a whole, none of which has gone back.
    populated: u64,
    free: u32,
    /// No run of free frames within the chunk is longer.
    longest: u32,
}

/// An account but the first.
struct Book {
    /// Frames and what was charged, and the most it may be.
    used: u32,
    limit: u32,
    /// The most that it was at once.
    peak: u32,
    refused: u64,
    /// Somebody may charge to it. What was, until it is given back, keeps its place from being used again.
    open: bool,
}

/// A run that was given out.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The first frame.
    pub first: Frame,
    /// Parts of it that the platform has to zero, in ascending order.
    pub dirty: Dirty,
}

/// Which frames of a run hold old data.
#[derive(Debug, PartialEq, Eq)]
pub enum Dirty {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// These, by number.
    Some(Vec<Range<u32>>),
}

/// A frame was freed that was not in use: a defect of whoever freed it.
#[derive(Debug, PartialEq, Eq)]
pub struct NotInUse(pub Frame);

impl FrameAllocator {
    /// A book over frames 0 to `limit` (exclusive), all free and zero.
    pub fn new(limit: u32) -> FrameAllocator {
        let mut chunks = Vec::new();
        chunks.resize_with(limit.div_ceil(CHUNK) as usize, || None);
        let owners = chunks.iter().map(|_| None).collect();
        FrameAllocator {
            chunks,
            all: limit,
            limit,
            used: 0,
            base: None,
            peak: 0,
            refused: 0,
            accounts: Vec::new(),
            others: 0,
            owners,
            dirty: 0,
            lowest: 0,
        }
    }

    /// Frames in use.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Frames that there are.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Lets no more than `count` frames be in use beside those that were when this was first asked for; `None`: as many
    /// as there are. An error is how many of them are in use, where that is more; then nothing changes.
    ///
    /// No frame is given out from beyond them, so that the host's memory is bounded by them too, whatever is dirty.
    pub fn restrict(&mut self, count: Option<u32>) -> Result<(), u32> {
        let base = *self.base.get_or_insert(self.used);
        let limit = count.map_or(self.all, |count| base.saturating_add(count).min(self.all));
        if self.used > limit {
            return Err(self.used.saturating_sub(base));
        }
        self.limit = limit;
        // What was known of the chunk that the old one ends in holds no more.
        for chunk in self.chunks.iter_mut().flatten() {
            chunk.longest = CHUNK;
        }
        Ok(())
    }

    /// What an account has, of what is [restricted](Self::restrict).
    pub fn counts(&self, account: Account) -> FrameCounts {
        let base = self.base.unwrap_or(0);
        let all = self.limit.saturating_sub(base);
        let own = self.used.saturating_sub(base).saturating_sub(self.others);
        let (used, limit, peak, refused) = match self.book(account) {
            Some(book) => (book.used, book.limit, book.peak, book.refused),
            None => (own, u32::MAX, self.peak.saturating_sub(base), self.refused),
        };
        FrameCounts {
            used: used.into(),
            most: limit.min(all).into(),
            peak: peak.into(),
            free: self.room(account).into(),
            refused,
            used_by_all: self.used.saturating_sub(base).into(),
            free_for_all: self.limit.saturating_sub(self.used).into(),
        }
    }

    /// A new account, which may have as much as there is; `None` where there are too many.
    pub fn open(&mut self) -> Option<Account> {
        let new = Book { used: 0, limit: u32::MAX, peak: 0, refused: 0, open: true };
        let unused = self.accounts.iter().position(|book| !book.open && book.used == 0);
        let at = unused.unwrap_or(self.accounts.len());
        let account = Account(u16::try_from(at.checked_add(1)?).ok()?);
        match self.accounts.get_mut(at) {
            Some(book) => *book = new,
            None => self.accounts.push(new),
        }
        Some(account)
    }

    /// Lets an account but the first have no more than `count`; `None`: as much as there is. An error is how much it has,
    /// where that is more; then nothing changes.
    pub fn restrict_account(&mut self, account: Account, count: Option<u32>) -> Result<(), u32> {
        let Some(book) = self.book_mut(account) else { return Ok(()) };
        let limit = count.unwrap_or(u32::MAX);
        if book.used > limit {
            return Err(book.used);
        }
        book.limit = limit;
        Ok(())
    }

    /// An account is closed: nobody charges to it any more. What it has stays its own until it is given back.
    pub fn close(&mut self, account: Account) {
        if let Some(book) = self.book_mut(account) {
            (book.open, book.limit) = (false, u32::MAX);
        }
    }

    /// The book of an account; `None`: it is the first.
    fn book(&self, account: Account) -> Option<&Book> {
        self.accounts.get(usize::from(account.0.checked_sub(1)?))
    }

    fn book_mut(&mut self, account: Account) -> Option<&mut Book> {
        self.accounts.get_mut(usize::from(account.0.checked_sub(1)?))
    }

    /// How much an account can still have.
    fn room(&self, account: Account) -> u32 {
        let own = self.book(account).map_or(u32::MAX, |book| book.limit.saturating_sub(book.used));
        own.min(self.limit.saturating_sub(self.used))
    }

    /// There was nothing for it.
    fn refuse(&mut self, account: Account) {
        let count = match self.book_mut(account) {
            Some(book) => &mut book.refused,
            None => &mut self.refused,
        };
        *count = count.saturating_add(1);
    }

    /// So much more is used, for an account that has room for it.
    fn count(&mut self, account: Account, count: u32) {
        self.used = self.used.saturating_add(count);
        match self.book_mut(account) {
            Some(book) => {
                book.used = book.used.saturating_add(count);
                book.peak = book.peak.max(book.used);
                self.others = self.others.saturating_add(count);
            }
            None => self.peak = self.peak.max(self.used.saturating_sub(self.others)),
        }
    }

    /// So much of it is not an account's any more.
    fn discount(&mut self, account: Account, count: u32) {
        if let Some(book) = self.book_mut(account) {
            book.used = book.used.saturating_sub(count);
            self.others = self.others.saturating_sub(count);
        }
    }

    /// Makes room to write down whose the frames of a run are; whether there was memory for it.
    fn prepare_owners(&mut self, run: Range<u32>) -> bool {
        let pieces = (run.start / CHUNK) as usize..run.end.div_ceil(CHUNK) as usize;
        self.owners.get_mut(pieces).into_iter().flatten().all(|piece| {
            piece.is_some() || {
                let mut owners = Vec::new();
                let room = owners.try_reserve_exact(CHUNK as usize).is_ok();
                if room {
                    owners.resize(CHUNK as usize, 0);
                    *piece = Some(owners.into_boxed_slice());
                }
                room
            }
        })
    }

    /// Whose a frame is, where that is written down.
    fn owner(&mut self, frame: u32) -> Option<&mut u16> {
        let piece = self.owners.get_mut((frame / CHUNK) as usize)?.as_mut()?;
        piece.get_mut((frame % CHUNK) as usize)
    }

    /// Free frames that still have host memory.
    pub fn dirty(&self) -> u32 {
        self.dirty
    }

    /// Takes a run of `count` neighbours for an account; `None` where there is none, and for a count of 0.
    pub fn alloc(&mut self, account: Account, count: u32) -> Option<Run> {
        let run = self.take(account, count);
        if run.is_none() {
            self.refuse(account);
        }
        run
    }

    fn take(&mut self, account: Account, count: u32) -> Option<Run> {
        if count == 0 || count > self.room(account) {
            return None;
        }
        let first = self
            .find(count, true)
            .or_else(|| (count > 1).then(|| self.find(count, false)).flatten())?;
        let end = first.checked_add(count)?;
        if account != Account::FIRST {
            if !self.prepare_owners(first..end) {
                return None;
            }
            for frame in first..end {
                if let Some(owner) = self.owner(frame) {
                    *owner = account.0;
                }
            }
        }
        let dirty = self.take_dirty(first..end);
        self.set_used(first..end);
        self.count(account, count);
        if first == self.lowest {
            self.lowest = end;
        }
        Some(Run { first: Frame(first), dirty })
    }

    /// Counts memory that is used for an account and in no frame, as so many frames; whether there is room for it.
    pub fn charge(&mut self, account: Account, count: u32) -> bool {
        if count > self.room(account) {
            self.refuse(account);
            return false;
        }
        self.count(account, count);
        true
    }

    /// What was [charged](Self::charge) is used no more.
    pub fn uncharge(&mut self, account: Account, count: u32) {
        self.used = self.used.saturating_sub(count);
        self.discount(account, count);
    }

    /// Gives `count` frames back; they count as dirty. Where one was not in use, nothing changes.
    pub fn free(&mut self, first: Frame, count: u32) -> Result<(), NotInUse> {
        let run = self.checked_run(first, count)?;
        self.clear_used(run.clone(), true);
        if self.others > 0 {
            for frame in run.clone() {
                let owner = self.owner(frame).map_or(0, core::mem::take);
                self.discount(Account(owner), 1);
            }
        }
        self.dirty = self.dirty.saturating_add(count);
        self.give(run);
        Ok(())
    }

    /// The [blocks](BLOCK) that a run which was given out is in and that were untouched before: neither anything of them
    /// was in use, nor has the host memory there. Only such as lie below the limit.
    pub fn untouched_blocks(&self, run: Range<u32>) -> Range<u32> {
        let untouched = |block: u32| {
            let start = block.saturating_mul(BLOCK);
            let end = start.saturating_add(BLOCK);
            let mut at = start;
            while at < end {
                let (word, mask, next) = piece(at, end);
                let inside = run.start.max(at)..run.end.min(next);
                let own = if inside.is_empty() { 0 } else { piece(inside.start, inside.end).1 };
                if (self.used_word(word) & !own | self.dirty_word(word)) & mask != 0 {
                    return false;
                }
                at = next;
            }
            end <= self.limit
        };
        let blocks = run.start / BLOCK..run.end.div_ceil(BLOCK);
        let start = blocks.clone().find(|block| untouched(*block)).unwrap_or(blocks.end);
        let end = (start..blocks.end).find(|block| !untouched(*block)).unwrap_or(blocks.end);
        start.saturating_mul(BLOCK)..end.saturating_mul(BLOCK)
    }

    /// The host has put zeroed memory behind a range ahead of use: what of it is free and untouched has memory now.
    pub fn populated(&mut self, range: Range<u32>) {
        let mut more = 0u32;
        for block in range.start.div_ceil(BLOCK)..range.end.min(self.all) / BLOCK {
            let (start, end) =
                (block.saturating_mul(BLOCK), block.saturating_add(1).saturating_mul(BLOCK));
            self.each_word(start..end, |chunk, word, _| chunk.populated |= block_bit(word));
        }
        self.each_word(range.start..range.end.min(self.all), |chunk, word, mask| {
            let used = chunk.used.get(word).copied().unwrap_or(u64::MAX);
            if let (Some(dirty), Some(zero)) = (chunk.dirty.get_mut(word), chunk.zero.get_mut(word))
            {
                let new = mask & !used & !*dirty;
                *dirty |= new;
                *zero |= new;
                more = more.saturating_add(new.count_ones());
            }
        });
        self.dirty = self.dirty.saturating_add(more);
    }

    /// Takes dirty free frames, up to `most` of them, out of circulation so that the platform can
    /// give their memory back to the host; [`released`](Self::released) puts each run back.
    ///
    /// Without `split`, a block that the host has populated as a whole is taken as a whole, and left alone as long as
    /// anything of it is in use: a huge page of which a part goes back is none any more, and whoever grows slowly
    /// would lose it just before the rest is wanted.
    ///
    /// Never more than a quarter of what is free: whoever wants frames meanwhile is not to take it for the end of memory.
    pub fn take_batch_to_release(&mut self, most: u32, split: bool) -> Vec<Range<u32>> {
        let mut batch: Vec<Range<u32>> = Vec::new();
        let mut left = most.min(self.dirty).min(self.limit.saturating_sub(self.used) / 4);
        // From above, for what is lowest is given out next.
        for block in (0..self.all.div_ceil(BLOCK)).rev() {
            if left == 0 {
                break;
            }
            let start = block.saturating_mul(BLOCK);
            let end = start.saturating_add(BLOCK).min(self.all);
            let whole = self.is_populated(start);
            if whole && !split && (left < BLOCK || self.any_used(start..end)) {
                continue;
            }
            for run in self.dirty_runs(start..end).into_iter().rev() {
                let run = run.start.max(run.end.saturating_sub(left))..run.end;
                let count = run.end.saturating_sub(run.start);
                if count == 0 {
                    break;
                }
                self.take_dirty(run.clone());
                self.set_used(run.clone());
                self.each_word(run.clone(), |chunk, word, _| chunk.populated &= !block_bit(word));
                self.used = self.used.saturating_add(count);
                left = left.saturating_sub(count);
                match batch.last_mut() {
                    Some(last) if last.start == run.end => last.start = run.start,
                    _ => batch.push(run),
                }
            }
        }
        batch
    }

    /// A run of a batch is zero now, without host memory, and free.
    pub fn released(&mut self, run: Range<u32>) -> Result<(), NotInUse> {
        let count = run.end.saturating_sub(run.start);
        let run = self.checked_run(Frame(run.start), count)?;
        self.clear_used(run.clone(), false);
        self.give(run);
        Ok(())
    }

    fn give(&mut self, run: Range<u32>) {
        self.used = self.used.saturating_sub(run.end.saturating_sub(run.start));
        self.lowest = self.lowest.min(run.start);
    }

    fn checked_run(&self, first: Frame, count: u32) -> Result<Range<u32>, NotInUse> {
        let end = first.0.checked_add(count).ok_or(NotInUse(first))?;
        if count == 0 || end > self.all {
            return Err(NotInUse(first));
        }
        let mut at = first.0;
        while at < end {
            let (word, mask, next) = piece(at, end);
            let free = mask & !self.used_word(word);
            if free != 0 {
                let frame = (word as u32).saturating_mul(64).saturating_add(free.trailing_zeros());
                return Err(NotInUse(Frame(frame)));
            }
            at = next;
        }
        Ok(first.0..end)
    }

    /// The lowest run of `count` free frames. `quick` skips chunks that are known to have none
    /// inside, and with them the runs that begin in one and end in the next.
    fn find(&mut self, count: u32, quick: bool) -> Option<u32> {
        let mut start = self.lowest;
        let mut at = start;
        while at < self.limit {
            let index = (at / CHUNK) as usize;
            let chunk_end = self.limit.min((at / CHUNK).saturating_add(1) * CHUNK);
            let entered = at;
            match self.chunks.get(index)? {
                None => {
                    at = chunk_end;
                    if at.saturating_sub(start) >= count {
                        return Some(start);
                    }
                    continue;
                }
                Some(chunk) if chunk.free == 0 || (quick && chunk.longest < count) => {
                    at = chunk_end;
                    start = at;
                    continue;
                }
                Some(chunk) => {
                    while at < chunk_end {
                        let word = (at % CHUNK / 64) as usize;
                        let bit = at % 64;
                        let used = chunk.used.get(word).copied()? >> bit;
                        let width = (64 - bit).min(chunk_end.saturating_sub(at));
                        let free = used.trailing_zeros().min(width);
                        at = at.saturating_add(free);
                        if at.saturating_sub(start) >= count {
                            return Some(start);
                        }
                        if free < width {
                            let taken = (used >> free).trailing_ones().min(width - free);
                            at = at.saturating_add(taken);
                            start = at;
                        }
                    }
                }
            }
            // The whole chunk was looked through, so it has no such run inside.
            if (entered.is_multiple_of(CHUNK) || entered == self.lowest)
                && let Some(Some(chunk)) = self.chunks.get_mut(index)
            {
                chunk.longest = chunk.longest.min(count.saturating_sub(1));
            }
        }
        None
    }

    fn used_word(&self, word: usize) -> u64 {
        match self.chunks.get(word / WORDS) {
            Some(Some(chunk)) => chunk.used.get(word % WORDS).copied().unwrap_or(u64::MAX),
            Some(None) => 0,
            None => u64::MAX,
        }
    }

    fn dirty_word(&self, word: usize) -> u64 {
        match self.chunks.get(word / WORDS) {
            Some(Some(chunk)) => chunk.dirty.get(word % WORDS).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn zero_word(&self, word: usize) -> u64 {
        match self.chunks.get(word / WORDS) {
            Some(Some(chunk)) => chunk.zero.get(word % WORDS).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn set_used(&mut self, run: Range<u32>) {
        self.each_word(run, |chunk, word, mask| {
            if let Some(used) = chunk.used.get_mut(word) {
                *used |= mask;
            }
            chunk.free = chunk.free.saturating_sub(mask.count_ones());
        });
    }

    fn clear_used(&mut self, run: Range<u32>, dirty: bool) {
        self.each_word(run, |chunk, word, mask| {
            if let Some(used) = chunk.used.get_mut(word) {
                *used &= !mask;
            }
            if let Some(old) = chunk.dirty.get_mut(word)
                && dirty
            {
                *old |= mask;
            }
            chunk.free = chunk.free.saturating_add(mask.count_ones());
            chunk.longest = CHUNK;
        });
    }

    /// Clears the dirty bits of a run and says which of its frames are not zero.
    fn take_dirty(&mut self, run: Range<u32>) -> Dirty {
        let mut found: Vec<Range<u32>> = Vec::new();
        let mut only: Option<Range<u32>> = None;
        let mut at = run.start;
        let mut total = 0u32;
        while at < run.end {
            let (word, mask, next) = piece(at, run.end);
            let mut bits = self.dirty_word(word) & mask;
            total = total.saturating_add(bits.count_ones());
            bits &= !self.zero_word(word);
            while bits != 0 {
                let low = bits.trailing_zeros();
                let len = (bits >> low).trailing_ones();
                let start = (word as u32).saturating_mul(64).saturating_add(low);
                let end = start.saturating_add(len);
                bits &= match low.saturating_add(len) {
                    64.. => 0,
                    n => u64::MAX << n,
                };
                match &mut only {
                    Some(last) if last.end == start => last.end = end,
                    Some(last) => {
                        found.push(last.clone());
                        *last = start..end;
                    }
                    None => only = Some(start..end),
                }
            }
            at = next;
        }
        if total > 0 {
            self.each_word(run.clone(), |chunk, word, mask| {
                if let Some(dirty) = chunk.dirty.get_mut(word) {
                    *dirty &= !mask;
                }
                if let Some(zero) = chunk.zero.get_mut(word) {
                    *zero &= !mask;
                }
            });
            self.dirty = self.dirty.saturating_sub(total);
        }
        let Some(last) = only else {
            return Dirty::Nothing;
        };
        if last == run {
            return Dirty::Everything;
        }
        found.push(last);
        Dirty::Some(found)
    }

    /// Whether the block of a frame is populated as a whole.
    fn is_populated(&self, frame: u32) -> bool {
        let chunk = self.chunks.get((frame / CHUNK) as usize);
        let bit = block_bit((frame % CHUNK / 64) as usize);
        chunk.and_then(Option::as_ref).is_some_and(|chunk| chunk.populated & bit != 0)
    }

    /// Whether a frame of a range is in use.
    fn any_used(&self, range: Range<u32>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let (word, mask, next) = piece(at, range.end);
            if self.used_word(word) & mask != 0 {
                return true;
            }
            at = next;
        }
        false
    }

    /// The dirty runs of a range, in ascending order.
    fn dirty_runs(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (word, mask, next) = piece(at, range.end);
            let bits = self.dirty_word(word) & mask;
            if bits == 0 {
                at = next;
                continue;
            }
            let start = (word as u32).saturating_mul(64).saturating_add(bits.trailing_zeros());
            at = self.end_of_dirty(start, range.end.saturating_sub(start));
            runs.push(start..at);
        }
        runs
    }

    fn end_of_dirty(&self, start: u32, most: u32) -> u32 {
        let end = self.all.min(start.saturating_add(most));
        let mut at = start;
        while at < end {
            let (word, mask, next) = piece(at, end);
            let clean = mask & !self.dirty_word(word);
            if clean != 0 {
                return (word as u32).saturating_mul(64).saturating_add(clean.trailing_zeros());
            }
            at = next;
        }
        end
    }

    fn each_word(&mut self, run: Range<u32>, mut f: impl FnMut(&mut Chunk, usize, u64)) {
        let mut at = run.start;
        while at < run.end {
            let (word, mask, next) = piece(at, run.end);
            if let Some(slot) = self.chunks.get_mut(word / WORDS) {
                let limit = self.all;
                let first = (word / WORDS) as u32 * CHUNK;
                let chunk = slot.get_or_insert_with(|| {
                    let frames = limit.saturating_sub(first).min(CHUNK);
                    Box::new(Chunk {
                        used: [0; WORDS],
                        dirty: [0; WORDS],
                        zero: [0; WORDS],
                        populated: 0,
                        free: frames,
                        longest: frames,
                    })
                });
                f(chunk, word % WORDS, mask);
            }
            at = next;
        }
    }
}

/// The bit of the block, in its chunk, that a word of the chunk's bitmaps is of.
fn block_bit(word: usize) -> u64 {
    1 << (word % WORDS / (BLOCK / 64) as usize)
}

/// The word that `at` is in, the bits of `at..end` in it, and the frame that the next word begins with.
fn piece(at: u32, end: u32) -> (usize, u64, u32) {
    let bit = at % 64;
    let width = (64 - bit).min(end.saturating_sub(at));
    let mask = if width == 64 { u64::MAX } else { ((1u64 << width) - 1) << bit };
    ((at / 64) as usize, mask, at.saturating_add(width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn first(a: &mut FrameAllocator, n: u32) -> u32 {
        a.alloc(Account::FIRST, n).unwrap().first.0
    }

    /// Frames in use, the most there can be, and the most there were.
    fn counts(a: &FrameAllocator) -> [u64; 3] {
        let counts = a.counts(Account::FIRST);
        [counts.used, counts.most, counts.peak]
    }

    #[test]
    fn each_account_has_what_it_took_and_a_limit_of_its_own() {
        let mut a = FrameAllocator::new(3 * CHUNK);
        assert_eq!(first(&mut a, 10), 0);
        assert_eq!(a.restrict(Some(1000)), Ok(()));
        let (one, two) = (a.open().unwrap(), a.open().unwrap());
        assert_eq!((one, two), (Account(1), Account(2)));
        assert_eq!(a.restrict_account(one, Some(100)), Ok(()));
        assert!(a.alloc(one, 60).is_some() && a.charge(one, 30) && a.alloc(two, 400).is_some());
        assert_eq!(first(&mut a, 200), 470);
        // The limit of one of them, of which nobody else hears.
        assert!(a.alloc(one, 11).is_none() && !a.charge(one, 11));
        let counts = |a: &FrameAllocator, account| {
            let c = a.counts(account);
            [c.used, c.most, c.peak, c.free, c.refused, c.used_by_all, c.free_for_all]
        };
        assert_eq!(counts(&a, one), [90, 100, 90, 10, 2, 690, 310]);
        assert_eq!(counts(&a, two), [400, 1000, 400, 310, 0, 690, 310]);
        assert_eq!(counts(&a, Account::FIRST), [200, 1000, 200, 310, 0, 690, 310]);
        assert_eq!(a.restrict_account(one, Some(89)), Err(90));
        // That of all.
        assert!(a.alloc(two, 311).is_none() && a.alloc(two, 310).is_some());
        assert!(a.alloc(one, 1).is_none() && a.alloc(Account::FIRST, 1).is_none());
        // Whoever gives a frame back, it is whose it was.
        a.free(Frame(10), 460).unwrap();
        assert_eq!(counts(&a, one), [30, 100, 90, 70, 3, 540, 460]);
        assert_eq!(counts(&a, two), [310, 1000, 710, 460, 1, 540, 460]);
        // An account that has something left is not another's, although it is closed.
        a.close(one);
        assert_eq!(a.open(), Some(Account(3)));
        a.uncharge(one, 30);
        assert_eq!(a.open(), Some(one));
        assert_eq!(counts(&a, one)[..5], [0, 1000, 0, 490, 0]);
        // A frame that one had is the first's when that has taken it.
        assert_eq!(first(&mut a, 5), 10);
        a.free(Frame(10), 5).unwrap();
        a.free(Frame(470), 200).unwrap();
        assert_eq!(counts(&a, Account::FIRST)[..2], [0, 1000]);
        // Frames of several in one run.
        a.free(Frame(670), 310).unwrap();
        assert_eq!(counts(&a, two), [0, 1000, 710, 1000, 1, 0, 1000]);
    }

    #[test]
    fn what_the_host_has_populated_is_zero_and_goes_back() {
        let mut a = FrameAllocator::new(4 * 512 + 100);
        let run = |r: Run| r.first.0..r.first.0 + 1;
        let one = run(a.alloc(Account::FIRST, 1).unwrap());
        assert_eq!(a.untouched_blocks(one.clone()), 0..512);
        a.populated(0..512);
        assert_eq!(a.dirty(), 511);
        // Nothing of it has to be zeroed, and nothing is populated twice.
        let two = a.alloc(Account::FIRST, 1).unwrap();
        assert_eq!((two.first.0, &two.dirty), (1, &Dirty::Nothing));
        assert!(a.untouched_blocks(run(two)).is_empty());
        assert_eq!(a.dirty(), 510);
        // What was used has to be, as ever.
        a.free(Frame(1), 1).unwrap();
        assert_eq!(
            a.alloc(Account::FIRST, 3).unwrap().dirty,
            Dirty::Some(core::iter::once(1..2).collect())
        );
        // Over a boundary: the first block is touched. Behind the last one there is no whole block.
        assert_eq!(first(&mut a, 600), 4);
        assert_eq!(a.untouched_blocks(4..604), 512..1024);
        assert_eq!(first(&mut a, 1500), 604);
        assert_eq!(a.untouched_blocks(604..2104), 1024..2048);
        // It all goes back.
        for (start, count) in [(0, 4), (4, 600), (604, 1500)] {
            a.free(Frame(start), count).unwrap();
        }
        a.populated(0..2148);
        assert_eq!(a.dirty(), 2148);
        for _ in 0..40 {
            for run in a.take_batch_to_release(u32::MAX, true) {
                a.released(run).unwrap();
            }
        }
        assert!(a.dirty() < 8);
    }

    #[test]
    fn a_populated_block_goes_back_as_a_whole() {
        let mut a = FrameAllocator::new(4 * CHUNK);
        assert_eq!(first(&mut a, 3 * BLOCK), 0);
        a.populated(0..3 * BLOCK);
        a.free(Frame(0), 3 * BLOCK).unwrap();
        assert_eq!(first(&mut a, 1), 0);
        // The first is in use. Of the others, no less than all.
        for (most, first) in [(2 * BLOCK - 1, 2 * BLOCK), (u32::MAX, BLOCK)] {
            let back = first..first + BLOCK;
            assert_eq!(a.take_batch_to_release(most, false), core::slice::from_ref(&back));
            a.released(back).unwrap();
        }
        assert!(a.take_batch_to_release(u32::MAX, false).is_empty());
        // Where it may be split, what is not in use goes; and then it is a block no more.
        assert_eq!(a.take_batch_to_release(10, true), vec![BLOCK - 10..BLOCK]);
        assert_eq!(a.take_batch_to_release(10, false), vec![BLOCK - 20..BLOCK - 10]);
        // Neighbours go as one run.
        let mut a = FrameAllocator::new(4 * CHUNK);
        assert_eq!(first(&mut a, CHUNK + BLOCK), 0);
        a.populated(0..CHUNK + BLOCK);
        a.free(Frame(0), CHUNK + BLOCK).unwrap();
        assert_eq!(a.take_batch_to_release(CHUNK, false), vec![BLOCK..CHUNK + BLOCK]);
    }

    #[test]
    fn a_limit_that_moves_is_kept() {
        let mut a = FrameAllocator::new(3 * CHUNK);
        assert_eq!(first(&mut a, 10), 0);
        assert_eq!(a.restrict(Some(100)), Ok(()));
        assert_eq!(counts(&a), [0, 100, 0]);
        assert_eq!(first(&mut a, 60), 10);
        assert!(a.alloc(Account::FIRST, 41).is_none());
        assert_eq!(a.restrict(Some(50)), Err(60));
        assert_eq!(counts(&a), [60, 100, 60]);
        // More, in the same chunk and in others, one by one and in runs.
        for _ in 0..40 {
            assert!(a.alloc(Account::FIRST, 1).is_some());
        }
        assert!(a.alloc(Account::FIRST, 1).is_none());
        assert_eq!(a.restrict(Some(2 * CHUNK)), Ok(()));
        assert_eq!(first(&mut a, 1), 110);
        assert_eq!(first(&mut a, CHUNK), 111);
        // Less, while what is in use lies beyond: it can be freed, and nothing there is given again.
        a.free(Frame(10), 101).unwrap();
        assert_eq!(a.restrict(Some(CHUNK)), Ok(()));
        a.free(Frame(111), CHUNK).unwrap();
        assert_eq!(counts(&a), [0, CHUNK.into(), u64::from(CHUNK) + 101]);
        assert_eq!(first(&mut a, CHUNK), 10);
        assert!(a.alloc(Account::FIRST, 1).is_none());
        assert_eq!(a.restrict(None), Ok(()));
        assert_eq!(counts(&a)[1], u64::from(3 * CHUNK - 10));
    }

    #[test]
    fn neighbours_come_in_order_and_memory_ends() {
        let mut a = FrameAllocator::new(100);
        assert_eq!(first(&mut a, 1), 0);
        assert_eq!(first(&mut a, 70), 1);
        assert_eq!(first(&mut a, 29), 71);
        assert_eq!(a.used(), 100);
        assert!(a.alloc(Account::FIRST, 1).is_none());
        assert!(FrameAllocator::new(0).alloc(Account::FIRST, 1).is_none());
        assert!(FrameAllocator::new(10).alloc(Account::FIRST, 0).is_none());
        assert!(FrameAllocator::new(10).alloc(Account::FIRST, 11).is_none());
    }

    #[test]
    fn a_freed_frame_is_dirty_until_given_out_or_released() {
        let mut a = FrameAllocator::new(1000);
        assert_eq!(a.alloc(Account::FIRST, 10).unwrap().dirty, Dirty::Nothing);
        a.free(Frame(2), 3).unwrap();
        a.free(Frame(9), 1).unwrap();
        assert_eq!((a.used(), a.dirty()), (6, 4));
        let run = a.alloc(Account::FIRST, 2).unwrap();
        assert_eq!((run.first, run.dirty), (Frame(2), Dirty::Everything));
        let run = a.alloc(Account::FIRST, 3).unwrap();
        assert_eq!(run.first, Frame(9));
        assert!(matches!(&run.dirty, Dirty::Some(d) if d.len() == 1 && d[0] == (9..10)));
        assert_eq!(a.take_batch_to_release(100, false), vec![4..5]);
        assert_eq!(a.dirty(), 0);
        assert_eq!(first(&mut a, 1), 12, "a frame under release is not given out");
        a.released(4..5).unwrap();
        let run = a.alloc(Account::FIRST, 1).unwrap();
        assert_eq!((run.first, run.dirty), (Frame(4), Dirty::Nothing));
    }

    #[test]
    fn runs_cross_words_and_chunks() {
        let mut a = FrameAllocator::new(3 * CHUNK + 7);
        assert_eq!(first(&mut a, CHUNK - 1), 0);
        assert_eq!(first(&mut a, CHUNK + 5), CHUNK);
        assert_eq!(first(&mut a, CHUNK + 2), 2 * CHUNK + 5);
        assert_eq!(first(&mut a, 1), CHUNK - 1);
        assert!(a.alloc(Account::FIRST, 1).is_none());
        a.free(Frame(CHUNK - 3), 6).unwrap();
        a.free(Frame(3 * CHUNK + 6), 1).unwrap();
        // Too long for what either chunk has inside, so found in the second pass.
        assert_eq!(first(&mut a, 6), CHUNK - 3);
        assert_eq!(first(&mut a, 1), 3 * CHUNK + 6);
    }

    #[test]
    fn batches_are_bounded_and_take_runs() {
        let mut a = FrameAllocator::new(4 * CHUNK);
        assert_eq!(first(&mut a, 1000), 0);
        a.free(Frame(0), 500).unwrap();
        a.free(Frame(600), 100).unwrap();
        assert_eq!(a.take_batch_to_release(400, false), vec![600..700, 200..500]);
        assert_eq!(a.take_batch_to_release(400, false), vec![0..200]);
        assert!(a.take_batch_to_release(400, false).is_empty());
        let mut a = FrameAllocator::new(1000);
        assert_eq!(first(&mut a, 1000), 0);
        a.free(Frame(0), 40).unwrap();
        assert_eq!(a.take_batch_to_release(400, false), vec![30..40], "most of it stays to be had");
    }

    #[test]
    fn refusals_are_counted() {
        let mut a = FrameAllocator::new(10);
        assert!(a.charge(Account::FIRST, 4) && a.alloc(Account::FIRST, 6).is_some());
        assert_eq!(a.counts(Account::FIRST).refused, 0);
        assert!(!a.charge(Account::FIRST, 1) && a.alloc(Account::FIRST, 1).is_none());
        assert_eq!(a.counts(Account::FIRST).refused, 2);
    }

    #[test]
    fn what_is_not_in_use_cannot_be_freed() {
        let mut a = FrameAllocator::new(200);
        assert_eq!(a.free(Frame(3), 1), Err(NotInUse(Frame(3))));
        assert_eq!(first(&mut a, 100), 0);
        assert_eq!(a.free(Frame(98), 4), Err(NotInUse(Frame(100))));
        assert_eq!(a.free(Frame(0), 0), Err(NotInUse(Frame(0))));
        assert!(a.free(Frame(u32::MAX), 2).is_err());
        assert!(a.free(Frame(150), 100).is_err());
        assert_eq!(a.used(), 100);
        a.free(Frame(0), 100).unwrap();
        assert!(a.free(Frame(0), 1).is_err());
    }

    #[test]
    fn it_agrees_with_a_simple_book() {
        let mut a = FrameAllocator::new(700);
        let mut book = vec![(false, false); 700]; // used, dirty
        let mut held: Vec<(u32, u32)> = Vec::new();
        let mut seed = 12345u32;
        let mut next = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % n
        };
        for _ in 0..20_000 {
            if next(2) == 0 || held.is_empty() {
                let n = 1 + next(20);
                let expected =
                    book.windows(n as usize).position(|w| w.iter().all(|(used, _)| !used));
                let got = a.alloc(Account::FIRST, n);
                assert_eq!(got.as_ref().map(|r| r.first.0 as usize), expected);
                if let Some(run) = got {
                    let f = run.first.0;
                    let dirty: Vec<u32> = (f..f + n).filter(|i| book[*i as usize].1).collect();
                    let said: Vec<u32> = match run.dirty {
                        Dirty::Nothing => vec![],
                        Dirty::Everything => (f..f + n).collect(),
                        Dirty::Some(runs) => runs.into_iter().flatten().collect(),
                    };
                    assert_eq!(dirty, said);
                    (f..f + n).for_each(|i| book[i as usize] = (true, false));
                    held.push((f, n));
                }
            } else if next(10) == 0 {
                for run in a.take_batch_to_release(50, false) {
                    run.clone().for_each(|i| {
                        assert_eq!(book[i as usize], (false, true));
                        book[i as usize].1 = false;
                    });
                    a.released(run).unwrap();
                }
            } else {
                let (f, n) = held.swap_remove(next(held.len() as u32) as usize);
                a.free(Frame(f), n).unwrap();
                (f..f + n).for_each(|i| book[i as usize] = (false, true));
            }
            let used = book.iter().filter(|b| b.0).count();
            let dirty = book.iter().filter(|b| b.1).count();
            assert_eq!((a.used() as usize, a.dirty() as usize), (used, dirty));
        }
    }
}
