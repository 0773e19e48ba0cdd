//! The table of commands.

use alloc::vec::Vec;

use crate::context::{Context, Status};
use crate::{bench, change, files, fsck, mainjob, out, race, status, text, xfs_io};

/// The status of a command there is not.
pub const NO_SUCH_COMMAND: Status = 127;

type Main = fn(&mut Context, &[&[u8]]) -> Status;

struct Command {
    name: &'static str,
    main: Main,
    usage: &'static str,
    help: &'static str,
}

const fn command(
    name: &'static str,
    main: Main,
    usage: &'static str,
    help: &'static str,
) -> Command {
    Command { name, main, usage, help }
}

static COMMANDS: &[Command] = &[
    command(
        "bench",
        bench::main,
        "[raw|insn|insn_change|journal|scaling] [--size MB] [CASE…]",
        "measure",
    ),
    command("cat", files::cat::main, "[FILE|-]…", "copy files to standard output"),
    command("cd", files::simple::cd, "[DIR]", "change the working directory"),
    command(
        "chattr",
        change::chattr::chattr,
        "[-R] [-p PROJECT] [+-=][aAdiPSx]… FILE…",
        "change flags of files",
    ),
    command(
        "chgrp",
        change::attributes::chgrp,
        "[-Rfh] GID|--reference=FILE FILE…",
        "change groups",
    ),
    command(
        "chmod",
        change::attributes::chmod,
        "[-Rcfv] MODE|--reference=FILE FILE…",
        "change permissions",
    ),
    command(
        "chown",
        change::attributes::chown,
        "[-Rfh] UID[:GID]|--reference=FILE FILE…",
        "change owners",
    ),
    command("cksum", files::cksum::main, "[FILE]…", "CRC and size of files"),
    command(
        "cmp",
        change::cmp::cmp,
        "[-ls] [-n LIMIT] [-i SKIP] FILE1 [FILE2]",
        "compare two files",
    ),
    command(
        "cp",
        change::copy::main,
        "[-adflLnpPrsTuv] [--reflink[=WHEN]] [--preserve[=LIST]] [-t DIR] SOURCE… DEST|DIR",
        "copy files",
    ),
    command(
        "dd",
        change::dd::main,
        "[if=F] [of=F] [bs=N] [count=N] [skip=N] [seek=N] [conv=…] [iflag=…] [oflag=…]",
        "copy blocks",
    ),
    command("df", files::df::main, "[-h] [FILE]…", "space of the file system"),
    command("dmesg", status::dmesg, "", "the kernel log"),
    command("drop_caches", status::drop_caches, "", "forget clean cached data and metadata"),
    command("echo", files::simple::echo, "[-n] [-e] [WORD]…", "print words"),
    command("false", files::simple::no, "", "do nothing, unsuccessfully"),
    command("free", status::free, "[-b|-k|-m|-h]", "where memory is"),
    command("fsck", fsck::main, "[DEVICE]", "check a file system that is not written to"),
    command(
        "getfattr",
        files::getfattr::main,
        "[-dh] [-m PATTERN] [-n NAME] [-e hex|text|base64] [--absolute-names] FILE…",
        "extended attributes",
    ),
    command("help", help, "[COMMAND]", "this list"),
    command(
        "hexdump",
        files::hexdump::main,
        "[-C] [-v] [-n LENGTH] [-s OFFSET] [FILE]…",
        "bytes in hexadecimal",
    ),
    command("ln", change::link::main, "[-fnsTv] [-t DIR] TARGET… LINK|DIR", "make links"),
    command("ls", files::ls::main, "[-1AadilnRr] [FILE]…", "list directories"),
    command("lsattr", change::chattr::lsattr, "[-adp] [FILE]…", "list flags of files"),
    command(
        "mainjob",
        mainjob::main,
        "[--seed N] [DIR]",
        "overwrite files under memory pressure, verify, report",
    ),
    command("mkdir", change::make::mkdir, "[-pv] [-m MODE] DIR…", "make directories"),
    command("mount", status::mount, "", "mounted file systems and their features"),
    command(
        "mv",
        change::moves::main,
        "[-fnTuv] [--exchange] [-t DIR] SOURCE… DEST|DIR",
        "move names",
    ),
    command("ps", status::ps, "", "threads"),
    command("pwd", files::simple::pwd, "", "the working directory"),
    command("race", race::main, "V2|V3|A [--off GUARD]", "one race, step by step (lab builds)"),
    command("readlink", files::readlink::main, "[-efmnz] FILE…", "the target of a symbolic link"),
    command("rm", change::remove::main, "[-dfrv] FILE…", "remove files"),
    command("rmdir", change::make::rmdir, "[-pv] DIR…", "remove empty directories"),
    command(
        "setfattr",
        change::setfattr::main,
        "[-h] -n NAME [-v VALUE] FILE…, [-h] -x NAME FILE…",
        "set or remove an extended attribute",
    ),
    command("sha256sum", files::sha256sum::main, "[-r DIR] [FILE]…", "SHA-256 digests"),
    command(
        "shutdown-fs",
        change::shutdown::main,
        "[-f] [PATH]",
        "stop the file system as if the power went; -f: after forcing the log",
    ),
    command("sleep", files::simple::sleep, "SECONDS…", "wait"),
    command(
        "stat",
        files::stat::main,
        "[-L] [-c FORMAT|--printf FORMAT] FILE…",
        "what the file system knows of a file",
    ),
    command("sync", status::sync, "", "write what is dirty"),
    command(
        "touch",
        change::attributes::touch,
        "[-achm] [-d DATE|@SECONDS] [-t STAMP] [-r FILE] FILE…",
        "set times, make files",
    ),
    command("true", files::simple::yes, "", "do nothing, successfully"),
    command("unlink", change::remove::unlink, "FILE", "remove one name"),
    command("uptime", status::uptime, "", "time since the start, and where it went at boot"),
    command(
        "xfs_io",
        xfs_io::main,
        "[-adfrsx] [-c CMD]… [FILE]…",
        "exercise files: see 'xfs_io -c help'",
    ),
];

/// The names of all commands, sorted.
pub fn command_names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|c| c.name)
}

/// Run one command; its status. All output has been sent when this returns.
pub fn run(cx: &mut Context, argv: &[Vec<u8>]) -> Status {
    let words: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
    let Some(&name) = words.first() else { return 0 };
    let Some(command) = COMMANDS.iter().find(|c| c.name.as_bytes() == name) else {
        let quoted = text::quote_if_odd(name);
        cx.diagnostic(format_args!("{quoted}: no such command (try 'help')"));
        return NO_SUCH_COMMAND;
    };
    let outer = cx.set_name(name);
    let mut status = (command.main)(cx, &words);
    if let Some(e) = cx.take_write_error() {
        cx.error(format_args!("write error: {}", e.text()));
        status = status.max(1);
    }
    cx.restore_name(outer);
    status
}

fn help(cx: &mut Context, argv: &[&[u8]]) -> Status {
    if argv.len() < 2 {
        for c in COMMANDS {
            out!(cx, "{:12} {}\n", c.name, c.help);
        }
        return 0;
    }
    let mut status = 0;
    for name in &argv[1..] {
        match COMMANDS.iter().find(|c| c.name.as_bytes() == *name) {
            Some(c) => out!(cx, "{} {}\n    {}\n", c.name, c.usage, c.help),
            None => {
                let quoted = text::quote(name);
                cx.error(format_args!("no command {quoted}"));
                status = 1;
            }
        }
    }
    status
}
