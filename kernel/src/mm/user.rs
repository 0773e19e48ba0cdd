//! Copies from and to a program's memory.
//!
//! | routine | at a fault |
//! |---------|------------|
//! | [`copy_from`], [`copy_to`] | stops there, returns what it copied: for callers that hold locks |
//! | [`load`], [`store`] | calls the caller's handler, which may sleep, and goes on; ends early if it fails |
//!
//! Both are one assembler loop each; a page fault in its range of instructions on a
//! program's address is theirs, any other fault of the kernel is a bug. The program's
//! memory is that of the calling thread's [`super::AddressSpace`].

use core::arch::global_asm;

use super::layout::{PAGE_SIZE, USER_END};
use crate::arch::trap::TrapFrame;
use crate::arch::{cpu, percpu};

/// The loop under a name, with `NAME_fixup` behind it, where a copy ends that faulted.
macro_rules! copy_routine {
    ($name:literal) => {
        global_asm!(concat!(
            ".section .text.usercopy,\"ax\",@progbits\n.globl ",
            $name,
            "\n",
            $name,
            r#":
    xor ecx, ecx
    cmp rdx, 256
    jb 2f
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    rep movsq
2:  cmp edx, 16
    jb 3f
    movups xmm0, [rsi]
    movups [rdi], xmm0
    add rsi, 16
    add rdi, 16
    sub edx, 16
    jmp 2b
3:  test edx, edx
    je 6f
    test edx, 8
    je 4f
    mov r8, [rsi]
    mov [rdi], r8
    add rsi, 8
    add rdi, 8
    sub edx, 8
    je 6f
4:  movzx r8d, byte ptr [rsi]
    mov [rdi], r8b
    inc rsi
    inc rdi
    dec edx
    jne 4b
6:  xor eax, eax
    ret
.globl "#,
            $name,
            "_fixup\n",
            $name,
            r#"_fixup:
    lea rax, [rdx + 8 * rcx]       /* what the tail has left, and the words before it */
    ret
.text
"#
        ));
    };
}
copy_routine!("holdfast_copy_stopping");
copy_routine!("holdfast_copy_faulting");

unsafe extern "C" {
    fn holdfast_copy_stopping(dst: *mut u8, src: *const u8, len: usize) -> usize;
    fn holdfast_copy_stopping_fixup();
    fn holdfast_copy_faulting(dst: *mut u8, src: *const u8, len: usize) -> usize;
    fn holdfast_copy_faulting_fixup();
}

/// A range of instructions that may fault on a program's address, and where to go on.
struct Fixup {
    start: unsafe extern "C" fn(*mut u8, *const u8, usize) -> usize,
    fixup: unsafe extern "C" fn(),
    /// Ask the fault handler first.
    handle: bool,
}
static FIXUPS: [Fixup; 2] = [
    Fixup { start: holdfast_copy_stopping, fixup: holdfast_copy_stopping_fixup, handle: false },
    Fixup { start: holdfast_copy_faulting, fixup: holdfast_copy_faulting_fixup, handle: true },
];

/// Makes a program's page accessible: address, and whether for a store. Runs on the
/// faulting thread with interrupts on and may sleep. False: the access fails.
pub type FaultHandler<'a> = dyn FnMut(u64, bool) -> bool + 'a;

/// The handler of the faulting copy a thread is in, of which the thread keeps the address.
pub(crate) struct CopyInProgress<'a> {
    handler: &'a mut FaultHandler<'a>,
}

/// A page fault in the kernel. True when the interrupted code goes on (at a fixup, or
/// again where it was).
pub(crate) fn on_page_fault(frame: &mut TrapFrame, address: u64, write: bool) -> bool {
    if address >= USER_END {
        return false;
    }
    let Some(fixup) = FIXUPS
        .iter()
        .find(|f| (f.start as usize as u64..f.fixup as usize as u64).contains(&frame.rip))
    else {
        return false;
    };
    if fixup.handle && handle(frame, address, write) {
        return true;
    }
    frame.rip = fixup.fixup as usize as u64;
    true
}

fn handle(frame: &TrapFrame, address: u64, write: bool) -> bool {
    let Some(copy) = core::ptr::NonNull::new(crate::sched::swap_copy(core::ptr::null_mut())) else {
        return false;
    };
    assert!(
        frame.rflags & cpu::RFLAGS_IF != 0 && !percpu::preempt_disabled(),
        "a faulting copy at {address:#x} where blocking is forbidden"
    );
    // The frame lies on this thread's own stack, so the handler may be preempted and sleep.
    cpu::enable_interrupts();
    // SAFETY: the copy that faulted has this on its stack and is suspended; nobody else can
    // reach it while the thread does not name it.
    let resolved = (unsafe { &mut *copy.as_ptr() }.handler)(address, write);
    cpu::disable_interrupts();
    crate::sched::swap_copy(copy.as_ptr());
    resolved
}

fn is_user(address: u64, len: usize) -> bool {
    address.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Which way a copy goes; carries the kernel's side.
enum Way {
    In(*mut u8),
    Out(*const u8),
}

fn copy(user: u64, way: Way, len: usize, faulting: bool) -> usize {
    if !is_user(user, len) {
        return 0;
    }
    let (dst, src) = match way {
        Way::In(dst) => (dst, user as *const u8),
        Way::Out(src) => (user as *mut u8, src),
    };
    // SAFETY: the kernel's side is valid for `len` bytes (callers below); a fault on the
    // program's side, checked to be a program's, ends the copy early.
    let left = unsafe {
        if faulting {
            holdfast_copy_faulting(dst, src, len)
        } else {
            holdfast_copy_stopping(dst, src, len)
        }
    };
    let done = len - left;
    let to_page_end = PAGE_SIZE - (user as usize + done) % PAGE_SIZE;
    if left == 0 || to_page_end >= left {
        return done;
    }
    // The loop moves blocks, and the one that faulted began in a page that can be reached:
    // the caller makes the very byte accessible at which the copy says it stopped.
    // SAFETY: as above; the rest of the kernel's side, up to a page's end on the program's.
    let left = unsafe { holdfast_copy_stopping(dst.add(done), src.add(done), to_page_end) };
    done + to_page_end - left
}

/// Copy from a program's memory without handling faults; bytes copied.
///
/// # Safety
/// `dst` is valid for `len` bytes of writing.
#[inline]
pub unsafe fn copy_from(user: u64, dst: *mut u8, len: usize) -> usize {
    copy(user, Way::In(dst), len, false)
}

/// Copy to a program's memory without handling faults; bytes copied.
///
/// # Safety
/// `src` is valid for `len` bytes of reading.
#[inline]
pub unsafe fn copy_to(user: u64, src: *const u8, len: usize) -> usize {
    copy(user, Way::Out(src), len, false)
}

fn copy_handling(user: u64, way: Way, len: usize, handler: &mut FaultHandler<'_>) -> usize {
    let mut progress = CopyInProgress { handler };
    // The thread keeps the address only during the copy, while `progress` lives.
    let outer = crate::sched::swap_copy((&raw mut progress).cast());
    let copied = copy(user, way, len, true);
    crate::sched::swap_copy(outer);
    copied
}

/// Load from a program's memory as the program would: at a page fault `handler` is called
/// and, if it made the page accessible, the access repeated. Bytes loaded before an access
/// that failed.
pub fn load(user: u64, dst: &mut [u8], handler: &mut FaultHandler<'_>) -> usize {
    copy_handling(user, Way::In(dst.as_mut_ptr()), dst.len(), handler)
}

/// Store to a program's memory as the program would, likewise.
pub fn store(user: u64, src: &[u8], handler: &mut FaultHandler<'_>) -> usize {
    copy_handling(user, Way::Out(src.as_ptr()), src.len(), handler)
}
