//! `ringwall check --wall`: what the wall is made of on this machine.
//!
//! System calls are read out of the compiled filters, each thread's as the kernel would combine them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use libc::c_long;
use seccompiler::{BpfProgram, sock_filter};
use serde::Serialize;

use super::filter::{Error, passed};
use super::level::{self, Level};
use super::{descriptors, sandbox};
use crate::node_maker;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A filter of the sandbox.
    #[error("{0}")]
    Sandbox(#[from] Error),
    /// The gofer's.
    #[error("the gofer's filter: {0}")]
    Gofer(#[from] gofer::server::FilterError),
}

/// The threads of one role.
#[derive(Debug, Serialize)]
pub struct Role {
    /// What they do.
    pub name: &'static str,
    /// The system calls that they may make; those with a star not with every argument.
    pub calls: Vec<String>,
}

/// A process.
#[derive(Debug, Serialize)]
pub struct Process {
    /// What it is.
    pub name: &'static str,
    /// How many different system calls all of its threads may make.
    pub calls: usize,
    /// How many are promised at most.
    pub promised: usize,
    /// Its threads.
    pub roles: Vec<Role>,
    /// What its descriptors can be, as /proc/PID/fd shows them.
    pub descriptors: &'static [descriptors::Kind],
}

/// All that there is to say.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The level of what the caller starts.
    pub level: Level,
    /// The promises that do not hold here.
    pub missing: Vec<&'static str>,
    /// The filtered processes.
    pub processes: Vec<Process>,
}

type Calls = BTreeMap<c_long, bool>;

fn of(programs: &[&BpfProgram]) -> Calls {
    let slices: Vec<&[sock_filter]> = programs.iter().map(|program| program.as_slice()).collect();
    passed(&slices)
}

/// Reads the filters.
pub fn report() -> Result<Report, ReportError> {
    let (no_clone3, vcpu) = (sandbox::no_clone3()?, sandbox::vcpu()?);
    let (kvm_loop, tracer) = (sandbox::kvm_loop()?, sandbox::tracer()?);
    let event_loop = of(&[&no_clone3, &tracer, &sandbox::ptrace_loop()?]);
    // The first vCPU's thread has its own filter alone.
    let kvm = vec![("event loop", of(&[&no_clone3, &kvm_loop])), ("vCPU", of(&[&vcpu]))];
    let ptrace = vec![("event loop", event_loop), ("sentry", of(&[&no_clone3, &tracer]))];
    let stub = passed::<libc::sock_filter>(&[&ptrace_fallback::stub_filter()]);
    let gofer = vec![("server", of(&[&gofer::server::filter()?]))];
    let nodes = vec![("maker", of(&[&node_maker::filter()?]))];
    let level = level::here();
    Ok(Report {
        level,
        missing: level::missing(level),
        processes: vec![
            process("sandbox on kvm", 40, kvm, descriptors::KVM),
            process("sandbox on ptrace", 60, ptrace, descriptors::PTRACE),
            process("stubs of ptrace", 16, vec![("stub", stub)], descriptors::PTRACE),
            process("gofer", 45, gofer, descriptors::GOFER),
            process("node maker", 6, nodes, descriptors::NODES),
        ],
    })
}

fn process(
    name: &'static str,
    promised: usize,
    roles: Vec<(&'static str, Calls)>,
    descriptors: &'static [descriptors::Kind],
) -> Process {
    let all: BTreeSet<c_long> = roles.iter().flat_map(|(_, calls)| calls.keys().copied()).collect();
    let roles = roles.into_iter().map(|(name, calls)| Role { name, calls: named(&calls) });
    Process { name, calls: all.len(), promised, roles: roles.collect(), descriptors }
}

fn named(calls: &Calls) -> Vec<String> {
    let name = |(call, checked): (&c_long, &bool)| {
        let entry = u32::try_from(*call).ok().and_then(sentry::syscall::entry);
        let name = entry.map_or_else(|| call.to_string(), |entry| entry.name.to_owned());
        if *checked { name + "*" } else { name }
    };
    calls.iter().map(name).collect()
}

impl Report {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!("level: {}\n", self.level.text());
        for process in &self.processes {
            let Process { name, calls, promised, .. } = process;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}: {calls} system calls, at most {promised} promised");
            for Role { name, calls } in &process.roles {
                let _ = writeln!(text, "  {name} ({}): {}", calls.len(), calls.join(" "));
            }
            let kinds: Vec<&str> = process.descriptors.iter().map(|kind| kind.what).collect();
            let _ = writeln!(text, "  descriptors: {}", kinds.join("; "));
        }
        text.push_str("(*: not with every argument)\n");
        match self.missing.as_slice() {
            [] => text.push_str("every promise holds here\n"),
            missing => {
                let _ = writeln!(text, "does not hold here: {}", missing.join("; "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_process_may_make_more_calls_than_promised() {
        let report = report().unwrap();
        for process in &report.processes {
            assert!(process.calls <= process.promised, "{}: {}", process.name, process.calls);
        }
        // What no thread may do, whatever its role.
        let never = [
            "socket",
            "connect",
            "bind",
            "open",
            "execve",
            "execveat",
            "fork",
            "vfork",
            "clone3",
            "chroot",
            "mount",
            "unshare",
            "setns",
            "kill",
            "bpf",
            "io_uring_setup",
            "process_vm_writev",
            "init_module",
        ];
        let made = report.processes.iter().flat_map(|p| &p.roles).flat_map(|role| &role.calls);
        for call in made {
            assert!(!never.contains(&call.trim_end_matches('*')), "{call}");
        }
        let text = report.text();
        assert!(text.contains("sandbox on kvm: ") && text.contains(" ioctl*"), "{text}");
    }
}
