//! Who writes down what is durable: a file that grows, and files that get other names and
//! are removed.

use super::{Stage, read};
use crate::volume::Volume;
use holdfast_fs::Result;
use holdfast_fs::syscall::{OpenFlags, Process};

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

/// Make a file, give that of the last round its other name, and remove the one before.
fn round(p: &Process, n: usize) -> Result<()> {
    let value = n as u8 + 1;
    let flags = OpenFlags::RDWR | OpenFlags::CREAT;
    let ledger = p.open(b"/ledger", flags, 0o644)?;
    assert_eq!(p.pwrite(ledger, &[value; RECORD][..], (n * RECORD) as u64)?, RECORD);
    if n >= 1 {
        p.rename(made(n - 1).as_bytes(), kept(n - 1).as_bytes())?;
    }
    if n >= 2 {
        p.unlink(kept(n - 2).as_bytes())?;
    }
    let file = p.open(made(n).as_bytes(), flags, 0o644)?;
    assert_eq!(p.pwrite(file, &[value; MADE_BYTES][..], 0)?, MADE_BYTES);
    p.fsync(file)?;
    p.fdatasync(ledger)?;
    p.close(file)?;
    p.close(ledger)
}

/// Rounds until something fails.
pub fn work(stage: &Stage) -> Ledger {
    let rounds = (0..ROUNDS).map_while(|n| round(&stage.v.process, n).ok());
    Ledger(rounds.map(|()| stage.trace.submitted()).collect())
}

/// A file's first `most` bytes, if it is there.
pub fn find(v: &Volume, path: &str, most: usize) -> Option<Vec<u8>> {
    let fd = v.process.open(path.as_bytes(), OpenFlags::RDONLY, 0).ok()?;
    let found = read(&v.process, fd, 0, most);
    v.process.close(fd).expect("it is open");
    Some(found)
}

impl Ledger {
    /// Nothing failed.
    pub fn is_complete(&self) -> bool {
        self.0.len() == ROUNDS
    }
    /// After a power cut, before which so many requests had been submitted: what was durable
    /// is there, and of the next round whole changes of names.
    pub fn check(&self, v: &Volume, submitted: u64) {
        let Some(n) = self.0.iter().rposition(|promise| *promise <= submitted) else { return };
        let ledger = find(v, "/ledger", ROUNDS * RECORD).expect("the ledger");
        for (k, record) in ledger.chunks(RECORD).take(n + 1).enumerate() {
            let good = record.iter().take_while(|byte| **byte == k as u8 + 1).count();
            assert!(good == RECORD, "record {k} of {n}: byte {good} is {:?}", record.get(good));
        }
        assert!(ledger.len() >= (n + 1) * RECORD, "the ledger has {} bytes", ledger.len());
        let files = [made(n), kept(n)].map(|path| find(v, &path, 2 * MADE_BYTES));
        let ([Some(file), None] | [None, Some(file)]) = &files else {
            panic!("file {n} has not one name");
        };
        assert!(
            *file == [n as u8 + 1; MADE_BYTES],
            "file {n} has {} bytes, the first are {:?}",
            file.len(),
            file.get(..4)
        );
        if n >= 1 {
            assert!(find(v, &made(n - 1), 1).is_none(), "file {} has its old name", n - 1);
        }
        if n >= 2 {
            assert!(find(v, &kept(n - 2), 1).is_none(), "file {} was removed", n - 2);
        }
    }
}
