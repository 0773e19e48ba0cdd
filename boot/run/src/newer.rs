//! Programs of a Debian release newer than the machine's: xfsprogs that know features
//! the machine's own do not, and the kernel of a second Linux guest.
//!
//! ```text
//! Suite::open() ─ lists of one suite, signed ─> download ─> packages ─> Xfsprogs::get()
//!                                                                   └─> linux_guest::prepare
//! ```
//!
//! apt works in a directory of its own in the user's cache: it reads one suite of Debian
//! from the mirror that the machine uses anyway, trusts Debian's own keyring and nothing
//! else, and verifies what it downloads as always. Nothing is installed. Packages are
//! unpacked beside it, and their programs run through the dynamic loader that came with
//! them, so that neither side sees the other's libraries.
//!
//! Owns: that directory, under a lock of its own while it is filled. Does not own: what
//! the programs are used for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;
use crate::tools::{self, Tool};
use crate::workspace::Workspace;

/// The suite: the stable release whose xfsprogs (6.13) and Linux (6.12) know parent
/// pointers and exchange-range.
const SUITE: &str = "trixie";
/// Names the directory with the programs, for tests in other processes.
pub const VARIABLE: &str = "HOLDFAST_NEWER_XFSPROGS";
/// A mirror of Debian to use instead of the machine's.
const MIRROR_VARIABLE: &str = "HOLDFAST_DEBIAN_MIRROR";
/// Whom the private apt believes; part of Debian's base system.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Changes whenever what was unpacked before would no longer do.
const REVISION: &str = "1";
/// What is unpacked.
const PACKAGES: [&str; 2] = ["xfsprogs", "attr"];
/// Programs that one calls by their path.
const PROGRAMS: [&str; 5] = ["mkfs.xfs", "xfs_repair", "xfs_db", "xfs_io", "xfs_logprint"];
/// Packages that those above want for scripts that nobody here runs.
const NOT_NEEDED: [&str; 4] = ["python3", "python3-dbus", "debconf", "dpkg"];

/// A suite of Debian, for an apt that works in a directory of its own.
#[derive(Debug)]
pub struct Suite {
    directory: PathBuf,
    config: PathBuf,
    get: PathBuf,
    cache: PathBuf,
}

impl Suite {
    /// Reads the suite's signed lists into `directory`.
    pub fn open(directory: &Path) -> Result<Self> {
        let apt = |program| Tool { program, apt: "apt", dnf: "apt", pacman: "apt" };
        let (get, cache) = (tools::need(&apt("apt-get"))?, tools::need(&apt("apt-cache"))?);
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing; install it with:  {}",
            tools::install_hint("debian-archive-keyring")
        );
        let suite = Self {
            directory: directory.to_path_buf(),
            config: directory.join("apt.conf"),
            get,
            cache,
        };
        for part in ["state/lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("suite.sources"), sources(&mirror(&suite.get)?))?;
        fs::write(directory.join("status"), status())?;
        fs::write(&suite.config, config(directory))?;
        process::output(suite.apt(&suite.get).args(["update", "-qq"]))
            .with_context(|| format!("cannot read the package lists of {SUITE}"))?;
        Ok(suite)
    }

    fn apt(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("DEBIAN_FRONTEND", "noninteractive");
        command.env("LC_ALL", "C");
        command
    }

    /// Downloads packages and all that they depend on; the files.
    pub fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = self.apt(&self.get);
        command.args(["install", "-qq", "-y", "--download-only", "--no-install-recommends"]);
        process::output(command.args(packages))?;
        let mut files = Vec::new();
        for entry in fs::read_dir(self.directory.join("cache/archives"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Downloads one package, without what it depends on.
    pub fn download(&self, package: &str, into: &Path) -> Result<()> {
        let mut command = self.apt(&self.get);
        command.args(["download", "-qq", package]).current_dir(into);
        process::output(&mut command).map(drop)
    }

    /// The package that another one depends on whose name starts so.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let listed = process::output(self.apt(&self.cache).args(["depends", package]))?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let mut names = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.find(|name| name.starts_with(prefix)).map(str::to_owned);
        name.with_context(|| format!("{package} of {SUITE} depends on no {prefix}…"))
    }
}

/// Where the machine gets its Debian packages from, or where the user says.
fn mirror(apt_get: &Path) -> Result<String> {
    if let Some(mirror) = std::env::var_os(MIRROR_VARIABLE) {
        return mirror.into_string().ok().with_context(|| format!("{MIRROR_VARIABLE} is no text"));
    }
    let mut command = Command::new(apt_get);
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let listed = String::from_utf8_lossy(&process::output(&mut command)?).into_owned();
    debian_mirror(&listed).with_context(|| {
        format!("this machine's apt knows no mirror of Debian; {MIRROR_VARIABLE} can name one")
    })
}

/// The first of these addresses that is a Debian archive by its name.
fn debian_mirror(addresses: &str) -> Option<String> {
    let trimmed = addresses.lines().map(|line| line.trim().trim_end_matches('/'));
    trimmed.filter(|address| address.ends_with("/debian")).map(str::to_owned).next()
}

fn sources(mirror: &str) -> String {
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\n\
         Architectures: amd64\nSigned-By: {KEYRING}\n"
    )
}

/// What apt takes for installed.
fn status() -> String {
    let package = |name: &&str| {
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n\
             Multi-Arch: allowed\nMaintainer: nobody\nVersion: 1:99\nDescription: not needed\n\n"
        )
    };
    NOT_NEEDED.iter().map(package).collect()
}

/// The settings that keep apt inside of its directory.
fn config(directory: &Path) -> String {
    let at = |part: &str| directory.join(part).display().to_string();
    let places = [
        ("Dir::State", at("state")),
        ("Dir::State::status", at("status")),
        ("Dir::Cache", at("cache")),
        ("Dir::Etc::SourceList", at("suite.sources")),
        ("Dir::Etc::SourceParts", at("parts")),
        ("Dir::Etc::Trusted", at("no-keys")),
        ("Dir::Etc::TrustedParts", at("parts")),
        ("Dir::Etc::Preferences", at("no-preferences")),
        ("Dir::Etc::PreferencesParts", at("parts")),
        ("APT::Architecture", "amd64".into()),
        ("APT::Sandbox::User", String::new()),
        ("Acquire::Languages", "none".into()),
        ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
        // The lock of the directory above is ours; apt's want root.
        ("Debug::NoLocking", "true".into()),
    ];
    let mut text = String::from("APT::Architectures { \"amd64\"; };\n");
    for (name, value) in places {
        text.push_str(&format!("{name} \"{value}\";\n"));
    }
    text
}

/// The newer xfsprogs, unpacked.
#[derive(Clone, Debug)]
pub struct Xfsprogs {
    root: PathBuf,
    programs: PathBuf,
}

impl Xfsprogs {
    /// Those of the cache; downloads them when they are not there.
    pub fn get(workspace: &Workspace) -> Result<Self> {
        let cache = cache(workspace)?;
        let _lock = process::lock(&cache.join("lock"))?;
        let found = Self { root: cache.join("root"), programs: cache.join("bin") };
        let revision = cache.join("revision");
        if fs::read_to_string(&revision).unwrap_or_default() != REVISION {
            eprintln!("run.sh: fetching xfsprogs of {SUITE} into {}", cache.display());
            found.unpack(&cache).context("cannot have a newer xfsprogs")?;
            fs::write(&revision, REVISION)?;
        }
        Ok(found)
    }

    fn unpack(&self, cache: &Path) -> Result<()> {
        for directory in [&self.root, &self.programs] {
            let _ = fs::remove_dir_all(directory);
            fs::create_dir_all(directory)?;
        }
        let suite = Suite::open(&cache.join("apt"))?;
        for package in suite.download_with_dependencies(&PACKAGES)? {
            process::output(Command::new("dpkg").arg("-x").arg(&package).arg(&self.root))?;
        }
        for program in PROGRAMS {
            self.make_program(program)?;
        }
        let version = process::output(Command::new(self.program("xfs_repair")).arg("-V"))?;
        eprintln!("run.sh: {}", String::from_utf8_lossy(&version).trim());
        // The packages themselves and the lists have served.
        let _ = fs::remove_dir_all(cache.join("apt"));
        Ok(())
    }

    /// A script that starts a program with its own loader and libraries.
    fn make_program(&self, name: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let real = self.real(name)?;
        let words = [
            "exec".to_owned(),
            quoted(&self.loader())?,
            "--library-path".into(),
            quoted(&self.libraries())?,
            quoted(&real)?,
        ];
        let path = self.program(name);
        fs::write(&path, format!("#!/bin/sh\n{} \"$@\"\n", words.join(" ")))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// The directory with the programs.
    pub fn directory(&self) -> &Path {
        &self.programs
    }

    /// How to start one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The file of a program itself.
    pub fn real(&self, name: &str) -> Result<PathBuf> {
        let places = ["usr/sbin", "usr/bin", "sbin", "bin"];
        let mut paths = places.iter().map(|place| self.root.join(place).join(name));
        paths.find(|path| path.is_file()).with_context(|| format!("no {name} in the packages"))
    }

    /// The dynamic loader that came along.
    pub fn loader(&self) -> PathBuf {
        self.root.join("usr/lib64/ld-linux-x86-64.so.2")
    }

    fn libraries(&self) -> PathBuf {
        self.root.join("usr/lib/x86_64-linux-gnu")
    }

    /// The shared libraries of a program.
    pub fn libraries_of(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut command = Command::new(self.loader());
        command.arg("--library-path").arg(self.libraries()).arg("--list").arg(self.real(name)?);
        let listed = String::from_utf8_lossy(&process::output(&mut command)?).into_owned();
        let words = listed.split_whitespace().map(PathBuf::from);
        Ok(words.filter(|word| word.starts_with(self.libraries())).collect())
    }
}

/// The place in the user's cache.
pub fn cache(workspace: &Workspace) -> Result<PathBuf> {
    let cache = workspace.cache()?.join(format!("debian-{SUITE}"));
    fs::create_dir_all(&cache)?;
    Ok(cache)
}

fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path that is no text")?;
    Ok(shlex::try_quote(text).context("a path that no shell takes")?.into_owned())
}

/// The error of a machine on which they cannot be had, for the report.
pub fn unavailable(error: &anyhow::Error) -> String {
    format!(
        "{error:#} (it takes apt, Debian's keyring and network); \
         leave it out with: ./run.sh test --without newer-xfsprogs"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_an_archive_of_debian_itself() {
        let listed = "http://a.example/debian-security/\nhttp://b.example/debian/\n";
        assert_eq!(debian_mirror(listed).as_deref(), Some("http://b.example/debian"));
        assert_eq!(debian_mirror("http://a.example/ubuntu/\n"), None);
    }

    #[test]
    fn apt_is_told_to_trust_the_keyring_alone() {
        let sources = sources("http://b.example/debian");
        assert!(sources.contains(&format!("Signed-By: {KEYRING}\n")) && sources.contains(SUITE));
        let config = config(Path::new("/c"));
        assert!(config.contains("Dir::Etc::SourceParts \"/c/parts\";"));
        assert!(!config.contains("Unauthenticated"));
    }
}
