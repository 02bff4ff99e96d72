//! The bootable image: the sentry on ring 0.
//!
//! [`main`] runs once, on the boot CPU: it believes the boot page, makes the heap, brings up ring 0 and the
//! services over it, starts the first thread, and becomes that CPU's idle loop. The services are one file each:
//! [`memory`] (frames and heap), [`host`] (calls, requests, the log), [`channel`], [`stream`], [`window`] (donated
//! files), [`random`], and [`platform`], which puts them together as the sentry's machine.
#![no_std]
#![no_main]
extern crate alloc;

mod builtins;
mod channel;
mod cpus;
mod host;
mod memory;
mod panic;
mod platform;
mod random;
mod self_test;
mod stream;
mod window;

use alloc::boxed::Box;

use guest::contract::{BootPage, Force, MAGIC, VERSION, mode};
use ring0::features::Features;
use sentry::platform::Level;

core::arch::global_asm!(
    r#"
    .section .text.entry, "ax"
    .globl image_entry
image_entry:
    lea rsp, [rip + image_boot_stack_top]
    xor ebp, ebp
    call {main}
    .globl image_trap
image_trap:
    ud2

    .bss
    .p2align 12
    .skip 65536
image_boot_stack_top:
    .text
    "#,
    main = sym main,
);

/// Where the entry leads, with what the host half left in RDI.
extern "sysv64" fn main(boot: *const BootPage) -> ! {
    // SAFETY: the contract puts the boot page there, and the host half does not write it any more.
    let page = unsafe { boot.read() };
    if page.magic != MAGIC || page.version != VERSION {
        host::early("the boot page is of another version than the image\n");
        ring0::arch::halt();
    }
    host::init(&page);
    memory::init(&page);
    random::init(&page.entropy);
    // SAFETY: the page is ours; the seed must not stay where a later defect could show it.
    unsafe {
        let seed = core::ptr::addr_of!((*boot).entropy).cast_mut();
        seed.write_volatile([0; 64]);
    }
    let force = Force::from_bits_truncate(page.force);
    let config = ring0::Config {
        direct_map: guest::contract::DIRECT_MAP,
        host_vector: guest::contract::HOST_VECTOR,
        apic_hz: page.apic_hz,
        tsc_khz: page.tsc_khz,
        host: &cpus::Host,
    };
    // SAFETY: once, at the entry; the heap works and is in the direct map.
    unsafe {
        ring0::init_boot_cpu(config, &host::cpuid, without(force));
    }
    host::set_tsc_base(page.tsc_khz);
    cpus::init(page.vcpus);
    window::init(&page);
    if force.bits() != page.force {
        host::log(Level::Warning, format_args!("unknown bits in force: {:#x}", page.force));
    }
    if force.contains(Force::ISOLATE_TABLES) {
        host::log(Level::Error, format_args!("isolated page tables are not built yet"));
        host::exit(1);
    }
    host::log(Level::Debug, format_args!("cpu: {}", ring0::choice()));
    if force.contains(Force::START_ALL_CPUS) {
        cpus::start_all();
    }
    let first: fn() = match page.mode {
        mode::HELLO => hello,
        mode::SELF_TEST => self_test::run,
        mode::PANIC => panic_on_purpose,
        _ => run_sentry,
    };
    if ring0::thread::spawn(Box::new(first), u64::MAX).is_err() {
        host::log(Level::Error, format_args!("no memory for the first thread"));
        host::exit(1);
    }
    memory::start_release();
    ring0::thread::idle()
}

fn without(force: Force) -> Features {
    let mut without = Features::empty();
    for (bit, feature) in [
        (Force::NO_X2APIC, Features::X2APIC),
        (Force::NO_TSC_DEADLINE, Features::TSC_DEADLINE),
        (Force::NO_XSAVEOPT, Features::XSAVEOPT),
        (Force::NO_XSAVE, Features::XSAVE),
        (Force::NO_FSGSBASE, Features::FSGSBASE),
        (Force::NO_SMAP, Features::SMAP),
        (Force::TSC_CLOCK, Features::KVMCLOCK),
        (Force::NO_PV_EOI, Features::PV_EOI),
        (Force::NO_STEAL_TIME, Features::STEAL_TIME),
    ] {
        without.set(feature, force.contains(bit));
    }
    without
}

fn hello() {
    host::log(Level::Info, format_args!("hello"));
    host::exit(0);
}

#[inline(never)]
fn panic_on_purpose() {
    panic!("a panic on purpose");
}

fn run_sentry() {
    platform::install();
    sentry::run();
    host::exit(0);
}
