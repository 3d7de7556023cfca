//! Numbers, texts and lists as bytes: little-endian, every length limited, nothing trusted.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use drizzle_shuffle::HeaderError;
use thiserror::Error;

/// The longest text of a message, in bytes. [`Writer::text`] cuts what is longer.
pub const MAX_TEXT: usize = 64 << 10;

const ADDRESS_V4: u8 = 4;
const ADDRESS_V6: u8 = 6;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("{what} needs {needed} bytes, but {found} are left")]
    Truncated {
        /// What was to be read.
        what: &'static str,
        /// How many bytes it takes, or takes at least.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// The bytes go on after the end.
    #[error("{found} bytes follow the end of {what}")]
    Trailing {
        /// What has ended.
        what: &'static str,
        /// How many bytes are too many.
        found: usize,
    },
    /// A number that stands for none of the choices.
    #[error("{what} cannot be {found}")]
    UnknownTag {
        /// What was to be read.
        what: &'static str,
        /// The number.
        found: u8,
    },
    /// A length or count beyond its limit.
    #[error("the length of {what} is {found}, but at most {limit} is allowed")]
    TooLong {
        /// What was to be read.
        what: &'static str,
        /// Its length, in bytes or in elements.
        found: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A text that is not UTF-8.
    #[error("{what} is not UTF-8 after its first {valid} bytes")]
    NotText {
        /// What was to be read.
        what: &'static str,
        /// How many bytes of it are.
        valid: usize,
    },
    /// A value that nobody may send, because the receiver could not calculate with it.
    #[error("{what} must be {expected}, but it is {found}")]
    Impossible {
        /// What was read.
        what: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
    /// A body of another length than the head says.
    #[error("{what} must have a body of {expected} bytes, but {found} have come")]
    Body {
        /// What the head is.
        what: &'static str,
        /// The length that the head says.
        expected: usize,
        /// The length that the frame says.
        found: usize,
    },
    /// The header of a block is wrong.
    #[error("the header of a block is wrong: {0}")]
    Block(#[from] HeaderError),
}

/// Appends values to bytes.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// One byte, 0 or 1.
    pub fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// How many elements follow, in four bytes.
    ///
    /// # Panics
    ///
    /// If they are more than `limit`: the reader would refuse them.
    pub fn count(&mut self, count: usize, limit: usize) {
        assert!(count <= limit, "{count} elements, but the reader takes at most {limit}");
        self.u32(u32::try_from(count).expect("the limits of the protocol fit 32 bits"));
    }

    /// Their number in four bytes, then the bytes.
    ///
    /// # Panics
    ///
    /// If they are more than `limit`: the reader would refuse them.
    pub fn bytes(&mut self, bytes: &[u8], limit: usize) {
        self.count(bytes.len(), limit);
        self.out.extend_from_slice(bytes);
    }

    /// How many elements follow, then the elements.
    ///
    /// # Panics
    ///
    /// If they are more than `limit`: the reader would refuse them.
    pub fn list<T>(
        &mut self,
        elements: &[T],
        limit: usize,
        mut write: impl FnMut(&mut Writer<'a>, &T),
    ) {
        self.count(elements.len(), limit);
        elements.iter().for_each(|element| write(self, element));
    }

    /// Whether there is a value, then the value.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer<'a>, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A text that a person reads; beyond [`MAX_TEXT`] bytes it is cut.
    pub fn text(&mut self, text: &str) {
        let cut = &text[..text.floor_char_boundary(MAX_TEXT)];
        self.bytes(cut.as_bytes(), MAX_TEXT);
    }

    /// The family, the address, the port; and for version 6 what belongs to it.
    pub fn address(&mut self, address: SocketAddr) {
        match address {
            SocketAddr::V4(address) => {
                self.u8(ADDRESS_V4);
                self.out.extend_from_slice(&address.ip().octets());
                self.u16(address.port());
            }
            SocketAddr::V6(address) => {
                self.u8(ADDRESS_V6);
                self.out.extend_from_slice(&address.ip().octets());
                self.u16(address.port());
                self.u32(address.flowinfo());
                self.u32(address.scope_id());
            }
        }
    }

    /// The bytes themselves, for a part that has its own encoding.
    pub fn raw(&mut self) -> &mut Vec<u8> {
        self.out
    }
}

/// Takes values from the front of bytes. What it allocates is at most a small multiple of them.
///
/// `what` names a value in the error, with its article.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// So many bytes.
    pub fn take(&mut self, what: &'static str, length: usize) -> Result<&'a [u8], DecodeError> {
        let found = self.rest.len();
        let split = self.rest.split_at_checked(length);
        let (taken, rest) = split.ok_or(DecodeError::Truncated { what, needed: length, found })?;
        self.rest = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// One byte that is 0 or 1.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::UnknownTag { what, found }),
        }
    }

    /// How many elements follow, each at least `element` bytes long: never more than could be there.
    pub fn count(
        &mut self,
        what: &'static str,
        limit: usize,
        element: usize,
    ) -> Result<usize, DecodeError> {
        let count = self.u32(what)? as usize;
        if count > limit {
            return Err(DecodeError::TooLong { what, found: count, limit });
        }
        let (needed, found) = (count.saturating_mul(element), self.rest.len());
        if needed > found {
            return Err(DecodeError::Truncated { what, needed, found });
        }
        Ok(count)
    }

    /// As many elements as the number before them says, each at least `element` bytes long.
    pub fn list<T, C: FromIterator<T>>(
        &mut self,
        what: &'static str,
        limit: usize,
        element: usize,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<C, DecodeError> {
        let count = self.count(what, limit, element)?;
        (0..count).map(|_| read(self)).collect()
    }

    /// A value, if the flag before it says that there is one.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.flag(what)? {
            true => read(self).map(Some),
            false => Ok(None),
        }
    }

    /// As many bytes as the number before them says.
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.count(what, limit, 1)?;
        self.take(what, length)
    }

    /// A text of at most `limit` bytes.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        let bytes = self.bytes(what, limit)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned)
            .map_err(|error| DecodeError::NotText { what, valid: error.valid_up_to() })
    }

    /// An address with its port.
    pub fn address(&mut self, what: &'static str) -> Result<SocketAddr, DecodeError> {
        match self.u8(what)? {
            ADDRESS_V4 => {
                let ip = Ipv4Addr::from(self.array::<4>(what)?);
                Ok(SocketAddrV4::new(ip, self.u16(what)?).into())
            }
            ADDRESS_V6 => {
                let ip = Ipv6Addr::from(self.array::<16>(what)?);
                let (port, flow) = (self.u16(what)?, self.u32(what)?);
                Ok(SocketAddrV6::new(ip, port, flow, self.u32(what)?).into())
            }
            found => Err(DecodeError::UnknownTag { what, found }),
        }
    }

    /// That everything has been read.
    pub fn end(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            found => Err(DecodeError::Trailing { what, found }),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let found = self.rest.len();
        let split = self.rest.split_first_chunk::<N>();
        let (taken, rest) = split.ok_or(DecodeError::Truncated { what, needed: N, found })?;
        self.rest = rest;
        Ok(*taken)
    }
}
