//! The rules of devices, in version 1 and as systemd has them. Nothing of a container reaches a device of the host through
//! the sandbox; these rules hold its host processes to the same, as runc's hold a container's.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::Error;
use super::folder::Folder;
use crate::dbus::message::{Property, Value};

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

/// What systemd is told of a rule of [`set`]: a device, or a group of them by the name that the kernel has for it, as
/// libcontainer's systemdProperties() finds it. `known`: /proc/devices.
fn for_systemd(line: &str, known: &str) -> Option<(String, String)> {
    let (kind, rest) = line.split_once(' ')?;
    let (number, access) = rest.split_once(' ')?;
    let (major, minor) = number.split_once(':')?;
    let (folder, section) = match kind {
        "c" => ("char", "Character devices:"),
        _ => ("block", "Block devices:"),
    };
    let name = match (major, minor) {
        ("*", "*") => format!("{folder}-*"),
        ("*", _) => return None,
        (major, "*") => {
            let lines = known.lines().skip_while(|line| *line != section).skip(1);
            let mut pairs = lines.map_while(|line| line.trim().split_once(' '));
            format!("{folder}-{}", pairs.find(|(number, _)| *number == major)?.1)
        }
        (major, minor) => format!("/dev/{folder}/{major}:{minor}"),
    };
    Some((name, access.to_owned()))
}

/// The rules as properties of a unit.
pub fn properties(rules: &[LinuxDeviceCgroup], known: &str) -> Result<Vec<Property>, Error> {
    let mut all = false;
    let mut allowed: Vec<String> = Vec::new();
    for rule in rules {
        match line(rule)? {
            line if line == "a" => {
                all = rule.allow();
                allowed.clear();
            }
            line if rule.allow() => allowed.push(line),
            line => {
                let before = allowed.len();
                allowed.retain(|other| *other != line);
                if all || allowed.len() == before {
                    crate::warning!(
                        "linux.resources.devices: systemd has no rule that forbids: {line}"
                    );
                }
            }
        }
    }
    if all {
        let none = Value::Pairs(Vec::new());
        return Ok(vec![("DevicePolicy", Value::Text("auto".into())), ("DeviceAllow", none)]);
    }
    let lines = allowed.iter().map(String::as_str).chain(ALWAYS);
    let mut pairs = Vec::new();
    for line in lines {
        match for_systemd(line, known) {
            Some(pair) => pairs.push(pair),
            // As runc: such a driver is not there, or there is no word for it.
            None => crate::debug!("linux.resources.devices: not told to systemd: {line}"),
        }
    }
    Ok(vec![
        ("DevicePolicy", Value::Text("strict".into())),
        // Takes away what was there before.
        ("DeviceAllow", Value::Pairs(Vec::new())),
        ("DeviceAllow", Value::Pairs(pairs)),
    ])
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

    #[test]
    fn systemd_has_names_for_groups() {
        const KNOWN: &str = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let name = |line| for_systemd(line, KNOWN).map(|(name, access)| format!("{name} {access}"));
        assert_eq!(name("c 1:3 rw").as_deref(), Some("/dev/char/1:3 rw"));
        assert_eq!(name("c 136:* rwm").as_deref(), Some("char-pts rwm"));
        assert_eq!(name("b 8:* m").as_deref(), Some("block-sd m"));
        assert_eq!(name("b *:* m").as_deref(), Some("block-* m"));
        assert_eq!(name("c 8:* m"), None);
        assert_eq!(name("c *:3 m"), None);
    }

    #[test]
    fn the_last_rule_of_all_devices_counts() {
        let of =
            |json: &str| properties(&serde_json::from_str::<Vec<_>>(json).unwrap(), "").unwrap();
        let found = of(r#"[{"allow":true,"type":"c","major":5,"minor":6,"access":"r"},
                           {"allow":false,"access":"rwm"},
                           {"allow":true,"type":"c","major":1,"minor":2,"access":"r"},
                           {"allow":true,"type":"c","major":3,"minor":4,"access":"r"},
                           {"allow":false,"type":"c","major":3,"minor":4,"access":"r"}]"#);
        assert_eq!(found[0], ("DevicePolicy", Value::Text("strict".into())));
        let ("DeviceAllow", Value::Pairs(pairs)) = &found[2] else { panic!("{found:?}") };
        let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..3], ["/dev/char/1:2", "char-*", "block-*"]);
        let found = of(r#"[{"allow":false},{"allow":true,"access":"rwm"}]"#);
        assert_eq!(found[0], ("DevicePolicy", Value::Text("auto".into())));
    }
}
