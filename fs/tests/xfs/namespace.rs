//! Names on real file systems: every change compared with a model, many at once, on a disk
//! that is full, files that lose their names while they are open; judged by xfs_repair.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::volume::tree::{
    EBUSY, EEXIST, EINVAL, EISDIR, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM, Kind,
    Tree,
};
use crate::volume::{Random, Volume, code, errno, mkfs};
use holdfast_fs::syscall::{AT_FDCWD, AtFlags, OpenFlags, RenameFlags, TimeChange};
use holdfast_fs::xfs::Timestamp;

/// Shapes of file systems in which names and inodes lie differently: megabytes, options.
const SHAPES: &[(usize, &[&str])] = &[
    (16, &[]),
    (16, &["-m", "finobt=0,rmapbt=0,reflink=0,inobtcount=0"]),
    (64, &["-i", "sparse=0", "-d", "agcount=4"]),
    (16, &["-b", "size=1024", "-m", "rmapbt=1"]),
    (16, &["-i", "size=2048", "-n", "size=16384"]),
    (16, &["-m", "rmapbt=1,inobtcount=0", "-i", "nrext64=1", "-n", "size=8192"]),
    (64, &["-m", "bigtime=0,rmapbt=1", "-i", "size=1024", "-d", "agcount=4"]),
    (16, &["-b", "size=1024", "-m", "finobt=0,inobtcount=0", "-n", "size=4096"]),
];

#[test]
fn a_few_names_survive_a_remount() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o777).unwrap();
    v.touch(b"/d/f").unwrap();
    p.link(b"/d/f", b"/g").unwrap();
    p.symlink(b"d/f", b"/l").unwrap();
    p.symlink(&[b'x'; 700], b"/long").unwrap();
    p.mknod(b"/pipe", 0o010_644, (0, 0)).unwrap();
    p.mknod(b"/dev1", 0o020_600, (5, 300)).unwrap();
    p.rename(b"/d/f", b"/d/h").unwrap();
    let v = Volume::over(&v.finish());
    let p = &v.process;
    assert_eq!(v.list(b"/"), [&b"d"[..], b"dev1", b"g", b"l", b"long", b"pipe"]);
    assert_eq!(v.list(b"/d"), [b"h"]);
    let (g, h) = (p.stat(b"/g").unwrap(), p.stat(b"/d/h").unwrap());
    assert_eq!((g.ino, g.nlink, g.mode), (h.ino, 2, 0o100_644));
    assert_eq!(p.stat(b"/d").unwrap().mode, 0o040_755);
    assert_eq!(p.stat(b"/").unwrap().nlink, 3);
    assert_eq!(p.readlink(b"/l").unwrap(), b"d/f");
    assert_eq!(p.readlink(b"/long").unwrap(), [b'x'; 700]);
    let dev = p.stat(b"/dev1").unwrap();
    assert_eq!((dev.mode, dev.rdev), (0o020_600, 0x10_052c));
    for path in [&b"/g"[..], b"/l", b"/long", b"/pipe", b"/dev1", b"/d/h"] {
        p.unlink(path).unwrap();
    }
    p.rmdir(b"/d").unwrap();
    assert_eq!(p.stat(b"/").unwrap().nlink, 2);
    v.finish();
}

#[test]
fn errors_are_those_of_linux() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    p.mkdir(b"/d/e", 0o755).unwrap();
    v.touch(b"/f").unwrap();
    p.symlink(b"f", b"/l").unwrap();
    p.symlink(b"nowhere", b"/dangling").unwrap();
    p.symlink(b"loop", b"/loop").unwrap();
    let long = [b'n'; 256];
    let long_path = [&b"/"[..], &long].concat();
    let exact = [&b"/"[..], &[b'n'; 255]].concat();
    let checks: &[(&str, i32, i32)] = &[
        ("mkdir /", code(p.mkdir(b"/", 0)), EEXIST),
        ("mkdir .", code(p.mkdir(b".", 0)), EEXIST),
        ("mkdir f", code(p.mkdir(b"/f", 0)), EEXIST),
        ("mkdir dangling", code(p.mkdir(b"/dangling", 0)), EEXIST),
        ("mkdir none/x", code(p.mkdir(b"/none/x", 0)), ENOENT),
        ("mkdir f/x", code(p.mkdir(b"/f/x", 0)), ENOTDIR),
        ("mkdir loop/x", code(p.mkdir(b"/loop/x", 0)), 40),
        ("mkdir long", code(p.mkdir(&long_path, 0)), ENAMETOOLONG),
        ("mkdir 255", code(p.mkdir(&exact, 0)), 0),
        ("mkdir empty", code(p.mkdir(b"", 0)), ENOENT),
        ("rmdir 255/", code(p.rmdir(&[&exact[..], b"/"].concat())), 0),
        ("rmdir .", code(p.rmdir(b"/d/.")), EINVAL),
        ("rmdir ..", code(p.rmdir(b"/d/..")), ENOTEMPTY),
        ("rmdir /", code(p.rmdir(b"/")), EBUSY),
        ("rmdir d", code(p.rmdir(b"/d")), ENOTEMPTY),
        ("rmdir f", code(p.rmdir(b"/f")), ENOTDIR),
        ("rmdir l", code(p.rmdir(b"/l")), ENOTDIR),
        ("rmdir none", code(p.rmdir(b"/none")), ENOENT),
        ("unlink d", code(p.unlink(b"/d")), EISDIR),
        ("unlink d/.", code(p.unlink(b"/d/.")), EISDIR),
        ("unlink f/", code(p.unlink(b"/f/")), ENOTDIR),
        ("unlink none/", code(p.unlink(b"/none/")), ENOENT),
        ("unlink none", code(p.unlink(b"/none")), ENOENT),
        ("unlink /", code(p.unlink(b"/")), EISDIR),
        ("link f d", code(p.link(b"/f", b"/d")), EEXIST),
        ("link d x", code(p.link(b"/d", b"/x")), EPERM),
        ("link none x", code(p.link(b"/none", b"/x")), ENOENT),
        ("link f x/", code(p.link(b"/f", b"/x/")), ENOENT),
        ("link f dev", code(p.link(b"/f", b"/dev/x")), 30),
        ("symlink to nothing", code(p.symlink(b"", b"/x")), ENOENT),
        ("symlink too long", code(p.symlink(&[b'x'; 1024], b"/x")), ENAMETOOLONG),
        ("symlink x/", code(p.symlink(b"t", b"/x/")), ENOENT),
        ("symlink f", code(p.symlink(b"t", b"/f")), EEXIST),
        ("mknod dir", code(p.mknod(b"/x", 0o040_000, (0, 0))), EPERM),
        ("mknod odd", code(p.mknod(b"/x", 0o050_000, (0, 0))), EINVAL),
        ("mknod x/", code(p.mknod(b"/x/", 0o010_000, (0, 0))), ENOENT),
        ("rename d d/e/x", code(p.rename(b"/d", b"/d/e/x")), EINVAL),
        ("rename d d/x", code(p.rename(b"/d", b"/d/x")), EINVAL),
        ("rename d/e d", code(p.rename(b"/d/e", b"/d")), ENOTEMPTY),
        ("rename f d", code(p.rename(b"/f", b"/d")), EISDIR),
        ("rename d f", code(p.rename(b"/d", b"/f")), ENOTDIR),
        ("rename f x/", code(p.rename(b"/f", b"/x/")), ENOTDIR),
        ("rename f/ x", code(p.rename(b"/f/", b"/x")), ENOTDIR),
        ("rename none x", code(p.rename(b"/none", b"/x")), ENOENT),
        ("rename f .", code(p.rename(b"/f", b"/.")), EBUSY),
        ("rename / x", code(p.rename(b"/", b"/x")), EBUSY),
        ("rename d/.. x", code(p.rename(b"/d/..", b"/x")), EBUSY),
        ("rename f f", code(p.rename(b"/f", b"/f")), 0),
        ("rename f none/x", code(p.rename(b"/f", b"/none/x")), ENOENT),
        ("open d creat", code(p.open(b"/d", OpenFlags::CREAT, 0o644)), EISDIR),
        ("open x/ creat", code(p.open(b"/x/", OpenFlags::CREAT, 0o644)), EISDIR),
        ("open f excl", code(v.create(b"/f")), EEXIST),
        ("open dangling excl", code(v.create(b"/dangling")), EEXIST),
        ("open loop creat", code(p.open(b"/loop", OpenFlags::CREAT, 0o644)), 40),
        ("open none/x creat", code(p.open(b"/none/x", OpenFlags::CREAT, 0o644)), ENOENT),
        ("open long creat", code(p.open(&long_path, OpenFlags::CREAT, 0o644)), ENAMETOOLONG),
        ("tmpfile read-only", code(p.open(b"/d", OpenFlags::TMPFILE, 0o644)), EINVAL),
    ];
    for (what, is, should) in checks {
        assert_eq!(is, should, "{what}");
    }
    let tmpfile = OpenFlags::TMPFILE | OpenFlags::RDWR;
    assert_eq!(errno(p.open(b"/f", tmpfile, 0o644)), ENOTDIR);
    let flags = |f| p.renameat2(AT_FDCWD, b"/f", AT_FDCWD, b"/d/e", f);
    assert_eq!(errno(flags(RenameFlags::NOREPLACE)), EEXIST);
    assert_eq!(errno(flags(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE)), EINVAL);
    let missing = p.renameat2(AT_FDCWD, b"/f", AT_FDCWD, b"/x", RenameFlags::EXCHANGE);
    assert_eq!(errno(missing), ENOENT);
    assert_eq!(flags(RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(p.stat(b"/f").unwrap().mode & 0o170_000, 0o040_000);
    assert_eq!(p.stat(b"/d/e").unwrap().mode & 0o170_000, 0o100_000);
    // Through a link whose target is missing the target is made.
    let fd = p.open(b"/dangling", OpenFlags::CREAT | OpenFlags::WRONLY, 0o640).unwrap();
    p.close(fd).unwrap();
    assert_eq!(p.stat(b"/nowhere").unwrap().mode, 0o100_640);
    v.finish();
}

#[test]
fn modes_owners_and_times_change_and_are_handed_down() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    assert_eq!(p.umask(0o027), 0o022);
    p.mkdir(b"/d", 0o777).unwrap();
    assert_eq!(p.stat(b"/d").unwrap().mode, 0o040_750);
    p.chown(b"/d", 7, 8).unwrap();
    p.chmod(b"/d", 0o2770).unwrap();
    p.mkdir(b"/d/sub", 0o777).unwrap();
    v.touch(b"/d/f").unwrap();
    let (sub, f) = (p.stat(b"/d/sub").unwrap(), p.stat(b"/d/f").unwrap());
    assert_eq!((sub.mode, sub.uid, sub.gid), (0o042_750, 0, 8));
    assert_eq!((f.mode, f.uid, f.gid), (0o100_640, 0, 8));
    p.chmod(b"/d/f", 0o6755).unwrap();
    assert_eq!(p.stat(b"/d/f").unwrap().mode, 0o106_755);
    p.chown(b"/d/f", u32::MAX, 9).unwrap();
    let f = p.stat(b"/d/f").unwrap();
    assert_eq!((f.mode, f.uid, f.gid), (0o100_755, 0, 9));
    let time = Timestamp { seconds: 1_000_000, nanoseconds: 17 };
    p.utimens(b"/d/f", [TimeChange::Omit, TimeChange::Set(time)]).unwrap();
    let after = p.stat(b"/d/f").unwrap();
    assert_eq!((after.atime, after.mtime), (f.atime, time));
    assert!(after.ctime > f.mtime);
    let bad = TimeChange::Set(Timestamp { seconds: 0, nanoseconds: 1_000_000_000 });
    assert_eq!(errno(p.utimens(b"/d/f", [bad, TimeChange::Omit])), EINVAL);
    p.symlink(b"f", b"/d/l").unwrap();
    p.lchown(b"/d/l", 3, 3).unwrap();
    assert_eq!(p.lstat(b"/d/l").unwrap().uid, 3);
    let v = Volume::over(&v.finish());
    assert_eq!(v.process.stat(b"/d/f").unwrap().mtime, time);
    assert_eq!(v.process.stat(b"/d/sub").unwrap().mode, 0o042_750);
    v.finish();
}

/// Names for the model test: few, so that they meet; some long, so that directories grow.
fn name(random: &mut Random, spread: u64) -> Vec<u8> {
    let number = random.below(spread);
    let length = if number.is_multiple_of(3) { 100 } else { 1 };
    format!("{}{number}", "n".repeat(length)).into_bytes()
}

fn pick_path(random: &mut Random, tree: &Tree, spread: u64) -> Vec<u8> {
    let paths = tree.paths();
    let directories: Vec<&Vec<u8>> = paths
        .iter()
        .filter(|(path, ino)| tree.entries(*ino).is_ok() && path.len() < 600)
        .map(|(path, _)| path)
        .collect();
    if random.below(4) > 0 {
        let exists = &paths[random.below(paths.len() as u64) as usize].0;
        if !exists.is_empty() {
            return exists.clone();
        }
    }
    let dir = directories[random.below(directories.len() as u64) as usize];
    [&dir[..], b"/", &name(random, spread)].concat()
}

pub(crate) fn step(v: &Volume, tree: &mut Tree, random: &mut Random, spread: u64) {
    let p = &v.process;
    let what = random.below(100);
    let path = pick_path(random, tree, spread);
    let (real, model) = match what {
        0..12 => {
            let kind = Kind::Directory(BTreeMap::new());
            (code(p.mkdir(&path, 0o755)), code_of(tree.make(&path, kind, 0o755)))
        }
        12..40 => (code(v.touch(&path)), code_of(tree.make(&path, Kind::File, 0o644))),
        40..45 => {
            let length = 1 + random.below(300) as usize;
            let target = vec![b't'; length];
            let made = tree.make(&path, Kind::Symlink(target.clone()), 0o777);
            (code(p.symlink(&target, &path)), code_of(made))
        }
        45..48 => {
            let made = tree.make(&path, Kind::Fifo, 0o644);
            (code(p.mknod(&path, 0o010_644, (0, 0))), code_of(made))
        }
        48..56 => {
            let to = pick_path(random, tree, spread);
            (code(p.link(&path, &to)), code_of(tree.link(&path, &to)))
        }
        56..72 => (code(p.unlink(&path)), code_of(tree.unlink(&path))),
        72..80 => (code(p.rmdir(&path)), code_of(tree.rmdir(&path))),
        _ => {
            let to = pick_path(random, tree, spread);
            let flags = match random.below(5) {
                0 => RenameFlags::NOREPLACE,
                1 => RenameFlags::EXCHANGE,
                _ => RenameFlags::empty(),
            };
            let real = p.renameat2(AT_FDCWD, &path, AT_FDCWD, &to, flags);
            let noreplace = flags == RenameFlags::NOREPLACE;
            let exchange = flags == RenameFlags::EXCHANGE;
            (code(real), code_of(tree.rename(&path, &to, noreplace, exchange)))
        }
    };
    assert_eq!(real, model, "operation {what} on {}", String::from_utf8_lossy(&path));
}

fn code_of(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

pub(crate) fn compare(v: &Volume, tree: &Tree) {
    let p = &v.process;
    for (path, ino) in tree.paths() {
        let path = if path.is_empty() { b"/".to_vec() } else { path };
        let inode = &tree.inodes[ino];
        let stat = p.lstat(&path).unwrap_or_else(|e| {
            panic!("{}: {e}", String::from_utf8_lossy(&path));
        });
        assert_eq!(stat.nlink, inode.nlink, "links of {}", String::from_utf8_lossy(&path));
        let bits = match &inode.kind {
            Kind::Directory(_) => 0o040_000,
            Kind::File => 0o100_000,
            Kind::Symlink(_) => 0o120_000,
            Kind::Fifo => 0o010_000,
        };
        assert_eq!(stat.mode, bits | inode.mode);
        match &inode.kind {
            Kind::Directory(entries) => {
                let names: Vec<Vec<u8>> = entries.keys().cloned().collect();
                assert_eq!(v.list(&path), names, "names in {}", String::from_utf8_lossy(&path));
            }
            Kind::Symlink(target) => assert_eq!(&p.readlink(&path).unwrap(), target),
            _ => {}
        }
    }
}

fn random_changes(shape: usize, seed: u64, steps: u64) {
    let (megabytes, options) = SHAPES[shape];
    println!("shape {shape} ({options:?}), seed {seed}, {steps} steps");
    changes_on(mkfs(megabytes, options), seed, steps, Volume::finish);
}

/// Random changes on an empty image, twice; then remove everything. `finish` unmounts and
/// judges.
pub(crate) fn changes_on(
    mut image: Arc<Vec<u8>>,
    seed: u64,
    steps: u64,
    finish: fn(Volume) -> Arc<Vec<u8>>,
) {
    let mut random = Random::new(seed);
    let mut tree = Tree::new();
    let spread = [20, 200, 1000][random.below(3) as usize];
    for _ in 0..2 {
        let v = Volume::over(&image);
        compare(&v, &tree);
        for _ in 0..steps {
            step(&v, &mut tree, &mut random, spread);
        }
        compare(&v, &tree);
        image = finish(v);
    }
    if let Ok(place) = std::env::var("IMAGE") {
        std::fs::write(place, &image[..]).expect("the image can be kept");
    }
    let v = Volume::over(&image);
    compare(&v, &tree);
    remove_all(&v, b"");
    finish(v);
}

/// Remove everything below a directory.
pub(crate) fn remove_all(v: &Volume, dir: &[u8]) {
    let here = if dir.is_empty() { b"/" } else { dir };
    for name in v.list(here) {
        let path = [dir, b"/", &name].concat();
        if v.process.unlink(&path).is_err() {
            remove_all(v, &path);
            v.process.rmdir(&path).expect("an empty directory");
        }
    }
}

#[test]
fn random_changes_agree_with_the_model() {
    for shape in 0..SHAPES.len() {
        random_changes(shape, 1 + shape as u64, 1500);
    }
}

/// `cargo test --release -p holdfast-fs --test xfs -- --ignored soak`; SEEDS and
/// STEPS say how much. IMAGE keeps the last image, for others to look at.
#[test]
#[ignore = "runs as long as it is told to"]
fn soak() {
    as_long_as_told(SHAPES.len(), random_changes);
}

/// Try `changes` on a shape, with a seed and a number of steps, for each seed asked for.
pub(crate) fn as_long_as_told(shapes: usize, changes: fn(usize, u64, u64)) {
    let number = |name: &str, other: u64| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(other)
    };
    let first = number("FIRST", 100);
    for seed in first..first + number("SEEDS", 20) {
        changes(seed as usize % shapes, seed, number("STEPS", 3000));
    }
}

#[test]
fn many_threads_change_names_at_once() {
    for (shape, (megabytes, options)) in SHAPES.iter().enumerate() {
        println!("shape {shape} ({options:?})");
        let v = Arc::new(Volume::over(&mkfs(*megabytes, options)));
        for dir in 0..3 {
            v.process.mkdir(format!("/{dir}").as_bytes(), 0o755).unwrap();
        }
        let workers: Vec<_> = (0..4)
            .map(|n| {
                let v = v.clone();
                std::thread::spawn(move || worker(&v, n * 1000 + shape as u64 + 1))
            })
            .collect();
        for worker in workers {
            worker.join().expect("it did not panic");
        }
        let v = Arc::into_inner(v).expect("the threads are gone");
        let image = v.finish();
        let v = Volume::over(&image);
        remove_all(&v, b"");
        v.finish();
    }
}

fn worker(v: &Volume, seed: u64) {
    let p = &v.process;
    let mut random = Random::new(seed);
    let path = |random: &mut Random| {
        let (dir, sub) = (random.below(3), random.below(4));
        let name = random.below(12);
        let inner = if sub > 0 { format!("s{sub}/") } else { String::new() };
        format!("/{dir}/{inner}{}{name}", if name > 8 { "s" } else { "f" }).into_bytes()
    };
    for _ in 0..1200 {
        let (a, b) = (path(&mut random), path(&mut random));
        // Others do the same: anything may fail, but only as it may.
        let done = match random.below(12) {
            0 | 1 => p.mkdir(&a, 0o755),
            2..=4 => v.touch(&a),
            5 => p.link(&a, &b),
            6 => p.symlink(&b, &a),
            7 => p.rmdir(&a),
            8 => p.rename(&a, &b),
            9 => p.renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::EXCHANGE),
            10 => v.create(&a).and_then(|fd| {
                // Gone while it is open, most of the time.
                let _ = p.unlink(&a);
                p.close(fd)
            }),
            _ => p.unlink(&a),
        };
        let known = [0, EPERM, ENOENT, EEXIST, ENOTDIR, EISDIR, EINVAL, ENOTEMPTY, ENOSPC, 40];
        let code = code(done);
        assert!(known.contains(&code), "errno {code}");
    }
}

#[test]
fn a_file_without_names_lives_as_long_as_it_is_open() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    v.touch(b"/warm").unwrap();
    p.unlink(b"/warm").unwrap();
    let before = p.statfs(b"/").unwrap();
    let fd = v.create(b"/f").unwrap();
    p.unlink(b"/f").unwrap();
    assert_eq!(p.fstat(fd).unwrap().nlink, 0);
    assert_eq!(errno(p.stat(b"/f")), ENOENT);
    // The name can mean something else meanwhile.
    v.touch(b"/f").unwrap();
    assert_ne!(p.stat(b"/f").unwrap().ino, p.fstat(fd).unwrap().ino);
    p.unlink(b"/f").unwrap();
    assert_eq!(errno(p.linkat(fd, b"", AT_FDCWD, b"/again", AtFlags::EMPTY_PATH)), ENOENT);
    v.fs.drop_caches();
    assert_eq!(p.fstat(fd).unwrap().nlink, 0);
    p.close(fd).unwrap();
    let after = p.statfs(b"/").unwrap();
    assert_eq!((before.files_free, before.blocks_free), (after.files_free, after.blocks_free));
    v.finish();
}

#[test]
fn what_nobody_holds_is_freed_with_its_last_name() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    v.touch(b"/warm").unwrap();
    p.unlink(b"/warm").unwrap();
    let before = p.statfs(b"/").unwrap();
    // Others write back, and hold files for a moment, while names go.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                p.sync();
            }
        });
        for n in 0..400u64 {
            let fd = v.create(b"/f").unwrap();
            // Dirty, and not allocated yet, or just being allocated.
            assert_eq!(p.write(fd, &[7u8; 10_000][..]).unwrap(), 10_000);
            p.close(fd).unwrap();
            p.symlink(b"f", b"/l").unwrap();
            p.mkdir(b"/d", 0o755).unwrap();
            if n % 3 == 0 {
                std::thread::yield_now();
            }
            p.unlink(b"/f").unwrap();
            p.unlink(b"/l").unwrap();
            p.rmdir(b"/d").unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    p.sync();
    v.fs.sync_all().expect("nothing was to be written where nothing is");
    let after = p.statfs(b"/").unwrap();
    assert_eq!((before.files_free, before.blocks_free), (after.files_free, after.blocks_free));
    v.finish();
}

#[test]
fn what_lost_its_name_before_a_crash_is_freed_at_the_next_mount() {
    for (megabytes, options) in &SHAPES[..4] {
        let image = mkfs(*megabytes, options);
        let v = Volume::over(&image);
        let p = &v.process;
        v.touch(b"/warm").unwrap();
        let before = p.statfs(b"/").unwrap();
        let mut open = Vec::new();
        // More than one in the same list.
        for n in 0..200 {
            let path = format!("/f{n}").into_bytes();
            open.push(v.create(&path).unwrap());
            p.unlink(&path).unwrap();
        }
        // Out of the middle.
        for fd in open.drain(90..110) {
            p.close(fd).unwrap();
        }
        p.mkdir(b"/d", 0o755).unwrap();
        p.chdir(b"/d").unwrap();
        p.rmdir(b"/d").unwrap();
        open.push(p.open(b"/", OpenFlags::TMPFILE | OpenFlags::RDWR, 0o600).unwrap());
        p.sync();
        let crashed = Arc::new(v.bytes());
        drop(open);
        let after = Volume::over(&crashed);
        assert_eq!(after.list(b"/"), [b"warm"]);
        let now = after.process.statfs(b"/").unwrap();
        assert_eq!((before.blocks_free, before.files_free), (now.blocks_free, now.files_free));
        after.finish();
        p.exit();
        v.finish();
    }
}

#[test]
fn a_file_that_never_had_a_name_can_be_given_one() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    let tmpfile = OpenFlags::TMPFILE | OpenFlags::RDWR;
    let fd = p.open(b"/", tmpfile, 0o600).unwrap();
    let lost = p.open(b"/", tmpfile, 0o600).unwrap();
    let unlinkable = p.open(b"/", tmpfile | OpenFlags::EXCL, 0o600).unwrap();
    let third = p.open(b"/", tmpfile, 0o600).unwrap();
    assert_eq!(p.fstat(fd).unwrap().nlink, 0);
    assert_eq!(v.list(b"/"), Vec::<Vec<u8>>::new());
    // Out of the middle of the list of such files.
    p.linkat(lost, b"", AT_FDCWD, b"/lost", AtFlags::EMPTY_PATH).unwrap();
    p.linkat(fd, b"", AT_FDCWD, b"/named", AtFlags::EMPTY_PATH).unwrap();
    let refused = p.linkat(unlinkable, b"", AT_FDCWD, b"/x", AtFlags::EMPTY_PATH);
    assert_eq!(errno(refused), ENOENT);
    assert_eq!(p.stat(b"/named").unwrap().nlink, 1);
    for fd in [fd, lost, unlinkable, third] {
        p.close(fd).unwrap();
    }
    let v = Volume::over(&v.finish());
    assert_eq!(v.list(b"/"), [&b"lost"[..], b"named"]);
    v.finish();
}

#[test]
fn a_directory_that_was_removed_takes_no_names() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    p.mkdir(b"/d/e", 0o755).unwrap();
    p.chdir(b"/d/e").unwrap();
    p.rmdir(b"/d/e").unwrap();
    p.rmdir(b"/d").unwrap();
    assert_eq!(errno(v.touch(b"f")), ENOENT);
    assert_eq!(errno(p.mkdir(b"f", 0o755)), ENOENT);
    assert_eq!(errno(p.stat(b"f")), ENOENT);
    assert_eq!(p.stat(b".").unwrap().nlink, 0);
    p.mkdir(b"/d", 0o755).unwrap();
    assert_eq!(v.list(b"/d"), Vec::<Vec<u8>>::new());
    p.chdir(b"/").unwrap();
    v.finish();
}

#[test]
fn whiteouts_are_left_where_they_are_asked_for() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    v.touch(b"/a").unwrap();
    v.touch(b"/b").unwrap();
    p.renameat2(AT_FDCWD, b"/a", AT_FDCWD, b"/b", RenameFlags::WHITEOUT).unwrap();
    let left = p.lstat(b"/a").unwrap();
    assert_eq!((left.mode & 0o170_000, left.rdev, left.nlink), (0o020_000, 0, 1));
    v.finish();
}

/// Linux 6.1 spends about 295 bytes of log on a create and 265 on an unlink, of a thousand
/// with a sync behind them.
#[test]
fn a_thousand_changes_cost_little_log() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    let log = v.fs.mount().log().expect("a log").clone();
    let path = |n: u32| format!("/file-{n:04}").into_bytes();
    let cost = |what: &str, most: u64, change: &dyn Fn(u32)| {
        p.sync();
        let before = log.statistics();
        (0..1000).for_each(change);
        p.sync();
        let spent = log.statistics().since(&before);
        let each = spent.log_bytes / 1000;
        println!("{what}: {each} bytes of log, {} writes in all", spent.log_writes);
        assert!(each <= most, "{what}: {each} bytes of log");
    };
    cost("create", 295 * 3 / 2, &|n| v.touch(&path(n)).expect("there is space"));
    cost("unlink", 265 * 3 / 2, &|n| p.unlink(&path(n)).expect("it is there"));
    v.finish();
}

#[test]
fn many_threads_change_names_on_a_full_disk() {
    let shapes: [(usize, &[&str]); 2] = [
        (16, &["-b", "size=1024", "-i", "maxpct=99"]),
        (32, &["-m", "rmapbt=1", "-d", "agcount=2", "-i", "maxpct=99,size=2048"]),
    ];
    for (megabytes, options) in shapes {
        let v = Arc::new(Volume::over(&mkfs(megabytes, options)));
        for dir in 0..3 {
            v.process.mkdir(format!("/{dir}").as_bytes(), 0o755).unwrap();
        }
        let before = v.process.statfs(b"/").unwrap();
        v.process.mkdir(b"/full", 0o755).unwrap();
        let made = fill(&v, "/full");
        println!("{options:?}: {made} files, {:?}", v.process.statfs(b"/").unwrap());
        let start = |n: u64| {
            let v = v.clone();
            std::thread::spawn(move || worker(&v, n + 77))
        };
        let workers: Vec<_> = (0..4).map(start).collect();
        for worker in workers {
            worker.join().expect("it did not panic");
        }
        assert!(!v.fs.mount().is_shut_down(), "it was shut down");
        for dir in 0..3 {
            remove_all(&v, format!("/{dir}").as_bytes());
        }
        remove_all(&v, b"/full");
        v.process.rmdir(b"/full").unwrap();
        assert_eq!(before, v.process.statfs(b"/").unwrap());
        Arc::into_inner(v).expect("the threads are gone").finish();
    }
}

/// Make files until there is no space; how many.
pub(crate) fn fill(v: &Volume, base: &str) -> u64 {
    let p = &v.process;
    let mut made = 0;
    loop {
        let path = format!("{base}/{:03}", made / 1000).into_bytes();
        if made % 1000 == 0 && p.mkdir(&path, 0o755).is_err() {
            return made;
        }
        let path = format!("{base}/{:03}/{:-<60}{made}", made / 1000, "file").into_bytes();
        match code(v.touch(&path)) {
            0 => made += 1,
            ENOSPC => return made,
            other => panic!("errno {other}"),
        }
    }
}

#[test]
fn a_full_disk_can_be_emptied_and_is_as_it_was() {
    for options in [&["-i", "maxpct=99"][..], &["-b", "size=1024", "-i", "maxpct=99,sparse=0"], &[]]
    {
        let v = Volume::over(&mkfs(16, options));
        let before = v.process.statfs(b"/").unwrap();
        let made = fill(&v, "");
        assert!(made > 2000, "{made} files");
        println!("{options:?}: {made} files, {:?}", v.process.statfs(b"/").unwrap());
        let again = fill_names(&v);
        println!("and {again} more names");
        let v = Volume::over(&v.finish());
        remove_all(&v, b"");
        v.process.sync();
        let after = v.process.statfs(b"/").unwrap();
        assert_eq!(
            (before.blocks_free, before.files - before.files_free),
            (after.blocks_free, after.files - after.files_free)
        );
        let v = Volume::over(&v.finish());
        assert_eq!(before, v.process.statfs(b"/").unwrap());
        v.finish();
    }
}

/// Take what is left, block by block, with names for one file.
fn fill_names(v: &Volume) -> u64 {
    let p = &v.process;
    let Some(file) = v.list(b"/000").first().cloned() else { return 0 };
    let from = [b"/000/", &file[..]].concat();
    for n in 0..200_000u64 {
        let to = format!("/000/{:x<100}{n}", "name");
        match code(p.link(&from, to.as_bytes())) {
            0 => {}
            ENOSPC => return n,
            other => panic!("errno {other}"),
        }
    }
    panic!("it is never full")
}
