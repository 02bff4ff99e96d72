//! /proc/PID/timens_offsets (time_namespaces(7)): by how much the clocks of a process's children are ahead.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write as _;

use super::{About, Entry, What};
use crate::errno::Errno;
use crate::task::timens::in_range;
use crate::task::{TimeNamespace, cap};
use crate::time::SECOND;

pub(super) const ENTRY: Entry =
    Entry { name: "timens_offsets", perm: 0o644, what: What::Writable(show, store) };

/// Seconds that a clock can count (KTIME_SEC_MAX).
const MAX_SECONDS: i64 = i64::MAX / SECOND as i64;

fn namespace(about: &About<'_>) -> Result<Arc<TimeNamespace>, Errno> {
    Ok(about.task()?.shared.lock().namespaces.time_for_children.clone())
}

fn show(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let ns = namespace(about)?;
    for (name, ahead) in [("monotonic", ns.ahead()), ("boottime", ns.boottime_ahead())] {
        let second = SECOND as i64;
        let (seconds, rest) = (ahead.div_euclid(second), ahead.rem_euclid(second));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<10} {seconds:10} {rest:9}");
    }
    Ok(())
}

/// Takes up to two lines of a clock, seconds and nanoseconds.
fn store(about: &About<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut offsets = [None; 2];
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n').take(2) {
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().ok_or(Errno::EINVAL);
        let which = match word()? {
            "monotonic" | "1" => 0,
            "boottime" | "7" => 1,
            _ => return Err(Errno::EINVAL),
        };
        let seconds: i64 = word()?.parse().map_err(|_| Errno::EINVAL)?;
        let rest: i64 = word()?.parse().map_err(|_| Errno::EINVAL)?;
        if !(0..SECOND as i64).contains(&rest) {
            return Err(Errno::EINVAL);
        }
        if let Some(place) = offsets.get_mut(which) {
            *place = Some((seconds, rest));
        }
    }
    let ns = namespace(about)?;
    if !about.cx.creds.ns_capable(&ns.owner, cap::SYS_TIME) {
        return Err(Errno::EPERM);
    }
    let mut ahead = [None; 2];
    for (to, (seconds, rest)) in ahead.iter_mut().zip(offsets).filter_map(|(to, o)| Some((to, o?)))
    {
        if !(-MAX_SECONDS..=MAX_SECONDS).contains(&seconds) {
            return Err(Errno::ERANGE);
        }
        *to = Some(in_range(seconds.saturating_mul(SECOND as i64).saturating_add(rest))?);
    }
    let [monotonic, boottime] = ahead;
    ns.set(monotonic, boottime)
}
