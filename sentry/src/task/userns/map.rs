//! A map of ids, and what is written to /proc/PID/uid_map and its like.

use alloc::vec::Vec;

use crate::errno::Errno;

/// Most extents of a map (UID_GID_MAP_MAX_EXTENTS).
const MAX_EXTENTS: usize = 340;
/// As many are shown in the order in which they came (UID_GID_MAP_MAX_BASE_EXTENTS).
const MAX_BASE_EXTENTS: usize = 5;

/// Ids in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The first of them in the namespace.
    pub first: u32,
    /// The first of them outside: as written, in the parent; in a map, in the initial namespace.
    pub lower: u32,
    /// How many; neither end wraps.
    pub count: u32,
}

/// Where `id` lies in a row of `count` from `first`.
fn offset(id: u32, first: u32, count: u32) -> Option<u32> {
    id.checked_sub(first).filter(|n| *n < count)
}

fn overlap(a: u32, b: u32, a_count: u32, b_count: u32) -> bool {
    offset(a, b, b_count).is_some() || offset(b, a, a_count).is_some()
}

impl Extent {
    /// Extents as text, one a line: first, lower, count. `EINVAL` where it is anything else, there are none or too
    /// many, or some overlap.
    pub fn parse(text: &[u8]) -> Result<Vec<Extent>, Errno> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut rest = Some(text);
        while let Some(now) = rest {
            let end = now.iter().position(|b| *b == b'\n');
            let line = now.get(..end.unwrap_or(now.len())).unwrap_or(now);
            rest = end
                .and_then(|end| now.get(end.saturating_add(1)..))
                .filter(|more| !more.is_empty());
            let extent = Self::line(line).ok_or(Errno::EINVAL)?;
            let clash = |e: &Extent| {
                overlap(e.first, extent.first, e.count, extent.count)
                    || overlap(e.lower, extent.lower, e.count, extent.count)
            };
            if extents.iter().any(clash)
                || extents.len().saturating_add(1) == MAX_EXTENTS && rest.is_some()
            {
                return Err(Errno::EINVAL);
            }
            extents.push(extent);
        }
        Ok(extents)
    }

    fn line(line: &[u8]) -> Option<Extent> {
        let mut words = [0; 3];
        let mut rest = line;
        for (n, word) in words.iter_mut().enumerate() {
            rest = rest.trim_ascii_start();
            let digits = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at_checked(digits)?;
            // Only the last one may end with the line.
            if !after.first().map_or(n == 2, u8::is_ascii_whitespace) {
                return None;
            }
            // As on Linux: no digits are 0, and only 32 bits count.
            *word = number.iter().fold(0u64, |sum, b| {
                sum.wrapping_mul(10).wrapping_add(u64::from(b.wrapping_sub(b'0')))
            }) as u32;
            rest = after;
        }
        let [first, lower, count] = words;
        let whole = |first: u32| first != u32::MAX && first.wrapping_add(count) > first;
        (rest.trim_ascii().is_empty() && whole(first) && whole(lower)).then_some(Extent {
            first,
            lower,
            count,
        })
    }
}

/// A map, set once.
pub struct IdMap(Vec<Extent>);

impl IdMap {
    /// One that maps nothing.
    pub(super) const EMPTY: &'static IdMap = &IdMap(Vec::new());

    /// One of extents whose lower ids are the initial namespace's.
    pub(super) fn new(mut extents: Vec<Extent>) -> IdMap {
        if extents.len() > MAX_BASE_EXTENTS {
            extents.sort_unstable_by_key(|e| e.first);
        }
        IdMap(extents)
    }

    /// Its extents, as they are shown.
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// The initial namespace's id for one here.
    pub(super) fn down(&self, id: u32) -> Option<u32> {
        self.down_range(id, 1)
    }

    /// The first of as many of the initial namespace's ids in a row, for a row of `count` here.
    pub(super) fn down_range(&self, first: u32, count: u32) -> Option<u32> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        self.0.iter().find_map(|e| {
            offset(last, e.first, e.count)?;
            e.lower.checked_add(offset(first, e.first, e.count)?)
        })
    }

    /// The id here for one of the initial namespace.
    pub(super) fn up(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|e| e.first.checked_add(offset(id, e.lower, e.count)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn parse(text: &str) -> Result<Vec<Extent>, Errno> {
        Extent::parse(text.as_bytes())
    }

    #[test]
    fn lines_of_three_numbers_are_extents() {
        let one = Extent { first: 0, lower: 1000, count: 1 };
        for text in ["0 1000 1", "0 1000 1\n", "  0\t1000 1  \n"] {
            assert_eq!(parse(text), Ok(Vec::from([one])), "{text:?}");
        }
        assert_eq!(parse("0 1000 1\n1 100000 65536\n").map(|m| m.len()), Ok(2));
        assert_eq!(parse("0 0 4294967295").map(|m| m.len()), Ok(1));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "\n",
            "0",
            "0 0",
            "0 0 0",
            "0 0 1 1",
            "x 0 1",
            "0 -1 1",
            "0 0 1x",
            "4294967295 0 1",
            "0 4294967295 1",
            "1 0 4294967295",
            "0 0 2\n1 5 1",
            "0 0 2\n5 1 1",
            "0 0 1\n\n1 1 1",
        ] {
            assert_eq!(parse(text), Err(Errno::EINVAL), "{text:?}");
        }
    }

    #[test]
    fn three_hundred_and_forty_lines_are_the_most() {
        let lines = |n: u32| (0..n).map(|i| format!("{i} {i} 1\n")).collect::<String>();
        assert_eq!(parse(&lines(340)).map(|m| m.len()), Ok(340));
        assert_eq!(parse(&lines(341)), Err(Errno::EINVAL));
    }
}
