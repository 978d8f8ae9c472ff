//! A response's frames, cut out of its stream as it comes.
//!
//! Sans-IO: pieces in, in any cut; calls of the [`Sink`] out. Holds nothing of a body. A field section that is all in one
//! piece is read where it lies; only one that is cut is gathered.

use bytes::{Buf as _, Bytes};
use stoq::h3::frame::{self, CANCEL_PUSH, DATA, GOAWAY, HEADERS, SETTINGS};
use stoq::h3::qpack::{Section, Text};

use super::super::{Failure, Sink};

/// Longest field section, bytes; a longer one is an error.
pub(super) const HEAD_BYTES_MAX: u64 = 64 * 1024;
/// A promise of a push, which this side has not allowed.
const PUSH_PROMISE: u64 = 0x5;
const MAX_PUSH_ID: u64 = 0xd;

/// What has come of a response.
#[derive(Debug)]
pub(super) struct Response {
    state: State,
    /// The header of the frame that begins, or a field section, as far as it is here.
    gathered: Vec<u8>,
    told: Told,
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At a frame's header.
    Frame,
    /// In a field section, so many bytes of it to come.
    Fields(usize),
    /// In a body.
    Data(u64),
    /// In what is passed over.
    Skip(u64),
}

/// What the sink has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Head,
    /// Trailers have come: no data can follow.
    Trailers,
}

impl Response {
    pub(super) fn new() -> Self {
        Self {
            state: State::Frame,
            gathered: Vec::new(),
            told: Told::Nothing,
            scratch: Vec::new(),
        }
    }

    /// Ready for another response; what was allocated is used again.
    pub(super) fn reset(&mut self) {
        self.state = State::Frame;
        self.gathered.clear();
        self.told = Told::Nothing;
    }

    /// The next bytes of the stream.
    pub(super) fn push(&mut self, mut piece: Bytes, sink: &mut Sink<'_>) -> Result<(), Failure> {
        while !piece.is_empty() {
            match self.state {
                State::Frame => self.frame(&mut piece)?,
                State::Fields(left) => self.fields(&mut piece, left, sink)?,
                State::Data(left) => {
                    let now = take(left, piece.len());
                    sink.body(piece.get(..now).unwrap_or_default())?;
                    piece.advance(now);
                    self.after(left - now as u64, State::Data);
                }
                State::Skip(left) => {
                    let now = take(left, piece.len());
                    piece.advance(now);
                    self.after(left - now as u64, State::Skip);
                }
            }
        }
        Ok(())
    }

    /// The stream's end.
    pub(super) fn end(&self, sink: &mut Sink<'_>) -> Result<(), Failure> {
        //= https://www.rfc-editor.org/rfc/rfc9114#section-7.1
        //# When a stream terminates cleanly, if the last frame on the stream was truncated, this MUST be treated as a
        //# connection error of type H3_FRAME_ERROR.
        if self.state != State::Frame || !self.gathered.is_empty() {
            return Err(match self.state {
                State::Data(_) => Failure::Truncated {
                    got: sink.received(),
                    want: None,
                },
                _ => Failure::Protocol("the stream ended within a frame".to_owned()),
            });
        }
        sink.end()
    }

    fn after(&mut self, left: u64, state: fn(u64) -> State) {
        self.state = if left == 0 { State::Frame } else { state(left) };
    }

    fn frame(&mut self, piece: &mut Bytes) -> Result<(), Failure> {
        // Most headers are all here; one that is cut is gathered byte by byte.
        let whole = if self.gathered.is_empty() {
            frame::head(piece)
        } else {
            None
        };
        let (kind, len) = match whole {
            Some((kind, len, used)) => {
                piece.advance(used);
                (kind, len)
            }
            None => {
                let Some(byte) = piece.first().copied() else {
                    return Ok(());
                };
                piece.advance(1);
                self.gathered.push(byte);
                match frame::head(&self.gathered) {
                    Some((kind, len, _)) => {
                        self.gathered.clear();
                        (kind, len)
                    }
                    None => return Ok(()),
                }
            }
        };
        self.state = match kind {
            DATA if self.told == Told::Head => State::Data(len),
            DATA => return Err(unexpected("DATA")),
            HEADERS if self.told == Told::Trailers => return Err(unexpected("HEADERS")),
            HEADERS if len <= HEAD_BYTES_MAX => {
                State::Fields(usize::try_from(len).unwrap_or(usize::MAX))
            }
            HEADERS => {
                return Err(Failure::Protocol(format!(
                    "a field section of {len} bytes, at most {HEAD_BYTES_MAX} are read"
                )));
            }
            //= https://www.rfc-editor.org/rfc/rfc9114#section-7.2.8
            //# These frames' types are reserved; receipt of these frame types MUST be treated as a connection error of
            //# type H3_FRAME_UNEXPECTED. (0x2, 0x6, 0x8, 0x9: HTTP/2's)
            CANCEL_PUSH | SETTINGS | GOAWAY | MAX_PUSH_ID | PUSH_PROMISE | 0x2 | 0x6 | 0x8
            | 0x9 => {
                return Err(Failure::Protocol(format!(
                    "a frame of type {kind:#x} on a request's stream"
                )));
            }
            _ => State::Skip(len),
        };
        // A frame may be empty; nothing would come for it.
        match self.state {
            State::Data(0) | State::Skip(0) => self.state = State::Frame,
            State::Fields(0) => return Err(Failure::Protocol("an empty field section".to_owned())),
            _ => {}
        }
        Ok(())
    }

    fn fields(
        &mut self,
        piece: &mut Bytes,
        left: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        if self.gathered.is_empty() && piece.len() >= left {
            let section = piece.split_to(left);
            self.state = State::Frame;
            return self.section(&section, sink);
        }
        let now = left.min(piece.len());
        self.gathered.extend_from_slice(&piece.split_to(now));
        if now < left {
            self.state = State::Fields(left - now);
            return Ok(());
        }
        self.state = State::Frame;
        let section = std::mem::take(&mut self.gathered);
        let told = self.section(&section, sink);
        self.gathered = section;
        self.gathered.clear();
        told
    }

    fn section(&mut self, section: &[u8], sink: &mut Sink<'_>) -> Result<(), Failure> {
        if self.told == Told::Head {
            self.told = Told::Trailers;
            return Ok(());
        }
        let head = Head::read(section, &mut self.scratch, sink)?;
        if (100..200).contains(&head.status) {
            return Ok(());
        }
        self.told = Told::Head;
        sink.head(head.status, head.length)
    }
}

fn take(left: u64, here: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(here)
}

fn unexpected(kind: &str) -> Failure {
    Failure::Protocol(format!("{kind} where none may be"))
}

/// What of a head matters here.
struct Head {
    status: u16,
    length: Option<u64>,
}

impl Head {
    /// Looks at `:status`, `Content-Length` and `Content-Range`; the rest of the section is cut into lines and left as it is.
    fn read(section: &[u8], scratch: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<Self, Failure> {
        let bad = |error: stoq::h3::qpack::Error| Failure::Protocol(error.to_string());
        let mut section = Section::new(section).map_err(bad)?;
        let (mut status, mut length) = (None, None);
        while let Some(line) = section.next_line().map_err(bad)? {
            let field = match line.name {
                Text::Static(name) => Field::of(name.as_bytes()),
                name @ (Text::Plain(_) | Text::Coded(_)) => {
                    Field::of(name.bytes(scratch).map_err(bad)?)
                }
            };
            if field == Field::Other {
                continue;
            }
            let value = line.value.bytes(scratch).map_err(bad)?;
            match field {
                Field::Status => {
                    let number = number(value).and_then(|number| u16::try_from(number).ok());
                    let number = number.filter(|number| (100..1000).contains(number));
                    if status.is_some() || number.is_none() {
                        return Err(Failure::Protocol(format!(
                            "`:status` is `{}`",
                            value.escape_ascii()
                        )));
                    }
                    status = number;
                }
                Field::Length => {
                    let number = number(value).ok_or_else(|| {
                        Failure::Protocol(format!(
                            "Content-Length `{}` is no number",
                            value.escape_ascii()
                        ))
                    })?;
                    if length.is_some_and(|earlier| earlier != number) {
                        return Err(Failure::Protocol(
                            "two Content-Lengths that differ".to_owned(),
                        ));
                    }
                    length = Some(number);
                }
                Field::Range => sink.content_range(value),
                Field::Other => {}
            }
        }
        match status {
            Some(status) => Ok(Self { status, length }),
            None => Err(Failure::Protocol("a response without a status".to_owned())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Status,
    Length,
    Range,
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name {
            b":status" => Self::Status,
            b"content-length" => Self::Length,
            b"content-range" => Self::Range,
            _ => Self::Other,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use stoq::h3::qpack;

    use super::*;
    use crate::workload::{Ask, Known, Object, Verb};

    fn ask(known: Known) -> Ask {
        Ask {
            verb: Verb::Get,
            object: Arc::new(Object {
                path: "/".into(),
                authority: None,
                known,
            }),
        }
    }

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::put_head(&mut out, kind, payload.len() as u64);
        out.extend(payload);
        out
    }

    fn head(lines: &[(&str, &str)]) -> Vec<u8> {
        let section = qpack::section(lines.iter().map(|(name, value)| (*name, value.as_bytes())));
        frame(HEADERS, &section)
    }

    fn read(pieces: &[&[u8]], known: Known) -> Result<(u16, u64), Failure> {
        let ask = ask(known);
        let (mut sink, mut response) = (Sink::new(&ask), Response::new());
        for piece in pieces {
            response.push(Bytes::copy_from_slice(piece), &mut sink)?;
        }
        response.end(&mut sink)?;
        Ok((sink.status().unwrap_or(0), sink.received()))
    }

    fn plain() -> Vec<u8> {
        [
            head(&[(":status", "103"), ("link", "x")]),
            frame(0x21, b"passed over"),
            head(&[(":status", "200"), ("content-length", "6"), ("age", "9")]),
            frame(DATA, b"abc"),
            frame(DATA, b""),
            frame(0x21, b""),
            frame(DATA, b"def"),
            head(&[("trailer", "x")]),
        ]
        .concat()
    }

    #[test]
    fn a_response_is_read_past_interim_ones_unknown_frames_and_trailers() {
        let known = Known::Body(Bytes::from_static(b"abcdef"));
        assert_eq!(read(&[&plain()], known), Ok((200, 6)));
    }

    #[test]
    fn what_is_wrong_is_an_error_and_never_an_answer() {
        let ok = head(&[(":status", "200"), ("content-length", "3")]);
        let with = |more: &[u8]| [&ok[..], more].concat();
        let protocol = |bytes: &[u8]| {
            let read = read(&[bytes], Known::Nothing);
            assert!(
                matches!(read, Err(Failure::Protocol(_))),
                "{bytes:x?} {read:?}"
            );
        };
        for bytes in [
            Vec::new(),
            frame(DATA, b"abc"),
            with(&frame(SETTINGS, b"")),
            with(&frame(PUSH_PROMISE, b"x")),
            ok[..ok.len() - 1].to_vec(),
            ok[..1].to_vec(),
            frame(HEADERS, b""),
            frame(HEADERS, &[0, 0, 0x80]),
            head(&[("content-length", "3")]),
            head(&[(":status", "20")]),
            head(&[(":status", "200"), (":status", "200")]),
            head(&[(":status", "200"), ("content-length", "-1")]),
            head(&[
                (":status", "200"),
                ("content-length", "3"),
                ("content-length", "4"),
            ]),
            [&ok[..], &frame(DATA, b"abc"), &head(&[("t", "x")]), &ok].concat(),
        ] {
            protocol(&bytes);
        }
        let mut large = Vec::new();
        frame::put_head(&mut large, HEADERS, HEAD_BYTES_MAX + 1);
        protocol(&large);
        // A frame cut short, a body shorter than declared, one longer.
        let mut cut = Vec::new();
        frame::put_head(&mut cut, DATA, 3);
        cut.extend(b"ab");
        for more in [cut, frame(DATA, b"ab")] {
            let read = read(&[&with(&more)], Known::Nothing);
            assert!(
                matches!(read, Err(Failure::Truncated { got: 2, .. })),
                "{read:?}"
            );
        }
        let read = read(&[&with(&frame(DATA, b"abcd"))], Known::Nothing);
        assert!(matches!(read, Err(Failure::Wrong(_))), "{read:?}");
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_reads_the_same(cuts in proptest::collection::vec(0..80_usize, 0..20)) {
            let bytes = plain();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            let known = Known::Body(Bytes::from_static(b"abcdef"));
            prop_assert_eq!(read(&pieces, known), Ok((200, 6)));
        }

        #[test]
        fn no_bytes_bring_it_down(bytes: Vec<u8>) {
            let _ = read(&[&bytes], Known::Nothing);
        }
    }
}
