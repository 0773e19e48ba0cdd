//! `fsck`: is the file system on a device as it has to be?

use alloc::string::String;

use holdfast_fs::xfs::MountError;
use holdfast_fs::xfs::check::{Report, check};

use crate::context::{Context, Status};
use crate::{out, text};

/// There are errors.
const STATUS_ERRORS: Status = 4;
/// It could not be checked.
const STATUS_NOT_CHECKED: Status = 8;

/// `fsck [DEVICE]`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let root = cx.system.root_device().into_bytes();
    let path = match argv {
        [_] => &root[..],
        [_, device] => device,
        _ => return cx.usage(format_args!("one device at most"), STATUS_NOT_CHECKED),
    };
    let quoted = text::quote_if_odd(path);
    let name = path.strip_prefix(b"/dev/").unwrap_or(path);
    let device = cx.process.namespace().device(name);
    let Some(node) = device.as_ref().and_then(|d| d.block()) else {
        cx.error(format_args!("{quoted}: no such block device"));
        return STATUS_NOT_CHECKED;
    };
    let writable = |m: &crate::MountInfo| m.options.split(',').any(|word| word == "rw");
    let mounts = cx.system.mounts();
    if mounts.iter().any(|m| m.source.as_bytes() == path && writable(m)) {
        cx.error(format_args!("{quoted}: it is mounted for writing (start with --readonly)"));
        return STATUS_NOT_CHECKED;
    }
    match check(node.queue(), node.memory()) {
        Ok(report) => show(cx, &quoted, &report),
        Err(MountError::Corrupt(c)) => {
            out!(
                cx,
                "{}: {}: {}\n{quoted}: nothing can be found\n",
                c.structure,
                c.location,
                c.reason
            );
            STATUS_ERRORS
        }
        Err(e) => {
            cx.error(format_args!("{quoted}: {e}"));
            STATUS_NOT_CHECKED
        }
    }
}

fn show(cx: &mut Context, name: &str, report: &Report) -> Status {
    for finding in &report.findings {
        out!(cx, "{finding}\n");
    }
    let verdict: String = match report.found {
        0 => "clean".into(),
        1 => "1 error".into(),
        n => alloc::format!("{n} errors"),
    };
    let untold = report.found - report.findings.len() as u64;
    if untold > 0 {
        out!(cx, "… and {untold} more\n");
    }
    out!(
        cx,
        "{name}: {verdict}; {} inodes, {} of them directories; {} blocks, {} free, {} shared\n",
        report.inodes,
        report.directories,
        report.blocks,
        report.blocks_free,
        report.blocks_shared
    );
    if report.is_clean() { 0 } else { STATUS_ERRORS }
}
