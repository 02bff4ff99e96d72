//! Containers that come to a sandbox that runs: each over a link of its own, whose other end is its stand-in.

use std::os::fd::{OwnedFd, RawFd};

use sentry::control::{Call, ContainerSpec, MountSource};
use sentry::platform::ChannelId;

use super::{Container, Error, Supervisor, named, number};
use crate::host::{Host, Linux};
use crate::protocol::SandboxFd;

/// Most containers that are in a sandbox at once, ended ones too. Kubernetes starts fewer in a pod.
const MAX: usize = 1024;

/// One that the sentry has been asked for and has not answered about.
pub(super) struct Joining {
    pub number: u64,
    pub id: String,
}

impl Supervisor<'_> {
    /// Has the sentry make a container for a client, which is its stand-in from then on.
    pub(super) fn join(
        &mut self,
        fd: RawFd,
        mut spec: ContainerSpec,
        roles: &[SandboxFd],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let count = |role| roles.iter().filter(|r| **r == role).count();
        let (gofers, streams) = (count(SandboxFd::Gofer), count(SandboxFd::Stream));
        let busy = fd == self.stand_in_fd()
            || self.execs.of(fd).is_some()
            || self.containers.values().any(|container| container.stand_in == Some(fd));
        let refusal = if busy {
            Some("one container over a link")
        } else if self.containers.contains_key(&spec.id) {
            Some("a container of this name is in the sandbox")
        } else if self.closing {
            Some("the sandbox ends")
        } else if self.containers.len() >= MAX {
            Some("the sandbox has too many containers")
        } else if roles.len() != fds.len() || gofers != 1 || gofers + streams != fds.len() {
            Some("a container needs a file server and its streams, and nothing else")
        } else if named(&spec.process).any(|n| n.0 as usize >= streams) {
            Some("a stream without its descriptor")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.refuse(fd, refusal);
            return Ok(());
        }
        let (file_servers, streams): (Vec<_>, Vec<_>) =
            roles.iter().zip(fds).partition(|(role, _)| **role == SandboxFd::Gofer);
        let streams = streams.into_iter().map(|(_, stream)| stream).collect();
        let Some(given) = self.take_streams(fd, streams) else { return Ok(()) };
        let file_server =
            file_servers.into_iter().map(|(_, socket)| self.machine.add_gofer(socket)).next();
        let Some(ChannelId::Gofer(gofer)) = file_server else {
            self.remove_streams(&given);
            self.refuse(fd, "no file server can be added");
            return Ok(());
        };
        number(&mut spec.process, &given);
        spec.root.gofer = gofer;
        for mount in &mut spec.mounts {
            if let MountSource::Gofer { gofer: of, .. } = &mut mount.source {
                *of = gofer;
            }
        }
        let id = spec.id.clone();
        match self.ask(Some(fd), Call::Create(Box::new(spec)))? {
            Some(number) => {
                // Whether anybody is left is for this process to say from now on.
                if let Err(e) = Linux.live_without_parent() {
                    crate::warning!("the sandbox will end with its first container: {e}");
                }
                let container = Container { stand_in: Some(fd), ended: false, streams: given };
                self.containers.insert(id.clone(), container);
                self.joining.push(Joining { number, id });
            }
            None => self.remove_streams(&given),
        }
        Ok(())
    }

    /// The sentry has answered a request: one for a container that could not be made leaves nothing behind.
    pub(super) fn joined(&mut self, number: u64, made: bool) -> Result<(), Error> {
        let Some(at) = self.joining.iter().position(|joining| joining.number == number) else {
            return Ok(());
        };
        let Joining { id, .. } = self.joining.swap_remove(at);
        if made {
            // Its stand-in may have gone meanwhile.
            let orphan = self.containers.get(&id).is_some_and(|c| c.stand_in.is_none());
            return if orphan { self.end(id) } else { Ok(()) };
        }
        if let Some(container) = self.containers.remove(&id) {
            self.remove_streams(&container.streams);
        }
        self.is_over();
        Ok(())
    }

    /// Ends a container whose stand-in has gone. What is left of it goes when it has ended.
    pub(super) fn end(&mut self, id: String) -> Result<(), Error> {
        if self.joining.iter().any(|joining| joining.id == id) {
            return Ok(());
        }
        let call = match self.containers.get(&id) {
            Some(container) if !container.ended => {
                Call::Signal { id, pid: None, signal: 9, all: true }
            }
            Some(_) => {
                self.containers.remove(&id);
                Call::Delete { id }
            }
            None => return Ok(()),
        };
        self.ask(None, call).map(drop)
    }
}
