//! HTTP/3's framing, below the field sections: variable-length integers, frame headers, stream types.

use bytes::BufMut;

/// Frame types (RFC 9114 section 7.2).
pub const DATA: u64 = 0x0;
/// A field section.
pub const HEADERS: u64 = 0x1;
/// A push that is not to be used.
pub const CANCEL_PUSH: u64 = 0x3;
/// Settings, first on a control stream.
pub const SETTINGS: u64 = 0x4;
/// The last request, or push, that is taken.
pub const GOAWAY: u64 = 0x7;

/// Types of unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2).
pub const CONTROL_STREAM: u64 = 0x0;
/// A pushed response.
pub const PUSH_STREAM: u64 = 0x1;
/// Instructions for our decoder's dynamic table.
pub const QPACK_ENCODER_STREAM: u64 = 0x2;
/// Acknowledgements for our encoder.
pub const QPACK_DECODER_STREAM: u64 = 0x3;

/// The longest header of a frame: two integers of eight bytes.
pub const HEAD_MAX: usize = 16;

/// A variable-length integer (RFC 9000 section 16) at the front of `bytes`, and the bytes it takes; `None` if it is not
/// all there.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| {
        value << 8 | u64::from(*byte)
    });
    Some((value, len))
}

/// A frame's type and length at the front of `bytes`, and the bytes both take; `None` if they are not all there.
pub fn head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, first) = varint(bytes)?;
    let (len, second) = varint(bytes.get(first..)?)?;
    Some((kind, len, first + second))
}

/// Appends `value` in its shortest form. Values of 2^62 and above have none; their low 62 bits are written.
pub fn put_varint(out: &mut impl BufMut, value: u64) {
    match value {
        0..=0x3f => out.put_uint(value, 1),
        0x40..=0x3fff => out.put_uint(0x4000 | value, 2),
        0x4000..=0x3fff_ffff => out.put_uint(0x8000_0000 | value, 4),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

/// Appends the header of a frame of `len` bytes.
pub fn put_head(out: &mut impl BufMut, kind: u64, len: u64) {
    put_varint(out, kind);
    put_varint(out, len);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_those_of_the_rfcs_examples() {
        // RFC 9000 appendix A.1.
        for (value, wire) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (
                151_288_809_941_952_652,
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
            ),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, wire, "{value}");
            assert_eq!(varint(wire), Some((value, wire.len())));
        }
        assert_eq!(varint(&[0x40, 0x25]), Some((37, 2)));
    }

    proptest! {
        #[test]
        fn heads_come_back_and_no_part_of_one_is_taken_for_it(
            kind in 0..1_u64 << 62, len in 0..1_u64 << 62, rest: Vec<u8>,
        ) {
            let mut out = Vec::new();
            put_head(&mut out, kind, len);
            let used = out.len();
            for cut in 0..used {
                prop_assert_eq!(head(&out[..cut]), None);
            }
            out.extend(rest);
            prop_assert_eq!(head(&out), Some((kind, len, used)));
        }
    }
}
