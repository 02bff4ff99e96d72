//! What the harness and its agent in the test VM say to each other: frames on a virtio-serial port.
//!
//! A frame is a little-endian 32-bit length and that many bytes of postcard. The host sends [`Job`]s, one at a time; the
//! agent answers each with any number of [`Report::Output`] and one [`Report::Ended`]. A VM that is started anew has a
//! fresh port, so there is no resynchronization.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::{End, Stream};

/// The longest frame either side accepts.
const MAX_FRAME: u32 = 64 << 20;

/// A command to run: on the host or in the VM, it is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The name under which it is reported.
    pub name: String,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// What it finds on standard input.
    pub stdin: Vec<u8>,
    /// How long it may take.
    pub limit: Duration,
}

/// What the agent says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// The VM is up; the text says what it is (kernel, KVM).
    Ready(String),
    /// The running job wrote something.
    Output(Stream, Vec<u8>),
    /// The job has ended.
    Ended(Ended),
}

/// How a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// How its process ended.
    pub end: End,
    /// How long it took.
    pub elapsed: Duration,
    /// Processes it left behind.
    pub left_behind: Vec<String>,
}

/// Writes one frame.
pub fn send<T: Serialize>(out: &mut impl Write, message: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).ok().filter(|len| *len <= MAX_FRAME);
    let len = len.ok_or_else(|| io::Error::other("frame too long"))?;
    let mut frame = len.to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one frame; `UnexpectedEof` when the other side is gone.
pub fn receive<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > MAX_FRAME {
        return Err(io::Error::other(format!("frame of {len} bytes")));
    }
    let mut body = vec![0; len as usize];
    input.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let mut wire = Vec::new();
        send(&mut wire, &Report::Output(Stream::Stderr, vec![0, 255, 10])).unwrap();
        send(&mut wire, &Report::Ready("up".into())).unwrap();
        let mut input = wire.as_slice();
        assert!(
            matches!(receive(&mut input), Ok(Report::Output(Stream::Stderr, bytes)) if bytes == [0, 255, 10])
        );
        assert!(matches!(receive(&mut input), Ok(Report::Ready(text)) if text == "up"));
        assert_eq!(receive::<Report>(&mut input).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_hostile_length_is_refused() {
        assert!(receive::<Report>(&mut [255u8; 8].as_slice()).is_err());
    }
}
