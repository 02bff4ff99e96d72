//! Messages of the D-Bus specification's wire format, as far as systemd's manager is spoken to: pure functions over bytes.
//! Little-endian is written; both are read.

/// What is said of a message in its first bytes: before them nothing is known of its length.
pub const FIXED: usize = 16;
/// The longest message that is taken, bytes; the specification allows 128 MiB. What systemd says of a unit is less than
/// a page.
pub const LONGEST: usize = 1 << 20;

/// Of the kinds of messages.
const CALL: u8 = 1;
/// The type codes of header fields (the specification's "Header Fields").
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A value of a property, which goes over the wire as a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::I32(_) => "i",
            Value::U32(_) => "u",
            Value::I64(_) => "x",
            Value::U64(_) => "t",
            Value::Text(_) => "s",
            Value::Texts(_) => "as",
            Value::Numbers(_) => "au",
            Value::Bytes(_) => "ay",
            Value::Pairs(_) => "a(ss)",
        }
    }
}

/// A property of a unit, by name.
pub type Property = (&'static str, Value);

/// Bytes that are put together; every value begins at a multiple of its own size from the message's beginning.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// `u`
    pub fn u32(&mut self, number: u32) {
        self.align(4);
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.align(8);
        self.bytes(&number.to_le_bytes());
    }

    /// `b`
    pub fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// `s`, and `o`
    pub fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.bytes(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes(text.as_bytes());
        self.0.push(0);
    }

    /// An array, whose elements begin at multiples of `align`: its length counts the bytes between the first's beginning
    /// and the end.
    pub fn array(&mut self, align: usize, elements: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let at = self.0.len();
        self.align(align);
        let begin = self.0.len();
        elements(self);
        let bytes = length(self.0.len() - begin).to_le_bytes();
        self.0[at - 4..at].copy_from_slice(&bytes);
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.bool(*value),
            Value::I32(number) => self.u32(number.cast_unsigned()),
            Value::U32(number) => self.u32(*number),
            Value::I64(number) => self.u64(number.cast_unsigned()),
            Value::U64(number) => self.u64(*number),
            Value::Text(text) => self.text(text),
            Value::Texts(texts) => self.array(4, |w| texts.iter().for_each(|text| w.text(text))),
            Value::Numbers(numbers) => self.array(4, |w| numbers.iter().for_each(|n| w.u32(*n))),
            Value::Bytes(bytes) => self.array(1, |w| w.bytes(bytes)),
            Value::Pairs(pairs) => self.array(8, |w| {
                for (first, second) in pairs {
                    w.align(8);
                    w.text(first);
                    w.text(second);
                }
            }),
        }
    }

    /// `a(sv)`
    pub fn properties<'a>(&mut self, properties: impl IntoIterator<Item = (&'a str, &'a Value)>) {
        self.array(8, |w| {
            for (name, value) in properties {
                w.align(8);
                w.text(name);
                w.variant(value);
            }
        });
    }
}

fn length(len: usize) -> u32 {
    // Nothing that is sent comes near it: a configuration's bytes are counted before.
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name on the bus.
    pub destination: &'static str,
    /// The object.
    pub path: &'static str,
    /// The interface.
    pub interface: &'static str,
}

/// A call of a method. `signature` is that of what `body` writes.
pub fn call(
    serial: u32,
    target: Target,
    member: &str,
    signature: &str,
    body: impl FnOnce(&mut Writer),
) -> Vec<u8> {
    let mut inner = Writer::default();
    body(&mut inner);
    let mut message = Writer::default();
    message.bytes(&[b'l', CALL, 0, 1]);
    message.u32(length(inner.0.len()));
    message.u32(serial);
    message.array(8, |w| {
        let mut field = |code: u8, kind: &str, text: &str| {
            w.align(8);
            w.0.push(code);
            w.signature(kind);
            if kind == "g" { w.signature(text) } else { w.text(text) }
        };
        field(PATH, "o", target.path);
        field(INTERFACE, "s", target.interface);
        field(MEMBER, "s", member);
        field(DESTINATION, "s", target.destination);
        if !signature.is_empty() {
            field(SIGNATURE, "g", signature);
        }
    });
    message.align(8);
    message.bytes(&inner.0);
    message.0
}

/// What came, as far as it is of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What kind it is of.
    pub kind: u8,
    /// The call that it answers.
    pub reply_to: u32,
    /// What a signal is called.
    pub member: String,
    /// What an error is called.
    pub error: String,
    /// The types of its body.
    pub signature: String,
    /// Its body.
    pub body: Vec<u8>,
    big: bool,
}

impl Message {
    /// An answer.
    pub const REPLY: u8 = 2;
    /// A refusal.
    pub const ERROR: u8 = 3;
    /// A signal.
    pub const SIGNAL: u8 = 4;

    /// What is in its body.
    pub fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0, big: self.big }
    }
}

/// The length of the message that begins with these bytes; `None`: it is none, or longer than is taken.
pub fn size(fixed: &[u8; FIXED]) -> Option<usize> {
    let mut reader = Reader { bytes: fixed, at: 4, big: big(fixed)? };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    // As little as the specification allows for, and no sum overflows.
    if fields > LONGEST || body > LONGEST {
        return None;
    }
    let size = (FIXED + fields).next_multiple_of(8) + body;
    (size <= LONGEST).then_some(size)
}

fn big(bytes: &[u8]) -> Option<bool> {
    match bytes.first()? {
        b'l' => Some(false),
        b'B' => Some(true),
        _ => None,
    }
}

/// Reads a whole message; `None`: it is none.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let big = big(bytes)?;
    let mut message = Message { kind: *bytes.get(1)?, big, ..Message::default() };
    let mut reader = Reader { bytes, at: 4, big };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let end = (reader.u32()? as usize).checked_add(reader.at)?;
    while reader.at < end {
        reader.align(8)?;
        let code = reader.u8()?;
        match (code, reader.signature()?) {
            (REPLY_SERIAL, "u") => message.reply_to = reader.u32()?,
            (_, "u") => drop(reader.u32()?),
            (MEMBER, "s") => message.member = reader.text()?.to_owned(),
            (ERROR_NAME, "s") => message.error = reader.text()?.to_owned(),
            (_, "s" | "o") => drop(reader.text()?),
            (SIGNATURE, "g") => message.signature = reader.signature()?.to_owned(),
            // Fields of later versions are of these types too.
            _ => return None,
        }
    }
    reader.align(8)?;
    let body = reader.at..reader.at.checked_add(body)?;
    message.body = bytes.get(body)?.to_owned();
    Some(message)
}

/// Reads values in their order; `None`: they are not there.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// `u`
    pub fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// `s`, and `o`
    pub fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        self.terminated(len)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let len = self.u8()?.into();
        self.terminated(len)
    }

    fn terminated(&mut self, len: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(len)?).ok()?;
        (self.u8()? == 0).then_some(text)
    }

    /// `v` with a string in it.
    pub fn variant_text(&mut self) -> Option<&'a str> {
        match self.signature()? {
            "s" | "o" => self.text(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
    };

    /// What dbus-monitor(1) shows of a client's first call, whose bytes are the specification's.
    #[test]
    fn a_call_is_these_bytes() {
        let mut expected =
            b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6d\x00\x00\x00".to_vec();
        expected.extend(b"\x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00");
        expected.extend(b"\x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00");
        expected.extend(b"\x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00");
        expected.extend(b"\x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00");
        // The array ends with its last element, the header with padding.
        assert_eq!(call(1, TARGET, "Hello", "", |_| {}), expected);
    }

    #[test]
    fn values_are_aligned() {
        let mut writer = Writer::default();
        writer.text("ab");
        let properties = [
            ("A", Value::Bool(true)),
            ("B", Value::U64(5)),
            ("C", Value::Texts(vec!["x".into()])),
            ("D", Value::Bytes(vec![7])),
            ("E", Value::Pairs(vec![("p".into(), "q".into())])),
            ("F", Value::Numbers(vec![])),
        ];
        writer.properties(properties.iter().map(|(name, value)| (*name, value)));
        let mut expected = b"\x02\x00\x00\x00ab\x00\x00".to_vec();
        let len = writer.0.len();
        // From the first element on, which begins at 16.
        expected.extend(u32::try_from(len - 16).unwrap().to_le_bytes());
        expected.extend([0; 4]);
        expected.extend(b"\x01\x00\x00\x00A\x00\x01b\x00\x00\x00\x00\x01\x00\x00\x00");
        expected.extend(b"\x01\x00\x00\x00B\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00");
        expected.extend(b"\x05\x00\x00\x00\x00\x00\x00\x00");
        expected.extend(b"\x01\x00\x00\x00C\x00\x02as\x00\x00\x00\x06\x00\x00\x00");
        expected.extend(b"\x01\x00\x00\x00x\x00\x00\x00");
        expected.extend(b"\x01\x00\x00\x00D\x00\x02ay\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x00");
        expected.extend(b"\x00\x00\x00\x00");
        expected.extend(
            b"\x01\x00\x00\x00E\x00\x05a(ss)\x00\x00\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x00",
        );
        expected.extend(b"\x01\x00\x00\x00p\x00\x00\x00\x01\x00\x00\x00q\x00\x00\x00");
        expected.extend(b"\x01\x00\x00\x00F\x00\x02au\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(writer.0, expected);
    }

    /// An error as a bus of the other byte order would send it.
    fn error() -> Vec<u8> {
        let mut bytes = b"B\x03\x01\x01\x00\x00\x00\x07\x00\x00\x00\x09\x00\x00\x00\x1f".to_vec();
        bytes.extend(b"\x05\x01u\x00\x00\x00\x00\x02");
        bytes.extend(b"\x04\x01s\x00\x00\x00\x00\x03a.b\x00\x00\x00\x00\x00");
        bytes.extend(b"\x08\x01g\x00\x01s\x00\x00");
        bytes.extend(b"\x00\x00\x00\x02no\x00");
        bytes
    }

    #[test]
    fn both_byte_orders_are_read() {
        let bytes = error();
        assert_eq!(size(bytes[..FIXED].try_into().unwrap()), Some(bytes.len()));
        let message = parse(&bytes).unwrap();
        assert_eq!((message.kind, message.reply_to), (Message::ERROR, 2));
        assert_eq!((message.error.as_str(), message.signature.as_str()), ("a.b", "s"));
        assert_eq!(message.reader().text(), Some("no"));
        assert_eq!(message.reader().u32().map(|_| ()), Some(()));
    }

    #[test]
    fn what_is_cut_or_too_long_is_none() {
        let bytes = error();
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None, "{len}");
        }
        let mut long: [u8; FIXED] = bytes[..FIXED].try_into().unwrap();
        long[4] = 0x7f;
        assert_eq!(size(&long), None);
        // Every byte may be any: nothing panics.
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] = byte;
                if let Some(message) = parse(&wrong) {
                    let mut reader = message.reader();
                    while reader.text().or(reader.variant_text()).is_some() {}
                }
                size(wrong[..FIXED].try_into().unwrap());
            }
        }
    }
}
