//! How long a mount takes that has to recover a full log of 64 MiB. By command only:
//! `cargo test --release -p holdfast-fs --test xfs -- --ignored --nocapture full_log`.

use std::sync::Arc;
use std::time::Instant;

use holdfast_fs::platform::host::HostMemory;

use crate::volume::{Volume, mkfs};
use crate::xfsprogs::disk_over;

/// Prints what the mount says of the recovery.
struct Console;

impl log::Log for Console {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        println!("{}", record.args());
    }
    fn flush(&self) {}
}

#[test]
#[ignore = "a measurement, by command"]
fn a_full_log_of_64_mib_is_recovered() {
    let image = mkfs(500, &["-l", "size=64m"]);
    let volume = Volume::with_memory(disk_over(image), HostMemory::new(65536)).expect("it mounts");
    volume.cache.start();
    let (p, mut files) = (&volume.process, 0_u64);
    let path = |n: u64| format!("/d{}/f{n}", n / 500).into_bytes();
    let log_bytes = || volume.fs.mount().log().expect("it has a log").statistics().log_bytes;
    while log_bytes() < 60 << 20 {
        if files.is_multiple_of(500) {
            p.mkdir(format!("/d{}", files / 500).as_bytes(), 0o755).unwrap();
        }
        volume.touch(&path(files)).unwrap();
        files += 1;
        if files.is_multiple_of(2000) {
            p.sync();
        }
    }
    p.sync();
    // The power goes.
    let cut = Arc::new(volume.bytes());
    let _ = log::set_logger(&Console);
    log::set_max_level(log::LevelFilter::Info);
    let start = Instant::now();
    let again = Volume::over(&cut);
    println!("{files} files made; the mount took {:?}", start.elapsed());
    assert!(again.process.stat(&path(files - 1)).is_ok(), "the last file is there");
    again.finish();
}
