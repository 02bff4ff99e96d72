//! The gofer: the process of a container that serves its files. It is told what to serve, opens that,
//! confines itself, and serves.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gofer::server::{self, Attach, Config};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::config;
use crate::hooks;
use crate::host::{self, Host};
use crate::link::{self, Link};
use crate::log;
use crate::node_maker;
use crate::protocol::{GoferFailure, GoferFd, GoferSetup, Users};
use crate::reason::reason;
use crate::spawn;
use crate::wall;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("link to the stand-in: {0}")]
    Link(#[from] link::Error),
    #[error("no client")]
    NoClient,
    #[error("{}: {}", path.display(), reason(source))]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{}: another file is there than when the configuration was read", .0.display())]
    Swapped(PathBuf),
    #[error("confinement: {0}")]
    Confine(#[from] server::ConfineError),
    #[error("user namespace: {0}")]
    Ids(Errno),
    #[error("standard error: {0}")]
    Streams(Errno),
    #[error("no root")]
    NoRoot,
    #[error("mounts for hooks: {0}")]
    Mounts(Errno),
    #[error("{0}")]
    Hook(#[from] hooks::Error),
    #[error("{0}")]
    Serve(#[from] server::ServeError),
}

/// What the process does.
pub fn main() -> ExitCode {
    let Some(link) = spawn::inherited_link() else {
        crate::error!("`gofer` is for ringwall itself");
        return ExitCode::FAILURE;
    };
    spawn::take_name(spawn::GOFER);
    let link: Link<GoferFailure, GoferSetup> = Link::new(link);
    // Its client learns that it has failed once the reason is told.
    let mut client = None;
    match prepare(&link, &mut client).and_then(|config| Ok(server::run(config)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Link(link::Error::Closed)) => ExitCode::FAILURE,
        Err(e) => {
            crate::debug!("{e}");
            // The stand-in reports it, if it is still there.
            let _gone = link.send(&GoferFailure(e.to_string()), &[]);
            ExitCode::FAILURE
        }
    }
}

fn prepare(
    link: &Link<GoferFailure, GoferSetup>,
    client: &mut Option<OwnedFd>,
) -> Result<Config, Error> {
    let (setup, fds) = link.receive()?;
    let (mut log, mut debug_log, mut files) = (None, None, Vec::new());
    for (role, fd) in setup.fds.iter().zip(fds) {
        let slot = match role {
            GoferFd::Log => &mut log,
            GoferFd::DebugLog => &mut debug_log,
            GoferFd::Client => &mut *client,
            GoferFd::Attach => {
                files.push(fd);
                continue;
            }
        };
        *slot = Some(fd);
    }
    let left = setup.terminal && log.is_some();
    log::init(setup.log, log, debug_log);
    if left {
        spawn::leave_standard_error().map_err(Error::Streams)?;
    }
    if setup.users == Users::Container {
        // Whoever started it is nobody there, and makes no files.
        host::Linux.set_ids(0, 0).map_err(Error::Ids)?;
    }
    // Born into a mount namespace, or in one for hooks, it has no use for the descriptors of its caller's mounts.
    let mut here = setup.bare || matches!(setup.users, Users::Later { .. });
    let mut root = None;
    if !setup.hooks.is_empty() {
        let first = setup.attaches.first().ok_or(Error::NoRoot)?;
        own_mounts(&first.path).map_err(Error::Mounts)?;
        here = false;
        let top = again(first)?;
        let folder = config::by_number(&top);
        let place = hooks::Place { folder: Some(&folder), ..hooks::Place::default() };
        hooks::run("createContainer", &setup.hooks, &setup.told, place)?;
        root = Some(top);
    }
    let mut files = files.into_iter();
    let mut attaches = Vec::with_capacity(setup.attaches.len());
    for attach in setup.attaches {
        let given = files.next().filter(|_| here);
        let root = match root.take().or(given) {
            Some(file) => file,
            None => again(&attach)?,
        };
        attaches.push(Attach { name: attach.name, root, read_only: attach.read_only });
    }
    drop(files);
    let client = client.take().ok_or(Error::NoClient)?;
    let mut config = Config::new(client, attaches);
    config.own_namespaces = !setup.bare;
    config.guards = Some(wall::files::GUARDS);
    if let Users::Later { nodes } = setup.users {
        let process = spawn::process("self").map_err(Error::Ids)?;
        let enter = if nodes { node_maker::enter_users } else { node_maker::enter_users_alone };
        config.users = Some(server::Users { process, enter });
    }
    server::confine(&mut config)?;
    crate::debug!("confined");
    Ok(config)
}

/// Mounts of its own, among them the root: what hooks mount there is the container's alone.
fn own_mounts(root: &Path) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_SLAVE | MsFlags::MS_REC, nothing)?;
    mount(Some(root), root, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)
}

fn again(attach: &config::Attach) -> Result<OwnedFd, Error> {
    attach.again().map_err(|source| match source.raw_os_error() {
        Some(libc::ESTALE) => Error::Swapped(attach.path.clone()),
        _ => Error::Open { path: attach.path.clone(), source },
    })
}
