//! Capabilities by name and number.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use sentry::control::Capabilities;

/// Names in the order of their numbers (linux/capability.h), without `CAP_`.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All of them.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The sets of a process; none where the configuration names none.
pub fn sets(sets: Option<&LinuxCapabilities>) -> Capabilities {
    let Some(sets) = sets else {
        return Capabilities::default();
    };
    Capabilities {
        effective: mask(sets.effective().as_ref()),
        permitted: mask(sets.permitted().as_ref()),
        inheritable: mask(sets.inheritable().as_ref()),
        bounding: mask(sets.bounding().as_ref()),
        ambient: mask(sets.ambient().as_ref()),
    }
}

fn mask(set: Option<&HashSet<Capability>>) -> u64 {
    let mut mask = 0;
    for capability in set.into_iter().flatten() {
        let name = capability.to_string();
        if let Some(number) = NAMES.iter().position(|known| *known == name) {
            mask |= 1 << number;
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_that_can_be_named_has_a_number() {
        for (number, name) in NAMES.iter().enumerate() {
            let json = format!("[\"CAP_{name}\"]");
            let set: HashSet<Capability> = serde_json::from_str(&json).unwrap();
            assert_eq!(mask(Some(&set)), 1 << number, "{name}");
        }
    }
}
