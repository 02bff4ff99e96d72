//! What the host counts in a container's groups and the sentry does not know.

use sentry::control::Throttling;

use super::Open;

impl Open {
    /// Of the container's processor time; nothing where the host does not count it.
    pub fn throttling(&self) -> Throttling {
        let text = self.with("cpu").and_then(|folder| folder.read("cpu.stat").ok());
        parse(&text.unwrap_or_default())
    }
}

fn parse(text: &str) -> Throttling {
    let mut found = Throttling::default();
    for (word, number) in text.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(number) = number.trim().parse::<u64>() else { continue };
        match word {
            "nr_periods" => found.periods = number,
            "nr_throttled" => found.throttled = number,
            "throttled_time" => found.time_ns = number,
            "throttled_usec" => found.time_ns = number.saturating_mul(1000),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let expected = Throttling { periods: 9, throttled: 2, time_ns: 3000 };
        assert_eq!(parse("nr_periods 9\nnr_throttled 2\nthrottled_time 3000\n"), expected);
        let text = "usage_usec 7\nnr_periods 9\nnr_throttled 2\nthrottled_usec 3\n";
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), Throttling::default());
    }
}
