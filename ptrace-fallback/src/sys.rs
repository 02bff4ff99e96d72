//! The host's system calls that the standard library does not offer, as safe functions where they
//! can be.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

use sentry::errno::Errno;
use sentry::platform::Registers;

/// CLOCK_MONOTONIC, nanoseconds.
pub(crate) fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// A clock of the host, nanoseconds; 0 where there is none such.
pub(crate) fn clock(id: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid place for the result.
    if unsafe { libc::clock_gettime(id, &mut ts) } != 0 {
        return 0;
    }
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// The clock of the processor time of another process (include/linux/posix-timers.h: the
/// complement of its id above three bits, of which 2 says *scheduler's count*).
pub(crate) fn process_cpu_time(pid: i32) -> u64 {
    clock((!pid).wrapping_shl(3) | 2)
}

/// The clock of the processor time of a thread of this process: 4 more says *thread*.
pub(crate) fn thread_cpu_time(tid: i32) -> u64 {
    clock((!tid).wrapping_shl(3) | 6)
}

/// The error of the system call that has just failed.
pub(crate) fn errno() -> Errno {
    Errno::from_code(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Bytes of `struct rseq` that the host's kernel keeps up to date, 0: it knows nothing of it.
pub(crate) fn rseq_size() -> u32 {
    // Nothing has this address and length: EINVAL where the call is there.
    // SAFETY: it is refused.
    let refused = unsafe { libc::syscall(libc::SYS_rseq, 0, 0, 0, 0) };
    if refused >= 0 || errno() != Errno::EINVAL {
        return 0;
    }
    /// include/uapi/linux/auxvec.h; not there before Linux 6.3, when the area ended with its flags.
    const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;
    // SAFETY: no memory arguments.
    match unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) } {
        0 => 20,
        size => size as u32,
    }
}

/// membarrier(2)'s MEMBARRIER_CMD_QUERY: the commands that the host's kernel has, 0 without the call.
pub(crate) fn membarriers() -> u64 {
    // SAFETY: no memory arguments.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    u64::try_from(commands).unwrap_or(0)
}

/// Waits while `word` holds `expected`, until woken, interrupted or `deadline` (monotonic).
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, deadline: Option<u64>) {
    let ts = deadline.map(|d| libc::timespec {
        tv_sec: (d / 1_000_000_000).min(i64::MAX as u64) as i64,
        tv_nsec: (d % 1_000_000_000) as i64,
    });
    let timeout = ts.as_ref().map_or(ptr::null(), ptr::from_ref);
    // FUTEX_WAIT_BITSET takes an absolute time. Any result means: look again.
    // SAFETY: the word outlives the call, and the timeout is null or a timespec on this stack.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            timeout,
            ptr::null::<u32>(),
            u32::MAX,
        );
    }
}

/// Wakes one waiter in this process.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is only used as an address.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        );
    }
}

/// Wakes one waiter in whatever process waits on this word of shared memory.
pub(crate) fn futex_wake_shared(word: &AtomicU32) {
    // SAFETY: the word is only used as an address.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}

/// The calling thread's id on the host.
pub(crate) fn gettid() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// No SIGCHLD for stops of tracees: whoever wants to know waits for them, and the host's kernel would
/// make and discard one each time.
pub(crate) fn no_signals_of_stops() -> io::Result<()> {
    // SAFETY: all zeros is a sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid places; reading the old one changes nothing.
    check(unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), &mut action) }.into())?;
    action.sa_flags |= libc::SA_NOCLDSTOP;
    // SAFETY: the same handler as before, if any.
    check(unsafe { libc::sigaction(libc::SIGCHLD, &action, ptr::null_mut()) }.into())?;
    Ok(())
}

/// Names the calling thread, for whoever looks from the host; the name ends with a zero.
pub(crate) fn set_thread_name(name: &[u8; 16]) {
    // SAFETY: the kernel reads at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Sends a signal to a process with one thread. That it is gone is no error: its tracer learns of it.
pub(crate) fn signal(pid: i32, signal: i32) {
    // SAFETY: no memory arguments.
    unsafe {
        libc::syscall(libc::SYS_tgkill, pid, pid, signal);
    }
}

/// The CPU that the caller runs on.
pub(crate) fn current_cpu() -> u32 {
    // SAFETY: no arguments.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// CPUs that the calling thread may use, by the host's numbers.
pub(crate) fn allowed_cpus() -> Vec<u32> {
    let mut words = [0u64; 128];
    // SAFETY: the buffer is valid for its length.
    let len = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&words), words.as_mut_ptr())
    };
    let cpus: Vec<u32> = (0..(len.max(0) as u32).saturating_mul(8).min(8192))
        .filter(|n| words[(n / 64) as usize] >> (n % 64) & 1 != 0)
        .collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Binds a thread (0: the caller) to one CPU. A thread that is gone, or a CPU that was taken from
/// us, changes nothing: only speed is lost.
pub(crate) fn bind_to_cpu(tid: i32, cpu: u32) {
    let mut words = [0u64; 128];
    let Some(word) = words.get_mut((cpu / 64) as usize) else {
        return;
    };
    *word = 1 << (cpu % 64);
    // The kernel takes short masks; bytes up to and with the one that has the bit, in whole words.
    let len = (cpu as usize / 64 + 1) * 8;
    // SAFETY: the buffer is valid for the length given.
    unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, tid, len, words.as_ptr());
    }
}

/// An eventfd, closed on exec.
pub(crate) fn eventfd(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory arguments.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | flags) }.into())?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A descriptor that becomes readable when the process ends.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory arguments.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Kills a process. That it is gone is no error.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) {
    // SAFETY: without a siginfo there are no memory arguments.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            ptr::null::<libc::siginfo_t>(),
            0,
        );
    }
}

/// An anonymous file of `len` bytes, all holes.
pub(crate) fn memfd(name: &std::ffi::CStr, len: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) }.into())?;
    // SAFETY: the descriptor is new and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no memory arguments.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) }.into())?;
    Ok(fd)
}

/// Maps a whole file shared, readable and writable, without reserving memory for it.
pub(crate) fn map_shared(fd: BorrowedFd<'_>, len: usize) -> io::Result<*mut u8> {
    // SAFETY: a new mapping where the kernel finds room disturbs nothing.
    let addr = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            fd.as_raw_fd(),
            0,
        )
    };
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(addr.cast())
}

/// Makes a hole in a file, so that its memory goes back to the host.
pub(crate) fn punch_hole(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory arguments.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset as i64, len as i64) }.into())?;
    Ok(())
}

/// What fstat(2) says. Not the C library's function, which is another system call from version to version.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: all zeros is a stat, and the call fills it in.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::syscall(libc::SYS_fstat, fd.as_raw_fd(), &raw mut stat))?;
        Ok(stat)
    }
}

/// poll(2) on descriptors; how many are ready.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout_ms: i32) -> i32 {
    // SAFETY: the slice is valid for its length.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) }
}

/// What waiting for a tracee says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// At a system call that was skipped (PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// A signal is about to be delivered.
    Signal(i32),
    /// Stopped for ptrace's own reasons: PTRACE_INTERRUPT, or a group stop.
    Event,
    /// It is no more.
    Gone,
}

/// Waits for a tracee of the calling thread.
pub(crate) fn wait(tid: i32) -> Stop {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the result.
        let pid = unsafe { libc::waitpid(tid, &mut status, libc::__WALL) };
        if pid == tid {
            break;
        }
        if pid < 0 && errno() != Errno::EINTR {
            return Stop::Gone;
        }
    }
    if !libc::WIFSTOPPED(status) {
        return Stop::Gone;
    }
    match (status >> 8 & 0xff, status >> 16) {
        (_, event) if event != 0 => Stop::Event,
        (signal, _) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        (signal, _) => Stop::Signal(signal),
    }
}

// include/uapi/linux/ptrace.h and arch/x86/include/uapi/asm/ptrace-abi.h
const PTRACE_PEEKUSER: i32 = 3;
const PTRACE_POKEUSER: i32 = 6;
/// Where `struct user` has the debug registers (sys/user.h).
const DEBUG: usize = std::mem::offset_of!(libc::user, u_debugreg);
const PTRACE_CONT: i32 = 7;
const PTRACE_GETREGS: i32 = 12;
const PTRACE_SETREGS: i32 = 13;
const PTRACE_SYSEMU: i32 = 31;
const PTRACE_GETREGSET: i32 = 0x4204;
const PTRACE_SETREGSET: i32 = 0x4205;
const PTRACE_SEIZE: i32 = 0x4206;
const PTRACE_INTERRUPT: i32 = 0x4207;
const PTRACE_DETACH: i32 = 17;
const PTRACE_GETSIGINFO: i32 = 0x4202;
const PTRACE_GET_SYSCALL_INFO: i32 = 0x420e;
const PTRACE_O_TRACESYSGOOD: usize = 1;
const PTRACE_O_EXITKILL: usize = 1 << 20;
/// include/uapi/linux/elf.h
const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;

/// The raw call, for requests whose arguments are plain numbers.
fn ptrace_plain(request: i32, tid: i32, addr: usize, data: usize) -> Result<(), Errno> {
    debug_assert!(matches!(
        request,
        PTRACE_SYSEMU
            | PTRACE_CONT
            | PTRACE_SEIZE
            | PTRACE_INTERRUPT
            | PTRACE_DETACH
            | PTRACE_POKEUSER
    ));
    // SAFETY: the requests above take numbers, and act on another process.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request, tid, addr, data) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Makes the calling thread the tracer, without stopping the tracee; it dies with the caller.
pub(crate) fn seize(tid: i32) -> Result<(), Errno> {
    let options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    ptrace_plain(PTRACE_SEIZE, tid, 0, options)
}

/// Asks a tracee to stop.
pub(crate) fn interrupt(tid: i32) -> Result<(), Errno> {
    ptrace_plain(PTRACE_INTERRUPT, tid, 0, 0)
}

/// Lets a stopped tracee run untraced.
pub(crate) fn detach(tid: i32) -> Result<(), Errno> {
    ptrace_plain(PTRACE_DETACH, tid, 0, 0)
}

/// Runs a stopped tracee, without the signal it may have stopped for, to its next system call, which
/// is skipped.
pub(crate) fn sysemu(tid: i32) -> Result<(), Errno> {
    ptrace_plain(PTRACE_SYSEMU, tid, 0, 0)
}

/// Lets a stopped tracee run, its system calls included.
pub(crate) fn cont(tid: i32) -> Result<(), Errno> {
    ptrace_plain(PTRACE_CONT, tid, 0, 0)
}

/// Reads the general registers of a stopped tracee.
pub(crate) fn get_registers(tid: i32, regs: &mut Registers) -> Result<(), Errno> {
    // SAFETY: `Registers` has the layout of user_regs_struct, which the kernel fills.
    let result =
        unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_GETREGS, tid, 0, ptr::from_mut(regs)) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Writes all general registers of a stopped tracee. `EIO` where one has a value that cannot be.
pub(crate) fn set_registers(tid: i32, regs: &Registers) -> Result<(), Errno> {
    // SAFETY: `Registers` has the layout of user_regs_struct, which the kernel reads.
    let result =
        unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_SETREGS, tid, 0, ptr::from_ref(regs)) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Writes the general registers up to and with `ss`, and leaves the segment bases alone.
pub(crate) fn set_registers_but_bases(tid: i32, regs: &Registers) -> Result<(), Errno> {
    let mut iov = libc::iovec {
        iov_base: ptr::from_ref(regs).cast_mut().cast(),
        iov_len: std::mem::offset_of!(Registers, fs_base),
    };
    // SAFETY: the kernel reads a part of `regs`, which has the layout of user_regs_struct.
    let result = unsafe {
        libc::syscall(libc::SYS_ptrace, PTRACE_SETREGSET, tid, NT_PRSTATUS, ptr::from_mut(&mut iov))
    };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Writes one general register of a stopped tracee.
pub(crate) fn set_rax(tid: i32, rax: u64) -> Result<(), Errno> {
    let offset = std::mem::offset_of!(Registers, rax);
    ptrace_plain(PTRACE_POKEUSER, tid, offset, rax as usize)
}

/// Writes one debug register of a stopped tracee.
pub(crate) fn set_debug(tid: i32, n: usize, value: u64) -> Result<(), Errno> {
    ptrace_plain(PTRACE_POKEUSER, tid, DEBUG + n * 8, value as usize)
}

/// Reads one debug register of a stopped tracee.
pub(crate) fn get_debug(tid: i32, n: usize) -> Result<u64, Errno> {
    let mut value: u64 = 0;
    let to = ptr::from_mut(&mut value);
    // SAFETY: the kernel writes one word to `value`.
    let result =
        unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_PEEKUSER, tid, DEBUG + n * 8, to) };
    if result < 0 { Err(errno()) } else { Ok(value) }
}

/// What the kernel knows of a signal that is about to be delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignalInfo {
    /// si_code: above 0 it comes from the kernel.
    pub code: i32,
    /// si_addr, or for SIGSYS si_call_addr.
    pub addr: u64,
}

/// Reads the siginfo of a tracee that has stopped for a signal.
pub(crate) fn signal_info(tid: i32) -> Result<SignalInfo, Errno> {
    // SAFETY: all zeros is a siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills `info`.
    let result = unsafe {
        libc::syscall(libc::SYS_ptrace, PTRACE_GETSIGINFO, tid, 0, ptr::from_mut(&mut info))
    };
    if result < 0 {
        return Err(errno());
    }
    Ok(SignalInfo {
        code: info.si_code,
        // SAFETY: reading the field as a number is right whatever the signal was.
        addr: unsafe { info.si_addr() } as u64,
    })
}

/// The AUDIT_ARCH_ number of the system call that a tracee has stopped at.
pub(crate) fn syscall_arch(tid: i32) -> Result<u32, Errno> {
    // struct ptrace_syscall_info: op u8, pad, arch u32, ...; 8 bytes are enough.
    let mut info = [0u32; 2];
    // SAFETY: the kernel fills at most the length given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            PTRACE_GET_SYSCALL_INFO,
            tid,
            size_of_val(&info),
            info.as_mut_ptr(),
        )
    };
    if result < 0 { Err(errno()) } else { Ok(info[1]) }
}

/// Reads the XSAVE image of a stopped tracee into `image`, as long as the kernel has it.
pub(crate) fn get_xstate(tid: i32, image: &mut Vec<u8>) -> Result<(), Errno> {
    image.clear();
    // Room for everything that x86 defines so far (AMX tiles alone have 8 KiB).
    image.resize(16384, 0);
    let mut iov = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    // SAFETY: the kernel fills at most the length given, and says how much.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            PTRACE_GETREGSET,
            tid,
            NT_X86_XSTATE,
            ptr::from_mut(&mut iov),
        )
    };
    if result < 0 {
        return Err(errno());
    }
    image.truncate(iov.iov_len);
    Ok(())
}

/// Writes the XSAVE image of a stopped tracee.
pub(crate) fn set_xstate(tid: i32, image: &[u8]) -> Result<(), Errno> {
    let mut iov = libc::iovec { iov_base: image.as_ptr().cast_mut().cast(), iov_len: image.len() };
    // SAFETY: the kernel reads the image and no more.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            PTRACE_SETREGSET,
            tid,
            NT_X86_XSTATE,
            ptr::from_mut(&mut iov),
        )
    };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Fills `buf` from the host's random number generator.
///
/// # Panics
/// Where the host has none: nothing safe can be done then.
pub(crate) fn random(buf: &mut [u8]) {
    let mut rest = buf;
    while !rest.is_empty() {
        // SAFETY: the slice is valid for its length.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => rest = rest.get_mut(n..).unwrap_or_default(),
            Err(_) => assert!(errno() == Errno::EINTR, "getrandom: {}", errno()),
        }
    }
}
