//! What is known on the host about each container: one folder under `--root`, with `state.json`,
//! the sandbox's control socket and a lock.
//!
//! - The folder is made by the one `mkdir` that can succeed, so an id exists at most once.
//! - `state.json` is replaced as a whole, so a reader never sees half of one. Room to do so is kept, so that what
//!   becomes of a container can be written down where the file system is full.
//! - The lock is flock(2) on the folder itself: held while a command changes the state, and let go
//!   by the kernel when its holder dies.
//! - Processes are named by pid and start time, so that a pid that was given to somebody else is
//!   not taken for them. Whatever the file says, a container whose stand-in is gone is stopped.

mod execs;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use sentry::control::Limits;
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::cli::Global;
use crate::hooks::Hooks;
use crate::protocol::Platform;
use crate::reason::reason;

/// Name of the control socket in a container's folder.
pub const SOCKET: &str = "control.sock";
const STATE: &str = "state.json";
/// What `state.json` is to be, until it is.
const NEW: &str = ".state.json.new";
/// Room for one more of them, given up where the file system is full.
const RESERVE: &str = ".reserve";
/// What a state may grow by, bytes.
const GROWTH: usize = 4096;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// runc's words, which callers look for.
    #[error("container does not exist")]
    NotFound,
    /// runc's words.
    #[error("container with given ID already exists")]
    Exists,
    /// runc's words.
    #[error("invalid container ID format: {0:?}")]
    InvalidId(String),
    /// The file system failed.
    #[error("{}: {}", path.display(), reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The state folder belongs to somebody else, who could give us any state.
    #[error("--root {}: owned by user {owner}", path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A state.json that is not ours.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// A process of the host, named so that another one that gets its pid is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks after boot (field 22 of proc_pid_stat(5)).
    pub start: u64,
}

impl Process {
    /// The process that has this pid now; `None` where none has, or only a zombie.
    pub fn find(pid: i32) -> Option<Process> {
        Process::look(pid).and_then(|(process, ended)| (!ended).then_some(process))
    }

    /// The process that has this pid now, and whether it has ended and nobody has waited for it yet.
    fn look(pid: i32) -> Option<(Process, bool)> {
        let mut text = String::new();
        File::open(format!("/proc/{pid}/stat"))
            .and_then(|mut file| file.read_to_string(&mut text))
            .ok()?;
        // The name, in parentheses, may itself contain anything.
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        // Of what follows the state, field 22 is the nineteenth.
        Some((Process { pid, start: fields.nth(18)?.parse().ok()? }, ended))
    }

    /// This process.
    pub fn current() -> Option<Process> {
        Process::find(std::process::id().try_into().ok()?)
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        Process::find(self.pid) == Some(self)
    }

    /// Whether it still runs, or nobody has waited for it yet.
    fn unwaited(self) -> bool {
        Process::look(self.pid).is_some_and(|(process, _)| process == self)
    }
}

/// Where a container stands in its life, in the words of the runtime specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Its first instruction has not run.
    Created,
    /// It runs.
    Running,
    /// Its processes are held.
    Paused,
    /// It has ended.
    Stopped,
}

impl Status {
    /// The specification's word.
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification that the bundle names.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its bundle, absolute.
    pub bundle: PathBuf,
    /// Its root, absolute.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Who made it.
    pub owner: u32,
    /// From the bundle.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// What it runs on.
    pub platform: String,
    /// As last written; see [`State::status`].
    pub status: Status,
    /// A command has begun to change where it stands. Until that is written down, the sandbox knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changing: bool,
    /// It was paused before it was started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unstarted: bool,
    /// The process that stands for it on the host.
    pub stand_in: Process,
    /// The sandbox that it runs in.
    pub sandbox: Option<Process>,
    /// The container which that was made for, where it is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The cgroups that the sandbox is in, where it is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_cgroup: Option<Group>,
    /// Its file server.
    pub gofer: Option<Process>,
    /// Its hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Its cgroups on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Group>,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// How it ended, as a shell sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u8>,
    /// Why, where that is not the program's own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl State {
    /// What it runs on.
    pub fn platform(&self) -> Platform {
        match self.platform.as_str() {
            "kvm" => Platform::Kvm,
            _ => Platform::Ptrace,
        }
    }

    /// Where it stands now.
    pub fn status(&self) -> Status {
        if self.status == Status::Stopped || !self.stand_in.alive() {
            return Status::Stopped;
        }
        self.status
    }
}

/// The folder of all containers, `--root`.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The one that the command line names, or else the user's own.
    pub fn of(global: &Global) -> Root {
        if let Some(root) = &global.root {
            return Root(std::path::absolute(root).unwrap_or_else(|_| root.clone()));
        }
        let uid = geteuid();
        let own = if uid.is_root() {
            "/run/ringwall".into()
        } else {
            match std::env::var_os("XDG_RUNTIME_DIR") {
                Some(dir) if !dir.is_empty() => Path::new(&dir).join("ringwall"),
                // Who owns it is checked before anything in it is believed.
                _ => format!("/tmp/ringwall-{uid}").into(),
            }
        };
        Root(own)
    }

    /// This one.
    pub fn at(path: &Path) -> Root {
        Root(path.to_owned())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder of a new container, and locks it.
    pub fn create(&self, id: &str) -> Result<Folder, Error> {
        check_id(id)?;
        DirBuilder::new().recursive(true).mode(0o711).create(&self.0).map_err(io(&self.0))?;
        self.check_owner()?;
        let path = self.0.join(id);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists),
            Err(e) => return Err(io(&path)(e)),
        }
        Folder::open(path, true)
    }

    /// Opens the folder of a container.
    pub fn open(&self, id: &str, lock: bool) -> Result<Folder, Error> {
        check_id(id)?;
        self.check_owner()?;
        Folder::open(self.0.join(id), lock)
    }

    /// All containers, by id.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io(&self.0)(e)),
        };
        self.check_owner()?;
        let mut states = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io(&self.0))?;
            let Ok(id) = entry.file_name().into_string() else {
                continue;
            };
            // Others may come and go meanwhile; what is not a container is not ours to judge.
            if let Ok(state) = self.open(&id, false).and_then(|folder| folder.read()) {
                states.push(state);
            }
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    fn check_owner(&self) -> Result<(), Error> {
        let meta = match fs::metadata(&self.0) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(Error::NotFound),
            Err(e) => return Err(io(&self.0)(e)),
        };
        let (owner, me) = (meta.uid(), geteuid().as_raw());
        if owner != me && owner != 0 && me != 0 {
            return Err(Error::Owner { path: self.0.clone(), owner });
        }
        Ok(())
    }
}

/// runc's rule (libcontainer's `validateID`): letters, digits, `_+-.,`, and not a name that a path
/// would treat specially. A file name also has at most 255 bytes.
pub fn check_id(id: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.,".contains(c);
    if id.is_empty() || id == "." || id == ".." || id.len() > 255 || !id.chars().all(allowed) {
        return Err(Error::InvalidId(id.to_owned()));
    }
    Ok(())
}

/// The folder of one container.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    folder: Option<Flock<File>>,
    unlocked: Option<File>,
}

impl Folder {
    fn open(path: PathBuf, lock: bool) -> Result<Folder, Error> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::NotFound,
                _ => io(&path)(e),
            })?;
        if !lock {
            return Ok(Folder { path, folder: None, unlocked: Some(file) });
        }
        let mut folder = Folder { path, folder: None, unlocked: Some(file) };
        folder.lock()?;
        Ok(folder)
    }

    /// Waits until nobody else changes the state, and keeps others from it. `NotFound` where the
    /// container has been deleted meanwhile.
    pub fn lock(&mut self) -> Result<(), Error> {
        let Some(file) = self.unlocked.take() else { return Ok(()) };
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(folder) => self.folder = Some(folder),
            Err((file, errno)) => {
                self.unlocked = Some(file);
                return Err(io(&self.path)(errno.into()));
            }
        }
        let here = self.file().map(File::metadata).transpose().map_err(io(&self.path))?;
        match (fs::metadata(&self.path), here) {
            (Ok(there), Some(here)) if there.ino() == here.ino() && there.dev() == here.dev() => {
                Ok(())
            }
            _ => Err(Error::NotFound),
        }
    }

    fn file(&self) -> Option<&File> {
        self.folder.as_deref().or(self.unlocked.as_ref())
    }

    /// Lets others change the state.
    pub fn unlock(&mut self) {
        if let Some(folder) = self.folder.take() {
            match folder.unlock() {
                Ok(file) => self.unlocked = Some(file),
                Err((folder, _)) => self.folder = Some(folder),
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path of the control socket that fits into a socket address, however deep the folder is.
    pub fn socket(&self) -> PathBuf {
        match self.file() {
            Some(file) => format!("/proc/self/fd/{}/{SOCKET}", file.as_raw_fd()).into(),
            None => self.path.join(SOCKET),
        }
    }

    /// The control socket, where others find it.
    pub fn socket_file(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Has commands at this container find the control socket of another's sandbox, which may be deleted first.
    pub fn link_socket(&self, socket: &Path) -> Result<(), Error> {
        let path = self.socket_file();
        fs::hard_link(socket, &path).map_err(io(&path))
    }

    /// The folder of all containers.
    pub fn root(&self) -> Root {
        Root(self.path.parent().unwrap_or(Path::new("/")).to_owned())
    }

    /// Reads state.json.
    pub fn read(&self) -> Result<State, Error> {
        let path = self.path.join(STATE);
        let bytes = fs::read(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::NotFound,
            _ => io(&path)(e),
        })?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Parse { path, source })
    }

    /// Replaces state.json.
    pub fn write(&self, state: &State) -> Result<(), Error> {
        let [path, new, reserve] = [STATE, NEW, RESERVE].map(|name| self.path.join(name));
        let bytes = serde_json::to_vec(state)
            .map_err(|source| Error::Parse { path: path.clone(), source })?;
        let first = !path.exists();
        let full = match fs::write(&new, &bytes) {
            Err(e) if is_full(&e) && !first => {
                fs::remove_file(&reserve).map_err(io(&reserve))?;
                fs::write(&new, &bytes).map_err(io(&new))?;
                true
            }
            other => other.map(|()| false).map_err(io(&new))?,
        };
        fs::rename(&new, &path).map_err(io(&path))?;
        if first || full {
            // Without one nothing is begun; later, what could not be had again may be next time.
            match fs::write(&reserve, vec![0; bytes.len().saturating_add(GROWTH)]) {
                Err(e) if !first => crate::debug!("{}: {e}", reserve.display()),
                other => other.map_err(io(&reserve))?,
            }
        }
        Ok(())
    }

    /// Removes the control socket: nobody listens there any more.
    pub fn remove_socket(&self) {
        let path = self.socket_file();
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != ErrorKind::NotFound
        {
            crate::warning!("{}: {e}", path.display());
        }
    }

    /// Removes the folder.
    pub fn remove(self) -> Result<(), Error> {
        // Only files of ours are in it; each by name is quicker than a walk.
        for name in [SOCKET, STATE, NEW, RESERVE] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(&path)(e)),
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Ok(()) => Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::ENOTEMPTY as i32) => {
                fs::remove_dir_all(&self.path).map_err(io(&self.path))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io(&self.path)(e)),
        }
    }
}

/// Whether there is no room, for files or for this user's.
fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> Root {
        let path =
            std::env::temp_dir().join(format!("ringwall-state-{}-{name}", std::process::id()));
        let _none = fs::remove_dir_all(&path);
        Root(path)
    }

    fn state(id: &str) -> State {
        State {
            oci_version: "1.2.0".into(),
            id: id.into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "1970-01-01T00:00:00Z".into(),
            owner: 0,
            annotations: HashMap::new(),
            platform: "ptrace".into(),
            status: Status::Running,
            changing: false,
            unstarted: false,
            stand_in: Process::current().unwrap(),
            sandbox: None,
            pod: None,
            sandbox_cgroup: None,
            gofer: None,
            hooks: None,
            cgroup: None,
            limits: Limits::default(),
            exit_status: None,
            reason: None,
        }
    }

    #[test]
    fn ids_are_runc_s() {
        for good in ["a", "A_b+c-d.e,f", "..a", "0"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "\u{e4}", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_exists_once_and_can_be_used_again_after_delete() {
        let root = root("once");
        let folder = root.create("c").unwrap();
        assert!(matches!(root.create("c"), Err(Error::Exists)));
        assert!(matches!(folder.read(), Err(Error::NotFound)));
        folder.write(&state("c")).unwrap();
        assert_eq!(root.list().unwrap().len(), 1);
        folder.remove().unwrap();
        assert!(root.list().unwrap().is_empty());
        root.create("c").unwrap().remove().unwrap();
        fs::remove_dir(root.path()).unwrap();
    }

    #[test]
    fn a_container_whose_stand_in_is_gone_is_stopped() {
        let mut state = state("c");
        assert_eq!(state.status(), Status::Running);
        state.stand_in.start += 1;
        assert_eq!(state.status(), Status::Stopped);
    }

    #[test]
    fn the_lock_is_exclusive() {
        let root = root("lock");
        let mut folder = root.create("c").unwrap();
        let again = File::open(folder.path()).unwrap();
        let (again, errno) = Flock::lock(again, FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(errno, Errno::EWOULDBLOCK);
        folder.unlock();
        drop(Flock::lock(again, FlockArg::LockExclusiveNonblock).unwrap());
        folder.remove().unwrap();
        fs::remove_dir(root.path()).unwrap();
    }
}
