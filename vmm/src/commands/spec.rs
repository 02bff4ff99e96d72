//! `spec`: a config.json to start from, the same as runc's.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

use crate::cli;
use crate::reason::reason;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// runc does not overwrite one either.
    #[error("{}: exists already; remove it first", .0.display())]
    Exists(PathBuf),
    /// The file cannot be written.
    #[error("{}: {}", path.display(), reason(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The template does not parse: a defect of ours.
    #[error("spec template: {0}")]
    Template(#[from] serde_json::Error),
}

/// The file, tab-indented as runc writes it.
const TEMPLATE: &str = include_str!("spec.json");

/// Writes config.json.
pub fn run(args: &cli::Spec) -> Result<(), Error> {
    let folder = args.bundle.as_deref().unwrap_or(Path::new("."));
    let path = folder.join("config.json");
    let text = if args.rootless_spec {
        rootless(geteuid().as_raw(), getegid().as_raw())?
    } else {
        TEMPLATE.to_owned()
    };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(Error::Exists(path)),
        Err(source) => Err(Error::Write { path, source }),
    }
}

/// As runc's `spec --rootless`: a user namespace that maps root to the caller, no network namespace
/// of its own, /sys bound from the host, no cgroup limits, and no mount options that name other ids.
fn rootless(uid: u32, gid: u32) -> Result<String, serde_json::Error> {
    use serde_json::{Value, json};

    let mut spec: Value = serde_json::from_str(TEMPLATE)?;
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|n| n["type"] != "network" && n["type"] != "user");
        namespaces.push(json!({ "type": "user" }));
    }
    spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    spec["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|m| m["destination"] != "/sys" && m["destination"] != "/sys/fs/cgroup");
        for mount in mounts.iter_mut() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|o| {
                    o.as_str().is_none_or(|o| !o.starts_with("gid=") && !o.starts_with("uid="))
                });
            }
        }
        mounts.push(json!({
            "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }));
        mounts.push(json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        }));
    }
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(&spec, &mut serializer)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_variants_are_valid_specs() {
        for text in [TEMPLATE.to_owned(), rootless(1000, 1000).unwrap()] {
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.process().as_ref().unwrap().args().as_ref().unwrap(), &["sh"]);
        }
    }
}
