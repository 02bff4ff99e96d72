//! Which hierarchies of cgroups a host has, where they are mounted, where this process is in them, and so where a
//! container's group goes: pure functions over what /proc says, as libcontainer's cgroups/utils.go reads it.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where everything is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// runc's controllers of version 1, in the order in which it goes through them. One without a mount is passed over.
const CONTROLLERS: [&str; 14] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "name=systemd",
];

/// A container's group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The controllers of the hierarchy, in version 1; none: it is one of version 2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The names from there on.
    pub names: Vec<String>,
}

/// A mounted hierarchy, and this process's group in it.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// As in [`Place`].
    controllers: Vec<String>,
    point: PathBuf,
    /// Below the mount point.
    own: Vec<String>,
}

/// Where a group of this path goes, as `mountinfo` and `cgroup` of /proc/self have it. `path`: `linux.cgroupsPath`, or
/// the container's id.
pub fn places(mountinfo: &str, cgroup: &str, path: &str) -> Vec<Place> {
    let hierarchies = hierarchies(mountinfo, cgroup);
    let inner = names(Path::new(path));
    let unified = is_unified(&hierarchies);
    let place = |hierarchy: Hierarchy| {
        let mut names = match Path::new(path).is_absolute() {
            true => Vec::new(),
            false => hierarchy.own,
        };
        // A group with processes in it gives no controllers to those below: version 2 takes the one beside.
        if unified {
            names.pop();
        }
        names.extend(inner.iter().cloned());
        Place { controllers: hierarchy.controllers, point: hierarchy.point, names }
    };
    hierarchies.into_iter().map(place).collect()
}

/// Whether version 2 is all there is.
fn is_unified(hierarchies: &[Hierarchy]) -> bool {
    hierarchies.iter().all(|hierarchy| hierarchy.controllers.is_empty())
}

/// Whether a host with these mounts has version 2 alone.
pub fn unified(mountinfo: &str) -> bool {
    let mut mounts = mountinfo.lines().filter_map(Mount::parse);
    mounts.rfind(|m| m.point == Path::new(ROOT)).is_some_and(|m| m.kind == "cgroup2")
}

/// The groups that this process is in, as `mountinfo` and `cgroup` of /proc/self have it.
pub fn own(mountinfo: &str, cgroup: &str) -> Vec<Place> {
    let place = |h: Hierarchy| Place { controllers: h.controllers, point: h.point, names: h.own };
    hierarchies(mountinfo, cgroup).into_iter().map(place).collect()
}

/// One for each hierarchy that counts.
fn hierarchies(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
    let v2 = |point: &Path| mounts.iter().rfind(|m| m.kind == "cgroup2" && m.point == point);
    // Whatever was mounted there last is what is seen.
    if let Some(top) = mounts.iter().rfind(|m| m.point == Path::new(ROOT))
        && top.kind == "cgroup2"
    {
        return top.hierarchy(cgroup, "").into_iter().collect();
    }
    let mut found: Vec<Hierarchy> = Vec::new();
    for controller in CONTROLLERS {
        let has = |mount: &&Mount<'_>| {
            mount.kind == "cgroup" && mount.options.split(',').any(|word| word == controller)
        };
        let usual = Path::new(ROOT).join(controller);
        let mount = mounts.iter().filter(has).rfind(|mount| mount.point == usual);
        let Some(mount) = mount.or_else(|| mounts.iter().find(has)) else { continue };
        if let Some(same) = found.iter_mut().find(|hierarchy| hierarchy.point == mount.point) {
            same.controllers.push(controller.to_owned());
        } else {
            found.extend(mount.hierarchy(cgroup, controller));
        }
    }
    // Both versions side by side: version 2 without controllers, for those who count on it.
    found.extend(v2(&Path::new(ROOT).join("unified")).and_then(|m| m.hierarchy(cgroup, "")));
    found
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (unescape(before.next()?), unescape(before.next()?));
        let mut after = after.split(' ');
        let kind = after.next()?;
        Some(Mount { root, point, kind, options: after.nth(1)? })
    }

    /// The hierarchy of this controller; empty: version 2.
    fn hierarchy(&self, cgroup: &str, controller: &str) -> Option<Hierarchy> {
        let own = cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|name| name == controller).then_some(path)
        })?;
        // A process outside of what is mounted has no group there.
        let own = Path::new(own).strip_prefix(&self.root).ok()?;
        let controllers = match controller {
            "" => Vec::new(),
            name => vec![name.to_owned()],
        };
        Some(Hierarchy { controllers, point: self.point.clone(), own: names(own) })
    }
}

/// Names from the root on, without `.` and `..`, which lead nowhere above it.
fn names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// Spaces and the like are octal there.
fn unescape(text: &str) -> PathBuf {
    match text.contains('\\') {
        false => text.into(),
        true => {
            let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
            pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
        30 29 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        33 30 0:28 /outer /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "4:memory:/a/b\n3:name=systemd:/outer/x\n2:cpu,cpuacct:/\n0::/\n";

    fn list(places: &[Place]) -> Vec<String> {
        let show = |p: &Place| {
            format!("{} {} {}", p.controllers.join("+"), p.point.display(), p.names.join("/"))
        };
        places.iter().map(show).collect()
    }

    #[test]
    fn a_group_goes_into_every_hierarchy_of_version_1() {
        assert_eq!(
            list(&places(V1, OWN, "/k/../docker/./c")),
            [
                "memory /sys/fs/cgroup/memory docker/c",
                "cpu+cpuacct /sys/fs/cgroup/cpu,cpuacct docker/c",
                "name=systemd /sys/fs/cgroup/systemd docker/c",
                " /sys/fs/cgroup/unified docker/c",
            ]
        );
        // A relative one lies below the caller's own.
        assert_eq!(
            list(&places(V1, OWN, "../c"))[..3],
            [
                "memory /sys/fs/cgroup/memory a/b/c",
                "cpu+cpuacct /sys/fs/cgroup/cpu,cpuacct c",
                "name=systemd /sys/fs/cgroup/systemd x/c",
            ]
        );
    }

    #[test]
    fn version_2_takes_the_group_beside_the_caller_s() {
        let mounts = "30 29 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(list(&places(mounts, "0::/u/s\n", "c")), [" /sys/fs/cgroup u/c"]);
        assert_eq!(list(&places(mounts, "0::/u/s\n", "/p/c")), [" /sys/fs/cgroup p/c"]);
        assert_eq!(list(&places(mounts, "0::/\n", "c")), [" /sys/fs/cgroup c"]);
        assert_eq!(list(&own(mounts, "0::/u/s\n")), [" /sys/fs/cgroup u/s"]);
    }

    #[test]
    fn without_a_mount_there_is_no_place() {
        assert_eq!(places("30 29 0:25 / / rw - ext4 /dev/vda rw\n", "0::/\n", "c"), []);
        assert_eq!(places("", "", "/c"), []);
        assert_eq!(places("nonsense", "more", "/c"), []);
    }
}
