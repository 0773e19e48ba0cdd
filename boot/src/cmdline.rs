//! The kernel command line: words, some with a value.

use alloc::string::String;
use alloc::vec::Vec;

/// Words bring-up and `init` know. Others are warned about and ignored.
const KNOWN: [&str; 13] = [
    "log",
    "page_cache",
    "ro",
    "discard",
    "prealloc_lifetime",
    "cmd",
    "script",
    "shell",
    "mainjob",
    "selftest",
    "noroot",
    "seed",
    "watchdog",
];

/// The command line's words.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    text: String,
}

impl CommandLine {
    /// Take a command line over.
    pub fn new(text: &str) -> Self {
        Self { text: text.into() }
    }
    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }
    fn words(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.text.split_ascii_whitespace().map(|word| match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        })
    }
    /// Is the word there, with or without a value?
    pub fn has(&self, key: &str) -> bool {
        self.words().any(|(k, _)| k == key)
    }
    /// The value of the last such word that has one.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.words().filter(|(k, _)| *k == key).filter_map(|(_, v)| v).last()
    }
    /// The value as a number, decimal or `0x`.
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.value(key)?;
        match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        }
    }
    /// The value as a number of bytes: a number with an optional k, M or G.
    pub fn size(&self, key: &str) -> Option<u64> {
        let value = self.value(key)?;
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &value[digits.len()..] {
            "" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << shift)
    }
    /// The value as bytes written in hexadecimal.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        let value = self.value(key)?;
        if !value.len().is_multiple_of(2) {
            return None;
        }
        let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
        let pairs = value.as_bytes().chunks_exact(2);
        pairs.map(|p| Some(digit(p[0])? << 4 | digit(p[1])?)).collect()
    }
    /// Warn about words nobody will look at.
    pub fn warn_unknown(&self) {
        for (key, _) in self.words().filter(|(k, _)| !KNOWN.contains(k)) {
            log::warn!("command line: {key:?} is not understood");
        }
    }
}
