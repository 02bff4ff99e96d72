//! The entries in the data of a readdir reply.

use super::codec::{Field, Reader, Writer};
use super::{Data, Node, Qid, Result};

/// An entry of the plain Treaddir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Identity of the file.
    pub qid: Qid,
    /// Where reading continues after this entry.
    pub offset: u64,
    /// DT_* of readdir(3).
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> Field<'a> for DirEntry<'a> {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(DirEntry {
            qid: reader.get()?,
            offset: reader.get()?,
            kind: reader.get()?,
            name: reader.get()?,
        })
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.put(&self.qid)?;
        writer.put(&self.offset)?;
        writer.put(&self.kind)?;
        writer.put(&self.name)
    }
}

/// An entry of the dialect's readdir: with attributes, but for `.` and `..`, whose node is zero
/// except for the qid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntryAttr<'a> {
    /// Identity and attributes.
    pub node: Node,
    /// Where reading continues after this entry.
    pub offset: u64,
    /// DT_* of readdir(3).
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> Field<'a> for DirEntryAttr<'a> {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(DirEntryAttr {
            node: reader.get()?,
            offset: reader.get()?,
            kind: reader.get()?,
            name: reader.get()?,
        })
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.put(&self.node)?;
        writer.put(&self.offset)?;
        writer.put(&self.kind)?;
        writer.put(&self.name)
    }
}

/// Reads the entries of a reply one by one; ends after an error.
#[derive(Debug, Clone)]
pub struct Entries<'a, T> {
    reader: Option<Reader<'a>>,
    entry: core::marker::PhantomData<T>,
}

impl<'a, T: Field<'a>> Entries<'a, T> {
    /// The entries in `data`.
    pub fn new(data: Data<'a>) -> Self {
        Entries { reader: Some(Reader::new(data.0)), entry: core::marker::PhantomData }
    }
}

impl<'a, T: Field<'a>> Iterator for Entries<'a, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let reader = self.reader.as_mut().filter(|reader| !reader.is_empty())?;
        let entry = reader.get();
        if entry.is_err() {
            self.reader = None;
        }
        Some(entry)
    }
}
