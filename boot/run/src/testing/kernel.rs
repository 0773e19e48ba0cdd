//! The kernel's own tests, in QEMU, on every machine and processor.

use std::fs::File;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::case::Selection;
use super::report::{Outcome, Report};
use super::{add, fail};
use crate::cli::Cli;
use crate::failure::STATUS_PANIC;
use crate::guest::protocol::Work;
use crate::guest::{Ended, Input, Run};
use crate::kernel_image;
use crate::process;
use crate::session::Session;
use crate::workspace::Workspace;

/// How long one boot with all its tests may take.
const LIMIT: Duration = Duration::from_secs(240);
/// The features of the image under test: lock checks on.
const FEATURES: [&str; 1] = ["check"];

/// Machines with their firmware: a name and arguments of `run.sh`.
const MACHINES: [(&str, &[&str]); 3] = [
    ("q35-qboot", &["--machine", "q35", "--firmware", "qboot"]),
    ("q35-seabios", &["--machine", "q35", "--firmware", "seabios"]),
    ("microvm", &["--machine", "microvm"]),
];
/// Numbers of processors.
const PROCESSORS: [&str; 3] = ["1", "2", "4"];
/// Models of processors.
const MODELS: [&str; 2] = ["qemu64", "max"];

/// Words of the self test that must end in a report and status 126, and what
/// the report must name.
const FAILING: [(&str, &str); 8] = [
    ("panic", "the panic that was asked for"),
    ("overflow", "stack"),
    ("null", "fault"),
    ("stall", "watchdog"),
    ("lockup", "watchdog"),
    ("spin", "watchdog"),
    ("inversion", "lock"),
    ("atomic", "lock"),
];

/// Size of the disks made for the driver's tests.
const DISK_BYTES: u64 = 64 << 20;
/// A disk to write all over; `DISK` stands for its path.
const PLAIN_DISK: &[&str] = &["--disk", "DISK", "--kernel-arg", "selftest=disk"];
/// A disk that refuses writes.
const READONLY_DISK: &[&str] =
    &["--disk", "DISK", "--readonly", "--kernel-arg", "selftest=readonly"];
/// A disk that fails reads of sector 2048, writes of sector 4096, and flushes.
const FAULTY_DISK: &[&str] = &[
    "--qemu",
    "-blockdev driver=file,node-name=file,filename=DISK \
     -blockdev driver=blkdebug,node-name=faulty,image=file,\
     inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,\
     inject-error.0.sector=2048,inject-error.0.once=off,\
     inject-error.1.event=none,inject-error.1.iotype=write,inject-error.1.errno=5,\
     inject-error.1.sector=4096,inject-error.1.once=off,\
     inject-error.2.event=none,inject-error.2.iotype=flush,inject-error.2.errno=5,\
     inject-error.2.once=off",
    "--disk",
    "node:faulty",
    "--kernel-arg",
    "selftest=faulty",
];
/// The driver's tests: a name, the machine, the disk.
const DISK_BOOTS: [(&str, &[&str], &[&str]); 5] = [
    ("q35::smp1", &["--machine", "q35", "--smp", "1"], PLAIN_DISK),
    ("q35::smp4", &["--machine", "q35", "--smp", "4"], PLAIN_DISK),
    ("microvm::smp2", &["--machine", "microvm", "--smp", "2"], PLAIN_DISK),
    ("readonly", &["--smp", "2"], READONLY_DISK),
    ("faulty", &["--smp", "2"], FAULTY_DISK),
];

/// Boots them all.
pub fn run(workspace: &Workspace, selection: &Selection, report: &Mutex<Report>) {
    println!("\n== kernel tests in QEMU");
    let image = match kernel_image::build_apart(workspace, &FEATURES) {
        Ok(image) => image.to_string_lossy().into_owned(),
        Err(error) => return fail(report, "kernel::build", &format!("{error:#}")),
    };
    for (machine, arguments) in MACHINES {
        for processors in PROCESSORS {
            for model in MODELS {
                let group = format!("kernel::{machine}::smp{processors}::{model}");
                let cpu = format!("-cpu {model}");
                let mut words = vec!["--smp", processors, "--qemu", &cpu];
                words.extend(arguments);
                if selection.may_select(&group)
                    && let Err(error) =
                        self_tests(workspace, &image, &group, &words, selection, report)
                {
                    fail(report, &format!("{group}::boot"), &format!("{error:#}"));
                }
            }
        }
    }
    disks(workspace, &image, selection, report);
    for (word, sign) in FAILING {
        let name = format!("kernel::failing::{word}");
        if selection.selects(&name) {
            let start = Instant::now();
            let error = ends_in_a_report(workspace, &image, word, sign).err();
            let error = error.map(|error| format!("{error:#}"));
            add(report, Outcome::new(name, error, start.elapsed()));
        }
    }
}

/// The driver's tests on scratch disks: one to write all over, one that takes no writes,
/// one that fails where [`FAULTY_DISK`] says.
fn disks(workspace: &Workspace, image: &str, selection: &Selection, report: &Mutex<Report>) {
    for (name, arguments, disk) in DISK_BOOTS {
        let group = format!("kernel::disk::{name}");
        if !selection.may_select(&group) {
            continue;
        }
        let outcome = workspace.scratch().and_then(|scratch| {
            let path = scratch.path().join("disk");
            File::create(&path)?.set_len(DISK_BYTES)?;
            let path = path.to_string_lossy().into_owned();
            let words = [arguments, disk].concat();
            let words: Vec<String> = words.iter().map(|w| w.replace("DISK", &path)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self_tests(workspace, image, &group, &words, selection, report)
        });
        if let Err(error) = outcome {
            fail(report, &format!("{group}::boot"), &format!("{error:#}"));
        }
    }
}

/// One boot's end and what it said, on either channel.
fn boot(workspace: &Workspace, image: &str, words: &[&str]) -> Result<(Ended, String)> {
    let fixed = ["run.sh", "--kernel", image, "--accel", "tcg"];
    let cli = Cli::from_args(fixed.iter().chain(words).map(Into::into))?;
    let session = Session::new(workspace, &cli.options, Work::SelfTest)?;
    let mut console = Vec::new();
    let mut log = Vec::new();
    let run = Run {
        machine: session.machine(),
        root: workspace.root(),
        input: Input::None,
        output: &mut console,
        log: &mut log,
        limit: Some(LIMIT),
    };
    let ended = run.to_the_end();
    console.extend(log);
    let text = String::from_utf8_lossy(&console).into_owned();
    let ended = ended.with_context(|| process::last(&text, 40))?;
    Ok((ended, text))
}

/// What one test came to.
type Word = Result<Duration, String>;

/// `selftest NAME ok (N ms)` or `selftest NAME FAILED: why`.
fn test_line(line: &str) -> Option<(String, Word)> {
    let (name, rest) = line.trim_end().split_once("selftest ")?.1.split_once(' ')?;
    let word = if let Some(time) = rest.strip_prefix("ok (") {
        Ok(Duration::from_millis(time.strip_suffix(" ms)")?.parse().ok()?))
    } else {
        Err(rest.strip_prefix("FAILED")?.trim_start_matches([':', ' ']).to_owned())
    };
    Some((name.into(), word))
}

/// `selftest: N passed, M failed`: how many tests there were.
fn total(log: &str) -> Option<usize> {
    log.lines().find_map(|line| {
        let (passed, rest) = line.split_once("selftest: ")?.1.split_once(" passed, ")?;
        let failed = rest.trim_end().strip_suffix(" failed")?;
        Some(passed.parse::<usize>().ok()? + failed.parse::<usize>().ok()?)
    })
}

/// One boot with all the tests; they become tests of the report, and the boot
/// is one itself.
fn self_tests(
    workspace: &Workspace,
    image: &str,
    group: &str,
    words: &[&str],
    selection: &Selection,
    report: &Mutex<Report>,
) -> Result<()> {
    let (ended, log) = boot(workspace, image, words)?;
    let tests: Vec<(String, Word)> = log.lines().filter_map(test_line).collect();
    let (count, mut failed) = (tests.len(), 0);
    for (name, word) in tests {
        let name = format!("{group}::{name}");
        failed += usize::from(word.is_err());
        if selection.selects(&name) {
            let took = *word.as_ref().unwrap_or(&Duration::ZERO);
            add(report, Outcome::new(name, word.err(), took));
        }
    }
    let end = || process::last(&log, 40);
    ensure!(count > 0 && total(&log) == Some(count), "{count} tests were seen\n{}", end());
    let expected = u8::from(failed > 0);
    ensure!(ended.status == expected, "ended with status {}\n{}", ended.status, end());
    let name = format!("{group}::boot");
    if selection.selects(&name) {
        add(report, Outcome::new(name, None, ended.took));
    }
    Ok(())
}

/// What must not go on ends with status 126, a backtrace with names, and a
/// word on what it was.
fn ends_in_a_report(workspace: &Workspace, image: &str, word: &str, sign: &str) -> Result<()> {
    let argument = format!("selftest={word}");
    let (ended, log) = boot(workspace, image, &["--smp", "2", "--kernel-arg", &argument])?;
    let end = || process::last(&log, 60);
    ensure!(ended.status == STATUS_PANIC, "ended with status {}\n{}", ended.status, end());
    ensure!(log.to_lowercase().contains(sign), "the report does not say `{sign}`:\n{}", end());
    let named = log.lines().any(|line| line.contains("backtrace: 0x") && line.contains(".rs:"));
    ensure!(named, "no backtrace with names:\n{}", end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let time = Duration::from_millis(31);
        assert_eq!(test_line("selftest a::b ok (31 ms)"), Some(("a::b".into(), Ok(time))));
        let failed = ("c".into(), Err("1 is not 2".into()));
        assert_eq!(test_line("selftest c FAILED: 1 is not 2"), Some(failed));
        assert_eq!(test_line("selftest: 2 passed, 1 failed"), None);
        assert_eq!(total("x\nselftest: 2 passed, 1 failed\n"), Some(3));
        assert_eq!(total("selftest: 2 queues\nselftest: 8 passed, 0 failed\n"), Some(8));
        assert_eq!(total("selftest a ok (1 ms)"), None);
    }
}
