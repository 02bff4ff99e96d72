//! Waiting for children (wait(2)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{Blocked, Current, Pid, Process, Usage, Zombie, exit};

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
    /// The child.
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
}

impl ChildEvent {
    /// As wait4(2) gives it.
    pub fn status(self) -> i32 {
        match self {
            ChildEvent::Ended(status) => status,
            ChildEvent::Stopped(signal) => i32::from(signal.number()) << 8 | 0x7f,
            ChildEvent::Continued => 0xffff,
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
    {
        let links = process.links.lock();
        for child in links.children.iter().filter(|c| is_meant(cx, c, which, options)) {
            any = true;
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
    Ok(Some(Waited { pid: child.pid, uid, event, usage }))
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
