//! Page faults.

use alloc::sync::Arc;
use core::ops::Range;

use super::area::{Area, Backing};
use super::space::find;
use super::{AddressSpace, FAULT_AROUND, MappedFile, Prot};
use crate::iomap;
use crate::pagecache::Mapping;
use crate::platform::{Access, FaultHandler, OutOfMemory, PAGE_SHIFT, PAGE_SIZE};
use crate::platform::{Page, PageOf, Signal, VirtAddr};

impl FaultHandler for AddressSpace {
    fn handle_fault(&self, va: VirtAddr, access: Access) -> Result<(), Signal> {
        let dirtied = self.fault_in_area(va.0 >> PAGE_SHIFT, access)?;
        if let Some(mapping) = dirtied {
            // Dirtiers wait here, with no lock held that writeback or an unmap needs.
            mapping.throttle();
        }
        Ok(())
    }
}

impl AddressSpace {
    /// The file, if the fault made one of its pages dirty.
    fn fault_in_area(&self, number: u64, access: Access) -> Result<Option<Arc<Mapping>>, Signal> {
        let areas = self.areas.read();
        let area = find(&areas, number).ok_or(Signal::Segv)?;
        if !allowed(area.prot, access) {
            return Err(Signal::Segv);
        }
        match &area.backing {
            Backing::Anonymous => {
                area.map_zeros(number, || self.zero_page()).map_err(no_memory)?;
                Ok(None)
            }
            Backing::File { file, mapping, .. } => {
                self.fault_in_file(area, file, mapping, number, access)?;
                let stored = access == Access::Write && area.shared;
                Ok(stored.then(|| mapping.clone()))
            }
        }
    }
    fn fault_in_file(
        &self,
        area: &Area,
        file: &Arc<dyn MappedFile>,
        mapping: &Arc<Mapping>,
        number: u64,
        access: Access,
    ) -> Result<(), Signal> {
        let index = area.key(number);
        // Until the entry is in place nobody cuts the file or drops this range of it.
        let _within = mapping.invalidate_lock().read();
        if access != Access::Write {
            if map_around(area, mapping, number, index) {
                return Ok(());
            }
            let folio = iomap::fault(mapping, file.readahead(), index).map_err(bus)?;
            return area.map_folio(index, &folio, false).map_err(no_memory);
        }
        if area.shared {
            file.stored();
            let folio = iomap::fault(mapping, file.readahead(), index).map_err(bus)?;
            iomap::mkwrite(mapping, &folio, index).map_err(bus)?;
            return area.map_folio(index, &folio, true).map_err(no_memory);
        }
        if area.has_private(number) {
            return Ok(());
        }
        let copy = self.memory.alloc_page().ok_or(Signal::Bus)?;
        let folio = iomap::fault(mapping, file.readahead(), index).map_err(bus)?;
        copy_page(folio.page_of(index), &copy);
        area.map_copy(index, &folio, copy).map_err(no_memory)
    }
    fn zero_page(&self) -> Option<Page> {
        let page = self.memory.alloc_page()?;
        page.zero(0, PAGE_SIZE);
        Some(page)
    }
}

/// Map what is cached around a page, all of it for reading: the next faults are saved.
/// Is the page itself among it?
fn map_around(area: &Area, mapping: &Mapping, number: u64, index: u64) -> bool {
    let mut found = false;
    iomap::fault_around(mapping, window(area, number), &mut |pages| {
        let mapped = area.map_around(pages);
        if let Some((_, folio)) = pages[..mapped].iter().find(|(page, _)| *page == index) {
            folio.mark_accessed();
            found = true;
        }
    });
    found
}

/// The aligned group of file pages that holds a page, as far as the area goes; it lies
/// within one chunk of the area.
fn window(area: &Area, number: u64) -> Range<u64> {
    let index = area.key(number);
    let first = index / FAULT_AROUND * FAULT_AROUND;
    first.max(area.key(area.start))..(first + FAULT_AROUND).min(area.key(area.end))
}

fn allowed(prot: Prot, access: Access) -> bool {
    match access {
        // The processor cannot give the right to store without that to load.
        Access::Read => !prot.is_empty(),
        Access::Write => prot.contains(Prot::WRITE),
        Access::Execute => prot.contains(Prot::EXEC),
    }
}

fn copy_page(from: PageOf<'_>, to: &Page) {
    let mut bounce = [0; 512];
    for offset in (0..PAGE_SIZE).step_by(bounce.len()) {
        from.run.read(from.offset + offset, &mut bounce);
        to.write(offset, &bounce);
    }
}

fn bus(error: iomap::FaultError) -> Signal {
    if let iomap::FaultError::Error(e) = &error {
        log::debug!("fault: {e}");
    }
    Signal::Bus
}

fn no_memory(_: OutOfMemory) -> Signal {
    Signal::Bus
}
