//! What the hostile image can do, by the number in the boot page's `mode`, and how each has to end. Shared by the image and
//! by `vmm/examples/hostile.rs`, which boots it.

/// How a machine has to end that was attacked so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The image could go on and ended itself with status 0: the attack had no effect at all.
    Harmless,
    /// The host half ended the sandbox, for a reason with these words.
    Ended(&'static str),
    /// Nothing ends it but whoever has started it: the guest waits, or burns its own time.
    Lasts,
    /// One of these, by the attack's seed, or by the CPU's kind.
    Any,
}

use Expect::{Any, Ended, Harmless, Lasts};

/// An attack: its name, how it has to end, and how many seeds there are for it.
pub type Attack = (&'static str, Expect, u64);

/// All of them.
pub const ATTACKS: &[Attack] = &[
    ("nothing", Harmless, 1),
    // Exits.
    ("port-out", Ended("out of 1 bytes to port 0x80"), 1),
    ("port-in", Ended("in of 4 bytes from port 0xcfc"), 1),
    ("port-string", Ended("bytes to port 0x3f8"), 1),
    ("call-port-short", Ended("out of 1 bytes to port 0x514"), 1),
    ("call-port-in", Ended("in of 4 bytes from port 0x514"), 1),
    ("memory-read", Ended("read of 8 bytes at 0x1008, where nothing is"), 1),
    ("memory-write", Ended("write of 8 bytes at 0x1010, where nothing is"), 1),
    ("memory-execute", Ended("vCPU 0 stopped"), 1),
    ("memory-last", Ended("where nothing is"), 1),
    ("image-write", Ended("not its to write"), 1),
    ("tables-nowhere", Ended("vCPU 0 stopped"), 1),
    ("triple-fault", Ended("triple fault"), 1),
    ("hypercalls", Any, 1),
    ("registers", Any, 3),
    ("halt", Lasts, 1),
    ("spin", Lasts, 1),
    ("interrupts", Any, 3),
    ("random-code", Any, 8),
    // The doorbell.
    ("doorbells", Lasts, 1),
    ("doorbell-widths", Harmless, 1),
    // Calls.
    ("call-unknown", Ended("call 77: there is no such call"), 1),
    ("call-text", Ended("call 1: its text is too long"), 1),
    ("call-status", Ended("call 3: its status is not 0 to 255"), 1),
    ("call-random", Any, 4),
    ("log-flood", Harmless, 1),
    ("panic-flood", Harmless, 1),
    ("early-flood", Harmless, 1),
    // vCPUs.
    ("cpu-nowhere", Ended("vCPU 1 stopped"), 1),
    ("cpu-twice", Ended("call 4: its vCPU has been started before"), 1),
    ("cpu-many", Ended("there is no vCPU 64"), 1),
    ("cpu-huge", Ended("call 4: its vCPU is out of range"), 1),
    ("cpu-tables", Ended("call 4: its page table is not page-aligned"), 1),
    // Rings.
    ("submit-index", Ended("are in use"), 1),
    ("complete-index", Ended("are in use"), 1),
    ("requests-endless", Lasts, 1),
    ("requests-random", Any, 6),
    ("requests-outside", Ended("is outside RAM"), 6),
    ("release-image", Ended("request 20"), 1),
    ("release-all", Harmless, 1),
    // Channels.
    ("channel-index", Ended("are in use"), 1),
    ("channel-piece", Ended("a piece is longer than what was published"), 1),
    ("channel-empty-pieces", Ended("a piece is empty"), 1),
    ("channel-twice", Harmless, 1),
    ("channels-random", Any, 6),
    // The window.
    ("window-read", Ended("memory that nothing is mapped at"), 1),
    ("window-random", Any, 3),
    // A second vCPU that changes what the host half reads while it reads it.
    ("races", Any, 4),
];
