//! The gofer: the process of a container that serves its files. It is told what to serve, opens that,
//! confines itself, and serves.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use gofer::server::{self, Attach, Config};
use nix::fcntl::OFlag;

use crate::link::{self, Link};
use crate::log;
use crate::protocol::{GoferFailure, GoferFd, GoferSetup};
use crate::reason::reason;
use crate::spawn;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("link to the stand-in: {0}")]
    Link(#[from] link::Error),
    #[error("no client")]
    NoClient,
    #[error("{}: {}", path.display(), reason(source))]
    Open { path: std::path::PathBuf, source: std::io::Error },
    #[error("confinement: {0}")]
    Confine(#[from] server::ConfineError),
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
    match prepare(&link).and_then(|config| Ok(server::run(config)?)) {
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

fn prepare(link: &Link<GoferFailure, GoferSetup>) -> Result<Config, Error> {
    let (setup, fds) = link.receive()?;
    let (mut log, mut debug_log, mut client) = (None, None, None);
    for (role, fd) in setup.fds.iter().zip(fds) {
        let slot = match role {
            GoferFd::Log => &mut log,
            GoferFd::DebugLog => &mut debug_log,
            GoferFd::Client => &mut client,
        };
        *slot = Some(fd);
    }
    log::init(setup.log, log, debug_log);
    let client: OwnedFd = client.ok_or(Error::NoClient)?;
    let mut attaches = Vec::with_capacity(setup.attaches.len());
    for attach in setup.attaches {
        let root =
            open(&attach.path).map_err(|source| Error::Open { path: attach.path, source })?;
        attaches.push(Attach { name: attach.name, root, read_only: attach.read_only });
    }
    let mut config = Config::new(client, attaches);
    server::confine(&mut config)?;
    crate::debug!("confined");
    Ok(config)
}

fn open(path: &std::path::Path) -> std::io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(OFlag::O_PATH.bits()).open(path).map(OwnedFd::from)
}
