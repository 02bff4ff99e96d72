//! Identity: users, groups and capabilities (credentials(7), capabilities(7)).

use alloc::vec::Vec;

use crate::control::Capabilities;

/// What a task may do. Never changed in place: a change makes a new one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the names are credentials(7)'s
pub struct Creds {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub capabilities: Capabilities,
    /// prctl(PR_SET_SECUREBITS).
    pub securebits: u32,
    pub no_new_privs: bool,
}

impl Creds {
    /// Whether capability number `cap` is effective.
    pub fn capable(&self, cap: u32) -> bool {
        self.capabilities.effective.checked_shr(cap).is_some_and(|bits| bits & 1 == 1)
    }

    /// Whether the file-system group or a supplementary group is `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }
}
