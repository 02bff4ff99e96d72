//! 9P2000.L and Ringwall's dialect of it, as pure functions over byte slices.
//!
//! A message is a [`Frame`] (size, kind, tag, body). [`Request`] and [`Reply`] are its plain
//! representations, with `parse` and `emit`; both come from one table in [`messages`], where every
//! message has its number, its fields and its answer in one place. Nothing here does input or
//! output, and nothing here trusts a length: a view is checked before a field is read, every list
//! and string is bounded by the bytes that are there, and what does not fit is an error.
//!
//! # The dialect
//! A client offers [`VERSION_DIALECT`]; a server that knows it answers with the same string, any
//! other with `9P2000.L`, and the client then keeps to the plain protocol. The dialect adds the
//! messages from [`DIALECT_FIRST`] up. They save round trips (several names and all attributes in
//! one walk, attributes with every name of a directory), name things by fid, hand descriptors over
//! (the reply says so with [`Granted::DONATED`] and the descriptor accompanies it), and let the
//! server speak first: [`Reply::Invalidate`] comes with [`NOTAG`].

mod codec;
pub mod dirent;
mod frame;
pub mod messages;
pub mod types;

#[cfg(test)]
pub(crate) mod tests;

pub use codec::{Element, Field, Reader, Writer};
pub use frame::Frame;
pub use messages::{Reply, Request};
pub use types::*;

/// Bytes of a frame's header: size, kind, tag (intro(5): `size[4] Tkind tag[2]`).
pub const HEADER: usize = 7;
/// The most file bytes in one read or write.
pub const IO_MAX: usize = 64 * 1024;
/// The largest message either side sends: [`IO_MAX`] and the longest header, name and fixed part
/// that can come with it (a setxattr: 7 + 4 + 2 + 255 + 4 + 65536 + 4).
pub const MSIZE_MAX: usize = IO_MAX + 512;
/// The smallest size a client may negotiate: room for one directory entry with attributes, or for
/// the reply to a walk of [`MAX_STEPS`] steps that ends at a link of PATH_MAX (4096) bytes.
pub const MSIZE_MIN: usize = 8192;
/// The tag of messages that answer no request, and of version negotiation.
pub const NOTAG: u16 = u16::MAX;
/// The plain protocol.
pub const VERSION_L: &[u8] = b"9P2000.L";
/// The dialect. The last number grows when a message changes meaning.
pub const VERSION_DIALECT: &[u8] = b"9P2000.L.ringwall.1";
/// What a server answers to a version that it does not know (version(5)).
pub const VERSION_UNKNOWN: &[u8] = b"unknown";
/// The first kind that belongs to the dialect.
pub const DIALECT_FIRST: u8 = 160;
/// The most names in one walk (MAXWELEM of walk(5); the dialect keeps it).
pub const MAX_STEPS: usize = 16;
/// The most fids in one list.
pub const MAX_FIDS: usize = 512;
/// The longest file name (NAME_MAX of limits.h).
pub const NAME_MAX: usize = 255;

/// Why bytes are not a message, or a message does not fit in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The bytes end within a field.
    Truncated,
    /// The size in the header is not the number of bytes given.
    BadSize,
    /// There are bytes after the last field.
    Trailing,
    /// No message of this direction has this kind.
    UnknownKind(u8),
    /// A list or string is longer than the protocol allows.
    TooLong,
    /// The message does not fit in the buffer.
    NoSpace,
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            WireError::Truncated => f.write_str("message ends within a field"),
            WireError::BadSize => f.write_str("size in the header is not the message's"),
            WireError::Trailing => f.write_str("bytes after the last field"),
            WireError::UnknownKind(kind) => write!(f, "unknown message kind {kind}"),
            WireError::TooLong => f.write_str("list or string longer than the protocol allows"),
            WireError::NoSpace => f.write_str("message does not fit"),
        }
    }
}

impl core::error::Error for WireError {}

/// The result of reading or writing bytes.
pub type Result<T> = core::result::Result<T, WireError>;
