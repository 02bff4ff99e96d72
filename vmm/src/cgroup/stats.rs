//! What the host counts in a container's groups and the sentry does not know.

use std::fs;

use sentry::control::Throttling;
use serde_json::{Map, Value, json};

use super::Open;
use super::folder::Folder;

/// Groups of files of version 1 that count what a container does with devices, as runc looks for them: the first whose first
/// file has anything in it.
const DEVICES: [[&str; 2]; 4] = [
    ["blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"],
    ["blkio.io_service_bytes_recursive", "blkio.io_serviced_recursive"],
    ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"],
    ["blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"],
];

/// Numbers of a cpuset of version 1.
const CPUSET: [&str; 9] = [
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
];

impl Open {
    /// Of the container's processor time; nothing where the host does not count it.
    pub fn throttling(&self) -> Throttling {
        let text = self.with("cpu").and_then(|folder| folder.read("cpu.stat").ok());
        parse(&text.unwrap_or_default())
    }

    /// The time that each processor has spent for it, nanoseconds, in runc's words, as are those below (types/events.go);
    /// version 2 does not count it.
    pub fn of_processors(&self) -> Map<String, Value> {
        let mut found = Map::new();
        let Some(folder) = self.with("cpuacct").filter(|_| !self.unified) else { return found };
        let numbers = |text: &str| text.split_whitespace().filter_map(number).collect::<Vec<_>>();
        let mut put = |name: &str, times: Vec<u64>| {
            if !times.is_empty() {
                found.insert(name.to_owned(), json!(times));
            }
        };
        put("percpu", numbers(&text(folder, "cpuacct.usage_percpu")));
        let all = text(folder, "cpuacct.usage_all");
        let lines: Vec<_> = all.lines().map(numbers).filter(|line| line.len() == 3).collect();
        put("percpu_kernel", lines.iter().filter_map(|line| line.get(2).copied()).collect());
        put("percpu_user", lines.iter().filter_map(|line| line.get(1).copied()).collect());
        found
    }

    /// Where it may run and have its memory; runc tells nothing of it in version 2.
    pub fn cpuset(&self) -> Value {
        let folder = self.with("cpuset").filter(|_| !self.unified);
        let read = |name: &str| {
            folder.map(|folder| text(folder, &format!("cpuset.{name}"))).unwrap_or_default()
        };
        let mut found = Map::new();
        for name in CPUSET {
            found.insert(name.to_owned(), json!(read(name).trim().parse::<i64>().unwrap_or(0)));
        }
        for name in ["cpus", "mems"] {
            let all = list(read(name).trim());
            if !all.is_empty() {
                found.insert(name.to_owned(), json!(all));
            }
        }
        Value::Object(found)
    }

    /// What it has read and written of devices.
    pub fn devices(&self) -> Value {
        let Some(folder) = self.with(if self.unified { "io" } else { "blkio" }) else {
            return json!({});
        };
        let [bytes, times] = if self.unified {
            let text = text(folder, "io.stat");
            [["rbytes", "wbytes"], ["rios", "wios"]].map(|names| of_io_stat(&text, names))
        } else {
            let filled = |[bytes, times]: [&str; 2]| {
                let bytes = of_blkio(&text(folder, bytes));
                (!bytes.is_empty()).then(|| [bytes, of_blkio(&text(folder, times))])
            };
            DEVICES.into_iter().find_map(filled).unwrap_or_default()
        };
        let mut found = Map::new();
        for (name, entries) in [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", times)]
        {
            if !entries.is_empty() {
                found.insert(name.to_owned(), Value::Array(entries));
            }
        }
        Value::Object(found)
    }

    /// The huge pages that it has, by their size.
    pub fn huge_pages(&self) -> Value {
        let mut found = Map::new();
        let Some(folder) = self.with("hugetlb") else { return Value::Object(found) };
        for size in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
            let name = size.file_name().to_string_lossy().into_owned();
            let size = name.strip_prefix("hugepages-").and_then(|size| size.strip_suffix("kB"));
            let Some(size) = size.and_then(number).map(size_name) else { continue };
            let read = |name: &str| text(folder, &format!("hugetlb.{size}.{name}"));
            let (usage, max, failures) = if self.unified {
                let events = read("events");
                let max = events.lines().find_map(|line| line.strip_prefix("max "));
                (read("current"), String::new(), max.unwrap_or_default().to_owned())
            } else {
                (read("usage_in_bytes"), read("max_usage_in_bytes"), read("failcnt"))
            };
            // A host may have the pages and not count them.
            let Some(usage) = number(usage.trim()) else { continue };
            let mut entry = Map::new();
            for (name, value) in [("usage", usage), ("max", number(max.trim()).unwrap_or(0))] {
                if value != 0 {
                    entry.insert(name.to_owned(), json!(value));
                }
            }
            entry.insert("failcnt".to_owned(), json!(number(failures.trim()).unwrap_or(0)));
            found.insert(size, Value::Object(entry));
        }
        Value::Object(found)
    }
}

/// A file, which a host may not have.
fn text(folder: &Folder, name: &str) -> String {
    folder.read(name).unwrap_or_default()
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}

/// KiB in the units of the files' names.
fn size_name(kib: u64) -> String {
    match kib {
        _ if kib != 0 && kib.is_multiple_of(1 << 20) => format!("{}GB", kib >> 20),
        _ if kib != 0 && kib.is_multiple_of(1 << 10) => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    }
}

/// A list such as `0-2,4`.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// A device's number, which is left out where it is 0, and a count.
fn entry(device: &str, operation: &str, count: u64) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let mut found = Map::new();
    found.insert("op".to_owned(), json!(operation));
    for (name, value) in [("major", number(major)?), ("minor", number(minor)?), ("value", count)] {
        if value != 0 {
            found.insert(name.to_owned(), json!(value));
        }
    }
    Some(Value::Object(found))
}

/// Lines such as `8:0 Read 4096`, and a last one that adds them up.
fn of_blkio(text: &str) -> Vec<Value> {
    let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [device, operation, count] => entry(device, operation, number(count)?),
        _ => None,
    };
    text.lines().filter_map(line).collect()
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1`.
fn of_io_stat(text: &str, [read, written]: [&str; 2]) -> Vec<Value> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next() else { continue };
        for (name, count) in words.filter_map(|word| word.split_once('=')) {
            let operation = match name {
                _ if name == read => "Read",
                _ if name == written => "Write",
                _ => continue,
            };
            found.extend(number(count).and_then(|count| entry(device, operation, count)));
        }
    }
    found
}

fn parse(text: &str) -> Throttling {
    let mut found = Throttling::default();
    for (word, number) in text.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(number) = number.trim().parse::<u64>() else { continue };
        match word {
            "nr_periods" => found.periods = number,
            "nr_throttled" => found.throttled = number,
            "throttled_time" => found.time_ns = number,
            "throttled_usec" => found.time_ns = number.saturating_mul(1000),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let expected = Throttling { periods: 9, throttled: 2, time_ns: 3000 };
        assert_eq!(parse("nr_periods 9\nnr_throttled 2\nthrottled_time 3000\n"), expected);
        let text = "usage_usec 7\nnr_periods 9\nnr_throttled 2\nthrottled_usec 3\n";
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), Throttling::default());
    }

    #[test]
    fn devices_are_told_as_runc_does() {
        let text = "8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\nx\n";
        let expected = json!([
            { "major": 8, "op": "Read", "value": 4096 }, { "major": 8, "op": "Write" },
            { "major": 8, "op": "Total", "value": 4096 },
        ]);
        assert_eq!(json!(of_blkio(text)), expected);
        let text = "254:16 rbytes=512 wbytes=7 rios=2 wios=1 dbytes=0\n\nbad rbytes=1\n";
        let expected = json!([
            { "major": 254, "minor": 16, "op": "Read", "value": 2 },
            { "major": 254, "minor": 16, "op": "Write", "value": 1 },
        ]);
        assert_eq!(json!(of_io_stat(text, ["rios", "wios"])), expected);
    }

    #[test]
    fn lists_and_sizes_are_the_kernels() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert!(list("").is_empty() && list("x-1").is_empty());
        let names = [64, 2048, 1 << 20].map(size_name);
        assert_eq!(names, ["64KB", "2MB", "1GB"]);
    }
}
