//! The log: what goes to `--log`, to `--debug-log` and to standard error.
//!
//! Lines are for people (`text`) or in the JSON of runc's `--log-format json`, which container
//! managers parse for the reason of a failure. Errors always reach standard error too, as
//! `ringwall: reason`. Debug lines carry the time since the command began, on one clock for all
//! processes of a sandbox, so that a slow step can be seen.
//!
//! There is one log per process, set up once; before that, lines go to standard error.

use std::fmt::{Arguments, Write as _};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cli::LogFormat;
use crate::clock;

/// How much the log says, and in what form; handed on to the processes of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// JSON lines.
    pub json: bool,
    /// Debug lines go to the log as well.
    pub debug: bool,
    /// CLOCK_MONOTONIC when the command began, nanoseconds.
    pub began: u64,
    /// Which process this is, for debug lines.
    pub process: String,
}

impl Settings {
    /// For the process that reads the command line.
    pub fn new(format: LogFormat, debug: bool) -> Settings {
        Settings {
            json: format == LogFormat::Json,
            debug,
            began: clock::monotonic(),
            process: "command".into(),
        }
    }
}

struct Log {
    settings: Settings,
    /// `--log`; `None`: standard error.
    log: Option<OwnedFd>,
    /// `--debug-log`.
    debug_log: Option<OwnedFd>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// How urgent a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The command fails.
    Error,
    /// Something is not as asked.
    Warning,
    /// Worth knowing.
    Info,
    /// For developers.
    Debug,
}

impl Level {
    /// logrus's name for it.
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Sets the log up; the first call counts.
pub fn init(settings: Settings, log: Option<OwnedFd>, debug_log: Option<OwnedFd>) {
    // A second call would come from a defect of ours and changes nothing.
    let _second = LOG.set(Log { settings, log, debug_log });
}

/// Settings for a process that is started from here, with its descriptors.
pub fn for_child(
    process: &str,
) -> (Settings, Option<BorrowedFd<'static>>, Option<BorrowedFd<'static>>) {
    match LOG.get() {
        Some(log) => (
            Settings { process: process.into(), ..log.settings.clone() },
            log.log.as_ref().map(|fd| fd.as_fd()),
            log.debug_log.as_ref().map(|fd| fd.as_fd()),
        ),
        None => (
            Settings { process: process.into(), ..Settings::new(LogFormat::Text, false) },
            None,
            None,
        ),
    }
}

/// Whether debug lines go anywhere.
pub fn debugging() -> bool {
    LOG.get().is_some_and(|log| log.settings.debug || log.debug_log.is_some())
}

/// Writes one line.
pub fn write(level: Level, line: Arguments<'_>) {
    let Some(log) = LOG.get() else {
        if level != Level::Debug {
            emit(None, format!("ringwall: {line}\n").as_bytes());
        }
        return;
    };
    let message = line.to_string();
    if let Some(fd) = &log.debug_log {
        emit(Some(fd.as_fd()), debug_line(&log.settings, level, &message).as_bytes());
    }
    match (&log.log, level) {
        (_, Level::Debug) if !log.settings.debug => {}
        (Some(fd), _) => {
            emit(Some(fd.as_fd()), record(&log.settings, level, &message).as_bytes());
            if level == Level::Error {
                emit(None, format!("ringwall: {message}\n").as_bytes());
            }
        }
        // Standard error may be the container's as well: nothing there that nobody asked for.
        (None, Level::Info) if !log.settings.debug => {}
        (None, _) if log.settings.json => {
            emit(None, record(&log.settings, level, &message).as_bytes());
        }
        (None, Level::Error) => emit(None, format!("ringwall: {message}\n").as_bytes()),
        (None, Level::Warning) => emit(None, format!("ringwall: warning: {message}\n").as_bytes()),
        (None, _) => emit(None, debug_line(&log.settings, level, &message).as_bytes()),
    }
}

/// One write, so that lines of several processes do not mix. A log that cannot be written is no
/// reason to fail a container.
fn emit(fd: Option<BorrowedFd<'_>>, bytes: &[u8]) {
    match fd {
        Some(fd) => drop(nix::unistd::write(fd, bytes)),
        None => drop(std::io::stderr().write_all(bytes)),
    }
}

fn debug_line(settings: &Settings, level: Level, message: &str) -> String {
    let us = clock::monotonic().saturating_sub(settings.began) / 1000;
    format!(
        "{:>6}.{:03} ms {:<8} {:<7} {message}\n",
        us / 1000,
        us % 1000,
        settings.process,
        level.name(),
    )
}

/// A line as logrus writes it: keys in alphabetical order.
fn record(settings: &Settings, level: Level, message: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = clock::rfc3339(now, None);
    let stamped;
    let message = if level == Level::Debug {
        let us = clock::monotonic().saturating_sub(settings.began) / 1000;
        stamped = format!("{}.{:03} ms {}: {message}", us / 1000, us % 1000, settings.process);
        &stamped
    } else {
        message
    };
    if settings.json {
        return format!(
            "{{\"level\":\"{}\",\"msg\":{},\"time\":\"{time}\"}}\n",
            level.name(),
            serde_json::Value::from(message),
        );
    }
    let mut line = format!("time=\"{time}\" level={} msg=", level.name());
    // Debug formatting quotes and escapes as logrus does for what a log line can hold.
    let _infallible = writeln!(line, "{message:?}");
    line
}

/// Logs an error.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) };
}

/// Logs a warning.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, format_args!($($arg)*)) };
}

/// Logs something worth knowing.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($arg)*)) };
}

/// Logs a line for developers; formats nothing where nobody listens.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => {
        if $crate::log::debugging() {
            $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_as_runc_writes_them() {
        let settings = Settings::new(LogFormat::Json, false);
        let line = record(&settings, Level::Error, "exec: \"x\": \u{1} gone");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "exec: \"x\": \u{1} gone");
        assert!(line.starts_with("{\"level\":\"error\",\"msg\":") && line.ends_with("\"}\n"));
    }
}
