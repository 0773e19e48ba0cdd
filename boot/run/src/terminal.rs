//! The user's terminal: raw for the shell of the guest, restored on every way out.

use std::io::{IsTerminal, stdin};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// The settings to go back to, while a [`Raw`] lives.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal passes every key on at once, unechoed, until this goes.
#[derive(Debug)]
#[must_use = "the terminal is restored when this is dropped"]
pub struct Raw(());

impl Raw {
    /// Makes standard input raw; `None` when it is no terminal.
    ///
    /// Output processing stays on: the kernel log on standard error ends its
    /// lines with a bare line feed.
    pub fn enter() -> Result<Option<Self>> {
        let input = stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::ISIG
            | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(&input, OptionalActions::Now, &raw).context("cannot make the terminal raw")?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back; does nothing when it was not raw.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = saved {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}
