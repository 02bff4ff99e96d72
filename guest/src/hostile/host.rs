//! What the hostile image knows of the host half: where the contract's pages are, and how to write into them.

use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use guest::contract::{
    BootPage, CALL_PORT, CALL_TEXT, COMPLETION_ENTRIES, Call, CallPage, ChannelControl, DIRECT_MAP,
    DOORBELL_PORT, MAX_BUFFER, MIN_RING, NO_CPU, PAGE, RAM_BASE, RING_ENTRIES, Request,
    SharedControl, WINDOW_CHUNK, WINDOW_SLOT, op,
};
use zerocopy::IntoBytes;

use crate::{cpu, hostile_second};

/// Numbers that a seed determines (xorshift64*).
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Rng {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            rng.next();
        }
        rng
    }

    /// The next.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// The host half's side, as the image sees it.
pub struct Host {
    /// The boot page.
    pub boot: BootPage,
    submit_tail: u32,
    complete_head: u32,
    out_tails: [u32; 2],
}

/// Ring size of the channels here.
const RING: u64 = MIN_RING;

impl Host {
    /// From the boot page.
    pub fn new(boot: BootPage) -> Host {
        Host { boot, submit_tail: 0, complete_head: 0, out_tails: [0; 2] }
    }

    /// The first page table's address.
    pub fn cr3(&self) -> u64 {
        cpu::tables() & !(PAGE - 1)
    }

    // --- calls ---

    /// Makes a call with what stands in the call page as text.
    pub fn call(&self, number: u32, len: u32, args: [u64; 5]) -> i64 {
        let page = DIRECT_MAP + self.boot.calls;
        cpu::write32(page + offset_of!(CallPage, call) as u64, number);
        cpu::write32(page + offset_of!(CallPage, text_len) as u64, len);
        for (at, arg) in (offset_of!(CallPage, args) as u64..).step_by(8).zip(args) {
            cpu::write(page + at, arg);
        }
        cpu::outl(CALL_PORT, 0);
        cpu::read(page + offset_of!(CallPage, result) as u64).cast_signed()
    }

    /// Writes a line.
    pub fn log(&self, text: &[u8]) -> i64 {
        let text = text.get(..CALL_TEXT).unwrap_or(text);
        copy(self.boot.calls + offset_of!(CallPage, text) as u64, text);
        self.call(Call::Log as u32, text.len() as u32, [6, 0, 0, 0, 0])
    }

    /// Ends the sandbox.
    pub fn exit(&self, status: u64) -> ! {
        self.call(Call::Exit as u32, 0, [status, 0, 0, 0, 0]);
        cpu::halt()
    }

    /// Starts a vCPU.
    pub fn start_cpu(&self, number: u64, rip: u64, cr3: u64) -> i64 {
        // Its stack is the end of RAM.
        let stack = DIRECT_MAP + RAM_BASE + self.boot.ram_size - 64;
        // The boot page is where the entry found it.
        let boot = DIRECT_MAP + self.boot_page();
        self.call(Call::StartCpu as u32, 0, [number, rip, stack, boot, cr3])
    }

    /// Starts the vCPU that writes over everything.
    pub fn start_second(&self) {
        self.start_cpu(1, hostile_second as *const () as u64, self.cr3());
    }

    /// Just before the control page (`vmm::kvm::boot::prepare`).
    fn boot_page(&self) -> u64 {
        self.boot.control - PAGE
    }

    // --- requests ---

    fn control(&self, offset: usize) -> u64 {
        DIRECT_MAP + self.boot.control + offset as u64
    }

    /// Says how many requests have been published.
    pub fn set_submit_tail(&mut self, tail: u32) {
        self.submit_tail = tail;
        fence(Ordering::SeqCst);
        cpu::write32(self.control(offset_of!(SharedControl, submit_tail)), tail);
    }

    /// Says how many completions have been taken, true or not.
    pub fn set_complete_head(&self, head: u32) {
        cpu::write32(self.control(offset_of!(SharedControl, complete_head)), head);
    }

    /// Publishes a request, once there is room, and rings.
    pub fn submit(&mut self, request: &Request) {
        while self.submit_tail.wrapping_sub(self.complete_head) >= RING_ENTRIES {
            cpu::outl(DOORBELL_PORT, 0);
            self.take_completions();
        }
        let at = u64::from(self.submit_tail % RING_ENTRIES) * size_of::<Request>() as u64;
        copy(self.boot.submissions + at, request.as_bytes());
        self.set_submit_tail(self.submit_tail.wrapping_add(1));
        cpu::outl(DOORBELL_PORT, 0);
    }

    /// Takes what has completed.
    pub fn take_completions(&mut self) {
        let tail = cpu::read32(self.control(offset_of!(SharedControl, complete_tail)));
        if tail.wrapping_sub(self.complete_head) <= COMPLETION_ENTRIES {
            self.complete_head = tail;
            self.set_complete_head(tail);
        }
    }

    /// Waits for the completion of all.
    pub fn drain(&mut self) {
        while self.complete_head != self.submit_tail {
            cpu::outl(DOORBELL_PORT, 0);
            self.take_completions();
        }
    }

    /// Rings, and gives the host half the time to end the sandbox.
    pub fn ring_and_wait(&self) -> bool {
        cpu::outl(DOORBELL_PORT, 0);
        cpu::halt()
    }

    /// A number of the kind that stands in requests: an address, a size, or any.
    pub fn number(&self, rng: &mut Rng) -> u64 {
        let end = RAM_BASE + self.boot.ram_size;
        match rng.below(8) {
            0 => rng.next(),
            1 => rng.below(64),
            2 => RAM_BASE + rng.below(self.boot.ram_size),
            3 => end - rng.below(2 * PAGE),
            4 => self.boot.first_free + (rng.below(256) << 12),
            5 => rng.below(64) << 12,
            6 => MAX_BUFFER - 1 + rng.below(3),
            _ => u64::MAX >> rng.below(64),
        }
    }

    /// A request that is wrong in one field or another, and now and then in none.
    pub fn request(&self, rng: &mut Rng) -> Request {
        let free = self.boot.first_free + ((16 + rng.below(64)) << 12);
        let ops = [
            op::NOP,
            op::FILE_READ,
            op::FILE_WRITE,
            op::FILE_SIZE,
            op::FILE_CLOSE,
            op::WINDOW_MAP,
            op::WINDOW_UNMAP,
            op::STREAM_READ,
            op::STREAM_WRITE,
            op::STREAM_READY,
            op::STREAM_NOTIFY,
            op::STREAM_WINDOW,
            op::STREAM_SEEK,
            op::STREAM_KIND,
            op::CHANNEL_OPEN,
            op::RELEASE,
            op::POPULATE,
            77,
            u32::MAX,
        ];
        let mut request = Request {
            op: ops[rng.below(ops.len() as u64) as usize],
            cpu: [0, 1, NO_CPU][rng.below(3) as usize],
            tag: rng.next() >> 1,
            handle: rng.below(4) as u32,
            gpa: free,
            len: (1 + rng.below(16)) << 12,
            offset: rng.below(16) << 12,
            ..Request::default()
        };
        if matches!(request.op, op::WINDOW_MAP | op::WINDOW_UNMAP) {
            // At most a slot, over what is there from its beginning or not.
            request.gpa = rng.below(64) * WINDOW_CHUNK + rng.below(4) * WINDOW_SLOT;
        }
        if request.op == op::CHANNEL_OPEN {
            request.len = RING << rng.below(3);
        }
        match rng.below(400) {
            0 => request.gpa = self.number(rng),
            1 => request.len = self.number(rng),
            2 => request.offset = self.number(rng),
            3..20 => request.offset = self.number(rng) & !(PAGE - 1),
            20..40 => request.handle = self.number(rng) as u32,
            40 => request.cpu = self.number(rng) as u32,
            _ => {}
        }
        request
    }

    // --- channels ---

    fn channel(&self, channel: u32) -> u64 {
        self.boot.first_free + (4 + u64::from(channel % 2) * 4) * PAGE
    }

    /// Opens a channel; the answer.
    pub fn open_channel(&mut self, channel: u32) -> i64 {
        let request = Request {
            op: op::CHANNEL_OPEN,
            cpu: NO_CPU,
            tag: 1,
            handle: channel,
            gpa: self.channel(channel),
            len: RING,
            ..Request::default()
        };
        self.drain();
        let at = u64::from(self.complete_head % COMPLETION_ENTRIES) * 32;
        self.submit(&request);
        self.drain();
        cpu::read(DIRECT_MAP + self.boot.completions + at + 8).cast_signed()
    }

    /// Writes a word of a channel's control page.
    pub fn channel_word(&self, channel: u32, offset: u64, value: u32) {
        cpu::write32(DIRECT_MAP + self.channel(channel) + offset, value);
    }

    /// Publishes a piece with this header, and so many bytes in all.
    pub fn piece(&mut self, channel: u32, header: [u32; 4], published: u32) {
        let tail = self.out_tails[channel as usize % 2];
        let ring = DIRECT_MAP + self.channel(channel) + PAGE;
        for (n, word) in header.into_iter().enumerate() {
            cpu::write32(ring + (u64::from(tail) + n as u64 * 4) % RING, word);
        }
        let tail = tail.wrapping_add(published);
        self.out_tails[channel as usize % 2] = tail;
        fence(Ordering::SeqCst);
        self.channel_word(channel, offset_of!(ChannelControl, out_tail) as u64, tail);
    }

    // --- memory ---

    /// Fills memory with random bytes.
    pub fn scribble(&self, gpa: u64, len: u64, rng: &mut Rng) {
        for at in (gpa..gpa + len).step_by(8) {
            cpu::write(DIRECT_MAP + at, rng.next());
        }
    }

    /// An address at which there is guest-physical memory below RAM, where nothing is.
    pub fn low(&self, gpa: u64) -> u64 {
        // The direct map's first slot of its second table, which is empty since RAM begins at 4 GiB.
        let root = cpu::read(DIRECT_MAP + self.cr3() + (DIRECT_MAP >> 39 & 511) * 8);
        let pages = self.boot.first_free + PAGE;
        // 2 MiB pages: present, writable, large.
        for n in 0..512 {
            cpu::write(DIRECT_MAP + pages + n * 8, n << 21 | 0x83);
        }
        cpu::write(DIRECT_MAP + (root & 0x000f_ffff_ffff_f000), pages | 3);
        cpu::flush();
        DIRECT_MAP + gpa
    }

    /// An address at which a page of RAM can be executed.
    pub fn executable(&self, gpa: u64) -> u64 {
        // A root entry of its own, far from all others.
        const AT: u64 = 0xffff_9000_0000_0000;
        let [third, second, first] = [2, 3, 12].map(|n| self.boot.first_free + n * PAGE);
        cpu::write(DIRECT_MAP + self.cr3() + (AT >> 39 & 511) * 8, third | 3);
        cpu::write(DIRECT_MAP + third, second | 3);
        cpu::write(DIRECT_MAP + second, first | 3);
        cpu::write(DIRECT_MAP + first, gpa | 3);
        AT
    }
}

/// Copies into memory that the host half reads.
fn copy(gpa: u64, bytes: &[u8]) {
    for (at, byte) in (DIRECT_MAP + gpa..).zip(bytes) {
        // SAFETY: the contract's pages, which nobody holds a reference to.
        unsafe { (at as *mut u8).write_volatile(*byte) };
    }
}
