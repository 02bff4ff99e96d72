//! The census of unsafe code: how many lines and unsafe blocks each crate has, and that none is where none may be.
//!
//! Clippy sees to it that each block says why it is sound, and `forbid(unsafe_code)` keeps some crates free; this counts, and
//! checks that the attribute is still there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A crate, and whether it may have unsafe code.
const CRATES: [(&str, bool); 7] = [
    ("sentry", false),
    ("ring0", true),
    ("guest", true),
    ("vmm", true),
    ("gofer", false),
    ("ptrace-fallback", true),
    ("tests", false),
];

/// What a crate consists of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Lines that are neither blank nor comment.
    pub lines: usize,
    /// `unsafe` blocks, functions, implementations and traits.
    pub unsafe_blocks: usize,
}

/// Counts every crate; returns a table and what is wrong.
pub fn take() -> io::Result<(String, Vec<String>)> {
    let mut table = format!("{:<18}{:>8}{:>8}\n", "crate", "lines", "unsafe");
    let mut findings = Vec::new();
    for (name, may) in CRATES {
        let mut count = Count::default();
        let folder = crate::workspace().join(name);
        let mut files = Vec::new();
        collect(&folder, &mut files)?;
        for file in files {
            let found = count_text(&fs::read_to_string(&file)?);
            if found.unsafe_blocks > 0 && !may {
                findings.push(format!(
                    "{}: {} uses of unsafe",
                    file.display(),
                    found.unsafe_blocks
                ));
            }
            count.lines += found.lines;
            count.unsafe_blocks += found.unsafe_blocks;
        }
        table.push_str(&format!("{name:<18}{:>8}{:>8}\n", count.lines, count.unsafe_blocks));
    }
    for name in ["sentry", "gofer"] {
        let root = crate::workspace().join(name).join("src/lib.rs");
        if !fs::read_to_string(&root)?.contains("#![forbid(unsafe_code)]") {
            findings.push(format!("{} does not forbid unsafe code", root.display()));
        }
    }
    Ok((table, findings))
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

fn count_text(text: &str) -> Count {
    let mut count = Count::default();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default().trim();
        if code.is_empty() {
            continue;
        }
        count.lines += 1;
        // Attributes (`unsafe(no_mangle)`, `unsafe_code`) and strings that speak of it are not uses.
        let words: Vec<&str> = code.split_whitespace().collect();
        for (index, word) in words.iter().enumerate() {
            let begins = word.trim_start_matches(['(', '{', '|', '=', '&', '*', '!']) == "unsafe";
            let next = words.get(index + 1).copied().unwrap_or("{");
            if begins
                && ["{", "fn", "impl", "trait", "extern"].contains(&next)
                && !code.starts_with("type ")
            {
                count.unsafe_blocks += 1;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_and_mentions_are_not() {
        let text = "#![forbid(unsafe_code)]\n// unsafe { }\nlet x = unsafe { f() };\n\n#[unsafe(no_mangle)]\nunsafe extern \"C\" {\nunsafe impl Send for X {}\n";
        assert_eq!(count_text(text), Count { lines: 5, unsafe_blocks: 3 });
    }
}
