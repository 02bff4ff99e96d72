//! Starting the VM and running jobs in it.
//!
//! One VM serves a whole test run. A job that does not end within its limit and a grace period has hung the VM itself (the
//! agent would have ended it): the VM is killed, the job reported, and the next job starts a new one.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::image::{self, Parts};
use super::systemd;
use crate::process::{End, Stream};
use crate::protocol::{self, Ended, Job, Report};

/// How long the VM may take from power-on to the agent's greeting: some 5 s on an idle machine of two cores.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long beyond a job's own limit the agent may take to end it and say so.
const GRACE: Duration = Duration::from_secs(30);
/// How much of the console is shown when a VM is lost.
const CONSOLE_TAIL: usize = 4000;

/// Why a VM is not there.
#[derive(Debug, Error)]
pub enum Error {
    /// It could not be put together.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Something of the host's failed.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// It did not come up.
    #[error("the VM did not come up: {0}; its console ends:\n{1}")]
    Boot(String, String),
}

/// What a VM is started from.
pub struct Config {
    /// QEMU and the kernel.
    pub parts: Parts,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The roots' file system image, read-only.
    pub disk: Option<PathBuf>,
    /// An image with a root whose systemd is to be init.
    pub systemd: Option<PathBuf>,
    /// A folder for the console's log and the socket (whose path must be short).
    pub folder: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// More options for QEMU, such as `-perfmap`.
    pub more: Vec<String>,
}

/// A VM, started when the first job comes and again after it was lost.
pub struct Vm {
    config: Config,
    running: Option<Running>,
    boots: u32,
}

struct Running {
    qemu: Child,
    port: UnixStream,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing in it is worth an orderly shutdown: its disks are read-only.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Vm {
    /// A VM that is not running yet.
    pub fn new(config: Config) -> Vm {
        Vm { config, running: None, boots: 0 }
    }

    /// Whether it is running, and as which process.
    pub fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(|running| running.qemu.id() as i32)
    }

    /// The log of the present boot's console.
    pub fn console(&self) -> PathBuf {
        self.config.folder.join(format!("console-{}.log", self.boots))
    }

    /// Starts the VM if it is not running; returns the agent's greeting if it did.
    pub fn start(&mut self) -> Result<Option<String>, Error> {
        if self.running.is_some() {
            return Ok(None);
        }
        self.boots += 1;
        let socket = self.config.folder.join("port");
        let _ = fs::remove_file(&socket);
        let listener =
            UnixListener::bind(&socket).map_err(|e| Error::Io("listening for the VM", e))?;
        let console = self.console();
        let mut qemu =
            self.qemu(&socket, &console)?.spawn().map_err(|e| Error::Io("starting QEMU", e))?;

        let (tx, rx) = mpsc::channel();
        thread::spawn(move || tx.send(listener.accept()));
        let deadline = Instant::now() + BOOT_LIMIT;
        let connected = loop {
            match rx.recv_timeout(Duration::from_millis(100)) {
                Ok(accepted) => break accepted.map(|(stream, _)| stream),
                Err(_) if Instant::now() < deadline && matches!(qemu.try_wait(), Ok(None)) => (),
                Err(_) => break Err(io::Error::other("QEMU did not start")),
            }
        };
        let greeted = connected.and_then(|mut port| {
            port.set_read_timeout(Some(BOOT_LIMIT))?;
            let report = protocol::receive(&mut port)?;
            Ok((port, report))
        });
        match greeted {
            Ok((port, Report::Ready(greeting))) => {
                self.running = Some(Running { qemu, port });
                Ok(Some(greeting))
            }
            other => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                let what =
                    other.map_or_else(|e| e.to_string(), |_| "an unexpected greeting".to_owned());
                Err(Error::Boot(what, tail(&console)))
            }
        }
    }

    /// Runs a job to its end; its output goes to `on_output` as it comes. A lost VM is an end of the job, not an error.
    pub fn run(
        &mut self,
        job: &Job,
        on_output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Ended, Error> {
        self.start()?;
        let Some(running) = self.running.as_mut() else {
            return Err(Error::Io("running a job", io::Error::other("no VM")));
        };
        let started = Instant::now();
        let deadline = started + job.limit + GRACE;
        let ended = (|| {
            protocol::send(&mut running.port, job)?;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                running.port.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
                match protocol::receive(&mut running.port)? {
                    Report::Output(stream, bytes) => on_output(stream, &bytes),
                    Report::Ended(ended) => return Ok(ended),
                    Report::Ready(_) => return Err(io::Error::other("the agent started anew")),
                }
            }
        })();
        match ended {
            Ok(ended) => Ok(ended),
            Err(error) => {
                // Ends QEMU; the next job boots again.
                self.running = None;
                let hung =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                let what = if hung {
                    "the VM hung".to_owned()
                } else {
                    format!("the VM was lost: {error}")
                };
                on_output(
                    Stream::Stderr,
                    format!("\n{what}; its console ends:\n{}\n", tail(&self.console())).as_bytes(),
                );
                let end = if hung { End::TimedOut } else { End::Lost };
                Ok(Ended { end, elapsed: started.elapsed(), left_behind: Vec::new() })
            }
        }
    }

    fn qemu(&self, socket: &Path, console: &Path) -> Result<Command, Error> {
        let config = &self.config;
        // Killed with the harness, however that ends. (The signal follows the starting thread: the main one.)
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(config.parts.qemu_command()?);
        command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt"]);
        // And one that no job runs on (see `agent`).
        let cpus = config.cpus.saturating_add(1).to_string();
        command.args(["-smp", &cpus, "-m", &config.memory.to_string()]);
        command.args([
            "-nographic",
            "-no-reboot",
            "-nodefaults",
            "-nic",
            "none",
            "-monitor",
            "none",
        ]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-chardev", &format!("socket,id=port,path={}", socket.display())]);
        command.args(["-device", &format!("virtserialport,chardev=port,name={}", super::PORT)]);
        for disk in [&config.disk, &config.systemd].into_iter().flatten() {
            command.args([
                "-drive",
                &format!("file={},format=raw,if=virtio,readonly=on", disk.display()),
            ]);
        }
        command.arg("-kernel").arg(config.parts.vmlinuz()?).arg("-initrd").arg(&config.initramfs);
        let mut line = "console=ttyS0 quiet panic=-1 mitigations=auto".to_owned();
        if config.systemd.is_some() {
            line = format!("{line} {}", systemd::COMMAND_LINE);
        }
        command.args(["-append", &line]);
        command.args(&config.more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(command)
    }
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(log) {
        let _ = file.read_to_end(&mut bytes);
    }
    let start = bytes.len().saturating_sub(CONSOLE_TAIL);
    String::from_utf8_lossy(&bytes[start..]).replace('\r', "")
}
