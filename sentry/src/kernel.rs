//! The kernel: its containers, and the requests of the host half.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::control::{Event, encode};
use crate::platform::{ChannelId, Level, platform};
use crate::task::{PidNamespace, Process};

/// What all containers of a sandbox share.
#[derive(Default)]
pub struct Kernel {
    /// System calls of tasks that have ended.
    calls: AtomicU64,
}

impl Kernel {
    /// Adds the system calls of a task that has ended to the count.
    pub fn count_calls(&self, calls: u64) {
        self.calls.fetch_add(calls, Ordering::Relaxed);
    }
}

/// A container: an init process, namespaces, mounts and limits.
pub struct Container {
    /// Its id on the host.
    pub id: String,
    /// Whose.
    pub kernel: Arc<Kernel>,
    /// The ids of its processes.
    pub pids: Arc<PidNamespace>,
    /// Whether its system calls are printed.
    pub watched: AtomicBool,
}

impl Container {
    /// Whether its system calls are printed.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// A process without a parent inside has ended; `status` is as wait(2) encodes it.
    pub fn process_ended(&self, process: &Arc<Process>, status: i32) {
        let line = format_args!("container {}: {} ended: {status:#x}", self.id, process.pid);
        platform().log(Level::Debug, line);
    }
}

/// Serves the control channel until the host half closes it.
pub fn serve() {
    let channel = match platform().channel(ChannelId::Control) {
        Ok(channel) => channel,
        Err(e) => return platform().log(Level::Error, format_args!("control channel: {e}")),
    };
    let mut message = Vec::new();
    if let Ok(ready) = encode(&Event::Ready) {
        let _gone = channel.send(&ready);
    }
    while channel.recv(&mut message, None).is_ok() {}
}
