//! Reading directories.

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::Session;
use super::errors::{Result, from_wire};
use super::host;
use crate::wire::dirent::{DirEntry, DirEntryAttr};
use crate::wire::*;

/// Bytes of entries asked of the host at once.
const HOST_BUFFER: usize = 32 * 1024;

impl Session {
    /// Answers both kinds of readdir; `attributes` tells which.
    pub(super) fn readdir(
        &mut self,
        tag: u16,
        fid: Fid,
        offset: u64,
        count: u32,
        attributes: bool,
        buffer: &mut [u8],
    ) -> Result<usize> {
        // Header, end and count of the reply.
        let room = buffer.len().saturating_sub(HEADER + 1 + 4).min(count as usize);
        let mut space = core::mem::take(&mut self.scratch);
        let filled = self.fill(fid, offset, attributes, space.get_mut(..room).unwrap_or_default());
        let reply = filled.and_then(|(used, end)| {
            let data = Data(space.get(..used).unwrap_or_default());
            let reply = if attributes {
                Reply::ReaddirX { end: u8::from(end), data }
            } else {
                Reply::Readdir { data }
            };
            reply.emit(tag, buffer).map_err(from_wire)
        });
        self.scratch = space;
        reply
    }

    /// Fills `space` with entries from `offset`; how many bytes, and whether the end was reached.
    fn fill(
        &mut self,
        fid: Fid,
        offset: u64,
        attributes: bool,
        space: &mut [u8],
    ) -> Result<(usize, bool)> {
        let entry = self.fids.get(fid)?;
        let directory = entry.directory()?;
        let own = directory.qid;
        let dev = host::node(&directory.fd)?.attr.dev;
        let open = entry.readable()?;
        if open.position != Some(offset) {
            rustix::fs::seek(&open.fd, SeekFrom::Start(offset))?;
        }
        let mut writer = Writer::new(space, 0);
        let mut host_buffer: Vec<u8> = Vec::with_capacity(HOST_BUFFER);
        let mut host_entries = RawDir::new(&open.fd, host_buffer.spare_capacity_mut());
        let mut position = offset;
        let end = loop {
            let found = match host_entries.next() {
                None => break true,
                Some(found) => found?,
            };
            let name = found.file_name();
            let next = found.next_entry_cookie();
            let dots = name.to_bytes() == b"." || name.to_bytes() == b"..";
            let kind = dirent_kind(found.file_type());
            let put = if !attributes || dots {
                // What is above the attach point is nobody's business: `..` is shown as `.` is.
                let qid = if dots {
                    own
                } else {
                    let path = host::qid_path(dev, found.ino());
                    Qid { kind: host::qid_kind(found.file_type()).bits(), version: 0, path }
                };
                if attributes {
                    let node = Node { qid, attr: Attr::default() };
                    put(
                        &mut writer,
                        &DirEntryAttr { node, offset: next, kind, name: name.to_bytes() },
                    )
                } else {
                    put(&mut writer, &DirEntry { qid, offset: next, kind, name: name.to_bytes() })
                }
            } else {
                match host::node_at(&open.fd, name) {
                    Ok(node) => {
                        let kind = dirent_kind(FileType::from_raw_mode(node.attr.mode));
                        put(
                            &mut writer,
                            &DirEntryAttr { node, offset: next, kind, name: name.to_bytes() },
                        )
                    }
                    // Gone since the directory was read.
                    Err(Errno::NOENT) => Ok(()),
                    Err(errno) => return Err(errno),
                }
            };
            if put.is_err() {
                break false;
            }
            position = next;
        };
        let used = writer.used();
        if used == 0 && !end {
            return Err(Errno::INVAL); // no room for one entry: getdents(2)
        }
        // What the host's buffer still held has moved the descriptor past `position`.
        let position = end.then_some(position);
        self.fids.update(fid, |entry| {
            if let Some(open) = &mut entry.open {
                open.position = position;
            }
            Ok(())
        })?;
        Ok((used, end))
    }
}

/// Appends a whole entry or nothing.
fn put<'a, T: Field<'a>>(writer: &mut Writer<'_>, entry: &T) -> crate::wire::Result<()> {
    let before = writer.used();
    let result = writer.put(entry);
    if result.is_err() {
        writer.rewind(before);
    }
    result
}

/// DT_* of readdir(3).
fn dirent_kind(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
