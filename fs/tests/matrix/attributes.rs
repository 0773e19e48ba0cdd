//! Operations on permissions, owners, times and extended attributes.

use holdfast_fs::Result;
use holdfast_fs::syscall::{RenameFlags, XattrFlags};
use holdfast_fs::xfs::{Flags, Timestamp};

use crate::Operation;
use crate::volume::errno;
use crate::world::{ACCESS, DEFAULT, World, bytes};

const EPERM: i32 = 1;
const EEXIST: i32 = 17;
const ENODATA: i32 = 61;

const ANY: XattrFlags = XattrFlags::empty();
/// A value that does not fit into a leaf.
const REMOTE: usize = 20_000;

pub const OPERATIONS: &[Operation] = &[
    Operation::new("chmod", |w| {
        w.create("f")?;
        w.chmod("f", 0o4711)
    }),
    Operation::new("chown", |w| {
        w.create("f")?;
        w.chown("f", 1000, 70_000)
    }),
    Operation::new("chown a symlink", |w| {
        w.symlink(b"nowhere", "l")?;
        w.chown("l", 7, 8)
    }),
    Operation::new("utimens", |w| {
        w.create("f")?;
        w.set_modified("f", Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 })
    }),
    Operation::new("utimens before 1970", |w| {
        w.create("f")?;
        w.set_modified("f", Timestamp { seconds: -1_000_000, nanoseconds: 5 })
    }),
    Operation::new("setxattr, in the inode", |w| {
        w.create("f")?;
        w.set_attribute("f", "user.a", b"small", ANY)
    }),
    Operation::new("setxattr, all namespaces", |w| {
        w.create("f")?;
        for name in ["user.a", "trusted.a", "security.a"] {
            w.set_attribute("f", name, name.as_bytes(), ANY)?;
        }
        Ok(())
    }),
    Operation::new("setxattr, CREATE and REPLACE", create_and_replace),
    Operation::new("setxattr, replaced by other lengths", |w| {
        w.create("f")?;
        for len in [10, 40, 1500, 30_000, 700, 3, 0] {
            w.set_attribute("f", "user.a", &bytes(len, len), ANY)?;
        }
        Ok(())
    }),
    Operation::new("setxattr, in leaves", |w| {
        w.create("f")?;
        many(w, 30, 60)
    }),
    Operation::new("setxattr, in nodes", |w| {
        w.create("f")?;
        many(w, 150, 120)
    }),
    Operation::new("setxattr, outside of leaves", |w| {
        w.create("f")?;
        w.set_attribute("f", "user.far", &bytes(4, REMOTE), ANY)
    }),
    Operation::new("setxattr, 64 KiB", |w| {
        w.create("f")?;
        w.set_attribute("f", "user.far", &bytes(5, 65_536), ANY)
    }),
    Operation::new("setxattr of directories and symlinks", |w| {
        w.mkdir("d")?;
        w.symlink(b"nowhere", "l")?;
        w.set_attribute("d", "user.a", b"of a directory", ANY)?;
        w.set_attribute("l", "trusted.a", b"of a symlink", ANY)
    }),
    Operation::new("removexattr, in the inode", |w| {
        w.create("f")?;
        w.set_attribute("f", "user.a", b"1", ANY)?;
        w.set_attribute("f", "user.b", b"2", ANY)?;
        w.remove_attribute("f", "user.a")?;
        assert_eq!(errno(w.process().removexattr(&w.at("f"), b"user.a")), ENODATA);
        Ok(())
    }),
    Operation::new("removexattr, leaves and nodes to nothing", |w| {
        w.create("f")?;
        many(w, 150, 120)?;
        w.verify_home();
        for n in 0..150 {
            w.remove_attribute("f", &format!("user.number-{}", (n * 77) % 150))?;
        }
        Ok(())
    }),
    Operation::new("removexattr, outside of leaves", |w| {
        w.create("f")?;
        w.set_attribute("f", "user.far", &bytes(6, REMOTE), ANY)?;
        w.set_attribute("f", "user.near", b"stays", ANY)?;
        w.remove_attribute("f", "user.far")
    }),
    Operation::new("setxattr of access control lists, chmod", |w| {
        w.create("f")?;
        w.set_list("f", ACCESS, [7, 5, 5, 1])?;
        w.verify_home();
        w.chmod("f", 0o640)?;
        w.expect_list("f", ACCESS, Some([6, 5, 4, 0]));
        w.verify_home();
        // One that says no more than the mode is the mode.
        w.set_plain_list("f", 0o604)
    }),
    Operation::new("create below a default access control list", |w| {
        w.mkdir("d")?;
        w.set_list("d", DEFAULT, [7, 7, 7, 0])?;
        w.create("d/f")?;
        w.chmod("d/f", 0o640)?;
        w.expect_list("d/f", ACCESS, Some([6, 7, 4, 0]));
        w.mkdir("d/d")?;
        w.chmod("d/d", 0o750)?;
        w.expect_list("d/d", ACCESS, Some([7, 7, 5, 0]));
        w.expect_list("d/d", DEFAULT, Some([7, 7, 7, 0]));
        w.symlink(b"f", "d/l")
    }),
    Operation::new("chattr, and what is immutable", |w| {
        w.create("f")?;
        w.chattr("f", Flags::IMMUTABLE | Flags::NODUMP)?;
        let (path, other, p) = (w.at("f"), w.at("g"), w.process());
        let refused = [
            p.unlink(&path),
            p.rename(&path, &other),
            p.link(&path, &other),
            p.chmod(&path, 0o600),
            p.truncate(&path, 0),
        ];
        assert_eq!(refused.map(errno), [EPERM; 5]);
        w.chattr("f", Flags::NODUMP)?;
        w.rename("f", "g", RenameFlags::empty())
    }),
    Operation::new("unlink with attributes everywhere", |w| {
        w.create("f")?;
        many(w, 80, 100)?;
        w.set_attribute("f", "user.far", &bytes(7, REMOTE), ANY)?;
        w.unlink("f")
    }),
];

fn create_and_replace(w: &mut World) -> Result<()> {
    w.create("f")?;
    let path = w.at("f");
    let refused = w.process().setxattr(&path, b"user.a", b"1", XattrFlags::REPLACE);
    assert_eq!(errno(refused), ENODATA);
    w.set_attribute("f", "user.a", b"1", XattrFlags::CREATE)?;
    assert_eq!(errno(w.process().setxattr(&path, b"user.a", b"2", XattrFlags::CREATE)), EEXIST);
    w.set_attribute("f", "user.a", b"replaced", XattrFlags::REPLACE)
}

fn many(w: &mut World, count: usize, len: usize) -> Result<()> {
    for n in 0..count {
        w.set_attribute("f", &format!("user.number-{n}"), &bytes(n, len), ANY)?;
    }
    Ok(())
}
