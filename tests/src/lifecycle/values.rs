//! Fields of a configuration that are values which a process in the container finds.

use serde_json::{Value, json};

use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle;

pub(super) const TESTS: &[Test] = &[
    ("values/oom-score-adj", oom_score_adj),
    ("values/sysctl", sysctl),
    ("values/priorities", priorities),
    ("values/refused", refused),
];

/// What a script prints in a container whose configuration has this in it.
fn prints(c: &Context, script: &str, field: &[&str], value: Value) -> Result<String, Stop> {
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    let mut place = &mut config;
    for name in field {
        place = &mut place[*name];
    }
    *place = value;
    let _bundle = c.bundle_with("b", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    Ok(if done.ok() { done.out() } else { done.err() })
}

fn oom_score_adj(c: &Context) -> Outcome {
    let field = ["process", "oomScoreAdj"];
    let out = prints(c, "cat /proc/self/oom_score_adj; true", &field, json!(345))?;
    ensure!(out == "345\n", "{out}");
    Ok(())
}

fn sysctl(c: &Context) -> Outcome {
    let script = "cat /proc/sys/fs/mqueue/msg_max /proc/sys/kernel/domainname; true";
    let values = json!({ "fs.mqueue.msg_max": "17", "kernel.domainname": "example.org" });
    let out = prints(c, script, &["linux", "sysctl"], values)?;
    ensure!(out == "17\nexample.org\n", "{out}");
    for (name, value) in [("vm.swappiness", "1"), ("kernel.nothing", "1")] {
        let mut values = json!({});
        values[name] = json!(value);
        let err = prints(c, "true", &["linux", "sysctl"], values)?;
        ensure!(err.contains(name) && err.contains("not in a separate kernel namespace"), "{err}");
    }
    Ok(())
}

/// What sched(7) and ioprio_set(2) tell; the runc of the tests does not know these fields.
fn priorities(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let io = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    let out = prints(c, "ionice; true", &["process", "ioPriority"], io)?;
    ensure!(out == "best-effort: prio 6\n", "{out}");
    let scheduler = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    let out = prints(
        c,
        "cut -d ' ' -f 19,41 /proc/self/stat; true",
        &["process", "scheduler"],
        scheduler,
    )?;
    ensure!(out == "5 3\n", "{out}");
    Ok(())
}

fn refused(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let namespaces = json!([
        { "type": "pid" }, { "type": "ipc", "path": "/proc/self/ns/ipc" }, { "type": "uts" },
        { "type": "mount" },
    ]);
    for (field, value, expected) in [
        (["process", "oomScoreAdj"], json!(1001), "process.oomScoreAdj: 1001"),
        (
            ["process", "ioPriority"],
            json!({ "class": "IOPRIO_CLASS_RT", "priority": 8 }),
            "process.ioPriority.priority: 8",
        ),
        (
            ["process", "scheduler"],
            json!({ "policy": "SCHED_DEADLINE" }),
            "process.scheduler.policy",
        ),
        (
            ["linux", "sysctl"],
            json!({ "kernel.shmmni": "1" }),
            "linux.sysctl.kernel.shmmni: \"1\": Permission denied",
        ),
        (["linux", "sysctl"], json!({ "fs.mqueue.none": "1" }), "linux.sysctl.fs.mqueue.none"),
        (["linux", "namespaces"], namespaces, "linux.namespaces[1].path: /proc/self/ns/ipc"),
    ] {
        let err = prints(c, "true", &field, value)?;
        ensure!(err.contains(expected), "{expected:?} is not in {err:?}");
    }
    Ok(())
}
