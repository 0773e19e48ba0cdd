//! Images of many geometries made by mkfs.xfs: everything on them reads as it was put
//! there, and sizes, features, counters and trees are what xfs_db says.

use std::path::Path;
use std::sync::Arc;

use crate::xfs_support::{
    GEOMETRIES, Scratch, craft, mkfs, mount_bytes, mount_file, number, walk, xfs_db,
};
use holdfast_fs::Error;
use holdfast_fs::iomap::{MapFlags, MapKind, Ops, Purpose, ReservedFork};
use holdfast_fs::xfs::log::head::LogState;
use holdfast_fs::xfs::types::AgNumber;
use holdfast_fs::xfs::{FileType, ForkKind, Mount};

#[test]
fn geometries() {
    let scratch = Scratch::new("xfs-geometries");
    let proto = craft::prototype(&scratch, 700);
    for (options, megabytes) in GEOMETRIES {
        println!("mkfs.xfs {options:?}");
        let image = scratch.path("image");
        mkfs(&image, *megabytes, options, Some(&proto));
        let mount = mount_file(&image);
        check_prototype(&mount);
        check_counters(&mount, &image);
        check_description(&mount, &image);
        check_groups(&mount, &image);
        assert!(matches!(mount.log_state(), LogState::Clean { .. }), "{:?}", mount.log_state());
    }
}

/// Is everything there that the prototype asked for, and nothing else?
fn check_prototype(mount: &Arc<Mount>) {
    let tree = walk::tree(mount);
    assert!(tree.errors.is_empty(), "{:?}", tree.errors);
    assert_eq!(tree.objects.len(), 1 + 10 + 2 + 3 + 4 * 3 + 6 + 40 + 150 + 700);
    let pattern = |n: usize| (0..n).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>();
    for (name, contents, mode, owner) in [
        ("small", pattern(5000), 0o100_644, (1, 2)),
        ("large", pattern(300_000), 0o100_600, (3, 4)),
        ("empty", Vec::new(), 0o100_444, (0, 0)),
    ] {
        let inode = walk::resolve(mount, name).expect(name);
        let a = inode.attributes();
        assert_eq!((a.mode, (a.uid, a.gid), a.nlink), (mode, owner, 1), "{name}");
        assert_eq!(a.size, contents.len() as u64, "{name}");
        assert!(walk::read_file(&inode).expect(name) == contents, "contents of {name}");
    }
    let link = walk::resolve(mount, "link").expect("link");
    assert_eq!(link.readlink().expect("target"), b"some/where/else");
    assert_eq!(link.size(), 15);
    let char = walk::resolve(mount, "a-char-device").expect("device");
    assert_eq!((char.file_type(), char.attributes().rdev), (FileType::CharDevice, (5, 1)));
    let block = walk::resolve(mount, "a-block-device").expect("device");
    assert_eq!((block.file_type(), block.attributes().rdev), (FileType::BlockDevice, (259, 7)));
    assert_eq!(walk::resolve(mount, "pipe").expect("pipe").file_type(), FileType::Fifo);
    for (dir, names) in [("sf", 6), ("block", 40), ("leaf", 150), ("node", 700)] {
        check_directory(mount, dir, names);
    }
    let root = mount.inode(mount.root()).expect("root");
    assert_eq!(root.lookup(b"small/").err(), Some(Error::NotFound));
    assert_eq!(root.lookup(&[b'x'; 256]).err(), Some(Error::NameTooLong));
    assert_eq!(link.lookup(b"x").err(), Some(Error::NotDirectory));
    assert_eq!(root.readlink().err(), Some(Error::Invalid("not a symbolic link")));
}

fn check_directory(mount: &Arc<Mount>, name: &str, names: usize) {
    let dir = walk::resolve(mount, name).expect(name);
    let listed = walk::list(&dir).expect(name);
    assert_eq!(listed[0], (b".".to_vec(), dir.ino(), FileType::Directory));
    assert_eq!(listed[1], (b"..".to_vec(), mount.root(), FileType::Directory));
    assert_eq!(listed.len(), names + 3);
    for (entry, ino, file_type) in &listed {
        assert_eq!(dir.lookup(entry), Ok(*ino));
        assert_eq!(mount.inode(*ino).expect("inode").file_type(), *file_type);
    }
    for i in 0..names {
        let absent = format!("an-entry-with-a-name-{i}x");
        assert_eq!(dir.lookup(absent.as_bytes()), Err(Error::NotFound));
    }
    // Piece by piece, stopping before each entry once, gives the same.
    let mut again = Vec::new();
    let mut cursor = 0;
    loop {
        let mut taken = None;
        let next = dir
            .readdir(cursor, &mut |e| {
                if taken.is_some() {
                    return false;
                }
                taken = Some((e.name.to_vec(), e.ino, e.file_type, e.next_cursor));
                true
            })
            .expect(name);
        let Some((entry, ino, file_type, entry_cursor)) = taken else { break };
        again.push((entry, ino, file_type));
        assert!(next >= entry_cursor && entry_cursor > cursor, "cursors rise");
        cursor = entry_cursor;
    }
    assert_eq!(again, listed);
}

/// statfs against the superblock as xfs_db prints it.
fn check_counters(mount: &Arc<Mount>, image: &Path) {
    let sb = xfs_db(image, &["sb 0", "p"]);
    let statfs = mount.statfs();
    // A mount for writing keeps some back for trees that may grow.
    let free = number(&sb, "fdblocks");
    assert!(if mount.readonly() { statfs.blocks_free == free } else { statfs.blocks_free <= free });
    assert_eq!(statfs.blocks, number(&sb, "dblocks") - number(&sb, "logblocks"));
    assert_eq!(u64::from(statfs.block_bytes), number(&sb, "blocksize"));
    let used = number(&sb, "icount") - number(&sb, "ifree");
    assert_eq!(statfs.files - statfs.files_free, used);
    assert!(statfs.files >= number(&sb, "icount"));
}

/// The description against that of xfs_db's "info".
fn check_description(mount: &Arc<Mount>, image: &Path) {
    let info = xfs_db(image, &["info"]);
    let words: Vec<&str> = info.split([' ', ',', '\n']).collect();
    let ours = mount.describe();
    let value = |name: &str| &ours.iter().find(|(n, _)| *n == name).expect(name).1;
    for name in [
        "isize",
        "agcount",
        "agsize",
        "crc",
        "finobt",
        "sparse",
        "rmapbt",
        "reflink",
        "bigtime",
        "inobtcount",
        "nrext64",
        "imaxpct",
        "swidth",
        "ascii-ci",
        "ftype",
        "lazy-count",
    ] {
        let prefix = format!("{name}=");
        let theirs = words.iter().find_map(|w| w.strip_prefix(prefix.as_str())).expect(name);
        assert_eq!(value(name), theirs, "{name} in {info}");
    }
    // These occur more than once: data, naming, log in this order.
    let all = |name: &str| -> Vec<&str> {
        let prefix = format!("{name}=");
        words.iter().filter_map(|w| w.strip_prefix(prefix.as_str())).collect()
    };
    assert_eq!([value("bsize"), value("dirblksize")], all("bsize")[..2]);
    assert_eq!([value("sectsz"), value("logsectsz")], all("sectsz")[..2]);
    assert_eq!([value("sunit"), value("logsunit")], all("sunit")[..2]);
    assert_eq!([value("blocks"), value("logblocks")], all("blocks")[..2]);
}

/// The groups' headers and trees against xfs_db and each other.
fn check_groups(mount: &Arc<Mount>, image: &Path) {
    let mut free_total = 0;
    for ag in (0..mount.geometry().ag_count).map(AgNumber) {
        let select = format!("agf {}", ag.0);
        let theirs = xfs_db(image, &[&select, "p"]);
        let agf = mount.agf(ag).expect("AGF");
        assert_eq!(u64::from(agf.free_blocks), number(&theirs, "freeblks"));
        assert_eq!(u64::from(agf.longest), number(&theirs, "longest"));
        let (mut by_block, mut by_size) = (Vec::new(), Vec::new());
        mount
            .free_by_block(ag, &mut |e| {
                by_block.push((e.start, e.count));
                true
            })
            .expect("bnobt");
        mount
            .free_by_size(ag, &mut |e| {
                by_size.push((e.start, e.count));
                true
            })
            .expect("cntbt");
        assert!(by_size.windows(2).all(|w| w[0].1 <= w[1].1));
        by_size.sort_unstable();
        assert_eq!(by_block, by_size);
        let free: u64 = by_block.iter().map(|(_, n)| u64::from(*n)).sum();
        assert_eq!(free, u64::from(agf.free_blocks));
        let spare = mount.agfl(ag).expect("AGFL").len() as u64;
        free_total += free + spare + u64::from(agf.btree_blocks);
        let agi = mount.agi(ag).expect("AGI");
        let (mut count, mut unused) = (0, 0);
        mount
            .inode_chunks(ag, false, &mut |c| {
                count += c.count;
                unused += c.free_count;
                for agino in c.used() {
                    mount.inode(mount.geometry().ino(ag, agino)).expect("an inode in use");
                }
                true
            })
            .expect("inobt");
        assert_eq!((count, unused), (agi.count, agi.free_count));
        let mut unused_again = 0;
        mount
            .inode_chunks(ag, true, &mut |c| {
                unused_again += c.free_count;
                true
            })
            .expect("finobt");
        assert!(agi.finobt.is_none() || unused_again == unused);
        let mut mapped = 0;
        mount
            .reverse_mappings(ag, &mut |r| {
                mapped += u64::from(r.count);
                true
            })
            .expect("rmapbt");
        if agf.rmapbt.is_some() {
            // Everything that is not free has one owner; the free list is mapped as well.
            assert_eq!(mapped + free, u64::from(agf.length));
        }
    }
    let free = mount.statfs().blocks_free;
    assert!(if mount.readonly() { free == free_total } else { free <= free_total }, "{free}");
}

#[test]
fn names_without_regard_to_case() {
    let scratch = Scratch::new("xfs-ascii-ci");
    let proto = craft::prototype(&scratch, 700);
    let image = scratch.path("image");
    mkfs(&image, 40, &["-n", "version=ci"], Some(&proto));
    let mount = mount_file(&image);
    for dir in ["SF", "Block", "leAF", "NODE"] {
        let dir = walk::resolve(&mount, dir).expect(dir);
        let exact = dir.lookup(b"an-entry-with-a-name-3").expect("the name itself");
        assert_eq!(dir.lookup(b"AN-entry-With-a-NAME-3"), Ok(exact));
        assert_eq!(dir.lookup(b"AN-entry-With-a-NAME-333333"), Err(Error::NotFound));
    }
}

#[test]
fn deep_extent_trees_and_attributes() {
    let scratch = Scratch::new("xfs-crafted");
    let bytes =
        Arc::new(craft::image(&scratch, "image", 36, &["-b", "size=1024", "-m", "reflink=1"]));
    let mount = mount_bytes(bytes, false).expect("mount");
    for (name, count) in [("tree", 300), ("deeptree", 5000)] {
        let inode = walk::resolve(&mount, name).expect(name);
        let extents = inode.all_extents(ForkKind::Data).expect(name);
        assert_eq!(extents.len(), count);
        for (i, e) in (0..).zip(&extents) {
            assert_eq!((e.offset.0, e.count), (i * 2, 1));
        }
        // A block, a hole, a block; and the end.
        let map = inode.begin(1024 * 7 + 5, 1, Purpose::Read).expect("map");
        assert_eq!((map.kind, map.offset_bytes, map.length_bytes), (MapKind::Hole, 7168, 1024));
        let map = inode.begin(1024 * 8, 5000, Purpose::Read).expect("map");
        assert!(matches!(map.kind, MapKind::Written { .. }) && map.length_bytes == 1024);
        assert!(inode.is_valid(&map));
        let beyond = inode.begin(u64::MAX >> 1, 1, Purpose::Read).expect("map");
        assert_eq!(beyond.kind, MapKind::Hole);
        assert_eq!(inode.begin(1 << 63, 1, Purpose::Read).err(), Some(Error::TooBig));
    }
    let link = walk::resolve(&mount, "long-link").expect("link");
    assert_eq!(link.readlink().expect("target"), [b't'; 700]);
    for (name, count) in [("sf-attr", 3), ("leaf-attr", 8), ("node-attr", 200), ("remote-attr", 3)]
    {
        let inode = walk::resolve(&mount, name).expect(name);
        let names = inode.listxattr().expect(name);
        assert_eq!(names.len(), count, "{name}");
        for attr in &names {
            assert!(!inode.getxattr(attr).expect(name).is_empty());
        }
        assert_eq!(inode.getxattr(b"user.absent").err(), Some(Error::NoAttribute));
        assert_eq!(inode.getxattr(b"other.a").unwrap_err().errno(), 95);
    }
    let sf = walk::resolve(&mount, "sf-attr").expect("sf-attr");
    assert_eq!(sf.getxattr(b"trusted.b").expect("b").len(), 9);
    assert_eq!(sf.getxattr(b"security.c").expect("c").len(), 20);
    assert_eq!(sf.getxattr(b"user.b").err(), Some(Error::NoAttribute));
    let remote = walk::resolve(&mount, "remote-attr").expect("remote-attr");
    assert_eq!(remote.getxattr(b"user.value60000").expect("value").len(), 60000);
}

#[test]
fn maps_for_writing_say_what_is_shared() {
    let scratch = Scratch::new("xfs-overwrite");
    let bytes = craft::image(&scratch, "image", 36, &["-b", "size=1024", "-m", "reflink=1"]);
    let bytes = Arc::new(bytes);
    let mount = mount_bytes(bytes.clone(), false).expect("mount");
    let file = walk::resolve(&mount, "small").expect("small");
    assert_eq!(file.prepare_write(0, 1 << 40), Ok(()));
    let map = file.begin(0, 5000, Purpose::Write).expect("what is there");
    assert!(matches!(map.kind, MapKind::Written { .. }), "{map:?}");
    // A block between two blocks is reserved, and given back.
    let sparse = walk::resolve(&mount, "tree").expect("tree");
    let free = mount.statfs().blocks_free;
    let map = sparse.begin(3072, 1024, Purpose::Write).expect("a hole");
    assert_eq!((map.kind, map.offset_bytes, map.length_bytes), (MapKind::Delalloc, 3072, 1024));
    assert!(map.flags.contains(MapFlags::NEW) && mount.statfs().blocks_free < free);
    sparse.punch_delalloc(3072..4096, ReservedFork::Data).expect("given back");
    assert_eq!(mount.statfs().blocks_free, free);
    assert!(!sparse.is_valid(&map));
    // Block 1 of "shared" has two owners: its data goes elsewhere, that of block 0 does not.
    // What lies ready for such copies reaches beyond it, and block 2 will use that.
    let shared = walk::resolve(&mount, "shared").expect("shared");
    let map = shared.begin(0, 1024, Purpose::Write).expect("the first block");
    assert!(matches!(map.kind, MapKind::Written { .. }) && !map.flags.contains(MapFlags::SHARED));
    let map = shared.begin(1024, 1024, Purpose::Write).expect("the second");
    assert!(map.flags.contains(MapFlags::SHARED), "{map:?}");
    shared.punch_delalloc(1024..2048, ReservedFork::Cow).expect("given back");
    let map = shared.begin(2048, 1024, Purpose::Write).expect("the third");
    assert!(map.flags.contains(MapFlags::SHARED) && !map.flags.contains(MapFlags::NEW), "{map:?}");
    shared.drop_copies().expect("given back");
    let map = shared.begin(2048, 1024, Purpose::Write).expect("the third");
    assert!(matches!(map.kind, MapKind::Written { .. }) && !map.flags.contains(MapFlags::SHARED));
    let readonly = mount_bytes(bytes, true).expect("mount");
    let file = walk::resolve(&readonly, "small").expect("small");
    assert!(matches!(file.prepare_write(0, 1), Err(Error::ReadOnly(_))));
    mount.shut_down("the test is over");
}
