//! Requests of the host half, one at a time.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Container, Kernel, report};
use crate::control::{Call, Event, Failure, FailureKind, ProcessInfo, Reply, Request, decode};
use crate::platform::{ChannelId, Level, platform};
use crate::signal::{Origin, SigInfo, Signal, send_process};
use crate::task::Process;

/// Serves the control channel until the host half closes it.
pub fn serve() {
    let channel = match platform().channel(ChannelId::Control) {
        Ok(channel) => channel,
        Err(e) => return platform().log(Level::Error, format_args!("control channel: {e}")),
    };
    let kernel = Kernel::new(channel.clone());
    kernel.tell(&Event::Ready);
    let mut message = Vec::new();
    while channel.recv(&mut message, None).is_ok() {
        match decode::<Request>(&message) {
            Ok(request) => {
                let result = kernel.answer(request.call);
                kernel.tell(&Event::Reply { number: request.number, result });
            }
            Err(e) => {
                platform().log(Level::Error, format_args!("control channel: bad request: {e}"));
            }
        }
    }
}

impl Failure {
    /// A failure that no exit status tells apart.
    pub(super) fn other(message: String) -> Failure {
        Failure { kind: FailureKind::Other, message }
    }
}

impl Kernel {
    fn answer(self: &Arc<Self>, call: Call) -> Result<Reply, Failure> {
        match call {
            Call::Create(spec) => {
                if self.container(&spec.id).is_some() {
                    return Err(Failure::other(format!("container {} exists", spec.id)));
                }
                let container = Container::create(self, &spec)
                    .inspect_err(|_| self.gofers.forget(spec.root.gofer))?;
                let pid = container.shown_pid_of_init();
                self.containers.lock().insert(spec.id, container.clone());
                if container.pids.lock().is_closed() {
                    // That one's end, whose pid namespace it is in, has not found it.
                    container.signal_unstarted(Signal::SIGKILL);
                }
                Ok(Reply::Pid(pid))
            }
            Call::Start { id } => {
                self.known(&id)?.start()?;
                Ok(Reply::Done)
            }
            Call::Exec { id, process } => self.known(&id)?.exec(&process).map(Reply::Pid),
            Call::Signal { id, pid, signal, all } => self.signal(&id, pid, signal, all),
            Call::Processes { id } => Ok(Reply::Processes(self.processes(&id)?)),
            Call::Freeze { id, frozen } => {
                let container = self.known(&id)?;
                if frozen {
                    container.freeze()?;
                } else {
                    container.freezer.thaw(&container);
                }
                Ok(Reply::Done)
            }
            Call::Status { id } => {
                let container = self.known(&id)?;
                let started = container.is_started();
                Ok(Reply::Status { started, frozen: container.freezer.is_frozen() })
            }
            Call::Usage { id } => Ok(Reply::Usage(self.known(&id)?.usage())),
            Call::Limit { id, limits } => {
                self.known(&id)?.limit(&limits)?;
                Ok(Reply::Done)
            }
            Call::WindowSize { stream, rows, columns } => {
                let containers: Vec<_> = self.containers.lock().values().cloned().collect();
                if containers.iter().any(|c| c.resize(stream, rows, columns)) {
                    Ok(Reply::Done)
                } else {
                    Err(Failure::other(format!(
                        "stream {} is no terminal of a container",
                        stream.0
                    )))
                }
            }
            Call::Delete { id } => {
                let container = self.known(&id)?;
                if container.is_running() {
                    return Err(Failure::other(format!("container {id} is running")));
                }
                self.containers.lock().remove(&id);
                self.gofers.forget(container.gofer);
                Ok(Reply::Done)
            }
            Call::Statistics => Ok(Reply::Statistics(self.statistics())),
            Call::Tasks { id, after } => Ok(Reply::Tasks(report::tasks(&*self.known(&id)?, after))),
            Call::FileServer { id } => {
                let gofer = self.known(&id)?.gofer;
                Ok(Reply::FileServer(self.gofers.info(gofer)))
            }
        }
    }

    fn known(&self, id: &str) -> Result<Arc<Container>, Failure> {
        self.container(id).ok_or_else(|| Failure::other(format!("container {id} does not exist")))
    }

    fn signal(&self, id: &str, pid: Option<u32>, signal: u8, all: bool) -> Result<Reply, Failure> {
        let container = self.known(id)?;
        let signal = Signal::new(i32::from(signal))
            .map_err(|_| Failure::other(format!("signal {signal} does not exist")))?;
        let init = pid.is_none_or(|pid| pid == container.shown_pid_of_init());
        let unstarted = init && container.signal_unstarted(signal);
        if unstarted && !all {
            return Ok(Reply::Done);
        }
        let processes: Vec<Arc<Process>> = if all {
            container.processes()
        } else if init {
            container.init().into_iter().collect()
        } else {
            let named = pid.and_then(|pid| container.pids.process(pid));
            named
                .into_iter()
                .filter(|process| Arc::ptr_eq(&process.container, &container))
                .collect()
        };
        if processes.is_empty() && !unstarted {
            return Err(Failure::other(format!("container {id}: no such process")));
        }
        for process in &processes {
            // From outside the container, as if sent by a process of an outer pid namespace.
            send_process(process, SigInfo::user(signal, 0, 0, 0), Origin::Outside)
                .map_err(|e| Failure::other(format!("container {id}: signal: {e}")))?;
        }
        Ok(Reply::Done)
    }

    fn processes(&self, id: &str) -> Result<Vec<ProcessInfo>, Failure> {
        let container = self.known(id)?;
        let now = platform().monotonic();
        let info = |process: &Arc<Process>| {
            let task = process.first_task()?;
            let usage = process.usage();
            Some(ProcessInfo {
                uid: task.creds().uid,
                pid: process.pid,
                ppid: process.parent_pid(),
                threads: process.tasks().len() as u32,
                age_ns: now.saturating_sub(process.start_time),
                cpu_ns: usage.cpu.user_ns.saturating_add(usage.cpu.system_ns),
                command: command(&task),
            })
        };
        Ok(container.processes().iter().filter_map(info).collect())
    }
}

/// What `ps` shows: the arguments, or the name in brackets where they cannot be read.
fn command(task: &crate::task::Task) -> String {
    let mm = task.shared.lock().mm.clone();
    let text = mm.and_then(|mm| {
        let layout = mm.layout();
        let len = layout.arg_end.saturating_sub(layout.arg_start).min(4096);
        let mut bytes = alloc::vec![0; len as usize];
        mm.copy_in(layout.arg_start, &mut bytes).ok()?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b' ');
        Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
    });
    text.unwrap_or_else(|| format!("[{}]", String::from_utf8_lossy(task.name.lock().as_bytes())))
}
