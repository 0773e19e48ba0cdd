//! Starts Holdfast as a user does, in a process of its own, and looks at the
//! outcome.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::image::{Contents, MIB, Manifest, Recipe, Tree};
use crate::judge;
use crate::process::{self, Running};
use crate::workspace::Workspace;

/// Seconds after which a guest of a test is stuck.
const LIMIT_SECONDS: &str = "180";

/// One start of the program.
pub struct Holdfast<'a> {
    workspace: &'a Workspace,
    options: Vec<OsString>,
    limited: bool,
}

/// What came out of it.
#[derive(Debug)]
pub struct Output {
    /// The exit status; `None` for an end by a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl<'a> Holdfast<'a> {
    /// Without options, but with a time limit.
    pub fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, options: Vec::new(), limited: true }
    }

    /// Adds options, separated by blanks.
    pub fn with(mut self, options: &str) -> Self {
        self.options.extend(options.split_whitespace().map(OsString::from));
        self
    }

    /// Adds one option word as it is.
    pub fn word(mut self, word: impl AsRef<OsStr>) -> Self {
        self.options.push(word.as_ref().into());
        self
    }

    /// Adds a disk.
    pub fn disk(self, path: &Path) -> Self {
        self.word("--disk").word(path)
    }

    /// Leaves the time limit to the test.
    pub fn unlimited(mut self) -> Self {
        self.limited = false;
        self
    }

    /// The command that starts it, with everything after the options.
    pub fn command<S: AsRef<OsStr>>(&self, rest: &[S]) -> Result<Command> {
        let program = std::env::current_exe().context("this program has no name")?;
        let mut command = Command::new(program);
        command.env("HOLDFAST_ROOT", self.workspace.root()).args(&self.options);
        if self.limited {
            command.args(["--timeout", LIMIT_SECONDS]);
        }
        command.args(rest).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs one command in the guest.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let mut rest = vec![OsString::from("--")];
        rest.extend(words.iter().map(|word| word.as_ref().to_owned()));
        self.start(&rest)
    }

    /// Runs one command in the guest, its words separated by blanks.
    pub fn run_line(&self, line: &str) -> Result<Output> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a script in the guest.
    pub fn script(&self, text: impl AsRef<[u8]>) -> Result<Output> {
        let scratch = self.workspace.scratch()?;
        let path = scratch.path().join("script");
        fs::write(&path, text)?;
        self.start(&[OsStr::new("--script"), path.as_os_str()])
    }

    /// Runs it with these last words.
    pub fn start<S: AsRef<OsStr>>(&self, rest: &[S]) -> Result<Output> {
        let output = process::capture(&mut self.command(rest)?)?;
        Ok(Output {
            status: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts it and lets it run.
    pub fn start_running<S: AsRef<OsStr>>(&self, rest: &[S]) -> Result<Running> {
        let mut command = self.command(rest)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(&mut command)
    }
}

impl Output {
    /// Demands an exit status.
    pub fn expect(self, status: i32) -> Result<Self> {
        ensure!(
            self.status == Some(status),
            "status {:?}, expected {status}\nstdout: {}\nstderr: {}",
            self.status,
            process::last(&self.text(), 20),
            process::last(&self.stderr, 40)
        );
        Ok(self)
    }

    /// Demands status 0.
    pub fn success(self) -> Result<Self> {
        self.expect(0)
    }

    /// Demands a word on standard error.
    pub fn complains(self, about: &str) -> Result<Self> {
        let found = self.stderr.to_lowercase().contains(&about.to_lowercase());
        ensure!(
            found,
            "standard error does not say `{about}`:\n{}",
            process::last(&self.stderr, 40)
        );
        Ok(self)
    }

    /// Demands exactly this on standard output.
    pub fn prints(self, expected: impl AsRef<[u8]>) -> Result<Self> {
        let expected = expected.as_ref();
        ensure!(
            self.stdout == expected,
            "standard output is\n{}\nexpected\n{}",
            self.text(),
            String::from_utf8_lossy(expected)
        );
        Ok(self)
    }

    /// Demands that the kernel neither panicked nor barked.
    pub fn no_panic(self) -> Result<Self> {
        let calm = self.status != Some(126) && !self.stderr.contains("backtrace: 0x");
        ensure!(calm, "the guest panicked:\n{}", process::last(&self.stderr, 60));
        Ok(self)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as `sha256sum -r` prints it.
    pub fn manifest(&self) -> Result<Manifest> {
        let mut manifest = Manifest::new();
        for line in self.text().lines() {
            // coreutils marks a line whose name has escapes with a backslash.
            let (line, escaped) =
                line.strip_prefix('\\').map_or((line, false), |line| (line, true));
            let (hash, path) =
                line.split_once("  ").with_context(|| format!("no hash line: {line:?}"))?;
            let path = if escaped { unescape(path) } else { path.to_owned() };
            manifest.insert(path, hash.to_owned());
        }
        Ok(manifest)
    }
}

fn unescape(path: &str) -> String {
    path.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
}

/// A disk image with files, in a directory that goes with it.
pub struct Image {
    /// Where it lies.
    pub path: PathBuf,
    /// What was put in.
    pub manifest: Manifest,
    scratch: tempfile::TempDir,
}

impl Image {
    /// Makes one.
    pub fn make(workspace: &Workspace, recipe: &Recipe) -> Result<Self> {
        let scratch = workspace.scratch()?;
        let path = scratch.path().join("disk.img");
        let manifest = recipe.make(workspace, &path)?;
        Ok(Self { path, manifest, scratch })
    }

    /// A file with these bytes, which is no file system.
    pub fn from_bytes(workspace: &Workspace, bytes: &[u8]) -> Result<Self> {
        let scratch = workspace.scratch()?;
        let path = scratch.path().join("disk.img");
        fs::write(&path, bytes)?;
        Ok(Self { path, manifest: Manifest::new(), scratch })
    }

    /// The small image that most tests use.
    pub fn small(workspace: &Workspace) -> Result<Self> {
        Self::make(workspace, &small())
    }

    /// A path beside the image.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The bytes of a file that was put in with [`small`] or [`tree`].
    pub fn bytes_of(&self, workspace: &Workspace, path: &str) -> Result<Vec<u8>> {
        let _ = workspace;
        judge::Grub::find()?.read(&self.path, path)
    }

    /// Demands that `xfs_repair -n` objects to nothing.
    pub fn is_clean(&self) -> Result<()> {
        judge::repair(&self.path)?.demand("xfs_repair -n")
    }
}

/// The recipe of the small image.
pub fn small() -> Recipe {
    Recipe::new(64 * MIB).tree(tree())
}

/// Files for a test: every kind of name and length that a prototype can make,
/// directories in several forms, links near and far.
pub fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("hello.txt", Contents::Text("hello from the disk\n".into()));
    tree.file("all-bytes.bin", Contents::Stream { seed: 1, length: 100_003 });
    for (number, length) in
        [0, 1, 511, 513, 1023, 1025, 4095, 4096, 4097, 65_536, 1_000_003].into_iter().enumerate()
    {
        let seed = 100 + number as u64;
        tree.file(&format!("sizes/{length}"), Contents::Stream { seed, length });
    }
    tree.file("big.dat", Contents::Stream { seed: 2, length: 9 * MIB + 77 });
    for number in 0..30 {
        let text = format!("entry {number}\n");
        tree.file(&format!("block/entry-{number}"), Contents::Text(text));
    }
    for number in 0..600 {
        let name = format!("many/a-name-that-is-long-enough-to-fill-blocks-{number:04}");
        tree.file(&name, Contents::Stream { seed: 1000 + number, length: number % 700 });
    }
    tree.file("deep/1/2/3/4/5/6/7/8/9/10/end", Contents::Text("deep\n".into()));
    tree.directory("empty");
    tree.symlink("near", "hello.txt");
    tree.symlink("far", &far_target());
    tree
}

/// A long target that still stands in an inode: those that mkfs.xfs 6.1 makes
/// from a prototype outside of inodes are damaged, says xfs_repair.
pub fn far_target() -> String {
    "deep/1/../../".repeat(20) + "deep/1/2"
}

/// Demands that two manifests are the same.
pub fn same(expected: &Manifest, seen: &Manifest) -> Result<()> {
    judge::compare(("what was put in", expected), ("the guest", seen)).demand("contents")
}
