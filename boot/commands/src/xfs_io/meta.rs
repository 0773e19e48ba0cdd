//! Commands on the open file that are neither transfers nor mappings.

use alloc::string::String;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::{FallocateMode, OpenFlags, SyncRange, Whence};
use holdfast_fs::xfs::{Attributes, FileType};

use super::map::{advice, print_maps};
use super::{Failure, Outcome, Run};
use crate::{date, options, out, text};

fn call(what: &'static str) -> impl Fn(Error) -> Failure {
    move |e| Failure::Call(what, e)
}

/// `fsync`
pub(super) fn fsync(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    run.cx.process.fsync(run.fd()).map_err(call("fsync"))
}

/// `fdatasync`
pub(super) fn fdatasync(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    run.cx.process.fdatasync(run.fd()).map_err(call("fdatasync"))
}

/// `sync`
pub(super) fn sync(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    run.cx.process.sync();
    Ok(())
}

/// `syncfs`
pub(super) fn syncfs(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    run.cx.process.syncfs(run.fd()).map_err(call("syncfs"))
}

/// `sync_range [-abw] off len`
pub(super) fn sync_range(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "abw")?;
    let letters =
        [(b'a', SyncRange::WAIT_AFTER), (b'b', SyncRange::WAIT_BEFORE), (b'w', SyncRange::WRITE)];
    let flags = parsed.flags(&letters).unwrap_or(SyncRange::WRITE);
    let [offset, len] = parsed.operands[..] else { return Err(Failure::Usage) };
    let offset = run.quantity("offset argument", offset)?;
    let len = run.quantity("length argument", len)?;
    let sync = run.cx.process.sync_file_range(run.fd(), offset, len, flags);
    sync.map_err(call("sync_file_range"))
}

/// `fadvise [-dnrsw] [off len]`
pub(super) fn fadvise(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "dnrsw")?;
    let takes_range = [b'd', b'n', b'w'].into_iter().any(|o| parsed.has(o));
    let (offset, len) = match (parsed.operands.as_slice(), takes_range) {
        ([], false) => (0, 0),
        (&[offset, len], true) => {
            let offset = run.quantity("offset argument", offset)?;
            (offset, run.quantity("length argument", len)?)
        }
        _ => return Err(Failure::Usage),
    };
    let advised = run.cx.process.fadvise(run.fd(), offset, len, advice(&parsed));
    advised.map_err(call("fadvise"))
}

/// `truncate off`
pub(super) fn truncate(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let size = run.quantity("truncate argument", words[1])?;
    run.cx.process.ftruncate(run.fd(), size).map_err(call("ftruncate"))
}

fn allocate(run: &mut Run<'_>, mode: FallocateMode, operands: &[&[u8]]) -> Outcome {
    let &[offset, len] = operands else { return Err(Failure::Usage) };
    let offset = run.quantity("offset argument", offset)?;
    let len = run.quantity("length argument", len)?;
    run.cx.process.fallocate(run.fd(), mode, offset, len).map_err(call("fallocate"))
}

/// `falloc [-c] [-k] [-p] [-u] off len`
pub(super) fn falloc(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "ckpu")?;
    let mut mode = FallocateMode::empty();
    for (letter, flags) in [
        (b'c', FallocateMode::COLLAPSE_RANGE),
        (b'k', FallocateMode::KEEP_SIZE),
        (b'p', FallocateMode::PUNCH_HOLE),
        (b'u', FallocateMode::UNSHARE_RANGE),
    ] {
        if parsed.has(letter) {
            mode |= flags;
        }
    }
    allocate(run, mode, &parsed.operands)
}

/// `fpunch off len`
pub(super) fn fpunch(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    allocate(run, FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE, &words[1..])
}

/// `fcollapse off len`
pub(super) fn fcollapse(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    allocate(run, FallocateMode::COLLAPSE_RANGE, &words[1..])
}

/// `finsert off len`
pub(super) fn finsert(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    allocate(run, FallocateMode::INSERT_RANGE, &words[1..])
}

/// `funshare off len`
pub(super) fn funshare(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    allocate(run, FallocateMode::UNSHARE_RANGE, &words[1..])
}

/// `lsattr`
pub(super) fn lsattr(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "v")?;
    let path = String::from_utf8_lossy(&run.file().path).into_owned();
    let attributes = run.cx.process.attributes(run.fd()).map_err(call("fsgetxattr"))?;
    let flags = xflags(&attributes, parsed.has(b'v'));
    out!(run.cx, "{flags} {path} \n");
    Ok(())
}

/// `fzero [-k] off len`
pub(super) fn fzero(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "k")?;
    let mut mode = FallocateMode::ZERO_RANGE;
    if parsed.has(b'k') {
        mode |= FallocateMode::KEEP_SIZE;
    }
    allocate(run, mode, &parsed.operands)
}

/// `sleep seconds`
pub(super) fn sleep(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let Some(word) = words.get(1) else { return Err(Failure::Usage) };
    let seconds = run.quantity("argument", word)?;
    run.cx.flush();
    holdfast_sync::thread::sleep_ns(seconds.saturating_mul(1_000_000_000));
    Ok(())
}

/// `quit`
pub(super) fn quit(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    run.done = true;
    Ok(())
}

/// `open [-adfrst] [path]`
pub(super) fn open(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "adfFnrstxL")?;
    match parsed.operands[..] {
        [] if run.files.is_empty() => {
            run.cx.diagnostic(format_args!("no files are open, try 'help open'"));
        }
        [] => print_file(run, run.current),
        [path] => {
            if let Err(e) = run.open(path, super::open_flags(&parsed)) {
                run.open_failed(path, &e);
                run.status = 1;
            }
        }
        _ => return Err(Failure::Usage),
    }
    Ok(())
}

/// `close`
pub(super) fn close(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    run.files.remove(run.current);
    run.current = 0;
    print_files(run);
    Ok(())
}

/// `file [N]`
pub(super) fn file(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    if let Some(word) = words.get(1) {
        match run.number(word).and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n < run.files.len() => run.current = n,
            _ => {
                let (word, last) = (String::from_utf8_lossy(word), run.files.len() - 1);
                let message = alloc::format!("value {word} is out of range (0-{last})");
                return Err(Failure::Message(message));
            }
        }
    }
    print_files(run);
    Ok(())
}

/// `print`
pub(super) fn print(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    print_files(run);
    print_maps(run);
    Ok(())
}

fn print_files(run: &mut Run<'_>) {
    for i in 0..run.files.len() {
        print_file(run, i);
    }
}

fn print_file(run: &mut Run<'_>, i: usize) {
    let (open, close) = if i == run.current { ('[', ']') } else { (' ', ' ') };
    let file = &run.files[i];
    let kind = if file.xfs { "xfs" } else { "foreign" };
    let path = String::from_utf8_lossy(&file.path).into_owned();
    let words = flag_words(file.flags);
    out!(run.cx, "{open}{i:03}{close} {path:<14} ({kind},{words})\n");
}

fn flag_words(flags: OpenFlags) -> String {
    let pick = |flag, yes, no| if flags.contains(flag) { yes } else { no };
    alloc::format!(
        "{},{},{}{}{}",
        pick(OpenFlags::SYNC, "sync", "non-sync"),
        pick(OpenFlags::DIRECT, "direct", "non-direct"),
        pick(OpenFlags::RDWR, "read-write", "read-only"),
        pick(OpenFlags::APPEND, ",append-only", ""),
        pick(OpenFlags::NONBLOCK, ",non-block", ""),
    )
}

/// Letters and names of an inode's flags, in the order of their bits.
pub(super) const XFLAGS: [(u32, char, &str); 17] = [
    (1, 'r', "realtime"),
    (1 << 1, 'p', "prealloc"),
    (1 << 3, 'i', "immutable"),
    (1 << 4, 'a', "append-only"),
    (1 << 5, 's', "sync"),
    (1 << 6, 'A', "no-atime"),
    (1 << 7, 'd', "no-dump"),
    (1 << 8, 't', "rt-inherit"),
    (1 << 9, 'P', "proj-inherit"),
    (1 << 10, 'n', "nosymlinks"),
    (1 << 11, 'e', "extsize"),
    (1 << 12, 'E', "extsz-inherit"),
    (1 << 13, 'f', "no-defrag"),
    (1 << 14, 'S', "filestream"),
    (1 << 15, 'x', "dax"),
    (1 << 16, 'C', "cowextsize"),
    (1 << 31, 'X', "has-xattr"),
];

/// `stat [-v|-r]`
pub(super) fn stat(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "rv")?;
    let (fd, path) = (run.fd(), run.file().path.clone());
    let s = run.cx.process.fstat(fd).map_err(call("fstat"))?;
    if parsed.has(b'r') {
        raw_stat(run, &s);
        return Ok(());
    }
    let flags = flag_words(run.file().flags);
    let cx = &mut *run.cx;
    out!(cx, "fd.path = \"{}\"\nfd.flags = {flags}\n", String::from_utf8_lossy(&path));
    out!(cx, "stat.ino = {}\nstat.type = {}\n", s.ino, type_name(s.file_type()));
    out!(cx, "stat.size = {}\nstat.blocks = {}\n", s.size, s.blocks);
    if parsed.has(b'v') {
        for (name, time) in [("atime", s.atime), ("mtime", s.mtime), ("ctime", s.ctime)] {
            out!(cx, "stat.{name} = {}\n", date::ctime(time.seconds));
        }
    }
    let Ok(a) = cx.process.attributes(fd) else { return Ok(()) };
    out!(cx, "fsxattr.xflags = {:#x} [{}]\n", a.xflags, xflags(&a, parsed.has(b'v')));
    out!(cx, "fsxattr.projid = {}\nfsxattr.extsize = {}\n", a.projid, a.extsize);
    out!(cx, "fsxattr.cowextsize = {}\nfsxattr.nextents = {}\n", a.cowextsize, a.nextents);
    out!(cx, "fsxattr.naextents = {}\n", a.anextents);
    // Direct transfers go in the device's sectors, up to what one call moves.
    let (sector, most) = match s.file_type() {
        FileType::Regular => (512, 0x7FFF_FFFF / 512 * 512),
        _ => (0, 0),
    };
    out!(cx, "dioattr.mem = {sector:#x}\ndioattr.miniosz = {sector}\ndioattr.maxiosz = {most}\n");
    Ok(())
}

fn xflags(a: &Attributes, names: bool) -> String {
    if names {
        let set: Vec<&str> = XFLAGS.iter().filter(|f| a.xflags & f.0 != 0).map(|f| f.2).collect();
        return set.join(", ");
    }
    XFLAGS.iter().map(|f| if a.xflags & f.0 != 0 { f.1 } else { '-' }).collect()
}

const fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "regular file",
        FileType::Directory => "directory",
        FileType::CharDevice => "char device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Symlink => "symlink",
        _ => "unknown",
    }
}

fn raw_stat(run: &mut Run<'_>, s: &holdfast_fs::vfs::Stat) {
    let cx = &mut *run.cx;
    out!(cx, "stat.blksize = {}\nstat.nlink = {}\n", s.blksize, s.nlink);
    out!(cx, "stat.uid = {}\nstat.gid = {}\nstat.mode: 0{:o}\n", s.uid, s.gid, s.mode);
    out!(cx, "stat.ino = {}\nstat.size = {}\nstat.blocks = {}\n", s.ino, s.size, s.blocks);
    for (name, time) in [("atime", s.atime), ("ctime", s.ctime), ("mtime", s.mtime)] {
        out!(cx, "stat.{name}.tv_sec = {}\n", time.seconds);
        out!(cx, "stat.{name}.tv_nsec = {}\n", time.nanoseconds);
    }
    for (name, device) in [("rdev", s.rdev), ("dev", s.dev)] {
        let (major, minor) = text::major_minor(device);
        out!(cx, "stat.{name}_major = {major}\nstat.{name}_minor = {minor}\n");
    }
}

/// `seek -a | -d | -h [-r] off`
pub(super) fn seek(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = options::parse(words, "adhr", &[]).map_err(|_| Failure::Usage)?;
    let [offset] = parsed.operands[..] else { return Err(Failure::Usage) };
    let all = parsed.has(b'a');
    let (data, hole) = (all || parsed.has(b'd'), all || parsed.has(b'h'));
    if !data && !hole {
        return Err(Failure::Usage);
    }
    let mut at = run.quantity("offset argument", offset)?;
    out!(run.cx, "Whence\tResult\n");
    let find =
        |run: &Run<'_>, at: u64, whence| match run.cx.process.lseek(run.fd(), at as i64, whence) {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoData) => Ok(None),
            Err(e) => Err(Failure::Call("ERR", e)),
        };
    let mut next_data = find(run, at, Whence::Data)?;
    let mut next_hole = find(run, at, Whence::Hole)?;
    let (mut shown, repeat) = (0, all || parsed.has(b'r'));
    loop {
        // Whichever comes first is next.
        let is_data = match (next_data, next_hole) {
            (None, None) => break,
            (Some(d), Some(h)) => d < h,
            (d, _) => d.is_some(),
        };
        let position = if is_data { next_data } else { next_hole };
        at = position.unwrap_or(at);
        if is_data && data {
            out!(run.cx, "DATA\t{at}\n");
            shown += 1;
        } else if !is_data && hole {
            out!(run.cx, "HOLE\t{at}\n");
            shown += 1;
        }
        if !repeat && shown > 0 {
            return Ok(());
        }
        match is_data {
            true => next_data = find(run, next_hole.unwrap_or(u64::MAX >> 1), Whence::Data)?,
            false => next_hole = find(run, next_data.unwrap_or(u64::MAX >> 1), Whence::Hole)?,
        }
    }
    if shown == 0 || (data && !hole) {
        let name = if data { "DATA" } else { "HOLE" };
        if shown == 0 {
            out!(run.cx, "{name}\tEOF\n");
        }
    }
    Ok(())
}
