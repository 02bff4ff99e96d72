//! The flag words of file system calls, with Linux's values.
#![allow(missing_docs)] // the names of the flags are those of the man pages

bitflags::bitflags! {
    /// Flags of open(2) (asm-generic/fcntl.h, as on x86-64).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct OpenFlags: u32 {
        const WRONLY = 0o1;
        const RDWR = 0o2;
        const CREAT = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const ASYNC = 0o20000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100000;
        const DIRECTORY = 0o200000;
        const NOFOLLOW = 0o400000;
        const NOATIME = 0o1000000;
        const CLOEXEC = 0o2000000;
        /// The bit of O_SYNC that O_DSYNC does not have.
        const SYNC_ = 0o4000000;
        const PATH = 0o10000000;
        /// The bit of O_TMPFILE that O_DIRECTORY does not have.
        const TMPFILE_ = 0o20000000;
        /// FMODE_EXEC: opened for exec; not visible to applications.
        const EXEC = 1 << 30;
    }
}

impl OpenFlags {
    /// The status flags that fcntl(F_SETFL) changes.
    pub const SETFL: OpenFlags = OpenFlags::APPEND
        .union(OpenFlags::NONBLOCK)
        .union(OpenFlags::ASYNC)
        .union(OpenFlags::DIRECT)
        .union(OpenFlags::NOATIME);

    /// Whether reading is asked for.
    pub fn reads(self) -> bool {
        self.bits() & 3 != 1 && !self.contains(OpenFlags::PATH)
    }

    /// Whether writing is asked for.
    pub fn writes(self) -> bool {
        self.bits() & 3 != 0 && !self.contains(OpenFlags::PATH)
    }

    /// Whether it is O_TMPFILE.
    pub fn tmpfile(self) -> bool {
        self.contains(OpenFlags::TMPFILE_.union(OpenFlags::DIRECTORY))
    }
}

bitflags::bitflags! {
    /// What a file is ready for: the bits of poll(2) and epoll(7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Events: u32 {
        const IN = 0x1;
        const PRI = 0x2;
        const OUT = 0x4;
        const ERR = 0x8;
        const HUP = 0x10;
        const NVAL = 0x20;
        const RDNORM = 0x40;
        const RDBAND = 0x80;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const MSG = 0x400;
        const RDHUP = 0x2000;
    }
}

impl Events {
    /// Ready for reading.
    pub const READABLE: Events = Events::IN.union(Events::RDNORM);
    /// Ready for writing.
    pub const WRITABLE: Events = Events::OUT.union(Events::WRNORM);
    /// What is reported whether asked for or not.
    pub const ALWAYS: Events = Events::ERR.union(Events::HUP);
}

bitflags::bitflags! {
    /// Flags of renameat2(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = 1;
        const EXCHANGE = 2;
        const WHITEOUT = 4;
    }

    /// What access is asked for; the numbers are access(2)'s.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Access: u32 {
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }

    /// Flags of a mount: the MS_ bits of mount(2) that stay with it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountFlags: u64 {
        const RDONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
        const SYNCHRONOUS = 16;
        const MANDLOCK = 64;
        const DIRSYNC = 128;
        const NOSYMFOLLOW = 256;
        const NOATIME = 1024;
        const NODIRATIME = 2048;
        const RELATIME = 1 << 21;
        const LAZYTIME = 1 << 25;
        /// Those that a file system has, the same for all its mounts.
        const SUPER = Self::RDONLY.bits() | Self::SYNCHRONOUS.bits() | Self::MANDLOCK.bits()
            | Self::DIRSYNC.bits() | Self::LAZYTIME.bits();
        /// Those that each mount has of its own.
        const OWN = Self::RDONLY.bits() | Self::NOSUID.bits() | Self::NODEV.bits() | Self::NOEXEC.bits()
            | Self::NOSYMFOLLOW.bits() | Self::ATIME.bits();
        /// Those that say when reading notes the time: with neither NOATIME nor RELATIME always (MS_STRICTATIME).
        const ATIME = Self::NOATIME.bits() | Self::NODIRATIME.bits() | Self::RELATIME.bits();
    }
}

impl MountFlags {
    /// MS_STRICTATIME (linux/mount.h), which is the absence of the others.
    const STRICTATIME: u64 = 1 << 24;

    /// What a mount with these MS_ bits of mount(2) begins with: relatime where nothing else is asked for.
    pub fn from_ms(bits: u64) -> MountFlags {
        let mut flags =
            MountFlags::from_bits_truncate(bits) & (MountFlags::OWN - MountFlags::RELATIME);
        if bits & Self::STRICTATIME != 0 {
            flags.remove(MountFlags::NOATIME);
        } else if !flags.contains(MountFlags::NOATIME) {
            flags |= MountFlags::RELATIME;
        }
        flags
    }

    /// Whether MS_ bits of mount(2) say anything about access times.
    pub fn ms_has_atime(bits: u64) -> bool {
        bits & (MountFlags::ATIME.bits() | Self::STRICTATIME) != 0
    }
}
