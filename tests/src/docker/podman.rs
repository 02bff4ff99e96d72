//! Podman, for the time of one test: no daemon, but a storage, a configuration and runtimes of its own.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::engine::{surroundings, wrapper};
use crate::case::Place;

/// The tests' names.
pub const NAMES: [&str; 2] = ["docker/podman", PODS];

/// The one of pods. The test VM would take a quarter of an hour for it; what is inside a pod is tested there by `pods/`.
pub const PODS: &str = "docker/pods";

/// The packages of Podman and of what it needs, without the C library, which is the machine's; and that of script(1).
pub const PACKAGES: [&str; 31] = [
    "bsdutils",
    "catatonit",
    "conmon",
    "golang-github-containers-common",
    "golang-github-containers-image",
    "libassuan0",
    "libaudit1",
    "libbz2-1.0",
    "libcap-ng0",
    "libcap2",
    "libcrypt1",
    "libdevmapper1.02.1",
    "libgcrypt20",
    "libglib2.0-0",
    "libgpg-error0",
    "libgpgme11",
    "liblz4-1",
    "liblzma5",
    "libpam0g",
    "libpcre2-8-0",
    "libseccomp2",
    "libselinux1",
    "libsemanage2",
    "libsepol2",
    "libsubid4",
    "libsystemd0",
    "libudev1",
    "libzstd1",
    "podman",
    "runc",
    "zlib1g",
];

/// Podman, ready.
pub struct Podman {
    folder: PathBuf,
    packages: PathBuf,
    path: OsString,
    libraries: OsString,
    init: PathBuf,
    busybox: PathBuf,
    cgroup: String,
}

impl Podman {
    /// Configures it with everything of its own below `folder`, and makes the image `busybox`.
    pub fn new(place: &Place, folder: &Path) -> io::Result<Podman> {
        let packages = place.roots.join("podman");
        let folders = vec![packages.join("usr/bin")];
        let (path, libraries) = surroundings(place, &packages, folders)?;
        let podman = Podman {
            folder: folder.to_owned(),
            packages,
            path,
            libraries,
            init: place.roots.join("docker/usr/bin/tini-static"),
            busybox: place.roots.join("busybox"),
            cgroup: format!("/ringwall-test-{}", std::process::id()),
        };
        for name in ["bin", "tmp", "home/.config/containers"] {
            fs::create_dir_all(folder.join(name))?;
        }
        wrapper(place, &folder.join("bin/ringwall"))?;
        // Podman hands conmon no LD_LIBRARY_PATH.
        for (name, program) in [("conmon", "usr/bin/conmon"), ("runc", "usr/sbin/runc")] {
            let program = podman.packages.join(program);
            let path = folder.join("bin").join(name);
            let libraries = podman.libraries.to_string_lossy();
            let script = format!(
                "#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec '{}' \"$@\"\n",
                program.display()
            );
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        podman.configure()?;
        let script = "tar -C \"$BUSYBOX\" -c . | podman import -q -c 'ENV PATH=/usr/bin:/bin' -c 'CMD [\"sh\"]' - busybox";
        let done = podman.command().args(["sh", "-c", script]).output()?;
        match done.status.success() {
            true => Ok(podman),
            false => Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned())),
        }
    }

    fn configure(&self) -> io::Result<()> {
        let at = |name: &str| self.folder.join(name).display().to_string();
        // The limits are those that a machine may lower its own to without privilege, instead of raising them.
        let containers = format!(
            r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
[network]
network_backend = "cni"
network_config_dir = "{}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
runtime_supports_json = ["runc", "ringwall"]
volume_path = "{}"
tmp_dir = "{}"
conmon_path = ["{}"]
helper_binaries_dir = ["{}"]
[engine.runtimes]
runc = ["{}"]
ringwall = ["{}"]
"#,
            at("networks"),
            at("volumes"),
            at("run"),
            at("bin/conmon"),
            self.packages.join("usr/libexec/podman").display(),
            at("bin/runc"),
            at("bin/ringwall"),
        );
        fs::write(self.folder.join("containers.conf"), containers)?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            at("graph"),
            at("runroot")
        );
        fs::write(self.folder.join("storage.conf"), storage)?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(self.folder.join("home/.config/containers/policy.json"), policy)
    }

    /// What starts a program that may use it: conmon's orphans have a parent there that waits for them, as `podman`
    /// expects of a machine's init.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.init);
        command
            .args(["-s", "--"])
            .env("PATH", &self.path)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("CONTAINERS_CONF", self.folder.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf"))
            .env("HOME", self.folder.join("home"))
            .env("TMPDIR", self.folder.join("tmp"))
            .env("FOLDER", &self.folder)
            .env("BUSYBOX", &self.busybox)
            .env("CGROUP", &self.cgroup);
        command
    }

    /// Takes away what is not below its folder.
    pub fn stop(self) -> io::Result<()> {
        let name = self.cgroup.trim_start_matches('/');
        let own = Path::new("/sys/fs/cgroup").join(name);
        let controllers =
            fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path().join(name));
        for cgroup in controllers.chain([own]).filter(|cgroup| cgroup.exists()) {
            for below in fs::read_dir(&cgroup)?.flatten().filter(|entry| entry.path().is_dir()) {
                fs::remove_dir(below.path())?;
            }
            fs::remove_dir(cgroup)?;
        }
        Ok(())
    }
}
