//! End-to-end tests: what a user would see, judged from outside.
//!
//! A test is a function of the workspace that returns an error when it fails;
//! it is listed in its module's `cases` under its name. `harness` starts the
//! program as a user does, and checks what came out.

mod bad_images;
mod boot;
mod by_turns;
mod command_line;
mod crash_lab;
mod disks;
mod fsck;
mod geometry;
mod harness;
mod io_errors;
mod linux_dirty;
mod linux_populated;
mod main_job;
mod matrix;
mod overwrite;
mod script;
mod writing;

use crate::testing::case::Case;

/// All end-to-end tests. Those that take minutes come first, for the run ends with the last:
/// one that is begun late runs beside nothing.
pub fn cases() -> Vec<Case> {
    [
        linux_populated::cases(),
        by_turns::cases(),
        linux_dirty::cases(),
        writing::cases(),
        command_line::cases(),
        script::cases(),
        boot::cases(),
        disks::cases(),
        geometry::cases(),
        bad_images::cases(),
        io_errors::cases(),
        overwrite::cases(),
        fsck::cases(),
        matrix::cases(),
        crash_lab::cases(),
        main_job::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
