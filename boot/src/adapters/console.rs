//! A virtio console as a stream of bytes.

use holdfast_drivers::virtio::console::Console;
use holdfast_fs::vfs::CharDevice;
use holdfast_fs::{Error, Result};

/// The console the host's command line is connected to: file descriptors 0 and 1.
pub struct ConsoleStream(Console);

impl ConsoleStream {
    /// The stream of this console.
    pub const fn new(console: Console) -> Self {
        Self(console)
    }
    /// Wait until everything written has left the machine.
    pub fn drain(&self) {
        self.0.drain();
    }
}

impl CharDevice for ConsoleStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.0.read(buffer))
    }
    fn write(&self, buffer: &[u8]) -> Result<usize> {
        if self.0.write(buffer) { Ok(buffer.len()) } else { Err(Error::Io) }
    }
}
