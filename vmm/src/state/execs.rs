//! Which processes of the host stand for processes that `exec` has started in a container.
//!
//! Linux lets nobody wait for the init of a pid namespace before all its other processes have been waited for
//! (pid_namespaces(7)), and callers build on that: containerd's shim lets a container go with its init, and the end of an
//! exec that it hears of later reaches nobody; `docker exec` would wait for it for ever. So a container's stand-in stays
//! until those of its execs have been waited for.
//!
//! Each has an empty file in the folder `execs`, named by pid and start time. It is not taken away by its process, which is
//! there for longer than it can act, but by the next exec, and with the container.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Error, Folder, Process, io};

const EXECS: &str = "execs";

/// How often the container's stand-in looks.
const PAUSE: Duration = Duration::from_millis(1);

impl Process {
    fn file_name(self) -> String {
        format!("{}-{}", self.pid, self.start)
    }

    fn of_file_name(name: &str) -> Option<Process> {
        let (pid, start) = name.split_once('-')?;
        Some(Process { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }
}

impl Folder {
    fn execs(&self) -> PathBuf {
        self.path().join(EXECS)
    }

    /// Notes that this process stands for one that is about to be started in the container.
    pub fn note_exec(&self) -> Result<(), Error> {
        let folder = self.execs();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                self.unwaited_execs();
            }
            Err(e) => return Err(io(&folder)(e)),
        }
        let Some(this) = Process::current() else { return Ok(()) };
        let file = folder.join(this.file_name());
        File::create(&file).map_err(io(&file)).map(drop)
    }

    /// How many of the processes noted have not been waited for; forgets the others.
    fn unwaited_execs(&self) -> usize {
        // Without the folder there are none, and it goes with the container, which another command may have deleted.
        let Ok(entries) = fs::read_dir(self.execs()) else { return 0 };
        let mut unwaited = 0;
        for entry in entries.flatten() {
            let process = entry.file_name().to_str().and_then(Process::of_file_name);
            if process.is_some_and(Process::unwaited) {
                unwaited += 1;
            } else {
                // Another exec may have been quicker.
                let _gone = fs::remove_file(entry.path());
            }
        }
        unwaited
    }

    /// Waits until all processes noted have been waited for by their parents, but not longer than `limit`; returns whether
    /// they have.
    pub fn await_execs(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.unwaited_execs() > 0 {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::Root;
    use super::*;

    #[test]
    fn processes_count_until_they_are_waited_for() {
        let path = std::env::temp_dir().join(format!("ringwall-execs-{}", std::process::id()));
        let root = Root::at(&path);
        let folder = root.create("c").unwrap();
        assert!(folder.await_execs(Duration::ZERO));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::find(child.id().try_into().unwrap()).unwrap();
        folder.note_exec().unwrap();
        let files = || fs::read_dir(folder.execs()).unwrap().count();
        for file in fs::read_dir(folder.execs()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let file = |process: Process| File::create(folder.execs().join(process.file_name()));
        file(process).unwrap();
        // Somebody else who has the pid now.
        file(Process { start: process.start + 1, ..process }).unwrap();
        assert!(!folder.await_execs(Duration::ZERO));
        assert_eq!(files(), 1);
        child.kill().unwrap();
        // A zombie, sooner or later; it makes no difference here.
        assert!(!folder.await_execs(Duration::from_millis(20)));
        child.wait().unwrap();
        assert!(folder.await_execs(Duration::ZERO));
        assert_eq!(files(), 0);
        folder.note_exec().unwrap();
        assert_eq!(files(), 1);
        folder.remove().unwrap();
        fs::remove_dir(&path).unwrap();
    }
}
