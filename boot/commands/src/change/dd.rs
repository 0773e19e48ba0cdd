//! `dd`, `cmp`.

use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::vfs::OpenFlags;
use holdfast_fs::vfs::Whence;
use holdfast_fs::{Error, Result};

use crate::context::{Context, Status, write_all};
use crate::files::{Input, OpenFile};
use crate::{options, out, text};

/// What the words of `dd` say.
struct Plan<'a> {
    input: &'a [u8],
    output: Option<&'a [u8]>,
    block_bytes: usize,
    count: Option<u64>,
    skip: u64,
    seek: u64,
    keep: bool,
    full: bool,
    sync: bool,
    data_sync: bool,
    input_flags: OpenFlags,
    output_flags: OpenFlags,
    quiet: bool,
}

/// A number with dd's suffixes.
fn number(word: &[u8]) -> Option<u64> {
    let digits = word.iter().take_while(|b| b.is_ascii_digit()).count();
    let value = text::number(&word[..digits])?;
    let unit = match &word[digits..] {
        b"" | b"c" => 1,
        b"w" => 2,
        b"b" => 512,
        b"K" | b"k" | b"KiB" => 1 << 10,
        b"M" | b"MiB" => 1 << 20,
        b"G" | b"GiB" => 1 << 30,
        b"kB" => 1_000,
        b"MB" => 1_000_000,
        b"GB" => 1_000_000_000,
        _ => return None,
    };
    value.checked_mul(unit)
}

fn flags_of(words: &[u8]) -> Option<OpenFlags> {
    let mut flags = OpenFlags::empty();
    for word in words.split(|&b| b == b',') {
        flags |= match word {
            b"direct" => OpenFlags::DIRECT,
            b"sync" => OpenFlags::SYNC,
            b"dsync" => OpenFlags::DSYNC,
            b"append" => OpenFlags::APPEND,
            b"noatime" => OpenFlags::NOATIME,
            b"nofollow" => OpenFlags::NOFOLLOW,
            b"fullblock" => OpenFlags::empty(),
            _ => return None,
        };
    }
    Some(flags)
}

impl<'a> Plan<'a> {
    fn parse(words: &[&'a [u8]]) -> Result<Self, &'a [u8]> {
        let mut plan = Plan {
            input: b"-",
            output: None,
            block_bytes: 512,
            count: None,
            skip: 0,
            seek: 0,
            keep: false,
            full: false,
            sync: false,
            data_sync: false,
            input_flags: OpenFlags::empty(),
            output_flags: OpenFlags::empty(),
            quiet: false,
        };
        for word in words.iter().copied() {
            plan.take(word).ok_or(word)?;
        }
        Ok(plan)
    }
    fn take(&mut self, word: &'a [u8]) -> Option<()> {
        let at = word.iter().position(|&b| b == b'=')?;
        let (name, value) = (&word[..at], &word[at + 1..]);
        match name {
            b"if" => self.input = value,
            b"of" => self.output = Some(value),
            b"bs" => {
                let bytes = number(value).filter(|n| (1..=1 << 26).contains(n))?;
                self.block_bytes = bytes as usize;
            }
            b"count" => self.count = Some(number(value)?),
            b"skip" => self.skip = number(value)?,
            b"seek" => self.seek = number(value)?,
            b"status" => self.quiet = matches!(value, b"none"),
            b"iflag" => {
                self.full = value.split(|&b| b == b',').any(|w| w == b"fullblock");
                self.input_flags = flags_of(value)?;
            }
            b"oflag" => self.output_flags = flags_of(value)?,
            b"conv" => {
                for word in value.split(|&b| b == b',') {
                    match word {
                        b"notrunc" => self.keep = true,
                        b"fsync" => self.sync = true,
                        b"fdatasync" => self.data_sync = true,
                        _ => return None,
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// Blocks that were whole and that were not.
#[derive(Default)]
struct Records {
    whole: u64,
    part: u64,
    bytes: u64,
}

impl Records {
    fn count(&mut self, bytes: usize, block: usize) {
        if bytes == block {
            self.whole += 1;
        } else {
            self.part += 1;
        }
        self.bytes += bytes as u64;
    }
}

/// `dd [if=FILE] [of=FILE] [bs=N] [count=N] [skip=N] [seek=N] [conv=…] [iflag=…] [oflag=…]`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let plan = match Plan::parse(&argv[1..]) {
        Ok(plan) => plan,
        Err(word) => {
            let quoted = text::quote(word);
            return cx.usage(format_args!("unrecognized operand {quoted}"), 1);
        }
    };
    let (mut read, mut written) = (Records::default(), Records::default());
    let result = copy(cx, &plan, &mut read, &mut written);
    let status = match result {
        Ok(()) => 0,
        Err((path, e)) => {
            cx.flush();
            cx.failed(path, &e);
            1
        }
    };
    if !plan.quiet {
        cx.diagnostic(format_args!("{}+{} records in", read.whole, read.part));
        cx.diagnostic(format_args!("{}+{} records out", written.whole, written.part));
        cx.diagnostic(format_args!("{} bytes copied", written.bytes));
    }
    status
}

fn copy<'a>(
    cx: &mut Context,
    plan: &Plan<'a>,
    read: &mut Records,
    written: &mut Records,
) -> Result<(), (&'a [u8], Error)> {
    let process = cx.process.clone();
    let from = |e| (plan.input, e);
    let target = plan.output.unwrap_or(b"standard output");
    let to = |e| (target, e);
    let input = match plan.input {
        b"-" => Input::Stdin,
        path => Input::File(OpenFile::new(&process, path, plan.input_flags).map_err(from)?),
    };
    let output = match plan.output {
        None => None,
        Some(path) => {
            let truncate = !plan.keep && plan.seek == 0;
            let mut flags = OpenFlags::WRONLY | OpenFlags::CREAT | plan.output_flags;
            flags.set(OpenFlags::TRUNC, truncate);
            let file = OpenFile::new(&process, path, flags).map_err(to)?;
            if !plan.keep && plan.seek > 0 {
                process.ftruncate(file.fd, plan.seek * plan.block_bytes as u64).map_err(to)?;
            }
            Some(file)
        }
    };
    let bytes = |blocks: u64| {
        blocks.checked_mul(plan.block_bytes as u64).and_then(|n| i64::try_from(n).ok())
    };
    let far = Error::Invalid("too far");
    if plan.skip > 0 {
        let offset = bytes(plan.skip).ok_or(from(far.clone()))?;
        process.lseek(input.fd(), offset, Whence::Cur).map_err(from)?;
    }
    if let Some(file) = output.as_ref().filter(|_| plan.seek > 0) {
        let offset = bytes(plan.seek).ok_or(to(far))?;
        process.lseek(file.fd, offset, Whence::Set).map_err(to)?;
    }
    let mut buffer = vec![0; plan.block_bytes];
    while plan.count.is_none_or(|count| read.whole + read.part < count) {
        let mut n = 0;
        loop {
            let more = process.read(input.fd(), &mut buffer[n..]).map_err(from)?;
            n += more;
            if more == 0 || n == buffer.len() || !plan.full {
                break;
            }
        }
        if n == 0 {
            break;
        }
        read.count(n, plan.block_bytes);
        match &output {
            Some(file) => write_all(&process, file.fd, &buffer[..n]).map_err(to)?,
            None => cx.bytes(&buffer[..n]),
        }
        written.count(n, plan.block_bytes);
    }
    match &output {
        Some(file) if plan.sync => process.fsync(file.fd).map_err(to),
        Some(file) if plan.data_sync => process.fdatasync(file.fd).map_err(to),
        _ => Ok(()),
    }
}

/// `cmp [-ls] FILE1 FILE2`
pub fn cmp(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("silent", b's'), ("quiet", b's'), ("verbose", b'l')];
    let parsed = match options::parse(argv, "lsn:", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 2),
    };
    let [first, second] = parsed.operands[..] else {
        return cx.usage(format_args!("two files are wanted"), 2);
    };
    let limit = match parsed.value(b'n').map(number) {
        None => u64::MAX,
        Some(Some(limit)) => limit,
        Some(None) => return cx.usage(format_args!("invalid --bytes value"), 2),
    };
    let (silent, all) = (parsed.has(b's'), parsed.has(b'l'));
    match compare(cx, [first, second], limit, silent, all) {
        Ok(same) => u8::from(!same),
        Err((path, e)) => {
            cx.flush();
            cx.failed(path, &e);
            2
        }
    }
}

/// Read until the buffer is full or the file ends.
fn fill(cx: &Context, fd: i32, buffer: &mut Vec<u8>, bytes: usize) -> Result<()> {
    buffer.resize(bytes, 0);
    let mut have = 0;
    while have < bytes {
        let n = cx.process.read(fd, &mut buffer[have..])?;
        if n == 0 {
            break;
        }
        have += n;
    }
    buffer.truncate(have);
    Ok(())
}

fn compare<'a>(
    cx: &mut Context,
    paths: [&'a [u8]; 2],
    limit: u64,
    silent: bool,
    all: bool,
) -> Result<bool, (&'a [u8], Error)> {
    let process = cx.process.clone();
    let open = |i: usize| Input::open(&process, paths[i]).map_err(|e| (paths[i], e));
    let inputs = [open(0)?, open(1)?];
    let mut buffers = [Vec::new(), Vec::new()];
    let (mut at, mut line, mut same) = (0_u64, 1_u64, true);
    while at < limit {
        let bytes = (limit - at).min(crate::files::CHUNK as u64) as usize;
        for i in 0..2 {
            fill(cx, inputs[i].fd(), &mut buffers[i], bytes).map_err(|e| (paths[i], e))?;
        }
        let [a, b] = &buffers;
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            if x != y {
                same = false;
                let byte = at + i as u64 + 1;
                if all && !silent {
                    out!(cx, "{byte} {x:3o} {y:3o}\n");
                } else {
                    if !silent {
                        let names = paths.map(text::quote_if_odd);
                        out!(cx, "{} {} differ: byte {byte}, line {line}\n", names[0], names[1]);
                    }
                    return Ok(false);
                }
            }
            line += u64::from(*x == b'\n');
        }
        if a.len() != b.len() {
            if !silent {
                let short = usize::from(b.len() < a.len());
                let name = text::quote_if_odd(paths[short]);
                let end = at + a.len().min(b.len()) as u64;
                cx.flush();
                cx.error(format_args!("EOF on {name} after byte {end}"));
            }
            return Ok(false);
        }
        if a.is_empty() {
            break;
        }
        at += a.len() as u64;
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn suffixes() {
        for (word, value) in [("1", 1), ("4k", 4096), ("2b", 1024), ("3MB", 3_000_000)] {
            assert_eq!(number(word.as_bytes()), Some(value));
        }
        for bad in ["", "k", "1x", "-1", "99999999999999999999"] {
            assert_eq!(number(bad.as_bytes()), None);
        }
    }
}
