//! Programs of the machine: found, or installed through its package manager.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::failure::Failure;
use crate::process;

/// A program that we need and the packages that bring it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The program's name.
    pub program: &'static str,
    /// Its package on Debian and Ubuntu.
    pub apt: &'static str,
    /// Its package on Fedora and its relatives.
    pub dnf: &'static str,
    /// Its package on Arch.
    pub pacman: &'static str,
}

/// The machine emulator.
pub const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    apt: "qemu-system-x86",
    dnf: "qemu-system-x86-core",
    pacman: "qemu-system-x86",
};
/// Makes XFS file systems.
pub const MKFS: Tool =
    Tool { program: "mkfs.xfs", apt: "xfsprogs", dnf: "xfsprogs", pacman: "xfsprogs" };
/// Judges XFS file systems.
pub const REPAIR: Tool = Tool { program: "xfs_repair", ..MKFS };
/// Shows and changes structures of XFS file systems.
pub const XFS_DB: Tool = Tool { program: "xfs_db", ..MKFS };
/// Does I/O on file systems.
pub const XFS_IO: Tool = Tool { program: "xfs_io", ..MKFS };
/// Prints the log of XFS file systems.
pub const XFS_LOGPRINT: Tool = Tool { program: "xfs_logprint", ..MKFS };
/// Reads XFS with GRUB's code.
pub const GRUB_FSTEST: Tool =
    Tool { program: "grub-fstest", apt: "grub-common", dnf: "grub2-tools-extra", pacman: "grub" };
/// The programs of the Linux guest.
pub const BUSYBOX: Tool =
    Tool { program: "busybox", apt: "busybox-static", dnf: "busybox", pacman: "busybox" };
/// Prints extended attributes.
pub const GETFATTR: Tool = Tool { program: "getfattr", apt: "attr", dnf: "attr", pacman: "attr" };
/// Sets extended attributes.
pub const SETFATTR: Tool = Tool { program: "setfattr", ..GETFATTR };
/// Changes object files.
pub const OBJCOPY: Tool =
    Tool { program: "objcopy", apt: "binutils", dnf: "binutils", pacman: "binutils" };
/// Unpacks Linux images compressed with LZ4.
pub const LZ4: Tool = Tool { program: "lz4", apt: "lz4", dnf: "lz4", pacman: "lz4" };
/// Unpacks Linux images compressed with XZ.
pub const XZ: Tool = Tool { program: "xz", apt: "xz-utils", dnf: "xz", pacman: "xz" };
/// Unpacks Linux images compressed with Zstandard.
pub const ZSTD: Tool = Tool { program: "zstd", apt: "zstd", dnf: "zstd", pacman: "zstd" };
/// Unpacks Linux images compressed with gzip.
pub const GZIP: Tool = Tool { program: "gzip", apt: "gzip", dnf: "gzip", pacman: "gzip" };

/// How a machine installs packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
    Pacman,
}

impl Manager {
    fn find() -> Option<Self> {
        [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("pacman", Self::Pacman)]
            .into_iter()
            .find_map(|(program, manager)| find(program).map(|_| manager))
    }

    fn package(self, tool: &Tool) -> &'static str {
        match self {
            Self::Apt => tool.apt,
            Self::Dnf => tool.dnf,
            Self::Pacman => tool.pacman,
        }
    }

    fn install(self, package: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Apt => &["apt-get", "install", "-y", "--no-install-recommends", package],
            Self::Dnf => &["dnf", "install", "-y", package],
            Self::Pacman => &["pacman", "-S", "--noconfirm", package],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// Looks a program up in `PATH` and in the system directories that a plain
/// user's `PATH` leaves out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The path of a tool; installs its package when it is missing and we may.
pub fn need(tool: &Tool) -> Result<PathBuf> {
    if let Some(path) = find(tool.program) {
        return Ok(path);
    }
    let Some(manager) = Manager::find() else {
        return Err(missing(tool, &format!("your package manager: package {}", tool.apt)));
    };
    let package = manager.package(tool);
    let install = manager.install(package);
    let Some(elevate) = elevation() else {
        return Err(missing(tool, &format!("sudo {}", install.join(" "))));
    };
    eprintln!("run.sh: {} is missing; installing package {package}", tool.program);
    if manager == Manager::Apt {
        // A fresh machine may have no package lists yet; a stale list still serves.
        let _ = as_root(&elevate, &["apt-get".into(), "update".into(), "-qq".into()]);
    }
    as_root(&elevate, &install)?;
    find(tool.program).ok_or_else(|| missing(tool, &install.join(" ")))
}

/// What precedes a command to run it as root without a question, if anything does.
fn elevation() -> Option<Vec<String>> {
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    let sudo = find("sudo")?;
    let allowed = process::capture(Command::new(&sudo).args(["-n", "true"])).ok()?;
    allowed.status.success().then(|| vec!["sudo".into(), "-n".into()])
}

fn as_root(elevate: &[String], command: &[String]) -> Result<()> {
    let words: Vec<&String> = elevate.iter().chain(command).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
    process::output(&mut command).map(drop)
}

fn missing(tool: &Tool, command: &str) -> anyhow::Error {
    Failure::MissingTool { program: tool.program.into(), command: command.into() }.into()
}

/// The command that would install a Debian package here, for messages.
pub fn install_hint(package: &str) -> String {
    match Manager::find() {
        Some(manager) => format!("sudo {}", manager.install(package).join(" ")),
        None => format!("your package manager: package {package}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_every_machine_has() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }

    #[test]
    fn names_the_package_of_each_manager() {
        assert_eq!(Manager::Apt.package(&GRUB_FSTEST), "grub-common");
        assert_eq!(Manager::Dnf.install("x"), ["dnf", "install", "-y", "x"]);
        assert_eq!(Manager::Pacman.package(&QEMU), "qemu-system-x86");
    }
}
