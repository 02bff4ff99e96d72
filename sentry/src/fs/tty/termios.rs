//! A terminal's modes (termios(3), asm-generic/termbits.h).

use crate::errno::Errno;

bitflags::bitflags! {
    /// `c_iflag`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Input: u32 {
        /// Mark bytes with errors; 0377 is doubled.
        const PARMRK = 0o10;
        /// Only seven bits.
        const ISTRIP = 0o40;
        /// NL becomes CR.
        const INLCR = 0o100;
        /// CR is dropped.
        const IGNCR = 0o200;
        /// CR becomes NL.
        const ICRNL = 0o400;
        /// Upper case becomes lower.
        const IUCLC = 0o1000;
        /// START and STOP control output.
        const IXON = 0o2000;
        /// Any byte starts stopped output.
        const IXANY = 0o4000;
        /// Input is UTF-8: erasing takes whole characters.
        const IUTF8 = 0o40000;
        const _ = !0;
    }

    /// `c_oflag`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Output: u32 {
        /// Output is processed at all.
        const OPOST = 0o1;
        /// Lower case becomes upper.
        const OLCUC = 0o2;
        /// NL becomes CR NL.
        const ONLCR = 0o4;
        /// CR becomes NL.
        const OCRNL = 0o10;
        /// No CR in the first column.
        const ONOCR = 0o20;
        /// NL also returns to the first column.
        const ONLRET = 0o40;
        /// Tabs become blanks (TAB3; both bits).
        const XTABS = 0o14000;
        const _ = !0;
    }

    /// `c_lflag`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Local: u32 {
        /// INTR, QUIT and SUSP raise signals.
        const ISIG = 0o1;
        /// Input is by lines, which can be edited.
        const ICANON = 0o2;
        /// Input is echoed.
        const ECHO = 0o10;
        /// ERASE wipes the character out.
        const ECHOE = 0o20;
        /// KILL is followed by a new line.
        const ECHOK = 0o40;
        /// NL is echoed even without ECHO.
        const ECHONL = 0o100;
        /// Signals do not flush.
        const NOFLSH = 0o200;
        /// Writers in the background are stopped.
        const TOSTOP = 0o400;
        /// Control characters are echoed as `^X`.
        const ECHOCTL = 0o1000;
        /// KILL wipes the line out.
        const ECHOKE = 0o4000;
        /// WERASE, LNEXT, REPRINT and EOL2 work.
        const IEXTEN = 0o100000;
        const _ = !0;
    }
}

/// Places of the special characters in `c_cc`.
#[allow(missing_docs)] // termios(3) has them
pub mod cc {
    pub const INTR: usize = 0;
    pub const QUIT: usize = 1;
    pub const ERASE: usize = 2;
    pub const KILL: usize = 3;
    pub const EOF: usize = 4;
    pub const TIME: usize = 5;
    pub const MIN: usize = 6;
    pub const START: usize = 8;
    pub const STOP: usize = 9;
    pub const SUSP: usize = 10;
    pub const EOL: usize = 11;
    pub const REPRINT: usize = 12;
    pub const WERASE: usize = 14;
    pub const LNEXT: usize = 15;
    pub const EOL2: usize = 16;
}

/// How many special characters there are (NCCS).
const NCCS: usize = 19;
/// Bytes of the kernel's `struct termios`: four words, the discipline's number, `c_cc`.
pub const TERMIOS: usize = 36;
/// Bytes of `struct termios2`, which has the speeds too.
pub const TERMIOS2: usize = 44;

/// A terminal's modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Termios {
    /// How input is treated.
    pub input: Input,
    /// How output is treated.
    pub output: Output,
    /// The line's: nothing here depends on it.
    pub control: u32,
    /// Echo, editing, signals.
    pub local: Local,
    line: u8,
    cc: [u8; NCCS],
    speeds: [u32; 2],
}

impl Default for Termios {
    /// As Linux makes a new pseudo-terminal (tty_std_termios, drivers/tty/tty_io.c).
    fn default() -> Self {
        /// INIT_C_CC (linux/termios_internal.h).
        const CC: [u8; NCCS] =
            [3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0x0f, 0x17, 0x16, 0, 0, 0];
        Termios {
            input: Input::ICRNL | Input::IXON,
            output: Output::OPOST | Output::ONLCR,
            // B38400 | CS8 | CREAD
            control: 0o277,
            local: Local::ISIG
                | Local::ICANON
                | Local::ECHO
                | Local::ECHOE
                | Local::ECHOK
                | Local::ECHOCTL
                | Local::ECHOKE
                | Local::IEXTEN,
            line: 0,
            cc: CC,
            speeds: [38400; 2],
        }
    }
}

impl Termios {
    /// A special character, or VMIN or VTIME.
    pub fn cc(&self, which: usize) -> u8 {
        self.cc.get(which).copied().unwrap_or(0)
    }

    /// Whether `c` is this special character; NUL turns one off.
    pub fn is(&self, which: usize, c: u8) -> bool {
        c != 0 && self.cc(which) == c
    }

    /// Whether lines can be edited.
    pub fn canonical(&self) -> bool {
        self.local.contains(Local::ICANON)
    }

    /// As `struct termios2`, which begins with `struct termios`.
    pub fn to_bytes(self) -> [u8; TERMIOS2] {
        let mut out = [0; TERMIOS2];
        let words = [self.input.bits(), self.output.bits(), self.control, self.local.bits()];
        let bytes = words.iter().flat_map(|w| w.to_le_bytes());
        let bytes = bytes.chain([self.line]).chain(self.cc);
        let bytes = bytes.chain(self.speeds.iter().flat_map(|w| w.to_le_bytes()));
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = from;
        }
        out
    }

    /// From `struct termios`, or `struct termios2` where the speeds are there. `EINVAL` for another
    /// length.
    pub fn with_bytes(self, bytes: &[u8]) -> Result<Termios, Errno> {
        if bytes.len() != TERMIOS && bytes.len() != TERMIOS2 {
            return Err(Errno::EINVAL);
        }
        let word = |at: usize| {
            let word = bytes.get(at..at.saturating_add(4)).and_then(|w| w.try_into().ok());
            word.map(u32::from_le_bytes)
        };
        let mut new = Termios {
            input: Input::from_bits_retain(word(0).unwrap_or(0)),
            output: Output::from_bits_retain(word(4).unwrap_or(0)),
            control: word(8).unwrap_or(0),
            local: Local::from_bits_retain(word(12).unwrap_or(0)),
            ..self
        };
        for (to, from) in new.cc.iter_mut().zip(bytes.get(17..).unwrap_or(&[])) {
            *to = *from;
        }
        if bytes.len() == TERMIOS2 {
            new.speeds = [word(36).unwrap_or(0), word(40).unwrap_or(0)];
        }
        // A pseudo-terminal has eight bits, no parity, and always receives (pty_set_termios).
        new.control = new.control & !0o460 | 0o260;
        Ok(new)
    }
}
