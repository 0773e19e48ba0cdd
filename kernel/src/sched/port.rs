//! What the blocking locks stand on.

use alloc::boxed::Box;
use core::sync::atomic::AtomicU32;

use holdfast_sync::check::Held;
use holdfast_sync::port::Port;
use holdfast_sync::thread::Priority;

use super::{switch, thread, wait};
use crate::arch::{cpu, percpu};
use crate::time;

/// The scheduler, as `holdfast_sync` uses it.
pub struct KernelPort;

/// The one there is.
pub static KERNEL_PORT: KernelPort = KernelPort;

/// Held locks before there are threads: bring-up runs alone.
static BRING_UP: Held = Held::new();

impl Port for KernelPort {
    fn wait(&self, word: &AtomicU32, expected: u32, timeout_ns: Option<u64>) {
        wait::wait(word, expected, timeout_ns);
    }
    fn wake(&self, word: &AtomicU32, count: u32) {
        wait::wake(word, count);
    }
    fn spawn(&self, name: &str, priority: Priority, entry: Box<dyn FnOnce() + Send>) {
        thread::spawn(name, priority, entry).expect("no memory for a thread's stack");
    }
    fn yield_now(&self) {
        switch::yield_now();
    }
    fn sleep_ns(&self, duration_ns: u64) {
        switch::sleep_ns(duration_ns);
    }
    #[inline]
    fn thread_id(&self) -> u64 {
        percpu::thread_id()
    }
    #[inline]
    fn cpu(&self) -> usize {
        percpu::index()
    }
    #[inline]
    fn cpu_count(&self) -> usize {
        percpu::count()
    }
    #[inline]
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }
    #[inline]
    fn held(&self) -> &Held {
        // SAFETY: the calling thread's own list, alive while it runs.
        unsafe { percpu::held().as_ref() }.unwrap_or(&BRING_UP)
    }
    fn may_block(&self) -> bool {
        cpu::interrupts_enabled() && !percpu::preempt_disabled()
    }
}
