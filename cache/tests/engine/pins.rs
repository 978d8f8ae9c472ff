//! A large new object in a memory tier that is full of better ones: whole when it is complete.

use std::sync::Arc;

use bytes::Bytes;
use stoq_cache::{
    content::ChunkId,
    http::policy::SitePolicy,
    store::{QuickTier, RamTier, S3FifoTier, Store},
};

use crate::script::{House, Script, fed, house_over, noise, response, until};

const FIELDS: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];
const TIER: usize = 32 << 20;
/// A fifth of the tier: more than a policy that resists scans gives what is new.
const OBJECT: usize = TIER / 5;

/// A tier full of chunks that were used often.
fn full(tier: impl RamTier + 'static) -> Arc<dyn RamTier> {
    let id = |n: u32| ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let chunks = u32::try_from(TIER / (16 << 10)).unwrap();
    for _ in 0..3 {
        for n in 0..chunks {
            if tier.get(&id(n)).is_none() {
                tier.insert(id(n), Bytes::from(vec![0; 16 << 10]));
            }
        }
    }
    Arc::new(tier)
}

fn house(tier: &Arc<dyn RamTier>) -> House {
    let store = Store::new(Arc::clone(tier));
    house_over(store, TIER, 64 << 20, SitePolicy::default())
}

/// Asks for a large object twice, the second time for a while after the first; says how many holes the second met.
async fn holes(tier: &Arc<dyn RamTier>) -> u64 {
    let house = house(tier);
    let content = noise(7, OBJECT);
    let upstream = Script::fixed(FIELDS, content.clone());
    assert_eq!(house.fetch("/", &upstream).await, (200, content.clone()));
    assert!(tier.bytes_used() <= tier.capacity());
    assert_eq!(house.fetch("/", &upstream).await, (200, content));
    house.assert_bytes_add_up();
    house.cache.metrics().holes_refilled.get()
}

#[tokio::test]
async fn a_large_object_is_whole_when_it_is_complete() {
    let tier = full(S3FifoTier::new(TIER as u64));
    assert_eq!(holes(&tier).await, 0);
    until("its pins are gone", || tier.bytes_pinned() == 0).await;
    // Without pins it is not: what this asks would be true of any tier otherwise.
    assert!(holes(&full(QuickTier::new(TIER as u64))).await > 0);
}

#[tokio::test]
async fn pins_last_as_long_as_the_body_and_no_longer() {
    let tier = full(S3FifoTier::new(TIER as u64));
    let house = house(&tier);
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let upstream = Script::new(move |_, _| {
        let body = once.lock().take().expect("one fetch");
        std::future::ready(Ok(response(200, FIELDS, body)))
    });
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    let mut stream = crate::script::stream_of(reply);
    for piece in 0..8 {
        feed.send(Ok(noise(piece, 100_000))).await.unwrap();
        while let Some(bytes) = futures_util::StreamExt::next(&mut stream).await {
            if bytes.unwrap().len() == 100_000 {
                break;
            }
        }
    }
    until("chunks are pinned", || tier.bytes_pinned() > 500_000).await;
    feed.send(Err(stoq_cache::upstream::BodyError::Upstream(
        "reset".to_owned(),
    )))
    .await
    .unwrap();
    until("a broken body gives its pins back", || {
        tier.bytes_pinned() == 0
    })
    .await;
}

#[tokio::test]
async fn pins_take_a_quarter_of_the_tier_at_most_and_the_rest_is_counted() {
    let tier = S3FifoTier::new(TIER as u64);
    let store = Store::new(Arc::new(tier));
    let mut pins = store.pins();
    for n in 0..1_500_u32 {
        let id = ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
        pins.put(id, Bytes::from(vec![0; 16 << 10]));
    }
    let pinned = store.ram().bytes_pinned();
    assert!(
        pinned <= TIER as u64 / 4 && pinned > TIER as u64 / 5,
        "{pinned}"
    );
    assert!(store.metrics().unpinned_chunks.get() > 900);
    assert_eq!(store.metrics().stored_chunks.get(), 1_500);
    drop(pins);
    assert_eq!(store.ram().bytes_pinned(), 0);
}
