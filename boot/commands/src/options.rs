//! Options as `getopt_long` reads them: bundled letters, arguments attached or next, long
//! names cut short as far as they stay clear, options and operands in any order; `--` ends
//! the options.

use alloc::vec::Vec;
use core::ops::BitOr;

/// What was wrong with the options, worded as getopt does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// No such letter.
    Invalid(u8),
    /// The letter needs an argument.
    Missing(u8),
    /// No such long option.
    Unrecognized(&'a [u8]),
    /// The long option could be several.
    Ambiguous(&'a [u8]),
    /// The long option needs an argument.
    MissingLong(&'a [u8]),
}

impl core::fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Invalid(c) => write!(f, "invalid option -- '{}'", *c as char),
            Self::Missing(c) => write!(f, "option requires an argument -- '{}'", *c as char),
            Self::Unrecognized(word) => write!(f, "unrecognized option '{}'", lossy(word)),
            Self::Ambiguous(word) => write!(f, "option '{}' is ambiguous", lossy(word)),
            Self::MissingLong(word) => {
                write!(f, "option '{}' requires an argument", lossy(word))
            }
        }
    }
}

fn lossy(word: &[u8]) -> alloc::borrow::Cow<'_, str> {
    alloc::string::String::from_utf8_lossy(word)
}

/// Options found, in their order, and operands.
#[derive(Debug, Default)]
pub struct Parsed<'a> {
    /// Letters and their arguments.
    pub options: Vec<(u8, Option<&'a [u8]>)>,
    /// What is no option.
    pub operands: Vec<&'a [u8]>,
}

impl<'a> Parsed<'a> {
    /// Was this letter given?
    pub fn has(&self, letter: u8) -> bool {
        self.options.iter().any(|o| o.0 == letter)
    }
    /// The argument of the last occurrence of this letter.
    pub fn value(&self, letter: u8) -> Option<&'a [u8]> {
        self.options.iter().rev().find(|o| o.0 == letter).and_then(|o| o.1)
    }
    /// The flags of the letters that were given, if any was.
    pub fn flags<F: Copy + BitOr<Output = F>>(&self, letters: &[(u8, F)]) -> Option<F> {
        let given = letters.iter().filter(|(letter, _)| self.has(*letter));
        given.map(|(_, flag)| *flag).reduce(F::bitor)
    }
}

/// Read the options of `argv[1..]`.
///
/// `letters` is getopt's string (`"alR"`, `"c:"`); `long` maps long options to letters,
/// which say whether there is an argument. One whose letter is not among `letters` may have
/// one behind a `=`. A leading `+` in `letters` stops at the first operand.
///
/// # Errors
/// The first bad option.
pub fn parse<'a>(
    argv: &[&'a [u8]],
    letters: &str,
    long: &[(&str, u8)],
) -> Result<Parsed<'a>, OptionError<'a>> {
    let mut parsed = Parsed::default();
    let (letters, in_order) = match letters.strip_prefix('+') {
        Some(rest) => (rest.as_bytes(), true),
        None => (letters.as_bytes(), false),
    };
    let mut words = argv.iter().skip(1).copied();
    while let Some(word) = words.next() {
        if word == b"--" {
            parsed.operands.extend(words);
            break;
        }
        if let Some(name) = word.strip_prefix(b"--") {
            let (name, value) = match name.iter().position(|&b| b == b'=') {
                Some(at) => (&name[..at], Some(&name[at + 1..])),
                None => (name, None),
            };
            let letter = long_letter(word, name, long)?;
            let wanted = letters.windows(2).any(|pair| pair == [letter, b':']);
            let value = match value {
                None if wanted => Some(words.next().ok_or(OptionError::MissingLong(word))?),
                value => value,
            };
            parsed.options.push((letter, value));
        } else if word.len() > 1 && word[0] == b'-' {
            bundle(&word[1..], letters, &mut words, &mut parsed)?;
        } else {
            parsed.operands.push(word);
            if in_order {
                parsed.operands.extend(words);
                break;
            }
        }
    }
    Ok(parsed)
}

/// The letter of a long option that is given whole or cut short.
fn long_letter<'a>(
    word: &'a [u8],
    name: &[u8],
    long: &[(&str, u8)],
) -> Result<u8, OptionError<'a>> {
    if let Some(&(_, letter)) = long.iter().find(|l| l.0.as_bytes() == name) {
        return Ok(letter);
    }
    let mut fitting = long.iter().filter(|l| l.0.as_bytes().starts_with(name)).map(|l| l.1);
    let letter = fitting.next().ok_or(OptionError::Unrecognized(word))?;
    match fitting.all(|other| other == letter) {
        true => Ok(letter),
        false => Err(OptionError::Ambiguous(word)),
    }
}

/// One word of letters, the last of which may take an argument.
fn bundle<'a>(
    word: &'a [u8],
    letters: &[u8],
    words: &mut dyn Iterator<Item = &'a [u8]>,
    parsed: &mut Parsed<'a>,
) -> Result<(), OptionError<'a>> {
    let mut at = 0;
    while let Some(&letter) = word.get(at) {
        at += 1;
        let known = letters.iter().position(|&l| l == letter && l != b':');
        let Some(index) = known else { return Err(OptionError::Invalid(letter)) };
        if letters.get(index + 1) != Some(&b':') {
            parsed.options.push((letter, None));
            continue;
        }
        let value = if at < word.len() {
            &word[at..]
        } else {
            words.next().ok_or(OptionError::Missing(letter))?
        };
        parsed.options.push((letter, Some(value)));
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_operands_mix() {
        let argv: [&[u8]; 8] = [b"x", b"-al", b"f", b"-c%n", b"-c", b"%s", b"--", b"-z"];
        let p = parse(&argv, "alc:", &[]).unwrap();
        assert!(p.has(b'a') && p.has(b'l') && !p.has(b'z'));
        assert_eq!(p.value(b'c'), Some(&b"%s"[..]));
        assert_eq!(p.operands, [&b"f"[..], b"-z"]);
        assert_eq!(p.options[2], (b'c', Some(&b"%n"[..])));
    }

    #[test]
    fn bad_options_are_named() {
        let one = |w: &'static [u8]| parse(&[b"x", w], "ac:", &[("all", b'a')]).map(|_| ());
        assert_eq!(one(b"-z"), Err(OptionError::Invalid(b'z')));
        assert_eq!(one(b"-:"), Err(OptionError::Invalid(b':')));
        assert_eq!(one(b"-c"), Err(OptionError::Missing(b'c')));
        assert_eq!(one(b"--foo"), Err(OptionError::Unrecognized(b"--foo")));
        assert_eq!(one(b"--all"), Ok(()));
        assert_eq!(one(b"-"), Ok(()));
    }

    #[test]
    fn long_options_take_arguments_and_may_be_cut_short() {
        let long = [("date", b'd'), ("reference", b'r'), ("recursive", b'R'), ("reflink", b'=')];
        let argv: [&[u8]; 7] =
            [b"x", b"--date", b"@8", b"--refe=f", b"--rec", b"--reflink", b"never"];
        let p = parse(&argv, "d:r:R", &long).unwrap();
        assert_eq!((p.value(b'd'), p.value(b'r')), (Some(&b"@8"[..]), Some(&b"f"[..])));
        assert!(p.has(b'R') && p.has(b'=') && p.value(b'=').is_none());
        assert_eq!(p.operands, [&b"never"[..]]);
        let one = |w: &'static [u8]| parse(&[b"x", w], "d:r:R", &long).map(|_| ());
        assert_eq!(one(b"--re"), Err(OptionError::Ambiguous(b"--re")));
        assert_eq!(one(b"--da"), Err(OptionError::MissingLong(b"--da")));
    }

    #[test]
    fn in_order_stops_at_the_first_operand() {
        let p = parse(&[b"x", b"-a", b"f", b"-a"], "+a", &[]).unwrap();
        assert_eq!(p.operands, [&b"f"[..], b"-a"]);
    }
}
