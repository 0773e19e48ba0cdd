//! The protocol between this program and the guest: the words on the kernel
//! command line and the values at the exit port.

use std::fmt::Write as _;

use crate::failure::{STATUS_NO_COMMAND, STATUS_PANIC};

/// What the guest does after it has mounted its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run one command: its words.
    Command(Vec<Vec<u8>>),
    /// As a command, in a build whose guards can be switched off.
    Race(Vec<Vec<u8>>),
    /// Run the script in the boot module.
    Script,
    /// A prompt, for a person at a terminal or for lines from elsewhere.
    Shell {
        /// Whether our standard input is a terminal.
        terminal: bool,
    },
    /// The main job.
    MainJob,
    /// The kernel's own tests; nothing is mounted.
    SelfTest,
    /// A command that needs no disk; nothing is mounted.
    WithoutDisk(Vec<Vec<u8>>),
}

impl Work {
    /// The words that ask for this work.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Command(argv) | Self::Race(argv) => vec![format!("cmd={}", hex(argv))],
            Self::Script => vec!["script".into()],
            Self::Shell { terminal: true } => vec!["shell=terminal".into()],
            Self::Shell { terminal: false } => vec!["shell".into()],
            Self::MainJob => vec!["mainjob".into()],
            Self::SelfTest => vec!["noroot".into(), "selftest".into()],
            Self::WithoutDisk(argv) => vec!["noroot".into(), format!("cmd={}", hex(argv))],
        }
    }
}

/// Words joined by NUL bytes, in hexadecimal digits: any byte passes.
fn hex(argv: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for byte in argv.join(&0) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The value at the exit port for status 0; statuses to 123 follow.
const FIRST: i32 = 1;
/// The value for the last of a command's own statuses.
const LAST: i32 = 124;
/// The value for a panic or a stall.
const PANIC: i32 = 125;
/// The value for an unknown command.
const NO_COMMAND: i32 = 126;

/// The guest's status in QEMU's exit code, which is `value << 1 | 1`;
/// `None` where QEMU ended for reasons of its own (its 0 and 1).
pub fn status(exit_code: i32) -> Option<u8> {
    let value = exit_code >> 1;
    if exit_code & 1 == 0 {
        return None;
    }
    match value {
        FIRST..=LAST => u8::try_from(value - FIRST).ok(),
        PANIC => Some(STATUS_PANIC),
        NO_COMMAND => Some(STATUS_NO_COMMAND),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_pass_in_a_command() {
        let work = Work::Command(vec![b"cat".to_vec(), vec![0xff, b' ']]);
        assert_eq!(work.words(), ["cmd=63617400ff20"]);
    }

    #[test]
    fn exit_codes_are_the_guests_or_qemus() {
        assert_eq!(status(0), None);
        assert_eq!(status(1), None);
        assert_eq!(status(2), None);
        assert_eq!(status(3), Some(0));
        assert_eq!(status((33 << 1) | 1), Some(32));
        assert_eq!(status(249), Some(123));
        assert_eq!(status(251), Some(126));
        assert_eq!(status(253), Some(127));
        assert_eq!(status(255), None);
    }
}
