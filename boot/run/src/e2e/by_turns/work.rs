//! What is done in a turn: operations drawn so that each one succeeds, in words that
//! Holdfast's script and a shell of Linux understand alike.

use std::fmt::Write as _;

use crate::pattern::{Stream, hex};

/// Bytes of the ranges that are cut out and inserted: whole blocks of all geometries.
const RANGE: u64 = 8192;
/// Names of extended attributes of a file or directory.
const ATTRIBUTES: u64 = 4;

/// A file of which something is known.
#[derive(Clone, Debug)]
struct File {
    path: String,
    size: u64,
    /// Numbers of its extended attributes.
    attributes: Vec<u64>,
    /// `i` or `a`: nothing else can be done to it before that is taken back.
    frozen: Option<char>,
}

impl File {
    const fn new(path: String, size: u64) -> Self {
        Self { path, size, attributes: Vec::new(), frozen: None }
    }
}

/// A directory of which something is known.
#[derive(Clone, Debug)]
struct Directory {
    path: String,
    attributes: Vec<u64>,
    /// What is made in it gets its project, and nothing of another one moves into it.
    passes_project: bool,
}

/// Operations on paths that start at the root. What there is is remembered.
pub(super) struct Workload {
    random: Stream,
    directories: Vec<Directory>,
    files: Vec<File>,
    made: u64,
    /// Files may be left as ones that nobody can change or remove.
    freezes: bool,
}

impl Workload {
    /// Work below a directory, which the first turn makes.
    pub(super) fn below(top: &str, seed: u64) -> Self {
        let top = Directory { path: top.into(), attributes: Vec::new(), passes_project: false };
        let (directories, files) = (vec![top], Vec::new());
        Self { random: Stream::new(seed), directories, files, made: 0, freezes: true }
    }

    /// The same, with nothing in it that cannot be removed.
    pub(super) fn removable(mut self) -> Self {
        self.freezes = false;
        self
    }

    /// The lines of one turn.
    pub(super) fn turn(&mut self, operations: usize) -> String {
        let mut script = format!("mkdir -p {}\n", self.directories[0].path);
        for _ in 0..operations {
            let line = self.operation();
            let _ = writeln!(script, "{line}");
        }
        script
    }

    fn pick(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    /// A new name in this directory.
    fn name_in(&mut self, directory: usize) -> String {
        self.made += 1;
        let long = "x".repeat(self.random.below(60) as usize);
        format!("{}/n{}{long}", self.directories[directory].path, self.made)
    }

    fn name(&mut self) -> String {
        let directory = self.pick(self.directories.len());
        self.name_in(directory)
    }

    fn operation(&mut self) -> String {
        let kind = self.random.below(23);
        if self.files.len() < 5 || kind < 6 {
            let (name, size) = (self.name(), 1 + self.random.below(200_000));
            let seed = 1 + self.random.below(250);
            self.files.push(File::new(name.clone(), size));
            return format!("xfs_io -f -c 'pwrite -q -S {seed} 0 {size}' {name}");
        }
        if kind == 6 {
            return self.directory();
        }
        let at = self.pick(self.files.len());
        if let Some(letter) = self.files[at].frozen.take() {
            return format!("xfs_io -r -c 'chattr -{letter}' {}", self.files[at].path);
        }
        match kind {
            7..=11 | 18 => self.names(kind, at),
            19..=21 => self.attribute(at),
            _ => self.contents(kind, at),
        }
    }

    /// A new directory; what it inherits is inherited from it.
    fn directory(&mut self) -> String {
        let above = self.pick(self.directories.len());
        let path = self.name_in(above);
        let passes_project = self.directories[above].passes_project;
        self.directories.push(Directory {
            path: path.clone(),
            attributes: Vec::new(),
            passes_project,
        });
        format!("mkdir {path}")
    }

    /// Something that makes, moves or removes a name.
    fn names(&mut self, kind: u64, at: usize) -> String {
        let File { path, size, .. } = self.files[at].clone();
        match kind {
            7 | 8 => {
                let mut to = self.pick(self.directories.len());
                if self.directories[to].passes_project {
                    to = 0;
                }
                let name = self.name_in(to);
                self.files[at].path.clone_from(&name);
                format!("mv {path} {name}")
            }
            9 => {
                self.files.swap_remove(at);
                format!("rm {path}")
            }
            10 => {
                let name = self.name();
                self.files.push(File::new(name.clone(), size));
                // Linux's cp is that of busybox, which does not share unless it is told to.
                format!("cp --reflink=auto {path} {name}")
            }
            11 => {
                let name = self.name();
                format!("ln -s target-of-{} {name}", self.made)
            }
            _ => {
                let name = self.name();
                self.files.push(File::new(name.clone(), size));
                format!("xfs_io -f -c 'reflink -q {path}' {name}")
            }
        }
    }

    /// Something that changes a file's contents, or its mode.
    fn contents(&mut self, kind: u64, at: usize) -> String {
        let File { path, size, .. } = self.files[at].clone();
        match kind {
            12 => {
                let new = self.random.below(300_000);
                self.files[at].size = new;
                format!("xfs_io -c 'truncate {new}' {path}")
            }
            13 => {
                let from = self.random.below(size + 1);
                format!("xfs_io -c 'fpunch {from} {}' {path}", 1 + self.random.below(100_000))
            }
            14 => {
                let from = self.random.below(size + 1);
                let len = 1 + self.random.below(50_000);
                self.files[at].size = size.max(from + len);
                format!("xfs_io -c 'falloc {from} {len}' {path}")
            }
            15 if size > 3 * RANGE => {
                self.files[at].size = size - RANGE;
                format!("xfs_io -c 'fcollapse {RANGE} {RANGE}' {path}")
            }
            16 if size > RANGE => {
                self.files[at].size = size + RANGE;
                format!("xfs_io -c 'finsert 0 {RANGE}' {path}")
            }
            17 => format!("chmod {:o} {path}", 0o400 + self.random.below(0o377)),
            _ => {
                let from = self.random.below(size + 5000);
                let len = 1 + self.random.below(60_000);
                self.files[at].size = size.max(from + len);
                let seed = 1 + self.random.below(250);
                format!("xfs_io -c 'pwrite -q -S {seed} {from} {len}' {path}")
            }
        }
    }

    /// Something that changes what is known of a file or a directory besides its contents:
    /// extended attributes, ACLs, flags, hints, the project.
    fn attribute(&mut self, at: usize) -> String {
        let directory = (self.random.below(3) == 0).then(|| self.pick(self.directories.len()));
        let path = match directory {
            Some(at) => self.directories[at].path.clone(),
            None => self.files[at].path.clone(),
        };
        let kilobytes = 16 << self.random.below(3);
        match self.random.below(12) {
            0..=2 => self.extended(directory, at, &path),
            3 | 4 => {
                let default = directory.is_some() && self.random.below(2) == 0;
                let name = if default { "default" } else { "access" };
                let list = hex(&self.list());
                format!("setfattr -n system.posix_acl_{name} -v 0x{list} {path}")
            }
            5 => format!("xfs_io -r -c 'chproj {}' {path}", self.random.below(1 << 32)),
            6 => format!("xfs_io -r -c 'cowextsize {kilobytes}k' {path}"),
            7 => format!("xfs_io -r -c 'cowextsize 0' {path}"),
            8 if directory.is_some() => format!("xfs_io -r -c 'extsize {kilobytes}k' {path}"),
            // Whatever is in the directory already keeps its project.
            9 if let Some(at) = directory
                && at > 0 =>
            {
                self.directories[at].passes_project = true;
                let project = self.random.below(1000);
                format!("xfs_io -r -c 'chproj {project}' -c 'chattr +P' {path}")
            }
            10 if directory.is_none() && self.freezes => {
                let letter = if self.random.below(2) == 0 { 'i' } else { 'a' };
                self.files[at].frozen = Some(letter);
                format!("xfs_io -r -c 'chattr +{letter}' {path}")
            }
            _ => {
                let sign = if self.random.below(3) == 0 { '-' } else { '+' };
                let letters = ["s", "A", "d", "f", "Ad", "dsf"][self.pick(6)];
                format!("xfs_io -r -c 'chattr {sign}{letters}' {path}")
            }
        }
    }

    /// Sets an extended attribute, with a value in the inode, in a block or outside of the
    /// tree, or removes one.
    fn extended(&mut self, directory: Option<usize>, at: usize, path: &str) -> String {
        let have = match directory {
            Some(at) => &mut self.directories[at].attributes,
            None => &mut self.files[at].attributes,
        };
        let number = self.random.below(ATTRIBUTES);
        let known = have.iter().position(|have| *have == number);
        if let Some(known) = known
            && self.random.below(2) == 0
        {
            have.swap_remove(known);
            return format!("setfattr -x user.number{number} {path}");
        }
        if known.is_none() {
            have.push(number);
        }
        let most = [20, 20, 300, 6000][number as usize];
        let letter = char::from(b'a' + self.random.below(26) as u8);
        let value = letter.to_string().repeat(1 + self.random.below(most) as usize);
        format!("setfattr -n user.number{number} -v {value} {path}")
    }

    /// An ACL as the attribute holds it, one that is no more than a mode among them:
    /// version, entries of tag, permissions and number (Linux, `posix_acl_xattr.h`).
    fn list(&mut self) -> Vec<u8> {
        const VERSION: u32 = 2;
        const OWNER: u16 = 1;
        const USER: u16 = 2;
        const OWNING_GROUP: u16 = 4;
        const GROUP: u16 = 8;
        const MASK: u16 = 16;
        const OTHERS: u16 = 32;
        let (users, groups) = (self.random.below(4) as u32, self.random.below(3) as u32);
        let named = |tag, count| (0..count).map(move |n| (tag, 1000 + n));
        let alone = |tag| [(tag, u32::MAX)].into_iter();
        let mask = alone(MASK).take(usize::from(users + groups > 0));
        let entries = alone(OWNER)
            .chain(named(USER, users))
            .chain(alone(OWNING_GROUP))
            .chain(named(GROUP, groups))
            .chain(mask)
            .chain(alone(OTHERS));
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, number) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((self.random.below(8) as u16).to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }
}

/// The same lines for Linux, whose emulated processor takes longest to start programs:
/// commands of xfs_io that follow each other are given to one.
pub(super) fn for_linux(lines: &str) -> String {
    /// Commands of one xfs_io.
    const MOST: usize = 40;
    let (mut script, mut commands) = (String::new(), Vec::new());
    let run = |script: &mut String, commands: &mut Vec<String>| {
        if !commands.is_empty() {
            let _ = writeln!(script, "xfs_io {}", commands.join(" "));
            commands.clear();
        }
    };
    for line in lines.lines() {
        let words = line.strip_prefix("xfs_io ").and_then(|words| words.rsplit_once("' "));
        if let Some((command, path)) = words {
            // How the file is opened stands before the first command.
            let (open, command) = command.split_at(command.find("-c ").unwrap_or(0));
            commands.push(format!("-c 'open {open}{path}' {command}' -c close"));
            if commands.len() < MOST {
                continue;
            }
        }
        run(&mut script, &mut commands);
        if words.is_none() {
            let _ = writeln!(script, "{line}");
        }
    }
    run(&mut script, &mut commands);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_go_to_one_program() {
        let lines = "mkdir a\nxfs_io -f -c 'pwrite -q 0 5' a/b\nxfs_io -c 'truncate 3' a/b\nrm a/b\n\
                     xfs_io -c 'fpunch 0 1' c\nxfs_io -r -c 'chproj 3' -c 'chattr +P' d\n";
        let expected = "mkdir a\nxfs_io -c 'open -f a/b' -c 'pwrite -q 0 5' -c close \
                        -c 'open a/b' -c 'truncate 3' -c close\nrm a/b\n\
                        xfs_io -c 'open c' -c 'fpunch 0 1' -c close \
                        -c 'open -r d' -c 'chproj 3' -c 'chattr +P' -c close\n";
        assert_eq!(for_linux(lines), expected);
    }

    #[test]
    fn what_is_removed_can_be() {
        let lines = Workload::below("top", 1).removable().turn(20_000);
        assert!(!lines.contains("chattr +i") && !lines.contains("chattr +a'"));
        let lines = Workload::below("top", 1).turn(20_000);
        for wanted in ["chattr +i", "chattr -i", "chattr +a'", "acl_default", "chattr +P", "-x "] {
            assert!(lines.contains(wanted), "{wanted}");
        }
    }
}
