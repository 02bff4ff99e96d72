//! Users, groups and capabilities. The rules are in [`crate::task::Creds`].

use alloc::vec::Vec;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::task::{Creds, Current, UNCHANGED, cap};

/// Most supplementary groups (NGROUPS_MAX).
const NGROUPS_MAX: usize = 65536;

/// getuid(2).
pub fn getuid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.userns.uid(cx.creds.uid).into())
}

/// geteuid(2).
pub fn geteuid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.userns.uid(cx.creds.euid).into())
}

/// getgid(2).
pub fn getgid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.userns.gid(cx.creds.gid).into())
}

/// getegid(2).
pub fn getegid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.creds.userns.gid(cx.creds.egid).into())
}

fn adopt(cx: &mut Current, new: Result<Creds, Errno>) -> SysResult {
    cx.commit_creds(new?);
    Ok(0)
}

/// The user whom the caller means. `EINVAL` where there is none of this number, as of -1.
fn user(cx: &Current, uid: u32) -> Result<u32, Errno> {
    cx.creds.userns.kuid(uid).ok_or(Errno::EINVAL)
}

/// The group that the caller means.
fn group(cx: &Current, gid: u32) -> Result<u32, Errno> {
    cx.creds.userns.kgid(gid).ok_or(Errno::EINVAL)
}

/// Users, of which -1 means that the id does not change.
fn users<const N: usize>(cx: &Current, args: Args) -> Result<[u32; N], Errno> {
    ids(args, |uid| user(cx, uid))
}

/// Groups likewise.
fn groups<const N: usize>(cx: &Current, args: Args) -> Result<[u32; N], Errno> {
    ids(args, |gid| group(cx, gid))
}

fn ids<const N: usize>(
    args: Args,
    id: impl Fn(u32) -> Result<u32, Errno>,
) -> Result<[u32; N], Errno> {
    let mut all = [UNCHANGED; N];
    for (n, to) in all.iter_mut().enumerate() {
        if args.uint(n) != UNCHANGED {
            *to = id(args.uint(n))?;
        }
    }
    Ok(all)
}

/// setuid(2).
pub fn setuid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_uid(user(cx, args.uint(0))?);
    adopt(cx, new)
}

/// setgid(2).
pub fn setgid(cx: &mut Current, args: Args) -> SysResult {
    let new = cx.creds.set_gid(group(cx, args.uint(0))?);
    adopt(cx, new)
}

/// setreuid(2).
pub fn setreuid(cx: &mut Current, args: Args) -> SysResult {
    let [ruid, euid] = users(cx, args)?;
    let new = cx.creds.set_reuid(ruid, euid);
    adopt(cx, new)
}

/// setregid(2).
pub fn setregid(cx: &mut Current, args: Args) -> SysResult {
    let [rgid, egid] = groups(cx, args)?;
    let new = cx.creds.set_regid(rgid, egid);
    adopt(cx, new)
}

/// setresuid(2).
pub fn setresuid(cx: &mut Current, args: Args) -> SysResult {
    let [ruid, euid, suid] = users(cx, args)?;
    let new = cx.creds.set_resuid(ruid, euid, suid);
    adopt(cx, new)
}

/// setresgid(2).
pub fn setresgid(cx: &mut Current, args: Args) -> SysResult {
    let [rgid, egid, sgid] = groups(cx, args)?;
    let new = cx.creds.set_resgid(rgid, egid, sgid);
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
    let all = [cx.creds.uid, cx.creds.euid, cx.creds.suid];
    three(cx, args, all.map(|id| cx.creds.userns.uid(id)))
}

/// getresgid(2).
pub fn getresgid(cx: &mut Current, args: Args) -> SysResult {
    let all = [cx.creds.gid, cx.creds.egid, cx.creds.sgid];
    three(cx, args, all.map(|id| cx.creds.userns.gid(id)))
}

/// setfsuid(2): gives the old one, whether or not it has changed.
pub fn setfsuid(cx: &mut Current, args: Args) -> SysResult {
    let old = cx.creds.userns.uid(cx.creds.fsuid);
    if let Some(new) = cx.creds.userns.kuid(args.uint(0)).and_then(|id| cx.creds.set_fsuid(id)) {
        adopt(cx, Ok(new))?;
    }
    Ok(old.into())
}

/// setfsgid(2).
pub fn setfsgid(cx: &mut Current, args: Args) -> SysResult {
    let old = cx.creds.userns.gid(cx.creds.fsgid);
    if let Some(new) = cx.creds.userns.kgid(args.uint(0)).and_then(|id| cx.creds.set_fsgid(id)) {
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
        let userns = &cx.creds.userns;
        let bytes: Vec<u8> = groups.iter().flat_map(|g| userns.gid(*g).to_le_bytes()).collect();
        cx.mm.copy_out(args.get(1), &bytes)?;
    }
    Ok(groups.len() as u64)
}

/// setgroups(2).
pub fn setgroups(cx: &mut Current, args: Args) -> SysResult {
    if !cx.creds.own_capable(cap::SETGID) || !cx.creds.userns.may_setgroups() {
        return Err(Errno::EPERM.into());
    }
    let count = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    if count > NGROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let bytes = cx.mm.copy_in_array(args.get(1), count, 4, NGROUPS_MAX * 4)?;
    let numbers = bytes.as_chunks::<4>().0.iter().map(|g| u32::from_le_bytes(*g));
    let mut groups = numbers.map(|gid| group(cx, gid)).collect::<Result<Vec<u32>, Errno>>()?;
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
