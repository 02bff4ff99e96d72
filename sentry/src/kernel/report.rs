//! What tasks are doing, for whoever looks for the cause of a standstill.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Container;
use crate::control::{TaskInfo, WaitInfo};
use crate::platform::{ThreadId, platform};
use crate::syscall;
use crate::task::{Task, TaskState, Waiting};

/// Tasks in a message: their stacks are up to [`DEPTH`] addresses each, of at most ten bytes.
const MOST: usize = 512;
/// Addresses of a stack.
const DEPTH: usize = 40;

/// Tasks of a container with larger ids than `after`, the smallest first.
pub fn tasks(container: &Container, after: u32) -> Vec<TaskInfo> {
    let mut all: Vec<Arc<Task>> =
        container.living_tasks().into_iter().filter(|task| task.tid() > after).collect();
    all.sort_unstable_by_key(|task| task.tid());
    all.truncate(MOST);
    all.iter().map(|task| info(task)).collect()
}

fn info(task: &Task) -> TaskInfo {
    let cpu = task.cpu_time();
    let mut stack = Vec::with_capacity(DEPTH);
    let thread = ThreadId(task.thread.load(Ordering::SeqCst));
    platform().backtrace(thread, &mut |address| {
        // No memory is asked for meanwhile.
        if stack.len() < DEPTH {
            stack.push(address);
        }
    });
    TaskInfo {
        pid: task.process.pid,
        tid: task.tid(),
        name: String::from_utf8_lossy(task.name.lock().as_bytes()).into_owned(),
        state: match task.state() {
            TaskState::Running => 'R',
            TaskState::Sleeping => 'S',
            TaskState::Stopped => 'T',
            TaskState::DiskSleep => 'D',
            TaskState::Dead => 'X',
            TaskState::Traced => 't',
        },
        calls: task.syscalls.load(Ordering::Relaxed),
        cpu_ns: cpu.user_ns.saturating_add(cpu.system_ns),
        waits: (*task.waiting.lock()).map(wait_info),
        stack,
    }
}

fn wait_info(waiting: Waiting) -> WaitInfo {
    let Waiting { call, args, place } = waiting;
    let entry = u32::try_from(call).ok().and_then(syscall::entry);
    WaitInfo {
        call: entry.map_or_else(|| format!("call {call}"), |entry| entry.name.to_string()),
        args,
        place: format!("{}:{}", place.file(), place.line()),
    }
}
