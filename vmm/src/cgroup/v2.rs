//! Limits in the files of version 2, as libcontainer's cgroups/fs2 makes them of the numbers of version 1 that a
//! configuration has.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::folder::{Folder, is_name};
use super::v1::{most, throttles};
use super::{Error, Open};

/// The controllers that the host has.
pub fn controllers(root: &Folder) -> Result<Vec<String>, Error> {
    Ok(root.read("cgroup.controllers")?.split_whitespace().map(str::to_owned).collect())
}

/// Gives all controllers to the groups below one, as far as that goes: where one is missing for something, setting it
/// fails.
pub fn delegate(folder: &Folder, controllers: &[String]) {
    const FILE: &str = "cgroup.subtree_control";
    let all: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    if all.is_empty() || folder.write(FILE, &all.join(" ")).is_ok() {
        return;
    }
    for one in all {
        if let Err(e) = folder.write(FILE, &one) {
            crate::debug!("{e}");
        }
    }
}

/// Sets what is not zero or empty, which stands for "as it is".
pub fn set(group: &Open, resources: &LinuxResources) -> Result<(), Error> {
    let put =
        |controller, file: &str, value: String| group.limited(controller)?.write(file, &value);
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|n| *n != 0) {
        put("pids", "pids.max", most(limit))?;
    }
    if let Some(memory) = resources.memory() {
        set_memory(group, memory)?;
    }
    for (field, given) in without_file(resources) {
        if given {
            crate::warning!(
                "config.json: linux.resources.{field} is not honoured: cgroup v2 has nothing like it"
            );
        }
    }
    if let Some(io) = resources.block_io() {
        set_block_io(group, io)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(group, cpu)?;
        for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                put("cpuset", file, list.to_owned())?;
            }
        }
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = (page.page_size(), page.limit().to_string());
        put("hugetlb", &format!("hugetlb.{size}.max"), limit.clone())?;
        let reserved = format!("hugetlb.{size}.rsvd.max");
        if group.limited("hugetlb")?.has(&reserved) {
            put("hugetlb", &reserved, limit)?;
        }
    }
    super::set_rdma(group, resources)?;
    for (file, value) in resources.unified().iter().flatten() {
        if !is_name(file) {
            let reason = format!("unified resource {file:?} must be a file name (no slashes)");
            return Err(Error::Invalid(reason));
        }
        put("unified", file, value.clone())?;
    }
    Ok(())
}

/// What version 2 has no file for, and runc passes over there; and whether it is given.
fn without_file(resources: &LinuxResources) -> [(&'static str, bool); 6] {
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    let io = resources.block_io().as_ref();
    let some = |n: Option<u64>| n.is_some_and(|n| n != 0);
    [
        ("memory.swappiness", memory.is_some_and(|m| m.swappiness().is_some())),
        ("memory.disableOOMKiller", memory.is_some_and(|m| m.disable_oom_killer() == Some(true))),
        ("cpu.realtimePeriod", cpu.is_some_and(|cpu| some(cpu.realtime_period()))),
        ("cpu.realtimeRuntime", cpu.is_some_and(|cpu| cpu.realtime_runtime().unwrap_or(0) != 0)),
        ("blockIO.leafWeight", io.is_some_and(|io| io.leaf_weight().unwrap_or(0) != 0)),
        ("network", resources.network().is_some()),
    ]
}

fn set_memory(group: &Open, memory: &LinuxMemory) -> Result<(), Error> {
    let put = |file: &str, value: i64| group.limited("memory")?.write(file, &most(value));
    let value = |n: Option<i64>| n.unwrap_or(0);
    let limit = value(memory.limit());
    let swap = swap(limit, value(memory.swap()))?;
    match swap {
        None => {}
        // Where the host counts no swap, there is none to be had without end either.
        Some(-1) if !group.limited("memory")?.has("memory.swap.max") => {}
        Some(swap) => put("memory.swap.max", swap)?,
    }
    if limit != 0 {
        put("memory.max", limit)?;
    }
    match value(memory.reservation()) {
        0 => Ok(()),
        reservation => put("memory.low", reservation),
    }
}

/// Swap alone, of a limit of memory and of both together (ConvertMemorySwapToCgroupV2Value()). `None`: as it is.
pub fn swap(memory: i64, both: i64) -> Result<Option<i64>, Error> {
    let invalid = |text: &str| Err(Error::Invalid(text.into()));
    match (memory, both) {
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (0 | -1, _) => invalid("unable to set swap limit without memory limit"),
        (..-1, _) => Err(Error::Invalid(format!("invalid memory value: {memory}"))),
        (memory, both) if both < memory => invalid("memory+swap limit should be >= memory limit"),
        (memory, both) => Ok(Some(both - memory)),
    }
}

fn set_cpu(group: &Open, cpu: &LinuxCpu) -> Result<(), Error> {
    let put = |file: &str, value: String| group.limited("cpu")?.write(file, &value);
    if let Some(idle) = cpu.idle() {
        put("cpu.idle", idle.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        put("cpu.weight", weight(shares).to_string())?;
    }
    let burst = cpu.burst();
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let mut line = quota.filter(|quota| *quota > 0).map_or("max".into(), |n| n.to_string());
        if quota.is_none() && group.limited("cpu")?.has("cpu.max") {
            // A period alone leaves the time in it.
            let now = group.limited("cpu")?.read("cpu.max")?;
            line = now.split(' ').next().unwrap_or("max").to_owned();
        }
        let line = match period {
            Some(period) => format!("{line} {period}"),
            None => line,
        };
        put("cpu.max", line)?;
    }
    if let Some(burst) = burst {
        put("cpu.max.burst", burst.to_string())?;
    }
    Ok(())
}

/// Shares of version 1, 2 to 262144, as a weight, 1 to 10000 (ConvertCPUSharesToCgroupV2Value()).
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn set_block_io(group: &Open, io: &LinuxBlockIo) -> Result<(), Error> {
    let put = |file: &str, value: String| group.limited("io")?.write(file, &value);
    let bfq = group.with("io").is_some_and(|folder| folder.has("io.bfq.weight"));
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        if bfq {
            put("io.bfq.weight", weight.to_string())?;
        } else {
            // 10 to 1000 there, 1 to 10000 here (ConvertBlkIOToIOWeightValue()).
            let weight = 1 + (u64::from(weight).max(10) - 10) * 9999 / 990;
            put("io.weight", format!("default {weight}"))?;
        }
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let line = format!("{}:{} {weight}", device.major(), device.minor());
            put("io.bfq.weight", line)?;
        }
    }
    for (name, devices) in throttles(io) {
        let name = match name {
            "read_bps" => "rbps",
            "write_bps" => "wbps",
            "read_iops" => "riops",
            _ => "wiops",
        };
        for device in devices {
            let line = format!("{}:{} {name}={}", device.major(), device.minor(), device.rate());
            put("io.max", line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_version_1_become_those_of_version_2() {
        assert_eq!([2, 1024, 262_144, 0].map(weight), [1, 39, 10_000, 1]);
        let swap = |memory, both| swap(memory, both).ok();
        assert_eq!(swap(-1, 0), Some(Some(-1)));
        assert_eq!(swap(100, 0), Some(None));
        assert_eq!(swap(100, -1), Some(Some(-1)));
        assert_eq!(swap(100, 250), Some(Some(150)));
        for wrong in [(0, 100), (-1, 100), (100, 99), (-5, 100)] {
            assert_eq!(swap(wrong.0, wrong.1), None, "{wrong:?}");
        }
    }
}
