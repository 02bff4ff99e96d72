//! Socket options of level SOL_SOCKET (socket(7)), the same for all families.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::{PeerCreds, Socket, Ucred};
use crate::errno::Errno;
use crate::platform::platform;
use crate::sync::SpinLock;
use crate::task::Current;
use crate::task::{Creds, cap};
use crate::time::{SECOND, TimeSpec, TimeVal};

/// Numbers of options (asm-generic/socket.h).
mod number {
    pub const DEBUG: i32 = 1;
    pub const REUSEADDR: i32 = 2;
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const DONTROUTE: i32 = 5;
    pub const BROADCAST: i32 = 6;
    pub const SNDBUF: i32 = 7;
    pub const RCVBUF: i32 = 8;
    pub const KEEPALIVE: i32 = 9;
    pub const OOBINLINE: i32 = 10;
    pub const NO_CHECK: i32 = 11;
    pub const PRIORITY: i32 = 12;
    pub const LINGER: i32 = 13;
    pub const PASSCRED: i32 = 16;
    pub const PEERCRED: i32 = 17;
    pub const RCVLOWAT: i32 = 18;
    pub const SNDLOWAT: i32 = 19;
    pub const RCVTIMEO: i32 = 20;
    pub const SNDTIMEO: i32 = 21;
    pub const TIMESTAMP: i32 = 29;
    pub const PASSSEC: i32 = 34;
    pub const TIMESTAMPNS: i32 = 35;
    pub const MARK: i32 = 36;
    pub const ACCEPTCONN: i32 = 30;
    pub const SNDBUFFORCE: i32 = 32;
    pub const RCVBUFFORCE: i32 = 33;
    pub const PROTOCOL: i32 = 38;
    pub const PEEK_OFF: i32 = 42;
    pub const DOMAIN: i32 = 39;
    pub const RXQ_OVFL: i32 = 40;
    pub const WIFI_STATUS: i32 = 41;
    pub const LOCK_FILTER: i32 = 44;
    pub const SELECT_ERR_QUEUE: i32 = 45;
    pub const COOKIE: i32 = 57;
    pub const PEERGROUPS: i32 = 59;
    pub const TIMESTAMP_NEW: i32 = 63;
    pub const TIMESTAMPNS_NEW: i32 = 64;
}
use number::*;

/// Options that are only on or off, one bit each in the order of this list. Some are of no use to any family here, as on
/// Linux: no checksum, no security label, no drop counter, no radio and no error queue comes with what AF_UNIX receives.
const SWITCHES: [i32; 13] = [
    DEBUG,
    REUSEADDR,
    DONTROUTE,
    BROADCAST,
    KEEPALIVE,
    OOBINLINE,
    PASSCRED,
    NO_CHECK,
    PASSSEC,
    RXQ_OVFL,
    WIFI_STATUS,
    LOCK_FILTER,
    SELECT_ERR_QUEUE,
];

/// With what times messages come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stamps {
    on: bool,
    /// In nanoseconds (SO_TIMESTAMPNS).
    ns: bool,
    /// Under the number of those that know of the year 2038, which is the same here but for the number.
    new: bool,
}

/// Numbers for SO_COOKIE.
static NEXT_COOKIE: AtomicU64 = AtomicU64::new(1);

/// net.core.wmem_default and rmem_default, wmem_max and rmem_max.
const DEFAULT: u32 = 212_992;
/// The least send buffer (SOCK_MIN_SNDBUF, net/sock.h).
const MIN_SEND: u32 = 4608;
/// The least receive buffer (SOCK_MIN_RCVBUF).
const MIN_RECEIVE: u32 = 2304;

/// The options of a socket.
pub struct Options {
    switches: AtomicU32,
    send_buffer: AtomicU32,
    receive_buffer: AtomicU32,
    /// Nanoseconds; 0: no limit.
    send_timeout: AtomicU64,
    receive_timeout: AtomicU64,
    low_water: AtomicU32,
    priority: AtomicU32,
    mark: AtomicU32,
    /// SO_COOKIE's, 0: nobody has asked yet.
    cookie: AtomicU64,
    stamps: SpinLock<Stamps>,
    /// SO_PEEK_OFF; negative: peeking begins at the beginning.
    peek_offset: AtomicI32,
    /// `l_onoff` and `l_linger`.
    linger: SpinLock<(bool, u32)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            switches: AtomicU32::new(0),
            send_buffer: AtomicU32::new(DEFAULT),
            receive_buffer: AtomicU32::new(DEFAULT),
            send_timeout: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(0),
            low_water: AtomicU32::new(1),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            cookie: AtomicU64::new(0),
            stamps: SpinLock::new(Stamps::default()),
            peek_offset: AtomicI32::new(-1),
            linger: SpinLock::new((false, 0)),
        }
    }
}

fn switch(option: i32) -> Option<u32> {
    SWITCHES.iter().position(|o| *o == option).and_then(|n| 1u32.checked_shl(n as u32))
}

/// A `struct timeval` as nanoseconds; 0: no limit. `EDOM` where it is not normal.
fn timeout(value: &[u8]) -> Result<u64, Errno> {
    let value = value.get(..16).ok_or(Errno::EINVAL)?;
    let (sec, usec) =
        (crate::syscall::word(value, 0) as i64, crate::syscall::word(value, 1) as i64);
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // A negative time is over at once: Linux waits for no tick then.
    if sec < 0 {
        return Ok(1);
    }
    let sec = u64::try_from(sec).map_err(|_| Errno::EDOM)?;
    Ok(sec.saturating_mul(SECOND).saturating_add((usec as u64).saturating_mul(1000)))
}

impl Options {
    fn is_on(&self, option: i32) -> bool {
        switch(option).is_some_and(|bit| self.switches.load(Ordering::Relaxed) & bit != 0)
    }

    /// Whether messages come with their sender's credentials (SO_PASSCRED).
    pub fn passes_creds(&self) -> bool {
        self.is_on(PASSCRED)
    }

    /// The time to come with a message that is received now, as control data: its type and its bytes.
    pub fn stamp(&self) -> Option<(u32, [u8; 16])> {
        let stamps = *self.stamps.lock();
        let now = platform().realtime();
        let (kind, bytes) = match (stamps.ns, stamps.new) {
            _ if !stamps.on => return None,
            (false, new) => {
                (if new { TIMESTAMP_NEW } else { TIMESTAMP }, TimeVal::from_ns(now).to_bytes())
            }
            (true, new) => {
                (if new { TIMESTAMPNS_NEW } else { TIMESTAMPNS }, TimeSpec::from_ns(now).to_bytes())
            }
        };
        Some((kind.cast_unsigned(), bytes))
    }

    /// Whether urgent bytes are read like others (SO_OOBINLINE).
    pub fn urgent_inline(&self) -> bool {
        self.is_on(OOBINLINE)
    }

    /// How much MSG_PEEK leaves out (SO_PEEK_OFF).
    pub fn peek_offset(&self) -> usize {
        usize::try_from(self.peek_offset.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// So many bytes have been looked at, or (negative) read.
    pub fn move_peek_offset(&self, bytes: isize) {
        let bytes = i32::try_from(bytes).unwrap_or(if bytes < 0 { i32::MIN } else { i32::MAX });
        let moved = |now: i32| (now >= 0).then_some(now.saturating_add(bytes).max(0));
        // One that is off stays so.
        let _off = self.peek_offset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }

    /// Takes SO_PASSCRED over from a listening socket.
    pub fn inherit(&self, from: &Options) {
        if from.passes_creds()
            && let Some(bit) = switch(PASSCRED)
        {
            self.switches.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// How much may be under way, bytes (SO_SNDBUF).
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed) as usize
    }

    /// How long a send waits, nanoseconds; 0: no limit.
    pub fn send_timeout(&self) -> u64 {
        self.send_timeout.load(Ordering::Relaxed)
    }

    /// How long a receive, an accept or a connect waits, nanoseconds; 0: no limit.
    pub fn receive_timeout(&self) -> u64 {
        self.receive_timeout.load(Ordering::Relaxed)
    }

    /// setsockopt(2) at SOL_SOCKET.
    pub fn set(&self, creds: &Creds, option: i32, value: &[u8]) -> Result<(), Errno> {
        let int = match value.first_chunk::<4>() {
            Some(bytes) => i32::from_le_bytes(*bytes),
            None => return Err(Errno::EINVAL),
        };
        match option {
            TYPE | ERROR | PROTOCOL | DOMAIN | ACCEPTCONN | PEERCRED | PEERGROUPS | SNDLOWAT
            | COOKIE => {
                return Err(Errno::ENOPROTOOPT);
            }
            LOCK_FILTER if int == 0 && self.is_on(LOCK_FILTER) => return Err(Errno::EPERM),
            MARK if !creds.capable(cap::NET_ADMIN) && !creds.capable(cap::NET_RAW) => {
                return Err(Errno::EPERM);
            }
            MARK => self.mark.store(int.cast_unsigned(), Ordering::Relaxed),
            TIMESTAMP | TIMESTAMPNS | TIMESTAMP_NEW | TIMESTAMPNS_NEW => {
                let new = matches!(option, TIMESTAMP_NEW | TIMESTAMPNS_NEW);
                let ns = matches!(option, TIMESTAMPNS | TIMESTAMPNS_NEW);
                let mut stamps = self.stamps.lock();
                *stamps = match int {
                    0 => Stamps { new: stamps.new, ..Stamps::default() },
                    _ => Stamps { on: true, ns, new },
                };
            }
            DEBUG if int != 0 && !creds.capable(cap::NET_ADMIN) => return Err(Errno::EACCES),
            SNDBUF | SNDBUFFORCE => {
                let most = self.most(creds, option == SNDBUFFORCE)?;
                let size = int.cast_unsigned().min(most).saturating_mul(2).max(MIN_SEND);
                self.send_buffer.store(size, Ordering::Relaxed);
            }
            RCVBUF | RCVBUFFORCE => {
                let most = self.most(creds, option == RCVBUFFORCE)?;
                let size = int.cast_unsigned().min(most).saturating_mul(2).max(MIN_RECEIVE);
                self.receive_buffer.store(size, Ordering::Relaxed);
            }
            PRIORITY => {
                if !(0..=6).contains(&int) && !creds.capable(cap::NET_ADMIN) {
                    return Err(Errno::EPERM);
                }
                self.priority.store(int.cast_unsigned(), Ordering::Relaxed);
            }
            LINGER => {
                let seconds = value.get(4..8).and_then(|b| b.first_chunk::<4>());
                let seconds = u32::from_le_bytes(*seconds.ok_or(Errno::EINVAL)?);
                *self.linger.lock() = (int != 0, seconds);
            }
            RCVLOWAT => {
                let least = if int < 0 { i32::MAX } else { int.max(1) };
                self.low_water.store(least.cast_unsigned(), Ordering::Relaxed);
            }
            PEEK_OFF => self.peek_offset.store(int, Ordering::Relaxed),
            RCVTIMEO => self.receive_timeout.store(timeout(value)?, Ordering::Relaxed),
            SNDTIMEO => self.send_timeout.store(timeout(value)?, Ordering::Relaxed),
            option => {
                let bit = switch(option).ok_or(Errno::ENOPROTOOPT)?;
                if int != 0 {
                    self.switches.fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.switches.fetch_and(!bit, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn most(&self, creds: &Creds, force: bool) -> Result<u32, Errno> {
        match force {
            false => Ok(DEFAULT),
            true if creds.capable(cap::NET_ADMIN) => Ok(i32::MAX.cast_unsigned() / 2),
            true => Err(Errno::EPERM),
        }
    }

    /// getsockopt(2) at SOL_SOCKET: the value in full.
    pub fn get(&self, socket: &dyn Socket, cx: &Current, option: i32) -> Result<Vec<u8>, Errno> {
        let ns = &cx.creds.userns;
        let timeval = |ns: &AtomicU64| TimeVal::from_ns(ns.load(Ordering::Relaxed)).to_bytes();
        let number: u32 = match option {
            TYPE => socket.kind() as u32,
            DOMAIN => socket.family().into(),
            PROTOCOL => 0,
            ERROR => socket.take_error().map_or(0, |e| e.code().cast_unsigned()),
            ACCEPTCONN => socket.is_listening().into(),
            SNDBUF => self.send_buffer.load(Ordering::Relaxed),
            RCVBUF => self.receive_buffer.load(Ordering::Relaxed),
            RCVLOWAT => self.low_water.load(Ordering::Relaxed),
            SNDLOWAT => 1,
            PRIORITY => self.priority.load(Ordering::Relaxed),
            MARK => self.mark.load(Ordering::Relaxed),
            TIMESTAMP | TIMESTAMPNS | TIMESTAMP_NEW | TIMESTAMPNS_NEW => {
                let stamps = *self.stamps.lock();
                let (on, new) = match option {
                    TIMESTAMP => (stamps.on && !stamps.ns, false),
                    TIMESTAMPNS => (stamps.ns, false),
                    TIMESTAMP_NEW => (stamps.on, true),
                    _ => (stamps.ns, true),
                };
                (on && stamps.new == new).into()
            }
            COOKIE => {
                let new = NEXT_COOKIE.fetch_add(1, Ordering::Relaxed);
                let cookie = match self.cookie.compare_exchange(
                    0,
                    new,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => new,
                    Err(known) => known,
                };
                return Ok(cookie.to_le_bytes().into());
            }
            PEEK_OFF => self.peek_offset.load(Ordering::Relaxed).cast_unsigned(),
            RCVTIMEO => return Ok(timeval(&self.receive_timeout).into()),
            SNDTIMEO => return Ok(timeval(&self.send_timeout).into()),
            LINGER => {
                let (on, seconds) = *self.linger.lock();
                return Ok([u32::from(on), seconds].map(u32::to_le_bytes).concat());
            }
            PEERCRED => {
                let seen = match socket.peer_creds() {
                    Some(PeerCreds { creds: Ucred { uid, gid, .. }, numbers, .. }) => {
                        [numbers.nr(&cx.task.process.pidns), ns.uid(uid), ns.gid(gid)]
                    }
                    // Nobody: the ids of no user and no group.
                    None => [0, u32::MAX, u32::MAX],
                };
                return Ok(seen.map(u32::to_le_bytes).concat());
            }
            PEERGROUPS => {
                let peer = socket.peer_creds().ok_or(Errno::ENODATA)?;
                return Ok(peer.groups.iter().flat_map(|g| ns.gid(*g).to_le_bytes()).collect());
            }
            option => {
                switch(option).ok_or(Errno::ENOPROTOOPT)?;
                self.is_on(option).into()
            }
        };
        Ok(number.to_le_bytes().into())
    }

    /// Whether a value that does not fit is `EINVAL` (SO_COOKIE).
    pub fn is_all_or_nothing(option: i32) -> bool {
        option == COOKIE
    }

    /// Whether a value that does not fit is an error (SO_PEERGROUPS) rather than cut off.
    pub fn must_fit(option: i32) -> bool {
        option == PEERGROUPS
    }
}
