//! `holdfast-image [--readonly] IMAGE COMMAND [ARG]…`: work on an XFS image from the host.
//!
//! The image is mounted by the storage stack that the kernel runs, its log recovered if
//! need be, and every command of the guest works on it: `ls`, `cat`, `cp`, `rm`, `mkdir`,
//! `fsck`, `xfs_io`, and so on (`help` lists them). Beside them:
//!
//! ```text
//! info                     what the file system is
//! put HOSTFILE… PATH       copy files or trees of the host into the image ('-': standard input)
//! get PATH… HOSTFILE       copy files or trees out of it ('-': standard output)
//! cp … host:PATH …         the same, said with cp
//! script FILE              commands from a file of the host
//! ```

mod guest;
mod transfer;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use guest::Guest;

/// Work on an XFS image without mounting it and without booting.
#[derive(Parser)]
#[command(
    version,
    after_help = "Commands are those of the guest ('help' lists them), and:\n  \
    info                  what the file system is\n  \
    put HOSTFILE... PATH  copy into the image ('-' is standard input)\n  \
    get PATH... HOSTFILE  copy out of it ('-' is standard output)\n  \
    cp with host:PATH     the same\n  \
    script FILE           commands from a file of the host\n\n\
    Exit status: the command's own; 32 when the image cannot be mounted."
)]
struct Arguments {
    /// Change nothing; a log that needs recovery is left as it is.
    #[arg(long, short)]
    readonly: bool,
    /// Most memory for cached file data, in MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    cache: u64,
    /// The image file.
    image: PathBuf,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The status of an image that cannot be mounted, as `mount` has it.
const CANNOT_MOUNT: u8 = 32;

fn main() -> ExitCode {
    let filter = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(filter).format_target(false).init();
    let arguments = Arguments::parse();
    // What is being checked is not to change meanwhile.
    let readonly = arguments.readonly || arguments.command[0] == "fsck";
    let guest = match Guest::mount(&arguments.image, readonly, arguments.cache) {
        Ok(guest) => guest,
        Err(e) => {
            eprintln!("holdfast-image: {e:#}");
            return ExitCode::from(CANNOT_MOUNT);
        }
    };
    let result = work(&guest, &arguments.command);
    let unmounted = guest.unmount().context("unmount");
    match result.and_then(|status| unmounted.map(|()| status)) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("holdfast-image: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(guest: &Guest, words: &[OsString]) -> Result<u8> {
    let (name, operands) = words.split_first().context("no command")?;
    match name.to_str().unwrap_or_default() {
        "info" => info(guest),
        "put" => {
            let (to, from) = operands.split_last().context("put: HOSTFILE… PATH")?;
            if from.is_empty() {
                bail!("put: HOSTFILE… PATH");
            }
            transfer::put(&guest.process, from, to)
        }
        "get" => {
            let (to, from) = operands.split_last().context("get: PATH… HOSTFILE")?;
            if from.is_empty() {
                bail!("get: PATH… HOSTFILE");
            }
            transfer::get(&guest.process, from, to)
        }
        "cp" if operands.iter().any(|w| on_host(w).is_some()) => copy(guest, operands),
        "script" => {
            let [path] = operands else { bail!("script: FILE") };
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            Ok(holdfast_commands::script::run_script(&mut guest.context(), &text))
        }
        _ => {
            let argv: Vec<Vec<u8>> = words.iter().map(|w| w.clone().into_vec()).collect();
            Ok(holdfast_commands::run(&mut guest.context(), &argv))
        }
    }
}

/// The host's path in `host:PATH`.
fn on_host(word: &OsStr) -> Option<OsString> {
    word.as_bytes().strip_prefix(b"host:").map(|path| OsStr::from_bytes(path).to_owned())
}

/// `cp` between the host and the image: one side is marked `host:`.
fn copy(guest: &Guest, operands: &[OsString]) -> Result<u8> {
    // Trees, modes and times are copied in any case.
    let known = |w: &OsString| {
        let letters = w.as_bytes().strip_prefix(b"-").filter(|letters| !letters.is_empty());
        letters.is_some_and(|letters| letters.iter().all(|b| b"-adfpRrv".contains(b)))
    };
    let paths: Vec<&OsString> = operands.iter().filter(|w| !known(w)).collect();
    let (to, from) = paths.split_last().context("cp: SOURCE… DEST")?;
    let stripped = |w: &OsString| on_host(w).unwrap_or_else(|| w.clone());
    let sources: Vec<OsString> = from.iter().map(|w| stripped(w)).collect();
    if sources.is_empty() {
        bail!("cp: SOURCE… DEST");
    }
    let inside = from.iter().filter(|w| on_host(w).is_none()).count();
    match (inside, on_host(to)) {
        (0, None) => transfer::put(&guest.process, &sources, to),
        (n, Some(to)) if n == from.len() => transfer::get(&guest.process, &sources, &to),
        _ => bail!("cp: all sources on one side, the destination on the other"),
    }
}

fn info(guest: &Guest) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    for (name, value) in guest.describe() {
        writeln!(out, "{name:24} {value}")?;
    }
    let space = guest.process.statfs(b"/")?;
    let block = u64::from(space.block_bytes);
    writeln!(out, "{:24} {} bytes", "size", space.blocks * block)?;
    writeln!(out, "{:24} {} bytes", "free", space.blocks_free * block)?;
    writeln!(out, "{:24} {}", "inodes in use", space.files - space.files_free)?;
    Ok(0)
}
