//! A program of a few instructions, as an ELF file: what starting and keeping a container costs is
//! then Ringwall's part alone.
//!
//! It says `ready`; with an argument, it then waits for a byte.

use std::ptr;

core::arch::global_asm!(
    r#"
    .pushsection .rodata.ringwall_tiny, "a", @progbits
    .global ringwall_tiny_start, ringwall_tiny_end
ringwall_tiny_start:
    mov eax, 1                  # write(1, text, 6)
    mov edi, 1
    lea rsi, [rip + ringwall_tiny_text]
    mov edx, 6
    syscall
    cmp qword ptr [rsp], 1      # argc
    je 2f
    xor eax, eax                # read(0, below the stack, 1)
    xor edi, edi
    lea rsi, [rsp - 16]
    mov edx, 1
    syscall
2:  mov eax, 231                # exit_group(0)
    xor edi, edi
    syscall
    ud2
ringwall_tiny_text:
    .ascii "ready\n"
ringwall_tiny_end:
    .popsection
    "#
);

unsafe extern "C" {
    safe static ringwall_tiny_start: u8;
    safe static ringwall_tiny_end: u8;
}

/// Where it is loaded.
const BASE: u64 = 0x40_0000;
/// Sizes of the two headers (System V ABI, ELF-64).
const FILE_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

fn code() -> &'static [u8] {
    let start = ptr::addr_of!(ringwall_tiny_start);
    let len = ptr::addr_of!(ringwall_tiny_end).addr() - start.addr();
    // SAFETY: the two symbols delimit initialized, immutable bytes of this program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// The file: one segment, the whole of it.
pub fn file() -> Vec<u8> {
    let headers = u64::from(FILE_HEADER + PROGRAM_HEADER);
    let size = headers + code().len() as u64;
    let mut elf = Vec::new();
    // 64 bits, little-endian, version 1; then ET_EXEC, EM_X86_64, version 1.
    elf.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2u16, 62].map(u16::to_le_bytes).concat());
    elf.extend(1u32.to_le_bytes());
    // Entry, program headers, no section headers; no flags.
    elf.extend([BASE + headers, FILE_HEADER.into(), 0].map(u64::to_le_bytes).concat());
    elf.extend(0u32.to_le_bytes());
    elf.extend([FILE_HEADER, PROGRAM_HEADER, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD, readable and executable.
    elf.extend([1u32, 5].map(u32::to_le_bytes).concat());
    elf.extend([0, BASE, BASE, size, size, 4096].map(u64::to_le_bytes).concat());
    elf.extend(code());
    elf
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_host_runs_it() {
        let path = std::env::temp_dir().join(format!("ringwall-tiny-{}", std::process::id()));
        fs::write(&path, super::file()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        for args in [&[][..], &["wait"]] {
            let out = Command::new(&path).args(args).stdin(Stdio::null()).output().unwrap();
            assert!(out.status.success());
            assert_eq!(out.stdout, b"ready\n");
        }
        fs::remove_file(&path).unwrap();
    }
}
