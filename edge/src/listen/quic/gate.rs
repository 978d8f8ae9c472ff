//! Guards the way from a stream of the client's into the HTTP/3 library: frames are cut apart and measured before the
//! library sees them.
//!
//! The library collects a frame other than DATA until it is whole, takes an empty DATA frame for the end of the body,
//! does not notice a stream that ends inside a DATA frame, and reads ahead of many small ones. So here, in front of it:
//! a frame that has to be held is bounded, unknown frames are skipped as they come, empty DATA frames vanish, the header
//! and the payload of DATA are handed over one by one (which keeps its buffer at two pieces), and a stream's end is one
//! only between frames. Of a pseudo-header field that comes twice the library takes the last, and it takes one behind regular
//! fields: a field section is held until it is whole, and refused for either.
//!
//! Sans-IO: bytes in, pieces out.

use bytes::{Buf as _, Bytes, BytesMut};
use stoq::h3::frame::{self, CONTROL_STREAM, DATA, HEADERS};
use stoq::h3::qpack::{self, Text};

/// A control frame other than SETTINGS is some bytes; SETTINGS a dozen pairs.
const CONTROL_FRAME_MAX: u64 = 4096;

/// Why a stream is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GateError {
    /// A frame that must be held whole is longer than allowed.
    #[error("a frame of type {kind:#x} with {len} bytes is more than the {max} that are held")]
    TooLarge {
        /// The frame's type.
        kind: u64,
        /// Its declared length.
        len: u64,
        /// The bound.
        max: u64,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// A pseudo-header field that is repeated, misplaced or none of a request's.
    #[error("a pseudo-header field is repeated, misplaced or unknown")]
    PseudoField,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Gate {
    state: State,
    /// The frame header read so far.
    header: [u8; frame::HEAD_MAX],
    header_len: usize,
    /// Bytes that arrived and were not handed over.
    pending: Bytes,
    held_max: u64,
    /// What has arrived of a field section; at most `held_max`.
    section: BytesMut,
    /// What the next field section is.
    next: Section,
}

/// A field section's part in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Head,
    Trailers,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// At the start of a unidirectional stream.
    StreamType,
    /// At the start of a frame, or within its header.
    Header,
    /// Within a payload that goes on.
    Payload(u64),
    /// Within a payload nobody wants.
    Skip(u64),
    /// Within a field section.
    Fields(u64),
    /// A stream without frames that concern us.
    Open,
}

impl Gate {
    /// For a request stream; `held_max` bounds an encoded field section, bytes.
    pub(super) fn request(held_max: u64) -> Self {
        Self::new(State::Header, held_max)
    }

    /// For a request stream whose first bytes were read already.
    pub(super) fn resumed(held_max: u64, first: Bytes) -> Self {
        Self {
            pending: first,
            ..Self::request(held_max)
        }
    }

    /// For a unidirectional stream of the client's.
    pub(super) fn unidirectional() -> Self {
        Self::new(State::StreamType, CONTROL_FRAME_MAX)
    }

    fn new(state: State, held_max: u64) -> Self {
        Self {
            state,
            header: [0; frame::HEAD_MAX],
            header_len: 0,
            pending: Bytes::new(),
            held_max,
            section: BytesMut::new(),
            next: Section::Head,
        }
    }

    /// Takes what arrived. Only after [`next_piece`](Self::next_piece) has said `None`.
    pub(super) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.pending.is_empty(), "a piece is still to be taken");
        self.pending = chunk;
    }

    /// The next piece for the library; `None` when more must arrive.
    ///
    /// # Errors
    /// [`GateError::TooLarge`] and [`GateError::PseudoField`]; the stream is of no use then.
    pub(super) fn next_piece(&mut self) -> Result<Option<Bytes>, GateError> {
        while !self.pending.is_empty() {
            match self.state {
                State::Open => return Ok(Some(std::mem::take(&mut self.pending))),
                State::Payload(left) => {
                    let piece = self.take(left);
                    self.within(left - piece.len() as u64, State::Payload);
                    return Ok(Some(piece));
                }
                State::Skip(left) => {
                    let piece = self.take(left);
                    self.within(left - piece.len() as u64, State::Skip);
                }
                State::Fields(left) => {
                    if let Some(section) = self.fields(left)? {
                        return Ok(Some(section));
                    }
                }
                State::StreamType => {
                    if let Some(piece) = self.stream_type() {
                        return Ok(Some(piece));
                    }
                }
                State::Header => {
                    if let Some(piece) = self.frame_header()? {
                        return Ok(Some(piece));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The stream's end.
    ///
    /// # Errors
    //= https://www.rfc-editor.org/rfc/rfc9114#section-7.1
    //# When a stream terminates cleanly, if the last frame on the stream was truncated, this MUST be treated as a
    //# connection error of type H3_FRAME_ERROR.
    /// [`GateError::Truncated`] inside a frame.
    pub(super) fn end(&self) -> Result<(), GateError> {
        match self.state {
            State::Header if self.header_len == 0 => Ok(()),
            State::StreamType | State::Open => Ok(()),
            State::Header | State::Payload(_) | State::Skip(_) | State::Fields(_) => {
                Err(GateError::Truncated)
            }
        }
    }

    fn within(&mut self, left: u64, state: fn(u64) -> State) {
        self.state = if left == 0 {
            State::Header
        } else {
            state(left)
        };
    }

    fn take(&mut self, most: u64) -> Bytes {
        let len = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(self.pending.len());
        self.pending.split_to(len)
    }

    fn stream_type(&mut self) -> Option<Bytes> {
        let kind = self
            .gather(|header| frame::varint(header).map(|(kind, len)| (kind, 0, len)))?
            .0;
        self.state = if kind == CONTROL_STREAM {
            State::Header
        } else {
            State::Open
        };
        Some(self.flush_header())
    }

    fn frame_header(&mut self) -> Result<Option<Bytes>, GateError> {
        let parsed = self.gather(frame::head);
        let Some((kind, len)) = parsed else {
            return Ok(None);
        };
        if kind == DATA && len > 0 {
            self.state = State::Payload(len);
            return Ok(Some(self.flush_header()));
        }
        if kind == DATA || !is_known(kind) {
            self.header_len = 0;
            self.within(len, State::Skip);
            return Ok(None);
        }
        if len > self.held_max {
            return Err(GateError::TooLarge {
                kind,
                len,
                max: self.held_max,
            });
        }
        let state = if kind == HEADERS {
            State::Fields
        } else {
            State::Payload
        };
        self.within(len, state);
        Ok(Some(self.flush_header()))
    }

    /// Gathers a field section, of which `left` bytes are to come; all of it, once it is here and nothing is wrong with it.
    fn fields(&mut self, left: u64) -> Result<Option<Bytes>, GateError> {
        let piece = self.take(left);
        let left = left - piece.len() as u64;
        if left > 0 {
            self.section.extend_from_slice(&piece);
            self.state = State::Fields(left);
            return Ok(None);
        }
        self.state = State::Header;
        let section = if self.section.is_empty() {
            piece
        } else {
            self.section.extend_from_slice(&piece);
            std::mem::take(&mut self.section).freeze()
        };
        let part = std::mem::replace(&mut self.next, Section::Trailers);
        if has_pseudo_fields_in_place(&section, part) {
            Ok(Some(section))
        } else {
            Err(GateError::PseudoField)
        }
    }

    /// Moves bytes into the header until `parse` finds it complete; what it did not need goes back.
    fn gather(&mut self, parse: impl Fn(&[u8]) -> Option<(u64, u64, usize)>) -> Option<(u64, u64)> {
        while self.pending.has_remaining() && self.header_len < frame::HEAD_MAX {
            let byte = self.pending.get_u8();
            let slot = self.header.get_mut(self.header_len)?;
            *slot = byte;
            self.header_len += 1;
            if let Some((kind, len, used)) = self.header.get(..self.header_len).and_then(&parse) {
                debug_assert_eq!(
                    used, self.header_len,
                    "one byte at a time: nothing is left over"
                );
                return Some((kind, len));
            }
        }
        None
    }

    fn flush_header(&mut self) -> Bytes {
        let header = self
            .header
            .get(..self.header_len)
            .map(Bytes::copy_from_slice)
            .unwrap_or_default();
        self.header_len = 0;
        header
    }
}

/// Whether each pseudo-header field stands where it may, once. What cannot be read is the library's to refuse.
fn has_pseudo_fields_in_place(section: &[u8], part: Section) -> bool {
    const OF_REQUESTS: [&[u8]; 5] = [
        b":method",
        b":scheme",
        b":authority",
        b":path",
        b":protocol",
    ];
    let Ok(mut lines) = qpack::Section::new(section) else {
        return true;
    };
    let mut seen = [false; OF_REQUESTS.len()];
    let mut behind_fields = part == Section::Trailers;
    let mut scratch = Vec::new();
    while let Ok(Some(line)) = lines.next_line() {
        let name = match line.name {
            Text::Static(name) => name.as_bytes(),
            name @ (Text::Plain(_) | Text::Coded(_)) => match name.bytes(&mut scratch) {
                Ok(name) => name,
                Err(_) => return true,
            },
        };
        if !name.starts_with(b":") {
            behind_fields = true;
            continue;
        }
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.3
        //# Any request or response that contains a pseudo-header field that
        //# appears in a header section after a regular header field MUST be
        //# treated as malformed.
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.3
        //# Endpoints MUST treat a request or response that contains undefined or
        //# invalid pseudo-header fields as malformed.
        let place = OF_REQUESTS.iter().position(|known| *known == name);
        let slot = place.and_then(|place| seen.get_mut(place));
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.3.1
        //# All HTTP/3 requests MUST include exactly one value for the :method,
        //# :scheme, and :path pseudo-header fields, unless the request is a
        //# CONNECT request
        match slot {
            Some(slot) if !*slot && !behind_fields => *slot = true,
            Some(_) | None => return false,
        }
    }
    true
}

/// Frame types that mean something to the library, if only a violation.
fn is_known(kind: u64) -> bool {
    //= https://www.rfc-editor.org/rfc/rfc9114#section-9
    //# Implementations MUST ignore unknown or unsupported values in all extensible protocol elements.
    matches!(kind, DATA | HEADERS | 0x2..=0x9 | 0xd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(value: u64, out: &mut Vec<u8>) {
        let (len, mark) = match value {
            0..0x40 => (1, 0x00),
            0x40..0x4000 => (2, 0x40),
            0x4000..0x4000_0000 => (4, 0x80),
            _ => (8, 0xc0),
        };
        let start = out.len();
        out.extend(&value.to_be_bytes()[8 - len..]);
        out[start] |= mark;
    }

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(kind, &mut out);
        encode(payload.len() as u64, &mut out);
        out.extend(payload);
        out
    }

    /// Feeds `wire` in pieces of `step`; what comes out, and how the stream ended.
    fn run(mut gate: Gate, wire: &[u8], step: usize) -> (Vec<Bytes>, Result<(), GateError>) {
        let mut pieces = Vec::new();
        for chunk in wire.chunks(step.max(1)) {
            gate.push(Bytes::copy_from_slice(chunk));
            loop {
                match gate.next_piece() {
                    Ok(Some(piece)) => pieces.push(piece),
                    Ok(None) => break,
                    Err(error) => return (pieces, Err(error)),
                }
            }
        }
        let end = gate.end();
        (pieces, end)
    }

    #[test]
    fn a_frame_that_would_be_held_is_refused_by_its_length_alone() {
        let mut wire = Vec::new();
        encode(HEADERS, &mut wire);
        encode(1 << 40, &mut wire);
        let (pieces, end) = run(Gate::request(1000), &wire, 100);
        assert!(pieces.is_empty());
        assert_eq!(
            end,
            Err(GateError::TooLarge {
                kind: HEADERS,
                len: 1 << 40,
                max: 1000
            })
        );
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error_wherever_it_falls() {
        let wire = [frame(HEADERS, b"head"), frame(DATA, b"body")].concat();
        let borders = [0, frame(HEADERS, b"head").len(), wire.len()];
        for cut in 0..=wire.len() {
            let (_, end) = run(Gate::request(1000), &wire[..cut], 3);
            assert_eq!(end.is_ok(), borders.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn data_headers_and_payloads_come_apart() {
        let wire = [frame(DATA, b"a"), frame(DATA, b""), frame(DATA, b"bc")].concat();
        let (pieces, end) = run(Gate::request(1000), &wire, 100);
        assert_eq!(pieces, [&[0, 1][..], b"a", &[0, 2], b"bc"]);
        assert_eq!(end, Ok(()));
    }

    #[test]
    fn a_pseudo_field_stands_once_and_before_the_others() {
        const HEAD: [(&str, &str); 4] = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", "/"),
        ];
        let message = |head: &[(&str, &str)], trailers: &[(&str, &str)]| {
            let section = |lines: &[(&str, &str)]| {
                let lines = lines.iter().map(|(name, value)| (*name, value.as_bytes()));
                frame(HEADERS, &qpack::section(lines))
            };
            [section(head), frame(DATA, b"body"), section(trailers)].concat()
        };
        let with = |more: &[(&'static str, &'static str)]| [&HEAD[..], more].concat();
        let trailer = [("x-sum", "1")];
        #[rustfmt::skip]
        let table = [
            (message(&HEAD, &trailer), true),
            (message(&with(&[("x", "1"), ("x", "2")]), &trailer), true),
            (message(&with(&[(":protocol", "websocket")]), &trailer), true),
            (message(&with(&[(":method", "GET")]), &trailer), false),
            (message(&with(&[(":path", "/admin")]), &trailer), false),
            (message(&with(&[(":authority", "b.test")]), &trailer), false),
            (message(&with(&[(":scheme", "http")]), &trailer), false),
            (message(&with(&[(":protocol", "a"), (":protocol", "b")]), &trailer), false),
            (message(&with(&[(":status", "200")]), &trailer), false),
            (message(&with(&[(":secret", "1")]), &trailer), false),
            (message(&[&[("x", "1")], &HEAD[..]].concat(), &trailer), false),
            (message(&HEAD, &[("x-sum", "1"), (":path", "/")]), false),
            (message(&HEAD, &[(":path", "/")]), false),
        ];
        for (wire, passes) in table {
            for step in [1, 7, 1000] {
                let (pieces, end) = run(Gate::request(1000), &wire, step);
                if passes {
                    assert_eq!((pieces.concat(), end), (wire.clone(), Ok(())));
                } else {
                    assert_eq!(end, Err(GateError::PseudoField), "{wire:?}");
                }
            }
        }
    }

    #[test]
    fn control_streams_are_measured_and_others_let_through() {
        let mut control = vec![0x00];
        control.extend(frame(0x4, &[0x06, 0x40, 0x40]));
        let (pieces, _) = run(Gate::unidirectional(), &control, 2);
        assert_eq!(pieces.concat(), control);
        control.extend(frame(0x4, &[0; 5000]));
        assert!(matches!(
            run(Gate::unidirectional(), &control, 7).1,
            Err(GateError::TooLarge { kind: 4, .. })
        ));
        let encoder = [0x02, 0xff, 0xff, 0x00, 0x01];
        assert_eq!(run(Gate::unidirectional(), &encoder, 2).0.concat(), encoder);
    }

    proptest! {
        /// What comes out is what went in, less unknown and empty DATA frames, however it was cut.
        #[test]
        fn known_frames_pass_unchanged(
            frames in prop::collection::vec((prop_oneof![Just(0_u64), Just(1), Just(0x21), Just(0x41), 0..80_u64],
                                             prop::collection::vec(any::<u8>(), 0..300)), 0..12),
            step in 1..500_usize,
        ) {
            let mut wire = Vec::new();
            let mut expected: Vec<u8> = Vec::new();
            for (kind, payload) in &frames {
                let bytes = frame(*kind, payload);
                wire.extend(&bytes);
                if is_known(*kind) && !(*kind == DATA && payload.is_empty()) {
                    expected.extend(&bytes);
                }
            }
            let (pieces, end) = run(Gate::request(1000), &wire, step);
            // Any bytes may happen to be a field section, which is refused for its fields; that is another test's.
            let has_head = frames.iter().any(|(kind, _)| *kind == HEADERS);
            prop_assume!(end != Err(GateError::PseudoField) || !has_head);
            prop_assert_eq!(pieces.concat(), expected);
            prop_assert_eq!(end, Ok(()));
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }

        /// Any bytes at all: no panic, and never more out than in.
        #[test]
        fn arbitrary_bytes_are_survived(wire in prop::collection::vec(any::<u8>(), 0..600), step in 1..64_usize) {
            let (pieces, _) = run(Gate::request(100), &wire, step);
            prop_assert!(pieces.concat().len() <= wire.len());
        }
    }
}
