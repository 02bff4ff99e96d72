//! Containers that share a sandbox, as Kubernetes has them in a pod.
//!
//! Engines make a container for the pod first. containerd, CRI-O and Podman name it in an annotation of each that follows;
//! and whoever wants a container to share namespaces with another names these by the path that they have at the pid of the
//! process that stands for that one. Either way the new one is started in the sandbox of the other: it has a stand-in and a
//! gofer of its own, and its own root, mounts, processes and users inside; names of the host, System V objects, the network
//! and processes are those of the containers whose namespaces its configuration names. The sandbox ends with its last
//! container.
//!
//! Which container a path leads to is told by the pid in it and not by the namespace: a stand-in has none of its own but a
//! network, for the container's are the sentry's. A process of another start time than the stand-in's is not the stand-in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;
use sentry::control::Shares;

use crate::cgroup::Group;
use crate::config::{Join, joinable};
use crate::link::{self, Link};
use crate::protocol::{FromSandbox, Platform, ToSandbox};
use crate::state::{self, Process, Root, State, Status};

/// Annotations of containerd's CRI plugin, and of CRI-O: what the container is, and the pod's first container.
const ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container.
    #[error("container {0}, in whose sandbox this one is to be: {1}")]
    State(String, state::Error),
    /// The containers are not known.
    #[error("containers in whose sandbox this one could be: {0}")]
    States(state::Error),
    /// It has ended, or is not there yet.
    #[error("container {0}, in whose sandbox this one is to be, is {1}")]
    NotThere(String, &'static str),
    /// Its sandbox does not answer.
    #[error("sandbox of container {0}: {1}")]
    Link(String, link::Error),
    /// It is no container's.
    #[error(
        "config.json: linux.namespaces[{}].path: {}: not the {} namespace of a container that runs, and one of the host \
         cannot be joined: a container's is its sandbox's own",
        .0.index, .0.path.display(), .0.kind
    )]
    Foreign(Join),
    /// It is that of a container elsewhere.
    #[error(
        "config.json: linux.namespaces[{}].path: {}: the {} namespace of container {owner}, which is not in the sandbox of \
         container {pod}",
        .join.index, .join.path.display(), .join.kind
    )]
    Elsewhere {
        /// What was to be joined.
        join: Join,
        /// Whose it is.
        owner: String,
        /// A container of the sandbox that was found first.
        pod: String,
    },
    /// It was asked to run elsewhere.
    #[error("the sandbox of container {0} runs on {1}, not on {2}")]
    Platform(String, &'static str, &'static str),
}

/// The container in whose sandbox the container `id` is to be; `None`: in one of its own.
pub fn wanted(annotations: &HashMap<String, String>, id: &str) -> Option<String> {
    let of = |(kind, sandbox): &(&str, &str)| {
        let joins = annotations.get(*kind).is_some_and(|kind| kind == "container");
        annotations.get(*sandbox).filter(|other| joins && *other != id)
    };
    ANNOTATIONS.iter().find_map(of).cloned()
}

/// The sandbox of other containers, in which one is to be made.
#[derive(Debug)]
pub struct Pod {
    /// The container that was found in it.
    pub id: String,
    /// The container that it was made for.
    pub first: String,
    /// What it runs on.
    pub platform: Platform,
    /// The sandbox's process.
    pub sandbox: Option<Process>,
    /// The cgroups that this is in.
    pub group: Option<Group>,
    /// The sandbox's control socket.
    pub socket: PathBuf,
    /// To the sandbox.
    pub link: Link<ToSandbox, FromSandbox>,
}

impl Pod {
    /// The one in which a container is to be, and what it shares there; `None`: in one of its own. `first` is the container
    /// that annotations name, `joins` are the namespaces that the configuration does.
    ///
    /// The network alone is no reason: it is the stand-in's, which can be in any.
    pub fn find(
        root: &Root,
        first: Option<&str>,
        joins: &[Join],
    ) -> Result<Option<(Pod, Shares)>, Error> {
        let inside = |join: &&Join| join.kind != LinuxNamespaceType::Network;
        let reason = joins.iter().find(inside);
        if first.is_none() && reason.is_none() {
            return Ok(None);
        }
        let all = match joins {
            [] => Vec::new(),
            _ => root.list().map_err(Error::States)?,
        };
        let pod = match (first, reason) {
            (Some(id), _) => Pod::open(root, id, None)?,
            (None, Some(join)) => {
                let owner = owner(&all, join).ok_or_else(|| Error::Foreign(join.clone()))?;
                Pod::open(root, &owner.id, Some(owner.stand_in))?
            }
            (None, None) => return Ok(None),
        };
        let mut shares = Shares::default();
        for join in joins {
            let with = pod.owner(join, owner(&all, join), first.is_some())?;
            match join.kind {
                LinuxNamespaceType::Uts => shares.uts = with,
                LinuxNamespaceType::Ipc => shares.ipc = with,
                LinuxNamespaceType::Network => shares.net = with,
                LinuxNamespaceType::Pid => shares.pid = with,
                // Inside, all have the same.
                _ => {}
            }
        }
        Ok(Some((pod, shares)))
    }

    /// The sandbox of the container `id`, whose stand-in is to be this process.
    fn open(root: &Root, id: &str, stand_in: Option<Process>) -> Result<Pod, Error> {
        let failed = |e| Error::State(id.to_owned(), e);
        let folder = root.open(id, false).map_err(failed)?;
        let state = folder.read().map_err(failed)?;
        let status = state.status();
        let same = stand_in.is_none_or(|stand_in| stand_in == state.stand_in);
        if !same || !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(Error::NotThere(id.to_owned(), status.name()));
        }
        let link = Link::connect(&folder.socket());
        Ok(Pod {
            id: id.to_owned(),
            platform: state.platform(),
            sandbox: state.sandbox,
            group: if state.pod.is_some() { state.sandbox_cgroup } else { state.cgroup },
            first: state.pod.unwrap_or_else(|| id.to_owned()),
            socket: folder.socket_file(),
            link: link.map_err(|e| Error::Link(id.to_owned(), e))?,
        })
    }

    /// The container in this sandbox whose namespace that is, where it leads to the container `owner` or to none.
    fn owner(
        &self,
        join: &Join,
        owner: Option<&State>,
        annotated: bool,
    ) -> Result<Option<String>, Error> {
        match (owner, join.kind) {
            (Some(owner), _) if owner.sandbox == self.sandbox => Ok(Some(owner.id.clone())),
            (Some(_), LinuxNamespaceType::Network) => Ok(None),
            (Some(owner), _) => Err(Error::Elsewhere {
                join: join.clone(),
                owner: owner.id.clone(),
                pod: self.id.clone(),
            }),
            (None, LinuxNamespaceType::Pid) => Err(Error::Foreign(join.clone())),
            // The engine has made it for the pod, or kept it, and knows what it does.
            (None, _) if annotated => Ok(Some(self.id.clone())),
            (None, LinuxNamespaceType::Network) => Ok(None),
            (None, _) => Err(Error::Foreign(join.clone())),
        }
    }
}

/// The container whose stand-in this path names.
fn owner<'a>(all: &'a [State], join: &Join) -> Option<&'a State> {
    let pid = pid_of(&join.path, joinable(join.kind)?)?;
    all.iter().find(|state| state.stand_in.pid == pid && state.status() != Status::Stopped)
}

/// The process whose namespace of this kind a path is.
fn pid_of(path: &Path, kind: &str) -> Option<i32> {
    let (pid, file) = path.to_str()?.strip_prefix("/proc/")?.split_once("/ns/")?;
    (file == kind).then(|| pid.parse().ok()).flatten()
}

/// Whether other containers are in the sandbox of this one.
pub fn in_company(root: &Root, state: &State) -> bool {
    let here = |other: &State| other.id != state.id && is_in(other, state.sandbox);
    state.sandbox.is_some_and(Process::alive) && all(root).iter().any(here)
}

/// Takes away what is left of the sandbox of a container whose folder is gone: the cgroups that the sandbox was in, when
/// nobody is in it and they are nobody's. `own`: whether the container has left its own there.
pub fn sweep(root: &Root, state: &State, own: bool) {
    let group = match &state.pod {
        Some(_) => state.sandbox_cgroup.as_ref(),
        None => state.cgroup.as_ref().filter(|_| own),
    };
    let Some(group) = group else { return };
    // Another container may have been given the same.
    let keeps = |other: &State| is_in(other, state.sandbox) || other.cgroup.as_ref() == Some(group);
    if all(root).iter().any(keeps) {
        return;
    }
    if let Err(e) = group.remove() {
        crate::warning!("{e}");
    }
}

fn all(root: &Root) -> Vec<State> {
    root.list().unwrap_or_else(|e| {
        crate::warning!("{e}");
        Vec::new()
    })
}

/// Whether a container lives in this sandbox.
fn is_in(container: &State, sandbox: Option<Process>) -> bool {
    container.sandbox.is_some()
        && container.sandbox == sandbox
        && container.status() != Status::Stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_named_by_a_process() {
        assert_eq!(pid_of(Path::new("/proc/17/ns/pid"), "pid"), Some(17));
        for other in ["/proc/17/ns/ipc", "/proc/self/ns/pid", "/run/pidns/x", "proc/1/ns/pid"] {
            assert_eq!(pid_of(Path::new(other), "pid"), None, "{other}");
        }
    }

    #[test]
    fn annotations_name_the_sandbox_of_a_container_and_not_of_a_pod() {
        let wanted = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            super::wanted(&pairs.collect(), "own")
        };
        let [(kind, sandbox), (crio_kind, crio_sandbox)] = ANNOTATIONS;
        assert_eq!(wanted(&[(kind, "container"), (sandbox, "pod")]).as_deref(), Some("pod"));
        assert_eq!(wanted(&[(crio_kind, "container"), (crio_sandbox, "p")]).as_deref(), Some("p"));
        for own in [
            &[(kind, "sandbox"), (sandbox, "own")][..],
            &[(kind, "sandbox"), (sandbox, "pod")],
            &[(kind, "container")],
            &[(kind, "container"), (sandbox, "own")],
            &[(sandbox, "pod"), (crio_kind, "container")],
            &[],
        ] {
            assert_eq!(wanted(own), None, "{own:?}");
        }
    }
}
