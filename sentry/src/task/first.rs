//! Processes that the host half starts: a container's init, and what `exec` runs.
//!
//! They have no parent inside. One is made whole, program and all, before it is started, so that
//! everything that can go wrong does so while somebody waits for the answer.

use alloc::sync::Arc;

use super::exec::{self, Exec};
use super::trace::DebugRegisters;
use super::{Birth, Creds, Namespaces, Pids, Process, ProcessParts, Rlimits, Shared, Task};
use crate::errno::Errno;
use crate::fs::{Cx, FdTable, FsContext};
use crate::kernel::Container;
use crate::seccomp::{self, Seccomp};
use crate::signal::frame::AltStack;
use crate::time::CpuLimit;

/// What such a process is made of.
pub struct FirstProcess {
    /// The container.
    pub container: Arc<Container>,
    /// The container's ids; the first process is init.
    pub pids: Arc<Pids>,
    /// Namespaces.
    pub namespaces: Arc<Namespaces>,
    /// Resource limits.
    pub limits: Rlimits,
    /// Who it is before it executes the program.
    pub creds: Creds,
    /// Root, working directory, umask.
    pub fs: Arc<FsContext>,
    /// Descriptors.
    pub files: Arc<FdTable>,
    /// The filter of its system calls.
    pub seccomp: Seccomp,
}

/// Makes the process; it is known to its namespace, and does not run before [`super::start`].
pub fn first_process(parts: FirstProcess, program: Exec) -> Result<Birth, Errno> {
    let cx = Cx { fs: &parts.fs, creds: &parts.creds, task: None };
    let loaded = exec::load(&cx, program, exec::mm_limits(&parts.limits), false, 0)?;
    let mm = loaded.program.mm;
    let creds = Arc::new(loaded.creds);
    let namespaces = parts.namespaces;
    let pidns = namespaces.pid_for_children.clone();
    let pid = pidns.allocate(&parts.container.tasks, &[])?;
    mm.owner.store(pid, core::sync::atomic::Ordering::Relaxed);
    let container = parts.container.clone();
    let process = Arc::new(Process::new(
        pid,
        ProcessParts {
            container: parts.container,
            pids: parts.pids.clone(),
            pidns,
            actions: Arc::default(),
            limits: parts.limits,
            exit_signal: 0,
        },
    ));
    CpuLimit::watch(&process);
    *process.exe.lock() = Some(loaded.file);
    mm.set_oom_handler(process.oom_handler());
    let shared = Shared {
        mm: Some(mm.clone()),
        files: Some(parts.files.clone()),
        fs: Some(parts.fs.clone()),
        creds: creds.clone(),
        namespaces: namespaces.clone(),
    };
    let task = Arc::new(Task::new(pid, process.clone(), shared, loaded.name));
    seccomp::begin(&task, parts.seccomp);
    let mut table = parts.pids.lock();
    if table.is_closed() || container.is_closed() {
        drop(table);
        parts.pids.give_up(pid, &container.tasks);
        return Err(Errno::ENOMEM);
    }
    process.signals.lock().tasks.push(task.clone());
    table.insert_process(&process);
    table.insert_task(pid, &task);
    drop(table);
    Ok(Birth {
        task,
        regs: loaded.program.regs,
        mm,
        files: parts.files,
        fs: parts.fs,
        creds,
        namespaces,
        xstate: None,
        altstack: AltStack::default(),
        debug: DebugRegisters::default(),
        tsc_faults: false,
        set_tid: 0,
        rseq: None,
    })
}

/// Undoes [`first_process`] for one that is never going to run.
pub fn discard(process: &Arc<Process>) {
    let mut table = process.pids.lock();
    process.signals.lock().tasks.clear();
    table.remove_task(process.pid);
    table.remove_process(process);
    drop(table);
    process.container.tasks.one_gone();
    process.pids.emptied.wake_all();
}
