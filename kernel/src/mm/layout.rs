//! Where things lie.
//!
//! ```text
//! 0000000000000000   programs (the lower half)
//! ffff800000000000   direct map of all RAM, no execute
//! ffffa00000000000   heap of large objects, grows upwards
//! ffffb00000000000   kernel stacks, one a slot, guard page below each
//! ffffc00000000000   device registers, uncached
//! ffffffff80000000   the kernel image (+ its physical address)
//! ```

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// Bytes in a page, for addresses.
pub const PAGE: u64 = PAGE_SIZE as u64;
/// The first address that no program can have.
pub const USER_END: u64 = 1 << 47;
/// Physical address 0 in the direct map.
pub const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Start of the heap's growing area.
pub const HEAP: u64 = 0xffff_a000_0000_0000;
/// The first stack slot.
pub const STACKS: u64 = 0xffff_b000_0000_0000;
/// The first mapped device register.
pub const MMIO: u64 = 0xffff_c000_0000_0000;
/// Physical address 0 in the image's half.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Where a physical address lies in the direct map.
#[inline]
pub const fn direct(phys: u64) -> *mut u8 {
    (phys + DIRECT) as *mut u8
}

/// The physical address behind a pointer into the direct map or the image.
pub const fn direct_to_phys(address: u64) -> u64 {
    if address >= IMAGE { address - IMAGE } else { address - DIRECT }
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __kernel_end: u8;
    static __boot_stack_guard: u8;
}

/// The image's parts, as addresses in its half.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Code.
    pub text_start: u64,
    /// End of code, start of read-only data.
    pub text_end: u64,
    /// End of read-only data, start of writable data.
    pub rodata_end: u64,
    /// End of the image.
    pub end: u64,
    /// The page below the boot stack, left unmapped.
    pub boot_stack_guard: u64,
}

/// The running kernel's image.
pub fn image() -> Image {
    Image {
        text_start: &raw const __text_start as u64,
        text_end: &raw const __text_end as u64,
        rodata_end: &raw const __rodata_end as u64,
        end: &raw const __kernel_end as u64,
        boot_stack_guard: &raw const __boot_stack_guard as u64,
    }
}
