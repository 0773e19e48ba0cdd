//! `xfs_io` against the original: the same command strings on the same bytes, in a file of
//! the host and in a file of an image.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::{Guest, Ran, image, scratch};

struct Pair {
    host: PathBuf,
    guest: Guest,
}

const SIZE: usize = 300_000;

fn pair(name: &str) -> Pair {
    let dir = scratch(name);
    let host = dir.join("host");
    fs::create_dir_all(&host).unwrap();
    let bytes: Vec<u8> = (0..SIZE).map(|i| (i * 31 + i / 256) as u8).collect();
    fs::write(host.join("f"), &bytes).unwrap();
    fs::write(host.join("empty"), b"").unwrap();
    let source = host.display();
    let prototype = format!(
        "boot\n0 0\nd--755 0 0\nf ---644 0 0 {source}/f\nempty ---644 0 0 {source}/empty\n$\n"
    );
    let image = image(&dir, 96 << 20, &prototype, &[]);
    Pair { host, guest: Guest::mount(&image, None, false) }
}

/// What differs from run to run: durations, rates, addresses.
fn settled(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.split_once(" ops; ") {
            Some((head, _)) => {
                let tail = line.rsplit_once(" sec (").map_or("", |t| t.1);
                assert!(line.ends_with(" ops/sec)"), "{line}");
                assert!(tail.contains("/sec and "), "{line}");
                format!("{head} ops;")
            }
            // A usage: ours lists our options, in our words.
            None if line.contains(" -- ") && !line.starts_with("non-numeric") => {
                format!("usage of {}", line.split(' ').next().unwrap())
            }
            None => line.to_owned(),
        };
        let words: Vec<String> = line
            .split(' ')
            .map(|w| {
                let address = w.trim_matches(|c| c == '(' || c == ')');
                if address.len() > 10 && address.starts_with("0x") {
                    w.replace(address, "ADDRESS")
                } else {
                    w.to_owned()
                }
            })
            .collect();
        out += &(words.join(" ") + "\n");
    }
    out
}

impl Pair {
    fn run(&self, options: &[&str], commands: &[&str], file: &str) -> (Ran, Ran) {
        let mut argv = vec!["xfs_io"];
        argv.extend(options);
        for command in commands {
            argv.extend(["-c", command]);
        }
        argv.push(file);
        let host = Command::new(argv[0])
            .args(&argv[1..])
            .current_dir(&self.host)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .env("TZ", "UTC")
            .output()
            .unwrap_or_else(|e| panic!("xfs_io is needed for this test: {e}"));
        let status = host.status.code().unwrap_or(255) as u8;
        (self.guest.run(&argv), Ran { status, out: host.stdout, err: host.stderr })
    }
    /// Both sides print the same and leave the same bytes.
    fn same(&self, options: &[&str], commands: &[&str]) {
        let (guest, host) = self.run(options, commands, "f");
        assert_eq!(settled(&guest.text()), settled(&host.text()), "{options:?} {commands:?}");
        assert_eq!(guest.errors(), host.errors(), "{options:?} {commands:?}");
        assert_eq!(guest.status, host.status, "{options:?} {commands:?}");
        let bytes = fs::read(self.host.join("f")).unwrap();
        assert!(self.guest.run(&["cat", "f"]).out == bytes, "{options:?} {commands:?}");
    }
}

#[test]
fn transfers() {
    let p = pair("transfers");
    p.same(&[], &["pwrite 0 8k", "pread -v 8190 20"]);
    p.same(&[], &["pwrite -S 0x41 -b 1k 100 3000", "pread -v 96 40", "pread -q 0 1k"]);
    p.same(&[], &["pwrite -S 07 4097 1", "pwrite -S 300 4099 1", "pread -v 4090 16"]);
    p.same(&[], &["pread -v -b 16 3 40", "pread -b 1k 0 10k", "pread 0 1m", "pread 1m 5"]);
    p.same(&[], &["pread -B 8192 8192"]);
    p.same(&[], &["pread 0 0x10", "pread 0 010", "pread 0 1s", "pread 0 1b", "pread 1k 3K"]);
    p.same(&[], &["pwrite -W 5 5", "pwrite -w 5 5", "pwrite -O 0 4000", "pread -V 2 0 16k"]);
    p.same(&[], &["pread x 5", "pread 5 x", "pwrite x 5", "pwrite 5 x", "pread -b x 0 5"]);
    p.same(&[], &["pwrite -S zz 0 5", "pwrite -b x 0 5", "pread -V x 0 8k", "pread", "pread 1"]);
    p.same(&["-r"], &["pwrite 0 1", "pread -v 0 17"]);
    p.same(&["-a"], &["pread -v 0 3"]);
    p.same(&["-s"], &["pwrite 0 4k"]);
    p.same(
        &[],
        &["nosuch", "fsync 1", "fdatasync", "fsync", "sync_range 0 4k", "sync_range -a 0 8k"],
    );
    p.same(&[], &["sync_range", "sync_range 0 x", "sync_range x 0", "sync"]);
}

#[test]
fn odd_arguments() {
    let p = pair("odd");
    for file in ["nofile", "nodir/f", "f/x"] {
        let (guest, host) = p.run(&[], &["fsync"], file);
        assert_eq!((guest.text(), guest.errors()), (host.text(), host.errors()));
        assert_eq!(guest.status, host.status);
    }
    let (guest, host) = p.run(&["-h"], &[], "f");
    assert_eq!((guest.status, guest.errors()), (host.status, host.errors()));
    let (guest, host) = p.run(&[], &["fiemap", "fiemap -v", "pread -v 0 10"], "empty");
    assert_eq!(settled(&guest.text()), settled(&host.text()));
}

#[test]
fn mappings() {
    let p = pair("mappings");
    p.same(&[], &["mmap -r 0 4k", "mread -v 0 40", "mread 0 4k", "mmap"]);
    p.same(
        &[],
        &["mmap -rw 0 8k", "mwrite -S 0x42 4000 200", "msync -s", "mread -v 3990 20", "mmap"],
    );
    p.same(
        &[],
        &["mmap 8k 8k", "mwrite 9000 100", "mread -v 8990 30", "munmap", "pread -v 8990 20"],
    );
    p.same(&[], &["mmap -w 0 4k", "mmap -r 4k 8k", "mmap", "mmap 0", "mmap 5", "munmap", "mmap"]);
    p.same(&[], &["mwrite 0 5", "mread 0 5", "munmap", "msync", "madvise", "mmap"]);
    p.same(&[], &["mmap 4k 8k", "mread 100 20", "mread 5m 7", "mwrite 8 8", "msync 0 4k"]);
    p.same(&[], &["mmap 0 8k", "mread 0 9k", "msync 10 20", "msync 0", "msync x 4", "mread 0 x"]);
    p.same(
        &[],
        &["mmap 0 4k", "msync -as", "msync -a", "msync -i", "madvise -d", "madvise -d 1 2"],
    );
    p.same(&[], &["mmap 0 8k", "madvise -w", "madvise -r 0 4k", "mwrite -r 0 5k"]);
    p.same(&[], &["mmap 0 0", "mmap 1 4k", "mmap x 5", "mmap 5 x"]);
    p.same(&["-r"], &["mmap 0 4k", "mmap -r 0 4k", "mread -v 0 3"]);
    p.same(&[], &["fadvise -d 0 4k", "fadvise", "fadvise -d", "fadvise x 5", "fadvise -d x 4"]);
}

#[test]
fn commands_that_change_sizes_and_space() {
    let p = pair("write-path");
    for command in ["falloc 0 400k", "falloc -k 0 1m", "fpunch 0 4k", "fzero 4k 8k"] {
        p.same(&[], &[command]);
    }
    p.same(
        &[],
        &["truncate 299995", "pwrite -q 299990 20", "truncate 300000", "pread -v 299980 20"],
    );
    let ran = p.guest.run(&["xfs_io", "-f", "-c", "pwrite -q 0 10", "-c", "fsync", "newfile"]);
    assert_eq!((ran.status, ran.errors().as_str()), (0, ""));
    // Bad arguments are complained about as ever.
    p.same(&[], &["truncate x", "truncate", "falloc", "fpunch 0", "falloc x 4k", "fpunch 0 x"]);
    p.same(&["-r"], &["truncate 5", "falloc 0 4k", "fpunch 0 4k", "fzero 0 4k"]);
    // A store beyond the end is an error of the access, and ends the run.
    let ran =
        p.guest.run(&["xfs_io", "-c", "mmap 0 400k", "-c", "mwrite 320k 4k", "-c", "fsync", "f"]);
    assert_eq!((ran.status, ran.errors().as_str()), (1, "xfs_io: mwrite: Bus error\n"));
}

#[test]
fn extents_and_stat() {
    let p = pair("extents");
    let plain = p.guest.run(&["xfs_io", "-r", "-c", "bmap", "-c", "fiemap", "f"]).text();
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(lines[0], "f:");
    assert!(
        lines[1].starts_with("\t0: [0..587]: ") || lines[1].starts_with("\t0: [0..591]: "),
        "{plain}"
    );
    // One extent: both report the same place, up to the last block of the file.
    let place =
        |line: &str| line.rsplit(' ').next().unwrap().split("..").next().unwrap().to_owned();
    assert_eq!(place(lines[1]), place(lines[3]));
    let stat = p.guest.run(&["xfs_io", "-r", "-c", "stat", "f"]).text();
    for line in [
        "fd.path = \"f\"",
        "fd.flags = non-sync,non-direct,read-only",
        "stat.type = regular file",
        "stat.size = 300000",
        "fsxattr.xflags = 0x0 [-----------------]",
        "fsxattr.nextents = 1",
        "dioattr.maxiosz = 2147483136",
    ] {
        assert!(stat.lines().any(|l| l == line), "{line}: {stat}");
    }
    p.same(&[], &["file", "help nosuch"].map(|c| if c == "file" { "close" } else { c }));
}
