//! The Huffman code of string literals (RFC 7541 appendix B, which RFC 9204 section 4.1.2 takes over).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so the lengths are the
//! whole table. All else is computed from them at compile time.

use bytes::BufMut;

use super::Error;

/// Bits of each symbol's code.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Bits of the longest code.
const LONGEST: usize = 30;
/// Codes up to this length are found with one look.
const SHORT_BITS: u32 = 8;

struct Tables {
    codes: [u32; 256],
    /// Symbols by length, then by value.
    sorted: [u8; 256],
    /// For each length its first code, how many there are, and where they begin in `sorted`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
    /// By the next eight bits: the symbol, and its bits; 0 bits if its code is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
}

static TABLES: Tables = tables();

#[expect(
    clippy::cast_possible_truncation,
    reason = "symbols and lengths are bytes; `try_into` is not const"
)]
const fn tables() -> Tables {
    let mut t = Tables {
        codes: [0; 256],
        sorted: [0; 256],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        short: [(0, 0); 1 << SHORT_BITS],
    };
    let (mut code, mut placed, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        t.first[length] = code;
        t.start[length] = placed;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                t.codes[symbol] = code;
                t.sorted[placed] = symbol as u8;
                if length <= SHORT_BITS as usize {
                    let free = SHORT_BITS as usize - length;
                    let mut rest = 0;
                    while rest < 1 << free {
                        t.short[((code as usize) << free) + rest] = (symbol as u8, length as u8);
                        rest += 1;
                    }
                }
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        t.count[length] = code - t.first[length];
        length += 1;
    }
    t
}

/// Appends the decoded form of `coded` to `out`: at most 8/5 of its bytes, since no code is shorter than 5 bits.
///
/// # Errors
/// [`Error::Huffman`] for a code of nothing, the end-of-string code, or padding that is too long or not all ones.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut input = coded.iter();
    // The next bits, from the top down; below them zeros.
    let (mut bits, mut held) = (0_u64, 0_u32);
    loop {
        while held <= 56 {
            let Some(byte) = input.next() else { break };
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
        }
        //= https://www.rfc-editor.org/rfc/rfc7541#section-5.2
        //# A padding strictly longer than 7 bits MUST be treated as a decoding error. A padding not corresponding to the
        //# most significant bits of the code for the EOS symbol MUST be treated as a decoding error.
        if held < 8 && bits == ones(held) {
            return Ok(());
        }
        let (symbol, length) = next(bits).ok_or(Error::Huffman)?;
        if length > held {
            return Err(Error::Huffman);
        }
        out.push(symbol);
        bits <<= length;
        held -= length;
    }
}

/// `count` ones from the top down.
fn ones(count: u32) -> u64 {
    !u64::MAX.checked_shr(count).unwrap_or(0)
}

fn next(bits: u64) -> Option<(u8, u32)> {
    let place = usize::try_from(bits >> (64 - SHORT_BITS)).ok()?;
    let (symbol, length) = *TABLES.short.get(place)?;
    if length != 0 {
        return Some((symbol, length.into()));
    }
    for length in SHORT_BITS as usize + 1..=LONGEST {
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let nth = code.wrapping_sub(TABLES.first[length]);
        if nth < TABLES.count[length] {
            let symbol = *TABLES.sorted.get(TABLES.start[length] + nth as usize)?;
            return Some((symbol, u32::try_from(length).ok()?));
        }
    }
    None
}

/// Bytes of `plain` once encoded.
pub(super) fn encoded_len(plain: &[u8]) -> usize {
    let bits: usize = plain
        .iter()
        .map(|byte| usize::from(LENGTHS[usize::from(*byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the encoded form of `plain`.
pub(super) fn encode(plain: &[u8], out: &mut impl BufMut) {
    let (mut bits, mut held) = (0_u64, 0_u32);
    for byte in plain {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(TABLES.codes[usize::from(*byte)]);
        held += length;
        while held >= 8 {
            held -= 8;
            out.put_u8((bits >> held).to_le_bytes()[0]);
        }
    }
    if held > 0 {
        let free = 8 - held;
        out.put_u8((bits << free | ((1 << free) - 1)).to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_rfcs_examples_decode() {
        // RFC 7541 appendix C.4 and C.6.
        for (coded, plain) in [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (&[0x64, 0x0e, 0xff], "307"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
        ] {
            assert_eq!(decoded(coded).unwrap(), plain.as_bytes());
            let mut again = Vec::new();
            encode(plain.as_bytes(), &mut again);
            assert_eq!(again, coded);
        }
    }

    #[test]
    fn bad_padding_and_the_end_code_are_errors() {
        // A whole byte of padding; padding of zeros; the end-of-string code; a code cut in two.
        for coded in [
            &[0xff][..],
            &[0x64, 0x02, 0xff],
            &[0x00],
            &[0xff, 0xff, 0xff, 0xff],
            &[0xfe],
        ] {
            assert_eq!(decoded(coded), Err(Error::Huffman), "{coded:x?}");
        }
        assert_eq!(decoded(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(plain: Vec<u8>) {
            let mut coded = Vec::new();
            encode(&plain, &mut coded);
            prop_assert_eq!(coded.len(), encoded_len(&plain));
            prop_assert_eq!(decoded(&coded), Ok(plain));
        }

        #[test]
        fn anything_decodes_or_is_refused_within_its_bound(coded: Vec<u8>) {
            if let Ok(plain) = decoded(&coded) {
                prop_assert!(plain.len() * 5 <= coded.len() * 8);
                let mut again = Vec::new();
                encode(&plain, &mut again);
                prop_assert_eq!(again, coded);
            }
        }
    }
}
