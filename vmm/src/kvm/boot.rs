//! What lies in RAM before the first instruction: page tables, boot page, rings.

use guest::contract::{
    BootPage, CALL_TEXT, COMPLETION_ENTRIES, CallPage, ClockPage, Completion, CpuidEntry,
    DIRECT_MAP, MAGIC, PAGE, RAM_BASE, RING_ENTRIES, Request, VERSION,
};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use zerocopy::IntoBytes;

use super::image::Loaded;
use super::memory::{OutsideRam, Ram};

/// What the host half remembers of the boot page, so that it never reads it back.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The boot page.
    pub boot: u64,
    /// [`guest::contract::SharedControl`].
    pub control: u64,
    /// [`ClockPage`].
    pub clock: u64,
    /// The first [`CallPage`].
    pub calls: u64,
    /// The submission ring.
    pub submissions: u64,
    /// The completion ring.
    pub completions: u64,
    /// The first page table.
    pub cr3: u64,
    /// First address that nothing at boot uses.
    pub first_free: u64,
}

impl Layout {
    /// The call page of a vCPU.
    pub fn call(&self, cpu: u32) -> u64 {
        self.calls + u64::from(cpu) * PAGE
    }
}

/// What the boot page says beside addresses.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// One of [`guest::contract::mode`].
    pub mode: u32,
    /// Where the window begins.
    pub window_base: u64,
    /// Its size.
    pub window_size: u64,
    /// vCPUs that there may be.
    pub vcpus: u32,
    /// Bits of [`guest::contract::Force`].
    pub force: u64,
    /// KVM_GET_TSC_KHZ.
    pub tsc_khz: u64,
    /// Least log level wanted.
    pub log_level: u32,
    /// Whether CPUID has 1 GiB pages.
    pub gigabyte_pages: bool,
    /// Seed of the image's generator.
    pub entropy: [u8; 64],
}

/// Lays everything out behind the image and fills it in. `OutsideRam` where RAM is too small.
pub fn prepare(
    ram: &Ram,
    image: &Loaded,
    cpuid: &[kvm_cpuid_entry2],
    info: &BootInfo,
) -> Result<Layout, OutsideRam> {
    let mut free = Free { next: image.end };
    let cpuid: Vec<CpuidEntry> = cpuid.iter().map(cpuid_row).collect();
    let mut layout = Layout {
        boot: free.take(PAGE),
        control: free.take(PAGE),
        clock: free.take(size_of::<ClockPage>() as u64),
        calls: free.take(u64::from(info.vcpus) * size_of::<CallPage>() as u64),
        submissions: free.take(u64::from(RING_ENTRIES) * size_of::<Request>() as u64),
        completions: free.take(u64::from(COMPLETION_ENTRIES) * size_of::<Completion>() as u64),
        cr3: free.take(PAGE),
        first_free: 0,
    };
    let cpuid_at = free.take(size_of_val(&cpuid[..]) as u64);
    ram.write(cpuid_at, cpuid.as_bytes())?;

    let mut tables = Tables { ram, root: layout.cr3, free: &mut free };
    for s in &image.segments {
        let mut rights = KERNEL & !WRITABLE;
        if s.write {
            rights |= WRITABLE;
        }
        if !s.exec {
            rights |= NO_EXECUTE;
        }
        for at in (0..s.len).step_by(PAGE as usize) {
            tables.map(s.virt + at, s.phys + at, Size::Small, rights)?;
        }
    }
    let size = if info.gigabyte_pages { Size::Huge } else { Size::Large };
    for (base, len) in [(RAM_BASE, ram.size()), (info.window_base, info.window_size)] {
        for at in (0..len).step_by(size.bytes() as usize) {
            tables.map(DIRECT_MAP + base + at, base + at, size, KERNEL | NO_EXECUTE)?;
        }
    }
    layout.first_free = free.next;
    ram.check(RAM_BASE, layout.first_free - RAM_BASE)?;

    let boot = BootPage {
        magic: MAGIC,
        version: VERSION,
        mode: info.mode,
        ram_size: ram.size(),
        first_free: layout.first_free,
        window_base: info.window_base,
        window_size: info.window_size,
        control: layout.control,
        clock: layout.clock,
        calls: layout.calls,
        submissions: layout.submissions,
        completions: layout.completions,
        cpuid: cpuid_at,
        // Some hundred rows at most (KVM_MAX_CPUID_ENTRIES).
        cpuid_count: cpuid.len() as u32,
        vcpus: info.vcpus,
        force: info.force,
        // KVM's local APIC counts nanoseconds (arch/x86/kvm/lapic.h, APIC_BUS_FREQUENCY).
        apic_hz: 1_000_000_000,
        tsc_khz: info.tsc_khz,
        log_level: info.log_level,
        reserved: 0,
        entropy: info.entropy,
    };
    ram.put(layout.boot, &boot)?;
    Ok(layout)
}

const _: () = assert!(CALL_TEXT < PAGE as usize);

fn cpuid_row(e: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        leaf: e.function,
        subleaf: e.index,
        indexed: u32::from(e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0),
        reserved: 0,
        regs: [e.eax, e.ebx, e.ecx, e.edx],
    }
}

/// Hands out page-aligned pieces of RAM. That they are inside RAM shows when they are written, and
/// once more at the end.
struct Free {
    next: u64,
}

impl Free {
    fn take(&mut self, len: u64) -> u64 {
        let at = self.next;
        self.next += len.next_multiple_of(PAGE);
        at
    }
}

// Page table bits (Intel SDM volume 3, 4.5).
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const KERNEL: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY | GLOBAL;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
    Huge,
}

impl Size {
    fn bytes(self) -> u64 {
        1 << self.shift()
    }

    fn shift(self) -> u32 {
        match self {
            Size::Small => 12,
            Size::Large => 21,
            Size::Huge => 30,
        }
    }
}

struct Tables<'a> {
    ram: &'a Ram,
    root: u64,
    free: &'a mut Free,
}

impl Tables<'_> {
    fn map(&mut self, virt: u64, phys: u64, size: Size, rights: u64) -> Result<(), OutsideRam> {
        let mut table = self.root;
        let mut shift = 39;
        while shift > size.shift() {
            let slot = table + (virt >> shift & 511) * 8;
            let entry: u64 = self.ram.get(slot)?;
            table = if entry & PRESENT != 0 {
                entry & ADDRESS
            } else {
                let next = self.free.take(PAGE);
                self.ram.put(slot, &(next | PRESENT | WRITABLE | ACCESSED))?;
                next
            };
            shift -= 9;
        }
        let large = if size == Size::Small { 0 } else { PAGE_SIZE };
        self.ram.put(table + (virt >> shift & 511) * 8, &(phys | rights | large))
    }
}

#[cfg(test)]
mod tests {
    use guest::contract::IMAGE_BASE;

    use super::super::image;
    use super::*;

    /// Walks the tables as the CPU does.
    fn translate(ram: &Ram, cr3: u64, virt: u64) -> Option<(u64, u64)> {
        let mut table = cr3;
        for shift in [39, 30, 21, 12] {
            let entry: u64 = ram.get(table + (virt >> shift & 511) * 8).unwrap();
            if entry & PRESENT == 0 {
                return None;
            }
            if shift == 12 || entry & PAGE_SIZE != 0 {
                let mask = (1u64 << shift) - 1;
                return Some(((entry & ADDRESS & !mask) | (virt & mask), entry & !ADDRESS));
            }
            table = entry & ADDRESS;
        }
        None
    }

    #[test]
    fn the_first_tables_map_image_and_memory() {
        for gigabyte_pages in [false, true] {
            let ram = Ram::new(64 << 20).unwrap();
            let loaded =
                image::load(&ram, image::tests::tiny(&[0xf4; 5000], |_| {}).leak()).unwrap();
            let info = BootInfo {
                mode: 1,
                window_base: RAM_BASE + (1 << 30),
                window_size: 2 << 30,
                vcpus: 3,
                force: 0,
                tsc_khz: 7,
                log_level: 6,
                gigabyte_pages,
                entropy: [9; 64],
            };
            let layout = prepare(&ram, &loaded, &[], &info).unwrap();
            let map = |virt| translate(&ram, layout.cr3, virt);
            assert_eq!(map(IMAGE_BASE + 4097).unwrap().0, RAM_BASE + 4097);
            assert_eq!(map(IMAGE_BASE + 8192), None);
            let (phys, rights) = map(DIRECT_MAP + layout.boot).unwrap();
            assert_eq!(phys, layout.boot);
            assert_eq!(rights & (NO_EXECUTE | WRITABLE | 4), NO_EXECUTE | WRITABLE);
            let window = DIRECT_MAP + info.window_base;
            assert_eq!(map(window + (2 << 30) - 1).unwrap().0, info.window_base + (2 << 30) - 1);
            assert_eq!(map(window + (2 << 30)), None);
            let boot: BootPage = ram.get(layout.boot).unwrap();
            assert_eq!((boot.magic, boot.vcpus, boot.first_free), (MAGIC, 3, layout.first_free));
            assert_eq!(layout.call(2), layout.calls + 8192);
            assert!(layout.first_free < RAM_BASE + (1 << 20));
        }
    }

    #[test]
    fn too_little_ram_is_an_error() {
        let ram = Ram::new(16 << 10).unwrap();
        let loaded = image::load(&ram, image::tests::tiny(&[0xf4; 5000], |_| {}).leak()).unwrap();
        let info = BootInfo {
            mode: 0,
            window_base: RAM_BASE + (1 << 30),
            window_size: 0,
            vcpus: 1,
            force: 0,
            tsc_khz: 0,
            log_level: 6,
            gigabyte_pages: true,
            entropy: [0; 64],
        };
        assert!(prepare(&ram, &loaded, &[], &info).is_err());
    }
}
