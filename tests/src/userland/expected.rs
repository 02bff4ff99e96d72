//! What is known to fail, by name and cause: `tests/userland/expected`.
//!
//! A line has an entry, a part of it, a platform and a cause, separated by tabs. A part may end in `*`; before it, `!` says
//! that it is not even run (it would take the rest of the entry with it), and `~` that it fails only at times.

use crate::lint::readme::escaped;

const TEXT: &str = include_str!("../../userland/expected");

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The entry, without the suite's name.
    pub entry: String,
    /// The part, with `*` for any end.
    pub part: String,
    /// `ptrace`, `kvm` or `both`.
    pub platform: String,
    /// Whether it is run.
    pub run: bool,
    /// Whether it fails each time.
    pub always: bool,
    /// Why it fails.
    pub cause: String,
}

impl Line {
    /// Whether the line speaks of a part.
    pub fn names(&self, part: &str) -> bool {
        match self.part.strip_suffix('*') {
            Some(start) => part.starts_with(start),
            None => part == self.part,
        }
    }
}

/// Reads a list; the error names the line.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').filter(|field| !field.is_empty()).collect();
        let [entry, part, platform @ ("ptrace" | "kvm" | "both"), cause] = fields[..] else {
            return Err(format!("not entry, part, platform, cause: {line}"));
        };
        let name = part.trim_start_matches(['!', '~']);
        lines.push(Line {
            entry: entry.to_owned(),
            part: name.to_owned(),
            platform: platform.to_owned(),
            run: !part.starts_with('!'),
            always: !part.starts_with(['!', '~']),
            cause: cause.to_owned(),
        });
    }
    Ok(lines)
}

/// The lines for an entry on a platform.
pub fn of(entry: &str, platform: &str) -> Vec<Line> {
    let applies =
        |line: &Line| line.entry == entry && (line.platform == platform || line.platform == "both");
    parse(TEXT).unwrap_or_default().into_iter().filter(applies).collect()
}

/// The list as a table for the README.
pub fn table() -> Result<String, String> {
    let mut out = "\n| entry | what fails | platform | cause |\n|---|---|---|---|\n".to_owned();
    for line in parse(TEXT)? {
        let note = match (line.run, line.always) {
            (false, _) => " (not run)",
            (true, false) => " (at times)",
            _ => "",
        };
        let part = escaped(&line.part);
        out.push_str(&format!(
            "| {} | {part}{note} | {} | {} |\n",
            line.entry, line.platform, line.cause
        ));
    }
    out.push('\n');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_well_formed_and_names_entries_that_exist() {
        let names: Vec<String> =
            super::super::entries().into_iter().map(|(name, _)| name).collect();
        for line in parse(TEXT).unwrap() {
            let name = format!("{}{}", super::super::PREFIX, line.entry);
            assert!(names.contains(&name), "{name}");
        }
    }

    #[test]
    fn marks_and_stars_are_understood() {
        let lines = parse("# a\n\na/b\t!C.*\tkvm\twhy\na/b\t~d\tboth\twhy").unwrap();
        assert!(!lines[0].run && lines[0].names("C.x") && !lines[0].names("D"));
        assert!(lines[1].run && !lines[1].always && lines[1].names("d") && !lines[1].names("dd"));
        assert!(parse("a b c").is_err() && parse("a\tb\tplan9\tc").is_err());
    }
}
