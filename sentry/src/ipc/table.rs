//! Ids of System V objects: what semaphore sets, shared memory segments and message queues have in common.
//!
//! An id is a place in the table and, above that, a number that changes with every new object, so that an
//! old id finds nothing (ipc/util.c).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{IPC_PRIVATE, Perm, flag};
use crate::errno::Errno;
use crate::task::Creds;

/// Places for ids: an id is a place and, times this, how often it was used (IPCMNI).
pub const PLACES: u32 = 32_768;

/// An object with an id.
pub trait Object {
    /// Its id.
    fn id(&self) -> i32;
    /// Who may use it, and its key.
    fn perm(&self) -> Perm;
}

/// The objects of one kind in a namespace.
pub struct Table<T> {
    /// By place.
    objects: BTreeMap<u32, Arc<T>>,
    /// Of the next object.
    sequence: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { objects: BTreeMap::new(), sequence: 0 }
    }
}

/// Above the place in an id.
pub fn sequence(id: i32) -> u32 {
    id as u32 / PLACES
}

impl<T: Object> Table<T> {
    /// What a `get` call finds for its key: `None` where an object is to be made. `suits` looks at one that
    /// is there (EINVAL); then permissions count.
    pub fn get(
        &self,
        creds: &Creds,
        key: i32,
        flags: u32,
        suits: impl FnOnce(&T) -> Result<(), Errno>,
    ) -> Result<Option<i32>, Errno> {
        let known = match key {
            IPC_PRIVATE => None,
            _ => self.objects.values().find(|object| object.perm().key == key),
        };
        let Some(object) = known else {
            let make = key == IPC_PRIVATE || flags & flag::CREAT != 0;
            return if make { Ok(None) } else { Err(Errno::ENOENT) };
        };
        if flags & (flag::CREAT | flag::EXCL) == flag::CREAT | flag::EXCL {
            return Err(Errno::EEXIST);
        }
        suits(object)?;
        object.perm().check(creds, flags & 0o777)?;
        Ok(Some(object.id()))
    }

    /// Adds what `make` makes of its id. `ENOSPC` with `most` objects there.
    pub fn add(&mut self, most: usize, make: impl FnOnce(i32) -> T) -> Result<i32, Errno> {
        let place = (0..most as u32).find(|place| !self.objects.contains_key(place));
        let place = place.ok_or(Errno::ENOSPC)?;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1) % (i32::MAX as u32 / PLACES);
        let id = sequence.saturating_mul(PLACES).saturating_add(place) as i32;
        self.objects.insert(place, Arc::new(make(id)));
        Ok(id)
    }

    /// The object with this id. `EINVAL` where there is none, or none any more.
    pub fn find(&self, id: i32) -> Result<Arc<T>, Errno> {
        let place = u32::try_from(id).map_err(|_| Errno::EINVAL)? % PLACES;
        self.at(place)?.id().eq(&id).then(|| self.at(place)).ok_or(Errno::EINVAL)?
    }

    /// The object at this place.
    pub fn at(&self, place: u32) -> Result<Arc<T>, Errno> {
        self.objects.get(&place).cloned().ok_or(Errno::EINVAL)
    }

    /// Takes the object with this id out.
    pub fn remove(&mut self, id: i32) -> Result<Arc<T>, Errno> {
        self.find(id)?;
        self.objects.remove(&(id as u32 % PLACES)).ok_or(Errno::EINVAL)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The highest place in use; 0 where none is.
    pub fn highest(&self) -> u32 {
        self.objects.keys().next_back().copied().unwrap_or(0)
    }

    /// All, by place.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.objects.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::UserNamespace;

    struct Thing(i32, i32);

    impl Object for Thing {
        fn id(&self) -> i32 {
            self.0
        }
        fn perm(&self) -> Perm {
            Perm::new(self.1, &Creds::default(), 0o600, &UserNamespace::INITIAL)
        }
    }

    #[test]
    fn old_ids_find_nothing_and_keys_find_their_object() {
        let mut table: Table<Thing> = Table::default();
        let creds = Creds::default();
        assert_eq!(table.get(&creds, 5, 0, |_| Ok(())), Err(Errno::ENOENT));
        assert_eq!(table.get(&creds, 5, flag::CREAT, |_| Ok(())), Ok(None));
        let first = table.add(2, |id| Thing(id, 5)).unwrap();
        assert_eq!(table.get(&creds, 5, flag::CREAT, |_| Ok(())), Ok(Some(first)));
        let exclusive = flag::CREAT | flag::EXCL;
        assert_eq!(table.get(&creds, 5, exclusive, |_| Ok(())), Err(Errno::EEXIST));
        assert_eq!(table.get(&creds, 5, 0, |_| Err(Errno::EINVAL)), Err(Errno::EINVAL));
        assert_eq!(table.get(&creds, IPC_PRIVATE, 0, |_| Ok(())), Ok(None));
        table.remove(first).unwrap();
        let second = table.add(2, |id| Thing(id, 5)).unwrap();
        assert_ne!(first, second);
        assert_eq!(table.find(first).err(), Some(Errno::EINVAL));
        assert_eq!(table.find(second).unwrap().0, second);
        assert_eq!(table.find(-1).err(), Some(Errno::EINVAL));
        table.add(2, |id| Thing(id, 6)).unwrap();
        assert_eq!(table.add(2, |id| Thing(id, 7)), Err(Errno::ENOSPC));
        assert_eq!((table.len(), table.highest()), (2, 1));
    }
}
