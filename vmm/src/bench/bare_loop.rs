//! The unit that ptrace figures are counted in: one pinned PTRACE_SYSEMU round with the registers read
//! and written, which is the least that a system call under ptrace can cost on this machine.

use std::time::Instant;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::program::median;

/// Rounds of one lap, and laps.
const ROUNDS: u32 = 500;
const LAPS: usize = 15;

/// Nanoseconds of one round, the median of several laps. The caller is pinned to one CPU, and so is the
/// tracee, which inherits that.
pub fn measure() -> Result<f64, String> {
    // SAFETY: the child makes system calls only and never returns.
    let child = match unsafe { fork() }.map_err(|e| format!("fork: {e}"))? {
        ForkResult::Child => {
            if ptrace::traceme().is_ok() {
                let _stopped = nix::sys::signal::raise(Signal::SIGSTOP);
            }
            loop {
                // SAFETY: no arguments, no effect; and the tracer serves it anyway.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
        }
        ForkResult::Parent { child } => child,
    };
    let result = rounds(child);
    // The child is ours and not reaped yet, so the pid is its.
    let _gone = kill(child, Signal::SIGKILL);
    let _reaped = waitpid(child, None);
    result
}

fn rounds(child: nix::unistd::Pid) -> Result<f64, String> {
    let fail = |what: &str, e: nix::Error| format!("{what}: {e}");
    match waitpid(child, None).map_err(|e| fail("waitpid", e))? {
        WaitStatus::Stopped(..) => {}
        other => return Err(format!("the tracee did not stop: {other:?}")),
    }
    let mut laps = Vec::new();
    for _ in 0..LAPS {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            ptrace::sysemu(child, None).map_err(|e| fail("PTRACE_SYSEMU", e))?;
            waitpid(child, None).map_err(|e| fail("waitpid", e))?;
            let mut regs = ptrace::getregs(child).map_err(|e| fail("PTRACE_GETREGS", e))?;
            regs.rax = 1;
            ptrace::setregs(child, regs).map_err(|e| fail("PTRACE_SETREGS", e))?;
        }
        laps.push(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    median(&mut laps).ok_or_else(|| "nothing was timed".into())
}
