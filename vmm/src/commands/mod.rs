//! What each command of the command line does.

mod bench;
mod spec;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::log::{self, Settings};

/// Why a command failed; printed as `ringwall: ...`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// {0}
    #[error("{0}")]
    Spec(#[from] spec::Error),
    /// bench: {0}
    #[error("bench: {0}")]
    Bench(String),
    /// The command is not in this build yet.
    #[error("{0}: not in this version")]
    NotYet(&'static str),
}

impl Error {
    /// The exit status that tells it.
    fn status(&self) -> u8 {
        1
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => return usage(e),
    };
    let log_file = match cli.global.log.as_deref().map(open_log).transpose() {
        Ok(file) => file,
        Err(status) => return status,
    };
    let debug_log = match cli.global.debug_log.as_deref().map(open_log).transpose() {
        Ok(file) => file,
        Err(status) => return status,
    };
    log::init(Settings::new(cli.global.log_format, cli.global.debug), log_file, debug_log);
    match dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            crate::error!("{e}");
            ExitCode::from(e.status())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Error> {
    match cli.command {
        Command::Spec(args) => spec::run(&args).map(|()| 0).map_err(Error::from),
        Command::Bench(args) => bench::run(&args, cli.global.platform).map(|()| 0),
        _ => Err(Error::NotYet("this command")),
    }
}

/// Help goes to standard output; a mistake is one line, with runc's exit status.
fn usage(e: clap::Error) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody reads: nothing to tell them.
            let _closed = e.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _closed = e.print();
            ExitCode::FAILURE
        }
        _ => {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            let message = first.strip_prefix("error: ").unwrap_or(first);
            crate::error!("{message} (see ringwall --help)");
            ExitCode::FAILURE
        }
    }
}

fn open_log(path: &Path) -> Result<OwnedFd, ExitCode> {
    OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(OwnedFd::from).map_err(
        |e| {
            crate::error!("log file {}: {e}", path.display());
            ExitCode::FAILURE
        },
    )
}
