//! What the first bytes of a datagram say without any state: `bpf/quic.h` in Rust.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::abi::{
    CID_BYTES, CID_BYTES_MAX, CID_BYTES_MIN, CLASS_INITIAL, CLASS_LONG, CLASS_SHORT, CLASS_TOKEN,
    FLAG_CHECK_CID, FLAG_FIXED_BIT, INITIAL_BYTES_MIN, PORT_KEYED, PORT_PEERS, Reason,
    SHORT_ANY_BYTES_MIN, SHORT_BYTES_MIN, Settings,
};

const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
/// Flags 1, version 4, length of the destination ID 1.
const ID_OFFSET: usize = 6;
/// RFC 9369. Its types are those of version 1, one further.
const VERSION_2: u32 = 0x6b33_43cf;
const INITIAL: u8 = 0;
const HANDSHAKE: u8 = 2;
const RETRY: u8 = 3;

/// What a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// Decided.
    Reason(Reason),
    /// To be rationed: the class, and the destination connection ID as three little-endian words, zeroes after it, where
    /// there is one.
    Class(u32, [u64; 3]),
    /// Of a handshake that we answered, for it carries an ID of ours: `CLASS_LONG`.
    Answered,
}

/// Whether `id` is one that our endpoints issued: bytes 8–11 are the low half of SipHash-2-4 of bytes 0–7 under the key of
/// the generation in byte 0.
pub(crate) fn is_ours(keys: &[[u64; 2]], generations: u32, id: &[u8]) -> bool {
    let Ok(id) = <&[u8; CID_BYTES as usize]>::try_from(id) else {
        return false;
    };
    let Some((head, tag)) = id.split_first_chunk::<8>() else {
        return false;
    };
    let generation = id[0] >> 6;
    let Some(key) = keys.get(usize::from(generation)) else {
        return false;
    };
    if generations >> generation & 1 == 0 {
        return false;
    }
    let mut hasher = SipHasher24::new_with_keys(key[0], key[1]);
    hasher.write(head);
    hasher.finish().to_le_bytes().starts_with(tag)
}

/// Words of an ID that stands in `around` from its beginning; zero where fewer than 24 bytes follow.
fn words(around: &[u8], bytes: usize) -> [u64; 3] {
    let Some((all, _)) = around.split_first_chunk::<24>() else {
        return [0; 3];
    };
    let mut kept = [0u8; 24];
    for (to, from) in kept.iter_mut().zip(all).take(bytes) {
        *to = *from;
    }
    let mut words = [0; 3];
    for (word, eight) in words.iter_mut().zip(kept.chunks_exact(8)) {
        *word = eight
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// Whether a token follows: its length stands first, and must fit.
fn has_token(bytes: &[u8]) -> Option<bool> {
    let first = *bytes.first()?;
    // RFC 9000, section 16: two bits say how many bytes the integer has.
    let (integer, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let length = integer
        .iter()
        .skip(1)
        .fold(u64::from(first & 63), |value, byte| {
            value << 8 | u64::from(*byte)
        });
    (length <= rest.len() as u64).then_some(length != 0)
}

/// Class, or reason, of a datagram to a port with these flags.
pub(super) fn classify(settings: &Settings, port_flags: u32, payload: &[u8]) -> Judged {
    let Some(first) = payload.first() else {
        return Judged::Reason(Reason::Empty);
    };
    let peers = port_flags & PORT_PEERS != 0;
    if settings.flags & FLAG_FIXED_BIT != 0 && !peers && first & FIXED_BIT == 0 {
        return Judged::Reason(Reason::FixedBit);
    }
    let judged = if first & LONG_HEADER != 0 {
        long(settings, port_flags, payload)
    } else {
        short(settings, port_flags, payload)
    };
    judged.unwrap_or_else(Judged::Reason)
}

fn short(settings: &Settings, port_flags: u32, payload: &[u8]) -> Result<Judged, Reason> {
    let keyed = port_flags & PORT_KEYED != 0;
    let least = if keyed {
        SHORT_BYTES_MIN
    } else {
        SHORT_ANY_BYTES_MIN
    };
    if payload.len() < least as usize {
        return Err(Reason::ShortSmall);
    }
    if keyed && settings.flags & FLAG_CHECK_CID != 0 {
        let id = payload.get(1..1 + CID_BYTES as usize);
        let id = id.ok_or(Reason::Truncated)?;
        if !is_ours(&settings.cid_key, settings.cid_generations, id) {
            return Err(Reason::CidTag);
        }
    }
    Ok(Judged::Class(CLASS_SHORT, [0; 3]))
}

fn long(settings: &Settings, port_flags: u32, payload: &[u8]) -> Result<Judged, Reason> {
    let peers = port_flags & PORT_PEERS != 0;
    let keyed = port_flags & PORT_KEYED != 0;
    let truncated = Reason::LongTruncated;
    let (head, _) = payload
        .split_first_chunk::<{ ID_OFFSET + 1 }>()
        .ok_or(truncated)?;
    let version = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let id_bytes = usize::from(head[5]);
    // RFC 8999, section 6: version negotiation, which answers a client.
    if version == 0 {
        return if peers {
            Ok(Judged::Class(CLASS_LONG, [0; 3]))
        } else {
            Err(Reason::VersionZero)
        };
    }
    if id_bytes > CID_BYTES_MAX as usize {
        return Err(Reason::CidLong);
    }
    let around = payload.get(ID_OFFSET..).ok_or(truncated)?;
    let (id, rest) = around.split_at_checked(id_bytes).ok_or(truncated)?;
    let (source_id_bytes, rest) = rest.split_first().ok_or(truncated)?;
    if u32::from(*source_id_bytes) > CID_BYTES_MAX {
        return Err(Reason::CidLong);
    }
    let rest = rest.get(usize::from(*source_id_bytes)..).ok_or(truncated)?;
    let words = words(around, id_bytes);
    let is_small = payload.len() < INITIAL_BYTES_MIN as usize;

    if !settings.versions.contains(&version) {
        // RFC 9000, section 5.2.2: smaller ones earn no version negotiation. A larger one is a newcomer.
        return if is_small {
            Err(Reason::VersionSmall)
        } else {
            Ok(Judged::Class(CLASS_INITIAL, words))
        };
    }
    let kind = (head[0] >> 4) & 3;
    let kind = if version == VERSION_2 {
        (kind + 3) & 3
    } else {
        kind
    };
    if kind == RETRY {
        return if peers {
            Ok(Judged::Class(CLASS_LONG, words))
        } else {
            Err(Reason::Retry)
        };
    }
    let mut token = false;
    if kind == INITIAL {
        if !peers && id_bytes < CID_BYTES_MIN as usize {
            return Err(Reason::CidShort);
        }
        if !peers && is_small {
            return Err(Reason::InitialSmall);
        }
        token = has_token(rest).ok_or(truncated)?;
    }
    if keyed && is_ours(&settings.cid_key, settings.cid_generations, id) {
        return Ok(Judged::Answered);
    }
    if kind == INITIAL {
        // A client that was sent a token by a Retry was sent an ID with it, so a token with another ID proves nothing.
        let class = if token && (peers || !keyed) {
            CLASS_TOKEN
        } else {
            CLASS_INITIAL
        };
        return Ok(Judged::Class(class, words));
    }
    // RFC 9000, section 7.2: by the time of a Handshake packet a peer uses the ID that we chose. And clients are not offered 0-RTT.
    if keyed && settings.flags & FLAG_CHECK_CID != 0 && (kind == HANDSHAKE || !peers) {
        return Err(Reason::CidTag);
    }
    Ok(Judged::Class(CLASS_LONG, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::cid_key;

    /// The examples that the issuer of these IDs is held to.
    const VECTORS: &str = include_str!("../../../stoq/vectors/cid.txt");

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn ids_that_stoq_issues_are_ours_and_none_with_a_changed_bit() {
        let mut count = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, generation, key, _, id] = fields[..] else {
                panic!("{line}")
            };
            let generation: u32 = generation.parse().unwrap();
            let mut keys = [[0; 2]; 4];
            keys[generation as usize] = cid_key(hex(key).try_into().unwrap());
            let id = hex(id);
            assert!(is_ours(&keys, 1 << generation, &id), "{line}");
            assert!(!is_ours(&keys, 0, &id), "{line}: no key");
            for bit in 0..96 {
                let mut other = id.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    !is_ours(&keys, 1 << generation, &other),
                    "{line}: bit {bit}"
                );
            }
            count += 1;
        }
        assert!(count >= 8, "{count} vectors");
    }

    #[test]
    fn lengths_of_tokens_are_read_in_all_four_forms() {
        for (bytes, expected) in [
            (&[][..], None),
            (&[0], Some(false)),
            (&[1], None),
            (&[1, 9], Some(true)),
            (&[0x40], None),
            (&[0x40, 0], Some(false)),
            (&[0x40, 1, 9], Some(true)),
            (&[0x80, 0, 0, 0], Some(false)),
            (&[0x80, 0, 0, 2, 9], None),
            (&[0xc0, 0, 0, 0, 0, 0, 0, 1, 9], Some(true)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 9], None),
        ] {
            assert_eq!(has_token(bytes), expected, "{bytes:02x?}");
        }
    }
}
