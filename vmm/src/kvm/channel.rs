//! Message channels: two byte rings in guest memory, and the rules for what stands in them.
//!
//! Every index is copied once and checked; this side keeps its own indices, and never reads them
//! back from where the guest could change them.

use std::sync::atomic::{Ordering, fence};

use guest::contract::{ChannelControl, MAX_RING, MIN_RING, MORE, NO_FILE, PAGE, PieceHeader};
use std::mem::offset_of;
use zerocopy::FromBytes;

use super::end::Lie;
use super::memory::Ram;
use crate::protocol::Queue;

const HEADER: u32 = size_of::<PieceHeader>() as u32;

/// A message, and the donated file that comes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The file.
    pub file: Option<u32>,
}

/// One channel's rings.
#[derive(Debug)]
pub struct Rings {
    number: u32,
    control: u64,
    size: u32,
    max_message: usize,
    /// Image to host half: what has been taken.
    out_head: u32,
    /// Pieces of a message whose last one has not come.
    assembling: Vec<u8>,
    /// Host half to image: what has been published.
    in_tail: u32,
    /// The message that is being put in, and how much of it is.
    sending: Option<(Message, usize)>,
    /// Whether the image has been asked to ring when there is room.
    asked: bool,
    closed: bool,
}

/// Somebody in the guest waits and is to be interrupted: the vCPU.
pub type Wake = Option<u32>;

impl Rings {
    /// Takes the place that the guest has chosen.
    pub fn open(
        ram: &Ram,
        number: u32,
        control: u64,
        len: u64,
        max_message: usize,
    ) -> Result<Rings, Lie> {
        let wrong = |what| Lie::Message { channel: number, what };
        if !control.is_multiple_of(PAGE) {
            return Err(wrong("its control page is not page-aligned"));
        }
        if !len.is_power_of_two() || !(MIN_RING..=MAX_RING).contains(&len) {
            return Err(wrong("its rings have an impossible size"));
        }
        ram.check(control, PAGE + 2 * len)?;
        Ok(Rings {
            number,
            control,
            // At most MAX_RING.
            size: len as u32,
            max_message,
            out_head: 0,
            assembling: Vec::new(),
            in_tail: 0,
            sending: None,
            asked: false,
            closed: false,
        })
    }

    /// The longest message in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// Takes the next whole message from the image. `Ok(None)`: there is none yet. The second
    /// value is somebody who waited for the room that has come.
    pub fn take(&mut self, ram: &Ram) -> Result<(Option<Vec<u8>>, Wake), Lie> {
        let begin = self.out_head;
        let mut message = None;
        while message.is_none() {
            let tail = ram.load(self.word(offset_of!(ChannelControl, out_tail)))?;
            let used = tail.wrapping_sub(self.out_head);
            if used > self.size || !used.is_multiple_of(8) {
                return Err(Lie::Index { ring: "out ring of a channel", used, size: self.size });
            }
            if used == 0 {
                break;
            }
            if used < HEADER {
                return Err(self.wrong("a header is cut off"));
            }
            let mut raw = [0; HEADER as usize];
            self.read(ram, self.out_ring(), self.out_head, &mut raw)?;
            let header = PieceHeader::read_from_bytes(&raw)
                .map_err(|_| self.wrong("a header is cut off"))?;
            if header.flags & !MORE != 0 || header.reserved != 0 || header.file != NO_FILE {
                return Err(self.wrong("a header has unknown bits"));
            }
            let room = used - HEADER;
            if header.len > room || header.len.next_multiple_of(8) > room {
                return Err(self.wrong("a piece is longer than what was published"));
            }
            if header.len == 0 && header.flags & MORE != 0 {
                // Nobody could say how many of them there will be.
                return Err(self.wrong("a piece is empty"));
            }
            let begin = self.assembling.len();
            let end = begin + header.len as usize;
            if end > self.max_message {
                return Err(self.wrong("a message is too long"));
            }
            let mut assembling = std::mem::take(&mut self.assembling);
            assembling.resize(end, 0);
            let at = self.out_head.wrapping_add(HEADER);
            self.read(ram, self.out_ring(), at, &mut assembling[begin..])?;
            self.out_head = at.wrapping_add(header.len.next_multiple_of(8));
            if header.flags & MORE != 0 {
                self.assembling = assembling;
            } else {
                message = Some(assembling);
            }
        }
        if self.out_head == begin {
            return Ok((None, None));
        }
        ram.store(self.word(offset_of!(ChannelControl, out_head)), self.out_head)?;
        let wake = self.waiter(ram, offset_of!(ChannelControl, out_waiter))?;
        Ok((message, wake))
    }

    /// Whether the image has published anything that has not been taken.
    pub fn pending(&self, ram: &Ram) -> Result<bool, Lie> {
        Ok(ram.load(self.word(offset_of!(ChannelControl, out_tail)))? != self.out_head)
    }

    /// Whether the last message is all in, so that another can be put.
    pub fn ready(&self) -> bool {
        self.sending.is_none()
    }

    /// Puts a message in, or as much as there is room for; [`Rings::flush`] goes on with it. To be
    /// called when [`Rings::ready`] only.
    pub fn put(&mut self, ram: &Ram, message: Message) -> Result<Wake, Lie> {
        self.sending = Some((message, 0));
        self.flush(ram)
    }

    /// Puts in what there is room for.
    pub fn flush(&mut self, ram: &Ram) -> Result<Wake, Lie> {
        let begin = self.in_tail;
        while let Some((message, mut done)) = self.sending.take() {
            let left = message.bytes.len() - done;
            let piece =
                left.min((self.size / 2).max(MIN_RING as u32 / 2) as usize - HEADER as usize);
            let need = HEADER + (piece as u32).next_multiple_of(8);
            if !self.room(ram, need)? {
                self.sending = Some((message, done));
                break;
            }
            let more = piece < left;
            let file = if done == 0 { message.file } else { None };
            let header = PieceHeader {
                len: piece as u32,
                flags: if more { MORE } else { 0 },
                file: file.unwrap_or(NO_FILE),
                reserved: 0,
            };
            self.write(ram, self.in_tail, zerocopy::IntoBytes::as_bytes(&header))?;
            let at = self.in_tail.wrapping_add(HEADER);
            self.write(ram, at, &message.bytes[done..done + piece])?;
            self.in_tail = self.in_tail.wrapping_add(need);
            done += piece;
            if more {
                self.sending = Some((message, done));
            }
        }
        if self.in_tail == begin {
            return Ok(None);
        }
        ram.store(self.word(offset_of!(ChannelControl, in_tail)), self.in_tail)?;
        self.waiter(ram, offset_of!(ChannelControl, in_waiter))
    }

    /// Says that the other side is gone. Whoever waits is to be interrupted.
    pub fn close(&mut self, ram: &Ram) -> Result<[Wake; 2], Lie> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok([None, None]);
        }
        self.sending = None;
        ram.store(self.word(offset_of!(ChannelControl, closed)), 1)?;
        Ok([
            self.waiter(ram, offset_of!(ChannelControl, in_waiter))?,
            self.waiter(ram, offset_of!(ChannelControl, out_waiter))?,
        ])
    }

    /// What is in it, for people; what the guest says is not trusted further than to be shown.
    pub fn report(&self, ram: &Ram, stuck: bool) -> Queue {
        let load = |offset| ram.load(self.word(offset)).ok();
        let sane = |used: u32| (used <= self.size).then_some(used);
        let tail = load(offset_of!(ChannelControl, out_tail));
        let head = load(offset_of!(ChannelControl, in_head));
        Queue::Channel {
            number: self.number,
            size: self.size,
            out: tail.and_then(|tail| sane(tail.wrapping_sub(self.out_head))),
            into: head.and_then(|head| sane(self.in_tail.wrapping_sub(head))),
            sending: self.sending.is_some(),
            stuck,
            closed: self.closed,
        }
    }

    /// Whether it has been closed.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Whether `need` bytes are free for the image's reading; if not, the image is asked to ring.
    fn room(&mut self, ram: &Ram, need: u32) -> Result<bool, Lie> {
        let full = self.word(offset_of!(ChannelControl, in_full));
        loop {
            let head = ram.load(self.word(offset_of!(ChannelControl, in_head)))?;
            let used = self.in_tail.wrapping_sub(head);
            if used > self.size || !used.is_multiple_of(8) {
                return Err(Lie::Index { ring: "in ring of a channel", used, size: self.size });
            }
            if self.size - used >= need {
                if std::mem::replace(&mut self.asked, false) {
                    ram.store(full, 0)?;
                }
                return Ok(true);
            }
            if std::mem::replace(&mut self.asked, true) {
                return Ok(false);
            }
            ram.store(full, 1)?;
            fence(Ordering::SeqCst);
        }
    }

    /// Takes a waiter: it is to be interrupted.
    fn waiter(&self, ram: &Ram, offset: usize) -> Result<Wake, Lie> {
        fence(Ordering::SeqCst);
        Ok(ram.swap(self.word(offset), 0)?.checked_sub(1))
    }

    fn word(&self, offset: usize) -> u64 {
        self.control + offset as u64
    }

    fn out_ring(&self) -> u64 {
        self.control + PAGE
    }

    fn read(&self, ram: &Ram, ring: u64, at: u32, buf: &mut [u8]) -> Result<(), Lie> {
        let at = at % self.size;
        let first = buf.len().min((self.size - at) as usize);
        let (head, rest) = buf.split_at_mut(first);
        ram.read(ring + u64::from(at), head)?;
        Ok(ram.read(ring, rest)?)
    }

    fn write(&self, ram: &Ram, at: u32, data: &[u8]) -> Result<(), Lie> {
        let ring = self.out_ring() + u64::from(self.size);
        let at = at % self.size;
        let first = data.len().min((self.size - at) as usize);
        let (head, rest) = data.split_at(first);
        ram.write(ring + u64::from(at), head)?;
        Ok(ram.write(ring, rest)?)
    }

    fn wrong(&self, what: &'static str) -> Lie {
        Lie::Message { channel: self.number, what }
    }
}

#[cfg(test)]
mod tests {
    use guest::contract::RAM_BASE;

    use super::*;

    const AT: u64 = RAM_BASE + 0x10000;

    /// The guest's side, as an honest or a hostile image would write it.
    struct Guest<'a> {
        ram: &'a Ram,
        size: u32,
        out_tail: u32,
        in_head: u32,
    }

    impl Guest<'_> {
        fn set(&self, offset: usize, value: u32) {
            self.ram.store(AT + offset as u64, value).unwrap();
        }

        fn bytes(&self, ring: u64, at: u32, len: usize) -> Vec<u8> {
            (0..len as u32)
                .map(|i| {
                    let at = u64::from(at.wrapping_add(i) % self.size);
                    self.ram.get::<u8>(ring + at).unwrap()
                })
                .collect()
        }

        fn piece(&mut self, len: u32, flags: u32, data: &[u8]) {
            let header = PieceHeader { len, flags, file: NO_FILE, reserved: 0 };
            let mut bytes = zerocopy::IntoBytes::as_bytes(&header).to_vec();
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            for b in bytes {
                let at = u64::from(self.out_tail % self.size);
                self.ram.put(AT + PAGE + at, &b).unwrap();
                self.out_tail = self.out_tail.wrapping_add(1);
            }
            self.set(offset_of!(ChannelControl, out_tail), self.out_tail);
        }

        fn take(&mut self) -> Option<(Vec<u8>, u32, u32)> {
            let tail = self.ram.load(AT + offset_of!(ChannelControl, in_tail) as u64).unwrap();
            if tail == self.in_head {
                return None;
            }
            let ring = AT + PAGE + u64::from(self.size);
            let header = PieceHeader::read_from_bytes(&self.bytes(ring, self.in_head, 16)).unwrap();
            let data = self.bytes(ring, self.in_head.wrapping_add(16), header.len as usize);
            self.in_head =
                self.in_head.wrapping_add(16).wrapping_add(header.len.next_multiple_of(8));
            self.set(offset_of!(ChannelControl, in_head), self.in_head);
            Some((data, header.flags, header.file))
        }
    }

    fn channel(ram: &Ram) -> (Rings, Guest<'_>) {
        let rings = Rings::open(ram, 1, AT, MIN_RING, 10_000).unwrap();
        (rings, Guest { ram, size: MIN_RING as u32, out_tail: 0, in_head: 0 })
    }

    #[test]
    fn messages_cross_both_ways_and_around_the_end() {
        let ram = Ram::new(2 << 20).unwrap();
        let (mut rings, mut guest) = channel(&ram);
        for n in 0..50u8 {
            let data = vec![n; 300 + usize::from(n)];
            guest.piece(data.len() as u32, 0, &data);
            assert_eq!(rings.take(&ram).unwrap(), (Some(data.clone()), None));
            assert_eq!(rings.take(&ram).unwrap(), (None, None));
            rings.put(&ram, Message { bytes: data.clone(), file: Some(n.into()) }).unwrap();
            assert!(rings.ready());
            assert_eq!(guest.take(), Some((data, 0, n.into())));
        }
        // An empty message is one.
        guest.piece(0, 0, &[]);
        assert_eq!(rings.take(&ram).unwrap().0, Some(vec![]));
    }

    #[test]
    fn long_messages_come_in_pieces_and_wait_for_room() {
        let ram = Ram::new(2 << 20).unwrap();
        let (mut rings, mut guest) = channel(&ram);
        guest.piece(3000, MORE, &[1; 3000]);
        assert_eq!(rings.take(&ram).unwrap().0, None);
        guest.piece(3000, 0, &[2; 3000]);
        guest.set(offset_of!(ChannelControl, out_waiter), 5);
        let (message, wake) = rings.take(&ram).unwrap();
        assert_eq!(message.unwrap().len(), 6000);
        assert_eq!(wake, Some(4));

        let bytes: Vec<u8> = (0..9999u32).map(|n| n as u8).collect();
        guest.set(offset_of!(ChannelControl, in_waiter), 1);
        let wake = rings.put(&ram, Message { bytes: bytes.clone(), file: Some(3) }).unwrap();
        assert_eq!(wake, Some(0));
        let mut got = Vec::new();
        let mut files = Vec::new();
        loop {
            while let Some((data, flags, file)) = guest.take() {
                got.extend_from_slice(&data);
                files.push(file);
                if flags & MORE == 0 {
                    assert_eq!(got, bytes);
                    assert_eq!(files[0], 3);
                    assert!(files[1..].iter().all(|&f| f == NO_FILE));
                    assert!(rings.ready());
                    return;
                }
            }
            assert!(!rings.ready());
            assert_eq!(ram.load(AT + offset_of!(ChannelControl, in_full) as u64), Ok(1));
            rings.flush(&ram).unwrap();
        }
    }

    #[test]
    fn a_lying_image_is_caught() {
        let ram = Ram::new(2 << 20).unwrap();
        for (control, len) in [
            (AT + 8, MIN_RING),
            (AT, MIN_RING + 1),
            (AT, MIN_RING / 2),
            (AT, MAX_RING * 2),
            (0, MIN_RING),
            (RAM_BASE + (2 << 20) - PAGE, MIN_RING),
            (!(PAGE - 1), MIN_RING),
        ] {
            assert!(Rings::open(&ram, 0, control, len, 9).is_err(), "{control:x} {len:x}");
        }
        let lies: [fn(&mut Guest<'_>); 10] = [
            |g| g.set(offset_of!(ChannelControl, out_tail), 4097),
            |g| g.set(offset_of!(ChannelControl, out_tail), 4104),
            |g| g.set(offset_of!(ChannelControl, out_tail), 8u32.wrapping_neg()),
            |g| g.set(offset_of!(ChannelControl, out_tail), 8),
            |g| g.piece(1, 0, &[]),
            |g| g.piece(u32::MAX, 0, &[]),
            |g| g.piece(u32::MAX - 6, 0, &[]),
            |g| g.piece(0, 2, &[]),
            |g| g.piece(4000, 0, &[0; 40]),
            |g| {
                g.piece(8, 0, &[0; 8]);
                g.set(offset_of!(ChannelControl, out_tail), 16);
            },
        ];
        for (n, lie) in lies.iter().enumerate() {
            let ram = Ram::new(2 << 20).unwrap();
            let (mut rings, mut guest) = channel(&ram);
            lie(&mut guest);
            assert!(rings.take(&ram).is_err(), "lie {n}");
        }
        // A message that never ends.
        let ram = Ram::new(2 << 20).unwrap();
        let (mut rings, mut guest) = channel(&ram);
        let outcome = (0..10).find_map(|_| {
            guest.piece(3000, MORE, &[0; 3000]);
            rings.take(&ram).err()
        });
        assert_eq!(outcome, Some(Lie::Message { channel: 1, what: "a message is too long" }));
        // An index of the other ring that runs ahead.
        for head in [8, 3, 8u32.wrapping_neg() ^ 0x8000_0000] {
            guest.set(offset_of!(ChannelControl, in_head), head);
            assert!(rings.put(&ram, Message::default()).is_err());
        }
    }

    #[test]
    fn a_closed_channel_wakes_both_waiters_once() {
        let ram = Ram::new(2 << 20).unwrap();
        let (mut rings, guest) = channel(&ram);
        guest.set(offset_of!(ChannelControl, in_waiter), 1);
        guest.set(offset_of!(ChannelControl, out_waiter), 2);
        assert_eq!(rings.close(&ram).unwrap(), [Some(0), Some(1)]);
        assert_eq!(rings.close(&ram).unwrap(), [None, None]);
        assert_eq!(ram.load(AT + offset_of!(ChannelControl, closed) as u64), Ok(1));
    }
}
