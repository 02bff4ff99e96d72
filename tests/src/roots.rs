//! The root file systems that containers get: made once, kept in the cache, never written to.
//!
//! - `busybox`: a static busybox and its links.
//! - `debian`: bash, coreutils, python3 and their like, unpacked from Debian's packages.
//! - `tools`: no root, but programs that tests run beside a container, with their libraries.
//! - `docker`: no root, but Docker's engine and client with their libraries, as Debian's packages have them.
//! - `podman`: the same of Podman, and script(1), which the test VM does not have.
//! - `programs`: the C programs of `tests/programs`, statically and dynamically linked, with this machine's C library (the
//!   one they were linked with) and busybox.
//!
//! A container runs on an overlay above one of them, so that every run finds it fresh.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::apt::{self, Apt};
use crate::vm::image;

/// What the Debian root is made of, without what its dependencies need only to be installed.
const DEBIAN: [&str; 18] = [
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "file",
    "findutils",
    "gawk",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "ncurses-base",
    "ncurses-bin",
    "procps",
    "python3",
    "sed",
    "tar",
    "util-linux",
];

/// What tests run on the host, with what it needs.
const TOOLS: [&str; 5] = ["libc6", "libgcc-s1", "liblzma5", "libunwind8", "strace"];

/// Packages that serve only maintainer scripts, which are not run.
const NOT_UNPACKED: [&str; 14] = [
    "debconf",
    "dpkg",
    "init-system-helpers",
    "libdb5.3",
    "libfile-find-rule-perl",
    "libgdbm-compat4",
    "libgdbm6",
    "libnumber-compare-perl",
    "libperl5.36",
    "libtext-glob-perl",
    "perl",
    "perl-base",
    "perl-modules-5.36",
    "usrmerge",
];

/// Why a root could not be made.
#[derive(Debug, Error)]
pub enum Error {
    /// Packages could not be had, or a tool failed.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// A file could not be read or written.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

/// Makes all roots below `cache/roots` and returns that folder.
pub fn make(cache: &Path, apt: &mut Apt, programs: &Path) -> Result<PathBuf, Error> {
    let roots = cache.join("roots");
    create(&roots)?;
    let busybox = image::fetch_busybox(cache, apt)?;
    apt::once(&roots.join("busybox"), |into| busybox_root(&busybox, into))?;
    apt::once(&roots.join("debian"), |into| debian_root(apt, into))?;
    apt::once(&roots.join("tools"), |into| {
        apt.unpack("bookworm", &TOOLS.map(str::to_owned), into)
    })?;
    apt::once(&roots.join("docker"), |into| docker_root(apt, into))?;
    apt::once(&roots.join("podman"), |into| {
        apt.unpack("bookworm", &crate::docker::podman::PACKAGES.map(str::to_owned), into)?;
        remove(
            into,
            &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/bin/podman-remote"],
        )
    })?;
    let stamp = roots.join("programs/.sources");
    let sources = digest(programs)?;
    if fs::read_to_string(&stamp).unwrap_or_default() != sources {
        let root = roots.join("programs");
        if root.exists() {
            fs::remove_dir_all(&root).map_err(|e| io_error(&root, e))?;
        }
        apt::once(&root, |into| {
            busybox_root(&busybox, into)?;
            programs_root(programs, into)?;
            fs::write(into.join(".sources"), &sources).map_err(|e| io_error(into, e))
        })?;
    }
    Ok(roots)
}

/// Makes an ext4 image of the roots for the VM, again only when they changed.
pub fn disk(cache: &Path, roots: &Path) -> Result<PathBuf, Error> {
    apt::install_missing(&[("mkfs.ext4", "e2fsprogs")])?;
    let disk = cache.join("roots.ext4");
    let stamp = cache.join("roots.ext4.stamp");
    let mut names = Vec::new();
    for entry in fs::read_dir(roots).map_err(|e| io_error(roots, e))?.flatten() {
        let modified =
            entry.metadata().and_then(|meta| meta.modified()).map_err(|e| io_error(roots, e))?;
        names.push(format!("{:?} {modified:?}", entry.file_name()));
    }
    names.sort();
    let contents = names.join("\n");
    if disk.exists() && fs::read_to_string(&stamp).unwrap_or_default() == contents {
        return Ok(disk);
    }
    println!("making {} from {}", disk.display(), roots.display());
    let used = apt::output(Command::new("du").args(["-sm", "--apparent-size"]).arg(roots))?;
    let used: u64 =
        used.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(512);
    let partial = cache.join("roots.ext4.partial");
    let _ = fs::remove_file(&partial);
    // Twice the contents: small files take whole blocks.
    let size = format!("{}M", used * 2 + 64);
    let mut mkfs = Command::new(if Path::new("/usr/sbin/mkfs.ext4").exists() {
        "/usr/sbin/mkfs.ext4"
    } else {
        "mkfs.ext4"
    });
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(roots)
        .arg(&partial)
        .arg(size);
    apt::output(&mut mkfs)?;
    fs::rename(&partial, &disk).map_err(|e| io_error(&disk, e))?;
    fs::write(&stamp, contents).map_err(|e| io_error(&stamp, e))?;
    Ok(disk)
}

fn skeleton(root: &Path) -> Result<(), Error> {
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "etc", "var/tmp", "home", "opt"] {
        create(&root.join(folder))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o1777))
            .map_err(|e| io_error(root, e))?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n";
    for (name, text) in [("passwd", passwd), ("group", group), ("hosts", "127.0.0.1 localhost\n")] {
        let path = root.join("etc").join(name);
        fs::write(&path, text).map_err(|e| io_error(&path, e))?;
    }
    Ok(())
}

fn busybox_root(busybox: &Path, root: &Path) -> Result<(), Error> {
    skeleton(root)?;
    let bin = root.join("bin");
    create(&bin)?;
    fs::copy(busybox, bin.join("busybox")).map_err(|e| io_error(busybox, e))?;
    let applets = apt::output(Command::new(busybox).arg("--list"))?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(applet)).map_err(|e| io_error(&bin, e))?;
    }
    Ok(())
}

/// A Debian that boots, from these packages.
pub fn system(apt: &mut Apt, packages: &[&str], root: &Path) -> Result<(), Error> {
    unpacked(apt, packages, root)?;
    // What maintainer scripts would have done.
    for (name, line) in [
        (
            "passwd",
            "messagebus:x:100:100::/nonexistent:/bin/false\nuser:x:1000:1000::/home:/bin/sh\n",
        ),
        ("group", "messagebus:x:100:\nuser:x:1000:\n"),
    ] {
        let path = root.join("etc").join(name);
        let text = fs::read_to_string(&path).map_err(|e| io_error(&path, e))?;
        fs::write(&path, text + line).map_err(|e| io_error(&path, e))?;
    }
    symlink("bash", root.join("usr/bin/sh")).map_err(|e| io_error(root, e))?;
    let path = root.join("etc/machine-id");
    fs::write(&path, "0123456789abcdef0123456789abcdef\n").map_err(|e| io_error(&path, e))
}

/// These packages with what they depend on, on a merged /usr.
fn unpacked(apt: &mut Apt, packages: &[&str], root: &Path) -> Result<(), Error> {
    // As Debian's installer does: the merged /usr first, then the packages over it.
    for name in ["bin", "sbin", "lib", "lib64"] {
        create(&root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name)).map_err(|e| io_error(root, e))?;
    }
    let mut packages = apt.closure("bookworm", packages)?;
    packages.retain(|name| !NOT_UNPACKED.contains(&name.as_str()));
    apt.unpack("bookworm", &packages, root)?;
    skeleton(root)?;
    for folder in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"] {
        let _ = fs::remove_dir_all(root.join(folder));
    }
    Ok(())
}

fn debian_root(apt: &mut Apt, root: &Path) -> Result<(), Error> {
    unpacked(apt, &DEBIAN, root)?;
    // What maintainer scripts would have done.
    for (link, target) in [("usr/bin/awk", "gawk"), ("usr/bin/sh", "dash")] {
        let link = root.join(link);
        if fs::symlink_metadata(&link).is_err() {
            symlink(target, &link).map_err(|e| io_error(&link, e))?;
        }
    }
    Ok(())
}

fn docker_root(apt: &mut Apt, root: &Path) -> Result<(), Error> {
    apt.unpack("bookworm", &crate::docker::PACKAGES.map(str::to_owned), root)?;
    // What is big and not used.
    let unused = [
        "usr/bin/containerd-shim",
        "usr/bin/containerd-shim-runc-v1",
        "usr/bin/containerd-stress",
        "usr/bin/dnet",
        "usr/sbin/ovrouter",
        "usr/share",
    ];
    remove(root, &unused)
}

/// Removes what is there of these.
fn remove(root: &Path, names: &[&str]) -> Result<(), Error> {
    for name in names {
        let path = root.join(name);
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Compiles every program twice, and puts the libraries that the dynamic ones name where they look for them.
fn programs_root(sources: &Path, root: &Path) -> Result<(), Error> {
    let mut libraries = BTreeSet::new();
    for source in c_files(sources)? {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for kind in ["static", "dynamic"] {
            let folder = root.join("programs").join(kind);
            create(&folder)?;
            let program = folder.join(&name);
            let mut cc = Command::new("cc");
            cc.args(["-std=gnu11", "-O1", "-pthread"]);
            if kind == "static" {
                cc.arg("-static");
            }
            apt::output(cc.arg("-o").arg(&program).arg(&source).arg("-lm"))?;
            if kind == "dynamic" {
                let listed = apt::output(Command::new("ldd").arg(&program))?;
                libraries.extend(
                    listed
                        .split_whitespace()
                        .filter(|word| word.starts_with('/'))
                        .map(PathBuf::from),
                );
            }
        }
    }
    for library in libraries {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        create(to.parent().unwrap_or(root))?;
        fs::copy(&library, &to).map_err(|e| io_error(&library, e))?;
    }
    Ok(())
}

fn c_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| io_error(folder, e))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|path| path.extension().is_some_and(|e| e == "c"))
        .collect();
    files.sort();
    Ok(files)
}

/// A digest of the programs' sources.
fn digest(folder: &Path) -> Result<String, Error> {
    let mut hasher = DefaultHasher::new();
    for entry in fs::read_dir(folder)
        .map_err(|e| io_error(folder, e))?
        .flatten()
        .collect::<Vec<_>>()
        .iter()
        .map(|e| e.path())
        .collect::<BTreeSet<_>>()
    {
        entry.hash(&mut hasher);
        fs::read(&entry).map_err(|e| io_error(&entry, e))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn create(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|e| io_error(path, e))
}

fn io_error(path: &Path, error: io::Error) -> Error {
    Error::Io(path.display().to_string(), error)
}
