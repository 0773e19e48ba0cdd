//! Scripts: one command a line.
//!
//! Words are split as a POSIX shell splits plain ones: blanks separate, `'…'` keeps all,
//! `"…"` keeps all but `\` before `"`, `\`, `$` and a backquote, `\` keeps the next
//! character. A `#` at the start of a word begins a comment. Nothing is expanded.
//! A trailing `&` puts the line on its own thread; `wait` joins those that run.
//!
//! A script stops at the first failure with that status. A background failure counts at
//! the next `wait` (or at the end): the first failing one, in the order they were started.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use holdfast_sync::thread::{JoinHandle, Priority, spawn};

use crate::context::{Context, Status};
use crate::registry::run;

/// The longest line, in bytes.
pub const LINE_MAX: usize = 64 << 10;

/// Most lines that run in the background at once; the next one waits for the oldest.
const BACKGROUND_MAX: usize = 64;

/// A line that cannot be split into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// A quote is not closed.
    Unterminated(char),
    /// The line is longer than [`LINE_MAX`].
    TooLong,
    /// A `&` stands where no command is.
    LoneAmpersand,
    /// Something follows a `&`.
    AfterAmpersand,
    /// A shell's operator that scripts do not have.
    Operator(char),
}

impl core::fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unterminated(q) => write!(f, "unterminated {q}"),
            Self::TooLong => write!(f, "line longer than {LINE_MAX} bytes"),
            Self::LoneAmpersand => write!(f, "& without a command"),
            Self::AfterAmpersand => write!(f, "& must be the last word"),
            Self::Operator(c) => write!(f, "'{c}' is not supported (quote it)"),
        }
    }
}

/// One line's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The words; none for an empty line.
    pub words: Vec<Vec<u8>>,
    /// The line ended in `&`.
    pub background: bool,
}

/// Split a line into words.
///
/// # Errors
/// A line that is no command.
pub fn split(line: &[u8]) -> Result<Line, SyntaxError> {
    if line.len() > LINE_MAX {
        return Err(SyntaxError::TooLong);
    }
    let mut out = Line::default();
    let mut word: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(&b) = line.get(at) {
        at += 1;
        if out.background && !matches!(b, b' ' | b'\t' | b'#') {
            return Err(SyntaxError::AfterAmpersand);
        }
        match b {
            b' ' | b'\t' | b'\n' => out.words.extend(word.take()),
            b'#' if word.is_none() => break,
            b'\'' => at = single_quoted(line, at, word.get_or_insert_default())?,
            b'"' => at = double_quoted(line, at, word.get_or_insert_default())?,
            b'\\' => {
                // A backslash at the very end stands for itself.
                let next = line.get(at).copied().unwrap_or(b'\\');
                at += 1;
                word.get_or_insert_default().push(next);
            }
            b'&' => {
                out.words.extend(word.take());
                if out.words.is_empty() {
                    return Err(SyntaxError::LoneAmpersand);
                }
                out.background = true;
            }
            b'|' | b'<' | b'>' | b';' | b'(' | b')' => {
                return Err(SyntaxError::Operator(b as char));
            }
            _ => word.get_or_insert_default().push(b),
        }
    }
    out.words.extend(word);
    Ok(out)
}

/// From behind the opening quote to behind the closing one.
fn single_quoted(line: &[u8], from: usize, word: &mut Vec<u8>) -> Result<usize, SyntaxError> {
    let rest = line.get(from..).unwrap_or_default();
    let end = rest.iter().position(|&b| b == b'\'').ok_or(SyntaxError::Unterminated('\''))?;
    word.extend_from_slice(&rest[..end]);
    Ok(from + end + 1)
}

fn double_quoted(line: &[u8], from: usize, word: &mut Vec<u8>) -> Result<usize, SyntaxError> {
    let mut at = from;
    while let Some(&b) = line.get(at) {
        at += 1;
        match (b, line.get(at)) {
            (b'"', _) => return Ok(at),
            (b'\\', Some(&next @ (b'"' | b'\\' | b'$' | b'`'))) => {
                word.push(next);
                at += 1;
            }
            _ => word.push(b),
        }
    }
    Err(SyntaxError::Unterminated('"'))
}

struct Background {
    line: usize,
    thread: JoinHandle<Status>,
}

/// The lines that run in the background, in the order they were started.
#[derive(Default)]
pub struct Jobs {
    running: VecDeque<Background>,
    failed: Option<(usize, Status)>,
}

impl Jobs {
    /// Start a line on its own thread.
    pub fn start(&mut self, cx: &Context, line: usize, words: Vec<Vec<u8>>) {
        if self.running.len() >= BACKGROUND_MAX {
            self.join_oldest();
        }
        let mut own = cx.fork();
        let name = alloc::string::String::from_utf8_lossy(&words[0]).into_owned();
        let thread = spawn(&name, Priority::Normal, move || run(&mut own, &words));
        self.running.push_back(Background { line, thread });
    }
    fn join_oldest(&mut self) {
        if let Some(oldest) = self.running.pop_front() {
            let status = oldest.thread.join();
            if status != 0 && self.failed.is_none() {
                self.failed = Some((oldest.line, status));
            }
        }
    }
    /// Wait for all of them. The line and status of the first that failed, if one did.
    pub fn wait(&mut self) -> Option<(usize, Status)> {
        while !self.running.is_empty() {
            self.join_oldest();
        }
        self.failed.take()
    }
}

/// Run a script; its status.
pub fn run_script(cx: &mut Context, text: &[u8]) -> Status {
    let mut jobs = Jobs::default();
    let mut status = 0;
    // The last line may lack its line feed; what follows the last one is no line.
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    for (index, line) in text.split(|&b| b == b'\n').enumerate() {
        status = run_line(cx, &mut jobs, index + 1, line.strip_suffix(b"\r").unwrap_or(line));
        if status != 0 {
            break;
        }
    }
    // Whatever happened, nothing is left running.
    if let Some((line, failed)) = jobs.wait()
        && status == 0
    {
        cx.diagnostic(format_args!("script: line {line}: background command failed: {failed}"));
        status = failed;
    }
    cx.flush();
    status
}

/// The status of a line that is no command.
const SYNTAX: Status = 2;

fn run_line(cx: &mut Context, jobs: &mut Jobs, number: usize, line: &[u8]) -> Status {
    let line = match split(line) {
        Ok(line) => line,
        Err(e) => {
            cx.diagnostic(format_args!("script: line {number}: {e}"));
            return SYNTAX;
        }
    };
    if line.words.is_empty() {
        return 0;
    }
    if line.words == [b"wait"] {
        return match jobs.wait() {
            Some((first, status)) => {
                cx.diagnostic(format_args!(
                    "script: line {first}: background command failed: {status}"
                ));
                status
            }
            None => 0,
        };
    }
    if line.background {
        jobs.start(cx, number, line.words);
        return 0;
    }
    let status = run(cx, &line.words);
    if status != 0 {
        cx.diagnostic(format_args!("script: line {number}: status {status}"));
    }
    status
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
