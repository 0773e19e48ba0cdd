//! Who writes down what is durable: a file that grows, and files that get other names and
//! are removed.

use super::{Stage, open, read};
use crate::volume::Volume;
use holdfast_fs::syscall::OpenFlags;

const ROUNDS: usize = 6;
const RECORD: usize = 700;
const MADE_BYTES: usize = 3000;

/// After each round, how many requests had been submitted when it was durable.
pub struct Ledger(Vec<u64>);

fn made(n: usize) -> String {
    format!("/made-{n}")
}

fn kept(n: usize) -> String {
    format!("/kept-{n}")
}

/// Every round makes a file, gives that of the last round its other name, and removes the
/// one before.
pub fn work(stage: &Stage) -> Ledger {
    let p = &stage.v.process;
    let ledger = open(p, "/ledger");
    let mut promises = Vec::new();
    for n in 0..ROUNDS {
        let value = n as u8 + 1;
        assert_eq!(p.pwrite(ledger, &[value; RECORD][..], (n * RECORD) as u64), Ok(RECORD));
        if n >= 1 {
            p.rename(made(n - 1).as_bytes(), kept(n - 1).as_bytes()).expect("it is there");
        }
        if n >= 2 {
            p.unlink(kept(n - 2).as_bytes()).expect("it is there");
        }
        let file = open(p, &made(n));
        assert_eq!(p.pwrite(file, &[value; MADE_BYTES][..], 0), Ok(MADE_BYTES));
        p.fsync(file).expect("it is durable");
        p.fdatasync(ledger).expect("it is durable");
        p.close(file).expect("it is open");
        promises.push(stage.trace.submitted());
    }
    Ledger(promises)
}

/// A file's first `most` bytes, if it is there.
pub fn find(v: &Volume, path: &str, most: usize) -> Option<Vec<u8>> {
    let fd = v.process.open(path.as_bytes(), OpenFlags::RDONLY, 0).ok()?;
    let found = read(&v.process, fd, 0, most);
    v.process.close(fd).expect("it is open");
    Some(found)
}

impl Ledger {
    /// After a power cut, before which so many requests had been submitted: what was durable
    /// is there, and of the next round whole changes of names.
    pub fn check(&self, v: &Volume, submitted: u64) {
        let Some(n) = self.0.iter().rposition(|promise| *promise <= submitted) else { return };
        let ledger = find(v, "/ledger", ROUNDS * RECORD).expect("the ledger");
        for (k, record) in ledger.chunks(RECORD).take(n + 1).enumerate() {
            assert!(record == [k as u8 + 1; RECORD], "record {k} of {n}");
        }
        assert!(ledger.len() >= (n + 1) * RECORD, "the ledger has {} bytes", ledger.len());
        let files = [made(n), kept(n)].map(|path| find(v, &path, 2 * MADE_BYTES));
        let ([Some(file), None] | [None, Some(file)]) = &files else {
            panic!("file {n} has not one name");
        };
        assert!(*file == [n as u8 + 1; MADE_BYTES], "file {n}");
        if n >= 1 {
            assert!(find(v, &made(n - 1), 1).is_none(), "file {} has its old name", n - 1);
        }
        if n >= 2 {
            assert!(find(v, &kept(n - 2), 1).is_none(), "file {} was removed", n - 2);
        }
    }
}
