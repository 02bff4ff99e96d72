//! The options of mount(2)'s data, as overlayfs.rst names them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::errno::Errno;

/// Most lower layers (OVL_MAX_STACK, fs/overlayfs/params.h).
const MAX_STACK: usize = 500;

/// What an overlay is to be made of. Paths are as the caller's process sees them.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Options {
    /// The lower directories, topmost first.
    pub lower: Vec<Vec<u8>>,
    /// The upper directory.
    pub upper: Option<Vec<u8>>,
    /// Where things are made before they get their place in the upper directory.
    pub work: Option<Vec<u8>>,
    /// Marks are in `user.overlay.` attributes instead of `trusted.overlay.`.
    pub userxattr: bool,
    /// `redirect_dir=nofollow` was given.
    nofollow: bool,
    /// The text of `lowerdir`, of `upperdir` and of `workdir`, with their escapes.
    shown: [Vec<u8>; 3],
}

impl Options {
    /// `EINVAL` for what is not understood or asks for what there is not: here directories are never redirected,
    /// there is no index, no metadata-only copy, and no mapping of inode numbers.
    pub fn parse(data: &[u8]) -> Result<Options, Errno> {
        let mut options = Options::default();
        for option in split(data, b',').into_iter().filter(|o| !o.is_empty()) {
            let (name, value) = match option.iter().position(|c| *c == b'=') {
                Some(at) => (
                    option.get(..at).unwrap_or_default(),
                    option.get(at.saturating_add(1)..).filter(|v| !v.is_empty()),
                ),
                None => (option, None),
            };
            options.set(name, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Errno> {
        let [lower, upper, work] = &mut self.shown;
        match (name, value) {
            (b"lowerdir", Some(text)) => {
                let paths = split(text, b':');
                if paths.iter().any(|p| p.is_empty()) || paths.len() > MAX_STACK {
                    return Err(Errno::EINVAL);
                }
                self.lower = paths.into_iter().map(unescape).collect();
                *lower = text.into();
            }
            (b"lowerdir+", Some(text)) => {
                if self.lower.len() >= MAX_STACK {
                    return Err(Errno::EINVAL);
                }
                self.lower.push(text.into());
                if !lower.is_empty() {
                    lower.push(b':');
                }
                lower.extend_from_slice(text);
            }
            (b"upperdir", Some(text)) => {
                self.upper = Some(unescape(text));
                *upper = text.into();
            }
            (b"workdir", Some(text)) => {
                self.work = Some(unescape(text));
                *work = text.into();
            }
            (b"userxattr", None) => self.userxattr = true,
            // The callers' rights are always checked here too.
            (b"default_permissions", None) => {}
            (b"redirect_dir", Some(b"nofollow")) => self.nofollow = true,
            (
                b"redirect_dir" | b"index" | b"metacopy" | b"nfs_export" | b"xino" | b"uuid",
                Some(b"off"),
            ) => {}
            (b"uuid", Some(b"null")) => {}
            (b"verity", Some(b"off")) => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// As /proc/PID/mounts shows them.
    pub fn show(&self) -> String {
        let [lower, upper, work] = &self.shown;
        let mut text = String::new();
        let mut put = |name: &str, value: &[u8]| {
            text.push_str(name);
            for c in value.utf8_chunks() {
                for c in c.valid().chars() {
                    match c {
                        ' ' | '\t' | '\n' | '\\' => {
                            let octal = c as u8;
                            let digit =
                                |shift: u8| char::from(b'0'.wrapping_add(octal >> shift & 7));
                            text.extend(['\\', digit(6), digit(3), digit(0)]);
                        }
                        c => text.push(c),
                    }
                }
                text.extend(c.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
            }
        };
        put(",lowerdir=", lower);
        if self.upper.is_some() {
            put(",upperdir=", upper);
            put(",workdir=", work);
        }
        if self.nofollow || self.userxattr {
            put(",redirect_dir=nofollow", b"");
        }
        if self.userxattr {
            put(",userxattr", b"");
        }
        text
    }
}

/// Splits at a separator that no backslash stands before.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut escaped = false;
    text.split(|c| {
        let ends = *c == separator && !escaped;
        escaped = *c == b'\\' && !escaped;
        ends
    })
    .collect()
}

/// Without the backslashes that stand before something.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(c) = bytes.next() {
        match c {
            b'\\' => plain.extend(bytes.next()),
            c => plain.push(*c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_can_be_escaped() {
        let options = Options::parse(b"lowerdir=/a\\:b:/c\\,d,upperdir=/u,workdir=/w").unwrap();
        assert_eq!(options.lower, [b"/a:b".to_vec(), b"/c,d".to_vec()]);
        assert_eq!(options.upper.as_deref(), Some(&b"/u"[..]));
        assert_eq!(options.show(), ",lowerdir=/a\\134:b:/c\\134,d,upperdir=/u,workdir=/w");
    }

    #[test]
    fn what_is_not_honoured_is_refused() {
        for bad in [
            "foo",
            "lowerdir=",
            "lowerdir=:a",
            "lowerdir=a::b",
            "index=on",
            "userxattr=1",
            "xino=on",
        ] {
            assert_eq!(Options::parse(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
        assert!(Options::parse(b"lowerdir=a,,index=off,redirect_dir=off").is_ok());
    }
}
