//! `df`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::context::{Context, Status};
use crate::{options, text};

/// `df [-h] [FILE]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "hk", &[("human-readable", b'h')]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let human = parsed.has(b'h');
    let mounts = cx.system.mounts();
    let mut paths: Vec<Vec<u8>> = parsed.operands.iter().map(|p| p.to_vec()).collect();
    if paths.is_empty() {
        paths = mounts.iter().map(|m| m.target.clone().into_bytes()).collect();
    }
    let heads = match human {
        true => ["Filesystem", "Size", "Used", "Avail", "Use%", "Mounted on"],
        false => ["Filesystem", "1K-blocks", "Used", "Available", "Use%", "Mounted on"],
    };
    let mut rows: Vec<[String; 6]> = alloc::vec![heads.map(String::from)];
    let mut status = 0;
    for path in &paths {
        let info = match cx.process.statfs(path) {
            Ok(info) => info,
            Err(e) => {
                cx.failed(path, &e);
                status = 1;
                continue;
            }
        };
        // The longest mount point that the path lies below.
        let whole = super::absolute(&cx.process, path);
        let mount = mounts
            .iter()
            .filter(|m| whole.starts_with(m.target.as_bytes()))
            .max_by_key(|m| m.target.len());
        let size = |blocks: u64| {
            let bytes = blocks.saturating_mul(info.block_bytes.into());
            if human { text::human(bytes, "") } else { bytes.div_ceil(1024).to_string() }
        };
        let used = info.blocks.saturating_sub(info.blocks_free);
        rows.push([
            mount.map_or_else(|| "-".to_string(), |m| m.source.clone()),
            size(info.blocks),
            size(used),
            size(info.blocks_available),
            percent(used, info.blocks_available),
            mount.map_or_else(|| "-".to_string(), |m| m.target.clone()),
        ]);
    }
    if rows.len() > 1 {
        print(cx, &rows);
    }
    status
}

/// Used space of what ordinary users can have, rounded up.
fn percent(used: u64, available: u64) -> String {
    let whole = u128::from(used) + u128::from(available);
    if whole == 0 {
        return "-".to_string();
    }
    alloc::format!("{}%", (u128::from(used) * 100).div_ceil(whole))
}

fn print(cx: &mut Context, rows: &[[String; 6]]) {
    // GNU's columns are never narrower than these.
    let least = [14, 5, 5, 5, 4, 0];
    let width: Vec<usize> =
        (0..6).map(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0).max(least[c])).collect();
    for row in rows {
        let mut line = alloc::format!("{:<1$}", row[0], width[0]);
        for c in 1..5 {
            line.push(' ');
            line.push_str(&text::right(&row[c], width[c]));
        }
        line.push(' ');
        line.push_str(&row[5]);
        line.push('\n');
        cx.bytes(line.as_bytes());
    }
}
