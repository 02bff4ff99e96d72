//! The cgroups of a container on the host: made, joined, limited and removed as runc does it (libcontainer's cgroups/fs
//! and cgroups/fs2), by the command that has the privilege to, before anything of the container runs.
//!
//! All processes of a container are in its group: sandbox, gofer, stand-in, and under ptrace the stubs, which inherit
//! it. The limits that count are the sentry's. The host's are a second line behind them, and therefore wider, by what
//! the sandbox itself needs ([`room`]): the inner limit acts first.

pub mod alarm;
mod devices;
mod folder;
mod places;
pub mod room;
pub mod stats;
pub mod systemd;
mod v1;
mod v2;

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::dbus;
use crate::reason::reason;
use folder::Folder;
use places::Place;
use systemd::{Manager, Unit, Wish};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of a cgroup file system.
    #[error("cgroup {}: {}", path.display(), reason(source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A value that the host does not take; runc's words.
    #[error("failed to write {value:?}: write {}: {}", path.display(), reason(source))]
    Write {
        /// The value.
        value: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// runc's words.
    #[error("cannot set {0} limit: container could not join or create cgroup")]
    NoGroup(&'static str),
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is nobody to ask for a scope.
    #[error(
        "--systemd-cgroup: systemd is not running on this host; leave it out, or give Docker's daemon --exec-opt \
         native.cgroupdriver=cgroupfs"
    )]
    NoSystemd,
    /// A user who is not root, without a bus.
    #[error(
        "--systemd-cgroup: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR names this user's bus; install \
         dbus-user-session and log in again"
    )]
    NoUserBus,
    /// systemd cannot be reached.
    #[error("--systemd-cgroup: cannot reach systemd over D-Bus: {0}")]
    Bus(dbus::Error),
    /// systemd refuses something.
    #[error("systemd's unit {unit}: {source}")]
    Unit {
        /// The unit.
        unit: String,
        /// Why.
        source: dbus::Error,
    },
    /// runc's words.
    #[error("error creating systemd unit `{unit}`: got `{result}`")]
    Job {
        /// The unit.
        unit: String,
        /// How its job ended.
        result: String,
    },
}

impl Error {
    fn file(path: &Path, source: std::io::Error) -> Error {
        Error::File { path: path.to_owned(), source }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Error::File { source, .. } | Error::Write { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the caller may not do it, and nothing else is wrong (libcontainer's isIgnorableError()).
    fn is_permission(&self) -> bool {
        [libc::EPERM, libc::EACCES, libc::EROFS].into_iter().any(|e| self.errno() == Some(e))
    }
}

/// What a container's configuration says of its cgroup.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `linux.cgroupsPath`.
    pub path: Option<String>,
    /// `linux.resources`.
    pub resources: LinuxResources,
    /// Whether to go on where the caller may not make a group, and none is named (`--rootless`).
    pub rootless: bool,
    /// The scope of systemd's that it is to be (`--systemd-cgroup`).
    pub systemd: Option<Wish>,
}

/// A container's groups, one in each hierarchy that the host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    places: Vec<Place>,
    /// The unit of systemd's that they are.
    #[serde(default)]
    unit: Option<Unit>,
}

impl Group {
    /// Where a container's groups will be. Nothing is made yet, so that it can be written down before.
    pub fn plan(wanted: &Wanted, id: &str) -> Result<Group, Error> {
        let (mountinfo, cgroup) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let (unit, path) = match &wanted.systemd {
            None => (None, wanted.path.clone().filter(|path| !path.is_empty())),
            Some(wish) => {
                let (unit, path) = wish.plan(wanted.rootless, places::unified(&mountinfo))?;
                (Some(unit), Some(path))
            }
        };
        let path = path.as_deref().unwrap_or(id);
        let group = Group { places: places::places(&mountinfo, &cgroup, path), unit };
        if group.places.is_empty() {
            crate::warning!(
                "no cgroups are mounted here: the container's host processes have none"
            );
        } else if group.places.iter().any(|place| place.names.is_empty()) {
            let reason = format!("linux.cgroupsPath: {path:?} is the root");
            return Err(Error::Invalid(reason));
        }
        Ok(group)
    }

    fn is_unified(&self) -> bool {
        self.places.iter().all(|place| place.controllers.is_empty())
    }

    /// The version that a container's own files are shown in.
    pub fn version(&self) -> u32 {
        if self.is_unified() { 2 } else { 1 }
    }

    /// Makes them. Where the caller may not, and `wanted` allows for that, the container has none there. systemd puts
    /// these processes in at once.
    pub fn make(&mut self, wanted: &Wanted, pids: &[i32]) -> Result<Open, Error> {
        let unit = match (&wanted.systemd, &self.unit) {
            (Some(wish), Some(unit)) => match unit.start(wish, self.is_unified(), pids) {
                Ok(manager) => Some((unit.clone(), RefCell::new(Some(manager)))),
                Err(e) => {
                    // One of this name that there may be is another container's, and stays.
                    *self = Group::default();
                    return Err(e);
                }
            },
            _ => None,
        };
        let tolerant = wanted.rootless && wanted.path.as_deref().is_none_or(str::is_empty);
        let unified = self.is_unified();
        let mut folders = Vec::new();
        let mut made = Vec::new();
        let mut refused = None;
        for place in &self.places {
            match make(place, unified, &wanted.resources) {
                Ok(folder) => {
                    folders.push((place.controllers.clone(), folder));
                    made.push(place.clone());
                }
                Err(e) if tolerant && e.is_permission() => refused = refused.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        if let Some(e) = refused {
            crate::warning!(
                "{e}; where none can be made, the container's host processes stay in the caller's"
            );
        }
        self.places = made;
        if let Some((_, folder)) = folders.first()
            && unit.is_none()
        {
            let count = folder.read("cgroup.procs")?.lines().count();
            if count > 0 {
                // runc's words.
                crate::warning!("container's cgroup is not empty: {count} process(es) found");
            }
        }
        Ok(Open { unified, folders, unit })
    }

    /// Opens what has been made.
    pub fn open(&self) -> Result<Open, Error> {
        let open = |place: &Place| Ok((place.controllers.clone(), enter(place, &place.names)?));
        let folders = self.places.iter().map(open).collect::<Result<_, Error>>()?;
        let unit = self.unit.clone().map(|unit| (unit, RefCell::new(None)));
        Ok(Open { unified: self.is_unified(), folders, unit })
    }

    /// Removes them; those that are not there are no error. The folders above stay, as runc leaves them.
    pub fn remove(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        if let Some(unit) = &self.unit {
            if unit.is_own() {
                // A user's process may not always go back to where it was. A scope goes with its last process.
                return Ok(());
            }
            outcome = unit.stop();
        }
        for place in &self.places {
            let [above @ .., last] = place.names.as_slice() else { continue };
            match enter(place, above).and_then(|folder| folder.remove(last)) {
                Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                // The others go all the same.
                other => outcome = outcome.and(other),
            }
        }
        outcome
    }
}

/// Makes a group in one hierarchy, with those above it.
fn make(place: &Place, unified: bool, resources: &LinuxResources) -> Result<Folder, Error> {
    let mut folder = Folder::mount_point(&place.point)?;
    let controllers = if unified { v2::controllers(&folder)? } else { Vec::new() };
    let cpuset = place.controllers.iter().any(|controller| controller == "cpuset");
    for (index, name) in place.names.iter().enumerate() {
        if unified {
            v2::delegate(&folder, &controllers);
        }
        let below = folder.make(name)?;
        if cpuset {
            let last = index.saturating_add(1) == place.names.len();
            v1::inherit_cpuset(&folder, &below, last.then_some(resources))?;
        }
        folder = below;
    }
    Ok(folder)
}

/// The folder of these names in a hierarchy.
fn enter(place: &Place, names: &[String]) -> Result<Folder, Error> {
    let point = Folder::mount_point(&place.point)?;
    names.iter().try_fold(point, |folder, name| folder.enter(name))
}

fn read(path: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error::file(Path::new(path), e))
}

/// A container's groups, open.
#[derive(Debug)]
pub struct Open {
    unified: bool,
    /// Each with the controllers that it has, in version 1.
    folders: Vec<(Vec<String>, Folder)>,
    /// The unit of systemd's that they are, and the connection to systemd, once there is one.
    unit: Option<(Unit, RefCell<Option<Manager>>)>,
}

impl Open {
    /// The group that has a controller; in version 2 there is one.
    fn with(&self, controller: &str) -> Option<&Folder> {
        self.folders.get(self.place_of(controller)?).map(|(_, folder)| folder)
    }

    /// The same, to be kept alone.
    fn into_group_with(mut self, controller: &str) -> Option<Folder> {
        let at = self.place_of(controller)?;
        Some(self.folders.swap_remove(at).1)
    }

    fn place_of(&self, controller: &str) -> Option<usize> {
        let has = |names: &[String]| self.unified || names.iter().any(|name| name == controller);
        self.folders.iter().position(|(names, _)| has(names))
    }

    /// As [`with`](Open::with), for something that is to be limited.
    fn limited(&self, controller: &'static str) -> Result<&Folder, Error> {
        self.with(controller).ok_or(Error::NoGroup(controller))
    }

    /// As [`with`](Open::with), for a limit that holds inside whether or not the host knows of it.
    fn known(&self, controller: &str) -> Option<&Folder> {
        let folder = self.with(controller);
        if folder.is_none() {
            crate::warning!(
                "linux.resources.{controller}: held by the sentry alone, without a cgroup"
            );
        }
        folder
    }

    /// Puts processes in.
    pub fn join(&self, pids: &[i32]) -> Result<(), Error> {
        for (_, folder) in &self.folders {
            for pid in pids {
                folder.write("cgroup.procs", &pid.to_string())?;
            }
        }
        Ok(())
    }

    /// Sets limits: those of the container, made as wide as the host's have to be.
    pub fn set(&self, resources: &LinuxResources) -> Result<(), Error> {
        // A stand-in may be about to change one for a moment ([`alarm`]).
        let _lock = self.with("memory").map(Folder::lock).transpose()?;
        if let Some((unit, manager)) = &self.unit {
            // systemd sets what it has been told again, whenever it likes.
            let mut manager = match manager.take() {
                Some(manager) => manager,
                None => Manager::connect(unit.user)?,
            };
            unit.set(&mut manager, resources, self.unified)?;
        }
        if self.unified && !self.folders.is_empty() {
            v2::set(self, resources)
        } else {
            v1::set(self, resources)
        }
    }
}

/// The processors that the caller is bound to. Linux before 6.2 forgets them where a process comes into another cpuset.
#[derive(Debug)]
pub struct Processors(Option<CpuSet>);

impl Processors {
    /// Those of this process.
    pub fn of_caller() -> Processors {
        Processors(sched_getaffinity(Pid::from_raw(0)).ok())
    }

    /// Binds processes to them again, as far as their cgroup has them.
    pub fn keep(&self, pids: &[i32]) {
        let Some(set) = &self.0 else { return };
        for pid in pids {
            // Where the group has none of them, its own are what counts.
            if let Err(e) = sched_setaffinity(Pid::from_raw(*pid), set) {
                crate::debug!("processors of {pid} are its cgroup's: {e}");
            }
        }
    }
}

/// The groups that this process was in before it joined a container's.
#[derive(Debug)]
pub struct Origin(Vec<OwnedFd>);

impl Origin {
    /// Where it is now.
    pub fn here() -> Result<Origin, Error> {
        let (mountinfo, cgroup) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let mut files = Vec::new();
        for place in places::own(&mountinfo, &cgroup) {
            match enter(&place, &place.names)?.file("cgroup.procs") {
                Ok(file) => files.push(file.into()),
                // Whoever may not write there may not have left it either.
                Err(e) if e.is_permission() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Origin(files))
    }

    /// Takes the calling process there.
    pub fn enter(&self) -> std::io::Result<()> {
        self.entry()()
    }

    /// What takes a child there that is about to execute: one write(2) for each.
    pub fn entry(&self) -> impl Fn() -> std::io::Result<()> + Send + Sync + 'static {
        let files: Vec<RawFd> = self.0.iter().map(AsRawFd::as_raw_fd).collect();
        move || {
            for file in &files {
                // SAFETY: whoever calls this still has what it was made of.
                nix::unistd::write(unsafe { BorrowedFd::borrow_raw(*file) }, b"0")?;
            }
            Ok(())
        }
    }
}

/// rdma.max has one name and form in both versions.
fn set_rdma(group: &Open, resources: &LinuxResources) -> Result<(), Error> {
    for (device, limits) in resources.rdma().iter().flatten() {
        let mut line = device.clone();
        let words = [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())];
        for (word, limit) in words {
            if let Some(limit) = limit {
                line.push_str(&format!(" {word}={limit}"));
            }
        }
        group.limited("rdma")?.write("rdma.max", &line)?;
    }
    Ok(())
}
