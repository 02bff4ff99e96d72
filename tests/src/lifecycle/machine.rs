//! The KVM machine: its own tests, what its panics say, and that it costs nothing while nothing happens.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{Context, Outcome, Stop, Test, ensure};
use crate::hostile;
use crate::process::{self, End};

pub(super) const TESTS: &[Test] = &[
    ("machine/self-test", self_test),
    ("machine/self-test-plain-cpu", self_test_plain_cpu),
    ("machine/panic-report", panic_report),
    ("machine/idle-is-quiet", idle_is_quiet),
    ("machine/memory-goes-back", memory_goes_back),
    ("machine/bench-counts-exits", bench_counts_exits),
    ("machine/vcpus-are-filtered", vcpus_are_filtered),
    ("machine/hostile-image", hostile_image),
];

fn check(c: &Context, more: &[&str]) -> Result<process::Finished, Stop> {
    c.only_ringwall()?;
    let args: Vec<&str> = ["check", "--self-test"].iter().chain(more).copied().collect();
    let mut command = c.place.runtime.bare(&args, None);
    // Some 25 s in the test VM where nothing else runs.
    Ok(process::run(&mut command, b"", c.limit() * 3)?)
}

fn passes(done: &process::Finished) -> Outcome {
    ensure!(
        done.ok() && done.err().contains("0 failed") && !done.err().contains("FAIL"),
        "{}: {}",
        done.end,
        done.err()
    );
    Ok(())
}

fn self_test(c: &Context) -> Outcome {
    passes(&check(c, &[])?)
}

/// Every feature that the image can do without, left out: all, and plain XSAVE. (Not kvmclock: without it time is the TSC's,
/// which in the test VM is another one on each CPU.)
fn self_test_plain_cpu(c: &Context) -> Outcome {
    let all = "x2apic,tsc-deadline,xsaveopt,xsave,fsgsbase,smap,pcid,invpcid,pv-eoi,steal-time";
    for without in ["xsaveopt", all] {
        passes(&check(c, &["--without", without])?)
            .map_err(|_| Stop::Failed(format!("without {without} it fails")))?;
    }
    Ok(())
}

/// Message, registers and names of functions.
fn panic_report(c: &Context) -> Outcome {
    let done = check(c, &["--panic"])?;
    ensure!(done.end == End::Exit(1), "{}: {}", done.end, done.err());
    for part in
        ["a panic on purpose", "rip 0x", "rsp 0x", "backtrace:", "image::panic_on_purpose+0x"]
    {
        ensure!(done.err().contains(part), "{part:?} is not in:\n{}", done.err());
    }
    Ok(())
}

/// The process of the sandbox that this test has started.
fn sandbox() -> Result<i32, Stop> {
    let pids = process::descendants(std::process::id() as i32);
    let found = pids.into_iter().find(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().contains("sandbox")
            || process::command_line(*pid).contains("sandbox")
    });
    found.ok_or_else(|| Stop::Failed("no sandbox".into()))
}

/// How often its threads have gone to sleep or been made to wait.
fn switches(pid: i32) -> Result<u64, Stop> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        sum += lines
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}

/// A container that sleeps costs no wake-ups: no vCPU ticks.
fn idle_is_quiet(c: &Context) -> Outcome {
    c.only_ringwall()?;
    // With a second task, so that both vCPUs have been started.
    let _b = c.bundle("b", "(sleep 1000) & sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let pid = sandbox()?;
    // What the start has used goes back within 2 s; the release itself wakes.
    thread::sleep(Duration::from_secs(4));
    let before = switches(pid)?;
    thread::sleep(Duration::from_secs(4));
    let woken = switches(pid)? - before;
    c.must(&["delete", "--force", "x"])?;
    ensure!(woken <= 8, "its threads have run {woken} times in 4 s");
    Ok(())
}

/// The sandbox's memory in KiB, as far as it is its own.
fn resident(pid: i32) -> Result<u64, Stop> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(of("Pss:"))
}

fn memory_goes_back(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let script = "dd if=/dev/zero of=/tmp/x bs=65536 count=512 2>/dev/null; : >/tmp/full; sleep 6; \
                  rm /tmp/x; sleep 1000";
    let _b = c.bundle("b", script)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let pid = sandbox()?;
    c.eventually("32 MiB are used", || Ok(resident(pid)? >= 32 << 10))?;
    c.eventually("they have gone back", || Ok(resident(pid)? <= 12 << 10))?;
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// `bench` tells exits, and a null system call has none.
fn bench_counts_exits(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let args = ["bench", "--json", "--runs", "1", "--only", "null system call"];
    let done = process::run(&mut c.place.runtime.bare(&args, None), b"", c.limit())?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    let lines = done.out();
    let figures = lines.lines().map(serde_json::from_str::<serde_json::Value>);
    let exits = figures
        .filter_map(Result::ok)
        .find(|figure| figure["platform"] == "kvm")
        .and_then(|figure| figure["exits"].as_f64());
    ensure!(exits.is_some_and(|exits| exits < 0.01), "exits: {exits:?} in\n{lines}");
    Ok(())
}

/// Each thread of a sandbox has a filter, and a vCPU's two: the process's and its own.
fn vcpus_are_filtered(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let pid = sandbox()?;
    let mut vcpus = 0;
    let mut filters = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = task?.path();
        let name = fs::read_to_string(folder.join("comm"))?;
        let status = fs::read_to_string(folder.join("status"))?;
        let of = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
        };
        ensure!(of("Seccomp:") == "2", "{name} has no filter");
        ensure!(of("CapEff:") == "0000000000000000", "{name} has capabilities");
        ensure!(of("NoNewPrivs:") == "1", "{name} may gain privileges");
        if name.starts_with("vcpu") {
            vcpus += 1;
            filters.push(of("Seccomp_filters:"));
        } else {
            filters.insert(0, of("Seccomp_filters:"));
        }
    }
    c.must(&["delete", "--force", "x"])?;
    ensure!(vcpus >= 1, "no vCPU's thread");
    let own = filters.first().cloned().unwrap_or_default();
    let (own, vcpu) = (own.parse::<u32>(), filters.last().map(|f| f.parse::<u32>()));
    ensure!(
        matches!((&own, &vcpu), (Ok(own), Some(Ok(vcpu))) if vcpu > own),
        "filters: {filters:?}"
    );
    Ok(())
}

/// A guest that attacks the host half: each attack ends as it has to, for a reason that is told, and nothing panics.
fn hostile_image(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let mut command = hostile::command()?;
    // Some 90 attacks; each is bounded by itself.
    let done = process::run(&mut command, b"", c.limit() * 6)?;
    ensure!(done.ok(), "{}: {}{}", done.end, done.out(), done.err());
    Ok(())
}
