//! How much wider a container's limits are on the host than inside, so that the inner limit acts first.

use oci_spec::runtime::LinuxResources;

use crate::protocol::Platform;

/// Memory of the host that a sandbox uses beside what is counted inside, bytes.
const MEMORY: i64 = 64 << 20;
/// And for each so many bytes of the container's memory one: page tables, and the sentry's books.
const MEMORY_PART: i64 = 32;
/// Host tasks beside those of the container's: the threads of the sentry and its gofer, the stand-in, and pooled stubs.
const PIDS: i64 = 64;

/// Limits for the host, of a container's. `memory`: what the container may have already, where that is limited.
pub fn widen(
    resources: &LinuxResources,
    platform: Platform,
    memory: Option<u64>,
) -> LinuxResources {
    let mut wide = resources.clone();
    if let Some(limits) = wide.memory_mut() {
        let own = limits.limit().filter(|limit| *limit > 0);
        let base = own.or(memory.and_then(|limit| i64::try_from(limit).ok()));
        let room = base.map_or(0, room);
        let add =
            |limit: Option<i64>| limit.map(|n| if n > 0 { n.saturating_add(room) } else { n });
        let (limit, swap) = (add(limits.limit()), add(limits.swap()));
        limits.set_limit(limit).set_swap(swap);
    }
    if let Some(pids) = wide.pids_mut()
        && pids.limit() > 0
    {
        pids.set_limit(tasks(pids.limit(), platform));
    }
    for (file, value) in wide.unified_mut().iter_mut().flatten() {
        let Ok(limit) = value.trim().parse::<i64>() else { continue };
        match file.as_str() {
            "memory.max" => *value = limit.saturating_add(room(limit)).to_string(),
            "pids.max" => *value = tasks(limit, platform).to_string(),
            _ => {}
        }
    }
    wide
}

/// What a limit of memory has to be wider by.
fn room(limit: i64) -> i64 {
    MEMORY.saturating_add(limit / MEMORY_PART)
}

/// Under ptrace a task has two on the host: the stub thread that runs it, and the sentry's that drives it. On KVM it has
/// none, and each processor one.
fn tasks(limit: i64, platform: Platform) -> i64 {
    let own = match platform {
        Platform::Ptrace => limit.saturating_mul(2),
        Platform::Kvm => {
            let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
            limit.saturating_add(i64::try_from(processors).unwrap_or(i64::MAX))
        }
    };
    own.saturating_add(PIDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_on_the_host_are_wider() {
        let json = r#"{"memory":{"limit":33554432,"swap":67108864},"pids":{"limit":10},
                       "unified":{"pids.max":"5","memory.max":"max","io.max":"8:0 rbps=1"}}"#;
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let wide = widen(&resources, Platform::Ptrace, None);
        let memory = wide.memory().as_ref().unwrap();
        let room = (64 << 20) + (1 << 20);
        assert_eq!(memory.limit(), Some((32 << 20) + room));
        assert_eq!(memory.swap(), Some((64 << 20) + room));
        assert_eq!(wide.pids().as_ref().unwrap().limit(), 84);
        let unified = wide.unified().as_ref().unwrap();
        assert_eq!(unified["pids.max"], "74");
        assert_eq!(unified["memory.max"], "max");
        assert_eq!(unified["io.max"], "8:0 rbps=1");
        // Swap alone is as much wider as the limit is that is there.
        let swap: LinuxResources = serde_json::from_str(r#"{"memory":{"swap":100}}"#).unwrap();
        let wide = widen(&swap, Platform::Ptrace, Some(32 << 20));
        assert_eq!(wide.memory().as_ref().unwrap().swap(), Some(100 + room));
        let none: LinuxResources =
            serde_json::from_str(r#"{"memory":{"limit":-1},"pids":{"limit":-1}}"#).unwrap();
        assert_eq!(widen(&none, Platform::Kvm, None), none);
    }
}
