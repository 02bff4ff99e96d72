//! What descriptors each process of a sandbox has, in one place. Everything else was closed when it was started
//! ([`crate::spawn`]), and none can be opened by name.

use serde::Serialize;

/// A kind of descriptor.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Kind {
    /// What it is for.
    pub what: &'static str,
    /// How the link in /proc/PID/fd begins; `None`: a regular file or folder of the container, a stream that it was
    /// given, or the log.
    pub shown: Option<&'static str>,
}

const fn kind(what: &'static str, shown: &'static str) -> Kind {
    Kind { what, shown: Some(shown) }
}

const NULL: Kind =
    kind("/dev/null, whose mount is left behind, for what a process is born with", "/null");
const GIVEN: Kind = Kind { what: "streams, donated files, the log", shown: None };
const LINKS: Kind = kind("links to the stand-in, commands and the gofer", "socket:");
const LOOP: Kind = kind("the event loop", "anon_inode:[eventpoll]");
const BELLS: Kind = kind("counters of events", "anon_inode:[eventfd]");
const MEMORY: Kind = kind("the sandbox's memory", "/memfd:ringwall-");

/// The sandbox on KVM.
pub const KVM: &[Kind] = &[
    NULL,
    GIVEN,
    LINKS,
    LOOP,
    BELLS,
    MEMORY,
    kind("the machine, its vCPUs and their counters", "anon_inode:kvm-"),
];

/// The sandbox on ptrace. Its stubs share the table, and have nothing mapped that could use it.
pub const PTRACE: &[Kind] =
    &[NULL, GIVEN, LINKS, LOOP, BELLS, MEMORY, kind("stubs, to end them", "anon_inode:[pidfd]")];

/// The node maker, which has a folder beside that while it makes a node in it.
pub const NODES: &[Kind] = &[kind("the link to the gofer", "socket:")];

/// The gofer.
pub const GOFER: &[Kind] = &[
    NULL,
    Kind { what: "the container's files, the log", shown: None },
    kind("links to the stand-in, the sandbox and the node maker", "socket:"),
    kind("watches", "anon_inode:inotify"),
];
