//! Identity: users, groups and capabilities (credentials(7), capabilities(7)).
//!
//! The rules of how identity changes are here, as pure functions over [`Creds`]; the system calls that
//! use them are in `syscall::creds`.

use alloc::vec::Vec;

use super::UserNamespace;
use super::filecaps::FileCaps;
use crate::control::Capabilities;
use crate::errno::Errno;

/// Capability numbers (linux/capability.h).
#[allow(missing_docs)] // the names are capabilities(7)'s
pub mod cap {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const FOWNER: u32 = 3;
    pub const FSETID: u32 = 4;
    pub const KILL: u32 = 5;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const SETPCAP: u32 = 8;
    pub const LINUX_IMMUTABLE: u32 = 9;
    pub const NET_ADMIN: u32 = 12;
    pub const NET_RAW: u32 = 13;
    pub const IPC_LOCK: u32 = 14;
    pub const IPC_OWNER: u32 = 15;
    pub const SYS_CHROOT: u32 = 18;
    pub const SYS_PTRACE: u32 = 19;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_NICE: u32 = 23;
    pub const SYS_RESOURCE: u32 = 24;
    pub const SYS_TIME: u32 = 25;
    pub const SYS_TTY_CONFIG: u32 = 26;
    pub const MKNOD: u32 = 27;
    pub const LEASE: u32 = 28;
    pub const AUDIT_CONTROL: u32 = 30;
    pub const SETFCAP: u32 = 31;
    pub const MAC_OVERRIDE: u32 = 32;
    pub const SYSLOG: u32 = 34;
    pub const WAKE_ALARM: u32 = 35;
    /// The highest there is (CAP_CHECKPOINT_RESTORE).
    pub const LAST: u32 = 40;
    /// All of them.
    pub const ALL: u64 = (1 << (LAST + 1)) - 1;
    /// Those that fsuid 0 has over files (CAP_FS_SET).
    pub const FS: u64 = 1 << CHOWN
        | 1 << DAC_OVERRIDE
        | 1 << DAC_READ_SEARCH
        | 1 << FOWNER
        | 1 << FSETID
        | 1 << LINUX_IMMUTABLE
        | 1 << MKNOD
        | 1 << MAC_OVERRIDE;
}

/// Secure bits (linux/securebits.h); each has a lock one place higher.
#[allow(missing_docs)] // the names are capabilities(7)'s
pub mod securebits {
    pub const NOROOT: u32 = 1 << 0;
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    pub const KEEP_CAPS: u32 = 1 << 4;
    pub const KEEP_CAPS_LOCKED: u32 = 1 << 5;
    pub const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    pub const ALL_BITS: u32 = 0x55;
    pub const ALL_LOCKS: u32 = 0xaa;
}

/// The id that changes nothing.
pub const UNCHANGED: u32 = u32::MAX;

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
    /// Where the capabilities hold. Ids are the initial one's, whichever this is.
    pub userns: UserNamespace,
}

impl Creds {
    /// Those of one user and one group in every part, without anything else.
    pub fn of(uid: u32, gid: u32) -> Creds {
        Creds {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            ..Creds::default()
        }
    }

    /// Whether capability number `cap` is effective over the whole container: in the initial user namespace.
    pub fn capable(&self, cap: u32) -> bool {
        self.userns.is_initial() && has(self.capabilities.effective, cap)
    }

    /// Whether it is in its own user namespace.
    pub fn own_capable(&self, cap: u32) -> bool {
        has(self.capabilities.effective, cap)
    }

    /// Whether it is in the namespace `ns`: being its own or below that, or one whose owner, in the namespace
    /// where it was made, this is, or one below such a one (cap_capable()).
    #[inline(never)]
    pub fn ns_capable(&self, ns: &UserNamespace, cap: u32) -> bool {
        let mut at = ns;
        loop {
            if *at == self.userns {
                return has(self.capabilities.effective, cap);
            }
            let Some(parent) = at.parent().filter(|_| at.level() > self.userns.level()) else {
                return false;
            };
            if *parent == self.userns && at.owner() == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether it is over a file of these owners: in its own namespace, where both must have numbers
    /// (capable_wrt_inode_uidgid()).
    #[inline(never)]
    pub fn capable_over(&self, uid: u32, gid: u32, cap: u32) -> bool {
        self.own_capable(cap) && self.userns.has_uid(uid) && self.userns.has_gid(gid)
    }

    /// These with all capabilities in `userns`, and none elsewhere (set_cred_user_ns()).
    pub fn in_new_user_namespace(&self, userns: UserNamespace) -> Creds {
        let capabilities = Capabilities {
            effective: cap::ALL,
            permitted: cap::ALL,
            inheritable: 0,
            bounding: cap::ALL,
            ambient: 0,
        };
        Creds { userns, capabilities, securebits: 0, ..self.clone() }
    }

    /// Whether `new` has no capability that these do not have (cred_cap_issubset()).
    pub fn cover(&self, new: &Creds) -> bool {
        if new.userns == self.userns {
            return new.capabilities.permitted & !self.capabilities.permitted == 0;
        }
        let mut at = &new.userns;
        while let Some(parent) = at.parent() {
            if *parent == self.userns && at.owner() == self.euid {
                return true;
            }
            at = parent;
        }
        false
    }

    /// Whether the file-system group or a supplementary group is `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// Whether a task with these may send a signal to one with `target` (kill(2)).
    pub fn may_signal(&self, target: &Creds) -> bool {
        [self.euid, self.uid].iter().any(|id| *id == target.suid || *id == target.uid)
            || self.ns_capable(&target.userns, cap::KILL)
    }

    /// setuid(2).
    pub fn set_uid(&self, uid: u32) -> Result<Creds, Errno> {
        let mut new = self.clone();
        if self.own_capable(cap::SETUID) {
            (new.uid, new.suid) = (uid, uid);
        } else if uid != self.uid && uid != self.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        new.fix_after_setuid(self);
        Ok(new)
    }

    /// setreuid(2).
    pub fn set_reuid(&self, ruid: u32, euid: u32) -> Result<Creds, Errno> {
        let mut new = self.clone();
        let privileged = self.own_capable(cap::SETUID);
        if ruid != UNCHANGED {
            new.uid = ruid;
            if ruid != self.uid && ruid != self.euid && !privileged {
                return Err(Errno::EPERM);
            }
        }
        if euid != UNCHANGED {
            new.euid = euid;
            if ![self.uid, self.euid, self.suid].contains(&euid) && !privileged {
                return Err(Errno::EPERM);
            }
        }
        if ruid != UNCHANGED || (euid != UNCHANGED && euid != self.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        new.fix_after_setuid(self);
        Ok(new)
    }

    /// setresuid(2).
    pub fn set_resuid(&self, ruid: u32, euid: u32, suid: u32) -> Result<Creds, Errno> {
        let may = |id: u32| {
            id == UNCHANGED
                || [self.uid, self.euid, self.suid].contains(&id)
                || self.own_capable(cap::SETUID)
        };
        if !may(ruid) || !may(euid) || !may(suid) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        for (to, id) in [(&mut new.uid, ruid), (&mut new.euid, euid), (&mut new.suid, suid)] {
            if id != UNCHANGED {
                *to = id;
            }
        }
        new.fsuid = new.euid;
        new.fix_after_setuid(self);
        Ok(new)
    }

    /// setgid(2).
    pub fn set_gid(&self, gid: u32) -> Result<Creds, Errno> {
        let mut new = self.clone();
        if self.own_capable(cap::SETGID) {
            (new.gid, new.sgid) = (gid, gid);
        } else if gid != self.gid && gid != self.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(new)
    }

    /// setregid(2).
    pub fn set_regid(&self, rgid: u32, egid: u32) -> Result<Creds, Errno> {
        let mut new = self.clone();
        let privileged = self.own_capable(cap::SETGID);
        if rgid != UNCHANGED {
            new.gid = rgid;
            if rgid != self.gid && rgid != self.egid && !privileged {
                return Err(Errno::EPERM);
            }
        }
        if egid != UNCHANGED {
            new.egid = egid;
            if ![self.gid, self.egid, self.sgid].contains(&egid) && !privileged {
                return Err(Errno::EPERM);
            }
        }
        if rgid != UNCHANGED || (egid != UNCHANGED && egid != self.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setresgid(2).
    pub fn set_resgid(&self, rgid: u32, egid: u32, sgid: u32) -> Result<Creds, Errno> {
        let may = |id: u32| {
            id == UNCHANGED
                || [self.gid, self.egid, self.sgid].contains(&id)
                || self.own_capable(cap::SETGID)
        };
        if !may(rgid) || !may(egid) || !may(sgid) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        for (to, id) in [(&mut new.gid, rgid), (&mut new.egid, egid), (&mut new.sgid, sgid)] {
            if id != UNCHANGED {
                *to = id;
            }
        }
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setfsuid(2): what it becomes, or `None` where that is not allowed.
    pub fn set_fsuid(&self, uid: u32) -> Option<Creds> {
        let may = [self.uid, self.euid, self.suid, self.fsuid].contains(&uid)
            || self.own_capable(cap::SETUID);
        if uid == UNCHANGED || !may {
            return None;
        }
        let mut new = self.clone();
        new.fsuid = uid;
        if self.securebits & securebits::NO_SETUID_FIXUP == 0 {
            new.fix_after_setfsuid(self.fsuid);
        }
        Some(new)
    }

    /// setfsgid(2).
    pub fn set_fsgid(&self, gid: u32) -> Option<Creds> {
        let may = [self.gid, self.egid, self.sgid, self.fsgid].contains(&gid)
            || self.own_capable(cap::SETGID);
        if gid == UNCHANGED || !may {
            return None;
        }
        Some(Creds { fsgid: gid, ..self.clone() })
    }

    /// What a change of user ids does to capabilities (capabilities(7), "Effect of user ID changes").
    fn fix_after_setuid(&mut self, old: &Creds) {
        if self.securebits & securebits::NO_SETUID_FIXUP != 0 {
            return;
        }
        // Root is who is that in the namespace, if anybody is.
        let root = self.userns.kuid(0);
        let is_root = |id: u32| Some(id) == root;
        let had_root = [old.uid, old.euid, old.suid].into_iter().any(is_root);
        let has_root = [self.uid, self.euid, self.suid].into_iter().any(is_root);
        let caps = &mut self.capabilities;
        if had_root && !has_root {
            if self.securebits & securebits::KEEP_CAPS == 0 {
                caps.permitted = 0;
                caps.effective = 0;
            }
            // Ambient capabilities do not survive in any case.
            caps.ambient = 0;
        }
        if is_root(old.euid) && !is_root(self.euid) {
            caps.effective = 0;
        }
        if !is_root(old.euid) && is_root(self.euid) {
            caps.effective = caps.permitted;
        }
        self.fix_after_setfsuid(old.fsuid);
    }

    fn fix_after_setfsuid(&mut self, old: u32) {
        let root = self.userns.kuid(0);
        let (was_root, is_root) = (Some(old) == root, Some(self.fsuid) == root);
        let caps = &mut self.capabilities;
        if was_root && !is_root {
            caps.effective &= !cap::FS;
        }
        if !was_root && is_root {
            caps.effective |= caps.permitted & cap::FS;
        }
    }

    /// capset(2): the new sets, checked as capabilities(7) says.
    pub fn set_capabilities(
        &self,
        effective: u64,
        permitted: u64,
        inheritable: u64,
    ) -> Result<Creds, Errno> {
        let old = &self.capabilities;
        let allowed = if self.own_capable(cap::SETPCAP) {
            old.inheritable | old.permitted | inheritable
        } else {
            old.inheritable | old.permitted
        };
        if inheritable & !allowed != 0
            || inheritable & !(old.inheritable | old.bounding) != 0
            || permitted & !old.permitted != 0
            || effective & !permitted != 0
        {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        let caps = &mut new.capabilities;
        caps.effective = effective;
        caps.permitted = permitted;
        caps.inheritable = inheritable;
        caps.ambient &= permitted & inheritable;
        Ok(new)
    }

    /// What executing a file gives (capabilities(7), "Transformation of capabilities during
    /// execve"; cap_bprm_creds_from_file()). Also: whether the program gains privileges (AT_SECURE). `EPERM` where the
    /// file's capabilities are effective at once, and not all of them can be had.
    pub fn after_exec(&self, gift: &Gift) -> Result<(Creds, bool), Errno> {
        let mut new = self.clone();
        if !self.no_new_privs {
            new.euid = gift.setuid.unwrap_or(self.euid);
            new.egid = gift.setgid.unwrap_or(self.egid);
        }
        let old = &self.capabilities;
        let root = self.userns.kuid(0);
        let is_root = |id: u32| Some(id) == root;
        let mut permitted = 0;
        let mut effective = false;
        if let Some(caps) = &gift.caps {
            permitted = old.bounding & caps.permitted | old.inheritable & caps.inheritable;
            effective = caps.effective;
            if effective && caps.permitted & !permitted != 0 {
                return Err(Errno::EPERM);
            }
        }
        // A program with capabilities of its own that is set-user-ID root has no more than those.
        let only_euid_root = is_root(new.euid) && !is_root(new.uid);
        if self.securebits & securebits::NOROOT == 0 && !(gift.caps.is_some() && only_euid_root) {
            if is_root(new.euid) || is_root(new.uid) {
                permitted = old.bounding | old.inheritable;
            }
            effective |= is_root(new.euid);
        }
        let id_changed = new.euid != self.euid || !self.in_group(new.egid);
        let gained = permitted & !old.permitted != 0;
        if (id_changed || gained) && (self.no_new_privs || gift.lessened) {
            if self.no_new_privs || !self.own_capable(cap::SETUID) {
                (new.euid, new.egid) = (new.uid, new.gid);
            }
            permitted &= old.permitted;
        }
        (new.suid, new.fsuid) = (new.euid, new.euid);
        (new.sgid, new.fsgid) = (new.egid, new.egid);
        let caps = &mut new.capabilities;
        if gift.caps.is_some() || id_changed {
            caps.ambient = 0;
        }
        caps.permitted = permitted | caps.ambient;
        caps.effective = if effective { caps.permitted } else { caps.ambient };
        new.securebits &= !securebits::KEEP_CAPS;
        let grown = effective || new.capabilities.permitted & !new.capabilities.ambient != 0;
        let secure = id_changed
            || new.euid != self.uid
            || new.egid != self.gid
            || !is_root(new.uid) && grown;
        Ok((new, secure))
    }
}

/// What a file has for whom executes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gift {
    /// Its owner, where it is set-user-ID and that counts.
    pub setuid: Option<u32>,
    /// Its group, where it is set-group-ID and that counts.
    pub setgid: Option<u32>,
    /// Its capabilities, where it has any that count.
    pub caps: Option<FileCaps>,
    /// Somebody traces the caller, or shares its directories, who has not the right to what is given.
    pub lessened: bool,
}

/// Whether a set has a capability.
pub fn has(set: u64, cap: u32) -> bool {
    set.checked_shr(cap).is_some_and(|bits| bits & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Creds {
        let all = cap::ALL;
        Creds {
            capabilities: Capabilities {
                effective: all,
                permitted: all,
                inheritable: 0,
                bounding: all,
                ambient: 0,
            },
            ..Creds::default()
        }
    }

    #[test]
    fn leaving_root_for_good_drops_capabilities_and_leaving_it_for_a_while_does_not() {
        let gone = root().set_uid(1000).unwrap();
        assert_eq!((gone.capabilities.effective, gone.capabilities.permitted), (0, 0));
        assert_eq!(gone.set_uid(0), Err(Errno::EPERM));
        let away = root().set_resuid(UNCHANGED, 1000, UNCHANGED).unwrap();
        assert_eq!(away.capabilities.effective, 0);
        assert_eq!(away.capabilities.permitted, cap::ALL);
        let back = away.set_resuid(UNCHANGED, 0, UNCHANGED).unwrap();
        assert_eq!(back.capabilities.effective, cap::ALL);
    }

    #[test]
    fn keepcaps_keeps_what_is_permitted_until_exec() {
        let kept = Creds { securebits: securebits::KEEP_CAPS, ..root() }.set_uid(5).unwrap();
        assert_eq!(kept.capabilities.permitted, cap::ALL);
        assert_eq!(kept.capabilities.effective, 0);
        let (after, secure) = kept.after_exec(&Gift::default()).unwrap();
        assert_eq!(after.capabilities.permitted, 0);
        assert!(!secure);
    }

    #[test]
    fn a_setuid_root_program_gains_all_within_bounds() {
        let mut user = root().set_uid(1000).unwrap();
        user.capabilities.bounding = 1 << cap::KILL;
        let root_owned = Gift { setuid: Some(0), ..Gift::default() };
        let (new, secure) = user.after_exec(&root_owned).unwrap();
        assert_eq!(new.euid, 0);
        assert_eq!(new.capabilities.effective, 1 << cap::KILL);
        assert!(secure);
        user.no_new_privs = true;
        assert_eq!(user.after_exec(&root_owned).unwrap().0.euid, 1000);
    }

    #[test]
    fn ambient_capabilities_survive_an_ordinary_exec() {
        let mut user = root().set_uid(1000).unwrap();
        let one = 1 << cap::KILL;
        user.capabilities = Capabilities {
            effective: one,
            permitted: one,
            inheritable: one,
            bounding: cap::ALL,
            ambient: one,
        };
        let (new, secure) = user.after_exec(&Gift::default()).unwrap();
        assert_eq!(new.capabilities.effective, one);
        assert!(!secure);
    }

    #[test]
    fn capabilities_of_a_file_are_gained_within_bounds() {
        let one = 1 << cap::KILL;
        let caps = FileCaps { permitted: one, inheritable: 0, effective: true };
        let mut gift = Gift { caps: Some(caps), ..Gift::default() };
        let mut user = root().set_uid(1000).unwrap();
        let (new, secure) = user.after_exec(&gift).unwrap();
        assert_eq!((new.capabilities.permitted, new.capabilities.effective), (one, one));
        assert!(secure);
        let traced = user.after_exec(&Gift { lessened: true, ..gift }).unwrap().0;
        assert_eq!(traced.capabilities.permitted, 0);
        user.capabilities.bounding = 0;
        assert_eq!(user.after_exec(&gift), Err(Errno::EPERM));
        gift.caps = Some(FileCaps { effective: false, ..caps });
        assert_eq!(user.after_exec(&gift).unwrap().0.capabilities.permitted, 0);
    }

    #[test]
    fn capset_cannot_gain() {
        let user = root().set_uid(1000).unwrap();
        assert_eq!(user.set_capabilities(1, 1, 0), Err(Errno::EPERM));
        assert!(user.set_capabilities(0, 0, 0).is_ok());
        assert!(root().set_capabilities(0, cap::ALL, cap::ALL).is_ok());
    }
}
