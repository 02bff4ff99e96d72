//! An OCI runtime as a command: Ringwall on one of its platforms, or runc.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Finished};

/// A runtime under test, or the reference.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The command that starts it, before its global options.
    pub argv: Vec<String>,
    /// What `--platform` gets; none for runc.
    pub platform: Option<String>,
}

impl Runtime {
    /// Reads a command line as the options of the harness give it: words separated by spaces.
    pub fn parse(command: &str, platform: Option<&str>) -> Runtime {
        let argv: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let is_runc = argv.last().is_some_and(|program| {
            Path::new(program).file_name().is_some_and(|name| name == "runc")
        });
        Runtime { argv, platform: platform.filter(|_| !is_runc).map(str::to_owned) }
    }

    /// Whether it is the reference.
    pub fn is_runc(&self) -> bool {
        self.platform.is_none()
    }

    /// A command of the runtime, with its state below `state` and its log in `state/log`.
    pub fn command(&self, state: &Path, args: &[&str]) -> Command {
        let mut command = self.bare(args, Some(state));
        command.env_remove("RUST_BACKTRACE");
        command
    }

    /// A command without a log file: errors are on standard error only.
    pub fn bare(&self, args: &[&str], state: Option<&Path>) -> Command {
        let mut words = self.argv.iter();
        let mut command = Command::new(words.next().map_or("false", String::as_str));
        command.args(words);
        if let Some(state) = state {
            command.arg("--root").arg(state.join("state")).arg("--log").arg(state.join("log"));
        }
        if let Some(platform) = &self.platform {
            command.arg(format!("--platform={platform}"));
        }
        command.args(args);
        command
    }

    /// Runs a command of the runtime to its end.
    pub fn run(
        &self,
        state: &Path,
        args: &[&str],
        stdin: &[u8],
        limit: Duration,
    ) -> io::Result<Finished> {
        process::run(&mut self.command(state, args), stdin, limit)
    }
}

/// A folder for one test, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it below the system's folder for temporary files.
    pub fn new(name: &str) -> io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("{}{name}", process::own_names()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
