//! `ps`, `events` and `update`: what is inside a container, what it uses, and what it may use.

use std::fmt::Write;
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::runtime::LinuxResources;
use sentry::control::{Call, Limits, ProcessInfo, Reply, Usage};
use serde_json::{Value, json};

use super::lifecycle::{self, call};
use crate::cgroup::{self, Group, Open, room};
use crate::cli::{Events, Global, ListFormat, Ps, Update};
use crate::clock;
use crate::config::limits;
use crate::reason::reason;
use crate::state::{self, Folder, Root, State, Status};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder.
    #[error("{0}")]
    State(#[from] state::Error),
    /// The container.
    #[error("{0}")]
    Container(#[from] lifecycle::Error),
    /// runc's words.
    #[error("container with id {0} is not running")]
    NotRunning(String),
    /// runc's words.
    #[error("duration interval must be greater than 0")]
    NoInterval,
    /// What `--interval` gives.
    #[error("--interval {0}: not a time like 500ms, 5s or 1m")]
    Interval(String),
    /// The file that `--resources` names.
    #[error("{}: {}", path.display(), reason(source))]
    Resources {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither does runc take it.
    #[error("resources: {0}")]
    Parse(#[from] serde_json::Error),
    /// A number of the command line, in runc's words.
    #[error("invalid value for {0}: {1}")]
    Value(&'static str, String),
    /// The container's cgroup.
    #[error("{0}")]
    Cgroup(#[from] cgroup::Error),
    /// The sentry answered something else: a defect of ours.
    #[error("the sandbox answered another question")]
    Answer,
}

/// The folder of a container that is there and has not ended.
pub(super) fn living(global: &Global, id: &str) -> Result<(Folder, state::State), Error> {
    let folder = Root::of(global).open(id, false)?;
    let state = folder.read()?;
    match state.status() {
        Status::Created | Status::Running | Status::Paused => Ok((folder, state)),
        Status::Creating | Status::Stopped => Err(Error::NotRunning(id.to_owned())),
    }
}

/// `ps`.
pub fn ps(global: &Global, args: &Ps) -> Result<(), Error> {
    let (folder, state) = living(global, &args.id)?;
    if let ListFormat::Json = args.format {
        super::print(&format!("[{}]\n", state.stand_in.pid));
        return Ok(());
    }
    match call(&folder, &args.id, Call::Processes { id: args.id.clone() })? {
        Reply::Processes(processes) => super::print(&table(&processes)),
        _ => return Err(Error::Answer),
    }
    Ok(())
}

/// As `ps -ef`, but for the terminal.
fn table(processes: &[ProcessInfo]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = "UID        PID  PPID  C STIME     TIME CMD\n".to_owned();
    for process in processes {
        let seconds = process.cpu_ns / 1_000_000_000;
        let share = process.cpu_ns.saturating_mul(100) / process.age_ns.max(1);
        let started = now.saturating_sub(Duration::from_nanos(process.age_ns));
        let (hour, minute) = clock::local(started.as_secs());
        // Writing to a string does not fail.
        let _infallible = writeln!(
            text,
            "{:<5} {:>8} {:>5} {:>2} {hour:02}:{minute:02} {:02}:{:02}:{:02} {}",
            process.uid,
            process.pid,
            process.ppid,
            share.min(99),
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            process.command
        );
    }
    text
}

/// `events`.
pub fn events(global: &Global, args: &Events) -> Result<(), Error> {
    let interval = duration(&args.interval).ok_or(Error::Interval(args.interval.clone()))?;
    if interval.is_zero() {
        return Err(Error::NoInterval);
    }
    let (folder, state) = living(global, &args.id)?;
    let mut kills = None;
    loop {
        let usage = match call(&folder, &args.id, Call::Usage { id: args.id.clone() }) {
            Ok(Reply::Usage(usage)) => usage,
            Ok(_) => return Err(Error::Answer),
            // It has ended, whether or not its stand-in has said so yet: there is nothing more to tell.
            Err(lifecycle::Error::NotRunning | lifecycle::Error::Refused(_)) if !args.stats => {
                return Ok(());
            }
            Err(_) if !args.stats && living(global, &args.id).is_err() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for _ in kills.unwrap_or(usage.oom_kills)..usage.oom_kills {
            super::print(&format!("{}\n", json!({ "type": "oom", "id": args.id })));
        }
        kills = Some(usage.oom_kills);
        let data = stats(&usage, own_group(&state).as_ref());
        let line = json!({ "type": "stats", "id": args.id, "data": data });
        super::print(&format!("{line}\n"));
        if args.stats {
            return Ok(());
        }
        thread::sleep(interval);
    }
}

/// The group on the host that has the sandbox, and so counts what is the host's to count: that of a container of its own
/// sandbox, or of a pod's first one.
fn own_group(state: &State) -> Option<Open> {
    state.cgroup.as_ref().filter(|_| state.pod.is_none())?.open().ok()
}

/// What runc has of these, in its words (types/events.go); nanoseconds and bytes.
fn stats(usage: &Usage, group: Option<&Open>) -> Value {
    let (user, kernel) = (usage.user_ns, usage.system_ns);
    let throttling = group.map_or(usage.throttling, Open::throttling);
    let mut stats = json!({
        "cpu": {
            "usage": { "total": user.saturating_add(kernel), "kernel": kernel, "user": user },
            "throttling": {
                "periods": throttling.periods,
                "throttledPeriods": throttling.throttled,
                "throttledTime": throttling.time_ns,
            },
        },
        "memory": { "usage": {
            "limit": usage.memory_limit, "usage": usage.memory, "max": usage.memory_peak,
            "failcnt": usage.oom_kills,
        } },
        "pids": { "current": usage.pids, "limit": usage.pids_limit },
    });
    if let Some(group) = group {
        if let Some(times) = stats["cpu"]["usage"].as_object_mut() {
            times.append(&mut group.of_processors());
        }
        stats["cpuset"] = group.cpuset();
        stats["blkio"] = group.devices();
        stats["hugetlb"] = group.huge_pages();
    }
    stats
}

/// One number and unit of Go's durations.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// `update`.
pub fn update(global: &Global, args: &Update) -> Result<(), Error> {
    let resources = resources(args)?;
    let folder = Root::of(global).open(&args.id, true)?;
    let mut state = folder.read()?;
    if matches!(state.status(), Status::Creating | Status::Stopped) {
        return Err(Error::NotRunning(args.id.clone()));
    }
    let before = state.limits;
    let limits = limits::merge(before, &resources);
    let group = state.cgroup.as_ref().map(Group::open).transpose()?;
    let outside = || match &group {
        Some(group) => group.set(&room::widen(&resources, state.platform(), before.memory)),
        None => Ok(()),
    };
    let inside = |limits| call(&folder, &args.id, Call::Limit { id: args.id.clone(), limits });
    // The host's limit is never the narrower one.
    let most = |limits: Limits| limits.memory.unwrap_or(u64::MAX);
    if most(limits) < most(before) {
        inside(limits)?;
        if let Err(e) = outside() {
            inside(before)?;
            return Err(e.into());
        }
    } else {
        outside()?;
        inside(limits)?;
    }
    state.limits = limits;
    Ok(folder.write(&state)?)
}

/// What the command line asks for, as config.json's linux.resources has it.
fn resources(args: &Update) -> Result<LinuxResources, Error> {
    if let Some(path) = &args.resources {
        let mut text = Vec::new();
        let read = match path.as_os_str() == "-" {
            true => std::io::stdin().read_to_end(&mut text).map(drop),
            false => std::fs::read(path).map(|read| text = read),
        };
        read.map_err(|source| Error::Resources { path: path.clone(), source })?;
        let mut resources: LinuxResources = serde_json::from_slice(&text)?;
        // As runc: devices stay as they are.
        resources.set_devices(None);
        return Ok(resources);
    }
    let number = |name: &'static str, text: &str| match text {
        "" => Ok(0),
        _ => text.parse::<i64>().map_err(|e| Error::Value(name, e.to_string())),
    };
    Ok(serde_json::from_value(json!({
        "pids": { "limit": args.pids_limit },
        "memory": {
            "limit": number("memory", &args.memory)?,
            "reservation": number("memory-reservation", &args.memory_reservation)?,
            "swap": number("memory-swap", &args.memory_swap)?,
        },
        "cpu": {
            "quota": number("cpu-quota", &args.cpu_quota)?,
            "period": number("cpu-period", &args.cpu_period)?,
            "shares": number("cpu-share", &args.cpu_share)?,
            "cpus": args.cpuset_cpus,
            "mems": args.cpuset_mems,
        },
        "blockIO": { "weight": args.blkio_weight },
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "1d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_table_names_what_is_inside() {
        let process = ProcessInfo {
            uid: 1000,
            pid: 7,
            ppid: 1,
            threads: 1,
            age_ns: 10_000_000_000,
            cpu_ns: 3_661_000_000_000,
            command: "sleep 1".into(),
        };
        let text = table(&[process]);
        let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words[..4], ["1000", "7", "1", "99"]);
        assert_eq!(words[5..], ["01:01:01", "sleep", "1"]);
    }
}
