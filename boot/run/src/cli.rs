//! The command line of `run.sh`. It is a contract: scripts depend on it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::disk::{Cache, Disk};

/// Boots Holdfast in QEMU, mounts an XFS disk at / and works on it.
///
/// Without a command it makes a disk, does the main job on it and has the
/// result judged by programs that are not ours.
#[derive(Debug, Parser)]
#[command(
    name = "run.sh",
    version,
    override_usage = "run.sh [OPTIONS]                       the main job\n       \
        run.sh [OPTIONS] -- COMMAND [ARGS…]    run COMMAND in the guest\n       \
        run.sh [OPTIONS] --script FILE         run a script in the guest\n       \
        run.sh [OPTIONS] shell                 an interactive prompt\n       \
        run.sh race NAME [--off GUARD]         one race, step by step\n       \
        run.sh test [FILTER]                   all tests",
    after_help = "Exit status: the command's own (0-123); 32 the disk cannot be mounted; 124 time-out; \
        125 run.sh or QEMU could not do it; 126 kernel panic or watchdog; 127 no such command."
)]
pub struct Cli {
    /// Everything that is not a subcommand.
    #[command(flatten)]
    pub options: Options,
    /// What to do instead of the main job.
    #[command(subcommand)]
    pub job: Option<Job>,
    /// The words after `--`.
    #[arg(skip)]
    pub command: Option<Vec<OsString>>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// An interactive prompt in the guest, with history and line editing.
    Shell,
    /// One race on one file, step by step, in a build whose guards can be switched off:
    /// 0 the data is right, 3 it is not, 4 the race was not reached.
    Race(RaceOptions),
    /// Run the tests; only those whose name contains FILTER when it is given.
    Test(TestOptions),
    /// Run shell commands (after --) in a Linux guest on the given disks.
    #[command(hide = true)]
    LinuxGuest(LinuxOptions),
    /// Run one test of the test driver in this process.
    #[command(hide = true)]
    RunCase {
        /// The test's full name.
        name: String,
    },
}

/// Options of `race`.
#[derive(Args, Clone, Debug)]
pub struct RaceOptions {
    /// Which one: V2, V3 or A.
    pub name: String,
    /// Switch this guard off.
    #[arg(long, value_name = "GUARD")]
    pub off: Option<String>,
}

impl RaceOptions {
    /// The words of the command in the guest.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let mut words = vec![b"race".to_vec(), self.name.clone().into_bytes()];
        words.extend(self.off.iter().map(|guard| format!("--off={guard}").into_bytes()));
        words
    }
}

/// Options of `test`.
#[derive(Args, Clone, Debug, Default)]
pub struct TestOptions {
    /// Part of the names of the tests to run.
    pub filter: Option<String>,
    /// A judge to do without, instead of failing where it cannot be had.
    #[arg(long, value_name = "JUDGE")]
    pub without: Vec<Judge>,
    /// Print the names of the tests of this driver and stop.
    #[arg(long)]
    pub list: bool,
}

/// An external judge that a machine may be unable to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Judge {
    /// A real Linux kernel in a virtual machine.
    LinuxGuest,
    /// The xfsprogs, and for the Linux guest the kernel, of a newer release.
    NewerXfsprogs,
}

/// Options of `linux-guest`.
#[derive(Args, Clone, Debug)]
pub struct LinuxOptions {
    /// A host file to put into the guest, as HOST:GUEST.
    #[arg(long = "file", value_name = "HOST:GUEST")]
    pub files: Vec<String>,
    /// Take the kernel and the xfsprogs of a newer release.
    #[arg(long)]
    pub newer: bool,
}

/// Options shared by every way of booting.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A disk: a file, a QEMU block device URL, or node:NAME. The first is
    /// mounted at /. Default: target/holdfast.img, made on first use.
    #[arg(long, value_name = "IMG", global = true)]
    pub disk: Vec<Disk>,
    /// Mount read-only and give QEMU the disks read-only.
    #[arg(long, global = true)]
    pub readonly: bool,
    /// Memory of the guest.
    #[arg(long, value_name = "SIZE", global = true, value_parser = size)]
    pub mem: Option<u64>,
    /// Limit of the page cache below what memory allows.
    #[arg(long, value_name = "SIZE", global = true, value_parser = size)]
    pub page_cache: Option<u64>,
    /// Processors of the guest.
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: Option<u32>,
    /// What executes the guest. `auto` takes KVM only once it has proved to work.
    #[arg(long, value_name = "ACCEL", global = true, default_value = "auto")]
    pub accel: AccelChoice,
    /// The machine to emulate.
    #[arg(long, value_name = "TYPE", global = true, default_value = "q35")]
    pub machine: MachineType,
    /// How the host caches the disks.
    #[arg(long, value_name = "MODE", global = true, default_value = "none")]
    pub cache: Cache,
    /// Seconds until the guest is ended with status 124.
    #[arg(long, value_name = "S", global = true, value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// A word for the guest's kernel command line.
    #[arg(long, value_name = "K=V", global = true)]
    pub kernel_arg: Vec<String>,
    /// Log level, alone or per module: warn,xfs=debug.
    #[arg(long, value_name = "LEVEL", global = true, value_parser = log_levels)]
    pub log: Option<String>,
    /// More arguments for QEMU, split as a shell does.
    #[arg(long, value_name = "ARGS", global = true, allow_hyphen_values = true, value_parser = words)]
    pub qemu: Vec<Words>,
    /// Wait for a debugger, and print the line that attaches one.
    #[arg(long, global = true)]
    pub gdb: bool,
    /// Print QEMU's command line and stop.
    #[arg(long, global = true)]
    pub print_qemu: bool,
    /// Run the commands of FILE (- is standard input).
    #[arg(long, value_name = "FILE", global = true)]
    pub script: Option<PathBuf>,
    /// Write the main job's results to FILE as JSON.
    #[arg(long, value_name = "FILE", global = true)]
    pub json: Option<PathBuf>,
    /// Geometry of the main job's disk: arguments of mkfs.xfs.
    #[arg(long, value_name = "ARGS", hide = true, allow_hyphen_values = true, default_value = "")]
    pub mkfs: String,
    /// Bytes of files on the main job's disk.
    #[arg(long, value_name = "SIZE", hide = true, value_parser = size, default_value = "256M")]
    pub data: u64,
    /// Boot this image instead of building it.
    #[arg(long, value_name = "FILE", global = true, hide = true)]
    pub kernel: Option<PathBuf>,
    /// The firmware of q35.
    #[arg(long, value_name = "NAME", global = true, hide = true, default_value = "auto")]
    pub firmware: Firmware,
}

/// The choice of `--accel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM where it works, else TCG.
    Auto,
    /// QEMU's translator.
    Tcg,
    /// The host's virtualisation.
    Kvm,
}

/// The choice of `--machine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MachineType {
    /// A PC with PCI Express.
    Q35,
    /// A machine without PCI; devices lie behind virtio-mmio.
    Microvm,
}

/// What runs before the guest on q35.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// qboot where QEMU brings it, else SeaBIOS.
    Auto,
    /// The minimal firmware.
    Qboot,
    /// QEMU's default firmware.
    Seabios,
}

/// The words of one `--qemu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl Cli {
    /// Reads the program's arguments; prints help or a usage error itself.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        // Everything after the first `--` is the guest's, whatever it looks like.
        let command = args
            .iter()
            .position(|word| word == OsStr::new("--"))
            .map(|at| args.drain(at..).skip(1).collect::<Vec<_>>());
        let mut cli = Self::try_parse_from(args)?;
        cli.command = command;
        cli.check()?;
        Ok(cli)
    }

    fn check(&self) -> Result<(), clap::Error> {
        use clap::CommandFactory;
        let error =
            |text: &str| Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, text));
        let wants_command = matches!(self.job, Some(Job::LinuxGuest(_)));
        match &self.command {
            Some(command) if command.is_empty() => return error("-- needs a command after it"),
            Some(_) if self.job.is_some() && !wants_command => {
                return error("a subcommand and -- COMMAND exclude each other");
            }
            Some(_) if self.options.script.is_some() => {
                return error("--script and -- COMMAND exclude each other");
            }
            None if wants_command => return error("linux-guest needs -- and shell commands"),
            _ => {}
        }
        if self.options.script.is_some() && self.job.is_some() {
            return error("--script and a subcommand exclude each other");
        }
        let is_word = |word: &String| !word.contains(|c: char| c.is_whitespace() || c.is_control());
        if !self.options.kernel_arg.iter().all(is_word) {
            return error("--kernel-arg takes one word without blanks");
        }
        Ok(())
    }

    /// The guest's command as bytes, one string a word.
    pub fn command_words(&self) -> Option<Vec<Vec<u8>>> {
        let words = self.command.as_ref()?;
        Some(words.iter().map(|word| word.as_bytes().to_vec()).collect())
    }
}

impl Options {
    /// All the words for QEMU.
    pub fn qemu_words(&self) -> Vec<String> {
        self.qemu.iter().flat_map(|words| words.0.iter().cloned()).collect()
    }
}

/// A number of bytes with an optional K, M or G.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix(['B', 'b']).unwrap_or(text);
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "a number with K, M or G is expected")?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("it cannot be zero".into()),
        Some(bytes) => Ok(bytes),
        None => Err("too large".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "a number of seconds is expected")?;
    if number > 0.0 {
        Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
    } else {
        Err("it must be greater than zero".into())
    }
}

fn words(text: &str) -> Result<Words, String> {
    shlex::split(text).map(Words).ok_or_else(|| "unbalanced quotes".into())
}

fn log_levels(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let (module, level) = part.split_once('=').unwrap_or(("all", part));
        if module.is_empty() || !LEVELS.contains(&level) {
            return Err(format!(
                "`{part}` is no LEVEL or MODULE=LEVEL; levels: {}",
                LEVELS.join(" ")
            ));
        }
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::from_args(std::iter::once("run.sh").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn words_after_the_dashes_are_the_guests() {
        let cli = parse(&["--mem", "64M", "--", "ls", "--disk", "--", "-l"]).unwrap();
        assert_eq!(cli.options.mem, Some(64 << 20));
        assert_eq!(
            cli.command_words().unwrap(),
            [&b"ls"[..], b"--disk", b"--", b"-l"].map(<[u8]>::to_vec)
        );
    }

    #[test]
    fn options_may_follow_a_subcommand() {
        let cli = parse(&["shell", "--smp", "4", "--machine", "microvm"]).unwrap();
        assert!(matches!(cli.job, Some(Job::Shell)));
        assert_eq!((cli.options.smp, cli.options.machine), (Some(4), MachineType::Microvm));
    }

    #[test]
    fn test_takes_a_filter_and_judges_to_do_without() {
        let cli = parse(&["test", "dir", "--without", "linux-guest"]).unwrap();
        let Some(Job::Test(options)) = cli.job else { panic!("not a test job") };
        assert_eq!(options.filter.as_deref(), Some("dir"));
        assert_eq!(options.without, [Judge::LinuxGuest]);
    }

    #[test]
    fn arguments_for_qemu_are_split_as_a_shell_does() {
        let cli = parse(&["--qemu", "-cpu 'max,-erms' -m 1G", "--qemu=-snapshot"]).unwrap();
        assert_eq!(cli.options.qemu_words(), ["-cpu", "max,-erms", "-m", "1G", "-snapshot"]);
        assert!(parse(&["--qemu", "'"]).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            &["--"][..],
            &["shell", "--", "ls"],
            &["--script", "f", "--", "ls"],
            &["--script", "f", "shell"],
            &["linux-guest"],
            &["--kernel-arg", "a b"],
            &["--smp", "0"],
            &["--timeout", "0"],
            &["--mem", "0"],
            &["--log", "loud"],
            &["--unknown"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn sizes_and_levels() {
        assert_eq!(size("8M"), Ok(8 << 20));
        assert_eq!(size("2GB"), Ok(2 << 30));
        assert_eq!(size("77"), Ok(77));
        assert!(size("").is_err() && size("M").is_err() && size("99999999999G").is_err());
        assert!(log_levels("warn,xfs=debug").is_ok());
        assert!(log_levels("=debug").is_err());
    }
}
