//! The harness: `tests/run` starts it; in the test VM it is init and agent.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tests::apt::Apt;
use tests::process::Stream;
use tests::protocol::Job;
use tests::vm::image::Parts;
use tests::vm::machine::{Config, Vm};
use tests::{process, vm};

/// Runs Ringwall's tests.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Runs one command in the test VM, where the newest build of ringwall is /bin/ringwall.
    Vm {
        /// Files or folders to put into the VM, as NAME=FILE.
        #[arg(long)]
        file: Vec<String>,
        /// Seconds.
        #[arg(long, default_value_t = 300)]
        limit: u64,
        /// The command.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Init of the VM, once it has left the initramfs.
    #[command(hide = true)]
    VmInit,
    /// The agent in the VM.
    #[command(hide = true)]
    VmAgent,
}

fn main() -> ExitCode {
    // The kernel starts it as /init, with no arguments of ours.
    if std::process::id() == 1 && std::env::args().next().as_deref() == Some("/init") {
        let error = vm::agent::init();
        eprintln!("init: {error:?}");
        return ExitCode::FAILURE;
    }
    match Options::parse().action {
        Action::VmInit => finish(vm::agent::system()),
        Action::VmAgent => finish(vm::agent::agent()),
        Action::Vm { file, limit, command } => {
            let mut extra: Vec<(String, PathBuf)> = file
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, from)| (name.to_owned(), PathBuf::from(from)))
                .collect();
            if let Some(ringwall) = newest_ringwall()
                && !extra.iter().any(|(name, _)| name == vm::RINGWALL)
            {
                extra.push((vm::RINGWALL.to_owned(), ringwall));
            }
            in_vm(extra, limit, command).unwrap_or_else(|error| {
                eprintln!("harness: {error}");
                ExitCode::FAILURE
            })
        }
    }
}

/// The runtime as it was last built, in whichever profile.
fn newest_ringwall() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?.parent()?;
    let built = ["debug", "release"].map(|profile| folder.join(profile).join("ringwall"));
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    built.into_iter().filter(|path| path.exists()).max_by_key(modified)
}

fn finish(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("harness: {error}");
            ExitCode::FAILURE
        }
    }
}

fn in_vm(
    extra: Vec<(String, PathBuf)>,
    limit: u64,
    argv: Vec<String>,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    process::become_subreaper()?;
    let cache = tests::cache();
    let mut apt = Apt::new(&cache.join("apt"))?;
    let parts = Parts::fetch(&cache, &mut apt)?;
    let folder = std::env::temp_dir().join(format!("harness-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let initramfs = folder.join("initramfs");
    parts.initramfs(&initramfs, &std::env::current_exe()?, &extra)?;
    let mut vm = Vm::new(Config {
        parts,
        initramfs,
        disk: None,
        folder: folder.clone(),
        memory: 4096,
        cpus: 2,
    });
    if let Some(greeting) = vm.start()? {
        eprintln!("{greeting}");
    }
    let limit = Duration::from_secs(limit);
    let job = Job { name: "command".into(), argv, env: Vec::new(), stdin: Vec::new(), limit };
    let ended = vm.run(&job, &mut |stream, bytes| {
        use std::io::Write;
        let _ = match stream {
            Stream::Stdout => std::io::stdout().write_all(bytes),
            Stream::Stderr => std::io::stderr().write_all(bytes),
        };
    })?;
    eprintln!("{}", ended.end);
    drop(vm);
    std::fs::remove_dir_all(&folder)?;
    Ok(ended.end.shell_status().map_or(ExitCode::FAILURE, |status| ExitCode::from(status as u8)))
}
