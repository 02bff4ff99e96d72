//! Running an application: everything between a call and the trap that it returns.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use crate::apic;
use crate::arch::{self, cr, flags, msr};
use crate::copy::USER_END;
use crate::entry::{self, Registers, SYSCALL, WITH_FSGSBASE, WITH_SYSRET};
use crate::fpu;
use crate::paging::Tables;
use crate::percpu::{PerCpu, state, this_cpu};
use crate::thread::{self, Thread};

/// Vector of `int 0x80`.
const INT80: u64 = 0x80;
const DEBUG: u64 = 1;
const PAGE_FAULT: u64 = 14;
/// What of DR7 enables breakpoints and says what they are (SDM volume 3, 18.2.4).
const DR7_POINTS: u64 = 0xffff_00ff;
/// What of DR6 says why a debug exception came: breakpoints, and a single step.
const DR6_REASONS: u64 = 0x400f;
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
    /// DR0 to DR3, and DR7 of what is enabled in user mode; 0: nothing.
    breakpoints: ([u64; 4], u64),
    tsc_faults: bool,
    _on_this_thread: PhantomData<*mut ()>,
}

impl User {
    /// For the calling thread, which has none yet.
    #[allow(clippy::new_without_default)] // it does something to the thread
    pub fn new() -> User {
        let mut state = Box::new(fpu::State::new());
        thread::current().fpu.set(&raw mut *state);
        User { state, breakpoints: ([0; 4], 0), tsc_faults: false, _on_this_thread: PhantomData }
    }

    /// Has the CPU stop in user mode where these registers say: addresses, and DR7's enabling and describing bits.
    /// Whether they can be had: none is the kernel's.
    pub fn set_breakpoints(&mut self, addresses: [u64; 4], control: u64) -> bool {
        let ours = addresses.iter().all(|addr| *addr < USER_END);
        self.breakpoints = if ours { (addresses, control & DR7_POINTS) } else { ([0; 4], 0) };
        ours
    }

    /// Has reads of the time stamp counter raise a general protection fault, or not.
    pub fn set_tsc_faults(&mut self, faults: bool) {
        self.tsc_faults = faults;
    }

    /// Gives the application its debug registers. They are loaded each time, not kept: QEMU's software CPU, as a host,
    /// forgets them at each exit.
    #[cold]
    fn watch(&self) {
        let (addresses, control) = &self.breakpoints;
        arch::set_breakpoint_addresses(addresses);
        // SAFETY: `set_breakpoints` has seen that the addresses are the application's.
        unsafe { arch::set_dr7(control | arch::DR7_NOTHING) };
    }

    /// Back from the application: nothing is watched any more. What the CPU has said meanwhile, as bits of DR6.
    #[cold]
    fn unwatch(&self) -> u64 {
        // SAFETY: nothing is enabled.
        unsafe { arch::set_dr7(arch::DR7_NOTHING) };
        reasons()
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
            if self.tsc_faults != cpu.tsc_faults.get() {
                forbid_tsc(cpu, self.tsc_faults);
            }
            if self.breakpoints.1 != 0 {
                self.watch();
            }
            // SAFETY: the flags are sanitized and RIP is in the lower half; `how` checks for SYSRET; the area is this
            // thread's; the space is loaded. Interrupts are off.
            let trap = unsafe { entry::ring0_enter(regs, self.state.address(), how) };
            cpu.shared.state.store(state::KERNEL, Ordering::Release);
            me.trapped(runs);
            let watched = if self.breakpoints.1 != 0 { self.unwatch() } else { 0 };
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
                DEBUG => {
                    let error = if self.breakpoints.1 != 0 { watched } else { reasons() };
                    return Exit::Exception { vector: DEBUG as u8, error: error as u32 };
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

/// Has this CPU keep user mode from the time stamp counter, or let it. The kernel reads it always.
#[cold]
fn forbid_tsc(cpu: &PerCpu, forbid: bool) {
    let others = arch::cr4() & !cr::CR4_TSD;
    // SAFETY: every CPU has this bit, which is about user mode alone.
    unsafe { arch::set_cr4(if forbid { others | cr::CR4_TSD } else { others }) };
    cpu.tsc_faults.set(forbid);
}

/// Takes what DR6 says.
#[cold]
fn reasons() -> u64 {
    let dr6 = arch::dr6();
    if dr6 != arch::DR6_NOTHING {
        arch::set_dr6(arch::DR6_NOTHING);
    }
    dr6 & DR6_REASONS
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
