//! The command line, as types. What the commands do is in [`crate::commands`].
//!
//! runc's command line is the reference: its options are taken with the same names and meanings,
//! and those that have none here (`--no-pivot`, `--criu`, ...) are accepted and ignored
//! because callers pass them to every runtime.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs Linux containers inside a small kernel of their own.
///
/// A container of ringwall never talks to the host's kernel: its system calls are served by the
/// sentry, on KVM as a ring-0 guest or, where KVM is not usable, under ptrace. The command line is
/// that of runc; `ringwall do -- CMD` runs a command of the host in a throw-away sandbox.
#[derive(Parser, Debug)]
// The word is what Docker looks for.
#[command(name = "ringwall", version = concat!("version ", env!("CARGO_PKG_VERSION")), max_term_width = 100, disable_help_subcommand = false)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Folder for the state of containers [default: /run/ringwall, or $XDG_RUNTIME_DIR/ringwall
    /// for users other than root]
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// File that log lines are appended to [default: standard error]
    #[arg(long, value_name = "FILE", global = true)]
    pub log: Option<PathBuf>,
    /// Format of log lines
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
    /// Log for developers too, with the time of each step
    #[arg(long, global = true)]
    pub debug: bool,
    /// File that everything `--debug` would log is appended to, whether or not it is given
    #[arg(long, value_name = "FILE", global = true)]
    pub debug_log: Option<PathBuf>,
    /// Log every system call that the container makes
    #[arg(long, global = true)]
    pub strace: bool,
    /// What runs the container's code
    #[arg(long, value_name = "PLATFORM", value_enum, default_value_t, global = true)]
    pub platform: PlatformChoice,
    /// Refuse to run containers behind a wall that is not whole; `ringwall check --wall` tells what is missing
    #[arg(long, value_name = "LEVEL", value_enum, global = true)]
    pub require_wall: Option<RequiredWall>,
    /// Whether to go on without cgroups where they cannot be made and none is named [default: for users other
    /// than root]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "auto",
        value_parser = ["true", "false", "auto"],
        hide_possible_values = true
    )]
    pub rootless: String,
    /// Have systemd make containers' cgroups, as transient scopes; linux.cgroupsPath is SLICE:PREFIX:NAME then
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// Accepted for callers of runc
    #[arg(long, value_name = "PATH", global = true, hide = true)]
    pub criu: Option<PathBuf>,
}

/// What `--require-wall` takes.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredWall {
    /// Every promise holds
    Full,
}

/// Format of log lines.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One object a line, as runc's
    Json,
}

/// What runs the container's code.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlatformChoice {
    /// KVM where it is usable (`ringwall check` tells), else ptrace
    #[default]
    Auto,
    /// A ring-0 guest
    Kvm,
    /// Traced processes
    Ptrace,
}

impl PlatformChoice {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            PlatformChoice::Auto => "auto",
            PlatformChoice::Kvm => "kvm",
            PlatformChoice::Ptrace => "ptrace",
        }
    }

    /// Whether this one will do.
    pub fn fits(self, platform: crate::protocol::Platform) -> bool {
        self == PlatformChoice::Auto || self.name() == platform.name()
    }
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a command of the host in a throw-away sandbox
    ///
    /// The sandbox's root is the host's, read-only under an overlay in memory, so nothing that the
    /// command does to files lasts. It runs in the current directory, as the current user, with the
    /// current environment; ringwall ends with its exit status.
    Do(Do),
    /// Create a container and run it
    Run(Run),
    /// Create a container, up to but without its first instruction
    Create(Create),
    /// Let a created container run
    Start(Id),
    /// Run another process in a container
    Exec(Box<Exec>),
    /// Print the state of a container
    State(Id),
    /// Send a signal to a container's init process
    Kill(Kill),
    /// Hold all processes of a container
    Pause(Id),
    /// Let the processes of a paused container go on
    Resume(Id),
    /// Remove a stopped container
    Delete(Delete),
    /// List the processes inside a container
    Ps(Ps),
    /// Print what a container uses, as JSON
    Events(Events),
    /// Print what the tasks of a container are doing in the sentry, and what is under way in its sandbox
    ///
    /// Where something stands still: each task with the system call that it is in, where it waits, and on KVM its stack in the
    /// sentry; the requests, messages and file server's answers that have not come yet. For people, in a form that may change.
    Debug(Id),
    /// Change the limits of a container
    Update(Box<Update>),
    /// List containers
    List(List),
    /// Wait for a container to stop, and print its exit status
    Wait(Id),
    /// Write a config.json to start from
    Spec(Spec),
    /// Say which platforms work on this machine, and why the others do not
    Check(Check),
    /// Measure what things cost here, natively and on each platform that works
    Bench(Bench),
    /// Print what this runtime supports, as JSON
    Features,
    /// Print what completes the command line in a shell
    Completions(Completions),
    /// Register this runtime with Docker
    Install(Install),
    /// Take this runtime out of Docker's configuration
    Uninstall(Uninstall),
}

/// A container's name.
#[derive(Args, Debug)]
pub struct Id {
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// `do`.
#[derive(Args, Debug)]
pub struct Do {
    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

/// What `create` and `run` have in common.
#[derive(Args, Clone, Debug)]
pub struct Create {
    /// Folder with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Unix socket that receives the console's master end
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Accepted for callers of runc: the sandbox's root is always its own
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Accepted for callers of runc: containers never see the host's keyrings
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
    /// Pass on so many descriptors more, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container's id, unique under `--root`
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Options of `create`.
    #[command(flatten)]
    pub create: Create,
    /// Return once the container runs
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the container's state after it has stopped
    #[arg(long)]
    pub keep: bool,
    /// Accepted for callers of runc
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
}

/// `exec`.
#[derive(Args, Debug)]
pub struct Exec {
    /// Working directory in the container [default: that of the container's own process]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Add a variable to the environment of the container's own process
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Unix socket that receives the terminal's master end, with --tty and --detach
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Run it as this user [default: that of the container's own process]
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Add a supplementary group
    #[arg(long, short = 'g', value_name = "GID", allow_negative_numbers = true)]
    pub additional_gids: Vec<i64>,
    /// File with the process as JSON, in place of a command and of all options about it
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return once it runs
    #[arg(long, short)]
    pub detach: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Whether it and its children can gain no privileges
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_new_privs: Option<bool>,
    /// Add a capability
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass on so many descriptors more, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Accepted for callers of runc
    #[arg(long, value_name = "LABEL", hide = true)]
    pub process_label: Option<String>,
    /// Accepted for callers of runc
    #[arg(long, value_name = "PROFILE", hide = true)]
    pub apparmor: Option<String>,
    /// Accepted for callers of runc
    #[arg(long, value_name = "PATH", hide = true)]
    pub cgroup: Vec<String>,
    /// Start it in a paused container too; it waits there until the container is resumed
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// The command and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `kill`.
#[derive(Args, Debug)]
pub struct Kill {
    /// Send it to every process of the container
    #[arg(long, short)]
    pub all: bool,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Name or number of the signal
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    pub signal: String,
}

/// `delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// Kill the container first where it runs; no error where it does not exist
    #[arg(long, short)]
    pub force: bool,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// `ps`.
#[derive(Args, Debug)]
pub struct Ps {
    /// Format of the list: the table shows the processes inside; json is the pids on the host, of which a
    /// container has one
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ListFormat,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Accepted for callers of runc, which gives them to ps(1)
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

/// `events`.
#[derive(Args, Debug)]
pub struct Events {
    /// Print once, and not until the container ends
    #[arg(long)]
    pub stats: bool,
    /// Time between two lines, as in 500ms, 5s or 1m
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub interval: String,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// `update`. Numbers are as runc takes them; 0 and the empty text change nothing.
#[derive(Args, Debug)]
pub struct Update {
    /// File with the limits as JSON, as in config.json's linux.resources; "-": standard input
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// The most tasks; -1: no limit
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub pids_limit: i64,
    /// The most memory, bytes
    #[arg(long, value_name = "BYTES", default_value = "", allow_negative_numbers = true)]
    pub memory: String,
    /// Memory that is given back last, bytes
    #[arg(long, value_name = "BYTES", default_value = "", allow_negative_numbers = true)]
    pub memory_reservation: String,
    /// The most memory and swap together, bytes; -1: no limit
    #[arg(long, value_name = "BYTES", default_value = "", allow_negative_numbers = true)]
    pub memory_swap: String,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "TIME", default_value = "", allow_negative_numbers = true)]
    pub cpu_quota: String,
    /// The period, microseconds
    #[arg(long, value_name = "TIME", default_value = "")]
    pub cpu_period: String,
    /// Share of the processors, relative to other containers
    #[arg(long, value_name = "N", default_value = "")]
    pub cpu_share: String,
    /// Processors to use
    #[arg(long, value_name = "LIST", default_value = "")]
    pub cpuset_cpus: String,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST", default_value = "")]
    pub cpuset_mems: String,
    /// Share of block devices, relative to other containers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub blkio_weight: u16,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// `install`.
#[derive(Args, Debug)]
pub struct Install {
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    pub config: PathBuf,
    /// The name that `docker run --runtime` takes
    #[arg(long, value_name = "NAME", default_value = "ringwall")]
    pub name: String,
    /// Make it the runtime of containers that name none
    #[arg(long)]
    pub default: bool,
    /// Options that Docker shall give to ringwall, such as --platform=ptrace
    #[arg(value_name = "OPTION", last = true)]
    pub options: Vec<String>,
}

/// `uninstall`.
#[derive(Args, Debug)]
pub struct Uninstall {
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    pub config: PathBuf,
    /// The name that it has there
    #[arg(long, value_name = "NAME", default_value = "ringwall")]
    pub name: String,
}

/// `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// A shell.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their names
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// `list`.
#[derive(Args, Debug)]
pub struct List {
    /// Format of the list
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ListFormat,
    /// Print ids only
    #[arg(long, short)]
    pub quiet: bool,
}

/// Format of `list`.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListFormat {
    /// For people
    #[default]
    Table,
    /// One array of objects
    Json,
}

/// `spec`.
#[derive(Args, Debug)]
pub struct Spec {
    /// Folder to write config.json into [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// For users other than root
    #[arg(long = "rootless")]
    pub rootless_spec: bool,
}

/// `check`.
#[derive(Args, Debug)]
pub struct Check {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Say what the wall is made of: the system calls of each process, and which promises do not hold here
    #[arg(long, conflicts_with = "self_test")]
    pub wall: bool,
    /// Run the KVM platform's tests of itself instead; each finding is a line on standard error
    #[arg(long, conflicts_with = "json")]
    pub self_test: bool,
    /// Test it as on a CPU without these features
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', requires = "self_test")]
    pub without: Vec<String>,
    /// Let it panic, to see what is said then
    #[arg(long, requires = "self_test", hide = true)]
    pub panic: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn docker_s_way_of_calling_is_understood() {
        let cli = Cli::try_parse_from([
            "ringwall",
            "--root",
            "/r",
            "--log",
            "/l",
            "--log-format",
            "json",
            "create",
            "--bundle",
            "/b",
            "--pid-file",
            "/p",
            "x",
        ])
        .unwrap();
        assert_eq!(cli.global.log_format, LogFormat::Json);
        let Command::Create(create) = cli.command else { panic!("not create") };
        assert_eq!(create.id, "x");
    }

    #[test]
    fn exec_s_options_end_where_the_command_begins() {
        let line =
            ["ringwall", "exec", "-t", "-e", "A=1", "--env", "B=2", "-u", "1:2", "--no-new-privs"];
        let rest = ["--cap", "CAP_KILL", "x", "sh", "-c", "exit 1", "-d"];
        let cli = Cli::try_parse_from(line.into_iter().chain(rest)).unwrap();
        let Command::Exec(exec) = cli.command else { panic!("not exec") };
        assert_eq!((exec.id.as_str(), exec.env.len(), exec.detach), ("x", 2, false));
        assert_eq!(exec.command, ["sh", "-c", "exit 1", "-d"]);
        assert_eq!(exec.no_new_privs, Some(true));
    }

    #[test]
    fn do_takes_a_command_with_and_without_dashes() {
        for line in [&["ringwall", "do", "--", "ls", "-l"][..], &["ringwall", "do", "ls", "-l"]] {
            let Command::Do(command) = Cli::try_parse_from(line).unwrap().command else {
                panic!("not do")
            };
            assert_eq!(command.command, ["ls", "-l"]);
        }
    }
}

/// `bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = crate::bench::help())]
pub struct Bench {
    /// Print one JSON object a line: operation, platform, value, unit, ratio (to native), to_runc,
    /// exits (of the VM, per operation), bare_loops (under ptrace, per system call)
    #[arg(long)]
    pub json: bool,
    /// Measure only operations whose name contains this; may be given again
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Runs of each operation; the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub runs: u32,
    /// Also measure commands of the Debian root in this folder, beside runc, which must be in the path
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
}
