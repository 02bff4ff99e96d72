//! Files: the VFS, its file systems, and the descriptors of processes.
//!
//! - [`inode`]: the traits that a file system implements.
//! - [`dentry`], [`mount`], [`path`], [`walk`], [`perm`], [`ops`]: from a path to an inode, and what
//!   happens to names, the same for all file systems.
//! - [`file`], [`fdtable`], [`context`]: what a process holds.
//! - [`io`]: where data goes to and comes from. [`lock`]: advisory locks.
//!
//! A system call makes a [`Cx`] (`Current::cx`), walks or opens with it, and gets a [`Path`] or a
//! [`File`]. Locks are taken in the order that [`crate::sync`] states: `Super::rename`, then
//! `Dentry::dir` (upper directory first), then whatever the file system locks, then user memory.

pub mod aio;
pub mod anon;
pub mod cgroup;
pub mod context;
pub mod dentry;
pub mod dev;
pub mod devices;
pub mod dnotify;
pub mod epoll;
pub mod eventfd;
pub mod fasync;
pub mod fdtable;
pub mod file;
mod fill;
pub mod flags;
pub mod fscontext;
pub mod inode;
pub mod inotify;
pub mod io;
pub mod lock;
pub mod mount;
pub mod mqueue;
pub mod ninep;
pub mod nsfs;
pub mod ops;
pub mod overlay;
pub mod overlayfs;
pub mod pages;
pub mod path;
pub mod perm;
pub mod pipe;
pub mod proc;
pub mod setup;
pub mod signalfd;
pub mod special;
pub mod stream;
pub mod sysfs;
pub mod timerfd;
pub mod tmpfs;
pub mod tty;
pub mod types;
pub mod walk;

pub use context::{Cx, FsContext, InExec};
pub use dentry::{Dentry, Super};
pub use fasync::SignalOwner;
pub use fdtable::FdTable;
pub use file::{Blocker, File};
pub use inode::{
    Caching, Created, FileOps, FileSystem, Found, Inode, Link, NameCache, Whence, Written,
};
pub use io::{IoDst, IoSrc, IoVec, UserMemory};
pub use lock::InodeState;
pub use mount::{Mount, MountNamespace, Propagation};
pub use path::Path;
pub use proc::may_inspect;
pub use setup::{MountError, mount_container};
pub use types::{
    Access, Attr, DirEntry, Events, FileType, MountFlags, New, OpenFlags, Perm, RenameFlags,
    SetAttr, SetTime, StatFs, Time,
};
pub use walk::WalkFlags;

#[cfg(test)]
mod difftest;
#[cfg(test)]
mod tests;
