//! The server on a temporary directory, driven message by message, and once over real sockets.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::wire::lock;
use crate::wire::messages::{entries, entries_attr};
use crate::wire::*;

/// A directory that is removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gofer-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn attach(path: &Path, name: &str, read_only: bool) -> Attach {
    let root = fs::File::open(path).unwrap().into();
    Attach { name: name.into(), root, read_only }
}

/// A client that owns its server.
struct Client {
    session: Session,
    request: Vec<u8>,
    reply: Vec<u8>,
    donated: Option<OwnedFd>,
}

impl Client {
    /// A client of the dialect whose fid 0 is the root `dir`.
    fn new(dir: &TempDir) -> Self {
        let mut client = Client::unversioned(vec![attach(dir.path(), "root", false)]);
        client.version(VERSION_DIALECT);
        client.attach("root", 0);
        client
    }

    fn plain(dir: &TempDir) -> Self {
        let mut client = Client::unversioned(vec![attach(dir.path(), "root", false)]);
        client.version(VERSION_L);
        let reply = client.call(Request::Attach {
            fid: Fid(0),
            afid: Fid::NONE,
            uname: b"root",
            aname: b"",
            uid: 0,
        });
        assert!(matches!(reply, Reply::Attach { .. }), "{reply:?}");
        client
    }

    fn unversioned(attaches: Vec<Attach>) -> Self {
        Client {
            session: Session::new(attaches, "/proc/self/fd".into()).unwrap(),
            request: vec![0; MSIZE_MAX],
            reply: vec![0; MSIZE_MAX],
            donated: None,
        }
    }

    fn version(&mut self, version: &'static [u8]) {
        let reply = self.call(Request::Version { msize: u32::MAX, version });
        assert_eq!(reply, Reply::Version { msize: MSIZE_MAX as u32, version });
    }

    fn attach(&mut self, name: &str, fid: u32) {
        let reply = self.call(Request::AttachX { fid: Fid(fid), aname: name.as_bytes() });
        assert!(matches!(reply, Reply::AttachX { .. }), "{reply:?}");
    }

    fn call(&mut self, request: Request<'_>) -> Reply<'_> {
        let size = request.emit(5, &mut self.request).unwrap();
        let answer = self.session.handle(&self.request[..size], &mut self.reply).unwrap();
        self.donated = answer.donation.map(|fd| fd.try_clone_to_owned().unwrap());
        let frame = Frame::new_checked(&self.reply[..answer.size]).unwrap();
        assert_eq!(frame.tag(), 5);
        Reply::parse(frame).unwrap()
    }

    fn errno(&mut self, request: Request<'_>) -> i32 {
        match self.call(request) {
            Reply::Error { errno } => errno as i32,
            other => panic!("no error: {other:?}"),
        }
    }

    fn walk(&mut self, from: u32, newfid: u32, path: &str) -> Attr {
        let names: Vec<&str> = path.split('/').collect();
        let steps = names.iter().enumerate().map(|(at, name)| Step {
            newfid: if at + 1 == names.len() { Fid(newfid) } else { Fid::NONE },
            name: name.as_bytes(),
        });
        match self.call(Request::WalkX { fid: Fid(from), steps: steps.collect() }) {
            Reply::WalkX { nodes, errno: 0, .. } if nodes.len() == names.len() => {
                nodes.last().unwrap().attr
            }
            other => panic!("walk to {path}: {other:?}"),
        }
    }

    fn open(&mut self, fid: u32, newfid: u32, flags: u32, wish: Wish) -> u8 {
        let request =
            Request::OpenX { fid: Fid(fid), newfid: Fid(newfid), flags, wish: wish.bits() };
        match self.call(request) {
            Reply::OpenX { granted, .. } => granted,
            other => panic!("open: {other:?}"),
        }
    }

    fn create(&mut self, newfid: u32, name: &str) {
        let request = Request::CreateX {
            dir: Fid(0),
            newfid: Fid(newfid),
            name: name.as_bytes(),
            flags: 2,
            mode: 0o640,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            wish: 0,
        };
        let reply = self.call(request);
        assert!(matches!(reply, Reply::CreateX { .. }), "{reply:?}");
    }
}

#[test]
fn a_walk_tells_how_far_it_went() {
    let dir = TempDir::new("walk");
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/c"), "content").unwrap();
    symlink("/etc/passwd", dir.path().join("a/link")).unwrap();
    let mut client = Client::new(&dir);
    let steps = |names: &[&'static str]| {
        names.iter().map(|n| Step { newfid: Fid::NONE, name: n.as_bytes() }).collect::<Vec<_>>()
    };
    let walk = |names: &[&'static str]| Request::WalkX { fid: Fid(0), steps: steps(names) };

    let Reply::WalkX { nodes, errno, target } = client.call(walk(&["a", "b", "c"])) else {
        panic!()
    };
    assert_eq!((nodes.len(), errno, target), (3, 0, &b""[..]));
    let native = fs::metadata(dir.path().join("a/b/c")).unwrap();
    assert_eq!(nodes[2].attr.ino, native.ino());
    assert_eq!(nodes[2].attr.size, 7);
    assert_eq!(nodes[2].attr.mtime.nsec as i64, native.mtime_nsec());

    let Reply::WalkX { nodes, errno, .. } = client.call(walk(&["a", "x", "c"])) else { panic!() };
    assert_eq!((nodes.len(), errno as i32), (1, libc::ENOENT));
    let Reply::WalkX { nodes, errno, .. } = client.call(walk(&["a", "b", "c", "d"])) else {
        panic!()
    };
    assert_eq!((nodes.len(), errno as i32), (3, libc::ENOTDIR));
    // A link in the middle or at the end is shown with its target, and not followed.
    for names in [&["a", "link", "x"][..], &["a", "link"]] {
        let Reply::WalkX { nodes, errno, target } = client.call(walk(names)) else { panic!() };
        assert_eq!((nodes.len(), errno, target), (2, 0, &b"/etc/passwd"[..]));
        assert_eq!(nodes[1].qid.kind, QidKind::SYMLINK.bits());
    }
}

#[test]
fn names_never_leave_the_root() {
    let dir = TempDir::new("escape");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let mut client = Client::new(&dir);
    client.walk(0, 1, "sub");
    for (name, expected) in [
        (&b".."[..], libc::EINVAL),
        (b".", libc::EINVAL),
        (b"", libc::EINVAL),
        (b"../..", libc::EINVAL),
        (b"/etc", libc::EINVAL),
        (b"sub/x", libc::EINVAL),
        (b"a\0b", libc::EINVAL),
        (&[b'x'; 256], libc::ENAMETOOLONG),
    ] {
        for fid in [Fid(0), Fid(1)] {
            let step = Step { newfid: Fid(9), name };
            let Reply::WalkX { nodes, errno, .. } =
                client.call(Request::WalkX { fid, steps: vec![step] })
            else {
                panic!()
            };
            assert_eq!((nodes.len(), errno as i32), (0, expected));
            let walk = Request::Walk { fid, newfid: Fid(9), names: vec![name] };
            assert_eq!(client.errno(walk), expected);
            let mkdir = Request::Mkdir { fid, name, mode: 0o755, gid: 0 };
            assert_eq!(client.errno(mkdir), expected);
            let unlink = Request::Unlinkat { dir: fid, name, flags: UNLINK_DIR };
            assert_eq!(client.errno(unlink), expected);
            let rename =
                Request::Renameat { olddir: Fid(0), oldname: b"sub", newdir: fid, newname: name };
            assert_eq!(client.errno(rename), expected);
            let link = Request::Link { dir: fid, fid: Fid(1), name };
            assert_eq!(client.errno(link), expected);
            let create = Request::Lcreate { fid, name, flags: 2, mode: 0o644, gid: 0 };
            assert_eq!(client.errno(create), expected);
            let symlink = Request::Symlink { fid, name, target: b"t", gid: 0 };
            assert_eq!(client.errno(symlink), expected);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn only_regular_files_and_directories_are_opened() {
    let dir = TempDir::new("special");
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(&root, "fifo", rustix::fs::FileType::Fifo, mode, 0).unwrap();
    rustix::fs::mknodat(&root, "sock", rustix::fs::FileType::Socket, mode, 0).unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    let mut client = Client::new(&dir);
    let wish = Wish::DONATE;
    for (at, (name, expected)) in
        [("link", libc::ELOOP), ("fifo", libc::ENXIO), ("sock", libc::ENXIO)].iter().enumerate()
    {
        let fid = 10 + at as u32;
        client.walk(0, fid, name);
        for flags in [0, 1, 2, OpenFlags::TRUNC.bits()] {
            let open = Request::OpenX { fid: Fid(fid), newfid: Fid(99), flags, wish: wish.bits() };
            assert_eq!(client.errno(open), *expected, "{name}");
            assert!(client.donated.is_none());
        }
    }
    client.walk(0, 1, "file");
    assert_eq!(client.open(1, 2, 0, Wish::empty()), 0);
    assert!(client.donated.is_none());
    client.walk(0, 3, "dir");
    assert_eq!(client.open(3, 4, 0, wish), 0);
    assert!(client.donated.is_none(), "a directory is never donated");
}

#[test]
fn a_donated_descriptor_is_the_file_as_opened() {
    let dir = TempDir::new("donate");
    fs::write(dir.path().join("file"), "content").unwrap();
    let mut client = Client::new(&dir);
    client.walk(0, 1, "file");
    assert_eq!(client.open(1, 2, 0, Wish::DONATE), Granted::DONATED.bits());
    let file = fs::File::from(client.donated.take().unwrap());
    let mut content = [0; 16];
    assert_eq!(file.read_at(&mut content, 0).unwrap(), 7);
    assert!(file.write_at(b"x", 0).is_err());
    assert_eq!(client.open(1, 3, 2, Wish::DONATE), Granted::DONATED.bits());
    let file = fs::File::from(client.donated.take().unwrap());
    file.write_at(b"C", 0).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "Content");
}

#[test]
fn a_donation_that_is_not_kept_leaves_no_open_fid() {
    let dir = TempDir::new("not-kept");
    fs::write(dir.path().join("file"), "content").unwrap();
    let mut client = Client::new(&dir);
    client.walk(0, 1, "file");
    let wish = Wish::DONATE | Wish::NOT_KEPT;
    assert_eq!(client.open(1, 2, 0, wish), 1);
    assert!(client.donated.is_some());
    assert_eq!(client.errno(Request::Clunk { fid: Fid(2) }), libc::EBADF);
    // Unless it could not be sent.
    assert_eq!(client.open(1, 2, 0, wish), 1);
    client.session.keep_donation(&mut client.reply);
    assert_eq!(client.reply[HEADER], 0);
    assert_eq!(
        client.call(Request::Read { fid: Fid(2), offset: 0, count: 9 }),
        Reply::Read { data: Data(b"content") }
    );
    // A directory is not donated and so kept.
    client.walk(0, 3, "file");
    client.open(0, 4, 0, wish);
    assert_eq!(client.call(Request::Clunk { fid: Fid(4) }), Reply::Clunk {});
}

#[test]
fn files_are_created_written_and_read() {
    let dir = TempDir::new("create");
    let mut client = Client::new(&dir);
    client.create(1, "new");
    let data = vec![7u8; 100_000];
    let half = &data[..IO_MAX];
    let reply = client.call(Request::Write { fid: Fid(1), offset: 0, data: Data(half) });
    assert_eq!(reply, Reply::Write { count: IO_MAX as u32 });
    let reply = client.call(Request::Read { fid: Fid(1), offset: 1, count: u32::MAX });
    assert_eq!(reply, Reply::Read { data: Data(&half[1..]) });
    let reply = client.call(Request::Read { fid: Fid(1), offset: 1 << 40, count: 1 });
    assert_eq!(reply, Reply::Read { data: Data(&[]) });
    let native = fs::metadata(dir.path().join("new")).unwrap();
    assert_eq!(native.mode() & 0o7777, 0o640);
    assert_eq!(native.len(), IO_MAX as u64);

    let again = Request::CreateX {
        dir: Fid(0),
        newfid: Fid(2),
        name: b"new",
        flags: 2,
        mode: 0o600,
        uid: 0,
        gid: 0,
        wish: 0,
    };
    assert_eq!(client.errno(again), libc::EEXIST);
    assert_eq!(client.errno(Request::Clunk { fid: Fid(2) }), libc::EBADF);

    // A file opened for reading is not written, and the other way round.
    client.walk(0, 3, "new");
    client.open(3, 4, 0, Wish::empty());
    let write = Request::Write { fid: Fid(4), offset: 0, data: Data(b"x") };
    assert_eq!(client.errno(write), libc::EBADF);
    client.open(3, 5, 1, Wish::empty());
    assert_eq!(client.errno(Request::Read { fid: Fid(5), offset: 0, count: 1 }), libc::EBADF);
    assert_eq!(client.errno(Request::Read { fid: Fid(3), offset: 0, count: 1 }), libc::EBADF);
}

#[test]
fn owners_are_what_the_client_says() {
    if !rustix::process::getuid().is_root() {
        return; // needs CAP_CHOWN
    }
    let dir = TempDir::new("owner");
    let mut client = Client::new(&dir);
    let reply = client.call(Request::CreateX {
        dir: Fid(0),
        newfid: Fid(1),
        name: b"setuid",
        flags: 1,
        mode: 0o6755,
        uid: 1234,
        gid: 4321,
        wish: 0,
    });
    let Reply::CreateX { node, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((node.attr.uid, node.attr.gid), (1234, 4321));
    assert_eq!(node.attr.mode & 0o7777, 0o6755);
    let reply = client.call(Request::MkdirX {
        dir: Fid(0),
        newfid: Fid(2),
        name: b"dir",
        mode: 0o2777,
        uid: 1,
        gid: 2,
    });
    let Reply::MkdirX { node } = reply else { panic!("{reply:?}") };
    assert_eq!((node.attr.uid, node.attr.gid, node.attr.mode), (1, 2, 0o42777));
    let reply = client.call(Request::SymlinkX {
        dir: Fid(2),
        newfid: Fid(3),
        name: b"link",
        target: b"anywhere",
        uid: 5,
        gid: 6,
    });
    let Reply::SymlinkX { node } = reply else { panic!("{reply:?}") };
    assert_eq!((node.attr.uid, node.attr.gid), (5, 6));
    assert_eq!(
        client.call(Request::Readlink { fid: Fid(3) }),
        Reply::Readlink { target: b"anywhere" }
    );
    let reply = client.call(Request::MknodX {
        dir: Fid(0),
        newfid: Fid::NONE,
        name: b"fifo",
        mode: 0o010_600,
        rdev: Dev::default(),
        uid: 7,
        gid: 8,
    });
    let Reply::MknodX { node } = reply else { panic!("{reply:?}") };
    assert_eq!((node.attr.uid, node.attr.gid, node.attr.mode), (7, 8, 0o010_600));
}

#[test]
fn attributes_are_set() {
    let dir = TempDir::new("setattr");
    fs::write(dir.path().join("file"), "content").unwrap();
    let mut client = Client::new(&dir);
    client.walk(0, 1, "file");
    let set = SetAttr {
        valid: (SetValid::MODE
            | SetValid::SIZE
            | SetValid::ATIME
            | SetValid::MTIME
            | SetValid::MTIME_SET)
            .bits(),
        mode: 0o604,
        size: 3,
        mtime_sec: 1_000_000,
        mtime_nsec: 5,
        ..SetAttr::default()
    };
    let reply = client.call(Request::SetattrX { fid: Fid(1), set });
    let Reply::SetattrX { attr } = reply else { panic!("{reply:?}") };
    assert_eq!((attr.mode, attr.size), (0o100_604, 3));
    assert_eq!(attr.mtime, Time { sec: 1_000_000, nsec: 5 });
    assert!(attr.atime.sec > 1_000_000);
    let native = fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!(native.permissions().mode(), 0o100_604);
    let bad = SetAttr { mtime_nsec: 1 << 30, ..set };
    assert_eq!(client.errno(Request::SetattrX { fid: Fid(1), set: bad }), libc::EINVAL);
    let bad = SetAttr { valid: 1 << 20, ..set };
    assert_eq!(client.errno(Request::SetattrX { fid: Fid(1), set: bad }), libc::EINVAL);
}

#[test]
fn a_read_only_attach_changes_nothing() {
    let dir = TempDir::new("readonly");
    fs::write(dir.path().join("file"), "content").unwrap();
    let mut client =
        Client::unversioned(vec![attach(dir.path(), "root", false), attach(dir.path(), "1", true)]);
    client.version(VERSION_DIALECT);
    client.attach("root", 0);
    let reply = client.call(Request::AttachX { fid: Fid(1), aname: b"1" });
    let Reply::AttachX { flags, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(flags, AttachFlags::READ_ONLY.bits());
    assert_eq!(client.errno(Request::AttachX { fid: Fid(2), aname: b"2" }), libc::ENOENT);
    client.walk(1, 3, "file");
    let requests = [
        Request::OpenX { fid: Fid(3), newfid: Fid(9), flags: 1, wish: 1 },
        Request::OpenX { fid: Fid(3), newfid: Fid(9), flags: 2, wish: 1 },
        Request::OpenX { fid: Fid(3), newfid: Fid(9), flags: 0o1000, wish: 1 },
        Request::CreateX {
            dir: Fid(1),
            newfid: Fid(9),
            name: b"new",
            flags: 2,
            mode: 0,
            uid: 0,
            gid: 0,
            wish: 0,
        },
        Request::Mkdir { fid: Fid(1), name: b"new", mode: 0, gid: 0 },
        Request::Symlink { fid: Fid(1), name: b"new", target: b"x", gid: 0 },
        Request::Unlinkat { dir: Fid(1), name: b"file", flags: 0 },
        Request::RenameX {
            olddir: Fid(1),
            oldname: b"file",
            newdir: Fid(1),
            newname: b"x",
            flags: 0,
        },
        Request::Link { dir: Fid(1), fid: Fid(3), name: b"new" },
        Request::SetattrX { fid: Fid(3), set: SetAttr { valid: 1, mode: 0, ..SetAttr::default() } },
        Request::SetXattr { fid: Fid(3), name: b"user.x", value: Data(b"y"), flags: 0 },
        Request::RemoveXattr { fid: Fid(3), name: b"user.x" },
        Request::Tmpfile {
            dir: Fid(1),
            newfid: Fid(9),
            flags: 2,
            mode: 0,
            uid: 0,
            gid: 0,
            wish: 0,
        },
    ];
    for request in requests {
        let name = request.name();
        assert_eq!(client.errno(request), libc::EROFS, "{name}");
    }
    // Not by linking it into the attach point that can be written either.
    let link = Request::Link { dir: Fid(0), fid: Fid(3), name: b"new" };
    assert_eq!(client.errno(link), libc::EXDEV);
    assert_eq!(client.open(3, 9, 0, Wish::DONATE), 1);
}

#[test]
fn directories_are_read_in_pieces() {
    let dir = TempDir::new("readdir");
    for at in 0..500 {
        fs::write(dir.path().join(format!("file-{at:03}")), vec![0u8; at]).unwrap();
    }
    let mut client = Client::new(&dir);
    client.open(0, 1, OpenFlags::DIRECTORY.bits(), Wish::empty());
    for (attributes, count) in [(true, 4000), (true, 60_000), (false, 500), (false, 60_000)] {
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let fid = Fid(1);
            let before = names.len();
            if attributes {
                let reply = client.call(Request::ReaddirX { fid, offset, count });
                let Reply::ReaddirX { data, end } = reply else { panic!("{reply:?}") };
                for entry in entries_attr(data) {
                    let entry = entry.unwrap();
                    offset = entry.offset;
                    let name = String::from_utf8(entry.name.to_vec()).unwrap();
                    if let Some(size) = name.strip_prefix("file-") {
                        assert_eq!(entry.node.attr.size, size.parse::<u64>().unwrap());
                    }
                    names.push(name);
                }
                if end == 1 {
                    break;
                }
            } else {
                let reply = client.call(Request::Readdir { fid, offset, count });
                let Reply::Readdir { data } = reply else { panic!("{reply:?}") };
                for entry in entries(data) {
                    let entry = entry.unwrap();
                    offset = entry.offset;
                    names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                }
                if names.len() == before {
                    break;
                }
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 502, "each entry once, with . and ..");
    }
    let small = Request::ReaddirX { fid: Fid(1), offset: 0, count: 10 };
    assert_eq!(client.errno(small), libc::EINVAL);
}

#[test]
fn names_are_moved_linked_and_removed() {
    let dir = TempDir::new("names");
    fs::write(dir.path().join("a"), "A").unwrap();
    fs::write(dir.path().join("b"), "B").unwrap();
    let mut client = Client::new(&dir);
    let rename = |oldname: &'static [u8], newname: &'static [u8], flags| Request::RenameX {
        olddir: Fid(0),
        oldname,
        newdir: Fid(0),
        newname,
        flags,
    };
    assert_eq!(client.errno(rename(b"a", b"b", libc::RENAME_NOREPLACE)), libc::EEXIST);
    assert_eq!(client.call(rename(b"a", b"b", libc::RENAME_EXCHANGE)), Reply::RenameX {});
    assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "B");
    assert_eq!(client.errno(rename(b"a", b"b", 1 << 20)), libc::EINVAL);
    assert_eq!(client.call(rename(b"a", b"b", 0)), Reply::RenameX {});
    client.walk(0, 1, "b");
    let reply = client.call(Request::LinkX { dir: Fid(0), fid: Fid(1), name: b"c" });
    let Reply::LinkX { attr } = reply else { panic!("{reply:?}") };
    assert_eq!(attr.nlink, 2);
    // The fid outlives its names.
    for name in [&b"b"[..], b"c"] {
        let reply = client.call(Request::Unlinkat { dir: Fid(0), name, flags: 0 });
        assert_eq!(reply, Reply::Unlinkat {});
    }
    let reply = client.call(Request::Statx { fid: Fid(1), mask: 0 });
    let Reply::Statx { attr } = reply else { panic!("{reply:?}") };
    assert_eq!(attr.nlink, 0);
    client.open(1, 2, 0, Wish::empty());
    assert_eq!(
        client.call(Request::Read { fid: Fid(2), offset: 0, count: 9 }),
        Reply::Read { data: Data(b"B") }
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_tmpfile_gets_its_name_later() {
    let dir = TempDir::new("tmpfile");
    let mut client = Client::new(&dir);
    let reply = client.call(Request::Tmpfile {
        dir: Fid(0),
        newfid: Fid(1),
        flags: 2,
        mode: 0o600,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        wish: 1,
    });
    match reply {
        Reply::Tmpfile { granted, node } => assert_eq!((granted, node.attr.nlink), (1, 0)),
        // The host's file system has no O_TMPFILE.
        Reply::Error { errno } if errno as i32 == libc::EOPNOTSUPP => return,
        other => panic!("{other:?}"),
    }
    fs::File::from(client.donated.take().unwrap()).write_at(b"late", 0).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let reply = client.call(Request::LinkX { dir: Fid(0), fid: Fid(1), name: b"name" });
    assert!(matches!(reply, Reply::LinkX { .. }), "{reply:?}");
    assert_eq!(fs::read_to_string(dir.path().join("name")).unwrap(), "late");
}

#[test]
fn ranges_are_allocated_copied_and_sought() {
    let dir = TempDir::new("ranges");
    let mut client = Client::new(&dir);
    client.create(1, "from");
    client.create(2, "to");
    let data = [9u8; 8192];
    client.call(Request::Write { fid: Fid(1), offset: 1 << 20, data: Data(&data) });
    let reply = client.call(Request::CopyRange {
        source: Fid(1),
        source_offset: 1 << 20,
        target: Fid(2),
        target_offset: 4096,
        length: u64::MAX,
    });
    assert_eq!(reply, Reply::CopyRange { count: 8192 });
    let copied = fs::read(dir.path().join("to")).unwrap();
    assert_eq!((copied.len(), copied[4096]), (12288, 9));
    let seek = |offset, whence| Request::Seek { fid: Fid(1), offset, whence };
    match client.call(seek(0, SEEK_DATA)) {
        Reply::Seek { offset } => assert!(offset <= 1 << 20),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.call(seek(1 << 20, 4)), Reply::Seek { offset: (1 << 20) + 8192 });
    assert_eq!(client.errno(seek(1 << 30, SEEK_DATA)), libc::ENXIO);
    assert_eq!(client.errno(seek(0, 0)), libc::EINVAL);
    let reply = client.call(Request::Fallocate { fid: Fid(2), mode: 0, offset: 0, length: 65536 });
    match reply {
        Reply::Fallocate {} => {
            assert_eq!(fs::metadata(dir.path().join("to")).unwrap().len(), 65536);
        }
        Reply::Error { errno } => assert_eq!(errno as i32, libc::EOPNOTSUPP),
        other => panic!("{other:?}"),
    }
    let fids = vec![Fid(1), Fid(77), Fid(2)];
    let reply = client.call(Request::SyncMany { fids, data_only: 1 });
    assert_eq!(reply, Reply::SyncMany { errnos: vec![0, libc::EBADF as u32, 0] });
}

const SEEK_DATA: u32 = 3;

#[test]
fn locks_of_owners_exclude_each_other() {
    let dir = TempDir::new("locks");
    let mut client = Client::new(&dir);
    client.create(1, "file");
    let set =
        |owner, kind, start, length| Request::LockX { fid: Fid(1), owner, kind, start, length };
    let ok = Reply::LockX { status: lock::SUCCESS };
    let blocked = Reply::LockX { status: lock::BLOCKED };
    assert_eq!(client.call(set(1, lock::WRITE, 0, 10)), ok);
    assert_eq!(client.call(set(2, lock::READ, 5, 1)), blocked);
    assert_eq!(client.call(set(2, lock::READ, 10, 0)), ok);
    assert_eq!(
        client.call(Request::GetlockX {
            fid: Fid(1),
            owner: 2,
            kind: lock::READ,
            start: 0,
            length: 0
        }),
        Reply::GetlockX { kind: lock::WRITE, start: 0, length: 10 }
    );
    assert_eq!(client.call(set(1, lock::UNLOCK, 0, 0)), ok);
    assert_eq!(client.call(set(2, lock::READ, 5, 1)), ok);
    assert_eq!(client.errno(set(1, 9, 0, 0)), libc::EINVAL);
    assert_eq!(client.errno(set(1, lock::READ, u64::MAX, 0)), libc::EOVERFLOW);
    // Forgetting the fid releases them.
    client.call(Request::Clunk { fid: Fid(1) });
    client.walk(0, 1, "file");
    assert_eq!(client.call(set(3, lock::WRITE, 0, 0)), ok);
}

#[test]
fn extended_attributes_by_message() {
    let dir = TempDir::new("xattr");
    let mut client = Client::new(&dir);
    client.create(1, "file");
    let name = b"user.colour";
    let set = Request::SetXattr { fid: Fid(1), name, value: Data(b"red"), flags: 0 };
    match client.call(set.clone()) {
        Reply::SetXattr {} => {}
        Reply::Error { errno } if errno as i32 == libc::EOPNOTSUPP => return,
        other => panic!("{other:?}"),
    }
    let get = |size| Request::GetXattr { fid: Fid(1), name, size };
    assert_eq!(client.call(get(0)), Reply::GetXattr { size: 3, data: Data(b"") });
    assert_eq!(client.call(get(64)), Reply::GetXattr { size: 3, data: Data(b"red") });
    assert_eq!(client.errno(get(2)), libc::ERANGE);
    let reply = client.call(Request::ListXattr { fid: Fid(1), size: 4096 });
    let Reply::ListXattr { data, .. } = reply else { panic!("{reply:?}") };
    assert!(data.0.split(|byte| *byte == 0).any(|found| found == name));
    let create = Request::SetXattr { fid: Fid(1), name, value: Data(b"x"), flags: 1 };
    assert_eq!(client.errno(create), libc::EEXIST);
    let remove = Request::RemoveXattr { fid: Fid(1), name };
    assert_eq!(client.call(remove), Reply::RemoveXattr {});
    assert_eq!(client.errno(get(0)), libc::ENODATA);
    let bad = Request::GetXattr { fid: Fid(1), name: b"", size: 0 };
    assert_eq!(client.errno(bad), libc::ERANGE);
}

#[test]
fn the_plain_protocol_is_spoken_too() {
    let dir = TempDir::new("plain");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let mut client = Client::plain(&dir);
    let clone = Request::Walk { fid: Fid(0), newfid: Fid(1), names: vec![b"sub"] };
    let reply = client.call(clone);
    let Reply::Walk { qids } = reply else { panic!("{reply:?}") };
    assert_eq!(qids[0].kind, QidKind::DIR.bits());
    let reply = client.call(Request::Lcreate {
        fid: Fid(1),
        name: b"file",
        flags: 2,
        mode: 0o644,
        gid: rustix::process::getgid().as_raw(),
    });
    let Reply::Lcreate { iounit, .. } = reply else { panic!("{reply:?}") };
    assert!(iounit as usize <= IO_MAX);
    let write = Request::Write { fid: Fid(1), offset: 0, data: Data(b"hello") };
    assert_eq!(client.call(write), Reply::Write { count: 5 });
    assert_eq!(client.call(Request::Fsync { fid: Fid(1), data_only: 0 }), Reply::Fsync {});
    let reply = client.call(Request::Getattr { fid: Fid(1), mask: 0x7ff });
    let Reply::Getattr { attr } = reply else { panic!("{reply:?}") };
    assert_eq!((attr.size, attr.mode, attr.valid), (5, 0o100_644, 0x7ff));
    assert_eq!(client.call(Request::Clunk { fid: Fid(1) }), Reply::Clunk {});
    // Part of a walk makes no fid.
    let walk = Request::Walk { fid: Fid(0), newfid: Fid(2), names: vec![b"sub", b"none", b"none"] };
    let reply = client.call(walk);
    let Reply::Walk { qids } = reply else { panic!("{reply:?}") };
    assert_eq!(qids.len(), 1);
    assert_eq!(client.errno(Request::Clunk { fid: Fid(2) }), libc::EBADF);
    let reply = client.call(Request::Statfs { fid: Fid(0) });
    let Reply::Statfs { stat } = reply else { panic!("{reply:?}") };
    assert!(stat.bsize > 0 && stat.namelen == 255);
    // The dialect was not negotiated.
    let statx = Request::Statx { fid: Fid(0), mask: 0 };
    assert_eq!(client.errno(statx), libc::EOPNOTSUPP);
    let rename = Request::Rename { fid: Fid(0), dir: Fid(0), name: b"x" };
    assert_eq!(client.errno(rename), libc::EOPNOTSUPP);
    assert_eq!(client.call(Request::Flush { oldtag: 1 }), Reply::Flush {});
    // Extended attributes by fids.
    client.call(Request::Walk { fid: Fid(0), newfid: Fid(3), names: vec![b"sub", b"file"] });
    client.call(Request::Walk { fid: Fid(3), newfid: Fid(4), names: vec![] });
    let create = Request::Xattrcreate { fid: Fid(4), name: b"user.x", size: 4, flags: 0 };
    assert_eq!(client.call(create), Reply::Xattrcreate {});
    let write = Request::Write { fid: Fid(4), offset: 0, data: Data(b"blue") };
    assert_eq!(client.call(write), Reply::Write { count: 4 });
    match client.call(Request::Clunk { fid: Fid(4) }) {
        Reply::Clunk {} => {}
        Reply::Error { errno } if errno as i32 == libc::EOPNOTSUPP => return,
        other => panic!("{other:?}"),
    }
    let walk = Request::Xattrwalk { fid: Fid(3), newfid: Fid(5), name: b"user.x" };
    assert_eq!(client.call(walk), Reply::Xattrwalk { size: 4 });
    let read = Request::Read { fid: Fid(5), offset: 1, count: 100 };
    assert_eq!(client.call(read), Reply::Read { data: Data(b"lue") });
    let read = Request::Read { fid: Fid(5), offset: u64::MAX, count: 100 };
    assert_eq!(client.call(read), Reply::Read { data: Data(b"") });
}

/// What the client is told, as (fid, changed, name).
fn told(client: &mut Client) -> Vec<(u32, Changed, String)> {
    client.session.collect_events();
    let mut all = Vec::new();
    while let Some(size) = client.session.next_event(&mut client.reply).unwrap() {
        let frame = Frame::new_checked(&client.reply[..size]).unwrap();
        assert_eq!(frame.tag(), NOTAG);
        let Reply::Invalidate { fid, changed, name } = Reply::parse(frame).unwrap() else {
            panic!()
        };
        let name = String::from_utf8(name.to_vec()).unwrap();
        all.push((fid.0, Changed::from_bits(changed).unwrap(), name));
        client.session.event_sent();
    }
    all
}

#[test]
fn changes_of_others_are_told_and_the_clients_own_are_not() {
    let dir = TempDir::new("watch");
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "x").unwrap();
    let mut client = Client::unversioned(vec![attach(dir.path(), "root", false)]);
    client.version(VERSION_DIALECT);
    assert!(client.session.events().is_none());
    client.attach("root", 0);
    let steps = vec![Step { newfid: Fid(1), name: b"sub" }, Step { newfid: Fid(2), name: b"file" }];
    client.call(Request::WalkX { fid: Fid(0), steps });
    for fid in [0, 1, 1] {
        assert_eq!(client.call(Request::Watch { fid: Fid(fid) }), Reply::Watch {});
    }
    assert_eq!(client.errno(Request::Watch { fid: Fid(9) }), libc::EBADF);
    assert!(client.session.events().is_some());
    assert_eq!(told(&mut client), []);

    fs::write(dir.path().join("sub/new"), "y").unwrap();
    let all = told(&mut client);
    assert!(all.contains(&(1, Changed::NAME, "new".into())), "{all:?}");
    assert!(all.contains(&(1, Changed::DATA, "new".into())), "{all:?}");
    fs::rename(dir.path().join("sub/new"), dir.path().join("moved")).unwrap();
    assert_eq!(
        told(&mut client),
        [(1, Changed::NAME, "new".into()), (0, Changed::NAME, "moved".into())]
    );
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(dir.path().join("sub/file"), mode).unwrap();
    assert_eq!(told(&mut client), [(1, Changed::ATTR, "file".into())]);

    // The client's own changes, with one of somebody else's before them.
    fs::write(dir.path().join("before"), "").unwrap();
    client.create(3, "own");
    client.call(Request::Write { fid: Fid(3), offset: 0, data: Data(b"z") });
    client.call(Request::RenameX {
        olddir: Fid(0),
        oldname: b"own",
        newdir: Fid(1),
        newname: b"mine",
        flags: 0,
    });
    let set = SetAttr { valid: 1, mode: 0o640, ..SetAttr::default() };
    client.call(Request::SetattrX { fid: Fid(3), set });
    client.call(Request::Clunk { fid: Fid(3) });
    client.call(Request::Unlinkat { dir: Fid(1), name: b"mine", flags: 0 });
    let all = told(&mut client);
    assert!(all.iter().all(|(fid, _, name)| *fid == 0 && name == "before"), "{all:?}");
    assert!(!all.is_empty());

    // A forgotten directory is not watched, and a flood becomes one event.
    client.call(Request::Clunk { fid: Fid(1) });
    fs::write(dir.path().join("sub/late"), "").unwrap();
    assert_eq!(told(&mut client), []);
    for at in 0..600 {
        fs::write(dir.path().join(format!("f{at}")), "").unwrap();
    }
    let all = told(&mut client);
    assert_eq!(all[0], (Fid::NONE.0, Changed::ALL, String::new()));
}

#[test]
fn a_directory_is_watched_with_its_opening() {
    let dir = TempDir::new("open-watch");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let mut client = Client::unversioned(vec![attach(dir.path(), "root", false)]);
    client.version(VERSION_DIALECT);
    client.attach("root", 0);
    client.walk(0, 1, "sub");
    let open = |fid, newfid, wish: Wish| Request::OpenX {
        fid: Fid(fid),
        newfid: Fid(newfid),
        flags: 0,
        wish: wish.bits(),
    };
    let granted = |reply: Reply<'_>| match reply {
        Reply::OpenX { granted, .. } => Granted::from_bits(granted).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(granted(client.call(open(1, 2, Wish::empty()))), Granted::empty());
    fs::write(dir.path().join("sub/early"), "").unwrap();
    assert_eq!(told(&mut client), []);
    // Twice is no error, and tells once.
    for newfid in [3, 4] {
        assert_eq!(granted(client.call(open(1, newfid, Wish::WATCH))), Granted::WATCHED);
    }
    client.call(Request::ClunkMany { fids: vec![Fid(3), Fid(4)] });
    fs::create_dir(dir.path().join("sub/late")).unwrap();
    assert_eq!(told(&mut client), [(1, Changed::NAME, "late".into())]);
    // A file is opened as without the wish.
    client.walk(1, 5, "early");
    assert_eq!(granted(client.call(open(5, 6, Wish::WATCH))), Granted::empty());
}

#[test]
fn fids_are_bounded() {
    let dir = TempDir::new("bounded");
    fs::write(dir.path().join("file"), "x").unwrap();
    let mut client = Client::new(&dir);
    client.session.fids = fids::Fids::with_limit(64);
    client.attach("root", 0);
    let mut refused = 0;
    for fid in 1..200 {
        let steps = vec![Step { newfid: Fid(fid), name: b"file" }];
        match client.call(Request::WalkX { fid: Fid(0), steps }) {
            Reply::WalkX { errno: 0, .. } => {}
            Reply::WalkX { errno, .. } => {
                assert_eq!(errno as i32, libc::ENFILE);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 130);
    let fids = (1..200).map(Fid).collect();
    assert_eq!(client.call(Request::ClunkMany { fids }), Reply::ClunkMany {});
    client.walk(0, 1, "file");
    for owner in 0..100 {
        let _ = client.call(Request::LockX {
            fid: Fid(1),
            owner,
            kind: lock::READ,
            start: 0,
            length: 1,
        });
    }
    let count = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(count < 300, "{count} descriptors");
    // A fid in use is not taken over.
    let again = Request::OpenX { fid: Fid(1), newfid: Fid(0), flags: 0, wish: 0 };
    assert_eq!(client.errno(again), libc::EBADF);
}

#[test]
fn arbitrary_requests_get_replies() {
    let dir = TempDir::new("arbitrary");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let mut client = Client::new(&dir);
    let mut rng = crate::wire::tests::Rng::new(42);
    let names: [&'static [u8]; 5] = [b"a", b"b", b"sub", b"..", b"c/d"];
    for round in 0..20_000 {
        let kind = Request::KINDS[rng.below(Request::KINDS.len() as u64) as usize];
        if kind == 100 && round % 16 != 0 {
            continue;
        }
        // Half of them with small fids and real names, so that they get somewhere.
        crate::wire::tests::plausible(round % 2 == 0, &names);
        let request = Request::sample(kind, &mut rng).unwrap();
        client.call(request);
        if kind == 100 {
            client.version(VERSION_DIALECT);
            client.attach("root", 0);
        }
    }
    // Nothing appeared beside the root.
    assert!(dir.path().exists());
}

/// Changes a message of this size here and there, mostly so that it stays one; its size afterwards.
fn mutate(buffer: &mut [u8], size: usize, rng: &mut crate::wire::tests::Rng) -> usize {
    let mut size = size;
    for _ in 0..rng.below(4) {
        // Behind size, kind and tag; what is in front of these changes below, and now and then.
        let at = HEADER + rng.below((size - HEADER).max(1) as u64) as usize;
        match rng.below(6) {
            0 => buffer[at] ^= 1 << rng.below(8),
            1 => buffer[at] = rng.next() as u8,
            2 => {
                let edges = [0, 1, u32::MAX, i32::MAX as u32, 1 << 31, 65_535];
                let edge = edges[rng.below(6) as usize].to_le_bytes();
                buffer[at..at + 4].copy_from_slice(&edge);
            }
            3 => size = at,
            4 => size += rng.below(40) as usize,
            _ => buffer[4] = Request::KINDS[rng.below(Request::KINDS.len() as u64) as usize],
        }
    }
    buffer[..4].copy_from_slice(&(size as u32).to_le_bytes());
    if rng.below(64) == 0 {
        buffer[rng.below(HEADER as u64) as usize] = rng.next() as u8;
    }
    size
}

/// What is in a folder: names, attributes that a change shows in, and content.
fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        let content = fs::read(entry.path()).unwrap_or_default();
        let times = (meta.ctime(), meta.ctime_nsec(), meta.mtime_nsec());
        all.push(format!("{:?} {:o} {times:?} {content:?}", entry.path(), meta.mode()));
    }
    all.sort();
    all
}

#[test]
fn mutated_messages_get_replies_and_nothing_outside_is_touched() {
    let dir = TempDir::new("mutated");
    let (served, beside) = (dir.path().join("served"), dir.path().join("beside"));
    fs::create_dir_all(served.join("sub")).unwrap();
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("file"), "untouched").unwrap();
    let before = listing(dir.path()).len();
    let outside = listing(&beside);
    let mut client = Client::unversioned(vec![attach(&served, "root", false)]);
    let mut rng = crate::wire::tests::Rng::new(7);
    let names: [&'static [u8]; 5] = [b"a", b"b", b"sub", b"..", b"../beside"];
    let open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.filter(|target| target.starts_with(dir.path())).count()
    };
    let held = open();
    // Allocates what it is told, of the true disk.
    let fallocate = Request::Fallocate { fid: Fid(0), mode: 0, offset: 0, length: 0 }.kind();
    let sync = Request::Fsync { fid: Fid(0), data_only: 0 }.kind();
    let sync_many = Request::SyncMany { fids: Vec::new(), data_only: 0 }.kind();
    let (mut errors, mut done) = (0, 0);
    for round in 0..10_000 {
        if round % 16 == 0 {
            // A way out for whoever would follow it, and something to work with.
            let _there = symlink("../beside", served.join("a"));
            let _there = fs::create_dir(served.join("sub"));
            let _there = fs::File::create_new(served.join("b"));
            client.version(VERSION_DIALECT);
            client.attach("root", 0);
            for (fid, name) in [(1, &b"sub"[..]), (2, b"b"), (3, b"a")] {
                let steps = vec![Step { newfid: Fid(fid), name }];
                client.call(Request::WalkX { fid: Fid(0), steps });
            }
            client.call(Request::OpenX { fid: Fid(2), newfid: Fid(4), flags: 2, wish: 0 });
            client.call(Request::OpenX { fid: Fid(0), newfid: Fid(5), flags: 0, wish: 0 });
        }
        crate::wire::tests::plausible(round % 4 != 0, &names);
        let kind = Request::KINDS[rng.below(Request::KINDS.len() as u64) as usize];
        let request = Request::sample(kind, &mut rng).unwrap();
        let size = request.emit(round as u16, &mut client.request).unwrap();
        let size = mutate(&mut client.request, size, &mut rng);
        // Nor is the session begun anew, or the disk waited for, all the time.
        let seldom = [100, sync, sync_many].contains(&client.request[4]);
        if client.request[4] == fallocate || seldom && round % 64 != 63 {
            continue;
        }
        let message = &client.request[..size];
        let tag = u16::from_le_bytes([client.request[5], client.request[6]]);
        match client.session.handle(message, &mut client.reply) {
            Ok(answer) => {
                if let Some(fd) = answer.donation {
                    assert_eq!(
                        rustix::fs::fstat(fd).unwrap().st_mode & libc::S_IFMT,
                        libc::S_IFREG
                    );
                }
                let frame = Frame::new_checked(&client.reply[..answer.size]).unwrap();
                assert_eq!(frame.tag(), tag);
                let refused = matches!(Reply::parse(frame).unwrap(), Reply::Error { .. });
                done += u32::from(!refused);
            }
            // No frame, or a version that leaves no room for a reply.
            Err(_) => errors += 1,
        }
    }
    assert!(errors < 1_000 && done > 500, "{errors} {done}");
    client.version(VERSION_DIALECT);
    assert_eq!(open(), held, "descriptors are left");
    assert_eq!(listing(&beside), outside);
    assert_eq!(listing(dir.path()).len(), before);
}

#[test]
fn what_is_no_message_ends_the_session() {
    let dir = TempDir::new("malformed");
    let mut client = Client::new(&dir);
    for bytes in [&b""[..], b"\x07\0\0\0\x64", b"\x09\0\0\0\x64\0\0", &[0; 64]] {
        assert!(client.session.handle(bytes, &mut client.reply).is_err());
    }
    // A whole frame of nonsense is an error reply.
    let answer = client.session.handle(b"\x07\0\0\0\xfe\x03\0", &mut client.reply).unwrap();
    let size = answer.size;
    let frame = Frame::new_checked(&client.reply[..size]).unwrap();
    assert_eq!(Reply::parse(frame), Ok(Reply::Error { errno: libc::EOPNOTSUPP as u32 }));
}

mod sockets {
    use std::io::{IoSliceMut, Read, Write};
    use std::mem::MaybeUninit;

    use rustix::net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags,
        SocketFlags, SocketType, recvmsg, send, socketpair,
    };

    use super::*;

    fn serve(kind: SocketType, dir: &TempDir) -> (OwnedFd, std::thread::JoinHandle<bool>) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let config = Config::new(theirs, vec![attach(dir.path(), "root", false)]);
        (ours, std::thread::spawn(move || run(config).is_ok()))
    }

    #[test]
    fn packets_carry_messages_and_donations() {
        let dir = TempDir::new("seqpacket");
        fs::write(dir.path().join("file"), "content").unwrap();
        let (socket, server) = serve(SocketType::SEQPACKET, &dir);
        let mut buffer = vec![0u8; MSIZE_MAX];
        let mut call = |request: Request<'_>| {
            let size = request.emit(1, &mut buffer).unwrap();
            assert_eq!(send(&socket, &buffer[..size], SendFlags::empty()).unwrap(), size);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let got = recvmsg(&socket, &mut iov, &mut control, RecvFlags::empty()).unwrap();
            let mut donated = None;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    donated = fds.into_iter().next();
                }
            }
            let frame = Frame::new_checked(&buffer[..got.bytes]).unwrap();
            (frame.kind(), donated)
        };
        call(Request::Version { msize: MSIZE_MAX as u32, version: VERSION_DIALECT });
        call(Request::AttachX { fid: Fid(0), aname: b"root" });
        let steps = vec![Step { newfid: Fid(1), name: b"file" }];
        call(Request::WalkX { fid: Fid(0), steps });
        let open = Request::OpenX { fid: Fid(1), newfid: Fid(2), flags: 0, wish: 1 };
        let (kind, donated) = call(open);
        assert_eq!(kind, 169);
        let mut content = String::new();
        fs::File::from(donated.unwrap()).read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        let read = Request::Read { fid: Fid(2), offset: 0, count: 7 };
        assert_eq!(call(read).0, 117);
        drop(socket);
        assert!(server.join().unwrap());
    }

    #[test]
    fn changes_are_told_while_nothing_is_asked() {
        let dir = TempDir::new("push");
        let (socket, server) = serve(SocketType::SEQPACKET, &dir);
        let mut buffer = vec![0u8; MSIZE_MAX];
        let mut receive = |socket: &OwnedFd| {
            let (size, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
            let frame = Frame::new_checked(&buffer[..size]).unwrap();
            (frame.kind(), frame.tag())
        };
        let ask = |request: Request<'_>| {
            let mut buffer = vec![0u8; 512];
            let size = request.emit(1, &mut buffer).unwrap();
            send(&socket, &buffer[..size], SendFlags::empty()).unwrap();
        };
        ask(Request::Version { msize: MSIZE_MAX as u32, version: VERSION_DIALECT });
        ask(Request::AttachX { fid: Fid(0), aname: b"root" });
        ask(Request::Watch { fid: Fid(0) });
        assert_eq!([(); 3].map(|()| receive(&socket).0), [101, 161, 197]);
        fs::create_dir(dir.path().join("new")).unwrap();
        assert_eq!(receive(&socket), (201, NOTAG));
        ask(Request::Statfs { fid: Fid(0) });
        assert_eq!(receive(&socket), (9, 1));
        // A client that does not read blocks nothing but its own news.
        for at in 0..500 {
            fs::create_dir(dir.path().join(format!("new-{at}"))).unwrap();
        }
        ask(Request::Statfs { fid: Fid(0) });
        while receive(&socket) != (9, 1) {}
        drop(socket);
        assert!(server.join().unwrap());
    }

    #[test]
    fn streams_are_cut_into_messages() {
        let dir = TempDir::new("stream");
        let (socket, server) = serve(SocketType::STREAM, &dir);
        let mut stream = std::os::unix::net::UnixStream::from(socket);
        let mut bytes = vec![0u8; 4096];
        let mut at =
            Request::Version { msize: 8192, version: VERSION_L }.emit(NOTAG, &mut bytes).unwrap();
        for request in [
            Request::Attach { fid: Fid(0), afid: Fid::NONE, uname: b"u", aname: b"root", uid: 0 },
            Request::Statfs { fid: Fid(0) },
        ] {
            at += request.emit(2, &mut bytes[at..]).unwrap();
        }
        // In pieces that are no messages.
        for piece in bytes[..at].chunks(11) {
            stream.write_all(piece).unwrap();
        }
        for expected in [101, 105, 9] {
            let mut header = [0u8; HEADER];
            stream.read_exact(&mut header).unwrap();
            assert_eq!(header[4], expected);
            let size = Frame::claimed_size(&header).unwrap();
            stream.read_exact(&mut vec![0u8; size - HEADER]).unwrap();
        }
        // Larger than negotiated: the server hangs up.
        stream.write_all(&9000u32.to_le_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0u8; 1]).unwrap_or(0), 0);
        assert!(!server.join().unwrap());
    }

    #[test]
    fn a_packet_too_long_ends_the_session() {
        let dir = TempDir::new("too-long");
        let (socket, server) = serve(SocketType::SEQPACKET, &dir);
        let bytes = vec![0u8; MSIZE_MAX + 100];
        send(&socket, &bytes, SendFlags::empty()).unwrap();
        assert!(!server.join().unwrap());
        let _ = socket.as_fd();
    }
}
