//! Executing a program (execve(2)).
//!
//! The new address space is built beside the old one, so nothing of the process changes before the
//! program is known to run. Then the other tasks of the group are ended, and the caller becomes its
//! leader.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::exit::{release_memory, release_vfork};
use super::filecaps::{self, FileCaps};
use super::trace::DebugRegisters;
use super::{Comm, Creds, Current, Gift, limit, personality, trace};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::{Cx, File, FsContext, InExec, MountFlags, OpenFlags, Path, WalkFlags};
use crate::loader::{self, Ids, Image};
use crate::mm::{Mappable, MmLimits};
use crate::platform::{PAGE_SIZE, Registers};
use crate::signal::End;
use crate::sync::SpinLock;

/// The longest single argument (MAX_ARG_STRLEN, 32 pages).
pub const MAX_ARG_STRLEN: usize = 32 * PAGE_SIZE;
/// Most arguments, far above what fits (MAX_ARG_STRINGS).
pub const MAX_ARG_STRINGS: usize = 0x7fff_ffff;
/// A quarter of the stack's limit bounds all strings, but never below 32 pages nor above this (6 MiB).
const ARG_MAX: u64 = 6 << 20;
/// Set-user-ID and set-group-ID bits.
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// A file that is executed, as the loader sees it.
#[derive(Clone)]
pub struct ExecFile {
    file: Arc<File>,
    root: Path,
}

impl ExecFile {
    /// `file`, open for execution; paths are shown relative to `root`.
    pub fn new(file: Arc<File>, root: Path) -> ExecFile {
        ExecFile { file, root }
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Image for ExecFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.file.read_at(offset, buf)
    }

    fn pages(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.file.mappable().ok_or(Errno::EACCES)
    }

    fn path(&self) -> Arc<[u8]> {
        self.file.show(&self.root).into()
    }
}

/// What is to be executed.
pub struct Exec {
    /// The file, open for execution.
    pub file: Arc<File>,
    /// Its name as the caller gave it.
    pub filename: Vec<u8>,
    /// Arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
}

/// A program that is ready to run, and who it will be.
pub struct Loaded {
    /// Memory and first registers.
    pub program: loader::Program,
    /// The file that is really run (a script's interpreter).
    pub file: Arc<File>,
    /// Identity after exec.
    pub creds: Creds,
    /// The program gains rights by exec.
    pub secure: bool,
    /// What personality(2) tells it.
    pub personality: u32,
    /// comm.
    pub name: Comm,
}

/// Opens a file for execution.
pub fn open(
    cx: &Cx<'_>,
    start: Option<&Path>,
    path: &[u8],
    walk: WalkFlags,
) -> Result<Arc<File>, Errno> {
    let found = cx.walk(start, path, walk)?;
    cx.open_path(&found, OpenFlags::EXEC)
}

/// The limits that an address space is to know.
pub fn mm_limits(process_limits: &super::Rlimits) -> MmLimits {
    MmLimits {
        address_space: process_limits.soft(limit::RLIMIT_AS),
        data: process_limits.soft(limit::RLIMIT_DATA),
        stack: process_limits.soft(limit::RLIMIT_STACK),
        memlock: process_limits.soft(limit::RLIMIT_MEMLOCK),
    }
}

/// Whether another process has the caller's root and working directory too (CLONE_FS), and so could have a program find
/// what it likes there: then exec gives no rights (LSM_UNSAFE_SHARE). If none has, none will while the second is kept.
fn shares_directories(cx: &Current) -> (bool, Option<InExec>) {
    // The task's two references.
    if Arc::strong_count(&cx.fs) <= 2 {
        return (false, None);
    }
    let process = &cx.task.process;
    let table = process.pids.lock();
    let shared = table.tasks().any(|other| {
        let is_same = |fs: &Arc<FsContext>| Arc::ptr_eq(fs, &cx.fs);
        !Arc::ptr_eq(&other.process, process)
            && other.shared.lock().fs.as_ref().is_some_and(is_same)
    });
    (shared, (!shared).then(|| cx.fs.enter_exec()))
}

/// Loads a program for somebody with `cx`'s rights, which gains none by that if `lessened`; `old`: the caller's
/// [`personality`].
pub fn load(
    cx: &Cx<'_>,
    exec: Exec,
    limits: MmLimits,
    lessened: bool,
    old: u32,
) -> Result<Loaded, Errno> {
    let root = cx.fs.root();
    let name = exec.filename.rsplit(|b| *b == b'/').next().unwrap_or(&exec.filename);
    let name = Comm::new(name);
    let open = |path: &[u8]| {
        open(cx, None, path, WalkFlags::FOLLOW).map(|f| ExecFile::new(f, root.clone()))
    };
    let file = ExecFile::new(exec.file, root.clone());
    let prepared = loader::prepare(file, &exec.filename, exec.argv, open)?;
    let (creds, secure) = cx.creds.after_exec(&gift(cx, prepared.file.file(), lessened)?)?;
    let ns = &creds.userns;
    let ids = Ids {
        uid: ns.uid(creds.uid),
        euid: ns.uid(creds.euid),
        gid: ns.gid(creds.gid),
        egid: ns.gid(creds.egid),
        secure,
    };
    let personality = personality::after_exec(old, secure);
    let randomize = personality & personality::ADDR_NO_RANDOMIZE == 0;
    let program = prepared.load(&exec.envp, ids, limits, randomize, open)?;
    Ok(Loaded { program, file: prepared.file.file().clone(), creds, secure, personality, name })
}

/// What the file gives to the caller.
fn gift(cx: &Cx<'_>, file: &File, lessened: bool) -> Result<Gift, Errno> {
    let creds = cx.creds;
    let attr = file.attr()?;
    // One whose owner has no number here makes nobody somebody else.
    let known = creds.userns.has_uid(attr.uid) && creds.userns.has_gid(attr.gid);
    // Nor one that somebody below or beside has mounted (mnt_may_suid()).
    let trusted = file.path().map(|path| &path.mount).filter(|mount| {
        !mount.flags().contains(MountFlags::NOSUID)
            && mount.is_in(&cx.fs.namespace())
            && mount.sb.owner.contains(&creds.userns)
    });
    let Some(mount) = trusted else { return Ok(Gift { lessened, ..Gift::default() }) };
    let caps = match file.inode().get_xattr(filecaps::NAME) {
        Ok(value) => FileCaps::of(&value, &mount.sb.owner, &creds.userns)?,
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => None,
        Err(e) => return Err(e),
    };
    let setuid = (known && attr.mode & S_ISUID != 0).then_some(attr.uid);
    let group = S_ISGID | S_IXGRP;
    let setgid = (known && attr.mode & group == group).then_some(attr.gid);
    Ok(Gift { setuid, setgid, caps, lessened })
}

/// Bytes that argument strings and their pointers may take.
pub fn arg_space(stack_limit: u64) -> usize {
    let quarter = (stack_limit / 4).clamp(32 * PAGE_SIZE as u64, ARG_MAX);
    usize::try_from(quarter).unwrap_or(32 * PAGE_SIZE)
}

/// Replaces the program of the calling process. Returns in the new program.
pub fn exec(cx: &mut Current, exec: Exec) -> Result<(), SysError> {
    let limits = mm_limits(&cx.task.process.limits);
    let (shared, _alone) = shares_directories(cx);
    let lessened = shared || trace::is_watched_by_less(&cx.task);
    let personality = cx.task.process.personality.load(Ordering::Relaxed);
    let loaded = load(&cx.cx(), exec, limits, lessened, personality)?;
    let tid = cx.task.tid();
    become_alone(cx)?;

    // From here on there is no way back.
    cx.forget_rseq();
    let task = cx.task.clone();
    let process = &task.process;
    release_memory(&task, &cx.mm);
    crate::futex::lives_on(&task);
    cx.set_debug(DebugRegisters::default());
    process.personality.store(loaded.personality, Ordering::Relaxed);
    let program = loaded.program;
    program.mm.set_oom_handler(process.oom_handler());
    let old = process.exe.lock().replace(loaded.file);
    drop(old);
    program.mm.owner.store(task.process.pid, Ordering::Relaxed);
    let old = core::mem::replace(&mut cx.mm, program.mm.clone());
    let old_shared = task.shared.lock().mm.replace(program.mm);
    drop((old, old_shared));
    release_vfork(&task);

    // Descriptors and directories are its own from now on; actions too.
    if Arc::strong_count(&cx.files) > 2 {
        set_files(cx, cx.files.fork());
    }
    cx.enter_time_namespace();
    cx.files.close_on_exec();
    {
        let mut state = process.signals.lock();
        let actions = state.actions.lock().after_exec();
        state.actions = Arc::new(SpinLock::new(actions));
    }
    process.timers.clear_posix();
    cx.altstack = Default::default();
    cx.restart_block = None;
    if cx.user_dispatch.is_some() {
        cx.put_user_dispatch(None);
    }
    cx.saved_mask = None;
    *task.name.lock() = loaded.name;
    process.has_executed.store(true, Ordering::Relaxed);
    let (was, is) = (&cx.creds, &loaded.creds);
    let ids = |creds: &Creds| (creds.euid, creds.egid, creds.fsuid, creds.fsgid);
    // begin_new_exec() and commit_creds(): who was or has become more than the user it works for.
    let same = (was.uid, was.gid) == (was.euid, was.egid) && ids(was) == ids(is) && was.cover(is);
    process.dumpable.store(same, Ordering::Relaxed);
    let old = core::mem::replace(&mut *process.memory_owner.lock(), cx.creds.userns.clone());
    drop(old);
    if loaded.secure || ids(was) != ids(is) || !was.cover(is) {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    // exec(2): an exit signal other than SIGCHLD does not survive.
    process.exit_signal.store(crate::signal::Signal::SIGCHLD.number(), Ordering::Relaxed);
    if loaded.creds != *cx.creds {
        cx.set_creds(loaded.creds);
    }
    // The number of the call stays, for whoever looks at its end.
    cx.regs = Registers { orig_rax: cx.regs.orig_rax, ..program.regs };
    cx.user.reset_xstate();
    trace::stop::event(cx, trace::Event::Exec, tid.into());
    Ok(())
}

fn set_files(cx: &mut Current, files: Arc<crate::fs::FdTable>) {
    cx.files = files.clone();
    let old = cx.task.shared.lock().files.replace(files);
    drop(old);
}

/// Ends the other tasks of the group and becomes its leader.
fn become_alone(cx: &Current) -> Result<(), Errno> {
    let task = &cx.task;
    let process = &task.process;
    {
        let mut state = process.signals.lock();
        if state.end != End::Alive {
            return Err(Errno::EAGAIN);
        }
        if state.tasks.len() == 1 && task.is_leader() {
            return Ok(());
        }
        state.end = End::Exec(task.key);
        // A stop that the others were on the way to is not waited for.
        state.end_stop();
        state.stop.continued = None;
        for other in &state.tasks {
            if !Arc::ptr_eq(other, task) {
                other.notice();
            }
        }
    }
    let alone = || (process.signals.lock().tasks.len() <= 1).then_some(());
    let result = cx.park_killable(None, alone);
    let mut table = process.pids.lock();
    {
        let mut state = process.signals.lock();
        // A fatal signal has overtaken.
        if result.is_err() || state.end != End::Exec(task.key) {
            return Err(Errno::EAGAIN);
        }
        state.end = End::Alive;
    }
    let tid = task.tid();
    if tid != process.pid {
        table.remove_task(tid);
        process.container.tasks.one_gone();
        task.tid.store(process.pid, Ordering::SeqCst);
        task.vtid.store(process.vpid, Ordering::SeqCst);
        table.insert_task(process.pid, task);
        trace::leader_replaced(&mut table, task);
    }
    Ok(())
}
