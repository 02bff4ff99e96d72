//! A container's own system call filter, `linux.seccomp`, as the program that the sentry runs for each of its calls:
//! classic BPF, as seccomp(2) takes it.
//!
//! What the words mean is what they mean to runc, which has libseccomp translate them: rules of a call are alternatives,
//! conditions of a rule hold together (but for those on one argument, which are alternatives too), a rule without
//! conditions covers those with, and rules that say what the default says are nothing. Names that this architecture does
//! not have are passed over. As libseccomp's does, the program knows calls up to a number only: where the default is to
//! refuse, what is newer than all that the profile names is not there (ENOSYS), so that programs go on without it.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use sentry::seccomp::action;
use sentry::syscall::CALLS;

use super::Invalid;

/// Actions, for `features`.
pub const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
/// Operators, for `features`.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// AUDIT_ARCH_X86_64, the one architecture that containers have.
const ARCH: u32 = 0xc000_003e;
/// Calls of the x32 ABI have this bit (__X32_SYSCALL_BIT).
const X32: u32 = 0x4000_0000;
/// The most instructions of a program (BPF_MAXINSNS).
const MAX: usize = 4096;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The highest error number (MAX_ERRNO).
const MAX_ERRNO: u32 = 4095;

// Instructions (linux/filter.h): words of `struct seccomp_data`, a constant as the operand.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where the number of the call, its architecture and its arguments are in there.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;

/// The program, as bytes of `struct sock_filter`s.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<u8>, Invalid> {
    let fail = |field: &str, why: String| Invalid::new(format!("linux.seccomp.{field}"), why);
    if let Some(path) = seccomp.listener_path() {
        let why = format!("{}: a supervisor on the host is not supported", path.display());
        return Err(fail("listenerPath", why));
    }
    let default = answer(seccomp.default_action(), seccomp.default_errno_ret())
        .map_err(|why| fail("defaultAction", why))?;
    let mut calls: Vec<Rules> = vec![Rules::Default; names_end() as usize];
    let mut newest = 0;
    for (index, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
        let fail = |why| fail(&format!("syscalls[{index}]"), why);
        let answer = answer(syscall.action(), syscall.errno_ret()).map_err(fail)?;
        let ways = ways(syscall).map_err(fail)?;
        let known = syscall.names().iter().filter_map(|name| number(name));
        for number in known {
            newest = newest.max(number);
            if answer != default
                && let Some(rules) = calls.get_mut(number as usize)
            {
                let name = || format!("{}: two actions for one condition", name_of(number));
                rules.add(&ways, answer).map_err(|Conflict| fail(name()))?;
            }
        }
    }
    let architectures = seccomp.architectures().iter().flatten();
    let listed = |wanted: &[Arch]| architectures.clone().any(|arch| wanted.contains(arch));
    let native = listed(&[Arch::ScmpArchX86_64, Arch::ScmpArchNative]);
    // A tracer is to know calls that are new; so is who is allowed all, or told of all.
    let strict = ![action::ALLOW, action::LOG, action::TRACE].contains(&(default & action::MASK));
    let end = (strict && native && newest != 0).then_some(newest);
    let program = program(&calls, default, end, listed(&[Arch::ScmpArchX32]));
    match program.len() <= MAX {
        true => Ok(program.iter().flat_map(|insn| insn.bytes()).collect()),
        false => Err(fail("syscalls", format!("more than {MAX} instructions as a program"))),
    }
}

/// What a filter returns for an action.
fn answer(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, String> {
    let data = || match errno.unwrap_or(EPERM) {
        errno if errno <= MAX_ERRNO => Ok(errno),
        errno => Err(format!("{errno} is no error number")),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            action::KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => action::KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => action::TRAP,
        LinuxSeccompAction::ScmpActErrno => action::ERRNO | data()?,
        LinuxSeccompAction::ScmpActTrace => action::TRACE | data()?,
        LinuxSeccompAction::ScmpActLog => action::LOG,
        LinuxSeccompAction::ScmpActAllow => action::ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err("SCMP_ACT_NOTIFY: a supervisor on the host is not supported".into());
        }
    })
}

/// The number of a call by its name, where this architecture has it.
fn number(name: &str) -> Option<u32> {
    CALLS.iter().find(|call| call.name == name).map(|call| call.number.into())
}

fn name_of(number: u32) -> &'static str {
    CALLS.iter().find(|call| u32::from(call.number) == number).map_or("", |call| call.name)
}

/// Past all numbers that have names.
fn names_end() -> u32 {
    CALLS.last().map_or(0, |call| u32::from(call.number).saturating_add(1))
}

/// What an argument is compared with. The orders are those in which libseccomp puts rules that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Condition {
    index: u32,
    test: Test,
    mask: u64,
    value: u64,
    /// Holds where the comparison does not.
    not: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Equal,
    AtLeast,
    Greater,
    Masked,
}

/// Conditions that must hold together.
type Way = Vec<Condition>;

/// The ways in which a rule applies; none: always.
fn ways(syscall: &LinuxSyscall) -> Result<Vec<Way>, String> {
    let args = syscall.args().as_deref().unwrap_or_default();
    let mut way: Way = args.iter().map(condition).collect::<Result<_, _>>()?;
    way.sort_unstable();
    if way.windows(2).any(|two| two[0].index == two[1].index) {
        return Ok(way.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(if way.is_empty() { Vec::new() } else { vec![way] })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, String> {
    use LinuxSeccompOperator as Op;
    let index = match u32::try_from(arg.index()) {
        Ok(index @ 0..6) => index,
        // As libseccomp says it.
        _ => return Err(format!("syscalls only have up to 6 arguments ({} given)", arg.index())),
    };
    let (test, not) = match arg.op() {
        Op::ScmpCmpEq => (Test::Equal, false),
        Op::ScmpCmpNe => (Test::Equal, true),
        Op::ScmpCmpGe => (Test::AtLeast, false),
        Op::ScmpCmpLt => (Test::AtLeast, true),
        Op::ScmpCmpGt => (Test::Greater, false),
        Op::ScmpCmpLe => (Test::Greater, true),
        Op::ScmpCmpMaskedEq => {
            let (mask, value) = (arg.value(), arg.value_two().unwrap_or(0));
            return Ok(Condition {
                index,
                test: Test::Masked,
                mask,
                value: value & mask,
                not: false,
            });
        }
    };
    Ok(Condition { index, test, mask: u64::MAX, value: arg.value(), not })
}

/// What is to become of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rules {
    /// What becomes of others.
    Default,
    /// Always this.
    Always(u32),
    /// The first way that applies; else the default.
    Ways(Vec<(Way, u32)>),
}

/// The same conditions with another answer.
struct Conflict;

impl Rules {
    fn add(&mut self, ways: &[Way], answer: u32) -> Result<(), Conflict> {
        if matches!(self, Rules::Always(_)) {
            return Ok(());
        }
        if ways.is_empty() {
            *self = Rules::Always(answer);
            return Ok(());
        }
        let mut all = match self {
            Rules::Ways(all) => std::mem::take(all),
            Rules::Default | Rules::Always(_) => Vec::new(),
        };
        for way in ways {
            match all.iter().find(|(other, _)| other == way) {
                Some((_, other)) if *other != answer => return Err(Conflict),
                Some(_) => {}
                None => all.push((way.clone(), answer)),
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        *self = Rules::Ways(all);
        Ok(())
    }
}

/// `struct sock_filter`.
#[derive(Clone, Copy)]
struct Insn(u16, u8, u8, u32);

impl Insn {
    fn bytes(self) -> [u8; 8] {
        let Insn(code, yes, no, k) = self;
        let ([c0, c1], [k0, k1, k2, k3]) = (code.to_le_bytes(), k.to_le_bytes());
        [c0, c1, yes, no, k0, k1, k2, k3]
    }
}

/// `end`: the last number that is known, where others are not there; `x32`: of that ABI too.
fn program(calls: &[Rules], default: u32, end: Option<u32>, x32: bool) -> Vec<Insn> {
    let mut insns = vec![
        Insn(LOAD, 0, 0, ARCH_AT),
        Insn(IF_EQUAL, 1, 0, ARCH),
        Insn(RETURN, 0, 0, action::KILL_THREAD),
        Insn(LOAD, 0, 0, NUMBER_AT),
    ];
    // Stretches of numbers that fare alike, from the first of each.
    let mut stretches: Vec<(u32, &Rules)> = Vec::new();
    let mut begin = |number: u32, rules| {
        if stretches.last().is_none_or(|(_, last)| *last != rules) {
            stretches.push((number, rules));
        }
    };
    let known = end.map_or(calls.len(), |end| (end as usize).saturating_add(1));
    for (number, rules) in (0..).zip(calls.iter().take(known)) {
        begin(number, rules);
    }
    let unknown = Rules::Always(action::ERRNO | ENOSYS);
    match end {
        Some(end) => {
            begin(end.saturating_add(1), &unknown);
            if !x32 {
                begin(X32, &Rules::Default);
            }
        }
        None => begin(calls.len() as u32, &Rules::Default),
    }
    insns.extend(search(&stretches, default));
    insns
}

/// Finds the stretch that the number, which is loaded, lies in.
fn search(stretches: &[(u32, &Rules)], default: u32) -> Vec<Insn> {
    let (low, high) = stretches.split_at(stretches.len() / 2);
    let Some((first, rules)) = high.first() else { return one(&Rules::Default, default) };
    if low.is_empty() {
        return one(rules, default);
    }
    let (low, high) = (search(low, default), search(high, default));
    let mut insns = match u8::try_from(low.len()) {
        Ok(skip) => vec![Insn(IF_AT_LEAST, skip, 0, *first)],
        Err(_) => vec![Insn(IF_AT_LEAST, 0, 1, *first), Insn(JUMP, 0, 0, low.len() as u32)],
    };
    insns.extend(low);
    insns.extend(high);
    insns
}

fn one(rules: &Rules, default: u32) -> Vec<Insn> {
    let ways: &[(Way, u32)] = match rules {
        Rules::Default => &[],
        Rules::Always(answer) => return vec![Insn(RETURN, 0, 0, *answer)],
        Rules::Ways(ways) => ways,
    };
    let mut insns = Vec::new();
    for (way, answer) in ways {
        let mut all = vec![Insn(RETURN, 0, 0, *answer)];
        for condition in way.iter().rev() {
            // Past what follows: at most 6 conditions of 6 instructions.
            let mut test = test(*condition, all.len() as u8);
            test.append(&mut all);
            all = test;
        }
        insns.append(&mut all);
    }
    insns.push(Insn(RETURN, 0, 0, default));
    insns
}

/// Goes on behind itself where the condition holds, else past `rest` more.
fn test(condition: Condition, rest: u8) -> Vec<Insn> {
    let Condition { index, test, mask, value, not } = condition;
    let at = ARGS_AT.saturating_add(index.saturating_mul(8));
    let halves = |n: u64| (n as u32, (n >> 32) as u32);
    let ((mask_low, mask_high), (low, high)) = (halves(mask), halves(value));
    let (yes, no) = if not { (rest, 0) } else { (0, rest) };
    let mut tail = vec![Insn(LOAD, 0, 0, at)];
    if mask_low != u32::MAX {
        tail.push(Insn(AND, 0, 0, mask_low));
    }
    let code = match test {
        Test::Equal | Test::Masked => IF_EQUAL,
        Test::AtLeast => IF_AT_LEAST,
        Test::Greater => IF_GREATER,
    };
    tail.push(Insn(code, yes, no, low));
    let behind = tail.len() as u8;
    let mut insns = vec![Insn(LOAD, 0, 0, at.saturating_add(4))];
    if mask_high != u32::MAX {
        insns.push(Insn(AND, 0, 0, mask_high));
    }
    if let Test::AtLeast | Test::Greater = test {
        insns.push(Insn(IF_GREATER, behind.saturating_add(1).saturating_add(yes), 0, high));
    }
    insns.push(Insn(IF_EQUAL, 0, behind.saturating_add(no), high));
    insns.extend(tail);
    insns
}

#[cfg(test)]
mod tests {
    use sentry::seccomp::bpf::{Data, Insn, Program};
    use serde_json::{Value, json};

    use super::*;

    const REFUSED: u32 = action::ERRNO | EPERM;

    fn compiled(profile: Value) -> Result<Program, String> {
        let bytes =
            compile(&serde_json::from_value(profile).unwrap()).map_err(|e| e.to_string())?;
        let insns = bytes.as_chunks::<8>().0.iter().map(|b| Insn::from_bytes(*b)).collect();
        Ok(Program::new(insns).unwrap())
    }

    fn says(program: &Program, number: u32, args: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        program.run(&Data { number, arch: ARCH, ip: 0, args: all })
    }

    /// What a rule that refuses umask(2) does to these arguments, all else being allowed.
    fn refused(args: Value, values: &[u64]) -> Vec<bool> {
        let program = compiled(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["umask"], "action": "SCMP_ACT_ERRNO", "args": args }],
        }))
        .unwrap();
        let one = |value: &u64| match says(&program, 95, &[*value]) {
            REFUSED => true,
            action::ALLOW => false,
            other => panic!("{other:#x}"),
        };
        values.iter().map(one).collect()
    }

    #[test]
    fn every_comparison_is_of_64_bits() {
        const V: u64 = 0x1_0000_0005;
        let values =
            [0, 5, 6, V - 1, V, V + 1, 0x2_0000_0000, 0x2_0000_0005, 0x0_ffff_ffff, u64::MAX];
        type Holds = fn(u64) -> bool;
        let cases: [(&str, Holds); 6] = [
            ("NE", |n| n != V),
            ("LT", |n| n < V),
            ("LE", |n| n <= V),
            ("EQ", |n| n == V),
            ("GE", |n| n >= V),
            ("GT", |n| n > V),
        ];
        for (op, holds) in cases {
            let args = json!([{ "index": 0, "value": V, "op": format!("SCMP_CMP_{op}") }]);
            assert_eq!(refused(args, &values), values.map(holds), "{op}");
        }
        const MASK: u64 = 0xf0_0000_00f0;
        let args = json!([{ "index": 0, "value": MASK, "valueTwo": 0x10_0000_001fu64, "op": "SCMP_CMP_MASKED_EQ" }]);
        let values = [0, 0x10, 0x10_0000_0010, 0x10_0000_001f, 0x1f_ffff_ff1f, 0x20_0000_0010];
        assert_eq!(refused(args, &values), values.map(|n| n & MASK == 0x10_0000_0010));
    }

    #[test]
    fn conditions_hold_together_and_rules_each_for_itself() {
        let program = compiled(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [
                    { "index": 1, "value": 0, "op": "SCMP_CMP_EQ" },
                    { "index": 0, "value": 3, "op": "SCMP_CMP_GT" },
                ] },
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 8, "args": [
                    { "index": 1, "value": 5, "op": "SCMP_CMP_EQ" },
                ] },
                // Of one argument: either.
                { "names": ["umask"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
                    { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" },
                    { "index": 0, "value": 2, "op": "SCMP_CMP_EQ" },
                ] },
            ],
        }))
        .unwrap();
        for (args, said) in [
            ([4, 0], action::ERRNO | 7),
            ([3, 0], action::ALLOW),
            ([9, 5], action::ERRNO | 8),
            ([9, 6], action::ALLOW),
        ] {
            assert_eq!(says(&program, 62, &args), said, "{args:?}");
        }
        let umask = |n| says(&program, 95, &[n]);
        assert_eq!(
            [umask(0), umask(1), umask(2)],
            [action::ALLOW, action::KILL_PROCESS, action::KILL_PROCESS]
        );
    }

    #[test]
    fn rules_without_conditions_cover_those_with() {
        let with = json!({ "names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
            "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }] });
        let without = json!({ "names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 8 });
        let other = json!({ "names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9,
            "args": [{ "index": 0, "value": 5, "op": "SCMP_CMP_LT" }] });
        let said = |rules: &[&Value]| {
            let program =
                compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules })).unwrap();
            [0, 1].map(|arg| says(&program, 95, &[arg]) & 0xffff)
        };
        assert_eq!(said(&[&with, &without]), [8, 8]);
        assert_eq!(said(&[&without, &with]), [8, 8]);
        assert_eq!(said(&[&other, &with]), [7, 9]);
        assert_eq!(said(&[&with, &other]), [7, 9]);
    }

    #[test]
    fn what_is_newer_than_the_profile_is_not_there() {
        let profile = |default: &str, architectures: Value| {
            compiled(json!({
                "defaultAction": default,
                "architectures": architectures,
                "syscalls": [
                    { "names": ["read", "nosuchcall", "openat2", "mknod"], "action": "SCMP_ACT_ALLOW" },
                    { "names": ["acct"], "action": "SCMP_ACT_ERRNO" },
                ],
            }))
            .unwrap()
        };
        let said = |program: &Program| {
            [0, 1, 133, 163, 437, 438, 462, 463, 1 << 20, X32 | 1, u32::MAX]
                .map(|number| says(program, number, &[]))
        };
        let missing = action::ERRNO | ENOSYS;
        let known = [action::ALLOW, REFUSED, action::ALLOW, REFUSED, action::ALLOW];
        let all = |rest: [u32; 6]| [known.as_slice(), &rest].concat();
        let (yes, no) = (missing, REFUSED);
        let native = profile("SCMP_ACT_ERRNO", json!(["SCMP_ARCH_X86_64"]));
        assert_eq!(said(&native).to_vec(), all([yes, yes, yes, yes, no, no]));
        let docker = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
        assert_eq!(said(&profile("SCMP_ACT_ERRNO", docker)).to_vec(), all([yes; 6]));
        assert_eq!(said(&profile("SCMP_ACT_ERRNO", json!([]))).to_vec(), all([no; 6]));
        let lax = profile("SCMP_ACT_LOG", json!(["SCMP_ARCH_X86_64"]));
        assert_eq!(says(&lax, 462, &[]), action::LOG);
        assert_eq!(says(&lax, 163, &[]), REFUSED);
        let other = native.run(&Data { number: 0, arch: 0x4000_0003, ip: 0, args: [0; 6] });
        assert_eq!(other, action::KILL_THREAD);
    }

    #[test]
    fn every_call_is_found_however_many_rules_there_are() {
        // Every other name, each with a number of its own.
        let rules: Vec<Value> = CALLS
            .iter()
            .step_by(2)
            .enumerate()
            .map(|(n, call)| {
                json!({ "names": [call.name], "action": "SCMP_ACT_ERRNO", "errnoRet": n + 1,
                    "args": [{ "index": n % 6, "value": n, "op": "SCMP_CMP_EQ" }] })
            })
            .collect();
        let program =
            compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules })).unwrap();
        for (n, call) in CALLS.iter().enumerate() {
            let args = [n as u64 / 2; 6];
            let expected =
                if n % 2 == 0 { action::ERRNO | (n as u32 / 2 + 1) } else { action::ALLOW };
            assert_eq!(says(&program, call.number.into(), &args), expected, "{}", call.name);
            assert_eq!(says(&program, call.number.into(), &[1 << 40; 6]), action::ALLOW);
        }
    }

    #[test]
    fn what_cannot_be_done_is_said_by_name() {
        let umask = |rest: Value| {
            let mut rule = json!({ "names": ["umask"], "action": "SCMP_ACT_ERRNO" });
            rule.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            rule
        };
        let condition =
            |index: u32| json!({ "args": [{ "index": index, "value": 0, "op": "SCMP_CMP_EQ" }] });
        let mut twice = condition(0);
        twice["errnoRet"] = json!(5);
        let many: Vec<Value> = (0..2000)
            .map(|n| umask(json!({ "args": [{ "index": 0, "value": n, "op": "SCMP_CMP_EQ" }] })))
            .collect();
        for (rest, expected) in [
            (json!({ "listenerPath": "/run/x" }), "linux.seccomp.listenerPath: /run/x: a superv"),
            (
                json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
                "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY",
            ),
            (
                json!({ "syscalls": [umask(json!({ "action": "SCMP_ACT_NOTIFY" }))] }),
                "linux.seccomp.syscalls[0]: SCMP_ACT_NOTIFY",
            ),
            (
                json!({ "syscalls": [umask(condition(6))] }),
                "linux.seccomp.syscalls[0]: syscalls only have up to 6",
            ),
            (
                json!({ "syscalls": [umask(condition(0)), umask(twice)] }),
                "linux.seccomp.syscalls[1]: umask: two actions",
            ),
            (
                json!({ "syscalls": [umask(json!({ "errnoRet": 5000 }))] }),
                "linux.seccomp.syscalls[0]: 5000 is no",
            ),
            (json!({ "syscalls": many }), "linux.seccomp.syscalls: more than 4096"),
        ] {
            let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
            profile.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            let error = compiled(profile).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
