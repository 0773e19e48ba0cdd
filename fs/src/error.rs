//! What can go wrong, once for the whole stack; Linux's errno only at the edge.

use alloc::string::String;
use core::fmt;

/// The result of a file system operation.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Damage found on the disk: which structure, where, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The structure, in the field's words: "AGF", "inode", "bmbt block", "dir leaf".
    pub structure: &'static str,
    /// Where: the block as a file system block number or daddr, or the inode, spelled out.
    pub location: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corrupt {} at {}: {}", self.structure, self.location, self.reason)
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The device failed.
    Io,
    /// The disk holds damaged metadata.
    Corrupt(Corruption),
    /// The operation would change what cannot be changed; says why.
    ReadOnly(&'static str),
    /// No memory.
    NoMemory,
    /// No space on the device.
    NoSpace,
    /// A bad address in the caller's arguments.
    Fault,
    /// No such file or directory.
    NotFound,
    /// A path component is not a directory.
    NotDirectory,
    /// The object is a directory.
    IsDirectory,
    /// The object exists.
    Exists,
    /// A name longer than 255 bytes, or a path longer than 4095.
    NameTooLong,
    /// Too many symbolic links.
    Loop,
    /// A bad argument; says which.
    Invalid(&'static str),
    /// Not an open descriptor, or not open for this.
    BadDescriptor,
    /// Too many open files.
    TooManyFiles,
    /// No permission.
    Access,
    /// The operation is not supported on this object; says what.
    NotSupported(&'static str),
    /// No such attribute, or no data at that offset (SEEK_DATA: [`Error::NoData`]).
    NoAttribute,
    /// lseek found nothing to find.
    NoData,
    /// The caller's buffer is too small.
    Range,
    /// A file larger than can be.
    TooBig,
    /// No such system call or command.
    NotImplemented,
    /// The file system was shut down.
    Shutdown,
    /// Not a terminal-like device, or no such operation on the device.
    NotTty,
    /// Seek on something that cannot seek.
    IllegalSeek,
    /// The device or object is in use.
    Busy,
    /// An access to a mapped file beyond its end, or to data that could not be read
    /// (SIGBUS; the access itself has no errno, a system call answers EFAULT).
    Bus,
    /// The object cannot be mapped, or there is no such device.
    NoDevice,
    /// A value does not fit the type that reports it, or an offset overflows.
    Overflow,
    /// A directory that must be empty is not.
    NotEmpty,
    /// The two names lie on different file systems, or devices.
    CrossDevice,
    /// The inode cannot have more names.
    TooManyLinks,
    /// A value longer than can be stored.
    TooLong,
    /// Nobody may do this to this object; says why.
    NotPermitted(&'static str),
}

impl Error {
    /// Linux's number for this error (x86-64).
    pub const fn errno(&self) -> i32 {
        match self {
            Self::NotPermitted(_) => 1,
            Self::TooLong => 7,
            Self::Access => 13,
            Self::NotFound => 2,
            Self::Io | Self::Shutdown => 5,
            Self::BadDescriptor => 9,
            Self::NoMemory => 12,
            Self::Fault | Self::Bus => 14,
            Self::Busy => 16,
            Self::Exists => 17,
            Self::CrossDevice => 18,
            Self::NoDevice => 19,
            Self::NotDirectory => 20,
            Self::IsDirectory => 21,
            Self::Invalid(_) => 22,
            Self::TooManyFiles => 24,
            Self::NotTty => 25,
            Self::TooBig => 27,
            Self::NoSpace => 28,
            Self::IllegalSeek => 29,
            Self::ReadOnly(_) => 30,
            Self::TooManyLinks => 31,
            Self::Range => 34,
            Self::NameTooLong => 36,
            Self::NotImplemented => 38,
            Self::NotEmpty => 39,
            Self::Loop => 40,
            Self::NoAttribute => 61,
            Self::NoData => 6,
            Self::Overflow => 75,
            Self::NotSupported(_) => 95,
            Self::Corrupt(_) => 117,
        }
    }
    /// The text `strerror` gives for it, as the commands print it.
    pub const fn text(&self) -> &'static str {
        match self {
            Self::Access => "Permission denied",
            Self::NotFound => "No such file or directory",
            Self::Io | Self::Shutdown => "Input/output error",
            Self::BadDescriptor => "Bad file descriptor",
            Self::NoMemory => "Cannot allocate memory",
            Self::Fault => "Bad address",
            Self::Busy => "Device or resource busy",
            Self::Bus => "Bus error",
            Self::NoDevice => "No such device",
            Self::Overflow => "Value too large for defined data type",
            Self::Exists => "File exists",
            Self::TooLong => "Argument list too long",
            Self::NotEmpty => "Directory not empty",
            Self::CrossDevice => "Invalid cross-device link",
            Self::TooManyLinks => "Too many links",
            Self::NotPermitted(_) => "Operation not permitted",
            Self::NotDirectory => "Not a directory",
            Self::IsDirectory => "Is a directory",
            Self::Invalid(_) => "Invalid argument",
            Self::TooManyFiles => "Too many open files",
            Self::NotTty => "Inappropriate ioctl for device",
            Self::TooBig => "File too large",
            Self::NoSpace => "No space left on device",
            Self::IllegalSeek => "Illegal seek",
            Self::ReadOnly(_) => "Read-only file system",
            Self::Range => "Numerical result out of range",
            Self::NameTooLong => "File name too long",
            Self::NotImplemented => "Function not implemented",
            Self::Loop => "Too many levels of symbolic links",
            Self::NoAttribute => "No data available",
            Self::NoData => "No such device or address",
            Self::NotSupported(_) => "Operation not supported",
            Self::Corrupt(_) => "Structure needs cleaning",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(c) => c.fmt(f),
            Self::ReadOnly(why)
            | Self::Invalid(why)
            | Self::NotSupported(why)
            | Self::NotPermitted(why) => write!(f, "{}: {why}", self.text()),
            other => f.write_str(other.text()),
        }
    }
}

impl core::error::Error for Error {}

impl From<Corruption> for Error {
    fn from(c: Corruption) -> Self {
        Self::Corrupt(c)
    }
}

/// Build a [`Corruption`] with formatted location and reason.
#[macro_export]
macro_rules! corrupt {
    ($structure:expr, $location:expr, $($reason:tt)+) => {
        $crate::error::Corruption {
            structure: $structure,
            location: alloc::format!("{}", $location),
            reason: alloc::format!($($reason)+),
        }
    };
}
