//! Where the guest's processors stand, asked over QEMU's machine protocol (QMP): what
//! there is to know about a guest that says nothing any more.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::disk::escaped_path;

/// How long QEMU may take for an answer. One that has hung itself gives none.
const LIMIT: Duration = Duration::from_secs(5);

/// QEMU's arguments for a monitor at this socket.
pub fn arguments(socket: &Path) -> [String; 2] {
    ["-qmp".into(), format!("unix:{},server=on,wait=off", escaped_path(socket))]
}

/// The machine's state, and of each processor what it is about to execute.
pub fn state(socket: &Path) -> String {
    let asked = Monitor::connect(socket).and_then(|mut monitor| {
        let status = monitor.human("info status")?;
        // Twice: does it move?
        let first = monitor.human("info registers -a")?;
        std::thread::sleep(Duration::from_millis(300));
        let second = monitor.human("info registers -a")?;
        Ok([status, essential(&first), "and then".into(), essential(&second)].join("\n"))
    });
    asked.unwrap_or_else(|error| format!("no answer from QEMU's monitor: {error:#}"))
}

/// The lines that tell where a processor is, and whether it waits with interrupts off.
fn essential(registers: &str) -> String {
    let tells = |line: &&str| line.starts_with("CPU#") || line.contains("RIP=");
    registers.lines().filter(tells).map(str::trim_end).collect::<Vec<_>>().join("\n")
}

struct Monitor {
    socket: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path).context("cannot connect")?;
        socket.set_read_timeout(Some(LIMIT))?;
        let answers = BufReader::new(socket.try_clone()?);
        let mut monitor = Self { socket, answers };
        monitor.ask(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    /// Sends a command; the answer is the next object that is neither the greeting nor an
    /// event.
    fn ask(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.socket, "{command}")?;
        loop {
            let mut line = String::new();
            anyhow::ensure!(self.answers.read_line(&mut line)? > 0, "it has closed");
            let answer: Value = serde_json::from_str(&line).context("no JSON")?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            anyhow::ensure!(answer.get("error").is_none(), "{answer}");
        }
    }

    fn human(&mut self, line: &str) -> Result<String> {
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": line },
        });
        let answer = self.ask(&command)?;
        Ok(answer.as_str().unwrap_or_default().trim_end().replace('\r', ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_processors_stand_is_kept() {
        let text = "CPU#0\nRAX=1 RBX=2\nRIP=ffff RFL=00000246 HLT=1\nES =0000\n\nCPU#1\nRIP=0";
        assert_eq!(essential(text), "CPU#0\nRIP=ffff RFL=00000246 HLT=1\nCPU#1\nRIP=0");
    }
}
