//! Restartable sequences and barriers, which the host's kernel does for us.
//!
//! It is the host's scheduler that preempts a tracee, without telling its tracer, so it alone can abort the sequence
//! that this has broken into: a tracee registers the application's area for itself. What the host's kernel then
//! reads and writes there is the application's memory as far as it is mapped. Where a page is missing it sends the
//! tracee a SIGSEGV that looks like a general protection fault, and the sentry brings the page.
//!
//! Barriers are calls of the stub's agent, which has the same memory as the threads that they are for.

use std::sync::atomic::{AtomicU32, Ordering};

use sentry::errno::Errno;
use sentry::platform::{Barrier, Barriers, Prot, RestartArea};

use crate::space::Space;
use crate::stub::{Request, Stub};
use crate::sys;
use crate::user::call;

/// How often in a row, at one instruction, a SIGSEGV is taken for a page that the kernel has missed.
const TRIES: u32 = 4;
/// rseq(2): RSEQ_FLAG_UNREGISTER.
const UNREGISTER: u64 = 1;

/// A tracee's area.
#[derive(Default)]
pub(crate) struct Registration {
    area: Option<RestartArea>,
    /// Where the last SIGSEGV was that may have been a missing page, and how many were there.
    failed: (u64, u32),
}

impl Registration {
    /// Whether there is one.
    pub(crate) fn is_made(&self) -> bool {
        self.area.is_some()
    }

    /// Has a stopped tracee register it. Its registers are lost, but for the segment bases.
    pub(crate) fn begin(&mut self, tid: i32, area: RestartArea) -> Result<(), Errno> {
        rseq(tid, area, 0)?;
        *self = Registration { area: Some(area), failed: (0, 0) };
        Ok(())
    }

    /// Has a stopped tracee undo it, if there is one; likewise.
    pub(crate) fn end(&mut self, tid: i32) -> Result<(), Errno> {
        if let Some(area) = self.area {
            rseq(tid, area, UNREGISTER)?;
            self.area = None;
        }
        Ok(())
    }

    /// The tracee has stopped for another reason: what comes next is not the same again.
    #[inline]
    pub(crate) fn moved_on(&mut self) {
        self.failed.1 = 0;
    }

    /// Whether a SIGSEGV of the kernel's at this instruction may say that it has missed a page: the area cannot be
    /// written, or could not a moment ago. With the area there, one that comes again and again was the instruction's
    /// own.
    pub(crate) fn may_have_failed(&mut self, rip: u64, space: &Space) -> bool {
        let Some(area) = self.area else { return false };
        if !space.prot_at(area.addr).is_some_and(|prot| prot.contains(Prot::WRITE)) {
            self.moved_on();
            return true;
        }
        let count = if self.failed.0 == rip { self.failed.1 } else { 0 };
        self.failed = if count < TRIES { (rip, count + 1) } else { (0, 0) };
        count < TRIES
    }
}

fn rseq(tid: i32, area: RestartArea, flags: u64) -> Result<(), Errno> {
    let args = [area.addr, area.len.into(), flags, area.signature.into()];
    call(tid, libc::SYS_rseq, args)
}

// membarrier(2) commands (include/uapi/linux/membarrier.h); the registration of an expedited one is twice it.
const GLOBAL: u32 = 1 << 0;
const PRIVATE_EXPEDITED: u32 = 1 << 3;
const PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 5;
const PRIVATE_EXPEDITED_RSEQ: u32 = 1 << 7;
const FLAG_CPU: u64 = 1;

/// What the host's kernel can do.
pub(crate) fn barriers() -> Barriers {
    let commands = sys::membarriers();
    [
        (GLOBAL, Barriers::EVERYWHERE),
        (PRIVATE_EXPEDITED, Barriers::MEMORY),
        (PRIVATE_EXPEDITED_SYNC_CORE, Barriers::CORE),
        (PRIVATE_EXPEDITED_RSEQ, Barriers::RESTART),
    ]
    .into_iter()
    .filter(|(command, _)| commands & u64::from(*command) != 0)
    .map(|(_, barrier)| barrier)
    .collect()
}

/// Has a stub's agent do it; `registered` is what the stub is registered for.
pub(crate) fn barrier(stub: &Stub, registered: &AtomicU32, barrier: Barrier) -> Result<(), Errno> {
    let (command, flags, cpu) = match barrier {
        Barrier::Everywhere => (GLOBAL, 0, 0),
        Barrier::Memory => (PRIVATE_EXPEDITED, 0, 0),
        Barrier::Core => (PRIVATE_EXPEDITED_SYNC_CORE, 0, 0),
        Barrier::Restart(None) => (PRIVATE_EXPEDITED_RSEQ, 0, 0),
        Barrier::Restart(Some(cpu)) => (PRIVATE_EXPEDITED_RSEQ, FLAG_CPU, cpu.into()),
    };
    let call = |command: u32, flags, cpu| {
        Request::new(libc::SYS_membarrier, [command.into(), flags, cpu, 0, 0, 0])
    };
    let registration = command << 1;
    if command != GLOBAL && registered.load(Ordering::Relaxed) & registration == 0 {
        stub.call(&[call(registration, 0, 0)])?;
        registered.fetch_or(registration, Ordering::Relaxed);
    }
    stub.call(&[call(command, flags, cpu)])
}
