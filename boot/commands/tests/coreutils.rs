//! The file commands against the host's own tools, on a tree that mkfs.xfs copied.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Guest, image, in_the_guests_words, on_host, scratch, tool};

/// Names, contents and modes of the tree's files.
fn files() -> Vec<(&'static str, Vec<u8>, u32)> {
    let pattern = |n: usize| (0..n).map(|i| (i * 7 + i / 251) as u8).collect::<Vec<u8>>();
    vec![
        ("empty", Vec::new(), 0o644),
        (
            "hello",
            b"hello world\n0123456789abcdef0123456789abcdef0123456789abcdef\n".to_vec(),
            0o600,
        ),
        ("binary", pattern(100_003), 0o755),
        ("big", pattern(1 << 20), 0o640),
        ("zeros", vec![0; 5000], 0o444),
        ("dir/inner", b"inner".to_vec(), 0o644),
        ("dir/deep/file", pattern(4096), 0o644),
        ("dir-sibling", b"sorts between".to_vec(), 0o644),
        ("dir.x/one", b"1".to_vec(), 0o644),
    ]
}

struct Tree {
    host: PathBuf,
    guest: Guest,
}

/// The same tree on the host and on an image.
fn tree(name: &str) -> Tree {
    use std::os::unix::fs::PermissionsExt;
    let dir = scratch(name);
    let host = dir.join("tree");
    for (path, contents, mode) in files() {
        let path = host.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for sub in ["", "dir", "dir/deep", "dir.x"] {
        fs::set_permissions(host.join(sub), fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::symlink("dir/inner", host.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere/at_all", host.join("broken")).unwrap();
    std::os::unix::fs::symlink("loop", host.join("loop")).unwrap();
    let prototype = format!("boot\n0 0\nd--755 0 0\n{}$\n", prototype(&host));
    let image = image(&dir, 96 << 20, &prototype, &[]);
    Tree { host, guest: Guest::mount(&image, None, true) }
}

fn prototype(dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let mut out = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (name, kind) = (entry.file_name().into_string().unwrap(), entry.file_type().unwrap());
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            // The prototype's words end at blanks.
            let target = target.to_str().unwrap().replace(' ', "_");
            out += &format!("{name} l--777 0 0 {target}\n");
        } else if kind.is_dir() {
            out += &format!("{name} d--{mode:03o} 0 0\n{}$\n", prototype(&entry.path()));
        } else {
            out += &format!("{name} ---{mode:03o} 0 0 {}\n", entry.path().display());
        }
    }
    out
}

impl Tree {
    /// Run on both sides; output and status must be the same, and what the diagnostics say.
    fn same(&self, argv: &[&str]) {
        let host = on_host(Command::new(argv[0]).args(&argv[1..]), &self.host);
        let guest = self.guest.run(argv);
        let shown = String::from_utf8_lossy(&host.stdout).into_owned();
        assert_eq!(guest.text(), shown, "{argv:?}");
        assert_eq!(guest.out, host.stdout, "{argv:?}");
        assert_eq!(i32::from(guest.status), host.status.code().unwrap(), "{argv:?}");
        assert_eq!(guest.errors(), in_the_guests_words(&host.stderr, argv[0]), "{argv:?}");
    }
}

#[test]
fn contents() {
    let t = tree("contents");
    for (name, ..) in files() {
        t.same(&["cat", name]);
        t.same(&["cksum", name]);
        t.same(&["sha256sum", name]);
        t.same(&["hexdump", "-C", name]);
        t.same(&["hexdump", name]);
    }
    t.same(&["cat", "hello", "nofile", "dir", "link", "broken", "loop"]);
    t.same(&["cat", "-q"]);
    t.same(&["sha256sum", "hello", "nofile", "dir"]);
    t.same(&["cksum", "hello", "nofile"]);
    t.same(&["hexdump", "-C", "-s", "3", "-n", "37", "binary"]);
    t.same(&["hexdump", "-C", "-v", "zeros"]);
    t.same(&["hexdump", "hello", "zeros", "hello"]);
}

#[test]
fn names() {
    let t = tree("names");
    t.same(&["ls"]);
    t.same(&["ls", "-a"]);
    t.same(&["ls", "-1r"]);
    t.same(&["ls", "-R"]);
    t.same(&["ls", "-aR", "dir", "dir.x"]);
    t.same(&["ls", "dir", "hello", "nofile", "binary", "dir.x"]);
    t.same(&["ls", "-d", "dir", "link", "."]);
    t.same(&["ls", "link", "broken"]);
    t.same(&["ls", "no file", "it's"]);
    t.same(&["ls", "-z"]);
    t.same(&["ls", "--foo"]);
    for words in [&["link"][..], &["hello"], &["broken"], &["nofile"], &["-n", "link"], &[]] {
        t.same(&[&["readlink"][..], words].concat());
    }
    t.same(&["readlink", "-v", "hello"]);
}

#[test]
fn readlink_canonical() {
    let t = tree("canonical");
    let root = t.host.to_str().unwrap().to_owned();
    for mode in ["-f", "-e", "-m"] {
        for path in [
            "link",
            "dir/../link",
            "./dir//deep/.",
            "nofile",
            "no/no",
            "broken",
            "loop",
            "hello/x",
            "dir/",
        ] {
            let host = Command::new("readlink").args([mode, path]).current_dir(&t.host).output();
            let host = host.expect("readlink is needed for this test");
            let shown = String::from_utf8(host.stdout).unwrap().replace(&root, "");
            let guest = t.guest.run(&["readlink", mode, path]);
            assert_eq!(guest.text(), shown, "{mode} {path}");
            assert_eq!(i32::from(guest.status), host.status.code().unwrap(), "{mode} {path}");
        }
    }
}

#[test]
fn stat_formats() {
    let t = tree("stat");
    for name in ["hello", "empty", "binary", "link", "big"] {
        t.same(&["stat", "-c", "%n|%s|%F|%a|%A|%u|%g|%h|%f|%B|%U|%G|%t|%T|%#a|%#f|%%|%", name]);
        t.same(&["stat", "-c", "%5s|%-9s|%07s|%12n|%-12F|%.3s", name]);
        t.same(&["stat", "--printf", "%n\\t%s\\n\\x41\\102\\\\", name]);
        t.same(&["stat", "--format=%n %s", name]);
    }
    t.same(&["stat", "-L", "-c", "%n %s %F", "link"]);
    t.same(&["stat", "-c", "%N", "hello"]);
    t.same(&["stat", "-c", "%n", "nofile", "hello"]);
    t.same(&["stat"]);
    t.same(&["stat", "-q"]);
    // Times are the image's: their shapes must agree with each other.
    let seconds = t.guest.run(&["stat", "-c", "%X %Y %Z", "hello"]).text();
    let times = t.guest.run(&["stat", "-c", "%x|%y|%z", "hello"]).text();
    for (seconds, time) in seconds.split_whitespace().zip(times.trim().split('|')) {
        let shown = tool("date", &["-u", "+%Y-%m-%d %H:%M:%S", "-d", &format!("@{seconds}")]);
        assert!(time.starts_with(String::from_utf8(shown).unwrap().trim()), "{time}");
        assert!(time.ends_with(" +0000"), "{time}");
    }
    let whole = t.guest.run(&["stat", "hello"]).text();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[0], "  File: hello");
    assert_eq!(lines[1], "  Size: 61        \tBlocks: 8          IO Block: 4096   regular file");
    assert!(lines[3].starts_with("Access: (0600/-rw-------)  Uid: (    0/    root)   Gid: "));
}

#[test]
fn long_listings() {
    let t = tree("long");
    // Dates, inode numbers and blocks of directories differ; all other columns must not.
    let columns = |text: &str| -> Vec<String> {
        let keep = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [mode, nlink, _, _, size, _, _, _, rest @ ..] => {
                    let size = if mode.starts_with('-') { size } else { "-" };
                    let nlink = if mode.starts_with('d') { "-" } else { nlink };
                    format!("{mode} {nlink} {size} {}", rest.join(" "))
                }
                other => other.join(" "),
            }
        };
        text.lines().filter(|l| !l.starts_with("total")).map(keep).collect()
    };
    let host = Command::new("ls").arg("-lRn").current_dir(&t.host).env("LC_ALL", "C").output();
    let host = String::from_utf8(host.unwrap().stdout).unwrap();
    let guest = t.guest.run(&["ls", "-lR"]);
    assert_eq!(columns(&guest.text()), columns(&host));
    assert_eq!(guest.status, 0);
    // Columns line up: all sizes end in the same column.
    let dates = tool("date", &["-u", "+%b %e %H:"]);
    let month = &String::from_utf8(dates).unwrap()[..3];
    let top = guest.text();
    let ends: Vec<usize> = top
        .lines()
        .skip(2)
        .take_while(|l| !l.is_empty())
        .map(|l| l.find(&format!(" {month} ")).unwrap_or_else(|| panic!("{l}")))
        .collect();
    assert!(ends.windows(2).all(|w| w[0] == w[1]), "{top}");
}

#[test]
fn hashes_of_a_tree() {
    let t = tree("hashes");
    let mut want: Vec<(String, String)> = files()
        .iter()
        .map(|(name, ..)| {
            let line = tool("sha256sum", &[t.host.join(name).to_str().unwrap()]);
            let hash = String::from_utf8(line).unwrap()[..64].to_owned();
            (format!("/{name}"), hash)
        })
        .collect();
    want.sort();
    let want: String = want.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect();
    let ran = t.guest.run(&["sha256sum", "-r", "/"]);
    assert_eq!(ran.text(), want);
    assert_eq!((ran.status, ran.errors()), (0, String::new()));
    let part: String =
        want.lines().filter(|l| l.contains("  /dir/")).fold(String::new(), |s, l| s + l + "\n");
    assert_eq!(t.guest.run(&["sha256sum", "-r", "dir"]).text(), part);
    assert_eq!(t.guest.run(&["sha256sum", "-r", "nodir"]).status, 1);
}

#[test]
fn echo_and_friends() {
    let t = tree("echo");
    for words in [
        &["a", "b  c"][..],
        &["-n", "a"],
        &["-e", r"a\tb\n\x41\0101\\"],
        &["-e", r"x\cy", "z"],
        &["-ne", r"a\101\q\e"],
        &["-x", "-n"],
        &["-E", r"a\tb"],
        &[],
    ] {
        // The shell's builtin has manners of its own: this is the program.
        t.same(&[&["echo"][..], words].concat());
    }
    t.same(&["true"]);
    t.same(&["false"]);
    t.same(&["sleep", "0.01"]);
    t.same(&["sleep"]);
    let none = t.guest.run(&["nosuch"]);
    assert_eq!((none.status, none.out.len()), (127, 0));
    assert!(none.errors().contains("nosuch"));
}

#[test]
fn attributes_print_as_getfattr_does() {
    let dir = scratch("attributes");
    let contents = dir.join("contents");
    fs::write(&contents, b"x").unwrap();
    let line = format!(
        "boot\n0 0\nd--755 0 0\nf ---644 0 0 {}\ng ---644 0 0 {0}\n$\n",
        contents.display()
    );
    let image = image(&dir, 96 << 20, &line, &[]);
    let path = image.to_str().unwrap();
    // The debugger fills values with the letter v.
    for (space, name, len) in [("-u", "zeta", "3"), ("-u", "alpha", "2"), ("-r", "t", "1")] {
        let command = format!("attr_set -v {len} {space} {name}");
        tool("xfs_db", &["-x", "-c", "path /f", "-c", &command, path]);
    }
    let guest = Guest::mount(&image, None, true);
    let ran = guest.run(&["getfattr", "-d", "-m", "-", "-e", "hex", "/f", "g", "nofile"]);
    let want = "# file: f\ntrusted.t=0x76\nuser.alpha=0x7676\nuser.zeta=0x767676\n\n";
    assert_eq!(ran.text(), want);
    assert_eq!(ran.status, 1);
    assert_eq!(
        ran.errors(),
        "getfattr: Removing leading '/' from absolute path names\n\
         getfattr: nofile: No such file or directory\n"
    );
    let ran = guest.run(&["getfattr", "-d", "--absolute-names", "/f"]);
    assert_eq!(ran.text(), "# file: /f\nuser.alpha=\"vv\"\nuser.zeta=\"vvv\"\n\n");
}

#[test]
fn status_commands_answer() {
    let t = tree("status");
    for (command, word) in [
        ("ps", "writeback"),
        ("free", "Mem:"),
        ("uptime", "mounted"),
        ("dmesg", "mounted vda"),
        ("mount", "/dev/vda on / type xfs (ro)"),
        ("df", "/dev/vda"),
        ("help", "xfs_io"),
        ("pwd", "/"),
    ] {
        let ran = t.guest.run(&[command]);
        assert_eq!((ran.status, ran.errors()), (0, String::new()), "{command}");
        assert!(ran.text().contains(word), "{command}: {}", ran.text());
    }
    assert_eq!(t.guest.run(&["drop_caches"]).status, 0);
    assert_eq!(t.guest.run(&["sync"]).status, 0);
}
