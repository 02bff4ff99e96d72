//! Watches: telling the client what others change.
//!
//! A client asks for a watch (inotify(7)) of each directory whose names it keeps. What the client
//! itself changes through this server is not told: around each of its requests that changes names
//! or attributes, events of others are taken in before, and those that it made are dropped after.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::errors::Result;
use crate::wire::{Changed, Fid};

/// The most watches of one gofer: a share of what the host gives a user
/// (fs.inotify.max_user_watches, 8192 on small hosts and a million on large ones).
const WATCHES_MAX: usize = 4096;
/// The most events that wait for the client; more become one that says "anything".
const PENDING_MAX: usize = 512;
/// What is watched in a directory. Writes are told when the file is closed: what is written through
/// donated descriptors would make an event each time.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::EXCL_UNLINK);
/// Room for many events at once, and for one with the longest name (inotify(7)).
const BUFFER: usize = 4096;

/// An event that waits for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) fid: Fid,
    pub(super) changed: Changed,
    pub(super) name: Vec<u8>,
}

/// The watches of a client.
#[derive(Debug, Default)]
pub(super) struct Watches {
    inotify: Option<OwnedFd>,
    /// The fids that each watch was set for: one watch per directory, whoever asks.
    by_watch: HashMap<i32, Vec<Fid>>,
    by_fid: HashMap<Fid, i32>,
    pending: VecDeque<Event>,
}

impl Watches {
    /// The descriptor to poll, once there are watches.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|fd| fd.as_fd())
    }

    /// Watches the file that `path` means, for `fid`. `ENOSPC` at the limit.
    pub(super) fn add(&mut self, fid: Fid, path: &str) -> Result<()> {
        if self.by_fid.len() >= WATCHES_MAX {
            return Err(Errno::NOSPC);
        }
        if self.by_fid.contains_key(&fid) {
            return Ok(());
        }
        let inotify = match &self.inotify {
            Some(inotify) => inotify,
            None => {
                let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
                self.inotify.insert(inotify::init(flags)?)
            }
        };
        let watch = inotify::add_watch(inotify, path, EVENTS)?;
        self.by_watch.entry(watch).or_default().push(fid);
        self.by_fid.insert(fid, watch);
        Ok(())
    }

    /// Ends the watch of a fid, if there is one.
    pub(super) fn remove(&mut self, fid: Fid) {
        let Some(watch) = self.by_fid.remove(&fid) else { return };
        let Some(fids) = self.by_watch.get_mut(&watch) else { return };
        fids.retain(|other| *other != fid);
        if fids.is_empty() {
            self.by_watch.remove(&watch);
            if let Some(inotify) = &self.inotify {
                // The kernel ends a watch by itself when the directory is gone: then it is unknown.
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
        self.pending.retain(|event| event.fid != fid);
    }

    /// Ends all. The descriptor stays: closing one takes the kernel milliseconds.
    pub(super) fn clear(&mut self) {
        let fids: Vec<Fid> = self.by_fid.keys().copied().collect();
        fids.into_iter().for_each(|fid| self.remove(fid));
        self.pending.clear();
    }

    /// Takes in what has happened.
    pub(super) fn collect(&mut self) {
        self.read(|_, _| true);
    }

    /// Takes in what has happened, but for what a request of the client's has just done: to these
    /// names, and to attributes.
    pub(super) fn collect_others(&mut self, names: &[&[u8]]) {
        self.read(|changed, name| changed.contains(Changed::NAME) && !names.contains(&name));
    }

    /// The next event for the client.
    pub(super) fn first(&self) -> Option<&Event> {
        self.pending.front()
    }

    /// That one has been told.
    pub(super) fn sent(&mut self) {
        self.pending.pop_front();
    }

    fn read(&mut self, wanted: impl Fn(Changed, &[u8]) -> bool) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        let mut reader = Reader::new(inotify, buffer.spare_capacity_mut());
        // Until EAGAIN. Any other error would mean a broken descriptor: the client then hears of
        // nothing more, as if nothing happened, so it is told that anything may have.
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    Self::overflow(&mut self.pending);
                    break;
                }
            };
            let events = event.events();
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                Self::overflow(&mut self.pending);
                continue;
            }
            let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
            let changed = changed(events);
            if changed.is_empty() || !wanted(changed, name) {
                continue;
            }
            for fid in self.by_watch.get(&event.wd()).into_iter().flatten() {
                let event = Event { fid: *fid, changed, name: name.to_vec() };
                if self.pending.back() == Some(&event) {
                    continue;
                }
                if self.pending.len() >= PENDING_MAX {
                    Self::overflow(&mut self.pending);
                    break;
                }
                self.pending.push_back(event);
            }
        }
    }

    /// Too much has happened to tell it all.
    fn overflow(pending: &mut VecDeque<Event>) {
        pending.clear();
        pending.push_back(Event { fid: Fid::NONE, changed: Changed::ALL, name: Vec::new() });
    }
}

/// The protocol's word for what inotify tells.
fn changed(events: ReadFlags) -> Changed {
    let names = ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
    let mut changed = Changed::empty();
    changed.set(Changed::NAME, events.intersects(names));
    changed.set(Changed::ATTR, events.contains(ReadFlags::ATTRIB));
    changed.set(Changed::DATA, events.contains(ReadFlags::CLOSE_WRITE));
    changed.set(Changed::ENDED, events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF));
    changed
}
