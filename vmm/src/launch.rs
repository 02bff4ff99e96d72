//! How a container comes to be: state folder, sandbox and gofer, and the setup that they are sent.
//!
//! The processes are started first and told later, so that they execute while this one goes on. A
//! failure on the way drops what was made so far: children are killed and reaped, the folder removed,
//! the terminal restored.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use sentry::control::{Call, ContainerSpec, Failure};
use sentry::platform::StreamId;

use crate::cgroup::alarm::Alarm;
use crate::cgroup::{self, Group, Origin, Processors, room};
use crate::config::Container;
use crate::console::{self, Console};
use crate::hooks::{self, Hook, Hooks};
use crate::link::{self, Link};
use crate::pod::{self, Pod};
use crate::preserved;
use crate::protocol::{
    FromSandbox, GoferFd, GoferSetup, Platform, SandboxFd, Setup, ToSandbox, Users,
};
use crate::spawn::{self, Child, IdMaps, NAMESPACES};
use crate::standin::{self, Outcome, StandIn};
use crate::state::{self, Folder, Process, State, Status};
use crate::view::{Files, View};
use crate::wall::level::Level;
use crate::{clock, log, mountpoints, network, node_maker};

/// How long the end of a container waits for the parents of its execs, who may never wait for them.
const EXECS_WAIT: Duration = Duration::from_secs(5);

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What `--preserve-fds` names.
    #[error("{0}")]
    Preserved(#[from] preserved::Error),
    /// The state folder.
    #[error("{0}")]
    State(#[from] state::Error),
    /// A process.
    #[error("{0}")]
    Spawn(#[from] spawn::Error),
    /// A link to a process.
    #[error("cannot talk to the sandbox: {0}")]
    Link(#[from] link::Error),
    /// The terminal.
    #[error("{0}")]
    Console(#[from] console::Error),
    /// A mount point.
    #[error("{0}")]
    MountPoint(#[from] mountpoints::Error),
    /// The network namespace.
    #[error("{0}")]
    Network(#[from] network::Error),
    /// The container's cgroup.
    #[error("{0}")]
    Cgroup(#[from] cgroup::Error),
    /// A hook.
    #[error("{0}")]
    Hook(#[from] hooks::Error),
    /// A system call.
    #[error("{0}: {1}")]
    Host(&'static str, Errno),
    /// The sentry says no.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The file server is gone.
    #[error("{0}")]
    Gofer(String),
}

/// The user and group that a sandbox started by root becomes: nobody, who owns no file.
const NOBODY: u32 = 65534;

/// The most memory for applications and page cache, unless the container's limit is more. It is address space, not
/// memory, until something is in it.
const MEMORY: u64 = 64 << 30;
/// Descriptors that a sandbox has a use for: the files that the sentry has donated to it at most, and a third more.
const DESCRIPTORS: u64 = 24 << 10;

/// A container that has been created: its processes run, its first instruction has not.
#[derive(Debug)]
pub struct Created {
    // Dropped first: the processes are gone before what they have on the host is.
    stand_in: StandIn,
    // Then the host's mounts are there again, which the rest needs.
    view: Option<View>,
    files: Files,
    folder: Removed,
    state: State,
}

/// How a container is to be made.
#[derive(Debug)]
pub struct Options {
    /// What runs it.
    pub platform: Platform,
    /// How high the wall can be.
    pub level: Level,
    /// The pod in whose sandbox it is to be; `None`: in one of its own.
    pub pod: Option<Pod>,
    /// Its terminal.
    pub console: Option<Console>,
    /// Whether its system calls are logged.
    pub strace: bool,
    /// Descriptors for its init.
    pub preserved: Vec<OwnedFd>,
}

/// Makes a container. The calling process becomes its stand-in, and has one thread.
pub fn create(
    mut container: Container,
    folder: Folder,
    options: Options,
) -> Result<Created, Error> {
    let Options { platform, level, pod, console, strace, preserved } = options;
    let uid = spawn::own_ids().0;
    let mut state = state_of(&container, platform, uid)?;
    let mut folder = Removed::new(folder, &state);
    folder.network = network::enter(&container.network)?;
    let signals = standin::take_signals().map_err(|e| Error::Host("cannot block signals", e))?;
    if let Some(score) = container.spec.process.oom_score_adj {
        // Before there are any, so that all of the container's processes have it; that of its pod has its own.
        spawn::set_oom_score(score);
    }
    let home = match pod {
        None => Home::Own(Own::start(folder.get()?, platform, level, &container.spec.id)?),
        Some(pod) => Home::Pod(pod),
    };
    folder.plan_group(&mut container, &mut state)?;
    let (gofer_link, gofer_end) = link::pair()?;
    let (client, server) = link::pair()?;
    let id = container.spec.id.clone();

    let users = users_of(&container, level);
    let gofer = start_gofer(&container, &id, level, users, gofer_end)?;
    // While they execute. They wait for what they are to do, and have nothing of the container yet.
    let mut members = vec![gofer.pid()];
    if let Home::Own(own) = &home {
        members.push(own.child.pid());
    }
    let alarm = folder.join_group(&container, &mut state, &members, platform)?;
    if !container.spec.root.overlay {
        let root = container.attaches.first().ok_or(Error::Host("no root", Errno::EINVAL))?;
        mountpoints::make(root, &mut container.spec.mounts)?;
    }

    if let Some(console) = &console {
        container.spec.process.window = console.window().or(container.spec.process.window);
    }
    let (settings, log, debug_log) = log::for_child("gofer");
    state.sandbox = match &home {
        Home::Own(own) => Process::find(own.child.pid()),
        Home::Pod(pod) => {
            folder.get()?.link_socket(&pod.socket)?;
            state.pod = Some(pod.first.clone());
            state.sandbox_cgroup = pod.group.clone();
            pod.sandbox
        }
    };
    state.gofer = Process::find(gofer.pid());
    folder.get()?.write(&state)?;
    folder.hooks(&state, "prestart", |hooks| &hooks.prestart)?;
    folder.hooks(&state, "createRuntime", |hooks| &hooks.create_runtime)?;
    let inner = state.hooks.as_ref().map(|hooks| hooks.create_container.clone());
    // As the first process of the gofer's namespace of processes, and of a container's, sees itself.
    let told = if inner.is_some() { hooks::told(&state, "creating", 1) } else { String::new() };

    let mut fds = vec![(GoferFd::Client, server.as_fd())];
    fds.extend(log.map(|fd| (GoferFd::Log, fd)));
    fds.extend(debug_log.map(|fd| (GoferFd::DebugLog, fd)));
    let room = link::MAX_FDS.saturating_sub(fds.len() + 1);
    let attaches = container.attaches.iter().filter_map(|attach| attach.file.as_ref());
    fds.extend(attaches.take(room).map(|file| (GoferFd::Attach, file.as_fd())));
    let (roles, fds): (Vec<GoferFd>, Vec<BorrowedFd<'_>>) = fds.into_iter().unzip();
    let gofer_link = Link::new(gofer_link);
    let setup = GoferSetup {
        log: settings,
        attaches: container.attaches.clone(),
        bare: level == Level::Bare,
        users,
        terminal: console.is_some(),
        hooks: inner.unwrap_or_default(),
        told,
        fds: roles,
    };
    gofer_link.send(&setup, &fds)?;
    drop(server);

    let mut fds = vec![(SandboxFd::Gofer, client.as_fd())];
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    match &console {
        Some(console) => {
            fds.push((SandboxFd::Stream, console.as_fd()));
            container.spec.process.stdio = [Some(StreamId(0)); 3];
        }
        None => {
            let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
            fds.extend(streams.map(|fd| (SandboxFd::Stream, fd)));
            container.spec.process.stdio = [0, 1, 2].map(|n| Some(StreamId(n)));
        }
    }
    let others = fds.iter().filter(|(role, _)| *role == SandboxFd::Stream).count();
    container.spec.process.preserved = preserved::streams(&preserved, others)?;
    fds.extend(preserved.iter().map(|fd| (SandboxFd::Stream, fd.as_fd())));
    container.spec.strace = strace;
    let files = Files::of(&container);
    let (sandbox, link) = home.take_in(container.spec, platform, fds)?;
    drop((client, preserved));
    crate::debug!("sandbox and gofer have their setup");

    let stand_in = StandIn {
        id,
        sandbox,
        gofer,
        link,
        gofer_link,
        signals,
        console,
        created: false,
        shared: false,
        alarm,
        ended: None,
    };
    let mut created = Created { stand_in, view: None, files, folder, state };
    match created.stand_in.answer() {
        Ok(_) => {}
        Err(failure) => {
            return Err(match created.stand_in.gofer_problem() {
                Some(reason) => Error::Gofer(reason),
                None => Error::Refused(failure),
            });
        }
    }
    crate::debug!("container created");
    created.stand_in.created = true;
    created.set_status(Status::Created)?;
    created.folder.hooks(&created.state, "poststart", |hooks| &hooks.poststart)?;
    Ok(created)
}

/// The sandbox that a container is to be in.
enum Home {
    /// One of its own.
    Own(Own),
    /// That of its pod.
    Pod(Pod),
}

/// A sandbox that has been started and knows nothing yet.
struct Own {
    child: Child,
    link: Link<ToSandbox, FromSandbox>,
    listener: OwnedFd,
    device: Option<OwnedFd>,
    /// The user and group that it is to become.
    ids: Option<(u32, u32)>,
}

impl Own {
    fn start(folder: &Folder, platform: Platform, level: Level, id: &str) -> Result<Own, Error> {
        let listener = link::listener(&folder.socket())?;
        // Once the container's limits are set, this process may open no device.
        let device = match platform {
            Platform::Kvm => Some(open_kvm()?),
            Platform::Ptrace => None,
        };
        let (link, end) = link::pair()?;
        let (uid, gid) = spawn::own_ids();
        let (namespaces, maps, ids) = match level {
            Level::Root => (NAMESPACES, Some(IdMaps::only(NOBODY, NOBODY)), Some((NOBODY, NOBODY))),
            Level::UserNamespaces => (NAMESPACES, Some(IdMaps::only(uid, gid)), None),
            Level::Bare => {
                crate::warning!(
                    "this user can make no namespaces: {} (`ringwall check --wall` says more)",
                    level.text()
                );
                (CloneFlags::empty(), None, None)
            }
        };
        let child = spawn::spawn(spawn::SANDBOX, id, namespaces, maps.as_ref(), end)?;
        child.may_open(DESCRIPTORS);
        Ok(Own { child, link: Link::new(link), listener, device, ids })
    }
}

impl Home {
    /// Has it make the container, with its file server and its streams: the sandbox, if it is the container's own, and the
    /// link to it.
    fn take_in(
        self,
        container: ContainerSpec,
        platform: Platform,
        fds: Vec<(SandboxFd, BorrowedFd<'_>)>,
    ) -> Result<(Option<Child>, Link<ToSandbox, FromSandbox>), Error> {
        match self {
            Home::Own(own) => {
                let (log, log_fd, debug_log) = log::for_child("sandbox");
                let mut fds = fds;
                fds.push((SandboxFd::Control, own.listener.as_fd()));
                fds.extend(own.device.as_ref().map(|device| (SandboxFd::Kvm, device.as_fd())));
                fds.extend(log_fd.map(|fd| (SandboxFd::Log, fd)));
                fds.extend(debug_log.map(|fd| (SandboxFd::DebugLog, fd)));
                let (roles, fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
                // The sentry holds the container to less, and to what that becomes.
                let memory = container.limits.memory.map_or(MEMORY, |limit| limit.max(MEMORY));
                let ids = own.ids;
                let setup = Setup { log, ids, platform, memory, container, fds: roles };
                own.link.send(&ToSandbox::Setup(Box::new(setup)), &fds)?;
                Ok((Some(own.child), own.link))
            }
            Home::Pod(pod) => {
                let (roles, fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
                let join = ToSandbox::Join { container: Box::new(container), fds: roles };
                pod.link.send(&join, &fds)?;
                Ok((None, pod.link))
            }
        }
    }
}

/// What is known of a container whose making begins.
fn state_of(container: &Container, platform: Platform, owner: u32) -> Result<State, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(State {
        oci_version: container.oci_version.clone(),
        id: container.spec.id.clone(),
        bundle: container.bundle.clone(),
        rootfs: container.rootfs.clone(),
        created: clock::rfc3339(now.as_secs(), Some(now.subsec_nanos())),
        owner,
        annotations: container.annotations.clone(),
        platform: platform.name().to_owned(),
        status: Status::Creating,
        changing: false,
        unstarted: false,
        stand_in: Process::current()
            .ok_or(Error::Host("cannot read /proc/self/stat", Errno::ESRCH))?,
        sandbox: None,
        pod: None,
        sandbox_cgroup: None,
        gofer: None,
        hooks: container.hooks.clone(),
        cgroup: None,
        limits: container.spec.limits,
        exit_status: None,
        reason: None,
    })
}

/// The sandbox has no /dev.
fn open_kvm() -> Result<OwnedFd, Error> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    nix::fcntl::open(c"/dev/kvm", flags, Mode::empty())
        .map_err(|e| Error::Host("cannot open /dev/kvm", e))
}

/// A gofer is root's process where root starts it, because files have owners; with a user namespace
/// in the configuration, or without root, it is the namespace's. The rest of its namespaces it makes
/// itself, after it has opened what it serves.
///
/// What root starts is in a user namespace too, with every id mapped to itself.
fn start_gofer(
    container: &Container,
    id: &str,
    level: Level,
    users: Users,
    link: OwnedFd,
) -> Result<spawn::Child, Error> {
    let (uid, gid) = spawn::own_ids();
    let maps = match users {
        _ if level == Level::Bare => None,
        Users::Container => {
            Some(IdMaps { uids: container.uid_map.clone(), gids: container.gid_map.clone() })
        }
        Users::Born => {
            let process = &container.spec.process;
            Some(IdMaps { uids: vec![(process.uid, uid, 1)], gids: vec![(process.gid, gid, 1)] })
        }
        Users::Later { .. } => None,
    };
    let mut namespaces = CloneFlags::CLONE_NEWPID;
    if level == Level::Bare {
        namespaces = CloneFlags::empty();
    }
    if maps.is_some() {
        namespaces |= CloneFlags::CLONE_NEWNS;
    }
    let child = spawn::spawn(spawn::GOFER, id, namespaces, maps.as_ref(), link)?;
    // In a user namespace of its own it may not raise the limit itself, and then the files of its client are soon too many.
    child.may_open(gofer::server::DESCRIPTORS_MAX);
    Ok(child)
}

/// When a container's gofer enters which user namespace.
fn users_of(container: &Container, level: Level) -> Users {
    if !container.uid_map.is_empty() {
        return Users::Container;
    }
    let nodes = container.spec.process.capabilities.bounding & node_maker::MKNOD != 0;
    if level == Level::Root { Users::Later { nodes } } else { Users::Born }
}

impl Created {
    /// What is known of it.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn set_status(&mut self, status: Status) -> Result<(), Error> {
        self.state.status = status;
        if let Some(folder) = &self.folder.folder {
            folder.write(&self.state)?;
        }
        Ok(())
    }

    /// Lets other commands at the state.
    pub fn unlock(&mut self) {
        if let Some(folder) = &mut self.folder.folder {
            folder.unlock();
        }
    }

    /// Lets it run.
    pub fn start(&mut self) -> Result<(), Error> {
        hooks::run_inside(&self.state, self.folder.get()?)?;
        let id = self.stand_in.id.clone();
        self.stand_in.call(Call::Start { id }).map_err(Error::Refused)?;
        crate::debug!("container started");
        self.set_status(Status::Running)
    }

    /// Puts the container's files at the root of this process, for those who look for them there; to its end it can do
    /// nothing but wait then.
    pub fn show_files(&mut self) -> Result<(), Error> {
        self.view = View::enter(&self.files).map_err(|e| Error::Host("mount namespace", e))?;
        Ok(())
    }

    /// Waits for its end, and takes away what it leaves: everything, or all but its state.
    pub fn finish(mut self, keep: bool) -> Result<Outcome, Error> {
        let outcome = self.stand_in.wait();
        drop(self.view.take());
        crate::debug!("container has ended: {outcome:?}");
        // The sandbox says so, and it might be anything by now.
        let root = self.folder.folder.as_ref().map(Folder::root);
        let shared =
            self.stand_in.shared && root.is_some_and(|root| pod::in_company(&root, &self.state));
        match &mut self.stand_in.sandbox {
            // It ends with the last of the others.
            Some(sandbox) if shared => sandbox.forget(),
            Some(sandbox) => sandbox.kill(),
            None => {}
        }
        self.stand_in.gofer.kill();
        if let Some(mut folder) = self.folder.folder.take() {
            if !folder.await_execs(EXECS_WAIT) {
                crate::warning!(
                    "the parent of an exec of container {} does not wait for it",
                    self.state.id
                );
            }
            // Whoever holds the lock, to start the container or to delete it, waits for nothing here.
            match folder.lock() {
                Ok(()) if keep => record(&folder, &outcome)?,
                Ok(()) => {
                    let root = folder.root();
                    if shared {
                        self.folder.leave_group();
                    } else {
                        self.folder.remove_group();
                    }
                    folder.remove()?;
                    // Nor is it in the sandbox any more.
                    drop(self.stand_in);
                    if shared || self.state.pod.is_some() {
                        pod::sweep(&root, &self.state, shared);
                    }
                    self.folder.stopped();
                }
                Err(state::Error::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(outcome)
    }
}

/// Writes down how a container ended.
fn record(folder: &Folder, outcome: &Outcome) -> Result<(), Error> {
    // Another command may have started it since.
    let mut state = folder.read()?;
    state.status = Status::Stopped;
    state.exit_status = Some(outcome.status());
    if let Outcome::Lost(reason) = outcome {
        state.reason = Some(reason.clone());
    }
    folder.remove_socket();
    Ok(folder.write(&state)?)
}

/// The folder of a container, which is removed unless it is taken out again, and what is run then.
#[derive(Debug)]
struct Removed {
    folder: Option<Folder>,
    /// Where this process's network was before it stood for the container.
    network: Option<OwnedFd>,
    /// The container's cgroups, and those that this process was in before.
    group: Option<(Group, Origin)>,
    bundle: PathBuf,
    poststop: Vec<Hook>,
    told: String,
}

impl Removed {
    fn new(folder: Folder, state: &State) -> Removed {
        let poststop = state.hooks.as_ref().map_or(Vec::new(), |hooks| hooks.poststop.clone());
        let told = match poststop.as_slice() {
            [] => String::new(),
            _ => hooks::told(state, Status::Stopped.name(), 0),
        };
        let bundle = state.bundle.clone();
        Removed { folder: Some(folder), network: None, group: None, bundle, poststop, told }
    }

    fn get(&self) -> Result<&Folder, Error> {
        self.folder.as_ref().ok_or(Error::State(state::Error::NotFound))
    }

    fn place(&self) -> hooks::Place<'_> {
        let network = self.network.as_ref().map(OwnedFd::as_fd);
        let outside = self.group.as_ref().map(|(_, origin)| origin);
        hooks::Place { folder: Some(&self.bundle), network, outside }
    }

    /// Writes down which groups the container will have, before they are made: whatever becomes of this process, `delete`
    /// finds them.
    fn plan_group(&mut self, container: &mut Container, state: &mut State) -> Result<(), Error> {
        let Some(wanted) = &container.cgroup else { return Ok(()) };
        let group = Group::plan(wanted, &container.spec.id)?;
        let origin = Origin::here()?;
        container.spec.limits.version = group.version();
        state.limits = container.spec.limits;
        state.cgroup = Some(group.clone());
        self.group = Some((group, origin));
        Ok(self.get()?.write(state)?)
    }

    /// Makes them, has this process and these in them, and sets their limits. What tells the group of OOM kills, if there is
    /// one.
    fn join_group(
        &mut self,
        container: &Container,
        state: &mut State,
        pids: &[i32],
        platform: Platform,
    ) -> Result<Option<Alarm>, Error> {
        let (Some(wanted), Some((group, _))) = (&container.cgroup, &mut self.group) else {
            return Ok(None);
        };
        let mut all = vec![nix::unistd::getpid().as_raw()];
        all.extend(pids);
        let processors = Processors::of_caller();
        let open = group.make(wanted, &all)?;
        state.cgroup = Some(group.clone());
        open.join(&all)?;
        processors.keep(&all);
        open.set(&room::widen(&wanted.resources, platform, None))?;
        processors.keep(&all);
        crate::debug!("cgroups joined and set");
        Ok(Alarm::of(open, container.spec.process.oom_score_adj))
    }

    /// This process leaves the container's groups.
    fn leave_group(&mut self) -> Option<Group> {
        let (group, origin) = self.group.take()?;
        if let Err(e) = origin.enter() {
            crate::warning!("cannot leave the container's cgroup: {e}");
        }
        Some(group)
    }

    /// The container is gone, and its groups go.
    fn remove_group(&mut self) {
        let Some(group) = self.leave_group() else { return };
        if let Err(e) = group.remove() {
            crate::warning!("{e}");
        }
    }

    /// Runs some of the container's hooks.
    fn hooks(
        &self,
        state: &State,
        kind: &'static str,
        which: fn(&Hooks) -> &Vec<Hook>,
    ) -> Result<(), Error> {
        let Some(hooks) = &state.hooks else { return Ok(()) };
        let told = hooks::told(state, state.status.name(), state.stand_in.pid);
        Ok(hooks::run(kind, which(hooks), &told, self.place())?)
    }

    /// The container is gone.
    fn stopped(&self) {
        if let Err(e) = hooks::run("poststop", &self.poststop, &self.told, self.place()) {
            crate::warning!("{e}");
        }
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            self.remove_group();
            remove(folder);
            self.stopped();
        }
    }
}

fn remove(folder: Folder) {
    if let Err(e) = folder.remove() {
        crate::warning!("{e}");
    }
}
