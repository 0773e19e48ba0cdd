//! What ties kernel, drivers and storage stack together.
//!
//! | module | port | on |
//! |--------|------|----|
//! | [`memory`] | `holdfast_fs::platform`: pages, page tables, time of day | `holdfast_kernel::mm` |
//! | [`hardware`] | `holdfast_drivers::hardware` | `holdfast_kernel::{mm, irq}` |
//! | [`block`] | `holdfast_fs::block::BlockDevice` | a virtio disk |
//! | [`console`] | `holdfast_fs::vfs::CharDevice` | a virtio console |
//! | [`serial`] | `holdfast_fs::vfs::CharDevice` | COM1 |
//! | [`devices`] | finds them all | |
//!
//! Owns: translation between the crates' types. Does not own: state. No locks.

pub mod block;
pub mod console;
pub mod devices;
pub mod hardware;
pub mod memory;
pub mod serial;
