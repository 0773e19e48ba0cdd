//! An image file of the host as a disk.

use std::boxed::Box;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use super::executor::{Completion, Executor};
use crate::block::{Bio, BlockDevice, DeviceInfo, IoError, Op, SECTOR_SIZE};
use crate::platform::PAGE_SIZE;

/// Most bytes in one request; also the size of the buffer data passes through.
const MAX_BYTES: u64 = 1 << 20;

/// A disk whose sectors lie in a file of the host.
pub struct FileDisk {
    info: DeviceInfo,
    executor: Executor,
}

impl FileDisk {
    /// Open an image file. A length that is no multiple of a sector is cut.
    ///
    /// # Errors
    /// The host's, from opening the file.
    pub fn open(path: &Path, readonly: bool, completion: Completion) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().read(true).write(!readonly).open(path)?;
        let size_bytes = file.metadata()?.len();
        let name = path.file_name().map_or("file".into(), |n| n.to_string_lossy().into_owned());
        let info = DeviceInfo {
            name,
            capacity_sectors: size_bytes / SECTOR_SIZE,
            logical_block_bytes: SECTOR_SIZE as u32,
            max_segments: MAX_BYTES as usize / PAGE_SIZE,
            max_bytes: MAX_BYTES,
            max_range_bytes: u64::MAX,
            readonly,
            volatile_cache: true,
            discard: false,
            write_zeroes: true,
            queue_depth: 128,
            queues: 1,
        };
        let execute = Box::new(move |bio: &Bio| execute(&file, bio).map_err(|_| IoError::Device));
        let executor = Executor::new(&info.name, completion, execute);
        Ok(Arc::new(Self { info, executor }))
    }
}

fn execute(file: &File, bio: &Bio) -> io::Result<()> {
    let at = bio.sector.0 * SECTOR_SIZE;
    match bio.op {
        Op::Read => {
            let mut buffer = vec![0; bio.length_bytes as usize];
            file.read_exact_at(&mut buffer, at)?;
            let mut rest = buffer.as_slice();
            for s in &bio.segments {
                let (part, tail) = rest.split_at(s.len as usize);
                s.page.write(s.offset as usize, part);
                rest = tail;
            }
            Ok(())
        }
        Op::Write => {
            let mut buffer = vec![0; bio.length_bytes as usize];
            let mut rest = buffer.as_mut_slice();
            for s in &bio.segments {
                let (part, tail) = rest.split_at_mut(s.len as usize);
                s.page.read(s.offset as usize, part);
                rest = tail;
            }
            file.write_all_at(&buffer, at)
        }
        Op::Flush => file.sync_data(),
        Op::WriteZeroes => {
            let zeroes = vec![0; bio.length_bytes.min(MAX_BYTES) as usize];
            let mut done = 0;
            while done < bio.length_bytes {
                let part = (bio.length_bytes - done).min(MAX_BYTES);
                file.write_all_at(&zeroes[..part as usize], at + done)?;
                done += part;
            }
            Ok(())
        }
        Op::Discard => Err(io::ErrorKind::Unsupported.into()),
    }
}

impl BlockDevice for FileDisk {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }
    fn submit(&self, bio: Bio) {
        self.executor.submit(bio);
    }
    fn capacity_sectors(&self) -> u64 {
        self.info.capacity_sectors
    }
}
