//! Damage done with xfs_db, one kind for each check, and what is to be found then.

/// One kind of damage.
pub struct Damage {
    /// Commands of xfs_db. Words in braces stand for numbers of the image.
    pub commands: &'static [&'static str],
    /// The structure of a finding there has to be.
    pub structure: &'static str,
    /// A part of its reason.
    pub reason: &'static str,
    /// Why `xfs_repair -n` finds nothing, if it does not.
    pub alone: Option<&'static str>,
}

const fn damage(
    commands: &'static [&'static str],
    structure: &'static str,
    reason: &'static str,
) -> Damage {
    Damage { commands, structure, reason, alone: None }
}

const fn only_ours(
    commands: &'static [&'static str],
    structure: &'static str,
    reason: &'static str,
    why: &'static str,
) -> Damage {
    Damage { commands, structure, reason, alone: Some(why) }
}

/// All kinds.
pub const DAMAGES: &[Damage] = &[
    // The superblock, its copy, its sums.
    damage(&["sb 1", "write -d agblocks 5000"], "superblock", "blocks"),
    damage(&["sb 1", "write -d logblocks 1000"], "superblock", "the log's blocks"),
    damage(&["sb 0", "write -d fdblocks 7"], "superblock", "fdblocks is 7"),
    damage(&["sb 0", "write -d icount 640"], "superblock", "icount is 640"),
    damage(&["sb 0", "write -d ifree 3"], "superblock", "ifree is 3"),
    damage(&["sb 0", "write -d rbmino 131"], "inode", "not in use as a file"),
    // AGF and AGFL.
    damage(&["agf 0", "write -d freeblks 5"], "AGF", ""),
    damage(&["agf 1", "write -d longest 3"], "AGF", "longest is 3"),
    damage(&["agf 0", "write -d btreeblks 4"], "AGF", "btreeblks is 4"),
    damage(&["agf 0", "write -d rmapblocks 9"], "AGF", "rmapblocks is 9"),
    damage(&["agf 0", "write -d refcntblocks 9"], "AGF", "refcntblocks is 9"),
    damage(&["agf 0", "write -d flcount 5"], "AGF", "free list"),
    damage(&["agf 0", "write -d bnoroot 99999"], "AGF", "bnobt root"),
    damage(&["agf 0", "write -d bnolevel 2"], "bnobt block", "level 0 instead of 1"),
    damage(&["agf 0", "write -d length 77"], "AGF", "77 blocks"),
    damage(&["agfl 0", "write -d bno[2] {small.block}"], "space", "belong to"),
    damage(&["agfl 0", "write -d bno[2] 99999"], "AGFL", "99999"),
    // Free space.
    damage(
        &["agf 0", "addr bnoroot", "write -d recs[1].blockcount 2"],
        "cntbt block",
        "bnobt has it",
    ),
    damage(
        &["agf 0", "addr bnoroot", "write -d recs[1].startblock {small.block}"],
        "space",
        "free space",
    ),
    damage(&["agf 1", "addr bnoroot", "write -d recs[2].startblock 3101"], "bnobt block", "touch"),
    damage(&["agf 1", "addr bnoroot", "write -d recs[2].startblock 2"], "bnobt block", "key"),
    damage(
        &["agf 1", "addr bnoroot", "write -d recs[2].blockcount 99999"],
        "bnobt block",
        "do not exist",
    ),
    only_ours(
        &["agf 0", "addr bnoroot", "write -d rightsib 8"],
        "bnobt block",
        "behind it comes block 8",
        "it does not look at the siblings of a root",
    ),
    only_ours(
        &["agf 0", "addr bnoroot", "write -d leftsib 8"],
        "bnobt block",
        "left of it",
        "it does not look at the siblings of a root",
    ),
    damage(&["agf 1", "addr bnoroot", "write -d numrecs 1"], "space", "neither free nor in use"),
    damage(&["agf 0", "addr cntroot", "write -d recs[1].startblock 17"], "cntbt block", "bnobt"),
    damage(&["agf 1", "addr cntroot", "write -d numrecs 1"], "cntbt block", "no free extent"),
    // AGI and the trees of inodes.
    damage(&["agi 1", "write -d count 64"], "AGI", "count is 64"),
    damage(&["agi 1", "write -d freecount 7"], "AGI", "freecount is 7"),
    damage(&["agi 0", "write -d ino_blocks 3"], "AGI", "iblocks is 3"),
    damage(&["agi 0", "write -d fino_blocks 3"], "AGI", "fblocks is 3"),
    damage(&["agi 0", "write -d root 99999"], "AGI", "inobt root"),
    damage(&["agi 0", "write -d unlinked[3] {small.agino}"], "AGI", "list 3 of unlinked"),
    damage(
        &["agi 0", "addr root", "write -d recs[1].freecount 40"],
        "inobt block",
        "40 free inodes",
    ),
    damage(
        &["agi 1", "addr root", "write -d recs[2].freecount 1", "write -d recs[2].free 8"],
        "inode",
        "the inobt says it is not",
    ),
    damage(
        &["agi 0", "addr root", "write -d recs[1].startino 136"],
        "inobt block",
        "is not aligned",
    ),
    damage(&["agi 0", "addr root", "write -d recs[1].holemask 1"], "inobt block", "in holes"),
    damage(&["agi 1", "addr root", "write -d recs[2].startino 24720"], "inobt block", "overlaps"),
    damage(&["agi 0", "addr free_root", "write -d numrecs 0"], "finobt block", "no chunk"),
    damage(
        &["agi 1", "addr free_root", "write -d recs[1].startino 25792"],
        "finobt block",
        "inobt does not have it",
    ),
    // Reverse mappings and reference counts.
    damage(&["agf 0", "addr rmaproot", "write -d recs[2].owner 7"], "rmapbt", "which is not so"),
    damage(&["agf 0", "addr rmaproot", "write -d numrecs 18"], "rmapbt", "no record of"),
    damage(&["agf 0", "addr rmaproot", "write -d recs[7].offset 9"], "rmapbt", "file block 9"),
    damage(&["agf 0", "addr rmaproot", "write -d recs[7].extentflag 1"], "rmapbt", "unwritten"),
    damage(&["agf 0", "addr rmaproot", "write -d recs[7].attrfork 1"], "rmapbt", "attr fork"),
    damage(
        &["agf 0", "addr rmaproot", "write -d recs[7].blockcount 99999"],
        "rmapbt block",
        "do not exist",
    ),
    only_ours(
        &[
            "agf 0",
            "addr refcntroot",
            "write -d numrecs 1",
            "write -d recs[1].startblock {small.block}",
            "write -d recs[1].blockcount 1",
            "write -d recs[1].refcount 2",
        ],
        "refcountbt",
        "it says blocks",
        "it looks for records that are missing only",
    ),
    damage(
        &[
            "agf 0",
            "addr refcntroot",
            "write -d numrecs 1",
            "write -d recs[1].startblock {small.block}",
            "write -d recs[1].blockcount 1",
            "write -d recs[1].refcount 1",
        ],
        "refcountbt block",
        "1 owners of 1 blocks",
    ),
    damage(
        &[
            "agf 0",
            "addr refcntroot",
            "write -d numrecs 1",
            "write -d recs[1].startblock 50",
            "write -d recs[1].blockcount 1",
            "write -d recs[1].refcount 1",
            "write -d recs[1].cowflag 1",
        ],
        "space",
        "a staged copy",
    ),
    damage(
        &["inode {small.ino}", "write -d u3.bmx[0].startblock {shared.block}"],
        "refcountbt",
        "have 2 owners, no record",
    ),
    damage(
        &["inode {small.ino}", "write -d u3.bmx[0].startblock {shared.block}"],
        "inode",
        "shares blocks but is not marked",
    ),
    // Inodes.
    damage(&["inode {small.ino}", "write -d core.nlinkv2 3"], "inode", "nlink is 3"),
    damage(&["inode {small.ino}", "write -d core.nlinkv2 0"], "inode", "no list of unlinked"),
    damage(&["inode {small.ino}", "write -d core.nblocks 9"], "inode", "nblocks is 9"),
    damage(&["inode {small.ino}", "write -d core.nextents 0"], "inode", "nblocks is 2"),
    damage(&["inode {small.ino}", "write -d core.mode 0"], "inode", "inobt says it is in use"),
    damage(&["inode {small.ino}", "write -d core.mode 0177777"], "inode", "mode"),
    damage(&["inode {small.ino}", "write -d core.format 7"], "inode", "format"),
    damage(&["inode {small.ino}", "write -d core.extsize 4"], "inode", "extent size"),
    damage(&["inode {small.ino}", "write -d v3.flags2 0x100"], "inode", "flags2"),
    damage(&["inode {small.ino}", "write -d core.rtinherit 1"], "inode", "directories"),
    damage(&["inode {small.ino}", "write -d v3.inumber 5"], "inode", "it says it is inode 5"),
    damage(&["inode {small.ino}", "write -d core.magic 5"], "inode", "magic"),
    only_ours(
        &["inode {small.ino}", "write -d v3.lsn 0x7000000000"],
        "log",
        "metadata was written from 112:0",
        "it looks at the LSNs of blocks only",
    ),
    damage(&["agf 0", "addr bnoroot", "write -d lsn 0x7000000000"], "log", "from 112:0"),
    damage(
        &["inode {small.ino}", "write -d u3.bmx[0].startblock 99999999"],
        "inode",
        "do not exist",
    ),
    damage(&["inode {small.ino}", "write -d u3.bmx[0].startblock 3"], "space", "belong to"),
    damage(&["inode {small.ino}", "write -d u3.bmx[0].blockcount 0"], "inode", "empty extent"),
    damage(&["inode {dir.ino}", "write -d u3.bmx[0].extentflag 1"], "inode", "is unwritten"),
    damage(&["inode {node.ino}", "write -d u3.bmx[1].startoff 0"], "inode", "extents overlap"),
    only_ours(
        &["inode {dir.ino}", "write -d core.size 8192"],
        "inode",
        "that ends at",
        "it takes the directory's form from its extents",
    ),
    // Directories.
    damage(&["inode {sf.ino}", "write -d u3.sfdir3.hdr.parent.i4 131"], "inode", "its \"..\" is"),
    damage(
        &["inode {sf.ino}", "write -d u3.sfdir3.list[1].inumber.i4 190"],
        "inode",
        "not in use as a file",
    ),
    damage(&["inode {sf.ino}", "write -d u3.sfdir3.list[1].filetype 2"], "inode", "its name in"),
    damage(&["inode {sf.ino}", "write -d u3.sfdir3.list[1].offset 3"], "inode", "out of order"),
    damage(
        &["inode {sf.ino}", "write -d u3.sfdir3.list[1].name \"an-entry-with-a-name-0\""],
        "inode",
        "twice",
    ),
    damage(
        &["inode {sf.ino}", "write -d u3.sfdir3.list[1].name \"an/entry-with-a-name-1\""],
        "inode",
        "a slash",
    ),
    damage(
        &["inode {sf.ino}", "write -d u3.sfdir3.list[6].inumber.i4 {dir.ino}"],
        "inode",
        "as does",
    ),
    damage(
        &["inode {sf.ino}", "write -d u3.sfdir3.list[6].inumber.i4 {small.ino}"],
        "inode",
        "no way to it from the root",
    ),
    damage(&["inode {dir.ino}", "dblock 0", "write -d bu[0].inumber 131"], "inode", "\".\" names"),
    damage(&["inode {dir.ino}", "dblock 0", "write -d bu[1].inumber 131"], "inode", "its \"..\""),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bu[1].name \"xx\""],
        "directory",
        "as entry at 80",
    ),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bu[2].inumber 190"],
        "inode",
        "not in use as a file",
    ),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bu[2].name \"an-entry-with-a-name-1\""],
        "inode",
        "twice",
    ),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bu[2].name \"an-entry-with-a-nome-0\""],
        "directory",
        "not in the index",
    ),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bleaf[3].hashval 0x1731"],
        "dir block",
        "out of order",
    ),
    damage(&["inode {dir.ino}", "dblock 0", "write -d btail.stale 1"], "dir block", "stale"),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bhdr.bestfree[0].length 8"],
        "dir block",
        "largest free space",
    ),
    damage(
        &["inode {dir.ino}", "dblock 0", "write -d bhdr.bestfree[1].length 8"],
        "dir block",
        "free space",
    ),
    damage(&["inode {dir.ino}", "dblock 0", "write -d bhdr.hdr.owner 5"], "dir block", "inode 5"),
    damage(&["inode {dir.ino}", "dblock 0", "write -d bhdr.hdr.bno 5"], "dir block", "daddr 0x5"),
    damage(
        &["inode {leaf.ino}", "dblock 8388608", "write -d lbests[1] 8"],
        "directory",
        "the free space of block 1",
    ),
    damage(
        &["inode {leaf.ino}", "dblock 8388608", "write -d lents[1].address 7"],
        "directory",
        "the index has no entry",
    ),
    damage(&["inode {leaf.ino}", "dblock 8388608", "write -d lhdr.stale 7"], "dir leaf", "stale"),
    damage(
        &["inode {node.ino}", "dblock 8388608", "write -d nbtree[0].hashval 0x372b51ff"],
        "directory",
        "its parent says",
    ),
    damage(
        &["inode {node.ino}", "dblock 8388608", "write -d nbtree[0].before 8388609"],
        "directory",
        "or in use",
    ),
    damage(
        &["inode {node.ino}", "dblock 8388608", "write -d nhdr.level 2"],
        "da node",
        "bad magic",
    ),
    damage(
        &["inode {node.ino}", "dblock 8388608", "write -d nhdr.count 1"],
        "directory",
        "hash tree of",
    ),
    damage(
        &["inode {node.ino}", "dblock 8388609", "write -d lhdr.info.hdr.back 0"],
        "directory",
        "before it comes",
    ),
    damage(
        &["inode {node.ino}", "dblock 8388610", "write -d lhdr.info.hdr.forw 0"],
        "directory",
        "comes next",
    ),
    damage(
        &["inode {node.ino}", "dblock 16777216", "write -d fbests[3] 0x60"],
        "directory",
        "the free space of block 3",
    ),
    damage(
        &["inode {node.ino}", "dblock 16777216", "write -d fhdr.nused 5"],
        "directory",
        "counts in use",
    ),
    damage(
        &["inode {node.ino}", "dblock 16777216", "write -d fhdr.nvalid 6", "write -d fhdr.nused 6"],
        "directory",
        "is not listed",
    ),
    damage(
        &["inode {node.ino}", "dblock 16777216", "write -d fhdr.firstdb 2016"],
        "directory",
        "says it starts at",
    ),
    // Attributes.
    damage(&["inode {sf-attr.ino}", "write -d a.sfattr.hdr.totsize 7"], "inode", "shortform attr"),
    only_ours(
        &[
            "inode {sf-attr.ino}",
            "write -d a.sfattr.list[0].root 1",
            "write -d a.sfattr.list[0].secure 1",
        ],
        "inode",
        "several namespaces",
        "it does not look at the namespaces of shortform attributes",
    ),
    damage(
        &["inode {leaf-attr.ino}", "ablock 0", "write -d hdr.usedbytes 8"],
        "attr leaf",
        "bytes",
    ),
    damage(
        &["inode {leaf-attr.ino}", "ablock 0", "write -d entries[2].hashval 0x1"],
        "attr leaf",
        "out of order",
    ),
    damage(
        &["inode {leaf-attr.ino}", "ablock 0", "write -d hdr.firstused 64"],
        "attr leaf",
        "before the first name",
    ),
    damage(
        &["inode {leaf-attr.ino}", "ablock 0", "write -d hdr.freemap[0].size 4000"],
        "attribute fork",
        "free space from",
    ),
    only_ours(
        &["inode {leaf-attr.ino}", "ablock 0", "write -d hdr.freemap[0].size 3600"],
        "attribute fork",
        "overlaps the name",
        "it looks only whether free space lies within the block",
    ),
    only_ours(
        &["inode {node-attr.ino}", "ablock 1", "write -d hdr.freemap[0].size 4000"],
        "attribute fork",
        "free space from",
        "of leaves below a node it does not look at free space",
    ),
    damage(
        &["inode {leaf-attr.ino}", "ablock 0", "write -d entries[0].incomplete 1"],
        "attribute fork",
        "half made",
    ),
    damage(
        &["inode {node-attr.ino}", "ablock 0", "write -d btree[0].hashval 0x1"],
        "attribute fork",
        "its parent says",
    ),
    // The link.
    damage(&["inode {link.ino}", "write -d core.size 0"], "inode", "symbolic link of 0 bytes"),
];
