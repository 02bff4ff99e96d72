//! Waiting for children (wait(2)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{Blocked, Current, Pid, PidTable, Process, Usage, Zombie, exit, trace};

pub use super::flags::WaitOptions;
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::signal::Signal;

/// Which children are meant.
#[derive(Clone)]
pub enum Which {
    /// All.
    Any,
    /// The one with this id.
    Pid(Pid),
    /// Those of this process group.
    Group(Pid),
    /// This one (a pidfd).
    Process(Arc<Process>),
}

/// What a child did.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// The child's number for the caller.
    pub pid: Pid,
    /// Its real user.
    pub uid: u32,
    /// What.
    pub event: ChildEvent,
    /// What it used, where it has ended.
    pub usage: Usage,
}

/// What can be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildEvent {
    /// It ended; the status.
    Ended(i32),
    /// It stopped.
    Stopped(Signal),
    /// It went on.
    Continued,
    /// A traced task has stopped; why, as wait4(2) gives it above the lowest byte.
    Trapped(i32),
}

impl ChildEvent {
    /// As wait4(2) gives it.
    pub fn status(self) -> i32 {
        match self {
            ChildEvent::Ended(status) => status,
            ChildEvent::Stopped(signal) => i32::from(signal.number()) << 8 | 0x7f,
            ChildEvent::Continued => 0xffff,
            ChildEvent::Trapped(code) => code << 8 | 0x7f,
        }
    }
}

/// Waits; `None` where nothing has happened and WNOHANG is set.
pub fn wait(cx: &Current, which: &Which, options: WaitOptions) -> Result<Option<Waited>, SysError> {
    let process = &cx.task.process;
    let scan = || scan(cx, which, options);
    let result = cx.wait_for(&process.child_events, u32::MAX, None, || match scan() {
        Ok(None) if options.contains(WaitOptions::WNOHANG) => Some(Ok(None)),
        Ok(None) => None,
        Ok(found) => Some(Ok(found)),
        Err(e) => Some(Err(e)),
    });
    match result {
        Ok(found) => Ok(found?),
        Err(Blocked::Interrupted | Blocked::TimedOut) => Err(SysError::Interrupted(Restart::Sys)),
    }
}

fn scan(cx: &Current, which: &Which, options: WaitOptions) -> Result<Option<Waited>, Errno> {
    let process = &cx.task.process;
    let mut table = process.pids.lock();
    let mut any = false;
    let mut found = None;
    if !process.links.lock().tracees.is_empty()
        && let Some(waited) = scan_traced(cx, which, options, &mut table, &mut any)
    {
        return Ok(Some(waited));
    }
    {
        let links = process.links.lock();
        for child in links.children.iter().filter(|c| is_meant(cx, c, which, options)) {
            any = true;
            if child.links.lock().withheld {
                continue;
            }
            if let Some(event) = look(child, options) {
                found = Some((child.clone(), event));
                break;
            }
        }
    }
    let Some((child, (event, zombie))) = found else {
        return if any { Ok(None) } else { Err(Errno::ECHILD) };
    };
    let uid = match zombie {
        Some(zombie) => zombie.uid,
        None => child.creds().map_or(0, |creds| creds.uid),
    };
    let pid = process.pidns.nr(child.pid);
    let usage = zombie.map_or(Usage::default(), |zombie| {
        let mut usage = zombie.usage;
        usage.add(&child.used_by_children.lock());
        usage
    });
    if let Some(zombie) = zombie
        && !options.contains(WaitOptions::WNOWAIT)
    {
        exit::charge(process, &child, &zombie);
        exit::reap(&mut table, &child, Some(process));
    }
    drop(table);
    Ok(Some(Waited { pid, uid, event, usage }))
}

/// Looks at what the caller's process traces; whether there is `any`.
fn scan_traced(
    cx: &Current,
    which: &Which,
    options: WaitOptions,
    table: &mut PidTable,
    any: &mut bool,
) -> Option<Waited> {
    let process = &cx.task.process;
    let keep = options.contains(WaitOptions::WNOWAIT);
    let tracees = process.links.lock().tracees.clone();
    for task in tracees {
        let meant = match which {
            Which::Any => true,
            Which::Pid(pid) => task.tid() == *pid,
            Which::Group(group) => task.process.group() == *group,
            Which::Process(process) => task.is_leader() && Arc::ptr_eq(process, &task.process),
        };
        let (mine, dead, report) = {
            let mut own = task.signals.lock();
            let trapped = own.trap.is_some();
            let Some(trace) = &mut own.trace else { continue };
            let mine = core::ptr::eq(trace.tracer.as_ptr(), Arc::as_ptr(&cx.task));
            let wanted = meant && (mine || !options.contains(WaitOptions::WNOTHREAD));
            let mut report = trace.report.filter(|_| wanted && trapped && !trace.listening);
            if report.is_some() && !keep {
                report = trace.report.take();
            }
            (mine, trace.dead, report)
        };
        if !meant || (options.contains(WaitOptions::WNOTHREAD) && !mine) {
            continue;
        }
        *any = true;
        let waited = |event| Waited {
            pid: process.pidns.nr(task.tid()),
            uid: task.creds().uid,
            event,
            usage: task.process.usage(),
        };
        if let Some(code) = report {
            return Some(waited(ChildEvent::Trapped(code)));
        }
        if !options.contains(WaitOptions::WEXITED) {
            continue;
        }
        if let Some(status) = dead {
            let found = Waited { usage: Usage::default(), ..waited(ChildEvent::Ended(status)) };
            if !keep {
                trace::forget_dead(table, &task);
            }
            return Some(found);
        }
        let (zombie, withheld) = {
            let links = task.process.links.lock();
            (links.zombie, links.withheld)
        };
        // One whose parent is the caller is found among its children.
        if let Some(zombie) = zombie.filter(|_| withheld && task.is_leader()) {
            let event = ChildEvent::Ended(zombie.status);
            let pid = process.pidns.nr(task.tid());
            let found = Waited { pid, uid: zombie.uid, event, usage: zombie.usage };
            if !keep {
                trace::unlink(table, &task, 0);
                exit::tell_withheld(table, &task.process);
            }
            return Some(found);
        }
    }
    None
}

fn is_meant(cx: &Current, child: &Arc<Process>, which: &Which, options: WaitOptions) -> bool {
    let meant = match which {
        Which::Any => true,
        Which::Pid(pid) => child.pid == *pid,
        Which::Group(group) => child.group() == *group,
        Which::Process(process) => Arc::ptr_eq(process, child),
    };
    if !meant {
        return false;
    }
    if options.contains(WaitOptions::WNOTHREAD) && child.links.lock().parent_key != cx.task.key {
        return false;
    }
    let tracer = child.links.lock().tracer.as_ref().and_then(|t| t.upgrade());
    if tracer.is_some_and(|tracer| Arc::ptr_eq(&tracer, &cx.task.process)) {
        return true;
    }
    // A clone child does not signal its end by SIGCHLD.
    let signal = child.exit_signal.load(Ordering::Relaxed);
    let is_clone = signal != Signal::SIGCHLD.number();
    options.contains(WaitOptions::WALL) || is_clone == options.contains(WaitOptions::WCLONE)
}

fn look(child: &Process, options: WaitOptions) -> Option<(ChildEvent, Option<Zombie>)> {
    let mut links = child.links.lock();
    if let Some(zombie) = links.zombie {
        return options
            .contains(WaitOptions::WEXITED)
            .then_some((ChildEvent::Ended(zombie.status), Some(zombie)));
    }
    let keep = options.contains(WaitOptions::WNOWAIT);
    if options.contains(WaitOptions::WSTOPPED)
        && let Some(signal) = links.stopped
    {
        if !keep {
            links.stopped = None;
        }
        return Some((ChildEvent::Stopped(signal), None));
    }
    if options.contains(WaitOptions::WCONTINUED) && links.continued {
        if !keep {
            links.continued = false;
        }
        return Some((ChildEvent::Continued, None));
    }
    None
}
