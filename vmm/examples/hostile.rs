//! Boots the hostile image once for each of its attacks (`guest/src/hostile`), each in a process of its own that has the
//! filters of a sandbox: `hostile IMAGE [TIMES [NAME]...]`, with so many times as many seeds. One line an attack says how its sandbox ended; exits with 1 where one
//! ended otherwise than it has to: by a panic, a filter, a wrong reason, or not at all.

#[path = "../../guest/src/hostile/attacks.rs"]
mod attacks;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use attacks::{ATTACKS, Expect};
use event_manager::{EventManager, SubscriberOps};
use sentry::platform::Level;
use vm_memory::{FileOffset, MmapRegion};
use vmm::kvm::{Config, End, Machine};
use vmm::protocol::Platform;

type Error = Box<dyn std::error::Error>;

/// What has no end of its own is left alone for so long.
const LASTS: Duration = Duration::from_millis(1500);
/// What has an end takes a fraction of this, on a machine that is emulated.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the loop may take to look round while the guest keeps it busy.
const ROUND: Duration = Duration::from_secs(20);
/// Status of an attack's process whose guest had not ended.
const LASTED: u8 = 9;

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("hostile: {e}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<u8, Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [image, "--attack", number, seed, limit] => {
            attack(image, number.parse()?, seed.parse()?, Duration::from_millis(limit.parse()?))
        }
        [image] => all(image, 1, &[]),
        [image, times, names @ ..] => all(image, times.parse()?, names),
        [] => Err("hostile IMAGE [TIMES [NAME]...]".into()),
    }
}

/// Makes all attacks, or these.
fn all(image: &str, times: u64, names: &[&str]) -> Result<u8, Error> {
    let (mut made, mut wrong) = (0, 0);
    for (number, (name, expect, seeds)) in ATTACKS.iter().enumerate() {
        if !names.is_empty() && !names.contains(name) {
            continue;
        }
        // One seed: it has no random part.
        let times = if *seeds == 1 { 1 } else { times };
        for seed in 0..seeds.saturating_mul(times) {
            made += 1;
            let (end, fine) = outcome(image, number, seed, *expect)?;
            wrong += u32::from(!fine);
            let verdict = if fine { "ok  " } else { "FAIL" };
            println!("{verdict} {name} {seed}: {end}");
        }
    }
    println!("{made} attacks, {wrong} with a wrong end");
    Ok(u8::from(wrong > 0 || made == 0))
}

/// Makes one in a process; what it says of the end, and whether that is as it has to be.
fn outcome(image: &str, number: usize, seed: u64, expect: Expect) -> Result<(String, bool), Error> {
    // Random ones may halt or spin by chance.
    let patient = matches!(expect, Expect::Harmless | Expect::Ended(_));
    let limit = if patient { LIMIT } else { LASTS };
    let mut child = Command::new(std::env::current_exe()?)
        .args([image, "--attack", &number.to_string(), &seed.to_string()])
        .arg(limit.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // What it says fits into the pipes.
    let deadline = Instant::now() + limit + ROUND;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    if let Some(out) = &mut child.stdout {
        out.read_to_string(&mut text)?;
    }
    if let Some(errors) = &mut child.stderr {
        errors.read_to_string(&mut text)?;
    }
    let text = text.trim().to_owned();
    let Some(status) = status else {
        return Ok((format!("the event loop does not come round any more: {text}"), false));
    };
    let fine = match (status.code().map(u8::try_from), expect) {
        (Some(Ok(0)), Expect::Harmless | Expect::Any) => true,
        (Some(Ok(1)), Expect::Ended(words)) => text.contains(words),
        (Some(Ok(1)), Expect::Any) => true,
        (Some(Ok(LASTED)), Expect::Lasts | Expect::Any) => true,
        _ => false,
    };
    Ok((format!("{text} ({status})"), fine))
}

/// The image as a binary has it: pages of a file that cannot be written.
fn mapped(file: &File) -> Result<&'static [u8], Error> {
    let size = usize::try_from(file.metadata()?.len())?;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let offset = FileOffset::new(file.try_clone()?, 0);
    let region =
        Box::leak(Box::new(MmapRegion::<()>::build(Some(offset), size, libc::PROT_READ, flags)?));
    // SAFETY: it is mapped for good, and nobody writes the file.
    Ok(unsafe { std::slice::from_raw_parts(region.as_ptr(), size) })
}

/// Boots the image for one attack, as a sandbox is booted, and prints how it ended: 0 where the image ended itself, 1 where
/// the host half did, [`LASTED`] where nobody had.
fn attack(image: &str, number: u32, seed: u64, limit: Duration) -> Result<u8, Error> {
    let image = mapped(&File::open(image)?)?;
    let (_control, control) = ptrace_fallback::control_pair()?;
    // A gofer that says nothing, and closes nothing.
    let (gofer, _mute) = std::os::unix::net::UnixDatagram::pair()?;
    let (stream, _writer) = std::io::pipe()?;
    let logged = Arc::new(AtomicU64::new(0));
    let lines = Arc::clone(&logged);
    let config = Config {
        memory: 64 << 20,
        cpus: 2,
        control,
        gofers: vec![OwnedFd::from(gofer)],
        streams: vec![OwnedFd::from(stream)],
        log: Box::new(move |_, line| {
            let line = line.to_string();
            assert!(!line.contains(char::is_control), "a line with control characters");
            lines.fetch_add(line.len() as u64, Ordering::Relaxed);
        }),
        level: Level::Debug,
        mode: number,
        force: seed,
        image,
        confine: true,
    };
    nix::sys::prctl::set_no_new_privs()?;
    let mut machine = Machine::new(config)?;
    let mut manager = EventManager::new()?;
    machine.start()?;
    vmm::wall::sandbox::install(Platform::Kvm)?;
    let id = manager.add_subscriber(machine);
    let begin = Instant::now();
    let end = loop {
        let left = limit.saturating_sub(begin.elapsed());
        manager.run_with_timeout(i32::try_from(left.as_millis())?)?;
        if let Some(end) = manager.subscriber_mut(id)?.end() {
            break end;
        }
        if left.is_zero() {
            println!("it goes on; {} bytes logged", logged.load(Ordering::Relaxed));
            // As a sandbox's process ends: without waiting for its vCPUs.
            std::process::exit(LASTED.into());
        }
    };
    let status = u8::from(!matches!(end, End::Exit { status: 0, .. }));
    let text = match end {
        End::Exit { status, panic } => {
            let len = panic.map_or(0, |text| text.len());
            format!("it ended itself with {status}, {len} bytes of a panic")
        }
        end => end.to_string(),
    };
    println!("{text}; {} bytes logged", logged.load(Ordering::Relaxed));
    std::process::exit(status.into())
}
