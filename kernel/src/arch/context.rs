//! The switch between two threads' stacks.

use core::arch::global_asm;

// A switch is a function call, so the compiler has saved what it needs of the
// caller-saved registers, all of SSE included; the callee-saved six go on the stack.
// A preempted thread's other registers lie in its trap frame, further up its stack.
global_asm!(
    r#"
.section .text.context,"ax",@progbits
.globl holdfast_switch
holdfast_switch:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
.globl holdfast_thread_start
holdfast_thread_start:
    call {started}
    ud2
.text
"#,
    started = sym crate::sched::thread_started,
);

unsafe extern "C" {
    fn holdfast_switch(save: *mut u64, to: u64);
    fn holdfast_thread_start();
}

/// Words a switched-out thread has at its saved stack pointer.
pub const SAVED_WORDS: usize = 7;

/// What [`switch`] leaves at the saved stack pointer, lowest address first.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Saved {
    /// Callee-saved registers and the address to go on at.
    pub r15: u64,
    #[allow(missing_docs)]
    pub r14: u64,
    #[allow(missing_docs)]
    pub r13: u64,
    #[allow(missing_docs)]
    pub r12: u64,
    #[allow(missing_docs)]
    pub rbp: u64,
    #[allow(missing_docs)]
    pub rbx: u64,
    #[allow(missing_docs)]
    pub rip: u64,
}

/// Save the running thread's registers, its stack pointer in `*save`; go on where the
/// thread whose stack pointer `to` was saved left off.
///
/// # Safety
/// `to` comes from an earlier switch or from [`prepare`], on a mapped stack that no
/// processor runs on. Interrupts are off.
#[inline]
pub unsafe fn switch(save: *mut u64, to: u64) {
    // SAFETY: the caller's promise.
    unsafe { holdfast_switch(save, to) }
}

/// Lay out a new stack so that the first switch to it enters `thread_started`.
/// Returns the stack pointer to switch to.
///
/// # Safety
/// `top` is the 16-byte aligned upper end of an unused, mapped stack.
pub unsafe fn prepare(top: u64) -> u64 {
    // After the final `ret` the stack pointer is `top - 16`, 16-byte aligned as a call needs;
    // the words above stay zero, which ends a backtrace.
    let rsp = top - 16 - (SAVED_WORDS as u64) * 8;
    let start = holdfast_thread_start as *const () as u64;
    let saved = Saved { r15: 0, r14: 0, r13: 0, r12: 0, rbp: 0, rbx: 0, rip: start };
    // SAFETY: the caller's promise; nine words below the top.
    unsafe {
        (rsp as *mut Saved).write(saved);
        ((top - 16) as *mut [u64; 2]).write([0; 2]);
    }
    rsp
}
