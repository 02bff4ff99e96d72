//! Mounts: the option words of a configuration, and what is mounted.

use std::path::{Component, Path};

use oci_spec::runtime::Mount;
use sentry::control::{MountSource, MountSpec};

use super::{Attach, Invalid};
use crate::reason::reason;

/// Words that set or clear MS_ flags of mount(2), as runc reads them.
const FLAGS: &[(&str, u64, bool)] = &[
    ("ro", 1, true),
    ("rw", 1, false),
    ("nosuid", 2, true),
    ("suid", 2, false),
    ("nodev", 4, true),
    ("dev", 4, false),
    ("noexec", 8, true),
    ("exec", 8, false),
    ("sync", 16, true),
    ("async", 16, false),
    ("mand", 64, true),
    ("nomand", 64, false),
    ("dirsync", 128, true),
    ("nodirsync", 128, false),
    ("nosymfollow", 256, true),
    ("symfollow", 256, false),
    ("lazytime", 1 << 25, true),
    ("nolazytime", 1 << 25, false),
    ("noatime", 1 << 10, true),
    ("atime", 1 << 10, false),
    ("nodiratime", 1 << 11, true),
    ("diratime", 1 << 11, false),
    ("relatime", 1 << 21, true),
    ("norelatime", 1 << 21, false),
    ("strictatime", 1 << 24, true),
    ("nostrictatime", 1 << 24, false),
    // Of all that is mounted below too, as the others are here: what a gofer serves is one mount inside.
    ("rro", 1, true),
    ("rrw", 1, false),
    ("rnosuid", 2, true),
    ("rsuid", 2, false),
    ("rnodev", 4, true),
    ("rdev", 4, false),
    ("rnoexec", 8, true),
    ("rexec", 8, false),
    ("rnosymfollow", 256, true),
    ("rsymfollow", 256, false),
    ("rnoatime", 1 << 10, true),
    ("ratime", 1 << 10, false),
    ("rnodiratime", 1 << 11, true),
    ("rdiratime", 1 << 11, false),
    ("rrelatime", 1 << 21, true),
    ("rnorelatime", 1 << 21, false),
    ("rstrictatime", 1 << 24, true),
    ("rnostrictatime", 1 << 24, false),
];

/// Words that change who hears of mounts below, as flags of mount(2).
const PROPAGATION: &[(&str, u64)] = &[
    ("private", 1 << 18),
    ("rprivate", 1 << 18 | REC),
    ("slave", 1 << 19),
    ("rslave", 1 << 19 | REC),
    ("shared", 1 << 20),
    ("rshared", 1 << 20 | REC),
    ("unbindable", 1 << 17),
    ("runbindable", 1 << 17 | REC),
];
/// MS_REC.
const REC: u64 = 1 << 14;

/// The flags of such a word, for `linux.rootfsPropagation` too.
pub fn propagation(word: &str) -> Option<u64> {
    PROPAGATION.iter().find(|(name, _)| *name == word).map(|(_, flags)| *flags)
}

/// Words that mean nothing inside: mounts there always include what is below.
const WITHOUT_MEANING: &[&str] =
    &["acl", "bind", "defaults", "iversion", "loud", "noacl", "noiversion", "rbind", "silent"];

/// Words that stand for something that is not done here, which the log names.
const NOT_HONOURED: &[&str] = &["idmap", "ridmap"];

/// Has a tmpfs filled with what it covers; as with runc, without meaning for anything else.
const COPY_UP: &str = "tmpcopyup";

/// File systems of the sentry's own.
const INTERNAL: &[&str] = &["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];

/// All option words, for `features`.
pub fn options() -> Vec<&'static str> {
    let mut words: Vec<&str> =
        FLAGS.iter().map(|(word, ..)| *word).chain(WITHOUT_MEANING.iter().copied()).collect();
    words.extend(PROPAGATION.iter().map(|(word, _)| *word));
    words.push(COPY_UP);
    words.sort_unstable();
    words
}

/// What one mount is for the sentry, and for the gofer where it serves it.
pub fn mount(
    index: usize,
    mount: &Mount,
    bundle: &Path,
) -> Result<(MountSpec, Option<Attach>), Invalid> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let destination = normal(mount.destination())
        .ok_or_else(|| Invalid::new(field("destination"), "not a path"))?;
    let mut flags = 0;
    let mut data = Vec::new();
    let mut spreads = Vec::new();
    let (mut bind, mut copy_up) = (false, false);
    let fstype = mount.typ().as_deref().unwrap_or_default();
    for option in mount.options().iter().flatten() {
        if let Some((_, flag, set)) = FLAGS.iter().find(|(word, ..)| word == option) {
            flags = if *set { flags | flag } else { flags & !flag };
        } else if let Some(flags) = propagation(option) {
            spreads.push(flags);
        } else if option == COPY_UP {
            copy_up = fstype == "tmpfs";
        } else if NOT_HONOURED.contains(&option.as_str()) {
            crate::warning!("config.json: {}: {option} is not honoured", field("options"));
        } else if WITHOUT_MEANING.contains(&option.as_str()) {
            bind |= option == "bind" || option == "rbind";
        } else {
            data.push(option.as_str());
        }
    }
    if bind || fstype == "bind" {
        if !data.is_empty() {
            // As runc, whose kernel passes over them.
            let words = data.join(",");
            crate::warning!("config.json: {}: {words} is not honoured", field("options"));
        }
        let source = mount
            .source()
            .as_ref()
            .ok_or_else(|| Invalid::new(field("source"), "must be there for a bind mount"))?;
        let path = bundle.join(source);
        // 0 is the root.
        let name = index.saturating_add(1).to_string();
        let attach = Attach::open(&name, path.clone(), flags & 1 != 0).map_err(|e| {
            Invalid::new(field("source"), format!("{}: {}", path.display(), reason(&e)))
        })?;
        let spec = MountSpec {
            destination,
            source: MountSource::Gofer {
                gofer: 0,
                attach: name,
                directory: attach.directory,
                overlay: false,
            },
            flags,
            propagation: spreads,
            copy_up: false,
        };
        return Ok((spec, Some(attach)));
    }
    match fstype {
        fstype if INTERNAL.contains(&fstype) => {}
        "" => return Err(Invalid::new(field("type"), "must be there")),
        fstype => {
            let reason = format!("file system type {fstype:?} is not known");
            return Err(Invalid::new(field("type"), reason));
        }
    }
    let spec = MountSpec {
        destination,
        source: MountSource::Internal {
            fstype: fstype.to_owned(),
            source: mount
                .source()
                .as_ref()
                .and_then(|source| source.to_str())
                .unwrap_or_default()
                .to_owned(),
            data: data.join(","),
        },
        flags,
        propagation: spreads,
        copy_up,
    };
    Ok((spec, None))
}

/// An absolute path without `.`, `..` and doubled slashes; a relative one is meant from the root, as
/// runc takes it.
pub fn normal(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().filter(|p| !p.contains('\0'))?),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if path.as_os_str().is_empty() {
        return None;
    }
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<(MountSpec, Option<Attach>), Invalid> {
        mount(3, &serde_json::from_str(json).unwrap(), Path::new("/"))
    }

    #[test]
    fn options_become_flags_and_data() {
        let (spec, _) = parse(
            r#"{"destination":"/dev/../dev/pts/","type":"devpts","source":"x",
                "options":["nosuid","noexec","exec","newinstance","mode=0620","gid=5"]}"#,
        )
        .unwrap();
        assert_eq!((spec.destination.as_str(), spec.flags), ("/dev/pts", 2));
        let MountSource::Internal { fstype, data, .. } = spec.source else {
            panic!("not internal")
        };
        assert_eq!((fstype.as_str(), data.as_str()), ("devpts", "newinstance,mode=0620,gid=5"));
    }

    #[test]
    fn binds_are_the_gofer_s() {
        let (spec, attach) =
            parse(r#"{"destination":"/e","type":"none","source":"etc","options":["rbind","rro","rnosuid"]}"#)
                .unwrap();
        let attach = attach.unwrap();
        assert_eq!((attach.name.as_str(), attach.read_only), ("4", true));
        assert_eq!(spec.flags, 3);
        assert!(matches!(spec.source, MountSource::Gofer { directory: true, .. }));
    }

    #[test]
    fn errors_name_the_mount() {
        for (json, expected) in [
            (r#"{"destination":"","type":"proc"}"#, "mounts[3].destination: not a path"),
            (r#"{"destination":"/x"}"#, "mounts[3].type: must be there"),
            (r#"{"destination":"/x","type":"zfs"}"#, "mounts[3].type: file system type \"zfs\""),
            (r#"{"destination":"/x","type":"bind","source":"/no/where"}"#, "mounts[3].source: /no"),
        ] {
            let got = parse(json).unwrap_err().to_string();
            assert!(got.starts_with(expected), "{got}");
        }
    }
}
