//! `./run.sh test`: every kind of test, one report.
//!
//! | suite    | what                                                        | where            |
//! |----------|-------------------------------------------------------------|------------------|
//! | `tidy`   | format, lints, documentation, direction of dependencies     | [`tidy`]         |
//! | `host`   | unit and property tests of the crates, per feature set      | [`host`]         |
//! | `kernel` | the kernel's own tests in QEMU, per machine and processor   | [`kernel`]       |
//! | `e2e`    | the command line, images, judges                            | [`crate::e2e`]   |
//!
//! A test's full name is `suite::…::name`; a filter selects those that
//! contain it, and one that starts with a suite's name keeps the others from
//! being built. Tests of `tidy` and `e2e` run in a process of their own each:
//! what goes wrong there, goes wrong there.

pub mod case;
pub mod host;
pub mod kernel;
pub mod libtest;
pub mod report;
pub mod tidy;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cli::{Judge, TestOptions};
use crate::e2e;
use crate::kernel_image;
use crate::linux_guest::prepare;
use crate::newer::{self, Xfsprogs};
use crate::process::{self, Running};
use crate::workspace::Workspace;
use case::{Case, Selection};
use report::{Outcome, Report};

/// Tests that run at the same time where they allow it.
const WORKERS: usize = 2;
/// How long one test of our own may take.
const LIMIT: Duration = Duration::from_secs(900);

/// All the tests that this driver runs itself, each in its own process.
pub fn own_cases() -> Vec<Case> {
    let mut cases = tidy::cases();
    cases.extend(e2e::cases());
    cases
}

/// Runs the tests; the status to exit with.
pub fn run(workspace: &Workspace, options: &TestOptions) -> Result<u8> {
    if options.list {
        own_cases().iter().for_each(|case| println!("{}", case.name));
        return Ok(0);
    }
    let start = Instant::now();
    let selection = Selection::new(options.filter.clone());
    let report = Mutex::new(Report::new());
    let without = &options.without;
    if selection.may_select("tidy") {
        run_own(workspace, "tidy::", &selection, &report, without)?;
    }
    if selection.may_select("host") {
        let newer = newer_programs(workspace, &selection, &report, without);
        host::run(workspace, &selection, &report, newer.as_deref());
    }
    if selection.may_select("kernel") {
        kernel::run(workspace, &selection, &report);
    }
    if selection.may_select("e2e") {
        run_own(workspace, "e2e::", &selection, &report, without)?;
    }
    let report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let junit = workspace.target()?.join("junit.xml");
    report.write_junit(&junit)?;
    report.print_end(start.elapsed());
    Ok(u8::from(!report.all_good()))
}

/// Runs the selected tests of our own whose names start with `suite`.
fn run_own(
    workspace: &Workspace,
    suite: &str,
    selection: &Selection,
    report: &Mutex<Report>,
    without: &[Judge],
) -> Result<()> {
    let mut cases = own_cases();
    cases.retain(|case| case.name.starts_with(suite) && selection.selects(&case.name));
    let (linux, newer) = (Judge::LinuxGuest, Judge::NewerXfsprogs);
    leave_out(&mut cases, without.contains(&linux), "linux-guest", |case| case.needs_linux);
    leave_out(&mut cases, without.contains(&newer), "newer-xfsprogs", |case| case.needs_newer);
    if cases.is_empty() {
        return Ok(());
    }
    println!("\n== {} tests", suite.trim_end_matches("::"));
    let mut environment = Vec::new();
    if suite == "e2e::" {
        let Some(image) = ready(workspace, &cases, report) else { return Ok(()) };
        environment.push((kernel_image::VARIABLE, image));
    }
    let (alone, together): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.alone);
    // A copy of this program: run.sh may build a new one while tests run.
    let scratch = workspace.scratch()?;
    let program = scratch.path().join("holdfast-run");
    std::fs::copy("/proc/self/exe", &program).context("cannot copy this program")?;
    let runner = Runner { workspace, program: &program, environment: &environment };
    runner.run_all(together, WORKERS, report);
    runner.run_all(alone, 1, report);
    Ok(())
}

/// The directory of the newer xfsprogs for tests of `fs` on the host, which ask their judge
/// where they make what the machine's own does not know.
fn newer_programs(
    workspace: &Workspace,
    selection: &Selection,
    report: &Mutex<Report>,
    without: &[Judge],
) -> Option<PathBuf> {
    if !selection.may_select("host::fs") || without.contains(&Judge::NewerXfsprogs) {
        return None;
    }
    match Xfsprogs::get(workspace) {
        Ok(programs) => Some(programs.directory().to_path_buf()),
        Err(error) => {
            fail(report, "host::newer_xfsprogs_can_be_had", &newer::unavailable(&error));
            None
        }
    }
}

/// Takes out the tests that cannot do without a judge that the user does without.
fn leave_out(cases: &mut Vec<Case>, asked: bool, judge: &str, needs: impl Fn(&Case) -> bool) {
    if !asked {
        return;
    }
    for case in cases.iter().filter(|case| needs(case)) {
        println!("left out (--without {judge}): {}", case.name);
    }
    cases.retain(|case| !needs(case));
}

/// Builds and prepares once what many tests need, so that none of them is
/// charged for it; returns the image.
fn ready(workspace: &Workspace, cases: &[Case], report: &Mutex<Report>) -> Option<PathBuf> {
    let image = match kernel_image::build(workspace, &[]) {
        Ok(image) => image,
        Err(error) => {
            fail(report, "e2e::build_the_image", &format!("{error:#}"));
            return None;
        }
    };
    if cases.iter().any(|case| case.needs_linux)
        && let Err(error) = prepare::guest(workspace)
    {
        fail(report, "e2e::linux_guest_can_be_had", &prepare::unavailable(&error));
    }
    if cases.iter().any(|case| case.needs_newer)
        && let Err(error) = Xfsprogs::get(workspace)
    {
        fail(report, "e2e::newer_xfsprogs_can_be_had", &newer::unavailable(&error));
    }
    if cases.iter().any(|case| case.needs_newer && case.needs_linux)
        && let Err(error) = prepare::newer_guest(workspace)
    {
        fail(report, "e2e::newer_linux_guest_can_be_had", &newer::unavailable(&error));
    }
    Some(image)
}

/// Adds a failed test.
pub fn fail(report: &Mutex<Report>, name: &str, why: &str) {
    add(report, Outcome::new(name.into(), Some(why.into()), Duration::ZERO));
}

/// Adds a test's outcome.
pub fn add(report: &Mutex<Report>, outcome: Outcome) {
    report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(outcome);
}

/// What the processes of tests have in common.
struct Runner<'a> {
    workspace: &'a Workspace,
    program: &'a Path,
    /// Variables for them.
    environment: &'a [(&'static str, PathBuf)],
}

/// What starts a line of a test's output that is shown though it passed.
const NOTE: &str = "note: ";

impl Runner<'_> {
    /// Runs tests, so many at a time.
    fn run_all(&self, cases: Vec<Case>, workers: usize, report: &Mutex<Report>) {
        let queue = Mutex::new(VecDeque::from(cases));
        let next = || queue.lock().ok()?.pop_front();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(case) = next() {
                        let start = Instant::now();
                        let (notes, error) = match self.run(&case) {
                            Ok(notes) => (notes, None),
                            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
                        };
                        let took = start.elapsed();
                        add(report, Outcome { name: case.name, error, took, notes });
                    }
                });
            }
        });
    }

    /// Runs one test in a process of its own; returns its notes.
    fn run(&self, case: &Case) -> Result<Vec<String>> {
        let scratch = self.workspace.scratch()?;
        let log = scratch.path().join("log");
        let file = std::fs::File::create(&log)?;
        let mut command = Command::new(self.program);
        command.args(["run-case", &case.name]).env("HOLDFAST_ROOT", self.workspace.root());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut running = Running::start(&mut command)?;
        let status = running.wait(Some(LIMIT))?;
        drop(running);
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let end = process::last(&text, 60);
        let note = |line: &str| line.strip_prefix(NOTE).map(str::to_owned);
        match status {
            Some(status) if status.success() => Ok(text.lines().filter_map(note).collect()),
            Some(status) => anyhow::bail!("{}\n{end}", process::describe(status)),
            None => anyhow::bail!("no end after {} s\n{end}", LIMIT.as_secs()),
        }
    }
}

/// `run.sh run-case NAME`: one of our own tests, in this process.
pub fn run_case(workspace: &Workspace, name: &str) -> Result<()> {
    let case = own_cases().into_iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("no test is called {name}"))?;
    case.run(workspace)
}
