//! What mkfs.xfs can make: the features and geometries, which combinations are legal, and
//! which of them cover every pair.

/// One thing that mkfs decides.
pub struct Dimension {
    pub name: &'static str,
    /// How its values are called, and the words of mkfs for them. The first is what the
    /// others are combined with.
    pub values: &'static [(&'static str, &'static [&'static str])],
}

const fn switch(
    name: &'static str,
    values: &'static [(&'static str, &'static [&'static str])],
) -> Dimension {
    Dimension { name, values }
}

pub const DIMENSIONS: [Dimension; 16] = [
    switch("rmapbt", &[("0", &["-m", "rmapbt=0"]), ("1", &["-m", "rmapbt=1"])]),
    switch("reflink", &[("1", &["-m", "reflink=1"]), ("0", &["-m", "reflink=0"])]),
    switch(
        "finobt",
        &[
            ("1, inobtcount 1", &["-m", "finobt=1,inobtcount=1"]),
            ("1, inobtcount 0", &["-m", "finobt=1,inobtcount=0"]),
            ("0", &["-m", "finobt=0,inobtcount=0"]),
        ],
    ),
    switch("bigtime", &[("1", &["-m", "bigtime=1"]), ("0", &["-m", "bigtime=0"])]),
    switch("nrext64", &[("0", &["-i", "nrext64=0"]), ("1", &["-i", "nrext64=1"])]),
    switch("sparse", &[("1", &["-i", "sparse=1"]), ("0", &["-i", "sparse=0"])]),
    switch("parent", &[("0", &[]), ("1", &["-n", "parent=1"])]),
    switch("exchange", &[("0", &[]), ("1", &["-i", "exchange=1"])]),
    switch(
        "block",
        &[
            ("4096", &["-b", "size=4096"]),
            ("2048", &["-b", "size=2048"]),
            ("1024", &["-b", "size=1024"]),
        ],
    ),
    switch(
        "directory block",
        &[
            ("4096", &["-n", "size=4096"]),
            ("8192", &["-n", "size=8192"]),
            ("16384", &["-n", "size=16384"]),
            ("65536", &["-n", "size=65536"]),
        ],
    ),
    switch(
        "inode",
        &[
            ("512", &["-i", "size=512"]),
            ("1024", &["-i", "size=1024"]),
            ("2048", &["-i", "size=2048"]),
        ],
    ),
    switch("sector", &[("512", &["-s", "size=512"]), ("4096", &["-s", "size=4096"])]),
    switch("stripe", &[("none", &[]), ("4 × 64 KiB", &["-d", "su=64k,sw=4"])]),
    switch("log unit", &[("none", &[]), ("32 KiB", &["-l", "su=32k"])]),
    switch("names", &[("as they are", &[]), ("ASCII-CI", &["-n", "version=ci"])]),
    switch("groups", &[("1", &["-d", "agcount=1"]), ("3", &["-d", "agcount=3"])]),
];

pub const REFLINK: usize = 1;
const PARENT: usize = 6;
const EXCHANGE: usize = 7;
const BLOCK: usize = 8;
const DIRECTORY: usize = 9;
const INODE: usize = 10;
const SECTOR: usize = 11;
const NAMES: usize = 14;
const GROUPS: usize = 15;
/// The dimensions that are bits of the superblock.
const BITS: usize = 8;

/// A combination: the number of the value in each dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set(pub [usize; DIMENSIONS.len()]);

impl Set {
    fn number(&self, dimension: usize) -> usize {
        let (name, _) = DIMENSIONS[dimension].values[self.0[dimension]];
        name.parse().expect("a dimension of numbers")
    }
    /// Can mkfs make it?
    pub fn is_legal(&self) -> bool {
        let block = self.number(BLOCK);
        self.number(INODE) <= block / 2 && self.number(SECTOR) <= block
    }
    /// Does it take an mkfs newer than 6.1?
    pub fn is_new(&self) -> bool {
        self.0[PARENT] + self.0[EXCHANGE] > 0
    }
    pub fn has_reflink(&self) -> bool {
        DIMENSIONS[REFLINK].values[self.0[REFLINK]].0 == "1"
    }
    pub fn folds_names(&self) -> bool {
        self.0[NAMES] > 0
    }
    pub fn directory_block(&self) -> usize {
        self.number(DIRECTORY)
    }
    pub fn block(&self) -> usize {
        self.number(BLOCK)
    }
    /// How large an image it takes: a group has to hold a log of up to 22 MiB.
    pub fn megabytes(&self) -> usize {
        if self.0[GROUPS] > 0 { 75 } else { 40 }
    }
    /// The words of mkfs.
    pub fn words(&self) -> Vec<&'static str> {
        let values = DIMENSIONS.iter().zip(self.0);
        values.flat_map(|(dimension, value)| dimension.values[value].1.iter().copied()).collect()
    }
    /// What it has that the first values do not.
    pub fn name(&self) -> String {
        let different = DIMENSIONS.iter().zip(self.0).filter(|(_, value)| *value > 0);
        let words: Vec<String> =
            different.map(|(d, value)| format!("{} {}", d.name, d.values[value].0)).collect();
        if words.is_empty() { "the first values".into() } else { words.join("; ") }
    }
}

/// All legal combinations of the bits, with blocks of 4 KiB.
pub fn all_bits() -> Vec<Set> {
    let mut sets = vec![Set([0; DIMENSIONS.len()])];
    for (dimension, of) in DIMENSIONS.iter().enumerate().take(BITS) {
        let other = |set: &Set| {
            let set = *set;
            (0..of.values.len()).map(move |value| {
                let mut set = set;
                set.0[dimension] = value;
                set
            })
        };
        sets = sets.iter().flat_map(other).collect();
    }
    sets
}

type Pair = ((usize, usize), (usize, usize));

/// Legal combinations that bring every legal pair of values together, with the newer
/// features or without.
pub fn covering(newer: bool) -> Vec<Set> {
    let free = |d: usize| newer || (d != PARENT && d != EXCHANGE);
    let values: Vec<(usize, usize)> = (0..DIMENSIONS.len())
        .flat_map(|d| (0..DIMENSIONS[d].values.len()).map(move |v| (d, v)))
        .filter(|(d, v)| free(*d) || *v == 0)
        .collect();
    let pairs = values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b)));
    let mut open: Vec<Pair> = pairs.filter(|(a, b)| a.0 < b.0).collect();
    let mut sets: Vec<Set> = Vec::new();
    while let Some(pair) = open.first().copied() {
        match complete(pair, &open, &values) {
            Some(set) => {
                open.retain(|(a, b)| set.0[a.0] != a.1 || set.0[b.0] != b.1);
                sets.push(set);
            }
            // There is no legal combination with both.
            None => drop(open.remove(0)),
        }
    }
    sets
}

/// A legal combination with this pair and as many others as a greedy choice finds.
fn complete(pair: Pair, open: &[Pair], values: &[(usize, usize)]) -> Option<Set> {
    let mut set: [Option<usize>; DIMENSIONS.len()] = [None; DIMENSIONS.len()];
    set[pair.0.0] = Some(pair.0.1);
    set[pair.1.0] = Some(pair.1.1);
    if !fits(&set) {
        return None;
    }
    for dimension in 0..DIMENSIONS.len() {
        if set[dimension].is_some() {
            continue;
        }
        let gain = |value: usize| {
            let mut with = set;
            with[dimension] = Some(value);
            let has = |place: (usize, usize)| with[place.0] == Some(place.1);
            let new = |(a, b): &&Pair| has(*a) && has(*b) && (a.0 == dimension || b.0 == dimension);
            fits(&with).then(|| open.iter().filter(new).count())
        };
        let choices = values.iter().filter(|(d, _)| *d == dimension);
        let best = choices.filter_map(|(_, v)| Some((gain(*v)?, std::cmp::Reverse(*v)))).max()?;
        set[dimension] = Some(best.1.0);
    }
    let set = Set(set.map(|value| value.expect("each has been chosen")));
    set.is_legal().then_some(set)
}

/// Can the rest be chosen so that it is legal? The values that restrict others do so two
/// by two, with the least demanding first values for what is not chosen yet.
fn fits(set: &[Option<usize>; DIMENSIONS.len()]) -> bool {
    let blocks = match set[BLOCK] {
        Some(block) => block..block + 1,
        None => 0..DIMENSIONS[BLOCK].values.len(),
    };
    blocks.into_iter().any(|block| {
        let mut tried = Set(set.map(|value| value.unwrap_or(0)));
        tried.0[BLOCK] = block;
        tried.is_legal()
    })
}

#[test]
fn all_pairs_are_covered() {
    assert_eq!(all_bits().len(), 2 * 2 * 3 * 2 * 2 * 2 * 2 * 2);
    let sets = covering(true);
    assert!(sets.iter().all(Set::is_legal));
    let with = |d: usize, v: usize| sets.iter().filter(move |set| set.0[d] == v);
    for (d, dimension) in DIMENSIONS.iter().enumerate() {
        for v in 0..dimension.values.len() {
            assert!(with(d, v).count() > 0, "{} {v}", dimension.name);
        }
    }
    for a in 0..BITS {
        for b in a + 1..BITS {
            assert!(with(a, 1).any(|set| set.0[b] == 1), "{a} and {b}");
        }
    }
    assert!(covering(false).iter().all(|set| !set.is_new()));
}
