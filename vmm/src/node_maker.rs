//! The node maker: the process that makes device nodes for a gofer, which is in a user namespace of its own, where the
//! kernel lets nobody make any.
//!
//! It is a copy of the gofer, taken when that has its empty root and its namespaces and is about to enter the user namespace,
//! and it shares all of these but that one. It first writes the maps of that namespace, and then gives up all but one
//! descriptor, two capabilities and six system calls. The gofer, which may be hostile, asks for one node at a time
//! ([`gofer::server::nodes`]), in a folder whose descriptor it sends: the most that it can have is device nodes in folders
//! that the container may change. Owner and times are the gofer's to set. It is the gofer's child in a process namespace
//! whose first process that is, so it ends with it.
//!
//! What is done behind the filter allocates nothing, and drops nothing that has a destructor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use gofer::server::Attach;
use gofer::server::nodes::{ANSWER, REQUEST_MAX, Request};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::Resource;
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use seccompiler::BpfProgram;

use crate::footprint;
use crate::host::{self, Host};
use crate::link;
use crate::spawn::{self, IdMaps};
use crate::wall::files;
use crate::wall::filter::{self, Over, Rules};

/// CAP_MKNOD (linux/capability.h).
pub const MKNOD: u64 = 1 << 27;
/// CAP_DAC_OVERRIDE: folders belong to any user.
const DAC_OVERRIDE: u64 = 1 << 1;

/// Enters a user namespace, with each id as itself, and leaves a node maker outside. The connection to it.
pub fn enter_users(process: OwnedFd, attaches: &[Attach]) -> io::Result<Option<OwnedFd>> {
    enter(&process, Some(attaches)).map(Some)
}

/// Enters a user namespace, with each id as itself.
pub fn enter_users_alone(process: OwnedFd, _: &[Attach]) -> io::Result<Option<OwnedFd>> {
    enter(&process, None).map(|_| None)
}

/// Somebody outside has to write the maps of a new user namespace; with `attaches` that process stays.
fn enter(process: &OwnedFd, attaches: Option<&[Attach]>) -> io::Result<OwnedFd> {
    let (ours, theirs) = link::pair().map_err(io::Error::other)?;
    // SAFETY: there is one thread, so the copy may go on as the original would.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ours);
            outside(&theirs, process, attaches)
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    unshare(CloneFlags::CLONE_NEWUSER)?;
    send(ours.as_raw_fd(), &[0; ANSWER], MsgFlags::MSG_NOSIGNAL)?;
    let mut answer = [0; ANSWER];
    let count = recv(ours.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    if attaches.is_none() {
        let _ended = waitpid(child, None);
    }
    match i32::from_le_bytes(answer) {
        _ if count != ANSWER => Err(io::ErrorKind::UnexpectedEof.into()),
        0 => Ok(ours),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The process that stays outside.
fn outside(socket: &OwnedFd, process: &OwnedFd, attaches: Option<&[Attach]>) -> ! {
    let mut fd = socket.as_raw_fd();
    let prepared = prepare(socket, process).and_then(|()| match attaches {
        Some(attaches) => confine(&mut fd, attaches),
        None => Ok(()),
    });
    let errno = prepared.as_ref().map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0);
    if answer(fd, errno) && errno == 0 && attaches.is_some() {
        serve(fd);
    }
    // SAFETY: ends the process without running what the gofer registered for its own exit.
    unsafe { libc::_exit(i32::from(errno != 0)) }
}

fn prepare(socket: &OwnedFd, process: &OwnedFd) -> io::Result<()> {
    host::Linux.die_with_parent()?;
    // It is in its namespace, or gone.
    if recv(socket.as_raw_fd(), &mut [0; ANSWER], MsgFlags::empty())? != ANSWER {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    IdMaps::every().write(process.as_fd())
}

/// Gives up what making nodes does not need, and moves the socket's descriptor.
fn confine(socket: &mut RawFd, attaches: &[Attach]) -> io::Result<()> {
    spawn::take_name(spawn::NODES);
    let filter = filter().map_err(io::Error::other)?;
    let host = host::Linux;
    host.no_new_privileges()?;
    files::nodes(attaches)?;
    // SAFETY: nothing of the gofer's is used here any more, and nothing of it is dropped: this function's callers end the
    // process. What its numbers stood for is closed with the second call.
    unsafe {
        Errno::result(libc::dup2(*socket, 0))?;
        *socket = 0;
        if libc::close_range(1, u32::MAX, 0) != 0 {
            // Before Linux 5.9. A gofer has few at this point.
            (1..4096).for_each(|fd| {
                libc::close(fd);
            });
        }
    }
    host.at_most(Resource::RLIMIT_NOFILE, 4)?;
    host::keep_capabilities(MKNOD | DAC_OVERRIDE)?;
    host.not_dumpable()?;
    host.die_with_parent()?;
    // Most of what it has touched so far it never needs again.
    footprint::shed();
    filter::apply(&filter, Over::Thread).map_err(io::Error::other)
}

/// What it may do afterwards.
pub fn filter() -> Result<BpfProgram, filter::Error> {
    let calls = [
        libc::SYS_recvmsg,
        libc::SYS_sendto,
        libc::SYS_fstat,
        libc::SYS_close,
        libc::SYS_exit_group,
    ];
    // What S_IFCHR and S_IFBLK have in common, and no other type has.
    let (mask, device) = (0o130_000, 0o020_000);
    Rules::default().any(&calls).masked(libc::SYS_mknodat, 2, mask, device)?.compile()
}

/// Whether an answer could be sent.
fn answer(socket: RawFd, errno: i32) -> bool {
    let bytes = errno.to_le_bytes();
    // SAFETY: the bytes are read, and alive.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), ANSWER, libc::MSG_NOSIGNAL) };
    sent == ANSWER as isize
}

/// Answers requests until there is nobody to make any.
fn serve(socket: RawFd) {
    let mut packet = [0u8; REQUEST_MAX];
    loop {
        let (count, folder) = match receive(socket, &mut packet) {
            Ok((0, _)) => return,
            Ok(received) => received,
            Err(libc::EINTR) => continue,
            Err(_) => return,
        };
        // One that is longer than a request was cut: its name has no end then.
        let request = Request::parse(packet.get(..count).unwrap_or_default());
        let errno = match (request, folder) {
            (Ok(request), Some(folder)) => make(folder, request).err().unwrap_or(0),
            (Err(errno), _) => errno,
            (Ok(_), None) => libc::EBADF,
        };
        if let Some(folder) = folder {
            // SAFETY: it is open, and nobody else's.
            unsafe { libc::close(folder) };
        }
        if !answer(socket, errno) {
            return;
        }
    }
}

fn make(folder: RawFd, request: Request<'_>) -> Result<(), i32> {
    // SAFETY: it is open until this function's caller closes it.
    let fd = unsafe { BorrowedFd::borrow_raw(folder) };
    let errno = |e: io::Error| e.raw_os_error().unwrap_or(libc::EIO);
    if host::stat(&fd).map_err(errno)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(libc::ENOTDIR);
    }
    let device = libc::makedev(request.dev.major, request.dev.minor);
    // What the kernel's own type for it has room for.
    let device = u32::try_from(device).map_err(|_| libc::EINVAL)?;
    // SAFETY: the name is a string that is alive, and the rest are numbers.
    let made = unsafe {
        let (call, name) = (libc::SYS_mknodat, request.name.as_ptr());
        libc::syscall(call, folder, name, request.mode, device)
    };
    if made == 0 { Ok(()) } else { Err(Errno::last_raw()) }
}

/// Takes a packet and, if there is one with it, a descriptor: never two.
fn receive(socket: RawFd, packet: &mut [u8]) -> Result<(usize, Option<RawFd>), i32> {
    /// A header and one descriptor; the next of either begins at a multiple of 8.
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        fd: RawFd,
    }
    let mut iov = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    let mut control = MaybeUninit::<Control>::zeroed();
    // SAFETY: zero is a value of these structures; they and the buffers that they name are alive, and the kernel writes no
    // more than it is told to. It does not write the control message where there is none.
    let (count, length, control) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        // CMSG_LEN and not CMSG_SPACE, whose padding has room for a second descriptor.
        message.msg_controllen = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        let count = libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC);
        (count, message.msg_controllen, control.assume_init())
    };
    let count = usize::try_from(count).map_err(|_| Errno::last_raw())?;
    let header = &control.header;
    let rights = length >= size_of::<libc::cmsghdr>() + size_of::<RawFd>()
        && (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    Ok((count, rights.then_some(control.fd)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn one_descriptor_is_taken_and_no_more() {
        let (ours, theirs) = link::pair().unwrap();
        let mut packet = [0u8; REQUEST_MAX];
        let file = std::fs::File::open("/").unwrap();
        let raw = [file.as_raw_fd(); 3];
        let send = |bytes: &[u8], fds: &[RawFd]| {
            use nix::sys::socket::{ControlMessage, sendmsg};
            let rights = [ControlMessage::ScmRights(fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights };
            let iov = [io::IoSlice::new(bytes)];
            sendmsg::<()>(ours.as_raw_fd(), &iov, rights, MsgFlags::empty(), None).unwrap();
        };
        send(b"none", &[]);
        assert_eq!(receive(theirs.as_raw_fd(), &mut packet), Ok((4, None)));
        for fds in 1..=3 {
            send(b"some", &raw[..fds]);
            let (count, fd) = receive(theirs.as_raw_fd(), &mut packet).unwrap();
            assert_eq!(count, 4);
            // SAFETY: the kernel has just put this descriptor into our table for us alone.
            let got = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd.unwrap()) };
            assert_eq!(host::stat(&got).unwrap().st_ino, host::stat(&file).unwrap().st_ino);
        }
        send(&[b'x'; 2 * REQUEST_MAX], &[]);
        assert_eq!(receive(theirs.as_raw_fd(), &mut packet), Ok((REQUEST_MAX, None)));
        assert!(Request::parse(&packet).is_err());
        drop(ours);
        assert_eq!(receive(theirs.as_raw_fd(), &mut packet), Ok((0, None)));
    }

    #[test]
    fn the_filter_lets_it_make_devices_and_nothing_else() {
        let folder = std::fs::File::open(std::env::temp_dir()).unwrap();
        let folder = folder.as_fd().as_raw_fd();
        let program = filter().unwrap();
        let end = |call: &dyn Fn()| {
            // SAFETY: the child makes plain system calls and ends.
            let status = unsafe {
                match libc::fork() {
                    0 => {
                        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                        if filter::apply(&program, Over::Thread).is_ok() {
                            call();
                        }
                        libc::syscall(libc::SYS_exit_group, 0);
                        unreachable!()
                    }
                    child => {
                        let mut status = 0;
                        assert_eq!(libc::waitpid(child, &mut status, 0), child);
                        status
                    }
                }
            };
            std::process::ExitStatus::from_raw(status)
        };
        // SAFETY: the name is a string; an empty one is refused by the kernel.
        let make = |mode: u32| unsafe {
            libc::syscall(libc::SYS_mknodat, folder, c"".as_ptr(), mode, 0);
        };
        for mode in [0o020_666, 0o060_000] {
            assert!(end(&|| make(mode)).success(), "{mode:o}");
        }
        for mode in [0, 0o010_666, 0o040_777, 0o100_666, 0o120_777, 0o140_666] {
            assert_eq!(end(&|| make(mode)).signal(), Some(libc::SIGSYS), "{mode:o}");
        }
        // SAFETY: no pointers.
        let other = end(&|| unsafe {
            libc::syscall(libc::SYS_getpid);
        });
        assert_eq!(other.signal(), Some(libc::SIGSYS));
    }
}
