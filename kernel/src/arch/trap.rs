//! Entry of interrupts and exceptions.
//!
//! The prebuilt `core` and `alloc` keep data in the red zone below the stack pointer,
//! so the processor must not push a frame onto the interrupted stack. Every gate
//! enters on an IST stack instead; the stub moves the frame below the red zone of the
//! interrupted stack, saves all registers there, and goes on there. From then on an
//! interrupt is an ordinary call on the thread's stack: it may nest, and the thread may
//! be switched away in the middle of it.
//!
//! ```text
//! interrupted stack                IST stack
//! | in use        | <- RSP         | SS .. RIP, error, vector |
//! | red zone 128  |                | rax rcx rdx              | -- copied --.
//! | TrapFrame     | <------------------------------------------------------'
//! | handler ...   |
//! ```
//! Before the copy RSP is checked against the bounds of the running thread's stack; an
//! overflow, a double fault and an NMI stay on their IST stack.

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use super::{apic, cpu, percpu};
use crate::debug;

/// Vector of the non-maskable interrupt.
pub const NON_MASKABLE: u8 = 2;
/// Vector of the double fault.
pub const DOUBLE_FAULT: u8 = 8;
/// Vector of the page fault.
pub const PAGE_FAULT: u8 = 14;
/// The first vector that is not an exception; the legacy controllers end up here.
pub const FIRST_INTERRUPT: u8 = 0x20;
/// The vectors drivers may have: see [`crate::irq`].
pub const DEVICE_VECTORS: core::ops::Range<u8> = 0x30..0xf0;
/// Another processor queued a thread here.
pub const RESCHEDULE: u8 = 0xf1;
/// Another processor changed page tables.
pub const SHOOTDOWN: u8 = 0xf2;
/// The local APIC's timer.
pub const TIMER: u8 = 0xf3;
/// The local APIC's spurious interrupt, which takes no end-of-interrupt.
pub const SPURIOUS: u8 = 0xff;

/// Stack a handler must at least find below the frame.
const HANDLER_STACK_BYTES: usize = 3072;
const STUB_BYTES: u64 = 16;

/// The interrupted context, as the stubs lay it out.
#[repr(C, align(16))]
pub struct TrapFrame {
    mxcsr: [u32; 4],
    xmm: [u128; 16],
    #[allow(missing_docs)]
    pub r15: u64,
    #[allow(missing_docs)]
    pub r14: u64,
    #[allow(missing_docs)]
    pub r13: u64,
    #[allow(missing_docs)]
    pub r12: u64,
    #[allow(missing_docs)]
    pub r11: u64,
    #[allow(missing_docs)]
    pub r10: u64,
    #[allow(missing_docs)]
    pub r9: u64,
    #[allow(missing_docs)]
    pub r8: u64,
    #[allow(missing_docs)]
    pub rbp: u64,
    #[allow(missing_docs)]
    pub rdi: u64,
    #[allow(missing_docs)]
    pub rsi: u64,
    #[allow(missing_docs)]
    pub rbx: u64,
    #[allow(missing_docs)]
    pub rdx: u64,
    #[allow(missing_docs)]
    pub rcx: u64,
    #[allow(missing_docs)]
    pub rax: u64,
    /// Which interrupt or exception.
    pub vector: u64,
    /// The processor's error code, 0 where there is none.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    #[allow(missing_docs)]
    pub cs: u64,
    #[allow(missing_docs)]
    pub rflags: u64,
    /// The interrupted stack pointer.
    pub rsp: u64,
    #[allow(missing_docs)]
    pub ss: u64,
}
const _: () = assert!(core::mem::size_of::<TrapFrame>() == 272 + 22 * 8);

global_asm!(
    r#"
.section .text.stubs,"ax",@progbits
/* rax, rcx, rdx, vector, error and the processor's frame are there already. */
.macro holdfast_save
    push rbx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    sub rsp, 272
    stmxcsr [rsp]
    movaps [rsp + 16], xmm0
    movaps [rsp + 32], xmm1
    movaps [rsp + 48], xmm2
    movaps [rsp + 64], xmm3
    movaps [rsp + 80], xmm4
    movaps [rsp + 96], xmm5
    movaps [rsp + 112], xmm6
    movaps [rsp + 128], xmm7
    movaps [rsp + 144], xmm8
    movaps [rsp + 160], xmm9
    movaps [rsp + 176], xmm10
    movaps [rsp + 192], xmm11
    movaps [rsp + 208], xmm12
    movaps [rsp + 224], xmm13
    movaps [rsp + 240], xmm14
    movaps [rsp + 256], xmm15
    cld
.endm
.macro holdfast_restore
    movaps xmm0, [rsp + 16]
    movaps xmm1, [rsp + 32]
    movaps xmm2, [rsp + 48]
    movaps xmm3, [rsp + 64]
    movaps xmm4, [rsp + 80]
    movaps xmm5, [rsp + 96]
    movaps xmm6, [rsp + 112]
    movaps xmm7, [rsp + 128]
    movaps xmm8, [rsp + 144]
    movaps xmm9, [rsp + 160]
    movaps xmm10, [rsp + 176]
    movaps xmm11, [rsp + 192]
    movaps xmm12, [rsp + 208]
    movaps xmm13, [rsp + 224]
    movaps xmm14, [rsp + 240]
    movaps xmm15, [rsp + 256]
    ldmxcsr [rsp]
    add rsp, 272
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
.endm
.balign 16
.globl holdfast_stubs
holdfast_stubs:
.set vector, 0
.rept 256
    .balign {stub_bytes}
    .if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && (vector != 13) && (vector != 14) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    .byte 0x6a, 0                  /* push 0: no error code */
    .endif
    .byte 0x68                     /* push vector */
    .long vector
    .if (vector == 2) || (vector == 8)
    jmp holdfast_trap_stay
    .else
    jmp holdfast_trap_leave
    .endif
    .set vector, vector + 1
.endr

.balign 16
holdfast_trap_leave:
    push rax
    push rcx
    push rdx
    mov rax, [rsp + 64]
    lea rdx, [rax - {room}]
    cmp rdx, gs:[{low}]
    jb holdfast_trap_overflow
    cmp rax, gs:[{high}]
    ja holdfast_trap_overflow
    lea rax, [rax - 128]
    and rax, -16
    .set word, 0
    .rept 10
    mov rcx, [rsp + word * 8]
    mov [rax - 80 + word * 8], rcx
    .set word, word + 1
    .endr
    lea rsp, [rax - 80]
    holdfast_save
    mov rdi, rsp
    call {trap}
.globl holdfast_trap_returned
holdfast_trap_returned:
    holdfast_restore

holdfast_trap_overflow:
    holdfast_save
    mov rdi, rsp
    call {overflow}
    ud2

holdfast_trap_stay:
    push rax
    push rcx
    push rdx
    holdfast_save
    mov rdi, rsp
    call {stay}
    holdfast_restore
.text
"#,
    stub_bytes = const STUB_BYTES,
    room = const HANDLER_STACK_BYTES,
    low = const percpu::STACK_LOW_OFFSET,
    high = const percpu::STACK_HIGH_OFFSET,
    trap = sym on_trap,
    overflow = sym on_overflow,
    stay = sym on_stay,
);

unsafe extern "C" {
    static holdfast_stubs: u8;
    static holdfast_trap_returned: u8;
}

/// Where the stub of a vector is.
pub(super) fn stub_address(vector: u8) -> u64 {
    &raw const holdfast_stubs as u64 + u64::from(vector) * STUB_BYTES
}

/// The return address of a handler: the caller's frame is a [`TrapFrame`] at its stack pointer.
pub(crate) fn return_address() -> u64 {
    &raw const holdfast_trap_returned as u64
}

/// Everything that left its IST stack: on the interrupted thread's stack, interrupts off.
extern "C" fn on_trap(frame: &mut TrapFrame) {
    match frame.vector as u8 {
        PAGE_FAULT => on_page_fault(frame),
        vector @ 0..FIRST_INTERRUPT => on_exception(vector, frame),
        vector => on_interrupt(vector),
    }
}

fn on_interrupt(vector: u8) {
    percpu::enter_interrupt();
    percpu::this().interrupts.fetch_add(1, Ordering::Relaxed);
    match vector {
        TIMER => crate::sched::on_timer(),
        // Whoever sent it has set the queue; the switch follows below.
        RESCHEDULE => crate::sched::on_reschedule(),
        SHOOTDOWN => crate::mm::tlb::on_interrupt(),
        SPURIOUS => {}
        other => crate::irq::dispatch(other),
    }
    if vector != SPURIOUS {
        apic::end_of_interrupt();
    }
    percpu::leave_interrupt();
    if percpu::reschedule_due() {
        crate::sched::preempt_from_interrupt();
    }
}

fn on_page_fault(frame: &mut TrapFrame) {
    const WRITE: u64 = 1 << 1;
    // Before anything can fault again or switch away.
    let address = cpu::read_cr2();
    let write = frame.error & WRITE != 0;
    if crate::mm::user::on_page_fault(frame, address, write) {
        return;
    }
    let what =
        if crate::mm::is_stack_guard(address) { "kernel stack overflow" } else { "page fault" };
    let how = match (frame.error & WRITE != 0, frame.error & 16 != 0) {
        (_, true) => "executing",
        (true, _) => "writing",
        _ => "reading",
    };
    debug::fatal(Some(frame), format_args!("{what} {how} {address:#x} at {:#x}", frame.rip));
}

fn on_exception(vector: u8, frame: &TrapFrame) -> ! {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug exception",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "coprocessor overrun",
        "invalid TSS",
        "segment not present",
        "stack fault",
        "general protection fault",
        "page fault",
        "reserved exception",
        "x87 error",
        "alignment check",
        "machine check",
        "SIMD error",
        "virtualization exception",
        "control protection",
    ];
    let name = NAMES.get(vector as usize).copied().unwrap_or("reserved exception");
    debug::fatal(
        Some(frame),
        format_args!("{name} (error {:#x}) at {:#x}", frame.error, frame.rip),
    );
}

/// The interrupted stack pointer is not in the running thread's stack.
extern "C" fn on_overflow(frame: &TrapFrame) -> ! {
    let (low, high) = percpu::stack_bounds();
    debug::fatal(
        Some(frame),
        format_args!(
            "kernel stack overflow: stack pointer {:#x}, stack {low:#x}..{high:#x}, at {:#x}",
            frame.rsp, frame.rip
        ),
    );
}

/// Double faults and NMIs, still on their IST stack.
extern "C" fn on_stay(frame: &TrapFrame) {
    if frame.vector == u64::from(NON_MASKABLE) {
        debug::on_nmi(frame);
    } else {
        on_exception(DOUBLE_FAULT, frame);
    }
}
