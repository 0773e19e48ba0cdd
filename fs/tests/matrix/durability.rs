//! What outlives a power cut, a remount, and a full device.

use std::sync::Arc;

use holdfast_fs::block::Queue;
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::{FallocateMode, OpenFlags, RenameFlags, XattrFlags};
use holdfast_fs::xfs::check::check;
use holdfast_fs::{Error, Result};

use crate::Operation;
use crate::world::{World, bytes, write_all};
use crate::xfsprogs::disk_over;

pub const OPERATIONS: &[Operation] = &[
    Operation::new("fsync, power cut, recovery", |w| {
        w.process().sync();
        w.create("f")?;
        w.write("f", 0, &bytes(1, 50_000))?;
        w.with("f", OpenFlags::RDWR, |p, fd| p.fsync(fd))?;
        w.cut_now()
    }),
    Operation::new("fdatasync, power cut, recovery", |w| {
        w.create("f")?;
        w.process().sync();
        w.write("f", 0, &bytes(2, 30_000))?;
        w.with("f", OpenFlags::RDWR, |p, fd| p.fdatasync(fd))?;
        w.cut_now()
    }),
    Operation::new("syncfs, power cut, recovery", |w| {
        w.mkdir("d")?;
        w.create("d/f")?;
        w.rename("d/f", "g", RenameFlags::empty())?;
        w.with("g", OpenFlags::RDONLY, |p, fd| p.syncfs(fd))?;
        w.cut_now()
    }),
    Operation::new("names and attributes, power cut, recovery", |w| {
        for n in 0..80 {
            w.mkdir(&format!("d{n}"))?;
            w.create(&format!("d{n}/f"))?;
            w.set_attribute(&format!("d{n}/f"), "user.a", &bytes(n, 40 * n), XattrFlags::CREATE)?;
        }
        for n in 0..40 {
            w.rename(&format!("d{n}/f"), &format!("d{}/g", n + 40), RenameFlags::empty())?;
            w.rmdir(&format!("d{n}"))?;
        }
        w.cut()
    }),
    Operation::new("extents, power cut, recovery", |w| {
        w.create("f")?;
        for n in 0..60 {
            w.write("f", n * 20_000, &bytes(n, 5000))?;
        }
        w.process().sync();
        w.fallocate(FallocateMode::COLLAPSE_RANGE, "f", 8192, 81_920)?;
        w.truncate("f", 500_000)?;
        w.cut()
    }),
    Operation::new("open without a name, power cut, freed", orphan),
    Operation::new("O_TMPFILE, power cut, freed", unnamed),
    Operation::new("unmount and mount", |w| {
        w.create("f")?;
        w.write("f", 0, &bytes(3, 10_000))?;
        w.remount_after(|_| ());
        w.append("f", b"and more")
    }),
    Operation::new("fill the device, empty it", fill),
    Operation::new("fsck", fsck),
];

/// Space and inodes that are free.
fn free(w: &World) -> Result<(u64, u64)> {
    let space = w.process().statfs(b"/")?;
    Ok((space.blocks_free, space.files - space.files_free))
}

fn orphan(w: &mut World) -> Result<()> {
    w.create("warm")?;
    w.process().sync();
    let before = free(w)?;
    w.create("f")?;
    w.write("f", 0, &bytes(4, 200_000))?;
    let fd = w.process().open(&w.at("f"), OpenFlags::RDWR, 0)?;
    w.unlink("f")?;
    let mut buffer = vec![0; 1000];
    assert_eq!(w.process().pread(fd, &mut buffer, 100_000)?, 1000);
    assert!(buffer[..] == bytes(4, 200_000)[100_000..101_000], "it can still be read");
    w.cut()?;
    assert_eq!(free(w)?, before, "blocks free, inodes in use");
    Ok(())
}

fn unnamed(w: &mut World) -> Result<()> {
    w.create("warm")?;
    w.process().sync();
    let before = free(w)?;
    let home = format!("/{}", w.home).into_bytes();
    let fd = w.process().open(&home, OpenFlags::TMPFILE | OpenFlags::RDWR, 0o600)?;
    write_all(w.process(), fd, 0, &bytes(5, 100_000))?;
    w.cut()?;
    assert_eq!(free(w)?, before, "blocks free, inodes in use");
    Ok(())
}

/// Until nothing fits any more; then everything goes, and nothing is lost.
fn fill(w: &mut World) -> Result<()> {
    w.create("warm")?;
    w.process().sync();
    let before = free(w)?;
    let data = bytes(6, 1 << 20);
    let mut files = 0;
    let error = loop {
        let name = w.at(&format!("f{files}"));
        let made = w.process().open(&name, OpenFlags::RDWR | OpenFlags::CREAT, 0o644);
        files += u64::from(made.is_ok());
        let written = made.and_then(|fd| {
            let p = w.process();
            let written = write_all(p, fd, 0, &data).and_then(|()| p.fsync(fd));
            p.close(fd).and(written)
        });
        if let Err(error) = written {
            break error;
        }
    };
    assert_eq!(error, Error::NoSpace, "what a full device says");
    let left = free(w)?.0 * w.set.block() as u64;
    // A name more could take a new directory block at every level.
    let most = (600 << 10) + 8 * w.set.directory_block() as u64;
    assert!(left < most, "{left} bytes are left on the full device");
    for n in 0..files {
        w.process().unlink(&w.at(&format!("f{n}")))?;
    }
    w.process().sync();
    assert_eq!(free(w)?, before, "blocks free, inodes in use");
    Ok(())
}

fn fsck(w: &mut World) -> Result<()> {
    w.remount_after(|image| {
        if let Some(found) = complaints(image) {
            panic!("{found}");
        }
    });
    Ok(())
}

/// What our own checker says of an image.
pub fn complaints(image: &Arc<Vec<u8>>) -> Option<String> {
    let memory: Arc<dyn Memory> = HostMemory::new(16384);
    let report = check(&Queue::new(disk_over(image.clone())), &memory);
    let report = report.unwrap_or_else(|e| panic!("it cannot be checked: {e}"));
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    (!report.is_clean()).then(|| lines.join("\n"))
}
