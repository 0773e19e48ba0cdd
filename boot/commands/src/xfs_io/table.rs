//! The commands: names, counts of arguments, help.

use alloc::string::String;

use super::{Outcome, Run, extent, hints, io, map, meta, share};
use crate::out;

type Main = fn(&mut Run<'_>, &[&[u8]]) -> Outcome;

/// One command.
pub(super) struct Command {
    pub name: &'static str,
    pub main: Main,
    least: usize,
    most: Option<usize>,
    arguments: &'static str,
    help: &'static str,
    /// Refused while no file is open.
    pub needs_file: bool,
    /// Refused while nothing is mapped.
    pub needs_map: bool,
}

const fn on_file(
    name: &'static str,
    main: Main,
    least: usize,
    most: Option<usize>,
    arguments: &'static str,
    help: &'static str,
) -> Command {
    Command { name, main, least, most, arguments, help, needs_file: true, needs_map: false }
}

const fn on_map(
    name: &'static str,
    main: Main,
    most: Option<usize>,
    arguments: &'static str,
    help: &'static str,
) -> Command {
    Command { name, main, least: 0, most, arguments, help, needs_file: false, needs_map: true }
}

const fn anywhere(
    name: &'static str,
    main: Main,
    most: Option<usize>,
    arguments: &'static str,
    help: &'static str,
) -> Command {
    Command { name, main, least: 0, most, arguments, help, needs_file: false, needs_map: false }
}

static COMMANDS: &[Command] = &[
    on_file("bmap", extent::bmap, 0, None, "[-clpv] [-n nx]", "where a file's blocks lie"),
    on_file("chattr", hints::chattr, 1, Some(1), "[+/-iasAdtPneEfSxC]", "change the file's flags"),
    on_file("chproj", hints::chproj, 1, Some(1), "projid", "change the file's project"),
    on_file("close", meta::close, 0, Some(0), "", "close the current file"),
    on_file(
        "copy_range",
        share::copy_range,
        1,
        None,
        "[-s off] [-d off] [-l len] src_file",
        "copy from another file",
    ),
    on_file("cowextsize", hints::cowextsize, 0, Some(1), "[cowextsize]", "the hint for copies"),
    on_file(
        "dedupe",
        share::dedupe,
        4,
        None,
        "[-Cq] infile src_off dst_off len",
        "share blocks with a file that holds the same",
    ),
    on_file(
        "fadvise",
        meta::fadvise,
        0,
        None,
        "[-dnrsw] [off len]",
        "say how the file will be used",
    ),
    on_file(
        "falloc",
        meta::falloc,
        2,
        None,
        "[-c] [-k] [-p] [-u] off len",
        "allocate, or with -p free, a range of the file",
    ),
    on_file("fcollapse", meta::fcollapse, 2, Some(2), "off len", "cut a range out"),
    on_file("fdatasync", meta::fdatasync, 0, Some(0), "", "make the file's data durable"),
    on_file(
        "fiemap",
        extent::fiemap,
        0,
        None,
        "[-lv] [-n nx] [offset [len]]",
        "the extents of a file",
    ),
    on_file("extsize", hints::extsize, 0, Some(1), "[extsize]", "the extent size hint"),
    on_file("file", meta::file, 0, Some(1), "[N]", "choose the current file"),
    on_file("finsert", meta::finsert, 2, Some(2), "off len", "insert a hole"),
    on_file("fpunch", meta::fpunch, 2, Some(2), "off len", "make a hole"),
    on_file("fsync", meta::fsync, 0, Some(0), "", "make the file durable"),
    on_file("funshare", meta::funshare, 2, Some(2), "off len", "unshare a range"),
    on_file("fzero", meta::fzero, 2, Some(3), "[-k] off len", "make a range read as zeros"),
    anywhere("help", help, Some(1), "[command]", "this list, or one command"),
    on_file("lsattr", meta::lsattr, 0, Some(1), "[-v]", "the file's flags"),
    on_file("lsproj", hints::lsproj, 0, Some(0), "", "the file's project"),
    on_map("madvise", map::madvise, None, "[-drsw] [off len]", "say how the mapping will be used"),
    on_file(
        "mmap",
        map::mmap,
        0,
        None,
        "[N] | [-rwx] [off len]",
        "map a range of the file, or show the mappings",
    ),
    on_map("mread", map::mread, None, "[-rv] [off len]", "load from the mapping"),
    on_map("msync", map::msync, None, "[-ais] [off len]", "make stores into the mapping durable"),
    on_map("munmap", map::munmap, Some(0), "", "unmap the current mapping"),
    on_map("mwrite", map::mwrite, None, "[-r] [-S seed] [off len]", "store into the mapping"),
    anywhere("open", meta::open, Some(8), "[-adfrst] [path]", "open a file"),
    on_file(
        "pread",
        io::pread,
        2,
        None,
        "[-b bs] [-Cqv] [-FB] [-V N] off len",
        "read at a position",
    ),
    anywhere("print", meta::print, Some(0), "", "open files and mappings"),
    on_file(
        "pwrite",
        io::pwrite,
        2,
        None,
        "[-b bs] [-S seed] [-CqwWO] [-FB] [-V N] off len",
        "write at a position",
    ),
    anywhere("quit", meta::quit, None, "", "leave"),
    on_file(
        "reflink",
        share::reflink,
        1,
        None,
        "[-Cq] infile [src_off dst_off len]",
        "share blocks with another file",
    ),
    on_file("seek", meta::seek, 1, None, "-a | -d | -h [-r] off", "the next data or hole"),
    anywhere("sleep", meta::sleep, Some(1), "seconds", "wait"),
    on_file("stat", meta::stat, 0, Some(1), "[-v|-r]", "what the file system knows of the file"),
    anywhere("sync", meta::sync, Some(0), "", "make all file systems durable"),
    on_file(
        "sync_range",
        meta::sync_range,
        2,
        None,
        "[-abw] off len",
        "start or await writeback of a range",
    ),
    on_file("syncfs", meta::syncfs, 0, Some(0), "", "make this file system durable"),
    on_file("truncate", meta::truncate, 1, Some(1), "off", "set the file's size"),
];

/// The command of this name, or its short form.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    let name: &[u8] = match name {
        b"q" | b"exit" => b"quit",
        b"s" => b"fsync",
        b"ds" => b"fdatasync",
        b"r" => b"pread",
        b"w" => b"pwrite",
        b"mm" => b"mmap",
        b"mu" => b"munmap",
        b"mr" => b"mread",
        b"mw" => b"mwrite",
        b"ms" => b"msync",
        b"t" => b"truncate",
        b"p" => b"print",
        b"h" | b"?" => b"help",
        b"o" => b"open",
        b"c" => b"close",
        b"f" => b"file",
        other => other,
    };
    COMMANDS.iter().find(|c| c.name.as_bytes() == name)
}

impl Command {
    /// What is wrong with a count of arguments.
    pub fn check_count(&self, count: usize) -> Option<String> {
        let good = count >= self.least && self.most.is_none_or(|most| count <= most);
        if good {
            return None;
        }
        let expected = match self.most {
            None => alloc::format!("at least {}", self.least),
            Some(most) if most == self.least => alloc::format!("{most}"),
            Some(most) => alloc::format!("between {} and {most}", self.least),
        };
        Some(alloc::format!(
            "bad argument count {count} to {}, expected {expected} arguments",
            self.name
        ))
    }
    /// The line that explains it.
    pub fn usage(&self) -> String {
        let gap = if self.arguments.is_empty() { "" } else { " " };
        alloc::format!("{}{gap}{} -- {}", self.name, self.arguments, self.help)
    }
}

fn help(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    match words.get(1) {
        Some(name) => match find(name) {
            Some(command) => out!(run.cx, "{}\n", command.usage()),
            None => out!(run.cx, "command {} not found\n", String::from_utf8_lossy(name)),
        },
        None => {
            for command in COMMANDS {
                out!(run.cx, "{}\n", command.usage());
            }
            out!(run.cx, "\nUse 'help commandname' for extended help.\n");
        }
    }
    Ok(())
}
