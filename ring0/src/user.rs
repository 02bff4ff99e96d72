//! Running an application: everything between a call and the trap that it returns.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use crate::apic;
use crate::arch::{self, flags, msr};
use crate::copy::USER_END;
use crate::entry::{self, Registers, SYSCALL, WITH_FSGSBASE, WITH_SYSRET};
use crate::fpu;
use crate::paging::Tables;
use crate::percpu::{PerCpu, state, this_cpu};
use crate::thread::{self, Thread};

/// Vector of `int 0x80`.
const INT80: u64 = 0x80;
const PAGE_FAULT: u64 = 14;
const GENERAL_PROTECTION: u8 = 13;

/// Why the application stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// `SYSCALL`.
    Syscall,
    /// `int 0x80`.
    Int80,
    /// A page fault, with the CPU's error code (SDM volume 3, 4.7).
    PageFault {
        /// The address.
        addr: u64,
        /// The error code.
        error: u64,
    },
    /// Another exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, or 0.
        error: u32,
    },
    /// [`thread::kick`].
    Kicked,
    /// The same, of a thread that has lost its CPU, and wants to know ([`Thread::tell_lost_cpu`]).
    Rescheduled,
}

/// What a thread needs to run an application; it stays with the thread.
pub struct User {
    state: Box<fpu::State>,
    _on_this_thread: PhantomData<*mut ()>,
}

impl User {
    /// For the calling thread, which has none yet.
    #[allow(clippy::new_without_default)] // it does something to the thread
    pub fn new() -> User {
        let mut state = Box::new(fpu::State::new());
        thread::current().fpu.set(&raw mut *state);
        User { state, _on_this_thread: PhantomData }
    }

    /// Its vector state.
    pub fn fpu(&mut self) -> &mut fpu::State {
        &mut self.state
    }

    /// Runs the application until it traps.
    #[inline(always)] // one caller, and on the way of every system call
    pub fn run(&mut self, regs: &mut Registers, space: &Arc<Tables>) -> Exit {
        regs.eflags = regs.eflags & flags::USER | flags::FIXED | flags::IF;
        if regs.rip >= USER_END {
            // As the CPU would say; entering would fault in the kernel, or worse on old CPUs.
            return Exit::Exception { vector: GENERAL_PROTECTION, error: 0 };
        }
        let me: &'static Thread = thread::current();
        me.last_space.set(Arc::as_ptr(space));
        loop {
            let cpu = this_cpu();
            space.load();
            self.state.load();
            if !cpu.shared.queue.is_empty() {
                thread::begin_slice(cpu);
            }
            // News that came before this store is seen below, later news comes with an interrupt.
            cpu.shared.state.swap(state::USER, Ordering::SeqCst);
            if thread::take_kick(me) {
                cpu.shared.state.store(state::KERNEL, Ordering::Release);
                return if me.lost_cpu.replace(false) { Exit::Rescheduled } else { Exit::Kicked };
            }
            if cpu.shared.resched.load(Ordering::Relaxed) {
                cpu.shared.state.store(state::KERNEL, Ordering::Release);
                thread::preempt_if_due();
                continue;
            }
            space.catch_up(cpu);
            let runs = me.enters();
            let how = how(cpu, regs);
            // SAFETY: the flags are sanitized and RIP is in the lower half; `how` checks for SYSRET; the area is this
            // thread's; the space is loaded. Interrupts are off.
            let trap = unsafe { entry::ring0_enter(regs, self.state.address(), how) };
            cpu.shared.state.store(state::KERNEL, Ordering::Release);
            me.trapped(runs);
            if how & WITH_FSGSBASE == 0 {
                [regs.fs_base, regs.gs_base] = cpu.live_bases.get();
            }
            match trap {
                SYSCALL => return Exit::Syscall,
                PAGE_FAULT => {
                    return Exit::PageFault {
                        addr: cpu.entry.cr2.get(),
                        error: cpu.entry.error.get(),
                    };
                }
                0..32 => {
                    return Exit::Exception {
                        vector: trap as u8,
                        error: cpu.entry.error.get() as u32,
                    };
                }
                INT80 => return Exit::Int80,
                vector => {
                    apic::handle(vector);
                    thread::preempt_if_due();
                }
            }
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        thread::current().fpu.set(core::ptr::null_mut());
    }
}

/// How to leave, and the bases where FSGSBASE is not used.
#[inline]
fn how(cpu: &PerCpu, regs: &mut Registers) -> u32 {
    let fast = cpu.entry.how.get();
    if fast & WITH_FSGSBASE == 0 {
        set_bases(cpu, regs);
    } else {
        // WRFSBASE faults on an address that is not canonical.
        regs.fs_base = canonical(regs.fs_base);
        regs.gs_base = canonical(regs.gs_base);
    }
    let sysret = regs.rcx == regs.rip
        && regs.r11 == regs.eflags
        && regs.eflags & (flags::TF | flags::RF) == 0;
    if sysret { fast | WITH_SYSRET } else { fast }
}

#[inline]
fn canonical(addr: u64) -> u64 {
    ((addr << 16) as i64 >> 16) as u64
}

fn set_bases(cpu: &PerCpu, regs: &mut Registers) {
    let wanted = [canonical(regs.fs_base), canonical(regs.gs_base)];
    let live = cpu.live_bases.get();
    // SAFETY: both MSRs hold the application's bases while the kernel runs, and the values are canonical.
    unsafe {
        if wanted[0] != live[0] {
            arch::wrmsr(msr::FS_BASE, wanted[0]);
        }
        if wanted[1] != live[1] {
            arch::wrmsr(msr::KERNEL_GS_BASE, wanted[1]);
        }
    }
    cpu.live_bases.set(wanted);
}
