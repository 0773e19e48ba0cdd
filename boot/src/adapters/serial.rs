//! The serial port as a stream of bytes: standard error, and the way out when the
//! machine has no console device.

use holdfast_fs::Result;
use holdfast_fs::vfs::CharDevice;
use holdfast_kernel::console;
use holdfast_sync::thread::sleep_ns;

/// COM1, which also carries the kernel log.
pub struct SerialStream;

/// How often input is looked for: the port's interrupt is not used.
const POLL_NS: u64 = 10_000_000;

impl CharDevice for SerialStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        *first = loop {
            match console::read_byte() {
                Some(byte) => break byte,
                None => sleep_ns(POLL_NS),
            }
        };
        let mut count = 1;
        while let Some(slot) = buffer.get_mut(count)
            && let Some(byte) = console::read_byte()
        {
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
    fn write(&self, buffer: &[u8]) -> Result<usize> {
        console::write_bytes(buffer);
        Ok(buffer.len())
    }
}
