//! Restartable sequences (rseq(2)): code that runs to its last instruction on one CPU without another thread there
//! in between, or else goes on at its abort handler.
//!
//! An application says in its thread's `struct rseq` which sequence it is about to run; whoever takes the thread off
//! its CPU, or gives it a signal, looks whether it is inside, and moves it. The machine says when a thread has lost
//! its CPU ([`Trap::Rescheduled`](crate::platform::Trap)); where the host itself preempts, it does that part
//! ([`Restarts::Host`]). Signals are the sentry's own everywhere. Nothing here is on the way of a thread that has
//! kept its CPU.

use super::Current;
use crate::errno::Errno;
use crate::platform::{RestartArea, Restarts, platform};
use crate::signal::{SigInfo, Signal, force};

// Where the fields of `struct rseq` are (include/uapi/linux/rseq.h).
const CPU_ID_START: u64 = 0;
const RSEQ_CS: u64 = 8;
const NODE_ID: u64 = 20;
/// Bytes up to the end of `mm_cid`.
const FIELDS: usize = 28;
/// RSEQ_CPU_ID_UNINITIALIZED.
const UNINITIALIZED: u32 = u32::MAX;
/// Bytes of the first version of the structure, and its alignment and later ones'.
const ORIGINAL: u32 = 32;

/// Bytes of `struct rseq_cs`.
const DESCRIPTOR: usize = 32;

/// A task's registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rseq {
    area: RestartArea,
    by: Restarts,
}

/// `struct rseq_cs`: a sequence.
struct Sequence {
    version: u32,
    flags: u32,
    start: u64,
    len: u64,
    abort: u64,
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|b| b.first_chunk::<4>());
    word.map_or(0, |b| u32::from_le_bytes(*b))
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|b| b.first_chunk::<8>());
    word.map_or(0, |b| u64::from_le_bytes(*b))
}

impl Sequence {
    fn parse(bytes: &[u8; DESCRIPTOR]) -> Sequence {
        Sequence {
            version: word32(bytes, 0),
            flags: word32(bytes, 4),
            start: word64(bytes, 8),
            len: word64(bytes, 16),
            abort: word64(bytes, 24),
        }
    }

    /// What rseq_get_rseq_cs() in kernel/rseq.c refuses.
    fn is_valid(&self, end: u64) -> bool {
        self.start < end
            && self.start.checked_add(self.len).is_some_and(|last| last < end)
            && self.abort < end
            && self.version == 0
            && self.abort.wrapping_sub(self.start) >= self.len
    }

    fn holds(&self, rip: u64) -> bool {
        rip.wrapping_sub(self.start) < self.len
    }
}

impl Rseq {
    /// The area, for a fork, whose memory has it too.
    pub fn area(&self) -> RestartArea {
        self.area
    }
}

impl Current {
    /// rseq(2) without flags.
    pub fn register_rseq(&mut self, area: RestartArea) -> Result<(), Errno> {
        let size = platform().restart_area_size();
        if let Some(rseq) = &self.rseq {
            return Err(refusal(&rseq.area, &area).unwrap_or(Errno::EBUSY));
        }
        // A length of its own tells the first version, which need not have all of the fields of this one.
        let aligned = area.addr.is_multiple_of(ORIGINAL.into());
        if area.len < ORIGINAL || !aligned || (area.len != ORIGINAL && area.len < size) {
            return Err(Errno::EINVAL);
        }
        let end = area.addr.checked_add(area.len.into());
        if end.is_none_or(|end| end > platform().user_range().end) {
            return Err(Errno::EFAULT);
        }
        // What was there before is nobody's sequence.
        let mut old = [0; 8];
        let at = area.addr.wrapping_add(RSEQ_CS);
        self.mm.copy_in(at, &mut old)?;
        if old != [0; 8] {
            self.mm.copy_out(at, &[0; 8])?;
        }
        let by = self.user.restartable(Some(area))?;
        self.rseq = Some(Rseq { area, by });
        Ok(())
    }

    /// rseq(2) with RSEQ_FLAG_UNREGISTER.
    pub fn unregister_rseq(&mut self, area: RestartArea) -> Result<(), Errno> {
        let Some(rseq) = &self.rseq else { return Err(Errno::EINVAL) };
        if let Some(refusal) = refusal(&rseq.area, &area) {
            return Err(refusal);
        }
        self.write_ids(area.addr, [0, UNINITIALIZED], [0, 0])?;
        self.forget_rseq();
        Ok(())
    }

    /// What a task has that a fork was registered for by its parent.
    pub fn inherit_rseq(&mut self, area: Option<RestartArea>) {
        // Where the machine cannot, the parent could not either.
        self.rseq = area.and_then(|area| {
            let by = self.user.restartable(Some(area)).ok()?;
            Some(Rseq { area, by })
        });
    }

    /// There is no area any more: exec, and [`unregister_rseq`](Self::unregister_rseq).
    pub fn forget_rseq(&mut self) {
        // Only what was registered can be undone, so there is nothing that this could fail at.
        if self.rseq.take().is_some() {
            let _undone = self.user.restartable(None);
        }
    }

    /// The machine has stopped the task: it may have lost its CPU ([`Restarts::Sentry`]), or has, if `surely`.
    #[cold]
    pub fn rescheduled(&mut self, surely: bool) {
        if let Some(rseq) = self.rseq
            && (surely || rseq.by == Restarts::Sentry)
        {
            let cpu = self.user.cpu();
            // One memory node. Threads that run at the same time have different CPUs, so that is a number among them
            // too (mm_cid).
            let result = match self.abort_sequence(rseq.area) {
                // Mostly it has the CPU that it had, and nothing is to be written. A host wants to write itself, and has
                // to find the page writable.
                Ok(ids) if rseq.by == Restarts::Sentry && ids == [cpu, cpu, 0, cpu] => Ok(()),
                Ok(_) => self.write_ids(rseq.area.addr, [cpu, cpu], [0, cpu]),
                Err(e) => Err(e),
            };
            if result.is_err() {
                force(self, SigInfo::kernel(Signal::SIGSEGV));
            }
        }
    }

    /// A handler is about to run: a sequence that it would interrupt is aborted.
    pub fn abort_before_handler(&mut self) {
        if let Some(rseq) = self.rseq
            && self.abort_sequence(rseq.area).is_err()
        {
            force(self, SigInfo::kernel(Signal::SIGSEGV));
        }
    }

    /// rseq_ip_fixup() in kernel/rseq.c; cpu_id_start, cpu_id, node_id and mm_cid as they are.
    fn abort_sequence(&mut self, area: RestartArea) -> Result<[u32; 4], Errno> {
        let mut bytes = [0; FIELDS];
        self.mm.copy_in(area.addr, &mut bytes)?;
        let ids = [0, 4, 20, 24].map(|at| word32(&bytes, at));
        let pointer = word64(&bytes, 8);
        if pointer == 0 {
            return Ok(ids);
        }
        let end = platform().user_range().end;
        if pointer >= end {
            return Err(Errno::EINVAL);
        }
        let mut descriptor = [0; DESCRIPTOR];
        self.mm.copy_in(pointer, &mut descriptor)?;
        let sequence = Sequence::parse(&descriptor);
        if !sequence.is_valid(end) {
            return Err(Errno::EINVAL);
        }
        // An application that is led to jump somewhere by a write to its area shall find a mark there.
        let mut signature = [0; 4];
        self.mm.copy_in(sequence.abort.wrapping_sub(4), &mut signature)?;
        if u32::from_le_bytes(signature) != area.signature {
            return Err(Errno::EINVAL);
        }
        if sequence.holds(self.regs.rip) {
            // Flags that once said not to restart, and mean nothing any more (RSEQ_CS_NO_RESTART_FLAGS).
            if sequence.flags != 0 || word32(&bytes, 16) != 0 {
                return Err(Errno::EINVAL);
            }
            self.regs.rip = sequence.abort;
        }
        self.mm.copy_out(area.addr.wrapping_add(RSEQ_CS), &[0; 8])?;
        Ok(ids)
    }

    /// Writes cpu_id_start and cpu_id, and node_id and mm_cid.
    fn write_ids(&self, addr: u64, cpu: [u32; 2], place: [u32; 2]) -> Result<(), Errno> {
        let bytes = |[a, b]: [u32; 2]| (u64::from(a) | u64::from(b) << 32).to_le_bytes();
        self.mm.copy_out(addr.wrapping_add(CPU_ID_START), &bytes(cpu))?;
        self.mm.copy_out(addr.wrapping_add(NODE_ID), &bytes(place))
    }
}

/// Why `new` is not the area that is registered.
fn refusal(old: &RestartArea, new: &RestartArea) -> Option<Errno> {
    if (old.addr, old.len) != (new.addr, new.len) {
        Some(Errno::EINVAL)
    } else if old.signature != new.signature {
        Some(Errno::EPERM)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_checked_as_linux_does() {
        let end = 0x7fff_ffff_f000;
        let sequence = |start, len, abort| Sequence { version: 0, flags: 0, start, len, abort };
        assert!(sequence(0x1000, 16, 0x2000).is_valid(end));
        assert!(sequence(0x1000, 16, 0x1010).is_valid(end));
        assert!(!sequence(0x1000, 16, 0x100f).is_valid(end), "the handler is inside");
        assert!(!sequence(0x1000, u64::MAX, 0x100).is_valid(end));
        assert!(!sequence(end - 8, 8, 0x1000).is_valid(end));
        assert!(!sequence(0x1000, 16, end).is_valid(end));
        assert!(!Sequence { version: 1, ..sequence(0x1000, 16, 0x2000) }.is_valid(end));
        let s = sequence(0x1000, 16, 0x2000);
        assert!(s.holds(0x1000) && s.holds(0x100f) && !s.holds(0x1010) && !s.holds(0xfff));
    }
}
