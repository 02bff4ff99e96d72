//! The userland's root: a Debian bookworm that debootstrap installs, maintainer scripts and all, from the machine's mirror.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt;
use crate::roots::Error;

/// What is installed beyond Debian's minimal base.
const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "bash",
    "bc",
    "coreutils",
    "cpio",
    "dash",
    "diffutils",
    "file",
    "findutils",
    "gawk",
    "gcc",
    "gdb-minimal",
    "git",
    "gnupg",
    "grep",
    "gzip",
    "htop",
    "less",
    "libc6-dev",
    "libpython3.11-testsuite",
    "lsof",
    "make",
    "openssh-client",
    "openssl",
    "perl",
    "procps",
    "psmisc",
    "python3",
    "sed",
    "sqlite3",
    "strace",
    "stress-ng",
    "tar",
    "tmux",
    "util-linux",
    "vim",
    "xz-utils",
    "zstd",
];

/// Makes the root below `cache/userland/roots` unless it is there, and returns that folder.
pub fn make(cache: &Path) -> Result<PathBuf, Error> {
    let roots = cache.join("userland/roots");
    apt::install_missing(&[("debootstrap", "debootstrap")])?;
    let name = crate::differential::Root::Userland.name();
    // One that was made from another list of packages is made again.
    let list = roots.join(format!("{name}.packages"));
    let current = fs::read_to_string(&list).is_ok_and(|made| made == PACKAGES.join(" "));
    if !current {
        match fs::remove_dir_all(roots.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io(roots.join(name).display().to_string(), e));
            }
            _ => {}
        }
    }
    apt::once(&roots.join(name), |into| -> Result<(), Error> {
        println!(
            "installing Debian into {} with debootstrap: {}",
            into.display(),
            PACKAGES.join(" ")
        );
        let mut command = Command::new("debootstrap");
        command.args([
            "--variant=minbase",
            &format!("--include={}", PACKAGES.join(",")),
            "bookworm",
        ]);
        apt::output(command.arg(into).arg(apt::mirror()))?;
        // Only what a container finds: no downloads, no logs of the installation.
        for folder in ["debootstrap", "var/cache/apt/archives", "usr/share/doc", "usr/share/locale"]
        {
            let path = into.join(folder);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(|e| Error::Io(path.display().to_string(), e))?;
            }
        }
        let archives = into.join("var/cache/apt/archives/partial");
        fs::create_dir_all(&archives).map_err(|e| Error::Io(archives.display().to_string(), e))
    })?;
    // Written again it would be newer, and the test VM's disk made again.
    if !current {
        fs::write(&list, PACKAGES.join(" "))
            .map_err(|e| Error::Io(list.display().to_string(), e))?;
    }
    Ok(roots)
}
