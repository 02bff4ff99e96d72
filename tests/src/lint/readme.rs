//! The README's tables of system calls and of the userland's failures: made from the sentry's own table and from
//! `tests/userland/expected`, and compared with them.

use std::fs;
use std::io;
use std::path::PathBuf;

use sentry::syscall::{CALLS, Support};

/// What stands before and after the table in the README.
const BEGIN: &str =
    "<!-- system calls: written by `tests/run readme` from sentry/src/syscall/table.rs -->\n";
const END: &str = "<!-- end of system calls -->\n";

/// What stands before and after the userland's failures.
const BEGIN_FAILURES: &str =
    "<!-- failures: written by `tests/run readme` from tests/userland/expected -->\n";
const END_FAILURES: &str = "<!-- end of failures -->\n";

/// How wide the lines of names get.
const WIDTH: usize = 110;

/// Compares the README with the sentry's table. Returns what is wrong, and the number of calls.
pub fn check() -> io::Result<(Vec<String>, usize)> {
    let text = fs::read_to_string(path())?;
    let findings = match renewed(&text)? {
        None => vec![format!("{}: the marks around a table are missing", path().display())],
        Some(new) if new != text => {
            vec![format!("{}: a table is old; run `tests/run readme`", path().display())]
        }
        Some(_) => Vec::new(),
    };
    Ok((findings, CALLS.len()))
}

/// Writes the tables into the README.
pub fn write() -> io::Result<()> {
    let text = fs::read_to_string(path())?;
    let new = renewed(&text)?
        .ok_or_else(|| io::Error::other("the README has no marks around its tables"))?;
    fs::write(path(), new)
}

fn path() -> PathBuf {
    crate::workspace().join("README.md")
}

/// The README with both tables as they should be; `None` where the marks are missing.
fn renewed(text: &str) -> io::Result<Option<String>> {
    let failures = crate::userland::expected::table().map_err(io::Error::other)?;
    Ok(replaced(text, (BEGIN, END), &table())
        .and_then(|text| replaced(&text, (BEGIN_FAILURES, END_FAILURES), &failures)))
}

fn replaced(text: &str, (begin, end): (&str, &str), table: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}

/// A name as Markdown shows it.
pub fn escaped(name: &str) -> String {
    format!("`{name}`")
}

fn table() -> String {
    let named = |wanted: fn(&Support) -> bool| {
        let mut names: Vec<_> =
            CALLS.iter().filter(|c| wanted(&c.support)).map(|c| c.name).collect();
        names.sort_unstable();
        names
    };
    let full = named(|s| matches!(s, Support::Full));
    let missing = named(|s| matches!(s, Support::Missing));
    let mut partial: Vec<_> = CALLS
        .iter()
        .filter_map(|c| match c.support {
            Support::Partial(what) => Some((c.name, what)),
            _ => None,
        })
        .collect();
    partial.sort_unstable();
    let mut out = format!("\n**As Linux does them** ({}):\n\n", full.len());
    out.push_str(&filled(&full));
    out.push_str(&format!(
        "\n**In part** ({}):\n\n| call | what is not there |\n|---|---|\n",
        partial.len()
    ));
    for (name, what) in partial {
        out.push_str(&format!("| {name} | {what} |\n"));
    }
    out.push_str(&format!("\n**Not there: ENOSYS** ({}):\n\n", missing.len()));
    out.push_str(&filled(&missing));
    out.push('\n');
    out
}

/// Words in lines of bounded width.
fn filled(words: &[&str]) -> String {
    let mut out = String::new();
    let mut width = 0;
    for (i, word) in words.iter().enumerate() {
        let last = i + 1 == words.len();
        if width > 0 && width + word.len() + 2 > WIDTH {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        out.push_str(if last { "." } else { "," });
        width += word.len() + 1;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(
            replaced(&text, (BEGIN, END), "new\n").unwrap(),
            format!("a\n{BEGIN}new\n{END}b\n")
        );
        assert_eq!(replaced("a\nb\n", (BEGIN, END), "new\n"), None);
    }

    #[test]
    fn lines_are_filled() {
        let words = vec!["word"; 60];
        let text = filled(&words);
        assert!(text.lines().all(|l| l.len() <= WIDTH));
        assert_eq!(text.split_whitespace().count(), 60);
        assert!(text.ends_with("word.\n"));
    }

    #[test]
    fn every_call_is_in_the_table_once() {
        let table = table();
        for call in CALLS {
            let is = |w: &&str| w.trim_end_matches([',', '.']) == call.name;
            assert!(table.split_whitespace().any(|w| is(&w)), "{}", call.name);
        }
    }
}
