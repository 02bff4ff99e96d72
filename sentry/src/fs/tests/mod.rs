//! Tests of file system calls: programs on the fake platform.

mod pipes;
mod proc;
mod ready;
mod sockets;
mod timers;

use alloc::string::String;
use alloc::vec::Vec;

use crate::platform::script::User;
use crate::task::tests::{Calls, MEM};

/// Numbers of the calls that tests make.
#[allow(dead_code)]
pub mod nr {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const OPEN: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const FSTAT: u64 = 5;
    pub const POLL: u64 = 7;
    pub const SELECT: u64 = 23;
    pub const DUP2: u64 = 33;
    pub const FCNTL: u64 = 72;
    pub const FLOCK: u64 = 73;
    pub const GETDENTS64: u64 = 217;
    pub const MKDIR: u64 = 83;
    pub const READLINK: u64 = 89;
    pub const MOUNT: u64 = 165;
    pub const UMOUNT2: u64 = 166;
    pub const EPOLL_WAIT: u64 = 232;
    pub const EPOLL_CTL: u64 = 233;
    pub const MKNODAT: u64 = 259;
    pub const PPOLL: u64 = 271;
    pub const EVENTFD2: u64 = 290;
    pub const EPOLL_CREATE1: u64 = 291;
    pub const PIPE2: u64 = 293;
    pub const MEMFD_CREATE: u64 = 319;
}

/// Where strings, buffers and results lie in the programs' memory.
pub const PATH: u64 = MEM + 0x2_0000;
pub const BUF: u64 = MEM + 0x3_0000;
pub const OUT: u64 = MEM + 0x6_0000;

/// File calls of a program, with fewer words.
pub trait Files {
    fn path(&mut self, path: &str) -> u64;
    fn open(&mut self, path: &str, flags: u64) -> i64;
    fn pipe(&mut self, flags: u64) -> (u64, u64);
    fn read_fd(&mut self, fd: u64, len: usize) -> Result<Vec<u8>, i64>;
    fn write_fd(&mut self, fd: u64, data: &[u8]) -> i64;
    fn slurp(&mut self, path: &str) -> String;
    fn list(&mut self, path: &str) -> Vec<String>;
    fn link_text(&mut self, path: &str) -> String;
}

impl Files for User {
    fn path(&mut self, path: &str) -> u64 {
        self.write(PATH, path.as_bytes());
        self.write(PATH + path.len() as u64, &[0]);
        PATH
    }

    fn open(&mut self, path: &str, flags: u64) -> i64 {
        let path = self.path(path);
        self.syscall(nr::OPEN, &[path, flags, 0o644])
    }

    fn pipe(&mut self, flags: u64) -> (u64, u64) {
        self.ok(nr::PIPE2, &[OUT, flags]);
        let both = self.load(OUT);
        (both & 0xffff_ffff, both >> 32)
    }

    fn read_fd(&mut self, fd: u64, len: usize) -> Result<Vec<u8>, i64> {
        let n = self.syscall(nr::READ, &[fd, BUF, len as u64]);
        if n < 0 { Err(n) } else { Ok(self.read(BUF, n as usize)) }
    }

    fn write_fd(&mut self, fd: u64, data: &[u8]) -> i64 {
        self.write(BUF, data);
        self.syscall(nr::WRITE, &[fd, BUF, data.len() as u64])
    }

    fn slurp(&mut self, path: &str) -> String {
        let fd = self.open(path, 0);
        assert!(fd >= 0, "{path}: {fd}");
        let mut all = Vec::new();
        loop {
            match self.read_fd(fd as u64, 4096) {
                Ok(data) if data.is_empty() => break,
                Ok(data) => all.extend(data),
                Err(e) => panic!("{path}: {e}"),
            }
        }
        self.ok(nr::CLOSE, &[fd as u64]);
        String::from_utf8_lossy(&all).into_owned()
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        let fd = self.open(path, 0o200000);
        assert!(fd >= 0, "{path}: {fd}");
        let mut names = Vec::new();
        loop {
            let n = self.ok(nr::GETDENTS64, &[fd as u64, BUF, 4096]) as usize;
            if n == 0 {
                break;
            }
            let data = self.read(BUF, n);
            let mut at = 0;
            while at < n {
                let len = u16::from_le_bytes([data[at + 16], data[at + 17]]) as usize;
                let name = &data[at + 19..at + len];
                let end = name.iter().position(|b| *b == 0).unwrap();
                names.push(String::from_utf8_lossy(&name[..end]).into_owned());
                at += len;
            }
        }
        self.ok(nr::CLOSE, &[fd as u64]);
        names
    }

    fn link_text(&mut self, path: &str) -> String {
        let path = self.path(path);
        let n = self.ok(nr::READLINK, &[path, BUF, 4096]);
        String::from_utf8_lossy(&self.read(BUF, n as usize)).into_owned()
    }
}
