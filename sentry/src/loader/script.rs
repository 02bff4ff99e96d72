//! `#!` lines (execve(2), "Interpreter scripts").

use crate::errno::Errno;

/// A parsed `#!` line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// Its one optional argument: the rest of the line.
    pub argument: Option<&'a [u8]>,
}

/// Parses the first bytes of a script, which begin with `#!`. `ENOEXEC` where no interpreter is named
/// whole in them.
pub fn parse(head: &[u8]) -> Result<Line<'_>, Errno> {
    let text = head.get(2..).unwrap_or(&[]);
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let (line, cut) = match text.iter().position(|b| *b == b'\n') {
        Some(end) => (text.get(..end).unwrap_or(&[]), false),
        // A line without an end is one when the file ends there, else it is cut off.
        None => (text, head.len() >= super::HEAD),
    };
    let line = line.split(|b| *b == 0).next().unwrap_or(&[]);
    let start = line.iter().position(|b| !blank(b)).ok_or(Errno::ENOEXEC)?;
    let line = line.get(start..).unwrap_or(&[]);
    let Some(end) = line.iter().position(blank) else {
        // The name of the interpreter may go on behind what was read.
        return if cut {
            Err(Errno::ENOEXEC)
        } else {
            Ok(Line { interpreter: line, argument: None })
        };
    };
    let (interpreter, rest) = line.split_at(end);
    let first = rest.iter().position(|b| !blank(b));
    let last = rest.iter().rposition(|b| !blank(b));
    let argument = first.zip(last).and_then(|(first, last)| rest.get(first..=last));
    Ok(Line { interpreter, argument })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<(&str, Option<&str>), Errno> {
        let s = |b| core::str::from_utf8(b).unwrap();
        parse(text.as_bytes()).map(|l| (s(l.interpreter), l.argument.map(s)))
    }

    #[test]
    fn the_rest_of_the_line_is_one_argument() {
        assert_eq!(line("#!/bin/sh\n"), Ok(("/bin/sh", None)));
        assert_eq!(line("#! \t/bin/sh -e  -x \nfoo"), Ok(("/bin/sh", Some("-e  -x"))));
        assert_eq!(line("#!/bin/sh"), Ok(("/bin/sh", None)));
        assert_eq!(line("#!/bin/sh  \n"), Ok(("/bin/sh", None)));
    }

    #[test]
    fn a_line_without_a_whole_interpreter_is_refused() {
        assert_eq!(line("#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(line("#!  "), Err(Errno::ENOEXEC));
        let long = alloc::format!("#!/{}", "x".repeat(300));
        assert_eq!(parse(&long.as_bytes()[..256]), Err(Errno::ENOEXEC));
    }
}
