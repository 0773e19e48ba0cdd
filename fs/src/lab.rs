//! Guards, points and counters for experiments on races.
//!
//! Every protection that keeps two threads from corrupting a file acts at one place of
//! the code, under a name: a [`Guard`]. The code asks [`Lab::acts`] there, when the
//! protection has something to do; the answer is yes, always, and costs nothing. Built
//! with the feature `lab`, guards count how often they acted and can be switched off one
//! by one, which restores the historic behaviour; and an observer is told of each
//! [`Point`] that a thread passes, and may hold the thread there.
//!
//! Owns: the names, the switches. Does not own: the protections.

/// Declares the guards or the points, with the names users know them by.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $type { $($(#[$each])* $name,)* }
        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// The one of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}

named! {
    /// A protection that can be switched off in a lab build.
    Guard {
        /// A write compares its map's cookie under the folio lock.
        IomapValidity = "iomap.validity",
        /// Giving back a reservation keeps what lies under dirty data.
        PunchSkipDirty = "punch.skip_dirty",
        /// Giving back a reservation keeps faults away meanwhile.
        PunchInvalidateLock = "punch.invalidate_lock",
        /// Giving back a reservation looks at blocks, not at folios.
        PunchPerBlock = "punch.per_block",
        /// Writeback asks whether its map still describes the file.
        WbRevalidate = "wb.revalidate",
        /// Writeback takes away the right to store before it takes the dirty bits.
        WbWriteProtect = "wb.write_protect",
        /// Writeback zeroes the bytes beyond the end of the file.
        WbZeroPastEof = "wb.zero_past_eof",
        /// An ioend proves no more of a size than the file had when it was submitted.
        IoendClamp = "ioend.clamp",
        /// Bytes beyond the end are zeroed before the file grows over them.
        EofZero = "eof.zero",
        /// The page at the end loses the right to be stored to when the file grows.
        EofWriteProtect = "eof.write_protect",
        /// Zeroing sees dirty data over holes and unwritten extents.
        ZeroDirty = "zero.dirty",
        /// A copy that stops within a block of unknown contents counts as nothing.
        WriteShortCopy = "write.short_copy",
        /// Filling a folio leaves alone the blocks that hold data.
        FillUptodate = "fill.uptodate",
        /// A direct write drops cached pages after it, too.
        DirectInvalidate = "direct.invalidate",
        /// A fault looks at the size again once it has the folio locked.
        FaultRecheckEof = "fault.recheck_eof",
        /// A store waits until the device no longer reads the page.
        MkwriteStable = "mkwrite.stable",
        /// Reclaim leaves dirty folios alone.
        ReclaimDirty = "reclaim.dirty",
    }
}

named! {
    /// A place in the code that an observer hears of. The numbers S1 to S7 are those of
    /// the storage semantics' directed tests.
    Point {
        /// S1: a write has its map.
        Begun = "S1",
        /// S2: a write has locked a folio and not compared the cookie yet.
        Locked = "S2",
        /// S3: a write has copied into a folio and unlocked it.
        Copied = "S3",
        /// S4: writeback has a map for a block; its folio is locked.
        Mapped = "S4",
        /// S5: the device has written; nothing is converted yet.
        Written = "S5",
        /// S6: extents are converted, the size is logged; the folios are still under
        /// writeback.
        Converted = "S6",
        /// S7: what can be given back is known, and not given back yet.
        Scanned = "S7",
        /// A write found its map stale.
        Stale = "stale",
        /// A reservation is given back.
        Punch = "punch",
        /// A page becomes writable through a mapping.
        Mkwrite = "mkwrite",
    }
}

pub use imp::Lab;

#[cfg(not(feature = "lab"))]
mod imp {
    use super::{Guard, Point};

    /// Nothing: guards act, points pass.
    #[derive(Debug, Default)]
    pub struct Lab;

    impl Lab {
        /// All guards on.
        pub const fn new() -> Self {
            Self
        }
        /// The protection has something to do: may it?
        #[inline(always)]
        pub const fn acts(&self, _: Guard) -> bool {
            true
        }
        /// A thread is at this point, with byte `pos` of file `file`.
        #[inline(always)]
        pub const fn at(&self, _: Point, _file: u64, _pos: u64) {}
    }
}

#[cfg(feature = "lab")]
mod imp {
    use alloc::sync::Arc;
    // Switches and counters are no part of what is examined: a scheduler that explores
    // every atomic step need not choose at these.
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    use holdfast_sync::Mutex;

    use super::{Guard, Point};
    use crate::locks;

    /// Is told of points, with the file's number and the byte's position.
    pub type Observer = Arc<dyn Fn(Point, u64, u64) + Send + Sync>;

    /// The switches of one page cache.
    pub struct Lab {
        off: AtomicU32,
        acted: [AtomicU64; Guard::ALL.len()],
        observer: Mutex<Option<Observer>>,
    }

    impl core::fmt::Debug for Lab {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            let off = |g: &&Guard| !self.is_on(**g);
            f.debug_list().entries(Guard::ALL.iter().filter(off).map(|g| g.name())).finish()
        }
    }

    impl Default for Lab {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Lab {
        /// All guards on.
        pub fn new() -> Self {
            Self {
                off: AtomicU32::new(0),
                acted: [const { AtomicU64::new(0) }; Guard::ALL.len()],
                observer: Mutex::new(&locks::STATE, None),
            }
        }
        /// The protection has something to do: may it? Counts if so.
        pub fn acts(&self, guard: Guard) -> bool {
            let on = self.is_on(guard);
            if on {
                self.acted[guard as usize].fetch_add(1, Ordering::Relaxed);
            }
            on
        }
        /// A thread is at this point, with byte `pos` of file `file`.
        pub fn at(&self, point: Point, file: u64, pos: u64) {
            let observer = self.observer.lock().clone();
            if let Some(observer) = observer {
                observer(point, file, pos);
            }
        }
        /// Is the guard on?
        pub fn is_on(&self, guard: Guard) -> bool {
            self.off.load(Ordering::Relaxed) & 1 << guard as u32 == 0
        }
        /// Switch a guard on or off.
        pub fn set(&self, guard: Guard, on: bool) {
            let bit = 1 << guard as u32;
            if on {
                self.off.fetch_and(!bit, Ordering::Relaxed);
            } else {
                self.off.fetch_or(bit, Ordering::Relaxed);
            }
        }
        /// How often the guard acted.
        pub fn acted(&self, guard: Guard) -> u64 {
            self.acted[guard as usize].load(Ordering::Relaxed)
        }
        /// Who is told of points from now on.
        pub fn observe(&self, observer: Option<Observer>) {
            *self.observer.lock() = observer;
        }
    }
}

#[cfg(feature = "lab")]
pub use imp::Observer;
