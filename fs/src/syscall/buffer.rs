//! A caller's memory: a slice, or a range of its address space, or a list of either.

use holdfast_sync::check;

use crate::iomap::{Sink, Source};
use crate::mm::{AddressSpace, USER_END};
use crate::platform::{Access, FaultHandler, PAGE_SIZE, Page, VirtAddr};
use crate::vfs::{ByteSink, ByteSource, TRANSFER_MAX};
use crate::{Error, Result};

/// Memory that a call fills.
pub enum BufMut<'a> {
    /// The caller's own.
    Slice(&'a mut [u8]),
    /// A range of the process's address space.
    User(VirtAddr, usize),
}

/// Memory that a call reads.
#[derive(Clone, Copy)]
pub enum Buf<'a> {
    /// The caller's own.
    Slice(&'a [u8]),
    /// A range of the process's address space.
    User(VirtAddr, usize),
}

impl BufMut<'_> {
    /// Bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Slice(s) => s.len(),
            Self::User(_, len) => *len,
        }
    }
    /// No bytes?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The first `len` bytes, borrowed.
    pub(super) fn first(&mut self, len: usize) -> BufMut<'_> {
        match self {
            Self::Slice(s) => BufMut::Slice(&mut s[..len]),
            Self::User(va, _) => BufMut::User(*va, len),
        }
    }
}

impl Buf<'_> {
    /// Bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Slice(s) => s.len(),
            Self::User(_, len) => *len,
        }
    }
    /// No bytes?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The first `len` bytes.
    pub(super) fn first(&self, len: usize) -> Self {
        match *self {
            Self::Slice(s) => Self::Slice(&s[..len]),
            Self::User(va, _) => Self::User(va, len),
        }
    }
}

impl<'a> From<&'a mut [u8]> for BufMut<'a> {
    fn from(s: &'a mut [u8]) -> Self {
        Self::Slice(s)
    }
}
impl<'a, const N: usize> From<&'a mut [u8; N]> for BufMut<'a> {
    fn from(s: &'a mut [u8; N]) -> Self {
        Self::Slice(s)
    }
}
impl<'a> From<&'a mut alloc::vec::Vec<u8>> for BufMut<'a> {
    fn from(s: &'a mut alloc::vec::Vec<u8>) -> Self {
        Self::Slice(s)
    }
}
impl From<(VirtAddr, usize)> for BufMut<'_> {
    fn from((va, len): (VirtAddr, usize)) -> Self {
        Self::User(va, len)
    }
}
impl<'a> From<&'a [u8]> for Buf<'a> {
    fn from(s: &'a [u8]) -> Self {
        Self::Slice(s)
    }
}
impl<'a, const N: usize> From<&'a [u8; N]> for Buf<'a> {
    fn from(s: &'a [u8; N]) -> Self {
        Self::Slice(s)
    }
}
impl<'a> From<&'a alloc::vec::Vec<u8>> for Buf<'a> {
    fn from(s: &'a alloc::vec::Vec<u8>) -> Self {
        Self::Slice(s)
    }
}
impl From<(VirtAddr, usize)> for Buf<'_> {
    fn from((va, len): (VirtAddr, usize)) -> Self {
        Self::User(va, len)
    }
}

/// Most parts of one list: Linux's `IOV_MAX`.
const PARTS_MAX: usize = 1024;

/// The place in a list of buffers.
#[derive(Default)]
struct Cursor {
    /// The part, and the offset in it.
    part: usize,
    offset: usize,
    remaining: usize,
}

/// Check a list of lengths and addresses; the bytes that one call moves.
fn total(parts: impl ExactSizeIterator<Item = (Option<VirtAddr>, usize)>) -> Result<usize> {
    if parts.len() > PARTS_MAX {
        return Err(Error::Invalid("more than 1024 buffers"));
    }
    let mut sum: usize = 0;
    for (va, len) in parts {
        sum = sum.checked_add(len).filter(|s| *s <= isize::MAX as usize).ok_or(TOO_LONG)?;
        // The kernel's half of the address space is nobody's buffer.
        let end = va.map_or(Some(0), |va| va.0.checked_add(len as u64));
        if end.is_none_or(|end| end > USER_END.0) {
            return Err(Error::Fault);
        }
    }
    Ok(sum.min(TRANSFER_MAX))
}

const TOO_LONG: Error = Error::Invalid("more bytes than can be counted");

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Where a read goes.
pub(super) struct IoSink<'a, 'b> {
    space: &'a AddressSpace,
    parts: &'a mut [BufMut<'b>],
    at: Cursor,
}

impl<'a, 'b> IoSink<'a, 'b> {
    /// # Errors
    /// Too many parts, too many bytes, an address that no program has.
    pub(super) fn new(space: &'a AddressSpace, parts: &'a mut [BufMut<'b>]) -> Result<Self> {
        let remaining = total(parts.iter().map(|part| match part {
            BufMut::Slice(s) => (None, s.len()),
            BufMut::User(va, len) => (Some(*va), *len),
        }))?;
        Ok(Self { space, parts, at: Cursor { remaining, ..Cursor::default() } })
    }
    /// Give up to `len` bytes: `slice` fills memory of the caller, `user` of the program.
    /// Both get the offset in what is given.
    #[inline]
    fn advance(
        &mut self,
        len: usize,
        mut slice: impl FnMut(usize, &mut [u8]),
        mut user: impl FnMut(&AddressSpace, usize, VirtAddr, usize) -> usize,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let Some(part) = self.parts.get_mut(self.at.part) else { break };
            let n = (part.len() - self.at.offset).min(len - done);
            if n == 0 {
                self.at.part += 1;
                self.at.offset = 0;
                continue;
            }
            let offset = self.at.offset;
            let moved = match part {
                BufMut::Slice(s) => {
                    slice(done, &mut s[offset..offset + n]);
                    n
                }
                BufMut::User(va, _) => user(self.space, done, va.add(offset as u64), n),
            };
            self.at.offset += moved;
            done += moved;
            if moved < n {
                break;
            }
        }
        self.at.remaining -= done;
        done
    }
    /// Copy bytes in, faults and all; the bytes copied.
    ///
    /// # Errors
    /// A bad address, if nothing was copied.
    pub(super) fn put_all(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let n = self.put_bytes(&bytes[done..]);
            done += n;
            if n == 0
                && let Err(e) = self.fault_in()
            {
                return if done > 0 { Ok(done) } else { Err(e) };
            }
        }
        Ok(done)
    }
}

impl Sink for IoSink<'_, '_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.at.remaining
    }
    #[inline]
    fn put(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        self.advance(
            len,
            |done, slice| page.read(offset + done, slice),
            |space, done, va, n| space.table().copy_to_user(va, page, offset + done, n),
        )
    }
    fn put_zeros(&mut self, len: usize) -> usize {
        self.advance(
            len,
            |_, slice| slice.fill(0),
            |space, _, va, n| {
                let mut done = 0;
                while done < n {
                    let part = (n - done).min(ZEROS.len());
                    let moved = space.table().write_user(va.add(done as u64), &ZEROS[..part]);
                    done += moved;
                    if moved < part {
                        break;
                    }
                }
                done
            },
        )
    }
    fn fault_in(&mut self) -> Result<()> {
        let lens = self.parts.iter().map(|part| match part {
            BufMut::Slice(s) => (None, s.len()),
            BufMut::User(va, len) => (Some(*va), *len),
        });
        fault_in(self.space, lens, &self.at, 0, Access::Write)
    }
}

impl ByteSink for IoSink<'_, '_> {
    fn put_bytes(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.at.remaining);
        self.advance(
            len,
            |done, slice| slice.copy_from_slice(&bytes[done..done + slice.len()]),
            |space, done, va, n| space.table().write_user(va, &bytes[done..done + n]),
        )
    }
}

/// Where a write comes from.
pub(super) struct IoSource<'a, 'b> {
    space: &'a AddressSpace,
    parts: &'a [Buf<'b>],
    at: Cursor,
    /// Bytes behind the cursor that were accessible a moment ago, and were taken back.
    ahead: usize,
}

impl<'a, 'b> IoSource<'a, 'b> {
    /// # Errors
    /// Too many parts, too many bytes, an address that no program has.
    pub(super) fn new(space: &'a AddressSpace, parts: &'a [Buf<'b>]) -> Result<Self> {
        let remaining = total(parts.iter().map(Self::describe))?;
        Ok(Self { space, parts, at: Cursor { remaining, ..Cursor::default() }, ahead: 0 })
    }
    fn describe(part: &Buf<'_>) -> (Option<VirtAddr>, usize) {
        match part {
            Buf::Slice(s) => (None, s.len()),
            Buf::User(va, len) => (Some(*va), *len),
        }
    }
    #[inline]
    fn advance(
        &mut self,
        len: usize,
        mut slice: impl FnMut(usize, &[u8]),
        mut user: impl FnMut(&AddressSpace, usize, VirtAddr, usize) -> usize,
    ) -> usize {
        self.ahead = 0;
        let mut done = 0;
        while done < len {
            let Some(part) = self.parts.get(self.at.part) else { break };
            let n = (part.len() - self.at.offset).min(len - done);
            if n == 0 {
                self.at.part += 1;
                self.at.offset = 0;
                continue;
            }
            let offset = self.at.offset;
            let moved = match part {
                Buf::Slice(s) => {
                    slice(done, &s[offset..offset + n]);
                    n
                }
                Buf::User(va, _) => user(self.space, done, va.add(offset as u64), n),
            };
            self.at.offset += moved;
            done += moved;
            if moved < n {
                break;
            }
        }
        self.at.remaining -= done;
        done
    }
}

impl Source for IoSource<'_, '_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.at.remaining
    }
    #[inline]
    fn take(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        self.advance(
            len,
            |done, slice| page.write(offset + done, slice),
            |space, done, va, n| space.table().copy_from_user(va, page, offset + done, n),
        )
    }
    fn revert(&mut self, mut len: usize) {
        self.ahead += len;
        self.at.remaining += len;
        while len > self.at.offset {
            len -= self.at.offset;
            self.at.part -= 1;
            self.at.offset = self.parts[self.at.part].len();
        }
        self.at.offset -= len;
    }
    fn fault_in(&mut self) -> Result<()> {
        let parts = self.parts.iter().map(Self::describe);
        match fault_in(self.space, parts, &self.at, self.ahead, Access::Read) {
            Err(_) if self.ahead > 0 => {
                self.at.remaining = self.ahead;
                Ok(())
            }
            result => result,
        }
    }
}

impl ByteSource for IoSource<'_, '_> {
    fn take_bytes(&mut self, bytes: &mut [u8]) -> usize {
        let len = bytes.len().min(self.at.remaining);
        let bytes = core::cell::RefCell::new(bytes);
        self.advance(
            len,
            |done, slice| bytes.borrow_mut()[done..done + slice.len()].copy_from_slice(slice),
            |space, done, va, n| {
                space.table().read_user(va, &mut bytes.borrow_mut()[done..done + n])
            },
        )
    }
}

/// Make accessible the byte `ahead` of the cursor.
fn fault_in(
    space: &AddressSpace,
    parts: impl Iterator<Item = (Option<VirtAddr>, usize)>,
    at: &Cursor,
    ahead: usize,
    access: Access,
) -> Result<()> {
    let mut offset = at.offset + ahead;
    for (va, len) in parts.skip(at.part) {
        if offset < len {
            let Some(va) = va else { return Ok(()) };
            let faulted = space.handle_fault(va.add(offset as u64), access);
            // The caller of a system call gets no signal for its arguments.
            return faulted.map_err(|_| Error::Fault);
        }
        offset -= len;
    }
    Ok(())
}

/// Called where a system call returns to its caller, who must hold nothing any more.
#[inline]
pub(super) fn leaving() {
    check::assert_none_held("a system call returned");
}
