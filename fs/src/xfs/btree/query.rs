//! Trees whose records overlap: all records that touch a range.

use alloc::vec::Vec;

use super::cursor::{At, Cursor, KeyOf};
use super::shape::{Entry, Shape};
use crate::error::Result;
use crate::xfs::ondisk::btree::Record;
use crate::xfs::trans::Trans;

impl<S: Shape> Cursor<S> {
    /// Visit, in order, all records that cover anything from `low` to `high`, until `each`
    /// returns false. The cursor stands nowhere afterwards.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn overlapping(
        &mut self,
        tp: &mut Trans<'_>,
        low: &KeyOf<S>,
        high: &KeyOf<S>,
        each: &mut dyn FnMut(S::Record) -> bool,
    ) -> Result<()> {
        debug_assert!(S::Record::OVERLAPPING, "only such trees have high keys");
        if !self.first(tp)? {
            return Ok(());
        }
        self.at = At::Nowhere;
        // The path is good from the root down to the block that is looked at.
        let mut level = self.path.len() - 1;
        loop {
            let index = self.path[level].index;
            if level == 0 {
                for record in self.touching(low, high)? {
                    if !each(record) {
                        return Ok(());
                    }
                }
            } else {
                let next = self.with_node(level, |node| {
                    (index..node.count())
                        .take_while(|&i| node.key(i) <= *high)
                        .find(|&i| node.high_key(i) >= *low)
                })?;
                if let Some(next) = next {
                    self.path[level].index = next;
                    self.enter(tp, level)?;
                    level -= 1;
                    continue;
                }
            }
            // Done with this block: on to the next entry of its parent.
            level += 1;
            if level == self.path.len() {
                return Ok(());
            }
            self.path[level].index += 1;
        }
    }
    /// The records of the leaf that cover anything from `low` to `high`.
    fn touching(&self, low: &KeyOf<S>, high: &KeyOf<S>) -> Result<Vec<S::Record>> {
        self.with_node(0, |node| {
            (0..node.count())
                .map(|i| node.record(i))
                .filter(|record| record.key() <= *high && record.high_key() >= *low)
                .collect()
        })
    }
}
