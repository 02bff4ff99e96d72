//! Fields in bytes: little-endian integers, counted strings, counted lists.

use alloc::vec::Vec;

use super::{Result, WireError};

/// Takes fields from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next field.
    pub fn get<T: Field<'a>>(&mut self) -> Result<T> {
        T::get(self)
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error unless nothing is left.
    pub fn finish(self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }
}

/// Puts fields into a byte slice, from its front.
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    used: usize,
}

impl<'b> Writer<'b> {
    /// Writes into `buffer` after its first `used` bytes.
    pub fn new(buffer: &'b mut [u8], used: usize) -> Self {
        Writer { buffer, used }
    }

    /// Appends a field.
    pub fn put<'a, T: Field<'a>>(&mut self, field: &T) -> Result<()> {
        field.put(self)
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.used.checked_add(bytes.len()).ok_or(WireError::NoSpace)?;
        self.buffer.get_mut(self.used..end).ok_or(WireError::NoSpace)?.copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }

    /// Takes back what was written after the first `used` bytes.
    pub fn rewind(&mut self, used: usize) {
        self.used = self.used.min(used);
    }

    /// How many bytes of the buffer are in use.
    pub fn used(&self) -> usize {
        self.used
    }
}

/// A type that has one form in bytes.
pub trait Field<'a>: Sized {
    /// Takes the field from the reader.
    fn get(reader: &mut Reader<'a>) -> Result<Self>;
    /// Appends the field to the writer.
    fn put(&self, writer: &mut Writer<'_>) -> Result<()>;
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl<'a> Field<'a> for $ty {
            fn get(reader: &mut Reader<'a>) -> Result<Self> {
                Ok(<$ty>::from_le_bytes(reader.array()?))
            }
            fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
                writer.bytes(&self.to_le_bytes())
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 i64);

/// A string: `s[2]`, bytes without a terminator.
impl<'a> Field<'a> for &'a [u8] {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        let length: u16 = reader.get()?;
        reader.bytes(length.into())
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.put(&u16::try_from(self.len()).map_err(|_| WireError::TooLong)?)?;
        writer.bytes(self)
    }
}

/// An element of a list, with the most of them that one message may hold.
pub trait Element<'a>: Field<'a> {
    /// The longest list.
    const MAX: usize;
}

/// A list: `n[2]` and the elements.
impl<'a, T: Element<'a>> Field<'a> for Vec<T> {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        let count = usize::from(reader.get::<u16>()?);
        if count > T::MAX {
            return Err(WireError::TooLong);
        }
        // At most MAX elements, so this allocation is bounded whatever the sender claims.
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(reader.get()?);
        }
        Ok(list)
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        if self.len() > T::MAX {
            return Err(WireError::TooLong);
        }
        writer.put(&u16::try_from(self.len()).map_err(|_| WireError::TooLong)?)?;
        self.iter().try_for_each(|element| writer.put(element))
    }
}

/// Declares plain structures whose form in bytes is their fields in order.
macro_rules! structures {
    ($($(#[$meta:meta])* pub struct $Name:ident {
        $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $Name {
            $($(#[$fmeta])* pub $field: $ty,)*
        }
        impl<'a> $crate::wire::codec::Field<'a> for $Name {
            fn get(reader: &mut $crate::wire::Reader<'a>) -> $crate::wire::Result<Self> {
                Ok($Name { $($field: reader.get()?,)* })
            }
            fn put(&self, writer: &mut $crate::wire::Writer<'_>) -> $crate::wire::Result<()> {
                $(writer.put(&self.$field)?;)*
                Ok(())
            }
        }
        #[cfg(test)]
        impl $crate::wire::tests::Sample for $Name {
            fn sample(rng: &mut $crate::wire::tests::Rng) -> Self {
                $Name { $($field: $crate::wire::tests::Sample::sample(rng),)* }
            }
        }
    )*};
}
pub(super) use structures;
