//! The oracle: runs a bundle's process on this machine's own Linux, in namespaces and with the mounts that its configuration
//! asks for, as a runtime would, and quickly.
//!
//! runc would do, but takes over a second for each container in the test VM. Only what the tests' own configurations
//! contain is honoured; the harness's results under runc itself (`--runtime runc`) show that the two agree.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{
    Gid, Uid, chdir, close, pivot_root, setgid, setgroups, sethostname, setsid, setuid,
};
use serde_json::Value;

/// The devices that every container has (OCI runtime specification, "Default Devices").
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Runs the bundle and returns its exit status, as a shell gives it.
pub fn run(bundle: &Path) -> io::Result<i32> {
    let flags = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    unshare(flags)?;
    // The first child is process 1 of the new namespace.
    let status = Command::new(std::env::current_exe()?).arg("native-init").arg(bundle).status()?;
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255))
}

/// Process 1: makes the container around itself and becomes its program.
pub fn init(bundle: &Path) -> io::Result<Infallible> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    close_inherited()?;
    setsid()?;
    // A container begins without the caller's niceness, which the host has of the sandbox.
    rustix::process::setpriority_process(None, 0)?;
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    let root = bundle.join("rootfs");
    mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>)?;
    mount(Some(&root), &root, None::<&Path>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&Path>)?;
    for entry in list(&config, "/mounts") {
        mount_entry(entry, &root)?;
    }
    make_devices(&root.join("dev"))?;
    chdir(&root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    hide_paths(&config)?;
    if config.pointer("/root/readonly").and_then(Value::as_bool).unwrap_or(false) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&Path>, "/", None::<&Path>, flags, None::<&Path>)?;
    }
    sethostname(text(&config, "/hostname"))?;
    for limit in list(&config, "/process/rlimits") {
        let number = |name| limit.get(name).and_then(Value::as_u64).unwrap_or(0);
        if text(limit, "/type") == "RLIMIT_NOFILE" {
            setrlimit(Resource::RLIMIT_NOFILE, number("soft"), number("hard"))?;
        }
    }
    become_user(&config)?;
    let args: Vec<&str> = list(&config, "/process/args").iter().filter_map(Value::as_str).collect();
    let (program, args) = args.split_first().ok_or_else(|| io::Error::other("no process.args"))?;
    let env = list(&config, "/process/env").iter().filter_map(Value::as_str);
    let env: Vec<(&str, &str)> = env.filter_map(|pair| pair.split_once('=')).collect();
    let path = env.iter().find(|(name, _)| *name == "PATH").map_or("", |(_, value)| value);
    // `exec` gives SIGPIPE its default action again, which Rust's start-up took. It also sorts the environment.
    let mut command = Command::new(find(program, path));
    command
        .arg0(program)
        .args(args)
        .env_clear()
        .envs(env)
        .current_dir(text(&config, "/process/cwd"));
    umask(Mode::from_bits_truncate(0o022));
    Err(command.exec())
}

/// Closes what whoever started the harness left open: a container gets the three standard descriptors.
fn close_inherited() -> io::Result<()> {
    // Entries hold the folder open: only their names may outlive this line.
    let names: Vec<_> =
        fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name()).collect();
    for name in names {
        if let Some(fd @ 3..) = name.to_str().and_then(|name| name.parse::<i32>().ok()) {
            // The listing's own is closed already.
            let _ = close(fd);
        }
    }
    Ok(())
}

fn mount_entry(entry: &Value, root: &Path) -> io::Result<()> {
    let destination = text(entry, "/destination");
    let target = root.join(destination.trim_start_matches('/'));
    fs::create_dir_all(&target)?;
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in list(entry, "/options").iter().filter_map(Value::as_str) {
        match option {
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "ro" => flags |= MsFlags::MS_RDONLY,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            other => data.push(other),
        }
    }
    let data = data.join(",");
    let (source, kind) = (text(entry, "/source"), text(entry, "/type"));
    mount(Some(source), &target, Some(kind), flags, Some(data.as_str()))
        .map_err(|e| io::Error::other(format!("mounting {destination}: {e}")))
}

fn make_devices(dev: &Path) -> io::Result<()> {
    umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        mknod(
            &dev.join(name),
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major, minor),
        )?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

/// Masks and write-protects what the configuration names, where it exists.
fn hide_paths(config: &Value) -> io::Result<()> {
    for path in list(config, "/linux/maskedPaths").iter().filter_map(Value::as_str).map(Path::new) {
        if path.is_dir() {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&Path>)?;
        } else if path.exists() {
            mount(Some("/dev/null"), path, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?;
        }
    }
    for path in list(config, "/linux/readonlyPaths").iter().filter_map(Value::as_str).map(Path::new)
    {
        if path.exists() {
            mount(
                Some(path),
                path,
                None::<&Path>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&Path>,
            )?;
            // The file system's own flags must be kept.
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&Path>, path, None::<&Path>, flags, None::<&Path>)?;
        }
    }
    Ok(())
}

fn become_user(config: &Value) -> io::Result<()> {
    let named: Vec<&str> =
        list(config, "/process/capabilities/bounding").iter().filter_map(Value::as_str).collect();
    let failed = |e: caps::errors::CapsError| io::Error::other(e.to_string());
    for capability in caps::all() {
        if !named.contains(&capability.to_string().as_str())
            && caps::has_cap(None, caps::CapSet::Bounding, capability).map_err(failed)?
        {
            caps::drop(None, caps::CapSet::Bounding, capability).map_err(failed)?;
        }
    }
    let id = |name| config.pointer(name).and_then(Value::as_u64).unwrap_or(0) as u32;
    setgroups(&[])?;
    setgid(Gid::from_raw(id("/process/user/gid")))?;
    setuid(Uid::from_raw(id("/process/user/uid")))?;
    if config.pointer("/process/noNewPrivileges").and_then(Value::as_bool).unwrap_or(false) {
        nix::sys::prctl::set_no_new_privs()?;
    }
    Ok(())
}

/// Looks a program up in the container's path, as `execvp(3)` does.
fn find(program: &str, path: &str) -> PathBuf {
    if program.contains('/') {
        return program.into();
    }
    let candidates = path.split(':').map(|folder| Path::new(folder).join(program));
    candidates.into_iter().find(|candidate| candidate.exists()).unwrap_or_else(|| program.into())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
