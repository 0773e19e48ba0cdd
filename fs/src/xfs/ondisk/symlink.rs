//! Targets of symbolic links that do not fit into the inode. Each extent of the link
//! starts with the header that blocks of attribute values have, too.

use super::Check;
use super::attr_remote::check_part;

pub use super::attr_remote::Header;

/// "XSLM".
pub const MAGIC: u32 = 0x5853_4c4d;

/// Check an extent of a target.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    check_part(block, "target", super::inode::MAX_SYMLINK)
}
