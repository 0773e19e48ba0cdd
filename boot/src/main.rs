//! The bootable image.
//!
//! | module | |
//! |--------|--|
//! | [`entry`] | the first instructions, to Rust in the upper half |
//! | [`pvh`] | what the loader tells: memory, command line, initrd |
//! | [`bringup`] | everything until threads run, in order |
//! | [`cmdline`] | the command line's words |
//! | [`init`] | the first thread: devices, mount, the command |
//! | [`system`] | the kernel as commands see it |
//! | [`adapters`] | what ties kernel, drivers and storage stack together |
//! | [`selftest`] | the kernel's tests, run in the guest |
//!
//! Owns: the order of things. Everything with substance lies in the crates it ties.

#![no_std]
#![no_main]

extern crate alloc;

mod adapters;
mod bringup;
mod cmdline;
mod entry;
mod init;
mod pvh;
mod selftest;
mod system;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    holdfast_kernel::debug::panic(info)
}
