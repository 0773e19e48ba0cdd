//! Real I/O errors, from QEMU's blkdebug below the disk: they travel up as
//! errors of the calls, and everything else goes on.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::process;
use crate::testing::case::Case;
use crate::tools;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::io_errors::read_of_data", read_of_data),
        Case::new("e2e::io_errors::read_of_metadata", read_of_metadata),
        Case::new("e2e::io_errors::read_of_the_superblock", read_of_the_superblock),
        Case::new("e2e::io_errors::writeback_is_told_at_fsync", writeback),
        Case::new("e2e::io_errors::writeback_is_told_at_msync", writeback_of_a_mapping),
        Case::new("e2e::io_errors::flush", flush),
        Case::new("e2e::io_errors::load_from_a_mapping", load_from_a_mapping),
    ]
}

/// A guest whose disk fails as a blkdebug rule says.
fn faulty<'a>(workspace: &'a Workspace, image: &Path, rule: &str) -> Result<Holdfast<'a>> {
    let file = image.to_str().context("a name that is no text")?;
    let nodes = format!(
        "-blockdev driver=file,node-name=file,filename={file} \
         -blockdev driver=blkdebug,node-name=faulty,image=file,{rule}"
    );
    Ok(Holdfast::new(workspace).word("--qemu").word(nodes).with("--disk node:faulty"))
}

/// A rule that fails every access of a kind to a sector.
fn rule(kind: &str, sector: Option<u64>) -> String {
    let place = sector.map_or(String::new(), |sector| format!(",inject-error.0.sector={sector}"));
    format!(
        "inject-error.0.event=none,inject-error.0.iotype={kind},inject-error.0.errno=5{place},\
         inject-error.0.once=off"
    )
}

/// What xfs_db answers to some commands.
fn xfs_db(image: &Path, commands: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::need(&tools::XFS_DB)?);
    command.arg("-r");
    for text in commands {
        command.args(["-c", text]);
    }
    let output = process::output(command.arg(image))?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// The first sector of a file's data.
fn first_sector(image: &Path, path: &str) -> Result<u64> {
    let map = xfs_db(image, &[&format!("path {path}"), "bmap"])?;
    let words: Vec<&str> = map.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "startblock").context("no extent")?;
    let block = words.get(at + 1).context("no block")?;
    let answer = xfs_db(image, &[&format!("convert fsblock {block} daddr")])?;
    let inside = answer.split_once('(').and_then(|(_, rest)| rest.split(')').next());
    inside.and_then(|text| text.parse().ok()).with_context(|| format!("xfs_db printed {answer:?}"))
}

fn read_of_data(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let sector = first_sector(&image.path, "/big.dat")?;
    let holdfast = faulty(workspace, &image.path, &rule("read", Some(sector + 4096)))?;
    let output = holdfast.run_line("cat /big.dat")?.no_panic()?.expect(1)?;
    let output = output.complains("Input/output error")?;
    let whole = image.bytes_of(workspace, "/big.dat")?;
    ensure!(whole.starts_with(&output.stdout), "wrong bytes came before the error");
    ensure!(output.stdout.len() < whole.len(), "nothing is missing");
    let other = holdfast.run_line("cat /hello.txt")?.success()?;
    other.prints("hello from the disk\n")?;
    Ok(())
}

fn read_of_metadata(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let sector = first_sector(&image.path, "/many")?;
    let holdfast = faulty(workspace, &image.path, &rule("read", Some(sector)))?;
    // ls' own status for trouble with what it was asked to list.
    let output = holdfast.run_line("ls /many")?.no_panic()?.expect(2)?;
    output.complains("Input/output error")?;
    holdfast.run_line("cat /hello.txt")?.success()?.prints("hello from the disk\n")?;
    Ok(())
}

fn read_of_the_superblock(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = faulty(workspace, &image.path, &rule("read", Some(0)))?;
    holdfast.run_line("ls /")?.no_panic()?.expect(32)?.prints("")?;
    Ok(())
}

fn writeback(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let sector = first_sector(&image.path, "/big.dat")?;
    let holdfast = faulty(workspace, &image.path, &rule("write", Some(sector + 64)))?;
    let write = ["xfs_io", "-c", "pwrite -q -S 1 0 1000000", "-c", "fsync", "/big.dat"];
    let output = holdfast.run(&write)?.no_panic()?.expect(1)?;
    output.complains("fsync")?.complains("Input/output error")?;
    // A place that does not fail is written, and its fsync succeeds.
    let fine = ["xfs_io", "-c", "pwrite -q -S 1 4194304 5000", "-c", "fsync", "/big.dat"];
    holdfast.run(&fine)?.success()?;
    Ok(())
}

fn writeback_of_a_mapping(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let sector = first_sector(&image.path, "/big.dat")?;
    let holdfast = faulty(workspace, &image.path, &rule("write", Some(sector + 64)))?;
    let store = ["-c", "mmap -w 0 1m", "-c", "mwrite -S 1 0 1m", "-c", "msync -s", "/big.dat"];
    let words: Vec<&str> = std::iter::once("xfs_io").chain(store).collect();
    let output = holdfast.run(&words)?.no_panic()?.expect(1)?;
    output.complains("msync")?.complains("Input/output error")?;
    Ok(())
}

fn flush(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = faulty(workspace, &image.path, &rule("flush", None))?;
    let write = ["xfs_io", "-c", "pwrite -q -S 1 0 1000", "-c", "fsync", "/big.dat"];
    let output = holdfast.run(&write)?.no_panic()?.expect(1)?;
    output.complains("Input/output error")?;
    Ok(())
}

fn load_from_a_mapping(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let sector = first_sector(&image.path, "/big.dat")?;
    let holdfast = faulty(workspace, &image.path, &rule("read", Some(sector)))?;
    let load = ["xfs_io", "-r", "-c", "mmap -r 0 64k", "-c", "mread 0 64k", "/big.dat"];
    let output = holdfast.run(&load)?.no_panic()?;
    ensure!(
        output.status.is_some_and(|status| status != 0 && status < 124),
        "status {:?}\n{}",
        output.status,
        output.stderr
    );
    Ok(())
}
