//! Lives of containers, timed from outside, beside runc's where runc is installed: starting one, the four commands of a
//! whole life, another process in one, many at once; and what one costs that only waits.
//!
//! The program inside is [`tiny`](super::tiny), so that what is measured is the runtime's part.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{Bench, Figure, Options, PATIENCE, Printer, Running, grown, middle, wait_for};

/// From the command to the container's first instruction, and to its end.
const STARTS: [&str; 2] = ["start to first", "start to end"];
/// `create`, `start`, the end, `delete`.
const LIFE: &str = "create to delete";
/// A process in a running container, from the command to its end.
const EXEC: &str = "exec";
/// From the first command to the last end.
const MANY: &str = "20 at once";
/// What a container costs that waits: memory, and processor time of [`IDLE_TIME`].
const IDLE: [&str; 2] = ["idle memory", "idle CPU time"];
/// All of them.
pub const NAMES: [&str; 7] = [STARTS[0], STARTS[1], LIFE, EXEC, MANY, IDLE[0], IDLE[1]];

/// How long the host gets to forget a probe.
const SETTLE: Duration = Duration::from_millis(300);
/// What starting a container has used goes back within 2 s.
const RETURNED: Duration = Duration::from_millis(2500);
/// How long an idle container is watched.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// Rounds at least of what takes milliseconds.
const ROUNDS: u32 = 9;

impl Bench<'_> {
    /// Measures those that are wanted.
    pub(super) fn lives(
        &self,
        wanted: &dyn Fn(&str) -> bool,
        options: &Options,
        out: &mut Printer,
    ) -> Result<(), String> {
        if !NAMES.into_iter().any(wanted) {
            return Ok(());
        }
        // What a detached container leaves is this process's to reap.
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let version = Command::new("runc")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let runc = version.is_ok_and(|status| status.success());
        let platforms = runc.then_some("runc").into_iter();
        let platforms: Vec<&str> =
            platforms.chain(options.platforms.iter().map(String::as_str)).collect();
        if STARTS.into_iter().any(wanted) {
            self.starts(&platforms, options, out)?;
        }
        let rounds = options.rounds().max(ROUNDS);
        if wanted(LIFE) {
            self.configure(&["/tiny"])?;
            let all = alternate(&platforms, rounds, |platform, n| self.life(platform, n))?;
            report(LIFE, &platforms, all, out)?;
        }
        if wanted(EXEC) {
            self.execs(&platforms, 3 * rounds, out)?;
        }
        if wanted(MANY) {
            self.configure(&["/tiny"])?;
            let all =
                alternate(&platforms, options.rounds(), |platform, n| self.many(platform, n))?;
            report(MANY, &platforms, all, out)?;
        }
        if IDLE.into_iter().any(wanted) {
            self.idle(&platforms, out)?;
        }
        Ok(())
    }

    /// From the command to the container's first instruction, and to its end. With `auto`, also
    /// where its verdict has to be found first.
    fn starts(
        &self,
        platforms: &[&str],
        options: &Options,
        out: &mut Printer,
    ) -> Result<(), String> {
        self.configure(&["/tiny"])?;
        let mut kinds: Vec<(&str, bool)> = vec![("native", false)];
        kinds.extend(platforms.iter().map(|platform| (*platform, false)));
        kinds.extend([("auto", true), ("auto", false)]);
        let mut found = vec![(Vec::new(), Vec::new()); kinds.len()];
        for n in 0..options.rounds().max(ROUNDS) {
            for ((platform, cold), (first, whole)) in kinds.iter().zip(&mut found) {
                if *cold {
                    let verdicts = self.dir.verdicts();
                    fs::remove_dir_all(&verdicts)
                        .and_then(|()| fs::create_dir(&verdicts))
                        .map_err(|e| format!("{}: {e}", verdicts.display()))?;
                }
                let mut command = match *platform {
                    "native" => Command::new(self.dir.tiny()),
                    _ => self.runtime(platform, &format!("start-{n}")),
                };
                let start = Instant::now();
                let mut running = Running::spawn(&mut command)?;
                if running.byte(start + PATIENCE)?.is_none() {
                    return Err(format!("start on {platform}: {}", running.wait()?));
                }
                first.push(start.elapsed().as_secs_f64() * 1e3);
                running.end().map_err(|e| format!("start on {platform}: {e}"))?;
                whole.push(start.elapsed().as_secs_f64() * 1e3);
                if *cold {
                    // The probe's machine is taken down behind everybody's back.
                    std::thread::sleep(SETTLE);
                }
            }
        }
        let mut bases: [(Option<f64>, Option<f64>); 2] = Default::default();
        for ((platform, cold), (first, whole)) in kinds.into_iter().zip(found) {
            let names = match cold {
                false => STARTS,
                true => ["start to first, cold", "start to end, cold"],
            };
            for ((name, values), (native, runc)) in
                names.into_iter().zip([first, whole]).zip(&mut bases)
            {
                let value = middle(values)?;
                let mut figure = Figure::new(name, platform, value, "ms");
                match platform {
                    "native" => *native = Some(value),
                    "runc" => *runc = Some(value),
                    _ => {}
                }
                if platform != "native" {
                    figure.ratio = native.map(|native| value / native);
                    figure.to_runc = runc.map(|runc| value / runc);
                }
                out.print(&figure);
            }
        }
        Ok(())
    }

    /// Milliseconds of the four commands, as an engine gives them.
    fn life(&self, platform: &str, n: u32) -> Result<f64, String> {
        let id = format!("life-{n}");
        let pid_file = self.dir.0.join("pid");
        let start = Instant::now();
        let mut create = self.verb(platform, "create");
        create.arg("--bundle").arg(self.dir.bundle()).arg("--pid-file").arg(&pid_file).arg(&id);
        succeed(&mut create)?;
        let end = End::of(&pid_file)?;
        succeed(self.verb(platform, "start").arg(&id))?;
        end.wait()?;
        succeed(self.verb(platform, "delete").arg(&id))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// Processes in containers that run all the while.
    fn execs(&self, platforms: &[&str], rounds: u32, out: &mut Printer) -> Result<(), String> {
        self.configure(&["/tiny", "wait"])?;
        let id = |platform: &str| format!("exec-{platform}");
        let kept: Vec<Kept> = platforms
            .iter()
            .map(|platform| self.keep(platform, &id(platform)))
            .collect::<Result<_, _>>()?;
        let count = |platform: &str| match platform {
            "runc" => Ok(Default::default()),
            _ => (self.counters)(&self.dir.state(), &id(platform)),
        };
        let before: Vec<_> =
            platforms.iter().map(|platform| count(platform)).collect::<Result<_, _>>()?;
        let all = alternate(platforms, rounds, |platform, _| {
            let start = Instant::now();
            succeed(self.verb(platform, "exec").arg(id(platform)).arg("/tiny"))?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })?;
        let mut exits = Vec::new();
        for (platform, before) in platforms.iter().zip(&before) {
            let grown = grown(before, &count(platform)?);
            let of = |name| grown.get(name).copied();
            // Interrupts of the host's own are no exits of ours.
            let all = of("exits").map(|all| all - of("irq_exits").unwrap_or(0.0));
            exits.push(all.map(|all| all / f64::from(rounds)));
        }
        for (platform, kept) in platforms.iter().zip(kept) {
            self.end(platform, &id(platform), kept)?;
        }
        let all = all.into_iter().zip(exits).map(|(ms, exits)| Ok((middle(ms)?, exits)));
        print(EXEC, "ms", platforms, all.collect::<Result<_, String>>()?, out);
        Ok(())
    }

    /// Milliseconds from the first of twenty commands to the end of all of them.
    fn many(&self, platform: &str, n: u32) -> Result<f64, String> {
        let start = Instant::now();
        let mut all = Vec::new();
        for k in 0..20 {
            all.push(Running::spawn(&mut self.runtime(platform, &format!("many-{n}-{k}")))?);
        }
        all.into_iter().try_for_each(Running::end)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// A container that waits, without a command in the foreground, as an engine has it.
    fn keep(&self, platform: &str, id: &str) -> Result<Kept, String> {
        let pid_file = self.dir.0.join("pid");
        let mut run = self.verb(platform, "run");
        run.arg("--detach").arg("--bundle").arg(self.dir.bundle());
        let mut running = Running::spawn(run.arg("--pid-file").arg(&pid_file).arg(id))?;
        running.line()?;
        // Waiting for the command would close it, and the container's program reads it.
        let input = running.child.stdin.take();
        let status = running.wait()?;
        if !status.success() {
            return Err(format!("run on {platform}: {status}"));
        }
        Ok(Kept { input, end: End::of(&pid_file)? })
    }

    fn end(&self, platform: &str, id: &str, kept: Kept) -> Result<(), String> {
        let Kept { input, end } = kept;
        drop(input);
        end.wait()?;
        succeed(self.verb(platform, "delete").arg(id))
    }

    /// The proportional set size of all processes of an idle container, KiB, and the time that they use.
    fn idle(&self, platforms: &[&str], out: &mut Printer) -> Result<(), String> {
        self.configure(&["/tiny", "wait"])?;
        let (mut memory, mut time) = (Vec::new(), Vec::new());
        for platform in platforms {
            let kept = self.keep(platform, "idle")?;
            std::thread::sleep(RETURNED);
            let family = family(kept.end.pid);
            let used = || family.iter().map(|pid| processor_time(*pid)).sum::<f64>();
            let before = used();
            std::thread::sleep(IDLE_TIME);
            time.push((used() - before, None));
            let sum = distinct(&family).into_iter().filter_map(proportional_size).sum();
            memory.push((sum, None));
            self.end(platform, "idle", kept)?;
        }
        print(IDLE[0], "KiB", platforms, memory, out);
        print(IDLE[1], "us", platforms, time, out);
        Ok(())
    }
}

/// A container that waits, and the end of it.
struct Kept {
    /// Open for as long as it is to wait.
    input: Option<ChildStdin>,
    end: End,
}

/// The end of a container's process on the host.
struct End {
    pid: u32,
    fd: OwnedFd,
}

impl End {
    fn of(pid_file: &std::path::Path) -> Result<End, String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", pid_file.display());
        let text = fs::read_to_string(pid_file).map_err(|e| fail(&e))?;
        let pid: u32 = text.trim().parse().map_err(|e| fail(&e))?;
        // SAFETY: takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = Errno::result(fd).map_err(|e| fail(&e))?;
        // SAFETY: the descriptor is new and ours.
        Ok(End { pid, fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    fn wait(&self) -> Result<(), String> {
        wait_for(self.fd.as_fd(), Instant::now() + PATIENCE)?;
        // Unless it is somebody else's to reap.
        let _reaped = waitpid(Pid::from_raw(self.pid as i32), Some(WaitPidFlag::WNOHANG));
        Ok(())
    }
}

/// Runs a command without streams that must succeed.
fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(e) => Err(format!("{command:?}: {e}")),
    }
}

/// Rounds on each platform in turn; what each has found.
fn alternate(
    platforms: &[&str],
    rounds: u32,
    mut one: impl FnMut(&str, u32) -> Result<f64, String>,
) -> Result<Vec<Vec<f64>>, String> {
    let mut found = vec![Vec::new(); platforms.len()];
    for n in 0..rounds {
        for (platform, values) in platforms.iter().zip(&mut found) {
            values.push(one(platform, n)?);
        }
    }
    Ok(found)
}

/// Prints the medians, in milliseconds.
fn report(
    name: &str,
    platforms: &[&str],
    found: Vec<Vec<f64>>,
    out: &mut Printer,
) -> Result<(), String> {
    let values = found.into_iter().map(|values| Ok((middle(values)?, None)));
    print(name, "ms", platforms, values.collect::<Result<_, String>>()?, out);
    Ok(())
}

/// Prints a value and exits for each platform, of which the first may be runc.
fn print(
    name: &str,
    unit: &'static str,
    platforms: &[&str],
    values: Vec<(f64, Option<f64>)>,
    out: &mut Printer,
) {
    let mut runc = None;
    for (platform, (value, exits)) in platforms.iter().zip(values) {
        let mut figure = Figure::new(name, platform, value, unit);
        figure.to_runc = runc.map(|runc: f64| value / runc).filter(|ratio| ratio.is_finite());
        figure.exits = exits;
        if *platform == "runc" {
            runc = Some(value);
        }
        out.print(&figure);
    }
}

/// Microseconds of processor time that a process's threads have used.
fn processor_time(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let files = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    let times = files.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok());
    times.sum::<f64>() / 1e3
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

/// Of processes that share their memory (a stub and its thread are two to the host), one each.
fn distinct(pids: &[u32]) -> Vec<u32> {
    /// include/uapi/linux/kcmp.h
    const KCMP_VM: i32 = 1;
    let mut found: Vec<u32> = Vec::new();
    for pid in pids {
        // SAFETY: no memory arguments. Where the host cannot compare, all count.
        let same = |other: &u32| unsafe {
            libc::syscall(libc::SYS_kcmp, *other, *pid, KCMP_VM, 0, 0) == 0
        };
        if !found.iter().any(same) {
            found.push(*pid);
        }
    }
    found
}

/// A process's proportional set size, KiB.
fn proportional_size(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|l| l.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
