//! Which fields of a `config.json` are honoured. Everything else that is set is named in the log,
//! fields that a later version of the specification brings included.

use serde_json::Value;

/// Fields that are honoured, all that lies below one ending in `.*` included. `[]` is any element.
const HONOURED: &[&str] = &[
    "ociVersion",
    "process.terminal",
    "process.consoleSize.*",
    "process.user.uid",
    "process.user.gid",
    "process.user.umask",
    "process.user.additionalGids.*",
    "process.args.*",
    "process.env.*",
    "process.cwd",
    "process.capabilities.*",
    "process.rlimits.*",
    "process.oomScoreAdj",
    "process.ioPriority.*",
    "process.scheduler.*",
    "process.noNewPrivileges",
    "root.path",
    "root.readonly",
    "hostname",
    "domainname",
    "mounts[].destination",
    "mounts[].type",
    "mounts[].source",
    "mounts[].options.*",
    "annotations.*",
    "hooks.prestart.*",
    "hooks.createRuntime.*",
    "hooks.createContainer.*",
    "hooks.startContainer.*",
    "hooks.poststart.*",
    "hooks.poststop.*",
    "linux.uidMappings.*",
    "linux.gidMappings.*",
    // New ones are of the sentry's own, and the stand-in's of the network; joining another by `path` is an error.
    "linux.namespaces.*",
    "linux.cgroupsPath",
    "linux.resources.memory.limit",
    "linux.resources.memory.reservation",
    "linux.resources.memory.swap",
    "linux.resources.memory.swappiness",
    "linux.resources.memory.disableOOMKiller",
    "linux.resources.pids.limit",
    "linux.resources.cpu.*",
    "linux.resources.blockIO.*",
    "linux.resources.hugepageLimits.*",
    "linux.resources.network.*",
    "linux.resources.rdma.*",
    "linux.resources.unified.*",
    "linux.resources.devices.*",
    // What cannot be done of it is an error.
    "linux.seccomp.*",
    "linux.rootfsPropagation",
    // Those that are not there are named or refused where they are read.
    "linux.sysctl.*",
    "linux.devices.*",
    "linux.personality.domain",
    // Named where they are read.
    "linux.personality.flags.*",
    "linux.timeOffsets.*",
    "linux.maskedPaths.*",
    "linux.readonlyPaths.*",
];

/// The fields that are set and not honoured, in order, each once.
pub fn missing(config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", config, &mut found);
    found
}

fn walk(path: &str, value: &Value, found: &mut Vec<String>) {
    let honoured = |field: &str| field.strip_suffix(".*").unwrap_or(field) == path;
    if HONOURED.iter().any(|field| honoured(field)) {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{name}"), value, found);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                walk(&format!("{path}[]"), element, found);
            }
        }
        // As good as absent.
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        _ => {
            let path = path.to_owned();
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::missing;

    #[test]
    fn the_default_configuration_is_honoured_in_full() {
        let spec = serde_json::from_str(include_str!("../commands/spec.json")).unwrap();
        assert_eq!(missing(&spec), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_honoured_is_named_once() {
        let config = json!({
            "hooks": { "poststop": [{ "path": "/a" }], "later": [{ "path": "/a" }, { "path": "/b" }] },
            "process": { "apparmorProfile": "x", "selinuxLabel": "", "later": 5 },
            "linux": {
                "maskedPaths": ["/proc/kcore", "/secret"],
                "namespaces": [{ "type": "network", "path": "/run/netns/x" }],
                "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
                "intelRdt": { "closID": "x" },
            },
        });
        assert_eq!(
            missing(&config),
            [
                "hooks.later[].path",
                "linux.intelRdt.closID",
                "process.apparmorProfile",
                "process.later",
            ]
        );
    }
}
