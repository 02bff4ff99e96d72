//! Boots a guest image on KVM without the rest of Ringwall, for working on the image:
//! `boot IMAGE [hello|self-test|sentry] [CPUS [FORCE-BITS]]`. Prints the log, how long things took and KVM's
//! counters; exits with the image's status.

use std::process::ExitCode;
use std::time::Instant;

use guest::contract::mode;
use sentry::platform::Level;
use vmm::kvm::{Config, End, Machine};

fn main() -> ExitCode {
    match boot() {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("boot: {e}");
            ExitCode::from(2)
        }
    }
}

fn boot() -> Result<u8, Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("boot IMAGE [hello|self-test|sentry] [CPUS [FORCE-BITS]]")?;
    let mode = match args.get(1).map(String::as_str) {
        None | Some("hello") => mode::HELLO,
        Some("self-test") => mode::SELF_TEST,
        Some("sentry") => mode::SENTRY,
        Some(other) => return Err(format!("no such mode: {other}").into()),
    };
    let begin = Instant::now();
    let (_control, sentry) = ptrace_fallback::control_pair()?;
    let mut machine = Machine::new(Config {
        memory: 512 << 20,
        cpus: args.get(2).map_or(Ok(2), |n| n.parse())?,
        control: sentry,
        gofers: Vec::new(),
        streams: Vec::new(),
        log: Box::new(|level, line| eprintln!("[{level:?}] {line}")),
        level: Level::Debug,
        mode,
        force: args.get(3).map_or(Ok(0), |n| n.parse())?,
        image: std::fs::read(path)?.leak(),
        confine: false,
    })?;
    let made = begin.elapsed();
    machine.start()?;
    let started = begin.elapsed();
    let mut manager = event_manager::EventManager::new()?;
    let id = event_manager::SubscriberOps::add_subscriber(&mut manager, machine);
    let end = loop {
        manager.run()?;
        let machine = event_manager::SubscriberOps::subscriber_mut(&mut manager, id)?;
        if let Some(end) = machine.end() {
            for (name, value) in machine.counters()?.iter().filter(|(_, value)| **value != 0) {
                eprintln!("{name} {value}");
            }
            break end;
        }
    };
    eprintln!("made {made:?}, started {started:?}, ended {:?}: {end}", begin.elapsed());
    match end {
        End::Exit { status, .. } => Ok(status),
        _ => Ok(1),
    }
}
