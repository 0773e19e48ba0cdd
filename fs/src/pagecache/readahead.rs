//! What one open file will probably read next.
//!
//! A sequential reader gets windows that double up to the limit. Each window carries a
//! mark some pages before its end; reaching the mark starts the next window while the
//! rest of this one is still unread, so the device works while the reader copies.
//!
//! ```text
//!   |------ window ------|------ next window ------|
//!   .......^ reader   ^ mark: submits the next window
//! ```

/// The smallest window, in pages.
const INITIAL: u64 = 8;

/// The readahead state of one open file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readahead {
    /// First page of the newest window.
    start: u64,
    /// Its length in pages; 0: none yet.
    count: u64,
    /// The page after the last one that was read.
    next: u64,
    /// The application said so (fadvise).
    hint: Hint,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hint {
    #[default]
    Normal,
    Sequential,
    Random,
}

/// Pages to read, and where the mark goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// First page.
    pub start: u64,
    /// Number of pages, at least 1.
    pub count: u64,
    /// The page that carries the mark.
    pub mark: Option<u64>,
}

impl Readahead {
    /// fadvise: normal behaviour.
    pub fn normal(&mut self) {
        self.hint = Hint::Normal;
    }
    /// fadvise: larger windows.
    pub fn sequential(&mut self) {
        self.hint = Hint::Sequential;
    }
    /// fadvise: no readahead.
    pub fn random(&mut self) {
        self.hint = Hint::Random;
    }
    fn limit(&self, most: u64) -> u64 {
        if self.hint == Hint::Sequential { most.saturating_mul(2) } else { most }
    }
    /// `pages` pages from `index` were wanted and the first is not cached: what to read.
    /// `follows`: the page before is cached, so somebody read up to here.
    pub(crate) fn miss(&mut self, index: u64, pages: u64, most: u64, follows: bool) -> Window {
        let most = self.limit(most).max(1);
        let pages = pages.clamp(1, most);
        let sequential = index == 0 || index == self.next || follows;
        if self.hint == Hint::Random || !sequential {
            self.next = index + pages;
            (self.start, self.count) = (index, 0);
            return Window { start: index, count: pages, mark: None };
        }
        // Past the end of the last window means that it was evicted or never marked.
        let grown = if self.count == 0 { INITIAL.max(pages * 2) } else { self.count * 2 };
        self.start = index;
        self.count = grown.max(pages).min(most);
        self.next = index + pages;
        // The mark is hit at once when nothing but what was asked for is in the window.
        let mark = index + pages.min(self.count / 2);
        Window { start: index, count: self.count, mark: Some(mark) }
    }
    /// The reader reached the mark on page `index`: the next window.
    pub(crate) fn marked(&mut self, index: u64, most: u64) -> Option<Window> {
        if self.hint == Hint::Random {
            return None;
        }
        let most = self.limit(most).max(1);
        let current = self.count != 0 && index >= self.start && index < self.start + self.count;
        let start = if current { self.start + self.count } else { index + 1 };
        self.count = (self.count * 2).clamp(INITIAL.min(most), most);
        self.start = start;
        Some(Window { start, count: self.count, mark: Some(start) })
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn sequential_reading_doubles_and_stays_ahead() {
        let mut ra = Readahead::default();
        let first = ra.miss(0, 1, 64, false);
        assert_eq!((first.start, first.count), (0, 8));
        let mut end = first.count;
        let mut mark = first.mark.unwrap();
        let mut sizes = alloc::vec![first.count];
        for _ in 0..6 {
            assert!(mark < end, "the mark lies in a window already read");
            let w = ra.marked(mark, 64).unwrap();
            assert_eq!(w.start, end, "windows join");
            end = w.start + w.count;
            mark = w.mark.unwrap();
            sizes.push(w.count);
        }
        assert_eq!(sizes, [8, 16, 32, 64, 64, 64, 64]);
    }

    #[test]
    fn random_reading_reads_what_was_asked() {
        let mut ra = Readahead::default();
        for index in [100, 7, 5000, 12] {
            let w = ra.miss(index, 1, 64, false);
            assert_eq!(w, Window { start: index, count: 1, mark: None });
        }
    }
}
