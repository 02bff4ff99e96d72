//! What each command of the command line does.

mod bench;
mod completions;
mod debug;
mod exec;
mod features;
mod host_config;
mod install;
mod lifecycle;
mod query;
mod run;
mod self_test;
mod spec;
mod usage;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command, LogFormat};
use crate::log::{self, Settings};
use crate::{check, gofer_process, preserved, sandbox, spawn, state, wall};

/// Why a command failed; printed as `ringwall: ...`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// {0}
    #[error("{0}")]
    Spec(#[from] spec::Error),
    /// bench: {0}
    #[error("bench: {0}")]
    Bench(String),
    /// `create`, `run` and `do`.
    #[error("{0}")]
    Run(#[from] run::Error),
    /// `create`: its exit status is 1 whatever went wrong, as runc's.
    #[error("{0}")]
    Create(run::Error),
    /// `exec`, in runc's words.
    #[error("exec failed: {0}")]
    Exec(#[from] exec::Error),
    /// `--preserve-fds`.
    #[error("{0}")]
    Preserved(#[from] preserved::Error),
    /// Commands at a container.
    #[error("{0}")]
    Lifecycle(#[from] lifecycle::Error),
    /// `ps`, `events` and `update`.
    #[error("{0}")]
    Usage(#[from] usage::Error),
    /// `install` and `uninstall`.
    #[error("{0}")]
    Install(#[from] install::Error),
    /// Commands that only tell.
    #[error("{0}")]
    State(#[from] state::Error),
    /// `check --wall`.
    #[error("{0}")]
    Wall(#[from] wall::report::ReportError),
    /// `check --self-test`.
    #[error("self-test: {0}")]
    SelfTest(#[from] self_test::Error),
}

impl Error {
    /// The exit status that tells it.
    fn status(&self) -> u8 {
        match self {
            Error::Run(e) => e.status(),
            Error::Exec(e) => e.status(),
            _ => 1,
        }
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Processes of a sandbox start without the command line's parser.
    match args.get(1).and_then(|role| role.to_str()) {
        Some(spawn::SANDBOX) => return sandbox::main(),
        Some(spawn::GOFER) => return gofer_process::main(),
        _ => {}
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage(e, &args),
    };
    let count = match &cli.command {
        Command::Run(args) => args.create.preserve_fds,
        Command::Create(args) => args.preserve_fds,
        Command::Exec(args) => args.preserve_fds,
        _ => 0,
    };
    let preserved = preserved::take(count);
    let log_file = match cli.global.log.as_deref().map(open_log).transpose() {
        Ok(file) => file,
        Err(status) => return status,
    };
    let debug_log = match cli.global.debug_log.as_deref().map(open_log).transpose() {
        Ok(file) => file,
        Err(status) => return status,
    };
    log::init(Settings::new(cli.global.log_format, cli.global.debug), log_file, debug_log);
    match preserved.map_err(Error::from).and_then(|preserved| dispatch(cli, preserved)) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            crate::error!("{e}");
            ExitCode::from(e.status())
        }
    }
}

fn dispatch(cli: Cli, preserved: Vec<OwnedFd>) -> Result<u8, Error> {
    let global = &cli.global;
    match &cli.command {
        Command::Do(args) => return Ok(run::throw_away(global, args)?),
        Command::Run(args) => return Ok(run::run(global, args, preserved)?),
        Command::Exec(args) => return Ok(exec::exec(global, args, preserved)?),
        Command::Create(args) => {
            run::create(global, args, preserved).map(drop).map_err(Error::Create)?
        }
        Command::Start(args) => lifecycle::start(global, args)?,
        Command::Kill(args) => lifecycle::kill(global, args)?,
        Command::Pause(args) => lifecycle::pause(global, args)?,
        Command::Resume(args) => lifecycle::resume(global, args)?,
        Command::Delete(args) => lifecycle::delete(global, args)?,
        Command::Ps(args) => usage::ps(global, args)?,
        Command::Events(args) => usage::events(global, args)?,
        Command::Debug(args) => debug::debug(global, args)?,
        Command::Update(args) => usage::update(global, args)?,
        Command::Install(args) => install::install(args)?,
        Command::Uninstall(args) => install::uninstall(args)?,
        Command::Wait(args) => lifecycle::wait(global, args)?,
        Command::State(args) => query::state(global, args)?,
        Command::List(args) => query::list(global, args)?,
        Command::Features => features::features(),
        Command::Completions(args) => print(&completions::script(args.shell)),
        Command::Spec(args) => spec::run(args)?,
        Command::Bench(args) => bench::run(args, global.platform)?,
        Command::Check(args) if args.self_test => {
            return Ok(u8::from(!self_test::run(&args.without, args.panic)?));
        }
        Command::Check(args) if args.wall => {
            let report = wall::report::report()?;
            let json = || serde_json::to_string(&report).unwrap_or_default() + "\n";
            print(&if args.json { json() } else { report.text() });
        }
        Command::Check(args) => {
            let report = check::report();
            let text = if args.json { report.json() } else { report.text() };
            print(&format!("{}\n", text.trim_end()));
        }
    }
    Ok(0)
}

/// Prints a command's result.
fn print(text: &str) {
    // Whoever closed the other end does not want to know.
    let _closed = std::io::stdout().write_all(text.as_bytes());
}

/// Help goes to standard output; a mistake is one line, with runc's exit status.
fn usage(e: clap::Error, args: &[OsString]) -> ExitCode {
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
            // Up to the usage: what is wrong, and the names that it is about.
            let lines: Vec<&str> =
                text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let line = lines.join(" ");
            let message = line.strip_prefix("error: ").unwrap_or(&line);
            if let Err(status) = log_in_spite(args) {
                return status;
            }
            crate::error!("{message} (see ringwall --help)");
            ExitCode::FAILURE
        }
    }
}

/// Sets up the log that a command line asks for which makes no sense otherwise.
fn log_in_spite(args: &[OsString]) -> Result<(), ExitCode> {
    let value = |name: &str| {
        let mut args = args.iter().filter_map(|arg| arg.to_str());
        args.find_map(|arg| match arg.strip_prefix(name)? {
            "" => Some(None),
            rest => rest.strip_prefix('=').map(Some),
        })
        .and_then(|found| found.or_else(|| args.next()))
    };
    let json = value("--log-format") == Some("json");
    let format = if json { LogFormat::Json } else { LogFormat::Text };
    let file = value("--log").map(|path| open_log(Path::new(path))).transpose()?;
    log::init(Settings::new(format, false), file, None);
    Ok(())
}

fn open_log(path: &Path) -> Result<OwnedFd, ExitCode> {
    OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(OwnedFd::from).map_err(
        |e| {
            crate::error!("log file {}: {e}", path.display());
            ExitCode::FAILURE
        },
    )
}
