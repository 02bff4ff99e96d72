//! What the image and the host half agree on: memory layout, boot page, rings, requests, hypercalls.
//!
//! **Who trusts whom.** The image trusts the host half. The host half trusts nothing that it reads
//! from guest memory: it copies each value once, checks it by the rule in the field's comment, and
//! ends the sandbox with a reason where a rule is broken. No rule here needs the host to believe two
//! reads of one location.
//!
//! **Guest-physical layout.**
//!
//! ```text
//! 0xfee0_0000            local APIC (in the kernel; split irqchip, no I/O APIC, no PIC, no PIT)
//! RAM_BASE               one slot of `ram_size` bytes, of which nothing is there before it is touched:
//!   RAM_BASE               the image, loaded at its physical addresses (p_paddr)
//!   ...                    boot page, CPUID table, call pages, rings, clock page, first page tables
//!   first_free             free memory up to RAM_BASE + ram_size
//! window_base            one slot of `window_size` bytes: donated files, mapped on request
//! ```
//!
//! **Entry state** of vCPU 0: long mode, flat segments, interrupts off, CR0 = PE|MP|ET|NE|WP|PG,
//! CR4 = PAE|PGE|OSFXSR|OSXMMEXCPT, EFER = SCE|LME|LMA|NXE, XCR0 = 1, RIP = the ELF entry, RDI = the boot
//! page's address in the direct map, CR3 = the first page tables. Those hold, all supervisor, global,
//! accessed and dirty: the image's segments at their virtual addresses with the rights of their
//! program headers (NX where not executable), and at [`DIRECT_MAP`] + gpa the whole RAM and window
//! slots, writable and NX, by 1 GiB pages where CPUID has them (leaf 0x8000_0001, edx bit 26), else by
//! 2 MiB pages. Other vCPUs enter in the same state when [`Call::StartCpu`] asks, with the registers
//! that it names.
//!
//! **Interrupts.** irqfd `n` (GSI `n`) is an MSI to the local APIC of vCPU `n`, whose APIC id is `n`:
//! address `0xfee0_0000 | n << 12`, data [`HOST_VECTOR`] (fixed, edge). It says: look at the
//! completion ring and at the channels.
//!
//! **Doorbell.** An `out` of any 32-bit value to [`DOORBELL_PORT`] is an ioeventfd: look at the submission
//! ring and at the channels. The image rings only while [`SharedControl::host_idle`] is not zero.
//!
//! **Memory order.** A producer writes the entry, then the tail index with release order; a consumer
//! reads the tail with acquire order, copies the entry, then writes the head with release order.
//! Before the host half sleeps it stores 1 to `host_idle`, fences (SeqCst), looks once more at every
//! ring, and only then waits; awake, it stores 0. The image publishes, fences (SeqCst), and reads it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Changes with every change of this file that either side can notice.
pub const VERSION: u32 = 4;
/// First field of the boot page: "RINGWALL".
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGWALL");

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Where the RAM slot begins: above all that a PC keeps below 4 GiB. Frame `n` of the sandbox is at
/// `RAM_BASE + n * PAGE`.
pub const RAM_BASE: u64 = 1 << 32;
/// Where the image is linked. Its physical address is `virtual - IMAGE_BASE + RAM_BASE`.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where all guest-physical memory is mapped for the image's own use.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Most vCPUs of a sandbox (one bit each in a u64).
pub const MAX_VCPUS: usize = 64;
/// Guest-physical addresses end here (or at the CPU's physical address width, where that is less).
pub const GPA_LIMIT: u64 = 1 << 46;
/// Unit of the window: `window_base` and `window_size` are multiples of it, and no file is mapped across the
/// boundary of two.
pub const WINDOW_CHUNK: u64 = 2 << 20;
/// Offsets in the window that the image maps at are multiples of it (a length need not be).
pub const WINDOW_SLOT: u64 = 64 << 10;

/// Vector of the host half's interrupts.
pub const HOST_VECTOR: u8 = 0xe0;
/// I/O port of the doorbell: ioeventfd, length 4, no data match.
pub const DOORBELL_PORT: u16 = 0x510;
/// I/O port of synchronous calls: a 32-bit `out` of anything; the call is in the vCPU's call page.
pub const CALL_PORT: u16 = 0x514;
/// I/O port for single bytes of early output (8-bit `out`), before the boot page has been believed
/// and when all else fails. The host half collects lines of at most 4096 bytes into its log.
pub const DEBUG_PORT: u16 = 0x518;

/// What the image is to do.
pub mod mode {
    /// Run the sentry.
    pub const SENTRY: u32 = 0;
    /// Write `hello` to the log and exit with status 0.
    pub const HELLO: u32 = 1;
    /// Run the platform's self-test, log each result, exit with 0 where all passed, else 1.
    pub const SELF_TEST: u32 = 2;
    /// Panic, so that tests see the report.
    pub const PANIC: u32 = 3;
}

bitflags::bitflags! {
    /// Features that the image must not use although the CPU has them, and ones it must use, so that
    /// tests reach every path. Unknown bits are ignored with a log line.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Force: u64 {
        /// No process-context identifiers.
        const NO_PCID = 1 << 0;
        /// No INVPCID.
        const NO_INVPCID = 1 << 1;
        /// xAPIC in place of x2APIC.
        const NO_X2APIC = 1 << 2;
        /// The timer in count mode.
        const NO_TSC_DEADLINE = 1 << 3;
        /// XSAVE in place of XSAVEOPT.
        const NO_XSAVEOPT = 1 << 4;
        /// FXSAVE in place of XSAVE.
        const NO_XSAVE = 1 << 5;
        /// MSRs in place of RDFSBASE and its kin.
        const NO_FSGSBASE = 1 << 6;
        /// No SMAP; copies walk the page tables in software.
        const NO_SMAP = 1 << 7;
        /// The TSC in place of kvmclock, with the numbers of the clock page.
        const TSC_CLOCK = 1 << 8;
        /// Page tables of applications without the sentry.
        const ISOLATE_TABLES = 1 << 9;
        /// Other vCPUs are started at boot, not at need.
        const START_ALL_CPUS = 1 << 10;
        /// The APIC's own register at the end of interrupts, not KVM's bit in memory.
        const NO_PV_EOI = 1 << 11;
        /// Processor time is the time that passes, whatever of it the host took away.
        const NO_STEAL_TIME = 1 << 12;
    }
}

/// The boot page, written by the host half before the first instruction. All addresses are
/// guest-physical, page-aligned and inside RAM.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BootPage {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// Bytes of RAM at [`RAM_BASE`]; a multiple of 2 MiB.
    pub ram_size: u64,
    /// First address that nothing at boot uses.
    pub first_free: u64,
    /// Where the window begins; a multiple of 1 GiB.
    pub window_base: u64,
    /// Its size in bytes; a multiple of 1 GiB; may be 0.
    pub window_size: u64,
    /// [`SharedControl`], one page.
    pub control: u64,
    /// [`ClockPage`], one page.
    pub clock: u64,
    /// One [`CallPage`] per vCPU, contiguous.
    pub calls: u64,
    /// [`RING_ENTRIES`] of [`Request`].
    pub submissions: u64,
    /// [`COMPLETION_ENTRIES`] of [`Completion`].
    pub completions: u64,
    /// [`CpuidEntry`] table.
    pub cpuid: u64,
    /// Its number of entries.
    pub cpuid_count: u32,
    /// vCPUs that there may be, 1 to [`MAX_VCPUS`]; applications see this many CPUs.
    pub vcpus: u32,
    /// Bits of [`Force`].
    pub force: u64,
    /// The local APIC timer's input clock in Hz (KVM: 1,000,000,000).
    pub apic_hz: u64,
    /// TSC frequency in kHz (KVM_GET_TSC_KHZ); 0: unknown.
    pub tsc_khz: u64,
    /// The least log level wanted, syslog numbers (the image filters: 6 leaves out debug lines).
    pub log_level: u32,
    /// Zero.
    pub reserved: u32,
    /// Seed of the image's generator; the image wipes it.
    pub entropy: [u8; 64],
}

/// One row of the CPUID table: exactly what the instruction would answer on vCPU 0 (the table that
/// KVM_SET_CPUID2 got).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuidEntry {
    /// eax on entry.
    pub leaf: u32,
    /// ecx on entry.
    pub subleaf: u32,
    /// 1 where the subleaf matters (KVM_CPUID_FLAG_SIGNIFCANT_INDEX), else 0.
    pub indexed: u32,
    /// Zero.
    pub reserved: u32,
    /// eax, ebx, ecx, edx.
    pub regs: [u32; 4],
}

/// Time, written by the host half alone. Times in nanoseconds.
///
/// The monotonic clock is kvmclock (MSR_KVM_SYSTEM_TIME_NEW), which KVM keeps right on every vCPU also
/// where the TSC is unfit; with [`Force::TSC_CLOCK`] it is this page's TSC triple instead. Wall time is
/// the monotonic clock and `realtime_offset`, which the host half refreshes at most once a second, while a
/// vCPU runs and on wake-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ClockPage {
    /// Odd while the host half writes; a reader retries where it is odd or has changed.
    pub sequence: u32,
    /// Zero.
    pub reserved: u32,
    /// CLOCK_REALTIME less the monotonic clock (kvmclock as KVM_GET_CLOCK tells it).
    pub realtime_offset: i64,
    /// TSC of vCPU 0 at the moment of `tsc_monotonic`.
    pub tsc: u64,
    /// The monotonic clock at that moment.
    pub tsc_monotonic: u64,
}

/// One page of words that both sides poll. Each word has a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SharedControl {
    /// Written by the host half: not 0 while it waits and wants the doorbell.
    pub host_idle: u32,
    /// Zero.
    pub pad0: [u32; 15],
    /// Written by the image: requests published, counting on and on (the index is this modulo
    /// [`RING_ENTRIES`]). Rule: `submit_tail - submit_head <= RING_ENTRIES`, wrapping.
    pub submit_tail: u32,
    /// Zero.
    pub pad1: [u32; 15],
    /// Written by the host half: requests taken.
    pub submit_head: u32,
    /// Zero.
    pub pad2: [u32; 15],
    /// Written by the host half: completions published.
    pub complete_tail: u32,
    /// Zero.
    pub pad3: [u32; 15],
    /// Written by the image: completions taken. Rule: `complete_tail - complete_head <=
    /// COMPLETION_ENTRIES`, wrapping.
    pub complete_head: u32,
    /// Zero.
    pub pad4: [u32; 15],
}

/// Requests in the submission ring. The image has at most this many without completion.
pub const RING_ENTRIES: u32 = 256;
/// Completions in the ring: enough for every request and for as many [`event`]s.
pub const COMPLETION_ENTRIES: u32 = 512;

/// Values of [`Request::op`]. Each gets exactly one completion; its `result` is not negative where it
/// went well, else a negated Linux error number. `cpu` tells whom to interrupt.
///
/// A *buffer* is `gpa` and `len` inside RAM, `len` at most [`MAX_BUFFER`]; the image leaves it alone until
/// the completion. A *file* and a *stream* are indices into the host half's tables; one that is not
/// there gives EBADF.
pub mod op {
    /// Nothing; result 0. For tests and measurements.
    pub const NOP: u32 = 0;
    /// pread of file `handle` at `offset` into the buffer; result: bytes, short at the end.
    pub const FILE_READ: u32 = 1;
    /// pwrite of the buffer to file `handle` at `offset`; result: bytes.
    pub const FILE_WRITE: u32 = 2;
    /// Size of file `handle`; result: bytes.
    pub const FILE_SIZE: u32 = 3;
    /// Forgets file `handle` and unmaps what of it is in the window; result 0.
    pub const FILE_CLOSE: u32 = 4;
    /// Maps file `handle` from byte `offset` (a multiple of the page size) at window offset `gpa` (not
    /// an address; a multiple of [`super::WINDOW_SLOT`]), `len` bytes (a multiple of the page size, inside
    /// one [`super::WINDOW_CHUNK`]), shared, writable where the descriptor is. A piece of the window that this
    /// overlaps goes as a whole. Pages past the file's end stay without backing. Result: 1 where writable,
    /// else 0.
    pub const WINDOW_MAP: u32 = 5;
    /// Puts inaccessible zero pages at window offset `gpa`, `len` bytes, same rules; result 0.
    pub const WINDOW_UNMAP: u32 = 6;
    /// Reads from stream `handle` into the buffer, never waits; result: bytes, 0 at the end, -EAGAIN.
    pub const STREAM_READ: u32 = 8;
    /// Writes the buffer to stream `handle`, never waits; result: bytes, -EAGAIN, -EPIPE.
    pub const STREAM_WRITE: u32 = 9;
    /// poll(2) bits of stream `handle` now; result: bits.
    pub const STREAM_READY: u32 = 10;
    /// Completes with the poll(2) bits once stream `handle` has one of `offset` (POLLIN, POLLOUT), or
    /// POLLERR or POLLHUP. A later one for the same stream completes this one at once with 0.
    pub const STREAM_NOTIFY: u32 = 11;
    /// Terminal size of stream `handle`; result: rows << 16 | columns, -ENOTTY.
    pub const STREAM_WINDOW: u32 = 12;
    /// lseek of stream `handle` by `offset` (as i64), whence `len`; result: the offset, -ESPIPE.
    pub const STREAM_SEEK: u32 = 13;
    /// What stream `handle` is; result: one of [`super::stream_kind`].
    pub const STREAM_KIND: u32 = 14;
    /// Lets stream `handle` go: the sentry has no use for it any more; result 0.
    pub const STREAM_CLOSE: u32 = 15;
    /// Opens a channel: `handle` 0 is control, `1 + n` gofer `n`; `gpa` (page-aligned) is a
    /// [`super::ChannelControl`] page followed by two rings of `len` bytes each (a power of two,
    /// [`super::MIN_RING`] to [`super::MAX_RING`]): first image to host half, then the other way. All
    /// zero when submitted. Each channel opens once; result: the longest message in bytes, -ENODEV.
    pub const CHANNEL_OPEN: u32 = 16;
    /// Gives the run of `len` bytes at `gpa` (page-aligned, any length inside RAM above `first_free`)
    /// back to the host: it reads as zero afterwards; result 0.
    pub const RELEASE: u32 = 20;
    /// Asks for memory behind the run of `len` bytes at `gpa` (same rule) ahead of use; contents stay;
    /// result 0 also where the host could not.
    pub const POPULATE: u32 = 21;
}

/// Answers of [`op::STREAM_KIND`].
#[allow(missing_docs)] // the names are sentry::platform::StreamKind's
pub mod stream_kind {
    pub const PIPE: i64 = 0;
    pub const REGULAR: i64 = 1;
    pub const TERMINAL: i64 = 2;
    pub const SOCKET: i64 = 3;
    pub const CHAR_DEVICE: i64 = 4;
}

/// The longest buffer of one request, in bytes.
pub const MAX_BUFFER: u64 = 1 << 20;

/// One request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// One of [`op`]; others complete with -ENOSYS.
    pub op: u32,
    /// The vCPU to interrupt at completion; one that has not been started is no error, and then
    /// nothing is interrupted. [`NO_CPU`]: none (the image will look by itself).
    pub cpu: u32,
    /// Comes back in the completion; means nothing to the host half. Bit 63 is clear.
    pub tag: u64,
    /// Index of a file, stream or channel.
    pub handle: u32,
    /// Zero.
    pub reserved: u32,
    /// Address, or window offset.
    pub gpa: u64,
    /// Length in bytes, or what `op` says.
    pub len: u64,
    /// Offset, or what `op` says.
    pub offset: u64,
    /// Zero.
    pub pad: [u64; 2],
}

/// In `cpu` fields: interrupt nobody.
pub const NO_CPU: u32 = u32::MAX;

/// One completion, or an event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Completion {
    /// The request's tag; with bit 63 set, one of [`event`].
    pub tag: u64,
    /// See [`op`].
    pub result: i64,
    /// An event's first number.
    pub arg0: u64,
    /// An event's second number.
    pub arg1: u64,
}

/// Tags of completions that nobody asked for.
pub mod event {
    /// A donated file has shrunk under a mapping: zero pages now stand behind file `arg0` from byte
    /// `arg1` (page-aligned) on. The image drops every translation to them.
    pub const FILE_SHRUNK: u64 = 1 << 63;
}

/// Header page of a channel. Indices count bytes, on and on, and are multiples of 8; the place in the
/// ring is the index modulo its size. Rule: `tail - head <= size`, wrapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ChannelControl {
    /// Image to host half, written by the image.
    pub out_tail: u32,
    /// Zero.
    pub pad0: [u32; 15],
    /// Image to host half, written by the host half.
    pub out_head: u32,
    /// Written by the image: not 0 while somebody waits for room; the vCPU to interrupt and 1. The host half
    /// takes it by an atomic swap with 0 after it has moved `out_head`.
    pub out_waiter: u32,
    /// Zero.
    pub pad1: [u32; 14],
    /// Host half to image, written by the host half.
    pub in_tail: u32,
    /// Written by the host half: not 0 once the other side is gone; what is in the ring is still good.
    /// It interrupts the waiters after.
    pub closed: u32,
    /// Zero.
    pub pad2: [u32; 14],
    /// Host half to image, written by the image. It rings the doorbell after moving it where
    /// `in_full` was set.
    pub in_head: u32,
    /// Written by the image: not 0 while somebody waits for a message; the vCPU to interrupt and 1. Taken
    /// like `out_waiter`.
    pub in_waiter: u32,
    /// Written by the host half: 1 while it waits for room.
    pub in_full: u32,
    /// Zero.
    pub pad3: [u32; 13],
}

/// Smallest ring of a channel, in bytes.
pub const MIN_RING: u64 = 4096;
/// Largest ring of a channel, in bytes.
pub const MAX_RING: u64 = 1 << 20;

/// Stands before each piece of a message in a ring; the piece is padded to a multiple of 8. Neither
/// header nor piece is split except by the ring's wrap (a header never is: it is 16 bytes, and
/// indices are multiples of 8, so its halves may be). A message is the pieces up to the first
/// without [`MORE`]; together at most what [`op::CHANNEL_OPEN`] said; one with it has at least
/// a byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PieceHeader {
    /// Bytes that follow, without padding; at most the ring's size less 16.
    pub len: u32,
    /// [`MORE`] or 0.
    pub flags: u32,
    /// In the first piece, host half to image: a donated file that comes with the message, or
    /// [`NO_FILE`]. Image to host half: [`NO_FILE`].
    pub file: u32,
    /// Zero.
    pub reserved: u32,
}

/// Another piece of the same message follows.
pub const MORE: u32 = 1;
/// No file.
pub const NO_FILE: u32 = u32::MAX;

/// Synchronous calls: the vCPU's own call page holds one, and an `out` to [`CALL_PORT`] makes it. They are
/// for what cannot wait for the loop: boot, the log, the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Call {
    /// Writes `text` to the log with level `arg0` (syslog numbers 0 to 7; others count as 7).
    Log = 1,
    /// The image has panicked: `text` is message, registers and backtrace. Several may come (long
    /// reports); the sandbox ends at [`Call::Exit`].
    Panic = 2,
    /// Ends the sandbox with status `arg0` (0 to 255). Does not return.
    Exit = 3,
    /// Starts vCPU `arg0` (1 to `vcpus - 1`, not yet started) with RIP `arg1`, RSP `arg2`, RDI
    /// `arg3`, CR3 `arg4` (inside RAM, page-aligned). Returns without waiting for it; result 0.
    StartCpu = 4,
    /// Makes one [`Request`] (its bytes at the beginning of `text`) on the vCPU's own thread, and waits for it.
    /// Not for `STREAM_NOTIFY` and `CHANNEL_OPEN`, which give -ENOSYS.
    Request = 5,
}

impl Call {
    /// From the number in a call page.
    pub fn from_number(n: u32) -> Option<Call> {
        [Call::Log, Call::Panic, Call::Exit, Call::StartCpu, Call::Request]
            .into_iter()
            .find(|&c| c as u32 == n)
    }
}

/// A vCPU's call page. The host half copies it once; a page that breaks a rule ends the sandbox.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CallPage {
    /// One of [`Call`].
    pub call: u32,
    /// Bytes of `text` that count; at most [`CALL_TEXT`].
    pub text_len: u32,
    /// Arguments.
    pub args: [u64; 5],
    /// Written by the host half: not negative, or a negated Linux error number.
    pub result: i64,
    /// UTF-8 or nearly; what is not is shown escaped. Control bytes are never passed to a terminal.
    pub text: [u8; CALL_TEXT],
}

/// Bytes of text in a call page.
pub const CALL_TEXT: usize = 4096 - 56;

const _: () = {
    assert!(size_of::<CallPage>() == 4096);
    assert!(size_of::<Request>() == 64);
    assert!(size_of::<Completion>() == 32);
    assert!(size_of::<CpuidEntry>() == 32);
    assert!(size_of::<PieceHeader>() == 16);
    assert!(size_of::<SharedControl>() == 320);
    assert!(size_of::<ChannelControl>() == 256);
    assert!(size_of::<BootPage>() <= 4096);
};
