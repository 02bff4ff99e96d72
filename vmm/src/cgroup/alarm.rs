//! Has the host count an OOM kill in a container's cgroup when the sentry has made one inside.
//!
//! Engines learn of it from the host's kernel: an event of `memory.oom_control` in version 1, a count in `memory.events` in
//! version 2. The sentry's own limit is the one that acts, and the host's is wider, so the host sees nothing. No file
//! raises the event; only a process that the kernel kills does. So the container's stand-in makes one in the group for
//! that: it lowers the group's limit to a little above what is used, has a child touch memory until it is killed for it,
//! and puts the limit back. The child asks to be killed first (`oom_score_adj`), and so does a second one that only waits: while
//! the limit is low, whoever else needs memory there finds one of them to kill. The sandbox, which may need more than that
//! gives, stands still meanwhile. Where the container's own processes ask to be killed before others
//! (`process.oomScoreAdj`), they do not for that time.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, pause, read, write};

use super::folder::Folder;
use super::{Error, Open};

/// How far above what is used the limit goes, bytes: whatever else happens in the group meanwhile has room.
const SLACK: u64 = 16 << 20;
/// The longest that the sandbox may take to stop.
const STOP: Duration = Duration::from_millis(100);
/// What the child touches at most beyond what is used, bytes. Page cache that the kernel can drop makes room for it first.
const BEYOND: u64 = 64 << 20;
/// The longest that the child may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// No more often than this: it is the sandbox who says that it is needed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Names of files that differ between the versions.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Which keeps the kernel from swapping the sandbox out instead, if set to 0.
    swap: &'static str,
    /// Which has a line that is this text in it where a kill would not be of one process only, or of none.
    unfit: (&'static str, &'static str),
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    swap: "memory.swappiness",
    unfit: ("memory.oom_control", "oom_kill_disable 1"),
};

const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    swap: "memory.swap.max",
    unfit: ("memory.oom.group", "1"),
};

/// What it takes, opened while the caller is where the host's files are.
#[derive(Debug)]
pub struct Alarm {
    memory: Folder,
    files: &'static Files,
    proc: OwnedFd,
    /// What the group's processes have as `oom_score_adj`.
    score: i32,
    last: Option<Instant>,
}

impl Alarm {
    /// For a container's groups, and the `oom_score_adj` of what is in them; `None` where none of them counts memory.
    pub fn of(group: Open, score: Option<i32>) -> Option<Alarm> {
        let files = if group.unified { &V2 } else { &V1 };
        let memory = group.into_group_with("memory")?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = nix::fcntl::open("/proc", flags, Mode::empty()).ok()?;
        let score = score.unwrap_or(0);
        memory.has(files.limit).then_some(Alarm { memory, files, proc, score, last: None })
    }

    /// Raises the event. The caller has one thread, and is in the group; so is the sandbox, its child, if that is given.
    pub fn raise(&mut self, sandbox: Option<Pid>) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        match self.kill_one(sandbox) {
            Ok(true) => crate::debug!("the container's cgroup has counted an OOM kill"),
            Ok(false) => crate::warning!("the container's cgroup has not counted an OOM kill"),
            // Without the right to set limits, most likely.
            Err(e) => crate::debug!("the container's cgroup cannot count an OOM kill: {e}"),
        }
    }

    /// Whether a process was killed.
    fn kill_one(&self, sandbox: Option<Pid>) -> Result<bool, Error> {
        let _lock = self.memory.lock()?;
        let (file, line) = self.files.unfit;
        if self.memory.has(file) && self.memory.read(file)?.lines().any(|l| l.trim() == line) {
            return Ok(false);
        }
        let host = |e: Errno| Error::file(Path::new("/proc"), e.into());
        let usage = self.memory.number(self.files.usage)?;
        let _scores = (self.score > 0).then(|| Unscored::new(self)).transpose()?;
        let _guard = Member::start(&self.proc, None).map_err(host)?;
        let victim = Member::start(&self.proc, usage.checked_add(BEYOND)).map_err(host)?;
        // What else it lets run wants memory as well, and may have just been given that of the process that was killed inside.
        let _held = sandbox.map(Held::new);
        let _limit = Lowered::new(&self.memory, self.files.limit, |old| {
            let low = self.memory.number(self.files.usage).ok()?.checked_add(SLACK)?;
            (old > low).then(|| low.to_string())
        })?;
        let _swap = match self.memory.has(self.files.swap) {
            true => Some(Lowered::new(&self.memory, self.files.swap, |_| Some("0".into()))?),
            false => None,
        };
        // The guard goes when everything is as it was, and then the lock.
        Ok(victim.go())
    }
}

/// A file of one number that has a lower one until this is dropped.
struct Lowered<'a> {
    folder: &'a Folder,
    name: &'static str,
    /// What it had, and what it has now.
    values: Option<(String, String)>,
}

impl<'a> Lowered<'a> {
    /// `low` makes the number of what is there; `None`: it stays.
    fn new(
        folder: &'a Folder,
        name: &'static str,
        low: impl Fn(u64) -> Option<String>,
    ) -> Result<Self, Error> {
        let old = folder.read(name)?.trim().to_owned();
        let new = low(old.parse().unwrap_or(u64::MAX));
        if let Some(new) = &new {
            folder.write(name, new)?;
        }
        // The kernel may round it.
        let values = new.map(|_| folder.read(name)).transpose()?;
        let values = values.map(|now| (old, now));
        Ok(Lowered { folder, name, values })
    }
}

impl Drop for Lowered<'_> {
    fn drop(&mut self) {
        let Some((old, now)) = &self.values else { return };
        // systemd may have set another meanwhile.
        let back = match self.folder.read(self.name) {
            Ok(value) if value == *now => self.folder.write(self.name, old),
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = back {
            crate::error!("{e}");
        }
    }
}

/// The sandbox, which stands still until this is dropped and takes no memory that the kernel would kill it for.
struct Held(Pid);

impl Held {
    fn new(sandbox: Pid) -> Held {
        let held = Held(sandbox);
        let begun = Instant::now();
        // Where it has ended, or stops too late, there is the slack.
        if kill(sandbox, Signal::SIGSTOP).is_ok() {
            let stops = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
            while matches!(
                waitid(Id::Pid(sandbox), stops),
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
            ) && begun.elapsed() < STOP
            {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _gone_already = kill(self.0, Signal::SIGCONT);
    }
}

/// The group's processes without the score of theirs until this is dropped: with it, they could come before a member.
struct Unscored<'a>(&'a Alarm);

impl<'a> Unscored<'a> {
    fn new(alarm: &'a Alarm) -> Result<Self, Error> {
        let unscored = Unscored(alarm);
        unscored.set(0)?;
        Ok(unscored)
    }

    /// Gives it to all that are there, those that have come meanwhile too.
    fn set(&self, score: i32) -> Result<(), Error> {
        let Alarm { memory, proc, .. } = self.0;
        for pid in memory.read("cgroup.procs")?.lines() {
            let path = format!("{pid}/oom_score_adj");
            let set = openat(proc, path.as_str(), OFlag::O_WRONLY, Mode::empty())
                .and_then(|file| write(&file, score.to_string().as_bytes()));
            match set {
                // It has ended.
                Ok(_) | Err(Errno::ENOENT | Errno::ESRCH) => {}
                Err(e) => return Err(Error::file(&Path::new("/proc").join(path), e.into())),
            }
        }
        Ok(())
    }
}

impl Drop for Unscored<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.set(self.0.score) {
            crate::warning!("{e}");
        }
    }
}

/// A child in the caller's groups that the kernel kills before anything else there. It ends with this.
struct Member {
    /// `None`: it has ended, and has been waited for.
    pid: Option<Pid>,
    /// It waits for a byte from here.
    gate: OwnedFd,
}

impl Member {
    /// Starts one that waits, and touches so many bytes of memory then, if any.
    fn start(proc: &OwnedFd, bytes: Option<u64>) -> Result<Member, Errno> {
        let (there, gate) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (ready, here) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let parent = nix::unistd::getpid();
        // SAFETY: the caller has one thread, so the child may do as it likes.
        let pid = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop((ready, gate));
                let outcome = live(proc, parent, &here, &there, bytes);
                // SAFETY: nothing of the parent's is to be run at the end.
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
        };
        drop((here, there));
        let member = Member { pid: Some(pid), gate };
        match read(&ready, &mut [0]) {
            Ok(1) => Ok(member),
            // It has ended.
            Ok(_) => Err(Errno::EPERM),
            Err(e) => Err(e),
        }
    }

    /// Lets it go on; whether it is killed for it.
    fn go(mut self) -> bool {
        let Some(pid) = self.pid else { return false };
        if write(&self.gate, b"x").is_err() {
            return false;
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                end => {
                    self.pid = None;
                    return matches!(end, Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)));
                }
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        false
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(pid) = self.pid else { return };
        let _gone_already = kill(pid, Signal::SIGKILL);
        while waitpid(pid, None) == Err(Errno::EINTR) {}
    }
}

/// A member's life, in the child.
fn live(
    proc: &OwnedFd,
    parent: Pid,
    ready: &OwnedFd,
    gate: &OwnedFd,
    bytes: Option<u64>,
) -> Result<(), Errno> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(Errno::ESRCH);
    }
    let adj = openat(proc, "self/oom_score_adj", OFlag::O_WRONLY, Mode::empty())?;
    write(&adj, b"1000")?;
    write(ready, b"x")?;
    read(gate, &mut [0])?;
    let Some(bytes) = bytes.and_then(|bytes| usize::try_from(bytes).ok()) else {
        pause();
        return Ok(());
    };
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| Errno::ENOMEM)?;
    memory.resize(bytes, 1u8);
    // Not killed.
    std::hint::black_box(&memory);
    Ok(())
}
