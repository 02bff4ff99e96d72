//! The event loop of a sandbox: requests of stand-ins and commands go in to the sentry, answers and
//! ends of containers come out.
//!
//! What comes from the sentry is bounded and checked: an answer to nothing, or a word about a
//! container that is not there, ends the sandbox. What comes from a command is the word of somebody
//! who may write to the state folder, that is, of the sandbox's owner.

mod joined;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use event_manager::{
    EventManager, EventOps, EventSet, EventSubscriber, Events, MutEventSubscriber, SubscriberOps,
};
use ptrace_fallback::ControlHost;
use sentry::control::{
    Call, ContainerSpec, Event, ExitStatus, Failure, FailureKind, MAX_MESSAGE, ProcessSpec, Reply,
    Request, decode, encode,
};
use sentry::platform::StreamId;

use joined::Joining;

use super::execs::{Begun, Execs};
use super::machine::Machine;
use crate::footprint;
use crate::kvm;
use crate::link::{self, Link};
use crate::protocol::{FromSandbox, Platform, Report, ToSandbox};
use crate::wall;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event loop failed.
    #[error("event loop: {0}")]
    Loop(#[from] event_manager::Error),
    /// A message could not be encoded.
    #[error("control message: {0}")]
    Encode(#[from] postcard::Error),
    /// The sentry went away.
    #[error("control channel of the sentry: {0}")]
    Channel(#[from] std::io::Error),
    /// The machine came to its end.
    #[error("{0}")]
    Machine(#[from] kvm::End),
    /// The sentry said something that makes no sense.
    #[error("the sentry broke its protocol: {0}")]
    Sentry(&'static str),
    /// The filters of system calls.
    #[error("{0}")]
    Filter(#[from] wall::filter::Error),
}

type Peer = Link<FromSandbox, ToSandbox>;

/// Milliseconds without an event after which a container is taken to have settled.
const QUIET: i32 = 1000;

/// Init's id in a container.
const INIT: u32 = 1;
/// Messages of the sentry's that are taken before others are heard.
const MESSAGES: u32 = 256;

/// Puts the filters up, and serves until no container is left.
pub fn run(
    machine: Machine,
    control: ControlHost,
    listener: OwnedFd,
    stand_in: &Peer,
    container: ContainerSpec,
    platform: Platform,
) -> Result<(), Error> {
    let id = container.id.clone();
    let stand_in_fd = stand_in.as_raw_fd();
    let virtual_machine = match &machine {
        Machine::Kvm(machine) => Some(Rc::clone(machine)),
        _ => None,
    };
    // Its threads end with the process, which the filter lets nobody wait for.
    std::mem::forget(virtual_machine.clone());
    let first = Container { stand_in: Some(stand_in_fd), ended: false, streams: Vec::new() };
    let supervisor = Rc::new(RefCell::new(Supervisor {
        control,
        machine,
        listener,
        stand_in,
        left: false,
        closing: false,
        clients: HashMap::new(),
        containers: HashMap::from([(id, first)]),
        joining: Vec::new(),
        pending: VecDeque::new(),
        execs: Execs::default(),
        ends: Vec::new(),
        next: 0,
        outcome: None,
    }));
    // Few descriptors are ready at a time.
    let mut events: EventManager<Rc<dyn EventSubscriber + '_>> =
        EventManager::new_with_capacity(16)?;
    wall::sandbox::install(platform)?;
    crate::debug!("filters installed");
    supervisor.borrow_mut().request(stand_in_fd, Call::Create(Box::new(container)))?;
    events.add_subscriber(Rc::clone(&supervisor) as Rc<dyn EventSubscriber>);
    if let Some(machine) = &virtual_machine {
        events.add_subscriber(Rc::clone(machine) as Rc<dyn EventSubscriber>);
    }
    // A guest's image is in this program's constants: it would miss its pages, which costs it exits.
    let kept: &[u8] = if virtual_machine.is_some() { kvm::image::EMBEDDED } else { &[] };
    let mut busy = true;
    loop {
        if let Some(outcome) = supervisor.borrow_mut().outcome.take() {
            return outcome;
        }
        if let Some(end) = virtual_machine.as_ref().and_then(|machine| machine.borrow_mut().end()) {
            return Err(end.into());
        }
        // What making a container takes is not needed for keeping it.
        if busy && events.run_with_timeout(QUIET)? == 0 {
            footprint::shed_all_but(kept);
            busy = false;
        } else if !busy {
            events.run()?;
        }
    }
}

/// One container of the sandbox.
struct Container {
    /// Its stand-in's link; `None`: that has gone.
    stand_in: Option<RawFd>,
    ended: bool,
    /// What the platform calls its streams; empty: as the stand-in does.
    streams: Vec<StreamId>,
}

/// A request that the sentry has not answered.
struct Pending {
    number: u64,
    /// Who asked; nobody where the sandbox itself did.
    client: Option<RawFd>,
}

struct Supervisor<'a> {
    control: ControlHost,
    /// For its streams and its counters.
    machine: Machine,
    listener: OwnedFd,
    /// To the stand-in of the container that the sandbox was made for.
    stand_in: &'a Peer,
    /// Whether that has gone.
    left: bool,
    /// Nobody comes any more.
    closing: bool,
    clients: HashMap<RawFd, Peer>,
    containers: HashMap<String, Container>,
    joining: Vec<Joining>,
    pending: VecDeque<Pending>,
    execs: Execs,
    /// Ends that stand-ins have not been told of yet.
    ends: Vec<(RawFd, ExitStatus)>,
    next: u64,
    /// Set when the loop is to end.
    outcome: Option<Result<(), Error>>,
}

impl Supervisor<'_> {
    /// Asks the sentry.
    fn request(&mut self, client: RawFd, call: Call) -> Result<(), Error> {
        self.ask(Some(client), call).map(drop)
    }

    /// Asks the sentry; the request's number, unless it is refused.
    fn ask(&mut self, client: Option<RawFd>, call: Call) -> Result<Option<u64>, Error> {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let message = encode(&Request { number, call })?;
        if message.len() > MAX_MESSAGE {
            // The sentry would not take it, and nobody would be answered.
            if let Some(client) = client {
                self.refuse(client, "the configuration is too long");
            }
            return Ok(None);
        }
        self.control.send(message)?;
        self.pending.push_back(Pending { number, client });
        Ok(Some(number))
    }

    fn stand_in_fd(&self) -> RawFd {
        self.stand_in.as_raw_fd()
    }

    fn peer(&self, fd: RawFd) -> Option<&Peer> {
        if fd == self.stand_in_fd() {
            return (!self.left).then_some(self.stand_in);
        }
        self.clients.get(&fd)
    }

    fn tell(&self, fd: RawFd, message: &FromSandbox) {
        if let Some(peer) = self.peer(fd)
            && let Err(e) = peer.send(message, &[])
        {
            // Its end shows up in the loop.
            crate::debug!("a client does not listen: {e}");
        }
    }

    /// Takes what the sentry says; not all of it, if it never ceases, as what is left is still there to be told of.
    fn hear(&mut self) -> Result<(), Error> {
        for _ in 0..MESSAGES {
            let Some(message) = self.control.try_recv()? else { break };
            match decode(&message).map_err(|_| Error::Sentry("a message that does not decode"))? {
                Event::Ready => crate::debug!("sentry ready"),
                Event::Reply { number, result } => self.answer(number, result)?,
                Event::Exited { id, pid, status } => self.exited(&id, pid, status)?,
                Event::OutOfMemory { id } => self.out_of_memory(&id),
            }
        }
        Ok(())
    }

    /// A process was killed for its memory. Where the container is being made or forgotten, that is nobody's news.
    fn out_of_memory(&self, id: &str) {
        let container = self.containers.get(id).filter(|container| !container.ended);
        if let Some(stand_in) = container.and_then(|container| container.stand_in) {
            self.tell(stand_in, &FromSandbox::OutOfMemory);
        }
    }

    fn answer(&mut self, number: u64, result: Result<Reply, Failure>) -> Result<(), Error> {
        let index = self
            .pending
            .iter()
            .position(|pending| pending.number == number)
            .ok_or(Error::Sentry("an answer to nothing"))?;
        let client = self.pending.remove(index).and_then(|pending| pending.client);
        let begun = self.execs.answered(number, &result)?;
        let made = result.is_ok();
        if let Some(client) = client {
            self.tell(client, &FromSandbox::Answer(result));
        }
        match begun {
            None => {}
            Some(Begun::Failed(streams)) => self.remove_streams(&streams),
            // Whoever asked for it has gone.
            Some(Begun::Runs { id, pid, client: None }) => self.kill(id, pid)?,
            Some(Begun::Runs { .. }) => {}
            Some(Begun::Over { client, status }) => self.exec_ended(client, status),
        }
        self.joined(number, made)?;
        self.tell_ends();
        Ok(())
    }

    /// Kills a process that was started for somebody who has gone.
    fn kill(&mut self, id: String, pid: u32) -> Result<(), Error> {
        self.ask(None, Call::Signal { id, pid: Some(pid), signal: 9, all: false }).map(drop)
    }

    fn exec_ended(&self, client: Option<RawFd>, status: ExitStatus) {
        if let Some(client) = client {
            self.tell(client, &FromSandbox::Exited(status));
        }
    }

    /// Tells stand-ins that their containers have ended, once nobody else waits for an answer: a stand-in ends
    /// this process then, and whoever has killed the container would not learn that it has.
    fn tell_ends(&mut self) {
        let waits = |p: &Pending| p.client.is_some_and(|c| self.clients.contains_key(&c));
        if self.pending.iter().any(waits) {
            return;
        }
        for (stand_in, status) in std::mem::take(&mut self.ends) {
            if stand_in == self.stand_in_fd() {
                let others = |c: &Container| c.stand_in.is_some_and(|other| other != stand_in);
                match self.containers.values().any(others) {
                    true => self.tell(stand_in, &FromSandbox::Shared),
                    // It ends this process then.
                    false => self.closing = true,
                }
            }
            self.tell(stand_in, &FromSandbox::Exited(status));
        }
    }

    fn exited(&mut self, id: &str, pid: u32, status: ExitStatus) -> Result<(), Error> {
        let Some(container) = self.containers.get_mut(id) else {
            // Of one that has been deleted, whose other processes took longer.
            return if pid == INIT {
                Err(Error::Sentry("the end of no container"))
            } else {
                Ok(())
            };
        };
        crate::debug!("{id}: process {pid} has ended: {status:?}");
        if pid != INIT {
            if let Some(client) = self.execs.ended(id, pid, status, container.ended)? {
                self.exec_ended(client, status);
            }
            return Ok(());
        }
        if container.ended {
            return Err(Error::Sentry("a second end of a container"));
        }
        container.ended = true;
        let stand_in = container.stand_in;
        // Where init was never started, what else runs ends with this process.
        for client in self.execs.container_ended(id) {
            self.exec_ended(client, ExitStatus::Signaled(9));
        }
        match stand_in {
            Some(stand_in) => self.ends.push((stand_in, status)),
            None => self.end(id.to_owned())?,
        }
        self.tell_ends();
        Ok(())
    }

    /// Gives the platform descriptors that a client has sent; `None`: one is no stream, and the client has been told.
    fn take_streams(&self, client: RawFd, fds: Vec<OwnedFd>) -> Option<Vec<StreamId>> {
        let mut streams = Vec::new();
        for given in fds {
            match self.machine.add_stream(given) {
                Ok(stream) => streams.push(stream),
                Err(e) => {
                    self.remove_streams(&streams);
                    self.refuse(client, &format!("standard streams: {e}"));
                    return None;
                }
            }
        }
        Some(streams)
    }

    /// Lets streams go that no process has taken.
    fn remove_streams(&self, streams: &[StreamId]) {
        streams.iter().for_each(|stream| self.machine.remove_stream(*stream));
    }

    /// Starts a process for a client.
    fn exec(
        &mut self,
        fd: RawFd,
        id: String,
        mut process: ProcessSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let refusal = match self.containers.get(&id) {
            Some(container) if !container.ended => {
                if fd == self.stand_in.as_raw_fd() || self.execs.of(fd).is_some() {
                    Some("one process over a link")
                } else if named(&process).any(|n| n.0 as usize >= fds.len()) {
                    Some("a stream without its descriptor")
                } else {
                    None
                }
            }
            _ => Some("container not running"),
        };
        if let Some(refusal) = refusal {
            self.refuse(fd, refusal);
            return Ok(());
        }
        let Some(streams) = self.take_streams(fd, fds) else { return Ok(()) };
        number(&mut process, &streams);
        match self.ask(Some(fd), Call::Exec { id: id.clone(), process: Box::new(process) })? {
            Some(number) => self.execs.begin(number, fd, id, streams),
            None => self.remove_streams(&streams),
        }
        Ok(())
    }

    /// Takes what a client wants.
    fn serve(&mut self, fd: RawFd, ops: &mut EventOps) -> Result<(), Error> {
        let Some(peer) = self.peer(fd) else { return Ok(()) };
        let mut call = match peer.try_receive() {
            Ok(None) => return Ok(()),
            Ok(Some((ToSandbox::Exec { id, process }, fds))) => {
                return self.exec(fd, id, *process, fds);
            }
            Ok(Some((ToSandbox::Join { container, fds: roles }, fds))) => {
                return self.join(fd, *container, &roles, fds);
            }
            Ok(Some((ToSandbox::Call(call), _no_descriptors))) => *call,
            Ok(Some((ToSandbox::Setup(_), _))) => {
                self.refuse(fd, "the sandbox is set up already");
                return Ok(());
            }
            Ok(Some((ToSandbox::Report, _))) => {
                self.tell(fd, &FromSandbox::Report(self.report()));
                return Ok(());
            }
            Ok(Some((ToSandbox::Counters, _))) => {
                self.tell(fd, &FromSandbox::Counters(self.counters()));
                return Ok(());
            }
            Err(link::Error::Closed) => return self.gone(fd, ops),
            Err(e) => {
                crate::warning!("a client of the control socket: {e}");
                return self.gone(fd, ops);
            }
        };
        let own = self.execs.of(fd);
        let id = match &mut call {
            Call::Signal { id, pid: Some(pid), .. } => {
                if own.is_none_or(|own| !own.is(id, *pid)) {
                    self.refuse(fd, "process already finished");
                    return Ok(());
                }
                Some(id)
            }
            Call::Start { id }
            | Call::Signal { id, .. }
            | Call::Processes { id }
            | Call::Status { id }
            | Call::Usage { id }
            | Call::Tasks { id, .. }
            | Call::FileServer { id }
            | Call::Limit { id, .. }
            | Call::Freeze { id, .. } => Some(id),
            Call::WindowSize { stream, .. } => {
                let known = match own {
                    _ if fd == self.stand_in.as_raw_fd() => Some(*stream),
                    Some(own) => own.stream(*stream),
                    None => self.stream_of(fd, *stream),
                };
                let Some(known) = known else {
                    self.refuse(fd, "no terminal of yours");
                    return Ok(());
                };
                *stream = known;
                None
            }
            Call::Statistics => None,
            Call::Create(_) | Call::Exec { .. } | Call::Delete { .. } => {
                self.refuse(fd, "not over this socket");
                return Ok(());
            }
        };
        match id {
            Some(id) if self.containers.get(&*id).is_none_or(|container| container.ended) => {
                self.refuse(fd, "container not running");
                Ok(())
            }
            _ => self.request(fd, call),
        }
    }

    /// What the platform calls a stream of the container that this link is for.
    fn stream_of(&self, fd: RawFd, own: StreamId) -> Option<StreamId> {
        let container = self.containers.values().find(|c| c.stand_in == Some(fd))?;
        container.streams.get(own.0 as usize).copied()
    }

    /// What KVM has counted for this sandbox.
    fn counters(&self) -> BTreeMap<String, u64> {
        let Machine::Kvm(machine) = &self.machine else { return BTreeMap::new() };
        match machine.borrow().counters() {
            Ok(counters) => counters,
            Err(e) => {
                crate::warning!("KVM's statistics: {e}");
                BTreeMap::new()
            }
        }
    }

    /// What is under way here.
    fn report(&self) -> Report {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Report {
            requests: count(self.pending.len()),
            clients: count(self.clients.len()),
            execs: count(self.execs.len()),
            queues: match &self.machine {
                Machine::Kvm(machine) => machine.borrow().report(),
                _ => Vec::new(),
            },
        }
    }

    fn refuse(&self, fd: RawFd, message: &str) {
        let failure = Failure { kind: FailureKind::Other, message: message.into() };
        self.tell(fd, &FromSandbox::Answer(Err(failure)));
    }

    /// A client has closed its end. If it is a stand-in, its container ends with it.
    fn gone(&mut self, fd: RawFd, ops: &mut EventOps) -> Result<(), Error> {
        for pending in &mut self.pending {
            if pending.client == Some(fd) {
                pending.client = None;
            }
        }
        if let Some((id, pid)) = self.execs.client_gone(fd) {
            self.kill(id, pid)?;
        }
        self.tell_ends();
        if fd == self.stand_in_fd() {
            ops.remove(Events::empty(self.stand_in))?;
            self.left = true;
        } else if let Some(client) = self.clients.remove(&fd) {
            ops.remove(Events::empty(&client))?;
        }
        self.ends.retain(|(stand_in, _)| *stand_in != fd);
        let orphan = self.containers.iter_mut().find(|(_, c)| c.stand_in == Some(fd));
        if let Some((id, container)) = orphan {
            crate::debug!("{id}: its stand-in is gone");
            container.stand_in = None;
            let id = id.clone();
            if !self.is_over() {
                self.end(id)?;
            }
        }
        Ok(())
    }

    /// Whether no stand-in is left: the end of this process is the end of everything in it then.
    fn is_over(&mut self) -> bool {
        let over = self.left && self.containers.values().all(|c| c.stand_in.is_none());
        if over {
            crate::debug!("no stand-in is left");
            self.outcome = Some(Ok(()));
        }
        over
    }

    fn accept(&mut self, ops: &mut EventOps) -> Result<(), Error> {
        match link::accept(self.listener.as_fd()) {
            Ok(socket) => {
                let peer = Peer::new(socket);
                ops.add(Events::new(&peer, EventSet::IN))?;
                self.clients.insert(peer.as_raw_fd(), peer);
            }
            // It has gone again, or descriptors are short: it will see that nobody answers.
            Err(e) => crate::warning!("control socket: {e}"),
        }
        Ok(())
    }
}

impl MutEventSubscriber for Supervisor<'_> {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        let result = if fd == self.control.as_fd().as_raw_fd() {
            self.hear()
        } else if fd == self.listener.as_raw_fd() {
            self.accept(ops)
        } else {
            self.serve(fd, ops)
        };
        if let Err(e) = result {
            self.outcome = Some(Err(e));
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let all = [
            Events::new_raw(self.control.as_fd().as_raw_fd(), EventSet::IN),
            Events::new(&self.listener, EventSet::IN),
            Events::new(self.stand_in, EventSet::IN),
        ];
        for events in all {
            if let Err(e) = ops.add(events) {
                self.outcome = Some(Err(e.into()));
            }
        }
    }
}
/// The streams that a process is to have.
fn named(process: &ProcessSpec) -> impl Iterator<Item = &StreamId> {
    process.stdio.iter().flatten().chain(process.preserved.iter().map(|(stream, _)| stream))
}

/// Gives the streams of a process the platform's numbers.
fn number(process: &mut ProcessSpec, streams: &[StreamId]) {
    process.stdio = process.stdio.map(|n| streams.get(n?.0 as usize).copied());
    for (n, _) in &mut process.preserved {
        if let Some(stream) = streams.get(n.0 as usize) {
            *n = *stream;
        }
    }
}
