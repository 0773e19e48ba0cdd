//! Flags of inodes: set, kept, inherited, and what they forbid; the project.

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{
    AT_FDCWD, AtFlags, FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, RenameFlags,
    TimeChange, XattrFlags,
};
use holdfast_fs::xfs::{FsXattr, Timestamp};

use crate::volume::{Volume, code, errno, mkfs};
use crate::xfs_support::{Scratch, number, xfs_db};

const PREALLOC: u32 = 1 << 1;
const IMMUTABLE: u32 = 1 << 3;
const APPEND: u32 = 1 << 4;
const SYNC: u32 = 1 << 5;
const NOATIME: u32 = 1 << 6;
const NODUMP: u32 = 1 << 7;
const RT_INHERIT: u32 = 1 << 8;
const PROJ_INHERIT: u32 = 1 << 9;
const NO_SYMLINKS: u32 = 1 << 10;
const NO_DEFRAG: u32 = 1 << 13;
const FILESTREAM: u32 = 1 << 14;
const DAX: u32 = 1 << 15;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EXDEV: i32 = 18;

fn opened(p: &Process, path: &[u8]) -> Fd {
    p.open(path, OpenFlags::RDONLY, 0).unwrap()
}

fn set(p: &Process, path: &[u8], xflags: u32) {
    set_all(p, path, &FsXattr { xflags, ..FsXattr::default() });
}

fn set_all(p: &Process, path: &[u8], new: &FsXattr) {
    let fd = opened(p, path);
    p.fssetxattr(fd, new).unwrap();
    p.close(fd).unwrap();
}

fn flags(p: &Process, path: &[u8]) -> u32 {
    let fd = opened(p, path);
    let attributes = p.attributes(fd).unwrap();
    p.close(fd).unwrap();
    attributes.xflags
}

#[test]
fn flags_are_kept_and_inherited() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    v.touch(b"/f").unwrap();
    let any = SYNC | NOATIME | NODUMP | NO_DEFRAG | FILESTREAM | DAX;
    set(p, b"/f", any | IMMUTABLE | APPEND | PROJ_INHERIT | NO_SYMLINKS | RT_INHERIT);
    // Those of directories mean nothing on a file.
    assert_eq!(flags(p, b"/f"), any | IMMUTABLE | APPEND);
    set(p, b"/f", 0);
    assert_eq!(flags(p, b"/f"), 0);
    let of_directory = any | PROJ_INHERIT | RT_INHERIT | NO_SYMLINKS;
    let new = FsXattr { xflags: of_directory, projid: 70_000, ..FsXattr::default() };
    set_all(p, b"/d", &new);
    v.touch(b"/d/f").unwrap();
    p.mkdir(b"/d/d", 0o755).unwrap();
    p.mknod(b"/d/pipe", 0o010_644, (0, 0)).unwrap();
    assert_eq!(errno(p.symlink(b"f", b"/d/l")), EPERM);
    let v = Volume::over(&v.finish());
    let p = &v.process;
    assert_eq!(flags(p, b"/d"), of_directory);
    assert_eq!(flags(p, b"/d/f"), any);
    assert_eq!(flags(p, b"/d/d"), any | PROJ_INHERIT | RT_INHERIT);
    // What was preallocated is told, and stays told.
    let fd = p.open(b"/d/f", OpenFlags::RDWR, 0).unwrap();
    p.fallocate(fd, FallocateMode::KEEP_SIZE, 0, 65536).unwrap();
    p.fssetxattr(fd, &FsXattr { xflags: NODUMP, ..FsXattr::default() }).unwrap();
    assert_eq!(p.attributes(fd).unwrap().xflags, NODUMP | PREALLOC);
    p.close(fd).unwrap();
    let inodes = [&b"/d"[..], b"/d/d", b"/d/f", b"/d/pipe"].map(|path| p.stat(path).unwrap().ino);
    let image = v.finish();
    let scratch = Scratch::new("flags");
    let path = scratch.path("image");
    std::fs::write(&path, &image[..]).unwrap();
    let expected = [(70_000, 0, 1), (70_000, 0, 1), (0, 1, 0), (70_000, 0, 0)];
    for (ino, (project, prealloc, filestream)) in inodes.into_iter().zip(expected) {
        let text = xfs_db(&path, &[&format!("inode {ino}"), "print"]);
        let projid = number(&text, "core.projid_hi") << 16 | number(&text, "core.projid_lo");
        assert_eq!(projid, project, "{text}");
        assert_eq!(number(&text, "core.prealloc"), prealloc);
        assert_eq!(number(&text, "core.filestream"), filestream);
    }
}

#[test]
fn what_is_immutable_stays_as_it_is() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    for path in [&b"/f"[..], b"/g", b"/d/f"] {
        v.touch(path).unwrap();
    }
    let held = p.open(b"/f", OpenFlags::RDWR, 0).unwrap();
    let other = p.open(b"/g", OpenFlags::RDWR, 0).unwrap();
    p.pwrite(held, &[7; 8192], 0).unwrap();
    p.pwrite(other, &[7; 8192], 0).unwrap();
    set(p, b"/f", IMMUTABLE);
    set(p, b"/d", IMMUTABLE);
    let exchange = RenameFlags::EXCHANGE;
    let any = XattrFlags::empty();
    let fixed = Timestamp { seconds: 1, nanoseconds: 0 };
    for (what, is) in [
        ("open to write", code(p.open(b"/f", OpenFlags::WRONLY, 0))),
        ("open to append", code(p.open(b"/f", OpenFlags::RDWR | OpenFlags::APPEND, 0))),
        ("open and cut", code(p.open(b"/f", OpenFlags::TRUNC, 0))),
        ("truncate", code(p.truncate(b"/f", 0))),
        ("unlink", code(p.unlink(b"/f"))),
        ("link", code(p.link(b"/f", b"/h"))),
        ("rename", code(p.rename(b"/f", b"/h"))),
        ("rename over it", code(p.rename(b"/g", b"/f"))),
        ("exchange", code(p.renameat2(AT_FDCWD, b"/g", AT_FDCWD, b"/f", exchange))),
        ("chmod", code(p.chmod(b"/f", 0o600))),
        ("chown", code(p.chown(b"/f", 1, 1))),
        ("times", code(p.utimens(b"/f", [TimeChange::Set(fixed), TimeChange::Now]))),
        ("touch", code(p.utimens(b"/f", [TimeChange::Now; 2]))),
        ("setxattr", code(p.setxattr(b"/f", b"user.a", b"1", any))),
        ("removexattr", code(p.removexattr(b"/f", b"user.a"))),
        ("fallocate", code(p.fallocate(held, FallocateMode::empty(), 0, 65536))),
        ("clone", code(p.ficlone(held, other))),
        ("dedupe", code(p.fideduperange(other, 0, 4096, held, 0))),
        ("copy", code(p.copy_file_range(other, None, held, None, 10))),
        ("create in", code(v.touch(b"/d/new"))),
        ("mkdir in", code(p.mkdir(b"/d/new", 0o755))),
        ("unlink in", code(p.unlink(b"/d/f"))),
        ("rename from", code(p.rename(b"/d/f", b"/h"))),
        ("rename to", code(p.rename(b"/g", b"/d/h"))),
        ("a file without a name in", {
            code(p.open(b"/d", OpenFlags::TMPFILE | OpenFlags::RDWR, 0o600))
        }),
    ] {
        assert_eq!(is, EPERM, "{what}");
    }
    // Who had it open goes on, and reading is nobody's harm.
    p.pwrite(held, b"x", 0).unwrap();
    p.close(held).unwrap();
    p.close(other).unwrap();
    let fd = opened(p, b"/f");
    assert_eq!(p.fstat(fd).unwrap().size, 8192);
    p.fssetxattr(fd, &FsXattr::default()).unwrap();
    p.close(fd).unwrap();
    p.unlink(b"/f").unwrap();
    v.finish();
}

#[test]
fn what_is_append_only_only_grows() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    v.touch(b"/f").unwrap();
    v.touch(b"/d/f").unwrap();
    let held = p.open(b"/f", OpenFlags::RDWR, 0).unwrap();
    set(p, b"/f", APPEND);
    set(p, b"/d", APPEND);
    let appending = p.open(b"/f", OpenFlags::RDWR | OpenFlags::APPEND, 0).unwrap();
    p.write(appending, b"line").unwrap();
    p.pwrite(appending, b"next", 0).unwrap();
    assert_eq!(p.stat(b"/f").unwrap().size, 8);
    p.fallocate(appending, FallocateMode::KEEP_SIZE, 0, 65536).unwrap();
    p.utimens(b"/f", [TimeChange::Now; 2]).unwrap();
    v.touch(b"/d/g").unwrap();
    let punch = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
    let fixed = Timestamp { seconds: 1, nanoseconds: 0 };
    for (what, is) in [
        ("open to write", code(p.open(b"/f", OpenFlags::RDWR, 0))),
        ("open and cut", code(p.open(b"/f", OpenFlags::APPEND | OpenFlags::TRUNC, 0))),
        ("truncate", code(p.truncate(b"/f", 0))),
        ("ftruncate", code(p.ftruncate(held, 1 << 20))),
        ("append no more", code(p.set_flags(appending, OpenFlags::empty()))),
        ("unlink", code(p.unlink(b"/f"))),
        ("link", code(p.link(b"/f", b"/h"))),
        ("rename", code(p.rename(b"/f", b"/h"))),
        ("chmod", code(p.chmod(b"/f", 0o600))),
        ("chown", code(p.chown(b"/f", 1, 1))),
        ("times", code(p.utimens(b"/f", [TimeChange::Set(fixed), TimeChange::Now]))),
        ("setxattr", code(p.setxattr(b"/f", b"user.a", b"1", XattrFlags::empty()))),
        ("punch", code(p.fallocate(appending, punch, 0, 4096))),
        ("zero", code(p.fallocate(appending, FallocateMode::ZERO_RANGE, 0, 4096))),
        ("unlink in", code(p.unlink(b"/d/f"))),
        ("rename from", code(p.rename(b"/d/f", b"/h"))),
        ("rename over", code(p.rename(b"/d/f", b"/d/g"))),
        ("name an open one", {
            code(p.linkat(appending, b"", AT_FDCWD, b"/h", AtFlags::EMPTY_PATH))
        }),
    ] {
        assert_eq!(is, EPERM, "{what}");
    }
    let map = |fd, kind, rights| p.mmap(VirtAddr(0), 4096, rights, kind, Some(fd), 0);
    let both = Prot::READ | Prot::WRITE;
    assert_eq!(errno(map(appending, MapFlags::SHARED, both)), EACCES);
    assert_eq!(errno(map(appending, MapFlags::SHARED, Prot::READ)), EACCES);
    let at = map(appending, MapFlags::PRIVATE, both).unwrap();
    p.munmap(at, 4096).unwrap();
    p.close(appending).unwrap();
    p.close(held).unwrap();
    v.finish();
}

#[test]
fn files_that_ask_for_it_are_durable_at_once_and_have_no_access_times() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    for path in [b"/sync", b"/held"] {
        v.touch(path).unwrap();
    }
    let held = p.open(b"/held", OpenFlags::RDWR, 0).unwrap();
    p.sync();
    set(p, b"/sync", SYNC | NOATIME);
    set(p, b"/held", SYNC);
    let old = Timestamp { seconds: 1000, nanoseconds: 0 };
    p.utimens(b"/sync", [TimeChange::Set(old), TimeChange::Omit]).unwrap();
    let fd = p.open(b"/sync", OpenFlags::RDWR, 0).unwrap();
    p.pwrite(fd, &[5; 10_000], 0).unwrap();
    p.pwrite(held, &[6; 10_000], 0).unwrap();
    p.fallocate(held, FallocateMode::empty(), 65536, 4096).unwrap();
    let mut bytes = [0; 100];
    p.pread(fd, &mut bytes, 0).unwrap();
    assert_eq!(p.fstat(fd).unwrap().atime, old);
    // The power fails now.
    let again = Volume::over(&std::sync::Arc::new(v.bytes()));
    for (path, byte, size) in [(b"/sync", 5, 10_000), (b"/held", 6, 65536 + 4096)] {
        let fd = opened(&again.process, path);
        assert_eq!(again.process.fstat(fd).unwrap().size, size);
        let mut bytes = [0; 10_000];
        assert_eq!(again.process.pread(fd, &mut bytes, 0).unwrap(), 10_000);
        assert!(bytes.iter().all(|b| *b == byte));
        again.process.close(fd).unwrap();
    }
    again.finish();
    p.close(fd).unwrap();
    p.close(held).unwrap();
    v.finish();
}

#[test]
fn names_stay_within_their_project() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    p.mkdir(b"/free", 0o755).unwrap();
    v.touch(b"/f").unwrap();
    let new = FsXattr { xflags: PROJ_INHERIT, projid: 42, ..FsXattr::default() };
    set_all(p, b"/d", &new);
    v.touch(b"/d/g").unwrap();
    assert_eq!(errno(p.link(b"/f", b"/d/f")), EXDEV);
    assert_eq!(errno(p.rename(b"/f", b"/d/f")), EXDEV);
    assert_eq!(errno(p.rename(b"/free", b"/d/free")), EXDEV);
    let exchange = RenameFlags::EXCHANGE;
    assert_eq!(errno(p.renameat2(AT_FDCWD, b"/f", AT_FDCWD, b"/d/g", exchange)), EXDEV);
    // Out of it is free, and in with the same project.
    p.link(b"/d/g", b"/g").unwrap();
    p.rename(b"/d/g", b"/h").unwrap();
    p.link(b"/h", b"/d/i").unwrap();
    set_all(p, b"/f", &FsXattr { projid: 42, ..FsXattr::default() });
    p.rename(b"/f", b"/d/f").unwrap();
    let fd = opened(p, b"/d/f");
    assert_eq!(p.attributes(fd).unwrap().projid, 42);
    p.close(fd).unwrap();
    v.finish();
}
