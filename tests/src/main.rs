//! The harness: `tests/run` starts it; in the test VM it is init and agent.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tests::apt::Apt;
use tests::case::{self, Place, Verdict};
use tests::process::{self, Keep, Stream};
use tests::protocol::Job;
use tests::runner;
use tests::runtime::{Runtime, Scratch};
use tests::userland;
use tests::vm;
use tests::vm::image::Parts;
use tests::vm::machine::{Config, Vm};

type Error = Box<dyn std::error::Error>;

/// Set in the worker's environment; without it, the process supervises one.
const WORKER: &str = "RINGWALL_HARNESS_WORKER";

/// Runs Ringwall's tests.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: runner::Options,
}

#[derive(Subcommand)]
enum Action {
    /// Runs one command in the test VM, where the newest build of ringwall is /bin/ringwall.
    Vm {
        /// Files or folders to put into the VM, as NAME=FILE.
        #[arg(long)]
        file: Vec<String>,
        /// Also attaches the roots, at /roots.
        #[arg(long)]
        roots: bool,
        /// Attaches the userland suite's root instead, at /roots/debian-userland.
        #[arg(long, conflicts_with = "roots")]
        userland: bool,
        /// Boots with systemd as init; implies --roots.
        #[arg(long, conflicts_with = "userland")]
        systemd: bool,
        /// Seconds.
        #[arg(long, default_value_t = 300)]
        limit: u64,
        /// Another option for QEMU, such as -perfmap, which names translated code for perf(1).
        #[arg(long, allow_hyphen_values = true)]
        qemu: Vec<String>,
        /// The command.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Runs the lists of a whole userland, which take long: CPython's tests, stress-ng, tools.
    Userland(userland::run::Options),
    /// Writes the tables of system calls and of the userland's failures into README.md.
    Readme,
    /// Checks a bootable image (as linked, with its symbols).
    LintImage { image: PathBuf },
    /// Runs one container test here, in this process.
    #[command(hide = true)]
    Case {
        name: String,
        #[arg(long)]
        platform: String,
        #[arg(long)]
        runtime: String,
        #[arg(long)]
        reference: String,
        #[arg(long)]
        roots: PathBuf,
        #[arg(long, default_value_t = 1)]
        slow: u32,
    },
    /// Runs a bundle natively, as the oracle; the options are an OCI runtime's.
    #[command(hide = true)]
    Native {
        #[arg(long)]
        root: Option<PathBuf>,
        #[arg(long)]
        log: Option<PathBuf>,
        #[arg(value_parser = ["run"])]
        verb: String,
        #[arg(long)]
        bundle: PathBuf,
        id: String,
    },
    /// The first process of a bundle's namespaces.
    #[command(hide = true)]
    NativeInit { bundle: PathBuf },
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
        eprintln!("init: {:?}", vm::agent::init());
        return ExitCode::FAILURE;
    }
    let options = Arguments::parse();
    let result = match options.action {
        Some(Action::VmInit) => {
            vm::agent::system().map(|()| ExitCode::SUCCESS).map_err(Error::from)
        }
        Some(Action::VmAgent) => {
            vm::agent::agent().map(|()| ExitCode::SUCCESS).map_err(Error::from)
        }
        Some(Action::Native { bundle, .. }) => tests::native::run(&bundle)
            .map(|status| ExitCode::from(status as u8))
            .map_err(Error::from),
        Some(Action::NativeInit { bundle }) => match tests::native::init(&bundle) {
            Err(error) => Err(error.into()),
            Ok(never) => match never {},
        },
        Some(Action::Readme) => {
            tests::lint::readme::write().map(|()| ExitCode::SUCCESS).map_err(Error::from)
        }
        Some(Action::LintImage { image }) => lint_image(&image),
        Some(Action::Case { name, platform, runtime, reference, roots, slow }) => {
            let place = Place {
                runtime: Runtime::parse(&runtime, Some(&platform)),
                reference: Runtime::parse(&reference, None),
                roots,
                slow,
            };
            run_case(&name, &place)
        }
        _ if std::env::var_os(WORKER).is_none() => supervise(),
        Some(Action::Vm { file, roots, userland, systemd, limit, qemu, command }) => {
            let disk = match (roots || systemd, userland) {
                (true, _) => Disk::Roots,
                (_, true) => Disk::Userland,
                _ => Disk::None,
            };
            in_vm(&file, disk, systemd, limit, &qemu, command)
        }
        Some(Action::Userland(options)) => process::become_subreaper()
            .map_err(Error::from)
            .and_then(|()| userland::run::run(&options))
            .map(|passed| if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        None => work(&options.run),
    };
    result.unwrap_or_else(|error| {
        eprintln!("harness: {error}");
        ExitCode::from(2)
    })
}

/// Runs this same command in a child, and ends all that the child has started when the child ends or a signal comes.
fn supervise() -> Result<ExitCode, Error> {
    process::become_subreaper()?;
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    // Killed with this process, should that be killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1));
    let worker = command.env(WORKER, "1").spawn()?.id() as i32;
    awaited.thread_block()?;
    loop {
        // Also before the first wait: the worker may have ended before the signals were blocked.
        match waitpid(Pid::from_raw(worker), Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, status) => {
                process::end_strays(&Keep::default());
                return Ok(ExitCode::from(status as u8));
            }
            WaitStatus::Signaled(_, signal, _) => {
                process::end_strays(&Keep::default());
                return Err(format!("the harness was killed by {signal}").into());
            }
            _ => (),
        }
        let signal = awaited.wait()?;
        if signal != Signal::SIGCHLD {
            process::kill_tree(worker);
            process::end_strays(&Keep::default());
            return Err(format!("ended by {signal}").into());
        }
    }
}

fn work(options: &runner::Options) -> Result<ExitCode, Error> {
    process::become_subreaper()?;
    Ok(if runner::run(options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_case(name: &str, place: &Place) -> Result<ExitCode, Error> {
    Ok(match case::run(name, place)? {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Noted(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Verdict::Failed(why) => {
            println!("{}", why.trim_end());
            ExitCode::FAILURE
        }
        Verdict::Skipped(why) => {
            println!("{why}");
            ExitCode::from(case::SKIPPED as u8)
        }
    })
}

fn lint_image(image: &Path) -> Result<ExitCode, Error> {
    let (findings, count) = tests::lint::image::check(&std::fs::read(image)?)?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("{count} instructions, {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The runtime as it was last built, in whichever profile.
fn newest_ringwall() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?.parent()?;
    let built = ["debug", "release"].map(|profile| folder.join(profile).join("ringwall"));
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    built.into_iter().filter(|path| path.exists()).max_by_key(modified)
}

/// What is attached to a VM at /roots.
enum Disk {
    None,
    Roots,
    Userland,
}

fn in_vm(
    files: &[String],
    disk: Disk,
    systemd: bool,
    limit: u64,
    qemu: &[String],
    argv: Vec<String>,
) -> Result<ExitCode, Error> {
    process::become_subreaper()?;
    let pairs = files.iter().filter_map(|pair| pair.split_once('='));
    let mut extra: Vec<(String, PathBuf)> =
        pairs.map(|(name, from)| (name.to_owned(), PathBuf::from(from))).collect();
    if let Some(ringwall) = newest_ringwall()
        && !extra.iter().any(|(name, _)| name == vm::RINGWALL)
    {
        extra.push((vm::RINGWALL.to_owned(), ringwall));
    }
    let cache = tests::cache();
    let mut apt = Apt::new(&cache.join("apt"))?;
    let parts = Parts::fetch(&cache, &mut apt)?;
    let disk = match disk {
        Disk::None => None,
        Disk::Roots => {
            let programs = tests::workspace().join("tests/programs");
            let made = tests::roots::make(&cache, &mut apt, &programs)?;
            Some(tests::roots::disk(&cache, &made)?)
        }
        Disk::Userland => {
            Some(tests::roots::disk(&cache.join("userland"), &userland::root::make(&cache)?)?)
        }
    };
    let systemd = match systemd {
        true => Some(vm::systemd::disk(&cache, &mut apt)?),
        false => None,
    };
    let folder = Scratch::new("vm")?;
    let initramfs = folder.path().join("initramfs");
    parts.initramfs(&initramfs, &std::env::current_exe()?, &extra)?;
    let mut vm = Vm::new(Config {
        parts,
        initramfs,
        disk,
        systemd,
        folder: folder.path().to_owned(),
        memory: 4096,
        cpus: 2,
        more: qemu.to_vec(),
    });
    if let Some(greeting) = vm.start()? {
        eprintln!("{greeting}");
    }
    let limit = Duration::from_secs(limit);
    let job = Job { name: "command".into(), argv, env: Vec::new(), stdin: Vec::new(), limit };
    let ended = vm.run(&job, &mut |stream, bytes| {
        let _ = match stream {
            Stream::Stdout => std::io::stdout().write_all(bytes),
            Stream::Stderr => std::io::stderr().write_all(bytes),
        };
    })?;
    eprintln!("{}", ended.end);
    Ok(ended.end.shell_status().map_or(ExitCode::FAILURE, |status| ExitCode::from(status as u8)))
}
