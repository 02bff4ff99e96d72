//! How long `docker run` takes with each runtime: a measurement for people, which runs when it is asked for.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::engine::Engine;
use crate::case::Place;

/// Its name.
pub const NAME: &str = "docker/time";

/// Where `HARNESS_ROUNDS` says nothing.
const ROUNDS: usize = 15;

const RUNTIMES: [&str; 2] = ["runc", "ringwall"];

/// Medians of `docker run --rm --network none` of busybox's `true`, the runtimes taking turns.
pub(super) fn measure(folder: &Path, place: &Place) -> io::Result<String> {
    let rounds = std::env::var("HARNESS_ROUNDS").ok().and_then(|text| text.parse().ok());
    let engine = Engine::start(place, folder)?;
    let times = take(&engine, rounds.unwrap_or(ROUNDS).max(1));
    engine.stop()?;
    let [runc, ringwall] = times?.map(median);
    Ok(format!(
        "docker run of true: {:.0} ms with runc, {:.0} ms with ringwall, {:.2} x\n",
        runc.as_secs_f64() * 1e3,
        ringwall.as_secs_f64() * 1e3,
        ringwall.as_secs_f64() / runc.as_secs_f64()
    ))
}

fn take(engine: &Engine, rounds: usize) -> io::Result<[Vec<Duration>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    // The first of each is of cold caches.
    for round in 0..=rounds {
        for (runtime, times) in RUNTIMES.iter().zip(&mut times) {
            let mut command = std::process::Command::new("docker");
            engine.environment(&mut command);
            command.args(["run", "--rm", "--network", "none", "--runtime", runtime]);
            command.args(["busybox", "true"]).stdin(Stdio::null());
            let begun = Instant::now();
            let done = command.output()?;
            let time = begun.elapsed();
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                return Err(io::Error::other(format!("docker run with {runtime}: {said}")));
            }
            if round > 0 {
                times.push(time);
            }
        }
    }
    Ok(times)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
