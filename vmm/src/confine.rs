//! How a process of ours gives up what it does not need.
//!
//! It has been born into namespaces of its own (see [`crate::spawn`]); here it exchanges its root
//! for an empty one and lets go of its user and its capabilities. Seccomp comes after, by role.

use nix::errno::Errno;
use nix::sys::resource::Resource;

use crate::host::Host;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot {0}: {1}")]
pub struct Error(&'static str, Errno);

fn step(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error(what, errno)
}

/// Where the empty root is mounted first. Any folder will do, and this one is always there: without
/// /proc nothing of ours would have started.
const STEP: &std::ffi::CStr = c"/proc";

/// Exchanges the root for an empty, read-only one. What was opened before stays open.
pub fn empty_root(host: &dyn Host) -> Result<(), Error> {
    host.make_private().map_err(step("make mounts private"))?;
    host.mount_empty(STEP).map_err(step("mount an empty root"))?;
    host.chdir(STEP).map_err(step("enter the empty root"))?;
    match host.pivot_root() {
        Ok(()) => host.unmount().map_err(step("leave the old root"))?,
        // The root is an initramfs, or no mount: what switch_root(8) does.
        Err(Errno::EINVAL) => {
            host.move_to_root().map_err(step("move the empty root into place"))?;
            host.chroot().map_err(step("enter the empty root"))?;
        }
        Err(e) => return Err(Error("exchange the root", e)),
    }
    host.chdir(c"/").map_err(step("enter the empty root"))
}

/// Takes other ids where told to, and gives up every capability for good.
pub fn drop_privileges(host: &dyn Host, ids: Option<(u32, u32)>) -> Result<(), Error> {
    host.no_core().map_err(step("switch core dumps off"))?;
    if let Some((uid, gid)) = ids {
        host.set_ids(uid, gid).map_err(step("change the user"))?;
    }
    host.drop_capabilities().map_err(step("drop capabilities"))?;
    host.no_new_privileges().map_err(step("set no_new_privs"))?;
    // These two last: a change of ids undoes them (prctl(2)).
    host.not_dumpable().map_err(step("make the process undumpable"))?;
    host.die_with_parent().map_err(step("tie the process to its parent"))
}

/// What is left to a process that has no namespaces of its own, and no capabilities: with Landlock, no name of the host's
/// files can be opened, as in an empty root.
pub fn without_namespaces(host: &dyn Host) -> Result<(), Error> {
    host.no_core().map_err(step("switch core dumps off"))?;
    host.no_new_privileges().map_err(step("set no_new_privs"))?;
    host.no_files().map_err(step("give the host's files up"))?;
    host.not_dumpable().map_err(step("make the process undumpable"))?;
    host.die_with_parent().map_err(step("tie the process to its parent"))
}

/// Most descriptors: twice what the sentry has donated to it at most, and its processes' under ptrace.
const DESCRIPTORS: u64 = 64 << 10;
/// Address space beside the sandbox's memory: windows for files, stacks of threads, the process itself.
const BESIDE_MEMORY: u64 = 64 << 30;

/// Bounds what the process can have of the host's. To be called when the pristine stub exists, which applications
/// descend from: their address space is the sentry's to bound.
pub fn bound(host: &dyn Host, memory: u64) -> Result<(), Error> {
    let bound = step("bound descriptors and memory");
    host.at_most(Resource::RLIMIT_NOFILE, DESCRIPTORS)
        .and_then(|()| host.at_most(Resource::RLIMIT_AS, memory.saturating_add(BESIDE_MEMORY)))
        .and_then(|()| host.at_most(Resource::RLIMIT_MEMLOCK, 0))
        .and_then(|()| host.at_most(Resource::RLIMIT_MSGQUEUE, 0))
        .map_err(bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Recorder;

    #[test]
    fn the_root_is_exchanged_before_the_old_one_goes() {
        let host = Recorder::default();
        empty_root(&host).unwrap();
        assert_eq!(
            *host.calls.borrow(),
            [
                "make_private",
                "mount_empty /proc",
                "chdir /proc",
                "pivot_root",
                "unmount",
                "chdir /"
            ]
        );
    }

    #[test]
    fn an_initramfs_is_covered_instead() {
        let host = Recorder { failing: Some(("pivot_root", Errno::EINVAL)), ..Recorder::default() };
        empty_root(&host).unwrap();
        let calls = host.calls.borrow();
        assert_eq!(calls[3..], ["pivot_root", "move_to_root", "chroot", "chdir /"]);
    }

    #[test]
    fn nothing_goes_on_after_a_failure() {
        let host = Recorder { failing: Some(("set_ids", Errno::EPERM)), ..Recorder::default() };
        let error = drop_privileges(&host, Some((65534, 65534))).unwrap_err();
        assert_eq!(error.to_string(), "cannot change the user: EPERM: Operation not permitted");
        assert_eq!(host.calls.borrow().len(), 2);
    }

    #[test]
    fn without_namespaces_files_go_by_landlock() {
        let host = Recorder::default();
        without_namespaces(&host).unwrap();
        let expected =
            ["no_core", "no_new_privileges", "no_files", "not_dumpable", "die_with_parent"];
        assert_eq!(*host.calls.borrow(), expected);
    }

    #[test]
    fn capabilities_go_after_the_user_and_the_tie_comes_last() {
        let host = Recorder::default();
        drop_privileges(&host, Some((1, 2))).unwrap();
        assert_eq!(
            *host.calls.borrow(),
            [
                "no_core",
                "set_ids 1 2",
                "drop_capabilities",
                "no_new_privileges",
                "not_dumpable",
                "die_with_parent"
            ]
        );
    }
}
