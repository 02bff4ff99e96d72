//! A pipe from inside the sentry, for splice(2) and its kind: bytes are taken, looked at and put without a
//! descriptor's flags, and what could not be passed on goes back to the front.
//!
//! Nothing here waits; `EAGAIN` says that [`Pipe::queue`] will tell.

use alloc::vec::Vec;

use super::{PIPE_BUF, Pipe, State};
use crate::errno::Errno;
use crate::fs::types::Events;
use crate::sync::WaitQueue;

impl State {
    /// The oldest `len` bytes, which must be there.
    fn copy_out(&self, len: usize) -> Result<Vec<u8>, Errno> {
        let mut data = Vec::new();
        data.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        let (first, second) = self.stretches(self.head, len);
        data.extend_from_slice(self.ring.get(first).unwrap_or(&[]));
        data.extend_from_slice(self.ring.get(..second).unwrap_or(&[]));
        Ok(data)
    }

    /// Copies bytes into the ring from `at` on, which has room for them.
    fn copy_in(&mut self, at: usize, data: &[u8]) {
        let (first, second) = self.stretches(at, data.len());
        let (front, back) = data.split_at(data.len().saturating_sub(second));
        for (range, part) in [(first, front), (0..second, back)] {
            if let Some(room) = self.ring.get_mut(range) {
                room.copy_from_slice(part);
            }
        }
    }
}

impl Pipe {
    /// Where readers and writers wait.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Whether something can be taken: `EAGAIN` while it is empty and has writers; false at its end.
    pub fn has_data(&self) -> Result<bool, Errno> {
        let state = self.state.lock();
        match state.len {
            0 if state.writers > 0 => Err(Errno::EAGAIN),
            len => Ok(len > 0),
        }
    }

    /// Bytes that it has room for: `EPIPE` where nobody reads it, `EAGAIN` while it is full.
    pub fn has_room(&self) -> Result<usize, Errno> {
        let state = self.state.lock();
        match state.room() {
            _ if state.readers == 0 => Err(Errno::EPIPE),
            0 => Err(Errno::EAGAIN),
            room => Ok(room),
        }
    }

    /// The oldest bytes, at most `most`, which stay; as for [`has_data`](Self::has_data), empty at its end.
    pub fn peek(&self, most: usize) -> Result<Vec<u8>, Errno> {
        let state = self.state.lock();
        if state.len == 0 && state.writers > 0 {
            return Err(Errno::EAGAIN);
        }
        state.copy_out(state.len.min(most))
    }

    /// As [`peek`](Self::peek), but they go.
    pub fn take(&self, most: usize) -> Result<Vec<u8>, Errno> {
        let mut state = self.state.lock();
        if state.len == 0 && state.writers > 0 {
            return Err(Errno::EAGAIN);
        }
        let data = state.copy_out(state.len.min(most))?;
        let was_full = state.room() < PIPE_BUF;
        state.len = state.len.saturating_sub(data.len());
        state.head = match state.len {
            0 => 0,
            _ => state.head.wrapping_add(data.len()) & state.ring.len().wrapping_sub(1),
        };
        let wake = was_full && state.room() >= PIPE_BUF;
        drop(state);
        if wake {
            self.queue.wake(Events::WRITABLE.bits());
        }
        Ok(data)
    }

    /// Puts back what was taken last.
    pub fn give_back(&self, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let len = state.len.saturating_add(data.len());
        state.grow(len)?;
        state.head = state.head.wrapping_sub(data.len()) & state.ring.len().wrapping_sub(1);
        let head = state.head;
        state.copy_in(head, data);
        state.len = len;
        drop(state);
        self.queue.wake(Events::READABLE.bits());
        Ok(())
    }

    /// Adds bytes, all of them: the room for them has been seen before, and where somebody else has taken
    /// it meanwhile the pipe holds more than its capacity for a while. `EPIPE` where nobody reads it.
    pub fn put(&self, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let len = state.len.saturating_add(data.len());
        state.grow(len)?;
        let at = state.head.wrapping_add(state.len);
        state.copy_in(at, data);
        state.len = len;
        drop(state);
        self.queue.wake(Events::READABLE.bits());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> Pipe {
        crate::platform::fake::install();
        let pipe = Pipe::default();
        let mut state = pipe.state.lock();
        (state.readers, state.writers) = (1, 1);
        drop(state);
        pipe
    }

    #[test]
    fn bytes_keep_their_order_around_the_end_of_the_ring() {
        let pipe = pipe();
        let mut expected: alloc::collections::VecDeque<u8> = Default::default();
        let mut next = 0u8;
        // Deterministic, and odd enough to meet every alignment of head and end.
        for step in 0..5000usize {
            let n = step * 7919 % 977;
            let data: Vec<u8> = (0..n)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            if pipe.len() + n <= 60000 {
                pipe.put(&data).unwrap();
                expected.extend(&data);
            }
            let want = step * 104729 % 1201;
            if !pipe.is_empty() {
                assert_eq!(
                    pipe.peek(want).unwrap(),
                    expected.iter().copied().take(want).collect::<Vec<_>>()
                );
                let taken = pipe.take(want).unwrap();
                let back = taken.len() / 3;
                pipe.give_back(&taken[taken.len() - back..]).unwrap();
                for byte in &taken[..taken.len() - back] {
                    assert_eq!(Some(*byte), expected.pop_front());
                }
            }
            assert_eq!(pipe.len(), expected.len());
        }
    }

    #[test]
    fn ends_and_fullness_are_told() {
        let pipe = pipe();
        assert_eq!(pipe.has_data(), Err(Errno::EAGAIN));
        assert_eq!(pipe.take(9), Err(Errno::EAGAIN));
        pipe.put(&[1; 65536]).unwrap();
        assert_eq!(pipe.has_room(), Err(Errno::EAGAIN));
        // Room that was seen before may be gone: nothing is lost.
        pipe.put(&[2; 100]).unwrap();
        assert_eq!(pipe.take(100_000).unwrap().len(), 65636);
        pipe.state.lock().writers = 0;
        assert_eq!(pipe.has_data(), Ok(false));
        assert_eq!(pipe.take(9), Ok(Vec::new()));
        pipe.state.lock().readers = 0;
        assert_eq!(pipe.has_room(), Err(Errno::EPIPE));
        assert_eq!(pipe.put(b"x"), Err(Errno::EPIPE));
    }
}
