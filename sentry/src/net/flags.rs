//! Flags of messages, with Linux's values.
#![allow(missing_docs)] // the names of the flags are those of the man pages

bitflags::bitflags! {
    /// Flags of send(2) and recv(2) (linux/socket.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MsgFlags: u32 {
        const OOB = 0x1;
        const PEEK = 0x2;
        const CTRUNC = 0x8;
        const TRUNC = 0x20;
        const DONTWAIT = 0x40;
        const EOR = 0x80;
        const WAITALL = 0x100;
        const NOSIGNAL = 0x4000;
        const WAITFORONE = 0x1_0000;
        const CMSG_CLOEXEC = 0x4000_0000;
    }
}
