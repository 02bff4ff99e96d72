//! Stub processes: the host's side of an address space.
//!
//! A stub has nothing in it but two pages of ours ([`code`]) and what its address space maps. Its
//! first thread, the *agent*, is untraced and makes the few system calls that change the mappings. A
//! round trip to it costs half a ptrace round, needs no stopped thread, and takes a batch at a time.
//! Other threads run the application while traced; one that is let go waits in the code page.
//!
//! Stubs whose address space is gone are emptied and kept for the next one.

pub(crate) mod code;
mod pristine;
mod requests;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use sentry::errno::Errno;
use sentry::platform::Registers;

pub(crate) use requests::Request;

use crate::Error;
use crate::sys;
use requests::{Page, Requests};

/// Addresses that an application can have mapped: from vm.mmap_min_addr's usual value to our pages.
pub(crate) const USER: Range<u64> = 0x1_0000..code::CODE;

/// Emptied stubs that are kept.
const POOL: usize = 12;
/// Answers of an agent are errno + 1; what is added to the count of a dead one.
const DEAD: u64 = 1 << 32;
/// How long the pristine stub may take to begin, and a killed one to end.
const PATIENCE_MS: i32 = 5000;

/// All stubs.
pub(crate) struct Stubs {
    requests: Requests,
    pristine: OnceLock<Arc<Stub>>,
    pool: Mutex<Vec<Arc<Stub>>>,
    next_id: AtomicU64,
    /// Told about every new stub, so that it watches for its death; not there before the start.
    watcher: OnceLock<Watcher>,
}

/// What is told about a new stub.
pub(crate) type Watcher = Box<dyn Fn(&Arc<Stub>) + Send + Sync>;

/// One stub process.
pub(crate) struct Stub {
    /// Never used twice.
    pub(crate) id: u64,
    pid: i32,
    pidfd: OwnedFd,
    /// The agent answers here.
    answers: File,
    page: Page,
    agent: Mutex<Agent>,
    threads: Mutex<Threads>,
    dead: AtomicBool,
    watched: AtomicBool,
    stubs: Weak<Stubs>,
}

/// The threads of a stub but for the agent.
#[derive(Default)]
struct Threads {
    /// They wait in the code page to be seized.
    idle: Vec<i32>,
    /// They are traced.
    busy: Vec<i32>,
}

struct Agent {
    /// The last batch that was posted.
    number: u32,
    /// Whether its answer has not been taken yet.
    outstanding: bool,
    /// The CPU that the agent is bound to.
    cpu: Option<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stubs {
    /// Makes the pristine stub.
    pub(crate) fn new() -> Result<Arc<Stubs>, Error> {
        let requests = Requests::new()?;
        let stubs = Arc::new(Stubs {
            requests,
            pristine: OnceLock::new(),
            pool: Mutex::default(),
            next_id: AtomicU64::new(1),
            watcher: OnceLock::new(),
        });
        let answers = sys::eventfd(0).map_err(|e| Error::Host("eventfd", e))?;
        let page =
            stubs.requests.take(answers.as_raw_fd()).ok_or(Error::Lacking("request pages"))?;
        let pid = pristine::make(stubs.requests.fd(), &page, page.offset())?;
        let pidfd = sys::pidfd(pid).map_err(|_| Error::Lacking("pidfd_open"))?;
        let pristine = stubs.stub(pid, pidfd, answers, page);
        if let Err(e) = pristine.call(&[]) {
            let e = io::Error::from_raw_os_error(e.code());
            let step = pristine::failed_step(pid).unwrap_or("it does not answer");
            return Err(Error::Stub(step, e));
        }
        let _first = stubs.pristine.set(pristine);
        Ok(stubs)
    }

    fn stub(
        self: &Arc<Stubs>,
        pid: i32,
        pidfd: OwnedFd,
        answers: OwnedFd,
        page: Page,
    ) -> Arc<Stub> {
        Arc::new(Stub {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            pid,
            pidfd,
            answers: File::from(answers),
            page,
            agent: Mutex::new(Agent { number: 0, outstanding: false, cpu: None }),
            threads: Mutex::default(),
            dead: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            stubs: Arc::downgrade(self),
        })
    }

    /// From now on, `watcher` is told about each stub, and calls [`Stub::died`] when it has.
    pub(crate) fn watch(&self, watcher: Watcher) {
        if self.watcher.set(watcher).is_ok() {
            let pool = lock(&self.pool);
            for stub in pool.iter().chain(self.pristine.get()) {
                self.tell_watcher(stub);
            }
        }
    }

    fn tell_watcher(&self, stub: &Arc<Stub>) {
        if let Some(watcher) = self.watcher.get() {
            watcher(stub);
            stub.watched.store(true, Ordering::Release);
        }
    }

    /// An empty stub.
    pub(crate) fn get(self: &Arc<Stubs>) -> Result<Arc<Stub>, Errno> {
        loop {
            let pooled = lock(&self.pool).pop();
            match pooled {
                Some(stub) if stub.is_dead() => drop(stub),
                Some(stub) => return Ok(stub),
                None => return self.create(),
            }
        }
    }

    fn create(self: &Arc<Stubs>) -> Result<Arc<Stub>, Errno> {
        let answers = sys::eventfd(0).map_err(host_error)?;
        let page = self.requests.take(answers.as_raw_fd()).ok_or(Errno::EAGAIN)?;
        let pristine = self.pristine.get().ok_or(Errno::ESRCH)?;
        let clone = Request {
            nr: libc::SYS_clone,
            args: [
                code::CLONE_PROCESS,
                0,
                pristine.pid as u64,
                self.requests.fd() as u64,
                0,
                page.offset(),
            ],
            child: code::newborn_entry(),
        };
        let (index, made) = (page.index(), pristine.clone_with(clone));
        let made = made.and_then(|pid| {
            page.set_agent(pid as u32);
            let pidfd = sys::pidfd(pid).map_err(|e| {
                sys::signal(pid, libc::SIGKILL);
                host_error(e)
            })?;
            Ok((pid, pidfd))
        });
        match made {
            Ok((pid, pidfd)) => {
                let stub = self.stub(pid, pidfd, answers, page);
                self.tell_watcher(&stub);
                Ok(stub)
            }
            Err(e) => {
                let _leaked = self.requests.give(index);
                Err(e)
            }
        }
    }

    /// Takes back a stub whose address space is gone, emptied without waiting for it.
    pub(crate) fn put(&self, stub: Arc<Stub>) {
        if stub.is_dead() {
            return;
        }
        let len = USER.end;
        stub.post(&[Request::new(libc::SYS_munmap, [0, len, 0, 0, 0, 0])]);
        // One thread is enough for the next process to begin with.
        let extra: Vec<i32> = {
            let mut threads = lock(&stub.threads);
            let keep = threads.idle.len().min(1);
            threads.idle.split_off(keep)
        };
        for tid in extra {
            sys::signal(tid, libc::SIGKILL);
        }
        let mut pool = lock(&self.pool);
        if pool.len() < POOL {
            pool.push(stub);
        }
    }
}

fn host_error(e: io::Error) -> Errno {
    Errno::from_code(e.raw_os_error().unwrap_or(0))
}

impl Stub {
    /// Whether it has died, or has failed in a way that makes it useless.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Its process.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// It was found dead: whoever waits for an answer learns it.
    pub(crate) fn died(&self) {
        self.kill();
        self.answer_dead();
    }

    fn answer_dead(&self) {
        use std::io::Write;
        // Fails only where the count is near its maximum, and then the reader learns it as well.
        let _full = (&self.answers).write(&DEAD.to_ne_bytes());
    }

    /// Ends it with all its threads.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        sys::kill(self.pidfd.as_fd());
        // Idle ones end with their parent, the agent. A traced one may not have got so far as to
        // ask for that.
        for tid in &lock(&self.threads).busy {
            sys::signal(*tid, libc::SIGKILL);
        }
    }

    /// A traced thread of it is gone, or has to go.
    pub(crate) fn lose_thread(&self, tid: i32) {
        sys::signal(tid, libc::SIGKILL);
        lock(&self.threads).busy.retain(|busy| *busy != tid);
    }

    /// Has the agent make these calls in order, up to the first that fails, and waits for it.
    pub(crate) fn call(&self, requests: &[Request]) -> Result<(), Errno> {
        let mut agent = lock(&self.agent);
        self.settle(&mut agent)?;
        if requests.is_empty() {
            self.start(&mut agent, &[]);
            return self.settle(&mut agent);
        }
        for batch in requests.chunks(code::BATCH) {
            self.start(&mut agent, batch);
            self.settle(&mut agent)?;
        }
        Ok(())
    }

    /// Has the agent make these calls (one batch of them) and does not wait. An error spoils the stub.
    fn post(&self, requests: &[Request]) {
        let mut agent = lock(&self.agent);
        if self.settle(&mut agent).is_ok() {
            self.start(&mut agent, requests);
        } else {
            self.kill();
        }
    }

    fn start(&self, agent: &mut Agent, batch: &[Request]) {
        // Waking a thread on another CPU costs ten times as much as on this one.
        let cpu = sys::current_cpu();
        if agent.cpu != Some(cpu) {
            sys::bind_to_cpu(self.pid, cpu);
            agent.cpu = Some(cpu);
        }
        agent.number = agent.number.wrapping_add(1);
        agent.outstanding = true;
        self.page.post(batch, agent.number);
    }

    /// Takes the answer that is due, if one is.
    fn settle(&self, agent: &mut Agent) -> Result<(), Errno> {
        if self.is_dead() {
            return Err(Errno::ESRCH);
        }
        if !agent.outstanding {
            return Ok(());
        }
        if !self.watched.load(Ordering::Acquire) {
            self.wait_alone()?;
        }
        let mut answer = [0; 8];
        loop {
            match (&self.answers).read(&mut answer) {
                Ok(8) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(Errno::EIO),
            }
        }
        agent.outstanding = false;
        match u64::from_ne_bytes(answer) {
            1 => Ok(()),
            n if n >= DEAD => {
                self.dead.store(true, Ordering::Release);
                // For the next one who reads.
                self.answer_dead();
                Err(Errno::ESRCH)
            }
            n => Err(Errno::from_code(n.wrapping_sub(1) as i32)),
        }
    }

    /// Waits for an answer or the stub's death, while nobody watches for the latter.
    fn wait_alone(&self) -> Result<(), Errno> {
        let fd = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [fd(self.answers.as_raw_fd()), fd(self.pidfd.as_raw_fd())];
        sys::poll(&mut fds, PATIENCE_MS);
        if fds[0].revents & libc::POLLIN == 0 {
            self.kill();
            return Err(Errno::ESRCH);
        }
        Ok(())
    }

    /// Makes a clone; its id.
    fn clone_with(&self, request: Request) -> Result<i32, Errno> {
        let mut agent = lock(&self.agent);
        self.settle(&mut agent)?;
        self.start(&mut agent, &[request]);
        self.settle(&mut agent)?;
        // Still under the lock: the next clone changes the owner.
        // SAFETY: no memory arguments.
        match unsafe { libc::fcntl(self.answers.as_raw_fd(), libc::F_GETOWN) } {
            pid if pid > 0 => Ok(pid),
            _ => Err(Errno::ESRCH),
        }
    }

    /// Makes the calling thread the tracer of a thread of this stub that is stopped and runs nothing
    /// yet; its id.
    pub(crate) fn seize_thread(&self) -> Result<i32, Errno> {
        loop {
            // What the stub still does to empty itself has to be done before anything runs in it.
            self.settle(&mut lock(&self.agent))?;
            let idle = lock(&self.threads).idle.pop();
            let tid = match idle {
                Some(tid) => tid,
                None => self.clone_with(Request {
                    nr: libc::SYS_clone,
                    args: [code::CLONE_THREAD, 0, 0, 0, 0, 0],
                    child: code::thread_entry(),
                })?,
            };
            match sys::seize(tid) {
                // An idle one that was killed meanwhile.
                Err(Errno::ESRCH) if idle.is_some() => continue,
                seized => seized?,
            }
            sys::interrupt(tid)?;
            if sys::wait(tid) == sys::Stop::Gone {
                continue;
            }
            lock(&self.threads).busy.push(tid);
            if self.is_dead() {
                self.lose_thread(tid);
                return Err(Errno::ESRCH);
            }
            return Ok(tid);
        }
    }

    /// Lets a stopped thread of this stub go, back to the code page.
    pub(crate) fn release_thread(&self, tid: i32) {
        let regs = Registers {
            rip: code::thread_entry(),
            r15: code::REQUESTS,
            orig_rax: u64::MAX,
            cs: crate::user::USER_CS,
            ss: crate::user::USER_SS,
            eflags: 0x202,
            ..Registers::default()
        };
        let gone = sys::set_registers(tid, &regs).and_then(|()| sys::detach(tid));
        match gone {
            Ok(()) => {
                let mut threads = lock(&self.threads);
                threads.busy.retain(|busy| *busy != tid);
                threads.idle.push(tid);
            }
            Err(_) => self.lose_thread(tid),
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.kill();
        let mut fds =
            [libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // It must not write to a descriptor, or read a page, that is somebody else's by then.
        if sys::poll(&mut fds, PATIENCE_MS) == 1
            && let Some(stubs) = self.stubs.upgrade()
        {
            let _leaked = stubs.requests.give(self.page.index());
        }
    }
}

/// Proves that ptrace does what the platform needs, with one traced system call.
pub(crate) fn try_ptrace(stubs: &Arc<Stubs>) -> Result<(), Error> {
    let lost = |e: Errno| Error::Stub("trial of ptrace", io::Error::from_raw_os_error(e.code()));
    let stub = stubs.get().map_err(lost)?;
    stub.call(&[]).map_err(lost)?;
    let tid = stub.seize_thread().map_err(|e| match e {
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => {
            Error::NotPermitted(io::Error::from_raw_os_error(e.code()))
        }
        _ => lost(e),
    })?;
    let mut regs = code::call(libc::SYS_getpid, [0; 4]);
    sys::set_registers(tid, &regs).map_err(lost)?;
    sys::sysemu(tid).map_err(|_| Error::Lacking("PTRACE_SYSEMU"))?;
    loop {
        match sys::wait(tid) {
            sys::Stop::Syscall => break,
            sys::Stop::Gone => return Err(Error::Lacking("PTRACE_SYSEMU")),
            _ => sys::sysemu(tid).map_err(lost)?,
        }
    }
    sys::get_registers(tid, &mut regs).map_err(lost)?;
    if regs.orig_rax != libc::SYS_getpid as u64 {
        return Err(Error::Lacking("PTRACE_SYSEMU"));
    }
    if sys::syscall_arch(tid) != Ok(crate::user::AUDIT_ARCH_X86_64) {
        return Err(Error::Lacking("PTRACE_GET_SYSCALL_INFO"));
    }
    let mut image = Vec::new();
    sys::get_xstate(tid, &mut image).map_err(|_| Error::Lacking("the vector state"))?;
    crate::xstate::learn(&image);
    stub.release_thread(tid);
    stubs.put(stub);
    Ok(())
}
