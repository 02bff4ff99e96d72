//! File systems under construction (fsopen(2), fspick(2)): parameters are collected one by one, what is wrong
//! with them can be read from the descriptor, and then a file system is made or changed.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use super::anon;
use super::context::Cx;
use super::dentry::Super;
use super::file::File;
use super::inode::FileOps;
use super::io::IoDst;
use super::mount::Mount;
use super::overlayfs;
use super::tmpfs;
use super::types::{MountFlags, OpenFlags};
use crate::errno::Errno;
use crate::sync::{Mutex, SpinLock};
use crate::task::Creds;

/// Messages that are kept; older ones are lost (fs/fs_context.c).
const MAX_MESSAGES: usize = 8;
/// Bytes of parameters, as of mount(2)'s data.
const MAX_DATA: usize = 4096;

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Parameters of a new file system.
    Create,
    /// The file system is there, for fsmount(2) to take.
    Made,
    /// Parameters for a change.
    Change,
    Failed,
}

struct State {
    phase: Phase,
    /// Parameters as mount(2)'s data.
    data: Vec<u8>,
    source: Option<String>,
    /// Flags of the file system to be set, of those in `which`.
    flags: MountFlags,
    which: MountFlags,
    /// The file system, kept in use by a mount that is nowhere.
    made: Option<Arc<Mount>>,
}

/// The operations of its descriptor.
pub struct FsContextFile {
    fstype: String,
    state: Mutex<State>,
    log: SpinLock<VecDeque<String>>,
}

/// Names of parameters by types of file system.
fn parameters(fstype: &str) -> &'static [&'static str] {
    match fstype {
        "tmpfs" | "devtmpfs" => &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "huge",
            "mpol",
            "inode32",
            "inode64",
            "noswap",
        ],
        "overlay" => overlayfs::PARAMETERS,
        "devpts" => &["uid", "gid", "mode", "ptmxmode", "newinstance", "max"],
        _ => &[],
    }
}

/// A descriptor for a file system to be made, of a type that there is, or for one to be changed.
pub fn new(cx: &Cx<'_>, fstype: &str, change: Option<&Arc<Super>>) -> Result<Arc<File>, Errno> {
    let made = match change {
        Some(sb) => Some(Mount::new(
            sb,
            sb.root().ok_or(Errno::EINVAL)?,
            MountFlags::empty(),
            String::new(),
        )),
        None => None,
    };
    let context = FsContextFile {
        fstype: fstype.into(),
        state: Mutex::new(State {
            phase: if made.is_some() { Phase::Change } else { Phase::Create },
            data: Vec::new(),
            source: None,
            flags: MountFlags::empty(),
            which: MountFlags::empty(),
            made,
        }),
        log: SpinLock::default(),
    };
    anon::file(cx, "anon_inode:[fscontext]", Box::new(context), OpenFlags::RDWR)
}

impl FsContextFile {
    /// The type of its file system.
    pub fn fstype(&self) -> &str {
        &self.fstype
    }

    /// `EINVAL`, with a message.
    fn refuse(&self, message: String) -> Errno {
        let mut log = self.log.lock();
        if log.len() >= MAX_MESSAGES {
            log.pop_front();
        }
        log.push_back(message);
        Errno::EINVAL
    }

    /// FSCONFIG_SET_FLAG, or with a value FSCONFIG_SET_STRING. Values of other kinds, which nothing here takes, are
    /// `Err`.
    pub fn set(
        &self,
        creds: &Creds,
        key: &str,
        value: Result<Option<&str>, ()>,
    ) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Create | Phase::Change) {
            return Err(Errno::EBUSY);
        }
        let flag = |flag, set| Some((flag, set));
        let common = match key {
            "ro" => flag(MountFlags::RDONLY, true),
            "rw" => flag(MountFlags::RDONLY, false),
            "sync" => flag(MountFlags::SYNCHRONOUS, true),
            "async" => flag(MountFlags::SYNCHRONOUS, false),
            "dirsync" => flag(MountFlags::DIRSYNC, true),
            "mand" => flag(MountFlags::MANDLOCK, true),
            "nomand" => flag(MountFlags::MANDLOCK, false),
            "lazytime" => flag(MountFlags::LAZYTIME, true),
            "nolazytime" => flag(MountFlags::LAZYTIME, false),
            _ => None,
        };
        if let Some((flag, set)) = common {
            state.flags.set(flag, set);
            state.which |= flag;
            return Ok(());
        }
        let fstype = &self.fstype;
        if parameters(fstype).contains(&key) {
            let bad = || self.refuse(format!("e {fstype}: Bad value for '{key}'\n"));
            let text = match value {
                // Only a path's commas can be escaped.
                Ok(Some(value)) if fstype == "overlay" => {
                    format!("{key}={}", value.replace(',', "\\,"))
                }
                Ok(Some(value)) if !value.contains(',') => format!("{key}={value}"),
                Ok(None) => key.into(),
                _ => return Err(bad()),
            };
            if fstype == "tmpfs" && tmpfs::Options::parse(text.as_bytes(), creds).is_err()
                || fstype == "overlay" && !overlayfs::is_valid(text.as_bytes())
            {
                return Err(bad());
            }
            if state.data.len().saturating_add(text.len()) >= MAX_DATA {
                return Err(self.refuse(format!("e {fstype}: Cumulative options too large\n")));
            }
            if !state.data.is_empty() {
                state.data.push(b',');
            }
            state.data.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        if key != "source" {
            return Err(self.refuse(format!("e {fstype}: Unknown parameter '{key}'\n")));
        }
        let Ok(Some(value)) = value else {
            return Err(self.refuse("e Non-string source\n".into()));
        };
        if state.source.is_some() {
            return Err(self.refuse("e Multiple sources\n".into()));
        }
        state.source = Some(value.into());
        Ok(())
    }

    /// FSCONFIG_CMD_CREATE: `make` makes the file system of the parameters.
    pub fn create(
        &self,
        make: impl FnOnce(&[u8]) -> Result<Arc<Super>, Errno>,
    ) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.phase != Phase::Create {
            return Err(Errno::EBUSY);
        }
        state.phase = Phase::Failed;
        let sb = make(&state.data)?;
        sb.change_flags(state.flags)?;
        let root = sb.root().ok_or(Errno::ENOENT)?;
        state.made = Some(Mount::new(&sb, root, MountFlags::empty(), String::new()));
        state.phase = Phase::Made;
        Ok(())
    }

    /// FSCONFIG_CMD_RECONFIGURE, of a file system that one `may` change.
    pub fn reconfigure(&self, may: impl FnOnce(&Super) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.phase != Phase::Change {
            return Err(Errno::EBUSY);
        }
        may(&state.made.as_ref().ok_or(Errno::EINVAL)?.sb)?;
        state.phase = Phase::Failed;
        let sb = state.made.as_ref().ok_or(Errno::EINVAL)?.sb.clone();
        let flags = (sb.flags() - state.which) | state.flags;
        if sb.fs.is_read_only() && !flags.contains(MountFlags::RDONLY) {
            return Err(Errno::EROFS);
        }
        sb.fs.remount(&state.data)?;
        sb.change_flags(flags)?;
        state.begin_change();
        Ok(())
    }

    /// fsmount(2): a mount of what was made. `EINVAL` before that, `EBUSY` the second time.
    pub fn mount(&self, flags: MountFlags) -> Result<Arc<Mount>, Errno> {
        let mut state = self.state.lock();
        let made = state.made.as_ref().ok_or(Errno::EINVAL)?;
        if state.phase != Phase::Made {
            return Err(Errno::EBUSY);
        }
        let source = state.source.clone().unwrap_or_default();
        let mount = Mount::new(&made.sb, made.root.clone(), flags, source);
        state.begin_change();
        Ok(mount)
    }
}

impl State {
    /// From now on it changes the file system, as one of fspick(2).
    fn begin_change(&mut self) {
        self.phase = Phase::Change;
        self.data.clear();
        self.source = None;
        (self.flags, self.which) = (MountFlags::empty(), MountFlags::empty());
    }
}

impl FileOps for FsContextFile {
    fn is_stream(&self) -> bool {
        true
    }

    /// The oldest message. `ENODATA` where there is none, `EMSGSIZE` where it does not fit.
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        let message = self.log.lock().pop_front().ok_or(Errno::ENODATA)?;
        if message.len() > dst.remaining() {
            return Err(Errno::EMSGSIZE);
        }
        dst.put(message.as_bytes())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
