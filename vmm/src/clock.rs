//! Clocks and dates.

use std::time::Instant;

use nix::libc;
use nix::poll::PollTimeout;

/// What is left until then, as poll(2) wants it: rounded up, so that nobody asks over and over in the last millisecond.
pub fn poll_until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    PollTimeout::try_from(left.saturating_add(1)).unwrap_or(PollTimeout::MAX)
}

/// CLOCK_MONOTONIC, nanoseconds.
pub fn monotonic() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a timespec that the call may write; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// Seconds since 1970, and nanoseconds where wanted, as RFC 3339 in UTC.
pub fn rfc3339(seconds: u64, nanoseconds: Option<u32>) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date: eras of 400 years that begin on 1 March of year 0 (H. Hinnant, "chrono-
    // compatible low-level date algorithms"). 719468 days lie between that day and 1970.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let fraction = nanoseconds.map_or(String::new(), |n| format!(".{n:09}"));
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Hour and minute of the machine's own zone, of seconds since 1970.
pub fn local(seconds: u64) -> (i32, i32) {
    let time = seconds as libc::time_t;
    // SAFETY: all zero is a `tm`, and both are ours for the time of the call.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&time, &mut tm);
        tm
    };
    (tm.tm_hour, tm.tm_min)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates_around_leap_days() {
        assert_eq!(rfc3339(0, None), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399, None), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400, Some(5)), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(rfc3339(4_107_542_400, None), "2100-03-01T00:00:00Z");
    }
}
