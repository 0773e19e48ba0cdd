//! `shutdown-fs`.

use holdfast_fs::vfs::ShutdownMode;

use crate::context::{Context, Status};
use crate::files::OpenFile;
use crate::options;

/// `shutdown-fs [-f] [PATH]`: stop the file system as if the power went: with `-f` after
/// the log was forced, otherwise with what is in memory lost.
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "f", &[("flush", b'f')]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let path = parsed.operands.first().copied().unwrap_or(b"/");
    let mode = if parsed.has(b'f') { ShutdownMode::LogFlush } else { ShutdownMode::NoLogFlush };
    let result =
        OpenFile::read(&cx.process, path).and_then(|file| cx.process.shutdown(file.fd, mode));
    match result {
        Ok(()) => 0,
        Err(e) => {
            cx.failed(path, &e);
            1
        }
    }
}
