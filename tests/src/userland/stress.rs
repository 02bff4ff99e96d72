//! stress-ng: each stressor with four workers that verify what they do.
//!
//! Two runs agree when both exit alike, say the same in their errors and skips (but for numbers), and both got something done.

use super::{Part, Parts};
use crate::process::{End, Finished};

/// How long a run may take, in seconds, on an unburdened host.
pub const LIMIT: u64 = 60;

/// The stressors; `mq` is the list's mq-free, and shm-sysv its second half. `sock` is left to `sockpair`: this version's takes
/// no domain but AF_INET.
pub const STRESSORS: &[&str] = &[
    "cpu",
    "vm",
    "fork",
    "clone",
    "exec",
    "pthread",
    "switch",
    "pipe",
    "fifo",
    "futex",
    "sem",
    "sem-sysv",
    "mq",
    "signal",
    "sigq",
    "sigsegv",
    "sigpipe",
    "sigsuspend",
    "timer",
    "timerfd",
    "eventfd",
    "epoll",
    "poll",
    "inotify",
    "dentry",
    "dir",
    "rename",
    "link",
    "symlink",
    "open",
    "seek",
    "fallocate",
    "mmap",
    "mremap",
    "madvise",
    "brk",
    "stack",
    "shm",
    "shm-sysv",
    "memfd",
    "getrandom",
    "clock",
    "itimer",
    "sigfd",
    "sockpair",
    "sendfile",
    "splice",
    "tee",
    "chmod",
    "chown",
    "utime",
    "xattr",
    "lockf",
    "flock",
    "locka",
    "lockofd",
    "hdd",
    "iomix",
    "zombie",
    "wait",
    "kill",
    "vfork",
    "resources",
];

/// The command that runs a stressor.
pub fn command(stressor: &str, slow: u32) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    if stressor == "exec" {
        // It refuses to run as root.
        words.extend(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned),
        );
    }
    let seconds = if slow > 1 { 2 } else { 5 };
    words.extend(["stress-ng", "--temp-path", "/tmp", "--verify", "--metrics"].map(str::to_owned));
    words.extend([format!("--{stressor}"), "4".into(), "-t".into(), format!("{seconds}")]);
    if slow > 1 {
        // What these do at first with 256 MiB and more takes longer there: in a guest of the test VM each new page is an
        // exit to its host, and natively a fallocate(2) is interrupted by the end of the run.
        let less: &[&str] = match stressor {
            "vm" => &["--vm-bytes", "32m"],
            "iomix" => &["--iomix-bytes", "32m"],
            _ => &[],
        };
        words.extend(less.iter().map(|word| (*word).to_owned()));
    }
    words
}

/// What is compared of a run.
pub fn parts(stressor: &str, done: &Finished) -> Parts {
    let text = done.out() + &done.err();
    let said: Vec<String> = text
        .lines()
        .filter(|line| {
            line.contains("fail:") || line.contains("error:") || line.contains("skipping")
        })
        .take(5)
        .map(str::to_owned)
        .collect();
    let status = if done.end == End::Exit(0) {
        Part::Passed
    } else {
        Part::Failed(format!("{}; {}", done.end, said.join("; ")))
    };
    let work = match operations(stressor, &text) {
        Some(1..) => Part::Passed,
        _ => Part::Failed(format!("nothing done; {}", said.join("; "))),
    };
    Parts::from([("status".to_owned(), status), ("work".to_owned(), work)])
}

/// The stressor's count of operations, from the lines of its metrics.
fn operations(stressor: &str, text: &str) -> Option<u64> {
    text.lines().filter(|line| line.contains("metrc:")).find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != stressor);
        words.next()?;
        // A count comes first; elsewhere the name stands in a sentence.
        words.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn operations_are_counted() {
        let text =
            "stress-ng: metrc: [1] stressor  bogo ops\nstress-ng: metrc: [1] cpu    2625   2.38\n";
        assert_eq!(operations("cpu", text), Some(2625));
        assert_eq!(operations("vm", text), None);
    }

    #[test]
    fn a_run_that_did_nothing_fails() {
        let done = Finished {
            end: End::Exit(0),
            stdout: b"stress-ng: info:  [2] mq: not implemented, skipping stressor\n".to_vec(),
            stderr: Vec::new(),
            elapsed: Duration::ZERO,
            left_behind: Vec::new(),
        };
        assert!(
            matches!(&parts("mq", &done)["work"], Part::Failed(why) if why.contains("skipping"))
        );
    }
}
