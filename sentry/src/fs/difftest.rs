//! The same random operations on a file system here and on the host's, compared step by step.

use std::ffi::CString;
use std::format;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::string::{String, ToString};
use std::vec::Vec;

use rustix::fs as host;

use super::setup::root_creds;
use super::tmpfs::{Options, Tmpfs};
use super::types::{Attr, mode};
use super::*;
use crate::control::Capabilities;
use crate::errno::Errno;
use crate::error::SysError;
use crate::platform::fake;
use crate::sync::WaitQueue;
use crate::task::{Blocked, Creds, UserNamespace};

/// For operations that must not wait.
pub struct NoWait;

impl Blocker for NoWait {
    fn wait(
        &self,
        _queue: &WaitQueue,
        _events: Events,
        _deadline: Option<u64>,
        _ready: &mut dyn FnMut() -> bool,
    ) -> Result<(), Blocked> {
        Err(Blocked::Interrupted)
    }
}

/// A namespace with a root, for tests.
pub struct Lab {
    pub fs: Arc<FsContext>,
    pub creds: Creds,
}

use alloc::sync::Arc;

impl Lab {
    pub fn new(root: Arc<dyn FileSystem>) -> Lab {
        fake::install();
        let sb = Super::new(root);
        let dentry = sb.root().unwrap();
        let mount = Mount::new(&sb, dentry, MountFlags::empty(), "test".into());
        let fs = FsContext::new(MountNamespace::new(mount), 0o022);
        let mut creds = root_creds(&UserNamespace::INITIAL);
        creds.fsuid = rustix::process::geteuid().as_raw();
        creds.fsgid = rustix::process::getegid().as_raw();
        if creds.fsuid != 0 {
            creds.capabilities = Capabilities::default();
        }
        Lab { fs, creds }
    }

    pub fn tmpfs() -> Lab {
        fake::install();
        Lab::new(Tmpfs::new("tmpfs", &Options::default()).unwrap())
    }

    pub fn cx(&self) -> Cx<'_> {
        Cx { fs: &self.fs, creds: &self.creds, task: None }
    }

    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        self.cx()
            .open(&NoWait, None, path.as_bytes(), flags, 0o644, WalkFlags::empty())
            .map_err(errno)
    }

    pub fn write(&self, path: &str, data: &[u8]) {
        let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
        let file = self.open(path, flags).unwrap();
        assert_eq!(file.write(&NoWait, &mut IoSrc::kernel(data)), Ok(data.len()));
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self.open(path, OpenFlags::empty())?;
        let mut buf = std::vec![0; 1 << 16];
        let n = file.read_at(0, &mut buf)?;
        buf.truncate(n);
        Ok(buf)
    }

    pub fn stat(&self, path: &str) -> Result<Attr, Errno> {
        self.cx().walk(None, path.as_bytes(), WalkFlags::empty())?.inode()?.attr()
    }

    pub fn list(&self, path: &str) -> Result<Vec<String>, Errno> {
        let file = self.open(path, OpenFlags::DIRECTORY)?;
        let mut names = Vec::new();
        file.readdir(&mut |e| {
            names.push(String::from_utf8_lossy(e.name).into_owned());
            true
        })?;
        names.sort();
        Ok(names)
    }
}

pub fn errno(e: SysError) -> Errno {
    match e {
        SysError::Errno(e) => e,
        SysError::Interrupted(_) => Errno::EINTR,
    }
}

/// A small generator, so that runs repeat (xorshift64*).
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn path(&mut self) -> String {
        const NAMES: [&str; 11] = ["a", "b", "c", "d", "a", "b", "l", "m", ".", "..", "e"];
        let mut path = String::from("./");
        for n in 0..=self.below(3) {
            if n > 0 {
                path.push('/');
            }
            path.push_str(NAMES[self.below(11) as usize]);
        }
        if self.below(12) == 0 {
            path.push('/');
        }
        path
    }
}

#[derive(Debug)]
enum Op {
    Mkdir(String, u32),
    Rmdir(String),
    Unlink(String),
    Open(String, u32, u32),
    Write(String, u64, usize),
    Truncate(String, u64),
    Rename(String, String, u32),
    Link(String, String, bool),
    Symlink(String, String),
    Readlink(String),
    Stat(String, bool),
    Read(String),
    List(String),
    Chmod(String, u32),
    SetXattr(String, String),
    GetXattr(String),
    Access(String, u32),
}

fn random_op(rng: &mut Rng) -> Op {
    const FLAGS: [u32; 14] = [
        0,
        1,
        2,
        0o100,
        0o101,
        0o102,
        0o301,
        0o1001,
        0o1101,
        0o2001,
        0o200000,
        0o400000,
        0o400100 | 1,
        0o10000000 | 0o400000,
    ];
    const MODES: [u32; 5] = [0o777, 0o755, 0o600, 0o2775, 0o000];
    const LINKS: [&str; 9] = ["a", "b", "../a", "l", "a/b", "./c/", "nowhere", "m/c", "../../c/d"];
    const RENAMES: [u32; 7] = [0, 0, 0, 1, 2, 2, 3];
    match rng.below(26) {
        0..=2 => Op::Mkdir(rng.path(), *rng.pick(&MODES)),
        3 => Op::Rmdir(rng.path()),
        4 => Op::Unlink(rng.path()),
        5..=8 => Op::Open(rng.path(), *rng.pick(&FLAGS), *rng.pick(&MODES)),
        9..=10 => Op::Write(rng.path(), rng.below(10000), rng.below(9000) as usize),
        11 => Op::Truncate(rng.path(), rng.below(12000)),
        12..=14 => Op::Rename(rng.path(), rng.path(), *rng.pick(&RENAMES)),
        15 => Op::Link(rng.path(), rng.path(), rng.below(3) == 0),
        16..=17 => Op::Symlink((*rng.pick(&LINKS)).into(), rng.path()),
        18 => Op::Readlink(rng.path()),
        19 => Op::Stat(rng.path(), rng.below(2) == 0),
        20 => Op::Read(rng.path()),
        21 => Op::List(rng.path()),
        22 => Op::Chmod(rng.path(), *rng.pick(&MODES)),
        23 => Op::SetXattr(rng.path(), format!("v{}", rng.below(9))),
        24 => Op::GetXattr(rng.path()),
        _ => Op::Access(rng.path(), rng.below(8) as u32),
    }
}

/// What can be compared of attributes: not inode numbers, times, or what a directory's size is.
fn shown(mode_: u32, nlink: u64, size: u64, links: bool) -> String {
    if mode_ & mode::IFMT == mode::IFDIR {
        match links {
            true => format!("{mode_:o} {nlink}"),
            false => format!("{mode_:o}"),
        }
    } else {
        format!("{mode_:o} {nlink} {size}")
    }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(31).wrapping_add(seed) as u8).collect()
}

fn digest(data: &[u8]) -> String {
    let sum = data.iter().fold(7u64, |h, b| h.wrapping_mul(1_000_003) ^ u64::from(*b));
    format!("{} {sum:x}", data.len())
}

/// Whether directories' link counts are Linux's (an overlay's are always 1).
type Outcome = Result<String, Errno>;

fn here(lab: &Lab, base: &Path, op: &Op, links: bool) -> Outcome {
    let cx = lab.cx();
    let at = Some(base);
    let open = |path: &str, flags: u32, perm: u32| {
        let flags = OpenFlags::from_bits_retain(flags);
        cx.open(&NoWait, at, path.as_bytes(), flags, perm, WalkFlags::empty()).map_err(errno)
    };
    let walk = |path: &str, follow: bool| {
        let flags = if follow { WalkFlags::FOLLOW } else { WalkFlags::empty() };
        cx.walk(at, path.as_bytes(), flags)
    };
    let done = String::new();
    Ok(match op {
        Op::Mkdir(p, m) => {
            cx.mkdir(at, p.as_bytes(), *m)?;
            done
        }
        Op::Rmdir(p) => {
            cx.rmdir(at, p.as_bytes())?;
            done
        }
        Op::Unlink(p) => {
            cx.unlink(at, p.as_bytes())?;
            done
        }
        Op::Open(p, f, m) => {
            let a = open(p, *f, *m)?.attr()?;
            shown(a.mode, a.nlink.into(), a.size, links)
        }
        Op::Write(p, o, n) => {
            let file = open(p, 1, 0)?;
            let data = pattern(*n, *o);
            let n = file.pwrite(&NoWait, &mut IoSrc::kernel(&data), *o).map_err(errno)?;
            format!("{n} {}", file.attr()?.size)
        }
        Op::Truncate(p, n) => {
            let file = open(p, 1, 0)?;
            file.truncate(&cx, *n)?;
            file.attr()?.size.to_string()
        }
        Op::Rename(a, b, f) => {
            let flags = RenameFlags::from_bits_retain(*f);
            cx.rename((at, a.as_bytes()), (at, b.as_bytes()), flags)?;
            done
        }
        Op::Link(a, b, follow) => {
            let old = walk(a, *follow)?;
            cx.link(&old, at, b.as_bytes())?;
            done
        }
        Op::Symlink(t, p) => {
            cx.symlink(t.as_bytes(), at, p.as_bytes())?;
            done
        }
        Op::Readlink(p) => String::from_utf8(cx.readlink(&walk(p, false)?)?).unwrap(),
        Op::Stat(p, follow) => {
            let a = walk(p, *follow)?.inode()?.attr()?;
            shown(a.mode, a.nlink.into(), a.size, links)
        }
        Op::Read(p) => {
            let file = open(p, 0, 0)?;
            let mut buf = std::vec![0; 32768];
            let n = file.pread(&NoWait, &mut IoDst::kernel(&mut buf), 0).map_err(errno)?;
            digest(&buf[..n])
        }
        Op::List(p) => {
            let file = open(p, 0o200000, 0)?;
            let mut names = Vec::new();
            file.readdir(&mut |e| {
                names.push(format!("{} {}", String::from_utf8_lossy(e.name), e.kind.dirent()));
                true
            })?;
            names.sort();
            names.join(",")
        }
        Op::Chmod(p, m) => {
            let path = walk(p, true)?;
            cx.set_attr(&path, &SetAttr { mode: Some(*m), ..SetAttr::default() })?;
            done
        }
        Op::SetXattr(p, v) => {
            let path = walk(p, true)?;
            path.inode()?.set_xattr(b"trusted.t", v.as_bytes(), 0)?;
            done
        }
        Op::GetXattr(p) => {
            String::from_utf8(walk(p, true)?.inode()?.get_xattr(b"trusted.t")?).unwrap()
        }
        Op::Access(p, m) => {
            let inode = walk(p, true)?.inode()?.clone();
            perm::permission(&cx, &*inode, Access::from_bits_retain(*m))?;
            done
        }
    })
}

fn there(base: &OwnedFd, op: &Op, links: bool) -> Outcome {
    let dir = base.as_fd();
    let no = |e: rustix::io::Errno| Errno::from_code(e.raw_os_error());
    let path = |p: &str| CString::new(p).unwrap();
    let open = |p: &str, flags: u32, perm: u32| {
        // No descriptor may leak into what other tests start.
        let flags = host::OFlags::from_bits_retain(flags) | host::OFlags::CLOEXEC;
        host::openat(dir, path(p), flags, host::Mode::from_bits_retain(perm)).map_err(no)
    };
    let stat_fd = |fd: &OwnedFd| {
        let s = host::fstat(fd).map_err(no)?;
        Ok(shown(s.st_mode, s.st_nlink, s.st_size as u64, links))
    };
    let follow_flag = |follow: bool| match follow {
        true => host::AtFlags::empty(),
        false => host::AtFlags::SYMLINK_NOFOLLOW,
    };
    let done = String::new();
    let proc_path = |fd: &OwnedFd| {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    };
    Ok(match op {
        Op::Mkdir(p, m) => {
            host::mkdirat(dir, path(p), host::Mode::from_bits_retain(*m)).map_err(no)?;
            done
        }
        Op::Rmdir(p) => {
            host::unlinkat(dir, path(p), host::AtFlags::REMOVEDIR).map_err(no)?;
            done
        }
        Op::Unlink(p) => {
            host::unlinkat(dir, path(p), host::AtFlags::empty()).map_err(no)?;
            done
        }
        Op::Open(p, f, m) => stat_fd(&open(p, *f, *m)?)?,
        Op::Write(p, o, n) => {
            let fd = open(p, 1, 0)?;
            let n = rustix::io::pwrite(&fd, &pattern(*n, *o), *o).map_err(no)?;
            format!("{n} {}", host::fstat(&fd).map_err(no)?.st_size)
        }
        Op::Truncate(p, n) => {
            let fd = open(p, 1, 0)?;
            host::ftruncate(&fd, *n).map_err(no)?;
            host::fstat(&fd).map_err(no)?.st_size.to_string()
        }
        Op::Rename(a, b, f) => {
            let flags = host::RenameFlags::from_bits_retain(*f);
            host::renameat_with(dir, path(a), dir, path(b), flags).map_err(no)?;
            done
        }
        Op::Link(a, b, follow) => {
            let flags =
                if *follow { host::AtFlags::SYMLINK_FOLLOW } else { host::AtFlags::empty() };
            host::linkat(dir, path(a), dir, path(b), flags).map_err(no)?;
            done
        }
        Op::Symlink(t, p) => {
            host::symlinkat(path(t), dir, path(p)).map_err(no)?;
            done
        }
        Op::Readlink(p) => {
            let text = host::readlinkat(dir, path(p), Vec::new()).map_err(no)?;
            text.into_string().unwrap()
        }
        Op::Stat(p, follow) => {
            let s = host::statat(dir, path(p), follow_flag(*follow)).map_err(no)?;
            shown(s.st_mode, s.st_nlink, s.st_size as u64, links)
        }
        Op::Read(p) => {
            let fd = open(p, 0, 0)?;
            let mut buf = std::vec![0; 32768];
            let n = rustix::io::pread(&fd, &mut buf, 0).map_err(no)?;
            digest(&buf[..n])
        }
        Op::List(p) => {
            let fd = open(p, 0o200000, 0)?;
            let mut names = Vec::new();
            for entry in host::Dir::new(fd).map_err(no)? {
                let entry = entry.map_err(no)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind = entry.file_type().as_raw_mode() >> 12;
                names.push(format!("{name} {kind}"));
            }
            names.sort();
            names.join(",")
        }
        Op::Chmod(p, m) => {
            let mode = host::Mode::from_bits_retain(*m);
            host::chmodat(dir, path(p), mode, host::AtFlags::empty()).map_err(no)?;
            done
        }
        Op::SetXattr(p, v) => {
            let fd = open(p, 0o10000000, 0)?;
            let flags = host::XattrFlags::empty();
            host::setxattr(proc_path(&fd), "trusted.t", v.as_bytes(), flags).map_err(no)?;
            done
        }
        Op::GetXattr(p) => {
            let fd = open(p, 0o10000000, 0)?;
            let mut buf = [0u8; 64];
            let n = host::getxattr(proc_path(&fd), "trusted.t", &mut buf[..]).map_err(no)?;
            String::from_utf8(buf[..n].to_vec()).unwrap()
        }
        Op::Access(p, m) => {
            let access = host::Access::from_bits_retain(*m);
            host::accessat(dir, path(p), access, host::AtFlags::empty()).map_err(no)?;
            done
        }
    })
}

/// A folder on the host that goes when the test ends.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let base = if fs::metadata("/dev/shm").is_ok() { "/dev/shm" } else { "/tmp" };
        let path = PathBuf::from(format!("{base}/ringwall-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Deeper than all the `..` that links chained together can climb.
const DEPTH: usize = 130;

/// Runs the same operations on both sides. `lab` holds `DEPTH` directories called `x`, one in the
/// other, and so does the host's folder.
pub fn compare(lab: &Lab, scratch: &Scratch, seed: u64, steps: usize, links: bool) {
    let deep = "x/".repeat(DEPTH);
    for n in 1..=DEPTH {
        let path = "x/".repeat(n);
        match lab.cx().mkdir(None, path.as_bytes(), 0o755) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => panic!("{e}"),
        }
    }
    fs::create_dir_all(scratch.0.join(&deep)).unwrap();
    let base = lab.cx().walk(None, deep.as_bytes(), WalkFlags::empty()).unwrap();
    let real = scratch.0.join(&deep);
    let flags = host::OFlags::PATH | host::OFlags::DIRECTORY | host::OFlags::CLOEXEC;
    let name = CString::new(real.as_os_str().as_bytes()).unwrap();
    let fd = host::openat(host::CWD, name, flags, host::Mode::empty()).unwrap();
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut history = Vec::new();
    for step in 0..steps {
        let op = random_op(&mut rng);
        let (ours, theirs) = (here(lab, &base, &op, links), there(&fd, &op, links));
        history.push(format!("{op:?} -> {theirs:?}"));
        if ours != theirs {
            let from = history.len().saturating_sub(40);
            for line in &history[from..] {
                std::eprintln!("{line}");
            }
            panic!("seed {seed} step {step}: {op:?}: here {ours:?}, Linux {theirs:?}");
        }
    }
}

/// chmod and create depend on it, and it is the process's.
pub fn set_umask() {
    rustix::process::umask(host::Mode::from_bits_retain(0o022));
}

#[test]
fn tmpfs_does_as_linux_does() {
    set_umask();
    for seed in 0..40 {
        let scratch = Scratch::new(&format!("tmpfs-{seed}"));
        compare(&Lab::tmpfs(), &scratch, seed, 400, true);
    }
}
