//! `--strace`: one line in the log per system call, as strace(1) prints it.
//!
//! This is the one watcher so far. It hangs on [`crate::syscall::dispatch`], which asks one flag of the
//! task, so that it costs nothing while nobody watches.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::error::{Restart, SysError, SysResult};
use crate::platform::{Level, platform};
use crate::signal::Signal;
use crate::syscall::{ArgKind, Args, Handler, entry};
use crate::task::{CloneFlags, Current};

/// Bytes of a string or buffer that are shown, as strace's default.
const SHOWN: usize = 32;
/// Strings of a vector that are shown.
const SHOWN_STRINGS: usize = 16;

/// Serves a call, and logs it. Calls that do not return are logged before.
pub fn watch(cx: &mut Current, number: u32, args: Args, handler: Handler) -> SysResult {
    let Some(entry) = entry(number) else {
        let result = handler(cx, args);
        line(cx, &format!("syscall_{number:#x}({:#x}, …)", args.get(0)), &result);
        return result;
    };
    // What the call reads is shown as it was before; execve leaves no memory to read it from.
    let before = show_args(cx, entry.args, args, None);
    let ends = matches!(entry.name, "exit" | "exit_group" | "rt_sigreturn");
    if ends {
        let tid = cx.task.tid();
        let text = before.join(", ");
        platform().log(Level::Info, format_args!("[{tid}] {}({text}) = ?", entry.name));
        return handler(cx, args);
    }
    let result = handler(cx, args);
    let text = match &result {
        Ok(n) if entry.args.contains(&ArgKind::OutBuf) => {
            show_args(cx, entry.args, args, Some(*n)).join(", ")
        }
        _ => before.join(", "),
    };
    line(cx, &format!("{}({text})", entry.name), &result);
    result
}

fn line(cx: &Current, call: &str, result: &SysResult) {
    let tid = cx.task.tid();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ok = match result {
        Ok(n) if *n > 0x1000_0000 => write!(text, "{n:#x}"),
        Ok(n) => write!(text, "{n}"),
        Err(SysError::Errno(e)) => write!(text, "-1 {e}"),
        Err(SysError::Interrupted(restart)) => {
            let name = match restart {
                Restart::Sys => "ERESTARTSYS",
                Restart::NoHandler => "ERESTARTNOHAND",
                Restart::Always => "ERESTARTNOINTR",
                Restart::Block => "ERESTART_RESTARTBLOCK",
                Restart::Never => "EINTR",
            };
            write!(text, "? {name}")
        }
    };
    platform().log(Level::Info, format_args!("[{tid}] {call} = {text}"));
}

fn show_args(cx: &Current, kinds: &[ArgKind], args: Args, result: Option<u64>) -> Vec<String> {
    kinds.iter().enumerate().map(|(n, kind)| show(cx, *kind, args, n, result)).collect()
}

fn show(cx: &Current, kind: ArgKind, args: Args, n: usize, result: Option<u64>) -> String {
    let value = args.get(n);
    match kind {
        ArgKind::Int | ArgKind::Fd => format!("{}", value as i32),
        ArgKind::Size => format!("{value}"),
        ArgKind::Hex if value == 0 => "NULL".into(),
        ArgKind::Hex => format!("{value:#x}"),
        ArgKind::DirFd if value as i32 == -100 => "AT_FDCWD".into(),
        ArgKind::DirFd => format!("{}", value as i32),
        ArgKind::Path => show_string(cx, value, 4096),
        ArgKind::Strings => show_strings(cx, value),
        ArgKind::InBuf => show_buffer(cx, value, args.get(n.saturating_add(1))),
        ArgKind::OutBuf => match result {
            Some(len) => show_buffer(cx, value, len),
            None => format!("{value:#x}"),
        },
        ArgKind::OpenFlags => names(value & !3, open_access(value), OPEN_FLAGS),
        ArgKind::Mode => format!("{:#o}", value as u32),
        ArgKind::Signal => match Signal::new(value as i32).ok().and_then(Signal::name) {
            Some(name) => name.into(),
            None => format!("{}", value as i32),
        },
        ArgKind::MapProt if value == 0 => "PROT_NONE".into(),
        ArgKind::MapProt => names(value, None, MAP_PROT),
        ArgKind::MapFlags => names(value, None, MAP_FLAGS),
        ArgKind::CloneFlags => {
            let flags = CloneFlags::from_bits_truncate(value & !0xff);
            let mut text: Vec<String> =
                flags.iter_names().map(|(name, _)| format!("CLONE_{name}")).collect();
            if let Ok(signal) = Signal::new((value & 0xff) as i32) {
                text.push(signal.name().map_or_else(|| format!("{}", value & 0xff), Into::into));
            }
            if text.is_empty() { "0".into() } else { text.join("|") }
        }
        ArgKind::FutexOp => show_futex(value as u32),
    }
}

fn show_futex(op: u32) -> String {
    const NAMES: [&str; 14] = [
        "FUTEX_WAIT",
        "FUTEX_WAKE",
        "FUTEX_FD",
        "FUTEX_REQUEUE",
        "FUTEX_CMP_REQUEUE",
        "FUTEX_WAKE_OP",
        "FUTEX_LOCK_PI",
        "FUTEX_UNLOCK_PI",
        "FUTEX_TRYLOCK_PI",
        "FUTEX_WAIT_BITSET",
        "FUTEX_WAKE_BITSET",
        "FUTEX_WAIT_REQUEUE_PI",
        "FUTEX_CMP_REQUEUE_PI",
        "FUTEX_LOCK_PI2",
    ];
    let name = NAMES.get((op & 127) as usize).copied().unwrap_or("FUTEX_???");
    let private = if op & 128 != 0 { "_PRIVATE" } else { "" };
    let real = if op & 256 != 0 { "|FUTEX_CLOCK_REALTIME" } else { "" };
    format!("{name}{private}{real}")
}

fn quote(bytes: &[u8], more: bool) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            0x20..0x7f => text.push(char::from(*byte)),
            _ => {
                let _ok = write!(text, "\\{byte:o}");
            }
        }
    }
    text.push('"');
    if more {
        text.push_str("...");
    }
    text
}

fn show_string(cx: &Current, addr: u64, max: usize) -> String {
    match cx.mm.copy_in_string(addr, max) {
        _ if addr == 0 => "NULL".into(),
        Ok(bytes) => quote(&bytes, false),
        Err(_) => format!("{addr:#x}"),
    }
}

fn show_strings(cx: &Current, addr: u64) -> String {
    let mut parts = Vec::new();
    for n in 0..SHOWN_STRINGS as u64 {
        match cx.mm.copy_in_u64(addr.wrapping_add(n * 8)) {
            Ok(0) => return format!("[{}]", parts.join(", ")),
            Ok(pointer) => parts.push(show_string(cx, pointer, 4096)),
            Err(_) => return format!("{addr:#x}"),
        }
    }
    format!("[{}, ...]", parts.join(", "))
}

fn show_buffer(cx: &Current, addr: u64, len: u64) -> String {
    let mut bytes = [0; SHOWN];
    let shown = usize::try_from(len).unwrap_or(usize::MAX).min(SHOWN);
    let part = bytes.get_mut(..shown).unwrap_or(&mut []);
    match cx.mm.copy_in(addr, part) {
        Ok(()) => quote(part, len > SHOWN as u64),
        Err(_) => format!("{addr:#x}"),
    }
}

fn open_access(flags: u64) -> Option<&'static str> {
    match flags & 3 {
        0 => Some("O_RDONLY"),
        1 => Some("O_WRONLY"),
        2 => Some("O_RDWR"),
        _ => Some("O_ACCMODE"),
    }
}

const OPEN_FLAGS: &[(u64, &str)] = &[
    (0o20200000, "O_TMPFILE"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o4010000, "O_SYNC"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
];

const MAP_PROT: &[(u64, &str)] = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];

const MAP_FLAGS: &[(u64, &str)] = &[
    (3, "MAP_SHARED_VALIDATE"),
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x2_0000, "MAP_STACK"),
    (0x4_0000, "MAP_HUGETLB"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];

/// The names of the bits that are set, and the rest in hexadecimal.
fn names(mut value: u64, first: Option<&str>, table: &[(u64, &str)]) -> String {
    let mut text = String::from(first.unwrap_or(""));
    let mut add = |name: &str| {
        if !text.is_empty() {
            text.push('|');
        }
        text.push_str(name);
    };
    for (bits, name) in table {
        if value & bits == *bits {
            add(name);
            value &= !bits;
        }
    }
    if value != 0 {
        add(&format!("{value:#x}"));
    }
    if text.is_empty() { "0".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_strings_read_as_strace_prints_them() {
        assert_eq!(names(0o2000000, Some("O_RDONLY"), OPEN_FLAGS), "O_RDONLY|O_CLOEXEC");
        assert_eq!(names(0x22, None, MAP_FLAGS), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(names(0, None, MAP_PROT), "0");
        assert_eq!(quote(b"a\"\n\x01", true), "\"a\\\"\\n\\1\"...");
        assert_eq!(show_futex(129), "FUTEX_WAKE_PRIVATE");
    }
}
