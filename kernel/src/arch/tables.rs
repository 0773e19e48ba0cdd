//! GDT, TSS and IDT.

use core::arch::asm;
use core::mem::size_of;

use super::trap;
use crate::spinlock::SpinLock;

/// The kernel's code segment.
pub const CODE_SELECTOR: u16 = 0x08;
const TSS_SELECTOR: u16 = 0x20;

/// Which interrupt stack an entry uses, as the IDT numbers them (1..=7).
#[derive(Clone, Copy)]
#[repr(u8)]
enum Ist {
    Interrupt = 1,
    Exception = 2,
    DoubleFault = 3,
    NonMaskable = 4,
}
const IST_COUNT: usize = 4;
/// Entry only copies a frame away; but an overflow or a double fault is reported from here.
const IST_BYTES: usize = 12 * 1024;

#[repr(C, packed)]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}
const _: () = assert!(size_of::<Tss>() == 104);

/// One processor's descriptor tables.
pub struct Tables {
    gdt: [u64; 8],
    tss: Tss,
}

impl Tables {
    /// Tables to be filled in by [`init_cpu`].
    pub const fn new() -> Self {
        Self {
            gdt: [0; 8],
            tss: Tss {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: 0,
                reserved3: 0,
                io_map_base: 104,
            },
        }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate(u64, u64);

impl Gate {
    /// An interrupt gate: interrupts stay off until the stub has left the IST stack.
    fn new(handler: u64, ist: Ist) -> Self {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e;
        Self(
            handler & 0xffff
                | u64::from(CODE_SELECTOR) << 16
                | (ist as u64) << 32
                | PRESENT_INTERRUPT_GATE << 40
                | (handler >> 16 & 0xffff) << 48,
            handler >> 32,
        )
    }
}

#[repr(C, align(16))]
struct Idt([Gate; 256]);
static IDT: SpinLock<Idt> = SpinLock::new(Idt([Gate(0, 0); 256]));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

#[repr(align(16))]
#[derive(Clone, Copy)]
struct IstStack {
    _bytes: [u8; IST_BYTES],
}
/// The boot processor's, needed before there is a heap.
static mut BOOT_STACKS: [IstStack; IST_COUNT] = [IstStack { _bytes: [0; IST_BYTES] }; IST_COUNT];

/// Fill the IDT. Once.
pub fn init_idt() {
    let mut idt = IDT.lock();
    for vector in 0..=255u8 {
        let ist = match vector {
            trap::DOUBLE_FAULT => Ist::DoubleFault,
            trap::NON_MASKABLE => Ist::NonMaskable,
            0..=31 => Ist::Exception,
            _ => Ist::Interrupt,
        };
        idt.0[vector as usize] = Gate::new(trap::stub_address(vector), ist);
    }
}

/// Load this processor's GDT, TSS and the common IDT.
///
/// # Safety
/// On the processor whose per-CPU data `gs` points to, once, with interrupts off.
pub unsafe fn init_cpu() {
    let cpu = super::percpu::this();
    let stacks: *mut IstStack = if cpu.index() == 0 {
        (&raw mut BOOT_STACKS).cast()
    } else {
        let stacks = alloc::vec![IstStack { _bytes: [0; IST_BYTES] }; IST_COUNT];
        alloc::vec::Vec::leak(stacks).as_mut_ptr()
    };
    // SAFETY: only this processor touches its tables, and only here.
    let tables = unsafe { &mut *cpu.tables.get() };
    for i in 0..IST_COUNT {
        // SAFETY: one past stack `i` of `IST_COUNT`.
        tables.tss.ist[i] = unsafe { stacks.add(i + 1) } as u64;
    }
    let tss = &raw const tables.tss as u64;
    const CODE64: u64 = 0x00af_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    const AVAILABLE_TSS: u64 = 0x89;
    let limit = size_of::<Tss>() as u64 - 1;
    tables.gdt = [
        0,
        CODE64,
        DATA,
        0,
        limit | (tss & 0xff_ffff) << 16 | AVAILABLE_TSS << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
        0,
        0,
    ];
    let gdt = TablePointer {
        limit: (size_of::<[u64; 8]>() - 1) as u16,
        base: tables.gdt.as_ptr() as u64,
    };
    let idt_base = core::ptr::from_ref(&IDT.lock().0) as u64;
    let idt = TablePointer { limit: (size_of::<Idt>() - 1) as u16, base: idt_base };
    // SAFETY: the tables are complete and live for ever; the far return reloads CS with the
    // code descriptor of the new GDT, which equals the old one.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "push {code}",
            "lea {t}, [rip + 2f]",
            "push {t}",
            "retfq",
            "2:",
            "ltr {tss:x}",
            "lidt [{idt}]",
            gdt = in(reg) &gdt,
            idt = in(reg) &idt,
            code = const CODE_SELECTOR as i32,
            tss = in(reg) TSS_SELECTOR,
            t = out(reg) _,
        );
    }
}
