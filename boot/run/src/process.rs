//! Child processes that cannot outlive this one.
//!
//! Every child gets a process group of its own (so that Ctrl-C reaches only
//! us, and so that killing it takes its children along) and asks the kernel
//! for `SIGKILL` when its parent dies, which holds even when we are killed
//! with `SIGKILL`. The parent in that rule is the *thread* that started the
//! child: a thread that starts one stays until the child has ended.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

use crate::failure::Failure;
use crate::terminal;

/// The process groups to end when a signal ends us.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Directories to remove when a signal ends us: destructors do not run then.
static SCRATCH: Mutex<BTreeSet<std::path::PathBuf>> = Mutex::new(BTreeSet::new());

fn locked<T>(mutex: &'static Mutex<T>) -> std::sync::MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is killed, with its process group, when this value goes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: i32,
}

impl Running {
    /// Starts `command` tied to the calling thread.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        tie_to_parent(command);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let group = i32::try_from(child.id()).context("process id out of range")?;
        locked(&RUNNING).insert(group);
        Ok(Self { child, group })
    }

    /// The process, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the end, or `None` when `limit` has passed first.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
        let Some(limit) = limit else { return self.child.wait().map(Some) };
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Ends the whole group now.
    pub fn kill(&mut self) {
        kill_group(self.group);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
        locked(&RUNNING).remove(&self.group);
    }
}

fn kill_group(group: i32) {
    if let Some(pid) = Pid::from_raw(group) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// Makes the child die with the thread that starts it.
#[allow(unsafe_code)]
fn tie_to_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    command.process_group(0);
    let in_child = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the request: then nobody will send it.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and
    // touches no lock and no heap.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Installs the handler that, on a signal that ends a program, restores the
/// terminal, ends every child, removes scratch directories and exits with
/// 128 plus the signal's number, as a shell would report.
pub fn end_cleanly_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])
        .context("cannot watch for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            terminal::restore();
            for group in locked(&RUNNING).iter() {
                kill_group(*group);
            }
            for directory in locked(&SCRATCH).iter() {
                let _ = std::fs::remove_dir_all(directory);
            }
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

/// Remembers a directory to be removed should a signal end us.
pub fn remove_on_signal(directory: &std::path::Path) {
    locked(&SCRATCH).insert(directory.to_path_buf());
}

/// Holds a lock file, which other processes wait for; it goes with the file.
pub fn lock(path: &std::path::Path) -> Result<std::fs::File> {
    let file = std::fs::File::create(path)
        .with_context(|| format!("cannot make the lock file {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Runs a command to its end and returns what it printed; a failure to start
/// or a status other than 0 is an error that shows the output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = capture(command)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    Err(Failure::Program { program, status: describe(output.status), output: last(&text, 20) }
        .into())
}

/// Runs a command to its end without input and returns everything.
pub fn capture(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    tie_to_parent(command);
    command.stdin(Stdio::null());
    command.output().with_context(|| format!("cannot start {program}"))
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".into(),
    }
}

/// The last `count` lines of a text.
pub fn last(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_killed_with_its_guard() {
        let mut running = Running::start(Command::new("sleep").arg("60")).unwrap();
        let pid = running.child().id();
        assert!(running.wait(Some(Duration::from_millis(20))).unwrap().is_none());
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn wait_returns_the_status_before_the_limit() {
        let mut running = Running::start(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        let status = running.wait(Some(Duration::from_secs(20))).unwrap().unwrap();
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn a_failing_program_is_reported_with_its_output() {
        let error =
            output(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status 3") && text.contains("no luck"), "{text}");
    }

    #[test]
    fn the_last_lines_of_a_text() {
        assert_eq!(last("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last("a", 2), "a");
    }
}
