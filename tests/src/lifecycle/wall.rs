//! The wall's promises, read on the host from /proc of a running container's processes, and what `check --wall` says.
//!
//! What the processes may have open, and which system calls they may make, is what `check --wall` prints; that the threads
//! have those filters is seen in that they have one at all, and in that the rest of these tests work.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::makedev;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::deaths::{processes, running};
use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle;

pub(super) const TESTS: &[Test] = &[
    ("wall/sandbox", sandbox),
    ("wall/gofer", gofer),
    ("wall/gofer-of-device-makers", gofer_of_device_makers),
    ("wall/gofer-with-hooks", gofer_with_hooks),
    ("wall/stubs", stubs),
    ("wall/check", check),
    ("wall/rootless", rootless),
    ("wall/rootless-without-namespaces", without_namespaces),
    ("wall/links-out-of-the-root", links_out),
    ("wall/swapped-paths", swapped_paths),
    ("wall/own-binary", own_binary),
];

const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

/// A container that sleeps, after it has read some files, and without the right to make device nodes.
fn sleeper(c: &Context) -> Result<bundle::Bundle, Stop> {
    let mut config = bundle::config(&["sh", "-c", "cat /bin/busybox >/dev/null; sleep 1000"], &[]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
    }
    let made = c.bundle_with("b", &config)?;
    running(c)?;
    Ok(made)
}

/// The container's process with this argument.
fn find(role: &str) -> Result<i32, Stop> {
    let found = processes().into_iter().find(|(_, name)| name.contains(&format!(" {role} ")));
    found.map(|(pid, _)| pid).ok_or_else(|| Stop::Failed(format!("no {role}: {:?}", processes())))
}

/// The container's process with this name.
fn named(name: &str) -> Result<i32, Stop> {
    let found = processes().into_iter().find(|(_, words)| words.starts_with(&format!("{name} ")));
    found.map(|(pid, _)| pid).ok_or_else(|| Stop::Failed(format!("no {name}: {:?}", processes())))
}

fn namespace(pid: &str, kind: &str) -> Result<String, Stop> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{kind}"))?.display().to_string())
}

/// The fields of a status file.
fn status(path: &Path) -> Result<BTreeMap<String, String>, Stop> {
    let text = fs::read_to_string(path.join("status"))?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
}

/// Every thread: no capability in any set but these, none to be gained, and a filter.
fn threads_are_confined(pid: i32, capabilities: u64) -> Outcome {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let status = status(&path)?;
        let of = |key: &str| status.get(key).map_or("", String::as_str);
        let (name, show) = (of("Name"), path.display());
        ensure!(of("Seccomp") == "2", "{show} ({name}): no filter");
        ensure!(of("NoNewPrivs") == "1", "{show} ({name}): it may gain privileges");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let has = u64::from_str_radix(of(set), 16).unwrap_or(u64::MAX);
            ensure!(has & !capabilities == 0, "{show} ({name}): {set} is {has:#x}");
        }
    }
    Ok(())
}

/// The soft and hard limit, as the kernel prints them.
fn limit(pid: i32, name: &str) -> Result<(String, String), Stop> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut words = line.split_whitespace().map(str::to_owned);
    Ok((words.next().unwrap_or_default(), words.next().unwrap_or_default()))
}

fn bounded(pid: i32, name: &str, most: u64) -> Outcome {
    let (soft, hard) = limit(pid, name)?;
    for value in [&soft, &hard] {
        ensure!(value.parse().is_ok_and(|n: u64| n <= most), "{name}: {soft} {hard}");
    }
    Ok(())
}

/// What `check --wall` says of a process.
fn told(c: &Context, process: &str) -> Result<Value, Stop> {
    let report: Value = serde_json::from_slice(&c.must(&["check", "--wall", "--json"])?.stdout)?;
    let all = report["processes"].as_array().cloned().unwrap_or_default();
    all.into_iter()
        .find(|one| one["name"] == process)
        .ok_or_else(|| Stop::Failed(format!("nothing of {process} in {report}")))
}

/// Its descriptors are of the kinds that `check --wall` names. Those without a form of their own are regular files and
/// folders, never devices, and below these folders or the streams that the container was given.
fn descriptors(c: &Context, pid: i32, process: &str) -> Outcome {
    let kinds = told(c, process)?["descriptors"].clone();
    let shown: Vec<String> = kinds
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|kind| kind["shown"].as_str().map(str::to_owned))
        .collect();
    ensure!(!shown.is_empty(), "no list of descriptors: {kinds}");
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let Ok(target) = fs::read_link(&path) else { continue };
        let target = target.display().to_string();
        // As whoever started the container gave it.
        let stream = target == "/dev/null";
        if stream || shown.iter().any(|begin| target.starts_with(begin)) {
            continue;
        }
        let Ok(file) = fs::metadata(&path) else { continue };
        let kind = file.file_type();
        let device = kind.is_char_device() || kind.is_block_device();
        ensure!(!device && target.starts_with('/'), "{process}: {} is {target}", path.display());
    }
    Ok(())
}

fn mounts(pid: i32) -> Result<Vec<String>, Stop> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    // Mount point, its options, and the file system.
    let fields = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let kind = words.iter().position(|word| *word == "-").and_then(|at| words.get(at + 1));
        Some(format!("{} {} {}", words.get(4)?, words.get(5)?, kind?))
    };
    Ok(text.lines().filter_map(fields).collect())
}

fn sandbox(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = sleeper(c)?;
    let (pid, gofer) = (find("sandbox")?, find("gofer")?);
    for kind in NAMESPACES {
        let own = namespace(&pid.to_string(), kind)?;
        ensure!(own != namespace("self", kind)?, "it is in the host's {kind} namespace");
        ensure!(
            own != namespace(&gofer.to_string(), kind)?,
            "it is in the gofer's {kind} namespace"
        );
    }
    threads_are_confined(pid, 0)?;
    let process = format!("/proc/{pid}");
    let status = status(Path::new(&process))?;
    let nobody = ["65534"; 4].join("\t");
    for (key, expect) in [("Uid", nobody.as_str()), ("Gid", &nobody), ("Groups", "")] {
        let has = status.get(key).map_or("", String::as_str);
        ensure!(has == expect, "{key}: {has:?}");
    }
    for map in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(format!("{process}/{map}"))?;
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure!(words == ["65534", "65534", "1"], "{map}: {text}");
    }
    // proc(5): what is not dumpable belongs to root there, whoever runs it.
    let owner = fs::metadata(format!("{process}/environ"))?.uid();
    ensure!(owner == 0, "it can be dumped: its files in /proc are {owner}'s");
    bounded(pid, "Max core file size", 0)?;
    bounded(pid, "Max open files", 64 << 10)?;
    bounded(pid, "Max address space", 1 << 40)?;
    bounded(pid, "Max locked memory", 0)?;
    let mounts = mounts(pid)?;
    let read_only = |mount: &String| {
        mount.starts_with("/ ro,")
            && mount.contains("nosuid,nodev,noexec")
            && mount.ends_with(" tmpfs")
    };
    ensure!(mounts.len() == 1 && mounts.iter().all(read_only), "mounts: {mounts:?}");
    let root = fs::read_dir(format!("{process}/root"))?.count();
    ensure!(root == 0, "its root has {root} entries");
    let platform = c.place.runtime.platform.clone().unwrap_or_default();
    descriptors(c, pid, &format!("sandbox on {platform}"))?;
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// The capabilities that serving files takes: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP (capabilities(7)).
const FILES: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31;

fn gofer(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = sleeper(c)?;
    let pid = find("gofer")?;
    for kind in NAMESPACES {
        let own = namespace(&pid.to_string(), kind)?;
        ensure!(own != namespace("self", kind)?, "it is in the host's {kind} namespace");
    }
    threads_are_confined(pid, FILES)?;
    bounded(pid, "Max core file size", 0)?;
    bounded(pid, "Max address space", 1 << 30)?;
    let mounts = mounts(pid)?;
    let alone = mounts.len() == 2
        && mounts.iter().any(|m| m.starts_with("/ ro,") && m.ends_with(" tmpfs"))
        && mounts.iter().any(|m| m.starts_with("/fd ") && m.ends_with(" proc"));
    ensure!(alone, "mounts: {mounts:?}");
    descriptors(c, pid, "gofer")?;
    // The container's files are there through restricted mounts.
    let mut served = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let Ok(file) = fs::metadata(&path) else { continue };
        let target = fs::read_link(&path)?;
        if !file.is_dir() || !target.starts_with("/") {
            continue;
        }
        let flags = statvfs(&path)?.flags();
        let wanted = FsFlags::ST_NODEV | FsFlags::ST_NOSUID;
        ensure!(flags.contains(wanted), "{} is on a mount with {flags:?}", target.display());
        served += 1;
    }
    ensure!(served > 0, "it serves nothing");
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// What the container of the tests below makes, and says of it.
const NODES: &str = "mkdir /d && chown 1000:1001 /d && chmod 2755 /d && mknod -m 640 /d/null c 1 3 && mknod /d/disk b 259 70000 \
    && chown 5:6 /d/disk && mkdir /e && tar -c -f - -C /d null disk | tar -x -p -f - -C /e && mkfifo /e/fifo \
    && stat -c '%n %F %t:%T %a %u:%g' /d/* /e/*; cat /d/null; mknod /d/null c 1 3; mknod /no/such c 1 3";

/// Device nodes are made in the host's user namespace only: for a container that may make them somebody is there who can,
/// and can do nothing else.
fn gofer_of_device_makers(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let made = c.bundle("b", &format!("{NODES}; echo done; sleep 1000"))?;
    let run = c.start(&["run", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("the nodes are made", || Ok(run.out().ends_with("done\n")))?;
    // 259, 70000 in hexadecimal; the folder's group is the nodes'.
    let expect = "/d/disk block special file 103:11170 644 5:6\n\
        /d/null character special file 1:3 640 0:1001\n\
        /e/disk block special file 103:11170 644 5:6\n\
        /e/fifo fifo 0:0 644 0:0\n\
        /e/null character special file 1:3 640 0:1001\ndone\n";
    ensure!(run.out() == expect, "{}", run.out());
    let on_host = fs::symlink_metadata(made.rootfs().join("e/disk"))?;
    let is = (on_host.file_type().is_block_device(), on_host.rdev(), on_host.mode() & 0o7777);
    ensure!(is == (true, makedev(259, 70_000), 0o644), "on the host: {is:?}");
    let (pid, maker) = (find("gofer")?, named("ringwall-nodes")?);
    for kind in NAMESPACES {
        let (own, its) = (namespace(&pid.to_string(), kind)?, namespace(&maker.to_string(), kind)?);
        let host = namespace("self", kind)?;
        ensure!(own != host, "the gofer is in the host's {kind} namespace");
        let expect = if kind == "user" { host } else { own };
        ensure!(its == expect, "the node maker's {kind} namespace is {its}, not {expect}");
    }
    for map in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(format!("/proc/{pid}/{map}"))?;
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure!(words == ["0", "0", "4294967295"], "{map}: {text}");
    }
    threads_are_confined(pid, FILES)?;
    // CAP_DAC_OVERRIDE, CAP_MKNOD.
    threads_are_confined(maker, 1 << 1 | 1 << 27)?;
    descriptors(c, maker, "node maker")?;
    let open = fs::read_dir(format!("/proc/{maker}/fd"))?.count();
    ensure!(open == 1, "the node maker has {open} descriptors");
    bounded(maker, "Max core file size", 0)?;
    bounded(maker, "Max open files", 4)?;
    bounded(maker, "Max address space", 1 << 30)?;
    let mounts = mounts(maker)?;
    ensure!(mounts == self::mounts(pid)?, "the node maker's mounts: {mounts:?}");
    // Without it there are no nodes, and all the rest.
    kill(Pid::from_raw(maker), Signal::SIGKILL)?;
    let done =
        c.run(&["exec", "x", "sh", "-c", "mknod /x c 1 3; mkfifo /y && rm /y && echo there"])?;
    ensure!(
        done.out() == "there\n" && done.err().contains("Input/output error"),
        "{}{}",
        done.out(),
        done.err()
    );
    c.must(&["delete", "--force", "x"])?;
    run.end(c.limit())?;
    Ok(())
}

/// Hooks of a container's mounts run as the host's root, and then the gofer enters its user namespace. It ends with its
/// client, and the node maker with it.
fn gofer_with_hooks(c: &Context) -> Outcome {
    c.only_ringwall()?;
    for nodes in [false, true] {
        let mut config = bundle::config(&["sleep", "1000"], &[]);
        if !nodes {
            config["process"]["capabilities"] = json!({ "bounding": ["CAP_KILL"] });
        }
        let script = "readlink /proc/self/ns/user; cat /proc/self/uid_map";
        let hook =
            json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("{{ {script}; }} >told")] });
        config["hooks"] = json!({ "createContainer": [hook] });
        let name = if nodes { "c" } else { "b" };
        let made = c.bundle_with(name, &config)?;
        c.must(&["run", "--detach", "--bundle", &c.text_path(name), "x"])?;
        let told = fs::read_to_string(made.rootfs().join("told"))?;
        let host = namespace("self", "user")?;
        ensure!(told.lines().next() == Some(&host), "the hook ran in {told}, not {host}");
        let pid = find("gofer")?;
        for kind in NAMESPACES {
            let own = namespace(&pid.to_string(), kind)?;
            ensure!(own != namespace("self", kind)?, "it is in the host's {kind} namespace");
        }
        threads_are_confined(pid, FILES)?;
        ensure!(named("ringwall-nodes").is_ok() == nodes, "{:?}", processes());
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        c.eventually("every process ends", || Ok(processes().is_empty()))?;
        c.must(&["delete", "--force", "x"])?;
    }
    Ok(())
}

/// Between the reading of a configuration and the making of its container, somebody has the paths of the root and of a bind
/// mount lead elsewhere: what was read counts, or nothing is made.
fn swapped_paths(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let outside = c.path("outside");
    fs::create_dir_all(outside.join("bin"))?;
    fs::write(outside.join("secret"), "secret")?;
    let hook = |script: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
    let and = |list: &Value, more: Value| {
        let mut all = list.as_array().cloned().unwrap_or_default();
        all.push(more);
        json!(all)
    };
    for (users, served) in [("root", true), ("mapped", false), ("hooks", false)] {
        let script = "ls -d /bin; ls /mnt; cat /mnt/* /secret";
        let mut config = bundle::config(&["sh", "-c", script], &[]);
        let folder = c.path("volume/folder");
        let mount = json!({ "destination": "/mnt", "source": folder, "options": ["bind"] });
        config["mounts"] = and(&config["mounts"], mount);
        let to = outside.display();
        let swap = format!(
            "cd {} && for name in b volume; do mv $name $name.was && mkdir $name || exit; done \
             && ln -s {to} b/rootfs && ln -s {to} volume/folder",
            c.scratch.path().display()
        );
        config["hooks"] = json!({ "createRuntime": [hook(&swap)] });
        if users == "mapped" {
            for map in ["uidMappings", "gidMappings"] {
                config["linux"][map] = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
            }
            let user = json!({ "type": "user" });
            config["linux"]["namespaces"] = and(&config["linux"]["namespaces"], user);
        } else if users == "hooks" {
            config["hooks"]["createContainer"] = json!([hook("true")]);
        }
        let bundle = c.bundle_with("b", &config)?;
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), "the right one")?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        let told = format!("{users}: {}: {}{}", done.end, done.out(), done.err());
        for name in ["b", "volume"] {
            fs::remove_dir_all(c.path(name))?;
            fs::rename(c.path(&format!("{name}.was")), c.path(name))?;
        }
        if served {
            ensure!(done.out() == "/bin\nfile\nthe right one", "{told}");
        } else {
            ensure!(
                done.out().is_empty() && done.err().contains("another file is there"),
                "{told}"
            );
        }
        ensure!(fs::read_dir(&outside)?.count() == 2, "{users}: something was made outside");
        drop(bundle);
        fs::remove_dir_all(c.path("volume"))?;
    }
    Ok(())
}

/// The processes that an application runs in under ptrace.
fn stubs(c: &Context) -> Outcome {
    c.only_ringwall()?;
    if c.place.runtime.platform.as_deref() != Some("ptrace") {
        return Err(Stop::Skipped("there are stubs on ptrace only".to_owned()));
    }
    let _b = sleeper(c)?;
    let sandbox = find("sandbox")?;
    let stubs: Vec<i32> = processes()
        .into_iter()
        .filter(|(_, name)| name.starts_with("ringwall-stub"))
        .map(|(pid, _)| pid)
        .collect();
    ensure!(!stubs.is_empty(), "no stubs: {:?}", processes());
    for pid in stubs {
        threads_are_confined(pid, 0)?;
        bounded(pid, "Max core file size", 0)?;
        for kind in NAMESPACES {
            let (own, its) =
                (namespace(&pid.to_string(), kind)?, namespace(&sandbox.to_string(), kind)?);
            ensure!(own == its, "a stub has another {kind} namespace than its sandbox");
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        ensure!(!maps.contains("/ringwall\n"), "the sentry's program is mapped in a stub:\n{maps}");
    }
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

fn check(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let promises =
        [("sandbox on kvm", 40), ("sandbox on ptrace", 60), ("gofer", 45), ("node maker", 6)];
    for (process, promised) in promises {
        let told = told(c, process)?;
        let calls = told["calls"].as_u64().unwrap_or(u64::MAX);
        ensure!(told["promised"] == promised && calls <= promised, "{told}");
        let listed: std::collections::BTreeSet<String> = told["roles"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|role| role["calls"].as_array().cloned().unwrap_or_default())
            .filter_map(|call| call.as_str().map(|call| call.trim_end_matches('*').to_owned()))
            .collect();
        ensure!(listed.len() as u64 == calls, "{calls} calls, and listed: {listed:?}");
        ensure!(!listed.contains("socket") && !listed.contains("execve"), "{listed:?}");
    }
    let report: Value = serde_json::from_slice(&c.must(&["check", "--wall", "--json"])?.stdout)?;
    ensure!(report["level"] == "root", "{report}");
    // Required, the wall is as told: it runs, or names what is missing, before anything is made.
    let _b = c.bundle("b", "echo ran")?;
    let done = c.run(&["--require-wall=full", "run", "--bundle", &c.text_path("b"), "x"])?;
    match report["missing"].as_array().map(Vec::as_slice) {
        Some([]) => ensure!(done.ok() && done.out() == "ran\n", "{}{}", done.end, done.err()),
        _ => {
            let refused =
                done.end.shell_status() == Some(1) && done.err().contains("--require-wall");
            ensure!(refused && !c.path("state/x").exists(), "{}: {}", done.end, done.err());
        }
    }
    let text = c.must(&["check", "--wall"])?.out();
    ensure!(text.contains("sandbox on kvm: ") && text.contains("level: root"), "{text}");
    Ok(())
}

/// A user without files.
const USER: &str = "12345";

/// `do` as another user, after these words of a command line; what it has said. The runtime is copied to where that user
/// can reach it.
fn as_user(c: &Context, words: &[&str], global: &[&str]) -> Result<crate::process::Finished, Stop> {
    let (bin, state) = (c.path("ringwall"), c.path("state"));
    fs::create_dir_all(&state)?;
    let argv = &c.place.runtime.argv;
    let [program] = argv.as_slice() else {
        return Err(Stop::Skipped(format!("the runtime is more than a program: {argv:?}")));
    };
    fs::copy(program, &bin)?;
    for path in [c.scratch.path(), &bin] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let id = USER.parse().ok();
    std::os::unix::fs::chown(&state, id, id)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).args(words).arg(&bin);
    command.arg("--root").arg(&state).arg("--platform=ptrace").args(global);
    let script = "id -u; cat /etc/passwd | wc -l; echo kept >/tmp/ringwall-wall-test; cat /tmp/ringwall-wall-test";
    command.args(["do", "--", "sh", "-c", script]).env_remove("XDG_RUNTIME_DIR");
    Ok(crate::process::run(&mut command, b"", c.limit())?)
}

fn needs(program: &str) -> Outcome {
    match Command::new(program).arg("--version").output() {
        Ok(done) if String::from_utf8_lossy(&done.stdout).contains("util-linux") => Ok(()),
        _ => Err(Stop::Skipped(format!("no {program} of util-linux here"))),
    }
}

fn ran(done: &crate::process::Finished) -> Outcome {
    let lines = fs::read_to_string("/etc/passwd")?.lines().count();
    let expect = format!("{USER}\n{lines}\nkept\n");
    ensure!(done.ok() && done.out() == expect, "{}: {}{}", done.end, done.out(), done.err());
    ensure!(!Path::new("/tmp/ringwall-wall-test").exists(), "the host's /tmp has been written");
    Ok(())
}

fn rootless(c: &Context) -> Outcome {
    c.only_ringwall()?;
    needs("setpriv")?;
    let done = as_user(c, &[], &[])?;
    if done.err().contains("this user can make no namespaces") {
        return Err(Stop::Skipped("users can make no user namespaces here".to_owned()));
    }
    ran(&done)?;
    ensure!(done.err().is_empty(), "{}", done.err());
    Ok(())
}

/// In a user namespace in which no other can be made: a warning, or, if the whole wall is wanted, a refusal.
fn without_namespaces(c: &Context) -> Outcome {
    c.only_ringwall()?;
    needs("setpriv")?;
    needs("unshare")?;
    let none = "echo 0 >/proc/sys/user/max_user_namespaces && \
                exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all \"$@\"";
    let words = ["unshare", "-U", "--map-current-user", "--keep-caps", "sh", "-c", none, "sh"];
    let done = as_user(c, &words, &[])?;
    if done.err().starts_with("unshare") {
        return Err(Stop::Skipped("users can make no user namespaces here".to_owned()));
    }
    ran(&done)?;
    let warned = done.err().starts_with("ringwall: warning: this user can make no namespaces");
    ensure!(warned && done.err().lines().count() == 1, "{}", done.err());
    let done = as_user(c, &words, &["--require-wall=full"])?;
    let refused = done.end.shell_status() == Some(1)
        && done.out().is_empty()
        && done
            .err()
            .contains("--require-wall=full: these promises do not hold here: sandbox and gofer");
    ensure!(refused, "{}: {}{}", done.end, done.out(), done.err());
    Ok(())
}

/// A root whose own folders are links to somewhere else on the host: what is mounted goes into the root or nowhere.
fn links_out(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let outside = c.path("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "secret")?;
    let up = "../".repeat(20);
    let out = outside.display().to_string();
    for (n, target) in [
        out.clone(),
        format!("{up}{out}"),
        "/proc/self/root".into(),
        "/proc/self/cwd".into(),
        "/proc/1/root".into(),
    ]
    .iter()
    .enumerate()
    {
        for place in ["/proc", "/dev", "/sys", "/link/below", "/link"] {
            let id = format!("x{n}");
            let script = "cat /*/secret /link/secret 2>/dev/null; echo end";
            let mut config = bundle::config(&["/bin/sh", "-c", script], &[]);
            if let (true, Some(mounts)) =
                (place.starts_with("/link"), config["mounts"].as_array_mut())
            {
                mounts.push(json!({ "destination": place, "type": "tmpfs", "source": "tmpfs" }));
                let options = json!(["bind"]);
                mounts.push(
                    json!({ "destination": "/link/file", "type": "bind", "source": "/etc/passwd", "options": options }),
                );
            }
            let made = c.bundle_with(&id, &config)?;
            let name = place.split('/').nth(1).unwrap_or_default();
            let link = made.rootfs().join(name);
            if link.exists() {
                fs::remove_dir_all(&link)?;
            }
            std::os::unix::fs::symlink(target, &link)?;
            let done = c.run(&["run", "--bundle", &c.text_path(&id), &id])?;
            let what =
                format!("{place} through {target}: {}: {}{}", done.end, done.out(), done.err());
            ensure!(!done.out().contains("secret"), "{what}");
            // It runs with the mount inside its root, or says in one line why not.
            let refused = done.end.shell_status() == Some(1) && done.err().lines().count() == 1;
            ensure!(done.out() == "end\n" || refused, "{what}");
            let left: Vec<_> =
                fs::read_dir(&outside)?.flatten().map(|entry| entry.file_name()).collect();
            ensure!(left == ["secret"], "{what}: {left:?}");
        }
    }
    Ok(())
}

/// The runtime's own program is nothing that a container can name: /proc/self/exe of any process inside is the container's.
fn own_binary(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let program = c.place.runtime.argv.last().map(fs::read).transpose()?.unwrap_or_default();
    let script = "for p in /proc/[0-9]*; do readlink $p/exe; done | sort -u
        (exec -a busybox /proc/self/exe echo by link); (echo x >/proc/1/exe) 2>/dev/null; echo $?
        ls /proc/1/fd /proc/self/map_files 2>/dev/null | wc -l >/dev/null; exec sleep 1000";
    let _b = c.bundle("b", script)?;
    let run = c.start(&["run", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("the script is through", || Ok(run.out().lines().count() == 3))?;
    let out = run.out();
    ensure!(out.starts_with("/bin/busybox\nby link\n"), "{out}");
    let done = c.run(&["exec", "x", "/proc/self/exe", "--version"])?;
    ensure!(!done.out().contains("ringwall version"), "{}{}", done.out(), done.err());
    c.must(&["delete", "--force", "x"])?;
    run.end(c.limit())?;
    // As the container's first program too, by the trick of CVE-2019-5736.
    for (id, argv) in [("y", ["/proc/self/exe", "--version"]), ("z", ["/proc/1/exe", "--version"])]
    {
        let _b = c.bundle_with(id, &bundle::config(&argv, &[]))?;
        let done = c.run(&["run", "--bundle", &c.text_path(id), id])?;
        ensure!(!done.out().contains("ringwall"), "{argv:?}: {}{}", done.out(), done.err());
        ensure!(!done.ok(), "{argv:?} ran: {}", done.out());
    }
    let after = c.place.runtime.argv.last().map(fs::read).transpose()?.unwrap_or_default();
    ensure!(program == after, "the runtime's program has changed");
    Ok(())
}
