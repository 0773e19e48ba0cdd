//! Extended attributes in all forms, on images of many shapes: judged by reading them
//! again after a remount, and by `xfs_repair -n`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::xfs_support::{disk_over, image, judge, mount_disk, walk};
use holdfast_fs::Error;
use holdfast_fs::block::{BioFlags, MemDisk, Op, SECTOR_SIZE, TraceDisk, TraceEvent};
use holdfast_fs::xfs::namespace::{Create, NewKind};
use holdfast_fs::xfs::{FileType, Inode, Mount};

pub struct Random(pub u64);
impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What an inode should have.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

struct World {
    disk: Arc<MemDisk>,
    mount: Arc<Mount>,
}

/// What gets attributes: contents of every form, some of which have to make room.
const OBJECTS: [&str; 7] = ["file", "dir", "fulldir", "link", "longlink", "longerlink", "device"];

impl World {
    fn new(options: &[&str]) -> Self {
        let disk = disk_over(image(24, options));
        let mount = mount_disk(disk.clone(), false).expect("it mounts");
        let root = mount.inode(mount.root()).expect("the root");
        let room = mount.geometry().inode_bytes() - 176;
        let (long, longer) = (vec![b'l'; long_target(room)], vec![b'm'; 1023]);
        for name in OBJECTS {
            let kind = match name {
                "file" => NewKind::Regular,
                "dir" | "fulldir" => NewKind::Directory,
                "link" => NewKind::Symlink(b"where"),
                "longlink" => NewKind::Symlink(&long),
                "longerlink" => NewKind::Symlink(&longer),
                _ => NewKind::Special(FileType::CharDevice, (5, 1)),
            };
            let create = Create { mode: 0o755, umask: 0, uid: 0, gid: 0, kind };
            let made = mount.create(&root, name.as_bytes(), &create).expect("it can be made");
            if name == "fulldir" {
                fill(&mount, &made, room);
            }
        }
        Self { disk, mount }
    }
    fn object(&self, name: &str) -> Arc<Inode> {
        walk::resolve(&self.mount, name).expect("an object")
    }
    /// Unmount, let xfs_repair judge, mount again.
    fn remount(self) -> Self {
        self.mount.unmount().expect("it can be unmounted");
        drop(self.mount);
        judge(&self.disk);
        let mount = mount_disk(self.disk.clone(), false).expect("it mounts again");
        Self { disk: self.disk, mount }
    }
}

/// Bytes of a target that hardly fits beside nothing in an inode.
fn long_target(room: usize) -> usize {
    (room - 10).min(1023)
}

/// Names until the directory hardly fits its inode.
fn fill(mount: &Arc<Mount>, dir: &Inode, room: usize) {
    let create = Create { mode: 0o644, umask: 0, uid: 0, gid: 0, kind: NewKind::Regular };
    for i in 0.. {
        if dir.size() as usize + 30 > room {
            return;
        }
        let name = format!("a-name-in-here-{i:03}");
        mount.create(dir, name.as_bytes(), &create).expect("it can be made");
    }
}

fn compare(inode: &Inode, model: &Model) {
    let mut names = inode.listxattr().expect("the names");
    names.sort();
    let expected: Vec<_> = model.keys().cloned().collect();
    assert_eq!(names, expected);
    for (name, value) in model {
        let found = inode.getxattr(name).expect("a value");
        assert!(found == *value, "{} bytes instead of {}", found.len(), value.len());
    }
}

/// Lengths of values that are drawn from.
type Lengths = [usize; 3];

fn step(inode: &Inode, random: &mut Random, model: &mut Model, adding: usize, lengths: Lengths) {
    let choice = random.below(100);
    let known = |random: &mut Random, model: &Model| {
        model.keys().nth(random.below(model.len())).expect("a name").clone()
    };
    if model.is_empty() || choice < adding {
        let space = ["user.", "trusted.", "security."][random.below(3)];
        let most = [6, 30, 200][random.below(3)];
        let tail: String = (0..1 + random.below(most))
            .map(|_| char::from(b'a' + random.below(26) as u8))
            .collect();
        let name = format!("{space}{tail}").into_bytes();
        let flags = if model.contains_key(&name) { 2 } else { 1 };
        put(inode, random, model, name, flags, lengths);
    } else if choice < adding + 15 {
        let name = known(random, model);
        put(inode, random, model, name, 0, lengths);
    } else {
        let name = known(random, model);
        inode.removexattr(&name).expect("it can be removed");
        model.remove(&name);
        assert_eq!(inode.removexattr(&name), Err(Error::NoAttribute));
    }
}

fn put(
    inode: &Inode,
    random: &mut Random,
    model: &mut Model,
    name: Vec<u8>,
    flags: u32,
    lengths: Lengths,
) {
    let most = lengths[random.below(3)];
    let length = random.below(most + 1);
    let start = random.below(251);
    let value: Vec<u8> = (0..length).map(|i| ((start + i * 7) % 251) as u8).collect();
    inode.setxattr(&name, &value, flags).expect("it can be set");
    assert_eq!(inode.setxattr(&name, b"", 1), Err(Error::Exists));
    model.insert(name, value);
}

/// Up to the peak and down to nothing on every object, judged on the way.
fn history(options: &[&str], seed: u64, peak: usize, lengths: Lengths) {
    let mut world = World::new(options);
    let before: Vec<_> = OBJECTS.map(|name| world.object(name).attributes().blocks).into();
    let mut random = Random(seed * 77 + 1);
    let mut models: Vec<Model> = OBJECTS.map(|_| Model::new()).into();
    for (adding, mark) in [(80, 2), (75, peak / 4), (70, peak), (15, peak / 3), (10, 1), (5, 0)] {
        for (name, model) in OBJECTS.iter().zip(&mut models) {
            let inode = world.object(name);
            // Files have more of them than the others.
            let mark = if *name == "file" { mark } else { mark.div_ceil(4) };
            while (adding > 50 && model.len() < mark) || (adding < 50 && model.len() > mark) {
                step(&inode, &mut random, model, adding, lengths);
            }
            compare(&inode, model);
        }
        world = world.remount();
        for (name, model) in OBJECTS.iter().zip(&models) {
            compare(&world.object(name), model);
        }
    }
    for (name, before) in OBJECTS.iter().zip(before) {
        let inode = world.object(name);
        let attributes = inode.attributes();
        let has_fork = attributes.xflags & 0x8000_0000 != 0;
        // A target that went to blocks must not fit into the inode again.
        assert_eq!(has_fork, *name == "longlink" && attributes.blocks > 0, "{name}");
        // What had to make room for attributes stays where it went.
        if !matches!(*name, "fulldir" | "longlink") {
            assert_eq!(attributes.blocks, before, "{name} has the blocks it had");
        }
    }
    let long = world.object("longlink").readlink().expect("a target");
    assert_eq!(long.len(), long_target(world.mount.geometry().inode_bytes() - 176));
    assert_eq!(world.object("link").readlink(), Ok(b"where".to_vec()));
}

#[test]
fn small_values_in_blocks_of_4096() {
    history(&["-b", "size=4096"], 1, 400, [5, 40, 255]);
    history(&["-b", "size=4096", "-i", "size=2048"], 2, 300, [5, 100, 300]);
}

#[test]
fn small_values_in_blocks_of_1024() {
    history(&["-b", "size=1024"], 3, 500, [5, 40, 255]);
    history(&["-b", "size=1024", "-m", "rmapbt=1"], 4, 200, [5, 40, 700]);
}

#[test]
fn values_up_to_64_kib() {
    history(&["-b", "size=4096"], 5, 40, [255, 5000, 65536]);
    history(&["-b", "size=1024"], 6, 40, [255, 3000, 65536]);
    history(&["-b", "size=2048", "-i", "size=1024", "-m", "rmapbt=1"], 7, 40, [800, 3000, 65536]);
}

#[test]
fn what_cannot_be_set_is_refused() {
    let world = World::new(&[]);
    let file = world.object("file");
    assert_eq!(file.setxattr(b"user.a", &[0; 65537], 0), Err(Error::TooLong));
    let long = [b"user.".as_slice(), &[b'n'; 256]].concat();
    assert_eq!(file.setxattr(&long, b"", 0), Err(Error::Range));
    assert_eq!(file.setxattr(b"user.a", b"", 2), Err(Error::NoAttribute));
    assert!(matches!(file.setxattr(b"user.a", b"", 3), Err(Error::Invalid(_))));
    assert!(matches!(file.setxattr(b"user.", b"", 0), Err(Error::Invalid(_))));
    assert!(matches!(file.setxattr(b"other.a", b"", 0), Err(Error::NotSupported(_))));
    assert_eq!(file.removexattr(b"user.a"), Err(Error::NoAttribute));
    file.setxattr(b"user.a", b"", 1).expect("an empty value");
    assert_eq!(file.getxattr(b"user.a"), Ok(Vec::new()));
    assert_eq!(file.setxattr(b"user.a", b"", 1), Err(Error::Exists));
    assert_eq!(file.removexattr(b"user.b"), Err(Error::NoAttribute));
    world.remount();
}

/// The disk after a power cut at event `cut`: what was flushed is there, of the rest what
/// the draw says.
pub fn after_cut(base: &[u8], events: &[TraceEvent], cut: usize, random: &mut Random) -> Vec<u8> {
    let flushed = events[..cut]
        .iter()
        .rposition(|e| matches!(e, TraceEvent::Submitted(r) if r.op == Op::Flush))
        .unwrap_or(0);
    let mut bytes = base.to_vec();
    for (i, event) in events[..cut].iter().enumerate() {
        let TraceEvent::Submitted(request) = event else { continue };
        if request.op != Op::Write {
            continue;
        }
        if i < flushed || request.flags.contains(BioFlags::FUA) || random.below(3) > 0 {
            let at = (request.sector.0 * SECTOR_SIZE) as usize;
            bytes[at..at + request.data.len()].copy_from_slice(&request.data);
        }
    }
    bytes
}

/// A value that is replaced is the old one or the new one after a power cut at any moment,
/// in the inode, in a leaf and in blocks of its own.
#[test]
fn values_are_replaced_as_a_whole() {
    let base = image(16, &["-b", "size=1024"]);
    let trace = TraceDisk::new(disk_over(base.clone()));
    let mount = mount_disk(trace.clone(), false).expect("it mounts");
    let root = mount.inode(mount.root()).expect("the root");
    let create = Create { mode: 0o644, umask: 0, uid: 0, gid: 0, kind: NewKind::Regular };
    let file = mount.create(&root, b"file", &create).expect("made");
    let value = |round: usize| vec![round as u8; [20, 700, 5000, 3, 30_000, 900][round % 6]];
    // Where in the record each value was durable.
    let mut durable = Vec::new();
    for round in 0..18 {
        file.setxattr(b"user.v", &value(round), 0).expect("set");
        file.setxattr(b"user.w", &value(round), 0).expect("set");
        file.log_force(false).expect("forced");
        durable.push(trace.events().len());
    }
    let events = trace.events();
    let mut random = Random(5);
    let mut seen = [0; 2];
    for cut in durable[0]..=events.len() {
        let done = durable.iter().filter(|d| **d <= cut).count() - 1;
        let bytes = Arc::new(after_cut(&base, &events, cut, &mut random));
        let mount =
            mount_disk(disk_over(bytes), false).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let file = walk::resolve(&mount, "file").expect("the file");
        for name in [b"user.v", b"user.w"] {
            let found = file.getxattr(name).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            let new = done + 1 < durable.len() && found == value(done + 1);
            assert!(new || found == value(done), "cut at {cut}: {} bytes", found.len());
            seen[usize::from(new)] += 1;
        }
    }
    assert!(seen.iter().all(|n| *n > 10), "old and new values: {seen:?}");
}
