//! What this machine can do: `ringwall check`, and the choice of `--platform=auto`.
//!
//! KVM is a platform where the [`probe`] finds a true ring 0; ptrace where [`ptrace()`] works. What
//! the probe measured is kept in a [`cache`] until the next boot; what costs nothing to find out (no
//! device, no permission) is looked at afresh each time.

pub mod cache;
pub mod probe;
pub mod ptrace;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

pub use probe::{KvmFinding, KvmProblem};
pub use ptrace::{PtraceFinding, PtraceProblem, ptrace};

/// A platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// A ring-0 guest.
    Kvm,
    /// Traced processes.
    Ptrace,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Platform::Kvm => "kvm",
            Platform::Ptrace => "ptrace",
        })
    }
}

/// What `--platform=auto` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The platform.
    pub platform: Platform,
    /// Why, in one line for the log.
    pub reason: String,
    /// Whether the verdict came from the cache.
    pub cached: bool,
}

/// Chooses a platform. Costs a file's reading where this boot has been probed before. That ptrace
/// works is not tried here: if it does not, its start says so with the message of [`ptrace()`].
pub fn auto() -> Choice {
    let (finding, cached) = kvm(true);
    choose(&finding, cached)
}

/// Whether KVM is a platform here, for `--platform=kvm`: the finding, and whether it was cached.
///
/// `use_cache`: whether a verdict of this boot will do. A new one is stored either way.
pub fn kvm(use_cache: bool) -> (KvmFinding, bool) {
    if let Some(problem) = unopenable() {
        return (KvmFinding::unmeasured(problem), false);
    }
    let folders = cache::folders();
    let key = cache::Key::here();
    if let (true, Some(key)) = (use_cache, &key)
        && let Some(finding) = cache::load(&folders, key)
    {
        return (finding, true);
    }
    let finding = probe::kvm();
    if let (Some(key), true) = (key, worth_keeping(&finding)) {
        // Without a folder to keep it in the next run probes again; nothing else is lost.
        let _no_folder = cache::store(&folders, key, &finding);
    }
    (finding, false)
}

/// A verdict that says something of the machine, and not of the moment.
fn worth_keeping(finding: &KvmFinding) -> bool {
    !matches!(
        finding.problem,
        Some(
            KvmProblem::NoDevice
                | KvmProblem::NoPermission
                | KvmProblem::Open(_)
                | KvmProblem::Setup(_)
                | KvmProblem::NotRun(_)
        )
    )
}

/// Why /dev/kvm does not open for this caller now, if it does not.
fn unopenable() -> Option<KvmProblem> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(e) => Some(match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmProblem::NoDevice,
            Some(libc::EACCES | libc::EPERM) => KvmProblem::NoPermission,
            _ => KvmProblem::Open(e.to_string()),
        }),
    }
}

fn choose(finding: &KvmFinding, cached: bool) -> Choice {
    let (platform, reason) = match &finding.problem {
        None => (Platform::Kvm, "ring 0 and system calls are real".into()),
        Some(problem) => (Platform::Ptrace, format!("not kvm: {problem}")),
    };
    Choice { platform, reason, cached }
}

/// All that `ringwall check` finds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What `auto` takes; `None`: nothing works here.
    pub auto: Option<Platform>,
    /// KVM.
    pub kvm: KvmFinding,
    /// ptrace.
    pub ptrace: PtraceFinding,
    /// Where the verdict is kept; `None`: nowhere.
    pub cache: Option<PathBuf>,
}

/// Probes everything afresh.
pub fn report() -> Report {
    let (kvm, _) = kvm(false);
    let ptrace = ptrace();
    let cache = cache::Key::here().and_then(|key| {
        cache::folders()
            .into_iter()
            .find(|folder| cache::load(std::slice::from_ref(folder), &key).is_some())
    });
    let auto = match (kvm.sane(), &ptrace.problem) {
        (true, _) => Some(Platform::Kvm),
        (false, None) => Some(Platform::Ptrace),
        (false, Some(_)) => None,
    };
    Report { auto, kvm, ptrace, cache }
}

impl Report {
    /// One JSON object.
    pub fn json(&self) -> String {
        // Plain data with string keys: nothing in it can fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let yes_no = |problem: Option<String>| match problem {
            None => "works".to_string(),
            Some(p) => format!("does not work: {p}"),
        };
        let kvm = yes_no(self.kvm.problem.as_ref().map(|p| p.to_string()));
        let ptrace = yes_no(self.ptrace.problem.as_ref().map(|p| p.to_string()));
        let auto = self.auto.map_or("nothing".to_string(), |platform| platform.to_string());
        let m = &self.kvm.measured;
        // Writing to a string does not fail.
        let _ = writeln!(text, "kvm     {kvm}");
        for (name, guest, native) in [
            ("one round of a loop", m.loop_ns, m.native_loop_ns),
            ("one system call", m.syscall_ns, m.native_syscall_ns),
        ] {
            if let (Some(guest), Some(native)) = (guest, native) {
                let _ = writeln!(
                    text,
                    "        {name}: {guest:.1} ns in the guest, {native:.1} ns natively"
                );
            }
        }
        if let Some(us) = m.create_us {
            let avx = if m.avx { "with" } else { "without" };
            let _ = writeln!(
                text,
                "        {avx} AVX; a bare virtual machine is made in {us} us; the probe took {} us",
                self.kvm.probe_us
            );
        }
        let _ = writeln!(text, "ptrace  {ptrace}");
        if let Some(scope) = self.ptrace.yama_scope {
            let _ = writeln!(text, "        kernel.yama.ptrace_scope is {scope}");
        }
        let _ = writeln!(text, "auto    {auto}");
        match &self.cache {
            Some(folder) => {
                let _ = writeln!(text, "        the verdict is kept in {}", folder.display());
            }
            None => text.push_str("        the verdict is not kept\n"),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_says_why() {
        let finding = KvmFinding::unmeasured(KvmProblem::Privilege { cs: 0x23 });
        let choice = choose(&finding, true);
        assert_eq!(choice.platform, Platform::Ptrace);
        assert!(choice.cached && choice.reason.contains("SYSCALL does not raise"));
        let sane = KvmFinding { problem: None, ..finding };
        assert_eq!(choose(&sane, false).platform, Platform::Kvm);
    }

    #[test]
    fn a_report_prints_both_ways() {
        let report = Report {
            auto: None,
            kvm: KvmFinding::unmeasured(KvmProblem::NoDevice),
            ptrace: PtraceFinding {
                problem: Some(PtraceProblem::SwitchedOff),
                yama_scope: Some(3),
            },
            cache: None,
        };
        assert!(report.text().contains("auto    nothing"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["kvm"]["problem"], "no_device");
    }
}
