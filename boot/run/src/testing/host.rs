//! Unit and property tests of the crates on the host, per feature set.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::case::Selection;
use super::libtest::{Reader, Word};
use super::report::{Outcome, Report};
use super::{add, fail};
use crate::kernel_image::{cargo, messages};
use crate::newer;
use crate::process::{self, Running};
use crate::workspace::Workspace;

/// A crate with one choice of features.
struct Set {
    /// Its name in the report.
    name: &'static str,
    package: &'static str,
    /// Arguments of cargo: features, and targets where not all are meant.
    features: &'static [&'static str],
}

/// Everything that is tested on the host.
const SETS: [Set; 9] = [
    Set { name: "sync", package: "holdfast-sync", features: &["--features", "check"] },
    Set {
        name: "sync-shuttle",
        package: "holdfast-sync",
        features: &["--features", "shuttle,check"],
    },
    Set { name: "fs", package: "holdfast-fs", features: &["--features", "check"] },
    Set {
        name: "fs-shuttle",
        package: "holdfast-fs",
        // Locks of Shuttle work inside of its scheduler only: the other tests
        // cannot use them.
        features: &["--features", "shuttle", "--test", "shuttle", "--test", "block_schedules"],
    },
    Set {
        name: "fs-lab",
        package: "holdfast-fs",
        features: &[
            "--features",
            "check,lab",
            "--test",
            "races",
            "--test",
            "races_xfs",
            "--test",
            "guards",
        ],
    },
    Set {
        name: "fs-lab-shuttle",
        package: "holdfast-fs",
        features: &["--features", "shuttle,check,lab", "--test", "races"],
    },
    Set { name: "drivers", package: "holdfast-drivers", features: &[] },
    Set { name: "commands", package: "holdfast-commands", features: &[] },
    Set { name: "run", package: "holdfast-run", features: &[] },
];

/// How long one test program may take.
const LIMIT: Duration = Duration::from_secs(900);

/// A test program that cargo built.
struct Program {
    path: PathBuf,
    /// Where cargo would run it.
    directory: PathBuf,
}

/// Builds and runs them all. `newer` is the directory of the newer xfsprogs.
pub fn run(
    workspace: &Workspace,
    selection: &Selection,
    report: &Mutex<Report>,
    newer: Option<&Path>,
) {
    for set in &SETS {
        let group = format!("host::{}", set.name);
        if !selection.may_select(&group) {
            continue;
        }
        println!("\n== {group} ({} {})", set.package, set.features.join(" "));
        let start = Instant::now();
        let programs = match build(workspace, set) {
            Ok(programs) => programs,
            Err(error) => {
                fail(report, &format!("{group}::build"), &format!("{error:#}"));
                continue;
            }
        };
        println!("built in {:.0} s", start.elapsed().as_secs_f64());
        for program in &programs {
            let start = Instant::now();
            let name = program.path.file_name().unwrap_or_default().to_string_lossy();
            if let Err(error) = run_program(&group, program, selection, report, newer) {
                fail(report, &format!("{group}::{name}"), &format!("{error:#}"));
            }
            println!("{name} took {:.0} s", start.elapsed().as_secs_f64());
        }
        if selection.is_all()
            && let Err(error) = run_documentation(workspace, &group, set, report)
        {
            fail(report, &format!("{group}::documentation"), &format!("{error:#}"));
        }
    }
}

fn build(workspace: &Workspace, set: &Set) -> Result<Vec<Program>> {
    let mut cargo = cargo(workspace);
    cargo.args(["test", "--no-run", "--quiet", "--message-format=json-render-diagnostics"]);
    cargo.args(["--package", set.package]).args(set.features);
    let output = process::capture(&mut cargo)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("cargo cannot build the tests\n{}", process::last(&text, 60));
    }
    let messages = messages(&String::from_utf8_lossy(&output.stdout));
    let program = |message: &serde_json::Value| {
        let is_test = message["profile"]["test"] == true;
        let directory = Path::new(message["manifest_path"].as_str()?).parent()?;
        let path = message["executable"].as_str().filter(|_| is_test)?;
        Some(Program { path: path.into(), directory: directory.into() })
    };
    Ok(messages.iter().filter_map(program).collect())
}

/// Runs one test program, telling each test as it ends.
fn run_program(
    group: &str,
    program: &Program,
    selection: &Selection,
    report: &Mutex<Report>,
    newer: Option<&Path>,
) -> Result<()> {
    let mut command = Command::new(&program.path);
    command.envs(newer.map(|directory| (newer::VARIABLE, directory)));
    command.current_dir(&program.directory).env("CARGO_MANIFEST_DIR", &program.directory);
    command.args(["--test-threads", "2"]);
    if !selection.is_all() {
        let wanted = wanted(group, program, selection)?;
        if wanted.is_empty() {
            return Ok(());
        }
        command.arg("--exact").args(&wanted);
    }
    watch(group, &mut command, report)
}

/// The names of the program's tests that are selected.
fn wanted(group: &str, program: &Program, selection: &Selection) -> Result<Vec<String>> {
    let mut command = Command::new(&program.path);
    command.current_dir(&program.directory).args(["--list", "--format", "terse"]);
    let listed = process::output(&mut command)?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names
        .filter(|name| selection.selects(&format!("{group}::{name}")))
        .map(str::to_owned)
        .collect())
}

/// The examples in a crate's documentation, once a crate.
fn run_documentation(
    workspace: &Workspace,
    group: &str,
    set: &Set,
    report: &Mutex<Report>,
) -> Result<()> {
    let again = SETS.iter().find(|other| other.package == set.package);
    if again.is_some_and(|first| first.name != set.name) {
        return Ok(());
    }
    let mut cargo = cargo(workspace);
    cargo.args(["test", "--doc", "--quiet", "--package", set.package]).args(set.features);
    cargo.args(["--", "--test-threads", "2", "--format", "pretty"]);
    watch(&format!("{group}::documentation"), &mut cargo, report)
}

/// Runs a program that prints as libtest does.
fn watch(group: &str, command: &mut Command, report: &Mutex<Report>) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(command)?;
    let out = running.child().stdout.take().context("no output")?;
    let err = running.child().stderr.take().context("no error output")?;
    let mut reader = Reader::new();
    let (status, noise) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_tests(group, out, &mut reader, report));
        let noise = scope.spawn(|| {
            let mut text = Vec::new();
            let _ = BufReader::new(err).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let status = running.wait(Some(LIMIT));
        if !matches!(status, Ok(Some(_))) {
            running.kill();
        }
        let _ = reading.join();
        (status, noise.join().unwrap_or_default())
    });
    for (name, word) in reader.seen() {
        if *word == Word::Failed {
            let why = format!("{}\n{}", reader.detail(name), process::last(&noise, 20));
            fail(report, &format!("{group}::{name}"), why.trim());
        }
    }
    let failed = reader.seen().iter().any(|(_, word)| *word == Word::Failed);
    match status? {
        None => anyhow::bail!("no end after {} s\n{}", LIMIT.as_secs(), process::last(&noise, 40)),
        Some(status) if !reader.is_whole() || (!status.success() && !failed) => {
            let how = process::describe(status);
            anyhow::bail!("the test program ended with {how}\n{}", process::last(&noise, 40))
        }
        Some(_) => Ok(()),
    }
}

/// Reports what passes at once; failures wait for their output.
fn read_tests(group: &str, out: impl Read, reader: &mut Reader, report: &Mutex<Report>) {
    for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        match reader.line(&line) {
            Some((name, Word::Ok)) => {
                let name = format!("{group}::{name}");
                add(report, Outcome::new(name, None, Duration::ZERO));
            }
            Some((name, Word::Ignored)) => {
                println!("left to another test or a command: {group}::{name}");
            }
            Some((_, Word::Failed)) | None => {}
        }
    }
}
