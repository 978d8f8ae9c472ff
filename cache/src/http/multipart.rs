//! Several parts of a body in one answer: `multipart/byteranges` (RFC 9110 §14.6), the text around the bytes.
//!
//! The bytes themselves stay where they are: whoever writes the answer sends [`Part::head`], the slice, and so on, and
//! [`Multipart::tail`] at the end. Lengths are known before the first byte, so the answer declares its own.

use bytes::Bytes;
use http::HeaderValue;

use super::range::{Slice, content_range};

/// An answer with several parts, 2 to [`PARTS_MAX`](super::range::PARTS_MAX).
#[derive(Debug, PartialEq, Eq)]
pub struct Multipart {
    boundary: String,
    parts: Vec<Part>,
    tail: Bytes,
}

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// What stands before its bytes: delimiter and fields.
    pub head: Bytes,
    /// Its bytes.
    pub slice: Slice,
}

impl Multipart {
    /// Lays out parts of a body of `total` bytes. `content_type` is the representation's, where it has one.
    ///
    /// `boundary` must not be guessed by who wrote the body, so that no body can end its part early in the eyes of a
    /// reader that looks for the delimiter: 128 random bits.
    #[must_use]
    pub fn new(
        slices: &[Slice],
        total: u64,
        content_type: Option<&HeaderValue>,
        boundary: u128,
    ) -> Self {
        let boundary = format!("{boundary:032x}");
        let parts = slices
            .iter()
            .enumerate()
            .map(|(i, slice)| Part {
                head: head(i == 0, &boundary, content_type, *slice, total),
                slice: *slice,
            })
            .collect();
        let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        Self {
            boundary,
            parts,
            tail,
        }
    }

    /// The parts, in the order they are sent.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What stands after the last part's bytes.
    #[must_use]
    pub fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// Bytes of the whole answer.
    #[must_use]
    pub fn length(&self) -> u64 {
        let parts = self.parts.iter().map(|part| {
            (part.head.len() as u64).saturating_add(part.slice.end.saturating_sub(part.slice.start))
        });
        parts.fold(self.tail.len() as u64, u64::saturating_add)
    }

    /// `Content-Type` of the answer.
    #[must_use]
    pub fn content_type(&self) -> HeaderValue {
        HeaderValue::try_from(format!("multipart/byteranges; boundary={}", self.boundary))
            .unwrap_or_else(|_| HeaderValue::from_static("multipart/byteranges"))
    }
}

/// The delimiter and the fields of a part.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
//# If the selected representation would have had a Content-Type header
//# field in a 200 (OK) response, the server SHOULD generate that same
//# Content-Type header field in the header area of each body part.
fn head(
    first: bool,
    boundary: &str,
    content_type: Option<&HeaderValue>,
    slice: Slice,
    total: u64,
) -> Bytes {
    let mut head = Vec::with_capacity(192);
    let mut push = |text: &[u8]| head.extend_from_slice(text);
    // The line break before a delimiter belongs to it; before the first there is nothing to break.
    push(if first { b"--" } else { b"\r\n--" });
    push(boundary.as_bytes());
    push(b"\r\n");
    if let Some(content_type) = content_type {
        push(b"Content-Type: ");
        push(content_type.as_bytes());
        push(b"\r\n");
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
    //# Within the header area of each body part in the multipart content,
    //# the server MUST generate a Content-Range header field corresponding
    //# to the range being enclosed in that body part.
    if let Some(range) = content_range(slice, Some(total)) {
        push(b"Content-Range: ");
        push(range.as_bytes());
        push(b"\r\n");
    }
    push(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reads_as_in_the_rfc_and_is_as_long_as_it_says() {
        let slices = [Slice { start: 7, end: 9 }, Slice { start: 0, end: 3 }];
        let content_type = HeaderValue::from_static("text/plain");
        let multipart = Multipart::new(&slices, 10, Some(&content_type), 0xab);
        let mut text = Vec::new();
        for part in multipart.parts() {
            text.extend_from_slice(&part.head);
            let (start, end) = (part.slice.start, part.slice.end);
            text.extend((start..end).map(|at| b'0' + u8::try_from(at).unwrap()));
        }
        text.extend_from_slice(multipart.tail());
        let boundary = "000000000000000000000000000000ab";
        let expected = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-8/10\r\n\r\n78\r\n\
             --{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-2/10\r\n\r\n012\r\n\
             --{boundary}--\r\n"
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(multipart.length(), expected.len() as u64);
        assert_eq!(
            multipart.content_type(),
            format!("multipart/byteranges; boundary={boundary}")
        );
    }

    #[test]
    fn a_body_without_a_type_has_parts_without_one() {
        let multipart = Multipart::new(&[Slice { start: 0, end: 1 }], 2, None, 1);
        let head = String::from_utf8(multipart.parts()[0].head.to_vec()).unwrap();
        assert!(!head.contains("Content-Type") && head.contains("Content-Range: bytes 0-0/2"));
    }
}
