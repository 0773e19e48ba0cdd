//! A machine and a virtio device of host memory, for tests. Physical addresses are the
//! host's. The device checks what the driver does, and can be told to misbehave.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Error;
use super::link::{Doorbell, Link, Signal};
use crate::hardware::{self, Handler, Hardware, Message, PAGE_SIZE};

struct HostMachine;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap()
}

// SAFETY: memory of the host's allocator, at its own addresses.
unsafe impl Hardware for HostMachine {
    fn dma_alloc(&self, pages: usize) -> Option<(u64, NonNull<u8>)> {
        // SAFETY: not of size zero.
        let virt = NonNull::new(unsafe { alloc_zeroed(layout(pages)) })?;
        Some((virt.as_ptr().expose_provenance() as u64, virt))
    }
    unsafe fn dma_free(&self, _phys: u64, virt: NonNull<u8>, pages: usize) {
        // SAFETY: from `dma_alloc`.
        unsafe { dealloc(virt.as_ptr(), layout(pages)) };
    }
    fn map_registers(&self, _phys: u64, _bytes: usize) -> Option<NonNull<u8>> {
        None
    }
    fn phys_to_virt(&self, phys: u64) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(phys as usize)).unwrap()
    }
    fn virt_to_phys(&self, virt: NonNull<u8>) -> u64 {
        virt.as_ptr().expose_provenance() as u64
    }
    fn message_interrupt(&self, _cpu: usize, _handler: Handler) -> Option<Message> {
        None
    }
    fn wired_interrupt(&self, _gsi: u32, _handler: Handler) -> bool {
        false
    }
    fn port_read(&self, _port: u16) -> u32 {
        u32::MAX
    }
    fn port_write(&self, _port: u16, _value: u32) {}
}

/// One descriptor as the device reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) phys: u64,
    pub(super) len: u32,
    pub(super) writable: bool,
}

impl Piece {
    pub(super) fn read(self) -> Vec<u8> {
        assert!(!self.writable, "the device reads what it may only write");
        let from = hardware::get().phys_to_virt(self.phys);
        let mut out = vec![0; self.len as usize];
        // SAFETY: the driver says so; that is what the test is about.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), out.len()) };
        out
    }
    pub(super) fn write(self, src: &[u8]) {
        assert!(self.writable && src.len() <= self.len as usize);
        let to = hardware::get().phys_to_virt(self.phys);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), to.as_ptr(), src.len()) };
    }
}

/// A chain the driver gave: its token and its pieces, readable ones first.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) token: u16,
    pub(super) pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Default)]
struct Queue {
    size: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    next_available: u16,
}

const INDIRECT: u16 = 4;
const WRITE: u16 = 2;
const NEXT: u16 = 1;

fn load<T: Copy>(address: u64) -> T {
    // SAFETY: an address the driver gave for this.
    unsafe { hardware::get().phys_to_virt(address).cast::<T>().read_volatile() }
}
fn store<T>(address: u64, value: T) {
    // SAFETY: as above.
    unsafe { hardware::get().phys_to_virt(address).cast::<T>().write_volatile(value) };
}

impl Queue {
    fn walk(&self, table: u64, size: u16, head: u16, depth: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut index = head;
        loop {
            assert!(index < size, "descriptor {index} of {size}");
            assert!(pieces.len() < usize::from(self.size), "a chain longer than the queue");
            let at = table + u64::from(index) * 16;
            let (phys, len): (u64, u32) = (load(at), load(at + 8));
            let (flags, next): (u16, u16) = (load(at + 12), load(at + 14));
            assert!(len > 0, "an empty descriptor");
            if flags & INDIRECT != 0 {
                assert_eq!((depth, flags), (0, INDIRECT), "an indirect table in a wrong place");
                return self.walk(phys, (len / 16) as u16, 0, 1);
            }
            pieces.push(Piece { phys, len, writable: flags & WRITE != 0 });
            if flags & NEXT == 0 {
                assert!(pieces.is_sorted_by_key(|p| p.writable), "readable after writable");
                return pieces;
            }
            index = next;
        }
    }
    fn next(&mut self) -> Option<Given> {
        let available: u16 = load(self.driver + 2);
        if available == self.next_available {
            return None;
        }
        let slot = self.next_available % self.size;
        self.next_available = self.next_available.wrapping_add(1);
        let token: u16 = load(self.driver + 4 + u64::from(slot) * 2);
        let pieces = self.walk(self.descriptors, self.size, token, 0);
        Some(Given { token, pieces })
    }
    fn give_back(&self, id: u32, len: u32) {
        let index: u16 = load(self.device + 2);
        let entry = self.device + 4 + u64::from(index % self.size) * 8;
        store(entry, id);
        store(entry + 4, len);
        store(self.device + 2, index.wrapping_add(1));
    }
}

/// What the device does with a chain: the bytes it says it wrote, or nothing to keep it.
pub(super) type Serve = Box<dyn FnMut(u16, &Given) -> Option<u32> + Send>;

struct State {
    kind: DeviceType,
    offered: u64,
    agreed: u64,
    status: DeviceStatus,
    config: Vec<u8>,
    queue_size: u16,
    queues: BTreeMap<u16, Queue>,
    signals: Vec<Arc<Signal>>,
    doorbells: u32,
    /// With this, a doorbell does nothing until [`FakeDevice::run`].
    manual: bool,
}

/// The device's end, shared by the transport, the link and the test.
#[derive(Clone)]
pub(super) struct FakeDevice(Arc<Mutex<State>>, Arc<Mutex<Serve>>);

impl FakeDevice {
    pub(super) fn new(
        kind: DeviceType,
        offered: u64,
        config: Vec<u8>,
        queue_size: u16,
        serve: Serve,
    ) -> Self {
        hardware::set(&HostMachine);
        let state = State {
            kind,
            offered,
            agreed: 0,
            status: DeviceStatus::empty(),
            config,
            queue_size,
            queues: BTreeMap::new(),
            signals: Vec::new(),
            doorbells: 0,
            manual: false,
        };
        Self(Arc::new(Mutex::new(state)), Arc::new(Mutex::new(serve)))
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn link(&self) -> Box<dyn Link> {
        Box::new(FakeLink(self.clone()))
    }
    pub(super) fn set_manual(&self, manual: bool) {
        self.state().manual = manual;
    }
    pub(super) fn agreed(&self) -> u64 {
        self.state().agreed
    }
    pub(super) fn is_reset(&self) -> bool {
        self.state().status.is_empty()
    }
    pub(super) fn doorbells(&self) -> u32 {
        self.state().doorbells
    }
    /// Work off what queue `index` holds, then interrupt if the driver wants that.
    pub(super) fn run(&self, index: u16) {
        // One run at a time, as a device works.
        let mut serve = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut queue) = self.state().queues.get(&index).copied() else { return };
        let mut used = false;
        while let Some(given) = queue.next() {
            if let Some(len) = serve(index, &given) {
                queue.give_back(u32::from(given.token), len);
                used = true;
            }
        }
        if let Some(kept) = self.state().queues.get_mut(&index) {
            kept.next_available = queue.next_available;
        }
        drop(serve);
        if used && load::<u16>(queue.driver) & 1 == 0 {
            self.interrupt(index);
        }
    }
    /// Say that a chain is done, true or not.
    pub(super) fn give_back(&self, index: u16, id: u32, len: u32) {
        let queue = self.state().queues[&index];
        queue.give_back(id, len);
    }
    /// Move the index of the used ring, true or not.
    pub(super) fn skip_used(&self, index: u16, by: u16) {
        let queue = self.state().queues[&index];
        let now: u16 = load(queue.device + 2);
        store(queue.device + 2, now.wrapping_add(by));
    }
    pub(super) fn interrupt(&self, index: u16) {
        let signal = self.state().signals[usize::from(index)].clone();
        signal.raise(Signal::QUEUE);
    }
    pub(super) fn change_config(&self, at: usize, bytes: &[u8], needs_reset: bool) {
        let signal = {
            let mut state = self.state();
            state.config[at..at + bytes.len()].copy_from_slice(bytes);
            state.status.set(DeviceStatus::DEVICE_NEEDS_RESET, needs_reset);
            state.signals[0].clone()
        };
        signal.raise(Signal::CONFIG);
    }
}

struct FakeLink(FakeDevice);

impl Link for FakeLink {
    fn connect(&mut self, signals: &[Arc<Signal>]) -> Result<(), Error> {
        self.0.state().signals = signals.to_vec();
        Ok(())
    }
    fn doorbell(&mut self, queue: u16) -> Result<Doorbell, Error> {
        let device = self.0.clone();
        Ok(Box::new(move || {
            let manual = {
                let mut state = device.state();
                state.doorbells += 1;
                state.manual
            };
            if !manual {
                device.run(queue);
            }
        }))
    }
}

/// The driver's end.
pub(super) struct FakeTransport(pub(super) FakeDevice);

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        self.0.state().kind
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.state().offered
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.state().agreed = driver_features;
    }
    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        self.0.state().queue_size.into()
    }
    fn notify(&mut self, _queue: u16) {
        unreachable!("the driver has doorbells");
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.state().status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let mut state = self.0.state();
        state.status = status;
        if status.is_empty() {
            state.queues.clear();
        }
    }
    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        let size = size as u16;
        let queue_state = Queue { size, descriptors, driver, device, next_available: 0 };
        self.0.state().queues.insert(queue, queue_state);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.state().queues.remove(&queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.state().queues.contains_key(&queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> Result<T, virtio_drivers::Error> {
        let state = self.0.state();
        let bytes = state.config.get(offset..offset + size_of::<T>());
        let bytes = bytes.ok_or(virtio_drivers::Error::ConfigSpaceTooSmall)?;
        T::read_from_bytes(bytes).map_err(|_| virtio_drivers::Error::ConfigSpaceTooSmall)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> Result<(), virtio_drivers::Error> {
        Ok(())
    }
}
