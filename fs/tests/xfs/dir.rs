//! Directories that grow and shrink through all forms, on images of many shapes: judged
//! by reading them again after a remount, and by `xfs_repair -n`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::attr::Random;
use crate::xfs_support::{disk_over, image, judge, mount_disk, walk};
use holdfast_fs::Error;
use holdfast_fs::block::MemDisk;
use holdfast_fs::xfs::namespace::{Create, NewKind, Rename, RenameFlags};
use holdfast_fs::xfs::{Ino, Inode, Mount};

/// What the directory should hold.
type Model = BTreeMap<Vec<u8>, Ino>;

/// A mounted image with a directory "d" and two files that get names in it.
struct World {
    disk: Arc<MemDisk>,
    mount: Arc<Mount>,
    dir: Arc<Inode>,
    files: [Arc<Inode>; 2],
}

fn open(mount: &Arc<Mount>, name: &str) -> Arc<Inode> {
    walk::resolve(mount, name).expect("a file")
}

impl World {
    fn new(options: &[&str]) -> Self {
        let disk = disk_over(image(16, options));
        let mount = mount_disk(disk.clone(), false).expect("it mounts");
        let root = mount.inode(mount.root()).expect("the root");
        let make = |name: &[u8], kind| {
            let create = Create { mode: 0o755, umask: 0, uid: 0, gid: 0, kind };
            mount.create(&root, name, &create).expect("it can be made")
        };
        let dir = make(b"d", NewKind::Directory);
        let files = [make(b"f", NewKind::Regular), make(b"g", NewKind::Regular)];
        Self { disk, mount, dir, files }
    }
    /// Unmount, let xfs_repair judge, mount again.
    fn remount(self) -> Self {
        let disk = self.disk.clone();
        self.mount.unmount().expect("it can be unmounted");
        drop(self);
        judge(&disk);
        let mount = mount_disk(disk.clone(), false).expect("it mounts again");
        let (dir, files) = (open(&mount, "d"), [open(&mount, "f"), open(&mount, "g")]);
        Self { disk, mount, dir, files }
    }
    fn compare(&self, model: &Model) {
        let mut names = Model::new();
        for (name, ino, _) in walk::list(&self.dir).expect("it can be listed") {
            if name != b"." && name != b".." {
                assert_eq!(names.insert(name, ino), None, "a name twice");
            }
        }
        assert!(names == *model, "{} names, {} in the model", names.len(), model.len());
        for (name, ino) in model.iter().step_by(17) {
            assert_eq!(self.dir.lookup(name), Ok(*ino));
        }
        assert!(self.dir.lookup(b"no such name").is_err());
    }
    /// Link, unlink or replace a name at random.
    fn step(&self, random: &mut Random, model: &mut Model, names: &mut Vec<Vec<u8>>, plan: &Plan) {
        let choice = random.below(100);
        if names.is_empty() || choice < plan.adding {
            let name = plan.name(random, model);
            let file = &self.files[random.below(2)];
            self.mount.link(&self.dir, &name, file, false).expect("it can be linked");
            model.insert(name.clone(), file.ino());
            names.push(name);
        } else if choice < plan.adding + 10 && names.len() > 2 {
            self.rename(random, model, names);
        } else {
            let name = names.swap_remove(random.below(names.len()));
            let ino = model.remove(&name).expect("a name of the model");
            let file = self.file(ino);
            self.mount.unlink(&self.dir, &name, file).expect("it can be unlinked");
        }
    }
    fn file(&self, ino: Ino) -> &Arc<Inode> {
        self.files.iter().find(|f| f.ino() == ino).expect("one of the files")
    }
    /// Rename a name over one of the other file, if the draw is such.
    fn rename(&self, random: &mut Random, model: &mut Model, names: &mut Vec<Vec<u8>>) {
        let from = random.below(names.len());
        let to = random.below(names.len());
        let (inode, replaced) = (self.file(model[&names[from]]), self.file(model[&names[to]]));
        if inode.ino() == replaced.ino() {
            return;
        }
        let rename = Rename {
            from: &self.dir,
            from_name: &names[from],
            inode,
            to: &self.dir,
            to_name: &names[to],
            replaced: Some(replaced),
            flags: RenameFlags::empty(),
        };
        self.mount.rename(&rename).expect("it can be renamed");
        model.insert(names[to].clone(), inode.ino());
        model.remove(&names[from]);
        names.swap_remove(from);
    }
}

/// How a history goes.
struct Plan {
    /// Names at most.
    peak: usize,
    /// Bytes of names at most.
    length: usize,
    /// Many names hash alike. Not so many that one hash fills a leaf: xfs_repair before
    /// 6.6 takes two pointers of one hash for damage.
    colliding: bool,
    /// Of a hundred steps, so many add.
    adding: usize,
}

impl Plan {
    fn name(&self, random: &mut Random, model: &Model) -> Vec<u8> {
        loop {
            let mut name = Vec::new();
            if self.colliding {
                // A bit of one byte is the same as one seven bits on in the next: with one
                // start, all of these hash alike.
                let pairs: [&[u8]; 2] = [b"bA", b"c\xc1"];
                name.extend((0..2).map(|_| b'a' + random.below(8) as u8));
                name.extend((0..6).flat_map(|_| pairs[random.below(2)]));
            } else {
                let length = 1 + random.below(self.length);
                name.extend((0..length).map(|_| b'a' + random.below(26) as u8));
            }
            if !model.contains_key(&name) {
                return name;
            }
        }
    }
}

/// Up to the peak and down to nothing, judged on the way.
fn history(options: &[&str], seed: u64, mut plan: Plan) {
    let mut world = World::new(options);
    let (mut model, mut names) = (Model::new(), Vec::new());
    let mut random = Random(seed * 77 + 1);
    let marks = [plan.peak / 100, plan.peak / 10, plan.peak];
    plan.adding = 75;
    for mark in marks {
        while names.len() < mark {
            world.step(&mut random, &mut model, &mut names, &plan);
        }
        world.compare(&model);
        world = world.remount();
        world.compare(&model);
    }
    plan.adding = 15;
    for mark in [plan.peak / 2, plan.peak / 50, 0] {
        while names.len() > mark {
            world.step(&mut random, &mut model, &mut names, &plan);
        }
        world = world.remount();
        world.compare(&model);
    }
    let attributes = world.dir.attributes();
    assert_eq!((attributes.blocks, attributes.size), (0, 6), "it is small again");
}

fn plan(peak: usize, length: usize) -> Plan {
    Plan { peak, length, colliding: false, adding: 0 }
}

#[test]
fn blocks_of_4096() {
    history(&["-b", "size=4096"], 1, plan(6000, 30));
    history(&["-b", "size=4096", "-i", "size=2048"], 2, plan(800, 255));
}

#[test]
fn blocks_of_1024() {
    history(&["-b", "size=1024", "-n", "size=4096"], 3, plan(4000, 20));
    history(&["-b", "size=1024", "-n", "size=4096", "-m", "rmapbt=1"], 4, plan(900, 255));
}

#[test]
fn directory_blocks_larger_than_blocks() {
    history(&["-b", "size=1024", "-n", "size=8192"], 5, plan(3000, 40));
    history(&["-b", "size=4096", "-n", "size=65536"], 6, plan(5000, 60));
    history(&["-b", "size=2048", "-n", "size=65536", "-i", "size=1024"], 7, plan(2000, 100));
}

#[test]
fn names_that_hash_alike() {
    let colliding = Plan { colliding: true, ..plan(1500, 0) };
    history(&["-b", "size=1024", "-n", "size=4096"], 8, colliding);
}

#[test]
fn names_without_regard_to_case() {
    let mut world = World::new(&["-n", "version=ci"]);
    let mut model = Model::new();
    for i in 0..2000 {
        let name = format!("Name-{i}-{}", "Xy".repeat(i % 20)).into_bytes();
        world.mount.link(&world.dir, &name, &world.files[0], false).expect("linked");
        model.insert(name, world.files[0].ino());
    }
    world = world.remount();
    world.compare(&model);
    for name in model.keys() {
        let other = name.to_ascii_uppercase();
        assert_eq!(world.dir.lookup(&other), Ok(world.files[0].ino()));
        world.mount.unlink(&world.dir, &other, &world.files[0]).expect("unlinked");
    }
    world = world.remount();
    world.compare(&Model::new());
}

/// A full file system says so, and everything can be taken away again.
#[test]
fn full_and_empty_again() {
    for options in [["-b", "size=1024", "-n", "size=4096"], ["-b", "size=4096", "-n", "size=16384"]]
    {
        let mut world = World::new(&options);
        let free = world.mount.statfs().blocks_free;
        let mut model = Model::new();
        let full = loop {
            let name = format!("{:0200}", model.len()).into_bytes();
            match world.mount.link(&world.dir, &name, &world.files[0], false) {
                Ok(()) => model.insert(name, world.files[0].ino()),
                Err(e) => break e,
            };
        };
        assert_eq!(full, Error::NoSpace);
        assert!(!world.mount.is_shut_down());
        world = world.remount();
        world.compare(&model);
        // Every other one first: blocks in the middle of extents are freed.
        let (odd, even): (Vec<_>, Vec<_>) = model.keys().enumerate().partition(|(i, _)| i % 2 == 1);
        for (_, name) in odd.into_iter().chain(even) {
            world.mount.unlink(&world.dir, name, &world.files[0]).expect("unlinked");
        }
        world = world.remount();
        world.compare(&Model::new());
        assert_eq!(world.mount.statfs().blocks_free, free);
    }
}
