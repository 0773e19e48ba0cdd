//! Rules about the tree itself: format, lints, documentation, who may depend
//! on whom, what may stand in files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::case::Case;
use crate::kernel_image::cargo;
use crate::process;
use crate::workspace::Workspace;

/// The tests of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("tidy::format", |workspace| {
            process::output(cargo(workspace).args(["fmt", "--all", "--check"])).map(drop)
        }),
        Case::new("tidy::documentation", documentation),
        Case::new("tidy::direction", direction),
        Case::new("tidy::paths_of_machines", paths_of_machines),
        Case::new("tidy::unsafe_code", unsafe_code),
        Case::new("tidy::length_of_files", length_of_files),
    ];
    for (name, arguments) in LINTS {
        cases.push(Case::new(format!("tidy::lints::{name}"), move |workspace| {
            let mut command = cargo(workspace);
            command.args(["clippy", "--quiet"]).args(arguments.split_whitespace());
            process::output(command.args(["--", "--deny", "warnings"])).map(drop)
        }));
    }
    cases
}

/// The feature sets that differ in what they compile.
const LINTS: [(&str, &str); 4] = [
    ("workspace", "--workspace --all-targets --exclude holdfast-boot"),
    ("image", "--package holdfast-boot"),
    ("image_check", "--package holdfast-boot --features check"),
    ("shuttle", "--package holdfast-fs --all-targets --features shuttle"),
];

/// The kernel's image is documented apart: its features must not meet those of the host.
fn documentation(workspace: &Workspace) -> Result<()> {
    for what in ["--workspace --exclude holdfast-boot", "--package holdfast-boot"] {
        let mut command = cargo(workspace);
        command.args(["doc", "--quiet", "--no-deps"]).args(what.split_whitespace());
        process::output(command.env("RUSTDOCFLAGS", "--deny warnings"))?;
    }
    Ok(())
}

/// Which of our crates each of our crates may use, in whatever way.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("holdfast-sync", &[]),
    ("holdfast-kernel", &["holdfast-sync"]),
    ("holdfast-drivers", &["holdfast-sync"]),
    ("holdfast-fs", &["holdfast-sync"]),
    ("holdfast-commands", &["holdfast-fs", "holdfast-sync"]),
    (
        "holdfast-boot",
        &[
            "holdfast-sync",
            "holdfast-kernel",
            "holdfast-drivers",
            "holdfast-fs",
            "holdfast-commands",
        ],
    ),
    ("holdfast-image", &["holdfast-sync", "holdfast-fs", "holdfast-commands"]),
    ("holdfast-run", &[]),
];

/// `fs`, `drivers` and `kernel` do not see each other; `boot` sees all.
fn direction(workspace: &Workspace) -> Result<()> {
    let mut command = cargo(workspace);
    let metadata = process::output(command.args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("no packages in cargo's metadata")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table of the tidy test"));
            continue;
        };
        for needed in package["dependencies"].as_array().into_iter().flatten() {
            let needed = needed["name"].as_str().unwrap_or_default();
            if needed.starts_with("holdfast-") && !allowed.contains(&needed) {
                wrong.push(format!("{name} may not use {needed}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The files under version control and those that would be.
fn files(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(workspace.root());
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = match process::output(&mut git) {
        Ok(listed) => String::from_utf8_lossy(&listed).into_owned(),
        // An unpacked archive has no git; then the tree speaks for itself.
        Err(_) => {
            let mut find = Command::new("find");
            find.current_dir(workspace.root());
            find.args([".", "-path", "./target", "-prune", "-o", "-type", "f", "-print0"]);
            String::from_utf8_lossy(&process::output(&mut find)?).into_owned()
        }
    };
    let names: BTreeSet<&str> = listed.split('\0').filter(|name| !name.is_empty()).collect();
    let paths = names.into_iter().map(|name| workspace.root().join(name));
    Ok(paths.filter(|path| path.is_file()).collect())
}

/// The Rust sources among them.
fn sources(workspace: &Workspace) -> Result<Vec<(PathBuf, String)>> {
    let mut sources = Vec::new();
    for path in files(workspace)? {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            sources.push((relative(workspace, &path), text));
        }
    }
    ensure!(!sources.is_empty(), "no Rust sources found");
    Ok(sources)
}

fn relative(workspace: &Workspace, path: &Path) -> PathBuf {
    path.strip_prefix(workspace.root()).unwrap_or(path).to_path_buf()
}

/// Nothing names the place where a developer's clone or home lies.
fn paths_of_machines(workspace: &Workspace) -> Result<()> {
    let mut signs =
        vec![["/ho", "me/"].concat(), ["/ro", "ot/"].concat(), ["/Us", "ers/"].concat()];
    let root = workspace.root().to_string_lossy();
    if root.len() > 4 {
        signs.push(format!("{root}/"));
    }
    let mut wrong = Vec::new();
    for path in files(workspace)? {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if signs.iter().any(|sign| line.contains(sign.as_str())) {
                let path = relative(workspace, &path);
                wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    ensure!(wrong.is_empty(), "paths of a machine:\n{}", wrong.join("\n"));
    Ok(())
}

/// Unsafe code stays where it belongs.
fn unsafe_code(workspace: &Workspace) -> Result<()> {
    const ALLOWED: [&str; 4] = ["kernel/", "drivers/", "boot/src/", "boot/build.rs"];
    let mut wrong = Vec::new();
    for (path, text) in sources(workspace)? {
        let name = path.to_string_lossy();
        let allowed = ALLOWED.iter().any(|prefix| name.starts_with(prefix));
        if !allowed && text.lines().any(opens_unsafe) && name != TIES_CHILDREN {
            wrong.push(name.into_owned());
        }
    }
    for root in ["fs/src/lib.rs", "boot/run/src/lib.rs"] {
        let text = fs::read_to_string(workspace.root().join(root))?;
        if !text.contains("#![deny(unsafe_code)]") && !text.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{root} does not deny unsafe code"));
        }
    }
    ensure!(wrong.is_empty(), "unsafe code in:\n{}", wrong.join("\n"));
    Ok(())
}

/// The one place on the host's side with unsafe code.
const TIES_CHILDREN: &str = "boot/run/src/process.rs";

fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = ["uns", "afe"].concat();
    ["{", "fn", "impl", "extern"].iter().any(|next| code.contains(&format!("{word} {next}")))
}

/// Files stay short enough to be read in one go.
fn length_of_files(workspace: &Workspace) -> Result<()> {
    const LINES: usize = 700;
    let long = |(path, text): (PathBuf, String)| {
        let lines = text.lines().count();
        (lines > LINES).then(|| format!("{}: {lines} lines", path.display()))
    };
    let wrong: Vec<String> = sources(workspace)?.into_iter().filter_map(long).collect();
    ensure!(wrong.is_empty(), "longer than {LINES} lines:\n{}", wrong.join("\n"));
    Ok(())
}
