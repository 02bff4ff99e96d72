//! The container of `do`: the host's root under an overlay in memory, and the caller's directory,
//! user, environment and limits.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::Path;

use nix::libc;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid, getgroups, gethostname};
use sentry::control::{
    Capabilities, ContainerSpec, Limits, MountSource, MountSpec, ProcessSpec, RootSpec,
};

use crate::config::{Attach, Container, Network, capabilities, devices};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The current directory has been removed, or cannot be named.
    #[error("current directory: {0}")]
    Directory(std::io::Error),
    /// The current directory is not UTF-8.
    #[error("current directory: not UTF-8")]
    DirectoryText,
    /// The host's root.
    #[error("/: {0}")]
    Root(std::io::Error),
    /// The caller's groups.
    #[error("groups: {0}")]
    Groups(nix::errno::Errno),
}

/// File systems of the sentry's own, over the host's: destination, type, data, flags.
const MOUNTS: [(&str, &str, &str, u64); 5] = [
    ("/proc", "proc", "", 2 | 4 | 8),
    ("/sys", "sysfs", "", 1 | 2 | 4 | 8),
    ("/dev", "devtmpfs", "mode=755", 2),
    ("/dev/pts", "devpts", "mode=0620,ptmxmode=0666,gid=5", 2 | 8),
    ("/dev/shm", "tmpfs", "mode=1777", 2 | 4),
];

/// What `do` runs.
pub fn container(id: &str, command: &[String]) -> Result<Container, Error> {
    let cwd = std::env::current_dir().map_err(Error::Directory)?;
    let cwd = cwd.to_str().ok_or(Error::DirectoryText)?.to_owned();
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => env.push(format!("{name}={value}")),
            _ => crate::warning!("environment: {} is not UTF-8, and left out", name.display()),
        }
    }
    let groups = getgroups().map_err(Error::Groups)?;
    let mask = umask(Mode::empty());
    umask(mask);
    let root = geteuid().is_root();
    let all = if root { capabilities::ALL } else { 0 };
    let mounts = MOUNTS.map(|(destination, fstype, data, flags)| MountSpec {
        destination: destination.to_owned(),
        source: MountSource::Internal {
            fstype: fstype.to_owned(),
            source: fstype.to_owned(),
            data: data.to_owned(),
        },
        flags,
        propagation: Vec::new(),
        copy_up: false,
    });
    let hostname = gethostname().ok().and_then(|name| name.into_string().ok());
    Ok(Container {
        spec: ContainerSpec {
            id: id.to_owned(),
            hostname: hostname.unwrap_or_default(),
            domainname: String::new(),
            root: RootSpec {
                gofer: 0,
                attach: "root".into(),
                readonly: false,
                overlay: true,
                shared: false,
            },
            mounts: mounts.into(),
            masked: Vec::new(),
            readonly: Vec::new(),
            process: ProcessSpec {
                program: None,
                args: command.to_vec(),
                env,
                cwd,
                uid: geteuid().as_raw(),
                gid: getegid().as_raw(),
                groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
                umask: Some(mask.bits()),
                capabilities: Capabilities {
                    effective: all,
                    permitted: all,
                    inheritable: 0,
                    bounding: capabilities::ALL,
                    ambient: 0,
                },
                no_new_privs: false,
                oom_score_adj: None,
                io_priority: None,
                scheduler: None,
                rlimits: rlimits(),
                stdio: [None; 3],
                preserved: Vec::new(),
                terminal: std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
                window: None,
            },
            limits: Limits::default(),
            devices: Vec::new(),
            device_rules: vec![devices::ANY],
            personality: 0,
            shares: None,
            clocks_ahead: None,
            uid_map: Vec::new(),
            gid_map: Vec::new(),
            sysctl: Vec::new(),
            seccomp: None,
            strace: false,
        },
        attaches: vec![Attach::open("root", "/".into(), true).map_err(Error::Root)?],
        bundle: Path::new("/").to_owned(),
        rootfs: Path::new("/").to_owned(),
        oci_version: "1.2.0".into(),
        annotations: HashMap::new(),
        hooks: None,
        network: Network::Host,
        pod: None,
        joins: Vec::new(),
        cgroup: None,
        uid_map: Vec::new(),
        gid_map: Vec::new(),
    })
}

/// The caller's limits; there are 16 (asm-generic/resource.h).
fn rlimits() -> Vec<(u32, u64, u64)> {
    let mut limits = Vec::new();
    for number in 0..16 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes a limit there.
        if unsafe { libc::getrlimit(number, &mut limit) } == 0 {
            limits.push((number, limit.rlim_cur, limit.rlim_max));
        }
    }
    limits
}
