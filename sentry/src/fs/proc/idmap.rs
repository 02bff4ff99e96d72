//! /proc/PID/uid_map, gid_map, projid_map and setgroups (user_namespaces(7)): by which numbers the users and groups
//! of a process's user namespace go outside.
//!
//! An open file is about the namespace that the process had then, and shows lower ids as they are in that of who
//! opened it. What may be written depends both on who opened it and on who writes.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;
use core::fmt::Write as _;

use super::{About, Entry, What};
use crate::errno::Errno;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Whence, Written, seek_without_end};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::types::OpenFlags;
use crate::kernel::Container;
use crate::platform::{PAGE_SIZE, platform};
use crate::task::userns::{Extent, IdKind};
use crate::task::{Creds, UserNamespace, cap};
use core::sync::atomic::Ordering;

/// What is behind one of the names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    Map(IdKind),
    Setgroups,
}

pub(super) const fn entry(name: &'static str, which: Which) -> Entry {
    Entry { name, perm: 0o644, what: What::IdMap(which) }
}

/// An open one.
struct IdMapFile {
    which: Which,
    namespace: UserNamespace,
    opener: Creds,
    container: Arc<Container>,
}

/// Opens one. `EACCES` where setgroups is to be written and the opener may not administer the namespace.
pub(super) fn open(
    about: &About<'_>,
    which: Which,
    flags: OpenFlags,
) -> Result<Box<dyn FileOps>, Errno> {
    let namespace = about.task().map_err(|_| Errno::EINVAL)?.creds().userns.clone();
    let opener = about.cx.creds.clone();
    if which == Which::Setgroups && flags.writes() && !opener.ns_capable(&namespace, cap::SYS_ADMIN)
    {
        return Err(Errno::EACCES);
    }
    Ok(Box::new(IdMapFile { which, namespace, opener, container: about.container.clone() }))
}

impl IdMapFile {
    fn text(&self) -> String {
        let kind = match self.which {
            Which::Setgroups => {
                let allows = self.namespace.allows_setgroups();
                return if allows { "allow\n" } else { "deny\n" }.into();
            }
            Which::Map(kind) => kind,
        };
        let Some(map) = self.namespace.map(kind) else {
            return format!("{:10} {:10} {:10}\n", 0, 0, u32::MAX);
        };
        // Lower ids are the opener's, or where that is the namespace itself its parent's.
        let outside = match self.namespace.parent() {
            Some(parent) if self.opener.userns == self.namespace => parent,
            _ => &self.opener.userns,
        };
        let mut text = String::new();
        for Extent { first, lower, count } in map.extents() {
            let lower = outside.up(kind, *lower).unwrap_or(u32::MAX);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{first:10} {lower:10} {count:10}");
        }
        text
    }

    /// The identity of the task that writes.
    fn writer(&self) -> Result<Arc<Creds>, Errno> {
        let thread = platform().current().0;
        let table = self.container.pids.lock();
        let task = table.tasks().find(|t| t.thread.load(Ordering::Relaxed) == thread);
        Ok(task.ok_or(Errno::EPERM)?.creds())
    }

    fn set_setgroups(&self, text: &[u8]) -> Result<(), Errno> {
        let allow = [(b"allow".as_slice(), true), (b"deny".as_slice(), false)];
        let known = |(word, _): &(&[u8], bool)| {
            text.strip_prefix(*word).is_some_and(|rest| rest.trim_ascii().is_empty())
        };
        let (_, allow) = allow.into_iter().find(known).ok_or(Errno::EINVAL)?;
        self.namespace.set_setgroups(allow)
    }

    fn set_map(&self, kind: IdKind, text: &[u8]) -> Result<(), Errno> {
        let ns = &self.namespace;
        let parent = ns.parent().ok_or(Errno::EPERM)?;
        // Who opens it may know what the lower ids are.
        if self.opener.userns != *ns && self.opener.userns != *parent {
            return Err(Errno::EPERM);
        }
        let writer = self.writer()?;
        let administers = self.opener.ns_capable(ns, cap::SYS_ADMIN);
        let extents = || match administers || kind == IdKind::Project {
            true => Extent::parse(text),
            false => Err(Errno::EPERM),
        };
        ns.set_map(kind, extents, |extents, setgroups| {
            may_map(ns, parent, kind, extents, setgroups, &self.opener, &writer)
        })
    }
}

/// Whether a map may be made, by whom it was opened and is written (new_idmap_permitted()).
fn may_map(
    ns: &UserNamespace,
    parent: &UserNamespace,
    kind: IdKind,
    extents: &[Extent],
    setgroups: bool,
    opener: &Creds,
    writer: &Creds,
) -> bool {
    // Id 0 of the parent: files could get capabilities that count there (verify_root_map()).
    if kind == IdKind::User && extents.iter().any(|e| e.lower == 0) {
        let could = match opener.userns == *ns {
            true => ns.maker_could_setfcap(),
            false => opener.ns_capable(parent, cap::SETFCAP),
        };
        if !could {
            return false;
        }
    }
    // Nobody gains by a map of himself alone; but by leaving groups that deny something he could.
    if let [Extent { lower, count: 1, .. }] = extents
        && ns.owner() == opener.euid
    {
        let himself = match kind {
            IdKind::User => parent.kuid(*lower) == Some(opener.euid),
            IdKind::Group => !setgroups && parent.kgid(*lower) == Some(opener.egid),
            IdKind::Project => false,
        };
        if himself {
            return true;
        }
    }
    let needed = match kind {
        IdKind::User => cap::SETUID,
        IdKind::Group => cap::SETGID,
        IdKind::Project => return true,
    };
    writer.ns_capable(parent, needed) && opener.ns_capable(parent, needed)
}

impl FileOps for IdMapFile {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let text = self.text();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        dst.put(text.as_bytes().get(at..).unwrap_or(&[]))
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        let count = src.remaining();
        let most = match self.which {
            Which::Setgroups => 7,
            Which::Map(_) => PAGE_SIZE - 1,
        };
        if offset != 0 || count > most {
            return Err(Errno::EINVAL);
        }
        let mut text = vec![0; count];
        if src.take(&mut text)? < count {
            return Err(Errno::EFAULT);
        }
        // What follows a zero is not looked at.
        let end = text.iter().position(|b| *b == 0).unwrap_or(count);
        text.truncate(end);
        match self.which {
            Which::Setgroups => self.set_setgroups(&text)?,
            Which::Map(kind) => self.set_map(kind, &text)?,
        }
        Ok(Written { count, end: count as u64 })
    }

    fn seek(&self, file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        seek_without_end(file, now, offset, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
