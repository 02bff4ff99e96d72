//! Limits in the files of version 1, in the order in which libcontainer's cgroups/fs sets them, with what it checks.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};

use super::folder::Folder;
use super::{Error, Open, devices};

/// Sets what is not zero or empty, which stands for "as it is".
pub fn set(group: &Open, resources: &LinuxResources) -> Result<(), Error> {
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(Error::Invalid("cannot use unified on cgroup v1".into()));
    }
    if let Some(cpu) = resources.cpu() {
        for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                group.limited("cpuset")?.write(file, list)?;
            }
        }
    }
    // Where there is no group, what the sentry has for devices is all there is.
    if let (Some(list), Some(folder)) = (resources.devices(), group.with("devices")) {
        devices::set(folder, list)?;
    }
    if let Some(memory) = resources.memory().as_ref().filter(|memory| is_set(memory))
        && let Some(folder) = group.known("memory")
    {
        set_memory(folder, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(group, cpu)?;
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|n| *n != 0)
        && let Some(folder) = group.known("pids")
    {
        folder.write("pids.max", &most(limit))?;
    }
    if let Some(io) = resources.block_io() {
        set_block_io(group, io)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (folder, size) = (group.limited("hugetlb")?, page.page_size());
        let limit = page.limit().to_string();
        folder.write(&format!("hugetlb.{size}.limit_in_bytes"), &limit)?;
        let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        if folder.has(&reserved) {
            folder.write(&reserved, &limit)?;
        }
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            group.limited("net_cls")?.write("net_cls.classid", &class.to_string())?;
        }
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            group.limited("net_prio")?.write("net_prio.ifpriomap", &line)?;
        }
    }
    super::set_rdma(group, resources)
}

/// A limit in words of the file: a negative one is none.
pub fn most(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

/// Whether any of the limits is there.
pub fn is_set(memory: &LinuxMemory) -> bool {
    let limits = [memory.limit(), memory.swap(), memory.reservation()];
    limits.into_iter().flatten().any(|limit| limit != 0)
        || memory.swappiness().is_some()
        || memory.disable_oom_killer() == Some(true)
}

fn set_memory(folder: &Folder, memory: &LinuxMemory) -> Result<(), Error> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let value = |n: Option<i64>| n.unwrap_or(0);
    let (limit, mut swap) = (value(memory.limit()), value(memory.swap()));
    if limit == -1 && swap == 0 && folder.has(SWAP) {
        // Memory without end is meant with swap.
        swap = -1;
    }
    let put = |file: &str, value: i64| match value {
        0 => Ok(()),
        n => folder.write(file, &n.to_string()),
    };
    let put_limit = || match put(LIMIT, limit) {
        Err(e) if e.errno() == Some(libc::EBUSY) => Err(busy(folder, limit)),
        other => other,
    };
    // The sum of both is never below memory alone, so what grows more goes first.
    let swap_first = match (limit, swap) {
        (0, _) | (_, 0) => false,
        (_, -1) => true,
        (_, swap) => folder.number(LIMIT)? < u64::try_from(swap).unwrap_or(0),
    };
    if swap_first {
        put(SWAP, swap)?;
        put_limit()?;
    } else {
        put_limit()?;
        put(SWAP, swap)?;
    }
    put("memory.soft_limit_in_bytes", value(memory.reservation()))?;
    if memory.disable_oom_killer() == Some(true) {
        folder.write("memory.oom_control", "1")?;
    }
    match memory.swappiness() {
        None => Ok(()),
        // What is -1 in Go.
        Some(u64::MAX) => Ok(()),
        Some(n @ 0..=100) => folder.write("memory.swappiness", &n.to_string()),
        Some(n) => Err(Error::Invalid(format!(
            "invalid memory swappiness value: {n} (valid range is 0-100)"
        ))),
    }
}

/// Why a limit cannot be as low as that, in runc's words.
fn busy(folder: &Folder, limit: i64) -> Error {
    let read = |file: &str| folder.number(file).unwrap_or(0);
    let (usage, peak) = (read("memory.usage_in_bytes"), read("memory.max_usage_in_bytes"));
    Error::Invalid(format!(
        "unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
    ))
}

fn set_cpu(group: &Open, cpu: &LinuxCpu) -> Result<(), Error> {
    let put = |file: &str, value: String| group.limited("cpu")?.write(file, &value);
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        put("cpu.shares", shares.to_string())?;
        // The host takes any number and makes of it what it can.
        let taken = group.limited("cpu")?.number("cpu.shares")?;
        let bound = match shares {
            shares if shares > taken => "maximum",
            shares if shares < taken => "minimum",
            _ => "",
        };
        if !bound.is_empty() {
            return Err(Error::Invalid(format!("the {bound} allowed cpu-shares is {taken}")));
        }
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let mut period = cpu.period().filter(|period| *period != 0);
    if let Some(time) = period {
        match put("cpu.cfs_period_us", time.to_string()) {
            // The old quota may be too much of the new period for the group above.
            Err(e) if e.errno() == Some(libc::EINVAL) && quota.is_some() => {}
            other => {
                other?;
                period = None;
            }
        }
    }
    // It may be no more than the quota, whichever that is meanwhile.
    let mut burst = cpu.burst();
    if let Some(time) = burst {
        match put("cpu.cfs_burst_us", time.to_string()) {
            Err(e) if e.errno() == Some(libc::EINVAL) && quota.is_some() => {}
            other => {
                other?;
                burst = None;
            }
        }
    }
    if let Some(quota) = quota {
        put("cpu.cfs_quota_us", quota.to_string())?;
        if let Some(time) = period {
            put("cpu.cfs_period_us", time.to_string())?;
        }
        if let Some(time) = burst {
            put("cpu.cfs_burst_us", time.to_string())?;
        }
    }
    if let Some(idle) = cpu.idle() {
        put("cpu.idle", idle.to_string())?;
    }
    if let Some(time) = cpu.realtime_period().filter(|time| *time != 0) {
        put("cpu.rt_period_us", time.to_string())?;
    }
    if let Some(time) = cpu.realtime_runtime().filter(|time| *time != 0) {
        put("cpu.rt_runtime_us", time.to_string())?;
    }
    Ok(())
}

fn set_block_io(group: &Open, io: &LinuxBlockIo) -> Result<(), Error> {
    let put = |file: &str, value: String| group.limited("blkio")?.write(file, &value);
    // The scheduler that has weights is CFQ in old kernels, BFQ in new ones.
    let prefix = match group.with("blkio") {
        Some(folder) if folder.has("blkio.weight") => "blkio",
        _ => "blkio.bfq",
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        put(&format!("{prefix}.weight"), weight.to_string())?;
    }
    if let Some(weight) = io.leaf_weight().filter(|weight| *weight != 0) {
        put("blkio.leaf_weight", weight.to_string())?;
    }
    let line = |device: &LinuxWeightDevice, weight: u16| {
        format!("{}:{} {weight}", device.major(), device.minor())
    };
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            put(&format!("{prefix}.weight_device"), line(device, weight))?;
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
            put("blkio.leaf_weight_device", line(device, weight))?;
        }
    }
    for (name, devices) in throttles(io) {
        for device in devices {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            put(&format!("blkio.throttle.{name}_device"), line)?;
        }
    }
    Ok(())
}

/// Limits of block devices by what they are called.
pub fn throttles(io: &LinuxBlockIo) -> [(&'static str, &[LinuxThrottleDevice]); 4] {
    fn list(devices: &Option<Vec<LinuxThrottleDevice>>) -> &[LinuxThrottleDevice] {
        devices.as_deref().unwrap_or_default()
    }
    [
        ("read_bps", list(io.throttle_read_bps_device())),
        ("write_bps", list(io.throttle_write_bps_device())),
        ("read_iops", list(io.throttle_read_iops_device())),
        ("write_iops", list(io.throttle_write_iops_device())),
    ]
}

/// A new group has no processors and no memory nodes, and then no process may join it: they are those of the group
/// above, unless the container's own are named.
pub fn inherit_cpuset(
    above: &Folder,
    below: &Folder,
    own: Option<&LinuxResources>,
) -> Result<(), Error> {
    let cpu = own.and_then(|resources| resources.cpu().as_ref());
    let cpus = cpu.and_then(|cpu| cpu.cpus().as_deref());
    let mems = cpu.and_then(|cpu| cpu.mems().as_deref());
    for (file, named) in [("cpuset.cpus", cpus), ("cpuset.mems", mems)] {
        if let Some(list) = named.filter(|list| !list.is_empty()) {
            below.write(file, list)?;
        } else if below.read(file)?.trim().is_empty() {
            below.write(file, above.read(file)?.trim())?;
        }
    }
    Ok(())
}
