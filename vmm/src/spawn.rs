//! Starting the processes of a sandbox: re-executions of this binary, born into namespaces of their
//! own.
//!
//! The child finds one descriptor beside its standard ones, its link to whoever started it, and
//! learns everything else over that. It inherits no environment, no signal mask and no other
//! descriptor. Nothing waits for anything here: the id maps of a new user namespace are written while
//! the child executes; its first message comes after that.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid};

use crate::config::IdRange;
use crate::host::{Sets, capget, capset, prctl};

/// The descriptor of a child's link.
pub const LINK: i32 = 3;

/// The namespaces that every process of a sandbox is born into, with or without one of users.
pub const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// User namespaces are switched off.
    #[error(
        "cannot create a user namespace: {0}; check user.max_user_namespaces and \
         kernel.unprivileged_userns_clone, or run as root"
    )]
    UserNamespace(Errno),
    /// There is no /dev/null.
    #[error("cannot open /dev/null: {0}")]
    Null(Errno),
    /// clone(2) failed.
    #[error("cannot start a process: {0}")]
    Clone(Errno),
    /// The maps of a user namespace were refused.
    #[error("cannot map user and group ids: {0}")]
    Map(std::io::Error),
}

/// Says how gladly the host's kernel is to kill this process for memory, and those that it starts from now on: -1000 to
/// 1000. Less gladly than before is for those only who have CAP_SYS_RESOURCE.
pub fn set_oom_score(score: i32) {
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        crate::warning!("config.json: process.oomScoreAdj is not set on the host: {e}");
    }
}

/// The id maps of a new user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// Maps one user and one group, to themselves.
    pub fn only(uid: u32, gid: u32) -> IdMaps {
        IdMaps { uids: vec![(uid, uid, 1)], gids: vec![(gid, gid, 1)] }
    }

    /// Maps each to itself.
    pub fn every() -> IdMaps {
        IdMaps { uids: vec![(0, 0, u32::MAX)], gids: vec![(0, 0, u32::MAX)] }
    }

    /// Gives them to the user namespace of a process, whose folder in /proc this is.
    pub fn write(&self, process: BorrowedFd<'_>) -> std::io::Result<()> {
        let text = |ranges: &[IdRange]| -> String {
            let line = |(inside, outside, count): &IdRange| format!("{inside} {outside} {count}\n");
            ranges.iter().map(line).collect()
        };
        let write = |name: &CStr, text: &str| {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            let file = nix::fcntl::openat(process, name, flags, Mode::empty())?;
            File::from(file).write_all(text.as_bytes())
        };
        if !geteuid().is_root() {
            // Else the kernel lets nobody but root write a group map (user_namespaces(7)).
            write(c"setgroups", "deny")?;
        }
        write(c"gid_map", &text(&self.gids))?;
        write(c"uid_map", &text(&self.uids))
    }
}

/// A process that was started here. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Child {
    pid: Option<Pid>,
    role: &'static str,
}

impl Child {
    /// Its pid; 0 once it has been reaped.
    pub fn pid(&self) -> i32 {
        self.pid.map_or(0, Pid::as_raw)
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<WaitStatus> {
        self.reap(Some(WaitPidFlag::WNOHANG))
    }

    /// Lets it have this many descriptors at least, if this process may say so (CAP_SYS_RESOURCE, and fs.nr_open
    /// allows it). It raises its own soft limit.
    pub fn may_open(&self, descriptors: u64) {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads the limit into a live structure.
        let read = unsafe {
            libc::prlimit(self.pid(), libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit)
        };
        if self.pid.is_none() || read != 0 || limit.rlim_max >= descriptors {
            return;
        }
        limit.rlim_max = descriptors;
        // SAFETY: sets the limit from a live structure.
        let set = unsafe {
            libc::prlimit(self.pid(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
        };
        if let Err(e) = Errno::result(set) {
            crate::debug!("{}: its limit of descriptors stays: {e}", self.role);
        }
    }

    /// Kills it.
    pub fn kill(&self) {
        if let Some(pid) = self.pid {
            // Ours and not reaped yet, so the pid is its own.
            let _ended = kill(pid, Signal::SIGKILL);
        }
    }

    /// Kills it, and waits for its end.
    pub fn end(&mut self) -> Option<WaitStatus> {
        self.kill();
        self.reap(None)
    }

    /// Lets it live on, and somebody else reap it.
    pub fn forget(&mut self) {
        self.pid = None;
    }

    fn reap(&mut self, flags: Option<WaitPidFlag>) -> Option<WaitStatus> {
        let pid = self.pid?;
        loop {
            match waitpid(pid, flags) {
                Ok(WaitStatus::StillAlive) => return None,
                Err(Errno::EINTR) => {}
                Ok(status) => {
                    self.pid = None;
                    return Some(status);
                }
                Err(_) => {
                    self.pid = None;
                    return None;
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid.is_some() {
            crate::debug!("{}: waiting for its end", self.role);
            self.end();
        }
    }
}

/// Starts this binary once more, in the role that its first argument names.
///
/// `maps`: a new user namespace with these ids, in which the child holds every capability until it
/// drops them. Must be called while the process has one thread.
pub fn spawn(
    role: &'static str,
    id: &str,
    namespaces: CloneFlags,
    maps: Option<&IdMaps>,
    link: OwnedFd,
) -> Result<Child, Error> {
    let arguments = Arguments::new(role, id, maps.is_none() && namespaces.is_empty());
    let mut flags = namespaces;
    if maps.is_some() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    // Here and not in the child, whose cgroup may let it open no device by the time that it comes to it.
    let null = nix::fcntl::open(c"/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Error::Null)?;
    // SAFETY: without CLONE_VM and a new stack this is fork(2): the child goes on with a copy of
    // everything. There is one thread, so no lock is held by another.
    let result = unsafe {
        libc::syscall(libc::SYS_clone, (flags.bits() | libc::SIGCHLD) as libc::c_long, 0, 0, 0, 0)
    };
    let pid = match Errno::result(result) {
        Ok(0) => child(&arguments, maps.is_some(), &link, &null),
        Ok(pid) => Pid::from_raw(pid as i32),
        Err(e @ (Errno::EPERM | Errno::ENOSPC | Errno::EUSERS)) if maps.is_some() => {
            return Err(Error::UserNamespace(e));
        }
        Err(e) => return Err(Error::Clone(e)),
    };
    let child = Child { pid: Some(pid), role };
    if let Some(maps) = maps {
        process(&pid.to_string())
            .map_err(std::io::Error::from)
            .and_then(|process| maps.write(process.as_fd()))
            .map_err(Error::Map)?;
    }
    crate::debug!("{role}: started as {pid}");
    Ok(child)
}

/// A process's folder in /proc.
pub fn process(name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(format!("/proc/{name}").as_str(), flags, Mode::empty())
}

/// Prepared before the clone.
struct Arguments {
    strings: Vec<CString>,
    name: &'static CStr,
}

impl Arguments {
    fn new(role: &'static str, id: &str, bare: bool) -> Arguments {
        let mut strings = vec!["ringwall", role, id];
        strings.extend(bare.then_some(BARE));
        Arguments {
            // No zero byte: roles are ours, and ids are checked.
            strings: strings.iter().filter_map(|text| CString::new(*text).ok()).collect(),
            name: name(role),
        }
    }
}

/// First argument of the process that the sentry lives in.
pub const SANDBOX: &str = "sandbox";
/// Third argument of a process that was given no namespaces: it cannot have an empty root either.
pub const BARE: &str = "bare";
/// First argument of a file server.
pub const GOFER: &str = "gofer";
/// What has no arguments of its own: it is a copy of a file server.
pub const NODES: &str = "nodes";

/// What `ps` calls the process: at most 15 bytes (PR_SET_NAME in prctl(2)).
fn name(role: &str) -> &'static CStr {
    match role {
        SANDBOX => c"ringwall-sentry",
        NODES => c"ringwall-nodes",
        _ => c"ringwall-gofer",
    }
}

/// Gives this process the name of its role: it was executed as /proc/self/exe, and is called `exe`.
pub fn take_name(role: &str) {
    // SAFETY: the name is a string that lives for ever, and is copied.
    unsafe { libc::prctl(libc::PR_SET_NAME, name(role).as_ptr()) };
}

/// The child's way to execve(2).
fn child(arguments: &Arguments, user_namespace: bool, link: &OwnedFd, null: &OwnedFd) -> ! {
    let problem = match prepare(user_namespace, link, null) {
        Ok(()) => {
            let mut argv: Vec<*const libc::c_char> =
                arguments.strings.iter().map(|text| text.as_ptr()).collect();
            argv.push(std::ptr::null());
            let envp = [std::ptr::null()];
            // SAFETY: argv and envp are null-terminated arrays of strings that live until the call
            // replaces this program.
            unsafe { libc::execve(c"/proc/self/exe".as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            Errno::last()
        }
        Err(errno) => errno,
    };
    crate::error!("cannot execute {}: {problem}", arguments.name.to_string_lossy());
    // SAFETY: ends the process without running what its parent registered for its own exit.
    unsafe { libc::_exit(125) }
}

fn prepare(user_namespace: bool, link: &OwnedFd, null: &OwnedFd) -> Result<(), Errno> {
    // A session of its own: no terminal sends it signals, and no terminal that it reads for the
    // container stops it as a background job.
    nix::unistd::setsid()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // Standard error stays: what goes wrong before the log is there has nowhere else to go.
    nix::unistd::dup2_stdin(null)?;
    nix::unistd::dup2_stdout(null)?;
    if link.as_raw_fd() == LINK {
        // SAFETY: clears a flag of a descriptor that is open.
        Errno::result(unsafe { libc::fcntl(LINK, libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: whatever has this number belongs to the parent's copy, and this one executes.
        Errno::result(unsafe { libc::dup2(link.as_raw_fd(), LINK) })?;
    }
    let (first, last) = (LINK as u32 + 1, u32::MAX);
    // SAFETY: marks descriptors to be closed by the call below; nothing of them is used before.
    let marked = unsafe { libc::close_range(first, last, libc::CLOSE_RANGE_CLOEXEC as i32) };
    match Errno::result(marked) {
        // Kernels before 5.11; our own descriptors all carry the flag already.
        Ok(_) | Err(Errno::ENOSYS | Errno::EINVAL) => {}
        Err(e) => return Err(e),
    }
    if user_namespace {
        keep_capabilities()?;
    }
    Ok(())
}

/// The ids of the namespace may not be mapped yet when the program is executed; it would lose its
/// capabilities then, unless they are ambient (capabilities(7)).
fn keep_capabilities() -> Result<(), Errno> {
    let sets = capget()?;
    capset(Sets { inheritable: sets.permitted, ..sets })?;
    for capability in (0..64).filter(|n| sets.permitted >> n & 1 != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)?;
    }
    Ok(())
}

/// Lets go of the caller's standard error, once there is a log: whoever reads it to its end, as containerd's shim reads what
/// `create` of a container with a terminal says, would wait for the end of the container.
pub fn leave_standard_error() -> Result<(), Errno> {
    // Standard output is /dev/null.
    nix::unistd::dup2_stderr(std::io::stdout())
}

/// The link of a process that [`spawn`] started; `None` where somebody else started it.
pub fn inherited_link() -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: only looks whether the descriptor is open.
    if unsafe { libc::fcntl(LINK, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it is open, and in these roles nobody else owns it.
    let link = unsafe { OwnedFd::from_raw_fd(LINK) };
    let kind = nix::sys::socket::getsockopt(&link, nix::sys::socket::sockopt::SockType).ok()?;
    (kind == nix::sys::socket::SockType::SeqPacket).then_some(link)
}

/// The caller's ids.
pub fn own_ids() -> (u32, u32) {
    (Uid::as_raw(geteuid()), Gid::as_raw(getegid()))
}

/// A copy of a descriptor, for a process that outlives the original.
pub fn duplicate(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}
