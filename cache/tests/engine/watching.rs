//! What somebody who watches is told of what is stored.

use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use stoq_cache::{
    engine::{HITS_TOLD, Seen, Watcher},
    key::CacheKey,
    upstream::FetchBody,
};

use crate::{
    invalidation::change,
    script::{House, Script, house, noise, pieces, response, settle},
};

/// What was told, a word each.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(&'static str, Option<Seen>)>>);

impl Watcher for Told {
    fn stored(&self, seen: &Seen) {
        self.0.lock().push(("stored", Some(*seen)));
    }

    fn hit(&self, seen: &Seen) {
        self.0.lock().push(("hit", Some(*seen)));
    }

    fn gone(&self, _: &CacheKey) {
        self.0.lock().push(("gone", None));
    }
}

impl Told {
    fn watching(house: &House) -> Arc<Self> {
        let told = Arc::<Self>::default();
        house.cache.watched_by(Arc::clone(&told) as _);
        told
    }

    fn take(&self) -> Vec<(&'static str, Option<Seen>)> {
        std::mem::take(&mut *self.0.lock())
    }

    fn words(&self) -> Vec<&'static str> {
        self.take().into_iter().map(|(word, _)| word).collect()
    }
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];

#[tokio::test]
async fn what_is_stored_is_told_with_its_manifest_and_hits_as_long_as_they_are_counted() {
    let house = house();
    let told = Told::watching(&house);
    let script = Script::fixed(FRESH, noise(1, 5_000));
    house.fetch("/a", &script).await;
    settle().await;
    let request = house.get("/a", &[]);
    let mut root = None;
    house.cache.stored(|key, variants| {
        assert_eq!(*key, request.key);
        root = variants.first().map(|object| object.manifest.root());
    });
    let seen = |hits| {
        let seen = Seen {
            key: request.key,
            root: root.unwrap(),
            bytes: 5_000,
            hits,
        };
        Some(seen)
    };
    assert_eq!(told.take(), [("stored", seen(0))]);
    assert!(house.cache.keeps(&request.key));

    for _ in 0..2 * HITS_TOLD {
        house.fetch("/a", &script).await;
    }
    let hits: Vec<_> = (1..=HITS_TOLD).map(|hits| ("hit", seen(hits))).collect();
    assert_eq!(told.take(), hits);
}

#[tokio::test]
async fn what_holds_still_is_told_again_with_its_hits_and_another_version_without() {
    let house = house();
    let told = Told::watching(&house);
    let script = Script::new(move |request, _| {
        let holds = request.headers.get(http::header::IF_NONE_MATCH);
        let holds = holds.is_some_and(|tag| tag == "\"v1\"");
        let answer = match holds {
            true => response(304, FRESH, FetchBody::Empty),
            false => response(200, FRESH, pieces(&noise(1, 100), 100)),
        };
        std::future::ready(Ok(answer))
    });
    house.fetch("/a", &script).await;
    house.fetch("/a", &script).await;
    house.pass_seconds(61);
    house.fetch("/a", &script).await;
    settle().await;
    let told: Vec<_> = told
        .take()
        .into_iter()
        .map(|(word, seen)| (word, seen.map(|seen| seen.hits)))
        .collect();
    assert_eq!(
        told,
        [("stored", Some(0)), ("hit", Some(1)), ("stored", Some(1))]
    );
}

#[tokio::test]
async fn what_is_invalidated_is_told_to_be_gone_and_nothing_else_is() {
    let house = house();
    let told = Told::watching(&house);
    let script = Script::fixed(FRESH, noise(1, 100));
    house.fetch("/a", &script).await;
    house.fetch("/b", &script).await;
    settle().await;
    told.take();
    let status = StatusCode::NO_CONTENT.as_u16();
    change(&house, "DELETE", "/a", status, &[]).await;
    assert_eq!(told.words(), ["gone"]);
    // It stays stored, to be validated.
    assert!(house.cache.keeps(&house.get("/a", &[]).key));
}
