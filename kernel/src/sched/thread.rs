//! What a thread is.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use holdfast_sync::check::Held;
use holdfast_sync::thread::Priority;

use crate::arch::{context, cpu, percpu};
use crate::mm::stack::Stack;
use crate::mm::user::CopyInProgress;
use crate::mm::{AddressSpace, OutOfMemory};
use crate::spinlock::SpinLock;

/// Where a thread is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A processor runs it.
    Running,
    /// It waits for a processor.
    Ready,
    /// It waits on a word.
    Blocked,
    /// It has ended.
    Dead,
}

impl State {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Running,
            1 => Self::Ready,
            2 => Self::Blocked,
            _ => Self::Dead,
        }
    }
}

/// What hangs on a thread from outside, such as the process it belongs to.
pub type Slot = Arc<dyn Any + Send + Sync>;

/// No watchdog limit.
const NO_LIMIT: u64 = u64::MAX;

/// A thread.
pub struct Thread {
    id: u64,
    name: String,
    priority: Priority,
    is_idle: bool,
    stack: UnsafeCell<Option<Stack>>,
    stack_low: u64,
    stack_high: u64,
    /// Where its registers are while no processor runs it.
    pub(super) rsp: UnsafeCell<u64>,
    state: AtomicU8,
    /// A processor runs it, or has not finished switching away from it.
    pub(super) on_cpu: AtomicBool,
    /// The processor that runs it, or ran it last.
    pub(super) cpu: AtomicU32,
    /// The next thread in the list it is in.
    pub(super) link: Cell<*const Thread>,
    held: Held,
    /// The address of the word it waits on.
    pub(super) wait_word: AtomicUsize,
    /// Counts waits, so that a late time-out does not end a later wait.
    pub(super) wait_sequence: AtomicU64,
    /// The wait has a time-out.
    pub(super) wait_timed: AtomicBool,
    /// When it last became blocked or ready, in clock nanoseconds.
    pub(super) since_ns: AtomicU64,
    /// What [`super::sleep_ns`] waits on.
    pub(super) nap: AtomicU32,
    pub(super) run_tsc: AtomicU64,
    pub(super) voluntary: AtomicU64,
    pub(super) involuntary: AtomicU64,
    /// The watchdog's limit for one wait, or `NO_LIMIT`.
    limit_ns: AtomicU64,
    /// Ticks the watchdog has seen it in the same wait.
    pub(crate) watch_ticks: AtomicU64,
    /// The wait the watchdog saw last.
    pub(crate) watch_sequence: AtomicU64,
    entry: UnsafeCell<Option<Box<dyn FnOnce() + Send>>>,
    slot: spin::Mutex<Option<Slot>>,
    /// The program's address space it uses; a copy of `space_owner`'s pointer.
    pub(super) space: Cell<*const AddressSpace>,
    space_owner: spin::Mutex<Option<Arc<AddressSpace>>>,
    /// The copy from or to a program's memory that it is in, when that handles faults.
    copy: Cell<*mut CopyInProgress<'static>>,
}

// SAFETY: the cells are touched by the thread itself, by bring-up before it runs, or under
// the lock of the list the thread is in.
unsafe impl Sync for Thread {}
// SAFETY: as above; the raw pointers are kept valid by the owners beside them.
unsafe impl Send for Thread {}

static ALL: SpinLock<BTreeMap<u64, Arc<Thread>>> = SpinLock::new(BTreeMap::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Thread {
    fn new(
        name: &str,
        priority: Priority,
        stack: Option<Stack>,
        bounds: (u64, u64),
        is_idle: bool,
    ) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            priority,
            is_idle,
            stack: UnsafeCell::new(stack),
            stack_low: bounds.0,
            stack_high: bounds.1,
            rsp: UnsafeCell::new(0),
            state: AtomicU8::new(State::Ready as u8),
            on_cpu: AtomicBool::new(false),
            cpu: AtomicU32::new(0),
            link: Cell::new(core::ptr::null()),
            held: Held::new(),
            wait_word: AtomicUsize::new(0),
            wait_sequence: AtomicU64::new(0),
            wait_timed: AtomicBool::new(false),
            since_ns: AtomicU64::new(0),
            nap: AtomicU32::new(0),
            run_tsc: AtomicU64::new(0),
            voluntary: AtomicU64::new(0),
            involuntary: AtomicU64::new(0),
            limit_ns: AtomicU64::new(NO_LIMIT),
            watch_ticks: AtomicU64::new(0),
            watch_sequence: AtomicU64::new(0),
            entry: UnsafeCell::new(None),
            slot: spin::Mutex::new(None),
            space: Cell::new(core::ptr::null()),
            space_owner: spin::Mutex::new(None),
            copy: Cell::new(core::ptr::null_mut()),
        }
    }
    /// Its number, never 0.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its priority.
    pub fn priority(&self) -> Priority {
        self.priority
    }
    /// Is it a processor's idle thread?
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }
    /// Where it is in its life.
    pub fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Acquire))
    }
    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }
    /// The locks it holds (with the feature `check`).
    pub fn held(&self) -> &Held {
        &self.held
    }
    /// Lowest and highest address of its stack.
    pub(crate) fn stack_bounds(&self) -> (u64, u64) {
        (self.stack_low, self.stack_high)
    }
    /// Where its registers were saved, if no processor runs it.
    pub(crate) fn saved_rsp(&self) -> Option<u64> {
        // SAFETY: a word that is valid while the thread is off every processor; a report reads it.
        (!self.on_cpu.load(Ordering::Acquire)).then(|| unsafe { *self.rsp.get() })
    }
    /// The processor that runs it, or ran it last.
    pub fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed) as usize
    }
    /// The watchdog's limit for one wait without a time-out, if the thread has one.
    pub(crate) fn limit_ns(&self) -> Option<u64> {
        Some(self.limit_ns.load(Ordering::Relaxed)).filter(|&l| l != NO_LIMIT)
    }
    /// The number of its waits.
    pub(crate) fn wait_sequence(&self) -> u64 {
        self.wait_sequence.load(Ordering::Relaxed)
    }
    /// When it last became blocked or ready.
    pub(crate) fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed)
    }
    /// Its wait has a time-out of its own.
    pub(crate) fn wait_timed(&self) -> bool {
        self.wait_timed.load(Ordering::Relaxed)
    }
}

/// The calling thread. Valid as long as it runs, which the caller does.
#[inline]
pub(super) fn current() -> &'static Thread {
    // SAFETY: set at every switch; a running thread is in the table.
    unsafe { &*percpu::current() }
}

/// Make the boot processor's flow of control its idle thread.
pub fn init(stack_low: u64, stack_high: u64) {
    adopt_idle((stack_low, stack_high), None);
}

/// The same for another processor, on a stack bring-up gave it.
pub fn init_cpu(stack: Stack) {
    let bounds = (stack.bottom(), stack.top());
    adopt_idle(bounds, Some(stack));
}

fn adopt_idle(bounds: (u64, u64), stack: Option<Stack>) {
    let this = percpu::this();
    let name = alloc::format!("idle/{}", this.index());
    let idle = Arc::new(Thread::new(&name, Priority::Idle, stack, bounds, true));
    idle.set_state(State::Running);
    idle.on_cpu.store(true, Ordering::Relaxed);
    idle.cpu.store(this.index() as u32, Ordering::Relaxed);
    this.idle.set(Arc::as_ptr(&idle));
    this.set_current(&idle);
    this.switched_at.store(cpu::tsc(), Ordering::Relaxed);
    ALL.lock().insert(idle.id, idle);
}

/// Start a thread.
///
/// # Errors
/// No memory for its stack.
pub fn spawn(
    name: &str,
    priority: Priority,
    entry: Box<dyn FnOnce() + Send>,
) -> Result<u64, OutOfMemory> {
    let stack = Stack::new()?;
    let bounds = (stack.bottom(), stack.top());
    // SAFETY: a fresh stack.
    let rsp = unsafe { context::prepare(stack.top()) };
    let thread = Arc::new(Thread::new(name, priority, Some(stack), bounds, false));
    // SAFETY: nobody else knows the thread yet.
    unsafe {
        *thread.rsp.get() = rsp;
        *thread.entry.get() = Some(entry);
    }
    let id = thread.id;
    thread.cpu.store(percpu::index() as u32, Ordering::Relaxed);
    thread.since_ns.store(crate::time::now_ns(), Ordering::Relaxed);
    ALL.lock().insert(id, thread.clone());
    super::switch::make_ready(&thread);
    Ok(id)
}

/// Run the calling thread's entry, once.
pub(super) fn run_entry() {
    // SAFETY: the thread's own, set before it was queued.
    let entry = unsafe { (*current().entry.get()).take() };
    if let Some(entry) = entry {
        entry();
    }
}

/// Let go of what hangs on the calling thread, while it can still block.
pub(super) fn release_slot() {
    let me = current();
    let slot = me.slot.lock().take();
    drop(slot);
    let on = cpu::save_interrupts();
    me.space.set(core::ptr::null());
    cpu::restore_interrupts(on);
    let space = me.space_owner.lock().take();
    drop(space);
}

/// The calling thread uses this address space from now on.
#[cold]
pub(super) fn own_space(space: &Arc<AddressSpace>) {
    let me = current();
    let old = me.space_owner.lock().replace(space.clone());
    let on = cpu::save_interrupts();
    me.space.set(Arc::as_ptr(space));
    crate::mm::tlb::switch_space(percpu::this(), Arc::as_ptr(space));
    cpu::restore_interrupts(on);
    drop(old);
}

/// Free an ended thread that no processor runs any more.
pub(super) fn reap(thread: &Thread) {
    let arc = ALL.lock().remove(&thread.id);
    if let Some(arc) = arc {
        // SAFETY: the thread is dead and off its stack; only a report could look, and it
        // looks at no dead thread's stack.
        drop(unsafe { (*arc.stack.get()).take() });
        drop(arc);
    }
}

/// Note which fault-handling copy the calling thread is in; which it was in before.
pub(crate) fn swap_copy(copy: *mut CopyInProgress<'static>) -> *mut CopyInProgress<'static> {
    current().copy.replace(copy)
}

/// Hang something on the calling thread; what hung there before.
pub fn set_slot(slot: Option<Slot>) -> Option<Slot> {
    core::mem::replace(&mut *current().slot.lock(), slot)
}

/// What hangs on the calling thread.
pub fn current_slot() -> Option<Slot> {
    current().slot.lock().clone()
}

/// Look at what hangs on the calling thread without counting a reference.
///
/// `look` must not call [`set_slot`].
pub fn with_slot<R>(look: impl FnOnce(&Slot) -> R) -> Option<R> {
    let slot = current_slot()?;
    Some(look(&slot))
}

/// The watchdog reports the calling thread when one wait without a time-out lasts longer
/// than this (in watchdog ticks, so a slow host does not count). `None`: never.
pub fn watch(limit_ns: Option<u64>) -> Option<u64> {
    let limit = limit_ns.unwrap_or(NO_LIMIT);
    Some(current().limit_ns.swap(limit, Ordering::Relaxed)).filter(|&l| l != NO_LIMIT)
}

/// Run `wait` with the calling thread not watched: it waits for something outside, such
/// as input, or for another thread that may take its time.
pub fn not_watched<R>(wait: impl FnOnce() -> R) -> R {
    let before = watch(None);
    let result = wait();
    watch(before);
    result
}

/// One thread, for `ps` and reports.
#[derive(Clone, Debug)]
pub struct ThreadInfo {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: Priority,
    /// A processor's idle thread.
    pub is_idle: bool,
    /// Where it is in its life.
    pub state: State,
    /// The processor it runs on or ran on last.
    pub cpu: usize,
    /// Processor time it used.
    pub run_ns: u64,
    /// Switches because it waited.
    pub voluntary_switches: u64,
    /// Switches because its slice ended or a more urgent thread came.
    pub involuntary_switches: u64,
    /// How long it has been blocked or ready.
    pub waiting_ns: u64,
    /// The address of the word it waits on, 0 when it does not.
    pub wait_word: usize,
    /// The locks it holds (with the feature `check`).
    pub held: Vec<&'static str>,
}

impl Thread {
    /// A snapshot of what is known of the thread.
    pub fn info(&self) -> ThreadInfo {
        let state = self.state();
        let mut run_tsc = self.run_tsc.load(Ordering::Relaxed);
        if state == State::Running
            && let Some(cpu) = percpu::get(self.cpu())
        {
            run_tsc += cpu::tsc().saturating_sub(cpu.switched_at.load(Ordering::Relaxed));
        }
        let waits = matches!(state, State::Blocked | State::Ready);
        ThreadInfo {
            id: self.id,
            name: self.name.clone(),
            priority: self.priority,
            is_idle: self.is_idle,
            state,
            cpu: self.cpu(),
            run_ns: crate::time::tsc_to_ns(run_tsc),
            voluntary_switches: self.voluntary.load(Ordering::Relaxed),
            involuntary_switches: self.involuntary.load(Ordering::Relaxed),
            waiting_ns: if waits {
                crate::time::now_ns().saturating_sub(self.since_ns.load(Ordering::Relaxed))
            } else {
                0
            },
            wait_word: if state == State::Blocked {
                self.wait_word.load(Ordering::Relaxed)
            } else {
                0
            },
            held: self.held.iter().map(|c| c.name).collect(),
        }
    }
}

/// Every thread there is, by number.
pub fn snapshot() -> Vec<ThreadInfo> {
    let threads: Vec<Arc<Thread>> = ALL.lock().values().cloned().collect();
    threads.iter().map(|t| t.info()).collect()
}

/// Look at every thread, with interrupts off.
pub fn for_each(mut look: impl FnMut(&Thread)) {
    for thread in ALL.lock().values() {
        look(thread);
    }
}

/// As [`for_each`], for a report when the other processors are stopped for good.
pub(crate) fn for_each_in_report(look: impl FnMut(&Thread)) {
    // SAFETY: nobody else runs any more.
    unsafe { ALL.force_unlock() };
    for_each(look);
}
