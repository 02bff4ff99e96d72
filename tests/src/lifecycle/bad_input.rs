//! What people and programs get wrong: one line that names it, runc's exit status, and nothing left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{Context, Outcome, Stop, Test, ensure};
use crate::bundle::{self, Bundle};
use crate::process::{End, Finished};
use crate::runtime::Runtime;

pub(super) const TESTS: &[Test] = &[
    ("bad-input/no-bundle", no_bundle),
    ("bad-input/no-config", no_config),
    ("bad-input/malformed-config", malformed_config),
    ("bad-input/wrong-types", wrong_types),
    ("bad-input/no-rootfs", no_rootfs),
    ("bad-input/no-program", no_program),
    ("bad-input/not-executable", not_executable),
    ("bad-input/no-interpreter", no_interpreter),
    ("bad-input/bad-elf", bad_elf),
    ("bad-input/bad-cwd", bad_cwd),
    ("bad-input/bad-ids", bad_ids),
    ("bad-input/id-exists", id_exists),
    ("bad-input/no-such-container", no_such_container),
    ("bad-input/usage", usage),
    ("bad-input/bad-values", bad_values),
    ("bad-input/long-arguments", long_arguments),
    ("bad-input/pid-file", pid_file),
    ("bad-input/terminal", terminal),
    ("bad-input/usage-in-log", usage_in_log),
    ("bad-input/platform", platform),
    ("bad-input/log-file", log_file),
];

/// An attempt to run what cannot run: it must exit with this status, say these words once, and keep the id free.
fn refused(c: &Context, what: &str, status: i32, words: &[&str], done: &Finished) -> Outcome {
    ensure!(
        done.end == End::Exit(status),
        "{what}: {}, should exit with {status}: {}",
        done.end,
        done.err()
    );
    let err = done.err();
    ensure!(!err.trim().is_empty(), "{what}: nothing on standard error");
    // runc's usage errors print the whole help.
    ensure!(
        c.is_runc() || err.lines().count() == 1,
        "{what}: standard error is not one line: {err}"
    );
    for word in words {
        ensure!(c.is_runc() || err.contains(word), "{what}: {word:?} is not named in {err:?}");
    }
    ensure!(done.left_behind.is_empty(), "{what}: left behind {:?}", done.left_behind);
    Ok(())
}

fn try_config(c: &Context, config: &Value) -> Result<Finished, Stop> {
    let _b = c.bundle_with("b", config)?;
    c.run(&["run", "--bundle", &c.text_path("b"), "x"])
}

fn no_bundle(c: &Context) -> Outcome {
    let done = c.run(&["run", "--bundle", "/no/such/bundle", "x"])?;
    refused(c, "no bundle", 1, &["/no/such/bundle"], &done)
}

fn no_config(c: &Context) -> Outcome {
    let _b = Bundle::empty(&c.path("b"))?;
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
    refused(c, "no config.json", 1, &["config.json"], &done)
}

fn malformed_config(c: &Context) -> Outcome {
    for text in ["", "{", "[]", "null", "\"x\"", "{\"process\": }", "\u{0}", "{} trailing"] {
        if c.is_runc() && text == "null" {
            // runc 1.1.5 panics.
            continue;
        }
        let b = Bundle::empty(&c.path("b"))?;
        b.write_config(text)?;
        let done = c.run(&["run", "--bundle", &c.text_path("b"), "x"])?;
        refused(c, text, 1, &["config.json"], &done)?;
    }
    Ok(())
}

fn wrong_types(c: &Context) -> Outcome {
    for (pointer, value, word) in [
        ("/process/args", json!("sh"), "args"),
        ("/process/args", json!([]), "args"),
        ("/process/cwd", json!(5), "cwd"),
        ("/process/user/uid", json!("root"), "uid"),
        ("/process/user/uid", json!(-1), "uid"),
        ("/root/path", json!(["rootfs"]), "path"),
        ("/mounts", json!({}), "mounts"),
        ("/hostname", json!(1), "hostname"),
        ("/process/env", json!([1]), "env"),
    ] {
        let mut config = bundle::config(&["true"], &[]);
        if let Some(field) = config.pointer_mut(pointer) {
            *field = value.clone();
        }
        let done = try_config(c, &config)?;
        refused(c, &format!("{pointer} = {value}"), 1, &[word], &done)?;
    }
    let mut config = bundle::config(&["true"], &[]);
    if let Some(object) = config.as_object_mut() {
        object.remove("process");
    }
    refused(c, "no process", 1, &["process"], &try_config(c, &config)?)
}

fn no_rootfs(c: &Context) -> Outcome {
    for path in ["/no/such/root", "elsewhere"] {
        let mut config = bundle::config(&["true"], &[]);
        config["root"]["path"] = json!(path);
        refused(c, path, 1, &[path], &try_config(c, &config)?)?;
    }
    Ok(())
}

/// runc gives 1 for every failure to start; the shell's numbers say more.
fn start_failure(c: &Context, status: i32) -> i32 {
    if c.is_runc() { 1 } else { status }
}

fn no_program(c: &Context) -> Outcome {
    for program in ["nosuchprogram", "/no/such/program", "./x"] {
        let done = try_config(c, &bundle::config(&[program, "argument"], &[]))?;
        refused(c, program, start_failure(c, 127), &[program], &done)?;
    }
    Ok(())
}

fn not_executable(c: &Context) -> Outcome {
    for program in ["/etc/passwd", "/etc"] {
        let done = try_config(c, &bundle::config(&[program], &[]))?;
        refused(c, program, start_failure(c, 126), &[program], &done)?;
    }
    Ok(())
}

/// Runs a file with these bytes as the container's program.
fn run_bytes(c: &Context, bytes: &[u8]) -> Result<Finished, Stop> {
    let b = c.bundle_with("b", &bundle::config(&["/program"], &[]))?;
    let path = b.rootfs().join("program");
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    c.run(&["run", "--bundle", &c.text_path("b"), "x"])
}

fn no_interpreter(c: &Context) -> Outcome {
    let done = run_bytes(c, b"#!/no/such/interpreter\n")?;
    refused(c, "script", start_failure(c, 127), &["/program"], &done)
}

/// A 64-bit header with one program header, which tests then spoil; the code at 0x400078 exits with status 0.
fn small_elf() -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0x40_0078u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0u64, 0x40_0000, 0x40_0000, 0x84, 0x84, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    // xor edi, edi; mov eax, 231 (exit_group); syscall
    elf.extend([0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 0x05, 0xf4, 0xf4, 0xf4]);
    elf
}

fn bad_elf(c: &Context) -> Outcome {
    let good = run_bytes(c, &small_elf())?;
    ensure!(good.ok(), "the ELF file that the others are made from: {}: {}", good.end, good.err());
    let patched = |at: usize, bytes: &[u8]| {
        let mut elf = small_elf();
        elf[at..at + bytes.len()].copy_from_slice(bytes);
        elf
    };
    // i386 with a header of its class, as far as the file goes.
    let mut small_32 = patched(18, &[3, 0]);
    small_32[4] = 1;
    let absurd: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("truncated header", small_elf()[..40].to_vec()),
        ("truncated program headers", small_elf()[..100].to_vec()),
        ("another architecture", patched(18, &[183, 0])),
        ("32-bit", small_32),
        ("no program headers", patched(56, &[0, 0])),
        ("program headers of another size", patched(54, &[55, 0])),
        ("too many program headers", patched(56, &[0xff, 0xff])),
        ("program headers far away", patched(32, &u64::MAX.to_le_bytes())),
        ("file size beyond memory size", patched(64 + 32, &0x10_0000u64.to_le_bytes())),
        (
            "a segment in the kernel's half",
            patched(64 + 16, &0xffff_ffff_8000_0000u64.to_le_bytes()),
        ),
        ("a segment that wraps", patched(64 + 40, &0xffff_ffff_ffff_f000u64.to_le_bytes())),
    ];
    for (what, elf) in absurd {
        let done = run_bytes(c, &elf)?;
        // Some are refused before the old program is gone, some kill the process after it: never a success or a hang.
        let refused = matches!(done.end, End::Exit(status) if status != 0)
            || matches!(done.end, End::Signal(_));
        ensure!(refused, "{what}: {}: {}", done.end, done.err());
        ensure!(done.left_behind.is_empty(), "{what}: left behind {:?}", done.left_behind);
        if ["another architecture", "32-bit", "truncated header", "empty"].contains(&what) {
            let right = start_failure(c, 126);
            ensure!(
                done.end == End::Exit(right),
                "{what}: {}, should be {right}: {}",
                done.end,
                done.err()
            );
        }
    }
    // Two segments at one address: Linux maps the second over the first; whatever happens, it must end.
    let done = run_bytes(c, &overlapping())?;
    ensure!(done.end != End::TimedOut, "overlapping segments hang");
    Ok(())
}

fn overlapping() -> Vec<u8> {
    let mut elf = small_elf();
    let header = elf[64..120].to_vec();
    elf[56] = 2;
    let code = elf.split_off(120);
    elf.extend(&header);
    elf.extend(&code);
    // The code has moved by one header.
    elf[24..32].copy_from_slice(&0x40_00b0u64.to_le_bytes());
    for at in [64 + 32, 64 + 40, 120 + 32, 120 + 40] {
        elf[at..at + 8].copy_from_slice(&0xbcu64.to_le_bytes());
    }
    elf
}

fn bad_cwd(c: &Context) -> Outcome {
    let mut config = bundle::config(&["true"], &[]);
    config["process"]["cwd"] = json!("/etc/passwd");
    refused(c, "a file as cwd", 1, &["/etc/passwd"], &try_config(c, &config)?)?;
    config["process"]["cwd"] = json!("relative");
    refused(c, "a relative cwd", 1, &["cwd"], &try_config(c, &config)?)
}

fn bad_ids(c: &Context) -> Outcome {
    let _b = c.bundle("b", "true")?;
    for id in ["../x", "a/b", "", ".", "..", "a b", "x\n"] {
        for command in ["run", "create"] {
            let done = c.run(&[command, "--bundle", &c.text_path("b"), id])?;
            refused(c, &format!("{command} {id:?}"), 1, &["id"], &done)?;
        }
        let done = c.run(&["state", id])?;
        ensure!(done.end == End::Exit(1), "state {id:?}: {}", done.end);
        // --force forgives a container that is not there, not an id that is none.
        let done = c.run(&["delete", id])?;
        ensure!(done.end == End::Exit(1), "delete {id:?}: {}", done.end);
    }
    ensure!(!c.path("x").exists(), "a folder was made outside of the state folder");
    Ok(())
}

fn id_exists(c: &Context) -> Outcome {
    let _b = c.bundle("b", "sleep 1000")?;
    c.must(&["run", "--detach", "--bundle", &c.text_path("b"), "x"])?;
    for command in ["run", "create"] {
        let done = c.detached(&[command, "--bundle", &c.text_path("b"), "x"])?;
        refused(c, command, 1, &["x"], &done)?;
    }
    ensure!(c.status("x")? == "running", "the first is {}", c.status("x")?);
    c.must(&["delete", "--force", "x"])?;
    Ok(())
}

fn no_such_container(c: &Context) -> Outcome {
    for args in [
        &["state", "none"] as &[&str],
        &["kill", "none", "TERM"],
        &["start", "none"],
        &["delete", "none"],
    ] {
        let done = c.run(args)?;
        refused(c, &args.join(" "), 1, &["does not exist"], &done)?;
    }
    Ok(())
}

fn usage(c: &Context) -> Outcome {
    for args in [
        &["run"] as &[&str],
        &["run", "--nosuchflag", "x"],
        &["--nosuchflag", "list"],
        &["run", "a", "b"],
        &["list", "extra"],
        &["kill"],
    ] {
        let done = c.run(args)?;
        ensure!(
            done.end == End::Exit(1),
            "{args:?}: {}, should exit with 1: {}",
            done.end,
            done.err()
        );
        ensure!(!done.err().is_empty(), "{args:?}: nothing on standard error");
    }
    let unknown = c.run(&["nosuchcommand"])?;
    ensure!(matches!(unknown.end, End::Exit(1..)), "an unknown command: {}", unknown.end);
    let help = c.run(&["--help"])?;
    ensure!(help.ok() && help.out().contains("create"), "--help: {}", help.end);
    let version = c.run(&["--version"])?;
    ensure!(version.ok() && !version.out().is_empty(), "--version: {}", version.end);
    Ok(())
}

/// Values of the right type that cannot be.
fn bad_values(c: &Context) -> Outcome {
    let mount = |kind: &str, source: &str, options: Value| json!([{ "destination": "/tmp", "type": kind, "source": source, "options": options }]);
    let limit =
        |kind: &str, soft: u64, hard: u64| json!({ "type": kind, "soft": soft, "hard": hard });
    for (pointer, value, word) in [
        ("/process/user/uid", json!(u32::MAX), "process.user.uid"),
        ("/process/user/gid", json!(u32::MAX), "process.user.gid"),
        ("/hostname", json!("x".repeat(65)), "hostname"),
        ("/process/rlimits", json!([limit("RLIMIT_BOGUS", 1, 1)]), "process.rlimits[0]"),
        ("/process/rlimits", json!([limit("RLIMIT_NOFILE", 2, 1)]), "process.rlimits[0]"),
        ("/process/args", json!([""]), "executable file not found"),
        ("/mounts", mount("nosuchfs", "none", json!([])), "nosuchfs"),
        ("/mounts", mount("bind", "/no/such/source", json!(["bind"])), "/no/such/source"),
        ("/mounts", mount("tmpfs", "tmpfs", json!(["size=banana"])), "size=banana"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
    ] {
        if c.is_runc() && pointer == "/ociVersion" {
            // runc takes any version.
            continue;
        }
        let mut config = bundle::config(&["true"], &[]);
        if let Some(field) = config.pointer_mut(pointer) {
            *field = value.clone();
        }
        let done = try_config(c, &config)?;
        let status = if word == "executable file not found" { start_failure(c, 127) } else { 1 };
        refused(c, &format!("{pointer} = {value}"), status, &[word], &done)?;
    }
    Ok(())
}

/// More than the kernel takes in one string, and more than any message of ours holds.
fn long_arguments(c: &Context) -> Outcome {
    let string = "x".repeat(200_000);
    let one = bundle::config(&["true", &string], &[]);
    refused(c, "one long argument", 1, &["rgument list too long"], &try_config(c, &one)?)?;
    let words = vec!["y".repeat(1000); 4000];
    let args: Vec<&str> = std::iter::once("true").chain(words.iter().map(String::as_str)).collect();
    let many = bundle::config(&args, &[]);
    refused(c, "many arguments", 1, &["process.args"], &try_config(c, &many)?)
}

fn pid_file(c: &Context) -> Outcome {
    let _b = c.bundle("b", "true")?;
    for command in ["run", "create"] {
        let args =
            [command, "--bundle", &c.text_path("b"), "--pid-file", "/no/such/folder/pid", "x"];
        let done = c.run(&args)?;
        refused(c, command, 1, &["/no/such/folder/pid"], &done)?;
    }
    Ok(())
}

/// A terminal needs somebody who holds it, and somebody who holds none needs none.
fn terminal(c: &Context) -> Outcome {
    let mut config = bundle::config(&["true"], &[]);
    let _b = c.bundle_with("b", &config)?;
    let socket = c.text_path("socket");
    let done = c.run(&["run", "--bundle", &c.text_path("b"), "--console-socket", &socket, "x"])?;
    refused(c, "a socket and no terminal", 1, &["--console-socket"], &done)?;
    config["process"]["terminal"] = json!(true);
    _b.write_config(&config.to_string())?;
    let done = c.run(&["create", "--bundle", &c.text_path("b"), "x"])?;
    refused(c, "a terminal and no socket", 1, &["--console-socket"], &done)?;
    let args = ["create", "--bundle", &c.text_path("b"), "--console-socket", &socket, "x"];
    refused(c, "nobody at the socket", 1, &[&socket], &c.run(&args)?)
}

/// What is wrong with the command line itself is in the log too, in its format.
fn usage_in_log(c: &Context) -> Outcome {
    c.only_ringwall()?;
    for wrong in ["--platform=xen", "--nosuchflag"] {
        let argv = c.place.runtime.argv.clone();
        let mut command = Runtime { argv, platform: None }.bare(&[], None);
        let log = c.text_path("usage.log");
        command.args(["--log", &log, "--log-format=json", "--root", &c.text_path("state")]);
        let done = c.start_command(command.args([wrong, "run", "x"]))?.end(c.limit())?;
        refused(c, wrong, 1, &[wrong.trim_start_matches("--platform=")], &done)?;
        let text = fs::read_to_string(&log)?;
        let line: Value = serde_json::from_str(text.trim())?;
        ensure!(
            line["level"] == "error"
                && line["msg"].as_str().is_some_and(|m| done.err().contains(m)),
            "{wrong}: the log says {text:?}"
        );
        fs::remove_file(&log)?;
    }
    ensure!(!c.path("state").exists(), "state was made");
    Ok(())
}

fn platform(c: &Context) -> Outcome {
    c.only_ringwall()?;
    let _b = c.bundle("b", "true")?;
    let with = |platform: &str| {
        let mut command = c.place.runtime.bare(&[], None);
        // Not the one that the place asks for.
        let runtime = Runtime { argv: c.place.runtime.argv.clone(), platform: None };
        if !platform.is_empty() {
            command = runtime.bare(&[], None);
        }
        command.args(["--root", &c.text_path("state"), &format!("--platform={platform}")]);
        command.args(["run", "--bundle", &c.text_path("b"), "x"]);
        c.start_command(&mut command)?.end(c.limit())
    };
    let done = with("xen")?;
    ensure!(done.end == End::Exit(1) && done.err().contains("xen"), "{}: {}", done.end, done.err());
    ensure!(
        !c.path("state").exists() || fs::read_dir(c.path("state"))?.count() == 0,
        "state was made"
    );
    if c.place.runtime.platform.as_deref() == Some("ptrace") && c.place.slow == 1 {
        // This machine's KVM is not usable, or the KVM tests would run here too.
        let done = with("kvm")?;
        if done.ok() {
            return Err(Stop::Skipped("KVM is usable here".to_owned()));
        }
        refused(c, "--platform=kvm", 1, &["KVM"], &done)?;
    }
    Ok(())
}

fn log_file(c: &Context) -> Outcome {
    let mut command = c.place.runtime.bare(&[], None);
    command.args(["--root", &c.text_path("state"), "--log", "/no/such/folder/log", "list"]);
    let done = c.start_command(&mut command)?.end(c.limit())?;
    ensure!(done.end == End::Exit(1), "{}", done.end);
    ensure!(done.err().contains("/no/such/folder/log"), "{}", done.err());
    Ok(())
}
