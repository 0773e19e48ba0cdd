//! Disks that must not be mounted, or only with care: refused by name, with
//! status 32, and never with a panic.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image, Output, same, small};
use crate::image::{MIB, Recipe, fill};
use crate::linux_guest::prepare;
use crate::pattern::Stream;
use crate::process;
use crate::testing::case::Case;
use crate::tools;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::bad_images::truncated", truncated),
        Case::new("e2e::bad_images::filled_with_garbage", garbage),
        Case::new("e2e::bad_images::superblock_bit_flipped", superblock_bit_flipped),
        Case::new("e2e::bad_images::version_4", version_4),
        Case::new("e2e::bad_images::realtime", realtime),
        Case::new("e2e::bad_images::external_log", external_log),
        Case::new("e2e::bad_images::needs_repair", needs_repair),
        Case::new("e2e::bad_images::unknown_incompatible_feature", unknown_incompatible),
        Case::new("e2e::bad_images::unknown_readonly_feature", unknown_readonly),
        Case::new("e2e::bad_images::dirty_log", dirty_log).with_linux(),
        Case::new("e2e::bad_images::damaged_metadata_is_told", damaged_metadata),
        Case::new("e2e::bad_images::random_damage_never_panics", random_damage),
    ]
}

fn mount(workspace: &Workspace, image: &Path, options: &str) -> Result<Output> {
    Holdfast::new(workspace).disk(image).with(options).run_line("sha256sum -r /")?.no_panic()
}

/// Mounting fails for a reason that is named, either way.
fn refused(workspace: &Workspace, image: &Path, reason: &str) -> Result<()> {
    mount(workspace, image, "")?.expect(32)?.prints("")?.complains(reason)?;
    mount(workspace, image, "--readonly")?.expect(32)?.prints("")?.complains(reason)?;
    Ok(())
}

fn truncated(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let file = std::fs::OpenOptions::new().write(true).open(&image.path)?;
    for length in [63 * MIB, MIB, 4096, 512] {
        file.set_len(length)?;
        mount(workspace, &image.path, "")?.expect(32)?.prints("")?;
    }
    let image = Image::small(workspace)?;
    std::fs::OpenOptions::new().write(true).open(&image.path)?.set_len(63 * MIB)?;
    // The superblock is whole; it is the device that is too short.
    refused(workspace, &image.path, "superblock says")
}

fn garbage(workspace: &Workspace) -> Result<()> {
    let image = Image::from_bytes(workspace, &[])?;
    fill(&image.path, 4 * MIB)?;
    refused(workspace, &image.path, "XFS")?;
    let mut noise = vec![0; 4 << 20];
    Stream::new(5).fill(&mut noise);
    std::fs::write(&image.path, noise)?;
    refused(workspace, &image.path, "XFS")
}

fn superblock_bit_flipped(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let whole = std::fs::read(&image.path)?;
    for offset in [0x08, 0x30, 0x54, 0x68, 0x78] {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0x10;
        std::fs::write(&image.path, bytes)?;
        refused(workspace, &image.path, "superblock")?;
    }
    Ok(())
}

fn version_4(workspace: &Workspace) -> Result<()> {
    let image = Image::make(workspace, &Recipe::new(64 * MIB).mkfs("-m crc=0"))?;
    refused(workspace, &image.path, "v4").or_else(|_| refused(workspace, &image.path, "version 4"))
}

/// Makes an image whose realtime or log device is another file.
fn with_device(workspace: &Workspace, option: &str, key: &str) -> Result<Image> {
    let image = Image::from_bytes(workspace, &[])?;
    fill(&image.path, 320 * MIB)?;
    let second = image.beside("second.img");
    fill(&second, 128 * MIB)?;
    let mut command = Command::new(tools::need(&tools::MKFS)?);
    command.args(["-q", "-f", "-K", option]).arg(format!("{key}={}", second.display()));
    process::output(command.arg(&image.path))?;
    Ok(image)
}

fn realtime(workspace: &Workspace) -> Result<()> {
    let image = with_device(workspace, "-r", "rtdev")?;
    refused(workspace, &image.path, "realtime")
}

fn external_log(workspace: &Workspace) -> Result<()> {
    let image = with_device(workspace, "-l", "logdev")?;
    refused(workspace, &image.path, "external log")
}

/// Sets a field of the superblock, checksum and all.
fn set_field(image: &Path, field: &str, value: &str) -> Result<()> {
    let mut command = Command::new(tools::need(&tools::XFS_DB)?);
    // -d: past the checks for what xfs_db itself knows, checksum and all.
    let write = format!("write -d {field} {value}");
    process::output(command.args(["-x", "-c", "sb 0", "-c", &write]).arg(image)).map(drop)
}

/// Reads a field of the superblock.
fn field(image: &Path, field: &str) -> Result<u64> {
    let mut command = Command::new(tools::need(&tools::XFS_DB)?);
    let print = format!("print {field}");
    let output = process::output(command.args(["-r", "-c", "sb 0", "-c", &print]).arg(image))?;
    let text = String::from_utf8_lossy(&output).into_owned();
    let value = text.trim().rsplit(" = ").next().unwrap_or_default().to_owned();
    let parsed =
        value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.with_context(|| format!("xfs_db printed {text:?}"))
}

fn add_feature(image: &Path, mask: &str, bit: u64) -> Result<()> {
    let features = field(image, mask)? | bit;
    set_field(image, mask, &format!("{features:#x}"))?;
    ensure!(field(image, mask)? == features, "xfs_db did not set {mask}");
    Ok(())
}

fn needs_repair(workspace: &Workspace) -> Result<()> {
    const NEEDS_REPAIR: u64 = 1 << 4;
    let image = Image::small(workspace)?;
    add_feature(&image.path, "features_incompat", NEEDS_REPAIR)?;
    refused(workspace, &image.path, "repair")
}

fn unknown_incompatible(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    add_feature(&image.path, "features_incompat", 1 << 15)?;
    refused(workspace, &image.path, "bit 15")
}

fn unknown_readonly(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    add_feature(&image.path, "features_ro_compat", 1 << 14)?;
    mount(workspace, &image.path, "")?.expect(32)?.complains("bit 14")?;
    let output = mount(workspace, &image.path, "--readonly")?.success()?;
    same(&image.manifest, &output.manifest()?)
}

fn dirty_log(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let guest = prepare::guest(workspace)?;
    // Linux logs a change and is cut off before it could clean up.
    let script = "set -e\nmount -t xfs /dev/vda /mnt\nxfs_io -c 'pwrite -q 0 4096' -c fsync -f /mnt/new\n\
                  touch /mnt/hello.txt\nxfs_io -x -c 'shutdown -f' /mnt\n";
    guest.job(script).disk(&image.path).run(workspace)?.success()?;
    let logged = process::capture(
        Command::new(tools::need(&tools::XFS_LOGPRINT)?).arg("-t").arg("-f").arg(&image.path),
    )?;
    let logged = String::from_utf8_lossy(&logged.stdout).into_owned();
    ensure!(!logged.contains("<CLEAN>"), "Linux left a clean log:\n{logged}");
    // Looked at, it stays as it is.
    let output = mount(workspace, &image.path, "--readonly")?.complains("recovery")?;
    ensure!(output.status == Some(0) || output.status == Some(1), "status {:?}", output.status);
    let mut torn = std::fs::read(&image.path)?;
    // Where it cannot be recovered nothing is written.
    let log = log_offset(&image.path)?;
    torn[log + 1024..log + (256 << 10)].fill(0xee);
    let path = image.path.with_extension("torn");
    std::fs::write(&path, &torn)?;
    mount(workspace, &path, "")?.expect(32)?.prints("")?.complains("log")?;
    ensure!(std::fs::read(&path)? == torn, "a log that cannot be recovered was written to");
    std::fs::remove_file(&path)?;
    mount(workspace, &image.path, "")?.expect(0)?;
    image.is_clean()
}

/// Where the log starts on the device, in bytes.
fn log_offset(image: &Path) -> Result<usize> {
    let ask = |question: &str| -> Result<String> {
        let mut command = Command::new(tools::need(&tools::XFS_DB)?);
        command.args(["-r", "-c", "sb 0", "-c", question]).arg(image);
        Ok(String::from_utf8_lossy(&process::output(&mut command)?).trim().to_string())
    };
    let start = ask("p logstart")?;
    let block = start.rsplit(' ').next().unwrap_or_default();
    let place = ask(&format!("convert fsblock {block} byte"))?;
    let digits = place.split(['(', ')']).nth(1).unwrap_or_default();
    digits.parse().with_context(|| format!("xfs_db printed {start:?}, {place:?}"))
}

/// Where a file's inode lies on the device, in bytes.
fn inode_offset(image: &Path, path: &str) -> Result<u64> {
    let mut command = Command::new(tools::need(&tools::XFS_DB)?);
    command.args(["-r", "-c", &format!("path {path}"), "-c", "daddr"]).arg(image);
    let output = String::from_utf8_lossy(&process::output(&mut command)?).into_owned();
    let digits = output.trim().rsplit(' ').next().unwrap_or_default();
    let sector: u64 = digits.parse().with_context(|| format!("xfs_db printed {output:?}"))?;
    Ok(sector * 512)
}

fn damaged_metadata(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let offset = inode_offset(&image.path, "/deep")? as usize;
    let mut bytes = std::fs::read(&image.path)?;
    // Wherever xfs_db says the sector starts, an inode's magic stands there.
    ensure!(&bytes[offset..offset + 2] == b"IN", "no inode at {offset:#x}");
    bytes[offset + 100] ^= 0xff;
    std::fs::write(&image.path, bytes)?;
    let output = mount(workspace, &image.path, "--readonly")?;
    let output = output.expect(1)?.complains("Structure needs cleaning")?.complains("inode")?;
    // What does not lie below the damage is still read, and right.
    let seen = output.manifest()?;
    for (path, hash) in image.manifest.iter().filter(|(path, _)| path.starts_with("/sizes/")) {
        ensure!(seen.get(path) == Some(hash), "{path} is lost or wrong");
    }
    Ok(())
}

fn random_damage(workspace: &Workspace) -> Result<()> {
    const ROUNDS: u64 = 12;
    let image = Image::make(workspace, &small())?;
    let whole = std::fs::read(&image.path)?;
    let used = metadata_bytes(&whole);
    ensure!(!used.is_empty(), "no metadata found");
    for seed in 0..ROUNDS {
        let mut random = Stream::new(seed);
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(20) {
            let sector = used[random.below(used.len() as u64) as usize];
            let at = sector + random.below(512) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        std::fs::write(&image.path, &bytes)?;
        let script = "ls -l -R /\nsha256sum -r /\n";
        let holdfast = Holdfast::new(workspace).disk(&image.path).with("--readonly");
        let output = holdfast.script(script)?.no_panic().with_context(|| format!("seed {seed}"))?;
        let honest = matches!(output.status, Some(0 | 1 | 32));
        ensure!(
            honest,
            "seed {seed}: status {:?}\n{}",
            output.status,
            process::last(&output.stderr, 30)
        );
    }
    Ok(())
}

/// Sectors that start with the magic of a metadata structure.
fn metadata_bytes(image: &[u8]) -> Vec<usize> {
    const MAGICS: [&[u8]; 12] = [
        b"XFSB", b"XAGF", b"XAGI", b"XAFL", b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"BMA3", b"XDB3",
        b"XDD3", b"IN",
    ];
    let starts = |sector: &&[u8]| MAGICS.iter().any(|magic| sector.starts_with(magic));
    let sectors = image.chunks(512).enumerate();
    sectors.filter(|(_, sector)| starts(sector)).map(|(index, _)| index * 512).collect()
}
