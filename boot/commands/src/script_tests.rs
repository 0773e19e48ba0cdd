//! Words against hand-made cases and against a real `sh`.

use super::*;
use alloc::string::String;
use proptest::prelude::*;
use std::process::Command;

fn words(line: &str) -> Vec<String> {
    let line = split(line.as_bytes()).unwrap();
    line.words.into_iter().map(|w| String::from_utf8(w).unwrap()).collect()
}

#[test]
fn words_split_as_sh_does() {
    assert_eq!(words("ls  -l\t/x"), ["ls", "-l", "/x"]);
    assert_eq!(words(r#"a 'b c' "d e" f\ g"#), ["a", "b c", "d e", "f g"]);
    assert_eq!(words(r#"'a'"b"c"#), ["abc"]);
    assert_eq!(words(r#"'' """#), ["", ""]);
    assert_eq!(words(r#""\a\"\\""#), [r#"\a"\"#]);
    assert_eq!(words("a#b # c"), ["a#b"]);
    assert_eq!(words("# only"), Vec::<String>::new());
    assert_eq!(words("   "), Vec::<String>::new());
    assert_eq!(words("'a\\'"), ["a\\"]);
    assert_eq!(words("a\\#"), ["a#"]);
    assert_eq!(words("x 'a & b'"), ["x", "a & b"]);
}

#[test]
fn background_and_errors() {
    assert!(split(b"sleep 1 &").unwrap().background);
    assert!(split(b"sleep 1& # later").unwrap().background);
    assert_eq!(split(b"sleep 1&").unwrap().words.len(), 2);
    assert!(!split(b"echo \\&").unwrap().background);
    assert_eq!(split(b"&"), Err(SyntaxError::LoneAmpersand));
    assert_eq!(split(b"a & b"), Err(SyntaxError::AfterAmpersand));
    assert_eq!(split(b"a && b"), Err(SyntaxError::AfterAmpersand));
    assert_eq!(split(b"a 'b"), Err(SyntaxError::Unterminated('\'')));
    assert_eq!(split(b"a \"b\\\""), Err(SyntaxError::Unterminated('"')));
    assert_eq!(split(b"a > b"), Err(SyntaxError::Operator('>')));
    let long = alloc::vec![b'a'; LINE_MAX];
    assert_eq!(split(&long).unwrap().words[0].len(), LINE_MAX);
    assert_eq!(split(&[long, b"b".to_vec()].concat()), Err(SyntaxError::TooLong));
}

/// The words `sh` makes of a line, or nothing when it cannot.
fn sh(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut script = b"printf '%s\\0' x ".to_vec();
    script.extend_from_slice(line);
    let output = Command::new("sh")
        .arg("-c")
        .arg(String::from_utf8(script).ok()?)
        .output()
        .expect("sh runs");
    if !output.status.success() {
        return None;
    }
    let mut words: Vec<Vec<u8>> = output.stdout.split(|&b| b == 0).map(<[u8]>::to_vec).collect();
    words.pop();
    words.remove(0);
    Some(words)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_line_splits_as_in_sh(line in r##"[ab\\'"# \t%=/é-]{0,24}"##) {
        // What sh joins with the next line (a backslash at the end) is no line of ours.
        let odd_tail = line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1;
        prop_assume!(!odd_tail);
        match (split(line.as_bytes()), sh(line.as_bytes())) {
            (Ok(ours), Some(theirs)) => prop_assert_eq!(ours.words, theirs),
            (Err(SyntaxError::Unterminated(_)), None) => {}
            (ours, theirs) => prop_assert!(false, "{:?}: {:?} against {:?}", line, ours, theirs),
        }
    }

    #[test]
    fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = split(&line);
    }

    #[test]
    fn quoted_words_come_back(list in proptest::collection::vec("[^\0\n]{0,12}", 1..6)) {
        let line: Vec<String> =
            list.iter().map(|w| alloc::format!("'{}'", w.replace('\'', "'\\''"))).collect();
        let got = split(line.join(" ").as_bytes()).unwrap().words;
        let want: Vec<Vec<u8>> = list.into_iter().map(String::into_bytes).collect();
        prop_assert_eq!(got, want);
    }
}
