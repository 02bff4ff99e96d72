//! How high the wall is here: what the caller may have the kernel do.

use serde::Serialize;

use super::files;
use crate::cli::RequiredWall;

/// A level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Root: sandboxes become a user who owns nothing, in namespaces of their own.
    Root,
    /// Another user, in namespaces of their own.
    UserNamespaces,
    /// Another user who may make none: no_new_privs, seccomp, Landlock and limits are all there is.
    Bare,
}

impl Level {
    /// What it means, in one line.
    pub fn text(self) -> &'static str {
        match self {
            Level::Root => "root: everything, and sandboxes become a user who owns nothing",
            Level::UserNamespaces => {
                "rootless with user namespaces: everything, but sandboxes stay the caller's user"
            }
            Level::Bare => {
                "rootless without user namespaces: no_new_privs, seccomp, Landlock and limits only"
            }
        }
    }
}

/// The level of what this process starts.
pub fn here() -> Level {
    if nix::unistd::geteuid().is_root() {
        Level::Root
    } else if user_namespaces() {
        Level::UserNamespaces
    } else {
        Level::Bare
    }
}

/// `--require-wall` asks for more than there is.
#[derive(Debug, thiserror::Error)]
#[error("--require-wall=full: these promises do not hold here: {}", .0.join("; "))]
pub struct TooLow(Vec<&'static str>);

/// The level here, if it will do.
pub fn required(wanted: Option<RequiredWall>) -> Result<Level, TooLow> {
    let level = here();
    match wanted.map(|RequiredWall::Full| missing(level)) {
        Some(missing) if !missing.is_empty() => Err(TooLow(missing)),
        _ => Ok(level),
    }
}

/// Whether a child can enter a user namespace of its own. Nothing that is read tells: sysctls, security modules and
/// filters all have a say.
fn user_namespaces() -> bool {
    // SAFETY: the child makes two system calls, and ends.
    let child = unsafe {
        match libc::fork() {
            0 => {
                let refused = libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0;
                libc::_exit(i32::from(refused))
            }
            -1 => return false,
            child => child,
        }
    };
    let mut status = 0;
    // SAFETY: the child is ours and has not been waited for; the status is written.
    while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
        if nix::errno::Errno::last() != nix::errno::Errno::EINTR {
            return false;
        }
    }
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// The promises that do not hold at a level on this host.
pub fn missing(level: Level) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if level == Level::Bare {
        missing.push("sandbox and gofer have namespaces of their own");
        missing.push("the sandbox's root is empty and read-only");
        missing.push("the gofer's root holds the container's files and nothing else");
        missing.push("the gofer's mounts are nosuid, nodev and follow no symbolic link");
    }
    if files::landlock().is_none() {
        missing.push("Landlock keeps the gofer to its files");
    }
    missing
}
