//! Names of the image's functions, for its panic reports.

use std::fmt::Write;

use guest::contract::IMAGE_BASE;

/// What the build script has written: a function a line, by address.
static TABLE: &str = include_str!(env!("RINGWALL_IMAGE_SYMBOLS"));

/// Where a line of a report begins that lists addresses of code.
const BACKTRACE: &str = "backtrace:";

/// The line of a report with names in place of numbers, each on a line of its own; other lines as they are.
pub fn symbolized(line: &str) -> String {
    named(line, TABLE)
}

fn named(line: &str, table: &str) -> String {
    let Some(addresses) = line.strip_prefix(BACKTRACE) else { return line.to_owned() };
    let functions = Functions::parse(table);
    let mut text = BACKTRACE.to_owned();
    for word in addresses.split_whitespace() {
        let address = word.strip_prefix("0x").and_then(|n| u64::from_str_radix(n, 16).ok());
        // Writing to a string does not fail.
        let _infallible = match address.and_then(|at| functions.find(at)) {
            Some((name, offset)) => write!(text, "\n  {word} {name}+{offset:#x}"),
            None => write!(text, "\n  {word}"),
        };
    }
    text
}

/// The image's functions: where each begins, how long it is, and its name, in the order of the first.
pub struct Functions<'a>(Vec<(u64, u64, &'a str)>);

impl Functions<'static> {
    /// Those of the image that is built into this binary.
    pub fn embedded() -> Self {
        Functions::parse(TABLE)
    }
}

impl<'a> Functions<'a> {
    fn parse(table: &'a str) -> Self {
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let parse = |line: &'a str| {
            let (start, rest) = line.split_once(' ')?;
            let (size, name) = rest.split_once(' ')?;
            Some((hex(start)?, hex(size)?, name))
        };
        let mut all: Vec<_> = table.lines().filter_map(parse).collect();
        all.sort_unstable_by_key(|(start, ..)| *start);
        Functions(all)
    }

    /// The function that an address is in, or behind whose call it is, and how far.
    pub fn find(&self, address: u64) -> Option<(&'a str, u64)> {
        let low = address.checked_sub(IMAGE_BASE).map(|_| u64::from(address as u32))?;
        // A call that never returns may be a function's last instruction, so that the next one begins there.
        let of = |at: u64| {
            let before = self.0.partition_point(|(start, ..)| *start <= at);
            let (start, size, name) = self.0.get(before.checked_sub(1)?)?;
            let offset = low.checked_sub(*start)?;
            (offset <= (*size).max(1)).then_some((*name, offset))
        };
        of(low.checked_sub(1)?).or_else(|| of(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_names_of_their_functions() {
        let table = "80001000 20 a::b\n80001020 8 c\n";
        let line = "backtrace: 0xffffffff80001004 0xffffffff80001028 0x80001004 junk";
        assert_eq!(
            named(line, table),
            "backtrace:\n  0xffffffff80001004 a::b+0x4\n  0xffffffff80001028 c+0x8\n  \
             0x80001004\n  junk"
        );
        assert_eq!(named("rip 0xffffffff80001004", table), "rip 0xffffffff80001004");
        for line in TABLE.lines() {
            assert_eq!(
                line.split(' ').take(2).filter(|n| u32::from_str_radix(n, 16).is_ok()).count(),
                2
            );
        }
    }
}
