//! The stand-in of an exec: the process of the host whose pid stands for a process that was started in
//! a running container.
//!
//! It asks the container's sandbox to start it, over a link of its own, forwards the signals that it
//! gets, hears how the process ended, and ends in the same way. When it is killed the link closes, and
//! the sandbox kills the process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use sentry::control::{Call, Failure, ProcessSpec, Reply};
use sentry::platform::StreamId;

use crate::console::Console;
use crate::link::{self, Link};
use crate::preserved;
use crate::protocol::{FromSandbox, ToSandbox};
use crate::standin::{INTERRUPTS, Outcome};

/// What can go wrong before the process runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sandbox is gone, or does not listen.
    #[error("sandbox of container {0}: {1}")]
    Link(String, link::Error),
    /// What `--preserve-fds` names.
    #[error("{0}")]
    Preserved(#[from] preserved::Error),
    /// The sentry says no.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// Somebody has had enough.
    #[error("interrupted by {0}")]
    Interrupted(Signal),
    /// A system call.
    #[error("{0}: {1}")]
    Host(&'static str, Errno),
    /// The sandbox says what makes no sense.
    #[error("the sandbox breaks its protocol")]
    Protocol,
}

/// A process in a container, for which this one stands.
#[derive(Debug)]
pub struct Inside {
    id: String,
    link: Link<ToSandbox, FromSandbox>,
    signals: SignalFd,
    console: Option<Console>,
    pid: u32,
}

impl Inside {
    /// Starts the process, with the terminal or this process's own standard streams. `signals` is where
    /// those come out that are to be forwarded.
    pub fn start(
        id: &str,
        link: Link<ToSandbox, FromSandbox>,
        mut process: ProcessSpec,
        console: Option<Console>,
        preserved: Vec<OwnedFd>,
        signals: SignalFd,
    ) -> Result<Inside, Error> {
        let failed = |e| Error::Link(id.to_owned(), e);
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let mut fds: Vec<BorrowedFd<'_>> = match &console {
            Some(console) => {
                process.window = console.window().or(process.window);
                process.stdio = [Some(StreamId(0)); 3];
                vec![console.as_fd()]
            }
            None => {
                process.stdio = [0, 1, 2].map(|n| Some(StreamId(n)));
                vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
            }
        };
        process.preserved = preserved::streams(&preserved, fds.len())?;
        fds.extend(preserved.iter().map(AsFd::as_fd));
        let request = ToSandbox::Exec { id: id.to_owned(), process: Box::new(process) };
        link.send(&request, &fds).map_err(failed)?;
        drop(preserved);
        let mut inside = Inside { id: id.to_owned(), link, signals, console, pid: 0 };
        inside.pid = loop {
            match inside.look()? {
                Found::Message(FromSandbox::Answer(Ok(Reply::Pid(pid)))) => break pid,
                Found::Message(FromSandbox::Answer(Err(failure))) => {
                    return Err(Error::Refused(failure));
                }
                Found::Message(_) => return Err(Error::Protocol),
                // Not of somebody's who is not there yet.
                Found::Signal(signal) => {
                    if let Some(signal) = INTERRUPTS.into_iter().find(|s| *s as i32 == signal) {
                        return Err(Error::Interrupted(signal));
                    }
                }
                Found::Nothing => {}
            }
        };
        Ok(inside)
    }

    /// Waits for its end.
    pub fn wait(self) -> Outcome {
        loop {
            match self.look() {
                Ok(Found::Message(FromSandbox::Exited(status))) => return Outcome::Exited(status),
                // Of a signal that came too late for the process, or the like.
                Ok(Found::Message(FromSandbox::Answer(Err(failure)))) => {
                    crate::debug!("{}", failure.message);
                }
                Ok(Found::Signal(signal)) => self.forward(signal),
                Ok(Found::Message(_) | Found::Nothing) => {}
                // It ends with its container.
                Err(Error::Link(_, link::Error::Closed)) => {
                    return Outcome::Lost("its container has ended".into());
                }
                Err(e) => {
                    crate::error!("{e}");
                    return Outcome::Lost(e.to_string());
                }
            }
        }
    }

    fn forward(&self, signal: i32) {
        let sent = if signal == Signal::SIGWINCH as i32 {
            match self.console.as_ref().and_then(Console::window) {
                Some((rows, columns)) => {
                    self.send(Call::WindowSize { stream: StreamId(0), rows, columns })
                }
                None => Ok(()),
            }
        } else {
            let (id, pid) = (self.id.clone(), Some(self.pid));
            // signalfd gives signals as they are: 1 to 64.
            let signal = u8::try_from(signal).unwrap_or(0);
            self.send(Call::Signal { id, pid, signal, all: false })
        };
        if let Err(e) = sent {
            // Its end shows up at the link.
            crate::debug!("signal {signal} is not forwarded: {e}");
        }
    }

    fn send(&self, call: Call) -> Result<(), link::Error> {
        self.link.send(&ToSandbox::Call(Box::new(call)), &[])
    }

    /// Waits for one thing to happen.
    fn look(&self) -> Result<Found, Error> {
        let mut fds = [
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Found::Nothing),
            Err(e) => return Err(Error::Host("poll", e)),
        }
        let [link, signals] = fds.map(|fd| fd.any().unwrap_or(false));
        if link {
            let received = self.link.try_receive();
            return match received.map_err(|e| Error::Link(self.id.clone(), e))? {
                Some((message, _no_descriptors)) => Ok(Found::Message(message)),
                None => Ok(Found::Nothing),
            };
        }
        if !signals {
            return Ok(Found::Nothing);
        }
        match self.signals.read_signal().map_err(|e| Error::Host("signals", e))? {
            // There are no children here whose end would say anything.
            Some(info) if info.ssi_signo as i32 == Signal::SIGCHLD as i32 => Ok(Found::Nothing),
            Some(info) => Ok(Found::Signal(info.ssi_signo as i32)),
            None => Ok(Found::Nothing),
        }
    }
}

/// What one look at the world found.
enum Found {
    Message(FromSandbox),
    Signal(i32),
    Nothing,
}
