//! Operations on what files hold, where it lies and with whom it is shared.

use holdfast_fs::syscall::{FallocateMode as Mode, FiemapFlags, OpenFlags, Whence};
use holdfast_fs::{Error, Result};

use crate::Operation;
use crate::volume::errno;
use crate::world::{World, bytes};

const EINVAL: i32 = 22;
/// Whole blocks, pages and sectors.
const UNIT: usize = 8192;

pub const OPERATIONS: &[Operation] = &[
    Operation::new("write, a few bytes", |w| {
        w.create("f")?;
        w.write("f", 0, b"a few bytes")
    }),
    Operation::new("write, 1.5 MB", |w| file(w, "f", 1_500_000)),
    Operation::new("write over what there is", |w| {
        file(w, "f", 40_000)?;
        w.process().sync();
        w.write("f", 1234, &bytes(9, 20_000))
    }),
    Operation::new("append", |w| {
        file(w, "f", 5000)?;
        w.append("f", &bytes(2, 3000))?;
        w.append("f", &bytes(3, 9000))
    }),
    Operation::new("write, O_SYNC", |w| {
        w.create("f")?;
        w.write_by(OpenFlags::SYNC, "f", 0, &bytes(4, 7000))
    }),
    Operation::new("write beyond the end", |w| {
        file(w, "f", 100)?;
        w.write("f", 300_000, b"far away")
    }),
    Operation::new("write, many extents", many_extents),
    Operation::new("truncate many extents", |w| {
        many_extents(w)?;
        w.truncate("f", 5 * UNIT)
    }),
    Operation::new("store into a mapping", |w| {
        file(w, "f", 30_000)?;
        w.store("f", 5000, &bytes(5, 12_000))
    }),
    Operation::new("store into a mapping of a hole", |w| {
        w.create("f")?;
        w.truncate("f", 50_000)?;
        w.store("f", 20_000, b"into the hole")
    }),
    Operation::new("write, O_DIRECT, into a hole", |w| {
        w.create("f")?;
        w.write_by(OpenFlags::DIRECT, "f", UNIT, &bytes(6, 4 * UNIT))
    }),
    Operation::new("write, O_DIRECT, over what there is", |w| {
        file(w, "f", 10 * UNIT)?;
        w.write_by(OpenFlags::DIRECT, "f", 2 * UNIT, &bytes(7, 3 * UNIT))
    }),
    Operation::new("write, O_DIRECT, parts of blocks", |w| {
        file(w, "f", 4 * UNIT)?;
        w.process().sync();
        // The device takes sectors of 512 bytes, whatever the file system calls a sector.
        w.write_by(OpenFlags::DIRECT, "f", 512, &bytes(8, 512))
    }),
    Operation::new("write, O_DIRECT, not aligned", |w| {
        file(w, "f", UNIT)?;
        let direct = OpenFlags::RDWR | OpenFlags::DIRECT;
        let refused = w.with("f", direct, |p, fd| p.pwrite(fd, &b"seven b"[..], 3));
        assert_eq!(errno(refused), EINVAL);
        Ok(())
    }),
    Operation::new("truncate to less", |w| {
        file(w, "f", 100_000)?;
        w.truncate("f", 12_345)
    }),
    Operation::new("truncate to more", |w| {
        file(w, "f", 1000)?;
        w.truncate("f", 100_000)
    }),
    Operation::new("truncate to nothing", |w| {
        file(w, "f", 100_000)?;
        w.process().sync();
        w.truncate("f", 0)
    }),
    Operation::new("truncate to less and more", |w| {
        file(w, "f", 50_000)?;
        w.truncate("f", 777)?;
        w.truncate("f", 50_000)
    }),
    Operation::new("fallocate", |w| {
        file(w, "f", 1000)?;
        w.fallocate(Mode::empty(), "f", 500, 200_000)
    }),
    Operation::new("fallocate, KEEP_SIZE", |w| {
        file(w, "f", 1000)?;
        w.fallocate(Mode::KEEP_SIZE, "f", 0, 200_000)
    }),
    Operation::new("write into what was preallocated", |w| {
        w.create("f")?;
        w.fallocate(Mode::empty(), "f", 0, 100_000)?;
        w.write("f", 33_333, &bytes(1, 10_000))
    }),
    Operation::new("fallocate, PUNCH_HOLE", |w| {
        file(w, "f", 100_000)?;
        w.process().sync();
        w.fallocate(Mode::PUNCH_HOLE | Mode::KEEP_SIZE, "f", 10_001, 50_000)
    }),
    Operation::new("fallocate, ZERO_RANGE", |w| {
        file(w, "f", 100_000)?;
        w.fallocate(Mode::ZERO_RANGE, "f", 90_000, 50_000)
    }),
    Operation::new("fallocate, ZERO_RANGE and KEEP_SIZE", |w| {
        file(w, "f", 100_000)?;
        w.fallocate(Mode::ZERO_RANGE | Mode::KEEP_SIZE, "f", 90_000, 50_000)
    }),
    Operation::new("fallocate, COLLAPSE_RANGE", |w| {
        file(w, "f", 100_000)?;
        w.fallocate(Mode::COLLAPSE_RANGE, "f", UNIT, 2 * UNIT)
    }),
    Operation::new("fallocate, INSERT_RANGE", |w| {
        file(w, "f", 100_000)?;
        w.fallocate(Mode::INSERT_RANGE, "f", UNIT, 3 * UNIT)
    }),
    Operation::new("fallocate, UNSHARE_RANGE", |w| {
        file(w, "f", 60_000)?;
        w.fallocate(Mode::UNSHARE_RANGE, "f", 0, 50_000)
    }),
    Operation::sharing("FICLONE", clone),
    Operation::sharing("FICLONERANGE", |w| {
        file(w, "f", 100_000)?;
        file(w, "g", 50_000)?;
        w.share(("f", UNIT), ("g", 2 * UNIT), 4 * UNIT, |p, from, to| {
            p.ficlonerange(to, from, UNIT as u64, 4 * UNIT as u64, 2 * UNIT as u64)
        })
    }),
    Operation::sharing("FIDEDUPERANGE, the same bytes", dedupe),
    Operation::sharing("FIDEDUPERANGE, other bytes", dedupe_other),
    Operation::new("copy_file_range", |w| {
        file(w, "f", 100_000)?;
        file(w, "g", 10)?;
        w.share(("f", 5000), ("g", 7777), 60_000, |p, from, to| {
            let (mut at, mut to_at, mut left) = (5000, 7777, 60_000);
            while left > 0 {
                left -= p.copy_file_range(from, Some(&mut at), to, Some(&mut to_at), left)?;
            }
            Ok(())
        })
    }),
    Operation::sharing("write to shared blocks", |w| {
        clone(w)?;
        w.write("g", 5000, &bytes(11, 30_000))?;
        w.process().sync();
        w.write("f", 60_000, &bytes(12, 100))
    }),
    Operation::sharing("write to shared blocks, O_DIRECT", |w| {
        clone(w)?;
        w.write_by(OpenFlags::DIRECT, "g", UNIT, &bytes(13, 3 * UNIT))
    }),
    Operation::sharing("store into a mapping of shared blocks", |w| {
        clone(w)?;
        w.store("g", 20_000, &bytes(14, 9000))
    }),
    Operation::sharing("unshare shared blocks", |w| {
        clone(w)?;
        w.fallocate(Mode::UNSHARE_RANGE, "g", 0, 90_000)
    }),
    Operation::sharing("truncate, punch and remove shared blocks", |w| {
        clone(w)?;
        w.fallocate(Mode::PUNCH_HOLE | Mode::KEEP_SIZE, "g", 2 * UNIT, 2 * UNIT)?;
        w.truncate("g", 6 * UNIT)?;
        w.unlink("f")
    }),
    Operation::sharing("collapse and insert with shared blocks", |w| {
        clone(w)?;
        w.fallocate(Mode::COLLAPSE_RANGE, "g", 0, UNIT)?;
        w.fallocate(Mode::INSERT_RANGE, "g", 2 * UNIT, UNIT)
    }),
    Operation::new("fiemap", fiemap),
    Operation::new("lseek, SEEK_HOLE and SEEK_DATA", seek),
];

fn file(w: &mut World, name: &str, len: usize) -> Result<()> {
    w.create(name)?;
    w.write(name, 0, &bytes(name.len() + len, len))
}

/// Every other unit: more extents than an inode holds.
fn many_extents(w: &mut World) -> Result<()> {
    w.create("f")?;
    for n in (0..150).rev() {
        w.write("f", 2 * n * UNIT, &bytes(n, 1000))?;
        if n % 30 == 0 {
            w.process().sync();
        }
    }
    Ok(())
}

fn clone(w: &mut World) -> Result<()> {
    file(w, "f", 100_000)?;
    w.create("g")?;
    w.share(("f", 0), ("g", 0), 100_000, |p, from, to| p.ficlone(to, from))
}

fn dedupe(w: &mut World) -> Result<()> {
    file(w, "f", 80_000)?;
    w.create("g")?;
    w.write("g", 0, &bytes(1 + 80_000, 80_000))?;
    w.share(("f", UNIT), ("g", UNIT), 5 * UNIT, |p, from, to| {
        let len = 5 * UNIT as u64;
        let done = p.fideduperange(from, UNIT as u64, len, to, UNIT as u64)?;
        assert_eq!(done, Some(len), "bytes deduplicated");
        Ok(())
    })
}

fn dedupe_other(w: &mut World) -> Result<()> {
    file(w, "f", 30_000)?;
    file(w, "longer", 30_000)?;
    let mut shared = None;
    let tried = w.share(("f", 0), ("longer", 0), UNIT, |p, from, to| {
        shared = Some(p.fideduperange(from, 0, UNIT as u64, to, 0)?);
        Err(Error::Invalid("nothing was shared"))
    });
    if shared.is_none() {
        return tried;
    }
    assert_eq!(shared, Some(None), "other bytes are not shared");
    Ok(())
}

fn fiemap(w: &mut World) -> Result<()> {
    file(w, "f", 3 * UNIT)?;
    w.write("f", 6 * UNIT, &bytes(1, UNIT))?;
    w.fallocate(Mode::empty(), "f", 10 * UNIT, UNIT)?;
    w.fallocate(Mode::KEEP_SIZE, "f", 14 * UNIT, UNIT)?;
    let mut extents = Vec::new();
    w.with("f", OpenFlags::RDONLY, |p, fd| {
        p.fiemap(fd, 0, u64::MAX >> 1, true, &mut |extent| {
            extents.push(extent);
            true
        })
    })?;
    let unit = UNIT as u64;
    let has = |at: u64| extents.iter().find(|e| e.logical <= at && at < e.logical + e.length);
    for (place, there) in [(0, 1), (2, 1), (4, 0), (6, 1), (8, 0), (10, 1), (12, 0), (14, 1)] {
        assert_eq!(has(place * unit).is_some(), there == 1, "unit {place} of {extents:?}");
    }
    let unwritten = has(10 * unit).is_some_and(|e| e.flags.contains(FiemapFlags::UNWRITTEN));
    assert!(unwritten, "what was preallocated: {extents:?}");
    let last = extents.last().expect("extents");
    assert!(last.flags.contains(FiemapFlags::LAST), "the last of {extents:?}");
    assert!(extents.iter().all(|e| e.physical > 0 && e.physical % 512 == 0), "{extents:?}");
    Ok(())
}

fn seek(w: &mut World) -> Result<()> {
    w.create("f")?;
    w.write("f", 8 * UNIT, &bytes(1, 2 * UNIT))?;
    w.truncate("f", 20 * UNIT)?;
    w.process().sync();
    w.with("f", OpenFlags::RDONLY, |p, fd| {
        assert_eq!(p.lseek(fd, 0, Whence::Data)?, 8 * UNIT as u64);
        assert_eq!(p.lseek(fd, 8 * UNIT as i64, Whence::Hole)?, 10 * UNIT as u64);
        Ok(())
    })
}
