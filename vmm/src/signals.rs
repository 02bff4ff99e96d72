//! Signals by name and number.

use nix::libc;

/// Names without `SIG`, by number (signal(7), x86-64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Other names for some of them.
const ALIASES: [(&str, u8); 5] =
    [("IOT", 6), ("CLD", 17), ("POLL", 29), ("RTMIN", SIGRTMIN), ("RTMAX", SIGRTMAX)];

/// The first real-time signal that programs may use: the C library keeps 32 and 33.
const SIGRTMIN: u8 = 34;
/// The last signal.
const SIGRTMAX: u8 = 64;

/// The number of a signal that is given as `9`, `KILL` or `SIGKILL`, in any case.
pub fn parse(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(*number);
    }
    if let Some(offset) = name.strip_prefix("RTMIN+").and_then(|n| n.parse::<u8>().ok()) {
        return SIGRTMIN.checked_add(offset).filter(|n| *n <= SIGRTMAX);
    }
    if let Some(offset) = name.strip_prefix("RTMAX-").and_then(|n| n.parse::<u8>().ok()) {
        return SIGRTMAX.checked_sub(offset).filter(|n| *n >= SIGRTMIN);
    }
    let index = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(index).ok()?.checked_add(1)
}

/// Ends this process as one that the signal has killed, without a core.
pub fn die_of(signal: u8) -> ! {
    let number = i32::from(signal);
    // SAFETY: the default action and an empty mask for one signal, sent to this process; no memory
    // of ours is handed over but a set that lives through the calls.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(number, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, number);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::kill(libc::getpid(), number);
        // A signal whose default is to do nothing.
        libc::_exit(128 + number)
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_have_many_spellings() {
        for text in ["9", "KILL", "SIGKILL", "sigkill", "kill"] {
            assert_eq!(parse(text), Some(9), "{text}");
        }
        assert_eq!(parse("SIGSYS"), Some(31));
        assert_eq!(parse("RTMIN+3"), Some(37));
        assert_eq!(parse("SIGRTMAX-30"), Some(34));
        for text in ["", "0", "65", "FOO", "-1", "SIG", "RTMAX-31"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
