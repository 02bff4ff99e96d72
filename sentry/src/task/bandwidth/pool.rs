//! A pool of processor time: plain numbers, all in nanoseconds.

/// How long it is at least between two looks at what tasks use.
const BETWEEN: u64 = 1_000_000;
/// The shortest and the longest period, and the least time in one, as Linux has them (kernel/sched/core.c).
const PERIODS: core::ops::RangeInclusive<u64> = 1_000_000..=1_000_000_000;
const LEAST: u64 = 1_000_000;

/// So much processor time in each period. What is not used of it is gone with its period; what is used beyond it, because
/// tasks are looked at now and then only, is owed to the next ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    quota: u64,
    period: u64,
    /// The most that is owed: what all processors can do in a period. More is a mistake of the clocks.
    most_owed: i64,
    left: i64,
    /// When the period is over.
    end: u64,
    /// What had been used when it was last looked at.
    used: u64,
}

impl Pool {
    /// A full one, of microseconds in microseconds. `used`: what its tasks have used before.
    pub fn new(quota: u64, period: u64, cpus: u32, now: u64, used: u64) -> Pool {
        let quota = quota.saturating_mul(1000).clamp(LEAST, i64::MAX.cast_unsigned());
        let period = period.saturating_mul(1000).clamp(*PERIODS.start(), *PERIODS.end());
        let most_owed = period.saturating_mul(cpus.max(1).into());
        Pool {
            quota,
            period,
            most_owed: most_owed.try_into().unwrap_or(i64::MAX),
            left: quota.cast_signed(),
            end: now.saturating_add(period),
            used,
        }
    }

    /// Its tasks have used so much by now. What is counted less than before is counted at the next look.
    pub fn charge(&mut self, used: u64) {
        let more = used.saturating_sub(self.used);
        self.used = self.used.max(used);
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        self.left = self.left.saturating_sub(more).max(self.most_owed.saturating_neg());
    }

    /// Begins the period that `now` is in; how many have ended.
    pub fn refill(&mut self, now: u64) -> u64 {
        let Some(late) = now.checked_sub(self.end) else { return 0 };
        let ended = late.checked_div(self.period).unwrap_or(0).saturating_add(1);
        self.end = self.end.saturating_add(ended.saturating_mul(self.period));
        let more = i64::try_from(ended.saturating_mul(self.quota)).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(more).min(self.quota.cast_signed());
        ended
    }

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.left <= 0
    }

    /// When to look again: when the period is over, or earlier where so many processors may use up what is left.
    pub fn next_look(&self, now: u64, processors: u32) -> u64 {
        let Ok(left @ 1..) = u64::try_from(self.left) else { return self.end };
        let lasts = left.checked_div(processors.into()).unwrap_or(u64::MAX);
        now.saturating_add(lasts.max(BETWEEN)).min(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pool() -> Pool {
        // 20 ms in 100 ms, of two processors, whose tasks have used 7 ms before.
        Pool::new(20_000, 100_000, 2, 1000 * MS, 7 * MS)
    }

    #[test]
    fn what_is_used_is_taken_and_each_period_fills_it_again() {
        let mut pool = pool();
        pool.charge(17 * MS);
        assert!(!pool.is_empty());
        pool.charge(27 * MS);
        assert!(pool.is_empty());
        assert_eq!(pool.refill(1099 * MS), 0);
        assert!(pool.is_empty());
        assert_eq!(pool.refill(1100 * MS), 1);
        pool.charge(46 * MS);
        assert!(!pool.is_empty());
        pool.charge(47 * MS);
        assert!(pool.is_empty());
    }

    #[test]
    fn what_is_not_used_is_gone_and_what_is_owed_is_paid() {
        let mut pool = pool();
        assert_eq!(pool.refill(1450 * MS), 4);
        assert_eq!(pool.left, 20 * 1_000_000);
        pool.charge(7 * MS + 65 * MS);
        // 45 ms are owed: two periods pay 40 of them, the third leaves 15.
        assert_eq!(pool.refill(1600 * MS), 2);
        assert!(pool.is_empty());
        assert_eq!(pool.refill(1650 * MS), 0);
        assert_eq!(pool.refill(1700 * MS), 1);
        assert_eq!(pool.left, 15 * 1_000_000);
    }

    #[test]
    fn no_more_is_owed_than_could_be_used_in_a_period() {
        let mut pool = pool();
        pool.charge(u64::MAX);
        assert_eq!(pool.left, -200 * 1_000_000);
        // A count that goes back is no gift, and is not charged again.
        pool.charge(5);
        pool.charge(u64::MAX);
        assert_eq!(pool.left, -200 * 1_000_000);
        assert!(pool.refill(u64::MAX) > 0);
    }

    #[test]
    fn it_is_looked_at_when_it_may_be_empty() {
        let mut pool = pool();
        let now = 1000 * MS;
        assert_eq!(pool.next_look(now, 1), now + 20 * MS);
        assert_eq!(pool.next_look(now, 2), now + 10 * MS);
        assert_eq!(pool.next_look(now, 0), now + 100 * MS);
        assert_eq!(pool.next_look(now, 100), now + MS);
        assert_eq!(pool.next_look(now + 95 * MS, 1), now + 100 * MS);
        pool.charge(30 * MS);
        assert_eq!(pool.next_look(now + 5, 2), now + 100 * MS);
    }

    #[test]
    fn numbers_that_linux_does_not_take_are_bounded() {
        for (quota, period) in [(0, 0), (u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX, 1)] {
            let mut pool = Pool::new(quota, period, 0, 0, 0);
            assert!(!pool.is_empty());
            assert!((MS..=1000 * MS).contains(&pool.end), "{pool:?}");
            pool.charge(u64::MAX);
            pool.refill(u64::MAX);
            pool.next_look(u64::MAX, u32::MAX);
        }
    }
}
