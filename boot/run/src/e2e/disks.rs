//! What `--disk` takes besides a file, and what the guest sees of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image, same};
use crate::disk::escaped_path;
use crate::image::{FILL, Recipe, fill};
use crate::judge::Grub;
use crate::pattern;
use crate::process::Running;
use crate::testing::case::Case;
use crate::tools::{self, Tool};
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::disks::default_disk_is_made_on_first_use", default_disk),
        Case::new("e2e::disks::readonly_changes_no_byte", readonly_changes_no_byte),
        Case::new("e2e::disks::reading_changes_no_contents", reading_changes_no_contents),
        Case::new("e2e::disks::second_disk_is_a_second_device", second_disk),
        Case::new("e2e::disks::nbd_url", nbd_url),
        Case::new("e2e::disks::block_node", block_node),
        Case::new("e2e::disks::missing_protocol_is_told", missing_protocol),
        Case::new("e2e::disks::sectors_of_4096_bytes", sectors_of_4096_bytes),
        Case::new("e2e::disks::commas_and_blanks_in_the_name", odd_name),
    ]
}

fn default_disk(workspace: &Workspace) -> Result<()> {
    let output = Holdfast::new(workspace).run_line("readlink /welcome")?.success()?;
    output.prints("welcome.txt\n")?;
    ensure!(workspace.target()?.join("holdfast.img").is_file(), "no target/holdfast.img");
    Ok(())
}

fn readonly_changes_no_byte(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let before = pattern::sha256(&std::fs::read(&image.path)?);
    let holdfast = || Holdfast::new(workspace).disk(&image.path).with("--readonly");
    holdfast().run_line("sha256sum -r /")?.success()?;
    let write = ["xfs_io", "-c", "pwrite -S 0x61 0 100", "/hello.txt"];
    holdfast().run(&write)?.expect(1)?.complains("Read-only file system")?;
    ensure!(pattern::sha256(&std::fs::read(&image.path)?) == before, "the image changed");
    Ok(())
}

fn reading_changes_no_contents(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    holdfast.run_line("sha256sum -r /")?.success()?;
    // Access times and the log's end are written, as Linux does; contents are not.
    Grub::find()?.compare(&image.path, &image.manifest).demand("grub-fstest")?;
    image.is_clean()
}

fn second_disk(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let second = image.beside("second.img");
    fill(&second, 1 << 20)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).disk(&second);
    let text = holdfast.run_line("hexdump /dev/vdb")?.success()?.text();
    let word = format!("{FILL:02x}");
    ensure!(text.contains(&format!("{word} {word}")) || text.contains(&word.repeat(2)), "{text}");
    Ok(())
}

fn nbd_url(workspace: &Workspace) -> Result<()> {
    const DAEMON: Tool = Tool {
        program: "qemu-storage-daemon",
        apt: "qemu-system-common",
        dnf: "qemu-img",
        pacman: "qemu-base",
    };
    let image = Image::small(workspace)?;
    // The path of a socket may have no more than 107 bytes.
    let place = tempfile::tempdir()?;
    let socket = place.path().join("nbd");
    let mut command = Command::new(tools::need(&DAEMON)?);
    let file = escaped_path(&image.path);
    command.args(["--blockdev", &format!("driver=file,node-name=disk,filename={file}")]);
    let server = format!("addr.type=unix,addr.path={}", socket.display());
    command.args(["--nbd-server", &server]);
    command.args(["--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut daemon = Running::start(&mut command)?;
    while !socket.exists() {
        ensure!(daemon.wait(Some(Duration::from_millis(50)))?.is_none(), "the NBD server ended");
    }
    let url = format!("nbd+unix:///disk?socket={}", socket.display());
    let holdfast = Holdfast::new(workspace).word("--disk").word(url);
    let manifest = holdfast.run_line("sha256sum -r /")?.success()?.manifest()?;
    same(&image.manifest, &manifest)
}

fn block_node(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let file = image.path.to_str().context("a name that is no text")?;
    let nodes = format!(
        "-blockdev driver=file,node-name=file,filename={file} \
         -blockdev driver=blkdebug,node-name=middle,image=file"
    );
    let holdfast = Holdfast::new(workspace).word("--qemu").word(nodes).with("--disk node:middle");
    let manifest = holdfast.run_line("sha256sum -r /")?.success()?.manifest()?;
    same(&image.manifest, &manifest)
}

fn missing_protocol(workspace: &Workspace) -> Result<()> {
    let holdfast = Holdfast::new(workspace).with("--disk iscsi://127.0.0.1/none/0");
    let output = holdfast.run_line("ls /")?.expect(125)?;
    // Where the driver is installed, it is the connection that fails.
    let told = output.stderr.contains("qemu-block-extra") || output.stderr.contains("iSCSI");
    ensure!(told, "neither package nor connection is named:\n{}", output.stderr);
    Ok(())
}

fn sectors_of_4096_bytes(workspace: &Workspace) -> Result<()> {
    let recipe = super::harness::small().mkfs("-s size=4096");
    let image = Image::make(workspace, &recipe)?;
    for (machine, driver) in [("q35", "virtio-blk-pci"), ("microvm", "virtio-blk-device")] {
        let global = format!(
            "-global {driver}.logical_block_size=4096 -global {driver}.physical_block_size=4096"
        );
        let holdfast = Holdfast::new(workspace).disk(&image.path).word("--qemu").word(global);
        let output = holdfast.with("--machine").with(machine).run_line("sha256sum -r /")?;
        same(&image.manifest, &output.success()?.manifest()?)?;
    }
    Ok(())
}

fn odd_name(workspace: &Workspace) -> Result<()> {
    let image = Image::make(workspace, &Recipe::new(32 << 20))?;
    let odd = image.beside("a b,c=d,,e.img");
    std::fs::copy(&image.path, &odd)?;
    Holdfast::new(workspace).disk(&odd).run_line("ls /")?.success()?.prints("")?;
    Ok(())
}
