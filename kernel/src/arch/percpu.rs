//! Each processor's own data, found through `gs`, and the preemption count.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use holdfast_sync::check::Held;

use super::cpu;
use super::tables::Tables;
use super::trap::TrapFrame;
use crate::MAX_CPUS;
use crate::debug::watchdog::Observed;
use crate::mm::{FrameMagazine, HeapMagazines};
use crate::sched::{RunQueue, Thread, TimerList};

/// Set in the preemption count while no switch is wanted, so that "count is zero and
/// a switch is wanted" is one comparison with zero.
const NO_RESCHEDULE: u32 = 1 << 31;
/// One level of interrupt in the preemption count.
const INTERRUPT: u32 = 1 << 16;
const INTERRUPT_MASK: u32 = 0x7fff_0000;

/// One processor. Fields up to `held` are read by assembler and single instructions.
#[repr(C, align(64))]
pub struct Cpu {
    this: Cell<*const Cpu>,
    index: Cell<u32>,
    preempt: Cell<u32>,
    current: Cell<*const Thread>,
    /// The current stack's lowest and highest address; entry stubs check against them.
    stack_low: Cell<u64>,
    stack_high: Cell<u64>,
    thread_id: Cell<u64>,
    held: Cell<*const Held>,
    /// The program page table that is loaded or was last (null: the kernel's).
    pub(crate) space: Cell<*const crate::mm::AddressSpace>,
    pub(crate) tcg: crate::mm::tlb::TcgTable,

    /// The local APIC's id.
    pub(crate) apic_id: Cell<u32>,
    /// The thread that runs when there is no other.
    pub(crate) idle: Cell<*const Thread>,
    /// The thread switched away from, until the switch is finished.
    pub(crate) previous: Cell<*const Thread>,
    /// When the current thread was switched to, by the time stamp counter.
    pub(crate) switched_at: AtomicU64,
    pub(crate) tables: UnsafeCell<Tables>,
    pub(crate) frames: UnsafeCell<FrameMagazine>,
    pub(crate) heap: UnsafeCell<HeapMagazines>,

    // Shared with other processors.
    /// It runs the scheduler.
    pub(crate) online: AtomicBool,
    pub(crate) queue: RunQueue,
    pub(crate) timers: TimerList,
    /// When the timer will interrupt, in clock nanoseconds; `u64::MAX`: not armed.
    pub(crate) timer_at: AtomicU64,
    /// Timer interrupts taken: the sign of life the watchdog looks at.
    pub(crate) ticks: AtomicU64,
    /// Interrupts taken.
    pub(crate) interrupts: AtomicU64,
    /// Translation state: see [`crate::mm::tlb`].
    pub(crate) lazy: AtomicU32,
    /// The watchdog's notes.
    pub(crate) observed: Observed,
    /// Where it was when a non-maskable interrupt stopped it.
    pub(crate) stopped_at: AtomicPtr<TrapFrame>,
}

// SAFETY: `Cell` and `UnsafeCell` fields belong to the processor itself (or to bring-up
// before the processor runs); everything that others touch is atomic or locked.
unsafe impl Sync for Cpu {}

static BOOT_CPU: Cpu = Cpu::new();
static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

impl Cpu {
    /// A processor that does not run yet.
    pub const fn new() -> Self {
        Self {
            this: Cell::new(core::ptr::null()),
            index: Cell::new(0),
            preempt: Cell::new(NO_RESCHEDULE),
            current: Cell::new(core::ptr::null()),
            stack_low: Cell::new(0),
            stack_high: Cell::new(u64::MAX),
            thread_id: Cell::new(1),
            held: Cell::new(core::ptr::null()),
            space: Cell::new(core::ptr::null()),
            tcg: crate::mm::tlb::TcgTable::new(),
            apic_id: Cell::new(0),
            idle: Cell::new(core::ptr::null()),
            previous: Cell::new(core::ptr::null()),
            switched_at: AtomicU64::new(0),
            tables: UnsafeCell::new(Tables::new()),
            frames: UnsafeCell::new(FrameMagazine::new()),
            heap: UnsafeCell::new(HeapMagazines::new()),
            online: AtomicBool::new(false),
            queue: RunQueue::new(),
            timers: TimerList::new(),
            timer_at: AtomicU64::new(u64::MAX),
            ticks: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            lazy: AtomicU32::new(0),
            observed: Observed::new(),
            stopped_at: AtomicPtr::new(core::ptr::null_mut()),
        }
    }
    /// Its number, 0 for the processor that booted.
    pub fn index(&self) -> usize {
        self.index.get() as usize
    }
    /// Note which thread runs, so that the single-instruction readers see it.
    pub(crate) fn set_current(&self, thread: &Thread) {
        self.current.set(thread);
        self.thread_id.set(thread.id());
        self.held.set(thread.held());
        let (low, high) = thread.stack_bounds();
        self.stack_low.set(low);
        self.stack_high.set(high);
    }
    /// What it runs just now; only a hint from another processor.
    pub(crate) fn current_hint(&self) -> *const Thread {
        self.current.get()
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// Make `gs` work on the processor that booted. The first thing Rust code does.
///
/// # Safety
/// Once, on the boot processor, before anything else of this crate.
pub unsafe fn init_boot_cpu(stack_low: u64, stack_high: u64) {
    BOOT_CPU.stack_low.set(stack_low);
    BOOT_CPU.stack_high.set(stack_high);
    // SAFETY: the boot processor's data is static and nobody else uses it.
    unsafe { install(&BOOT_CPU, 0) };
}

/// Point `gs` at this processor's data.
///
/// # Safety
/// On the processor in question, with data no other processor has.
pub(crate) unsafe fn install(cpu: &'static Cpu, index: usize) {
    cpu.this.set(cpu);
    cpu.index.set(index as u32);
    cpu.apic_id.set(cpu::apic_id());
    // SAFETY: the data lives for ever.
    unsafe { cpu::wrmsr(cpu::MSR_GS_BASE, core::ptr::from_ref(cpu) as u64) };
    CPUS[index].store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
}

/// How many processors there are (those still starting included).
#[inline]
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
/// Set by bring-up, before per-CPU structures are sized by it.
pub fn set_count(count: usize) {
    COUNT.store(count, Ordering::Relaxed);
}
/// The data of processor `index`, if it has started.
#[inline]
pub fn get(index: usize) -> Option<&'static Cpu> {
    let p = CPUS[index].load(Ordering::Acquire);
    // SAFETY: `install` stores pointers to data that lives for ever.
    unsafe { p.cast_const().as_ref() }
}
/// Every processor that has started.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..count()).filter_map(get)
}

/// Read one field of this processor's data in one instruction.
macro_rules! gs_read {
    ($field:ident) => {{
        let value: u64;
        // SAFETY: `gs` points to a `Cpu`; the offset is that of an 8-byte field.
        unsafe {
            asm!("mov {v}, gs:[{o}]", v = out(reg) value, o = const offset_of!(Cpu, $field),
                options(nostack, preserves_flags, readonly));
        }
        value
    }};
}

/// This processor's data. Meaningful only while the thread cannot move: preemption or
/// interrupts are off.
#[inline]
pub fn this() -> &'static Cpu {
    let this = gs_read!(this) as *const Cpu;
    // SAFETY: the field holds the address of the processor's own, immortal, data.
    unsafe { &*this }
}
/// The number of the processor the caller runs on just now.
#[inline]
pub fn index() -> usize {
    let value: u32;
    // SAFETY: as in `gs_read`, with a 4-byte field.
    unsafe {
        asm!("mov {v:e}, gs:[{o}]", v = out(reg) value, o = const offset_of!(Cpu, index),
            options(nostack, preserves_flags, readonly));
    }
    value as usize
}
/// The calling thread's number.
#[inline]
pub fn thread_id() -> u64 {
    gs_read!(thread_id)
}
/// The calling thread (null before the scheduler runs).
#[inline]
pub(crate) fn current() -> *const Thread {
    gs_read!(current) as *const Thread
}
/// The calling thread's list of held locks (null before the scheduler runs).
#[inline]
pub(crate) fn held() -> *const Held {
    gs_read!(held) as *const Held
}
/// Bounds of the stack in use.
pub(crate) fn stack_bounds() -> (u64, u64) {
    (gs_read!(stack_low), gs_read!(stack_high))
}

#[inline]
fn preempt_word() -> u32 {
    let value: u32;
    // SAFETY: as in `gs_read`, with a 4-byte field.
    unsafe {
        asm!("mov {v:e}, gs:[{o}]", v = out(reg) value, o = const offset_of!(Cpu, preempt),
            options(nostack, preserves_flags, readonly));
    }
    value
}

/// Keep the calling thread on its processor, running, until [`preempt_enable`].
#[inline]
pub fn preempt_disable() {
    // SAFETY: one instruction on the processor's own counter, atomic against its interrupts.
    unsafe {
        asm!("inc dword ptr gs:[{o}]", o = const offset_of!(Cpu, preempt), options(nostack));
    }
}
/// Undo one [`preempt_disable`]; switches at once if a switch became due meanwhile.
#[inline]
pub fn preempt_enable() {
    let zero: u8;
    // SAFETY: as in `preempt_disable`.
    unsafe {
        asm!("dec dword ptr gs:[{o}]", "setz {z}", o = const offset_of!(Cpu, preempt),
            z = out(reg_byte) zero, options(nostack));
    }
    if zero != 0 {
        crate::sched::preempt();
    }
}
/// Is the caller in an interrupt handler?
#[inline]
pub fn in_interrupt() -> bool {
    preempt_word() & INTERRUPT_MASK != 0
}
/// Is preemption off (in interrupts too)?
#[inline]
pub fn preempt_disabled() -> bool {
    preempt_word() & !NO_RESCHEDULE != 0
}
/// A switch is due and allowed.
#[inline]
pub(crate) fn reschedule_due() -> bool {
    preempt_word() == 0
}
/// Ask for a switch on this processor.
#[inline]
pub(crate) fn want_reschedule() {
    // SAFETY: one instruction on the processor's own word.
    unsafe {
        asm!("and dword ptr gs:[{o}], {m}", o = const offset_of!(Cpu, preempt),
            m = const !NO_RESCHEDULE as i32, options(nostack));
    }
}
/// Was preemption on when the interrupt came that is being handled?
pub(crate) fn was_preemptible() -> bool {
    preempt_word() & !NO_RESCHEDULE == INTERRUPT
}
/// The switch asked for is being made.
#[inline]
pub(crate) fn clear_reschedule() {
    // SAFETY: one instruction on the processor's own word.
    unsafe {
        asm!("or dword ptr gs:[{o}], {m}", o = const offset_of!(Cpu, preempt),
            m = const NO_RESCHEDULE as i32, options(nostack));
    }
}
#[inline]
pub(crate) fn enter_interrupt() {
    // SAFETY: one instruction on the processor's own word.
    unsafe {
        asm!("add dword ptr gs:[{o}], {m}", o = const offset_of!(Cpu, preempt),
            m = const INTERRUPT, options(nostack));
    }
}
#[inline]
pub(crate) fn leave_interrupt() {
    // SAFETY: one instruction on the processor's own word.
    unsafe {
        asm!("sub dword ptr gs:[{o}], {m}", o = const offset_of!(Cpu, preempt),
            m = const INTERRUPT, options(nostack));
    }
}

/// Preemption stays off while this lives.
pub struct NoPreempt(core::marker::PhantomData<*mut ()>);

impl NoPreempt {
    /// Turn preemption off.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        preempt_disable();
        Self(core::marker::PhantomData)
    }
    /// The processor the caller stays on.
    #[inline]
    pub fn cpu(&self) -> &'static Cpu {
        this()
    }
}
impl Default for NoPreempt {
    fn default() -> Self {
        Self::new()
    }
}
impl Drop for NoPreempt {
    #[inline]
    fn drop(&mut self) {
        preempt_enable();
    }
}

/// Offsets the entry stubs use.
pub(crate) const STACK_LOW_OFFSET: usize = offset_of!(Cpu, stack_low);
/// As [`STACK_LOW_OFFSET`].
pub(crate) const STACK_HIGH_OFFSET: usize = offset_of!(Cpu, stack_high);
