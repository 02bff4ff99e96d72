//! Sockets: making, naming and connecting them, and their options. Transfers are in `message`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Args;
use super::file_args::fd_limit;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::{File, OpenFlags};
use crate::net::options::Options;
use crate::net::{self, MAX_ADDRESS, Patience, SHUT_RECEIVE, SHUT_SEND, Socket, SocketFile};
use crate::task::Current;

/// SOCK_CLOEXEC and SOCK_NONBLOCK: the bits of open(2)'s flags of these names.
const FLAGS: OpenFlags = OpenFlags::CLOEXEC.union(OpenFlags::NONBLOCK);
/// The bits of socket(2)'s type that are the type (SOCK_TYPE_MASK).
const TYPE_MASK: u32 = 0xf;
/// SOL_SOCKET (asm-generic/socket.h).
pub(super) const SOL_SOCKET: i32 = 1;

/// The open file behind `fd`, which must be a socket. `ENOTSOCK` where it is none.
pub(super) fn file(cx: &Current, fd: i32) -> Result<Arc<File>, Errno> {
    let file = cx.files.get(fd)?;
    socket_of(&file)?;
    Ok(file)
}

/// The socket that a file is.
pub(super) fn socket_of(file: &File) -> Result<&dyn Socket, Errno> {
    file.ops_as::<SocketFile>().map(SocketFile::socket).ok_or(Errno::ENOTSOCK)
}

/// How long a call waits that receives.
pub(super) fn receive_patience(file: &File, socket: &dyn Socket) -> Patience {
    Patience { none: file.nonblocking(), timeout: socket.options().receive_timeout() }
}

/// How long a call waits that sends, connecting included.
pub(super) fn send_patience(file: &File, socket: &dyn Socket) -> Patience {
    Patience { none: file.nonblocking(), timeout: socket.options().send_timeout() }
}

/// An address from memory; only its family has to be there.
pub(super) fn read_address(cx: &Current, addr: u64, len: u32) -> Result<Vec<u8>, Errno> {
    let len = len as usize;
    if len > MAX_ADDRESS {
        return Err(Errno::EINVAL);
    }
    cx.mm.copy_in_array(addr, len, 1, MAX_ADDRESS)
}

/// Writes an address to `addr`, as much of it as `len_addr` says there is room for, and its length there.
pub(super) fn write_address(
    cx: &Current,
    address: &[u8],
    addr: u64,
    len_addr: u64,
) -> Result<(), Errno> {
    let room = cx.mm.copy_in_u32(len_addr)?;
    let room = usize::try_from(room.cast_signed()).map_err(|_| Errno::EINVAL)?;
    let fits = address.get(..room.min(address.len())).unwrap_or(address);
    cx.mm.copy_out(addr, fits)?;
    cx.mm.copy_out(len_addr, &(address.len() as u32).to_le_bytes())
}

fn flags(bits: u32) -> Result<OpenFlags, Errno> {
    OpenFlags::from_bits(bits).filter(|f| FLAGS.contains(*f)).ok_or(Errno::EINVAL)
}

fn insert(cx: &Current, socket: Box<dyn Socket>, flags: OpenFlags) -> Result<i32, Errno> {
    let file = net::open(&cx.cx(), socket, flags)?;
    cx.files.insert(file, flags.contains(OpenFlags::CLOEXEC), fd_limit(cx))
}

/// socket(2).
pub fn socket(cx: &mut Current, args: Args) -> SysResult {
    let bits = args.uint(1);
    let flags = flags(bits & !TYPE_MASK)?;
    let socket = net::socket(cx, args.int(0), bits & TYPE_MASK, args.int(2))?;
    Ok(insert(cx, socket, flags)? as u64)
}

/// socketpair(2).
pub fn socketpair(cx: &mut Current, args: Args) -> SysResult {
    let bits = args.uint(1);
    let flags = flags(bits & !TYPE_MASK)?;
    let (a, b) = net::pair(cx, args.int(0), bits & TYPE_MASK, args.int(2))?;
    let first = insert(cx, a, flags)?;
    let both = insert(cx, b, flags).and_then(|second| {
        let bytes = [first, second].map(i32::to_le_bytes).concat();
        cx.mm.copy_out(args.get(3), &bytes).inspect_err(|_| {
            // Neither has been seen by anybody.
            let _ = cx.files.remove(second);
        })
    });
    if both.is_err() {
        let _ = cx.files.remove(first);
    }
    both?;
    Ok(0)
}

/// bind(2).
pub fn bind(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    let address = read_address(cx, args.get(1), args.uint(2))?;
    socket_of(&file)?.bind(cx, &address)?;
    Ok(0)
}

/// listen(2).
pub fn listen(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    socket_of(&file)?.listen(cx, args.int(1))?;
    Ok(0)
}

/// connect(2).
pub fn connect(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    let address = read_address(cx, args.get(1), args.uint(2))?;
    let socket = socket_of(&file)?;
    socket.connect(cx, &address, send_patience(&file, socket))?;
    Ok(0)
}

fn do_accept(cx: &Current, args: Args, flags: OpenFlags) -> SysResult {
    let file = file(cx, args.int(0))?;
    let socket = socket_of(&file)?;
    let new = socket.accept(cx, receive_patience(&file, socket))?;
    // The other end may have gone already: then it has no name any more, and is accepted all the same.
    let peer = new.peer_name().unwrap_or_else(|_| new.family().to_le_bytes().into());
    let fd = insert(cx, new, flags)?;
    if args.get(1) != 0
        && let Err(e) = write_address(cx, &peer, args.get(1), args.get(2))
    {
        let _ = cx.files.remove(fd);
        return Err(e.into());
    }
    Ok(fd as u64)
}

/// accept(2).
pub fn accept(cx: &mut Current, args: Args) -> SysResult {
    do_accept(cx, args, OpenFlags::empty())
}

/// accept4(2).
pub fn accept4(cx: &mut Current, args: Args) -> SysResult {
    do_accept(cx, args, flags(args.uint(3))?)
}

/// getsockname(2).
pub fn getsockname(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    write_address(cx, &socket_of(&file)?.name(), args.get(1), args.get(2))?;
    Ok(0)
}

/// getpeername(2).
pub fn getpeername(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    write_address(cx, &socket_of(&file)?.peer_name()?, args.get(1), args.get(2))?;
    Ok(0)
}

/// shutdown(2).
pub fn shutdown(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    let how = match args.int(1) {
        0 => SHUT_RECEIVE,
        1 => SHUT_SEND,
        2 => SHUT_RECEIVE | SHUT_SEND,
        _ => return Err(Errno::EINVAL.into()),
    };
    socket_of(&file)?.shutdown(how)?;
    Ok(0)
}

/// setsockopt(2).
pub fn setsockopt(cx: &mut Current, args: Args) -> SysResult {
    /// Longer values are not read: no option has any.
    const MAX: usize = 64;
    let file = file(cx, args.int(0))?;
    let socket = socket_of(&file)?;
    let len = usize::try_from(args.int(4)).map_err(|_| Errno::EINVAL)?;
    if args.int(1) != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let value = cx.mm.copy_in_array(args.get(3), len.min(MAX), 1, MAX)?;
    socket.options().set(&cx.creds, args.int(2), &value)?;
    Ok(0)
}

/// getsockopt(2).
pub fn getsockopt(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    let socket = socket_of(&file)?;
    if args.int(1) != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let room = cx.mm.copy_in_u32(args.get(4))?.cast_signed();
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let value = socket.options().get(socket, cx, args.int(2))?;
    if Options::is_all_or_nothing(args.int(2)) && room < value.len() {
        return Err(Errno::EINVAL.into());
    }
    if Options::must_fit(args.int(2)) && room < value.len() {
        cx.mm.copy_out(args.get(4), &(value.len() as u32).to_le_bytes())?;
        return Err(Errno::ERANGE.into());
    }
    let fits = value.get(..room.min(value.len())).unwrap_or(&value);
    cx.mm.copy_out(args.get(3), fits)?;
    cx.mm.copy_out(args.get(4), &(fits.len() as u32).to_le_bytes())?;
    Ok(0)
}
