//! What can keep `run.sh` from doing its work, and the exit status of each.

use std::process::ExitCode;

/// The time limit ran out.
pub const STATUS_TIME_OUT: u8 = 124;
/// `run.sh` or QEMU could not do it.
pub const STATUS_HOST: u8 = 125;
/// The guest's kernel panicked or its watchdog barked.
pub const STATUS_PANIC: u8 = 126;
/// The guest knows no such command.
pub const STATUS_NO_COMMAND: u8 = 127;
/// The disk could not be mounted.
pub const STATUS_MOUNT: u8 = 32;

/// A failure on the host's side; it always ends in [`STATUS_HOST`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A program is missing and could not be installed.
    #[error("{program} is missing; install it with:  {command}")]
    MissingTool {
        /// The program looked for.
        program: String,
        /// The command that installs it.
        command: String,
    },
    /// A program ran and failed.
    #[error("{program} failed ({status}){}", detail(.output))]
    Program {
        /// The program that failed.
        program: String,
        /// How it ended.
        status: String,
        /// What it printed last.
        output: String,
    },
    /// Cargo could not build a crate.
    #[error("cargo could not build {package}")]
    Build {
        /// The crate.
        package: String,
    },
    /// QEMU ended without a status of the guest.
    #[error("QEMU {how}{}", detail(.log))]
    Qemu {
        /// How it ended.
        how: String,
        /// The last lines of its log.
        log: String,
    },
}

/// Output to show below a failure, or nothing.
fn detail(output: &str) -> String {
    let output = output.trim_end();
    if output.is_empty() { String::new() } else { format!(":\n{output}") }
}

/// The exit code for a guest's status.
pub fn exit_code(status: u8) -> ExitCode {
    ExitCode::from(status)
}
