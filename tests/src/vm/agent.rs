//! Inside the VM: init, and the agent that runs jobs.
//!
//! Init moves the initramfs into a tmpfs first, because an initramfs cannot be pivoted away from, as container runtimes do.
//! It then mounts what a Linux system has, loads KVM, starts the agent and reaps orphans until the agent ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chdir, chroot};

use super::{HARNESS, PORT, ROOTS, systemd};
use crate::process;
use crate::protocol::{self, Ended, Job, Report};

/// The path of jobs' programs.
pub(super) const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// Init's first life, in the initramfs: moves everything into a tmpfs and starts anew there.
pub fn init() -> io::Result<()> {
    let new = Path::new("/new");
    fs::create_dir(new)?;
    mount_at("root", new, "tmpfs", "mode=755,size=60%")?;
    for entry in fs::read_dir("/")? {
        let path = entry?.path();
        if path != new && path != Path::new("/dev") {
            move_tree(&path, &new.join(path.strip_prefix("/").unwrap_or(&path)))?;
        }
    }
    chdir(new)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    fs::create_dir_all("/bin")?;
    fs::rename("/init", HARNESS)?;
    Err(Command::new(HARNESS).arg("vm-init").exec())
}

/// Keeps everything that init starts from the first CPU.
///
/// QEMU's `cpu_clear_ignne` (target/i386/tcg/system/fpu_helper.c, up to 10.0 at least) changes `hflags2` of the *first* CPU
/// from the thread of whichever CPU loads x87 state, without a lock. A change that the first CPU makes at that moment may
/// be undone: where it enters or leaves a guest of its own that is the bit for nested paging, and the guest runs without
/// it, or the host's kernel with it. The guest then dies of a triple fault that is none of its doing, or the host locks
/// up. Other CPUs' flags are their own, so guests run on those alone.
fn leave_first_cpu() -> io::Result<()> {
    let mut cpus = sched_getaffinity(Pid::from_raw(0))?;
    cpus.unset(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// Init's second life: makes the system, runs the agent, powers off.
pub fn system() -> io::Result<()> {
    leave_first_cpu()?;
    fs::create_dir_all("/dev")?;
    mount_at("devtmpfs", Path::new("/dev"), "devtmpfs", "mode=755")?;
    load_modules(Path::new("/lib/modules"))?;
    if Path::new(systemd::DISK).exists() {
        return systemd::enter();
    }
    for (source, target, kind, data) in [
        ("proc", "/proc", "proc", ""),
        ("sysfs", "/sys", "sysfs", ""),
        ("devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
        ("shm", "/dev/shm", "tmpfs", "mode=1777"),
        ("mqueue", "/dev/mqueue", "mqueue", ""),
        ("tmp", "/tmp", "tmpfs", "mode=1777"),
        ("run", "/run", "tmpfs", "mode=755"),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
    ] {
        let target = Path::new(target);
        if !target.starts_with("/sys/fs") {
            fs::create_dir_all(target)?;
        }
        mount_at(source, target, kind, data)?;
    }
    // Podman unpacks images in the second.
    for folder in ["/etc", "/var/tmp"] {
        fs::create_dir_all(folder)?;
    }
    fs::write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write("/etc/group", "root:x:0:\n")?;
    fs::create_dir_all("/root")?;
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, Path::new("/dev").join(name))?;
    }
    let applets = Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status()?;
    if !applets.success() {
        return Err(io::Error::other("busybox --install failed"));
    }
    let loopback = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status()?;
    if !loopback.success() {
        return Err(io::Error::other("the loopback interface does not come up"));
    }
    if Path::new("/dev/vda").exists() {
        fs::create_dir_all(ROOTS)?;
        mount(Some("/dev/vda"), ROOTS, Some("ext4"), MsFlags::MS_RDONLY, None::<&str>)?;
    }

    let agent =
        Command::new(HARNESS).arg("vm-agent").env("PATH", PATH).env("HOME", "/root").spawn()?;
    let agent = agent.id() as i32;
    // Orphans come here too.
    while !matches!(waitpid(None, None)?.pid(), Some(pid) if pid.as_raw() == agent) {}
    reboot(RebootMode::RB_POWER_OFF)?;
    Ok(())
}

/// The agent: takes jobs from the port until the host closes it.
pub fn agent() -> io::Result<()> {
    process::become_subreaper()?;
    let port = port()?;
    let (mut input, mut output) = (&port, &port);
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kvm = if Path::new("/dev/kvm").exists() { "with /dev/kvm" } else { "without /dev/kvm" };
    protocol::send(&mut output, &Report::Ready(format!("Linux {} {kvm}", version.trim())))?;
    loop {
        let job: Job = match protocol::receive(&mut input) {
            Ok(job) => job,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        let Some((program, args)) = job.argv.split_first() else {
            return Err(io::Error::other("a job without a command"));
        };
        let started = Instant::now();
        let mut command = Command::new(program);
        command.args(args).envs(job.env.iter().map(|(k, v)| (k, v))).current_dir("/");
        let mut lost = Ok(());
        let done =
            process::run_streaming(&mut command, &job.stdin, job.limit, &mut |stream, bytes| {
                if lost.is_ok() {
                    lost = protocol::send(&mut output, &Report::Output(stream, bytes.to_vec()));
                }
            });
        lost?;
        let ended = match done {
            Ok(done) => {
                Ended { end: done.end, elapsed: done.elapsed, left_behind: done.left_behind }
            }
            Err(e) => {
                let text = format!("{program}: {e}\n").into_bytes();
                protocol::send(&mut output, &Report::Output(process::Stream::Stderr, text))?;
                Ended {
                    end: process::End::Exit(127),
                    elapsed: started.elapsed(),
                    left_behind: Vec::new(),
                }
            }
        };
        protocol::send(&mut output, &Report::Ended(ended))?;
    }
}

/// Opens the virtio-serial port by its name; its device may appear a moment after its driver.
fn port() -> io::Result<File> {
    let class = Path::new("/sys/class/virtio-ports");
    for _ in 0..500 {
        if let Ok(entries) = fs::read_dir(class) {
            for entry in entries.flatten() {
                let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
                if name.trim() == PORT {
                    return OpenOptions::new()
                        .read(true)
                        .write(true)
                        .open(Path::new("/dev").join(entry.file_name()));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!("no virtio port named {PORT}")))
}

/// Loads the modules of a folder, in the order of their names.
fn load_modules(folder: &Path) -> io::Result<()> {
    let mut modules: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
    modules.sort();
    for module in modules {
        let file = File::open(&module)?;
        finit_module(&file, c"", ModuleInitFlags::empty())
            .map_err(|e| io::Error::other(format!("{}: {e}", module.display())))?;
    }
    Ok(())
}

pub(super) fn mount_at(source: &str, target: &Path, kind: &str, data: &str) -> io::Result<()> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), Some(data))
        .map_err(|e| io::Error::other(format!("mounting {}: {e}", target.display())))
}

/// Moves a tree across file systems, freeing as it goes: both copies at once may not fit.
fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_dir() {
        fs::create_dir(to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(meta.permissions().mode()))?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            move_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        return fs::remove_dir(from);
    }
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if meta.is_file() {
        fs::copy(from, to)?;
    }
    fs::remove_file(from)
}
