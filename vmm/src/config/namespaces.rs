//! `linux.namespaces`, with what belongs to single ones: id mappings and time offsets.
//!
//! A container's namespaces are the sentry's, and always its own. One that the list leaves out is the host's with runc, and
//! the log says that here it is not. The network alone is something outside too: the stand-in is in it.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset, Spec};

use super::{IdRange, Invalid, Network};

/// What the list asks for.
#[derive(Debug)]
pub struct Asked {
    /// The network namespace of the process that stands for the container.
    pub network: Network,
    /// Those that have to be other containers'.
    pub joins: Vec<Join>,
}

/// A namespace that is named by a path, and so another container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Its index in the list.
    pub index: usize,
    /// Its kind: one that [`joinable`] knows.
    pub kind: LinuxNamespaceType,
    /// Its file.
    pub path: PathBuf,
}

/// What the file of a namespace that containers can share is called in `/proc/PID/ns`.
pub fn joinable(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Uts => Some("uts"),
        LinuxNamespaceType::Ipc => Some("ipc"),
        LinuxNamespaceType::Pid => Some("pid"),
        LinuxNamespaceType::Network => Some("net"),
        LinuxNamespaceType::Cgroup => Some("cgroup"),
        LinuxNamespaceType::Mount | LinuxNamespaceType::User | LinuxNamespaceType::Time => None,
    }
}

/// What is asked for; names in the log what the container does not share with the host although it should.
pub fn check(spec: &Spec) -> Result<Asked, Invalid> {
    let linux = spec.linux().as_ref();
    let mut network = Network::Host;
    let mut joins = Vec::new();
    let mut found = Vec::new();
    let all = linux.and_then(|linux| linux.namespaces().as_ref());
    for (index, namespace) in all.into_iter().flatten().enumerate() {
        let kind = namespace.typ();
        if found.contains(&kind) {
            let reason = format!("{} is there twice", name(kind));
            return Err(Invalid::new(format!("linux.namespaces[{index}].type"), reason));
        }
        found.push(kind);
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
        if kind == LinuxNamespaceType::Network {
            network = path.cloned().map_or(Network::New, Network::Joined);
        }
        let Some(path) = path.cloned() else { continue };
        if joinable(kind).is_none() {
            let reason = format!(
                "{}: a {kind} namespace of the host cannot be joined: a container's is its sandbox's own",
                path.display()
            );
            return Err(Invalid::new(format!("linux.namespaces[{index}].path"), reason));
        }
        joins.push(Join { index, kind, path });
    }
    let has = |kind| found.contains(&kind);
    if !has(LinuxNamespaceType::Uts) {
        // As with runc, which would change the host's.
        for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
            if name.as_ref().is_some_and(|name| !name.is_empty()) {
                return Err(Invalid::new(
                    field,
                    "cannot be set without a uts namespace of its own",
                ));
            }
        }
    }
    if !has(LinuxNamespaceType::Mount) {
        let listed =
            |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(|paths| !paths.is_empty());
        for (field, set) in [
            ("linux.maskedPaths", linux.is_some_and(|linux| listed(linux.masked_paths()))),
            ("linux.readonlyPaths", linux.is_some_and(|linux| listed(linux.readonly_paths()))),
        ] {
            if set {
                return Err(Invalid::new(field, "needs a mount namespace of its own"));
            }
        }
    }
    let mappings = [
        ("linux.uidMappings", linux.and_then(|linux| linux.uid_mappings().as_ref())),
        ("linux.gidMappings", linux.and_then(|linux| linux.gid_mappings().as_ref())),
    ];
    for (field, mapping) in mappings {
        let given = mapping.is_some_and(|mapping| !mapping.is_empty());
        if given && !has(LinuxNamespaceType::User) {
            crate::warning!(
                "config.json: {field} is not honoured without a user namespace in linux.namespaces"
            );
        } else if !given && has(LinuxNamespaceType::User) {
            return Err(Invalid::new(field, "must be there for a user namespace"));
        }
    }
    for kind in [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Network,
    ] {
        if !has(kind) {
            crate::warning!(
                "config.json: linux.namespaces: without {0}, the host's {0} namespace is asked for: the container has its own all the same",
                name(kind)
            );
        }
    }
    Ok(Asked { network, joins })
}

/// Its name in a configuration.
fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// The ranges of users and of groups of the container's user namespace; none without such a one.
pub fn id_maps(linux: Option<&Linux>) -> (Vec<IdRange>, Vec<IdRange>) {
    let listed = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let own = listed.map(|namespace| namespace.typ()).any(|kind| kind == LinuxNamespaceType::User);
    let Some(linux) = linux.filter(|_| own) else { return Default::default() };
    let ranges = |mapping: &Option<Vec<LinuxIdMapping>>| {
        let range = |range: &LinuxIdMapping| (range.container_id(), range.host_id(), range.size());
        mapping.iter().flatten().map(range).collect()
    };
    (ranges(linux.uid_mappings()), ranges(linux.gid_mappings()))
}

/// Nanoseconds by which the container's monotonic and boottime clocks are ahead.
pub fn clocks_ahead(linux: Option<&Linux>) -> Result<Option<(i64, i64)>, Invalid> {
    let Some(offsets) = linux.and_then(|linux| linux.time_offsets().as_ref()) else {
        return Ok(None);
    };
    let listed = linux.and_then(|linux| linux.namespaces().as_ref());
    let timed = |kind: LinuxNamespaceType| kind == LinuxNamespaceType::Time;
    if !listed.into_iter().flatten().any(|namespace| timed(namespace.typ())) {
        return Err(Invalid::new(
            "linux.timeOffsets",
            "needs a time namespace in linux.namespaces",
        ));
    }
    let mut ahead = (0, 0);
    for (clock, offset) in offsets {
        let field = || format!("linux.timeOffsets.{clock}");
        let place = match clock.as_str() {
            "monotonic" => &mut ahead.0,
            "boottime" => &mut ahead.1,
            _ => return Err(Invalid::new(field(), "not a clock of a time namespace")),
        };
        *place = nanoseconds(offset).ok_or_else(|| Invalid::new(field(), "out of range"))?;
    }
    Ok(Some(ahead))
}

fn nanoseconds(offset: &LinuxTimeOffset) -> Option<i64> {
    let rest = offset.nanosecs().unwrap_or(0);
    if rest >= 1_000_000_000 {
        return None;
    }
    offset.secs().unwrap_or(0).checked_mul(1_000_000_000)?.checked_add(rest.into())
}
