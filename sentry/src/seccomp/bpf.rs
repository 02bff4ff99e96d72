//! Classic BPF as seccomp(2) uses it: checked once, when a program is set, as bpf_check_classic() of
//! net/core/filter.c and seccomp_check_filter() of kernel/seccomp.c check it; run for every call.
//!
//! A checked program ends: jumps go forward only, and the last instruction returns.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::notify::Listener;
use crate::errno::Errno;

/// The most instructions of a program (BPF_MAXINSNS).
pub const MAX_INSNS: usize = 4096;
/// Words of scratch memory (BPF_MEMWORDS).
const WORDS: usize = 16;
/// Bytes of `struct seccomp_data`.
const DATA: usize = 64;

// Instruction classes, sizes, modes and operations (linux/bpf_common.h).
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const ADD: u16 = 0x00;
const SUB: u16 = 0x10;
const MUL: u16 = 0x20;
const DIV: u16 = 0x30;
const OR: u16 = 0x40;
const AND: u16 = 0x50;
const LSH: u16 = 0x60;
const RSH: u16 = 0x70;
const NEG: u16 = 0x80;
const XOR: u16 = 0xa0;
const JA: u16 = 0x00;
const JEQ: u16 = 0x10;
const JGT: u16 = 0x20;
const JGE: u16 = 0x30;
const JSET: u16 = 0x40;
/// The operand is X, not the constant.
const X: u16 = 0x08;
const RET_A: u16 = RET | 0x10;
const TAX: u16 = MISC;
const TXA: u16 = MISC | 0x80;

/// `struct sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl Insn {
    /// From its 8 bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Insn {
        let [c0, c1, jt, jf, k @ ..] = bytes;
        Insn { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes(k) }
    }

    #[cfg(test)]
    fn new(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
        Insn { code, jt, jf, k }
    }
}

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// The number of the call.
    pub number: u32,
    /// AUDIT_ARCH_ of its ABI.
    pub arch: u32,
    /// Behind the instruction that makes it.
    pub ip: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Data {
    /// As `struct seccomp_data`.
    pub fn to_bytes(&self) -> [u8; DATA] {
        let mut bytes = [0; DATA];
        for (to, from) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.words()) {
            *to = from.to_le_bytes();
        }
        bytes
    }

    /// As the words that a program loads.
    fn words(&self) -> [u32; DATA / 4] {
        let mut words = [0; DATA / 4];
        let halves = |n: u64| [n as u32, (n >> 32) as u32];
        let all = [self.number, self.arch]
            .into_iter()
            .chain(halves(self.ip))
            .chain(self.args.into_iter().flat_map(halves));
        for (to, from) in words.iter_mut().zip(all) {
            *to = from;
        }
        words
    }
}

/// A checked program.
#[derive(Debug)]
pub struct Program(Vec<Insn>, Option<Arc<Listener>>);

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(listener) = &self.1 {
            listener.unused();
        }
    }
}

impl Program {
    /// Checks a program. `EINVAL` for what Linux would not take.
    pub fn new(insns: Vec<Insn>) -> Result<Program, Errno> {
        if insns.is_empty() || insns.len() > MAX_INSNS {
            return Err(Errno::EINVAL);
        }
        for (at, insn) in insns.iter().enumerate() {
            if !is_sound(*insn, insns.len().saturating_sub(at).saturating_sub(1)) {
                return Err(Errno::EINVAL);
            }
        }
        let ends = insns.last().is_some_and(|last| last.code == RET || last.code == RET_A);
        if !ends || !stores_before_loads(&insns) {
            return Err(Errno::EINVAL);
        }
        Ok(Program(insns, None))
    }

    /// Calls that it leaves to others go here.
    pub fn set_listener(&mut self, listener: Arc<Listener>) {
        self.1 = Some(listener);
    }

    /// Where the calls go that it leaves to others.
    pub fn listener(&self) -> Option<&Arc<Listener>> {
        self.1.as_ref()
    }

    /// Its instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none: never.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it says of a call whatever its arguments and place are; `None` where it looks at those, or does more than
    /// such a program of libseccomp's does, which may then be run.
    pub fn says_regardless(&self, number: u32, arch: u32) -> Option<u32> {
        let mut a = 0u32;
        let mut at: usize = 0;
        loop {
            let insn = self.0.get(at)?;
            let k = insn.k;
            at = at.saturating_add(1);
            let taken = match insn.code {
                RET => return Some(k),
                code if code == LD | ABS => {
                    a = match k {
                        0 => number,
                        4 => arch,
                        _ => return None,
                    };
                    continue;
                }
                code if code == ALU | AND => {
                    a &= k;
                    continue;
                }
                code if code == JMP | JA => {
                    at = at.saturating_add(k as usize);
                    continue;
                }
                code if code == JMP | JEQ => a == k,
                code if code == JMP | JGT => a > k,
                code if code == JMP | JGE => a >= k,
                code if code == JMP | JSET => a & k != 0,
                _ => return None,
            };
            at = at.saturating_add(usize::from(if taken { insn.jt } else { insn.jf }));
        }
    }

    /// What it says of a call.
    pub fn run(&self, data: &Data) -> u32 {
        let words = data.words();
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; WORDS];
        let mut at: usize = 0;
        while let Some(insn) = self.0.get(at) {
            let k = insn.k;
            at = at.saturating_add(1);
            let slot = k as usize;
            match insn.code {
                RET => return k,
                RET_A => return a,
                code if code == LD | ABS => a = words.get(slot / 4).copied().unwrap_or(0),
                code if code == LD | LEN => a = DATA as u32,
                code if code == LDX | LEN => x = DATA as u32,
                code if code == LD | IMM => a = k,
                code if code == LDX | IMM => x = k,
                code if code == LD | MEM => a = memory.get(slot).copied().unwrap_or(0),
                code if code == LDX | MEM => x = memory.get(slot).copied().unwrap_or(0),
                ST => set(&mut memory, slot, a),
                STX => set(&mut memory, slot, x),
                TAX => x = a,
                TXA => a = x,
                code if code & 7 == ALU => {
                    let operand = if code & X != 0 { x } else { k };
                    a = match code & 0xf0 {
                        ADD => a.wrapping_add(operand),
                        SUB => a.wrapping_sub(operand),
                        MUL => a.wrapping_mul(operand),
                        // Division by nothing ends the program, with the strictest answer.
                        DIV => match a.checked_div(operand) {
                            Some(quotient) => quotient,
                            None => return 0,
                        },
                        OR => a | operand,
                        AND => a & operand,
                        XOR => a ^ operand,
                        // As eBPF does, into which Linux translates it: by the lower five bits.
                        LSH => a.wrapping_shl(operand),
                        RSH => a.wrapping_shr(operand),
                        _ => a.wrapping_neg(),
                    };
                }
                code if code & 7 == JMP => {
                    let operand = if code & X != 0 { x } else { k };
                    let taken = match code & 0xf0 {
                        JA => {
                            at = at.saturating_add(slot);
                            continue;
                        }
                        JEQ => a == operand,
                        JGT => a > operand,
                        JGE => a >= operand,
                        _ => a & operand != 0,
                    };
                    at = at.saturating_add(usize::from(if taken { insn.jt } else { insn.jf }));
                }
                // No checked program has others.
                _ => return 0,
            }
        }
        0
    }
}

fn set(memory: &mut [u32; WORDS], slot: usize, value: u32) {
    if let Some(word) = memory.get_mut(slot) {
        *word = value;
    }
}

/// Whether an instruction may stand where `after` more follow it.
fn is_sound(insn: Insn, after: usize) -> bool {
    let k = insn.k as usize;
    match insn.code {
        RET | RET_A | TAX | TXA => true,
        code if [LD | LEN, LDX | LEN, LD | IMM, LDX | IMM].contains(&code) => true,
        code if code == LD | ABS => k < DATA && k.is_multiple_of(4),
        code if [LD | MEM, LDX | MEM, ST, STX].contains(&code) => k < WORDS,
        code if code == ALU | NEG => true,
        code if code & !(X | 0xf0) == ALU => match (code & 0xf0, code & X) {
            (DIV, 0) => k != 0,
            (LSH | RSH, 0) => k < 32,
            (ADD | SUB | MUL | DIV | OR | AND | XOR | LSH | RSH, _) => true,
            _ => false,
        },
        code if code == JMP | JA => k < after,
        code if code & !(X | 0xf0) == JMP && [JEQ, JGT, JGE, JSET].contains(&(code & 0xf0)) => {
            usize::from(insn.jt) < after && usize::from(insn.jf) < after
        }
        _ => false,
    }
}

/// Whether every load from scratch memory comes after a store to it on all ways there
/// (check_load_and_stores()).
fn stores_before_loads(insns: &[Insn]) -> bool {
    // What is stored on all ways to an instruction.
    let mut known = vec![u16::MAX; insns.len()];
    let mut valid: u16 = 0;
    for (at, insn) in insns.iter().enumerate() {
        valid &= known.get(at).copied().unwrap_or(0);
        let bit = 1u16.checked_shl(insn.k).unwrap_or(0);
        let mut meet = |steps: usize, valid: u16| {
            if let Some(to) = known.get_mut(at.saturating_add(steps).saturating_add(1)) {
                *to &= valid;
            }
        };
        match insn.code {
            ST | STX => valid |= bit,
            code if (code == LD | MEM || code == LDX | MEM) && valid & bit == 0 => return false,
            code if code == JMP | JA => {
                meet(insn.k as usize, valid);
                valid = u16::MAX;
            }
            code if code & 7 == JMP => {
                meet(insn.jt.into(), valid);
                meet(insn.jf.into(), valid);
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Data {
        Data {
            number: 7,
            arch: 0xc000_003e,
            ip: 0x1_2345_6789,
            args: [1, 2, 3, 4, 5, 0x6_0000_0007],
        }
    }

    fn run(insns: &[(u16, u8, u8, u32)]) -> Result<u32, Errno> {
        let insns = insns.iter().map(|&(code, jt, jf, k)| Insn::new(code, jt, jf, k)).collect();
        Ok(Program::new(insns)?.run(&data()))
    }

    #[test]
    fn loads_see_the_call() {
        for (offset, value) in
            [(0, 7), (4, 0xc000_003e), (8, 0x2345_6789), (12, 1), (56, 7), (60, 6)]
        {
            assert_eq!(run(&[(LD | ABS, 0, 0, offset), (RET_A, 0, 0, 0)]), Ok(value));
        }
        assert_eq!(run(&[(LD | LEN, 0, 0, 0), (RET_A, 0, 0, 0)]), Ok(64));
    }

    #[test]
    fn what_is_said_regardless_is_said_whatever_the_arguments() {
        // The architecture, then: 5 is allowed, 6 if an argument is 0, from 64 on some by a bit, others refused.
        let program = [
            (LD | ABS, 0, 0, 4),
            (JMP | JEQ, 1, 0, 0xc000_003e),
            (RET, 0, 0, 0),
            (LD | ABS, 0, 0, 0),
            (JMP | JEQ, 7, 0, 5),
            (JMP | JEQ, 0, 2, 6),
            (LD | ABS, 0, 0, 16),
            (JMP | JEQ, 4, 5, 0),
            (JMP | JGE, 0, 4, 64),
            (ALU | AND, 0, 0, 12),
            (JMP | JSET, 1, 0, 4),
            (JMP | JA, 0, 0, 1),
            (RET, 0, 0, 0x7fff_0000),
            (RET, 0, 0, 0x0005_0001),
        ];
        let insns = program.iter().map(|&(code, jt, jf, k)| Insn::new(code, jt, jf, k)).collect();
        let program = Program::new(insns).unwrap();
        for number in 0..200 {
            let said = program.says_regardless(number, 0xc000_003e);
            for first in [0, 1, 1 << 32] {
                let run = program.run(&Data { number, args: [first; 6], ..data() });
                assert!(said == Some(run) || number == 6 && said.is_none(), "{number}");
            }
            assert_eq!(program.says_regardless(number, 0x4000_0003), Some(0));
        }
        assert_eq!(program.says_regardless(5, 0xc000_003e), Some(0x7fff_0000));
        assert_eq!(program.says_regardless(68, 0xc000_003e), Some(0x7fff_0000));
        assert_eq!(program.says_regardless(72, 0xc000_003e), Some(0x0005_0001));
    }

    #[test]
    fn arithmetic_wraps_and_division_by_nothing_ends() {
        let binary = |op: u16, a: u32, x: u32| {
            run(&[(LD, 0, 0, a), (LDX, 0, 0, x), (ALU | op | X, 0, 0, 0), (RET_A, 0, 0, 0)])
                .unwrap()
        };
        assert_eq!(binary(ADD, u32::MAX, 2), 1);
        assert_eq!(binary(SUB, 1, 2), u32::MAX);
        assert_eq!(binary(MUL, 1 << 31, 2), 0);
        assert_eq!(binary(DIV, 7, 2), 3);
        assert_eq!(binary(DIV, 7, 0), 0);
        assert_eq!(binary(XOR, 6, 3), 5);
        assert_eq!(binary(LSH, 1, 33), 2);
        assert_eq!(binary(RSH, 4, 33), 2);
        assert_eq!(run(&[(LD, 0, 0, 1), (ALU | NEG, 0, 0, 0), (RET_A, 0, 0, 0)]), Ok(u32::MAX));
    }

    #[test]
    fn jumps_go_forward_and_stay_inside() {
        let jump = |code, jt, jf, k| {
            run(&[(LD, 0, 0, 5), (code, jt, jf, k), (RET, 0, 0, 1), (RET, 0, 0, 2)])
        };
        assert_eq!(jump(JMP | JEQ, 0, 1, 5), Ok(1));
        assert_eq!(jump(JMP | JGT, 0, 1, 5), Ok(2));
        assert_eq!(jump(JMP | JGE, 0, 1, 5), Ok(1));
        assert_eq!(jump(JMP | JSET, 0, 1, 2), Ok(2));
        assert_eq!(jump(JMP | JA, 0, 0, 1), Ok(2));
        assert_eq!(jump(JMP | JA, 0, 0, 2), Err(Errno::EINVAL));
        assert_eq!(jump(JMP | JA, 0, 0, u32::MAX), Err(Errno::EINVAL));
        assert_eq!(jump(JMP | JEQ, 2, 0, 5), Err(Errno::EINVAL));
    }

    #[test]
    fn what_linux_refuses_is_refused() {
        let bad: &[&[(u16, u8, u8, u32)]] = &[
            &[],
            // No return at the end.
            &[(LD, 0, 0, 1)],
            &[(RET, 0, 0, 1), (LD, 0, 0, 1)],
            // Loads beside the data, or of other sizes.
            &[(LD | ABS, 0, 0, 64), (RET, 0, 0, 0)],
            &[(LD | ABS, 0, 0, 2), (RET, 0, 0, 0)],
            &[(LD | ABS | 0x10, 0, 0, 0), (RET, 0, 0, 0)],
            &[(LD | 0x40, 0, 0, 0), (RET, 0, 0, 0)],
            // Constants that make no sense; MOD; memory that is not there or not written.
            &[(ALU | DIV, 0, 0, 0), (RET, 0, 0, 0)],
            &[(ALU | LSH, 0, 0, 32), (RET, 0, 0, 0)],
            &[(ALU | 0x90, 0, 0, 3), (RET, 0, 0, 0)],
            &[(ST, 0, 0, 16), (RET, 0, 0, 0)],
            &[(LD | MEM, 0, 0, 0), (RET, 0, 0, 0)],
            &[(JMP | JEQ, 0, 1, 0), (ST, 0, 0, 1), (LD | MEM, 0, 0, 1), (RET, 0, 0, 0)],
            &[(0xffff, 0, 0, 0), (RET, 0, 0, 0)],
        ];
        for insns in bad {
            assert_eq!(run(insns), Err(Errno::EINVAL), "{insns:?}");
        }
        assert_eq!(run(&[(ST, 0, 0, 1), (LD | MEM, 0, 0, 1), (RET_A, 0, 0, 0)]), Ok(0));
        let longest = vec![Insn::new(RET, 0, 0, 0); MAX_INSNS];
        assert!(Program::new(longest.clone()).is_ok());
        let longer = [longest, vec![Insn::new(RET, 0, 0, 0)]].concat();
        assert!(Program::new(longer).is_err());
    }

    /// Random programs, most of whose instructions are those that there are.
    fn random_program(next: &mut impl FnMut() -> u64) -> Vec<Insn> {
        let known = [
            LD | ABS,
            LD | IMM,
            LD | MEM,
            LD | LEN,
            LDX | IMM,
            LDX | MEM,
            LDX | LEN,
            ST,
            STX,
            ALU | ADD,
            ALU | SUB | X,
            ALU | DIV,
            ALU | LSH,
            ALU | RSH | X,
            ALU | NEG,
            JMP | JA,
            JMP | JEQ,
            JMP | JGT | X,
            JMP | JGE,
            JMP | JSET,
            RET,
            RET_A,
            TAX,
            TXA,
        ];
        let len = next() % 8 + 1;
        let mut insns: Vec<_> = (0..len)
            .map(|_| {
                let code = match next() % 16 {
                    0 => (next() % 256) as u16,
                    1 => next() as u16,
                    _ => known[(next() % known.len() as u64) as usize],
                };
                let k = match next() % 16 {
                    0 => next() as u32,
                    1 => u32::MAX - (next() % 4) as u32,
                    // Words of the data and of memory, shifts, and jumps to somewhere near.
                    2..=6 => (next() % 20 * 4) as u32,
                    _ => (next() % 4) as u32,
                };
                Insn::new(code, (next() % 3) as u8, (next() % 3) as u8, k)
            })
            .collect();
        if !next().is_multiple_of(16) {
            insns.push(Insn::new([RET, RET_A][(next() % 2) as usize], 0, 0, 0));
        }
        insns
    }

    /// Whether the host's kernel takes a program, behind an instruction that lets every call through: the checks do not
    /// look whether anything leads behind it.
    fn linux_takes(insns: &[Insn]) -> bool {
        let all = core::iter::once(Insn::new(RET, 0, 0, 0x7fff_0000)).chain(insns.iter().copied());
        let program: Vec<_> = all
            .map(|Insn { code, jt, jf, k }| seccompiler::sock_filter { code, jt, jf, k })
            .collect();
        match seccompiler::apply_filter(&program) {
            Ok(()) => true,
            Err(seccompiler::Error::Seccomp(e)) if e.raw_os_error() == Some(22) => false,
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn linux_takes_the_same_programs() {
        let mut seed = 3u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let mut taken = 0;
        // Filters are a thread's, and all that it has may have 32768 instructions together.
        for _ in 0..50 {
            let programs: Vec<_> = (0..200).map(|_| random_program(&mut next)).collect();
            let answers = std::thread::spawn(move || {
                programs.into_iter().map(|insns| (linux_takes(&insns), insns)).collect::<Vec<_>>()
            });
            for (linux, insns) in answers.join().unwrap() {
                let program = Program::new(insns.clone());
                assert_eq!(program.is_ok(), linux, "{insns:?}");
                if let Ok(program) = program {
                    program.run(&data());
                    taken += 1;
                }
            }
        }
        assert!(taken > 1000 && taken < 9000, "{taken}");
    }

    #[test]
    fn no_program_that_is_taken_panics_or_hangs() {
        let mut seed = 1u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let mut taken = 0;
        for _ in 0..20_000 {
            let len = next() % 12 + 1;
            let mut insns: Vec<_> = (0..len)
                .map(|_| {
                    let code = (next() % 256) as u16;
                    let small = next() % 3 == 0;
                    let k = if small { next() as u32 } else { (next() % 20) as u32 };
                    Insn::new(code, (next() % 4) as u8, (next() % 4) as u8, k)
                })
                .collect();
            insns.push(Insn::new(RET_A, 0, 0, 0));
            if let Ok(program) = Program::new(insns) {
                program.run(&data());
                taken += 1;
            }
        }
        assert!(taken > 10, "{taken}");
    }
}
