//! The standard streams of a container: whatever they are on the host, nothing is lost on the way.

use std::io::Read;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use super::{Context, Outcome, Test, ensure};

pub(super) const TESTS: &[Test] = &[
    ("lifecycle/streams", streams),
    ("lifecycle/stream-names", stream_names),
    ("lifecycle/slow-reader", slow_reader),
];

fn streams(c: &Context) -> Outcome {
    let _b = c.bundle("b", "cat; echo to-stderr >&2; head -c 2000000 /dev/zero | tr '\\0' z")?;
    let input = vec![b'i'; 300_000];
    let args = ["run", "--bundle", &c.text_path("b"), "x"];
    let done = c.place.runtime.run(c.scratch.path(), &args, &input, c.limit())?;
    ensure!(done.ok() && done.err() == "to-stderr\n", "{}: {}", done.end, done.err());
    ensure!(done.stdout.len() == 2_300_000, "{} bytes came out", done.stdout.len());
    ensure!(
        done.stdout.iter().filter(|b| **b == b'z').count() == 2_000_000,
        "the bytes are not what was written"
    );
    Ok(())
}

/// The names of the standard streams lead to them, whatever they are on the host.
fn stream_names(c: &Context) -> Outcome {
    let script = "echo a; echo b >/dev/stdout; echo c >/proc/self/fd/1; echo d >>/dev/stdout; echo e >/dev/stderr; cat /dev/stdin";
    let _b = c.bundle("b", script)?;
    let bundle = c.text_path("b");
    let args = ["run", "--bundle", &bundle, "x"];
    let piped = c.place.runtime.run(c.scratch.path(), &args, b"in\n", c.limit())?;
    ensure!(
        piped.ok() && piped.out() == "a\nb\nc\nd\nin\n" && piped.err() == "e\n",
        "pipes: {}: {:?} {:?}",
        piped.end,
        piped.out(),
        piped.err()
    );
    // On Linux such an open cuts a file of the host; here nothing that was written is lost.
    let filed = c.detached(&args)?;
    let out = if c.is_runc() { "c\nd\n" } else { "a\nb\nc\nd\n" };
    ensure!(
        filed.ok() && filed.out() == out && filed.err() == "e\n",
        "files: {}: {:?} {:?}",
        filed.end,
        filed.out(),
        filed.err()
    );
    Ok(())
}

/// A reader that is slower than the container gets all the same every byte, once and in order.
fn slow_reader(c: &Context) -> Outcome {
    let _b =
        c.bundle("b", "seq 1 60000 >/f; dd if=/f bs=150000 2>/dev/null; cat /f; head -c 3001 /f")?;
    let numbers: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    let expected = format!("{numbers}{numbers}{}", &numbers[..3001]);
    let mut command =
        c.place.runtime.command(c.scratch.path(), &["run", "--bundle", &c.text_path("b"), "x"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let Some(mut output) = child.stdout.take() else { unreachable!("it was asked for") };
    let mut got = Vec::new();
    let mut piece = [0; 1000];
    for _ in 0..300 {
        match output.read(&mut piece)? {
            0 => break,
            n => got.extend_from_slice(&piece[..n]),
        }
        sleep(Duration::from_millis(1));
    }
    output.read_to_end(&mut got)?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    let same = got.iter().zip(expected.as_bytes()).take_while(|(a, b)| a == b).count();
    ensure!(
        got == expected.as_bytes(),
        "{} bytes of {} came, and they differ from byte {same} on",
        got.len(),
        expected.len()
    );
    Ok(())
}
