//! Makes the Linux guest, once: downloads the kernel, packs the initial RAM disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::LinuxGuest;
use super::cpio::Archive;
use super::modules::{self, Modules};
use crate::failure::Failure;
use crate::newer::{self, Suite, Xfsprogs};
use crate::process;
use crate::tools::{self, Tool};
use crate::workspace::Workspace;

/// Changes whenever a prepared guest of before would no longer do.
const REVISION: &str = "2";
/// The package that depends on the newest cloud kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// A kernel package to use instead of downloading one.
const KERNEL_VARIABLE: &str = "HOLDFAST_LINUX_DEB";
/// Where Debian's programs look for the dynamic loader and for libraries.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// Modules that the guest loads.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_blk", "virtio_console", "crc32c-intel", "xfs"];
/// Programs of the guest besides busybox.
const PROGRAMS: [&Tool; 6] = [
    &tools::REPAIR,
    &tools::XFS_DB,
    &tools::XFS_IO,
    &tools::XFS_LOGPRINT,
    &tools::GETFATTR,
    &tools::SETFATTR,
];

/// Where a guest's kernel and programs come from.
#[derive(Clone, Debug)]
enum Origin {
    /// This machine's release.
    Machine,
    /// A newer release, with its xfsprogs.
    Newer(Xfsprogs),
}

/// The prepared guest; prepares it when that has not been done.
pub fn guest(workspace: &Workspace) -> Result<LinuxGuest> {
    let cache = workspace.cache()?.join("linux-guest");
    prepared(&cache, &Origin::Machine).context("the Linux guest")
}

/// The guest with the kernel and the xfsprogs of a newer release.
pub fn newer_guest(workspace: &Workspace) -> Result<LinuxGuest> {
    let programs = Xfsprogs::get(workspace)?;
    let cache = newer::cache(workspace)?.join("linux-guest");
    prepared(&cache, &Origin::Newer(programs)).context("the newer Linux guest")
}

fn prepared(cache: &Path, origin: &Origin) -> Result<LinuxGuest> {
    let qemu = tools::need(&tools::QEMU)?;
    fs::create_dir_all(cache)?;
    let _lock = process::lock(&cache.join("lock"))?;
    let guest = LinuxGuest { qemu, kernel: cache.join("vmlinux"), initrd: cache.join("initrd") };
    let revision = cache.join("revision");
    let known = fs::read_to_string(&revision).unwrap_or_default();
    if known != REVISION || !guest.kernel.is_file() || !guest.initrd.is_file() {
        eprintln!("run.sh: preparing the Linux guest in {}", cache.display());
        prepare(cache, &guest, origin).context("cannot prepare it")?;
        fs::write(&revision, REVISION)?;
    }
    Ok(guest)
}

fn prepare(cache: &Path, guest: &LinuxGuest, origin: &Origin) -> Result<()> {
    let work = tempfile::Builder::new().prefix("work-").tempdir_in(cache)?;
    process::remove_on_signal(work.path());
    let package = match origin {
        Origin::Machine => kernel_package(work.path())?,
        Origin::Newer(_) => newer_kernel_package(work.path())?,
    };
    let root = work.path().join("root");
    process::output(Command::new("dpkg").arg("-x").arg(&package).arg(&root))?;
    let kernel = work.path().join("vmlinux");
    unpack_kernel(&one_below(&root.join("boot"), "vmlinuz-")?, &kernel)?;
    let initrd = work.path().join("initrd");
    fs::write(&initrd, base_archive(&root, work.path(), origin)?)?;
    fs::rename(&kernel, &guest.kernel)?;
    fs::rename(&initrd, &guest.initrd)?;
    Ok(())
}

/// The kernel's package of the newer release, downloaded.
fn newer_kernel_package(into: &Path) -> Result<PathBuf> {
    let suite = Suite::open(&into.join("apt"))?;
    suite.download(&suite.dependency(KERNEL_PACKAGE, "linux-image-")?, into)?;
    one_below(into, "linux-image-")
}

/// The kernel's package: named by the user, or downloaded.
fn kernel_package(into: &Path) -> Result<PathBuf> {
    if let Some(package) = std::env::var_os(KERNEL_VARIABLE) {
        return Ok(package.into());
    }
    let apt = |program| Tool { program, apt: "apt", dnf: "apt", pacman: "apt" };
    let cache = tools::need(&apt("apt-cache"))?;
    let get = tools::need(&apt("apt-get"))?;
    let package = match newest_kernel(&cache) {
        Some(package) => package,
        None => {
            // A fresh machine has no package lists.
            process::output(Command::new(&get).args(["update", "-qq"]))?;
            newest_kernel(&cache)
                .with_context(|| format!("no package {KERNEL_PACKAGE} in the package lists"))?
        }
    };
    let mut download = Command::new(&get);
    download.args(["download", "-qq", &package]).current_dir(into);
    process::output(&mut download)?;
    one_below(into, "linux-image-")
}

fn newest_kernel(apt_cache: &Path) -> Option<String> {
    let listed = process::output(Command::new(apt_cache).args(["depends", KERNEL_PACKAGE])).ok()?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
}

/// The one file in a directory whose name starts so.
fn one_below(directory: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("nothing named {prefix}… in {}", directory.display())
}

/// Takes the ELF image out of a bzImage: unpacking itself would cost the
/// guest seconds at every boot.
fn unpack_kernel(compressed: &Path, to: &Path) -> Result<()> {
    const FORMATS: [(&[u8], &Tool); 4] = [
        (b"\x02\x21\x4c\x18", &tools::LZ4),
        (b"\xfd7zXZ\0", &tools::XZ),
        (b"\x28\xb5\x2f\xfd", &tools::ZSTD),
        (b"\x1f\x8b\x08", &tools::GZIP),
    ];
    let image = fs::read(compressed)?;
    let payload = to.with_extension("payload");
    for (magic, tool) in FORMATS {
        let Some(at) = image.windows(magic.len()).position(|bytes| bytes == magic) else {
            continue;
        };
        fs::write(&payload, &image[at..])?;
        let mut command = Command::new(tools::need(tool)?);
        // What follows the payload makes the programs fail after it: judge by the result.
        let unpacked = process::capture(command.arg("-dcq").arg(&payload))?.stdout;
        if unpacked.starts_with(b"\x7fELF") {
            return fs::write(to, unpacked).context("cannot write the Linux kernel");
        }
    }
    bail!("no known compression in {}", compressed.display())
}

/// The archive with everything but a job.
fn base_archive(root: &Path, work: &Path, origin: &Origin) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["dev", "proc", "sys", "tmp", "mnt", "etc"] {
        archive.directory(directory);
    }
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644);
    archive.file("etc/group", b"root:x:0:\n", 0o644);
    archive.file("init", include_bytes!("init.sh"), 0o755);
    add_modules(&mut archive, root, work)?;
    let busybox = fs::read(tools::need(&tools::BUSYBOX)?)?;
    archive.file("bin/busybox", &busybox, 0o755);
    match origin {
        Origin::Machine => add_programs(&mut archive)?,
        Origin::Newer(programs) => add_newer_programs(&mut archive, programs)?,
    }
    Ok(archive.finish())
}

fn add_modules(archive: &mut Archive, root: &Path, work: &Path) -> Result<()> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place));
    let place = places.iter().find(|place| place.is_dir()).context("a kernel without modules")?;
    let modules = Modules::below(place)?.closure(&MODULES)?;
    ensure!(modules.iter().any(|(name, _)| name == "xfs"), "the Linux package has no xfs module");
    let objcopy = tools::need(&tools::OBJCOPY)?;
    let mut list = String::new();
    for (name, path) in modules {
        let (whole, slim) = (work.join(format!("{name}.whole")), work.join(&name));
        fs::write(&whole, modules::contents(&path)?)?;
        // Without its trace events a module loads in half the time.
        let mut command = Command::new(&objcopy);
        command.args(["--strip-debug", "-R", ".BTF"]);
        command.args(["--rename-section", "_ftrace_events=.data.unused_events"]);
        command.args(["--rename-section", "_ftrace_eval_map=.data.unused_maps"]);
        process::output(command.arg(&whole).arg(&slim))?;
        archive.file(&format!("modules/{name}.ko"), &fs::read(&slim)?, 0o644);
        list.push_str(&format!("{name}.ko\n"));
    }
    archive.file("modules/order", list.as_bytes(), 0o644);
    Ok(())
}

/// Adds the programs of this machine and their shared libraries.
fn add_programs(archive: &mut Archive) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for tool in PROGRAMS {
        libraries.extend(add_program(archive, tool)?);
    }
    for library in libraries {
        archive.file(library.trim_start_matches('/'), &fs::read(&library)?, 0o755);
    }
    Ok(())
}

/// Adds the programs of the newer release and their shared libraries.
fn add_newer_programs(archive: &mut Archive, programs: &Xfsprogs) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for tool in PROGRAMS {
        let program = programs.real(tool.program)?;
        archive.file(&format!("bin/{}", tool.program), &fs::read(program)?, 0o755);
        libraries.extend(programs.libraries_of(tool.program)?);
    }
    archive.file(LOADER, &fs::read(programs.loader())?, 0o755);
    for library in libraries {
        let name = library.file_name().context("a library without a name")?.to_string_lossy();
        archive.file(&format!("{LIBRARIES}/{name}"), &fs::read(&library)?, 0o755);
    }
    Ok(())
}

/// Adds a program of this machine; returns the shared libraries it needs.
fn add_program(archive: &mut Archive, tool: &Tool) -> Result<Vec<String>> {
    let path = tools::need(tool)?;
    archive.file(&format!("bin/{}", tool.program), &fs::read(&path)?, 0o755);
    let listed = process::capture(Command::new("ldd").arg(&path))?;
    Ok(libraries(&String::from_utf8_lossy(&listed.stdout)))
}

/// The absolute paths in what `ldd` prints.
fn libraries(listing: &str) -> Vec<String> {
    let words = listing.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(str::to_owned).collect()
}

/// The error of a machine on which the guest cannot be had, for the report.
pub fn unavailable(error: &anyhow::Error) -> String {
    let missing = error.downcast_ref::<Failure>().is_some();
    let hint = if missing { "" } else { " (is this a Debian machine with network?)" };
    format!("{error:#}{hint}; leave it out with: ./run.sh test --without linux-guest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_absolute_paths() {
        let listing = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(libraries(listing), ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
