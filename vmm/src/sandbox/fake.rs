//! A responder in place of the sentry, so that the life cycle on the host is tested without one:
//! containers whose id begins with `fake-`, in builds with the feature `fake-sentry`.
//!
//! Its programs: `exit N`, `echo WORDS`, `sleep` (until a signal), `self-kill N`, `trap` (prints each
//! signal; USR2 ends it), `crash` (takes the sandbox down), `missing`, `not-executable`.

use std::os::fd::OwnedFd;

use ptrace_fallback::ControlSentry;
use sentry::control::{
    Call, Event, ExitStatus, Failure, FailureKind, Reply, Request, decode, encode,
};
use sentry::platform::Channel;

/// Serves until the host half closes.
pub fn run(control: &ControlSentry, _gofers: &[OwnedFd], streams: &[OwnedFd]) {
    let say = |event: Event| {
        let bytes = encode(&event).expect("encodes");
        let _closed = control.send(&bytes);
    };
    say(Event::Ready);
    let (mut program, mut name) = (Vec::new(), String::new());
    let mut message = Vec::new();
    while control.recv(&mut message, None).is_ok() {
        let Request { number, call } = decode(&message).expect("decodes");
        let mut result = Ok(Reply::Done);
        let mut end = None;
        match call {
            Call::Create(spec) => {
                let fail = |kind, message: &str| Err(Failure { kind, message: message.into() });
                program = spec.process.args;
                name = spec.id;
                result = match program[0].as_str() {
                    "missing" => fail(FailureKind::NotFound, "exec: \"missing\": not found"),
                    "not-executable" => fail(FailureKind::NotExecutable, "exec: denied"),
                    _ => Ok(Reply::Pid(1)),
                };
            }
            Call::Start { .. } => match program[0].as_str() {
                "exit" => end = Some(ExitStatus::Exited(program[1].parse().expect("a number"))),
                "self-kill" => {
                    end = Some(ExitStatus::Signaled(program[1].parse().expect("a number")));
                }
                "echo" => {
                    let line = format!("{}\n", program[1..].join(" "));
                    nix::unistd::write(streams.get(1).unwrap_or(&streams[0]), line.as_bytes())
                        .expect("writes");
                    end = Some(ExitStatus::Exited(0));
                }
                "crash" => std::process::abort(),
                _ => {}
            },
            Call::Signal { signal, .. } if program[0] == "trap" && signal != 9 => {
                let line = format!("signal {signal}\n");
                nix::unistd::write(streams.get(1).unwrap_or(&streams[0]), line.as_bytes())
                    .expect("writes");
                end = (signal == 12).then_some(ExitStatus::Exited(12));
            }
            Call::Signal { signal, .. } => end = Some(ExitStatus::Signaled(signal)),
            Call::WindowSize { rows, columns, .. } => {
                let line = format!("{rows} x {columns}\r\n");
                nix::unistd::write(&streams[0], line.as_bytes()).expect("writes");
            }
            _ => {}
        }
        say(Event::Reply { number, result });
        if let Some(status) = end {
            say(Event::Exited { id: name.clone(), pid: 1, status });
        }
    }
}
