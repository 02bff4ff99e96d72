//! The sockets of a network namespace, and how /proc/net/unix shows them.

use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use super::{Sock, State};
use crate::sync::SpinLock;

/// All sockets of a network namespace. Those that have gone are taken out when there is no more room.
#[derive(Default)]
pub struct Sockets(SpinLock<Vec<Weak<Sock>>>);

impl Sockets {
    pub(super) fn add(&self, sock: &Arc<Sock>) {
        let mut all = self.0.lock();
        if all.len() == all.capacity() {
            all.retain(|sock| sock.strong_count() > 0);
        }
        all.push(Arc::downgrade(sock));
    }

    /// Writes /proc/net/unix (unix_seq_show()).
    pub fn show(&self, out: &mut String) {
        out.push_str("Num       RefCount Protocol Flags    Type St Inode Path\n");
        let all: Vec<Arc<Sock>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for sock in all.iter().filter(|sock| !sock.is_dead()) {
            sock.show(out);
        }
    }
}

impl Sock {
    fn show(&self, out: &mut String) {
        /// SO_ACCEPTCON (net.h).
        const LISTENS: u32 = 1 << 16;
        let (state, address) = {
            let link = self.link.lock();
            (link.state, link.address.clone())
        };
        let ino = self.ino.load(Ordering::Relaxed);
        // SS_UNCONNECTED, SS_CONNECTED; SS_CONNECTING is one that nobody has accepted.
        let shown = match state {
            State::Connected if ino == 0 => 2,
            State::Connected => 3,
            _ => 1,
        };
        let flags = if state == State::Listening { LISTENS } else { 0 };
        // Its file counts twice in Linux; the caller's own does not. Each that is connected with it counts once.
        let refs = self.this.strong_count();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{:016x}: {refs:08X} 00000000 {flags:08X} {:04X} {shown:02X} {ino:5}",
            self.number, self.kind as u32
        );
        let name = super::address::bytes(address.as_deref());
        let mut path: &[u8] = name.get(2..).unwrap_or(&[]);
        if path.first().is_some_and(|first| *first != 0) {
            path = path.strip_suffix(&[0]).unwrap_or(path);
        }
        if !path.is_empty() {
            // Names are bytes; what is no UTF-8 shows as that.
            let text = String::from_utf8_lossy(path).replace('\0', "@");
            let _ = write!(out, " {text}");
        }
        out.push('\n');
    }
}
