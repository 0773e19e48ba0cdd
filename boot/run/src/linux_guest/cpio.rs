//! Archives that Linux unpacks as its first root file system: the portable
//! "newc" form of cpio (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst).

use std::collections::BTreeSet;

/// File type bits of a mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// An archive under construction. Directories above a file come by themselves.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file; the path has no leading slash.
    pub fn file(&mut self, path: &str, contents: &[u8], permissions: u32) {
        self.above(path);
        self.entry(path, REGULAR | permissions, contents);
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str) {
        self.above(path);
        if self.directories.insert(path.into()) {
            self.entry(path, DIRECTORY | 0o755, &[]);
        }
    }

    /// The archive, padded so that another may follow.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.inode += 1;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let length = u32::try_from(contents.len()).expect("a file of an initial RAM disk is small");
        let name_length = u32::try_from(path.len() + 1).expect("a path is short");
        // magic, inode, mode, uid, gid, links, mtime, length, device numbers
        // (file and node), length of the name, checksum (unused)
        let fields = [self.inode, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_directories_come_first() {
        let mut archive = Archive::new();
        archive.file("a/b/c", b"hello", 0o755);
        archive.file("a/b/d", b"", 0o644);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 5, "a, a/b, a/b/c, a/b/d, trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert_eq!(&bytes[starts[0] + 110..][..2], b"a\0");
        assert_eq!(&bytes[starts[2] + 110..][..6], b"a/b/c\0");
    }
}
