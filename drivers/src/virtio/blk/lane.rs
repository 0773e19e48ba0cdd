//! One queue of a disk: the requests in the device's hands and those that wait for room.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicBool, Ordering};

use super::config::Properties;
use super::{BlockError, Operation, Request};
use crate::hardware::{DmaPages, PAGE_SIZE};
use crate::virtio::VIRTQUEUE;
use crate::virtio::link::{Doorbell, Signal};
use crate::virtio::ring::{Chain, Ring, Used};

/// Requests completed between two looks at the lock.
const BATCH: usize = 64;
/// Additions after which the device is told without waiting for a kick.
const UNTOLD_LIMIT: u32 = 16;

/// Bytes of a slot's frame: what a chain has besides the submitter's memory.
const FRAME_BYTES: usize = 64;
/// In a frame: operation, reserved, sector.
const HEADER: usize = 0;
const HEADER_BYTES: usize = 16;
/// In a frame: sector, sectors, flags of a discard or write-zeroes.
const RANGE: usize = 16;
const RANGE_BYTES: usize = 16;
/// In a frame: how it ended, by the device.
const STATUS: usize = 32;

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// What no device writes.
const STATUS_NONE: u8 = 0xff;

/// One queue.
pub(super) struct Lane<R> {
    state: Mutex<State<R>>,
    signal: Arc<Signal>,
    doorbell: Doorbell,
    /// Added since the device was last told.
    untold: AtomicBool,
}

struct State<R> {
    ring: Ring,
    /// The requests in the device's hands, by slot.
    slots: Vec<Option<R>>,
    free: Vec<u16>,
    /// Requests that wait for a slot, oldest first.
    backlog: VecDeque<R>,
    frames: Frames,
    chain: Chain,
    untold: u32,
    max_extent: u32,
    /// The device is out of service; the ring means nothing any more.
    abandoned: bool,
}

/// What a look at the queue found.
pub(super) struct Batch {
    /// The device broke the rules.
    pub(super) violation: bool,
}

impl<R: Request> Lane<R> {
    pub(super) fn new(
        ring: Ring,
        signal: Arc<Signal>,
        doorbell: Doorbell,
        properties: &Properties,
    ) -> Option<Self> {
        let size = ring.size();
        let state = State {
            slots: (0..size).map(|_| None).collect(),
            free: (0..size).rev().collect(),
            backlog: VecDeque::new(),
            frames: Frames::new(size)?,
            chain: Chain::default(),
            untold: 0,
            abandoned: false,
            max_extent: properties.max_extent,
            ring,
        };
        Some(Self {
            state: Mutex::new(&VIRTQUEUE, state),
            signal,
            doorbell,
            untold: AtomicBool::new(false),
        })
    }
    pub(super) fn signal(&self) -> &Signal {
        &self.signal
    }
    /// Take a request, unless the device is out of service.
    pub(super) fn submit(&self, request: R) {
        let (refused, ring) = {
            let mut state = self.state.lock();
            if state.abandoned {
                (Some((request, BlockError::Gone)), false)
            } else if state.backlog.is_empty() {
                let refused = state.start_or_queue(request);
                self.untold.store(state.untold > 0, Ordering::SeqCst);
                (refused, state.untold >= UNTOLD_LIMIT && state.tell())
            } else {
                state.backlog.push_back(request);
                (None, false)
            }
        };
        if ring {
            (self.doorbell)();
        }
        if let Some((request, error)) = refused {
            request.complete(Err(error));
        }
    }
    /// Tell the device of what was added.
    pub(super) fn kick(&self) {
        // Whoever added left this set; another's kick may have been first.
        if self.untold.load(Ordering::SeqCst) {
            self.untold.store(false, Ordering::SeqCst);
            let ring = {
                let mut state = self.state.lock();
                state.untold > 0 && state.tell()
            };
            if ring {
                (self.doorbell)();
            }
        }
    }
    /// Take a batch of ended requests into `ended` and start waiting ones. Nothing when the
    /// device gave nothing back; its interrupts are then on.
    pub(super) fn reap(&self, ended: &mut Vec<(R, Result<(), BlockError>)>) -> Option<Batch> {
        let mut state = self.state.lock();
        if state.abandoned {
            return None;
        }
        state.ring.set_interrupts(false);
        let violation = state.take_used(ended);
        if ended.is_empty() && !violation {
            state.ring.set_interrupts(true);
            // What was used before interrupts were on raised none.
            return state.ring.has_used().then_some(Batch { violation });
        }
        state.start_backlog(ended);
        let ring = state.untold > 0 && state.tell();
        drop(state);
        if ring {
            (self.doorbell)();
        }
        Some(Batch { violation })
    }
    /// Everything not yet ended. Only after the device was reset.
    pub(super) fn abandon(&self) -> Vec<R> {
        let mut state = self.state.lock();
        state.abandoned = true;
        let State { slots, backlog, .. } = &mut *state;
        slots.iter_mut().filter_map(Option::take).chain(backlog.drain(..)).collect()
    }
}

impl<R: Request> State<R> {
    /// Start a request or let it wait for room. Gives back one that can never start.
    fn start_or_queue(&mut self, request: R) -> Option<(R, BlockError)> {
        match self.start(request) {
            Ok(()) => None,
            Err((request, None)) => {
                self.backlog.push_back(request);
                None
            }
            Err((request, Some(error))) => Some((request, error)),
        }
    }
    /// Give a request to the device. Without an error, it is given back for lack of room.
    fn start(&mut self, request: R) -> Result<(), (R, Option<BlockError>)> {
        let Some(&slot) = self.free.last() else { return Err((request, None)) };
        self.frames.prepare(slot, request.operation());
        build(&mut self.chain, &self.frames, slot, &request, self.max_extent);
        if self.chain.len() > usize::from(self.ring.size()) {
            return Err((request, Some(BlockError::Unsupported)));
        }
        if !self.ring.has_room(self.chain.len()) {
            return Err((request, None));
        }
        // SAFETY: the frame belongs to this slot and the memory to the request, which stays in
        // its slot until the ring gave the slot back or the device was reset.
        match unsafe { self.ring.add(slot, &mut self.chain) } {
            Ok(()) => {
                self.free.pop();
                self.slots[usize::from(slot)] = Some(request);
                self.untold += 1;
                Ok(())
            }
            Err(_) => Err((request, Some(BlockError::Unsupported))),
        }
    }
    fn start_backlog(&mut self, ended: &mut Vec<(R, Result<(), BlockError>)>) {
        while let Some(request) = self.backlog.pop_front() {
            match self.start(request) {
                Ok(()) => {}
                Err((request, None)) => return self.backlog.push_front(request),
                Err((request, Some(error))) => ended.push((request, Err(error))),
            }
        }
    }
    /// Take up to a batch of what the device gave back. True if it broke the rules.
    fn take_used(&mut self, ended: &mut Vec<(R, Result<(), BlockError>)>) -> bool {
        let Self { ring, slots, free, frames, chain, max_extent, .. } = self;
        while ended.len() < BATCH {
            let rebuild = |slot: u16, chain: &mut Chain| {
                if let Some(request) = &slots[usize::from(slot)] {
                    build(chain, frames, slot, request, *max_extent);
                }
            };
            // The length is the device's word and says nothing we need: the status counts.
            match ring.take(chain, rebuild) {
                None => return false,
                Some(Used::Violation) => return true,
                Some(Used::Slot(slot, _)) => {
                    let result = frames.result(slot);
                    free.push(slot);
                    ended.extend(slots[usize::from(slot)].take().map(|r| (r, result)));
                }
            }
        }
        false
    }
    /// Note that the device is told now. Must the doorbell be rung for that?
    fn tell(&mut self) -> bool {
        self.untold = 0;
        self.ring.wants_doorbell()
    }
}

/// The chain of a request: header, what the device reads, what it writes, status.
fn build<R: Request>(chain: &mut Chain, frames: &Frames, slot: u16, request: &R, limit: u32) {
    chain.clear();
    chain.push_readable(frames.part(slot, HEADER, HEADER_BYTES));
    match request.operation() {
        Operation::Read { .. } => chain.push_extents(true, limit, |tell| request.extents(tell)),
        Operation::Write { .. } => chain.push_extents(false, limit, |tell| request.extents(tell)),
        Operation::Flush => {}
        Operation::Discard { .. } | Operation::WriteZeroes { .. } => {
            chain.push_readable(frames.part(slot, RANGE, RANGE_BYTES));
        }
    }
    chain.push_writable(frames.part(slot, STATUS, 1));
}

/// The words of a frame for an operation: header, then range.
fn encode(operation: Operation) -> [u8; HEADER_BYTES + RANGE_BYTES] {
    let (kind, sector, range): (u32, u64, _) = match operation {
        Operation::Read { sector } => (0, sector, None),
        Operation::Write { sector } => (1, sector, None),
        Operation::Flush => (4, 0, None),
        Operation::Discard { sector, sectors } => (11, 0, Some((sector, sectors))),
        Operation::WriteZeroes { sector, sectors } => (13, 0, Some((sector, sectors))),
    };
    let mut out = [0; HEADER_BYTES + RANGE_BYTES];
    out[0..4].copy_from_slice(&kind.to_le_bytes());
    out[8..16].copy_from_slice(&sector.to_le_bytes());
    if let Some((sector, sectors)) = range {
        out[16..24].copy_from_slice(&sector.to_le_bytes());
        out[24..28].copy_from_slice(&sectors.to_le_bytes());
    }
    out
}

/// The frames of all slots, in memory of the device's.
struct Frames(Vec<DmaPages>);

impl Frames {
    const PER_PAGE: usize = PAGE_SIZE / FRAME_BYTES;

    fn new(slots: u16) -> Option<Self> {
        let pages = usize::from(slots).div_ceil(Self::PER_PAGE);
        (0..pages).map(|_| DmaPages::new(1)).collect::<Option<_>>().map(Self)
    }
    fn part(&self, slot: u16, offset: usize, bytes: usize) -> core::ptr::NonNull<[u8]> {
        let slot = usize::from(slot);
        let start = slot % Self::PER_PAGE * FRAME_BYTES;
        self.0[slot / Self::PER_PAGE].part(start + offset, bytes)
    }
    /// Fill in a frame that the device does not have.
    fn prepare(&mut self, slot: u16, operation: Operation) {
        let words = encode(operation);
        let head = self.part(slot, HEADER, words.len()).cast::<[u8; HEADER_BYTES + RANGE_BYTES]>();
        // SAFETY: inside the frame; bytes need no alignment; the device does not have it.
        unsafe { head.write_volatile(words) };
        let status = self.part(slot, STATUS, 1).cast::<u8>();
        // SAFETY: as above.
        unsafe { status.write_volatile(STATUS_NONE) };
    }
    /// What the device said of a slot that it gave back.
    fn result(&self, slot: u16) -> Result<(), BlockError> {
        // SAFETY: inside the frame; any byte is a `u8`.
        match unsafe { self.part(slot, STATUS, 1).cast::<u8>().read_volatile() } {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(BlockError::Unsupported),
            _ => Err(BlockError::Io),
        }
    }
}
