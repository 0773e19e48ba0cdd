//! The interactive prompt: a terminal's bytes on descriptors 0 and 1.
//!
//! | module     | owns |
//! |------------|------|
//! | `editor`   | the line being typed, keys, history |
//! | `complete` | what the tabulator key adds |
//!
//! Lines are those of scripts, `&` and `wait` included; besides there is `exit [n]`. A
//! failing command ends nothing here: the prompt shows its status. Without a terminal at
//! descriptor 0 lines are read without prompt or echo. No locks.

mod complete;
mod editor;

use alloc::string::String;
use alloc::vec::Vec;

use crate::context::{Context, Status, write_all};
use crate::registry::run;
use crate::script::{Jobs, split};
use crate::text;
use editor::{Editor, Event};

/// Run the prompt until `exit` or the end of input; the status to leave with.
pub fn interact(cx: &mut Context) -> Status {
    let mut shell = Shell { cx, editor: Editor::new(), jobs: Jobs::default(), status: 0, lines: 0 };
    let status = if shell.cx.process.isatty(0) { shell.terminal() } else { shell.plain() };
    shell.jobs.wait();
    status
}

struct Shell<'a> {
    cx: &'a mut Context,
    editor: Editor,
    jobs: Jobs,
    status: Status,
    lines: usize,
}

impl Shell<'_> {
    fn prompt(&self) -> String {
        let cwd = String::from_utf8_lossy(&self.cx.process.getcwd()).into_owned();
        match self.status {
            0 => alloc::format!("holdfast:{cwd}$ "),
            status => alloc::format!("holdfast:{cwd} [{status}]$ "),
        }
    }
    fn show(&mut self, bytes: &[u8]) -> bool {
        write_all(&self.cx.process, 1, bytes).is_ok()
    }
    /// With a person at the other end.
    fn terminal(&mut self) -> Status {
        self.editor.start(&self.prompt());
        let first = self.editor.draw();
        let mut bytes = [0; 256];
        if !self.show(&first) {
            return self.status;
        }
        loop {
            let n = match self.cx.process.read(0, bytes.as_mut_slice()) {
                Ok(n) if n > 0 => n,
                _ => return self.status,
            };
            for &byte in &bytes[..n] {
                if let Some(status) = self.key(byte) {
                    return status;
                }
            }
        }
    }
    /// One byte typed; a status when the shell ends.
    fn key(&mut self, byte: u8) -> Option<Status> {
        match self.editor.feed(byte) {
            Event::Nothing => return None,
            Event::Changed => {}
            Event::Clear => {
                self.show(b"\x1b[H\x1b[2J");
            }
            Event::Complete => self.complete(),
            Event::Abandoned => {
                self.show(b"^C\r\n");
                self.status = 130;
                self.editor.start(&self.prompt());
            }
            Event::End => {
                self.show(b"\r\n");
                return Some(self.status);
            }
            Event::Line(line) => {
                self.show(b"\r\n");
                if let Some(status) = self.line(&line) {
                    return Some(status);
                }
                self.editor.start(&self.prompt());
            }
        }
        let drawing = self.editor.draw();
        if self.show(&drawing) { None } else { Some(self.status) }
    }
    fn complete(&mut self) {
        let found = complete::complete(&self.cx.process, self.editor.before_cursor());
        self.editor.insert(&found.addition);
        if found.addition.is_empty() && found.choices.len() > 1 {
            let mut list = b"\r\n".to_vec();
            for choice in &found.choices {
                list.extend_from_slice(choice);
                list.extend_from_slice(b"  ");
            }
            list.extend_from_slice(b"\r\n");
            self.show(&list);
        }
    }
    /// Lines from a file or a pipe.
    fn plain(&mut self) -> Status {
        let mut pending: Vec<u8> = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            let n = self.cx.process.read(0, bytes.as_mut_slice()).unwrap_or(0);
            if n == 0 {
                let last = core::mem::take(&mut pending);
                return self.line(&last).unwrap_or(self.status);
            }
            pending.extend_from_slice(&bytes[..n]);
            while let Some(end) = pending.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if let Some(status) = self.line(&line[..end]) {
                    return status;
                }
            }
        }
    }
    /// Run a line; a status when the shell ends.
    fn line(&mut self, line: &[u8]) -> Option<Status> {
        self.lines += 1;
        let line = match split(line) {
            Ok(line) => line,
            Err(e) => {
                self.cx.diagnostic(format_args!("{e}"));
                self.status = 2;
                return None;
            }
        };
        let first = line.words.first()?;
        match first.as_slice() {
            b"exit" => return self.exit(&line.words),
            b"wait" if line.words.len() == 1 => {
                self.status = self.jobs.wait().map_or(0, |failed| failed.1);
            }
            _ if line.background => self.jobs.start(self.cx, self.lines, line.words),
            _ => self.status = run(self.cx, &line.words),
        }
        None
    }
    fn exit(&mut self, words: &[Vec<u8>]) -> Option<Status> {
        match words {
            [_] => Some(self.status),
            [_, word] => match text::number(word).filter(|n| *n <= 123) {
                Some(status) => Some(status as Status),
                None => {
                    self.cx.diagnostic(format_args!("exit: a status is a number from 0 to 123"));
                    self.status = 2;
                    None
                }
            },
            _ => {
                self.cx.diagnostic(format_args!("exit: too many arguments"));
                self.status = 2;
                None
            }
        }
    }
}
