//! Device nodes: what a device must do to be read and written like a file.

use alloc::sync::Arc;

use super::blockdev::BlockNode;
use crate::iomap::{Sink, Source};
use crate::platform::PAGE_SIZE;
use crate::{Error, Result};

/// A sink that also takes bytes that lie in no page.
pub trait ByteSink: Sink {
    /// Take bytes, without handling faults. Returns and advances by what was copied.
    fn put_bytes(&mut self, bytes: &[u8]) -> usize;
}

/// A source that also gives bytes to memory that is no page.
pub trait ByteSource: Source {
    /// Give bytes, without handling faults. Returns and advances by what was copied.
    fn take_bytes(&mut self, bytes: &mut [u8]) -> usize;
}

/// A stream of bytes: a console, a serial port, a pipe to the host.
pub trait CharDevice: Send + Sync {
    /// Wait for bytes and take up to `buffer.len()` of them; 0 is the end.
    ///
    /// # Errors
    /// I/O errors.
    fn read(&self, buffer: &mut [u8]) -> Result<usize>;
    /// Send bytes; how many were taken, at least one.
    ///
    /// # Errors
    /// I/O errors.
    fn write(&self, buffer: &[u8]) -> Result<usize>;
    /// Does a person sit at the other end?
    fn is_terminal(&self) -> bool {
        false
    }
}

/// A device as an open file sees it.
pub trait DeviceFile: Send + Sync {
    /// The device number that `stat` shows.
    fn rdev(&self) -> u64;
    /// Read at `pos` (devices without positions ignore it).
    ///
    /// # Errors
    /// I/O errors; a bad address.
    fn read(&self, pos: u64, sink: &mut dyn ByteSink) -> Result<usize>;
    /// Write at `pos`, likewise.
    ///
    /// # Errors
    /// I/O errors; a bad address.
    fn write(&self, pos: u64, source: &mut dyn ByteSource) -> Result<usize>;
    /// The size in bytes, if the device has positions.
    fn size(&self) -> Option<u64> {
        None
    }
    /// Make what was written durable.
    ///
    /// # Errors
    /// The device's.
    fn sync(&self) -> Result<()> {
        Err(Error::Invalid("the device has nothing to sync"))
    }
    /// Does seeking succeed, to no effect?
    fn seeks_nowhere(&self) -> bool {
        false
    }
    /// Does a person sit at the other end?
    fn is_terminal(&self) -> bool {
        false
    }
    /// The block device, if it is one.
    fn block(&self) -> Option<&BlockNode> {
        None
    }
}

/// `/dev/null`: swallows everything, holds nothing.
pub struct Null;

impl DeviceFile for Null {
    fn rdev(&self) -> u64 {
        super::device_number(1, 3)
    }
    fn read(&self, _pos: u64, _sink: &mut dyn ByteSink) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, _pos: u64, source: &mut dyn ByteSource) -> Result<usize> {
        Ok(source.remaining())
    }
    fn seeks_nowhere(&self) -> bool {
        true
    }
}

/// `/dev/zero`: swallows everything, holds zeros without end.
pub struct Zero;

impl DeviceFile for Zero {
    fn rdev(&self) -> u64 {
        super::device_number(1, 5)
    }
    fn read(&self, _pos: u64, sink: &mut dyn ByteSink) -> Result<usize> {
        let wanted = sink.remaining();
        while sink.remaining() > 0 {
            let part = sink.remaining().min(PAGE_SIZE);
            if sink.put_zeros(part) < part
                && let Err(e) = sink.fault_in()
            {
                let done = wanted - sink.remaining();
                return if done > 0 { Ok(done) } else { Err(e) };
            }
        }
        Ok(wanted)
    }
    fn write(&self, _pos: u64, source: &mut dyn ByteSource) -> Result<usize> {
        Ok(source.remaining())
    }
    fn seeks_nowhere(&self) -> bool {
        true
    }
}

/// A [`CharDevice`] as a device node.
pub struct CharNode {
    device: Arc<dyn CharDevice>,
    rdev: u64,
}

impl CharNode {
    /// The node of `device`, with this device number.
    pub fn new(device: Arc<dyn CharDevice>, major: u32, minor: u32) -> Arc<Self> {
        Arc::new(Self { device, rdev: super::device_number(major, minor) })
    }
}

impl DeviceFile for CharNode {
    fn rdev(&self) -> u64 {
        self.rdev
    }
    /// Returns what one read of the device gives, as terminals and pipes do.
    fn read(&self, _pos: u64, sink: &mut dyn ByteSink) -> Result<usize> {
        let mut bounce = [0; 1024];
        let most = bounce.len().min(sink.remaining());
        // The bytes are gone from the device once read, so the buffer is tried first.
        if most == 0 {
            return Ok(0);
        }
        sink.fault_in()?;
        let got = self.device.read(&mut bounce[..most])?;
        let mut done = 0;
        while done < got {
            let n = sink.put_bytes(&bounce[done..got]);
            done += n;
            if n == 0
                && let Err(e) = sink.fault_in()
            {
                return if done > 0 { Ok(done) } else { Err(e) };
            }
        }
        Ok(done)
    }
    fn write(&self, _pos: u64, source: &mut dyn ByteSource) -> Result<usize> {
        let mut bounce = [0; 1024];
        let mut done = 0;
        while source.remaining() > 0 {
            let most = bounce.len().min(source.remaining());
            let got = source.take_bytes(&mut bounce[..most]);
            if got == 0 {
                match source.fault_in() {
                    Ok(()) => continue,
                    Err(_) if done > 0 => return Ok(done),
                    Err(e) => return Err(e),
                }
            }
            let mut sent = 0;
            while sent < got {
                match self.device.write(&bounce[sent..got]) {
                    Ok(n) if n > 0 => sent += n,
                    Ok(_) | Err(_) if done + sent > 0 => return Ok(done + sent),
                    Ok(_) => return Err(Error::Io),
                    Err(e) => return Err(e),
                }
            }
            done += got;
        }
        Ok(done)
    }
    fn is_terminal(&self) -> bool {
        self.device.is_terminal()
    }
}
