//! Records against themselves: what goes in comes out, and nothing else does.

use http::{HeaderName, header};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::content::{ChunkId, GrowingManifest, Manifest, Profile, Validators};

const STAMP: Stamp = Stamp { era: 3, point: 9 };
const NAME: Name = [5; 32];

fn manifest(chunks: usize) -> Arc<Manifest> {
    let mut growing = GrowingManifest::new(Profile::Fine);
    for n in 0..chunks {
        let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        let len = 1 + u32::try_from(n % 1000).unwrap();
        growing.push(ChunkId::from_bytes(id), len).unwrap();
    }
    Arc::new(growing.seal(Validators::default()))
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let field = ("[a-z][a-z0-9-]{0,20}", "[ -~]{0,60}");
    vec(field, 0..12).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::try_from(value).unwrap();
            headers.append(HeaderName::try_from(name).unwrap(), value);
        }
        headers
    })
}

prop_compose! {
    fn object()(
        status in 100..1000_u16,
        mut response in headers(),
        request in headers(),
        times in any::<[u64; 4]>(),
        if_error_ms: Option<u64>,
        flags: (bool, bool),
        source in 0..3_usize,
        upstream_cache_status in prop::option::of("[ -~]{0,80}"),
        groups in prop::option::of((any::<u64>(), vec(0..65_536_u32, 1..20))),
        voucher in prop::option::of(vec(any::<u8>(), 0..600)),
        chunks in prop_oneof![Just(0), 1..=INLINE_ENTRIES_MAX, Just(INLINE_ENTRIES_MAX + 1), Just(2_100)],
    ) -> Arc<Object> {
        // Names of fields the request has, and one it has not.
        let names: Vec<&str> = request.keys().map(HeaderName::as_str).chain(["x-absent"]).collect();
        response.insert(header::VARY, HeaderValue::try_from(names.join(",")).unwrap());
        let selector = Selector::of(&response, &request).unwrap_or_default();
        let freshness = Freshness {
            lifetime_ms: times[0],
            initial_age_ms: times[1],
            response_time: Timestamp(times[2]),
            while_revalidate_ms: times[3],
            if_error_ms,
            stale_allowed: flags.0,
            immutable: flags.1,
        };
        let head = Arc::new(StoredHead::new(StatusCode::from_u16(status).unwrap(), response));
        let source = [Source::Origin, Source::Shield, Source::Peer][source];
        let object = Object::new(head, manifest(chunks), freshness, selector, source, upstream_cache_status);
        let groups = groups.and_then(|(begun, slots)| Membership::from_parts(begun, slots.into()));
        let voucher = voucher.map(Bytes::from);
        Arc::new(object.in_groups(groups.map(Arc::new)).vouched(voucher))
    }
}

fn assert_same(got: &Object, want: &Object) {
    assert_eq!(got.head.status, want.head.status);
    assert_eq!(got.head.headers, want.head.headers);
    assert_eq!(got.freshness, want.freshness);
    assert_eq!(got.selector, want.selector);
    assert_eq!(got.source, want.source);
    assert_eq!(got.upstream_cache_status, want.upstream_cache_status);
    assert_eq!(got.voucher, want.voucher);
    assert_eq!(got.manifest.root(), want.manifest.root());
    assert!(
        got.manifest
            .entries_from(0)
            .eq(want.manifest.entries_from(0))
    );
    let groups = |object: &Object| {
        let membership = object.membership.as_ref();
        membership.map(|groups| (groups.parts().0, groups.parts().1.to_vec()))
    };
    assert_eq!(groups(got), groups(want));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn responses_come_back_as_they_were(objects in vec(object(), 1..5)) {
        let (bytes, left_out) = encode(STAMP, &objects);
        let bytes = bytes.unwrap();
        prop_assert_eq!(left_out, 0);
        prop_assert_eq!(stamp(&bytes), Ok(STAMP));
        let (at, sketches) = decode(&bytes).unwrap();
        prop_assert_eq!(at, STAMP);
        prop_assert_eq!(sketches.len(), objects.len());
        for (sketch, want) in sketches.into_iter().zip(&objects) {
            let pages: Vec<Vec<u8>> = want.manifest.pages().map(|page| page.encode()).collect();
            let elsewhere = want.manifest.len() > INLINE_ENTRIES_MAX;
            prop_assert_eq!(sketch.pages().len(), if elsewhere { pages.len() } else { 0 });
            assert_same(&sketch.finish(&pages).unwrap(), want);
        }
    }

    #[test]
    fn no_flipped_bit_passes_the_seal_and_none_is_another_records(object in object(), at: prop::sample::Index, bit in 0..8_u8) {
        let seal = Seal::new(&[1; 32]);
        let bytes = encode(STAMP, &[object]).0.unwrap();
        let mut sealed = seal.close(&NAME, bytes.clone()).unwrap();
        prop_assert_eq!(seal.open(&NAME, &sealed), Some(bytes.as_slice()));
        prop_assert_eq!(seal.open(&[6; 32], &sealed), None);
        prop_assert_eq!(Seal::new(&[2; 32]).open(&NAME, &sealed), None);
        let place = at.index(sealed.len());
        sealed[place] ^= 1_u8 << bit;
        prop_assert_eq!(seal.open(&NAME, &sealed), None);
    }

    #[test]
    fn no_bytes_make_decoding_panic(object in object(), at: prop::sample::Index, with: u8, cut: prop::sample::Index, noise in vec(any::<u8>(), 0..300)) {
        let mut bytes = encode(STAMP, &[object]).0.unwrap();
        let place = at.index(bytes.len());
        bytes[place] = with;
        for sketch in decode(&bytes).into_iter().flat_map(|(_, sketches)| sketches) {
            let _ = sketch.finish(&[[0_u8; 0]; 0]);
        }
        let cut = cut.index(bytes.len());
        prop_assert!(decode(&bytes[..cut]).is_err());
        for kind in [RESPONSES, BLOCKS, NAMES] {
            let framed = [&[VERSION, kind][..], &noise].concat();
            let _ = (decode(&framed).is_ok(), BlocksRecord::decode(&framed).is_ok(), decode_leaf(&framed).is_ok());
        }
    }

    #[test]
    fn an_object_known_by_blocks_comes_back(object in object(), total: u64, serial: [u8; 16]) {
        let record = BlocksRecord {
            common: Common::of(&object),
            total,
            strong: HeaderValue::from_static("\"v1\""),
            serial,
        };
        let bytes = record.encode(STAMP).unwrap();
        prop_assert_eq!(stamp(&bytes), Ok(STAMP));
        let (at, again) = BlocksRecord::decode(&bytes).unwrap();
        prop_assert_eq!(at, STAMP);
        prop_assert_eq!((again.total, &again.strong, again.serial), (total, &record.strong, serial));
        prop_assert_eq!(&again.common.head.headers, &object.head.headers);
        prop_assert_eq!(again.encode(STAMP), Some(bytes));
    }

    #[test]
    fn names_of_blocks_come_back(known: u64, seed: [u8; 32]) {
        let mut leaf: Leaf = [None; LEAF_BLOCKS];
        for (place, name) in leaf.iter_mut().enumerate() {
            *name = (known >> place & 1 == 1).then_some(seed);
        }
        prop_assert_eq!(decode_leaf(&encode_leaf(&leaf)), Ok(leaf));
    }
}

#[test]
fn the_oldest_variants_are_left_out_where_they_do_not_all_fit() {
    let head = |n: usize| {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::try_from("x".repeat(60_000)).unwrap();
        headers.insert("x-large", value);
        headers.insert("x-number", HeaderValue::from(n));
        Arc::new(StoredHead::new(StatusCode::OK, headers))
    };
    let freshness = Freshness {
        lifetime_ms: 1,
        initial_age_ms: 0,
        response_time: Timestamp(0),
        while_revalidate_ms: 0,
        if_error_ms: None,
        stale_allowed: true,
        immutable: false,
    };
    let object = |n| {
        let selector = Selector::default();
        Arc::new(Object::new(
            head(n),
            manifest(1),
            freshness,
            selector,
            Source::Origin,
            None,
        ))
    };
    let objects: Vec<_> = (0..6).map(object).collect();
    let (bytes, left_out) = encode(STAMP, &objects);
    assert_eq!(left_out, 2);
    let bytes = bytes.unwrap();
    let sealed = Seal::new(&[0; 32]).close(&NAME, bytes.clone());
    assert!(sealed.is_some_and(|sealed| sealed.len() <= BODY_BYTES_MAX));
    let kept = decode(&bytes).unwrap().1.into_iter();
    let kept: Vec<_> = kept
        .map(|sketch| sketch.common.head.headers["x-number"].clone())
        .collect();
    assert_eq!(kept, ["0", "1", "2", "3"]);
}

#[test]
fn another_version_is_named() {
    let mut bytes = encode(STAMP, &[])
        .0
        .unwrap_or_else(|| begin(RESPONSES, STAMP).0);
    bytes[0] = VERSION - 1;
    let older = RecordError::Version(VERSION - 1);
    assert_eq!(decode(&bytes).map(|_| ()), Err(older));
    bytes[..2].copy_from_slice(&[VERSION, BLOCKS]);
    let want = RecordError::Kind {
        got: BLOCKS,
        want: RESPONSES,
    };
    assert_eq!(decode(&bytes).map(|_| ()), Err(want));
}
