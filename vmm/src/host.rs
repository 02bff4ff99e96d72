//! The host's system calls that need privilege, behind a trait, so that what is done with them, and
//! in which order, is tested without privilege.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};

/// Flags for new file systems that hold nothing.
pub const EMPTY: MsFlags =
    MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC).union(MsFlags::MS_RDONLY);

/// What a process does to confine itself.
pub trait Host {
    /// Stops mounts from spreading out of this mount namespace, and into it.
    fn make_private(&self) -> Result<(), Errno>;
    /// Mounts an empty, read-only tmpfs.
    fn mount_empty(&self, target: &CStr) -> Result<(), Errno>;
    /// chdir(2).
    fn chdir(&self, path: &CStr) -> Result<(), Errno>;
    /// Makes the current directory the root, and stacks the old root under it.
    fn pivot_root(&self) -> Result<(), Errno>;
    /// Moves the current directory's mount over the root.
    fn move_to_root(&self) -> Result<(), Errno>;
    /// chroot(2) to the current directory.
    fn chroot(&self) -> Result<(), Errno>;
    /// Takes away what is mounted at the current directory, at once for new users.
    fn unmount(&self) -> Result<(), Errno>;
    /// Real, effective and saved ids; no supplementary groups.
    fn set_ids(&self, uid: u32, gid: u32) -> Result<(), Errno>;
    /// Empties every capability set, the bounding set included.
    fn drop_capabilities(&self) -> Result<(), Errno>;
    /// PR_SET_NO_NEW_PRIVS.
    fn no_new_privileges(&self) -> Result<(), Errno>;
    /// Has this process killed when its parent ends.
    fn die_with_parent(&self) -> Result<(), Errno>;

    /// No more. To be called by the thread that has said so.
    fn live_without_parent(&self) -> Result<(), Errno>;
    /// RLIMIT_CORE 0: a core would hold what the container keeps in memory.
    fn no_core(&self) -> Result<(), Errno>;
    /// No file is opened by name any more, where the host has Landlock.
    fn no_files(&self) -> Result<(), Errno>;
    /// Nobody but the host's root looks into the process's memory or at its descriptors.
    fn not_dumpable(&self) -> Result<(), Errno>;
    /// Lowers what the process may have of something, for good, to this at most.
    fn at_most(&self, what: Resource, most: u64) -> Result<(), Errno>;
}

/// The machine itself.
#[derive(Debug)]
pub struct Linux;

impl Host for Linux {
    fn make_private(&self) -> Result<(), Errno> {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&CStr>, c"/", None::<&CStr>, flags, None::<&CStr>)
    }

    fn mount_empty(&self, target: &CStr) -> Result<(), Errno> {
        nix::mount::mount(Some(c"none"), target, Some(c"tmpfs"), EMPTY, Some(c"size=0,nr_inodes=2"))
    }

    fn chdir(&self, path: &CStr) -> Result<(), Errno> {
        nix::unistd::chdir(path)
    }

    fn pivot_root(&self) -> Result<(), Errno> {
        nix::unistd::pivot_root(c".", c".")
    }

    fn move_to_root(&self) -> Result<(), Errno> {
        nix::mount::mount(Some(c"."), c"/", None::<&CStr>, MsFlags::MS_MOVE, None::<&CStr>)
    }

    fn chroot(&self) -> Result<(), Errno> {
        nix::unistd::chroot(c".")
    }

    fn unmount(&self) -> Result<(), Errno> {
        nix::mount::umount2(c".", MntFlags::MNT_DETACH)
    }

    fn set_ids(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        match nix::unistd::setgroups(&[]) {
            // A namespace that an unprivileged user made has it switched off, and then the groups are
            // the user's own.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(e) => return Err(e),
        }
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)
    }

    fn drop_capabilities(&self) -> Result<(), Errno> {
        keep_capabilities(0)
    }

    fn no_new_privileges(&self) -> Result<(), Errno> {
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
    }

    fn die_with_parent(&self) -> Result<(), Errno> {
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
    }

    fn live_without_parent(&self) -> Result<(), Errno> {
        prctl(libc::PR_SET_PDEATHSIG, 0, 0)
    }

    fn no_core(&self) -> Result<(), Errno> {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)
    }

    fn no_files(&self) -> Result<(), Errno> {
        crate::wall::files::nothing()
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
    }

    fn not_dumpable(&self) -> Result<(), Errno> {
        prctl(libc::PR_SET_DUMPABLE, 0, 0)
    }

    fn at_most(&self, what: Resource, most: u64) -> Result<(), Errno> {
        let (soft, hard) = getrlimit(what)?;
        setrlimit(what, soft.min(most), hard.min(most))
    }
}

/// Empties every capability set, the bounding set included, but for these.
pub fn keep_capabilities(kept: u64) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for capability in (0..64).filter(|capability| kept >> capability & 1 == 0) {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(()) => {}
            // Past the last one that this kernel knows (capabilities(7)).
            Err(Errno::EINVAL) => break,
            Err(e) => return Err(e),
        }
    }
    capset(Sets { effective: kept, permitted: kept, inheritable: 0 })
}

/// What fstat(2) says. Not the C library's function, which is another system call from version to version.
pub fn stat(fd: &impl AsFd) -> std::io::Result<libc::stat> {
    // SAFETY: zero is a value of the structure, which the call fills in.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        match libc::syscall(libc::SYS_fstat, fd.as_fd().as_raw_fd(), &raw mut stat) {
            0 => Ok(stat),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// Reads at a position, with the one call that the sandbox uses for all its reads.
pub fn read_at(fd: &impl AsFd, buf: &mut [u8], offset: i64) -> Result<usize, Errno> {
    let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `iov` describes `buf`, which is the caller's alone.
    let n = unsafe { libc::preadv2(fd.as_fd().as_raw_fd(), &iov, 1, offset, 0) };
    Errno::result(n).map(|n| n as usize)
}

/// prctl(2) with plain numbers.
pub fn prctl(option: i32, second: u64, third: u64) -> Result<(), Errno> {
    // SAFETY: none of the options used here takes a pointer.
    Errno::result(unsafe { libc::prctl(option, second, third, 0u64, 0u64) }).map(drop)
}

/// Capability sets as capset(2) takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What takes effect.
    pub effective: u64,
    /// What may take effect.
    pub permitted: u64,
    /// What may pass execve(2).
    pub inheritable: u64,
}

/// The header and the two halves of each set, as version 3 has them (linux/capability.h).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3.
const CAP_VERSION: u32 = 0x2008_0522;

/// Sets the calling thread's capabilities.
pub fn capset(sets: Sets) -> Result<(), Errno> {
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout and length of version 3, and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// The calling thread's capabilities.
pub fn capget() -> Result<Sets, Errno> {
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and data have the layout and length of version 3, and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let [low, high] = data;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Sets {
        effective: join(low.effective, high.effective),
        permitted: join(low.permitted, high.permitted),
        inheritable: join(low.inheritable, high.inheritable),
    })
}

/// Writes down what it is asked, and fails where it is told to.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Recorder {
    /// The calls.
    pub calls: std::cell::RefCell<Vec<String>>,
    /// The call that fails, and how.
    pub failing: Option<(&'static str, Errno)>,
}

#[cfg(test)]
impl Recorder {
    fn note(&self, name: &'static str, arguments: std::fmt::Arguments<'_>) -> Result<(), Errno> {
        self.calls.borrow_mut().push(format!("{name}{arguments}"));
        match self.failing {
            Some((failing, errno)) if failing == name => Err(errno),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
impl Host for Recorder {
    fn make_private(&self) -> Result<(), Errno> {
        self.note("make_private", format_args!(""))
    }
    fn mount_empty(&self, target: &CStr) -> Result<(), Errno> {
        self.note("mount_empty", format_args!(" {}", target.to_string_lossy()))
    }
    fn chdir(&self, path: &CStr) -> Result<(), Errno> {
        self.note("chdir", format_args!(" {}", path.to_string_lossy()))
    }
    fn pivot_root(&self) -> Result<(), Errno> {
        self.note("pivot_root", format_args!(""))
    }
    fn move_to_root(&self) -> Result<(), Errno> {
        self.note("move_to_root", format_args!(""))
    }
    fn chroot(&self) -> Result<(), Errno> {
        self.note("chroot", format_args!(""))
    }
    fn unmount(&self) -> Result<(), Errno> {
        self.note("unmount", format_args!(""))
    }
    fn set_ids(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        self.note("set_ids", format_args!(" {uid} {gid}"))
    }
    fn drop_capabilities(&self) -> Result<(), Errno> {
        self.note("drop_capabilities", format_args!(""))
    }
    fn no_new_privileges(&self) -> Result<(), Errno> {
        self.note("no_new_privileges", format_args!(""))
    }
    fn die_with_parent(&self) -> Result<(), Errno> {
        self.note("die_with_parent", format_args!(""))
    }

    fn live_without_parent(&self) -> Result<(), Errno> {
        self.note("live_without_parent", format_args!(""))
    }
    fn no_core(&self) -> Result<(), Errno> {
        self.note("no_core", format_args!(""))
    }
    fn no_files(&self) -> Result<(), Errno> {
        self.note("no_files", format_args!(""))
    }
    fn not_dumpable(&self) -> Result<(), Errno> {
        self.note("not_dumpable", format_args!(""))
    }
    fn at_most(&self, what: Resource, most: u64) -> Result<(), Errno> {
        self.note("at_most", format_args!(" {what:?} {most}"))
    }
}
