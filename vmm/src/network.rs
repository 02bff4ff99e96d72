//! The network namespace of the process that stands for a container.
//!
//! Nothing of a container's runs in it; but engines look for it at the stand-in's pid, and put there what is to be the
//! container's network. So it is the stand-in's, new or as handed over, and else left alone.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

use crate::config::Network;
use crate::reason::reason;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace that cannot be joined.
    #[error("linux.namespaces: {}: {}", path.display(), reason(source))]
    Join {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A namespace that cannot be made.
    #[error("cannot make a network namespace: {0}")]
    New(Errno),
}

/// Enters it; the one that this process was in before, where that is another.
pub fn enter(network: &Network) -> Result<Option<OwnedFd>, Error> {
    let own = || File::open("/proc/self/ns/net").map(OwnedFd::from);
    match network {
        Network::Host => Ok(None),
        Network::New => {
            let before = own().map_err(|_| Error::New(Errno::ENOENT))?;
            match unshare(CloneFlags::CLONE_NEWNET) {
                Ok(()) => Ok(Some(before)),
                // Nobody looks for the network of one that has nobody who could give it one.
                Err(Errno::EPERM) if !geteuid().is_root() => {
                    crate::debug!("the stand-in stays in the network namespace of its caller");
                    Ok(None)
                }
                Err(e) => Err(Error::New(e)),
            }
        }
        Network::Joined(path) => {
            let fail = |source| Error::Join { path: path.clone(), source };
            let before = own().map_err(fail)?;
            let file = File::open(path).map_err(fail)?;
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| fail(e.into()))?;
            Ok(Some(before))
        }
    }
}
