//! The kernel: its containers, and the requests of the host half.

use alloc::vec::Vec;

use crate::control::{Event, encode};
use crate::platform::{ChannelId, Level, platform};

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
