//! The main job, with little memory, other geometries, and its verdicts.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::harness::Holdfast;
use crate::judge::{self, Grub};
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = VARIANTS
        .into_iter()
        .map(|(name, options, mkfs)| {
            let name = format!("e2e::main_job::{name}");
            Case::new(name, move |workspace| main_job(workspace, options, mkfs)).alone()
        })
        .collect();
    cases.push(Case::new("e2e::main_job::refuses_the_users_disk", refuses_the_users_disk));
    cases
}

/// Names, options, arguments of mkfs.xfs.
const VARIANTS: [(&str, &str, &str); 6] = [
    ("as_it_comes", "", ""),
    ("in_64_mib", "--mem 64M", ""),
    ("small_blocks_4_cpus", "--data 64M --page-cache 8M --smp 4", "-b size=1024"),
    ("one_cpu", "--data 64M --page-cache 8M --smp 1", "-b size=2048 -m rmapbt=1"),
    ("microvm", "--data 64M --page-cache 8M --machine microvm", ""),
    ("sector_4096", "--data 64M --page-cache 8M", "-s size=4096"),
];

fn main_job(workspace: &Workspace, options: &str, mkfs: &str) -> Result<()> {
    let scratch = workspace.scratch()?;
    let json = scratch.path().join("result.json");
    let holdfast = Holdfast::new(workspace).with(options).word("--mkfs").word(mkfs);
    let holdfast = holdfast.word("--json").word(&json);
    let output = holdfast.unlimited().start::<&str>(&[])?.success()?;
    let text = output.text();
    ensure!(!text.contains("@@"), "lines for programs among those for people:\n{text}");
    ensure!(text.contains("judged by others"), "no verdicts:\n{text}");
    // What the run leaves behind can be checked by anybody.
    let target = workspace.target()?;
    let list = std::fs::read_to_string(target.join("main-job.sha256"))?;
    let manifest = judge::parse_manifest(&list)?;
    ensure!(!manifest.is_empty(), "an empty list of files");
    let image = target.join("main-job.img");
    Grub::find()?.compare(&image, &manifest).demand("grub-fstest")?;
    judge::repair(&image)?.demand("xfs_repair -n")?;
    let value: Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    let verdicts = value["verdicts"].as_object().context("no verdicts in the JSON")?;
    ensure!(verdicts.len() == 4, "{verdicts:?}");
    ensure!(verdicts.values().all(|verdict| verdict["good"] == true), "{verdicts:?}");
    Ok(())
}

fn refuses_the_users_disk(workspace: &Workspace) -> Result<()> {
    let image = super::harness::Image::small(workspace)?;
    let before = std::fs::read(&image.path)?;
    let output = Holdfast::new(workspace).disk(&image.path).start::<&str>(&[])?;
    output.expect(125)?.prints("")?.complains("main job")?;
    ensure!(std::fs::read(&image.path)? == before, "the user's disk was written");
    Ok(())
}
