//! `create`, `run` and `do`: the commands that bring a container to life.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use sentry::control::{ExitStatus, Failure, Shares};
use serde::{Deserialize, Serialize};

use super::host_config;
use crate::cgroup::{self, systemd::Wish};
use crate::check;
use crate::cli::{Create, Do, Global, PlatformChoice, Run};
use crate::config::{self, Container};
use crate::console::{self, Console};
use crate::launch::{self, Created};
use crate::link::{self, Link};
use crate::pod::{self, Pod};
use crate::protocol::Platform;
use crate::reason::reason;
use crate::signals;
use crate::standin::Outcome;
use crate::state::{self, Root};
use crate::wall::level::{self, Level};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle.
    #[error("{0}")]
    Config(#[from] config::Error),
    /// The state folder.
    #[error("{0}")]
    State(#[from] state::Error),
    /// `--require-wall`.
    #[error("{0}")]
    Wall(#[from] level::TooLow),
    /// The pod that it is in.
    #[error("{0}")]
    Pod(#[from] pod::Error),
    /// The launch.
    #[error("{0}")]
    Launch(#[from] launch::Error),
    /// The terminal.
    #[error("{0}")]
    Console(#[from] console::Error),
    /// runc's words.
    #[error("cannot allocate tty if the container is detached without --console-socket")]
    TerminalWithoutSocket,
    /// runc's words.
    #[error("cannot use --console-socket if the container has no terminal or is not detached")]
    SocketWithoutTerminal,
    /// The file that `--pid-file` names.
    #[error("--pid-file {}: {}", path.display(), reason(source))]
    PidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is asked for the container's cgroup.
    #[error("{0}")]
    Cgroup(#[from] cgroup::Error),
    /// The platform asked for does not work here.
    #[error("--platform=kvm: KVM cannot be used here: {0}")]
    Kvm(check::KvmProblem),
    /// The command line or the environment of `do`.
    #[error("{0}")]
    Host(#[from] host_config::Error),
    /// A process could not be started, or is lost.
    #[error("cannot start the stand-in: {0}")]
    StandIn(String),
    /// The stand-in failed and said why.
    #[error("{message}")]
    Reported {
        /// Why.
        message: String,
        /// The exit status that tells it.
        status: u8,
    },
}

impl Error {
    /// The exit status of `run` and `do`: a shell's for a program that is not there or cannot be run,
    /// else runc's.
    pub fn status(&self) -> u8 {
        match self {
            Error::Launch(launch::Error::Refused(Failure { kind, .. })) => {
                kind.shell().unwrap_or(1)
            }
            Error::Reported { status, .. } => *status,
            _ => 1,
        }
    }
}

/// `run`.
pub fn run(global: &Global, args: &Run, preserved: Vec<OwnedFd>) -> Result<u8, Error> {
    let mut plan = Plan::read(global, &args.create, args.detach, preserved)?;
    if args.detach {
        return detached(plan, true).map(|()| 0);
    }
    let keep = args.keep;
    let created = plan.create()?;
    foreground(created, plan.pid_file.as_deref(), keep)
}

/// `create`.
pub fn create(global: &Global, args: &Create, preserved: Vec<OwnedFd>) -> Result<u8, Error> {
    let plan = Plan::read(global, args, true, preserved)?;
    detached(plan, false).map(|()| 0)
}

/// `do`.
pub fn throw_away(global: &Global, args: &Do) -> Result<u8, Error> {
    let level = level::required(global.require_wall)?;
    let id = format!("do-{}", std::process::id());
    let container = host_config::container(&id, &args.command)?;
    let platform = platform(global)?;
    let mut plan = Plan {
        root: Root::of(global),
        container,
        platform,
        level,
        pid_file: None,
        console_socket: None,
        detach: false,
        strace: global.strace,
        pod: RefCell::default(),
        preserved: RefCell::default(),
    };
    foreground(plan.create()?, None, false)
}

/// Starts a container and stays its stand-in until it ends.
fn foreground(mut created: Created, pid_file: Option<&Path>, keep: bool) -> Result<u8, Error> {
    if let Some(path) = pid_file {
        write_pid(path)?;
    }
    created.start()?;
    created.unlock();
    Ok(created.finish(keep)?.status())
}

/// What `create` and `run` are to do, checked before anything is made.
struct Plan {
    root: Root,
    container: Container,
    platform: Platform,
    level: Level,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    detach: bool,
    strace: bool,
    /// The sandbox of others that it is to be in, and what it shares there.
    pod: RefCell<Option<(Pod, Shares)>>,
    /// Given to the container when it is created, so that nobody else holds them.
    preserved: RefCell<Vec<OwnedFd>>,
}

impl Plan {
    fn read(
        global: &Global,
        args: &Create,
        detach: bool,
        preserved: Vec<OwnedFd>,
    ) -> Result<Plan, Error> {
        let level = level::required(global.require_wall)?;
        let root = Root::of(global);
        state::check_id(&args.id)?;
        let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
        let mut container = config::load(bundle, &args.id)?;
        if let Some(cgroup) = &mut container.cgroup {
            cgroup.rootless = rootless(global);
            if global.systemd_cgroup {
                let path = cgroup.path.as_deref();
                cgroup.systemd = Some(Wish::new(path, &args.id, &container.annotations)?);
            }
        }
        crate::debug!("configuration read");
        let terminal = container.spec.process.terminal;
        if args.console_socket.is_some() && !(terminal && detach) {
            return Err(Error::SocketWithoutTerminal);
        }
        if terminal && detach && args.console_socket.is_none() {
            return Err(Error::TerminalWithoutSocket);
        }
        // A pod has one platform, which its first container has chosen.
        let pod = Pod::find(&root, container.pod.as_deref(), &container.joins)?;
        let platform = match (&pod, global.platform) {
            (None, _) => platform(global)?,
            (Some((pod, _)), choice) if choice.fits(pod.platform) => pod.platform,
            (Some((pod, _)), choice) => {
                let (id, platform) = (pod.id.clone(), pod.platform.name());
                return Err(pod::Error::Platform(id, platform, choice.name()).into());
            }
        };
        Ok(Plan {
            root,
            container,
            platform,
            level,
            pid_file: args.pid_file.clone(),
            console_socket: args.console_socket.clone(),
            detach,
            strace: global.strace,
            pod: RefCell::new(pod),
            preserved: RefCell::new(preserved),
        })
    }

    fn create(&mut self) -> Result<Created, Error> {
        let id = &self.container.spec.id;
        let folder = self.root.create(id)?;
        match self.options() {
            Ok(options) => {
                // Nobody holds the host's files open when the container is there.
                let attaches = std::mem::take(&mut self.container.attaches);
                let container = Container { attaches, ..self.container.clone() };
                Ok(launch::create(container, folder, options)?)
            }
            Err(e) => {
                folder.remove()?;
                Err(e)
            }
        }
    }

    fn options(&mut self) -> Result<launch::Options, Error> {
        let (pod, shares) = self.pod.take().unzip();
        self.container.spec.shares = shares;
        Ok(launch::Options {
            platform: self.platform,
            level: self.level,
            pod,
            console: self.console()?,
            strace: self.strace,
            preserved: self.preserved.take(),
        })
    }

    fn console(&self) -> Result<Option<Console>, Error> {
        if !self.container.spec.process.terminal {
            return Ok(None);
        }
        let Some(socket) = &self.console_socket else { return Ok(Some(Console::own()?)) };
        let console = Console::pair(socket, self.container.spec.process.window)?;
        if self.detach {
            console.control()?;
        }
        Ok(Some(console))
    }
}

/// Whether cgroups that cannot be made are done without: by default where the caller is not the host's root.
fn rootless(global: &Global) -> bool {
    match global.rootless.as_str() {
        "true" => true,
        "false" => false,
        _ => {
            let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
            !nix::unistd::geteuid().is_root() || !all
        }
    }
}

fn platform(global: &Global) -> Result<Platform, Error> {
    match global.platform {
        PlatformChoice::Ptrace => Ok(Platform::Ptrace),
        PlatformChoice::Kvm => match check::kvm(true).0.problem {
            None => Ok(Platform::Kvm),
            Some(problem) => Err(Error::Kvm(problem)),
        },
        PlatformChoice::Auto => {
            let choice = check::auto();
            crate::info!("platform {}: {}", choice.platform, choice.reason);
            Ok(match choice.platform {
                check::Platform::Kvm => Platform::Kvm,
                check::Platform::Ptrace => Platform::Ptrace,
            })
        }
    }
}

/// What a detached stand-in tells the command that started it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Ready,
    Failed { message: String, status: u8 },
}

/// Starts a stand-in of its own for the container, and returns when that has created it.
fn detached(mut plan: Plan, start: bool) -> Result<(), Error> {
    stand_in_of_its_own(|link| detached_stand_in(&mut plan, start, link))
}

/// Starts a process that leads this life, whose exit status it gives, and returns when it has reported.
pub(super) fn stand_in_of_its_own(life: impl FnOnce(Link<Report, ()>) -> u8) -> Result<(), Error> {
    let stand_in = |e: link::Error| Error::StandIn(e.to_string());
    let (here, there) = link::pair().map_err(stand_in)?;
    // SAFETY: this process has one thread, so the child may do anything that the parent might.
    match unsafe { fork() } {
        Err(e) => Err(Error::StandIn(e.to_string())),
        Ok(ForkResult::Child) => {
            drop(here);
            std::process::exit(life(Link::new(there)).into())
        }
        Ok(ForkResult::Parent { child }) => {
            drop(there);
            let link: Link<(), Report> = Link::new(here);
            match link.receive() {
                Ok((Report::Ready, _)) => Ok(()),
                Ok((Report::Failed { message, status }, _)) => {
                    reap(child);
                    Err(Error::Reported { message, status })
                }
                Err(_) => Err(Error::StandIn(reap(child))),
            }
        }
    }
}

fn reap(child: Pid) -> String {
    match waitpid(child, None) {
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("it was killed by {signal}"),
        Ok(_) => "it has ended".into(),
        Err(e) => e.to_string(),
    }
}

/// The life of a detached stand-in; its exit status.
fn detached_stand_in(plan: &mut Plan, start: bool, link: Link<Report, ()>) -> u8 {
    let created = match launch_detached(plan, start) {
        Ok(created) => created,
        Err(e) => {
            let (message, status) = (e.to_string(), e.status());
            // Whoever waited for it has gone.
            let _gone = link.send(&Report::Failed { message, status }, &[]);
            return 1;
        }
    };
    if link.send(&Report::Ready, &[]).is_err() {
        // The command was interrupted: what it was to create is not wanted. Dropping undoes it.
        return 1;
    }
    drop(link);
    let outcome = match created.finish(true) {
        Ok(outcome) => outcome,
        Err(e) => {
            crate::error!("{e}");
            return 1;
        }
    };
    match outcome {
        Outcome::Exited(ExitStatus::Signaled(signal)) => signals::die_of(signal),
        outcome => outcome.status(),
    }
}

fn launch_detached(plan: &mut Plan, start: bool) -> Result<Created, Error> {
    let host = |errno: Errno| Error::StandIn(errno.to_string());
    setsid().map_err(host)?;
    let mut created = plan.create()?;
    leave_streams(plan.container.spec.process.terminal)?;
    if let Some(path) = &plan.pid_file {
        write_pid(path)?;
    }
    if start {
        created.start()?;
    }
    created.unlock();
    created.show_files()?;
    Ok(created)
}

/// The container's streams are the sandbox's now; whoever reads them is not to wait for us.
pub(super) fn leave_streams(terminal: bool) -> Result<(), Error> {
    let host = |errno: Errno| Error::StandIn(errno.to_string());
    let flags = nix::fcntl::OFlag::O_RDWR;
    let null =
        nix::fcntl::open(c"/dev/null", flags, nix::sys::stat::Mode::empty()).map_err(host)?;
    nix::unistd::dup2_stdin(&null).map_err(host)?;
    nix::unistd::dup2_stdout(&null).map_err(host)?;
    if terminal {
        // It is not the container's, and whoever reads it to its end would wait for the container's.
        nix::unistd::dup2_stderr(&null).map_err(host)?;
    }
    Ok(())
}

/// Writes this process's id, as a whole: who watches the file never sees half of it.
pub(super) fn write_pid(path: &Path) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default();
    let mut temporary = OsString::from(".");
    temporary.push(name);
    let temporary = path.with_file_name(temporary);
    fs::write(&temporary, std::process::id().to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| Error::PidFile { path: path.to_owned(), source })
}
