//! The table of messages: number, request fields, reply fields.
//!
//! Numbers below [`DIALECT_FIRST`](super::DIALECT_FIRST) are 9P2000.L's (and 9P2000's where L keeps
//! them), as `include/net/9p/9p.h` of Linux has them.

use alloc::vec::Vec;

use super::codec::{Reader, Writer};
use super::dirent::Entries;
use super::frame::{Frame, emit_header};
use super::*;

macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        $t:literal / $r:literal $Name:ident
            { $($(#[$tmeta:meta])* $tf:ident: $tty:ty),* $(,)? }
            => { $($(#[$rmeta:meta])* $rf:ident: $rty:ty),* $(,)? }
    )*) => {
        /// What a client asks.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)] // the fields are described with each message
        pub enum Request<'a> {
            $($(#[$meta])* $Name { $($(#[$tmeta])* $tf: $tty),* },)*
        }

        /// What a server answers.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Reply<'a> {
            /// 9P2000.L's Rlerror: the request failed with this errno of Linux.
            Error { errno: u32 },
            /// The server's own message of the dialect, with [`NOTAG`]: what is known of the
            /// watched `fid`, or of `name` in it when `name` is not empty, is no longer true.
            Invalidate { fid: Fid, changed: u32, name: &'a [u8] },
            $($(#[$meta])* $Name { $($(#[$rmeta])* $rf: $rty),* },)*
        }

        impl<'a> Request<'a> {
            /// Every kind of request there is.
            pub const KINDS: &'static [u8] = &[$($t),*];

            /// The message's number.
            pub fn kind(&self) -> u8 {
                match self { $(Request::$Name { .. } => $t,)* }
            }

            /// The message's name, for logs.
            pub fn name(&self) -> &'static str {
                match self { $(Request::$Name { .. } => concat!("T", stringify!($Name)),)* }
            }

            /// Reads the fields of a frame.
            pub fn parse(frame: Frame<'a>) -> Result<Self> {
                let mut reader = Reader::new(frame.body());
                let message = match frame.kind() {
                    $($t => Request::$Name { $($tf: reader.get()?),* },)*
                    other => return Err(WireError::UnknownKind(other)),
                };
                reader.finish()?;
                Ok(message)
            }

            /// Writes the whole message to the start of `buffer`; its size.
            pub fn emit(&self, tag: u16, buffer: &mut [u8]) -> Result<usize> {
                let mut writer = Writer::new(buffer, HEADER);
                match self {
                    $(Request::$Name { $($tf),* } => { $(writer.put($tf)?;)* })*
                }
                let size = writer.used();
                emit_header(buffer, size, self.kind(), tag)?;
                Ok(size)
            }
        }

        impl<'a> Reply<'a> {
            /// Every kind of reply there is.
            pub const KINDS: &'static [u8] = &[RLERROR, RINVALIDATE, $($r),*];

            /// The message's number.
            pub fn kind(&self) -> u8 {
                match self {
                    Reply::Error { .. } => RLERROR,
                    Reply::Invalidate { .. } => RINVALIDATE,
                    $(Reply::$Name { .. } => $r,)*
                }
            }

            /// Reads the fields of a frame.
            pub fn parse(frame: Frame<'a>) -> Result<Self> {
                let mut reader = Reader::new(frame.body());
                let message = match frame.kind() {
                    RLERROR => Reply::Error { errno: reader.get()? },
                    RINVALIDATE => Reply::Invalidate {
                        fid: reader.get()?,
                        changed: reader.get()?,
                        name: reader.get()?,
                    },
                    $($r => Reply::$Name { $($rf: reader.get()?),* },)*
                    other => return Err(WireError::UnknownKind(other)),
                };
                reader.finish()?;
                Ok(message)
            }

            /// Writes the whole message to the start of `buffer`; its size.
            pub fn emit(&self, tag: u16, buffer: &mut [u8]) -> Result<usize> {
                let mut writer = Writer::new(buffer, HEADER);
                match self {
                    Reply::Error { errno } => writer.put(errno)?,
                    Reply::Invalidate { fid, changed, name } => {
                        writer.put(fid)?;
                        writer.put(changed)?;
                        writer.put(name)?;
                    }
                    $(Reply::$Name { $($rf),* } => { $(writer.put($rf)?;)* })*
                }
                let size = writer.used();
                emit_header(buffer, size, self.kind(), tag)?;
                Ok(size)
            }
        }

        #[cfg(test)]
        impl Request<'static> {
            pub(crate) fn sample(kind: u8, rng: &mut tests::Rng) -> Option<Self> {
                let _ = &rng;
                match kind {
                    $($t => Some(Request::$Name { $($tf: tests::Sample::sample(rng)),* }),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        impl Reply<'static> {
            pub(crate) fn sample(kind: u8, rng: &mut tests::Rng) -> Option<Self> {
                use tests::Sample;
                match kind {
                    RLERROR => Some(Reply::Error { errno: Sample::sample(rng) }),
                    RINVALIDATE => Some(Reply::Invalidate {
                        fid: Sample::sample(rng),
                        changed: Sample::sample(rng),
                        name: Sample::sample(rng),
                    }),
                    $($r => Some(Reply::$Name { $($rf: Sample::sample(rng)),* }),)*
                    _ => None,
                }
            }
        }
    };
}

const RLERROR: u8 = 7;
const RINVALIDATE: u8 = 201;

messages! {
    /// Describes the file system that holds `fid`.
    8 / 9 Statfs { fid: Fid } => { stat: StatFs }
    /// Opens `fid` itself.
    12 / 13 Lopen { fid: Fid, flags: u32 } => { qid: Qid, iounit: u32 }
    /// Creates a regular file in the directory `fid`, which becomes the new file, open.
    14 / 15 Lcreate { fid: Fid, name: &'a [u8], flags: u32, mode: u32, gid: u32 }
        => { qid: Qid, iounit: u32 }
    /// Makes a symbolic link in the directory `fid`.
    16 / 17 Symlink { fid: Fid, name: &'a [u8], target: &'a [u8], gid: u32 } => { qid: Qid }
    /// Makes a device node, FIFO, socket or regular file in the directory `fid`.
    18 / 19 Mknod { fid: Fid, name: &'a [u8], mode: u32, major: u32, minor: u32, gid: u32 }
        => { qid: Qid }
    /// Moves the file that `fid` was walked to.
    20 / 21 Rename { fid: Fid, dir: Fid, name: &'a [u8] } => {}
    /// Reads the target of a symbolic link.
    22 / 23 Readlink { fid: Fid } => { target: &'a [u8] }
    /// Reads attributes.
    24 / 25 Getattr { fid: Fid, mask: u64 } => { attr: PlainAttr }
    /// Sets attributes.
    26 / 27 Setattr { fid: Fid, set: SetAttr } => {}
    /// Makes `newfid` read an extended attribute, or the list of them when `name` is empty.
    30 / 31 Xattrwalk { fid: Fid, newfid: Fid, name: &'a [u8] } => { size: u64 }
    /// Makes `fid` take an extended attribute's value by Twrite; set when clunked.
    32 / 33 Xattrcreate { fid: Fid, name: &'a [u8], size: u64, flags: u32 } => {}
    /// Reads directory entries ([`dirent::DirEntry`]) into `data`.
    40 / 41 Readdir { fid: Fid, offset: u64, count: u32 } => { data: Data<'a> }
    /// Writes an open file to its disk.
    50 / 51 Fsync { fid: Fid, data_only: u32 } => {}
    /// Sets or clears a lock.
    52 / 53 Lock { fid: Fid, kind: u8, flags: u32, start: u64, length: u64, proc_id: u32,
        client_id: &'a [u8] } => { status: u8 }
    /// Asks for a lock that conflicts.
    54 / 55 Getlock { fid: Fid, kind: u8, start: u64, length: u64, proc_id: u32,
        client_id: &'a [u8] }
        => { kind: u8, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] }
    /// Gives `fid` another name in the directory `dir`.
    70 / 71 Link { dir: Fid, fid: Fid, name: &'a [u8] } => {}
    /// Makes a directory.
    72 / 73 Mkdir { fid: Fid, name: &'a [u8], mode: u32, gid: u32 } => { qid: Qid }
    /// Moves a name.
    74 / 75 Renameat { olddir: Fid, oldname: &'a [u8], newdir: Fid, newname: &'a [u8] } => {}
    /// Removes a name; [`UNLINK_DIR`] for a directory.
    76 / 77 Unlinkat { dir: Fid, name: &'a [u8], flags: u32 } => {}
    /// Negotiates message size and version.
    100 / 101 Version { msize: u32, version: &'a [u8] } => { msize: u32, version: &'a [u8] }
    /// Asks for authentication.
    102 / 103 Auth { afid: Fid, uname: &'a [u8], aname: &'a [u8], uid: u32 } => { aqid: Qid }
    /// Makes `fid` the root of the attach point `aname`.
    104 / 105 Attach { fid: Fid, afid: Fid, uname: &'a [u8], aname: &'a [u8], uid: u32 }
        => { qid: Qid }
    /// Gives up a request.
    108 / 109 Flush { oldtag: u16 } => {}
    /// Makes `newfid` the file found from `fid` by `names`.
    110 / 111 Walk { fid: Fid, newfid: Fid, names: Vec<&'a [u8]> } => { qids: Vec<Qid> }
    /// Reads from an open file.
    116 / 117 Read { fid: Fid, offset: u64, count: u32 } => { data: Data<'a> }
    /// Writes to an open file.
    118 / 119 Write { fid: Fid, offset: u64, data: Data<'a> } => { count: u32 }
    /// Forgets a fid.
    120 / 121 Clunk { fid: Fid } => {}
    /// Removes the file that `fid` was walked to, and forgets the fid.
    122 / 123 Remove { fid: Fid } => {}

    // The dialect.

    /// Attaches, with attributes. `flags` are [`AttachFlags`].
    160 / 161 AttachX { fid: Fid, aname: &'a [u8] } => { node: Node, flags: u8 }
    /// Walks step by step and says what it finds on the way. It stops at the first name that is
    /// missing or cannot be searched, and at (after) a symbolic link that is not the last step;
    /// `nodes` tells how far it came, `errno` why it stopped (0 if it did not, or at a link).
    /// Steps that were made keep their new fids. `target` is the target of the last node if that
    /// is a symbolic link.
    162 / 163 WalkX { fid: Fid, steps: Vec<Step<'a>> }
        => { nodes: Vec<Node>, errno: u32, target: &'a [u8] }
    /// Reads attributes; `mask` as in statx(2).
    164 / 165 Statx { fid: Fid, mask: u32 } => { attr: Attr }
    /// Sets attributes and tells what they are then.
    166 / 167 SetattrX { fid: Fid, set: SetAttr } => { attr: Attr }
    /// Opens the file of `fid` as `newfid` (which may be `fid`). `wish` is [`Wish`], `granted`
    /// [`Granted`].
    168 / 169 OpenX { fid: Fid, newfid: Fid, flags: u32, wish: u8 } => { granted: u8, attr: Attr }
    /// Creates the regular file `name`, which must not exist, and opens it as `newfid`.
    170 / 171 CreateX { dir: Fid, newfid: Fid, name: &'a [u8], flags: u32, mode: u32, uid: u32,
        gid: u32, wish: u8 } => { granted: u8, node: Node }
    /// Creates a regular file without a name and opens it as `newfid`.
    172 / 173 Tmpfile { dir: Fid, newfid: Fid, flags: u32, mode: u32, uid: u32, gid: u32,
        wish: u8 } => { granted: u8, node: Node }
    /// Makes a directory.
    174 / 175 MkdirX { dir: Fid, newfid: Fid, name: &'a [u8], mode: u32, uid: u32, gid: u32 }
        => { node: Node }
    /// Makes a device node, FIFO, socket or regular file.
    176 / 177 MknodX { dir: Fid, newfid: Fid, name: &'a [u8], mode: u32, rdev: Dev, uid: u32,
        gid: u32 } => { node: Node }
    /// Makes a symbolic link.
    178 / 179 SymlinkX { dir: Fid, newfid: Fid, name: &'a [u8], target: &'a [u8], uid: u32,
        gid: u32 } => { node: Node }
    /// Gives `fid` another name, or its first one if it came from Tmpfile.
    180 / 181 LinkX { dir: Fid, fid: Fid, name: &'a [u8] } => { attr: Attr }
    /// Moves a name; `flags` as in renameat2(2).
    182 / 183 RenameX { olddir: Fid, oldname: &'a [u8], newdir: Fid, newname: &'a [u8],
        flags: u32 } => {}
    /// Reads directory entries with attributes ([`dirent::DirEntryAttr`]); `end` is 1 when
    /// nothing follows them.
    184 / 185 ReaddirX { fid: Fid, offset: u64, count: u32 } => { end: u8, data: Data<'a> }
    /// As fallocate(2).
    186 / 187 Fallocate { fid: Fid, mode: u32, offset: u64, length: u64 } => {}
    /// As copy_file_range(2); may copy less.
    188 / 189 CopyRange { source: Fid, source_offset: u64, target: Fid, target_offset: u64,
        length: u64 } => { count: u64 }
    /// As lseek(2) with SEEK_DATA (3) or SEEK_HOLE (4).
    190 / 191 Seek { fid: Fid, offset: u64, whence: u32 } => { offset: u64 }
    /// Sets or clears a lock of `owner`, an arbitrary number of the client's. Never blocks.
    192 / 193 LockX { fid: Fid, owner: u64, kind: u8, start: u64, length: u64 } => { status: u8 }
    /// Asks for a lock that conflicts with one of `owner`.
    194 / 195 GetlockX { fid: Fid, owner: u64, kind: u8, start: u64, length: u64 }
        => { kind: u8, start: u64, length: u64 }
    /// Asks to be told ([`Reply::Invalidate`]) of changes that others make to `fid` and, in a
    /// directory, to its entries. ENOSPC at the limit of watches. Ends with the fid.
    196 / 197 Watch { fid: Fid } => {}
    /// No longer.
    198 / 199 Unwatch { fid: Fid } => {}
    // 200 is kept free: 201 is the server's Invalidate.
    /// Writes open files to their disk: one errno (0 for success) for each.
    202 / 203 SyncMany { fids: Vec<Fid>, data_only: u8 } => { errnos: Vec<u32> }
    /// Reads an extended attribute: `size` 0 asks for the length alone.
    204 / 205 GetXattr { fid: Fid, name: &'a [u8], size: u32 } => { size: u32, data: Data<'a> }
    /// Sets an extended attribute; `flags` as in setxattr(2).
    206 / 207 SetXattr { fid: Fid, name: &'a [u8], value: Data<'a>, flags: u32 } => {}
    /// Lists the names of extended attributes, each ended by a zero byte.
    208 / 209 ListXattr { fid: Fid, size: u32 } => { size: u32, data: Data<'a> }
    /// Removes an extended attribute.
    210 / 211 RemoveXattr { fid: Fid, name: &'a [u8] } => {}
    /// Forgets fids; unknown ones are passed over.
    212 / 213 ClunkMany { fids: Vec<Fid> } => {}
}

impl<'a> Request<'a> {
    /// Whether the message belongs to the dialect.
    pub fn is_dialect(&self) -> bool {
        self.kind() >= DIALECT_FIRST
    }
}

/// Where the data of a read's reply begin: after header and count.
pub const READ_DATA: usize = HEADER + 4;

/// Writes a reply to Tread around `count` bytes that already stand at [`READ_DATA`] in `buffer`,
/// so that file content is not copied once more; the message's size.
pub fn emit_read_in_place(tag: u16, count: usize, buffer: &mut [u8]) -> Result<usize> {
    const RREAD: u8 = 117;
    let size = READ_DATA.checked_add(count).filter(|size| *size <= buffer.len());
    let size = size.ok_or(WireError::NoSpace)?;
    let mut writer = Writer::new(buffer, HEADER);
    writer.put(&u32::try_from(count).map_err(|_| WireError::TooLong)?)?;
    emit_header(buffer, size, RREAD, tag)?;
    Ok(size)
}

/// The entries of a plain readdir reply.
pub fn entries(data: Data<'_>) -> Entries<'_, dirent::DirEntry<'_>> {
    Entries::new(data)
}

/// The entries of the dialect's readdir reply.
pub fn entries_attr(data: Data<'_>) -> Entries<'_, dirent::DirEntryAttr<'_>> {
    Entries::new(data)
}
