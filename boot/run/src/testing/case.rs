//! A test of our own, and the choice of tests.

use anyhow::Result;

use crate::workspace::Workspace;

type Body = Box<dyn Fn(&Workspace) -> Result<()> + Send + Sync>;

/// One test that the driver runs itself.
pub struct Case {
    /// Its full name, `suite::module::name`.
    pub name: String,
    /// Whether it cannot do without the Linux guest.
    pub needs_linux: bool,
    /// Whether it cannot do without the newer xfsprogs.
    pub needs_newer: bool,
    /// Whether nothing else may run at the same time: it measures time, or
    /// works the machine hard.
    pub alone: bool,
    body: Body,
}

impl Case {
    /// A test that fails when `body` returns an error.
    pub fn new(
        name: impl Into<String>,
        body: impl Fn(&Workspace) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs_linux: false,
            needs_newer: false,
            alone: false,
            body: Box::new(body),
        }
    }

    /// Marks a test that cannot do without the Linux guest.
    #[must_use]
    pub fn with_linux(mut self) -> Self {
        self.needs_linux = true;
        self
    }

    /// Marks a test that cannot do without the newer xfsprogs.
    #[must_use]
    pub fn with_newer(mut self) -> Self {
        self.needs_newer = true;
        self
    }

    /// Marks a test that wants the machine for itself.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Runs it.
    pub fn run(&self, workspace: &Workspace) -> Result<()> {
        (self.body)(workspace)
    }
}

/// Which tests were asked for.
#[derive(Clone, Debug)]
pub struct Selection {
    filter: Option<String>,
}

/// The suites, whose names a filter may start with.
const SUITES: [&str; 4] = ["tidy", "host", "kernel", "e2e"];

impl Selection {
    /// The tests whose name contains the filter; all without one.
    pub fn new(filter: Option<String>) -> Self {
        Self { filter }
    }

    /// Whether all tests are wanted.
    pub fn is_all(&self) -> bool {
        self.filter.is_none()
    }

    /// Whether a test is wanted.
    pub fn selects(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Whether a suite or group of tests can hold a wanted test: not when the
    /// filter starts with the name of another.
    pub fn may_select(&self, group: &str) -> bool {
        let Some(filter) = &self.filter else { return true };
        let suite = filter.split("::").next().unwrap_or_default();
        if !SUITES.contains(&suite) {
            return true;
        }
        filter.starts_with(group) || group.starts_with(filter.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_part_of_a_name() {
        let selection = Selection::new(Some("dir".into()));
        assert!(selection.selects("host::fs::xfs::dir::leaf"));
        assert!(!selection.selects("host::fs::xfs::attr"));
        assert!(selection.may_select("host") && selection.may_select("e2e"));
    }

    #[test]
    fn a_filter_with_a_suite_keeps_others_from_being_built() {
        let selection = Selection::new(Some("host::fs+std::x".into()));
        assert!(selection.may_select("host") && !selection.may_select("e2e"));
        assert!(selection.may_select("host::fs+std") && !selection.may_select("host::sync"));
        let suite = Selection::new(Some("host".into()));
        assert!(suite.may_select("host::sync") && !suite.may_select("tidy"));
    }
}
