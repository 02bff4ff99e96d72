//! vCPUs: their first registers, and the threads that run them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest::contract::{CALL_TEXT, Call, CallPage, PAGE, RAM_BASE, Request};
use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_mp_state, kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuFd, VmFd};
use sentry::platform::Level;
use std::mem::offset_of;
use zerocopy::FromBytes;

use super::cpuid;
use super::end::{End, Lie};
use super::exit::Exit;
use super::shared::{Command, Shared, StartCpu, lock};

/// Makes a vCPU that is ready to enter at `start`.
pub fn create(
    vm: &VmFd,
    profile: &[kvm_cpuid_entry2],
    start: &StartCpu,
) -> Result<VcpuFd, kvm_ioctls::Error> {
    let vcpu = vm.create_vcpu(start.cpu.into())?;
    // KVM_MAX_CPUID_ENTRIES is what they came in.
    let cpuid = CpuId::from_entries(&cpuid::for_vcpu(profile, start.cpu))
        .map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    vcpu.set_cpuid2(&cpuid)?;
    let mut sregs = vcpu.get_sregs()?;
    let segment = |selector, type_, long: bool| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    // Execute and read, accessed; read and write, accessed.
    sregs.cs = segment(0x08, 11, true);
    let data = segment(0x10, 3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.limit = 0;
    // No handlers: a fault before the image has its own is an exit.
    sregs.idt.limit = 0;
    // PE, MP, ET, NE, WP, PG (Intel SDM volume 3, 2.5).
    sregs.cr0 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
    sregs.cr3 = start.cr3;
    // PAE, PGE, OSFXSR, OSXMMEXCPT.
    sregs.cr4 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10;
    // SCE, LME, LMA, NXE (AMD APM volume 2, 3.1.7).
    sregs.efer = 1 | 1 << 8 | 1 << 10 | 1 << 11;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: start.rip,
        rsp: start.rsp,
        rdi: start.rdi,
        rflags: 2,
        ..Default::default()
    })?;
    if start.cpu != 0 {
        // It would wait for INIT and SIPI otherwise, which a PC's firmware sends.
        vcpu.set_mp_state(kvm_mp_state { mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE })?;
    }
    Ok(vcpu)
}

/// Runs a vCPU until the sandbox ends. To be called on the vCPU's own thread.
pub fn run(shared: &Shared, cpu: u32, vcpu: &mut VcpuFd) {
    let mut vanished = 0;
    while !shared.stopping.load(Ordering::Acquire) {
        let exit = Exit::from_run(vcpu.run());
        if exit != Exit::Vanished {
            vanished = 0;
        }
        let outcome = match exit {
            Exit::Call => call(shared, cpu),
            Exit::Debug(byte) => {
                shared.early(byte);
                Ok(())
            }
            Exit::Doorbell => {
                shared.bell();
                Ok(())
            }
            Exit::Interrupted => Ok(()),
            Exit::Vanished => {
                vanished += 1;
                vanish(shared, cpu, vcpu, vanished)
            }
            Exit::Unexpected(reason) => {
                Err(End::Vcpu { cpu, reason: format!("{reason}{}", whereabouts(vcpu)) })
            }
        };
        if let Err(end) = outcome {
            return shared.command(Command::End(end));
        }
    }
}

/// A page behind guest memory is not there. Where a file has shrunk, zero pages take its place; where
/// none has, another vCPU may have come first, or the file may have grown again: a few times, then
/// the guest has gone where nothing is.
fn vanish(shared: &Shared, cpu: u32, vcpu: &VcpuFd, times: u32) -> Result<(), End> {
    const TRIES: u32 = 8;
    let changed = shared
        .memory_vanished()
        .map_err(|error| End::Host { what: "looking for shrunk files", error })?;
    if changed || times < TRIES {
        return Ok(());
    }
    let reason = format!(
        "it reached for memory that nothing is mapped at, or that is not its to write,{}",
        whereabouts(vcpu)
    );
    Err(End::Vcpu { cpu, reason })
}

/// Where a vCPU was, for the reason of an end.
fn whereabouts(vcpu: &VcpuFd) -> String {
    let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return String::new();
    };
    format!(
        " at rip {:#x}, rsp {:#x}, rax {:#x}, rflags {:#x}, cr2 {:#x}, cr3 {:#x}, cs {:#x}",
        regs.rip, regs.rsp, regs.rax, regs.rflags, sregs.cr2, sregs.cr3, sregs.cs.selector
    )
}

/// Serves the synchronous call in the vCPU's call page.
fn call(shared: &Shared, cpu: u32) -> Result<(), End> {
    /// The page without its text.
    const HEAD: usize = offset_of!(CallPage, text);
    let at = shared.layout.call(cpu);
    let mut head = [0; HEAD];
    shared.ram.read(at, &mut head).map_err(Lie::from)?;
    let field = |offset: usize| {
        // Inside the head, by the layout of CallPage.
        u64::from_le_bytes(std::array::from_fn(|i| head[offset + i]))
    };
    let number = field(offset_of!(CallPage, call)) as u32;
    let len = (field(offset_of!(CallPage, call)) >> 32) as usize;
    let args: [u64; 5] = std::array::from_fn(|i| field(offset_of!(CallPage, args) + 8 * i));
    let wrong = |what| Lie::Call { call: number, what };
    if len > CALL_TEXT {
        return Err(wrong("its text is too long").into());
    }
    let mut text = vec![0; len];
    shared.ram.read(at + HEAD as u64, &mut text).map_err(Lie::from)?;
    let result = match Call::from_number(number) {
        Some(Call::Log) => {
            shared.log(level(args[0]), &text);
            0
        }
        Some(Call::Panic) => {
            shared.panicked(&text);
            0
        }
        Some(Call::Exit) => {
            let Ok(status) = u8::try_from(args[0]) else {
                return Err(wrong("its status is not 0 to 255").into());
            };
            let panic = Some(std::mem::take(&mut *lock(&shared.panic))).filter(|p| !p.is_empty());
            return Err(End::Exit { status, panic });
        }
        Some(Call::StartCpu) => {
            start(shared, args)?;
            0
        }
        Some(Call::Request) => {
            let request = Request::read_from_bytes(text.get(..size_of::<Request>()).unwrap_or(&[]))
                .map_err(|_| wrong("its request is cut off"))?;
            shared.serve(&request)?.unwrap_or(-i64::from(libc::ENOSYS))
        }
        None => return Err(wrong("there is no such call").into()),
    };
    let result_at = at + offset_of!(CallPage, result) as u64;
    shared.ram.put(result_at, &result).map_err(Lie::from)?;
    Ok(())
}

/// Asks the event loop to start a vCPU.
fn start(shared: &Shared, args: [u64; 5]) -> Result<(), Lie> {
    let wrong = |what| Lie::Call { call: Call::StartCpu as u32, what };
    let [cpu, rip, rsp, rdi, cr3] = args;
    let cpu = u32::try_from(cpu).map_err(|_| wrong("its vCPU is out of range"))?;
    if cpu >= shared.vcpus {
        return Err(Lie::Cpu(cpu));
    }
    if !cr3.is_multiple_of(PAGE) || cr3 < RAM_BASE {
        return Err(wrong("its page table is not page-aligned"));
    }
    shared.ram.check(cr3, PAGE)?;
    if shared.started.fetch_or(1 << cpu, Ordering::AcqRel) >> cpu & 1 != 0 {
        return Err(wrong("its vCPU has been started before"));
    }
    shared.command(Command::Start(StartCpu { cpu, rip, rsp, rdi, cr3 }));
    Ok(())
}

fn level(number: u64) -> Level {
    match number {
        0..=3 => Level::Error,
        4 => Level::Warning,
        5 | 6 => Level::Info,
        _ => Level::Debug,
    }
}

/// The thread of a vCPU.
pub type Thread = std::thread::JoinHandle<()>;

/// Stack of a vCPU thread: it formats log lines, and no more.
const STACK: usize = 256 << 10;

/// Starts the thread of a vCPU.
pub fn spawn(
    shared: &Arc<Shared>,
    cpu: u32,
    mut vcpu: VcpuFd,
    confine: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> std::io::Result<Thread> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name(format!("vcpu{cpu}")).stack_size(STACK).spawn(move || {
        if let Err(reason) = confine() {
            return shared.command(Command::End(End::Vcpu { cpu, reason }));
        }
        run(&shared, cpu, &mut vcpu);
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use zerocopy::IntoBytes;

    use super::super::tests::shared_without_machine;
    use super::*;

    fn put(shared: &Shared, call: u32, len: u32, args: [u64; 5], text: &[u8]) {
        let at = shared.layout.call(0);
        let mut page = vec![0u8; 4096];
        page[..4].copy_from_slice(&call.to_le_bytes());
        page[4..8].copy_from_slice(&len.to_le_bytes());
        page[8..48].copy_from_slice(args.as_bytes());
        page[56..56 + text.len()].copy_from_slice(text);
        shared.ram.write(at, &page).unwrap();
    }

    #[test]
    fn calls_are_served_and_lies_end_the_sandbox() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let shared = shared_without_machine(Box::new(move |level, line| {
            sink.lock().unwrap().push((level, line.to_string()));
        }));
        put(&shared, Call::Log as u32, 5, [6, 0, 0, 0, 0], b"hello");
        call(&shared, 0).unwrap();
        put(&shared, Call::Panic as u32, 4, [0; 5], b"oh\x07\n");
        call(&shared, 0).unwrap();
        put(&shared, Call::Exit as u32, 0, [3, 0, 0, 0, 0], b"");
        match call(&shared, 0) {
            Err(End::Exit { status: 3, panic: Some(text) }) => assert_eq!(text, "oh\\u{7}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            *lines.lock().unwrap(),
            [(Level::Info, "hello".to_string()), (Level::Error, "oh\\u{7}".to_string())]
        );

        let cr3 = shared.layout.cr3;
        for (number, len, args) in [
            (0, 0, [0; 5]),
            (77, 0, [0; 5]),
            (Call::Log as u32, CALL_TEXT as u32 + 1, [0; 5]),
            (Call::Log as u32, u32::MAX, [0; 5]),
            (Call::Exit as u32, 0, [256, 0, 0, 0, 0]),
            (Call::StartCpu as u32, 0, [0, 0, 0, 0, cr3]),
            (Call::StartCpu as u32, 0, [2, 0, 0, 0, cr3]),
            (Call::StartCpu as u32, 0, [1 << 32, 0, 0, 0, cr3]),
            (Call::StartCpu as u32, 0, [1, 0, 0, 0, cr3 + 1]),
            (Call::StartCpu as u32, 0, [1, 0, 0, 0, 0]),
            (Call::StartCpu as u32, 0, [1, 0, 0, 0, !4095]),
            (Call::Request as u32, 63, [0; 5]),
        ] {
            put(&shared, number, len, args, b"");
            assert!(matches!(call(&shared, 0), Err(End::Lie(_))), "{number} {len} {args:x?}");
        }
        put(&shared, Call::StartCpu as u32, 0, [1, 9, 8, 7, cr3], b"");
        call(&shared, 0).unwrap();
        assert!(call(&shared, 0).is_err(), "started twice");
        let command = lock(&shared.commands).pop_front();
        assert!(matches!(
            command,
            Some(Command::Start(StartCpu { cpu: 1, rip: 9, rsp: 8, rdi: 7, .. }))
        ));
    }

    #[test]
    fn a_request_can_be_made_synchronously() {
        let shared = shared_without_machine(Box::new(|_, _| {}));
        let result = |request: Request| {
            put(&shared, Call::Request as u32, 64, [0; 5], request.as_bytes());
            call(&shared, 0)?;
            let at = shared.layout.call(0) + offset_of!(CallPage, result) as u64;
            Ok::<i64, End>(shared.ram.get(at).unwrap())
        };
        assert_eq!(result(Request::default()).unwrap(), 0);
        let ask = |op| Request { op, handle: 9, gpa: shared.layout.boot, ..Request::default() };
        let badf = -i64::from(libc::EBADF);
        assert_eq!(result(ask(guest::contract::op::FILE_READ)).unwrap(), badf);
        assert_eq!(result(ask(guest::contract::op::STREAM_READ)).unwrap(), badf);
        assert_eq!(result(ask(u32::MAX)).unwrap(), -i64::from(libc::ENOSYS));
        assert_eq!(
            result(ask(guest::contract::op::CHANNEL_OPEN)).unwrap(),
            -i64::from(libc::ENOSYS)
        );
    }
}
