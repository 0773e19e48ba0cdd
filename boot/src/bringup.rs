//! Bring-up, top down: from the first Rust instruction to the first thread.

use holdfast_kernel::arch::{apic, cpu, ioapic, percpu, smp, tables};
use holdfast_kernel::mm::{self, PAGE_SIZE, direct, frames, layout, paging};
use holdfast_kernel::sched::{self, KERNEL_PORT};
use holdfast_kernel::time::{self, calibrate};
use holdfast_kernel::{acpi, console, debug, random};
use holdfast_sync::thread::{Priority, spawn};

use crate::cmdline::CommandLine;
use crate::pvh::{self, BootInfo, Range};
use crate::{entry, init};

/// What the boot tables map, and so all that exists until ours are loaded.
const BOOT_MAPPED: u64 = 4 << 30;
/// Firmware, its tables and the trampoline stay here; no frames.
const LOW_MEMORY: u64 = 1 << 20;
/// Where the linker script puts the image.
const IMAGE_START: u64 = 2 << 20;

/// Entered by the assembler with interrupts off, on the boot stack.
pub extern "C" fn main(start_info: u64, entry_tsc: u64) -> ! {
    // The processor's own data first: locks and the allocator need it.
    let (stack_low, stack_high) = entry::boot_stack();
    // SAFETY: the first thing, once.
    unsafe { percpu::init_boot_cpu(stack_low, stack_high) };
    time::init(entry_tsc);
    console::init();

    // What the loader and the firmware tell, before their memory is given away.
    // SAFETY: the loader's pointer, on the boot tables.
    let boot = unsafe { pvh::read(start_info) };
    console::init_log(log_words(boot.command_line));
    tables::init_idt();
    // SAFETY: once, on this processor.
    unsafe { tables::init_cpu() };
    let machine = acpi::discover(boot.rsdp);

    // Memory: frames, our own page tables, with them the heap.
    // SAFETY: once, with nothing else running.
    unsafe { init_memory(&boot) };
    let command_line = CommandLine::new(boot.command_line);

    // Time. The reference counts while other things are done.
    mask_legacy_interrupts();
    apic::init(machine.apic_address);
    apic::init_cpu();
    let calibration = calibrate::start();
    for info in machine.ioapics.iter().flatten() {
        ioapic::add(info.address, info.gsi_base);
    }

    // Threads: this flow of control becomes the idle thread.
    holdfast_sync::port::set(&KERNEL_PORT);
    sched::init(stack_low, stack_high);
    sched::online();

    // The other processors come up meanwhile.
    let cpus = &machine.cpus[..machine.cpu_count];
    percpu::set_count(cpus.len());
    // SAFETY: once; start info, command line and ACPI tables have been read.
    unsafe { smp::start(&cpus[1..]) };
    calibration.finish();
    time::init_wall_clock();
    random::seed(command_line.number("seed"));
    let online = smp::wait_online(cpus.len());
    assert!(online == cpus.len(), "{online} of {} processors came up", cpus.len());

    log::info!(
        "{} processors ({}), {} MiB, {} kHz, up after {} us",
        cpus.len(),
        machine.source,
        (frames::total_count() * PAGE_SIZE as u64) >> 20,
        time::tsc_per_ms(),
        time::now_ns() / 1000
    );
    command_line.warn_unknown();
    if let Some(seconds) = command_line.number("watchdog") {
        debug::watchdog::set_limit(seconds);
    }
    debug::watchdog::start();
    let module = boot.module.map(|range| {
        // SAFETY: the range is kept from the frame allocator, and is in the direct map.
        unsafe {
            core::slice::from_raw_parts(direct(range.start), (range.end - range.start) as usize)
        }
    });
    spawn("init", Priority::Normal, move || init::main_thread(&command_line, &machine, module));
    sched::run_idle()
}

/// The value of `log=`, looked for before there is a heap.
fn log_words(command_line: &str) -> &str {
    let words = command_line.split_ascii_whitespace();
    words.filter_map(|w| w.strip_prefix("log=")).next_back().unwrap_or("info")
}

/// Mask the legacy interrupt controllers: everything comes through the APICs.
fn mask_legacy_interrupts() {
    // SAFETY: the mask registers of the two controllers.
    unsafe {
        cpu::outb(0x21, 0xff);
        cpu::outb(0xa1, 0xff);
    }
}

/// The parts of a range that none of the reserved ranges covers, in order.
fn for_each_free(range: Range, reserved: &[Range], give: &mut dyn FnMut(Range)) {
    let Some((first, rest)) = reserved.split_first() else {
        if range.start < range.end {
            give(range);
        }
        return;
    };
    let below = Range { start: range.start, end: range.end.min(first.start) };
    let above = Range { start: range.start.max(first.end), end: range.end };
    for part in [below, above] {
        if part.start < part.end {
            for_each_free(part, rest, give);
        }
    }
}

/// Set up the frame allocator and load our page tables.
///
/// # Safety
/// Once, on the boot tables, with nothing else running.
unsafe fn init_memory(boot: &BootInfo) {
    let page = PAGE_SIZE as u64;
    let limit = boot.ram().map(|r| r.end).max().unwrap_or(0);
    let page_range =
        |r: Range| Range { start: r.start & !(page - 1), end: r.end.next_multiple_of(page) };
    let image = Range { start: IMAGE_START, end: layout::image().end - layout::IMAGE };
    let mut reserved = [
        Range { start: 0, end: LOW_MEMORY },
        image,
        page_range(boot.module.unwrap_or_default()),
        page_range(boot.command_line_range.unwrap_or_default()),
        Range::default(),
    ];

    // The allocator's own table: one byte a frame, in the first room that is large enough.
    let table_bytes = (limit / page).next_multiple_of(page);
    let mut table = None;
    for range in boot.ram() {
        for_each_free(range, &reserved, &mut |free| {
            if table.is_none() && free.end - free.start >= table_bytes && free.end <= BOOT_MAPPED {
                table = Some(Range { start: free.start, end: free.start + table_bytes });
            }
        });
    }
    let table = table.expect("no room for the frame table");
    reserved[4] = table;
    // SAFETY: unused RAM, mapped by the boot tables.
    unsafe { frames::init(limit, direct(table.start)) };

    let add = |from: u64, to: u64| {
        for range in boot.ram() {
            let part = Range { start: range.start.max(from), end: range.end.min(to) };
            for_each_free(part, &reserved, &mut |free| {
                // SAFETY: RAM that nothing uses, and mapped: see the two calls.
                unsafe { frames::add(free.start, free.end) };
            });
        }
    };
    add(0, BOOT_MAPPED);
    let ram = boot.ram().map(|r| (r.start, r.end));
    let low = core::iter::once((0, LOW_MEMORY));
    // SAFETY: once; the frames so far are mapped by the boot tables.
    let built: Result<(), mm::OutOfMemory> = unsafe { paging::init(low.chain(ram)) };
    built.expect("no memory for page tables");
    // What the boot tables did not map is in ours.
    add(BOOT_MAPPED, u64::MAX);
}
