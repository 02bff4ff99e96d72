//! System call filters that a task sets for itself and its children (seccomp(2)).
//!
//! A task's state is under its own lock and changes under its process's signal lock, so that a filter
//! for all threads of a process reaches those that are just being made, too. Whoever has a filter has
//! `Task::watched` set: that one flag is all that other tasks' system calls look at. Nearly all calls of nearly all filters
//! are allowed whatever their arguments are; which, is found out when a filter is set, and kept in `Task::allowed`.

pub mod bpf;
pub mod notify;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::Errno;
use crate::signal::{SigInfo, Signal, code, force, pair};
use crate::task::{Creds, Current, Task, trace};
use bpf::{Data, Program};

/// include/uapi/linux/audit.h
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// The most instructions of all filters of a task, each with 4 for itself (MAX_INSNS_PER_PATH). Linux
/// counts those of its own translation, which are up to twice as many.
const MAX_INSNS_PER_PATH: usize = 32_768;
const PENALTY: usize = 4;
/// The highest error number.
const MAX_ERRNO: u32 = 4095;

/// What a filter says (linux/seccomp.h): an action in the upper half, data in the lower.
#[allow(missing_docs)] // the names are seccomp(2)'s, without SECCOMP_RET_
pub mod action {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0x0000_0000;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    /// The bits of the action.
    pub const MASK: u32 = 0xffff_0000;
}

/// Calls by number that are made without a look at anything: all filters allow them, and nobody else has to do with the
/// task's calls.
#[derive(Debug, Default)]
pub struct Allowed([AtomicU64; WORDS]);

/// Words of 64 calls each, more than there are.
const WORDS: usize = 8;

impl Allowed {
    /// Whether the call with this number is one.
    pub fn has(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 != 0)
    }

    fn set(&self, calls: [u64; WORDS]) {
        for (word, calls) in self.0.iter().zip(calls) {
            word.store(calls, Ordering::Relaxed);
        }
    }
}

/// Calls that a program allows regardless of their arguments.
fn allowed_by(program: &Program) -> [u64; WORDS] {
    let mut calls = [0; WORDS];
    for (number, word) in (0..).step_by(64).zip(&mut calls) {
        for bit in 0..64 {
            if program.says_regardless(number + bit, AUDIT_ARCH_X86_64) == Some(action::ALLOW) {
                *word |= 1 << bit;
            }
        }
    }
    calls
}

/// What a task's calls are up against.
#[derive(Clone, Debug, Default)]
pub enum Seccomp {
    /// Nothing.
    #[default]
    Off,
    /// read, write, exit and sigreturn only.
    Strict,
    /// Filters, the oldest first. Shared by who inherits them.
    Filter(Arc<Filters>),
}

/// Filters, the oldest first.
#[derive(Debug)]
pub struct Filters {
    programs: Vec<Arc<Program>>,
    /// What all of them allow regardless of arguments.
    allowed: [u64; WORDS],
}

impl Seccomp {
    /// One filter.
    pub fn filter(program: Program) -> Seccomp {
        Seccomp::Off.and(program)
    }

    /// One filter more.
    fn and(&self, program: Program) -> Seccomp {
        let mut allowed = allowed_by(&program);
        if let Seccomp::Filter(old) = self {
            allowed.iter_mut().zip(old.allowed).for_each(|(new, old)| *new &= old);
        }
        let programs = self.filters().iter().cloned().chain([Arc::new(program)]).collect();
        Seccomp::Filter(Arc::new(Filters { programs, allowed }))
    }

    /// The mode's number, as prctl(PR_GET_SECCOMP) and /proc have it.
    pub fn mode(&self) -> u32 {
        match self {
            Seccomp::Off => 0,
            Seccomp::Strict => 1,
            Seccomp::Filter(_) => 2,
        }
    }

    /// The filters, the oldest first.
    pub fn filters(&self) -> &[Arc<Program>] {
        match self {
            Seccomp::Off | Seccomp::Strict => &[],
            Seccomp::Filter(filters) => &filters.programs,
        }
    }

    /// What becomes of execve(2), if it is refused whatever it is to execute.
    pub fn refuses_exec(&self) -> Option<Errno> {
        const EXECVE: u32 = 59;
        let call = Data { number: EXECVE, arch: AUDIT_ARCH_X86_64, ip: 0, args: [0; 6] };
        let said = self.filters().iter().map(|program| program.run(&call));
        let said = said.min_by_key(|said| strictness(*said))?;
        match said & action::MASK {
            action::ALLOW | action::LOG => None,
            action::ERRNO => Some(Errno::from_code((said & !action::MASK) as i32)),
            // Whoever would trace or hear of it is not there.
            action::TRACE | action::USER_NOTIF => Some(Errno::ENOSYS),
            _ => Some(Errno::EPERM),
        }
    }

    /// Whether a task with `self` may be given `other` instead: it has nothing, or the same filters and
    /// perhaps fewer of them.
    fn may_become(&self, other: &[Arc<Program>]) -> bool {
        match self {
            Seccomp::Off => true,
            Seccomp::Strict => false,
            Seccomp::Filter(mine) => {
                let mine = &mine.programs;
                mine.len() <= other.len() && mine.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
            }
        }
    }
}

/// Strict mode. `EINVAL` for one who has filters.
pub fn set_strict(cx: &Current) -> Result<(), Errno> {
    let _state = cx.task.process.signals.lock();
    let mut seccomp = cx.task.seccomp.lock();
    if matches!(*seccomp, Seccomp::Filter(_)) {
        return Err(Errno::EINVAL);
    }
    *seccomp = Seccomp::Strict;
    cx.task.allowed.set([0; WORDS]);
    cx.task.watched.store(true, Ordering::SeqCst);
    Ok(())
}

/// How adding a filter went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// As an error.
    Errno(Errno),
    /// This thread of the process has other filters.
    Thread(u32),
}

/// Adds a filter to the caller, or to all threads of its process (`everywhere`).
pub fn add_filter(cx: &Current, program: Program, everywhere: bool) -> Result<(), Refused> {
    let task = &cx.task;
    let state = task.process.signals.lock();
    let now = task.seccomp.lock().clone();
    if matches!(now, Seccomp::Strict) {
        return Err(Refused::Errno(Errno::EINVAL));
    }
    let old = now.filters();
    if program.listener().is_some() && old.iter().any(|p| p.listener().is_some()) {
        return Err(Refused::Errno(Errno::EBUSY));
    }
    let total = old
        .iter()
        .fold(program.len(), |sum, p| sum.saturating_add(p.len()).saturating_add(PENALTY));
    if total > MAX_INSNS_PER_PATH {
        return Err(Refused::Errno(Errno::ENOMEM));
    }
    let others = || state.tasks.iter().filter(|t| everywhere && !Arc::ptr_eq(t, task));
    if let Some(other) = others().find(|t| !t.seccomp.lock().may_become(old)) {
        return Err(Refused::Thread(other.tid()));
    }
    let new = now.and(program);
    for other in others() {
        *other.seccomp.lock() = new.clone();
        if cx.creds.no_new_privs {
            // It gives its rights up itself, at its next call.
            other.owes_no_new_privs.store(true, Ordering::SeqCst);
        }
        other.watched.store(true, Ordering::SeqCst);
        allow(other);
    }
    *task.seccomp.lock() = new;
    task.watched.store(true, Ordering::SeqCst);
    allow(task);
    Ok(())
}

/// Finds out which calls of a task are made without a look at anything. Under its process's signal lock, after whatever
/// its calls depend on has changed: but that it gets a tracer, which stops it before its next call.
pub fn allow(task: &Task) {
    let free = !task.process.container.is_watched()
        && !task.owes_no_new_privs.load(Ordering::SeqCst)
        && !task.dispatches.load(Ordering::SeqCst)
        && task.signals.lock().trace.is_none();
    let calls = match &*task.seccomp.lock() {
        Seccomp::Filter(filters) if free => filters.allowed,
        // Without filters the task is not watched, or not for a filter's sake.
        _ => [0; WORDS],
    };
    task.allowed.set(calls);
}

/// A new task without a maker begins with this.
pub fn begin(task: &Task, seccomp: Seccomp) {
    if matches!(seccomp, Seccomp::Off) {
        return;
    }
    *task.seccomp.lock() = seccomp;
    task.watched.store(true, Ordering::SeqCst);
    allow(task);
}

/// A new task has what its maker has. Under the maker's process's signal lock.
pub fn inherit(parent: &Task, child: &Task) {
    let seccomp = parent.seccomp.lock().clone();
    begin(child, seccomp);
}

/// A task ends: its filters are nobody's through it. Its mode can still be seen.
pub fn leave(task: &Task) {
    let mut seccomp = task.seccomp.lock();
    if matches!(*seccomp, Seccomp::Filter(_)) {
        let none = Filters { programs: Vec::new(), allowed: [0; WORDS] };
        let filters = core::mem::replace(&mut *seccomp, Seccomp::Filter(Arc::new(none)));
        drop(seccomp);
        // Outside of the lock: who listens to one of them hears of it.
        drop(filters);
    }
}

/// Looks at the call that the task is about to make; whether it is to be made.
pub fn check(cx: &mut Current) -> bool {
    if cx.task.owes_no_new_privs.swap(false, Ordering::SeqCst) {
        if !cx.creds.no_new_privs {
            cx.set_creds(Creds { no_new_privs: true, ..(*cx.creds).clone() });
        }
        let _state = cx.task.process.signals.lock();
        allow(&cx.task);
    }
    let seccomp = cx.task.seccomp.lock().clone();
    match seccomp {
        Seccomp::Off => true,
        Seccomp::Strict => strict(cx),
        Seccomp::Filter(filters) => filter(cx, &filters.programs, false),
    }
}

fn strict(cx: &mut Current) -> bool {
    const READ: u32 = 0;
    const WRITE: u32 = 1;
    const RT_SIGRETURN: u32 = 15;
    const EXIT: u32 = 60;
    let number = cx.regs.orig_rax as u32;
    if [READ, WRITE, RT_SIGRETURN, EXIT].contains(&number) {
        return true;
    }
    cx.exit_task(Signal::SIGKILL.number().into());
    false
}

/// Actions are ordered as signed numbers, the strictest is least.
fn strictness(said: u32) -> i32 {
    (said & action::MASK) as i32
}

/// `traced`: a tracer has had its say, and may have put another call there.
fn filter(cx: &mut Current, filters: &[Arc<Program>], traced: bool) -> bool {
    let r = &cx.regs;
    let call = Data {
        number: r.orig_rax as u32,
        arch: AUDIT_ARCH_X86_64,
        ip: r.rip,
        args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9],
    };
    // The strictest one counts, of equal ones the newest.
    let (mut said, mut by) = (action::ALLOW, None);
    for program in filters.iter().rev() {
        let answer = program.run(&call);
        if strictness(answer) < strictness(said) {
            (said, by) = (answer, Some(program));
        }
    }
    let data = said & !action::MASK;
    match said & action::MASK {
        // The log is the host's: a filter cannot fill it.
        action::ALLOW | action::LOG => true,
        action::ERRNO => {
            cx.regs.rax = u64::from(data.min(MAX_ERRNO)).wrapping_neg();
            false
        }
        action::TRAP => {
            trap(cx, data);
            false
        }
        action::TRACE if traced => true,
        action::TRACE => {
            if !trace::stop::seccomp(cx, data) {
                cx.regs.rax = Errno::ENOSYS.to_rax();
                return false;
            }
            if cx.must_die() || (cx.regs.orig_rax as i32) < 0 {
                return false;
            }
            // It may be another call now.
            filter(cx, filters, true)
        }
        action::USER_NOTIF => match by.and_then(|program| program.listener()) {
            Some(listener) => listener.ask(cx, call.to_bytes()),
            None => {
                cx.regs.rax = Errno::ENOSYS.to_rax();
                false
            }
        },
        action::KILL_THREAD if cx.task.process.signals.lock().tasks.len() > 1 => {
            cx.exit_task(Signal::SIGSYS.number().into());
            false
        }
        _ => {
            cx.exit_group(Signal::SIGSYS.number().into());
            false
        }
    }
}

/// SIGSYS, as if the call's instruction had raised it.
fn trap(cx: &mut Current, data: u32) {
    raise(cx, code::SYS_SECCOMP, data);
}

/// The same, for this reason.
pub fn raise(cx: &mut Current, why: i32, data: u32) {
    let number = cx.regs.orig_rax;
    cx.regs.rax = number;
    let mut info = SigInfo::fault(Signal::SIGSYS, why, cx.regs.rip);
    info.errno = data as i32;
    info.set(1, pair(number as u32, AUDIT_ARCH_X86_64));
    force(cx, info);
}
