//! io_setup and its kind: asynchronous I/O (linux/aio_abi.h).

use alloc::sync::Arc;

use super::Args;
use super::file_args::Vectors;
use super::poll::{deadline_after, under_mask};
use super::{rw, sched};
use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::fs::aio::{Context, EVENT, Request};
use crate::fs::eventfd::EventFd;
use crate::fs::types::MAX_OFFSET;
use crate::fs::{Events, File};
use crate::task::{Blocked, Current};

/// `aio_lio_opcode`.
mod command {
    pub const PREAD: u16 = 0;
    pub const PWRITE: u16 = 1;
    pub const FSYNC: u16 = 2;
    pub const FDSYNC: u16 = 3;
    pub const POLL: u16 = 5;
    pub const PREADV: u16 = 7;
    pub const PWRITEV: u16 = 8;
}

/// `aio_flags`.
const RESFD: u32 = 1;
const IOPRIO: u32 = 2;
/// Where `aio_key` is, and what the kernel puts there (KIOCB_KEY).
const KEY: u64 = 8;
const KIOCB_KEY: u32 = 0;

/// io_setup(2).
pub fn io_setup(cx: &mut Current, args: Args) -> SysResult {
    let (requests, addr) = (args.uint(0), args.get(1));
    if cx.mm.copy_in_u64(addr)? != 0 || requests == 0 {
        return Err(Errno::EINVAL.into());
    }
    let context = Context::set_up(&cx.mm, requests)?;
    if let Err(e) = cx.mm.copy_out(addr, &context.to_le_bytes()) {
        cx.mm.aio.destroy(&cx.mm, context)?;
        return Err(e.into());
    }
    Ok(0)
}

/// io_destroy(2).
pub fn io_destroy(cx: &mut Current, args: Args) -> SysResult {
    cx.mm.aio.destroy(&cx.mm, args.get(0))?;
    Ok(0)
}

/// `struct iocb`.
struct Iocb {
    data: u64,
    rw_flags: u32,
    command: u16,
    priority: u16,
    fd: i32,
    buf: u64,
    nbytes: u64,
    offset: u64,
    flags: u32,
    resfd: i32,
}

impl Iocb {
    fn read(cx: &Current, addr: u64) -> Result<Iocb, Errno> {
        let mut raw = [0u8; 64];
        cx.mm.copy_in(addr, &mut raw)?;
        let mut words = [0u64; 8];
        for (word, bytes) in words.iter_mut().zip(raw.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        let [data, key, what, buf, nbytes, offset, reserved, last] = words;
        if reserved != 0 || i64::try_from(nbytes).is_err() {
            return Err(Errno::EINVAL);
        }
        Ok(Iocb {
            data,
            rw_flags: (key >> 32) as u32,
            command: what as u16,
            priority: (what >> 16) as u16,
            fd: (what >> 32) as i32,
            buf,
            nbytes,
            offset,
            flags: last as u32,
            resfd: (last >> 32) as i32,
        })
    }
}

/// io_submit(2).
pub fn io_submit(cx: &mut Current, args: Args) -> SysResult {
    let count = args.get(1) as i64;
    let count = u64::try_from(count).map_err(|_| Errno::EINVAL)?;
    let context = cx.mm.aio.get(&cx.mm, args.get(0))?;
    let count = count.min(context.places().into());
    for n in 0..count {
        let at = args.get(2).wrapping_add(n.wrapping_mul(8));
        let one = cx.mm.copy_in_u64(at).and_then(|iocb| submit(cx, &context, iocb));
        match one {
            Ok(()) => {}
            Err(e) if n == 0 => return Err(e.into()),
            // What failed is told to whoever submits it again.
            Err(_) => return Ok(n),
        }
    }
    Ok(count)
}

fn submit(cx: &Current, context: &Arc<Context>, addr: u64) -> Result<(), Errno> {
    let iocb = Iocb::read(cx, addr)?;
    context.reserve()?;
    begin(cx, context, addr, &iocb).inspect_err(|_| context.give_back())
}

/// Does it, or begins to; an error is one of submitting it, and there is no event.
fn begin(cx: &Current, context: &Arc<Context>, addr: u64, iocb: &Iocb) -> Result<(), Errno> {
    let file = cx.files.get(iocb.fd)?;
    let told = match iocb.flags & RESFD != 0 {
        true => {
            let file = cx.files.get(iocb.resfd)?;
            Some(file.ops_as::<EventFd>().map(|_| file.clone()).ok_or(Errno::EINVAL)?)
        }
        false => None,
    };
    cx.mm.copy_out(addr.wrapping_add(KEY), &KIOCB_KEY.to_le_bytes())?;
    let request = Request { data: iocb.data, iocb: addr, told };
    let result = match iocb.command {
        command::PREAD | command::PREADV => transfer(cx, &file, iocb, false)?,
        command::PWRITE | command::PWRITEV => transfer(cx, &file, iocb, true)?,
        command::FSYNC | command::FDSYNC => {
            if iocb.buf != 0 || iocb.offset != 0 || iocb.nbytes != 0 || iocb.rw_flags != 0 {
                return Err(Errno::EINVAL);
            }
            // A file that has no such thing is told so at once.
            match file.ops().fsync(&file, iocb.command == command::FDSYNC) {
                Err(Errno::EINVAL) => return Err(Errno::EINVAL),
                result => result.map(|()| 0).map_err(SysError::from),
            }
        }
        command::POLL => {
            let wanted = u16::try_from(iocb.buf).map_err(|_| Errno::EINVAL)?;
            if iocb.offset != 0 || iocb.nbytes != 0 || iocb.rw_flags != 0 {
                return Err(Errno::EINVAL);
            }
            let wanted = Events::from_bits_truncate(wanted.into());
            return context.poll(&cx.task, file, wanted, request);
        }
        _ => return Err(Errno::EINVAL),
    };
    context.complete(
        &request,
        match result {
            Ok(n) => n as i64,
            Err(SysError::Errno(e)) => -i64::from(e.code()),
            // Others may be under way, so that the call cannot be made again.
            Err(SysError::Interrupted(_)) => -i64::from(Errno::EINTR.code()),
        },
    );
    Ok(())
}

/// A read or a write: what its event tells, or why it is none.
fn transfer(cx: &Current, file: &Arc<File>, iocb: &Iocb, writes: bool) -> Result<SysResult, Errno> {
    if iocb.flags & IOPRIO != 0 {
        sched::check_io_priority(cx, iocb.priority.into())?;
    }
    rw::check_asynchronous(file, iocb.rw_flags, writes)?;
    let vectored = matches!(iocb.command, command::PREADV | command::PWRITEV);
    let buffers = if vectored {
        // Unlike that of readv(2), the number is taken as it is.
        let count = u32::try_from(iocb.nbytes).map_err(|_| Errno::EINVAL)?;
        Vectors::read(cx, iocb.buf, count)?
    } else {
        Vectors::one(cx, iocb.buf, usize::try_from(iocb.nbytes).map_err(|_| Errno::EINVAL)?)?
    };
    if iocb.offset.saturating_add(buffers.total() as u64) > MAX_OFFSET {
        return Err(Errno::EINVAL);
    }
    Ok(rw::transfer(cx, file, &buffers, iocb.offset, iocb.rw_flags, writes))
}

/// io_cancel(2).
pub fn io_cancel(cx: &mut Current, args: Args) -> SysResult {
    let mut key = [0; 4];
    cx.mm.copy_in(args.get(1).wrapping_add(KEY), &mut key)?;
    if u32::from_le_bytes(key) != KIOCB_KEY {
        return Err(Errno::EINVAL.into());
    }
    let context = cx.mm.aio.get(&cx.mm, args.get(0))?;
    context.cancel(args.get(1))?;
    // The event says the rest.
    Err(Errno::EINPROGRESS.into())
}

fn get_events(cx: &Current, args: Args, deadline: Option<u64>) -> Result<u64, SysError> {
    let context = cx.mm.aio.get(&cx.mm, args.get(0))?;
    let (least, most) = (args.get(1) as i64, args.get(2) as i64);
    if least > most || least < 0 {
        return Err(Errno::EINVAL.into());
    }
    let (least, most) = (least as u64, usize::try_from(most).unwrap_or(usize::MAX));
    let mut got: usize = 0;
    loop {
        let at = args.get(3).wrapping_add((got as u64).wrapping_mul(EVENT as u64));
        let taken = context.take(most.saturating_sub(got), |n, event| {
            cx.mm.copy_out(at.wrapping_add((n as u64).wrapping_mul(EVENT as u64)), event)
        });
        let failed = match taken {
            Ok(n) => {
                got = got.saturating_add(n);
                context.is_dead().then_some(Errno::EINVAL)
            }
            Err(e) => Some(e),
        };
        if let Some(e) = failed {
            return if got > 0 { Ok(got as u64) } else { Err(e.into()) };
        }
        if got as u64 >= least || deadline == Some(0) {
            return Ok(got as u64);
        }
        let some = || (context.has_events() || context.is_dead()).then_some(());
        match cx.wait_for(context.waiters(), u32::MAX, deadline, some) {
            Ok(()) => {}
            Err(Blocked::Interrupted) if got == 0 => {
                return Err(SysError::Interrupted(Restart::Never));
            }
            Err(_) => return Ok(got as u64),
        }
    }
}

/// The deadline of a `struct timespec`, which is not checked: one before the beginning never comes.
fn deadline(cx: &Current, addr: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let seconds = cx.mm.copy_in_u64(addr)? as i64;
    let part = cx.mm.copy_in_u64(addr.wrapping_add(8))? as i64;
    let nanos = seconds.saturating_mul(1_000_000_000).saturating_add(part);
    Ok(deadline_after(u64::try_from(nanos).ok()))
}

/// io_getevents(2).
pub fn io_getevents(cx: &mut Current, args: Args) -> SysResult {
    let until = deadline(cx, args.get(4))?;
    get_events(cx, args, until)
}

/// io_pgetevents(2).
pub fn io_pgetevents(cx: &mut Current, args: Args) -> SysResult {
    let until = deadline(cx, args.get(4))?;
    let (mut mask, mut size) = (0, 0);
    if args.get(5) != 0 {
        mask = cx.mm.copy_in_u64(args.get(5))?;
        size = cx.mm.copy_in_u64(args.get(5).wrapping_add(8))?;
    }
    under_mask(cx, mask, size, |cx| match get_events(cx, args, until) {
        Err(SysError::Interrupted(_)) => Err(SysError::Interrupted(Restart::NoHandler)),
        result => result,
    })
}
