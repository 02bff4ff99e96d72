//! The frame: what every message begins with.

use super::{HEADER, Result, WireError};

/// A checked view of one whole message.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    kind: u8,
    tag: u16,
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Views `bytes` as exactly one message.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or(WireError::Truncated)?;
        let [s0, s1, s2, s3, kind, t0, t1] = *header;
        if u32::from_le_bytes([s0, s1, s2, s3]) as usize != bytes.len() {
            return Err(WireError::BadSize);
        }
        Ok(Frame { kind, tag: u16::from_le_bytes([t0, t1]), body })
    }

    /// The size that the message beginning with these bytes claims; `None` while fewer than four
    /// are there. For byte streams, where a message must be cut out first.
    pub fn claimed_size(bytes: &[u8]) -> Option<usize> {
        let size = bytes.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*size) as usize)
    }

    /// The message's kind.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The message's tag.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The fields.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Writes the header of a message of `size` bytes at the start of `buffer`.
pub(super) fn emit_header(buffer: &mut [u8], size: usize, kind: u8, tag: u16) -> Result<()> {
    let [s0, s1, s2, s3] = u32::try_from(size).map_err(|_| WireError::NoSpace)?.to_le_bytes();
    let [t0, t1] = tag.to_le_bytes();
    *buffer.first_chunk_mut::<HEADER>().ok_or(WireError::NoSpace)? = [s0, s1, s2, s3, kind, t0, t1];
    Ok(())
}
