//! Tests of tasks, signals, futexes and time: programs on the fake platform that make system calls.

mod futex;
mod hostile;
mod process;
mod signals;
mod time;

use alloc::sync::Arc;
use std::sync::Mutex;
use std::vec::Vec;

use super::*;
use crate::fs::setup::root_creds;
use crate::fs::tmpfs::{Options, Tmpfs};
use crate::fs::{FdTable, FsContext, Mount, MountFlags, MountNamespace, Super};
use crate::kernel::Container;
use crate::mm::{MapRequest, Mm, Place, VmaFlags};
use crate::platform::script::{self, User};
use crate::platform::{AtomicOp, Prot, Registers, fake};
use crate::signal::frame::AltStack;

/// Memory that every test program has, readable and writable; its stack grows down from the end.
pub const MEM: u64 = 0x4000_0000;
pub const MEM_LEN: u64 = 0x10_0000;

/// A container that runs programs.
pub struct Sandbox {
    container: Arc<Container>,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        fake::install();
        Sandbox { container: Container::bare("test") }
    }

    /// Starts a process of the host's; the first one is init.
    pub fn start(&self, f: impl Fn(&mut User) + Send + Sync + 'static) -> Arc<Process> {
        let entry = script::program(f);
        let mm = Mm::new().unwrap();
        mm.mmap(MapRequest {
            place: Place::Fixed(MEM),
            len: MEM_LEN,
            prot: Prot::READ | Prot::WRITE,
            flags: VmaFlags::empty(),
            file: None,
            populate: false,
        })
        .unwrap();
        let fs = FsContext::new(root(), 0o022);
        let files = FdTable::new();
        let creds = Arc::new(root_creds(&UserNamespace::INITIAL));
        let mut namespaces =
            Namespaces::new("host", "", &self.container.pids, &UserNamespace::INITIAL);
        namespaces.pid_for_children = self.container.namespaces.pid_for_children.clone();
        let namespaces = Arc::new(namespaces);
        let pids = self.container.pids.clone();
        let pidns = namespaces.pid_for_children.clone();
        let pid = pidns.allocate(&self.container.tasks, &[]).unwrap();
        let process = Arc::new(Process::new(
            pid,
            ProcessParts {
                container: self.container.clone(),
                pids: pids.clone(),
                pidns,
                actions: Arc::default(),
                limits: Rlimits::default(),
                exit_signal: 0,
            },
        ));
        let shared = Shared {
            mm: Some(mm.clone()),
            files: Some(files.clone()),
            fs: Some(fs.clone()),
            creds: creds.clone(),
            namespaces: namespaces.clone(),
        };
        let task = Arc::new(Task::new(pid, process.clone(), shared, Comm::new(b"test")));
        {
            let mut table = pids.lock();
            process.signals.lock().tasks.push(task.clone());
            table.insert_process(&process);
            table.insert_task(pid, &task);
        }
        let regs = Registers {
            rip: entry,
            rsp: MEM + MEM_LEN - 16,
            orig_rax: u64::MAX,
            eflags: 0x202,
            ..Registers::default()
        };
        let xstate = None;
        let altstack = AltStack::default();
        start(Birth {
            task,
            regs,
            mm,
            files,
            fs,
            creds,
            namespaces,
            xstate,
            altstack,
            debug: trace::DebugRegisters::default(),
            tsc_faults: false,
            set_tid: 0,
            rseq: None,
        })
        .unwrap();
        process
    }

    /// Runs a program as init; how it ends.
    pub fn run(&self, f: impl Fn(&mut User) + Send + Sync + 'static) -> i32 {
        let process = self.start(f);
        end(&process)
    }
}

/// Waits for a process's end; its status.
pub fn end(process: &Arc<Process>) -> i32 {
    let waker = Arc::new(ThreadWaker(platform().current()));
    let token = process.ended.enter(u32::MAX, false, waker);
    let status = loop {
        if let Some(zombie) = process.links.lock().zombie {
            break zombie.status;
        }
        platform().park(None);
    };
    process.ended.leave(token);
    status
}

/// Runs a program that must end with exit status 0.
pub fn run(f: impl Fn(&mut User) + Send + Sync + 'static) {
    assert_eq!(Sandbox::new().run(f), 0, "wait status");
}

fn root() -> Arc<MountNamespace> {
    let fs =
        Tmpfs::new("tmpfs", &Options::parse(b"", &root_creds(&UserNamespace::INITIAL)).unwrap())
            .unwrap();
    let sb = Super::new(fs);
    let dentry = sb.root().unwrap();
    MountNamespace::new(Mount::new(&sb, dentry, MountFlags::empty(), "rootfs".into()))
}

/// What a test's programs and handlers say, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<i64>>>);

impl Log {
    pub fn add(&self, n: i64) {
        self.0.lock().unwrap().push(n);
    }
    pub fn all(&self) -> Vec<i64> {
        self.0.lock().unwrap().clone()
    }
}

/// Numbers of the calls that tests make.
#[allow(dead_code)]
pub mod nr {
    pub const MPROTECT: u64 = 10;
    pub const RT_SIGACTION: u64 = 13;
    pub const RT_SIGPROCMASK: u64 = 14;
    pub const PAUSE: u64 = 34;
    pub const NANOSLEEP: u64 = 35;
    pub const ALARM: u64 = 37;
    pub const SETITIMER: u64 = 38;
    pub const GETPID: u64 = 39;
    pub const CLONE: u64 = 56;
    pub const EXECVE: u64 = 59;
    pub const EXIT: u64 = 60;
    pub const WAIT4: u64 = 61;
    pub const KILL: u64 = 62;
    pub const SETPGID: u64 = 109;
    pub const GETPPID: u64 = 110;
    pub const SETSID: u64 = 112;
    pub const RT_SIGPENDING: u64 = 127;
    pub const RT_SIGTIMEDWAIT: u64 = 128;
    pub const RT_SIGQUEUEINFO: u64 = 129;
    pub const RT_SIGSUSPEND: u64 = 130;
    pub const SIGALTSTACK: u64 = 131;
    pub const PRCTL: u64 = 157;
    pub const SETRLIMIT: u64 = 160;
    pub const GETTID: u64 = 186;
    pub const TKILL: u64 = 200;
    pub const FUTEX: u64 = 202;
    pub const SET_TID_ADDRESS: u64 = 218;
    pub const TIMER_CREATE: u64 = 222;
    pub const TIMER_SETTIME: u64 = 223;
    pub const TIMER_GETOVERRUN: u64 = 225;
    pub const CLOCK_NANOSLEEP: u64 = 230;
    pub const EXIT_GROUP: u64 = 231;
    pub const TGKILL: u64 = 234;
    pub const WAITID: u64 = 247;
    pub const SET_ROBUST_LIST: u64 = 273;
    pub const PIDFD_OPEN: u64 = 434;
}

/// Calls of a program, with fewer words.
pub trait Calls {
    /// Makes a call that must succeed.
    fn ok(&mut self, number: u64, args: &[u64]) -> u64;
    /// fork(2) with what the child runs; the child's id.
    fn fork(&mut self, child: impl Fn(&mut User) + Send + Sync + 'static) -> u64;
    /// A thread; its id.
    fn thread(&mut self, stack: u64, f: impl Fn(&mut User) + Send + Sync + 'static) -> u64;
    /// wait4(2) for one child; its id and status.
    fn wait(&mut self, pid: i64, options: u64) -> (i64, i32);
    /// Ends the process.
    fn exit_group(&mut self, code: u64);
    /// Sets a handler.
    fn on(
        &mut self,
        signal: u64,
        flags: u64,
        mask: u64,
        f: impl Fn(&mut User, script::Delivery) + Send + Sync + 'static,
    );
    /// Sets SIG_DFL (0) or SIG_IGN (1).
    fn set_action(&mut self, signal: u64, handler: u64);
    /// Sets the blocked mask; the old one.
    fn block(&mut self, mask: u64) -> u64;
    /// Waits, in user mode, until a word is what is asked.
    fn until(&mut self, addr: u64, value: u32);
}

impl Calls for User {
    fn ok(&mut self, number: u64, args: &[u64]) -> u64 {
        let result = self.syscall(number, args);
        assert!(result >= 0, "call {number}{args:x?}: {result}");
        result as u64
    }

    fn fork(&mut self, child: impl Fn(&mut User) + Send + Sync + 'static) -> u64 {
        self.regs.r15 = script::program(child);
        self.ok(nr::CLONE, &[17])
    }

    fn thread(&mut self, stack: u64, f: impl Fn(&mut User) + Send + Sync + 'static) -> u64 {
        self.regs.r15 = script::program(f);
        // VM, FS, FILES, SIGHAND, THREAD, SYSVSEM
        self.ok(nr::CLONE, &[0x50f00, stack])
    }

    fn wait(&mut self, pid: i64, options: u64) -> (i64, i32) {
        // On the stack: below it the frame of a signal that comes now would overwrite the status.
        self.regs.rsp -= 16;
        let at = self.regs.rsp;
        let pid = self.syscall(nr::WAIT4, &[pid as u64, at, options]);
        let status = self.load(at) as i32;
        self.regs.rsp += 16;
        (pid, status)
    }

    fn exit_group(&mut self, code: u64) {
        self.syscall(nr::EXIT_GROUP, &[code]);
    }

    fn on(
        &mut self,
        signal: u64,
        flags: u64,
        mask: u64,
        f: impl Fn(&mut User, script::Delivery) + Send + Sync + 'static,
    ) {
        let at = self.regs.rsp - 0x400;
        self.store(at, script::handler(f));
        self.store(at + 8, flags | 0x0400_0000);
        self.store(at + 16, script::RESTORER);
        self.store(at + 24, mask);
        self.ok(nr::RT_SIGACTION, &[signal, at, 0, 8]);
    }

    fn set_action(&mut self, signal: u64, handler: u64) {
        let at = self.regs.rsp - 0x400;
        for (n, word) in [handler, 0, 0, 0].into_iter().enumerate() {
            self.store(at + 8 * n as u64, word);
        }
        self.ok(nr::RT_SIGACTION, &[signal, at, 0, 8]);
    }

    fn block(&mut self, mask: u64) -> u64 {
        let at = self.regs.rsp - 0x400;
        self.store(at, mask);
        self.ok(nr::RT_SIGPROCMASK, &[2, at, at + 8, 8]);
        self.load(at + 8)
    }

    fn until(&mut self, addr: u64, value: u32) {
        while self.atomic(addr, AtomicOp::Load) != value {
            self.pause();
            platform().yield_now();
        }
    }
}

/// Bit of a signal in a mask.
pub fn bit(signal: u64) -> u64 {
    1 << (signal - 1)
}
