//! The KVM probe: a tiny guest that shows whether ring 0 is real.
//!
//! A `/dev/kvm` that opens is not yet a platform. Some nested hosts emulate ring 0 instruction by
//! instruction, lack SSE there, or deliver `SYSCALL` without raising the privilege level. So the
//! probe runs the things that Ringwall lives on, in long mode: a loop in ring 0, vector
//! instructions, and system calls from ring 3 to ring 0, each compared with the same done natively.
//!
//! The guest runs in a process of its own, which reports over a pipe and is never waited for:
//! destroying a VM takes tens of milliseconds in the kernel, and a vCPU that hangs must be a verdict
//! and not a hang. The process limits itself by processor time, so that a busy machine is not
//! mistaken for a slow one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use serde::{Deserialize, Serialize};

/// Processor time that the guest may use before it counts as stuck.
const CPU_LIMIT: Duration = Duration::from_millis(150);
/// Time on the wall after which the process is given up.
const WALL_LIMIT: Duration = Duration::from_secs(2);
/// Each measurement is made this often, and the best counts: a virtual machine's own host may take
/// the CPU away in the middle of one, and the verdict stays for the boot.
const TRIES: u32 = 8;
/// Rounds of the loop in ring 0: half a microsecond where ring 0 is real, 1 ms where it is emulated.
const LOOP_ROUNDS: u64 = 1_000;
/// System calls made: some 5 us where they are real.
const SYSCALLS: u64 = 100;
/// How much slower than natively the loop may be. Nested paging costs nothing here, and the emulation
/// that this is to find costs a factor of a thousand.
const LOOP_RATIO: f64 = 8.0;
/// How much slower than a native `getppid` a bare system call may be: it is faster where all is well.
const SYSCALL_RATIO: f64 = 8.0;
/// What the exit at the end of a measurement, and interrupts, may add to it.
const SLACK: Duration = Duration::from_micros(500);

/// Where the probe was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Creating the virtual machine.
    Setup,
    /// Entering long mode.
    Entry,
    /// The loop in ring 0.
    Loop,
    /// SSE in ring 0.
    Sse,
    /// Entering ring 3, AVX there, and system calls.
    Syscalls,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Setup => "the set-up",
            Stage::Entry => "the entry to long mode",
            Stage::Loop => "the loop in ring 0",
            Stage::Sse => "the SSE instructions in ring 0",
            Stage::Syscalls => "the system calls from ring 3",
        })
    }
}

/// Why KVM is not a platform here. The doc comment of a variant is its message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum KvmProblem {
    /// there is no /dev/kvm: no hardware virtualization, or the kvm module is not loaded
    #[error("there is no /dev/kvm: no hardware virtualization, or the kvm module is not loaded")]
    NoDevice,
    /// no permission to open /dev/kvm: join its group or run as root
    #[error("no permission to open /dev/kvm: join its group or run as root")]
    NoPermission,
    /// /dev/kvm does not open
    #[error("/dev/kvm does not open: {0}")]
    Open(String),
    /// the KVM interface has an unknown version
    #[error("the KVM interface has version {0}, not 12")]
    Version(i32),
    /// KVM lacks something that Ringwall needs
    #[error("KVM lacks {0}")]
    Lacks(String),
    /// KVM refuses to make the virtual machine
    #[error("KVM refuses {0}")]
    Setup(String),
    /// ring 0 is emulated
    #[error(
        "ring 0 is emulated: {rounds} rounds of a loop took {guest_us} us of processor time in ring 0, {native_us} us natively"
    )]
    SlowRing0 {
        /// Rounds done.
        rounds: u64,
        /// In the guest, microseconds.
        guest_us: u64,
        /// The same number of rounds natively, microseconds.
        native_us: u64,
    },
    /// system calls are slow
    #[error("a system call inside the guest took {guest_ns} ns, a native one {native_ns} ns")]
    SlowSyscall {
        /// One in the guest, nanoseconds.
        guest_ns: u64,
        /// One natively, nanoseconds.
        native_ns: u64,
    },
    /// SYSCALL does not raise the privilege level
    #[error("SYSCALL does not raise the privilege level: its handler ran with CS {cs:#x}")]
    Privilege {
        /// The code segment that the handler saw.
        cs: u16,
    },
    /// vector instructions give wrong results
    #[error("{0} instructions give wrong results in the guest")]
    Vector(String),
    /// the vCPU stopped
    #[error("the vCPU stopped in {stage}: {exit}")]
    Stopped {
        /// Where.
        stage: Stage,
        /// The exit.
        exit: String,
    },
    /// the vCPU hung
    #[error("the vCPU hung in {stage}")]
    Hung {
        /// Where.
        stage: Stage,
    },
    /// the probe's process died
    #[error("the probe's process died in {stage}")]
    Died {
        /// Where.
        stage: Stage,
    },
    /// the probe could not be started
    #[error("the probe could not be started: {0}")]
    NotRun(String),
}

/// What the probe measured; what it did not come to is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// One round of the loop in ring 0, nanoseconds.
    pub loop_ns: Option<f64>,
    /// The same natively.
    pub native_loop_ns: Option<f64>,
    /// One system call from ring 3 to ring 0 and back, nanoseconds.
    pub syscall_ns: Option<f64>,
    /// A native `getppid`.
    pub native_syscall_ns: Option<f64>,
    /// Whether AVX was tried.
    pub avx: bool,
    /// Creating the virtual machine with one vCPU, microseconds on the wall.
    pub create_us: Option<u64>,
}

/// All that is known of KVM here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvmFinding {
    /// Why it is not a platform; `None`: it is.
    pub problem: Option<KvmProblem>,
    /// The figures.
    pub measured: Measured,
    /// The whole probe on the wall, microseconds.
    pub probe_us: u64,
}

impl KvmFinding {
    /// A finding without a measurement.
    pub fn unmeasured(problem: KvmProblem) -> KvmFinding {
        KvmFinding { problem: Some(problem), measured: Measured::default(), probe_us: 0 }
    }

    /// Whether KVM is a platform here.
    pub fn sane(&self) -> bool {
        self.problem.is_none()
    }
}

/// What the probe's process says, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Stage(Stage),
    Done(Option<KvmProblem>, Measured),
}

/// Runs the probe.
pub fn kvm() -> KvmFinding {
    let begin = Instant::now();
    let (problem, measured) = match start(WALL_LIMIT) {
        Ok(output) => verdict(&output),
        Err(e) => (Some(KvmProblem::NotRun(e.to_string())), Measured::default()),
    };
    KvmFinding { problem, measured, probe_us: micros(begin.elapsed()) }
}

/// What came over the pipe, and whether its end did.
struct Output {
    bytes: Vec<u8>,
    ended: bool,
}

/// Reads a verdict out of what the probe's process has said.
fn verdict(output: &Output) -> (Option<KvmProblem>, Measured) {
    let mut stage = Stage::Setup;
    for line in output.bytes.split_inclusive(|&b| b == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Message::Stage(s)) => stage = s,
            Ok(Message::Done(problem, measured)) => return (problem, measured),
            // A line that was cut short: the process died while it wrote.
            Err(_) => break,
        }
    }
    let problem =
        if output.ended { KvmProblem::Died { stage } } else { KvmProblem::Hung { stage } };
    (Some(problem), Measured::default())
}

/// Starts the process and collects what it says until its verdict, its end or the deadline.
fn start(limit: Duration) -> std::io::Result<Output> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: pipe2 has just made them and nobody else owns them.
    let (mut reader, writer) =
        unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // The process is a grandchild, so that init reaps it and nobody here waits for its end.
    // SAFETY: the child calls `middle` only, which never returns. glibc keeps its allocator usable
    // in a child of a threaded process.
    match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error()),
        0 => middle(writer),
        pid => {
            drop(writer);
            let mut status = 0;
            // SAFETY: `status` is valid; the child forks once and exits.
            while unsafe { libc::waitpid(pid, &mut status, 0) } == -1
                && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
            {
            }
        }
    }
    let deadline = Instant::now() + limit;
    let mut output = Output { bytes: Vec::new(), ended: false };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `poll` is one valid entry.
        match unsafe { libc::poll(&mut poll, 1, ms) } {
            0 => return Ok(output),
            -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {
                continue;
            }
            -1 => return Err(std::io::Error::last_os_error()),
            _ => {}
        }
        let mut buf = [0; 1024];
        let n = reader.read(&mut buf)?;
        if n == 0 {
            output.ended = true;
            return Ok(output);
        }
        output.bytes.extend_from_slice(&buf[..n]);
        if output.bytes.len() > 1 << 16 {
            return Ok(output);
        }
        let finished = output
            .bytes
            .split(|&b| b == b'\n')
            .any(|line| matches!(serde_json::from_slice(line), Ok(Message::Done(..))));
        if finished {
            return Ok(output);
        }
    }
}

/// The process between: makes the probe's process and ends.
fn middle(writer: OwnedFd) -> ! {
    // SAFETY: only fork and _exit; the grandchild calls `probe_process`, which never returns.
    unsafe {
        if libc::fork() == 0 {
            probe_process(writer);
        }
        libc::_exit(0)
    }
}

/// The probe's process.
fn probe_process(writer: OwnedFd) -> ! {
    // A panic must not unwind into the caller's frames, of which this process has a copy.
    let outcome = std::panic::catch_unwind(move || {
        let mut out = match detach(writer) {
            Ok(out) => out,
            Err(_) => return,
        };
        let mut measured = Measured::default();
        let problem = run(&mut out, &mut measured).err();
        say(&mut out, &Message::Done(problem, measured));
    });
    // SAFETY: ends the process without running the caller's exit handlers.
    unsafe { libc::_exit(i32::from(outcome.is_err())) }
}

/// From now on the vCPU has `CPU_LIMIT`: making the virtual machine may take the kernel long.
fn arm() {
    // Repeated, because the first may come just before KVM_RUN.
    let limit = libc::itimerval {
        it_value: timeval(CPU_LIMIT),
        it_interval: timeval(Duration::from_millis(1)),
    };
    // SAFETY: the structure is valid.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &limit, std::ptr::null_mut()) };
}

/// Cuts the process off from its ancestors' terminal and descriptors, which it may outlive by tens of
/// milliseconds, and limits its time.
fn detach(writer: OwnedFd) -> std::io::Result<File> {
    // SAFETY: plain system calls on this process; the descriptors closed here belong to nobody in
    // this process any more, since it runs nothing but the probe. dup2 makes 0 ours.
    let out = unsafe {
        libc::setsid();
        if libc::dup2(writer.as_raw_fd(), 0) == -1 {
            return Err(std::io::Error::last_os_error());
        }
        std::mem::forget(writer);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        File::from_raw_fd(0)
    };
    // SAFETY: the handler does nothing, and the structures are valid and zero is a value of theirs.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = tick as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // No SA_RESTART: it shall end KVM_RUN.
        libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut());
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGPROF);
        libc::sigaddset(&mut set, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        let wall =
            libc::itimerval { it_value: timeval(WALL_LIMIT), it_interval: timeval(Duration::ZERO) };
        libc::setitimer(libc::ITIMER_REAL, &wall, std::ptr::null_mut());
    }
    Ok(out)
}

extern "C" fn tick(_: libc::c_int) {}

fn timeval(d: Duration) -> libc::timeval {
    libc::timeval {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_usec: i64::from(d.subsec_micros()),
    }
}

fn say(out: &mut File, message: &Message) {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    // Where nobody listens any more there is nobody to tell.
    let _gone = out.write_all(&line);
}

// --- the guest ---

/// Guest-physical addresses, all mapped one to one.
mod at {
    pub const PML4: u64 = 0x1000;
    pub const PDPT: u64 = 0x2000;
    pub const PD: u64 = 0x3000;
    pub const GDT: u64 = 0x4000;
    pub const DATA: u64 = 0x5000;
    pub const CODE: u64 = 0x6000;
    pub const STACK: u64 = 0x8000;
    /// Bytes of guest memory.
    pub const SIZE: usize = 0x8000;
}

/// The port on which the guest says that a stage is over.
const PORT: u16 = 0x10;

// The guest. Entered in ring 0 with rdi: rounds of the loop, r8: how often, rsi: system calls (again and
// again), r13: whether to try AVX, rbx: the data page, r15: zero. Data page: 32 bytes of input, 16
// bytes of SSE output at 32, 32 bytes of AVX output at 64, CS of the handler at 96, system calls
// counted at 104.
std::arch::global_asm!(
    ".pushsection .rodata.ringwall_probe, \"a\", @progbits",
    ".globl ringwall_probe_start, ringwall_probe_handler, ringwall_probe_end",
    "ringwall_probe_start:",
    "mov al, 1",
    "out 0x10, al",
    "7:",
    "mov rcx, rdi",
    "2:",
    "dec rcx",
    "jnz 2b",
    "mov al, 2",
    "out 0x10, al",
    "dec r8",
    "jnz 7b",
    "movups xmm0, [rbx]",
    "addps xmm0, xmm0",
    "movups [rbx + 32], xmm0",
    "mov al, 3",
    "out 0x10, al",
    "test r13, r13",
    "jz 3f",
    "xor ecx, ecx", // XCR0: x87, SSE, AVX
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "3:",
    "lea rcx, [rip + 4f]",
    "mov r11d, 2",
    "xor r14d, r14d",
    "sysretq",
    "4:", // ring 3
    "test r13, r13",
    "jz 5f",
    "vmovups ymm1, [rbx]",
    "vaddps ymm1, ymm1, ymm1",
    "vmovups [rbx + 64], ymm1",
    "8:",
    "mov r12, rsi",
    "5:",
    "syscall",
    "dec r12",
    "jnz 5b",
    "mov r15d, 1",
    "syscall",
    "jmp 8b",
    "ringwall_probe_handler:", // ring 0 again
    "mov eax, cs",
    "mov [rbx + 96], ax",
    "test r15, r15",
    "jnz 6f",
    "inc r14",
    "sysretq",
    "6:",
    "mov rax, cr0", // a fault, were this not ring 0
    "mov [rbx + 104], r14",
    "mov al, 4",
    "out 0x10, al",
    "xor r15d, r15d",
    "sysretq",
    "ringwall_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static ringwall_probe_start: u8;
    static ringwall_probe_handler: u8;
    static ringwall_probe_end: u8;
}

/// The guest's code, and the offset of its system call handler.
fn guest_code() -> (&'static [u8], u64) {
    let start = &raw const ringwall_probe_start;
    let handler = (&raw const ringwall_probe_handler).addr() - start.addr();
    let len = (&raw const ringwall_probe_end).addr() - start.addr();
    // SAFETY: the assembly above lies between the two symbols, in read-only data.
    let code = unsafe { std::slice::from_raw_parts(start, len) };
    (code, handler as u64)
}

/// What comes before the first word of `Feature`s: the interfaces the machine stands on.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "the in-kernel interrupt controller"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::Irqfd, "irqfd"),
    (Cap::UserMemory, "user memory"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::SetTssAddr, "KVM_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_GET_SUPPORTED_CPUID"),
    (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
];

/// Creates the guest, runs it through its stages, and judges.
fn run(out: &mut File, measured: &mut Measured) -> Result<(), KvmProblem> {
    let refused = |what: &'static str| move |e| KvmProblem::Setup(format!("{what}: {e}"));
    let kvm = Kvm::new().map_err(|e| match e.errno() {
        libc::ENOENT => KvmProblem::NoDevice,
        libc::EACCES | libc::EPERM => KvmProblem::NoPermission,
        _ => KvmProblem::Open(e.to_string()),
    })?;
    say(out, &Message::Stage(Stage::Setup));
    match kvm.get_api_version() {
        12 => {}
        n => return Err(KvmProblem::Version(n)),
    }
    for &(cap, name) in NEEDED {
        if !kvm.check_extension(cap) {
            return Err(KvmProblem::Lacks(name.into()));
        }
    }

    let begin = Instant::now();
    let vm = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    vm.set_tss_address(0xfffb_d000).map_err(refused("KVM_SET_TSS_ADDR"))?;
    let memory = Memory::new().map_err(|e| KvmProblem::Setup(format!("memory: {e}")))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: at::SIZE as u64,
        userspace_addr: memory.0 as u64,
    };
    // SAFETY: the range is mapped for the rest of this process's life.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
    let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    measured.create_us = Some(micros(begin.elapsed()));

    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(refused("KVM_SET_CPUID2"))?;
    // Leaf 1, ECX: bit 26 XSAVE, bit 28 AVX (Intel SDM volume 2, CPUID).
    measured.avx = cpuid
        .as_slice()
        .iter()
        .any(|e| e.function == 1 && e.ecx & (1 << 26 | 1 << 28) == (1 << 26 | 1 << 28));
    prepare(&vcpu, &memory, measured.avx)?;

    let native_loop = best(|| timed(|| native_loop(LOOP_ROUNDS)));
    let native_syscalls = best(|| {
        timed(|| {
            for _ in 0..SYSCALLS {
                // SAFETY: getppid has no arguments and cannot fail.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
        })
    });
    measured.native_loop_ns = Some(per(native_loop, LOOP_ROUNDS));
    measured.native_syscall_ns = Some(per(native_syscalls, SYSCALLS));

    let mut vcpu = Guest { vcpu, limit: cpu_time() + CPU_LIMIT };
    arm();
    say(out, &Message::Stage(Stage::Entry));
    vcpu.run(1).map_err(|s| s.problem(Stage::Entry))?;

    say(out, &Message::Stage(Stage::Loop));
    let allowed = native_loop.mul_f64(LOOP_RATIO) + SLACK;
    let guest_loop = match vcpu.tries(2) {
        Ok(time) => time,
        // How far it came says how slow it is.
        Err(Stop::Time) => {
            let left = vcpu.vcpu.get_regs().map_or(LOOP_ROUNDS, |r| r.rcx);
            return Err(KvmProblem::SlowRing0 {
                rounds: LOOP_ROUNDS.saturating_sub(left),
                guest_us: micros(CPU_LIMIT),
                native_us: micros(native_loop),
            });
        }
        Err(s) => return Err(s.problem(Stage::Loop)),
    };
    measured.loop_ns = Some(per(guest_loop, LOOP_ROUNDS));
    if guest_loop > allowed {
        return Err(KvmProblem::SlowRing0 {
            rounds: LOOP_ROUNDS,
            guest_us: micros(guest_loop),
            native_us: micros(native_loop),
        });
    }

    say(out, &Message::Stage(Stage::Sse));
    vcpu.run(3).map_err(|s| s.problem(Stage::Sse))?;
    let expected: Vec<u8> = INPUT.iter().flat_map(|x| (x + x).to_le_bytes()).collect();
    if memory.read(at::DATA + 32, 16) != expected[..16] {
        return Err(KvmProblem::Vector("SSE".into()));
    }

    say(out, &Message::Stage(Stage::Syscalls));
    let allowed = native_syscalls.mul_f64(SYSCALL_RATIO) + SLACK;
    let result = vcpu.tries(4);
    let cs = memory.read(at::DATA + 96, 2);
    let cs = u16::from_le_bytes([cs[0], cs[1]]);
    if cs & 3 != 0 {
        return Err(KvmProblem::Privilege { cs });
    }
    let guest_syscalls = result.map_err(|s| s.problem(Stage::Syscalls))?;
    if measured.avx && memory.read(at::DATA + 64, 32) != expected {
        return Err(KvmProblem::Vector("AVX".into()));
    }
    let counted = memory.read(at::DATA + 104, 8);
    let counted = counted.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    if counted == 0 || !counted.is_multiple_of(SYSCALLS) {
        return Err(KvmProblem::Stopped {
            stage: Stage::Syscalls,
            exit: "system calls were lost".into(),
        });
    }
    measured.syscall_ns = Some(per(guest_syscalls, SYSCALLS));
    if guest_syscalls > allowed {
        return Err(KvmProblem::SlowSyscall {
            guest_ns: per(guest_syscalls, SYSCALLS) as u64,
            native_ns: per(native_syscalls, SYSCALLS) as u64,
        });
    }
    Ok(())
}

/// The vCPU and when, by this thread's processor time, it counts as stuck.
struct Guest {
    vcpu: VcpuFd,
    limit: Duration,
}

/// Why a stage did not come to its end.
enum Stop {
    /// The processor time is used up.
    Time,
    /// Another exit than the expected one.
    Exit(String),
}

impl Stop {
    fn problem(self, stage: Stage) -> KvmProblem {
        match self {
            Stop::Time => KvmProblem::Hung { stage },
            Stop::Exit(exit) => KvmProblem::Stopped { stage, exit },
        }
    }
}

impl Guest {
    /// Runs the guest until it says that the stage is over.
    fn run(&mut self, code: u8) -> Result<(), Stop> {
        loop {
            return match self.vcpu.run() {
                Ok(VcpuExit::IoOut(PORT, &[c])) if c == code => Ok(()),
                Ok(VcpuExit::Shutdown) => Err(Stop::Exit("triple fault".into())),
                Ok(other) => Err(Stop::Exit(format!("{other:?}"))),
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {
                    // Some other signal may come; only the timer's end counts.
                    if cpu_time() >= self.limit {
                        Err(Stop::Time)
                    } else {
                        continue;
                    }
                }
                Err(e) => Err(Stop::Exit(e.to_string())),
            };
        }
    }

    /// Runs the guest through a measurement several times; the best time.
    fn tries(&mut self, code: u8) -> Result<Duration, Stop> {
        let mut least = Duration::MAX;
        for _ in 0..TRIES {
            let mut result = Ok(());
            least = least.min(timed(|| result = self.run(code)));
            result?;
        }
        Ok(least)
    }
}

const INPUT: [f32; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];

/// Fills guest memory and sets the vCPU's registers: ring 0, long mode, at the first instruction.
fn prepare(vcpu: &VcpuFd, memory: &Memory, avx: bool) -> Result<(), KvmProblem> {
    let refused = |what: &'static str| move |e| KvmProblem::Setup(format!("{what}: {e}"));
    let (code, handler) = guest_code();
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    // Present, writable, user; the last level is a 2 MiB page.
    memory.write(at::PML4, &words(&[at::PDPT | 7]));
    memory.write(at::PDPT, &words(&[at::PD | 7]));
    memory.write(at::PD, &words(&[0x87]));
    // Kernel code 8 and data 0x10, user data 0x18 and code 0x20, in the order that STAR wants.
    memory.write(
        at::GDT,
        &words(&[
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
        ]),
    );
    let input: Vec<u8> = INPUT.iter().flat_map(|x| x.to_le_bytes()).collect();
    memory.write(at::DATA, &input);
    // Until the handler says otherwise, it has not run in ring 0; all ones would read as ring 3, so
    // begin with ring 0 and let a stage that never came to it be reported as what it is.
    memory.write(at::CODE, code);

    let mut sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    let segment = |selector, type_, l, db| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    sregs.cs = segment(0x08, 11, 1, 0);
    let data = segment(0x10, 3, 0, 1);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.gdt.base = at::GDT;
    sregs.gdt.limit = 39;
    // No handlers: any fault is a triple fault, and so an exit.
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr3 = at::PML4;
    // PAE, OSFXSR, OSXMMEXCPT; OSXSAVE with AVX (Intel SDM volume 3, 2.5).
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | u64::from(avx) << 18;
    // PE, MP, ET, NE, WP, PG.
    sregs.cr0 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
    // SCE, LME, LMA, NXE.
    sregs.efer = 1 | 1 << 8 | 1 << 10 | 1 << 11;
    vcpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;

    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs = Msrs::from_entries(&[
        entry(0xc000_0081, 0x10 << 48 | 0x08 << 32), // STAR
        entry(0xc000_0082, at::CODE + handler),      // LSTAR
        entry(0xc000_0084, 0x4_7700),                // FMASK
    ])
    .map_err(|e| KvmProblem::Setup(format!("the MSR list: {e:?}")))?;
    match vcpu.set_msrs(&msrs).map_err(refused("KVM_SET_MSRS"))? {
        3 => {}
        n => return Err(KvmProblem::Setup(format!("MSR {n} of the SYSCALL ones"))),
    }
    let regs = kvm_regs {
        rip: at::CODE,
        rsp: at::STACK,
        rflags: 2,
        rdi: LOOP_ROUNDS,
        r8: TRIES.into(),
        rbx: at::DATA,
        rsi: SYSCALLS,
        r13: u64::from(avx),
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(refused("KVM_SET_REGS"))
}

/// The guest's memory. It is never unmapped: the process ends first.
struct Memory(*mut u8);

impl Memory {
    fn new() -> std::io::Result<Memory> {
        // SAFETY: a new anonymous mapping.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                at::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Memory(p.cast()))
    }

    fn write(&self, addr: u64, bytes: &[u8]) {
        let addr = addr as usize;
        assert!(addr + bytes.len() <= at::SIZE);
        // SAFETY: inside the mapping; the vCPU does not run now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(addr), bytes.len()) }
    }

    fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let addr = addr as usize;
        assert!(addr + len <= at::SIZE);
        let mut bytes = vec![0; len];
        // SAFETY: inside the mapping; the vCPU does not run now.
        unsafe { std::ptr::copy_nonoverlapping(self.0.add(addr), bytes.as_mut_ptr(), len) }
        bytes
    }
}

/// The same loop as the guest's.
fn native_loop(rounds: u64) {
    // SAFETY: counts a register down to zero.
    unsafe {
        std::arch::asm!("2:", "dec {0}", "jnz 2b", inout(reg) rounds => _, options(nomem, nostack));
    }
}

/// Processor time of this thread, and so of this process. (The clock of the process itself ticks
/// coarsely while a timer runs on it.)
fn cpu_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Processor time that something takes.
fn timed(f: impl FnOnce()) -> Duration {
    let begin = cpu_time();
    f();
    cpu_time().saturating_sub(begin)
}

/// The least of several tries.
fn best(f: impl Fn() -> Duration) -> Duration {
    (0..TRIES).map(|_| f()).min().unwrap_or_default()
}

fn per(total: Duration, count: u64) -> f64 {
    total.as_nanos() as f64 / count as f64
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &str, ended: bool) -> Output {
        Output { bytes: text.as_bytes().to_vec(), ended }
    }

    #[test]
    fn a_verdict_is_read_whole_or_named_by_its_last_stage() {
        let measured = Measured { avx: true, ..Default::default() };
        let mut text = serde_json::to_string(&Message::Stage(Stage::Loop)).unwrap() + "\n";
        assert_eq!(verdict(&output(&text, true)).0, Some(KvmProblem::Died { stage: Stage::Loop }));
        assert_eq!(verdict(&output(&text, false)).0, Some(KvmProblem::Hung { stage: Stage::Loop }));
        let done = serde_json::to_string(&Message::Done(None, measured.clone())).unwrap();
        // A cut line is no verdict.
        let cut = format!("{text}{}", &done[..done.len() - 3]);
        assert_eq!(verdict(&output(&cut, true)).0, Some(KvmProblem::Died { stage: Stage::Loop }));
        text += &done;
        assert_eq!(verdict(&output(&text, false)), (None, measured));
        assert_eq!(verdict(&output("", true)).0, Some(KvmProblem::Died { stage: Stage::Setup }));
        assert_eq!(
            verdict(&output("nonsense\n", true)).0,
            Some(KvmProblem::Died { stage: Stage::Setup })
        );
    }

    #[test]
    fn problems_survive_the_cache() {
        for problem in [
            KvmProblem::NoDevice,
            KvmProblem::SlowRing0 { rounds: 1, guest_us: 2, native_us: 3 },
            KvmProblem::Stopped { stage: Stage::Sse, exit: "triple fault".into() },
        ] {
            let text = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<KvmProblem>(&text).unwrap(), problem);
        }
    }

    #[test]
    fn the_probe_comes_to_a_verdict_here() {
        // Whatever this machine is, the probe neither hangs nor kills the caller.
        let finding = kvm();
        assert!(!matches!(finding.problem, Some(KvmProblem::NotRun(_))), "{finding:?}");
        println!("{finding:?}");
    }

    #[test]
    fn the_guest_fits_its_page_and_counts_natively_too() {
        let (code, handler) = guest_code();
        assert!(code.len() < (at::STACK - at::CODE) as usize && (handler as usize) < code.len());
        native_loop(3);
    }
}
