//! Where things lie: the clone, cargo's target directory, the cache of the user.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The clone that this program serves.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the clone: `run.sh` names it in `HOLDFAST_ROOT`; started by hand,
    /// the nearest directory above that holds `run.sh` and `Cargo.toml`.
    pub fn find() -> Result<Self> {
        if let Some(root) = env::var_os("HOLDFAST_ROOT") {
            return Ok(Self { root: root.into() });
        }
        let here = env::current_dir().context("no current directory")?;
        let root = here
            .ancestors()
            .find(|dir| dir.join("run.sh").is_file() && dir.join("Cargo.toml").is_file())
            .context("not inside a clone of Holdfast; start run.sh instead")?;
        Ok(Self { root: root.to_path_buf() })
    }

    /// The top of the clone.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `run.sh` itself.
    pub fn run_sh(&self) -> PathBuf {
        self.root.join("run.sh")
    }

    /// The place for everything a run leaves behind; made when missing.
    pub fn target(&self) -> Result<PathBuf> {
        let target = self.root.join("target");
        std::fs::create_dir_all(&target)
            .with_context(|| format!("cannot make {}", target.display()))?;
        Ok(target)
    }

    /// Downloads and prepared guests that outlive a clone: `HOLDFAST_CACHE`,
    /// or `holdfast` in the user's cache directory.
    pub fn cache(&self) -> Result<PathBuf> {
        let cache = match (env::var_os("HOLDFAST_CACHE"), env::var_os("XDG_CACHE_HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(cache)) => PathBuf::from(cache).join("holdfast"),
            (None, None) => match env::var_os("HOME") {
                Some(home) => PathBuf::from(home).join(".cache/holdfast"),
                None => self.target()?.join("cache"),
            },
        };
        std::fs::create_dir_all(&cache)
            .with_context(|| format!("cannot make {}", cache.display()))?;
        Ok(cache)
    }

    /// A fresh directory below the target directory; it goes with its guard,
    /// and when a signal ends the program.
    pub fn scratch(&self) -> Result<tempfile::TempDir> {
        let parent = self.target()?.join("tmp");
        std::fs::create_dir_all(&parent)?;
        let scratch = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(parent)
            .context("no scratch directory")?;
        crate::process::remove_on_signal(scratch.path());
        Ok(scratch)
    }
}
