use std::format;

use super::*;
use crate::task::tests::{nr as task_nr, run};

fn mount_proc(u: &mut User) {
    let dir = u.path("/proc");
    u.ok(nr::MKDIR, &[dir, 0o755]);
    u.write(BUF, b"proc\0");
    u.ok(nr::MOUNT, &[BUF, dir, BUF, 0, 0]);
}

#[test]
fn every_file_of_proc_can_be_read() {
    run(|u| {
        mount_proc(u);
        u.pipe(0);
        let mut todo = Vec::from([String::from("/proc")]);
        let mut files = 0;
        while let Some(dir) = todo.pop() {
            for name in u.list(&dir) {
                if name == "." || name == ".." {
                    continue;
                }
                let path = format!("{dir}/{name}");
                let at = u.path(&path);
                // The descriptor that the listing itself needed is gone.
                if u.syscall(6, &[at, BUF]) == -2 && dir.contains("/fd") {
                    continue;
                }
                match u.load(BUF + 24) as u32 & 0o170000 {
                    0o040000 => todo.push(path),
                    0o120000 if name == "exe" => {}
                    0o120000 => assert!(!u.link_text(&path).is_empty(), "{path}"),
                    // From the beginning there is nothing to read in a process's memory.
                    _ if name == "mem" => {
                        let fd = u.open(&path, 0);
                        assert!(fd >= 0, "{path}: {fd}");
                        assert_eq!(u.read_fd(fd as u64, 8), Err(-5), "{path}");
                        u.ok(nr::CLOSE, &[fd as u64]);
                    }
                    // No security module says anything.
                    _ if dir.ends_with("/attr") => {
                        let fd = u.open(&path, 0);
                        assert!(fd >= 0, "{path}: {fd}");
                        assert_eq!(u.read_fd(fd as u64, 8), Err(-22), "{path}");
                        u.ok(nr::CLOSE, &[fd as u64]);
                    }
                    _ => {
                        u.slurp(&path);
                        files += 1;
                    }
                }
            }
        }
        assert!(files > 120, "{files}");
    });
}

#[test]
fn proc_tells_of_the_reader_and_its_children() {
    run(|u| {
        mount_proc(u);
        assert_eq!(u.link_text("/proc/self"), "1");
        assert_eq!(u.link_text("/proc/thread-self"), "1/task/1");
        let stat = u.slurp("/proc/self/stat");
        let fields: Vec<&str> = stat.split_whitespace().collect();
        assert_eq!(fields.len(), 52, "{stat}");
        assert_eq!(&fields[..4], ["1", "(test)", "R", "0"]);
        let child = u.fork(|u| {
            assert_eq!(u.link_text("/proc/self"), "2");
            u.exit_group(0);
        });
        // It becomes a zombie, and stays one until it is waited for.
        u.ok(task_nr::WAITID, &[1, child, 0, 4 | 0x0100_0000, 0]);
        let status = u.slurp("/proc/2/status");
        assert!(status.contains("State:\tZ (zombie)"), "{status}");
        assert!(status.contains("PPid:\t1\n"), "{status}");
        assert!(u.list("/proc").contains(&"2".into()));
        let fd = u.open("/proc/2/stat", 0) as u64;
        u.wait(child as i64, 0);
        assert_eq!(u.read_fd(fd, 100), Err(-3));
        assert_eq!(u.open("/proc/2/stat", 0), -2);
    });
}

#[test]
fn fd_links_lead_back_to_pipes_and_files() {
    run(|u| {
        mount_proc(u);
        let (r, w) = u.pipe(0);
        let text = u.link_text(&format!("/proc/self/fd/{r}"));
        assert!(text.starts_with("pipe:["), "{text}");
        let again = u.open(&format!("/proc/self/fd/{w}"), 1);
        assert!(again >= 0, "{again}");
        assert_eq!(u.write_fd(again as u64, b"echo"), 4);
        assert_eq!(u.read_fd(r, 10).unwrap(), b"echo");
        let file = u.open("/some", 0o102);
        assert_eq!(u.link_text(&format!("/proc/self/fd/{file}")), "/some");
        let path = u.path("/some");
        u.ok(87, &[path]);
        assert_eq!(u.link_text(&format!("/proc/self/fd/{file}")), "/some (deleted)");
        let back = u.open(&format!("/proc/self/fd/{file}"), 2);
        assert_eq!(u.write_fd(file as u64, b"lost"), 4);
        assert_eq!(u.read_fd(back as u64, 10).unwrap(), b"lost");
        u.write(BUF, b"blob\0");
        let memfd = u.ok(nr::MEMFD_CREATE, &[BUF, 0]);
        assert_eq!(u.link_text(&format!("/proc/self/fd/{memfd}")), "/memfd:blob (deleted)");
        let mounts = u.slurp("/proc/mounts");
        assert!(mounts.contains("proc /proc proc rw,relatime 0 0\n"), "{mounts}");
    });
}
