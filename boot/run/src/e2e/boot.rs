//! Booting: machines, processors, memory, time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::cli::Cli;
use crate::guest::protocol::Work;
use crate::guest::{Input, Run};
use crate::session::Session;
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("e2e::boot::sixteen_mib_mount_and_read", sixteen_mib),
        Case::new("e2e::boot::too_little_memory_is_told", too_little_memory),
        Case::new("e2e::boot::icount", icount),
        Case::new("e2e::boot::accel_auto_never_hangs", accel_auto),
        Case::new("e2e::boot::time_to_mounted", time_to_mounted).alone(),
    ];
    for (name, options) in VARIANTS {
        let name = format!("e2e::boot::reads_all_files::{name}");
        cases.push(Case::new(name, move |workspace| reads_all_files(workspace, options)));
    }
    cases
}

/// Ways to boot that must make no difference to what is read.
const VARIANTS: [(&str, &str); 10] = [
    ("q35_qboot", "--firmware qboot"),
    ("q35_seabios", "--firmware seabios"),
    ("microvm", "--machine microvm"),
    ("microvm_smp4", "--machine microvm --smp 4"),
    ("smp1", "--smp 1"),
    ("smp4", "--smp 4"),
    ("cache_writeback", "--cache writeback"),
    ("cache_unsafe", "--cache unsafe"),
    ("page_cache_1m", "--page-cache 1M"),
    ("readonly", "--readonly"),
];

fn reads_all_files(workspace: &Workspace, options: &str) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).with(options);
    let manifest = holdfast.run_line("sha256sum -r /")?.success()?.manifest()?;
    super::harness::same(&image.manifest, &manifest)?;
    image.is_clean()
}

fn sixteen_mib(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    for processors in ["1", "2"] {
        let holdfast = Holdfast::new(workspace).disk(&image.path).with("--mem 16M --smp");
        let output = holdfast.with(processors).run_line("sha256sum -r /")?.success()?;
        super::harness::same(&image.manifest, &output.manifest()?)?;
    }
    Ok(())
}

fn too_little_memory(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).with("--mem 4M").unlimited();
    let output = holdfast.with("--timeout 30").run_line("ls /")?;
    let honest = matches!(output.status, Some(0 | 32 | 125 | 126));
    ensure!(honest, "status {:?} with 4 MiB:\n{}", output.status, output.stderr);
    Ok(())
}

fn icount(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let words = ["-icount shift=0,sleep=on", "-icount shift=0,sleep=on -smp 1"];
    for word in words {
        let holdfast = Holdfast::new(workspace).disk(&image.path).word("--qemu").word(word);
        holdfast.run_line("cat /hello.txt")?.success()?.prints("hello from the disk\n")?;
    }
    Ok(())
}

fn accel_auto(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    // Forget what is known, so that the proof is run.
    let _ = std::fs::remove_file(workspace.target()?.join("kvm-works"));
    let start = std::time::Instant::now();
    let holdfast = Holdfast::new(workspace).disk(&image.path).with("--accel auto");
    holdfast.run_line("cat /hello.txt")?.success()?.prints("hello from the disk\n")?;
    ensure!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
    Ok(())
}

/// Measures; fails only when booting has become slow beyond any noise.
fn time_to_mounted(workspace: &Workspace) -> Result<()> {
    const LIMIT: Duration = Duration::from_millis(1000);
    let image = Image::small(workspace)?;
    let words = ["run.sh", "--accel", "tcg", "--disk"].map(std::ffi::OsString::from);
    let words = words.into_iter().chain([image.path.clone().into_os_string()]);
    let cli = Cli::from_args(words)?;
    let session = Session::new(workspace, &cli.options, Work::Command(vec![b"sync".to_vec()]))?;
    let mut times = Vec::new();
    for _ in 0..7 {
        let run = Run {
            machine: session.machine(),
            root: workspace.root(),
            input: Input::None,
            output: &mut std::io::sink(),
            log: &mut std::io::sink(),
            limit: Some(Duration::from_secs(30)),
        };
        times.push(run.to_the_end()?.mounted_after.context("the log does not say `mounted`")?);
    }
    times.sort();
    let milliseconds = |time: &Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
    let list: Vec<String> = times.iter().map(milliseconds).collect();
    println!("note: QEMU start to mounted, ms, sorted: {}", list.join(" "));
    ensure!(times[3] < LIMIT, "the median of {times:?} is above {LIMIT:?}");
    Ok(())
}
