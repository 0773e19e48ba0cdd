//! Images as a newer xfsprogs than the installed one makes them.

use std::sync::Arc;

use holdfast_fs::xfs::ondisk::superblock::{Incompat, Superblock};

use super::mutate::stamp;

/// Where the superblock has its incompatible features.
const INCOMPAT_AT: usize = 216;

/// Switch features of an unmounted image on or off, in all copies of the superblock.
pub fn switch(image: &[u8], features: Incompat, on: bool) -> Arc<Vec<u8>> {
    let mut bytes = image.to_vec();
    let sb = Superblock::decode(&bytes[..4096]).expect("a superblock");
    for ag in 0..u64::from(sb.ag_count) {
        let at = ((ag * u64::from(sb.ag_blocks)) << sb.block_log) as usize;
        let place = at + INCOMPAT_AT..at + INCOMPAT_AT + 4;
        let mut bits = Incompat::from_bits_retain(u32::from_be_bytes(
            bytes[place.clone()].try_into().expect("four bytes"),
        ));
        bits.set(features, on);
        bytes[place].copy_from_slice(&bits.bits().to_be_bytes());
        stamp(&mut bytes[at..at + 4096]);
    }
    Arc::new(bytes)
}
