//! What happens when a process of the platform is killed. Each test runs this program again, as a
//! sandbox that may die.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use common::{Program, platform, user};
use sentry::platform::{Platform, Trap};

program!(spin, "2:", "inc rbx", "jmp 2b");
program!(call, "2:", "mov eax, 39", "syscall", "jmp 2b");

const INSIDE: &str = "RINGWALL_TEST_INSIDE";

/// Runs one of the `#[ignore]`d tests below in a process of its own.
fn run(name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

/// What the inner process said in its lines that begin with `@`.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let out = BufReader::new(child.stdout.take().unwrap());
    out.lines().map_while(Result::ok).filter_map(|line| {
        let (_, said) = line.split_once('@')?;
        Some(said.to_owned())
    })
}

/// Processes whose session's or descent's root is `ancestor`, by /proc.
fn descendants(ancestor: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let parent = rest.split_whitespace().nth(1).unwrap().parse::<u32>();
        parents.push((pid, parent.unwrap()));
    }
    let mut found = vec![ancestor];
    let mut i = 0;
    while let Some(parent) = found.get(i).copied() {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| pid));
        i += 1;
    }
    found.remove(0);
    found
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().to_owned());
    state.is_some_and(|s| !s.starts_with('Z') && !s.starts_with('X'))
}

#[test]
fn no_stub_outlives_the_sentry() {
    let mut sandbox = run("sandbox_that_spins");
    let mut said = lines(&mut sandbox);
    assert_eq!(said.next().as_deref(), Some("running"));
    let stubs = descendants(sandbox.id());
    // The pristine one, two agents, two threads, and those in the pool.
    assert!(stubs.len() >= 5, "{stubs:?}");
    sandbox.kill().unwrap();
    assert_eq!(sandbox.wait().unwrap().signal(), Some(libc::SIGKILL));
    while stubs.iter().any(|pid| alive(*pid)) {
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "runs inside of another test"]
fn sandbox_that_spins() {
    if !inside() {
        return;
    }
    let idle = Program::new(call());
    for _ in 0..2 {
        let entry = || {
            let mut program = Program::new(spin());
            let _never = user().switch(&mut program.regs, &program.space);
        };
        platform().spawn("spinner", Box::new(entry)).unwrap();
    }
    while descendants(std::process::id()).len() < 6 {
        std::thread::yield_now();
    }
    say(format_args!("running"));
    platform().park(None);
    drop(idle);
}

#[test]
fn a_killed_stub_is_lost_and_others_go_on() {
    let mut sandbox = run("sandbox_whose_stubs_die");
    let said: Vec<String> = lines(&mut sandbox).collect();
    assert_eq!(said, ["thread lost", "agent lost", "works"]);
    assert!(sandbox.wait().unwrap().success());
}

#[test]
#[ignore = "runs inside of another test"]
fn sandbox_whose_stubs_die() {
    if !inside() {
        return;
    }
    let mut other = Program::new(call());
    let mut cpu = user();
    assert_eq!(cpu.switch(&mut other.regs, &other.space), Trap::Syscall);
    for what in ["thread", "agent"] {
        let before = descendants(std::process::id());
        let mut program = Program::new(spin());
        let (tell, hear) = std::sync::mpsc::channel();
        let entry = move || {
            let mut cpu = user();
            let trap = cpu.switch(&mut program.regs, &program.space);
            // Its space answers nothing any more, or works; but nobody hangs.
            program.space.unmap(platform().user_range());
            drop(cpu);
            tell.send(trap).unwrap();
        };
        platform().spawn("victim", Box::new(entry)).unwrap();
        let (agent, thread) = loop {
            let new: Vec<u32> = descendants(std::process::id())
                .into_iter()
                .filter(|pid| !before.contains(pid))
                .collect();
            // The agent may come from the pool, its thread not: one was used up.
            if let Some(thread) = new.last() {
                let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
                let (_, rest) = stat.rsplit_once(')').unwrap();
                let fields: Vec<&str> = rest.split_whitespace().collect();
                // In user mode for a while: it runs the program.
                if fields[11].parse::<u64>().unwrap() > 0 {
                    break (fields[1].parse::<u32>().unwrap(), *thread);
                }
            }
            std::thread::yield_now();
        };
        let victim = if what == "agent" { agent } else { thread };
        // SAFETY: kills a process of this test.
        unsafe { libc::kill(victim as i32, libc::SIGKILL) };
        assert_eq!(hear.recv().unwrap(), Trap::Lost);
        say(format_args!("{what} lost"));
    }
    assert_eq!(cpu.switch(&mut other.regs, &other.space), Trap::Syscall);
    say(format_args!("works"));
}
