//! A device that records what is asked of it.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_sync::Mutex;

use crate::block::{Bio, BioFlags, BlockDevice, DeviceInfo, IoError, Op, Sector};
use crate::locks;

/// One request, as it was when it was submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedRequest {
    /// Its number, from 0, in the order of submission.
    pub id: u64,
    /// What to do.
    pub op: Op,
    /// Where.
    pub sector: Sector,
    /// Bytes.
    pub length_bytes: u64,
    /// How.
    pub flags: BioFlags,
    /// What a write wrote; empty otherwise.
    pub data: Arc<Vec<u8>>,
}

/// Something that happened on the device, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// A request was submitted.
    Submitted(TracedRequest),
    /// The request with this number ended.
    Completed {
        /// The number.
        id: u64,
        /// How it ended.
        result: Result<(), IoError>,
    },
}

/// Records every request to the device below, with the data of writes: enough to build
/// every state that a power cut could leave.
///
/// The data is copied at submission; a page that changes while it is written is recorded
/// as it was then.
pub struct TraceDisk {
    below: Arc<dyn BlockDevice>,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    events: Vec<TraceEvent>,
    next: u64,
}

impl TraceDisk {
    /// A device with an empty record.
    pub fn new(below: Arc<dyn BlockDevice>) -> Arc<Self> {
        let record = Arc::new(Mutex::new(&locks::DEVICE, Record::default()));
        Arc::new(Self { below, record })
    }
    /// What happened so far.
    pub fn events(&self) -> Vec<TraceEvent> {
        self.record.lock().events.clone()
    }
    /// What happened since the last time, removed from the record.
    pub fn take(&self) -> Vec<TraceEvent> {
        core::mem::take(&mut self.record.lock().events)
    }
    /// Requests submitted so far.
    pub fn submitted(&self) -> u64 {
        self.record.lock().next
    }
}

fn data_of(bio: &Bio) -> Vec<u8> {
    if bio.op != Op::Write {
        return Vec::new();
    }
    let mut data = vec![0; bio.length_bytes as usize];
    let mut rest = data.as_mut_slice();
    for s in &bio.segments {
        let (part, tail) = rest.split_at_mut(s.len as usize);
        s.page.read(s.offset as usize, part);
        rest = tail;
    }
    data
}

impl BlockDevice for TraceDisk {
    fn info(&self) -> DeviceInfo {
        self.below.info()
    }
    fn submit(&self, mut bio: Bio) {
        let data = Arc::new(data_of(&bio));
        let id = {
            let mut record = self.record.lock();
            let id = record.next;
            record.next += 1;
            record.events.push(TraceEvent::Submitted(TracedRequest {
                id,
                op: bio.op,
                sector: bio.sector,
                length_bytes: bio.length_bytes,
                flags: bio.flags,
                data,
            }));
            id
        };
        let record = self.record.clone();
        bio.before_done(move |result| {
            record.lock().events.push(TraceEvent::Completed { id, result });
        });
        self.below.submit(bio);
    }
    fn kick(&self) {
        self.below.kick();
    }
    fn capacity_sectors(&self) -> u64 {
        self.below.capacity_sectors()
    }
}
