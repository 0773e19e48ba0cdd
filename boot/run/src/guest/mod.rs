//! Runs one guest: console, log, time limit, exit status.
//!
//! ```text
//! our stdin  -> pipe -> QEMU chardev -> virtio port -> the command
//! our stdout <- pipe <- QEMU chardev <- virtio port <- the command
//! our stderr <- lines, symbolised <- QEMU's stderr  <- COM1
//! ```
//!
//! It owns QEMU while it runs and the threads that copy; it does not own the
//! disks. One flag (`stop`) is shared: a copying thread sets it when going on
//! makes no sense, and the waiting thread then ends QEMU.

pub mod protocol;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::failure::{Failure, STATUS_TIME_OUT};
use crate::machine::Machine;
use crate::process::{self, Running};
use crate::symbols::Symbols;
use crate::tools;

/// The key that ends an interactive guest, as in telnet: Ctrl-].
const ESCAPE: u8 = 0x1d;
/// Lines of the log kept for an error message.
const KEPT_LINES: usize = 20;
/// What the log says once the root file system is there.
const MOUNTED: &str = "mounted";

/// Where the guest's standard input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nowhere.
    None,
    /// Our own standard input, as it comes.
    Pass,
    /// Our own standard input, with Ctrl-] as the way out.
    Keys,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The status to exit with.
    pub status: u8,
    /// From the start of QEMU to the log's word that the disk is mounted.
    pub mounted_after: Option<Duration>,
    /// From the start of QEMU to its end.
    pub took: Duration,
}

/// One run of a guest.
pub struct Run<'a> {
    /// The guest.
    pub machine: &'a Machine,
    /// Paths below this directory are shown relative to it.
    pub root: &'a Path,
    /// Where its standard input comes from.
    pub input: Input,
    /// Where its standard output goes.
    pub output: &'a mut (dyn Write + Send),
    /// Where its log goes.
    pub log: &'a mut (dyn Write + Send),
    /// How long it may take.
    pub limit: Option<Duration>,
}

impl Run<'_> {
    /// Runs the guest to its end.
    pub fn to_the_end(self) -> Result<Ended> {
        let Self { machine, root, input, output, log, limit } = self;
        let mut command = machine.command();
        command.stdin(if input == Input::None { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut qemu = Running::start(&mut command)?;
        let stop = Arc::new(AtomicBool::new(false));
        let console = qemu.child().stdout.take().context("QEMU has no standard output")?;
        if let Some(pipe) = qemu.child().stdin.take() {
            feed(pipe, input, stop.clone())?;
        }
        let lines = qemu.child().stderr.take().context("QEMU has no standard error")?;
        let symbols = Symbols::of(&machine.kernel, root);
        let (end, log) = std::thread::scope(|scope| {
            let console = scope.spawn(|| copy_console(console, output, &stop));
            let log = scope.spawn(|| Log::new(log, symbols, start).copy(lines));
            let end = wait(&mut qemu, limit, &stop);
            // QEMU is gone: the pipes end and so do the threads.
            let console = console.join();
            let log = log.join();
            (end.map(|end| (end, console)), log)
        });
        let (exit, console) = end?;
        let log = log.map_err(|_| anyhow::anyhow!("the log's thread panicked"))?;
        console.map_err(|_| anyhow::anyhow!("the console's thread panicked"))??;
        let status = match exit {
            Exit::Code(code) => protocol::status(code),
            Exit::TimeOut => Some(STATUS_TIME_OUT),
            Exit::Signal(_) | Exit::Stopped => None,
        };
        let ended =
            |status| Ended { status, mounted_after: log.mounted_after, took: start.elapsed() };
        status.map(ended).ok_or_else(|| failure(&exit, &log))
    }
}

/// How QEMU ended.
#[derive(Clone, Debug)]
enum Exit {
    Code(i32),
    Signal(String),
    TimeOut,
    Stopped,
}

/// Waits for QEMU's end, or brings it about.
fn wait(qemu: &mut Running, limit: Option<Duration>, stop: &AtomicBool) -> Result<Exit> {
    const SLICE: Duration = Duration::from_millis(50);
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if let Some(status) = qemu.wait(Some(left.map_or(SLICE, |left| left.min(SLICE))))? {
            let signal = || Exit::Signal(process::describe(status));
            return Ok(status.code().map_or_else(signal, Exit::Code));
        }
        let over = deadline.is_some_and(|at| Instant::now() >= at);
        if over || stop.load(Ordering::Relaxed) {
            qemu.kill();
            return Ok(if over { Exit::TimeOut } else { Exit::Stopped });
        }
    }
}

/// Why there is no status, as far as it can be told.
fn failure(exit: &Exit, log: &Kept) -> anyhow::Error {
    let text = log.lines.iter().cloned().collect::<Vec<_>>().join("\n");
    if let Some(protocol) = unknown_protocol(&text) {
        let command = tools::install_hint("qemu-block-extra");
        let program = format!("QEMU's support for {protocol}");
        return Failure::MissingTool { program, command }.into();
    }
    let how = match exit {
        Exit::Code(code) => format!("ended with exit status {code}, which no guest gives"),
        Exit::Signal(signal) => format!("was ended by {signal}"),
        Exit::TimeOut => "took too long".into(),
        Exit::Stopped => "was ended by us".into(),
    };
    // The log itself has been shown as it came.
    Failure::Qemu { how, log: String::new() }.into()
}

/// The block protocol that QEMU says it does not know.
fn unknown_protocol(log: &str) -> Option<&str> {
    let marks = ["Unknown protocol '", "Unknown driver '"];
    marks.iter().find_map(|mark| log.split_once(mark)?.1.split('\'').next())
}

/// Copies standard input to the guest on a thread of its own, which nobody
/// waits for: it may sit in a read for ever.
fn feed(mut pipe: ChildStdin, input: Input, stop: Arc<AtomicBool>) -> Result<()> {
    let copy = move || {
        let mut buffer = [0; 64 * 1024];
        let mut keys = std::io::stdin().lock();
        loop {
            let bytes = match keys.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if input == Input::Keys && bytes.contains(&ESCAPE) {
                stop.store(true, Ordering::Relaxed);
                return;
            }
            if pipe.write_all(bytes).and_then(|()| pipe.flush()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("console input".into()).spawn(copy)?;
    Ok(())
}

/// Copies the console to `output` as it comes.
fn copy_console(mut from: impl Read, output: &mut dyn Write, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read the guest's output"),
        };
        if let Err(error) = output.write_all(&buffer[..count]).and_then(|()| output.flush()) {
            stop.store(true, Ordering::Relaxed);
            return Err(error).context("cannot write to standard output");
        }
    }
}

/// What is remembered of a log.
#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    mounted_after: Option<Duration>,
}

/// The log on its way from QEMU to us.
struct Log<'a> {
    to: &'a mut (dyn Write + Send),
    symbols: Symbols,
    start: Instant,
    kept: Kept,
}

impl<'a> Log<'a> {
    fn new(to: &'a mut (dyn Write + Send), symbols: Symbols, start: Instant) -> Self {
        Self { to, symbols, start, kept: Kept::default() }
    }

    /// Copies line by line; what cannot be written is still watched.
    fn copy(mut self, from: impl Read) -> Kept {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(more) = self.symbols.annotate(&text) {
                let _ = writeln!(self.to, "{text}{more}");
            } else {
                let _ = self.to.write_all(&line);
            }
            let _ = self.to.flush();
            if self.kept.mounted_after.is_none() && text.contains(MOUNTED) {
                self.kept.mounted_after = Some(self.start.elapsed());
            }
            self.kept.lines.push_back(text);
            if self.kept.lines.len() > KEPT_LINES {
                self.kept.lines.pop_front();
            }
            line.clear();
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_copied_whole_and_its_end_kept() {
        let text: String = (0..30).map(|n| format!("line {n}\n")).collect::<String>() + "rest";
        let mut copy = Vec::new();
        let symbols = Symbols::of(Path::new("/nonexistent"), Path::new("/"));
        let kept = Log::new(&mut copy, symbols, Instant::now()).copy(text.as_bytes());
        assert_eq!(copy, text.as_bytes());
        assert_eq!(kept.lines.len(), KEPT_LINES);
        assert_eq!(kept.lines.back().unwrap(), "rest");
        assert_eq!(kept.mounted_after, None);
    }

    #[test]
    fn a_closed_output_stops_the_guest() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let stop = AtomicBool::new(false);
        assert!(copy_console(&b"data"[..], &mut Closed, &stop).is_err());
        assert!(stop.into_inner());
    }

    #[test]
    fn a_missing_block_driver_is_told_by_name() {
        let log = "qemu: -drive file=rbd:a/b: Unknown protocol 'rbd'";
        assert_eq!(unknown_protocol(log), Some("rbd"));
        assert_eq!(unknown_protocol("all well"), None);
    }
}
