//! What `--disk` may name: a file, a block device URL, a node of `--qemu`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// An image file or block device of the host.
    File(PathBuf),
    /// A URL that QEMU opens itself (`nbd://`, `iscsi://`, `rbd:`, `json:`).
    Url(String),
    /// A block node defined in the user's own QEMU arguments.
    Node(String),
}

/// How QEMU caches a disk on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cache {
    /// Past the host's page cache, where its file system can.
    None,
    /// Through the host's page cache, with flushes.
    Writeback,
    /// Through the host's page cache; flushes do nothing.
    Unsafe,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("node:") {
            return if name.is_empty() {
                Err("node: needs the name of a block node".into())
            } else {
                Ok(Self::Node(name.into()))
            };
        }
        if Path::new(text).exists() {
            return Ok(Self::File(text.into()));
        }
        if is_url(text) {
            return Ok(Self::Url(text.into()));
        }
        Err(format!("no such file: {text}"))
    }
}

/// Whether a text starts like `scheme:`, as QEMU's protocols do.
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    !rest.is_empty()
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(letters)
}

/// A value within an option: QEMU splits at commas, a doubled one stands for itself.
pub fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// A path within an option.
pub fn escaped_path(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

impl Disk {
    /// The `-drive` value that defines block node `id`, or `None` for a node
    /// that the user defines.
    pub fn drive(&self, id: &str, cache: Cache, readonly: bool) -> Option<String> {
        let (file, direct) = match self {
            Self::Node(_) => return None,
            Self::Url(url) => (url.clone(), false),
            Self::File(path) => {
                (path.to_string_lossy().into_owned(), takes_direct_io(path, readonly))
            }
        };
        let mut drive = format!("if=none,id={id},format=raw,file={}", escaped(&file));
        drive.push_str(match cache {
            Cache::None if direct => ",cache=none,aio=native",
            Cache::None | Cache::Writeback => ",cache=writeback",
            Cache::Unsafe => ",cache=unsafe",
        });
        drive.push_str(",discard=unmap");
        if readonly {
            drive.push_str(",readonly=on");
        }
        Some(drive)
    }

    /// The name by which a device refers to the node.
    pub fn node<'a>(&'a self, id: &'a str) -> &'a str {
        match self {
            Self::Node(name) => name,
            Self::File(_) | Self::Url(_) => id,
        }
    }
}

/// Whether the file system below takes direct I/O on this file; some
/// (tmpfs among them) do not.
fn takes_direct_io(path: &Path, readonly: bool) -> bool {
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    OpenOptions::new().read(true).write(!readonly).custom_flags(flag).open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_files_urls_and_nodes_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().to_str().unwrap();
        assert_eq!(name.parse(), Ok(Disk::File(name.into())));
        assert_eq!("node:faulty".parse(), Ok(Disk::Node("faulty".into())));
        for url in ["nbd://localhost:10809/x", "iscsi://h/iqn/0", "rbd:pool/image", "json:{}"] {
            assert_eq!(url.parse(), Ok(Disk::Url(url.into())));
        }
        assert!("no/such/file.img".parse::<Disk>().is_err());
        assert!("node:".parse::<Disk>().is_err());
        assert!(":x".parse::<Disk>().is_err());
    }

    #[test]
    fn commas_in_names_are_doubled() {
        let disk = Disk::Url(r#"json:{"driver":"nbd","host":"h"}"#.into());
        let drive = disk.drive("d0", Cache::Unsafe, true).unwrap();
        assert!(drive.contains(r#""nbd",,"host""#), "{drive}");
        assert!(drive.ends_with(",cache=unsafe,discard=unmap,readonly=on"), "{drive}");
    }

    #[test]
    fn a_node_is_used_by_its_own_name() {
        let disk = Disk::Node("blk".into());
        assert_eq!(disk.drive("d0", Cache::None, false), None);
        assert_eq!(disk.node("d0"), "blk");
    }
}
