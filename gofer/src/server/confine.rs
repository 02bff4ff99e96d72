//! Takes away from the process what serving files does not need.
//!
//! After [`confine`] the process has: the attach points as detached mounts, whose roots are roots
//! (`..` ends there); an empty, read-only file system as its root, with its own `/proc/self/fd` as
//! the only thing in it; no network, System V IPC or host name of the host; the capabilities of
//! [`CAPABILITIES`] at most, which no exec can widen; and the system calls of [`super::filter`].

use std::os::fd::OwnedFd;

use rustix::fd::AsFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::fids::{self, DESCRIPTORS_MAX};
use super::filter::{self, FilterError};
use super::{Attach, Config, Users};

/// The capabilities that serving files needs, if the process has them.
pub const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN // owners as the client states them
    // The client decides who may do what; the files belong to any uid. (It implies reading and
    // searching; DAC_READ_SEARCH is left out because it would open files by handle, anywhere.)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER) // chmod, utimes and attributes of files of any uid
    .union(CapabilitySet::FSETID) // set-id bits survive a chmod
    .union(CapabilitySet::SETFCAP); // security.capability, as package managers set it

/// Where the private root is built, in a mount namespace of our own: it must be a directory, and
/// this one was just used.
const STAGE: &str = "/proc";
/// Where the process then finds its own `/proc/self/fd`.
const FD_DIRECTORY: &str = "/fd";

/// A step of the confinement failed; the process must not serve.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A system call failed.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The filter of system calls could not be installed.
    #[error("system call filter: {0}")]
    Filter(#[from] FilterError),
}

/// Names the step that an error happened in.
trait During<T> {
    fn during(self, step: &'static str) -> Result<T, ConfineError>;
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, step: &'static str) -> Result<T, ConfineError> {
        self.map_err(|source| ConfineError::Step { step, source })
    }
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, step: &'static str) -> Result<T, ConfineError> {
        self.map_err(|errno| ConfineError::Step { step, source: errno.into() })
    }
}

/// Confines the calling process, which must have one thread, and adapts `config` to it.
///
/// With [`Config::own_namespaces`] the caller must have CAP_SYS_ADMIN in its user namespace: as
/// root, or as a user in a user namespace that it made together with a mount namespace, in which
/// the attach points were then opened.
pub fn confine(config: &mut Config) -> Result<(), ConfineError> {
    // The mode of a new file is what the client says.
    rustix::process::umask(Mode::empty());
    raise_descriptor_limit()?;
    bound()?;
    // What the filter does not let through later.
    config.descriptors = Some(fids::limit());
    let kind = rustix::net::sockopt::socket_type(&config.socket);
    config.kind = Some(kind.during("looking at the client's socket")?);
    let _seeded = std::hash::RandomState::new();
    if config.own_namespaces {
        isolate(config)?;
    }
    if let Some(Users { process, enter }) = config.users.take() {
        config.nodes = enter(process, &config.attaches).during("entering a user namespace")?;
    }
    drop_capabilities()?;
    // Nobody of the same uid looks into or traces this process.
    let dumpable = DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(dumpable).during("making the process undumpable")?;
    rustix::thread::set_no_new_privs(true).during("no_new_privs")?;
    if let Some(guards) = config.guards {
        (guards.restrict)(&config.attaches).during("restricting it to its files")?;
    }
    let filter = filter::program()?;
    if let Some(guards) = config.guards {
        (guards.shed)();
    }
    seccompiler::apply_filter(&filter).map_err(FilterError::from)?;
    Ok(())
}

/// Every file that a client knows costs a descriptor: as many as a client may have, where this process may say so
/// (CAP_SYS_RESOURCE, and fs.nr_open allows it), or else as many as the hard limit allows.
fn raise_descriptor_limit() -> Result<(), ConfineError> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < DESCRIPTORS_MAX) {
        let all = Rlimit { current: Some(DESCRIPTORS_MAX), maximum: Some(DESCRIPTORS_MAX) };
        if rustix::process::setrlimit(Resource::Nofile, all).is_ok() {
            return Ok(());
        }
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).during("raising the descriptor limit")
}

/// No core of it is ever written, and what a client can make it remember is bounded by more than its own books.
fn bound() -> Result<(), ConfineError> {
    /// Bytes of address space: the table of fids takes 20 MB at most, messages and values a few more.
    const MEMORY: u64 = 1 << 30;
    for (what, most) in [(Resource::Core, 0), (Resource::As, MEMORY)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(what, limit).during("bounding memory")?;
    }
    Ok(())
}

/// Gives the process namespaces of its own and a root with nothing in it.
fn isolate(config: &mut Config) -> Result<(), ConfineError> {
    // Trees are cloned before the namespace is left: a mount can be cloned in its own only.
    let mut attaches = Vec::with_capacity(config.attaches.len());
    for Attach { name, root, read_only } in config.attaches.drain(..) {
        let root = clone_tree(&root, OpenTreeFlags::AT_RECURSIVE)
            .during("making a mount of an attach point")?;
        if let Some(guards) = config.guards {
            (guards.harden)(root.as_fd(), read_only)
                .during("restricting a mount of an attach point")?;
        }
        attaches.push(Attach { name, root, read_only });
    }
    config.attaches = attaches;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds = rustix::fs::open(config.fd_directory.as_str(), flags, Mode::empty())
        .during("opening /proc/self/fd")?;
    let fds = clone_tree(&fds, OpenTreeFlags::empty()).during("making a mount of /proc/self/fd")?;

    use nix::sched::CloneFlags;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNET;
    nix::sched::unshare(namespaces)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .during("entering namespaces of its own")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).during("making mounts private")?;

    let root = empty_root().during("making an empty file system")?;
    let move_flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, c"", CWD, STAGE, move_flags).during("mounting the root")?;
    rustix::fs::mkdirat(&root, "fd", Mode::RWXU).during("making /fd")?;
    rustix::mount::move_mount(&fds, c"", &root, "fd", move_flags).during("mounting /fd")?;
    rustix::process::fchdir(&root).during("entering the root")?;
    rustix::mount::mount_remount(".", MountFlags::BIND | MountFlags::RDONLY, c"")
        .during("making the root read-only")?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up over the new one, and goes.
    rustix::process::pivot_root(".", ".").during("changing the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).during("leaving the old root")?;
    rustix::process::chdir("/").during("entering the new root")?;
    config.fd_directory = FD_DIRECTORY.into();
    Ok(())
}

/// A detached copy of the mounts at a descriptor: `..` of its root is itself.
fn clone_tree(fd: &OwnedFd, more: OpenTreeFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | more;
    rustix::mount::open_tree(fd.as_fd(), c"", flags)
}

/// An empty, detached tmpfs that can hold nothing.
fn empty_root() -> rustix::io::Result<OwnedFd> {
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "4k"), ("nr_inodes", "8"), ("mode", "0555")] {
        rustix::mount::fsconfig_set_string(&tmpfs, key, value)?;
    }
    rustix::mount::fsconfig_create(&tmpfs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Keeps of the process's capabilities those in [`CAPABILITIES`], in every set that matters.
fn drop_capabilities() -> Result<(), ConfineError> {
    let has = rustix::thread::capabilities(None).during("reading capabilities")?;
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if CAPABILITIES.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                Err(Errno::INVAL) => break, // beyond the last one that this kernel knows
                Err(errno) => return Err(errno).during("narrowing the bounding set"),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set().during("clearing ambient capabilities")?;
    let kept = has.permitted & CAPABILITIES;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).during("dropping capabilities")
}
