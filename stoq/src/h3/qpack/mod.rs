//! Field sections (RFC 9204) without a dynamic table: who announces a table capacity of 0 gets no other, and who sends
//! none is understood by everybody.
//!
//! Reading is lazy: [`Section`] cuts a section into lines and leaves their strings as they came, so a reader who wants
//! two fields of twenty decodes two. Writing chooses the static table where it can and, where asked, the Huffman code.
//!
//! Not here: what a message says. Whether a line may stand where it does is the reader's to judge.

mod encode;
mod huffman;
mod table;

pub use encode::{put_line, put_line_huffman, put_prefix, section};

/// Why a field section cannot be read. To the connection each is QPACK_DECOMPRESSION_FAILED (RFC 9204 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It ends within a line.
    #[error("the field section ends within a line")]
    Truncated,
    /// An integer is larger than any length or index can be.
    #[error("an integer in the field section is too large")]
    Integer,
    /// It refers to a dynamic table, for which there was no leave.
    #[error("the field section refers to a dynamic table")]
    Dynamic,
    /// The static table has no such entry.
    #[error("the static table has no entry {0}")]
    Index(u64),
    /// A string is not in the Huffman code.
    #[error("a string of the field section is not Huffman-coded as it says")]
    Huffman,
}

/// A string of a line, as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text<'a> {
    /// From the static table.
    Static(&'static str),
    /// As it is.
    Plain(&'a [u8]),
    /// Huffman-coded.
    Coded(&'a [u8]),
}

impl<'a> Text<'a> {
    /// Its bytes; `scratch` is overwritten, and used for coded strings alone.
    ///
    /// # Errors
    /// [`Error::Huffman`].
    pub fn bytes<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Error>
    where
        'a: 'b,
    {
        match *self {
            Self::Static(text) => Ok(text.as_bytes()),
            Self::Plain(bytes) => Ok(bytes),
            Self::Coded(coded) => {
                scratch.clear();
                huffman::decode(coded, scratch)?;
                Ok(scratch)
            }
        }
    }
}

/// A field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The field's name, or a pseudo-header field's with its colon.
    pub name: Text<'a>,
    /// Its value.
    pub value: Text<'a>,
}

/// A field section, read line by line.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    rest: &'a [u8],
}

impl<'a> Section<'a> {
    /// Takes the payload of a HEADERS frame.
    ///
    /// # Errors
    /// [`Error::Dynamic`] if it needs entries of a dynamic table; [`Error::Truncated`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut rest = bytes;
        //= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.1
        //# Each encoded field section is prefixed with two integers. The Required Insert Count is encoded as an integer
        //# with an 8-bit prefix
        if integer(&mut rest, 8)?.1 != 0 {
            return Err(Error::Dynamic);
        }
        integer(&mut rest, 7)?;
        Ok(Self { rest })
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The section is of no use then.
    pub fn next_line(&mut self) -> Result<Option<Line<'a>>, Error> {
        let Some(first) = self.rest.first() else {
            return Ok(None);
        };
        let rest = &mut self.rest;
        let line = match first {
            // RFC 9204 section 4.5.2: an indexed field line, of the static table.
            0b1100_0000.. => {
                let (name, value) = entry(integer(rest, 6)?.1)?;
                Line {
                    name: Text::Static(name),
                    value: Text::Static(value),
                }
            }
            // Section 4.5.4: a name of the static table, a value as it is. The `N` bit is for those who send it on.
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => Line {
                name: Text::Static(entry(integer(rest, 4)?.1)?.0),
                value: string(rest, 7)?,
            },
            // Section 4.5.6: both as they are.
            0b0010_0000..=0b0011_1111 => Line {
                name: string(rest, 3)?,
                value: string(rest, 7)?,
            },
            // Dynamic table, before or after the base.
            _ => return Err(Error::Dynamic),
        };
        Ok(Some(line))
    }
}

fn entry(index: u64) -> Result<(&'static str, &'static str), Error> {
    table::get(index).ok_or(Error::Index(index))
}

/// An integer with a prefix of `bits` bits (RFC 7541 section 5.1), and what stands above the prefix.
fn integer(rest: &mut &[u8], bits: u32) -> Result<(u8, u64), Error> {
    let (first, mut tail) = rest.split_first().ok_or(Error::Truncated)?;
    let max = u8::MAX >> (8 - bits);
    let (flags, mut value) = (first & !max, u64::from(first & max));
    if value == u64::from(max) {
        let mut shift = 0;
        loop {
            let (byte, after) = tail.split_first().ok_or(Error::Truncated)?;
            tail = after;
            // Nine bytes of seven bits: more than a QUIC stream can hold.
            if shift > 56 {
                return Err(Error::Integer);
            }
            value += u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Ok((flags, value))
}

/// A string literal whose length has a prefix of `bits` bits; the bit above says whether it is coded.
fn string<'a>(rest: &mut &'a [u8], bits: u32) -> Result<Text<'a>, Error> {
    let (flags, len) = integer(rest, bits)?;
    let len = usize::try_from(len).map_err(|_| Error::Integer)?;
    let (bytes, after) = rest.split_at_checked(len).ok_or(Error::Truncated)?;
    *rest = after;
    Ok(if flags >> bits & 1 == 1 {
        Text::Coded(bytes)
    } else {
        Text::Plain(bytes)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let mut section = Section::new(bytes)?;
        let (mut lines, mut scratch) = (Vec::new(), Vec::new());
        while let Some(line) = section.next_line()? {
            let mut text = |text: Text<'_>| {
                text.bytes(&mut scratch)
                    .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            };
            lines.push((text(line.name)?, text(line.value)?));
        }
        Ok(lines)
    }

    #[test]
    fn the_rfcs_example_reads() {
        // RFC 9204 appendix B.1: a literal with a name of the static table.
        let bytes = [&[0x00, 0x00, 0x51, 0x0b][..], b"/index.html"].concat();
        assert_eq!(
            read(&bytes),
            Ok(vec![(":path".to_owned(), "/index.html".to_owned())])
        );
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (bytes, error) in [
            (&[][..], Error::Truncated),
            (&[0x02, 0x00], Error::Dynamic),
            // Indexed, post-base, name references of the dynamic table.
            (&[0, 0, 0x80], Error::Dynamic),
            (&[0, 0, 0x10], Error::Dynamic),
            (&[0, 0, 0x00], Error::Dynamic),
            (&[0, 0, 0x40, 0], Error::Dynamic),
            // Entry 99 of 99.
            (&[0, 0, 0xff, 36], Error::Index(99)),
            (&[0, 0, 0x51, 5, b'a'], Error::Truncated),
            (&[0, 0, 0x51], Error::Truncated),
            (&[0, 0, 0x51, 0x81, 0xff], Error::Huffman),
            (
                &[
                    0, 0, 0x51, 0x7f, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1,
                ],
                Error::Integer,
            ),
        ] {
            assert_eq!(read(bytes), Err(error), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn lines_come_back_as_they_were_put(
            lines in proptest::collection::vec((":?[a-z][a-z0-9-]{0,20}", "[ -~]{0,40}"), 0..12),
            coded: bool,
        ) {
            let mut out = Vec::new();
            put_prefix(&mut out);
            for (name, value) in &lines {
                if coded {
                    put_line_huffman(&mut out, name, value.as_bytes());
                } else {
                    put_line(&mut out, name, value.as_bytes());
                }
            }
            prop_assert_eq!(read(&out), Ok(lines));
        }

        #[test]
        fn no_bytes_bring_the_reader_down(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }

        #[test]
        fn entries_of_the_static_table_take_a_byte_or_two(place in 0..99_usize) {
            let (name, value) = table::TABLE[place];
            let mut out = Vec::new();
            put_prefix(&mut out);
            put_line(&mut out, name, value.as_bytes());
            prop_assert!(out.len() <= 4, "{} {}: {:x?}", name, value, out);
            prop_assert_eq!(read(&out), Ok(vec![(name.to_owned(), value.to_owned())]));
        }
    }
}
