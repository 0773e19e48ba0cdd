//! Files between the host and the image.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use holdfast_fs::Error;
use holdfast_fs::syscall::{AT_FDCWD, Process, dirents};
use holdfast_fs::vfs::{OpenFlags, TimeChange};
use holdfast_fs::xfs::{FileType, Timestamp};

const CHUNK: usize = 1 << 20;

fn is_directory(process: &Process, path: &[u8]) -> bool {
    process.stat(path).is_ok_and(|s| s.file_type() == FileType::Directory)
}

fn said(path: &[u8], e: Error) -> anyhow::Error {
    anyhow!("{}: {e}", String::from_utf8_lossy(path))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Copy files and trees of the host into the image.
///
/// # Errors
/// The first thing that cannot be read or written.
pub fn put(process: &Arc<Process>, from: &[OsString], to: &OsStr) -> Result<u8> {
    let into = is_directory(process, to.as_bytes());
    if from.len() > 1 && !into {
        bail!("{}: not a directory", to.display());
    }
    for source in from {
        if source == "-" {
            put_stream(process, &mut std::io::stdin().lock(), to.as_bytes(), 0o644)?;
            continue;
        }
        let source = Path::new(source);
        let target = match source.file_name() {
            Some(name) if into => join(to.as_bytes(), name.as_bytes()),
            _ => to.as_bytes().to_vec(),
        };
        put_tree(process, source, target)?;
    }
    Ok(0)
}

fn put_tree(process: &Arc<Process>, source: &Path, target: Vec<u8>) -> Result<()> {
    let mut pending: Vec<(PathBuf, Vec<u8>)> = vec![(source.to_path_buf(), target)];
    while let Some((from, to)) = pending.pop() {
        let named = || from.display().to_string();
        let meta = fs::symlink_metadata(&from).with_context(named)?;
        let mode = meta.mode() & 0o7777;
        if meta.is_dir() {
            match process.mkdir(&to, 0o700) {
                Err(Error::Exists) if is_directory(process, &to) => {}
                other => other.map_err(|e| said(&to, e))?,
            }
            for entry in fs::read_dir(&from).with_context(named)? {
                let name = entry.with_context(named)?.file_name();
                pending.push((from.join(&name), join(&to, name.as_bytes())));
            }
            process.chmod(&to, mode).map_err(|e| said(&to, e))?;
            continue;
        }
        if meta.is_symlink() {
            let target = fs::read_link(&from).with_context(named)?;
            process.symlink(target.as_os_str().as_bytes(), &to).map_err(|e| said(&to, e))?;
            continue;
        }
        if !meta.is_file() {
            eprintln!("holdfast-image: {}: skipped, it is no file", from.display());
            continue;
        }
        put_stream(process, &mut File::open(&from).with_context(named)?, &to, mode)?;
        let time = |seconds, ns: i64| {
            TimeChange::Set(Timestamp { seconds, nanoseconds: ns.clamp(0, 999_999_999) as u32 })
        };
        let times = [time(meta.atime(), meta.atime_nsec()), time(meta.mtime(), meta.mtime_nsec())];
        process.utimensat(AT_FDCWD, &to, times, true).map_err(|e| said(&to, e))?;
    }
    Ok(())
}

fn put_stream(process: &Arc<Process>, source: &mut dyn Read, to: &[u8], mode: u32) -> Result<()> {
    let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
    let fd = process.open(to, flags, mode).map_err(|e| said(to, e))?;
    let mut buffer = vec![0; CHUNK];
    let result = loop {
        match source.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                if let Err(e) = holdfast_commands::write_all(process, fd, &buffer[..n]) {
                    break Err(said(to, e));
                }
            }
            Err(e) => break Err(e.into()),
        }
    };
    let closed = process.close(fd).map_err(|e| said(to, e));
    result.and(closed)
}

/// Copy files and trees of the image to the host.
///
/// # Errors
/// The first thing that cannot be read or written.
pub fn get(process: &Arc<Process>, from: &[OsString], to: &OsStr) -> Result<u8> {
    let into = Path::new(to).is_dir();
    if from.len() > 1 && !into && to != "-" {
        bail!("{}: not a directory", to.display());
    }
    for source in from {
        if to == "-" {
            get_stream(process, source.as_bytes(), &mut std::io::stdout().lock())?;
            continue;
        }
        let target = match Path::new(source).file_name() {
            Some(name) if into => Path::new(to).join(name),
            _ => PathBuf::from(to),
        };
        get_tree(process, source.as_bytes().to_vec(), target)?;
    }
    Ok(0)
}

fn get_tree(process: &Arc<Process>, source: Vec<u8>, target: PathBuf) -> Result<()> {
    let mut pending = vec![(source, target)];
    while let Some((from, to)) = pending.pop() {
        let named = || to.display().to_string();
        let stat = process.lstat(&from).map_err(|e| said(&from, e))?;
        match stat.file_type() {
            FileType::Directory => {
                if !to.is_dir() {
                    fs::create_dir(&to).with_context(named)?;
                }
                for name in names(process, &from)? {
                    let below = OsString::from_vec(name.clone());
                    pending.push((join(&from, &name), to.join(below)));
                }
            }
            FileType::Symlink => {
                let target = process.readlink(&from).map_err(|e| said(&from, e))?;
                symlink(OsString::from_vec(target), &to).with_context(named)?;
            }
            FileType::Regular => {
                let mut file = File::create(&to).with_context(named)?;
                get_stream(process, &from, &mut file)?;
                let mode = fs::Permissions::from_mode(stat.mode & 0o7777);
                file.set_permissions(mode).with_context(named)?;
                let times = FileTimes::new()
                    .set_accessed(system_time(stat.atime))
                    .set_modified(system_time(stat.mtime));
                file.set_times(times).with_context(named)?;
            }
            _ => {
                let from = String::from_utf8_lossy(&from);
                eprintln!("holdfast-image: {from}: skipped, it is no file");
            }
        }
    }
    Ok(())
}

/// A time as the host has it.
fn system_time(t: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(t.seconds.unsigned_abs());
    let second = match t.seconds < 0 {
        true => SystemTime::UNIX_EPOCH - whole,
        false => SystemTime::UNIX_EPOCH + whole,
    };
    second + Duration::from_nanos(t.nanoseconds.into())
}

/// The names in a directory, but `.` and `..`.
fn names(process: &Arc<Process>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let fd = process.open(path, OpenFlags::DIRECTORY, 0).map_err(|e| said(path, e))?;
    let mut buffer = vec![0; 64 << 10];
    let mut names = Vec::new();
    let result = loop {
        match process.getdents(fd, buffer.as_mut_slice()) {
            Ok(0) => break Ok(()),
            Ok(n) => names.extend(dirents(&buffer[..n]).map(|entry| entry.name.to_vec())),
            Err(e) => break Err(said(path, e)),
        }
    };
    let closed = process.close(fd).map_err(|e| said(path, e));
    result.and(closed)?;
    names.retain(|n| n != b"." && n != b"..");
    Ok(names)
}

fn get_stream(process: &Arc<Process>, from: &[u8], target: &mut dyn Write) -> Result<()> {
    let fd = process.open(from, OpenFlags::RDONLY, 0).map_err(|e| said(from, e))?;
    let mut buffer = vec![0; CHUNK];
    let result = loop {
        match process.read(fd, buffer.as_mut_slice()) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                if let Err(e) = target.write_all(&buffer[..n]) {
                    break Err(e.into());
                }
            }
            Err(e) => break Err(said(from, e)),
        }
    };
    let closed = process.close(fd).map_err(|e| said(from, e));
    result.and(closed)
}
