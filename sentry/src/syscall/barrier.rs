//! membarrier(2) and rseq(2): what threads ask of each other's CPUs.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::platform::{Barrier, Barriers, RestartArea, ThreadId, platform};
use crate::task::Current;

/// RSEQ_FLAG_UNREGISTER (include/uapi/linux/rseq.h).
const UNREGISTER: i32 = 1;

// MEMBARRIER_CMD_* (include/uapi/linux/membarrier.h).
const QUERY: i32 = 0;
const GLOBAL: i32 = 1 << 0;
const GLOBAL_EXPEDITED: i32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 5;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 6;
const PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 7;
const REGISTER_PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 8;
const GET_REGISTRATIONS: i32 = 1 << 9;
/// MEMBARRIER_CMD_FLAG_CPU.
const FLAG_CPU: u32 = 1;

/// rseq(2).
pub fn rseq(cx: &mut Current, args: Args) -> SysResult {
    if platform().restart_area_size() == 0 {
        return Err(Errno::ENOSYS.into());
    }
    let area = RestartArea { addr: args.get(0), len: args.uint(1), signature: args.uint(3) };
    match args.int(2) {
        0 => cx.register_rseq(area)?,
        UNREGISTER => cx.unregister_rseq(area)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// What a command needs of the machine.
fn needs(command: i32) -> Option<Barriers> {
    Some(match command {
        QUERY | GET_REGISTRATIONS => Barriers::empty(),
        GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED => Barriers::EVERYWHERE,
        PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED => Barriers::MEMORY,
        PRIVATE_EXPEDITED_SYNC_CORE | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => Barriers::CORE,
        PRIVATE_EXPEDITED_RSEQ | REGISTER_PRIVATE_EXPEDITED_RSEQ => Barriers::RESTART,
        _ => return None,
    })
}

/// membarrier(2).
pub fn membarrier(cx: &mut Current, args: Args) -> SysResult {
    let (command, flags) = (args.int(0), args.uint(1));
    if flags != 0 && (command != PRIVATE_EXPEDITED_RSEQ || flags != FLAG_CPU) {
        return Err(Errno::EINVAL.into());
    }
    // The CPU is looked at with the flag only, and a negative one is none.
    let cpu = (flags == FLAG_CPU).then(|| u32::try_from(args.int(2)).ok()).flatten();
    let barriers = platform().barriers();
    if barriers.is_empty() {
        return Err(Errno::ENOSYS.into());
    }
    if !needs(command).is_some_and(|needed| barriers.contains(needed)) {
        return Err(Errno::EINVAL.into());
    }
    let state = &cx.mm.membarrier;
    let registered = |registration: i32| match state.load(Ordering::SeqCst) & registration as u32 {
        0 => Err(Errno::EPERM),
        _ => Ok(()),
    };
    let space = &cx.mm.space;
    match command {
        QUERY => {
            let known = (0..=9).map(|bit| 1 << bit);
            let there = known.filter(|c| needs(*c).is_some_and(|n| barriers.contains(n)));
            return Ok(there.fold(0, |all: u64, c: i32| all | c as u64));
        }
        // The machine has one that is for all who run, registered or not.
        GLOBAL | GLOBAL_EXPEDITED => space.barrier(Barrier::Everywhere)?,
        PRIVATE_EXPEDITED => {
            registered(REGISTER_PRIVATE_EXPEDITED)?;
            space.barrier(Barrier::Memory)?;
        }
        PRIVATE_EXPEDITED_SYNC_CORE => {
            registered(REGISTER_PRIVATE_EXPEDITED_SYNC_CORE)?;
            space.barrier(Barrier::Core)?;
        }
        PRIVATE_EXPEDITED_RSEQ => {
            registered(REGISTER_PRIVATE_EXPEDITED_RSEQ)?;
            kick_others(cx);
            space.barrier(Barrier::Restart(cpu))?;
        }
        GET_REGISTRATIONS => {
            let mut all = state.load(Ordering::SeqCst);
            // The kinds of private ones are kept as kinds of the one that is without more.
            let kinds = REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as u32
                | REGISTER_PRIVATE_EXPEDITED_RSEQ as u32;
            if all & kinds != 0 {
                all |= REGISTER_PRIVATE_EXPEDITED as u32;
            }
            return Ok(all.into());
        }
        registration => {
            state.fetch_or(registration as u32, Ordering::SeqCst);
        }
    }
    Ok(0)
}

/// Where the sentry aborts sequences, their threads have to come to it first.
fn kick_others(cx: &Current) {
    let table = cx.task.process.pids.lock();
    for task in table.tasks() {
        let shares = task.shared.lock().mm.as_ref().is_some_and(|mm| Arc::ptr_eq(mm, &cx.mm));
        if shares && task.key != cx.task.key {
            platform().kick(ThreadId(task.thread.load(Ordering::SeqCst)));
        }
    }
}
