//! The host side of Holdfast: everything `run.sh` does.
//!
//! The way of a run, from the top down:
//!
//! - [`cli`] reads the command line into options;
//! - [`tools`] finds the programs of the machine and installs what is missing;
//! - [`image`] makes disks with `mkfs.xfs`;
//! - [`kernel_image`] has cargo build the bootable image;
//! - [`accel`] decides between KVM and TCG;
//! - [`machine`] turns all that into a QEMU command line;
//! - [`guest`] runs it: console, log, time limit, exit status;
//! - [`main_job`] is what `./run.sh` does without arguments, [`judge`] its verdicts;
//! - [`newer`] has xfsprogs and a kernel of a newer Debian, for features too new for the machine;
//! - [`linux_guest`] boots a real Linux with XFS, the external judge of the tests;
//! - [`testing`] is `./run.sh test`: it runs every kind of test and reports;
//! - [`e2e`] holds the end-to-end tests.
//!
//! It does not own any knowledge of the guest beyond the protocol on the
//! kernel command line, the two serial channels and the exit port, all of
//! which stand in [`guest::protocol`].

#![deny(unsafe_code)]

pub mod accel;
pub mod cli;
pub mod disk;
pub mod e2e;
pub mod failure;
pub mod guest;
pub mod image;
pub mod judge;
pub mod kernel_image;
pub mod linux_guest;
pub mod machine;
pub mod main_job;
pub mod newer;
pub mod pattern;
pub mod process;
pub mod session;
pub mod symbols;
pub mod terminal;
pub mod testing;
pub mod tools;
pub mod workspace;
