//! Mount options of a procfs: whose processes it shows to whom (proc(5), "Mount options").

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write as _;

use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::task::{AccessMode, Task, UserNamespace, cap, may_access};

/// What of processes is hidden from those who may not look into them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Hide {
    /// Nothing but what is hidden without the option.
    #[default]
    Nothing,
    /// What is in their folders.
    Contents,
    /// That they are there.
    Presence,
    /// The same, and for the group too.
    PresenceFromAll,
}

/// The options.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Hiding {
    hide: Hide,
    /// A group from which nothing is hidden; `None`: that is root's of the initial user namespace.
    group: Option<u32>,
    /// Nothing but processes is shown.
    pub only_processes: bool,
}

impl Hiding {
    /// These, changed by mount data of somebody's in a user namespace.
    pub(super) fn with(mut self, data: &[u8], userns: &UserNamespace) -> Result<Hiding, Errno> {
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or(Errno::EINVAL)?;
            match name {
                "hidepid" => {
                    self.hide = match value {
                        "0" | "off" => Hide::Nothing,
                        "1" | "noaccess" => Hide::Contents,
                        "2" | "invisible" => Hide::Presence,
                        "4" | "ptraceable" => Hide::PresenceFromAll,
                        _ => return Err(Errno::EINVAL),
                    };
                }
                "gid" => {
                    let gid = value.parse().map_err(|_| Errno::EINVAL)?;
                    self.group = Some(userns.kgid(gid).ok_or(Errno::EINVAL)?);
                }
                "subset" if value == "pid" => self.only_processes = true,
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(self)
    }

    /// As /proc/PID/mounts has them.
    pub(super) fn options(&self) -> String {
        let mut text = String::new();
        if let Some(group) = self.group.filter(|group| *group != 0) {
            // Writing to a String cannot fail.
            let _ = write!(text, ",gid={group}");
        }
        text.push_str(match self.hide {
            Hide::Nothing => "",
            Hide::Contents => ",hidepid=noaccess",
            Hide::Presence => ",hidepid=invisible",
            Hide::PresenceFromAll => ",hidepid=ptraceable",
        });
        if self.only_processes {
            text.push_str(",subset=pid");
        }
        text
    }

    /// Whether the caller is one from whom so much of others' processes is hidden, where they have less than `from` open
    /// to them (has_pid_permissions(), fs/proc/base.c).
    fn hides(&self, cx: &Cx<'_>, task: Option<&Arc<Task>>, from: Hide) -> bool {
        if self.hide < from {
            return false;
        }
        let in_group =
            self.hide != Hide::PresenceFromAll && cx.creds.in_group(self.group.unwrap_or(0));
        let looks = || match task {
            Some(task) => may_access(cx.task, cx.creds, task, AccessMode::FsCreds),
            // A zombie, of which nothing is left to compare with.
            None => cx.creds.capable(cap::SYS_PTRACE),
        };
        !in_group && !looks()
    }

    /// Whether the caller is not to know of a process, of which this is a task.
    pub(super) fn hides_presence(&self, cx: &Cx<'_>, task: Option<&Arc<Task>>) -> bool {
        self.hides(cx, task, Hide::Presence)
    }

    /// Whether the caller may enter a process's folder. `EPERM` or `ENOENT` where not.
    pub(super) fn admits(&self, cx: &Cx<'_>, task: Option<&Arc<Task>>) -> Result<(), Errno> {
        match self.hides(cx, task, Hide::Contents) {
            true if self.hide == Hide::Presence => Err(Errno::ENOENT),
            true => Err(Errno::EPERM),
            false => Ok(()),
        }
    }
}
