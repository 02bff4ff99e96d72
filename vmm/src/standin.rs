//! The stand-in: the process of the host whose pid stands for a container.
//!
//! It starts the sandbox and the gofer, and is their parent: they end when it does, but for a sandbox that other containers
//! are in. It forwards
//! the signals that it gets, hears how the container ended, and ends in the same way.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use sentry::control::{Call, ExitStatus, Failure, FailureKind, Reply};
use sentry::platform::StreamId;

use crate::cgroup::alarm::Alarm;
use crate::clock;
use crate::console::Console;
use crate::footprint;
use crate::link::{self, Link};
use crate::protocol::{FromSandbox, GoferFailure, GoferSetup, ToSandbox};
use crate::spawn::Child;

/// Signals that are about this process itself, or that a fault of its own would raise.
const OWN: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGWINCH,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGPIPE,
];

/// How long a container gets to end in order when its file server has gone.
const LAST_CALL: Duration = Duration::from_secs(2);

/// Signals that end a command which has not created its container yet.
pub const INTERRUPTS: [Signal; 4] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// How a container ended, as far as the host can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As its init process did.
    Exited(ExitStatus),
    /// Because a process of ours was lost.
    Lost(String),
}

impl Outcome {
    /// What a shell sees.
    pub fn status(&self) -> u8 {
        match self {
            Outcome::Exited(status) => status.shell(),
            // Killed.
            Outcome::Lost(_) => 137,
        }
    }
}

/// A container's stand-in: this process.
#[derive(Debug)]
pub struct StandIn {
    /// The container.
    pub id: String,
    /// The sandbox; `None`: another container's.
    pub sandbox: Option<Child>,
    /// The file server.
    pub gofer: Child,
    /// To the sandbox.
    pub link: Link<ToSandbox, FromSandbox>,
    /// To the file server, which speaks only to say why it fails.
    pub gofer_link: Link<GoferSetup, GoferFailure>,
    /// Signals.
    pub signals: SignalFd,
    /// The terminal, where the container has one.
    pub console: Option<Console>,
    /// Whether the container is there: before that, an interrupt is for this process.
    pub created: bool,
    /// Whether others are in the sandbox, which lives on when the container has ended.
    pub shared: bool,
    /// What tells the host's cgroup of an OOM kill inside; `None`: there is no group.
    pub alarm: Option<Alarm>,
    /// The end of the container, heard while something else was waited for.
    pub ended: Option<ExitStatus>,
}

/// Blocks the signals that are to be forwarded, and gives the descriptor that they come out of.
pub fn take_signals() -> Result<SignalFd, Errno> {
    let mut set = SigSet::all();
    for signal in OWN {
        set.remove(signal);
    }
    set.add(Signal::SIGCHLD);
    set.add(Signal::SIGWINCH);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// What one look at the world found.
enum Found {
    /// The sandbox's answer to what it was asked.
    Answer(Result<Reply, Failure>),
    /// The container's end.
    Exited(ExitStatus),
    /// Something of ours is gone.
    Lost(String),
    Nothing,
}

impl StandIn {
    /// Waits for the answer to a request that was sent.
    pub fn answer(&mut self) -> Result<Reply, Failure> {
        loop {
            match self.look(PollTimeout::NONE) {
                Found::Answer(answer) => return answer,
                Found::Exited(status) => self.ended = Some(status),
                Found::Lost(reason) => return Err(other(reason)),
                Found::Nothing => {}
            }
        }
    }

    /// Asks the sandbox, and waits for its answer.
    pub fn call(&mut self, call: Call) -> Result<Reply, Failure> {
        self.send(call).map_err(|e| other(e.to_string()))?;
        self.answer()
    }

    /// Waits for the container's end.
    pub fn wait(&mut self) -> Outcome {
        if let Some(status) = self.ended.take() {
            return Outcome::Exited(status);
        }
        if self.is_quiet() {
            footprint::shed();
        }
        loop {
            match self.look(PollTimeout::NONE) {
                Found::Exited(status) => return Outcome::Exited(status),
                // Of a signal that came too late for its process, or the like.
                Found::Answer(Err(failure)) => crate::debug!("{}", failure.message),
                Found::Answer(Ok(_)) | Found::Nothing => {}
                Found::Lost(reason) => {
                    crate::error!("{reason}");
                    return self.last_call(reason);
                }
            }
        }
    }

    /// Whether nothing happens for a second.
    fn is_quiet(&self) -> bool {
        let mut fds = [
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::from(1000u16)) == Ok(0)
    }

    /// Something of ours is gone: the container ends too, in order if it can.
    fn last_call(&mut self, reason: String) -> Outcome {
        let id = self.id.clone();
        if self.sandbox.as_ref().is_none_or(|sandbox| sandbox.pid() != 0)
            && self.send(Call::Signal { id, pid: None, signal: 9, all: true }).is_ok()
        {
            let deadline = Instant::now() + LAST_CALL;
            while let Some(left) = until(deadline)
                && let Found::Answer(_) | Found::Nothing = self.look(left)
            {}
        }
        Outcome::Lost(reason)
    }

    fn send(&self, call: Call) -> Result<(), link::Error> {
        self.link.send(&ToSandbox::Call(Box::new(call)), &[])
    }

    /// Waits for one thing to happen.
    fn look(&mut self, timeout: PollTimeout) -> Found {
        let mut fds = [
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(0) => return Found::Lost(format!("container {} does not answer", self.id)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Found::Lost(format!("poll: {e}")),
        }
        let [link, signals] = fds.map(|fd| fd.any().unwrap_or(false));
        // What the sandbox has said counts before what became of it.
        if link {
            match self.link.try_receive() {
                Ok(Some((message, _no_descriptors))) => return self.heard(message),
                Ok(None) => {}
                Err(link::Error::Closed) => return Found::Lost(self.autopsy()),
                Err(e) => return Found::Lost(format!("sandbox of container {}: {e}", self.id)),
            }
        }
        if signals { self.signal() } else { Found::Nothing }
    }

    /// What the sandbox has said.
    fn heard(&mut self, message: FromSandbox) -> Found {
        match message {
            FromSandbox::Answer(answer) => Found::Answer(answer),
            FromSandbox::Exited(status) => Found::Exited(status),
            FromSandbox::Shared => {
                self.shared = true;
                Found::Nothing
            }
            FromSandbox::Failed(reason) => {
                Found::Lost(format!("sandbox of container {}: {reason}", self.id))
            }
            FromSandbox::OutOfMemory => {
                // Before anybody hears of the container's end, if this is the cause.
                if let Some(alarm) = &mut self.alarm {
                    let sandbox = self.sandbox.as_ref().map(Child::pid).filter(|pid| *pid != 0);
                    alarm.raise(sandbox.map(Pid::from_raw));
                }
                Found::Nothing
            }
            // Nobody has asked for them over this link.
            FromSandbox::Counters(_) | FromSandbox::Report(_) => Found::Nothing,
        }
    }

    fn signal(&mut self) -> Found {
        let info = match self.signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) => return Found::Nothing,
            Err(e) => return Found::Lost(format!("signals: {e}")),
        };
        let number = info.ssi_signo as i32;
        if number == Signal::SIGCHLD as i32 {
            return match self.gofer.try_wait() {
                // It ends so when its client has gone: what became of that is the reason. The sandbox's
                // link may be among the last that are closed of a process that ends.
                Some(status @ WaitStatus::Exited(_, 0)) => self.last_words(status),
                Some(status) => Found::Lost(self.gofer_end(status)),
                // The sandbox's end shows up at its link, after all that it said before.
                None => Found::Nothing,
            };
        }
        if let Some(signal) = INTERRUPTS.iter().find(|signal| **signal as i32 == number)
            && !self.created
        {
            return Found::Lost(format!("interrupted by {signal}"));
        }
        let sent = if number == Signal::SIGWINCH as i32 {
            self.window_size()
        } else {
            let id = self.id.clone();
            let signal = u8::try_from(number).unwrap_or(0);
            self.send(Call::Signal { id, pid: None, signal, all: false })
        };
        if let Err(e) = sent {
            // Its end shows up at the link.
            crate::debug!("signal {number} is not forwarded: {e}");
        }
        Found::Nothing
    }

    /// The file server has ended so: what the sandbox still says that matters, waiting a little for that.
    fn last_words(&mut self, status: WaitStatus) -> Found {
        let deadline = Instant::now() + LAST_CALL;
        while let Some(left) = until(deadline) {
            let mut fds = [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)];
            // Whatever poll says, the link is asked.
            let _ready = poll(&mut fds, left);
            match self.link.try_receive() {
                Ok(Some((message, _no_descriptors))) => match self.heard(message) {
                    Found::Nothing => {}
                    found => return found,
                },
                Err(link::Error::Closed) => return Found::Lost(self.autopsy()),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        Found::Lost(self.gofer_end(status))
    }

    fn window_size(&self) -> Result<(), link::Error> {
        match self.console.as_ref().and_then(Console::window) {
            // The console is a container's first stream.
            Some((rows, columns)) => {
                self.send(Call::WindowSize { stream: StreamId(0), rows, columns })
            }
            None => Ok(()),
        }
    }

    /// Why the file server has gone, if it has: the cause of whatever the sentry says then.
    pub fn gofer_problem(&mut self) -> Option<String> {
        match self.gofer_link.try_receive() {
            Ok(Some((GoferFailure(reason), _))) => {
                Some(format!("file server of container {}: {reason}", self.id))
            }
            // It ends so when the sentry has let go of it, which is no cause of anything.
            _ => match self.gofer.try_wait() {
                None | Some(WaitStatus::Exited(_, 0)) => None,
                Some(status) => Some(self.gofer_end(status)),
            },
        }
    }

    fn gofer_end(&self, status: WaitStatus) -> String {
        let id = &self.id;
        match self.gofer_link.try_receive() {
            Ok(Some((GoferFailure(reason), _))) => {
                format!("file server of container {id}: {reason}")
            }
            _ => format!("file server of container {id} {}; the container ends", ended(status)),
        }
    }

    /// Why the sandbox has closed its link.
    fn autopsy(&mut self) -> String {
        let id = self.id.clone();
        match self.sandbox.as_mut().and_then(Child::end) {
            Some(status) => format!("sandbox of container {id} {}", ended(status)),
            None => format!("sandbox of container {id} is gone"),
        }
    }
}

/// What is left until then, as poll(2) wants it; `None`: nothing.
fn until(deadline: Instant) -> Option<PollTimeout> {
    (Instant::now() < deadline).then(|| clock::poll_until(deadline))
}

fn ended(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, status) => format!("has exited with status {status}"),
        WaitStatus::Signaled(_, Signal::SIGSYS, _) => {
            "was killed for a system call that its filter does not allow".into()
        }
        WaitStatus::Signaled(_, signal, _) => format!("was killed by {signal}"),
        _ => "has ended".into(),
    }
}

fn other(message: String) -> Failure {
    Failure { kind: FailureKind::Other, message }
}
