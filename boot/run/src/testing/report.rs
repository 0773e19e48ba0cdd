//! What the tests came to: live lines, JUnit XML, the final line.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use crate::process;

/// Lines of a failure shown at once; all of them go into the XML.
const SHOWN_LINES: usize = 60;

/// How one test went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its full name.
    pub name: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// How long it took, zero where that is unknown.
    pub took: Duration,
    /// What it found worth telling: figures, mostly.
    pub notes: Vec<String>,
}

impl Outcome {
    /// The outcome of a test that has nothing to tell.
    pub fn new(name: String, error: Option<String>, took: Duration) -> Self {
        Self { name, error, took, notes: Vec::new() }
    }
}

/// All outcomes so far.
#[derive(Debug, Default)]
pub struct Report {
    outcomes: Vec<Outcome>,
}

impl Report {
    /// A report without tests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a test and prints its line.
    pub fn add(&mut self, outcome: Outcome) {
        let word = if outcome.error.is_none() { "ok    " } else { "FAILED" };
        let time = match outcome.took.as_secs_f64() {
            seconds if seconds >= 0.1 => format!("  ({seconds:.1} s)"),
            _ => String::new(),
        };
        println!("{word} {}{time}", outcome.name);
        for note in &outcome.notes {
            println!("       {note}");
        }
        if let Some(error) = &outcome.error {
            for line in process::last(error, SHOWN_LINES).lines() {
                println!("       | {line}");
            }
        }
        self.outcomes.push(outcome);
    }

    fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.error.is_some())
    }

    /// Whether there were tests and none failed.
    pub fn all_good(&self) -> bool {
        !self.outcomes.is_empty() && self.failed().next().is_none()
    }

    /// Prints the failures once more and the final line.
    pub fn print_end(&self, took: Duration) {
        println!();
        for outcome in self.failed() {
            println!("failed: {}", outcome.name);
        }
        if self.outcomes.is_empty() {
            println!("no test was selected");
        }
        println!("took {:.0} s", took.as_secs_f64());
        let failed = self.failed().count();
        println!("{} passed, {failed} failed", self.outcomes.len() - failed);
    }

    /// Writes JUnit XML, a suite for each part of the names before the last.
    pub fn write_junit(&self, path: &Path) -> Result<()> {
        let mut report = quick_junit::Report::new("holdfast");
        let mut suites: Vec<TestSuite> = Vec::new();
        for outcome in &self.outcomes {
            let (suite, name) = outcome.name.split_once("::").unwrap_or(("", &outcome.name));
            let status = match &outcome.error {
                None => TestCaseStatus::success(),
                Some(error) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(error.lines().next().unwrap_or_default());
                    status.set_description(error);
                    status
                }
            };
            let mut case = TestCase::new(name, status);
            case.set_classname(suite).set_time(outcome.took);
            match suites.iter_mut().find(|known| known.name.as_str() == suite) {
                Some(known) => drop(known.add_test_case(case)),
                None => {
                    let mut new = TestSuite::new(suite);
                    new.add_test_case(case);
                    suites.push(new);
                }
            }
        }
        report.add_test_suites(suites);
        let file = std::fs::File::create(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        report.serialize(file).context("cannot write JUnit XML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, error: Option<&str>) -> Outcome {
        Outcome::new(name.into(), error.map(Into::into), Duration::ZERO)
    }

    #[test]
    fn no_tests_are_no_success() {
        let mut report = Report::new();
        assert!(!report.all_good());
        report.add(outcome("host::a", None));
        assert!(report.all_good());
        report.add(outcome("host::b", Some("no")));
        assert!(!report.all_good());
    }

    #[test]
    fn junit_tells_suites_and_failures_apart() {
        let mut report = Report::new();
        report.add(outcome("host::a", None));
        report.add(outcome("e2e::b", Some("broken\nbadly <&>")));
        let file = tempfile::NamedTempFile::new().unwrap();
        report.write_junit(file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.contains(r#"tests="2""#) && text.contains(r#"failures="1""#), "{text}");
        assert!(text.contains(r#"message="broken""#) && text.contains("&lt;&amp;"), "{text}");
    }
}
