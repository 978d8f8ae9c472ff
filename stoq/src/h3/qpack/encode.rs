//! Writing field sections.

use bytes::BufMut;

use super::{huffman, table};

/// Appends what each field section begins with: nothing refers to a dynamic table.
pub fn put_prefix(out: &mut impl BufMut) {
    out.put_slice(&[0, 0]);
}

/// Appends one field line in the shortest form the static table allows, the value as it is: cheapest to write.
/// `name` in lower case, as RFC 9114 section 4.2 has it.
pub fn put_line(out: &mut impl BufMut, name: &str, value: &[u8]) {
    line(out, name, value, put_plain);
}

/// Appends one field line in the shortest form the static table and the Huffman code allow: about a quarter shorter,
/// for lines that are written once and sent often.
pub fn put_line_huffman(out: &mut impl BufMut, name: &str, value: &[u8]) {
    line(out, name, value, put_shortest);
}

/// A whole section of these lines, in the shortest form.
pub fn section<'a>(lines: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put_prefix(&mut out);
    for (name, value) in lines {
        put_line_huffman(&mut out, name, value);
    }
    out
}

/// Writes a string behind these flags, its length with a prefix of so many bits.
type Put<B> = fn(&mut B, u8, u32, &[u8]);

fn line<B: BufMut>(out: &mut B, name: &str, value: &[u8], put: Put<B>) {
    let places = places(name);
    let whole = places
        .iter()
        .find(|place| matches!(table::get(**place), Some((_, text)) if text.as_bytes() == value));
    if let Some(place) = whole {
        //= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.2
        //# This representation starts with the '1' 1-bit pattern, followed by the 'T' bit, indicating whether the
        //# reference is into the static or dynamic table.
        put_integer(out, 0b1100_0000, 6, *place);
    } else if let Some(place) = places.first() {
        //= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.4
        //# This representation starts with the '01' 2-bit pattern.
        put_integer(out, 0b0101_0000, 4, *place);
        put(out, 0, 7, value);
    } else {
        //= https://www.rfc-editor.org/rfc/rfc9204#section-4.5.6
        //# The literal field line with literal name representation encodes a field name and a field value as string
        //# literals.
        put(out, 0b0010_0000, 3, name.as_bytes());
        put(out, 0, 7, value);
    }
}

fn put_plain<B: BufMut>(out: &mut B, flags: u8, bits: u32, text: &[u8]) {
    put_integer(out, flags, bits, text.len() as u64);
    out.put_slice(text);
}

fn put_shortest<B: BufMut>(out: &mut B, flags: u8, bits: u32, text: &[u8]) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        put_integer(out, flags | 1 << bits, bits, coded as u64);
        huffman::encode(text, out);
    } else {
        put_plain(out, flags, bits, text);
    }
}

/// An integer with a prefix of `bits` bits beside `flags` (RFC 7541 section 5.1).
fn put_integer<B: BufMut>(out: &mut B, flags: u8, bits: u32, value: u64) {
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

/// Where a name stands in the static table. Checked against the table by a test.
fn places(name: &str) -> &'static [u64] {
    match name {
        ":authority" => &[0],
        ":path" => &[1],
        "age" => &[2],
        "content-disposition" => &[3],
        "content-length" => &[4],
        "cookie" => &[5],
        "date" => &[6],
        "etag" => &[7],
        "if-modified-since" => &[8],
        "if-none-match" => &[9],
        "last-modified" => &[10],
        "link" => &[11],
        "location" => &[12],
        "referer" => &[13],
        "set-cookie" => &[14],
        ":method" => &[15, 16, 17, 18, 19, 20, 21],
        ":scheme" => &[22, 23],
        ":status" => &[24, 25, 26, 27, 28, 63, 64, 65, 66, 67, 68, 69, 70, 71],
        "accept" => &[29, 30],
        "accept-encoding" => &[31],
        "accept-ranges" => &[32],
        "access-control-allow-headers" => &[33, 34, 75],
        "access-control-allow-origin" => &[35],
        "cache-control" => &[36, 37, 38, 39, 40, 41],
        "content-encoding" => &[42, 43],
        "content-type" => &[44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54],
        "range" => &[55],
        "strict-transport-security" => &[56, 57, 58],
        "vary" => &[59, 60],
        "x-content-type-options" => &[61],
        "x-xss-protection" => &[62],
        "accept-language" => &[72],
        "access-control-allow-credentials" => &[73, 74],
        "access-control-allow-methods" => &[76, 77, 78],
        "access-control-expose-headers" => &[79],
        "access-control-request-headers" => &[80],
        "access-control-request-method" => &[81, 82],
        "alt-svc" => &[83],
        "authorization" => &[84],
        "content-security-policy" => &[85],
        "early-data" => &[86],
        "expect-ct" => &[87],
        "forwarded" => &[88],
        "if-range" => &[89],
        "origin" => &[90],
        "purpose" => &[91],
        "server" => &[92],
        "timing-allow-origin" => &[93],
        "upgrade-insecure-requests" => &[94],
        "user-agent" => &[95],
        "x-forwarded-for" => &[96],
        "x-frame-options" => &[97, 98],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_rfcs_examples() {
        // RFC 7541 appendix C.1: 10 and 1337 with a 5-bit prefix, 42 with an 8-bit one.
        for (value, bits, want) in [
            (10, 5, &[10_u8][..]),
            (1337, 5, &[31, 154, 10]),
            (42, 8, &[42]),
        ] {
            let mut out = Vec::new();
            put_integer(&mut out, 0, bits, value);
            assert_eq!(out, want, "{value}");
        }
    }

    #[test]
    fn the_places_are_all_of_the_table_and_right() {
        let mut seen = 0;
        for (place, (name, _)) in table::TABLE.iter().enumerate() {
            assert!(places(name).contains(&(place as u64)), "{name} {place}");
            seen += 1;
        }
        let all: usize = {
            let mut names: Vec<_> = table::TABLE.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            names.dedup();
            names.iter().map(|name| places(name).len()).sum()
        };
        assert_eq!(all, seen);
    }
}
