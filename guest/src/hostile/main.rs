//! A hostile image: what a sentry could do to the host half that an application has taken over.
//!
//! It believes the boot page, whose `mode` is the number of an attack ([`attacks`]) and whose `force` is a seed, makes that
//! attack, and where it can still go on ends with status 0, or with another where the host half gave an answer that it
//! should not have. `vmm/examples/hostile.rs` boots it, and knows how each attack has to end.
#![no_std]
#![no_main]

mod attacks;
#[path = "../image/builtins.rs"]
mod builtins;
mod cpu;
mod host;
mod tables;

use core::alloc::{GlobalAlloc, Layout};

use guest::contract::{
    BootPage, CALL_PORT, CALL_TEXT, Call, DEBUG_PORT, DIRECT_MAP, DOORBELL_PORT, IMAGE_BASE,
    MAX_RING, MIN_RING, NO_FILE, PAGE, RAM_BASE, RING_ENTRIES, Request, WINDOW_CHUNK, WINDOW_SLOT,
    op,
};

use host::{Host, Rng};

core::arch::global_asm!(
    r#"
    .section .text.entry, "ax"
    .globl image_entry
image_entry:
    lea rsp, [rip + hostile_stack_top]
    xor ebp, ebp
    call {main}
    .globl image_trap
image_trap:
    ud2
    .globl hostile_second
hostile_second:
    jmp {second}
    .globl hostile_idle
hostile_idle:
    hlt
    jmp hostile_idle

    .bss
    .p2align 12
    .skip 65536
hostile_stack_top:
    .text
    "#,
    main = sym main,
    second = sym second,
);

/// The contract's crate names a heap; there is none here.
struct NoHeap;

// SAFETY: it never gives memory out.
unsafe impl GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: NoHeap = NoHeap;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    for byte in b"the hostile image has a defect\n" {
        cpu::outb(DEBUG_PORT, *byte);
    }
    cpu::triple_fault()
}

/// How often attacks without an end of their own are made.
const ROUNDS: u64 = 2000;

/// Where the entry leads.
extern "sysv64" fn main(boot: *const BootPage) -> ! {
    // SAFETY: the contract puts the boot page there.
    let boot = unsafe { boot.read() };
    let name = attacks::ATTACKS.get(boot.mode as usize).map_or("", |attack| attack.0);
    let mut host = Host::new(boot);
    let fine = attack(name, &mut host);
    host.exit(u64::from(!fine))
}

/// Makes an attack; whether the host half's answers, where there are any, are right.
fn attack(name: &str, host: &mut Host) -> bool {
    let rng = &mut Rng::new(host.boot.force);
    match name {
        "nothing" => host.log(b"hello") == 0,

        "port-out" => gone(|| cpu::outb(0x80, 1)),
        "port-in" => gone(|| cpu::inl(0xcfc)),
        "port-string" => gone(|| cpu::outs(0x3f8, DIRECT_MAP + host.boot.first_free, 5000)),
        "call-port-short" => gone(|| cpu::outb(CALL_PORT, 1)),
        "call-port-in" => gone(|| cpu::inl(CALL_PORT)),
        "memory-read" => gone(|| cpu::read(host.low(0x1008))),
        "memory-write" => gone(|| cpu::write(host.low(0x1010), 1)),
        "memory-execute" => cpu::jump(host.low(0x2000), 0),
        "memory-last" => gone(|| cpu::write(host.low((1 << 30) - 8), 1)),
        "image-write" => gone(|| cpu::write(DIRECT_MAP + RAM_BASE, 0)),
        "tables-nowhere" => gone(|| cpu::set_tables(0x4000)),
        "triple-fault" => cpu::triple_fault(),
        "hypercalls" => {
            tables::skip(3);
            for number in (0..32).chain([1000, u64::MAX]) {
                cpu::hypercall(number, rng.next());
            }
            true
        }
        "registers" => registers(rng),
        "halt" => cpu::halt(),
        "spin" => loop {
            core::hint::spin_loop();
        },
        "interrupts" => interrupts(rng),
        "random-code" => random_code(host, rng),

        "doorbells" => loop {
            cpu::outl(DOORBELL_PORT, 0);
        },
        "doorbell-widths" => {
            for _ in 0..ROUNDS {
                cpu::outb(DOORBELL_PORT, 1);
                cpu::outw(DOORBELL_PORT, 2);
                cpu::outl(DOORBELL_PORT, u32::MAX);
            }
            true
        }

        "call-unknown" => gone(|| host.call(77, 0, [0; 5])),
        "call-text" => gone(|| host.call(Call::Log as u32, CALL_TEXT as u32 + 1, [0; 5])),
        "call-status" => gone(|| host.call(Call::Exit as u32, 0, [256, 0, 0, 0, 0])),
        "call-random" => {
            for _ in 0..ROUNDS {
                let number = rng.below(8) as u32;
                let number = if number == Call::Exit as u32 { 9 } else { number };
                let len = [0, 64, CALL_TEXT as u64, rng.next()][rng.below(4) as usize];
                host.scribble(host.boot.calls, PAGE, rng);
                host.call(number, len as u32, core::array::from_fn(|_| host.number(rng)));
            }
            true
        }
        "log-flood" | "panic-flood" => {
            let number = if name == "log-flood" { Call::Log } else { Call::Panic };
            for _ in 0..ROUNDS / 4 {
                host.scribble(host.boot.calls, PAGE, rng);
                host.call(number as u32, CALL_TEXT as u32, [6, 0, 0, 0, 0]);
            }
            true
        }
        "early-flood" => {
            for _ in 0..ROUNDS * 10 {
                cpu::outb(DEBUG_PORT, rng.next() as u8 | 0x80);
            }
            true
        }

        "cpu-nowhere" => {
            host.start_cpu(1, 0x1234_5678, host.cr3());
            cpu::halt()
        }
        "cpu-twice" => {
            // Not the one that writes over everything, the second call among it.
            let idle = hostile_idle as *const () as u64;
            host.start_cpu(1, idle, host.cr3());
            gone(|| host.start_cpu(1, idle, host.cr3()))
        }
        "cpu-many" => gone(|| host.start_cpu(64, 0, host.cr3())),
        "cpu-huge" => gone(|| host.start_cpu(1 << 32 | 1, 0, host.cr3())),
        "cpu-tables" => gone(|| host.start_cpu(1, 0, host.cr3() + 8)),

        "submit-index" => {
            host.set_submit_tail(1000);
            host.ring_and_wait()
        }
        "complete-index" => {
            host.set_complete_head(77);
            host.submit(&Request { op: op::NOP, ..Request::default() });
            host.ring_and_wait()
        }
        // Never more than the ring holds, and never an end.
        "requests-endless" => loop {
            host.submit(&Request { op: op::NOP, cpu: 0, ..Request::default() });
            host.take_completions();
        },
        "requests-random" => {
            for _ in 0..ROUNDS {
                let request = host.request(rng);
                host.submit(&request);
                if rng.below(4) == 0 {
                    host.take_completions();
                }
            }
            host.drain();
            true
        }
        "requests-outside" => {
            let op = [op::STREAM_READ, op::STREAM_WRITE, op::RELEASE, op::POPULATE];
            let op = op[rng.below(4) as usize];
            let end = RAM_BASE + host.boot.ram_size;
            let (gpa, len) = [
                (0, PAGE),
                (end - PAGE, 2 * PAGE),
                (!(PAGE - 1), PAGE),
                (host.boot.window_base, PAGE),
                (end, PAGE),
                (RAM_BASE - PAGE, PAGE),
            ][(host.boot.force % 6) as usize];
            host.submit(&Request { op, gpa, len, ..Request::default() });
            host.ring_and_wait()
        }
        "release-image" => {
            host.submit(&Request {
                op: op::RELEASE,
                gpa: RAM_BASE,
                len: PAGE,
                ..Request::default()
            });
            host.ring_and_wait()
        }
        "release-all" => {
            let gpa = host.boot.first_free;
            let len = RAM_BASE + host.boot.ram_size - gpa;
            for round in 0..8 {
                cpu::write(DIRECT_MAP + gpa, 7);
                let op = if round % 2 == 0 { op::RELEASE } else { op::POPULATE };
                host.submit(&Request { op, gpa, len, tag: round, ..Request::default() });
                host.drain();
                if op == op::RELEASE && cpu::read(DIRECT_MAP + gpa) != 0 {
                    return false;
                }
            }
            true
        }

        "channel-index" => {
            host.open_channel(0);
            host.channel_word(0, 0, 0xffff_ff00);
            host.ring_and_wait()
        }
        "channel-piece" => {
            host.open_channel(0);
            host.piece(0, [4096, 0, NO_FILE, 0], 64);
            host.ring_and_wait()
        }
        "channel-empty-pieces" => {
            host.open_channel(0);
            host.piece(0, [0, 1, NO_FILE, 0], 16);
            host.ring_and_wait()
        }
        "channel-twice" => {
            // -ENODEV.
            host.open_channel(0) > 0 && host.open_channel(0) == -19 && host.open_channel(7) == -19
        }
        "channels-random" => {
            for channel in 0..2 {
                host.open_channel(channel);
            }
            for _ in 0..ROUNDS {
                let channel = rng.below(2) as u32;
                // Mostly indices, which are multiples of eight; whom to wake has to be a vCPU that there may be.
                match rng.below(200) {
                    0 => host.channel_word(channel, rng.below(64) * 4, rng.next() as u32),
                    1..40 => host.channel_word(channel, rng.below(16) * 4 + 128, rng.next() as u32),
                    40..80 => {
                        let word = [0x44, 0xc4][rng.below(2) as usize];
                        host.channel_word(channel, word, rng.below(3) as u32);
                    }
                    _ => {
                        let len = rng.below(300) as u32;
                        let published = len.next_multiple_of(8) + 16;
                        host.piece(channel, [len, rng.below(2) as u32, NO_FILE, 0], published);
                    }
                }
                cpu::outl(DOORBELL_PORT, 0);
            }
            true
        }

        "window-read" => gone(|| cpu::read(DIRECT_MAP + host.boot.window_base + 8)),
        "window-random" => {
            let ops = [op::WINDOW_MAP, op::WINDOW_UNMAP, op::FILE_CLOSE, op::FILE_SIZE];
            for _ in 0..ROUNDS {
                let within = rng.below(4) * WINDOW_SLOT;
                let request = Request {
                    op: ops[rng.below(4) as usize],
                    handle: rng.below(4) as u32,
                    gpa: rng.below(1 << 13) * WINDOW_CHUNK + within,
                    len: (1 + rng.below((WINDOW_CHUNK - within) / PAGE)) * PAGE,
                    offset: rng.next() & !(PAGE - 1),
                    ..Request::default()
                };
                host.submit(&request);
                host.take_completions();
            }
            host.drain();
            true
        }

        "races" => {
            host.start_second();
            for channel in 0..2 {
                host.open_channel(channel);
            }
            for _ in 0..ROUNDS {
                let request = host.request(rng);
                host.submit(&request);
                host.take_completions();
                host.log(b"still here");
            }
            true
        }
        _ => false,
    }
}

/// Makes an attack that should not come back.
fn gone<T>(attack: impl FnOnce() -> T) -> bool {
    attack();
    false
}

unsafe extern "C" {
    fn hostile_second();
    fn hostile_idle();
}

/// The second vCPU's life: it writes over all that the host half reads, RDI being the boot page.
extern "sysv64" fn second(boot: *const BootPage) -> ! {
    // SAFETY: the contract puts the boot page there.
    let boot = unsafe { boot.read() };
    let mut rng = Rng::new(boot.force ^ 0x5a5a);
    let pages =
        [boot.control, boot.calls, boot.submissions, boot.submissions + PAGE, boot.first_free];
    loop {
        let page = pages[rng.below(5) as usize];
        let at = DIRECT_MAP + page + rng.below(PAGE / 4) * 4;
        let value = match rng.below(3) {
            0 => rng.next() as u32,
            1 => rng.below(RING_ENTRIES.into()) as u32,
            _ => cpu::read32(at) ^ 1 << rng.below(32),
        };
        cpu::write32(at, value);
    }
}

/// Model-specific registers, and instructions that ask the host for something.
fn registers(rng: &mut Rng) -> bool {
    // The architecture's, those of KVM and of Hyper-V, x2APIC's, AMD's.
    let ranges = [
        (0, 0x1000),
        (0x4b56_4d00, 16),
        (0x4000_0000, 0x200),
        (0x800, 0x100),
        (0xc000_0000, 0x200),
        (0xc001_0000, 0x200),
    ];
    tables::skip(2);
    for _ in 0..ROUNDS {
        let (from, len) = ranges[rng.below(6) as usize];
        let number = from + rng.below(len) as u32;
        let value = match rng.below(3) {
            0 => rng.next(),
            1 => u64::MAX >> rng.below(64),
            _ => (RAM_BASE + rng.below(1 << 40)) | 1,
        };
        // EFER decides whether this code can go on.
        let write = rng.below(2) == 0 && number != 0xc000_0080;
        cpu::register(number, write.then_some(value));
    }
    tables::skip(3);
    for _ in 0..ROUNDS / 10 {
        let which = rng.below(8);
        // CR4 without PAE ends it at once.
        let value = if which == 1 { rng.next() & 0x7f_ffff | 1 << 5 } else { rng.next() };
        cpu::privileged(which, value);
    }
    true
}

/// Everything that a local APIC can be told.
fn interrupts(rng: &mut Rng) -> bool {
    const APIC_BASE: u32 = 0x1b;
    tables::skip(2);
    // x2APIC.
    cpu::register(APIC_BASE, Some(0xfee0_0d00));
    for _ in 0..ROUNDS {
        let register = 0x800 + rng.below(0x40) as u32;
        let value = match rng.below(3) {
            0 => rng.next(),
            1 => rng.below(1 << 20),
            // To vCPU 0 or 1, or all.
            _ => rng.below(3) << 32 | rng.below(4) << 18 | rng.below(1 << 16),
        };
        cpu::register(register, Some(value));
    }
    true
}

/// Random bytes as code, with registers that lead nowhere.
fn random_code(host: &mut Host, rng: &mut Rng) -> ! {
    let page = host.boot.first_free;
    host.scribble(page, PAGE, rng);
    // Code that is in the image's own writable memory cannot be executed; the same page by another address can.
    let code = host.executable(page);
    let registers = [host.low(0x3000), DIRECT_MAP + host.boot.control, rng.next(), IMAGE_BASE];
    cpu::jump(code + rng.below(PAGE / 2), registers[rng.below(4) as usize])
}

const _: () = assert!(MIN_RING == 4096 && MAX_RING >= MIN_RING);
