//! Transfers over sockets: send, recv and their kind, and what goes along (cmsg(3)).

use alloc::vec::Vec;

use super::file_args::{Vectors, fd_limit};
use super::rw::broken_pipe;
use super::socket::{
    SOL_SOCKET, file, read_address, receive_patience, send_patience, socket_of, write_address,
};
use super::{Args, word};
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::types::MAX_RW;
use crate::fs::{File, IoDst, IoSrc};
use crate::net::{Control, Incoming, Kind, MsgFlags, Outgoing, Socket, Ucred};
use crate::platform::platform;
use crate::task::{Current, cap};
use crate::time::TimeSpec;

/// What an SCM_ message is (linux/socket.h).
const SCM_RIGHTS: u32 = 1;
const SCM_CREDENTIALS: u32 = 2;
/// Most descriptors in a message (SCM_MAX_FD, net/scm.h).
const MAX_FILES: usize = 253;
/// Bytes of a `struct cmsghdr`.
const CMSG_HEAD: usize = 16;
/// Most bytes of control data that a sender gives (net.core.optmem_max).
const MAX_CONTROL: usize = 128 << 10;
/// Bytes of a `struct msghdr`, and of a `struct mmsghdr`.
const MSGHDR: usize = 56;
const MMSGHDR: u64 = 64;

/// A `struct msghdr`, as it is read.
struct Header {
    name: u64,
    name_len: u32,
    vectors: u64,
    count: u64,
    control: u64,
    control_len: u64,
}

impl Header {
    fn read(cx: &Current, addr: u64) -> Result<Header, Errno> {
        let raw = cx.mm.copy_in_array(addr, MSGHDR, 1, MSGHDR)?;
        let name_len = word(&raw, 1) as u32;
        if name_len.cast_signed() < 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Header {
            name: word(&raw, 0),
            // Longer addresses than any are cut, as Linux does here.
            name_len: name_len.min(crate::net::MAX_ADDRESS as u32),
            vectors: word(&raw, 2),
            count: word(&raw, 3),
            control: word(&raw, 4),
            control_len: word(&raw, 5),
        })
    }

    fn buffers(&self, cx: &Current) -> Result<Vectors, Errno> {
        if self.count > 1024 {
            return Err(Errno::EMSGSIZE);
        }
        Vectors::read(cx, self.vectors, self.count as u32)
    }
}

/// Sends; a broken pipe of a stream raises SIGPIPE unless the call says not to.
fn send(
    cx: &Current,
    file: &File,
    socket: &dyn Socket,
    src: &mut IoSrc<'_>,
    mut message: Outgoing<'_>,
) -> SysResult {
    let mut patience = send_patience(file, socket);
    patience.none |= message.flags.contains(MsgFlags::DONTWAIT);
    src.truncate(MAX_RW);
    match socket.send(cx, src, &mut message, patience) {
        Err(SysError::Errno(Errno::EPIPE)) => {
            if socket.kind() == Kind::Stream && !message.flags.contains(MsgFlags::NOSIGNAL) {
                broken_pipe(cx);
            }
            Err(Errno::EPIPE.into())
        }
        result => Ok(result? as u64),
    }
}

fn receive(
    cx: &Current,
    file: &File,
    socket: &dyn Socket,
    dst: &mut IoDst<'_>,
    flags: MsgFlags,
) -> Result<(usize, Incoming), SysError> {
    let mut patience = receive_patience(file, socket);
    patience.none |= flags.contains(MsgFlags::DONTWAIT);
    dst.truncate(MAX_RW);
    socket.receive(cx, dst, flags, patience)
}

/// write(2) and writev(2) on a socket.
pub(super) fn write(
    cx: &Current,
    file: &File,
    socket: &dyn Socket,
    src: &mut IoSrc<'_>,
    flags: MsgFlags,
) -> SysResult {
    let sender = Some(Ucred::of(cx));
    send(cx, file, socket, src, Outgoing { to: None, sender, control: Control::default(), flags })
}

/// read(2) and readv(2) on a socket.
pub(super) fn read(
    cx: &Current,
    file: &File,
    socket: &dyn Socket,
    dst: &mut IoDst<'_>,
    flags: MsgFlags,
) -> SysResult {
    if dst.remaining() == 0 {
        return Ok(0);
    }
    Ok(receive(cx, file, socket, dst, flags)?.0 as u64)
}

/// sendto(2).
pub fn sendto(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    let socket = socket_of(&file)?;
    let to = match args.get(4) {
        0 => None,
        addr => Some(read_address(cx, addr, args.uint(5))?),
    };
    let buffer = Vectors::one(cx, args.get(1), args.size(2).min(MAX_RW))?;
    let mut src = IoSrc::user(&*cx.mm, buffer.slots());
    let message = Outgoing {
        to: to.as_deref(),
        sender: Some(Ucred::of(cx)),
        control: Control::default(),
        flags: MsgFlags::from_bits_truncate(args.uint(3)),
    };
    send(cx, &file, socket, &mut src, message)
}

/// recvfrom(2).
pub fn recvfrom(cx: &mut Current, args: Args) -> SysResult {
    let file = file(cx, args.int(0))?;
    let socket = socket_of(&file)?;
    let buffer = Vectors::one(cx, args.get(1), args.size(2).min(MAX_RW))?;
    let mut dst = IoDst::user(&*cx.mm, buffer.slots());
    let flags = MsgFlags::from_bits_truncate(args.uint(3));
    let (n, incoming) = receive(cx, &file, socket, &mut dst, flags)?;
    if args.get(4) != 0 {
        write_address(cx, incoming.from.as_deref().unwrap_or(&[]), args.get(4), args.get(5))?;
    }
    Ok(n as u64)
}

/// The control data of a message to be sent.
fn read_control(cx: &Current, header: &Header) -> Result<Control, Errno> {
    let len = usize::try_from(header.control_len).map_err(|_| Errno::ENOBUFS)?;
    if len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut control = Control::default();
    if header.control == 0 {
        return Ok(control);
    }
    let bytes = cx.mm.copy_in_array(header.control, len, 1, MAX_CONTROL)?;
    let mut rest: &[u8] = &bytes;
    while rest.len() >= CMSG_HEAD {
        let len = usize::try_from(word(rest, 0)).map_err(|_| Errno::EINVAL)?;
        let data = rest.get(CMSG_HEAD..len).ok_or(Errno::EINVAL)?;
        let (level, kind) = (word(rest, 1) as i32, (word(rest, 1) >> 32) as u32);
        if level == SOL_SOCKET {
            match kind {
                SCM_RIGHTS => rights(cx, data, &mut control)?,
                SCM_CREDENTIALS => control.creds = Some(credentials(cx, data)?),
                _ => return Err(Errno::EINVAL),
            }
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Ok(control)
}

/// SCM_RIGHTS: the open files behind the sender's descriptors.
fn rights(cx: &Current, data: &[u8], control: &mut Control) -> Result<(), Errno> {
    let fds = data.as_chunks::<4>().0;
    if control.files.len().saturating_add(fds.len()) > MAX_FILES {
        return Err(Errno::EINVAL);
    }
    for fd in fds {
        control.files.push(cx.files.get_any(i32::from_le_bytes(*fd))?);
    }
    Ok(())
}

/// SCM_CREDENTIALS: who the sender says it is, as far as it may say so.
fn credentials(cx: &Current, data: &[u8]) -> Result<Ucred, Errno> {
    if data.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let (pid, uid) = (word(data, 0) as u32, (word(data, 0) >> 32) as u32);
    let gid = data.get(8..).and_then(|b| b.first_chunk::<4>()).ok_or(Errno::EINVAL)?;
    let gid = u32::from_le_bytes(*gid);
    let creds = &cx.creds;
    let ns = &creds.userns;
    let (uid, gid) = (ns.kuid(uid).ok_or(Errno::EINVAL)?, ns.kgid(gid).ok_or(Errno::EINVAL)?);
    let process = &cx.task.process;
    let may = (pid == process.vpid || creds.ns_capable(&process.pidns.owner, cap::SYS_ADMIN))
        && ([creds.uid, creds.euid, creds.suid].contains(&uid) || creds.own_capable(cap::SETUID))
        && ([creds.gid, creds.egid, creds.sgid].contains(&gid) || creds.own_capable(cap::SETGID));
    if !may {
        return Err(Errno::EPERM);
    }
    let id = match pid == process.vpid {
        true => process.pid,
        false => process.pidns.process(pid).ok_or(Errno::ESRCH)?.pid,
    };
    Ok(Ucred { pid: id, uid, gid })
}

fn send_one(cx: &Current, fd: i32, addr: u64, flags: MsgFlags) -> SysResult {
    let file = file(cx, fd)?;
    let socket = socket_of(&file)?;
    let header = Header::read(cx, addr)?;
    let to = match (header.name, header.name_len) {
        (0, _) | (_, 0) => None,
        (addr, len) => Some(read_address(cx, addr, len)?),
    };
    let buffers = header.buffers(cx)?;
    let control = read_control(cx, &header)?;
    let mut src = IoSrc::user(&*cx.mm, buffers.slots());
    let sender = Some(Ucred::of(cx));
    send(cx, &file, socket, &mut src, Outgoing { to: to.as_deref(), sender, control, flags })
}

/// The flags of a call with a `struct msghdr`: none of a 32-bit caller's (MSG_CMSG_COMPAT).
fn header_flags(raw: u32) -> Result<MsgFlags, Errno> {
    const COMPAT: u32 = 1 << 31;
    if raw & COMPAT != 0 { Err(Errno::EINVAL) } else { Ok(MsgFlags::from_bits_truncate(raw)) }
}

/// sendmsg(2).
pub fn sendmsg(cx: &mut Current, args: Args) -> SysResult {
    send_one(cx, args.int(0), args.get(1), header_flags(args.uint(2))?)
}

/// Control data on its way to the receiver.
struct Writer {
    addr: u64,
    room: usize,
    /// Bytes written so far, with padding.
    done: usize,
    cut: bool,
}

impl Writer {
    /// One message, if there is room for all of it.
    fn put(&mut self, cx: &Current, kind: u32, data: &[u8]) -> Result<(), Errno> {
        let len = CMSG_HEAD.saturating_add(data.len());
        if len > self.room.saturating_sub(self.done) {
            self.cut = true;
            return Ok(());
        }
        let head = [len as u64, SOL_SOCKET as u64 | u64::from(kind) << 32].map(u64::to_le_bytes);
        let at = self.addr.wrapping_add(self.done as u64);
        cx.mm.copy_out(at, &head.concat())?;
        cx.mm.copy_out(at.wrapping_add(CMSG_HEAD as u64), data)?;
        self.done = self.done.saturating_add(len.next_multiple_of(8)).min(self.room);
        Ok(())
    }
}

/// Gives the receiver descriptors of the files that came along, as many as there is room for.
fn install(
    cx: &Current,
    incoming: &Incoming,
    writer: &mut Writer,
    cloexec: bool,
) -> Result<(), Errno> {
    let left = writer.room.saturating_sub(writer.done);
    let fit = left.saturating_sub(CMSG_HEAD) / 4;
    let mut fds: Vec<i32> = Vec::new();
    for file in incoming.files.get(0..fit.min(incoming.files.len())) {
        match cx.files.insert(file.clone(), cloexec, fd_limit(cx)) {
            Ok(fd) => fds.push(fd),
            // At the limit of descriptors the rest is lost, as on Linux.
            Err(_) => break,
        }
    }
    writer.cut |= fds.len() < incoming.files.len();
    if fds.is_empty() {
        return Ok(());
    }
    let data: Vec<u8> = fds.iter().flat_map(|fd| fd.to_le_bytes()).collect();
    writer.put(cx, SCM_RIGHTS, &data)
}

fn receive_one(cx: &Current, fd: i32, addr: u64, flags: MsgFlags) -> SysResult {
    let file = file(cx, fd)?;
    let socket = socket_of(&file)?;
    let header = Header::read(cx, addr)?;
    let buffers = header.buffers(cx)?;
    let mut dst = IoDst::user(&*cx.mm, buffers.slots());
    let (n, incoming) = receive(cx, &file, socket, &mut dst, flags)?;
    let room = if header.control == 0 { 0 } else { header.control_len };
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut writer = Writer { addr: header.control, room, done: 0, cut: false };
    if let Some((kind, bytes)) = incoming.stamp {
        writer.put(cx, kind, &bytes)?;
    }
    if let Some(Ucred { pid, uid, gid }) = incoming.creds {
        let ns = &cx.creds.userns;
        let words = [cx.task.process.pidns.nr(pid), ns.uid(uid), ns.gid(gid)];
        writer.put(cx, SCM_CREDENTIALS, &words.map(u32::to_le_bytes).concat())?;
    }
    if !incoming.files.is_empty() {
        install(cx, &incoming, &mut writer, flags.contains(MsgFlags::CMSG_CLOEXEC))?;
    }
    let mut out = incoming.flags | flags & MsgFlags::CMSG_CLOEXEC;
    out.set(MsgFlags::CTRUNC, writer.cut);
    if header.name != 0 {
        let name = incoming.from.as_deref().unwrap_or(&[]);
        let fits = name.get(..(header.name_len as usize).min(name.len())).unwrap_or(name);
        cx.mm.copy_out(header.name, fits)?;
        cx.mm.copy_out(addr.wrapping_add(8), &(name.len() as u32).to_le_bytes())?;
    }
    cx.mm.copy_out(addr.wrapping_add(40), &(writer.done as u64).to_le_bytes())?;
    cx.mm.copy_out(addr.wrapping_add(48), &out.bits().to_le_bytes())?;
    Ok(n as u64)
}

/// recvmsg(2).
pub fn recvmsg(cx: &mut Current, args: Args) -> SysResult {
    receive_one(cx, args.int(0), args.get(1), header_flags(args.uint(2))?)
}

/// Most messages of one call (UIO_MAXIOV).
const MAX_MESSAGES: u32 = 1024;

/// Does `one` with each `struct mmsghdr`, and notes how many bytes each was. An error ends it, and is the
/// result where nothing came before.
fn each(
    cx: &Current,
    addr: u64,
    count: u32,
    mut one: impl FnMut(u64, u32) -> Result<Option<u64>, SysError>,
) -> SysResult {
    let mut done = 0;
    for n in 0..count.min(MAX_MESSAGES) {
        let at = addr.wrapping_add(u64::from(n).wrapping_mul(MMSGHDR));
        match one(at, n) {
            Ok(Some(bytes)) => {
                cx.mm.copy_out(at.wrapping_add(MSGHDR as u64), &(bytes as u32).to_le_bytes())?;
                done += 1;
            }
            Ok(None) => break,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// sendmmsg(2).
pub fn sendmmsg(cx: &mut Current, args: Args) -> SysResult {
    let (fd, flags) = (args.int(0), header_flags(args.uint(3))?);
    file(cx, fd)?;
    each(cx, args.get(1), args.uint(2), |at, _| send_one(cx, fd, at, flags).map(Some))
}

/// recvmmsg(2).
pub fn recvmmsg(cx: &mut Current, args: Args) -> SysResult {
    let (fd, mut flags) = (args.int(0), header_flags(args.uint(3))?);
    file(cx, fd)?;
    // Looked at after each message only, as Linux does.
    let deadline = match args.get(4) {
        0 => None,
        addr => {
            let timeout = TimeSpec::read(&cx.mm, addr)?.to_ns()?;
            Some(platform().monotonic().saturating_add(timeout))
        }
    };
    each(cx, args.get(1), args.uint(2), |at, n| {
        if n > 0 && deadline.is_some_and(|d| platform().monotonic() >= d) {
            return Ok(None);
        }
        let result = receive_one(cx, fd, at, flags);
        if flags.contains(MsgFlags::WAITFORONE) {
            flags |= MsgFlags::DONTWAIT;
        }
        result.map(Some)
    })
}
