//! Response heads as HTTP/3 HEADERS frames: QPACK with the static table and literals, without a dynamic table and without Huffman coding.
//!
//! The h3 library's encoder builds a list of owned strings and Huffman-codes each value bit by bit, for every response. Here a
//! field is a copy of its bytes behind a length, and what a stored head never changes is encoded once ([`StoredHead::block`]). Uncoded values are about a
//! quarter longer on the wire; a head is some 200 bytes.
//!
//! Not here: what a response says; see `listen/response.rs`. Decoding of requests is the library's.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use stoq_cache::reply::StoredHead;

/// Frame types of RFC 9114 section 7.2.
const DATA: u64 = 0x0;
const HEADERS: u64 = 0x1;

//= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.1
//# Each encoded field section is prefixed with two integers. The Required Insert Count is encoded as an integer with an 8-bit prefix
/// Both zero: nothing refers to a dynamic table.
const SECTION_PREFIX: [u8; 2] = [0, 0];

/// The static table's place of `:status` with the value 103, which names the field for all others.
const STATUS_NAME: u64 = 24;

/// A head that is written again and again: its own fields as field lines, made once.
pub(super) fn stored_lines(head: &StoredHead, skip: fn(&HeaderName) -> bool) -> &Bytes {
    head.block.get_or_init(|| {
        let mut out = BytesMut::with_capacity(256);
        lines(&mut out, head.status, &head.headers, skip);
        out.freeze()
    })
}

/// Status and fields as field lines.
pub(super) fn lines(
    out: &mut BytesMut,
    status: StatusCode,
    fields: &HeaderMap,
    skip: fn(&HeaderName) -> bool,
) {
    put_status(out, status);
    for (name, value) in fields.iter().filter(|(name, _)| !skip(name)) {
        put_field(out, name, value);
    }
}

/// A HEADERS frame around field lines in two parts.
pub(super) fn put_headers_frame(out: &mut BytesMut, stored: &[u8], own: &[u8]) {
    put_varint(out, HEADERS);
    put_varint(
        out,
        (SECTION_PREFIX.len() + stored.len() + own.len()) as u64,
    );
    out.put_slice(&SECTION_PREFIX);
    out.put_slice(stored);
    out.put_slice(own);
}

/// The head of a DATA frame of `len` bytes.
pub(super) fn put_data_head(out: &mut BytesMut, len: u64) {
    put_varint(out, DATA);
    put_varint(out, len);
}

fn put_status(out: &mut BytesMut, status: StatusCode) {
    let place = match status.as_u16() {
        103 => 24,
        200 => 25,
        304 => 26,
        404 => 27,
        503 => 28,
        100 => 63,
        204 => 64,
        206 => 65,
        302 => 66,
        400 => 67,
        403 => 68,
        421 => 69,
        425 => 70,
        500 => 71,
        _ => {
            put_named(out, STATUS_NAME, status.as_str().as_bytes());
            return;
        }
    };
    put_indexed(out, place);
}

/// One field line, in the shortest form the static table allows.
pub(super) fn put_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let value = value.as_bytes();
    match place(name.as_str(), value) {
        Place::Whole(place) => put_indexed(out, place),
        Place::Name(place) => put_named(out, place, value),
        Place::None => {
            //= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.6
            //# The literal field line with literal name representation encodes a field name and a field value as string literals.
            put_integer(out, 0b0010_0000, 3, name.as_str().len() as u64);
            out.put_slice(name.as_str().as_bytes());
            put_value(out, value);
        }
    }
}

enum Place {
    /// Name and value stand in the static table.
    Whole(u64),
    /// The name does.
    Name(u64),
    None,
}

/// Where a response field stands in the static table (RFC 9204 appendix A).
fn place(name: &str, value: &[u8]) -> Place {
    let place = match (name, value) {
        ("accept-ranges", b"bytes") => return Place::Whole(32),
        ("cache-control", b"max-age=0") => return Place::Whole(36),
        ("cache-control", b"no-cache") => return Place::Whole(39),
        ("cache-control", b"no-store") => return Place::Whole(40),
        ("content-encoding", b"br") => return Place::Whole(42),
        ("content-encoding", b"gzip") => return Place::Whole(43),
        ("content-type", b"application/json") => return Place::Whole(46),
        ("content-type", b"image/jpeg") => return Place::Whole(49),
        ("content-type", b"image/png") => return Place::Whole(50),
        ("content-type", b"text/css") => return Place::Whole(51),
        ("content-type", b"text/html; charset=utf-8") => return Place::Whole(52),
        ("vary", b"accept-encoding") => return Place::Whole(59),
        ("x-content-type-options", b"nosniff") => return Place::Whole(61),
        ("age", _) => 2,
        ("content-disposition", _) => 3,
        ("content-length", _) => 4,
        ("date", _) => 6,
        ("etag", _) => 7,
        ("last-modified", _) => 10,
        ("link", _) => 11,
        ("location", _) => 12,
        ("set-cookie", _) => 14,
        ("accept-ranges", _) => 32,
        ("access-control-allow-headers", _) => 33,
        ("access-control-allow-origin", _) => 35,
        ("cache-control", _) => 36,
        ("content-encoding", _) => 42,
        ("content-type", _) => 44,
        ("strict-transport-security", _) => 56,
        ("vary", _) => 59,
        ("x-content-type-options", _) => 61,
        _ => return Place::None,
    };
    Place::Name(place)
}

//= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.2
//# This representation starts with the '1' 1-bit pattern, followed by the 'T' bit, indicating whether the reference is into the static or dynamic table.
fn put_indexed(out: &mut BytesMut, place: u64) {
    put_integer(out, 0b1100_0000, 6, place);
}

//= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.4
//# This representation starts with the '01' 2-bit pattern.
fn put_named(out: &mut BytesMut, place: u64, value: &[u8]) {
    put_integer(out, 0b0101_0000, 4, place);
    put_value(out, value);
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    put_integer(out, 0, 7, value.len() as u64);
    out.put_slice(value);
}

/// An integer with a prefix of `bits` bits beside `flags` (RFC 7541 section 5.1).
fn put_integer(out: &mut BytesMut, flags: u8, bits: u32, value: u64) {
    let max = (1_u64 << bits) - 1;
    if value < max {
        out.put_u8(flags | low_byte(value));
        return;
    }
    out.put_u8(flags | low_byte(max));
    let mut rest = value - max;
    while rest >= 128 {
        out.put_u8(0x80 | low_byte(rest & 0x7f));
        rest >>= 7;
    }
    out.put_u8(low_byte(rest));
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// A variable-length integer (RFC 9000 section 16).
fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(low_byte(value)),
        0x40..=0x3fff => out.put_uint(0x4000 | value, 2),
        0x4000..=0x3fff_ffff => out.put_uint(0x8000_0000 | value, 4),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &HeaderName) -> bool {
        false
    }

    #[test]
    fn integers_are_those_of_the_rfcs_examples() {
        // RFC 7541 appendix C.1: 10 and 1337 with a 5-bit prefix, 42 with an 8-bit one.
        for (value, bits, want) in [
            (10, 5, &[10_u8][..]),
            (1337, 5, &[31, 154, 10]),
            (42, 8, &[42]),
        ] {
            let mut out = BytesMut::new();
            put_integer(&mut out, 0, bits, value);
            assert_eq!(&out[..], want, "{value}");
        }
        // RFC 9000 appendix A.1.
        for (value, want) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
        ] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(&out[..], want, "{value}");
        }
    }

    #[test]
    fn a_head_is_what_the_rfc_says_byte_by_byte() {
        let mut fields = HeaderMap::new();
        fields.insert("accept-ranges", HeaderValue::from_static("bytes"));
        fields.insert("age", HeaderValue::from_static("7"));
        fields.insert("x-a", HeaderValue::from_static("b"));
        let mut out = BytesMut::new();
        lines(&mut out, StatusCode::OK, &fields, none);
        // Indexed 25, indexed 32, name 2 with "7", literal "x-a" with "b".
        assert_eq!(
            &out[..],
            [
                &[0xd9, 0xe0, 0x52, 1][..],
                b"7",
                &[0x23],
                b"x-a",
                &[1],
                b"b"
            ]
            .concat()
        );

        let mut out = BytesMut::new();
        lines(&mut out, StatusCode::IM_A_TEAPOT, &HeaderMap::new(), none);
        // Name 24 does not fit a 4-bit prefix: 15 and 9.
        assert_eq!(&out[..], [&[0x5f, 9, 3][..], b"418"].concat());
    }
}
