//! The container tests, as data: each file has one root's.
//!
//! A test's name says its file and itself (`busybox/pipe`); the suites put the platform before it.

mod bash;
mod busybox;
mod coreutils;
mod programs;
mod python;

use crate::differential::Case;

/// All container tests with their full names.
pub fn all() -> Vec<(String, Case)> {
    let files: [(&str, &[Case]); 7] = [
        ("busybox", busybox::CASES),
        ("programs", programs::CASES),
        ("programs", programs::GAINING),
        ("programs", programs::LONG),
        ("bash", bash::CASES),
        ("coreutils", coreutils::CASES),
        ("python", python::CASES),
    ];
    let named = |(file, cases): (&str, &'static [Case])| {
        let file = file.to_owned();
        cases.iter().map(move |case| (format!("{file}/{}", case.name), *case))
    };
    files.into_iter().flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let all = super::all();
        let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), all.len());
    }
}
