//! Errors in the words that a person expects.

use std::io;

/// What an error means, without the number that the standard library appends.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_left_out() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(reason(&error), "No such file or directory");
        assert_eq!(reason(&io::ErrorKind::NotADirectory.into()), "not a directory");
    }
}
