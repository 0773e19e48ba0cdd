//! A mounted image with a process on it, whose descriptors are those of the host.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use holdfast_commands::Context;
use holdfast_commands::host::Host;
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::CharDevice;

const PAGES_PER_MIB: u64 = 256;
/// Pages beside those of the cache: metadata, I/O.
const OTHER_PAGES: u64 = 64 * PAGES_PER_MIB;

/// Descriptors 0, 1 and 2.
enum Standard {
    Input,
    Output,
    Error,
}

impl CharDevice for Standard {
    fn read(&self, buffer: &mut [u8]) -> holdfast_fs::Result<usize> {
        match self {
            Self::Input => std::io::stdin().read(buffer).map_err(|_| holdfast_fs::Error::Io),
            _ => Err(holdfast_fs::Error::BadDescriptor),
        }
    }
    fn write(&self, buffer: &[u8]) -> holdfast_fs::Result<usize> {
        let written = match self {
            Self::Input => return Err(holdfast_fs::Error::BadDescriptor),
            Self::Output => {
                let mut out = std::io::stdout().lock();
                out.write_all(buffer).and_then(|()| out.flush())
            }
            Self::Error => std::io::stderr().write_all(buffer),
        };
        written.map(|()| buffer.len()).map_err(|_| holdfast_fs::Error::Io)
    }
}

/// A mounted image, and a process on it.
pub struct Guest {
    /// The calls.
    pub process: Arc<Process>,
    host: Arc<Host>,
}

impl Guest {
    /// Mount an image with at most `cache_mib` of cached data.
    ///
    /// # Errors
    /// The file cannot be opened, or what is in it not be mounted.
    pub fn mount(image: &Path, readonly: bool, cache_mib: u64) -> Result<Self> {
        let pages = cache_mib * PAGES_PER_MIB;
        let host = Host::mount(image, readonly, pages + OTHER_PAGES, Some(pages))
            .with_context(|| image.display().to_string())?;
        let process = host.process([
            Arc::new(Standard::Input),
            Arc::new(Standard::Output),
            Arc::new(Standard::Error),
        ]);
        Ok(Self { process, host })
    }
    /// What a command runs with.
    pub fn context(&self) -> Context {
        Context::new(self.process.clone(), self.host.clone())
    }
    /// What the file system is: names and values.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        self.host.describe()
    }
    /// Write everything and let go of the image.
    ///
    /// # Errors
    /// What could not be written.
    pub fn unmount(self) -> Result<()> {
        self.process.exit();
        self.host.unmount().map_err(|e| anyhow!("{e}"))
    }
}
