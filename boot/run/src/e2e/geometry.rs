//! Images of many geometries, made by mkfs.xfs, read by the guest and by
//! GRUB, overwritten by the guest and read by GRUB again.

use anyhow::{Result, ensure};

use super::harness::{Holdfast, Image, far_target, same, tree};
use super::overwrite::{Model, model_of};
use crate::image::{MIB, Recipe};
use crate::judge::Grub;
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    let case = |(name, mkfs): (&str, &'static str)| {
        Case::new(format!("e2e::geometry::{name}"), move |workspace| check(workspace, mkfs))
    };
    GEOMETRIES.into_iter().map(case).collect()
}

/// Names and arguments of mkfs.xfs.
const GEOMETRIES: [(&str, &str); 30] = [
    ("defaults", ""),
    ("block_1k", "-b size=1024"),
    ("block_2k", "-b size=2048"),
    ("sector_4096", "-s size=4096"),
    ("sector_4096_block_4k_inode_2k", "-s size=4096 -i size=2048"),
    ("ag_1", "-d agcount=1"),
    ("ag_7", "-d agcount=7"),
    ("dir_8k", "-n size=8192"),
    ("dir_16k", "-n size=16384"),
    ("dir_64k", "-n size=65536"),
    ("block_1k_dir_4k", "-b size=1024 -n size=4096"),
    ("block_1k_dir_64k", "-b size=1024 -n size=65536"),
    ("block_2k_dir_4k", "-b size=2048 -n size=4096"),
    ("block_2k_dir_32k", "-b size=2048 -n size=32768"),
    ("rmapbt", "-m rmapbt=1"),
    ("no_reflink", "-m reflink=0"),
    ("no_bigtime", "-m bigtime=0"),
    ("no_inobtcount", "-m inobtcount=0"),
    ("no_finobt", "-m finobt=0,inobtcount=0"),
    ("nrext64", "-i nrext64=1"),
    ("nrext64_rmapbt_block_1k", "-i nrext64=1 -m rmapbt=1 -b size=1024"),
    ("no_sparse", "-i sparse=0"),
    ("inode_512", "-i size=512"),
    ("inode_1k", "-i size=1024"),
    ("inode_2k", "-i size=2048"),
    ("stripe", "-d su=64k,sw=4 -l su=64k"),
    ("log_20m", "-l size=20m"),
    ("plain_v5", "-m rmapbt=0,reflink=0,bigtime=0,inobtcount=0,finobt=0 -i sparse=0,nrext64=0"),
    (
        "everything",
        "-m rmapbt=1,reflink=1,bigtime=1,inobtcount=1,finobt=1 -i nrext64=1,sparse=1,size=512 \
         -b size=1024 -n size=32768",
    ),
    ("label", "-L holdfast"),
];

fn check(workspace: &Workspace, mkfs: &str) -> Result<()> {
    let image = Image::make(workspace, &Recipe::new(128 * MIB).mkfs(mkfs).tree(tree()))?;
    let holdfast = || Holdfast::new(workspace).disk(&image.path);
    let manifest = holdfast().run_line("sha256sum -r /")?.success()?.manifest()?;
    same(&image.manifest, &manifest)?;
    names_and_links(&holdfast())?;
    // Then overwrite, and have the result read by somebody else.
    let mut model = Model::new(7);
    for path in [
        "/big.dat",
        "/sizes/1000003",
        "/sizes/4097",
        "/many/a-name-that-is-long-enough-to-fill-blocks-0599",
    ] {
        model.overwrite(path, image.bytes_of(workspace, path)?, 12);
    }
    holdfast().script(model.script())?.success()?;
    let mut expected = image.manifest.clone();
    expected.extend(model_of(&model));
    Grub::find()?.compare(&image.path, &expected).demand("grub-fstest")?;
    image.is_clean()
}

/// Directories list what was put in; links lead where they should.
fn names_and_links(holdfast: &Holdfast<'_>) -> Result<()> {
    let script = "ls /many\nls /empty\nreadlink /near\nreadlink /far\ncat /near\ncat /far/3/4/5/6/7/8/9/10/end\n";
    let text = holdfast.script(script)?.success()?.text();
    let (names, rest): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("a-name-that-is"));
    ensure!(names.len() == 600, "{} names in /many instead of 600", names.len());
    ensure!(names.is_sorted(), "ls does not sort");
    let far = far_target();
    let expected = ["hello.txt", far.as_str(), "hello from the disk", "deep"];
    ensure!(rest == expected, "links: {rest:?}");
    Ok(())
}
