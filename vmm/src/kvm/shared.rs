//! What the event loop and the vCPU threads share, and the requests that either can serve.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest::contract::{MAX_BUFFER, NO_CPU, PAGE, Request, op};
use ptrace_fallback::LogSink;
use sentry::platform::Level;
use vmm_sys_util::eventfd::EventFd;

use super::boot::Layout;
use super::end::{End, Lie};
use super::files::Files;
use super::memory::{Ram, Shrunk, Window};
use super::streams::{Streams, negated};
use super::symbols::symbolized;

/// What a vCPU thread asks the event loop for.
#[derive(Debug)]
pub enum Command {
    /// The sandbox has ended.
    End(End),
    /// Start a vCPU.
    Start(StartCpu),
    /// Tell the image.
    Shrunk(Vec<Shrunk>),
}

/// The registers of a vCPU that starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the architecture's
pub struct StartCpu {
    /// Which.
    pub cpu: u32,
    pub rip: u64,
    pub rsp: u64,
    pub rdi: u64,
    pub cr3: u64,
}

/// Shared between threads.
///
/// Order of locks: `files`, then `window`; the others are taken alone.
pub struct Shared {
    /// RAM.
    pub ram: Ram,
    /// Where things are in it.
    pub layout: Layout,
    /// vCPUs that there may be.
    pub vcpus: u32,
    /// Donated files.
    pub files: Mutex<Files>,
    /// The window that they are mapped in.
    pub window: Mutex<Window>,
    /// Streams.
    pub streams: Mutex<Streams>,
    /// Sockets to gofers that the image has not opened yet.
    pub gofers: Mutex<Vec<Option<OwnedFd>>>,
    /// One irqfd per vCPU.
    pub irqs: Vec<EventFd>,
    /// Bit `n`: vCPU `n` has been started.
    pub started: AtomicU64,
    /// For the event loop.
    pub commands: Mutex<VecDeque<Command>>,
    /// Rings when there are commands.
    pub bell: EventFd,
    /// Streams that are to be let go.
    pub gone_streams: Mutex<Vec<u32>>,
    /// vCPU threads are to end.
    pub stopping: AtomicBool,
    /// What the image has said of its panic.
    pub panic: Mutex<String>,
    /// Early output that has not ended its line.
    pub early: Mutex<Vec<u8>>,
    log: LogSink,
}

/// Most text of a panic report that is kept.
const MAX_PANIC: usize = 64 << 10;
/// Longest line of early output.
const MAX_EARLY: usize = 4096;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Takes a lock; what it guards is whole at every moment at which a panic could leave it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Puts it together, for at most `donations` donated files. No vCPU but 0 is started.
    pub fn new(
        ram: Ram,
        window: Window,
        layout: Layout,
        vcpus: u32,
        donations: usize,
        log: LogSink,
    ) -> io::Result<Shared> {
        let nonblocking = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Shared {
            ram,
            layout,
            vcpus,
            files: Mutex::new(Files::new(donations)),
            window: Mutex::new(window),
            streams: Mutex::default(),
            gofers: Mutex::default(),
            irqs: (0..vcpus).map(|_| nonblocking()).collect::<io::Result<_>>()?,
            started: AtomicU64::new(1),
            commands: Mutex::default(),
            bell: nonblocking()?,
            gone_streams: Mutex::default(),
            stopping: AtomicBool::new(false),
            panic: Mutex::default(),
            early: Mutex::default(),
            log,
        })
    }

    /// Asks the event loop for something.
    pub fn command(&self, command: Command) {
        lock(&self.commands).push_back(command);
        self.bell();
    }

    /// Makes the event loop look round.
    pub fn bell(&self) {
        // Only a counter at its maximum refuses, and then the bell rings already.
        let _full = self.bell.write(1);
    }

    /// Interrupts a vCPU, if it is named and has been started.
    pub fn interrupt(&self, cpu: u32) -> Result<(), Lie> {
        if cpu == NO_CPU {
            return Ok(());
        }
        let irq = self.irqs.get(cpu as usize).ok_or(Lie::Cpu(cpu))?;
        if self.started.load(Ordering::Acquire) >> cpu & 1 != 0 {
            // Only a counter at its maximum refuses, and then the interrupt is on its way.
            let _full = irq.write(1);
        }
        Ok(())
    }

    /// Writes a line of our own to the log.
    pub fn say(&self, level: Level, line: fmt::Arguments<'_>) {
        (self.log)(level, line);
    }

    /// Writes text of the guest's to the log, line by line, with nothing in it that a terminal would
    /// act on.
    pub fn log(&self, level: Level, text: &[u8]) {
        for line in text.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
            (self.log)(level, format_args!("{}", printable(line)));
        }
    }

    /// Keeps a piece of a panic report and logs it.
    pub fn panicked(&self, text: &[u8]) {
        let mut panic = lock(&self.panic);
        for line in text.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
            for line in symbolized(&printable(line)).lines() {
                (self.log)(Level::Error, format_args!("{line}"));
                if panic.len() < MAX_PANIC {
                    if !panic.is_empty() {
                        panic.push('\n');
                    }
                    panic.push_str(line);
                }
            }
        }
    }

    /// Takes a byte of early output.
    pub fn early(&self, byte: u8) {
        let mut line = lock(&self.early);
        if byte != b'\n' {
            line.push(byte);
        }
        if byte == b'\n' || line.len() >= MAX_EARLY {
            let line = std::mem::take(&mut *line);
            self.log(Level::Info, &line);
        }
    }

    /// Looks whether a mapped file has shrunk, after a vCPU has met memory that is not there. Says
    /// whether it was so.
    pub fn memory_vanished(&self) -> io::Result<bool> {
        let shrunk = lock(&self.window).recheck()?;
        if shrunk.is_empty() {
            return Ok(false);
        }
        self.command(Command::Shrunk(shrunk));
        Ok(true)
    }

    /// Serves a request that needs nothing of the event loop's. `None`: it needs it, or is unknown.
    pub fn serve(&self, request: &Request) -> Result<Option<i64>, Lie> {
        let handle = request.handle;
        let result = match request.op {
            op::NOP => 0,
            op::FILE_READ => self.transfer(request, |ptr, len, offset| {
                self.file_io(handle, |fd, _| {
                    // SAFETY: `transfer` has checked that the buffer is in RAM, to which nobody in
                    // this process holds a reference.
                    unsafe {
                        let iov = libc::iovec { iov_base: ptr.cast(), iov_len: len };
                        libc::preadv2(fd, &iov, 1, offset, 0)
                    }
                })
            })?,
            op::FILE_WRITE => self.transfer(request, |ptr, len, offset| {
                self.file_io(handle, |fd, writable| {
                    if !writable {
                        return -(libc::EBADF as isize);
                    }
                    // SAFETY: as above.
                    unsafe {
                        let iov = libc::iovec { iov_base: ptr.cast(), iov_len: len };
                        libc::pwritev2(fd, &iov, 1, offset, 0)
                    }
                })
            })?,
            op::FILE_SIZE => match lock(&self.files).get(handle) {
                None => BADF,
                Some(file) => {
                    crate::host::stat(&file.file).map_or_else(|e| negated(&e), |stat| stat.st_size)
                }
            },
            op::WINDOW_MAP => {
                let files = lock(&self.files);
                let mut window = lock(&self.window);
                if !window.check(request.gpa, request.len) {
                    return Err(wrong(request, "it maps outside the window's rules"));
                }
                if !request.offset.is_multiple_of(PAGE) {
                    return Err(wrong(request, "its offset is not a multiple of the page size"));
                }
                match files.get(handle) {
                    None => BADF,
                    Some(file) => {
                        let writable = i64::from(file.writable);
                        window
                            .map(request.gpa, request.len, handle, file, request.offset)
                            .map_or_else(|e| negated(&e), |()| writable)
                    }
                }
            }
            op::WINDOW_UNMAP => {
                let mut window = lock(&self.window);
                if !window.check(request.gpa, request.len) {
                    return Err(wrong(request, "it unmaps outside the window's rules"));
                }
                outcome(window.unmap(request.gpa, request.len))
            }
            op::FILE_CLOSE => {
                let mut files = lock(&self.files);
                let unmapped = lock(&self.window).forget(handle);
                if files.close(handle) { outcome(unmapped) } else { BADF }
            }
            op::STREAM_READ => self.transfer(request, |ptr, len, _| {
                // SAFETY: `transfer` has checked the buffer.
                self.stream(handle, |stream| unsafe { stream.read(ptr, len) })
            })?,
            op::STREAM_WRITE => self.transfer(request, |ptr, len, _| {
                // SAFETY: `transfer` has checked the buffer.
                self.stream(handle, |stream| unsafe { stream.write(ptr, len) })
            })?,
            op::STREAM_READY => self.stream(handle, |stream| stream.ready()),
            op::STREAM_WINDOW => self.stream(handle, |stream| stream.window()),
            op::STREAM_SEEK => {
                self.stream(handle, |stream| stream.seek(request.offset.cast_signed(), request.len))
            }
            op::STREAM_KIND => self.stream(handle, |stream| stream.kind()),
            op::STREAM_CLOSE => {
                if lock(&self.streams).get(handle).is_none() {
                    return Ok(Some(BADF));
                }
                // By the event loop, which may be watching it.
                let mut gone = lock(&self.gone_streams);
                if !gone.contains(&handle) {
                    gone.push(handle);
                }
                drop(gone);
                self.bell();
                0
            }
            op::RELEASE => {
                self.run_of_ram(request)?;
                outcome(self.ram.release(request.gpa, request.len))
            }
            op::POPULATE => {
                self.run_of_ram(request)?;
                // Only ahead of use: what the host cannot give now it will be asked for again.
                let _short = self.ram.populate(request.gpa, request.len);
                0
            }
            _ => return Ok(None),
        };
        Ok(Some(result))
    }

    /// Checks a buffer and hands it to `f` as pointer, length and file offset.
    fn transfer(
        &self,
        request: &Request,
        f: impl FnOnce(*mut u8, usize, i64) -> i64,
    ) -> Result<i64, Lie> {
        if request.len > MAX_BUFFER {
            return Err(wrong(request, "its buffer is too long"));
        }
        let ptr = self.ram.pointer(request.gpa, request.len)?;
        let Ok(offset) = i64::try_from(request.offset) else {
            return Ok(-i64::from(libc::EINVAL));
        };
        Ok(f(ptr, request.len as usize, offset))
    }

    fn file_io(&self, handle: u32, f: impl Fn(i32, bool) -> isize) -> i64 {
        let Some(file) = lock(&self.files).get(handle) else { return BADF };
        loop {
            let n = f(file.file.as_raw_fd(), file.writable);
            if n != -1 {
                return n as i64;
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return negated(&e);
            }
        }
    }

    fn stream(&self, handle: u32, f: impl FnOnce(&super::streams::HostStream) -> i64) -> i64 {
        let stream = lock(&self.streams).get(handle);
        stream.map_or(BADF, |stream| f(&stream))
    }

    /// Checks a run of pages for RELEASE and POPULATE.
    fn run_of_ram(&self, request: &Request) -> Result<(), Lie> {
        self.ram.check(request.gpa, request.len)?;
        if !request.gpa.is_multiple_of(PAGE)
            || !request.len.is_multiple_of(PAGE)
            || request.gpa < self.layout.first_free
        {
            return Err(wrong(request, "its run of pages is not one of free memory"));
        }
        Ok(())
    }
}

const BADF: i64 = -(libc::EBADF as i64);

fn outcome(result: io::Result<()>) -> i64 {
    result.map_or_else(|e| negated(&e), |()| 0)
}

/// A request that breaks a rule.
pub fn wrong(request: &Request, what: &'static str) -> Lie {
    Lie::Request { op: request.op, what }
}

/// Text of the guest's without control characters.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c == '\t' {
            text.push(' ');
        } else if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_nothing_to_act_on() {
        assert_eq!(printable(b"a\x1b[2J\tb\xff"), "a\\u{1b}[2J b\u{fffd}");
        assert_eq!(printable("é\u{9b}".as_bytes()), "é\\u{9b}");
    }
}
