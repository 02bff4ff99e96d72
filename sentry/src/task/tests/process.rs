use super::*;

#[test]
fn a_program_exits_with_its_status() {
    let status = Sandbox::new().run(|u| {
        assert_eq!(u.ok(nr::GETPID, &[]), 1);
        assert_eq!(u.ok(nr::GETTID, &[]), 1);
        assert_eq!(u.ok(nr::GETPPID, &[]), 0);
        assert_eq!(u.syscall(999, &[]), -38);
        u.exit_group(3);
    });
    assert_eq!(status, 3 << 8);
}

#[test]
fn a_forked_child_has_its_own_memory_and_is_waited_for() {
    run(|u| {
        u.store(MEM, 1);
        let child = u.fork(|u| {
            assert_eq!(u.ok(nr::GETPPID, &[]), 1);
            assert_eq!(u.load(MEM), 1);
            u.store(MEM, 2);
            u.exit_group(7);
        });
        assert_eq!(u.wait(-1, 0), (child as i64, 7 << 8));
        assert_eq!(u.load(MEM), 1);
        assert_eq!(u.syscall(nr::WAIT4, &[u64::MAX, 0, 0]), -10);
    });
}

#[test]
fn wnohang_does_not_wait_and_wnowait_does_not_reap() {
    run(|u| {
        let child = u.fork(|u| {
            u.block(bit(10));
            let at = u.regs.rsp - 0x400;
            u.store(at, bit(10));
            u.ok(nr::RT_SIGTIMEDWAIT, &[at, 0, 0, 8]);
            u.exit_group(1);
        });
        assert_eq!(u.wait(child as i64, 1).0, 0);
        u.ok(nr::KILL, &[child, 10]);
        // Either it waits by now or dies by the signal.
        let at = MEM + 0x800;
        u.ok(nr::WAITID, &[1, child, at, 4 | 0x0100_0000, 0]);
        assert_eq!(u.load(at) as u32, 17);
        assert_eq!(u.wait(child as i64, 0).0, child as i64);
        assert_eq!(u.syscall(nr::WAIT4, &[child, 0, 0]), -10);
    });
}

#[test]
fn threads_share_memory_and_the_last_one_ends_the_process() {
    let status = Sandbox::new().run(|u| {
        let tid = u.thread(MEM + 0x8000, |u| {
            assert_eq!(u.ok(nr::GETPID, &[]), 1);
            let tid = u.ok(nr::GETTID, &[]);
            u.store(MEM, tid);
            u.until(MEM + 8, 1);
            u.syscall(nr::EXIT, &[5]);
        });
        u.until(MEM, tid as u32);
        u.store(MEM + 8, 1);
        u.syscall(nr::EXIT, &[0]);
    });
    // Which of the two is the last decides, as on Linux.
    assert!(status == 5 << 8 || status == 0, "{status:#x}");
}

#[test]
fn exit_group_ends_threads_wherever_they_are() {
    let status = Sandbox::new().run(|u| {
        for n in 0..4 {
            u.thread(MEM + 0x8000 + n * 0x1000, move |u| {
                if n % 2 == 0 {
                    u.syscall(nr::PAUSE, &[]);
                } else {
                    loop {
                        u.pause();
                    }
                }
            });
        }
        u.exit_group(9);
    });
    assert_eq!(status, 9 << 8);
}

#[test]
fn a_fatal_signal_ends_all_threads_and_is_the_status() {
    run(|u| {
        let child = u.fork(|u| {
            u.thread(MEM + 0x8000, |u| {
                u.syscall(nr::PAUSE, &[]);
            });
            u.syscall(nr::PAUSE, &[]);
        });
        u.ok(nr::KILL, &[child, 15]);
        assert_eq!(u.wait(child as i64, 0), (child as i64, 15));
    });
}

#[test]
fn orphans_go_to_init_and_a_subreaper_comes_before_it() {
    run(|u| {
        // Init adopts.
        let child = u.fork(|u| {
            let grandchild = u.fork(|u| {
                while u.ok(nr::GETPPID, &[]) != 1 {
                    u.pause();
                }
                u.exit_group(4);
            });
            u.exit_group(grandchild);
        });
        let (_, status) = u.wait(child as i64, 0);
        let grandchild = i64::from(status >> 8);
        assert_eq!(u.wait(grandchild, 0), (grandchild, 4 << 8));
        // A subreaper adopts.
        let reaper = u.fork(|u| {
            u.ok(nr::PRCTL, &[36, 1]);
            let me = u.ok(nr::GETPID, &[]);
            let child = u.fork(move |u| {
                u.fork(move |u| {
                    while u.ok(nr::GETPPID, &[]) != me {
                        u.pause();
                    }
                    u.exit_group(6);
                });
                u.exit_group(0);
            });
            assert_eq!(u.wait(child as i64, 0).1, 0);
            let (_, status) = u.wait(-1, 0);
            u.exit_group((status >> 8) as u64);
        });
        assert_eq!(u.wait(reaper as i64, 0), (reaper as i64, 6 << 8));
    });
}

#[test]
fn the_end_of_init_ends_everything_in_its_namespace() {
    let sandbox = Sandbox::new();
    let init = sandbox.start(|u| {
        u.until(MEM, 1);
        u.exit_group(0);
    });
    // A second process of the host's lives in the same namespace.
    let other = sandbox.start(|u| {
        u.fork(|u| {
            u.syscall(nr::PAUSE, &[]);
        });
        u.syscall(nr::PAUSE, &[]);
    });
    let mm = init.first_task().unwrap().shared.lock().mm.clone().unwrap();
    mm.copy_out(MEM, &1u32.to_le_bytes()).unwrap();
    assert_eq!(end(&init), 0);
    assert_eq!(end(&other), 9);
    assert_eq!(sandbox.container.pids.processes().len(), 0);
    assert_eq!(sandbox.container.tasks.count(), 0);
}

#[test]
fn ignoring_sigchld_leaves_no_zombies() {
    run(|u| {
        u.set_action(17, 1);
        u.fork(|u| u.exit_group(0));
        assert_eq!(u.wait(-1, 0).0, -10);
    });
}

#[test]
fn a_stopped_child_is_reported_and_goes_on() {
    run(|u| {
        let child = u.fork(|u| {
            loop {
                u.pause();
            }
        });
        u.ok(nr::KILL, &[child, 19]);
        assert_eq!(u.wait(child as i64, 2), (child as i64, 19 << 8 | 0x7f));
        u.ok(nr::KILL, &[child, 18]);
        assert_eq!(u.wait(child as i64, 8), (child as i64, 0xffff));
        u.ok(nr::KILL, &[child, 19]);
        assert_eq!(u.wait(child as i64, 2).0, child as i64);
        // SIGKILL needs no SIGCONT.
        u.ok(nr::KILL, &[child, 9]);
        assert_eq!(u.wait(child as i64, 0), (child as i64, 9));
    });
}

#[test]
fn vfork_waits_for_the_childs_end() {
    run(|u| {
        u.store(MEM, 0);
        u.regs.r15 = script::program(|u: &mut User| {
            for _ in 0..50 {
                u.pause();
            }
            u.store(MEM, 1);
            u.exit_group(0);
        });
        // VM and VFORK, on the same stack.
        let child = u.ok(nr::CLONE, &[0x4111, 0]);
        assert_eq!(u.load(MEM), 1);
        assert_eq!(u.wait(child as i64, 0), (child as i64, 0));
    });
}

#[test]
fn clone_writes_ids_and_clears_them() {
    run(|u| {
        let (parent_tid, child_tid) = (MEM + 0x40, MEM + 0x48);
        u.store(child_tid, 77);
        u.regs.r15 = script::program(move |u: &mut User| {
            let tid = u.ok(nr::GETTID, &[]);
            assert_eq!(u.load(child_tid), tid);
            u.syscall(nr::EXIT, &[0]);
        });
        let flags = 0x50f00 | 0x10_0000 | 0x20_0000 | 0x100_0000;
        let tid = u.ok(nr::CLONE, &[flags, MEM + 0x8000, parent_tid, child_tid, 0]);
        assert_eq!(u.load(parent_tid) as u32, tid as u32);
        // pthread_join: waits until the kernel clears the word.
        while u.load(child_tid) as u32 != 0 {
            u.syscall(nr::FUTEX, &[child_tid, 0, tid, 0]);
        }
    });
}

#[test]
fn nonsense_flags_are_refused() {
    run(|u| {
        for flags in [0x1_0000, 0x800, 0x2_0200, 0x1000_0200, 0x2001_0900, 0x8000] {
            assert_eq!(u.syscall(nr::CLONE, &[flags, 0]), -22, "{flags:#x}");
        }
    });
}

#[test]
fn sessions_and_groups_follow_their_rules() {
    run(|u| {
        let child = u.fork(|u| {
            u.until(MEM, 0);
            u.syscall(nr::PAUSE, &[]);
        });
        assert_eq!(u.ok(nr::SETPGID, &[child, child]), 0);
        assert_eq!(u.syscall(nr::SETPGID, &[child, 5000]), -1);
        assert_eq!(u.syscall(nr::SETPGID, &[5000, 0]), -3);
        // A session's leader cannot make another, nor move.
        assert_eq!(u.syscall(nr::SETSID, &[]), -1);
        assert_eq!(u.syscall(nr::SETPGID, &[0, child]), -1);
        // kill(2) of the group.
        u.ok(nr::KILL, &[(-(child as i64)) as u64, 15]);
        assert_eq!(u.wait(-(child as i64), 0), (child as i64, 15));
    });
}

#[test]
fn the_pids_limit_is_an_error_not_a_wait() {
    let sandbox = Sandbox::new();
    sandbox.container.tasks.set_limit(2);
    let status = sandbox.run(|u| {
        let child = u.fork(|u| {
            u.syscall(nr::PAUSE, &[]);
        });
        assert_eq!(u.syscall(nr::CLONE, &[17]), -11);
        u.ok(nr::KILL, &[child, 9]);
        u.wait(child as i64, 0);
        let child = u.fork(|_| {});
        u.wait(child as i64, 0);
    });
    assert_eq!(status, 0);
}

#[test]
fn many_forks_come_and_go() {
    let sandbox = Sandbox::new();
    let status = sandbox.run(|u| {
        for n in 0..100 {
            let child = u.fork(move |u| u.exit_group(n & 0x7f));
            assert_eq!(u.wait(-1, 0), (child as i64, ((n & 0x7f) as i32) << 8));
        }
    });
    assert_eq!(status, 0);
    assert_eq!(sandbox.container.tasks.count(), 0);
}

#[test]
#[should_panic(expected = "wait status")]
fn a_program_that_fails_fails_its_test() {
    run(|_| panic!("on purpose"));
}
