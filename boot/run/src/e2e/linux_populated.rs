//! Images that a real Linux filled, compared file by file with what Linux
//! itself reads on them: names, attributes, contents, links.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::image::{MIB, Recipe};
use crate::kernel_image;
use crate::linux_guest::prepare;
use crate::process;
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    let case = |(name, mkfs): (&str, &'static str)| {
        let name = format!("e2e::linux_populated::{name}");
        Case::new(name, move |workspace| compare(workspace, mkfs)).with_linux()
    };
    let longest = Case::new("e2e::linux_populated::tests_of_fs", tests_of_fs).with_linux();
    std::iter::once(longest).chain(GEOMETRIES.into_iter().map(case)).collect()
}

/// Names and arguments of mkfs.xfs.
const GEOMETRIES: [(&str, &str); 4] = [
    ("defaults", ""),
    ("block_1k_rmapbt", "-b size=1024 -m rmapbt=1"),
    ("block_2k_nrext64_dir_64k", "-b size=2048 -i nrext64=1 -n size=65536"),
    ("plain_v5", "-m reflink=0,bigtime=0,inobtcount=0,finobt=0 -i sparse=0"),
];

/// How long a boot may take in which several images are filled.
const LIMIT: Duration = Duration::from_secs(900);

/// What is asked about every path: mode, size, links, owner, group, times,
/// inode number, blocks, their unit, device numbers.
const FORMAT: &str = "%f %s %h %u %g %X %Y %Z %i %b %B %t %T";

fn compare(workspace: &Workspace, mkfs: &str) -> Result<()> {
    let image = Image::make(workspace, &Recipe::new(320 * MIB).mkfs(mkfs))?;
    let linux = read_by_linux(workspace, &image.path)?;
    let mut wrong = Vec::new();
    check_stat(workspace, &image.path, &linux, &mut wrong)?;
    check_hashes(workspace, &image.path, &linux, &mut wrong)?;
    check_symlinks(workspace, &image.path, &linux, &mut wrong)?;
    check_attributes(workspace, &image.path, &linux, &mut wrong)?;
    check_listing(workspace, &image.path, &linux, &mut wrong)?;
    let shown = wrong.iter().take(30).cloned().collect::<Vec<_>>().join("\n");
    ensure!(wrong.is_empty(), "{} differences:\n{shown}", wrong.len());
    image.is_clean()
}

type Lines = Vec<Vec<u8>>;

/// Linux's answers, by section.
struct Answers(BTreeMap<String, Lines>);

impl Answers {
    fn section(&self, name: &str) -> Result<&Lines> {
        self.0.get(name).with_context(|| format!("Linux printed no section {name}"))
    }
}

/// Has Linux fill the image and then, after a new mount, tell what is there.
fn read_by_linux(workspace: &Workspace, image: &Path) -> Result<Answers> {
    let guest = prepare::guest(workspace)?;
    let script = concat!(include_str!("populate.sh"), include_str!("manifest.sh"));
    let done = guest.job(script).disk(image).run(workspace)?;
    let output = done.output.clone();
    done.success()?;
    let mut sections: BTreeMap<String, Lines> = BTreeMap::new();
    let mut current = String::new();
    for line in output.split(|byte| *byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"== ") {
            current = String::from_utf8_lossy(name).into_owned();
            sections.entry(current.clone()).or_default();
        } else if let Some(lines) = sections.get_mut(&current) {
            lines.push(line.to_vec());
        }
    }
    ensure!(sections.contains_key("end"), "Linux stopped in section {current}");
    let paths = sections.get("paths").map_or(0, Vec::len);
    ensure!(paths > 7000, "Linux made only {paths} files");
    Ok(Answers(sections))
}

/// A path below `.` as an absolute one, quoted for a script of the guest.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut word = b"'".to_vec();
    for byte in absolute(path) {
        match byte {
            b'\'' => word.extend_from_slice(b"'\\''"),
            byte => word.push(byte),
        }
    }
    word.push(b'\'');
    word
}

fn absolute(path: &[u8]) -> Vec<u8> {
    match path.strip_prefix(b".") {
        Some([]) => b"/".to_vec(),
        Some(rest) => rest.to_vec(),
        None => [b"/", path].concat(),
    }
}

/// Runs a script and returns its output's lines.
fn ask(workspace: &Workspace, image: &Path, script: &[u8]) -> Result<Lines> {
    let holdfast = Holdfast::new(workspace).disk(image).with("--readonly --mem 128M");
    let output = holdfast.script(script)?.success()?;
    let mut lines: Lines = output.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    Ok(lines)
}

/// A script with one command for each path.
fn each(paths: &[Vec<u8>], command: &str) -> Vec<u8> {
    let mut script = Vec::new();
    for path in paths {
        script.extend_from_slice(command.as_bytes());
        script.push(b' ');
        script.extend(quoted(path));
        script.push(b'\n');
    }
    script
}

/// Lines that belong to paths, in the order of the paths.
fn check_lines(
    what: &str,
    paths: &[Vec<u8>],
    linux: &[Vec<u8>],
    ours: &[Vec<u8>],
    wrong: &mut Vec<String>,
) {
    if linux.len() != paths.len() || ours.len() != paths.len() {
        let (paths, linux, ours) = (paths.len(), linux.len(), ours.len());
        wrong.push(format!("{what}: {linux} lines of Linux and {ours} of ours for {paths} paths"));
        return;
    }
    for ((path, linux), ours) in paths.iter().zip(linux).zip(ours) {
        if linux != ours {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            wrong.push(format!(
                "{what} of {}: Linux {}, we {}",
                text(path),
                text(linux),
                text(ours)
            ));
        }
    }
}

fn check_stat(
    workspace: &Workspace,
    image: &Path,
    linux: &Answers,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let paths = linux.section("paths")?;
    let ours = ask(workspace, image, &each(paths, &format!("stat -c '{FORMAT}'")))?;
    check_lines("stat", paths, linux.section("stat")?, &ours, wrong);
    Ok(())
}

fn check_hashes(
    workspace: &Workspace,
    image: &Path,
    linux: &Answers,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let holdfast = Holdfast::new(workspace).disk(image).with("--readonly");
    let output = holdfast.run_line("sha256sum -r /")?.success()?;
    let mut ours = BTreeMap::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // coreutils' mark for a name with escapes.
        let (line, escaped) = line.strip_prefix(b"\\").map_or((line, false), |line| (line, true));
        ensure!(line.len() > 66, "no hash line: {:?}", String::from_utf8_lossy(line));
        let path = if escaped { unescape(&line[66..]) } else { line[66..].to_vec() };
        ours.insert(path, line[..64].to_vec());
    }
    let theirs = linux.section("hashes")?;
    for line in theirs {
        ensure!(line.len() > 66, "no hash line: {:?}", String::from_utf8_lossy(line));
        let path = absolute(&line[66..]);
        let name = String::from_utf8_lossy(&path).into_owned();
        match ours.remove(&path) {
            None => wrong.push(format!("{name}: not in our list of hashes")),
            Some(hash) if hash != line[..64] => wrong.push(format!("{name}: other contents")),
            Some(_) => {}
        }
    }
    let extra = ours.keys().map(|path| String::from_utf8_lossy(path).into_owned());
    wrong.extend(extra.map(|name| format!("{name}: only in our list of hashes")));
    Ok(())
}

fn unescape(name: &[u8]) -> Vec<u8> {
    let mut bytes = name.iter();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        match (byte, byte == &b'\\') {
            (_, true) => match bytes.next() {
                Some(b'n') => plain.push(b'\n'),
                Some(b'r') => plain.push(b'\r'),
                Some(other) => plain.push(*other),
                None => plain.push(b'\\'),
            },
            (byte, false) => plain.push(*byte),
        }
    }
    plain
}

fn check_symlinks(
    workspace: &Workspace,
    image: &Path,
    linux: &Answers,
    wrong: &mut Vec<String>,
) -> Result<()> {
    const SYMLINK: &[u8] = b"a1ff ";
    let is_link = |line: &&Vec<u8>| line.starts_with(SYMLINK);
    let (paths, stat) = (linux.section("paths")?, linux.section("stat")?);
    let links: Lines = paths
        .iter()
        .zip(stat)
        .filter(|(_, line)| is_link(line))
        .map(|(path, _)| path.clone())
        .collect();
    let ours = ask(workspace, image, &each(&links, "readlink"))?;
    check_lines("readlink", &links, linux.section("symlinks")?, &ours, wrong);
    Ok(())
}

/// The attributes of each file, sorted: `getfattr` prints a head line with the
/// file's name, then the attributes, then an empty line.
fn attributes(lines: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Lines> {
    let mut files = BTreeMap::new();
    for block in lines.split(|line| line.is_empty()) {
        if let Some((head, attributes)) = block.split_first() {
            let name = head.strip_prefix(b"# file: ").unwrap_or(head);
            let name = name.strip_prefix(b"/").unwrap_or(name);
            let mut attributes = attributes.to_vec();
            attributes.sort();
            files.insert(name.to_vec(), attributes);
        }
    }
    files
}

fn check_attributes(
    workspace: &Workspace,
    image: &Path,
    linux: &Answers,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let theirs = attributes(linux.section("attributes")?);
    ensure!(theirs.len() >= 6, "Linux shows attributes on {} files", theirs.len());
    let paths: Lines = theirs.keys().map(|name| [b"./", name.as_slice()].concat()).collect();
    let ours = ask(workspace, image, &each(&paths, "getfattr -h -d -m - -e hex"))?;
    let ours = attributes(&ours);
    for (name, attributes) in &theirs {
        if ours.get(name) != Some(attributes) {
            let name = String::from_utf8_lossy(name);
            wrong.push(format!("attributes of {name} differ ({} in Linux)", attributes.len()));
        }
    }
    // A file without attributes shows none.
    let none = ask(workspace, image, b"getfattr -d -m - -e hex /small/3\n")?;
    if !none.is_empty() {
        wrong.push("attributes on /small/3, which has none".into());
    }
    Ok(())
}

/// Every directory lists the names that Linux lists.
fn check_listing(
    workspace: &Workspace,
    image: &Path,
    linux: &Answers,
    wrong: &mut Vec<String>,
) -> Result<()> {
    const DIRECTORY: u8 = b'4';
    let (paths, stat) = (linux.section("paths")?, linux.section("stat")?);
    let mut script = Vec::new();
    let mut expected: Lines = Vec::new();
    for (directory, _) in
        paths.iter().zip(stat).filter(|(_, line)| line.first() == Some(&DIRECTORY))
    {
        script.extend(each(std::slice::from_ref(directory), "ls"));
        let prefix = [directory.as_slice(), b"/"].concat();
        let inside = paths.iter().filter_map(|path| path.strip_prefix(prefix.as_slice()));
        let mut names: Lines =
            inside.filter(|name| !name.contains(&b'/')).map(<[u8]>::to_vec).collect();
        names.sort();
        expected.extend(names);
    }
    let ours = ask(workspace, image, &script)?;
    check_lines("names", &expected, &expected, &ours, wrong);
    Ok(())
}

/// Has Linux fill images with the script of the crate `fs` and runs those of
/// the crate's own tests that compare with Linux's manifests, and damage them.
fn tests_of_fs(workspace: &Workspace) -> Result<()> {
    /// Arguments of mkfs.xfs; the length in MiB; the script's word for it.
    const IMAGES: [(&str, u64, &str); 3] = [
        ("", 320, ""),
        ("-b size=1024 -m rmapbt=1 -i nrext64=1", 64, "small"),
        ("-b size=2048 -n size=65536", 64, "small"),
    ];
    let guest = prepare::guest(workspace)?;
    let populate = std::fs::read(workspace.root().join("fs/tests/populate.sh"))?;
    let scratch = workspace.scratch()?;
    let (mut directories, mut archives) = (Vec::new(), Vec::new());
    // All of them in one boot: two disks each.
    let mut script = String::from("set -e\n");
    let mut job = guest.job("").file("populate.sh", populate).limit(LIMIT);
    for (index, (mkfs, size_mib, word)) in IMAGES.into_iter().enumerate() {
        let directory = scratch.path().join(index.to_string());
        let (disk, archive) = (directory.join("disk"), directory.join("archive"));
        std::fs::create_dir_all(directory.join("m"))?;
        Recipe::new(size_mib * MIB).mkfs(mkfs).make(workspace, &disk)?;
        std::fs::File::create(&archive)?.set_len(64 * MIB)?;
        job = job.disk(&disk).disk(&archive);
        let device = |n: usize| char::from(b'a' + (2 * index + n) as u8);
        let (disk, archive_disk) = (device(0), device(1));
        script.push_str(&format!("echo 'mkfs {mkfs}'\n"));
        script
            .push_str(&format!("sh /populate.sh job /dev/vd{disk} /dev/vd{archive_disk} {word}\n"));
        archives.push(archive);
        directories.push(directory);
    }
    job.script(script).run(workspace)?.success().context("filling images")?;
    for (directory, archive) in directories.iter().zip(archives) {
        let mut tar = Command::new("tar");
        process::output(tar.arg("-xf").arg(&archive).arg("-C").arg(directory.join("m")))?;
    }
    let mut cargo = kernel_image::cargo(workspace);
    cargo.args(["test", "--quiet", "--package", "holdfast-fs", "--features", "check"]);
    cargo.args(["--test", "xfs", "--", "--ignored", "as_linux_left_it"]);
    cargo.args(["check::good_images_from_linux", "hostile::damaged_images_from_linux"]);
    cargo.env("HOLDFAST_POPULATED", std::env::join_paths(directories)?);
    let output = process::output(&mut cargo)?;
    let output = String::from_utf8_lossy(&output);
    ensure!(output.contains("3 passed"), "not all tests ran:\n{output}");
    Ok(())
}
