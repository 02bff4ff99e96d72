//! From the words of a `config.json` to those of the sentry.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxPersonality, LinuxPersonalityDomain, PosixRlimitType, Process, Spec,
};
use sentry::control::{ContainerSpec, Limits, ProcessSpec, RootSpec};

use super::{
    Attach, Container, Invalid, capabilities, devices, limits, mounts, namespaces, priority,
    seccomp, sysctl,
};
use crate::hooks::{Hook, Hooks};
use crate::{cgroup, pod};

/// What can go wrong.
pub enum Error {
    /// A value makes no sense.
    Invalid(Invalid),
    /// A folder cannot be used.
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Error {
        Error::Invalid(invalid)
    }
}

/// The container of a checked specification.
pub fn container(spec: &Spec, bundle: &Path, id: &str) -> Result<Container, Error> {
    let root = spec.root().as_ref().ok_or_else(|| Invalid::new("root", "must be there"))?;
    let readonly = root.readonly().unwrap_or(false);
    let path = bundle.join(root.path());
    let root = Attach::open("root", path.clone(), readonly)
        .and_then(|root| match root.directory {
            true => root.canonical(),
            false => Err(std::io::ErrorKind::NotADirectory.into()),
        })
        .map_err(|source| Error::Io { what: "root.path", path, source })?;
    let rootfs = root.path.clone();
    let mut attaches = vec![root];
    let mut mount_specs = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let (mount, attach) = mounts::mount(index, mount, bundle)?;
        mount_specs.push(mount);
        attaches.extend(attach);
    }
    let process =
        spec.process().as_ref().ok_or_else(|| Invalid::new("process", "must be there"))?;
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    // What it is for lies outside: which of the host's mounts a container's namespace goes on hearing of. runc's
    // containers too find their root private whatever it says.
    if let Some(word) = linux.and_then(|linux| linux.rootfs_propagation().as_deref())
        && !word.is_empty()
        && mounts::propagation(word).is_none()
    {
        let reason = format!("{word:?} is not supported");
        return Err(Invalid::new("linux.rootfsPropagation", reason).into());
    }
    let annotations = spec.annotations().clone().unwrap_or_default();
    let pod = pod::wanted(&annotations, id);
    let namespaces::Asked { network, joins } = namespaces::check(spec)?;
    let (uid_map, gid_map) = namespaces::id_maps(linux);
    Ok(Container {
        spec: ContainerSpec {
            id: id.to_owned(),
            hostname: spec.hostname().clone().unwrap_or_default(),
            domainname: spec.domainname().clone().unwrap_or_default(),
            root: RootSpec {
                gofer: 0,
                attach: "root".into(),
                readonly,
                overlay: false,
                shared: false,
            },
            mounts: mount_specs,
            masked: linux.and_then(|linux| linux.masked_paths().clone()).unwrap_or_default(),
            readonly: linux.and_then(|linux| linux.readonly_paths().clone()).unwrap_or_default(),
            process: self::process(process)?,
            limits: resources.map_or(Limits::default(), |r| limits::merge(Limits::default(), r)),
            devices: devices::nodes(linux)?,
            device_rules: devices::rules(linux)?,
            personality: linux
                .and_then(|linux| linux.personality().as_ref())
                .map_or(0, personality),
            shares: None,
            clocks_ahead: namespaces::clocks_ahead(linux)?,
            uid_map: uid_map.clone(),
            gid_map: gid_map.clone(),
            sysctl: sysctl::all(linux.and_then(|linux| linux.sysctl().as_ref()))?,
            seccomp: linux
                .and_then(|linux| linux.seccomp().as_ref())
                .map(seccomp::compile)
                .transpose()?,
            strace: false,
        },
        attaches,
        bundle: bundle.to_owned(),
        rootfs,
        oci_version: spec.version().clone(),
        annotations,
        pod,
        joins,
        hooks: hooks(spec)?,
        network,
        cgroup: Some(cgroup(linux)),
        uid_map,
        gid_map,
    })
}

/// What personality(2) takes.
fn personality(personality: &LinuxPersonality) -> u32 {
    for flag in personality.flags().iter().flatten() {
        // runc knows none either.
        crate::warning!("config.json: linux.personality.flags: {flag} is not honoured");
    }
    match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

/// All hooks; `None` where there are none.
fn hooks(spec: &Spec) -> Result<Option<Hooks>, Invalid> {
    let Some(hooks) = spec.hooks() else { return Ok(None) };
    let list = |kind: &str, hooks: Option<&Vec<oci_spec::runtime::Hook>>| {
        let one = |(index, hook): (usize, &oci_spec::runtime::Hook)| {
            let invalid = |field: &str, why: &str| {
                Invalid::new(format!("hooks.{kind}[{index}].{field}"), why)
            };
            if !hook.path().is_absolute() {
                return Err(invalid("path", "must be an absolute path"));
            }
            let timeout = match hook.timeout() {
                None => None,
                Some(seconds @ 1..) => Some(seconds as u64),
                Some(_) => return Err(invalid("timeout", "must be greater than zero")),
            };
            Ok(Hook {
                path: hook.path().clone(),
                args: hook.args().clone().unwrap_or_default(),
                env: hook.env().clone(),
                timeout,
            })
        };
        hooks.into_iter().flatten().enumerate().map(one).collect::<Result<Vec<_>, _>>()
    };
    #[allow(deprecated)] // engines still set it
    let prestart = hooks.prestart().as_ref();
    let hooks = Hooks {
        prestart: list("prestart", prestart)?,
        create_runtime: list("createRuntime", hooks.create_runtime().as_ref())?,
        create_container: list("createContainer", hooks.create_container().as_ref())?,
        start_container: list("startContainer", hooks.start_container().as_ref())?,
        poststart: list("poststart", hooks.poststart().as_ref())?,
        poststop: list("poststop", hooks.poststop().as_ref())?,
    };
    Ok(Some(hooks).filter(|hooks| *hooks != Hooks::default()))
}

/// What is asked for the container's cgroup.
fn cgroup(linux: Option<&Linux>) -> cgroup::Wanted {
    let path = linux.and_then(|linux| linux.cgroups_path().as_ref());
    cgroup::Wanted {
        path: path.map(|path| path.to_string_lossy().into_owned()),
        resources: linux.and_then(|linux| linux.resources().clone()).unwrap_or_default(),
        rootless: false,
        systemd: None,
    }
}

pub fn process(process: &Process) -> Result<ProcessSpec, Invalid> {
    let user = process.user();
    let mut rlimits: Vec<(u32, u64, u64)> = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let number = rlimit(limit.typ());
        if rlimits.iter().any(|(other, ..)| *other == number) {
            let reason = format!("{} is there twice", limit.typ());
            return Err(Invalid::new(format!("process.rlimits[{index}]"), reason));
        }
        if limit.soft() > limit.hard() {
            let reason = "soft is greater than hard";
            return Err(Invalid::new(format!("process.rlimits[{index}]"), reason));
        }
        rlimits.push((number, limit.soft(), limit.hard()));
    }
    let cwd = process.cwd().to_str().ok_or_else(|| Invalid::new("process.cwd", "not UTF-8"))?;
    Ok(ProcessSpec {
        program: None,
        args: process.args().clone().unwrap_or_default(),
        env: environment(process.env().iter().flatten()),
        cwd: cwd.to_owned(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities::sets(process.capabilities().as_ref()),
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: priority::oom_score_adj(process.oom_score_adj())?,
        io_priority: process.io_priority().as_ref().map(priority::io_priority).transpose()?,
        scheduler: process.scheduler().as_ref().map(priority::scheduler).transpose()?,
        rlimits,
        stdio: [None; 3],
        preserved: Vec::new(),
        terminal: process.terminal().unwrap_or(false),
        window: process.console_size().and_then(|size| {
            let side = |n: u64| u16::try_from(n).ok().filter(|n| *n > 0);
            Some((side(size.height())?, side(size.width())?))
        }),
    })
}

/// Of two variables with one name the later one counts, in the place of the first, as in runc.
fn environment<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    fn name(variable: &str) -> &str {
        variable.split_once('=').map_or(variable, |(name, _)| name)
    }
    let mut places = HashMap::new();
    let mut made: Vec<String> = Vec::new();
    for variable in all {
        let place = *places.entry(name(variable)).or_insert(made.len());
        match made.get_mut(place) {
            Some(earlier) => earlier.clone_from(variable),
            None => made.push(variable.clone()),
        }
    }
    made
}

/// The number of a limit (asm-generic/resource.h).
fn rlimit(limit: PosixRlimitType) -> u32 {
    match limit {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_variable_of_a_name_counts() {
        let all = ["A=1", "B=2", "A=3", "C", "B="].map(str::to_owned);
        assert_eq!(environment(all.iter()), ["A=3", "B=", "C"]);
    }

    #[test]
    fn the_default_configuration_becomes_a_container() {
        let folder = std::env::temp_dir().join(format!("ringwall-config-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("rootfs")).unwrap();
        let spec: Spec = serde_json::from_str(include_str!("../commands/spec.json")).unwrap();
        let Ok(made) = container(&spec, &folder, "c") else { panic!("not translated") };
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(made.spec.process.rlimits, [(7, 1024, 1024)]);
        assert_eq!(made.spec.process.capabilities.ambient, 1 << 29 | 1 << 5 | 1 << 10);
        assert_eq!(made.spec.mounts.len(), 7);
        assert_eq!(made.attaches.len(), 1);
        assert!(made.spec.root.readonly && made.spec.process.terminal);
        let Err(Error::Io { what, .. }) = container(&spec, &folder, "c") else {
            panic!("a root that is not there")
        };
        assert_eq!(what, "root.path");
    }
}
