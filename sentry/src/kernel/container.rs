//! Containers: made from a spec, started, and told of when they end.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Kernel;
use crate::control::{
    ContainerSpec, DeviceRule, Event, ExitStatus, Failure, FailureKind, Limits, ProcessSpec, Usage,
};
use crate::errno::Errno;
use crate::fs::proc;
use crate::fs::setup::{
    GoferSource, MountError, Sources, mount_container, mount_point, root_creds,
};
use crate::fs::tty::{Devpts, Tty};
use crate::fs::{Cx, FileType, FsContext, MountNamespace, OpenFlags, WalkFlags, stream};
use crate::platform::{Account, CpuTime, Level, PAGE_SIZE, StreamId, platform};
use crate::seccomp::Seccomp;
use crate::seccomp::bpf::{Insn, Program};
use crate::signal::Signal;
use crate::sync::SpinLock;
use crate::task::exec::{self, Exec};
use crate::task::userns::{Extent, IdKind};
use crate::task::{
    self, Birth, Creds, FirstProcess, Namespaces, PID_MAX, Pid, Pids, Process, Rlimits, Task,
    TaskCount, UserNamespace, bandwidth,
};

/// A container: an init process, namespaces, mounts and limits.
pub struct Container {
    /// Its id on the host.
    pub id: String,
    /// Whose.
    pub kernel: Arc<Kernel>,
    /// The process ids of its processes, and of those of other containers that are in the same pid namespace.
    pub pids: Arc<Pids>,
    /// How many tasks it has.
    pub tasks: TaskCount,
    /// The process that is its init; 0: there is none yet.
    init: AtomicU32,
    /// Its init ends or has ended, in a pid namespace that lives on: nothing new begins in it.
    closed: AtomicBool,
    /// Its mounts, as init began with them.
    mounts: spin::Once<Arc<MountNamespace>>,
    /// The gofer of its files.
    pub gofer: u32,
    /// Namespaces of its init.
    pub namespaces: Arc<Namespaces>,
    /// The user namespace of its processes.
    userns: UserNamespace,
    /// Which devices they may use.
    pub device_rules: Vec<DeviceRule>,
    /// What personality(2) tells them to begin with.
    personality: u32,
    /// The filter of system calls that all its processes begin with.
    seccomp: Seccomp,
    /// Whether its system calls are printed.
    watched: AtomicBool,
    /// Init, made and not started.
    waiting: SpinLock<Option<Birth>>,
    /// Whether init runs.
    running: AtomicBool,
    /// Who is killed when its memory is spent.
    pub oom: task::oom::OomKiller,
    /// What it may use.
    limits: SpinLock<Limits>,
    /// Whom its memory is charged to. The sandbox's first container has the first account, and its limit is that of all.
    account: OwnAccount,
    /// Whether its tasks are held.
    pub freezer: task::Freezer,
    /// The processor time that they may use.
    pub bandwidth: task::bandwidth::Bandwidth,
    /// Processor time of its tasks that have ended.
    pub ended: SpinLock<CpuTime>,
    /// Processes that the host half has started and is told the end of.
    hosted: SpinLock<Vec<Hosted>>,
}

/// An account of the platform's, which is closed with this.
struct OwnAccount(Account);

impl Drop for OwnAccount {
    fn drop(&mut self) {
        if self.0 != Account::FIRST {
            platform().close_account(self.0);
        }
    }
}

/// While this is there, the calling thread charges to a container's account, and afterwards to the first.
pub(super) struct Charged;

impl Drop for Charged {
    fn drop(&mut self) {
        platform().charge_to(Account::FIRST);
    }
}

/// A process that the host half has started.
struct Hosted {
    process: Weak<Process>,
    /// Its terminal, by the stream behind it.
    console: Option<(StreamId, Arc<Tty>)>,
}

/// How long the end of a process waits for its terminal to take what was written, nanoseconds.
const LAST_WORDS: u64 = 5_000_000_000;

/// The longest name that sethostname(2) takes, bytes.
const UTS_NAME: usize = 64;
/// The id of init, for the host half: whatever it is inside, where the pid namespace is shared.
const INIT: Pid = 1;

#[cfg(test)]
impl Container {
    /// A container without mounts and processes, whose events nobody hears.
    pub fn bare(id: &str) -> Arc<Container> {
        struct Nobody;
        impl crate::platform::Channel for Nobody {
            fn max_message(&self) -> usize {
                4096
            }
            fn send(&self, _message: &[u8]) -> Result<(), Errno> {
                Ok(())
            }
            fn recv(
                &self,
                _buf: &mut Vec<u8>,
                _deadline: Option<u64>,
            ) -> Result<Option<crate::platform::FileId>, Errno> {
                Err(Errno::EPIPE)
            }
        }
        let pids = Arc::default();
        Arc::new(Container {
            id: id.into(),
            kernel: Kernel::new(Arc::new(Nobody)),
            mounts: spin::Once::new(),
            gofer: 0,
            namespaces: Arc::new(Namespaces::new(id, "", &pids, &UserNamespace::INITIAL)),
            userns: UserNamespace::INITIAL,
            device_rules: Vec::new(),
            personality: 0,
            pids,
            tasks: TaskCount::default(),
            init: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            seccomp: Seccomp::Off,
            watched: AtomicBool::new(false),
            waiting: SpinLock::new(None),
            running: AtomicBool::new(true),
            oom: Default::default(),
            limits: Default::default(),
            account: OwnAccount(Account::FIRST),
            freezer: Default::default(),
            bandwidth: Default::default(),
            ended: Default::default(),
            hosted: SpinLock::default(),
        })
    }
}

impl Container {
    /// Makes a container up to, but without, the first instruction of its init.
    pub(super) fn create(
        kernel: &Arc<Kernel>,
        spec: &ContainerSpec,
    ) -> Result<Arc<Container>, Failure> {
        let id = spec.id.get(..UTS_NAME).unwrap_or(&spec.id);
        let hostname = if spec.hostname.is_empty() { id } else { &spec.hostname };
        let mut pids = Arc::new(Pids::default());
        let userns = user_namespace(spec)?;
        let mut namespaces = Namespaces::new(hostname, &spec.domainname, &pids, &userns);
        if let Some((monotonic, boottime)) = spec.clocks_ahead {
            namespaces = namespaces
                .ahead(monotonic, boottime)
                .map_err(|e| Failure::other(format!("linux.timeOffsets: {}", e.text())))?;
        }
        if let Some(shares) = &spec.shares {
            let known = |id: &Option<String>| {
                let Some(id) = id else { return Ok(None) };
                let missing = || Failure::other(format!("container {id}: not in this sandbox"));
                kernel.container(id).ok_or_else(missing).map(Some)
            };
            if let Some(other) = known(&shares.uts)? {
                namespaces.uts = other.namespaces.uts.clone();
            }
            if let Some(other) = known(&shares.ipc)? {
                namespaces.ipc = other.namespaces.ipc.clone();
            }
            if let Some(other) = known(&shares.net)? {
                namespaces.net = other.namespaces.net.clone();
            }
            if let Some(other) = known(&shares.pid)? {
                pids = other.pids.clone();
                namespaces.pid_for_children = other.namespaces.pid_for_children.clone();
            }
        }
        let account = match &spec.shares {
            None => Account::FIRST,
            Some(_) => platform()
                .open_account()
                .ok_or_else(|| Failure::other("there are too many containers".into()))?,
        };
        let container = Arc::new(Container {
            id: spec.id.clone(),
            kernel: kernel.clone(),
            mounts: spin::Once::new(),
            gofer: spec.root.gofer,
            namespaces: Arc::new(namespaces),
            userns,
            device_rules: spec.device_rules.clone(),
            personality: spec.personality,
            pids,
            tasks: TaskCount::default(),
            init: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            seccomp: filter(spec)?,
            watched: AtomicBool::new(spec.strace),
            waiting: SpinLock::new(None),
            running: AtomicBool::new(false),
            oom: Default::default(),
            limits: Default::default(),
            account: OwnAccount(account),
            freezer: Default::default(),
            bandwidth: Default::default(),
            ended: Default::default(),
            hosted: SpinLock::default(),
        });
        container.limit(&spec.limits)?;
        let _charged = container.charged();
        let mut attach = |source: GoferSource<'_>| kernel.gofers.attach(source);
        let weak: Weak<Container> = Arc::downgrade(&container);
        let own = &container.namespaces;
        let sources = Sources {
            attach: &mut attach,
            container: &weak,
            ipc: &own.ipc,
            pidns: &own.pid_for_children,
            userns: &container.userns,
        };
        let mounts = mount_container(spec, sources)
            .map_err(|e: MountError| Failure::other(e.to_string()))?;
        container.mounts.call_once(|| mounts);
        let birth = container.prepare(&spec.process, true)?;
        let (fs, creds) = (birth.fs.clone(), root_creds(&UserNamespace::INITIAL));
        let cx = Cx { fs: &fs, creds: &creds, task: Some(&birth.task) };
        for (path, value) in &spec.sysctl {
            proc::set_sysctl(&container, &cx, path, value).map_err(|e| {
                // Others may be in its pid namespace, and would see it.
                task::discard(&birth.task.process);
                let name = path.replace('/', ".");
                Failure::other(format!("linux.sysctl.{name}: {value:?}: {}", e.text()))
            })?;
        }
        *container.waiting.lock() = Some(birth);
        Ok(container)
    }

    /// What the host half calls its init.
    pub(super) fn shown_pid_of_init(&self) -> Pid {
        INIT
    }

    /// Its init, a zombie too.
    pub(super) fn init(&self) -> Option<Arc<Process>> {
        self.pids.process(self.init.load(Ordering::SeqCst)).filter(|init| self.is_init(init))
    }

    /// Whether a process is its init: in a pid namespace that is another container's it is not that one's.
    pub fn is_init(&self, process: &Process) -> bool {
        process.pid == self.init.load(Ordering::SeqCst) && core::ptr::eq(&*process.container, self)
    }

    /// Lets nothing new begin. Under the lock of its ids.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether its init ends or has ended, in a pid namespace that lives on. Under the lock of its ids.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Lets init run.
    pub(super) fn start(&self) -> Result<(), Failure> {
        let birth = self.waiting.lock().take();
        let birth = birth
            .ok_or_else(|| Failure::other(format!("container {} was started before", self.id)))?;
        self.running.store(true, Ordering::SeqCst);
        let _charged = self.charged();
        task::start(birth).map_err(|e| {
            self.running.store(false, Ordering::SeqCst);
            Failure::other(format!("container {}: init: {e}", self.id))
        })
    }

    /// Whether its init has been let run, whatever has become of it.
    pub(super) fn is_started(&self) -> bool {
        self.waiting.lock().is_none()
    }

    /// Starts another process in the container, whose init may not have been started yet; its id.
    pub(super) fn exec(self: &Arc<Self>, spec: &ProcessSpec) -> Result<Pid, Failure> {
        if !self.is_running() && self.waiting.lock().is_none() {
            return Err(Failure::other(format!("container {} is not running", self.id)));
        }
        let _charged = self.charged();
        let birth = self.prepare(spec, false)?;
        let process = birth.task.process.clone();
        task::start(birth).map_err(|e| {
            task::discard(&process);
            if let Some(Hosted { console: Some((_, tty)), .. }) = self.take_hosted(&process) {
                tty.hang_up();
            }
            Failure::other(format!("container {}: exec: {e}", self.id))
        })?;
        Ok(process.pid)
    }

    fn take_hosted(&self, process: &Arc<Process>) -> Option<Hosted> {
        let mut hosted = self.hosted.lock();
        let of = |h: &Hosted| core::ptr::eq(h.process.as_ptr(), Arc::as_ptr(process));
        let at = hosted.iter().position(of)?;
        Some(hosted.swap_remove(at))
    }

    /// Its processes, zombies too, by id.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = self.pids.processes();
        all.retain(|process| core::ptr::eq(&*process.container, self));
        all
    }

    /// Its living tasks, in no order.
    pub fn living_tasks(&self) -> Vec<Arc<Task>> {
        let table = self.pids.lock();
        table
            .tasks()
            .filter(|task| core::ptr::eq(&*task.process.container, self))
            .cloned()
            .collect()
    }

    /// Whether init runs.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Whether its system calls are printed.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// The namespace that its init began with.
    pub fn mounts(&self) -> Option<&Arc<MountNamespace>> {
        self.mounts.get()
    }

    /// A signal for an init that is made and not started, which nobody would deliver; whether there is
    /// such a one. What ends a program that handles nothing ends it, and it will never run; anything
    /// else is without effect, as it is on runc's waiting init.
    pub fn signal_unstarted(&self, signal: Signal) -> bool {
        let birth = {
            let mut waiting = self.waiting.lock();
            if waiting.is_none() {
                return false;
            }
            if !ends_waiting(signal) {
                return true;
            }
            waiting.take()
        };
        if let Some(birth) = birth {
            task::discard(&birth.task.process);
            self.take_hosted(&birth.task.process);
            let status = ExitStatus::Signaled(signal.number());
            self.kernel.tell(&Event::Exited { id: self.id.clone(), pid: INIT, status });
        }
        true
    }

    /// A process without a parent inside has ended: where the host half started it, it is told.
    /// `status` is as wait(2) encodes it.
    pub fn process_ended(&self, process: &Arc<Process>, status: i32) {
        // Else it is the child of such a one that has been made its sibling (CLONE_PARENT).
        let Some(hosted) = self.take_hosted(process) else { return };
        if let Some((_, tty)) = hosted.console {
            tty.drain(platform().monotonic().saturating_add(LAST_WORDS));
            if !self.is_init(process) {
                // As runc does, which has the other side and closes it.
                tty.hang_up();
            }
        }
        let init = self.is_init(process);
        if init {
            self.running.store(false, Ordering::SeqCst);
        }
        // What was written is with the host before the end is known there.
        self.write_back();
        let status = match status & 0x7f {
            0 => ExitStatus::Exited((status >> 8) as u8),
            signal => ExitStatus::Signaled(signal as u8),
        };
        let pid = if init { INIT } else { process.pid };
        self.kernel.tell(&Event::Exited { id: self.id.clone(), pid, status });
    }

    /// Counts a process that was killed because memory is spent, and tells the host half.
    pub fn count_oom_kill(&self) {
        self.oom.kills.fetch_add(1, Ordering::Relaxed);
        self.kernel.tell(&Event::OutOfMemory { id: self.id.clone() });
    }

    /// What it may use.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// Whom its memory is charged to.
    pub fn account(&self) -> Account {
        self.account.0
    }

    /// Has what the calling thread takes charged to it.
    pub(super) fn charged(&self) -> Charged {
        platform().charge_to(self.account());
        Charged
    }

    /// Changes what it may use. Less memory than is used is an error: nobody is killed for a wish from outside.
    pub(super) fn limit(self: &Arc<Self>, limits: &Limits) -> Result<(), Failure> {
        limit_memory(self.account(), limits.memory)?;
        let time = limits.quota.map(|quota| (quota, limits.period.unwrap_or(bandwidth::PERIOD)));
        self.limit_time(time).map_err(|e| {
            Failure::other(format!("container {}: processor time: {}", self.id, e.text()))
        })?;
        self.tasks.set_limit(limits.pids.unwrap_or(PID_MAX));
        *self.limits.lock() = *limits;
        Ok(())
    }

    /// What it uses.
    pub fn usage(&self) -> Usage {
        let mut cpu = *self.ended.lock();
        for task in self.processes().iter().flat_map(|process| process.tasks()) {
            cpu.add(task.cpu_time());
        }
        let frames = platform().frame_counts(self.account());
        Usage {
            user_ns: cpu.user_ns,
            system_ns: cpu.system_ns,
            memory: frames.used.saturating_mul(PAGE_SIZE as u64),
            memory_limit: frames.most.saturating_mul(PAGE_SIZE as u64),
            memory_peak: frames.peak.saturating_mul(PAGE_SIZE as u64),
            oom_kills: self.oom.kills.load(Ordering::Relaxed),
            pids: self.tasks.count(),
            pids_limit: self.tasks.limit(),
            throttling: self.bandwidth.counts(),
        }
    }

    fn write_back(&self) {
        for mount in self.mounts.get().map(|mounts| mounts.all()).unwrap_or_default() {
            if let Err(e) = mount.sb.fs.sync() {
                let line = format_args!(
                    "container {}: data of a mount could not be written back: {e}",
                    self.id
                );
                platform().log(Level::Warning, line);
            }
        }
    }

    /// Holds all its tasks. What they have written is with the host then: it looks at it now.
    pub(super) fn freeze(&self) -> Result<(), Failure> {
        self.freezer.freeze(self).map_err(|task::Busy| {
            Failure::other(format!("container {}: its processes do not come to a halt", self.id))
        })?;
        self.write_back();
        Ok(())
    }

    /// Makes a process of the host half's up to its first instruction.
    fn prepare(self: &Arc<Self>, spec: &ProcessSpec, init: bool) -> Result<Birth, Failure> {
        let mounts = self
            .mounts
            .get()
            .ok_or_else(|| Failure::other(format!("container {}: no mounts", self.id)))?;
        let fs = FsContext::new(mounts.clone(), spec.umask.unwrap_or(0o022));
        let outer = root_creds(&self.userns);
        self.enter_cwd(&fs, &outer, spec, init)?;
        let creds = creds_of(spec, &self.userns)?;
        let limits = Rlimits::default();
        for (number, soft, hard) in &spec.rlimits {
            limits
                .set(*number as usize, task::limit::Rlimit { soft: *soft, hard: *hard }, true)
                .map_err(|e| Failure::other(format!("process.rlimits: resource {number}: {e}")))?;
        }
        let console = match spec.terminal {
            true => Some(self.console(&fs, spec, init)?),
            false => None,
        };
        let files = match &console {
            Some((_, file)) => stream::all_three(file),
            None => stream::stdio(&spec.stdio),
        };
        let files = files.map_err(|e| Failure::other(format!("standard streams: {e}")))?;
        stream::preserved(&files, &spec.preserved)
            .map_err(|e| Failure::other(format!("preserved descriptors: {e}")))?;
        let name = spec.program.as_ref().or(spec.args.first());
        let name = name.ok_or_else(|| Failure::other("process.args is empty".into()))?;
        let cx = Cx { fs: &fs, creds: &creds, task: None };
        let (path, file) = self.find_program(&cx, name, &spec.env)?;
        let strings =
            |list: &[String]| list.iter().map(|s| s.as_bytes().to_vec()).collect::<Vec<_>>();
        let mut envp = strings(&spec.env);
        let at_home = |e: &String| e.strip_prefix("HOME=").is_some_and(|home| !home.is_empty());
        if spec.program.is_none() && !spec.env.iter().any(at_home) {
            envp.retain(|e| !e.starts_with(b"HOME="));
            envp.push([b"HOME=".as_slice(), &home(&fs, &outer, spec.uid)].concat());
        }
        let program =
            Exec { file, filename: path.as_bytes().to_vec(), argv: strings(&spec.args), envp };
        // As for runc, whose last call is filtered too.
        if let Some(e) = self.seccomp.refuses_exec() {
            return Err(program_failure(&path, e, true));
        }
        let first = FirstProcess {
            container: self.clone(),
            pids: self.pids.clone(),
            namespaces: self.namespaces.clone(),
            limits,
            creds,
            fs,
            files,
            seccomp: self.seccomp.clone(),
        };
        let birth =
            task::first_process(first, program).map_err(|e| program_failure(&path, e, true))?;
        if init {
            self.init.store(birth.task.process.pid, Ordering::SeqCst);
        }
        birth.task.process.personality.store(self.personality, Ordering::Relaxed);
        if let Some(adj) = spec.oom_score_adj {
            birth.task.process.oom_score_adj.store(adj, Ordering::Relaxed);
        }
        {
            let mut sched = birth.task.sched.lock();
            if let Some(new) = spec.scheduler {
                (sched.policy, sched.nice, sched.priority) = (new.policy, new.nice, new.priority);
            }
            sched.ioprio = spec.io_priority.map(|priority| Arc::new(priority.into()));
        }
        let console = console.map(|(tty, _)| {
            tty.control(&birth.task.process);
            tty
        });
        let [stream, ..] = spec.stdio;
        let process = Arc::downgrade(&birth.task.process);
        self.hosted.lock().push(Hosted { process, console: stream.zip(console) });
        Ok(birth)
    }

    /// A terminal for a process: the first of its streams, as the container's devpts shows it; and it
    /// as an open file. Init's is also /dev/console.
    fn console(
        &self,
        fs: &Arc<FsContext>,
        spec: &ProcessSpec,
        init: bool,
    ) -> Result<(Arc<Tty>, Arc<crate::fs::File>), Failure> {
        let fail = |what: &str, e: Errno| {
            Failure::other(format!("process.terminal: {what}: {}", e.text()))
        };
        let [Some(stream), _, _] = spec.stdio else {
            return Err(Failure::other("process.terminal: there is no terminal".into()));
        };
        let creds = root_creds(&self.userns);
        let cx = Cx { fs, creds: &creds, task: None };
        let root = cx
            .walk(None, b"/dev/pts", WalkFlags::FOLLOW | WalkFlags::DIRECTORY)
            .map_err(|e| fail("/dev/pts", e))?;
        let pts = root.inode().ok().and_then(|inode| Devpts::of(&**inode)).ok_or_else(|| {
            Failure::other("process.terminal needs a mount of type devpts at /dev/pts".into())
        })?;
        let stream = platform().stream(stream).map_err(|e| fail("standard input", e))?;
        let tty = pts
            .console(stream, self.userns.kuid(spec.uid).unwrap_or(spec.uid), init)
            .map_err(|e| fail("/dev/pts", e))?;
        if let Some((rows, columns)) = spec.window {
            tty.resize(rows, columns);
        }
        let name = format!("/dev/pts/{}", tty.index());
        let place =
            cx.walk(None, name.as_bytes(), WalkFlags::empty()).map_err(|e| fail(&name, e))?;
        let flags = OpenFlags::RDWR | OpenFlags::NOCTTY;
        let file = cx.open_path(&place, flags).map_err(|e| fail(&name, e))?;
        if init && let Some(mounts) = self.mounts.get() {
            // As runc binds it there.
            let at = mount_point(&cx, b"/dev/console", false);
            at.and_then(|at| mounts.adopt(&*mounts.bind(&place, false)?, &at))
                .map_err(|e| fail("/dev/console", e))?;
        }
        Ok((tty, file))
    }

    /// A terminal of the host has a new size.
    pub(super) fn resize(&self, stream: StreamId, rows: u16, columns: u16) -> bool {
        let consoles = self.hosted.lock().iter().filter_map(|h| h.console.clone()).collect();
        let consoles: Vec<(StreamId, Arc<Tty>)> = consoles;
        consoles.into_iter().find(|(id, _)| *id == stream).is_some_and(|(_, tty)| {
            tty.resize(rows, columns);
            true
        })
    }

    /// Enters the working directory; init's is made where it is missing, as runc does.
    fn enter_cwd(
        &self,
        fs: &FsContext,
        outer: &Creds,
        spec: &ProcessSpec,
        init: bool,
    ) -> Result<(), Failure> {
        let cx = Cx { fs, creds: outer, task: None };
        let cwd = spec.cwd.as_bytes();
        let fail = |e: Errno| Failure::other(format!("process.cwd {}: {}", spec.cwd, e.text()));
        if !cwd.starts_with(b"/") {
            return Err(fail(Errno::EINVAL));
        }
        let flags = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
        let path = match cx.walk(None, cwd, flags) {
            Err(Errno::ENOENT) if init => {
                for (end, _) in cwd.iter().enumerate().filter(|(n, b)| **b == b'/' && *n != 0) {
                    let parent = cwd.get(..end).unwrap_or(b"/");
                    match cx.mkdir(None, parent, 0o755) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(e) => return Err(fail(e)),
                    }
                }
                match cx.mkdir(None, cwd, 0o755) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(fail(e)),
                }
                cx.walk(None, cwd, flags)
            }
            other => other,
        };
        fs.set_cwd(path.map_err(fail)?);
        Ok(())
    }

    /// The program: as it is where it has a slash, else looked for in PATH as execvp(3) does.
    fn find_program(
        &self,
        cx: &Cx<'_>,
        name: &str,
        env: &[String],
    ) -> Result<(String, Arc<crate::fs::File>), Failure> {
        let open = |path: &str| exec::open(cx, None, path.as_bytes(), WalkFlags::FOLLOW);
        if name.contains('/') {
            return open(name)
                .map(|f| (name.into(), f))
                .map_err(|e| program_failure(name, e, false));
        }
        let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin");
        let mut why = Errno::ENOENT;
        // An empty name is no file, in whichever folder.
        for dir in path.split(':').filter(|_| !name.is_empty()) {
            let candidate = if dir.is_empty() { name.into() } else { format!("{dir}/{name}") };
            match open(&candidate) {
                Ok(file) => return Ok((candidate, file)),
                Err(Errno::EACCES) => why = Errno::EACCES,
                Err(_) => {}
            }
        }
        Err(match why {
            Errno::EACCES => program_failure(name, why, false),
            _ => Failure {
                kind: FailureKind::NotFound,
                message: format!("exec: {name:?}: executable file not found in $PATH"),
            },
        })
    }
}

/// The container's own filter.
fn filter(spec: &ContainerSpec) -> Result<Seccomp, Failure> {
    let Some(bytes) = &spec.seccomp else { return Ok(Seccomp::Off) };
    let insns = bytes.as_chunks::<8>().0.iter().map(|bytes| Insn::from_bytes(*bytes)).collect();
    let program = Program::new(insns)
        .map_err(|e| Failure::other(format!("linux.seccomp: not a program: {}", e.text())))?;
    Ok(Seccomp::filter(program))
}

/// Signals that end an init before its program runs: those that a Go program, which runc's waiting
/// init is, does not survive (os/signal, "Default behavior of signals in Go programs").
fn ends_waiting(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGKILL
            | Signal::SIGHUP
            | Signal::SIGINT
            | Signal::SIGQUIT
            | Signal::SIGTERM
            | Signal::SIGABRT
            | Signal::SIGILL
            | Signal::SIGTRAP
            | Signal::SIGBUS
            | Signal::SIGFPE
            | Signal::SIGSEGV
            | Signal::SIGSTKFLT
            | Signal::SIGSYS
    )
}

/// What a failed exec means for the exit status. `opened`: the file itself was there.
fn program_failure(path: &str, e: Errno, opened: bool) -> Failure {
    let kind = match e {
        Errno::ENOENT | Errno::ENOTDIR if !opened => FailureKind::NotFound,
        // The file is there, what it names as its interpreter is not: a shell says 127 too.
        Errno::ENOENT => FailureKind::NotFound,
        Errno::EACCES
        | Errno::ENOEXEC
        | Errno::EINVAL
        | Errno::ELIBBAD
        | Errno::ELOOP
        | Errno::EISDIR => FailureKind::NotExecutable,
        _ => FailureKind::Other,
    };
    let text = match e {
        Errno::ENOENT if opened => "its interpreter does not exist",
        Errno::ENOEXEC => "exec format error",
        other => other.text(),
    };
    // In lower case, as Go's errors are: callers of runc look for "permission denied" and the like.
    Failure { kind, message: format!("exec: {path:?}: {}", text.to_ascii_lowercase()) }
}

/// The most of a container's /etc/passwd that is looked at, bytes.
const PASSWD: usize = 1 << 20;

/// Where the user is at home, by the container's /etc/passwd; else the root, as runc has it.
fn home(fs: &FsContext, outer: &Creds, uid: u32) -> Vec<u8> {
    let cx = Cx { fs, creds: outer, task: None };
    let read = || -> Result<Vec<u8>, Errno> {
        let path = cx.walk(None, b"/etc/passwd", WalkFlags::FOLLOW)?;
        let inode = path.inode()?;
        if inode.kind() != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        let size = usize::try_from(inode.attr()?.size).unwrap_or(PASSWD).min(PASSWD);
        let mut text = alloc::vec![0; size];
        let n = cx.open_path(&path, OpenFlags::empty())?.read_at(0, &mut text)?;
        text.truncate(n);
        Ok(text)
    };
    // Many images have no such file.
    home_in(&read().unwrap_or_default(), uid).unwrap_or(b"/").to_vec()
}

/// The sixth field of the first line whose third is `uid` (passwd(5)).
fn home_in(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let number = core::str::from_utf8(fields.nth(2)?).ok()?.parse::<u32>().ok()?;
        let home = fields.nth(2)?;
        (number == uid && !home.is_empty()).then_some(home)
    })
}

/// Sets the most memory of an account, bytes; `None`: as much as there is. The first one's is that of all.
fn limit_memory(account: Account, limit: Option<u64>) -> Result<(), Failure> {
    let frames = |bytes: u64| u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX);
    let limited = match account {
        Account::FIRST => platform().limit_frames(limit.map(frames)),
        other => platform().limit_account(other, limit.map(frames)),
    };
    limited.map_err(|used| {
        let bytes = |frames: u64| frames.saturating_mul(PAGE_SIZE as u64);
        let (used, peak) = (bytes(used.into()), bytes(platform().frame_counts(account).peak));
        let limit = limit.unwrap_or(0);
        // runc's words.
        Failure::other(format!(
            "unable to set memory limit to {limit} (current usage: {used}, peak usage: {peak})"
        ))
    })
}

/// The container's own user namespace, if it is to have one.
fn user_namespace(spec: &ContainerSpec) -> Result<UserNamespace, Failure> {
    if spec.uid_map.is_empty() && spec.gid_map.is_empty() {
        return Ok(UserNamespace::INITIAL);
    }
    let fail = |what: &str, e: Errno| Failure::other(format!("linux.{what}: {}", e.text()));
    let made = UserNamespace::nest(&root_creds(&UserNamespace::INITIAL));
    let made = made.map_err(|e| fail("namespaces: user", e))?;
    let maps = [
        ("uidMappings", IdKind::User, &spec.uid_map),
        ("gidMappings", IdKind::Group, &spec.gid_map),
    ];
    for (what, kind, map) in maps {
        let line = |(first, lower, count): &(u32, u32, u32)| format!("{first} {lower} {count}\n");
        let text: String = map.iter().map(line).collect();
        made.set_map(kind, || Extent::parse(text.as_bytes()), |_, _| true)
            .map_err(|e| fail(what, e))?;
        // What mounts its file systems, and whom they belong to.
        made.down(kind, 0).ok_or_else(|| fail(what, Errno::EINVAL))?;
    }
    Ok(made)
}

fn creds_of(spec: &ProcessSpec, userns: &UserNamespace) -> Result<Creds, Failure> {
    let unmapped = |what, id| {
        Failure::other(format!("process.user.{what}: {id} is not mapped in the user namespace"))
    };
    let kgid = |gid: &u32| userns.kgid(*gid).ok_or_else(|| unmapped("gid", *gid));
    let uid = userns.kuid(spec.uid).ok_or_else(|| unmapped("uid", spec.uid))?;
    let gid = kgid(&spec.gid)?;
    let groups = spec.groups.iter().map(kgid).collect::<Result<_, _>>()?;
    let mut capabilities = spec.capabilities;
    // The kernel lets nobody raise what is not both (capabilities(7)).
    capabilities.ambient &= capabilities.permitted & capabilities.inheritable;
    Ok(Creds {
        groups,
        capabilities,
        no_new_privs: spec.no_new_privs,
        userns: userns.clone(),
        ..Creds::of(uid, gid)
    })
}

#[cfg(test)]
mod tests {
    use super::home_in;

    #[test]
    fn a_home_is_the_sixth_field_of_the_users_line() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/sh\nbroken\n:::\nu:x:1000:1:::/bin/sh\nv:x:1001:1::/v";
        assert_eq!(home_in(passwd, 0), Some(b"/root".as_slice()));
        assert_eq!(home_in(passwd, 1001), Some(b"/v".as_slice()));
        assert_eq!(home_in(passwd, 1000), None);
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(b"", 0), None);
    }
}
