//! Which kernel modules a set of modules needs, from what stands in the
//! modules themselves (their `.modinfo` section).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use object::{File, Object, ObjectSection};

use crate::process;
use crate::tools;

/// All modules below a directory, by name.
#[derive(Debug)]
pub struct Modules {
    paths: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Finds the modules.
    pub fn below(directory: &Path) -> Result<Self> {
        let mut paths = BTreeMap::new();
        collect(directory, &mut paths)?;
        Ok(Self { paths })
    }

    /// The given modules and those they depend on, each after what it needs.
    /// A name that is no module is built into the kernel.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<(String, PathBuf)>) -> Result<()> {
        let name = name.replace('-', "_");
        let Some(path) = self.paths.get(&name) else { return Ok(()) };
        if order.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        let bytes = contents(path)?;
        for needed in depends(&bytes)? {
            self.visit(&needed, order)?;
        }
        order.push((name, path.clone()));
        Ok(())
    }
}

fn collect(directory: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, paths)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((stem, "" | ".xz" | ".zst")) = name.split_once(".ko")
        {
            paths.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// A module's bytes, unpacked.
pub fn contents(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => tools::XZ,
        Some("zst") => tools::ZSTD,
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    process::output(Command::new(tools::need(&tool)?).arg("-dcq").arg(path))
}

/// The modules that one names in `depends=` and `softdep=pre:`.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file = File::parse(module).context("a kernel module is no ELF file")?;
    let section = file.section_by_name(".modinfo").context("a module without .modinfo")?;
    Ok(names(section.data()?))
}

fn names(modinfo: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for entry in modinfo.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        if let Some(list) = entry.strip_prefix("depends=") {
            names.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        } else if let Some(list) = entry.strip_prefix("softdep=pre:") {
            let before = list.split(" post:").next().unwrap_or_default();
            names.extend(before.split_whitespace().map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_dependencies() {
        let info = b"license=GPL\0depends=libcrc32c,exportfs\0softdep=pre: crc32c post: x\0";
        assert_eq!(names(info), ["libcrc32c", "exportfs", "crc32c"]);
        assert!(names(b"depends=\0").is_empty());
    }
}
