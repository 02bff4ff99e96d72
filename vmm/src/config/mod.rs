//! A bundle's `config.json`: read, checked, and turned into what the sentry and the gofer are told.
//!
//! Parsed once, by the types of oci-spec; every error is one line that names the file and the field.
//! What this version does not honour is known too ([`honoured`]), so that it can be said by name.

mod attach;
pub mod capabilities;
pub mod devices;
mod honoured;
pub mod limits;
pub mod mounts;
mod namespaces;
mod priority;
pub mod seccomp;
mod sysctl;
mod translate;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use sentry::control::{ContainerSpec, ProcessSpec};

pub use attach::{Attach, by_number};
pub use namespaces::{Join, joinable};

use crate::cgroup;
use crate::hooks::Hooks;
use crate::reason::reason;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that the configuration needs cannot be used.
    #[error("{what} {}: {}", path.display(), reason(source))]
    Io {
        /// `bundle`, `config`, ...
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON, or of the wrong type.
    #[error("{}: {field}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where in it.
        field: String,
        /// Why.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("{}: {invalid}", path.display())]
    Invalid {
        /// The value.
        invalid: Invalid,
        /// The file.
        path: PathBuf,
    },
}

/// A value of a `config.json` that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    field: String,
    reason: String,
}

impl Invalid {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), reason: reason.into() }
    }
}

/// A range of ids: first inside, first outside, how many.
pub type IdRange = (u32, u32, u32);

/// A network namespace of the host. What runs in a container never is in it: the stand-in is, for those who look for it
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// The one that the command is called in.
    Host,
    /// A new one.
    New,
    /// This one.
    Joined(PathBuf),
}

/// A container to make.
#[derive(Clone, Debug)]
pub struct Container {
    /// For the sentry. Its streams are not set yet.
    pub spec: ContainerSpec,
    /// For the gofer.
    pub attaches: Vec<Attach>,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root on the host, absolute.
    pub rootfs: PathBuf,
    /// Version of the specification.
    pub oci_version: String,
    /// Annotations.
    pub annotations: HashMap<String, String>,
    /// Hooks.
    pub hooks: Option<Hooks>,
    /// The network namespace of the process that stands for it.
    pub network: Network,
    /// The container in whose sandbox it is to be by its annotations.
    pub pod: Option<String>,
    /// Namespaces that have to be other containers', in whose sandbox it is to be.
    pub joins: Vec<Join>,
    /// Its cgroup on the host; `None`: it stays in the caller's.
    pub cgroup: Option<cgroup::Wanted>,
    /// User ids, where the bundle asks for a user namespace.
    pub uid_map: Vec<IdRange>,
    /// Group ids.
    pub gid_map: Vec<IdRange>,
}

/// Reads the bundle of a new container; names in the log what is not honoured.
pub fn load(bundle: &Path, id: &str) -> Result<Container, Error> {
    let folder = bundle.canonicalize().map_err(|source| Error::Io {
        what: "bundle",
        path: bundle.to_owned(),
        source,
    })?;
    let path = folder.join("config.json");
    let text = read("config", &path)?;
    let (spec, missing) = parse(&text).map_err(|(field, reason)| Error::Parse {
        path: path.clone(),
        field,
        reason,
    })?;
    for field in missing {
        crate::warning!("config.json: {field} is not honoured");
    }
    check(&spec).map_err(|invalid| Error::Invalid { invalid, path: path.clone() })?;
    translate::container(&spec, &folder, id).map_err(|e| match e {
        translate::Error::Invalid(invalid) => Error::Invalid { invalid, path },
        translate::Error::Io { what, path, source } => Error::Io { what, path, source },
    })
}

/// The process of a bundle whose container is there.
pub fn process_of(bundle: &Path) -> Result<Process, Error> {
    let path = bundle.join("config.json");
    let text = read("config", &path)?;
    let (spec, _said_before) = parse(&text).map_err(|(field, reason)| Error::Parse {
        path: path.clone(),
        field,
        reason,
    })?;
    let missing = || Error::Invalid { invalid: Invalid::new("process", "must be there"), path };
    spec.process().clone().ok_or_else(missing)
}

/// A process that is described in a file of its own.
pub fn process_file(path: &Path) -> Result<ProcessSpec, Error> {
    let text = read("process", path)?;
    let wrong = |e: serde_json::Error| Error::Parse {
        path: path.to_owned(),
        field: "not a process".into(),
        reason: e.to_string(),
    };
    let mut tree: serde_json::Value = serde_json::from_slice(&text).map_err(wrong)?;
    // The specification demands them, runc does not.
    for (name, default) in [("user", serde_json::json!({})), ("cwd", serde_json::json!(""))] {
        if let Some(fields) = tree.as_object_mut() {
            fields.entry(name).or_insert(default);
        }
    }
    let whole = serde_json::json!({ "process": tree });
    for field in honoured::missing(&whole) {
        crate::warning!("{}: {field} is not honoured", path.display());
    }
    let process = serde_json::from_value(tree).map_err(wrong)?;
    let invalid = |invalid| Error::Invalid { invalid, path: path.to_owned() };
    check_process(&process).map_err(invalid)?;
    translate::process(&process).map_err(invalid)
}

/// A process of a bundle, changed by a command line, for the sentry; checked.
pub fn translate_process(process: &Process, bundle: &Path) -> Result<ProcessSpec, Error> {
    let path = bundle.join("config.json");
    let invalid = |invalid| Error::Invalid { invalid, path: path.clone() };
    check_process(process).map_err(invalid)?;
    translate::process(process).map_err(invalid)
}

/// The bit of a capability by its name, with or without `CAP_`.
pub fn capability(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    capabilities::NAMES.iter().position(|known| *known == name).map(|n| 1 << n)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { what, path: path.to_owned(), source })
}

/// The specification, and the fields of it that are not honoured; or the field and the reason.
fn parse(text: &[u8]) -> Result<(Spec, Vec<String>), (String, String)> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let spec: Spec = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        let field = match e.path().to_string() {
            path if path == "." || path == "?" => "not a configuration".to_owned(),
            path => path,
        };
        (field, e.inner().to_string())
    })?;
    deserializer.end().map_err(|e| ("end of file".to_owned(), e.to_string()))?;
    let tree = serde_json::from_slice(text).map_err(|e| (String::new(), e.to_string()))?;
    Ok((spec, honoured::missing(&tree)))
}

/// What must be there, in runc's order.
fn check(spec: &Spec) -> Result<(), Invalid> {
    let version = spec.version();
    let major = version.split('.').next().and_then(|n| n.parse::<u32>().ok());
    match major {
        None => return Err(Invalid::new("ociVersion", "missing or not a version")),
        Some(1) => {}
        Some(_) => {
            return Err(Invalid::new(
                "ociVersion",
                format!("{version} is not supported; this runtime knows 1.x"),
            ));
        }
    }
    let root = spec.root().as_ref().ok_or_else(|| Invalid::new("root", "must be there"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Invalid::new("root.path", "must not be empty"));
    }
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if name.as_ref().is_some_and(|name| name.len() > UTS_NAME) {
            return Err(Invalid::new(field, format!("longer than {UTS_NAME} bytes")));
        }
    }
    let process =
        spec.process().as_ref().ok_or_else(|| Invalid::new("process", "must be there"))?;
    check_process(process)
}

/// The longest name that sethostname(2) takes.
const UTS_NAME: usize = 64;
/// The most bytes of arguments and environment: what a message to the sentry can hold, and some room
/// for the rest of the configuration.
const TEXTS: usize = sentry::control::MAX_MESSAGE - (128 << 10);

fn check_process(process: &Process) -> Result<(), Invalid> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Invalid::new("process.args", "must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Invalid::new("process.cwd", "must be an absolute path"));
    }
    let user = process.user();
    let groups = user.additional_gids().iter().flatten();
    let ids = [("uid", user.uid()), ("gid", user.gid())];
    for (field, id) in ids.into_iter().chain(groups.map(|gid| ("additionalGids", *gid))) {
        // setresuid(2) takes it for "no change".
        if id == u32::MAX {
            return Err(Invalid::new(format!("process.user.{field}"), format!("{id} is no id")));
        }
    }
    let texts = [("process.args", process.args()), ("process.env", process.env())];
    let total: usize =
        texts.iter().flat_map(|(_, list)| list.iter().flatten()).map(|text| text.len() + 8).sum();
    if total > TEXTS {
        let reason = format!("longer than {} KiB, with process.env", TEXTS >> 10);
        return Err(Invalid::new("process.args", reason));
    }
    for (field, list) in texts {
        for (index, text) in list.iter().flatten().enumerate() {
            if text.contains('\0') {
                return Err(Invalid::new(format!("{field}[{index}]"), "contains a zero byte"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        match parse(json.as_bytes()) {
            Err((field, reason)) => format!("{field}: {reason}"),
            Ok((spec, _)) => check(&spec).unwrap_err().to_string(),
        }
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            ("", "not a configuration: EOF"),
            ("{", "not a configuration: EOF"),
            ("[]", "ociVersion: missing"),
            (r#"{"process":{"args":3,"cwd":"/"}}"#, "process.args: invalid type"),
            (r#"{"process":{"args":["a",7],"cwd":"/"}}"#, "process.args[1]: invalid type"),
            (r#"{"ociVersion":"1.0.0"} x"#, "end of file: trailing"),
            (r#"{}"#, "ociVersion: missing"),
            (r#"{"ociVersion":"2.0.0"}"#, "ociVersion: 2.0.0 is not supported"),
            (r#"{"ociVersion":"1.0.0"}"#, "root: must be there"),
            (r#"{"ociVersion":"1.0.0","root":{"path":"r"}}"#, "process: must be there"),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","user":{}}}"#,
                "process.args: must not be empty",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"x","user":{},"args":["a"]}}"#,
                "process.cwd: must be an absolute path",
            ),
        ];
        for (json, expected) in cases {
            let got = error(json);
            assert!(got.starts_with(expected), "{json}: {got}");
        }
    }

    /// Where in a tree of JSON, by a number; scalars, lists and objects alike.
    fn nth<'a>(
        tree: &'a mut serde_json::Value,
        n: &mut usize,
    ) -> Option<&'a mut serde_json::Value> {
        if *n == 0 {
            return Some(tree);
        }
        *n -= 1;
        match tree {
            serde_json::Value::Array(list) => list.iter_mut().find_map(|one| nth(one, n)),
            serde_json::Value::Object(map) => map.values_mut().find_map(|one| nth(one, n)),
            _ => None,
        }
    }

    #[test]
    fn no_configuration_panics() {
        use serde_json::json;
        let whole: serde_json::Value =
            serde_json::from_str(include_str!("../commands/spec.json")).unwrap();
        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!(1),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1e300),
            json!(""),
            json!("/"),
            json!("../../x"),
            json!("a\u{0}b"),
            json!("x".repeat(5000)),
            json!([]),
            json!({}),
            json!([[[]]]),
            json!([""]),
            json!([-1, "SCMP_ACT_ERRNO"]),
            json!({ "type": "bind" }),
            json!("CAP_KILL"),
        ];
        // The same at every run.
        let mut state = 1u64;
        let mut random = move |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % limit
        };
        let folder = std::env::temp_dir();
        let mut taken = 0;
        for _ in 0..4000 {
            let mut tree = whole.clone();
            for _ in 0..=random(2) {
                let mut n = random(160);
                if let Some(place) = nth(&mut tree, &mut n) {
                    *place = values[random(values.len())].clone();
                }
            }
            let mut text = tree.to_string().into_bytes();
            if random(10) == 0 {
                let at = random(text.len());
                text[at] = random(256) as u8;
            }
            if let Ok((spec, _)) = parse(&text)
                && check(&spec).is_ok()
                && translate::container(&spec, &folder, "x").is_ok()
            {
                taken += 1;
            }
        }
        // What is changed does not always matter.
        assert!(taken < 3900, "{taken}");
    }
}
