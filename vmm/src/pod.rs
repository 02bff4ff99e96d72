//! Containers that share a sandbox, as Kubernetes has them in a pod.
//!
//! containerd and CRI-O make a container for the pod first, and name it in an annotation of each that follows. Such a one is
//! started in the sandbox of the first: it has a stand-in and a gofer of its own, and its own root, mounts, processes and
//! users inside; names of the host, System V objects and the network are the pod's where its configuration says so, and the
//! processes are seen by those of the container whose pid namespace it names. The sandbox, and all that is in it, ends with
//! the first container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::link::{self, Link};
use crate::protocol::{FromSandbox, Platform, ToSandbox};
use crate::state::{self, Process, Root, Status};

/// Annotations of containerd's CRI plugin, and of CRI-O: what the container is, and the pod's first container.
const ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container.
    #[error("annotations: container {0}, in whose sandbox this one is to be: {1}")]
    State(String, state::Error),
    /// It has ended, or is not there yet.
    #[error("annotations: container {0}, in whose sandbox this one is to be, is {1}")]
    NotThere(String, &'static str),
    /// Its sandbox does not answer.
    #[error("sandbox of container {0}: {1}")]
    Link(String, link::Error),
    /// It is no container's that is in the sandbox.
    #[error(
        "config.json: linux.namespaces: {0}: not the pid namespace of a container in the sandbox of {1}, and one of the host \
         cannot be joined"
    )]
    PidNamespace(PathBuf, String),
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

/// A pod that has a sandbox.
#[derive(Debug)]
pub struct Pod {
    /// Its first container.
    pub id: String,
    /// What it runs on.
    pub platform: Platform,
    /// The process that stands for it on the host.
    stand_in: Process,
    /// The sandbox's process.
    pub sandbox: Option<Process>,
    /// The sandbox's control socket.
    pub socket: PathBuf,
    /// To the sandbox.
    pub link: Link<ToSandbox, FromSandbox>,
}

impl Pod {
    /// The pod whose first container is `id`.
    pub fn find(root: &Root, id: &str) -> Result<Pod, Error> {
        let failed = |e| Error::State(id.to_owned(), e);
        let folder = root.open(id, false).map_err(failed)?;
        let state = folder.read().map_err(failed)?;
        let status = state.status();
        if !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(Error::NotThere(id.to_owned(), status.name()));
        }
        let link = Link::connect(&folder.socket());
        Ok(Pod {
            id: id.to_owned(),
            platform: state.platform(),
            stand_in: state.stand_in,
            sandbox: state.sandbox,
            socket: folder.socket_file(),
            link: link.map_err(|e| Error::Link(id.to_owned(), e))?,
        })
    }

    /// The container of the pod whose pid namespace `path` names: that of the process that stands for it.
    pub fn with_pid_namespace(&self, root: &Root, path: &Path) -> Result<String, Error> {
        let unknown = || Error::PidNamespace(path.to_owned(), self.id.clone());
        let pid = pid_of(path).ok_or_else(unknown)?;
        if self.stand_in.pid == pid {
            return Ok(self.id.clone());
        }
        let all = root.list().map_err(|e| Error::State(self.id.clone(), e))?;
        let here = |state: &state::State| state.pod.as_ref() == Some(&self.id);
        let found = all.into_iter().find(|state| {
            here(state) && state.stand_in.pid == pid && state.status() != Status::Stopped
        });
        found.map(|state| state.id).ok_or_else(unknown)
    }
}

/// The process whose pid namespace this path is.
fn pid_of(path: &Path) -> Option<i32> {
    path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/pid")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_namespace_is_named_by_a_process() {
        assert_eq!(pid_of(Path::new("/proc/17/ns/pid")), Some(17));
        for other in ["/proc/17/ns/ipc", "/proc/self/ns/pid", "/run/pidns/x", "proc/1/ns/pid"] {
            assert_eq!(pid_of(Path::new(other)), None, "{other}");
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
