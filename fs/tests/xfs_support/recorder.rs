//! A device that notes which metadata is read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use holdfast_fs::block::{Bio, BioFlags, BlockDevice, DeviceInfo, MemDisk, Op};

use super::mutate::Region;

/// Notes which metadata is read of the disk below.
pub struct Recorder {
    below: Arc<MemDisk>,
    reads: Mutex<BTreeSet<Region>>,
}

impl Recorder {
    pub fn over(below: Arc<MemDisk>) -> Arc<Self> {
        Arc::new(Self { below, reads: Mutex::default() })
    }
    /// What was read since this was asked last.
    pub fn take(&self) -> BTreeSet<Region> {
        std::mem::take(&mut *self.reads.lock().expect("reads"))
    }
}

impl BlockDevice for Recorder {
    fn info(&self) -> DeviceInfo {
        self.below.info()
    }
    fn submit(&self, bio: Bio) {
        if bio.op == Op::Read && bio.flags.contains(BioFlags::META) {
            let region =
                Region { offset: bio.sector.0 as usize * 512, len: bio.length_bytes as usize };
            self.reads.lock().expect("reads").insert(region);
        }
        self.below.submit(bio);
    }
}
