//! The host's services, on the event loop: rings, channels, streams.
//!
//! The loop sleeps in epoll. It wakes for the doorbell, for the commands of vCPU threads, for gofers,
//! control messages and streams; then it does all that there is to do, and says in guest memory that
//! it waits again. Whatever the guest has written there is copied once and checked; a rule that is
//! broken ends the sandbox.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use event_manager::{EventOps, Events};
use gofer::wire::MSIZE_MAX;
use guest::contract::{
    COMPLETION_ENTRIES, Completion, NO_CPU, RING_ENTRIES, Request, SharedControl, event, op,
};
use ptrace_fallback::ControlRelay;
use sentry::control::MAX_MESSAGE;
use sentry::platform::Level;
use vmm_sys_util::epoll::EventSet;

use super::channel::{Message, Rings, Wake};
use super::end::Lie;
use super::memory::Shrunk;
use super::seqpacket::{self, Received};
use super::shared::{Shared, lock, wrong};
use crate::protocol::Queue;

/// Which descriptor an event is for, in the event's data: the kind above, the index below.
pub mod token {
    /// The control channel's bell.
    pub const CONTROL: u32 = 1 << 24;
    /// A gofer's socket.
    pub const GOFER: u32 = 2 << 24;
    /// A stream.
    pub const STREAM: u32 = 3 << 24;
    /// The kind of a token.
    pub const KIND: u32 = 0xff << 24;
}

/// How often the rings and channels are looked through before the loop looks elsewhere: more than an image in order keeps
/// it busy for.
const ROUNDS: u32 = 64;
/// Messages of one channel that are moved before the others are looked at.
const MESSAGES: u32 = 64;

/// A channel that the image has opened.
enum Peer {
    Control(ControlRelay),
    Gofer(OwnedFd),
}

struct Channel {
    rings: Rings,
    peer: Option<Peer>,
    /// A message for the peer that it had no room for.
    stuck: Option<Vec<u8>>,
    /// What epoll tells of the peer's descriptor; `None`: it is not registered.
    watched: Option<EventSet>,
    token: u32,
}

/// A STREAM_NOTIFY that has not completed.
struct Notify {
    tag: u64,
    cpu: u32,
}

/// The services.
pub struct Host {
    shared: Arc<Shared>,
    /// Taken when the image opens its channel.
    control: Option<ControlRelay>,
    /// By number: 0 control, 1 + n gofer n.
    channels: BTreeMap<u32, Channel>,
    notifies: BTreeMap<u32, Notify>,
    /// Streams that epoll knows.
    watched_streams: BTreeMap<u32, RawFd>,
    submit_head: u32,
    complete_tail: u32,
    /// Requests taken and not completed.
    outstanding: u32,
    /// Events that wait for room behind requests' completions.
    events: VecDeque<Completion>,
    /// vCPUs to interrupt, one bit each.
    wakes: u64,
    /// For receiving.
    buffer: Vec<u8>,
}

impl Host {
    /// Makes the services.
    pub fn new(shared: Arc<Shared>, control: ControlRelay) -> Host {
        Host {
            shared,
            control: Some(control),
            channels: BTreeMap::new(),
            notifies: BTreeMap::new(),
            watched_streams: BTreeMap::new(),
            submit_head: 0,
            complete_tail: 0,
            outstanding: 0,
            events: VecDeque::new(),
            wakes: 0,
            buffer: vec![0; MSIZE_MAX + 1],
        }
    }

    /// What is in the queues, for people.
    pub fn report(&self) -> Vec<Queue> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let requests = Queue::Requests {
            taken: self.submit_head,
            outstanding: self.outstanding,
            completed: self.complete_tail,
            events: count(self.events.len()),
            notifies: count(self.notifies.len()),
        };
        let ram = &self.shared.ram;
        let channel = |c: &Channel| c.rings.report(ram, c.stuck.is_some());
        std::iter::once(requests).chain(self.channels.values().map(channel)).collect()
    }

    /// Something has happened on a descriptor.
    pub fn event(&mut self, token: u32, set: EventSet, ops: &mut EventOps<'_>) -> Result<(), Lie> {
        let index = token & !token::KIND;
        match token & token::KIND {
            token::STREAM => self.stream_event(index, set)?,
            token::CONTROL => self.channel_event(0, set, ops)?,
            token::GOFER => self.channel_event(index.saturating_add(1), set, ops)?,
            _ => {}
        }
        self.interrupt()
    }

    /// Does all that the image wants, and then says that the loop waits. An image that never ceases to want something has
    /// the rest of it done after the loop's other work.
    pub fn pump(&mut self, ops: &mut EventOps<'_>) -> Result<(), Lie> {
        let idle = self.shared.layout.control + offset_of!(SharedControl, host_idle) as u64;
        self.shared.ram.store(idle, 0)?;
        let mut rounds = 0;
        loop {
            while self.submissions(ops)? | self.channels(ops)? {
                self.interrupt()?;
                rounds += 1;
                if rounds == ROUNDS {
                    self.shared.bell();
                    return Ok(());
                }
            }
            self.interrupt()?;
            self.shared.ram.store(idle, 1)?;
            fence(Ordering::SeqCst);
            if !self.pending()? {
                return Ok(());
            }
            self.shared.ram.store(idle, 0)?;
        }
    }

    /// Tells the image of files that have shrunk.
    pub fn shrunk(&mut self, shrunk: &[Shrunk]) -> Result<(), Lie> {
        for s in shrunk {
            self.events.push_back(Completion {
                tag: event::FILE_SHRUNK,
                result: 0,
                arg0: s.handle.into(),
                arg1: s.from,
            });
        }
        self.publish_events()?;
        self.interrupt()
    }

    /// Whether the image has published anything.
    fn pending(&self) -> Result<bool, Lie> {
        if self.submit_tail()? != self.submit_head {
            return Ok(true);
        }
        for channel in self.channels.values() {
            if channel.stuck.is_none()
                && !channel.rings.closed()
                && channel.rings.pending(&self.shared.ram)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn submit_tail(&self) -> Result<u32, Lie> {
        let at = self.shared.layout.control + offset_of!(SharedControl, submit_tail) as u64;
        Ok(self.shared.ram.load(at)?)
    }

    /// Takes and serves requests. Says whether there were any.
    fn submissions(&mut self, ops: &mut EventOps<'_>) -> Result<bool, Lie> {
        let tail = self.submit_tail()?;
        let used = tail.wrapping_sub(self.submit_head);
        if used > RING_ENTRIES {
            return Err(Lie::Index { ring: "submission ring", used, size: RING_ENTRIES });
        }
        if used == 0 {
            return Ok(false);
        }
        for _ in 0..used {
            let at = u64::from(self.submit_head % RING_ENTRIES) * size_of::<Request>() as u64;
            let request: Request = self.shared.ram.get(self.shared.layout.submissions + at)?;
            self.submit_head = self.submit_head.wrapping_add(1);
            let head = self.shared.layout.control + offset_of!(SharedControl, submit_head) as u64;
            self.shared.ram.store(head, self.submit_head)?;
            if self.outstanding >= RING_ENTRIES {
                return Err(wrong(&request, "too many requests are outstanding"));
            }
            self.outstanding += 1;
            self.request(&request, ops)?;
        }
        Ok(true)
    }

    fn request(&mut self, request: &Request, ops: &mut EventOps<'_>) -> Result<(), Lie> {
        if request.tag >> 63 != 0 || request.reserved != 0 || request.pad != [0; 2] {
            return Err(wrong(request, "fields that shall be zero are not"));
        }
        if request.cpu != NO_CPU && request.cpu >= self.shared.vcpus {
            return Err(Lie::Cpu(request.cpu));
        }
        let result = match request.op {
            op::STREAM_NOTIFY => return self.notify(request, ops),
            op::CHANNEL_OPEN => self.open(request, ops)?,
            _ => self.shared.serve(request)?.unwrap_or(-i64::from(libc::ENOSYS)),
        };
        self.complete(request.tag, request.cpu, result)
    }

    /// Completes a request.
    fn complete(&mut self, tag: u64, cpu: u32, result: i64) -> Result<(), Lie> {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.publish(Completion { tag, result, arg0: 0, arg1: 0 })?;
        self.wake((cpu != NO_CPU).then_some(cpu))?;
        if !self.events.is_empty() {
            self.publish_events()?;
        }
        Ok(())
    }

    fn publish(&mut self, completion: Completion) -> Result<(), Lie> {
        if self.free_completions()? == 0 {
            return Err(Lie::Index {
                ring: "completion ring",
                used: COMPLETION_ENTRIES,
                size: COMPLETION_ENTRIES,
            });
        }
        let at =
            u64::from(self.complete_tail % COMPLETION_ENTRIES) * size_of::<Completion>() as u64;
        self.shared.ram.put(self.shared.layout.completions + at, &completion)?;
        self.complete_tail = self.complete_tail.wrapping_add(1);
        let tail = self.shared.layout.control + offset_of!(SharedControl, complete_tail) as u64;
        Ok(self.shared.ram.store(tail, self.complete_tail)?)
    }

    fn free_completions(&self) -> Result<u32, Lie> {
        let at = self.shared.layout.control + offset_of!(SharedControl, complete_head) as u64;
        let used = self.complete_tail.wrapping_sub(self.shared.ram.load(at)?);
        COMPLETION_ENTRIES.checked_sub(used).ok_or(Lie::Index {
            ring: "completion ring",
            used,
            size: COMPLETION_ENTRIES,
        })
    }

    /// Publishes events as long as room is left for the completion of every request.
    fn publish_events(&mut self) -> Result<(), Lie> {
        while !self.events.is_empty() && self.free_completions()? > RING_ENTRIES {
            if let Some(event) = self.events.pop_front() {
                self.publish(event)?;
                self.wakes |= 1;
            }
        }
        Ok(())
    }

    fn wake(&mut self, wake: Wake) -> Result<(), Lie> {
        match wake {
            None => Ok(()),
            Some(cpu) if cpu < self.shared.vcpus => {
                self.wakes |= 1 << cpu;
                Ok(())
            }
            Some(cpu) => Err(Lie::Cpu(cpu)),
        }
    }

    /// Interrupts whoever is to be interrupted.
    fn interrupt(&mut self) -> Result<(), Lie> {
        let mut wakes = std::mem::take(&mut self.wakes);
        while wakes != 0 {
            self.shared.interrupt(wakes.trailing_zeros())?;
            wakes &= wakes - 1;
        }
        Ok(())
    }

    // --- streams ---

    fn notify(&mut self, request: &Request, ops: &mut EventOps<'_>) -> Result<(), Lie> {
        let index = request.handle;
        if let Some(older) = self.notifies.remove(&index) {
            self.complete(older.tag, older.cpu, 0)?;
        }
        let Some(stream) = lock(&self.shared.streams).get(index) else {
            return self.complete(request.tag, request.cpu, -i64::from(libc::EBADF));
        };
        let wanted = request.offset as u32 & (libc::POLLIN | libc::POLLOUT) as u32;
        // The numbers of poll(2) and epoll(7) are the same.
        let set = EventSet::from_bits_truncate(wanted) | EventSet::ONE_SHOT;
        let events = Events::with_data_raw(stream.raw_fd(), token::STREAM | index, set);
        let registered = if self.watched_streams.contains_key(&index) {
            ops.modify(events)
        } else {
            ops.add(events)
        };
        match registered {
            Ok(()) => {
                self.watched_streams.insert(index, stream.raw_fd());
                self.notifies.insert(index, Notify { tag: request.tag, cpu: request.cpu });
                Ok(())
            }
            // EPERM: a regular file, which epoll does not take because it is always ready.
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EPERM => {
                self.complete(request.tag, request.cpu, wanted.into())
            }
            Err(e) => {
                self.shared.say(Level::Warning, format_args!("stream {index}: {e}"));
                self.complete(request.tag, request.cpu, i64::from(libc::POLLERR))
            }
        }
    }

    fn stream_event(&mut self, index: u32, set: EventSet) -> Result<(), Lie> {
        match self.notifies.remove(&index) {
            // One-shot: it is silent until it is asked for again.
            None => Ok(()),
            Some(notify) => {
                let bits = set.bits() & 0xffff;
                self.complete(notify.tag, notify.cpu, bits.into())
            }
        }
    }

    /// Lets go of a stream whose container or exec has ended.
    pub fn remove_stream(&mut self, index: u32, ops: &mut EventOps<'_>) -> Result<(), Lie> {
        let stream = lock(&self.shared.streams).remove(index);
        if let (Some(fd), true) = (self.watched_streams.remove(&index), stream.is_some()) {
            // The descriptor is open until `stream` goes, and so it is the one that was added.
            if let Err(e) = ops.remove(Events::empty_raw(fd)) {
                self.shared.say(Level::Warning, format_args!("stream {index}: {e}"));
            }
        }
        if let Some(notify) = self.notifies.remove(&index) {
            self.complete(notify.tag, notify.cpu, i64::from(libc::POLLHUP))?;
        }
        self.interrupt()
    }

    // --- channels ---

    fn open(&mut self, request: &Request, ops: &mut EventOps<'_>) -> Result<i64, Lie> {
        let number = request.handle;
        let nodev = -i64::from(libc::ENODEV);
        let (peer, token, max) = match number.checked_sub(1) {
            None => match self.control.take() {
                None => return Ok(nodev),
                Some(relay) => (Peer::Control(relay), token::CONTROL, MAX_MESSAGE),
            },
            Some(index) => {
                let socket = lock(&self.shared.gofers)
                    .get_mut(index as usize)
                    .and_then(Option::take)
                    .filter(|_| index < 1 << 24);
                match socket {
                    None => return Ok(nodev),
                    Some(socket) => (Peer::Gofer(socket), token::GOFER | index, MSIZE_MAX),
                }
            }
        };
        let rings = Rings::open(&self.shared.ram, number, request.gpa, request.len, max)?;
        let result = rings.max_message() as i64;
        let mut channel = Channel { rings, peer: Some(peer), stuck: None, watched: None, token };
        channel.watch(EventSet::IN, ops, &self.shared);
        self.channels.insert(number, channel);
        Ok(result)
    }

    /// Moves messages of the image's to their peers. Says whether there were any.
    fn channels(&mut self, ops: &mut EventOps<'_>) -> Result<bool, Lie> {
        let numbers: Vec<u32> = self.channels.keys().copied().collect();
        let mut any = false;
        for number in numbers {
            any |= self.outward(number, ops)?;
            // Room may have come for what is on its way in.
            any |= self.inward(number, ops)?;
        }
        Ok(any)
    }

    /// From the image to the peer.
    fn outward(&mut self, number: u32, ops: &mut EventOps<'_>) -> Result<bool, Lie> {
        let mut any = false;
        for _ in 0..MESSAGES {
            let Some(channel) = self.channels.get_mut(&number) else { return Ok(any) };
            if channel.rings.closed() {
                return Ok(any);
            }
            let message = match channel.stuck.take() {
                Some(message) => message,
                None => {
                    let (message, wake) = channel.rings.take(&self.shared.ram)?;
                    self.wake(wake)?;
                    match message {
                        None => return Ok(any),
                        Some(message) => message,
                    }
                }
            };
            let Some(channel) = self.channels.get_mut(&number) else { return Ok(any) };
            match channel.give(message) {
                Given::Yes => any = true,
                Given::NoRoom(message) => {
                    channel.stuck = Some(message);
                    let set = channel.wanted();
                    channel.watch(set, ops, &self.shared);
                    return Ok(any);
                }
                Given::Gone(reason) => {
                    self.hang_up(number, &reason, ops)?;
                    return Ok(true);
                }
            }
        }
        Ok(any)
    }

    /// From the peer to the image.
    fn inward(&mut self, number: u32, ops: &mut EventOps<'_>) -> Result<bool, Lie> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(false) };
        if channel.rings.ready() || channel.rings.closed() {
            return Ok(false);
        }
        let wake = channel.rings.flush(&self.shared.ram)?;
        let ready = channel.rings.ready();
        if ready {
            let set = channel.wanted();
            channel.watch(set, ops, &self.shared);
        }
        self.wake(wake)?;
        Ok(ready)
    }

    /// The peer's descriptor has something to say.
    fn channel_event(
        &mut self,
        number: u32,
        set: EventSet,
        ops: &mut EventOps<'_>,
    ) -> Result<(), Lie> {
        if set.contains(EventSet::OUT) || number == 0 {
            self.outward(number, ops)?;
        }
        // What is left is still there to be told of.
        for _ in 0..MESSAGES {
            let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
            let set = channel.wanted();
            channel.watch(set, ops, &self.shared);
            if channel.rings.closed() || !channel.rings.ready() {
                return Ok(());
            }
            match channel.receive(&mut self.buffer, &self.shared) {
                Got::Nothing => return Ok(()),
                Got::Message(message) => {
                    let wake = channel.rings.put(&self.shared.ram, message)?;
                    self.wake(wake)?;
                }
                Got::Gone(reason) => return self.hang_up(number, &reason, ops),
            }
        }
        Ok(())
    }

    /// The peer is gone.
    fn hang_up(&mut self, number: u32, reason: &str, ops: &mut EventOps<'_>) -> Result<(), Lie> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        channel.unwatch(ops, &self.shared);
        channel.peer = None;
        channel.stuck = None;
        let wakes = channel.rings.close(&self.shared.ram)?;
        let level = if number == 0 { Level::Debug } else { Level::Info };
        match number.checked_sub(1) {
            None => self.shared.say(level, format_args!("the control channel is closed: {reason}")),
            Some(n) => self.shared.say(level, format_args!("gofer {n} is gone: {reason}")),
        }
        wakes.into_iter().try_for_each(|wake| self.wake(wake))
    }
}

enum Given {
    Yes,
    NoRoom(Vec<u8>),
    Gone(String),
}

enum Got {
    Nothing,
    Message(Message),
    Gone(String),
}

impl Channel {
    /// Gives a message to the peer.
    fn give(&mut self, message: Vec<u8>) -> Given {
        match &self.peer {
            None => Given::Gone("closed".into()),
            Some(Peer::Control(relay)) => match relay.send(message) {
                Ok(()) => Given::Yes,
                Err((message, io::ErrorKind::WouldBlock)) => Given::NoRoom(message),
                Err((_, kind)) => Given::Gone(kind.to_string()),
            },
            Some(Peer::Gofer(socket)) => match seqpacket::send(socket, &message) {
                Ok(()) => Given::Yes,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Given::NoRoom(message),
                Err(e) => Given::Gone(e.to_string()),
            },
        }
    }

    /// Takes a message from the peer.
    fn receive(&mut self, buffer: &mut [u8], shared: &Shared) -> Got {
        match &self.peer {
            None => Got::Nothing,
            Some(Peer::Control(relay)) => match relay.try_recv() {
                Ok(None) => Got::Nothing,
                Ok(Some(bytes)) if bytes.len() <= MAX_MESSAGE => {
                    Got::Message(Message { bytes, file: None })
                }
                Ok(Some(_)) => Got::Gone("a message is too long".into()),
                Err(e) => Got::Gone(e.to_string()),
            },
            Some(Peer::Gofer(socket)) => match seqpacket::receive(socket, buffer) {
                Ok(Received::Nothing) => Got::Nothing,
                Ok(Received::End) => Got::Gone("it has closed its socket".into()),
                Ok(Received::Message { len, file }) if len <= MSIZE_MAX => {
                    let file = file.and_then(|fd| match lock(&shared.files).donate(fd) {
                        Ok(handle) => Some(handle),
                        Err(e) => {
                            shared.say(Level::Debug, format_args!("a donation is refused: {e}"));
                            None
                        }
                    });
                    let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                    Got::Message(Message { bytes, file })
                }
                Ok(Received::Message { .. }) => Got::Gone("a message is too long".into()),
                Err(e) => Got::Gone(e.to_string()),
            },
        }
    }

    /// What to be told of: messages while there is room for them, room while one is stuck.
    fn wanted(&self) -> EventSet {
        let mut set = EventSet::empty();
        if self.rings.ready() {
            set |= EventSet::IN;
        }
        if self.stuck.is_some() {
            // The relay's bell rings for room as for messages.
            set |= match self.peer {
                Some(Peer::Gofer(_)) => EventSet::OUT,
                _ => EventSet::IN,
            };
        }
        set
    }

    fn watch(&mut self, set: EventSet, ops: &mut EventOps<'_>, shared: &Shared) {
        let fd = match &self.peer {
            None => return,
            Some(Peer::Control(relay)) => relay.as_fd().as_raw_fd(),
            Some(Peer::Gofer(socket)) => socket.as_raw_fd(),
        };
        if self.watched == Some(set) {
            return;
        }
        let events = Events::with_data_raw(fd, self.token, set);
        let outcome = if self.watched.is_some() { ops.modify(events) } else { ops.add(events) };
        match outcome {
            Ok(()) => self.watched = Some(set),
            Err(e) => shared.say(Level::Error, format_args!("a channel cannot be watched: {e}")),
        }
    }

    fn unwatch(&mut self, ops: &mut EventOps<'_>, shared: &Shared) {
        let fd = match &self.peer {
            None => return,
            Some(Peer::Control(relay)) => relay.as_fd().as_raw_fd(),
            Some(Peer::Gofer(socket)) => socket.as_raw_fd(),
        };
        if self.watched.take().is_some()
            && let Err(e) = ops.remove(Events::empty_raw(fd))
        {
            shared.say(Level::Warning, format_args!("a channel's end: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::FromRawFd;
    use std::sync::Mutex;

    use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
    use guest::contract::{
        ChannelControl, MAX_BUFFER, MIN_RING, NO_FILE, PAGE, PieceHeader, RAM_BASE,
    };
    use ptrace_fallback::{ControlHost, control_pair};
    use zerocopy::FromBytes;

    use super::super::tests::shared_without_machine;
    use super::*;
    use crate::kvm::tests::after_close;

    /// The services with a guest that the test plays.
    struct Rig {
        host: Host,
        shared: Arc<Shared>,
        outcome: Arc<Mutex<Result<(), Lie>>>,
    }

    impl MutEventSubscriber for Rig {
        fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&self.shared.bell);
            let outcome = if events.fd() == fd {
                let _ = self.shared.bell.read();
                self.host.pump(ops)
            } else {
                self.host
                    .event(events.data(), events.event_set(), ops)
                    .and_then(|()| self.host.pump(ops))
            };
            if outcome.is_err() {
                *self.outcome.lock().unwrap() = outcome;
            }
        }

        fn init(&mut self, ops: &mut EventOps<'_>) {
            ops.add(Events::new(&self.shared.bell, EventSet::IN)).unwrap();
        }
    }

    struct Play {
        manager: EventManager<Rig>,
        shared: Arc<Shared>,
        outcome: Arc<Mutex<Result<(), Lie>>>,
        control: ControlHost,
        tail: u32,
        complete_head: u32,
    }

    /// Memory that the guest uses freely.
    const BUFFER: u64 = RAM_BASE + (4 << 20);
    const CHANNEL: u64 = RAM_BASE + (5 << 20);

    impl Play {
        fn new() -> Play {
            let shared = shared_without_machine(Box::new(|_, _| {}));
            let (control, sentry) = control_pair().unwrap();
            let outcome = Arc::new(Mutex::new(Ok(())));
            let mut manager = EventManager::new().unwrap();
            manager.add_subscriber(Rig {
                host: Host::new(Arc::clone(&shared), sentry.relay().unwrap()),
                shared: Arc::clone(&shared),
                outcome: Arc::clone(&outcome),
            });
            Play { manager, shared, outcome, control, tail: 0, complete_head: 0 }
        }

        fn word(&self, offset: usize) -> u64 {
            self.shared.layout.control + offset as u64
        }

        fn submit(&mut self, request: Request) {
            let at = u64::from(self.tail % RING_ENTRIES) * 64;
            self.shared.ram.put(self.shared.layout.submissions + at, &request).unwrap();
            self.tail = self.tail.wrapping_add(1);
            self.shared
                .ram
                .store(self.word(offset_of!(SharedControl, submit_tail)), self.tail)
                .unwrap();
        }

        fn turn(&mut self) -> Result<(), Lie> {
            self.shared.bell();
            self.settle()
        }

        fn settle(&mut self) -> Result<(), Lie> {
            while self.manager.run_with_timeout(0).unwrap() > 0 {}
            self.outcome.lock().unwrap().clone()
        }

        /// Settles until something is there that the close of a descriptor brings about.
        fn settle_until<T>(&mut self, mut there: impl FnMut(&mut Play) -> Option<T>) -> T {
            after_close(|| {
                self.settle().unwrap();
                there(self)
            })
        }

        fn completions(&mut self) -> Vec<(u64, i64)> {
            let ram = &self.shared.ram;
            let tail = ram.load(self.word(offset_of!(SharedControl, complete_tail))).unwrap();
            let mut all = Vec::new();
            while self.complete_head != tail {
                let at = u64::from(self.complete_head % COMPLETION_ENTRIES) * 32;
                let c: Completion = ram.get(self.shared.layout.completions + at).unwrap();
                all.push((c.tag, c.result));
                self.complete_head = self.complete_head.wrapping_add(1);
            }
            ram.store(self.word(offset_of!(SharedControl, complete_head)), self.complete_head)
                .unwrap();
            all
        }

        fn ask(&mut self, request: Request) -> i64 {
            self.submit(Request { tag: 77, cpu: 0, ..request });
            self.turn().unwrap();
            match self.completions()[..] {
                [(77, result)] => result,
                ref other => panic!("{other:?}"),
            }
        }
    }

    fn request(op: u32) -> Request {
        Request { op, cpu: NO_CPU, gpa: BUFFER, len: 16, ..Request::default() }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        let mut ends = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: room for two; both are new and ours.
        unsafe {
            assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()), 0);
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        }
    }

    #[test]
    fn requests_complete_in_any_number_around_the_ring() {
        let mut play = Play::new();
        for round in 0..9u64 {
            for n in 0..200 {
                play.submit(Request { tag: round * 200 + n, ..request(op::NOP) });
            }
            play.turn().unwrap();
            let expected: Vec<_> = (0..200).map(|n| (round * 200 + n, 0)).collect();
            assert_eq!(play.completions(), expected);
        }
        // The loop waits now.
        assert_ne!(play.shared.ram.load(play.word(offset_of!(SharedControl, host_idle))), Ok(0));
        assert_eq!(play.ask(request(999)), -i64::from(libc::ENOSYS));
    }

    #[test]
    fn files_are_read_written_and_mapped_by_index() {
        let mut play = Play::new();
        let path = std::env::temp_dir().join(format!("rw-host-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        let handle = lock(&play.shared.files).donate(file.into()).unwrap();
        assert_eq!(play.ask(Request { handle, offset: 4, ..request(op::FILE_READ) }), 6);
        assert_eq!(play.shared.ram.get::<[u8; 6]>(BUFFER), Ok(*b"456789"));
        let write = Request { handle, offset: 8, len: 6, ..request(op::FILE_WRITE) };
        assert_eq!(play.ask(write), 6);
        assert_eq!(play.ask(Request { handle, ..request(op::FILE_SIZE) }), 14);
        let map = Request { handle, gpa: 0, len: PAGE, ..request(op::WINDOW_MAP) };
        assert_eq!(play.ask(map), 1);
        assert_eq!(play.ask(Request { handle, ..request(op::FILE_CLOSE) }), 0);
        assert_eq!(play.ask(Request { handle, ..request(op::FILE_SIZE) }), -9);
        assert_eq!(play.ask(Request { handle, ..request(op::FILE_CLOSE) }), -9);
        let unmap = Request { gpa: 0, len: PAGE, ..request(op::WINDOW_UNMAP) };
        assert_eq!(play.ask(unmap), 0);
        assert_eq!(play.ask(Request { offset: 1 << 63, ..request(op::FILE_READ) }), -22);
        // A folder in place of a file never gets an index, and so EBADF.
        let released = Request { len: PAGE, ..request(op::RELEASE) };
        assert_eq!(play.ask(released), 0);
        assert_eq!(play.shared.ram.get::<[u8; 6]>(BUFFER), Ok([0; 6]));
        assert_eq!(play.ask(Request { len: PAGE, ..request(op::POPULATE) }), 0);
    }

    #[test]
    fn streams_tell_when_they_are_ready() {
        let mut play = Play::new();
        let mut ends = [0; 2];
        // SAFETY: room for two; both are new and ours.
        let (reader, mut writer) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            (OwnedFd::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
        };
        let handle = lock(&play.shared.streams).add(reader).unwrap();
        let regular = File::open("/proc/self/exe").unwrap().into();
        let regular = lock(&play.shared.streams).add(regular).unwrap();
        let pollin = libc::POLLIN as u64;
        assert_eq!(play.ask(Request { handle, ..request(op::STREAM_READ) }), -11);
        let notify = |tag| Request { handle, tag, offset: pollin, ..request(op::STREAM_NOTIFY) };
        play.submit(notify(1));
        play.turn().unwrap();
        assert_eq!(play.completions(), []);
        // A later one takes its place.
        play.submit(notify(2));
        play.turn().unwrap();
        assert_eq!(play.completions(), [(1, 0)]);
        writer.write_all(b"x").unwrap();
        play.settle().unwrap();
        assert_eq!(play.completions(), [(2, pollin as i64)]);
        // One-shot: more bytes say nothing until asked for again.
        writer.write_all(b"y").unwrap();
        play.settle().unwrap();
        assert_eq!(play.completions(), []);
        play.submit(notify(3));
        play.turn().unwrap();
        assert_eq!(play.completions(), [(3, pollin as i64)]);
        assert_eq!(play.ask(Request { handle, ..request(op::STREAM_READ) }), 2);
        // A regular file is always ready.
        let always = Request { handle: regular, offset: pollin, ..request(op::STREAM_NOTIFY) };
        assert_eq!(play.ask(always), pollin as i64);
        assert_eq!(play.ask(Request { handle: 9, ..request(op::STREAM_NOTIFY) }), -9);
        play.submit(notify(4));
        drop(writer);
        play.turn().unwrap();
        let hung_up =
            play.settle_until(|play| Some(play.completions()).filter(|all| !all.is_empty()));
        assert_eq!(hung_up, [(4, i64::from(libc::POLLHUP))]);
    }

    fn open(handle: u32) -> Request {
        Request { handle, gpa: CHANNEL, len: MIN_RING, ..request(op::CHANNEL_OPEN) }
    }

    fn put_message(play: &Play, tail: &mut u32, data: &[u8]) {
        let ram = &play.shared.ram;
        let header = PieceHeader { len: data.len() as u32, flags: 0, file: NO_FILE, reserved: 0 };
        ram.put(CHANNEL + PAGE + u64::from(*tail), &header).unwrap();
        ram.write(CHANNEL + PAGE + u64::from(*tail) + 16, data).unwrap();
        *tail += 16 + (data.len() as u32).next_multiple_of(8);
        ram.store(CHANNEL + offset_of!(ChannelControl, out_tail) as u64, *tail).unwrap();
    }

    fn last_message(play: &Play, at: &mut u32) -> Option<(Vec<u8>, u32)> {
        let ram = &play.shared.ram;
        let tail = ram.load(CHANNEL + offset_of!(ChannelControl, in_tail) as u64).unwrap();
        if tail == *at {
            return None;
        }
        let ring = CHANNEL + PAGE + MIN_RING + u64::from(*at);
        let raw: [u8; 16] = ram.get(ring).unwrap();
        let header = PieceHeader::read_from_bytes(&raw).unwrap();
        let mut data = vec![0; header.len as usize];
        ram.read(ring + 16, &mut data).unwrap();
        *at += 16 + header.len.next_multiple_of(8);
        Some((data, header.file))
    }

    #[test]
    fn control_messages_pass_both_ways() {
        let mut play = Play::new();
        play.control.send(vec![1, 2, 3]).unwrap();
        assert_eq!(play.ask(open(0)), MAX_MESSAGE as i64);
        assert_eq!(play.ask(open(0)), -i64::from(libc::ENODEV));
        play.settle().unwrap();
        let (mut tail, mut at) = (0, 0);
        assert_eq!(last_message(&play, &mut at), Some((vec![1, 2, 3], NO_FILE)));
        put_message(&play, &mut tail, b"ready");
        play.turn().unwrap();
        assert_eq!(play.control.try_recv().unwrap(), Some(b"ready".to_vec()));
        let Play { control, .. } = play;
        drop(control);
    }

    #[test]
    fn gofer_messages_pass_with_their_files_until_it_goes() {
        let mut play = Play::new();
        let (ours, gofer) = pair();
        lock(&play.shared.gofers).push(Some(ours));
        assert_eq!(play.ask(open(7)), -i64::from(libc::ENODEV));
        assert_eq!(play.ask(open(1)), MSIZE_MAX as i64);
        let (mut tail, mut at) = (0, 0);
        put_message(&play, &mut tail, b"walk");
        play.turn().unwrap();
        let mut buffer = [0; 64];
        assert!(matches!(
            seqpacket::receive(&gofer, &mut buffer).unwrap(),
            Received::Message { len: 4, file: None }
        ));
        seqpacket::send(&gofer, b"walked").unwrap();
        play.settle().unwrap();
        assert_eq!(last_message(&play, &mut at), Some((b"walked".to_vec(), NO_FILE)));
        drop(gofer);
        let closed = CHANNEL + offset_of!(ChannelControl, closed) as u64;
        play.settle_until(|play| (play.shared.ram.load(closed) == Ok(1)).then_some(()));
        // What the image still writes goes nowhere, and does no harm.
        put_message(&play, &mut tail, b"more");
        play.turn().unwrap();
    }

    #[test]
    fn lies_end_the_sandbox() {
        let lies: [fn(&mut Play); 16] = [
            |p| p.shared.ram.store(p.word(offset_of!(SharedControl, submit_tail)), 257).unwrap(),
            |p| {
                p.shared
                    .ram
                    .store(p.word(offset_of!(SharedControl, submit_tail)), u32::MAX)
                    .unwrap()
            },
            |p| {
                p.shared.ram.store(p.word(offset_of!(SharedControl, complete_head)), 1).unwrap();
                p.submit(request(op::NOP));
            },
            |p| p.submit(Request { tag: 1 << 63, ..request(op::NOP) }),
            |p| p.submit(Request { reserved: 1, ..request(op::NOP) }),
            |p| p.submit(Request { cpu: 2, ..request(op::NOP) }),
            |p| p.submit(Request { len: MAX_BUFFER + 1, ..request(op::FILE_READ) }),
            |p| p.submit(Request { gpa: RAM_BASE - 8, ..request(op::STREAM_READ) }),
            |p| p.submit(Request { gpa: u64::MAX - 8, ..request(op::STREAM_WRITE) }),
            |p| p.submit(Request { gpa: RAM_BASE + (8 << 20) - 8, ..request(op::FILE_WRITE) }),
            |p| p.submit(Request { gpa: RAM_BASE, len: PAGE, ..request(op::RELEASE) }),
            |p| p.submit(Request { gpa: BUFFER + 1, len: PAGE, ..request(op::RELEASE) }),
            |p| p.submit(Request { gpa: BUFFER, len: u64::MAX, ..request(op::POPULATE) }),
            |p| p.submit(Request { gpa: PAGE, len: PAGE, ..request(op::WINDOW_UNMAP) }),
            |p| p.submit(Request { gpa: 0, len: u64::MAX, ..request(op::WINDOW_MAP) }),
            |p| p.submit(Request { gpa: CHANNEL + 8, ..open(0) }),
        ];
        for (n, lie) in lies.iter().enumerate() {
            let mut play = Play::new();
            lie(&mut play);
            assert!(play.turn().is_err(), "lie {n}");
        }
        // Completions that are never taken.
        let mut play = Play::new();
        let outcome = (0..600).find_map(|_| {
            play.submit(request(op::NOP));
            play.turn().err()
        });
        assert!(matches!(outcome, Some(Lie::Index { ring: "completion ring", .. })));
    }

    #[test]
    fn random_rings_never_panic() {
        // xorshift; what matters is that it is the same at every run.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..60 {
            let mut play = Play::new();
            let (ours, _gofer) = pair();
            lock(&play.shared.gofers).push(Some(ours));
            lock(&play.shared.streams).add(File::open("/dev/null").unwrap().into()).unwrap();
            play.ask(open(1));
            for _ in 0..40 {
                let mut raw = [0u64; 8];
                raw.iter_mut().for_each(|w| *w = random());
                let mut request =
                    Request::read_from_bytes(zerocopy::IntoBytes::as_bytes(&raw)).unwrap();
                // Mostly plausible, so that the deeper checks are reached.
                request.op %= 24;
                request.handle %= 2;
                request.tag &= !(1 << 63);
                (request.cpu, request.reserved, request.pad) = (0, 0, [0; 2]);
                request.len %= 1 << (random() % 22);
                request.gpa = RAM_BASE + request.gpa % (9 << 20);
                if random() % 2 == 0 {
                    request.gpa &= !0xfff;
                }
                play.submit(request);
                for _ in 0..4 {
                    let at = CHANNEL + random() % (PAGE + 2 * MIN_RING - 4) / 8 * 8;
                    play.shared.ram.store(at, (random() as u32 % 8192) & !7).unwrap();
                }
                if play.turn().is_err() {
                    break;
                }
                play.completions();
            }
        }
    }
}
