//! A client of D-Bus, of what is needed to ask systemd for a unit and no more: EXTERNAL authentication over a Unix socket,
//! calls, their answers, and signals.
//!
//! The crates for it are whole implementations of the bus, most of them asynchronous; ARCHITECTURE.md says more. What is
//! read is bounded in size and in time.

pub mod message;

use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use message::{FIXED, Message, Target, Writer};

use crate::reason::reason;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("{0}")]
    Socket(String),
    /// The other side does not answer.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// It says what no bus says.
    #[error("the other side does not speak D-Bus as it should: {0}")]
    Protocol(&'static str),
    /// It refuses a call.
    #[error("{message} ({name})")]
    Refused {
        /// What the error is called.
        name: String,
        /// In words.
        message: String,
    },
}

/// How long all that is done over one connection may take: runc's, for a job of systemd's.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest line of an authentication.
const LINE: usize = 512;

/// The bus itself.
const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A connection to a bus, or to somebody who speaks its protocol.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    until: Instant,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

/// The most signals that are kept.
const SIGNALS: usize = 4096;

impl Connection {
    /// Connects to the socket of a bus.
    pub fn bus(address: &SocketAddr) -> Result<Connection, Error> {
        let mut connection = Connection::peer(address)?;
        connection.call(BUS, "Hello", "", |_| {})?;
        Ok(connection)
    }

    /// Connects to somebody's own socket, where no bus is between.
    pub fn peer(address: &SocketAddr) -> Result<Connection, Error> {
        let stream = UnixStream::connect_addr(address).map_err(|e| Error::Socket(reason(&e)))?;
        let until = Instant::now() + PATIENCE;
        let mut connection = Connection { stream, until, serial: 0, signals: Vec::new() };
        connection.authenticate()?;
        Ok(connection)
    }

    /// As who the kernel says we are: no name is given, as it may be another in the bus's user namespace.
    fn authenticate(&mut self) -> Result<(), Error> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
        if self.line()? != "DATA" || !self.line()?.starts_with("OK ") {
            return Err(Error::Protocol("it does not know this user"));
        }
        self.write(b"BEGIN\r\n")
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        while line.len() < LINE {
            let mut byte = [0];
            self.read(&mut byte)?;
            match byte {
                [b'\n'] => return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()),
                [byte] => line.push(byte),
            }
        }
        Err(Error::Protocol("a line without an end"))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.set_write_timeout(Some(self.left()?)).map_err(|e| Error::Socket(reason(&e)))?;
        self.stream.write_all(bytes).map_err(failed)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.stream.set_read_timeout(Some(self.left()?)).map_err(|e| Error::Socket(reason(&e)))?;
        self.stream.read_exact(bytes).map_err(failed)
    }

    fn left(&self) -> Result<Duration, Error> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::Timeout) } else { Ok(left) }
    }

    fn receive(&mut self) -> Result<Message, Error> {
        let mut fixed = [0; FIXED];
        self.read(&mut fixed)?;
        let size = message::size(&fixed).ok_or(Error::Protocol("the size of a message"))?;
        let mut bytes = vec![0; size];
        let (first, rest) =
            bytes.split_at_mut_checked(FIXED).ok_or(Error::Protocol("the size of a message"))?;
        first.copy_from_slice(&fixed);
        self.read(rest)?;
        message::parse(&bytes).ok_or(Error::Protocol("a message"))
    }

    /// Calls a method, and gives its answer.
    pub fn call(
        &mut self,
        target: Target,
        member: &str,
        signature: &str,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Message, Error> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let bytes = message::call(self.serial, target, member, signature, body);
        self.write(&bytes)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                Message::REPLY if message.reply_to == self.serial => return Ok(message),
                Message::ERROR if message.reply_to == self.serial => return Err(refused(message)),
                Message::SIGNAL if self.signals.len() < SIGNALS => self.signals.push(message),
                // Of what was asked for nothing is missed: whoever is that talkative is nobody's bus.
                Message::SIGNAL => return Err(Error::Protocol("signals without end")),
                _ => {}
            }
        }
    }

    /// Has a bus send signals that fit.
    pub fn watch(&mut self, rule: &str) -> Result<(), Error> {
        self.call(BUS, "AddMatch", "s", |w| w.text(rule)).map(drop)
    }

    /// Waits for a signal of which `read` makes something.
    pub fn signal<T>(&mut self, read: impl Fn(&Message) -> Option<T>) -> Result<T, Error> {
        for message in std::mem::take(&mut self.signals) {
            if let Some(found) = read(&message) {
                return Ok(found);
            }
        }
        loop {
            let message = self.receive()?;
            if message.kind == Message::SIGNAL
                && let Some(found) = read(&message)
            {
                return Ok(found);
            }
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout,
        ErrorKind::UnexpectedEof => {
            Error::Socket("the other side has closed the connection".into())
        }
        _ => Error::Socket(reason(&error)),
    }
}

fn refused(message: Message) -> Error {
    let text = message.reader().text().filter(|_| message.signature.starts_with('s'));
    Error::Refused { message: text.unwrap_or_default().to_owned(), name: message.error }
}

/// The first socket of an address as $DBUS_SESSION_BUS_ADDRESS has it (the specification's "Server Addresses"); `None`:
/// there is none among them.
pub fn address(text: &str) -> Option<SocketAddr> {
    let socket = |address: &str| {
        let pairs = address.strip_prefix("unix:")?;
        pairs.split(',').find_map(|pair| match pair.split_once('=')? {
            ("path", path) => SocketAddr::from_pathname(Path::new(&unescape(path)?)).ok(),
            ("abstract", name) => SocketAddr::from_abstract_name(unescape(name)?).ok(),
            _ => None,
        })
    };
    text.split(';').find_map(socket)
}

/// `%` and two digits stand for a byte.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn addresses_name_sockets() {
        let path = |text| address(text).and_then(|a| a.as_pathname().map(Path::to_owned));
        assert_eq!(path("unix:path=/run/a%20b,guid=1"), Some("/run/a b".into()));
        assert_eq!(path("tcp:host=x;unix:guid=1,path=/b"), Some("/b".into()));
        let name = address("unix:abstract=/tmp/x").unwrap();
        assert_eq!(name.as_abstract_name(), Some(b"/tmp/x".as_slice()));
        for wrong in ["", "unix:", "unix:path=/a%2", "unix:path=/a%zz", "tcp:host=x", "unix:dir=/t"]
        {
            assert!(address(wrong).is_none(), "{wrong}");
        }
    }

    /// What a bus says that is not one.
    fn against(answer: &'static [u8]) -> Error {
        let folder = std::env::temp_dir().join(format!("rw-dbus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{:p}", answer.as_ptr()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the client goes.
            let mut rest = Vec::new();
            let _gone = stream.read_to_end(&mut rest);
        });
        let error = Connection::bus(&SocketAddr::from_pathname(&path).unwrap()).unwrap_err();
        server.join().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        error
    }

    #[test]
    fn what_is_no_bus_is_told() {
        let text = |answer| against(answer).to_string();
        assert!(text(b"REJECTED EXTERNAL\r\n").contains("does not know this user"));
        assert!(text(b"DATA\r\nOK 12\r\n").contains("has closed"));
        assert!(text(&[b'x'; 2 * LINE]).contains("without an end"));
        let huge =
            b"DATA\r\nOK 12\r\nl\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00";
        assert!(text(huge).contains("size of a message"));
    }
}
