//! Who comes first: a process's place before the OOM killer, the disk and the CPU.

use oci_spec::runtime::{IOPriorityClass, LinuxIOPriority, LinuxSchedulerPolicy, Scheduler};

use super::Invalid;

/// `process.oomScoreAdj`.
pub fn oom_score_adj(adj: Option<i32>) -> Result<Option<i32>, Invalid> {
    match adj {
        Some(adj) if !(-1000..=1000).contains(&adj) => {
            Err(Invalid::new("process.oomScoreAdj", format!("{adj} is not from -1000 to 1000")))
        }
        adj => Ok(adj),
    }
}

/// `process.ioPriority`, as ioprio_set(2) takes it.
pub fn io_priority(io: &LinuxIOPriority) -> Result<u32, Invalid> {
    const SHIFT: u32 = 13;
    let class = match io.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(io.priority()) {
        Ok(level @ 0..8) => Ok(class << SHIFT | level),
        _ => {
            let reason = format!("{} is not from 0 to 7", io.priority());
            Err(Invalid::new("process.ioPriority.priority", reason))
        }
    }
}

/// `process.scheduler`.
pub fn scheduler(scheduler: &Scheduler) -> Result<sentry::control::Scheduler, Invalid> {
    let invalid = |field: &str, reason: String| {
        Err(Invalid::new(format!("process.scheduler.{field}"), reason))
    };
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIdle => 5,
        other @ (LinuxSchedulerPolicy::SchedIso | LinuxSchedulerPolicy::SchedDeadline) => {
            return invalid("policy", format!("{other} is not supported"));
        }
    };
    if scheduler.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return invalid("flags", "none is supported".into());
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    if times.iter().any(|time| time.is_some_and(|time| time != 0)) {
        return invalid("runtime", "is for SCHED_DEADLINE, which is not supported".into());
    }
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return invalid("nice", format!("{nice} is not from -20 to 19"));
    }
    let range = if policy == 1 || policy == 2 { 1..=99 } else { 0..=0 };
    match u32::try_from(scheduler.priority().unwrap_or(0)) {
        Ok(priority) if range.contains(&priority) => {
            Ok(sentry::control::Scheduler { policy, nice, priority })
        }
        _ => invalid("priority", format!("not from {} to {}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let said = |value: Value| scheduler(&serde_json::from_value(value).unwrap());
        let rr = json!({ "policy": "SCHED_RR", "priority": 7 });
        let expected = sentry::control::Scheduler { policy: 2, nice: 0, priority: 7 };
        assert_eq!(said(rr).unwrap(), expected);
        for (value, expected) in [
            (json!({ "policy": "SCHED_RR" }), "process.scheduler.priority: not from 1 to 99"),
            (json!({ "policy": "SCHED_OTHER", "priority": 1 }), "process.scheduler.priority"),
            (json!({ "policy": "SCHED_OTHER", "nice": 20 }), "process.scheduler.nice"),
            (json!({ "policy": "SCHED_DEADLINE" }), "process.scheduler.policy: SCHED_DEADLINE"),
        ] {
            let error = said(value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let io = |priority: i64| {
            let io = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": priority });
            io_priority(&serde_json::from_value(io).unwrap())
        };
        assert_eq!(io(4).unwrap(), 3 << 13 | 4);
        assert!(io(8).is_err() && io(-1).is_err());
        assert!(oom_score_adj(Some(1001)).is_err());
    }
}
