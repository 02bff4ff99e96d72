//! The ptrace probe: whether a process here may drive another with `PTRACE_SYSEMU`.
//!
//! Done the way the platform does it: a descendant is seized, stopped, and let run to its next system
//! call, which must not be carried out. All of it happens in a child, since what forbids ptrace may
//! also kill.

use std::io;

use serde::{Deserialize, Serialize};

/// Why ptrace is not a platform here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PtraceProblem {
    /// ptrace is switched off for good
    #[error(
        "ptrace is switched off until the next boot: kernel.yama.ptrace_scope is 3; boot with a lower value"
    )]
    SwitchedOff,
    /// ptrace needs CAP_SYS_PTRACE here
    #[error(
        "ptrace needs CAP_SYS_PTRACE here: kernel.yama.ptrace_scope is 2; allow it with `sysctl kernel.yama.ptrace_scope=1`, or run as root"
    )]
    NeedsCapability,
    /// a step was refused
    #[error(
        "{step} was refused ({error}): allow ptrace in the seccomp profile or security module that confines this process (for Docker: `--security-opt seccomp=unconfined` or `--cap-add SYS_PTRACE`)"
    )]
    Refused {
        /// What was tried.
        step: String,
        /// The system's answer.
        error: String,
    },
    /// PTRACE_SYSEMU does not work
    #[error("PTRACE_SYSEMU does not stop at a system call here ({0})")]
    NoSysemu(String),
}

/// All that is known of ptrace here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtraceFinding {
    /// Why it is not a platform; `None`: it is.
    pub problem: Option<PtraceProblem>,
    /// kernel.yama.ptrace_scope; `None`: there is no Yama here.
    pub yama_scope: Option<u8>,
}

/// What the child can find; its exit status says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
enum Step {
    Works = 0,
    Fork = 1,
    Seize = 2,
    Interrupt = 3,
    Stop = 4,
    Sysemu = 5,
    Registers = 6,
    NotASyscall = 7,
}

/// Runs the probe.
pub fn ptrace() -> PtraceFinding {
    let yama_scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .ok()
        .and_then(|s| s.trim().parse().ok());
    PtraceFinding { problem: in_child().err().map(|p| explain(p, yama_scope)), yama_scope }
}

/// Says what to enable where the kernel's policy is what refused.
fn explain(problem: PtraceProblem, yama_scope: Option<u8>) -> PtraceProblem {
    match (&problem, yama_scope) {
        (PtraceProblem::Refused { .. }, Some(3)) => PtraceProblem::SwitchedOff,
        (PtraceProblem::Refused { .. }, Some(2)) => PtraceProblem::NeedsCapability,
        _ => problem,
    }
}

fn in_child() -> Result<(), PtraceProblem> {
    let refused = |step: &str, error: io::Error| PtraceProblem::Refused {
        step: step.into(),
        error: error.to_string(),
    };
    // SAFETY: the child makes system calls only, and _exits.
    let pid = unsafe { libc::fork() };
    if pid == -1 {
        return Err(refused("fork", io::Error::last_os_error()));
    }
    if pid == 0 {
        let (step, errno) = tracer();
        // Six bits of errno that matter beside the step: EPERM, EACCES, EIO, ENOSYS and the like.
        let status = step as i32 | errno.clamp(0, 31) << 3;
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid; the child is bounded by its alarm.
    while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(refused("waitpid", e));
        }
    }
    judge(status)
}

/// Reads the child's wait status.
fn judge(status: i32) -> Result<(), PtraceProblem> {
    if !libc::WIFEXITED(status) {
        return Err(PtraceProblem::Refused {
            step: "ptrace".into(),
            error: format!("killed by signal {}", libc::WTERMSIG(status)),
        });
    }
    let code = libc::WEXITSTATUS(status);
    let error = io::Error::from_raw_os_error(code >> 3);
    let step = match code & 7 {
        0 => return Ok(()),
        1 => "fork",
        2 => "PTRACE_SEIZE",
        3 => "PTRACE_INTERRUPT",
        4 => return Err(PtraceProblem::NoSysemu("no stop".into())),
        5 => "PTRACE_SYSEMU",
        6 => "PTRACE_GETREGS",
        _ => return Err(PtraceProblem::NoSysemu("another stop came".into())),
    };
    Err(PtraceProblem::Refused { step: step.into(), error: error.to_string() })
}

/// The child: traces a child of its own for one system call.
fn tracer() -> (Step, i32) {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: system calls on processes and memory of our own; the tracee runs no code but its loop.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        let mut alarm: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut alarm, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_UNBLOCK, &alarm, std::ptr::null_mut());
        libc::alarm(2);
        let tracee = libc::fork();
        if tracee == -1 {
            return (Step::Fork, errno());
        }
        if tracee == 0 {
            // Ends with its tracer even where EXITKILL never came to be set.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::syscall(libc::SYS_getppid);
            }
        }
        let outcome = (|| {
            if libc::ptrace(libc::PTRACE_SEIZE, tracee, null, libc::PTRACE_O_EXITKILL) == -1 {
                return (Step::Seize, errno());
            }
            if libc::ptrace(libc::PTRACE_INTERRUPT, tracee, null, null) == -1 {
                return (Step::Interrupt, errno());
            }
            let mut status = 0;
            // glibc has no name for the signal that SYSEMU stops report; it is SIGTRAP.
            for step in 0..2 {
                if libc::waitpid(tracee, &mut status, libc::__WALL) != tracee
                    || !libc::WIFSTOPPED(status)
                {
                    return (Step::Stop, 0);
                }
                if step == 0 && libc::ptrace(PTRACE_SYSEMU, tracee, null, null) == -1 {
                    return (Step::Sysemu, errno());
                }
            }
            let mut regs: libc::user_regs_struct = std::mem::zeroed();
            if libc::ptrace(libc::PTRACE_GETREGS, tracee, null, &raw mut regs) == -1 {
                return (Step::Registers, errno());
            }
            // At the entry of a call, not carried out: rax is -ENOSYS (ptrace(2)). Which call is not
            // said: the tracee may still be in fork's epilogue.
            if regs.orig_rax.cast_signed() < 0
                || regs.rax != (-i64::from(libc::ENOSYS)).cast_unsigned()
            {
                return (Step::NotASyscall, 0);
            }
            (Step::Works, 0)
        })();
        libc::kill(tracee, libc::SIGKILL);
        outcome
    }
}

/// ptrace(2), <sys/ptrace.h>.
const PTRACE_SYSEMU: libc::c_uint = 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptrace_works_where_the_tests_run() {
        assert_eq!(ptrace().problem, None);
    }

    #[test]
    fn policy_is_named_with_its_remedy() {
        let refused = judge((2 | libc::EPERM << 3) << 8).unwrap_err();
        assert!(
            matches!(&refused, PtraceProblem::Refused { step, .. } if step == "PTRACE_SEIZE"),
            "{refused:?}"
        );
        assert_eq!(explain(refused.clone(), Some(3)), PtraceProblem::SwitchedOff);
        assert_eq!(explain(refused.clone(), Some(2)), PtraceProblem::NeedsCapability);
        assert_eq!(explain(refused.clone(), Some(1)), refused);
        // Killed by a filter.
        assert!(matches!(judge(libc::SIGSYS), Err(PtraceProblem::Refused { .. })));
        assert_eq!(judge(0), Ok(()));
    }
}
