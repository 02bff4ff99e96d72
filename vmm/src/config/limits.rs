//! What `linux.resources` means for the sentry, at a container's beginning and when it is changed.

use oci_spec::runtime::LinuxResources;
use sentry::control::Limits;

/// The limits that hold once these resources are set: 0, and what is not there, leaves one as it was before, less than
/// that takes it away.
pub fn merge(before: Limits, resources: &LinuxResources) -> Limits {
    let mut limits = before;
    if let Some(memory) = resources.memory() {
        set(&mut limits.memory, memory.limit());
        set(&mut limits.reservation, memory.reservation());
        set(&mut limits.swap, memory.swap());
    }
    if let Some(cpu) = resources.cpu() {
        let signed = |n: Option<u64>| n.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        set(&mut limits.shares, signed(cpu.shares()));
        set(&mut limits.quota, cpu.quota());
        set(&mut limits.period, signed(cpu.period()));
    }
    let mut pids = limits.pids.map(u64::from);
    set(&mut pids, resources.pids().as_ref().map(|pids| pids.limit()));
    for (file, value) in resources.unified().iter().flatten() {
        let limit = match file.as_str() {
            "memory.max" => &mut limits.memory,
            "pids.max" => &mut pids,
            "cpu.max" => {
                let mut words = value.split_whitespace();
                limits.quota = words.next().and_then(|word| word.parse().ok());
                limits.period = words.next().and_then(|word| word.parse().ok()).or(limits.period);
                continue;
            }
            _ => continue,
        };
        *limit = value.trim().parse().ok();
    }
    // No sandbox has as many as do not fit.
    limits.pids = pids.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    limits
}

fn set(limit: &mut Option<u64>, value: Option<i64>) {
    if let Some(value) = value.filter(|value| *value != 0) {
        *limit = u64::try_from(value).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_leaves_a_limit_and_less_takes_it_away() {
        let resources = |json: &str| serde_json::from_str::<LinuxResources>(json).unwrap();
        let first = merge(
            Limits::default(),
            &resources(
                r#"{"memory":{"limit":100,"swap":-1},"pids":{"limit":7},"cpu":{"shares":5,"quota":9}}"#,
            ),
        );
        let expected = Limits {
            memory: Some(100),
            pids: Some(7),
            shares: Some(5),
            quota: Some(9),
            ..Limits::default()
        };
        assert_eq!(first, expected);
        let json = r#"{"memory":{"limit":0},"pids":{"limit":-1},"cpu":{"quota":-1,"period":50}}"#;
        let second = merge(first, &resources(json));
        let expected = Limits { pids: None, quota: None, period: Some(50), ..expected };
        assert_eq!(second, expected);
        let json = r#"{"unified":{"memory.max":"max","pids.max":"12","io.max":"8:0 rbps=1"}}"#;
        let third = merge(second, &resources(json));
        assert_eq!(third, Limits { memory: None, pids: Some(12), ..expected });
    }
}
