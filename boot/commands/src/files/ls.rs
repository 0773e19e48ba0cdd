//! `ls`, one name a line, as GNU's does when it writes to no terminal.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use holdfast_fs::vfs::Stat;
use holdfast_fs::xfs::FileType;

use super::{Name, list};
use crate::context::{Context, Status};
use crate::{date, options, out, text};

struct Flags {
    long: bool,
    recursive: bool,
    all: bool,
    almost_all: bool,
    inode: bool,
    itself: bool,
    reverse: bool,
}

struct Item {
    name: Vec<u8>,
    stat: Option<Stat>,
    target: Option<Vec<u8>>,
}

/// `ls [-1AadilnRr] [FILE]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long_options = [
        ("all", b'a'),
        ("almost-all", b'A'),
        ("recursive", b'R'),
        ("directory", b'd'),
        ("inode", b'i'),
        ("reverse", b'r'),
    ];
    let mut parsed = match options::parse(argv, "1AadilnrR", &long_options) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 2),
    };
    let flags = Flags {
        long: parsed.has(b'l') || parsed.has(b'n'),
        recursive: parsed.has(b'R') && !parsed.has(b'd'),
        all: parsed.has(b'a'),
        almost_all: parsed.has(b'A'),
        inode: parsed.has(b'i'),
        itself: parsed.has(b'd'),
        reverse: parsed.has(b'r'),
    };
    if parsed.operands.is_empty() {
        parsed.operands.push(b".");
    }
    let mut status = 0;
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    for path in &parsed.operands {
        // A link to a directory named on the command line is followed, except with -l, -d.
        let follow = !flags.long && !flags.itself;
        let stat = match follow {
            true => cx.process.stat(path).or_else(|_| cx.process.lstat(path)),
            false => cx.process.lstat(path),
        };
        match stat {
            Ok(stat) if stat.file_type() == FileType::Directory && !flags.itself => {
                dirs.push(path.to_vec());
            }
            Ok(stat) => {
                let item = item(cx, path.to_vec(), path, Some(stat), &flags);
                files.push(item);
            }
            Err(e) => {
                cx.cannot("cannot access", path, &e);
                status = 2;
            }
        }
    }
    sort(&mut files, &flags);
    dirs.sort();
    if flags.reverse {
        dirs.reverse();
    }
    print_items(cx, &files, &flags);
    let titled = flags.recursive || parsed.operands.len() > 1;
    status.max(list_dirs(cx, dirs, titled, files.is_empty(), &flags))
}

/// List directories one after the other, with `-R` also those below.
fn list_dirs(
    cx: &mut Context,
    operands: Vec<Vec<u8>>,
    titled: bool,
    mut first: bool,
    flags: &Flags,
) -> Status {
    let mut status = 0;
    // The next one last; whether the command line named it.
    let mut pending: Vec<(Vec<u8>, bool)> = operands.into_iter().rev().map(|p| (p, true)).collect();
    while let Some((path, named)) = pending.pop() {
        let (names, error) = list(&cx.process, &path);
        if let Some(e) = error {
            cx.flush();
            let what = if names.is_empty() { "cannot open directory" } else { "reading directory" };
            cx.cannot(what, &path, &e);
            status = status.max(if named { 2 } else { 1 });
            if names.is_empty() {
                continue;
            }
        }
        if titled {
            if !first {
                cx.bytes(b"\n");
            }
            cx.bytes(&path);
            cx.bytes(b":\n");
        }
        first = false;
        let items = read_items(cx, &path, names, flags, &mut status);
        if flags.long {
            let blocks: u64 = items.iter().filter_map(|i| i.0.stat).map(|s| s.blocks).sum();
            out!(cx, "total {}\n", blocks.div_ceil(2));
        }
        let mut below: Vec<Vec<u8>> = items
            .iter()
            .filter(|(i, is_dir)| *is_dir && i.name != b"." && i.name != b"..")
            .map(|(i, _)| text::join(&path, &i.name))
            .collect();
        let mut items: Vec<Item> = items.into_iter().map(|i| i.0).collect();
        sort(&mut items, flags);
        print_items(cx, &items, flags);
        if flags.recursive {
            below.sort();
            if !flags.reverse {
                below.reverse();
            }
            pending.extend(below.into_iter().map(|p| (p, false)));
        }
    }
    status
}

/// Look at the names of a directory; with each whether it is a directory.
fn read_items(
    cx: &mut Context,
    path: &[u8],
    names: Vec<Name>,
    flags: &Flags,
    status: &mut Status,
) -> Vec<(Item, bool)> {
    let mut items = Vec::new();
    for name in names {
        let own = name.name == b"." || name.name == b"..";
        let shown = flags.all || (flags.almost_all && !own);
        if name.name.first() == Some(&b'.') && !shown {
            continue;
        }
        let below = text::join(path, &name.name);
        let need = flags.long || flags.inode || name.file_type == FileType::Unknown;
        let stat = match need.then(|| cx.process.lstat(&below)) {
            Some(Ok(stat)) => Some(stat),
            Some(Err(e)) => {
                cx.flush();
                cx.cannot("cannot access", &below, &e);
                *status = (*status).max(1);
                None
            }
            None => None,
        };
        let is_dir = stat.map_or(name.file_type, |s| s.file_type()) == FileType::Directory;
        let item = item(cx, name.name, &below, stat, flags);
        items.push((item, is_dir));
    }
    items
}

fn sort(items: &mut [Item], flags: &Flags) {
    items.sort_by(|a, b| a.name.cmp(&b.name));
    if flags.reverse {
        items.reverse();
    }
}

fn item(cx: &Context, name: Vec<u8>, path: &[u8], stat: Option<Stat>, flags: &Flags) -> Item {
    let link = flags.long && stat.is_some_and(|s| s.file_type() == FileType::Symlink);
    let target = if link { cx.process.readlink(path).ok() } else { None };
    Item { name, stat, target }
}

/// The columns of a long line before the name.
struct Row {
    inode: String,
    mode: String,
    nlink: String,
    uid: String,
    gid: String,
    size: String,
    date: String,
}

fn row(stat: Option<&Stat>, now: i64) -> Row {
    let Some(s) = stat else {
        let q = || "?".to_string();
        return Row {
            inode: q(),
            mode: "??????????".to_string(),
            nlink: q(),
            uid: q(),
            gid: q(),
            size: q(),
            date: "           ?".to_string(),
        };
    };
    Row {
        inode: s.ino.to_string(),
        mode: text::mode_string(s.mode),
        nlink: s.nlink.to_string(),
        uid: s.uid.to_string(),
        gid: s.gid.to_string(),
        size: s.size.to_string(),
        date: date::listing(s.mtime, now),
    }
}

fn print_items(cx: &mut Context, items: &[Item], flags: &Flags) {
    let now = (cx.process.environment().wall_clock_ns() / 1_000_000_000) as i64;
    let mut rows: Vec<Row> = items.iter().map(|i| row(i.stat.as_ref(), now)).collect();
    let width =
        |column: fn(&Row) -> &String| rows.iter().map(|r| column(r).len()).max().unwrap_or(0);
    let (inode, nlink) = (width(|r| &r.inode), width(|r| &r.nlink));
    let (uid, gid) = (width(|r| &r.uid), width(|r| &r.gid));
    // A device shows two numbers where others show their size.
    let numbers: Vec<Option<(String, String)>> = items.iter().map(device_numbers).collect();
    let major = numbers.iter().flatten().map(|n| n.0.len()).max().unwrap_or(0);
    let minor = numbers.iter().flatten().map(|n| n.1.len()).max().unwrap_or(0);
    for (row, device) in rows.iter_mut().zip(&numbers) {
        if let Some((a, b)) = device {
            row.size = alloc::format!("{a:>major$}, {b:>minor$}");
        }
    }
    let size = rows.iter().map(|r| r.size.len()).max().unwrap_or(0);
    for (item, r) in items.iter().zip(&rows) {
        if flags.inode {
            out!(cx, "{:>inode$} ", r.inode);
        }
        if flags.long {
            out!(cx, "{} {:>nlink$} {:>uid$} {:>gid$} ", r.mode, r.nlink, r.uid, r.gid);
            out!(cx, "{:>size$} {} ", r.size, r.date);
        }
        cx.bytes(&item.name);
        if let Some(target) = &item.target {
            cx.bytes(b" -> ");
            cx.bytes(target);
        }
        cx.bytes(b"\n");
    }
}

fn device_numbers(item: &Item) -> Option<(String, String)> {
    let stat = item.stat?;
    let device = matches!(stat.file_type(), FileType::CharDevice | FileType::BlockDevice);
    let (major, minor) = text::major_minor(stat.rdev);
    device.then(|| (major.to_string(), minor.to_string()))
}
