//! The kernel heap.
//!
//! Objects up to 2 KiB belong to a size class. Each processor has a magazine of free
//! objects a class, used without lock or atomic; a depot a class, shared, takes
//! surplus and hands out batches; an empty depot cuts up a fresh frame. An object of a
//! page is a frame. Larger ones come from one linked list
//! (`linked_list_allocator`), whose area grows by mapping frames.
//!
//! [`statistics`] tells how often each path was taken; a hot path should only ever
//! take the first.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::layout::{HEAP, PAGE, PAGE_SIZE, direct, direct_to_phys};
use super::{frames, paging};
use crate::arch::percpu::{self, NoPreempt};
use crate::spinlock::SpinLock;

/// Object sizes; each a multiple of 16.
const CLASSES: [u16; 21] = [
    16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1344,
    2048,
];
const LARGEST: usize = 2048;
/// Class of every size, by sixteen bytes.
const CLASS_OF: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let (mut i, mut class) = (0, 0);
    while i < table.len() {
        if i * 16 > CLASSES[class] as usize {
            class += 1;
        }
        table[i] = class as u8;
        i += 1;
    }
    table
};

/// Objects of a class a magazine may hold; half of them move at a time.
const fn magazine_limit(class: usize) -> u32 {
    let n = 16 * 1024 / CLASSES[class] as u32;
    if n < 8 {
        8
    } else if n > 128 {
        128
    } else {
        n
    }
}

const LIMITS: [u32; CLASSES.len()] = {
    let mut limits = [0; CLASSES.len()];
    let mut class = 0;
    while class < limits.len() {
        limits[class] = magazine_limit(class);
        class += 1;
    }
    limits
};

/// A list of free objects, linked through their first words.
#[derive(Clone, Copy)]
struct FreeList {
    head: *mut FreeObject,
    count: u32,
}
struct FreeObject {
    next: *mut FreeObject,
}

// SAFETY: free objects belong to whoever has the list.
unsafe impl Send for FreeList {}

impl FreeList {
    const EMPTY: Self = Self { head: core::ptr::null_mut(), count: 0 };
    #[inline]
    fn pop(&mut self) -> *mut u8 {
        let object = self.head;
        if !object.is_null() {
            // SAFETY: listed objects are free memory of at least a word.
            self.head = unsafe { (*object).next };
            self.count -= 1;
        }
        object.cast()
    }
    #[inline]
    fn push(&mut self, object: *mut u8) {
        let object: *mut FreeObject = object.cast();
        // SAFETY: the caller gives the object up; it is at least a word.
        unsafe { (*object).next = self.head };
        self.head = object;
        self.count += 1;
    }
    fn take_from(&mut self, other: &mut Self, count: u32) {
        for _ in 0..count {
            let object = other.pop();
            if object.is_null() {
                break;
            }
            self.push(object);
        }
    }
}

/// A processor's free objects.
pub struct HeapMagazines {
    lists: [FreeList; CLASSES.len()],
}

impl HeapMagazines {
    pub(crate) const fn new() -> Self {
        Self { lists: [FreeList::EMPTY; CLASSES.len()] }
    }
}

static DEPOTS: [SpinLock<FreeList>; CLASSES.len()] =
    [const { SpinLock::new(FreeList::EMPTY) }; CLASSES.len()];

struct Large {
    list: linked_list_allocator::Heap,
    /// End of what is mapped.
    top: u64,
}
static LARGE: SpinLock<Large> =
    SpinLock::new(Large { list: linked_list_allocator::Heap::empty(), top: HEAP });
/// The area grows by at least this, so that small needs do not map single pages.
const GROWTH: u64 = 64 * 1024;

static DEPOT_TRIPS: AtomicU64 = AtomicU64::new(0);
static SLAB_FRAMES: AtomicU64 = AtomicU64::new(0);
static LIST_ALLOCS: AtomicU64 = AtomicU64::new(0);
static LIST_FREES: AtomicU64 = AtomicU64::new(0);

/// How often the slower paths were taken since boot, and what the heap holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStatistics {
    /// A magazine was refilled from, or emptied into, a depot.
    pub depot_trips: u64,
    /// Frames cut into objects of a size class.
    pub slab_frames: u64,
    /// Allocations that walked the linked list.
    pub list_allocs: u64,
    /// Frees that walked the linked list.
    pub list_frees: u64,
    /// Bytes allocated from the linked list.
    pub list_used_bytes: u64,
    /// Bytes the linked list manages.
    pub list_size_bytes: u64,
}

/// The heap's counters.
pub fn statistics() -> HeapStatistics {
    let (used, size) = {
        let large = LARGE.lock();
        (large.list.used() as u64, large.list.size() as u64)
    };
    HeapStatistics {
        depot_trips: DEPOT_TRIPS.load(Ordering::Relaxed),
        slab_frames: SLAB_FRAMES.load(Ordering::Relaxed),
        list_allocs: LIST_ALLOCS.load(Ordering::Relaxed),
        list_frees: LIST_FREES.load(Ordering::Relaxed),
        list_used_bytes: used,
        list_size_bytes: size,
    }
}

enum Kind {
    Class(usize),
    Frame,
    Large,
}

#[inline]
fn kind(layout: Layout) -> Kind {
    let size = if layout.align() <= 16 {
        layout.size()
    } else {
        // Objects of a power of two lie at multiples of it.
        layout.size().max(layout.align()).next_power_of_two()
    };
    if size <= LARGEST {
        Kind::Class(CLASS_OF[size.div_ceil(16)] as usize)
    } else if size <= PAGE_SIZE {
        Kind::Frame
    } else {
        Kind::Large
    }
}

#[inline]
fn alloc_object(class: usize) -> *mut u8 {
    let pin = NoPreempt::new();
    if percpu::in_interrupt() {
        let mut one = FreeList::EMPTY;
        refill(class, &mut one, 1);
        return one.pop();
    }
    // SAFETY: this processor's, preemption is off and interrupts do not touch it.
    let list = unsafe { &mut (*pin.cpu().heap.get()).lists[class] };
    if list.head.is_null() {
        refill(class, list, LIMITS[class] / 2);
    }
    list.pop()
}

#[inline]
fn free_object(class: usize, object: *mut u8) {
    let pin = NoPreempt::new();
    if percpu::in_interrupt() {
        return DEPOTS[class].lock().push(object);
    }
    // SAFETY: this processor's, preemption is off and interrupts do not touch it.
    let list = unsafe { &mut (*pin.cpu().heap.get()).lists[class] };
    list.push(object);
    if list.count > LIMITS[class] {
        DEPOT_TRIPS.fetch_add(1, Ordering::Relaxed);
        DEPOTS[class].lock().take_from(list, LIMITS[class] / 2);
    }
}

/// Move up to `count` objects from the depot to `list`, cutting a frame if it is empty.
#[cold]
fn refill(class: usize, list: &mut FreeList, count: u32) {
    DEPOT_TRIPS.fetch_add(1, Ordering::Relaxed);
    let mut depot = DEPOTS[class].lock();
    if depot.count == 0 {
        // Without the lock: the frame allocator may spin.
        drop(depot);
        let Some(frame) = frames::alloc() else { return };
        SLAB_FRAMES.fetch_add(1, Ordering::Relaxed);
        depot = DEPOTS[class].lock();
        let size = CLASSES[class] as usize;
        for i in 0..PAGE_SIZE / size {
            // SAFETY: inside the fresh frame.
            depot.push(unsafe { direct(frame).add(i * size) });
        }
    }
    list.take_from(&mut depot, count);
}

#[cold]
fn alloc_large(layout: Layout) -> *mut u8 {
    LIST_ALLOCS.fetch_add(1, Ordering::Relaxed);
    let mut large = LARGE.lock();
    if let Ok(p) = large.list.allocate_first_fit(layout) {
        return p.as_ptr();
    }
    let need = (layout.size() + layout.align()) as u64 + PAGE;
    if !grow(&mut large, need.max(GROWTH)) && !grow(&mut large, need) {
        return core::ptr::null_mut();
    }
    large.list.allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
}

/// Map `bytes` more behind the area. False if there is not enough memory.
fn grow(large: &mut Large, bytes: u64) -> bool {
    let pages = bytes.div_ceil(PAGE);
    if pages + 8 > frames::free_count() {
        return false;
    }
    let start = large.top;
    for i in 0..pages {
        let Some(frame) = frames::alloc() else { return false };
        if paging::map(large.top, frame, paging::KERNEL_DATA).is_err() {
            // SAFETY: allocated above, mapped nowhere.
            unsafe { frames::free(frame) };
            // What is mapped already stays in use below.
            if i == 0 {
                return false;
            }
            break;
        }
        large.top += PAGE;
    }
    let grown = (large.top - start) as usize;
    // SAFETY: the new pages are mapped, unused, and follow the old ones directly.
    unsafe {
        if large.list.size() == 0 {
            large.list.init(start as *mut u8, grown);
        } else {
            large.list.extend(grown);
        }
    }
    large.top - start >= bytes
}

/// The global allocator.
pub struct KernelHeap;

// SAFETY: memory comes from frames or the list, is aligned as asked (see `kind`), and is
// handed out once.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match kind(layout) {
            Kind::Class(class) => alloc_object(class),
            Kind::Frame => frames::alloc().map_or(core::ptr::null_mut(), direct),
            Kind::Large => alloc_large(layout),
        }
    }
    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        match kind(layout) {
            Kind::Class(class) => free_object(class, object),
            // SAFETY: `alloc` took it from there; the caller gives it up.
            Kind::Frame => unsafe { frames::free(direct_to_phys(object as u64)) },
            Kind::Large => {
                LIST_FREES.fetch_add(1, Ordering::Relaxed);
                if let Some(object) = NonNull::new(object) {
                    // SAFETY: `alloc` took it from the list with the same layout.
                    unsafe { LARGE.lock().list.deallocate(object, layout) };
                }
            }
        }
    }
    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises a valid size for the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (kind(layout), kind(new)) {
            (Kind::Class(a), Kind::Class(b)) if a == b => return object,
            (Kind::Frame, Kind::Frame) => return object,
            _ => {}
        }
        // SAFETY: as the default implementation: a new object, the common part copied.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(object, layout.size().min(new_size));
                self.dealloc(object, layout);
            }
            moved
        }
    }
}

#[global_allocator]
static GLOBAL: KernelHeap = KernelHeap;
