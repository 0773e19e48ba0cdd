//! Names that were looked up: (directory, name) to inode number.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use holdfast_sync::Mutex;

use crate::locks;
use crate::xfs::Ino;

/// Most names remembered.
const MOST: usize = 4096;

/// A bounded cache of directory entries. Losing an entry costs a lookup on disk, no more.
pub(super) struct Dentries(Mutex<Table>);

#[derive(Default)]
struct Table {
    count: usize,
    directories: BTreeMap<u64, BTreeMap<Box<[u8]>, Ino>>,
}

impl Dentries {
    pub(super) fn new() -> Self {
        Self(Mutex::new(&locks::DENTRY, Table::default()))
    }
    pub(super) fn get(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.0.lock().directories.get(&dir.0)?.get(name).copied()
    }
    pub(super) fn insert(&self, dir: Ino, name: &[u8], ino: Ino) {
        let mut table = self.0.lock();
        if table.count >= MOST {
            *table = Table::default();
        }
        let names = table.directories.entry(dir.0).or_default();
        if names.insert(name.into(), ino).is_none() {
            table.count += 1;
        }
    }
    /// Forget one name: it was removed, or means something else now.
    pub(super) fn forget(&self, dir: Ino, name: &[u8]) {
        let mut table = self.0.lock();
        if let Some(names) = table.directories.get_mut(&dir.0)
            && names.remove(name).is_some()
        {
            table.count -= 1;
        }
    }
    pub(super) fn clear(&self) {
        *self.0.lock() = Table::default();
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn remembers_forgets_and_stays_bounded() {
        let cache = Dentries::new();
        cache.insert(Ino(1), b"a", Ino(10));
        cache.insert(Ino(2), b"a", Ino(20));
        assert_eq!(cache.get(Ino(1), b"a"), Some(Ino(10)));
        assert_eq!(cache.get(Ino(2), b"a"), Some(Ino(20)));
        assert_eq!(cache.get(Ino(1), b"b"), None);
        cache.forget(Ino(1), b"a");
        cache.forget(Ino(1), b"a");
        assert_eq!(cache.get(Ino(1), b"a"), None);
        for n in 0..3 * MOST as u64 {
            cache.insert(Ino(n % 7), &n.to_le_bytes(), Ino(n));
            assert_eq!(cache.get(Ino(n % 7), &n.to_le_bytes()), Some(Ino(n)));
        }
        assert!(cache.0.lock().count <= MOST);
        cache.clear();
        assert_eq!(cache.get(Ino(2), b"a"), None);
    }
}
