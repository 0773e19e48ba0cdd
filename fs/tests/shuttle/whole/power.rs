//! What a device may hold when the power fails before some request is submitted.
//!
//! There is what had been written when the last flush that ended by then was submitted, and
//! what was written through. Of what was written since, each sector may be there or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::below;
use crate::xfsprogs::disk_over;
use holdfast_fs::block::{BioFlags, MemDisk, Op, SECTOR_SIZE, Sector, TraceEvent, TracedRequest};

struct Write {
    request: TracedRequest,
    ended: bool,
}

/// Writes that may be lost, by the numbers of their requests, and flushes on their way with
/// the writes that they will make durable.
struct Device {
    disk: Arc<MemDisk>,
    writes: BTreeMap<u64, Write>,
    flushes: BTreeMap<u64, Vec<u64>>,
}

/// Put what a request writes on a disk, of the sectors that `arrives` says.
fn put(disk: &MemDisk, request: &TracedRequest, mut arrives: impl FnMut() -> bool) {
    let zeros = vec![0; request.length_bytes as usize];
    let data = if request.op == Op::Write { &request.data[..] } else { &zeros };
    for (n, sector) in (request.sector.0..).zip(data.chunks_exact(SECTOR_SIZE as usize)) {
        if arrives() {
            disk.poke(Sector(n), sector);
        }
    }
}

impl Device {
    fn submit(&mut self, request: &TracedRequest) {
        if request.op == Op::Flush || request.flags.contains(BioFlags::PREFLUSH) {
            let ended = self.writes.iter().filter(|(_, write)| write.ended);
            self.flushes.insert(request.id, ended.map(|(id, _)| *id).collect());
        }
        if matches!(request.op, Op::Write | Op::WriteZeroes) {
            self.writes.insert(request.id, Write { request: request.clone(), ended: false });
        }
    }
    fn end(&mut self, id: u64) {
        for id in self.flushes.remove(&id).into_iter().flatten() {
            self.settle(id);
        }
        if let Some(write) = self.writes.get_mut(&id) {
            write.ended = true;
            if write.request.flags.contains(BioFlags::FUA) {
                self.settle(id);
            }
        }
    }
    fn settle(&mut self, id: u64) {
        if let Some(write) = self.writes.remove(&id) {
            put(&self.disk, &write.request, || true);
        }
    }
}

/// A disk over `image` after these events and a power cut before the request `before`.
pub fn cut(image: &Arc<Vec<u8>>, events: &[TraceEvent], before: u64) -> Arc<MemDisk> {
    let (writes, flushes) = (BTreeMap::new(), BTreeMap::new());
    let mut device = Device { disk: disk_over(image.clone()), writes, flushes };
    for event in events {
        match event {
            TraceEvent::Submitted(request) if request.id >= before => break,
            TraceEvent::Submitted(request) => device.submit(request),
            TraceEvent::Completed { id, result } => {
                assert!(result.is_ok(), "no request fails");
                device.end(*id);
            }
        }
    }
    // None, some or all of the sectors of each.
    for write in device.writes.values() {
        let chance = [0, 50, 100][below(3)];
        put(&device.disk, &write.request, || below(100) < chance);
    }
    device.disk
}
