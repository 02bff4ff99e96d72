//! The program that is measured: one operation, many times, timed from inside.
//!
//! It runs natively and in a container from the same binary. With `--sync` it says `ready`, waits for
//! a byte, runs, prints the nanoseconds and waits for another byte, so that the caller can read
//! counters at both ends of exactly the timed part.

use std::ffi::CString;
use std::io::{Read, Write};
use std::time::Instant;

/// An operation that can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// Times that it runs at least; the caller multiplies.
    pub base: u64,
    /// System calls that one operation really makes, for figures counted per system call.
    pub calls: u64,
    /// Whether both sides stay on one CPU.
    pub pinned: bool,
    run: fn(u64) -> Result<(), String>,
}

/// All of them, in the order of the table.
pub const OPERATIONS: &[Operation] = &[
    Operation { name: "null system call", base: 20_000, calls: 1, pinned: true, run: null },
    Operation { name: "page fault", base: 8_192, calls: 0, pinned: true, run: page_fault },
    Operation { name: "fork+exit+wait", base: 100, calls: 3, pinned: true, run: fork_wait },
    Operation { name: "fork+exec+wait", base: 40, calls: 4, pinned: true, run: fork_exec_wait },
    Operation { name: "thread create+join", base: 200, calls: 8, pinned: true, run: thread },
    Operation { name: "pipe round trip", base: 2_000, calls: 4, pinned: true, run: pipe },
    Operation { name: "futex round trip", base: 2_000, calls: 4, pinned: true, run: futex },
    Operation { name: "context switch", base: 5_000, calls: 1, pinned: true, run: context_switch },
    Operation { name: "signal", base: 5_000, calls: 2, pinned: true, run: signal },
    Operation { name: "open+close", base: 2_000, calls: 2, pinned: true, run: open_close },
    Operation { name: "stat", base: 5_000, calls: 1, pinned: true, run: stat },
    Operation {
        name: "read 4 KiB",
        base: 5_000,
        calls: 1,
        pinned: true,
        run: |n| read(n, 4 << 10),
    },
    Operation {
        name: "read 64 KiB",
        base: 1_000,
        calls: 1,
        pinned: true,
        run: |n| read(n, 64 << 10),
    },
];

/// The operation of this name.
pub fn operation(name: &str) -> Option<Operation> {
    OPERATIONS.iter().copied().find(|o| o.name == name)
}

/// The file that open, stat and read use: the program itself, 64 KiB and more.
const FILE: &str = "/proc/self/exe";

/// Runs `name` `times` times and prints the nanoseconds that it took.
pub fn main(name: &str, times: u64, sync: bool) -> Result<(), String> {
    let operation = operation(name).ok_or_else(|| format!("no operation is called {name:?}"))?;
    if operation.pinned {
        pin()?;
    }
    // Once before, so that what happens only the first time is not measured.
    (operation.run)(operation.base.min(times) / 16 + 1)?;
    let (mut out, mut input) = (std::io::stdout(), std::io::stdin());
    let mut wait = |text: &str| -> Result<(), String> {
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| e.to_string())?;
        if sync {
            let n = input.read(&mut [0]).map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("nobody waits for the result".into());
            }
        }
        Ok(())
    };
    wait("ready\n")?;
    let start = Instant::now();
    (operation.run)(times)?;
    let took = start.elapsed().as_nanos();
    wait(&format!("{took}\n"))
}

/// The name that `fork+exec+wait` executes the binary under: [`crate::main`] ends at once then.
pub const EXIT: &str = "bench-exit";

fn os(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}

/// Stays on the first CPU that it may use.
pub fn pin() -> Result<(), String> {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let all = sched_getaffinity(Pid::from_raw(0)).map_err(|e| format!("sched_getaffinity: {e}"))?;
    let first = (0..CpuSet::count())
        .find(|cpu| all.is_set(*cpu).unwrap_or(false))
        .ok_or("sched_getaffinity: no CPU")?;
    let mut one = CpuSet::new();
    one.set(first).map_err(|e| format!("CPU {first}: {e}"))?;
    sched_setaffinity(Pid::from_raw(0), &one).map_err(|e| format!("sched_setaffinity: {e}"))
}

fn null(times: u64) -> Result<(), String> {
    for _ in 0..times {
        // SAFETY: getppid has no arguments and no effect.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    Ok(())
}

fn page_fault(times: u64) -> Result<(), String> {
    const PAGE: usize = 4096;
    /// Pages touched per mapping: 8 MiB.
    const BATCH: usize = 2048;
    let mut left = times as usize;
    while left > 0 {
        let pages = left.min(BATCH);
        let len = pages * PAGE;
        let (rw, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, rw, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(os("mmap"));
        }
        // SAFETY: the range was mapped just now, and only advice is given about it. Huge pages would
        // make one fault of 512.
        unsafe { libc::madvise(at, len, libc::MADV_NOHUGEPAGE) };
        for page in 0..pages {
            // SAFETY: the page lies inside the mapping, which nobody else knows.
            unsafe { at.cast::<u8>().add(page * PAGE).write_volatile(1) };
        }
        // SAFETY: it is the mapping made above, and no reference into it is left.
        unsafe { libc::munmap(at, len) };
        left -= pages;
    }
    Ok(())
}

/// Waits for a child; its exit status must be 0.
fn reap(child: libc::pid_t) -> Result<(), String> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for an int.
    if unsafe { libc::waitpid(child, &mut status, 0) } != child {
        return Err(os("waitpid"));
    }
    match libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        true => Ok(()),
        false => Err(format!("a child ended with wait status {status:#x}")),
    }
}

fn fork_wait(times: u64) -> Result<(), String> {
    for _ in 0..times {
        // SAFETY: the process has one thread here, and the child only exits.
        match unsafe { libc::fork() } {
            -1 => return Err(os("fork")),
            // SAFETY: ends the child without running anything of the parent's.
            0 => unsafe { libc::_exit(0) },
            child => reap(child)?,
        }
    }
    Ok(())
}

fn fork_exec_wait(times: u64) -> Result<(), String> {
    let path = CString::new(FILE).map_err(|e| e.to_string())?;
    let name = CString::new(EXIT).map_err(|e| e.to_string())?;
    let argv = [name.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null()];
    for _ in 0..times {
        // SAFETY: the process has one thread here; the child calls execve and _exit alone, with
        // vectors that live in both.
        match unsafe { libc::fork() } {
            -1 => return Err(os("fork")),
            // SAFETY: the vectors end in null and point to strings that live.
            0 => unsafe {
                libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
                libc::_exit(1)
            },
            child => reap(child)?,
        }
    }
    Ok(())
}

fn thread(times: u64) -> Result<(), String> {
    for _ in 0..times {
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(|| ())
            .map_err(|e| format!("thread: {e}"))?
            .join()
            .map_err(|_| "a thread panicked")?;
    }
    Ok(())
}

fn pipe(times: u64) -> Result<(), String> {
    use nix::unistd::{pipe, read, write};
    let (here_in, there_out) = pipe().map_err(|e| format!("pipe: {e}"))?;
    let (there_in, here_out) = pipe().map_err(|e| format!("pipe: {e}"))?;
    let mut byte = [0];
    // SAFETY: the process has one thread here; the child makes system calls only, then exits.
    match unsafe { libc::fork() } {
        -1 => Err(os("fork")),
        0 => {
            let all = (0..times)
                .all(|_| read(&there_in, &mut byte) == Ok(1) && write(&there_out, &byte) == Ok(1));
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!all)) }
        }
        child => {
            for _ in 0..times {
                write(&here_out, &byte).map_err(|e| format!("write: {e}"))?;
                read(&here_in, &mut byte).map_err(|e| format!("read: {e}"))?;
            }
            reap(child)
        }
    }
}

fn futex(times: u64) -> Result<(), String> {
    use std::sync::atomic::{AtomicU32, Ordering};
    fn call(word: &AtomicU32, op: i32, value: u32) {
        // SAFETY: the word outlives the call, and the kernel only compares and waits.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                op | libc::FUTEX_PRIVATE_FLAG,
                value,
                std::ptr::null::<libc::timespec>(),
            )
        };
    }
    /// Waits for the word to become `mine`, makes it the other's, and wakes the other.
    fn turn(word: &AtomicU32, mine: u32) {
        loop {
            let now = word.load(Ordering::Acquire);
            if now == mine {
                break;
            }
            call(word, libc::FUTEX_WAIT, now);
        }
        word.store(1 - mine, Ordering::Release);
        call(word, libc::FUTEX_WAKE, 1);
    }
    let word = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..times).for_each(|_| turn(&word, 1)));
        (0..times).for_each(|_| turn(&word, 0));
    });
    Ok(())
}

fn context_switch(times: u64) -> Result<(), String> {
    // Two processes on one CPU that yield to each other; each yield is a switch.
    // SAFETY: the process has one thread here; the child only yields, then exits.
    match unsafe { libc::fork() } {
        -1 => Err(os("fork")),
        0 => {
            for _ in 0..times / 2 {
                // SAFETY: it has no arguments and touches no memory.
                unsafe { libc::sched_yield() };
            }
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        child => {
            for _ in 0..times / 2 {
                // SAFETY: it has no arguments and touches no memory.
                unsafe { libc::sched_yield() };
            }
            reap(child)
        }
    }
}

extern "C" fn handler(_signal: libc::c_int) {}

fn signal(times: u64) -> Result<(), String> {
    let handler = handler as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing, so it may run anywhere.
    if unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(os("signal"));
    }
    // SAFETY: it has no arguments and no effect.
    let me = unsafe { libc::getpid() };
    for _ in 0..times {
        // SAFETY: a signal to this process, for which there is a handler.
        unsafe { libc::kill(me, libc::SIGUSR1) };
    }
    Ok(())
}

fn open_close(times: u64) -> Result<(), String> {
    let path = real_path()?;
    for _ in 0..times {
        drop(std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(())
}

fn stat(times: u64) -> Result<(), String> {
    let path = real_path()?;
    for _ in 0..times {
        std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn read(times: u64, size: usize) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let path = real_path()?;
    let file = std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut buf = vec![0; size];
    for _ in 0..times {
        file.read_exact_at(&mut buf, 0).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn real_path() -> Result<std::path::PathBuf, String> {
    std::fs::read_link(FILE).map_err(|e| format!("{FILE}: {e}"))
}
