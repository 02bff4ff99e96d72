//! What the host half and the sentry say to each other: life-cycle requests and events.
//!
//! They travel over [`ChannelId::Control`](crate::platform::ChannelId::Control), one message per
//! channel message, as postcard. Host descriptors never cross: streams and gofers are named by their
//! index in the host half's tables. Both sides are one build, so there is no version here; the
//! version that guards image against host half is in the boot page.
//!
//! The host half distrusts events as it distrusts everything from the guest: it bounds their size,
//! and an event about a container that it does not know ends the sandbox.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::platform::StreamId;

/// The longest encoded message, in bytes. `args` and `env` of a container must fit.
pub const MAX_MESSAGE: usize = 1 << 20;

/// From the host half to the sentry. Every request is answered by one [`Event::Reply`] with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host half.
    pub number: u64,
    /// What is wanted.
    pub call: Call,
}

/// What the host half can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Make a container: mounts, init process loaded up to its first instruction, not run yet.
    /// Errors of the program (missing, not executable) come as the reply.
    Create(Box<ContainerSpec>),
    /// Let its init process run.
    Start {
        /// The container.
        id: String,
    },
    /// Run another process in a running container.
    Exec {
        /// The container.
        id: String,
        /// What to run.
        process: Box<ProcessSpec>,
    },
    /// Send a signal.
    Signal {
        /// The container.
        id: String,
        /// The process as named by [`Reply::Pid`]; `None`: init.
        pid: Option<u32>,
        /// 1 to 64.
        signal: u8,
        /// Every process of the container instead.
        all: bool,
    },
    /// List the processes.
    Processes {
        /// The container.
        id: String,
    },
    /// Freeze or thaw. When a freeze is answered, nothing in the container runs, and what it has written is with the
    /// host.
    Freeze {
        /// The container.
        id: String,
        /// Whether to freeze.
        frozen: bool,
    },
    /// Where the container stands.
    Status {
        /// The container.
        id: String,
    },
    /// What the container uses.
    Usage {
        /// The container.
        id: String,
    },
    /// Change the limits of a container.
    Limit {
        /// The container.
        id: String,
        /// All of them, those that stay as they are too.
        limits: Limits,
    },
    /// The terminal behind a stream has a new size.
    WindowSize {
        /// The console's stream.
        stream: StreamId,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Forget a stopped container.
    Delete {
        /// The container.
        id: String,
    },
    /// Counters, for `bench`, `events` and the debug log.
    Statistics,
    /// What the tasks are doing, for `debug`.
    Tasks {
        /// The container.
        id: String,
        /// Those with larger ids than this, the smallest first, as many as go into a message.
        after: u32,
    },
    /// What is under way to the file server, for `debug`.
    FileServer {
        /// The container.
        id: String,
    },
}

/// From the sentry to the host half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The sentry runs and takes requests. Sent once, first.
    Ready,
    /// Answers the request with this number.
    Reply {
        /// The request's number.
        number: u64,
        /// How it went.
        result: Result<Reply, Failure>,
    },
    /// A process that the host half started (init, or an exec) has ended. Everything that the
    /// container wrote before is with the host by now.
    Exited {
        /// The container.
        id: String,
        /// The process as named by [`Reply::Pid`].
        pid: u32,
        /// How it ended.
        status: ExitStatus,
    },
    /// A process of the container was killed because its memory is spent.
    OutOfMemory {
        /// The container.
        id: String,
    },
}

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The process, by its id in the container's own pid namespace.
    Pid(u32),
    /// The processes.
    Processes(Vec<ProcessInfo>),
    /// Counters.
    Statistics(Statistics),
    /// What tasks are doing; none: there are no more.
    Tasks(Vec<TaskInfo>),
    /// What is under way to a file server; `None`: the container has none.
    FileServer(Option<FileServerInfo>),
    /// What a container uses.
    Usage(Usage),
    /// Where a container stands.
    Status {
        /// Whether its init has been let run.
        started: bool,
        /// Whether its tasks are held.
        frozen: bool,
    },
}

/// A bad answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind, for exit statuses.
    pub kind: FailureKind,
    /// One line for a person, naming the file or field: `exec /bin/x: no such file or directory`.
    pub message: String,
}

/// Kinds of failure that a runtime's exit status tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program, or its interpreter, is not there: 127.
    NotFound,
    /// The program is there and cannot be run: 126.
    NotExecutable,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// What a shell exits with; `None`: whatever the command has for other failures.
    pub fn shell(self) -> Option<u8> {
        match self {
            FailureKind::NotFound => Some(127),
            FailureKind::NotExecutable => Some(126),
            FailureKind::Other => None,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

impl ExitStatus {
    /// What a shell, and an OCI runtime, exits with: the status, or 128 and the signal.
    pub fn shell(self) -> u8 {
        match self {
            ExitStatus::Exited(n) => n,
            ExitStatus::Signaled(n) => 128u8.saturating_add(n),
        }
    }
}

/// One process, for `ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are ps(1)'s
pub struct ProcessInfo {
    pub uid: u32,
    pub pid: u32,
    pub ppid: u32,
    pub threads: u32,
    /// Since it was started, nanoseconds.
    pub age_ns: u64,
    /// Processor time, nanoseconds.
    pub cpu_ns: u64,
    pub command: String,
}

/// One task, for `debug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// What it does, as `proc_pid_stat(5)` has it: `R`, `S`, `D`, `T`, `t` or `X`.
    pub state: char,
    /// System calls that it has made.
    pub calls: u64,
    /// Processor time, nanoseconds.
    pub cpu_ns: u64,
    /// Why it waits.
    pub waits: Option<WaitInfo>,
    /// Return addresses on its stack in the sentry, innermost first; none where the platform cannot tell, or while it runs.
    pub stack: Vec<u64>,
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitInfo {
    /// The system call.
    pub call: String,
    /// Its arguments.
    pub args: [u64; 6],
    /// The place in the sentry's source.
    pub place: String,
}

/// The connection to a file server, for `debug`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileServerInfo {
    /// Requests that have not been answered.
    pub requests: u32,
    /// Threads that wait until they may ask.
    pub waiting: u32,
    /// Fids that are not used any more and that it has not been told of.
    pub unused_fids: u32,
    /// Whether it is gone.
    pub gone: bool,
}

/// What a container uses, for `events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of its applications, nanoseconds; of those that have ended too.
    pub user_ns: u64,
    /// Processor time of the sentry on their behalf, nanoseconds.
    pub system_ns: u64,
    /// Memory and page cache, bytes.
    pub memory: u64,
    /// The most that there can be, bytes.
    pub memory_limit: u64,
    /// The most that there was at once, bytes.
    pub memory_peak: u64,
    /// Times that a process was killed because there was none left.
    pub oom_kills: u64,
    /// Tasks.
    pub pids: u32,
    /// The most that there can be.
    pub pids_limit: u32,
    /// How it was held back for its quota of processor time.
    pub throttling: Throttling,
}

/// How often a container was held back for its quota of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttling {
    /// Periods in which it ran.
    pub periods: u64,
    /// Of those, how many ended without time left.
    pub throttled: u64,
    /// How long it waited, nanoseconds.
    pub time_ns: u64,
}

/// Counters of the sentry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Frames in use.
    pub frames: u64,
    /// System calls served.
    pub syscalls: u64,
    /// System calls that are not there, by number, with how often each was tried.
    pub missing: Vec<(u32, u64)>,
}

/// What a container is made of: the part of its `config.json` that the sentry honours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its id on the host.
    pub id: String,
    /// UTS name; empty: the id.
    pub hostname: String,
    /// NIS name.
    pub domainname: String,
    /// The root file system.
    pub root: RootSpec,
    /// Mounts, in order.
    pub mounts: Vec<MountSpec>,
    /// Paths that are hidden, by an empty folder or /dev/null, where they are there.
    pub masked: Vec<String>,
    /// Paths that are mounted read-only over themselves, where they are there.
    pub readonly: Vec<String>,
    /// The init process.
    pub process: ProcessSpec,
    /// Limits of the container.
    pub limits: Limits,
    /// Values that files of /proc/sys are given: the path below it, and the value.
    pub sysctl: Vec<(String, String)>,
    /// Device nodes, beside those that every /dev has.
    pub devices: Vec<DeviceSpec>,
    /// Which devices may be opened and made. Of the rules that match one, the last counts; without a match it may not.
    pub device_rules: Vec<DeviceRule>,
    /// What personality(2) says to begin with.
    pub personality: u32,
    /// Nanoseconds that CLOCK_MONOTONIC and CLOCK_BOOTTIME are ahead of the sandbox's.
    pub clocks_ahead: Option<(i64, i64)>,
    /// The ids of a user namespace of its own: the first inside, the first outside, how many. None: it has none.
    pub uid_map: Vec<(u32, u32, u32)>,
    /// The same of groups.
    pub gid_map: Vec<(u32, u32, u32)>,
    /// What it shares with others; `None`: the sandbox is its own.
    pub shares: Option<Shares>,
    /// The filter that all its processes begin with: a program of classic BPF, 8 bytes an instruction as in `struct
    /// sock_filter` (seccomp(2)).
    pub seccomp: Option<Vec<u8>>,
    /// Whether `--strace` was given.
    pub strace: bool,
}

/// What a container that came to a sandbox of others shares: of each kind the container whose namespace it is in; `None`: it
/// has one of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Names of the host and the domain.
    pub uts: Option<String>,
    /// System V objects and POSIX message queues.
    pub ipc: Option<String>,
    /// The network: the abstract names of AF_UNIX.
    pub net: Option<String>,
    /// Processes.
    pub pid: Option<String>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Absolute path in the container; the directories above it are made where they are missing.
    pub path: String,
    /// Type and permissions, as in `st_mode` (inode(7)): a device or a FIFO.
    pub mode: u32,
    /// Its number's two parts.
    pub major: u32,
    /// The other.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What may be done with some devices (a line of a device cgroup).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Or may not be done.
    pub allow: bool,
    /// Block devices, or character devices; `None`: both.
    pub block: Option<bool>,
    /// Of this number; `None`: of any.
    pub major: Option<u32>,
    /// Of this number; `None`: of any.
    pub minor: Option<u32>,
    /// Any of [`DeviceRule::MKNOD`], [`DeviceRule::READ`] and [`DeviceRule::WRITE`].
    pub access: u8,
}

impl DeviceRule {
    /// To make nodes.
    pub const MKNOD: u8 = 1;
    /// To open for reading.
    pub const READ: u8 = 2;
    /// To open for writing.
    pub const WRITE: u8 = 4;
}

/// Limits of a container; `None`: none. The sentry enforces those of memory, tasks and processor time. The rest is the
/// host's, and shown in files of cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The version of the host's cgroups, and so of those inside.
    pub version: u32,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Tasks.
    pub pids: Option<u32>,
    /// Memory that is given back last, bytes.
    pub reservation: Option<u64>,
    /// Memory and swap together, bytes.
    pub swap: Option<u64>,
    /// The share of the processors, 2 to 262144.
    pub shares: Option<u64>,
    /// Processor time in a period, microseconds.
    pub quota: Option<u64>,
    /// The period, microseconds.
    pub period: Option<u64>,
}

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// The gofer that serves it.
    pub gofer: u32,
    /// The attach name there.
    pub attach: String,
    /// Mounted read-only.
    pub readonly: bool,
    /// Under an overlay whose upper layer is in the sandbox's memory: the host never changes.
    pub overlay: bool,
    /// Whether somebody else may write there (decides caching).
    pub shared: bool,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path in the container; made where it is missing.
    pub destination: String,
    /// What.
    pub source: MountSource,
    /// MS_ flags of mount(2): MS_RDONLY 1, MS_NOSUID 2, MS_NODEV 4, MS_NOEXEC 8, MS_NOATIME 1024,
    /// MS_NODIRATIME 2048, MS_RELATIME 1 << 21.
    pub flags: u64,
    /// Changes of its propagation, in order: MS_SHARED 1 << 20, MS_SLAVE 1 << 19, MS_PRIVATE 1 << 18 or MS_UNBINDABLE
    /// 1 << 17, with MS_REC 1 << 14 for all below it too.
    pub propagation: Vec<u64>,
    /// Whether a tmpfs is filled with what it covers (`tmpcopyup`).
    pub copy_up: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file system of the sentry's own with its data string: `proc`, `sysfs`, `tmpfs` (`size=`,
    /// `mode=`, `uid=`, `gid=`), `devtmpfs` (the minimal /dev), `devpts`, `mqueue`, `cgroup`, `cgroup2`.
    Internal {
        /// File system type.
        fstype: String,
        /// What /proc/PID/mounts shows.
        source: String,
        /// Data, comma-separated.
        data: String,
    },
    /// A folder or file of the host, by the gofer.
    Gofer {
        /// The gofer.
        gofer: u32,
        /// The attach name there.
        attach: String,
        /// Whether it is a folder.
        directory: bool,
        /// Under an overlay in memory.
        overlay: bool,
    },
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program, absolute, where it is not the first of `args`. Nothing is added to the environment of such a one.
    pub program: Option<String>,
    /// argv; the first is looked up in `PATH` of `env` where it has no slash.
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// umask; `None`: 0o022.
    pub umask: Option<u32>,
    /// Capability sets; bit `n` is capability `n`.
    pub capabilities: Capabilities,
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// How gladly it is killed for its memory, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// What ioprio_set(2) takes.
    pub io_priority: Option<u32>,
    /// Its scheduling.
    pub scheduler: Option<Scheduler>,
    /// Resource limits: RLIMIT_ number, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Standard input, output and error; `None`: closed. With `terminal`, the first is the console.
    pub stdio: [Option<StreamId>; 3],
    /// What it has from descriptor 3 on, with access modes as open(2) takes them.
    pub preserved: Vec<(StreamId, u32)>,
    /// Whether the process gets a pseudo-terminal whose other end is the first of `stdio`.
    pub terminal: bool,
    /// Its size, rows and columns, where known.
    pub window: Option<(u16, u16)>,
}

/// How a process is scheduled (sched(7)): kept and told, not honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// SCHED_OTHER 0, SCHED_FIFO 1, SCHED_RR 2, SCHED_BATCH 3 or SCHED_IDLE 5.
    pub policy: u32,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Real-time priority: 1 to 99 for SCHED_FIFO and SCHED_RR, else 0.
    pub priority: u32,
}

/// The five capability sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are capabilities(7)'s
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec(message)
}

/// Decodes a message; the other side is not trusted, so everything is checked and nothing may follow.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, postcard::Error> {
    if bytes.len() > MAX_MESSAGE {
        return Err(postcard::Error::DeserializeBadEncoding);
    }
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_trip_and_trailing_bytes_do_not() {
        let event = Event::Exited { id: "a".into(), pid: 7, status: ExitStatus::Signaled(9) };
        let mut bytes = encode(&event).unwrap();
        assert_eq!(decode::<Event>(&bytes).unwrap(), event);
        bytes.push(0);
        assert!(decode::<Event>(&bytes).is_err());
        assert!(decode::<Request>(&[0xff; 16]).is_err());
    }

    #[test]
    fn a_shell_sees_signals_above_128() {
        assert_eq!(ExitStatus::Exited(3).shell(), 3);
        assert_eq!(ExitStatus::Signaled(9).shell(), 137);
    }
}
