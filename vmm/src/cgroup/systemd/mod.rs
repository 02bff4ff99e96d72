//! A container's group as a scope of systemd's (`--systemd-cgroup`): systemd makes it and has its place in the tree of
//! slices, and is told the limits, so that it does not undo them. All of it as libcontainer's cgroups/systemd does it.
//!
//! What systemd has no property for is written to the group's files afterwards, as without systemd.

mod annotations;
mod properties;

use std::collections::HashMap;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::{Error, devices};
use crate::dbus::message::{Message, Target, Value};
use crate::dbus::{self, Connection};

/// Where systemd says that it runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// The system's bus, where nothing else is said.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// systemd's own socket, for root.
const PRIVATE: &str = "/run/systemd/private";

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const PROPERTIES: Target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
const JOBS: &str = "type='signal',path='/org/freedesktop/systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
/// What systemd calls a unit that is there already.
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// A unit that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The slice that it is to be in; empty: the default.
    slice: String,
    /// What it is called before `.scope`.
    name: String,
    /// What people are told.
    description: String,
    /// What annotations ask for.
    properties: Vec<(String, Value)>,
}

impl Wish {
    /// What is asked for, where there is somebody to ask.
    pub fn new(
        path: Option<&str>,
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Wish, Error> {
        match Path::new(BOOTED).is_dir() {
            true => Wish::parse(path, id, annotations),
            false => Err(Error::NoSystemd),
        }
    }

    /// What `linux.cgroupsPath` (`slice:prefix:name`) and annotations ask for.
    fn parse(
        path: Option<&str>,
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Wish, Error> {
        let path = path.unwrap_or_default();
        let parts: Vec<&str> = path.split(':').collect();
        let (slice, prefix, name) = match parts.as_slice() {
            [""] => ("", "runc", id),
            [slice, prefix, name] => (*slice, *prefix, *name),
            // runc's words.
            _ => {
                return Err(Error::Invalid(format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                )));
            }
        };
        if name.ends_with(".slice") {
            let reason = format!("linux.cgroupsPath: {name}: a slice holds no processes");
            return Err(Error::Invalid(reason));
        }
        if !slice.is_empty() {
            expand(slice)?;
        }
        Ok(Wish {
            slice: slice.into(),
            name: format!("{prefix}-{name}.scope"),
            description: format!("ringwall container {name}"),
            properties: annotations::properties(annotations)?,
        })
    }

    fn slice(&self, user: bool) -> &str {
        match (self.slice.as_str(), user) {
            ("", false) => "system.slice",
            ("", true) => "user.slice",
            // runc's documentation calls the root so; systemd itself does not.
            ("-", _) => "-.slice",
            (slice, _) => slice,
        }
    }

    /// The unit, and its path in the hierarchies.
    pub fn plan(&self, user: bool, unified: bool) -> Result<(Unit, String), Error> {
        if user && !unified {
            // runc's words.
            let reason = "cannot use rootless systemd cgroups manager on cgroup v1";
            return Err(Error::Invalid(reason.into()));
        }
        let unit = Unit { name: self.name.clone(), user };
        let mut path = expand(self.slice(user))?;
        if user {
            let manager = Manager::connect(true)?.get("ControlGroup").map_err(|e| unit.error(e))?;
            path = format!("{manager}{path}");
        }
        let path = format!("{}/{}", path.trim_end_matches('/'), unit.name);
        Ok((unit, path))
    }
}

/// `a-b.slice` is in `a.slice`: the path of a slice (libcontainer's ExpandSlice()).
fn expand(slice: &str) -> Result<String, Error> {
    let invalid = || Error::Invalid(format!("invalid slice name: {slice}"));
    if slice == "-" {
        return Ok("/".into());
    }
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name == "-" {
        return Ok("/".into());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') {
            return Err(invalid());
        }
        path.push_str(&format!("/{prefix}{part}.slice"));
        prefix.push_str(&format!("{part}-"));
    }
    Ok(path)
}

/// A container's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// What it is called.
    pub name: String,
    /// Whether it is one of the user's own systemd.
    pub user: bool,
}

impl Unit {
    fn error(&self, source: dbus::Error) -> Error {
        Error::Unit { unit: self.name.clone(), source }
    }

    /// Starts it with these processes in it.
    pub fn start(&self, wish: &Wish, unified: bool, pids: &[i32]) -> Result<Manager, Error> {
        let io = if unified { "IOAccounting" } else { "BlockIOAccounting" };
        let pids = pids.iter().map(|pid| pid.cast_unsigned()).collect();
        let own = [
            ("Description", Value::Text(wish.description.clone())),
            ("Slice", Value::Text(wish.slice(self.user).into())),
            ("Delegate", Value::Bool(true)),
            ("PIDs", Value::Numbers(pids)),
            ("MemoryAccounting", Value::Bool(true)),
            ("CPUAccounting", Value::Bool(true)),
            (io, Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
        ];
        let mut manager = Manager::connect(self.user)?;
        manager.watch().map_err(|e| self.error(e))?;
        let mut start = || {
            let reply =
                manager.bus.call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", |w| {
                    w.text(&self.name);
                    w.text("replace");
                    let more = wish.properties.iter().map(|(name, value)| (name.as_str(), value));
                    w.properties(own.iter().map(|(name, value)| (*name, value)).chain(more));
                    w.array(8, |_| {});
                })?;
            manager.job(&reply)
        };
        let result = match start() {
            // It may be what is left of one that failed.
            Err(dbus::Error::Refused { name, .. }) if name == EXISTS => {
                if let Err(e) = self.reset(&mut Manager::connect(self.user)?) {
                    crate::debug!("{e}");
                }
                start()
            }
            other => other,
        };
        match result.map_err(|e| self.error(e))?.as_str() {
            "done" => Ok(manager),
            result => {
                if let Err(e) = self.reset(&mut manager) {
                    crate::debug!("{e}");
                }
                Err(Error::Job { unit: self.name.clone(), result: result.into() })
            }
        }
    }

    /// Tells systemd the limits of it.
    pub fn set(
        &self,
        manager: &mut Manager,
        resources: &LinuxResources,
        unified: bool,
    ) -> Result<(), Error> {
        let version = manager.get("Version").map_err(|e| self.error(e))?;
        let mut properties = properties::of(resources, unified, properties::version(&version))?;
        if let Some(rules) = resources.devices() {
            properties.extend(devices::properties(rules, &super::read("/proc/devices")?)?);
        }
        if properties.is_empty() {
            return Ok(());
        }
        let set = manager.bus.call(MANAGER, "SetUnitProperties", "sba(sv)", |w| {
            w.text(&self.name);
            // Until the unit goes.
            w.bool(true);
            w.properties(properties.iter().map(|(name, value)| (*name, value)));
        });
        set.map(drop).map_err(|e| self.error(e))
    }

    /// Stops it. One that is gone already, as one goes whose last process has ended, is no error.
    pub fn stop(&self) -> Result<(), Error> {
        let mut manager = Manager::connect(self.user)?;
        manager.watch().map_err(|e| self.error(e))?;
        let stopped = manager.bus.call(MANAGER, "StopUnit", "ss", |w| {
            w.text(&self.name);
            w.text("replace");
        });
        match stopped.and_then(|reply| manager.job(&reply)) {
            Ok(result) if result == "done" => {}
            Ok(result) => crate::warning!("stopping systemd's unit {}: {result}", self.name),
            // It is not loaded.
            Err(dbus::Error::Refused { .. }) => {}
            Err(e) => return Err(self.error(e)),
        }
        match self.reset(&mut manager) {
            Ok(()) | Err(dbus::Error::Refused { .. }) => Ok(()),
            Err(e) => Err(self.error(e)),
        }
    }

    /// Has systemd forget one that failed.
    fn reset(&self, manager: &mut Manager) -> Result<(), dbus::Error> {
        manager.bus.call(MANAGER, "ResetFailedUnit", "s", |w| w.text(&self.name)).map(drop)
    }

    /// Whether this process is in it.
    pub fn is_own(&self) -> bool {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        own.lines().any(|line| line.rsplit('/').any(|name| name == self.name))
    }
}

/// systemd's manager, or the user's.
#[derive(Debug)]
pub struct Manager {
    bus: Connection,
    /// Whether a bus is between.
    is_bus: bool,
}

impl Manager {
    /// Connects to it.
    pub fn connect(user: bool) -> Result<Manager, Error> {
        let address = match user {
            true => user_bus().ok_or(Error::NoUserBus)?,
            false => system_bus()?,
        };
        match Connection::bus(&address) {
            Ok(bus) => Ok(Manager { bus, is_bus: true }),
            // A machine without a bus.
            Err(e) if !user => {
                let bus = named(PRIVATE).and_then(|address| {
                    Connection::peer(&address).map_err(|private| {
                        crate::debug!("{PRIVATE}: {private}");
                        Error::Bus(e)
                    })
                })?;
                Ok(Manager { bus, is_bus: false })
            }
            Err(e) => Err(Error::Bus(e)),
        }
    }

    /// Has it say when jobs end.
    fn watch(&mut self) -> Result<(), dbus::Error> {
        if self.is_bus {
            self.bus.watch(JOBS)?;
        }
        self.bus.call(MANAGER, "Subscribe", "", |_| {}).map(drop)
    }

    /// Waits for the end of the job that a call has begun.
    fn job(&mut self, reply: &Message) -> Result<String, dbus::Error> {
        let job = reply.reader().text().ok_or(dbus::Error::Protocol("a job without a path"))?;
        self.bus.signal(|signal| {
            let mut reader = signal.reader();
            // Its number, its path, its unit, how it ended.
            let ended = signal.member == "JobRemoved" && signal.signature == "uoss";
            ended.then(|| reader.u32()).flatten()?;
            let (path, _unit, result) = (reader.text()?, reader.text()?, reader.text()?);
            (path == job).then(|| result.to_owned())
        })
    }

    /// A property of its own.
    fn get(&mut self, name: &str) -> Result<String, dbus::Error> {
        let reply = self.bus.call(PROPERTIES, "Get", "ss", |w| {
            w.text(MANAGER.interface);
            w.text(name);
        })?;
        let text = reply.reader().variant_text().map(str::to_owned);
        text.ok_or(dbus::Error::Protocol("a property"))
    }
}

fn named(path: &str) -> Result<SocketAddr, Error> {
    SocketAddr::from_pathname(path).map_err(|e| Error::file(Path::new(path), e))
}

fn system_bus() -> Result<SocketAddr, Error> {
    let given = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
    given.as_deref().and_then(dbus::address).map_or_else(|| named(SYSTEM_BUS), Ok)
}

/// As libcontainer's DetectUserDbusSessionBusAddress().
fn user_bus() -> Option<SocketAddr> {
    if let Ok(address) = std::env::var("DBUS_SESSION_BUS_ADDRESS")
        && !address.is_empty()
    {
        return dbus::address(&address);
    }
    let path = Path::new(&std::env::var_os("XDG_RUNTIME_DIR")?).join("bus");
    SocketAddr::from_pathname(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(path: Option<&str>) -> Result<Wish, String> {
        Wish::parse(path, "c", &HashMap::new()).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_name_units() {
        let names = |path| wish(path).map(|wish| (wish.slice(false).to_owned(), wish.name));
        let pair = |slice: &str, name: &str| Ok((slice.to_owned(), name.to_owned()));
        assert_eq!(names(None), pair("system.slice", "runc-c.scope"));
        assert_eq!(names(Some("")), pair("system.slice", "runc-c.scope"));
        assert_eq!(names(Some("a-b.slice:docker:x")), pair("a-b.slice", "docker-x.scope"));
        assert_eq!(names(Some("-:p:x")), pair("-.slice", "p-x.scope"));
        assert_eq!(wish(Some(":p:x")).unwrap().slice(true), "user.slice");
        for wrong in ["/a/b", "a:b", "a:b:c:d", "a.slice:p:b.slice", "a:p:x", "a/b.slice:p:x"] {
            assert!(names(Some(wrong)).is_err(), "{wrong}");
        }
        let error = wish(Some("/a")).unwrap_err();
        assert!(error.starts_with("expected cgroupsPath to be of format \"slice:prefix:name\""));
    }

    #[test]
    fn slices_are_paths() {
        let path = |slice| expand(slice).ok();
        assert_eq!(path("a.slice").as_deref(), Some("/a.slice"));
        let nested = "/a.slice/a-b.slice/a-b-c.slice";
        assert_eq!(path("a-b-c.slice").as_deref(), Some(nested));
        assert_eq!(path("-.slice").as_deref(), Some("/"));
        for wrong in ["", ".slice", "a", "a--b.slice", "-a.slice", "a/b.slice"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}
