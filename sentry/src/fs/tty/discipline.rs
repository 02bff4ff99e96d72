//! The line discipline (N_TTY of Linux): what becomes of bytes on their way in and out of a terminal.
//!
//! It is a plain function over bytes: no locks, no waiting, no signals sent. What must happen besides
//! is in its results.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::termios::{Input, Local, Output, Termios, cc};
use crate::signal::Signal;

/// Bytes that can wait for readers (N_TTY_BUF_SIZE).
const ROOM: usize = 4096;

/// What input has caused.
#[derive(Default, Debug)]
pub struct Effects {
    /// To be sent to whoever types.
    pub echo: Vec<u8>,
    /// For the foreground process group, each with whether output that waits is thrown away.
    pub signals: Vec<(Signal, bool)>,
}

/// A terminal's line discipline.
#[derive(Default, Debug)]
pub struct Discipline {
    termios: Termios,
    /// What can be read; in canonical mode, whole lines.
    ready: VecDeque<u8>,
    /// How many bytes of `ready` each line has.
    lines: VecDeque<usize>,
    /// The line that is being typed.
    line: Vec<u8>,
    /// The next byte means itself.
    literal: bool,
    /// Where the cursor is, and where it was when the line began.
    column: usize,
    line_column: usize,
    /// STOP has been typed.
    stopped: bool,
}

/// How much ERASE, WERASE and KILL erase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

/// As Linux's ctype has it, which is Latin-1's.
fn is_control(c: u8) -> bool {
    c < 0x20 || c == 0x7f
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c >= 0xc0 && c != 0xd7 && c != 0xf7
}

fn to_lower(c: u8) -> u8 {
    match c {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => c | 0x20,
        _ => c,
    }
}

fn to_upper(c: u8) -> u8 {
    match c {
        b'a'..=b'z' | 0xdf..=0xf6 | 0xf8..=0xff => c & !0x20,
        _ => c,
    }
}

impl Discipline {
    /// The modes.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Sets the modes.
    pub fn set_termios(&mut self, new: Termios) {
        let old = core::mem::replace(&mut self.termios, new);
        if old.canonical() != new.canonical() {
            // What is there is one line, or no line at all.
            self.lines.clear();
            self.ready.extend(self.line.drain(..));
            if new.canonical() && !self.ready.is_empty() {
                self.lines.push_back(self.ready.len());
            }
            self.literal = false;
        }
        if old.input.contains(Input::IXON) && !new.input.contains(Input::IXON) {
            self.stopped = false;
        }
    }

    /// Whether output is stopped.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Stops output, or lets it go on (tcflow(3)).
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// How many more bytes of input there is room for. Where a line is too long for any room, its
    /// end may still come.
    pub fn room(&self) -> usize {
        let used = self.ready.len().saturating_add(self.line.len());
        let room = ROOM.saturating_sub(1).saturating_sub(used);
        if room == 0 && self.termios.canonical() && self.lines.is_empty() { 1 } else { room }
    }

    /// How many bytes a read would give, of which `wanted` are wanted; `None`: none, it has to wait.
    /// Without canonical mode, `least` is what it waits for.
    pub fn available(&self, wanted: usize, least: usize) -> Option<usize> {
        if self.termios.canonical() {
            return self.lines.front().map(|n| wanted.min(*n));
        }
        let n = self.ready.len();
        (n >= least.min(wanted).min(ROOM - 1)).then_some(n.min(wanted))
    }

    /// Bytes that can be read (FIONREAD).
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// Takes what [`available`](Self::available) has promised.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        let n = match (self.termios.canonical(), self.lines.front_mut()) {
            (false, _) => self.ready.len().min(buf.len()),
            (true, None) => 0,
            (true, Some(line)) => {
                let n = (*line).min(buf.len());
                *line = line.saturating_sub(n);
                n
            }
        };
        if self.termios.canonical() && self.lines.front() == Some(&0) {
            self.lines.pop_front();
        }
        for (to, from) in buf.iter_mut().zip(self.ready.drain(..n)) {
            *to = from;
        }
        n
    }

    /// Throws input away.
    pub fn flush(&mut self) {
        self.ready.clear();
        self.lines.clear();
        self.line.clear();
        self.literal = false;
    }

    /// Bytes that were typed. The caller minds [`room`](Self::room).
    pub fn input(&mut self, bytes: &[u8], effects: &mut Effects) {
        for c in bytes {
            self.receive(*c, effects);
        }
    }

    fn receive(&mut self, c: u8, effects: &mut Effects) {
        let (input, local) = (self.termios.input, self.termios.local);
        let mut c = c;
        if input.contains(Input::ISTRIP) {
            c &= 0x7f;
        }
        if input.contains(Input::IUCLC) && local.contains(Local::IEXTEN) {
            c = to_lower(c);
        }
        // A line without an end keeps its last place for whatever comes last.
        if self.termios.canonical() && self.lines.is_empty() && self.line.len() >= ROOM {
            self.line.pop();
        }
        if core::mem::take(&mut self.literal) {
            self.plain(c, effects);
            return;
        }
        if input.contains(Input::IXON) {
            if self.termios.is(cc::START, c) {
                self.stopped = false;
                return;
            }
            if self.termios.is(cc::STOP, c) {
                self.stopped = true;
                return;
            }
        }
        if local.contains(Local::ISIG)
            && let Some(signal) = self.signal_of(c)
        {
            let flush = !local.contains(Local::NOFLSH);
            if flush {
                self.flush();
                effects.echo.clear();
            }
            effects.signals.push((signal, flush));
            if input.contains(Input::IXON) {
                self.stopped = false;
            }
            if local.contains(Local::ECHO) {
                self.echo(c, &mut effects.echo);
            }
            return;
        }
        if input.contains(Input::IXON | Input::IXANY) {
            self.stopped = false;
        }
        let mut was_return = false;
        if c == b'\r' {
            if input.contains(Input::IGNCR) {
                return;
            }
            if input.contains(Input::ICRNL) {
                c = b'\n';
                was_return = true;
            }
        } else if c == b'\n' && input.contains(Input::INLCR) {
            c = b'\r';
        }
        if local.contains(Local::ICANON) && self.edit(c, effects) {
            return;
        }
        // Without lines, a line feed that was typed as such is a control character like others.
        if was_return && local.contains(Local::ECHO) {
            self.echo_raw(c, &mut effects.echo);
            self.put(c);
        } else {
            self.plain(c, effects);
        }
    }

    fn signal_of(&self, c: u8) -> Option<Signal> {
        let signals =
            [(cc::INTR, Signal::SIGINT), (cc::QUIT, Signal::SIGQUIT), (cc::SUSP, Signal::SIGTSTP)];
        signals.into_iter().find(|(which, _)| self.termios.is(*which, c)).map(|(_, signal)| signal)
    }

    /// A byte that means itself.
    fn plain(&mut self, c: u8, effects: &mut Effects) {
        if self.termios.local.contains(Local::ECHO) {
            self.line_begins();
            self.echo(c, &mut effects.echo);
        }
        if c == 0xff && self.termios.input.contains(Input::PARMRK) {
            self.put(c);
        }
        self.put(c);
    }

    fn put(&mut self, c: u8) {
        if self.termios.canonical() {
            self.line.push(c);
        } else {
            self.ready.push_back(c);
        }
    }

    fn line_begins(&mut self) {
        if self.line.is_empty() {
            self.line_column = self.column;
        }
    }

    /// The line is whole.
    fn line_ends(&mut self) {
        self.lines.push_back(self.line.len());
        self.ready.extend(self.line.drain(..));
    }

    /// What is special in canonical mode; whether `c` was.
    fn edit(&mut self, c: u8, effects: &mut Effects) -> bool {
        let termios = self.termios;
        let extended = termios.local.contains(Local::IEXTEN);
        let echoes = termios.local.contains(Local::ECHO);
        let out = &mut effects.echo;
        if termios.is(cc::ERASE, c) {
            self.erase(c, Erase::Character, out);
        } else if termios.is(cc::KILL, c) {
            self.erase(c, Erase::Line, out);
        } else if extended && termios.is(cc::WERASE, c) {
            self.erase(c, Erase::Word, out);
        } else if extended && termios.is(cc::LNEXT, c) {
            self.literal = true;
            if echoes && termios.local.contains(Local::ECHOCTL) {
                self.echo_raw(b'^', out);
                self.echo_raw(8, out);
            }
        } else if extended && echoes && termios.is(cc::REPRINT, c) {
            self.echo(c, out);
            self.echo_raw(b'\n', out);
            let line = core::mem::take(&mut self.line);
            for c in &line {
                self.echo(*c, out);
            }
            self.line = line;
        } else if c == b'\n' {
            if termios.local.intersects(Local::ECHO | Local::ECHONL) {
                self.echo_raw(c, out);
            }
            self.line.push(c);
            self.line_ends();
        } else if termios.is(cc::EOF, c) {
            self.line_ends();
        } else if termios.is(cc::EOL, c) || extended && termios.is(cc::EOL2, c) {
            if echoes {
                self.line_begins();
                self.echo(c, out);
            }
            if c == 0xff && termios.input.contains(Input::PARMRK) {
                self.line.push(c);
            }
            self.line.push(c);
            self.line_ends();
        } else {
            return false;
        }
        true
    }

    fn is_continuation(&self, c: u8) -> bool {
        self.termios.input.contains(Input::IUTF8) && c & 0xc0 == 0x80
    }

    fn erase(&mut self, c: u8, what: Erase, out: &mut Vec<u8>) {
        let local = self.termios.local;
        let echoes = local.contains(Local::ECHO);
        if self.line.is_empty() {
            return;
        }
        if what == Erase::Line {
            if !echoes {
                self.line.clear();
                return;
            }
            if !local.contains(Local::ECHOK | Local::ECHOKE | Local::ECHOE) {
                self.line.clear();
                self.echo(c, out);
                if local.contains(Local::ECHOK) {
                    self.echo_raw(b'\n', out);
                }
                return;
            }
        }
        let mut in_word = false;
        while let Some(last) = self.line.last().copied() {
            // A character may have several bytes; one that has lost its first stays.
            let tail = self.line.iter().rev().take_while(|c| self.is_continuation(**c)).count();
            if tail == self.line.len() {
                break;
            }
            let start = self.line.len().saturating_sub(tail).saturating_sub(1);
            let first = self.line.get(start).copied().unwrap_or(last);
            if what == Erase::Word {
                if is_word(first) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            self.line.truncate(start);
            if echoes {
                if what == Erase::Character && !local.contains(Local::ECHOE) {
                    self.echo(c, out);
                } else if first == b'\t' {
                    self.erase_tab(out);
                } else {
                    let shown = match (is_control(first), local.contains(Local::ECHOCTL)) {
                        (true, true) => 2,
                        (true, false) => 0,
                        (false, _) => 1,
                    };
                    for _ in 0..shown {
                        for c in [8, b' ', 8] {
                            self.echo_raw(c, out);
                        }
                    }
                }
            }
            if what == Erase::Character {
                break;
            }
        }
    }

    /// Moves the cursor back over a tab that was erased: to where what is before it ends.
    fn erase_tab(&mut self, out: &mut Vec<u8>) {
        let mut width: usize = 0;
        let mut after_tab = false;
        for c in self.line.iter().rev() {
            if *c == b'\t' {
                after_tab = true;
                break;
            }
            if is_control(*c) {
                if self.termios.local.contains(Local::ECHOCTL) {
                    width = width.saturating_add(2);
                }
            } else if !self.is_continuation(*c) {
                width = width.saturating_add(1);
            }
        }
        if !after_tab {
            width = width.saturating_add(self.line_column);
        }
        for _ in 0..8usize.saturating_sub(width & 7) {
            out.push(8);
            self.column = self.column.saturating_sub(1);
        }
    }

    /// Echoes what was typed.
    fn echo(&mut self, c: u8, out: &mut Vec<u8>) {
        if self.termios.local.contains(Local::ECHOCTL) && is_control(c) && c != b'\t' {
            out.extend([b'^', c ^ 0x40]);
            self.column = self.column.saturating_add(2);
        } else if c == 0xff {
            // Linux escapes this byte in its echo, and so it escapes processing.
            out.push(c);
            self.column = self.column.saturating_add(1);
        } else {
            self.echo_raw(c, out);
        }
    }

    fn echo_raw(&mut self, c: u8, out: &mut Vec<u8>) {
        if self.termios.output.contains(Output::OPOST) {
            self.process(c, out);
        } else {
            out.push(c);
        }
    }

    /// Output of a program, as it goes to the terminal.
    pub fn output(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if !self.termios.output.contains(Output::OPOST) {
            out.extend_from_slice(bytes);
            return;
        }
        for c in bytes {
            self.process(*c, out);
        }
    }

    /// One byte of output (do_output_char, drivers/tty/n_tty.c).
    fn process(&mut self, c: u8, out: &mut Vec<u8>) {
        let output = self.termios.output;
        match c {
            b'\n' => {
                if output.contains(Output::ONLRET) {
                    self.column = 0;
                }
                if output.contains(Output::ONLCR) {
                    self.column = 0;
                    out.push(b'\r');
                }
                self.line_column = self.column;
                out.push(b'\n');
            }
            b'\r' => {
                if output.contains(Output::ONOCR) && self.column == 0 {
                    return;
                }
                if output.contains(Output::OCRNL) {
                    if output.contains(Output::ONLRET) {
                        (self.column, self.line_column) = (0, 0);
                    }
                    out.push(b'\n');
                } else {
                    (self.column, self.line_column) = (0, 0);
                    out.push(b'\r');
                }
            }
            b'\t' => {
                let spaces = 8usize.saturating_sub(self.column & 7);
                self.column = self.column.saturating_add(spaces);
                if output.contains(Output::XTABS) {
                    out.extend(core::iter::repeat_n(b' ', spaces));
                } else {
                    out.push(c);
                }
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                out.push(c);
            }
            _ => {
                let c = match output.contains(Output::OLCUC) {
                    true if !is_control(c) => to_upper(c),
                    _ => c,
                };
                if !is_control(c) && !self.is_continuation(c) {
                    self.column = self.column.saturating_add(1);
                }
                out.push(c);
            }
        }
    }
}
