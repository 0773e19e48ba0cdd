//! The guest's commands: what a person or a script can type.
//!
//! ```text
//! script / shell / one argv --> run() --> a command --> Process (Linux's calls)
//!                                              \------> System  (threads, memory, counters)
//! ```
//!
//! | module     | owns |
//! |------------|------|
//! | `registry` | the table of commands, `run` |
//! | `context`  | a command's output buffer and diagnostics |
//! | `system`   | [`System`]: what commands ask of the kernel besides files |
//! | `host`     | [`System`] on an image file, for the host alone |
//! | `script`   | scripts: words, background lines, `wait` |
//! | `shell`    | the interactive prompt |
//! | `files`    | ls, cat, stat, readlink, getfattr, sha256sum, hexdump, df, ... |
//! | `change`   | mkdir, rm, mv, ln, cp, dd, touch, chmod, setfattr, ... |
//! | `fsck`     | the check of a whole file system |
//! | `status`   | ps, free, uptime, dmesg, mount, drop_caches, sync |
//! | `xfs_io`   | the file exerciser, command strings as in xfsprogs |
//! | `bench`    | the figures |
//! | `race`     | one race on one file, step by step (lab builds) |
//! | `mainjob`  | the main job: overwrite under memory pressure, verify, report |
//!
//! Owns: formats and exit statuses. Does not own: files (`holdfast_fs`), threads and
//! memory (the kernel, through [`System`]). Locks: none but those of its own jobs' models.
//! The same code runs on the host, where the tests compare it with the original tools.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod bench;
mod change;
mod context;
mod date;
mod files;
mod fsck;
#[cfg(feature = "std")]
pub mod host;
pub mod mainjob;
mod options;
mod race;
mod registry;
pub mod script;
pub mod shell;
mod status;
pub mod system;
mod text;
mod xfs_io;

pub use context::{Context, Status, write_all};
pub use registry::{command_names, run};
pub use system::{MemoryFigures, MountInfo, System, ThreadInfo};
