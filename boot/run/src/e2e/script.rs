//! Scripts: words, comments, background lines, statuses.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::script::words_comments_and_blank_lines", words),
        Case::new("e2e::script::stops_at_the_first_failure", stops_at_the_first_failure),
        Case::new("e2e::script::background_failure_counts_at_wait", background_failure),
        Case::new("e2e::script::background_lines_run_at_once", background_lines_run_at_once),
        Case::new("e2e::script::long_and_many_lines", long_and_many_lines),
        Case::new("e2e::script::output_appears_as_it_is_written", output_appears),
        Case::new("e2e::script::an_empty_script_succeeds", empty),
    ]
}

fn words(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let text = "# a comment\n\n   cat   /hello.txt  # behind a command\n\
                cat '/block'/\"entry-1\" /block/entry-\\2\n\
                \tcat /block/'entry-3'\r\n\
                ls \"/emp\\\\ty\" '#' ";
    let output = Holdfast::new(workspace).disk(&image.path).script(text)?;
    let output = output.prints("hello from the disk\nentry 1\nentry 2\nentry 3\n")?;
    // The last line names two files that are not there; its words are whole.
    output.complains("/emp\\ty")?.complains("#")?;
    Ok(())
}

fn stops_at_the_first_failure(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    let script = "cat /block/entry-1\ncat /nothing\ncat /block/entry-2\n";
    holdfast.script(script)?.expect(1)?.prints("entry 1\n")?;
    let script = "cat /block/entry-1\nno-such-command\ncat /block/entry-2\n";
    holdfast.script(script)?.expect(127)?.prints("entry 1\n")?;
    let script = "cat /block/entry-1\ncat 'open\ncat /block/entry-2\n";
    let output = holdfast.script(script)?;
    ensure!(output.status != Some(0), "unbalanced quotes were taken");
    Ok(())
}

fn background_failure(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    let script = "cat /nothing &\ncat /block/entry-1\nwait\ncat /block/entry-2\n";
    holdfast.script(script)?.expect(1)?.prints("entry 1\n")?;
    let script = "cat /block/entry-1 &\nwait\ncat /block/entry-2\n";
    holdfast.script(script)?.success()?.prints("entry 1\nentry 2\n")?;
    Ok(())
}

fn background_lines_run_at_once(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let line = "xfs_io -r -c 'sleep 4' /hello.txt &\n";
    let script = format!("{}wait\n", line.repeat(8));
    let start = Instant::now();
    Holdfast::new(workspace).disk(&image.path).script(script)?.success()?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(4), "slept only {took:?}");
    ensure!(took < Duration::from_secs(24), "eight sleeps of 4 s took {took:?}");
    Ok(())
}

fn long_and_many_lines(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let long = format!("cat {}\n", "/block/entry-5 ".repeat(4300));
    ensure!((60_000..65_536).contains(&long.len()), "a line of {} bytes", long.len());
    let script = format!("{long}{}", "cat /block/entry-6\n".repeat(3000));
    let expected = "entry 5\n".repeat(4300) + &"entry 6\n".repeat(3000);
    Holdfast::new(workspace).disk(&image.path).script(script)?.success()?.prints(expected)?;
    Ok(())
}

fn output_appears(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let script = image.beside("script");
    std::fs::write(&script, "cat /hello.txt\nxfs_io -r -c 'sleep 5' /hello.txt\n")?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).word("--script").word(&script);
    let mut running = holdfast.start_running::<&str>(&[])?;
    let stdout = running.child().stdout.take().context("no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let seen = Instant::now();
    ensure!(line == "hello from the disk\n", "the first line is {line:?}");
    let ended = running.wait(Some(Duration::from_secs(60)))?.context("it goes on")?;
    ensure!(ended.success(), "ended with {ended}");
    ensure!(seen.elapsed() > Duration::from_secs(3), "the line came only with the end");
    Ok(())
}

fn empty(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    Holdfast::new(workspace).disk(&image.path).script("")?.success()?.prints("")?;
    Ok(())
}
