//! `reflink`, `dedupe`, `copy_range`.

use holdfast_fs::Error;

use super::{Failure, Outcome, Run, io};
use crate::files::OpenFile;
use crate::out;

fn call(what: &'static str) -> impl Fn(Error) -> Failure {
    move |e| Failure::Call(what, e)
}

/// The other file, open for reading.
fn source(run: &Run<'_>, path: &[u8]) -> Result<OpenFile, Failure> {
    let path_text = alloc::string::String::from_utf8_lossy(path).into_owned();
    OpenFile::read(&run.cx.process, path)
        .map_err(|e| Failure::Message(alloc::format!("{path_text}: {}\n", e.text())))
}

/// `reflink [-Cq] infile [src_off dst_off len]`
pub(super) fn reflink(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "Cq")?;
    let (path, from, to, len) = match parsed.operands[..] {
        [path] => (path, 0, 0, 0),
        [path, from, to, len] => (
            path,
            run.quantity("src offset argument", from)?,
            run.quantity("dest offset argument", to)?,
            run.quantity("length argument", len)?,
        ),
        _ => return Err(Failure::Usage),
    };
    let other = source(run, path)?;
    let start = holdfast_sync::time::now_ns();
    let process = run.cx.process.clone();
    process.ficlonerange(run.fd(), other.fd, from, len, to).map_err(call("XFS_IOC_CLONE_RANGE"))?;
    let took = holdfast_sync::time::now_ns() - start;
    if !parsed.has(b'q') {
        io::report_range(run, "linked", (to, len), parsed.has(b'C'), took);
    }
    Ok(())
}

/// `dedupe [-Cq] infile src_off dst_off len`
pub(super) fn dedupe(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "Cq")?;
    let [path, from, to, len] = parsed.operands[..] else { return Err(Failure::Usage) };
    let from = run.quantity("src offset argument", from)?;
    let to = run.quantity("dest offset argument", to)?;
    let len = run.quantity("length argument", len)?;
    let other = source(run, path)?;
    let process = run.cx.process.clone();
    let start = holdfast_sync::time::now_ns();
    let mut done = 0;
    while done < len {
        let shared = process
            .fideduperange(other.fd, from + done, len - done, run.fd(), to + done)
            .map_err(call("XFS_IOC_FILE_EXTENT_SAME"))?;
        match shared {
            Some(0) => break,
            Some(bytes) => done += bytes,
            None => {
                out!(run.cx, "Extents did not match.\n");
                return Ok(());
            }
        }
    }
    let took = holdfast_sync::time::now_ns() - start;
    if !parsed.has(b'q') {
        io::report_range(run, "deduped", (to, done), parsed.has(b'C'), took);
    }
    Ok(())
}

/// `copy_range [-s src_off] [-d dst_off] [-l len] src_file`
pub(super) fn copy_range(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "s:d:l:")?;
    let [path] = parsed.operands[..] else { return Err(Failure::Usage) };
    let offset = |letter, what: &str| match parsed.value(letter) {
        Some(word) => run.quantity(what, word).map(Some),
        None => Ok(None),
    };
    let from = offset(b's', "source offset")?;
    let to = offset(b'd', "destination offset")?.unwrap_or(0);
    let len = offset(b'l', "length")?;
    let other = source(run, path)?;
    let process = run.cx.process.clone();
    let size = process.fstat(other.fd).map_err(call("fstat"))?.size;
    let mut from = from.unwrap_or(0);
    let mut to = to;
    let mut left = len.unwrap_or_else(|| size.saturating_sub(from));
    while left > 0 {
        let done = process
            .copy_file_range(other.fd, Some(&mut from), run.fd(), Some(&mut to), left)
            .map_err(call("copy_range"))?;
        if done == 0 {
            break;
        }
        left -= done;
    }
    Ok(())
}
