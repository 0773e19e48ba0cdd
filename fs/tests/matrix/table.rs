//! docs/feature-matrix.md: made from what the operations should do; the tests hold the
//! operations against the same expectations, and the file against what is made here.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::features::{DIMENSIONS, Set, all_bits, covering};
use crate::unsupported;
use crate::{Outcome, operations};

/// All combinations that the long run makes.
pub fn combinations() -> Vec<Set> {
    let mut sets = all_bits();
    sets.extend(covering(false));
    sets.extend(covering(true));
    sets.sort();
    sets.dedup();
    sets
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/feature-matrix.md")
}

#[test]
#[ignore = "writes a file of the repository"]
fn write_the_table() {
    std::fs::write(path(), text()).expect("docs can be written");
}

const HEAD: &str = "# Feature matrix

Every operation against every kind of file system that mkfs.xfs makes. A column stands for
a value of one feature or dimension of the geometry: all combinations with this value.

- **yes**: done on each of them; contents, names and attributes compared with a model at
  once and after a remount, the image clean for our checker and for `xfs_repair -n`.
- **r**: done where blocks can be shared, refused by name (`EOPNOTSUPP`) and nothing touched
  where mkfs was told `reflink=0`.
- **no**: refused by name, nothing touched.

This file is generated from what the tests expect of each operation; this runs all the
combinations, and then writes it:

    HOLDFAST_NEWER_XFSPROGS=DIRECTORY cargo test --release -p holdfast-fs \\
        --test matrix -- --ignored --test-threads 1 all_combinations write_the_table

`DIRECTORY` holds mkfs.xfs and xfs_repair 6.13 or newer. `host::fs` and `e2e::matrix` run
the combinations that bring every two values together, and compare the file with what they
expect.
";

/// What the file has to say.
pub fn text() -> String {
    let (rows, sets) = (operations(), combinations());
    let mut text = String::from(HEAD);
    let (mut done, mut refused) = (0, 0);
    for set in &sets {
        for row in &rows {
            match row.expected(set) {
                Outcome::Done => done += 1,
                _ => refused += 1,
            }
        }
    }
    let values: usize = DIMENSIONS.iter().map(|d| d.values.len()).sum();
    let _ = writeln!(
        text,
        "\n{} operations, {values} values of {} dimensions, {} pairs of an operation and a value; \
         {} combinations (all {} legal ones of the feature bits with blocks of 4 KiB, and such \
         that bring every two values together): {} cells, {done} done, {refused} refused, \
         0 broken.",
        rows.len(),
        DIMENSIONS.len(),
        rows.len() * values,
        sets.len(),
        all_bits().len(),
        done + refused,
    );
    for part in 0..DIMENSIONS.len().div_ceil(PART) {
        let from = part * PART;
        section(&mut text, &sets, from..(from + PART).min(DIMENSIONS.len()));
    }
    text.push_str(
        "\n## Refused file systems\n\n| File system | read-write | read-only |\n|---|---|---|\n",
    );
    for case in unsupported::CASES {
        let word = |refused: Option<&str>| refused.map_or("yes".into(), |w| format!("no: \"{w}\""));
        let _ =
            writeln!(text, "| {} | {} | {} |", case.name, word(case.writing), word(case.reading));
    }
    text.push_str("\nNo byte of the device changes when a mount is refused.\n");
    text
}

/// Dimensions in one table.
const PART: usize = 4;

fn section(text: &mut String, sets: &[Set], dimensions: std::ops::Range<usize>) {
    let columns: Vec<(usize, usize)> = dimensions
        .clone()
        .flat_map(|d| (0..DIMENSIONS[d].values.len()).map(move |v| (d, v)))
        .collect();
    let names: Vec<&str> = dimensions.map(|d| DIMENSIONS[d].name).collect();
    let _ = write!(text, "\n## {}\n\n| Operation |", names.join(", "));
    for (d, v) in &columns {
        let _ = write!(text, " {} {} |", DIMENSIONS[*d].name, DIMENSIONS[*d].values[*v].0);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(columns.len()));
    for row in operations() {
        let _ = write!(text, "| {} |", row.name);
        for (d, v) in &columns {
            let outcomes = sets.iter().filter(|set| set.0[*d] == *v).map(|set| row.expected(set));
            let (done, refused): (Vec<Outcome>, Vec<Outcome>) =
                outcomes.partition(|outcome| *outcome == Outcome::Done);
            let cell = match (done.is_empty(), refused.is_empty()) {
                (false, true) => "yes",
                (false, false) => "r",
                (true, _) => "no",
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
}

#[test]
fn the_table_is_what_the_tests_expect() {
    let is = std::fs::read_to_string(path()).expect("docs/feature-matrix.md");
    assert!(is == text(), "docs/feature-matrix.md is old: its head says how it is made");
}
