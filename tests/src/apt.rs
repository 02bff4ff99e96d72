//! Debian packages without touching the machine: a private apt folder, with its own sources, lists, state and cache, that
//! downloads packages and unpacks them into folders from which they are used.
//!
//! What the tests run (QEMU, a kernel, runc, root file systems) comes from here, at bookworm's versions whatever the
//! machine's own release. apt verifies signatures with the machine's Debian keyring. Nothing is downloaded before it has
//! been named on standard output.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// Where a fresh Debian keeps the keys of its archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror used when the machine's own sources name none.
const MIRROR: &str = "http://deb.debian.org/debian";

/// Why packages could not be had.
#[derive(Debug, Error)]
pub enum Error {
    /// {0}: {1}
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// A tool of Debian's failed.
    #[error("{command} failed ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// Its status.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// The answer of apt was not understood.
    #[error("apt names no package for {0}")]
    Nothing(String),
}

/// A private apt folder.
pub struct Apt {
    folder: PathBuf,
    updated: bool,
}

impl Apt {
    /// Uses (and makes, if need be) the folder.
    pub fn new(folder: &Path) -> Result<Apt, Error> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            make_folder(&folder.join(sub))?;
        }
        // apt sees a machine on which nothing is installed, and so names the whole closure of dependencies.
        write(&folder.join("status"), "")?;
        let mirror = mirror();
        let sources: String = ["bookworm", "bookworm-updates", "bookworm-backports"]
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .concat();
        write(&folder.join("sources.list"), &sources)?;
        Ok(Apt { folder: folder.to_owned(), updated: false })
    }

    /// The packages that installing these on an empty machine would install, themselves included.
    pub fn closure(&mut self, suite: &str, packages: &[&str]) -> Result<Vec<String>, Error> {
        let mut args = vec!["-s", "--no-install-recommends", "-t", suite, "install"];
        args.extend(packages);
        let listed = self.apt("apt-get", &args)?;
        let names: Vec<String> = listed
            .lines()
            .filter_map(|line| line.strip_prefix("Inst "))
            .filter_map(|rest| rest.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        if names.is_empty() { Err(Error::Nothing(packages.join(" "))) } else { Ok(names) }
    }

    /// The package that a metapackage depends on first.
    pub fn first_dependency(&mut self, metapackage: &str) -> Result<String, Error> {
        let listed = self.apt("apt-cache", &["depends", metapackage])?;
        listed
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .ok_or_else(|| Error::Nothing(metapackage.to_owned()))
    }

    /// Downloads these packages (and no others) and unpacks them into `into`; says so first.
    pub fn unpack(&mut self, suite: &str, packages: &[String], into: &Path) -> Result<(), Error> {
        let downloads = self.folder.join("download");
        // Nothing but this call's packages may be unpacked.
        if downloads.exists() {
            fs::remove_dir_all(&downloads)
                .map_err(|e| Error::Io(downloads.display().to_string(), e))?;
        }
        make_folder(&downloads)?;
        make_folder(into)?;
        println!(
            "downloading {} Debian packages into {}: {}",
            packages.len(),
            into.display(),
            packages.join(" ")
        );
        let mut args = vec!["-qq", "-t", suite, "download"];
        args.extend(packages.iter().map(String::as_str));
        let mut command = self.command("apt-get", &args)?;
        output(command.current_dir(&downloads))?;
        let mut files: Vec<PathBuf> = fs::read_dir(&downloads)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|e| Error::Io(downloads.display().to_string(), e))?;
        files.sort();
        for file in files {
            extract(&file, into)?;
        }
        fs::remove_dir_all(&downloads).map_err(|e| Error::Io(downloads.display().to_string(), e))
    }

    fn apt(&mut self, tool: &str, args: &[&str]) -> Result<String, Error> {
        output(&mut self.command(tool, args)?)
    }

    fn command(&mut self, tool: &str, args: &[&str]) -> Result<Command, Error> {
        if !self.updated {
            println!("reading Debian's package lists into {}", self.folder.display());
            output(&mut self.bare_command("apt-get", &["-qq", "update"]))?;
            self.updated = true;
        }
        Ok(self.bare_command(tool, args))
    }

    fn bare_command(&self, tool: &str, args: &[&str]) -> Command {
        let mut command = Command::new(tool);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State={folder}"),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            // Else apt drops to a user who may not be able to reach the folder.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::http::Timeout=60".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.args(args);
        command
    }
}

/// Unpacks packages once: `make` fills a fresh folder, which appears under its name only when complete.
pub fn once<E: From<Error>>(
    folder: &Path,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if folder.exists() {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|e| Error::Io(partial.display().to_string(), e))?;
    }
    make_folder(&partial)?;
    make(&partial)?;
    fs::rename(&partial, folder).map_err(|e| Error::Io(folder.display().to_string(), e))?;
    Ok(())
}

/// Installs what a list of tools needs on the machine itself, naming the packages first; `(program, package)`.
pub fn install_missing(tools: &[(&str, &str)]) -> Result<(), Error> {
    let mut packages: Vec<&str> =
        tools.iter().filter(|(tool, _)| !present(tool)).map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing on this machine with apt-get: {}", packages.join(" "));
    output(Command::new("apt-get").args(["-qq", "update"]))?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-y",
        "-qq",
        "install",
        "--no-install-recommends",
    ]);
    output(command.args(packages))?;
    Ok(())
}

/// Whether a program is in the path, or a file with this absolute name exists.
pub fn present(tool: &str) -> bool {
    if tool.starts_with('/') {
        return Path::new(tool).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| Path::new(folder).join(tool).exists())
}

/// Unpacks one package. `dpkg-deb --extract` would replace links to folders, such as a merged `/bin`, with folders.
fn extract(package: &Path, into: &Path) -> Result<(), Error> {
    let shown = package.display().to_string();
    let failed = |e| Error::Io(shown.clone(), e);
    let mut source = Command::new("dpkg-deb");
    let mut source =
        source.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let archive = source.stdout.take().ok_or_else(|| failed(io::Error::other("no pipe")))?;
    let mut tar = Command::new("tar");
    output(tar.args(["-x", "--keep-directory-symlink", "-C"]).arg(into).stdin(archive))?;
    let status = source.wait().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Tool {
            command: "dpkg-deb --fsys-tarfile".into(),
            status: status.to_string(),
            stderr: shown,
        })
    }
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let shown = format!("{} …", command.get_program().to_string_lossy());
    let done = command.output().map_err(|e| Error::Io(shown.clone(), e))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(Error::Tool {
            command: format!("{command:?}"),
            status: done.status.to_string(),
            stderr: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        })
    }
}

/// The Debian mirror to use.
pub fn mirror() -> String {
    machine_mirror().unwrap_or_else(|| MIRROR.to_owned())
}

/// The Debian mirror that the machine's own sources name, so that a local mirror or proxy is used.
fn machine_mirror() -> Option<String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d").ok()?.flatten() {
        texts.push(fs::read_to_string(entry.path()).unwrap_or_default());
    }
    let is_mirror =
        |word: &&str| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian");
    texts
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(is_mirror)
        .map(str::to_owned)
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|e| Error::Io(path.display().to_string(), e))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| Error::Io(path.display().to_string(), e))
}
