//! How much wider a container's limits are on the host than inside, so that the inner limit acts first.

use oci_spec::runtime::LinuxResources;

use crate::protocol::Platform;

/// Memory of the host that a sandbox uses beside what is counted inside, bytes.
const MEMORY: i64 = 64 << 20;
/// And for each so many bytes of the container's memory one: page tables, and the sentry's books.
const MEMORY_PART: i64 = 32;
/// Host tasks beside those of the container's: the threads of the sentry and its gofer, the stand-in, and pooled stubs.
const PIDS: i64 = 64;

/// Limits for the host, of a container's.
pub fn widen(resources: &LinuxResources, platform: Platform) -> LinuxResources {
    let mut wide = resources.clone();
    if let Some(memory) = wide.memory_mut() {
        let room = memory.limit().filter(|limit| *limit > 0).map_or(0, memory_room);
        let add =
            |limit: Option<i64>| limit.map(|n| if n > 0 { n.saturating_add(room) } else { n });
        let (limit, swap) = (add(memory.limit()), add(memory.swap()));
        memory.set_limit(limit).set_swap(swap);
    }
    if let Some(pids) = wide.pids_mut()
        && pids.limit() > 0
    {
        pids.set_limit(tasks(pids.limit(), platform));
    }
    wide
}

/// What a limit of memory has to be wider by.
pub fn memory_room(limit: i64) -> i64 {
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
