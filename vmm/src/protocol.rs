//! What the processes of a sandbox say to each other.
//!
//! A stand-in tells its sandbox, over the link it started it with, to set itself up; its life is the
//! container's from then on. Commands that come later connect to the control socket and make calls.

use std::collections::BTreeMap;

use sentry::control::{Call, ContainerSpec, ExitStatus, Failure, ProcessSpec, Reply};
use serde::{Deserialize, Serialize};

use crate::config::Attach;
use crate::hooks::Hook;
use crate::log;

/// What runs the container's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Platform {
    /// A ring-0 guest.
    Kvm,
    /// Traced processes.
    Ptrace,
}

impl Platform {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Platform::Kvm => "kvm",
            Platform::Ptrace => "ptrace",
        }
    }
}

/// To the sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToSandbox {
    /// Become a sandbox with this container. The first message of the stand-in, and only there.
    Setup(Box<Setup>),
    /// Asks something of the sentry; `Create`, `Exec` and `Delete` are refused. A signal for a process that
    /// is not init, and a window size, are for whoever has started it over this link, and name the stream
    /// as it was named then.
    Call(Box<Call>),
    /// Runs another process, at most one over a link. Its streams are the descriptors of the message, which
    /// `stdio` numbers from 0. Answered with its pid; its end is told by `Exited`. It is killed when
    /// the link is closed.
    Exec {
        /// In this container.
        id: String,
        /// What to run.
        process: Box<ProcessSpec>,
    },
    /// Takes another container in, at most one over a link. The descriptors of the message are its file server and its
    /// streams; the numbers in the configuration are of those. Answered with init's pid; its end is told by `Exited`, and
    /// it is killed when the link is closed.
    Join {
        /// The container.
        container: Box<ContainerSpec>,
        /// What the descriptors are, in order: `Gofer` and `Stream`.
        fds: Vec<SandboxFd>,
    },
    /// Asks what KVM has counted; the sandbox's own process answers.
    Counters,
    /// Asks what the sandbox's own process has under way.
    Report,
}

/// From the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSandbox {
    /// Answers a setup or a call; answers come in the order of what they answer.
    Answer(Result<Reply, Failure>),
    /// KVM's counters by name, summed over the machine and its vCPUs; empty where there is no machine, or
    /// the host does not count.
    Counters(BTreeMap<String, u64>),
    /// What the sandbox's own process has under way.
    Report(Report),
    /// To the stand-in of a container, or of an exec: it has ended.
    Exited(ExitStatus),
    /// To the stand-in of the container that the sandbox was made for, right before it is told of its end: others are in the
    /// sandbox, which lives on.
    Shared,
    /// To the stand-in of a container: a process in it was killed because its memory is spent.
    OutOfMemory,
    /// To the stand-in, as the last word: why the sandbox ends.
    Failed(String),
}

/// What the host half of a sandbox has under way, for `debug`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Requests that the sentry has not answered.
    pub requests: u32,
    /// Commands that are connected.
    pub clients: u32,
    /// Processes that were started beside containers' inits and have not ended.
    pub execs: u32,
    /// Queues in the memory of a guest; none where there is no guest.
    pub queues: Vec<Queue>,
}

/// A queue in the memory of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Queue {
    /// Requests of the guest's and their completions.
    Requests {
        /// Taken altogether, modulo 2^32.
        taken: u32,
        /// Not completed yet.
        outstanding: u32,
        /// Completions altogether, modulo 2^32.
        completed: u32,
        /// Events that wait for room.
        events: u32,
        /// Streams that the guest waits for.
        notifies: u32,
    },
    /// Messages of a channel.
    Channel {
        /// 0: control; 1 + n: file server n.
        number: u32,
        /// Bytes of each of its two rings.
        size: u32,
        /// Bytes that the host half has not taken; `None`: what the guest says cannot be.
        out: Option<u32>,
        /// Bytes that the guest has not taken.
        into: Option<u32>,
        /// Whether a message for the guest waits for room.
        sending: bool,
        /// Whether a message for the other side waits for it.
        stuck: bool,
        /// Whether the other side is gone.
        closed: bool,
    },
}

/// What a sandbox is set up with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Its log.
    pub log: log::Settings,
    /// The user and group to become; `None`: they are the right ones already.
    pub ids: Option<(u32, u32)>,
    /// What runs the code.
    pub platform: Platform,
    /// The most memory for applications and page cache, bytes.
    pub memory: u64,
    /// The first container. Its stream numbers are those of `fds`.
    pub container: ContainerSpec,
    /// What the descriptors of the message are, in order.
    pub fds: Vec<SandboxFd>,
}

/// A descriptor for the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxFd {
    /// `--log`.
    Log,
    /// `--debug-log`.
    DebugLog,
    /// The listening control socket.
    Control,
    /// The container's file server.
    Gofer,
    /// The next stream of the container.
    Stream,
    /// /dev/kvm.
    Kvm,
}

/// What a gofer is set up with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GoferSetup {
    /// Its log.
    pub log: log::Settings,
    /// What it serves. A mount can be copied only in the mount namespace that it belongs to, so that it opens these itself
    /// where it was born into another one.
    pub attaches: Vec<Attach>,
    /// It has no namespaces of its own, and can make none.
    pub bare: bool,
    /// Which user namespace it is in when it serves.
    pub users: Users,
    /// Whether the container has a terminal, and so nobody's standard error.
    pub terminal: bool,
    /// Hooks to run before that, in the container's root.
    pub hooks: Vec<Hook>,
    /// What they are told.
    pub told: String,
    /// What the descriptors of the message are, in order.
    pub fds: Vec<GoferFd>,
}

/// A gofer's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Users {
    /// That which it was born in, together with a mount namespace if there is either.
    Born,
    /// The same, which is the container's, as whose root it is to act.
    Container,
    /// One that it enters before it serves: what it does first takes the host's. With `nodes` somebody stays there, who makes
    /// device nodes for it.
    Later {
        /// Whether the container may make device nodes.
        nodes: bool,
    },
}

/// A descriptor for a gofer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GoferFd {
    /// `--log`.
    Log,
    /// `--debug-log`.
    DebugLog,
    /// Where its client is.
    Client,
    /// The next one of what it serves, as far as a message has room for these.
    Attach,
}

/// From the gofer: why it does not serve. It says nothing where it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoferFailure(pub String);
