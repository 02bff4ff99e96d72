//! CPython's own regression tests, as Debian ships them (libpython3.11-testsuite): `python3 -m test MODULE`.
//!
//! Its own report (`--junit-xml`) says of each test how it came out. A run that is killed writes none; then what its log
//! says last is the failure.

use std::time::Duration;

use super::expected::Line;
use super::{Part, Parts};
use crate::process::Finished;

/// Where the report lies in the container.
const REPORT: &str = "/tmp/report.xml";

/// A module of tests.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// How long a run may take on an unburdened host.
    pub seconds: u32,
}

const fn module(name: &'static str, seconds: u32) -> Module {
    Module { name, seconds }
}

/// The modules that are run. Debian's package has no test_sqlite3, and 3.11 no test_tty; test_eintr is a single test that
/// needs a network; of test_asyncio
/// the modules are run that need none.
pub const MODULES: &[Module] = &[
    module("test_os", 60),
    module("test_posix", 60),
    module("test_signal", 200),
    module("test_mmap", 60),
    module("test_select", 60),
    module("test_poll", 60),
    module("test_epoll", 60),
    module("test_selectors", 60),
    module("test_fcntl", 60),
    module("test_glob", 60),
    module("test_time", 60),
    module("test_pty", 60),
    module("test_resource", 60),
    module("test_tempfile", 60),
    module("test_shutil", 60),
    module("test_pathlib", 60),
    module("test_fork1", 120),
    module("test_wait3", 60),
    module("test_wait4", 60),
    module("test_threadsignals", 60),
    module("test_openpty", 60),
    module("test_posixpath", 60),
    module("test_memoryview", 60),
    module("test_thread", 60),
    module("test_threading", 300),
    module("test_subprocess", 300),
    module("test_io", 300),
    module("test_zipfile", 120),
    module("test_tarfile", 120),
    module("test_largefile", 120),
    module("test_concurrent_futures", 600),
    module("test_multiprocessing_fork", 600),
    module("test_multiprocessing_spawn", 900),
    module("test_asyncio.test_tasks", 120),
    module("test_asyncio.test_futures", 120),
    module("test_asyncio.test_futures2", 120),
    module("test_asyncio.test_queues", 120),
    module("test_asyncio.test_locks", 120),
    module("test_asyncio.test_subprocess", 120),
    module("test_asyncio.test_unix_events", 120),
    module("test_asyncio.test_runners", 120),
    module("test_asyncio.test_taskgroups", 120),
    module("test_asyncio.test_timeouts", 120),
    module("test_asyncio.test_threads", 120),
    module("test_asyncio.test_context", 120),
    module("test_asyncio.test_protocols", 120),
    module("test_asyncio.test_transports", 120),
    module("test_asyncio.test_pep492", 120),
    module("test_asyncio.test_selector_events", 120),
];

/// The command that runs a module and prints its log and then the report.
pub fn command(module: &Module, known: &[Line], limit: Duration) -> Vec<String> {
    let ignored: String =
        known.iter().filter(|line| !line.run).map(|line| format!(" -i '{}'", line.part)).collect();
    // A single test's limit leaves time to write the report.
    let single = limit.as_secs() * 3 / 4;
    let script = format!(
        "cd /tmp; python3 -m test -v --junit-xml {REPORT} --timeout {single}{ignored} {} 2>&1; echo \"status $?\"; cat {REPORT}",
        module.name
    );
    ["bash", "-c", &script].map(str::to_owned).to_vec()
}

/// The tests of a report, by name without the module's.
pub fn parts(done: &Finished) -> Parts {
    let text = done.out();
    let mut parts = Parts::new();
    let Some((_, report)) = text.split_once("<testsuites") else {
        let last = text.lines().rev().find(|line| line.contains(" (test.")).unwrap_or("nothing");
        let why = format!("no report ({}); the last test: {last}", done.end);
        return Parts::from([("module".to_owned(), Part::Failed(why))]);
    };
    for test in report.split("<testcase ").skip(1) {
        let name = attribute(test, "name").unwrap_or_default();
        let name = name.split('.').skip(2).collect::<Vec<_>>().join(".");
        let body = test.split("</testcase>").next().unwrap_or_default();
        let part = if let Some((_, why)) = body.split_once("<skipped>") {
            Part::Skipped(why.split('<').next().unwrap_or_default().to_owned())
        } else if let Some((_, why)) = body.split_once("<failure").or(body.split_once("<error")) {
            let lines = why.split("</").next().unwrap_or_default().trim_end();
            Part::Failed(lines.lines().last().unwrap_or_default().to_owned())
        } else {
            Part::Passed
        };
        parts.insert(name, part);
    }
    parts
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split_once(&format!("{name}=\""))?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::End;

    fn finished(stdout: &str) -> Finished {
        Finished {
            end: End::Exit(0),
            stdout: stdout.into(),
            stderr: Vec::new(),
            elapsed: Duration::ZERO,
            left_behind: Vec::new(),
        }
    }

    #[test]
    fn a_report_is_read() {
        let report = concat!(
            "log\n<testsuites><testsuite><testcase name=\"test.test_x.A.test_a\" status=\"run\"><system-out>x</system-out></testcase>",
            "<testcase name=\"test.test_x.A.test_b\"><skipped>no root</skipped></testcase>",
            "<testcase name=\"test.test_x.A.test_c\"><error type=\"OSError\">File\nOSError: [Errno 5]\n</error></testcase></testsuite></testsuites>"
        );
        let parts = parts(&finished(report));
        assert_eq!(parts["A.test_a"], Part::Passed);
        assert_eq!(parts["A.test_b"], Part::Skipped("no root".into()));
        assert_eq!(parts["A.test_c"], Part::Failed("OSError: [Errno 5]".into()));
    }

    #[test]
    fn a_run_without_a_report_fails() {
        let parts = parts(&finished("test_q (test.test_x.A.test_q) ... "));
        assert!(matches!(&parts["module"], Part::Failed(why) if why.contains("test_q")));
    }
}
