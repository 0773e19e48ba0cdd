//! Operations on names.

use holdfast_fs::Result;
use holdfast_fs::syscall::{AT_FDCWD, OpenFlags, RenameFlags};

use crate::Operation;
use crate::volume::errno;
use crate::world::{World, bytes};

const EEXIST: i32 = 17;
const ENOENT: i32 = 2;
const ENOTEMPTY: i32 = 39;

pub const OPERATIONS: &[Operation] = &[
    Operation::new("create", |w| w.create("f")),
    Operation::new("mkdir", |w| w.mkdir("d")),
    Operation::new("symlink, in the inode", |w| w.symlink(b"short", "l")),
    Operation::new("symlink, in blocks", |w| w.symlink(&[b'l'; 1023], "l")),
    Operation::new("mknod, fifo", |w| w.mknod("n", 0o010_000, (0, 0))),
    Operation::new("mknod, socket", |w| w.mknod("n", 0o140_000, (0, 0))),
    Operation::new("mknod, character device", |w| w.mknod("n", 0o020_000, (5, 1))),
    Operation::new("mknod, block device", |w| w.mknod("n", 0o060_000, (8, 17))),
    Operation::new("a name of 255 bytes", |w| w.create(&"n".repeat(255))),
    Operation::new("look a name up", look_up),
    Operation::new("link", |w| {
        w.create("f")?;
        w.link("f", "again")
    }),
    Operation::new("unlink", |w| {
        w.create("f")?;
        w.write("f", 0, &bytes(1, 9000))?;
        w.unlink("f")
    }),
    Operation::new("unlink one of two links", |w| {
        w.create("f")?;
        w.link("f", "again")?;
        w.unlink("f")
    }),
    Operation::new("unlink a symlink in blocks", |w| {
        w.symlink(&[b'l'; 1023], "l")?;
        w.unlink("l")
    }),
    Operation::new("rmdir", rmdir),
    Operation::new("rename", |w| {
        w.create("f")?;
        w.rename("f", "g", RenameFlags::empty())
    }),
    Operation::new("rename over a file", |w| {
        w.create("f")?;
        w.create("g")?;
        w.write("g", 0, &bytes(2, 5000))?;
        w.rename("f", "g", RenameFlags::empty())
    }),
    Operation::new("rename over a directory", |w| {
        w.mkdir("d")?;
        w.create("d/f")?;
        w.mkdir("e")?;
        w.rename("d", "e", RenameFlags::empty())
    }),
    Operation::new("rename, NOREPLACE", noreplace),
    Operation::new("rename, EXCHANGE", |w| {
        w.create("f")?;
        w.write("f", 0, b"of f")?;
        w.symlink(b"of g", "g")?;
        w.rename("f", "g", RenameFlags::EXCHANGE)
    }),
    Operation::new("rename, EXCHANGE across directories", |w| {
        w.mkdir("d")?;
        w.mkdir("d/inner")?;
        w.create("d/inner/f")?;
        w.create("g")?;
        w.rename("d/inner", "g", RenameFlags::EXCHANGE)
    }),
    Operation::new("rename across directories", |w| {
        w.mkdir("d")?;
        w.mkdir("e")?;
        w.create("d/f")?;
        w.rename("d/f", "e/f", RenameFlags::empty())
    }),
    Operation::new("rename a directory across directories", |w| {
        w.mkdir("d")?;
        w.mkdir("d/inner")?;
        w.create("d/inner/f")?;
        w.mkdir("e")?;
        w.rename("d/inner", "e/inner", RenameFlags::empty())
    }),
    Operation::new("O_TMPFILE, then link", tmpfile),
    Operation::new("directory: in the inode to a block and back", |w| grow_and_shrink(w, 40)),
    Operation::new("directory: a block to leaves and back", |w| {
        let entries = w.set.directory_block() / 24;
        grow_and_shrink(w, entries + entries / 4)
    }),
    Operation::new("directory: leaves to nodes and back", |w| {
        // A leaf holds this many entries of 8 bytes.
        let entries = w.set.directory_block() / 8;
        grow_and_shrink(w, entries + 40)
    }),
    Operation::new("inodes: chunks allocated and freed", chunks),
];

/// Case matters, unless mkfs was told otherwise.
fn look_up(w: &mut World) -> Result<()> {
    w.create("Some-Name")?;
    let p = w.process();
    p.stat(&w.at("Some-Name"))?;
    let other = p.stat(&w.at("sOME-nAME"));
    if w.set.folds_names() {
        assert_eq!(other?.ino, p.stat(&w.at("Some-Name"))?.ino);
    } else {
        assert_eq!(errno(other), ENOENT);
    }
    Ok(())
}

fn rmdir(w: &mut World) -> Result<()> {
    w.mkdir("d")?;
    w.mkdir("d/e")?;
    assert_eq!(errno(w.process().rmdir(&w.at("d"))), ENOTEMPTY);
    w.rmdir("d/e")?;
    w.rmdir("d")
}

fn noreplace(w: &mut World) -> Result<()> {
    w.create("f")?;
    w.create("g")?;
    let (from, to) = (w.at("f"), w.at("g"));
    let refused = w.process().renameat2(AT_FDCWD, &from, AT_FDCWD, &to, RenameFlags::NOREPLACE);
    assert_eq!(errno(refused), EEXIST);
    w.rename("f", "h", RenameFlags::NOREPLACE)
}

fn tmpfile(w: &mut World) -> Result<()> {
    let home = format!("/{}", w.home).into_bytes();
    let flags = OpenFlags::TMPFILE | OpenFlags::RDWR;
    let fd = w.process().open(&home, flags, 0o600)?;
    let data = bytes(3, 6000);
    crate::world::write_all(w.process(), fd, 0, &data)?;
    w.adopt(fd, "named", data)?;
    w.process().close(fd)
}

/// So many names of one file, made, looked at and taken away again but for a few.
fn grow_and_shrink(w: &mut World, entries: usize) -> Result<()> {
    w.mkdir("d")?;
    w.create("f")?;
    // About 24 bytes in the directory each.
    let name = |n: usize| format!("d/name-{n:06}");
    for n in 0..entries {
        w.link("f", &name(n))?;
    }
    w.verify_home();
    for n in (0..entries).rev() {
        // The last and the first, then from the middle.
        if n != entries / 2 {
            w.unlink(&name((n * 7919 + 13) % entries)).or_else(|_| w.unlink(&name(n)))?;
        }
    }
    Ok(())
}

fn chunks(w: &mut World) -> Result<()> {
    let before = w.process().statfs(b"/")?.files_free;
    for n in 0..200 {
        w.create(&format!("f{n}"))?;
    }
    w.verify_home();
    for n in 0..200 {
        w.unlink(&format!("f{n}"))?;
    }
    // What was unlinked is free at once; chunks may stay.
    let after = w.process().statfs(b"/")?.files_free;
    assert!(after + 64 >= before, "{before} inodes were free, now {after}");
    Ok(())
}
