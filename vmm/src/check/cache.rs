//! The probe's verdict, kept until the next boot.
//!
//! It lies in a folder that only the caller's uid can write: a wrong verdict would move a container
//! from one isolation to another. So the folder is checked (owner, mode, no symbolic link) and the file
//! is opened relative to it and checked again; what fails a check is not used, and the probe runs.
//! The key holds whatever may change the verdict; a file with another key is as good as none.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::probe::KvmFinding;

/// A cache file is some hundred bytes long; more is not read.
const MAX_SIZE: u64 = 16 << 10;
const NAME: &str = "kvm-verdict.json";

/// What a verdict depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// /proc/sys/kernel/random/boot_id.
    pub boot: String,
    /// uname -r and -v: two builds may share a release.
    pub kernel: String,
    /// Model name and microcode, of /proc/cpuinfo.
    pub cpu: String,
    /// What /dev/kvm is: device number, and which node.
    pub device: String,
    /// Which ringwall: size, time and inode of the binary.
    pub build: String,
}

impl Key {
    /// The key here and now; `None` where something cannot be found out, and then nothing is cached.
    pub fn here() -> Option<Key> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let kernel = ["osrelease", "version"]
            .iter()
            .map(|name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")))
            .collect::<io::Result<Vec<_>>>()
            .ok()?
            .iter()
            .map(|s| s.trim())
            .collect::<Vec<_>>()
            .join(" ");
        let device = std::fs::metadata("/dev/kvm").ok()?;
        if !device.file_type().is_char_device() {
            return None;
        }
        let exe = std::fs::metadata("/proc/self/exe").ok()?;
        Some(Key {
            boot: boot.trim().into(),
            kernel,
            cpu: cpu(&mut File::open("/proc/cpuinfo").ok()?)?,
            device: format!("{:x} {:x}:{}", device.rdev(), device.dev(), device.ino()),
            build: format!(
                "{} {}.{:09} {:x}:{}",
                exe.len(),
                exe.mtime(),
                exe.mtime_nsec(),
                exe.dev(),
                exe.ino()
            ),
        })
    }
}

/// Model and microcode of the first CPU. Reads no more than its entry: the file grows with the CPUs,
/// and the kernel computes it at every read.
fn cpu(source: &mut impl Read) -> Option<String> {
    let mut text = Vec::new();
    let mut buf = [0; 2048];
    while !text.windows(2).any(|w| w == b"\n\n") && text.len() < 64 << 10 {
        match source.read(&mut buf).ok()? {
            0 => break,
            n => text.extend_from_slice(&buf[..n]),
        }
    }
    let text = String::from_utf8_lossy(&text);
    let field = |name| {
        text.lines()
            .take_while(|l| !l.is_empty())
            .filter_map(|l| l.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
    };
    Some(format!("{} microcode {}", field("model name")?, field("microcode").unwrap_or("unknown")))
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Key,
    finding: KvmFinding,
}

/// Folders that may serve, best first.
pub fn folders() -> Vec<PathBuf> {
    // SAFETY: cannot fail.
    let uid = unsafe { libc::geteuid() };
    let mut folders = Vec::new();
    if let Some(dir) =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|d| d.as_bytes().starts_with(b"/"))
    {
        folders.push(Path::new(&dir).join("ringwall"));
    }
    if uid == 0 {
        folders.push("/run/ringwall-0".into());
    }
    folders.push(format!("/run/user/{uid}/ringwall").into());
    folders.push(format!("/tmp/ringwall-{uid}").into());
    folders
}

/// The verdict under this key in the first of the folders that has it.
pub fn load(folders: &[PathBuf], key: &Key) -> Option<KvmFinding> {
    folders.iter().find_map(|folder| {
        let mut text = Vec::new();
        open_file(&open_folder(folder).ok()?, libc::O_RDONLY)
            .ok()?
            .take(MAX_SIZE)
            .read_to_end(&mut text)
            .ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.key == *key).then_some(entry.finding)
    })
}

/// Keeps a verdict in the first of the folders that can be used. Says where, or why not.
pub fn store(folders: &[PathBuf], key: Key, finding: &KvmFinding) -> io::Result<PathBuf> {
    let text = serde_json::to_vec(&Entry { key, finding: finding.clone() })?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for folder in folders {
        match store_in(folder, &text) {
            Ok(()) => return Ok(folder.join(NAME)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn store_in(folder: &Path, text: &[u8]) -> io::Result<()> {
    let path = c_path(folder)?;
    // SAFETY: a C string.
    if unsafe { libc::mkdir(path.as_ptr(), 0o700) } != 0 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::AlreadyExists {
            return Err(e);
        }
    }
    let folder = open_folder(folder)?;
    // A new file under another name, then renamed: a reader sees the old one or the new one, whole.
    let name = CString::new(format!(".{NAME}.{}", std::process::id()))?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a C string and an open folder; the descriptor that comes back is ours.
    let mut file = unsafe {
        libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), 0);
        let fd = libc::openat(folder.as_raw_fd(), name.as_ptr(), flags, 0o600);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    file.write_all(text)?;
    let target = CString::new(NAME)?;
    // SAFETY: C strings and an open folder.
    let rc = unsafe {
        libc::renameat(folder.as_raw_fd(), name.as_ptr(), folder.as_raw_fd(), target.as_ptr())
    };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a folder that nobody but the caller's uid can write.
fn open_folder(path: &Path) -> io::Result<File> {
    let path = c_path(path)?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a C string; the descriptor that comes back is ours.
    let folder = unsafe {
        let fd = libc::open(path.as_ptr(), flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    checked(folder)
}

/// Opens the cache file in a checked folder.
fn open_file(folder: &File, flags: libc::c_int) -> io::Result<File> {
    let name = CString::new(NAME)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: a C string and an open folder; the descriptor that comes back is ours.
    let file = unsafe {
        let fd = libc::openat(folder.as_raw_fd(), name.as_ptr(), flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    if !file.metadata()?.file_type().is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    checked(file)
}

/// Refuses what another uid owns or may write.
fn checked(file: File) -> io::Result<File> {
    let meta = file.metadata()?;
    // SAFETY: cannot fail.
    let uid = unsafe { libc::geteuid() };
    if meta.uid() != uid || meta.mode() & 0o022 != 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(file)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::probe::KvmProblem;
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("rw-cache-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn key() -> Key {
        Key {
            boot: "b".into(),
            kernel: "k".into(),
            cpu: "c".into(),
            device: "d".into(),
            build: "x".into(),
        }
    }

    #[test]
    fn a_verdict_is_found_again_under_its_key_only() {
        let dir = Dir::new("key");
        let folders = [dir.0.join("gone/deeper"), dir.0.join("own")];
        let finding = KvmFinding::unmeasured(KvmProblem::Version(11));
        assert_eq!(load(&folders, &key()), None);
        let path = store(&folders, key(), &finding).unwrap();
        assert_eq!(path, folders[1].join(NAME));
        assert_eq!(load(&folders, &key()), Some(finding.clone()));
        let other = Key { boot: "other".into(), ..key() };
        assert_eq!(load(&folders, &other), None);
        // It may be written again.
        store(&folders, other.clone(), &finding).unwrap();
        assert_eq!(load(&folders, &other), Some(finding));
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let dir = Dir::new("mode");
        let folders = [dir.0.join("own")];
        let finding = KvmFinding::unmeasured(KvmProblem::Version(11));
        let path = store(&folders, key(), &finding).unwrap();

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(load(&folders, &key()), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load(&folders, &key()).is_some());

        std::fs::set_permissions(&folders[0], std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(load(&folders, &key()), None);
        assert!(store(&folders, key(), &finding).is_err());
    }

    #[test]
    fn links_and_rubbish_are_not_followed() {
        let dir = Dir::new("link");
        let real = [dir.0.join("real")];
        let finding = KvmFinding::unmeasured(KvmProblem::Version(11));
        let path = store(&real, key(), &finding).unwrap();

        let linked = dir.0.join("linked");
        symlink(&real[0], &linked).unwrap();
        assert_eq!(load(&[linked], &key()), None);

        let moved = dir.0.join("moved");
        std::fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        assert_eq!(load(&real, &key()), None);
        // Storing replaces the link, and leaves what it pointed to alone.
        std::fs::write(&moved, "mine").unwrap();
        store(&real, key(), &finding).unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "mine");
        assert!(load(&real, &key()).is_some());

        std::fs::write(&path, "{").unwrap();
        assert_eq!(load(&real, &key()), None);
        std::fs::write(&path, vec![b' '; MAX_SIZE as usize + 5]).unwrap();
        assert_eq!(load(&real, &key()), None);
    }

    #[test]
    fn the_cpu_is_the_first_one_whole() {
        let text = "model name\t: A CPU\nmicrocode\t: 0x1\n\nmodel name\t: B\nmicrocode\t: 0x2\n";
        assert_eq!(cpu(&mut text.as_bytes()), Some("A CPU microcode 0x1".into()));
        assert_eq!(
            cpu(&mut &b"model name: A\n\nmicrocode: 2\n"[..]),
            Some("A microcode unknown".into())
        );
        assert_eq!(cpu(&mut &b""[..]), None);
    }
}
