//! `ringwall bench`: what things cost here, natively and on each platform that works.
//!
//! The same binary runs the same operations ([`program`]) natively and in containers, in one run and
//! taking turns, so that the ratios mean something on a noisy machine. Figures are medians: of the
//! stretches that one run is timed in, and of the runs. Exits are the slope over two run lengths, so
//! that what happens once does not count.
//!
//! The commands that are measured are another copy of the binary than this process runs, and than the
//! containers have in their root: the idle container's memory is not shared with either.

mod bare_loop;
mod commands;
mod lives;
pub mod program;
mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use serde::Serialize;
use serde_json::json;

use program::{OPERATIONS, Operation, median};

/// How long a measured program may take for one answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// Names of all that is measured.
pub fn names() -> impl Iterator<Item = &'static str> {
    let commands = commands::COMMANDS.iter().map(|command| command.name);
    OPERATIONS.iter().map(|operation| operation.name).chain(lives::NAMES).chain(commands)
}

/// What `--help` says at its end.
pub fn help() -> String {
    let names: Vec<&str> = names().collect();
    format!(
        "Operations: {}.\n\n\
         Times are of one operation, on one CPU, with the operations natively and in containers taking \
         turns; a page fault is of anonymous memory, for each page. `exits` are those of the VM for one \
         operation. A bare loop is one PTRACE_SYSEMU round with the registers read and written: what a \
         system call under ptrace costs at least; `bare loops` are for each system call of the operation. \
         Lives of containers are beside runc's where runc is installed. Starts are of a program that says a \
         word and ends, with `auto` once with its verdict cached and once without (cold); `create to delete` \
         are the commands create, start and delete, with the program's end before the last; `exec` is that \
         program in a running container; `20 at once` is from the first start to the last end. Idle memory \
         is the proportional set size of all processes of a container that waits, and idle CPU time what \
         they use in 10 s. `malloc` is one allocation of each of so many \
         threads, which may use all CPUs. What comes behind it in the list are commands of a Debian root \
         (--rootfs), the second time that they run in their container; runc's container stands for the \
         native system there.",
        names.join(", ")
    )
}

/// What `bench` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// One JSON object a line instead of a table.
    pub json: bool,
    /// Only operations whose name contains one of these; none: all.
    pub only: Vec<String>,
    /// Runs of each operation; the median counts.
    pub runs: u32,
    /// Platforms to measure beside native, by name.
    pub platforms: Vec<String>,
    /// The root of the commands; they are left out without.
    pub rootfs: Option<PathBuf>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub operation: String,
    /// Where: `native`, `runc`, `kvm`, `ptrace`, or `auto` for what that picks.
    pub platform: String,
    /// How much.
    pub value: f64,
    /// `ns`, `us`, `ms`, `KiB`.
    pub unit: &'static str,
    /// To the native figure of the same run.
    pub ratio: Option<f64>,
    /// To runc's, for lives, where runc is installed.
    pub to_runc: Option<f64>,
    /// VM exits per operation.
    pub exits: Option<f64>,
    /// Under ptrace: in bare loops, per system call really made.
    pub bare_loops: Option<f64>,
}

/// Reads KVM's counters of the container of this name, whose state is below this folder; empty where
/// there is no VM.
pub type Counters<'a> = &'a dyn Fn(&Path, &str) -> Result<BTreeMap<String, u64>, String>;

/// Runs it all and prints to standard output.
pub fn run(options: &Options, counters: Counters<'_>) -> Result<(), String> {
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|only| name.contains(only.as_str()))
    };
    if !names().any(wanted) {
        let only = options.only.join(", ");
        return Err(format!("no operation is called {only:?}; --help names them"));
    }
    let dir = Scratch::new()?;
    let bench = Bench { dir: &dir, binary: dir.rootfs().join("ringwall"), counters };
    bench.prepare()?;
    let mut out = Printer { json: options.json, started: false };
    let ptrace = options.platforms.iter().any(|p| p == "ptrace");
    if ptrace {
        let mut rounds = (0..options.rounds()).map(|_| bench.bare_loop());
        let bare = middle(rounds.by_ref().collect::<Result<_, _>>()?)?;
        out.print(&Figure::new("bare loop", "native", bare, "ns"));
    }
    for operation in OPERATIONS.iter().filter(|o| wanted(o.name)) {
        bench.operation(operation, options, ptrace, &mut out)?;
    }
    bench.lives(&wanted, options, &mut out)?;
    if let Some(rootfs) = &options.rootfs {
        for command in commands::COMMANDS.iter().filter(|c| wanted(c.name)) {
            bench.command(command, rootfs, options, &mut out)?;
        }
    }
    Ok(())
}

/// The middle one of what the rounds found.
fn middle(mut values: Vec<f64>) -> Result<f64, String> {
    median(&mut values).ok_or_else(|| "nothing was measured".into())
}

impl Options {
    fn rounds(&self) -> u32 {
        self.runs.max(1)
    }
}

impl Figure {
    fn new(operation: &str, platform: &str, value: f64, unit: &'static str) -> Figure {
        Figure {
            operation: operation.into(),
            platform: platform.into(),
            value,
            unit,
            ratio: None,
            to_runc: None,
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
                "{:<22} {:<8} {:>14} {:<4} {:>9} {:>9} {:>9} {:>11}",
                "operation",
                "platform",
                "value",
                "unit",
                "x native",
                "x runc",
                "exits",
                "bare loops"
            );
        }
        let cell = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2}"));
        println!(
            "{:<22} {:<8} {:>14.1} {:<4} {:>9} {:>9} {:>9} {:>11}",
            f.operation,
            f.platform,
            f.value,
            f.unit,
            cell(f.ratio),
            cell(f.to_runc),
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

    /// The copy of this binary whose commands are measured.
    fn command(&self) -> PathBuf {
        self.0.join("ringwall")
    }

    /// The program of the containers that are started and kept.
    fn tiny(&self) -> PathBuf {
        self.0.join("bundle/rootfs/tiny")
    }

    /// Where that keeps `auto`'s verdict.
    fn verdicts(&self) -> PathBuf {
        self.0.join("verdicts")
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

/// What one run of an operation found.
struct Sample {
    ns: f64,
    /// System calls per operation; 0: unknown.
    calls: f64,
}

/// A started measurement program, waiting for its first byte or for its second.
struct Running {
    child: Child,
    /// Readable when the child has ended.
    ended: OwnedFd,
    output: std::process::ChildStdout,
}

/// Waits for a descriptor to become readable.
fn wait_for(fd: BorrowedFd<'_>, until: Instant) -> Result<(), String> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Ok(0) => return Err(format!("the measured program hangs: no answer in {PATIENCE:?}")),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
    }
}

impl Running {
    fn spawn(command: &mut Command) -> Result<Running, String> {
        let program = command.get_program().display().to_string();
        let fail = |e: std::io::Error| format!("{program}: {e}");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(fail)?;
        let output = child.stdout.take();
        // SAFETY: no memory arguments.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        let (Some(output), Ok(fd @ 0..)) = (output, i32::try_from(fd)) else {
            let e = std::io::Error::last_os_error();
            let _gone = child.kill();
            let _reaped = child.wait();
            return Err(fail(e));
        };
        // SAFETY: the descriptor is new and ours.
        let ended = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Running { child, ended, output })
    }

    /// The next byte; `None`: it has closed its output.
    fn byte(&mut self, until: Instant) -> Result<Option<u8>, String> {
        wait_for(self.output.as_fd(), until)?;
        let mut byte = [0];
        let n = self.output.read(&mut byte).map_err(|e| e.to_string())?;
        Ok((n == 1).then_some(byte[0]))
    }

    fn line(&mut self) -> Result<String, String> {
        let until = Instant::now() + PATIENCE;
        let mut line = Vec::new();
        loop {
            match self.byte(until)? {
                Some(b'\n') => return Ok(String::from_utf8_lossy(&line).into()),
                Some(byte) => line.push(byte),
                None => {
                    let status = self.wait()?;
                    return Err(format!("the measured program ended without a result ({status})"));
                }
            }
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.say(b"g")
    }

    fn say(&mut self, word: &[u8]) -> Result<(), String> {
        let input = self.child.stdin.as_mut().ok_or("no standard input")?;
        input.write_all(word).map_err(|e| e.to_string())
    }

    /// Lets it run the timed part.
    fn timed(&mut self) -> Result<Sample, String> {
        self.go()?;
        let line = self.line()?;
        let mut words = line.split(' ').map(str::parse);
        match (words.next(), words.next()) {
            (Some(Ok(ns)), Some(Ok(calls))) => Ok(Sample { ns, calls }),
            _ => Err(format!("the measured program says {line:?}")),
        }
    }

    fn wait(&mut self) -> Result<ExitStatus, String> {
        wait_for(self.ended.as_fd(), Instant::now() + PATIENCE)?;
        self.child.wait().map_err(|e| e.to_string())
    }

    fn end(mut self) -> Result<(), String> {
        let status = self.wait()?;
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
        let dirs = [root.clone(), root.join("proc"), root.join("tmp"), root.join("dev")];
        for dir in dirs.into_iter().chain([self.dir.verdicts()]) {
            fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let files = root.join(program::FOLDER);
        fs::create_dir(&files)
            .and_then(|()| {
                (0..program::FILES)
                    .try_for_each(|n| fs::write(files.join(n.to_string()), [b'x'; 4096]))
            })
            .map_err(|e| format!("{}: {e}", files.display()))?;
        let tiny = self.dir.tiny();
        fs::write(&tiny, tiny::file()).map_err(|e| format!("{}: {e}", tiny.display()))?;
        for copy in [&self.binary, &self.dir.command()] {
            fs::copy("/proc/self/exe", copy).map_err(|e| format!("{}: {e}", copy.display()))?;
        }
        for program in [&self.binary, &self.dir.command(), &tiny] {
            fs::set_permissions(program, fs::Permissions::from_mode(0o755))
                .map_err(|e| format!("{}: {e}", program.display()))?;
        }
        Ok(())
    }

    /// Writes the bundle's config for this command.
    fn configure(&self, args: &[&str]) -> Result<(), String> {
        self.configure_in(Path::new("rootfs"), args)
    }

    /// The same, with another root.
    fn configure_in(&self, root: &Path, args: &[&str]) -> Result<(), String> {
        let config = json!({
            "ociVersion": "1.2.0",
            "root": { "path": root, "readonly": true },
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/"],
                "cwd": "/",
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "network" },
            ] },
        });
        let path = self.dir.bundle().join("config.json");
        fs::write(&path, config.to_string()).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// One operation, natively and on each platform, and what a bare loop takes meanwhile.
    fn operation(
        &self,
        operation: &Operation,
        options: &Options,
        ptrace: bool,
        out: &mut Printer,
    ) -> Result<(), String> {
        let mut native = Vec::new();
        let mut loops = Vec::new();
        let mut found: Vec<(Vec<f64>, Vec<f64>, Option<f64>)> = Vec::new();
        found.resize_with(options.platforms.len(), Default::default);
        for _ in 0..options.rounds() {
            native.push(self.native(operation)?.ns);
            if ptrace {
                loops.push(self.bare_loop()?);
            }
            for (platform, (ns, calls, exits)) in options.platforms.iter().zip(&mut found) {
                let (sample, slope) = self
                    .contained(operation, platform)
                    .map_err(|e| format!("{} on {platform}: {e}", operation.name))?;
                ns.push(sample.ns);
                calls.push(sample.calls);
                *exits = slope.or(*exits);
            }
        }
        let native = middle(native)?;
        out.print(&Figure::new(operation.name, "native", native, "ns"));
        for (platform, (ns, calls, exits)) in options.platforms.iter().zip(found) {
            let (ns, calls) = (middle(ns)?, middle(calls)?);
            let mut figure = Figure::new(operation.name, platform, ns, "ns");
            figure.ratio = Some(ns / native);
            figure.exits = exits;
            if platform == "ptrace" && calls > 0.0 {
                figure.bare_loops = Some(ns / middle(loops.clone())? / calls);
            }
            out.print(&figure);
        }
        Ok(())
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

    /// The command that runs the bundle in a container on `platform`.
    fn runtime(&self, platform: &str, id: &str) -> Command {
        let mut command = self.verb(platform, "run");
        command.arg("--bundle").arg(self.dir.bundle()).arg(id);
        command
    }

    /// A command of the runtime of `platform`.
    fn verb(&self, platform: &str, verb: &str) -> Command {
        let mut command = match platform {
            "runc" => Command::new("runc"),
            _ => {
                let mut own = Command::new(self.dir.command());
                own.arg("--platform").arg(platform);
                own.env("XDG_RUNTIME_DIR", self.dir.verdicts());
                own
            }
        };
        command.arg("--root").arg(self.dir.state()).arg(verb);
        command
    }

    fn native(&self, operation: &Operation) -> Result<Sample, String> {
        let times = operation.base.to_string();
        let mut command = Command::new(&self.binary);
        command.args(["bench-program", operation.name, &times, "--sync"]);
        let mut running = Running::spawn(&mut command)?;
        running.line()?;
        let sample = running.timed()?;
        running.go()?;
        running.end()?;
        Ok(sample)
    }

    /// A run, and exits per operation where there is a VM.
    fn contained(
        &self,
        operation: &Operation,
        platform: &str,
    ) -> Result<(Sample, Option<f64>), String> {
        let (sample, once) = self.counted(operation, platform, 1)?;
        if once.is_empty() {
            return Ok((sample, None));
        }
        let (longer, twice) = self.counted(operation, platform, 2)?;
        let slope =
            |name: &str| Some((*twice.get(name)? - *once.get(name)?) / operation.base as f64);
        let slopes = once.keys().filter_map(|name| Some((name, slope(name)?)));
        for (name, slope) in slopes.filter(|(_, slope)| slope.abs() >= 0.005) {
            crate::debug!("{}: {name} {slope:.3}", operation.name);
        }
        // Interrupts of the host's own are no exits of ours.
        let exits = slope("exits").map(|all| all - slope("irq_exits").unwrap_or(0.0));
        Ok((if sample.ns < longer.ns { sample } else { longer }, exits))
    }

    /// A run of so many times the operation's length, and how much each counter has grown.
    fn counted(
        &self,
        operation: &Operation,
        platform: &str,
        factor: u64,
    ) -> Result<(Sample, BTreeMap<String, f64>), String> {
        let times = operation.base * factor;
        let id = format!("bench-{factor}");
        let count = times.to_string();
        self.configure(&["/ringwall", "bench-program", operation.name, &count, "--sync"])?;
        let mut running = Running::spawn(&mut self.runtime(platform, &id))?;
        running.line()?;
        let before = (self.counters)(&self.dir.state(), &id)?;
        let sample = running.timed()?;
        let after = (self.counters)(&self.dir.state(), &id)?;
        running.go()?;
        running.end()?;
        Ok((sample, grown(&before, &after)))
    }
}

/// How much each counter has grown.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, f64> {
    let of = |name: &String| before.get(name).copied().unwrap_or(0);
    after.iter().map(|(name, n)| (name.clone(), *n as f64 - of(name) as f64)).collect()
}

/// The hidden commands that the measured copies of the binary are started with. `None` where
/// `args` (without the binary's name) is none of them.
pub fn hidden(args: &[String]) -> Option<Result<(), String>> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
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
