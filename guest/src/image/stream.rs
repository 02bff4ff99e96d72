//! Streams: host descriptors that the host half holds for the container.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::contract::{MAX_BUFFER, PAGE, Request, op, stream_kind};
use ring0::thread::{self, Id};
use sentry::errno::Errno;
use sentry::platform::{Frame, Listener, Ready, Stream, StreamId, StreamKind};

use crate::{host, memory};

/// One stream.
pub struct HostStream {
    number: u32,
    kind: StreamKind,
    /// Who wants to know of what.
    listeners: spin::Mutex<Vec<(Ready, Arc<dyn Listener>)>>,
}

/// Those that somebody has; the host half keeps a descriptor for each.
static STREAMS: spin::Mutex<BTreeMap<u32, Weak<HostStream>>> = spin::Mutex::new(BTreeMap::new());
/// Readiness that the listener thread has to tell: stream and poll bits.
static TOLD: spin::Mutex<VecDeque<(u32, u16)>> = spin::Mutex::new(VecDeque::new());
/// The listener thread; 0: not started.
static LISTENER: AtomicU64 = AtomicU64::new(0);

/// A result of the host half.
pub fn check(result: i64) -> Result<u64, Errno> {
    u64::try_from(result).map_err(|_| Errno::from_code(result.unsigned_abs() as i32))
}

/// A buffer for one request: memory that the host half may use while the caller waits.
pub struct Bounce {
    frame: Frame,
    pages: u32,
}

impl Bounce {
    /// For `len` bytes, at most [`MAX_BUFFER`].
    pub fn new(len: usize) -> Result<Bounce, Errno> {
        let pages = (len as u64).min(MAX_BUFFER).div_ceil(PAGE).max(1) as u32;
        let frame = memory::alloc(pages).ok_or(Errno::ENOMEM)?;
        Ok(Bounce { frame, pages })
    }

    /// Bytes that fit.
    pub fn len(&self) -> usize {
        self.pages as usize * PAGE as usize
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        memory::address(self.frame)
    }

    /// Copies out of it.
    pub fn read(&self, buf: &mut [u8]) {
        memory::read(self.frame, 0, buf);
    }

    /// Copies into it.
    pub fn write(&self, data: &[u8]) {
        memory::write(self.frame, 0, data);
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        memory::free(self.frame, self.pages);
    }
}

/// The stream with this index.
pub fn open(id: StreamId) -> Result<Arc<dyn Stream>, Errno> {
    if let Some(stream) = living(id.0) {
        return Ok(stream);
    }
    start_listener()?;
    let request = Request { op: op::STREAM_KIND, handle: id.0, ..Request::default() };
    let kind = match check(host::request(request))? as i64 {
        stream_kind::PIPE => StreamKind::Pipe,
        stream_kind::REGULAR => StreamKind::Regular,
        stream_kind::TERMINAL => StreamKind::Terminal,
        stream_kind::SOCKET => StreamKind::Socket,
        _ => StreamKind::CharDevice,
    };
    let stream =
        Arc::new(HostStream { number: id.0, kind, listeners: spin::Mutex::new(Vec::new()) });
    STREAMS.lock().insert(id.0, Arc::downgrade(&stream));
    Ok(stream)
}

/// The stream with this number, while somebody has it.
fn living(number: u32) -> Option<Arc<HostStream>> {
    STREAMS.lock().get(&number).and_then(Weak::upgrade)
}

impl Drop for HostStream {
    fn drop(&mut self) {
        STREAMS.lock().remove(&self.number);
        // Whatever the host half thinks of it, the stream is not used again.
        let _gone = host::request_now(self.request(op::STREAM_CLOSE));
    }
}

/// The host half says that a stream is ready; listeners are told on a thread of their own.
pub fn ready(number: u32, result: i64) {
    let bits = u16::try_from(result).unwrap_or(Ready::ERR.bits());
    TOLD.lock().push_back((number, bits));
    thread::unpark(Id(LISTENER.load(Ordering::SeqCst)));
}

fn start_listener() -> Result<(), Errno> {
    static START: spin::Mutex<()> = spin::Mutex::new(());
    let _start = START.lock();
    if LISTENER.load(Ordering::SeqCst) == 0 {
        let id = thread::spawn(Box::new(listen), u64::MAX).map_err(|_| Errno::ENOMEM)?;
        LISTENER.store(id.0, Ordering::SeqCst);
    }
    Ok(())
}

fn listen() {
    loop {
        let told = TOLD.lock().pop_front();
        let Some((number, bits)) = told else {
            thread::park(None);
            continue;
        };
        if let Some(stream) = living(number) {
            stream.tell(Ready::from_bits_truncate(bits));
        }
    }
}

impl HostStream {
    fn request(&self, op: u32) -> Request {
        Request { op, handle: self.number, ..Request::default() }
    }

    /// Tells the listeners that want to know, and asks again for the others.
    fn tell(&self, ready: Ready) {
        if ready.is_empty() {
            // Overtaken by a later question for the same stream.
            return;
        }
        let always = Ready::ERR | Ready::HUP;
        let mut told = Vec::new();
        let rest = {
            let mut listeners = self.listeners.lock();
            listeners.retain(|(interest, listener)| {
                let wants = ready.intersects(*interest | always);
                if wants {
                    told.push(listener.clone());
                }
                !wants
            });
            interest_of(&listeners)
        };
        for listener in told {
            listener.ready(ready);
        }
        if !rest.is_empty() {
            self.ask(rest);
        }
    }

    /// Asks the host half; what was asked before for this stream completes with nothing.
    fn ask(&self, interest: Ready) {
        let request = Request { offset: interest.bits().into(), ..self.request(op::STREAM_NOTIFY) };
        host::request_notify(request, self.number);
    }
}

fn interest_of(listeners: &[(Ready, Arc<dyn Listener>)]) -> Ready {
    listeners.iter().fold(Ready::empty(), |all, (interest, _)| all | *interest)
}

impl Stream for HostStream {
    fn kind(&self) -> StreamKind {
        self.kind
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let bounce = Bounce::new(buf.len())?;
        let len = buf.len().min(bounce.len());
        let request =
            Request { gpa: bounce.address(), len: len as u64, ..self.request(op::STREAM_READ) };
        let n = (check(host::request_now(request))? as usize).min(len);
        bounce.read(&mut buf[..n]);
        Ok(n)
    }

    fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let bounce = Bounce::new(data.len())?;
        let len = data.len().min(bounce.len());
        bounce.write(&data[..len]);
        let request =
            Request { gpa: bounce.address(), len: len as u64, ..self.request(op::STREAM_WRITE) };
        Ok((check(host::request_now(request))? as usize).min(len))
    }

    fn ready(&self) -> Ready {
        match check(host::request_now(self.request(op::STREAM_READY))) {
            Ok(bits) => Ready::from_bits_truncate(bits as u16),
            Err(_) => Ready::ERR,
        }
    }

    fn notify(&self, interest: Ready, listener: Arc<dyn Listener>) {
        let all = {
            let mut listeners = self.listeners.lock();
            listeners.push((interest, listener));
            interest_of(&listeners)
        };
        self.ask(all);
    }

    fn window_size(&self) -> Result<(u16, u16), Errno> {
        let size = check(host::request_now(self.request(op::STREAM_WINDOW)))?;
        Ok(((size >> 16) as u16, size as u16))
    }

    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let request =
            Request { offset: offset as u64, len: whence.into(), ..self.request(op::STREAM_SEEK) };
        check(host::request_now(request))
    }
}
