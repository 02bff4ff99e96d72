//! Terminals: the caller's own, in raw mode while a container uses it, or a new pair whose master
//! goes to whoever asked for it.
//!
//! The container's line discipline is the sentry's; so the host's terminal passes every byte on.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pair could not be made.
    #[error("cannot make a pseudo-terminal: {0}")]
    Pty(Errno),
    /// The socket that is to have the master.
    #[error("--console-socket {}: {errno}", path.display())]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The terminal's modes could not be set.
    #[error("cannot set the terminal's modes: {0}")]
    Modes(Errno),
    /// Nobody can see the container's terminal.
    #[error("process.terminal is set, but no standard stream is a terminal")]
    NoTerminal,
}

/// A terminal that a container uses as its console.
#[derive(Debug)]
pub struct Console {
    terminal: OwnedFd,
    /// The modes to restore.
    before: Option<Termios>,
}

impl Console {
    /// The caller's terminal, the first of the standard streams that is one.
    pub fn own() -> Result<Console, Error> {
        for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            let Ok(before) = tcgetattr(fd) else { continue };
            let terminal = fd.try_clone_to_owned().map_err(|_| Error::Modes(Errno::last()))?;
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            let console = Console { terminal, before: Some(before) };
            tcsetattr(&console.terminal, SetArg::TCSADRAIN, &raw).map_err(Error::Modes)?;
            return Ok(console);
        }
        Err(Error::NoTerminal)
    }

    /// A new pair; the master goes to the socket.
    pub fn pair(socket: &Path, window: Option<(u16, u16)>) -> Result<Console, Error> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master: PtyMaster = posix_openpt(flags).map_err(Error::Pty)?;
        grantpt(&master).map_err(Error::Pty)?;
        unlockpt(&master).map_err(Error::Pty)?;
        let name = ptsname_r(&master).map_err(Error::Pty)?;
        let terminal = nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty())
            .map_err(Error::Pty)?;
        let mut raw = tcgetattr(&terminal).map_err(Error::Modes)?;
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw).map_err(Error::Modes)?;
        let console = Console { terminal, before: None };
        if let Some((rows, columns)) = window {
            console.resize(rows, columns).map_err(Error::Modes)?;
        }
        send_master(socket, &master, &name)
            .map_err(|errno| Error::Socket { path: socket.to_owned(), errno })?;
        Ok(console)
    }

    /// Makes it the calling process's controlling terminal, so that it hears of new sizes and of a
    /// hang-up. The caller leads a session without one.
    pub fn control(&self) -> Result<(), Error> {
        // SAFETY: takes a number, no memory.
        let result = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
        Errno::result(result).map(drop).map_err(Error::Modes)
    }

    /// Its size in rows and columns, where it has one.
    pub fn window(&self) -> Option<(u16, u16)> {
        // SAFETY: all-zero is a valid size.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a size there.
        let result = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
        (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
    }

    fn resize(&self, rows: u16, columns: u16) -> Result<(), Errno> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads a size from there.
        let result = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        Errno::result(result).map(drop)
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(e) = tcsetattr(&self.terminal, SetArg::TCSADRAIN, before)
        {
            crate::warning!("cannot restore the terminal's modes: {e}");
        }
    }
}

/// As runc does: one byte string, the terminal's name, with the descriptor.
fn send_master(path: &Path, master: &PtyMaster, name: &str) -> Result<(), Errno> {
    let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let iov = [IoSlice::new(name.as_bytes())];
    sendmsg::<()>(stream.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_raw_and_has_the_size_asked_for() {
        let path = std::env::temp_dir().join(format!("ringwall-console-{}", std::process::id()));
        let _none = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let console = Console::pair(&path, Some((40, 100))).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(console.window(), Some((40, 100)));
        let modes = tcgetattr(&console.terminal).unwrap();
        assert!(!modes.local_flags.contains(nix::sys::termios::LocalFlags::ECHO));
        drop(listener);
        let gone = Console::pair(&path, None).unwrap_err();
        assert!(matches!(gone, Error::Socket { .. }));
    }
}
