//! Comparing what we read with the manifests that populate.sh made under Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use holdfast_fs::iomap::{MapFlags, MapKind};
use holdfast_fs::xfs::{FileType, ForkKind, Mount};
use sha2::{Digest, Sha256};

use super::walk::{self, Tree};

fn read(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("manifest {name}: {e}"))
}

/// Split at every occurrence of `separator`.
fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut i = 0;
    while i + separator.len() <= bytes.len() {
        if bytes[i..].starts_with(separator) {
            parts.push(&bytes[start..i]);
            i += separator.len();
            start = i;
        } else {
            i += 1;
        }
    }
    parts.push(&bytes[start..]);
    parts
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Compare everything. Returns how many facts were compared.
///
/// # Panics
/// At the first difference.
pub fn compare(mount: &Arc<Mount>, dir: &Path) -> usize {
    let tree = walk::tree(mount);
    assert!(tree.errors.is_empty(), "errors: {:?}", tree.errors);
    let mut facts = compare_stat(&tree, &read(dir, "stat"));
    facts += compare_sums(mount, &tree, &read(dir, "sums"));
    facts += compare_links(&tree, &read(dir, "links"));
    facts += compare_xattrs(&tree, &read(dir, "xattrs"));
    facts += compare_extents(mount, &tree, &read(dir, "extents"));
    facts += compare_flags(&tree, &read(dir, "flags"));
    facts += lookup_all(mount, &tree);
    facts
}

fn compare_stat(tree: &Tree, manifest: &[u8]) -> usize {
    let mut paths = BTreeSet::new();
    for record in split(manifest, b"\x01\n").into_iter().filter(|r| !r.is_empty()) {
        let fields: Vec<&[u8]> = record.splitn(13, |&b| b == b' ').collect();
        let [numbers @ .., path] = fields.as_slice() else { panic!("an empty record") };
        let path = *path;
        let object = tree.objects.get(path).unwrap_or_else(|| panic!("{} is missing", show(path)));
        let text = |i: usize| std::str::from_utf8(numbers[i]).expect("a number");
        let decimal = |i: usize| text(i).parse::<i64>().expect("a number");
        let hex = |i: usize| u64::from_str_radix(text(i), 16).expect("a number");
        let a = &object.attributes;
        let device = matches!(
            FileType::from_mode(a.mode),
            Some(FileType::CharDevice | FileType::BlockDevice)
        );
        let rdev = if device { (hex(7) as u32, hex(8) as u32) } else { (0, 0) };
        let expected = (
            (decimal(0) as u64, hex(1) as u16, decimal(2) as u32),
            (decimal(3) as u32, decimal(4) as u32, decimal(5) as u64, decimal(6) as u64),
            rdev,
            (decimal(9), decimal(10), decimal(11)),
        );
        let found = (
            (object.ino.0, a.mode, a.nlink),
            (a.uid, a.gid, a.size, a.blocks),
            a.rdev,
            (a.atime.seconds, a.mtime.seconds, a.ctime.seconds),
        );
        assert_eq!(found, expected, "{}", show(path));
        paths.insert(path.to_vec());
    }
    let extra: Vec<_> = tree.objects.keys().filter(|p| !paths.contains(*p)).collect();
    assert!(extra.is_empty(), "not in the manifest: {extra:?}");
    assert!(paths.len() > 100, "a manifest of {} objects", paths.len());
    paths.len()
}

fn hex_bytes(text: &[u8]) -> Vec<u8> {
    let digits = std::str::from_utf8(text).expect("hex");
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[i * 2..i * 2 + 2], 16).expect("hex"))
        .collect()
}

fn compare_sums(mount: &Arc<Mount>, tree: &Tree, manifest: &[u8]) -> usize {
    // A line is a sum, two blanks and a name, which may contain newlines.
    let mut sums: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for line in split(manifest, b"\n") {
        let is_sum = line.len() > 66
            && line[..64].iter().all(u8::is_ascii_hexdigit)
            && &line[64..66] == b"  ";
        if is_sum {
            sums.push((line[66..].to_vec(), hex_bytes(&line[..64])));
        } else if !line.is_empty() {
            let last = sums.last_mut().expect("a sum first");
            last.0.push(b'\n');
            last.0.extend_from_slice(line);
        }
    }
    for (path, sum) in &sums {
        let object = tree.objects.get(path).unwrap_or_else(|| panic!("{} is missing", show(path)));
        let inode = mount.inode(object.ino).expect("inode");
        let mut digest = Sha256::new();
        walk::contents(&inode, &mut |n, bytes| match bytes {
            Some(bytes) => digest.update(bytes),
            None => {
                let zeros = vec![0; 1 << 20];
                let mut left = n;
                while left > 0 {
                    let len = left.min(1 << 20);
                    digest.update(&zeros[..len as usize]);
                    left -= len;
                }
            }
        })
        .expect("contents");
        assert_eq!(digest.finalize()[..], sum[..], "contents of {}", show(path));
    }
    assert!(sums.len() > 50, "{} sums", sums.len());
    sums.len()
}

fn compare_links(tree: &Tree, manifest: &[u8]) -> usize {
    let records = split(manifest, b"\x01\n");
    let mut count = 0;
    for record in records.into_iter().filter(|r| !r.is_empty()) {
        let parts = split(record, b"\x02");
        let object = &tree.objects[parts[0]];
        assert_eq!(object.target.as_deref(), Some(parts[1]), "{}", show(parts[0]));
        count += 1;
    }
    assert!(count > 10, "{count} links");
    count
}

/// Undo getfattr's quoting of names: backslash and three octal digits.
fn unquote(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut i = 0;
    while i < text.len() {
        let octal = text
            .get(i + 1..i + 4)
            .filter(|d| text[i] == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0u16, |n, d| n * 8 + u16::from(d - b'0')) as u8);
            i += 4;
        } else {
            out.push(text[i]);
            i += 1;
        }
    }
    out
}

fn compare_xattrs(tree: &Tree, manifest: &[u8]) -> usize {
    let mut expected: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    let mut path = Vec::new();
    for line in split(manifest, b"\n") {
        if let Some(name) = line.strip_prefix(b"# file: ") {
            let name = unquote(name);
            path = if name == b"." { name } else { [b"./", name.as_slice()].concat() };
        } else if let Some(equals) = line.windows(3).position(|w| w == b"=0x") {
            let value = hex_bytes(&line[equals + 3..]);
            expected.entry(path.clone()).or_default().insert(unquote(&line[..equals]), value);
        } else if !line.is_empty() {
            // Without a value.
            expected.entry(path.clone()).or_default().insert(unquote(line), Vec::new());
        }
    }
    let mut count = 0;
    for (path, object) in &tree.objects {
        let wanted = expected.remove(path).unwrap_or_default();
        let names = |m: &BTreeMap<Vec<u8>, Vec<u8>>| m.keys().map(|k| show(k)).collect::<Vec<_>>();
        assert_eq!(names(&object.xattrs), names(&wanted), "attributes of {}", show(path));
        for (name, value) in &wanted {
            assert!(object.xattrs[name] == *value, "{} of {}", show(name), show(path));
        }
        count += wanted.len();
    }
    assert!(expected.is_empty(), "attributes of {:?}", expected.keys());
    assert!(count > 100, "{count} attributes");
    count
}

/// `xfs_io fiemap -v` of a file: (start, end, disk start, unwritten, shared) in sectors.
type Row = (u64, u64, u64, bool, bool);

fn compare_extents(mount: &Arc<Mount>, tree: &Tree, manifest: &[u8]) -> usize {
    const UNWRITTEN: u64 = 0x800;
    const SHARED: u64 = 0x2000;
    let text = String::from_utf8_lossy(manifest);
    let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut file = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("file ") {
            file = name.to_string();
            rows.entry(file.clone()).or_default();
            continue;
        }
        let words: Vec<&str> =
            line.split([' ', '[', ']', ':', '.']).filter(|w| !w.is_empty()).collect();
        // number, from, to, then "hole" or disk from, disk to, length, flags
        if words.len() < 7 || words.contains(&"hole") {
            continue;
        }
        let decimal = |i: usize| words[i].parse::<u64>().expect("a number");
        let flags = words[6].trim_start_matches("0x");
        let flags = u64::from_str_radix(flags, 16).expect("flags");
        rows.get_mut(&file).expect("a file").push((
            decimal(1),
            decimal(2) + 1,
            decimal(3),
            flags & UNWRITTEN != 0,
            flags & SHARED != 0,
        ));
    }
    let mut count = 0;
    for (file, expected) in rows {
        let path = format!("./{file}").into_bytes();
        let inode = mount.inode(tree.objects[&path].ino).expect("inode");
        let mut found: Vec<Row> = Vec::new();
        inode
            .extents(ForkKind::Data, 0, u64::MAX, &mut |e| {
                let start = e.map.offset_bytes / 512;
                let (MapKind::Written { addr } | MapKind::Unwritten { addr }) = e.map.kind else {
                    panic!("{e:?} is not an extent");
                };
                found.push((
                    start,
                    start + e.map.length_bytes / 512,
                    addr.0,
                    matches!(e.map.kind, MapKind::Unwritten { .. }),
                    e.map.flags.contains(MapFlags::SHARED),
                ));
                true
            })
            .expect("extents");
        assert_eq!(merged(&found), merged(&expected), "extents of {file}");
        count += expected.len();
    }
    assert!(count > 300, "{count} extents");
    count
}

/// Neighbours that are one are joined: tools differ in where they cut.
fn merged(rows: &[Row]) -> Vec<Row> {
    let mut out: Vec<Row> = Vec::new();
    for &row in rows {
        match out.last_mut() {
            Some(last)
                if last.1 == row.0
                    && last.2 + (last.1 - last.0) == row.2
                    && (last.3, last.4) == (row.3, row.4) =>
            {
                last.1 = row.1;
            }
            _ => out.push(row),
        }
    }
    out
}

fn compare_flags(tree: &Tree, manifest: &[u8]) -> usize {
    let text = String::from_utf8_lossy(manifest);
    let mut path = Vec::new();
    let mut count = 0;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("file ") {
            path = format!("./{name}").into_bytes();
            continue;
        }
        let Some((name, value)) =
            line.trim().strip_prefix("fsxattr.").and_then(|l| l.split_once(" = "))
        else {
            continue;
        };
        let a = &tree.objects[&path].attributes;
        let word = value.split_whitespace().next().unwrap_or("");
        let value = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        let value = value.expect("a number");
        let found = match name {
            "xflags" => u64::from(a.xflags),
            "projid" => u64::from(a.projid),
            "extsize" => u64::from(a.extsize),
            "cowextsize" => u64::from(a.cowextsize),
            // Of a shortform directory Linux reports bytes divided by 16.
            "nextents" if a.mode & 0o170_000 == 0o100_000 => a.nextents,
            "naextents" => u64::from(a.anextents),
            _ => continue,
        };
        assert_eq!(found, value, "{name} of {}", show(&path));
        count += 1;
    }
    assert!(count > 20, "{count} flags");
    count
}

/// Every name can be looked up, and others cannot.
fn lookup_all(mount: &Arc<Mount>, tree: &Tree) -> usize {
    let mut count = 0;
    for (path, object) in &tree.objects {
        let Some(slash) = path.iter().rposition(|&b| b == b'/') else { continue };
        let (parent, name) = (&path[..slash], &path[slash + 1..]);
        let parent = mount.inode(tree.objects[parent].ino).expect("parent");
        assert_eq!(parent.lookup(name), Ok(object.ino), "{}", show(path));
        let absent = [name, b"~"].concat();
        assert_eq!(parent.lookup(&absent[absent.len().min(255) - 1..]).ok(), None);
        count += 1;
    }
    count
}
