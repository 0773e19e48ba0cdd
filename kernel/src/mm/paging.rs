//! The kernel's page tables.

use bitflags::bitflags;

use super::layout::{self, DIRECT, HEAP, IMAGE, MMIO, PAGE, STACKS, direct};
use super::{OutOfMemory, frames};
use crate::arch::cpu;
use crate::spinlock::SpinLock;

bitflags! {
    /// Bits of a page table entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Entry: u64 {
        /// Valid.
        const PRESENT = 1;
        /// Stores allowed.
        const WRITABLE = 1 << 1;
        /// Programs may use it.
        const USER = 1 << 2;
        /// With `UNCACHED`: device memory.
        const WRITE_THROUGH = 1 << 3;
        /// Not cached.
        const UNCACHED = 1 << 4;
        /// Set by the processor when used.
        const ACCESSED = 1 << 5;
        /// Set by the processor when stored to.
        const DIRTY = 1 << 6;
        /// A 2 MiB page, in the last level but one.
        const LARGE = 1 << 7;
        /// The same in every address space.
        const GLOBAL = 1 << 8;
        /// No code.
        const NO_EXECUTE = 1 << 63;
    }
}

/// The physical address in an entry.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;
const LARGE_PAGE: u64 = 2 << 20;
const HALF: usize = ENTRIES / 2;

/// Writable kernel data.
pub const KERNEL_DATA: Entry = Entry::PRESENT
    .union(Entry::WRITABLE)
    .union(Entry::NO_EXECUTE)
    .union(Entry::GLOBAL)
    .union(Entry::ACCESSED)
    .union(Entry::DIRTY);
const KERNEL_RODATA: Entry =
    Entry::PRESENT.union(Entry::NO_EXECUTE).union(Entry::GLOBAL).union(Entry::ACCESSED);
const KERNEL_TEXT: Entry = Entry::PRESENT.union(Entry::GLOBAL).union(Entry::ACCESSED);
/// Device registers.
pub const DEVICE: Entry = KERNEL_DATA.union(Entry::UNCACHED).union(Entry::WRITE_THROUGH);
const TABLE: Entry = Entry::PRESENT.union(Entry::WRITABLE).union(Entry::ACCESSED);

/// The kernel's top table; 0 before [`init`].
static ROOT: SpinLock<u64> = SpinLock::new(0);

/// The index of an address in the table of a level (3: top, 0: last).
pub(super) fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize & (ENTRIES - 1)
}

/// Walk to the table of `level` that has the entry of `address`, making tables.
fn table(root: u64, address: u64, level: u32) -> Result<*mut u64, OutOfMemory> {
    let mut table = direct(root).cast::<u64>();
    for l in (level + 1..=3).rev() {
        // SAFETY: a table has 512 entries; tables are frames in the direct map.
        let entry = unsafe { &mut *table.add(index(address, l)) };
        if *entry & Entry::PRESENT.bits() == 0 {
            *entry = frames::alloc_zeroed().ok_or(OutOfMemory)? | TABLE.bits();
        }
        assert!(*entry & Entry::LARGE.bits() == 0, "{address:#x} lies in a large page");
        table = direct(*entry & ADDRESS).cast();
    }
    Ok(table)
}

fn set(root: u64, address: u64, level: u32, entry: u64) -> Result<(), OutOfMemory> {
    let table = table(root, address, level)?;
    // SAFETY: the index is below 512.
    unsafe { table.add(index(address, level)).write_volatile(entry) };
    Ok(())
}

fn map_range(root: u64, from: u64, phys: u64, len: u64, flags: Entry) -> Result<(), OutOfMemory> {
    let mut done = 0;
    while done < len {
        let (va, pa) = (from + done, phys + done);
        if (va | pa).is_multiple_of(LARGE_PAGE) && len - done >= LARGE_PAGE {
            set(root, va, 1, pa | (flags | Entry::LARGE).bits())?;
            done += LARGE_PAGE;
        } else {
            set(root, va, 0, pa | flags.bits())?;
            done += PAGE;
        }
    }
    Ok(())
}

/// Build the kernel's tables and switch to them.
///
/// `ram` are the ranges to have in the direct map. The image's code and read-only data
/// are read-only there too, so no alias of code is writable.
///
/// # Errors
/// No frame for a table.
///
/// # Safety
/// Once, on the boot processor, while the boot tables map what the frames allocator has.
pub unsafe fn init(ram: impl Iterator<Item = (u64, u64)>) -> Result<(), OutOfMemory> {
    let root = frames::alloc_zeroed().ok_or(OutOfMemory)?;
    let image = layout::image();
    // Every address space copies the upper half of the top table, so its entries exist
    // from the start and never change.
    for area in [DIRECT, HEAP, STACKS, MMIO, IMAGE] {
        table(root, area, 2)?;
    }
    let fixed = (image.text_start - IMAGE, image.rodata_end - IMAGE);
    for (start, end) in ram {
        let (start, end) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
        for (from, to, flags) in [
            (start, end.min(fixed.0), KERNEL_DATA),
            (start.max(fixed.0), end.min(fixed.1), KERNEL_RODATA),
            (start.max(fixed.1), end, KERNEL_DATA),
        ] {
            if from < to {
                map_range(root, DIRECT + from, from, to - from, flags)?;
            }
        }
    }
    for (from, to, flags) in [
        (image.text_start, image.text_end, KERNEL_TEXT),
        (image.text_end, image.rodata_end, KERNEL_RODATA),
        (image.rodata_end, image.end, KERNEL_DATA),
    ] {
        let mut va = from;
        while va < to {
            if va != image.boot_stack_guard {
                set(root, va, 0, (va - IMAGE) | flags.bits())?;
            }
            va += PAGE;
        }
    }
    *ROOT.lock() = root;
    // SAFETY: image, stack and direct map are in the new tables.
    unsafe { cpu::write_cr3(root) };
    Ok(())
}

/// The kernel's own top table.
pub fn root() -> u64 {
    *ROOT.lock()
}

/// Map one page of kernel memory that was not mapped.
///
/// # Errors
/// No frame for a table.
pub fn map(address: u64, phys: u64, flags: Entry) -> Result<(), OutOfMemory> {
    let root = ROOT.lock();
    set(*root, address, 0, phys | flags.bits())
}

/// Map a range of device memory or RAM, with large pages where they fit.
///
/// # Errors
/// No frame for a table.
pub fn map_area(address: u64, phys: u64, len: u64, flags: Entry) -> Result<(), OutOfMemory> {
    let root = ROOT.lock();
    map_range(*root, address, phys, len, flags)
}

/// Remove one page of kernel memory; its physical address. The caller shoots it down.
pub fn unmap(address: u64) -> Option<u64> {
    let root = ROOT.lock();
    let entry = walk(*root, address)?;
    // SAFETY: `walk` returns entries of live tables.
    let old = unsafe { entry.replace(0) };
    (old & Entry::PRESENT.bits() != 0).then_some(old & ADDRESS)
}

/// The last-level entry of an address, if tables lead there.
fn walk(root: u64, address: u64) -> Option<*mut u64> {
    let mut table = direct(root).cast::<u64>();
    for level in (1..=3).rev() {
        // SAFETY: an index below 512 of a table in the direct map.
        let entry = unsafe { *table.add(index(address, level)) };
        if entry & Entry::PRESENT.bits() == 0 || entry & Entry::LARGE.bits() != 0 {
            return None;
        }
        table = direct(entry & ADDRESS).cast();
    }
    // SAFETY: as above.
    Some(unsafe { table.add(index(address, 0)) })
}

/// The physical address behind a kernel address, wherever it is mapped.
pub fn translate(address: u64) -> Option<u64> {
    if (DIRECT..HEAP).contains(&address) {
        return Some(address - DIRECT);
    }
    if address >= IMAGE {
        return Some(address - IMAGE);
    }
    // SAFETY: `walk` returns entries of live tables.
    let entry = unsafe { *walk(root(), address)? };
    (entry & Entry::PRESENT.bits() != 0).then_some((entry & ADDRESS) + (address & (PAGE - 1)))
}

/// Give a new top table the kernel's upper half.
pub(super) fn copy_kernel_half(to: u64) {
    // SAFETY: both are frames in the direct map.
    unsafe {
        let from = direct(root()).cast::<u64>().add(HALF);
        direct(to).cast::<u64>().add(HALF).copy_from_nonoverlapping(from, HALF);
    }
}
