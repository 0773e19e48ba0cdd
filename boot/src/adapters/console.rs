//! A virtio console as a stream of bytes.

use alloc::vec::Vec;

use holdfast_drivers::virtio::console::Port;
use holdfast_fs::vfs::CharDevice;
use holdfast_fs::{Error, Result};

/// The ports that carry standard input and output, where they are two.
const INPUT: &str = "stdin";
const OUTPUT: &str = "stdout";

/// The console the host's command line is connected to: file descriptors 0 and 1.
pub struct ConsoleStream {
    /// The device's ports; at least one.
    ports: Vec<Port>,
    input: usize,
    output: usize,
    /// Whether a person types at the host's end.
    terminal: bool,
}

impl ConsoleStream {
    /// The stream over these ports: those called stdin and stdout, where there is none such
    /// the first. Nothing without ports.
    pub fn new(ports: Vec<Port>, terminal: bool) -> Option<Self> {
        let named = |name: &str| ports.iter().position(|p| p.name() == name).unwrap_or(0);
        let (input, output) = (named(INPUT), named(OUTPUT));
        (!ports.is_empty()).then_some(Self { ports, input, output, terminal })
    }
    /// Wait until everything written has left the machine.
    pub fn drain(&self) {
        self.ports[self.output].drain();
    }
}

impl CharDevice for ConsoleStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.ports[self.input].read(buffer))
    }
    fn write(&self, buffer: &[u8]) -> Result<usize> {
        if self.ports[self.output].write(buffer) { Ok(buffer.len()) } else { Err(Error::Io) }
    }
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}
