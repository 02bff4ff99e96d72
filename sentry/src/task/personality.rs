//! What personality(2) keeps (linux/personality.h).

/// The execution domain's bits.
pub const PER_MASK: u32 = 0xff;
/// The domain whose machine is a 32-bit one.
pub const PER_LINUX32: u32 = 8;
/// uname(2) tells a release of 2.6.
pub const UNAME26: u32 = 0x2_0000;
/// Programs are where they would be without chance.
pub const ADDR_NO_RANDOMIZE: u32 = 0x4_0000;
/// What can be read can be executed: it ends with a program that knows better, as all here do.
pub const READ_IMPLIES_EXEC: u32 = 0x40_0000;
/// What a program that gains rights does not inherit (PER_CLEAR_ON_SETID): beside these, a page at 0 and the old layout.
const CLEARED: u32 = READ_IMPLIES_EXEC | ADDR_NO_RANDOMIZE | 0x10_0000 | 0x20_0000;

/// What is left of it after exec; `secure`: the program gains rights.
pub fn after_exec(old: u32, secure: bool) -> u32 {
    old & !if secure { CLEARED } else { READ_IMPLIES_EXEC }
}
