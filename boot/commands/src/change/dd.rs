//! `dd`.

use alloc::vec;

use holdfast_fs::vfs::OpenFlags;
use holdfast_fs::vfs::Whence;
use holdfast_fs::xfs::FileType;
use holdfast_fs::{Error, Result};

use crate::context::{Context, Status, write_all};
use crate::files::{Input, OpenFile};
use crate::text;

/// What the words of `dd` say.
struct Plan<'a> {
    input: &'a [u8],
    output: Option<&'a [u8]>,
    block_bytes: usize,
    count: Option<u64>,
    skip: u64,
    seek: u64,
    /// `count`, `skip` and `seek` are bytes.
    count_bytes: bool,
    skip_bytes: bool,
    seek_bytes: bool,
    /// The output stays as long as it is.
    keep: bool,
    create: Create,
    full: bool,
    /// Blocks that are not whole are filled with zeros.
    pad: bool,
    /// Blocks of zeros become holes.
    sparse: bool,
    sync: bool,
    data_sync: bool,
    input_flags: OpenFlags,
    output_flags: OpenFlags,
    quiet: bool,
}

/// What becomes of an output that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Create {
    Missing,
    /// It must not be there.
    Always,
    /// It must be there.
    Never,
}

/// What is wrong with a word.
enum Bad<'a> {
    Operand(&'a [u8]),
    Number(&'a [u8]),
    /// Of a list: what kind of word is wanted, and the word.
    Name(&'static str, &'a [u8]),
}

/// A number with dd's suffixes, or a product of such; and whether it counts bytes.
pub(super) fn number(word: &[u8]) -> Option<(u64, bool)> {
    let mut product = 1_u64;
    let mut bytes = false;
    for factor in word.split(|&b| b == b'x') {
        let digits = factor.iter().take_while(|b| b.is_ascii_digit()).count();
        let value = text::number(&factor[..digits])?;
        let unit = match &factor[digits..] {
            b"" | b"c" => 1,
            b"B" => {
                bytes = true;
                1
            }
            b"w" => 2,
            b"b" => 512,
            b"K" | b"k" | b"KiB" => 1 << 10,
            b"M" | b"MiB" => 1 << 20,
            b"G" | b"GiB" => 1 << 30,
            b"T" | b"TiB" => 1 << 40,
            b"kB" | b"KB" => 1_000,
            b"MB" => 1_000_000,
            b"GB" => 1_000_000_000,
            _ => return None,
        };
        product = product.checked_mul(value.checked_mul(unit)?)?;
    }
    Some((product, bytes))
}

impl<'a> Plan<'a> {
    fn parse(words: &[&'a [u8]]) -> Result<Self, Bad<'a>> {
        let mut plan = Plan {
            input: b"-",
            output: None,
            block_bytes: 512,
            count: None,
            skip: 0,
            seek: 0,
            count_bytes: false,
            skip_bytes: false,
            seek_bytes: false,
            keep: false,
            create: Create::Missing,
            full: false,
            pad: false,
            sparse: false,
            sync: false,
            data_sync: false,
            input_flags: OpenFlags::empty(),
            output_flags: OpenFlags::empty(),
            quiet: false,
        };
        for word in words.iter().copied() {
            plan.take(word)?;
        }
        Ok(plan)
    }
    fn take(&mut self, word: &'a [u8]) -> Result<(), Bad<'a>> {
        let at = word.iter().position(|&b| b == b'=').ok_or(Bad::Operand(word))?;
        let (name, value) = (&word[..at], &word[at + 1..]);
        let count = || number(value).ok_or(Bad::Number(value));
        match name {
            b"if" => self.input = value,
            b"of" => self.output = Some(value),
            b"bs" => {
                let (bytes, _) = count()?;
                if !(1..=1 << 26).contains(&bytes) {
                    return Err(Bad::Number(value));
                }
                self.block_bytes = bytes as usize;
            }
            b"count" => {
                let (blocks, bytes) = count()?;
                (self.count, self.count_bytes) = (Some(blocks), self.count_bytes | bytes);
            }
            b"skip" | b"iseek" => {
                let (blocks, bytes) = count()?;
                (self.skip, self.skip_bytes) = (blocks, self.skip_bytes | bytes);
            }
            b"seek" | b"oseek" => {
                let (blocks, bytes) = count()?;
                (self.seek, self.seek_bytes) = (blocks, self.seek_bytes | bytes);
            }
            b"status" => match value {
                b"none" => self.quiet = true,
                b"noxfer" | b"progress" => self.quiet = false,
                _ => return Err(Bad::Name("status level", value)),
            },
            b"iflag" | b"oflag" | b"conv" => {
                for word in value.split(|&b| b == b',') {
                    match name {
                        b"conv" => self.conversion(word)?,
                        _ => self.flag(word, name == b"iflag")?,
                    }
                }
            }
            _ => return Err(Bad::Operand(word)),
        }
        Ok(())
    }
    fn conversion(&mut self, word: &'a [u8]) -> Result<(), Bad<'a>> {
        match word {
            b"notrunc" => self.keep = true,
            b"fsync" => self.sync = true,
            b"fdatasync" => self.data_sync = true,
            b"excl" => self.create = Create::Always,
            b"nocreat" => self.create = Create::Never,
            b"sync" => self.pad = true,
            b"sparse" => self.sparse = true,
            _ => return Err(Bad::Name("conversion", word)),
        }
        Ok(())
    }
    fn flag(&mut self, word: &'a [u8], input: bool) -> Result<(), Bad<'a>> {
        let flag = match (word, input) {
            (b"direct", _) => OpenFlags::DIRECT,
            (b"sync", _) => OpenFlags::SYNC,
            (b"dsync", _) => OpenFlags::DSYNC,
            (b"append", _) => OpenFlags::APPEND,
            (b"noatime", _) => OpenFlags::NOATIME,
            (b"nofollow", _) => OpenFlags::NOFOLLOW,
            (b"directory", _) => OpenFlags::DIRECTORY,
            (b"fullblock", true) => {
                self.full = true;
                return Ok(());
            }
            (b"count_bytes", true) => {
                self.count_bytes = true;
                return Ok(());
            }
            (b"skip_bytes", true) => {
                self.skip_bytes = true;
                return Ok(());
            }
            (b"seek_bytes", false) => {
                self.seek_bytes = true;
                return Ok(());
            }
            (_, true) => return Err(Bad::Name("input flag", word)),
            (_, false) => return Err(Bad::Name("output flag", word)),
        };
        match input {
            true => self.input_flags |= flag,
            false => self.output_flags |= flag,
        }
        Ok(())
    }
    /// Bytes of so many blocks, or bytes.
    fn bytes(&self, count: u64, bytes: bool) -> Result<i64> {
        let unit = if bytes { 1 } else { self.block_bytes as u64 };
        let all = count.checked_mul(unit).and_then(|n| i64::try_from(n).ok());
        all.ok_or(Error::Invalid("too far"))
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
        Err(Bad::Operand(word)) => {
            let quoted = text::quote(word);
            return cx.usage(format_args!("unrecognized operand {quoted}"), 1);
        }
        Err(Bad::Number(word)) => {
            let quoted = text::quote(word);
            cx.error(format_args!("invalid number: {quoted}"));
            return 1;
        }
        Err(Bad::Name(kind, word)) => {
            let quoted = text::quote(word);
            return cx.usage(format_args!("invalid {kind}: {quoted}"), 1);
        }
    };
    let (input, output) = match open(cx, &plan) {
        Ok(opened) => opened,
        Err((what, path, e)) => {
            cx.cannot(what, path, &e);
            return 1;
        }
    };
    let (mut read, mut written) = (Records::default(), Records::default());
    let begun = holdfast_sync::time::now_ns();
    let result = copy(cx, &plan, &input, output.as_ref(), [&mut read, &mut written]);
    let ns = holdfast_sync::time::now_ns() - begun;
    let status = match result {
        Ok(()) => 0,
        Err((what, path, e)) => {
            cx.flush();
            cx.cannot(what, path, &e);
            1
        }
    };
    if !plan.quiet {
        cx.diagnostic(format_args!("{}+{} records in", read.whole, read.part));
        cx.diagnostic(format_args!("{}+{} records out", written.whole, written.part));
        let (s, us) = (ns / 1_000_000_000, ns / 1_000 % 1_000_000);
        cx.diagnostic(format_args!("{} bytes copied, {s}.{us:06} s", written.bytes));
    }
    status
}

/// What could not be done, to which file, and why.
type Failure<'a> = (&'static str, &'a [u8], Error);

fn open<'a>(cx: &Context, plan: &Plan<'a>) -> Result<(Input, Option<OpenFile>), Failure<'a>> {
    let process = &cx.process;
    let input = match plan.input {
        b"-" => Input::Stdin,
        path => Input::File(
            OpenFile::new(process, path, plan.input_flags)
                .map_err(|e| ("failed to open", path, e))?,
        ),
    };
    if plan.skip > 0 {
        let skip = plan.bytes(plan.skip, plan.skip_bytes);
        skip.and_then(|offset| process.lseek(input.fd(), offset, Whence::Cur))
            .map_err(|e| ("cannot skip in", plan.input, e))?;
    }
    let Some(path) = plan.output else { return Ok((input, None)) };
    let mut flags = OpenFlags::WRONLY | plan.output_flags;
    flags.set(OpenFlags::TRUNC, !plan.keep && plan.seek == 0);
    flags.set(OpenFlags::CREAT, plan.create != Create::Never);
    flags.set(OpenFlags::EXCL, plan.create == Create::Always);
    let file = OpenFile::new(process, path, flags).map_err(|e| ("failed to open", path, e))?;
    if plan.seek > 0 {
        let position = || {
            let end = plan.bytes(plan.seek, plan.seek_bytes)?;
            let regular = process.fstat(file.fd)?.file_type() == FileType::Regular;
            if !plan.keep && regular {
                process.ftruncate(file.fd, end as u64)?;
            }
            process.lseek(file.fd, end, Whence::Set)
        };
        position().map_err(|e| ("cannot seek in", path, e))?;
    }
    Ok((input, Some(file)))
}

fn copy<'a>(
    cx: &mut Context,
    plan: &Plan<'a>,
    input: &Input,
    output: Option<&OpenFile>,
    [read, written]: [&mut Records; 2],
) -> Result<(), Failure<'a>> {
    let process = cx.process.clone();
    let target = plan.output.unwrap_or(b"standard output");
    let from = |e| ("error reading", plan.input, e);
    let to = |e| ("error writing", target, e);
    let mut buffer = vec![0; plan.block_bytes];
    let mut hole = false;
    loop {
        let done = if plan.count_bytes { read.bytes } else { read.whole + read.part };
        let left = plan.count.map_or(u64::MAX, |count| count.saturating_sub(done));
        let most = match plan.count_bytes {
            true => left.min(buffer.len() as u64) as usize,
            false => buffer.len() * usize::from(left > 0),
        };
        let mut n = 0;
        while n < most {
            let more = process.read(input.fd(), &mut buffer[n..most]).map_err(from)?;
            n += more;
            if more == 0 || !plan.full {
                break;
            }
        }
        if n == 0 {
            break;
        }
        read.count(n, plan.block_bytes);
        if plan.pad && n < buffer.len() {
            buffer[n..].fill(0);
            n = buffer.len();
        }
        hole = plan.sparse && buffer[..n].iter().all(|&b| b == 0);
        match output {
            Some(file) if hole => {
                process.lseek(file.fd, n as i64, Whence::Cur).map(drop).map_err(to)?;
            }
            Some(file) => write_all(&process, file.fd, &buffer[..n]).map_err(to)?,
            None => cx.bytes(&buffer[..n]),
        }
        written.count(n, plan.block_bytes);
    }
    let Some(file) = output else { return Ok(()) };
    // A hole at the end is there, too.
    if hole {
        let end = process.lseek(file.fd, 0, Whence::Cur).map_err(to)?;
        if process.fstat(file.fd).map_err(to)?.size < end {
            process.ftruncate(file.fd, end).map_err(to)?;
        }
    }
    let synced = match (plan.sync, plan.data_sync) {
        (true, _) => process.fsync(file.fd),
        (_, true) => process.fdatasync(file.fd),
        _ => Ok(()),
    };
    synced.map_err(|e| ("fsync failed for", target, e))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn suffixes() {
        for (word, value) in
            [("1", 1), ("4k", 4096), ("2b", 1024), ("3MB", 3_000_000), ("1kx2", 2048)]
        {
            assert_eq!(number(word.as_bytes()), Some((value, false)));
        }
        assert_eq!(number(b"3B"), Some((3, true)));
        for bad in ["", "k", "1y", "1x", "-1", "99999999999999999999"] {
            assert_eq!(number(bad.as_bytes()), None);
        }
    }
}
