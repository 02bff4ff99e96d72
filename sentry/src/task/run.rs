//! The life of a task: its platform thread switches to the application and serves what it stops for,
//! until the task ends.
//!
//! The loop has one question to ask before it goes back: does anything want attention? Signals, stops,
//! exit and exec of another task all come in by that one flag.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::exit::{self, Held};
use super::oom::Short;
use super::trace::{DebugRegisters, Reason};
use super::{Creds, Current, Namespaces, Task, ThreadWaker, TrapInfo, trace};
use crate::errno::Errno;
use crate::fs::{FdTable, FsContext};
use crate::mm::{FaultError, Mm};
use crate::platform::{
    Access, Exception, Fault, Level, Registers, RestartArea, Trap, platform, vector,
};
use crate::signal::deliver::{Next, attend};
use crate::signal::frame::AltStack;
use crate::signal::{SigInfo, Signal, code, force};
use crate::syscall;

/// What a new task begins with.
pub struct Birth {
    /// The task, known to its process and its pid namespace.
    pub task: Arc<Task>,
    /// Its first registers.
    pub regs: Registers,
    /// Memory.
    pub mm: Arc<Mm>,
    /// Descriptors.
    pub files: Arc<FdTable>,
    /// Root, working directory, umask.
    pub fs: Arc<FsContext>,
    /// Identity.
    pub creds: Arc<Creds>,
    /// Namespaces.
    pub namespaces: Arc<Namespaces>,
    /// Vector state, where it is not that of a new program.
    pub xstate: Option<Vec<u8>>,
    /// The alternate signal stack.
    pub altstack: AltStack,
    /// Where the task writes its id first (CLONE_CHILD_SETTID), 0: nowhere.
    pub set_tid: u64,
    /// Its debug registers, none of which the CPU watches yet.
    pub debug: DebugRegisters,
    /// Whether its reads of the time stamp counter raise SIGSEGV.
    pub tsc_faults: bool,
    /// The restartable-sequences area that a fork has from its parent.
    pub rseq: Option<RestartArea>,
}

/// Starts a task on a thread of its own. `EAGAIN` where there is none; then nothing has started.
pub fn start(birth: Birth) -> Result<(), Errno> {
    platform().spawn("task", Box::new(move || live(birth)))?;
    Ok(())
}

fn live(birth: Birth) {
    let task = birth.task;
    let thread = platform().current();
    task.thread.store(thread.0, Ordering::SeqCst);
    platform().charge_to(task.process.container.account());
    let affinity = task.sched.lock().affinity.clone();
    if !affinity.is_empty() {
        platform().place(thread, &affinity);
    }
    let held = Held { mm: birth.mm, files: birth.files, fs: birth.fs };
    let mut user = match platform().new_user_thread() {
        Ok(user) => user,
        Err(e) => return stillborn(task, held, e),
    };
    if let Some(image) = &birth.xstate
        && let Err(e) = user.set_xstate(image)
    {
        drop(user);
        return stillborn(task, held, e);
    }
    if birth.tsc_faults
        && let Err(e) = user.set_tsc_faults(true)
    {
        drop(user);
        return stillborn(task, held, e);
    }
    if task.process.container.is_watched() {
        task.watched.store(true, Ordering::SeqCst);
    }
    let mut cx = Current {
        waker: Arc::new(ThreadWaker(thread)),
        task,
        regs: birth.regs,
        user,
        mm: held.mm,
        files: held.files,
        fs: held.fs,
        creds: birth.creds,
        namespaces: birth.namespaces,
        altstack: birth.altstack,
        trap: TrapInfo::default(),
        restart: None,
        restart_block: None,
        short: Short::default(),
        saved_mask: None,
        exit: None,
        stepping: false,
        user_dispatch: None,
        debug: birth.debug,
        tsc_faults: birth.tsc_faults,
        rseq: None,
        xstate_buffer: birth.xstate.unwrap_or_default(),
    };
    cx.inherit_rseq(birth.rseq);
    if cx.task.process.container.freezer.is_frozen() {
        cx.task.attention.store(true, Ordering::SeqCst);
    }
    cx.task.goes_on();
    if birth.set_tid != 0 {
        // As on Linux, nobody learns of a bad address.
        let _fault = cx.mm.copy_out(birth.set_tid, &cx.task.tid().to_le_bytes());
    }
    let status = run(&mut cx);
    let Current { task, user, mm, files, fs, .. } = cx;
    drop(user);
    exit::leave(&task, Held { mm, files, fs }, status);
}

/// The machine has no CPU state for the task: it ends as if killed, which its parent can see.
fn stillborn(task: Arc<Task>, held: Held, why: Errno) {
    platform().log(Level::Warning, format_args!("task {}: cannot run: {why}", task.tid()));
    let kill = i32::from(Signal::SIGKILL.number());
    let status = task.process.signals.lock().begin_exit(kill);
    exit::leave(&task, held, status);
}

/// Runs the application until its task ends; how, as wait(2) encodes it.
#[inline(never)] // keeps the way of a system call short
fn run(cx: &mut Current) -> i32 {
    loop {
        if cx.task.attention.load(Ordering::SeqCst)
            && let Next::Exit(status) = attend(cx)
        {
            trace::stop::exit(cx, status);
            return status;
        }
        match cx.user.switch(&mut cx.regs, &cx.mm.space) {
            Trap::Syscall => syscall::dispatch(cx),
            Trap::Fault(fault) => page_fault(cx, fault),
            Trap::Exception(e) => exception(cx, e),
            // As a kernel without 32-bit emulation: `int 0x80` is an instruction that may not be used.
            Trap::ForeignSyscall => {
                cx.trap.number = vector::GENERAL_PROTECTION.into();
                cx.trap.error = 0x80 << 3 | 2;
                force(cx, SigInfo::kernel(Signal::SIGSEGV));
            }
            Trap::Kicked => cx.rescheduled(false),
            Trap::Rescheduled => cx.rescheduled(true),
            Trap::Lost => {
                platform().log(
                    Level::Warning,
                    format_args!("task {}: the host has killed it", cx.task.tid()),
                );
                cx.exit_group(i32::from(Signal::SIGKILL.number()));
            }
        }
    }
}

/// Page-fault error code bits (SDM volume 3, 4.7).
const PF_PRESENT: u64 = 1;
const PF_WRITE: u64 = 2;
const PF_USER: u64 = 4;
const PF_FETCH: u64 = 16;

#[inline(never)] // keeps the way of a system call short
fn page_fault(cx: &mut Current, fault: Fault) {
    let Err(why) = cx.mm.handle_fault(fault) else { return };
    let access = match fault.access {
        Access::Write => PF_WRITE,
        Access::Exec => PF_FETCH,
        Access::Read | Access::ReadOrWrite => 0,
    };
    let present = if why == FaultError::NotAllowed { PF_PRESENT } else { 0 };
    cx.trap = TrapInfo {
        number: vector::PAGE_FAULT.into(),
        error: PF_USER | access | present,
        cr2: fault.addr,
    };
    let info = match why {
        FaultError::NotMapped => SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, fault.addr),
        FaultError::NotAllowed => SigInfo::fault(Signal::SIGSEGV, code::SEGV_ACCERR, fault.addr),
        FaultError::Unreadable => SigInfo::fault(Signal::SIGBUS, code::BUS_ADRERR, fault.addr),
        FaultError::OutOfMemory => {
            if cx.must_die() {
                // It was its own turn to make room.
                return;
            }
            let (pid, tid) = (cx.task.process.pid, cx.task.tid());
            platform().log(
                Level::Warning,
                format_args!("out of memory: process {pid} (task {tid}) is killed"),
            );
            return cx.exit_group(i32::from(Signal::SIGKILL.number()));
        }
    };
    force(cx, info);
}

/// The resume flag: the next instruction is executed without an instruction breakpoint (SDM volume 3, 18.3.1.1).
const RF: u64 = 1 << 16;

/// An exception's signal, as arch/x86/kernel/traps.c gives it.
#[inline(never)] // keeps the way of a system call short
fn exception(cx: &mut Current, e: Exception) {
    let rip = cx.regs.rip;
    cx.trap.number = e.vector.into();
    cx.trap.error = e.error.into();
    let fault = |signal, code| SigInfo::fault(signal, code, rip);
    let info = match e.vector {
        vector::DIVIDE_ERROR => fault(Signal::SIGFPE, code::FPE_INTDIV),
        vector::DEBUG => {
            let (reason, resume) = cx.debug.happened(e.error.into());
            if resume {
                cx.regs.eflags |= RF;
            }
            cx.trap.error = 0;
            fault(
                Signal::SIGTRAP,
                match reason {
                    Reason::Step => code::TRAP_TRACE,
                    Reason::Breakpoint => code::TRAP_HWBKPT,
                    Reason::Instruction => code::TRAP_BRKPT,
                },
            )
        }
        vector::BREAKPOINT => SigInfo::kernel(Signal::SIGTRAP),
        vector::INVALID_OPCODE => fault(Signal::SIGILL, code::ILL_ILLOPN),
        vector::SEGMENT_NOT_PRESENT | vector::STACK_SEGMENT => SigInfo::kernel(Signal::SIGBUS),
        vector::ALIGNMENT_CHECK => SigInfo::fault(Signal::SIGBUS, code::BUS_ADRALN, 0),
        vector::X87 | vector::SIMD => match float_code(cx, e.vector) {
            Some(code) => fault(Signal::SIGFPE, code),
            // The exception has been cleared meanwhile.
            None => return,
        },
        _ => SigInfo::kernel(Signal::SIGSEGV),
    };
    force(cx, info);
}

/// Which floating-point exception it is: fpu__exception_code() of arch/x86/kernel/fpu/core.c.
fn float_code(cx: &mut Current, vector: u8) -> Option<i32> {
    let mut image = core::mem::take(&mut cx.xstate_buffer);
    cx.user.xstate(&mut image);
    let half = |at: usize| {
        let low = image.get(at).copied().unwrap_or(0);
        let high = image.get(at.saturating_add(1)).copied().unwrap_or(0);
        u32::from(low) | u32::from(high) << 8
    };
    let raised = if vector == vector::X87 {
        // Control word at 0, status word at 2.
        half(2) & !half(0)
    } else {
        let mxcsr = half(24);
        !(mxcsr >> 7) & mxcsr
    };
    cx.xstate_buffer = image;
    match raised & 0x3f {
        r if r & 0x01 != 0 => Some(code::FPE_FLTINV),
        r if r & 0x04 != 0 => Some(code::FPE_FLTDIV),
        r if r & 0x08 != 0 => Some(code::FPE_FLTOVF),
        r if r & 0x12 != 0 => Some(code::FPE_FLTUND),
        r if r & 0x20 != 0 => Some(code::FPE_FLTRES),
        _ => None,
    }
}
