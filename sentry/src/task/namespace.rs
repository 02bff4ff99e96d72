//! Namespaces of a task (namespaces(7)), as data.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ipc::Ipc;
use crate::net::NetNamespace;
use crate::sync::SpinLock;

/// What a task sees. Replaced as a whole by the task alone.
#[derive(Clone)]
pub struct Namespaces {
    /// Host and NIS name.
    pub uts: Arc<Uts>,
    /// System V IPC.
    pub ipc: Arc<Ipc>,
    /// What sockets share.
    pub net: Arc<NetNamespace>,
}

/// A UTS namespace (uts_namespaces(7)).
#[derive(Default)]
pub struct Uts {
    /// The names.
    pub names: SpinLock<UtsNames>,
}

/// The two names that can be set.
#[derive(Clone, Default, Debug)]
pub struct UtsNames {
    /// sethostname(2), at most 64 bytes.
    pub host: Vec<u8>,
    /// setdomainname(2), at most 64 bytes.
    pub domain: Vec<u8>,
}

impl Namespaces {
    /// New ones with these names.
    pub fn new(host: &str, domain: &str) -> Namespaces {
        let names = UtsNames { host: host.into(), domain: domain.into() };
        Namespaces {
            uts: Arc::new(Uts { names: SpinLock::new(names) }),
            ipc: Arc::default(),
            net: Arc::default(),
        }
    }
}
