//! Builds the bootable image and hands its path to the crate as `RINGWALL_IMAGE`.
//!
//! The image is another program for another machine: it is built by a cargo of its own, with its own flags,
//! profile and target directory (`target/image`), which also keeps the two builds from waiting for each other's
//! locks. `RINGWALL_NO_IMAGE=1` leaves an empty file in its place, for quick checks; the KVM platform then says
//! that there is no image.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the image is compiled from, relative to the workspace.
const SOURCES: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "sentry/src",
    "sentry/Cargo.toml",
    "ring0/src",
    "ring0/Cargo.toml",
    "guest",
    "gofer/src",
    "gofer/Cargo.toml",
];

/// No red zone, because the kernel's faults arrive on the stack that is in use; frame pointers for backtraces;
/// the kernel code model, because the image is in the top 2 GiB. Nothing in it has enough numbers in a row to gain by
/// vector instructions, and a few of them among scalar code cost more than they save.
const FLAGS: &str = include_str!("../guest/image.flags");

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?).join("image.elf");
    let names = PathBuf::from(env::var("OUT_DIR")?).join("image.symbols");
    println!("cargo:rustc-env=RINGWALL_IMAGE={}", out.display());
    println!("cargo:rustc-env=RINGWALL_IMAGE_SYMBOLS={}", names.display());
    println!("cargo:rerun-if-env-changed=RINGWALL_NO_IMAGE");
    println!("cargo:rerun-if-changed=build.rs");
    without_unwind_tables()?;
    if env::var("RINGWALL_NO_IMAGE").is_ok_and(|v| v == "1") {
        fs::write(&out, [])?;
        fs::write(&names, [])?;
        return Ok(());
    }
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the package is not in a workspace")?
        .to_path_buf();
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    let target_dir = workspace.join("target/image");
    build(&workspace, &target_dir)?;
    let built = target_dir.join(TARGET).join("image/image");
    strip(&built, &out)?;
    fs::write(&names, symbols(&fs::read(&built)?).ok_or("the image is no ELF with symbols")?)?;
    Ok(())
}

/// Leaves the tables for unwinding out of released binaries, a sixteenth of them: a panic aborts there, and says where
/// without a stack, which has no names in a stripped binary. A compiler's flag would not do, since tests unwind and
/// flags are for all profiles alike.
fn without_unwind_tables() -> Result<(), Box<dyn Error>> {
    if env::var("PROFILE")? != "release" {
        return Ok(());
    }
    let script = PathBuf::from(env::var("OUT_DIR")?).join("unwind.ld");
    fs::write(
        &script,
        "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) } } INSERT AFTER .text;\n",
    )?;
    println!("cargo:rustc-link-arg-bin=ringwall=-Wl,-T,{}", script.display());
    Ok(())
}

fn build(workspace: &Path, target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace)
        .args(["build", "--package=guest", "--bin=image", "--profile=image"])
        .args(["--features=image", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    // What the outer build, or the user, set for host programs is wrong here.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let ours = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_BUILD_JOBS", "CARGO_MAKEFLAGS"];
        if name.starts_with("RUSTC")
            || name == "RUSTFLAGS"
            || (name.starts_with("CARGO") && !ours.contains(&&*name))
        {
            cargo.env_remove(&*name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.trim_end().replace('\n', "\x1f"));
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the image failed: {status}").into());
    }
    Ok(())
}

/// Leaves out what is not loaded; without `objcopy` the file is merely larger.
fn strip(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let stripped = Command::new("objcopy").args(["--strip-all"]).arg(from).arg(to).status();
    if !stripped.is_ok_and(|s| s.success()) {
        fs::copy(from, to)?;
    }
    Ok(())
}

/// The image's functions for backtraces, one a line, by address: its low 32 bits, its size, both in hexadecimal, and
/// its name without the hash.
fn symbols(elf: &[u8]) -> Option<String> {
    // ELF64 (System V ABI, chapter 4): a symbol table and the string table that it names.
    const SYMTAB: u32 = 2;
    const FUNC: u8 = 2;
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let long =
        |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let sections = long(40)?;
    let section = |n: usize| sections + n * 64;
    let table = (0..usize::from(half(60)?)).find(|n| word(section(*n) + 4) == Some(SYMTAB))?;
    let (start, size) = (long(section(table) + 24)?, long(section(table) + 32)?);
    let strings = long(section(word(section(table) + 40)? as usize) + 24)?;
    let mut all = Vec::new();
    for entry in elf.get(start..start + size)?.as_chunks::<24>().0 {
        let name = strings + u32::from_le_bytes(entry[..4].try_into().ok()?) as usize;
        let value = u64::from_le_bytes(entry[8..16].try_into().ok()?);
        let size = u64::from_le_bytes(entry[16..24].try_into().ok()?);
        if entry[4] & 15 == FUNC {
            let name = elf.get(name..)?.split(|b| *b == 0).next()?;
            let name = String::from_utf8_lossy(name);
            all.push((value as u32, size, format!("{:#}", rustc_demangle::demangle(&name))));
        }
    }
    all.sort();
    all.dedup_by_key(|(at, ..)| *at);
    Some(all.iter().map(|(at, size, name)| format!("{at:x} {size:x} {name}\n")).collect())
}
