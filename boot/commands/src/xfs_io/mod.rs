//! `xfs_io`: the file exerciser of xfsprogs, its command strings and its lines.
//!
//! | module    | owns |
//! |-----------|------|
//! | `table`   | the commands: names, how many arguments, help |
//! | `io`      | pread, pwrite |
//! | `map`     | mmap, mread, mwrite, msync, munmap, madvise |
//! | `extent`  | fiemap, bmap |
//! | `hints`   | chattr, extsize, cowextsize, chproj, lsproj |
//! | `share`   | reflink, dedupe, copy_range |
//! | `meta`    | stat, truncate, falloc, fsync and what else works on the open file |
//! | `numbers` | reading and printing numbers |
//!
//! As in the original a command that fails sets the exit status to 1 and the next one
//! runs all the same; only a load or store that a signal would answer ends the run.
//! Owns: the open files and mappings of one run. No locks.

mod extent;
mod hints;
mod io;
mod map;
mod meta;
pub mod numbers;
mod share;
mod table;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{OpenFlags, Prot};
use holdfast_fs::{Error, Result};

use crate::context::{Context, Status, explain};
use crate::files::{Input, OpenFile, read_pieces};
use crate::{options, out};

const USAGE: &str = "Usage: xfs_io [-adfinrRstVx] [-m mode] [-p prog] [[-c|-C] cmd]... file";

/// An open file.
struct File {
    path: Vec<u8>,
    open: OpenFile,
    flags: OpenFlags,
    block_bytes: u32,
    xfs: bool,
}

/// A mapping.
#[derive(Clone)]
struct Mapped {
    addr: VirtAddr,
    offset: u64,
    len: u64,
    prot: Prot,
    path: Vec<u8>,
}

/// One run's state.
struct Run<'a> {
    cx: &'a mut Context,
    files: Vec<File>,
    current: usize,
    maps: Vec<Mapped>,
    current_map: usize,
    status: Status,
    done: bool,
}

/// Why a command did not do its work; what was to say has been said or is in here.
enum Failure {
    /// The arguments are wrong: print the usage.
    Usage,
    /// A message for standard output, as the original prints it.
    Message(String),
    /// A call failed: `what: reason`, as `perror` prints it.
    Call(&'static str, Error),
    /// A load or store met SIGSEGV or SIGBUS.
    Signal(&'static str, Error),
}

/// What a command gives back.
type Outcome = Result<(), Failure>;

/// `xfs_io [-adfrstx] [-c CMD]... [FILE]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "ac:C:dfFiLm:np:PrRstTVxh", &[]) {
        Ok(parsed) if !parsed.has(b'h') => parsed,
        Ok(_) => {
            cx.diagnostic(format_args!("xfs_io: invalid option -- 'h'\n{USAGE}"));
            return 1;
        }
        Err(e) => {
            cx.diagnostic(format_args!("xfs_io: {e}\n{USAGE}"));
            return 1;
        }
    };
    if parsed.has(b'V') {
        out!(cx, "xfs_io version {}\n", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    let flags = open_flags(&parsed);
    let commands: Vec<(bool, &[u8])> = parsed
        .options
        .iter()
        .filter_map(|(letter, value)| match letter {
            b'c' | b'C' => value.map(|v| (*letter == b'C', v)),
            _ => None,
        })
        .collect();
    let mut run = Run {
        cx,
        files: Vec::new(),
        current: 0,
        maps: Vec::new(),
        current_map: 0,
        status: 0,
        done: false,
    };
    for path in &parsed.operands {
        if let Err(e) = run.open(path, flags) {
            run.open_failed(path, &e);
            return 1;
        }
    }
    if commands.is_empty() {
        run.interactive();
    }
    for (_, line) in commands {
        run.line(line);
    }
    run.unmap_all();
    run.status
}

fn open_flags(parsed: &options::Parsed<'_>) -> OpenFlags {
    let mut flags = if parsed.has(b'r') { OpenFlags::RDONLY } else { OpenFlags::RDWR };
    for (letter, flag) in [
        (b'a', OpenFlags::APPEND),
        (b'd', OpenFlags::DIRECT),
        (b'f', OpenFlags::CREAT),
        (b'n', OpenFlags::NONBLOCK),
        (b's', OpenFlags::SYNC),
        (b't', OpenFlags::TRUNC),
        (b'L', OpenFlags::NOFOLLOW),
    ] {
        if parsed.has(letter) {
            flags |= flag;
        }
    }
    flags
}

impl Run<'_> {
    /// Open a file and make it the current one.
    fn open(&mut self, path: &[u8], flags: OpenFlags) -> Result<()> {
        let process = self.cx.process.clone();
        // What the tool makes is for the owner alone.
        let opened = OpenFile::with_mode(&process, path, flags, 0o600);
        let open = match opened {
            // A directory cannot be open for writing; the tool falls back.
            Err(Error::IsDirectory) => {
                OpenFile::new(&process, path, flags.difference(OpenFlags::RDWR))?
            }
            other => other?,
        };
        // Device nodes lie on no file system.
        let info = process.statfs(path).ok();
        let attributes = process.attributes(open.fd);
        self.files.push(File {
            path: path.to_vec(),
            open,
            flags,
            block_bytes: info.map_or(4096, |i| i.block_bytes),
            xfs: attributes.is_ok(),
        });
        self.current = self.files.len() - 1;
        Ok(())
    }
    /// The original looks at the path first, and names that call when it fails oddly.
    fn open_failed(&mut self, path: &[u8], e: &Error) {
        let path = match e {
            Error::NotDirectory | Error::Loop | Error::NameTooLong => "stat".into(),
            _ => String::from_utf8_lossy(path).into_owned(),
        };
        let reason = explain(e);
        self.cx.diagnostic(format_args!("{path}: {reason}"));
    }
    fn file(&self) -> &File {
        // Commands that need a file are not called without one.
        &self.files[self.current.min(self.files.len() - 1)]
    }
    fn fd(&self) -> i32 {
        self.file().open.fd
    }
    /// Commands from standard input.
    fn interactive(&mut self) {
        let mut text = Vec::new();
        let process = Arc::clone(&self.cx.process);
        let terminal = process.isatty(0);
        if terminal {
            self.cx.bytes(b"xfs_io> ");
            self.cx.flush();
        }
        let result = read_pieces(&process, Input::Stdin.fd(), &mut |piece| {
            text.extend_from_slice(piece);
            while let Some(end) = text.iter().position(|&b| b == b'\n' || b == b'\r') {
                let line: Vec<u8> = text.drain(..=end).collect();
                self.line(&line[..end]);
                if terminal && !self.done {
                    self.cx.bytes(b"xfs_io> ");
                    self.cx.flush();
                }
            }
            !self.done && text.len() <= crate::script::LINE_MAX
        });
        if let Err(e) = result {
            self.cx.failed(b"standard input", &e);
            self.status = 1;
        }
        if !self.done && !text.is_empty() {
            self.line(&text);
        }
    }
    /// Run one command line.
    fn line(&mut self, line: &[u8]) {
        let words: Vec<&[u8]> = line.split(|&b| b == b' ').filter(|w| !w.is_empty()).collect();
        let Some(&name) = words.first() else { return };
        if self.done {
            return;
        }
        let Some(command) = table::find(name) else {
            let name = String::from_utf8_lossy(name).into_owned();
            self.cx.diagnostic(format_args!("command \"{name}\" not found"));
            return;
        };
        if command.needs_file && self.files.is_empty() {
            self.cx.diagnostic(format_args!("no files are open, try 'help open'"));
            return;
        }
        if command.needs_map && self.maps.is_empty() {
            self.cx.diagnostic(format_args!("no mapped regions, try 'help mmap'"));
            return;
        }
        if let Some(complaint) = command.check_count(words.len() - 1) {
            self.cx.diagnostic(format_args!("{complaint}"));
            return;
        }
        let result = (command.main)(self, &words);
        self.cx.flush();
        match result {
            Ok(()) => return,
            Err(Failure::Usage) => {
                out!(self.cx, "{}\n", command.usage());
            }
            Err(Failure::Message(message)) => out!(self.cx, "{message}\n"),
            Err(Failure::Call(what, e)) => self.call_failed(what, &e),
            Err(Failure::Signal(what, e)) => {
                let name = if e == Error::Fault { "Segmentation fault" } else { "Bus error" };
                self.cx.diagnostic(format_args!("xfs_io: {what}: {name}"));
                self.done = true;
            }
        }
        self.cx.flush();
        self.status = 1;
    }
    /// `perror`, and on a line of its own the stack's reason, where it has one.
    fn call_failed(&mut self, what: &str, e: &Error) {
        self.cx.diagnostic(format_args!("{what}: {}", e.text()));
        let reason = explain(e);
        if reason != e.text() {
            self.cx.diagnostic(format_args!("xfs_io: {reason}"));
        }
    }
    /// The options of a command line. The original's complaint is on standard error.
    fn options<'w>(
        &mut self,
        words: &[&'w [u8]],
        letters: &str,
    ) -> Result<options::Parsed<'w>, Failure> {
        options::parse(words, letters, &[]).map_err(|e| {
            let name = String::from_utf8_lossy(words[0]).into_owned();
            self.cx.diagnostic(format_args!("{name}: {e}"));
            Failure::Usage
        })
    }
    /// A number of the command line, with the file's units.
    fn number(&self, word: &[u8]) -> Option<i64> {
        let block_bytes = self.files.get(self.current).map_or(4096, |f| f.block_bytes);
        numbers::parse(word, block_bytes, 512)
    }
    /// A number that must not be negative; `what` names it in the complaint.
    fn quantity(&self, what: &str, word: &[u8]) -> Result<u64, Failure> {
        match self.number(word).map(u64::try_from) {
            Some(Ok(value)) => Ok(value),
            _ => Err(not_numeric(what, word)),
        }
    }
    /// A seed: any number, of which the lowest byte counts.
    fn seed(&self, word: Option<&[u8]>, default: u8) -> Result<u8, Failure> {
        let Some(word) = word else { return Ok(default) };
        match numbers::integer(word) {
            Some((value, _)) => Ok(value as u8),
            None => Err(not_numeric("seed", word)),
        }
    }
}

fn not_numeric(what: &str, word: &[u8]) -> Failure {
    Failure::Message(alloc::format!("non-numeric {what} -- {}", String::from_utf8_lossy(word)))
}

/// Bytes of a file or mapping, sixteen a line, under the position of the first.
fn dump(cx: &mut Context, position: u64, bytes: &[u8]) {
    for (i, line) in bytes.chunks(16).enumerate() {
        out!(cx, "{:08x}:  ", position + 16 * i as u64);
        for b in line {
            out!(cx, "{b:02x} ");
        }
        cx.bytes(b" ");
        for &b in line {
            cx.bytes(&[if b.is_ascii_alphanumeric() { b } else { b'.' }]);
        }
        cx.bytes(b"\n");
    }
}
