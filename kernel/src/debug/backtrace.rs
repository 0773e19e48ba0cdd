//! Walking a stack by the unwind tables in the image (`.eh_frame`).
//!
//! The prebuilt `core` and `alloc` have no frame pointers, but every function has
//! unwind rules. Interrupt entries and the switch are assembler without rules; their
//! frames have fixed layouts and are stepped over by hand. A stack may be damaged: every
//! address is checked against the stack's bounds, and the walk is limited.

use core::arch::asm;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EndianSlice, LittleEndian, ReaderOffset, Register,
    RegisterRule, UnwindContext, UnwindContextStorage, UnwindSection, UnwindTableRow, X86_64,
};

use crate::arch::context::Saved;
use crate::arch::trap::{self, TrapFrame};
use crate::mm::layout;
use crate::println;
use crate::spinlock::SpinLock;

const DEEPEST: usize = 64;
/// Registers unwind rules may refer to, by their DWARF numbers.
const REGISTERS: usize = 17;

unsafe extern "C" {
    static __eh_frame_start: u8;
    static __eh_frame_end: u8;
}

/// Where a thread is: what its unwind rules start from.
#[derive(Clone, Copy, Default)]
pub(crate) struct Registers {
    values: [u64; REGISTERS],
    /// The address is that of an instruction about to run, not a return address.
    exact: bool,
}

impl Registers {
    fn new(rip: u64, rsp: u64, rbp: u64, rbx: u64, r12_to_15: [u64; 4], exact: bool) -> Self {
        let mut values = [0; REGISTERS];
        values[X86_64::RA.0 as usize] = rip;
        values[X86_64::RSP.0 as usize] = rsp;
        values[X86_64::RBP.0 as usize] = rbp;
        values[X86_64::RBX.0 as usize] = rbx;
        values[X86_64::R12.0 as usize..].iter_mut().zip(r12_to_15).for_each(|(v, r)| *v = r);
        Self { values, exact }
    }
    fn get(&self, register: Register) -> u64 {
        self.values.get(register.0 as usize).copied().unwrap_or(0)
    }
    fn rip(&self) -> u64 {
        self.get(X86_64::RA)
    }
    fn rsp(&self) -> u64 {
        self.get(X86_64::RSP)
    }
    /// The caller's.
    #[inline(never)]
    pub(crate) fn here() -> Self {
        let (rip, rsp, rbp, rbx): (u64, u64, u64, u64);
        let mut high = [0u64; 4];
        // SAFETY: copies registers.
        unsafe {
            asm!(
                "lea {rip}, [rip]",
                "mov {rsp}, rsp",
                "mov {rbp}, rbp",
                "mov {rbx}, rbx",
                "mov [{high}], r12",
                "mov [{high} + 8], r13",
                "mov [{high} + 16], r14",
                "mov [{high} + 24], r15",
                rip = out(reg) rip,
                rsp = out(reg) rsp,
                rbp = out(reg) rbp,
                rbx = out(reg) rbx,
                high = in(reg) high.as_mut_ptr(),
            );
        }
        Self::new(rip, rsp, rbp, rbx, high, true)
    }
    /// Those an interrupt or exception found.
    pub(crate) fn of_frame(f: &TrapFrame) -> Self {
        Self::new(f.rip, f.rsp, f.rbp, f.rbx, [f.r12, f.r13, f.r14, f.r15], true)
    }
    /// Those of a thread that was switched away.
    pub(crate) fn of_switched(rsp: u64, bounds: (u64, u64)) -> Option<Self> {
        let size = size_of::<Saved>() as u64;
        if rsp < bounds.0 || rsp.checked_add(size)? > bounds.1 || !rsp.is_multiple_of(8) {
            return None;
        }
        // SAFETY: inside the thread's stack, which is mapped; the thread does not run.
        let s = unsafe { (rsp as *const Saved).read() };
        Some(Self::new(s.rip, rsp + size, s.rbp, s.rbx, [s.r12, s.r13, s.r14, s.r15], false))
    }
}

/// Room for unwind rules without a heap, which may be what went wrong.
struct StoreInPlace;
impl<T: ReaderOffset> UnwindContextStorage<T> for StoreInPlace {
    type Rules = [(Register, RegisterRule<T>); 32];
    type Stack = [UnwindTableRow<T, Self>; 4];
}

type Section = EhFrame<EndianSlice<'static, LittleEndian>>;

/// Unwind rules as the linker laid them out.
fn section() -> (Section, BaseAddresses) {
    let start = &raw const __eh_frame_start;
    let len = &raw const __eh_frame_end as usize - start as usize;
    // SAFETY: the linker script's bounds of a read-only section.
    let bytes = unsafe { core::slice::from_raw_parts(start, len) };
    let bases =
        BaseAddresses::default().set_eh_frame(start as u64).set_text(layout::image().text_start);
    (EhFrame::new(bytes, LittleEndian), bases)
}

/// Too large for a nearly full stack.
static CONTEXT: SpinLock<Option<UnwindContext<usize, StoreInPlace>>> = SpinLock::new(None);

/// A word of the stack, if it lies there.
fn word(address: u64, bounds: (u64, u64)) -> Option<u64> {
    let inside = address >= bounds.0 && address.checked_add(8)? <= bounds.1;
    // SAFETY: inside a mapped stack, aligned.
    (inside && address.is_multiple_of(8)).then(|| unsafe { *(address as *const u64) })
}

/// The caller's registers, by the unwind rules of the code at `rip`.
fn step(now: &Registers, bounds: (u64, u64)) -> Option<Registers> {
    if now.rip() == trap::return_address() {
        let frame = now.rsp();
        let end = frame.checked_add(size_of::<TrapFrame>() as u64)?;
        if frame < bounds.0 || end > bounds.1 || !frame.is_multiple_of(16) {
            return None;
        }
        // SAFETY: a handler's caller is the entry stub, whose stack pointer is the frame.
        return Some(Registers::of_frame(unsafe { &*(frame as *const TrapFrame) }));
    }
    by_rules(now, bounds).or_else(|| {
        // Assembler routines have no rules; their return address is on top of the stack.
        let ra = word(now.rsp(), bounds).filter(|_| now.exact)?;
        let mut next = *now;
        next.values[X86_64::RA.0 as usize] = ra;
        next.values[X86_64::RSP.0 as usize] = now.rsp() + 8;
        next.exact = false;
        Some(next)
    })
}

fn by_rules(now: &Registers, bounds: (u64, u64)) -> Option<Registers> {
    let (section, bases) = section();
    // A return address may be the first of the next function.
    let rip = if now.exact { now.rip() } else { now.rip().checked_sub(1)? };
    let mut context = CONTEXT.lock();
    let context = context.get_or_insert_with(UnwindContext::new_in);
    let fde = section.fde_for_address(&bases, rip, EhFrame::cie_from_offset).ok()?;
    let row = fde.unwind_info_for_address(&section, &bases, context, rip).ok()?;
    let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
    let cfa = now.get(register).checked_add_signed(offset)?;
    let mut next = *now;
    next.exact = false;
    for register in 0..REGISTERS as u16 {
        match row.register(Register(register)) {
            Some(RegisterRule::Offset(offset)) => {
                next.values[register as usize] = word(cfa.checked_add_signed(offset)?, bounds)?;
            }
            Some(RegisterRule::ValOffset(offset)) => {
                next.values[register as usize] = cfa.checked_add_signed(offset)?;
            }
            _ => {}
        }
    }
    next.values[X86_64::RSP.0 as usize] = cfa;
    Some(next)
}

/// Visit the addresses of a stack's frames, innermost first.
pub(crate) fn walk(from: &Registers, bounds: (u64, u64), mut visit: impl FnMut(u64)) {
    let image = layout::image();
    let mut now = *from;
    for _ in 0..DEEPEST {
        if !(image.text_start..image.text_end).contains(&now.rip()) {
            return;
        }
        visit(now.rip());
        let Some(next) = step(&now, bounds) else { return };
        if next.rsp() <= now.rsp() && next.rip() == now.rip() {
            return;
        }
        now = next;
    }
}

/// Print a backtrace, one line a frame, for the host to resolve.
pub(crate) fn print(from: &Registers, bounds: (u64, u64)) {
    walk(from, bounds, |rip| println!("backtrace: {rip:#x}"));
}
