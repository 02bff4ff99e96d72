//! seccomp(2), and what prctl(2) says of it.

use super::Args;
use super::file_args::fd_limit;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::seccomp::bpf::{Insn, MAX_INSNS, Program};
use crate::seccomp::notify::Listener;
use crate::seccomp::{Refused, action, add_filter, set_strict};
use crate::task::{Current, cap};

// Operations and flags (linux/seccomp.h).
const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const GET_NOTIF_SIZES: u32 = 3;
const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
const FLAG_NEW_LISTENER: u32 = 8;
const FLAG_TSYNC_ESRCH: u32 = 16;
const FLAG_WAIT_KILLABLE_RECV: u32 = 32;
/// All of them.
const FLAGS: u32 = FLAG_TSYNC
    | FLAG_LOG
    | FLAG_SPEC_ALLOW
    | FLAG_NEW_LISTENER
    | FLAG_TSYNC_ESRCH
    | FLAG_WAIT_KILLABLE_RECV;
/// Sizes of `struct seccomp_notif`, `seccomp_notif_resp` and `seccomp_data`.
const NOTIF_SIZES: [u16; 3] = [80, 24, 64];

/// seccomp(2).
pub fn seccomp(cx: &mut Current, args: Args) -> SysResult {
    let (operation, flags, addr) = (args.uint(0), args.uint(1), args.get(2));
    match operation {
        SET_MODE_STRICT if flags == 0 && addr == 0 => {
            set_strict(cx)?;
            Ok(0)
        }
        SET_MODE_FILTER => set_filter(cx, flags, addr),
        GET_ACTION_AVAIL if flags == 0 => {
            let known = [
                action::KILL_PROCESS,
                action::KILL_THREAD,
                action::TRAP,
                action::ERRNO,
                action::USER_NOTIF,
                action::TRACE,
                action::LOG,
                action::ALLOW,
            ];
            if known.contains(&cx.mm.copy_in_u32(addr)?) {
                Ok(0)
            } else {
                Err(Errno::EOPNOTSUPP.into())
            }
        }
        GET_NOTIF_SIZES if flags == 0 => {
            let [a, b, c] = NOTIF_SIZES.map(u16::to_le_bytes);
            cx.mm.copy_out(addr, [a, b, c].as_flattened())?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// prctl(PR_SET_SECCOMP).
pub fn prctl_set(cx: &Current, mode: u64, addr: u64) -> SysResult {
    const MODE_STRICT: u64 = 1;
    const MODE_FILTER: u64 = 2;
    match mode {
        MODE_STRICT => {
            set_strict(cx)?;
            Ok(0)
        }
        MODE_FILTER => set_filter(cx, 0, addr),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_filter(cx: &Current, flags: u32, addr: u64) -> SysResult {
    let has = |flag| flags & flag != 0;
    // Logging and speculation are as they are. A thread's number and a descriptor cannot both be the result.
    if flags & !FLAGS != 0
        || has(FLAG_TSYNC) && has(FLAG_NEW_LISTENER) && !has(FLAG_TSYNC_ESRCH)
        || has(FLAG_WAIT_KILLABLE_RECV) && !has(FLAG_NEW_LISTENER)
    {
        return Err(Errno::EINVAL.into());
    }
    // `struct sock_fprog`: the length, and after padding where the program is.
    let mut raw = [0; 16];
    cx.mm.copy_in(addr, &mut raw)?;
    let raw = u128::from_le_bytes(raw);
    let (len, program) = (usize::from(raw as u16), (raw >> 64) as u64);
    if len == 0 || len > MAX_INSNS {
        return Err(Errno::EINVAL.into());
    }
    if !cx.creds.no_new_privs && !cx.creds.own_capable(cap::SYS_ADMIN) {
        return Err(Errno::EACCES.into());
    }
    let bytes = cx.mm.copy_in_array(program, len, 8, MAX_INSNS.saturating_mul(8))?;
    let insns = bytes.as_chunks::<8>().0.iter().map(|b| Insn::from_bytes(*b)).collect();
    let mut program = Program::new(insns)?;
    let mut fd = None;
    if has(FLAG_NEW_LISTENER) {
        let listener = Listener::new(has(FLAG_WAIT_KILLABLE_RECV));
        fd = Some(cx.files.insert(listener.file(cx)?, true, fd_limit(cx))?);
        program.set_listener(listener);
    }
    let added = add_filter(cx, program, has(FLAG_TSYNC));
    if added.is_err()
        && let Some(fd) = fd
        && let Ok(file) = cx.files.remove(fd)
    {
        // Nobody has used it: there is nothing that closing could fail at.
        let _ = file.closed(cx.files.id);
    }
    match added {
        Ok(()) => Ok(fd.map_or(0, |fd| fd as u64)),
        Err(Refused::Errno(e)) => Err(e.into()),
        Err(Refused::Thread(_)) if flags & FLAG_TSYNC_ESRCH != 0 => Err(Errno::ESRCH.into()),
        Err(Refused::Thread(tid)) => Ok(cx.task.process.pidns.nr(tid).into()),
    }
}
