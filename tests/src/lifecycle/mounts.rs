//! Mounts of a container as its configuration asks for them.

use std::os::unix::fs::{PermissionsExt, lchown, symlink};

use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::{Value, json};

use super::{Context, Outcome, Test, ensure};
use crate::bundle;

pub(super) const TESTS: &[Test] =
    &[("mounts/propagation", propagation), ("mounts/copy-up", copy_up)];

/// Prints the optional fields of mountinfo of /a, /b and /c, without numbers.
const SCRIPT: &str = r#"awk '$5 ~ /^\/[abc]$/ { printf "%s", $5; for (i = 7; $i != "-"; i++) printf " %s", $i; print "" }' /proc/self/mountinfo | sed 's/:[0-9]*/:N/' | sort"#;

/// A mount's own words; rootfsPropagation is about the host's mounts, and changes nothing inside.
fn propagation(c: &Context) -> Outcome {
    let expect = "/a\n/b shared:N\n/c unbindable\n";
    for whole in [None, Some("rshared"), Some("rprivate")] {
        let mut config = bundle::config(&["sh", "-c", SCRIPT], &[]);
        for (place, options) in
            [("/a", json!([])), ("/b", json!(["shared"])), ("/c", json!(["unbindable"]))]
        {
            let mount = json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options });
            if let Some(mounts) = config["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        }
        if let Some(whole) = whole {
            config["linux"]["rootfsPropagation"] = whole.into();
        }
        let name = whole.unwrap_or("none");
        let _bundle = c.bundle_with(name, &config)?;
        let done = c.run(&["run", "--bundle", &c.text_path(name), name])?;
        ensure!(done.out() == expect, "{name}: {}{}", done.out(), done.err());
    }
    let mut config = bundle::config(&["true"], &[]);
    config["linux"]["rootfsPropagation"] = "sideways".into();
    let _bundle = c.bundle_with("bad", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("bad"), "bad"])?;
    ensure!(
        done.end.shell_status() != Some(0) && done.err().contains("sideways"),
        "{}: {}",
        done.end,
        done.err()
    );
    Ok(())
}

/// What a tmpfs with `tmpcopyup` has of the directory that it covers, and what is mounted below that: in one line each, name,
/// mode, owner, names, size and what it is.
const COPIED: &str = "\
. 1751 0 0 5 directory
./big 644 0 0 1 regular file
./block 640 0 0 1 block special file
./dir 755 7 8 2 directory
./dir/hard 4755 5 6 1 regular file
./file 4755 5 6 1 regular file
./hole 600 0 0 1 regular file
./link 777 9 9 1 symbolic link
./mounted 755 0 0 2 directory
./mounted/inner 644 0 0 1 regular file
./sticky 1755 0 0 2 directory
hello
1048576
link -> ../nowhere
";

/// A tmpfs is filled with what it covers, as runc fills it: not for other file systems, and not where it has no room.
fn copy_up(c: &Context) -> Outcome {
    let data = c.path("data");
    let below = c.path("below");
    for folder in ["dir", "sticky", "mounted"] {
        std::fs::create_dir_all(data.join(folder))?;
    }
    std::fs::create_dir_all(&below)?;
    std::fs::write(below.join("inner"), "inner")?;
    std::fs::write(data.join("file"), "hello\n")?;
    std::fs::write(data.join("big"), vec![b'x'; 256 << 10])?;
    std::fs::File::create(data.join("hole"))?.set_len(1 << 20)?;
    std::fs::hard_link(data.join("file"), data.join("dir/hard"))?;
    symlink("../nowhere", data.join("link"))?;
    let block = nix::sys::stat::makedev(7, 99);
    let (kind, mode) = (SFlag::S_IFBLK, Mode::from_bits_truncate(0o640));
    mknod(&data.join("block"), kind, mode, block).map_err(std::io::Error::from)?;
    for (name, owner, mode) in [
        ("", (3, 4), 0o1751),
        ("dir", (7, 8), 0o2755),
        ("file", (5, 6), 0o4755),
        ("big", (0, 0), 0o644),
        ("hole", (0, 0), 0o600),
        ("sticky", (0, 0), 0o1777),
        ("link", (9, 9), 0),
    ] {
        let path = data.join(name);
        lchown(&path, Some(owner.0), Some(owner.1))?;
        if name != "link" {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
    }
    let script = "cd /data; find . | sort | xargs stat -c '%n %a %u %g %h %F'; cat file; stat -c %s hole; ls -l link | grep -o 'link -.*'";
    let config = |fstype: &str, options: Value| {
        let mut config = bundle::config(&["sh", "-c", script], &[]);
        if let Some(mounts) = config["mounts"].as_array_mut() {
            for (place, folder) in [("/data", &data), ("/data/mounted", &below)] {
                mounts.push(json!({ "destination": place, "type": "bind", "source": folder, "options": ["rbind"] }));
            }
            mounts.push(json!({ "destination": "/data", "type": fstype, "source": fstype, "options": options }));
        }
        config
    };
    let run = |name: &str, config: Value| {
        let _bundle = c.bundle_with(name, &config)?;
        c.run(&["run", "--bundle", &c.text_path(name), name])
    };
    for (name, options) in
        [("plain", json!(["tmpcopyup"])), ("ro", json!(["tmpcopyup", "ro", "size=2m"]))]
    {
        let done = run(name, config("tmpfs", options))?;
        ensure!(done.out() == COPIED, "{name}: {}{}", done.out(), done.err());
    }
    let done = run("full", config("tmpfs", json!(["tmpcopyup", "size=64k"])))?;
    ensure!(!done.ok() && done.err().to_lowercase().contains("no space left"), "{}", done.err());
    let done = run("mqueue", config("mqueue", json!(["tmpcopyup"])))?;
    ensure!(!done.out().contains("file"), "{}", done.out());
    Ok(())
}
