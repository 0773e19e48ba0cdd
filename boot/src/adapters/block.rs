//! A virtio disk as a block device of the storage stack.

use alloc::string::String;

use holdfast_drivers::virtio::blk::{Block, BlockError, Extent, Operation, Request};
use holdfast_drivers::virtio::{Device, Error};
use holdfast_fs::block::{Bio, BlockDevice, DeviceInfo, IoError, Op, SECTOR_SIZE};

/// A bio in the driver's hands: it keeps its pages until the device is through with them.
struct BioRequest(Bio);

// SAFETY: a bio holds references to its pages, and nobody changes its segments while the
// driver has it; the submitter gave the pages' contents to the transfer.
unsafe impl Request for BioRequest {
    fn operation(&self) -> Operation {
        let sector = self.0.sector.0;
        // The queue splits what is longer than the device's limit, which is below this.
        let sectors = (self.0.length_bytes / SECTOR_SIZE) as u32;
        match self.0.op {
            Op::Read => Operation::Read { sector },
            Op::Write => Operation::Write { sector },
            Op::Flush => Operation::Flush,
            Op::Discard => Operation::Discard { sector, sectors },
            Op::WriteZeroes => Operation::WriteZeroes { sector, sectors },
        }
    }
    fn extents(&self, tell: &mut dyn FnMut(Extent)) {
        for s in &self.0.segments {
            tell(Extent { phys: s.page.phys_addr() + u64::from(s.offset), len: s.len });
        }
    }
    fn complete(self, result: Result<(), BlockError>) {
        self.0.complete(result.map_err(|e| match e {
            BlockError::Io => IoError::Device,
            BlockError::Unsupported => IoError::Unsupported,
            BlockError::Gone => IoError::Gone,
        }));
    }
}

/// A virtio disk.
pub struct VirtioDisk {
    name: String,
    block: Block<BioRequest>,
}

impl VirtioDisk {
    /// Take the device into service under this name.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(device: Device, name: &str) -> Result<Self, Error> {
        Ok(Self { name: name.into(), block: Block::new(device, name)? })
    }
}

impl BlockDevice for VirtioDisk {
    fn info(&self) -> DeviceInfo {
        let p = self.block.properties();
        DeviceInfo {
            name: self.name.clone(),
            capacity_sectors: self.block.capacity_sectors(),
            logical_block_bytes: p.logical_block_bytes,
            max_segments: p.max_segments,
            max_bytes: p.max_bytes,
            max_range_bytes: p.max_range_bytes,
            readonly: p.readonly,
            volatile_cache: p.volatile_cache,
            discard: p.discard,
            write_zeroes: p.write_zeroes,
            queue_depth: usize::from(p.queue_depth) * usize::from(p.queues),
            queues: usize::from(p.queues),
        }
    }
    fn submit(&self, bio: Bio) {
        self.block.submit(BioRequest(bio));
    }
    fn kick(&self) {
        self.block.kick();
    }
    fn capacity_sectors(&self) -> u64 {
        self.block.capacity_sectors()
    }
}
