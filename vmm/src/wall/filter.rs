//! A filter of system calls, as seccompiler builds it, and what a compiled one lets through.
//!
//! Every filter here kills the process for what it does not list: the cause is a defect, or an attacker, and both must
//! be seen. [`reachable`] reads a *compiled* program, so that what is told of a filter is what the kernel is given.

use std::collections::BTreeMap;
use std::io;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter does not compile.
    #[error("a filter of system calls does not compile: {0}")]
    Compile(#[from] BackendError),
    /// The kernel does not take it.
    #[error("a filter of system calls is not taken: {0}")]
    Install(io::Error),
}

/// The calls that a filter lets through.
#[derive(Debug, Default)]
pub struct Rules(BTreeMap<i64, Vec<SeccompRule>>);

impl Rules {
    /// Calls with any argument. The kernel answers these from a bitmap.
    pub fn any(mut self, calls: &[c_long]) -> Self {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
        self
    }

    /// A call whose argument has one of these values, by its lower 32 bits.
    pub fn one_of(
        mut self,
        call: c_long,
        argument: u8,
        values: impl IntoIterator<Item = u64>,
    ) -> Result<Self, Error> {
        let rules = values
            .into_iter()
            .map(|value| condition(argument, SeccompCmpOp::Eq, value))
            .map(|condition| Ok(SeccompRule::new(vec![condition?])?))
            .collect::<Result<_, Error>>()?;
        self.0.insert(call, rules);
        Ok(self)
    }

    /// A call of whose argument these bits have this value.
    pub fn masked(
        mut self,
        call: c_long,
        argument: u8,
        mask: u64,
        value: u64,
    ) -> Result<Self, Error> {
        let condition = condition(argument, SeccompCmpOp::MaskedEq(mask), value)?;
        self.0.insert(call, vec![SeccompRule::new(vec![condition])?]);
        Ok(self)
    }

    /// mmap(2) and mprotect(2), but nothing that could be executed.
    pub fn memory_without_code(self) -> Result<Self, Error> {
        let executable = libc::PROT_EXEC as u64;
        self.masked(libc::SYS_mmap, 2, executable, 0)?.masked(libc::SYS_mprotect, 2, executable, 0)
    }

    /// The program.
    pub fn compile(self) -> Result<BpfProgram, Error> {
        let (otherwise, listed) = (SeccompAction::KillProcess, SeccompAction::Allow);
        let filter = SeccompFilter::new(self.0, otherwise, listed, TargetArch::x86_64)?;
        Ok(filter.try_into()?)
    }
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// A program that fails one call with ENOSYS, for callers that know another way.
pub fn refuse(call: c_long) -> Result<BpfProgram, Error> {
    let refused = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

/// Which threads a filter is put over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The calling one, and those that it will start.
    Thread,
    /// All of this process.
    Process,
}

/// Puts a program over threads. no_new_privs is set already.
///
/// Not seccompiler's function: that would set it again, which a filter that is there already need not allow.
pub fn apply(program: &BpfProgram, over: Over) -> Result<(), Error> {
    let flags = match over {
        Over::Thread => 0,
        Over::Process => libc::SECCOMP_FILTER_FLAG_TSYNC,
    };
    let program = libc::sock_fprog {
        // A filter has at most 4096 instructions (seccomp(2)), which the kernel checks.
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the program and its description are alive, and the kernel only reads them.
    let rc = unsafe {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)
    };
    match rc {
        0 => Ok(()),
        // With TSYNC: the id of a thread that has another filter.
        1.. => Err(Error::Install(io::Error::other("a thread has a filter of its own"))),
        _ => Err(Error::Install(io::Error::last_os_error())),
    }
}

/// An instruction of a classic BPF program.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl From<&sock_filter> for Instruction {
    fn from(i: &sock_filter) -> Self {
        Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }
    }
}

impl From<&libc::sock_filter> for Instruction {
    fn from(i: &libc::sock_filter) -> Self {
        Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }
    }
}

/// How a program answers a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// With some arguments at least it lets the call through.
    pub allowed: bool,
    /// It looks at its arguments.
    pub checked: bool,
}

/// AUDIT_ARCH_X86_64 (linux/audit.h).
const X86_64: u32 = 0xc000_003e;
/// Above every number of a system call (asm/unistd_64.h ends below 500).
const NUMBERS: c_long = 512;

/// What a program says of a system call, whatever its arguments: every way through it is followed.
pub fn reachable(program: &[Instruction], call: c_long) -> Answer {
    let mut answer = Answer::default();
    // Where to go on, and what the accumulator holds there, if that is known. A program has no way back, and so ends.
    let mut open = vec![(0usize, None::<u32>)];
    let mut seen = std::collections::BTreeSet::new();
    while let Some((at, value)) = open.pop() {
        if !seen.insert((at, value)) {
            continue;
        }
        let Some(i) = program.get(at) else { continue };
        let next = at + 1;
        match c_int::from(i.code) & 0x07 {
            // BPF_LD, of struct seccomp_data: number, architecture, instruction pointer, arguments.
            0x00 => {
                let known = match i.k {
                    0 => u32::try_from(call).ok(),
                    4 => Some(X86_64),
                    _ => None,
                };
                answer.checked |= known.is_none();
                open.push((next, known));
            }
            // BPF_ALU: AND is the one that filters use; of an argument nothing is known afterwards either.
            0x04 => open.push((next, value.filter(|_| i.code & 0xf0 == 0x50).map(|v| v & i.k))),
            // BPF_JMP.
            0x05 => {
                let taken = match (i.code & 0xf0, value) {
                    (0x00, _) => {
                        open.push((next.saturating_add(i.k as usize), value));
                        continue;
                    }
                    (0x10, Some(v)) => Some(v == i.k),
                    (0x20, Some(v)) => Some(v > i.k),
                    (0x30, Some(v)) => Some(v >= i.k),
                    (0x40, Some(v)) => Some(v & i.k != 0),
                    _ => None,
                };
                if taken != Some(false) {
                    open.push((next + usize::from(i.jt), value));
                }
                if taken != Some(true) {
                    open.push((next + usize::from(i.jf), value));
                }
            }
            // BPF_RET.
            0x06 => answer.allowed |= i.k == libc::SECCOMP_RET_ALLOW,
            _ => open.push((next, None)),
        }
    }
    answer
}

/// The calls that pass every one of these programs, and whether one of them looks at their arguments.
pub fn passed<'a, I: 'a>(programs: &'a [&'a [I]]) -> BTreeMap<c_long, bool>
where
    Instruction: From<&'a I>,
{
    let programs: Vec<Vec<Instruction>> =
        programs.iter().map(|p| p.iter().map(Instruction::from).collect()).collect();
    (0..NUMBERS)
        .filter_map(|call| {
            let answers: Vec<Answer> = programs.iter().map(|p| reachable(p, call)).collect();
            let all = answers.iter().all(|answer| answer.allowed);
            all.then(|| (call, answers.iter().any(|answer| answer.checked)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_filter_is_what_it_does() {
        let rules = Rules::default().any(&[libc::SYS_read, libc::SYS_futex]);
        let rules = rules.one_of(libc::SYS_ioctl, 1, [1, 2]).unwrap().memory_without_code();
        let rules = rules.unwrap().any(&[libc::SYS_clone3]);
        let program = rules.compile().unwrap();
        let second = refuse(libc::SYS_clone3).unwrap();
        let calls = passed::<sock_filter>(&[&program, &second]);
        let expected = [
            (libc::SYS_read, false),
            (libc::SYS_mmap, true),
            (libc::SYS_mprotect, true),
            (libc::SYS_ioctl, true),
            (libc::SYS_futex, false),
        ];
        assert_eq!(calls, BTreeMap::from(expected));
    }
}
