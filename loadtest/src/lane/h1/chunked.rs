//! The chunked transfer coding, decoded as it comes: a value that is fed bytes and says which of them are the body's.

use crate::lane::Failure;

/// Longest chunk line, extensions included: 4 KiB. Nobody sends half of that.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// All trailer fields together: 64 KiB.
const TRAILER_BYTES_MAX: usize = 64 * 1024;

/// Where in the coding the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the digits of a chunk's size.
    Size { size: u64, digits: u8 },
    /// Behind them, up to the line's end.
    Extension { size: u64 },
    /// Behind the carriage return of a size's line.
    SizeEnd { size: u64 },
    /// In a chunk.
    Data { left: u64 },
    /// Behind a chunk, before its line end.
    DataEnd,
    /// Within that.
    DataNewline,
    /// In a trailer line that has so many bytes.
    Trailer { line: usize },
    /// Behind the carriage return of a trailer line.
    TrailerEnd { empty: bool },
    /// Behind the last.
    Done,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes of framing were passed over, and more are needed.
    More(usize),
    /// Behind so many bytes of framing come so many of the body.
    Body {
        /// Bytes of framing.
        skip: usize,
        /// Bytes of the body, at least 1.
        take: usize,
    },
    /// The body is whole; so many bytes of framing were its last.
    End(usize),
}

/// A decoder of one body.
#[derive(Debug)]
pub(super) struct Chunked {
    place: Place,
    /// Bytes of the current line, or of all trailers.
    held: usize,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Size { size: 0, digits: 0 },
            held: 0,
        }
    }

    /// Bytes that the current chunk still lacks.
    pub(super) fn lacks(&self) -> Option<u64> {
        match self.place {
            Place::Data { left } => Some(left),
            _ => None,
        }
    }

    /// Looks at `bytes`, the ones behind those of earlier steps.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-7.1
    //# chunked-body = *chunk last-chunk trailer-section CRLF
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, Failure> {
        let bad = |what: &str| Failure::Protocol(format!("chunked body: {what}"));
        for (at, &byte) in bytes.iter().enumerate() {
            self.held += 1;
            self.place = match self.place {
                Place::Size { size, digits } => match (hex(byte), byte) {
                    (Some(value), _) if digits < 16 => Place::Size {
                        size: size << 4 | u64::from(value),
                        digits: digits + 1,
                    },
                    (Some(_), _) => return Err(bad("a size above 2^64")),
                    (None, _) if digits == 0 => return Err(bad("a size without digits")),
                    (None, b'\r') => Place::SizeEnd { size },
                    (None, b';' | b' ' | b'\t') => Place::Extension { size },
                    (None, _) => return Err(bad("a size that is no number")),
                },
                Place::Extension { size } if byte == b'\r' => Place::SizeEnd { size },
                Place::Extension { .. } if byte == b'\n' => {
                    return Err(bad("a bare line feed in an extension"));
                }
                Place::Extension { .. } if self.held > LINE_BYTES_MAX => {
                    return Err(bad("a size's line above 4 KiB"));
                }
                Place::Extension { size } => Place::Extension { size },
                Place::SizeEnd { size } if byte == b'\n' => {
                    self.held = 0;
                    if size == 0 {
                        Place::Trailer { line: 0 }
                    } else {
                        Place::Data { left: size }
                    }
                }
                Place::SizeEnd { .. } => return Err(bad("a size's line without its end")),
                Place::Data { left } => {
                    let there = bytes.len() - at;
                    let take = usize::try_from(left).map_or(there, |left| left.min(there));
                    let left = left - take as u64;
                    self.held = 0;
                    self.place = if left == 0 {
                        Place::DataEnd
                    } else {
                        Place::Data { left }
                    };
                    return Ok(Step::Body { skip: at, take });
                }
                Place::DataEnd if byte == b'\r' => Place::DataNewline,
                Place::DataNewline if byte == b'\n' => {
                    self.held = 0;
                    Place::Size { size: 0, digits: 0 }
                }
                Place::DataEnd | Place::DataNewline => {
                    return Err(bad("a chunk longer than its size"));
                }
                Place::Trailer { line } if byte == b'\r' => Place::TrailerEnd { empty: line == 0 },
                Place::Trailer { .. } if byte == b'\n' => {
                    return Err(bad("a bare line feed in a trailer"));
                }
                Place::Trailer { .. } if self.held > TRAILER_BYTES_MAX => {
                    return Err(bad("trailers above 64 KiB"));
                }
                Place::Trailer { line } => Place::Trailer { line: line + 1 },
                Place::TrailerEnd { empty: true } if byte == b'\n' => {
                    self.place = Place::Done;
                    return Ok(Step::End(at + 1));
                }
                Place::TrailerEnd { empty: false } if byte == b'\n' => Place::Trailer { line: 0 },
                Place::TrailerEnd { .. } => return Err(bad("a trailer line without its end")),
                Place::Done => return Ok(Step::End(0)),
            };
        }
        Ok(Step::More(bytes.len()))
    }
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `wire` in pieces that end at `cuts`; the body, and the bytes behind its end.
    fn decode(wire: &[u8], cuts: &[usize]) -> Result<Option<(Vec<u8>, usize)>, Failure> {
        let mut decoder = Chunked::new();
        let mut body = Vec::new();
        let mut at = 0;
        let ends = cuts.iter().copied().chain([wire.len()]);
        for end in ends {
            while at < end {
                match decoder.step(&wire[at..end])? {
                    Step::More(passed) => at += passed,
                    Step::Body { skip, take } => {
                        at += skip;
                        body.extend_from_slice(&wire[at..at + take]);
                        at += take;
                    }
                    Step::End(passed) => return Ok(Some((body, wire.len() - at - passed))),
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn sizes_extensions_and_trailers_are_framing() {
        let wire = b"4;a=b\r\nabcd\r\n0A \t;x\r\n0123456789\r\n0\r\nDigest: x\r\nA: b\r\n\r\nHTTP";
        assert_eq!(decode(wire, &[]), Ok(Some((b"abcd0123456789".to_vec(), 4))));
    }

    #[test]
    fn what_is_no_chunked_body_is_refused() {
        for wire in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"11111111111111111\r\n",
            b"1\na\r\n",
            b"1;\na",
            b"1\rx",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"0\r\n\n",
            b"0\r\n\rx",
        ] {
            assert!(
                matches!(decode(wire, &[]), Err(Failure::Protocol(_))),
                "{}",
                wire.escape_ascii()
            );
        }
        let long = [b"1;".to_vec(), vec![b'x'; 5000]].concat();
        assert!(decode(&long, &[]).is_err());
        let long = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(11_000)].concat();
        assert!(decode(&long, &[]).is_err());
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_it_is_chunked_and_cut(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            cuts in proptest::collection::vec(0..2000usize, 0..12),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < wire.len()).collect();
            cuts.sort_unstable();
            prop_assert_eq!(decode(&wire, &cuts), Ok(Some((chunks.concat(), 0))));
            // And no proper beginning of it is whole.
            for cut in &cuts {
                prop_assert_eq!(decode(&wire[..*cut], &[]).map(|found| found.is_none()), Ok(true));
            }
        }
    }
}
