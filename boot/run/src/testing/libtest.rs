//! Reads the output of a Rust test program as it comes.

use std::collections::BTreeMap;

/// What one test of a program came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It passed.
    Ok,
    /// It failed.
    Failed,
    /// It was not run.
    Ignored,
}

/// Reads line after line.
#[derive(Debug, Default)]
pub struct Reader {
    /// Tests announced by `running N tests`.
    announced: usize,
    seen: Vec<(String, Word)>,
    /// What failing tests printed, by name.
    details: BTreeMap<String, String>,
    /// The test whose output is being read.
    detail: Option<String>,
    /// Whether `test result:` came.
    finished: bool,
}

impl Reader {
    /// A reader at the start of a program's output.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one line; returns a test that it tells the end of.
    pub fn line(&mut self, line: &str) -> Option<(String, Word)> {
        if line.starts_with("test result: ") {
            self.finished = true;
            self.detail = None;
            return None;
        }
        if let Some(count) = announced(line) {
            // Documentation tests come in several rounds.
            self.announced += count;
            self.finished = false;
            return None;
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            let name = name.strip_suffix(" stdout").unwrap_or(name);
            self.detail = Some(name.into());
            return None;
        }
        if line == "failures:" {
            self.detail = None;
        }
        if let Some(name) = &self.detail {
            let text = self.details.entry(name.clone()).or_default();
            text.push_str(line);
            text.push('\n');
            return None;
        }
        let end = test_line(line)?;
        self.seen.push(end.clone());
        Some(end)
    }

    /// What a failing test printed.
    pub fn detail(&self, name: &str) -> &str {
        self.details.get(name).map_or("", String::as_str)
    }

    /// The tests seen.
    pub fn seen(&self) -> &[(String, Word)] {
        &self.seen
    }

    /// Whether the output is whole: every test announced has ended, and the
    /// result stands below them.
    pub fn is_whole(&self) -> bool {
        self.finished && self.seen.len() == self.announced
    }
}

fn announced(line: &str) -> Option<usize> {
    let (count, rest) = line.strip_prefix("running ")?.split_once(' ')?;
    matches!(rest, "test" | "tests").then(|| count.parse().ok())?
}

/// `test NAME ... WORD`.
fn test_line(line: &str) -> Option<(String, Word)> {
    let (name, word) = line.trim_end().strip_prefix("test ")?.rsplit_once(" ... ")?;
    let word = match word.split([' ', ',']).next()? {
        "ok" => Word::Ok,
        "FAILED" => Word::Failed,
        "ignored" => Word::Ignored,
        _ => return None,
    };
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    Some((name.into(), word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest a::b ... ok\ntest c - should panic ... ok\n\
        test d ... FAILED\ntest e ... ignored, takes hours\n\nfailures:\n\n---- d stdout ----\n\
        thread panicked\ntest x ... ok\n\nfailures:\n    d\n\n\
        test result: FAILED. 2 passed; 1 failed; 1 ignored\n\n";

    #[test]
    fn reads_every_word_and_the_output_of_failures() {
        let mut reader = Reader::new();
        let ends: Vec<_> = OUTPUT.lines().filter_map(|line| reader.line(line)).collect();
        assert_eq!(
            ends,
            [
                ("a::b".into(), Word::Ok),
                ("c".into(), Word::Ok),
                ("d".into(), Word::Failed),
                ("e".into(), Word::Ignored)
            ]
        );
        assert!(reader.detail("d").contains("thread panicked"));
        assert!(reader.is_whole());
    }

    #[test]
    fn a_program_that_died_is_not_whole() {
        let mut reader = Reader::new();
        for line in OUTPUT.lines().take(4) {
            reader.line(line);
        }
        assert!(!reader.is_whole());
        assert!(!Reader::new().is_whole());
    }

    #[test]
    fn lines_of_programs_are_no_tests() {
        assert_eq!(test_line("test of something"), None);
        assert_eq!(test_line("test a ... bench: 3 ns"), None);
    }
}
