//! `ringwall bench`: what things cost here, natively and on each platform that works.
//!
//! The same binary runs the same operations ([`program`]) natively and in containers, in one run, so
//! that the ratios mean something on a noisy machine. Times are the best of several runs. Exits are
//! the slope over two run lengths, so that what happens once does not count.

mod bare_loop;
pub mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde::Serialize;
use serde_json::json;

use program::{OPERATIONS, Operation};

/// What `bench` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// One JSON object a line instead of a table.
    pub json: bool,
    /// Only operations whose name contains this.
    pub only: Option<String>,
    /// Runs of each operation; the best counts.
    pub runs: u32,
    /// Platforms to measure beside native, by name.
    pub platforms: Vec<String>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub operation: String,
    /// Where: `native`, `runc`, `kvm` or `ptrace`.
    pub platform: String,
    /// How much.
    pub value: f64,
    /// `ns`, `ms`, `KiB`.
    pub unit: &'static str,
    /// To the native figure of the same run.
    pub ratio: Option<f64>,
    /// VM exits per operation.
    pub exits: Option<f64>,
    /// Under ptrace: in bare loops, per system call really made.
    pub bare_loops: Option<f64>,
}

/// Reads KVM's counters of the container of this name, whose state is below this folder; empty where there is no VM.
pub type Counters<'a> = &'a dyn Fn(&Path, &str) -> Result<BTreeMap<String, u64>, String>;

/// Runs it all and prints to standard output.
pub fn run(options: &Options, counters: Counters<'_>) -> Result<(), String> {
    let dir = Scratch::new()?;
    let bench = Bench { dir: &dir, binary: dir.rootfs().join("ringwall"), counters };
    bench.prepare()?;
    let mut out = Printer { json: options.json, started: false };
    let bare = match options.platforms.iter().any(|p| p == "ptrace") {
        true => Some(bench.bare_loop()?),
        false => None,
    };
    if let Some(ns) = bare {
        out.print(&Figure::new("bare loop", "native", ns, "ns"));
    }
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    for operation in OPERATIONS.iter().filter(|o| wanted(o.name)) {
        let native = bench.best(options.runs, || bench.native(operation))?;
        out.print(&Figure::new(operation.name, "native", native, "ns"));
        for platform in &options.platforms {
            let mut exits = None;
            let mine = bench.best(options.runs, || {
                let (ns, slope) = bench.contained(operation, platform)?;
                exits = slope.or(exits);
                Ok(ns)
            })?;
            let mut figure = Figure::new(operation.name, platform, mine, "ns");
            figure.ratio = Some(mine / native);
            figure.exits = exits;
            if platform == "ptrace" && operation.calls != 0 {
                figure.bare_loops = bare.map(|bare| mine / bare / operation.calls as f64);
            }
            out.print(&figure);
        }
    }
    if wanted("start") {
        bench.start(options, &mut out)?;
    }
    if wanted("idle memory") {
        for platform in &options.platforms {
            let kib = bench.idle(platform)?;
            out.print(&Figure::new("idle memory", platform, kib, "KiB"));
        }
    }
    Ok(())
}

impl Figure {
    fn new(operation: &str, platform: &str, value: f64, unit: &'static str) -> Figure {
        Figure {
            operation: operation.into(),
            platform: platform.into(),
            value,
            unit,
            ratio: None,
            exits: None,
            bare_loops: None,
        }
    }
}

/// Prints figures as they come.
struct Printer {
    json: bool,
    started: bool,
}

impl Printer {
    fn print(&mut self, f: &Figure) {
        if self.json {
            let line = serde_json::to_string(f);
            println!("{}", line.unwrap_or_else(|e| json!({ "error": e.to_string() }).to_string()));
            return;
        }
        if !self.started {
            self.started = true;
            println!(
                "{:<22} {:<8} {:>14} {:<4} {:>9} {:>9} {:>11}",
                "operation", "platform", "value", "unit", "x native", "exits", "bare loops"
            );
        }
        let cell = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2}"));
        println!(
            "{:<22} {:<8} {:>14.1} {:<4} {:>9} {:>9} {:>11}",
            f.operation,
            f.platform,
            f.value,
            f.unit,
            cell(f.ratio),
            cell(f.exits),
            cell(f.bare_loops)
        );
    }
}

/// A folder for bundle and state that goes away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let path = std::env::temp_dir().join(format!("ringwall-bench-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Scratch(path))
    }

    fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    fn rootfs(&self) -> PathBuf {
        self.0.join("bundle/rootfs")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

struct Bench<'a> {
    dir: &'a Scratch,
    /// The copy of this binary that runs both natively and in containers.
    binary: PathBuf,
    counters: Counters<'a>,
}

/// A started measurement program, waiting for its first byte or for its second.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let n = self.output.read_line(&mut line).map_err(|e| e.to_string())?;
        if n == 0 {
            let status = self.child.wait().map_err(|e| e.to_string())?;
            return Err(format!("the measured program ended without a result ({status})"));
        }
        Ok(line.trim().into())
    }

    fn go(&mut self) -> Result<(), String> {
        let input = self.child.stdin.as_mut().ok_or("no standard input")?;
        input.write_all(b"g").map_err(|e| e.to_string())
    }

    /// Lets it run the timed part: nanoseconds.
    fn timed(&mut self) -> Result<f64, String> {
        self.go()?;
        self.line()?.parse().map_err(|e| format!("the measured program: {e}"))
    }

    fn end(mut self) -> Result<(), String> {
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("the measured program: {status}")) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `end` both are errors that mean nothing.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Bench<'_> {
    fn prepare(&self) -> Result<(), String> {
        let root = self.dir.rootfs();
        for dir in [root.clone(), root.join("proc"), root.join("tmp"), root.join("dev")] {
            fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        fs::copy("/proc/self/exe", &self.binary)
            .map_err(|e| format!("{}: {e}", self.binary.display()))?;
        fs::set_permissions(&self.binary, fs::Permissions::from_mode(0o755))
            .map_err(|e| format!("{}: {e}", self.binary.display()))
    }

    /// Writes the bundle's config for this command.
    fn configure(&self, args: &[&str]) -> Result<(), String> {
        let config = json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/"],
                "cwd": "/",
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "network" },
            ] },
        });
        let path = self.dir.bundle().join("config.json");
        fs::write(&path, config.to_string()).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn best(
        &self,
        runs: u32,
        mut once: impl FnMut() -> Result<f64, String>,
    ) -> Result<f64, String> {
        (0..runs.max(1)).try_fold(f64::INFINITY, |best, _| Ok(best.min(once()?)))
    }

    fn bare_loop(&self) -> Result<f64, String> {
        let out = Command::new(&self.binary)
            .args(["bench-program", "--bare-loop"])
            .output()
            .map_err(|e| format!("{}: {e}", self.binary.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        text.trim()
            .parse()
            .map_err(|_| format!("bare loop: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }

    fn spawn(&self, command: &mut Command) -> Result<Running, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        let output = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Running { child, output })
    }

    /// The command that runs the bundle in a container of `runtime`.
    fn runtime(&self, platform: &str, id: &str) -> Command {
        let mut command = match platform {
            "runc" => Command::new("runc"),
            _ => {
                let mut own = Command::new("/proc/self/exe");
                own.arg("--platform").arg(platform);
                own
            }
        };
        command.arg("--root").arg(self.dir.state());
        command.arg("run").arg("--bundle").arg(self.dir.bundle()).arg(id);
        command
    }

    fn native(&self, operation: &Operation) -> Result<f64, String> {
        let times = operation.base.to_string();
        let mut command = Command::new(&self.binary);
        command.args(["bench-program", operation.name, &times, "--sync"]);
        let mut running = self.spawn(&mut command)?;
        running.line()?;
        let ns = running.timed()?;
        running.go()?;
        running.end()?;
        Ok(ns / operation.base as f64)
    }

    /// Nanoseconds per operation, and exits per operation where there is a VM.
    fn contained(
        &self,
        operation: &Operation,
        platform: &str,
    ) -> Result<(f64, Option<f64>), String> {
        let mut totals = Vec::new();
        let mut best = f64::INFINITY;
        for factor in [1, 2] {
            let times = operation.base * factor;
            let id = format!("bench-{factor}");
            let count = times.to_string();
            self.configure(&["/ringwall", "bench-program", operation.name, &count, "--sync"])?;
            let mut running = self.spawn(&mut self.runtime(platform, &id))?;
            running.line()?;
            let before = (self.counters)(&self.dir.state(), &id)?;
            let ns = running.timed()?;
            let after = (self.counters)(&self.dir.state(), &id)?;
            running.go()?;
            running.end()?;
            best = best.min(ns / times as f64);
            totals.push(grown(&before, &after));
        }
        let slope = |name: &str| match totals.as_slice() {
            [once, twice] => Some((*twice.get(name)? - *once.get(name)?) / operation.base as f64),
            _ => None,
        };
        if let Some(totals) = totals.first() {
            let slopes = totals.keys().filter_map(|name| Some((name, slope(name)?)));
            for (name, slope) in slopes.filter(|(_, slope)| slope.abs() >= 0.005) {
                crate::debug!("{}: {name} {slope:.3}", operation.name);
            }
        }
        // Interrupts of the host's own are no exits of ours.
        Ok((best, slope("exits").map(|all| all - slope("irq_exits").unwrap_or(0.0))))
    }

    /// From the command to the container's first instruction, and to its end.
    fn start(&self, options: &Options, out: &mut Printer) -> Result<(), String> {
        self.configure(&["/ringwall", "bench-first"])?;
        let runc = Command::new("runc")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        let mut platforms = vec!["native"];
        platforms.extend(runc.then_some("runc"));
        platforms.extend(options.platforms.iter().map(String::as_str));
        let mut native: Option<(f64, f64)> = None;
        for platform in platforms {
            let mut best = (f64::INFINITY, f64::INFINITY);
            for n in 0..options.runs.max(5) {
                let mut command = match platform {
                    "native" => {
                        let mut program = Command::new(&self.binary);
                        program.arg("bench-first");
                        program
                    }
                    _ => self.runtime(platform, &format!("start-{n}")),
                };
                let start = Instant::now();
                let mut running = self.spawn(&mut command)?;
                running.output.read_exact(&mut [0]).map_err(|e| format!("{platform}: {e}"))?;
                let first = start.elapsed().as_secs_f64() * 1e3;
                running.end()?;
                let whole = start.elapsed().as_secs_f64() * 1e3;
                best = (best.0.min(first), best.1.min(whole));
            }
            let base = *native.get_or_insert(best);
            for (name, value, base) in
                [("start to first", best.0, base.0), ("start to end", best.1, base.1)]
            {
                let mut figure = Figure::new(name, platform, value, "ms");
                figure.ratio = (platform != "native").then_some(value / base);
                out.print(&figure);
            }
        }
        Ok(())
    }

    /// The proportional set size of all processes of an idle container, KiB.
    fn idle(&self, platform: &str) -> Result<f64, String> {
        self.configure(&["/ringwall", "bench-program", "null system call", "1", "--sync"])?;
        let mut running = self.spawn(&mut self.runtime(platform, "idle"))?;
        running.line()?;
        // What starting it has used goes back within 2 s.
        std::thread::sleep(std::time::Duration::from_millis(2500));
        let sum = family(running.child.id()).into_iter().filter_map(proportional_size).sum();
        running.go()?;
        running.line()?;
        running.go()?;
        running.end()?;
        Ok(sum)
    }
}

/// How much each counter has grown.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, f64> {
    let of = |name: &String| before.get(name).copied().unwrap_or(0);
    after.iter().map(|(name, n)| (name.clone(), *n as f64 - of(name) as f64)).collect()
}

/// A process and all its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name, in parentheses, may hold anything; the parent is the second field behind it.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|p| p.parse::<u32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
    }
    found
}

/// A process's proportional set size, KiB.
fn proportional_size(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|l| l.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The hidden commands that the measured copies of the binary are started with. `None` where
/// `args` (without the binary's name) is none of them.
pub fn hidden(args: &[String]) -> Option<Result<(), String>> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["bench-first"] => {
            Some(std::io::stdout().write_all(b".").map_err(|e| format!("standard output: {e}")))
        }
        ["bench-program", "--bare-loop"] => {
            Some(program::pin().and_then(|()| bare_loop::measure()).map(|ns| println!("{ns}")))
        }
        ["bench-program", name, times, rest @ ..] => Some(match times.parse() {
            Ok(times) => program::main(name, times, *rest == ["--sync"]),
            Err(e) => Err(format!("{times:?}: {e}")),
        }),
        _ => None,
    }
}
