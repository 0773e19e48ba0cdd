//! Commands that show files: formats and statuses of coreutils and their kin.
//!
//! One file a command. Owns no state; all access goes through the process's calls.

pub mod cat;
pub mod cksum;
pub mod df;
pub mod getfattr;
pub mod hexdump;
pub mod ls;
pub mod readlink;
pub mod sha256sum;
pub mod simple;
pub mod stat;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::syscall::{Process, dirents};
use holdfast_fs::vfs::OpenFlags;
use holdfast_fs::xfs::FileType;
use holdfast_fs::{Error, Result};

/// Bytes read at once.
pub const CHUNK: usize = 128 << 10;

/// A descriptor that closes itself.
pub struct OpenFile {
    process: Arc<Process>,
    /// The descriptor.
    pub fd: i32,
}

impl OpenFile {
    /// Open a file.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new(process: &Arc<Process>, path: &[u8], flags: OpenFlags) -> Result<Self> {
        let fd = process.open(path, flags, 0o666)?;
        Ok(Self { process: process.clone(), fd })
    }
    /// Open a file; one that is made gets this mode.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn with_mode(
        process: &Arc<Process>,
        path: &[u8],
        flags: OpenFlags,
        mode: u32,
    ) -> Result<Self> {
        process.open(path, flags, mode).map(|fd| Self::adopt(process, fd))
    }
    /// Close an open descriptor in the end.
    pub fn adopt(process: &Arc<Process>, fd: i32) -> Self {
        Self { process: process.clone(), fd }
    }
    /// Open a file for reading.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn read(process: &Arc<Process>, path: &[u8]) -> Result<Self> {
        Self::new(process, path, OpenFlags::RDONLY)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Close reports nothing that matters here: errors of writeback come from fsync.
        let _ = self.process.close(self.fd);
    }
}

/// A file, or standard input for `-`.
pub enum Input {
    /// Descriptor 0.
    Stdin,
    /// A file.
    File(OpenFile),
}

impl Input {
    /// Open `path`.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(process: &Arc<Process>, path: &[u8]) -> Result<Self> {
        if path == b"-" { Ok(Self::Stdin) } else { OpenFile::read(process, path).map(Self::File) }
    }
    /// The descriptor.
    pub fn fd(&self) -> i32 {
        match self {
            Self::Stdin => 0,
            Self::File(file) => file.fd,
        }
    }
}

/// Read a descriptor to its end, piece by piece, until `each` returns false.
///
/// # Errors
/// Those of `read`.
pub fn read_pieces(process: &Process, fd: i32, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = process.read(fd, buffer.as_mut_slice())?;
        if n == 0 || !each(&buffer[..n]) {
            return Ok(());
        }
    }
}

/// One name of a directory.
#[derive(Clone, Debug)]
pub struct Name {
    /// The name.
    pub name: Vec<u8>,
    /// What the directory says it is.
    pub file_type: FileType,
}

/// All names of a directory, in byte order. The names read before an error come with it.
pub fn list(process: &Arc<Process>, path: &[u8]) -> (Vec<Name>, Option<Error>) {
    let mut names = Vec::new();
    let dir = match OpenFile::new(process, path, OpenFlags::DIRECTORY) {
        Ok(dir) => dir,
        Err(e) => return (names, Some(e)),
    };
    let mut buffer = vec![0; CHUNK / 4];
    let error = loop {
        match process.getdents(dir.fd, buffer.as_mut_slice()) {
            Ok(0) => break None,
            Ok(n) => {
                for entry in dirents(&buffer[..n]) {
                    let file_type = type_of(entry.d_type);
                    names.push(Name { name: entry.name.to_vec(), file_type });
                }
            }
            Err(e) => break Some(e),
        }
    };
    names.sort_by(|a, b| a.name.cmp(&b.name));
    (names, error)
}

/// The type behind a directory entry's `d_type`.
fn type_of(d_type: u8) -> FileType {
    FileType::from_mode(u16::from(d_type) << 12).unwrap_or(FileType::Unknown)
}

/// Visit all regular files below a directory, symbolic links not followed, in byte order
/// of their paths; what cannot be read is told to `failed`.
pub fn walk(
    process: &Arc<Process>,
    root: &[u8],
    each: &mut dyn FnMut(&[u8]),
    failed: &mut dyn FnMut(&[u8], &Error),
) {
    /// A name as it sorts within whole paths: a directory's sorts with its slash.
    fn key(name: &Name) -> Vec<u8> {
        let mut key = name.name.clone();
        if name.file_type == FileType::Directory {
            key.push(b'/');
        }
        key
    }
    // Names still to visit, the next one last: depth costs heap, not stack.
    let mut pending = vec![(root.to_vec(), FileType::Directory)];
    while let Some((path, file_type)) = pending.pop() {
        match file_type {
            FileType::Regular => each(&path),
            FileType::Directory => {
                let (mut names, error) = list(process, &path);
                if let Some(e) = error {
                    failed(&path, &e);
                }
                names.retain(|n| n.name != b"." && n.name != b"..");
                for name in &mut names {
                    settle_type(process, &path, name);
                }
                names.sort_by_key(|n| core::cmp::Reverse(key(n)));
                pending.extend(
                    names.into_iter().map(|n| (crate::text::join(&path, &n.name), n.file_type)),
                );
            }
            _ => {}
        }
    }
}

/// Directories without types say nothing of their entries: ask the inode.
fn settle_type(process: &Process, dir: &[u8], name: &mut Name) {
    if name.file_type == FileType::Unknown
        && let Ok(stat) = process.lstat(&crate::text::join(dir, &name.name))
    {
        name.file_type = stat.file_type();
    }
}

/// Make a path absolute and drop `.` and empty components (not `..`, which links can bend).
pub fn absolute(process: &Process, path: &[u8]) -> Vec<u8> {
    let mut whole = if path.first() == Some(&b'/') { Vec::new() } else { process.getcwd() };
    for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        if whole.last() != Some(&b'/') {
            whole.push(b'/');
        }
        whole.extend_from_slice(part);
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    whole
}
