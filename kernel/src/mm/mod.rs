//! Memory.
//!
//! | module | |
//! |--------|--|
//! | [`layout`] | where things lie in the address space |
//! | [`frames`] | physical frames: a buddy allocator below per-CPU magazines |
//! | [`heap`] | the kernel heap: size classes in per-CPU magazines above a linked list |
//! | [`paging`] | the kernel's page tables: W^X image, direct map, growing areas |
//! | [`space`] | a program's page table (the lower half) |
//! | [`tlb`] | making other processors forget translations |
//! | [`user`] | copies from and to a program's memory, with fixups |
//! | [`mmio`] | device registers and DMA memory |
//! | [`stack`] | kernel stacks with guard pages |
//!
//! ```text
//! alloc::*  ->  heap  ->  frames  <-  space, paging, stack, DMA, page cache
//! ```
//!
//! Owns: frames, kernel mappings, translations. Does not own: what a program's
//! pages contain (the storage stack decides in its fault handler).
//! Locks, outermost first: shootdown, heap list, heap depot, kernel tables, frames.

pub mod frames;
pub mod heap;
pub mod layout;
pub mod mmio;
pub mod paging;
pub mod space;
pub mod stack;
pub mod tlb;
pub mod user;

pub(crate) use frames::FrameMagazine;
pub(crate) use heap::HeapMagazines;
pub use layout::{PAGE_SIZE, direct};
pub use mmio::{Dma, Mmio};
pub use space::{AddressSpace, Protection};
pub use stack::is_stack_guard;

/// There was no frame left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;
