//! System V message queues: msgget, msgsnd, msgrcv, msgctl.

use alloc::vec::Vec;

use super::Args;
use super::sem::{ipc_owner, ipc_perm};
use super::shm::put_words;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::ipc::flag::NOWAIT;
use crate::ipc::msg::{COPY, EXCEPT, MAX, Message, QUEUE_BYTES, QUEUES, Stat};
use crate::task::Current;

/// Commands of msgctl(2) (linux/ipc.h, linux/msg.h).
mod cmd {
    pub const IPC_RMID: i32 = 0;
    pub const IPC_SET: i32 = 1;
    pub const IPC_STAT: i32 = 2;
    pub const IPC_INFO: i32 = 3;
    pub const MSG_STAT: i32 = 11;
    pub const MSG_INFO: i32 = 12;
    pub const MSG_STAT_ANY: i32 = 13;
}

/// Bytes before a message's text in memory: its type.
const HEAD: u64 = 8;

/// msgget(2).
pub fn msgget(cx: &mut Current, args: Args) -> SysResult {
    Ok(cx.namespaces.ipc.queues.get(&cx.creds, args.int(0), args.uint(1))? as u64)
}

/// msgsnd(2).
pub fn msgsnd(cx: &mut Current, args: Args) -> SysResult {
    let (id, addr, len, flags) = (args.int(0), args.get(1), args.size(2), args.uint(3));
    let kind = cx.mm.copy_in_u64(addr)? as i64;
    if len > MAX || id < 0 || kind < 1 {
        return Err(Errno::EINVAL.into());
    }
    let data = cx.mm.copy_in_array(addr.wrapping_add(HEAD), len, 1, MAX)?;
    let ipc = cx.namespaces.ipc.clone();
    ipc.queues.find(id)?.send(cx, Message { kind, data }, flags)?;
    Ok(0)
}

/// msgrcv(2).
pub fn msgrcv(cx: &mut Current, args: Args) -> SysResult {
    let (id, addr, room) = (args.int(0), args.get(1), args.size(2));
    let (kind, flags) = (args.get(3) as i64, args.uint(4));
    if id < 0 || (room as isize) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & COPY != 0 && (flags & EXCEPT != 0 || flags & NOWAIT == 0) {
        return Err(Errno::EINVAL.into());
    }
    let ipc = cx.namespaces.ipc.clone();
    let message = ipc.queues.find(id)?.receive(cx, room, kind, flags)?;
    cx.mm.copy_out(addr, &message.kind.to_le_bytes())?;
    let text = message.data.get(..room).unwrap_or(&message.data);
    cx.mm.copy_out(addr.wrapping_add(HEAD), text)?;
    Ok(text.len() as u64)
}

/// msgctl(2).
pub fn msgctl(cx: &mut Current, args: Args) -> SysResult {
    let (id, command, arg) = (args.int(0), args.int(1), args.get(2));
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ipc = cx.namespaces.ipc.clone();
    let queues = &ipc.queues;
    let creds = &cx.creds;
    let result = match command {
        cmd::IPC_RMID => queues.remove(creds, id).map(|()| 0)?,
        cmd::IPC_SET => {
            let word = |at: u64| cx.mm.copy_in_u32(arg.wrapping_add(at));
            let (uid, gid) = ipc_owner(creds, word(4)?, word(8)?)?;
            let who = (uid, gid, word(20)?);
            let most = cx.mm.copy_in_u64(arg.wrapping_add(QBYTES))?;
            queues.find(id)?.set(creds, who, most)?;
            0
        }
        cmd::IPC_STAT => {
            cx.mm.copy_out(arg, &encode(cx, &queues.find(id)?.stat(creds, true)?))?;
            0
        }
        cmd::MSG_STAT | cmd::MSG_STAT_ANY => {
            let queue = queues.at(id as u32)?;
            let stat = queue.stat(creds, command == cmd::MSG_STAT)?;
            cx.mm.copy_out(arg, &encode(cx, &stat))?;
            queue.id as u64
        }
        cmd::IPC_INFO | cmd::MSG_INFO => {
            let (count, messages, bytes, highest) = queues.usage();
            let int = |n: u64| i32::try_from(n).unwrap_or(i32::MAX) as u32;
            // MSGPOOL, MSGMAP and MSGTQL, which nothing uses; or what there is.
            let (pool, map, all) = match command {
                cmd::MSG_INFO => (count as u32, int(messages), int(bytes)),
                _ => {
                    let pool = (QUEUES as u64).saturating_mul(QUEUE_BYTES) / 1024;
                    (int(pool), int(QUEUE_BYTES), int(QUEUE_BYTES))
                }
            };
            let two = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            // MSGSSZ and MSGSEG.
            let words = [
                two(pool, map),
                two(MAX as u32, int(QUEUE_BYTES)),
                two(QUEUES as u32, 16),
                two(all, 0xffff),
            ];
            put_words(cx, arg, &words)?;
            highest.into()
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(result)
}

/// Where msg_qbytes stands in a struct msqid64_ds.
const QBYTES: u64 = 88;

/// struct msqid64_ds.
fn encode(cx: &Current, stat: &Stat) -> Vec<u8> {
    let mut bytes = ipc_perm(&cx.creds, &stat.perm, stat.id);
    let nr = |id| u64::from(cx.task.process.pidns.nr(id));
    let pids = nr(stat.lspid) | nr(stat.lrpid) << 32;
    let words =
        [stat.stime, stat.rtime, stat.ctime, stat.cbytes, stat.qnum, stat.qbytes, pids, 0, 0];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}
