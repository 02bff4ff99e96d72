//! The client against the true server, in this process, on a temporary directory.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path as HostPath, PathBuf};
use std::string::ToString;
use std::sync::mpsc;
use std::{fs, vec};

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use gofer::server::{Attach, Session};

use super::remote::WATCH_FROM;
use super::*;
use crate::error::SysError;
use crate::fs::{
    Blocker, Cx, Events, File, FsContext, IoDst, IoSrc, Mount, MountFlags, MountNamespace,
    OpenFlags, Path, RenameFlags, SetAttr, SetTime, Super, Time, WalkFlags, Whence, setup,
};
use crate::mm::{MapRequest, Mappable, Mm, Place, VmaFile, VmaFlags};
use crate::platform::{Access, Channel, ChannelId, Fault, FileId, PAGE_SIZE, Prot, fake, platform};
use crate::sync::WaitQueue;
use crate::task::{Blocked, Creds, UserNamespace};

/// A channel whose other side is a server thread. Counts messages.
struct Wire {
    requests: std::sync::Mutex<mpsc::Sender<Vec<u8>>>,
    replies: std::sync::Mutex<mpsc::Receiver<(Vec<u8>, Option<OwnedFd>)>>,
    sent: AtomicUsize,
    /// The most donated files that can be there at once.
    room: AtomicUsize,
    donated: std::sync::Mutex<Vec<FileId>>,
}

impl Channel for Wire {
    fn max_message(&self) -> usize {
        1 << 20
    }
    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.requests.lock().unwrap().send(message.to_vec()).map_err(|_| Errno::EPIPE)
    }
    fn recv(&self, buf: &mut Vec<u8>, deadline: Option<u64>) -> Result<Option<FileId>, Errno> {
        let replies = self.replies.try_lock().expect("one reader at a time");
        let (reply, fd) = match deadline {
            None => replies.recv().map_err(|_| Errno::EPIPE)?,
            Some(_) => replies.try_recv().map_err(|e| match e {
                mpsc::TryRecvError::Empty => Errno::ETIMEDOUT,
                mpsc::TryRecvError::Disconnected => Errno::EPIPE,
            })?,
        };
        *buf = reply;
        let mut donated = self.donated.lock().unwrap();
        donated.retain(|file| platform().file_size(*file).is_ok());
        let fd = fd.filter(|_| donated.len() < self.room.load(Ordering::Relaxed));
        let file = fd.map(|fd| fake::install().add_host_file(fd.into()));
        donated.extend(file);
        Ok(file)
    }
}

/// What the server may hold, so that running out is tested without thousands of files.
const DESCRIPTORS: u64 = 300;

/// How the server of a test behaves.
#[derive(Clone, Copy, PartialEq)]
enum Donation {
    Yes,
    /// The descriptor cannot be sent.
    Unsendable,
    /// It is sent and does not arrive.
    Lost,
    /// It is, and so is nonsense: a part of the replies is changed, with this seed.
    Nonsense(u64),
}

/// Makes something else of a reply, but for its tag: without that nobody would take it for one.
fn spoil(reply: &mut Vec<u8>, random: &mut dyn FnMut(usize) -> usize) {
    use gofer::wire::HEADER;
    match random(4) {
        0 => reply[4] = gofer::wire::Reply::KINDS[random(gofer::wire::Reply::KINDS.len())],
        1 => reply.truncate(HEADER + random(reply.len() - HEADER + 1)),
        2 => reply.resize(reply.len() + random(200), 0xff),
        _ => {
            for _ in 0..=random(6) {
                let at = HEADER + random(reply.len() - HEADER + 1);
                let value = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                if let Some(byte) = reply.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
    let size = reply.len() as u32;
    reply[..4].copy_from_slice(&size.to_le_bytes());
}

fn serve(dir: &HostPath, read_only: bool, donation: Donation) -> Arc<Wire> {
    let (requests, inbox) = mpsc::channel::<Vec<u8>>();
    let (outbox, replies) = mpsc::channel();
    let root = fs::File::open(dir).unwrap().into();
    std::thread::spawn(move || {
        let mut state = match donation {
            Donation::Nonsense(seed) => seed,
            _ => 0,
        };
        let mut random = move |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % limit.max(1)
        };
        // Attaching is in order, or there would be nothing to test.
        let mut replies = 0;
        let attach = Attach { name: "root".into(), root, read_only };
        let mut session = Session::new(vec![attach], "/proc/self/fd".into()).unwrap();
        session.limit_descriptors(DESCRIPTORS);
        let mut reply = vec![0; gofer::wire::MSIZE_MAX];
        loop {
            let request = match inbox.recv_timeout(std::time::Duration::from_millis(2)) {
                Ok(request) => request,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    session.collect_events();
                    while let Some(size) = session.next_event(&mut reply).unwrap() {
                        session.event_sent();
                        if outbox.send((reply[..size].to_vec(), None)).is_err() {
                            return;
                        }
                    }
                    continue;
                }
            };
            let answer = session.handle(&request, &mut reply).unwrap();
            let size = answer.size;
            let mut fd = answer.donation.map(|fd| fd.try_clone_to_owned().unwrap());
            if fd.is_some() && donation == Donation::Unsendable {
                session.keep_donation(&mut reply);
                fd = None;
            }
            if donation == Donation::Lost {
                fd = None;
            }
            let mut bytes = reply[..size].to_vec();
            replies += 1;
            if matches!(donation, Donation::Nonsense(_)) && replies > 4 && random(3) == 0 {
                spoil(&mut bytes, &mut random);
            }
            if outbox.send((bytes, fd)).is_err() {
                return;
            }
        }
    });
    Arc::new(Wire {
        requests: std::sync::Mutex::new(requests),
        replies: std::sync::Mutex::new(replies),
        sent: AtomicUsize::new(0),
        room: AtomicUsize::new(usize::MAX),
        donated: std::sync::Mutex::default(),
    })
}

/// A mounted file system over a temporary directory.
struct Box9p {
    dir: PathBuf,
    wire: Arc<Wire>,
    remote: Arc<Remote>,
    context: Arc<FsContext>,
    creds: Creds,
}

struct Never;

impl Blocker for Never {
    fn wait(
        &self,
        _queue: &WaitQueue,
        _events: Events,
        _deadline: Option<u64>,
        _ready: &mut dyn FnMut() -> bool,
    ) -> Result<(), Blocked> {
        panic!("nothing here waits");
    }
}

impl Box9p {
    fn new(name: &str) -> Self {
        Self::with(name, Sharing::Exclusive, false, Donation::Yes)
    }

    fn watching(name: &str) -> Self {
        let b = Self::new(name);
        b.remote.watch_after.store(0, Ordering::Relaxed);
        b
    }

    fn with(name: &str, sharing: Sharing, read_only: bool, donation: Donation) -> Self {
        fake::install();
        let dir = std::env::temp_dir().join(format!("ninep-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let wire = serve(&dir, read_only, donation);
        let conn = Connection::new(wire.clone()).unwrap();
        let fs =
            NinepFs::attach(&conn, "root", sharing, "rootfs".to_string(), &UserNamespace::INITIAL)
                .unwrap();
        assert_eq!(fs.read_only(), read_only);
        // Most tests count messages.
        let remote = fs.remote.clone();
        remote.watch_after.store(u64::MAX, Ordering::Relaxed);
        let sb = Super::new(fs);
        let root = sb.root().unwrap();
        let mount = Mount::new(&sb, root, MountFlags::empty(), "rootfs".into());
        let context = FsContext::new(MountNamespace::new(mount), 0o022);
        let owner = fs::metadata(&dir).unwrap();
        let creds = Creds {
            fsuid: owner.uid(),
            fsgid: owner.gid(),
            ..setup::root_creds(&UserNamespace::INITIAL)
        };
        Box9p { dir, wire, remote, context, creds }
    }

    fn cx(&self) -> Cx<'_> {
        Cx { fs: &self.context, creds: &self.creds, task: None }
    }

    fn try_open(&self, path: &str, flags: OpenFlags) -> Result<Arc<File>, SysError> {
        self.cx().open(&Never, None, path.as_bytes(), flags, 0o666, WalkFlags::empty())
    }

    fn open(&self, path: &str, flags: OpenFlags) -> Arc<File> {
        self.try_open(path, flags).unwrap_or_else(|e| panic!("{path}: {e:?}"))
    }

    fn walk(&self, path: &str) -> Result<Path, Errno> {
        self.cx().walk(None, path.as_bytes(), WalkFlags::FOLLOW)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let file = self.open(path, OpenFlags::empty());
        let mut content = Vec::new();
        loop {
            let mut buf = vec![0; 10_000];
            let n = file.read(&Never, &mut IoDst::kernel(&mut buf)).unwrap();
            if n == 0 {
                return content;
            }
            content.extend_from_slice(&buf[..n]);
        }
    }

    fn host(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    fn messages<T>(&self, act: impl FnOnce() -> T) -> (usize, T) {
        let before = self.wire.sent.load(Ordering::Relaxed);
        let result = act();
        (self.wire.sent.load(Ordering::Relaxed) - before, result)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let file = self.open(path, OpenFlags::DIRECTORY);
        let mut names = Vec::new();
        loop {
            let before = names.len();
            // A sink that is full after some entries, as getdents64's is.
            file.readdir(&mut |entry| {
                if names.len() == before + 7 {
                    return false;
                }
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                true
            })
            .unwrap();
            if names.len() == before {
                names.sort();
                return names;
            }
        }
    }
}

impl Drop for Box9p {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn write(file: &File, data: &[u8]) -> usize {
    file.write(&Never, &mut IoSrc::kernel(data)).unwrap()
}

const CREATE: OpenFlags = OpenFlags::CREAT.union(OpenFlags::RDWR);

#[test]
fn names_and_attributes_are_remembered_beneath_an_exclusive_root() {
    let b = Box9p::new("remembered");
    fs::create_dir_all(b.host("usr/lib/x")).unwrap();
    fs::write(b.host("usr/lib/x/file"), "content").unwrap();
    std::os::unix::fs::symlink("usr/lib", b.host("lib")).unwrap();
    let (n, attr) = b.messages(|| b.walk("/usr/lib/x/file").unwrap().inode().unwrap().attr());
    assert_eq!(n, 1, "one walk for all names");
    let attr = attr.unwrap();
    let native = fs::metadata(b.host("usr/lib/x/file")).unwrap();
    assert_eq!((attr.ino, attr.size, attr.mode), (native.ino(), 7, native.mode()));
    assert_eq!(attr.mtime, Time { sec: native.mtime(), nsec: native.mtime_nsec() as u32 });
    assert!(attr.btime.is_some());
    let (n, _) = b.messages(|| {
        b.walk("/usr/lib/x/file").unwrap().inode().unwrap().attr().unwrap();
        b.walk("/usr/lib").unwrap();
    });
    assert_eq!(n, 0);
    // The link's text comes with it.
    let (n, inode) = b.messages(|| b.walk("/lib/x/file").unwrap().inode().unwrap().ino());
    assert_eq!((n, inode), (1, native.ino()));
    // What is not there is remembered too.
    let (n, e) = b.messages(|| b.walk("/usr/none").err());
    assert_eq!((n, e), (1, Some(Errno::ENOENT)));
    let (n, e) = b.messages(|| b.walk("/usr/none").err());
    assert_eq!((n, e), (0, Some(Errno::ENOENT)));
    assert_eq!(b.walk("/usr/lib/x/file/y").err(), Some(Errno::ENOTDIR));
}

#[test]
fn a_file_is_read_through_its_donation() {
    let b = Box9p::new("read");
    let content: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
    fs::write(b.host("file"), &content).unwrap();
    assert_eq!(b.read("/file"), content);
    let (n, again) = b.messages(|| b.read("/file"));
    assert_eq!(again, content);
    assert_eq!(n, 0, "the donation is kept");
    let file = b.open("/file", OpenFlags::empty());
    let mut buf = [0; 5];
    assert_eq!(file.pread(&Never, &mut IoDst::kernel(&mut buf), 299_998).unwrap(), 2);
    assert_eq!(file.pread(&Never, &mut IoDst::kernel(&mut buf), 300_000).unwrap(), 0);
    assert_eq!(file.seek(-3, Whence::End).unwrap(), 299_997);
    assert_eq!(file.seek(0, Whence::Data).unwrap(), 0);
    assert_eq!(file.seek(0, Whence::Hole).unwrap(), 300_000);
    assert_eq!(file.seek(300_000, Whence::Data), Err(Errno::ENXIO));
}

#[test]
fn donations_make_room_for_others_where_the_host_half_has_none() {
    let b = Box9p::new("donations");
    b.wire.room.store(8, Ordering::Relaxed);
    let path = |n| format!("/{n}");
    for n in 0..40 {
        fs::write(b.host(&path(n)), path(n)).unwrap();
    }
    for n in (0..40).chain(0..40) {
        assert_eq!(b.read(&path(n)), path(n).as_bytes());
        let inode = b.walk(&path(n)).unwrap().inode().unwrap().clone();
        let inode = inode.as_any().downcast_ref::<NinepInode>().unwrap();
        assert!(inode.page(0, false).is_ok(), "{n} can be mapped");
    }
    // Where all are in use, the next one is read through messages.
    let open: Vec<_> = (0..9).map(|n| b.open(&path(n), OpenFlags::empty())).collect();
    let mm = Mm::new().unwrap();
    for file in &open {
        file.mappable().unwrap().attach(&mm);
    }
    assert_eq!(b.read("/20"), b"/20");
    for file in &open {
        file.mappable().unwrap().detach(&mm);
    }
}

#[test]
fn a_file_is_created_and_written() {
    for donation in [Donation::Yes, Donation::Unsendable, Donation::Lost] {
        let b = Box9p::with("written", Sharing::Exclusive, false, donation);
        let (n, file) = b.messages(|| b.open("/new", CREATE | OpenFlags::EXCL));
        if donation == Donation::Yes {
            assert_eq!(n, 2, "a walk that finds nothing, and the creation");
        }
        let data = vec![5u8; 200_000];
        assert_eq!(write(&file, &data), data.len(), "a write is not short");
        assert_eq!(write(&file, b"end"), 3);
        assert_eq!(file.attr().unwrap().size, 200_003);
        assert_eq!(fs::metadata(b.host("new")).unwrap().len(), 200_003, "the host sees it at once");
        assert_eq!(fs::metadata(b.host("new")).unwrap().mode(), 0o100_644);
        let mut tail = [0; 16];
        assert_eq!(file.pread(&Never, &mut IoDst::kernel(&mut tail), 199_999).unwrap(), 4);
        assert_eq!(&tail[..4], b"\x05end");
        // Append, from two descriptions.
        let one = b.open("/new", OpenFlags::WRONLY | OpenFlags::APPEND);
        let two = b.open("/new", OpenFlags::WRONLY | OpenFlags::APPEND);
        write(&one, b"1");
        write(&two, b"2");
        write(&one, b"3");
        assert_eq!(&b.read("/new")[200_000..], b"end123");
        file.ops().fsync(&file, false).unwrap();
        // Truncation through open and ftruncate.
        file.truncate(&b.cx(), 5).unwrap();
        assert_eq!(b.read("/new"), [5; 5]);
        b.open("/new", OpenFlags::WRONLY | OpenFlags::TRUNC);
        assert_eq!(b.read("/new"), b"");
        assert_eq!(
            b.try_open("/new", CREATE | OpenFlags::EXCL).err(),
            Some(SysError::Errno(Errno::EEXIST))
        );
    }
}

#[test]
fn directories_links_and_renames() {
    let b = Box9p::new("names");
    let cx = b.cx();
    cx.mkdir(None, b"/dir", 0o777).unwrap();
    assert_eq!(cx.mkdir(None, b"/dir", 0o777), Err(Errno::EEXIST));
    for at in 0..100 {
        b.open(&format!("/dir/file-{at:03}"), CREATE);
    }
    let names = b.names("/dir");
    assert_eq!(names.len(), 102);
    assert_eq!((&*names[0], &*names[1], &*names[2]), (".", "..", "file-000"));
    let file = b.walk("/dir/file-000").unwrap();
    cx.link(&file, None, b"/second").unwrap();
    assert_eq!(file.inode().unwrap().attr().unwrap().nlink, 2);
    assert_eq!(b.walk("/second").unwrap().inode().unwrap().ino(), file.inode().unwrap().ino());
    cx.unlink(None, b"/dir/file-000").unwrap();
    assert_eq!(file.inode().unwrap().attr().unwrap().nlink, 1);
    assert_eq!(b.walk("/dir/file-000").err(), Some(Errno::ENOENT));
    assert_eq!(cx.rmdir(None, b"/dir"), Err(Errno::ENOTEMPTY));
    let none = RenameFlags::empty();
    cx.rename((None, b"/dir/file-001"), (None, b"/moved"), none).unwrap();
    assert!(b.host("moved").exists() && !b.host("dir/file-001").exists());
    cx.rename((None, b"/moved"), (None, b"/second"), none).unwrap();
    assert_eq!(file.inode().unwrap().attr().unwrap().nlink, 0, "it was replaced");
    let exchange = RenameFlags::EXCHANGE;
    cx.rename((None, b"/second"), (None, b"/dir"), exchange).unwrap();
    assert_eq!(b.names("/second").len(), 100);
    cx.symlink(b"/second", None, b"/link").unwrap();
    assert_eq!(b.names("/link").len(), 100);
    assert_eq!(fs::read_link(b.host("link")).unwrap(), PathBuf::from("/second"));
    cx.mknod(None, b"/fifo", crate::fs::FileType::Fifo, 0o600, 0).unwrap();
    assert_eq!(fs::metadata(b.host("fifo")).unwrap().mode(), 0o010_600);
}

#[test]
fn a_file_outlives_its_name_and_then_frees_its_room() {
    let b = Box9p::new("unlinked");
    let file = b.open("/file", CREATE);
    write(&file, b"still here");
    b.cx().unlink(None, b"/file").unwrap();
    let mut buf = [0; 16];
    assert_eq!(file.pread(&Never, &mut IoDst::kernel(&mut buf), 0).unwrap(), 10);
    assert_eq!(file.attr().unwrap().nlink, 0);
    let (n, _) = b.messages(|| drop(file));
    assert_eq!(n, 1, "the gofer is told at once");
    // With a name, it is told with others.
    let other = b.open("/other", CREATE);
    let (n, _) = b.messages(|| drop(other));
    assert_eq!(n, 0);
}

#[test]
fn files_that_are_gone_leave_nothing_behind() {
    let b = Box9p::new("nothing-left");
    for _ in 0..3000 {
        write(&b.open("/file", CREATE), b"x");
        b.cx().unlink(None, b"/file").unwrap();
    }
    let left = b.remote.donated.len().max(b.remote.written.len());
    assert!(left < 2048, "{left} of 3000");
}

#[test]
fn many_fids_are_forgotten_in_batches() {
    let b = Box9p::new("batches");
    let (n, _) = b.messages(|| {
        for at in 0..500 {
            let name = format!("/f{at}");
            b.open(&name, CREATE);
            b.cx().unlink(None, name.as_bytes()).unwrap();
        }
    });
    // Look up, create, unlink; and the forgetting, whose replies nobody waits for.
    assert!(n <= 500 * 5, "{n} messages");
    assert_eq!(b.names("/"), [".", ".."]);
}

#[test]
fn more_names_than_the_gofer_can_hold() {
    let b = Box9p::new("room");
    for dir in 0..20 {
        fs::create_dir(b.host(&format!("d{dir}"))).unwrap();
        for file in 0..60 {
            fs::write(b.host(&format!("d{dir}/f{file}")), "x").unwrap();
        }
    }
    for _ in 0..2 {
        for dir in 0..20 {
            for file in 0..60 {
                let path = format!("/d{dir}/f{file}");
                assert_eq!(b.walk(&path).unwrap().inode().unwrap().attr().unwrap().size, 1);
                if file % 10 == 0 {
                    assert_eq!(b.read(&path), b"x");
                    assert_eq!(b.names(&format!("/d{dir}")).len(), 62);
                }
            }
        }
    }
    // What is held stays held.
    let held: Vec<_> = (0..100).map(|f| b.walk(&format!("/d{}/f{}", f / 50, f % 50))).collect();
    for dir in 2..20 {
        for file in 0..60 {
            b.walk(&format!("/d{dir}/f{file}")).unwrap();
        }
    }
    assert!(held.into_iter().all(|path| path.unwrap().inode().unwrap().attr().is_ok()));
}

#[test]
fn attributes_are_set() {
    let b = Box9p::new("setattr");
    b.open("/file", CREATE);
    let path = b.walk("/file").unwrap();
    let set = SetAttr {
        mode: Some(0o640),
        mtime: Some(SetTime::To(Time { sec: 1_000, nsec: 7 })),
        atime: Some(SetTime::Now),
        ..SetAttr::default()
    };
    b.cx().set_attr(&path, &set).unwrap();
    let attr = path.inode().unwrap().attr().unwrap();
    assert_eq!((attr.mode, attr.mtime), (0o100_640, Time { sec: 1_000, nsec: 7 }));
    let native = fs::metadata(b.host("file")).unwrap();
    assert_eq!((native.mode(), native.mtime(), native.mtime_nsec()), (0o100_640, 1_000, 7));
    let inode = path.inode().unwrap();
    match inode.set_xattr(b"user.colour", b"red", 0) {
        Ok(()) => {
            assert_eq!(inode.get_xattr(b"user.colour").unwrap(), b"red");
            assert_eq!(inode.list_xattr().unwrap(), b"user.colour\0");
            inode.remove_xattr(b"user.colour").unwrap();
            assert_eq!(inode.get_xattr(b"user.colour"), Err(Errno::ENODATA));
        }
        Err(e) => assert_eq!(e, Errno::EOPNOTSUPP),
    }
    let stat = path.mount.sb.fs.statfs().unwrap();
    assert!(stat.bsize > 0 && stat.namelen == 255);
    path.mount.sb.fs.sync().unwrap();
}

#[test]
fn a_shared_mount_shows_the_hosts_changes_at_once() {
    let b = Box9p::with("shared", Sharing::Shared, false, Donation::Yes);
    fs::write(b.host("file"), "one").unwrap();
    assert_eq!(b.read("/file"), b"one");
    fs::write(b.host("file"), "two and more").unwrap();
    assert_eq!(b.walk("/file").unwrap().inode().unwrap().attr().unwrap().size, 12);
    assert_eq!(b.read("/file"), b"two and more");
    // Another file under the same name.
    fs::write(b.host("other"), "replaced").unwrap();
    fs::rename(b.host("other"), b.host("file")).unwrap();
    assert_eq!(b.read("/file"), b"replaced");
    assert_eq!(b.walk("/later").err(), Some(Errno::ENOENT));
    fs::create_dir(b.host("later")).unwrap();
    b.walk("/later").unwrap();
    fs::remove_dir(b.host("later")).unwrap();
    assert_eq!(b.walk("/later").err(), Some(Errno::ENOENT));
    // Appends go behind what others appended.
    let file = b.open("/file", OpenFlags::WRONLY | OpenFlags::APPEND);
    fs::write(b.host("file"), "12345").unwrap();
    write(&file, b"6");
    assert_eq!(fs::read(b.host("file")).unwrap(), b"123456");
}

#[test]
fn a_read_only_attach_point_refuses_changes() {
    let b = Box9p::with("read-only", Sharing::Exclusive, true, Donation::Yes);
    fs::write(b.host("file"), "x").unwrap();
    assert_eq!(b.read("/file"), b"x");
    let refused = Some(SysError::Errno(Errno::EROFS));
    assert_eq!(b.try_open("/file", OpenFlags::RDWR).err(), refused);
    assert_eq!(b.try_open("/new", CREATE).err(), refused);
    assert_eq!(b.cx().mkdir(None, b"/dir", 0o755), Err(Errno::EROFS));
    assert_eq!(b.cx().unlink(None, b"/file"), Err(Errno::EROFS));
}

#[test]
fn files_are_mapped() {
    let b = Box9p::new("mapped");
    let mut content = vec![1u8; PAGE_SIZE];
    content.extend_from_slice(&[2; 100]);
    fs::write(b.host("file"), &content).unwrap();
    let mm = Mm::new().unwrap();
    let map = |file: &File, flags, prot| {
        let name = Arc::from(&b"/file"[..]);
        let file = VmaFile { pages: file.mappable().unwrap(), first: 0, name };
        let len = 3 * PAGE_SIZE as u64;
        let place = Place::Hint(0);
        mm.mmap(MapRequest { place, len, prot, flags, file: Some(file), populate: false }).unwrap()
    };
    let touch = |addr, access| mm.handle_fault(Fault { addr, access, present: false });
    let byte = |addr| {
        let mut byte = [0];
        mm.copy_in(addr, &mut byte).map(|()| byte[0])
    };
    let reading = b.open("/file", OpenFlags::empty());
    let private = map(&reading, VmaFlags::empty(), Prot::READ | Prot::WRITE);
    let page = PAGE_SIZE as u64;
    assert_eq!((byte(private), byte(private + page)), (Ok(1), Ok(2)));
    assert_eq!(byte(private + page + 100), Ok(0), "zeros after the end, within its page");
    assert!(touch(private + 2 * page, Access::Read).is_err(), "SIGBUS behind it");
    // Opened for writing and mapped shared: the file changes, and the other mapping's page with it.
    let writing = b.open("/file", OpenFlags::RDWR);
    let shared = map(&writing, VmaFlags::SHARED, Prot::READ | Prot::WRITE);
    mm.copy_out(shared + page, &[7]).unwrap();
    assert_eq!(fs::read(b.host("file")).unwrap()[PAGE_SIZE], 7);
    assert_eq!(byte(private + page), Ok(7));
    mm.copy_out(private, &[9]).unwrap();
    assert_eq!((byte(private), byte(shared)), (Ok(9), Ok(1)), "a private page is one's own");
    drop((reading, writing));
    mm.copy_out(shared + page + 1, &[8]).unwrap();
    assert_eq!(b.read("/file")[PAGE_SIZE + 1], 8);
    // A page that is cut off is SIGBUS in all mappings, private copies included.
    b.open("/file", OpenFlags::RDWR | OpenFlags::TRUNC);
    for addr in [private, shared, shared + page] {
        assert!(touch(addr, Access::Read).is_err());
    }
    mm.clear();
}

#[test]
fn changes_of_others_beneath_an_exclusive_root_show_soon() {
    let b = Box9p::watching("watched");
    fs::create_dir(b.host("dir")).unwrap();
    fs::write(b.host("dir/file"), "one").unwrap();
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        for _ in 0..2_000 {
            if condition() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{what} never shows");
    };
    let size = |path: &str| b.walk(path).map(|p| p.inode().unwrap().attr().unwrap().size);
    assert_eq!(size("/dir/file"), Ok(3));
    assert_eq!(size("/dir/new"), Err(Errno::ENOENT));
    // Twice used, it is watched.
    assert_eq!(size("/dir/file"), Ok(3));
    let dir = b.walk("/dir").unwrap();
    fs::write(b.host("dir/new"), "12").unwrap();
    until("a new file", &|| size("/dir/new") == Ok(2));
    fs::write(b.host("dir/file"), "longer").unwrap();
    until("a longer file", &|| size("/dir/file") == Ok(6));
    fs::remove_file(b.host("dir/new")).unwrap();
    until("a removal", &|| size("/dir/new") == Err(Errno::ENOENT));
    fs::write(b.host("other"), "replacement").unwrap();
    fs::rename(b.host("other"), b.host("dir/file")).unwrap();
    until("a replacement", &|| size("/dir/file") == Ok(11));
    assert_eq!(b.read("/dir/file"), b"replacement");
    // What did not change stayed what it was.
    assert!(Arc::ptr_eq(&dir.dentry, &b.walk("/dir").unwrap().dentry));
}

#[test]
fn attach_points_of_one_gofer_share_its_connection() {
    let b = Box9p::new("gofers");
    fs::write(b.host("file"), "x").unwrap();
    fake::install().add_channel(ChannelId::Gofer(7), serve(&b.dir, false, Donation::Yes));
    let gofers = Gofers::new();
    let source = |gofer, attach| setup::GoferSource {
        gofer,
        attach,
        shared: false,
        ids: &UserNamespace::INITIAL,
    };
    let one = gofers.attach(source(7, "root")).unwrap();
    let two = gofers.attach(source(7, "root")).unwrap();
    assert_ne!(one.dev(), two.dev());
    assert_eq!(gofers.attach(source(7, "none")).err(), Some(Errno::ENOENT));
    assert!(gofers.attach(source(8, "root")).is_err());
    gofers.forget(7);
    assert!(one.statfs().unwrap().bsize > 0);
}

#[test]
fn many_threads_ask_at_once() {
    let b = Box9p::new("threads");
    for at in 0..8 {
        fs::write(b.host(&format!("file-{at}")), format!("{at}")).unwrap();
    }
    let inode = b.walk("/").unwrap().inode().unwrap().clone();
    let done = Arc::new(AtomicUsize::new(0));
    let conn = inode.as_any().downcast_ref::<NinepInode>().unwrap().remote.conn.clone();
    for at in 0..8u32 {
        let (done, conn) = (done.clone(), conn.clone());
        let thread = move || {
            for round in 0..200 {
                let newfid = conn.new_fid();
                let name = format!("file-{}", (at + round) % 8);
                let steps = Vec::from([gofer::wire::Step { newfid, name: name.as_bytes() }]);
                let root = gofer::wire::Fid(0);
                let answer = conn.call(&Request::WalkX { fid: root, steps }).unwrap();
                let Ok(Reply::WalkX { nodes, .. }) = answer.reply() else { panic!() };
                assert_eq!(nodes.len(), 1);
                conn.forget(newfid, round % 3 == 0);
            }
            done.fetch_add(1, Ordering::SeqCst);
        };
        platform().spawn("asker", Box::new(thread)).unwrap();
    }
    while done.load(Ordering::SeqCst) < 8 {
        platform().yield_now();
    }
}

#[test]
fn when_the_gofer_dies_every_call_fails() {
    let b = Box9p::new("dies");
    fs::create_dir(b.host("dir")).unwrap();
    b.walk("/dir").unwrap();
    // The server's end of the requests is replaced by nobody's.
    let (requests, _) = mpsc::channel();
    *b.wire.requests.lock().unwrap() = requests;
    assert_eq!(b.walk("/other").err(), Some(Errno::EIO));
    assert_eq!(b.cx().mkdir(None, b"/new", 0o755), Err(Errno::EIO));
    b.walk("/dir").unwrap();
}

#[test]
fn listings_are_remembered_beneath_an_exclusive_root_until_something_changes() {
    let b = Box9p::new("listings");
    fs::create_dir(b.host("d")).unwrap();
    for n in 0..1000 {
        fs::write(b.host(&format!("d/{n:04}")), "").unwrap();
    }
    let first = b.names("/d");
    assert_eq!(first.len(), 1002);
    assert_eq!(b.messages(|| b.names("/d")), (0, first.clone()));
    b.open("/d/new", CREATE);
    assert_eq!(b.names("/d").len(), 1003);
    assert_eq!(b.messages(|| b.names("/d").len()), (0, 1003));
    let cx = b.cx();
    cx.rename((None, b"/d/new"), (None, b"/d/newer"), RenameFlags::empty()).unwrap();
    cx.unlink(None, b"/d/0000").unwrap();
    let now = b.names("/d");
    assert_eq!(now.len(), 1002);
    assert!(
        now.contains(&"newer".into())
            && !now.contains(&"new".into())
            && !now.contains(&"0000".into())
    );
    // One that was opened before a change goes on with what it has, and sees it from the beginning.
    let count = |file: &File| {
        let mut n = 0;
        while {
            let before = n;
            file.readdir(&mut |_| {
                n += 1;
                true
            })
            .unwrap();
            n != before
        } {}
        n
    };
    let file = b.open("/d", OpenFlags::DIRECTORY);
    cx.unlink(None, b"/d/0001").unwrap();
    assert_eq!(count(&file), 1001);
    fs::remove_dir_all(b.host("d")).unwrap();
}

#[test]
fn what_the_host_adds_is_listed_once_the_directory_is_watched() {
    let b = Box9p::watching("listed-watched");
    fs::create_dir(b.host("d")).unwrap();
    for n in 0..5 {
        fs::write(b.host(&format!("d/{n}")), "").unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while b.names("/d").len() != 3 + n {
            assert!(std::time::Instant::now() < deadline, "file {n} does not appear");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// What find(1) does below a directory, "" for the root: lists it, and looks at all that is in it.
fn find(b: &Box9p, path: &str, found: &mut Vec<(String, u64)>) {
    for name in b.names(&format!("{path}/")).iter().filter(|name| !name.starts_with('.')) {
        let path = format!("{path}/{name}");
        let inode = b.walk(&path).unwrap().inode().unwrap().clone();
        found.push((path.clone(), inode.attr().unwrap().size));
        if inode.kind() == crate::fs::FileType::Directory {
            find(b, &path, found);
        }
    }
}

#[test]
fn what_was_found_once_is_found_again_without_a_message_however_long_it_took() {
    let b = Box9p::new("find");
    // Others have been opened before.
    b.remote.opened.store(WATCH_FROM, Ordering::Relaxed);
    for dir in ["", "a", "a/b", "c"] {
        fs::create_dir_all(b.host(dir)).unwrap();
        for n in 0..10 {
            fs::write(b.host(&format!("{dir}/{n}")), "x").unwrap();
        }
    }
    let pass = || {
        let mut found = Vec::new();
        find(&b, "", &mut found);
        found
    };
    let first = pass();
    assert_eq!(first.len(), 43);
    // Meanwhile the time has come to watch what is in use.
    for dir in ["/", "/a", "/a/b", "/c"] {
        let inode = b.walk(dir).unwrap().inode().unwrap().clone();
        let inode = inode.as_any().downcast_ref::<NinepInode>().unwrap();
        inode.names.due.store(1, Ordering::Relaxed);
    }
    assert_eq!(b.messages(pass), (0, first));
    // And it is not because nobody looks any more.
    fs::write(b.host("a/b/3"), "longer").unwrap();
    fs::remove_file(b.host("c/9")).unwrap();
    fs::create_dir(b.host("a/new")).unwrap();
    fs::write(b.host("a/new/file"), "1234").unwrap();
    let shown = |found: &[(String, u64)]| {
        let has = |path: &str, size| found.iter().any(|(p, s)| p == path && *s == size);
        has("/a/b/3", 6) && has("/a/new/file", 4) && !found.iter().any(|(p, _)| p == "/c/9")
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !shown(&pass()) {
        assert!(
            std::time::Instant::now() < deadline,
            "the host's changes never show: {:?}",
            pass()
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn only_who_lists_many_directories_has_them_watched_at_once() {
    let b = Box9p::new("few");
    let all: Vec<String> = (0..WATCH_FROM + 3).map(|n| format!("/{n}")).collect();
    for dir in &all {
        fs::create_dir(b.host(dir)).unwrap();
        b.names(dir);
    }
    let watched = |dir: &String| {
        let inode = b.walk(dir).unwrap().inode().unwrap().clone();
        inode.as_any().downcast_ref::<NinepInode>().unwrap().names.watched.load(Ordering::Relaxed)
    };
    assert_eq!(all.iter().position(watched), Some(WATCH_FROM));
    assert!(all.iter().skip(WATCH_FROM).all(watched));
}

#[test]
fn what_was_known_before_a_directory_was_listed_is_looked_at_once_more() {
    let b = Box9p::new("listed-late");
    b.remote.opened.store(WATCH_FROM, Ordering::Relaxed);
    fs::create_dir(b.host("d")).unwrap();
    fs::write(b.host("d/f"), "1").unwrap();
    let size = || b.walk("/d/f").unwrap().inode().unwrap().attr().unwrap().size;
    assert_eq!(size(), 1);
    // Nobody tells of this one.
    fs::write(b.host("d/f"), "12").unwrap();
    assert_eq!(b.messages(size), (0, 1));
    b.names("/d");
    assert_eq!(size(), 2);
    assert_eq!(b.messages(size), (0, 2));
}

#[test]
fn listings_have_a_bound() {
    let b = Box9p::new("listing-bound");
    assert!(b.remote.take_listed(64 * 1024));
    fs::write(b.host("f"), "").unwrap();
    for _ in 0..2 {
        let (n, names) = b.messages(|| b.names("/"));
        assert!(n > 0 && names.len() == 3, "{n} messages for {names:?}");
    }
    b.remote.release_listed(64 * 1024);
    b.names("/");
    assert_eq!(b.messages(|| b.names("/").len()), (0, 3));
}

/// A gofer in the hands of an attacker answers with anything: calls fail or succeed, and nothing panics or runs for ever.
#[test]
fn no_answer_of_a_gofer_panics() {
    let (mut good, mut bad) = (0, 0);
    for seed in 1..60 {
        let b = Box9p::with("nonsense", Sharing::Shared, false, Donation::Nonsense(seed));
        fs::create_dir(b.host("/dir")).unwrap();
        fs::write(b.host("/dir/file"), vec![7; 20_000]).unwrap();
        std::os::unix::fs::symlink("dir/file", b.host("/link")).unwrap();
        let mut count = |ok: bool| if ok { good += 1 } else { bad += 1 };
        for round in 0..6 {
            let new = format!("/dir/new{round}");
            count(b.walk("/link").is_ok_and(|path| path.dentry.inode().is_some()));
            for path in ["/dir/file", "/link", "/dir", "/none", &new] {
                let flags = if path == new {
                    OpenFlags::CREAT | OpenFlags::RDWR
                } else {
                    OpenFlags::empty()
                };
                let Ok(file) = b.try_open(path, flags) else {
                    count(path == "/none");
                    continue;
                };
                let mut buf = vec![0; 5000];
                count(file.read(&Never, &mut IoDst::kernel(&mut buf)).is_ok());
                let _ = file.write(&Never, &mut IoSrc::kernel(b"text"));
                let mut entries = 0;
                let _ = file.readdir(&mut |_| {
                    entries += 1;
                    entries < 100
                });
            }
        }
    }
    assert!(good > 100 && bad > 100, "{good} {bad}");
}
