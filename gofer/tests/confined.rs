//! A confined gofer in a process of its own: it serves, and it can do nothing else.
//!
//! The program starts itself again as the gofer, as the host half does.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gofer::server::{Attach, Config, confine, run};
use gofer::wire::*;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Says that this process is the gofer, and what it serves.
const SERVED: &str = "GOFER_TEST_SERVED";
/// What the gofer does instead of serving, once confined.
const MISBEHAVE: &str = "GOFER_TEST_MISBEHAVE";
/// A uid and gid without privilege.
const NOBODY: u32 = 65534;

fn main() {
    if let Ok(served) = std::env::var(SERVED) {
        gofer_process(PathBuf::from(served));
        return;
    }
    let mut cases: Vec<(&str, fn())> = vec![
        ("an_unprivileged_gofer_serves", || serves(User::Nobody)),
        ("a_gofer_without_namespaces_serves", || serves(User::NoNamespaces)),
    ];
    if rustix::process::getuid().is_root() {
        cases.push(("a_root_gofer_serves", || serves(User::Root)));
        cases.push(("a_gofer_that_misbehaves_is_killed", misbehaving_is_fatal));
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            case();
            println!("test {name} ... ok");
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum User {
    Root,
    Nobody,
    NoNamespaces,
}

/// The gofer: standard input is its socket.
fn gofer_process(served: PathBuf) {
    let user = std::env::var("GOFER_TEST_USER").unwrap();
    if user == "nobody" {
        // What the caller does for a user without privilege.
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        use nix::sched::CloneFlags;
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw())).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw())).unwrap();
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let root = fs::File::open(&served).unwrap().into();
    let attaches = vec![Attach { name: "root".into(), root, read_only: false }];
    let mut config = Config::new(socket, attaches);
    config.own_namespaces = user != "none";
    confine(&mut config).unwrap();
    match std::env::var(MISBEHAVE).as_deref() {
        Ok("socket") => {
            let _ = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        }
        Ok("exec") => {
            let _ = Command::new("/bin/true").exec();
        }
        Ok("chroot") => {
            let _ = rustix::process::chroot("/");
        }
        Ok("look") => {
            // It may try, and finds nothing but its descriptors.
            assert_eq!(names_in("/"), [".", "..", "fd"]);
            assert!(fs::metadata("/etc").is_err() && fs::metadata("/proc").is_err());
            let up = fs::metadata(format!("/fd/{}/..", raw(&config.attaches[0].root))).unwrap();
            let root = fs::metadata(format!("/fd/{}", raw(&config.attaches[0].root))).unwrap();
            assert_eq!((up.dev(), up.ino()), (root.dev(), root.ino()));
            assert!(fs::write("/x", "").is_err());
        }
        _ => {}
    }
    run(config).unwrap();
}

/// What is in a folder, sorted, by the calls that a gofer may make.
fn names_in(path: &str) -> Vec<String> {
    use rustix::fs::{CWD, Mode, OFlags, RawDir};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let folder = rustix::fs::openat(CWD, path, flags, Mode::empty()).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(folder, &mut space);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        names.push(entry.unwrap().file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn start(user: User, served: &PathBuf, misbehave: &str) -> (OwnedFd, Child) {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(SERVED, served).env(MISBEHAVE, misbehave).stdin(Stdio::from(theirs));
    let user_name = match user {
        User::Root => "root",
        User::Nobody => "nobody",
        User::NoNamespaces => "none",
    };
    command.env("GOFER_TEST_USER", user_name);
    if user == User::Nobody && rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    (ours, command.spawn().unwrap())
}

fn call(socket: &OwnedFd, buffer: &mut [u8], request: Request<'_>) -> Option<u8> {
    let size = request.emit(1, buffer).unwrap();
    rustix::net::send(socket, &buffer[..size], SendFlags::NOSIGNAL).ok()?;
    let (got, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()).ok()?;
    (got > 0).then(|| Frame::new_checked(&buffer[..got]).unwrap().kind())
}

fn temp_dir(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("gofer-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// Every operation once, so that no filter or missing capability is in its way.
fn serves(user: User) {
    let dir = temp_dir("serves");
    let owner = if rustix::process::getuid().is_root() {
        // The unprivileged gofer serves what belongs to it, and sees itself as root.
        let id = if user == User::Nobody { NOBODY } else { 0 };
        chown(&dir, Some(id), Some(id)).unwrap();
        id
    } else {
        rustix::process::getuid().as_raw()
    };
    let misbehave = if user == User::NoNamespaces { "" } else { "look" };
    let (socket, mut gofer) = start(user, &dir, misbehave);
    let mut buffer = vec![0u8; MSIZE_MAX];
    let mut ask = |request: Request<'_>| {
        let (name, kind) = (request.name(), request.kind());
        let got = call(&socket, &mut buffer, request);
        let errno = buffer[HEADER..HEADER + 4].to_vec();
        assert_eq!(got, Some(kind + 1), "{name}: {errno:?}");
    };
    // Who the files belong to, as the gofer sees it: it has CAP_CHOWN as root only.
    let (uid, gid) = if user == User::Root { (1000, 1001) } else { (0, 0) };
    let unprivileged = user == User::NoNamespaces && owner != 0;
    let (uid, gid) = if unprivileged { (owner, u32::MAX) } else { (uid, gid) };
    ask(Request::Version { msize: MSIZE_MAX as u32, version: VERSION_DIALECT });
    ask(Request::AttachX { fid: Fid(0), aname: b"root" });
    let create = |newfid, name| Request::CreateX {
        dir: Fid(0),
        newfid: Fid(newfid),
        name,
        flags: 2,
        mode: 0o4755,
        uid,
        gid,
        wish: 1,
    };
    ask(create(1, b"file"));
    ask(create(2, b"other"));
    ask(Request::Write { fid: Fid(1), offset: 0, data: Data(&[1; IO_MAX]) });
    ask(Request::Read { fid: Fid(1), offset: 0, count: IO_MAX as u32 });
    ask(Request::MkdirX { dir: Fid(0), newfid: Fid(3), name: b"dir", mode: 0o755, uid, gid });
    ask(Request::SymlinkX {
        dir: Fid(0),
        newfid: Fid(4),
        name: b"link",
        target: b"file",
        uid,
        gid,
    });
    ask(Request::MknodX {
        dir: Fid(0),
        newfid: Fid(5),
        name: b"fifo",
        mode: 0o010_644,
        rdev: Dev::default(),
        uid,
        gid,
    });
    let steps = vec![Step { newfid: Fid(7), name: b"file" }];
    ask(Request::WalkX { fid: Fid(0), steps });
    ask(Request::OpenX { fid: Fid(7), newfid: Fid(8), flags: 0, wish: 1 });
    let all = SetValid::MODE
        | SetValid::UID
        | SetValid::GID
        | SetValid::SIZE
        | SetValid::ATIME
        | SetValid::MTIME;
    let set = SetAttr { valid: all.bits(), mode: 0o6711, uid, gid, ..SetAttr::default() };
    ask(Request::SetattrX { fid: Fid(7), set: SetAttr { size: 100, ..set } });
    ask(Request::Statx { fid: Fid(4), mask: 0 });
    ask(Request::Statfs { fid: Fid(0) });
    // One's own changes are not told, so that replies alone are read below.
    ask(Request::Watch { fid: Fid(0) });
    ask(Request::Readlink { fid: Fid(4) });
    ask(Request::OpenX { fid: Fid(0), newfid: Fid(9), flags: 0, wish: 0 });
    ask(Request::ReaddirX { fid: Fid(9), offset: 0, count: 65536 });
    ask(Request::ReaddirX { fid: Fid(9), offset: 0, count: 65536 });
    ask(Request::LinkX { dir: Fid(3), fid: Fid(7), name: b"hard" });
    ask(Request::RenameX {
        olddir: Fid(3),
        oldname: b"hard",
        newdir: Fid(0),
        newname: b"moved",
        flags: 0,
    });
    ask(Request::RenameX {
        olddir: Fid(0),
        oldname: b"moved",
        newdir: Fid(0),
        newname: b"other",
        flags: 2,
    });
    ask(Request::Unlinkat { dir: Fid(0), name: b"moved", flags: 0 });
    ask(Request::Unlinkat { dir: Fid(0), name: b"dir", flags: UNLINK_DIR });
    ask(Request::CopyRange {
        source: Fid(8),
        source_offset: 0,
        target: Fid(1),
        target_offset: 200,
        length: 50,
    });
    ask(Request::Seek { fid: Fid(8), offset: 0, whence: 4 });
    ask(Request::LockX { fid: Fid(8), owner: 1, kind: lock::WRITE, start: 0, length: 1 });
    ask(Request::GetlockX { fid: Fid(8), owner: 2, kind: lock::READ, start: 0, length: 1 });
    ask(Request::SyncMany { fids: vec![Fid(0), Fid(1), Fid(8)], data_only: 0 });
    ask(Request::SyncMany { fids: vec![Fid(1)], data_only: 1 });
    for request in [
        // The host's file system may lack these; a filter would kill, which is what is asked here.
        Request::Fallocate { fid: Fid(1), mode: 0, offset: 0, length: 10 },
        Request::Tmpfile { dir: Fid(0), newfid: Fid(10), flags: 2, mode: 0, uid, gid, wish: 0 },
        Request::SetXattr { fid: Fid(7), name: b"user.a", value: Data(b"b"), flags: 0 },
        Request::GetXattr { fid: Fid(7), name: b"user.a", size: 10 },
        Request::ListXattr { fid: Fid(7), size: 1000 },
        Request::RemoveXattr { fid: Fid(7), name: b"user.a" },
    ] {
        let name = request.name();
        assert!(call(&socket, &mut buffer, request).is_some(), "{name} ended the gofer");
    }
    // Last, because a write takes the set-id bits away.
    let again = Request::SetattrX { fid: Fid(7), set: SetAttr { valid: 1, ..set } };
    assert_eq!(call(&socket, &mut buffer, again), Some(167));
    let call_clunk = Request::ClunkMany { fids: (0..20).map(Fid).collect() };
    assert!(call(&socket, &mut buffer, call_clunk).is_some());
    drop(socket);
    let status = gofer.wait().unwrap();
    assert!(status.success(), "{status}");
    let native = fs::metadata(dir.join("file")).unwrap();
    assert_eq!(native.permissions().mode() & 0o7777, 0o6711);
    if user == User::Root {
        assert_eq!((native.uid(), native.gid()), (1000, 1001));
    } else {
        assert_eq!(native.uid(), owner);
    }
    fs::remove_dir_all(&dir).unwrap();
}

fn misbehaving_is_fatal() {
    let dir = temp_dir("misbehaves");
    for deed in ["socket", "exec", "chroot"] {
        let (socket, mut gofer) = start(User::Root, &dir, deed);
        let status = gofer.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{deed}: {status}");
        drop(socket);
    }
    fs::remove_dir_all(&dir).unwrap();
}
