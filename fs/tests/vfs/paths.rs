//! Names: lookup, links, directories, descriptors, and the errors of each.

use crate::machine::{Machine, Setup, contents, errno};
use holdfast_fs::syscall::{AT_FDCWD, OpenFlags, Whence, XattrFlags, dirents};
use holdfast_fs::xfs::FileType;

const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EBADF: i32 = 9;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const EROFS: i32 = 30;
const ERANGE: i32 = 34;
const ENAMETOOLONG: i32 = 36;
const ELOOP: i32 = 40;
const ENODATA: i32 = 61;
const EOPNOTSUPP: i32 = 95;

#[test]
fn every_file_reads_back_by_every_name() {
    let m = Machine::new();
    for path in ["/f", "/big", "/sub/x", "/sub/deep/y", "/holey", "/pre", "/empty"] {
        assert!(m.read_file(path) == contents(path), "{path} differs");
    }
    for (name, path) in [
        ("f", "/f"),
        ("/link", "/f"),
        ("/abs", "/sub/x"),
        ("/dirlink/x", "/sub/x"),
        ("//sub///deep/./y", "/sub/deep/y"),
        ("/sub/deep/../../f", "/f"),
        ("/../../f", "/f"),
        ("/up", "/f"),
    ] {
        assert!(m.read_file(name) == contents(path), "{name} is not {path}");
    }
    m.finish();
}

#[test]
fn lookup_fails_as_linux_says() {
    let m = Machine::new();
    let stat = |path: &str| m.process.stat(path.as_bytes()).map(|s| s.ino).map_err(|e| e.errno());
    let lstat = |path: &str| m.process.lstat(path.as_bytes()).map_err(|e| e.errno());
    for (path, want) in [
        ("", ENOENT),
        ("/none", ENOENT),
        ("/none/f", ENOENT),
        ("/f/x", ENOTDIR),
        ("/f/", ENOTDIR),
        ("/f/.", ENOTDIR),
        ("/link/", ENOTDIR),
        ("/dangling", ENOENT),
        ("/loop", ELOOP),
        ("/loop/x", ELOOP),
    ] {
        assert_eq!(stat(path), Err(want), "{path:?}");
    }
    assert_eq!(stat(&format!("/{}", "m".repeat(256))), Err(ENAMETOOLONG));
    assert!(stat(&format!("/{}", "n".repeat(255))).is_ok());
    assert_eq!(stat(&"/".repeat(4096)), Err(ENAMETOOLONG));
    assert!(stat(&"/".repeat(4095)).is_ok());
    assert!(stat("/sub/").is_ok());
    assert!(stat("/dirlink/").is_ok());
    assert_eq!(lstat("/link").unwrap().file_type(), FileType::Symlink);
    assert_eq!(lstat("/dirlink/").unwrap().file_type(), FileType::Directory);
    assert_eq!(lstat("/loop").unwrap().file_type(), FileType::Symlink);
    assert_eq!(m.process.readlink(b"/link").unwrap(), b"f");
    assert_eq!(errno(m.process.readlink(b"/f")), EINVAL);
    m.finish();
}

#[test]
fn stat_tells_what_mkfs_was_told() {
    let m = Machine::new();
    let s = m.process.stat(b"/f").unwrap();
    assert_eq!((s.mode, s.uid, s.gid, s.nlink), (0o100_644, 3, 4, 1));
    assert_eq!((s.size, s.blocks), (100_000, 25 * 8));
    let d = m.process.stat(b"/sub").unwrap();
    assert_eq!((d.file_type(), d.nlink), (FileType::Directory, 3));
    assert_eq!(m.process.stat(b"/dirlink").unwrap().ino, d.ino);
    assert_eq!(m.process.stat(b"/sub/..").unwrap().ino, m.process.stat(b"/").unwrap().ino);
    let null = m.process.stat(b"/dev/null").unwrap();
    assert_eq!((null.file_type(), null.rdev), (FileType::CharDevice, 0x103));
    assert_eq!(m.process.stat(b"/dev/vda").unwrap().file_type(), FileType::BlockDevice);
    let fs = m.process.statfs(b"/sub/x").unwrap();
    assert_eq!((fs.block_bytes, fs.name_max), (4096, 255));
    assert!(fs.blocks_free > 0 && fs.blocks_free < fs.blocks);
    m.finish();
}

#[test]
fn open_checks_its_flags() {
    let m = Machine::new();
    let f = OpenFlags::RDONLY;
    let cases = [
        ("/none", f, ENOENT),
        ("/sub", OpenFlags::WRONLY, EISDIR),
        ("/sub", OpenFlags::RDWR, EISDIR),
        ("/sub", OpenFlags::CREAT, EISDIR),
        ("/f", OpenFlags::DIRECTORY, ENOTDIR),
        ("/link", OpenFlags::NOFOLLOW, ELOOP),
        ("/loop", f, ELOOP),
        ("/f", OpenFlags::CREAT | OpenFlags::EXCL, EEXIST),
        ("/dangling", OpenFlags::CREAT | OpenFlags::EXCL, EEXIST),
        ("/new/", OpenFlags::CREAT | OpenFlags::WRONLY, EISDIR),
        ("/none/new", OpenFlags::CREAT, ENOENT),
        ("/f/new", OpenFlags::CREAT, ENOTDIR),
        ("/sub", OpenFlags::TMPFILE, EINVAL),
        ("/f", OpenFlags::TMPFILE | OpenFlags::RDWR, ENOTDIR),
        ("/pipe", f, ENXIO),
        ("/node", f, ENXIO),
    ];
    for (path, flags, want) in cases {
        assert_eq!(m.try_open(path, flags), Err(want), "{path} {flags:?}");
    }
    for (path, flags) in [
        ("/f", OpenFlags::CREAT | OpenFlags::RDWR),
        ("/empty", OpenFlags::TRUNC | OpenFlags::WRONLY),
        ("/sub", OpenFlags::DIRECTORY),
        ("/sub", OpenFlags::TMPFILE | OpenFlags::RDWR),
        ("/new", OpenFlags::CREAT | OpenFlags::WRONLY),
        ("/link", f),
        ("/link", OpenFlags::PATH | OpenFlags::NOFOLLOW),
        ("/dev/vda", OpenFlags::RDWR),
    ] {
        assert!(m.try_open(path, flags).is_ok(), "{path} {flags:?}");
    }
    m.finish();
    let readonly = Machine::with(Setup { readonly: true, ..Setup::default() });
    assert_eq!(readonly.try_open("/f", OpenFlags::RDWR), Err(EROFS));
    assert_eq!(readonly.try_open("/f", OpenFlags::WRONLY), Err(EROFS));
    assert_eq!(readonly.try_open("/f", OpenFlags::TRUNC | OpenFlags::RDWR), Err(EROFS));
    assert!(readonly.try_open("/f", f).is_ok());
    readonly.finish();
}

#[test]
fn descriptors_are_the_lowest_free_and_limited() {
    let m = Machine::new();
    let p = &m.process;
    assert_eq!(m.rw("/f"), 3);
    assert_eq!(m.rw("/f"), 4);
    p.close(3).unwrap();
    assert_eq!(p.dup(4), Ok(3));
    assert_eq!(p.dup2(4, 10), Ok(10));
    assert_eq!(p.dup_from(4, 20), Ok(20));
    // One position for all that dup made.
    let mut buf = [0; 10];
    p.read(4, &mut buf).unwrap();
    assert_eq!(p.lseek(10, 0, Whence::Cur), Ok(10));
    for fd in [-1, 5, 99, 1024, i32::MAX] {
        assert_eq!(errno(p.close(fd)), EBADF);
        assert_eq!(errno(p.read(fd, &mut buf)), EBADF);
        assert_eq!(errno(p.fstat(fd)), EBADF);
        assert_eq!(errno(p.dup(fd)), EBADF);
        assert_eq!(errno(p.fsync(fd)), EBADF);
    }
    assert_eq!(errno(p.dup2(4, 1024)), EBADF);
    assert_eq!(errno(p.dup_from(4, 1024)), EINVAL);
    let mut last = Ok(0);
    for _ in 0..1100 {
        last = m.try_open("/f", OpenFlags::RDONLY);
    }
    assert_eq!(last, Err(EMFILE));
    m.finish();
}

#[test]
fn directories_list_themselves_in_pieces() {
    let m = Machine::new();
    let fd = m.open("/many", OpenFlags::RDONLY);
    let list = |size: usize| {
        let mut names = Vec::new();
        let mut buf = vec![0; size];
        loop {
            let n = m.process.getdents(fd, &mut buf).unwrap();
            if n == 0 {
                return names;
            }
            names.extend(dirents(&buf[..n]).map(|d| (d.name.to_vec(), d.ino, d.offset)));
        }
    };
    let all = list(65536);
    assert_eq!(all.len(), 302, "with . and ..");
    for n in 0..300 {
        let name = format!("entry-number-{n:04}").into_bytes();
        let entry = all.iter().find(|e| e.0 == name).expect("every entry is listed");
        let path = [b"/many/", &name[..]].concat();
        assert_eq!(m.process.stat(&path).unwrap().ino, entry.1);
    }
    assert_eq!(m.process.lseek(fd, 0, Whence::Set), Ok(0));
    assert_eq!(list(48), all, "one entry at a time");
    m.process.lseek(fd, all[150].2 as i64, Whence::Set).unwrap();
    assert_eq!(list(1000), all[151..], "from any entry on");
    m.process.lseek(fd, 0, Whence::Set).unwrap();
    assert_eq!(errno(m.process.getdents(fd, &mut [0; 8])), EINVAL);
    assert_eq!(errno(m.process.read(fd, &mut [0; 8])), EISDIR);
    assert_eq!(errno(m.process.pread(fd, &mut [0; 8], 0)), EISDIR);
    let file = m.rw("/f");
    assert_eq!(errno(m.process.getdents(file, &mut [0; 100])), ENOTDIR);
    m.finish();
}

#[test]
fn devices_lie_in_dev() {
    let m = Machine::new();
    let fd = m.open("/dev", OpenFlags::DIRECTORY);
    let mut buf = vec![0; 4096];
    let n = m.process.getdents(fd, &mut buf).unwrap();
    let names: Vec<String> =
        dirents(&buf[..n]).map(|d| String::from_utf8_lossy(d.name).into_owned()).collect();
    assert_eq!(names, [".", "..", "console", "null", "vda", "zero"]);
    let null = m.rw("/dev/null");
    assert_eq!(m.process.write(null, b"gone"), Ok(4));
    assert_eq!(m.process.read(null, &mut buf), Ok(0));
    assert_eq!(m.process.lseek(null, 100, Whence::Set), Ok(0));
    let zero = m.rw("/dev/zero");
    buf.fill(1);
    assert_eq!(m.process.read(zero, &mut buf), Ok(4096));
    assert!(buf.iter().all(|b| *b == 0));
    // Standard output takes everything, in pieces as the device likes.
    let text = crate::machine::pattern(5, 5000);
    assert_eq!(m.process.write(1, &text), Ok(5000));
    assert_eq!(*m.console.written.lock().unwrap(), text);
    *m.console.input.lock().unwrap() = b"a line\n".to_vec();
    assert_eq!(m.process.read(0, &mut buf), Ok(7));
    assert_eq!(errno(m.process.lseek(0, 0, Whence::Cur)), 29);
    assert_eq!(errno(m.process.pread(0, &mut buf, 0)), 29);
    assert_eq!(errno(m.process.fsync(1)), EINVAL);
    assert!(m.process.isatty(0) && !m.process.isatty(null));
    assert_eq!(m.process.stat(b"/dev/../f").unwrap().size, 100_000);
    assert_eq!(m.try_open("/dev/none", OpenFlags::RDONLY), Err(ENOENT));
    assert_eq!(m.try_open("/dev/null/x", OpenFlags::RDONLY), Err(ENOTDIR));
    m.finish();
}

#[test]
fn the_working_directory_moves() {
    let m = Machine::new();
    let p = &m.process;
    assert_eq!(p.getcwd(), b"/");
    p.chdir(b"dirlink/deep").unwrap();
    assert_eq!(p.getcwd(), b"/sub/deep");
    assert_eq!(m.read_file("y"), contents("/sub/deep/y"));
    assert_eq!(m.read_file("../x"), contents("/sub/x"));
    p.chdir(b"..").unwrap();
    assert_eq!(p.getcwd(), b"/sub");
    p.chdir(b"../../..").unwrap();
    assert_eq!(p.getcwd(), b"/");
    assert_eq!(errno(p.chdir(b"f")), ENOTDIR);
    assert_eq!(errno(p.chdir(b"none")), ENOENT);
    let dir = m.open("/sub", OpenFlags::RDONLY);
    let fd = p.openat(dir, b"x", OpenFlags::RDONLY, 0).unwrap();
    assert_eq!(p.fstat(fd).unwrap().size, 11);
    assert_eq!(errno(p.openat(fd, b"x", OpenFlags::RDONLY, 0)), ENOTDIR);
    assert_eq!(p.fstatat(dir, b"deep/y", true).unwrap().size, 5000);
    assert_eq!(p.fstatat(AT_FDCWD, b"sub/x", true).unwrap().size, 11);
    m.finish();
}

#[test]
fn a_read_only_mount_refuses_changes_after_their_arguments_were_checked() {
    let m = Machine::with(Setup { readonly: true, ..Setup::default() });
    let p = &m.process;
    assert_eq!(errno(p.mkdir(b"/sub", 0)), EEXIST);
    assert_eq!(errno(p.mkdir(b"/new", 0)), EROFS);
    assert_eq!(errno(p.mkdir(b"/none/new", 0)), ENOENT);
    assert_eq!(errno(p.symlink(b"f", b"/new")), EROFS);
    assert_eq!(errno(p.link(b"/none", b"/new")), ENOENT);
    assert_eq!(errno(p.link(b"/f", b"/new")), EROFS);
    assert_eq!(errno(p.link(b"/f", b"/sub")), EEXIST);
    assert_eq!(errno(p.unlink(b"/f")), EROFS);
    assert_eq!(errno(p.unlink(b"/sub/")), EISDIR);
    assert_eq!(errno(p.rmdir(b"/sub")), EROFS);
    assert_eq!(errno(p.rmdir(b"/sub/.")), EINVAL);
    assert_eq!(errno(p.rename(b"/f", b"/g")), EROFS);
    assert_eq!(errno(p.rename(b"/none/f", b"/g")), ENOENT);
    assert_eq!(errno(p.chmod(b"/f", 0)), EROFS);
    assert_eq!(errno(p.chown(b"/none", 0, 0)), ENOENT);
    assert_eq!(errno(p.truncate(b"/f", 5)), EROFS);
    assert_eq!(errno(p.truncate(b"/sub", 5)), EISDIR);
    assert_eq!(errno(p.setxattr(b"/f", b"user.a", b"v", XattrFlags::empty())), EROFS);
    assert_eq!(errno(p.setxattr(b"/f", b"odd.a", b"v", XattrFlags::empty())), EOPNOTSUPP);
    assert_eq!(errno(p.getxattr(b"/f", b"user.a")), ENODATA);
    assert_eq!(errno(p.getxattr(b"/f", b"")), ERANGE);
    assert_eq!(p.listxattr(b"/f"), Ok(Vec::new()));
    assert_eq!(m.try_open("/new", OpenFlags::CREAT | OpenFlags::WRONLY), Err(EROFS));
    assert_eq!(m.try_open("/f", OpenFlags::CREAT | OpenFlags::EXCL), Err(EEXIST));
    let reason = p.mkdir(b"/new", 0).unwrap_err().to_string();
    assert!(reason.contains("read-only"), "{reason}");
    m.finish();
}
