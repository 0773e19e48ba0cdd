//! Which features are supported, and how they are called.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::geometry::Geometry;
use super::mount::Mount;
use super::ondisk::superblock::{Incompat, RoCompat, Superblock};

/// The largest block: a page.
const MAX_BLOCK_LOG: u8 = 12;
/// Features of the log's contents that leave nothing behind in a clean log.
const KNOWN_LOG_INCOMPAT: u32 = 3;

/// Names of incompatible feature bits, by number, known to us or not.
const INCOMPAT_NAMES: [&str; 11] = [
    "ftype",
    "sparse inodes",
    "meta_uuid",
    "bigtime",
    "needsrepair",
    "nrext64",
    "exchange-range",
    "parent pointers",
    "metadata directories",
    "zoned",
    "zone gaps",
];

fn bit_names(bits: u32, names: &[&str]) -> String {
    let named: Vec<String> = (0..32)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(|bit| match names.get(bit) {
            Some(name) => format!("bit {bit} ({name})"),
            None => format!("bit {bit}"),
        })
        .collect();
    named.join(", ")
}

/// Can we mount this?
///
/// # Errors
/// What we cannot.
pub fn check(sb: &Superblock, readonly: bool) -> Result<(), String> {
    let incompat = Incompat::from_bits_retain(sb.incompat);
    let refuse =
        |condition: bool, what: &str| if condition { Err(what.to_string()) } else { Ok(()) };
    refuse(sb.in_progress, "mkfs did not finish")?;
    refuse(
        incompat.contains(Incompat::NEEDS_REPAIR),
        "the file system needs repair (needsrepair is set): run xfs_repair",
    )?;
    let unknown = sb.incompat & !Incompat::all().bits();
    refuse(
        unknown != 0,
        &format!("incompatible features {}", bit_names(unknown, &INCOMPAT_NAMES)),
    )?;
    refuse(!incompat.contains(Incompat::FTYPE), "directories without file types (ftype=0)")?;
    if sb.block_log > MAX_BLOCK_LOG {
        return Err(format!("blocks of {} bytes, larger than a page", 1u32 << sb.block_log));
    }
    refuse(sb.block_log < 10, "blocks of 512 bytes")?;
    refuse(sb.rt_blocks != 0 || sb.rt_extents != 0, "a realtime device")?;
    refuse(sb.log_start == 0, "an external log")?;
    if readonly {
        return Ok(());
    }
    let unknown = sb.ro_compat & !RoCompat::all().bits();
    refuse(
        unknown != 0,
        &format!("writing with read-only compatible features {}", bit_names(unknown, &[])),
    )?;
    let unknown = sb.log_incompat & !KNOWN_LOG_INCOMPAT;
    refuse(unknown != 0, &format!("writing with log features {}", bit_names(unknown, &[])))
}

/// What `xfs_info` calls the values of a switch.
fn switch(on: bool) -> String {
    if on { "1" } else { "0" }.to_string()
}

impl Mount {
    /// The file system's features and sizes in the words of `xfs_info`, in its order.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let g: &Geometry = self.geometry();
        let ro = |feature| switch(g.ro_compat.contains(feature));
        let inc = |feature| switch(g.incompat.contains(feature));
        let unit_blocks = g.log_stripe_unit_bytes >> g.block_log;
        let mut words = alloc::vec![
            ("isize", g.inode_bytes().to_string()),
            ("agcount", g.ag_count.to_string()),
            ("agsize", g.ag_blocks.to_string()),
            ("sectsz", g.sector_bytes().to_string()),
            ("crc", switch(true)),
            ("finobt", ro(RoCompat::FINOBT)),
            ("sparse", inc(Incompat::SPARSE_INODES)),
            ("rmapbt", ro(RoCompat::RMAPBT)),
            ("reflink", ro(RoCompat::REFLINK)),
            ("bigtime", inc(Incompat::BIGTIME)),
            ("inobtcount", ro(RoCompat::INOBTCOUNT)),
            ("nrext64", inc(Incompat::NREXT64)),
            ("exchange", inc(Incompat::EXCHANGE_RANGE)),
            ("parent", inc(Incompat::PARENT)),
            ("bsize", g.block_bytes().to_string()),
            ("blocks", g.data_blocks.to_string()),
            ("imaxpct", g.inode_max_percent.to_string()),
            ("sunit", g.stripe_unit_blocks.to_string()),
            ("swidth", g.stripe_width_blocks.to_string()),
            ("naming", "version 2".to_string()),
            ("dirblksize", g.dir_block_bytes().to_string()),
            ("ascii-ci", switch(g.ascii_ci)),
            ("ftype", inc(Incompat::FTYPE)),
            ("log", "internal".to_string()),
            ("logblocks", g.log_blocks.to_string()),
            ("logsectsz", g.log_sector_bytes.to_string()),
            ("logsunit", unit_blocks.to_string()),
            ("lazy-count", switch(g.lazy_count)),
            ("realtime", "none".to_string()),
            ("uuid", g.uuid.to_string()),
        ];
        if !g.label.is_empty() {
            words.push(("label", g.label.clone()));
        }
        words
    }
}
