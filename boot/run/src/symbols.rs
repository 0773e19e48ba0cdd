//! Names for the bare addresses of a guest's backtrace.

use std::path::{Path, PathBuf};

use addr2line::Loader;

/// What precedes an address in the guest's log.
const MARK: &str = "backtrace: 0x";

/// Adds functions and source lines to the backtraces of one image. The
/// image's debug information is read when the first backtrace appears.
pub struct Symbols {
    image: PathBuf,
    root: PathBuf,
    loader: Option<Option<Loader>>,
}

impl Symbols {
    /// Symbols of `image`, with source paths below `root` shown relative to it.
    pub fn of(image: &Path, root: &Path) -> Self {
        Self { image: image.into(), root: root.into(), loader: None }
    }

    /// The text to append to a line of the log, when it holds an address.
    pub fn annotate(&mut self, line: &str) -> Option<String> {
        let digits = &line[line.find(MARK)? + MARK.len()..];
        let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let address = u64::from_str_radix(&digits[..end], 16).ok()?;
        let image = &self.image;
        let loader = self.loader.get_or_insert_with(|| Loader::new(image).ok()).as_ref()?;
        // A return address points behind the call, maybe into the next line or function.
        let call = address.saturating_sub(1);
        let frames = frames(loader, call, &self.root);
        if frames.is_empty() {
            return loader.find_symbol(call).map(|name| format!(" {}", demangle(name)));
        }
        Some(frames.join("\n             inlined by"))
    }
}

/// The functions at an address, the innermost of inlined ones first.
fn frames(loader: &Loader, address: u64, root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(mut frames) = loader.find_frames(address) else { return lines };
    while let Ok(Some(frame)) = frames.next() {
        let Some(function) = frame.function else { continue };
        let name = function.raw_name().map_or_else(|_| "?".into(), |name| demangle(&name));
        let place = frame.location.and_then(|place| {
            let file = Path::new(place.file?);
            let file = file.strip_prefix(root).unwrap_or(file);
            Some(format!(" at {}:{}", file.display(), place.line.unwrap_or(0)))
        });
        lines.push(format!(" {name}{}", place.unwrap_or_default()));
    }
    lines
}

/// A Rust name as written in the source, without its hash.
fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    extern "C" fn landmark() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn names_a_function_of_this_very_program() {
        let image = std::env::current_exe().unwrap();
        let mut symbols = Symbols::of(&image, Path::new("/"));
        // The program is loaded somewhere; its file starts where its first mapping does.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let base = u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
        let address = landmark as *const () as usize as u64 - base + 2;
        let text = symbols.annotate(&format!("  backtrace: {address:#x} (main)")).unwrap();
        assert!(text.contains("landmark"), "{text}");
    }

    #[test]
    fn leaves_other_lines_alone() {
        let mut symbols = Symbols::of(Path::new("/nonexistent"), Path::new("/"));
        assert_eq!(symbols.annotate("mounted"), None);
        assert_eq!(symbols.annotate("backtrace: 0x"), None);
        assert_eq!(symbols.annotate("backtrace: 0x1234"), None);
    }
}
