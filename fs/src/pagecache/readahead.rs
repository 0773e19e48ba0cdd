//! What one open file will probably read next.
//!
//! A sequential reader gets windows that double up to half the limit. Each window carries
//! a mark on one of its first pages; reaching the mark starts windows until two lie ahead
//! of the reader, so that the device always has one to work on, even while the next is
//! being prepared.
//!
//! ```text
//!   |-- window (being read) --|-- in flight --|-- started at the mark --|
//!     ^ mark
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
        self.count = grown.min((most / 2).max(1)).max(pages);
        self.next = index + pages;
        // Whoever asks for less than the window has to come back before more is read.
        let mark = if pages < self.count { index + pages } else { index };
        Window { start: index, count: self.count, mark: Some(mark) }
    }
    /// The reader reached the mark on page `index`: the next window, if fewer than two lie
    /// ahead. Asked again until there is none.
    pub(crate) fn marked(&mut self, index: u64, most: u64) -> Option<Window> {
        if self.hint == Hint::Random {
            return None;
        }
        let most = self.limit(most).max(1);
        let end = self.start + self.count;
        let known = self.count != 0 && index < end && index + 2 * most >= self.start;
        if known && end - index > most {
            return None;
        }
        let start = if known { end } else { index + 1 };
        let longest = (most / 2).max(1);
        self.count = (self.count * 2).clamp(INITIAL.min(longest), longest);
        self.start = start;
        Some(Window { start, count: self.count, mark: Some(start) })
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn sequential_reading_doubles_and_keeps_two_windows_ahead() {
        let most = 128;
        let mut ra = Readahead::default();
        let first = ra.miss(0, 1, most, false);
        assert_eq!((first.start, first.count, first.mark), (0, 8, Some(1)));
        let mut end = first.count;
        let mut marks = alloc::collections::VecDeque::from([1]);
        let mut sizes = alloc::vec![first.count];
        while end < 2000 {
            let mark = marks.pop_front().expect("a mark lies before the end of what is read");
            assert!(mark < end);
            while let Some(w) = ra.marked(mark, most) {
                assert_eq!(w.start, end, "windows join");
                end += w.count;
                marks.extend(w.mark);
                sizes.push(w.count);
            }
            assert!(end - mark > most, "enough lies ahead");
            assert!(end - mark <= 2 * most, "not too much lies ahead");
        }
        assert_eq!(sizes[..5], [8, 16, 32, 64, 64]);
    }

    #[test]
    fn a_tiny_cache_gets_tiny_windows() {
        for most in 1..20 {
            let mut ra = Readahead::default();
            let w = ra.miss(0, 50, most, false);
            assert!((1..=most).contains(&w.count));
            while let Some(w) = ra.marked(0, most) {
                assert!((1..=most).contains(&w.count));
            }
        }
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
