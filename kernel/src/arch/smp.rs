//! Starting the other processors.
//!
//! ```text
//! boot processor                     other processor
//! copy the trampoline below 1 MiB
//! INIT, SIPI to each                 real mode -> long mode on temporary tables
//! ... goes on with bring-up ...      own stack (by APIC id), kernel tables, `gs`
//! wait until all are online          tables, APIC, idle thread: online
//! ```

use alloc::boxed::Box;
use core::arch::global_asm;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::percpu::{self, Cpu};
use super::{apic, cpu, tables};
use crate::mm::layout::{IMAGE, direct};
use crate::mm::paging;
use crate::mm::stack::Stack;
use crate::{sched, time};

/// The page the trampoline is copied to; SIPI takes its number.
const TRAMPOLINE: u64 = 0x8000;

global_asm!(
    r#"
.section .text.trampoline,"ax",@progbits
.balign 16
.globl holdfast_trampoline, holdfast_trampoline_end, holdfast_trampoline_root
.code16
holdfast_trampoline:
    cli
    cld
    xor ax, ax
    mov ds, ax
    .byte 0x0f, 0x01, 0x16             /* lgdt [absolute] */
    .word {base} + (trampoline_gdtr - holdfast_trampoline)
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea                   /* far jump to 32-bit code */
    .long {base} + (trampoline32 - holdfast_trampoline)
    .word 0x18
.code32
trampoline32:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    mov eax, cr4
    or eax, 0x6a0                      /* PAE PGE OSFXSR OSXMMEXCPT */
    mov cr4, eax
    .byte 0xa1                         /* mov eax, [absolute] */
    .long {base} + (holdfast_trampoline_root - holdfast_trampoline)
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900                      /* LME NXE */
    wrmsr
    mov eax, 0x80010033                /* PG WP NE ET MP PE */
    mov cr0, eax
    .byte 0xea                         /* far jump to 64-bit code */
    .long {base} + (trampoline64 - holdfast_trampoline)
    .word 0x08
.code64
trampoline64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    movabs rax, offset holdfast_ap_entry
    jmp rax
.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff           /* 08: 64-bit code */
    .quad 0x00cf93000000ffff           /* 10: data */
    .quad 0x00cf9b000000ffff           /* 18: 32-bit code */
trampoline_gdtr:
    .word 31
    .long {base} + (trampoline_gdt - holdfast_trampoline)
.balign 8
holdfast_trampoline_root:
    .long 0
holdfast_trampoline_end:

.balign 16
.globl holdfast_ap_entry
holdfast_ap_entry:
    mov eax, 1
    cpuid
    shr ebx, 24                        /* the initial APIC id */
    lea rcx, [rip + {stacks}]
    mov rsp, [rcx + rbx * 8]
    xor ebp, ebp
    mov edi, ebx
    call {main}
    ud2
.text
"#,
    base = const TRAMPOLINE,
    stacks = sym STACKS,
    main = sym ap_main,
);

unsafe extern "C" {
    static holdfast_trampoline: u8;
    static holdfast_trampoline_end: u8;
    static holdfast_trampoline_root: u8;
}

/// What a starting processor needs, by APIC id.
struct Start {
    cpu: AtomicPtr<Cpu>,
    index: AtomicUsize,
    stack: AtomicPtr<Stack>,
}
static STACKS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static STARTS: [Start; 256] = [const {
    Start {
        cpu: AtomicPtr::new(core::ptr::null_mut()),
        index: AtomicUsize::new(0),
        stack: AtomicPtr::new(core::ptr::null_mut()),
    }
}; 256];
static ONLINE: AtomicUsize = AtomicUsize::new(1);

#[repr(C, align(4096))]
struct PageTable([u64; 512]);
/// Top, middle and lower table of the trampoline: the first 2 MiB one to one, executable,
/// and the kernel's half. In the image, so that their addresses fit 32 bits.
static mut TEMPORARY: [PageTable; 3] = [const { PageTable([0; 512]) }; 3];

/// Start the processors with these APIC ids; numbered from 1 in this order.
///
/// # Safety
/// Once, by the boot processor, when nothing below 1 MiB is needed any more and the
/// kernel's tables, heap and local APIC work.
pub unsafe fn start(apic_ids: &[u32]) {
    if apic_ids.is_empty() {
        return;
    }
    for (i, &id) in apic_ids.iter().enumerate() {
        let stack = Stack::new().expect("memory for the other processors' stacks");
        let start = &STARTS[id as usize];
        STACKS[id as usize].store(stack.top(), Ordering::Relaxed);
        start.index.store(i + 1, Ordering::Relaxed);
        start.stack.store(Box::into_raw(Box::new(stack)), Ordering::Relaxed);
        start.cpu.store(Box::into_raw(Box::new(Cpu::new())), Ordering::Release);
    }
    // SAFETY: the caller's promise: the page is free, and this runs once.
    unsafe { place_trampoline() };
    for &id in apic_ids {
        apic::send_init(id);
    }
    // Hardware wants a pause here that emulated processors do not.
    time::spin_ns(20_000);
    for &id in apic_ids {
        apic::send_startup(id, (TRAMPOLINE >> 12) as u8);
    }
}

unsafe fn place_trampoline() {
    const TABLE: u64 = 0b11;
    const LARGE_WRITABLE: u64 = 0b1000_0011;
    // SAFETY: nobody else touches the tables; the symbols delimit the trampoline's bytes; the
    // target page is the caller's.
    unsafe {
        let tables: *mut [u64; 512] = (&raw mut TEMPORARY).cast();
        let phys = |i: usize| tables.add(i) as u64 - IMAGE;
        let kernel = direct(paging::root()).cast::<u64>();
        let top = tables.cast::<u64>();
        top.add(256).copy_from_nonoverlapping(kernel.add(256), 256);
        top.write(phys(1) | TABLE);
        (*tables.add(1))[0] = phys(2) | TABLE;
        (*tables.add(2))[0] = LARGE_WRITABLE;
        let from = &raw const holdfast_trampoline;
        let len = &raw const holdfast_trampoline_end as usize - from as usize;
        direct(TRAMPOLINE).copy_from_nonoverlapping(from, len);
        let root_at = &raw const holdfast_trampoline_root as usize - from as usize;
        direct(TRAMPOLINE).add(root_at).cast::<u32>().write(phys(0) as u32);
    }
}

/// Wait until `count` processors are online; how many are.
pub fn wait_online(count: usize) -> usize {
    const PATIENCE_NS: u64 = 5_000_000_000;
    let until = time::now_ns() + PATIENCE_NS;
    while ONLINE.load(Ordering::Acquire) < count && time::now_ns() < until {
        core::hint::spin_loop();
    }
    ONLINE.load(Ordering::Acquire)
}

extern "C" fn ap_main(apic_id: u32) -> ! {
    let start = &STARTS[apic_id as usize];
    // SAFETY: set by `start` for this processor, for ever.
    let this = unsafe { &*start.cpu.load(Ordering::Acquire) };
    // SAFETY: the kernel's tables map everything this needs; each value is this processor's.
    let stack = unsafe {
        cpu::write_cr3(paging::root());
        *Box::from_raw({
            percpu::install(this, start.index.load(Ordering::Relaxed));
            start.stack.load(Ordering::Relaxed)
        })
    };
    // SAFETY: once, on this processor, interrupts off.
    unsafe { tables::init_cpu() };
    apic::init_cpu();
    sched::init_cpu(stack);
    sched::online();
    ONLINE.fetch_add(1, Ordering::Release);
    sched::run_idle()
}
