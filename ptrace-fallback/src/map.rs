//! What an address space has mapped, as intervals: copies look here, and the host's cap on mappings
//! is kept from here.
//!
//! Neighbours that continue each other merge, as the host's kernel merges theirs.

use std::collections::BTreeMap;
use std::ops::Range;

use sentry::platform::{Backing, Frame, PAGE_SIZE, Prot};

/// Page numbers to pieces that do not overlap.
#[derive(Default, Debug)]
pub(crate) struct Map(BTreeMap<u64, Piece>);

/// A stretch of pages that is mapped alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Its length.
    pub pages: u64,
    /// What its first page is.
    pub backing: Backing,
    /// What the application may do with it.
    pub prot: Prot,
}

impl Piece {
    /// Without its first `pages`.
    fn after(self, pages: u64) -> Piece {
        Piece {
            pages: self.pages.saturating_sub(pages),
            backing: backing_after(self.backing, pages),
            prot: self.prot,
        }
    }

    fn continued_by(&self, next: &Piece) -> bool {
        self.prot == next.prot && backing_after(self.backing, self.pages) == next.backing
    }
}

/// What is `pages` further on.
pub(crate) fn backing_after(backing: Backing, pages: u64) -> Backing {
    match backing {
        Backing::Frames(first) => {
            Backing::Frames(Frame(first.0.saturating_add(pages.min(u64::from(u32::MAX)) as u32)))
        }
        Backing::File(file, page) => Backing::File(file, page.saturating_add(pages)),
    }
}

impl Map {
    /// Pieces.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The piece that `page` is in, shortened to begin with it.
    pub(crate) fn find(&self, page: u64) -> Option<Piece> {
        let (start, piece) = self.0.range(..=page).next_back()?;
        let skip = page.saturating_sub(*start);
        (skip < piece.pages).then(|| piece.after(skip))
    }

    /// Maps a piece at `page`, over whatever is there.
    pub(crate) fn insert(&mut self, page: u64, piece: Piece) {
        self.remove(page..page.saturating_add(piece.pages));
        self.0.insert(page, piece);
        self.join(page);
        self.join(page.saturating_add(piece.pages));
    }

    /// Unmaps a range; whether anything was there.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> bool {
        self.split(range.start);
        self.split(range.end);
        let mut any = false;
        while let Some((start, _)) = self.0.range(range.clone()).next() {
            let start = *start;
            self.0.remove(&start);
            any = true;
        }
        any
    }

    /// Changes the protection of what is mapped in a range, and adds the stretches, without holes
    /// between their pages, in which it changed to `changed`.
    pub(crate) fn protect(&mut self, range: Range<u64>, prot: Prot, changed: &mut Vec<Range<u64>>) {
        self.split(range.start);
        self.split(range.end);
        for (start, piece) in self.0.range_mut(range.clone()) {
            if piece.prot == prot {
                continue;
            }
            piece.prot = prot;
            let end = start.saturating_add(piece.pages);
            match changed.last_mut() {
                Some(last) if last.end == *start => last.end = end,
                _ => changed.push(*start..end),
            }
        }
        let starts: Vec<u64> = self.0.range(range.clone()).map(|(start, _)| *start).collect();
        for start in starts {
            self.join(start);
        }
        self.join(range.end);
    }

    /// Makes a piece begin at `page`, if one goes through it.
    fn split(&mut self, page: u64) {
        if let Some((start, piece)) = self.0.range_mut(..page).next_back() {
            let keep = page.saturating_sub(*start);
            if keep < piece.pages {
                let rest = piece.after(keep);
                piece.pages = keep;
                self.0.insert(page, rest);
            }
        }
    }

    /// Joins the piece that begins at `page` to the one before, if it continues that.
    fn join(&mut self, page: u64) {
        let Some(piece) = self.0.get(&page).copied() else {
            return;
        };
        if let Some((start, before)) = self.0.range_mut(..page).next_back()
            && start.saturating_add(before.pages) == page
            && before.continued_by(&piece)
        {
            before.pages = before.pages.saturating_add(piece.pages);
            self.0.remove(&page);
        }
    }
}

/// The page that an address is in.
pub(crate) fn page_of(addr: u64) -> u64 {
    addr / PAGE_SIZE as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use sentry::platform::FileId;

    fn frames(first: u32, pages: u64, prot: Prot) -> Piece {
        Piece { pages, backing: Backing::Frames(Frame(first)), prot }
    }

    #[test]
    fn neighbours_that_continue_each_other_are_one_piece() {
        let mut map = Map::default();
        map.insert(10, frames(100, 2, Prot::READ));
        map.insert(14, frames(104, 2, Prot::READ));
        assert_eq!(map.len(), 2);
        map.insert(12, frames(102, 2, Prot::READ));
        assert_eq!(map.len(), 1);
        assert_eq!(map.find(13), Some(frames(103, 3, Prot::READ)));
        assert_eq!(map.find(16), None);
        assert_eq!(map.find(9), None);
        map.insert(16, frames(106, 1, Prot::WRITE));
        map.insert(9, frames(98, 1, Prot::READ));
        assert_eq!(map.len(), 3);
        let file = Piece { pages: 3, backing: Backing::File(FileId(1), 7), prot: Prot::READ };
        map.insert(20, file);
        assert_eq!(map.find(22).unwrap().backing, Backing::File(FileId(1), 9));
    }

    #[test]
    fn a_hole_splits_and_protection_joins_again() {
        let mut map = Map::default();
        map.insert(0, frames(0, 10, Prot::READ));
        assert!(map.remove(3..5));
        assert!(!map.remove(3..5));
        assert_eq!(map.find(2), Some(frames(2, 1, Prot::READ)));
        assert_eq!(map.find(3), None);
        assert_eq!(map.find(5), Some(frames(5, 5, Prot::READ)));
        let mut changed = Vec::new();
        map.protect(1..7, Prot::WRITE, &mut changed);
        assert_eq!(changed, [1..3, 5..7]);
        assert_eq!(map.len(), 4);
        changed.clear();
        map.protect(0..100, Prot::READ, &mut changed);
        assert_eq!(changed, [1..3, 5..7]);
        assert_eq!(map.len(), 2);
        changed.clear();
        map.protect(0..100, Prot::READ, &mut changed);
        assert!(changed.is_empty());
    }

    #[test]
    fn it_agrees_with_a_page_by_page_book() {
        let mut map = Map::default();
        let mut book: Vec<Option<(u32, Prot)>> = vec![None; 64];
        let mut seed = 99u32;
        let mut next = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % n
        };
        for _ in 0..20_000 {
            let (start, pages) = (next(56), 1 + next(8));
            let range = u64::from(start)..u64::from(start + pages);
            let prot = Prot::from_bits_truncate(next(4) as u8);
            match next(3) {
                0 => {
                    let first = next(3) * 100 + start;
                    map.insert(range.start, frames(first, pages.into(), prot));
                    for i in 0..pages {
                        book[(start + i) as usize] = Some((first + i, prot));
                    }
                }
                1 => {
                    map.remove(range.clone());
                    book[start as usize..(start + pages) as usize].fill(None);
                }
                _ => {
                    map.protect(range.clone(), prot, &mut Vec::new());
                    let pages = &mut book[start as usize..(start + pages) as usize];
                    for page in pages.iter_mut().flatten() {
                        page.1 = prot;
                    }
                }
            }
            let mut pieces = 0;
            for (i, page) in book.iter().enumerate() {
                let found = map.find(i as u64).map(|p| (p.backing, p.prot));
                let said = page.map(|(f, prot)| (Backing::Frames(Frame(f)), prot));
                assert_eq!(found, said);
                let joined = i > 0
                    && page.is_some_and(|(f, prot)| {
                        book[i - 1].is_some_and(|(g, q)| g + 1 == f && prot == q)
                    });
                pieces += usize::from(page.is_some() && !joined);
            }
            assert_eq!(map.len(), pieces);
        }
    }
}
