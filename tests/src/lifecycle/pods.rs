//! Several containers in one sandbox, as containerd and CRI-O ask for them by annotations, and others by paths.

use std::os::unix::net::UnixListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use super::cgroups::{BUSY, processor, used_and_held, uses_a_fifth};
use super::deaths::processes;
use super::{Context, Outcome, Started, Stop, Test, ensure, read_pid, terminals};
use crate::bundle::{self, Bundle};
use crate::process::End;

pub(super) const TESTS: &[Test] = &[
    ("pods/one-sandbox", one_sandbox),
    ("pods/namespaces", namespaces),
    ("pods/crio", crio),
    ("pods/ends", ends),
    ("pods/pod-ends", pod_ends),
    ("pods/pod-deleted", pod_deleted),
    ("pods/by-path", by_path),
    ("pods/by-path-refused", by_path_refused),
    ("pods/stand-in-dies", stand_in_dies),
    ("pods/deleted-unstarted", deleted_unstarted),
    ("pods/failures", failures),
    ("pods/refused", refused),
    ("pods/terminal", terminal),
    ("pods/memory", memory),
    ("pods/memory-of-all", memory_of_all),
    ("pods/memory-given-back", memory_given_back),
    ("pods/quota", quota),
    ("pods/held-back", held_back),
    ("pods/shared-pids", shared_pids),
    ("pods/shared-pids-ends", shared_pids_ends),
    ("pods/shared-pids-of-another", shared_pids_of_another),
];

const KIND: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// The configuration of a pod's first container.
fn first(script: &str) -> Value {
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    config["hostname"] = "the-pod".into();
    config["annotations"] = json!({ KIND: "sandbox", SANDBOX: "pod" });
    mqueue(&mut config);
    config
}

/// That of another one, with the pod's names and IPC.
fn member(script: &str) -> Value {
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    config["annotations"] = json!({ KIND: "container", SANDBOX: "pod" });
    if let Some(config) = config.as_object_mut() {
        config.remove("hostname");
    }
    for namespace in config["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if let Some(kind) = namespace["type"].as_str().filter(|kind| ["ipc", "uts"].contains(kind))
        {
            namespace["path"] = format!("/proc/1/ns/{kind}").into();
        }
    }
    mqueue(&mut config);
    config
}

/// Message queues, where busybox can make them and see them: names of the IPC namespace.
fn mqueue(config: &mut Value) {
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/dev/mqueue");
        mounts.push(json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue" }));
    }
}

/// A pod whose first container sleeps.
fn pod(c: &Context) -> Result<Bundle, Stop> {
    let bundle = c.bundle_with("pod", &first("trap exit TERM; while :; do sleep 1; done"))?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("pod"), "pod"])?;
    Ok(bundle)
}

/// Makes a container of the pod with this name.
fn create(c: &Context, id: &str, config: &Value) -> Result<Bundle, Stop> {
    let bundle = c.bundle_with(id, config)?;
    c.must(&["create", "--bundle", &c.text_path(id), id])?;
    Ok(bundle)
}

fn prints(c: &Context, args: &[&str], expect: &str) -> Outcome {
    let done = c.must(args)?;
    ensure!(done.out() == expect, "{args:?}: {:?}, not {expect:?}", done.out());
    Ok(())
}

/// Our processes of this name.
fn roles(role: &str) -> usize {
    let name = format!("ringwall-{role} ");
    processes().into_iter().filter(|(_, words)| words.starts_with(&name)).count()
}

/// Each has processes, files and a life of its own; the sandbox is one.
fn one_sandbox(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let script = "echo $0 $$; echo mine > /tmp/mine; ls /tmp; exec sleep 1000";
    let (_a, _b) = (create(c, "a", &member(script))?, create(c, "b", &member(script))?);
    ensure!(c.status("a")? == "created", "{}", c.status("a")?);
    ensure!(
        (roles("sentry"), roles("gofer")) == (1, 3),
        "{} and {}",
        roles("sentry"),
        roles("gofer")
    );
    c.must(&["start", "a"])?;
    c.must(&["start", "b"])?;
    prints(c, &["exec", "a", "sh", "-c", "echo a > /tmp/a"], "")?;
    c.eventually("the file of a is there", || {
        Ok(c.must(&["exec", "a", "ls", "/tmp"])?.out() == "a\nmine\n")
    })?;
    c.eventually("the file of b is there", || {
        Ok(c.must(&["exec", "b", "ls", "/tmp"])?.out() == "mine\n")
    })?;
    prints(c, &["exec", "pod", "ls", "/tmp"], "")?;
    // Processes of one are not the other's.
    prints(c, &["exec", "b", "sh", "-c", "kill -0 1 && set -- /proc/[0-9]* && echo $#"], "2\n")?;
    let ps = c.must(&["ps", "--format", "json", "a"])?;
    let listed: Vec<Value> = serde_json::from_slice(&ps.stdout)?;
    ensure!(listed.len() == 1, "{}", ps.out());
    delete_all(c, &["a", "b", "pod"])?;
    ensure!(roles("sentry") == 0, "the sandbox lives");
    Ok(())
}

/// Names and message queues are the pod's where the configuration hands them over, and else not.
fn namespaces(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _a = create(c, "a", &member("sleep 1000"))?;
    let mut own = member("sleep 1000");
    for namespace in own["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if let Some(namespace) = namespace.as_object_mut() {
            namespace.remove("path");
        }
    }
    own["hostname"] = "own".into();
    let _b = create(c, "b", &own)?;
    prints(c, &["exec", "a", "hostname"], "the-pod\n")?;
    prints(c, &["exec", "b", "hostname"], "own\n")?;
    c.must(&["exec", "pod", "touch", "/dev/mqueue/queue"])?;
    prints(c, &["exec", "a", "ls", "/dev/mqueue"], "queue\n")?;
    prints(c, &["exec", "b", "ls", "/dev/mqueue"], "")?;
    let same = |id: &str| {
        let script = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts";
        c.must(&["exec", id, "sh", "-c", script])
    };
    let (pod, a, b) = (same("pod")?.out(), same("a")?.out(), same("b")?.out());
    ensure!(pod == a && a != b, "{pod}{a}{b}");
    delete_all(c, &["b", "a", "pod"])
}

/// The container a, whose bundle is there, is not made, and the error says so.
fn refuses_a(c: &Context, words: &str) -> Outcome {
    let done = c.detached(&["create", "--bundle", &c.text_path("a"), "a"])?;
    ensure!(
        done.end == End::Exit(1) && done.err().contains(words),
        "{words:?}: {}: {}",
        done.end,
        done.err()
    );
    Ok(())
}

/// Has a configuration name its namespace of a kind by a path.
fn join(config: &mut Value, kind: &str, path: &str) {
    for namespace in config["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if namespace["type"] == kind {
            namespace["path"] = path.into();
        }
    }
}

/// Deletes containers, running or not.
fn delete_all(c: &Context, ids: &[&str]) -> Outcome {
    for id in ids {
        c.must(&["delete", "--force", id])?;
    }
    Ok(())
}

/// CRI-O's words.
fn crio(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let mut config = member("hostname");
    config["annotations"] = json!({ "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "pod" });
    let _a = c.bundle_with("a", &config)?;
    prints(c, &["run", "--bundle", &c.text_path("a"), "a"], "the-pod\n")?;
    ensure!(roles("sentry") == 1, "{} sandboxes", roles("sentry"));
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// A container ends as its init does, and the others live; its name can be used again.
fn ends(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _b = create(c, "b", &member("trap 'exit 3' TERM; while :; do sleep 1; done"))?;
    c.must(&["start", "b"])?;
    for (script, signal, status) in [("exit 7", None, "7\n"), ("sleep 1000", Some("KILL"), "137\n")]
    {
        let a = c.bundle_with("a", &member(script))?;
        c.must(&["create", "--bundle", &c.text_path("a"), "a"])?;
        c.must(&["start", "a"])?;
        if let Some(signal) = signal {
            c.must(&["kill", "a", signal])?;
        }
        prints(c, &["wait", "a"], status)?;
        c.await_status("a", "stopped")?;
        c.must(&["delete", "a"])?;
        drop(a);
    }
    c.must(&["kill", "b", "TERM"])?;
    prints(c, &["wait", "b"], "3\n")?;
    prints(c, &["exec", "pod", "echo", "alive"], "alive\n")?;
    c.must(&["delete", "b"])?;
    c.must(&["kill", "pod", "TERM"])?;
    prints(c, &["wait", "pod"], "0\n")?;
    c.must(&["delete", "pod"])?;
    Ok(())
}

/// A pod lives on when its first container ends, in order or because its stand-in is killed, and ends with the last.
fn pod_ends(c: &Context) -> Outcome {
    c.only_ringwall()?;
    for how in ["kill", "stand-in"] {
        let _pod = pod(c)?;
        let _a = create(c, "a", &member("trap 'exit 3' TERM; while :; do sleep 0.1; done"))?;
        let _b = create(c, "b", &member("sleep 1000"))?;
        c.must(&["start", "a"])?;
        match how {
            "kill" => drop(c.must(&["kill", "pod", "KILL"])?),
            _ => {
                let pid = c.state("pod")?["pid"].as_i64().unwrap_or(0);
                kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
            }
        }
        c.await_status("pod", "stopped")?;
        prints(c, &["wait", "pod"], "137\n")?;
        prints(c, &["exec", "a", "hostname"], "the-pod\n")?;
        // What has not begun can, and nobody new comes.
        c.must(&["start", "b"])?;
        let done = c.detached(&["create", "--bundle", &c.text_path("a"), "late"])?;
        ensure!(done.end == End::Exit(1) && done.err().contains("is stopped"), "{}", done.err());
        c.must(&["kill", "b", "KILL"])?;
        c.await_status("b", "stopped")?;
        c.must(&["kill", "a", "TERM"])?;
        prints(c, &["wait", "a"], "3\n")?;
        c.eventually("the sandbox ends", || Ok(roles("sentry") == 0))?;
        for id in ["a", "b", "pod"] {
            c.must(&["delete", id])?;
        }
    }
    Ok(())
}

/// The first container of a pod can be deleted before the others, whose sandbox stays in its cgroup; that goes with the last.
fn pod_deleted(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let mut config = first("exec sleep 1000");
    config["linux"]["cgroupsPath"] = "/ringwall-test-pod-deleted/first".into();
    let _pod = c.bundle_with("pod", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("pod"), "pod"])?;
    let _a = create(c, "a", &member("trap 'exit 3' TERM; while :; do sleep 0.1; done"))?;
    c.must(&["start", "a"])?;
    c.must(&["delete", "--force", "pod"])?;
    ensure!(!c.detached(&["state", "pod"])?.ok(), "it is there yet");
    prints(c, &["exec", "a", "hostname"], "the-pod\n")?;
    c.must(&["kill", "a", "TERM"])?;
    prints(c, &["wait", "a"], "3\n")?;
    c.must(&["delete", "a"])?;
    ensure!(roles("sentry") == 0, "the sandbox lives");
    let groups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-path", "*/ringwall-test-pod-deleted/first"])
        .output()?;
    ensure!(groups.stdout.is_empty(), "left: {}", String::from_utf8_lossy(&groups.stdout));
    for place in std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path()) {
        let _absent = std::fs::remove_dir(place.join("ringwall-test-pod-deleted"));
    }
    let _absent = std::fs::remove_dir("/sys/fs/cgroup/ringwall-test-pod-deleted");
    Ok(())
}

/// A configuration without annotations, with namespaces of these kinds of the container `with`.
fn by_paths(c: &Context, with: &[(&str, &str)], script: &str) -> Result<Value, Stop> {
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    if let Some(config) = config.as_object_mut() {
        config.remove("hostname");
    }
    mqueue(&mut config);
    for (kind, id) in with {
        let pid = c.state(id)?["pid"].to_string();
        join(&mut config, kind, &format!("/proc/{pid}/ns/{kind}"));
    }
    Ok(config)
}

/// Without annotations the paths of namespaces lead to the sandbox; each is that of the container which it names.
fn by_path(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _a = create(c, "a", &by_paths(c, &[("ipc", "pod")], "exec sleep 777")?)?;
    c.must(&["start", "a"])?;
    let _b = create(c, "b", &by_paths(c, &[("uts", "pod"), ("pid", "a")], "exec sleep 888")?)?;
    c.must(&["start", "b"])?;
    ensure!(roles("sentry") == 1, "{} sandboxes", roles("sentry"));
    let of =
        |id: &str, kind: &str| c.must(&["exec", id, "readlink", &format!("/proc/self/ns/{kind}")]);
    for (kind, one, other, same) in [
        ("ipc", "a", "pod", true),
        ("ipc", "b", "pod", false),
        ("uts", "a", "pod", false),
        ("uts", "b", "pod", true),
        ("pid", "a", "pod", false),
        ("pid", "b", "a", true),
    ] {
        let (left, right) = (of(one, kind)?.out(), of(other, kind)?.out());
        ensure!((left == right) == same, "{kind} of {one} and {other}: {left}{right}");
    }
    prints(c, &["exec", "b", "hostname"], "the-pod\n")?;
    c.must(&["exec", "pod", "touch", "/dev/mqueue/queue"])?;
    prints(c, &["exec", "a", "ls", "/dev/mqueue"], "queue\n")?;
    c.eventually("b sees a", || Ok(inside(c, "b", &sleepers("777"))? == "1\n"))?;
    delete_all(c, &["b", "a", "pod"])
}

/// A path that leads to no container, to one that has ended, or to two that have nothing to do with each other, is an error
/// that says which.
fn by_path_refused(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _other = c.bundle_with("other", &bundle::config(&["sleep", "1000"], &[]))?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("other"), "other"])?;
    let a = c.bundle_with("a", &bundle::config(&["true"], &[]))?;
    let refused = |config: &Value, words: &str| {
        a.write_config(&config.to_string())?;
        refuses_a(c, words)
    };
    let with = |kind: &str, path: &str| -> Result<Value, Stop> {
        let mut config = by_paths(c, &[], "true")?;
        join(&mut config, kind, path);
        Ok(config)
    };
    for kind in ["ipc", "uts", "pid"] {
        let path = format!("/proc/1/ns/{kind}");
        refused(&with(kind, &path)?, &format!("{path}: not the {kind} namespace of a container"))?;
    }
    let pid = c.state("pod")?["pid"].to_string();
    refused(&with("ipc", &format!("/proc/{pid}/ns/uts"))?, "not the ipc namespace")?;
    refused(&with("mount", &format!("/proc/{pid}/ns/mnt"))?, "cannot be joined")?;
    let both = by_paths(c, &[("ipc", "pod"), ("uts", "other")], "true")?;
    refused(&both, "container other, which is not in the sandbox of container pod")?;
    let late = by_paths(c, &[("ipc", "other")], "true")?;
    c.must(&["delete", "--force", "other"])?;
    refused(&late, "not the ipc namespace")?;
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// Another process of the container `a`, which runs by now.
fn sleeper(c: &Context) -> Result<Started, Stop> {
    let inside = c.start(&["exec", "a", "sh", "-c", "echo in; exec sleep 1000"])?;
    c.eventually("the exec runs", || Ok(inside.out() == "in\n"))?;
    Ok(inside)
}

/// Such a process was killed, and its command says so.
fn was_killed(c: &Context, inside: Started) -> Outcome {
    let done = inside.end(c.limit())?;
    ensure!(
        done.end == End::Exit(137) || done.end == End::Signal(9),
        "exec: {}: {}",
        done.end,
        done.err()
    );
    Ok(())
}

/// A container whose stand-in is killed ends inside, and the others live.
fn stand_in_dies(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _a = c.bundle_with("a", &member("sleep 1000"))?;
    let pid_file = c.text_path("pid");
    c.must(&["run", "--detach", "--bundle", &c.text_path("a"), "--pid-file", &pid_file, "a"])?;
    let inside = sleeper(c)?;
    kill(Pid::from_raw(read_pid(&c.path("pid"))?), Signal::SIGKILL)?;
    was_killed(c, inside)?;
    c.await_status("a", "stopped")?;
    c.must(&["delete", "a"])?;
    // The sandbox forgets it a moment later.
    c.eventually("its name is free", || {
        let done = c.detached(&["create", "--bundle", &c.text_path("a"), "a"])?;
        ensure!(done.ok() || done.err().contains("of this name"), "{}", done.err());
        Ok(done.ok())
    })?;
    prints(c, &["exec", "pod", "echo", "alive"], "alive\n")?;
    c.must(&["delete", "a"])?;
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// What was executed beside an init that never ran ends with its container.
fn deleted_unstarted(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _a = create(c, "a", &member("sleep 1000"))?;
    let inside = sleeper(c)?;
    c.must(&["delete", "a"])?;
    was_killed(c, inside)?;
    prints(c, &["exec", "pod", "echo", "alive"], "alive\n")?;
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// What cannot be made leaves the pod as it was.
fn failures(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let mut config = member("true");
    config["process"]["args"] = json!(["/nowhere"]);
    let _a = c.bundle_with("a", &config)?;
    for _ in 0..3 {
        let done = c.detached(&["create", "--bundle", &c.text_path("a"), "a"])?;
        ensure!(
            done.end == End::Exit(1) && done.err().contains("/nowhere"),
            "{}: {}",
            done.end,
            done.err()
        );
    }
    let done = c.detached(&["state", "a"])?;
    ensure!(done.end == End::Exit(1), "{}", done.out());
    prints(c, &["exec", "pod", "echo", "alive"], "alive\n")?;
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// There must be a pod, and what is asked of it must be possible.
fn refused(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let config = member("true");
    let a = c.bundle_with("a", &config)?;
    refuses_a(c, "container pod, in whose sandbox this one is to be: container does not exist")?;
    let _pod = pod(c)?;
    let mut pids = config.clone();
    join(&mut pids, "pid", "/proc/1/ns/pid");
    a.write_config(&pids.to_string())?;
    refuses_a(c, "/proc/1/ns/pid")?;
    a.write_config(&config.to_string())?;
    c.must(&["kill", "pod", "KILL"])?;
    c.await_status("pod", "stopped")?;
    refuses_a(c, "is stopped")?;
    c.must(&["delete", "pod"])?;
    Ok(())
}

/// A terminal of a container, whose new size finds the right one.
fn terminal(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let mut config =
        member("trap 'stty size; exit' WINCH; stty size; echo ready; while :; do sleep 0.1; done");
    config["process"]["terminal"] = true.into();
    config["process"]["consoleSize"] = json!({ "height": 33, "width": 44 });
    let _a = c.bundle_with("a", &config)?;
    let socket = c.text_path("console");
    let listener = UnixListener::bind(&socket)?;
    c.must(&["create", "--bundle", &c.text_path("a"), "--console-socket", &socket, "a"])?;
    let master = terminals::receive_master(&listener)?;
    c.must(&["start", "a"])?;
    let mut session = terminals::Session::on(c, master);
    let before = session.expect("ready")?;
    ensure!(before.contains("33 44"), "{before:?}");
    let size = Winsize { ws_row: 12, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&session.master, size).map_err(std::io::Error::from)?;
    session.expect("12 99")?;
    prints(c, &["wait", "a"], "0\n")?;
    c.must(&["delete", "a"])?;
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// That of a container which may have so many MiB, and sees its cgroup.
fn limited(script: &str, mib: u64) -> Value {
    let mut config = member(script);
    config["linux"]["resources"]["memory"] = json!({ "limit": mib << 20 });
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }));
    }
    config
}

/// A script that fills so many MiB, says so, and waits.
fn hold(mib: u64) -> String {
    format!(
        "mkfifo /pipe; exec 3<>/pipe; dd if=/dev/zero bs={mib}M count=1 2>/dev/null >/pipe & \
         dd bs=1 count=1 <&3 >/dev/null 2>&1; echo holds; wait $!; echo $?"
    )
}

/// Runs a script in a container.
fn inside(c: &Context, id: &str, script: &str) -> Result<String, Stop> {
    Ok(c.must(&["exec", id, "sh", "-c", script])?.out())
}

/// Shell: the number in the file of the container's memory that has the first name in version 2 of cgroups, and the second
/// in version 1.
fn memory_file(v2: &str, v1: &str) -> String {
    format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/memory/{v1}")
}

/// What a container's memory limit is, what it has of it, and what becomes of it where it has too much, is its own.
fn memory(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _b = c.bundle_with("b", &limited(&hold(70), 128))?;
    let b = c.start(&["run", "--bundle", &c.text_path("b"), "b"])?;
    c.eventually("b holds its memory", || Ok(b.out() == "holds\n"))?;
    let _a = create(c, "a", &limited("exec sleep 1000", 64))?;
    c.must(&["start", "a"])?;
    // It is full, in a fault, in a call and for files; b, which has more, is left alone.
    let eat = "awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'; echo awk $?
        dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo dd $?
        dd if=/dev/zero of=/tmp/file bs=1M count=100 2>/dev/null; echo file $?; rm /tmp/file
        dd if=/dev/zero of=/dev/null bs=40M count=1 2>/dev/null; echo dd $?";
    let out = inside(c, "a", eat)?;
    ensure!(out == "awk 137\ndd 137\nfile 137\ndd 0\n", "{out}");
    ensure!(b.out() == "holds\n", "{}", b.out());
    // What both see of it.
    let total = "grep MemTotal /proc/meminfo | tr -s ' '; free -k | awk 'NR == 2 { print $2 }'";
    let limit = memory_file("memory.max", "memory.limit_in_bytes");
    let out = inside(c, "a", &format!("{total}; {limit}"))?;
    ensure!(out == "MemTotal: 65536 kB\n65536\n67108864\n", "{out}");
    let out = inside(c, "b", &format!("{total}; {limit}"))?;
    ensure!(out == "MemTotal: 131072 kB\n131072\n134217728\n", "{out}");
    let used = |id: &str| -> Result<u64, Stop> {
        let file = memory_file("memory.current", "memory.usage_in_bytes");
        Ok(inside(c, id, &file)?.trim().parse()?)
    };
    let (a_used, b_used) = (used("a")?, used("b")?);
    ensure!(a_used < 24 << 20 && b_used > 70 << 20 && b_used < 100 << 20, "{a_used}, {b_used}");
    let kills = "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null | grep 'oom_kill '";
    let (a_kills, b_kills) = (inside(c, "a", kills)?, inside(c, "b", kills)?);
    ensure!(
        (a_kills.as_str(), b_kills.as_str()) == ("oom_kill 3\n", "oom_kill 0\n"),
        "{a_kills}{b_kills}"
    );
    let stats = |id: &str| -> Result<Value, Stop> {
        let done = c.must(&["events", "--stats", id])?;
        let event: Value = serde_json::from_slice(&done.stdout)?;
        Ok(event["data"]["memory"]["usage"].clone())
    };
    let (a_stats, b_stats) = (stats("a")?, stats("b")?);
    ensure!(a_stats["limit"] == 64 << 20 && b_stats["limit"] == 128 << 20, "{a_stats} {b_stats}");
    ensure!(b_stats["usage"].as_u64() > Some(70 << 20), "{b_stats}");
    // A new limit is its own too.
    c.must(&["update", "--memory", "134217728", "a"])?;
    let done = inside(
        c,
        "a",
        &format!("dd if=/dev/zero of=/dev/null bs=90M count=1 2>/dev/null; echo dd $?; {limit}"),
    )?;
    ensure!(done == "dd 0\n134217728\n", "{done}");
    let done = c.detached(&["update", "--memory", "62914560", "b"])?;
    ensure!(
        done.end == End::Exit(1) && done.err().contains("unable to set memory limit to 62914560"),
        "{}: {}",
        done.end,
        done.err()
    );
    c.must(&["kill", "b", "KILL"])?;
    b.end(c.limit())?;
    delete_all(c, &["a", "b", "pod"])
}

/// Where the pod has a limit too, that is for all together, and at it the biggest is ended, whosever it is.
fn memory_of_all(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let mut config = first("trap exit TERM; while :; do sleep 1; done");
    config["linux"]["resources"]["memory"] = json!({ "limit": 112 << 20 });
    let _pod = c.bundle_with("pod", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("pod"), "pod"])?;
    let _b = c.bundle_with("b", &limited(&hold(64), 100))?;
    let b = c.start(&["run", "--bundle", &c.text_path("b"), "b"])?;
    c.eventually("b holds its memory", || Ok(b.out() == "holds\n"))?;
    let _a = create(c, "a", &limited("exec sleep 1000", 100))?;
    c.must(&["start", "a"])?;
    let out =
        inside(c, "a", "dd if=/dev/zero of=/dev/null bs=56M count=1 2>/dev/null; echo dd $?")?;
    ensure!(out == "dd 0\n", "{out}");
    let done = b.end(c.limit())?;
    ensure!(done.out() == "holds\n137\n", "{}: {}", done.end, done.out());
    delete_all(c, &["a", "b", "pod"])
}

/// What containers that have ended had is there again for others.
fn memory_given_back(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let mut config = first("trap exit TERM; while :; do sleep 1; done");
    config["linux"]["resources"]["memory"] = json!({ "limit": 96 << 20 });
    let _pod = c.bundle_with("pod", &config)?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("pod"), "pod"])?;
    let script = "dd if=/dev/zero of=/tmp/file bs=1M count=40 2>/dev/null; for i in 1 2 3 4; do sleep 1000 & done
        dd if=/dev/zero of=/dev/null bs=20M count=1 2>/dev/null; echo $?";
    let _a = c.bundle_with("a", &limited(script, 80))?;
    for _ in 0..3 {
        prints(c, &["run", "--bundle", &c.text_path("a"), "a"], "0\n")?;
        c.must(&["delete", "--force", "a"])?;
    }
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// That of a container of the pod which may use so many microseconds of a processor in each period of so many.
fn hurried(quota: u64, period: u64) -> Value {
    let mut config = limited(BUSY, 64);
    config["linux"]["resources"]["cpu"] = json!({ "quota": quota, "period": period });
    config
}

/// A quota of processor time is a container's own: another of the pod that never waits either is not held back.
fn quota(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = c.bundle_with("pod", &first("while :; do :; done"))?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("pod"), "pod"])?;
    let (_a, _b) =
        (create(c, "a", &hurried(20_000, 100_000))?, create(c, "b", &limited(BUSY, 64))?);
    c.must(&["start", "a"])?;
    c.must(&["start", "b"])?;
    c.eventually("a is held back", || Ok(used_and_held(c, "a")?.1 > 1))?;
    let before = [used_and_held(c, "pod")?, used_and_held(c, "b")?];
    uses_a_fifth(c, "a")?;
    let after = [used_and_held(c, "pod")?, used_and_held(c, "b")?];
    for ((used_before, held_before), (used, held)) in before.into_iter().zip(after) {
        ensure!((held_before, held) == (0, 0), "one without a quota is held back");
        ensure!(used > used_before, "one without a quota does nothing");
    }
    // As it is told inside.
    let file = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.stat";
    let out = inside(c, "a", file)?;
    ensure!(out.lines().any(|l| l.starts_with("nr_throttled ") && l != "nr_throttled 0"), "{out}");
    let out = inside(c, "b", file)?;
    ensure!(out.lines().any(|line| line == "nr_throttled 0"), "{out}");
    c.must(&["update", "--cpu-quota", "20000", "b"])?;
    c.eventually("b is held back", || Ok(used_and_held(c, "b")?.1 > 1))?;
    uses_a_fifth(c, "b")?;
    c.must(&["update", "--cpu-quota", "-1", "a"])?;
    let (_, held) = used_and_held(c, "a")?;
    // One whose tasks wait is not counted.
    c.must(&["update", "--cpu-quota", "20000", "b"])?;
    c.must(&["pause", "b"])?;
    let periods = || Ok::<Value, Stop>(processor(c, "b")?["throttling"]["periods"].clone());
    let mut last = periods()?;
    c.eventually("nobody looks at b", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let before = std::mem::replace(&mut last, periods()?);
        Ok(last == before)
    })?;
    c.must(&["resume", "b"])?;
    c.eventually("b is looked at", || Ok(periods()? != last))?;
    ensure!(used_and_held(c, "a")?.1 == held, "a is held back without a quota");
    delete_all(c, &["a", "b", "pod"])
}

/// What is held back for its processor time, and will be for long, is paused, looked at, stopped and killed at once.
fn held_back(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let (_a, _b) =
        (create(c, "a", &hurried(20_000, 100_000))?, create(c, "b", &hurried(20_000, 100_000))?);
    // A hundredth, and no less: what a container has on the host has no more time either.
    let hundredth =
        |id: &str| c.must(&["update", "--cpu-quota", "10000", "--cpu-period", "1000000", id]);
    for id in ["a", "b"] {
        c.must(&["start", id])?;
        hundredth(id)?;
        let (_, before) = used_and_held(c, id)?;
        c.eventually("it is held back", || Ok(used_and_held(c, id)?.1 > before + 1))?;
    }
    c.must(&["pause", "a"])?;
    ensure!(c.status("a")? == "paused", "{}", c.status("a")?);
    c.must(&["resume", "a"])?;
    for command in ["ps", "debug"] {
        let done = c.must(&[command, "a"])?;
        ensure!(done.out().contains("sh"), "{command}: {}", done.out());
    }
    c.must(&["kill", "a", "STOP"])?;
    c.must(&["kill", "a", "CONT"])?;
    c.must(&["kill", "a", "KILL"])?;
    prints(c, &["wait", "a"], "137\n")?;
    c.must(&["update", "--cpu-quota", "-1", "b"])?;
    let (before, _) = used_and_held(c, "b")?;
    c.eventually("b goes on", || Ok(used_and_held(c, "b")?.0 > before + 100_000_000))?;
    // It is held when it ends.
    hundredth("b")?;
    c.must(&["delete", "--force", "b"])?;
    c.must(&["delete", "a"])?;
    c.must(&["delete", "--force", "pod"])?;
    Ok(())
}

/// That of one which is in the pid namespace of the container `with`, as `shareProcessNamespace` has it.
fn sharing(c: &Context, with: &str, script: &str) -> Result<Value, Stop> {
    let pid = c.state(with)?["pid"].to_string();
    let mut config = member(script);
    join(&mut config, "pid", &format!("/proc/{pid}/ns/pid"));
    Ok(config)
}

/// Shell: the processes that are seen and sleep so long, in digits that it begins with.
fn sleeping(seconds: &str) -> String {
    format!("ps | awk '$3 == \"sleep\" && $4 ~ /^{seconds}/ {{ print $1 }}'")
}

/// Shell: how many they are.
fn sleepers(seconds: &str) -> String {
    format!("{} | wc -l", sleeping(seconds))
}

/// Containers that share a pid namespace see each other's processes; commands are about their own.
fn shared_pids(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let script =
        "[ $$ -gt 1 ] && echo not 1; sleep 777 & echo ready; wait; echo waited; exec sleep 1000";
    let mut config = sharing(c, "pod", script)?;
    config["linux"]["resources"]["pids"] = json!({ "limit": 8 });
    let _a = c.bundle_with("a", &config)?;
    let a = c.start(&["run", "--bundle", &c.text_path("a"), "a"])?;
    c.eventually("a runs", || Ok(a.out() == "not 1\nready\n"))?;
    let _b = create(c, "b", &sharing(c, "pod", "exec sleep 888")?)?;
    c.must(&["start", "b"])?;
    // Everybody sees all, the pod's init first of them.
    let all = format!("{}; {}; cat /proc/1/comm", sleepers("777"), sleepers("888"));
    for id in ["a", "b", "pod"] {
        c.eventually("all processes are seen", || Ok(inside(c, id, &all)? == "1\n1\nsh\n"))?;
    }
    let same = "for p in self 1; do readlink /proc/$p/ns/pid; done | uniq | wc -l";
    let out = inside(c, "a", &format!("{same}; {}", sleepers("[78]")))?;
    ensure!(out == "1\n2\n", "{out}");
    // `ps` lists what is the container's.
    let listed = |id: &str| -> Result<usize, Stop> {
        Ok(c.must(&["ps", id])?.out().lines().skip(1).count())
    };
    let (a_count, b_count) = (listed("a")?, listed("b")?);
    ensure!((a_count, b_count) == (2, 1), "{a_count} {b_count}");
    // So is its limit.
    let forks = "for i in 1 2 3 4 5 6 7 8; do sleep 55 & done";
    let end = format!("kill $({})", sleeping("55"));
    let fork = format!("sh -c '{forks}' 2>/tmp/err; grep -c \"can't fork\" /tmp/err");
    let out = inside(c, "a", &fork)?;
    ensure!(out == "1\n", "{out}");
    // From where there is room to look for them.
    inside(c, "pod", &end)?;
    let out = inside(c, "b", &format!("{forks}; {end}; echo forked"))?;
    ensure!(out == "forked\n", "{out}");
    inside(c, "pod", &format!("kill $({})", sleeping("777")))?;
    c.eventually("a's child has ended", || Ok(a.out().contains("waited")))?;
    c.eventually("a's init sleeps", || Ok(inside(c, "pod", &sleepers("1000"))? == "1\n"))?;
    // A signal from one container ends the other, by the number that both see.
    inside(c, "pod", &format!("kill -9 $({})", sleeping("1000")))?;
    let done = a.end(c.limit())?;
    ensure!(done.end.shell_status() == Some(137), "{}: {}", done.end, done.err());
    delete_all(c, &["a", "b", "pod"])
}

/// With its init a container ends, whatever else runs in it, and others that share its pid namespace live; with the one whose
/// namespace it is all end, those too that were never started.
fn shared_pids_ends(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _b = create(c, "b", &sharing(c, "pod", "exec sleep 888")?)?;
    c.must(&["start", "b"])?;
    let _a = c.bundle_with("a", &sharing(c, "pod", "(setsid sleep 777 &); exec sleep 1000")?)?;
    for how in ["signal", "exit", "delete", "stand-in"] {
        c.must(&["create", "--bundle", &c.text_path("a"), "a"])?;
        if how != "delete" {
            c.must(&["start", "a"])?;
            c.eventually("its processes are there", || {
                Ok(inside(c, "b", &sleepers("777"))? == "1\n")
            })?;
        }
        let beside = sleeper(c)?;
        match how {
            "signal" => drop(c.must(&["kill", "a", "KILL"])?),
            "exit" => drop(inside(c, "b", &format!("kill $({} | head -1)", sleeping("1000")))?),
            "delete" => {}
            _ => {
                let pid = c.state("a")?["pid"].as_i64().unwrap_or(0);
                kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
            }
        }
        if how == "delete" {
            c.must(&["delete", "a"])?;
        } else {
            c.await_status("a", "stopped")?;
            c.must(&["delete", "a"])?;
        }
        was_killed(c, beside)?;
        c.eventually("all of it has ended", || {
            Ok(inside(c, "b", &format!("{}; {}", sleepers("777"), sleepers("1000")))? == "0\n0\n")
        })?;
        ensure!(c.status("b")? == "running" && c.status("pod")? == "running", "{how}");
        prints(c, &["exec", "pod", "echo", "alive"], "alive\n")?;
        // The sandbox forgets it a moment later.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    c.must(&["create", "--bundle", &c.text_path("a"), "a"])?;
    c.must(&["kill", "pod", "KILL"])?;
    c.await_status("pod", "stopped")?;
    prints(c, &["wait", "b"], "137\n")?;
    ensure!(c.status("a")? == "stopped", "{}", c.status("a")?);
    ensure!(roles("sandbox") == 0, "the sandbox lives");
    for id in ["a", "b", "pod"] {
        c.must(&["delete", id])?;
    }
    Ok(())
}

/// The pid namespace may be that of another container of the pod, as for a debugger's; with that one it ends.
fn shared_pids_of_another(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _pod = pod(c)?;
    let _a = create(c, "a", &member("exec sleep 777"))?;
    c.must(&["start", "a"])?;
    let _b = c.bundle_with("b", &sharing(c, "a", "echo runs; exec sleep 888")?)?;
    let b = c.start(&["run", "--bundle", &c.text_path("b"), "b"])?;
    c.eventually("b runs", || Ok(b.out() == "runs\n"))?;
    let out = inside(c, "b", "tr '\\0' ' ' < /proc/1/cmdline; echo; ls /proc/1/root/bin/sh")?;
    ensure!(out == "sleep 777 \n/proc/1/root/bin/sh\n", "{out}");
    ensure!(inside(c, "pod", &sleepers("[78]"))? == "0\n", "the pod sees them");
    c.must(&["kill", "a", "KILL"])?;
    let done = b.end(c.limit())?;
    ensure!(done.end.shell_status() == Some(137), "{}: {}", done.end, done.err());
    c.await_status("a", "stopped")?;
    prints(c, &["exec", "pod", "echo", "alive"], "alive\n")?;
    delete_all(c, &["a", "b", "pod"])
}
