//! The hostile image (`guest/src/hostile`) and the program that boots it (`vmm/examples/hostile.rs`): how they are built,
//! and where a test finds them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;

/// The test that wants them.
pub const TEST: &str = "/machine/hostile-image";

/// Names the program and the image to the test, as two lines.
const PLACE: &str = "HARNESS_HOSTILE";
/// How many times as many seeds it takes.
const ROUNDS: &str = "HARNESS_ROUNDS";
/// Where they are in the VM.
const IN_VM: [&str; 2] = ["/usr/lib/hostile/machine", "/usr/lib/hostile/image"];

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The image's dependencies are there, unless nothing has been built; the program's are the unit tests'.
const BUDGET: Duration = Duration::from_secs(900);

/// What was built.
pub struct Built {
    program: PathBuf,
    image: PathBuf,
}

impl Built {
    /// What the VM is given: name there, file here.
    pub fn files(&self) -> [(String, PathBuf); 2] {
        let [program, image] = IN_VM.map(str::to_owned);
        [(program, self.program.clone()), (image, self.image.clone())]
    }

    /// What the test is told.
    pub fn place(&self, in_vm: bool) -> (String, String) {
        let [program, image] = if in_vm {
            IN_VM.map(str::to_owned)
        } else {
            [&self.program, &self.image].map(|path| path.display().to_string())
        };
        (PLACE.to_owned(), format!("{program}\n{image}"))
    }
}

/// Builds both.
pub fn build() -> Result<Built, Box<dyn std::error::Error>> {
    println!("building the hostile image");
    let workspace = crate::workspace();
    let flags = fs::read_to_string(workspace.join("guest/image.flags"))?;
    let images = workspace.join("target/image");
    let mut image = Command::new("cargo");
    image
        .args(["build", "--quiet", "--package=guest", "--bin=hostile", "--profile=image"])
        .args(["--features=image", "--target", TARGET, "--target-dir"])
        .arg(&images)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.trim_end().replace('\n', "\x1f"));
    run(&mut image, &workspace)?;
    let mut program = Command::new("cargo");
    program
        .args(["build", "--quiet", "--package=vmm", "--example=hostile"])
        // As the unit tests have it.
        .env("RINGWALL_NO_IMAGE", "1");
    run(&mut program, &workspace)?;
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("no target folder")?.join("examples");
    // Its names and lines are twenty times itself.
    let stripped = folder.join("hostile.stripped");
    let mut strip = Command::new("strip");
    run(strip.arg("-o").arg(&stripped).arg(folder.join("hostile")), &workspace)?;
    Ok(Built { program: stripped, image: images.join(TARGET).join("image/hostile") })
}

fn run(command: &mut Command, folder: &Path) -> io::Result<()> {
    process::show("building the hostile image", command.current_dir(folder), BUDGET)
}

/// The command that makes all attacks.
pub fn command() -> io::Result<Command> {
    let place = std::env::var(PLACE).map_err(io::Error::other)?;
    let (program, image) = place.split_once('\n').unwrap_or((&place, ""));
    let mut command = Command::new(program);
    command.arg(image).arg(std::env::var(ROUNDS).unwrap_or_else(|_| "1".to_owned()));
    Ok(command)
}
