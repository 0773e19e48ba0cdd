//! What a command runs with: the process, the system, and its standard output.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use holdfast_fs::syscall::Process;
use holdfast_fs::{Error, Result};

use crate::system::System;
use crate::text;

/// Output is sent on when this much has gathered.
const FLUSH_BYTES: usize = 32 << 10;

/// A command's exit status.
pub type Status = u8;

/// The surroundings of one running command. Threads have one each.
pub struct Context {
    /// The calls a command may make.
    pub process: Arc<Process>,
    /// What it may ask of the kernel besides.
    pub system: Arc<dyn System>,
    /// The name that diagnostics begin with.
    name: String,
    buffer: Vec<u8>,
    write_error: Option<Error>,
}

impl Context {
    /// A context with an empty output buffer.
    pub fn new(process: Arc<Process>, system: Arc<dyn System>) -> Self {
        Self {
            process,
            system,
            name: "holdfast".to_string(),
            buffer: Vec::new(),
            write_error: None,
        }
    }
    /// One for another thread of the same process.
    pub fn fork(&self) -> Self {
        Self::new(self.process.clone(), self.system.clone())
    }
    pub(crate) fn set_name(&mut self, name: &[u8]) -> String {
        core::mem::replace(&mut self.name, String::from_utf8_lossy(name).into_owned())
    }
    pub(crate) fn restore_name(&mut self, name: String) {
        self.name = name;
    }
    /// The running command's name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Append bytes to standard output.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > FLUSH_BYTES {
            self.flush();
        }
        if bytes.len() >= FLUSH_BYTES {
            self.send(bytes);
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }
    /// Append formatted text to standard output.
    pub fn print(&mut self, args: fmt::Arguments<'_>) {
        // Appending to the buffer cannot fail; what sending says is kept for the end.
        let _ = fmt::Write::write_fmt(self, args);
    }
    /// Send what has gathered.
    pub fn flush(&mut self) {
        let buffer = core::mem::take(&mut self.buffer);
        self.send(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
    }
    /// The first error of standard output, once.
    pub(crate) fn take_write_error(&mut self) -> Option<Error> {
        self.flush();
        self.write_error.take()
    }
    /// Did standard output fail? (Then there is no use in going on.)
    pub fn output_failed(&self) -> bool {
        self.write_error.is_some()
    }
    fn send(&mut self, bytes: &[u8]) {
        if self.write_error.is_none()
            && let Err(e) = write_all(&self.process, 1, bytes)
        {
            self.write_error = Some(e);
        }
    }
    /// A line on standard error, as it is.
    pub fn diagnostic(&mut self, args: fmt::Arguments<'_>) {
        self.diagnostic_bytes(alloc::format!("{args}\n").as_bytes());
    }
    /// Bytes on standard error.
    pub fn diagnostic_bytes(&mut self, bytes: &[u8]) {
        // Nobody is left to be told when this fails.
        let _ = write_all(&self.process, 2, bytes);
    }
    /// `NAME: ...` on standard error.
    pub fn error(&mut self, args: fmt::Arguments<'_>) {
        let line = alloc::format!("{}: {args}\n", self.name);
        self.diagnostic_bytes(line.as_bytes());
    }
    /// `NAME: WHAT 'PATH': REASON`, as coreutils say it.
    pub fn cannot(&mut self, what: &str, path: &[u8], error: &Error) {
        let (quoted, reason) = (text::quote(path), explain(error));
        self.error(format_args!("{what} {quoted}: {reason}"));
    }
    /// `NAME: PATH: REASON`, as coreutils say it.
    pub fn failed(&mut self, path: &[u8], error: &Error) {
        let (quoted, reason) = (text::quote_if_odd(path), explain(error));
        self.error(format_args!("{quoted}: {reason}"));
    }
    /// A complaint about the arguments, and where help is.
    pub fn usage(&mut self, args: fmt::Arguments<'_>, status: Status) -> Status {
        self.error(args);
        let line = alloc::format!("Try 'help {}' for more information.\n", self.name);
        self.diagnostic_bytes(line.as_bytes());
        status
    }
}

impl fmt::Write for Context {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

/// Print to a context's standard output.
#[macro_export]
macro_rules! out {
    ($cx:expr, $($args:tt)*) => { $cx.print(format_args!($($args)*)) };
}

/// Write all bytes to a descriptor.
///
/// # Errors
/// Those of `write`.
pub fn write_all(process: &Process, fd: i32, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = process.write(fd, bytes)?;
        if n == 0 {
            return Err(Error::Io);
        }
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// `strerror`'s text, followed by the stack's own reason where that says more than the
/// caller knows: what is damaged, what is missing.
pub fn explain(error: &Error) -> String {
    let (text, full) = (error.text(), error.to_string());
    match error {
        Error::Invalid(_) => text.to_string(),
        _ if full.starts_with(text) => full,
        _ => alloc::format!("{text} ({full})"),
    }
}
