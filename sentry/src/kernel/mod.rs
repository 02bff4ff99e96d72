//! The kernel: its containers, and the requests of the host half.
//!
//! [`Kernel`] is what all containers of a sandbox share; nothing in the sentry is a global "the
//! container". A [`Container`] is an init process, namespaces, mounts and limits. [`serve`] is the loop
//! of the sentry's first thread: it takes requests from the host half and answers them.

mod container;
mod report;
mod serve;

pub use container::Container;
pub use serve::serve;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::control::{Event, Statistics, encode};
use crate::errno::Errno;
use crate::fs::ninep::Gofers;
use crate::platform::{Account, Channel, Level, platform};
use crate::sync::SpinLock;
use crate::syscall;
use crate::task::oom::OomKiller;

/// What all containers of a sandbox share.
pub struct Kernel {
    /// The way to the host half.
    control: Arc<dyn Channel>,
    /// By id.
    containers: SpinLock<BTreeMap<String, Arc<Container>>>,
    /// Connections to gofers, by their index in the host half's table.
    gofers: Gofers,
    /// System calls of tasks that have ended.
    calls: AtomicU64,
    /// Who is killed when the memory of all containers together is spent.
    pub oom: OomKiller,
}

impl Kernel {
    /// A kernel without containers.
    pub fn new(control: Arc<dyn Channel>) -> Arc<Kernel> {
        Arc::new(Kernel {
            control,
            containers: SpinLock::new(BTreeMap::new()),
            gofers: Gofers::default(),
            calls: AtomicU64::new(0),
            oom: OomKiller::default(),
        })
    }

    /// The container with this id.
    pub fn container(&self, id: &str) -> Option<Arc<Container>> {
        self.containers.lock().get(id).cloned()
    }

    /// All containers.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.lock().values().cloned().collect()
    }

    /// Adds the system calls of a task that has ended to the count.
    pub fn count_calls(&self, calls: u64) {
        self.calls.fetch_add(calls, Ordering::Relaxed);
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        let living: u64 = self
            .containers()
            .iter()
            .flat_map(|c| c.processes())
            .flat_map(|p| p.tasks())
            .map(|t| t.syscalls.load(Ordering::Relaxed))
            .sum();
        Statistics {
            frames: platform().frame_counts(Account::FIRST).used_by_all,
            syscalls: self.calls.load(Ordering::Relaxed).saturating_add(living),
            missing: syscall::missing_calls(),
        }
    }

    /// Tells the host half something.
    fn tell(&self, event: &Event) {
        let sent = match encode(event) {
            Ok(message) => self.control.send(&message),
            Err(_) => Err(Errno::EMSGSIZE),
        };
        if let Err(e) = sent {
            // Without the host half nobody is left who could be told otherwise.
            platform().log(Level::Error, format_args!("control channel: {e}"));
        }
    }
}
