//! What nodes read of each other: objects and what vouches for them, the provider index, gossip and what is said in it; and what anybody says on their link.

use std::fmt::Debug;
use std::sync::LazyLock;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq_mesh::gossip::{heard, reframed, rewritten};
use stoq_mesh::wire::{
    self, CHUNKS_MAX, ChunksRequest, Head, Holdings, HoldingsRequest, Manifests, ManifestsRequest,
    ObjectRequest,
};
use stoq_mesh::{Voucher, VoucherError};
use stoq_routing::index::{MESSAGE_BYTES_MAX, Reply, Request};
use stoq_routing::membership::{Statement, decode, encode};

use super::Target;

/// All targets, each with the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("voucher", voucher),
    ("objects", objects),
    ("index", index),
    ("gossip", gossip),
    ("envelope", envelope),
    ("statement", statement),
    ("mdns", mdns),
];

/// A shield, whom anybody of its cluster believes.
static SHIELD: LazyLock<Identity> = LazyLock::new(|| {
    let validity = || Validity::starting(UnixTime::now(), Duration::from_secs(1 << 20));
    let made = ClusterRoot::generate("fuzz", validity()).and_then(|root| {
        let file = root.issue("shield", &[Role::Shield], validity())?;
        Identity::new(file, root.certificate().clone())
    });
    match made {
        Ok(identity) => identity,
        Err(error) => panic!("no identity to fuzz with: {error}"),
    }
});

/// A shield's word for an object. Nothing that was not signed is believed; what can be read and is signed anew is believed, and says the same.
pub fn voucher(input: &[u8]) {
    let Ok(read) = Voucher::peek(input) else {
        return;
    };
    let opened = Voucher::open(input, &SHIELD);
    assert!(
        matches!(opened, Err(VoucherError::Papers(_))),
        "believed without papers: {opened:?}"
    );
    // It may be too long with another certificate.
    let Ok(sealed) = read.seal(&SHIELD) else {
        return;
    };
    match Voucher::open(&sealed, &SHIELD) {
        Ok(again) => assert_eq!(again, read),
        Err(error) => panic!("{read:?}: {error}"),
    }
    let (said, words) = (read.answers(&read.request), &read.request);
    let selecting = Voucher::selecting(&read.response, words);
    assert!(said || selecting.is_none() || selecting.as_ref() != Some(words));
}

/// What was read is said and read again the same.
fn again<T: Debug, E: Debug>(
    read: Result<T, E>,
    say: impl Fn(&T) -> Result<Vec<u8>, E>,
    hear: impl Fn(&[u8]) -> Result<T, E>,
) {
    let Ok(read) = read else { return };
    let Ok(said) = say(&read) else {
        panic!("{read:?} was read and cannot be said")
    };
    let heard = hear(&said);
    assert_eq!(
        format!("{heard:?}"),
        format!("{:?}", Ok::<_, E>(read)),
        "{said:02x?}"
    );
}

/// The messages of the object exchange: the first byte says which.
pub fn objects(input: &[u8]) {
    let Some((which, message)) = input.split_first() else {
        return;
    };
    macro_rules! both_ways {
        ($type:ty) => {
            again(
                <$type>::decode(message),
                |read| read.encode().map(|bytes| bytes.to_vec()),
                |bytes| <$type>::decode(bytes),
            )
        };
    }
    match which % 9 {
        0 => both_ways!(ObjectRequest),
        1 => both_ways!(Head),
        2 => both_ways!(ChunksRequest),
        3 => both_ways!(HoldingsRequest),
        4 => both_ways!(Holdings),
        5 => both_ways!(ManifestsRequest),
        6 => both_ways!(Manifests),
        7 => again(
            wire::decode_more(message),
            |chunks| {
                assert!(chunks.len() <= CHUNKS_MAX);
                wire::encode_more(chunks).map(|bytes| bytes.to_vec())
            },
            wire::decode_more,
        ),
        _ => {
            if let Ok((id, len)) = wire::decode_chunk(message) {
                assert_eq!(wire::encode_chunk(&id, len), message);
            }
            if let Ok((root, total)) = wire::decode_sealed(message) {
                assert_eq!(wire::encode_sealed(&root, total), message);
            }
        }
    }
}

/// The provider index's requests and replies: each has one form only.
pub fn index(input: &[u8]) {
    let request = Request::decode(input).ok().map(|read| read.encode());
    let reply = Reply::decode(input).ok().map(|read| read.encode());
    for said in request.iter().chain(&reply) {
        assert_eq!(said, input);
        assert!(said.len() <= MESSAGE_BYTES_MAX);
    }
}

/// A message of chitchat: what is read is written so that it reads the same, by chitchat as well where it says nothing that would be left out.
pub fn gossip(input: &[u8]) {
    let Ok(written) = rewritten(input) else {
        return;
    };
    match rewritten(&written) {
        Ok(again) => assert_eq!(again, written),
        Err(error) => panic!("{written:02x?}: {error}"),
    }
}

/// A gossip message as it travels: the first byte is the length of its head.
pub fn envelope(input: &[u8]) {
    let Some((head, rest)) = input.split_first() else {
        return;
    };
    let (head, body) = rest.split_at(usize::from(*head).min(rest.len()));
    let Ok((head, body)) = reframed(head, body) else {
        return;
    };
    let again = reframed(&head, &body);
    assert_eq!(again, Ok((head, body)));
}

/// What a node says of itself, and the envelope it is signed in.
pub fn statement(input: &[u8]) {
    // By whom it claims to be is read before anything is believed.
    let _ = Statement::claimed(input);
    let Ok(state) = decode(input) else { return };
    let Ok(said) = encode(&state) else {
        panic!("{state:?} was read and cannot be said")
    };
    assert_eq!(decode(&said), Ok(state), "{said:02x?}");
}

/// What comes on the group of multicast DNS, to a member of the cluster whose secret the corpus was made with. What is believed says the same when it is written anew.
pub fn mdns(input: &[u8]) {
    let secret = [7; 32];
    let Some(said) = heard(input, &secret) else {
        return;
    };
    assert_eq!(heard(&said, &secret).as_deref(), Some(&said[..]));
}
