//! What is encoded decodes to the same; what decodes encodes to the same; nothing else is taken.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::index::record::WHOLE;

fn record() -> impl Strategy<Value = Record> {
    (
        any::<[u8; 32]>(),
        any::<[u8; 32]>(),
        1..=WHOLE,
        any::<u64>(),
    )
        .prop_map(|(key, manifest, fraction, generation)| Record {
            key: Key(key),
            manifest,
            fraction,
            generation,
        })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

fn terms() -> impl Strategy<Value = Terms> {
    any::<([u8; 32], [u8; 32], u64, u64)>().prop_map(|(holder, owner, generation, sequence)| {
        Terms {
            holder: NodeId(holder),
            owner: NodeId(owner),
            generation,
            sequence,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let change = prop_oneof![
        any::<u8>().prop_map(Change::Clear),
        record().prop_map(Change::Add),
        any::<[u8; 32]>().prop_map(|key| Change::Remove(Key(key))),
    ];
    let signature = || vec(any::<u8>(), 64).prop_map(|bytes| bytes.try_into().unwrap());
    prop_oneof![
        any::<([u8; 32], bool)>().prop_map(|(key, wide)| Request::Find {
            key: Key(key),
            wide
        }),
        (terms(), vec(change, 0..20), signature()).prop_map(|(terms, changes, signature)| {
            let statement = Announcement { terms, changes };
            Request::Announce(Signed {
                statement,
                signature,
            })
        }),
        (terms(), any::<u64>(), signature()).prop_map(|(terms, root, signature)| {
            let statement = Renewal { terms, root };
            Request::Renew(Signed {
                statement,
                signature,
            })
        }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let provider = (
        record(),
        any::<[u8; 32]>(),
        vec(address(), 0..=ADDRESSES_MAX),
    )
        .prop_map(|(record, holder, addresses)| Provider {
            holder: NodeId(holder),
            addresses,
            manifest: record.manifest,
            fraction: record.fraction,
            generation: record.generation,
        });
    let contact =
        (any::<[u8; 32]>(), vec(address(), 0..=ADDRESSES_MAX)).prop_map(|(id, addresses)| {
            Contact {
                id: NodeId(id),
                addresses,
            }
        });
    let refusals = prop_oneof![
        Just(Refusal::Malformed),
        Just(Refusal::ForAnother),
        Just(Refusal::NotForMe),
        Just(Refusal::Unknown),
        Just(Refusal::Revoked),
        Just(Refusal::Forged),
        any::<(u64, u64)>().prop_map(|(generation, sequence)| Refusal::Stale {
            generation,
            sequence
        }),
        Just(Refusal::Full),
        Just(Refusal::Busy),
    ];
    prop_oneof![
        (
            vec(provider, 0..=PROVIDERS_MAX),
            vec(contact, 0..=CLOSER_MAX)
        )
            .prop_map(|(providers, closer)| Reply::Providers(Answer { providers, closer })),
        proptest::collection::btree_set(0..512u16, 0..30).prop_map(|refused| Reply::Accepted {
            refused: refused.into_iter().collect()
        }),
        any::<bool>().prop_map(|room| Reply::Kept { room }),
        (vec(any::<u64>(), BUCKETS), any::<bool>()).prop_map(|(digests, room)| Reply::Differs {
            digests: Box::new(digests.try_into().unwrap()),
            room,
        }),
        refusals.prop_map(Reply::Refused),
    ]
}

proptest! {
    #[test]
    fn requests_and_replies_decode_to_what_was_encoded(request in request(), reply in reply()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn what_decodes_at_all_has_exactly_these_bytes(
        request in request(),
        reply in reply(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let spoil = |mut bytes: Vec<u8>| {
            for (at, byte) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        let bytes = spoil(request.encode());
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), bytes);
        }
        let bytes = spoil(reply.encode());
        if let Ok(reply) = Reply::decode(&bytes) {
            prop_assert_eq!(reply.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(mut bytes in vec(any::<u8>(), 0..600), kind in 0u8..7) {
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
        // Past the first two bytes too.
        bytes.splice(0..0, [VERSION, kind]);
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
    }
}

#[test]
fn the_largest_messages_fit() {
    let terms = Terms {
        holder: NodeId([1; 32]),
        owner: NodeId([2; 32]),
        generation: 1,
        sequence: 1,
    };
    let record = Record {
        key: Key([1; 32]),
        manifest: [2; 32],
        fraction: WHOLE,
        generation: 3,
    };
    let statement = Announcement {
        terms,
        changes: vec![Change::Add(record); CHANGES_MAX],
    };
    let request = Request::Announce(Signed {
        statement,
        signature: [0; 64],
    });
    assert!(request.encode().len() <= MESSAGE_BYTES_MAX);
    assert!(Request::decode(&request.encode()).is_ok());
    let addresses = vec![SocketAddr::from(([0u8; 16], 1)); ADDRESSES_MAX];
    let provider = Provider {
        holder: NodeId([1; 32]),
        addresses: addresses.clone(),
        manifest: [0; 32],
        fraction: 1,
        generation: 0,
    };
    let contact = Contact {
        id: NodeId([1; 32]),
        addresses,
    };
    let reply = Reply::Providers(Answer {
        providers: vec![provider; PROVIDERS_MAX],
        closer: vec![contact; CLOSER_MAX],
    });
    // "at most some 8 KiB", says the bound of nodes a lookup asks.
    assert!(reply.encode().len() <= 8 << 10, "{}", reply.encode().len());
    assert!(Reply::decode(&reply.encode()).is_ok());
}

#[test]
fn what_is_refused_says_why() {
    let find = Request::Find {
        key: Key([7; 32]),
        wide: true,
    };
    let good = find.encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Request::decode(&bytes)
    };
    assert_eq!(with(0, 2), Err(Malformed::Version(2)));
    assert_eq!(with(1, 9), Err(unknown("kind of request", 9)));
    assert_eq!(with(34, 2), Err(unknown("width", 2)));
    assert_eq!(Request::decode(&good[..20]), Err(Malformed::Short));
    assert_eq!(
        Request::decode(&[&good[..], &[0, 0]].concat()),
        Err(Malformed::Long(2))
    );
    let many = Malformed::TooMany {
        what: "providers",
        got: 17,
        max: PROVIDERS_MAX,
    };
    assert_eq!(Reply::decode(&[VERSION, 1, 17]), Err(many));
    // Places of refused changes ascend.
    let places = |places: [u8; 4]| Reply::decode(&[&[VERSION, 2, 0, 2][..], &places].concat());
    assert!(places([0, 1, 0, 2]).is_ok());
    assert!(places([0, 2, 0, 1]).is_err());
    assert!(places([0, 2, 2, 0]).is_err());
}
