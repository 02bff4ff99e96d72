//! Docker's engine, for the time of one test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::case::Place;
use crate::process;

/// The packages of the engine and of what it needs, without the C library, which is the machine's.
pub const PACKAGES: [&str; 16] = [
    "containerd",
    "docker.io",
    "libcap2",
    "libdevmapper1.02.1",
    "libgcrypt20",
    "libgpg-error0",
    "liblz4-1",
    "liblzma5",
    "libpcre2-8-0",
    "libseccomp2",
    "libselinux1",
    "libsystemd0",
    "libudev1",
    "libzstd1",
    "runc",
    "tini",
];

/// Where a Debian machine has its C library.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// PATH, beginning with these folders, and LD_LIBRARY_PATH of an engine that was unpacked into `packages`.
pub(super) fn surroundings(
    place: &Place,
    packages: &Path,
    mut folders: Vec<PathBuf>,
) -> io::Result<(OsString, OsString)> {
    let mut libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|name| packages.join(name))
        .to_vec();
    // The test VM has busybox and what runc is linked with; everything else is in Debian's root there, and in Podman's.
    if !Path::new(LIBRARIES).join("libm.so.6").exists() {
        let debian = place.roots.join("debian");
        folders.extend([debian.join("usr/bin"), place.roots.join("podman/usr/bin")]);
        libraries.extend([LIBRARIES.into(), debian.join("usr/lib/x86_64-linux-gnu")]);
    }
    folders.extend(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    let joined = |folders| std::env::join_paths(folders).map_err(io::Error::other);
    Ok((joined(folders)?, joined(libraries)?))
}

/// How long the engine has to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running engine.
pub struct Engine {
    folder: PathBuf,
    path: OsString,
    libraries: OsString,
    dockerd: Option<Child>,
    cgroup: String,
    daemon: PathBuf,
    busybox: PathBuf,
}

impl Engine {
    /// Starts it with everything of its own below `folder`, with Ringwall registered by `ringwall install`, and makes the
    /// image `busybox`.
    pub fn start(place: &Place, folder: &Path) -> io::Result<Engine> {
        let packages = place.roots.join("docker");
        let folders = ["usr/bin", "usr/sbin"].map(|name| packages.join(name));
        let (path, libraries) = surroundings(place, &packages, folders.to_vec())?;
        fs::create_dir_all(folder.join("tmp"))?;
        install(place, folder, false)?;
        let cgroup = format!("ringwall-test-{}", std::process::id());
        wrapper(place, &folder.join("ringwall"))?;
        let mut engine = Engine {
            folder: folder.to_owned(),
            path,
            libraries,
            dockerd: None,
            cgroup,
            daemon: packages.join("usr/sbin/dockerd"),
            busybox: place.roots.join("busybox"),
        };
        engine.begin(place)?;
        engine.import(&place.roots.join("busybox"))?;
        Ok(engine)
    }

    /// Starts the daemon, and waits until it answers.
    fn begin(&mut self, place: &Place) -> io::Result<()> {
        let folder = &self.folder;
        let file = |name: &str| folder.join(name).display().to_string();
        let log = |name: &str| File::options().create(true).append(true).open(folder.join(name));
        let mut command = Command::new(&self.daemon);
        command
            .args(["--config-file", &file("daemon.json"), "--data-root", &file("data")])
            .args(["--exec-root", &file("exec"), "--pidfile", &file("pid")])
            .args(["--host", &format!("unix://{}", file("docker.sock"))])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .args(["--ip-forward=false", "--oom-score-adjust=0", "--cgroup-parent", &self.cgroup])
            // Containers outlive it; every script removes its own.
            .arg("--live-restore")
            .env("PATH", &self.path)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("TMPDIR", folder.join("tmp"))
            .stdin(Stdio::null())
            .stdout(log("log")?)
            .stderr(log("log.err")?);
        self.dockerd = Some(command.spawn()?);
        let begun = Instant::now();
        loop {
            let mut command = Command::new("docker");
            self.environment(&mut command);
            if command.arg("version").output()?.status.success() {
                break;
            }
            if begun.elapsed() > PATIENCE * place.slow {
                let tail = self.log_tail();
                self.end(Signal::SIGKILL)?;
                return Err(io::Error::other(format!("the engine does not start: {tail}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends it with a signal, and starts it again.
    pub fn restart(&mut self, place: &Place, signal: &str) -> io::Result<()> {
        self.end(if signal == "KILL" { Signal::SIGKILL } else { Signal::SIGTERM })?;
        // Its containerd goes with it, and is nobody's but this process's to reap; else the new one takes it for alive.
        let pid = fs::read_to_string(self.folder.join("exec/containerd/containerd.pid"));
        if let Some(pid) = pid.ok().and_then(|text| text.trim().parse().ok()) {
            let begun = Instant::now();
            while waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG))
                == Ok(WaitStatus::StillAlive)
            {
                if begun.elapsed() > PATIENCE {
                    return Err(io::Error::other("the engine's containerd does not end"));
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.begin(place)
    }

    fn end(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut dockerd) = self.dockerd.take() else { return Ok(()) };
        kill(Pid::from_raw(dockerd.id() as i32), signal)?;
        let begun = Instant::now();
        while dockerd.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                process::kill_tree(dockerd.id() as i32);
                dockerd.wait()?;
                return Err(io::Error::other("the engine does not end"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Gives a command what it needs to talk to the engine.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("PATH", &self.path)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("DOCKER_HOST", format!("unix://{}", self.folder.join("docker.sock").display()))
            .env("DOCKER_CONFIG", self.folder.join("client"))
            .env("FOLDER", &self.folder)
            .env("BUSYBOX", &self.busybox);
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn import(&self, root: &Path) -> io::Result<()> {
        let mut command = Command::new("sh");
        self.environment(&mut command);
        let script = "tar -C \"$1\" -c . | docker import -c 'ENV PATH=/usr/bin:/bin' -c 'CMD [\"sh\"]' - busybox";
        let done = command.args(["-c", script, "-"]).arg(root).output()?;
        match done.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned())),
        }
    }

    /// Makes Ringwall the runtime of containers that name none.
    pub fn make_default(&mut self, place: &Place) -> io::Result<()> {
        install(place, &self.folder, true)?;
        if let Some(dockerd) = &self.dockerd {
            kill(Pid::from_raw(dockerd.id() as i32), Signal::SIGHUP)?;
        }
        let begun = Instant::now();
        loop {
            let mut command = Command::new("docker");
            self.environment(&mut command);
            let told = command.args(["info", "--format", "{{.DefaultRuntime}}"]).output()?;
            if told.stdout.trim_ascii() == b"ringwall" {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE * place.slow {
                return Err(io::Error::other("the engine does not read its configuration again"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what it has said.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log.err")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Ends it, and takes away what is not below its folder.
    pub fn stop(mut self) -> io::Result<()> {
        self.end(Signal::SIGTERM)?;
        for controller in fs::read_dir("/sys/fs/cgroup")?.flatten() {
            // Where it was used.
            let _none = fs::remove_dir(controller.path().join(&self.cgroup));
        }
        let _none = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.cgroup));
        Ok(())
    }
}

fn install(place: &Place, folder: &Path, default: bool) -> io::Result<()> {
    let mut args = vec!["install", "--config"];
    let config = folder.join("daemon.json").display().to_string();
    args.push(&config);
    if default {
        args.push("--default");
    }
    let platform = format!("--platform={}", place.runtime.platform.as_deref().unwrap_or("auto"));
    args.extend(["--", &platform]);
    let done = place.runtime.bare(&args, None).output()?;
    match done.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned())),
    }
}

/// A program that is Ringwall with the options of these tests, for callers that take a program's name alone.
pub fn wrapper(place: &Place, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let command = place.runtime.bare(&[], None);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    fs::write(path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
