//! `fiemap` and `bmap`: where a file's blocks lie, in sectors of 512 bytes.

use alloc::string::String;
use alloc::vec::Vec;

use holdfast_fs::iomap::{Iomap, MapFlags, MapKind};
use holdfast_fs::syscall::{FiemapExtent, FiemapFlags};

use super::{Failure, Outcome, Run};
use crate::context::Context;
use crate::out;

const SECTOR: u64 = 512;

/// The original asks for this many extents at once and lays its columns out anew each time.
const BATCH: usize = 32;

/// One line of `fiemap`: a hole has no place and no flags.
struct Line {
    start: u64,
    end: u64,
    place: Option<(u64, FiemapFlags)>,
}

/// `fiemap [-alv] [-n nx] [offset [len]]`
pub(super) fn fiemap(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "aln:v")?;
    let most = match parsed.value(b'n') {
        Some(word) => run.quantity("argument", word)? as usize,
        None => usize::MAX,
    };
    let (mut start, mut len) = (0, None);
    match parsed.operands[..] {
        [] => {}
        [offset] => start = run.quantity("offset argument", offset)?,
        [offset, length] => {
            start = run.quantity("offset argument", offset)?;
            len = Some(run.quantity("len argument", length)?);
        }
        _ => return Err(Failure::Usage),
    }
    title(run.cx, &run.file().path.clone());
    if parsed.has(b'a') {
        return unsupported(run, &holdfast_fs::Error::NotSupported("no map of attributes"));
    }
    let (fd, block) = (run.fd(), u64::from(run.file().block_bytes));
    let mut extents = Vec::new();
    let range = len.unwrap_or(i64::MAX as u64 - start);
    let found = run.cx.process.fiemap(fd, start, range, true, &mut |extent| {
        extents.push(extent);
        true
    });
    if let Err(e) = found {
        return unsupported(run, &e);
    }
    let size = run.cx.process.fstat(fd).map_err(|e| Failure::Call("fstat", e))?.size;
    let from = start / block * block;
    let to = start.saturating_add(range).checked_next_multiple_of(block).unwrap_or(u64::MAX);
    let end = size.min(start.saturating_add(range));
    let mut lines = lines(&extents, from, to, end);
    lines.truncate(most);
    match parsed.has(b'v') {
        true => verbose(run.cx, &lines),
        false => plain(run.cx, &lines, parsed.has(b'l')),
    }
    Ok(())
}

fn title(cx: &mut Context, path: &[u8]) {
    cx.bytes(path);
    cx.bytes(b":\n");
}

fn unsupported(run: &mut Run<'_>, e: &holdfast_fs::Error) -> Outcome {
    let path = String::from_utf8_lossy(&run.file().path).into_owned();
    run.cx.diagnostic(format_args!("xfs_io: ioctl(FS_IOC_FIEMAP) [\"{path}\"]: {}", e.text()));
    run.status = 1;
    Ok(())
}

/// Extents clipped to whole blocks of the range, with the holes between and behind them.
fn lines(extents: &[FiemapExtent], from: u64, to: u64, end: u64) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut last = if from == 0 { 0 } else { u64::MAX };
    for e in extents {
        let (start, stop) = (e.logical.max(from), (e.logical + e.length).min(to));
        if start >= stop {
            continue;
        }
        if last < start {
            lines.push(Line { start: last, end: start, place: None });
        }
        let physical = e.physical + (start - e.logical);
        lines.push(Line { start, end: stop, place: Some((physical, e.flags)) });
        last = stop;
    }
    if !lines.is_empty() && last < end {
        lines.push(Line { start: last, end, place: None });
    }
    lines
}

impl Line {
    fn file_range(&self) -> String {
        alloc::format!("[{}..{}]:", self.start / SECTOR, self.end.div_ceil(SECTOR).max(1) - 1)
    }
    fn sectors(&self) -> u64 {
        self.end.div_ceil(SECTOR) - self.start / SECTOR
    }
    fn blocks(&self) -> Option<String> {
        let (physical, _) = self.place?;
        let first = physical / SECTOR;
        Some(alloc::format!("{first}..{}", first + self.sectors() - 1))
    }
}

fn plain(cx: &mut Context, lines: &[Line], lengths: bool) {
    for (i, line) in lines.iter().enumerate() {
        let blocks = line.blocks().unwrap_or_else(|| String::from("hole"));
        out!(cx, "\t{i}: {} {blocks}", line.file_range());
        if lengths {
            out!(cx, " {} blocks", line.sectors());
        }
        cx.bytes(b"\n");
    }
}

fn verbose(cx: &mut Context, lines: &[Line]) {
    let (mut file, mut place, mut total, mut flags) = (16, 16, 5, 5);
    let mut extents = 0;
    for (i, line) in lines.iter().enumerate() {
        if extents % BATCH == 0 && (line.place.is_some() || i == 0) {
            let batch = lines[i..].iter().filter(|l| l.place.is_some()).take(BATCH);
            for l in batch {
                file = file.max(l.file_range().len());
                place = place.max(l.blocks().map_or(0, |b| b.len()));
                total = total.max(alloc::format!("{}", l.sectors()).len());
                flags = flags.max(l.place.map_or(0, |p| alloc::format!("{:#x}", p.1.bits()).len()));
            }
        }
        if i == 0 {
            out!(cx, "{:>4} {:<file$} {:<place$} ", " EXT:", "FILE-OFFSET", "BLOCK-RANGE");
            out!(cx, "{:>total$} {:>flags$}\n", "TOTAL", "FLAGS");
        }
        extents += usize::from(line.place.is_some());
        out!(cx, "{i:>4}: {:<file$} ", line.file_range());
        match (line.blocks(), line.place) {
            (Some(blocks), Some((_, bits))) => {
                let bits = alloc::format!("{:#x}", bits.bits());
                out!(cx, "{blocks:<place$} {:>total$} {bits:>flags$}\n", line.sectors());
            }
            _ => out!(cx, "{:<place$} {:>total$}\n", "hole", line.sectors()),
        }
    }
}

/// What `bmap` knows of one extent.
struct Mapped {
    line: Line,
    unwritten: bool,
    shared: bool,
}

/// `bmap [-clpv] [-n nx]`
pub(super) fn bmap(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "aceln:pv")?;
    let most = match parsed.value(b'n') {
        Some(word) => run.quantity("argument", word)? as usize,
        None => usize::MAX,
    };
    let path = run.file().path.clone();
    if parsed.has(b'a') {
        out!(run.cx, "{}: no extents\n", String::from_utf8_lossy(&path));
        return Ok(());
    }
    let fd = run.fd();
    run.cx.process.fsync(fd).map_err(|e| Failure::Call("fsync", e))?;
    let stat = run.cx.process.fstat(fd).map_err(|e| Failure::Call("fstat", e))?;
    let block = u64::from(run.file().block_bytes);
    let mut found = if parsed.has(b'c') { copies(run, fd)? } else { extents(run, fd)? };
    // The last hole ends where the file does.
    let end = stat.size.div_ceil(block) * block;
    found.retain(|m| m.line.place.is_some() || m.line.start < end);
    if let Some(last) = found.last_mut().filter(|m| m.line.place.is_none()) {
        last.line.end = last.line.end.min(end);
    }
    if found.iter().all(|m| m.line.place.is_none()) && (stat.size == 0 || found.is_empty()) {
        out!(run.cx, "{}: no extents\n", String::from_utf8_lossy(&path));
        return Ok(());
    }
    found.truncate(most);
    title(run.cx, &path);
    if parsed.has(b'v') {
        verbose_bmap(run, &found, parsed.has(b'p'));
    } else {
        let lines: Vec<Line> = found.into_iter().map(|m| m.line).collect();
        plain(run.cx, &lines, parsed.has(b'l'));
    }
    Ok(())
}

/// All extents and holes, adjoining holes in one.
fn extents(run: &Run<'_>, fd: i32) -> Result<Vec<Mapped>, Failure> {
    let mut found: Vec<Mapped> = Vec::new();
    let result = run.cx.process.bmap(fd, &mut |map| {
        let extent = Mapped::of(map);
        let hole = extent.line.place.is_none();
        match found.last_mut().filter(|m| m.line.place.is_none() && hole) {
            Some(before) => before.line.end = extent.line.end,
            None => found.push(extent),
        }
        true
    });
    result.map_err(|e| Failure::Call("bmap", e))?;
    Ok(found)
}

impl Mapped {
    fn of(map: &Iomap) -> Self {
        let physical = map.sector(map.offset_bytes).map(|s| s.0 * SECTOR);
        let place = physical.map(|p| (p, FiemapFlags::empty()));
        Self {
            line: Line { start: map.offset_bytes, end: map.end_bytes(), place },
            unwritten: matches!(map.kind, MapKind::Unwritten { .. }),
            shared: map.flags.contains(MapFlags::SHARED),
        }
    }
}

/// What lies ready on disk for copies of shared blocks, and the holes before and between.
fn copies(run: &Run<'_>, fd: i32) -> Result<Vec<Mapped>, Failure> {
    let mut found: Vec<Mapped> = Vec::new();
    let mut end = 0;
    let result = run.cx.process.copies(fd, &mut |map| {
        let extent = Mapped::of(map);
        if extent.line.place.is_some() {
            if end < extent.line.start {
                let line = Line { start: end, end: extent.line.start, place: None };
                found.push(Mapped { line, unwritten: false, shared: false });
            }
            end = extent.line.end;
            found.push(extent);
        }
        true
    });
    result.map_err(|e| Failure::Call("bmap", e))?;
    Ok(found)
}

/// Sectors in an allocation group, as the mount says.
fn group_sectors(run: &Run<'_>) -> u64 {
    let mounts = run.cx.system.mounts();
    let features = mounts.first().map(|m| m.features.as_slice()).unwrap_or_default();
    let value = |name| features.iter().find(|f| f.0 == name).and_then(|f| f.1.parse::<u64>().ok());
    let blocks = value("agblocks").or_else(|| value("agsize")).unwrap_or(u64::MAX);
    blocks.saturating_mul(u64::from(run.file().block_bytes) / SECTOR).max(1)
}

fn verbose_bmap(run: &mut Run<'_>, found: &[Mapped], with_unwritten: bool) {
    let group = group_sectors(run);
    let with_flags = with_unwritten && found.iter().any(|m| m.unwritten);
    let rows: Vec<(u64, String)> = found
        .iter()
        .map(|m| match m.line.place {
            Some((physical, _)) => {
                let (ag, first) = (physical / SECTOR / group, physical / SECTOR % group);
                (ag, alloc::format!("({first}..{})", first + m.line.sectors() - 1))
            }
            None => (0, String::new()),
        })
        .collect();
    let placed = || found.iter().filter(|m| m.line.place.is_some());
    let file = found.iter().map(|m| m.line.file_range().len()).max().unwrap_or(0).max(16);
    let place =
        placed().filter_map(|m| m.line.blocks()).map(|b| b.len()).max().unwrap_or(0).max(16);
    let within = rows.iter().map(|r| r.1.len()).max().unwrap_or(0).max(16);
    let total = found
        .iter()
        .map(|m| alloc::format!("{}", m.line.sectors()).len())
        .max()
        .unwrap_or(0)
        .max(5);
    let ag = rows.iter().map(|r| alloc::format!("{}", r.0).len()).max().unwrap_or(0).max(2);
    out!(run.cx, "{:>4} {:<file$} {:<place$} ", " EXT:", "FILE-OFFSET", "BLOCK-RANGE");
    out!(run.cx, "{:>ag$} {:<within$} {:>total$}", "AG", "AG-OFFSET", "TOTAL");
    out!(run.cx, "{}\n", if with_flags { " FLAGS" } else { "" });
    for (i, (m, (number, offset))) in found.iter().zip(&rows).enumerate() {
        out!(run.cx, "{i:>4}: {:<file$} ", m.line.file_range());
        match m.line.blocks() {
            Some(blocks) => {
                out!(run.cx, "{blocks:<place$} {number:>ag$} {offset:<within$} ");
                out!(run.cx, "{:>total$}", m.line.sectors());
                if with_flags || m.shared {
                    let (shared, unwritten) = (u8::from(m.shared), u8::from(m.unwritten));
                    out!(run.cx, " {shared}{unwritten}0000");
                }
            }
            None => {
                out!(run.cx, "{:<place$} {:>ag$} {:<within$} ", "hole", "", "");
                out!(run.cx, "{:>total$}", m.line.sectors());
            }
        }
        run.cx.bytes(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, physical: u64, length: u64) -> FiemapExtent {
        FiemapExtent { logical, physical, length, flags: FiemapFlags::empty() }
    }

    fn show(lines: &[Line]) -> Vec<String> {
        let place = |l: &Line| l.blocks().unwrap_or_else(|| String::from("hole"));
        lines.iter().map(|l| alloc::format!("{} {}", l.file_range(), place(l))).collect()
    }

    #[test]
    fn holes_fill_the_gaps() {
        let list = [extent(8192, 57_344, 8192), extent(32_768, 40_960, 16_384)];
        let all = lines(&list, 0, u64::MAX, 65_536);
        assert_eq!(
            show(&all),
            [
                "[0..15]: hole",
                "[16..31]: 112..127",
                "[32..63]: hole",
                "[64..95]: 80..111",
                "[96..127]: hole"
            ]
        );
        assert!(lines(&[], 0, u64::MAX, 65_536).is_empty());
    }

    #[test]
    fn a_range_clips_to_whole_blocks() {
        let list = [extent(65_536, 106_496, 65_536)];
        assert_eq!(show(&lines(&list, 69_632, 73_728, 73_728)), ["[136..143]: 216..223"]);
        assert_eq!(
            show(&lines(&list, 0, 102_400, 102_400)),
            ["[0..127]: hole", "[128..199]: 208..279"]
        );
        assert_eq!(
            show(&lines(&list, 102_400, u64::MAX, 1 << 20)),
            ["[200..255]: 280..335", "[256..2047]: hole"]
        );
    }
}
