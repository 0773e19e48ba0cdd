//! From the user's options to a guest that can run.

use std::ffi::OsStr;
use std::io::{IsTerminal, Read, Write, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::accel;
use crate::cli::Options;
use crate::disk::Disk;
use crate::guest::protocol::Work;
use crate::guest::{Ended, Input, Run};
use crate::image;
use crate::kernel_image;
use crate::machine::{Accel, Machine, is_given};
use crate::terminal::Raw;
use crate::tools;
use crate::workspace::Workspace;

/// Memory of a guest unless `--mem` says otherwise.
const MEMORY_BYTES: u64 = 256 << 20;
/// Processors of a guest unless `--smp` says otherwise.
const PROCESSORS: u32 = 2;
/// The longest command line that every firmware passes on whole.
const COMMAND_LINE_BYTES: usize = 2047;

/// One guest's machine and the files it needs while it runs.
#[derive(Debug)]
pub struct Session<'a> {
    workspace: &'a Workspace,
    options: &'a Options,
    machine: Machine,
    work: Work,
    /// The script's copy, when it came through standard input.
    _scratch: Option<tempfile::TempDir>,
}

impl<'a> Session<'a> {
    /// Builds what must be built and puts the machine together.
    pub fn new(workspace: &'a Workspace, options: &'a Options, work: Work) -> Result<Self> {
        let qemu = tools::need(&tools::QEMU)?;
        let kernel = match &options.kernel {
            Some(kernel) => kernel.clone(),
            None if matches!(work, Work::Race(_)) => {
                kernel_image::build_apart(workspace, &["lab"])?
            }
            None => kernel_image::given_or_built(workspace)?,
        };
        let without_disk = matches!(work, Work::SelfTest | Work::WithoutDisk(_));
        let mut disks = options.disk.clone();
        if disks.is_empty() && !without_disk {
            disks.push(Disk::File(image::default_disk(workspace)?));
        }
        let extra = options.qemu_words();
        let (module, scratch) = match (&work, &options.script) {
            (Work::Script, Some(script)) => script_file(workspace, script)?,
            _ => (None, None),
        };
        let mut machine = Machine {
            qemu,
            kind: options.machine,
            firmware: options.firmware,
            accel: Accel::Tcg,
            smp: options.smp.unwrap_or_else(|| processors(&extra)),
            memory_bytes: options.mem.unwrap_or(MEMORY_BYTES),
            disks,
            cache: options.cache,
            readonly: options.readonly,
            kernel,
            command_line: String::new(),
            module,
            gdb: options.gdb.then(free_port).transpose()?,
            extra,
        };
        machine.accel = accel::choose(workspace, &machine, options.accel)?;
        machine.command_line = command_line(options, &work)?;
        Ok(Self { workspace, options, machine, work, _scratch: scratch })
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Runs the guest; its console goes to `output`, its log to standard error.
    pub fn run(&self, output: &mut (dyn Write + Send)) -> Result<Ended> {
        if let Some(port) = self.machine.gdb {
            eprintln!("run.sh: QEMU waits for a debugger; attach one with:");
            let kernel = self.machine.kernel.display();
            eprintln!("    gdb {kernel} -ex 'target remote 127.0.0.1:{port}'");
        }
        let shell = matches!(self.work, Work::Shell { .. });
        let raw = if shell { Raw::enter()? } else { None };
        if raw.is_some() {
            eprintln!("run.sh: Ctrl-] ends the guest at once");
        }
        Run {
            machine: &self.machine,
            root: self.workspace.root(),
            input: self.input(raw.is_some()),
            output,
            log: &mut std::io::stderr(),
            limit: self.options.timeout,
        }
        .to_the_end()
    }

    fn input(&self, keys: bool) -> Input {
        let from_stdin = self.options.script.as_deref().is_some_and(|path| path == Path::new("-"));
        if keys {
            Input::Keys
        } else if from_stdin || stdin().is_terminal() {
            // Reading a terminal would stop us when started in the background.
            Input::None
        } else {
            Input::Pass
        }
    }
}

/// The processors of a guest whose user names no number: with `-icount`
/// one, since QEMU 7 hangs when a second one starts there.
fn processors(extra: &[String]) -> u32 {
    if is_given(extra, "-icount") { 1 } else { PROCESSORS }
}

fn free_port() -> Result<u16> {
    let usual = std::net::TcpListener::bind(("127.0.0.1", 1234));
    let listener = usual.or_else(|_| std::net::TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener.context("no port for a debugger")?.local_addr()?.port())
}

/// The words for the guest's kernel.
fn command_line(options: &Options, work: &Work) -> Result<String> {
    let mut words = Vec::new();
    words.extend(options.log.as_ref().map(|levels| format!("log={levels}")));
    words.extend(options.page_cache.map(|bytes| format!("page_cache={}K", bytes.div_ceil(1024))));
    if options.readonly {
        words.push("ro".into());
    }
    words.extend(options.kernel_arg.iter().cloned());
    words.extend(work.words());
    let line = words.join(" ");
    anyhow::ensure!(
        line.len() <= COMMAND_LINE_BYTES,
        "the command is too long for the guest's command line; put it into a script (--script)"
    );
    Ok(line)
}

type Script = (Option<PathBuf>, Option<tempfile::TempDir>);

/// The file that holds the script; standard input is stored in one first.
fn script_file(workspace: &Workspace, script: &Path) -> Result<Script> {
    if script.as_os_str() != OsStr::new("-") {
        anyhow::ensure!(script.is_file(), "no such script: {}", script.display());
        if script.metadata()?.len() > 0 {
            return Ok((Some(script.into()), None));
        }
    }
    let mut text = Vec::new();
    if script.as_os_str() == OsStr::new("-") {
        stdin().read_to_end(&mut text).context("cannot read the script")?;
    }
    if text.is_empty() {
        // QEMU takes an empty file for none at all.
        text.push(b'\n');
    }
    let scratch = workspace.scratch()?;
    let path = scratch.path().join("script");
    std::fs::write(&path, text)?;
    Ok((Some(path), Some(scratch)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    fn line(words: &[&str]) -> Result<String> {
        let words = std::iter::once("run.sh").chain(words.iter().copied()).map(Into::into);
        let cli = Cli::from_args(words)?;
        command_line(&cli.options, &Work::Command(cli.command_words().unwrap()))
    }

    #[test]
    fn options_become_words_of_the_kernel() {
        let words = ["--readonly", "--page-cache", "8M", "--log", "warn,fs=debug"];
        let words = [&words[..], &["--kernel-arg", "seed=7", "--", "ls"]].concat();
        assert_eq!(line(&words).unwrap(), "log=warn,fs=debug page_cache=8192K ro seed=7 cmd=6c73");
    }

    #[test]
    fn a_command_too_long_is_refused_not_cut() {
        let long = "x".repeat(2000);
        assert!(line(&["--", "ls", &long]).is_err());
    }

    #[test]
    fn icount_means_one_processor() {
        assert_eq!(processors(&["-icount".into(), "shift=0".into()]), 1);
        assert_eq!(processors(&[]), PROCESSORS);
    }
}
