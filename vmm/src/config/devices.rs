//! `linux.devices` and `linux.resources.devices`: nodes, and the rules for them, as runc reads them.

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use sentry::control::{DeviceRule, DeviceSpec};

use super::Invalid;

/// What every container has (OCI runtime-spec, config-linux): paths, and numbers.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
];
/// Any access.
const ALL: u8 = DeviceRule::MKNOD | DeviceRule::READ | DeviceRule::WRITE;
/// Types of inode(7).
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// The rule of who is in no device cgroup.
pub const ANY: DeviceRule =
    DeviceRule { allow: true, block: None, major: None, minor: None, access: ALL };

/// The nodes.
pub fn nodes(linux: Option<&Linux>) -> Result<Vec<DeviceSpec>, Invalid> {
    let all = linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    all.enumerate().map(|(index, device)| node(index, device)).collect()
}

fn node(index: usize, device: &LinuxDevice) -> Result<DeviceSpec, Invalid> {
    let invalid =
        |field: &str, why: &str| Invalid::new(format!("linux.devices[{index}].{field}"), why);
    let path = super::mounts::normal(device.path()).filter(|path| path != "/");
    let kind = match device.typ() {
        LinuxDeviceType::B => S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
        LinuxDeviceType::P => S_IFIFO,
        LinuxDeviceType::A => return Err(invalid("type", "\"a\" is no type of a node")),
    };
    let number =
        |field, n: i64| u32::try_from(n).map_err(|_| invalid(field, "not a number of a device"));
    Ok(DeviceSpec {
        path: path.ok_or_else(|| invalid("path", "not a path"))?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// The rules: those of the configuration, and what every container may, which comes after them. A device of the
/// configuration in the place of one that every container has is not among these.
pub fn rules(linux: Option<&Linux>) -> Result<Vec<DeviceRule>, Invalid> {
    let given = linux.and_then(|linux| linux.resources().as_ref()?.devices().as_ref());
    let given =
        given.into_iter().flatten().enumerate().map(|(index, rule)| self::rule(index, rule));
    let mut rules = given.collect::<Result<Vec<_>, _>>()?;
    let own = linux.and_then(|linux| linux.devices().as_ref());
    let allow = |block, major, minor, access| DeviceRule {
        allow: true,
        block: Some(block),
        major,
        minor,
        access,
    };
    rules.extend([false, true].map(|block| allow(block, None, None, DeviceRule::MKNOD)));
    // Terminals, and the multiplexer.
    rules.extend([allow(false, Some(136), None, ALL), allow(false, Some(5), Some(2), ALL)]);
    let replaced =
        |path: &str| own.into_iter().flatten().any(|device| device.path().as_os_str() == path);
    let defaults = DEFAULT.iter().filter(|(path, ..)| !replaced(path));
    rules.extend(defaults.map(|(_, major, minor)| allow(false, Some(*major), Some(*minor), ALL)));
    Ok(rules)
}

fn rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<DeviceRule, Invalid> {
    let invalid = |field: &str, why: String| {
        Invalid::new(format!("linux.resources.devices[{index}].{field}"), why)
    };
    let letters = rule.access().as_deref().unwrap_or_default();
    if letters.is_empty() {
        return Err(invalid("access", "must not be empty".into()));
    }
    let block = match rule.typ() {
        None | Some(LinuxDeviceType::A) => {
            // It stands for every device and every access, whatever else it says.
            return Ok(DeviceRule { allow: rule.allow(), ..ANY });
        }
        Some(LinuxDeviceType::B) => true,
        Some(LinuxDeviceType::C) => false,
        Some(other) => {
            return Err(invalid("type", format!("{:?} is not one of a, b and c", other.as_str())));
        }
    };
    let number = |field, n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n)
            .map(Some)
            .map_err(|_| invalid(field, format!("{n} is no number of a device"))),
    };
    let mut access = 0;
    for letter in letters.chars() {
        access |= match letter {
            'r' => DeviceRule::READ,
            'w' => DeviceRule::WRITE,
            'm' => DeviceRule::MKNOD,
            _ => return Err(invalid("access", format!("{letter:?} is not one of r, w and m"))),
        };
    }
    Ok(DeviceRule {
        allow: rule.allow(),
        block: Some(block),
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        access,
    })
}
