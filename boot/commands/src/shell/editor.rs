//! The line being typed: keys, history, drawing. Knows bytes, no device.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Lines remembered.
const HISTORY: usize = 500;

/// What a byte did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing to see yet: part of a sequence.
    Nothing,
    /// The line or the cursor changed.
    Changed,
    /// The line is complete.
    Line(Vec<u8>),
    /// The line was given up.
    Abandoned,
    /// The input ended.
    End,
    /// Add what can only follow.
    Complete,
    /// Empty the screen.
    Clear,
}

/// Where the decoder of keys stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoder {
    Ground,
    Escape,
    /// Behind `ESC [` with the number so far.
    Bracket(u32),
    /// Behind `ESC O`.
    Letter,
}

/// The line, its cursor, what was typed before.
pub struct Editor {
    prompt: String,
    line: Vec<u8>,
    cursor: usize,
    history: VecDeque<Vec<u8>>,
    /// The place in the history; its length for the line being typed.
    at: usize,
    /// The line being typed while the history is shown.
    typed: Vec<u8>,
    decoder: Decoder,
    after_return: bool,
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

impl Editor {
    /// An empty line, no history.
    pub fn new() -> Self {
        Self {
            prompt: String::new(),
            line: Vec::new(),
            cursor: 0,
            history: VecDeque::new(),
            at: 0,
            typed: Vec::new(),
            decoder: Decoder::Ground,
            after_return: false,
        }
    }
    /// Begin a new line.
    pub fn start(&mut self, prompt: &str) {
        self.prompt = prompt.to_string();
        self.line.clear();
        self.cursor = 0;
        self.at = self.history.len();
    }
    /// What lies before the cursor.
    pub fn before_cursor(&self) -> &[u8] {
        &self.line[..self.cursor]
    }
    /// Put bytes in at the cursor.
    pub fn insert(&mut self, bytes: &[u8]) {
        self.line.splice(self.cursor..self.cursor, bytes.iter().copied());
        self.cursor += bytes.len();
    }
    /// What shows the line on a terminal whose cursor is somewhere in it.
    pub fn draw(&self) -> Vec<u8> {
        let mut out = b"\r".to_vec();
        out.extend_from_slice(self.prompt.as_bytes());
        out.extend_from_slice(&self.line);
        out.extend_from_slice(b"\x1b[K");
        let behind = self.line[self.cursor..].iter().filter(|&&b| !is_continuation(b)).count();
        if behind > 0 {
            out.extend_from_slice(alloc::format!("\x1b[{behind}D").as_bytes());
        }
        out
    }
    /// Take a byte from the terminal.
    pub fn feed(&mut self, byte: u8) -> Event {
        let after_return = core::mem::take(&mut self.after_return);
        match self.decoder {
            Decoder::Ground => self.ground(byte, after_return),
            Decoder::Escape => {
                self.decoder = match byte {
                    b'[' => Decoder::Bracket(0),
                    b'O' => Decoder::Letter,
                    _ => Decoder::Ground,
                };
                Event::Nothing
            }
            Decoder::Bracket(n) => match byte {
                b'0'..=b'9' => {
                    let n = n.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
                    self.decoder = Decoder::Bracket(n);
                    Event::Nothing
                }
                b';' => {
                    self.decoder = Decoder::Bracket(0);
                    Event::Nothing
                }
                b'~' => {
                    self.decoder = Decoder::Ground;
                    self.key(match n {
                        1 | 7 => b'H',
                        4 | 8 => b'F',
                        3 => b'~',
                        _ => 0,
                    })
                }
                _ => {
                    self.decoder = Decoder::Ground;
                    self.key(byte)
                }
            },
            Decoder::Letter => {
                self.decoder = Decoder::Ground;
                self.key(byte)
            }
        }
    }
    /// A key that came as a sequence, by its last letter; `~` is delete.
    fn key(&mut self, letter: u8) -> Event {
        match letter {
            b'A' => self.recall(false),
            b'B' => self.recall(true),
            b'C' => self.right(),
            b'D' => self.left(),
            b'H' => self.cursor = 0,
            b'F' => self.cursor = self.line.len(),
            b'~' => self.delete(),
            _ => return Event::Nothing,
        }
        Event::Changed
    }
    fn ground(&mut self, byte: u8, after_return: bool) -> Event {
        const fn control(letter: u8) -> u8 {
            letter & 0x1F
        }
        const A: u8 = control(b'a');
        const B: u8 = control(b'b');
        const C: u8 = control(b'c');
        const D: u8 = control(b'd');
        const E: u8 = control(b'e');
        const F: u8 = control(b'f');
        const K: u8 = control(b'k');
        const L: u8 = control(b'l');
        const N: u8 = control(b'n');
        const P: u8 = control(b'p');
        const U: u8 = control(b'u');
        const W: u8 = control(b'w');
        match byte {
            // A line feed that follows a carriage return belongs to it.
            b'\n' if after_return => return Event::Nothing,
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                return self.submit();
            }
            b'\t' => return Event::Complete,
            0x1B => {
                self.decoder = Decoder::Escape;
                return Event::Nothing;
            }
            A => self.cursor = 0,
            B => self.left(),
            C => return Event::Abandoned,
            D if self.line.is_empty() => return Event::End,
            D => self.delete(),
            E => self.cursor = self.line.len(),
            F => self.right(),
            K => self.line.truncate(self.cursor),
            L => return Event::Clear,
            N => self.recall(true),
            P => self.recall(false),
            U => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            W => self.erase_word(),
            0x08 | 0x7F => self.backspace(),
            0..0x20 => return Event::Nothing,
            _ => self.insert(&[byte]),
        }
        Event::Changed
    }
    fn submit(&mut self) -> Event {
        let line = core::mem::take(&mut self.line);
        self.cursor = 0;
        let blank = line.iter().all(u8::is_ascii_whitespace);
        if !blank && self.history.back() != Some(&line) {
            if self.history.len() >= HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        self.at = self.history.len();
        Event::Line(line)
    }
    fn left(&mut self) {
        while self.cursor > 0 {
            self.cursor -= 1;
            if !is_continuation(self.line[self.cursor]) {
                break;
            }
        }
    }
    fn right(&mut self) {
        while self.cursor < self.line.len() {
            self.cursor += 1;
            if self.line.get(self.cursor).is_none_or(|&b| !is_continuation(b)) {
                break;
            }
        }
    }
    fn delete(&mut self) {
        let from = self.cursor;
        self.right();
        self.line.drain(from..self.cursor);
        self.cursor = from;
    }
    fn backspace(&mut self) {
        let to = self.cursor;
        self.left();
        self.line.drain(self.cursor..to);
    }
    fn erase_word(&mut self) {
        let to = self.cursor;
        let before = &self.line[..to];
        let word_end = before.iter().rposition(|&b| b != b' ').map_or(0, |i| i + 1);
        let word_start = before[..word_end].iter().rposition(|&b| b == b' ').map_or(0, |i| i + 1);
        self.line.drain(word_start..to);
        self.cursor = word_start;
    }
    fn recall(&mut self, later: bool) {
        let to = if later { self.at + 1 } else { self.at.wrapping_sub(1) };
        if to > self.history.len() {
            return;
        }
        if self.at == self.history.len() {
            self.typed = core::mem::take(&mut self.line);
        }
        self.at = to;
        self.line = match self.history.get(to) {
            Some(line) => line.clone(),
            None => core::mem::take(&mut self.typed),
        };
        self.cursor = self.line.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type bytes; the last event.
    fn feed(editor: &mut Editor, bytes: &[u8]) -> Event {
        bytes.iter().map(|&b| editor.feed(b)).last().unwrap()
    }

    fn typed(bytes: &[u8]) -> Vec<u8> {
        match feed(&mut Editor::new(), bytes) {
            Event::Line(line) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(typed(b"abc\r"), b"abc");
        assert_eq!(typed(b"abc\x7f\x08d\r"), b"ad");
        assert_eq!(typed(b"ac\x1b[Db\r"), b"abc");
        assert_eq!(typed(b"bc\x01a\x05d\r"), b"abcd");
        assert_eq!(typed(b"bc\x1b[Ha\x1b[Fd\r"), b"abcd");
        assert_eq!(typed(b"bc\x1b[1~a\x1b[4~d\r"), b"abcd");
        assert_eq!(typed(b"bc\x1bOHa\x1bOFd\r"), b"abcd");
        assert_eq!(typed(b"abc\x1b[D\x1b[D\x0b\r"), b"a");
        assert_eq!(typed(b"abc\x1b[D\x15\r"), b"c");
        assert_eq!(typed(b"one two  \x17\r"), b"one ");
        assert_eq!(typed(b"abc\x01\x1b[3~\x04\r"), b"c");
        assert_eq!(typed("é\x7fx\r".as_bytes()), b"x");
        assert_eq!(typed(b"\x1b[D\x7f\x17\x1b[3~\x1b[A\x1b[Bx\n"), b"x");
    }

    #[test]
    fn history_goes_up_and_down() {
        let mut e = Editor::new();
        for line in [&b"first\r"[..], b"second\r", b"second\r", b"  \r"] {
            feed(&mut e, line);
            e.start("$ ");
        }
        assert_eq!(feed(&mut e, b"\x1b[A\x1b[A\r"), Event::Line(b"first".to_vec()));
        e.start("$ ");
        assert_eq!(feed(&mut e, b"half\x1b[A\x1b[A\x1b[B\x1b[B\r"), Event::Line(b"half".to_vec()));
    }

    #[test]
    fn special_events() {
        let mut e = Editor::new();
        assert_eq!(feed(&mut e, b"\x04"), Event::End);
        assert_eq!(feed(&mut e, b"a\x03"), Event::Abandoned);
        assert_eq!(feed(&mut e, b"\t"), Event::Complete);
        assert_eq!(feed(&mut e, b"\x0c"), Event::Clear);
        e.start("");
        assert_eq!(feed(&mut e, b"x\r"), Event::Line(b"x".to_vec()));
        assert_eq!(feed(&mut e, b"\n"), Event::Nothing);
    }

    #[test]
    fn drawing_puts_the_cursor_back() {
        let mut e = Editor::new();
        e.start("$ ");
        feed(&mut e, "aéb\x1b[D\x1b[D".as_bytes());
        assert_eq!(e.draw(), "\r$ aéb\x1b[K\x1b[2D".as_bytes());
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut e = Editor::new();
        let mut x = 1u64;
        for _ in 0..100_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            e.feed((x >> 56) as u8);
            assert!(e.cursor <= e.line.len());
        }
    }
}
