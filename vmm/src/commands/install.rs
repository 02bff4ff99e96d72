//! `install` and `uninstall`: this runtime in Docker's daemon.json, beside whatever else is there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::{Install, Uninstall};
use crate::reason::reason;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{}: {}", path.display(), reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what Docker would take.
    #[error("{}: {reason}; it is left as it is", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What Docker calls the runtimes that it knows, and the one that it uses.
const RUNTIMES: &str = "runtimes";
const DEFAULT: &str = "default-runtime";

/// `install`.
pub fn install(args: &Install) -> Result<(), Error> {
    let path = &args.config;
    let own = std::env::current_exe()
        .map_err(|source| Error::Io { path: "/proc/self/exe".into(), source })?;
    let mut config = read(path)?;
    add(&mut config, &args.name, &own, &args.options, args.default).map_err(|reason| {
        let path = path.clone();
        Error::Config { path, reason: reason.to_owned() }
    })?;
    write(path, config)?;
    said(path, &format!("{} is {}", args.name, own.display()));
    Ok(())
}

/// `uninstall`.
pub fn uninstall(args: &Uninstall) -> Result<(), Error> {
    let path = &args.config;
    let mut config = read(path)?;
    if remove(&mut config, &args.name) {
        write(path, config)?;
        said(path, &format!("{} is no runtime any more", args.name));
    } else {
        super::print(&format!("{}: {} is no runtime there\n", path.display(), args.name));
    }
    Ok(())
}

fn said(path: &Path, what: &str) {
    let path = path.display();
    super::print(&format!("{path}: {what}; Docker reads it when it starts, or at a SIGHUP\n"));
}

fn add(
    config: &mut Map<String, Value>,
    name: &str,
    own: &Path,
    options: &[String],
    default: bool,
) -> Result<(), &'static str> {
    let own = own.to_str().ok_or("this program's path is not UTF-8")?;
    let mut runtime = json!({ "path": own });
    if !options.is_empty() {
        runtime["runtimeArgs"] = json!(options);
    }
    config
        .entry(RUNTIMES)
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or("runtimes is no object")?
        .insert(name.to_owned(), runtime);
    if default {
        config.insert(DEFAULT.to_owned(), name.into());
    }
    Ok(())
}

/// Whether there was one.
fn remove(config: &mut Map<String, Value>, name: &str) -> bool {
    let Some(Value::Object(runtimes)) = config.get_mut(RUNTIMES) else { return false };
    if runtimes.remove(name).is_none() {
        return false;
    }
    if runtimes.is_empty() {
        config.remove(RUNTIMES);
    }
    // Docker does not start with a default that it does not know.
    if config.get(DEFAULT).is_some_and(|default| default == name) {
        config.remove(DEFAULT);
    }
    true
}

/// The file; one that is not there, or empty, says nothing.
fn read(path: &Path) -> Result<Map<String, Value>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&text)
        .map_err(|e| Error::Config { path: path.to_owned(), reason: e.to_string() })
}

/// Replaces the file as a whole, where it really is, with the rights that it has.
fn write(path: &Path, config: Map<String, Value>) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let mut text = serde_json::to_string_pretty(&Value::Object(config)).unwrap_or_default();
    text.push('\n');
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(e) => return Err(failed(e)),
    };
    let mode = fs::metadata(&real).map_or(0o644, |meta| meta.permissions().mode());
    let mut new = real.clone().into_os_string();
    new.push(".new");
    fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&new, &real))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept() {
        let before = json!({
            "debug": true,
            "runtimes": { "other": { "path": "/o" } },
            "default-runtime": "other",
        });
        let mut config = before.as_object().unwrap().clone();
        let own = Path::new("/usr/bin/ringwall");
        add(&mut config, "ringwall", own, &["--debug".into()], false).unwrap();
        assert_eq!(config["runtimes"]["other"]["path"], "/o");
        assert_eq!(config["runtimes"]["ringwall"]["runtimeArgs"], json!(["--debug"]));
        assert_eq!(config["default-runtime"], "other");
        // Again changes nothing but what is ours.
        add(&mut config, "ringwall", own, &[], true).unwrap();
        assert_eq!(config["runtimes"]["ringwall"], json!({ "path": "/usr/bin/ringwall" }));
        assert_eq!(config["default-runtime"], "ringwall");
        assert!(remove(&mut config, "ringwall"));
        assert!(!remove(&mut config, "ringwall"));
        config.insert("default-runtime".into(), "other".into());
        assert_eq!(Value::Object(config), before);
    }

    #[test]
    fn nothing_is_left_of_the_only_runtime() {
        let mut config = Map::new();
        add(&mut config, "r", Path::new("/r"), &[], true).unwrap();
        assert!(remove(&mut config, "r"));
        assert!(config.is_empty());
        let mut wrong = json!({ "runtimes": 1 }).as_object().unwrap().clone();
        assert!(add(&mut wrong, "r", Path::new("/r"), &[], false).is_err());
    }
}
