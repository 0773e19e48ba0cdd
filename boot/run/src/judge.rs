//! Verdicts on an image by programs that are not ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::Manifest;
use crate::pattern;
use crate::process;
use crate::tools;

/// What one judge says about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to object to; a few words on what was looked at.
    Good(String),
    /// What is wrong, line by line.
    Bad(Vec<String>),
}

impl Verdict {
    /// Whether the judge objects to nothing.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Good(_))
    }

    /// The verdict in a few lines.
    pub fn text(&self) -> String {
        const SHOWN: usize = 10;
        match self {
            Self::Good(text) => text.clone(),
            Self::Bad(lines) => {
                let mut text = lines[..lines.len().min(SHOWN)].join("\n");
                if lines.len() > SHOWN {
                    text.push_str(&format!("\n… and {} more", lines.len() - SHOWN));
                }
                text
            }
        }
    }

    /// The verdict of a test: anything bad is an error.
    pub fn demand(self, judge: &str) -> Result<()> {
        if self.is_good() {
            return Ok(());
        }
        anyhow::bail!("{judge}: {}", self.text())
    }
}

/// `xfs_repair -n`: are the structures consistent?
pub fn repair(image: &Path) -> Result<Verdict> {
    repair_by(&tools::need(&tools::REPAIR)?, image)
}

/// The same, by a certain `xfs_repair`.
pub fn repair_by(program: &Path, image: &Path) -> Result<Verdict> {
    let run = |more: &[&str]| {
        process::capture(Command::new(program).args(["-n", "-f"]).args(more).arg(image))
    };
    let mut output = run(&[])?;
    // With one allocation group there is no second superblock to compare, and
    // xfs_repair wants to be told that this is no accident.
    if String::from_utf8_lossy(&output.stderr).contains("Only one AG detected") {
        output = run(&["-o", "force_geometry"])?;
    }
    if output.status.success() {
        return Ok(Verdict::Good("clean".into()));
    }
    let mut lines = vec![format!("xfs_repair -n: {}", process::describe(output.status))];
    for stream in [&output.stderr, &output.stdout] {
        lines.extend(String::from_utf8_lossy(stream).lines().map(str::to_owned));
    }
    Ok(Verdict::Bad(lines))
}

/// GRUB's own XFS code, as a reader of files. It reads only files whose
/// extents are all written, on an image that was unmounted cleanly.
#[derive(Clone, Debug)]
pub struct Grub {
    program: PathBuf,
}

impl Grub {
    /// Finds or installs the program.
    pub fn find() -> Result<Self> {
        Ok(Self { program: tools::need(&tools::GRUB_FSTEST)? })
    }

    /// The contents of one file.
    pub fn read(&self, image: &Path, path: &str) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        process::output(command.arg(image).arg("cat").arg(path))
            .with_context(|| format!("GRUB cannot read {path}"))
    }

    /// Compares every file of a manifest.
    pub fn compare(&self, image: &Path, expected: &Manifest) -> Verdict {
        let mut wrong = Vec::new();
        let mut bytes = 0;
        for (path, hash) in expected {
            match self.read(image, path) {
                Ok(contents) if pattern::sha256(&contents) == *hash => bytes += contents.len(),
                Ok(_) => wrong.push(format!("{path}: other contents than expected")),
                Err(error) => wrong.push(format!("{path}: {error:#}")),
            }
        }
        if wrong.is_empty() {
            let mib = bytes / (1 << 20);
            Verdict::Good(format!("{} files, {mib} MiB, all as expected", expected.len()))
        } else {
            Verdict::Bad(wrong)
        }
    }
}

/// Compares two manifests; `left` and `right` name where they come from.
pub fn compare(left: (&str, &Manifest), right: (&str, &Manifest)) -> Verdict {
    let mut wrong = Vec::new();
    for (path, hash) in left.1 {
        match right.1.get(path) {
            None => wrong.push(format!("{path}: missing in {}", right.0)),
            Some(other) if other != hash => {
                wrong.push(format!("{path}: {hash} in {}, {other} in {}", left.0, right.0));
            }
            Some(_) => {}
        }
    }
    let extra = right.1.keys().filter(|path| !left.1.contains_key(*path));
    wrong.extend(extra.map(|path| format!("{path}: missing in {}", left.0)));
    if wrong.is_empty() {
        Verdict::Good(format!("{} files are the same", left.1.len()))
    } else {
        Verdict::Bad(wrong)
    }
}

/// Reads `HASH  /path` lines.
pub fn parse_manifest(text: &str) -> Result<Manifest> {
    let mut manifest = Manifest::new();
    for line in text.lines() {
        let (hash, path) =
            line.split_once("  ").with_context(|| format!("no `HASH  /path` line: {line:?}"))?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        anyhow::ensure!(is_hash && path.starts_with('/'), "no `HASH  /path` line: {line:?}");
        manifest.insert(path.into(), hash.into());
    }
    Ok(manifest)
}

/// A manifest as `HASH  /path` lines in the order of the paths' bytes.
pub fn manifest_text(manifest: &Manifest) -> String {
    manifest.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_survive_the_way_through_text() {
        let manifest = Manifest::from([
            ("/a b".into(), pattern::sha256(b"1")),
            ("/é".into(), pattern::sha256(b"2")),
        ]);
        assert_eq!(parse_manifest(&manifest_text(&manifest)).unwrap(), manifest);
        assert!(parse_manifest("beef  /x").is_err());
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let hash = |text: &str| pattern::sha256(text.as_bytes());
        let left = Manifest::from([("/a".into(), hash("1")), ("/b".into(), hash("2"))]);
        let right = Manifest::from([("/b".into(), hash("3")), ("/c".into(), hash("4"))]);
        let Verdict::Bad(lines) = compare(("left", &left), ("right", &right)) else {
            panic!("differences were not seen")
        };
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("missing in right") && lines[2].contains("missing in left"));
        assert!(compare(("left", &left), ("left", &left)).is_good());
    }
}
