//! Names that were looked up: (directory, name) to inode number, or to nothing.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use holdfast_sync::Mutex;

use crate::locks;
use crate::xfs::Ino;

/// Most names remembered.
const MOST: usize = 4096;

/// A bounded cache of directory entries, and of names that are known to be missing.
/// Losing an entry costs a lookup on disk, no more. Entries change with the directory's
/// `IOLOCK` held: shared by who looked a name up, exclusive by who changed it.
pub(super) struct Dentries(Mutex<Table>);

/// A directory's names by their hashes. Of two names with one hash only the one asked for
/// last is remembered.
type Names = BTreeMap<u64, Known>;

struct Known {
    name: Box<[u8]>,
    ino: Option<Ino>,
}

/// Comparing numbers is cheaper than comparing names.
fn hash(name: &[u8]) -> u64 {
    // Odd, and without a pattern: a product's upper bits depend on all of what is below.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| ((hash ^ word).wrapping_mul(FACTOR)).rotate_left(29);
    let (words, rest) = name.as_chunks::<8>();
    let start = words.iter().fold(name.len() as u64, |h, w| mix(h, u64::from_le_bytes(*w)));
    mix(start, rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

#[derive(Default)]
struct Table {
    count: usize,
    directories: BTreeMap<u64, Names>,
}

impl Dentries {
    pub(super) fn new() -> Self {
        Self(Mutex::new(&locks::DENTRY, Table::default()))
    }
    /// What a name means, `Some(None)` if it is missing; nothing if that is not known.
    pub(super) fn get(&self, dir: Ino, name: &[u8]) -> Option<Option<Ino>> {
        let hash = hash(name);
        let table = self.0.lock();
        let known = table.directories.get(&dir.0)?.get(&hash)?;
        (*known.name == *name).then_some(known.ino)
    }
    /// A name means this, or is missing.
    pub(super) fn insert(&self, dir: Ino, name: &[u8], ino: Option<Ino>) {
        let hash = hash(name);
        let mut table = self.0.lock();
        if table.count >= MOST {
            *table = Table::default();
        }
        let names = table.directories.entry(dir.0).or_default();
        match names.get_mut(&hash) {
            // The usual case is a name that is known: its bytes are kept.
            Some(known) if *known.name == *name => known.ino = ino,
            Some(known) => *known = Known { name: name.into(), ino },
            None => {
                names.insert(hash, Known { name: name.into(), ino });
                table.count += 1;
            }
        }
    }
    /// Forget one name: it means something else now.
    pub(super) fn forget(&self, dir: Ino, name: &[u8]) {
        let mut table = self.0.lock();
        if let Some(names) = table.directories.get_mut(&dir.0)
            && names.remove(&hash(name)).is_some()
        {
            table.count -= 1;
        }
    }
    /// Forget a directory: its number may be given to another one.
    pub(super) fn forget_directory(&self, dir: Ino) {
        let mut table = self.0.lock();
        if let Some(names) = table.directories.remove(&dir.0) {
            table.count -= names.len();
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
        cache.insert(Ino(1), b"a", Some(Ino(10)));
        cache.insert(Ino(2), b"a", Some(Ino(20)));
        cache.insert(Ino(2), b"c", None);
        assert_eq!(cache.get(Ino(1), b"a"), Some(Some(Ino(10))));
        assert_eq!(cache.get(Ino(2), b"a"), Some(Some(Ino(20))));
        assert_eq!(cache.get(Ino(2), b"c"), Some(None));
        cache.insert(Ino(2), b"c", Some(Ino(21)));
        assert_eq!(cache.get(Ino(2), b"c"), Some(Some(Ino(21))));
        cache.forget_directory(Ino(2));
        assert_eq!(cache.get(Ino(2), b"a"), None);
        assert_eq!(cache.get(Ino(1), b"b"), None);
        cache.forget(Ino(1), b"a");
        cache.forget(Ino(1), b"a");
        assert_eq!(cache.get(Ino(1), b"a"), None);
        for n in 0..3 * MOST as u64 {
            cache.insert(Ino(n % 7), &n.to_le_bytes(), Some(Ino(n)));
            assert_eq!(cache.get(Ino(n % 7), &n.to_le_bytes()), Some(Some(Ino(n))));
        }
        assert!(cache.0.lock().count <= MOST);
        cache.clear();
        assert_eq!(cache.get(Ino(2), b"a"), None);
    }
}
