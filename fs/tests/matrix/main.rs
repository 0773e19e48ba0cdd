//! Every operation on every kind of file system that mkfs.xfs makes.
//!
//! A combination of features and geometry is an image; all operations run on it, each in a
//! directory of its own, each compared with a model at once and, after a remount, again;
//! then our checker and `xfs_repair -n` judge the image. Should anything be wrong the
//! operations run once more, each on an image of its own, which tells whose fault it is.
//!
//! | file | |
//! |------|--|
//! | `features` | what mkfs decides; combinations |
//! | `world` | a file system and its model side by side |
//! | `names`, `attributes`, `contents`, `durability` | the operations |
//! | `table` | docs/feature-matrix.md |
//! | `unsupported` | file systems that are refused |
//!
//! The combinations that cover every pair run always, all the legal ones by command: the
//! head of docs/feature-matrix.md says which.
#![cfg(not(feature = "shuttle"))]

mod attributes;
mod contents;
mod durability;
mod features;
mod names;
mod table;
mod unsupported;
#[path = "../volume/mod.rs"]
mod volume;
mod world;
#[path = "../xfsprogs/mod.rs"]
mod xfsprogs;

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use features::Set;
use holdfast_fs::{Error, Result};
use volume::Volume;
use world::World;
use xfsprogs::{NEWER, Scratch, mkfs_by, newer, repair_of, tool};

/// One row of the matrix.
pub struct Operation {
    /// Its name in the table.
    pub name: &'static str,
    run: fn(&mut World) -> Result<()>,
    /// Does it take shared blocks?
    shares: bool,
}

impl Operation {
    const fn new(name: &'static str, run: fn(&mut World) -> Result<()>) -> Self {
        Self { name, run, shares: false }
    }
    const fn sharing(name: &'static str, run: fn(&mut World) -> Result<()>) -> Self {
        Self { name, run, shares: true }
    }
    /// What should come out.
    pub fn expected(&self, set: &Set) -> Outcome {
        if self.shares && !set.has_reflink() { Outcome::Refused } else { Outcome::Done }
    }
}

/// All rows.
pub fn operations() -> Vec<&'static Operation> {
    let groups =
        [names::OPERATIONS, attributes::OPERATIONS, contents::OPERATIONS, durability::OPERATIONS];
    groups.into_iter().flatten().collect()
}

/// What became of an operation on one kind of file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As the model says.
    Done,
    /// By name, and nothing was touched.
    Refused,
    /// Not as it should be.
    Broken(String),
}

/// Programs of xfsprogs: those that the driver names, or the machine's.
fn program(name: &str) -> Command {
    newer(name).unwrap_or_else(|| tool(name))
}

/// An image, on a device that held 0xEE everywhere before.
fn make(megabytes: usize, words: &[impl AsRef<OsStr>]) -> Vec<u8> {
    let scratch = Scratch::new("matrix");
    let image = scratch.path("image");
    let mut command = program("mkfs.xfs");
    command.args(words);
    mkfs_by(command, &image, megabytes as u64);
    std::fs::read(&image).expect("an image")
}

/// What the judges say of an image that was unmounted.
fn judge(image: &Arc<Vec<u8>>) -> Option<String> {
    if let Some(found) = durability::complaints(image) {
        return Some(format!("our checker: {found}"));
    }
    repair_of(program("xfs_repair"), image).map(|text| format!("xfs_repair -n: {text}"))
}

/// Run operations on one image: what became of each, and what was wrong at the end.
fn attempt(set: &Set, image: &Arc<Vec<u8>>, rows: &[&Operation]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(*set, Volume::over(image));
        for (number, row) in rows.iter().enumerate() {
            let outcome = step(&mut world, number, row);
            outcomes.push(outcome);
            world.verify_home();
        }
        world.verify_all();
        world.remount_after(|_| ());
        world.verify_all();
        world.unmount()
    }));
    let wrong = match done {
        Ok(image) => judge(&image),
        Err(panic) => Some(message(&*panic)),
    };
    if let Some(wrong) = wrong {
        outcomes.resize(rows.len(), Outcome::Done);
        *outcomes.last_mut().expect("a row") = Outcome::Broken(wrong);
    }
    outcomes
}

fn step(world: &mut World, number: usize, row: &Operation) -> Outcome {
    let entered = world.enter(&format!("{number}"));
    match entered.and_then(|()| (row.run)(world)) {
        Ok(()) => Outcome::Done,
        Err(Error::NotSupported(_)) => Outcome::Refused,
        Err(error) => Outcome::Broken(error.to_string()),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}

/// One column of the matrix.
fn column(set: &Set, rows: &[&Operation]) -> Vec<Outcome> {
    let image = Arc::new(make(set.megabytes(), &set.words()));
    let together = attempt(set, &image, rows);
    if !together.iter().any(|outcome| matches!(outcome, Outcome::Broken(_))) {
        return together;
    }
    // Whose fault is it?
    let alone: Vec<Outcome> = rows.iter().flat_map(|row| attempt(set, &image, &[*row])).collect();
    if alone.iter().any(|outcome| matches!(outcome, Outcome::Broken(_))) {
        return alone;
    }
    together
}

/// Columns, on two threads.
fn columns(sets: &[Set], rows: &[&Operation]) -> Vec<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![Vec::new(); sets.len()]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(set) = sets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcomes = column(set, rows);
                    let at = sets.iter().position(|other| other == set).expect("one of them");
                    results.lock().expect("results")[at] = outcomes;
                }
            });
        }
    });
    results.into_inner().expect("results")
}

/// Run these combinations; nothing may come out that the table does not say.
fn check(sets: &[Set]) {
    // What panics is told at the end, by operation and combination.
    let rows = operations();
    let results = columns(sets, &rows);
    let mut wrong = Vec::new();
    for (set, outcomes) in sets.iter().zip(&results) {
        for (row, outcome) in rows.iter().zip(outcomes) {
            if *outcome != row.expected(set) {
                let words = set.words().join(" ");
                wrong.push(format!("{} on mkfs.xfs {words}: {outcome:?}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let cells = rows.len() * sets.len();
    println!("{} operations on {} kinds of file systems: {cells} cells", rows.len(), sets.len());
}

#[test]
fn pairs_of_features() {
    check(&features::covering(false));
}

#[test]
#[ignore = "takes a newer xfsprogs: e2e::matrix runs it"]
fn pairs_with_newer_features() {
    assert!(std::env::var_os(NEWER).is_some(), "{NEWER} has to name a directory with programs");
    let sets: Vec<Set> = features::covering(true).into_iter().filter(Set::is_new).collect();
    check(&sets);
}

/// Every combination.
#[test]
#[ignore = "runs for minutes: docs/feature-matrix.md says how"]
fn all_combinations() {
    assert!(std::env::var_os(NEWER).is_some(), "{NEWER} has to name a directory with programs");
    check(&table::combinations());
}
