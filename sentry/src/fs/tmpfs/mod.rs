//! tmpfs(5): files in the sandbox's memory.
//!
//! Also what memfd_create(2), /dev/shm and the upper layer of an overlay are made of.

mod file;
mod node;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU64, Ordering};

use super::anon::next_dev;
use super::context::Cx;
use super::dentry::{Dentry, Super};
use super::file::File;
use super::inode::{FileSystem, Inode};
use super::mount::Mount;
use super::pages::Charge;
use super::path::Path;
use super::types::{FileType, MountFlags, NAME_MAX, New, OpenFlags, StatFs};
use crate::errno::Errno;
use crate::platform::{PAGE_SIZE, own_frames};
use crate::task::Creds;

pub use file::Body;
pub use file::{FileHandle, seal};
pub use node::{Content, Node};

/// TMPFS_MAGIC (linux/magic.h).
const MAGIC: u64 = 0x0102_1994;

/// What a tmpfs begins with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most bytes; 0: no limit but memory.
    pub size: u64,
    /// Most inodes; 0: no limit.
    pub inodes: u64,
    /// The root's permissions and owner.
    pub root: New,
}

impl Default for Options {
    fn default() -> Self {
        // Half of memory, as Linux does.
        let most = own_frames().most;
        Options {
            size: most.saturating_mul(PAGE_SIZE as u64) / 2,
            inodes: most / 2,
            root: New { mode: 0o1777, uid: 0, gid: 0 },
        }
    }
}

impl Options {
    /// From mount data of somebody's: `size=64k,mode=755,uid=..`. `EINVAL` for what is not understood.
    pub fn parse(data: &[u8], creds: &Creds) -> Result<Options, Errno> {
        let ns = &creds.userns;
        let mut options = Options::default();
        (options.root.uid, options.root.gid) = (creds.fsuid, creds.fsgid);
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| Errno::EINVAL);
            match name {
                "size" => options.size = parse_size(value)?,
                "nr_blocks" => {
                    options.size = parse_size(value)?.saturating_mul(PAGE_SIZE as u64);
                }
                "nr_inodes" => options.inodes = parse_size(value)?,
                "mode" => options.root.mode = number(8)? & 0o7777,
                "uid" => options.root.uid = ns.kuid(number(10)?).ok_or(Errno::EINVAL)?,
                "gid" => options.root.gid = ns.kgid(number(10)?).ok_or(Errno::EINVAL)?,
                // Where pages are is not an application's business here.
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

/// A number with k, m, g, t, or a percentage of memory.
fn parse_size(text: &str) -> Result<u64, Errno> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let unit = text.get(digits.len()..).unwrap_or("");
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "%" => {
            let most = own_frames().most;
            return Ok((u128::from(most) * PAGE_SIZE as u128 * u128::from(number) / 100) as u64);
        }
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(1 << shift).ok_or(Errno::EINVAL)
}

/// What an inode takes of the room for inodes, bytes; its attributes take more of it (BOGO_INODE_SIZE, mm/shmem.c).
const INODE_SPACE: u64 = 1024;

/// What all inodes of one tmpfs share.
pub struct Shared {
    dev: u64,
    /// Most pages and inodes; 0: no limit.
    max_pages: AtomicU64,
    max_inodes: AtomicU64,
    pages: AtomicU64,
    /// Bytes that inodes and their attributes take.
    space: AtomicU64,
    next_ino: AtomicU64,
}

impl Shared {
    fn ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes room for an inode or its attributes. `ENOSPC` where there is none.
    fn take(&self, bytes: u64) -> Result<(), Errno> {
        let most = match self.max_inodes.load(Ordering::Relaxed) {
            // They are in memory of the sentry's, which the frames of files do not count: a quarter of all is enough.
            0 => own_frames().most,
            most => most,
        };
        Self::add(&self.space, most.saturating_mul(INODE_SPACE), bytes)
    }

    fn give_back(&self, bytes: u64) {
        self.space.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn add(count: &AtomicU64, limit: u64, n: u64) -> Result<(), Errno> {
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(n).filter(|sum| *sum <= limit)
            })
            .map(|_| ())
            .map_err(|_| Errno::ENOSPC)
    }
}

impl Charge for Shared {
    fn charge(&self, pages: u64) -> Result<(), Errno> {
        let limit = match self.max_pages.load(Ordering::Relaxed) {
            0 => u64::MAX,
            limit => limit,
        };
        Self::add(&self.pages, limit, pages)
    }

    fn refund(&self, pages: u64) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// A tmpfs.
pub struct Tmpfs {
    shared: Arc<Shared>,
    root: Arc<Node>,
    name: &'static str,
    /// The root's permissions and owner, as asked for.
    asked: New,
}

impl Tmpfs {
    /// An empty one. `name` is its type as mount(8) shows it (`tmpfs`, `devtmpfs`).
    pub fn new(name: &'static str, options: &Options) -> Result<Arc<Tmpfs>, Errno> {
        let shared = Arc::new(Shared {
            dev: next_dev(),
            max_pages: AtomicU64::new(options.size.div_ceil(PAGE_SIZE as u64)),
            max_inodes: AtomicU64::new(options.inodes),
            pages: AtomicU64::new(0),
            space: AtomicU64::new(0),
            next_ino: AtomicU64::new(1),
        });
        let root = Node::new(&shared, FileType::Directory, options.root, node::Content::dir(), 2)?;
        Ok(Arc::new(Tmpfs { shared, root, name, asked: options.root }))
    }

    /// What its inodes share: for those who make inodes that are in none of its directories.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its root, as what it is.
    pub fn root_node(&self) -> &Arc<Node> {
        &self.root
    }
}

impl FileSystem for Tmpfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let s = &self.shared;
        let free = |used: &AtomicU64, most: u64| most.saturating_sub(used.load(Ordering::Relaxed));
        let bfree = free(&s.pages, s.max_pages.load(Ordering::Relaxed));
        let files = s.max_inodes.load(Ordering::Relaxed);
        Ok(StatFs {
            kind: MAGIC,
            bsize: PAGE_SIZE as u64,
            blocks: s.max_pages.load(Ordering::Relaxed),
            bfree,
            bavail: bfree,
            files,
            ffree: free(&s.space, files.saturating_mul(INODE_SPACE)) / INODE_SPACE,
            fsid: s.dev,
            namelen: NAME_MAX as u64,
        })
    }

    fn options(&self) -> String {
        let (pages, inodes) = (
            self.shared.max_pages.load(Ordering::Relaxed),
            self.shared.max_inodes.load(Ordering::Relaxed),
        );
        // What differs from what there is without being asked for (shmem_show_options()).
        let usual = Options::default();
        let mut text = String::new();
        let mut show = |name: &str, value: u64, unit: &str| {
            // Writing to a String cannot fail.
            let _ = write!(text, ",{name}={value}{unit}");
        };
        if pages != usual.size.div_ceil(PAGE_SIZE as u64) {
            show("size", pages.saturating_mul(PAGE_SIZE as u64 / 1024), "k");
        }
        if inodes != usual.inodes {
            show("nr_inodes", inodes, "");
        }
        let New { mode, uid, gid } = self.asked;
        if mode != usual.root.mode {
            let _ = write!(text, ",mode={mode:03o}");
        }
        for (name, id) in [("uid", uid), ("gid", gid)] {
            if id != 0 {
                let _ = write!(text, ",{name}={id}");
            }
        }
        text
    }

    fn remount(&self, data: &[u8]) -> Result<(), Errno> {
        // Whoever the root belongs to stays.
        let options = Options::parse(data, &Creds::default())?;
        let pages = options.size.div_ceil(PAGE_SIZE as u64);
        if data.windows(5).any(|w| w == b"size=") {
            if pages != 0 && pages < self.shared.pages.load(Ordering::Relaxed) {
                return Err(Errno::EINVAL);
            }
            self.shared.max_pages.store(pages, Ordering::Relaxed);
        }
        if data.windows(10).any(|w| w == b"nr_inodes=") {
            let room = options.inodes.saturating_mul(INODE_SPACE);
            if options.inodes != 0 && room < self.shared.space.load(Ordering::Relaxed) {
                return Err(Errno::EINVAL);
            }
            self.shared.max_inodes.store(options.inodes, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// memfd_create(2): a file that is in no directory.
pub fn memfd(cx: &Cx<'_>, name: &[u8], mode: u32, seals: u32) -> Result<Arc<File>, Errno> {
    static MEMFDS: spin::Once<Arc<Super>> = spin::Once::new();
    // One file system without a mount holds them all, as Linux's shm_mnt does.
    let sb = match MEMFDS.get() {
        Some(sb) => sb,
        None => {
            let fs = Tmpfs::new("tmpfs", &Options { size: 0, inodes: 0, ..Options::default() })?;
            MEMFDS.call_once(|| Super::new(fs))
        }
    };
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let tmpfs = root.inode().and_then(|i| i.as_any().downcast_ref::<Node>());
    let shared = tmpfs.ok_or(Errno::ENOENT)?.shared.clone();
    let new = New { mode, uid: cx.creds.fsuid, gid: cx.creds.fsgid };
    let node = Node::new_file(&shared, new)?;
    if let Some(body) = node.body() {
        body.seals.store(seals, Ordering::Relaxed);
    }
    let mut shown = b"/memfd:".to_vec();
    shown.extend_from_slice(name);
    let dentry = Dentry::new(sb, None, &shown, Some(node.clone()));
    dentry.set_unlinked();
    let mount = Mount::new(sb, root, MountFlags::RELATIME, "tmpfs".into());
    let path = Path { mount, dentry };
    let flags = OpenFlags::RDWR | OpenFlags::LARGEFILE;
    File::new(Box::new(FileHandle(node.clone())), node, Some(path), flags)
}
