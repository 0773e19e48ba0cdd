//! The bootable image, as cargo builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::failure::Failure;
use crate::process::Running;
use crate::workspace::Workspace;

/// The package of the bootable image.
const PACKAGE: &str = "holdfast-boot";
/// Its binary.
const BINARY: &str = "holdfast";

/// Builds the image with the given features and returns where it lies.
/// Cargo's own words go to standard error.
pub fn build(workspace: &Workspace, features: &[&str]) -> Result<PathBuf> {
    let mut cargo = cargo(workspace);
    cargo.args(["build", "--release", "--quiet", "--package", PACKAGE]);
    cargo.arg("--message-format=json-render-diagnostics");
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    let built = run(&mut cargo)?;
    let failed = || Failure::Build { package: PACKAGE.into() };
    executables(&built)
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name == BINARY))
        .with_context(failed)
}

/// Builds the image with features into a place of its own, so that it can be
/// booted beside the plain one.
pub fn build_apart(workspace: &Workspace, features: &[&str]) -> Result<PathBuf> {
    let built = build(workspace, features)?;
    let apart = workspace.target()?.join(format!("{BINARY}-{}", features.join("-")));
    std::fs::copy(&built, &apart)
        .with_context(|| format!("cannot copy the image to {}", apart.display()))?;
    Ok(apart)
}

/// Names the image to boot, so that a test run builds it once.
pub const VARIABLE: &str = "HOLDFAST_KERNEL";

/// The image that the environment names, or a fresh one.
pub fn given_or_built(workspace: &Workspace) -> Result<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(image) => Ok(image.into()),
        None => build(workspace, &[]),
    }
}

/// A cargo command on the workspace.
pub fn cargo(workspace: &Workspace) -> Command {
    // Under `cargo run` the variable names the very cargo in use.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace.root());
    cargo
}

/// Runs a cargo command that prints JSON messages; they are returned.
fn run(cargo: &mut Command) -> Result<Vec<Value>> {
    use std::io::Read;
    cargo.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::start(cargo)?;
    let mut text = String::new();
    if let Some(mut pipe) = running.child().stdout.take() {
        pipe.read_to_string(&mut text)?;
    }
    let status = running.wait(None)?;
    if !status.is_some_and(|status| status.success()) {
        return Err(Failure::Build { package: PACKAGE.into() }.into());
    }
    Ok(messages(&text))
}

/// The JSON messages in cargo's output.
pub fn messages(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The programs that cargo's messages name.
pub fn executables(messages: &[Value]) -> Vec<PathBuf> {
    messages
        .iter()
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str())
        .map(|path| Path::new(path).to_path_buf())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_program_out_of_cargos_messages() {
        let text = "noise\n{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                    {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/holdfast\"}\n\
                    {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executables(&messages(text)), [PathBuf::from("/t/release/holdfast")]);
    }
}
