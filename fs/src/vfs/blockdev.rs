//! A block device as a file: transfers straight between the device and the caller,
//! past the page cache, each byte copied once.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::{Condvar, Mutex};

use super::{ByteSink, ByteSource, DeviceFile};
use crate::block::{Bio, BioFlags, IoError, Op, Queue, SECTOR_SIZE, Sector, Segment};
use crate::iomap::{Sink, Source};
use crate::platform::{Memory, PAGE_SIZE, Page};
use crate::{Error, Result, locks};

/// The largest request an ordinary read or write is cut into.
const REQUEST_BYTES: usize = 1 << 20;
/// How many of them are in flight.
const DEPTH: usize = 4;

/// What [`BlockNode::transfer`] is to do. Positions and lengths are multiples of the
/// device's block.
#[derive(Clone, Copy, Debug)]
pub struct RawTransfer {
    /// First byte on the device.
    pub pos: u64,
    /// Bytes in all.
    pub len: u64,
    /// Bytes in one request (the last may be shorter).
    pub request_bytes: usize,
    /// Requests in flight.
    pub depth: usize,
}

/// A block device's node.
pub struct BlockNode {
    queue: Arc<Queue>,
    memory: Arc<dyn Memory>,
    rdev: u64,
}

/// One request in flight.
struct Request {
    pages: Vec<Page>,
    len: usize,
    end: Arc<End>,
}

/// Where a completion leaves its result.
struct End {
    result: Mutex<Option<Result<(), IoError>>>,
    changed: Condvar,
}

impl End {
    fn new() -> Arc<Self> {
        let result = Mutex::new(&locks::STATE, None);
        Arc::new(Self { result, changed: Condvar::new() })
    }
    fn set(&self, result: Result<(), IoError>) {
        *self.result.lock() = Some(result);
        self.changed.notify_all();
    }
    fn wait(&self) -> Result<(), IoError> {
        let result = self.changed.wait_until(self.result.lock(), |r| r.is_some());
        result.unwrap_or(Err(IoError::Gone))
    }
}

impl BlockNode {
    /// The node of the device behind `queue`; transfers go through pages of `memory`.
    pub fn new(queue: Arc<Queue>, memory: Arc<dyn Memory>, major: u32, minor: u32) -> Arc<Self> {
        Arc::new(Self { queue, memory, rdev: super::device_number(major, minor) })
    }
    /// The device's queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
    /// The memory that transfers go through.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }
    /// The unit of positions and lengths, in bytes.
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.queue.info().logical_block_bytes)
    }
    fn capacity_bytes(&self) -> u64 {
        self.queue.capacity_sectors().saturating_mul(SECTOR_SIZE)
    }
    fn pages(&self, bytes: usize) -> Result<Vec<Page>> {
        let page = |_| self.memory.alloc_page().ok_or(Error::NoMemory);
        (0..bytes.div_ceil(PAGE_SIZE)).map(page).collect()
    }
    fn launch(&self, op: Op, pos: u64, pages: Vec<Page>, len: usize) -> Request {
        let end = End::new();
        let theirs = end.clone();
        let done = Box::new(move |result| theirs.set(result));
        let (sector, segments) = (Sector(pos / SECTOR_SIZE), Segment::cover(&pages, len));
        self.queue.submit(Bio::transfer(op, sector, segments, BioFlags::SYNC, done));
        Request { pages, len, end }
    }
    /// Move data with several requests in flight. `each(pages, bytes)` gets, in order, the
    /// pages of every request: after they were read, or to fill them before they are
    /// written. The bytes moved.
    ///
    /// # Errors
    /// Invalid for a plan that is not aligned; those of the device and of `each`, after
    /// the requests in flight have ended.
    pub fn transfer(
        &self,
        op: Op,
        plan: RawTransfer,
        each: &mut dyn FnMut(&[Page], usize) -> Result<()>,
    ) -> Result<u64> {
        let block = self.block_bytes();
        let unit = plan.request_bytes as u64;
        if unit == 0 || plan.depth == 0 || !(plan.pos | plan.len | unit).is_multiple_of(block) {
            return Err(Error::Invalid("not a multiple of the device's block"));
        }
        let mut flight: VecDeque<Request> = VecDeque::with_capacity(plan.depth);
        let mut spare: Vec<Vec<Page>> = Vec::new();
        let (mut launched, mut moved) = (0, 0);
        let mut result = Ok(());
        while moved < plan.len && result.is_ok() {
            while launched < plan.len && flight.len() < plan.depth {
                let len = unit.min(plan.len - launched) as usize;
                let pages = match spare.pop().map_or_else(|| self.pages(len), Ok) {
                    Ok(pages) => pages,
                    // What is in flight gives its pages back.
                    Err(_) if !flight.is_empty() => break,
                    Err(e) => return Err(e),
                };
                if op == Op::Write {
                    result = each(&pages, len);
                }
                if result.is_err() {
                    break;
                }
                flight.push_back(self.launch(op, plan.pos + launched, pages, len));
                launched += len as u64;
            }
            let Some(request) = flight.pop_front() else { break };
            if let Err(e) = request.end.wait() {
                result = Err(e.into());
                break;
            }
            moved += request.len as u64;
            if op == Op::Read {
                result = result.and_then(|()| each(&request.pages, request.len));
            }
            spare.push(request.pages);
        }
        for request in flight {
            let ended = request.end.wait();
            result = result.and(ended.map_err(Error::from));
        }
        result.map(|()| moved)
    }
    /// Write a range whose ends cut blocks: read those blocks first.
    fn write_unaligned(&self, pos: u64, source: &mut dyn ByteSource, len: usize) -> Result<usize> {
        let block = self.block_bytes();
        let mut done = 0;
        while done < len {
            let at = pos + done as u64;
            let (first, head) = (at - at % block, (at % block) as usize);
            let part = (len - done).min(REQUEST_BYTES - head);
            let whole = ((head + part) as u64).next_multiple_of(block) as usize;
            let pages = self.pages(whole)?;
            let (sector, cover) = (Sector(first / SECTOR_SIZE), Segment::cover(&pages, whole));
            self.queue.read_sync(sector, cover.clone(), BioFlags::empty())?;
            let taken = fill_pages(&pages, head, part, source);
            let got = *taken.as_ref().unwrap_or(&0);
            if got > 0 {
                self.queue.write_sync(sector, cover, BioFlags::empty())?;
            }
            done += got;
            match taken {
                Err(e) if done == 0 => return Err(e),
                Ok(n) if n == part => {}
                _ => break,
            }
        }
        Ok(done)
    }
}

/// Copy bytes `skip..skip + len` of `pages` to `sink`; short only if the buffer ends in
/// bad memory.
fn drain_pages(pages: &[Page], skip: usize, len: usize, sink: &mut dyn Sink) -> Result<usize> {
    let mut done = 0;
    while done < len {
        let at = skip + done;
        let part = (PAGE_SIZE - at % PAGE_SIZE).min(len - done);
        let n = sink.put(&pages[at / PAGE_SIZE], at % PAGE_SIZE, part);
        done += n;
        if n < part
            && let Err(e) = sink.fault_in()
        {
            return if done > 0 { Ok(done) } else { Err(e) };
        }
    }
    Ok(done)
}

/// Copy from `source` to bytes `skip..skip + len` of `pages`, likewise.
fn fill_pages(pages: &[Page], skip: usize, len: usize, source: &mut dyn Source) -> Result<usize> {
    let mut done = 0;
    while done < len {
        let at = skip + done;
        let part = (PAGE_SIZE - at % PAGE_SIZE).min(len - done);
        let n = source.take(&pages[at / PAGE_SIZE], at % PAGE_SIZE, part);
        done += n;
        if n < part
            && let Err(e) = source.fault_in()
        {
            return if done > 0 { Ok(done) } else { Err(e) };
        }
    }
    Ok(done)
}

impl DeviceFile for BlockNode {
    fn rdev(&self) -> u64 {
        self.rdev
    }
    fn read(&self, pos: u64, sink: &mut dyn ByteSink) -> Result<usize> {
        let left = self.capacity_bytes().saturating_sub(pos);
        let len = left.min(sink.remaining() as u64);
        if len == 0 {
            return Ok(0);
        }
        let block = self.block_bytes();
        let first = pos - pos % block;
        let whole = (pos + len).next_multiple_of(block).min(self.capacity_bytes()) - first;
        let plan =
            RawTransfer { pos: first, len: whole, request_bytes: REQUEST_BYTES, depth: DEPTH };
        let mut skip = (pos - first) as usize;
        let mut done = 0;
        let moved = self.transfer(Op::Read, plan, &mut |pages, bytes| {
            let part = (bytes - skip).min(len as usize - done);
            let got = drain_pages(pages, skip, part, sink)?;
            done += got;
            skip = 0;
            // A bad address in the middle of the buffer: what was read so far counts.
            if got < part { Err(Error::Fault) } else { Ok(()) }
        });
        match moved {
            Err(e) if done == 0 => Err(e),
            _ => Ok(done),
        }
    }
    fn write(&self, pos: u64, source: &mut dyn ByteSource) -> Result<usize> {
        if self.queue.info().readonly {
            return Err(Error::ReadOnly("the device is read-only"));
        }
        let left = self.capacity_bytes().saturating_sub(pos);
        let len = left.min(source.remaining() as u64) as usize;
        if len == 0 {
            return if source.remaining() == 0 { Ok(0) } else { Err(Error::NoSpace) };
        }
        if !(pos | len as u64).is_multiple_of(self.block_bytes()) {
            return self.write_unaligned(pos, source, len);
        }
        let plan = RawTransfer { pos, len: len as u64, request_bytes: REQUEST_BYTES, depth: DEPTH };
        let moved = self.transfer(Op::Write, plan, &mut |pages, bytes| {
            // Whole requests only: part of a block would be garbage on disk.
            let got = fill_pages(pages, 0, bytes, source)?;
            if got < bytes { Err(Error::Fault) } else { Ok(()) }
        });
        moved.map(|n| n as usize)
    }
    fn size(&self) -> Option<u64> {
        Some(self.capacity_bytes())
    }
    fn sync(&self) -> Result<()> {
        Ok(self.queue.flush()?)
    }
    fn block(&self) -> Option<&BlockNode> {
        Some(self)
    }
}
