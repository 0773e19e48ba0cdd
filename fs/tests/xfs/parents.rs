//! Pointers to parents: every change of names keeps them, in whatever form they lie;
//! unfinished changes of Linux are recovered; the checker misses none.
//!
//! The installed xfsprogs may be older than the feature: the bits are set in images they
//! made, where an empty root needs no pointer. Our checker judges, and `xfs_repair` of the
//! directory that `HOLDFAST_NEWER_XFSPROGS` names, which the test driver sets.

use std::sync::Arc;

use holdfast_fs::block::Queue;
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::{AT_FDCWD, AtFlags, OpenFlags, RenameFlags, XattrFlags};
use holdfast_fs::xfs::Ino;
use holdfast_fs::xfs::check::{Report, check};
use holdfast_fs::xfs::log::head::Found;
use holdfast_fs::xfs::log::recovery;
use holdfast_fs::xfs::ondisk::log_intents::{AttrChange, Done, Intent, attr};
use holdfast_fs::xfs::ondisk::superblock::Incompat;

use crate::namespace::{as_long_as_told, changes_on, fill, remove_all};
use crate::recovery_support::Device;
use crate::recovery_support::log::{Item, Writer, done, intent};
use crate::volume::{Random, Volume, mkfs};
use crate::xfs_support::disk_over;
use crate::xfs_support::features::switch;
use crate::xfsprogs::{self, Scratch, keep};

/// The namespace of pointers to parents.
const PARENT: u32 = 8;

/// Shapes in which the pointers lie differently: megabytes, options.
const SHAPES: &[(usize, &[&str])] = &[
    (24, &[]),
    (24, &["-m", "rmapbt=1", "-i", "nrext64=1"]),
    (32, &["-b", "size=1024", "-m", "rmapbt=1", "-n", "size=4096"]),
    (24, &["-i", "size=2048", "-n", "size=16384"]),
    (64, &["-m", "finobt=0,reflink=0,bigtime=0", "-i", "sparse=0", "-d", "agcount=4"]),
    (24, &["-n", "version=ci"]),
];

/// An empty file system as the newest mkfs makes it.
fn make(megabytes: usize, options: &[&str]) -> Arc<Vec<u8>> {
    switch(&mkfs(megabytes, options), Incompat::PARENT | Incompat::EXCHANGE_RANGE, true)
}

fn report(image: &Arc<Vec<u8>>) -> Report {
    let memory: Arc<dyn Memory> = HostMemory::new(4096);
    check(&Queue::new(disk_over(image.clone())), &memory).expect("a file system")
}

/// What a newer `xfs_repair -n` says, if there is one and it has something to say.
fn newer_repair(image: &[u8]) -> Option<String> {
    let scratch = Scratch::new("newer-repair");
    let file = scratch.path("image");
    std::fs::write(&file, image).expect("an image");
    xfsprogs::newer_repair(&file)
}

/// Nobody may have anything to say.
fn judge(image: &Arc<Vec<u8>>) {
    let found = report(image);
    let complaint = newer_repair(image);
    if !found.is_clean() || complaint.is_some() {
        keep(image);
    }
    assert!(found.is_clean(), "{:#?}", found.findings);
    if let Some(complaint) = complaint {
        panic!("xfs_repair complains:\n{complaint}");
    }
}

/// Unmount, and judge; the image.
fn finish(v: Volume) -> Arc<Vec<u8>> {
    let image = v.unmount();
    judge(&image);
    image
}

fn random_changes(shape: usize, seed: u64, steps: u64) {
    let (megabytes, options) = SHAPES[shape];
    println!("shape {shape} ({options:?}), seed {seed}, {steps} steps");
    changes_on(make(megabytes, options), seed, steps, finish);
}

#[test]
fn random_changes_keep_them() {
    for shape in 0..SHAPES.len() {
        random_changes(shape, 41 + shape as u64, 900);
    }
}

/// `cargo test --release -p holdfast-fs --test xfs -- --ignored parents`; SEEDS, STEPS.
#[test]
#[ignore = "runs as long as it is told to"]
fn soak() {
    as_long_as_told(SHAPES.len(), random_changes);
}

#[test]
fn whatever_makes_moves_and_takes_names_keeps_them() {
    let v = Volume::over(&make(24, &[]));
    let p = &v.process;
    for dir in [&b"/a"[..], b"/b", b"/a/inner", b"/b/inner"] {
        p.mkdir(dir, 0o755).unwrap();
    }
    let long = |dir: &str, c: char| format!("/{dir}/{}", c.to_string().repeat(255)).into_bytes();
    v.touch(&long("a", 'f')).unwrap();
    p.symlink(&[b't'; 150], &long("a", 's')).unwrap();
    p.symlink(&[b't'; 300], b"/a/remote").unwrap();
    p.mknod(&long("a", 'd'), 0o020_600, (5, 300)).unwrap();
    p.mknod(b"/a/fifo", 0o010_600, (0, 0)).unwrap();
    // One name in several directories, then over each other.
    p.link(&long("a", 'f'), &long("b", 'f')).unwrap();
    p.link(&long("a", 'd'), &long("b", 'e')).unwrap();
    p.rename(&long("a", 's'), &long("b", 't')).unwrap();
    p.rename(&long("b", 'e'), b"/b/e").unwrap();
    v.touch(b"/b/over").unwrap();
    p.rename(b"/a/fifo", b"/b/over").unwrap();
    let both = |a: &[u8], b: &[u8], flags| p.renameat2(AT_FDCWD, a, AT_FDCWD, b, flags).unwrap();
    both(b"/a/inner", b"/b/over", RenameFlags::EXCHANGE);
    both(b"/a", b"/b/inner", RenameFlags::EXCHANGE);
    both(b"/b/e", b"/b/whited", RenameFlags::WHITEOUT);
    v.touch(b"/b/replaced").unwrap();
    both(b"/b/whited", b"/b/replaced", RenameFlags::WHITEOUT);
    p.mkdir(b"/empty", 0o755).unwrap();
    p.rename(b"/b/over", b"/empty").unwrap();
    // Without a name there is no pointer; with the first one it comes.
    let unnamed = OpenFlags::TMPFILE | OpenFlags::RDWR;
    let fd = p.open(b"/b", unnamed, 0o600).unwrap();
    p.linkat(fd, b"", AT_FDCWD, &long("b", 'u'), AtFlags::EMPTY_PATH).unwrap();
    p.close(fd).unwrap();
    // The fork stays when users remove the last they know of.
    p.setxattr(b"/b/replaced", b"trusted.a", b"x", XattrFlags::empty()).unwrap();
    p.removexattr(b"/b/replaced", b"trusted.a").unwrap();
    assert_eq!(p.listxattr(&long("b", 'f')).unwrap(), Vec::<Vec<u8>>::new());
    let v = Volume::over(&finish(v));
    remove_all(&v, b"");
    finish(v);
}

#[test]
fn thousands_of_names_among_attributes_keep_them() {
    for (shape, names) in [(0, 1500), (2, 800)] {
        let (megabytes, options) = SHAPES[shape];
        let v = Volume::over(&make(megabytes, options));
        let p = &v.process;
        for dir in 0..4 {
            p.mkdir(format!("/{dir}").as_bytes(), 0o755).unwrap();
        }
        v.touch(b"/file").unwrap();
        let mut random = Random::new(names + 7);
        let mut there: Vec<Vec<u8>> = Vec::new();
        for n in 0..names {
            // The same name in all four directories: the hashes are close together.
            let pad = "n".repeat(if n % 3 == 0 { 90 } else { 3 });
            let path = format!("/{}/{pad}{}", n % 4, n / 4).into_bytes();
            p.link(b"/file", &path).unwrap();
            there.push(path);
            if n % 20 == 0 {
                let name = format!("user.{n}").into_bytes();
                let value = vec![n as u8; random.below(400) as usize];
                p.setxattr(b"/file", &name, &value, XattrFlags::empty()).unwrap();
            }
            if n % 5 == 0 {
                let at = random.below(there.len() as u64) as usize;
                let to = format!("/{}/moved{n}", n % 3).into_bytes();
                p.rename(&there[at], &to).unwrap();
                there[at] = to;
            }
        }
        let v = Volume::over(&finish(v));
        let p = &v.process;
        while there.len() > 3 {
            let at = random.below(there.len() as u64) as usize;
            p.unlink(&there.swap_remove(at)).unwrap();
        }
        finish(v);
    }
}

#[test]
fn a_full_disk_can_be_emptied() {
    for options in [&["-i", "maxpct=99"][..], &["-b", "size=1024", "-i", "maxpct=99"]] {
        let v = Volume::over(&make(16, options));
        let p = &v.process;
        p.mkdir(b"/d", 0o755).unwrap();
        v.touch(b"/d/f").unwrap();
        let before = p.statfs(b"/").unwrap().blocks_free;
        let made = fill(&v, "/d");
        assert!(made > 1000, "{made} files");
        // Names move as long as there is room for that, and go in any case.
        let mut failed = 0;
        for n in 0..200u64 {
            let to = format!("/d/{:x<200}{n}", "");
            failed += u64::from(p.link(b"/d/f", to.as_bytes()).is_err());
            let from = format!("/d/000/{:-<60}{n}", "file");
            failed += u64::from(p.rename(from.as_bytes(), to.as_bytes()).is_err());
        }
        println!("{options:?}: {made} files, {failed} calls failed");
        assert!(!v.fs.mount().is_shut_down());
        let v = Volume::over(&finish(v));
        for name in v.list(b"/d") {
            let path = [&b"/d/"[..], &name].concat();
            if v.process.unlink(&path).is_err() {
                remove_all(&v, &path);
                v.process.rmdir(&path).unwrap();
            }
        }
        v.touch(b"/d/f").unwrap();
        v.process.sync();
        assert_eq!(v.process.statfs(b"/").unwrap().blocks_free, before);
        finish(v);
    }
}

#[test]
fn the_checker_misses_none() {
    let v = Volume::over(&make(24, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    for name in [&b"/moved"[..], b"/linked", b"/removed", b"/kept"] {
        v.touch(name).unwrap();
    }
    p.link(b"/removed", b"/d/removed").unwrap();
    let image = switch(&finish(v), Incompat::PARENT, false);
    type Change = fn(&Volume);
    let cases: [(Change, &[&str]); 4] = [
        (|v| v.touch(b"/new").unwrap(), &["no pointer to the parent", "names it \"new\""]),
        (
            |v| v.process.rename(b"/moved", b"/d/there").unwrap(),
            &["names it \"there\"", "a pointer to \"moved\" in"],
        ),
        (|v| v.process.link(b"/linked", b"/again").unwrap(), &["names it \"again\""]),
        (|v| v.process.unlink(b"/d/removed").unwrap(), &["a pointer to \"removed\" in"]),
    ];
    for (change, words) in cases {
        // Whoever does not know of pointers leaves them as they are.
        let v = Volume::over(&image);
        change(&v);
        let image = switch(&v.unmount(), Incompat::PARENT, true);
        let found = report(&image).findings;
        assert_eq!(found.len(), words.len().min(found.len()).max(1), "{found:#?}");
        for word in words {
            let told = found.iter().any(|f| f.structure == "inode" && f.reason.contains(word));
            assert!(told, "{word}: {found:#?}");
        }
        if std::env::var_os(xfsprogs::NEWER).is_some() {
            assert!(newer_repair(&image).is_some(), "xfs_repair is content");
        }
    }
    // Without its pointer a name cannot go: that is told, and nothing changes.
    let v = Volume::over(&image);
    v.touch(b"/new").unwrap();
    let v = Volume::over(&switch(&v.unmount(), Incompat::PARENT, true));
    let refused = v.process.unlink(b"/new").expect_err("damage");
    assert!(refused.to_string().contains("no pointer to the parent"), "{refused}");
    v.process.rename(b"/kept", b"/d/kept").unwrap();
    assert!(!v.fs.mount().is_shut_down());
}

/// An intent as Linux logs it: what follows the first region is padded to words.
fn change(ino: Ino, generation: u32, operation: u32, parts: [&[u8]; 4], filter: u32) -> Item {
    let [name, new_name, value, new_value] = parts;
    let change = AttrChange {
        ino,
        operation,
        name_bytes: (name.len() | new_name.len() << 16) as u32,
        value_bytes: value.len() as u32,
        filter,
        generation,
    };
    let mut item = intent(77, &Intent::Attri(change));
    for part in [name, new_name, value, new_value].into_iter().filter(|p| !p.is_empty()) {
        let mut region = part.to_vec();
        region.resize(part.len().next_multiple_of(4), 0);
        item.push(region);
    }
    item
}

fn pointer(ino: Ino, generation: u32) -> Vec<u8> {
    [&ino.0.to_be_bytes()[..], &generation.to_be_bytes()].concat()
}

/// A log with this at its end, recovered: what the file system is then.
fn recovered(image: &Arc<Vec<u8>>, items: &[Item]) -> Result<Arc<Vec<u8>>, String> {
    let device = Device::new(image.clone());
    let ends = match recovery::find(&device.queue, &device.memory, &device.geometry) {
        Ok(Found::Clean(ends)) => ends,
        other => panic!("{other:?}"),
    };
    Writer::new(&device, &ends).checkpoint(items, 30 << 10);
    let before = device.contents();
    match Volume::on(device.disk.clone()) {
        Ok(v) => Ok(v.unmount()),
        Err(e) => {
            assert!(device.contents() == before, "a log was refused and the disk changed");
            Err(e.to_string())
        }
    }
}

/// An inode and its generation.
type Known = (Ino, u32);

/// A file without its pointer, in a directory: the image, the file, the directory.
fn half_made() -> (Arc<Vec<u8>>, Known, Known) {
    let v = Volume::over(&make(24, &[]));
    v.process.mkdir(b"/d", 0o755).unwrap();
    let image = switch(&v.unmount(), Incompat::PARENT, false);
    let v = Volume::over(&image);
    v.touch(b"/d/file").unwrap();
    let of = |path: &[u8]| {
        let ino = Ino(v.process.stat(path).unwrap().ino);
        let generation = v.fs.mount().inode(ino).unwrap().generation();
        (ino, generation)
    };
    let (file, dir) = (of(b"/d/file"), of(b"/d"));
    (switch(&v.unmount(), Incompat::PARENT, true), file, dir)
}

#[test]
fn unfinished_changes_of_linux_are_finished() {
    let (image, (file, generation), (dir, dir_generation)) = half_made();
    assert!(!report(&image).is_clean());
    let right = pointer(dir, dir_generation);
    let wrong = pointer(Ino(dir.0 + 1), 7);
    let set = |name: &[u8], value: &[u8]| {
        change(file, generation, attr::SET_PARENT, [name, b"", value, b""], PARENT)
    };
    let whole = recovered(&image, &[set(b"file", &right)]).expect("it mounts");
    judge(&whole);
    // Done already, or in part: the outcome is the same.
    judge(&recovered(&whole, &[set(b"file", &right)]).expect("it mounts"));
    let astray = recovered(&image, &[set(b"elsewhere", &wrong)]).expect("it mounts");
    let parts = [&b"elsewhere"[..], b"file", &wrong, &right];
    let replace = change(file, generation, attr::REPLACE_PARENT, parts, PARENT);
    for image in [&astray, &image, &whole] {
        judge(&recovered(image, std::slice::from_ref(&replace)).expect("it mounts"));
    }
    let both = recovered(&astray, &[set(b"file", &right)]).expect("it mounts");
    assert_eq!(report(&both).found, 1);
    let parts = [&b"elsewhere"[..], b"", &wrong, b""];
    let remove = change(file, generation, attr::REMOVE_PARENT, parts, PARENT);
    for image in [&both, &whole] {
        judge(&recovered(image, std::slice::from_ref(&remove)).expect("it mounts"));
    }
    // Attributes of users, which Linux logs so if it is told to.
    let ordinary =
        |operation, value: &[u8]| change(file, 0, operation, [b"name", b"", value, b""], 0);
    let mut image = whole.clone();
    for (operation, value, stays) in [
        (attr::SET, &[5; 40][..], true),
        (attr::REPLACE, &[6; 9000], true),
        (attr::REMOVE, b"", false),
        (attr::SET, &[7; 2], true),
    ] {
        image = recovered(&image, &[ordinary(operation, value)]).expect("it mounts");
        judge(&image);
        let v = Volume::over(&image);
        let got = v.process.getxattr(b"/d/file", b"user.name");
        assert_eq!(got.ok().as_deref(), stays.then_some(value));
        v.unmount();
    }
    let ended = [set(b"never", &right), done(77, &Done::Attrd)];
    judge(&recovered(&whole, &ended).expect("it mounts"));
}

#[test]
fn unfinished_changes_that_cannot_be_are_refused() {
    let (image, (file, generation), (dir, dir_generation)) = half_made();
    let value = pointer(dir, dir_generation);
    let parts = [&b"file"[..], b"", &value, b""];
    let ok = change(file, generation, attr::SET_PARENT, parts, PARENT);
    let with = |edit: &dyn Fn(&mut Item)| {
        let mut item = ok.clone();
        edit(&mut item);
        item
    };
    let cases: Vec<(Item, &str)> = vec![
        (change(file, 0, 9, parts, PARENT), "unknown operation"),
        (change(Ino(1 << 40), 0, attr::SET_PARENT, parts, PARENT), "does not exist"),
        (change(file, 0, attr::SET_PARENT, parts, 2), "namespace"),
        (change(file, 0, attr::SET, parts, PARENT), "namespace"),
        (change(file, 0, attr::SET, parts, 0x40), "namespace"),
        (change(file, 0, attr::SET_PARENT, [b"", b"", &value, b""], PARENT), "a name of 0 bytes"),
        (change(file, 0, attr::SET_PARENT, [&[b'n'; 256], b"", &value, b""], PARENT), "256 bytes"),
        (change(file, 0, attr::SET_PARENT, [b"n", b"", b"short", b""], PARENT), "value of 5"),
        (with(&|item| item[1].push(0)), "region"),
        (with(&|item| item[2].truncate(8)), "region"),
    ];
    for (item, words) in cases {
        let refused = recovered(&image, &[item]).expect_err(words);
        assert!(refused.contains("ATTRI") && refused.contains(words), "{words}: {refused}");
    }
    let old = change(file, generation ^ 1, attr::SET_PARENT, parts, PARENT);
    let device = Device::new(image.clone());
    let Ok(Found::Clean(ends)) = recovery::find(&device.queue, &device.memory, &device.geometry)
    else {
        panic!("the log is clean");
    };
    Writer::new(&device, &ends).checkpoint(&[old], 30 << 10);
    let refused = device.mount().map(drop).expect_err("another inode").to_string();
    assert!(refused.contains("generation"), "{refused}");
}
