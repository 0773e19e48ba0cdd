//! What `./run.sh` does without arguments: a disk full of files, a guest that
//! works on all of them at once, and the verdicts.
//!
//! The guest's console carries three kinds of lines: its summary for people;
//! `@@sha256 HASH  /path`, what each file holds in the end; and `@@json
//! {...}`, the summary for programs. `Sorter` tells them apart.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::cli::Options;
use crate::disk::Disk;
use crate::guest::Ended;
use crate::guest::protocol::Work;
use crate::image::{Contents, MIB, Manifest, Recipe, Tree};
use crate::judge::{self, Grub, Verdict};
use crate::pattern::Stream;
use crate::session::Session;
use crate::workspace::Workspace;

/// Memory of the guest unless `--mem` says otherwise.
const MEMORY_BYTES: u64 = 128 * MIB;
/// Limit of its page cache unless `--page-cache` says otherwise.
const PAGE_CACHE_BYTES: u64 = 32 * MIB;
/// How long it may take unless `--timeout` says otherwise.
const LIMIT: Duration = Duration::from_secs(600);
/// Room on the disk beside the files: log, metadata, free space.
const ROOM_BYTES: u64 = 160 * MIB;
/// The smallest disk that mkfs.xfs makes with its own defaults.
const SMALLEST_BYTES: u64 = 300 * MIB;
/// The status when the guest was content and a judge was not.
const STATUS_BAD: u8 = 1;

/// Makes the disk, boots, judges; the status to exit with.
pub fn run(workspace: &Workspace, options: &Options) -> Result<u8> {
    ensure!(
        options.disk.is_empty() && !options.readonly,
        "the main job overwrites the files of a disk that it makes itself; \
         with --disk or --readonly give a command"
    );
    let grub = Grub::find()?;
    let target = workspace.target()?;
    let (image, list) = (target.join("main-job.img"), target.join("main-job.sha256"));
    let mut options = options.clone();
    options.mem.get_or_insert(MEMORY_BYTES);
    options.page_cache.get_or_insert(PAGE_CACHE_BYTES);
    options.timeout.get_or_insert(LIMIT);
    options.disk.push(Disk::File(image.clone()));
    if options.print_qemu {
        println!("{}", Session::new(workspace, &options, Work::MainJob)?.machine().shell_line()?);
        return Ok(0);
    }
    let _ = fs::remove_file(&list);
    let put_in = make_disk(workspace, &options, &image)?;

    let session = Session::new(workspace, &options, Work::MainJob)?;
    let mut sorter = Sorter::new(io::stdout());
    let ended = session.run(&mut sorter)?;
    let report = sorter.finish()?;
    fs::write(&list, judge::manifest_text(&report.manifest))?;
    if ended.status != 0 {
        eprintln!("run.sh: the guest ended with status {}", ended.status);
    }
    let verdicts = verdicts(&grub, &image, &put_in, &report.manifest, &ended)?;
    let good = verdicts.iter().all(|(_, verdict)| verdict.is_good());
    print!("{}", summary(&verdicts, &ended));
    if let Some(path) = &options.json {
        let value = as_json(report.json, &verdicts, &ended);
        fs::write(path, format!("{value:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(match ended.status {
        0 if good => 0,
        0 => STATUS_BAD,
        status => status,
    })
}

/// Makes the disk with its files, on standard error says so.
fn make_disk(workspace: &Workspace, options: &Options, image: &Path) -> Result<Manifest> {
    let start = Instant::now();
    eprint!("run.sh: making {} with {} MiB of files", image.display(), options.data / MIB);
    let size = (options.data + options.data / 8 + ROOM_BYTES).max(SMALLEST_BYTES);
    let recipe = Recipe::new(size).mkfs(&options.mkfs).tree(files(options.data));
    let manifest = recipe.make(workspace, image);
    eprintln!(": {:.1} s", start.elapsed().as_secs_f64());
    manifest
}

/// Files of many sizes, `total` bytes in all: some big ones, many of odd
/// sizes, several directories, one of them deep.
pub fn files(total: u64) -> Tree {
    let mut tree = Tree::new();
    let mut seed = 0;
    let mut left = total;
    let mut add = |tree: &mut Tree, name: &str, length: u64| {
        seed += 1;
        tree.file(name, Contents::Stream { seed, length: length.min(left) });
        left -= length.min(left);
        left
    };
    for (number, share) in [6, 8, 8, 12, 16].into_iter().enumerate() {
        add(&mut tree, &format!("big/{number}.dat"), total / share + number as u64 * 4097 + 1);
    }
    for (number, length) in
        [0, 1, 511, 512, 513, 4095, 4096, 4097, 65_535, 65_537].iter().enumerate()
    {
        add(&mut tree, &format!("edge/{number}-{length}"), *length);
    }
    let mut sizes = Stream::new(total);
    let mut number = 0;
    while add(&mut tree, &format!("mid/{}/{number}", number % 4), half_to_four(&mut sizes, total))
        > total / 20
    {
        number += 1;
    }
    let mut number = 0;
    loop {
        let place = if number % 16 == 0 { "deep/1/2/3/4/5/6/7" } else { "small" };
        if add(&mut tree, &format!("{place}/{number:04}.bin"), sizes.below(128 * 1024)) == 0 {
            break;
        }
        number += 1;
    }
    tree.symlink("link-to-small", "small").symlink("small/link", "../edge/4-513");
    tree
}

/// A length between 1/512 and 1/64 of the total, rarely a round one.
fn half_to_four(sizes: &mut Stream, total: u64) -> u64 {
    total / 512 + sizes.below((total / 64).max(1))
}

/// What the guest said, by kind of line.
#[derive(Debug, Default)]
struct Report {
    manifest: Manifest,
    json: Map<String, Value>,
}

/// Tells the guest's lines apart; those for people pass through at once.
struct Sorter<W> {
    people: W,
    /// The start of a line that may be one of ours.
    line: Vec<u8>,
    /// Whether the rest of the line is for people.
    passing: bool,
    hashes: String,
    json: Vec<String>,
}

/// What starts a line with a file's hash.
const HASH_MARK: &str = "@@sha256 ";
/// What starts a line for programs.
const JSON_MARK: &str = "@@json ";

impl<W: Write> Sorter<W> {
    fn new(people: W) -> Self {
        Self { people, line: Vec::new(), passing: false, hashes: String::new(), json: Vec::new() }
    }

    fn sort(&mut self) -> io::Result<()> {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches(['\r', '\n']);
        if let Some(hash) = text.strip_prefix(HASH_MARK) {
            self.hashes.push_str(hash);
            self.hashes.push('\n');
        } else if let Some(json) = text.strip_prefix(JSON_MARK) {
            self.json.push(json.into());
        } else {
            self.people.write_all(&self.line)?;
        }
        self.line.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Report> {
        if !self.line.is_empty() {
            self.sort()?;
        }
        let mut report =
            Report { manifest: judge::parse_manifest(&self.hashes)?, json: Map::new() };
        for line in &self.json {
            let value = serde_json::from_str(line).context("the guest's @@json is no JSON")?;
            let Value::Object(object) = value else {
                anyhow::bail!("the guest's @@json is no object")
            };
            report.json.extend(object);
        }
        Ok(report)
    }
}

impl<W: Write> Write for Sorter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.ends_with(b"\n");
            if self.passing {
                self.people.write_all(part)?;
            } else {
                self.line.extend_from_slice(part);
                // A line that cannot become one of ours is shown before its end.
                self.passing = !self.line.starts_with(b"@");
                if ends || self.passing {
                    self.sort()?;
                }
            }
            self.passing &= !ends;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.people.flush()
    }
}

type Verdicts = Vec<(&'static str, Verdict)>;

/// The word of everybody who looked.
fn verdicts(
    grub: &Grub,
    image: &Path,
    before: &Manifest,
    after: &Manifest,
    ended: &Ended,
) -> Result<Verdicts> {
    let guest = match ended.status {
        0 => Verdict::Good("every byte as its model says".into()),
        status => Verdict::Bad(vec![format!("ended with status {status}")]),
    };
    Ok(vec![
        ("guest", guest),
        ("overwritten", overwritten(before, after)),
        ("xfs_repair -n", judge::repair(image)?),
        ("grub-fstest", grub.compare(image, after)),
    ])
}

/// Where the guest makes files of its own.
const MADE: &str = "/made/";

/// The same files as were put in, and not with the same contents; and some that were made.
fn overwritten(before: &Manifest, after: &Manifest) -> Verdict {
    let names = |manifest: &Manifest| -> Manifest {
        let kept = manifest.keys().filter(|path| !path.starts_with(MADE));
        kept.map(|path| (path.clone(), String::new())).collect()
    };
    let made = after.keys().filter(|path| path.starts_with(MADE)).count();
    if made == 0 {
        return Verdict::Bad(vec!["no file was made".into()]);
    }
    let same =
        judge::compare(("the disk as made", &names(before)), ("the guest's list", &names(after)));
    if !same.is_good() {
        return same;
    }
    let changed = before.iter().filter(|(path, hash)| after.get(*path) != Some(hash)).count();
    if changed == 0 {
        return Verdict::Bad(vec!["no file has other contents than before".into()]);
    }
    Verdict::Good(format!("{changed} of {} files, {made} made", before.len()))
}

/// The verdicts for people.
fn summary(verdicts: &Verdicts, ended: &Ended) -> String {
    let mut text = String::from("judged by others\n");
    for (judge, verdict) in verdicts {
        let word = if verdict.is_good() { "ok " } else { "BAD" };
        let detail = verdict.text().replace('\n', "\n                      ");
        text.push_str(&format!("  {word} {judge:<14}  {detail}\n"));
    }
    let boot = ended
        .mounted_after
        .map_or_else(|| "not seen".into(), |time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
    text.push_str(&format!("QEMU start to mounted: {boot}; "));
    text.push_str(&format!("to its end: {:.1} s\n", ended.took.as_secs_f64()));
    text
}

/// The same for programs: the guest's object with the host's part added.
fn as_json(mut guest: Map<String, Value>, verdicts: &Verdicts, ended: &Ended) -> Value {
    let entry = |(judge, verdict): &(&'static str, Verdict)| {
        ((*judge).to_owned(), json!({ "good": verdict.is_good(), "detail": verdict.text() }))
    };
    let verdicts: Map<String, Value> = verdicts.iter().map(entry).collect();
    guest.insert("verdicts".into(), Value::Object(verdicts));
    guest.insert("status".into(), ended.status.into());
    let milliseconds = ended.mounted_after.map(|time| time.as_secs_f64() * 1e3);
    guest.insert("qemu_start_to_mounted_ms".into(), json!(milliseconds));
    guest.insert("guest_seconds".into(), json!(ended.took.as_secs_f64()));
    Value::Object(guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_lines_are_told_apart_however_they_are_cut() {
        let hash = "0".repeat(64);
        let text = format!(
            "hello\n@@sha256 {hash}  /a b\n@ home\n@@json {{\"x\":1}}\nprogress 5%\r@@json {{\nend"
        );
        for size in [1, 2, 7, text.len()] {
            let mut shown = Vec::new();
            let mut sorter = Sorter::new(&mut shown);
            for chunk in text.as_bytes().chunks(size) {
                sorter.write_all(chunk).unwrap();
            }
            let report = sorter.finish().unwrap();
            assert_eq!(report.manifest["/a b"], hash);
            assert_eq!(report.json["x"], 1);
            assert_eq!(shown, b"hello\n@ home\nprogress 5%\r@@json {\nend", "in pieces of {size}");
        }
    }

    #[test]
    fn a_broken_report_is_an_error() {
        for line in ["@@json {", "@@json 7", "@@sha256 beef  /x"] {
            let mut sorter = Sorter::new(io::sink());
            sorter.write_all(line.as_bytes()).unwrap();
            assert!(sorter.finish().is_err(), "{line}");
        }
    }

    #[test]
    fn an_untouched_disk_is_no_success() {
        let one = Manifest::from([("/a".into(), "1".into())]);
        let made = || ("/made/x".into(), "3".into());
        let other = Manifest::from([("/a".into(), "2".into()), made()]);
        let longer = Manifest::from([("/a".into(), "2".into()), ("/b".into(), "2".into()), made()]);
        let nothing_made = Manifest::from([("/a".into(), "2".into())]);
        assert!(!overwritten(&one, &nothing_made).is_good());
        assert!(!overwritten(&one, &one).is_good());
        assert!(!overwritten(&one, &longer).is_good());
        assert!(!overwritten(&longer, &one).is_good());
        assert!(overwritten(&one, &other).is_good());
    }
}
