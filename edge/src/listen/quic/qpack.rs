//! Response heads as HTTP/3 HEADERS frames, written by [`stoq::h3::qpack`].
//!
//! The h3 library's encoder builds a list of owned strings and Huffman-codes each value bit by bit, for every response.
//! Here a field is a copy of its bytes behind a length, and what a stored head never changes is encoded once, Huffman
//! code and all ([`StoredHead::block`]).
//!
//! Not here: what a response says; see `listen/response.rs`.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use stoq::h3::frame::{self, DATA, HEADERS};
use stoq::h3::qpack;
use stoq_cache::reply::StoredHead;

/// Bytes of a field section before its first line.
const PREFIX: usize = 2;

/// A head that is written again and again: its own fields as field lines, made once.
pub(super) fn stored_lines(head: &StoredHead, skip: fn(&HeaderName) -> bool) -> &Bytes {
    head.block.get_or_init(|| {
        let mut out = BytesMut::with_capacity(256);
        qpack::put_line_huffman(&mut out, ":status", head.status.as_str().as_bytes());
        for (name, value) in head.headers.iter().filter(|(name, _)| !skip(name)) {
            qpack::put_line_huffman(&mut out, name.as_str(), value.as_bytes());
        }
        out.freeze()
    })
}

/// Status and fields as field lines.
pub(super) fn lines(out: &mut BytesMut, status: StatusCode, fields: &HeaderMap) {
    qpack::put_line(out, ":status", status.as_str().as_bytes());
    for (name, value) in fields {
        put_field(out, name, value);
    }
}

/// One field line.
pub(super) fn put_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    qpack::put_line(out, name.as_str(), value.as_bytes());
}

/// A HEADERS frame around field lines in two parts.
pub(super) fn put_headers_frame(out: &mut BytesMut, stored: &[u8], own: &[u8]) {
    frame::put_head(out, HEADERS, (PREFIX + stored.len() + own.len()) as u64);
    qpack::put_prefix(out);
    out.put_slice(stored);
    out.put_slice(own);
}

/// The head of a DATA frame of `len` bytes.
pub(super) fn put_data_head(out: &mut BytesMut, len: u64) {
    frame::put_head(out, DATA, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_the_rfc_says_byte_by_byte() {
        let mut fields = HeaderMap::new();
        fields.insert("accept-ranges", HeaderValue::from_static("bytes"));
        fields.insert("age", HeaderValue::from_static("7"));
        fields.insert("x-a", HeaderValue::from_static("b"));
        let mut section = BytesMut::new();
        lines(&mut section, StatusCode::OK, &fields);
        let mut out = BytesMut::new();
        put_headers_frame(&mut out, &section, &[]);
        // A frame of 13 bytes; no dynamic table; indexed 25, indexed 32, name 2 with "7", literal "x-a" with "b".
        assert_eq!(
            &out[..],
            [
                &[1, 13, 0, 0, 0xd9, 0xe0, 0x52, 1][..],
                b"7",
                &[0x23],
                b"x-a",
                &[1],
                b"b"
            ]
            .concat()
        );
    }
}
