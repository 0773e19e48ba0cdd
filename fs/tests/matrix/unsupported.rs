//! File systems that cannot be mounted, or only for reading: refused by name, and no byte
//! of the device changes.

use std::sync::Arc;

use holdfast_fs::block::Queue;
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::{Mount, MountError, MountOptions};

use crate::volume::Volume;
use crate::xfsprogs::{contents, disk_over};

/// Fields of the superblock: where, and how many bytes.
const RO_COMPAT: (usize, usize) = (212, 4);
const INCOMPAT: (usize, usize) = (216, 4);
const LOG_INCOMPAT: (usize, usize) = (220, 4);
const QUOTA_FLAGS: (usize, usize) = (176, 2);
const IN_PROGRESS: (usize, usize) = (126, 1);
const LOG_START: (usize, usize) = (48, 8);
const REALTIME_BLOCKS: (usize, usize) = (16, 8);
const CHECKSUM_AT: usize = 224;

/// How a field changes.
#[derive(Clone, Copy)]
enum Change {
    /// Another mkfs.
    Mkfs(&'static [&'static str]),
    Set((usize, usize), u64),
    /// A bit more.
    Bit((usize, usize), u32),
}

/// One kind of file system.
pub struct Case {
    pub name: &'static str,
    how: Change,
    /// Words of the refusal to write, and to read.
    pub writing: Option<&'static str>,
    pub reading: Option<&'static str>,
}

const fn never(name: &'static str, how: Change, word: &'static str) -> Case {
    Case { name, how, writing: Some(word), reading: Some(word) }
}

const fn readonly(name: &'static str, how: Change, word: &'static str) -> Case {
    Case { name, how, writing: Some(word), reading: None }
}

pub const CASES: &[Case] = &[
    never("version 4", Change::Mkfs(&["-m", "crc=0"]), "version 4"),
    never("blocks of 512 bytes", Change::Mkfs(&["-m", "crc=0", "-b", "size=512"]), "version 4"),
    never("blocks larger than a page", Change::Mkfs(&["-b", "size=8192"]), "larger than a page"),
    never("a realtime device", Change::Set(REALTIME_BLOCKS, 100), "realtime"),
    never("an external log", Change::Set(LOG_START, 0), "external log"),
    never("mkfs did not finish", Change::Set(IN_PROGRESS, 1), "mkfs did not finish"),
    never("needs repair", Change::Bit(INCOMPAT, 4), "needs repair"),
    never("metadata directories", Change::Bit(INCOMPAT, 8), "metadata directories"),
    never("zoned", Change::Bit(INCOMPAT, 9), "zoned"),
    never("zone gaps", Change::Bit(INCOMPAT, 10), "zone gaps"),
    never("an incompatible feature nobody knows", Change::Bit(INCOMPAT, 20), "bit 20"),
    readonly("a read-only compatible feature nobody knows", Change::Bit(RO_COMPAT, 9), "bit 9"),
    readonly("a feature of the log nobody knows", Change::Bit(LOG_INCOMPAT, 7), "bit 7"),
    Case {
        name: "quota accounted and enforced (it is not kept up: its flags are cleared, as by a \
               mount without quota)",
        how: Change::Set(QUOTA_FLAGS, 0x7f),
        writing: None,
        reading: None,
    },
];

fn image(case: &Case) -> Arc<Vec<u8>> {
    let words = if let Change::Mkfs(words) = case.how { words } else { &[] };
    let mut bytes = crate::make(24, words);
    let sector = usize::from(u16::from_be_bytes([bytes[102], bytes[103]]));
    let groups = u32::from_be_bytes(bytes[88..92].try_into().expect("four bytes")) as usize;
    let group = u32::from_be_bytes(bytes[84..88].try_into().expect("four bytes")) as usize;
    // Each group has a copy.
    for superblock in (0..groups).map(|n| n * group * 4096) {
        let bytes = &mut bytes[superblock..superblock + sector];
        match case.how {
            Change::Mkfs(_) => continue,
            Change::Set((at, len), value) => {
                bytes[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
            }
            Change::Bit((at, len), bit) => {
                let byte = at + len - 1 - bit as usize / 8;
                assert_eq!(bytes[byte] & 1 << (bit % 8), 0, "the bit is new");
                bytes[byte] |= 1 << (bit % 8);
            }
        }
        stamp(bytes);
    }
    Arc::new(bytes)
}

/// A new checksum (CRC-32C) for a changed superblock.
fn stamp(bytes: &mut [u8]) {
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    let mut crc = u32::MAX;
    for byte in &*bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&(!crc).to_le_bytes());
}

/// What a mount says, and what is on the device then.
fn mount(image: &Arc<Vec<u8>>, readonly: bool) -> (Result<Arc<Mount>, MountError>, Vec<u8>) {
    let disk = disk_over(image.clone());
    let memory: Arc<dyn Memory> = HostMemory::new(16384);
    let mounted = Mount::open(Queue::new(disk.clone()), memory, MountOptions { readonly });
    (mounted, contents(&disk))
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for case in CASES {
        let image = image(case);
        for (readonly, word) in [(false, case.writing), (true, case.reading)] {
            let (mounted, bytes) = mount(&image, readonly);
            let what = format!("{}, readonly {readonly}", case.name);
            match (mounted, word) {
                (Err(MountError::Unsupported(why)), Some(word)) => {
                    assert!(why.contains(word), "{what}: it says `{why}`, not `{word}`");
                }
                (Ok(mount), None) => drop(mount),
                (Ok(_), Some(_)) => panic!("{what}: it was mounted"),
                (Err(error), _) => panic!("{what}: {error}"),
            }
            if word.is_some() || readonly {
                assert!(bytes == image[..], "{what}: the device was written to");
            }
        }
    }
}

/// Writing with quota flags set goes as by Linux without quota: they are cleared, so that
/// whoever wants quota again counts anew.
#[test]
fn quota_flags_are_cleared_by_a_mount_for_writing() {
    let case = CASES.iter().find(|case| case.name.starts_with("quota")).expect("a case");
    let volume = Volume::over(&image(case));
    volume.touch(b"/f").expect("it can be written to");
    let image = volume.finish();
    assert_eq!(image[QUOTA_FLAGS.0..QUOTA_FLAGS.0 + QUOTA_FLAGS.1], [0, 0]);
}
