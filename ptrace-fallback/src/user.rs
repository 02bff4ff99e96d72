//! Running an application: the loop around `PTRACE_SYSEMU`, and what a stop means.
//!
//! Every ptrace request costs about as much as a system call of the application natively, so the
//! loop makes as few as it can: registers are written only if they changed, segment bases only if
//! those did, and vector state moves only when somebody looks or a tracee changes.

use std::sync::Arc;

use sentry::errno::Errno;
use sentry::platform::{
    Access, AddressSpace, Breakpoints, Exception, Fault, PAGE_SIZE, Prot, Registers, RestartArea,
    Restarts, Trap, UserThread, vector,
};

use crate::place::Placement;
use crate::restart::Registration;
use crate::space::{Machine, Space};
use crate::stub::code;
use crate::sys::{self, SignalInfo, Stop};
use crate::thread::{self, KICK, Slot};
use crate::xstate;

/// The selectors of 64-bit user mode (arch/x86/include/asm/segment.h).
pub(crate) const USER_CS: u64 = 0x33;
pub(crate) const USER_SS: u64 = 0x2b;
/// include/uapi/linux/audit.h
pub(crate) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// In every trap but a system call.
const NO_SYSCALL: u64 = u64::MAX;
/// The vsyscall page (arch/x86/include/uapi/asm/vsyscall.h).
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

// si_code values (include/uapi/asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;
const SEGV_MAPERR: i32 = 1;
const BUS_ADRALN: i32 = 1;
const TRAP_TRACE: i32 = 2;
const FPE_INTDIV: i32 = 1;
const FPE_INTOVF: i32 = 2;

/// Numbers of debug registers, and bits of DR6 (Intel SDM volume 3, 18.2): those that are set where nothing is said,
/// breakpoints and single step, single step alone.
const STATUS: usize = 6;
const CONTROL: usize = 7;
const STATUS_RESERVED: u64 = 0xffff_0ff0;
const STATUS_REASONS: u32 = 0x400f;
const STATUS_STEP: u32 = 0x4000;

/// Where user space ends (arch/x86/include/asm/page_64.h).
const TASK_SIZE_MAX: u64 = 0x7fff_ffff_f000;

/// One application thread's CPU.
pub(crate) struct User {
    slot: &'static Slot,
    placement: &'static Placement,
    machine: &'static Machine,
    tracee: Option<Tracee>,
    /// Vector state that the tracee has to get before it runs; `None`: it has the truth.
    xstate: Option<Vec<u8>>,
    /// What its debug registers are to hold.
    breakpoints: Breakpoints,
    /// Whether its reads of the time stamp counter are to fault.
    tsc_faults: bool,
    /// What the tracee's restartable-sequences area is to be.
    area: Option<RestartArea>,
}

struct Tracee {
    tid: i32,
    space: Arc<Space>,
    /// The handle that led to the space, to recognize it.
    handle: *const (),
    /// The registers that it has; `None`: not known.
    has: Option<Registers>,
    /// What its debug registers hold.
    breakpoints: Breakpoints,
    /// Whether its reads of the time stamp counter fault.
    tsc_faults: bool,
    /// The area that it has registered with the host's kernel.
    area: Registration,
}

fn address_of(space: &Arc<dyn AddressSpace>) -> *const () {
    Arc::as_ptr(space).cast()
}

impl User {
    /// For the calling thread, which has been placed.
    pub(crate) fn new(
        slot: &'static Slot,
        placement: &'static Placement,
        machine: &'static Machine,
    ) -> User {
        thread::owe();
        User {
            slot,
            placement,
            machine,
            tracee: None,
            xstate: Some(xstate::initial()),
            breakpoints: Breakpoints::default(),
            tsc_faults: false,
            area: None,
        }
    }

    /// Takes a thread of another stub.
    fn attach(&mut self, handle: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        self.fetch_xstate();
        self.detach();
        let space = self.machine.space(handle.id()).ok_or(Errno::EINVAL)?;
        let tid = space.stub().seize_thread()?;
        self.slot.attach(tid);
        self.tracee = Some(Tracee {
            tid,
            space,
            handle: address_of(handle),
            has: None,
            breakpoints: Breakpoints::default(),
            tsc_faults: false,
            area: Registration::default(),
        });
        Ok(())
    }

    /// Makes `self.xstate` the truth.
    fn fetch_xstate(&mut self) {
        if self.xstate.is_none() {
            let mut image = Vec::new();
            match &self.tracee {
                Some(t) if sys::get_xstate(t.tid, &mut image).is_ok() => self.xstate = Some(image),
                // It died, and its state with it.
                _ => self.xstate = Some(xstate::initial()),
            }
        }
    }

    fn detach(&mut self) {
        if let Some(mut tracee) = self.tracee.take() {
            self.slot.detach();
            let clean = tracee.watch(Breakpoints::default());
            let clean = clean
                .and_then(|()| tracee.area.end(tracee.tid))
                .and_then(|()| tracee.forbid_tsc(false));
            let stub = tracee.space.stub();
            match clean {
                Ok(()) => stub.release_thread(tracee.tid),
                // The host's kernel would go on writing there, or its CPU stop somebody else.
                Err(_) => stub.lose_thread(tracee.tid),
            }
        }
    }

    /// It is gone on the host.
    fn lost(&mut self) -> Trap {
        if let Some(tracee) = self.tracee.take() {
            self.slot.detach();
            tracee.space.stub().lose_thread(tracee.tid);
            if self.xstate.is_none() {
                self.xstate = Some(xstate::initial());
            }
        }
        Trap::Lost
    }

    fn run(&mut self, regs: &mut Registers, space: &Arc<dyn AddressSpace>) -> Result<Trap, Errno> {
        thread::pay();
        if self.slot.take_kick() {
            regs.orig_rax = NO_SYSCALL;
            return Ok(Trap::Kicked);
        }
        if !matches!(&self.tracee, Some(t) if t.handle == address_of(space)) {
            self.attach(space)?;
        }
        let tracee = self.tracee.as_mut().ok_or(Errno::ESRCH)?;
        let tid = tracee.tid;
        if let Some(image) = &self.xstate {
            sys::set_xstate(tid, image)?;
            self.xstate = None;
        }
        if tracee.tsc_faults != self.tsc_faults {
            tracee.forbid_tsc(self.tsc_faults)?;
        }
        if let Some(area) = self.area
            && !tracee.area.is_made()
        {
            tracee.register(area)?;
        }
        if tracee.breakpoints != self.breakpoints {
            tracee.watch(self.breakpoints)?;
        }
        tracee.give(regs)?;
        loop {
            if !self.slot.enter() {
                regs.orig_rax = NO_SYSCALL;
                return Ok(Trap::Kicked);
            }
            if let Err(e) = tracee.space.enter() {
                self.slot.leave();
                return Err(e);
            }
            let stop = match sys::sysemu(tid) {
                Ok(()) => sys::wait(tid),
                Err(_) => Stop::Gone,
            };
            tracee.space.leave();
            self.slot.leave();
            let trap = match stop {
                Stop::Syscall => {
                    tracee.take(regs)?;
                    tracee.area.moved_on();
                    // SYSCALL leaves its return address in rcx, which others do not; against one
                    // who sets rcx so by hand, the kernel is asked.
                    if regs.rcx == regs.rip && sys::syscall_arch(tid)? == AUDIT_ARCH_X86_64 {
                        return Ok(Trap::Syscall);
                    }
                    Some(Trap::ForeignSyscall)
                }
                Stop::Signal(KICK) if self.slot.take_kick() => {
                    tracee.take(regs)?;
                    Some(Trap::Kicked)
                }
                Stop::Signal(signal) => {
                    let info = sys::signal_info(tid)?;
                    // From 0 down it was sent by somebody on the host, to whom the application does
                    // not exist.
                    if info.code > 0 {
                        tracee.take(regs)?;
                        tracee.decode(regs, signal, info)?
                    } else {
                        None
                    }
                }
                Stop::Event => None,
                Stop::Gone => return Err(Errno::ESRCH),
            };
            if let Some(trap) = trap {
                regs.orig_rax = NO_SYSCALL;
                return Ok(trap);
            }
        }
    }
}

impl Tracee {
    /// Reads the registers.
    fn take(&mut self, regs: &mut Registers) -> Result<(), Errno> {
        sys::get_registers(self.tid, regs)?;
        self.has = Some(*regs);
        Ok(())
    }

    /// Writes the registers, as far as they are not what the tracee has.
    fn give(&mut self, regs: &Registers) -> Result<(), Errno> {
        let mut wanted = Registers {
            // Otherwise the kernel could think of restarting a system call.
            orig_rax: NO_SYSCALL,
            cs: USER_CS,
            ss: USER_SS,
            ..*regs
        };
        match &self.has {
            Some(has) if has.fs_base == wanted.fs_base && has.gs_base == wanted.gs_base => {
                (wanted.ds, wanted.es, wanted.fs, wanted.gs) = (has.ds, has.es, has.fs, has.gs);
                let same_but_rax =
                    Registers { rax: has.rax, orig_rax: has.orig_rax, ..wanted } == *has;
                // Values at which the kernel would restart a system call.
                let restarts = (-4095..=-512).contains(&(wanted.rax as i64));
                if same_but_rax && !restarts {
                    // A result is all that most system calls change, and costs half as much.
                    if wanted.rax != has.rax {
                        sys::set_rax(self.tid, wanted.rax)?;
                    }
                    wanted.orig_rax = has.orig_rax;
                } else if wanted != *has {
                    sys::set_registers_but_bases(self.tid, &wanted)?;
                }
            }
            _ => {
                (wanted.ds, wanted.es, wanted.fs, wanted.gs) = (0, 0, 0, 0);
                // An application can write any canonical base with WRGSBASE, ptrace only one in
                // user space. The other kind is of no use to it, so it loses that.
                for base in [&mut wanted.fs_base, &mut wanted.gs_base] {
                    if *base >= TASK_SIZE_MAX {
                        *base = 0;
                    }
                }
                sys::set_registers(self.tid, &wanted)?;
            }
        }
        self.has = Some(wanted);
        Ok(())
    }

    /// Sets its debug registers.
    fn watch(&mut self, wanted: Breakpoints) -> Result<(), Errno> {
        if wanted == self.breakpoints {
            return Ok(());
        }
        // Off first: an address is checked against what its register is set to.
        sys::set_debug(self.tid, CONTROL, 0)?;
        self.breakpoints = Breakpoints::default();
        if wanted.control != 0 {
            for (n, addr) in wanted.addresses.into_iter().enumerate() {
                sys::set_debug(self.tid, n, addr)?;
            }
            sys::set_debug(self.tid, CONTROL, wanted.control)?;
        }
        self.breakpoints = wanted;
        Ok(())
    }

    /// Why a debug exception came, as the sentry wants to hear it.
    fn debug_reasons(&self, code: i32) -> Result<u32, Errno> {
        Ok(match code {
            _ if self.breakpoints.control != 0 => {
                (sys::get_debug(self.tid, STATUS)? ^ STATUS_RESERVED) as u32 & STATUS_REASONS
            }
            TRAP_TRACE => STATUS_STEP,
            _ => 0,
        })
    }

    /// Has the host's kernel keep it from the time stamp counter, or let it. An area that it has registered is to be
    /// registered again: without one nothing is in the way of the call.
    fn forbid_tsc(&mut self, forbid: bool) -> Result<(), Errno> {
        if forbid == self.tsc_faults {
            return Ok(());
        }
        self.area.end(self.tid)?;
        self.has = None;
        let mode = if forbid { libc::PR_TSC_SIGSEGV } else { libc::PR_TSC_ENABLE };
        call(self.tid, libc::SYS_prctl, [libc::PR_SET_TSC as u64, mode as u64, 0, 0])?;
        self.tsc_faults = forbid;
        Ok(())
    }

    /// Has it register an area with the host's kernel.
    fn register(&mut self, area: RestartArea) -> Result<(), Errno> {
        // What is mapped there has to be there.
        self.space.enter()?;
        let made = self.area.begin(self.tid, area);
        self.space.leave();
        // The bases are as they were; of the others nothing is.
        let mut has = Registers::default();
        sys::get_registers(self.tid, &mut has)?;
        self.has = Some(has);
        made
    }

    /// What a signal of the kernel's says; `None`: nothing that concerns the sentry.
    fn decode(
        &mut self,
        regs: &mut Registers,
        signal: i32,
        info: SignalInfo,
    ) -> Result<Option<Trap>, Errno> {
        let exception = |vector| Some(Trap::Exception(Exception { vector, error: 0 }));
        Ok(match (signal, info.code) {
            (libc::SIGSEGV, SI_KERNEL) if self.area.may_have_failed(regs.rip, &self.space) => {
                Some(Trap::Rescheduled)
            }
            (libc::SIGSEGV, SI_KERNEL) => exception(vector::GENERAL_PROTECTION),
            (libc::SIGSEGV, code) => {
                self.area.moved_on();
                Some(Trap::Fault(self.fault(regs, info.addr, code)))
            }
            (libc::SIGBUS, SI_KERNEL) => exception(vector::STACK_SEGMENT),
            (libc::SIGBUS, BUS_ADRALN) => exception(vector::ALIGNMENT_CHECK),
            // The file is shorter than its mapping: the sentry finds that out from its size.
            (libc::SIGBUS, _) => Some(Trap::Fault(Fault {
                addr: info.addr,
                access: Access::ReadOrWrite,
                present: false,
            })),
            (libc::SIGFPE, FPE_INTDIV) => exception(vector::DIVIDE_ERROR),
            (libc::SIGFPE, FPE_INTOVF) => exception(vector::OVERFLOW),
            (libc::SIGFPE, _) => {
                let mut image = Vec::new();
                sys::get_xstate(self.tid, &mut image)?;
                exception(match xstate::x87_exception(&image) {
                    true => vector::X87,
                    false => vector::SIMD,
                })
            }
            (libc::SIGILL, _) => exception(vector::INVALID_OPCODE),
            // INT3; INT1 and the debug registers say something else.
            (libc::SIGTRAP, SI_KERNEL) => exception(vector::BREAKPOINT),
            (libc::SIGTRAP, code) => {
                let error = self.debug_reasons(code)?;
                Some(Trap::Exception(Exception { vector: vector::DEBUG, error }))
            }
            (libc::SIGSYS, _) if info.addr & !0xfff == VSYSCALL => {
                // The kernel emulates calls through this page when the fetch faults, up to the stub's
                // filter, which refuses; it has returned to the caller already. Undo that.
                regs.rip = info.addr;
                regs.rsp = regs.rsp.wrapping_sub(8);
                Some(Trap::Fault(Fault { addr: info.addr, access: Access::Exec, present: false }))
            }
            (libc::SIGSYS, _) => exception(vector::GENERAL_PROTECTION),
            _ => None,
        })
    }

    fn fault(&self, regs: &Registers, addr: u64, code: i32) -> Fault {
        let present = code != SEGV_MAPERR;
        let prot = self.space.prot_at(addr);
        let same_page = regs.rip / PAGE_SIZE as u64 == addr / PAGE_SIZE as u64;
        // An instruction that reaches into the next page faults at its beginning. The longest one has
        // 15 bytes (Intel SDM volume 3, 25.1.1).
        let next_page = addr.is_multiple_of(PAGE_SIZE as u64) && addr.wrapping_sub(regs.rip) < 15;
        let fetched = same_page || next_page;
        let access = match prot {
            Some(prot) if !prot.contains(Prot::EXEC) && fetched => Access::Exec,
            None if same_page => Access::Exec,
            // Only what was mapped at the fault says what was wrong: where nothing was, another
            // thread has mapped the page meanwhile.
            Some(prot) if present && !prot.is_empty() && !prot.contains(Prot::WRITE) => {
                Access::Write
            }
            _ => Access::ReadOrWrite,
        };
        Fault { addr, access, present }
    }
}

/// Has a stopped tracee make a system call that gives 0. Its registers are lost, but for the segment bases.
pub(crate) fn call(tid: i32, number: libc::c_long, args: [u64; 4]) -> Result<(), Errno> {
    sys::set_registers_but_bases(tid, &code::call(number, args))?;
    loop {
        sys::cont(tid)?;
        match sys::wait(tid) {
            // The instruction behind the call is UD2. The kernel may miss a restartable-sequences area on the way back
            // from it already, in which case it will do so again.
            Stop::Signal(libc::SIGILL | libc::SIGSEGV) => break,
            Stop::Gone => return Err(Errno::ESRCH),
            Stop::Signal(_) | Stop::Syscall | Stop::Event => {}
        }
    }
    let mut after = Registers::default();
    sys::get_registers(tid, &mut after)?;
    match after.rax as i64 {
        0 => Ok(()),
        e => Err(Errno::from_code(e.wrapping_neg() as i32)),
    }
}

impl UserThread for User {
    fn switch(&mut self, regs: &mut Registers, space: &Arc<dyn AddressSpace>) -> Trap {
        match self.run(regs, space) {
            Ok(trap) => trap,
            Err(_) => self.lost(),
        }
    }

    fn xstate(&mut self, image: &mut Vec<u8>) {
        match (&self.xstate, &self.tracee) {
            (None, Some(tracee)) if sys::get_xstate(tracee.tid, image).is_ok() => {}
            (Some(pending), _) => image.clone_from(pending),
            // It died, and its state with it; the next switch says so.
            _ => *image = xstate::initial(),
        }
    }

    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Errno> {
        self.xstate = Some(xstate::adopt(image)?);
        Ok(())
    }

    fn reset_xstate(&mut self) {
        self.xstate = Some(xstate::initial());
    }

    fn set_breakpoints(&mut self, breakpoints: &Breakpoints) -> Result<(), Errno> {
        self.breakpoints = *breakpoints;
        match &mut self.tracee {
            Some(tracee) => tracee.watch(*breakpoints),
            // At the next switch.
            None => Ok(()),
        }
    }

    fn set_tsc_faults(&mut self, faults: bool) -> Result<(), Errno> {
        // The tracee's at the next switch.
        self.tsc_faults = faults;
        Ok(())
    }

    fn restartable(&mut self, area: Option<RestartArea>) -> Result<Restarts, Errno> {
        match (area, &mut self.tracee) {
            (Some(area), Some(tracee)) => tracee.register(area)?,
            (None, Some(tracee)) => {
                if tracee.area.end(tracee.tid).is_err() {
                    // The host's kernel would go on writing there: the next switch takes another thread.
                    self.fetch_xstate();
                    self.detach();
                } else {
                    tracee.has = None;
                }
            }
            // At the next switch.
            (_, None) => {}
        }
        self.area = area;
        Ok(Restarts::Host)
    }

    fn cpu(&self) -> u32 {
        self.placement.number(self.slot.cpu().unwrap_or(0))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.placement.pause(self.slot);
        self.detach();
    }
}
