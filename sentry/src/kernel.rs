//! The kernel: its containers, and the requests of the host half.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::control::{Event, encode};
use crate::platform::{ChannelId, Level, platform};

/// What all containers of a sandbox share.
pub struct Kernel {}

/// A container: an init process, namespaces, mounts and limits.
pub struct Container {
    /// Its id on the host.
    pub id: String,
    /// Whose.
    pub kernel: Arc<Kernel>,
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
