//! A container's own filter (`linux.seccomp`): what a process in it finds that every call comes to, under runc and here.

use sentry::syscall::CALLS;
use serde_json::{Value, json};

use super::{Context, Outcome, Test, ensure};
use crate::bundle::{self, Bundle};

pub(super) const TESTS: &[Test] = &[
    ("seccomp/actions", actions),
    ("seccomp/conditions", conditions),
    ("seccomp/newer-calls", newer_calls),
    ("seccomp/of-a-deny-by-default-profile", deny_by_default),
    ("seccomp/of-exec-too", of_exec_too),
    ("seccomp/refused", refused),
];

const PROGRAM: &str = "/programs/static/filtered";

fn config(profile: &Value, calls: &[&str]) -> Value {
    let argv: Vec<&str> = [PROGRAM].iter().chain(calls).copied().collect();
    let mut config = bundle::config(&argv, &[]);
    config["linux"]["seccomp"] = profile.clone();
    config
}

/// Under this profile, these calls come to this.
fn under(c: &Context, profile: &Value, calls: &[(&str, &str)]) -> Outcome {
    let argv: Vec<&str> = calls.iter().map(|(call, _)| *call).collect();
    let config = config(profile, &argv);
    let _bundle = Bundle::new(&c.path("b"), &c.place.roots.join("programs"), &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    let expected: String =
        calls.iter().map(|(call, result)| format!("{call}: {result}\n")).collect();
    let expected = format!("{expected}NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n");
    ensure!(done.out() == expected, "should be:\n{expected}\nis:\n{}", done.out());
    Ok(())
}

/// Every action that needs nobody else, of a call and by default.
fn actions(c: &Context) -> Outcome {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            { "names": ["getppid", "nosuchcall"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["sched_yield"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 },
            { "names": ["getuid"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["geteuid"], "action": "SCMP_ACT_KILL_THREAD" },
            { "names": ["getgid"], "action": "SCMP_ACT_KILL" },
            { "names": ["getegid"], "action": "SCMP_ACT_TRAP" },
            { "names": ["umask"], "action": "SCMP_ACT_TRACE", "errnoRet": 9 },
            { "names": ["getpgrp"], "action": "SCMP_ACT_LOG" },
            { "names": ["alarm"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0 },
        ],
    });
    let calls = [
        ("39", "done"),
        ("110", "EPERM"),
        ("24", "EIO"),
        ("102", "signal 31"),
        ("107", "signal 31"),
        ("104", "signal 31"),
        ("108", "signal 31"),
        ("95", "ENOSYS"),
        ("111", "done"),
        ("37,100", "done"),
        ("500", "ENOSYS"),
    ];
    under(c, &profile, &calls)?;
    under(c, &json!({ "defaultAction": "SCMP_ACT_ALLOW" }), &[("39", "done")])
}

/// Whether a comparison of an argument with a value does.
type Holds = fn(u64, u64) -> bool;

/// Comparisons of 64 bits (of calls that have no arguments); conditions and rules that are several.
fn conditions(c: &Context) -> Outcome {
    let wide: u64 = 0x1_0000_0005;
    let one = |name: &str, op: &str| {
        json!({ "names": [name], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": 0, "value": wide, "op": format!("SCMP_CMP_{op}") }] })
    };
    let two = |errno: u32, args: Value| json!({ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args });
    let equal =
        |index: u32, value: u32| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    let masked = json!({ "index": 1, "value": 0xf0, "valueTwo": 0x1f, "op": "SCMP_CMP_MASKED_EQ" });
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            one("getppid", "NE"), one("getuid", "LT"), one("geteuid", "LE"),
            one("getgid", "GE"),
            { "names": ["getegid"], "action": "SCMP_ACT_ERRNO", "args": [masked] },
            two(7, json!([equal(1, 0), equal(0, 0)])), two(8, json!([equal(1, 5)])),
            // Either of those on one argument.
            { "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [equal(0, 0), equal(0, 1)] },
            // One that covers others, whichever comes first.
            { "names": ["tgkill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [equal(0, 0)] },
            { "names": ["tgkill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 8 },
        ],
    });
    let refused = |refused: bool| if refused { "EPERM" } else { "done" };
    let values = [0, 6, wide - 1, wide, wide + 1, 2 << 32, u64::MAX];
    let tests: [(u32, Holds); 4] =
        [(110, |n, v| n != v), (102, |n, v| n < v), (107, |n, v| n <= v), (104, |n, v| n >= v)];
    let mut calls: Vec<(String, &str)> = Vec::new();
    for (number, holds) in tests {
        calls.extend(values.map(|n| (format!("{number},{}", n as i64), refused(holds(n, wide)))));
    }
    calls.extend(
        [0, 0x10, 0x11, 0x100_0010, 0x20]
            .map(|n| (format!("108,0,{n}"), refused(n & 0xf0 == 0x10))),
    );
    let more = [
        ("24", "done"),
        ("62,0,0", "E2BIG"),
        ("62,0,99", "EINVAL"),
        ("62,5,5", "ENOEXEC"),
        ("140,0,0", "EPERM"),
        ("140,1,0", "EPERM"),
        ("140,2,0", "done"),
        ("234,0,0,0", "ENOEXEC"),
        ("234,1,1,0", "ENOEXEC"),
    ];
    calls.extend(more.map(|(call, result)| (call.to_owned(), result)));
    let calls: Vec<(&str, &str)> =
        calls.iter().map(|(call, result)| (call.as_str(), *result)).collect();
    under(c, &profile, &calls)
}

/// Names of calls that a program and runc's own preparations need.
fn needed() -> Vec<&'static str> {
    let not = ["settimeofday", "mknod", "openat2", "faccessat2", "close_range", "chroot"];
    let all = CALLS.iter().filter(|call| call.number < 439);
    all.map(|call| call.name).filter(|name| !not.contains(name)).collect()
}

/// Calls beyond all that a profile names are not there, unless it allows what it does not name.
fn newer_calls(c: &Context) -> Outcome {
    let allow = json!({ "names": needed(), "action": "SCMP_ACT_ALLOW" });
    let profile = |default: &str, errno: u32, architectures: Value| json!({ "defaultAction": default, "defaultErrnoRet": errno, "architectures": architectures, "syscalls": [allow] });
    let three = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let native = json!(["SCMP_ARCH_X86_64"]);
    for (profile, old, new) in [
        (profile("SCMP_ACT_ERRNO", 1, three), "EPERM", "ENOSYS"),
        (profile("SCMP_ACT_ERRNO", 1, json!([])), "EPERM", "EPERM"),
        (profile("SCMP_ACT_ERRNO", 28, native.clone()), "ENOSPC", "ENOSYS"),
        (profile("SCMP_ACT_KILL_PROCESS", 1, native.clone()), "signal 31", "ENOSYS"),
        (profile("SCMP_ACT_TRAP", 1, native), "signal 31", "ENOSYS"),
    ] {
        let calls = [
            ("39", "done"),
            ("164", old),
            ("133", old),
            ("437,-1", old),
            ("439,-1", new),
            ("450", new),
            ("470", new),
            ("999999", new),
        ];
        under(c, &profile, &calls)?;
    }
    Ok(())
}

/// A profile in the manner of those that engines give containers: names of other architectures, calls for some arguments
/// only, and one that is to look missing so that the C library takes another.
fn profile_of_an_engine() -> Value {
    let some = |name: &str, op: &str, value: u64| {
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "errnoRet": 1,
            "args": [{ "index": 0, "value": value, "valueTwo": 0, "op": format!("SCMP_CMP_{op}") }] })
    };
    let not = [
        "acct",
        "add_key",
        "bpf",
        "clone",
        "clone3",
        "clock_settime",
        "keyctl",
        "mount",
        "open_by_handle_at",
        "personality",
        "reboot",
        "request_key",
        "settimeofday",
        "setns",
        "socket",
        "swapon",
        "umount2",
        "unshare",
        "userfaultfd",
    ];
    let names: Vec<&str> = CALLS
        .iter()
        .map(|call| call.name)
        .filter(|name| !not.contains(name))
        .chain(["_llseek", "arm_fadvise64_64", "fstatat64", "s390_pci_mmio_read", "socketcall"])
        .collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            { "names": names, "action": "SCMP_ACT_ALLOW" },
            some("socket", "NE", 40),
            some("personality", "EQ", 0),
            some("personality", "EQ", 8),
            some("personality", "EQ", 0x2_0000),
            some("personality", "EQ", 0xffff_ffff),
            some("clone", "MASKED_EQ", 0x7e02_0000),
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
        ],
    })
}

fn deny_by_default(c: &Context) -> Outcome {
    let calls = [
        ("39", "done"),
        ("41,40,1", "EPERM"),
        ("41,1,1", "done"),
        ("135,0", "done"),
        ("135,8", "done"),
        ("135,0xffffffff", "done"),
        ("135,1", "EPERM"),
        ("163", "EPERM"),
        ("165", "EPERM"),
        ("272,0x20000", "EPERM"),
        ("56,0x10000000", "EPERM"),
        ("435", "ENOSYS"),
        ("248", "EPERM"),
        ("308,-1", "EPERM"),
        ("323,0", "EPERM"),
    ];
    under(c, &profile_of_an_engine(), &calls)
}

/// Whoever is executed later is under the same filter, and so are its children.
fn of_exec_too(c: &Context) -> Outcome {
    let mut config = config(&profile_of_an_engine(), &[]);
    config["process"]["args"] = json!(["/bin/sh", "-c", "sleep 1000"]);
    config["process"]["noNewPrivileges"] = json!(false);
    let _bundle = c.bundle_with("b", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    let script = "grep Seccomp: /proc/self/status; (unshare -m true 2>&1; hostname x 2>&1; echo $?) | tail -n 2; id -u";
    let done = c.must(&["exec", "x", "sh", "-c", script])?;
    let out = done.out();
    ensure!(out.starts_with("Seccomp:\t2\n") && out.contains("Operation not permitted"), "{out}");
    c.must(&["kill", "x", "KILL"])?;
    c.await_status("x", "stopped")?;
    c.must(&["delete", "x"])?;
    Ok(())
}

/// What cannot be done is said by name, before anything is made.
fn refused(c: &Context) -> Outcome {
    // runc says some of it only once the container's init has begun.
    c.only_ringwall()?;
    let root = c.place.roots.join("programs");
    let rule = |action: &str, rest: Value| {
        let mut rule = json!({ "names": ["umask"], "action": action });
        if let (Some(rule), Some(rest)) = (rule.as_object_mut(), rest.as_object()) {
            rule.extend(rest.clone());
        }
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })
    };
    let mut listener = rule("SCMP_ACT_ERRNO", json!({}));
    listener["listenerPath"] = json!("/run/listener");
    for (profile, expected) in [
        (rule("SCMP_ACT_NOTIFY", json!({})), "linux.seccomp.syscalls[0]: SCMP_ACT_NOTIFY"),
        (listener, "linux.seccomp.listenerPath: /run/listener"),
        (rule("SCMP_ACT_OTHER", json!({})), "linux.seccomp.syscalls[0].action"),
        (
            rule(
                "SCMP_ACT_ERRNO",
                json!({ "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }),
            ),
            "linux.seccomp.syscalls[0]: syscalls only have up to 6 arguments",
        ),
    ] {
        let _bundle = Bundle::new(&c.path("b"), &root, &config(&profile, &[]))?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        let err = done.err();
        ensure!(
            done.end.shell_status() == Some(1) && err.contains(expected),
            "{}: {err}",
            done.end
        );
    }
    // A filter that lets nobody begin.
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7 }],
    });
    let _bundle = Bundle::new(&c.path("b"), &root, &config(&profile, &[]))?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    let err = done.err();
    ensure!(!done.ok() && err.contains("argument list too long"), "{}: {err}", done.end);
    Ok(())
}
