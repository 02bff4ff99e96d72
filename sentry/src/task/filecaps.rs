//! Capabilities of a file, as its attribute security.capability has them (capabilities(7), "File
//! capabilities").
//!
//! Those of revision 3 name the root user for whose user namespace, and those below, they are. Who may not give them
//! everywhere gives such ones, and whoever reads the attribute sees it as it is in the own namespace: the conversions are
//! those of cap_convert_nscap() and cap_inode_getsecurity() (security/commoncap.c).

use alloc::vec::Vec;

use super::UserNamespace;
use super::creds::cap;
use super::userns::IdKind;
use crate::errno::Errno;

/// The attribute.
pub const NAME: &[u8] = b"security.capability";

/// linux/capability.h: revisions are in the upper byte of the first word, flags below.
const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const FLAG_EFFECTIVE: u32 = 1;
/// Lengths of the attribute (XATTR_CAPS_SZ_1 to _3).
const SIZE_1: usize = 12;
const SIZE_2: usize = 20;
const SIZE_3: usize = 24;

/// What a file gives to whom executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCaps {
    /// What everybody has, within bounds.
    pub permitted: u64,
    /// What is kept of what is inheritable.
    pub inheritable: u64,
    /// Whether it is effective at once.
    pub effective: bool,
}

/// The word at place `index` of a value.
fn word(value: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    let bytes = value.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// The first word, and the root user's number where there is one, of a value that may be written.
fn header(value: &[u8]) -> Option<(u32, u32)> {
    let magic = word(value, 0)?;
    match (magic & !FLAG_EFFECTIVE, value.len()) {
        (REVISION_2, SIZE_2) => Some((magic, 0)),
        (REVISION_3, SIZE_3) => Some((magic, word(value, 5)?)),
        _ => None,
    }
}

/// The same sets in another revision.
fn rewritten(magic: u32, revision: u32, value: &[u8], root: Option<u32>) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIZE_3);
    out.extend_from_slice(&(revision | magic & FLAG_EFFECTIVE).to_le_bytes());
    out.extend_from_slice(value.get(4..SIZE_2).unwrap_or_default());
    out.extend(root.into_iter().flat_map(u32::to_le_bytes));
    out
}

/// Whether this user is root in `ns` or in one above (rootid_owns_currentns()).
fn is_root_of(ns: &UserNamespace, root: u32) -> bool {
    let mut at = Some(ns);
    while let Some(ns) = at {
        if ns.kuid(0) == Some(root) {
            return true;
        }
        at = ns.parent();
    }
    false
}

impl FileCaps {
    /// What a value of the attribute, in a file system of `owner`'s, gives to somebody in `ns`: nothing, where it is for
    /// others. `EINVAL` where it makes no sense.
    pub fn of(
        value: &[u8],
        owner: &UserNamespace,
        ns: &UserNamespace,
    ) -> Result<Option<FileCaps>, Errno> {
        let magic = word(value, 0).ok_or(Errno::EINVAL)?;
        let (wide, root) = match (magic & REVISION_MASK, value.len()) {
            (REVISION_1, SIZE_1) => (false, 0),
            (REVISION_2, SIZE_2) => (true, 0),
            (REVISION_3, SIZE_3) => (true, word(value, 5).ok_or(Errno::EINVAL)?),
            _ => return Err(Errno::EINVAL),
        };
        if !owner.kuid(root).is_some_and(|root| is_root_of(ns, root)) {
            return Ok(None);
        }
        let set = |low: usize, high: usize| {
            let high = if wide { word(value, high) } else { None };
            let low = u64::from(word(value, low).unwrap_or(0));
            (u64::from(high.unwrap_or(0)) << 32 | low) & cap::ALL
        };
        let effective = magic & FLAG_EFFECTIVE != 0;
        Ok(Some(FileCaps { permitted: set(1, 3), inheritable: set(2, 4), effective }))
    }
}

/// Whether a value may be written at all: one of revision 2 or 3.
pub fn is_valid(value: &[u8]) -> bool {
    header(value).is_some()
}

/// What is written for somebody in `ns` who sets `value`, into a file system of `owner`'s; `everywhere`: the one may set
/// capabilities in that namespace. `EINVAL` where the root user that is named has no number there.
pub fn to_store(
    value: &[u8],
    owner: &UserNamespace,
    ns: &UserNamespace,
    everywhere: bool,
) -> Result<Vec<u8>, Errno> {
    let (magic, root) = header(value).ok_or(Errno::EINVAL)?;
    if value.len() == SIZE_2 && everywhere {
        return Ok(value.to_vec());
    }
    let root = ns.kuid(root).ok_or(Errno::EINVAL)?;
    let root = owner.up(IdKind::User, root).ok_or(Errno::EINVAL)?;
    Ok(rewritten(magic, REVISION_3, value, Some(root)))
}

/// How somebody in `ns` sees what is written in a file system of `owner`'s. `EOVERFLOW` where it is for others.
pub fn to_show(value: &[u8], owner: &UserNamespace, ns: &UserNamespace) -> Result<Vec<u8>, Errno> {
    let (magic, root) = header(value).ok_or(Errno::EINVAL)?;
    let root = owner.kuid(root).ok_or(Errno::EOVERFLOW)?;
    if let Some(here) = ns.up(IdKind::User, root).filter(|id| *id != 0) {
        return Ok(rewritten(magic, REVISION_3, value, Some(here)));
    }
    if !is_root_of(ns, root) {
        return Err(Errno::EOVERFLOW);
    }
    if value.len() == SIZE_2 {
        return Ok(value.to_vec());
    }
    Ok(rewritten(magic, REVISION_2, value, None))
}

/// A value with the root user's number put through `map`, where it names one other than 0.
pub fn map_root(value: Vec<u8>, map: impl FnOnce(u32) -> Option<u32>) -> Result<Vec<u8>, Errno> {
    match header(&value) {
        Some((magic, root)) if value.len() == SIZE_3 => {
            let root = map(root).ok_or(Errno::EOVERFLOW)?;
            Ok(rewritten(magic, REVISION_3, &value, Some(root)))
        }
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET_RAW: u32 = 1 << cap::NET_RAW;

    fn value(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn every_revision_is_read() {
        let ns = UserNamespace::default();
        let one = FileCaps { permitted: NET_RAW.into(), inheritable: 0, effective: true };
        for words in [
            &[REVISION_1 | 1, NET_RAW, 0][..],
            &[REVISION_2 | 1, NET_RAW, 0, 0, 0],
            &[REVISION_3 | 1, NET_RAW, 0, 0, 0, 0],
            // Bits that mean nothing do not count.
            &[REVISION_2 | 1, NET_RAW, 0, 0xffff_fe00, 0],
        ] {
            assert_eq!(FileCaps::of(&value(words), &ns, &ns), Ok(Some(one)));
        }
        let others = value(&[REVISION_3 | 1, NET_RAW, 0, 0, 0, 1000]);
        assert_eq!(FileCaps::of(&others, &ns, &ns), Ok(None));
        for words in [&[][..], &[REVISION_2], &[REVISION_1, 0, 0, 0], &[0, 0, 0, 0, 0]] {
            assert_eq!(FileCaps::of(&value(words), &ns, &ns), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn what_is_for_everybody_stays_as_it_is() {
        let ns = UserNamespace::default();
        let two = value(&[REVISION_2 | 1, 1, 2, 3, 4]);
        let three = value(&[REVISION_3 | 1, 1, 2, 3, 4, 0]);
        assert_eq!(to_store(&two, &ns, &ns, true), Ok(two.clone()));
        assert_eq!(to_store(&two, &ns, &ns, false), Ok(three.clone()));
        assert_eq!(to_show(&two, &ns, &ns), Ok(two.clone()));
        assert_eq!(to_show(&three, &ns, &ns), Ok(two));
        let others = value(&[REVISION_3, 1, 2, 3, 4, 7]);
        assert_eq!(to_show(&others, &ns, &ns), Ok(others.clone()));
        assert_eq!(map_root(others, |id| id.checked_add(1)).as_deref().map(|v| v[20]), Ok(8));
    }
}
