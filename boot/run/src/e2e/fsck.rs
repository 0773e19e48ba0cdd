//! `fsck` in the guest against `xfs_repair -n`: on whole images, on images with one
//! structure damaged by xfs_db each, and on what is no file system.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::image::{self, MIB, Recipe};
use crate::judge;
use crate::process;
use crate::testing::case::Case;
use crate::tools;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::fsck::agrees_with_xfs_repair", agrees),
        Case::new("e2e::fsck::exit_statuses", statuses),
    ]
}

/// A structure, and commands of xfs_db that damage it; its checksum is right afterwards.
type Damage = (&'static str, &'static [&'static str]);

const DAMAGES: [Damage; 22] = [
    ("counters of the superblock", &["sb 0", "write -d fdblocks 7"]),
    ("a superblock's copy", &["sb 1", "write -d agblocks 5000"]),
    ("AGF", &["agf 0", "write -d freeblks 5"]),
    ("AGF, length", &["agf 1", "write -d longest 3"]),
    ("AGI", &["agi 0", "write -d freecount 7"]),
    ("AGI, unlinked lists", &["agi 0", "write -d unlinked[3] 131"]),
    (
        "AGFL",
        &[
            "agfl 0",
            "write -d bno[1] 99999",
            "write -d bno[2] 99999",
            "write -d bno[3] 99999",
            "write -d bno[4] 99999",
            "write -d bno[5] 99999",
            "write -d bno[6] 99999",
        ],
    ),
    ("bnobt", &["agf 0", "addr bnoroot", "write -d recs[1].blockcount 77777"]),
    ("cntbt", &["agf 0", "addr cntroot", "write -d recs[1].startblock 17"]),
    ("inobt", &["agi 0", "addr root", "write -d recs[1].freecount 63"]),
    ("finobt", &["agi 0", "addr free_root", "write -d numrecs 0"]),
    ("rmapbt", &["agf 0", "addr rmaproot", "write -d recs[2].owner 7"]),
    ("refcountbt", &["agf 0", "addr refcntroot", "write -d recs[1].refcount 9"]),
    ("inode core, links", &["path /small", "write -d core.nlinkv2 3"]),
    ("inode core, blocks", &["path /small", "write -d core.nblocks 9"]),
    ("inode core, mode", &["path /small", "write -d core.mode 0"]),
    ("bmbt", &["path /many", "addr u3.bmbt.ptrs[1]", "write -d recs[2].startoff 0"]),
    ("directory block", &["path /block", "dblock 0", "write -d bu[3].inumber 190"]),
    ("directory leaf", &["path /leaf", "dblock 8388608", "write -d lents[1].address 7"]),
    ("attribute leaf", &["path /small", "ablock 0", "write -d entries[2].hashval 0x1"]),
    ("remote symlink", &["path /far", "dblock 0", "write -d owner 5"]),
    ("the tree of names", &["path /block", "dblock 0", "write -d bu[1].inumber 131"]),
];

/// An image with every one of these structures.
fn populated(workspace: &Workspace) -> Result<Image> {
    let recipe = Recipe::new(32 * MIB).mkfs("-m rmapbt=1 -d agcount=2");
    let image = Image::make(workspace, &recipe)?;
    let mut script = String::from("xfs_io -f -c 'pwrite -q -S 1 0 20000' /small\n");
    for number in 0..60 {
        let at = number * 8192;
        let _ = writeln!(script, "xfs_io -f -c 'pwrite -q -S 7 {at} 4096' -c fsync /many");
    }
    script.push_str("mkdir /block /leaf\n");
    for number in 100..130 {
        let _ = writeln!(script, "touch /block/an-entry-{number}");
    }
    for number in 1000..1400 {
        let _ = writeln!(script, "touch /leaf/an-entry-with-a-longer-name-{number}");
    }
    for number in 10..40 {
        let value = "-v value-that-takes-some-room";
        let _ = writeln!(script, "setfattr -n user.attribute-{number} {value}-{number} /small");
    }
    let _ = writeln!(script, "ln -s {} /far", "x".repeat(600));
    script.push_str("xfs_io -f -c 'reflink /small' /shared\n");
    Holdfast::new(workspace).disk(&image.path).script(script)?.success()?;
    image.is_clean().context("what Holdfast made")?;
    Ok(image)
}

/// Copies of the image, each damaged in one place.
fn damaged(image: &Image) -> Result<Vec<PathBuf>> {
    let xfs_db = tools::need(&tools::XFS_DB)?;
    let mut paths = Vec::new();
    for (number, (name, commands)) in DAMAGES.iter().enumerate() {
        let path = image.beside(&format!("damaged-{number}"));
        image::copy(&image.path, &path)?;
        let before = fs::read(&path)?;
        let mut command = Command::new(&xfs_db);
        command.arg("-x");
        for line in *commands {
            command.args(["-c", line]);
        }
        let output = process::capture(command.arg(&path))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(fs::read(&path)? != before, "{name}: xfs_db changed nothing: {text}");
        paths.push(path);
    }
    Ok(paths)
}

/// What `fsck` says of each disk of one boot, and all the lines it printed.
fn verdicts(workspace: &Workspace, disks: &[&Path]) -> Result<(Vec<u64>, String)> {
    let mut holdfast = Holdfast::new(workspace).with("--readonly");
    let mut script = String::new();
    for (letter, disk) in ('a'..).zip(disks) {
        holdfast = holdfast.disk(disk);
        // In the background: the first that finds something would end the script.
        let _ = writeln!(script, "fsck /dev/vd{letter} &");
    }
    script.push_str("wait\n");
    let output = holdfast.script(script)?.no_panic()?;
    let text = output.text();
    let mut errors = Vec::new();
    for letter in ('a'..).take(disks.len()) {
        let name = format!("/dev/vd{letter}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        let line = line.with_context(|| format!("nothing of {name}in\n{text}"))?;
        errors.push(match line.split(' ').next().unwrap_or_default() {
            "clean;" => 0,
            "nothing" => 1,
            count => count.parse().with_context(|| format!("a verdict: {line:?}"))?,
        });
    }
    Ok((errors, text))
}

fn agrees(workspace: &Workspace) -> Result<()> {
    let image = populated(workspace)?;
    let damaged = damaged(&image)?;
    let (mut wrong, mut lines, mut told) = (Vec::new(), 0, 0);
    // The image that is whole is the first disk each time.
    for (names, paths) in DAMAGES.chunks(11).zip(damaged.chunks(11)) {
        let mut disks = vec![image.path.as_path()];
        disks.extend(paths.iter().map(PathBuf::as_path));
        let (errors, text) = verdicts(workspace, &disks)?;
        ensure!(errors[0] == 0, "the image is whole, but fsck says:\n{text}");
        for (((name, _), path), errors) in names.iter().zip(paths).zip(&errors[1..]) {
            let repair = judge::repair(path)?;
            if repair.is_good() || *errors == 0 {
                let repair = if repair.is_good() { "is content" } else { "complains" };
                wrong.push(format!("{name}: fsck finds {errors} errors, xfs_repair {repair}"));
            }
        }
        lines += text.lines().filter(|line| !line.starts_with("/dev/vd")).count();
        told += errors.iter().sum::<u64>() as usize;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(lines == told, "{told} errors, but {lines} lines that tell of them");
    Ok(())
}

fn statuses(workspace: &Workspace) -> Result<()> {
    let image = Image::make(workspace, &Recipe::new(32 * MIB))?;
    let holdfast = |path: &Path| Holdfast::new(workspace).disk(path).with("--readonly");
    let clean = holdfast(&image.path).run_line("fsck")?.expect(0)?;
    ensure!(clean.text().contains(": clean; "), "fsck prints {}", clean.text());
    let path = image.beside("damaged");
    image::copy(&image.path, &path)?;
    let mut xfs_db = Command::new(tools::need(&tools::XFS_DB)?);
    xfs_db.args(["-x", "-c", "agf 0", "-c", "write -d freeblks 5"]).arg(&path);
    process::output(&mut xfs_db)?;
    let before = fs::read(&path)?;
    let output = holdfast(&path).run_line("fsck")?.expect(4)?;
    let text = output.text();
    let named = text.lines().any(|line| line.starts_with("AGF: AG 0 block 0 "));
    ensure!(named, "no line tells of the AGF:\n{text}");
    ensure!(fs::read(&path)? == before, "fsck wrote to the disk");
    // Alone it mounts nothing; in a script the disk is mounted, here for writing.
    let writable = || Holdfast::new(workspace).disk(&image.path);
    writable().run_line("fsck")?.expect(0)?;
    writable().script("fsck\n")?.expect(8)?.complains("mounted for writing")?;
    holdfast(&image.path).run_line("fsck /dev/nonsense")?.expect(8)?;
    fs::write(&path, vec![0x5a; 8 << 20])?;
    holdfast(&path).run_line("fsck")?.expect(8)?.complains("not an XFS file system")?;
    holdfast(&path).script("fsck\n")?.expect(32)?.complains("not an XFS file system")?;
    holdfast(&image.beside("not-there")).run_line("fsck")?.expect(125)?;
    Ok(())
}
