//! The C programs of `tests/programs`, statically and dynamically linked.

use crate::differential::{Case, Root};

/// A program in both its forms.
macro_rules! both {
    ($(($name:literal, $seconds:literal $(, $arg:literal)* $(; $capability:literal)*)),* $(,)?) => {
        &[$(
            Case::new(Root::Programs, concat!("static/", $name), &[concat!("/programs/static/", $name) $(, $arg)*])
                .capabilities(&[$($capability),*])
                .seconds($seconds),
            Case::new(Root::Programs, concat!("dynamic/", $name), &[concat!("/programs/dynamic/", $name) $(, $arg)*])
                .capabilities(&[$($capability),*])
                .seconds($seconds),
        )*]
    };
}

pub(super) const CASES: &[Case] = both![
    ("hello", 10, "one", "two"),
    ("abi", 10),
    ("memory", 20),
    ("filemaps", 20),
    ("files", 20),
    ("rwflags", 20),
    ("aio", 20; "CAP_SYS_ADMIN"),
    ("pipes", 30),
    ("floods", 30),
    ("signals", 30),
    ("sigaltstack", 20),
    ("waits", 20),
    ("remote", 20),
    ("areas", 20),
    ("ptrace", 30),
    ("breakpoints", 30),
    ("seccomp", 30),
    ("userdispatch", 20),
    ("setmm", 20; "CAP_SYS_ADMIN"),
    ("unotify", 30),
    ("execs", 20),
    ("futex", 20),
    ("futexes2", 20),
    ("futexpi", 20),
    ("semaphores", 20),
    ("namespaces", 20; "CAP_SYS_ADMIN"),
    ("pidns", 20; "CAP_SYS_ADMIN"),
    ("userns", 20; "CAP_SYS_ADMIN"),
    ("usermounts", 20; "CAP_SYS_ADMIN"),
    ("userreach", 20; "CAP_SYS_PTRACE"),
    ("mounts", 20; "CAP_SYS_ADMIN"),
    ("mountfds", 20; "CAP_SYS_ADMIN"),
    ("overlay", 20; "CAP_SYS_ADMIN"; "CAP_MKNOD"),
    // Linux fails a rename of these with ESTALE for who lacks the last.
    ("overlayrandom", 60; "CAP_SYS_ADMIN"; "CAP_MKNOD"; "CAP_DAC_READ_SEARCH"),
    ("tmpfsspace", 20; "CAP_SYS_ADMIN"),
    ("hidepid", 20; "CAP_SYS_ADMIN"),
    ("timens", 20; "CAP_SYS_ADMIN"; "CAP_SYS_TIME"),
    ("sharedmem", 20),
    ("messages", 20),
    ("mqueues", 20),
    ("signalfds", 20),
    ("splices", 20),
    ("timers", 30),
    ("polls", 20),
    ("masks", 20),
    ("unix", 30),
    ("notify", 30),
    ("dnotify", 20),
    ("procfiles", 20),
    ("kcmps", 20),
    ("fasync", 20),
    ("urgent", 20),
    ("vtimes", 20),
    ("cpulimit", 60),
    ("logins", 10),
    ("schedattr", 10),
    ("personality", 10),
    ("rseq", 30),
    ("membarrier", 30),
    ("tsc", 20),
    ("mxcsr", 10),
    ("avx", 60),
    ("threads64", 60),
    ("forks1000", 60),
    ("races", 60),
    ("shootdown", 60),
    ("excess", 60),
];

/// Those that are about what programs gain by exec.
pub(super) const GAINING: &[Case] =
    &[Case::new(Root::Programs, "static/filecaps", &["/programs/static/filecaps"])
        .capabilities(&["CAP_SYS_ADMIN"])
        .gains()
        .seconds(60)];

/// Those of which one form will do, because they take long on KVM.
pub(super) const LONG: &[Case] =
    &[Case::new(Root::Programs, "static/manychunks", &["/programs/static/manychunks"]).seconds(60)];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    /// Programs that tests of other kinds run.
    const ELSEWHERE: [&str; 3] = ["calls", "filtered", "hostile"];

    /// A program that nobody runs would rot.
    #[test]
    fn every_program_is_run() {
        let cases = super::CASES
            .iter()
            .chain(super::GAINING)
            .chain(super::LONG)
            .filter_map(|case| case.name.strip_prefix("static/"));
        let run: BTreeSet<&str> = cases.chain(ELSEWHERE).collect();
        for entry in fs::read_dir(crate::workspace().join("tests/programs")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "c") {
                assert!(
                    run.contains(path.file_stem().unwrap().to_str().unwrap()),
                    "{}",
                    path.display()
                );
            }
        }
    }
}
