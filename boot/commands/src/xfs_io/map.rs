//! Mappings: `mmap`, `mread`, `mwrite`, `msync`, `munmap`, `madvise`.

use alloc::string::String;

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{Advice, MapFlags, MsyncFlags, Prot};

use super::{Failure, Mapped, Outcome, Run, dump};
use crate::out;

/// Bytes moved at once.
const PIECE: usize = 4096;

/// `mmap [N] | [-rwx] [off len]`
pub(super) fn mmap(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    if let [_] = words {
        if run.maps.is_empty() {
            run.cx.diagnostic(format_args!("no mapped regions, try 'help mmap'"));
            run.status = 1;
            return Ok(());
        }
        print_maps(run);
        return Ok(());
    }
    if let [_, word] = words
        && word.first() != Some(&b'-')
    {
        return select(run, word);
    }
    let parsed = run.options(words, "rwxS")?;
    let [offset, len] = parsed.operands[..] else { return Err(Failure::Usage) };
    let mut prot = Prot::empty();
    for (letter, bit) in [(b'r', Prot::READ), (b'w', Prot::WRITE), (b'x', Prot::EXEC)] {
        if parsed.has(letter) {
            prot |= bit;
        }
    }
    if prot.is_empty() {
        prot = Prot::READ | Prot::WRITE | Prot::EXEC;
    }
    let offset = run.quantity("offset argument", offset)?;
    let len = run.quantity("length argument", len)?;
    let process = &run.cx.process;
    let addr = process
        .mmap(VirtAddr(0), len as usize, prot, MapFlags::SHARED, Some(run.fd()), offset)
        .map_err(|e| Failure::Call("mmap", e))?;
    let path = run.file().path.clone();
    run.maps.push(Mapped { addr, offset, len, prot, path });
    run.current_map = run.maps.len() - 1;
    Ok(())
}

fn select(run: &mut Run<'_>, word: &[u8]) -> Outcome {
    if run.maps.is_empty() {
        run.cx.diagnostic(format_args!("no mapped regions, try 'help mmap'"));
        run.status = 1;
        return Ok(());
    }
    match run.number(word).and_then(|n| usize::try_from(n).ok()) {
        Some(n) if n < run.maps.len() => {
            run.current_map = n;
            print_maps(run);
            Ok(())
        }
        _ => {
            // The original counts one too many here.
            let (word, last) = (String::from_utf8_lossy(word), run.maps.len());
            let message = alloc::format!("value {word} is out of range (0-{last})");
            Err(Failure::Message(message))
        }
    }
}

/// The list of mappings, the current one in brackets.
pub(super) fn print_maps(run: &mut Run<'_>) {
    for (i, m) in run.maps.iter().enumerate() {
        let (open, close) = if i == run.current_map { ('[', ']') } else { (' ', ' ') };
        let bit = |bit, letter| if m.prot.contains(bit) { letter } else { '-' };
        let (r, w, x) = (bit(Prot::READ, 'r'), bit(Prot::WRITE, 'w'), bit(Prot::EXEC, 'x'));
        // Mappings cover whole pages; the length is the one asked for.
        let end = m.addr.0 + m.len;
        out!(run.cx, "{open}{i:03}{close} {:#x} - {end:#x} {r}{w}{x}  ", m.addr.0);
        out!(run.cx, "{:>14} ({} : {})\n", String::from_utf8_lossy(&m.path), m.offset, m.len);
    }
}

impl Run<'_> {
    /// Unmap what is still mapped: the process outlives this command.
    pub(super) fn unmap_all(&mut self) {
        for m in core::mem::take(&mut self.maps) {
            // The range was mapped by us: unmapping it has no reason to fail.
            let _ = self.cx.process.munmap(m.addr, m.len as usize);
        }
    }
    fn map(&self) -> &Mapped {
        &self.maps[self.current_map.min(self.maps.len() - 1)]
    }
    /// The part of the current mapping that `[off len]` names: its start within the
    /// mapping, and its length. Offsets are the file's.
    fn part(&self, operands: &[&[u8]], aligned: bool) -> Result<(u64, u64), Failure> {
        let map = self.map();
        let (offset, len) = match operands {
            [] => (map.offset, map.len),
            [offset, len] => {
                let offset = self.quantity("offset argument", offset)?;
                (offset, self.quantity("length argument", len)?)
            }
            _ => return Err(Failure::Usage),
        };
        let complain = |message| Err(Failure::Message(message));
        let (start, size) = (map.offset, map.len);
        let Some(within) = offset.checked_sub(start) else {
            return complain(alloc::format!(
                "offset ({offset}) is before start of mapping ({start})"
            ));
        };
        if within > size {
            return complain(alloc::format!(
                "offset ({within}) is beyond end of mapping ({start})"
            ));
        }
        if within.checked_add(len).is_none_or(|end| end > size) {
            return complain(alloc::format!(
                "range ({offset}:{within}) is beyond mapping ({start}:{size})"
            ));
        }
        let addr = map.addr.0 + within;
        if aligned && !addr.is_multiple_of(4096) {
            return complain(alloc::format!("offset address ({addr:#x}) is not page aligned"));
        }
        Ok((within, len))
    }
    fn address(&self, within: u64) -> VirtAddr {
        self.map().addr.add(within)
    }
}

/// The pieces of a range, from the front or from the back.
fn pieces(len: u64, reverse: bool) -> impl Iterator<Item = (u64, usize)> {
    let count = len.div_ceil(PIECE as u64);
    (0..count).map(move |i| {
        let i = if reverse { count - 1 - i } else { i };
        let at = i * PIECE as u64;
        (at, (len - at).min(PIECE as u64) as usize)
    })
}

/// `mread [-frv] [off len]`
pub(super) fn mread(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "frv")?;
    let (within, len) = run.part(&parsed.operands, false)?;
    let (verbose, reverse) = (parsed.has(b'v'), parsed.has(b'r'));
    let mut bytes = [0; PIECE];
    // From the back nothing is shown: what is shown is in order, always.
    let passes: &[bool] = if reverse && verbose { &[true, false] } else { &[reverse] };
    for &backward in passes {
        for (at, n) in pieces(len, backward) {
            let addr = run.address(within + at);
            let load = run.cx.process.load(addr, &mut bytes[..n]);
            load.map_err(|e| Failure::Signal("mread", e))?;
            if verbose && !backward {
                dump(run.cx, within + at, &bytes[..n]);
            }
        }
    }
    Ok(())
}

/// `mwrite [-r] [-S seed] [off len]`
pub(super) fn mwrite(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "rS:")?;
    let seed = run.seed(parsed.value(b'S'), b'X')?;
    let (within, len) = run.part(&parsed.operands, false)?;
    let bytes = [seed; PIECE];
    for (at, n) in pieces(len, parsed.has(b'r')) {
        let store = run.cx.process.store(run.address(within + at), &bytes[..n]);
        store.map_err(|e| Failure::Signal("mwrite", e))?;
    }
    Ok(())
}

/// `msync [-ais] [off len]`
pub(super) fn msync(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "ais")?;
    let letters =
        [(b'a', MsyncFlags::ASYNC), (b'i', MsyncFlags::INVALIDATE), (b's', MsyncFlags::SYNC)];
    let flags = parsed.flags(&letters).unwrap_or(MsyncFlags::SYNC);
    let (within, len) = run.part(&parsed.operands, true)?;
    let addr = run.address(within);
    run.cx.process.msync(addr, len as usize, flags).map_err(|e| Failure::Call("msync", e))
}

/// `munmap`
pub(super) fn munmap(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    let map = run.map().clone();
    let unmap = run.cx.process.munmap(map.addr, map.len as usize);
    unmap.map_err(|e| Failure::Call("munmap", e))?;
    run.maps.remove(run.current_map.min(run.maps.len() - 1));
    run.current_map = 0;
    if !run.maps.is_empty() {
        print_maps(run);
    }
    Ok(())
}

/// `madvise [-drsw] [off len]`
pub(super) fn madvise(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "drsw")?;
    let advice = advice(&parsed);
    let (within, len) = run.part(&parsed.operands, true)?;
    let addr = run.address(within);
    run.cx.process.madvise(addr, len as usize, advice).map_err(|e| Failure::Call("madvise", e))
}

/// The advice that the last option names.
pub(super) fn advice(parsed: &crate::options::Parsed<'_>) -> Advice {
    match parsed.options.last().map(|o| o.0) {
        Some(b'd') => Advice::DontNeed,
        Some(b'n') => Advice::NoReuse,
        Some(b'r') => Advice::Random,
        Some(b's') => Advice::Sequential,
        Some(b'w') => Advice::WillNeed,
        _ => Advice::Normal,
    }
}
