//! OCI bundles for tests: runc's default configuration, with a root of ours on an overlay.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::process;

/// The capabilities that Docker gives a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A bundle's folder with `config.json` and `rootfs`, unmounted and removed when dropped.
pub struct Bundle {
    folder: PathBuf,
    mounted: bool,
}

impl Bundle {
    /// Makes a bundle in `folder` whose root is a fresh overlay above `lower`.
    pub fn new(folder: &Path, lower: &Path, config: &Value) -> io::Result<Bundle> {
        let mut bundle = Bundle::empty(folder)?;
        for name in ["upper", "work"] {
            fs::create_dir(folder.join(name))?;
        }
        let show = |path: &Path| path.display().to_string();
        let data = format!(
            "lowerdir={},upperdir={},workdir={}",
            show(lower),
            show(&folder.join("upper")),
            show(&folder.join("work"))
        );
        mount(
            Some("overlay"),
            &bundle.rootfs(),
            Some("overlay"),
            MsFlags::empty(),
            Some(data.as_str()),
        )?;
        bundle.mounted = true;
        bundle.write_config(&config.to_string())?;
        Ok(bundle)
    }

    /// Makes a bundle with an empty root and no `config.json`.
    pub fn empty(folder: &Path) -> io::Result<Bundle> {
        fs::create_dir_all(folder.join("rootfs"))?;
        Ok(Bundle { folder: folder.to_owned(), mounted: false })
    }

    /// Writes `config.json`.
    pub fn write_config(&self, text: &str) -> io::Result<()> {
        fs::write(self.folder.join("config.json"), text)
    }

    /// The bundle's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The container's root, as the host sees it.
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.rootfs(), MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A name that no other container of tests has at the time: their ids are the same.
fn cgroup() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}", process::own_names(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// runc's default configuration with these arguments, a writable root, Docker's capabilities and a tmpfs on /tmp.
pub fn config(argv: &[&str], env: &[(&str, &str)]) -> Value {
    let mut environment =
        vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    environment.push("TERM=dumb".to_owned());
    environment.push("HOME=/root".to_owned());
    environment.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
    let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": argv,
            "env": environment,
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "container",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "nodev", "mode=1777", "size=262144k"] },
        ],
        "linux": {
            "cgroupsPath": cgroup(),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
