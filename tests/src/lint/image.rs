//! The image lint: proves of the bootable image what its flags only ask for.
//!
//! The image takes faults and interrupts on the stack that is in use, saves SSE state alone, and has no thread-local
//! storage. So nothing in it may keep data below the stack pointer (the red zone), use registers wider than xmm or the x87
//! and MMX ones, read memory through %fs, or need relocation or TLS set-up at start. The compiler's own run-time library is
//! compiled without our flags, which is how such code could slip in.
//!
//! Every function is decoded from its symbol. An access that is addressed from %rsp with a negative displacement is below
//! the stack pointer by itself; one that is addressed from a frame pointer is compared with the stack pointer's offset, which
//! is followed through the function's instructions and forward branches. Where that offset is not known (after an
//! alignment, or a switch of stacks in assembly) only the first of the two is checked.

use std::collections::BTreeMap;

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, FlowControl, Formatter, Instruction,
    InstructionInfoFactory, IntelFormatter, Mnemonic, OpAccess, OpKind, Register,
};
use object::elf::{PT_DYNAMIC, PT_INTERP, PT_TLS, SHF_TLS, SHT_DYNAMIC, SHT_REL, SHT_RELA};
use object::read::elf::{ElfFile64, ProgramHeader, SectionHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use thiserror::Error;

/// Why an image could not be checked at all.
#[derive(Debug, Error)]
pub enum Error {
    /// It is not a readable ELF file.
    #[error("not an ELF image: {0}")]
    Elf(#[from] object::read::Error),
    /// There is nothing to check.
    #[error("the image has no code with symbols: check the file before it is stripped")]
    NoSymbols,
}

/// Checks an image; returns what is wrong with it and how many instructions were read.
pub fn check(elf: &[u8]) -> Result<(Vec<String>, usize), Error> {
    let file = ElfFile64::<Endianness>::parse(elf)?;
    let endian = file.endian();
    let mut findings = Vec::new();
    for header in file.elf_program_headers() {
        match header.p_type(endian) {
            PT_DYNAMIC => findings.push("it has a dynamic segment".to_owned()),
            PT_INTERP => findings.push("it names an interpreter".to_owned()),
            PT_TLS => findings.push("it has a TLS segment".to_owned()),
            _ => (),
        }
    }
    for section in file.elf_section_table().iter() {
        if matches!(section.sh_type(endian), SHT_REL | SHT_RELA | SHT_DYNAMIC)
            && section.sh_size(endian) > 0
        {
            findings.push("it has dynamic relocations".to_owned());
        }
        if (section.sh_flags(endian) & SHF_TLS).0 != 0 {
            findings.push("it has a TLS section".to_owned());
        }
    }
    findings.dedup();

    let mut starts = BTreeMap::new();
    for symbol in file.symbols() {
        // Functions of assembly may lack a type; local labels of the assembler are not in the table.
        if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown)
            && let Ok(name) = symbol.name()
            && !name.is_empty()
        {
            starts.entry(symbol.address()).or_insert_with(|| name.to_owned());
        }
    }
    let mut count = 0;
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let bytes = section.data()?;
        let begin = section.address();
        let end = begin + bytes.len() as u64;
        let mut bounds: Vec<(u64, &str)> =
            starts.range(begin..end).map(|(at, name)| (*at, name.as_str())).collect();
        if bounds.first().is_none_or(|(at, _)| *at > begin) {
            bounds.insert(0, (begin, "(before the first symbol)"));
        }
        for (index, (at, name)) in bounds.iter().enumerate() {
            let next = bounds.get(index + 1).map_or(end, |(next, _)| *next);
            let code = &bytes[(at - begin) as usize..(next - begin) as usize];
            let found = check_function(code, *at, &mut count);
            findings.extend(found.into_iter().map(|finding| format!("{name}: {finding}")));
        }
    }
    if starts.is_empty() || count == 0 { Err(Error::NoSymbols) } else { Ok((findings, count)) }
}

/// Offsets from the stack pointer at a function's entry, where known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    rsp: Option<i64>,
    rbp: Option<i64>,
}

/// Checks the code of one function, loaded at an address.
pub fn check_function(code: &[u8], address: u64, count: &mut usize) -> Vec<String> {
    let mut findings = Vec::new();
    let mut infos = InstructionInfoFactory::new();
    let mut formatter = IntelFormatter::new();
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut frame = Frame { rsp: Some(0), rbp: None };
    // The frame at the target of each forward branch, and the last one that any branch was taken with.
    let mut at_target: BTreeMap<u64, Frame> = BTreeMap::new();
    let mut at_branch = frame;
    let mut reachable = true;
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        *count += 1;
        match at_target.remove(&instruction.ip()) {
            Some(known) if !reachable => frame = known,
            // The target of a jump table, or of a branch from further down.
            None if !reachable => frame = at_branch,
            _ => (),
        }
        reachable = true;
        if let Some(what) = wrong_with(&instruction, frame) {
            let mut text = String::new();
            formatter.format(&instruction, &mut text);
            findings.push(format!("{:#x}: {text}: {what}", instruction.ip()));
        }
        step(&mut frame, &instruction, &mut infos);
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                at_branch = frame;
                at_target.entry(instruction.near_branch_target()).or_insert(frame);
                reachable = instruction.flow_control() == FlowControl::ConditionalBranch;
            }
            FlowControl::IndirectBranch => {
                at_branch = frame;
                reachable = false;
            }
            FlowControl::Return | FlowControl::Exception => reachable = false,
            _ => (),
        }
    }
    findings
}

fn wrong_with(instruction: &Instruction, frame: Frame) -> Option<&'static str> {
    if instruction.is_invalid() {
        return Some("not an instruction");
    }
    if instruction.encoding() != EncodingKind::Legacy {
        return Some("a vector extension wider than SSE");
    }
    let features = instruction.cpuid_features();
    let x87 = [
        CpuidFeature::FPU,
        CpuidFeature::FPU287,
        CpuidFeature::FPU387,
        CpuidFeature::MMX,
        CpuidFeature::CYRIX_FPU,
    ];
    // Bringing the x87 unit into its initial state, once per processor, is not using it.
    if features.iter().any(|feature| x87.contains(feature)) && instruction.code() != Code::Fninit {
        return Some("x87 or MMX");
    }
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    if memory && instruction.memory_segment() == Register::FS {
        return Some("memory through %fs");
    }
    if !memory || matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop) {
        return None;
    }
    let displacement = instruction.memory_displacement64() as i64;
    let direct = instruction.memory_index() == Register::None;
    match instruction.memory_base() {
        Register::RSP if direct && displacement < 0 => Some("below the stack pointer"),
        Register::RBP if direct => {
            let (rbp, rsp) = (frame.rbp?, frame.rsp?);
            (rbp + displacement < rsp).then_some("below the stack pointer, by the frame pointer")
        }
        _ => None,
    }
}

/// Follows what an instruction does to the stack and frame pointers.
fn step(frame: &mut Frame, instruction: &Instruction, infos: &mut InstructionInfoFactory) {
    let op = |n| instruction.op_register(n);
    let displacement = instruction.memory_displacement64() as i64;
    let plain = instruction.memory_index() == Register::None;
    match (instruction.mnemonic(), op(0)) {
        // What is called returns with the stack as it was.
        (Mnemonic::Call, _) => (),
        (Mnemonic::Mov, Register::RBP) if op(1) == Register::RSP => frame.rbp = frame.rsp,
        (Mnemonic::Mov, Register::RSP) if op(1) == Register::RBP => frame.rsp = frame.rbp,
        (Mnemonic::Lea, register @ (Register::RSP | Register::RBP)) => {
            let base = match instruction.memory_base() {
                Register::RSP if plain => frame.rsp,
                Register::RBP if plain => frame.rbp,
                _ => None,
            };
            let value = base.map(|base| base + displacement);
            if register == Register::RSP { frame.rsp = value } else { frame.rbp = value }
        }
        (Mnemonic::Sub, Register::RSP) if is_immediate(instruction) => {
            frame.rsp = frame.rsp.map(|rsp| rsp.wrapping_sub(instruction.immediate(1) as i64));
        }
        (Mnemonic::Add, Register::RSP) if is_immediate(instruction) => {
            frame.rsp = frame.rsp.map(|rsp| rsp.wrapping_add(instruction.immediate(1) as i64));
        }
        (Mnemonic::Leave, _) => {
            frame.rsp = frame.rbp.map(|rbp| rbp + 8);
            frame.rbp = None;
        }
        _ => {
            let stack = instruction.is_stack_instruction();
            for used in infos.info(instruction).used_registers() {
                let written = matches!(
                    used.access(),
                    OpAccess::Write
                        | OpAccess::CondWrite
                        | OpAccess::ReadWrite
                        | OpAccess::ReadCondWrite
                );
                match used.register().full_register() {
                    Register::RBP if written => frame.rbp = None,
                    Register::RSP if written && !stack => frame.rsp = None,
                    _ => (),
                }
            }
            if stack {
                frame.rsp =
                    frame.rsp.map(|rsp| rsp + i64::from(instruction.stack_pointer_increment()));
            }
        }
    }
}

fn is_immediate(instruction: &Instruction) -> bool {
    !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(code: &[u8]) -> Vec<String> {
        check_function(code, 0x1000, &mut 0)
    }

    fn flagged(code: &[u8], what: &str) {
        let found = findings(code);
        assert!(found.len() == 1 && found[0].contains(what), "{found:?}");
    }

    #[test]
    fn a_leaf_that_keeps_data_below_its_stack_pointer() {
        // mov [rsp-8], rdi; mov rax, [rsp-8]; ret
        assert_eq!(findings(b"\x48\x89\x7c\x24\xf8\x48\x8b\x44\x24\xf8\xc3").len(), 2);
        // push rbp; mov rbp, rsp; mov [rbp-8], rdi; pop rbp; ret
        flagged(b"\x55\x48\x89\xe5\x48\x89\x7d\xf8\x5d\xc3", "frame pointer");
    }

    #[test]
    fn a_frame_that_was_made_is_no_red_zone() {
        // push rbp; mov rbp, rsp; sub rsp, 16; mov [rbp-16], rdi; mov [rsp+8], rdi; add rsp, 16; pop rbp; ret
        let code = b"\x55\x48\x89\xe5\x48\x83\xec\x10\x48\x89\x7d\xf0\x48\x89\x7c\x24\x08\x48\x83\xc4\x10\x5d\xc3";
        assert!(findings(code).is_empty(), "{:?}", findings(code));
        // push rbp; mov rbp, rsp; push rbx; mov [rbp-8], rax; lea rsp, [rbp-8]; pop rbx; pop rbp; ret
        assert!(
            findings(b"\x55\x48\x89\xe5\x53\x48\x89\x45\xf8\x48\x8d\x65\xf8\x5b\x5d\xc3")
                .is_empty()
        );
    }

    #[test]
    fn an_early_return_does_not_confuse_what_follows_it() {
        // push rbp; mov rbp, rsp; sub rsp, 16; test edi, edi; jne +6; add rsp, 16; pop rbp; ret; mov [rbp-16], rdi; leave; ret
        let code = b"\x55\x48\x89\xe5\x48\x83\xec\x10\x85\xff\x75\x06\x48\x83\xc4\x10\x5d\xc3\x48\x89\x7d\xf0\xc9\xc3";
        assert!(findings(code).is_empty(), "{:?}", findings(code));
        // The same with an access below the 16 bytes: mov [rbp-24], rdi.
        let code = b"\x55\x48\x89\xe5\x48\x83\xec\x10\x85\xff\x75\x06\x48\x83\xc4\x10\x5d\xc3\x48\x89\x7d\xe8\xc9\xc3";
        flagged(code, "frame pointer");
    }

    #[test]
    fn the_red_zone_after_an_epilogue() {
        // sub rsp, 8; add rsp, 8; mov rax, [rsp-8]; ret
        flagged(
            b"\x48\x83\xec\x08\x48\x83\xc4\x08\x48\x8b\x44\x24\xf8\xc3",
            "below the stack pointer",
        );
    }

    #[test]
    fn wide_vectors() {
        flagged(b"\xc5\xfc\x28\xc1", "vector"); // vmovaps ymm0, ymm1
        flagged(b"\xc5\xf8\x28\xc1", "vector"); // vmovaps xmm0, xmm1
        flagged(b"\x62\xf1\x7c\x48\x28\xc1", "vector"); // vmovaps zmm0, zmm1
        assert!(findings(b"\x0f\x28\xc1").is_empty()); // movaps xmm0, xmm1
    }

    #[test]
    fn x87_and_mmx() {
        flagged(b"\xd9\xe8", "x87"); // fld1
        flagged(b"\x0f\x6f\xc1", "x87"); // movq mm0, mm1
        assert!(findings(b"\xdb\xe3").is_empty()); // fninit
        assert!(findings(b"\x0f\xae\x07").is_empty()); // fxsave [rdi]
        assert!(findings(b"\x0f\xae\x27").is_empty()); // xsave [rdi]
    }

    #[test]
    fn thread_local_memory() {
        flagged(b"\x64\x48\x8b\x04\x25\x00\x00\x00\x00", "%fs"); // mov rax, fs:[0]
        assert!(findings(b"\x65\x48\x8b\x04\x25\x00\x00\x00\x00").is_empty()); // mov rax, gs:[0]
        assert!(findings(b"\x8e\xe0").is_empty()); // mov fs, eax: the application's selector
    }

    #[test]
    fn a_switch_of_stacks_is_not_followed() {
        // mov rsp, rdi; push rbp; mov [rbp-64], rax; ret
        assert!(findings(b"\x48\x89\xfc\x55\x48\x89\x45\xc0\xc3").is_empty());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(check(b"nonsense").is_err());
    }
}
