//! The KVM machine: a guest without firmware, whose kernel is the sentry.
//!
//! [`Machine::new`] makes a virtual machine, loads the embedded image and lays out what it finds at its
//! first instruction; [`Machine::start`] runs vCPU 0 on a thread of its own, and the machine itself is
//! a subscriber of the host half's event loop, where it serves the image ([`host`]). The contract
//! between the two is [`guest::contract`].
//!
//! - [`image`], [`boot`], [`cpuid`]: what there is before the first instruction;
//! - [`vcpu`], [`exit`]: vCPU threads and what they come back for;
//! - [`memory`], [`files`]: RAM, and the window in which donated files appear;
//! - [`host`], [`channel`], [`streams`], [`seqpacket`]: the services;
//! - [`clock`], [`stats`], [`symbols`]: time, counters, names in panic reports.
//!
//! Everything here distrusts the guest: what stands in its memory is copied once and checked, and a
//! rule that is broken is an [`End`], never a panic.

pub mod boot;
pub mod channel;
pub mod clock;
pub mod cpuid;
pub mod end;
pub mod exit;
pub mod files;
pub mod host;
pub mod image;
pub mod memory;
pub mod seqpacket;
pub mod shared;
pub mod stats;
pub mod streams;
pub mod symbols;
pub mod vcpu;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use guest::contract::{DIRECT_MAP, DOORBELL_PORT, GPA_LIMIT, HOST_VECTOR, MAX_VCPUS, RAM_BASE};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MAX_CPUID_ENTRIES, KvmIrqRouting,
    kvm_clock_data, kvm_cpuid_entry2, kvm_enable_cap, kvm_irq_routing_entry,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use ptrace_fallback::{ControlSentry, LogSink};
use sentry::platform::{ChannelId, Level, StreamId};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::protocol::Queue;
use crate::wall;
use crate::wall::filter::{self, Over};
use boot::BootInfo;
pub use end::{End, Lie};
use host::Host;
use image::ImageError;
use memory::{OutsideRam, Ram, Window};
use shared::{Command, Shared, StartCpu, lock};
use stats::Stats;

/// What a machine is made with.
pub struct Config {
    /// Bytes of RAM that the sandbox can have at most; rounded up to 2 MiB.
    pub memory: u64,
    /// CPUs that applications see, 1 to 64; 0: as many as this process may use.
    pub cpus: u32,
    /// The sentry's end of the control channel; the host half keeps the other.
    pub control: ControlSentry,
    /// Sockets to gofers (SOCK_SEQPACKET), by index.
    pub gofers: Vec<OwnedFd>,
    /// Streams of containers, by index.
    pub streams: Vec<OwnedFd>,
    /// Where log lines go.
    pub log: LogSink,
    /// The least level wanted from the image.
    pub level: Level,
    /// What the image does, one of [`guest::contract::mode`].
    pub mode: u32,
    /// Bits of [`guest::contract::Force`].
    pub force: u64,
    /// The image.
    pub image: &'static [u8],
    /// Whether vCPU threads get their own filter. The process has no_new_privs then.
    pub confine: bool,
}

/// Addresses for donated files. KVM keeps some bytes per 2 MiB of it, and up to 0.2 per cent of it on
/// hosts without two-dimensional paging.
const WINDOW: u64 = 16 << 30;
/// Least RAM: the image, its tables, and room to run.
const MIN_MEMORY: u64 = 32 << 20;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM refused.
    #[error("KVM refuses {what}: {error}")]
    Kvm {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        error: kvm_ioctls::Error,
    },
    /// The host refused.
    #[error("{what}: {error}")]
    Host {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        error: io::Error,
    },
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The memory asked for is too little for the image and its tables.
    #[error("the sandbox's memory is too small: {0}")]
    TooSmall(#[from] OutsideRam),
    /// More memory than the CPU can address.
    #[error("the CPU has {bits}-bit physical addresses, too few for {memory} bytes of memory")]
    TooLarge {
        /// Width of physical addresses.
        bits: u32,
        /// What was asked for.
        memory: u64,
    },
    /// The filter of vCPU threads.
    #[error(transparent)]
    Filter(#[from] wall::filter::Error),
    /// The event loop.
    #[error("the event loop: {0}")]
    Loop(#[from] event_manager::Error),
}

fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm { what, error }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Host { what, error }
}

/// A machine, and its services as a subscriber of the event loop.
pub struct Machine {
    // Dropped in this order: the vCPU threads are joined by then.
    vm: VmFd,
    shared: Arc<Shared>,
    host: Host,
    clock: clock::Clock,
    doorbell: EventFd,
    profile: Vec<kvm_cpuid_entry2>,
    entry: u64,
    filter: Option<Arc<seccompiler::BpfProgram>>,
    threads: Vec<vcpu::Thread>,
    stats: Vec<Stats>,
    end: Option<End>,
}

/// Adds gofers and streams to a running machine, from any thread.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Machine {
    /// Makes the machine; nothing runs yet.
    pub fn new(config: Config) -> Result<Machine, Error> {
        Machine::on(Kvm::new().map_err(kvm("/dev/kvm"))?, config)
    }

    /// Makes the machine in a process that cannot open /dev/kvm itself.
    pub fn on(kvm_fd: Kvm, config: Config) -> Result<Machine, Error> {
        let supported = kvm_fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let vcpus = match config.cpus {
            0 => usable_cpus(),
            n => n as usize,
        }
        .clamp(1, MAX_VCPUS) as u32;
        let deadline_timer = kvm_fd.check_extension(Cap::TscDeadlineTimer);
        let profile = cpuid::profile(&supported, vcpus, deadline_timer);
        let memory = config.memory.max(MIN_MEMORY).next_multiple_of(2 << 20);
        let (window_base, window_size) = place_window(memory, cpuid::physical_bits(&profile))?;

        let vm = kvm_fd.create_vm().map_err(kvm("KVM_CREATE_VM"))?;
        // Three pages below 4 GiB that Intel's CPUs want for real mode, where no memory is.
        vm.set_tss_address(0xfffb_d000).map_err(kvm("KVM_SET_TSS_ADDR"))?;
        // Monotonic time goes on from the host's, as in a container of its own kernel's.
        let clock = kvm_clock_data { clock: clock::monotonic(), ..Default::default() };
        vm.set_clock(&clock).map_err(kvm("KVM_SET_CLOCK"))?;
        // The local APICs are KVM's; there is no I/O APIC and no PIC.
        let split =
            kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [0; 4], ..Default::default() };
        vm.enable_cap(&split).map_err(kvm("KVM_CAP_SPLIT_IRQCHIP"))?;

        let ram = Ram::new(memory).map_err(host("the sandbox's memory"))?;
        let window = Window::new(window_size).map_err(host("the window of donated files"))?;
        let loaded = image::load(&ram, config.image)?;
        let info = BootInfo {
            mode: config.mode,
            window_base,
            window_size,
            vcpus,
            force: config.force,
            tsc_khz: tsc_khz(&vm),
            log_level: config.level as u32,
            gigabyte_pages: cpuid::gigabyte_pages(&profile),
            entropy: entropy().map_err(host("getrandom"))?,
        };
        let layout = boot::prepare(&ram, &loaded, &profile, &info)?;
        let mut slots = ram_slots(&ram, &loaded);
        slots.push((window_base, window_size, window.host_address()));
        for (slot, (guest_phys_addr, memory_size, userspace_addr)) in slots.into_iter().enumerate()
        {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr,
                memory_size,
                userspace_addr,
            };
            // SAFETY: RAM's and the window's mappings live as long as `shared`, which outlives `vm`
            // and every vCPU; the image's pages live for ever, and are mapped read-only, which KVM
            // keeps to.
            unsafe { vm.set_user_memory_region(region) }
                .map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
        }

        let donations = ptrace_fallback::raise_descriptor_limit().map_err(host("RLIMIT_NOFILE"))?;
        let shared = Shared::new(ram, window, layout, vcpus, donations, config.log)
            .map_err(host("eventfd"))?;
        for fd in config.streams {
            lock(&shared.streams).add(fd).map_err(host("a stream"))?;
        }
        *lock(&shared.gofers) = config.gofers.into_iter().map(Some).collect();
        let doorbell =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(host("eventfd"))?;
        vm.register_ioevent(&doorbell, &IoEventAddress::Pio(DOORBELL_PORT.into()), NoDatamatch)
            .map_err(kvm("KVM_IOEVENTFD"))?;
        route(&vm, vcpus)?;
        let shared = Arc::new(shared);
        let relay = config.control.relay().map_err(host("eventfd"))?;
        Ok(Machine {
            host: Host::new(Arc::clone(&shared), relay),
            clock: clock::Clock::new(layout.clock),
            vm,
            shared,
            doorbell,
            profile,
            entry: loaded.entry,
            filter: if config.confine { Some(Arc::new(wall::sandbox::vcpu()?)) } else { None },
            threads: Vec::new(),
            stats: Vec::new(),
            end: None,
        })
    }

    /// To add gofers and streams with.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Runs vCPU 0.
    pub fn start(&mut self) -> Result<(), Error> {
        self.clock.refresh(&self.vm, &self.shared.ram)?;
        if let Ok(stats) = Stats::open(&self.vm) {
            self.stats.push(stats);
        }
        let layout = &self.shared.layout;
        self.start_cpu(&StartCpu {
            cpu: 0,
            rip: self.entry,
            rsp: 0,
            rdi: DIRECT_MAP + layout.boot,
            cr3: layout.cr3,
        })
    }

    /// How the sandbox has ended, once it has.
    pub fn end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// KVM's counters by name, summed over the machine and its vCPUs; empty where the host does not count.
    pub fn counters(&self) -> io::Result<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::<String, u64>::new();
        for stats in &self.stats {
            for (name, value) in stats.read()? {
                let sum = sums.entry(name).or_default();
                *sum = sum.saturating_add(value);
            }
        }
        Ok(sums)
    }

    /// What is in the guest's queues, for people.
    pub fn report(&self) -> Vec<Queue> {
        self.host.report()
    }

    /// Runs an event loop of its own until the sandbox ends, or, as an end too, this time is over.
    pub fn run_for(mut self, limit: Duration) -> Result<End, Error> {
        let mut manager = EventManager::new()?;
        self.start()?;
        let id = manager.add_subscriber(self);
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed()).as_millis();
            manager.run_with_timeout(i32::try_from(left).unwrap_or(i32::MAX))?;
            if let Some(end) = manager.subscriber_mut(id)?.end() {
                return Ok(end);
            }
            if left == 0 {
                let error = io::ErrorKind::TimedOut.into();
                return Ok(End::Host { what: "waiting for the machine's end", error });
            }
        }
    }

    fn start_cpu(&mut self, start: &StartCpu) -> Result<(), Error> {
        let fd = vcpu::create(&self.vm, &self.profile, start).map_err(kvm("a vCPU"))?;
        if let Ok(stats) = Stats::open(&fd) {
            self.stats.push(stats);
        }
        // There is one irqfd for each vCPU that there may be, and StartCpu is checked for that.
        if let Some(irq) = self.shared.irqs.get(start.cpu as usize) {
            self.vm.register_irqfd(irq, start.cpu).map_err(kvm("KVM_IRQFD"))?;
        }
        let filter = self.filter.clone();
        let confine = move || {
            let applied = filter.map_or(Ok(()), |f| filter::apply(&f, Over::Thread));
            applied.map_err(|e| e.to_string())
        };
        let thread =
            vcpu::spawn(&self.shared, start.cpu, fd, confine).map_err(host("a vCPU's thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    fn commands(&mut self) -> Result<(), End> {
        // A counter that is zero has been read before; what is in the queue counts.
        let _empty = self.shared.bell.read();
        loop {
            let command = lock(&self.shared.commands).pop_front();
            match command {
                None => return Ok(()),
                Some(Command::End(end)) => return Err(end),
                Some(Command::Shrunk(shrunk)) => self.host.shrunk(&shrunk)?,
                Some(Command::Start(start)) => self.start_cpu(&start).map_err(|e| End::Host {
                    what: "starting a vCPU",
                    error: io::Error::other(e),
                })?,
            }
        }
    }

    fn on_event(&mut self, events: Events, ops: &mut EventOps<'_>) -> Result<(), End> {
        if events.fd() == self.doorbell_fd() {
            let _empty = self.doorbell.read();
        } else if events.fd() == self.bell_fd() {
            self.commands()?;
            for index in lock(&self.shared.gone_streams).split_off(0) {
                self.host.remove_stream(index, ops)?;
            }
        } else {
            self.host.event(events.data(), events.event_set(), ops)?;
        }
        self.clock.refresh(&self.vm, &self.shared.ram).map_err(Lie::from)?;
        self.host.pump(ops)?;
        Ok(())
    }

    fn doorbell_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.doorbell)
    }

    fn bell_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.shared.bell)
    }
}

impl MutEventSubscriber for Machine {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if self.end.is_some() {
            return;
        }
        if let Err(end) = self.on_event(events, ops) {
            self.shared.stopping.store(true, Ordering::Release);
            self.end = Some(end);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let outcome = ops
            .add(Events::new_raw(self.doorbell_fd(), EventSet::IN))
            .and_then(|()| ops.add(Events::new_raw(self.bell_fd(), EventSet::IN)));
        let outcome = match outcome {
            Ok(()) => self.host.pump(ops).map_err(End::from),
            Err(e) => Err(End::Host { what: "the event loop", error: io::Error::other(e) }),
        };
        if let Err(end) = outcome {
            // The bell makes the loop come round to look.
            self.shared.command(Command::End(end));
        }
    }
}

impl Drop for Machine {
    /// Stops the vCPU threads. A process that ends right after the sandbox need not come here.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            stop(thread);
        }
    }
}

/// Ends a vCPU's thread: signals take it out of KVM_RUN, again and again, since one may come just
/// before it enters.
fn stop(thread: vcpu::Thread) {
    use std::os::unix::thread::JoinHandleExt;
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing; zero is a value of the structure. No SA_RESTART, so that it
    // ends KVM_RUN.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGRTMIN(), &action, std::ptr::null_mut());
    }
    while !thread.is_finished() {
        // SAFETY: the thread has not been joined, so its handle is valid.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGRTMIN()) };
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
    // A panic of the thread's has been reported by its own handler.
    let _panicked = thread.join();
}

impl Handle {
    /// Adds a gofer's socket.
    pub fn add_gofer(&self, socket: OwnedFd) -> ChannelId {
        let mut gofers = lock(&self.0.gofers);
        gofers.push(Some(socket));
        ChannelId::Gofer((gofers.len() - 1) as u32)
    }

    /// Adds a stream.
    pub fn add_stream(&self, fd: OwnedFd) -> io::Result<StreamId> {
        lock(&self.0.streams).add(fd).map(StreamId)
    }

    /// Lets a stream go, when the container or exec that it was for has ended.
    pub fn remove_stream(&self, id: StreamId) {
        lock(&self.0.gone_streams).push(id.0);
        self.0.bell();
    }
}

/// Where the window lies: behind RAM, at a multiple of 1 GiB.
fn place_window(memory: u64, bits: u32) -> Result<(u64, u64), Error> {
    let limit = GPA_LIMIT.min(1u64.checked_shl(bits).unwrap_or(GPA_LIMIT));
    let too_large = Error::TooLarge { bits, memory };
    let base = RAM_BASE.checked_add(memory).and_then(|end| end.checked_next_multiple_of(1 << 30));
    let Some(room) = base.and_then(|base| limit.checked_sub(base)) else { return Err(too_large) };
    match (base, WINDOW.min(room >> 30 << 30)) {
        (Some(base), size) if size > 0 => Ok((base, size)),
        _ => Err(too_large),
    }
}

/// The memory slots of RAM: address, length, and where in this process. All of it is one slot but for
/// the image's shared segments.
fn ram_slots(ram: &Ram, image: &image::Loaded) -> Vec<(u64, u64, u64)> {
    let mut shared: Vec<(u64, u64, u64)> =
        image.segments.iter().filter_map(|s| Some((s.phys, s.len, s.shared?))).collect();
    shared.sort_unstable();
    let mut slots = Vec::new();
    let mut at = RAM_BASE;
    let end = RAM_BASE + ram.size();
    for slot in shared.into_iter().chain([(end, 0, 0)]) {
        if slot.0 > at {
            slots.push((at, slot.0 - at, ram.host_address() + (at - RAM_BASE)));
        }
        if slot.1 > 0 {
            slots.push(slot);
        }
        at = slot.0 + slot.1;
    }
    slots
}

/// GSI `n` is a message to the local APIC of vCPU `n`.
fn route(vm: &VmFd, vcpus: u32) -> Result<(), Error> {
    let entries: Vec<kvm_irq_routing_entry> = (0..vcpus)
        .map(|cpu| {
            let mut entry = kvm_irq_routing_entry {
                gsi: cpu,
                type_: KVM_IRQ_ROUTING_MSI,
                ..Default::default()
            };
            entry.u.msi.address_lo = 0xfee0_0000 | cpu << 12;
            entry.u.msi.address_hi = 0;
            entry.u.msi.data = HOST_VECTOR.into();
            entry
        })
        .collect();
    // At most 64 entries, far from what a FAM structure can hold.
    let table = KvmIrqRouting::from_entries(&entries)
        .map_err(|_| kvm("KVM_SET_GSI_ROUTING")(kvm_ioctls::Error::new(libc::E2BIG)))?;
    vm.set_gsi_routing(&table).map_err(kvm("KVM_SET_GSI_ROUTING"))
}

/// CPUs that this process may use. (The standard library would look for control groups, in files that a
/// sandbox does not have.)
fn usable_cpus() -> usize {
    // SAFETY: zero is a value of the structure, and the call fills in as much as is given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of_val(&set), &mut set) {
            0 => libc::CPU_COUNT(&set) as usize,
            // More CPUs than the set has bits.
            _ => MAX_VCPUS,
        }
    }
}

/// TSC frequency of new vCPUs; 0: unknown.
fn tsc_khz(vm: &VmFd) -> u64 {
    vmm_sys_util::ioctl_io_nr!(KVM_GET_TSC_KHZ, kvm_bindings::KVMIO, 0xa3);
    // SAFETY: no memory arguments. Linux takes it on a VM since 5.17; before, it is an error.
    let khz = unsafe { vmm_sys_util::ioctl::ioctl(vm, KVM_GET_TSC_KHZ()) };
    u64::try_from(khz).unwrap_or(0)
}

fn entropy() -> io::Result<[u8; 64]> {
    let mut seed = [0; 64];
    // SAFETY: the buffer is valid. Up to 256 bytes come whole (getrandom(2)).
    match unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) } {
        64 => Ok(seed),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Waits for what the close of a descriptor brings about: a child that another test forks just then has it
    /// a moment longer.
    pub fn after_close<T>(mut there: impl FnMut() -> Option<T>) -> T {
        for _ in 0..20_000 {
            if let Some(value) = there() {
                return value;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("it never came");
    }

    /// What the vCPU threads and the services share, without a virtual machine.
    pub fn shared_without_machine(log: LogSink) -> Arc<Shared> {
        let ram = Ram::new(8 << 20).unwrap();
        let window = Window::new(1 << 30).unwrap();
        let image = image::load(&ram, image::tests::tiny(&[0xf4; 64], |_| {}).leak()).unwrap();
        let info = BootInfo {
            mode: 1,
            window_base: RAM_BASE + (1 << 30),
            window_size: 1 << 30,
            vcpus: 2,
            force: 0,
            tsc_khz: 0,
            log_level: 6,
            gigabyte_pages: true,
            entropy: [0; 64],
        };
        let layout = boot::prepare(&ram, &image, &[], &info).unwrap();
        Arc::new(Shared::new(ram, window, layout, 2, 64, log).unwrap())
    }

    // An image that says `hi` on the debug port, starts vCPU 1, which stores to RAM and halts, waits
    // for that, makes one request through the ring with the doorbell, waits for its completion, and
    // exits with status 7. rdi: the boot page in the direct map.
    std::arch::global_asm!(
        ".pushsection .rodata.ringwall_test_image, \"a\", @progbits",
        ".globl ringwall_test_image_start, ringwall_test_image_end",
        "ringwall_test_image_start:",
        "mov dx, 0x518",
        "mov al, 'h'",
        "out dx, al",
        "mov al, 'i'",
        "out dx, al",
        "mov al, 10",
        "out dx, al",
        "mov r15, 0xffff800000000000", // DIRECT_MAP
        "mov rbx, [rdi + 64]",         // calls
        "add rbx, r15",
        "mov rbp, [rdi + 48]", // control
        "add rbp, r15",
        "mov r12, [rdi + 72]", // submissions
        "add r12, r15",
        // StartCpu 1 at 3f with the same tables.
        "mov dword ptr [rbx], 4",
        "mov dword ptr [rbx + 4], 0",
        "mov qword ptr [rbx + 8], 1",
        "lea rax, [rip + 3f]",
        "mov [rbx + 16], rax",
        "mov qword ptr [rbx + 24], 0",
        "lea rax, [rdi + 4032]",
        "mov [rbx + 32], rax",
        "mov rax, cr3",
        "mov [rbx + 40], rax",
        "mov dx, 0x514",
        "out dx, eax",
        "2:",
        "pause",
        "cmp dword ptr [rdi + 4032], 0",
        "je 2b",
        // The first request is all zeros: NOP, tag 0, cpu 0.
        "mov dword ptr [rbp + 64], 1", // submit_tail
        "mov dx, 0x510",
        "out dx, eax",
        "4:",
        "pause",
        "cmp dword ptr [rbp + 192], 1", // complete_tail
        "jne 4b",
        "mov dword ptr [rbx], 3", // Exit
        "mov qword ptr [rbx + 8], 7",
        "mov dx, 0x514",
        "out dx, eax",
        "ud2",
        "3:",
        "mov dword ptr [rdi], 1",
        "5:",
        "hlt",
        "jmp 5b",
        "ringwall_test_image_end:",
        ".popsection",
    );

    unsafe extern "C" {
        static ringwall_test_image_start: u8;
        static ringwall_test_image_end: u8;
    }

    fn test_image() -> &'static [u8] {
        let start = &raw const ringwall_test_image_start;
        let len = (&raw const ringwall_test_image_end).addr() - start.addr();
        // SAFETY: the assembly above lies between the two symbols, in read-only data.
        let code = unsafe { std::slice::from_raw_parts(start, len) };
        image::tests::tiny(code, |_| {}).leak()
    }

    fn config(image: &'static [u8], lines: &Arc<Mutex<Vec<String>>>) -> Config {
        let (control, sentry) = ptrace_fallback::control_pair().unwrap();
        // Nobody talks on it, but its end shall not be the host half's.
        std::mem::forget(control);
        let sink = Arc::clone(lines);
        Config {
            memory: 64 << 20,
            cpus: 2,
            control: sentry,
            gofers: Vec::new(),
            streams: Vec::new(),
            log: Box::new(move |_, line| sink.lock().unwrap().push(line.to_string())),
            level: Level::Debug,
            mode: 1,
            force: 0,
            image,
            confine: false,
        }
    }

    #[test]
    fn a_guest_boots_starts_a_vcpu_and_rings() {
        if !crate::check::kvm(true).0.sane() {
            println!("no true KVM here: {:?}", crate::check::kvm(true));
            return;
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let machine = Machine::new(config(test_image(), &lines)).unwrap();
        let end = machine.run_for(Duration::from_secs(60)).unwrap();
        assert!(matches!(end, End::Exit { status: 7, panic: None }), "{end}");
        assert_eq!(*lines.lock().unwrap(), ["hi"]);
    }

    #[test]
    fn a_guest_that_goes_where_nothing_is_ends_with_a_reason() {
        if !crate::check::kvm(true).0.sane() {
            println!("no true KVM here: {:?}", crate::check::kvm(true));
            return;
        }
        for code in [
            &[0x0f, 0x0b][..],                     // ud2
            &[0xe6, 0x80],                         // out 0x80, al
            &[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0], // mov rax, [0]
            &[0x66, 0xba, 0x14, 0x05, 0xef],       // mov dx, 0x514; out dx, eax
        ] {
            let lines = Arc::new(Mutex::new(Vec::new()));
            let image = image::tests::tiny(code, |_| {}).leak();
            let end = Machine::new(config(image, &lines)).unwrap();
            let end = end.run_for(Duration::from_secs(60)).unwrap();
            assert!(matches!(end, End::Vcpu { cpu: 0, .. } | End::Lie(_)), "{end}");
            println!("{end}");
        }
    }

    #[test]
    fn ram_is_one_slot_but_for_shared_segments() {
        let ram = Ram::new(2 << 20).unwrap();
        let segment = |n: u64, shared| image::Segment {
            virt: 0,
            phys: RAM_BASE + n * 4096,
            len: 4096,
            write: false,
            exec: true,
            shared,
        };
        let image = |segments| image::Loaded { entry: 0, segments, end: 0 };
        let host = ram.host_address();
        let whole = (RAM_BASE, 2 << 20, host);
        assert_eq!(ram_slots(&ram, &image(vec![segment(0, None)])), [whole]);
        let some = image(vec![segment(2, Some(7)), segment(0, Some(5))]);
        assert_eq!(
            ram_slots(&ram, &some),
            [
                (RAM_BASE, 4096, 5),
                (RAM_BASE + 4096, 4096, host + 4096),
                (RAM_BASE + 8192, 4096, 7),
                (RAM_BASE + 12288, (2 << 20) - 12288, host + 12288),
            ]
        );
    }

    #[test]
    fn the_window_finds_room_or_the_memory_is_refused() {
        assert_eq!(place_window(512 << 20, 46).unwrap(), (RAM_BASE + (1 << 30), WINDOW));
        assert_eq!(place_window(4 << 30, 34).unwrap(), (8 << 30, 8 << 30));
        assert!(place_window(60 << 30, 36).is_err());
        assert!(place_window(u64::MAX - 5, 46).is_err());
        assert!(place_window(1 << 20, 70).is_ok());
    }
}
