//! Disks that are full: under the state folder, where commands fail cleanly and what becomes of a container is known all
//! the same, and under a container's root, where its programs learn of it as they do from Linux.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::kills::nothing_left;
use super::{Context, Outcome, Stop, Test, ensure};
use crate::process::End;

pub(super) const TESTS: &[Test] = &[("full/state", state), ("full/root", root)];

/// A small file system.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf, size: &str) -> Result<Small, Stop> {
        fs::create_dir(&path)?;
        mount(Some("small"), &path, Some("tmpfs"), MsFlags::empty(), Some(size))?;
        Ok(Small(path))
    }

    /// Leaves this many pages.
    fn fill(&self, pages: usize) -> Outcome {
        let full = |path: &Path| -> std::io::Result<()> {
            let mut file = fs::File::create(path)?;
            while file.write_all(&[1; 4096]).is_ok() {}
            let length = file.metadata()?.len() & !4095;
            file.set_len(length.saturating_sub(4096 * pages as u64))
        };
        Ok(full(&self.0.join(".fill"))?)
    }

    fn empty(&self) -> Outcome {
        Ok(fs::remove_file(self.0.join(".fill"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// With this much room or that, a container is made or it is not; one that is there can be started, ended and removed.
fn state(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let small = Small::new(c.path("state"), "size=256k")?;
    let _b = c.bundle("b", "echo up; sleep 1000")?;
    let bundle = c.text_path("b");
    for pages in 0..6 {
        small.fill(pages)?;
        let done = c.detached(&["create", "--bundle", &bundle, "x"])?;
        if done.ok() {
            c.must(&["delete", "x"])?;
        } else {
            let err = done.err();
            ensure!(
                done.end == End::Exit(1) && err.lines().count() == 1 && err.contains("No space"),
                "{pages} pages: {}: {err}",
                done.end
            );
        }
        ensure!(pages > 0 || !done.ok(), "there was room");
        nothing_left(c, &format!("{pages} pages"))?;
        small.empty()?;
    }
    let created = c.start(&["create", "--bundle", &bundle, "x"])?.waited(c.limit())?;
    small.fill(0)?;
    ensure!(c.status("x")? == "created", "it is {}", c.status("x")?);
    c.must(&["start", "x"])?;
    ensure!(c.status("x")? == "running", "it is {}", c.status("x")?);
    c.eventually("its program runs", || Ok(created.out() == "up\n"))?;
    small.empty()?;
    small.fill(0)?;
    c.must(&["exec", "x", "true"])?;
    c.must(&["pause", "x"])?;
    ensure!(c.status("x")? == "paused", "it is {}", c.status("x")?);
    c.must(&["resume", "x"])?;
    c.must(&["kill", "x", "TERM"])?;
    c.must(&["kill", "x", "KILL"])?;
    let status = c.must(&["wait", "x"])?.out();
    ensure!(status == "137\n", "it ended with {status}");
    ensure!(c.status("x")? == "stopped", "it is {}", c.status("x")?);
    c.must(&["delete", "x"])?;
    nothing_left(c, "at the end")
}

/// Programs see that there is no space left, in the call where Linux tells them; what was there before is whole, and so is
/// what is written once there is room.
fn root(c: &Context) -> Outcome {
    let _small = Small::new(c.path("small"), "size=4m")?;
    let script = "echo before >/kept; sync
        dd if=/dev/zero of=/f bs=4096 count=2000 2>&1 | grep -o 'No space.*'
        sh -c 'echo more >/g' 2>&1 | grep -o 'No space.*'
        stat -c '%s' /g; test $(stat -c '%s' /f) -gt 1000000 && echo most
        dd if=/dev/zero of=/m bs=1 count=1 seek=9000000 2>&1 | grep -o 'No space.*'
        cat /kept; rm /f; echo after >/h; cat /h; mkdir /d && mv /h /d/h && cat /d/h
        dd if=/dev/zero of=/k bs=65536 count=100 conv=fsync 2>&1 | grep -o 'No space.*'
        cp /bin/busybox /d/b 2>&1 | grep -o 'No space.*'; rm -f /k /d/b
        cp /bin/busybox /d/b && cmp /bin/busybox /d/b && echo same";
    let expected = "No space left on device\nNo space left on device\n0\nmost\nNo space left on device\nbefore\nafter\nafter\n\
                    No space left on device\nNo space left on device\nsame\n";
    let b = c.bundle("small/b", script)?;
    let done = c.run(&["run", "--bundle", &c.text_path("small/b"), "x"])?;
    ensure!(done.out() == expected, "{}: {}{}", done.end, done.out(), done.err());
    let host = ["kept", "d/h"].map(|name| fs::read_to_string(b.rootfs().join(name)));
    let host = host.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(host == ["before\n", "after\n"], "the host has {host:?}");
    // And with no room left at all it can be made, and goes.
    let filled = c.path("small/filled");
    let mut file = fs::File::create(&filled)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    let done = c.run(&["run", "--bundle", &c.text_path("small/b"), "x"])?;
    ensure!(done.out().contains("No space left"), "{}: {}{}", done.end, done.out(), done.err());
    fs::remove_file(filled)?;
    Ok(())
}
