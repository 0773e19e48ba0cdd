//! The feature matrix with features that take a newer mkfs.xfs than the machine's: tests
//! of `fs` that get its programs.

use anyhow::{Result, ensure};

use crate::kernel_image;
use crate::newer::{self, Xfsprogs};
use crate::process;
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![Case::new("e2e::matrix::pairs_with_newer_features", newer_features).with_newer()]
}

fn newer_features(workspace: &Workspace) -> Result<()> {
    let programs = Xfsprogs::get(workspace)?;
    let mut cargo = kernel_image::cargo(workspace);
    cargo.args(["test", "--quiet", "--package", "holdfast-fs", "--features", "check"]);
    cargo.args(["--test", "matrix", "--", "--ignored", "pairs_with_newer_features"]);
    cargo.env(newer::VARIABLE, programs.directory());
    let output = String::from_utf8_lossy(&process::output(&mut cargo)?).into_owned();
    ensure!(output.contains("1 passed"), "not all tests ran:\n{output}");
    Ok(())
}
