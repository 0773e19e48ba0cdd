//! Scripts, the prompt, the benchmark and the main job, on images.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Guest, image, scratch, tool};

fn disk(dir: &Path, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let mut prototype = String::from("boot\n0 0\nd--755 0 0\n");
    for (name, contents) in files {
        let source = dir.join(name);
        fs::write(&source, contents).unwrap();
        prototype += &format!("{name} ---644 0 0 {}\n", source.display());
    }
    image(dir, 96 << 20, &(prototype + "$\n"), &["-d", "agcount=2"])
}

fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn scripts() {
    let dir = scratch("scripts");
    let guest = Guest::mount(&disk(&dir, &[("f", b"one\ntwo\n".to_vec())]), None, true);
    let good = guest.script("# a comment\n\necho 'a b'  \"c\"\ncat f # more\necho end");
    assert_eq!((good.status, good.text().as_str()), (0, "a b c\none\ntwo\nend\n"));
    let stopped = guest.script("echo 1\ncat nofile\necho 2\n");
    assert_eq!((stopped.status, stopped.text().as_str()), (1, "1\n"));
    assert!(stopped.errors().contains("line 2"), "{}", stopped.errors());
    assert_eq!(guest.script("ls nofile\n").status, 2);
    assert_eq!(guest.script("nosuch\n").status, 127);
    assert_eq!(guest.script("echo 'open\n").status, 2);
    assert_eq!(guest.script("").status, 0);
    // Background failures count at wait, the first started first.
    let late = guest.script("sleep 0.05 &\nls nofile &\nfalse &\necho on\nwait\necho never\n");
    assert_eq!((late.status, late.text().as_str()), (2, "on\n"));
    assert_eq!(guest.script("false &\necho on\n").status, 1);
    assert_eq!(guest.script("true &\nwait\nwait\necho on\n").text(), "on\n");
    // Lines run at the same time.
    let start = std::time::Instant::now();
    assert_eq!(guest.script(&"sleep 0.2 &\n".repeat(20)).status, 0);
    assert!(start.elapsed().as_secs_f64() < 2.0);
    let many = guest.script(&"echo x\n".repeat(3000));
    assert_eq!(many.out.len(), 6000);
    let long = format!("echo {}\n", "y".repeat((64 << 10) - 5));
    assert_eq!(guest.script(&long).out.len(), (64 << 10) - 4);
    assert_eq!(guest.script(&format!("echo {}\n", "y".repeat(64 << 10))).status, 2);
}

#[test]
fn two_lines_of_a_script_write_one_file() {
    let dir = scratch("script-writes");
    let guest = Guest::mount(&disk(&dir, &[("f", bytes(1 << 20, 1))]), None, false);
    let ran = guest.script(
        "xfs_io -c 'pwrite -q -S 0x61 -b 3001 0 512k' f &\n\
         xfs_io -c 'mmap 512k 512k' -c 'mwrite -S 0x62 512k 512k' -c 'msync -s' f &\n\
         wait\nxfs_io -c fsync f\ndrop_caches\n",
    );
    assert_eq!((ran.status, ran.errors()), (0, String::new()));
    let out = guest.run(&["cat", "f"]).out;
    assert!(out[..512 << 10].iter().all(|&b| b == 0x61));
    assert!(out[512 << 10..].iter().all(|&b| b == 0x62));
    assert_eq!(out.len(), 1 << 20);
}

#[test]
fn the_prompt() {
    let dir = scratch("prompt");
    let guest = Guest::mount(&disk(&dir, &[("some-file", b"text\n".to_vec())]), None, true);
    let plain = guest.shell(b"echo a\nfalse\necho b\nexit 7\necho c\n", false);
    assert_eq!((plain.status, plain.text().as_str()), (7, "a\nb\n"));
    let plain = guest.shell(b"false\n", false);
    assert_eq!(plain.status, 1);
    let typed = guest.shell(b"cat some\t\rfalse\recho \x1b[A\x1b[A\x1b[A\r\x03exit\r", true);
    let text = typed.text();
    assert!(text.contains("cat some-file "), "{text:?}");
    assert!(text.matches("text\n").count() == 2, "{text:?}");
    assert!(text.contains("holdfast:/ [1]$ "), "{text:?}");
    assert_eq!(typed.status, 130);
    assert_eq!(guest.shell(b"true\r\x04", true).status, 0);
}

#[test]
fn the_benchmark() {
    const SIZE: usize = 4 << 20;
    let dir = scratch("bench");
    let files: Vec<(&str, Vec<u8>)> =
        ["sb_seq", "sb_rnd", "sb_rw"].map(|name| (name, bytes(SIZE, 9))).into();
    let image = disk(&dir, &files);
    let guest = Guest::mount(&image, Some(1024), false);
    // Twice: the second run finds what the first one left. mmapw_exist reads the pattern
    // that rndw_4k only writes in part, so the file is given the pattern first.
    for _ in 0..2 {
        let ran = guest.run(&[
            "bench",
            "--size",
            "4",
            "rewr_4k,cread_4k",
            "cread_1m",
            "crand_4k",
            "rndw_4k",
            "rndw_4k_fsync1",
            "mmapr_cached",
            "msync_1pg",
            "cold_1m",
            "cold_rnd_4k",
        ]);
        assert_eq!((ran.status, ran.errors()), (0, String::new()), "{}", ran.text());
        let text = ran.text();
        assert_eq!(text.matches(" verify=ok\n").count(), 12 + 1, "{text}");
        assert!(text.contains("case rewr_4k ops=1024 bytes=4194304 sec="), "{text}");
        assert!(text.contains("case cread_1m ops=16 bytes=16777216 sec="), "{text}");
    }
    // All that make files and change names: each line that verifies says ok.
    let ran = guest.run(&[
        "bench",
        "--size=4",
        "seqw_4k,seqw_1m,append_512_fds,create_4k,mmapw_sparse,falloc,unalw_3000,unalrw_3000",
    ]);
    assert_eq!((ran.status, ran.errors()), (0, String::new()), "{}", ran.text());
    for name in ["seqw_1m_sync", "create_4k_dirsync", "rename", "rmdir", "falloc_over"] {
        assert!(ran.text().contains(&format!("case {name} ops=")), "{name}: {}", ran.text());
    }
    assert!(!ran.text().contains("BAD"), "{}", ran.text());
    let ran = guest.run(&["bench", "--size=4", "seqw_4k", "cread_4k"]);
    assert_eq!((ran.status, ran.errors()), (0, String::new()), "{}", ran.text());
    let before = guest.run(&["sha256sum", "sb_seq"]);
    let ran = guest.run(&["bench", "--size=4", "raw", "insn", "cached_write_io"]);
    assert_eq!((ran.status, ran.errors()), (0, String::new()), "{}", ran.text());
    for line in [
        "ratio cold_1m/raw_read=",
        "ratio writeback/raw_write=",
        "insn first_store ns=",
        "blocks put back: ok",
        "      0 disk requests during ",
    ] {
        assert!(ran.text().contains(line), "{line}: {}", ran.text());
    }
    assert!(guest.run(&["sha256sum", "sb_rnd"]).out.len() == before.out.len());
    assert_eq!(guest.run(&["bench", "nosuch"]).status, 2);
    guest.unmount();
    tool("xfs_repair", &["-n", image.to_str().unwrap()]);
}

#[test]
fn the_main_job() {
    let dir = scratch("mainjob");
    let mut files =
        vec![("big", bytes(24 << 20, 1)), ("mid", bytes(9_000_017, 2)), ("tiny", b"t".to_vec())];
    files.push(("empty", Vec::new()));
    files.push(("small", bytes(50_000, 3)));
    let image = disk(&dir, &files);
    let guest = Guest::mount(&image, Some(1024), false);
    let ran = guest.run(&["mainjob", "--seed=3"]);
    let text = ran.text();
    assert!(!text.contains("BAD"), "{text}\n{}", ran.errors());
    assert_eq!(ran.status, 0, "{text}");
    let said: Vec<String> =
        text.lines().filter_map(|l| l.strip_prefix("@@sha256 ")).map(str::to_owned).collect();
    assert!(said.len() > files.len() && said.iter().any(|l| l.contains("  /made/")), "{said:?}");
    let json = text.lines().find_map(|l| l.strip_prefix("@@json ")).unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["good"], true);
    assert_eq!(json["files_overwritten"], files.len());
    assert_eq!(json["threads"].as_array().unwrap().len(), 6);
    assert!(json["page_cache"]["refaults"].as_u64().unwrap() > 0);
    guest.unmount();
    // A fresh mount reads what was said, and the file system is whole.
    let guest = Guest::mount(&image, None, true);
    let read: Vec<String> =
        guest.run(&["sha256sum", "-r", "/"]).text().lines().map(str::to_owned).collect();
    assert_eq!(read, said);
    tool("xfs_repair", &["-n", image.to_str().unwrap()]);
    // Nothing was left as it was, except what nobody may change.
    let whole = guest.run(&["cat", "big"]).out;
    let kept = whole.iter().zip(&files[0].1).filter(|(a, b)| a == b).count();
    assert!(kept > whole.len() / 20 && kept < whole.len() / 3, "{kept} of {}", whole.len());
}

#[test]
fn the_main_job_finds_what_is_wrong() {
    let dir = scratch("mainjob-wrong");
    let image = disk(&dir, &[("f", bytes(6 << 20, 1))]);
    let guest = Guest::mount(&image, None, false);
    // Somebody else writes into the file while the job runs.
    let ran = guest.script(
        "xfs_io -c 'sleep 0' -c 'pwrite -q -b 100 0 6m' -c 'pwrite -q -b 100 0 6m' f &\nmainjob\n",
    );
    assert_eq!(ran.status, 1, "{}", ran.text());
    assert!(ran.text().contains("BAD"), "{}", ran.text());
    let readonly = Guest::mount(&image, None, true);
    let ran = readonly.run(&["mainjob"]);
    assert_eq!(ran.status, 1);
    assert!(ran.errors().contains("Read-only file system"), "{}", ran.errors());
}
