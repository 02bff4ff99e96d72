//! Fields of a configuration that decide what a container's namespaces and its /dev are.

use serde_json::{Value, json};

use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle;
use crate::process::{End, Finished};

pub(super) const TESTS: &[Test] = &[
    ("fields/devices", devices),
    ("fields/devices-refused", devices_refused),
    ("fields/device-rules", device_rules),
    ("fields/mount-options", mount_options),
    ("fields/bad-mount-options", bad_mount_options),
    ("fields/personality", personality),
    ("fields/time-offsets", time_offsets),
    ("fields/user-namespace", user_namespace),
    ("fields/user-namespace-files", user_namespace_files),
    ("fields/shared-namespaces", shared_namespaces),
    ("fields/namespaces-refused", namespaces_refused),
];

/// What a script does in a container whose configuration is changed like this.
fn run(c: &Context, script: &str, change: impl FnOnce(&mut Value)) -> Result<Finished, Stop> {
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    change(&mut config);
    let _bundle = c.bundle_with("b", &config)?;
    c.run(&["run", "--bundle", &c.text_path("b"), "x"])
}

fn prints(c: &Context, script: &str, change: impl FnOnce(&mut Value), expect: &str) -> Outcome {
    let done = run(c, script, change)?;
    ensure!(
        done.ok() && done.out() == expect,
        "{script}: {}: {}{}\nshould be:\n{expect}",
        done.end,
        done.out(),
        done.err()
    );
    Ok(())
}

/// Nothing runs, and one line says these words.
fn refused(c: &Context, change: impl FnOnce(&mut Value), words: &str) -> Outcome {
    let done = run(c, "echo ran", change)?;
    ensure!(done.end == End::Exit(1) && done.out().is_empty(), "{words}: {}", done.end);
    ensure!(c.is_runc() || done.err().contains(words), "{words:?} is not in {}", done.err());
    Ok(())
}

fn push(list: &mut Value, element: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(element);
    }
}

/// Nodes have their numbers, permissions and owners, and those without a driver say so.
fn devices(c: &Context) -> Outcome {
    let script = "stat -c '%n %F %a %u %g %t %T' /dev/null /dev/zero /dev/full /dev/deep/er/odd /dev/disk /dev/fifo
        echo a >/dev/null; head -c 3 /dev/also-zero | od -An -tx1
        for file in /dev/deep/er/odd /dev/disk /dev/forbidden; do cat $file 2>&1; done; true";
    let change = |config: &mut Value| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 },
            { "path": "/dev/deep/er/odd", "type": "u", "major": 200, "minor": 5 },
            { "path": "/dev/disk", "type": "b", "major": 99, "minor": 9, "fileMode": 0o660, "gid": 6 },
            { "path": "/dev/fifo", "type": "p", "fileMode": 0o622 },
            { "path": "/dev/also-zero", "type": "c", "major": 1, "minor": 5 },
            { "path": "/dev/forbidden", "type": "c", "major": 1, "minor": 11 },
        ]);
        for (kind, major, minor) in [("c", 200, 5), ("b", 99, 9), ("c", 1, 3)] {
            let rule = json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm" });
            push(&mut config["linux"]["resources"]["devices"], rule);
        }
    };
    let expect = "/dev/null character special file 640 7 8 1 3\n/dev/zero character special file 666 0 0 1 5\n\
                  /dev/full character special file 666 0 0 1 7\n/dev/deep/er/odd character special file 666 0 0 c8 5\n\
                  /dev/disk block special file 660 0 6 63 9\n/dev/fifo fifo 622 0 0 0 0\n 00 00 00\n\
                  cat: can't open '/dev/deep/er/odd': No such device or address\n\
                  cat: can't open '/dev/disk': No such device or address\n\
                  cat: can't open '/dev/forbidden': Operation not permitted\n";
    prints(c, script, change, expect)
}

fn devices_refused(c: &Context) -> Outcome {
    c.only_ringwall()?;
    for (field, value, words) in [
        ("type", json!("a"), "linux.devices[0].type"),
        ("path", json!("/"), "linux.devices[0].path"),
    ] {
        let mut device = json!({ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 });
        device[field] = value;
        refused(c, |config| config["linux"]["devices"] = json!([device]), words)?;
    }
    for (field, value) in
        [("type", json!("p")), ("access", json!("rx")), ("access", json!("")), ("major", json!(-2))]
    {
        let mut rule = json!({ "allow": true, "type": "c", "access": "r" });
        rule[field] = value;
        let words = format!("linux.resources.devices[0].{field}");
        refused(c, |config| config["linux"]["resources"]["devices"] = json!([rule]), &words)?;
    }
    Ok(())
}

/// What the rules forbid may be neither opened nor made; access(2) says so too.
fn device_rules(c: &Context) -> Outcome {
    // busybox's `test` looks at the mode alone for root, and so do programs: what counts is the open.
    let script = "cd /dev
        try() { \"$@\" 2>/dev/null && echo \"$* yes\" || echo \"$* no\"; }
        try mknod made c 1 8; try mknod zero2 c 1 5; try mknod block b 9 9; try mknod odd c 9 9
        try dd if=made of=/tmp/x bs=1 count=1; try dd if=/tmp/x of=made; try dd if=zero2 of=/tmp/x bs=1 count=1
        try dd if=odd of=/tmp/x; try dd if=full of=/tmp/x bs=1 count=1; try dd if=tty of=/tmp/x; try mkfifo fifo
        try mknod whiteout c 0 0";
    let change = |config: &mut Value| {
        config["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 9, "minor": 9, "access": "m" },
        ]);
    };
    let expect = "mknod made c 1 8 yes\nmknod zero2 c 1 5 yes\nmknod block b 9 9 yes\nmknod odd c 9 9 yes\n\
                  dd if=made of=/tmp/x bs=1 count=1 yes\ndd if=/tmp/x of=made yes\n\
                  dd if=zero2 of=/tmp/x bs=1 count=1 yes\ndd if=odd of=/tmp/x no\n\
                  dd if=full of=/tmp/x bs=1 count=1 yes\ndd if=tty of=/tmp/x no\nmkfifo fifo yes\n\
                  mknod whiteout c 0 0 yes\n";
    prints(c, script, change, expect)?;
    // One in the place of a device that every container has is not among what every container may.
    c.only_ringwall()?;
    let script =
        "mknod /tmp/full c 1 7; for f in /dev/full /tmp/full; do head -c 1 $f 2>&1; done; true";
    let change = |config: &mut Value| {
        config["linux"]["devices"] =
            json!([{ "path": "/dev/full", "type": "c", "major": 1, "minor": 7 }]);
    };
    let expect =
        "head: /dev/full: Operation not permitted\nhead: /tmp/full: Operation not permitted\n";
    let done = run(c, script, change)?;
    let nodev =
        expect.replace("/tmp/full: Operation not permitted", "/tmp/full: Permission denied");
    ensure!([expect, &nodev].contains(&done.out().as_str()), "{}{}", done.out(), done.err());
    Ok(())
}

/// Options of file systems, as /proc/mounts shows them and as they act.
fn mount_options(c: &Context) -> Outcome {
    let script = "grep -E ' /([a-z]|var) ' /proc/mounts; stat -c '%n %a %u %g' /a /b /var; touch /b/1 /b/2 2>&1; touch /b/3 2>&1
        dd if=/dev/zero of=/a/f bs=1k count=100 2>&1 | grep -o 'No space.*'; readlink /l/k; cat /l/k 2>&1; true";
    let change = |config: &mut Value| {
        for (place, kind, source, options) in [
            ("/a", "tmpfs", "some", "size=64k,mode=711,uid=3,gid=4,noexec"),
            ("/b", "tmpfs", "none", "nr_inodes=3,nodev,noatime"),
            ("/var", "tmpfs", "v", "rw"),
            ("/l", "tmpfs", "tmpfs", "nosymfollow,dirsync,lazytime,mode=1777"),
            ("/p", "proc", "x", "nosuid,ro"),
            ("/q", "mqueue", "mine", "nodiratime"),
        ] {
            let options: Vec<&str> = options.split(',').collect();
            let mount =
                json!({ "destination": place, "type": kind, "source": source, "options": options });
            push(&mut config["mounts"], mount);
        }
    };
    let script = format!("ln -s /etc/passwd /l/k; {script}");
    let expect = "some /a tmpfs rw,noexec,relatime,size=64k,mode=711,uid=3,gid=4 0 0\n\
                  none /b tmpfs rw,nodev,noatime,nr_inodes=3 0 0\nv /var tmpfs rw,relatime 0 0\n\
                  tmpfs /l tmpfs rw,dirsync,lazytime,relatime,nosymfollow 0 0\n\
                  x /p proc ro,nosuid,relatime 0 0\nmine /q mqueue rw,nodiratime,relatime 0 0\n\
                  /a 711 3 4\n/b 1777 0 0\n/var 755 0 0\ntouch: /b/3: No space left on device\nNo space left on device\n\
                  /etc/passwd\ncat: can't open '/l/k': Too many levels of symbolic links\n";
    let done = run(c, &script, change)?;
    ensure!(done.out() == expect, "{}{}\nshould be:\n{expect}", done.out(), done.err());
    Ok(())
}

/// An option that a file system does not have is an error; one that a bind does not have is told.
fn bad_mount_options(c: &Context) -> Outcome {
    for (kind, option) in [
        ("tmpfs", "wobble"),
        ("tmpfs", "size=1x"),
        ("tmpfs", "mode=999"),
        ("tmpfs", "newinstance"),
        ("devpts", "gid=zz"),
        ("devpts", "wobble"),
        ("proc", "wobble"),
        ("sysfs", "wobble"),
        ("mqueue", "wobble"),
    ] {
        let mount =
            json!({ "destination": "/m", "type": kind, "source": kind, "options": [option] });
        refused(c, |config| push(&mut config["mounts"], mount), "/m")?;
    }
    let mount = json!({ "destination": "/m", "type": "bind", "source": "/etc", "options": ["bind", "wobble"] });
    let done =
        run(c, "test -e /m/passwd && echo there", |config| push(&mut config["mounts"], mount))?;
    ensure!(done.ok() && done.out() == "there\n", "{}: {}", done.end, done.err());
    ensure!(
        c.is_runc() || c.log_tail().contains("wobble"),
        "the log does not tell: {}",
        c.log_tail()
    );
    Ok(())
}

/// The runc of the tests does not know the field.
fn personality(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let script = "uname -m; cat /proc/self/personality; sh -c 'uname -m'";
    for (domain, expect) in
        [("LINUX", "x86_64\n00000000\nx86_64\n"), ("LINUX32", "i686\n00000008\ni686\n")]
    {
        let change = |config: &mut Value| {
            config["linux"]["personality"] = json!({ "domain": domain });
            // Else nobody could read that file.
            config["process"]["capabilities"] = json!({});
        };
        prints(c, script, change, expect)?;
    }
    let bad = |config: &mut Value| config["linux"]["personality"] = json!({ "domain": "OTHER" });
    refused(c, bad, "linux.personality.domain")
}

/// The runc of the tests does not know the namespace.
fn time_offsets(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let change = |config: &mut Value| {
        push(&mut config["linux"]["namespaces"], json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 5_000_000, "nanosecs": 7 }, "monotonic": { "secs": 86_400 } });
    };
    let script =
        "awk '{ print ($1 > 5000000 && $1 < 9000000) }' /proc/uptime; cat /proc/self/timens_offsets
        [ $(readlink /proc/self/ns/time) = $(readlink /proc/1/ns/time_for_children) ] && echo same";
    let expect = "1\nmonotonic       86400         0\nboottime      5000000         7\nsame\n";
    prints(c, script, change, expect)?;
    let without =
        |config: &mut Value| config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1 } });
    refused(c, without, "linux.timeOffsets: needs a time namespace")?;
    for (offsets, words) in [
        (json!({ "realtime": { "secs": 1 } }), "linux.timeOffsets.realtime"),
        (json!({ "boottime": { "nanosecs": 1_000_000_000 } }), "linux.timeOffsets.boottime"),
        (
            json!({ "monotonic": { "secs": -4_000_000_000_i64 } }),
            "linux.timeOffsets: Numerical result",
        ),
    ] {
        let change = |config: &mut Value| {
            push(&mut config["linux"]["namespaces"], json!({ "type": "time" }));
            config["linux"]["timeOffsets"] = offsets;
        };
        refused(c, change, words)?;
    }
    Ok(())
}

/// A user namespace of its own, in which the container's root is somebody else outside.
fn own_users(config: &mut Value) {
    push(&mut config["linux"]["namespaces"], json!({ "type": "user" }));
    config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 1000 }]);
    config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 200_000, "size": 1000 }]);
}

fn user_namespace(c: &Context) -> Outcome {
    let script = "id -u; id -g; id -G; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
        stat -c '%n %u %g' /bin /proc /dev /dev/null /dev/fd /dev/pts /tmp
        chown 5:6 /tmp && stat -c '%n %u %g' /tmp; chown 2000 /tmp 2>&1; mknod /dev/new c 1 3 2>&1
        echo written >/dev/null && echo written; hostname other && hostname
        mkdir /tmp/m && mount -t tmpfs -o size=4k none /tmp/m && stat -c '%n %u %g' /tmp/m && umount /tmp/m
        [ $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) ] && echo same";
    let change = |config: &mut Value| {
        own_users(config);
        config["process"]["user"]["additionalGids"] = json!([7]);
        for set in ["bounding", "effective", "permitted"] {
            push(&mut config["process"]["capabilities"][set], json!("CAP_SYS_ADMIN"));
        }
    };
    let map = |outside| format!("{:>10} {outside:>10} {:>10}\n", 0, 1000);
    let expect = format!(
        "0\n0\n0 7\n{}{}allow\n/bin 65534 65534\n/proc 65534 65534\n/dev 0 0\n/dev/null 65534 65534\n/dev/fd 0 0\n\
         /dev/pts 0 0\n/tmp 0 0\n/tmp 5 6\nchown: /tmp: Invalid argument\n\
         mknod: /dev/new: Operation not permitted\nwritten\nother\n/tmp/m 0 0\nsame\n",
        map(100_000),
        map(200_000)
    );
    prints(c, script, change, &expect)?;
    c.only_ringwall()?;
    let change = |config: &mut Value| {
        own_users(config);
        config["process"]["user"]["uid"] = json!(1000);
    };
    refused(c, change, "process.user.uid: 1000 is not mapped")
}

/// Files of the root are seen by the numbers inside, and made with those outside; exec'd processes are in it too.
fn user_namespace_files(c: &Context) -> Outcome {
    use std::os::unix::fs::{MetadataExt, chown};
    let script = "stat -c '%n %u %g' /home /home/new /root; touch /etc/x 2>&1; chown 3:4 /home/new && mkdir /home/dir
        ln -s new /home/link; su -s /bin/sh nobody -c true 2>/dev/null; chown 9:9 /home/link -h; echo done; sleep 1000";
    let mut config = bundle::config(&["sh", "-c", script], &[]);
    own_users(&mut config);
    let bundle = c.bundle_with("b", &config)?;
    let home = bundle.rootfs().join("home");
    chown(&home, Some(100_000), Some(200_000))?;
    std::fs::write(home.join("new"), "text")?;
    chown(home.join("new"), Some(100_001), Some(200_002))?;
    let running = c.start(&["run", "--bundle", &c.text_path("b"), "x"])?;
    c.eventually("it has done its work", || Ok(running.out().ends_with("done\n")))?;
    let expect =
        "/home 0 0\n/home/new 1 2\n/root 65534 65534\ntouch: /etc/x: Permission denied\ndone\n";
    ensure!(running.out() == expect, "{}", running.out());
    for (name, uid, gid) in
        [("new", 100_003, 200_004), ("dir", 100_000, 200_000), ("link", 100_009, 200_009)]
    {
        let meta = std::fs::symlink_metadata(home.join(name))?;
        ensure!((meta.uid(), meta.gid()) == (uid, gid), "{name}: {} {}", meta.uid(), meta.gid());
    }
    let inside = "id -u; id -g; cat /proc/self/uid_map; stat -c %u:%g /home/new";
    let done = c.must(&["exec", "--user", "5:6", "x", "sh", "-c", inside])?;
    let map = format!("{:>10} {:>10} {:>10}\n", 0, 100_000, 1000);
    ensure!(done.out() == format!("5\n6\n{map}3:4\n"), "{}", done.out());
    c.must(&["kill", "x", "KILL"])?;
    running.end(c.limit())?;
    Ok(())
}

/// Without a namespace in the list runc's container is in the host's; ours never is, and the log says so.
fn shared_namespaces(c: &Context) -> Outcome {
    c.only_ringwall()?;
    for kind in ["pid", "ipc", "network", "uts", "mount"] {
        let change = |config: &mut Value| {
            let all = config["linux"]["namespaces"].as_array_mut();
            all.into_iter().for_each(|all| all.retain(|namespace| namespace["type"] != kind));
            config["hostname"] = json!("");
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
        };
        let done = run(c, "ls /proc | grep -c '^[0-9]'", change)?;
        ensure!(
            done.ok() && done.out().trim().parse::<u32>().is_ok_and(|n| n < 8),
            "{kind}: {}",
            done.out()
        );
        let words = format!("the host's {kind} namespace is asked for");
        let log = c.log_tail();
        ensure!(log.lines().filter(|line| line.contains(&words)).count() == 1, "{kind}: {log}");
        std::fs::remove_file(c.path("log"))?;
    }
    Ok(())
}

fn namespaces_refused(c: &Context) -> Outcome {
    let without = |kind: &'static str| {
        move |config: &mut Value| {
            let all = config["linux"]["namespaces"].as_array_mut();
            all.into_iter().for_each(|all| all.retain(|namespace| namespace["type"] != kind));
        }
    };
    refused(c, without("uts"), "hostname: cannot be set without a uts namespace")?;
    refused(c, without("mount"), "linux.maskedPaths: needs a mount namespace")?;
    let twice =
        |config: &mut Value| push(&mut config["linux"]["namespaces"], json!({ "type": "pid" }));
    refused(c, twice, "linux.namespaces[5].type: pid is there twice")?;
    let mappings = |config: &mut Value| {
        config["linux"]["uidMappings"] =
            json!([{ "containerID": 0, "hostID": 100_000, "size": 1000 }]);
    };
    let done = run(c, "echo ran", mappings)?;
    ensure!(done.ok() && done.out() == "ran\n", "mappings without a namespace: {}", done.err());
    ensure!(c.is_runc() || c.log_tail().contains("linux.uidMappings"), "{}", c.log_tail());
    let namespace =
        |config: &mut Value| push(&mut config["linux"]["namespaces"], json!({ "type": "user" }));
    refused(c, namespace, "linux.uidMappings: must be there")
}
