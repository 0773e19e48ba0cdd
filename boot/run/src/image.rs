//! XFS images made by `mkfs.xfs`, with contents through its prototype file.
//!
//! An image lies on a device filled with 0xEE first, and mkfs keeps that fill
//! (`-K`): whoever reads what was never written sees it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::pattern;
use crate::process;
use crate::tools;
use crate::workspace::Workspace;

/// What fills a device before mkfs.
pub const FILL: u8 = 0xee;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// What one file of a prototype holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// So many bytes of the pseudo-random stream of a seed.
    Stream {
        /// The seed.
        seed: u64,
        /// The length in bytes.
        length: u64,
    },
    /// So many bytes of the benchmark's pattern.
    Bench {
        /// The file's number in the benchmark.
        seed: u64,
        /// The length in bytes.
        length: u64,
    },
    /// A text.
    Text(String),
}

/// One entry of a directory.
#[derive(Clone, Debug)]
enum Node {
    Directory(BTreeMap<String, Node>),
    File(Contents),
    Symlink(String),
}

/// Files, directories and symbolic links to put on a new image.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    root: BTreeMap<String, Node>,
}

/// The SHA-256 of every file by its absolute path.
pub type Manifest = BTreeMap<String, String>;

impl Tree {
    /// A tree without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file and the directories above it. The path is relative, and
    /// has no blanks: a prototype cannot express them.
    pub fn file(&mut self, path: &str, contents: Contents) -> &mut Self {
        self.add(path, Node::File(contents))
    }

    /// Adds an empty directory and those above it.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.add(path, Node::Directory(BTreeMap::new()))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, to: &str) -> &mut Self {
        self.add(path, Node::Symlink(to.into()))
    }

    fn add(&mut self, path: &str, node: Node) -> &mut Self {
        assert!(!path.contains(char::is_whitespace), "a blank in the name {path:?}");
        let mut at = &mut self.root;
        let (above, name) = path.rsplit_once('/').map_or(("", path), |parts| parts);
        for part in above.split('/').filter(|part| !part.is_empty()) {
            let next = at.entry(part.into()).or_insert_with(|| Node::Directory(BTreeMap::new()));
            let Node::Directory(entries) = next else { panic!("{part} of {path} is no directory") };
            at = entries;
        }
        at.insert(name.into(), node);
        self
    }

    /// Writes the files below `staging` and returns the prototype's text; the
    /// hashes go into `manifest`.
    fn stage(&self, staging: &Path, manifest: &mut Manifest) -> Result<String> {
        // The first two lines are historical: a boot file and sizes, both unused.
        let mut text = String::from("-\n0 0\nd--755 0 0\n");
        let mut stage = Stage { staging, manifest, count: 0, text: &mut text };
        stage.directory(&self.root, "")?;
        Ok(text)
    }
}

/// A prototype under construction.
struct Stage<'a> {
    staging: &'a Path,
    manifest: &'a mut Manifest,
    count: usize,
    text: &'a mut String,
}

impl Stage<'_> {
    fn directory(&mut self, entries: &BTreeMap<String, Node>, above: &str) -> Result<()> {
        for (name, node) in entries {
            let path = format!("{above}/{name}");
            match node {
                Node::Directory(entries) => {
                    self.line(&format!("{name} d--755 0 0"));
                    self.directory(entries, &path)?;
                }
                Node::Symlink(to) => self.line(&format!("{name} l--777 0 0 {to}")),
                Node::File(contents) => {
                    let file = self.staging.join(self.count.to_string());
                    self.count += 1;
                    let hash = write(contents, &file)?;
                    self.line(&format!("{name} ---644 0 0 {}", file.display()));
                    self.manifest.insert(path, hash);
                }
            }
        }
        self.line("$");
        Ok(())
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

fn write(contents: &Contents, path: &Path) -> Result<String> {
    let mut file = BufWriter::new(File::create(path).context("cannot stage a file")?);
    let hash = match contents {
        Contents::Stream { seed, length } => pattern::write(*seed, *length, &mut file)?,
        Contents::Bench { seed, length } => pattern::write_bench(*seed, *length, &mut file)?,
        Contents::Text(text) => {
            file.write_all(text.as_bytes())?;
            pattern::sha256(text.as_bytes())
        }
    };
    file.flush()?;
    Ok(hash)
}

/// An image to make.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The device's length.
    pub size_bytes: u64,
    /// Arguments of mkfs.xfs for the geometry.
    pub mkfs: Vec<String>,
    /// Another `mkfs.xfs` than the machine's.
    pub program: Option<PathBuf>,
    /// Its contents.
    pub tree: Tree,
}

impl Recipe {
    /// An image of `size_bytes` with mkfs's own geometry, empty.
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, mkfs: Vec::new(), program: None, tree: Tree::new() }
    }

    /// Adds arguments of mkfs.xfs, separated by blanks.
    #[must_use]
    pub fn mkfs(mut self, arguments: &str) -> Self {
        self.mkfs.extend(arguments.split_whitespace().map(str::to_owned));
        self
    }

    /// Has it made by a certain `mkfs.xfs`.
    #[must_use]
    pub fn by(mut self, program: &Path) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Sets the contents.
    #[must_use]
    pub fn tree(mut self, tree: Tree) -> Self {
        self.tree = tree;
        self
    }

    /// Makes the image at `path`, whole or not at all, and returns the hashes
    /// of its files.
    pub fn make(&self, workspace: &Workspace, path: &Path) -> Result<Manifest> {
        let mkfs = match &self.program {
            Some(program) => program.clone(),
            None => tools::need(&tools::MKFS)?,
        };
        let scratch = workspace.scratch()?;
        let mut manifest = Manifest::new();
        let prototype = scratch.path().join("prototype");
        let staging = scratch.path().join("files");
        fs::create_dir(&staging)?;
        fs::write(&prototype, self.tree.stage(&staging, &mut manifest)?)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        fill(&part, self.size_bytes)?;
        let mut command = Command::new(mkfs);
        // Below 300 MB mkfs wants to know that this is a test.
        command.env("TEST_DIR", "test").env("TEST_DEV", "test").env("QA_CHECK_FS", "1");
        command.args(["-q", "-f", "-K"]).args(&self.mkfs);
        command.arg("-p").arg(&prototype).arg(&part);
        process::output(&mut command).context("cannot make an XFS image")?;
        fs::rename(&part, path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(manifest)
    }
}

/// Makes a file of `size_bytes` that holds nothing but [`FILL`].
pub fn fill(path: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut file = BufWriter::with_capacity(0, file);
    let chunk = vec![FILL; MIB as usize];
    let mut left = size_bytes;
    while left > 0 {
        let count = left.min(MIB);
        file.write_all(&chunk[..count as usize]).context("cannot fill the image")?;
        left -= count;
    }
    Ok(())
}

/// Bytes of each file that the benchmark reads and overwrites.
const BENCH_BYTES: u64 = 64 * MIB;

/// The disk of a run that names none; made on first use.
pub fn default_disk(workspace: &Workspace) -> Result<PathBuf> {
    let path = workspace.target()?.join("holdfast.img");
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("run.sh: making {}", path.display());
    let mut tree = Tree::new();
    tree.file(
        "welcome.txt",
        Contents::Text(
            "This is an XFS file system made by mkfs.xfs.\n\
             Try: ls -l -R /   stat /welcome.txt   sha256sum -r /   mount   help\n"
                .into(),
        ),
    );
    tree.symlink("welcome", "welcome.txt");
    for (name, seed) in [("sb_seq", 3), ("sb_rnd", 5), ("sb_rw", 9)] {
        tree.file(name, Contents::Bench { seed, length: BENCH_BYTES });
    }
    for number in 0..40 {
        let length = number * number * 97;
        tree.file(&format!("data/{number:02}.bin"), Contents::Stream { seed: number, length });
    }
    Recipe::new(512 * MIB).tree(tree).make(workspace, &path)?;
    Ok(path)
}

/// A private copy of an image, sparse where the original is.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["--sparse=auto", "--reflink=auto"]).arg(from).arg(to);
    process::output(&mut command).context("cannot copy an image")?;
    ensure!(to.is_file(), "cp made no {}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prototype_lists_directories_to_their_end() {
        let staging = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.file("d/e/f", Contents::Text("x".into())).directory("d/g").symlink("l", "d/e/f");
        let mut manifest = Manifest::new();
        let text = tree.stage(staging.path(), &mut manifest).unwrap();
        let staged = staging.path().join("0");
        let expected = format!(
            "-\n0 0\nd--755 0 0\nd d--755 0 0\ne d--755 0 0\nf ---644 0 0 {}\n$\ng d--755 0 0\n$\n$\n\
             l l--777 0 0 d/e/f\n$\n",
            staged.display()
        );
        assert_eq!(text, expected);
        assert_eq!(manifest["/d/e/f"], pattern::sha256(b"x"));
    }

    #[test]
    fn a_device_is_filled_to_its_last_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        fill(&path, MIB + 5).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), MIB as usize + 5);
        assert!(bytes.iter().all(|byte| *byte == FILL));
    }
}
