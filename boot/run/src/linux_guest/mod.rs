//! A real Linux with XFS in a virtual machine: the external judge.
//!
//! [`prepare`] downloads the distribution's cloud kernel once, takes out what
//! is needed and packs an initial RAM disk with busybox and xfsprogs; both
//! live in the user's cache directory; a second guest is made of a newer release
//! ([`crate::newer`]). A [`Job`] then boots it with disks and
//! a shell script and returns what the script printed.
//!
//! ```text
//! prepare::guest() -> LinuxGuest -> job(script) -> Job::run() -> Done
//! ```
//!
//! The script's output travels over a virtio console (binary safe), the
//! kernel's messages and the script's status over the serial port.

mod cpio;
mod modules;
mod monitor;
pub mod prepare;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::{LinuxOptions, Options};
use crate::disk::{Cache, Disk, escaped_path};
use crate::failure::{Failure, STATUS_TIME_OUT};
use crate::process::{self, Running};
use crate::workspace::Workspace;

/// What the guest's init writes to the serial port before the script's status.
const STATUS_MARK: &str = "holdfast-linux-guest: status ";
/// Memory of the guest unless a job says otherwise.
const MEMORY_BYTES: u64 = 512 << 20;
/// How long a job may take unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(600);

/// A prepared guest.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    qemu: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// One boot of the guest with a script.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    guest: &'a LinuxGuest,
    script: Vec<u8>,
    disks: Vec<(Disk, bool)>,
    files: Vec<(String, Vec<u8>, u32)>,
    memory_bytes: u64,
    limit: Duration,
    extra: Vec<String>,
}

/// What a job left.
#[derive(Clone, Debug)]
pub struct Done {
    /// The script's exit status.
    pub status: u8,
    /// What the script printed, both streams.
    pub output: Vec<u8>,
    /// What the kernel said.
    pub console: String,
}

impl Done {
    /// The output as text, when the script succeeded.
    pub fn success(self) -> Result<String> {
        let text = String::from_utf8_lossy(&self.output).into_owned();
        if self.status == 0 {
            return Ok(text);
        }
        bail!(
            "the script in the Linux guest ended with status {}:\n{}\n{}",
            self.status,
            process::last(&text, 20),
            self.complaints()
        )
    }

    /// The lines in which the kernel complains about XFS, I/O or itself.
    pub fn complaints(&self) -> String {
        const SIGNS: [&str; 9] = [
            "BUG:",
            "Oops",
            "WARNING:",
            "Call Trace",
            "orruption",
            "I/O error",
            "Shutting down",
            "Metadata",
            "blocked for more",
        ];
        let is_sign = |line: &&str| SIGNS.iter().any(|sign| line.contains(sign));
        self.console.lines().filter(is_sign).collect::<Vec<_>>().join("\n")
    }
}

impl LinuxGuest {
    /// A job that runs a shell script; disks are `/dev/vda` and so on.
    pub fn job(&self, script: impl Into<Vec<u8>>) -> Job<'_> {
        Job {
            guest: self,
            script: script.into(),
            disks: Vec::new(),
            files: Vec::new(),
            memory_bytes: MEMORY_BYTES,
            limit: LIMIT,
            extra: Vec::new(),
        }
    }
}

impl Job<'_> {
    /// Sets the script.
    #[must_use]
    pub fn script(mut self, script: impl Into<Vec<u8>>) -> Self {
        self.script = script.into();
        self
    }

    /// Adds a writable disk.
    #[must_use]
    pub fn disk(mut self, path: &Path) -> Self {
        self.disks.push((Disk::File(path.into()), false));
        self
    }

    /// Adds a disk that the guest cannot write.
    #[must_use]
    pub fn readonly_disk(mut self, path: &Path) -> Self {
        self.disks.push((Disk::File(path.into()), true));
        self
    }

    /// Adds a disk that is a block node, which these arguments of QEMU define.
    #[must_use]
    pub fn node(mut self, name: &str, arguments: &str) -> Self {
        self.disks.push((Disk::Node(name.into()), false));
        self.extra.extend(arguments.split_whitespace().map(str::to_owned));
        self
    }

    /// Puts an executable file into the guest, at a path without leading slash.
    #[must_use]
    pub fn file(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into(), 0o755));
        self
    }

    /// Sets the guest's memory.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Sets how long the job may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots, runs the script, waits for the end.
    pub fn run(self, workspace: &Workspace) -> Result<Done> {
        let scratch = workspace.scratch()?;
        let initrd = scratch.path().join("initrd");
        let console = scratch.path().join("console");
        let output = scratch.path().join("output");
        fs::write(&initrd, self.initrd()?).context("cannot write the initial RAM disk")?;
        // The path of a socket may have no more than 107 bytes.
        let place = tempfile::tempdir().context("no directory for QEMU's monitor")?;
        process::remove_on_signal(place.path());
        let socket = place.path().join("monitor");
        let mut command = self.command(&initrd, &console, &output);
        command.args(monitor::arguments(&socket));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut qemu = Running::start(&mut command)?;
        let noise = qemu.child().stderr.take().context("QEMU has no standard error")?;
        let (ended, state, noise) = std::thread::scope(|scope| {
            let noise = scope.spawn(|| read_all(noise));
            let ended = qemu.wait(Some(self.limit));
            let mut state = String::new();
            if !matches!(ended, Ok(Some(_))) {
                state = monitor::state(&socket);
                qemu.kill();
            }
            (ended, state, noise.join().unwrap_or_default())
        });
        let output = fs::read(&output).unwrap_or_default();
        let console = fs::read(&console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        let status = console.lines().rev().find_map(|line| line.strip_prefix(STATUS_MARK));
        let Some(status) = status.and_then(|text| text.trim().parse().ok()) else {
            let how = match ended? {
                Some(status) => process::describe(status),
                None => format!("time-out after {} s", self.limit.as_secs()),
            };
            let log = format!(
                "{}\n{state}\n{}\n{}",
                String::from_utf8_lossy(&noise),
                process::last(&console, 30),
                process::last(&String::from_utf8_lossy(&output), 10)
            );
            let how = format!("with the Linux guest ended without a status: {how}");
            return Err(Failure::Qemu { how, log }.into());
        };
        Ok(Done { status, output, console })
    }

    /// The prepared archive and, behind it, one with this job's files.
    fn initrd(&self) -> Result<Vec<u8>> {
        let mut job = cpio::Archive::new();
        job.file("job", &self.script, 0o755);
        for (path, contents, mode) in &self.files {
            job.file(path, contents, *mode);
        }
        let mut bytes = fs::read(&self.guest.initrd).context("the prepared guest is gone")?;
        bytes.extend(job.finish());
        Ok(bytes)
    }

    fn command(&self, initrd: &Path, console: &Path, output: &Path) -> Command {
        let mut command = Command::new(&self.guest.qemu);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // Without cmpxchg16b: QEMU 7.2 computes its flags from what its translator left in
        // a register, and an interrupt right behind it saves them. Linux 6.12 was seen to
        // return to such flags (VM and NT set) in kmalloc, which is the end of it.
        command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "2"]);
        command.args(["-m", &format!("{}k", self.memory_bytes / 1024)]);
        // Files, because a console drops what a pipe cannot take at once.
        let chardev = |id: &str, file: &Path| format!("file,id={id},path={}", escaped_path(file));
        command.args(["-chardev", &chardev("log", console), "-serial", "chardev:log"]);
        command.args(["-chardev", &chardev("out", output)]);
        command.args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out"]);
        command.arg("-kernel").arg(&self.guest.kernel).arg("-initrd").arg(initrd);
        command.args([
            "-append",
            "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check tsc=reliable \
             random.trust_cpu=on",
        ]);
        for (index, (disk, readonly)) in self.disks.iter().enumerate() {
            let id = format!("disk{index}");
            if let Some(drive) = disk.drive(&id, Cache::Writeback, *readonly) {
                command.args(["-drive", &drive]);
            }
            command.args(["-device", &format!("virtio-blk-pci,drive={}", disk.node(&id))]);
        }
        command.args(&self.extra);
        command
    }
}

fn read_all(mut from: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// `run.sh linux-guest --disk IMG -- SHELL COMMANDS`: for a developer who
/// wants Linux's word on an image.
pub fn command(
    workspace: &Workspace,
    options: &Options,
    linux: &LinuxOptions,
    words: &[Vec<u8>],
) -> Result<u8> {
    use std::io::Write;
    let guest =
        if linux.newer { prepare::newer_guest(workspace)? } else { prepare::guest(workspace)? };
    let mut job = guest.job(words.join(&b' '));
    job.disks = options.disk.iter().map(|disk| (disk.clone(), options.readonly)).collect();
    job.memory_bytes = options.mem.unwrap_or(MEMORY_BYTES);
    job.limit = options.timeout.unwrap_or(LIMIT);
    job.extra = options.qemu_words();
    for file in &linux.files {
        let (host, inside) = file.split_once(':').context("--file takes HOST:GUEST")?;
        let contents = fs::read(host).with_context(|| format!("cannot read {host}"))?;
        job = job.file(inside.trim_start_matches('/'), contents);
    }
    if options.print_qemu {
        println!(
            "{:?}",
            job.command(&guest.initrd, Path::new("/dev/stderr"), Path::new("/dev/stdout"))
        );
        return Ok(0);
    }
    let limit = job.limit;
    let started = std::time::Instant::now();
    match job.run(workspace) {
        Ok(done) => {
            std::io::stdout().write_all(&done.output)?;
            eprint!("{}", done.complaints());
            Ok(done.status)
        }
        Err(error) if started.elapsed() >= limit => {
            eprintln!("run.sh: {error:#}");
            Ok(STATUS_TIME_OUT)
        }
        Err(error) => Err(error),
    }
}
