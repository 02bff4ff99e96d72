//! What the VM is made of: QEMU, a kernel, and the initramfs with the agent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::apt::{self, Apt};
use crate::cpio::Archive;

/// QEMU 10 or later: in bookworm's own 7.2 a nested guest that uses AVX or XSAVE crashes.
const QEMU_SUITE: &str = "bookworm-backports";

/// The modules that the VM needs, in no order: KVM, the disk and the port to the harness, and overlay file systems.
const MODULES: [&str; 5] = ["kvm-amd", "virtio_pci", "virtio_blk", "virtio_console", "overlay"];

/// Why the VM could not be put together.
#[derive(Debug, Error)]
pub enum Error {
    /// Packages could not be had.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// A file could not be read or written.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// A package does not contain what it should.
    #[error("{0} is not in its Debian package")]
    Missing(String),
}

/// Everything that is fetched for the VM, in folders of the cache.
pub struct Parts {
    qemu: PathBuf,
    kernel: PathBuf,
    busybox: PathBuf,
    runc: PathBuf,
}

impl Parts {
    /// Fetches what is not yet there.
    pub fn fetch(cache: &Path, apt: &mut Apt) -> Result<Parts, Error> {
        let parts = Parts {
            qemu: cache.join("qemu"),
            kernel: cache.join("kernel"),
            busybox: cache.join("busybox"),
            runc: cache.join("runc"),
        };
        apt::once(&parts.qemu, |into| {
            let packages = apt.closure(QEMU_SUITE, &["qemu-system-x86"])?;
            apt.unpack(QEMU_SUITE, &packages, into)
        })?;
        apt::once(&parts.kernel, |into| {
            let package = apt.first_dependency("linux-image-cloud-amd64")?;
            apt.unpack("bookworm", &[package], into)
        })?;
        fetch_busybox(cache, apt)?;
        fetch_runc(cache, apt)?;
        Ok(parts)
    }

    /// The start of QEMU's command line: the program with its own loader and libraries, and its firmware folders.
    pub fn qemu_command(&self) -> Result<Vec<String>, Error> {
        let mut argv = private_program(&self.qemu, "usr/bin/qemu-system-x86_64")?;
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            argv.extend(["-L".to_owned(), text(&self.qemu.join(folder))]);
        }
        Ok(argv)
    }

    /// The kernel image.
    pub fn vmlinuz(&self) -> Result<PathBuf, Error> {
        let folder = self.kernel.join("boot");
        let entries = fs::read_dir(&folder).map_err(|e| Error::Io(text(&folder), e))?;
        let found =
            entries.flatten().find(|e| e.file_name().to_string_lossy().starts_with("vmlinuz"));
        found.map(|e| e.path()).ok_or_else(|| Error::Missing("vmlinuz".into()))
    }

    /// Writes the initramfs: the agent as `/init`, the tools it needs, and these files (name in the VM, file here).
    pub fn initramfs(
        &self,
        to: &Path,
        agent: &Path,
        extra: &[(String, PathBuf)],
    ) -> Result<(), Error> {
        let failed = |e| Error::Io(text(to), e);
        let file = fs::File::create(to).map_err(failed)?;
        let mut archive = Archive::new(io::BufWriter::new(file));
        let mut folders = BTreeSet::new();
        let mut add = |archive: &mut Archive<_>, name: &str, from: &Path| -> Result<(), Error> {
            let mut at = 0;
            while let Some(slash) = name[at..].find('/') {
                at += slash;
                if folders.insert(name[..at].to_owned()) {
                    archive.directory(&name[..at]).map_err(failed)?;
                }
                at += 1;
            }
            if from.is_dir() {
                archive.directory(name).map_err(failed)?;
                return archive.tree(name, from).map_err(failed);
            }
            let bytes = fs::read(from).map_err(|e| Error::Io(text(from), e))?;
            archive.file(name, 0o755, &bytes).map_err(failed)
        };

        add(&mut archive, "init", agent)?;
        add(&mut archive, "bin/busybox", &self.busybox.join("bin/busybox"))?;
        for (index, module) in self.modules()?.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The agent loads them in the order of their names.
            add(&mut archive, &format!("lib/modules/{index:02}-{name}"), module)?;
        }
        let runc = self.runc.join("usr/sbin/runc");
        add(&mut archive, super::RUNC.trim_start_matches('/'), &runc)?;
        let libraries = self.runc.join("lib/x86_64-linux-gnu");
        for name in ["ld-linux-x86-64.so.2", "libc.so.6"] {
            add(&mut archive, &format!("lib/x86_64-linux-gnu/{name}"), &libraries.join(name))?;
        }
        let seccomp = self.runc.join("usr/lib/x86_64-linux-gnu/libseccomp.so.2");
        add(&mut archive, "lib/x86_64-linux-gnu/libseccomp.so.2", &seccomp)?;
        for (name, from) in extra {
            add(&mut archive, name.trim_start_matches('/'), from)?;
        }
        archive.directory("lib64").map_err(failed)?;
        let loader = "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
        archive.symlink("lib64/ld-linux-x86-64.so.2", loader).map_err(failed)?;
        archive.directory("dev").map_err(failed)?;
        // The kernel opens it for init before anything is mounted.
        archive.character_device("dev/console", 5, 1).map_err(failed)?;
        archive.finish().map_err(failed)?;
        Ok(())
    }

    /// The modules and what they depend on, dependencies first.
    fn modules(&self) -> Result<Vec<PathBuf>, Error> {
        let mut all = Vec::new();
        collect_modules(&self.kernel.join("lib/modules"), &mut all)?;
        let mut order = Vec::new();
        for module in MODULES {
            self.add_module(module, &all, &mut order)?;
        }
        Ok(order)
    }

    fn add_module(
        &self,
        name: &str,
        all: &[PathBuf],
        order: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        let canonical =
            |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
        let wanted = name.replace('-', "_");
        let path = all.iter().find(|path| canonical(path) == wanted);
        let path = path.ok_or_else(|| Error::Missing(format!("{name}.ko")))?;
        if order.contains(path) {
            return Ok(());
        }
        let bytes = fs::read(path).map_err(|e| Error::Io(text(path), e))?;
        for dependency in module_dependencies(&bytes) {
            self.add_module(&dependency, all, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// Fetches a static busybox; returns the program.
pub fn fetch_busybox(cache: &Path, apt: &mut Apt) -> Result<PathBuf, apt::Error> {
    let folder = cache.join("busybox");
    apt::once(&folder, |into| apt.unpack("bookworm", &["busybox-static".to_owned()], into))?;
    Ok(folder.join("bin/busybox"))
}

/// Fetches runc, the reference; returns the command that runs it on this machine.
pub fn fetch_runc(cache: &Path, apt: &mut Apt) -> Result<Vec<String>, apt::Error> {
    let folder = cache.join("runc");
    apt::once(&folder, |into| {
        let packages = ["runc", "libseccomp2", "libc6"].map(str::to_owned);
        apt.unpack("bookworm", &packages, into)
    })?;
    // runc re-executes itself through /proc/self/exe and so cannot be run by an explicit loader; it needs little of a libc.
    Ok(vec![
        "env".to_owned(),
        format!("LD_LIBRARY_PATH={}", text(&folder.join("usr/lib/x86_64-linux-gnu"))),
        text(&folder.join("usr/sbin/runc")),
    ])
}

/// The command that runs a program of an unpacked package closure with that closure's own loader and libraries.
fn private_program(root: &Path, program: &str) -> Result<Vec<String>, Error> {
    let loader = root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    let program = root.join(program);
    for path in [&loader, &program] {
        if !path.exists() {
            return Err(Error::Missing(text(path)));
        }
    }
    let libraries =
        ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|folder| text(&root.join(folder)));
    Ok(vec![text(&loader), "--library-path".to_owned(), libraries.join(":"), text(&program)])
}

/// The names in the `depends=` field of a module's `.modinfo` section, which is a run of NUL-terminated strings.
fn module_dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|w| w == key) else { return Vec::new() };
    let value = module[at + key.len()..].split(|b| *b == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn collect_modules(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(|e| Error::Io(text(folder), e))?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            collect_modules(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "ko") {
            into.push(path);
        }
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module() {
        let info = b"\x7fELF\0license=GPL\0depends=irqbypass,kvm\0name=kvm_amd\0";
        assert_eq!(module_dependencies(info), ["irqbypass", "kvm"]);
        assert!(module_dependencies(b"\0depends=\0").is_empty());
        assert!(module_dependencies(b"").is_empty());
    }
}
