//! The guest overwrites files in place, through write() and through shared
//! mappings; others read what it left.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};

use super::harness::{Holdfast, Image};
use crate::image::{Contents, MIB, Manifest, Recipe, Tree};
use crate::judge::{self, Grub};
use crate::linux_guest::prepare;
use crate::pattern::{self, Stream};
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::overwrite::grub_reads_what_was_written", grub_reads),
        Case::new("e2e::overwrite::linux_mounts_and_reads", linux_reads).with_linux(),
        Case::new("e2e::overwrite::survives_a_power_cut_after_fsync", after_fsync),
        Case::new("e2e::overwrite::times_follow_the_clock", times_follow),
        Case::new("e2e::overwrite::two_writers_of_one_file", two_writers),
    ]
}

/// Overwrites of some files: what the guest is told to do, and what the
/// files hold afterwards.
pub struct Model {
    random: Stream,
    files: BTreeMap<String, Vec<u8>>,
    script: String,
}

impl Model {
    /// An empty model; the seed decides all that follows.
    pub fn new(seed: u64) -> Self {
        Self { random: Stream::new(seed), files: BTreeMap::new(), script: String::new() }
    }

    /// Adds `count` overwrites of a file that holds `bytes`: by write() and by
    /// stores into a mapping, of odd lengths at odd places, with fsyncs and
    /// dropped caches between them.
    pub fn overwrite(&mut self, path: &str, mut bytes: Vec<u8>, count: usize) {
        let length = bytes.len() as u64;
        for _ in 0..count {
            let offset = self.random.below(length);
            let longest = (length - offset).min(300_000);
            let span = 1 + self.random.below(longest);
            let value = 1 + self.random.below(255);
            let range = format!("{offset} {span}");
            let commands = match self.random.below(4) {
                0 => format!(
                    "-c 'mmap -w 0 {length}' -c 'mwrite -S {value} {range}' -c 'msync -s' -c munmap"
                ),
                1 => format!("-c 'mmap -w 0 {length}' -c 'mwrite -S {value} {range}' -c munmap"),
                2 => format!("-c 'pwrite -q -S {value} -b 5001 {range}' -c fsync"),
                _ => format!("-c 'pwrite -q -S {value} {range}'"),
            };
            let _ = writeln!(self.script, "xfs_io {commands} {path}");
            let (from, to) = (offset as usize, (offset + span) as usize);
            bytes[from..to].fill(value as u8);
            if self.random.below(4) == 0 {
                self.script.push_str("drop_caches\n");
            }
        }
        self.files.insert(path.into(), bytes);
    }

    /// The script for the guest.
    pub fn script(&self) -> &str {
        &self.script
    }
}

/// What the files of a model hold in the end.
pub fn model_of(model: &Model) -> Manifest {
    let hash = |(path, bytes): (&String, &Vec<u8>)| (path.clone(), pattern::sha256(bytes));
    model.files.iter().map(hash).collect()
}

/// Overwrites several files of an image; returns what it holds then.
fn overwritten(workspace: &Workspace, image: &Image, options: &str) -> Result<Manifest> {
    let mut model = Model::new(11);
    for path in ["/big.dat", "/all-bytes.bin", "/sizes/65536", "/sizes/1000003", "/sizes/1025"] {
        model.overwrite(path, image.bytes_of(workspace, path)?, 25);
    }
    let holdfast = Holdfast::new(workspace).disk(&image.path).with(options);
    holdfast.script(model.script())?.success()?;
    let mut expected = image.manifest.clone();
    expected.extend(model_of(&model));
    ensure!(expected != image.manifest, "the model changed nothing");
    Ok(expected)
}

fn grub_reads(workspace: &Workspace) -> Result<()> {
    for options in ["", "--page-cache 1M --smp 4", "--machine microvm --smp 1"] {
        let image = Image::small(workspace)?;
        let expected = overwritten(workspace, &image, options)?;
        Grub::find()?.compare(&image.path, &expected).demand("grub-fstest")?;
        image.is_clean()?;
    }
    Ok(())
}

/// The script with which Linux prints the hash of every regular file.
pub const LINUX_HASHES: &str = "cd /mnt && find . -xdev -type f -print0 | sort -z | \
     xargs -0 sha256sum | sed 's, \\./, /,'\n";

fn linux_reads(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let expected = overwritten(workspace, &image, "")?;
    let guest = prepare::guest(workspace)?;
    // Read-write: Linux would complain about a log that we left dirty.
    let script = format!("set -e\nmount -t xfs /dev/vda /mnt\n{LINUX_HASHES}");
    let done = guest.job(script).disk(&image.path).run(workspace)?;
    ensure!(done.complaints().is_empty(), "Linux complains:\n{}", done.complaints());
    let seen = judge::parse_manifest(&done.success()?)?;
    judge::compare(("the model", &expected), ("Linux", &seen)).demand("contents")?;
    image.is_clean()
}

/// What was fsynced is there, though the guest never unmounted.
fn after_fsync(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let mut bytes = image.bytes_of(workspace, "/big.dat")?;
    bytes[12_345..12_345 + 700_001].fill(0x77);
    let script = "xfs_io -c 'pwrite -q -S 0x77 12345 700001' -c fsync -c 'sleep 100' /big.dat\n";
    let holdfast = Holdfast::new(workspace).disk(&image.path).unlimited().with("--timeout 12");
    holdfast.script(script)?.expect(124)?;
    let mut expected = image.manifest.clone();
    expected.insert("/big.dat".into(), pattern::sha256(&bytes));
    Grub::find()?.compare(&image.path, &expected).demand("grub-fstest")?;
    // Mounting recovers the log, which was left as it was.
    Holdfast::new(workspace).disk(&image.path).run_line("true")?.success()?;
    image.is_clean()
}

/// A write sets mtime and ctime to the present, and leaves size and blocks as they are.
fn times_follow(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let print = "stat -c '%Y %Z %s %b' /big.dat\n";
    let write = "xfs_io -c 'pwrite -q -S 1 0 5000' -c fsync /big.dat\n";
    let script = format!("{print}{write}{print}drop_caches\n{print}");
    let text = Holdfast::new(workspace).disk(&image.path).script(script)?.success()?.text();
    let lines: Vec<Vec<i64>> = text
        .lines()
        .map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect())
        .collect();
    let [before, after, reread] = &lines[..] else { bail!("{text}") };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let recent = |time: i64| (now - 3600..=now + 60).contains(&time);
    ensure!(after == reread && before.len() == 4 && before[2..] == after[2..], "{text}");
    ensure!(recent(after[0]) && recent(after[1]), "it is {now}: {text}");
    image.is_clean()
}

/// Neighbouring bytes written by different threads, in the same pages.
fn two_writers(workspace: &Workspace) -> Result<()> {
    const LENGTH: usize = 1 << 20;
    let mut tree = Tree::new();
    tree.file("shared", Contents::Stream { seed: 3, length: LENGTH as u64 });
    let image = Image::make(workspace, &Recipe::new(64 * MIB).tree(tree))?;
    let mut script = String::new();
    let mut bytes = vec![0; LENGTH];
    const PIECE: usize = 3001;
    for writer in 0..4_usize {
        let mut commands = String::new();
        for (index, piece) in bytes.chunks_mut(PIECE).enumerate() {
            if index % 4 == writer {
                let (offset, length) = (index * PIECE, piece.len());
                piece.fill(writer as u8 + 1);
                let value = writer + 1;
                let _ = write!(commands, " -c 'pwrite -q -S {value} {offset} {length}'");
            }
        }
        let _ = writeln!(script, "xfs_io{commands} /shared &");
    }
    script.push_str("wait\n");
    let holdfast = Holdfast::new(workspace).disk(&image.path).with("--smp 4 --page-cache 1M");
    holdfast.script(script)?.success()?;
    let expected = Manifest::from([("/shared".into(), pattern::sha256(&bytes))]);
    Grub::find()?.compare(&image.path, &expected).demand("grub-fstest")?;
    image.is_clean()
}
