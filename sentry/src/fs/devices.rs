//! Which devices a container may open and make: the rules of its device cgroup (Documentation/admin-guide/cgroup-v1/
//! devices.rst).
//!
//! They are asked after the permissions of a node, and for its number alone; whether there is a driver is another matter
//! ([`super::dev`]). What the sentry itself makes is not asked about.

use super::context::Cx;
use super::types::{Access, FileType, major, minor};
use crate::control::DeviceRule;
use crate::errno::Errno;

/// `EPERM` where the rules of the caller's container forbid any of this access to the device.
pub fn check(cx: &Cx<'_>, kind: FileType, rdev: u64, access: u8) -> Result<(), Errno> {
    let Some(task) = cx.task else { return Ok(()) };
    let block = match kind {
        FileType::BlockDevice => true,
        FileType::CharDevice => false,
        _ => return Ok(()),
    };
    match allows(&task.process.container.device_rules, block, rdev, access) {
        true => Ok(()),
        false => Err(Errno::EPERM),
    }
}

/// The same for what access(2) and open(2) want of an inode.
pub fn check_open(cx: &Cx<'_>, kind: FileType, rdev: u64, want: Access) -> Result<(), Errno> {
    let bit = |wanted, bit| if want.contains(wanted) { bit } else { 0 };
    let access = bit(Access::READ, DeviceRule::READ) | bit(Access::WRITE, DeviceRule::WRITE);
    check(cx, kind, rdev, access)
}

fn allows(rules: &[DeviceRule], block: bool, rdev: u64, mut access: u8) -> bool {
    let other = |wanted: Option<u32>, is: u32| wanted.is_some_and(|wanted| wanted != is);
    for rule in rules.iter().rev() {
        if rule.access & access == 0
            || rule.block.is_some_and(|wanted| wanted != block)
            || other(rule.major, major(rdev))
            || other(rule.minor, minor(rdev))
        {
            continue;
        }
        if !rule.allow {
            return false;
        }
        access &= !rule.access;
    }
    access == 0
}

#[cfg(test)]
mod tests {
    use super::super::types::makedev;
    use super::*;

    #[test]
    fn the_last_rule_of_an_access_counts() {
        let rule =
            |allow, block, major, minor, access| DeviceRule { allow, block, major, minor, access };
        let (make, read, write) = (DeviceRule::MKNOD, DeviceRule::READ, DeviceRule::WRITE);
        let rules = [
            rule(false, None, None, None, 7),
            rule(true, Some(false), None, None, make),
            rule(true, Some(false), Some(1), None, read | write),
            rule(false, None, Some(1), Some(3), write),
        ];
        let may =
            |block, major, minor, access| allows(&rules, block, makedev(major, minor), access);
        assert!(may(false, 1, 5, read | write | make) && may(false, 1, 3, read | make));
        assert!(!may(false, 1, 3, read | write) && !may(false, 2, 3, read));
        assert!(may(false, 2, 3, make) && !may(true, 2, 3, make) && !may(true, 1, 5, read));
        assert!(!allows(&[], false, makedev(1, 3), read));
    }
}
