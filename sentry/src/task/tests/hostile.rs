use super::*;
use crate::syscall::CALLS;

/// Words that break careless arithmetic and pointers.
const WORDS: [u64; 12] = [
    0,
    1,
    2,
    u64::MAX,
    i64::MAX as u64,
    i64::MIN as u64,
    0xffff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    MEM,
    MEM + MEM_LEN - 4,
    0x7fff_ffff_f000,
];

/// Calls that may wait for what never comes, or end or change the caller beyond testing: they are tried
/// in their own tests.
const NOT_HERE: [&str; 12] = [
    "exit",
    "exit_group",
    "pause",
    "rt_sigsuspend",
    "rt_sigreturn",
    "fork",
    "vfork",
    "clone",
    "clone3",
    "kill",
    "rt_sigtimedwait",
    "tkill",
];

#[test]
fn no_call_panics_whatever_its_arguments() {
    let sandbox = Sandbox::new();
    let init = sandbox.start(|u| {
        u.syscall(nr::PAUSE, &[]);
    });
    for call in CALLS.iter().filter(|c| !NOT_HERE.contains(&c.name)) {
        let number = u64::from(call.number);
        let status = Arc::new(Mutex::new(None));
        let done = status.clone();
        // Each call in a process of its own, which a timer ends where it waits.
        let process = sandbox.start(move |u| {
            // The timer's signal kills: setitimer(ITIMER_REAL).
            let mut n: u64 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for round in 0..60 {
                let mut args = [0; 6];
                for arg in &mut args {
                    n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    // Each word once for all arguments, then mixtures.
                    *arg = match WORDS.get(round) {
                        Some(word) if round < 12 => *word,
                        _ => WORDS[(n >> 33) as usize % WORDS.len()],
                    };
                }
                // Nothing may wait for long: an alarm interrupts, and its default action ends this.
                u.syscall(nr::ALARM, &[1]);
                u.syscall(number, &args);
            }
            *done.lock().unwrap() = Some(());
        });
        let status_word = end(&process);
        let ended = status_word == 0
            // By the alarm, in a call that waits; or by what the call did to it.
            || matches!(status_word & 0x7f, 14 | 9 | 11 | 7);
        assert!(ended, "{}: {status_word:#x}", call.name);
    }
    let kill = crate::signal::SigInfo::kernel(crate::signal::Signal::SIGKILL);
    crate::signal::send_process(&init, kill, crate::signal::Origin::Outside).unwrap();
    assert_eq!(end(&init), 9);
}
