//! Copies between the sentry and an application's memory, and atomic operations on it.
//!
//! The platform copies with the application's rights and stops at a page that is not mapped; the fault
//! is then resolved here, in an ordinary context that may wait, and the copy goes on.

use alloc::vec;
use alloc::vec::Vec;

use super::{FaultError, Mm, PAGE, VmaFlags};
use crate::errno::Errno;
use crate::platform::{Access, AtomicOp, CopyFault, FileId, Prot};

/// Names a futex word: the same for all who see the same word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FutexKey {
    /// In memory that only one address space has: its number, the address.
    Private(u64, u64),
    /// In a shared mapping: device and inode number, byte offset.
    Shared(u64, u64, u64),
}

impl Mm {
    /// Reads all of `buf` from `addr`. `EFAULT` where any byte cannot be read.
    pub fn copy_in(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.copy_in_partial(addr, buf).map_or_else(|(_, e)| Err(e), |()| Ok(()))
    }

    /// Writes all of `data` to `addr`. `EFAULT` where any byte cannot be written; what lies before is.
    pub fn copy_out(&self, addr: u64, data: &[u8]) -> Result<(), Errno> {
        self.copy_out_partial(addr, data).map_or_else(|(_, e)| Err(e), |()| Ok(()))
    }

    /// As [`copy_in`](Self::copy_in); an error comes with how many bytes were read before it.
    pub fn copy_in_partial(&self, addr: u64, buf: &mut [u8]) -> Result<(), (usize, Errno)> {
        self.check(addr, buf.len()).map_err(|e| (0, e))?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.space.copy_in(addr.wrapping_add(done as u64), rest) {
                Ok(()) => break,
                Err(fault) => done = self.go_on(done, fault, Access::Read)?,
            }
        }
        Ok(())
    }

    /// As [`copy_out`](Self::copy_out); an error comes with how many bytes were written before it.
    pub fn copy_out_partial(&self, addr: u64, data: &[u8]) -> Result<(), (usize, Errno)> {
        self.check(addr, data.len()).map_err(|e| (0, e))?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match self.space.copy_out(addr.wrapping_add(done as u64), rest) {
                Ok(()) => break,
                Err(fault) => done = self.go_on(done, fault, Access::Write)?,
            }
        }
        Ok(())
    }

    /// Moves bytes of a host file to `addr` without a fault being resolved on the way: how many, which may be none.
    pub fn copy_out_file(&self, addr: u64, len: usize, file: FileId, offset: u64) -> usize {
        match self.check(addr, len) {
            Ok(()) => self.space.copy_out_file(addr, len, file, offset).min(len),
            Err(_) => 0,
        }
    }

    /// Writes zeroes.
    pub fn zero_out(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let zeroes = [0; 512];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeroes.len() as u64);
            self.copy_out(addr.wrapping_add(done), zeroes.get(..n as usize).unwrap_or(&[]))?;
            done += n;
        }
        Ok(())
    }

    /// Reads bytes up to, and without, the first zero. `ENAMETOOLONG` where there is none in `max`.
    pub fn copy_in_string(&self, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
        let mut out = Vec::new();
        let mut at = addr;
        while out.len() < max {
            // Never past the page: what follows it may not be mapped, and the string may end before.
            let room = (PAGE - at % PAGE).min(128).min((max - out.len()) as u64) as usize;
            let from = out.len();
            out.resize(from + room, 0);
            let piece = out.get_mut(from..).unwrap_or(&mut []);
            self.copy_in(at, piece)?;
            if let Some(end) = piece.iter().position(|b| *b == 0) {
                out.truncate(from + end);
                return Ok(out);
            }
            at = at.wrapping_add(room as u64);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a little-endian word of 8 bytes.
    pub fn copy_in_u64(&self, addr: u64) -> Result<u64, Errno> {
        let mut word = [0; 8];
        self.copy_in(addr, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Reads a little-endian word of 4 bytes.
    pub fn copy_in_u32(&self, addr: u64) -> Result<u32, Errno> {
        let mut word = [0; 4];
        self.copy_in(addr, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Reads a vector of pointers up to, and without, the first null (argv). `E2BIG` past `max`.
    pub fn copy_in_pointers(&self, addr: u64, max: usize) -> Result<Vec<u64>, Errno> {
        let mut pointers = Vec::new();
        for at in (addr..).step_by(8) {
            match self.copy_in_u64(at)? {
                0 => break,
                _ if pointers.len() >= max => return Err(Errno::E2BIG),
                pointer => pointers.push(pointer),
            }
        }
        Ok(pointers)
    }

    /// Reads `count` items of `size` bytes, with the product checked. `EINVAL` past `max` bytes.
    pub fn copy_in_array(
        &self,
        addr: u64,
        count: usize,
        size: usize,
        max: usize,
    ) -> Result<Vec<u8>, Errno> {
        let len = count.checked_mul(size).filter(|len| *len <= max).ok_or(Errno::EINVAL)?;
        let mut buf = vec![0; len];
        self.copy_in(addr, &mut buf)?;
        Ok(buf)
    }

    /// An atomic operation on an aligned word; the word before it. `EINVAL` where it is not aligned.
    pub fn atomic(&self, addr: u64, op: AtomicOp) -> Result<u32, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        self.check(addr, 4)?;
        let access = if op == AtomicOp::Load { Access::Read } else { Access::Write };
        loop {
            match self.space.atomic(addr, op) {
                Ok(old) => return Ok(old),
                Err(fault) => {
                    self.resolve_or_wait(fault.addr, access).map_err(unreachable_memory)?;
                }
            }
        }
    }

    /// The name of the futex word at `addr`. `private`: the caller promises that it is not shared.
    pub fn futex_key(&self, addr: u64, private: bool) -> Result<FutexKey, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        self.check(addr, 4)?;
        let own = FutexKey::Private(self.space.id().0, addr);
        if private {
            return Ok(own);
        }
        let state = self.state.lock();
        let vma = state.vmas.find(addr).ok_or(Errno::EFAULT)?;
        // Without the promise the page is looked up, and one of the process's own must be writable.
        if vma.prot.is_empty() || vma.file.is_none() && !vma.prot.contains(Prot::WRITE) {
            return Err(Errno::EFAULT);
        }
        Ok(match &vma.file {
            Some(file) if vma.flags.contains(VmaFlags::SHARED) => {
                let (device, inode) = file.pages.identity();
                let page = vma.file_page(addr);
                FutexKey::Shared(device, inode, page.wrapping_mul(PAGE).wrapping_add(addr % PAGE))
            }
            _ => own,
        })
    }

    fn go_on(
        &self,
        done: usize,
        fault: CopyFault,
        access: Access,
    ) -> Result<usize, (usize, Errno)> {
        let done = done.saturating_add(fault.done);
        match self.resolve_or_wait(fault.addr, access) {
            Ok(()) => Ok(done),
            Err(e) => Err((done, unreachable_memory(e))),
        }
    }

    /// `EFAULT` unless all of it lies where an application can have memory.
    fn check(&self, addr: u64, len: usize) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        match addr.checked_add(len as u64) {
            Some(end) if addr >= self.user.start && end <= self.user.end => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }
}

/// The error of a call whose memory could not be reached.
fn unreachable_memory(e: FaultError) -> Errno {
    match e {
        FaultError::OutOfMemory => Errno::ENOMEM,
        FaultError::NotMapped | FaultError::NotAllowed | FaultError::Unreadable => Errno::EFAULT,
    }
}
