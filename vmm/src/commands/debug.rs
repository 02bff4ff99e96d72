//! `debug`: what the tasks of a container are doing, and what is under way in its sandbox.

use std::fmt::Write;

use sentry::control::{Call, FileServerInfo, Reply, TaskInfo};

use super::lifecycle::{self, call};
use super::usage::{Error, living};
use crate::cli::{Global, Id};
use crate::kvm::symbols::Functions;
use crate::protocol::{Queue, Report};

/// `debug`. What the host half knows comes first: the sentry may not answer, which is an error then.
pub fn debug(global: &Global, args: &Id) -> Result<(), Error> {
    let (folder, state) = living(global, &args.id)?;
    let id = || args.id.clone();
    let pid = |process: &Option<crate::state::Process>| {
        process.as_ref().map_or_else(|| "-".to_owned(), |process| process.pid.to_string())
    };
    super::print(&format!(
        "container {}: {}, {}; stand-in {}, sandbox {}, file server {}\n",
        args.id,
        state.status().name(),
        state.platform,
        state.stand_in.pid,
        pid(&state.sandbox),
        pid(&state.gofer)
    ));
    super::print(&host(&lifecycle::report(&folder, &args.id)?));
    let Reply::Statistics(statistics) = call(&folder, &args.id, Call::Statistics)? else {
        return Err(Error::Answer);
    };
    super::print(&format!(
        "sentry: {} system calls, {} KiB in frames\n",
        statistics.syscalls,
        statistics.frames.saturating_mul(4)
    ));
    let Reply::FileServer(files) = call(&folder, &args.id, Call::FileServer { id: id() })? else {
        return Err(Error::Answer);
    };
    super::print(&file_server(files));
    let functions = Functions::embedded();
    let mut after = 0;
    loop {
        let Reply::Tasks(tasks) = call(&folder, &args.id, Call::Tasks { id: id(), after })? else {
            return Err(Error::Answer);
        };
        // The sentry's word is nothing to loop by.
        match tasks.last().map(|task| task.tid) {
            Some(last) if last > after => after = last,
            _ => return Ok(()),
        }
        let text: String = tasks.iter().map(|one| task(one, &functions)).collect();
        super::print(&text);
    }
}

fn host(report: &Report) -> String {
    let Report { requests, clients, execs, queues } = report;
    let mut text = format!(
        "host half: {requests} requests to the sentry not answered, {clients} commands connected, {execs} execs\n"
    );
    // Writing to a string does not fail.
    let _infallible = queues.iter().try_for_each(|queue| match queue {
        Queue::Requests { taken, outstanding, completed, events, notifies } => writeln!(
            text,
            "  requests of the guest: {taken} taken, {outstanding} of them not completed; {completed} completions, {events} events \
             wait for room; {notifies} streams waited for"
        ),
        Queue::Channel { number, size, out, into, sending, stuck, closed } => {
            let name = match number.checked_sub(1) {
                None => "control".to_owned(),
                Some(n) => format!("file server {n}"),
            };
            let bytes = |n: &Option<u32>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
            let notes = [
                (sending, ", a message waits for room in the guest"),
                (stuck, ", a message waits for the other side"),
                (closed, ", closed"),
            ];
            let notes: String =
                notes.into_iter().filter(|(there, _)| **there).map(|(_, note)| note).collect();
            writeln!(
                text,
                "  channel {name}: {} bytes from the guest and {} for it not taken, of {size}{notes}",
                bytes(out),
                bytes(into)
            )
        }
    });
    text
}

fn file_server(info: Option<FileServerInfo>) -> String {
    match info {
        None => "file server: never asked\n".to_owned(),
        Some(FileServerInfo { requests, waiting, unused_fids, gone }) => format!(
            "file server: {requests} requests not answered, {waiting} threads wait until they may ask, {unused_fids} fids to \
             let go of{}\n",
            if gone { ", gone" } else { "" }
        ),
    }
}

fn task(task: &TaskInfo, functions: &Functions<'_>) -> String {
    let mut text = format!(
        "task {} of process {}, {:?}: {}, {} calls, {:.3} s",
        task.tid,
        task.pid,
        task.name,
        task.state,
        task.calls,
        task.cpu_ns as f64 / 1e9
    );
    let line = |text: &mut String| -> std::fmt::Result {
        if let Some(waits) = &task.waits {
            let args: Vec<String> = waits.args.iter().map(|arg| format!("{arg:#x}")).collect();
            write!(text, "\n  in {}({}), waits at {}", waits.call, args.join(", "), waits.place)?;
        }
        for address in &task.stack {
            match functions.find(*address) {
                Some((name, offset)) => write!(text, "\n    {address:#x} {name}+{offset:#x}")?,
                None => write!(text, "\n    {address:#x}")?,
            }
        }
        writeln!(text)
    };
    // Writing to a string does not fail.
    let _infallible = line(&mut text);
    text
}
