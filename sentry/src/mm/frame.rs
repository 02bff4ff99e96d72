//! Frames with a count of their owners.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::errno::Errno;
use crate::platform::{Frame, platform};

/// Frames in one piece of the count table: 128 MiB of memory for 128 KiB of counts.
const PIECE: usize = 1 << 15;
/// Pieces: 2^32 frames are 16 TiB; a sandbox has at most 1 TiB.
const PIECES: usize = 1 << 13;

static COUNTS: [spin::Once<Box<[AtomicU32]>>; PIECES] = [const { spin::Once::new() }; PIECES];

fn count(frame: Frame) -> Option<&'static AtomicU32> {
    let (piece, at) = (frame.0 as usize / PIECE, frame.0 as usize % PIECE);
    COUNTS
        .get(piece)?
        .call_once(|| (0..PIECE).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().into_boxed_slice())
        .get(at)
}

/// A share in one frame. The last one to go gives the frame back.
#[derive(Debug)]
pub struct FrameRef(Frame);

impl FrameRef {
    /// A new frame, all zero. `ENOMEM` where there is none.
    pub fn alloc() -> Result<FrameRef, Errno> {
        let frame = platform().alloc_frames(1).ok_or(Errno::ENOMEM)?;
        let Some(count) = count(frame) else {
            platform().free_frames(frame, 1);
            return Err(Errno::ENOMEM);
        };
        count.store(1, Ordering::Release);
        Ok(FrameRef(frame))
    }

    /// A run of new neighbouring frames, all zero.
    pub fn alloc_run(n: u32) -> Result<Vec<FrameRef>, Errno> {
        let first = platform().alloc_frames(n).ok_or(Errno::ENOMEM)?;
        if count(first.offset(n.saturating_sub(1))).is_none() {
            platform().free_frames(first, n);
            return Err(Errno::ENOMEM);
        }
        Ok((0..n)
            .map(|i| {
                let frame = first.offset(i);
                if let Some(count) = count(frame) {
                    count.store(1, Ordering::Release);
                }
                FrameRef(frame)
            })
            .collect())
    }

    /// The frame.
    pub fn frame(&self) -> Frame {
        self.0
    }

    /// Whether this is the only share.
    pub fn is_sole(&self) -> bool {
        count(self.0).is_some_and(|c| c.load(Ordering::Acquire) == 1)
    }

    /// A new frame with the same content.
    pub fn duplicate(&self) -> Result<FrameRef, Errno> {
        let copy = FrameRef::alloc()?;
        platform().copy_frame(self.0, copy.0);
        Ok(copy)
    }
}

impl Clone for FrameRef {
    fn clone(&self) -> Self {
        if let Some(count) = count(self.0) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        FrameRef(self.0)
    }
}

impl Drop for FrameRef {
    fn drop(&mut self) {
        if count(self.0).is_some_and(|c| c.fetch_sub(1, Ordering::AcqRel) == 1) {
            platform().free_frames(self.0, 1);
        }
    }
}
