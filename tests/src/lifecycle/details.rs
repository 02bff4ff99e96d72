//! Small things that people trip over: files as streams, descriptors that are passed on, what a command leaves and says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;

use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle;
use crate::process::End;

pub(super) const TESTS: &[Test] = &[
    ("details/one-file-for-all", one_file_for_all),
    ("details/preserved-descriptors", preserved_descriptors),
    ("details/preserved-refused", preserved_refused),
    ("details/create-lets-go", create_lets_go),
    ("details/missing-program", missing_program),
    ("details/under-strace", under_strace),
    ("details/nothing-is-left", nothing_is_left),
    ("details/debug-is-short", debug_is_short),
    ("details/features", features),
    ("details/completions", completions),
];

/// A shell script on the host in which `$RUNTIME` is the runtime, with its options.
fn shell(c: &Context, script: &str) -> Result<Command, Stop> {
    let runtime = c.place.runtime.command(c.scratch.path(), &[]);
    let words: Vec<&OsStr> =
        [runtime.get_program()].into_iter().chain(runtime.get_args()).collect();
    let words: Vec<String> =
        words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("RUNTIME", words.join(" ")).current_dir(c.scratch.path());
    Ok(shell)
}

/// Whoever writes to a file before and after the container finds its bytes between, and reads after it what it has left.
fn one_file_for_all(c: &Context) -> Outcome {
    // In the foreground runc carries the bytes through pipes of its own.
    c.only_ringwall()?;
    let _b = c.bundle("b", "head -n 1; echo inside; echo wrong >&2")?;
    fs::write(c.path("in"), "one\ntwo\n")?;
    let script = "(echo before; $RUNTIME run --bundle b x; echo after) >all 2>&1";
    let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
    let all = fs::read_to_string(c.path("all"))?;
    ensure!(done.ok() && all == "before\ninside\nwrong\nafter\n", "{}: {all:?}", done.end);
    // dd takes what it is told to, and leaves the rest.
    let _b = c.bundle("b2", "dd bs=4 count=1 2>/dev/null")?;
    let script = "($RUNTIME run --bundle b2 x; echo then; cat) <in >all 2>&1";
    let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
    let all = fs::read_to_string(c.path("all"))?;
    ensure!(done.ok() && all == "one\nthen\ntwo\n", "{}: {all:?}", done.end);
    Ok(())
}

/// `--preserve-fds` of each command: files read and written, with one offset for all, and pipes that end.
fn preserved_descriptors(c: &Context) -> Outcome {
    let script =
        "head -c 4 <&3; echo to-four >&4; ls /proc/self/fd | tr '\\n' ' '; echo; sleep 1000";
    let _b = c.bundle("b", script)?;
    fs::write(c.path("in"), "one\ntwo\n")?;
    let script = "exec 3<in 4>>four 5>/dev/null; echo first >&4
        $RUNTIME run --detach --preserve-fds 2 --bundle b x >out && echo last >&4";
    let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    c.eventually("it lists its descriptors", || {
        Ok(fs::read_to_string(c.path("out"))?.matches('\n').count() == 2)
    })?;
    // What lists them has one more.
    let out = fs::read_to_string(c.path("out"))?;
    ensure!(out == "one\n0 1 2 3 4 5 \n", "{out:?}");
    let four = fs::read_to_string(c.path("four"))?;
    let lines: BTreeSet<&str> = four.lines().collect();
    ensure!(lines == BTreeSet::from(["first", "last", "to-four"]), "{four:?}");
    let script = "exec 3<in 4>exec; $RUNTIME exec --preserve-fds 2 x sh -c 'cat <&3 >&4; echo end >&4'; cat <&3";
    let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
    let wrote = fs::read_to_string(c.path("exec"))?;
    ensure!(
        done.ok() && done.out().is_empty() && wrote == "one\ntwo\nend\n",
        "{wrote:?}{}",
        done.err()
    );
    // Nobody but the process inside keeps the pipe open.
    let script = "{ $RUNTIME exec --detach --preserve-fds 1 x sh -c 'echo through >&3' 3>&1 >/dev/null 2>&1; } | cat";
    let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
    ensure!(done.ok() && done.out() == "through\n", "{}: {:?}{}", done.end, done.out(), done.err());
    c.must(&["kill", "x", "KILL"])?;
    c.eventually("x is stopped", || {
        // The process of the detached exec is this one's to reap, and runc's init waits for that.
        while waitpid(None, Some(WaitPidFlag::WNOHANG))
            .is_ok_and(|end| end != WaitStatus::StillAlive)
        {}
        Ok(c.status("x")? == "stopped")
    })?;
    c.must(&["delete", "x"])?;
    Ok(())
}

fn preserved_refused(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "echo ran")?;
    for (script, words) in [
        ("exec 3<&-; $RUNTIME run --preserve-fds 1 --bundle b x", "descriptor 3: EBADF"),
        ("exec 3</; $RUNTIME run --preserve-fds 1 --bundle b x", "descriptor 3 is no pipe"),
        ("$RUNTIME create --preserve-fds 49 --bundle b x", "--preserve-fds 49: at most"),
    ] {
        let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
        ensure!(done.end == End::Exit(1) && done.out().is_empty(), "{script}: {}", done.end);
        ensure!(done.err().lines().count() == 1 && done.err().contains(words), "{}", done.err());
    }
    Ok(())
}

/// Whoever reads what `create` of a container with a terminal says comes to its end, though the container lives on.
fn create_lets_go(c: &Context) -> Outcome {
    let mut config = bundle::config(&["sleep", "1000"], &[]);
    config["process"]["terminal"] = true.into();
    let _b = c.bundle_with("b", &config)?;
    let _listener = UnixListener::bind(c.path("socket"))?;
    let script = "$RUNTIME create --console-socket socket --bundle b x 2>&1 | cat";
    let done = c.start_command(&mut shell(c, script)?)?.end(c.limit())?;
    ensure!(done.ok() && done.out().is_empty(), "{}: {}", done.end, done.out());
    ensure!(c.status("x")? == "created", "it is {}", c.status("x")?);
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// One line says what is missing, and the exit status is a shell's.
fn missing_program(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    for (program, status, line) in [
        (
            "nosuch",
            127,
            "ringwall: exec failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH\n",
        ),
        (
            "/no/such",
            127,
            "ringwall: exec failed: unable to start container process: exec: \"/no/such\": no such file or directory\n",
        ),
        (
            "/etc/passwd",
            126,
            "ringwall: exec failed: unable to start container process: exec: \"/etc/passwd\": permission denied\n",
        ),
    ] {
        let done = c.detached(&["exec", "x", program])?;
        ensure!(
            done.end == End::Exit(status) && done.err() == line,
            "{}: {:?}",
            done.end,
            done.err()
        );
    }
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

/// A program of a root, with its libraries, and those of the tools' root.
fn program(c: &Context, root: &str, program: &str) -> Command {
    let tools = c.place.roots.join("tools");
    let root = c.place.roots.join(root);
    let mut command = Command::new(tools.join("lib64/ld-linux-x86-64.so.2"));
    let libraries: Vec<String> = [&root, &tools]
        .into_iter()
        .flat_map(|root| ["lib", "usr/lib"].map(|lib| root.join(lib).join("x86_64-linux-gnu")))
        .map(|folder| folder.display().to_string())
        .collect();
    command.args(["--library-path", &libraries.join(":")]).arg(root.join(program));
    command
}

/// Ringwall and all processes of a container run while somebody traces them.
fn under_strace(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let strace = program(c, "tools", "usr/bin/strace");
    let _b = c.bundle("b", "echo traced; exit 5")?;
    let run =
        c.place.runtime.command(c.scratch.path(), &["run", "--bundle", &c.text_path("b"), "x"]);
    let mut traced = Command::new(strace.get_program());
    traced.args(strace.get_args()).args(["-f", "-o", &c.text_path("trace")]);
    traced.arg(run.get_program()).args(run.get_args());
    let done = c.start_command(&mut traced)?.end(c.limit() * 2)?;
    ensure!(
        done.end == End::Exit(5) && done.out() == "traced\n",
        "{}: {}{}",
        done.end,
        done.out(),
        done.err()
    );
    let trace = fs::read_to_string(c.path("trace"))?;
    let threads: BTreeSet<&str> = trace.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(threads.len() >= 3, "command, sandbox and file server are not all traced: {threads:?}");
    Ok(())
}

/// All below a folder, by paths.
fn below(folder: &Path, found: &mut BTreeSet<String>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            below(&path, found)?;
        }
        found.insert(path.display().to_string());
    }
    Ok(())
}

/// A container that writes nothing leaves nothing in its root but the mount points that were missing, nor in folders for
/// temporary files.
fn nothing_is_left(c: &Context) -> Outcome {
    let _b = c.bundle("b", "true")?;
    let tmp = c.path("tmp");
    fs::create_dir(&tmp)?;
    let known: BTreeSet<_> =
        fs::read_dir("/tmp")?.flatten().map(|entry| entry.file_name()).collect();
    let mut command = c
        .place
        .runtime
        .command(c.scratch.path(), &["run", "--bundle", &c.text_path("b"), "left-over-x"]);
    let done = c.start_command(command.env("TMPDIR", &tmp))?.end(c.limit())?;
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    let mut found = BTreeSet::new();
    below(&c.path("b/upper"), &mut found)?;
    ensure!(found.is_empty(), "in the root: {found:?}");
    ensure!(fs::read_dir(&tmp)?.count() == 0, "in TMPDIR");
    for entry in fs::read_dir("/tmp")?.flatten().map(|entry| entry.file_name()) {
        let name = entry.to_string_lossy();
        let ours = ["ringwall", "left-over-x"].iter().any(|word| name.contains(word));
        ensure!(known.contains(&entry) || !ours, "in /tmp: {name}");
    }
    Ok(())
}

/// What is logged for developers of one small run can be read.
fn debug_is_short(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "echo hi")?;
    let done = c.detached(&["--debug", "run", "--bundle", &c.text_path("b"), "x"])?;
    let log = fs::read_to_string(c.path("log"))?;
    let lines = log.lines().count();
    ensure!(done.ok() && (10..=100).contains(&lines), "{}: {lines} lines:\n{log}", done.end);
    Ok(())
}

/// Every key that runc's document has is in ours, and what both have says what is true here.
fn features(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let document = |done: &crate::process::Finished| -> Result<Value, Stop> {
        ensure_ok(done)?;
        Ok(serde_json::from_slice(&done.stdout)?)
    };
    let ours = document(&c.run(&["features"])?)?;
    let output = program(c, "docker", "usr/sbin/runc").arg("features").output()?;
    let theirs: Value = serde_json::from_slice(&output.stdout)?;
    fn missing(ours: &Value, theirs: &Value, path: &str, found: &mut Vec<String>) {
        let Value::Object(fields) = theirs else { return };
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match ours.get(name) {
                // Each runtime has its own.
                _ if path == ".annotations" => {}
                None => found.push(path),
                Some(own) => missing(own, value, &path, found),
            }
        }
    }
    let mut found = Vec::new();
    missing(&ours, &theirs, "", &mut found);
    ensure!(found.is_empty(), "not there: {found:?}");
    for (place, not_here) in [
        ("/hooks", &[][..]),
        ("/linux/namespaces", &[]),
        ("/linux/capabilities", &[]),
        ("/linux/seccomp/operators", &[]),
        ("/linux/seccomp/actions", &["SCMP_ACT_NOTIFY"]),
        // Of changes to what is mounted already; and what is named in the log.
        ("/mountOptions", &["remount"]),
    ] {
        let set = |document: &Value| -> BTreeSet<String> {
            let list = document.pointer(place).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let missing: Vec<String> = set(&theirs).difference(&set(&ours)).cloned().collect();
        ensure!(missing == not_here, "{place}: {missing:?} are not in ours");
    }
    Ok(())
}

fn ensure_ok(done: &crate::process::Finished) -> Outcome {
    ensure!(done.ok(), "{}: {}", done.end, done.err());
    Ok(())
}

/// The script for bash completes commands, options, values and ids; all three name every command.
fn completions(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let script = c.must(&["completions", "bash"])?.out();
    fs::write(c.path("script"), &script)?;
    let _b = c.bundle("b", "true")?;
    c.must(&["create", "--bundle", &c.text_path("b"), "my-container"])?;
    // The runtime's name is a function here that finds the test's folder.
    let runtime = c.place.runtime.command(c.scratch.path(), &[]);
    let words: Vec<String> = [runtime.get_program()]
        .into_iter()
        .chain(runtime.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let text = format!(
        ". {}\nringwall() {{ {} \"$@\"; }}\ntry() {{ COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _ringwall; echo \"${{COMPREPLY[*]}}\"; }}\n\
         try ringwall cre; try ringwall --root /x --platform k; try ringwall create --pid; try ringwall start my; \
         try ringwall ps --format ''; try ringwall --log-for; try ringwall kill --a; try ringwall create my",
        c.text_path("script"),
        words.join(" ")
    );
    let done = c
        .start_command(program(c, "debian", "bin/bash").args(["--norc", "-c", &text]))?
        .end(c.limit())?;
    let expect = "create\nkvm\n--pid-file\nmy-container\ntable json\n--log-format\n--all\n\n";
    ensure!(done.out() == expect, "{}{}", done.out(), done.err());
    c.must(&["delete", "--force", "my-container"])?;
    for shell in ["bash", "zsh", "fish"] {
        let script = c.must(&["completions", shell])?.out();
        for command in ["create", "exec", "checkpoint", "completions"] {
            ensure!(script.contains(command) == (command != "checkpoint"), "{shell}: {command}");
        }
    }
    Ok(())
}
