//! Users, groups and capabilities. The rules are in [`crate::task::Creds`].

use alloc::vec::Vec;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::task::{Creds, Current, cap};

/// Most supplementary groups (NGROUPS_MAX).
const NGROUPS_MAX: usize = 65536;

/// getuid(2).
pub fn getuid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.uid.into())
}

/// geteuid(2).
pub fn geteuid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.euid.into())
}

/// getgid(2).
pub fn getgid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.gid.into())
}

/// getegid(2).
pub fn getegid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.egid.into())
}

fn adopt(cx: &mut Current, new: Result<Creds, Errno>) -> SysResult {
    let new = new?;
    if new != *cx.creds {
        // A change of identity makes a process invisible to debuggers (commit_creds()).
        let old = &cx.creds;
        if (new.euid, new.egid, new.fsuid, new.fsgid) != (old.euid, old.egid, old.fsuid, old.fsgid)
        {
            let process = &cx.task.process;
            process.dumpable.store(false, core::sync::atomic::Ordering::Relaxed);
            cx.task.parent_death_signal.store(0, core::sync::atomic::Ordering::Relaxed);
        }
        cx.set_creds(new);
    }
    Ok(0)
}

/// Ids that are no ids: -1 where it does not mean "unchanged".
fn id(n: u32) -> Result<u32, Errno> {
    if n == u32::MAX { Err(Errno::EINVAL) } else { Ok(n) }
}

/// setuid(2).
pub fn setuid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_uid(id(args.uint(0))?);
    adopt(cx, new)
}

/// setgid(2).
pub fn setgid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_gid(id(args.uint(0))?);
    adopt(cx, new)
}

/// setreuid(2).
pub fn setreuid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_reuid(args.uint(0), args.uint(1));
    adopt(cx, new)
}

/// setregid(2).
pub fn setregid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_regid(args.uint(0), args.uint(1));
    adopt(cx, new)
}

/// setresuid(2).
pub fn setresuid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_resuid(args.uint(0), args.uint(1), args.uint(2));
    adopt(cx, new)
}

/// setresgid(2).
pub fn setresgid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_resgid(args.uint(0), args.uint(1), args.uint(2));
    adopt(cx, new)
}

fn three(cx: &Current, args: Args, ids: [u32; 3]) -> SysResult {
    for (n, id) in ids.into_iter().enumerate() {
        cx.mm.copy_out(args.get(n), &id.to_le_bytes())?;
    }
    Ok(0)
}

/// getresuid(2).
pub fn getresuid(cx: &mut Current, args: Args) -> SysResult {
    three(cx, args, [cx.creds.uid, cx.creds.euid, cx.creds.suid])
}

/// getresgid(2).
pub fn getresgid(cx: &mut Current, args: Args) -> SysResult {
    three(cx, args, [cx.creds.gid, cx.creds.egid, cx.creds.sgid])
}

/// setfsuid(2): gives the old one, whether or not it has changed.
pub fn setfsuid(cx: &mut Current, args: Args) -> SysResult {
    let old = cx.creds.fsuid;
    if let Some(new) = cx.creds.set_fsuid(args.uint(0)) {
        adopt(cx, Ok(new))?;
    }
    Ok(old.into())
}

/// setfsgid(2).
pub fn setfsgid(cx: &mut Current, args: Args) -> SysResult {
    let old = cx.creds.fsgid;
    if let Some(new) = cx.creds.set_fsgid(args.uint(0)) {
        adopt(cx, Ok(new))?;
    }
    Ok(old.into())
}

/// getgroups(2).
pub fn getgroups(cx: &mut Current, args: Args) -> SysResult {
    let groups = &cx.creds.groups;
    let room = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    if room > 0 {
        if room < groups.len() {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_le_bytes()).collect();
        cx.mm.copy_out(args.get(1), &bytes)?;
    }
    Ok(groups.len() as u64)
}

/// setgroups(2).
pub fn setgroups(cx: &mut Current, args: Args) -> SysResult {
    if !cx.creds.capable(cap::SETGID) {
        return Err(Errno::EPERM.into());
    }
    let count = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    if count > NGROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let bytes = cx.mm.copy_in_array(args.get(1), count, 4, NGROUPS_MAX * 4)?;
    let mut groups: Vec<u32> =
        bytes.as_chunks::<4>().0.iter().map(|g| u32::from_le_bytes(*g)).collect();
    if groups.contains(&u32::MAX) {
        return Err(Errno::EINVAL.into());
    }
    groups.sort_unstable();
    let new = Creds { groups, ..(*cx.creds).clone() };
    adopt(cx, Ok(new))
}

/// Versions of the header of capget(2), and how many pairs of words each has.
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

/// Reads the header: words for the data, and the process. Where the version is unknown, the newest one
/// is written back.
fn cap_header(cx: &Current, addr: u64) -> Result<(Option<usize>, i32), Errno> {
    let version = cx.mm.copy_in_u32(addr)?;
    let pid = cx.mm.copy_in_u32(addr.wrapping_add(4))? as i32;
    match VERSIONS.iter().find(|(v, _)| *v == version) {
        Some((_, words)) => Ok((Some(*words), pid)),
        None => {
            cx.mm.copy_out(addr, &0x2008_0522u32.to_le_bytes())?;
            Ok((None, pid))
        }
    }
}

/// capget(2).
pub fn capget(cx: &mut Current, args: Args) -> SysResult {
    let (words, pid) = cap_header(cx, args.get(0))?;
    let Some(words) = words else {
        // Asking for the version alone is no error.
        return if args.get(1) == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) };
    };
    let pid = u32::try_from(pid).map_err(|_| Errno::EINVAL)?;
    let caps = if pid == 0 || pid == cx.task.vtid() {
        cx.creds.capabilities
    } else {
        cx.task.process.pidns.task(pid).ok_or(Errno::ESRCH)?.creds().capabilities
    };
    if args.get(1) == 0 {
        return Ok(0);
    }
    let mut bytes = Vec::with_capacity(24);
    for word in 0..words as u32 {
        for set in [caps.effective, caps.permitted, caps.inheritable] {
            let part = set.checked_shr(word.saturating_mul(32)).unwrap_or(0) as u32;
            bytes.extend_from_slice(&part.to_le_bytes());
        }
    }
    cx.mm.copy_out(args.get(1), &bytes)?;
    Ok(0)
}

/// capset(2).
pub fn capset(cx: &mut Current, args: Args) -> SysResult {
    let (words, pid) = cap_header(cx, args.get(0))?;
    let words = words.ok_or(Errno::EINVAL)?;
    if pid != 0 && pid as u32 != cx.task.vtid() {
        return Err(Errno::EPERM.into());
    }
    let bytes = cx.mm.copy_in_array(args.get(1), words, 12, 24)?;
    let mut sets = [0u64; 3];
    for (n, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
        if let Some(set) = sets.get_mut(n % 3) {
            *set |= u64::from(u32::from_le_bytes(*word)) << (n / 3 * 32);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & cap::ALL);
    let new = cx.creds.set_capabilities(effective, permitted, inheritable);
    adopt(cx, new)
}
