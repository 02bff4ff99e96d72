//! Hooks: programs that a configuration has run at points of a container's life, with its state on their standard input.
//!
//! When, where and what a failure means is as with runc. On the host, by the stand-in: `prestart` and `createRuntime` before
//! anything of the container is prepared, `poststart` once it is created, `poststop` once it is gone (from `delete`, or from
//! `run` itself). By the gofer, in its mount namespace and before it opens what it serves: `createContainer`. In the
//! container, as a process beside its waiting init: `startContainer`. A failing hook ends the container, but for
//! `poststop`, of which there is a warning.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sentry::control::{ExitStatus, ProcessSpec, Reply};
use sentry::platform::StreamId;
use serde::{Deserialize, Serialize};

use crate::cgroup::Origin;
use crate::clock;
use crate::config;
use crate::link::Link;
use crate::protocol::{FromSandbox, ToSandbox};
use crate::reason::reason;
use crate::state::{Folder, State};

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its arguments, the first of which is its name; none: its path.
    pub args: Vec<String>,
    /// Its environment; `None`: that of whoever runs it.
    pub env: Option<Vec<String>>,
    /// Seconds that it may take.
    pub timeout: Option<u64>,
}

/// All hooks of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names are the specification's
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

/// A hook that has not done its work.
#[derive(Debug, thiserror::Error)]
#[error("hooks.{kind}: error running hook #{index}: {} {why}", path.display())]
pub struct Error {
    kind: &'static str,
    index: usize,
    path: PathBuf,
    why: String,
}

/// Where hooks on the host run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// The working directory; `None`: this process's.
    pub folder: Option<&'a Path>,
    /// The network namespace; `None`: this process's.
    pub network: Option<BorrowedFd<'a>>,
    /// The cgroups; `None`: this process's.
    pub outside: Option<&'a Origin>,
}

/// The most of a hook's output that an error repeats, bytes.
const OUTPUT: usize = 4096;

/// The state that hooks are given, as JSON. `pid`: 0 for none.
pub fn told(state: &State, status: &str, pid: i32) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Told<'a> {
        oci_version: &'a str,
        id: &'a str,
        status: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        bundle: &'a Path,
        #[serde(skip_serializing_if = "HashMap::is_empty")]
        annotations: &'a HashMap<String, String>,
    }
    let told = Told {
        oci_version: &state.oci_version,
        id: &state.id,
        status,
        pid: Some(pid).filter(|pid| *pid != 0),
        bundle: &state.bundle,
        annotations: &state.annotations,
    };
    serde_json::to_string(&told).unwrap_or_default()
}

/// Runs hooks on the host, one after another, up to the first that fails.
pub fn run(kind: &'static str, hooks: &[Hook], told: &str, place: Place<'_>) -> Result<(), Error> {
    each(kind, hooks, |hook| on_host(hook, told, place))
}

/// Runs the hooks that belong in the container, beside its init, which waits.
pub fn run_inside(state: &State, folder: &Folder) -> Result<(), Error> {
    let Some(hooks) = state.hooks.as_ref().filter(|hooks| !hooks.start_container.is_empty()) else {
        return Ok(());
    };
    // Init's number is the container's own.
    let told = told(state, "created", 1);
    each("startContainer", &hooks.start_container, |hook| {
        let process = config::process_of(&state.bundle)
            .and_then(|process| config::translate_process(&process, &state.bundle))
            .map_err(|e| e.to_string())?;
        inside(hook, &told, &state.id, folder, process)
    })
}

fn each(
    kind: &'static str,
    hooks: &[Hook],
    run: impl Fn(&Hook) -> Result<(), String>,
) -> Result<(), Error> {
    for (index, hook) in hooks.iter().enumerate() {
        let begun = Instant::now();
        run(hook).map_err(|why| Error { kind, index, path: hook.path.clone(), why })?;
        crate::debug!("hook {kind} {}: {} ms", hook.path.display(), begun.elapsed().as_millis());
    }
    Ok(())
}

impl Hook {
    fn argv(&self) -> Vec<String> {
        match self.args.as_slice() {
            [] => vec![self.path.to_string_lossy().into_owned()],
            args => args.to_vec(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)))
    }

    fn late(&self) -> String {
        format!("ran past its timeout of {} s", self.timeout.unwrap_or(0))
    }
}

fn on_host(hook: &Hook, told: &str, place: Place<'_>) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    let argv = hook.argv();
    if let [name, args @ ..] = argv.as_slice() {
        command.arg0(name).args(args);
    }
    if let Some(env) = &hook.env {
        command.env_clear().envs(env.iter().filter_map(|variable| variable.split_once('=')));
    }
    if let Some(folder) = place.folder {
        command.current_dir(folder);
    }
    if let Some(origin) = place.outside {
        let enter = origin.entry();
        // SAFETY: the closure makes system calls alone, on descriptors that are open while the command is run.
        unsafe { command.pre_exec(enter) };
    }
    if let Some(network) = place.network {
        let network = network.as_raw_fd();
        let enter = move || {
            // SAFETY: it is open while the command is run, which is before this function's caller goes on.
            let network = unsafe { BorrowedFd::borrow_raw(network) };
            setns(network, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
        };
        // SAFETY: the closure makes one system call.
        unsafe { command.pre_exec(enter) };
    }
    let told = input(told).map_err(|e| reason(&e))?;
    command.stdin(told).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| reason(&e))?;
    let outcome = watch(&mut child, hook.deadline());
    if outcome.is_err() {
        // Ours and not waited for, so it is this one.
        let _ended = child.kill();
    }
    let status = child.wait().map_err(|e| reason(&e))?;
    match outcome {
        Ok(_) if status.success() => Ok(()),
        Ok([out, err]) => Err(format!("{status}, stdout: {out:?}, stderr: {err:?}")),
        Err(None) => Err(hook.late()),
        Err(Some(e)) => Err(e.to_string()),
    }
}

/// A file with this in it, to be read from its beginning.
fn input(text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// What a process writes until it ends; `None` as an error: it does not end in time.
fn watch(child: &mut Child, deadline: Option<Instant>) -> Result<[String; 2], Option<Errno>> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = Errno::result(fd).map_err(Some)?;
    // SAFETY: the kernel has just put this descriptor into our table for us alone.
    let end = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let streams = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
    let mut outputs = Outputs::new(streams);
    while !outputs.wait(end.as_fd(), deadline)? {}
    Ok(outputs.texts())
}

/// Streams that a hook writes to, and what came of them.
struct Outputs([(Option<File>, Vec<u8>); 2]);

impl Outputs {
    fn new(streams: [Option<OwnedFd>; 2]) -> Outputs {
        Outputs(streams.map(|stream| (stream.map(File::from), Vec::new())))
    }

    /// Waits for `end` to be readable, and takes in what is written; whether it is.
    fn wait(
        &mut self,
        end: BorrowedFd<'_>,
        deadline: Option<Instant>,
    ) -> Result<bool, Option<Errno>> {
        let timeout = deadline.map_or(PollTimeout::NONE, clock::poll_until);
        let mut fds = vec![PollFd::new(end, PollFlags::POLLIN)];
        let open: Vec<usize> = (0..2).filter(|n| self.0[*n].0.is_some()).collect();
        let streams = self.0.iter().filter_map(|(stream, _)| stream.as_ref());
        fds.extend(streams.map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Err(None);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Some(e)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        for (n, _) in open.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let (stream, text) = &mut self.0[*n];
            let mut piece = [0; OUTPUT];
            // What cannot be read is as good as ended.
            match stream.as_mut().map_or(0, |stream| stream.read(&mut piece).unwrap_or(0)) {
                0 => *stream = None,
                count => {
                    let room = OUTPUT.saturating_sub(text.len()).min(count);
                    text.extend_from_slice(&piece[..room]);
                }
            }
        }
        // All that it has written is taken before its end counts.
        Ok(ready[0] && !ready[1..].contains(&true))
    }

    fn texts(self) -> [String; 2] {
        self.0.map(|(_, text)| String::from_utf8_lossy(&text).into_owned())
    }
}

/// Runs one in the container, as its own user; it is killed when the link is closed.
fn inside(
    hook: &Hook,
    told: &str,
    id: &str,
    folder: &Folder,
    process: ProcessSpec,
) -> Result<(), String> {
    let process = ProcessSpec {
        program: Some(hook.path.to_string_lossy().into_owned()),
        args: hook.argv(),
        env: hook.env.clone().unwrap_or(process.env),
        terminal: false,
        window: None,
        stdio: [0, 1, 2].map(|n| Some(StreamId(n))),
        ..process
    };
    let told = input(told).map_err(|e| reason(&e))?;
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| e.to_string());
    let ((out, out_inside), (err, err_inside)) = (pipe()?, pipe()?);
    let link: Link<ToSandbox, FromSandbox> =
        Link::connect(&folder.socket()).map_err(|e| e.to_string())?;
    let request = ToSandbox::Exec { id: id.to_owned(), process: Box::new(process) };
    link.send(&request, &[told.as_fd(), out_inside.as_fd(), err_inside.as_fd()])
        .map_err(|e| e.to_string())?;
    drop((out_inside, err_inside));
    let deadline = hook.deadline();
    let mut outputs = Outputs::new([Some(out), Some(err)]);
    loop {
        match outputs.wait(link.as_fd(), deadline) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(None) => return Err(hook.late()),
            Err(Some(e)) => return Err(e.to_string()),
        }
        match link.receive().map_err(|e| e.to_string())?.0 {
            FromSandbox::Answer(Ok(Reply::Pid(_))) => {}
            FromSandbox::Answer(Err(failure)) => return Err(failure.message),
            FromSandbox::Exited(ExitStatus::Exited(0)) => return Ok(()),
            FromSandbox::Exited(status) => {
                let how = match status {
                    ExitStatus::Exited(status) => format!("exit status: {status}"),
                    ExitStatus::Signaled(signal) => format!("signal: {signal}"),
                };
                let [out, err] = outputs.texts();
                return Err(format!("{how}, stdout: {out:?}, stderr: {err:?}"));
            }
            _ => return Err("the sandbox breaks its protocol".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).into(),
            env: Some(vec!["A=1".into(), "PATH=/usr/bin:/bin".into()]),
            timeout,
        }
    }

    #[test]
    fn hooks_have_the_state_and_their_environment_and_run_in_order() {
        let folder = std::env::temp_dir().join(format!("ringwall-hooks-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let place = Place { folder: Some(&folder), ..Place::default() };
        let hooks = [hook("cat >told; echo $A >>log", None), hook("env >env; echo 2 >>log", None)];
        run("prestart", &hooks, "state", place).unwrap();
        let text = |name| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!((text("told").as_str(), text("log").as_str()), ("state", "1\n2\n"));
        assert!(!text("env").contains("CARGO"), "{}", text("env"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_goes_wrong_is_told_and_ends_the_row() {
        let failing = [hook("echo out; echo err >&2; exit 3", None), hook("exit 4", None)];
        let error = run("poststart", &failing, "", Place::default()).unwrap_err().to_string();
        let expected = "hooks.poststart: error running hook #0: /bin/sh exit status: 3, stdout: \"out\\n\", stderr: \"err\\n\"";
        assert_eq!(error, expected);
        let missing = Hook { path: "/no/where".into(), ..hook("", None) };
        let error = run("prestart", &[missing], "", Place::default()).unwrap_err().to_string();
        assert!(error.contains("#0: /no/where No such file"), "{error}");
        let begun = Instant::now();
        let slow = [hook("exec sleep 100", Some(1))];
        let error = run("prestart", &slow, "", Place::default()).unwrap_err().to_string();
        assert!(error.ends_with("ran past its timeout of 1 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
        // Much output is no reason to wait for ever.
        run("prestart", &[hook("head -c 1000000 /dev/zero; true", None)], "", Place::default())
            .unwrap();
    }
}
