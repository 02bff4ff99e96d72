//! The program that is measured: one operation, many times, timed from inside.
//!
//! It runs natively and in a container from the same binary. With `--sync` it says `ready`, waits for
//! a byte, runs, prints what it found and waits for another byte, so that the caller can read
//! counters at both ends of exactly the timed part.
//!
//! What it prints is the median over [`LAPS`] stretches of the run: where something else takes the CPU
//! for a while, a few of them are slow, and the figure is not.

use std::ffi::CString;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// An operation that can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// Times that it runs at least; the caller multiplies.
    pub base: u64,
    run: fn(&mut Meter) -> Result<(), String>,
}

/// All of them, in the order of the table. Each stays on one CPU, with whatever it starts, but for [`SPREAD`].
pub const OPERATIONS: &[Operation] = &[
    Operation { name: "null system call", base: 16_000, run: null },
    Operation { name: "page fault", base: PAGES * LAPS, run: page_fault },
    Operation { name: "fork+exit+wait", base: 160, run: fork_wait },
    Operation { name: "fork+exec+wait", base: 64, run: fork_exec_wait },
    Operation { name: "thread create+join", base: 320, run: thread },
    Operation { name: "pipe round trip", base: 3_200, run: pipe },
    Operation { name: "futex round trip", base: 3_200, run: futex },
    Operation { name: "context switch", base: 6_400, run: context_switch },
    Operation { name: "signal", base: 4_800, run: signal },
    Operation { name: "open+close", base: 3_200, run: open_close },
    Operation { name: "stat", base: 4_800, run: stat },
    Operation { name: "read 4 KiB", base: 4_800, run: |meter| read(meter, 4 << 10) },
    Operation { name: "read 64 KiB", base: 1_600, run: |meter| read(meter, 64 << 10) },
    Operation { name: "tmpfs open+close", base: 3_200, run: tmpfs_open_close },
    Operation { name: "tmpfs write+read", base: 1_600, run: tmpfs_write_read },
    Operation { name: "1,000 files", base: FILES * LAPS, run: many_files },
    Operation {
        name: "malloc, 1 thread",
        base: ALLOCATIONS * LAPS,
        run: |meter| allocate(meter, 1),
    },
    Operation {
        name: "malloc, 2 threads",
        base: ALLOCATIONS * LAPS,
        run: |meter| allocate(meter, 2),
    },
];

/// Those that may use every CPU.
const SPREAD: [&str; 2] = ["malloc, 1 thread", "malloc, 2 threads"];
/// Files below the folder [`FOLDER`] beside the program, of 4 KiB each.
pub const FILES: u64 = 1_000;
/// Where they are.
pub const FOLDER: &str = "files";
/// Allocations of a stretch that each thread makes before they meet again.
const ALLOCATIONS: u64 = 20_000;

/// Stretches of a run that are timed one by one.
const LAPS: u64 = 16;
/// Pages that the page-fault operation maps at a time: 8 MiB.
const PAGES: u64 = 2048;

/// The operation of this name.
pub fn operation(name: &str) -> Option<Operation> {
    OPERATIONS.iter().copied().find(|o| o.name == name)
}

/// The file that open, stat and read use: the program itself, 64 KiB and more.
const FILE: &str = "/proc/self/exe";

/// Runs `name` `times` times and prints the nanoseconds of one time, and the system calls in it where
/// they are known (else 0).
pub fn main(name: &str, times: u64, sync: bool) -> Result<(), String> {
    let operation = operation(name).ok_or_else(|| format!("no operation is called {name:?}"))?;
    if !SPREAD.contains(&name) {
        pin()?;
    }
    let mut meter = Meter::new(times, sync);
    (operation.run)(&mut meter)?;
    meter.report()
}

/// Counts the operations of a run, and times them. The first ones, in which what happens only once
/// happens, come before the clock starts.
struct Meter {
    times: u64,
    /// Operations that are left before the clock starts.
    warm: u64,
    /// Timed ones so far.
    done: u64,
    /// When the current lap began, and the number of operations done then.
    lap: Option<(Instant, u64)>,
    /// Nanoseconds per operation.
    laps: Vec<f64>,
    /// System calls per operation, if known.
    calls: f64,
    sync: bool,
}

impl Meter {
    fn new(times: u64, sync: bool) -> Meter {
        let warm = times / LAPS + 1;
        Meter { times, warm, done: 0, lap: None, laps: Vec::new(), calls: 0.0, sync }
    }

    /// All operations that there will be, for a partner that does as many.
    fn total(&self) -> u64 {
        self.warm + self.times
    }

    /// Whether to do the operation once more.
    fn next(&mut self) -> Result<bool, String> {
        Ok(self.take(1)? != 0)
    }

    /// How many operations to do next, up to `most`; 0 at the end.
    fn take(&mut self, most: u64) -> Result<u64, String> {
        if self.warm > 0 {
            let n = most.min(self.warm);
            self.warm -= n;
            return Ok(n);
        }
        let every = (self.times / LAPS).max(1);
        match self.lap {
            None => {
                self.exchange("ready\n")?;
                self.lap = Some((Instant::now(), 0));
            }
            Some((since, before)) if self.done - before >= every || self.done >= self.times => {
                let now = Instant::now();
                let ops = (self.done - before).max(1);
                self.laps.push((now - since).as_nanos() as f64 / ops as f64);
                self.lap = Some((now, self.done));
            }
            Some(_) => {}
        }
        let n = most.min(self.times - self.done);
        self.done += n;
        Ok(n)
    }

    /// Says something and waits for a byte.
    fn exchange(&self, text: &str) -> Result<(), String> {
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| e.to_string())?;
        if self.sync && std::io::stdin().read(&mut [0]).map_err(|e| e.to_string())? == 0 {
            return Err("nobody waits for the result".into());
        }
        Ok(())
    }

    fn report(mut self) -> Result<(), String> {
        let ns = median(&mut self.laps).ok_or("nothing was timed")?;
        self.exchange(&format!("{ns} {}\n", self.calls))
    }
}

/// The middle one; of an even number, the lower of the two in the middle.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
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

fn null(meter: &mut Meter) -> Result<(), String> {
    meter.calls = 1.0;
    while meter.next()? {
        // SAFETY: getppid has no arguments and no effect.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    Ok(())
}

fn page_fault(meter: &mut Meter) -> Result<(), String> {
    const PAGE: usize = 4096;
    loop {
        let pages = meter.take(PAGES)? as usize;
        if pages == 0 {
            return Ok(());
        }
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
    }
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

fn fork_wait(meter: &mut Meter) -> Result<(), String> {
    while meter.next()? {
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

fn fork_exec_wait(meter: &mut Meter) -> Result<(), String> {
    let path = CString::new(FILE).map_err(|e| e.to_string())?;
    let name = CString::new(EXIT).map_err(|e| e.to_string())?;
    let argv = [name.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null()];
    while meter.next()? {
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

fn thread(meter: &mut Meter) -> Result<(), String> {
    while meter.next()? {
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(|| ())
            .map_err(|e| format!("thread: {e}"))?
            .join()
            .map_err(|_| "a thread panicked")?;
    }
    Ok(())
}

fn pipe(meter: &mut Meter) -> Result<(), String> {
    use nix::unistd::{pipe, read, write};
    // Both sides read and write once.
    meter.calls = 4.0;
    let times = meter.total();
    let (here_in, there_out) = pipe().map_err(|e| format!("pipe: {e}"))?;
    let (there_in, here_out) = pipe().map_err(|e| format!("pipe: {e}"))?;
    let mut byte = [0];
    // SAFETY: the process has one thread here; the child makes system calls only, then exits.
    match unsafe { libc::fork() } {
        -1 => Err(os("fork")),
        0 => {
            // So that it does not wait for its parent for ever if that fails.
            drop((here_in, here_out));
            let all = (0..times)
                .all(|_| read(&there_in, &mut byte) == Ok(1) && write(&there_out, &byte) == Ok(1));
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!all)) }
        }
        child => {
            while meter.next()? {
                write(&here_out, &byte).map_err(|e| format!("write: {e}"))?;
                read(&here_in, &mut byte).map_err(|e| format!("read: {e}"))?;
            }
            reap(child)
        }
    }
}

fn futex(meter: &mut Meter) -> Result<(), String> {
    fn call(word: &AtomicU32, op: i32, value: u32, calls: &AtomicU64) {
        calls.fetch_add(1, Ordering::Relaxed);
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
    fn turn(word: &AtomicU32, mine: u32, calls: &AtomicU64) {
        loop {
            let now = word.load(Ordering::Acquire);
            if now == mine {
                break;
            }
            call(word, libc::FUTEX_WAIT, now, calls);
        }
        word.store(1 - mine, Ordering::Release);
        call(word, libc::FUTEX_WAKE, 1, calls);
    }
    let (word, calls) = (AtomicU32::new(0), AtomicU64::new(0));
    let times = meter.total();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..times).for_each(|_| turn(&word, 1, &calls)));
        while meter.next().unwrap_or_else(|e| give_up(&e)) {
            turn(&word, 0, &calls);
        }
    });
    // How often each finds its turn come without waiting depends on who is scheduled when.
    meter.calls = calls.into_inner() as f64 / times as f64;
    Ok(())
}

/// Ends the process where a thread of it would be waited for in vain.
fn give_up(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

fn context_switch(meter: &mut Meter) -> Result<(), String> {
    use nix::unistd::{pipe, read, write};
    // Two processes on one CPU that yield to each other: each yield of either is a switch.
    meter.calls = 1.0;
    let times = meter.times / 2;
    let (wait, tell) = pipe().map_err(|e| format!("pipe: {e}"))?;
    // SAFETY: the process has one thread here; the child only yields, then exits.
    match unsafe { libc::fork() } {
        -1 => Err(os("fork")),
        0 => {
            drop(tell);
            // Not before the clock runs, or it would have yielded to nobody by then.
            let told = read(&wait, &mut [0]) == Ok(1);
            for _ in 0..times {
                // SAFETY: it has no arguments and touches no memory.
                unsafe { libc::sched_yield() };
            }
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!told)) }
        }
        child => {
            drop(wait);
            let mut tell = Some(tell);
            while meter.take(2)? != 0 {
                if meter.lap.is_some()
                    && let Some(tell) = tell.take()
                {
                    write(&tell, &[0]).map_err(|e| format!("write: {e}"))?;
                }
                // SAFETY: it has no arguments and touches no memory.
                unsafe { libc::sched_yield() };
            }
            reap(child)
        }
    }
}

extern "C" fn handler(_signal: libc::c_int) {}

fn signal(meter: &mut Meter) -> Result<(), String> {
    let handler = handler as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing, so it may run anywhere.
    if unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(os("signal"));
    }
    // SAFETY: it has no arguments and no effect.
    let me = unsafe { libc::getpid() };
    // The signal, and the return from its handler.
    meter.calls = 2.0;
    while meter.next()? {
        // SAFETY: a signal to this process, for which there is a handler.
        unsafe { libc::kill(me, libc::SIGUSR1) };
    }
    Ok(())
}

fn open_close(meter: &mut Meter) -> Result<(), String> {
    let path = real_path()?;
    meter.calls = 2.0;
    while meter.next()? {
        drop(std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(())
}

fn stat(meter: &mut Meter) -> Result<(), String> {
    let path = real_path()?;
    meter.calls = 1.0;
    while meter.next()? {
        std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn read(meter: &mut Meter, size: usize) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let path = real_path()?;
    let file = std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut buf = vec![0; size];
    meter.calls = 1.0;
    while meter.next()? {
        file.read_exact_at(&mut buf, 0).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn real_path() -> Result<std::path::PathBuf, String> {
    std::fs::read_link(FILE).map_err(|e| format!("{FILE}: {e}"))
}

/// A new file on a tmpfs, and its path.
fn on_tmpfs() -> Result<(std::path::PathBuf, std::fs::File), String> {
    // devtmpfs is one too, and says so; in a container only /dev is sure to be there.
    let folder = ["/dev/shm", "/dev"]
        .into_iter()
        .find(|folder| {
            nix::sys::statfs::statfs(*folder)
                .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
        })
        .ok_or("neither /dev/shm nor /dev is a tmpfs")?;
    let path = std::path::Path::new(folder).join(format!("ringwall-bench-{}", std::process::id()));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok((path, file))
}

fn tmpfs_open_close(meter: &mut Meter) -> Result<(), String> {
    let (path, file) = on_tmpfs()?;
    drop(file);
    meter.calls = 2.0;
    let mut result = Ok(());
    while result.is_ok() && meter.next()? {
        result = std::fs::File::open(&path).map(drop);
    }
    let removed = std::fs::remove_file(&path);
    result.and(removed).map_err(|e| format!("{}: {e}", path.display()))
}

fn tmpfs_write_read(meter: &mut Meter) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let (path, file) = on_tmpfs()?;
    std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut buf = vec![7; 64 << 10];
    meter.calls = 2.0;
    while meter.next()? {
        file.write_all_at(&buf, 0)
            .and_then(|()| file.read_exact_at(&mut buf, 0))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn many_files(meter: &mut Meter) -> Result<(), String> {
    let program = real_path()?;
    let folder = program.parent().unwrap_or(&program).join(FOLDER);
    let paths: Vec<_> = (0..FILES).map(|n| folder.join(n.to_string())).collect();
    let mut buf = [0; 4 << 10];
    meter.calls = 3.0;
    for path in paths.iter().cycle() {
        if !meter.next()? {
            break;
        }
        std::fs::File::open(path)
            .and_then(|mut file| file.read_exact(&mut buf))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Threads that allocate and free side by side; the time is of one allocation of each.
fn allocate(meter: &mut Meter, threads: usize) -> Result<(), String> {
    loop {
        let times = meter.take(ALLOCATIONS)?;
        if times == 0 {
            return Ok(());
        }
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut kept: [Vec<u8>; 16] = Default::default();
                    for n in 0..times {
                        let len = 16 + (n.wrapping_mul(0x9e37_79b9) >> 7 & 1023) as usize;
                        kept[n as usize % kept.len()] =
                            std::hint::black_box(Vec::with_capacity(len));
                    }
                });
            }
        });
    }
}
