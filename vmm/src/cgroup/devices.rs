//! The rules of devices in version 1. Nothing of a container reaches a device of the host through the sandbox; these
//! rules hold its host processes to the same, as runc's hold a container's.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::Error;
use super::folder::Folder;

/// What every container may use, and here the processes of its sandbox (specconv's AllowedDevices).
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:8 rwm",
    "c 1:7 rwm",
    "c 5:0 rwm",
    "c 1:5 rwm",
    "c 1:9 rwm",
    "c 136:* rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
];

/// Sets the rules, in order: the last that fits a device counts.
pub fn set(group: &Folder, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    // Where nothing is said of all devices, none is allowed.
    group.write("devices.deny", "a")?;
    for rule in rules {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        group.write(file, &line(rule)?)?;
    }
    for rule in ALWAYS {
        group.write("devices.allow", rule)?;
    }
    Ok(())
}

fn line(rule: &LinuxDeviceCgroup) -> Result<String, Error> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => return Ok("a".into()),
        Some(LinuxDeviceType::B) => 'b',
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
        Some(LinuxDeviceType::P) => {
            return Err(Error::Invalid("linux.resources.devices: a pipe is no device".into()));
        }
    };
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
    let access = rule.access().as_deref().unwrap_or("rwm");
    Ok(format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_lines() {
        for (json, expected) in [
            (r#"{"allow":false,"access":"rwm"}"#, "a"),
            (r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}"#, "c 1:3 rw"),
            (r#"{"allow":true,"type":"b","major":8,"minor":-1,"access":"m"}"#, "b 8:* m"),
        ] {
            assert_eq!(line(&serde_json::from_str(json).unwrap()).unwrap(), expected);
        }
    }
}
