//! The calls of a workload, and how they are made.

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{Fd, MapFlags, OpenFlags, Process, Prot};
use holdfast_fs::vfs::{FallocateMode, XattrFlags};
use holdfast_fs::xfs::namespace::RenameFlags;
use holdfast_fs::{Error, Result};

/// A call. Paths are absolute.
#[derive(Clone, Debug)]
pub enum Op {
    /// It failed for lack of space, or made no difference.
    Nothing,
    Create(String, u16),
    Mkdir(String),
    Symlink(String, Vec<u8>),
    Link(String, String),
    Unlink(String),
    /// Unlink an open file, which lives on until the power fails.
    Orphan(String),
    Rmdir(String),
    Rename(String, String),
    Exchange(String, String),
    Chmod(String, u16),
    SetXattr(String, Vec<u8>, Vec<u8>),
    RemoveXattr(String, Vec<u8>),
    Write(String, usize, Vec<u8>),
    /// As `Write`, past the page cache; aligned.
    Direct(String, usize, Vec<u8>),
    /// As `Write`, through a shared mapping; within the file.
    Store(String, usize, Vec<u8>),
    Truncate(String, usize),
    Punch(String, usize, usize),
    Zero(String, usize, usize),
    Allocate(String, usize, usize, bool),
    Collapse(String, usize, usize),
    Insert(String, usize, usize),
    Clone(String, String),
    Fsync(String),
    Sync,
    /// Everything in the log is written to its place, as the log's thread does.
    Push,
}

impl Op {
    /// Its name, for counts.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split(['(', ' ']).next().unwrap_or("").to_string()
    }
    /// What it is, without contents.
    pub fn describe(&self) -> String {
        match self {
            Self::Write(path, pos, bytes)
            | Self::Direct(path, pos, bytes)
            | Self::Store(path, pos, bytes) => {
                format!("{} {path} {pos}+{}", self.name(), bytes.len())
            }
            Self::SetXattr(path, name, value) => {
                format!("SetXattr {path} {} {}", String::from_utf8_lossy(name), value.len())
            }
            other => format!("{other:?}"),
        }
    }
}

fn with<T>(
    p: &Process,
    path: &str,
    flags: OpenFlags,
    call: impl FnOnce(Fd) -> Result<T>,
) -> Result<T> {
    let fd = p.open(path.as_bytes(), flags, 0)?;
    let result = call(fd);
    p.close(fd)?;
    result
}

fn write_all(p: &Process, path: &str, flags: OpenFlags, pos: usize, bytes: &[u8]) -> Result<()> {
    with(p, path, flags, |fd| {
        let mut done = 0;
        while done < bytes.len() {
            let n = p.pwrite(fd, &bytes[done..], (pos + done) as u64)?;
            if n == 0 {
                return Err(Error::NoSpace);
            }
            done += n;
        }
        Ok(())
    })
}

/// Store through a shared mapping of the whole file.
fn store(p: &Process, path: &str, pos: usize, bytes: &[u8]) -> Result<()> {
    with(p, path, OpenFlags::RDWR, |fd| {
        let rights = Prot::READ | Prot::WRITE;
        let len = pos + bytes.len();
        let at = p.mmap(VirtAddr(0), len, rights, MapFlags::SHARED, Some(fd), 0)?;
        let stored = p.store(at.add(pos as u64), bytes);
        p.munmap(at, len)?;
        stored
    })
}

fn allocate(p: &Process, path: &str, mode: FallocateMode, pos: usize, len: usize) -> Result<()> {
    with(p, path, OpenFlags::RDWR, |fd| p.fallocate(fd, mode, pos as u64, len as u64))
}

/// Make a call. Files that are to stay open are added to `open`.
pub fn call(p: &Process, op: &Op, open: &mut Vec<Fd>) -> Result<()> {
    use FallocateMode as Mode;
    let write = OpenFlags::WRONLY;
    match op {
        Op::Nothing | Op::Push => Ok(()),
        Op::Create(path, mode) => {
            let flags = write | OpenFlags::CREAT | OpenFlags::EXCL;
            let fd = p.open(path.as_bytes(), flags, u32::from(*mode))?;
            p.close(fd)
        }
        Op::Mkdir(path) => p.mkdir(path.as_bytes(), 0o755),
        Op::Symlink(path, target) => p.symlink(target, path.as_bytes()),
        Op::Link(from, to) => p.link(from.as_bytes(), to.as_bytes()),
        Op::Unlink(path) => p.unlink(path.as_bytes()),
        Op::Orphan(path) => {
            open.push(p.open(path.as_bytes(), OpenFlags::RDWR, 0)?);
            p.unlink(path.as_bytes())
        }
        Op::Rmdir(path) => p.rmdir(path.as_bytes()),
        Op::Rename(from, to) => p.rename(from.as_bytes(), to.as_bytes()),
        Op::Exchange(a, b) => {
            use holdfast_fs::syscall::AT_FDCWD;
            p.renameat2(AT_FDCWD, a.as_bytes(), AT_FDCWD, b.as_bytes(), RenameFlags::EXCHANGE)
        }
        Op::Chmod(path, mode) => p.chmod(path.as_bytes(), u32::from(*mode)),
        Op::SetXattr(path, name, value) => {
            p.setxattr(path.as_bytes(), name, value, XattrFlags::empty())
        }
        Op::RemoveXattr(path, name) => p.removexattr(path.as_bytes(), name),
        Op::Write(path, pos, bytes) => write_all(p, path, write, *pos, bytes),
        Op::Direct(path, pos, bytes) => write_all(p, path, write | OpenFlags::DIRECT, *pos, bytes),
        Op::Store(path, pos, bytes) => store(p, path, *pos, bytes),
        Op::Truncate(path, size) => p.truncate(path.as_bytes(), *size as u64),
        Op::Punch(path, pos, len) => {
            allocate(p, path, Mode::PUNCH_HOLE | Mode::KEEP_SIZE, *pos, *len)
        }
        Op::Zero(path, pos, len) => allocate(p, path, Mode::ZERO_RANGE, *pos, *len),
        Op::Allocate(path, pos, len, keep) => {
            let mode = if *keep { Mode::KEEP_SIZE } else { Mode::empty() };
            allocate(p, path, mode, *pos, *len)
        }
        Op::Collapse(path, pos, len) => allocate(p, path, Mode::COLLAPSE_RANGE, *pos, *len),
        Op::Insert(path, pos, len) => allocate(p, path, Mode::INSERT_RANGE, *pos, *len),
        Op::Clone(from, to) => with(p, from, OpenFlags::RDONLY, |source| {
            with(p, to, OpenFlags::WRONLY | OpenFlags::TRUNC, |target| p.ficlone(target, source))
        }),
        Op::Fsync(path) => {
            let path = if path.is_empty() { "/" } else { path };
            with(p, path, OpenFlags::RDONLY, |fd| p.fsync(fd))
        }
        Op::Sync => {
            p.sync();
            Ok(())
        }
    }
}
