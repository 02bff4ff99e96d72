//! `linux.sysctl`: those that belong to a namespace, as runc allows them.

use std::collections::HashMap;

use super::Invalid;

/// Of a namespace of IPC (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Paths below /proc/sys, and values, in the order of the names. Those of a network are named in the log: a container has
/// none yet.
pub fn all(sysctl: Option<&HashMap<String, String>>) -> Result<Vec<(String, String)>, Invalid> {
    let mut all = Vec::new();
    for (name, value) in sysctl.into_iter().flatten() {
        let field = || format!("linux.sysctl.{name}");
        // Either may separate.
        let name = name.replace('/', ".");
        if name.starts_with("net.") {
            crate::warning!("config.json: {} is not honoured: there is no network yet", field());
        } else if name == "kernel.hostname" {
            return Err(Invalid::new(field(), "conflicts with hostname"));
        } else if IPC.contains(&name.as_str())
            || name == "kernel.domainname"
            || name.starts_with("fs.mqueue.")
        {
            all.push((name.replace('.', "/"), value.clone()));
        } else {
            // runc's words.
            return Err(Invalid::new(field(), "is not in a separate kernel namespace"));
        }
    }
    all.sort_unstable();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_namespaces_are_taken() {
        let all = |names: &[&str]| {
            let map = names.iter().map(|name| (name.to_string(), "1".to_owned())).collect();
            all(Some(&map)).map_err(|e| e.to_string())
        };
        let taken =
            all(&["fs.mqueue.msg_max", "kernel/domainname", "net.ipv4.ip_forward"]).unwrap();
        let names: Vec<&str> = taken.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fs/mqueue/msg_max", "kernel/domainname"]);
        for (name, expected) in [
            ("vm.swappiness", "linux.sysctl.vm.swappiness: is not in a separate"),
            ("kernel.hostname", "linux.sysctl.kernel.hostname: conflicts"),
            ("kernel.shmmaxx", "linux.sysctl.kernel.shmmaxx: is not in"),
        ] {
            let error = all(&[name]).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
