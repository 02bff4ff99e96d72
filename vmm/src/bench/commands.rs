//! Commands of a Debian root, timed from outside: what people do in a container all day.
//!
//! The shell that runs a command does so once before the clock starts, says so, and does it again when it is told to.
//! Beside each platform stands runc, whose containers run on the host's Linux with the same root.

use std::path::Path;
use std::time::Instant;

use super::{Bench, Figure, Options, Printer, Running, middle};

/// A command that can be measured.
pub struct Command {
    /// Its name in the table.
    pub name: &'static str,
    /// The program that the root must have for it.
    needs: &'static str,
    /// What the shell does first.
    before: &'static str,
    /// What the shell does.
    script: &'static str,
}

/// All of them.
pub const COMMANDS: &[Command] = &[
    Command { name: "find /", needs: "find", before: "", script: "find / -xdev >/dev/null" },
    // Through a pipe: tar reads nothing where its archive is /dev/null.
    Command {
        name: "tar c /usr",
        needs: "tar",
        before: "",
        script: "tar cC / usr | cat >/dev/null",
    },
    Command {
        name: "500 x true",
        needs: "true",
        before: "",
        script: "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done",
    },
    Command {
        name: "20 x python3 -c pass",
        needs: "python3",
        before: "",
        script: "i=0; while [ $i -lt 20 ]; do python3 -c pass; i=$((i+1)); done",
    },
    Command {
        name: "gcc of 2,000 lines",
        needs: "gcc",
        before: "i=0; while [ $i -lt 400 ]; do printf 'int f%d(int *a, int n) {\\n  int s = %d;\\n  \
                 for (int i = 0; i < n; i++) s += a[i] * (s ^ i) + %d;\\n  return s;\\n}\\n' $i $i $i; \
                 i=$((i+1)); done > /tmp/f.c",
        script: "gcc -O2 -c -o /tmp/f.o /tmp/f.c",
    },
];

impl Bench<'_> {
    /// One command in runc's container and in each platform's.
    pub(super) fn command(
        &self,
        command: &Command,
        rootfs: &Path,
        options: &Options,
        out: &mut Printer,
    ) -> Result<(), String> {
        let rootfs = rootfs.canonicalize().map_err(|e| format!("{}: {e}", rootfs.display()))?;
        let has = |dir: &str| rootfs.join(dir).join(command.needs).symlink_metadata().is_ok();
        if !has("usr/bin") && !has("bin") {
            eprintln!(
                "{}: not measured, {} has no {}",
                command.name,
                rootfs.display(),
                command.needs
            );
            return Ok(());
        }
        let script = format!(
            "set -e; export HOME=/tmp; {}\n{}\necho ready; read go; {}\necho done; read end",
            command.before, command.script, command.script
        );
        self.configure_in(&rootfs, &["/bin/sh", "-c", &script])?;
        let platforms: Vec<&str> =
            std::iter::once("runc").chain(options.platforms.iter().map(String::as_str)).collect();
        let mut found = vec![Vec::new(); platforms.len()];
        for n in 0..options.runs.max(1) {
            for (platform, times) in platforms.iter().zip(&mut found) {
                let ms = self
                    .second_run(platform, &format!("command-{n}"))
                    .map_err(|e| format!("{} on {platform}: {e}", command.name))?;
                times.push(ms);
            }
        }
        let mut native = None;
        for (platform, times) in platforms.into_iter().zip(found) {
            let ms = middle(times)?;
            let mut figure = Figure::new(command.name, platform, ms, "ms");
            figure.ratio = native.map(|native| ms / native);
            native.get_or_insert(ms);
            out.print(&figure);
        }
        Ok(())
    }

    /// Milliseconds of a command's second run.
    fn second_run(&self, platform: &str, id: &str) -> Result<f64, String> {
        let mut running = Running::spawn(&mut self.runtime(platform, id))?;
        expect(&mut running, "ready")?;
        let start = Instant::now();
        running.say(b"\n")?;
        expect(&mut running, "done")?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        running.say(b"\n")?;
        running.end()?;
        Ok(ms)
    }
}

fn expect(running: &mut Running, word: &str) -> Result<(), String> {
    match running.line()? {
        line if line == word => Ok(()),
        line => Err(format!("the shell says {line:?}")),
    }
}
