//! Debug registers as ptrace(2) has them: what a tracer sets, and what the CPU is to watch of it.
//!
//! A register is a breakpoint from the first time that it was given an address or a place in DR7; then it is checked
//! at every change, whether it is enabled or not (arch/x86/kernel/ptrace.c, hw_breakpoint.c).

use crate::errno::Errno;
use crate::platform::Breakpoints;

/// Where user space ends, whatever a platform leaves of it to applications (arch/x86/include/asm/page_64_types.h).
const TASK_SIZE_MAX: u64 = 0x7fff_ffff_f000;
/// What of DR7 there is (the complement of Linux's DR_CONTROL_RESERVED).
const CONTROL: u64 = 0xffff_03ff;
/// Bits of DR6 that are set where nothing is said (DR6_RESERVED).
const STATUS_RESERVED: u64 = 0xffff_0ff0;
/// A single step, in DR6.
const STEP: u64 = 1 << 14;
/// The four breakpoints, in DR6.
const POINTS: u64 = 0xf;

/// A breakpoint.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Point {
    addr: u64,
    /// As in DR7: kind (0 execution, 1 writes, 3 reads and writes), and above it the length.
    kind: u8,
    enabled: bool,
}

/// Writes of one byte, which a new one watches for.
const WRITES: u8 = 1;

impl Point {
    /// What it is in DR7, if it can be. `EINVAL` for I/O, for addresses that are not aligned or the kernel's.
    fn checked(self) -> Result<Point, Errno> {
        let len: u64 = match (self.kind & 3, self.kind >> 2) {
            (0, 0) | (1 | 3, 0) => 1,
            (1 | 3, 1) => 2,
            (1 | 3, 2) => 8,
            (1 | 3, 3) => 4,
            _ => return Err(Errno::EINVAL),
        };
        let last = self.addr.checked_add(len.saturating_sub(1)).ok_or(Errno::EINVAL)?;
        let fits = self.addr.is_multiple_of(len) && last < TASK_SIZE_MAX;
        if fits { Ok(self) } else { Err(Errno::EINVAL) }
    }
}

/// A task's debug registers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DebugRegisters {
    points: [Option<Point>; 4],
    /// DR7 as it was last set.
    control: u64,
    /// Why the last debug exception came, as DR6 has it without what is reserved there.
    status: u64,
}

/// The fields of DR7 for one register: whether it is enabled, locally or globally, and what it is.
fn field(control: u64, n: usize) -> (bool, u8) {
    let of = |shift: usize, mask: u64| control >> shift & mask;
    (of(n.saturating_mul(2), 3) != 0, of(n.saturating_mul(4).saturating_add(16), 15) as u8)
}

impl DebugRegisters {
    /// Those of a child: the numbers that were set, and no breakpoint.
    pub fn for_child(&self) -> DebugRegisters {
        DebugRegisters { points: [None; 4], ..*self }
    }

    /// DR0 to DR7 as PTRACE_PEEKUSER shows them.
    pub fn get(&self, n: u64) -> u64 {
        match n {
            0..4 => self.points.get(n as usize).copied().flatten().map_or(0, |point| point.addr),
            6 => self.status ^ STATUS_RESERVED,
            7 => self.control,
            _ => 0,
        }
    }

    /// PTRACE_POKEUSER. `EINVAL` for what cannot be watched, `EIO` for registers that there are not.
    pub fn set(&mut self, n: u64, value: u64) -> Result<(), Errno> {
        match n {
            0..4 => {
                let slot = self.points.get_mut(n as usize).ok_or(Errno::EIO)?;
                let new = Point { kind: WRITES, ..Point::default() };
                *slot = Some(Point { addr: value, ..slot.unwrap_or(new) }.checked()?);
            }
            6 => self.status = value ^ STATUS_RESERVED,
            7 => {
                let mut points = self.points;
                for (n, slot) in points.iter_mut().enumerate() {
                    let (enabled, kind) = field(value & CONTROL, n);
                    if slot.is_some() || enabled {
                        let point = Point { kind, enabled, ..slot.unwrap_or_default() };
                        *slot = Some(point.checked()?);
                    }
                }
                (self.points, self.control) = (points, value);
            }
            _ => return Err(Errno::EIO),
        }
        Ok(())
    }

    /// What the CPU is to watch.
    pub fn breakpoints(&self) -> Breakpoints {
        let mut all = Breakpoints::default();
        for (n, (point, addr)) in self.points.iter().zip(&mut all.addresses).enumerate() {
            if let Some(point) = point.filter(|point| point.enabled) {
                let place = n.saturating_mul(4).saturating_add(16);
                *addr = point.addr;
                all.control |= 1 << n.saturating_mul(2) | u64::from(point.kind) << place;
            }
        }
        all
    }

    /// A debug exception has come, for these reasons: what they are when those are dealt with that are nobody's, and
    /// whether the instruction there is to be executed without stopping again (hw_breakpoint_handler()).
    pub fn happened(&mut self, reasons: u64) -> (Reason, bool) {
        self.status = reasons & STEP;
        let mut resume = false;
        for (n, point) in self.points.iter().enumerate().filter(|(n, _)| reasons >> n & 1 != 0) {
            let executes = point.is_some_and(|point| point.kind & 3 == 0);
            // That is a fault, which comes by itself, before the instruction.
            if executes && reasons & STEP != 0 {
                continue;
            }
            self.status |= 1 << n;
            resume |= executes;
        }
        let reason = match reasons {
            r if r & STEP != 0 => Reason::Step,
            r if r & POINTS != 0 => Reason::Breakpoint,
            _ => Reason::Instruction,
        };
        (reason, resume)
    }
}

/// Why a debug exception has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A single step, and perhaps more.
    Step,
    /// A breakpoint.
    Breakpoint,
    /// INT1.
    Instruction,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breakpoint_is_enabled_by_dr7_and_checked_as_a_whole() {
        let mut debug = DebugRegisters::default();
        assert_eq!(debug.set(0, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(debug.set(0, 0x1001), Ok(()));
        // Writes of four bytes do not fit there, and the whole of DR7 is refused.
        assert_eq!(debug.set(7, 1 | 4 | 0xd << 16), Err(Errno::EINVAL));
        assert_eq!((debug.get(7), debug.breakpoints()), (0, Breakpoints::default()));
        assert_eq!(debug.set(0, 0x1004), Ok(()));
        assert_eq!(debug.set(7, 2 | 0xd << 16), Ok(()));
        let watched = Breakpoints { addresses: [0x1004, 0, 0, 0], control: 1 | 0xd << 16 };
        assert_eq!(debug.breakpoints(), watched);
        let child = debug.for_child();
        assert_eq!(
            (child.get(0), child.get(7), child.breakpoints().control),
            (0, 2 | 0xd << 16, 0)
        );
    }

    #[test]
    fn reasons_are_kept_where_dr6_has_them() {
        let mut debug = DebugRegisters::default();
        assert_eq!(debug.get(6), STATUS_RESERVED);
        assert_eq!((debug.set(1, 0x2000), debug.set(7, 1 << 2)), (Ok(()), Ok(())));
        assert_eq!(debug.happened(2), (Reason::Breakpoint, true));
        assert_eq!(debug.get(6), STATUS_RESERVED | 2);
        // The step comes first, the breakpoint by itself.
        assert_eq!(debug.happened(STEP | 2), (Reason::Step, false));
        assert_eq!(debug.get(6), STATUS_RESERVED | STEP);
        assert_eq!(debug.happened(0), (Reason::Instruction, false));
    }
}
