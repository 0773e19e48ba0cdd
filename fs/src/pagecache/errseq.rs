//! Writeback errors, reported once to every open file.

use holdfast_sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

const SEEN: u64 = 1 << 8;
const CODE: u64 = 0xff;
const ONE: u64 = 1 << 9;

/// A position in a file's sequence of writeback errors, kept by each open file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrSeq(u64);

/// A file's sequence of writeback errors.
///
/// One word: a counter, whether the newest error was reported to anybody, and its
/// errno. Recording again before anybody looked changes nothing but the errno, so
/// the counter moves only as fast as errors are observed.
#[derive(Debug, Default)]
pub(super) struct Errors(AtomicU64);

impl Errors {
    /// Note an error.
    pub(super) fn record(&self, error: &Error) {
        let code = error.errno() as u64 & CODE;
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            let counter = if old & SEEN != 0 { (old & !(SEEN | CODE)) + ONE } else { old & !CODE };
            Some(counter | code)
        });
    }
    /// Where an open file starts: an error nobody has seen yet is still ahead of it.
    pub(super) fn sample(&self) -> ErrSeq {
        let now = self.0.load(Ordering::Acquire);
        ErrSeq(if now & SEEN != 0 { now } else { 0 })
    }
    /// Report an error newer than `since`, once.
    pub(super) fn check_and_advance(&self, since: &mut ErrSeq) -> Result<()> {
        let now = self.0.load(Ordering::Acquire);
        if now == since.0 || now == 0 {
            return Ok(());
        }
        // A new error may arrive just now; then it is reported by the next call.
        let _ = self.0.compare_exchange(now, now | SEEN, Ordering::AcqRel, Ordering::Relaxed);
        since.0 = now | SEEN;
        Err(if now & CODE == Error::NoSpace.errno() as u64 { Error::NoSpace } else { Error::Io })
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn each_file_sees_an_error_once_and_a_new_file_only_an_unseen_one() {
        let errors = Errors::default();
        let (mut a, mut b) = (errors.sample(), errors.sample());
        assert!(errors.check_and_advance(&mut a).is_ok());
        errors.record(&Error::Io);
        errors.record(&Error::Io);
        let mut unseen = errors.sample();
        assert_eq!(errors.check_and_advance(&mut a), Err(Error::Io));
        assert_eq!(errors.check_and_advance(&mut a), Ok(()));
        assert_eq!(errors.check_and_advance(&mut b), Err(Error::Io));
        assert_eq!(errors.check_and_advance(&mut b), Ok(()));
        assert_eq!(errors.check_and_advance(&mut unseen), Err(Error::Io));
        let mut late = errors.sample();
        assert_eq!(errors.check_and_advance(&mut late), Ok(()));
        errors.record(&Error::NoSpace);
        assert_eq!(errors.check_and_advance(&mut late), Err(Error::NoSpace));
        assert_eq!(errors.check_and_advance(&mut a), Err(Error::NoSpace));
    }
}
