//! What the tabulator key adds: names of commands, and paths.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_fs::syscall::Process;
use holdfast_fs::xfs::FileType;

use crate::files::list;
use crate::registry::command_names;

/// What can follow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is certain, to be put in at the cursor.
    pub addition: Vec<u8>,
    /// All that is possible.
    pub choices: Vec<Vec<u8>>,
}

/// Complete the word that ends `line`.
pub fn complete(process: &Arc<Process>, line: &[u8]) -> Found {
    let (start, word) = last_word(line);
    let first = line[..start].iter().all(|b| *b == b' ');
    if first && !word.contains(&b'/') {
        let names = command_names().map(|n| (n.as_bytes().to_vec(), b' '));
        return choose(&word, names.filter(|(n, _)| n.starts_with(&word)).collect());
    }
    let slash = word.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
    let (dir, prefix) = word.split_at(slash);
    let (names, _) = list(process, if dir.is_empty() { b"." } else { dir });
    let hidden = prefix.first() == Some(&b'.');
    let fits = names
        .into_iter()
        .filter(|n| n.name.starts_with(prefix) && (hidden || n.name.first() != Some(&b'.')))
        .map(|n| (n.name, if n.file_type == FileType::Directory { b'/' } else { b' ' }));
    choose(prefix, fits.collect())
}

/// The word at the end of a line, its backslashes taken away, and where it starts.
fn last_word(line: &[u8]) -> (usize, Vec<u8>) {
    let (mut start, mut word, mut at) = (0, Vec::new(), 0);
    while let Some(&b) = line.get(at) {
        at += 1;
        match (b, line.get(at)) {
            (b'\\', Some(&next)) => {
                word.push(next);
                at += 1;
            }
            (b' ', _) => {
                word.clear();
                start = at;
            }
            _ => word.push(b),
        }
    }
    (start, word)
}

/// What all that fits has in common beyond the prefix; for a single one also its end.
fn choose(prefix: &[u8], fits: Vec<(Vec<u8>, u8)>) -> Found {
    let Some((first, end)) = fits.first() else { return Found::default() };
    let mut common = first.len();
    for (name, _) in &fits {
        common = first.iter().zip(name).take(common).take_while(|(a, b)| a == b).count();
    }
    let mut addition = Vec::new();
    for &b in first.get(prefix.len()..common).unwrap_or_default() {
        if !(b.is_ascii_alphanumeric() || b"._-/+=@%,:".contains(&b) || b >= 0x80) {
            addition.push(b'\\');
        }
        addition.push(b);
    }
    if fits.len() == 1 {
        addition.push(*end);
    }
    Found { addition, choices: fits.into_iter().map(|f| f.0).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(names: &[&str]) -> Vec<(Vec<u8>, u8)> {
        names.iter().map(|n| (n.as_bytes().to_vec(), b' ')).collect()
    }

    #[test]
    fn what_is_common_is_added() {
        assert_eq!(choose(b"s", fits(&["stat", "stats"])).addition, b"tat");
        assert_eq!(choose(b"st", fits(&["stat"])).addition, b"at ");
        assert_eq!(choose(b"", fits(&["a b"])).addition, b"a\\ b ");
        assert_eq!(choose(b"x", Vec::new()), Found::default());
    }

    #[test]
    fn the_last_word_is_found() {
        assert_eq!(last_word(b"cat /a\\ b"), (4, b"/a b".to_vec()));
        assert_eq!(last_word(b"cat "), (4, Vec::new()));
        assert_eq!(last_word(b"ls"), (0, b"ls".to_vec()));
    }
}
