//! Limits of a container: at them something in it gives way, and it goes on.

use std::process::Command;

use serde_json::json;

use super::{Context, Outcome, Test, ensure};
use crate::bundle;

pub(super) const TESTS: &[Test] = &[
    ("limits/memory", memory),
    ("limits/memory-of-the-biggest", memory_of_the_biggest),
    ("limits/memory-of-init", memory_of_init),
    ("limits/memory-after-tasks", memory_after_tasks),
    ("limits/pids", pids),
    ("limits/descriptors-of-the-host", descriptors_of_the_host),
];

const MEMORY: u64 = 64 << 20;

/// Runs a script in a container with these resources; its exit status and output.
fn run(
    c: &Context,
    script: &str,
    resources: &serde_json::Value,
) -> Result<(i32, String), super::Stop> {
    c.only_ringwall()?;
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    config["linux"]["resources"] = resources.clone();
    let _bundle = c.bundle_with("b", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    let status =
        done.end.shell_status().ok_or_else(|| super::Stop::Failed(done.end.to_string()))?;
    Ok((status, done.out()))
}

fn memory_limit() -> serde_json::Value {
    json!({ "memory": { "limit": MEMORY } })
}

/// Memory runs out in a page fault, in the middle of a system call, and for a file in memory.
fn memory(c: &Context) -> Outcome {
    let script = "awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'; echo awk $?
        dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo dd $?
        dd if=/dev/zero of=/dev/null bs=20M count=1 2>/dev/null; echo dd $?";
    let (status, out) = run(c, script, &memory_limit())?;
    ensure!(status == 0 && out == "awk 137\ndd 137\ndd 0\n", "{status}: {out}");
    Ok(())
}

/// Not who asks for more is ended, but who has most, unless another offers itself.
fn memory_of_the_biggest(c: &Context) -> Outcome {
    // A holder fills its buffer, and waits for a reader of all of it.
    let script = "mkfifo /pipe; exec 3<>/pipe
        hold() { exec dd if=/dev/zero bs=36M count=1 2>/dev/null >/pipe; }
        hold & dd bs=1 count=1 <&3 >/dev/null 2>&1
        dd if=/dev/zero of=/dev/null bs=34M count=1 2>/dev/null; echo dd $?
        wait $!; echo holder $?
        exec 3<&-; exec 3<>/pipe
        hold & dd bs=1 count=1 <&3 >/dev/null 2>&1
        (echo 1000 >/proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=34M count=1) 2>/dev/null; echo dd $?
        head -c 37748735 <&3 >/dev/null; wait $!; echo holder $?";
    let (status, out) = run(c, script, &memory_limit())?;
    let expect = "dd 0\nholder 137\ndd 137\nholder 0\n";
    ensure!(status == 0 && out == expect, "{status}: {out}");
    Ok(())
}

/// An init that takes it all ends as any other, and the container with it.
fn memory_of_init(c: &Context) -> Outcome {
    let script = "exec awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'";
    let (status, out) = run(c, script, &memory_limit())?;
    ensure!(status == 137 && out.is_empty(), "{status}: {out}");
    Ok(())
}

/// What many tasks had at once is there again for others, and for other things, when they have ended.
fn memory_after_tasks(c: &Context) -> Outcome {
    let script = "for round in 1 2; do for i in $(seq 100); do sleep 1000 & done; kill -9 $(jobs -p); wait; done
        dd if=/dev/zero of=/dev/null bs=59M count=1 2>/dev/null; echo dd $?";
    let (status, out) = run(c, script, &memory_limit())?;
    ensure!(status == 0 && out == "dd 0\n", "{status}: {out}");
    Ok(())
}

/// A fork bomb finds an end, and those who are there live on.
fn pids(c: &Context) -> Outcome {
    let script = "sh -c 'for i in $(seq 100); do sleep 100 & done' 2>/tmp/err
        grep -c -i \"can't fork: Resource temporarily unavailable\" /tmp/err
        kill -9 -1; wait; echo alive";
    let (status, out) = run(c, script, &json!({ "pids": { "limit": 20 } }))?;
    ensure!(status == 0 && out == "1\nalive\n", "{status}: {out}");
    Ok(())
}

/// Whoever starts a container may have few descriptors. More files than that are used in it, programs run afterwards,
/// and the sandbox still takes commands.
fn descriptors_of_the_host(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let script = "mkdir /many; i=0; while [ $i -lt 400 ]; do echo $i >/many/$i; i=$((i+1)); done
        cat /many/* | md5sum; cp /bin/busybox /busybox; /busybox echo run; echo ready; exec sleep 1000";
    let _bundle = c.bundle("b", script)?;
    let run =
        c.place.runtime.command(c.scratch.path(), &["run", "--bundle", &c.text_path("b"), "x"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]);
    limited.arg(run.get_program()).args(run.get_args());
    let running = c.start_command(&mut limited)?;
    c.eventually("all files are used", || Ok(running.out().ends_with("ready\n")))?;
    // Of 0 to 399 in the order of their names as text, each on a line.
    let sum = "64c3c6954c63aefa3002f944c95003c6  -\nrun\nready\n";
    ensure!(running.out() == sum, "{}", running.out());
    let done = c.must(&["exec", "x", "cat", "/many/0", "/many/399"])?;
    ensure!(done.out() == "0\n399\n", "{}", done.out());
    c.must(&["kill", "x", "KILL"])?;
    let done = running.end(c.limit())?;
    ensure!(done.end.shell_status() == Some(137), "{}", done.end);
    Ok(())
}
