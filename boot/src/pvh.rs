//! The start info that PVH hands over: memory map, command line, modules.

use holdfast_kernel::mm::{PAGE_SIZE, direct};

const MAGIC: u32 = 0x336e_c578;
const MAX_RANGES: usize = 32;
const MAX_COMMAND_LINE: usize = 64 * 1024;
const RAM: u32 = 1;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    // Version 1.
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// A physical range, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// What the loader told, in memory of ours or known to stay.
pub struct BootInfo {
    ranges: [Range; MAX_RANGES],
    range_count: usize,
    /// Words for the kernel.
    pub command_line: &'static str,
    /// ACPI's root pointer, or 0.
    pub rsdp: u64,
    /// The first module (QEMU's `-initrd`).
    pub module: Option<Range>,
    /// Where the command line lies, if outside the first MiB.
    pub command_line_range: Option<Range>,
}

impl BootInfo {
    /// RAM, unsorted, page aligned.
    pub fn ram(&self) -> impl Iterator<Item = Range> + Clone + '_ {
        self.ranges[..self.range_count].iter().copied()
    }
}

/// Read the start info.
///
/// # Panics
/// When it is not one: there is nothing to go on with.
///
/// # Safety
/// `address` is the physical address the loader passed; the boot tables are loaded.
pub unsafe fn read(address: u64) -> BootInfo {
    // SAFETY: the loader's promise; the first 4 GiB are mapped.
    let info = unsafe { &*direct(address).cast::<StartInfo>() };
    assert!(info.magic == MAGIC, "not started by PVH (magic {:#x})", info.magic);
    assert!(info.version >= 1 && info.memory_map_entries > 0, "no memory map from the loader");
    let mut boot = BootInfo {
        ranges: [Range::default(); MAX_RANGES],
        range_count: 0,
        command_line: "",
        rsdp: info.rsdp,
        module: None,
        command_line_range: None,
    };
    for i in 0..info.memory_map_entries as usize {
        // SAFETY: as many entries as the loader says.
        let entry = unsafe { &*direct(info.memory_map).cast::<MemoryMapEntry>().add(i) };
        if entry.kind == RAM && boot.range_count < MAX_RANGES {
            let range = Range {
                start: entry.address.next_multiple_of(PAGE_SIZE as u64),
                end: entry.address.saturating_add(entry.size) & !(PAGE_SIZE as u64 - 1),
            };
            if range.start < range.end {
                boot.ranges[boot.range_count] = range;
                boot.range_count += 1;
            }
        }
    }
    if info.nr_modules > 0 {
        // SAFETY: there is a first one, wherever the firmware put it.
        let module = unsafe { direct(info.modules).cast::<Module>().read_unaligned() };
        if module.size > 0 {
            boot.module = Some(Range { start: module.address, end: module.address + module.size });
        }
    }
    // SAFETY: a zero-terminated string, by PVH.
    unsafe { read_command_line(&mut boot, info.command_line) };
    boot
}

unsafe fn read_command_line(boot: &mut BootInfo, address: u64) {
    if address == 0 {
        return;
    }
    // SAFETY: the caller's promise; what is read is kept from the frame allocator.
    let bytes = unsafe { core::slice::from_raw_parts(direct(address), MAX_COMMAND_LINE) };
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(0);
    boot.command_line = core::str::from_utf8(&bytes[..len]).unwrap_or("");
    boot.command_line_range = Some(Range { start: address, end: address + len as u64 + 1 });
}
