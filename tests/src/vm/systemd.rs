//! The VM with systemd as its init, as on any Debian: a root on a disk of its own, read-only below a tmpfs, with no more
//! started than systemd itself, the system's bus, and the agent.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use super::agent::{PATH, mount_at};
use super::{HARNESS, RINGWALL, ROOTS, RUNC};
use crate::apt::{self, Apt};
use crate::roots;

/// What the root is made of.
const PACKAGES: [&str; 4] = ["bash", "dbus", "dbus-user-session", "systemd"];
/// The folder of the root on its disk.
const ROOT: &str = "systemd";
/// The disk's device, behind that of the containers' roots.
pub(super) const DISK: &str = "/dev/vdb";
/// Nothing but the agent is started. The first CPU has to be left alone (see [`agent`](super::agent)), by whatever comes
/// into a cpuset too.
pub(super) const COMMAND_LINE: &str =
    "isolcpus=0 systemd.unit=harness.service systemd.show_status=false systemd.log_level=warning";

/// The agent, which needs nothing that systemd otherwise starts first.
const AGENT: &str = "\
[Unit]
DefaultDependencies=no
Wants=dbus.socket
After=dbus.socket

[Service]
ExecStart=/bin/harness vm-agent
Environment=HOME=/root
StandardOutput=tty
TTYPath=/dev/console
TasksMax=infinity
";
/// A user's systemd, as user@1000.service is one, but without a session and PAM.
const USERS: &str = "\
[Unit]
DefaultDependencies=no

[Service]
User=user
Type=notify
ExecStart=/lib/systemd/systemd --user
Environment=XDG_RUNTIME_DIR=/run/user/1000
RuntimeDirectory=user/1000
RuntimeDirectoryMode=0700
Delegate=yes
TasksMax=infinity
";
/// For units that would wait for a whole system.
const ALONE: &str = "[Unit]\nDefaultDependencies=no\n";

/// Makes the root's disk unless it is there.
pub fn disk(cache: &Path, apt: &mut Apt) -> Result<PathBuf, roots::Error> {
    let cache = cache.join("systemd");
    let all = cache.join("roots");
    apt::once(&all.join(ROOT), |into| roots::system(apt, &PACKAGES, into))?;
    roots::disk(&cache, &all)
}

/// Leaves the initramfs' tmpfs for the root, and becomes systemd.
pub(super) fn enter() -> io::Result<()> {
    for folder in ["/lower", "/upper", "/sysroot"] {
        fs::create_dir_all(folder)?;
    }
    mount(Some(DISK), "/lower", Some("ext4"), MsFlags::MS_RDONLY, None::<&str>)?;
    mount_at("upper", Path::new("/upper"), "tmpfs", "mode=755,size=40%")?;
    for folder in ["/upper/upper", "/upper/work"] {
        fs::create_dir(folder)?;
    }
    let layers = format!("lowerdir=/lower/{ROOT},upperdir=/upper/upper,workdir=/upper/work");
    let root = Path::new("/sysroot");
    mount_at("root", root, "overlay", &layers)?;
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    for program in [HARNESS, RINGWALL, RUNC, "/bin/busybox"] {
        if Path::new(program).exists() {
            fs::copy(program, inside(program))?;
        }
    }
    mount_at("tmp", &inside("tmp"), "tmpfs", "mode=1777")?;
    fs::create_dir_all(inside(ROOTS))?;
    mount(Some("/dev/vda"), &inside(ROOTS), Some("ext4"), MsFlags::MS_RDONLY, None::<&str>)?;
    let units = inside("etc/systemd/system");
    for (name, text) in [
        ("harness.service", AGENT),
        ("users-own.service", USERS),
        ("dbus.socket.d/alone.conf", ALONE),
        ("dbus.service.d/alone.conf", ALONE),
    ] {
        let path = units.join(name);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, text)?;
    }
    mount(Some("/dev"), &inside("dev"), None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chdir(root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Err(Command::new("/lib/systemd/systemd").env("PATH", PATH).exec())
}
