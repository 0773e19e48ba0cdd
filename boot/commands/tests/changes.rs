//! Commands that change files against the host's own tools: the same lines on an empty
//! directory of the host and on an empty image leave the same, and say the same.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use holdfast_fs::vfs::OpenFlags;
use support::{Guest, image, in_the_guests_words, on_host, scratch, tool};

const NEW: OpenFlags = OpenFlags::WRONLY.union(OpenFlags::CREAT);

struct Both {
    host: PathBuf,
    image: PathBuf,
    guest: Guest,
}

/// An empty directory of the host and an empty image.
fn both(name: &str) -> Both {
    let dir = scratch(name);
    let host = dir.join("host");
    fs::create_dir_all(&host).unwrap();
    let image = image(&dir, 96 << 20, "boot\n0 0\nd--755 0 0\n$\n", &[]);
    let guest = Guest::mount(&image, None, false);
    guest.process.umask(0o022);
    Both { host, image, guest }
}

impl Both {
    /// Run lines on both sides; words are split at blanks.
    fn same(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut command = Command::new("sh");
            command.args(["-c", "umask 022; exec \"$@\"", "sh"]).args(&words);
            let host = on_host(&mut command, &self.host);
            let guest = self.guest.run(&words);
            assert_eq!(guest.errors(), in_the_guests_words(&host.stderr, words[0]), "{line}");
            // Bytes are called characters where they are the same.
            let shown =
                String::from_utf8_lossy(&host.stdout).replace(" differ: char ", " differ: byte ");
            assert_eq!(guest.text(), shown, "{line}");
            assert_eq!(i32::from(guest.status), host.status.code().unwrap(), "{line}");
        }
        // Whatever was said, what is there now is the same.
        let mut listing = Command::new("ls");
        listing.arg("-R").current_dir(&self.host).env("LC_ALL", "C");
        let listing = listing.output().unwrap().stdout;
        assert_eq!(self.guest.run(&["ls", "-R"]).text(), String::from_utf8_lossy(&listing));
    }
    /// Unmount; xfs_repair has nothing to say.
    fn finish(self) {
        self.guest.unmount();
        tool("xfs_repair", &["-n", self.image.to_str().unwrap()]);
    }
}

#[test]
fn names_come_and_go() {
    let b = both("names_come_and_go");
    b.same(
        "mkdir a b a/sub\nmkdir a\nmkdir -pv p/q/r\nmkdir nodir/x\nmkdir\nmkdir -z
         mkdir -m u=rwx,go= m1\nmkdir -m 2755 m2\nmkdir -pm 700 m3/m4\nstat -c %a m1 m2 m3 m3/m4
         touch f g -- -dash\nrm -- -dash\nrm a\nrm nofile\nrm -f nofile\nrm -r .
         rm -r ..\nrm -r a/.\nrm -d m1\nrm -rfv p\nrm\nrm -f\nrm f/\nrm f/x\nrm -f f/x
         rm --recursive --force m3\nrm --recu m2\nrmdir a\nrmdir nodir\nrmdir f\nmkdir -p a/x/y
         rmdir -p a/x/y\nrmdir --ignore-fail-on-non-empty a\nmkdir -p r/s/t\nrmdir -pv r/s/t
         unlink\nunlink f g\nunlink nofile\nunlink f",
    );
    // The root is not removed, whatever it is called.
    for path in ["/", "//", "/b/..", "/b/../."] {
        assert_eq!(b.guest.run(&["rm", "-rf", path]).status, 1, "{path}");
    }
    b.same("rmdir b");
    b.finish();
}

#[test]
fn copies() {
    let b = both("copies");
    b.same(
        "dd if=/dev/zero of=z bs=1k count=3 status=none\ntouch f g\nmkdir d1 d2
         cp z y\ncp z z\ncp z ./z\ncp -f z z\ncp z d1\ncp z y d1/\ncp z y nodir\ncp z y f
         cp z nodir/\ncp nodir d1\ncp d1 d2\ncp -r d1 d2\ncp -r d1 d1/in\ncp -r d1 d1\nls -R d1
         cp -r d1/. d2\ncp -a d1 d3\ncp -rT d1 d6\ncp -t d1 f g\ncp --target-directory d1 f
         cp -v z f\ncp -n y g\nstat -c %s g\ncp z\ncp\ncp -r d1 f\ncp f d1/f\ncp z d1/in/z g d3
         ln -s nowhere dang\ncp dang x1\ncp -P dang x2\ncp -d dang x3\ncp -L dang x4\ncp -r dang x5
         cp -a dang x6\nreadlink x2 x3 x5 x6\ncp z dang\nln -s z lz\ncp z lz\ncp lz c1
         stat -c %F c1\ncp -s z sl\ncp -l z hl\nreadlink sl\nstat -c %h hl\ncp -RL lz c2
         stat -c %F c2\ncp f/ q1\ncp z f/\ncp /dev/null empty\nstat -c %s-%F empty
         mkdir t\ntouch t/one\nln t/one t/two\ncp -a t u\nstat -c %h u/one\ncp -r t w
         stat -c %h w/one\ntouch -d @5 old\ntouch -d @9 new\ncp -p old o2\nstat -c %Y o2
         cp -u old new\nstat -c %Y new\nchmod 500 d2\ncp -r d2 d7\nstat -c %a d2 d7\nchmod 4711 z
         cp z z1\ncp -p z z2\nstat -c %a z1 z2",
    );
    b.finish();
}

#[test]
fn moves_and_links() {
    let b = both("moves_and_links");
    b.same(
        "touch f g y\nmkdir d1 d2 d1/sub\nmv f f\nmv f ./f\nmv d1 d1\nmv d1 d1/in\nmv d1 d1/sub/in
         mv nofile x\nmv f d1\nmv -n y g\nmv -v y yy\nmv a1 a2 a3\nmv yy nodir/\nmv yy nodir/x
         mv d2 yy\nmv yy/ y3\nmv -t d1 yy\nmv d2 d9\nmv d9/ d2/\nmv\nmv x\nmkdir e1\ntouch e1/file
         mkdir file\nmv e1/file .\nmkdir w v\ntouch w/same v/same\nmv w/same v/same e1\nmv w g
         ln g hard\nln g hard\nln -f g hard\nmv g hard\nln hard g\nln -f g g\nln -s a b c nodir
         ln -s x hard\nln -sf x hard\nreadlink hard\nln -sfv y hard\nln w w2\nln nofile n2\nln -s
         ln\nln -s /a/b/onlyname\nreadlink onlyname\nln -s e1 ld\nln -sf f ld\nln -sfn f ld
         readlink ld\nln -snf g ld\nln -sT a e1\nln -v g hv\nln -sv g sv\nln hv hv\nln -f hv hv
         ln -sf hv hv\nstat -c %F-%h hv",
    );
    b.finish();
}

#[test]
fn attributes_and_times() {
    let b = both("attributes_and_times");
    b.same(
        "touch -c nothere\ntouch\ntouch nodir/f\ntouch f\ntouch f/x\ntouch -d @100.5 f
         stat -c %X-%.3Y f\ntouch -r f g\nstat -c %X-%Y g\ntouch -d 2020-01-02T03:04:05Z f
         stat -c %Y f\ntouch -d 2020-01-02 f\nstat -c %Y f\ntouch -t 202001020304.05 f
         stat -c %Y f\ntouch -t 9901020304 f\nstat -c %Y f\ntouch -d bogus f\ntouch -t 13 f
         touch -m -d @5 f\ntouch -ad @6 f\nstat -c %X-%Y f\ntouch --date=@7 f\ntouch --date @8 f
         stat -c %X-%Y f\nchmod 4755 f\nchmod u+x,g-w f\nstat -c %a f\nchmod a=rwx f\nchmod g+s f
         chmod u-s,+t f\nstat -c %a-%A f\nchmod u=g f\nstat -c %a f\nchmod a-rwx f -v
         chmod -v 644 f\nchmod -c 644 f\nchmod -c 600 f\nchmod -f 644 nofile\nchmod 644 nofile
         chmod 888 f\nchmod u+z f\nchmod 644\nchmod\nchmod --reference=f g\nstat -c %a g
         mkdir d\ntouch d/g\nchmod -R u=rwX,go=rX d\nstat -c %a d d/g\nchmod 2755 d\nchmod 755 d
         stat -c %a d\nchmod 00755 d\nstat -c %a d\nchmod u+rwx,go= d -R\nchown 5 f\nchown 5:6 f
         stat -c %u:%g f\nchown :7 f\nchgrp 8 f\nstat -c %u:%g f\nchown root:root f
         chown bogus f\nchown 8: f\nstat -c %u:%g f\nln -s nowhere dang\nchown -h 3:4 dang
         stat -c %u:%g dang\nchown 5 dang\nchown 5 nofile\nchown -R 9:9 d\nstat -c %u:%g d d/g
         chown --reference=d f\nstat -c %u:%g f\nchown\nchown 5",
    );
    b.finish();
}

#[test]
fn blocks() {
    let b = both("blocks");
    b.same(
        "dd if=/dev/zero of=z bs=1k count=4 status=none\nmkdir d
         dd if=z of=y bs=1k count=1 seek=2 conv=notrunc,fsync status=none\nstat -c %s y
         dd if=z of=y bs=1k count=1 seek=1 status=none\nstat -c %s y
         dd if=z of=y bs=1k skip=3 status=none\nstat -c %s y
         dd if=z of=w bs=512 count=3B status=none\nstat -c %s w
         dd if=z of=w bs=512 count=700 iflag=count_bytes status=none\nstat -c %s w
         dd if=z of=w bs=512 seek=100 oflag=seek_bytes conv=notrunc status=none\nstat -c %s w
         dd if=z of=w bs=512 skip=100 iflag=skip_bytes status=none\nstat -c %s w
         dd if=z of=w bs=1k oflag=append conv=notrunc status=none\nstat -c %s w
         dd if=nofile of=w status=none\ndd if=z of=nodir/w status=none\ndd if=z of=d
         dd bs=0\ndd foo=bar\ndd bs=x\ndd conv=bogus\ndd iflag=bogus\ndd if=z of=w status=bogus
         dd if=z of=w conv=excl status=none\ndd if=z of=w2 conv=nocreat status=none
         dd if=z of=w3 conv=sparse bs=1k status=none\nstat -c %s-%b w3
         dd if=z of=w4 conv=sync bs=3k status=none\nstat -c %s w4
         dd if=z of=w7 bs=1kx2 count=1 status=none\nstat -c %s w7
         dd if=z of=w8 bs=1 count=0 seek=1M status=none\nstat -c %s w8
         cmp z z\ncmp z y\ncmp z w4\ncmp z nofile\ncmp -s z nofile\ncmp z d\ncmp -n 100 z w7
         cmp -n10 z y\ncmp --bytes=10 z y\ncmp -s z y\ncmp -i 10 z y\ncmp -i 10:0 z y
         cmp z y 1 2\ncmp z z 0 1\ncmp -l z y\ntouch e\ncmp z e",
    );
    // What differs, and where the lines are.
    for (name, contents) in [("l1", "one\ntwo\n"), ("l2", "one\ntwo\nthree"), ("l3", "one\nto\n")] {
        fs::write(b.host.join(name), contents).unwrap();
        let fd = b.guest.process.open(name.as_bytes(), NEW, 0o644).unwrap();
        b.guest.process.write(fd, contents.as_bytes()).unwrap();
        b.guest.process.close(fd).unwrap();
    }
    b.same("cmp l1 l2\ncmp l2 l1\ncmp l1 l3\ncmp -l l1 l3\ncmp l1 l3 5 4\ncmp l2 l2 0 9");
    b.finish();
}

/// What there is to know of a file.
fn facts(g: &Guest, path: &str) -> Vec<String> {
    let stat = g.run(&["stat", "-c", "%a %u:%g %s %F %h %.9Y %.9X", path]);
    let attributes = g.run(&["getfattr", "-d", "-h", "-m", "-", "-e", "hex", path]).text();
    let attributes = attributes.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(stat.status, 0, "{path}: {}", stat.errors());
    vec![stat.text(), attributes]
}

#[test]
fn moves_into_another_project_copy_everything() {
    const ACL: &str = "0x0200000001000700ffffffff020005000700000004000500ffffffff\
                       10000700ffffffff20000100ffffffff";
    for (name, options) in [("project", &[][..]), ("project_copied", &["-m", "reflink=0"])] {
        let dir = scratch(name);
        let image = image(&dir, 96 << 20, "boot\n0 0\nd--755 0 0\n$\n", options);
        let g = Guest::mount(&image, None, false);
        let ran = g.script(&format!(
            "mkdir /p /q /q/d /q/d/sub
             chattr -p 7 +P /p
             xfs_io -f -c 'pwrite -S 7 1m 5000' -c 'truncate 30m' /q/d/f
             ln /q/d/f /q/d/hard
             ln -s nowhere /q/d/link
             touch /q/d/sub/inner
             setfattr -n user.a -v hello /q/d/f
             setfattr -n user.dir -v d /q/d/sub
             setfattr -n system.posix_acl_access -v {ACL} /q/d/sub
             chown 5:6 /q/d/f
             chmod 4751 /q/d/f
             chown -h 8:9 /q/d/link
             touch -d @981173106.789 /q/d/f
             touch -d @981173107.5 /q/d/sub
             touch -hd @981173108 /q/d/link
             touch -d @981173109 /q/d"
        ));
        assert_eq!((ran.status, ran.errors()), (0, String::new()));
        let hash = g.run(&["sha256sum", "/q/d/f"]).text()[..64].to_owned();
        let of = |root: &str| {
            ["", "/f", "/hard", "/link", "/sub", "/sub/inner"]
                .map(|path| facts(&g, &format!("{root}{path}")))
        };
        let before = of("/q/d");
        let ran = g.run(&["mv", "-v", "/q/d", "/p"]);
        assert_eq!((ran.status, ran.errors()), (0, String::new()));
        assert!(ran.text().starts_with("copied '/q/d' -> '/p/d'\n"), "{}", ran.text());
        assert!(ran.text().ends_with("removed directory '/q/d'\n"), "{}", ran.text());
        assert_eq!(of("/p/d"), before);
        assert_eq!(g.run(&["ls", "-A", "/q"]).text(), "");
        assert_eq!(g.run(&["readlink", "/p/d/link"]).text(), "nowhere\n");
        assert!(g.run(&["sha256sum", "/p/d/f"]).text().starts_with(&hash));
        // Holes stay holes, one file stays one, and all belongs to the project.
        let blocks = g.run(&["stat", "-c", "%b", "/p/d/f"]).text();
        assert!(blocks.trim().parse::<u64>().unwrap() < 64, "{blocks}");
        let inos = g.run(&["stat", "-c", "%i", "/p/d/f", "/p/d/hard"]).text();
        assert!(inos.lines().all(|ino| Some(ino) == inos.lines().next()), "{inos}");
        let flags = g.run(&["lsattr", "-dp", "/p/d", "/p/d/f", "/p/d/sub/inner"]).text();
        assert!(flags.lines().all(|line| line.trim_start().starts_with("7 ")), "{flags}");
        // What is there goes as with any other move; a full directory stays.
        let ran = g.script("touch /q/one /p/one\nmv /q/one /p\nmkdir /q/e /p/e\nmv /q/e /p");
        assert_eq!((ran.status, ran.errors()), (0, String::new()));
        assert_eq!(g.run(&["lsattr", "-dp", "/p/one"]).text().split_whitespace().next(), Some("7"));
        g.script("mkdir /p/full /p/full/x /q/full");
        let ran = g.run(&["mv", "/q/full", "/p"]);
        assert_eq!(ran.status, 1);
        assert!(ran.errors().contains("unable to remove target: "), "{}", ran.errors());
        assert_eq!(g.run(&["ls", "/q"]).text(), "full\n");
        g.unmount();
        tool("xfs_repair", &["-n", image.to_str().unwrap()]);
    }
}

#[test]
fn names_of_any_bytes() {
    let b = both("names_of_any_bytes");
    let names: [&[u8]; 4] = [b"a b", b"new\nline", b"\xff\xfe", b"'quoted' \"twice\""];
    for name in names {
        let run = |words: &[&[u8]]| {
            let argv: Vec<Vec<u8>> = words.iter().map(|w| w.to_vec()).collect();
            let ran = b.guest.run_bytes(&argv);
            assert_eq!((ran.status, ran.errors()), (0, String::new()), "{words:?}");
            ran.out
        };
        run(&[b"mkdir", b"-p", b"d"]);
        run(&[b"touch", name]);
        run(&[b"cp", b"-a", name, b"d"]);
        run(&[b"mv", name, b"other"]);
        run(&[b"ln", b"-s", name, b"link"]);
        assert_eq!(run(&[b"readlink", b"-n", b"link"]), name);
        assert_eq!(
            run(&[b"stat", b"-c", b"%n", &[b"d/", name].concat()]),
            [b"d/", name, b"\n"].concat()
        );
        run(&[b"rm", b"-r", b"d", b"other", b"link"]);
    }
    b.finish();
}
