//! Packets of a master (TIOCPKT in ioctl_tty(2)): each read gives a byte that says what it is, output or news
//! of the other side's flow control and flushes.

use super::termios::{Input, Termios, cc};

/// asm-generic/ioctls.h.
const FLUSHREAD: u8 = 1;
const FLUSHWRITE: u8 = 2;
const STOP: u8 = 4;
const START: u8 = 8;
const NOSTOP: u8 = 16;
const DOSTOP: u8 = 32;

/// What has happened and has not been read.
#[derive(Default)]
pub struct Packets {
    on: bool,
    news: u8,
}

/// What a read begins with.
#[derive(PartialEq, Eq, Debug)]
pub enum Head {
    /// Nothing: packets are not asked for.
    None,
    /// A zero, then output.
    Data,
    /// This, and nothing else.
    News(u8),
}

impl Packets {
    /// Asks for packets, or no more.
    pub fn set(&mut self, on: bool) {
        if on && !self.on {
            self.news = 0;
        }
        self.on = on;
    }

    /// Whether they are asked for.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Whether a read would give news.
    pub fn has_news(&self) -> bool {
        self.on && self.news != 0
    }

    /// What the read that comes now begins with.
    pub fn take(&mut self) -> Head {
        match (self.on, core::mem::take(&mut self.news)) {
            (false, _) => Head::None,
            (true, 0) => Head::Data,
            (true, news) => Head::News(news),
        }
    }

    /// One of two things that exclude each other has come true.
    fn tell(&mut self, no_more: u8, now: u8) {
        if self.on {
            self.news = self.news & !no_more | now;
        }
    }

    /// What was on its way has been thrown away.
    pub fn flushed(&mut self, input: bool, output: bool) {
        self.tell(0, if input { FLUSHREAD } else { 0 } | if output { FLUSHWRITE } else { 0 });
    }

    /// Output has stopped, or goes on.
    pub fn stopped(&mut self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => self.tell(START, STOP),
            (true, false) => self.tell(STOP, START),
            _ => {}
        }
    }

    /// Modes have changed: whether the usual characters stop and start output.
    pub fn modes(&mut self, old: &Termios, new: &Termios) {
        let usual = |t: &Termios| {
            t.input.contains(Input::IXON) && t.cc(cc::STOP) == 0x13 && t.cc(cc::START) == 0x11
        };
        match (usual(old), usual(new)) {
            (false, true) => self.tell(NOSTOP, DOSTOP),
            (true, false) => self.tell(DOSTOP, NOSTOP),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_once_and_only_where_asked_for() {
        let mut packets = Packets::default();
        packets.stopped(false, true);
        assert_eq!(packets.take(), Head::None);
        packets.set(true);
        assert_eq!((packets.take(), packets.has_news()), (Head::Data, false));
        packets.stopped(false, true);
        packets.stopped(true, false);
        packets.flushed(true, true);
        assert!(packets.has_news());
        assert_eq!(packets.take(), Head::News(START | FLUSHREAD | FLUSHWRITE));
        let (old, mut new) = (Termios::default(), Termios::default());
        new.input.remove(Input::IXON);
        packets.modes(&old, &new);
        assert_eq!(packets.take(), Head::News(NOSTOP));
        packets.modes(&new, &old);
        packets.set(false);
        assert!(!packets.has_news());
    }
}
