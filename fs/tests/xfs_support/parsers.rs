//! Every parser of on-disk structures, for tests and fuzzers: bytes in, no panic.

use std::hint::black_box;

use holdfast_fs::xfs::Ino;
use holdfast_fs::xfs::geometry::Geometry;
use holdfast_fs::xfs::ondisk::block::BlockKind;
use holdfast_fs::xfs::ondisk::btree::{LongBlock, ShortBlock};
use holdfast_fs::xfs::ondisk::inode::InodeCore;
use holdfast_fs::xfs::ondisk::superblock::Superblock;
use holdfast_fs::xfs::ondisk::{
    agf, agfl, agi, attr_leaf, attr_remote, attr_sf, bmbt, btree, da_node, dir_data, dir_free,
    dir_leaf, dir_sf, freesp, inobt, log_inode, log_intents, log_items, log_record, refcountbt,
    rmapbt, symlink,
};
use holdfast_fs::xfs::types::AgNumber;

/// A parser and its name.
pub type Parser = (&'static str, fn(&[u8], &Geometry));

/// All of them.
pub const PARSERS: &[Parser] = &[
    ("superblock", |b, _| drop(black_box(Superblock::decode(b)))),
    ("agf", |b, g| drop(black_box(agf::Agf::decode(b, g, AgNumber(0))))),
    ("agi", |b, g| drop(black_box(agi::Agi::decode(b, g, AgNumber(0))))),
    ("agfl", |b, g| {
        if let Ok(agf) = agf::Agf::decode(b, g, AgNumber(0)) {
            drop(black_box(agfl::blocks(b, g, AgNumber(0), &agf)));
        }
    }),
    ("inode", |b, g| drop(black_box(InodeCore::decode(b, g, Ino(128))))),
    ("short btrees", short_trees),
    ("bmbt", extent_trees),
    ("shortform directory", |b, _| {
        if let Ok(view) = dir_sf::View::new(b) {
            assert!(view.entries().all(|e| e.is_ok()), "a checked directory");
            black_box(view.parent());
        }
    }),
    ("directory data", directory_data),
    ("directory leaf", |b, _| {
        let count = dir_leaf::bests(b).count();
        if dir_leaf::check(b).is_ok() {
            let leaf = dir_leaf::Leaf::new(b).expect("a checked leaf");
            assert!((0..leaf.count).all(|i| leaf.entry(i).is_some()), "{count} bests");
        }
    }),
    ("directory free space", |b, _| {
        if let Ok(free) = dir_free::Free::new(b) {
            let valid = free.header.valid() as usize;
            assert!((0..valid).all(|i| free.count(i).is_some()));
        }
    }),
    ("hash tree node", |b, _| {
        if da_node::check(b).is_ok() {
            let node = da_node::Node::new(b).expect("a checked node");
            for i in 0..node.count {
                let (hash, _) = node.entry(i).expect("an entry");
                assert!(node.search(hash).is_some());
            }
        }
    }),
    ("shortform attributes", |b, _| {
        if let Ok(view) = attr_sf::View::new(b) {
            assert!(view.entries().all(|e| e.is_ok()), "checked attributes");
        }
    }),
    ("attribute leaf", |b, _| {
        if attr_leaf::check(b).is_ok() {
            let leaf = attr_leaf::Leaf::new(b).expect("a checked leaf");
            assert!((0..leaf.count).all(|i| leaf.entry(i).is_some()));
        }
    }),
    ("attribute value", |b, _| drop(black_box(attr_remote::check(b)))),
    ("symlink", |b, _| drop(black_box(symlink::check(b)))),
    ("log record", |b, g| {
        black_box(log_record::cycle_of(b));
        drop(black_box(log_record::Header::decode(b, 0, 1000, g.uuid)));
    }),
    ("log items", |b, _| {
        drop(black_box(log_items::BufFormat::decode(b)));
        drop(black_box(log_items::IcreateFormat::decode(b)));
        drop(black_box(log_items::TransactionHeader::decode(b)));
        black_box(log_items::OpHeader::decode(b));
        drop(black_box(log_inode::InodeFormat::decode(b)));
        drop(black_box(log_inode::root_to_fork(b, &mut [0; 336])));
        drop(black_box(log_intents::Done::decode(b)));
        if let Ok((id, intent)) = log_intents::Intent::decode(b) {
            let mut again = Vec::new();
            intent.encode(id, &mut again);
            assert_eq!(log_intents::Intent::decode(&again), Ok((id, intent)));
        }
    }),
    ("any block", |b, g| {
        if let Some(kind) = BlockKind::identify(b) {
            let sector = holdfast_fs::block::Sector(8);
            drop(black_box(holdfast_fs::xfs::ondisk::block::verify(&[kind], g, sector, b)));
            black_box(kind.owner(b));
        }
    }),
];

fn short_trees(bytes: &[u8], geometry: &Geometry) {
    fn visit<R: btree::Record>(bytes: &[u8], mut each: impl FnMut(R)) {
        if btree::check_short(bytes, R::BYTES, R::KEY_BYTES).is_err() {
            return;
        }
        let block = ShortBlock::new(bytes).expect("a checked block");
        for i in 0..block.count() {
            if block.level() == 0 {
                let record = block.record::<R>(i).expect("a record");
                black_box(record.key());
                each(record);
            } else {
                black_box((
                    block.key::<R>(i).expect("a key"),
                    block.child::<R>(i).expect("a child"),
                ));
            }
        }
    }
    visit::<freesp::ByBlock>(bytes, |_| ());
    visit::<freesp::BySize>(bytes, |_| ());
    visit::<rmapbt::Rmap>(bytes, |_| ());
    visit::<refcountbt::Refcount>(bytes, |_| ());
    visit::<inobt::RawChunk>(bytes, |raw| {
        for sparse in [false, true] {
            if let Ok(chunk) = raw.check(geometry, AgNumber(0), sparse) {
                assert!(chunk.used().count() as u32 + chunk.free_count <= 64);
            }
        }
    });
}

fn extent_trees(bytes: &[u8], _: &Geometry) {
    if let Ok(root) = bmbt::BmbtRoot::decode(bytes) {
        assert!((0..root.count).all(|i| root.child(i).is_some()));
    }
    if btree::check_long(bytes).is_ok() {
        let block = LongBlock::new(bytes).expect("a checked block");
        assert_eq!(block.records().map(bmbt::Extent::decode).count(), block.count());
        assert!((0..block.count()).all(|i| block.child(i).is_some()));
    }
}

fn directory_data(bytes: &[u8], _: &Geometry) {
    if dir_data::check(bytes).is_err() {
        return;
    }
    let end = dir_data::entries_end(bytes).expect("a checked block");
    let mut at = dir_data::DataHeader::SIZE;
    while at < end {
        at += dir_data::item(bytes, at, end).expect("a checked entry").length();
    }
    for at in 0..=end {
        drop(black_box(dir_data::entry(bytes, at, end)));
    }
}
