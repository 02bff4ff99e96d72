//! Signals: numbers, sets, information, queues, actions, sending, delivery and frames.
//!
//! Principles:
//!
//! - One lock per process, `Process::signals`, guards everything that decides who gets a signal: the
//!   queues, the actions in force, the group's end and its stop, and which tasks live.
//! - A task's blocked mask is changed by the task alone, under that lock.
//! - What happens to a system call that a signal interrupted is decided in one place, [`deliver`].
//!
//! The layouts are those of x86-64 Linux (asm-generic/siginfo.h, asm/sigcontext.h, signal(7)).

mod action;
pub mod deliver;
pub mod frame;
mod queue;
mod send;
mod state;

pub use action::{Actions, Disposition, SigAction, sa};
pub use queue::Pending;
pub use send::{Origin, force, send_group, send_process, send_task};
pub use state::{End, SignalState, TaskSignals};

use crate::errno::Errno;

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Signal(u8);

#[allow(missing_docs)] // the names are signal(7)'s
impl Signal {
    pub const SIGHUP: Signal = Signal(1);
    pub const SIGINT: Signal = Signal(2);
    pub const SIGQUIT: Signal = Signal(3);
    pub const SIGILL: Signal = Signal(4);
    pub const SIGTRAP: Signal = Signal(5);
    pub const SIGABRT: Signal = Signal(6);
    pub const SIGBUS: Signal = Signal(7);
    pub const SIGFPE: Signal = Signal(8);
    pub const SIGKILL: Signal = Signal(9);
    pub const SIGUSR1: Signal = Signal(10);
    pub const SIGSEGV: Signal = Signal(11);
    pub const SIGUSR2: Signal = Signal(12);
    pub const SIGPIPE: Signal = Signal(13);
    pub const SIGALRM: Signal = Signal(14);
    pub const SIGTERM: Signal = Signal(15);
    pub const SIGSTKFLT: Signal = Signal(16);
    pub const SIGCHLD: Signal = Signal(17);
    pub const SIGCONT: Signal = Signal(18);
    pub const SIGSTOP: Signal = Signal(19);
    pub const SIGTSTP: Signal = Signal(20);
    pub const SIGTTIN: Signal = Signal(21);
    pub const SIGTTOU: Signal = Signal(22);
    pub const SIGURG: Signal = Signal(23);
    pub const SIGXCPU: Signal = Signal(24);
    pub const SIGXFSZ: Signal = Signal(25);
    pub const SIGVTALRM: Signal = Signal(26);
    pub const SIGPROF: Signal = Signal(27);
    pub const SIGWINCH: Signal = Signal(28);
    pub const SIGIO: Signal = Signal(29);
    pub const SIGPWR: Signal = Signal(30);
    pub const SIGSYS: Signal = Signal(31);
    /// The first real-time signal.
    pub const SIGRTMIN: Signal = Signal(32);
}

const NAMES: [&str; 32] = [
    "0",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// What a signal does where no handler is set (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// Ends the process.
    Terminate,
    /// Ends the process, with a core dump on Linux. None is written here, and wait(2) says so.
    Core,
    /// Nothing.
    Ignore,
    /// Stops the process.
    Stop,
    /// Continues the process if it is stopped.
    Continue,
}

impl Signal {
    /// From a number; `EINVAL` unless it is 1 to 64.
    pub fn new(number: i32) -> Result<Signal, Errno> {
        match u8::try_from(number) {
            Ok(n) if (1..=64).contains(&n) => Ok(Signal(n)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Its number, 1 to 64.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its place in tables, 0 to 63.
    pub const fn index(self) -> usize {
        self.0.saturating_sub(1) as usize
    }

    /// The set of it alone.
    pub const fn bit(self) -> SigSet {
        SigSet(1u64 << (self.0.saturating_sub(1) & 63))
    }

    /// Whether it queues.
    pub fn is_realtime(self) -> bool {
        self.0 >= 32
    }

    /// SIGKILL and SIGSTOP can be neither caught, nor blocked, nor ignored.
    pub fn is_kernel_only(self) -> bool {
        self == Signal::SIGKILL || self == Signal::SIGSTOP
    }

    /// What it does by default.
    pub fn default_action(self) -> DefaultAction {
        match self {
            Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => DefaultAction::Ignore,
            Signal::SIGCONT => DefaultAction::Continue,
            Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => {
                DefaultAction::Stop
            }
            Signal::SIGQUIT
            | Signal::SIGILL
            | Signal::SIGTRAP
            | Signal::SIGABRT
            | Signal::SIGFPE
            | Signal::SIGSEGV
            | Signal::SIGBUS
            | Signal::SIGSYS
            | Signal::SIGXCPU
            | Signal::SIGXFSZ => DefaultAction::Core,
            _ => DefaultAction::Terminate,
        }
    }

    /// Its name, as strace prints it; real-time signals have none.
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(usize::from(self.0)).copied()
    }
}

/// A set of signals; bit `n - 1` is signal `n`, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SigSet(pub u64);

impl SigSet {
    /// None.
    pub const EMPTY: SigSet = SigSet(0);
    /// Those that cannot be blocked.
    pub const UNBLOCKABLE: SigSet = Signal::SIGKILL.bit().with(Signal::SIGSTOP.bit());
    /// Those that stop a process.
    pub const STOPS: SigSet = Signal::SIGSTOP
        .bit()
        .with(Signal::SIGTSTP.bit())
        .with(Signal::SIGTTIN.bit())
        .with(Signal::SIGTTOU.bit());
    /// Those that an instruction raises; they are delivered first.
    pub const SYNCHRONOUS: SigSet = Signal::SIGSEGV
        .bit()
        .with(Signal::SIGBUS.bit())
        .with(Signal::SIGILL.bit())
        .with(Signal::SIGTRAP.bit())
        .with(Signal::SIGFPE.bit())
        .with(Signal::SIGSYS.bit());

    /// Both.
    pub const fn with(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// Without those of `other`.
    pub const fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// Those in both.
    pub const fn and(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    /// Whether the signal is in it.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit().0 != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The one with the lowest number.
    pub fn first(self) -> Option<Signal> {
        if self.0 == 0 {
            None
        } else {
            Some(Signal((self.0.trailing_zeros() as u8).wrapping_add(1)))
        }
    }
}

/// si_code values (asm-generic/siginfo.h).
#[allow(missing_docs)] // the names are sigaction(2)'s
pub mod code {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_MESGQ: i32 = -3;
    pub const SI_TKILL: i32 = -6;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_FLTDIV: i32 = 3;
    pub const FPE_FLTOVF: i32 = 4;
    pub const FPE_FLTUND: i32 = 5;
    pub const FPE_FLTRES: i32 = 6;
    pub const FPE_FLTINV: i32 = 7;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const TRAP_HWBKPT: i32 = 4;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
    pub const POLL_IN: i32 = 1;
    pub const POLL_OUT: i32 = 2;
    pub const POLL_MSG: i32 = 3;
    pub const POLL_PRI: i32 = 5;
    pub const POLL_HUP: i32 = 6;
    pub const SYS_SECCOMP: i32 = 1;
    pub const SYS_USER_DISPATCH: i32 = 2;
}

/// Bytes of a `siginfo_t`.
pub const SIGINFO_SIZE: usize = 128;

/// What a signal says of itself: `siginfo_t` after its first three fields and the padding that
/// follows them, as the application sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SigInfo {
    /// Which.
    pub signal: Signal,
    /// si_errno.
    pub errno: i32,
    /// si_code.
    pub code: i32,
    /// The union, from byte 16 on.
    pub fields: [u64; 14],
    /// For a timer's signal: which timer of the process, so that its overruns can be counted.
    pub timer: Option<u32>,
}

impl SigInfo {
    /// A signal from the kernel itself, with nothing to say.
    pub fn kernel(signal: Signal) -> SigInfo {
        SigInfo { signal, errno: 0, code: code::SI_KERNEL, fields: [0; 14], timer: None }
    }

    /// kill(2) and its like.
    pub fn user(signal: Signal, code: i32, pid: u32, uid: u32) -> SigInfo {
        let mut info = SigInfo { code, ..SigInfo::kernel(signal) };
        info.set(0, pair(pid, uid));
        info
    }

    /// A fault at an address.
    pub fn fault(signal: Signal, code: i32, addr: u64) -> SigInfo {
        let mut info = SigInfo { code, ..SigInfo::kernel(signal) };
        info.set(0, addr);
        info
    }

    /// What became of a child. Times are in clock ticks of 1/100 s.
    pub fn child(
        signal: Signal,
        code: i32,
        pid: u32,
        uid: u32,
        status: i32,
        times: (u64, u64),
    ) -> SigInfo {
        let mut info = SigInfo::user(signal, code, pid, uid);
        info.set(1, u64::from(status as u32));
        info.set(2, times.0);
        info.set(3, times.1);
        info
    }

    /// A timer of timer_create(2) expired.
    pub fn timer(signal: Signal, id: u32, value: u64) -> SigInfo {
        let mut info = SigInfo { code: code::SI_TIMER, timer: Some(id), ..SigInfo::kernel(signal) };
        info.set(0, u64::from(id));
        info.set(1, value);
        info
    }

    /// Sets word `n` of the union.
    pub fn set(&mut self, n: usize, word: u64) {
        if let Some(field) = self.fields.get_mut(n) {
            *field = word;
        }
    }

    /// Word `n` of the union.
    pub fn get(&self, n: usize) -> u64 {
        self.fields.get(n).copied().unwrap_or(0)
    }

    /// Sets si_overrun of a timer's signal.
    pub fn set_overrun(&mut self, overrun: i32) {
        let id = self.get(0) & 0xffff_ffff;
        self.set(0, id | u64::from(overrun as u32) << 32);
    }

    /// As the application sees it.
    pub fn to_bytes(&self) -> [u8; SIGINFO_SIZE] {
        let mut bytes = [0u8; SIGINFO_SIZE];
        let head = [u32::from(self.signal.0), self.errno as u32, self.code as u32, 0];
        let (words, rest) = bytes
            .as_chunks_mut::<16>()
            .0
            .split_first_mut()
            .map_or_else(|| (None, None), |(first, rest)| (Some(first), Some(rest)));
        if let Some(first) = words {
            for (to, from) in first.chunks_exact_mut(4).zip(head) {
                to.copy_from_slice(&from.to_le_bytes());
            }
        }
        if let Some(rest) = rest {
            for (to, from) in rest.as_flattened_mut().chunks_exact_mut(8).zip(self.fields) {
                to.copy_from_slice(&from.to_le_bytes());
            }
        }
        bytes
    }

    /// From what an application wrote, for the signal that the call names.
    pub fn from_bytes(signal: Signal, bytes: &[u8; SIGINFO_SIZE]) -> SigInfo {
        let word = |n: usize| bytes.as_chunks::<4>().0.get(n).map_or(0, |b| i32::from_le_bytes(*b));
        let mut info = SigInfo { errno: word(1), code: word(2), ..SigInfo::kernel(signal) };
        for (to, from) in info.fields.iter_mut().zip(bytes.as_chunks::<8>().0.iter().skip(2)) {
            *to = u64::from_le_bytes(*from);
        }
        info
    }

    /// Whether it can be dropped when the queue is full: kill(2) never fails for that.
    fn may_be_lost(&self) -> bool {
        !self.signal.is_realtime() || self.code == code::SI_USER || self.code == code::SI_KERNEL
    }
}

/// Two 32-bit fields that share a word.
pub fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siginfo_has_linux_layout() {
        let bytes =
            SigInfo::child(Signal::SIGCHLD, code::CLD_EXITED, 7, 1000, 3, (1, 2)).to_bytes();
        assert_eq!(bytes[0..4], 17i32.to_le_bytes());
        assert_eq!(bytes[8..12], 1i32.to_le_bytes());
        assert_eq!(bytes[16..20], 7i32.to_le_bytes());
        assert_eq!(bytes[20..24], 1000i32.to_le_bytes());
        assert_eq!(bytes[24..28], 3i32.to_le_bytes());
        assert_eq!(bytes[32..40], 1u64.to_le_bytes());
        let info = SigInfo::from_bytes(Signal::SIGCHLD, &bytes);
        assert_eq!(info.to_bytes(), bytes);
    }

    #[test]
    fn sets_know_their_first() {
        assert_eq!(SigSet(0).first(), None);
        assert_eq!(SigSet(1 << 63).first(), Some(Signal(64)));
        assert!(Signal::new(0).is_err() && Signal::new(65).is_err() && Signal::new(64).is_ok());
    }
}
