//! What systemd is told of a container's limits: `linux.resources` as properties of a unit (systemd.resource-control(5)),
//! as libcontainer's cgroups/systemd makes them. Pure functions.

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::cgroup::{Error, v2};
use crate::dbus::message::{Property, Value};

/// systemd's own word for no limit.
const INFINITY: u64 = u64::MAX;
/// The period of the kernel's, microseconds.
const PERIOD: u64 = 100_000;
/// The highest number of a processor or memory node that makes sense.
const HIGHEST: usize = 8191;

/// The first versions of systemd that know these.
const HAS_PERIOD: u32 = 242;
const HAS_CPUSET: u32 = 244;
const HAS_IDLE: u32 = 252;

/// The number in what systemd says of its version, such as `252.39-1~deb12u1`; 0: none.
pub fn version(text: &str) -> u32 {
    let text = text.trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

/// The properties of these limits. Those that a systemd of this version does not know are left to the group's files.
pub fn of(resources: &LinuxResources, unified: bool, version: u32) -> Result<Vec<Property>, Error> {
    let mut found: Vec<Property> = Vec::new();
    let mut put = |name, value| found.push((name, value));
    if let Some(memory) = resources.memory() {
        let value = |n: Option<i64>| n.unwrap_or(0);
        let (limit, swap) = (value(memory.limit()), value(memory.swap()));
        if limit != 0 {
            put(if unified { "MemoryMax" } else { "MemoryLimit" }, most(limit));
        }
        if unified {
            if value(memory.reservation()) != 0 {
                put("MemoryLow", most(value(memory.reservation())));
            }
            if let Some(swap) = v2::swap(limit, swap)? {
                put("MemorySwapMax", most(swap));
            }
        }
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|n| *n != 0) {
        put("TasksMax", most(limit));
    }
    if let Some(cpu) = resources.cpu() {
        let shares = cpu.shares().filter(|shares| *shares != 0);
        if unified && cpu.idle() == Some(1) && version >= HAS_IDLE {
            put("CPUWeight", Value::U64(0));
        } else if let Some(shares) = shares {
            match unified {
                true => put("CPUWeight", Value::U64(v2::weight(shares))),
                false => put("CPUShares", Value::U64(shares)),
            }
        }
        found.extend(quota(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), version));
        found.extend(cpusets(cpu, version)?);
    }
    if !unified
        && let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight())
        && weight != 0
    {
        found.push(("BlockIOWeight", Value::U64(weight.into())));
    }
    for (file, value) in resources.unified().iter().flatten() {
        found.extend(of_file(file, value.trim(), version)?);
    }
    Ok(found)
}

/// A limit, of which a negative one is none.
fn most(limit: i64) -> Value {
    Value::U64(u64::try_from(limit).unwrap_or(INFINITY))
}

/// Time in a period, microseconds; systemd keeps it as a share of a second, in whole percents, so it is rounded up.
fn quota(quota: i64, period: u64, version: u32) -> Vec<Property> {
    let mut found = Vec::new();
    if period != 0 && version >= HAS_PERIOD {
        found.push(("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota == 0 && period == 0 {
        return found;
    }
    let period = u128::from(if period == 0 { PERIOD } else { period });
    let share = match u128::try_from(quota) {
        Ok(quota @ 1..) => {
            let percents = (quota * 1_000_000 / period).div_ceil(10_000);
            u64::try_from(percents * 10_000).unwrap_or(INFINITY)
        }
        _ => INFINITY,
    };
    found.push(("CPUQuotaPerSecUSec", Value::U64(share)));
    found
}

fn cpusets(cpu: &LinuxCpu, version: u32) -> Result<Vec<Property>, Error> {
    let mut found = Vec::new();
    for (name, field, list) in
        [("AllowedCPUs", "cpus", cpu.cpus()), ("AllowedMemoryNodes", "mems", cpu.mems())]
    {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty())
            && version >= HAS_CPUSET
        {
            let bits = bits(list).ok_or_else(|| {
                Error::Invalid(format!(
                    "linux.resources.cpu.{field}: {list:?} is no list of numbers"
                ))
            })?;
            found.push((name, Value::Bytes(bits)));
        }
    }
    Ok(found)
}

/// `0-2,4` as bits, the lowest in the first byte.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for range in list.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        for number in first..=last {
            *bits.get_mut(number / 8)? |= 1 << (number % 8);
        }
    }
    (!bits.is_empty()).then_some(bits)
}

/// What a file of version 2 is to systemd; nothing: systemd leaves it alone.
fn of_file(file: &str, text: &str, version: u32) -> Result<Vec<Property>, Error> {
    let invalid = || Error::Invalid(format!("unified resource {file:?} value invalid: {text:?}"));
    let number = || match text {
        "max" => Ok(INFINITY),
        text => text.parse().map_err(|_| invalid()),
    };
    let name = match file {
        "cpu.idle" if text == "1" && version >= HAS_IDLE => {
            return Ok(vec![("CPUWeight", Value::U64(0))]);
        }
        "cpu.max" => {
            let (time, period) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let time = if time == "max" { 0 } else { time.parse().map_err(|_| invalid())? };
            let period = match period.trim() {
                "" => PERIOD,
                period => period.parse().map_err(|_| invalid())?,
            };
            return Ok(quota(time, period, version));
        }
        "cpuset.cpus" | "cpuset.mems" if version >= HAS_CPUSET => {
            let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            return Ok(vec![(name, Value::Bytes(bits(text).ok_or_else(invalid)?))]);
        }
        "cpu.weight" => "CPUWeight",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        _ => return Ok(Vec::new()),
    };
    Ok(vec![(name, Value::U64(number()?))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(json: &str, unified: bool, version: u32) -> Vec<Property> {
        of(&serde_json::from_str(json).unwrap(), unified, version).unwrap()
    }

    #[test]
    fn resources_are_properties() {
        let json = r#"{"memory":{"limit":100,"reservation":50,"swap":300},"pids":{"limit":-1},
                       "cpu":{"shares":1024,"quota":12345,"period":100000,"cpus":"0-1,9","mems":"0"}}"#;
        assert_eq!(
            all(json, true, 252),
            [
                ("MemoryMax", Value::U64(100)),
                ("MemoryLow", Value::U64(50)),
                ("MemorySwapMax", Value::U64(200)),
                ("TasksMax", Value::U64(INFINITY)),
                ("CPUWeight", Value::U64(39)),
                ("CPUQuotaPeriodUSec", Value::U64(100_000)),
                ("CPUQuotaPerSecUSec", Value::U64(130_000)),
                ("AllowedCPUs", Value::Bytes(vec![3, 2])),
                ("AllowedMemoryNodes", Value::Bytes(vec![1])),
            ]
        );
        assert_eq!(
            all(json, false, 239),
            [
                ("MemoryLimit", Value::U64(100)),
                ("TasksMax", Value::U64(INFINITY)),
                ("CPUShares", Value::U64(1024)),
                ("CPUQuotaPerSecUSec", Value::U64(130_000)),
            ]
        );
        assert_eq!(all("{}", true, 252), []);
        let json = r#"{"cpu":{"quota":-1},"blockIO":{"weight":10}}"#;
        let quota = ("CPUQuotaPerSecUSec", Value::U64(INFINITY));
        let weight = ("BlockIOWeight", Value::U64(10));
        assert_eq!(all(json, true, 252).as_slice(), std::slice::from_ref(&quota));
        assert_eq!(all(json, false, 252), [quota, weight]);
    }

    #[test]
    fn files_are_properties() {
        for (file, text, expected) in [
            ("memory.max", "max", Some(("MemoryMax", Value::U64(INFINITY)))),
            ("memory.high", "5", Some(("MemoryHigh", Value::U64(5)))),
            ("cpuset.cpus", "1", Some(("AllowedCPUs", Value::Bytes(vec![2])))),
            ("cpu.idle", "0", None),
            ("io.max", "8:0 rbps=1", None),
        ] {
            assert_eq!(
                of_file(file, text, 252).ok(),
                Some(expected.into_iter().collect()),
                "{file}"
            );
        }
        let max = of_file("cpu.max", "max 50000", 252).unwrap();
        assert_eq!(max[1], ("CPUQuotaPerSecUSec", Value::U64(INFINITY)));
        for (file, text) in [("memory.max", "-1"), ("cpu.max", "1 2 3"), ("cpuset.cpus", "x")] {
            assert!(of_file(file, text, 252).is_err(), "{file}");
        }
    }

    #[test]
    fn lists_are_bits() {
        assert_eq!(bits("0-3,8"), Some(vec![15, 1]));
        for wrong in ["", "a", "3-1", "0-999999999999", "9000", "-1"] {
            assert_eq!(bits(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        for (text, number) in [("252.39-1~deb12u1", 252), ("v245.4-1.fc32", 245), ("", 0)] {
            assert_eq!(version(text), number);
        }
    }
}
