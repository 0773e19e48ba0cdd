//! `chattr`, `lsattr`: the flags of files, with the letters of e2fsprogs.

use alloc::string::String;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::{Fd, OpenFlags};
use holdfast_fs::xfs::{Attributes, FileType, Flags, FsXattr};

use super::attributes::{Walk, each};
use crate::context::{Context, Status};
use crate::files::{OpenFile, list};
use crate::{options, out, text};

/// `FS_XFLAG_DAX`: not one of those that lie on disk so.
const DAX: u32 = 0x8000;

const fn bit(flag: Flags) -> u32 {
    flag.bits() as u32
}

/// The letters that mean something here, in the order in which they are shown, with the
/// column that each has.
const LETTERS: [(u8, usize, u32); 7] = [
    (b'S', 2, bit(Flags::SYNC)),
    (b'i', 4, bit(Flags::IMMUTABLE)),
    (b'a', 5, bit(Flags::APPEND)),
    (b'd', 6, bit(Flags::NODUMP)),
    (b'A', 7, bit(Flags::NOATIME)),
    (b'x', 16, DAX),
    (b'P', 19, bit(Flags::PROJ_INHERIT)),
];
/// Columns of `lsattr`.
const COLUMNS: usize = 22;
/// Letters that mean something on other file systems.
const OTHERS: &[u8] = b"cCDEeFIjmNsTtuV";

/// What to change.
#[derive(Default)]
struct Change {
    add: u32,
    remove: u32,
    exactly: Option<u32>,
    project: Option<u32>,
}

impl Change {
    fn of(&self, a: &Attributes) -> FsXattr {
        let all = LETTERS.iter().fold(0, |all, letter| all | letter.2);
        let kept = self.exactly.map_or(a.xflags, |flags| a.xflags & !all | flags);
        FsXattr {
            xflags: (kept | self.add) & !self.remove,
            extsize: a.extsize,
            cowextsize: a.cowextsize,
            projid: self.project.unwrap_or(a.projid),
        }
    }
    /// Take in a word like `+ai`; the letter that means nothing at all, if there is one.
    fn word(&mut self, sign: u8, letters: &[u8]) -> Result<bool, u8> {
        let (mut bits, mut known) = (0, true);
        for letter in letters {
            match LETTERS.iter().find(|l| l.0 == *letter) {
                Some(found) => bits |= found.2,
                None if OTHERS.contains(letter) => known = false,
                None => return Err(*letter),
            }
        }
        match sign {
            b'+' => self.add |= bits,
            b'-' => self.remove |= bits,
            _ => self.exactly = Some(self.exactly.unwrap_or(0) | bits),
        }
        Ok(known)
    }
}

/// `chattr [-R] [-p PROJECT] MODE... FILE...`, a mode being `+`, `-` or `=` and letters
pub fn chattr(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let (mut change, mut recursive, mut known) = (Change::default(), false, true);
    let mut words = argv.iter().skip(1).copied().peekable();
    while let Some(word) = words.next_if(|w| w.len() > 1 && b"+-=".contains(&w[0])) {
        match word {
            b"-R" => recursive = true,
            b"-p" => {
                let number = words.next().and_then(text::number);
                change.project = number.and_then(|n| u32::try_from(n).ok());
                if change.project.is_none() {
                    return cx.usage(format_args!("bad project"), 1);
                }
            }
            _ => match change.word(word[0], &word[1..]) {
                Ok(all) => known &= all,
                Err(letter) => {
                    let letter = char::from(letter);
                    return cx.usage(format_args!("unrecognized argument: {letter}"), 1);
                }
            },
        }
    }
    if change.exactly.is_some() && change.add | change.remove != 0 {
        return cx.usage(format_args!("= is incompatible with - and +"), 1);
    }
    if words.peek().is_none() {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let files: Vec<&[u8]> = words.collect();
    let mut set = |cx: &mut Context, path: &[u8]| match known {
        true => set(cx, path, &change),
        false => Err(Error::NotSupported("a flag")),
    };
    let walk = Walk { recursive, what: "cannot set flags on", ..Walk::default() };
    each(cx, &files, walk, &mut set)
}

/// Call `with` with an open file or directory.
fn opened<T>(
    cx: &Context,
    path: &[u8],
    with: impl FnOnce(&Context, Fd) -> Result<T, Error>,
) -> Result<T, Error> {
    // A link itself has none, and nothing is followed.
    let flags = OpenFlags::NOFOLLOW | OpenFlags::NOATIME;
    let file = OpenFile::new(&cx.process, path, flags)?;
    with(cx, file.fd)
}

fn set(cx: &Context, path: &[u8], change: &Change) -> Result<(), Error> {
    opened(cx, path, |cx, fd| {
        let a = cx.process.attributes(fd)?;
        cx.process.fssetxattr(fd, &change.of(&a))
    })
}

/// `lsattr [-adp] [FILE...]`
pub fn lsattr(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "adp", &[]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let mut status = 0;
    let operands: &[&[u8]] = if parsed.operands.is_empty() { &[b"."] } else { &parsed.operands };
    for path in operands {
        let stat = cx.process.lstat(path);
        let directory = stat.is_ok_and(|s| s.file_type() == FileType::Directory);
        if !directory || parsed.has(b'd') {
            status |= show(cx, path, parsed.has(b'p'));
            continue;
        }
        let process = cx.process.clone();
        let (names, error) = list(&process, path);
        if let Some(e) = error {
            cx.cannot("cannot read directory", path, &e);
            status = 1;
        }
        for name in names.iter().filter(|n| parsed.has(b'a') || !n.name.starts_with(b".")) {
            status |= show(cx, &text::join(path, &name.name), parsed.has(b'p'));
        }
    }
    status
}

fn show(cx: &mut Context, path: &[u8], project: bool) -> Status {
    let attributes = match opened(cx, path, |cx, fd| cx.process.attributes(fd)) {
        Ok(attributes) => attributes,
        Err(e) => {
            cx.cannot("cannot read flags of", path, &e);
            return 1;
        }
    };
    let mut flags = [b'-'; COLUMNS];
    for (letter, column, bits) in LETTERS {
        if attributes.xflags & bits != 0 {
            flags[column] = letter;
        }
    }
    if project {
        out!(cx, "{:>5} ", attributes.projid);
    }
    out!(cx, "{} ", String::from_utf8_lossy(&flags));
    cx.bytes(path);
    cx.bytes(b"\n");
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_add_and_remove() {
        let a = |xflags| Attributes { xflags, ..Attributes::default() };
        let mut change = Change::default();
        assert_eq!(change.word(b'+', b"ia"), Ok(true));
        assert_eq!(change.word(b'-', b"A"), Ok(true));
        assert_eq!(change.word(b'+', b"C"), Ok(false));
        assert_eq!(change.word(b'+', b"q"), Err(b'q'));
        assert_eq!(change.of(&a(0x2840)).xflags, 0x2818);
        let mut change = Change { project: Some(9), ..Change::default() };
        assert_eq!(change.word(b'=', b"d"), Ok(true));
        // What no letter stands for stays.
        assert_eq!(change.of(&a(0x2808)).xflags, 0x2880);
        assert_eq!(change.of(&a(0)).projid, 9);
    }
}
