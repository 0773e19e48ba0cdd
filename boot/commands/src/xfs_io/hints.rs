//! The flags, hints and project of the open file: chattr, extsize, cowextsize, chproj, lsproj.

use alloc::string::String;

use holdfast_fs::xfs::{Attributes, FileType, FsXattr};

use super::meta::XFLAGS;
use super::{Failure, Outcome, Run};
use crate::out;

/// `FS_XFLAG_EXTSIZE`, `FS_XFLAG_EXTSZINHERIT`, `FS_XFLAG_COWEXTSIZE`.
const EXTSIZE: u32 = 1 << 11;
const EXTSIZE_INHERIT: u32 = 1 << 12;
const COW_EXTSIZE: u32 = 1 << 16;

fn attributes(run: &Run<'_>) -> Result<Attributes, Failure> {
    run.cx.process.attributes(run.fd()).map_err(|e| Failure::Call("FS_IOC_FSGETXATTR", e))
}

fn set(run: &Run<'_>, new: &FsXattr) -> Outcome {
    let set = run.cx.process.fssetxattr(run.fd(), new);
    set.map_err(|e| Failure::Call("FS_IOC_FSSETXATTR", e))
}

/// Everything as it is.
const fn present(a: &Attributes) -> FsXattr {
    FsXattr { xflags: a.xflags, extsize: a.extsize, cowextsize: a.cowextsize, projid: a.projid }
}

/// `chattr +/-letters`
pub(super) fn chattr(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let Some((sign @ (b'+' | b'-'), letters)) = words[1].split_first() else {
        return Err(Failure::Usage);
    };
    let mut bits = 0;
    for letter in letters {
        let known = XFLAGS.iter().find(|f| f.1 == *letter as char && f.0 < 1 << 31);
        let Some(flag) = known else {
            let message = alloc::format!("invalid flag character {:?}", *letter as char);
            return Err(Failure::Message(message));
        };
        bits |= flag.0;
    }
    let mut new = present(&attributes(run)?);
    match sign {
        b'+' => new.xflags |= bits,
        _ => new.xflags &= !bits,
    }
    set(run, &new)
}

/// `extsize [bytes]`
pub(super) fn extsize(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let a = attributes(run)?;
    let Some(word) = words.get(1) else { return show(run, a.extsize) };
    let stat = run.cx.process.fstat(run.fd()).map_err(|e| Failure::Call("fstat", e))?;
    let mut new = present(&a);
    new.extsize = bytes(run, word)?;
    new.xflags |= match stat.file_type() {
        FileType::Directory => EXTSIZE_INHERIT,
        _ => EXTSIZE,
    };
    set(run, &new)
}

/// `cowextsize [bytes]`
pub(super) fn cowextsize(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let a = attributes(run)?;
    let Some(word) = words.get(1) else { return show(run, a.cowextsize) };
    let mut new = present(&a);
    new.cowextsize = bytes(run, word)?;
    new.xflags |= COW_EXTSIZE;
    set(run, &new)
}

/// `chproj projid`
pub(super) fn chproj(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let projid = run.quantity("projid argument", words[1])?;
    let Ok(projid) = u32::try_from(projid) else {
        return Err(Failure::Message("the project is too large".into()));
    };
    set(run, &FsXattr { projid, ..present(&attributes(run)?) })
}

/// `lsproj`
pub(super) fn lsproj(run: &mut Run<'_>, _: &[&[u8]]) -> Outcome {
    let a = attributes(run)?;
    out!(run.cx, "projid = {}\n", a.projid);
    Ok(())
}

fn show(run: &mut Run<'_>, bytes: u32) -> Outcome {
    let path = String::from_utf8_lossy(&run.file().path).into_owned();
    out!(run.cx, "[{bytes}] {path}\n");
    Ok(())
}

fn bytes(run: &Run<'_>, word: &[u8]) -> Result<u32, Failure> {
    let size = run.quantity("extsize argument", word)?;
    u32::try_from(size).map_err(|_| Failure::Message("the hint is too large".into()))
}
