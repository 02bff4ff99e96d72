//! Programs for the fake platform: Rust closures that make system calls.
//!
//! A program runs as a coroutine on a host thread of its own; [`User`] is its CPU. Every system call
//! and every fault goes through [`UserThread::switch`] as on a true machine, registers and all, so that
//! clone, exec, signal handlers, restarts and faults happen as they do there:
//!
//! - a new task begins at the program whose address ([`program`]) is in `rip` or, after fork, in r15;
//! - a signal handler is a closure with an address ([`handler`]), called in the middle of whatever the
//!   program does, which returns through rt_sigreturn(2).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};

use super::{
    Access, AddressSpace, AtomicOp, Errno, Fault, PAGE_SIZE, Registers, Trap, UserThread, platform,
};

type Program = Arc<dyn Fn(&mut User) + Send + Sync>;
type Handler = Arc<dyn Fn(&mut User, Delivery) + Send + Sync>;

/// Where the one SYSCALL instruction of all programs is, and an instruction that touches memory.
const SYSCALL: u64 = 0x10_0000;
const TOUCH: u64 = 0x10_1000;
/// Where handlers return to, as SA_RESTORER says.
pub const RESTORER: u64 = 0x10_2000;

#[derive(Default)]
struct Code {
    programs: HashMap<u64, Program>,
    handlers: HashMap<u64, Handler>,
    next: u64,
}

fn code() -> std::sync::MutexGuard<'static, Code> {
    static CODE: OnceLock<Mutex<Code>> = OnceLock::new();
    let code = CODE.get_or_init(|| Mutex::new(Code { next: 0x20_0000, ..Code::default() }));
    code.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Gives a program an address: what rip must be, or r15 in a forked child, to run it.
pub fn program(f: impl Fn(&mut User) + Send + Sync + 'static) -> u64 {
    let mut code = code();
    let at = code.next;
    code.next += 0x10;
    code.programs.insert(at, Arc::new(f));
    at
}

/// Gives a signal handler an address.
pub fn handler(f: impl Fn(&mut User, Delivery) + Send + Sync + 'static) -> u64 {
    let mut code = code();
    let at = code.next;
    code.next += 0x10;
    code.handlers.insert(at, Arc::new(f));
    at
}

/// What a handler is called with.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The signal's number.
    pub signal: u64,
    /// Where the siginfo is.
    pub info: u64,
    /// Where the ucontext is.
    pub context: u64,
}

/// From the sentry's side to the program's.
struct Go {
    regs: Registers,
    space: Arc<dyn AddressSpace>,
}

/// A program's CPU, as the program sees it.
pub struct User {
    /// Its registers.
    pub regs: Registers,
    /// The memory it runs in.
    pub space: Arc<dyn AddressSpace>,
    traps: Sender<(Trap, Registers)>,
    goes: Receiver<Go>,
}

/// Thrown where the program is not going to run any more.
struct Ended;

impl User {
    /// Stops for the sentry, and goes on when it says so, after the handlers that it calls.
    fn trap(&mut self, trap: Trap) {
        let sent = self.traps.send((trap, self.regs));
        let go = match sent {
            Ok(()) => self.goes.recv().ok(),
            Err(_) => None,
        };
        let Some(go) = go else { std::panic::resume_unwind(Box::new(Ended)) };
        self.regs = go.regs;
        self.space = go.space;
        self.handle();
    }

    /// Calls the handlers that the registers point to, until they point elsewhere.
    fn handle(&mut self) {
        loop {
            let handler = code().handlers.get(&self.regs.rip).cloned();
            let Some(handler) = handler else { return };
            let delivery =
                Delivery { signal: self.regs.rdi, info: self.regs.rsi, context: self.regs.rdx };
            let frame = self.regs.rsp;
            handler(self, delivery);
            // `ret` takes the return address off the stack; it is the restorer's.
            assert_eq!(self.load(frame), RESTORER, "pretcode");
            self.regs.rsp = frame + 8;
            self.regs.rax = 15;
            self.enter();
        }
    }

    /// The SYSCALL instruction, once.
    fn enter(&mut self) {
        self.regs.orig_rax = self.regs.rax;
        self.regs.rax = Errno::ENOSYS.to_rax();
        self.regs.rip = SYSCALL + 2;
        self.regs.rcx = SYSCALL + 2;
        self.regs.r11 = self.regs.eflags;
        self.trap(Trap::Syscall);
    }

    /// Makes a system call; what it leaves in rax.
    pub fn syscall(&mut self, number: u64, args: &[u64]) -> i64 {
        let arg = |n: usize| args.get(n).copied().unwrap_or(0);
        self.regs.rax = number;
        self.regs.rdi = arg(0);
        self.regs.rsi = arg(1);
        self.regs.rdx = arg(2);
        self.regs.r10 = arg(3);
        self.regs.r8 = arg(4);
        self.regs.r9 = arg(5);
        loop {
            self.enter();
            match self.regs.rip {
                // The call is to be made again, with what is in the registers.
                SYSCALL => {}
                rip if rip == SYSCALL + 2 => return self.regs.rax as i64,
                rip => panic!("resumed at {rip:#x}"),
            }
        }
    }

    /// Stops for no reason, as a CPU that is kicked does.
    pub fn pause(&mut self) {
        self.regs.rip = TOUCH;
        self.regs.orig_rax = u64::MAX;
        self.trap(Trap::Kicked);
    }

    /// An exception of the running instruction.
    pub fn exception(&mut self, vector: u8, error: u32) {
        self.regs.rip = TOUCH;
        self.regs.orig_rax = u64::MAX;
        self.trap(Trap::Exception(super::Exception { vector, error }));
    }

    fn fault(&mut self, addr: u64, access: Access) {
        self.regs.rip = TOUCH;
        self.regs.orig_rax = u64::MAX;
        self.trap(Trap::Fault(Fault { addr, access, present: false }));
    }

    /// Reads memory.
    pub fn read(&mut self, addr: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        while let Err(fault) = self.space.clone().copy_in(addr, &mut buf) {
            self.fault(fault.addr, Access::Read);
        }
        buf
    }

    /// Writes memory.
    pub fn write(&mut self, addr: u64, data: &[u8]) {
        while let Err(fault) = self.space.clone().copy_out(addr, data) {
            self.fault(fault.addr, Access::Write);
        }
    }

    /// Reads a word of 8 bytes.
    pub fn load(&mut self, addr: u64) -> u64 {
        u64::from_le_bytes(self.read(addr, 8).try_into().expect("8 bytes"))
    }

    /// Writes a word of 8 bytes.
    pub fn store(&mut self, addr: u64, word: u64) {
        self.write(addr, &word.to_le_bytes());
    }

    /// An atomic operation on a word of 4 bytes.
    pub fn atomic(&mut self, addr: u64, op: AtomicOp) -> u32 {
        loop {
            match self.space.clone().atomic(addr, op) {
                Ok(old) => return old,
                Err(fault) => self.fault(fault.addr, Access::Write),
            }
        }
    }
}

/// The two ends by which a program and its runner take turns.
type Turns = (Sender<Go>, Receiver<(Trap, Registers)>);

/// The sentry's side: runs programs by their registers.
pub(super) struct ScriptThread {
    running: Option<Turns>,
    xstate: Vec<u8>,
}

/// Bytes of an XSAVE image without extensions.
const XSAVE: usize = 576;

impl ScriptThread {
    pub(super) fn new() -> ScriptThread {
        ScriptThread { running: None, xstate: fresh() }
    }

    fn begin(&mut self, regs: &Registers, space: &Arc<dyn AddressSpace>, f: Program) {
        let (goes, go) = channel();
        let (trap, traps) = channel();
        let mut user = User { regs: *regs, space: space.clone(), traps: trap, goes: go };
        std::thread::Builder::new()
            .name("program".into())
            .spawn(move || {
                let run = std::panic::AssertUnwindSafe(|| {
                    // A signal may be there before a new task has run at all.
                    user.handle();
                    f(&mut user);
                    // Falling off the end of a program is exit_group(0).
                    user.syscall(231, &[0]);
                });
                if let Err(why) = std::panic::catch_unwind(run)
                    && !why.is::<Ended>()
                {
                    // A failed assertion: the program dies by it, as by abort().
                    user.traps.send((Trap::Lost, user.regs)).ok();
                }
            })
            .expect("a thread");
        self.running = Some((goes, traps));
    }
}

fn fresh() -> Vec<u8> {
    let mut image = vec![0; XSAVE];
    image[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
    image[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    image
}

impl UserThread for ScriptThread {
    fn switch(&mut self, regs: &mut Registers, space: &Arc<dyn AddressSpace>) -> Trap {
        let me = platform().current();
        if super::fake::install().take_kick(me) {
            return Trap::Kicked;
        }
        let find = |at: u64| code().programs.get(&at).cloned();
        let start = match find(regs.rip) {
            Some(program) => Some(program),
            None if self.running.is_none() => find(regs.r15),
            None => None,
        };
        match (start, &self.running) {
            (Some(program), _) => self.begin(regs, space, program),
            (None, Some((go, _))) => {
                go.send(Go { regs: *regs, space: space.clone() }).ok();
            }
            (None, None) => {
                return Trap::Fault(Fault { addr: regs.rip, access: Access::Exec, present: false });
            }
        }
        let Some((_, traps)) = &self.running else { return Trap::Lost };
        match traps.recv() {
            Ok((trap, now)) => {
                *regs = now;
                trap
            }
            Err(_) => Trap::Lost,
        }
    }

    fn xstate(&mut self, image: &mut Vec<u8>) {
        image.clone_from(&self.xstate);
    }

    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Errno> {
        if image.len() < XSAVE || image.len() > PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        self.xstate = image[..XSAVE].to_vec();
        Ok(())
    }

    fn reset_xstate(&mut self) {
        self.xstate = fresh();
    }

    fn cpu(&self) -> u32 {
        0
    }
}
